//! The budget for memory while an image is unpacked.
//!
//! An entry of an archive is used and dropped, except for what has to be kept: to the end of its layer (whiteouts), or for the layers below
//! (implied folders, links). Four million entries could make gigabytes of that, so each path is charged here before it is kept. All
//! layers of an image share one account, because several are unpacked at once and their open parts are joined at the end.
//! Nothing is given back: whether an image fits would then depend on the order of its layers.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    layer_error::LayerError,
    limits::{Limits, MEMORY},
};

/// The cost of a path beyond its bytes: its entry in a map with the slack of the map's nodes, and the allocator's header.
const EACH: u64 = 128;

/// The bytes that one image has been charged.
#[derive(Debug)]
pub(super) struct Account {
    limit: u64,
    used: AtomicU64,
}

impl Account {
    /// With nothing on it.
    pub(super) fn new(limits: &Limits) -> Self {
        Self { limit: limits.memory, used: AtomicU64::new(0) }
    }

    /// Charges a path that is about to be kept.
    ///
    /// # Errors
    ///
    /// When the limit is reached; names the path.
    pub(super) fn charge(&self, path: &Path) -> Result<(), LayerError> {
        let bytes = path.as_os_str().as_bytes();
        let cost = bytes.len() as u64 + EACH;
        // Threads only add, and each sees the sum after its own addition.
        let used = self.used.fetch_add(cost, Ordering::Relaxed).saturating_add(cost);
        if used > self.limit {
            return Err(LayerError::Limit { entry: bytes.into(), what: MEMORY, limit: self.limit });
        }
        Ok(())
    }

    /// Charges a path and returns it without spare capacity.
    ///
    /// # Errors
    ///
    /// As [`Account::charge`].
    pub(super) fn keep(&self, mut path: PathBuf) -> Result<PathBuf, LayerError> {
        self.charge(&path)?;
        path.shrink_to_fit();
        Ok(path)
    }
}
