//! kas projects: what is brought before any command, and `smidr kas`, which takes kas's own command lines.

mod args;
mod bring;
mod lock;
mod run;

pub(super) use bring::{Rules, bring};
pub(super) use run::kas;
