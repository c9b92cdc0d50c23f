//! kas projects: what is brought before any command, and `smidr kas`, which takes kas's own command lines.

mod bring;

pub(super) use bring::{Rules, bring};
