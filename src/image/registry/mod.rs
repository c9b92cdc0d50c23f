//! Where images come from.

use std::io::Read;

use super::{documents::Descriptor, error::ImageError};
use crate::model::Digest;

/// What a document is asked by.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A name that may mean something else tomorrow.
    Tag(&'a str),
    /// A name that always means the same.
    Digest(&'a Digest),
}

/// Where images come from: a registry over HTTP, or a local layout.
pub trait Registry: Send + Sync {
    /// What a tag means now.
    fn resolve(&self, tag: &str) -> Result<Digest, ImageError>;
    /// A manifest or index. At most `limit` bytes.
    fn document(&self, wanted: Wanted<'_>, limit: u64) -> Result<(Vec<u8>, Option<String>), ImageError>;
    /// A blob's bytes from `from` on.
    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send + '_>, ImageError>;
}
