//! How overlayfs's own marks look on disk, in its unprivileged form (overlayfs.rst, "userxattr"), and reading folders that
//! may hold them.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};

/// Marks a folder that hides what lower layers have at its place.
pub const OPAQUE: &str = "user.overlay.opaque";

/// Whether it is a whiteout: a character device 0:0, which any user may make.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a folder, open for reading, is opaque.
pub fn is_opaque(folder: impl AsFd) -> bool {
    let mut value = [0_u8; 4];
    fs::fgetxattr(folder, OPAQUE, &mut value[..]).is_ok_and(|length| value.get(..length) == Some(b"y"))
}

/// Opens a folder below `dir` for reading, never through a link.
pub fn open_folder(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty())
}

/// The names in a folder that is open for reading, sorted by their bytes.
pub fn names(folder: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
