//! For tests: a registry on this machine that can misbehave in many ways, over plain http or over TLS, and that records its
//! requests.

mod server;

pub(crate) use server::Talk;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};

use super::{HttpRegistry, RegistryError, Settings, settings::Patience};
use crate::{
    image::{codec, documents::Descriptor},
    model::Digest,
    system::process::Spawner,
};

/// A fault of one response.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Another status, with headers and a body.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// Somewhere else, with 307.
    Redirect(String),
    /// No answer at all.
    Close,
    /// So many bytes of the body, then the end of the connection.
    Truncate(usize),
    /// So many bytes at a time, with a pause after each time.
    Drip(usize, Duration),
    /// The body without its length, and something behind it.
    Extra(Vec<u8>),
    /// The body without its length, and without an end.
    Endless,
    /// A wrong length, and the end of the connection where the body ends.
    Length(u64),
    /// Everything, whatever part was asked for.
    IgnoreRange,
    /// A header more, or another value for one.
    Header(&'static str, String),
    /// Other bytes.
    Content(Vec<u8>),
}

/// Who is allowed to use the registry.
#[derive(Clone, Debug, Default)]
pub(crate) enum Demand {
    /// Any client.
    #[default]
    Nothing,
    /// Clients with a name and a password.
    Basic(&'static str, &'static str),
    /// Clients with a token, from `/token` here or from another realm. A token is valid for so many requests.
    Token {
        /// The user who gets tokens; any if empty.
        user: &'static str,
        /// The user's password, or identity token.
        password: &'static str,
        /// Requests per token.
        uses: usize,
        /// The lifetime that the server claims, in seconds.
        life: u64,
        /// Replaces our own realm.
        realm: Option<String>,
    },
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By tag and by digest: media type and content.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    faults: Vec<(String, usize, Fault)>,
    demand: Demand,
    tokens: BTreeMap<String, usize>,
    log: Vec<Seen>,
}

/// The registry. Ends with the value.
pub(crate) struct FaultyRegistry {
    /// A home for its clients.
    pub home: tempfile::TempDir,
    /// The client's warnings.
    pub warnings: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
    tls: bool,
    state: Arc<Mutex<State>>,
    closing: Arc<AtomicBool>,
}

impl FaultyRegistry {
    /// Over plain http.
    pub(crate) fn start() -> Self {
        Self::with(None, None)
    }

    /// Over TLS; its certificate is in `home`, and trusted by its settings.
    pub(crate) fn start_tls() -> Self {
        Self::start_tls_as(rcgen::IsCa::ExplicitNoCa)
    }

    /// With a certificate that says that it may sign others, or not.
    pub(crate) fn start_tls_as(is_ca: rcgen::IsCa) -> Self {
        Self::start_tls_with(|parameters| parameters.is_ca = is_ca, None)
    }

    /// With another certificate; and, over HTTP/2, a function that handles the connection in its place.
    pub(crate) fn start_tls_with(change: impl FnOnce(&mut rcgen::CertificateParams), talk: Option<Talk>) -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names).expect("good names");
        parameters.is_ca = rcgen::IsCa::ExplicitNoCa;
        change(&mut parameters);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let builder = builder.expect("versions of TLS").with_no_client_auth();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key.into()).expect("a key");
        config.alpn_protocols = talk.iter().map(|_| b"h2".to_vec()).collect();
        let new = Self::with(Some(Arc::new(config)), talk);
        let text = BASE64_STANDARD.encode(certificate.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        std::fs::write(new.certificate(), pem).expect("a file");
        new
    }

    fn with(tls: Option<Arc<ServerConfig>>, talk: Option<Talk>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let new = Self {
            home: tempfile::tempdir().expect("a folder"),
            warnings: Arc::default(),
            address: listener.local_addr().expect("an address"),
            tls: tls.is_some(),
            state: Arc::default(),
            closing: Arc::default(),
        };
        let (state, closing, own) = (new.state.clone(), new.closing.clone(), new.url());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if closing.load(Ordering::SeqCst) {
                    return;
                }
                let (state, tls, own) = (state.clone(), tls.clone(), own.clone());
                // Clients that hang up are part of the tests.
                thread::spawn(move || drop(server::connection(stream, tls, talk, &state, &own)));
            }
        });
        new
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// In PEM.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// How to reach it, in no time and without any environment.
    pub(crate) fn settings(&self) -> Settings {
        let warnings = self.warnings.clone();
        Settings {
            environment: Vec::new(),
            home: self.home.path().into(),
            etc: self.home.path().join("etc"),
            ca_bundle: self.tls.then(|| self.certificate()),
            insecure: !self.tls,
            logins: true,
            stopping: Arc::new(|| false),
            spawner: Spawner::start().expect("a thread"),
            warn: Arc::new(move |warning| warnings.lock().expect("a mutex").push(warning)),
            patience: Patience {
                backoff: Duration::from_millis(1),
                longest: Duration::from_millis(20),
                ..Patience::default()
            },
        }
    }

    /// A client for one of its repositories.
    pub(crate) fn open(&self, name: &str) -> HttpRegistry {
        self.open_with(name, &self.settings()).expect("good settings")
    }

    /// A client with other settings.
    pub(crate) fn open_with(&self, name: &str, settings: &Settings) -> Result<HttpRegistry, RegistryError> {
        HttpRegistry::open(&format!("{}/{name}", self.host()).parse().expect("a reference"), settings)
    }

    /// A blob of every repository.
    pub(crate) fn add_blob(&self, bytes: &[u8]) -> Descriptor {
        let digest = codec::digest(bytes);
        self.state().blobs.insert(digest.to_string(), bytes.into());
        Descriptor { media_type: "application/octet-stream".into(), digest, size: bytes.len() as u64 }
    }

    /// A manifest of every repository, by tag and by digest.
    pub(crate) fn add_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = codec::digest(bytes);
        for name in [tag.to_owned(), digest.to_string()] {
            self.state().manifests.insert(name, (media_type.into(), bytes.into()));
        }
        digest
    }

    /// What it has of a blob that was pushed.
    pub(crate) fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.state().blobs.get(&digest.to_string()).cloned()
    }

    /// What it has under a tag.
    pub(crate) fn manifest(&self, tag: &str) -> Option<(String, Vec<u8>)> {
        self.state().manifests.get(tag).cloned()
    }

    /// Injects a fault the next `times` times that `part` is in `METHOD PATH`.
    pub(crate) fn fault(&self, part: &str, times: usize, fault: Fault) {
        self.state().faults.push((part.into(), times, fault));
    }

    /// Removes all faults.
    pub(crate) fn heal(&self) {
        self.state().faults.clear();
    }

    /// Requires authentication from now on.
    pub(crate) fn demand(&self, demand: Demand) {
        self.state().demand = demand;
    }

    /// Requests with `part` in `METHOD PATH`.
    pub(crate) fn seen(&self, part: &str) -> Vec<Seen> {
        let fits = |seen: &&Seen| format!("{} {}", seen.method, seen.path).contains(part);
        self.state().log.iter().filter(fits).cloned().collect()
    }

    /// The warnings so far, in one text.
    pub(crate) fn warned(&self) -> String {
        self.warnings.lock().expect("a mutex").join("\n")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a mutex")
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}
