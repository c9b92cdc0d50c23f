//! What a user asks of a build. Self-contained: it could travel to another machine.

use serde::{Deserialize, Serialize};

/// What `smidr build` was asked for, beyond the config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRequest {
    /// Instead of `build.image`.
    pub targets: Vec<String>,
    /// Instead of `build.machine`.
    pub machine: Option<String>,
    /// A named overlay of the config.
    pub variant: Option<String>,
    /// Fetch all sources and stop.
    pub fetch_only: bool,
    /// Use what smidr.lock pins, and pin nothing anew.
    pub locked: bool,
    /// Reach no network for images and layers.
    pub offline: bool,
    /// Remove first all that builds of the project write; downloads and sstate stay.
    pub clean: bool,
    /// Kinds of warnings that fail it, `qa` for all of QA, or `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fail_on_warning: Vec<String>,
    /// Handed to BitBake as they are.
    pub bitbake_args: Vec<String>,
}
