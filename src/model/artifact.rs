//! What a build leaves behind.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Digest;

/// A file that was kept after a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Relative to the build's artifact folder.
    pub path: PathBuf,
    /// In bytes; 0 for a symbolic link.
    pub size: u64,
    /// Of the content; absent for a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<PathBuf>,
}
