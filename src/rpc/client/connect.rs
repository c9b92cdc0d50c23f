//! Connections to a daemon: its Unix socket, or TCP with TLS, whose authority is pinned.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    runtime::{Builder, Runtime},
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Uri},
};

use super::{Remote, bring::endpoint};
use crate::{
    model::{Hint, Kind, Paths, UserError},
    rpc::{
        authority::{AuthorityError, certificates, identity, pin_of},
        listen::socket_path,
        proto::smidr_client::SmidrClient,
    },
    system::{files::FileError, sockets::by_short_path},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The largest message that is taken, in bytes.
const MESSAGE: usize = 64 << 20;

/// Where a daemon is, and how it is spoken to. What `smidr client login` keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// Host and port.
    pub address: String,
    /// `sha256:` of the certificate of its authority; none: what this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// A token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A client certificate, and its key: files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The authorities that this machine trusts, where nothing is pinned.
    #[serde(skip)]
    pub ca_bundle: Option<PathBuf>,
    /// Without TLS, on loopback.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// Why a daemon cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// None runs here.
    #[error("no daemon runs for {}", .home.display())]
    None {
        /// SMIDR_HOME.
        home: PathBuf,
    },
    /// It does not answer.
    #[error("cannot reach the daemon at {address}: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why not.
        why: String,
        /// What to do.
        hints: Vec<Hint>,
    },
    /// Not an address.
    #[error("`{0}` is not the address of a daemon")]
    Address(String),
    /// A token would go over a network as it is.
    #[error("without TLS a daemon is spoken to on loopback only, and {0} is none")]
    Insecure(String),
    /// It cannot be used.
    #[error("the token is not one line of text")]
    Token,
    /// Certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for ConnectError {
    fn kind(&self) -> Kind {
        match self {
            Self::None { .. } | Self::Address(_) | Self::Insecure(_) | Self::Token => Kind::Request,
            Self::Unreachable { .. } => Kind::Outside,
            Self::Authority(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::None { .. } => vec![
                Hint::command("start one", "smidr daemon --background"),
                Hint::command("or use another's", "smidr client login HOST:PORT --pin sha256:… --token-file FILE"),
            ],
            Self::Insecure(_) => vec![Hint::new("leave --insecure out; to another machine, ssh -L makes a way")],
            Self::Address(_) => vec![Hint::new("HOST:PORT, as in builds.example:50051")],
            Self::Authority(error) => error.hints(),
            Self::File(error) => error.hints(),
            Self::Unreachable { hints, .. } => hints.clone(),
            Self::Token => vec![Hint::new("the file holds what  smidr daemon token create  printed, and nothing else")],
        }
    }
}

/// Adds the token to each call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// What makes calls.
pub(crate) type Caller = SmidrClient<InterceptedService<Channel, Bearer>>;

impl Remote {
    /// This user's own daemon, on this machine.
    ///
    /// # Errors
    ///
    /// When none runs.
    pub(crate) fn own(paths: &Paths) -> Result<Self, ConnectError> {
        let socket = socket_path(&paths.daemon());
        let none = || ConnectError::None { home: paths.home().into() };
        // A socket file alone is no daemon.
        by_short_path(&socket, |short| std::os::unix::net::UnixStream::connect(short)).map_err(|_| none())?;
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move {
                let stream = by_short_path(&socket, |short| std::os::unix::net::UnixStream::connect(short))?;
                stream.set_nonblocking(true)?;
                Ok::<_, io::Error>(TokioIo::new(UnixStream::from_std(stream)?))
            }
        });
        let runtime = runtime(paths)?;
        let channel = {
            let _inside = runtime.enter();
            endpoint().connect_with_connector_lazy(connector)
        };
        let (caller, address) = (caller(channel, None), "the Unix socket".into());
        Ok(Self { runtime, caller, is_own: true, address })
    }

    /// A daemon elsewhere.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, or is not the one that is pinned.
    pub(crate) fn at(login: &Login, paths: &Paths) -> Result<Self, ConnectError> {
        let wrong = || ConnectError::Address(login.address.clone());
        let (host, port) = login.address.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|host: std::net::IpAddr| host.is_loopback());
        if login.insecure && !is_loopback {
            return Err(ConnectError::Insecure(login.address.clone()));
        }
        let token = login.token.as_ref().map(|token| format!("Bearer {}", token.trim()).parse());
        let token = token.transpose().map_err(|_| ConnectError::Token)?;
        let tls = if login.insecure { None } else { Some(tls(login)?) };
        let dial = move || {
            let (host, name, tls) = (host.clone(), name.clone(), tls.clone());
            async move {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                Ok::<_, io::Error>(match tls {
                    Some(tls) => {
                        Dialled::Tls(Box::new(tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?))
                    }
                    None => Dialled::Plain(stream),
                })
            }
        };
        let runtime = runtime(paths)?;
        let unreachable = |why: String, hint: Option<Hint>| ConnectError::Unreachable {
            address: login.address.clone(),
            why,
            hints: hint.into_iter().collect(),
        };
        // Tried once, so that the reason is known.
        let shows_certificate = login.certificate.is_some();
        let first = runtime.block_on(async {
            tokio::time::timeout(CONNECT, async {
                match dial().await? {
                    Dialled::Tls(stream) if shows_certificate => greet(*stream).await.map(drop),
                    Dialled::Tls(_) => Ok(()),
                    Dialled::Plain(stream) => match greet(stream).await? {
                        ALERT => Err(io::Error::other("it speaks TLS: leave --insecure out")),
                        _ => Ok(()),
                    },
                }
            })
            .await
        });
        match first {
            Err(_) => return Err(unreachable("it does not answer within 10 s".into(), None)),
            Ok(Err(error)) => {
                let (why, hint) = told(&error, login);
                return Err(unreachable(why, hint));
            }
            Ok(Ok(())) => {}
        }
        let connector = tower::service_fn(move |_: Uri| {
            let dialled = dial();
            async move {
                Ok::<_, io::Error>(match dialled.await? {
                    Dialled::Tls(stream) => Either::Tls(TokioIo::new(stream)),
                    Dialled::Plain(stream) => Either::Plain(TokioIo::new(stream)),
                })
            }
        });
        let channel = {
            let _inside = runtime.enter();
            endpoint().connect_with_connector_lazy(connector)
        };
        Ok(Self { runtime, caller: caller(channel, token), is_own: false, address: login.address.clone() })
    }
}

/// An error with what caused it, on one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Why a connection failed, and what to do.
fn told(error: &io::Error, login: &Login) -> (String, Option<Hint>) {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) if login.pin.is_none() => {
            let hint = Hint::new("say which authority it has:  --pin sha256:…, as `smidr daemon` prints it");
            ("this machine does not know the authority of its certificate".into(), Some(hint))
        }
        // Of the verifier below.
        Some(rustls::Error::General(why)) => {
            let hint = "another daemon answers there, or this one has a new authority: `smidr daemon` prints its pin";
            (why.clone(), Some(Hint::new(hint)))
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            ("it does not speak TLS".into(), Some(Hint::new("on loopback only, without TLS:  --insecure")))
        }
        _ if error.kind() == io::ErrorKind::ConnectionRefused => {
            let hint = Hint::command("see there where it listens", "smidr daemon status");
            ("nothing listens there".into(), Some(hint))
        }
        _ => (causes(error), None),
    }
}

fn runtime(paths: &Paths) -> Result<Runtime, ConnectError> {
    let made = Builder::new_current_thread().enable_all().build();
    Ok(made.map_err(FileError::new("start the client of", paths.home()))?)
}

fn caller(channel: Channel, token: Option<MetadataValue<Ascii>>) -> Caller {
    SmidrClient::with_interceptor(channel, Bearer(token)).max_decoding_message_size(MESSAGE)
}

/// The first byte of a TLS record with an alert (RFC 8446, 5.1): what a server with TLS answers to words without.
const ALERT: u8 = 21;

/// Says the first words of HTTP/2, and gives the first byte of the answer: a server may refuse a client certificate when the client's own handshake is over
/// (RFC 8446, 2), and the next call would only find a connection that is closed.
async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<u8> {
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    stream.read_u8().await
}

enum Dialled {
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Plain(TcpStream),
}

/// A connection with TLS or without.
enum Either {
    Tls(TokioIo<Box<tokio_rustls::client::TlsStream<TcpStream>>>),
    Plain(TokioIo<TcpStream>),
}

mod either {
    //! Reading and writing, whichever it is.

    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use hyper::rt::{Read, ReadBufCursor, Write};

    use super::Either;

    macro_rules! both {
        ($self:ident, $stream:ident => $call:expr) => {
            match $self.get_mut() {
                Either::Tls(stream) => {
                    let $stream = Pin::new(stream);
                    $call
                }
                Either::Plain(stream) => {
                    let $stream = Pin::new(stream);
                    $call
                }
            }
        };
    }

    impl Read for Either {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
            both!(self, stream => stream.poll_read(cx, buf))
        }
    }

    impl Write for Either {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            both!(self, stream => stream.poll_write(cx, buf))
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            both!(self, stream => stream.poll_flush(cx))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            both!(self, stream => stream.poll_shutdown(cx))
        }
    }
}

/// Accepts the certificates of one authority, by its pin. The server's name does not matter then: the authority is this daemon's alone.
#[derive(Debug)]
struct Pinned {
    pin: String,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let wrong = || {
            let found = chain.last().unwrap_or(end);
            rustls::Error::General(format!("its authority has the pin {}, and not {}", pin_of(found), self.pin))
        };
        let root = chain.iter().find(|certificate| pin_of(certificate) == self.pin).ok_or_else(wrong)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        // Each certificate of a daemon is good for this name.
        let name = ServerName::try_from("localhost").map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end, chain, &name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn tls(login: &Login) -> Result<Arc<ClientConfig>, ConnectError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |why: rustls::Error| ConnectError::Unreachable {
        address: login.address.clone(),
        why: why.to_string(),
        hints: Vec::new(),
    };
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = config.map_err(unusable)?;
    let config = match &login.pin {
        Some(pin) => {
            let verifier = Arc::new(Pinned { pin: pin.clone(), provider });
            config.dangerous().with_custom_certificate_verifier(verifier)
        }
        None => {
            let mut roots = RootCertStore::empty();
            // What this machine trusts; where it has nothing, what browsers do.
            match &login.ca_bundle {
                Some(file) => roots.add_parsable_certificates(certificates(file)?),
                None => {
                    let known = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned();
                    roots.add_parsable_certificates(known)
                }
            };
            config.with_root_certificates(roots)
        }
    };
    let mut config = match &login.certificate {
        Some((certificate, key)) => {
            let identity = identity(certificate, key)?;
            config.with_client_auth_cert(identity.chain, identity.key).map_err(unusable)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The login that `smidr client login` has kept, if there is one.
///
/// # Errors
///
/// When it cannot be read.
pub(crate) fn kept(file: &Path) -> Result<Option<Login>, FileError> {
    match fs::read(file) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).map_err(|error| FileError::new("read", file)(error.into()))?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read", file)(error)),
    }
}
