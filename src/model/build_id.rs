//! Names of builds.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One attempt at building: the project's name, a dash, eight hexadecimal digits, such as `my-image-7c1d22ab`.
///
/// Safe as a file name: letters, digits, `.`, `_` and `-`, not beginning with a dot or dash, at most 73 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildId(String);

/// Text that cannot name a project or a build.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a name: use up to 64 letters, digits, dots, underscores and dashes, beginning with a letter or digit"
)]
pub struct InvalidName(pub String);

impl BuildId {
    /// Joins a project's name and a random number, which the caller draws.
    ///
    /// # Errors
    ///
    /// When `name` could not stand as a file name.
    pub fn new(name: &str, random: u32) -> Result<Self, InvalidName> {
        if !is_name(name) {
            return Err(InvalidName(name.into()));
        }
        Ok(Self(format!("{name}-{random:08x}")))
    }

    /// The project's name.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('-').map_or(&*self.0, |(name, _)| name)
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` may name a project, an image or a build.
    pub fn is_valid_name(name: &str) -> bool {
        is_name(name)
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

impl super::UserError for InvalidName {
    fn kind(&self) -> super::Kind {
        super::Kind::Request
    }
}

impl FromStr for BuildId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let valid = text.rsplit_once('-').is_some_and(|(name, digits)| {
            is_name(name) && digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit())
        });
        if valid { Ok(Self(text.into())) } else { Err(InvalidName(text.into())) }
    }
}

impl TryFrom<String> for BuildId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<BuildId> for String {
    fn from(id: BuildId) -> Self {
        id.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_never_leave_their_folder() {
        let id = BuildId::new("my-image", 0x7c1d_22ab).expect("a good name");
        assert_eq!(id.as_str(), "my-image-7c1d22ab");
        assert_eq!(id.as_str().parse::<BuildId>().expect("round trip"), id);
        for bad in ["", "..", "../x-00000000", "-x-00000000", "x", "x-123", "a/b-00000000", "x-0000000g"] {
            assert!(bad.parse::<BuildId>().is_err(), "{bad} was accepted");
        }
        assert!(BuildId::new("a/b", 1).is_err());
        assert!(BuildId::new(".hidden", 1).is_err());
    }
}
