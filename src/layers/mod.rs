//! Yocto layers: from the plan's sources to folders that BitBake can read.
//!
//! [`Checkouts`] is the result: the folders to show in the sandbox, which of them are layers, where BitBake is if one of
//! the repositories carries it, and what all of it is pinned to. Nothing that a repository contains is run here.

mod access;
mod changes;
pub mod checkout;
mod collection_error;
mod collections;
mod commit;
mod conf;
mod discover;
pub mod edit;
mod fetch;
mod git_error;
mod gitlinks;
mod identity;
mod known;
mod links_out;
mod local;
mod mend;
mod mirror;
mod missing;
mod named;
pub mod offered;
mod own;
pub mod pack;
pub mod patch;
pub mod proven;
pub mod prune;
mod reference;
mod repository;
mod revision;
mod targets;
pub mod unpack;
mod valid_names;
mod work_tree;

use std::path::{Path, PathBuf};

pub use access::Access;
pub use changes::{Change, Changes};
use checkout::{Checkout, CheckoutError};
pub use collection_error::{CollectionError, Incompatible, Missing};
pub use collections::{Checked, LayerInfo, check, look};
pub use conf::ConfError;
pub use discover::{DiscoverError, Found, discover};
pub use git_error::GitError;
pub use gitlinks::gitlinks;
pub(crate) use identity::identity;
pub use known::Repository as KnownRepository;
pub use local::{head as head_of, holds_work, origin as origin_of, repository as repository_around, would_commit};
pub use mirror::{Mirror, Mirrors};
pub use missing::Suggestion;
pub use own::{copies, hide};
pub use pack::{Limits as PackLimits, PackedFile, PackedLayer, pack};
use patch::PatchError;
pub(crate) use patch::read_patches;
pub use repository::{Repository, Store};
pub use work_tree::{Settled, pin, write_out};

use crate::{
    config::BITBAKE,
    lock::RepositoryPin,
    model::{Hint, Kind, UserError},
    plan::{Isolation, OwnRepository, Plan, PlannedLayer, PlannedSource},
};

/// Layers that are ready; kept from removal while this value lives.
#[derive(Debug, Default)]
pub struct Checkouts {
    /// The user's repositories that have to be visible in the sandbox: their layers, and `.git`, without which BitBake cannot tell revisions.
    pub own: Vec<OwnRepository>,
    /// Folders of the store that have to be visible, and never change.
    pub pinned: Vec<PathBuf>,
    /// Those of them that have to be visible in a second place as well, and that place.
    pub placed: Vec<(PathBuf, PathBuf)>,
    /// BBLAYERS, in the order of the config.
    pub layers: Vec<PathBuf>,
    /// Further assignments for `bblayers.conf`.
    pub bblayers: Vec<(String, String)>,
    /// For messages: each repository's name and what it is pinned to.
    pub names: Vec<(String, String)>,
    /// A folder with `bin/bitbake` in it.
    pub bitbake: Option<PathBuf>,
    /// The folder with OpenEmbedded's `oe-init-build-env`, as the build sees it, where another tool's project sources it.
    pub init: Option<PathBuf>,
    /// For smidr.lock.
    pub pins: Vec<RepositoryPin>,
    /// The repositories: their locks keep them from removal.
    pub held: Vec<Repository>,
}

impl Checkouts {
    /// Everything that has to be visible in the sandbox.
    pub fn shown(&self) -> Vec<PathBuf> {
        let placed = self.placed.iter().map(|(_, at)| at);
        self.own.iter().map(|own| &own.root).chain(&self.pinned).chain(placed).cloned().collect()
    }

    /// OpenEmbedded-Core's COREBASE: the folder around its layer.
    pub fn core(&self) -> Option<&Path> {
        self.layers.iter().find(|layer| layer.join("conf/bitbake.conf").is_file()).and_then(|layer| layer.parent())
    }

    /// Checks that a build will see what the lock names.
    ///
    /// # Errors
    ///
    /// When a checkout has been changed.
    pub fn are_untouched(&self) -> Result<(), LayerError> {
        let pinned = self.held.iter().filter_map(|repository| match repository {
            Repository::Pinned { checkout, .. } => Some(checkout),
            Repository::Local(_) => None,
        });
        Ok(pinned.into_iter().try_for_each(Checkout::is_untouched)?)
    }

    /// Checks that no link of a layer of this machine leads to what a build does not see. Without a sandbox it sees everything.
    ///
    /// # Errors
    ///
    /// The first link that does.
    pub fn lead_nowhere_else(&self, plan: &Plan) -> Result<(), LayerError> {
        if plan.isolation == Isolation::None { Ok(()) } else { links_out::check(self, plan) }
    }

    /// Has a build see a repository.
    fn show(&mut self, repository: &Repository) {
        match repository {
            Repository::Local(local) => own::add(&mut self.own, local),
            Repository::Pinned { checkout, .. } => {
                self.pinned.push(checkout.folder.clone());
                self.pinned.extend(checkout.borrowed.iter().cloned());
            }
        }
    }
}

/// Why layers cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// No such folder.
    #[error("the layer `{name}` is not there: {path} does not exist")]
    Missing {
        /// The layer.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// A symbolic link on the way to a layer, which its repository may have brought.
    #[error("the layer {layer} lies outside of {root}: a symbolic link leads there")]
    LeadsOut {
        /// The layer.
        layer: PathBuf,
        /// Its repository.
        root: PathBuf,
    },
    /// A symbolic link in a layer of this machine.
    #[error("{link} is a symbolic link to {target}, which the build does not see")]
    LinkOut {
        /// The link.
        link: PathBuf,
        /// Where it leads to.
        target: PathBuf,
        /// The folder to show, as the config would name it.
        folder: PathBuf,
    },
    /// A target that no layer has a recipe for.
    #[error("no layer has a recipe for the target `{target}`")]
    Target {
        /// The target.
        target: String,
        /// The recipe that is called most like it.
        near: Option<String>,
    },
    /// No repository of another tool's project sets BitBake up, or several do.
    #[error("{}", match .0.as_slice() {
        [] => "no repository has oe-init-build-env in its root".to_owned(),
        all => format!("more than one repository has oe-init-build-env in its root: {}", all.join(", ")),
    })]
    Init(Vec<String>),
    /// A folder in which BitBake should be.
    #[error("{0} holds no bin/bitbake")]
    NoBitbake(PathBuf),
    /// `--locked`, and the patches are not those that are pinned.
    #[error("the patches of `{0}` are not those that smidr.lock pins, and --locked pins nothing anew")]
    Patched(String),
    /// A repository that cannot be fetched.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A commit that cannot be written out.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// A work tree that cannot be made.
    #[error(transparent)]
    Edit(#[from] edit::EditError),
    /// A patch that cannot be read.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// No layers in a repository.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// Layers that do not fit together.
    #[error(transparent)]
    Collection(#[from] CollectionError),
}

impl UserError for LayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. }
            | Self::LeadsOut { .. }
            | Self::LinkOut { .. }
            | Self::Target { .. }
            | Self::NoBitbake(_)
            | Self::Init(_)
            | Self::Patched(_) => Kind::Request,
            Self::Git(error) => error.kind(),
            Self::Checkout(error) => error.kind(),
            Self::Edit(error) => error.kind(),
            Self::Patch(error) => error.kind(),
            Self::Discover(error) => error.kind(),
            Self::Collection(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Missing { .. } => vec![Hint::new("paths are relative to smidr.yaml")],
            Self::LeadsOut { .. } => vec![Hint::new("name the folder that it leads to as a layer of its own")],
            Self::LinkOut { folder, .. } => vec![Hint::config(
                "put what it leads to into the layer, or show it to the build",
                format!("host: {{binds: [{{source: '{}'}}]}}", folder.display().to_string().replace('\'', "''")),
            )],
            Self::Target { near, .. } => vec![match near {
                Some(near) => Hint::new(format!("did you mean `{near}`?")),
                None => Hint::new("the recipe of a target NAME is a file NAME.bb or NAME_VERSION.bb in a layer"),
            }],
            Self::NoBitbake(_) => Vec::new(),
            Self::Init(all) => vec![match all.as_slice() {
                [] => Hint::new("OpenEmbedded-Core and poky have it"),
                _ => Hint::new("one of them has to go"),
            }],
            Self::Patched(_) => vec![Hint::command("pin them, and commit smidr.lock", "smidr lock")],
            Self::Git(error) => error.hints(),
            Self::Checkout(error) => error.hints(),
            Self::Edit(error) => error.hints(),
            Self::Patch(error) => error.hints(),
            Self::Discover(error) => error.hints(),
            Self::Collection(error) => error.hints(),
        }
    }
}

/// Brings every repository, finds their layers, and BitBake. `home` is the caller's home folder.
///
/// # Errors
///
/// The first repository that cannot be had, or the first kind of misfit.
pub fn resolve(plan: &Plan, home: &Path, access: Access<'_>) -> Result<Checkouts, LayerError> {
    let repositories = Store::of(plan).bring(plan, home, access)?;
    let mut checkouts = Checkouts::default();
    let mut found = Vec::new();
    for (layer, repository) in plan.layers.iter().zip(&repositories) {
        found.extend(discover(repository.folder(), layer)?);
        let whole = repository.whole();
        let carried = [whole.join("bitbake"), whole.to_path_buf()];
        let carried = carried.into_iter().take(if plan.as_is.is_some() { 2 } else { 1 });
        if let Some(carried) = carried.into_iter().find(|folder| has_bitbake(folder)) {
            checkouts.bitbake.get_or_insert(carried);
        }
        if let Some(at) = &layer.at {
            let folder = match repository {
                Repository::Pinned { checkout, .. } => checkout.folder.clone(),
                Repository::Local(local) => local.folder.clone(),
            };
            checkouts.placed.push((folder, at.clone()));
        }
    }
    if plan.as_is.is_some() {
        checkouts.init = Some(init(plan, &repositories)?);
    }
    if let Some(repository) = repositories.get(plan.layers.len()) {
        if !has_bitbake(repository.folder()) {
            return Err(LayerError::NoBitbake(repository.folder().into()));
        }
        checkouts.bitbake = Some(repository.folder().into());
    }
    let checked = match plan.as_is {
        None => check(&found, &plan.machine, plan.series.as_deref(), &local_conf(plan))?,
        // What another tool lets pass is BitBake's to judge.
        Some(_) => Checked::default(),
    };
    checked.warnings.into_iter().for_each(|warning| access.on.warn(warning));
    checkouts.bblayers = checked.bblayers;
    checkouts.layers = found.into_iter().map(|layer| layer.folder).collect();
    for (repository, (name, _)) in repositories.iter().zip(plan.sources()) {
        checkouts.names.push((name.into(), repository.describe()));
        checkouts.pins.push(repository.pin().clone());
        checkouts.show(repository);
    }
    own::finish(&mut checkouts, plan.as_is.is_some())?;
    checkouts.pinned = outermost(checkouts.pinned);
    checkouts.held = repositories;
    Ok(checkouts)
}

/// Brings the repositories of a plan, and says what they are pinned to.
///
/// # Errors
///
/// The first one that cannot be had.
pub fn bring(plan: &Plan, home: &Path, access: Access<'_>) -> Result<Vec<RepositoryPin>, LayerError> {
    Ok(Store::of(plan).bring(plan, home, access)?.iter().map(|one| one.pin().clone()).collect())
}

/// Where the one `oe-init-build-env` of another tool's project stands, as the build sees it.
fn init(plan: &Plan, repositories: &[Repository]) -> Result<PathBuf, LayerError> {
    let all = plan.layers.iter().zip(repositories);
    let mut found: Vec<(&str, &Path, Option<&PathBuf>)> = Vec::new();
    for (layer, repository) in all.filter(|(_, repository)| repository.whole().join("oe-init-build-env").is_file()) {
        let at = layer.at.as_ref().filter(|_| matches!(repository, Repository::Pinned { .. }));
        // Several names may mean one folder of this machine.
        if at.is_some() || found.iter().all(|(_, root, at)| at.is_some() || *root != repository.whole()) {
            found.push((&layer.name, repository.whole(), at));
        }
    }
    match found.as_slice() {
        [(_, root, at)] => Ok(at.map_or_else(|| root.to_path_buf(), Clone::clone)),
        all => Err(LayerError::Init(all.iter().map(|(name, ..)| (*name).to_owned()).collect())),
    }
}

/// What of a plan's conf decides over its layers.
fn local_conf(plan: &Plan) -> String {
    let distro = plan.conf.iter().find(|(name, _)| name == "DISTRO");
    let distro = distro.map(|(name, value)| format!("{name} = \"{value}\"\n")).unwrap_or_default();
    distro + &plan.conf_tail
}

/// What was found in the layers that are here.
#[derive(Debug, Default)]
pub struct Looked {
    /// What does not fit.
    pub misfits: Vec<LayerError>,
    /// For the user.
    pub warnings: Vec<String>,
    /// Repositories that are not here: then the layers were not checked together.
    pub absent: Vec<String>,
}

/// Checks all layers of a plan together, and whether they have its targets, if all of them are here. Fetches nothing.
///
/// # Errors
///
/// When one of them cannot be read.
pub fn look_at_all(plan: &Plan, home: &Path) -> Result<Looked, LayerError> {
    let store = Store::of(plan);
    let (mut found, mut absent, mut seen) = (Vec::new(), Vec::new(), Checkouts::default());
    for layer in &plan.layers {
        match store.find(&layer.name, &layer.source, home)? {
            Some(repository) => {
                found.extend(discover(repository.folder(), layer)?);
                seen.show(&repository);
            }
            None => absent.push(layer.name.clone()),
        }
    }
    seen.layers = found.iter().map(|layer| layer.folder.clone()).collect();
    own::finish(&mut seen, plan.as_is.is_some())?;
    let link_out = seen.lead_nowhere_else(plan).err();
    if !absent.is_empty() || found.is_empty() {
        return Ok(Looked { absent, misfits: link_out.into_iter().collect(), ..Looked::default() });
    }
    let (checked, misfits) =
        collections::look_for_misfits(&found, &plan.machine, plan.series.as_deref(), &local_conf(plan))?;
    let misfits = misfits.into_iter().map(LayerError::from);
    let targets = plan.targets.iter().filter_map(|target| targets::check(target, plan, &found).err());
    Ok(Looked { misfits: misfits.chain(targets).chain(link_out).collect(), warnings: checked.warnings, absent })
}

/// All problems of the folders and patches of this machine that a plan names, each with the name of its layer; nothing else is read.
pub fn missing(plan: &Plan) -> Vec<(String, LayerError)> {
    let of_layer = |layer: &PlannedLayer| match folder(&layer.name, &layer.source)? {
        Some(folder) => discover(folder, layer).map(drop).map_err(LayerError::from),
        None => patches(&layer.source),
    };
    let of_bitbake = |source: &PlannedSource| match folder(BITBAKE, source)? {
        Some(folder) if !has_bitbake(folder) => Err(LayerError::NoBitbake(folder.into())),
        _ => patches(source),
    };
    let layers = plan.layers.iter().map(|layer| (layer.name.clone(), of_layer(layer)));
    let all = layers.chain(plan.bitbake.as_ref().map(|source| (BITBAKE.to_owned(), of_bitbake(source))));
    all.filter_map(|(name, checked)| Some((name, checked.err()?))).collect()
}

fn patches(source: &PlannedSource) -> Result<(), LayerError> {
    match source {
        PlannedSource::Git(git) => Ok(read_patches(git).map(drop)?),
        PlannedSource::Path(_) => Ok(()),
    }
}

/// The folder of a source that is a folder of this machine.
fn folder<'a>(name: &str, source: &'a PlannedSource) -> Result<Option<&'a Path>, LayerError> {
    match source {
        PlannedSource::Git(_) => Ok(None),
        PlannedSource::Path(path) if path.folder.is_dir() => Ok(Some(&path.folder)),
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
