//! The folder of one `run` or `shell`: the top of its sandbox's root, its HOME, and the record of its edits. Several run at once in one workspace, and one beside a build,
//! so that none of it may stand in the workspace. It goes with the session; that of a smidr that was killed goes with the next start.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Tools, edits};
use crate::{
    model::Paths,
    system::{
        files::{FileError, make_private_dir, remove_tree},
        lock::{self, Attempt, FileLock, Mode},
    },
};

/// One that runs.
#[derive(Debug)]
pub(super) struct Session {
    folder: PathBuf,
    lock: PathBuf,
    _held: FileLock,
}

impl Session {
    /// Makes the folder of a session.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn begin(tools: Tools<'_>) -> Result<Self, FileError> {
        let name = tools.on.build().to_string();
        let (folder, lock) = (folder(&tools.paths).join(&name), lock_of(&name, &tools.paths));
        // Before the folder is there: one that is not locked is removed.
        let Attempt::Held(held) = lock::try_lock(&lock, Mode::Exclusive, "a shell")? else {
            return Err(FileError::new("lock", &lock)(std::io::ErrorKind::AlreadyExists.into()));
        };
        let session = Self { folder, lock, _held: held };
        make_private_dir(&session.home())?;
        Ok(session)
    }

    /// HOME, as it is called on this machine.
    pub(super) fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// The topmost folder of the sandbox's root.
    pub(super) fn skeleton(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Where its edits are written down.
    pub(super) fn record(&self) -> PathBuf {
        record_in(&self.folder)
    }

    /// The lock that is held while it runs.
    pub(super) fn lock(&self) -> &Path {
        &self.lock
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        remove(&self.folder, &self.lock);
    }
}

/// Finishes and removes those whose smidr was killed.
///
/// # Errors
///
/// When the file system refuses.
pub(super) fn sweep(tools: Tools<'_>) -> Result<(), FileError> {
    for entry in fs::read_dir(folder(&tools.paths)).into_iter().flatten().flatten() {
        let lock = lock_of(&entry.file_name().to_string_lossy(), &tools.paths);
        if let Attempt::Held(_held) = lock::try_lock(&lock, Mode::Exclusive, "what was interrupted")? {
            edits::finish_left(&record_in(&entry.path()), tools.on)?;
            remove(&entry.path(), &lock);
        }
    }
    Ok(())
}

fn folder(paths: &Paths) -> PathBuf {
    paths.tmp().join("sessions")
}

fn record_in(folder: &Path) -> PathBuf {
    folder.join("edits.json")
}

fn lock_of(name: &str, paths: &Paths) -> PathBuf {
    lock::path_in(&paths.locks(), &format!("session-{name}"))
}

// With the lock held. What cannot be removed is tried again by the next start.
fn remove(folder: &Path, lock: &Path) {
    if remove_tree(folder).is_ok() {
        let _ = fs::remove_file(lock);
    }
}
