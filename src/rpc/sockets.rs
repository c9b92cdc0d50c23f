//! The sockets that a daemon serves on: its own, those that systemd holds for it, and those of the daemon whose place it takes.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
    os::{
        fd::OwnedFd,
        unix::{fs::symlink, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use rustix::{
    net::{AddressFamily, sockopt},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

use super::listen;
use crate::{
    model::{Hint, Kind, UserError},
    system::files::FileError,
};

/// Where TCP is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// As it was asked for.
    pub text: String,
    /// Without TLS, on loopback.
    pub insecure: bool,
}

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
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
    /// What systemd has passed.
    #[error("cannot take the sockets that systemd holds")]
    Systemd(#[source] io::Error),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for SocketError {
    fn kind(&self) -> Kind {
        match self {
            Self::Address(_) | Self::Insecure(_) => Kind::Request,
            Self::Listen { .. } | Self::Systemd(_) => Kind::Host,
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Address(_) => vec![Hint::new("such as :50051, or 127.0.0.1:50051")],
            Self::Insecure(_) => vec![Hint::new("leave --insecure out: TLS needs nothing to be set up")],
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                vec![Hint::new("another program listens there: choose another port")]
            }
            Self::File(error) => error.hints(),
            Self::Listen { .. } | Self::Systemd(_) => Vec::new(),
        }
    }
}

/// Whose sockets these were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Holder {
    /// They are this daemon's own.
    #[default]
    Own,
    /// systemd keeps them when the daemon ends.
    Systemd,
}

/// Sockets that listen already.
#[derive(Default)]
pub(crate) struct Held {
    unix: Option<UnixListener>,
    tcp: Vec<TcpListener>,
    holder: Holder,
}

impl Held {
    /// Those that systemd has passed to this process, if any.
    ///
    /// # Errors
    ///
    /// When one of them is no socket.
    pub(crate) fn of_systemd() -> Result<Self, SocketError> {
        let take = || -> io::Result<Self> {
            let mut held = Self { holder: Holder::Systemd, ..Self::default() };
            let numbers = sd_notify::listen_fds()?;
            if numbers.len() == 0 {
                return Ok(Self::default());
            }
            // A descriptor of this process as a value: no other way to one is safe.
            let own = pidfd_open(getpid(), PidfdFlags::empty())?;
            for number in numbers {
                held.take(pidfd_getfd(&own, number, PidfdGetfdFlags::empty())?)?;
            }
            Ok(held)
        };
        take().map_err(SocketError::Systemd)
    }

    /// Adds one, whatever its family.
    ///
    /// # Errors
    ///
    /// When it is no socket of a kind that is served.
    pub(crate) fn take(&mut self, socket: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        match sockopt::socket_domain(&socket)? {
            AddressFamily::UNIX => self.unix = Some(socket.into()),
            AddressFamily::INET | AddressFamily::INET6 => self.tcp.push(socket.into()),
            family => return Err(io::Error::other(format!("a socket of family {family:?}"))),
        }
        Ok(())
    }

    /// Whether they are systemd's.
    pub(crate) fn is_of_systemd(&self) -> bool {
        self.holder == Holder::Systemd
    }

    /// Whether TCP is listened on.
    pub(crate) fn has_tcp(&self) -> bool {
        !self.tcp.is_empty()
    }
}

/// A socket of TCP.
pub(crate) struct Tcp {
    /// It listens.
    pub listener: TcpListener,
    /// Without TLS.
    pub insecure: bool,
}

/// Sockets of which each is there, or can be made as soon as another daemon has let go.
pub(crate) struct Prepared {
    unix: Option<UnixListener>,
    tcp: Vec<Tcp>,
    // Their port is one of the other daemon's, elsewhere.
    later: Vec<Address>,
    holder: Holder,
}

/// All that is served.
pub(crate) struct Sockets {
    /// The Unix socket.
    pub unix: UnixListener,
    /// Where it is.
    pub path: PathBuf,
    /// The others.
    pub tcp: Vec<Tcp>,
    /// Whose they are.
    pub holder: Holder,
}

/// Takes those that are held and wanted, and makes what is missing. Of a daemon's, those that are not wanted are closed; systemd's are all
/// served.
///
/// # Errors
///
/// When an address is none, or cannot be listened on.
pub(crate) fn prepare(wanted: &[Address], held: Held) -> Result<Prepared, SocketError> {
    let Held { unix, tcp: mut rest, holder } = held;
    let (mut tcp, mut later) = (Vec::new(), Vec::new());
    for address in wanted {
        let places = places(address)?;
        let fits = |listener: &TcpListener| listener.local_addr().is_ok_and(|own| is_one_of(own, &places));
        let found = rest.iter().position(fits).map(|at| rest.swap_remove(at));
        let listener = match found.map_or_else(|| bind(address, &places), Ok) {
            Ok(listener) => listener,
            Err(SocketError::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && rest.iter().any(|other| has_port(other, &places)) =>
            {
                later.push(address.clone());
                continue;
            }
            Err(error) => return Err(error),
        };
        tcp.push(checked(listener, address)?);
    }
    if holder == Holder::Systemd {
        tcp.extend(rest.into_iter().map(|listener| Tcp { listener, insecure: false }));
    }
    Ok(Prepared { unix, tcp, later, holder })
}

impl Prepared {
    /// Makes what is missing, in a daemon's folder. No other daemon serves there now.
    ///
    /// # Errors
    ///
    /// When something cannot be listened on.
    pub(crate) fn open(self, folder: &Path) -> Result<Sockets, SocketError> {
        let mut tcp = self.tcp;
        for address in &self.later {
            tcp.push(checked(bind(address, &places(address)?)?, address)?);
        }
        let usual = listen::socket_path(folder);
        let (unix, path) = match (self.unix, self.holder) {
            (Some(unix), Holder::Systemd) => {
                let path = unix.local_addr().ok().and_then(|own| own.as_pathname().map(PathBuf::from));
                let path = path.unwrap_or_else(|| usual.clone());
                if path != usual {
                    link(&usual, &path)?;
                }
                (unix, path)
            }
            (Some(unix), Holder::Own) if usual.exists() => (unix, usual),
            _ => (listen::unix(&usual)?, usual),
        };
        Ok(Sockets { unix, path, tcp, holder: self.holder })
    }
}

/// Lets commands find a socket that is elsewhere.
fn link(usual: &Path, path: &Path) -> Result<(), FileError> {
    match fs::remove_file(usual) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", usual)(error)),
        _ => symlink(path, usual).map_err(FileError::new("make", usual)),
    }
}

fn checked(listener: TcpListener, address: &Address) -> Result<Tcp, SocketError> {
    let failed = |source| SocketError::Listen { address: address.text.clone(), source };
    let bound = listener.local_addr().map_err(failed)?;
    if address.insecure && !bound.ip().is_loopback() {
        return Err(SocketError::Insecure(bound));
    }
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Tcp { listener, insecure: address.insecure })
}

/// Where an address such as `:50051` can be, which is all of this machine's.
fn places(address: &Address) -> Result<Vec<SocketAddr>, SocketError> {
    let text = address.text.as_str();
    let wrong = || SocketError::Address(text.into());
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if host.is_empty() {
        // IPv6 serves IPv4 too, where there is any.
        return Ok(vec![([0_u16; 8], port).into(), ([0_u8; 4], port).into()]);
    }
    let found = text.to_socket_addrs().map_err(|source| SocketError::Listen { address: text.into(), source })?;
    Ok(found.collect())
}

fn bind(address: &Address, places: &[SocketAddr]) -> Result<TcpListener, SocketError> {
    TcpListener::bind(places).map_err(|source| SocketError::Listen { address: address.text.clone(), source })
}

/// Port 0 is any.
fn is_one_of(own: SocketAddr, places: &[SocketAddr]) -> bool {
    places.iter().any(|place| place.ip() == own.ip() && (place.port() == own.port() || place.port() == 0))
}

fn has_port(listener: &TcpListener, places: &[SocketAddr]) -> bool {
    listener.local_addr().is_ok_and(|own| places.iter().any(|place| place.port() == own.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Address {
        Address { text: text.into(), insecure: false }
    }

    fn bound(prepared: &Prepared) -> Vec<SocketAddr> {
        prepared.tcp.iter().map(|tcp| tcp.listener.local_addr().expect("an address")).collect()
    }

    #[test]
    fn what_is_held_and_wanted_is_taken() {
        let first = prepare(&[at("127.0.0.1:0"), at("127.0.0.1:0")], Held::default()).expect("sockets");
        let [kept, dropped] = bound(&first)[..] else { panic!("two sockets") };
        let held = |holder| {
            let tcp = first.tcp.iter().map(|tcp| tcp.listener.try_clone().expect("a clone")).collect();
            Held { unix: None, tcp, holder }
        };
        let again = prepare(&[at(&kept.to_string())], held(Holder::Own)).expect("sockets");
        assert_eq!(bound(&again), [kept]);
        // What systemd holds is served, wanted or not.
        let all = prepare(&[at(&dropped.to_string())], held(Holder::Systemd)).expect("sockets");
        assert_eq!(bound(&all), [dropped, kept]);
        // Another address of a port that is given up is bound once it is free.
        let wider = prepare(&[at(&format!(":{}", kept.port()))], held(Holder::Own)).expect("sockets");
        assert_eq!((bound(&wider).len(), wider.later.len()), (0, 1));
        let error = prepare(&[at(&kept.to_string())], Held::default()).map(drop).expect_err("in use");
        assert!(matches!(error, SocketError::Listen { .. }), "{error}");
        drop((first, again, all));
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(wider.open(folder.path()).expect("sockets").tcp.len(), 1);
    }

    #[test]
    fn an_address_has_a_port() {
        for wrong in ["50051", "127.0.0.1", "127.0.0.1:", "[::1]", ""] {
            let error = prepare(&[at(wrong)], Held::default()).map(drop).expect_err("no address");
            assert!(matches!(error, SocketError::Address(_)), "{wrong}: {error}");
        }
        let all = Address { text: ":0".into(), insecure: true };
        assert!(matches!(prepare(&[all], Held::default()).map(drop), Err(SocketError::Insecure(_))));
    }
}
