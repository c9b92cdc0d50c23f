//! What crosses from a project's own caches into shared ones once the project is trusted. Downloads cross as plain files, without the `.done`
//! of BitBake, which then checks their content itself; everything else is dropped and made again.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{
    config::Text,
    host::{
        files::{FileError, make_private_dir, remove_tree},
        lock::{self, Attempt, Mode},
    },
    model::Paths,
    plan::{Caches, Domain},
};

/// What came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Downloads.
    pub files: u64,
}

/// Archives that BitBake's fetchers make of repositories (bb.fetch2, `mirrortarballs`): their content is checked by nothing.
const UNCHECKED: [&str; 6] = ["git2_", "gitshallow_", "hg_", "svn_", "repo_", "bzr_"];

/// Moves what may cross from the private caches of a project to those that it shares from now on; `cache` names these, else they are the
/// user's own. None where there is nothing, or a build uses the private ones.
///
/// # Errors
///
/// When the file system refuses.
pub fn cross(cache: &Option<Text>, workspace: &str, paths: &Paths) -> Result<Option<Crossed>, FileError> {
    let from = Domain::Private.caches(paths, workspace);
    let Some(domain) = from.downloads.parent().filter(|folder| folder.is_dir()) else { return Ok(None) };
    let _alone = match lock::try_lock(&lock_of(&from, paths), Mode::Exclusive, "smidr trust")? {
        Attempt::Held(lock) => lock,
        Attempt::Busy(_) => return Ok(None),
    };
    let to = cache.as_ref().map_or(Domain::Own, |name| Domain::Named(name.text.clone())).caches(paths, workspace);
    make_private_dir(&to.downloads)?;
    let mut crossed = Crossed::default();
    for entry in fs::read_dir(&from.downloads).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let plain = entry.metadata().is_ok_and(|data| data.is_file() && data.nlink() == 1);
        let unchecked = UNCHECKED.iter().any(|start| name.starts_with(start)) || name.starts_with('.');
        if !plain || unchecked || [".done", ".lock"].iter().any(|end| name.ends_with(end)) {
            continue;
        }
        let target = to.downloads.join(&name);
        // What is there already stays.
        match renameat_with(CWD, entry.path(), CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => crossed.files += 1,
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(FileError::new("take over", &target)(error.into())),
        }
    }
    remove_tree(domain)?;
    Ok(Some(crossed))
}

/// The lock that each build holds, together with others, on the caches that it uses.
pub fn lock_of(caches: &Caches, paths: &Paths) -> std::path::PathBuf {
    let domain = caches.downloads.parent().filter(|folder| *folder != paths.home()).and_then(Path::file_name);
    let name = domain.map_or_else(|| "own".into(), |name| name.to_string_lossy().into_owned());
    lock::path_in(&paths.locks(), &format!("cache-{name}"))
}
