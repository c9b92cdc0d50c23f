//! The registry client: fetches documents and blobs, and pushes them. What a registry sends is hostile until its digest has been
//! checked: no more bytes are read than promised, and credentials go over https to the host that they belong to, nowhere else.
//!
//! It blocks, with a thread per blob if the caller wants several at once. It never writes to the disk. URLs in descriptors are not
//! followed (CVE-2020-15157).

mod auth;
mod blob;
mod bounds;
mod challenge;
mod credentials;
mod endpoint;
pub(super) mod error;
mod helper;
mod http;
mod mirrors;
mod pace;
mod push;
mod retry;
mod settings;
#[cfg(test)]
pub(in crate::image) mod testing;
#[cfg(test)]
mod tests;

use std::{fmt, io::Read, sync::Arc};

pub(super) use error::RegistryError;
pub use settings::Settings;

use self::{blob::BlobReader, endpoint::Endpoint};
use super::{documents::Descriptor, error::ImageError, limits::Limits, reference, reference::RegistryReference};
use crate::model::Digest;

/// The tag or digest of a requested document.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// A tag.
    Tag(&'a str),
    /// A digest.
    Digest(&'a Digest),
}

impl Wanted<'_> {
    // It becomes part of a URL, where a malformed tag could name another path.
    fn path(&self) -> Result<String, RegistryError> {
        match self {
            Self::Tag(tag) if reference::check_tag(tag).is_err() => Err(RegistryError::Tag(http::shown(tag))),
            Self::Tag(_) | Self::Digest(_) => Ok(format!("manifests/{}", self.text())),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Tag(tag) => (*tag).to_owned(),
            Self::Digest(digest) => digest.to_string(),
        }
    }

    fn digest(&self) -> Option<&Digest> {
        if let Self::Digest(digest) = self { Some(digest) } else { None }
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.digest().is_some() { '@' } else { ':' }, self.text())
    }
}

/// A source of images: a registry over HTTP, or a local layout.
pub(super) trait Registry: Send + Sync {
    /// A manifest or an index: its bytes, at most `limit` of them, and the media type that the registry claims. If it is requested by
    /// digest, its digest has been checked.
    ///
    /// # Errors
    ///
    /// When there is no such document, it is too large, or its digest is wrong.
    fn document(&self, wanted: Wanted<'_>, limit: u64) -> Result<(Vec<u8>, Option<String>), ImageError>;

    /// A blob's bytes from `from` on, never more than its descriptor says. Resumes by itself where a connection breaks, and ends with
    /// an error where that fails; [`RegistryError::from_io`] gets it. The caller has to check the digest of the whole.
    ///
    /// # Errors
    ///
    /// When there is no such blob, or its size is wrong.
    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send + '_>, ImageError>;

    /// Stops using mirrors, since wrong content was received. False if none was in use.
    fn skip_mirrors(&self) -> bool {
        false
    }

    /// Whether credentials of the caller have been sent for it.
    fn used_login(&self) -> bool {
        false
    }
}

/// A repository of a registry over HTTP, with its mirrors.
pub(super) struct HttpRegistry {
    settings: Arc<Settings>,
    /// Mirrors, then the registry itself.
    endpoints: Vec<Endpoint>,
}

impl HttpRegistry {
    /// Prepares the client of a repository; does not connect.
    ///
    /// # Errors
    ///
    /// When the settings for registries, certificates or proxies are unusable, or block the repository.
    pub(super) fn open(reference: &RegistryReference, settings: &Settings) -> Result<Self, RegistryError> {
        let settings = Arc::new(settings.clone());
        let places = mirrors::places(reference, &settings)?;
        let last = places.len() - 1;
        let endpoints = places.into_iter().enumerate().map(|(at, place)| Endpoint::new(place, at < last, &settings));
        let endpoints = endpoints.collect::<Result<_, _>>()?;
        Ok(Self { settings, endpoints })
    }

    fn upstream(&self) -> &Endpoint {
        self.places().0
    }

    fn places(&self) -> (&Endpoint, &[Endpoint]) {
        self.endpoints.split_last().expect("the registry itself is always among the places")
    }

    // Whether to try the next endpoint after an error, which then becomes a warning.
    fn may_go_on(&self, endpoint: &Endpoint, error: &RegistryError) -> bool {
        if !error.is_about_the_host() {
            return false;
        }
        if !matches!(error, RegistryError::Unknown { .. }) {
            endpoint.give_up();
        }
        (self.settings.warn)(format!("the mirror {} does not help: {}", endpoint.name(), error.line()));
        true
    }

    fn first<T>(
        &self,
        by_digest: bool,
        ask: impl Fn(&Endpoint) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let (upstream, mirrors) = self.places();
        for endpoint in mirrors {
            if endpoint.serves(by_digest) {
                match ask(endpoint) {
                    Err(error) if self.may_go_on(endpoint, &error) => {}
                    done => return done,
                }
            }
        }
        ask(upstream)
    }
}

/// The methods of [`Registry`], with more specific errors.
impl HttpRegistry {
    /// The current digest of a tag.
    ///
    /// # Errors
    ///
    /// When there is no such tag, or no endpoint that may be asked.
    pub(super) fn resolve(&self, tag: &str) -> Result<Digest, RegistryError> {
        self.first(false, |endpoint| endpoint.resolve(tag, Limits::default().manifest))
    }

    /// A manifest or an index.
    ///
    /// # Errors
    ///
    /// When there is no such document, it is too large, or its digest is wrong.
    pub(super) fn document(&self, wanted: Wanted<'_>, limit: u64) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        self.first(wanted.digest().is_some(), |endpoint| endpoint.document(wanted, limit))
    }

    /// A blob's bytes from `from` on.
    ///
    /// # Errors
    ///
    /// When there is no such blob, or its size is wrong.
    pub(super) fn blob(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send + '_>, RegistryError> {
        Ok(Box::new(BlobReader::open(self, blob, from)?))
    }
}

impl Registry for HttpRegistry {
    fn document(&self, wanted: Wanted<'_>, limit: u64) -> Result<(Vec<u8>, Option<String>), ImageError> {
        Ok(self.document(wanted, limit)?)
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send + '_>, ImageError> {
        Ok(self.blob(blob, from)?)
    }

    fn skip_mirrors(&self) -> bool {
        let (_, mirrors) = self.places();
        let asked = mirrors.iter().filter(|mirror| mirror.serves(true)).inspect(|mirror| {
            (self.settings.warn)(format!(
                "the mirror {} may have sent something wrong, and is not asked again",
                mirror.name()
            ));
            mirror.give_up();
        });
        asked.count() > 0
    }

    fn used_login(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.auth.used_login())
    }
}
