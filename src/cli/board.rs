//! Running tasks and elapsed times for the status line, redrawn twice a second.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use jiff::Timestamp;

use super::output::Bar;
use crate::model::TaskName;

/// How many running tasks are followed: more than any machine runs, and no more than memory is there for, whatever a build claims.
const TASKS: usize = 10_000;

/// How many running tasks are named.
const TASKS_SHOWN: usize = 4;

/// How often the clocks are looked at: twice in what they count.
const PERIOD: Duration = Duration::from_millis(500);

/// Tasks of one build.
#[derive(Default)]
pub(super) struct Board {
    /// What BitBake was asked for.
    pub targets: String,
    /// Of BitBake.
    pub version: String,
    /// All tasks that are to be run or skipped. Those that restore from sstate are not among them: what they restore is skipped.
    pub total: u64,
    ran: u64,
    covered: u64,
    current: u64,
    running: BTreeMap<u32, (TaskName, Timestamp, Option<u8>)>,
    // Whether the line shows it just now.
    is_shown: bool,
}

/// A board that a thread looks at, too.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Board>>);

impl Shared {
    /// For a look or a change. Nothing is drawn meanwhile.
    pub(super) fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws it on a line from time to time, behind `subject`, for as long as it exists and whenever it is what the line shows.
    pub(super) fn keep_drawn(&self, bar: Bar, subject: String) {
        let board = Arc::downgrade(&self.0);
        thread::spawn(move || {
            while let Some(board) = board.upgrade() {
                let board = Self(board);
                {
                    let board = board.lock();
                    // Drawn under the lock, so that nothing else is shown meanwhile.
                    if board.is_shown {
                        bar.show(&format!("{subject}{}", board.text(Timestamp::now())));
                    }
                }
                drop(board);
                thread::sleep(PERIOD);
            }
        });
    }
}

impl Board {
    /// Forgets the tasks: BitBake begins anew.
    pub(super) fn begin(&mut self) {
        self.running.clear();
        (self.ran, self.covered, self.current) = (0, 0, 0);
    }

    /// Says whether the line shows it.
    pub(super) fn shown(&mut self, is_shown: bool) {
        self.is_shown = is_shown;
    }

    /// A task begins, in a process of its own.
    pub(super) fn started(&mut self, pid: u32, name: TaskName, at: Timestamp) {
        if self.running.len() < TASKS {
            self.running.insert(pid, (name, at, None));
        }
    }

    /// How far a task is.
    pub(super) fn progress(&mut self, pid: u32, percent: u8) {
        if let Some(task) = self.running.get_mut(&pid) {
            task.2 = Some(percent);
        }
    }

    /// A task has ended. One that restores from sstate is not counted: BitBake then skips what it stands for, or runs it after all.
    pub(super) fn ended(&mut self, pid: u32, setscene: bool) {
        self.running.remove(&pid);
        self.ran += u64::from(!setscene);
    }

    /// A task was skipped, because sstate has its result or because it was run before.
    pub(super) fn skipped(&mut self, covered: bool) {
        *(if covered { &mut self.covered } else { &mut self.current }) += 1;
    }

    fn done(&self) -> u64 {
        self.ran + self.covered + self.current
    }

    /// The line: those that run longest first.
    pub(super) fn text(&self, now: Timestamp) -> String {
        let mut text = format!("{}  {}  {}/{}", self.version, self.targets, self.done(), self.total);
        if let Some(percent) = (self.covered * 100).checked_div(self.done()).filter(|_| self.covered > 0) {
            let _ = write!(text, "  sstate {percent} %");
        }
        let mut running: Vec<_> = self.running.values().collect();
        running.sort_by_key(|(_, since, _)| *since);
        for (name, since, percent) in running.iter().take(TASKS_SHOWN) {
            let _ = write!(text, "  {name} {}", clock(now.duration_since(*since).unsigned_abs()));
            if let Some(percent) = percent {
                let _ = write!(text, " {percent} %");
            }
        }
        if running.len() > TASKS_SHOWN {
            let _ = write!(text, "  +{}", running.len() - TASKS_SHOWN);
        }
        text
    }

    /// What was done, at the end.
    pub(super) fn summary(&self) -> String {
        let sstate = if self.covered > 0 { format!(", {} from sstate", self.covered) } else { String::new() };
        match self.done() {
            done if done < self.total => format!("{done} of {} tasks, {} run{sstate}", self.total, self.ran),
            _ => format!("{} tasks, {} run{sstate}", self.total, self.ran),
        }
    }
}

fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sstate_restores_is_counted_once() {
        let mut board = Board { total: 1000, ..Board::default() };
        let (name, at) = (TaskName { recipe: "hello".into(), task: "do_compile".into() }, Timestamp::now());
        for pid in 0..800 {
            board.started(pid, name.clone(), at);
            board.ended(pid, true);
        }
        assert_eq!(board.text(at), "    0/1000");
        (0..900).for_each(|_| board.skipped(true));
        (0..60).for_each(|_| board.skipped(false));
        for pid in 0..40 {
            board.started(pid, name.clone(), at);
            board.ended(pid, false);
        }
        assert_eq!(board.text(at), "    1000/1000  sstate 90 %");
        assert_eq!(board.summary(), "1000 tasks, 40 run, 900 from sstate");
    }

    #[test]
    fn clocks_go_on_by_themselves() {
        let (board, bar) = (Shared::default(), Bar::new());
        let name = TaskName { recipe: "hello".into(), task: "do_compile".into() };
        {
            let mut board = board.lock();
            board.total = 42;
            board.started(7, name, Timestamp::now());
            board.shown(true);
        }
        board.keep_drawn(bar.clone(), String::new());
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !bar.message().contains("0/42  hello:do_compile 0:01") {
            assert!(std::time::Instant::now() < until, "{}", bar.message());
            thread::sleep(Duration::from_millis(20));
        }
        let mut board = board.lock();
        board.ended(7, false);
        assert_eq!(
            (board.text(Timestamp::now()).as_str(), board.summary().as_str()),
            ("    1/42", "1 of 42 tasks, 1 run")
        );
        assert_eq!([clock(Duration::from_secs(59)), clock(Duration::from_secs(3725))], ["0:59", "1:02:05"]);
    }
}
