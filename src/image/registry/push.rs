//! Writing to a registry: always to the registry itself, never to a mirror.

use std::{io::Read, time::Duration};

use reqwest::{
    Method, Url,
    blocking::{Body, Response},
    header::{CONTENT_TYPE, HeaderValue, LOCATION},
};

use super::{
    HttpRegistry, Wanted,
    auth::Access,
    endpoint::{Endpoint, blob_name, promised},
    error::RegistryError,
    http::{Ask, may_go, same_origin, texts},
};
use crate::{
    image::{codec, documents::Descriptor},
    model::Digest,
};

/// The slowest upload that is accepted, in bytes per second.
const SLOWEST: u64 = 10 << 10;

impl HttpRegistry {
    /// Whether the registry has a blob already.
    ///
    /// # Errors
    ///
    /// When the request fails.
    pub(crate) fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let endpoint = self.upstream();
        let url = endpoint.url(&format!("blobs/{digest}"))?;
        let make = || Ask::new(Method::HEAD, url.clone(), &format!("the blob {digest}"));
        match endpoint.patiently(|| endpoint.call(Access::Push, make)) {
            Ok(_) => Ok(true),
            Err(RegistryError::Unknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a blob. Starting the upload is retried, the upload itself is not, since its bytes have been read. Call again with a new reader.
    ///
    /// # Errors
    ///
    /// When the registry refuses it, or the reader has fewer bytes than the descriptor says. Bytes beyond that are not sent.
    pub(crate) fn put_blob(&self, blob: &Descriptor, content: impl Read + Send + 'static) -> Result<(), RegistryError> {
        let endpoint = self.upstream();
        let begin = endpoint.url("blobs/uploads/")?;
        let what = blob_name(blob);
        let make =
            || Ask { body: Some("".into()), ..Ask::new(Method::POST, begin.clone(), &format!("an upload of {what}")) };
        let response = endpoint.patiently(|| endpoint.call(Access::Push, make))?;
        let mut url = upload(endpoint, &begin, &response, &what)?;
        url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let mut ask = Ask::new(Method::PUT, url.clone(), &what);
        ask.authorization = endpoint.auth.header(Access::Push).filter(|_| same_origin(&url, &begin));
        ask.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")));
        ask.body = Some(Body::sized(content.take(blob.size), blob.size));
        ask.timeout = Some(self.settings.patience.idle + Duration::from_secs(blob.size / SLOWEST));
        let response = endpoint.http.send(ask)?;
        endpoint.judge(response, &url, what).map(drop)
    }

    /// Writes a manifest or an index, by tag or by its digest. Everything that it refers to must be there.
    ///
    /// # Errors
    ///
    /// When the registry refuses it, or gives it another digest.
    pub(crate) fn put_manifest(&self, at: Wanted<'_>, media_type: &str, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let endpoint = self.upstream();
        let url = endpoint.url(&at.path()?)?;
        let (host, what) = (endpoint.place.host.clone(), format!("{}{at}", endpoint.name()));
        let wrong = |why: &str| RegistryError::Answer { host: host.clone(), what: what.clone(), why: why.into() };
        let media_type =
            HeaderValue::try_from(media_type).map_err(|_| wrong("its media type is not fit for a header"))?;
        let make = || Ask {
            headers: vec![(CONTENT_TYPE, media_type.clone())],
            body: Some(bytes.to_vec().into()),
            ..Ask::new(Method::PUT, url.clone(), &what)
        };
        let response = endpoint.patiently(|| endpoint.call(Access::Push, make))?;
        let wanted = codec::digest(bytes);
        match promised(&response).filter(|found| *found != wanted) {
            Some(found) => Err(RegistryError::Digest { host, what, wanted, found }),
            None => Ok(wanted),
        }
    }
}

// The URL for the content. It may be on another host, which then gets no credentials.
fn upload(endpoint: &Endpoint, begin: &Url, response: &Response, what: &str) -> Result<Url, RegistryError> {
    let host = endpoint.place.host.clone();
    let wrong = |why: &str| RegistryError::Answer { host: host.clone(), what: what.into(), why: why.into() };
    let location =
        texts(response.headers(), &LOCATION).pop().ok_or_else(|| wrong("it does not say where to send it"))?;
    let url = begin.join(&location).map_err(|_| wrong("it does not say where to send it"))?;
    may_go(begin, &url).map_err(|why| RegistryError::Redirect { host: host.clone(), what: what.into(), why })?;
    Ok(url)
}
