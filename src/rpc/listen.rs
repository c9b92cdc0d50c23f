//! Connections: the Unix socket, and TCP with TLS. What is known of a peer travels with each of its requests.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{RootCertStore, ServerConfig, pki_types::CertificateDer, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    authority::{Identity, tls_error},
    came::{Came, Watched},
};
use crate::{
    daemon::limits::client,
    system::{files::FileError, sockets::by_short_path},
};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How often a silent HTTP/2 connection is asked whether it is there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));

/// How long the first word of a connection may take, its first request that passes, and the head of a request over HTTP/1.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection is kept after its last request that passed. Streams that are open then go on.
const IDLE: Duration = Duration::from_secs(300);

/// The same as the first word, where the daemon ends.
const FIRST: Duration = Duration::from_secs(1);

/// How many connections are served at once.
const CONNECTIONS: usize = 4096;

/// How many of them one address may have.
const OF_ONE: usize = 1024;

/// How many streams one connection may have.
const STREAMS: u32 = 1024;

/// How large the frames of answers may be, in bytes; also what one stream may have on its way.
const WINDOW: u32 = 1 << 20;

/// What is known of the other side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Its address, or `unix`.
    pub address: String,
    /// Of a Unix socket: its uid.
    pub uid: Option<u32>,
    /// The subject of its client certificate (CN), which is good.
    pub subject: Option<String>,
    /// How many of its streams follow journals.
    pub followers: Followers,
    /// Whether it makes requests that pass.
    pub admitted: Admitted,
}

impl Peer {
    fn new(address: String, uid: Option<u32>) -> Self {
        Self { address, uid, subject: None, followers: Followers::default(), admitted: Admitted::default() }
    }
}

/// When the last request of a connection came that was let pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admitted(Arc<watch::Sender<Option<Instant>>>);

impl Admitted {
    /// Notes such a request.
    pub(crate) fn note(&self) {
        self.0.send_replace(Some(Instant::now()));
    }

    /// Waits for the first one.
    async fn first(&self) {
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until there was none for long.
    async fn idle(&self) {
        self.first().await;
        loop {
            let last = *self.0.borrow();
            sleep_until(last.unwrap_or_else(Instant::now) + IDLE).await;
            if *self.0.borrow() == last {
                return;
            }
        }
    }
}

/// Connections by address.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them.
struct FromAddress(Addresses, IpAddr);

impl Addresses {
    /// Counts one more, unless the address has as many as it may.
    fn take(&self, address: IpAddr) -> Option<FromAddress> {
        let address = client(address);
        let mut all = self.lock();
        let count = all.entry(address).or_default();
        if *count >= OF_ONE {
            return None;
        }
        *count += 1;
        drop(all);
        Some(FromAddress(self.clone(), address))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FromAddress {
    fn drop(&mut self) {
        let mut all = self.0.lock();
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// Streams of one connection that follow journals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followers(Arc<AtomicUsize>);

/// One of them.
pub(crate) struct Following(Followers);

impl Followers {
    /// Counts one more.
    pub(crate) fn follow(&self) -> Following {
        self.0.fetch_add(1, Ordering::Relaxed);
        Following(self.clone())
    }
}

impl Following {
    /// What no other connection has that is open.
    pub(crate) fn connection(&self) -> usize {
        Arc::as_ptr(&self.0.0).addr()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a daemon listens on.
pub(crate) enum Listener {
    /// The Unix socket.
    Unix(UnixListener),
    /// TCP, with TLS or, on loopback and when that is asked for, without.
    Tcp(TcpListener, Option<Arc<ServerConfig>>),
}

/// The settings of TLS. Clients may show a certificate of one of these authorities.
///
/// # Errors
///
/// When certificate and key do not fit.
pub(crate) fn tls(identity: Identity, clients: &[CertificateDer<'static>]) -> io::Result<Arc<ServerConfig>> {
    let mut roots = RootCertStore::empty();
    for root in clients {
        roots.add(root.clone()).map_err(tls_error)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(tls_error)?.with_client_cert_verifier(verifier);
    let mut config = config.with_single_cert(identity.chain, identity.key).map_err(tls_error)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Makes the Unix socket. The caller has made sure that no other daemon serves it.
///
/// # Errors
///
/// When it cannot be made.
pub(crate) fn unix(path: &Path) -> Result<std::os::unix::net::UnixListener, FileError> {
    let failed = || FileError::new("make the socket", path);
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    let made = by_short_path(path, |short| std::os::unix::net::UnixListener::bind(short));
    let made = made.map_err(failed())?;
    // The folder is closed to others; the socket is, too.
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, closed).map_err(failed())?;
    made.set_nonblocking(true).map_err(failed())?;
    Ok(made)
}

/// Serves connections until `ends` says so, and then waits for those that are open to end their requests.
pub(crate) async fn serve(listener: Listener, app: Router, ends: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let addresses = Addresses::default();
    let mut stop = ends.clone();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            _ = stop.wait_for(|ends| *ends) => break,
        };
        let (app, ends) = (app.clone(), ends.clone());
        match accepted {
            Ok(Accepted::Unix(stream)) => {
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                let peer = Peer::new("unix".into(), uid);
                tokio::spawn(async move {
                    connection(stream, peer, app, ends).await;
                    drop(place);
                });
            }
            Ok(Accepted::Tcp(stream, address, tls)) => {
                let Some(one) = addresses.take(address.ip()) else { continue };
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    tcp(stream, address, tls, app, ends).await;
                    drop((one, place));
                });
            }
            // Too many open files: the next one may end soon.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = timeout(Duration::from_secs(5), room.acquire_many(all)).await;
}

enum Accepted {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream, SocketAddr, Option<Arc<ServerConfig>>),
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        Listener::Tcp(listener, tls) => {
            listener.accept().await.map(|(stream, address)| Accepted::Tcp(stream, address, tls.clone()))
        }
    }
}

async fn tcp(
    stream: tokio::net::TcpStream,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    app: Router,
    ends: watch::Receiver<bool>,
) {
    let mut peer = Peer::new(address.ip().to_canonical().to_string(), None);
    let Some(tls) = tls else { return connection(stream, peer, app, ends).await };
    // One that says nothing, or nonsense, costs a place for a moment.
    let Ok(Ok(stream)) = timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream)).await else { return };
    let certificates = stream.get_ref().1.peer_certificates();
    peer.subject = certificates.and_then(|chain| chain.first()).and_then(subject);
    connection(stream, peer, app, ends).await;
}

/// The common name of a certificate that was verified.
fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    parsed.subject().iter_common_name().next()?.as_str().ok().map(String::from)
}

async fn connection<S>(stream: S, peer: Peer, app: Router, mut ends: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (followers, admitted, is_own) = (peer.followers.clone(), peer.admitted.clone(), peer.uid.is_some());
    let service = TowerToHyperService::new(app.layer(Extension(peer)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(WINDOW as usize)
        .initial_stream_window_size(WINDOW)
        .max_header_list_size(16 << 10);
    let came = Came::default();
    let served = builder.serve_connection_with_upgrades(TokioIo::new(Watched::new(stream, &came)), service);
    tokio::pin!(served);
    // Others than this machine's may not keep a place by being there.
    let is_kept = async {
        match is_own {
            true => came.wait().await,
            false => admitted.first().await,
        }
    };
    let useless = async {
        if timeout(HEAD, is_kept).await.is_ok() {
            std::future::pending().await
        }
    };
    let is_idle = tokio::select! {
        _ = in_turn(served.as_mut(), &followers) => return,
        () = useless => return,
        () = admitted.idle() => true,
        _ = ends.wait_for(|ends| *ends) => false,
    };
    if is_idle {
        // With GOAWAY: the client opens another one for its next request, and open streams go on.
        served.as_mut().graceful_shutdown();
        let _ = in_turn(served.as_mut(), &followers).await;
        return;
    }
    // One that was accepted a moment ago has a request on its way.
    tokio::select! {
        _ = in_turn(served.as_mut(), &followers) => return,
        () = came.wait() => {}
        () = tokio::time::sleep(FIRST) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

/// Serves a connection. Where several of its streams follow journals, it lets all that are ready before it go on first: each of them wakes the
/// connection, which would write and encrypt a packet for each line of each, and so it writes one.
async fn in_turn<F: Future>(mut served: Pin<&mut F>, followers: &Followers) -> F::Output {
    let mut waited = false;
    poll_fn(|cx| {
        waited = !waited && followers.0.load(Ordering::Relaxed) > 1;
        if waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        served.as_mut().poll(cx)
    })
    .await
}

/// Where the Unix socket is.
pub(crate) fn socket_path(daemon: &Path) -> PathBuf {
    daemon.join("daemon.sock")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn one_address_has_a_bounded_number_of_connections() {
        let addresses = Addresses::default();
        let [one, other] = ["2001:db8::1", "192.0.2.1"].map(|text| text.parse().expect("an address"));
        let mut held: Vec<FromAddress> = std::iter::from_fn(|| addresses.take(one)).take(OF_ONE + 1).collect();
        assert_eq!(held.len(), OF_ONE);
        assert!(addresses.take(other).is_some());
        held.pop();
        held.extend(addresses.take(one));
        assert_eq!(held.len(), OF_ONE);
        drop(held);
        assert!(addresses.lock().is_empty());
    }

    /// Of HTTP/2, with empty settings. Gives whether the connection is over after `HEAD` and a little more.
    async fn is_closed(peer: Peer) -> bool {
        let (mut client, stream) = tokio::io::duplex(4096);
        let (_keep, ends) = watch::channel(false);
        let served = tokio::spawn(connection(stream, peer, Router::new(), ends));
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
        let mut answer = Vec::new();
        let ended = timeout(HEAD + FIRST, client.read_to_end(&mut answer)).await.is_ok();
        served.abort();
        assert!(!answer.is_empty(), "no settings came");
        ended
    }

    #[test]
    #[ignore = "waits ten seconds"]
    fn a_connection_without_a_request_that_passes_ends() {
        let admitted = Peer::new("192.0.2.1".into(), None);
        admitted.admitted.note();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let peers = [Peer::new("192.0.2.1".into(), None), admitted, Peer::new("unix".into(), Some(0))];
        let closed = peers.map(|peer| runtime.spawn(is_closed(peer)));
        let [strange, known, own] = closed.map(|one| runtime.block_on(one).expect("no panic"));
        assert_eq!([strange, known, own], [true, false, false]);
    }
}
