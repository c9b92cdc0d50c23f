//! The one account for memory while an image comes in.
//!
//! An entry of an archive is used and forgotten, but for what has to wait: for the end of its layer (whiteouts), or for the layers below
//! (implied folders, links). Four million entries could make gigabytes of that, so each path is charged here before it is kept. All
//! layers of an image share one account, because several are unpacked at once and what they leave is put together at the end.
//! Nothing is credited: whether an image fits would depend on which of its layers comes first.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    layer_error::LayerError,
    limits::{Limits, MEMORY},
};

/// What a path costs beyond its bytes: its place in a map with the slack of the map's nodes, and the allocator's header.
const EACH: u64 = 128;

/// What has been kept for one image.
#[derive(Debug)]
pub struct Account {
    limit: u64,
    used: AtomicU64,
}

impl Account {
    /// With nothing on it.
    pub fn new(limits: &Limits) -> Self {
        Self { limit: limits.memory, used: AtomicU64::new(0) }
    }

    /// Charges a path that is about to be kept.
    ///
    /// # Errors
    ///
    /// When the limit is reached; names the path.
    pub fn charge(&self, path: &Path) -> Result<(), LayerError> {
        let bytes = path.as_os_str().as_bytes();
        let cost = bytes.len() as u64 + EACH;
        // The threads only add, and each sees the sum that its own addition made.
        let used = self.used.fetch_add(cost, Ordering::Relaxed).saturating_add(cost);
        if used > self.limit {
            return Err(LayerError::Limit { entry: bytes.into(), what: MEMORY, limit: self.limit });
        }
        Ok(())
    }

    /// Charges a path and gives it back without the room that it grew.
    ///
    /// # Errors
    ///
    /// As [`Account::charge`].
    pub fn keep(&self, mut path: PathBuf) -> Result<PathBuf, LayerError> {
        self.charge(&path)?;
        path.shrink_to_fit();
        Ok(path)
    }
}
