//! Kept files, each once: files of one content and mode that several builds left are hard links to one *object*, named by its digest. A file of
//! a workspace that has not changed since it was kept is linked again, and neither copied nor read.
//!
//! No lock is needed: an object is published by a link to a file that stands in a build's folder already, and one that only the pool names is
//! removed. A link that comes too late for that is a copy. Never gives a build an object that was written to meanwhile.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::copy::id;
use crate::{
    model::Digest,
    system::{
        files::{FileError, make_private_dir, sha256_of_all, write_atomically},
        stop::StopToken,
    },
};

/// A device and an inode on it.
type Id = (u64, u64);

/// Seconds and nanoseconds.
type Time = (i64, i64);

/// A file of a workspace that was kept. The kernel alone sets the time of the last change of an inode: builds cannot set it back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    id: Id,
    size: u64,
    changed: Time,
    mode: u32,
    sha256: Digest,
    /// When the object was written last.
    kept: Time,
}

/// The objects, and which files of a workspace they were copied from.
#[derive(Debug)]
pub(crate) struct Pool {
    folder: PathBuf,
    memory: PathBuf,
    /// By an earlier build.
    known: HashMap<Id, Known>,
    /// By this one; with secrets taken out, or as they are.
    seen: HashMap<(Id, bool), Known>,
}

impl Pool {
    /// With objects in a folder, and what is remembered of a workspace in a file; without it, nothing is.
    pub(crate) fn open(folder: &Path, memory: &Path) -> Self {
        let known = fs::read(memory).ok().and_then(|text| serde_json::from_slice::<Vec<Known>>(&text).ok());
        let known = known.into_iter().flatten().map(|known| (known.id, known)).collect();
        Self { folder: folder.into(), memory: memory.into(), known, seen: HashMap::new() }
    }

    fn object(&self, sha256: &Digest, mode: u32) -> PathBuf {
        self.folder.join(format!("{}-{mode:o}", sha256.hex()))
    }

    /// Makes a name for what a file was kept as before, if it has not changed since. Gives its digest and its size.
    pub(super) fn link(&mut self, found: &Metadata, redacted: bool, mode: u32, to: &Path) -> Option<(Digest, u64)> {
        let id = id(found);
        let known = match self.seen.get(&(id, redacted)) {
            Some(seen) => seen.clone(),
            None => self.known.get(&id).filter(|_| !redacted)?.clone(),
        };
        let object = self.object(&known.sha256, mode);
        let is_same = (known.changed, known.mode) == ((found.ctime(), found.ctime_nsec()), mode)
            && (redacted || known.size == found.len())
            && fs::symlink_metadata(&object)
                .is_ok_and(|object| object.len() == known.size && time(&object) == known.kept)
            && fs::hard_link(&object, to).is_ok();
        is_same.then(|| {
            let told = (known.sha256.clone(), known.size);
            self.seen.insert((id, redacted), known);
            told
        })
    }

    /// Takes up the copy of a file, and makes it another name of an equal one, where there is one. `aside` is a free name on the same disk.
    pub(super) fn take_up(
        &mut self,
        source: &Metadata,
        redacted: bool,
        copy: (&Path, u32),
        aside: &Path,
        stop: &StopToken,
    ) -> Result<(Digest, u64), FileError> {
        let (to, mode) = copy;
        let read = |path: &Path| File::open(path).and_then(|file| sha256_of_all(stop.reader(file)));
        let (sha256, size) = read(to).map_err(FileError::new("read", to))?;
        make_private_dir(&self.folder)?;
        let object = self.object(&sha256, mode);
        let share = || match fs::hard_link(to, &object) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_equal = read(&object).is_ok_and(|(found, _)| found == sha256);
                // A file can only have so many names (ext4: 65,000); then the copy takes the place of the object.
                let linked = is_equal && fs::hard_link(&object, aside).is_ok() && fs::rename(aside, to).is_ok();
                if linked { Ok(()) } else { fs::hard_link(to, aside).and_then(|()| fs::rename(aside, &object)) }
            }
            linked => linked,
        };
        // Without hard links each build has its own copies.
        if share().is_ok() {
            let kept = fs::symlink_metadata(to).map_err(FileError::new("look at", to))?;
            let changed = (source.ctime(), source.ctime_nsec());
            let known = Known { id: id(source), size, changed, mode, sha256: sha256.clone(), kept: time(&kept) };
            self.seen.insert((known.id, redacted), known);
        }
        Ok((sha256, size))
    }

    /// Remembers what was kept of this workspace, for its next build.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn close(self) -> Result<(), FileError> {
        let seen: HashMap<Id, Known> =
            self.seen.into_iter().filter(|((_, redacted), _)| !redacted).map(|((id, _), known)| (id, known)).collect();
        if seen == self.known {
            return Ok(());
        }
        let mut all: Vec<Known> = seen.into_values().collect();
        all.sort_by_key(|known| known.id);
        let text = serde_json::to_vec(&all).map_err(|error| FileError::new("write", &self.memory)(error.into()))?;
        self.memory.parent().map_or(Ok(()), make_private_dir)?;
        write_atomically(&self.memory, &text, 0o600)
    }
}

/// Removes objects that no build has any more.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn sweep(folder: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.metadata().is_ok_and(|found| found.nlink() == 1) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(FileError::new("remove", &entry.path()))?,
            }
        }
    }
    Ok(())
}

fn time(found: &Metadata) -> Time {
    (found.mtime(), found.mtime_nsec())
}
