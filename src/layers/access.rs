//! How the world outside may be reached while layers are made ready. Only values: `cli` has read the environment.

use crate::{
    events::Emitter,
    model::Logins,
    system::{process::Spawner, stop::StopToken},
};

/// What fetching may use.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Whether the network may be used; a folder of this machine counts as network, if it is asked for by URL.
    pub online: bool,
    /// Hears of progress, of waiting, and of what is doubtful.
    pub on: &'a Emitter,
    /// Ends everything within a second.
    pub stop: &'a StopToken,
    /// Starts the host's git.
    pub spawner: &'a Spawner,
    /// Which addresses may be shown the caller's credentials.
    pub logins: &'a Logins,
    /// The caller's: where the configuration of git is, and what git itself gets to see.
    pub environment: &'a [(String, String)],
}

impl<'a> Access<'a> {
    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&'a str> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}
