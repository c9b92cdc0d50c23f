//! Normalises a tree into the form that unpacking its own layer would give it.
//!
//! Modes, times, attributes and whiteouts are put in order, given the layers below and a time,
//! so that packing the folder gives the same bytes on every machine. Nothing outside the folder is changed.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, Uid};

use super::{
    layer_error::LayerError,
    limits::{ENTRIES, Limits},
    lowers::Lowers,
    tree::{self, Time},
};

/// The size of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Bytes of all files; one with several names counts each time.
    pub bytes: u64,
    /// Files, folders, links, whiteouts.
    pub entries: u64,
    /// Device nodes and sockets that were removed.
    pub removed: u64,
}

/// Normalises the tree at `root`. No time in it is later than `epoch`, and none has a fraction.
///
/// # Errors
///
/// When something in it cannot be changed, or could not be unpacked again.
pub(super) fn normalise(root: &Path, lowers: &Lowers, epoch: i64, limits: Limits) -> Result<Census, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut work = Normaliser { lowers, epoch, limits, census: Census::default() };
    let start = fs::stat(root).map_err(LayerError::file("find", root))?;
    fs::chmod(root, Mode::from(tree::folder_mode(start.st_mode))).map_err(LayerError::file("set the mode of", root))?;
    let folder = fs::open(root, flags, Mode::empty()).map_err(LayerError::file("open", root))?;
    work.own(folder.as_fd(), OsStr::new("."), &start, Path::new(""))?;
    work.folder(&folder, Path::new(""), &start, lowers.is_empty(), 0)?;
    Ok(work.census)
}

struct Normaliser<'a> {
    lowers: &'a Lowers,
    epoch: i64,
    limits: Limits,
    census: Census,
}

impl Normaliser<'_> {
    // `alone`: nothing below shows through here, so whiteouts have no effect.
    fn folder(
        &mut self,
        folder: &OwnedFd,
        path: &Path,
        stat: &Stat,
        alone: bool,
        depth: usize,
    ) -> Result<(), LayerError> {
        self.check(path, depth)?;
        let opaque = !alone && tree::is_opaque(folder) && self.lowers.folder(path).is_some();
        self.clean_xattrs(folder, path, opaque)?;
        for name in tree::names(folder).map_err(LayerError::file("list", path))? {
            let name = OsStr::from_bytes(&name);
            self.entry(folder.as_fd(), name, &path.join(name), alone || opaque, depth + 1)?;
        }
        tree::finish(folder, tree::folder_mode(stat.st_mode), self.time(stat))
            .map_err(LayerError::file("set mode and time of", path))
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        alone: bool,
        depth: usize,
    ) -> Result<(), LayerError> {
        let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(LayerError::file("find", path))?;
        if name.as_bytes().starts_with(tree::WHITEOUT) {
            let why = "has a name that only whiteouts may have; an image layer cannot hold it";
            return Err(LayerError::Entry { entry: path.as_os_str().as_bytes().into(), why });
        }
        self.own(dir, name, &stat, path)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let mode = Mode::from(tree::folder_mode(stat.st_mode));
                fs::chmodat(dir, name, mode, AtFlags::empty()).map_err(LayerError::file("set the mode of", path))?;
                let folder = tree::open_folder(dir, name).map_err(LayerError::file("open", path))?;
                self.folder(&folder, path, &stat, alone, depth)
            }
            FileType::RegularFile => self.file(dir, name, path, &stat, depth),
            FileType::Symlink | FileType::Fifo => self.other(dir, name, path, &stat, depth),
            FileType::CharacterDevice if tree::is_whiteout(&stat) && !alone && self.lowers.has(path) => {
                self.check(path, depth)?;
                tree::set_time_at(dir, name, Time::default()).map_err(LayerError::file("set the time of", path))
            }
            kind => {
                self.census.removed += u64::from(kind != FileType::CharacterDevice || !tree::is_whiteout(&stat));
                fs::unlinkat(dir, name, AtFlags::empty()).map_err(LayerError::file("remove", path))
            }
        }
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        depth: usize,
    ) -> Result<(), LayerError> {
        self.check(path, depth)?;
        self.census.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        let mode = Mode::from(tree::file_mode(stat.st_mode));
        fs::chmodat(dir, name, mode, AtFlags::empty()).map_err(LayerError::file("set the mode of", path))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(dir, name, flags, Mode::empty()).map_err(LayerError::file("open", path))?;
        self.clean_xattrs(&file, path, false)?;
        tree::finish(&file, tree::file_mode(stat.st_mode), self.time(stat))
            .map_err(LayerError::file("set the time of", path))
    }

    fn other(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        depth: usize,
    ) -> Result<(), LayerError> {
        self.check(path, depth)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            let mode = Mode::from(tree::file_mode(stat.st_mode));
            fs::chmodat(dir, name, mode, AtFlags::empty()).map_err(LayerError::file("set the mode of", path))?;
        }
        tree::set_time_at(dir, name, self.time(stat)).map_err(LayerError::file("set the time of", path))
    }

    // What is packed must be acceptable for unpacking.
    fn check(&mut self, path: &Path, depth: usize) -> Result<(), LayerError> {
        self.census.entries += 1;
        let over = |what, limit| Err(LayerError::Limit { entry: path.as_os_str().as_bytes().into(), what, limit });
        if depth > self.limits.depth {
            return over("components of a path", self.limits.depth as u64);
        }
        if path.as_os_str().len() >= self.limits.path {
            return over("bytes of a path", self.limits.path as u64);
        }
        if self.census.entries > self.limits.entries {
            return over(ENTRIES, self.limits.entries);
        }
        Ok(())
    }

    // Only root can have files of other owners in a tree.
    fn own(&self, dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat, path: &Path) -> Result<(), LayerError> {
        let me = rustix::process::geteuid();
        if Uid::from_raw(stat.st_uid) == me {
            return Ok(());
        }
        let group = Some(rustix::process::getegid());
        fs::chownat(dir, name, Some(me), group, AtFlags::SYMLINK_NOFOLLOW).map_err(LayerError::file("take over", path))
    }

    fn clean_xattrs(&self, fd: &OwnedFd, path: &Path, opaque: bool) -> Result<(), LayerError> {
        for (name, _) in tree::xattrs(fd).map_err(LayerError::file("list the attributes of", path))? {
            if tree::keeps_xattr(&name) || (opaque && name == tree::OPAQUE.as_bytes()) {
                continue;
            }
            // Attributes of security modules cannot be removed, and are never packed.
            let _ = fs::fremovexattr(fd, OsStr::from_bytes(&name));
        }
        Ok(())
    }

    fn time(&self, stat: &Stat) -> Time {
        Time { seconds: Time::of(stat).seconds.min(self.epoch).clamp(0, super::pax::MAX_TIME), nanos: 0 }
    }
}
