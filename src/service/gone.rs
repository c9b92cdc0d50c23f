//! Workspaces of projects that are not there any more, and caches that only such projects used, go. Never one that is in use; never sources
//! that devtool works on, which are the user's own; nothing outside of SMIDR_HOME.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::{
    engine::owner::{Owner, domains, file_of, is_private, lock_of_workspace, memory_of, workspaces},
    model::Paths,
    system::{
        files::{FileError, remove_tree},
        lock::{self, Attempt, Mode},
        space::measure,
    },
};

/// How names of folders begin that are being removed.
const GOING: &str = ".gone-";

/// Where devtool keeps sources, in a workspace.
const SOURCES: &str = "build/workspace/sources";

/// A folder that no project needs any more.
#[derive(Debug)]
pub(crate) struct Gone {
    /// Where it is.
    pub path: PathBuf,
    /// The project, unless that is forgotten.
    pub config: Option<PathBuf>,
    /// What its removal frees.
    pub bytes: u64,
}

/// What was removed, or would be.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// Workspaces and caches.
    pub gone: Vec<Gone>,
    /// What stays all the same, and why.
    pub kept: Vec<(PathBuf, String)>,
}

/// Removes what projects that are gone had; with `dry_run`, says what that would be.
///
/// # Errors
///
/// When something cannot be removed.
pub(crate) fn clean(paths: &Paths, dry_run: bool) -> Result<Removed, FileError> {
    let mut removed = Removed::default();
    let all = workspaces(paths);
    for (name, owner) in &all {
        let folder = paths.workspaces().join(name);
        let is_going = is_going(name);
        if !is_going && !owner.as_ref().is_some_and(Owner::is_gone) {
            continue;
        }
        if fs::symlink_metadata(&folder).is_ok_and(|found| found.is_symlink()) {
            removed.kept.push((folder, "it is a link".into()));
            continue;
        }
        let sources = folder.join(SOURCES);
        if !is_going && fs::read_dir(&sources).is_ok_and(|mut found| found.next().is_some()) {
            removed.kept.push((sources, "devtool works on these sources".into()));
            continue;
        }
        let config = owner.as_ref().map(|owner| owner.config.clone());
        let lock = lock_of_workspace(&folder, paths);
        if remove(Gone { bytes: bytes_of(&folder), path: folder, config }, &lock, dry_run, &mut removed)? && !dry_run {
            skeleton(name, paths)?;
            remove_tree(&memory_of(name.clone(), paths))?;
            remove_tree(&file_of(name.clone(), paths))?;
        }
        for folder in owner.iter().flat_map(|owner| &owner.elsewhere).filter(|folder| folder.path.exists()) {
            removed.kept.push((folder.path.clone(), "it is not below SMIDR_HOME".into()));
        }
    }
    for domain in domains(paths) {
        let Some(name) = domain.name.as_ref() else { continue };
        let users: Vec<&Owner> = all
            .iter()
            .filter_map(|(_, owner)| owner.as_ref())
            .filter(|owner| owner.domain.as_deref().map(OsStr::new) == Some(name))
            .collect();
        let is_left =
            is_private(&name.to_string_lossy()) && !users.is_empty() && users.iter().all(|user| user.is_gone());
        if is_left || is_going(name) {
            let path = paths.domains().join(name);
            let config = users.first().map(|user| user.config.clone());
            remove(Gone { bytes: bytes_of(&path), path, config }, &domain.lock, dry_run, &mut removed)?;
        }
    }
    Ok(removed)
}

/// Removes a folder whose lock is free. Gives whether it was removed, or would be.
fn remove(gone: Gone, lock: &Path, dry_run: bool, removed: &mut Removed) -> Result<bool, FileError> {
    let held = match dry_run {
        true => lock::holder(lock)?.map_or(Ok(None), Err),
        false => match lock::lock_if_free(lock, Mode::Exclusive, "smidr clean")? {
            Attempt::Held(lock) => Ok(Some(lock)),
            Attempt::Busy(holder) => Err(holder),
        },
    };
    let _held = match held {
        Ok(held) => held,
        Err(holder) => {
            removed.kept.push((gone.path, format!("{holder} uses it")));
            return Ok(false);
        }
    };
    if !dry_run {
        // Half of a workspace would fail a project that comes back.
        let away = away(&gone.path);
        let moved = away.as_ref().is_some_and(|away| fs::rename(&gone.path, away).is_ok());
        remove_tree(away.as_deref().filter(|_| moved).unwrap_or(&gone.path))?;
    }
    removed.gone.push(gone);
    Ok(true)
}

fn is_going(name: &OsStr) -> bool {
    name.as_bytes().starts_with(GOING.as_bytes())
}

/// Where a folder is moved to before it is removed, unless it was before.
fn away(path: &Path) -> Option<PathBuf> {
    let name = path.file_name().filter(|name| !is_going(name))?;
    let mut away = OsString::from(GOING);
    away.push(name);
    Some(path.with_file_name(away))
}

/// Removes what stands outside of a workspace and is made for it alone: its skeleton, and files beside that.
fn skeleton(workspace: &OsStr, paths: &Paths) -> Result<(), FileError> {
    let name = workspace.as_bytes();
    for entry in fs::read_dir(paths.tmp().join("roots")).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let rest = found.as_bytes().strip_prefix(name);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b".")) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn bytes_of(folder: &Path) -> u64 {
    measure(&[folder]).folders.iter().fold(0, |sum, space| sum.saturating_add(space.bytes))
}
