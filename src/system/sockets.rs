//! Unix sockets at paths of any length.

use std::{
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

/// Works on a socket by a name that is short whatever its folder is called: an address holds 108 bytes (unix(7)).
///
/// # Errors
///
/// When the folder cannot be opened, and those of `work`.
pub fn by_short_path<T>(socket: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (folder, name) = (socket.parent().unwrap_or(Path::new("/")), socket.file_name().unwrap_or_default());
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    work(&PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}
