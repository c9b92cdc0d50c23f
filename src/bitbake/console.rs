//! BitBake's own console, for a BitBake that smidr's user interface does not fit. The lines that knotty prints without a terminal go in, the
//! events that the user interface would have sent come out. Pure. It knows less: not which tasks need not run, nor the process of one.

use std::{collections::VecDeque, mem, path::PathBuf, sync::LazyLock};

use regex::{Captures, Regex};

use crate::{
    diagnose::{Line, package_recipe, pattern, recipe_of_file, task_log},
    model::{Event, Level, TaskName},
};

/// How much of a message of several lines is kept, in bytes.
const TEXT: usize = 32 * 1024;
/// How many tasks run at once, and how many logs may wait for the line that names their task.
const MOST: usize = 10_000;

static STARTS: LazyLock<Regex> = pattern!(r"^Running (?:(noexec|setscene) )?task (\d+) of (\d+) \((.+):(do_\w+)\)$");
static STEP: LazyLock<Regex> = pattern!(r"^recipe (\S+): task (do_\w+): (Started|Succeeded|Failed)$");
static FAILED: LazyLock<Regex> = pattern!(r"^(?:Task|Setscene task) \((.+):(do_\w+)\) failed with exit code '");
static LOG: LazyLock<Regex> = pattern!(r"^(?:Logfile of failure stored in:|Logfile for failed setscene task is) (.+)$");
static NOTHING: LazyLock<Regex> = pattern!(
    r"^Nothing R?PROVIDES '([^']+)'(?: \(but (.+) R?DEPENDS on or otherwise requires it\))?(\. Close matches:)?$"
);
static PARSED: LazyLock<Regex> =
    pattern!(r"Parsing of (\d+) \.bb files complete \((\d+) cached, \d+ parsed\)\..* (\d+) errors\.$");
/// What repeats at the end, and what nothing is worth.
static SUMMARY: LazyLock<Regex> = pattern!(r"^Summary: (?:There w|\d+ tasks? failed:)|^  \S+:do_\w+$|^    log: /");
static ASIDE: LazyLock<Regex> =
    pattern!(r"^(?:[A-Z][A-Za-z ]*\.\.\.done\.|Loaded \d+ entries from dependency cache\.|)$");

/// What has been read so far.
#[derive(Default)]
pub(crate) struct Console {
    running: Vec<Running>,
    // Of failed tasks that no line has named yet.
    logs: VecDeque<String>,
    // What the next line may go on with.
    open: Option<Open>,
    planned: (u64, u64),
    count: u32,
}

struct Running {
    // As BitBake names it: the recipe's file and the task.
    file: String,
    task: String,
    name: TaskName,
    // A number of its own.
    pid: u32,
    // Its package, once it has begun.
    package: Option<String>,
}

enum Open {
    Message { level: Level, text: String, task: Option<TaskName> },
    NoProvider { item: String, dependees: Vec<String>, reasons: Vec<String>, close_matches: Vec<String>, close: bool },
}

impl Console {
    /// The events of a line, and of those before that it ends.
    pub(crate) fn take(&mut self, raw: &str) -> Vec<Event> {
        let line = Line::new(raw.as_bytes());
        let mut told = Vec::new();
        match line.level {
            None => self.without_level(&line.text, &mut told),
            Some(level) => {
                told.extend(self.end());
                self.with_level(level, &line, &mut told);
            }
        }
        told
    }

    /// What no further line goes on with.
    pub(crate) fn end(&mut self) -> Option<Event> {
        Some(match self.open.take()? {
            Open::Message { level, mut text, task } => {
                text.truncate(text.trim_end().len());
                Event::Message { level, text, task }
            }
            Open::NoProvider { item, dependees, reasons, close_matches, .. } => {
                Event::NoProvider { item, dependees, reasons, close_matches }
            }
        })
    }

    fn without_level(&mut self, text: &str, told: &mut Vec<Event>) {
        let number = |found: &Captures<'_>, place: usize| found[place].parse().unwrap_or_default();
        if let Some(found) = PARSED.captures(text) {
            told.extend(self.end());
            told.push(Event::Parsed {
                recipes: number(&found, 1),
                cached: number(&found, 2),
                errors: number(&found, 3),
            });
        } else if SUMMARY.is_match(text) {
            told.extend(self.end());
        } else {
            match &mut self.open {
                Some(Open::Message { text: before, .. }) if before.len() + text.len() < TEXT => {
                    before.push('\n');
                    before.push_str(text);
                }
                Some(Open::NoProvider { close_matches, close: true, .. }) if close_matches.len() < 100 => {
                    close_matches.push(text.trim().to_owned());
                }
                Some(Open::NoProvider { reasons, close: false, .. }) if reasons.len() < 100 => {
                    reasons.push(text.into())
                }
                Some(_) => {}
                None if ASIDE.is_match(text) => {}
                None => told.push(Event::Message { level: Level::Plain, text: text.into(), task: None }),
            }
        }
    }

    fn with_level(&mut self, level: Level, line: &Line, told: &mut Vec<Event>) {
        let body = line.body();
        if let Some((package, task)) = &line.owner {
            let task = Some(self.owner(package, task));
            self.open = Some(Open::Message { level, text: body.to_owned(), task });
        } else if let Some(found) = STARTS.captures(body) {
            self.start(&found, told);
        } else if let Some(found) = STEP.captures(body) {
            self.step(&found[1], &found[2], &found[3], told);
        } else if let Some(found) = FAILED.captures(body) {
            self.fail(&found[1], &found[2], told);
        } else if let Some(found) = LOG.captures(body) {
            if self.logs.len() >= MOST {
                self.logs.pop_front();
            }
            self.logs.push_back(found[1].to_owned());
        } else if let Some(found) = NOTHING.captures(body) {
            let names = found.get(2).map_or("", |names| names.as_str());
            self.open = Some(Open::NoProvider {
                item: found[1].to_owned(),
                dependees: names.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect(),
                reasons: Vec::new(),
                close_matches: Vec::new(),
                close: found.get(3).is_some(),
            });
        } else {
            self.open = Some(Open::Message { level, text: body.to_owned(), task: None });
        }
        if level < Level::Warning {
            told.extend(self.end());
        }
    }

    fn start(&mut self, found: &Captures<'_>, told: &mut Vec<Event>) {
        let kind = found.get(1).map_or("", |kind| kind.as_str());
        let (index, total) = (found[2].parse().unwrap_or_default(), found[3].parse().unwrap_or_default());
        let setscene = kind == "setscene";
        let planned = if setscene { (self.planned.0, total) } else { (total, self.planned.1) };
        if planned != mem::replace(&mut self.planned, planned) && planned.0 > 0 {
            told.push(Event::TasksPlanned { total: planned.0, setscene: planned.1 });
        }
        self.count += 1;
        let (file, task, pid) = (found[4].to_owned(), found[5].to_owned(), self.count);
        let name = named(&file, &task);
        told.push(Event::TaskStarted { name: name.clone(), pid, index, total, setscene, log: None });
        if kind == "noexec" {
            told.push(Event::TaskEnded { name, pid, ok: true, setscene, log: None });
        } else if self.running.len() < MOST {
            self.running.push(Running { file, task, name, pid, package: None });
        }
    }

    /// A task says by its package that it has begun or succeeded. Which task that is its package does not say where several
    /// multiconfigs run the same: then it is the first.
    fn step(&mut self, package: &str, task: &str, what: &str, told: &mut Vec<Event>) {
        let is_begun = |running: &Running| running.task == task && running.package.as_deref() == Some(package);
        let fits = |running: &Running| {
            let recipe = running.name.recipe.rsplit(':').next().unwrap_or_default();
            running.task == task && running.package.is_none() && has_prefix(package, recipe)
        };
        let waits = |running: &Running| running.task == task && running.package.is_none();
        let place = match what {
            "Started" => self.running.iter().position(fits).or_else(|| self.running.iter().position(waits)),
            _ => self.running.iter().position(is_begun),
        };
        let Some(place) = place else { return };
        match what {
            "Started" => {
                if let Some(running) = self.running.get_mut(place) {
                    running.package = Some(package.to_owned());
                }
            }
            "Succeeded" => {
                let Running { name, pid, task, .. } = self.running.swap_remove(place);
                told.push(Event::TaskEnded { name, pid, ok: true, setscene: is_setscene(&task), log: None });
            }
            // Another line tells it with its file.
            _ => {}
        }
    }

    fn fail(&mut self, file: &str, task: &str, told: &mut Vec<Event>) {
        let place = self.running.iter().position(|running| running.file == file && running.task == task);
        let running = place.map(|place| self.running.remove(place));
        let (name, pid) = running.map_or_else(|| (named(file, task), 0), |running| (running.name, running.pid));
        let recipe = name.recipe.rsplit(':').next().unwrap_or_default();
        let is_of = |log: &String| task_log(log).is_some_and(|(_, found)| found == task);
        let is_in = |log: &String| is_of(log) && log.split('/').any(|folder| has_prefix(folder, recipe));
        let place = self.logs.iter().position(is_in).or_else(|| self.logs.iter().position(is_of));
        let log = place.and_then(|place| self.logs.remove(place)).map(PathBuf::from);
        told.push(Event::TaskEnded { name, pid, ok: false, setscene: is_setscene(task), log });
    }

    /// The task of a message: `mc:x86:zlib-1.2-r0 do_compile: text`.
    fn owner(&self, package: &str, task: &str) -> TaskName {
        let (multiconfig, bare) =
            package.rsplit_once(':').map_or(("", package), |(multiconfig, bare)| (multiconfig, bare));
        let is_it = |running: &&Running| {
            let (of, _) = running.name.recipe.rsplit_once(':').unwrap_or_default();
            running.package.as_deref() == Some(bare) && running.task == task && of == multiconfig
        };
        self.running.iter().find(is_it).map_or_else(
            || TaskName { recipe: join(multiconfig, &package_recipe(bare)), task: plain(task) },
            |running| running.name.clone(),
        )
    }
}

fn has_prefix(package: &str, recipe: &str) -> bool {
    package.strip_prefix(recipe).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn is_setscene(task: &str) -> bool {
    task.ends_with("_setscene")
}

fn plain(task: &str) -> String {
    task.trim_end_matches("_setscene").to_owned()
}

fn join(multiconfig: &str, recipe: &str) -> String {
    if multiconfig.is_empty() { recipe.to_owned() } else { format!("{multiconfig}:{recipe}") }
}

/// The task of a recipe's file.
fn named(file: &str, task: &str) -> TaskName {
    let (recipe, multiconfig) = recipe_of_file(file).unwrap_or_else(|| (file.to_owned(), None));
    let multiconfig = multiconfig.map_or(String::new(), |name| format!("mc:{name}"));
    TaskName { recipe: join(&multiconfig, &recipe), task: plain(task) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a console tells, an event a line.
    fn told(console: &str) -> String {
        let mut reader = Console::default();
        let mut events: Vec<Event> = console.lines().flat_map(|line| reader.take(line)).collect();
        events.extend(reader.end());
        let lines = events.into_iter().map(|event| match event {
            Event::TaskStarted { name, pid, index, total, setscene, .. } => {
                format!("{pid} {name} begins, {index} of {total}{}", if setscene { ", setscene" } else { "" })
            }
            Event::TaskEnded { name, pid, ok, setscene, log } => {
                let what = if ok { "done" } else { "failed" };
                let log = log.map_or(String::new(), |log| format!(", {}", log.display()));
                format!("{pid} {name} {what}{}{log}", if setscene { ", setscene" } else { "" })
            }
            Event::TasksPlanned { total, setscene } => format!("{total} tasks, {setscene} setscene"),
            Event::Parsed { recipes, cached, errors } => format!("{recipes} recipes, {cached} cached, {errors} errors"),
            Event::Message { level, text, task } => {
                let task = task.map_or(String::new(), |task| format!(" {task}"));
                format!("{level:?}{task}: {}", text.replace('\n', " / "))
            }
            Event::NoProvider { item, dependees, reasons, close_matches } => {
                format!("no {item} for {dependees:?}: {reasons:?}, near {close_matches:?}")
            }
            other => panic!("{other:?}"),
        });
        lines.map(|line| line + "\n").collect()
    }

    #[test]
    fn dunfells_console_with_a_multiconfig() {
        let console = "\
Parsing recipes...done.
Parsing of 11 .bb files complete (3 cached, 8 parsed). 22 targets, 0 skipped, 0 masked, 0 errors.
NOTE: Resolving any missing task queue dependencies
Initialising tasks...done.
NOTE: Executing Tasks
NOTE: Running setscene task 1 of 2 (virtual:native:/l/lib_1.0.bb:do_deploy_setscene)
NOTE: recipe lib-native-1.0-r0: task do_deploy_setscene: Started
WARNING: Logfile for failed setscene task is /b/tmp/work/lib-native-1.0-r0/temp/log.do_deploy_setscene.7
WARNING: Setscene task (virtual:native:/l/lib_1.0.bb:do_deploy_setscene) failed with exit code '1' - real task will be run instead
NOTE: Running task 1 of 9 (mc:other:/l/app_1.0.bb:do_compile)
NOTE: Running task 2 of 9 (/l/app_1.0.bb:do_compile)
NOTE: recipe app-1.0-r0: task do_compile: Started
NOTE: recipe app-1.0-r0: task do_compile: Started
ERROR: mc:other:app-1.0-r0 do_compile: Execution of '/b/tmp-other/work/app-1.0-r0/temp/run.do_compile.8' failed with exit code 3
ERROR: Logfile of failure stored in: /b/tmp-other/work/app-1.0-r0/temp/log.do_compile.8
NOTE: recipe app-1.0-r0: task do_compile: Failed
NOTE: Running noexec task 3 of 9 (/l/lib_1.0.bb:do_build)
ERROR: Task (mc:other:/l/app_1.0.bb:do_compile) failed with exit code '1'
WARNING: app-1.0-r0 do_compile: slow
plain words
NOTE: recipe app-1.0-r0: task do_compile: Succeeded
NOTE: Tasks Summary: Attempted 3 tasks of which 0 didn't need to be rerun and 1 failed.

Summary: 1 task failed:
  mc:other:/l/app_1.0.bb:do_compile
Summary: There were 2 ERROR messages shown, returning a non-zero exit code.
";
        let expected = "\
11 recipes, 3 cached, 0 errors
Note: Resolving any missing task queue dependencies
Note: Executing Tasks
1 lib-native:do_deploy begins, 1 of 2, setscene
1 lib-native:do_deploy failed, setscene, /b/tmp/work/lib-native-1.0-r0/temp/log.do_deploy_setscene.7
9 tasks, 2 setscene
2 mc:other:app:do_compile begins, 1 of 9
3 app:do_compile begins, 2 of 9
Error mc:other:app:do_compile: Execution of '/b/tmp-other/work/app-1.0-r0/temp/run.do_compile.8' failed with exit code 3
4 lib:do_build begins, 3 of 9
4 lib:do_build done
2 mc:other:app:do_compile failed, /b/tmp-other/work/app-1.0-r0/temp/log.do_compile.8
Warning app:do_compile: slow / plain words
3 app:do_compile done
Note: Tasks Summary: Attempted 3 tasks of which 0 didn't need to be rerun and 1 failed.
";
        assert_eq!(told(console), expected);
    }

    #[test]
    fn kirkstones_console_with_failures_of_two_recipes() {
        let console = "\
Loading cache...done.
Loaded 2 entries from dependency cache.
NOTE: Running task 1 of 4 (/l/one_1.0.bb:do_fetch)
NOTE: Running task 2 of 4 (/l/two_git.bb:do_fetch)
NOTE: recipe two-1.0+gitAUTOINC+0123-r0: task do_fetch: Started
NOTE: recipe one-1.0-r0: task do_fetch: Started
WARNING: one-1.0-r0 do_fetch: Failed to fetch URL http://localhost/one.tar.gz, attempting MIRRORS if available
ERROR: Logfile of failure stored in: /b/tmp/work/x86/one/1.0-r0/temp/log.do_fetch.11
ERROR: Logfile of failure stored in: /b/tmp/work/x86/two/1.0+gitAUTOINC+0123-r0/temp/log.do_fetch.12
NOTE: recipe two-1.0+gitAUTOINC+0123-r0: task do_fetch: Failed
ERROR: Task (/l/two_git.bb:do_fetch) failed with exit code '134' 
Pseudo log:
path mismatch
NOTE: recipe one-1.0-r0: task do_fetch: Failed
ERROR: Task (/l/one_1.0.bb:do_fetch) failed with exit code '1'
";
        let expected = "\
4 tasks, 0 setscene
1 one:do_fetch begins, 1 of 4
2 two:do_fetch begins, 2 of 4
Warning one:do_fetch: Failed to fetch URL http://localhost/one.tar.gz, attempting MIRRORS if available
2 two:do_fetch failed, /b/tmp/work/x86/two/1.0+gitAUTOINC+0123-r0/temp/log.do_fetch.12
Plain: Pseudo log:
Plain: path mismatch
1 one:do_fetch failed, /b/tmp/work/x86/one/1.0-r0/temp/log.do_fetch.11
";
        assert_eq!(told(console), expected);
    }

    #[test]
    fn newer_consoles_with_errors_that_are_no_tasks() {
        let console = "\
Loading cache...ERROR: /l/app_1.0.bb: parsing failed
with a second line
NOTE: Running task 1 of 2 (/l/app_1.0.bb:do_compile)
NOTE: recipe app-1.0-r0: task do_compile: Started
ERROR: app-1.0-r0 do_compile: Task (/l/inner.bb:do_fetch) failed with exit code '1'
\u{1b}[31;1mERROR: \u{1b}[0mNothing PROVIDES 'libnone' (but /l/app_1.0.bb, /l/b.bb DEPENDS on or otherwise requires it). Close matches:
  libone
  libnine
ERROR: Nothing RPROVIDES 'none'
none was skipped: incompatible with machine m
ERROR: Task (/l/gone.bb:do_patch) failed with exit code '1'

Summary: There were 4 ERROR messages, returning a non-zero exit code.
    log: /b/none
";
        let expected = r#"Error: /l/app_1.0.bb: parsing failed / with a second line
2 tasks, 0 setscene
1 app:do_compile begins, 1 of 2
Error app:do_compile: Task (/l/inner.bb:do_fetch) failed with exit code '1'
no libnone for ["/l/app_1.0.bb", "/l/b.bb"]: [], near ["libone", "libnine"]
no none for []: ["none was skipped: incompatible with machine m"], near []
0 gone:do_patch failed
"#;
        assert_eq!(told(console), expected);
    }

    #[test]
    fn any_console_is_read_in_bounds() {
        let mut reader = Console::default();
        reader.take("ERROR: it begins");
        for _ in 0..100 {
            assert!(reader.take(&"x".repeat(5000)).is_empty());
        }
        match reader.end() {
            Some(Event::Message { text, .. }) => assert!((20_000..=TEXT).contains(&text.len()), "{}", text.len()),
            other => panic!("{other:?}"),
        }
        for number in 0..2 * MOST {
            reader.take(&format!("NOTE: Running task {number} of 9 (/l/a_{number}.bb:do_x)"));
            reader.take(&format!("ERROR: Logfile of failure stored in: /l/log.do_x.{number}"));
        }
        assert_eq!((reader.running.len(), reader.logs.len()), (MOST, MOST));
    }
}
