//! Temporary folders of the store, removed unless renamed to their place.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::files::{self, FileError};

/// Holds what [`Scratch::side`] gave out.
const SIDE: &str = "side";

/// A private folder, in the file system of the store, with an empty folder for a tree in it. Removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    outer: PathBuf,
    tree: PathBuf,
    // A flock(2) on the folder itself: it is in use while its maker lives.
    _alive: File,
}

impl Scratch {
    /// Makes one in `tmp`. The caller must exclude a concurrent [`Self::remove_stale`].
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn make(tmp: &Path) -> Result<Self, FileError> {
        let make = || -> std::io::Result<Self> {
            let folder = tempfile::Builder::new().prefix("s-").tempdir_in(tmp)?;
            let alive = File::open(folder.path())?;
            alive.lock()?;
            let outer = folder.keep();
            let tree = outer.join("fs");
            let scratch = Self { tree, outer, _alive: alive };
            fs::create_dir(&scratch.tree)?;
            // It becomes the root of an image, independent of the umask.
            fs::set_permissions(&scratch.tree, fs::Permissions::from_mode(0o755))?;
            Ok(scratch)
        };
        make().map_err(FileError::new("make a temporary folder in", tmp))
    }

    /// The folder for the tree.
    pub fn path(&self) -> &Path {
        &self.tree
    }

    /// A further folder, for files that are needed to make the tree but are not part of it.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn side(&self, name: &str) -> Result<PathBuf, FileError> {
        let folder = self.outer.join(SIDE).join(name);
        files::make_private_dir(&folder)?;
        Ok(folder)
    }

    /// The folder that holds the tree's.
    pub fn outer(&self) -> &Path {
        &self.outer
    }

    /// Renames the whole folder to `to`, replacing a damaged entry.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn persist(self, to: &Path) -> Result<(), FileError> {
        files::remove_tree(&self.outer.join(SIDE))?;
        place(&self.outer, to)
    }

    /// Renames the tree alone to `to`, likewise; the rest is removed.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn tree_becomes(self, to: &Path) -> Result<(), FileError> {
        place(&self.tree, to)
    }

    /// Removes what killed processes left. The caller must exclude a concurrent [`Scratch::make`].
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn remove_stale(tmp: &Path) -> Result<(), FileError> {
        for entry in fs::read_dir(tmp).map_err(FileError::new("list", tmp))?.flatten() {
            let path = entry.path();
            let Ok(folder) = File::open(&path) else { continue };
            if !matches!(folder.try_lock(), Err(TryLockError::WouldBlock)) {
                files::remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the store is opened next. A renamed folder is gone.
        let _ = files::remove_tree(&self.outer);
    }
}

fn place(from: &Path, to: &Path) -> Result<(), FileError> {
    let mut renamed = fs::rename(from, to);
    if renamed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::DirectoryNotEmpty) {
        files::remove_tree(to)?;
        renamed = fs::rename(from, to);
    }
    renamed.map_err(FileError::new("put in its place", to))
}
