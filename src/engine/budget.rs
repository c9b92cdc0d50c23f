//! How much of what a build says is taken in. A build is free to say what it likes, as often as it likes; the record of it, the memory
//! that it takes meanwhile and the logs that are kept of it have limits, which no ordinary build meets. Where one is met the build goes on,
//! and says what is missing. What it leaves behind has its own limit ([`crate::artifacts::Room`]).

use std::{
    collections::{HashMap, HashSet},
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{events::Emitter, model::Event};

/// What the console may take in the record, in bytes: a million lines of 270 characters.
const CONSOLE: u64 = 384 << 20;

/// What BitBake's messages and the ends of logs may take, likewise.
const MESSAGES: u64 = 128 << 20;

/// What beginnings and ends of tasks may take, likewise: a hundred thousand tasks are half of it.
const TASKS: u64 = 256 << 20;

/// What an event takes beside its texts, in bytes.
const EVENT: u64 = 128;

/// How many failed tasks are named in the outcome.
const FAILED: u64 = 1000;

/// What the kept logs of failed tasks may take on the disk, in bytes.
const LOGS: u64 = 256 << 20;

/// Of one log that is kept, in bytes.
pub(super) const LOG: u64 = 64 << 20;

/// What one build may still say.
#[derive(Debug)]
pub(crate) struct Budget {
    console: Account,
    messages: Account,
    tasks: Account,
    failed: Account,
    logs: Account,
    // Files that were shown, and those that were kept, with their copies: many tasks may name one log.
    shown: HashSet<(u64, u64)>,
    kept: HashMap<(u64, u64), PathBuf>,
}

impl Default for Budget {
    fn default() -> Self {
        let account = |left, what, instead, avoid| Account { left, dropped: 0, spent: false, what, instead, avoid };
        const LESS: &str = "; without -v and -D BitBake says less";
        Self {
            console: account(
                CONSOLE,
                "has printed more than 384 MiB",
                "lines are only in BitBake's own log (BB_CONSOLELOG)",
                LESS,
            ),
            messages: account(
                MESSAGES,
                "has sent messages of more than 128 MiB",
                "messages are only on BitBake's console",
                LESS,
            ),
            tasks: account(
                TASKS,
                "has told more than 256 MiB about tasks",
                "beginnings and ends of tasks are not recorded",
                "; fewer targets at once have fewer tasks",
            ),
            failed: account(FAILED, "says that more than 1000 tasks failed", "failed tasks are not named", ""),
            logs: account(
                LOGS,
                "has failed tasks with logs of more than 256 MiB",
                "logs are not kept",
                ": they are in the workspace until the next build",
            ),
            shown: HashSet::new(),
            kept: HashMap::new(),
        }
    }
}

impl Budget {
    /// Whether an event of the build is taken in.
    pub(crate) fn takes(&mut self, event: &mut Event, on: &Emitter) -> bool {
        let account = match event {
            Event::Console { .. } => &mut self.console,
            // Not recorded.
            event if event.is_passing() => return true,
            Event::Message { .. } | Event::NoProvider { .. } | Event::TaskLog { .. } | Event::BitbakeReady { .. } => {
                &mut self.messages
            }
            _ => &mut self.tasks,
        };
        account.take(cost(event), on)
    }

    /// Whether one more failed task is noted.
    pub(crate) fn takes_failed(&mut self, on: &Emitter) -> bool {
        self.failed.take(1, on)
    }

    /// Whether a log has not been shown yet.
    pub(crate) fn is_new(&mut self, log: &Metadata) -> bool {
        self.shown.insert(id(log))
    }

    /// Where a log has been kept already.
    pub(crate) fn copy_of(&self, log: &Metadata) -> Option<&Path> {
        self.kept.get(&id(log)).map(PathBuf::as_path)
    }

    /// Whether a log with so many bytes of data is kept, or the first [`LOG`] of them.
    pub(crate) fn takes_log(&mut self, data: u64, on: &Emitter) -> bool {
        self.logs.take(data.min(LOG), on)
    }

    /// A log has been kept.
    pub(crate) fn log_kept(&mut self, log: &Metadata, copy: &Path) {
        self.kept.insert(id(log), copy.into());
    }

    /// Says what is missing since the last time.
    pub(crate) fn tell(&mut self, on: &Emitter) {
        [&mut self.console, &mut self.messages, &mut self.tasks, &mut self.failed, &mut self.logs]
            .into_iter()
            .for_each(|account| account.tell(on));
    }
}

/// One limit, and what has been left out since it was met.
#[derive(Debug)]
struct Account {
    left: u64,
    dropped: u64,
    // Whether the limit was met.
    spent: bool,
    what: &'static str,
    instead: &'static str,
    avoid: &'static str,
}

impl Account {
    // Once it is spent nothing passes, however small: what is recorded is a beginning, and not a beginning with pieces of the rest.
    fn take(&mut self, cost: u64, on: &Emitter) -> bool {
        match self.left.checked_sub(cost) {
            Some(left) if !self.spent => {
                self.left = left;
                true
            }
            _ => {
                if !self.spent {
                    on.warn(format!("the build {}: from here on {}{}", self.what, self.instead, self.avoid));
                }
                self.spent = true;
                self.dropped += 1;
                false
            }
        }
    }

    fn tell(&mut self, on: &Emitter) {
        if self.dropped > 0 {
            on.warn(format!("since the build {}, {} {}", self.what, self.dropped, self.instead));
            self.dropped = 0;
        }
    }
}

/// What an event takes in the record.
fn cost(event: &mut Event) -> u64 {
    let mut cost = EVENT;
    if let Event::TaskStarted { log: Some(log), .. } | Event::TaskEnded { log: Some(log), .. } = event {
        cost += log.as_os_str().len() as u64;
    }
    // JSON needs six characters for a control character, and a list two for each text.
    event.for_each_text(&mut |text| {
        let escaped = text.bytes().filter(|byte| byte.is_ascii_control() || matches!(byte, b'"' | b'\\')).count();
        cost += (text.len() + 5 * escaped + 2) as u64;
    });
    cost
}

fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        events::EventSink,
        model::{BuildId, Level, Record, TaskName},
    };

    #[derive(Clone, Default)]
    struct Recorded(Arc<Mutex<Vec<String>>>);

    impl EventSink for Recorded {
        fn accept(&mut self, record: &Record) {
            if let Event::Warning { text } = &record.event {
                self.0.lock().expect("unbroken").push(text.clone());
            }
        }
    }

    fn emitter() -> (Emitter, Recorded) {
        let recorded = Recorded::default();
        (Emitter::new(BuildId::new("x", 1).expect("an id"), vec![Box::new(recorded.clone())]), recorded)
    }

    fn console(length: usize) -> Event {
        Event::Console { line: "x".repeat(length) }
    }

    #[test]
    fn a_million_lines_and_not_without_end() {
        let (on, recorded) = emitter();
        let mut budget = Budget::default();
        assert!(cost(&mut console(270)) * 1_000_000 <= CONSOLE);
        let mut long = Event::Console { line: "\0".repeat(60_000) };
        let passed = (0..1500).filter(|_| budget.takes(&mut long, &on)).count();
        assert!((1000..1200).contains(&passed), "{passed} lines of 360 kB in JSON");
        // What is short does not slip through either.
        assert!(!budget.takes(&mut console(0), &on));
        budget.tell(&on);
        budget.tell(&on);
        let said = recorded.0.lock().expect("unbroken").clone();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("384 MiB") && said[1].contains(&format!(" {} lines", 1501 - passed)), "{said:?}");
        // Other things are not held up.
        let name = TaskName { recipe: "r".into(), task: "t".into() };
        let ended = Event::TaskEnded { name, pid: 1, ok: false, setscene: false, log: Some("/x".into()) };
        assert!(budget.takes(&mut ended.clone(), &on));
    }

    #[test]
    fn what_is_long_when_it_is_written_down() {
        let (on, _) = emitter();
        let mut budget = Budget::default();
        let mut noise = Event::Message { level: Level::Error, text: "\0".repeat(1 << 20), task: None };
        let passed = (0..30).filter(|_| budget.takes(&mut noise, &on)).count();
        assert_eq!(passed, 21, "six mebibytes of JSON each");
        let dependees = vec![String::new(); 100_000];
        let mut none = Event::NoProvider { item: "x".into(), dependees, reasons: vec![], close_matches: vec![] };
        assert!(cost(&mut none) > 200_000);
    }
}
