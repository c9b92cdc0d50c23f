//! What SMIDR_HOME takes on the disk, by what it is for and whose it is, and what sharing saves. Counts; changes nothing.

use std::{
    cmp::Reverse,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    engine::owner::{Owner, is_private, workspaces},
    model::{BuildId, Paths, document_path},
    system::space::{Measured, Space, measure},
};

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct DiskUse {
    /// SMIDR_HOME.
    #[serde(flatten, with = "document_path::path")]
    pub path: PathBuf,
    /// All below SMIDR_HOME.
    #[serde(flatten)]
    pub total: Space,
    /// What BitBake has downloaded, in all domains.
    pub downloads: Space,
    /// What BitBake has built and can use again, in all domains, and the databases of hash equivalence.
    pub sstate: Space,
    /// Mirrors and checkouts of layers.
    pub layers: Space,
    /// Build-host images.
    pub images: Space,
    /// What is kept of builds.
    pub builds: KeptBuilds,
    /// What was moved away because this machine would have obeyed it.
    pub quarantine: Space,
    /// Everything else below SMIDR_HOME.
    pub other: Space,
    /// Those who share caches; the user's own first, then the largest.
    pub domains: Vec<DomainUse>,
    /// The largest first.
    pub workspaces: Vec<WorkspaceUse>,
    /// What separate caches would take beyond this, at most.
    pub saving: u64,
    /// Folders that could not be read.
    pub unreadable: u64,
}

/// What is kept of builds.
#[derive(Debug, Serialize)]
pub(crate) struct KeptBuilds {
    /// How many.
    pub count: u64,
    /// What they take.
    #[serde(flatten)]
    pub space: Space,
}

/// The caches of a domain.
#[derive(Debug, Serialize)]
pub(crate) struct DomainUse {
    /// Its folder below `domains`; none for the user's own.
    pub name: Option<String>,
    /// The project, where it is its alone.
    #[serde(flatten, with = "document_path::config")]
    pub config: Option<PathBuf>,
    /// Downloads.
    pub downloads: Space,
    /// The rest.
    pub sstate: Space,
    /// How many workspaces use it.
    pub workspaces: u64,
    /// What a copy of it for each workspace would take beyond this.
    pub saving: u64,
}

/// A workspace.
#[derive(Debug, Serialize)]
pub(crate) struct WorkspaceUse {
    /// The name of its folder.
    pub name: String,
    /// The project, if it is known.
    #[serde(flatten, with = "document_path::config")]
    pub config: Option<PathBuf>,
    /// The variant that is built there.
    pub variant: Option<String>,
    /// The domain whose caches it uses; none for the user's own.
    pub domain: Option<String>,
    /// Whether the project is not there any more.
    pub gone: bool,
    /// What it takes below SMIDR_HOME.
    #[serde(flatten)]
    pub space: Space,
    /// Folders outside of SMIDR_HOME.
    pub elsewhere: Vec<ElsewhereUse>,
}

impl WorkspaceUse {
    /// With what stands outside of SMIDR_HOME.
    pub(crate) fn all(&self) -> Space {
        self.space.and(self.elsewhere.iter().map(|folder| folder.space).sum())
    }
}

/// A folder outside of SMIDR_HOME.
#[derive(Debug, Serialize)]
pub(crate) struct ElsewhereUse {
    /// Where.
    #[serde(flatten, with = "document_path::path")]
    pub path: PathBuf,
    /// What it takes.
    #[serde(flatten)]
    pub space: Space,
}

/// Counts everything.
pub(crate) fn disk_use(paths: &Paths) -> DiskUse {
    let workspaces = workspaces(paths);
    let mut domains = vec![None];
    domains.extend(names(&paths.domains()).into_iter().map(Some));
    let roots = roots(paths, &workspaces, &domains);
    let found = measure(&roots.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    let space = |path: &Path| of(&roots, &found, path);
    let workspaces = uses(paths, workspaces, &space);
    let mut domains: Vec<DomainUse> =
        domains.into_iter().map(|name| domain(paths, name, &workspaces, &space)).collect();
    domains.sort_by_key(|domain| (domain.name.is_some(), Reverse(domain.downloads.and(domain.sstate).bytes)));
    let named =
        [paths.layers(), paths.images(), paths.builds(), paths.kept(), paths.quarantine()].map(|path| space(&path));
    let [layers, images, builds, objects, quarantine] = named;
    let (downloads, sstate) =
        (domains.iter().map(|domain| domain.downloads).sum(), domains.iter().map(|domain| domain.sstate).sum());
    let other = space(paths.home());
    let kept = names(&paths.builds()).iter().filter(|name| name.to_str().is_some_and(is_build)).count();
    DiskUse {
        path: paths.home().into(),
        total: named.into_iter().chain([downloads, sstate, other]).chain(workspaces.iter().map(|one| one.space)).sum(),
        downloads,
        sstate,
        layers,
        images,
        builds: KeptBuilds { count: kept as u64, space: builds.and(objects) },
        quarantine,
        other,
        saving: domains.iter().fold(0, |sum: u64, domain| sum.saturating_add(domain.saving)),
        domains,
        workspaces,
        unreadable: found.unreadable,
    }
}

/// What is counted apart from SMIDR_HOME, which is the last, so that it has only what no other has.
fn roots(paths: &Paths, workspaces: &[(OsString, Option<Owner>)], domains: &[Option<OsString>]) -> Vec<PathBuf> {
    let mut roots = vec![paths.layers(), paths.images(), paths.builds(), paths.kept(), paths.quarantine()];
    for name in domains {
        roots.extend(caches(paths, name.as_deref()));
    }
    for (name, owner) in workspaces {
        roots.push(paths.workspaces().join(name));
        roots.extend(owner.iter().flat_map(|owner| owner.elsewhere.iter().map(|folder| folder.path.clone())));
    }
    roots.push(paths.home().into());
    roots
}

/// Downloads, and what else a domain has.
fn caches(paths: &Paths, domain: Option<&OsStr>) -> [PathBuf; 2] {
    match domain {
        None => [paths.downloads(), paths.sstate()],
        Some(name) => {
            let folder = paths.domains().join(name);
            [folder.join("downloads"), folder]
        }
    }
}

fn of(roots: &[PathBuf], found: &Measured, path: &Path) -> Space {
    let at = roots.iter().position(|root| root == path);
    at.and_then(|at| found.folders.get(at)).copied().unwrap_or_default()
}

fn names(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    names
}

fn is_build(name: &str) -> bool {
    name.parse::<BuildId>().is_ok()
}

fn uses(paths: &Paths, all: Vec<(OsString, Option<Owner>)>, space: &dyn Fn(&Path) -> Space) -> Vec<WorkspaceUse> {
    let mut uses: Vec<WorkspaceUse> = all
        .into_iter()
        .map(|(name, owner)| {
            let elsewhere = owner.iter().flat_map(|owner| &owner.elsewhere);
            let elsewhere =
                elsewhere.map(|folder| ElsewhereUse { path: folder.path.clone(), space: space(&folder.path) });
            WorkspaceUse {
                elsewhere: elsewhere.filter(|folder| folder.space.files > 0).collect(),
                gone: owner.as_ref().is_some_and(Owner::is_gone),
                space: space(&paths.workspaces().join(&name)),
                name: name.to_string_lossy().into_owned(),
                variant: owner.as_ref().and_then(|owner| owner.variant.clone()),
                domain: owner.as_ref().and_then(|owner| owner.domain.clone()),
                config: owner.map(|owner| owner.config),
            }
        })
        .collect();
    uses.sort_by_key(|one| Reverse(one.all().bytes));
    uses
}

fn domain(
    paths: &Paths,
    name: Option<OsString>,
    workspaces: &[WorkspaceUse],
    space: &dyn Fn(&Path) -> Space,
) -> DomainUse {
    let [downloads, sstate] = caches(paths, name.as_deref()).map(|path| space(&path));
    let name = name.map(|name| name.to_string_lossy().into_owned());
    let users: Vec<&WorkspaceUse> = workspaces.iter().filter(|one| one.domain == name).collect();
    let own = users.first().filter(|_| name.as_deref().is_some_and(is_private));
    DomainUse {
        config: own.and_then(|one| one.config.clone()),
        name,
        downloads,
        sstate,
        workspaces: users.len() as u64,
        saving: (users.len() as u64).saturating_sub(1).saturating_mul(downloads.and(sstate).bytes),
    }
}
