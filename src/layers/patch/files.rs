//! The files of a tree, as patches see them: never behind a symbolic link.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    change::{Change, Content, Type},
    error::PatchError,
};
use crate::system::{files::FileError, rooted::Rooted};

/// A tree, and the patch that changes it.
pub(super) struct Files<'a> {
    root: Rooted,
    tree: &'a Path,
    patch: &'a str,
}

impl<'a> Files<'a> {
    /// Opens a tree.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub(super) fn open(tree: &'a Path, patch: &'a str) -> Result<Self, PatchError> {
        let root = Rooted::open(tree).map_err(io::Error::other).map_err(FileError::new("open", tree))?;
        Ok(Self { root, tree, patch })
    }

    /// The entry at a path, if there is one.
    ///
    /// # Errors
    ///
    /// When it is behind a link, or neither file nor link.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Content>, PatchError> {
        let (above, name) = split(path);
        let Some(above) = self.folder(above, path)? else { return Ok(None) };
        let stat = match fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(|errno| self.failed("look at", path, errno))?,
        };
        let content = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target =
                    fs::readlinkat(&above, name, Vec::new()).map_err(|errno| self.failed("read", path, errno))?;
                Content { kind: Type::Link, bytes: target.into_bytes() }
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file =
                    fs::openat(&above, name, flags, Mode::empty()).map_err(|errno| self.failed("open", path, errno))?;
                let mut bytes = Vec::new();
                File::from(file).read_to_end(&mut bytes).map_err(FileError::new("read", &self.tree.join(path)))?;
                Content { kind: if stat.st_mode & 0o100 == 0 { Type::File } else { Type::Program }, bytes }
            }
            _ => return Err(PatchError::Type { patch: self.patch.into(), file: shown(path) }),
        };
        Ok(Some(content))
    }

    /// Removes what a change removes, and folders that are empty then, as git does.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn remove(&self, change: &Change) -> Result<(), PatchError> {
        let Some(path) = &change.remove else { return Ok(()) };
        let (mut above, mut name) = split(path);
        let mut flags = AtFlags::empty();
        while let Some(folder) = self.folder(above, path)? {
            match fs::unlinkat(&folder, name, flags) {
                Ok(()) => {}
                // Two parts of a patch may move the same file.
                Err(Errno::NOENT) if flags.is_empty() => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) if !flags.is_empty() => return Ok(()),
                Err(errno) => return Err(self.failed("remove", path, errno)),
            }
            if above.as_os_str().is_empty() {
                break;
            }
            (above, name) = split(above);
            flags = AtFlags::REMOVEDIR;
        }
        Ok(())
    }

    /// Writes what a change writes.
    ///
    /// # Errors
    ///
    /// When another entry is in the way, or the file system refuses.
    pub(super) fn write(&self, change: &Change) -> Result<(), PatchError> {
        let Some((path, content)) = &change.write else { return Ok(()) };
        let (above, name) = split(path);
        let above = self.make_folder(above, path)?;
        match fs::unlinkat(&above, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => return Err(self.exists(path)),
            Err(errno) => return Err(self.failed("replace", path, errno)),
        }
        let mode = match content.kind {
            Type::Link => {
                let target = OsStr::from_bytes(&content.bytes);
                return fs::symlinkat(target, &above, name).map_err(|errno| self.failed("make", path, errno));
            }
            Type::File => 0o644,
            Type::Program => 0o755,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            fs::openat(&above, name, flags, Mode::from(mode)).map_err(|errno| self.failed("make", path, errno))?;
        // Whatever the umask.
        fs::fchmod(&file, Mode::from(mode)).map_err(|errno| self.failed("set the mode of", path, errno))?;
        File::from(file).write_all(&content.bytes).map_err(FileError::new("write", &self.tree.join(path)))?;
        Ok(())
    }

    fn folder(&self, folder: &Path, of: &Path) -> Result<Option<OwnedFd>, PatchError> {
        match self.root.open_plain(folder, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            // A link at the end of the path is no folder either.
            Err(Errno::NOTDIR | Errno::LOOP) if self.is_behind_link(folder) => {
                Err(PatchError::Link { patch: self.patch.into(), file: shown(of) })
            }
            Err(Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.failed("open the folder of", of, errno)),
        }
    }

    fn is_behind_link(&self, folder: &Path) -> bool {
        let mut parts = folder.ancestors().filter(|part| !part.as_os_str().is_empty());
        parts.any(|part| self.tree.join(part).symlink_metadata().is_ok_and(|found| found.is_symlink()))
    }

    fn make_folder(&self, folder: &Path, of: &Path) -> Result<OwnedFd, PatchError> {
        let mut here = PathBuf::new();
        for name in folder.iter() {
            let above = self.folder(&here, of)?.ok_or_else(|| self.exists(&here))?;
            match fs::mkdirat(&above, name, Mode::from(0o755)) {
                Ok(()) => {
                    let made = fs::chmodat(&above, name, Mode::from(0o755), AtFlags::empty());
                    made.map_err(|errno| self.failed("set the mode of a folder of", of, errno))?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("make a folder for", of, errno)),
            }
            here.push(name);
        }
        self.folder(&here, of)?.ok_or_else(|| self.exists(&here))
    }

    fn exists(&self, path: &Path) -> PatchError {
        PatchError::Exists { patch: self.patch.into(), file: shown(path) }
    }

    fn failed(&self, action: &'static str, path: &Path, errno: Errno) -> PatchError {
        FileError::new(action, &self.tree.join(path))(errno.into()).into()
    }
}

/// A path, for messages.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}
