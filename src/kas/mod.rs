//! kas projects: their files merged, what they mean, and the conf that comes of it, as kas 5.5 does it. Pure: files are read by the caller.

mod compare;
mod conf;
mod dump;
mod merge;
mod native;
mod project;
mod schema;
mod yaml;

pub use compare::{as_node, differences, in_short};
pub use conf::{bblayers_conf, local_conf};
pub use dump::{Form, dump};
pub use merge::{Asked, Files, KasError, Merged, lock_of, merge};
pub use native::{Found, escaped, from, plain_yaml, smidr_yaml, whole};
pub use project::{Around, Kas, Repository, Revision, repositories};
pub use yaml::{Node, Scalar, Value};

/// Of a smidr.yaml that is a kas project's: the files that its key `kas` names, and its other keys.
pub fn named_by(text: &str) -> Option<(String, Node)> {
    let (files, others) = taken_out(text, "kas")?;
    Some((files.as_text()?.to_owned(), others))
}

/// What a key of a smidr.yaml says, and its other keys.
pub fn taken_out(text: &str, key: &str) -> Option<(Node, Node)> {
    text.lines().find(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))?;
    let mut node = yaml::parse(text, 0).ok()?;
    Some((node.remove(key)?, node))
}

/// Whether a text is a kas file rather than another YAML or JSON document.
pub fn has_header(text: &str) -> bool {
    let known = || text.lines().any(|line| line.starts_with("header") || line.contains("\"header\""));
    known()
        && yaml::parse(text, 0)
            .map_or(true, |node| node.get("header").is_some_and(|header| header.get("version").is_some()))
}

/// The document that a text is.
///
/// # Errors
///
/// The first place that cannot be read.
pub fn parse(text: &str) -> Result<Node, crate::config::Problem> {
    yaml::parse(text, 0)
}

/// Lays one document on top of another.
pub fn lay_over(below: &mut Node, above: &Node) {
    merge::lay(below, above);
}
