//! A daemon's builds, from anywhere: the other [`BuildService`].

use std::{
    fs,
    io::{Read as _, Seek as _},
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
    net::{TcpStream, UnixStream},
    runtime::{Builder, Runtime},
    sync::Notify,
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

use super::{
    authority::{identity, pin_of},
    convert::{artifact_of, build_of, path},
    proto::{self, smidr_client::SmidrClient},
    records::record_of,
    status::error,
    submission,
};
use crate::{
    history::{BuildRecord, Filter, TaskRecord, journal::Entry},
    layers::PackedLayer,
    model::{Artifact, BuildId, Event, Hint, Kind, Paths, Submission, SubmittedLayer, UserError},
    service::{BuildService, Listed, ServiceError, Sink},
    system::{files::FileError, sockets::by_short_path, stop::StopToken},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a call is tried again whose connection has broken: a daemon that is replaced is back before that.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of a blob one message holds, in bytes.
const PART: usize = 256 << 10;

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
    /// Without TLS, on loopback.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// Why a daemon cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// None runs here, and none is known elsewhere.
    #[error("no daemon runs for {}, and there is no login to another", .home.display())]
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
    },
    /// Not an address.
    #[error("`{0}` is not the address of a daemon")]
    Address(String),
    /// It cannot be used.
    #[error("the token is not one line of text")]
    Token,
    /// Certificates.
    #[error(transparent)]
    Authority(#[from] super::authority::AuthorityError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for ConnectError {
    fn kind(&self) -> Kind {
        match self {
            Self::None { .. } | Self::Address(_) | Self::Token => Kind::Request,
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
            Self::Address(_) => vec![Hint::new("HOST:PORT, as in builds.example:50051")],
            Self::Authority(error) => error.hints(),
            Self::File(error) => error.hints(),
            Self::Unreachable { .. } | Self::Token => Vec::new(),
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

/// A daemon.
pub(crate) struct Remote {
    runtime: Runtime,
    caller: Caller,
    /// Whether it is this user's own, on this machine.
    pub is_own: bool,
    /// Where it is, for people.
    pub address: String,
}

impl Remote {
    /// This user's own daemon, on this machine.
    ///
    /// # Errors
    ///
    /// When none runs.
    pub(crate) fn own(paths: &Paths) -> Result<Self, ConnectError> {
        let socket = super::listen::socket_path(&paths.daemon());
        let none = || ConnectError::None { home: paths.home().into() };
        // A socket file alone is no daemon.
        by_short_path(&socket, |short| std::os::unix::net::UnixStream::connect(short)).map_err(|_| none())?;
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move {
                let stream = by_short_path(&socket, |short| std::os::unix::net::UnixStream::connect(short))?;
                stream.set_nonblocking(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(UnixStream::from_std(stream)?))
            }
        });
        let runtime = runtime(paths)?;
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://smidr").connect_with_connector_lazy(connector)
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
        let token = login.token.as_ref().map(|token| format!("Bearer {}", token.trim()).parse());
        let token = token.transpose().map_err(|_| ConnectError::Token)?;
        let tls = if login.insecure { None } else { Some(tls(login)?) };
        let dial = move || {
            let (host, name, tls) = (host.clone(), name.clone(), tls.clone());
            async move {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(match tls {
                    Some(tls) => {
                        Dialled::Tls(Box::new(tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?))
                    }
                    None => Dialled::Plain(stream),
                })
            }
        };
        let runtime = runtime(paths)?;
        let unreachable = |why: String| ConnectError::Unreachable { address: login.address.clone(), why };
        // Tried once, so that the reason is known.
        let first = runtime.block_on(async { tokio::time::timeout(CONNECT, dial()).await });
        match first {
            Err(_) => return Err(unreachable("it does not answer within 10 s".into())),
            Ok(Err(error)) => return Err(unreachable(causes(&error))),
            Ok(Ok(_)) => {}
        }
        let connector = tower::service_fn(move |_: Uri| {
            let dialled = dial();
            async move {
                Ok::<_, std::io::Error>(match dialled.await? {
                    Dialled::Tls(stream) => Either::Tls(TokioIo::new(*stream)),
                    Dialled::Plain(stream) => Either::Plain(TokioIo::new(stream)),
                })
            }
        });
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://smidr").connect_with_connector_lazy(connector)
        };
        Ok(Self { runtime, caller: caller(channel, token), is_own: false, address: login.address.clone() })
    }

    /// Makes a call. One whose connection breaks is made again, as long as that can do no harm.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn call<T, F>(&self, mut call: impl FnMut(Caller) -> F) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.runtime.block_on(async {
            let begun = std::time::Instant::now();
            let mut pause = Duration::from_millis(100);
            loop {
                match call(self.caller.clone()).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) if is_broken(&status) && begun.elapsed() < PATIENCE => {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(2));
                    }
                    Err(status) => return Err(error(&status)),
                }
            }
        })
    }

    /// Hands on each message of a stream until `take` wants no more. Gives whether the stream came to its end.
    fn stream<T, F>(
        &self,
        call: impl FnOnce(Caller) -> F,
        stop: Option<&StopToken>,
        mut take: impl FnMut(T) -> Result<bool, ServiceError>,
    ) -> Result<bool, Broken>
    where
        F: Future<Output = Result<tonic::Response<tonic::Streaming<T>>, Status>>,
    {
        let stopped = Arc::new(Notify::new());
        let notify = stopped.clone();
        let _listening = stop.map(|stop| stop.listen(move |_| notify.notify_one()));
        self.runtime.block_on(async {
            let mut messages = call(self.caller.clone()).await.map_err(Broken::Status)?.into_inner();
            loop {
                let message = tokio::select! {
                    message = messages.message() => message.map_err(Broken::Status)?,
                    () = stopped.notified() => return Ok(false),
                };
                match message {
                    None => return Ok(true),
                    Some(message) => {
                        if !take(message).map_err(Broken::Taken)? {
                            return Ok(false);
                        }
                    }
                }
            }
        })
    }

    /// Sends path layers that the daemon does not have. `told` hears of each before it is sent.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn send(
        &self,
        layers: &mut [PackedLayer],
        mut told: impl FnMut(&SubmittedLayer),
    ) -> Result<(), ServiceError> {
        let digests: Vec<String> = layers.iter().map(|layer| layer.layer.digest.to_string()).collect();
        let request = proto::MissingBlobsRequest { digests };
        let missing = self.call(|mut caller| {
            let request = request.clone();
            async move { caller.missing_blobs(request).await }
        })?;
        for packed in layers {
            let digest = packed.layer.digest.to_string();
            if !missing.digests.contains(&digest) {
                continue;
            }
            told(&packed.layer);
            let size = packed.layer.size;
            self.call(|mut caller| {
                let file = packed.archive.try_clone();
                let digest = digest.clone();
                async move {
                    let mut file = file.map_err(|error| Status::aborted(error.to_string()))?;
                    file.rewind().map_err(|error| Status::aborted(error.to_string()))?;
                    let mut first = Some((digest, size));
                    let parts = std::iter::from_fn(move || {
                        let mut data = vec![0; PART];
                        let read = file.read(&mut data).ok()?;
                        data.truncate(read);
                        let (digest, size) = match first.take() {
                            None if read == 0 => return None,
                            first => first.unwrap_or_default(),
                        };
                        Some(proto::UploadBlobRequest { digest, size, data })
                    });
                    caller.upload_blob(tokio_stream::iter(parts)).await
                }
            })?;
        }
        Ok(())
    }

    /// Hands on each line of a log until its end.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn lines(
        &self,
        request: proto::StreamLogsRequest,
        mut take: impl FnMut(&str),
    ) -> Result<(), ServiceError> {
        let done = self.stream(
            |mut caller| async move { caller.stream_logs(request).await },
            None,
            |lines: super::batch::LogLines| {
                lines.items.iter().for_each(|line| take(&line.text));
                Ok(true)
            },
        );
        done.map(drop).map_err(Into::into)
    }

    /// What the daemon is.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn info(&self) -> Result<proto::ServerInfo, ServiceError> {
        self.call(|mut caller| async move { caller.get_server_info(proto::GetServerInfoRequest {}).await })
    }

    /// The bytes of an artifact, from an offset.
    fn download(&self, id: &BuildId, artifact: &Artifact, offset: u64, take: Sink<'_>) -> Result<(), ServiceError> {
        let mut at = offset;
        let begun = std::time::Instant::now();
        loop {
            let request = proto::DownloadArtifactRequest {
                build_id: id.to_string(),
                path: Some(path(&artifact.path)),
                offset: at,
            };
            let failed = || FileError::new("copy", &artifact.path);
            let done = self.stream(
                |mut caller| async move { caller.download_artifact(request).await },
                None,
                |chunk: proto::Chunk| {
                    take(&chunk.data).map_err(failed())?;
                    at += chunk.data.len() as u64;
                    Ok(true)
                },
            );
            match done {
                Ok(_) => return Ok(()),
                Err(Broken::Status(status)) if is_broken(&status) && begun.elapsed() < PATIENCE => pause(),
                Err(broken) => return Err(broken.into()),
            }
        }
    }
}

/// Why a stream ended before its end.
enum Broken {
    Status(Status),
    Taken(ServiceError),
}

impl From<Broken> for ServiceError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Status(status) => error(&status),
            Broken::Taken(error) => error,
        }
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(300));
}

/// Whether it was the connection that failed, or the daemon that ended.
fn is_broken(status: &Status) -> bool {
    let of_transport = std::error::Error::source(status).is_some();
    matches!(status.code(), Code::Unavailable)
        || (of_transport && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled))
}

fn causes(error: &dyn std::error::Error) -> String {
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

fn runtime(paths: &Paths) -> Result<Runtime, ConnectError> {
    let made = Builder::new_current_thread().enable_all().build();
    Ok(made.map_err(FileError::new("start the client of", paths.home()))?)
}

fn caller(channel: Channel, token: Option<MetadataValue<Ascii>>) -> Caller {
    SmidrClient::with_interceptor(channel, Bearer(token)).max_decoding_message_size(MESSAGE)
}

enum Dialled {
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Plain(TcpStream),
}

/// A connection with TLS or without.
enum Either {
    Tls(TokioIo<tokio_rustls::client::TlsStream<TcpStream>>),
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
    let unusable =
        |why: rustls::Error| ConnectError::Unreachable { address: login.address.clone(), why: why.to_string() };
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = config.map_err(unusable)?;
    let config = match &login.pin {
        Some(pin) => {
            let verifier = Arc::new(Pinned { pin: pin.clone(), provider });
            config.dangerous().with_custom_certificate_verifier(verifier)
        }
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read", file)(error)),
    }
}

impl BuildService for Remote {
    fn submit(&self, submission: &Submission) -> Result<BuildId, ServiceError> {
        // Sent twice where an answer is lost, it is one build.
        let request_id = submission.id.to_string();
        let request = submission::request(submission, &request_id, self.is_own);
        let answer = self.call(|mut caller| {
            let request = request.clone();
            async move { caller.start_build(request).await }
        })?;
        parsed(&answer.build_id)
    }

    fn page(&self, filter: &Filter, from: Option<&str>, limit: u32) -> Result<Listed, ServiceError> {
        let request = proto::ListBuildsRequest {
            page_size: limit,
            page_token: from.unwrap_or_default().into(),
            states: filter.states.iter().map(|state| super::convert::state(*state).into()).collect(),
            customer: filter.customer.clone().unwrap_or_default(),
            name: filter.name.clone().unwrap_or_default(),
            labels: filter.labels.clone().into_iter().collect(),
        };
        let answer = self.call(|mut caller| {
            let request = request.clone();
            async move { caller.list_builds(request).await }
        })?;
        let builds = answer.builds.into_iter().map(|build| build_of(build).map_err(odd)).collect::<Result<_, _>>()?;
        Ok((builds, Some(answer.next_page_token).filter(|token| !token.is_empty())))
    }

    fn show(&self, id: Option<&str>) -> Result<BuildRecord, ServiceError> {
        let Some(id) = id else {
            let (builds, _) = self.page(&Filter::default(), None, 1)?;
            return builds.into_iter().next().ok_or(ServiceError::NoBuilds);
        };
        let request = proto::GetBuildRequest { build_id: id.into() };
        let build = self.call(|mut caller| {
            let request = request.clone();
            async move { caller.get_build(request).await }
        })?;
        build_of(build).map_err(odd)
    }

    fn tasks(&self, _: &BuildId) -> Result<Vec<TaskRecord>, ServiceError> {
        Ok(Vec::new())
    }

    fn artifacts(&self, id: &BuildId) -> Result<Vec<Artifact>, ServiceError> {
        let request = proto::ListArtifactsRequest { build_id: id.to_string(), patterns: Vec::new() };
        let answer = self.call(|mut caller| {
            let request = request.clone();
            async move { caller.list_artifacts(request).await }
        })?;
        answer.artifacts.into_iter().map(|artifact| artifact_of(artifact).map_err(odd)).collect()
    }

    fn read(&self, id: &BuildId, artifact: &Artifact, offset: u64, take: Sink<'_>) -> Result<(), ServiceError> {
        self.download(id, artifact, offset, take)
    }

    fn watch(
        &self,
        id: &BuildId,
        after: u64,
        follow: Option<&StopToken>,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, ServiceError> {
        let (mut after, mut end) = (after, false);
        let mut broken: Option<std::time::Instant> = None;
        loop {
            let (build_id, is_following) = (id.to_string(), follow.is_some());
            let request =
                proto::WatchBuildRequest { build_id, after_seq: after, follow: is_following, progress: is_following };
            let done = self.stream(
                |mut caller| async move { caller.watch_build(request).await },
                follow,
                |records: super::batch::Records| {
                    broken = None;
                    for record in records.items {
                        let Some(record) = record_of(id, record).map_err(odd)? else { continue };
                        if let Some(seq) = record.seq() {
                            let missing = seq.saturating_sub(after + 1);
                            if missing > 0 && !take(Entry::Missing(missing)) {
                                return Ok(false);
                            }
                            after = seq;
                        }
                        end = matches!(record.event, Event::Finished { .. });
                        if !take(Entry::Record(Box::new(record))) {
                            return Ok(false);
                        }
                        if end {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                },
            );
            if end {
                return Ok(true);
            }
            match done {
                Ok(true) if follow.is_none() => return Ok(true),
                // A daemon that ends closes its streams.
                Ok(true) if self.show(Some(id.as_str()))?.state.is_final() => return Ok(true),
                Ok(true) => pause(),
                Ok(false) => return Ok(false),
                Err(Broken::Status(status))
                    if is_broken(&status)
                        && broken.get_or_insert_with(std::time::Instant::now).elapsed() < PATIENCE =>
                {
                    if follow.is_some_and(StopToken::is_requested) {
                        return Ok(false);
                    }
                    pause();
                }
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    fn stop(&self, id: &BuildId, kill: bool, reason: Option<&str>) -> Result<(), ServiceError> {
        let request = proto::CancelBuildRequest {
            build_id: id.to_string(),
            force: kill,
            reason: reason.unwrap_or_default().into(),
        };
        self.call(|mut caller| {
            let request = request.clone();
            async move { caller.cancel_build(request).await }
        })
        .map(drop)
    }

    fn remove(&self, id: &BuildId) -> Result<(), ServiceError> {
        let request = proto::DeleteBuildRequest { build_id: id.to_string() };
        self.call(|mut caller| {
            let request = request.clone();
            async move { caller.delete_build(request).await }
        })
        .map(drop)
    }
}

fn parsed(id: &str) -> Result<BuildId, ServiceError> {
    super::convert::id_of("build_id", id).map_err(odd)
}

/// An answer that makes no sense here.
fn odd(invalid: super::convert::Invalid) -> ServiceError {
    ServiceError::Daemon {
        message: format!("the daemon's answer makes no sense here: {invalid}"),
        causes: Vec::new(),
        kind: Kind::Outside,
        hints: vec![Hint::new("it may be of another version")],
        drawn: None,
    }
}
