//! Removes checkouts and mirrors that have not been used for a given time.
//!
//! What a running build uses stays, whatever its age, and so does a mirror that a
//! checkout borrows from.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    checkout::{CheckoutError, CheckoutStore, Record, STORE_LOCK, use_lock},
    mirror::is_remnant,
};
use crate::{
    events::Emitter,
    lock::PatchPin,
    model::CommitId,
    system::{
        files::{self, FileError},
        lock::{self, Attempt, Mode},
        scratch::Scratch,
        stop::StopToken,
    },
};

/// A checkout that is in the store.
#[derive(Clone, Debug)]
pub struct StoredCheckout {
    /// Its files.
    pub folder: PathBuf,
    /// Where it came from.
    pub url: String,
    /// The commit.
    pub commit: CommitId,
    /// Its patches.
    pub patches: Vec<PatchPin>,
    /// The mirrors that it borrows objects from.
    pub borrowed: Vec<PathBuf>,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was last used.
    pub last_used: Timestamp,
    /// The process that uses it now, if it is known.
    pub user: Option<String>,
}

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// What was used within this time.
    pub used_within: Duration,
    /// Only report what would be removed.
    pub dry_run: bool,
}

impl Keep {
    fn is_old(&self, used: Timestamp, now: Timestamp) -> bool {
        Duration::try_from(now.duration_since(used)).is_ok_and(|age| age > self.used_within)
    }
}

/// What was removed, or would be.
#[derive(Debug, Default)]
pub struct Gone {
    /// Checkouts.
    pub checkouts: Vec<StoredCheckout>,
    /// Mirrors, and their bytes.
    pub mirrors: Vec<(PathBuf, u64)>,
    /// Bytes of what never became a checkout.
    pub leftovers: u64,
    /// Checkouts that are old enough, but in use.
    pub in_use: Vec<StoredCheckout>,
}

impl Gone {
    /// How many bytes that frees.
    pub fn bytes(&self) -> u64 {
        let checkouts = self.checkouts.iter().map(|checkout| checkout.bytes);
        checkouts.chain(self.mirrors.iter().map(|(_, bytes)| *bytes)).fold(self.leftovers, u64::saturating_add)
    }
}

impl CheckoutStore {
    /// All checkouts, sorted by their folders; incomplete ones are left out.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<StoredCheckout>, FileError> {
        let mut found = Vec::new();
        for folder in self.folders()? {
            let (Some(record), Ok(last_used)) = (Record::read(&folder), Record::used(&folder)) else { continue };
            let Record { url, commit, patches, borrowed, bytes, .. } = record;
            let user = lock::holder(&self.lock_of(&folder))?;
            found.push(StoredCheckout { folder, url, commit, patches, borrowed, bytes, last_used, user });
        }
        found.sort_by(|a, b| a.folder.cmp(&b.folder));
        Ok(found)
    }

    /// Removes checkouts that are older than `keep` allows, then mirrors of the same age that no checkout needs.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written, or a stop is requested.
    pub fn prune(&self, keep: Keep, now: Timestamp, on: &Emitter, stop: &StopToken) -> Result<Gone, CheckoutError> {
        for damaged in entries(&self.store.join("mirrors"))?.iter().filter(|path| is_remnant(path)) {
            on.warn(format!(
                "{} is left of a damaged mirror; unless a smidr.lock needs a commit that only it has, remove it",
                damaged.display()
            ));
        }
        let mut gone = Gone::default();
        let mut needed = BTreeSet::new();
        // Everything is moved here before it is removed: after a kill, the next scratch folder that is made removes it.
        let scratch = if keep.dry_run { None } else { Some(self.scratch(on, stop)?) };
        for checkout in self.list()? {
            if !keep.is_old(checkout.last_used, now) {
                needed.extend(checkout.borrowed);
            } else if checkout.user.is_some() || !self.discard(&checkout.folder, keep, now, scratch.as_ref())? {
                needed.extend(checkout.borrowed.clone());
                gone.in_use.push(checkout);
            } else {
                gone.checkouts.push(checkout);
            }
        }
        let Some(scratch) = scratch else {
            gone.mirrors = self.unneeded(&needed, keep, now)?;
            gone.leftovers = sizes(&self.incomplete()?);
            return Ok(gone);
        };
        {
            // No checkout is made from a mirror while this lock is held.
            let _alone = self.lock(STORE_LOCK, Mode::Exclusive, "the layer store", on, stop)?;
            needed.extend(self.list()?.into_iter().flat_map(|checkout| checkout.borrowed));
            for (mirror, bytes) in self.unneeded(&needed, keep, now)? {
                if self.take_away(&mirror, &scratch)? {
                    gone.mirrors.push((mirror, bytes));
                }
            }
            gone.leftovers = self.sweep(&scratch)?;
        }
        Ok(gone)
    }

    /// Moves a checkout away unless it is in use after all, then removes it. Without a scratch folder nothing happens.
    fn discard(
        &self,
        folder: &Path,
        keep: Keep,
        now: Timestamp,
        scratch: Option<&Scratch>,
    ) -> Result<bool, CheckoutError> {
        let Some(scratch) = scratch else { return Ok(true) };
        let away = {
            let Attempt::Held(_alone) = lock::try_lock(&self.lock_of(folder), Mode::Exclusive, "layers prune")? else {
                return Ok(false);
            };
            if Record::used(folder).is_ok_and(|used| !keep.is_old(used, now)) {
                return Ok(false);
            }
            let away = move_away(folder, scratch)?;
            // Fails if another checkout of the same commit stands there.
            let _ = folder.parent().map(fs::remove_dir);
            away
        };
        // Without the lock: removing many files takes long, and the same commit may be checked out again meanwhile.
        files::remove_tree(&away)?;
        Ok(true)
    }

    fn unneeded(
        &self,
        needed: &BTreeSet<PathBuf>,
        keep: Keep,
        now: Timestamp,
    ) -> Result<Vec<(PathBuf, u64)>, CheckoutError> {
        let mut found = Vec::new();
        for mirror in entries(&self.store.join("mirrors"))? {
            if needed.contains(&mirror) || is_remnant(&mirror) || !mirror.join("objects").is_dir() {
                continue;
            }
            let look = || Ok((last_change(&mirror)?, size(&mirror)?));
            let (used, bytes) = look().map_err(FileError::new("look at", &mirror))?;
            if keep.is_old(used, now) {
                found.push((mirror, bytes));
            }
        }
        Ok(found)
    }

    // A mirror that is locked is being written. Its lock is named after it.
    fn take_away(&self, mirror: &Path, scratch: &Scratch) -> Result<bool, CheckoutError> {
        // `.NAME.git.new` and the like belong to NAME.
        let file = mirror.file_name().unwrap_or_default().to_string_lossy();
        let name = file.trim_start_matches('.').split(".git").next().unwrap_or_default();
        let lock = self.lock_path(&format!("mirror-{name}"));
        let Attempt::Held(_alone) = lock::try_lock(&lock, Mode::Exclusive, "layers prune")? else { return Ok(false) };
        move_away(mirror, scratch)?;
        Ok(true)
    }

    /// Checkouts without a record, which nothing is making.
    fn incomplete(&self) -> Result<Vec<PathBuf>, FileError> {
        let mut found = Vec::new();
        for folder in self.folders()? {
            if Record::read(&folder).is_none() && lock::holder(&self.lock_of(&folder))?.is_none() {
                found.push(folder);
            }
        }
        Ok(found)
    }

    /// Removes checkouts without a record, and locks of what is not there. Needs the store's lock, held exclusively. Gives the bytes that are free
    /// then.
    fn sweep(&self, scratch: &Scratch) -> Result<u64, CheckoutError> {
        let incomplete = self.incomplete()?;
        let freed = sizes(&incomplete);
        for folder in incomplete {
            move_away(&folder, scratch)?;
        }
        for above in self.keys()? {
            // Fails if it is not empty.
            let _ = fs::remove_dir(above);
        }
        for path in entries(&self.locks)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let of = name.strip_suffix(".lock").and_then(|name| name.strip_prefix("checkout-")?.split_once('@'));
            let over = of.is_some_and(|(key, name)| is_key(key) && !self.folder(key).join(name).exists());
            if over && matches!(lock::try_lock(&path, Mode::Exclusive, "layers prune")?, Attempt::Held(_)) {
                fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
            }
        }
        Ok(freed)
    }

    fn folders(&self) -> Result<Vec<PathBuf>, FileError> {
        let listed = self.keys()?.iter().map(|above| entries(above)).collect::<Result<Vec<_>, _>>()?;
        Ok(listed.into_iter().flatten().collect())
    }

    fn lock_of(&self, folder: &Path) -> PathBuf {
        let last = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.lock_path(&use_lock(&last(folder.parent().unwrap_or(folder)), &last(folder)))
    }

    fn keys(&self) -> Result<Vec<PathBuf>, FileError> {
        let mut keys = entries(&self.store.join("checkouts"))?;
        keys.retain(|path| is_key(&path.file_name().unwrap_or_default().to_string_lossy()));
        Ok(keys)
    }

    pub(super) fn lock_path(&self, name: &str) -> PathBuf {
        lock::path_in(&self.locks, name)
    }
}

/// Moves an entry of the store into the scratch folder.
fn move_away(from: &Path, scratch: &Scratch) -> Result<PathBuf, FileError> {
    // Checkouts of two commits may have one name, and so may two of one commit: with its patches and without.
    let parts: Vec<_> = from.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
    let to = scratch.path().join(parts.join("@"));
    fs::rename(from, &to).map_err(FileError::new("move away", from))?;
    Ok(to)
}

/// Whether a name is a commit's, with or without patches.
fn is_key(name: &str) -> bool {
    name.split('-').next().is_some_and(|commit| commit.parse::<CommitId>().is_ok())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(FileError::new("list", folder)),
    }
}

// Fetching changes something at the top of a mirror: refs, `shallow`, FETCH_HEAD, the folder of packs.
fn last_change(mirror: &Path) -> io::Result<Timestamp> {
    let mut newest = fs::metadata(mirror)?.modified()?;
    for entry in walkdir::WalkDir::new(mirror).min_depth(1).max_depth(2) {
        newest = newest.max(entry?.metadata()?.modified()?);
    }
    Timestamp::try_from(newest).map_err(io::Error::other)
}

/// What is gone meanwhile counts nothing.
fn sizes(trees: &[PathBuf]) -> u64 {
    trees.iter().filter_map(|tree| size(tree).ok()).fold(0, u64::saturating_add)
}

fn size(tree: &Path) -> io::Result<u64> {
    walkdir::WalkDir::new(tree).into_iter().try_fold(0, |sum: u64, entry| {
        let found = entry?.metadata()?;
        Ok(sum.saturating_add(if found.is_file() { found.len() } else { 0 }))
    })
}
