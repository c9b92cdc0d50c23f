//! Sends one delivery over HTTP, once. Connects to no address that reaches further in than the internet unless that is allowed, whatever a name means at that moment; follows no
//! redirect, uses no proxy, reads little of the answer.

use std::{
    error::Error,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{
    Url,
    blocking::{Client, Response},
    dns::{Addrs, Name, Resolve, Resolving},
    header::CONTENT_TYPE,
    redirect::Policy,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::signature;
use crate::{
    model::{Shown, is_ambiguous},
    system::zone::Zone,
};

/// How much of an answer is read and kept.
const ANSWER: usize = 1 << 10;
const LONGEST_URL: usize = 2048;

/// How a request may be sent.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// Whether addresses that are not on the internet may be connected to.
    pub allow_private: bool,
    /// The host's bundle of CA certificates. Without one, those in smidr's binary are used.
    pub ca_bundle: Option<PathBuf>,
    /// For a connection, for the head of an answer, and for the rest of it.
    pub patience: Duration,
}

/// An address that is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{to} is {}, and the daemon sends nothing there", match zone {
    Zone::Internet => "on the internet",
    Zone::Private => "in a private network",
    Zone::Link => "on the local link",
    Zone::Loopback => "this machine",
    Zone::Unspecified => "no address of a host",
})]
pub(crate) struct Inward {
    to: String,
    zone: Zone,
}

/// Why a webhook cannot have an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadUrl {
    /// It is none, or a program could read it otherwise.
    #[error("it is no address")]
    NoUrl,
    /// It is longer than any should be.
    #[error("it is longer than {LONGEST_URL} bytes")]
    Long,
    /// Another scheme.
    #[error("it is neither https nor http")]
    Scheme,
    /// Where nothing is sent.
    #[error(transparent)]
    Inward(#[from] Inward),
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Answer {
    /// 0: there was none.
    pub status: u16,
    /// Why it was not taken: what the receiver said, or why it could not be reached. No secret of the address is in it.
    pub words: String,
}

/// What is sent.
pub(super) struct Message<'a> {
    /// Where to.
    pub url: &'a str,
    /// What signs it.
    pub secrets: &'a [&'a str],
    /// Its number, the same in each attempt.
    pub id: &'a str,
    /// The time of the attempt, in seconds.
    pub timestamp: i64,
    /// JSON.
    pub body: &'a str,
}

/// Sends, for all webhooks.
pub(super) struct Sender {
    client: Client,
    allow_private: bool,
    patience: Duration,
}

impl Sender {
    /// Not to be made or dropped where tokio runs: reqwest's blocking client has a runtime of its own.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub(super) fn new(sending: &Sending) -> Result<Self, Box<dyn Error + Send + Sync>> {
        // An explicit configuration: nothing then depends on the process's default provider, and no certificate store is
        // looked for in the environment.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut tls = tls.with_root_certificates(roots(sending)?).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            // A proxy resolves names itself: what it connects to could not be checked here.
            .no_proxy()
            .dns_resolver(Arc::new(Bounded(sending.allow_private)))
            .redirect(Policy::none())
            .referer(false)
            // Addresses are checked when they are connected to, so each attempt connects.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("smidr/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(sending.patience)
            .timeout(sending.patience)
            .build()?;
        Ok(Self { client, allow_private: sending.allow_private, patience: sending.patience })
    }

    /// Sends a message.
    pub(super) fn send(&self, message: &Message<'_>) -> Answer {
        let failed = |words: String| Answer { status: 0, words };
        let url = match check(message.url, self.allow_private) {
            Ok(url) => url,
            Err(bad) => return failed(bad.to_string()),
        };
        let Message { secrets, id, timestamp, body, .. } = message;
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", *id)
            .header("webhook-timestamp", *timestamp)
            .header("webhook-signature", signature::standard(secrets, id, *timestamp, body));
        let first = secrets.first().map(|secret| signature::github(secret, body));
        let request = first.into_iter().fold(request, |request, value| request.header("X-Hub-Signature-256", value));
        match request.body((*body).to_owned()).send() {
            Ok(response) => self.answer(response),
            Err(error) => failed(words(error)),
        }
    }

    fn answer(&self, mut response: Response) -> Answer {
        let status = response.status();
        let (until, mut read) = (Instant::now() + self.patience, Vec::new());
        let mut chunk = [0; ANSWER];
        // Each read has its own timeout; together they have one more.
        while let Some(room) = ANSWER.checked_sub(read.len()).filter(|room| *room > 0)
            && Instant::now() < until
            && let Ok(count @ 1..) = response.read(&mut chunk)
        {
            read.extend(chunk.iter().take(count.min(room)));
        }
        let said = if status.is_success() { String::new() } else { shown(&read) };
        let words = match status {
            _ if status.is_success() => said,
            _ if status.is_redirection() => format!("answered {status}, and redirects are not followed"),
            _ if said.is_empty() => format!("answered {status}"),
            _ => format!("answered {status}: {said}"),
        };
        Answer { status: status.as_u16(), words }
    }
}

/// Foreign text, within bounds.
fn shown(bytes: &[u8]) -> String {
    let text: String = Shown::plain(String::from_utf8_lossy(bytes).trim()).into();
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= ANSWER).last();
    text.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}

/// The causes alone: the error itself names the address, and perhaps a login in it.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes: Vec<&(dyn Error + 'static)> =
        std::iter::successors(error.source(), |error| (*error).source()).collect();
    if let Some(inward) = causes.iter().find_map(|error| error.downcast_ref::<Inward>()) {
        return inward.to_string();
    }
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "no answer"
    };
    let why = causes.last().map(|error| format!(": {error}")).unwrap_or_default();
    shown(format!("{what}{why}").as_bytes())
}

/// The address of a webhook, as far as it can be judged without resolving its name.
///
/// # Errors
///
/// When nothing may be sent there.
pub(super) fn check(text: &str, allow_private: bool) -> Result<Url, BadUrl> {
    if text.len() > LONGEST_URL {
        return Err(BadUrl::Long);
    }
    // The parser drops some of these: what is shown would not be what is asked for.
    if is_ambiguous(text) || text.contains(char::is_control) {
        return Err(BadUrl::NoUrl);
    }
    let url = Url::parse(text).map_err(|_| BadUrl::NoUrl)?;
    if !["https", "http"].contains(&url.scheme()) {
        return Err(BadUrl::Scheme);
    }
    let host = url.host_str().ok_or(BadUrl::NoUrl)?;
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        may_reach(address, allow_private, || host.to_owned())?;
    }
    Ok(url)
}

fn may_reach(address: IpAddr, allow_private: bool, name: impl FnOnce() -> String) -> Result<(), Inward> {
    match Zone::of(address) {
        Zone::Internet => Ok(()),
        Zone::Private | Zone::Link | Zone::Loopback if allow_private => Ok(()),
        zone => Err(Inward { to: name(), zone }),
    }
}

/// The resolver: what it gives is what is connected to.
struct Bounded(bool);

impl Resolve for Bounded {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(admit(name.as_str(), found, allow_private)?.into_iter()) as Addrs)
        })
    }
}

/// Those of a name's addresses that may be connected to.
fn admit(name: &str, found: Vec<SocketAddr>, allow_private: bool) -> Result<Vec<SocketAddr>, Inward> {
    let judge = |at: &SocketAddr| may_reach(at.ip(), allow_private, || format!("{name} ({})", at.ip()));
    let refused = found.iter().find_map(|address| judge(address).err());
    let kept: Vec<SocketAddr> = found.into_iter().filter(|address| judge(address).is_ok()).collect();
    match refused {
        Some(refused) if kept.is_empty() => Err(refused),
        _ => Ok(kept),
    }
}

fn roots(sending: &Sending) -> Result<RootCertStore, Box<dyn Error + Send + Sync>> {
    let mut store = RootCertStore::empty();
    match &sending.ca_bundle {
        // Some certificates of a bundle may be unusable for the library; they are skipped.
        Some(path) => {
            let text = std::fs::read(path)?;
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
            store.add_parsable_certificates(found.map_err(|error| format!("{error:?}"))?);
        }
        None => drop(store.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned())),
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_judged_however_it_is_written() {
        let refused = [
            "http://127.0.0.1/",
            "http://127.1:8080/x",
            "http://0x7f.1/",
            "http://2130706433/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:a9fe:a9fe]/latest",
            "https://10.1.2.3/",
            "https://192.168.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.100.100.200/",
            "https://168.63.129.16/",
            "https://[fd00:ec2::254]/",
            "https://[fe80::1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://0.0.0.0/",
            "https://[::]/",
        ];
        for url in refused {
            assert!(matches!(check(url, false), Err(BadUrl::Inward(_))), "{url}");
        }
        for url in ["https://example.org/hook", "http://user:pw@example.org/", "https://1.1.1.1/"] {
            assert!(check(url, false).is_ok(), "{url}");
        }
        assert!(check("http://127.0.0.1:1/", true).is_ok() && check("http://10.0.0.1/", true).is_ok());
        // It is the machine itself by way of the kernel, and no host's address.
        assert!(matches!(check("http://0.0.0.0/", true), Err(BadUrl::Inward(_))));
        let long = format!("https://example.org/{}", "x".repeat(LONGEST_URL));
        for (url, expected) in [
            ("ftp://example.org/", BadUrl::Scheme),
            ("file:///etc/passwd", BadUrl::Scheme),
            ("example.org", BadUrl::NoUrl),
            ("https://good.example\\@evil.example/", BadUrl::NoUrl),
            ("", BadUrl::NoUrl),
            (long.as_str(), BadUrl::Long),
        ] {
            assert_eq!(check(url, true).err(), Some(expected), "{url}");
        }
    }

    #[test]
    fn a_name_is_judged_by_what_it_means_now() {
        let at = |text: &str| SocketAddr::new(text.parse().expect(text), 0);
        let kept = admit("x.example", vec![at("1.2.3.4"), at("127.0.0.1")], false);
        assert_eq!(kept, Ok(vec![at("1.2.3.4")]));
        for inner in ["127.0.0.1", "10.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "fd00::1", "::"] {
            let error = admit("x.example", vec![at(inner)], false).expect_err(inner).to_string();
            assert!(error.contains(&format!("x.example ({inner})")), "{error}");
        }
        assert_eq!(admit("x.example", vec![at("10.0.0.1")], true), Ok(vec![at("10.0.0.1")]));
        assert_eq!(admit("x.example", Vec::new(), false), Ok(Vec::new()));
    }
}
