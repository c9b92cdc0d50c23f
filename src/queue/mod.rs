//! Which builds of one SMIDR_HOME may run: as many as the budget allows, in the order in which they came.
//!
//! A build draws a *ticket*: a file with the next number and the name of its line, held by flock(2) until the build is over. It runs when
//! fewer tickets of its line than the budget has places are before it and still held. What a kill leaves behind is free, and removed by the
//! next process that draws.

pub(crate) mod policy;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::system::{
    files::{FileError, make_private_dir},
    lock::{self, FileLock, WaitError},
    stop::StopToken,
};

/// How often the next build looks at the line; those behind it look more rarely, since each look opens the tickets of all before it.
const LOOK: Duration = Duration::from_millis(50);

/// The rarest look, in units of [`LOOK`].
const RAREST: u64 = 20;

/// The line in which all builds stand. No build is called so.
pub(crate) const ALL: &str = "ticket";

/// A place in a line. Dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Ticket {
    path: PathBuf,
    line: String,
    number: u64,
    _held: FileLock,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Ticket {
    /// Goes to the end of a line, whose tickets are in `folder` with those of others. `holder` names the build for others.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn draw(folder: &Path, line: &str, holder: &str) -> Result<Self, FileError> {
        make_private_dir(folder)?;
        let _alone = lock::lock_briefly(&folder.join("order.lock"), holder)?;
        let mut number = 1;
        for (other, line) in tickets(folder)? {
            number = number.max(other + 1);
            let path = folder.join(name(other, &line));
            if lock::holder(&path)?.is_none() {
                let _ = fs::remove_file(path);
            }
        }
        let path = folder.join(name(number, line));
        // Only a process that counts tickets holds it, for a moment.
        let held = lock::lock_briefly(&path, holder)?;
        Ok(Self { path, line: line.into(), number, _held: held })
    }

    /// Waits for its turn. `on_wait` is called with the number of builds before it, at first and when that changes.
    ///
    /// # Errors
    ///
    /// When the file system refuses, or at a stop.
    pub(crate) fn wait(&self, places: u64, stop: &StopToken, mut on_wait: impl FnMut(u64)) -> Result<(), WaitError> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let mut told = None;
        loop {
            let ahead = self.ahead(folder)?;
            if ahead < places.max(1) {
                return Ok(());
            }
            if stop.is_requested() {
                return Err(WaitError::Stopped(format!("{ahead} builds")));
            }
            if told.replace(ahead) != Some(ahead) {
                on_wait(ahead);
            }
            for _ in 0..(ahead + 1 - places.max(1)).min(RAREST) {
                thread::sleep(LOOK);
                if stop.is_requested() {
                    break;
                }
            }
        }
    }

    /// How many builds before it are not over. Their tickets were held before this one was drawn.
    fn ahead(&self, folder: &Path) -> Result<u64, FileError> {
        let mut ahead = 0;
        for (number, line) in tickets(folder)?.into_iter().filter(|(number, _)| *number < self.number) {
            if line == self.line && lock::holder(&folder.join(name(number, &line)))?.is_some() {
                ahead += 1;
            }
        }
        Ok(ahead)
    }
}

/// How many builds run, or wait for their turn.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn held(folder: &Path) -> Result<usize, FileError> {
    let held = |(number, line): (u64, String)| {
        lock::holder(&folder.join(name(number, &line))).map(|holder| usize::from(holder.is_some()))
    };
    tickets(folder)?.into_iter().filter(|(_, line)| line == ALL).map(held).sum()
}

fn name(number: u64, line: &str) -> String {
    format!("{number:020}.{line}")
}

/// Number and line of each ticket.
fn tickets(folder: &Path) -> Result<Vec<(u64, String)>, FileError> {
    let entries = fs::read_dir(folder).map_err(FileError::new("list", folder))?;
    let ticket = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let (number, line) = name.to_str()?.split_once('.')?;
        Some((number.parse().ok()?, line.to_owned()))
    };
    Ok(entries.flatten().filter_map(ticket).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_run_in_the_order_in_which_they_came() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().join("slots");
        let draw = || Ticket::draw(&at, ALL, "build x").expect("a ticket");
        let stop = StopToken::default();
        let (first, second, third, fourth) = (draw(), draw(), draw(), draw());
        for running in [&first, &second] {
            running.wait(2, &stop, |ahead| panic!("told to wait for {ahead}")).expect("its turn");
        }
        // One that was killed leaves its ticket behind.
        drop(second);
        let left = [name(2, ALL), name(5, "p-00000001")].map(|name| at.join(name));
        left.iter().for_each(|path| fs::write(path, "").expect("a file"));
        third.wait(2, &stop, |ahead| panic!("told to wait for {ahead}")).expect("its turn");
        // Another line is another queue.
        let apart = Ticket::draw(&at, "p-00000002", "build y").expect("a ticket");
        apart.wait(1, &stop, |ahead| panic!("told to wait for {ahead}")).expect("its turn");
        assert!(left.iter().all(|path| !path.exists()));
        let (mut told, mut first) = (Vec::new(), Some(first));
        let tell = |ahead| {
            told.push(ahead);
            drop(first.take());
        };
        fourth.wait(2, &stop, tell).expect("its turn");
        assert_eq!(told, [2]);
        stop.escalate();
        assert!(matches!(draw().wait(2, &stop, |_| ()), Err(WaitError::Stopped(_))));
    }
}
