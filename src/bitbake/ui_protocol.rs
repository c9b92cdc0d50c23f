//! Parser for the lines of smidr's BitBake user interface (`ui/smidr.py`).

use std::path::PathBuf;

use serde::Deserialize;

use super::deep::{Finding, Looked};
use crate::model::{Activity, Event, Level, TaskName, Unit, document_path};

/// The meaning of a line.
#[expect(clippy::large_enum_variant, reason = "one exists at a time, and nearly all are events")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum UiMessage {
    /// Something happened.
    Event(Event),
    /// What BitBake was asked to do: whether tasks run, and which one of the targets.
    Action {
        /// Whether tasks run.
        builds: bool,
        /// The task, such as `build`.
        task: Option<String>,
    },
    /// The user interface cannot be loaded, and BitBake runs with its own.
    NoInterface {
        /// Python's reason.
        why: String,
        /// BitBake's version, if even that can be loaded.
        version: Option<String>,
    },
    /// Something that `check --deep` has found.
    Found(Finding),
    /// What it has looked at.
    Looked(Looked),
    /// What a server answers now for a source that could not be fetched.
    Answered(Answer),
    /// The user interface has ended. Its verdict is also BitBake's exit status, which decides.
    Done,
    /// Nothing of interest, or unknown to this smidr.
    Nothing,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Answer {
    /// The source, as BitBake writes it.
    pub url: String,
    /// The status of HTTP.
    pub status: Option<u16>,
    /// Its words, or why there is no answer.
    pub text: String,
}

#[derive(Deserialize)]
#[serde(tag = "e", rename_all = "snake_case")]
enum Line {
    Hello {
        version: String,
    },
    NoUi {
        why: String,
        version: Option<String>,
    },
    Action {
        builds: bool,
        task: Option<String>,
    },
    Log {
        level: Level,
        text: String,
        recipe: Option<String>,
        task: Option<String>,
    },
    Cache {
        done: u64,
        total: u64,
    },
    Parse {
        done: u64,
        total: u64,
    },
    Parsed {
        recipes: u64,
        cached: u64,
        errors: u64,
    },
    Step {
        name: String,
        done: u64,
        total: u64,
    },
    Tasks {
        total: u64,
        setscene: u64,
    },
    TaskStarted {
        recipe: String,
        task: String,
        // A task without a body has no process.
        pid: Option<u32>,
        index: u64,
        total: u64,
        #[serde(default)]
        setscene: bool,
        #[serde(flatten, with = "document_path::log")]
        log: Option<PathBuf>,
    },
    TaskProgress {
        pid: u32,
        percent: Option<u8>,
        rate: Option<String>,
    },
    TaskEnded {
        recipe: String,
        task: String,
        pid: Option<u32>,
        ok: bool,
        #[serde(flatten, with = "document_path::log")]
        log: Option<PathBuf>,
        #[serde(default)]
        setscene: bool,
    },
    TaskSkipped {
        recipe: String,
        task: String,
        #[serde(default)]
        reason: String,
    },
    NoProvider {
        item: String,
        #[serde(default)]
        dependees: Vec<String>,
        #[serde(default)]
        reasons: Vec<String>,
        #[serde(default)]
        close_matches: Vec<String>,
    },
    DiskFull {
        dir: String,
        kind: String,
    },
    Look {
        done: u64,
        total: u64,
    },
    Ask {
        done: u64,
        total: u64,
    },
    Found(Finding),
    Looked(Looked),
    Answered(Answer),
    Done,
    #[serde(other)]
    Other,
}

/// How much of a rate is shown, in characters.
const RATE: usize = 30;

/// Part of the error of BitBake's disk monitor, which stops a build before a disk is full.
pub(crate) const NO_ROOM: &str = "has no room left";

/// Parses one line. Damaged lines, and kinds that are newer than this smidr, are ignored.
pub(crate) fn parse_line(line: &str) -> UiMessage {
    let Ok(line) = serde_json::from_str::<Line>(line) else { return UiMessage::Nothing };
    let progress_of = |activity, subject: &str, done, total| Event::Progress {
        activity,
        subject: subject.into(),
        done,
        total: Some(total),
        unit: Unit::Items,
    };
    let progress = |activity, done, total| progress_of(activity, "recipes", done, total);
    UiMessage::Event(match line {
        Line::Done => return UiMessage::Done,
        Line::NoUi { why, version } => return UiMessage::NoInterface { why, version },
        Line::Action { builds, task } => return UiMessage::Action { builds, task },
        Line::Found(finding) => return UiMessage::Found(finding),
        Line::Looked(looked) => return UiMessage::Looked(looked),
        Line::Answered(answer) => return UiMessage::Answered(answer),
        Line::Other | Line::TaskProgress { percent: None, rate: None, .. } => return UiMessage::Nothing,
        Line::Hello { version } => Event::BitbakeReady { version },
        Line::Log { level, text, recipe, task } => {
            let task = recipe.zip(task).map(|(recipe, task)| TaskName { recipe, task });
            Event::Message { level, text, task }
        }
        Line::Cache { done, total } => progress(Activity::LoadCache, done, total),
        Line::Parse { done, total } => progress(Activity::Parse, done, total),
        Line::Step { name, done, total } => {
            Event::Progress { activity: Activity::Plan, subject: name, done, total: Some(total), unit: Unit::Percent }
        }
        Line::Look { done, total } => progress(Activity::Verify, done, total),
        Line::Ask { done, total } => progress_of(Activity::Fetch, "branches of sources", done, total),
        Line::Parsed { recipes, cached, errors } => Event::Parsed { recipes, cached, errors },
        Line::Tasks { total, setscene } => Event::TasksPlanned { total, setscene },
        Line::TaskStarted { recipe, task, pid, index, total, setscene, log } => {
            let name = TaskName { recipe, task };
            Event::TaskStarted { name, pid: pid.unwrap_or_default(), index, total, setscene, log }
        }
        Line::TaskProgress { pid, percent, rate } => {
            let rate = rate.map(|rate| rate.chars().take(RATE).collect());
            Event::TaskProgress { pid, percent: percent.map(|percent| percent.min(100)), rate }
        }
        Line::TaskEnded { recipe, task, pid, ok, log, setscene } => {
            Event::TaskEnded { name: TaskName { recipe, task }, pid: pid.unwrap_or_default(), ok, log, setscene }
        }
        Line::TaskSkipped { recipe, task, reason } => {
            Event::TaskSkipped { name: TaskName { recipe, task }, covered: reason == "covered" }
        }
        Line::NoProvider { item, dependees, reasons, close_matches } => {
            Event::NoProvider { item, dependees, reasons, close_matches }
        }
        Line::DiskFull { dir, kind } => {
            Event::Message { level: Level::Critical, text: format!("{dir} {NO_ROOM} ({kind})"), task: None }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn lines_become_events() {
        let started = r#"{"e":"task_started","recipe":"hello","version":"1.0","task":"do_compile","pid":7,"index":3,"total":9,"setscene":false,"log":"/w/log.do_compile.7"}"#;
        match parse_line(started) {
            UiMessage::Event(Event::TaskStarted { name, index: 3, total: 9, .. }) => {
                assert_eq!(name.to_string(), "hello:do_compile")
            }
            other => panic!("{other:?}"),
        }
        let odd = started.replace(r#""log":"/w/log.do_compile.7""#, r#""log":"/w/?","log_bytes":"2f772fff""#);
        match parse_line(&odd) {
            UiMessage::Event(Event::TaskStarted { log: Some(log), .. }) => {
                assert_eq!(log.as_os_str().as_bytes(), b"/w/\xff")
            }
            other => panic!("{other:?}"),
        }
        let without_body = started.replace(r#""pid":7"#, r#""pid":null"#);
        assert!(matches!(parse_line(&without_body), UiMessage::Event(Event::TaskStarted { pid: 0, .. })));
        assert_eq!(parse_line(r#"{"e":"done","exit":1}"#), UiMessage::Done);
        let none = UiMessage::NoInterface { why: "ImportError: no".into(), version: None };
        assert_eq!(parse_line(r#"{"e":"no_ui","why":"ImportError: no","version":null}"#), none);
        let step = r#"{"e":"step","name":"Initialising tasks","done":50,"total":100}"#;
        let event = UiMessage::Event(Event::Progress {
            activity: Activity::Plan,
            subject: "Initialising tasks".into(),
            done: 50,
            total: Some(100),
            unit: Unit::Percent,
        });
        assert_eq!(parse_line(step), event);
        for strange in
            ["", "{", "[]", r#"{"e":"from_the_future","x":1}"#, r#"{"e":"task_progress","pid":1,"percent":null}"#]
        {
            assert_eq!(parse_line(strange), UiMessage::Nothing, "{strange}");
        }
    }
}
