//! Brings repositories: a folder of this machine as it is, or a checkout of the store. Several at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use super::{
    LayerError,
    access::Access,
    checkout::{Checkout, CheckoutError, CheckoutStore, SubmoduleFailed, Wanted},
    git_error::GitError,
    local::Local,
    mirror::Mirrors,
    patch::{ReadPatch, read_patches},
};
use crate::{
    lock::RepositoryPin,
    model::{CommitId, Logins, folder_of, with_secrets_of, without_secrets},
    plan::{Plan, PlannedGit, PlannedPath, PlannedSource},
};

/// How many addresses are fetched from at once. More would share the same network and the same disk.
const WORKERS: usize = 4;

/// A repository that is ready.
#[derive(Debug)]
pub enum Repository {
    /// A folder of this machine.
    Local(Local),
    /// A checkout of the store.
    Pinned {
        /// For smidr.lock.
        pin: RepositoryPin,
        /// What it is.
        checkout: Checkout,
    },
}

impl Repository {
    /// The folder in which layers are looked for.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Local(local) => &local.folder,
            Self::Pinned { checkout, .. } => &checkout.folder,
        }
    }

    /// The whole repository: nothing of its layers is read outside of it.
    pub fn whole(&self) -> &Path {
        match self {
            Self::Local(local) => &local.repository,
            Self::Pinned { checkout, .. } => &checkout.folder,
        }
    }

    /// For smidr.lock.
    pub fn pin(&self) -> &RepositoryPin {
        match self {
            Self::Local(local) => &local.pin,
            Self::Pinned { pin, .. } => pin,
        }
    }

    /// For messages: what it is pinned to.
    pub fn describe(&self) -> String {
        match self {
            Self::Local(local) => local.describe(),
            Self::Pinned { pin, .. } => {
                let commit = pin.commit.as_ref().map(CommitId::short).unwrap_or_default();
                if pin.patches.is_empty() { commit } else { format!("{commit} and patches") }
            }
        }
    }
}

/// The store of mirrors and checkouts.
pub struct Store {
    /// Bare repositories.
    pub mirrors: Mirrors,
    /// The checkouts that builds see.
    pub checkouts: CheckoutStore,
}

impl Store {
    /// The store that a plan uses.
    pub fn of(plan: &Plan) -> Self {
        Self::at(&plan.layer_store)
    }

    /// The store in a folder. Touches nothing. Its locks are its own, since several SMIDR_HOMEs may share it.
    pub fn at(folder: &Path) -> Self {
        Self { mirrors: Mirrors::new(folder), checkouts: CheckoutStore::new(folder) }
    }

    /// A source as far as it is here, at its pinned commit.
    ///
    /// # Errors
    ///
    /// When a folder of this machine is not there, or the store cannot be read.
    pub fn find(&self, name: &str, source: &PlannedSource, home: &Path) -> Result<Option<Repository>, LayerError> {
        let git = match source {
            PlannedSource::Path(path) => return Ok(Some(local(name, path, home)?)),
            PlannedSource::Git(git) => git,
        };
        let Some((pin, commit)) = git.pinned.as_ref().and_then(|pin| Some((pin, pin.commit.as_ref()?))) else {
            return Ok(None);
        };
        let mirror = self.mirrors.mirror(&git.url);
        let place = (mirror.path(), mirror.url());
        let checkout = self.checkouts.find(place, commit, &pin.patches, &git.submodules)?;
        Ok(checkout.map(|checkout| Repository::Pinned { pin: pin.clone(), checkout }))
    }

    /// Brings all sources, in their order.
    ///
    /// # Errors
    ///
    /// The first failure in that order.
    pub fn bring(&self, plan: &Plan, home: &Path, access: Access<'_>) -> Result<Vec<Repository>, LayerError> {
        let sources: Vec<(&str, &PlannedSource)> = plan.sources().collect();
        let done: Vec<Mutex<Option<Result<Repository, LayerError>>>> =
            sources.iter().map(|_| Mutex::default()).collect();
        let groups = Mutex::new(by_address(&sources).into_iter());
        let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).next();
        #[expect(clippy::indexing_slicing, reason = "by_address counts `sources`, and `done` is as long")]
        let work = || {
            while let Some(group) = next() {
                for at in group {
                    let (name, source) = sources[at];
                    let one = self.bring_one(name, source, plan.locked, home, access);
                    let failed = one.is_err();
                    *done[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(one);
                    // After a failure no further source is begun.
                    if failed {
                        groups.lock().unwrap_or_else(PoisonError::into_inner).by_ref().for_each(drop);
                    }
                }
            }
        };
        thread::scope(|scope| {
            (1..WORKERS.min(sources.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        let results: Vec<_> =
            done.into_iter().filter_map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        results.into_iter().collect()
    }

    fn bring_one(
        &self,
        name: &str,
        source: &PlannedSource,
        locked: bool,
        home: &Path,
        access: Access<'_>,
    ) -> Result<Repository, LayerError> {
        match source {
            PlannedSource::Path(path) => local(name, path, home),
            PlannedSource::Git(git) => self.bring_git(name, git, locked, access),
        }
    }

    pub(super) fn bring_git(
        &self,
        name: &str,
        git: &PlannedGit,
        locked: bool,
        access: Access<'_>,
    ) -> Result<Repository, LayerError> {
        let patches = read_patches(git)?;
        let locks: Vec<_> = patches.iter().map(|patch| patch.lock.clone()).collect();
        if locked && git.pinned.as_ref().is_some_and(|pinned| pinned.patches != locks) {
            return Err(LayerError::Patched(name.into()));
        }
        let _here = self.checkouts.hold(access.on, access.stop)?;
        let (mirror, commit, git) = &self.mirrors.pin_as_read(name, git, access)?;
        // The source of each mirror that a checkout needs: its own, and those of submodules.
        let mut sources = BTreeMap::from([(mirror.path().to_owned(), (git.clone(), commit.clone()))]);
        let mut mended = BTreeSet::new();
        let checkout = loop {
            let error = match self.checkout(mirror.path(), git, commit, &patches, access, &mut sources) {
                Ok(made) => break made,
                Err(error) => error,
            };
            // A damaged mirror is replaced, once.
            if let LayerError::Checkout(CheckoutError::Damaged { mirror: damaged, .. }) = &error
                && access.online
                && let Some((wanted, commit)) = sources.get(damaged)
                && mended.insert(damaged.clone())
            {
                self.mirrors.mend(wanted, commit, access)?;
            } else {
                return Err(error);
            }
        };
        Ok(Repository::Pinned { pin: git.pinned_to(name, commit.clone(), locks), checkout })
    }

    fn checkout(
        &self,
        mirror: &Path,
        git: &PlannedGit,
        commit: &CommitId,
        patches: &[ReadPatch],
        access: Access<'_>,
        sources: &mut BTreeMap<PathBuf, (PlannedGit, CommitId)>,
    ) -> Result<Checkout, LayerError> {
        // Every task of a build can read a checkout, so it holds no password.
        let url = without_secrets(&git.url);
        let mut submodule = |url: &str, mirrors: &[String], commit: &CommitId| -> Result<PathBuf, SubmoduleFailed> {
            if !may_fetch(url, git, access.logins) {
                return Err(SubmoduleFailed::new(GitError::NotGranted { url: without_secrets(url) }));
            }
            let at_commit = PlannedGit::at_commit(&with_secrets_of(url, &git.url), commit);
            let mirrors = mirrors.iter().filter(|url| may_fetch(url, git, access.logins)).cloned().collect();
            let wanted = PlannedGit { mirrors, ..at_commit };
            let (mirror, commit) = self.mirrors.pin(&wanted, access).map_err(SubmoduleFailed::new)?;
            sources.insert(mirror.path().into(), (wanted, commit));
            Ok(mirror.path().into())
        };
        let (mirrors, outside_links) = (&git.mirrors[..], git.outside_links);
        let submodules = &git.submodules;
        let wanted = Wanted { mirror, url: &url, mirrors, commit, patches, outside_links, submodules };
        Ok(self.checkouts.checkout(&wanted, &mut submodule, access.on, access.stop)?)
    }
}

/// Whether a submodule may be fetched, whose address no config names: one that is reached anonymously, one that stands beside the repository that it
/// belongs to, one that the user has granted.
fn may_fetch(url: &str, of: &PlannedGit, logins: &Logins) -> bool {
    if logins.reach(url) || ["https://", "http://", "git://"].iter().any(|scheme| url.starts_with(scheme)) {
        return true;
    }
    // A folder that is gone may still have a mirror in the store.
    let local = |url: &str| {
        let path = folder_of(url).unwrap_or_else(|| url.into());
        let is_plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
        is_plain.then(|| fs::canonicalize(&path).unwrap_or(path))
    };
    let parents = std::iter::once(&of.url).chain(&of.mirrors).filter_map(|parent| local(parent));
    let parents: Vec<PathBuf> = parents.filter_map(|parent| Some(parent.parent()?.to_owned())).collect();
    local(url).and_then(|url| Some(parents.contains(&url.parent()?.to_owned()))).unwrap_or(false)
}

fn local(name: &str, path: &PlannedPath, home: &Path) -> Result<Repository, LayerError> {
    match path.folder.is_dir() {
        true => Ok(Repository::Local(Local::find(name, path, home))),
        false => Err(LayerError::Missing { name: name.into(), path: path.folder.clone() }),
    }
}

/// Groups sources that share an address, so that no thread waits for another's lock.
fn by_address(sources: &[(&str, &PlannedSource)]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(Option<&str>, Vec<usize>)> = Vec::new();
    for (at, (_, source)) in sources.iter().enumerate() {
        let url = match source {
            PlannedSource::Git(git) => Some(git.url.as_str()),
            PlannedSource::Path(_) => None,
        };
        match groups.iter_mut().find(|(known, _)| url.is_some() && *known == url) {
            Some((_, group)) => group.push(at),
            None => groups.push((url, vec![at])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}
