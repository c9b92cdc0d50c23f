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
    /// By the command line, and not by `daemon.yaml`.
    pub named: bool,
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
    tcp: Vec<Tcp>,
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
            AddressFamily::INET | AddressFamily::INET6 => {
                self.tcp.push(Tcp { listener: socket.into(), insecure: false, named: false });
            }
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

    /// Those of TCP, in the order in which they were taken.
    pub(crate) fn tcp_mut(&mut self) -> &mut [Tcp] {
        &mut self.tcp
    }

    /// Where another daemon's command line has let it listen.
    pub(crate) fn named(&self) -> Vec<Address> {
        let named = self.tcp.iter().filter(|tcp| tcp.named);
        let address = |tcp: &Tcp| {
            let text = tcp.listener.local_addr().ok()?.to_string();
            Some(Address { text, insecure: tcp.insecure, named: true })
        };
        named.filter_map(address).collect()
    }
}

/// A socket of TCP.
pub(crate) struct Tcp {
    /// It listens.
    pub listener: TcpListener,
    /// Without TLS.
    pub insecure: bool,
    /// By the command line, and not by `daemon.yaml`.
    pub named: bool,
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
    /// Why some of TCP are missing: another program took their place when the daemon before had let go of it.
    pub missing: Vec<SocketError>,
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
        if let Some(open) = places.iter().find(|place| address.insecure && !place.ip().is_loopback()) {
            return Err(SocketError::Insecure(*open));
        }
        let fits = |tcp: &Tcp| tcp.listener.local_addr().is_ok_and(|own| is_one_of(own, &places));
        let found = rest.iter().position(fits).map(|at| rest.swap_remove(at).listener);
        let listener = match found.map_or_else(|| bind(address, &places), Ok) {
            Ok(listener) => listener,
            Err(SocketError::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse
                    && rest.iter().any(|other| has_port(&other.listener, &places)) =>
            {
                later.push(address.clone());
                continue;
            }
            Err(error) => return Err(error),
        };
        tcp.push(waiting(listener, address)?);
    }
    if holder == Holder::Systemd {
        tcp.extend(rest);
    }
    Ok(Prepared { unix, tcp, later, holder })
}

impl Prepared {
    /// Whether any of them has TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tcp.iter().any(|tcp| !tcp.insecure) || self.later.iter().any(|address| !address.insecure)
    }

    /// Makes what is missing, in a daemon's folder. No other daemon serves there now.
    ///
    /// # Errors
    ///
    /// When something cannot be listened on.
    pub(crate) fn open(self, folder: &Path) -> Result<Sockets, SocketError> {
        let (mut tcp, mut missing) = (self.tcp, Vec::new());
        for address in &self.later {
            let bound = places(address).and_then(|places| waiting(bind(address, &places)?, address));
            match bound {
                Ok(bound) => tcp.push(bound),
                // The daemon before has ended: better the other addresses than none.
                Err(error) => missing.push(error),
            }
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
        Ok(Sockets { unix, path, tcp, holder: self.holder, missing })
    }
}

/// Lets commands find a socket that is elsewhere.
fn link(usual: &Path, path: &Path) -> Result<(), FileError> {
    match fs::remove_file(usual) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", usual)(error)),
        _ => symlink(path, usual).map_err(FileError::new("make", usual)),
    }
}

fn waiting(listener: TcpListener, address: &Address) -> Result<Tcp, SocketError> {
    let failed = |source| SocketError::Listen { address: address.text.clone(), source };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Tcp { listener, insecure: address.insecure, named: address.named })
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
        Address { text: text.into(), insecure: false, named: true }
    }

    fn bound(prepared: &Prepared) -> Vec<SocketAddr> {
        prepared.tcp.iter().map(|tcp| tcp.listener.local_addr().expect("an address")).collect()
    }

    #[test]
    fn what_is_held_and_wanted_is_taken() {
        let first = prepare(&[at("127.0.0.1:0"), at("127.0.0.1:0")], Held::default()).expect("sockets");
        let [kept, dropped] = bound(&first)[..] else { panic!("two sockets") };
        let held = |holder| {
            let clone = |tcp: &Tcp| Tcp { listener: tcp.listener.try_clone().expect("a clone"), ..*tcp };
            Held { unix: None, tcp: first.tcp.iter().map(clone).collect(), holder }
        };
        let texts = held(Holder::Own).named().into_iter().map(|address| address.text).collect::<Vec<_>>();
        assert_eq!(texts, [kept.to_string(), dropped.to_string()]);
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
        drop((again, all));
        let folder = tempfile::tempdir().expect("a folder");
        let refused = wider.open(folder.path()).expect("sockets");
        assert_eq!((refused.tcp.len(), refused.missing.len()), (0, 1));
        let wider = prepare(&[at(&format!(":{}", kept.port()))], held(Holder::Own)).expect("sockets");
        drop(first);
        assert_eq!(wider.open(folder.path()).expect("sockets").tcp.len(), 1);
    }

    #[test]
    fn an_address_has_a_port() {
        for wrong in ["50051", "127.0.0.1", "127.0.0.1:", "[::1]", ""] {
            let error = prepare(&[at(wrong)], Held::default()).map(drop).expect_err("no address");
            assert!(matches!(error, SocketError::Address(_)), "{wrong}: {error}");
        }
        let open = |text: &str| Address { insecure: true, ..at(text) };
        assert!(matches!(prepare(&[open(":0")], Held::default()).map(drop), Err(SocketError::Insecure(_))));
        // Also where the port becomes free only with the end of another daemon.
        let first = prepare(&[open("127.0.0.1:0")], Held::default()).expect("a socket");
        let port = bound(&first)[0].port();
        let held = Held { unix: None, tcp: first.tcp, holder: Holder::Own };
        let error = prepare(&[open(&format!("0.0.0.0:{port}"))], held).map(drop).expect_err("all networks");
        assert!(matches!(error, SocketError::Insecure(_)), "{error}");
    }
}
