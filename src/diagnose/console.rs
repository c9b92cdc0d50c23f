//! BitBake's console, as its own user interfaces and smidr's print it, in a CI's log too: which tasks failed, and which task a line belongs to.

use std::{collections::HashMap, io, sync::LazyLock};

use regex::Regex;

use super::{
    Log,
    line::{Line, pattern},
    names,
    rules::At,
    scan::{self, Owner, Recent, Scan, Stands},
};
use crate::model::{Level, Quote, TaskName, recipe_parts};

static FAILED: LazyLock<Regex> = pattern!(r"^Task (?:\d+ )?\((.+?)(?::|, )(do_\w+)\) failed with exit code");
static OURS: LazyLock<Regex> = pattern!(r"^Failed: (?:mc:([^:]+):)?([^:\s]+):(do_\w+)(?:, see (.+))?$");
static LOG: LazyLock<Regex> = pattern!(r"^Logfile of failure stored in: (\S+)");
static URL: LazyLock<Regex> =
    pattern!(r"(?:Failed to fetch URL |Fetcher failure for URL: '|Unpack failure for URL: ')([^'\s,]+)");
static NAMED: LazyLock<Regex> = pattern!(r"(?:^|\s)((?:mc:[^:\s]+:)?(?:virtual:\w+:)*/\S+?\.bb(?:append)?)(?:[:\s]|$)");
static VERSION: LazyLock<Regex> = pattern!(r#"^BB_VERSION\s+= "([0-9.]+)"#);
static EXECUTES: LazyLock<Regex> = pattern!(r"Executing (?:shell|python) function (do_\w+)");

/// How many tasks are looked at.
const MOST: usize = 2000;

/// A task that failed.
#[derive(Debug, Default)]
pub(super) struct Failed {
    pub(super) recipe: String,
    pub(super) task: String,
    pub(super) multiconfig: Option<String>,
    /// The file of the recipe.
    pub(super) file: Option<String>,
    log: Option<String>,
    /// Its message on the console, if no rule knows it.
    pub(super) said: Option<Quote>,
    /// The last lines of its log, if no rule knows any.
    pub(super) last: Vec<Quote>,
}

impl Failed {
    pub(super) fn of(owner: &Owner) -> Self {
        let (multiconfig, package) = recipe_parts(&owner.package);
        Self {
            recipe: names::of_package(package),
            multiconfig: multiconfig.map(str::to_owned),
            task: owner.task.clone(),
            ..Self::default()
        }
    }

    /// Whether a message is its own: BitBake writes `PN-PV-PR` before it, or a log is of it.
    pub(super) fn is(&self, owner: &Owner) -> bool {
        let (multiconfig, package) = recipe_parts(&owner.package);
        let rest = package
            .strip_prefix(&self.recipe)
            .filter(|_| multiconfig.is_none() || multiconfig == self.multiconfig.as_deref());
        let version =
            |rest: &str| rest.strip_prefix('-').is_some_and(|rest| names::of_package(&format!("x-{rest}")) == "x");
        owner.task == self.task && rest.is_some_and(|rest| rest.is_empty() || version(rest))
    }
}

/// What the console has said so far.
#[derive(Debug, Default)]
pub(super) struct Console {
    scan: Scan,
    failed: Vec<Failed>,
    // Errors of tasks, should no line say that they failed.
    erred: Vec<Owner>,
    said: Vec<(Owner, Quote)>,
    // The first error that is no task's.
    error: Option<Quote>,
    // Which log is whose.
    logs: Vec<(Owner, String)>,
    // The task of the message that goes on, and of the log that is printed behind it.
    owner: Option<Owner>,
    of_log: Option<Owner>,
    // The file of a recipe that was named last, and in which line.
    named: Option<(u64, String)>,
    urls: HashMap<Option<Owner>, String>,
    recent: Recent,
    lines: u64,
    /// The series, if BitBake has said its version.
    pub(super) series: Option<String>,
}

impl Console {
    /// Reads all of it.
    pub(super) fn read(&mut self, log: Log<'_>) -> io::Result<()> {
        let file = log.name.as_deref();
        scan::read(log.text, true, |number, raw, _| self.line(number, raw, file))?;
        Ok(())
    }

    /// Takes its next line.
    pub(super) fn next(&mut self, raw: &[u8]) {
        self.lines += 1;
        self.line(self.lines, raw, None);
    }

    fn line(&mut self, number: u64, raw: &[u8], file: Option<&str>) -> usize {
        let line = Line::new(raw);
        if !line.goes_on() {
            self.owner = line.owner.clone().map(|(package, task)| Owner { package, task });
            self.head(&line, number, file);
        }
        if let Some(found) = VERSION.captures(&line.text) {
            self.series = names::series_of_bitbake(&found[1]).map(str::to_owned);
        }
        if let Some(found) = URL.captures(&line.text).filter(|_| self.urls.len() < MOST) {
            self.urls.insert(self.owner.clone(), found[1].trim_end_matches(['.', '\'']).to_owned());
        }
        let can_name = self.owner.is_none() && line.level.is_none_or(|level| level >= Level::Error);
        if let Some(found) = NAMED.captures(&line.text).filter(|_| can_name) {
            self.named = Some((number, found[1].to_owned()));
        }
        let stands = Stands {
            at: if line.is_log { At::Task } else { At::Console },
            file,
            number,
            owner: if line.is_log { self.of_log.as_ref() } else { self.owner.as_ref() },
            url: self.urls.get(&self.owner),
            named: self.named.as_ref().filter(|(at, _)| at + 16 > number).map(|(_, path)| path),
        };
        let wanted = self.scan.look(&line, stands, self.recent.lines());
        self.recent.push(number, line);
        wanted
    }

    /// A line that begins a message.
    fn head(&mut self, line: &Line, number: u64, file: Option<&str>) {
        if line.level.is_none_or(|level| level < Level::Error) {
            return;
        }
        let body = line.body();
        if let Some(found) = FAILED.captures(body) {
            let path = found[1].to_owned();
            let Some((recipe, multiconfig)) = names::of_file(&path) else { return };
            return self.fail(Failed {
                recipe,
                task: found[2].to_owned(),
                multiconfig,
                file: Some(path),
                ..Failed::default()
            });
        }
        if let Some(found) = OURS.captures(body) {
            let word = |at: usize| found.get(at).map(|word| word.as_str().to_owned());
            let (multiconfig, log) = (word(1), word(4));
            return self.fail(Failed {
                recipe: found[2].to_owned(),
                task: found[3].to_owned(),
                multiconfig,
                log,
                ..Failed::default()
            });
        }
        if let Some(found) = LOG.captures(body) {
            let path = &found[1];
            self.of_log = names::of_log(path).and_then(|(recipe, task)| {
                let package = recipe.or_else(|| self.owner.as_ref().map(|owner| owner.package.clone()))?;
                Some(Owner { package, task })
            });
            if let Some(owner) = self.of_log.as_ref().filter(|_| self.logs.len() < MOST) {
                self.logs.push((owner.clone(), path.to_owned()));
            }
            return;
        }
        let quote = || Quote { text: line.text.clone(), file: file.map(str::to_owned), line: number };
        let Some(owner) = &self.owner else {
            self.error.get_or_insert_with(quote);
            return;
        };
        if self.erred.len() < MOST && self.said.len() < 10 * MOST {
            if !self.erred.contains(owner) {
                self.erred.push(owner.clone());
            }
            self.said.push((owner.clone(), quote()));
        }
    }

    fn fail(&mut self, one: Failed) {
        let is_same = |known: &Failed| {
            known.recipe == one.recipe && known.task == one.task && known.multiconfig == one.multiconfig
        };
        let place = self.failed.iter().position(is_same);
        if let Some(known) = place.and_then(|place| self.failed.get_mut(place)) {
            known.file = known.file.take().or(one.file);
            known.log = known.log.take().or(one.log);
        } else if self.failed.len() < MOST {
            self.failed.push(one);
        }
    }

    /// The messages that rules know, and the tasks that failed. Where no line says so, those that had errors did.
    pub(super) fn done(mut self) -> (Scan, Vec<Failed>, Option<Quote>) {
        self.scan.end();
        if self.failed.is_empty() {
            for owner in &self.erred {
                let one = Failed::of(owner);
                if !self.failed.iter().any(|known| known.is(owner)) {
                    self.failed.push(one);
                }
            }
        }
        for (owner, quote) in self.said {
            if let Some(task) = self.failed.iter_mut().find(|task| task.is(&owner) && task.said.is_none()) {
                task.said = Some(quote);
            }
        }
        for (owner, log) in self.logs {
            if let Some(task) = self.failed.iter_mut().find(|task| task.is(&owner) && task.log.is_none()) {
                task.log = Some(log);
            }
        }
        (self.scan, self.failed, self.error)
    }
}

/// The task of a log: as the caller says, as its path says, or the only one that failed.
pub(super) fn owner_of_log(task: Option<&TaskName>, name: Option<&str>, failed: &[Failed]) -> Option<Owner> {
    if let Some(task) = task {
        return Some(Owner { package: task.recipe.clone(), task: task.task.clone() });
    }
    let as_owner = |failed: &Failed| Owner { package: failed.recipe.clone(), task: failed.task.clone() };
    if let [one] = failed {
        return Some(as_owner(one));
    }
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let is_named = |failed: &&Failed| failed.log.as_deref().map(last) == name.map(last);
    let mut named = failed.iter().filter(is_named);
    if let (Some(one), None) = (named.next(), named.next()) {
        return Some(as_owner(one));
    }
    let (recipe, task) = names::of_log(name?)?;
    let mut fitting = failed
        .iter()
        .filter(|failed| failed.task == task && recipe.as_ref().is_none_or(|recipe| *recipe == failed.recipe));
    match (fitting.next(), fitting.next(), recipe) {
        (Some(one), None, _) => Some(as_owner(one)),
        (_, _, Some(package)) => Some(Owner { package, task }),
        _ => None,
    }
}

/// The task of a log by its first lines, if they say which of the failed ones.
pub(super) fn owner_of_head(head: &[u8], failed: &[Failed]) -> Option<Owner> {
    let text = String::from_utf8_lossy(head);
    let task = EXECUTES.captures_iter(&text).map(|found| found[1].to_owned()).next();
    let fitting = match &task {
        // Its folder is named by what it runs; else it is that of one which had none yet.
        Some(task) => {
            let of_task = || failed.iter().filter(|failed| failed.task == *task);
            let in_folder = |failed: &&Failed| text.contains(&format!("/{}/", failed.recipe));
            of_task().find(in_folder).or_else(|| of_task().find(|failed| failed.last.is_empty()))
        }
        None => failed.first(),
    };
    match (fitting, task) {
        (Some(one), _) => Some(Owner { package: one.recipe.clone(), task: one.task.clone() }),
        (None, Some(task)) => Some(Owner { package: String::new(), task }),
        (None, None) => None,
    }
}
