//! A root without overlayfs: stacked folders, merged by bind mounts in an empty folder in memory.
//!
//! An entry that only one of them has is bound whole. A folder that several have is made, and filled by the same rule. Whiteouts and
//! opaque folders have their meaning from overlayfs.

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps},
    io::Errno,
    mount::{self, OpenTreeFlags},
};

use super::{
    error::StepFailure,
    mounts::{NODEV, NOSUID, RDONLY, Step, attach, restrict},
};
use crate::system::overlay::{is_opaque, is_whiteout, names, open_folder};

/// Fills `target` with what `folders` show together, the topmost first. Everything but folders made here is read-only.
pub(super) fn merge(target: BorrowedFd<'_>, folders: &[OwnedFd], path: &Path) -> Step<()> {
    let mut seen = HashSet::new();
    for folder in folders {
        for name in names(folder).map_err(StepFailure::at(format!("list {}", path.display())))? {
            if seen.insert(name.clone()) {
                place(target, folders, OsStr::from_bytes(&name), &path.join(OsStr::from_bytes(&name)))?;
            }
        }
    }
    Ok(())
}

fn place(target: BorrowedFd<'_>, folders: &[OwnedFd], name: &OsStr, path: &Path) -> Step<()> {
    let mut found: Vec<(OwnedFd, BorrowedFd<'_>, Stat)> = Vec::new();
    for folder in folders {
        let stat = match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            looked => looked.map_err(StepFailure::at(format!("look at {}", path.display())))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let opened =
                    open_folder(folder.as_fd(), name).map_err(StepFailure::at(format!("open {}", path.display())))?;
                let opaque = is_opaque(&opened);
                found.push((opened, folder.as_fd(), stat));
                if opaque {
                    break;
                }
            }
            FileType::CharacterDevice if is_whiteout(&stat) => break,
            FileType::Symlink if found.is_empty() => return copy_link(target, folder.as_fd(), name, &stat, path),
            _ if found.is_empty() => return bind_file(target, folder.as_fd(), name, path),
            _ => break,
        }
    }
    let Some((_, holder, stat)) = found.first() else { return Ok(()) };
    let making = || StepFailure::at(format!("make {}", path.display()));
    fs::mkdirat(target, name, Mode::RWXU).map_err(making())?;
    if found.len() == 1 {
        return bind(target, *holder, name, path);
    }
    let made = open_folder(target, name).map_err(making())?;
    let stat = *stat;
    let folders: Vec<OwnedFd> = found.into_iter().map(|(folder, ..)| folder).collect();
    merge(made.as_fd(), &folders, path)?;
    finish(&made, &stat).map_err(making())
}

// The topmost folder's mode and time are those that overlayfs would show.
fn finish(made: &OwnedFd, stat: &Stat) -> rustix::io::Result<()> {
    fs::fchmod(made, Mode::from_raw_mode(stat.st_mode & 0o1777))?;
    fs::futimens(made, &times(stat))
}

fn times(stat: &Stat) -> Timestamps {
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    #[expect(clippy::useless_conversion, reason = "32 bits wide on some architectures")]
    let time = Timespec { tv_sec: i64::from(stat.st_mtime), tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn copy_link(target: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: &OsStr, stat: &Stat, path: &Path) -> Step<()> {
    fs::readlinkat(folder, name, Vec::new())
        .and_then(|link| fs::symlinkat(link, target, name))
        .and_then(|()| fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW))
        .map_err(StepFailure::at(format!("make the link {}", path.display())))
}

fn bind_file(target: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Step<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(target, name, flags, Mode::RUSR).map_err(StepFailure::at(format!("make {}", path.display())))?;
    bind(target, folder, name, path)
}

fn bind(target: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Step<()> {
    let failed = || StepFailure::at(format!("show {}", path.display()));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = mount::open_tree(folder, name, flags).map_err(failed())?;
    restrict(tree.as_fd(), NOSUID | NODEV | RDONLY, path)?;
    let at = fs::openat(target, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    attach(tree.as_fd(), at.map_err(failed())?.as_fd(), path)
}
