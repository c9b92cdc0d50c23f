//! One HTTP client per registry: its certificates, proxies and redirects, and how much of
//! a response is read. Knows nothing of images.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use reqwest::{
    Method, NoProxy, Proxy, Url,
    blocking::{Body, Client, Response},
    header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{
    bounds::{Bounded, Bounds, Inward},
    error::RegistryError,
    pace::Paced,
    retry,
    settings::Settings,
};
use crate::{image::reference, model::Shown, system::files::FileError};

const MOST_REDIRECTS: usize = 5;
/// How much of an error response is read.
const ERROR_BYTES: u64 = 16 << 10;
const ERROR_CHARS: usize = 300;

/// Sends requests to one registry, and to hosts that it redirects to.
pub(super) struct Http {
    host: String,
    client: Client,
    bounds: Arc<Bounds>,
    settings: Arc<Settings>,
}

/// A request.
pub(super) struct Ask {
    /// GET, HEAD, …
    pub method: Method,
    /// The URL.
    pub url: Url,
    /// All headers but the authorization.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Sent to the host of `url` only.
    pub authorization: Option<HeaderValue>,
    /// The body. A request with one is not redirected.
    pub body: Option<Body>,
    /// Replaces the usual timeout.
    pub timeout: Option<Duration>,
    /// What is requested, for messages.
    pub what: String,
}

impl Ask {
    /// A request without anything special.
    pub(super) fn new(method: Method, url: Url, what: &str) -> Self {
        let what = what.into();
        Self { method, url, headers: Vec::new(), authorization: None, body: None, timeout: None, what }
    }
}

impl Http {
    /// Makes the client for a host.
    ///
    /// # Errors
    ///
    /// When a certificate or a proxy cannot be used.
    pub(super) fn new(host: &str, settings: &Arc<Settings>) -> Result<Self, RegistryError> {
        let (proxies, urls): (Vec<_>, Vec<_>) = proxies(settings)?.into_iter().unzip();
        let home = Url::parse(&format!("https://{}", reference::api_host(host))).ok();
        Self::within(host, settings, Bounds::new(home.as_ref(), &urls), proxies)
    }

    fn within(
        host: &str,
        settings: &Arc<Settings>,
        bounds: Arc<Bounds>,
        proxies: Vec<Proxy>,
    ) -> Result<Self, RegistryError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| RegistryError::Client { host: host.into(), source };
        // An explicit configuration: nothing then depends on the process's default provider, and no certificate store is
        // looked for in the environment.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.map_err(|error| failed(Box::new(error)))?;
        let mut tls = tls.with_root_certificates(roots(host, settings)?).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .dns_resolver(Arc::new(Bounded(bounds.clone())))
            .redirect(Policy::none())
            .referer(false)
            .user_agent(concat!("smidr/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.patience.connect)
            // Until the first byte of a response, then between two reads.
            .timeout(settings.patience.idle);
        for proxy in proxies {
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(|error| failed(Box::new(error)))?;
        Ok(Self { host: host.into(), client, bounds, settings: settings.clone() })
    }

    /// Sends a request and follows redirects. The response may have an error status.
    ///
    /// # Errors
    ///
    /// When there is no response, or a redirect that must not be followed.
    pub(super) fn send(&self, ask: Ask) -> Result<Response, RegistryError> {
        let Ask { method, mut url, headers, mut authorization, mut body, timeout, what } = ask;
        let may_follow = body.is_none() && matches!(method, Method::GET | Method::HEAD);
        for _ in 0..=MOST_REDIRECTS {
            self.bounds.check(&url).map_err(|inward| self.inward(inward))?;
            let mut request = self.client.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            request = authorization.iter().fold(request, |request, value| request.header(AUTHORIZATION, value));
            request = timeout.iter().fold(request, |request, timeout| request.timeout(*timeout));
            request = body.take().into_iter().fold(request, |request, body| request.body(body));
            let host = host_of(&url);
            let response = request.send().map_err(|source| self.connection(&host, source))?;
            if !response.status().is_redirection() || !may_follow {
                return Ok(response);
            }
            let next = next(&url, &response).map_err(|why| RegistryError::Redirect {
                host: host.clone(),
                what: what.clone(),
                why,
            })?;
            if !same_origin(&url, &next) {
                authorization = None;
            }
            url = next;
        }
        Err(RegistryError::Redirect { host: host_of(&url), what, why: "too often" })
    }

    fn inward(&self, source: Inward) -> RegistryError {
        RegistryError::Inward { host: self.host.clone(), source }
    }

    fn connection(&self, host: &str, source: reqwest::Error) -> RegistryError {
        let mut causes = std::iter::successors(std::error::Error::source(&source), |error| error.source());
        match causes.find_map(|error| error.downcast_ref::<Inward>()) {
            Some(inward) => self.inward(inward.clone()),
            // Without the URL, which may hold the signature of a content delivery network.
            None => RegistryError::Connection { host: host.into(), source: source.without_url() },
        }
    }

    /// The body of a response, if it has at most `limit` bytes.
    pub(super) fn read(&self, response: Response, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
        if response.content_length().is_some_and(|length| length > limit) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        Paced::new(response, &self.settings.patience).take(limit + 1).read_to_end(&mut bytes)?;
        Ok((bytes.len() as u64 <= limit).then_some(bytes))
    }

    /// The text of an error response, and its `Retry-After`.
    pub(super) fn refusal(&self, response: Response) -> (String, Option<Duration>) {
        let later = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let later = later.and_then(|text| retry::retry_after(text, Timestamp::now()));
        let mut bytes = Vec::new();
        // Text beyond the limit, or lost on the way, is not needed.
        let _ = Paced::new(response, &self.settings.patience).take(ERROR_BYTES).read_to_end(&mut bytes);
        (words(&bytes), later)
    }
}

/// `host` or `host:port`, for messages.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether two URLs have scheme, host and port in common.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// Foreign text made fit to show.
pub(super) fn shown(text: &str) -> String {
    Shown::plain(&text.trim().chars().take(ERROR_CHARS).collect::<String>()).into()
}

fn next(url: &Url, response: &Response) -> Result<Url, &'static str> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).ok_or("to nowhere")?;
    let next = url.join(location).map_err(|_| "to what is no URL")?;
    may_go(url, &next)?;
    Ok(next)
}

/// Whether a registry at `url` may redirect to `next`.
pub(super) fn may_go(url: &Url, next: &Url) -> Result<(), &'static str> {
    match (url.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") if next.host_str().is_some() => Ok(()),
        ("https", "http") => Err("from https to plain http"),
        _ => Err("to what is neither https nor http"),
    }
}

// The registry's own error format (distribution specification, "Error Codes"), the one of token servers, or the text.
fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return if text.trim_start().starts_with('<') { String::new() } else { shown(&text) };
    };
    let one = json.pointer("/errors/0").unwrap_or(&json);
    let get = |names: [&str; 2]| names.iter().find_map(|name| one.get(name).and_then(|value| value.as_str()));
    let said: Vec<_> = [get(["code", "error"]), get(["message", "details"])].into_iter().flatten().collect();
    if said.is_empty() { shown(&text) } else { shown(&said.join(": ")) }
}

fn roots(host: &str, settings: &Settings) -> Result<RootCertStore, RegistryError> {
    let mut store = RootCertStore::empty();
    match &settings.ca_bundle {
        // Some certificates of a bundle may be unusable for the library; they are skipped.
        Some(path) => drop(store.add_parsable_certificates(certificates(path)?)),
        None => drop(store.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned())),
    }
    for path in own_certificates(host, settings) {
        for certificate in certificates(&path)? {
            let bad = |error: rustls::Error| RegistryError::Settings { path: path.clone(), why: error.to_string() };
            store.add(certificate).map_err(bad)?;
        }
    }
    Ok(store)
}

// containers-certs.d(5). Client certificates, `*.cert` and `*.key`, are not supported.
fn own_certificates(host: &str, settings: &Settings) -> Vec<PathBuf> {
    let bases = [
        settings.config_home().join("containers/certs.d"),
        settings.etc.join("containers/certs.d"),
        settings.etc.join("docker/certs.d"),
    ];
    let mut found = Vec::new();
    for entry in bases.iter().filter_map(|base| fs::read_dir(base.join(host)).ok()).flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "crt") {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let text = fs::read(path).map_err(FileError::new("read", path))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let bad = |why: String| RegistryError::Settings { path: path.into(), why };
    let found = found.map_err(|error| bad(format!("{error:?}")))?;
    if found.is_empty() { Err(bad("it holds no certificate in PEM".into())) } else { Ok(found) }
}

// Lower case before upper case, as in curl; this machine is never reached through a proxy. With the URL of each.
fn proxies(settings: &Settings) -> Result<Vec<(Proxy, Url)>, RegistryError> {
    let either = |low: &'static str, up: &'static str| {
        [low, up].into_iter().find_map(|name| settings.variable(name).map(|value| (name, value)))
    };
    let exceptions = either("no_proxy", "NO_PROXY").map_or("", |(_, value)| value);
    let exceptions = format!("localhost,127.0.0.0/8,::1,{exceptions}");
    type Make = fn(&str) -> reqwest::Result<Proxy>;
    let kinds: [(_, Make); 3] = [
        (either("http_proxy", "HTTP_PROXY"), |url| Proxy::http(url)),
        (either("https_proxy", "HTTPS_PROXY"), |url| Proxy::https(url)),
        (either("all_proxy", "ALL_PROXY"), |url| Proxy::all(url)),
    ];
    let mut proxies = Vec::new();
    for ((name, value), make) in kinds.into_iter().filter_map(|(found, make)| Some((found?, make))) {
        if !["http://", "https://"].iter().any(|scheme| value.starts_with(scheme)) && value.contains("://") {
            return Err(RegistryError::Proxy(name.into()));
        }
        let bad = || RegistryError::Proxy(name.into());
        let proxy = make(value).map_err(|_| bad())?;
        let url = if value.contains("://") { Url::parse(value) } else { Url::parse(&format!("http://{value}")) };
        proxies.push((proxy.no_proxy(NoProxy::from_string(&exceptions)), url.map_err(|_| bad())?));
    }
    Ok(proxies)
}

/// The headers of an answer with this name, as text.
pub(super) fn texts(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(String::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_words_are_shown_within_bounds() {
        let long = format!("{{\"errors\":[{{\"code\":\"X\",\"message\":\"{}\"}}]}}", "y".repeat(1000));
        let rows = [
            (r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#, "DENIED: not yours"),
            (r#"{"errors":[{"code":"DENIED","message":""}]}"#, "DENIED:"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            (r#"{"error":"invalid_grant"}"#, "invalid_grant"),
            ("go\x1b[2Jaway\n\n", "go\\u{1b}[2Jaway"),
            ("<html>no</html>", ""),
            ("", ""),
            ("[]", "[]"),
            (&long, &format!("X: {}", "y".repeat(297))),
        ];
        for (text, expected) in rows {
            assert_eq!(words(text.as_bytes()), expected, "{text}");
        }
        assert!(words(&[0xff; 9000]).len() <= 4 * ERROR_CHARS);
    }

    #[test]
    fn a_name_that_means_this_machine_is_not_connected_to() {
        use super::super::testing::{Fault, FaultyRegistry};
        let (registry, inner) = (FaultyRegistry::start(), FaultyRegistry::start());
        let (url, settings) = (|text: &str| Url::parse(text).expect("a URL"), Arc::new(registry.settings()));
        let to = inner.url().replace("127.0.0.1", "localhost");
        registry.fault("GET /v2/", 9, Fault::Redirect(format!("{to}/v2/admin")));
        let http = Http::new(&registry.host(), &settings).expect("a client");
        http.send(Ask::new(Method::GET, url(&format!("{}/v2/", registry.url())), "it"))
            .expect("from this machine to itself");
        assert_eq!(inner.seen("admin").len(), 1);
        // The same from the internet.
        let bounds = Bounds::new(Some(&url("https://registry.example")), &[]);
        let http = Http::within(&registry.host(), &settings, bounds, Vec::new()).expect("a client");
        let error = http.send(Ask::new(Method::GET, url(&format!("{to}/v2/admin")), "it")).expect_err("not from there");
        assert!(matches!(error, RegistryError::Inward { .. }) && !error.is_temporary(), "{error:?}");
        let line = error.line();
        assert!(
            line.contains(&registry.host()) && line.contains("localhost (") && line.contains("this machine"),
            "{line}"
        );
        assert_eq!(inner.seen("admin").len(), 1, "it was not asked");
    }

    #[test]
    fn a_redirect_never_leaves_tls() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let rows = [
            ("https://a/", "https://b/", true),
            ("http://a/", "https://b/", true),
            ("http://a/", "http://b/", true),
            ("https://a/", "http://a/", false),
            ("https://a/", "file:///etc/passwd", false),
            ("http://a/", "ftp://a/", false),
        ];
        for (from, to, expected) in rows {
            assert_eq!(may_go(&url(from), &url(to)).is_ok(), expected, "{from} {to}");
        }
        assert!(same_origin(&url("https://a/x"), &url("https://a:443/y")));
        for other in ["https://a:444/", "http://a/", "https://b.a/"] {
            assert!(!same_origin(&url("https://a/"), &url(other)), "{other}");
        }
    }
}
