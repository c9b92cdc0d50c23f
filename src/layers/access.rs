//! How servers and the network may be reached while layers are made ready. Plain values: `cli` has read the environment.

use crate::{
    events::Emitter,
    model::Logins,
    system::{process::Spawner, stop::StopToken},
};

/// What fetching may use.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Whether the network may be used. A folder of this machine that is named by URL counts as network.
    pub online: bool,
    /// Receives progress, waiting and warnings.
    pub on: &'a Emitter,
    /// Stops all work within a second.
    pub stop: &'a StopToken,
    /// Starts the host's git.
    pub spawner: &'a Spawner,
    /// The addresses to which the caller's credentials may be shown.
    pub logins: &'a Logins,
    /// The caller's environment: where the configuration of git is, and what git itself sees.
    pub environment: &'a [(String, String)],
}

impl<'a> Access<'a> {
    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&'a str> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}
