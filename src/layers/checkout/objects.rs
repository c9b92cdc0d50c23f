//! The objects of a mirror, each hashed when it is read.
//!
//! Gives content only if it hashes to its id. Failures and the number of bytes read are recorded.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use gix::{
    ObjectId,
    objs::{Data, Find, FindHeader, Kind},
};

use super::{error::CheckoutError, tree::Limits};
use crate::system::stop::StopToken;

/// How a pointer of git-lfs begins, and its largest size.
const POINTER: (&[u8], usize) = (b"version https://git-lfs.github.com/spec/", 1024);

/// The objects of one mirror. Cheap to clone, one for each thread.
#[derive(Clone)]
pub(super) struct Objects {
    odb: gix::odb::Handle,
    mirror: PathBuf,
    seen: Arc<Seen>,
}

struct Seen {
    // Limits for all files and links, and for one.
    limit: u64,
    largest: u64,
    bytes: AtomicU64,
    over: Mutex<Option<(&'static str, u64)>>,
    pointers: AtomicU64,
    stop: StopToken,
    bad: Mutex<Option<(ObjectId, Option<gix::Error>)>>,
}

/// Objects that could not be read, or must not be.
#[derive(Debug)]
struct Refused(&'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refused {}

impl Objects {
    /// Opens a bare repository. `used` bytes of the limits are spent already. Nothing is read any more once
    /// a stop is requested.
    ///
    /// # Errors
    ///
    /// When it is not there: `wanted` is then reported as missing.
    pub(super) fn open(
        mirror: &Path,
        wanted: &ObjectId,
        limits: &Limits,
        used: u64,
        stop: &StopToken,
    ) -> Result<Self, CheckoutError> {
        let mut odb = gix::odb::at(mirror.join("objects"), wanted.kind()).map_err(|error| CheckoutError::Damaged {
            object: wanted.to_string(),
            mirror: mirror.into(),
            source: Some(Box::new(error)),
        })?;
        // Without `refs/replace`, which would give another content for an id.
        odb.ignore_replacements = true;
        // Neighbours in a tree are often deltas of the same object.
        odb.set_pack_cache(|| Box::new(gix::odb::pack::cache::lru::StaticLinkedList::<64>::default()));
        let (over, bytes, pointers, stop) =
            (Mutex::default(), AtomicU64::default(), AtomicU64::default(), stop.clone());
        let seen = Seen {
            limit: limits.bytes.saturating_sub(used),
            largest: limits.file,
            bytes,
            over,
            pointers,
            stop,
            bad: Mutex::default(),
        };
        Ok(Self { odb, mirror: mirror.into(), seen: Arc::new(seen) })
    }

    /// Reads an object of that kind.
    ///
    /// # Errors
    ///
    /// When it is missing, damaged, or of another kind.
    pub(super) fn read(&self, id: &ObjectId, kind: Kind) -> Result<Vec<u8>, CheckoutError> {
        let mut buffer = Vec::new();
        let found = self.try_find(id, &mut buffer).ok().flatten().map(|data| data.kind);
        if found == Some(kind) { Ok(buffer) } else { Err(self.damaged(id)) }
    }

    /// The first failure so far.
    pub(super) fn trouble(&self, repository: &str) -> Option<CheckoutError> {
        if let Some((what, limit)) = *self.over() {
            return Some(CheckoutError::Limit { repository: repository.into(), what, limit });
        }
        let bad = self.bad().take();
        bad.map(|(id, source)| CheckoutError::Damaged {
            object: id.to_string(),
            mirror: self.mirror.clone(),
            source: source.map(Into::into),
        })
    }

    /// Bytes of files and links that were read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.seen.bytes.load(Ordering::Relaxed)
    }

    /// How many of the files were pointers of git-lfs.
    pub(super) fn pointers(&self) -> u64 {
        self.seen.pointers.load(Ordering::Relaxed)
    }

    fn damaged(&self, id: &ObjectId) -> CheckoutError {
        let source = self.bad().take().and_then(|(_, source)| source).map(Into::into);
        CheckoutError::Damaged { object: id.to_string(), mirror: self.mirror.clone(), source }
    }

    // The record is sound even if a thread panicked while it held the lock.
    fn bad(&self) -> MutexGuard<'_, Option<(ObjectId, Option<gix::Error>)>> {
        self.seen.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self) -> MutexGuard<'_, Option<(&'static str, u64)>> {
        self.seen.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blame(&self, id: &gix::oid, source: Option<gix::Error>) -> gix::Error {
        self.bad().get_or_insert_with(|| (id.to_owned(), source));
        gix::Error::from_error(Refused("an object is missing or damaged"))
    }

    // Checked before it is read: a small pack can declare an arbitrarily large object.
    fn check_size(&self, id: &gix::oid) -> gix::Result {
        // gix polls its own flag between chunks of files only.
        if self.seen.stop.is_requested() {
            return Err(gix::Error::from_error(Refused("stopped")));
        }
        let header = match self.odb.try_header(id) {
            Ok(Some(header)) => header,
            Ok(None) => return Err(self.blame(id, None)),
            Err(error) => return Err(self.blame(id, Some(error))),
        };
        let (before, size) = (self.bytes(), header.size);
        if size > self.seen.largest {
            *self.over() = Some(("bytes in one file", self.seen.largest));
            return Err(gix::Error::from_error(Refused("more than may be read")));
        }
        if before.saturating_add(size) > self.seen.limit {
            *self.over() = Some(("bytes", self.seen.limit));
            return Err(gix::Error::from_error(Refused("more than may be read")));
        }
        if header.kind == Kind::Blob {
            self.seen.bytes.fetch_add(size, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Find for Objects {
    fn try_find<'a>(&self, id: &gix::oid, buffer: &'a mut Vec<u8>) -> gix::Result<Option<Data<'a>>> {
        self.check_size(id)?;
        let data = match self.odb.try_find(id, buffer) {
            Ok(Some(data)) => data,
            Ok(None) => return Err(self.blame(id, None)),
            Err(error) => return Err(self.blame(id, Some(error))),
        };
        if let Err(error) = data.verify_checksum(id) {
            return Err(self.blame(id, Some(error)));
        }
        if data.kind == Kind::Blob && data.data.len() <= POINTER.1 && data.data.starts_with(POINTER.0) {
            self.seen.pointers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some(data))
    }
}
