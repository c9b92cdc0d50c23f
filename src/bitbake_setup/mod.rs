//! Configurations of bitbake-setup (`NAME.conf.json`): what may be chosen, what was, and the conf that comes of it, as bitbake-setup 2.19 does it.
//! Pure: files are read by the caller.

mod choose;
mod document;
mod native;

pub use choose::{Choice, Chosen, Question, Setup, choose};
pub use document::{Document, GitRemote, SetupError, Source, Sources};
pub use native::{fixed_revisions, plain_yaml, smidr_yaml};

/// How the names of its files end.
pub const ENDING: &str = ".conf.json";

/// Whether a text is a configuration of bitbake-setup rather than another JSON document.
pub fn is_configuration(text: &str) -> bool {
    text.trim_start().starts_with('{') && text.contains("\"bitbake-setup\"") && text.contains("\"configurations\"")
}
