//! Names of images in the store.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::model::{BuildId, InvalidName};

/// The longest name, in bytes and escaped: it has to be a file name, with a prefix and suffix.
const LONGEST: usize = 230;

/// The name of an image in the store: a word such as `debian-12`, or the whole reference of one that was pulled from a registry, such as
/// `docker.io/library/debian:12`. Never in the form of a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a file name, which [`ImageName::from_file_name`] undoes.
    pub fn to_file_name(&self) -> String {
        let mut safe = String::with_capacity(self.0.len() + 8);
        for c in self.0.chars() {
            match ESCAPES.iter().find(|(plain, _)| *plain == c) {
                Some((_, escaped)) => safe.push_str(escaped),
                None => safe.push(c),
            }
        }
        safe
    }

    /// The name for a file name, if it has the right form.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let plain =
            ESCAPES.iter().fold(name.to_owned(), |name, (plain, escaped)| name.replace(escaped, &plain.to_string()));
        plain.parse().ok()
    }
}

const ESCAPES: [(char, &str); 3] = [('/', "%2f"), (':', "%3a"), ('@', "%40")];

impl FromStr for ImageName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = Self(text.into());
        if BuildId::is_valid_name(text) || (is_reference(text) && name.to_file_name().len() <= LONGEST) {
            Ok(name)
        } else {
            Err(InvalidName(text.into()))
        }
    }
}

// The reference parser has checked such a name already; here it only has to be harmless.
fn is_reference(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '@' | '[' | ']'))
    };
    text.contains('/') && text.split('/').all(part)
}

impl TryFrom<String> for ImageName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names_and_back() {
        for name in ["debian-12", "docker.io/library/debian:12", "127.0.0.1:5000/a/b_c:v1@sha256:00"] {
            let name: ImageName = name.parse().expect(name);
            assert!(!name.to_file_name().contains('/'));
            assert_eq!(ImageName::from_file_name(&name.to_file_name()), Some(name));
        }
        for bad in ["", ".", "..", "a/..", "../a", "/a", "a/", "a//b", "a:b", "a b", "a/b%2f", "a/\u{e4}"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
        assert!(format!("a/{}", "x".repeat(230)).parse::<ImageName>().is_err());
        assert!(format!("a{}", "/x".repeat(100)).parse::<ImageName>().is_err(), "it grows when it is escaped");
    }
}
