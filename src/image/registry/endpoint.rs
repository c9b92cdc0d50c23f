//! One endpoint of a repository: a registry or a mirror of it, with its address, its client and its authentication. Every
//! reading request of the distribution specification is here.

use std::{
    io::{self, Read as _},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::{
    Method, StatusCode, Url,
    blocking::Response,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE, WWW_AUTHENTICATE},
};

use super::{
    Wanted,
    auth::{Access, Auth},
    error::RegistryError,
    http::{Ask, Http, host_of, same_origin, texts},
    mirrors::{Place, Serves},
    pace::Paced,
    retry,
    settings::Settings,
};
use crate::{
    image::{codec, documents::Descriptor, reference},
    model::Digest,
};

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const DOCUMENTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Status codes with which some registries reject HEAD in general; and 429, whose reason is in the body that an answer to HEAD has not.
const NO_HEAD: [u16; 4] = [400, 405, 429, 501];

/// The body of a response.
pub(super) type Body = Paced<Response>;

/// A registry or mirror that has the repository.
pub(super) struct Endpoint {
    /// Its place.
    pub place: Place,
    pub(super) http: Http,
    pub(super) auth: Auth,
    settings: Arc<Settings>,
    retries: u32,
    base: Mutex<Option<Url>>,
    failed: AtomicBool,
}

impl Endpoint {
    /// Prepares an endpoint; does not connect.
    ///
    /// # Errors
    ///
    /// When the client cannot be made.
    pub(super) fn new(place: Place, is_mirror: bool, settings: &Arc<Settings>) -> Result<Self, RegistryError> {
        let http = Http::new(&place.host, settings)?;
        let auth = Auth::new(&place.host, &place.repository, place.insecure, settings);
        // A mirror only saves time, so it gets short timeouts.
        let retries = if is_mirror { settings.patience.retries.min(1) } else { settings.patience.retries };
        let (settings, base, failed) = (settings.clone(), Mutex::default(), AtomicBool::new(false));
        Ok(Self { place, http, auth, settings, retries, base, failed })
    }

    /// Whether it may be used for this.
    pub(super) fn serves(&self, by_digest: bool) -> bool {
        let unfit = if by_digest { Serves::TagOnly } else { Serves::DigestOnly };
        self.place.serves != unfit && !self.failed.load(Ordering::Relaxed)
    }

    /// Marks it as not to be used again.
    pub(super) fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Its name, for messages.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.place.host, self.place.repository)
    }

    /// Retries as the settings say.
    pub(super) fn patiently<T>(&self, attempt: impl FnMut() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        retry::patiently(&self.settings, &self.place.host, self.retries, attempt)
    }

    /// The digest of a tag.
    pub(super) fn resolve(&self, tag: &str, limit: u64) -> Result<Digest, RegistryError> {
        let (what, path) = (format!("{}:{tag}", self.name()), Wanted::Tag(tag).path()?);
        let answer = self.patiently(|| match self.get(Method::HEAD, &path, &[(ACCEPT, DOCUMENTS)], &what) {
            Err(RegistryError::Status { status, .. }) if NO_HEAD.contains(&status) => Ok(None),
            answer => answer.map(Some),
        })?;
        if let Some(digest) = answer.as_ref().and_then(promised) {
            return Ok(digest);
        }
        let (bytes, _) = self.document(Wanted::Tag(tag), limit)?;
        Ok(codec::digest(&bytes))
    }

    /// A manifest or an index.
    pub(super) fn document(&self, wanted: Wanted<'_>, limit: u64) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let (what, path) = (format!("{}{wanted}", self.name()), wanted.path()?);
        self.patiently(|| {
            let response = self.get(Method::GET, &path, &[(ACCEPT, DOCUMENTS)], &what)?;
            let (host, what) = (self.place.host.clone(), what.clone());
            let media_type = texts(response.headers(), &CONTENT_TYPE).pop();
            let promised = promised(&response);
            let bytes = match self.http.read(response, limit) {
                Ok(bytes) => bytes,
                Err(source) => return Err(RegistryError::Broken { host, what, source }),
            };
            let Some(bytes) = bytes else { return Err(RegistryError::TooLarge { host, what, limit }) };
            let found = codec::digest(&bytes);
            let wanted = [wanted.digest().cloned(), promised].into_iter().flatten().find(|digest| *digest != found);
            match wanted {
                Some(wanted) => Err(RegistryError::Digest { host, what, wanted, found }),
                None => Ok((bytes, media_type)),
            }
        })
    }

    /// A blob from `from` on; one attempt.
    pub(super) fn blob(&self, blob: &Descriptor, from: u64) -> Result<Body, RegistryError> {
        let what = blob_name(blob);
        let range = format!("bytes={from}-");
        let headers: &[_] = if from > 0 { &[(RANGE, range.as_str())] } else { &[] };
        let response = self.get(Method::GET, &format!("blobs/{}", blob.digest), headers, &what)?;
        let (partial, length) = (response.status() == StatusCode::PARTIAL_CONTENT, length(&response));
        let wrong = |why: String| RegistryError::Answer { host: self.place.host.clone(), what: what.clone(), why };
        let size = |found: u64| {
            let (host, what) = (self.place.host.clone(), what.clone());
            RegistryError::Size { host, what, wanted: blob.size, found: found.to_string() }
        };
        if partial {
            let ranges = texts(response.headers(), &CONTENT_RANGE);
            let (start, total) = ranges
                .first()
                .and_then(|text| range_of(text))
                .ok_or_else(|| wrong("it does not say which part it sends".into()))?;
            if start != from {
                return Err(wrong(format!("it sends from byte {start} instead of {from}")));
            }
            if let Some(total) = total.filter(|total| *total != blob.size) {
                return Err(size(total));
            }
        }
        let start = if partial { from } else { 0 };
        if let Some(length) = length.filter(|length| start.saturating_add(*length) != blob.size) {
            return Err(size(start.saturating_add(length)));
        }
        let mut body = Paced::new(response, &self.settings.patience);
        self.skip(&mut body, from - start, &what)?;
        Ok(body)
    }

    // Servers without support for ranges send everything again.
    fn skip(&self, body: &mut Body, count: u64, what: &str) -> Result<(), RegistryError> {
        let broken = |source| RegistryError::Broken { host: self.place.host.clone(), what: what.into(), source };
        let mut left = count;
        while left > 0 {
            self.settings.check_stop(&self.place.host)?;
            let skipped = io::copy(&mut body.take(left.min(1 << 20)), &mut io::sink()).map_err(broken)?;
            if skipped == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            left -= skipped;
        }
        Ok(())
    }

    fn get(
        &self,
        method: Method,
        tail: &str,
        headers: &[(HeaderName, &str)],
        what: &str,
    ) -> Result<Response, RegistryError> {
        let url = self.url(tail)?;
        let make = || {
            let mut ask = Ask::new(method.clone(), url.clone(), what);
            let value =
                |text: &str| HeaderValue::try_from(text).expect("digits and our own words are fit for a header");
            ask.headers = headers.iter().map(|(name, text)| (name.clone(), value(text))).collect();
            ask
        };
        self.call(Access::Pull, make)
    }

    /// Sends a request and, if it is challenged, once more with credentials. Gives only successful responses.
    pub(super) fn call(&self, access: Access, make: impl Fn() -> Ask) -> Result<Response, RegistryError> {
        let used = self.auth.header(access);
        let ask = make();
        let (url, what) = (ask.url.clone(), ask.what.clone());
        let mut response = self.http.send(Ask { authorization: used.clone(), ..ask })?;
        // A challenge of a host after a redirect is not answered.
        if response.status() == StatusCode::UNAUTHORIZED && same_origin(response.url(), &url) {
            let demands = texts(response.headers(), &WWW_AUTHENTICATE);
            let header = self.auth.answer(&self.http, access, &url, &demands, used.as_ref())?;
            response = self.http.send(Ask { authorization: Some(header), ..make() })?;
        }
        self.judge(response, &url, what)
    }

    pub(super) fn judge(&self, response: Response, asked: &Url, what: String) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let (host, ours) = (host_of(response.url()), same_origin(response.url(), asked));
        let (said, retry_after) = self.http.refusal(response);
        Err(match status {
            StatusCode::NOT_FOUND if ours => RegistryError::Unknown { host, what, said },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if ours => self.auth.denied(asked, status, said),
            _ => RegistryError::Status { host, what, status: status.as_u16(), said, retry_after },
        })
    }

    /// The URL of a part of the repository.
    pub(super) fn url(&self, tail: &str) -> Result<Url, RegistryError> {
        let why = || "there is no address for it".to_owned();
        let wrong = |_| RegistryError::Answer { host: self.place.host.clone(), what: tail.into(), why: why() };
        self.base()?.join(&format!("{}/{tail}", self.place.repository)).map_err(wrong)
    }

    // `https://host/v2/`, or with http where that is allowed and https does not answer.
    fn base(&self) -> Result<Url, RegistryError> {
        let mut known = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = &*known {
            return Ok(base.clone());
        }
        let host = &self.place.host;
        let at = |scheme: &str| {
            let wrong =
                |_| RegistryError::Answer { host: host.clone(), what: host.clone(), why: "it has no address".into() };
            Url::parse(&format!("{scheme}://{}/v2/", reference::api_host(host))).map_err(wrong)
        };
        let base = match self.place.insecure {
            false => at("https")?,
            true if is_loopback(&at("http")?) => at("http")?,
            true => match self.http.send(Ask::new(Method::GET, at("https")?, "its version")) {
                Err(error) if matches!(error, RegistryError::Connection { .. }) && !error.is_certificate() => {
                    (self.settings.warn)(format!(
                        "{host} has no TLS: talking to it over plain http, without credentials"
                    ));
                    at("http")?
                }
                Err(error) => return Err(error),
                Ok(_) => at("https")?,
            },
        };
        Ok(known.insert(base).clone())
    }
}

/// What was requested, for messages.
pub(super) fn blob_name(blob: &Descriptor) -> String {
    format!("the blob {}", blob.digest)
}

/// The digest in the registry's header. Digests other than sha256 are ignored.
pub(super) fn promised(response: &Response) -> Option<Digest> {
    texts(response.headers(), &DIGEST).pop()?.parse().ok()
}

fn length(response: &Response) -> Option<u64> {
    texts(response.headers(), &CONTENT_LENGTH).pop()?.parse().ok()
}

// `bytes 5-9/10` or `bytes 5-9/*`: the first byte and the total.
fn range_of(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    Some((start, if total == "*" { None } else { Some(total.parse().ok()?) }))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_hosts_are_read() {
        let rows = [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */10", None),
            ("5-9/10", None),
            ("bytes 5-9/x", None),
        ];
        for (text, expected) in rows {
            assert_eq!(range_of(text), expected, "{text}");
        }
        for (host, expected) in
            [("localhost", true), ("127.9.9.9", true), ("[::1]", true), ("0.0.0.0", false), ("x", false)]
        {
            let url = Url::parse(&format!("http://{host}:5000/")).expect("a URL");
            assert_eq!(is_loopback(&url), expected, "{host}");
        }
    }
}
