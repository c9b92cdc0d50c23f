//! What BitBake is at, for the one line that is drawn again and again. Its clocks go on while nothing else happens.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

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
pub struct Board {
    /// What BitBake was asked for.
    pub targets: String,
    /// Of BitBake.
    pub version: String,
    /// All tasks that are to be done or left out.
    pub total: u64,
    /// Those that were done.
    pub ended: u64,
    /// Those that were left out.
    pub skipped: u64,
    running: BTreeMap<u32, (TaskName, Instant, Option<u8>)>,
    // Whether the line shows it just now.
    is_shown: bool,
}

/// A board that a thread looks at, too.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Board>>);

impl Shared {
    /// For a look or a change. Nothing is drawn meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws it on a line from time to time, for as long as it exists and whenever it is what the line shows.
    pub fn keep_drawn(&self, bar: Bar) {
        let board = Arc::downgrade(&self.0);
        thread::spawn(move || {
            while let Some(board) = board.upgrade() {
                let board = Self(board);
                {
                    let board = board.lock();
                    // Drawn while nobody can show something else.
                    if board.is_shown {
                        bar.text(&board.text());
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
    pub fn begin(&mut self) {
        self.running.clear();
        (self.ended, self.skipped) = (0, 0);
    }

    /// Says whether the line shows it.
    pub fn shown(&mut self, is_shown: bool) {
        self.is_shown = is_shown;
    }

    /// A task begins, in a process of its own.
    pub fn started(&mut self, pid: u32, name: TaskName) {
        if self.running.len() < TASKS {
            self.running.insert(pid, (name, Instant::now(), None));
        }
    }

    /// How far a task is.
    pub fn progress(&mut self, pid: u32, percent: u8) {
        if let Some(task) = self.running.get_mut(&pid) {
            task.2 = Some(percent);
        }
    }

    /// A task has ended.
    pub fn ended(&mut self, pid: u32) {
        self.running.remove(&pid);
        self.ended += 1;
    }

    /// The line: those that run longest first.
    pub fn text(&self) -> String {
        let mut text = format!("{}  {}  {}/{}", self.version, self.targets, self.ended + self.skipped, self.total);
        let mut running: Vec<_> = self.running.values().collect();
        running.sort_by_key(|(_, since, _)| *since);
        for (name, since, percent) in running.iter().take(TASKS_SHOWN) {
            let _ = write!(text, "  {name} {}", clock(since.elapsed()));
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
    pub fn summary(&self) -> String {
        match self.ended + self.skipped {
            done if done < self.total => format!("{done} of {} tasks, {} run", self.total, self.ended),
            _ => format!("{} tasks, {} run", self.total, self.ended),
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
    fn clocks_go_on_by_themselves() {
        let (board, bar) = (Shared::default(), Bar::new());
        let name = TaskName { recipe: "hello".into(), task: "do_compile".into() };
        {
            let mut board = board.lock();
            board.total = 42;
            board.started(7, name);
            board.shown(true);
        }
        board.keep_drawn(bar.clone());
        let until = Instant::now() + Duration::from_secs(60);
        while !bar.message().contains("0/42  hello:do_compile 0:01") {
            assert!(Instant::now() < until, "{}", bar.message());
            thread::sleep(Duration::from_millis(20));
        }
        let mut board = board.lock();
        board.ended(7);
        assert_eq!((board.text().as_str(), board.summary().as_str()), ("    1/42", "1 of 42 tasks, 1 run"));
        assert_eq!([clock(Duration::from_secs(59)), clock(Duration::from_secs(3725))], ["0:59", "1:02:05"]);
    }
}
