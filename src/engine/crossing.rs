//! What crosses from a project's own caches into shared ones once the project is trusted. Downloads cross as plain files, without the `.done`
//! of BitBake, which then checks their content itself, and git repositories object by object; everything else is dropped and made again.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{CWD, OFlags, RenameFlags, renameat_with},
    io::Errno,
};

use crate::{
    config::Text,
    host::{
        files::{FileError, make_private_dir, remove_tree},
        lock::{self, Attempt, Mode},
        repository::is_git_folder,
        stop::Stop,
    },
    layers::{self, GitError},
    model::Paths,
    plan::{Caches, Domain},
};

/// What came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Downloads.
    pub files: u64,
    /// Repositories that BitBake has fetched.
    pub repositories: u64,
}

/// Where BitBake's git fetcher keeps its clones, in the downloads.
const REPOSITORIES: &str = "git2";

/// Archives that BitBake's fetchers make of repositories (bb.fetch2, `mirrortarballs`): their content is checked by nothing.
const UNCHECKED: [&str; 6] = ["git2_", "gitshallow_", "hg_", "svn_", "repo_", "bzr_"];

/// Moves what may cross from the private caches of a project to those that it shares from now on; `cache` names these, else they are the
/// user's own. None where there is nothing, or a build uses the private ones.
///
/// # Errors
///
/// When the file system refuses.
pub fn cross(
    cache: &Option<Text>,
    workspace: &str,
    paths: &Paths,
    stop: &Stop,
    tell: &dyn Fn(String),
) -> Result<Option<Crossed>, GitError> {
    let from = Domain::Private.caches(paths, workspace);
    let Some(domain) = from.downloads.parent().filter(|folder| folder.is_dir()) else { return Ok(None) };
    let alone = match lock::try_lock(&lock_of(&from, paths), Mode::Exclusive, "smidr trust")? {
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
        crossed.files += u64::from(take_over(&entry.path(), &target)?);
    }
    crossed.repositories =
        repositories(&from.downloads.join(REPOSITORIES), &to.downloads.join(REPOSITORIES), stop, tell)?;
    // Out of the way first: a build of this project need not wait until it is gone.
    let gone = paths.tmp().join(format!("domain-{}", std::process::id()));
    let gone = if fs::rename(domain, &gone).is_ok() { gone } else { domain.into() };
    drop(alone);
    remove_tree(&gone)?;
    Ok(Some(crossed))
}

/// Copies BitBake's clones, each object by what it is, where there is none of that name.
fn repositories(from: &Path, to: &Path, stop: &Stop, tell: &dyn Fn(String)) -> Result<u64, GitError> {
    let interrupt = Arc::new(AtomicBool::new(stop.asked() > 0));
    let interrupted = interrupt.clone();
    let _listening = stop.listen(move |_, _| interrupted.store(true, Ordering::SeqCst));
    let mut copied = 0;
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let target = to.join(&name);
        let is_known = fs::symlink_metadata(&target).is_ok() || name.as_encoded_bytes().starts_with(b".");
        if is_known || !is_git_folder(&entry.path()) || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        tell(format!("checking every object of the repository {}", name.display()));
        make_private_dir(to)?;
        let failed = FileError::new("write to", to);
        let fresh = tempfile::Builder::new().prefix(".smidr-").tempdir_in(to).map_err(failed)?;
        if !layers::proven::copy(&entry.path(), fresh.path(), &interrupt)? {
            tell(format!("it is damaged or has only a part of its past, and is not taken over: {}", name.display()));
            continue;
        }
        if renameat_with(CWD, fresh.path(), CWD, &target, RenameFlags::NOREPLACE).is_ok() {
            let _ = fresh.keep();
            copied += 1;
        }
    }
    Ok(copied)
}

/// Moves a file, unless there is one already; what is there stays. Says whether it was moved.
fn take_over(from: &Path, to: &Path) -> Result<bool, FileError> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => return Ok(false),
        // Another file system, or one that cannot do that, as NFS.
        Err(_) => {}
    }
    let copy = || -> io::Result<bool> {
        let mut copy = tempfile::Builder::new().prefix(".smidr-").tempfile_in(to.parent().unwrap_or(to))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        io::copy(&mut fs::File::from(rustix::fs::open(from, flags, rustix::fs::Mode::empty())?), &mut copy)?;
        match copy.persist_noclobber(to) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    };
    copy().map_err(FileError::new("take over", to))
}

/// The lock that each build holds, together with others, on the caches that it uses.
pub fn lock_of(caches: &Caches, paths: &Paths) -> std::path::PathBuf {
    let domain = caches.downloads.parent().filter(|folder| *folder != paths.home()).and_then(Path::file_name);
    let name = domain.map_or_else(|| "own".into(), |name| name.to_string_lossy().into_owned());
    lock::path_in(&paths.locks(), &format!("cache-{name}"))
}
