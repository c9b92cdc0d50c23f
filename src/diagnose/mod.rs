//! Why a build failed: what BitBake's console and the logs of failed tasks say goes in, diagnoses come out. What a message means is data
//! (`rules/`): here is which of them counts.
//!
//! One pass over each log finds the lines that a rule may match. Of a task that failed, the message of the highest rule counts, and of equal
//! ones the first; lines that only repeat that something failed are no rule's. Opens no files.

mod console;
mod line;
mod names;
mod rules;
mod scan;
mod search;
pub(crate) mod warnings;

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Read},
};

use console::{Console, Failed};
pub(crate) use line::{Line, pattern};
pub(crate) use names::{
    of_file as recipe_of_file, of_log as task_log, of_package as package_recipe, series, series_of_bitbake,
};
use rules::{At, Circumstances, Sure};
use scan::{Finding, Owner, Scan, Stands};

use crate::model::{Certainty, Diagnosis, Hint, Level, Quote, SourcePlace, TaskName};

/// How many diagnoses are given.
const MOST: usize = 500;
/// How much of them an outcome holds, in bytes of JSON; and of one: lines, other tasks.
const STORED: usize = 256 * 1024;
const EVIDENCE: usize = 30;
const ALSO: usize = 100;
/// From which rank on a message that is no task's says more than that tasks failed.
const GRAVE: u8 = 74;
/// The kind of a failure that no rule knows.
pub(crate) const UNKNOWN: &str = "unknown";

/// A log.
pub(crate) struct Log<'a> {
    /// Its name, as the caller has it.
    pub(crate) name: Option<String>,
    /// What it says.
    pub(crate) text: Box<dyn Read + 'a>,
    /// The task that it is of, if that is known.
    pub(crate) task: Option<TaskName>,
}

/// What is known of the build beside its logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The Yocto series, by name or number; else it is what the console says of BitBake.
    pub(crate) series: Option<String>,
}

/// BitBake's console as it is printed.
#[derive(Debug, Default)]
pub(crate) struct Heard(Console);

impl Heard {
    /// Takes a line.
    pub(crate) fn line(&mut self, line: &str) {
        self.0.next(line.as_bytes());
    }

    /// Takes BitBake's version.
    pub(crate) fn version(&mut self, bitbake: &str) {
        self.0.series = series_of_bitbake(bitbake).map(str::to_owned);
    }

    /// Reads the logs of failed tasks.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub(crate) fn diagnose(self, logs: Vec<Log<'_>>, facts: &Facts) -> io::Result<Vec<Diagnosis>> {
        let series = facts.series.as_deref().and_then(series).or_else(|| self.0.series.as_deref().and_then(series));
        let (mut scan, mut failed, error) = self.0.done();
        for log in logs {
            let name = log.name.clone();
            let in_log = |error: io::Error| match &name {
                Some(name) => io::Error::new(error.kind(), format!("{name}: {error}")),
                None => error,
            };
            let (owner, last) = read_task(log, &mut scan, &mut failed).map_err(in_log)?;
            // What was found may not count in the end.
            if let Some(task) = owner.as_ref().and_then(|owner| failed.iter_mut().find(|failed| failed.is(owner))) {
                task.last = last_lines(&last, name.as_deref());
            }
        }
        let all = judge(scan.findings, failed, series);
        Ok(if all.is_empty() { error.map(unexplained).into_iter().collect() } else { all })
    }
}

/// Reads the console and the logs of failed tasks.
///
/// # Errors
///
/// Those of reading.
pub(crate) fn diagnose(console: Option<Log<'_>>, logs: Vec<Log<'_>>, facts: &Facts) -> io::Result<Vec<Diagnosis>> {
    let mut heard = Heard::default();
    if let Some(console) = console {
        heard.0.read(console)?;
    }
    heard.diagnose(logs, facts)
}

/// Cuts diagnoses to what an outcome may hold, the first ones first.
pub(crate) fn bounded(all: Vec<Diagnosis>) -> Vec<Diagnosis> {
    let mut room = STORED;
    let fits = |one: &Diagnosis| {
        let length = serde_json::to_string(one).map_or(usize::MAX, |text| text.len());
        room = room.saturating_sub(length);
        room > 0
    };
    all.into_iter().map(short).take_while(fits).collect()
}

fn short(mut one: Diagnosis) -> Diagnosis {
    one.evidence.truncate(EVIDENCE);
    one.also.truncate(ALSO);
    for quote in one.evidence.iter_mut().chain(one.first_error.as_mut()) {
        quote.text.truncate(scan::beginning(&quote.text).len());
    }
    one
}

/// Reads the log of a task. Gives its task and its last lines.
fn read_task(log: Log<'_>, scan: &mut Scan, failed: &mut Vec<Failed>) -> io::Result<(Option<Owner>, Vec<Vec<u8>>)> {
    let name = log.name;
    let mut owner = console::owner_of_log(log.task.as_ref(), name.as_deref(), failed);
    let mut text = log.text;
    if owner.is_none() {
        let mut head = Vec::new();
        text.by_ref().take(4096).read_to_end(&mut head)?;
        owner = console::owner_of_head(&head, failed);
        text = Box::new(io::Cursor::new(head).chain(text));
    }
    if let Some(owner) = &owner
        && !failed.iter().any(|failed| failed.is(owner))
    {
        failed.push(Failed::of(owner));
    }
    let last = scan::read(text, false, |number, raw, before| {
        let line = Line::new(raw);
        let stands =
            Stands { at: At::Task, file: name.as_deref(), number, owner: owner.as_ref(), url: None, named: None };
        scan.look(&line, stands, &scan::before(before, number))
    })?;
    scan.end();
    Ok((owner, last))
}

/// The last lines of a log, for a failure of which no line says why.
fn last_lines(raw: &[Vec<u8>], name: Option<&str>) -> Vec<Quote> {
    let says = |line: &Line| !line.text.trim().is_empty() && line.level.is_none_or(|level| level >= Level::Error);
    let lines = raw.iter().rev().map(|raw| Line::new(raw)).filter(says);
    let mut lines: Vec<Quote> =
        lines.take(30).map(|line| Quote { text: line.text, file: name.map(str::to_owned), line: 0 }).collect();
    lines.reverse();
    lines
}

/// Which findings count.
fn judge(findings: Vec<Finding>, failed: Vec<Failed>, series: Option<usize>) -> Vec<Diagnosis> {
    let only = (failed.len() == 1).then(|| failed.first()).flatten();
    let mut of_task: BTreeMap<usize, Vec<(Finding, Circumstances)>> = BTreeMap::new();
    let mut others = Vec::new();
    for finding in findings {
        let place = finding.owner.as_ref().and_then(|owner| failed.iter().position(|failed| failed.is(owner)));
        // A message without a task, that can be one's only, is that of the one that failed.
        let place = place.or_else(|| {
            let fits = finding.owner.is_none() && finding.rule.at != Some(At::Console) && only.is_some();
            fits.then_some(0)
        });
        let task = place.and_then(|place| failed.get(place));
        let circumstances = Circumstances {
            recipe: task
                .map(|task| task.recipe.clone())
                .or_else(|| finding.owner.as_ref().map(|owner| names::of_package(&owner.package)))
                .filter(|recipe| !recipe.is_empty()),
            task: task.map(|task| task.task.clone()).or_else(|| finding.owner.as_ref().map(|owner| owner.task.clone())),
            series,
            is_kas: finding.is_kas,
        };
        if !finding.rule.when.holds(&circumstances) {
            continue;
        }
        match place {
            Some(place) => of_task.entry(place).or_default().push((finding, circumstances)),
            None => others.push((finding, circumstances)),
        }
    }
    let mut all = Vec::new();
    for (place, task) in failed.iter().enumerate() {
        let found = of_task.remove(&place).unwrap_or_default();
        match best(found) {
            Some((finding, circumstances)) => all.push((finding.rule.rank, made(finding, &circumstances, Some(task)))),
            None => all.push((0, unknown(task))),
        }
    }
    let is_explained = all.iter().any(|(rank, _)| *rank > 2);
    if !all.is_empty() && !is_explained {
        // What is said without a task, of a server that is slow for instance, is no reason of a task.
        others.retain(|(finding, _)| finding.owner.is_some() || finding.rule.rank >= GRAVE);
    }
    let least = if is_explained { GRAVE } else { 0 };
    all.extend(without_task(others, least, all.is_empty()));
    if all.iter().any(|(rank, _)| *rank >= GRAVE) {
        // What stopped the build as a whole explains tasks of which nothing is known.
        all.retain(|(rank, one)| *rank > 2 || one.kind != UNKNOWN || one.first_error.is_some());
    }
    all.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank > 2));
    merged(all.into_iter().map(|(_, one)| one))
}

/// Of one task: the highest rule, and of equal ones the first message; of logs before the console, which repeats them.
fn best(found: Vec<(Finding, Circumstances)>) -> Option<(Finding, Circumstances)> {
    found.into_iter().min_by_key(|(finding, _)| {
        (std::cmp::Reverse(finding.rule.rank), finding.at == At::Console, finding.quote.line)
    })
}

/// What is no failed task's: each message of a kind that is not explained by a higher one of the same recipe.
fn without_task(found: Vec<(Finding, Circumstances)>, least: u8, alone: bool) -> Vec<(u8, Diagnosis)> {
    let highest = found.iter().map(|(finding, _)| finding.rule.rank).max().unwrap_or_default();
    // Lines that say less than the best one are what came of it.
    let least = if alone { least.max(highest.min(60)) } else { least };
    let mut told = HashSet::new();
    let mut all = Vec::new();
    for (finding, circumstances) in found {
        let rank = finding.rule.rank;
        let one = made(finding, &circumstances, None);
        let line = one.first_error.as_ref().map(|quote| (quote.file.clone(), quote.line));
        if rank >= least {
            all.push((rank, line, one));
        }
    }
    all.sort_by_key(|(rank, line, _)| (std::cmp::Reverse(*rank), line.clone()));
    // One line has one meaning, also where it shows another one, and one recipe one reason.
    all.retain(|(_, line, one)| {
        let is_new =
            told.insert((line.clone(), None)) && told.insert((None, Some((one.recipe.clone(), one.cause.clone()))));
        told.extend(one.evidence.iter().map(|quote| (Some((quote.file.clone(), quote.line)), None)));
        is_new
    });
    all.into_iter().map(|(rank, _, one)| (rank, one)).collect()
}

fn made(finding: Finding, at: &Circumstances, task: Option<&Failed>) -> Diagnosis {
    let mut words = finding.words;
    let file = words.get("recipe_file").cloned().or_else(|| task.and_then(|task| task.file.clone()));
    let of_file = |path: &str| names::of_file(path).or_else(|| names::of_file(path.rsplit_once(':')?.0));
    let named = file.as_deref().and_then(of_file).or_else(|| {
        finding
            .named
            .as_deref()
            .filter(|_| at.recipe.is_none() && finding.rule.at == Some(At::Console))
            .and_then(of_file)
    });
    let recipe = at
        .recipe
        .clone()
        .or_else(|| named.as_ref().map(|(recipe, _)| recipe.clone()))
        .or_else(|| words.get("pn").cloned());
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.entry(name.to_owned()).or_insert(value);
        }
    };
    set("recipe", recipe.clone());
    set("task", at.task.clone());
    let bb = file.as_deref().or(finding.named.as_deref()).and_then(|path| path.rsplit('/').next()).map(str::to_owned);
    set(
        "bb",
        bb.or_else(|| recipe.as_ref().map(|recipe| format!("the recipe {recipe}"))).or(Some("the recipe".into())),
    );
    let is_old = at.series.is_some_and(|series| Some(series) < self::series("honister"));
    set("o", Some(if is_old { "_" } else { ":" }.into()));
    set("layer_folder", file.as_deref().and_then(layer_folder));
    let url = finding.url;
    set("url", url.clone());
    if let Some(url) = words.get("url").cloned() {
        let plain = plain_url(&url);
        let host = plain
            .split_once("://")
            .map_or(plain.as_str(), |(_, rest)| rest)
            .split(['/', ':'])
            .next()
            .unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or(host).to_owned();
        words.entry("host".into()).or_insert(host);
        words.insert("plain_url".into(), plain);
    }
    let number = |name: &str| words.get(name).and_then(|text| text.parse().ok());
    let source = ["file", "file2", "file3"].iter().find_map(|name| words.get(*name));
    let source = source.or_else(|| words.get("recipe_file").filter(|_| words.contains_key("row")));
    let source = source.map(|file| SourcePlace { file: file.clone(), line: number("row").or_else(|| number("row2")) });
    let multiconfig = task.and_then(|task| task.multiconfig.clone()).or(named.and_then(|(_, multiconfig)| multiconfig));
    Diagnosis {
        kind: finding.rule.kind.clone(),
        recipe,
        task: at.task.clone(),
        multiconfig,
        first_error: Some(finding.quote),
        source,
        subject: finding.rule.subject(&words),
        evidence: finding.evidence,
        cause: finding.rule.cause(&words),
        next: finding.rule.next(&words),
        sure: match finding.rule.sure {
            _ if finding.rule.kind == UNKNOWN => Certainty::Unknown,
            Sure::Certain => Certainty::Certain,
            Sure::Likely => Certainty::Likely,
        },
        could_be: finding.rule.could_be(&words),
        also: Vec::new(),
        facts: Vec::new(),
        recovery: finding.rule.recover,
    }
}

/// An error of BitBake's own that no rule knows.
fn unexplained(first: Quote) -> Diagnosis {
    let message = Line::new(first.text.as_bytes()).body().trim().to_owned();
    let cause = format!("No rule of smidr knows this failure. The first line that says an error: {message}");
    Diagnosis {
        evidence: vec![first.clone()],
        first_error: Some(first),
        sure: Certainty::Unknown,
        ..Diagnosis::new(UNKNOWN, cause)
    }
}

/// A task that failed without a line that says why.
fn unknown(task: &Failed) -> Diagnosis {
    let recipe = Some(task.recipe.clone()).filter(|recipe| !recipe.is_empty());
    let next = recipe.as_ref().map(|recipe| format!("smidr logs --task {recipe}:{}", task.task));
    let said = task.said.as_ref().map(|said| Line::new(said.text.as_bytes()).body().trim().to_owned());
    let cause = said.filter(|said| !said.is_empty() && !said.starts_with("ExecutionError("));
    let cause = cause.unwrap_or_else(|| "No line says why the task failed.".into());
    Diagnosis {
        recipe,
        task: Some(task.task.clone()),
        multiconfig: task.multiconfig.clone(),
        first_error: task.said.clone().or_else(|| task.last.last().cloned()),
        evidence: task.last.clone(),
        next: next.map(|next| Hint::command("the whole log of the task", next)).into_iter().collect(),
        sure: Certainty::Unknown,
        ..Diagnosis::new(UNKNOWN, cause)
    }
}

/// Equal failures of several tasks are one.
fn merged(all: impl Iterator<Item = Diagnosis>) -> Vec<Diagnosis> {
    let mut known: Vec<Diagnosis> = Vec::new();
    let mut places: BTreeMap<(String, String, Option<String>), usize> = BTreeMap::new();
    for one in all {
        let line = one.first_error.as_ref().map(|quote| Line::new(quote.text.as_bytes()));
        let message = line.map_or_else(String::new, |line| line.body().trim().to_owned());
        let before = one.multiconfig.as_ref().map_or(String::new(), |name| format!("mc:{name}:"));
        let name = one.recipe.as_ref().zip(one.task.clone());
        let name = name.map(|(recipe, task)| TaskName { recipe: format!("{before}{recipe}"), task });
        // What has a remedy for all of them is one failure.
        let subject = one.subject.clone().filter(|_| one.recovery.is_none());
        let key = (one.kind.clone(), message, subject);
        let place = places.get(&key).copied().filter(|_| !key.1.is_empty());
        match (place.and_then(|place| known.get_mut(place)), name) {
            (Some(same), Some(name)) => same.also.push(name),
            (Some(_), None) => {}
            (None, _) if places.len() >= MOST => break,
            (None, _) => {
                places.insert(key, known.len());
                known.push(one);
            }
        }
    }
    known
}

/// The layer that a recipe's file is in: what stands before `recipes-…`.
fn layer_folder(path: &str) -> Option<String> {
    let path = path.rsplit(':').next()?;
    path.find("/recipes-").and_then(|at| path.get(..at)).map(str::to_owned)
}

/// An address of SRC_URI as git takes it: `git://host/a.git;protocol=https;branch=x` is `https://host/a.git`.
fn plain_url(url: &str) -> String {
    let mut parts = url.split(';');
    let address = parts.next().unwrap_or_default();
    let protocol = parts.find_map(|part| part.strip_prefix("protocol="));
    match (address.split_once("://"), protocol) {
        (Some(("git" | "gitsm", rest)), Some(protocol)) => format!("{protocol}://{rest}"),
        (Some(("gitsm", rest)), None) => format!("git://{rest}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests;
