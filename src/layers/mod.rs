//! Yocto layers: from what the config names to folders that BitBake can read.
//!
//! In go planned layers, out come [`Checkouts`]: which folders to show in the sandbox, which of them are layers, and where
//! BitBake is, if one of the repositories carries it. Layers from git repositories are refused for now.

mod access;
mod changes;
mod collection_error;
mod collections;
mod conf;
mod discover;
mod fetch;
mod git_error;
mod host_git;
mod known;
mod machines;
mod mend;
mod mirror;
mod missing;
mod revision;
mod versions;

use std::path::{Path, PathBuf};

mod local;

pub use access::Access;
pub use changes::{Change, Changes};
pub use collection_error::{CollectionError, Incompatible, Missing};
pub use collections::{Checked, LayerInfo, check};
pub use conf::ConfError;
pub use discover::{DiscoverError, Found, discover};
pub use git_error::{GitError, without_secrets};
use local::Local;
pub use mirror::{Mirror, Mirrors};
pub use missing::Cure;

use crate::{
    config::BITBAKE,
    lock::RepositoryLock,
    model::{Explain, Kind},
    plan::{Plan, PlannedLayer, PlannedSource},
};

/// Layers that are there.
#[derive(Debug, Default)]
pub struct Checkouts {
    /// Repositories of the user's that have to be visible in the sandbox: whole, or BitBake could not tell their revisions.
    pub roots: Vec<PathBuf>,
    /// What of the store has to be visible, and never changes.
    pub pinned: Vec<PathBuf>,
    /// BBLAYERS, in the order of the config.
    pub layers: Vec<PathBuf>,
    /// Further assignments for `bblayers.conf`.
    pub bblayers: Vec<(String, String)>,
    /// For people: each repository's name and what it is pinned to.
    pub names: Vec<(String, String)>,
    /// A folder with `bin/bitbake` in it.
    pub bitbake: Option<PathBuf>,
    /// For smidr.lock.
    pub pins: Vec<RepositoryLock>,
}

impl Checkouts {
    /// Everything that has to be visible in the sandbox.
    pub fn shown(&self) -> Vec<PathBuf> {
        self.roots.iter().chain(&self.pinned).cloned().collect()
    }
}

/// Why layers are not there.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Not built yet.
    #[error("the layer `{name}` comes from a git repository ({url}), which this smidr cannot fetch yet")]
    Git {
        /// The layer.
        name: String,
        /// Its address.
        url: String,
        /// Branch, tag or commit, as `git checkout` takes it.
        revision: String,
    },
    /// No such folder.
    #[error("the layer `{name}` is not there: {path} does not exist")]
    Missing {
        /// The layer.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// No layers in a repository.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// A folder that should have BitBake.
    #[error("{0} holds no bin/bitbake")]
    NoBitbake(PathBuf),
}

impl Explain for LayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Git { .. } => Kind::Host,
            Self::Discover(error) => error.kind(),
            _ => Kind::Request,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Git { name, url, revision } => Some(format!(
                "clone it yourself, and write `path: layers/{name}` instead of `git:`\n  git clone {} layers/{name} && git -C layers/{name} checkout {}",
                shlex::try_quote(url).unwrap_or_default(),
                shlex::try_quote(revision).unwrap_or_default(),
            )),
            Self::Missing { .. } => Some("paths are relative to smidr.yaml".into()),
            Self::Discover(error) => error.hint(),
            Self::NoBitbake(_) => None,
        }
    }
}

/// Finds every layer, and BitBake. `home` is the caller's.
///
/// # Errors
///
/// The first layer that is not there.
pub fn resolve(plan: &Plan, home: &Path) -> Result<Checkouts, LayerError> {
    let mut checkouts = Checkouts::default();
    for layer in &plan.layers {
        let local = local(&layer.name, &layer.source, home)?;
        let found = discover(&local.folder, layer)?;
        let carried = local.repository.join("bitbake");
        if has_bitbake(&carried) {
            checkouts.bitbake.get_or_insert(carried);
        }
        checkouts.layers.extend(found.into_iter().map(|layer| layer.folder));
        checkouts.take(local);
    }
    if let Some(source) = &plan.bitbake {
        let local = local(BITBAKE, source, home)?;
        if !has_bitbake(&local.folder) {
            return Err(LayerError::NoBitbake(local.folder));
        }
        checkouts.bitbake = Some(local.folder.clone());
        checkouts.take(local);
    }
    checkouts.roots = outermost(std::mem::take(&mut checkouts.roots));
    Ok(checkouts)
}

/// What is wrong with the folders of this machine that a plan names: all of it, without reaching for anything else.
pub fn missing(plan: &Plan) -> Vec<LayerError> {
    let of_layer = |layer: &PlannedLayer| match folder(&layer.name, &layer.source)? {
        Some(folder) => discover(folder, layer).map(drop).map_err(LayerError::from),
        None => Ok(()),
    };
    let of_bitbake = |source: &PlannedSource| match folder(BITBAKE, source)? {
        Some(folder) if !has_bitbake(folder) => Err(LayerError::NoBitbake(folder.into())),
        _ => Ok(()),
    };
    plan.layers.iter().map(of_layer).chain(plan.bitbake.as_ref().map(of_bitbake)).filter_map(Result::err).collect()
}

/// The folder of this machine that a source is, if it is one.
fn folder<'a>(name: &str, source: &'a PlannedSource) -> Result<Option<&'a Path>, LayerError> {
    match source {
        PlannedSource::Git(_) => Ok(None),
        PlannedSource::Path(path) if path.folder.is_dir() => Ok(Some(&path.folder)),
        PlannedSource::Path(path) => Err(LayerError::Missing { name: name.into(), path: path.folder.clone() }),
    }
}

impl Checkouts {
    fn take(&mut self, local: Local) {
        self.names.push((local.pin.name.clone(), local.describe()));
        self.roots.push(local.repository);
        self.pins.push(local.pin);
    }
}

fn local(name: &str, source: &PlannedSource, home: &Path) -> Result<Local, LayerError> {
    match source {
        PlannedSource::Git(git) => {
            Err(LayerError::Git { name: name.into(), url: git.url.clone(), revision: git.wanted() })
        }
        PlannedSource::Path(path) if path.folder.is_dir() => Ok(Local::find(name, path, home)),
        PlannedSource::Path(path) => Err(LayerError::Missing { name: name.into(), path: path.folder.clone() }),
    }
}

fn has_bitbake(path: &Path) -> bool {
    path.join("bin/bitbake").is_file() && path.join("lib/bb").is_dir()
}

fn outermost(mut roots: Vec<PathBuf>) -> Vec<PathBuf> {
    roots.sort();
    roots.dedup_by(|inner, outer| inner.starts_with(outer));
    roots
}
