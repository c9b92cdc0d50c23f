//! What smidr does by itself about failures that lie outside of the code that is built.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Diagnosis;

/// A reason to try again, at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// Files of a recipe in the workspace do not fit together: the recipe is cleaned.
    State,
    /// An object of sstate was proved damaged: it is removed.
    Sstate,
    /// A download was proved damaged: it is removed, and fetched again.
    Download,
    /// The network broke during a fetch.
    Network,
    /// Memory ran out: half as many tasks and compilers.
    Memory,
    /// BitBake's server died.
    Server,
}

impl Recovery {
    /// All of them, which is the default.
    pub const ALL: [Self; 6] = [Self::State, Self::Sstate, Self::Download, Self::Network, Self::Memory, Self::Server];
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::State => "state",
            Self::Sstate => "sstate",
            Self::Download => "download",
            Self::Network => "network",
            Self::Memory => "memory",
            Self::Server => "server",
        })
    }
}

impl FromStr for Recovery {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|known| known.to_string() == text).ok_or(())
    }
}

/// A second try that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// What was done.
    pub how: Vec<Recovery>,
    /// Why the first try failed.
    pub diagnoses: Vec<Diagnosis>,
    /// Whether the second one came to its end.
    pub helped: bool,
}
