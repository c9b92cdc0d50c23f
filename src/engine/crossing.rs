//! What crosses from a project's own caches into shared ones once the project is trusted. Downloads cross as plain files, without the `.done`
//! of BitBake, which then checks their content itself, and git repositories object by object; everything else is dropped and made again.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
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
    layers::{self, GitError},
    model::Paths,
    plan::{Caches, Domain},
    system::{
        files::{FileError, make_private_dir, remove_tree},
        lock::{self, Attempt, Mode},
        repository::is_git_folder,
        stop::StopToken,
    },
};

/// What came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crossed {
    /// Downloads.
    pub files: u64,
    /// Repositories that BitBake has fetched.
    pub repositories: u64,
}

/// How names of copies begin that are not whole yet; the number of their process follows.
const UNFINISHED: &str = ".smidr-copy-";

/// Where BitBake's git fetcher keeps its clones, in the downloads.
const REPOSITORIES: &str = "git2";

/// Archives that BitBake's fetchers make of repositories (bb.fetch2, `mirrortarballs`): their content is checked by nothing.
const UNCHECKED: [&str; 6] = ["git2_", "gitshallow_", "hg_", "svn_", "repo_", "bzr_"];

/// What BitBake keeps beside downloads.
const KEPT_BESIDE: [&str; 2] = [".done", ".lock"];

/// The longest name that file systems have (NAME_MAX), in bytes.
const LONGEST: usize = 255;

/// Of a download that has crossed.
const MODE: u32 = 0o644;

/// Moves what may cross from the private caches of a project to those that it shares from now on; `cache` names these, else they are the
/// user's own. None where there is nothing, or a build uses the private ones.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn cross(
    cache: &Option<Text>,
    workspace: &str,
    paths: &Paths,
    stop: &StopToken,
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
        if entry.file_name().to_str().is_some_and(may_cross) {
            crossed.files += u64::from(take_over(&entry.path(), &to.downloads.join(entry.file_name()))?);
        }
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

/// Whether a name may cross: plain, and not hidden.
fn is_plain(name: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~@%,=-".contains(&byte);
    name.len() <= LONGEST && name.bytes().all(may) && !name.starts_with('.')
}

/// Whether a download of that name may cross. Case is ignored: the file system, or the next program, may ignore it too.
fn may_cross(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    is_plain(name)
        && !UNCHECKED.iter().any(|start| lower.starts_with(start))
        && !KEPT_BESIDE.iter().any(|end| lower.ends_with(end))
}

/// Copies BitBake's clones, each object by what it is, where there is none of that name.
fn repositories(from: &Path, to: &Path, stop: &StopToken, tell: &dyn Fn(String)) -> Result<u64, GitError> {
    let interrupt = Arc::new(AtomicBool::new(stop.is_requested()));
    let interrupted = interrupt.clone();
    let _listening = stop.listen(move |_| interrupted.store(true, Ordering::SeqCst));
    let mut copied = 0;
    // What an interrupted one has left.
    for entry in fs::read_dir(to).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(&format!("{UNFINISHED}{}-", std::process::id())));
        let process = rest.and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove_tree(&entry.path())?;
        }
    }
    // What a link leads to is not the build's.
    let from = if fs::symlink_metadata(from).is_ok_and(|data| data.is_dir()) { from } else { return Ok(0) };
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let target = to.join(&name);
        let is_known = fs::symlink_metadata(&target).is_ok() || !name.to_str().is_some_and(is_plain);
        if is_known || !is_git_folder(&entry.path()) || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        tell(format!("checking every object of the repository {}", name.display()));
        make_private_dir(to)?;
        let failed = FileError::new("write to", to);
        let fresh = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(to).map_err(failed)?;
        if !layers::proven::copy(&entry.path(), fresh.path(), &interrupt)? {
            tell(format!("it is damaged or has only a part of its past, and is not taken over: {}", name.display()));
            continue;
        }
        // NFS does not know NOREPLACE; a folder never replaces one that has something in it.
        let moved = renameat_with(CWD, fresh.path(), CWD, &target, RenameFlags::NOREPLACE);
        if moved.is_ok() || moved == Err(Errno::INVAL) && fs::rename(fresh.path(), &target).is_ok() {
            let _ = fresh.keep();
            copied += 1;
        }
    }
    Ok(copied)
}

/// Moves a plain file, unless there is one already; what is there stays. It arrives with the usual mode, whatever the build gave it. Says
/// whether it was moved.
fn take_over(from: &Path, to: &Path) -> Result<bool, FileError> {
    let attempt = || -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = match rustix::fs::open(from, flags, rustix::fs::Mode::empty()) {
            Ok(file) => fs::File::from(file),
            // A link, a socket, or a file that its owner may not read.
            Err(Errno::LOOP | Errno::NXIO | Errno::ACCESS) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let found = file.metadata()?;
        if !found.is_file() || found.nlink() != 1 {
            return Ok(false);
        }
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Ok(false),
            // Another file system, or one that cannot do that, as NFS.
            Err(_) => {}
        }
        let mut copy = tempfile::Builder::new().prefix(".smidr-").tempfile_in(to.parent().unwrap_or(to))?;
        io::copy(&mut file, &mut copy)?;
        copy.as_file().set_permissions(fs::Permissions::from_mode(MODE))?;
        match copy.persist_noclobber(to) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    };
    attempt().map_err(FileError::new("take over", to))
}

/// The lock that each build holds, together with others, on the caches that it uses.
pub(super) fn lock_of(caches: &Caches, paths: &Paths) -> std::path::PathBuf {
    let domain = caches.downloads.parent().filter(|folder| *folder != paths.home()).and_then(Path::file_name);
    let name = domain.map_or_else(|| "own".into(), |name| name.to_string_lossy().into_owned());
    lock::path_in(&paths.locks(), &format!("cache-{name}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_plain_files_with_plain_names_cross_and_with_a_plain_mode() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(folder.path().join("home"));
        fs::create_dir_all(paths.locks()).expect("a folder");
        fs::create_dir_all(paths.tmp()).expect("a folder");
        let from = Domain::Private.caches(&paths, "p-1").downloads;
        fs::create_dir_all(from.join("git2")).expect("a folder");
        let good = ["a-1.0_rc1~x+y@z,w=v%20.tar.gz", "Setuid.tgz", "closed"];
        let longest = "l".repeat(255);
        let bad = [
            "GIT2_x.tar.gz",
            "Hg_x",
            "x.DONE",
            "x.Lock",
            ".hidden",
            "a b",
            "a;b",
            "$(id)",
            "a\nb",
            "\u{e9}",
            "a\u{1b}[2J",
            "-",
        ];
        for name in good.iter().chain(&bad).copied().chain([longest.as_str()]) {
            fs::write(from.join(name), name).expect("a file");
        }
        for (name, mode) in [("Setuid.tgz", 0o6777), ("closed", 0o400)] {
            fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).expect("a mode");
        }
        symlink("/etc/passwd", from.join("link")).expect("a link");
        fs::hard_link(from.join("x.Lock"), from.join("twice")).expect("a hard link");
        let crossed =
            cross(&None, "p-1", &paths, &StopToken::default(), &drop).expect("crossed").expect("something to cross");
        let mut names: Vec<_> = fs::read_dir(paths.downloads()).expect("a folder").flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        for file in &names {
            assert_eq!(file.metadata().expect("a file").permissions().mode() & 0o7777, 0o644, "{file:?}");
        }
        let names: Vec<_> = names.iter().map(|file| file.file_name().into_string().expect("text")).collect();
        let mut expected = good.map(String::from).to_vec();
        expected.extend(["-".to_owned(), longest]);
        expected.sort();
        assert_eq!((names, crossed.files), (expected.clone(), expected.len() as u64));
    }

    #[test]
    fn a_copy_has_the_same_mode() {
        // To another file system nothing is renamed.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
        let from = folder.path().join("x");
        fs::write(&from, "x").expect("a file");
        fs::set_permissions(&from, fs::Permissions::from_mode(0o6755)).expect("a mode");
        let to = other.path().join("x");
        assert!(take_over(&from, &to).expect("copied"));
        assert_eq!(fs::metadata(to).expect("a file").permissions().mode() & 0o7777, 0o644);
    }
}
