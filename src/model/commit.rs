//! Git commits, validated before they can become part of a path or an argument.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The id of a git commit: 40 lower-case hexadecimal digits. A value of this type is safe to use as a file name.
///
/// Repositories whose ids are sha256 are not known: no server that layers come from has one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId([u8; 20]);

/// Text that is not the whole id of a commit.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the whole id of a commit (40 lower-case hexadecimal digits)")]
pub struct InvalidCommit(String);

impl CommitId {
    /// Wraps the 20 bytes that git hashed to.
    pub fn from_sha1(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The first eight digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl FromStr for CommitId {
    type Err = InvalidCommit;

    fn from_str(text: &str) -> Result<Self, InvalidCommit> {
        let invalid = || InvalidCommit(text.chars().take(80).collect());
        if text.len() != 40 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid())?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for CommitId {
    type Error = InvalidCommit;

    fn try_from(text: String) -> Result<Self, InvalidCommit> {
        text.parse()
    }
}

impl From<CommitId> for String {
    fn from(commit: CommitId) -> Self {
        commit.to_string()
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ids_parse() {
        let good = "0a".repeat(20);
        let commit: CommitId = good.parse().expect("well-formed");
        assert_eq!((commit.to_string(), commit.short()), (good, "0a0a0a0a".into()));
        for bad in ["", "0a0a0a0", "../../etc/passwd", &"0A".repeat(20), &"0a".repeat(19), &"zz".repeat(20), "-0a"] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad} was accepted");
        }
    }
}
