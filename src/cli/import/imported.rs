//! What another tool's files become.

/// A smidr.yaml with what belongs to it.
pub(super) struct Imported {
    /// Its text.
    pub text: String,
    /// What cannot be said there.
    pub left_out: Vec<String>,
    /// The text of its lock.
    pub lock: Option<String>,
}
