//! Commits as folders that BitBake can read.
//!
//! A checkout is made of a bare mirror, a commit and patches, and is kept from removal while a value of [`Checkout`] lives. It
//! appears complete by rename, once for all users, and is never changed afterwards: files keep git's modes, 0644 and
//! 0755, so that copies of them can be written to; the sandbox shows them read-only.
//!
//! ```text
//! checkouts/<commit>[-<differences>]/<name>/       the files; `.git` borrows the objects of mirrors
//! checkouts/<commit>[-<differences>]/<name>/.git/smidr.json   what it was made of; its time is that of the last use
//! checkouts/tmp/                               half-made ones, each locked by its maker
//! ```
//!
//! What a repository names is hostile. A tree is listed before anything is written (`tree`), every object is hashed when it is
//! read (`objects`), and links are judged when everything is there, patches included (`links`).

mod dotgit;
mod error;
mod links;
mod make;
mod needed;
mod objects;
mod record;
mod submodules;

mod tree;
mod write;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

pub use error::{CheckoutError, RefusedUrl, SubmoduleFailed};
use jiff::Timestamp;
use make::Making;
use needed::Needed;
pub(super) use record::Record;
use sha2::{Digest as _, Sha256};
pub use tree::Limits;

use super::patch::ReadPatch;
use crate::{
    events::Emitter,
    lock::PatchPin,
    model::{CommitId, Event, last_part},
    plan::Submodules as Choice,
    system::{
        files,
        lock::{self, Attempt, FileLock, Mode},
        scratch::Scratch,
        stop::StopToken,
    },
};

/// Held shared by all users of checkouts, and exclusively to remove their lock files.
pub(super) const STORE_LOCK: &str = "checkouts";

/// The commits of layer repositories that are written out.
#[derive(Clone, Debug)]
pub struct CheckoutStore {
    pub(super) store: PathBuf,
    pub(super) locks: PathBuf,
    limits: Limits,
}

/// A commit that is written out. It is not removed while this value lives.
#[derive(Debug)]
pub struct Checkout {
    /// Its files.
    pub folder: PathBuf,
    /// Bare mirrors that its `.git` borrows objects from: they have to be visible in the sandbox, read-only.
    pub borrowed: Vec<PathBuf>,
    sealed: Option<Timestamp>,
    _held: FileLock,
}

impl Checkout {
    /// Checks that it has not been changed since it was made: all builds of all projects share it. Takes milliseconds for thousands of
    /// files; git's own files are not looked at.
    ///
    /// # Errors
    ///
    /// When something in it is younger than its record, or cannot be looked at.
    pub fn is_untouched(&self) -> Result<(), CheckoutError> {
        let Some(sealed) = self.sealed.map(SystemTime::from) else { return Ok(()) };
        match record::youngest(&self.folder)? {
            // Removing something changes the folder that it was in.
            Some((modified, path)) if modified > sealed => {
                Err(CheckoutError::Changed { folder: self.folder.clone(), path })
            }
            _ => Ok(()),
        }
    }
}

/// Brings a submodule: for its address, mirrors and commit, a bare repository in which the commit is present.
pub type Submodules<'a> = dyn FnMut(&str, &[String], &CommitId) -> Result<PathBuf, SubmoduleFailed> + 'a;

/// What is wanted.
pub struct Wanted<'a> {
    /// A bare repository that has the commit.
    pub mirror: &'a Path,
    /// The address that it is a mirror of.
    pub url: &'a str,
    /// The address's own mirrors, beside which relative addresses of submodules may be found too.
    pub mirrors: &'a [String],
    /// The commit that is written out.
    pub commit: &'a CommitId,
    /// Patches, in this order.
    pub patches: &'a [ReadPatch],
    /// Whether links may lead out of it.
    pub outside_links: bool,
    /// Which of its submodules are brought.
    pub submodules: &'a Choice,
}

impl Wanted<'_> {
    /// The record of one that is complete and whose mirrors are there.
    fn found(&self, folder: &Path) -> Result<Option<Record>, CheckoutError> {
        let Some(record) = Record::of(folder) else { return Ok(None) };
        match record.borrowed.iter().find(|mirror| !mirror.join("objects").is_dir()) {
            None => Ok(Some(record)),
            // The files are sound and may be in use: only `.git` lacks its mirror.
            Some(lost) if lost == self.mirror => {
                let (object, mirror) = (self.commit.to_string(), lost.clone());
                Err(CheckoutError::Damaged { object, mirror, source: None })
            }
            Some(_) => Ok(None),
        }
    }
}

impl CheckoutStore {
    /// The checkouts of a layer store. Touches nothing.
    pub fn new(store: &Path) -> Self {
        Self { store: store.into(), locks: store.join("locks"), limits: Limits::default() }
    }

    /// The same store with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Keeps mirrors from being removed before a checkout borrows from them.
    ///
    /// # Errors
    ///
    /// When the lock cannot be had.
    pub fn hold(&self, on: &Emitter, stop: &StopToken) -> Result<FileLock, CheckoutError> {
        self.lock(STORE_LOCK, Mode::Shared, "the layer store", on, stop)
    }

    /// A commit that is written out already.
    ///
    /// # Errors
    ///
    /// When its lock cannot be had.
    pub fn find(
        &self,
        (mirror, url): (&Path, &str),
        commit: &CommitId,
        patches: &[PatchPin],
        submodules: &Choice,
    ) -> Result<Option<Checkout>, CheckoutError> {
        let submodules = self.identity(mirror, commit, submodules);
        let (key, name) = (key(commit, patches.iter(), submodules.as_deref()), name_of(url));
        let folder = self.folder(&key).join(&name);
        if !folder.is_dir() {
            return Ok(None);
        }
        let lock = lock::try_lock(&self.lock_path(&use_lock(&key, &name)), Mode::Shared, "a look at the layers")?;
        let (Attempt::Held(held), Some(record)) = (lock, Record::of(&folder)) else { return Ok(None) };
        Ok(Some(Checkout { folder, borrowed: record.borrowed, sealed: record.sealed, _held: held }))
    }

    /// Writes a commit out, if it is not there yet. `submodule` is only called when something has to be made.
    ///
    /// # Errors
    ///
    /// When objects are damaged, the repository holds what must not be written out, a patch does not apply, the file
    /// system refuses, or a stop is requested.
    pub fn checkout(
        &self,
        wanted: &Wanted<'_>,
        submodule: &mut Submodules<'_>,
        on: &Emitter,
        stop: &StopToken,
    ) -> Result<Checkout, CheckoutError> {
        let Wanted { url, commit, patches, outside_links, .. } = *wanted;
        let submodules = self.identity(wanted.mirror, commit, wanted.submodules);
        let key = key(commit, patches.iter().map(|patch| &patch.lock), submodules.as_deref());
        let name = name_of(url);
        let folder = self.folder(&key).join(&name);
        let what = format!("the checkout of {}", commit.short());
        let _store = self.hold(on, stop)?;
        let (record, held) = loop {
            let held = self.lock(&use_lock(&key, &name), Mode::Shared, &what, on, stop)?;
            if let Some(record) = wanted.found(&folder)? {
                break (record, held);
            }
            drop(held);
            // Held exclusively while it is made: others wait, and an incomplete one that is in use is waited for.
            let _alone = self.lock(&use_lock(&key, &name), Mode::Exclusive, &what, on, stop)?;
            if wanted.found(&folder)?.is_none() {
                self.make(wanted, &folder, submodule, on, stop)?;
            }
        };
        if let (false, Some((link, target))) = (outside_links, record.outside) {
            return Err(CheckoutError::OutsideLink { repository: url.into(), link, target });
        }
        Record::touch(&folder)?;
        Ok(Checkout { folder, borrowed: record.borrowed, sealed: record.sealed, _held: held })
    }

    // With its lock held alone.
    fn make(
        &self,
        wanted: &Wanted<'_>,
        folder: &Path,
        submodule: &mut Submodules<'_>,
        on: &Emitter,
        stop: &StopToken,
    ) -> Result<(), CheckoutError> {
        let scratch = self.scratch(on, stop)?;
        let room = self.folder("");
        let needed = Needed::new(wanted.submodules);
        Making { wanted, room: &room, limits: &self.limits, submodule, needed, on, stop }.make(scratch.path())?;
        if let Some(above) = folder.parent() {
            files::make_private_dir(above)?;
        }
        Ok(scratch.tree_becomes(folder)?)
    }

    /// What tells a choice of submodules from others; none where all are brought, or the repository has none.
    fn identity(&self, mirror: &Path, commit: &CommitId, choice: &Choice) -> Option<String> {
        let identity = needed::identity(choice)?;
        tree::has_submodules(mirror, commit, &self.limits).then_some(identity)
    }

    /// A private folder in the file system of the store. What killed processes left there is removed first.
    pub(super) fn scratch(&self, on: &Emitter, stop: &StopToken) -> Result<Scratch, CheckoutError> {
        let tmp = self.folder("tmp");
        let _alone = self.lock("checkouts-tmp", Mode::Exclusive, "the layer store", on, stop)?;
        files::make_private_dir(&tmp)?;
        Scratch::remove_stale(&tmp)?;
        Ok(Scratch::make(&tmp)?)
    }

    pub(super) fn folder(&self, key: &str) -> PathBuf {
        self.store.join("checkouts").join(key)
    }

    pub(super) fn lock(
        &self,
        name: &str,
        mode: Mode,
        what: &str,
        on: &Emitter,
        stop: &StopToken,
    ) -> Result<FileLock, CheckoutError> {
        let waiting = |other: &str| on.emit(Event::Waiting { resource: what.into(), holder: other.into() });
        let holder = format!("build {}", on.build());
        files::make_private_dir(&self.locks)?;
        Ok(lock::lock(&lock::path_in(&self.locks, name), mode, &holder, stop, waiting)?)
    }
}

/// The name of the lock that users of a checkout hold shared.
pub(super) fn use_lock(key: &str, name: &str) -> String {
    format!("checkout-{key}@{name}")
}

fn key<'a>(commit: &CommitId, patches: impl Iterator<Item = &'a PatchPin>, submodules: Option<&str>) -> String {
    let patches: String = patches.map(|patch| patch.sha256.hex().to_owned()).collect();
    let differences = patches + submodules.unwrap_or_default();
    if differences.is_empty() {
        return commit.to_string();
    }
    let all = Sha256::new().chain_update(differences);
    // 128 bits: with 64, two lists of patches with one name can be found by trying.
    format!("{commit}-{:.32}", hex::encode(all.finalize()))
}

/// The last part of an address as a safe and familiar name. OpenEmbedded's sanity check refuses the core layer where its
/// path has a `+`, a space or an `@`.
fn name_of(url: &str) -> String {
    let last = last_part(url).replace('+', "_");
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = !last.is_empty() && last.len() <= 100 && !last.starts_with(['.', '-']) && last.chars().all(is_safe);
    if good { last } else { "repository".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_names_that_bitbake_takes() {
        for (url, name) in [
            ("https://host/meta-x.git", "meta-x"),
            ("https://host/meta-c++", "meta-c__"),
            ("https://host/a b", "repository"),
            ("https://host/me@x", "repository"),
            ("https://host/.git", "repository"),
            ("/", "repository"),
        ] {
            assert_eq!(name_of(url), name, "{url}");
        }
    }
}
