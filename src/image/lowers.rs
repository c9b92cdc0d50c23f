//! The layers below one that is being unpacked or packed, seen as overlayfs would merge them. Reads only.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, FileType, OFlags, Stat},
    io::Errno,
};

use super::{layer_error::LayerError, tree};
use crate::system::rooted::Rooted;

/// Unpacked layers, the topmost first.
#[derive(Debug, Default)]
pub(super) struct Lowers(Vec<Rooted>);

impl Lowers {
    /// Opens the folders of an image's lower layers, given lowest first (overlayfs lists them topmost first).
    ///
    /// # Errors
    ///
    /// When one cannot be opened.
    pub(super) fn open(diffs: &[PathBuf]) -> Result<Self, LayerError> {
        let open =
            |path: &PathBuf| Rooted::open(path).map_err(|source| LayerError::Place { entry: b"."[..].into(), source });
        diffs.iter().rev().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The folder that these layers show at `path`, if there is one.
    pub(super) fn folder(&self, path: &Path) -> Option<Stat> {
        self.find(path).filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Whether these layers show anything at `path`.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.find(path).is_some()
    }

    /// The regular file at `path`, open for reading.
    pub(super) fn file(&self, path: &Path) -> Option<(File, Stat)> {
        let layer = self.0.iter().find_map(|layer| see(layer, path).map(|seen| seen.map(|_| layer)))??;
        let file = layer.open_plain(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let stat = fs::fstat(&file).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| (file.into(), stat))
    }

    fn find(&self, path: &Path) -> Option<Stat> {
        self.0.iter().find_map(|layer| see(layer, path)).flatten()
    }
}

// None: this layer has no entry, look further down. Some(None): it hides the layers below.
fn see(layer: &Rooted, path: &Path) -> Option<Option<Stat>> {
    match layer.open_plain(path, OFlags::PATH).and_then(fs::fstat) {
        Ok(stat) if tree::is_whiteout(&stat) => Some(None),
        Ok(stat) => Some(Some(stat)),
        Err(Errno::NOENT) => hides(layer, path).then_some(None),
        Err(_) => Some(None),
    }
}

fn hides(layer: &Rooted, path: &Path) -> bool {
    path.ancestors().skip(1).any(|folder| {
        layer.open_plain(folder, OFlags::RDONLY | OFlags::DIRECTORY).is_ok_and(|folder| tree::is_opaque(&folder))
    })
}
