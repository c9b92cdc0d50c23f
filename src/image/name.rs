//! Names of images in the store.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::model::{BuildId, InvalidName};

/// What an image is called in the store, such as `debian-12`. Safe as a file name, and never like a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if BuildId::is_valid_name(text) { Ok(Self(text.into())) } else { Err(InvalidName(text.into())) }
    }
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
