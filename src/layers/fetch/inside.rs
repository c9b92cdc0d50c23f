//! Fetches in this process, with gix.
//!
//! It runs in a thread of its own, because nothing interrupts a blocking read from a server. On a stop the thread is detached;
//! it keeps the mirror's lock until its read returns.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use gix::{
    ObjectId, Remote, Repository,
    bstr::{BStr, ByteSlice as _},
    protocol::{
        handshake::Ref,
        transport::client::blocking_io::http::{self, reqwest::Options as Client},
    },
    refs::transaction::PreviousValue,
    remote::{Direction, fetch, ref_map},
};

use super::{
    super::{
        access::Access,
        git_error::{GitError, said},
        mirror::{self, Room},
        revision,
    },
    background::background,
    config::GitConfig,
    counters::Counters,
    error::{Attempt, FetchError},
    request::{Request, Shallow, Want, remove_stale, unknown},
};
use crate::model::{Activity, CommitId, Unit, folder_of, without_secrets};

/// A file in the mirror for the output of ssh, during a fetch.
const SSH_SAID: &str = "smidr-ssh-said";
/// The longest time without a byte from the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fetches a request into a mirror.
pub(super) fn fetch(
    room: &Room,
    url: &str,
    request: &Request,
    config: &GitConfig,
    access: Access<'_>,
) -> Result<(), FetchError> {
    // The server may take a while before there is anything to count.
    access.on.progress(Activity::Fetch, &super::subject(url), 0, None, Unit::Items);
    let (folder, url_of, request, config) = (room.folder.clone(), url.to_owned(), request.clone(), config.clone());
    background(room, url, access, move |counters, interrupt| {
        Work { folder, url: url_of, request, config, counters, interrupt }.run()
    })?
}

struct Work<'a> {
    folder: PathBuf,
    url: String,
    request: Request,
    config: GitConfig,
    counters: &'a Counters,
    interrupt: &'a AtomicBool,
}

impl Work<'_> {
    fn run(&self) -> Result<(), FetchError> {
        let broken = |error: gix::Error| GitError::mirror(&self.folder, &error);
        let mut repository = mirror::open(&self.folder)?;
        let ssh_said = self.folder.join(SSH_SAID);
        self.config.apply(&mut repository, &ssh_said).map_err(|error| GitError::Config(said(&error)))?;
        // git takes more forms of addresses than gix, and decodes those of folders.
        let address = folder_of(&self.url).map(|path| [b"file://", path.as_os_str().as_bytes()].concat());
        let address = gix::url::parse(address.as_deref().unwrap_or(self.url.as_bytes()));
        let address = address.map_err(|_| FetchError::NeedsGit("only git itself takes such an address".into()))?;
        let remote = repository.remote_at(address).map_err(broken)?.with_fetch_tags(fetch::Tags::None);
        let url =
            remote.url(Direction::Fetch).cloned().ok_or_else(|| GitError::Config("an address is empty".into()))?;
        if let Some(why) = self.config.only_git(&url) {
            return Err(FetchError::NeedsGit(why));
        }
        let specs = self.request.refspecs();
        let remote = remote.with_refspecs(specs.iter().map(String::as_str), Direction::Fetch).map_err(broken)?;
        let named = without_secrets(&self.url);
        let attempt =
            Attempt { folder: &self.folder, named: &named, url: &url, config: &self.config, request: &self.request };
        let received = self.receive(&repository, &remote, &url);
        let by_ssh =
            std::fs::read(&ssh_said).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        // The next fetch writes a new one.
        let _ = std::fs::remove_file(&ssh_said);
        received.map_err(|failure| match failure {
            Failure::Gix(error) => attempt.with_words(attempt.trouble(&error, &by_ssh)),
            Failure::Unknown(kind, name) => {
                let refs = refs(&remote, &url).unwrap_or_default();
                unknown(without_secrets(&self.url), kind, &name, &refs).into()
            }
        })
    }

    fn receive(&self, repository: &Repository, remote: &Remote<'_>, url: &gix::Url) -> Result<(), Failure> {
        let connection = connect(remote, url)?;
        let prepared = connection.prepare_fetch(self.counters.node(), ref_map::Options::default())?;
        let found = Advertised::new(&prepared.ref_map().remote_refs);
        if let Some((kind, name)) = self.request.wants.iter().find_map(|want| found.lacks(want)) {
            return Err(Failure::Unknown(kind, name));
        }
        let at = self.request.wants.iter().find_map(|want| found.branch(want));
        if self.request.only_at.is_some() && self.request.only_at != at {
            return Ok(());
        }
        remove_stale(repository, &self.request, Some(&|name| found.find(name).is_some()))?;
        let shallow = match self.request.shallow(repository) {
            Shallow::Keep => fetch::Shallow::NoChange,
            Shallow::Undo => fetch::Shallow::undo(),
            // Only a request for a single commit can be met by what is here.
            Shallow::At(1) if found.are_here(repository, &self.request) => {
                return found.note(repository, &self.request);
            }
            Shallow::At(count) => {
                std::num::NonZeroU32::new(count).map_or(fetch::Shallow::NoChange, fetch::Shallow::DepthAtRemote)
            }
        };
        prepared.with_shallow(shallow).receive(self.counters.node(), self.interrupt)?;
        Ok(())
    }
}

enum Failure {
    Gix(gix::Error),
    /// No such branch or tag.
    Unknown(&'static str, String),
}

impl From<gix::Error> for Failure {
    fn from(error: gix::Error) -> Self {
        Self::Gix(error)
    }
}

/// The refs that the server advertises, as far as they were asked for.
struct Advertised<'m>(Vec<(&'m BStr, Option<ObjectId>, Option<ObjectId>)>);

impl<'m> Advertised<'m> {
    fn new(refs: &'m [Ref]) -> Self {
        let unpack = |one: &'m Ref| {
            let (name, target, peeled) = one.unpack();
            (name, target.map(ToOwned::to_owned), peeled.or(target).map(ToOwned::to_owned))
        };
        Self(refs.iter().map(unpack).collect())
    }

    fn find(&self, name: &str) -> Option<&(&'m BStr, Option<ObjectId>, Option<ObjectId>)> {
        self.0.iter().find(|(known, ..)| known.as_bytes() == name.as_bytes())
    }

    fn of(&self, want: &Want) -> Option<&(&'m BStr, Option<ObjectId>, Option<ObjectId>)> {
        match want {
            Want::Head => self.find("HEAD"),
            want => self.find(&want.local()?),
        }
    }

    fn lacks(&self, want: &Want) -> Option<(&'static str, String)> {
        let (kind, name) = match want {
            Want::Branch(name) => ("branch", name.as_str()),
            Want::Tag(name) => ("tag", name.as_str()),
            Want::Head => ("branch", "HEAD"),
            Want::Commit(_) | Want::Everything => return None,
        };
        self.of(want).is_none().then(|| (kind, name.to_owned()))
    }

    fn branch(&self, want: &Want) -> Option<CommitId> {
        let Want::Branch(_) = want else { return None };
        let (.., peeled) = self.of(want)?;
        Some(CommitId::from_sha1(peeled.as_ref()?.as_slice().try_into().ok()?))
    }

    // Whether all wanted commits are complete here already, and only refs may have to move.
    fn are_here(&self, repository: &Repository, request: &Request) -> bool {
        request.wants.iter().all(|want| {
            self.of(want).is_some_and(|(_, target, peeled)| {
                let bytes = peeled.as_ref().and_then(|id| id.as_slice().try_into().ok());
                let is_whole = bytes.is_some_and(|id| revision::is_whole(repository, &CommitId::from_sha1(id)));
                is_whole && target.is_some_and(|id| repository.has_object(id))
            })
        })
    }

    fn note(&self, repository: &Repository, request: &Request) -> Result<(), Failure> {
        for want in &request.wants {
            if let (Some(local), Some((_, Some(target), _))) = (want.local(), self.of(want)) {
                repository.reference(local.as_str(), *target, PreviousValue::Any, "smidr")?;
            }
        }
        Ok(())
    }
}

type Connection<'a, 'r> =
    gix::remote::Connection<'a, 'static, 'r, Box<dyn gix::protocol::transport::client::blocking_io::Transport + Send>>;

fn connect<'a, 'r>(remote: &'a Remote<'r>, url: &gix::Url) -> Result<Connection<'a, 'r>, gix::Error> {
    // Without one the HTTP client panics. An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut connection = remote.connect(Direction::Fetch)?;
    let text = url.to_bstring();
    if let Some(mut options) = remote.repo().transport_options(text.as_bstr(), None)? {
        if let Some(http) = options.downcast_mut::<http::Options>() {
            let client = Client { configure_client: Some(Box::new(configure)), configure_request: None };
            http.backend = Some(Arc::new(Mutex::new(client)));
        }
        connection.set_transport_options(options);
    }
    Ok(connection)
}

/// The client for all requests: its patience, and certificate authorities.
pub(super) fn configure(builder: reqwest::blocking::ClientBuilder) -> gix::Result<reqwest::blocking::ClientBuilder> {
    let builder = builder.timeout(PATIENCE);
    if reqwest::blocking::Client::builder().build().is_ok() {
        return Ok(builder);
    }
    // This machine has no certificate authorities.
    let known = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    let known = known.filter_map(|certificate| reqwest::Certificate::from_der(certificate).ok());
    Ok(builder.tls_certs_only(known))
}

/// All branches and tags of the server.
fn refs(remote: &Remote<'_>, url: &gix::Url) -> Result<Vec<String>, gix::Error> {
    let all = Want::Everything.refspecs();
    let remote = remote.clone().with_refspecs(all.iter().map(String::as_str), Direction::Fetch)?;
    let (map, _) = connect(&remote, url)?.ref_map(gix::progress::Discard, ref_map::Options::default())?;
    Ok(map.remote_refs.iter().map(|one| one.unpack().0.to_str_lossy().into_owned()).collect())
}
