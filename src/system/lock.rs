//! Advisory locks between smidr processes: flock(2) on a file that names its holder.
//!
//! The kernel drops a lock when its holder dies, however it dies, so there are no stale locks. The text in the file only
//! tells people whom they wait for.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{files::FileError, stop::StopToken};
use crate::model::{Hint, Kind, UserError};

/// How often a busy lock is tried again. flock(2) itself keeps no queue either.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A held lock. Dropping it lets go.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// How a lock is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Together with other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// What came of trying.
#[derive(Debug)]
pub enum Attempt {
    /// Held now.
    Held(FileLock),
    /// Another process holds it, and this is its name.
    Busy(String),
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// A stop was requested while another process held it.
    #[error("stopped while waiting for {0}")]
    Stopped(String),
    /// The lock file.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for WaitError {
    fn kind(&self) -> Kind {
        match self {
            Self::Stopped(_) => Kind::Cancelled,
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Stopped(_) => Vec::new(),
            Self::File(error) => error.hints(),
        }
    }
}

/// Takes a lock if it is free.
///
/// # Errors
///
/// When the lock file cannot be opened.
pub fn try_lock(path: &Path, mode: Mode, holder: &str) -> Result<Attempt, FileError> {
    let mut file = open(path)?;
    let tried = match mode {
        Mode::Shared => file.try_lock_shared(),
        Mode::Exclusive => file.try_lock(),
    };
    match tried {
        Ok(()) => Ok(Attempt::Held(sign(file, holder))),
        Err(TryLockError::WouldBlock) => Ok(Attempt::Busy(name_in(&mut file))),
        Err(TryLockError::Error(error)) => Err(FileError::new("lock", path)(error)),
    }
}

/// Takes a lock if it is free. One that is held only to see whether it is free is tried again.
///
/// # Errors
///
/// When the lock file cannot be opened.
pub fn lock_if_free(path: &Path, mode: Mode, holder: &str) -> Result<Attempt, FileError> {
    match try_lock(path, mode, holder)? {
        Attempt::Busy(_) => {
            thread::sleep(TRY_AGAIN);
            try_lock(path, mode, holder)
        }
        held => Ok(held),
    }
}

/// The holder of a lock, alone or together with others, if there is one. Leaves no trace.
///
/// # Errors
///
/// When the lock file cannot be opened.
pub fn holder(path: &Path) -> Result<Option<String>, FileError> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(FileError::new("open the lock file", path))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(name_in(&mut file))),
        Err(TryLockError::Error(error)) => Err(FileError::new("lock", path)(error)),
    }
}

/// Sends a signal to the process that holds a lock under this name. Says whether there was one within reach: not when the lock is free or held under
/// another name, as by those who only look for a moment, and not when its holder lives in another PID namespace.
///
/// # Errors
///
/// When the kernel refuses the signal.
pub fn signal_holder(path: &Path, name: &str, signal: Signal) -> Result<bool, FileError> {
    let pid = holder(path)?.and_then(|text| process_in(text.strip_prefix(name)?));
    let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok().filter(|_| has_open(pid, path)))
    else {
        return Ok(false);
    };
    pidfd_send_signal(&process, signal).map_err(|errno| FileError::new("signal the holder of", path)(errno.into()))?;
    Ok(true)
}

/// The process in what [`sign`] has written behind a name.
fn process_in(signed: &str) -> Option<Pid> {
    let number = signed.strip_prefix(" (process ")?.strip_suffix(')')?;
    Pid::from_raw(number.parse().ok()?)
}

/// Whether a process has a file open: a number alone may mean another process by now, or in another PID namespace.
fn has_open(pid: Pid, path: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).into_iter().flatten().flatten();
    let path = std::fs::canonicalize(path);
    open.into_iter()
        .any(|entry| path.as_ref().is_ok_and(|path| std::fs::read_link(entry.path()).is_ok_and(|file| file == *path)))
}

fn name_in(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.read_to_string(&mut text);
    // For a moment, text of the holder before stands below.
    let name = text.lines().next().map(str::trim).filter(|name| read.is_ok() && !name.is_empty());
    name.unwrap_or("another smidr").into()
}

/// Takes a lock alone that is held for the time of a rename: nothing is said of the wait.
///
/// # Errors
///
/// When the lock file cannot be opened.
pub fn lock_briefly(path: &Path, holder: &str) -> Result<FileLock, FileError> {
    match lock(path, Mode::Exclusive, holder, &StopToken::default(), |_| {}) {
        Ok(lock) => Ok(lock),
        Err(WaitError::File(error)) => Err(error),
        Err(WaitError::Stopped(_)) => Err(FileError::new("lock", path)(std::io::ErrorKind::Interrupted.into())),
    }
}

/// Takes a lock, waiting for as long as it needs, or until a stop is requested. `on_wait` is called once with the holder, unless
/// that was over in a moment: many locks are held alone just to see whether they are free, by processes that never sign them.
///
/// # Errors
///
/// When the lock file cannot be opened, or a stop is requested.
pub fn lock(
    path: &Path,
    mode: Mode,
    holder: &str,
    stop: &StopToken,
    on_wait: impl FnOnce(&str),
) -> Result<FileLock, WaitError> {
    lock_after(|| thread::sleep(TRY_AGAIN), path, mode, holder, stop, on_wait)
}

fn lock_after(
    mut pause: impl FnMut(),
    path: &Path,
    mode: Mode,
    holder: &str,
    stop: &StopToken,
    on_wait: impl FnOnce(&str),
) -> Result<FileLock, WaitError> {
    let mut on_wait = Some(on_wait);
    let mut tries: u32 = 0;
    loop {
        let other = match try_lock(path, mode, holder)? {
            Attempt::Held(lock) => return Ok(lock),
            Attempt::Busy(other) => other,
        };
        if stop.is_requested() {
            return Err(WaitError::Stopped(other));
        }
        tries = tries.saturating_add(1);
        if let Some(on_wait) = on_wait.take_if(|_| tries > 1) {
            on_wait(&other);
        }
        pause();
    }
}

/// The path of a lock file, made from a name that is safe as a file name.
pub fn path_in(locks: &Path, name: &str) -> PathBuf {
    locks.join(format!("{name}.lock"))
}

fn open(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(FileError::new("open the lock file", path))
}

// The name is a courtesy: on a full disk the lock is held all the same.
fn sign(mut file: File, holder: &str) -> FileLock {
    let text = format!("{holder} (process {})\n", std::process::id());
    // Never emptied first: ext4 would write such a file to the disk at once (ext4(5), auto_da_alloc).
    let _ = file.rewind().and_then(|()| file.write_all(text.as_bytes())).and_then(|()| {
        if file.metadata()?.len() > text.len() as u64 { file.set_len(text.len() as u64) } else { Ok(()) }
    });
    FileLock { _file: file }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_the_holder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = path_in(folder.path(), "store");
        let first = try_lock(&path, Mode::Exclusive, "image build debian-12").expect("lock");
        assert!(matches!(first, Attempt::Held(_)));
        match try_lock(&path, Mode::Shared, "build").expect("try") {
            Attempt::Busy(holder) => assert!(holder.starts_with("image build debian-12"), "{holder}"),
            Attempt::Held(_) => panic!("two exclusive holders"),
        }
        drop(first);
        assert!(matches!(try_lock(&path, Mode::Shared, "build").expect("try"), Attempt::Held(_)));
    }

    #[test]
    fn a_signal_is_for_the_holder_of_that_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = path_in(folder.path(), "build-a");
        let held = try_lock(&path, Mode::Exclusive, "smidr status").expect("lock");
        // SIGTERM would end this test.
        assert!(!signal_holder(&path, "build a", Signal::TERM).expect("a look"));
        drop(held);
        let _worker = try_lock(&path, Mode::Exclusive, "build a").expect("lock");
        assert!(signal_holder(&path, "build a", Signal::CONT).expect("a signal"));
    }

    #[test]
    fn who_waits_gets_it_later_or_is_stopped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = path_in(folder.path(), "store");
        let first = try_lock(&path, Mode::Exclusive, "image build debian-12").expect("lock");
        let stop = StopToken::default();
        stop.escalate();
        let stopped = lock(&path, Mode::Shared, "build", &stop, |other| panic!("told of {other}, and never waited"));
        assert!(matches!(stopped, Err(WaitError::Stopped(holder)) if holder.starts_with("image build")));
        thread::scope(|scope| {
            let waits = scope.spawn(|| lock(&path, Mode::Shared, "build", &StopToken::default(), |_| drop(first)));
            assert!(waits.join().expect("no panic").is_ok());
        });
        let mut moment = Some(try_lock(&path, Mode::Exclusive, "a moment's holder").expect("lock"));
        let told = |other: &str| panic!("told of {other}, who was gone at once");
        assert!(lock_after(|| drop(moment.take()), &path, Mode::Shared, "build", &StopToken::default(), told).is_ok());
        assert!(lock(&path, Mode::Shared, "build", &stop, |_| ()).is_ok(), "a free one is not waited for");
    }
}
