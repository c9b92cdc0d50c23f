//! The control socket of a build that runs, in the build's folder: one message a packet, as JSON.
//!
//! The folder is the user's alone, and peers are asked for their uid all the same. A subscriber that does not read loses passing
//! states, never the worker's time.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
        connect, listen, recv, send, shutdown, socket_with,
        sockopt::{Timeout, set_socket_timeout, socket_peercred},
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    events::EventSink,
    model::{BuildId, Event, Record},
    system::{
        files::FileError,
        sockets::by_short_path,
        stop::{StopRequest, StopToken},
    },
};

/// The socket's name in the build's folder.
pub(crate) const NAME: &str = "control.sock";

/// The largest packet, in bytes.
const PACKET: usize = 64 << 10;

/// How many connections are served at once.
const CONNECTIONS: usize = 256;

/// How many passing states are kept for those who come later.
const STATES: usize = 10_000;

/// How long the next connection waits after one that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a worker may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Who serves this.
    Who,
    /// To stop the build.
    Stop {
        /// At once.
        kill: bool,
        /// Why, where it is not the user's wish.
        reason: Option<String>,
    },
    /// Passing states from now on.
    Progress,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Say {
    /// Who serves this.
    Worker {
        /// The build.
        build: BuildId,
        /// The process, in the worker's PID namespace.
        pid: u32,
        /// Of smidr.
        version: String,
    },
    /// The stop has been noted.
    Stopping,
    /// A passing state.
    Record {
        /// As sinks get it.
        record: Box<Record>,
    },
}

/// Serves the control socket for as long as it lives.
pub(crate) struct Server {
    socket: Arc<OwnedFd>,
    folder: PathBuf,
    reason: Arc<Mutex<Option<String>>>,
}

/// Who watches, and what they would have seen: the last state of each activity and task.
#[derive(Default)]
struct Audience {
    subscribers: Vec<Arc<OwnedFd>>,
    last: BTreeMap<Key, Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Activity(u8),
    Task(u32),
}

fn key(event: &Event) -> Option<Key> {
    match event {
        Event::Progress { activity, .. } => Some(Key::Activity(*activity as u8)),
        Event::TaskProgress { pid, .. } => Some(Key::Task(*pid)),
        _ => None,
    }
}

/// Hands passing states to subscribers.
pub(crate) struct ProgressSink(Arc<Mutex<Audience>>);

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventSink for ProgressSink {
    fn accept(&mut self, record: &Record) {
        match &record.event {
            // What was going on is over.
            Event::StageStarted { .. } | Event::Parsed { .. } | Event::TasksPlanned { .. } => {
                lock(&self.0).last.clear()
            }
            Event::TaskEnded { pid, .. } => drop(lock(&self.0).last.remove(&Key::Task(*pid))),
            event => {
                let Some(key) = key(event) else { return };
                let mut audience = lock(&self.0);
                // Of tasks, a build may claim any number.
                if audience.last.len() < STATES || audience.last.contains_key(&key) {
                    audience.last.insert(key, record.clone());
                }
                if !audience.subscribers.is_empty() {
                    audience.subscribers.retain(|to| tell(to, record));
                }
            }
        }
    }
}

/// Sends a state; says whether the subscriber is still there. One that does not read misses it.
fn tell(to: &OwnedFd, record: &Record) -> bool {
    let Ok(packet) = serde_json::to_vec(&Say::Record { record: Box::new(record.clone()) }) else { return true };
    match send(to, &packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::AGAIN | Errno::MSGSIZE) => true,
        Err(_) => false,
    }
}

impl Server {
    /// Begins to serve the build in `folder`. Requests reach `stop`.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub(crate) fn start(folder: &Path, build: &BuildId, stop: &StopToken) -> Result<(Self, ProgressSink), FileError> {
        let path = folder.join(NAME);
        let failed = || FileError::new("make the socket", &path);
        let made = at(folder, |address| {
            let _ = std::fs::remove_file(&path);
            let socket = socket()?;
            bind(&socket, address)?;
            listen(&socket, 64)?;
            Ok(socket)
        });
        let socket = Arc::new(made.map_err(failed())?);
        let audience = Arc::new(Mutex::new(Audience::default()));
        let connections = Arc::new(AtomicUsize::new(0));
        let reason: Arc<Mutex<Option<String>>> = Arc::default();
        let (listener, build) = (socket.clone(), build.clone());
        let state = Shared { audience: audience.clone(), stop: stop.clone(), reason: reason.clone() };
        let served = thread::Builder::new().name("control".into()).spawn(move || {
            // A shut down socket is no listener any more (EINVAL); all else passes, such as too many open files.
            loop {
                let peer = match accept_with(&listener, SocketFlags::CLOEXEC) {
                    Ok(peer) => peer,
                    Err(Errno::INVAL | Errno::BADF) => return,
                    Err(_) => {
                        thread::sleep(PAUSE);
                        continue;
                    }
                };
                let own = socket_peercred(&peer).is_ok_and(|peer| peer.uid == rustix::process::geteuid());
                let connection = Connection::count(&connections);
                if !own || connections.load(Ordering::SeqCst) > CONNECTIONS {
                    continue;
                }
                let (state, build) = (state.clone(), build.clone());
                let served = thread::Builder::new().spawn(move || {
                    let peer = Arc::new(peer);
                    serve(&peer, &state, &build);
                    lock(&state.audience).subscribers.retain(|known| !Arc::ptr_eq(known, &peer));
                    drop(connection);
                });
                drop(served);
            }
        });
        served.map_err(failed())?;
        Ok((Self { socket, folder: folder.into(), reason }, ProgressSink(audience)))
    }
}

impl Server {
    /// Why the build was asked to stop, where a client said so.
    pub(crate) fn reason(&self) -> Option<String> {
        lock(&self.reason).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.folder.join(NAME));
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }
}

/// One of the connections that are served.
struct Connection(Arc<AtomicUsize>);

impl Connection {
    fn count(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::SeqCst);
        Self(all.clone())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What requests work on.
#[derive(Clone)]
struct Shared {
    audience: Arc<Mutex<Audience>>,
    stop: StopToken,
    reason: Arc<Mutex<Option<String>>>,
}

fn serve(peer: &Arc<OwnedFd>, state: &Shared, build: &BuildId) {
    let mut packet = vec![0; PACKET];
    loop {
        let length = match recv(&**peer, &mut packet[..], RecvFlags::empty()) {
            Ok((_, 0)) | Err(_) => return,
            Ok((_, length)) => length,
        };
        let asked = packet.get(..length).and_then(|packet| serde_json::from_slice::<Ask>(packet).ok());
        let answer = match asked {
            // What a newer client asks for.
            None => continue,
            Some(Ask::Who) => {
                Say::Worker { build: build.clone(), pid: std::process::id(), version: env!("CARGO_PKG_VERSION").into() }
            }
            Some(Ask::Stop { kill, reason }) => {
                // The first counts: what follows is impatience.
                let mut first = lock(&state.reason);
                if first.is_none() && !state.stop.is_requested() {
                    *first = reason;
                }
                drop(first);
                state.stop.request(if kill { StopRequest::Kill } else { StopRequest::Graceful });
                Say::Stopping
            }
            Some(Ask::Progress) => {
                let mut audience = lock(&state.audience);
                let is_new = !audience.subscribers.iter().any(|known| Arc::ptr_eq(known, peer));
                if is_new && audience.last.values().all(|record| tell(peer, record)) {
                    audience.subscribers.push(peer.clone());
                }
                continue;
            }
        };
        let Ok(packet) = serde_json::to_vec(&answer) else { continue };
        if send(&**peer, &packet, SendFlags::NOSIGNAL).is_err() {
            return;
        }
    }
}

/// A connection to a worker. Its end is the worker's end.
pub(crate) struct Client(OwnedFd);

impl Client {
    /// Connects to the worker of the build in `folder`; none where it is not served.
    ///
    /// # Errors
    ///
    /// When there is a socket and it cannot be reached.
    pub(crate) fn connect(folder: &Path) -> io::Result<Option<Self>> {
        let connected = at(folder, |address| {
            let socket = socket()?;
            // For connect(2) too, where the worker is stopped and its queue is full.
            set_socket_timeout(&socket, Timeout::Send, Some(ANSWER))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
            connect(&socket, address)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => Ok(Some(Self(socket))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// When the worker is gone.
    pub(crate) fn ask(&self, ask: &Ask) -> io::Result<()> {
        send(&self.0, &serde_json::to_vec(ask)?, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// What the worker says next; none at its end. With `wait`, it is waited for, five seconds at most.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or when there is nothing yet ([`io::ErrorKind::WouldBlock`]).
    pub(crate) fn next(&self, wait: bool) -> io::Result<Option<Say>> {
        let mut packet = vec![0; PACKET];
        loop {
            let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            let length = match recv(&self.0, &mut packet[..], flags) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(None),
                received => received?.1,
            };
            // What a newer worker says is skipped.
            if let Some(said) = packet.get(..length).and_then(|packet| serde_json::from_slice(packet).ok()) {
                return Ok(Some(said));
            }
        }
    }

    /// For poll(2).
    pub(crate) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn at<T>(folder: &Path, work: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<T>) -> io::Result<T> {
    by_short_path(&folder.join(NAME), |path| Ok(work(&SocketAddrUnix::new(path)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::Emitter,
        model::{Activity, Unit},
    };

    #[test]
    fn a_worker_is_asked_and_watched_through_its_socket() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Longer than an address may be.
        let folder = folder.path().join("x".repeat(120));
        std::fs::create_dir(&folder).expect("a folder");
        assert!(Client::connect(&folder).expect("no error").is_none());
        let (id, stop) = (BuildId::new("x", 1).expect("an id"), StopToken::default());
        let (server, sink) = Server::start(&folder, &id, &stop).expect("a socket");
        let on = Emitter::new(id.clone(), vec![Box::new(sink)]);
        for done in 1..=3 {
            on.progress(Activity::Parse, "recipes", done, Some(3), Unit::Items);
        }
        let client = Client::connect(&folder).expect("connected").expect("a worker");
        client.ask(&Ask::Who).expect("asked");
        assert!(matches!(client.next(true).expect("an answer"), Some(Say::Worker { build, .. }) if build == id));
        client.ask(&Ask::Progress).expect("asked");
        let last = client.next(true).expect("an answer");
        assert!(
            matches!(&last, Some(Say::Record { record }) if matches!(record.event, Event::Progress { done: 3, .. })),
            "{last:?}"
        );
        // What is over is not told to those who come later.
        on.emit(Event::Parsed { recipes: 3, cached: 0, errors: 0 });
        let late = Client::connect(&folder).expect("connected").expect("a worker");
        late.ask(&Ask::Progress).expect("asked");
        late.ask(&Ask::Who).expect("asked");
        assert!(matches!(late.next(true).expect("an answer"), Some(Say::Worker { .. })));
        // One that does not read delays no other.
        for done in 0..100_000 {
            on.progress(Activity::Fetch, "x", done, None, Unit::Bytes);
        }
        let another = Client::connect(&folder).expect("connected").expect("a worker");
        another.ask(&Ask::Stop { kill: true, reason: None }).expect("asked");
        assert_eq!(another.next(true).expect("an answer"), Some(Say::Stopping));
        assert_eq!(stop.requested(), Some(StopRequest::Kill));
        drop((server, on));
        assert!(Client::connect(&folder).expect("no error").is_none());
    }
}
