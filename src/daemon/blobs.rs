//! What clients have sent: archives of path layers, by their digests. A blob appears by rename, complete and checked; a worker reads it by
//! [`Paths::blob`]. It is kept once, and beside it `DIGEST.owners/` has an empty file for each customer that has sent it: a customer that knows
//! a digest alone can neither build with the blob nor learn that it is here.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
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

/// The end of the names of folders with owners.
const OWNERS: &str = ".owners";

/// What was used within this time stays though others need its room: its submission is on the way.
const FRESH: Duration = Duration::from_secs(600);

/// How much room an upload keeps at once, in bytes.
const STEP: u64 = 4 << 20;

/// What uploads leave free on a disk, in bytes and in parts of it: the lesser counts.
const RESERVE: (u64, u64) = (2 << 30, 20);

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
    /// There is no room among all blobs.
    #[error("{size} bytes of a blob do not fit: all blobs together may take {limit}")]
    Full {
        /// What comes, in bytes.
        size: u64,
        /// Of all blobs, in bytes.
        limit: u64,
    },
    /// The disk is nearly full.
    #[error("{size} bytes of a blob do not fit: the daemon's disk is nearly full")]
    Disk {
        /// What comes, in bytes.
        size: u64,
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
            Self::Full { .. } | Self::Disk { .. } => Kind::Outside,
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::TooLarge { .. } => vec![Hint::new("what a layer's repository ignores (.gitignore) is not sent")],
            Self::Full { .. } => vec![
                Hint::new("try again later: blobs make room that no waiting build or schedule needs"),
                Hint::new("or an administrator raises limits.blobs_size in daemon.yaml"),
            ],
            Self::Disk { .. } => vec![Hint::command("an administrator frees some space", "df -h")],
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
#[derive(Debug)]
pub(crate) struct Blobs {
    paths: Paths,
    // Bytes of one blob, and of all.
    limit: AtomicU64,
    total: AtomicU64,
    // Bytes for which uploads keep room.
    coming: Arc<AtomicU64>,
    // A blob and its owners appear and go together; room is given to one upload at a time.
    changes: Arc<Mutex<()>>,
}

impl Blobs {
    /// Opens the store. `limit` is that of one blob, `total` that of all, in bytes.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn open(paths: &Paths, limit: u64, total: u64) -> Result<Self, FileError> {
        make_private_dir(&paths.blobs())?;
        Ok(Self {
            paths: paths.clone(),
            limit: limit.into(),
            total: total.into(),
            coming: Arc::default(),
            changes: Arc::default(),
        })
    }

    /// Changes the limits of one blob and of all, in bytes.
    pub(crate) fn limit(&self, limit: u64, total: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// Which of these a customer has not sent; without a customer: which are not here. Those that are count as used now, so that they are still
    /// here when the submission comes.
    pub(crate) fn missing(&self, digests: &[Digest], customer: Option<&str>) -> Vec<Digest> {
        let is_own =
            |digest: &Digest| customer.is_none_or(|customer| owners(&self.paths.blob(digest)).join(customer).exists());
        digests.iter().filter(|digest| !(is_own(digest) && self.touch(digest))).cloned().collect()
    }

    /// Notes that a blob is used. False where it is not here.
    fn touch(&self, digest: &Digest) -> bool {
        File::open(self.paths.blob(digest)).and_then(|file| file.set_modified(SystemTime::now())).is_ok()
    }

    /// Begins to take a blob of a customer. Where there is no room for it, `make_room` is told how many bytes blobs may have, and removes some.
    ///
    /// # Errors
    ///
    /// When it is too large, there is no room for it, or the file system refuses.
    pub(crate) fn receive(
        &self,
        digest: Digest,
        size: u64,
        customer: Option<&str>,
        make_room: &dyn Fn(u64),
    ) -> Result<Incoming, BlobError> {
        let limit = self.limit.load(Ordering::Relaxed);
        if size > limit {
            return Err(BlobError::TooLarge { size, limit });
        }
        let place = self.paths.blob(&digest);
        self.fits(size, &place, make_room)?;
        let folder = self.paths.blobs();
        let file = tempfile::Builder::new()
            .prefix(INCOMING)
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(&folder)
            .map_err(FileError::new("write in", &folder))?;
        Ok(Incoming {
            file,
            hash: Sha256::new(),
            place,
            customer: customer.map(Into::into),
            digest,
            size,
            came: 0,
            room: Room { size: 0, all: self.coming.clone() },
            changes: self.changes.clone(),
        })
    }

    /// Keeps room for the next part of an upload. What was announced and does not come takes no room from others.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn keep_room(
        &self,
        incoming: &mut Incoming,
        part: u64,
        make_room: &dyn Fn(u64),
    ) -> Result<(), BlobError> {
        let needed = incoming.came + part;
        if needed > incoming.room.size && needed <= incoming.size {
            let rest = incoming.size - incoming.room.size;
            let more = (needed - incoming.room.size).max(STEP).min(rest);
            self.fits(more, &incoming.place, make_room)?;
            incoming.room.grow(more);
        }
        Ok(())
    }

    /// Whether there is room for so many bytes more of a blob. One that is here already will take no more than now.
    fn fits(&self, size: u64, place: &Path, make_room: &dyn Fn(u64)) -> Result<(), BlobError> {
        let limit = self.total.load(Ordering::Relaxed);
        let full = || BlobError::Full { size, limit };
        if !place.exists() {
            let room = limit.checked_sub(self.coming.load(Ordering::Relaxed).saturating_add(size)).ok_or_else(full)?;
            if self.size()? > room {
                make_room(room);
                if self.size()? > room {
                    return Err(full());
                }
            }
        }
        let folder = self.paths.blobs();
        let disk = rustix::fs::statvfs(&folder).map_err(|error| FileError::new("look at", &folder)(error.into()))?;
        let [free, all] = [disk.f_bavail, disk.f_blocks].map(|blocks| blocks.saturating_mul(disk.f_frsize));
        match size.saturating_add(RESERVE.0.min(all / RESERVE.1)) > free {
            true => Err(BlobError::Disk { size }),
            false => Ok(()),
        }
    }

    /// Bytes of all blobs that are complete.
    fn size(&self) -> Result<u64, FileError> {
        let folder = self.paths.blobs();
        let entries = fs::read_dir(&folder).map_err(FileError::new("read", &folder))?.flatten();
        let blobs = entries.filter(|entry| digest_of(&entry.path()).is_some());
        Ok(blobs.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum())
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
            if data.is_dir() {
                continue;
            }
            let age = data.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            found.push((age, data.len(), entry.path()));
        }
        found.sort();
        let (mut kept, mut freed) = (0_u64, 0_u64);
        for (age, size, path) in found {
            let is_over = match digest_of(&path) {
                Some(digest) => {
                    let has_room = age <= FRESH || kept.saturating_add(size) <= keep.bytes;
                    let is_wanted = age <= keep.used_within && has_room;
                    !is_wanted && !needed(&digest)
                }
                None => age > STALE,
            };
            if is_over {
                let _alone = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
                let removed = fs::remove_dir_all(owners(&path)).or_else(unless_gone);
                let removed = removed.and_then(|()| fs::remove_file(&path).or_else(unless_gone));
                removed.map_err(FileError::new("remove", &path))?;
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

/// The folder with those that have sent a blob.
fn owners(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(OWNERS);
    name.into()
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Room that an upload keeps, in bytes.
#[derive(Debug)]
struct Room {
    size: u64,
    // Of all uploads.
    all: Arc<AtomicU64>,
}

impl Room {
    fn grow(&mut self, more: u64) {
        self.all.fetch_add(more, Ordering::Relaxed);
        self.size += more;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// A blob that comes in. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: NamedTempFile,
    hash: Sha256,
    place: PathBuf,
    digest: Digest,
    size: u64,
    customer: Option<String>,
    came: u64,
    room: Room,
    changes: Arc<Mutex<()>>,
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
        let _alone = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.persist(&self.place).map_err(|error| failed()(error.error))?;
        let sync = |folder: &Path| File::open(folder).and_then(|folder| folder.sync_all());
        if let Some(customer) = &self.customer {
            let folder = owners(&self.place);
            make_private_dir(&folder)?;
            let made = File::create(folder.join(customer)).and_then(|_| sync(&folder));
            made.map_err(FileError::new("write in", &folder))?;
        }
        // Its name too.
        Ok(sync(self.place.parent().unwrap_or(&self.place)).map_err(failed())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        Digest::from_sha256(Sha256::digest(bytes).into())
    }

    fn store(folder: &Path) -> Blobs {
        Blobs::open(&Paths::new(folder.into()), 100, 1000).expect("a store")
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder.join("daemon/blobs")).expect("a folder").count()
    }

    #[test]
    fn only_what_was_announced_comes_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let blobs = store(folder.path());
        let send = |digest: Digest, size: u64, parts: &[&[u8]]| {
            let mut incoming = blobs.receive(digest, size, None, &|_| ())?;
            parts.iter().try_for_each(|part| incoming.write(part))?;
            incoming.finish()
        };
        let good = digest(b"hello world");
        assert!(matches!(send(good.clone(), 101, &[]), Err(BlobError::TooLarge { size: 101, limit: 100 })));
        assert!(matches!(send(good.clone(), 5, &[b"hello", b" world"]), Err(BlobError::TooLong(5))));
        assert!(matches!(send(good.clone(), 11, &[b"hello"]), Err(BlobError::Short { wanted: 11, found: 5 })));
        assert!(matches!(send(good.clone(), 11, &[b"hello", b" World"]), Err(BlobError::Digest { .. })));
        assert_eq!(names(folder.path()), 0);
        assert_eq!(blobs.missing(std::slice::from_ref(&good), None), std::slice::from_ref(&good));
        // Two at once.
        let (mut one, mut other) = ([(); 2].map(|()| blobs.receive(good.clone(), 11, None, &|_| ()))).into();
        for incoming in [&mut one, &mut other] {
            incoming.as_mut().expect("taken").write(b"hello world").expect("written");
        }
        one.expect("taken").finish().expect("good");
        other.expect("taken").finish().expect("good");
        assert_eq!(names(folder.path()), 1);
        assert!(blobs.missing(std::slice::from_ref(&good), None).is_empty());
        let file = File::open(blobs.paths.blob(&good)).expect("a blob");
        assert_eq!(file.metadata().expect("found").permissions().mode() & 0o777, 0o600);
        assert_eq!(io::read_to_string(file).expect("text"), "hello world");
        assert!(!blobs.paths.blob(&digest(b"x")).exists());
    }

    #[test]
    fn what_is_old_goes_and_what_waits_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let blobs = store(folder.path());
        let day = Duration::from_secs(86_400);
        let add = |bytes: &[u8], days: u32| {
            let mut incoming = blobs.receive(digest(bytes), bytes.len() as u64, None, &|_| ()).expect("taken");
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
        assert!(blobs.missing(std::slice::from_ref(&waits), None).is_empty());
        assert_eq!(blobs.sweep(keep(3, 1000), &|_| false).expect("swept"), 0);
        // An upload that goes on, and one that has broken off.
        let going = blobs.receive(old.clone(), 3, None, &|_| ()).expect("taken");
        let broken = blobs.receive(old, 3, None, &|_| ()).expect("taken");
        broken.file.as_file().set_modified(SystemTime::now() - day).expect("a time");
        blobs.sweep(keep(3, 1000), &|_| false).expect("swept");
        assert!(going.file.path().exists() && !broken.file.path().exists());
    }

    #[test]
    fn each_customer_has_what_it_has_sent() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let good = digest(b"layer");
        let wanted = std::slice::from_ref(&good);
        let send = |customer: Option<&str>| {
            let mut incoming = store(folder.path()).receive(good.clone(), 5, customer, &|_| ()).expect("taken");
            incoming.write(b"layer").expect("written");
            incoming.finish().expect("good");
        };
        send(Some("acme"));
        let again = store(folder.path());
        assert!(again.missing(wanted, Some("acme")).is_empty() && again.missing(wanted, None).is_empty());
        assert_eq!(again.missing(wanted, Some("beta")), wanted);
        send(Some("beta"));
        assert!(again.missing(wanted, Some("beta")).is_empty() && again.missing(wanted, Some("acme")).is_empty());
        assert_eq!(names(folder.path()), 2, "one blob, and its owners");
        // A customer that sends it later owns it alone.
        again.sweep(Keep { used_within: Duration::ZERO, bytes: 0 }, &|_| false).expect("swept");
        assert_eq!(names(folder.path()), 0);
        send(Some("beta"));
        assert_eq!(again.missing(wanted, Some("acme")), wanted);
    }

    #[test]
    fn all_blobs_together_have_a_limit() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let blobs = Blobs::open(&Paths::new(folder.path().into()), 100, 10).expect("a store");
        let begin = |bytes: &[u8]| {
            let make_room = |bytes: u64| {
                let keep = Keep { used_within: Duration::MAX, bytes };
                blobs.sweep(keep, &|_| false).expect("swept");
            };
            blobs.receive(digest(bytes), bytes.len() as u64, None, &make_room)
        };
        let mut first = begin(b"123456").expect("taken");
        // What is announced and does not come takes no room.
        let mut idle = begin(b"abcde").expect("room as long as the other does not come");
        first.room.grow(6);
        assert!(matches!(begin(b"abcde"), Err(BlobError::Full { size: 5, limit: 10 })));
        begin(b"abcd").expect("room for so much");
        first.write(b"123456").expect("written");
        first.finish().expect("good");
        assert!(matches!(blobs.keep_room(&mut idle, 5, &|_| ()), Err(BlobError::Full { .. })));
        // What was used a moment ago stays; what was not makes room.
        assert!(matches!(begin(b"abcde"), Err(BlobError::Full { .. })));
        let file = File::open(blobs.paths.blob(&digest(b"123456"))).expect("a blob");
        file.set_modified(SystemTime::now() - 2 * FRESH).expect("a time");
        begin(b"abcde").expect("room");
        assert!(!blobs.paths.blob(&digest(b"123456")).exists());
    }
}
