//! How a new daemon takes the place of the one that runs. Over a socket of its own it asks for the descriptors that listen (SCM_RIGHTS), and
//! says `go` once it could serve them. Clients that connect in between wait in the kernel's backlog.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    sockopt::socket_peercred,
};
use serde::{Deserialize, Serialize};

use super::sockets::{Held, Holder, Sockets};
use crate::{
    daemon::{Daemon, Ending},
    model::{Hint, Kind, UserError},
    system::{files::FileError, sockets::by_short_path},
};

/// How long the other side may take for a word.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How many descriptors go in one message (SCM_MAX_FD is 253).
const MOST: usize = 250;

/// How long an offer is at most, in bytes.
const OFFER: usize = 16 << 10;

/// The words of the one that takes over. A later protocol has other ones.
const ASK: &[u8] = b"sockets 1\n";
const GO: &[u8] = b"go\n";

/// What the daemon that runs answers, beside its descriptors.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Offer {
    version: String,
    /// Why it gives nothing.
    #[serde(default)]
    refused: Option<String>,
    /// How each socket of TCP is served, in their order. An earlier version does not say.
    #[serde(default)]
    tcp: Vec<Manner>,
}

/// How a socket is served.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Manner {
    insecure: bool,
    named: bool,
}

/// Why the place of a daemon cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverError {
    /// It says nothing.
    #[error("the daemon that runs does not hand over its sockets")]
    Silent(#[source] io::Error),
    /// It is another's.
    #[error("{} is served by another user", .0.display())]
    Foreign(PathBuf),
    /// It does not want to.
    #[error("the daemon that runs does not hand over its sockets: {0}")]
    Refused(String),
}

impl UserError for HandoverError {
    fn kind(&self) -> Kind {
        match self {
            Self::Silent(_) | Self::Foreign(_) => Kind::Host,
            Self::Refused(_) => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Silent(_) => vec![
                Hint::command("end it, builds go on, and start the new one", "smidr daemon stop"),
                Hint::command("what it does", "smidr daemon status"),
            ],
            Self::Refused(_) => vec![
                Hint::command("a user's", "systemctl --user restart smidr.service"),
                Hint::command("the machine's", "systemctl restart smidr.service"),
            ],
            Self::Foreign(_) => Vec::new(),
        }
    }
}

/// Where a daemon hands over.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("handover.sock")
}

/// The daemon that runs, which waits for `go`.
pub(crate) struct Predecessor {
    stream: UnixStream,
    /// Its version.
    pub version: String,
}

/// Asks the daemon that runs for its sockets. None, where none runs that could be asked.
///
/// # Errors
///
/// When it does not answer, or does not want to.
pub(crate) fn ask(folder: &Path) -> Result<Option<(Predecessor, Held)>, HandoverError> {
    let socket = path(folder);
    let Ok(stream) = by_short_path(&socket, |short| UnixStream::connect(short)) else { return Ok(None) };
    if !is_own(&stream) {
        return Err(HandoverError::Foreign(socket));
    }
    let asked = patient(&stream).and_then(|()| (&stream).write_all(ASK));
    let (offer, mut held) = asked.and_then(|()| receive(&stream)).map_err(HandoverError::Silent)?;
    match offer.refused {
        Some(why) => Err(HandoverError::Refused(why)),
        None => {
            for (at, tcp) in held.tcp_mut().iter_mut().enumerate() {
                let manner = offer.tcp.get(at).copied().unwrap_or(Manner { insecure: false, named: true });
                (tcp.insecure, tcp.named) = (manner.insecure, manner.named);
            }
            Ok(Some((Predecessor { stream, version: offer.version }, held)))
        }
    }
}

impl Predecessor {
    /// Lets it end.
    ///
    /// # Errors
    ///
    /// When it cannot be told.
    pub(crate) fn go(mut self) -> Result<(), HandoverError> {
        self.stream.write_all(GO).map_err(HandoverError::Silent)
    }
}

fn is_own(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

fn patient(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn receive(stream: &UnixStream) -> io::Result<(Offer, Held)> {
    let (mut text, mut held) = (Vec::new(), Held::default());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    while text.last() != Some(&b'\n') {
        let mut part = [0; OFFER];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut part)];
        let got = rustix::net::recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                sockets.into_iter().try_for_each(|socket| held.take(socket))?;
            }
        }
        text.extend(part.iter().take(got.bytes));
        if got.bytes == 0 || text.len() > OFFER {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((serde_json::from_slice(&text)?, held))
}

/// What is handed over.
pub(crate) struct Offered {
    sockets: Vec<OwnedFd>,
    tcp: Vec<Manner>,
    refused: Option<String>,
}

impl Offered {
    /// All sockets of a daemon, unless systemd holds them: it would go on listening, too.
    ///
    /// # Errors
    ///
    /// When there are too many open files.
    pub(crate) fn new(all: &Sockets) -> io::Result<Self> {
        if all.holder == Holder::Systemd {
            let refused = "systemd holds them, and a restart loses no request".to_owned();
            return Ok(Self { sockets: Vec::new(), tcp: Vec::new(), refused: Some(refused) });
        }
        let listeners = all.tcp.iter().map(|tcp| tcp.listener.as_fd());
        let sockets = std::iter::once(all.unix.as_fd()).chain(listeners).map(|one| one.try_clone_to_owned());
        let tcp = all.tcp.iter().map(|tcp| Manner { insecure: tcp.insecure, named: tcp.named }).collect();
        Ok(Self { sockets: sockets.collect::<Result<_, _>>()?, tcp, refused: None })
    }

    fn send(&self, stream: &UnixStream) -> io::Result<()> {
        let (version, tcp) = (env!("CARGO_PKG_VERSION").into(), self.tcp.clone());
        let offer = Offer { version, refused: self.refused.clone(), tcp };
        let mut text = serde_json::to_vec(&offer)?;
        text.push(b'\n');
        let sockets: Vec<BorrowedFd<'_>> = self.sockets.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::ErrorKind::ArgumentListTooLong.into());
        }
        // A message of this size goes at once.
        rustix::net::sendmsg(stream, &[IoSlice::new(&text)], &mut control, SendFlags::empty())?;
        Ok(())
    }

    /// Hands over to one that asks. Gives whether it takes over.
    fn to(&self, mut stream: &UnixStream) -> io::Result<bool> {
        patient(stream)?;
        let mut word = [0; ASK.len()];
        stream.read_exact(&mut word)?;
        if word != ASK {
            return Ok(false);
        }
        self.send(stream)?;
        let mut word = [0; GO.len()];
        stream.read_exact(&mut word)?;
        Ok(word == GO && self.refused.is_none())
    }
}

/// Hands over to those that ask, until one takes over.
pub(crate) async fn serve(listener: tokio::net::UnixListener, offered: Offered, daemon: Arc<Daemon>) {
    let offered = Arc::new(offered);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (offered, daemon) = (offered.clone(), daemon.clone());
        let Ok(stream) = stream.into_std() else { continue };
        tokio::task::spawn_blocking(move || {
            if is_own(&stream) && matches!(offered.to(&stream), Ok(true)) {
                tracing::info!("another daemon takes over");
                daemon.ask_to_end(Ending::Replaced);
            }
        });
    }
}

/// Makes the socket on which this daemon hands over.
///
/// # Errors
///
/// When it cannot be made.
pub(crate) fn listen(folder: &Path) -> Result<std::os::unix::net::UnixListener, FileError> {
    super::listen::unix(&path(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::sockets::{Address, prepare};

    #[test]
    fn sockets_travel_and_go_is_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let wanted = [Address { text: "127.0.0.1:0".into(), insecure: true, named: true }];
        let own = prepare(&wanted, Held::default()).expect("sockets").open(folder.path()).expect("sockets");
        let (offered, listener) = (Offered::new(&own).expect("an offer"), listen(folder.path()).expect("a socket"));
        listener.set_nonblocking(false).expect("a socket that waits");
        let old = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            offered.to(&stream).expect("a hand over")
        });
        let (before, held) = ask(folder.path()).expect("an answer").expect("a daemon");
        assert_eq!(before.version, env!("CARGO_PKG_VERSION"));
        let port = |sockets: &Sockets| sockets.tcp[0].listener.local_addr().expect("an address");
        let address = port(&own);
        drop(own.tcp);
        let kept = held.named();
        assert_eq!(kept, [Address { text: address.to_string(), ..wanted[0].clone() }]);
        let taken = prepare(&kept, held).expect("sockets").open(folder.path()).expect("sockets");
        assert_eq!(port(&taken), address);
        before.go().expect("told");
        assert!(old.join().expect("no panic"));
    }

    #[test]
    fn one_that_says_nothing_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(ask(folder.path()).expect("no error").is_none());
        let listener = listen(folder.path()).expect("a socket");
        listener.set_nonblocking(false).expect("a socket that waits");
        let old = std::thread::spawn(move || drop(listener.accept()));
        assert!(matches!(ask(folder.path()).map(drop), Err(HandoverError::Silent(_))));
        old.join().expect("no panic");
    }
}
