//! Half-made things: a folder of the store that vanishes unless it becomes something.

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
    // flock(2) on the folder itself says that its maker lives.
    _alive: File,
}

impl Scratch {
    /// Makes one in `tmp`, where nobody may be clearing up meanwhile.
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
            // It is the root of an image one day, whatever the umask.
            fs::set_permissions(&scratch.tree, fs::Permissions::from_mode(0o755))?;
            Ok(scratch)
        };
        make().map_err(FileError::new("make a temporary folder in", tmp))
    }

    /// The folder for the tree.
    pub fn path(&self) -> &Path {
        &self.tree
    }

    /// A further folder, for what making the tree needs and the tree must not hold.
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

    /// Lets the whole folder become `to`, in the place of a wreck if need be.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn persist(self, to: &Path) -> Result<(), FileError> {
        files::remove_tree(&self.outer.join(SIDE))?;
        place(&self.outer, to)
    }

    /// Lets the tree alone become `to`, likewise; the rest vanishes.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn tree_becomes(self, to: &Path) -> Result<(), FileError> {
        place(&self.tree, to)
    }

    /// Removes what processes left that were killed. Nobody may be making a scratch meanwhile.
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
        // What cannot be removed now is removed when the store is opened next. A folder that became something is gone.
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
