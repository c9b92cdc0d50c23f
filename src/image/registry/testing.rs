//! For tests: a registry on this machine that can do everything wrong, over plain http or over TLS, and that remembers what it was
//! asked.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
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
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer};

use super::{HttpRegistry, Patience, RegistryError, Settings};
use crate::{
    host::process::Spawner,
    image::{codec, documents::Descriptor},
    model::Digest,
};

/// What goes wrong with one answer.
#[derive(Clone, Debug)]
pub enum Fault {
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

/// Who may use the registry.
#[derive(Clone, Debug, Default)]
pub enum Demand {
    /// Everybody.
    #[default]
    Nothing,
    /// Who knows a name and a password.
    Basic(&'static str, &'static str),
    /// Who has a token, from `/token` here or from another realm. It is good for so many requests.
    Token {
        /// Whom tokens are given to; everybody if empty.
        user: &'static str,
        /// With which password, or identity token.
        password: &'static str,
        /// Requests per token.
        uses: usize,
        /// What the server says of a token's life, in seconds.
        life: u64,
        /// Instead of our own.
        realm: Option<String>,
    },
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
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
pub struct FaultyRegistry {
    /// A home for whoever talks to it.
    pub home: tempfile::TempDir,
    /// What the client warned of.
    pub warnings: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
    tls: bool,
    state: Arc<Mutex<State>>,
    closing: Arc<AtomicBool>,
}

impl FaultyRegistry {
    /// Over plain http.
    pub fn start() -> Self {
        Self::with(None)
    }

    /// Over TLS; its certificate is in `home`, and trusted by its settings.
    pub fn start_tls() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let builder = builder.expect("versions of TLS").with_no_client_auth();
        let config = builder.with_single_cert(vec![own.cert.der().clone()], key.into()).expect("a key");
        let new = Self::with(Some(Arc::new(config)));
        let text = BASE64_STANDARD.encode(own.cert.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        std::fs::write(new.certificate(), pem).expect("a file");
        new
    }

    fn with(tls: Option<Arc<ServerConfig>>) -> Self {
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
                // Who hangs up on us is tested for that.
                thread::spawn(move || drop(connection(stream, tls, &state, &own)));
            }
        });
        new
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// In PEM.
    pub fn certificate(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// How to reach it, in no time and without any environment.
    pub fn settings(&self) -> Settings {
        let warnings = self.warnings.clone();
        Settings {
            environment: Vec::new(),
            home: self.home.path().into(),
            etc: self.home.path().join("etc"),
            ca_bundle: self.tls.then(|| self.certificate()),
            insecure: !self.tls,
            stop: None,
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
    pub fn open(&self, name: &str) -> HttpRegistry {
        self.open_with(name, &self.settings()).expect("good settings")
    }

    /// A client with other settings.
    pub fn open_with(&self, name: &str, settings: &Settings) -> Result<HttpRegistry, RegistryError> {
        HttpRegistry::open(&format!("{}/{name}", self.host()).parse().expect("a reference"), settings)
    }

    /// A blob of every repository.
    pub fn add_blob(&self, bytes: &[u8]) -> Descriptor {
        let digest = codec::digest(bytes);
        self.state().blobs.insert(digest.to_string(), bytes.into());
        Descriptor { media_type: "application/octet-stream".into(), digest, size: bytes.len() as u64 }
    }

    /// A manifest of every repository, by tag and by digest.
    pub fn add_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = codec::digest(bytes);
        for name in [tag.to_owned(), digest.to_string()] {
            self.state().manifests.insert(name, (media_type.into(), bytes.into()));
        }
        digest
    }

    /// What it has of a blob that was pushed.
    pub fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.state().blobs.get(&digest.to_string()).cloned()
    }

    /// What it has under a tag.
    pub fn manifest(&self, tag: &str) -> Option<(String, Vec<u8>)> {
        self.state().manifests.get(tag).cloned()
    }

    /// Does something wrong the next `times` times that `part` is in `METHOD PATH`.
    pub fn fault(&self, part: &str, times: usize, fault: Fault) {
        self.state().faults.push((part.into(), times, fault));
    }

    /// Lets not everybody in any more.
    pub fn demand(&self, demand: Demand) {
        self.state().demand = demand;
    }

    /// Requests with `part` in `METHOD PATH`.
    pub fn seen(&self, part: &str) -> Vec<Seen> {
        let fits = |seen: &&Seen| format!("{} {}", seen.method, seen.path).contains(part);
        self.state().log.iter().filter(fits).cloned().collect()
    }

    /// The warnings so far, in one text.
    pub fn warned(&self) -> String {
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

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What the answer says of its length; nothing if it ends with the connection.
    length: Option<u64>,
    endless: bool,
    drip: Option<(usize, Duration)>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = Some(body.len() as u64);
        Self { status, headers: Vec::new(), body, length, endless: false, drip: None }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.into()));
        self
    }
}

fn connection(stream: TcpStream, tls: Option<Arc<ServerConfig>>, state: &Mutex<State>, own: &str) -> io::Result<()> {
    match tls {
        None => serve(stream, state, own),
        Some(config) => {
            let tls = ServerConnection::new(config).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(tls, stream);
            serve(&mut stream, state, own)?;
            stream.conn.send_close_notify();
            stream.flush()
        }
    }
}

// One request per connection.
fn serve(stream: impl Read + Write, state: &Mutex<State>, own: &str) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let Some(seen) = request(&mut stream)? else { return Ok(()) };
    let reply = {
        let mut state = state.lock().expect("a mutex");
        state.log.push(seen.clone());
        match fault_for(&mut state, &seen) {
            Some(Fault::Close) => return Ok(()),
            fault => reply(&mut state, &seen, fault, own),
        }
    };
    send(stream.get_mut(), &seen.method, &reply)
}

fn request(stream: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split(' ').map(String::from);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut seen = Seen { method, path, headers, body: Vec::new() };
    let length = seen.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    stream.take(length).read_to_end(&mut seen.body)?;
    Ok(Some(seen))
}

fn fault_for(state: &mut State, seen: &Seen) -> Option<Fault> {
    let line = format!("{} {}", seen.method, seen.path);
    let (_, times, fault) =
        state.faults.iter_mut().find(|(part, times, _)| *times > 0 && line.contains(part.as_str()))?;
    *times -= 1;
    Some(fault.clone())
}

fn reply(state: &mut State, seen: &Seen, fault: Option<Fault>, own: &str) -> Reply {
    match fault {
        Some(Fault::Status(status, headers, body)) => {
            headers.into_iter().fold(Reply::new(status, body), |reply, (name, value)| reply.with(name, value))
        }
        Some(Fault::Redirect(to)) => Reply::new(307, "").with("location", to),
        fault => {
            let ranges = !matches!(fault, Some(Fault::IgnoreRange));
            let honest = refusal(state, seen, own).unwrap_or_else(|| route(state, seen, own, ranges));
            spoil(honest, fault)
        }
    }
}

fn spoil(mut reply: Reply, fault: Option<Fault>) -> Reply {
    match fault {
        Some(Fault::Truncate(count)) => reply.body.truncate(count),
        Some(Fault::Drip(count, pause)) => reply.drip = Some((count, pause)),
        Some(Fault::Extra(extra)) => {
            reply.body.extend(extra);
            reply.length = None;
        }
        Some(Fault::Endless) => (reply.length, reply.endless) = (None, true),
        Some(Fault::Length(length)) => reply.length = Some(length),
        Some(Fault::Header(name, value)) => reply = reply.with(name, value),
        Some(Fault::Content(bytes)) => (reply.length, reply.body) = (Some(bytes.len() as u64), bytes),
        _ => {}
    }
    reply
}

fn refusal(state: &mut State, seen: &Seen, own: &str) -> Option<Reply> {
    if !seen.path.starts_with("/v2/") {
        return None;
    }
    let shown = seen.header("authorization").unwrap_or_default();
    let challenge = match &state.demand {
        Demand::Nothing => return None,
        Demand::Basic(user, password) if shown == basic(user, password) => return None,
        Demand::Basic(..) => "Basic realm=\"here\"".to_owned(),
        Demand::Token { realm, .. } => {
            let uses = shown.strip_prefix("Bearer ").and_then(|token| state.tokens.get_mut(token));
            if let Some(uses) = uses.filter(|uses| **uses > 0) {
                *uses -= 1;
                return None;
            }
            let realm = realm.clone().unwrap_or_else(|| format!("{own}/token"));
            format!("Bearer realm=\"{realm}\",service=\"faulty\",scope=\"repository:other/thing:delete\"")
        }
    };
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#;
    Some(Reply::new(401, body).with("www-authenticate", challenge))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn token(state: &mut State, seen: &Seen) -> Reply {
    let Demand::Token { user, password, uses, life, .. } = state.demand.clone() else { return Reply::new(404, "") };
    let refresh = String::from_utf8_lossy(&seen.body).contains(&format!("refresh_token={password}"));
    let known = seen.header("authorization") == Some(&*basic(user, password)) || seen.method == "POST" && refresh;
    if !user.is_empty() && !known {
        return Reply::new(401, r#"{"details":"incorrect username or password"}"#);
    }
    let token = format!("token{}", state.tokens.len());
    state.tokens.insert(token.clone(), uses);
    Reply::new(200, format!(r#"{{"token":"{token}","expires_in":{life}}}"#))
}

fn route(state: &mut State, seen: &Seen, own: &str, ranges: bool) -> Reply {
    let path = seen.path.split('?').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    match seen.method.as_str() {
        _ if path == "/token" => token(state, seen),
        _ if path == "/v2/" => Reply::new(200, "{}"),
        "POST" if path.ends_with("/blobs/uploads/") => Reply::new(202, "")
            .with("location", format!("{own}{}", path.replace("uploads/", "uploads/one?state=x%2Fy"))),
        "PUT" if path.contains("/blobs/uploads/") => {
            let digest = codec::digest(&seen.body).to_string();
            let good = seen.path.contains(&digest.replace(':', "%3A"));
            state.blobs.insert(digest, seen.body.clone());
            Reply::new(if good { 201 } else { 400 }, "")
        }
        "PUT" if path.contains("/manifests/") => {
            let media_type = seen.header("content-type").unwrap_or_default().to_owned();
            state.manifests.insert(last, (media_type, seen.body.clone()));
            Reply::new(201, "").with("docker-content-digest", codec::digest(&seen.body).to_string())
        }
        "GET" | "HEAD" if path.contains("/manifests/") => match state.manifests.get(&last) {
            Some((media_type, bytes)) => Reply::new(200, bytes.clone())
                .with("content-type", media_type.clone())
                .with("docker-content-digest", codec::digest(bytes).to_string()),
            None => Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        },
        "GET" | "HEAD" if path.contains("/blobs/") => match state.blobs.get(&last) {
            Some(bytes) => part(bytes, if ranges { seen.header("range") } else { None }),
            None => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
        },
        _ => Reply::new(404, ""),
    }
}

fn part(bytes: &[u8], range: Option<&str>) -> Reply {
    let start = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        None => Reply::new(200, bytes),
        Some(start) if start >= bytes.len() => Reply::new(416, ""),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206, &bytes[start..]).with("content-range", range)
        }
    }
}

fn send(stream: &mut impl Write, method: &str, reply: &Reply) -> io::Result<()> {
    let length = reply.length.map_or_else(String::new, |length| format!("content-length: {length}\r\n"));
    write!(stream, "HTTP/1.1 {} Said\r\nconnection: close\r\n{length}", reply.status)?;
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    if method != "HEAD" {
        let (count, pause) = reply.drip.unwrap_or((usize::MAX, Duration::ZERO));
        for chunk in reply.body.chunks(count) {
            stream.write_all(chunk)?;
            stream.flush()?;
            thread::sleep(pause);
        }
        while reply.endless {
            stream.write_all(&[b'x'; 4096])?;
        }
    }
    stream.flush()
}
