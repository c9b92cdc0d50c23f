//! The form of an unpacked layer, a `Diff`, on disk: overlayfs's own, with everything owned by the caller.
//!
//! A whiteout is a character device 0:0, which any user may make; an opaque folder carries `user.overlay.opaque`
//! (overlayfs.rst, "userxattr"). Modes are those of the archive without setuid and setgid, and always readable and writable
//! by the owner, because there is only one: an image's 0000 `/etc/shadow` or 0555 folders could not be read or removed.

use std::{
    ffi::OsStr,
    io::{BufRead, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, Stat, Timespec, Timestamps, XattrFlags},
    io::Errno,
};

use super::layer_error::LayerError;
pub(super) use crate::system::overlay::{OPAQUE, is_opaque, is_whiteout, names, open_folder};

/// The prefix of a whiteout's file name in an archive.
pub(super) const WHITEOUT: &[u8] = b".wh.";

/// The name of the file that makes its folder opaque in an archive.
pub(super) const OPAQUE_FILE: &[u8] = b".wh..wh..opq";

/// The prefix of names of AUFS's own files and folders.
pub(super) const AUFS: &[u8] = b".wh..wh.";

/// The folder at the root of a branch in which AUFS kept the files that have several names.
pub(super) const AUFS_LINKS: &str = ".wh..wh.plnk";

/// Permission bits of a file in a diff.
pub(super) fn file_mode(mode: u32) -> u32 {
    mode & 0o777 | 0o600
}

/// Permission bits of a folder in a diff.
pub(super) fn folder_mode(mode: u32) -> u32 {
    mode & 0o1777 | 0o700
}

/// The most bytes of a list of extended attributes, and of a value, that the kernel gives (xattr(7)).
pub(super) const XATTR_LIST: usize = 1 << 16;

/// Extended attributes: names and values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Whether a diff keeps an extended attribute: those of users, except those that overlayfs, podman and others obey, which
/// an image could forge.
pub(super) fn keeps_xattr(name: &[u8]) -> bool {
    const OBEYED: [&[u8]; 3] = [b"user.overlay.", b"user.containers.", b"user.rootlesscontainers"];
    name.starts_with(b"user.") && !OBEYED.iter().any(|prefix| name.starts_with(prefix))
}

/// A modification time. The access time is set to it as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Time {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanos: u32,
}

impl Time {
    /// The time of an existing entry.
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        #[expect(clippy::useless_conversion, reason = "32 bits wide on some architectures")]
        Self { seconds: i64::from(stat.st_mtime), nanos }
    }

    fn timestamps(self) -> Timestamps {
        let time = Timespec { tv_sec: self.seconds, tv_nsec: self.nanos.into() };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// Sets a file's or folder's mode and time, in this order, through a descriptor that is open for reading or writing.
pub(super) fn finish(fd: impl AsFd, mode: u32, time: Time) -> rustix::io::Result<()> {
    fs::fchmod(&fd, Mode::from(mode))?;
    fs::futimens(&fd, &time.timestamps())
}

/// Sets the time of a link, named pipe or anything else that is not opened.
pub(super) fn set_time_at(dir: BorrowedFd<'_>, name: &OsStr, time: Time) -> rustix::io::Result<()> {
    fs::utimensat(dir, name, &time.timestamps(), AtFlags::SYMLINK_NOFOLLOW)
}

/// Creates a whiteout, without a time of its own.
pub(super) fn make_whiteout(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)?;
    set_time_at(dir, name, Time::default())
}

/// Makes a folder, which is open for reading, opaque.
pub(super) fn set_opaque(folder: impl AsFd) -> rustix::io::Result<()> {
    fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())
}

/// The extended attributes of an open file, sorted; none where the file system has none.
pub(super) fn xattrs(fd: impl AsFd) -> rustix::io::Result<Xattrs> {
    let mut list = Vec::with_capacity(XATTR_LIST);
    match fs::flistxattr(&fd, rustix::buffer::spare_capacity(&mut list)) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        result => result?,
    };
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = Vec::with_capacity(XATTR_LIST);
        match fs::fgetxattr(&fd, OsStr::from_bytes(name), rustix::buffer::spare_capacity(&mut value)) {
            // A security module may hide a value although it lists the name.
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => continue,
            result => result?,
        };
        value.shrink_to_fit();
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

/// Copies exactly `size` bytes into a file.
pub(super) fn fill(
    file: &mut std::fs::File,
    content: &mut impl BufRead,
    size: u64,
    path: &Path,
    at: u64,
) -> Result<(), LayerError> {
    let mut left = size;
    while left > 0 {
        let ready = match content.fill_buf() {
            Ok([]) => return Err(LayerError::Truncated(at)),
            Ok(ready) => ready,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(super::archive::read_error(error, at)),
        };
        let part = ready.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(ready);
        file.write_all(part).map_err(LayerError::io("write", path))?;
        let count = part.len();
        content.consume(count);
        left -= count as u64;
    }
    Ok(())
}
