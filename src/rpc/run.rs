//! The daemon as a process: its sockets, its certificates, its routes, its end.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    sync::Arc,
    time::Duration,
};

use axum::{Router, routing::get};
use tokio::{runtime::Builder, sync::watch};

use super::{
    DESCRIPTOR, auth,
    authority::{Authority, AuthorityError},
    feed::Feeds,
    http,
    listen::{self, Listener},
    proto::smidr_server::SmidrServer,
    server::Api,
};
use crate::{
    daemon::{Daemon, DaemonError, Ending, access::Principal},
    model::{Hint, Kind, UserError},
    system::{files::FileError, stop::StopToken},
};

/// Threads that serve; what blocks has threads of its own.
const THREADS: usize = 2;

/// Of each thread, in bytes, as the main thread of other commands has: configs that are nested as deeply as the parser allows need more than one
/// MiB. Only what is used takes memory.
const STACK: usize = 8 << 20;

/// How many calls that block run at once.
const BLOCKING: usize = 64;

/// Where TCP is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// As it was asked for.
    pub text: String,
    /// Without TLS, on loopback.
    pub insecure: bool,
}

/// Why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The daemon itself.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// Certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Not an address.
    #[error("`{0}` is not an address to listen on")]
    Address(String),
    /// Without TLS, other machines could read along.
    #[error("--insecure is for an address of loopback, and {0} is none")]
    Insecure(SocketAddr),
    /// It cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Threads.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for RunError {
    fn kind(&self) -> Kind {
        match self {
            Self::Daemon(error) => error.kind(),
            Self::Authority(error) => error.kind(),
            Self::Address(_) | Self::Insecure(_) => Kind::Request,
            Self::Listen { .. } | Self::Threads(_) => Kind::Host,
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Daemon(error) => error.hints(),
            Self::Authority(error) => error.hints(),
            Self::Address(_) => vec![Hint::new("such as :50051, or 127.0.0.1:50051")],
            Self::Insecure(_) => vec![Hint::new("leave --insecure out: TLS needs nothing to be set up")],
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                vec![Hint::new("another program listens there: choose another port")]
            }
            Self::File(error) => error.hints(),
            Self::Listen { .. } | Self::Threads(_) => Vec::new(),
        }
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        match self {
            Self::Daemon(error) => error.drawn(colour),
            _ => None,
        }
    }
}

/// A daemon that listens, and does not serve yet.
pub(crate) struct Ready {
    daemon: Arc<Daemon>,
    unix: UnixListener,
    tcp: Vec<(TcpListener, bool)>,
    authority: Option<Authority>,
    /// The Unix socket, for people.
    pub socket: std::path::PathBuf,
    /// Each address of TCP, and whether it has no TLS.
    pub addresses: Vec<(SocketAddr, bool)>,
    /// What clients pin, where there is TLS.
    pub pin: Option<String>,
}

/// Opens everything that the daemon serves on.
///
/// # Errors
///
/// When an address cannot be listened on, or there can be no certificates.
pub(crate) fn listen(daemon: Arc<Daemon>, wanted: &[Address]) -> Result<Ready, RunError> {
    let folder = daemon.paths.daemon();
    let socket = listen::socket_path(&folder);
    let unix = listen::unix(&socket)?;
    let mut tcp = Vec::new();
    for address in wanted {
        let listener = bind(address)?;
        tcp.push((listener, address.insecure));
    }
    let addresses: Vec<_> =
        tcp.iter().filter_map(|(listener, insecure)| Some((listener.local_addr().ok()?, *insecure))).collect();
    let authority = match addresses.iter().any(|(_, insecure)| !insecure) {
        true => Some(Authority::open(&folder)?),
        false => None,
    };
    let pin = authority.as_ref().map(Authority::pin);
    let mut told = vec![format!("unix:{}", socket.display())];
    told.extend(addresses.iter().map(|(address, _)| address.to_string()));
    daemon.listens_on(told);
    Ok(Ready { daemon, unix, tcp, authority, socket, addresses, pin })
}

/// Listens on an address such as `:50051`, which is all of this machine's.
fn bind(address: &Address) -> Result<TcpListener, RunError> {
    let text = address.text.as_str();
    let failed = |source| RunError::Listen { address: text.into(), source };
    let listener = match text.strip_prefix(':') {
        Some(port) => {
            let port: u16 = port.parse().map_err(|_| RunError::Address(text.into()))?;
            // IPv6 serves IPv4 too, where there is any.
            TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))).map_err(failed)?
        }
        None if text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) => {
            TcpListener::bind(text).map_err(failed)?
        }
        None => return Err(RunError::Address(text.into())),
    };
    let bound = listener.local_addr().map_err(failed)?;
    if address.insecure && !bound.ip().is_loopback() {
        return Err(RunError::Insecure(bound));
    }
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// This machine's name, and the address by which others reach it, as far as it can tell.
fn names() -> (String, Vec<IpAddr>) {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // No packet is sent: the kernel only looks where it would go.
    let towards = |own: &str, other: &str| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect(other).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let found = [towards("0.0.0.0:0", "192.0.2.1:9"), towards("[::]:0", "[2001:db8::1]:9")];
    (host, found.into_iter().flatten().collect())
}

impl Ready {
    /// Serves until the daemon is asked to end, by a signal or by a call. `ready` is called once it serves.
    ///
    /// # Errors
    ///
    /// When there can be no threads or certificates.
    pub(crate) fn serve(self, stop: &StopToken, ready: impl FnOnce()) -> Result<(), RunError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING)
            .thread_name("serve")
            .thread_stack_size(STACK)
            .enable_all()
            .build()
            .map_err(RunError::Threads)?;
        let daemon = self.daemon.clone();
        let asked = daemon.clone();
        let _listening = stop.listen(move |_| asked.ask_to_end(Ending::Leave));
        let (ends, ended) = watch::channel(false);
        runtime.block_on(async {
            let app = app(&daemon);
            let mut serving = Vec::new();
            let tls = match &self.authority {
                Some(authority) => {
                    let (host, addresses) = names();
                    let identity = authority.server(&host, &addresses)?;
                    let made = listen::tls(identity, &[authority.certificate.clone()]);
                    Some(made.map_err(RunError::Threads)?)
                }
                None => None,
            };
            let failed = |source| RunError::Listen { address: "its sockets".into(), source };
            let unix = tokio::net::UnixListener::from_std(self.unix).map_err(failed)?;
            serving.push(tokio::spawn(listen::serve(Listener::Unix(unix), app.clone(), ended.clone())));
            for (listener, insecure) in self.tcp {
                let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
                let tls = tls.clone().filter(|_| !insecure);
                serving.push(tokio::spawn(listen::serve(Listener::Tcp(listener, tls), app.clone(), ended.clone())));
            }
            ready();
            let mut endings = daemon.endings();
            let how = endings.wait_for(Option::is_some).await.ok().and_then(|how| *how);
            end_builds(&daemon, how.unwrap_or(Ending::Leave)).await;
            let _ = ends.send(true);
            for one in serving {
                let _ = one.await;
            }
            Ok::<_, RunError>(())
        })?;
        let _ = std::fs::remove_file(&self.socket);
        runtime.shutdown_timeout(Duration::from_secs(2));
        Ok(())
    }
}

async fn end_builds(daemon: &Arc<Daemon>, how: Ending) {
    let running = daemon.end();
    match how {
        Ending::Leave => {}
        Ending::Cancel => {
            let daemon = daemon.clone();
            let stopped = tokio::task::spawn_blocking(move || {
                let ending = Principal::owner("smidr daemon stop");
                for id in running {
                    let _ = daemon.cancel(&ending, id.as_str(), false, None);
                }
            });
            let _ = stopped.await;
        }
        Ending::Drain => {
            let mut changes = daemon.queue_changes();
            while daemon.running() > 0 && changes.changed().await.is_ok() {}
        }
    }
}

/// All that is served on one port.
fn app(daemon: &Arc<Daemon>) -> Router {
    let api =
        Api { daemon: daemon.clone(), feeds: Arc::new(Feeds::new(daemon.paths.clone())), streams: Arc::default() };
    let message = usize::try_from(daemon.config().limits.message_size).unwrap_or(usize::MAX);
    let service = SmidrServer::new(api).max_decoding_message_size(message);
    let (health, health_service) = tonic_health::server::health_reporter();
    drop(health);
    let reflection = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTOR);
    let whole = "the descriptor that is part of this program is whole";
    let (reflects, reflects_older) =
        (reflection().build_v1().expect(whole), reflection().build_v1alpha().expect(whole));
    // Only what is gRPC: this layer answers everything else with an error.
    let grpc = tonic::service::Routes::new(service).add_service(health_service).add_service(reflects);
    // Python's and others' clients know the older name only.
    let grpc = grpc.add_service(reflects_older);
    let grpc = grpc.into_axum_router().layer(tonic_web::GrpcWebLayer::new());
    let web = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(|| async { "ok\n" }));
    let grpc = grpc.fallback(|| async { axum::http::StatusCode::NOT_FOUND });
    let gate = auth::Gate::new(daemon.clone());
    let web = web.merge(http::routes(daemon.clone())).merge(grpc);
    web.layer(axum::middleware::from_fn_with_state(gate, auth::check))
}
