//! Which builds start, and why others do not. Pure.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::model::BuildId;

/// A build that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// Its id.
    pub id: BuildId,
    /// Its place in time.
    pub seq: u64,
    /// Whose it is.
    pub customer: String,
    /// Higher goes first.
    pub priority: i32,
    /// Where it builds.
    pub workspace: String,
    /// Its limit, in bytes.
    pub memory: Option<u64>,
    /// Its limit.
    pub cpus: Option<u32>,
}

/// A build that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// Its id.
    pub id: BuildId,
    /// Whose it is.
    pub customer: String,
    /// Where it builds.
    pub workspace: String,
    /// Its limit, in bytes.
    pub memory: Option<u64>,
    /// Its limit.
    pub cpus: Option<u32>,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget {
    /// Nothing starts.
    pub paused: bool,
    /// How many run at once.
    pub builds: u32,
    /// In bytes.
    pub memory: Option<u64>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Of customers.
    pub weights: BTreeMap<String, u32>,
}

/// Why a build does not start.
#[derive(Clone, Debug, Serialize)]
pub(crate) enum Why {
    /// Paused.
    Paused,
    /// Enough run.
    Builds,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stub")
    }
}

/// What becomes of a build that waits.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// Which.
    pub id: BuildId,
    /// From 1.
    pub position: u32,
    /// None: it starts.
    pub why: Option<Why>,
}

/// Decides.
pub(crate) fn decide(running: &[Running], waiting: &[Waiting], budget: &Budget) -> Vec<Decision> {
    let mut free = (budget.builds as usize).saturating_sub(running.len());
    let mut decisions = Vec::new();
    for (position, one) in (1..).zip(waiting) {
        let why = match (budget.paused, free) {
            (true, _) => Some(Why::Paused),
            (false, 0) => Some(Why::Builds),
            _ => {
                free -= 1;
                None
            }
        };
        decisions.push(Decision { id: one.id.clone(), position, why });
    }
    decisions
}
