//! Whose a workspace is: the config that it was made for, its variant, its domain, and what folders outside of SMIDR_HOME belong to it. Written
//! when a workspace is taken, to a place that no build can write to; read by what counts and what cleans.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{crossing::lock_of, workspace::lock_path};
use crate::{
    config::PRIVATE,
    model::{Paths, document_path},
    plan::{Domain, Plan},
    system::files::{FileError, make_private_dir, write_atomically},
};

/// The form of the document.
const VERSION: u32 = 1;

/// Whose a workspace is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    version: u32,
    /// The project's config.
    #[serde(flatten, with = "document_path::config")]
    pub config: PathBuf,
    /// The variant that is built there.
    pub variant: Option<String>,
    /// The folder of its caches below `domains`; none for the user's own.
    pub domain: Option<String>,
    /// Folders of the build outside of SMIDR_HOME.
    pub elsewhere: Vec<Elsewhere>,
}

/// A folder outside of SMIDR_HOME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Elsewhere {
    /// Where it is.
    #[serde(flatten, with = "document_path::path")]
    pub path: PathBuf,
}

impl Owner {
    /// Of the workspace of a plan.
    fn of(plan: &Plan, paths: &Paths) -> Self {
        let outside = |path: &&Path| !path.starts_with(paths.home());
        let elsewhere = plan.folders.writable().into_iter().filter(outside);
        Self {
            version: VERSION,
            config: plan.file.clone(),
            variant: plan.variant.clone(),
            domain: plan.domain.folder(&plan.project_workspace()),
            elsewhere: elsewhere.map(|path| Elsewhere { path: path.into() }).collect(),
        }
    }

    /// Writes down whose the workspace of a plan is, unless that is known.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn note(plan: &Plan, paths: &Paths) -> Result<(), FileError> {
        let owner = Self::of(plan, paths);
        let file = file_of(plan.folders.workspace.file_name().unwrap_or_default().into(), paths);
        if Self::read(&file).as_ref() == Some(&owner) {
            return Ok(());
        }
        make_private_dir(&paths.owners())?;
        let text = serde_json::to_vec(&owner).map_err(|error| FileError::new("write", &file)(error.into()))?;
        write_atomically(&file, &text, 0o600)
    }

    fn read(file: &Path) -> Option<Self> {
        let owner: Self = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        (owner.version == VERSION).then_some(owner)
    }

    /// Whether its project is not there any more. A config that cannot be looked at may be there.
    pub(crate) fn is_gone(&self) -> bool {
        let gone = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        fs::symlink_metadata(&self.config).is_err_and(|error| gone.contains(&error.kind()))
    }
}

/// Whether the domain of that folder is one project's alone.
pub(crate) fn is_private(domain: &str) -> bool {
    domain.starts_with(PRIVATE)
}

/// All workspaces, sorted by their names, and whose they are, if that is known.
pub(crate) fn workspaces(paths: &Paths) -> Vec<(OsString, Option<Owner>)> {
    let entries = fs::read_dir(paths.workspaces()).into_iter().flatten().flatten();
    let mut names: Vec<OsString> =
        entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), Owner::read(&file_of(name, paths)))).collect()
}

/// The record of a workspace.
pub(crate) fn file_of(mut workspace: OsString, paths: &Paths) -> PathBuf {
    workspace.push(".json");
    paths.owners().join(workspace)
}

/// What is remembered of the files that were kept of a workspace.
pub(crate) fn memory_of(mut workspace: OsString, paths: &Paths) -> PathBuf {
    workspace.push(".kept");
    paths.owners().join(workspace)
}

/// The caches of a domain.
#[derive(Debug)]
pub(crate) struct DomainCaches {
    /// Its folder below `domains`; none for the user's own.
    pub name: Option<OsString>,
    /// DL_DIR.
    pub downloads: PathBuf,
    /// SSTATE_DIR.
    pub sstate: PathBuf,
    /// Held by each build that uses them, together with others.
    pub lock: PathBuf,
}

/// The caches of all domains, the user's own first.
pub(crate) fn domains(paths: &Paths) -> Vec<DomainCaches> {
    let entries = fs::read_dir(paths.domains()).into_iter().flatten().flatten();
    let mut names: Vec<Option<OsString>> = entries.map(|entry| Some(entry.file_name())).collect();
    names.push(None);
    names.sort();
    let of = |name: Option<OsString>| {
        let named = |name: &OsString| Domain::Named(name.to_string_lossy().into_owned());
        let caches = name.as_ref().map_or(Domain::Own, named).caches(paths, "");
        DomainCaches { lock: lock_of(&caches, paths), name, downloads: caches.downloads, sstate: caches.sstate }
    };
    names.into_iter().map(of).collect()
}

/// The lock that each process holds which uses a workspace.
pub(crate) fn lock_of_workspace(folder: &Path, paths: &Paths) -> PathBuf {
    lock_path(folder, paths)
}
