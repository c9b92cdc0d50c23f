//! Which builds of one SMIDR_HOME may run: as many as the budget allows, in the order in which they came.
//!
//! A build draws a *ticket*: a file with the next number, held by flock(2) until the build is over. It runs when fewer tickets than the
//! budget has places are before it and still held. What a kill leaves behind is free, and removed by the next process that looks.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::system::{
    files::{FileError, make_private_dir},
    lock::{self, Attempt, FileLock, Mode, WaitError},
    stop::StopToken,
};

/// How often the line is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A place in the line. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Ticket {
    path: PathBuf,
    number: u64,
    _held: FileLock,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Ticket {
    /// Goes to the end of the line in `folder`. `holder` names the build for others.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn draw(folder: &Path, holder: &str) -> Result<Self, FileError> {
        make_private_dir(folder)?;
        let _alone = lock::lock_briefly(&folder.join("order.lock"), holder)?;
        let number = numbers(folder)?.last().map_or(1, |last| last + 1);
        let path = folder.join(name(number));
        match lock::try_lock(&path, Mode::Exclusive, holder)? {
            Attempt::Held(held) => Ok(Self { path, number, _held: held }),
            Attempt::Busy(_) => Err(FileError::new("lock", &path)(std::io::ErrorKind::WouldBlock.into())),
        }
    }

    /// Waits for its turn. `on_wait` is called with the number of builds before it, at first and when that changes.
    ///
    /// # Errors
    ///
    /// When the file system refuses, or at a stop.
    pub fn wait(&self, places: u64, stop: &StopToken, mut on_wait: impl FnMut(u64)) -> Result<(), WaitError> {
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
            thread::sleep(LOOK);
        }
    }

    /// How many builds before it are not over.
    fn ahead(&self, folder: &Path) -> Result<u64, FileError> {
        let mut ahead = 0;
        for number in numbers(folder)?.into_iter().filter(|number| *number < self.number) {
            let path = folder.join(name(number));
            if lock::holder(&path)?.is_some() {
                ahead += 1;
                continue;
            }
            // Under the lock of whoever draws: a ticket is not held yet in the moment in which it is made.
            let _alone = lock::lock_briefly(&folder.join("order.lock"), "smidr")?;
            if lock::holder(&path)?.is_none() {
                let _ = fs::remove_file(&path);
            } else {
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
pub fn held(folder: &Path) -> Result<usize, FileError> {
    let held = |number| lock::holder(&folder.join(name(number))).map(|holder| usize::from(holder.is_some()));
    numbers(folder)?.into_iter().map(held).sum()
}

fn name(number: u64) -> String {
    format!("{number:020}.ticket")
}

fn numbers(folder: &Path) -> Result<Vec<u64>, FileError> {
    let entries = fs::read_dir(folder).map_err(FileError::new("list", folder))?;
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".ticket")?.parse().ok();
    let mut numbers: Vec<u64> = entries.flatten().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_run_in_the_order_in_which_they_came() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().join("slots");
        let draw = || Ticket::draw(&at, "build x").expect("a ticket");
        let stop = StopToken::default();
        let (first, second, third, fourth) = (draw(), draw(), draw(), draw());
        for running in [&first, &second] {
            running.wait(2, &stop, |ahead| panic!("told to wait for {ahead}")).expect("its turn");
        }
        // One that was killed leaves its ticket behind.
        fs::write(at.join(name(2)), "").expect("a file");
        drop(second);
        fs::write(at.join(name(2)), "").expect("a file");
        third.wait(2, &stop, |ahead| panic!("told to wait for {ahead}")).expect("its turn");
        assert!(!at.join(name(2)).exists());
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
