//! What can go wrong between smidr and a registry. Texts never hold a secret, nor a whole URL, which may hold one.

use std::{error::Error, io, path::PathBuf, time::Duration};

use super::bounds::Inward;
use crate::{
    model::{Digest, Kind, UserError},
    system::files::FileError,
};

/// Why a registry did not give, or take, what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Somebody asked smidr to stop.
    #[error("stopped while talking to {0}")]
    Stopped(String),
    /// No connection, or no answer over it.
    #[error("cannot reach {host}")]
    Connection {
        /// Which host.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// An answer broke off, or came to a standstill.
    #[error("{host} broke off while it sent {what}")]
    Broken {
        /// Which registry.
        host: String,
        /// What it sent.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// An answer that says no.
    #[error("{host} answered {status} when it was asked for {what}{}", colon(.said))]
    Status {
        /// Which host.
        host: String,
        /// What it was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// Its own words, shortened and escaped.
        said: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// There is no such thing.
    #[error("{host} does not know {what}{}", colon(.said))]
    Unknown {
        /// Which registry.
        host: String,
        /// What it was asked for.
        what: String,
        /// Its own words, shortened and escaped.
        said: String,
    },
    /// Not for us.
    #[error("{host} does not allow smidr to use {name} with {tried}{}", colon(.said))]
    Denied {
        /// Which host: the registry, or the one that gives out its tokens.
        host: String,
        /// The repository.
        name: String,
        /// Which credentials were shown to it, and where they are from.
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
    /// The registry asks for a kind of authentication that smidr does not have.
    #[error("{0} asks for a kind of authentication that smidr does not know")]
    Challenge(String),
    /// Tokens would be fetched where no credentials may go.
    #[error("{host} sends smidr to `{realm}` for a token, which {why}")]
    Realm {
        /// The registry.
        host: String,
        /// Where it sends us, escaped.
        realm: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The answer of a token server makes no sense.
    #[error("cannot use the token from {host}: {why}")]
    Token {
        /// Who gave it.
        host: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A redirect that must not be followed.
    #[error("{host} redirects {what} {why}")]
    Redirect {
        /// Which host.
        host: String,
        /// What it was asked for.
        what: String,
        /// Where to.
        why: &'static str,
    },
    /// A redirect, token server or place for an upload that is nearer to us than the registry.
    #[error("{host} leads to a host that it may not lead to")]
    Inward {
        /// The registry.
        host: String,
        /// Where it leads to.
        source: Inward,
    },
    /// An answer that makes no sense.
    #[error("{host} gave a wrong answer about {what}: {why}")]
    Answer {
        /// Which registry.
        host: String,
        /// What it was asked for.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A document is larger than it may be.
    #[error("{what} from {host} exceeds the limit of {limit} bytes for such a document")]
    TooLarge {
        /// Which registry.
        host: String,
        /// Which document.
        what: String,
        /// In bytes.
        limit: u64,
    },
    /// The content is not as long as its descriptor promises.
    #[error("{what} from {host} should have {wanted} bytes and has {found}")]
    Size {
        /// Which registry.
        host: String,
        /// What was read.
        what: String,
        /// As promised.
        wanted: u64,
        /// As found: a number, or `more`.
        found: String,
    },
    /// The content is not what its digest promises.
    #[error("{what} from {host} should have the digest {wanted} and has {found}")]
    Digest {
        /// Which registry.
        host: String,
        /// What was read.
        what: String,
        /// As promised.
        wanted: Digest,
        /// As found.
        found: Digest,
    },
    /// Nothing can be called that.
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
    /// A file that says how registries are reached cannot be read.
    #[error("cannot use the settings for registries")]
    File(#[from] FileError),
    /// A file that says how registries are reached makes no sense. Without its text, which may hold a secret.
    #[error("cannot understand {path}: {why}")]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A proxy variable makes no sense. Without its value, which may hold a password.
    #[error("cannot use the proxy in the environment variable `{0}`")]
    Proxy(String),
    /// The HTTP client cannot be made.
    #[error("cannot prepare to talk to {host}")]
    Client {
        /// Which registry.
        host: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

fn colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
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

    /// How often to try again at most: a host that is not there hardly comes up now.
    pub(super) fn most_retries(&self) -> u32 {
        if matches!(self, Self::Connection { source, .. } if source.is_connect()) { 2 } else { u32::MAX }
    }

    /// Whether another host could do better: everything but what is about this machine or the wish itself.
    pub(super) fn is_about_the_host(&self) -> bool {
        !matches!(self, Self::Stopped(_))
    }

    /// How long the registry wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }

    /// As an error of a reader. [`RegistryError::from_io`] finds it again.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Finds the error that a blob's reader ended with.
    ///
    /// # Errors
    ///
    /// Gives the error back when it comes from somewhere else.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }

    /// Whether the other side shows a certificate that cannot be trusted.
    pub(super) fn is_certificate(&self) -> bool {
        matches!(self, Self::Connection { source, .. } if certificate_refused(source))
    }

    /// The error that a blob's reader ended with, if it is one.
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

// io::Error hides what it wraps from `source`, hence the detour.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inner = inner.map(|inner| inner as &(dyn Error + 'static));
    error.downcast_ref().or_else(|| inner.or(error.source()).and_then(tls_error))
}

// What a self-signed certificate made by openssl without further wishes is: its own authority, which rustls does not take.
fn is_own_authority(error: &reqwest::Error) -> bool {
    tls_error(error).is_some_and(|error| format!("{error:?}").contains("CaUsedAsEndEntity"))
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

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unknown { .. } => "check the name and the tag; a private repository can also look like a missing one",
            Self::Denied { .. } => "check the name, and log in:  skopeo login HOST  or  docker login HOST",
            Self::NeedsLogin(name) => {
                let name = shlex::try_quote(name).unwrap_or_default();
                return Some(format!("if you trust the project with it:  smidr trust --login {name}"));
            }
            Self::Status { status: 429, .. } => {
                "wait, or log in: many registries allow more requests with a login (in a build, once  smidr trust --login REGISTRY  grants it)"
            }
            Self::PlainCredentials(_) => "reach the registry over https, without --insecure",
            Self::Connection { source, .. } if is_own_authority(source) => {
                "make the registry a certificate that is no authority:  openssl req -x509 -addext basicConstraints=CA:FALSE"
            }
            Self::Connection { source, .. } if certificate_refused(source) => {
                "put the registry's CA certificate into ~/.config/containers/certs.d/HOST/ca.crt"
            }
            Self::Connection { .. } => {
                "check the name, the network and the proxy; from a registry without TLS:  smidr image pull --insecure REFERENCE  (push takes it too)"
            }
            Self::Broken { .. } => "check the network, then start again: what has been fetched is kept",
            Self::Inward { .. } => {
                "a registry may lead into its own network only: name it by an address there, or have it send the content itself (storage.redirect.disable of the distribution registry)"
            }
            Self::Blocked { .. } => "use another image, or change that file",
            Self::File(source) => return source.hint(),
            _ => return None,
        };
        Some(text.into())
    }
}
