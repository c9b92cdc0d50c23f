//! Errors of a registry. Texts never hold a secret, nor a whole URL, which may hold one.

use std::{error::Error, io, path::PathBuf, time::Duration};

use super::bounds::Inward;
use crate::{
    model::{Digest, Hint, Kind, UserError},
    system::files::FileError,
};

/// Why a request to a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A stop was requested.
    #[error("stopped while talking to {0}")]
    Stopped(String),
    /// No connection, or no response.
    #[error("cannot reach {host}")]
    Connection {
        /// The host.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// A response broke off or stalled.
    #[error("{host} broke off while it sent {what}")]
    Broken {
        /// The registry.
        host: String,
        /// The content.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A response with an error status.
    #[error("{host} answered {status} when it was asked for {what}{}{}", colon(.said), later(*.retry_after))]
    Status {
        /// The host.
        host: String,
        /// The request.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words, shortened and escaped.
        said: String,
        /// How long to wait, from `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Not found.
    #[error("{host} does not know {what}{}", colon(.said))]
    Unknown {
        /// The registry.
        host: String,
        /// The request.
        what: String,
        /// Its own words, shortened and escaped.
        said: String,
    },
    /// Access is denied.
    #[error("{host} does not allow smidr to use {name} with {tried}{}", colon(.said))]
    Denied {
        /// The host: the registry, or its token server.
        host: String,
        /// The repository.
        name: String,
        /// The credentials that were sent, and their source.
        tried: String,
        /// Its own words, shortened and escaped.
        said: String,
    },
    /// It wants a login, and the project may not use the user's.
    #[error("{0} wants a login, and this project has not been granted yours")]
    NeedsLogin(String),
    /// Credentials do not go over plain http.
    #[error("{0} demands credentials, but is reached over plain http, over which smidr sends none")]
    PlainCredentials(String),
    /// The registry wants a kind of authentication that smidr does not have.
    #[error("{0} asks for a kind of authentication that smidr does not know")]
    Challenge(String),
    /// The token server must not get credentials.
    #[error("{host} sends smidr to `{realm}` for a token, which {why}")]
    Realm {
        /// The registry.
        host: String,
        /// The token server, escaped.
        realm: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The answer of a token server cannot be used.
    #[error("cannot use the token from {host}: {why}")]
    Token {
        /// The token server.
        host: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A redirect that must not be followed.
    #[error("{host} redirects {what} {why}")]
    Redirect {
        /// The host.
        host: String,
        /// The request.
        what: String,
        /// The target.
        why: &'static str,
    },
    /// A redirect, token server or upload location in a nearer zone than the registry.
    #[error("{host} leads to a host that it may not lead to")]
    Inward {
        /// The registry.
        host: String,
        /// The host that it named.
        source: Inward,
    },
    /// A response that cannot be used.
    #[error("{host} gave a wrong answer about {what}: {why}")]
    Answer {
        /// The registry.
        host: String,
        /// The request.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A document exceeds its limit.
    #[error("{what} from {host} exceeds the limit of {limit} bytes for such a document")]
    TooLarge {
        /// The registry.
        host: String,
        /// The document.
        what: String,
        /// In bytes.
        limit: u64,
    },
    /// The content has another size than its descriptor says.
    #[error("{what} from {host} should have {wanted} bytes and has {found}")]
    Size {
        /// The registry.
        host: String,
        /// The blob.
        what: String,
        /// As promised.
        wanted: u64,
        /// As found: a number, or `more`.
        found: String,
    },
    /// The content has another digest than its descriptor says.
    #[error("{what} from {host} should have the digest {wanted} and has {found}")]
    Digest {
        /// The registry.
        host: String,
        /// The blob.
        what: String,
        /// As promised.
        wanted: Digest,
        /// As found.
        found: Digest,
    },
    /// Not a tag.
    #[error("`{0}` is no tag")]
    Tag(String),
    /// registries.conf forbids it.
    #[error("{name} is blocked by {path}")]
    Blocked {
        /// The repository.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// A settings file for registries cannot be read.
    #[error("cannot use the settings for registries")]
    File(#[from] FileError),
    /// A settings file for registries cannot be parsed. Without its text, which may hold a secret.
    #[error("cannot understand {path}: {why}")]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A proxy variable cannot be used. Without its value, which may hold a password.
    #[error("cannot use the proxy in the environment variable `{0}`")]
    Proxy(String),
    /// The HTTP client cannot be made.
    #[error("cannot prepare to talk to {host}")]
    Client {
        /// The registry.
        host: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

fn colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

fn later(after: Option<Duration>) -> String {
    after.filter(|after| !after.is_zero()).map_or_else(String::new, |after| {
        let (hours, minutes, seconds) = (after.as_secs() / 3600, after.as_secs() / 60 % 60, after.as_secs() % 60);
        let parts = [(hours, "h"), (minutes, "min"), (seconds, "s")].into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, unit)| format!("{count} {unit}")).collect();
        format!(" (it asks for a wait of {})", parts.join(" "))
    })
}

impl RegistryError {
    /// Whether the same request may succeed a little later.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Connection { source, .. } => tls_error(source).is_none(),
            Self::Broken { .. } => true,
            Self::Status { status, .. } => matches!(status, 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// How often to retry at most: a host that does not answer hardly comes up soon.
    pub(super) fn most_retries(&self) -> u32 {
        if matches!(self, Self::Connection { source, .. } if source.is_connect()) { 2 } else { u32::MAX }
    }

    /// Whether another endpoint may succeed: false for errors of this machine and of the request itself.
    pub(super) fn is_about_the_host(&self) -> bool {
        !matches!(self, Self::Stopped(_))
    }

    /// How long the registry asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }

    /// As the error of a reader, from which [`RegistryError::from_io`] gets it back.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Gets back the error with which a blob's reader ended.
    ///
    /// # Errors
    ///
    /// Gives the error back when it comes from somewhere else.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }

    /// Whether the server's certificate cannot be trusted.
    pub(super) fn is_certificate(&self) -> bool {
        matches!(self, Self::Connection { source, .. } if certificate_refused(source))
    }

    /// The error with which a blob's reader ended, if it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The error and its causes in one line, for a warning.
    pub(super) fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            line = format!("{line}: {error}");
            cause = error.source();
        }
        line
    }
}

// `io::Error::source` skips the error that it wraps.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inner = inner.map(|inner| inner as &(dyn Error + 'static));
    error.downcast_ref().or_else(|| inner.or(error.source()).and_then(tls_error))
}

// rustls refuses a self-signed certificate that openssl makes by default, since it is its own authority.
fn is_own_authority(error: &reqwest::Error) -> bool {
    tls_error(error).is_some_and(|error| format!("{error:?}").contains("CaUsedAsEndEntity"))
}

/// What users log in to: Docker Hub is asked at other hosts than it is called by.
fn login_host(host: &str) -> &str {
    if host.ends_with(".docker.io") { "docker.io" } else { host }
}

fn certificate_refused(error: &reqwest::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

impl UserError for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Stopped(_) => Kind::Cancelled,
            Self::Unknown { .. } | Self::Denied { .. } | Self::Blocked { .. } | Self::Tag(_) => Kind::Request,
            Self::NeedsLogin(_) | Self::PlainCredentials(_) | Self::Proxy(_) | Self::Settings { .. } => Kind::Request,
            Self::File(source) => source.kind(),
            Self::Client { .. } => Kind::Host,
            _ => Kind::Outside,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        let hint = match self {
            Self::Unknown { .. } => {
                Hint::new("check the name and the tag; a private repository can also look like a missing one")
            }
            Self::Denied { name, .. } => {
                // The token server may be another host.
                let host = login_host(name.split('/').next().unwrap_or(name));
                return vec![
                    Hint::command("check the name, and log in", format!("skopeo login {host}")),
                    Hint::command("the same with Docker", format!("docker login {host}")),
                ];
            }
            Self::NeedsLogin(name) => {
                let name = shlex::try_quote(name).unwrap_or_default();
                return vec![Hint::command("if you trust the project with it", format!("smidr trust --login {name}"))];
            }
            Self::Status { status: 429, host, .. } => {
                let host = login_host(host);
                let log_in = "log in: many registries allow more requests with a login";
                return vec![
                    Hint::command(log_in, format!("skopeo login {host}")),
                    Hint::command("builds use it when it is granted", format!("smidr trust --login {host}")),
                    Hint::new("or use a mirror, which /etc/containers/registries.conf names ([[registry.mirror]])"),
                ];
            }
            Self::PlainCredentials(_) => Hint::new("reach the registry over https, without --insecure"),
            Self::Connection { source, .. } if is_own_authority(source) => Hint::command(
                "make the registry a certificate that is no authority",
                "openssl req -x509 -addext basicConstraints=CA:FALSE",
            ),
            Self::Connection { source, host } if certificate_refused(source) => {
                Hint::new(format!("put the registry's CA certificate into ~/.config/containers/certs.d/{host}/ca.crt"))
            }
            Self::Connection { .. } => Hint::command(
                "check the name, the network and the proxy; from a registry without TLS (push takes it too)",
                "smidr image pull --insecure REFERENCE",
            ),
            Self::Broken { .. } => Hint::new("check the network, then start again: what has been fetched is kept"),
            Self::Inward { .. } => Hint::new(
                "a registry may lead into its own network only: name it by an address there, or have it send the content itself (storage.redirect.disable of the distribution registry)",
            ),
            Self::Blocked { .. } => Hint::new("use another image, or change that file"),
            Self::File(source) => return source.hints(),
            _ => return Vec::new(),
        };
        vec![hint]
    }
}
