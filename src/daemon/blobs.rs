//! What clients have sent: archives of path layers, by their digests. A blob appears by rename, complete and checked; a worker reads it by
//! [`Paths::blob`].

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::{
    model::{Digest, Hint, Kind, Paths, UserError},
    system::files::{FileError, make_private_dir},
};

/// The beginning of the names of half-made blobs.
const INCOMING: &str = ".incoming-";

/// After this long without a byte, an upload is over.
const STALE: Duration = Duration::from_secs(3600);

/// Why a blob is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// More than the daemon takes.
    #[error("the blob has {size} bytes, and at most {limit} are taken")]
    TooLarge {
        /// As it was announced.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// More came than was announced.
    #[error("the blob was announced with {0} bytes, and more came")]
    TooLong(u64),
    /// Less came than was announced.
    #[error("the blob was announced with {wanted} bytes, and {found} came")]
    Short {
        /// As it was announced.
        wanted: u64,
        /// What came.
        found: u64,
    },
    /// Other bytes than those that were announced.
    #[error("the blob was announced as {wanted}, and is {found}")]
    Digest {
        /// As it was announced.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for BlobError {
    fn kind(&self) -> Kind {
        match self {
            Self::File(error) => error.kind(),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::TooLarge { .. } => vec![Hint::new("what a layer's repository ignores (.gitignore) is not sent")],
            Self::File(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// What the sweep leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// What was used within this time.
    pub used_within: Duration,
    /// Bytes of all blobs; those that were not used for the longest time go first.
    pub bytes: u64,
}

/// The blobs of a SMIDR_HOME.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    paths: Paths,
    limit: Arc<AtomicU64>,
}

impl Blobs {
    /// Opens the store. `limit` is that of one blob, in bytes.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn open(paths: &Paths, limit: u64) -> Result<Self, FileError> {
        make_private_dir(&paths.blobs())?;
        Ok(Self { paths: paths.clone(), limit: Arc::new(limit.into()) })
    }

    /// Changes the limit of one blob, in bytes.
    pub(crate) fn limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Which of these are not here. Those that are count as used now, so that they are still here when the submission comes.
    pub(crate) fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        digests.iter().filter(|digest| !self.touch(digest)).cloned().collect()
    }

    /// Notes that a blob is used. False where it is not here.
    pub(crate) fn touch(&self, digest: &Digest) -> bool {
        File::open(self.paths.blob(digest)).and_then(|file| file.set_modified(SystemTime::now())).is_ok()
    }

    /// Begins to take a blob.
    ///
    /// # Errors
    ///
    /// When it is too large, or the file system refuses.
    pub(crate) fn receive(&self, digest: Digest, size: u64) -> Result<Incoming, BlobError> {
        let limit = self.limit.load(Ordering::Relaxed);
        if size > limit {
            return Err(BlobError::TooLarge { size, limit });
        }
        let folder = self.paths.blobs();
        let file = tempfile::Builder::new()
            .prefix(INCOMING)
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(&folder)
            .map_err(FileError::new("write in", &folder))?;
        Ok(Incoming { file, hash: Sha256::new(), place: self.paths.blob(&digest), digest, size, came: 0 })
    }

    /// Removes what is not used any more, and uploads that have broken off. `needed` says what builds that wait have named. Gives the bytes that
    /// became free.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn sweep(&self, keep: Keep, needed: &dyn Fn(&Digest) -> bool) -> Result<u64, FileError> {
        let folder = self.paths.blobs();
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(FileError::new("read", &folder))?.flatten() {
            // One that is gone by now.
            let Ok(data) = entry.metadata() else { continue };
            let age = data.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            found.push((age, data.len(), entry.path()));
        }
        found.sort();
        let (mut kept, mut freed) = (0_u64, 0_u64);
        for (age, size, path) in found {
            let is_over = match digest_of(&path) {
                Some(digest) => {
                    let is_wanted = age <= keep.used_within && kept.saturating_add(size) <= keep.bytes;
                    !is_wanted && !needed(&digest)
                }
                None => age > STALE,
            };
            if is_over {
                fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
                freed += size;
            } else {
                kept += size;
            }
        }
        Ok(freed)
    }
}

fn digest_of(path: &Path) -> Option<Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}

/// A blob that comes in. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: NamedTempFile,
    hash: Sha256,
    place: PathBuf,
    digest: Digest,
    size: u64,
    came: u64,
}

impl Incoming {
    /// Takes a part.
    ///
    /// # Errors
    ///
    /// When more comes than was announced, or the file system refuses.
    pub(crate) fn write(&mut self, part: &[u8]) -> Result<(), BlobError> {
        self.came += part.len() as u64;
        if self.came > self.size {
            return Err(BlobError::TooLong(self.size));
        }
        self.hash.update(part);
        Ok(self.file.write_all(part).map_err(FileError::new("write", &self.place))?)
    }

    /// Shows the blob. Of two that come at once, the last is the one that stays; they are the same.
    ///
    /// # Errors
    ///
    /// When it is not what was announced, or the file system refuses.
    pub(crate) fn finish(self) -> Result<(), BlobError> {
        if self.came != self.size {
            return Err(BlobError::Short { wanted: self.size, found: self.came });
        }
        let found = Digest::from_sha256(self.hash.finalize().into());
        if found != self.digest {
            return Err(BlobError::Digest { wanted: self.digest, found });
        }
        let failed = || FileError::new("write", &self.place);
        // A submission that names it outlives a power cut.
        self.file.as_file().sync_data().map_err(failed())?;
        self.file.persist(&self.place).map_err(|error| failed()(error.error))?;
        // Its name too.
        let folder = self.place.parent().unwrap_or(&self.place);
        Ok(File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        Digest::from_sha256(Sha256::digest(bytes).into())
    }

    fn store(folder: &Path) -> Blobs {
        Blobs::open(&Paths::new(folder.into()), 100).expect("a store")
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder.join("daemon/blobs")).expect("a folder").count()
    }

    #[test]
    fn only_what_was_announced_comes_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let blobs = store(folder.path());
        let send = |digest: Digest, size: u64, parts: &[&[u8]]| {
            let mut incoming = blobs.receive(digest, size)?;
            parts.iter().try_for_each(|part| incoming.write(part))?;
            incoming.finish()
        };
        let good = digest(b"hello world");
        assert!(matches!(send(good.clone(), 101, &[]), Err(BlobError::TooLarge { size: 101, limit: 100 })));
        assert!(matches!(send(good.clone(), 5, &[b"hello", b" world"]), Err(BlobError::TooLong(5))));
        assert!(matches!(send(good.clone(), 11, &[b"hello"]), Err(BlobError::Short { wanted: 11, found: 5 })));
        assert!(matches!(send(good.clone(), 11, &[b"hello", b" World"]), Err(BlobError::Digest { .. })));
        assert_eq!(names(folder.path()), 0);
        assert_eq!(blobs.missing(std::slice::from_ref(&good)), std::slice::from_ref(&good));
        // Two at once.
        let (mut one, mut other) = (blobs.receive(good.clone(), 11), blobs.receive(good.clone(), 11));
        for incoming in [&mut one, &mut other] {
            incoming.as_mut().expect("taken").write(b"hello world").expect("written");
        }
        one.expect("taken").finish().expect("good");
        other.expect("taken").finish().expect("good");
        assert_eq!(names(folder.path()), 1);
        assert!(blobs.missing(std::slice::from_ref(&good)).is_empty());
        let file = File::open(blobs.paths.blob(&good)).expect("a blob");
        assert_eq!(file.metadata().expect("found").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::io::read_to_string(file).expect("text"), "hello world");
        assert!(!blobs.paths.blob(&digest(b"x")).exists());
    }

    #[test]
    fn what_is_old_goes_and_what_waits_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let blobs = store(folder.path());
        let day = Duration::from_secs(86_400);
        let add = |bytes: &[u8], days: u32| {
            let mut incoming = blobs.receive(digest(bytes), bytes.len() as u64).expect("taken");
            incoming.write(bytes).expect("written");
            incoming.finish().expect("good");
            let file = File::open(blobs.paths.blob(&digest(bytes))).expect("a blob");
            file.set_modified(SystemTime::now() - days * day).expect("a time");
            digest(bytes)
        };
        let (old, waits, new, newest) = (add(b"old", 9), add(b"waits", 9), add(b"new", 2), add(b"newest", 1));
        let stays = |blobs: &Blobs, digest: &Digest| blobs.paths.blob(digest).exists();
        let is_needed = |digest: &Digest| *digest == waits;
        let keep = |days: u32, bytes| Keep { used_within: days * day + STALE, bytes };
        assert_eq!(blobs.sweep(keep(3, 1000), &is_needed).expect("swept"), 3);
        assert_eq!([&old, &waits, &new, &newest].map(|one| stays(&blobs, one)), [false, true, true, true]);
        // Only the newest one fits.
        assert_eq!(blobs.sweep(keep(3, 8), &is_needed).expect("swept"), 3);
        assert_eq!([&waits, &new, &newest].map(|one| stays(&blobs, one)), [true, false, true]);
        // Used again.
        assert!(blobs.missing(std::slice::from_ref(&waits)).is_empty());
        assert_eq!(blobs.sweep(keep(3, 1000), &|_| false).expect("swept"), 0);
        // An upload that goes on, and one that has broken off.
        let going = blobs.receive(old.clone(), 3).expect("taken");
        let broken = blobs.receive(old, 3).expect("taken");
        broken.file.as_file().set_modified(SystemTime::now() - day).expect("a time");
        blobs.sweep(keep(3, 1000), &|_| false).expect("swept");
        assert!(going.file.path().exists() && !broken.file.path().exists());
    }
}
