//! The daemon as a process: its sockets, its certificates, its routes, its end.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixListener,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use rustls::pki_types::CertificateDer;
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::{Notify, watch},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    DESCRIPTOR, auth,
    authority::{self, Authority, AuthorityError, Identity},
    feed::Feeds,
    handover, http,
    lease::Leases,
    listen::{self, Listener},
    probes,
    proto::smidr_server::SmidrServer,
    server::Api,
    sockets::{Holder, Prepared, SocketError, Sockets, Tcp},
    systemd,
};
use crate::{
    daemon::{Daemon, DaemonError, Ending, access::Principal, config},
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

/// Why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The daemon itself.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// Certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// What it listens on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Threads, and what waits for connections.
    #[error("cannot serve")]
    Serve(#[source] io::Error),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for RunError {
    fn kind(&self) -> Kind {
        match self {
            Self::Daemon(error) => error.kind(),
            Self::Authority(error) => error.kind(),
            Self::Socket(error) => error.kind(),
            Self::Serve(_) => Kind::Host,
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Daemon(error) => error.hints(),
            Self::Authority(error) => error.hints(),
            Self::Socket(error) => error.hints(),
            Self::File(error) => error.hints(),
            Self::Serve(_) => Vec::new(),
        }
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        match self {
            Self::Daemon(error) => error.drawn(colour),
            _ => None,
        }
    }
}

/// Hangups (SIGHUP) of this process: each lets the daemon read its config again.
#[derive(Clone, Default)]
pub(crate) struct Hangups(Arc<Notify>);

impl Hangups {
    /// There was one.
    pub(crate) fn tell(&self) {
        self.0.notify_one();
    }
}

/// A daemon that listens, and does not serve yet.
pub(crate) struct Ready {
    daemon: Arc<Daemon>,
    sockets: Sockets,
    handover: UnixListener,
    tls: Option<Tls>,
    /// Each address of TCP, and whether it has no TLS.
    pub addresses: Vec<(SocketAddr, bool)>,
}

/// What serves TLS.
pub(crate) struct Tls {
    settings: Arc<rustls::ServerConfig>,
    /// What clients pin. None: a certificate of another authority is verified as any other.
    pin: Option<String>,
}

impl Tls {
    /// By the daemon's own authority, or by what `daemon.yaml` names.
    ///
    /// # Errors
    ///
    /// When a file is wrong, or there can be no certificates.
    pub(crate) fn load(folder: &Path, own: &config::Tls) -> Result<Self, RunError> {
        let named = Named::load(own)?;
        let authority = Authority::open(folder)?;
        let pin = named.server.is_none().then(|| authority.pin());
        let identity = match named.server {
            Some(named) => named,
            None => authority.server(&[own.names.clone(), names()].concat())?,
        };
        let clients = named.clients.unwrap_or_else(|| vec![authority.certificate.clone()]);
        let settings = listen::tls(identity, &clients).map_err(RunError::Serve)?;
        Ok(Self { settings, pin })
    }
}

/// What `daemon.yaml` names.
struct Named {
    server: Option<Identity>,
    clients: Option<Vec<CertificateDer<'static>>>,
}

impl Named {
    fn load(own: &config::Tls) -> Result<Self, AuthorityError> {
        let server = own.server.as_ref().map(|(certificate, key)| authority::named_server(certificate, key));
        let clients = own.client_ca.as_deref().map(authority::named_clients);
        Ok(Self { server: server.transpose()?, clients: clients.transpose()? })
    }
}

/// Whether all that `daemon.yaml` names for TLS can be used.
///
/// # Errors
///
/// Which file cannot.
pub(crate) fn check(own: &config::Tls) -> Result<(), AuthorityError> {
    Named::load(own).map(drop)
}

/// Opens everything that the daemon serves on.
///
/// # Errors
///
/// When an address cannot be listened on.
pub(crate) fn listen(daemon: Arc<Daemon>, prepared: Prepared, tls: Option<Tls>) -> Result<Ready, RunError> {
    let folder = daemon.paths.daemon();
    let sockets = prepared.open(&folder)?;
    for error in &sockets.missing {
        tracing::error!(error = error as &dyn std::error::Error, "an address is not served");
    }
    let handover = handover::listen(&folder)?;
    let address = |tcp: &Tcp| Some((tcp.listener.local_addr().ok()?, tcp.insecure));
    let addresses: Vec<_> = sockets.tcp.iter().filter_map(address).collect();
    let mut told = vec![format!("unix:{}", sockets.path.display())];
    told.extend(addresses.iter().map(|(address, _)| address.to_string()));
    daemon.listens_on(told, tls.as_ref().and_then(|tls| tls.pin.clone()));
    Ok(Ready { daemon, sockets, handover, tls, addresses })
}

/// This machine's name, and the addresses by which others reach it, as far as it can tell.
fn names() -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // No packet is sent: the kernel only looks where it would go.
    let towards = |own: &str, other: &str| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect(other).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    };
    let found = [towards("0.0.0.0:0", "192.0.2.1:9"), towards("[::]:0", "[2001:db8::1]:9")];
    [Some(host)].into_iter().chain(found).flatten().collect()
}

impl Ready {
    /// The Unix socket, for people.
    pub(crate) fn socket(&self) -> &Path {
        &self.sockets.path
    }

    /// Addresses that are not served after all.
    pub(crate) fn missing(&self) -> &[SocketError] {
        &self.sockets.missing
    }

    /// What clients pin, where there is anything.
    pub(crate) fn pin(&self) -> Option<&str> {
        self.tls.as_ref()?.pin.as_deref()
    }

    /// Serves until the daemon is asked to end, by a signal or by a call. `ready` is called once it serves.
    ///
    /// # Errors
    ///
    /// When there can be no threads or certificates.
    pub(crate) fn serve(self, stop: &StopToken, hangups: &Hangups, ready: impl FnOnce()) -> Result<(), RunError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING)
            .thread_name("serve")
            .thread_stack_size(STACK)
            .enable_all()
            .build()
            .map_err(RunError::Serve)?;
        let daemon = self.daemon.clone();
        let asked = daemon.clone();
        let _listening = stop.listen(move |_| asked.ask_to_end(Ending::Leave));
        let (path, holder, folder) = (self.sockets.path.clone(), self.sockets.holder, daemon.paths.daemon());
        let how = runtime.block_on(self.run(hangups, ready))?;
        // Of a daemon that is replaced they are the new one's.
        if how != Ending::Replaced {
            let _ = std::fs::remove_file(handover::path(&folder));
            if holder == Holder::Own {
                let _ = std::fs::remove_file(&path);
            }
        }
        runtime.shutdown_timeout(Duration::from_secs(2));
        tracing::info!(?how, "stopped");
        Ok(())
    }

    async fn run(self, hangups: &Hangups, ready: impl FnOnce()) -> Result<Ending, RunError> {
        let daemon = self.daemon;
        let (ends, ended) = watch::channel(false);
        let (health, app) = app(&daemon, &ended);
        let tls = self.tls.map(|tls| tls.settings);
        let offered = handover::Offered::new(&self.sockets).map_err(RunError::Serve)?;
        let mut listeners = vec![Listener::Unix(async_unix(self.sockets.unix)?)];
        for Tcp { listener, insecure, .. } in self.sockets.tcp {
            let listener = TcpListener::from_std(listener).map_err(RunError::Serve)?;
            listeners.push(Listener::Tcp(listener, tls.clone().filter(|_| !insecure)));
        }
        let serve = |listener| tokio::spawn(listen::serve(listener, app.clone(), ended.clone()));
        let serving: Vec<_> = listeners.into_iter().map(serve).collect();
        let beside = [
            tokio::spawn(handover::serve(async_unix(self.handover)?, offered, daemon.clone())),
            tokio::spawn(reload_at(hangups.clone(), daemon.clone())),
        ];
        ready();
        systemd::ready();
        let how = wait_for_end(&daemon).await;
        systemd::stopping();
        beside.iter().for_each(tokio::task::JoinHandle::abort);
        let _ = ends.send(true);
        end_health(health).await;
        for one in serving {
            let _ = one.await;
        }
        Ok(how)
    }
}

fn async_unix(listener: UnixListener) -> Result<tokio::net::UnixListener, RunError> {
    tokio::net::UnixListener::from_std(listener).map_err(RunError::Serve)
}

/// Reads `daemon.yaml` again. Gives the keys that count only for a daemon that starts.
///
/// # Errors
///
/// When it is wrong.
pub(super) async fn reload(daemon: &Arc<Daemon>) -> Result<Vec<&'static str>, tonic::Status> {
    let daemon = daemon.clone();
    super::server::blocking(move || {
        systemd::reloading();
        let done = daemon.reload();
        systemd::ready();
        done
    })
    .await
}

async fn reload_at(hangups: Hangups, daemon: Arc<Daemon>) {
    loop {
        hangups.0.notified().await;
        // What is wrong is in the log.
        let _ = reload(&daemon).await;
    }
}

/// Tells watchers of the health that the daemon ends; their streams end, too.
async fn end_health(mut health: HealthReporter) {
    health.set_service_status("", ServingStatus::NotServing).await;
    health.clear_service_status("").await;
}

/// Waits until the daemon is asked to end, and until builds are as they shall be then.
async fn wait_for_end(daemon: &Arc<Daemon>) -> Ending {
    let mut endings = daemon.endings();
    let how = async |endings: &mut watch::Receiver<Option<Ending>>, old: Option<Ending>| {
        let asked = endings.wait_for(|how| how.is_some() && *how != old).await;
        asked.ok().and_then(|how| *how).unwrap_or(Ending::Leave)
    };
    let mut asked = how(&mut endings, None).await;
    let running = daemon.end();
    if asked == Ending::Drain {
        let mut changes = daemon.queue_changes();
        let drained = async { while daemon.running() > 0 && changes.changed().await.is_ok() {} };
        // It may be asked for more while it waits.
        tokio::select! {
            () = drained => {}
            other = how(&mut endings, Some(Ending::Drain)) => asked = other,
        }
    }
    if asked == Ending::Cancel {
        let daemon = daemon.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            let ending = Principal::owner("smidr daemon stop");
            for id in running {
                let _ = daemon.cancel(&ending, id.as_str(), false, None);
            }
        });
        let _ = stopped.await;
    }
    asked
}

/// All that is served on one port.
fn app(daemon: &Arc<Daemon>, ends: &watch::Receiver<bool>) -> (HealthReporter, Router) {
    let (feeds, leases) = (Arc::new(Feeds::new(daemon.paths.clone())), Leases::new(daemon.clone(), ends.clone()));
    let api = Api { daemon: daemon.clone(), feeds, leases: leases.clone() };
    let message = usize::try_from(daemon.config().limits.message_size).unwrap_or(usize::MAX);
    let service = SmidrServer::new(api).max_decoding_message_size(message);
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTOR);
    let whole = "the descriptor that is part of this program is whole";
    let (reflects, reflects_older) =
        (reflection().build_v1().expect(whole), reflection().build_v1alpha().expect(whole));
    // Only what is gRPC: this layer answers everything else with an error.
    let grpc = tonic::service::Routes::new(service).add_service(health_service).add_service(reflects);
    // Python's and others' clients know the older name only.
    let grpc = grpc.add_service(reflects_older);
    let grpc = grpc.into_axum_router().layer(tonic_web::GrpcWebLayer::new());
    let grpc = grpc.fallback(|| async { axum::http::StatusCode::NOT_FOUND });
    let gate = axum::middleware::from_fn_with_state(auth::Gate::new(daemon.clone()), auth::check);
    let web = probes::routes(daemon, &leases).merge(http::routes(daemon, &leases)).merge(grpc);
    (health, web.layer(gate))
}
