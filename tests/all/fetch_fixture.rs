//! Fixture for tests of fetching: repositories made with git, a store, and a server of git's HTTP protocol (`git http-backend`) that can be
//! faulty on request.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer};
use smidr::{
    events::{Emitter, EventSink},
    layers::{Access, GitError, Mirror, Mirrors},
    lock::RepositoryPin,
    model::{BuildId, CommitId, Event, Logins, Paths, Record},
    plan::PlannedGit,
    system::{process::Spawner, stop::StopToken},
};
use tempfile::TempDir;

use super::support::{NO_HOME, has, hermetic, skip, smidr_bin, tool};

/// Records all events.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<Event>>>);

impl EventSink for Ear {
    fn accept(&mut self, record: &Record) {
        self.0.lock().expect("a mutex").push(record.event.clone());
    }
}

/// Repositories to fetch from, and a store to fetch into.
pub(crate) struct Yard {
    folder: TempDir,
    pub environment: Vec<(String, String)>,
    ear: Ear,
    on: Emitter,
    pub stop: StopToken,
    pub logins: Logins,
    spawner: Spawner,
}

impl Yard {
    /// Skips where there is no git.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !has("git") {
            skip(test, "no git here");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("smidr-git-").tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("home")).expect("a home");
        fs::create_dir(folder.path().join("srv")).expect("a place for repositories");
        let home = folder.path().join("home").display().to_string();
        let path = std::env::var("PATH").expect("PATH");
        let environment = [("HOME", home), ("PATH", path), ("GIT_CONFIG_NOSYSTEM", "1".into())];
        let ear = Ear::default();
        Some(Self {
            folder,
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            on: Emitter::new(BuildId::new("fetch", 1).expect("a name"), vec![Box::new(ear.clone())]),
            ear,
            stop: StopToken::default(),
            logins: Logins::All,
            spawner: Spawner::with_binary(smidr_bin()).expect("a thread"),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// What stands in the folder of the mirrors.
    pub(crate) fn names(&self) -> Vec<String> {
        super::support::World::names(&self.path().join("smidr/layers/mirrors"))
    }

    pub(crate) fn mirrors(&self) -> Mirrors {
        mirrors(self.path())
    }

    pub(crate) fn access(&self, online: bool) -> Access<'_> {
        let Self { on, stop, spawner, environment, logins, .. } = self;
        Access { online, on, stop, spawner, logins, environment }
    }

    /// A variable of the caller's environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
    }

    pub(crate) fn pin(&self, wanted: &PlannedGit) -> Result<(Mirror, CommitId), GitError> {
        self.mirrors().pin(wanted, self.access(true))
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.ear.0.lock().expect("a mutex").clone()
    }

    /// The warnings so far, in one text.
    pub(crate) fn warned(&self) -> String {
        let warning = |event: Event| if let Event::Warning { text } = event { Some(text) } else { None };
        self.events().into_iter().filter_map(warning).collect::<Vec<_>>().join("\n")
    }

    /// A repository with one commit on `main`.
    pub(crate) fn repository(&self, name: &str) -> Origin {
        let origin = Origin { path: self.path().join("srv").join(name) };
        fs::create_dir_all(&origin.path).expect("a folder");
        origin.git(&["init", "-q", "-b", "main"]);
        origin.commit("README", "first");
        origin
    }
}

/// The mirrors below a folder.
pub(crate) fn mirrors(folder: &Path) -> Mirrors {
    let paths = Paths::new(folder.join("smidr"));
    Mirrors::new(&paths.layers())
}

/// A repository that others fetch from.
pub(crate) struct Origin {
    pub path: PathBuf,
}

impl Origin {
    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    #[track_caller]
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.path, arguments)
    }

    /// Writes a file and commits it.
    pub(crate) fn commit(&self, file: &str, text: &str) -> CommitId {
        let path = self.path.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("a file");
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", &format!("{file}: {text:.20}")]);
        self.at("HEAD")
    }

    pub(crate) fn at(&self, revision: &str) -> CommitId {
        self.git(&["rev-parse", &format!("{revision}^{{commit}}")]).parse().expect("a commit")
    }

    /// A request without branch, tag and commit.
    pub(crate) fn wanted(&self) -> PlannedGit {
        wanted(&self.url())
    }

    pub(crate) fn branch(&self, name: &str) -> PlannedGit {
        PlannedGit { branch: Some(name.into()), ..self.wanted() }
    }
}

pub(crate) fn wanted(url: &str) -> PlannedGit {
    PlannedGit {
        url: url.into(),
        mirrors: vec![],
        branch: None,
        tag: None,
        commit: None,
        patches: vec![],
        outside_links: false,
        submodules: smidr::plan::Submodules::All,
        without_branch: smidr::config::WithoutBranch::Fail,
        pinned: None,
    }
}

/// The same with a lock that names a commit.
pub(crate) fn locked(wanted: PlannedGit, commit: &CommitId) -> PlannedGit {
    let pinned = RepositoryPin {
        name: "meta-x".into(),
        git: Some(wanted.url.clone()),
        path: None,
        branch: wanted.branch.clone(),
        tag: wanted.tag.clone(),
        exact: wanted.commit.is_some(),
        commit: Some(commit.clone()),
        dirty: false,
        patches: vec![],
    };
    PlannedGit { pinned: Some(pinned), ..wanted }
}

/// Runs git.
#[track_caller]
pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = hermetic("git", NO_HOME);
    command.args(["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always"]);
    command.args(arguments).current_dir(folder);
    let done = command.output().expect("git runs");
    assert!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Faults and requirements of the server.
#[derive(Clone, Default)]
pub(crate) struct Manners {
    /// Requires this login.
    pub login: Option<(String, String)>,
    /// Redirects everything to this base.
    pub redirect: Option<String>,
    /// Ends an answer to POST after so many bytes.
    pub breaks_after: Option<usize>,
    /// Does not support the protocol's second version: commits that no ref has are refused.
    pub old: bool,
    /// Waits after each kilobyte of a pack.
    pub drip: Option<Duration>,
    /// Answers with this status.
    pub status: Option<u16>,
    /// The content of such an answer, with its type.
    pub page: Option<(&'static str, &'static str)>,
}

/// `git http-backend` behind a listener on the loopback.
pub(crate) struct Server {
    address: SocketAddr,
    scheme: &'static str,
    manners: Arc<Mutex<Manners>>,
    log: Arc<Mutex<Vec<String>>>,
    closing: Arc<AtomicBool>,
}

impl Server {
    /// Serves all repositories of a yard.
    pub(crate) fn start(yard: &Yard) -> Self {
        Self::with(yard, None)
    }

    /// The same over TLS, and its certificate.
    pub(crate) fn start_tls(yard: &Yard) -> (Self, String) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names).expect("good names");
        parameters.is_ca = rcgen::IsCa::ExplicitNoCa;
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions of TLS").with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = builder.with_single_cert(vec![certificate.der().clone()], key.into()).expect("a key");
        let text = base64(certificate.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        (Self::with(yard, Some(Arc::new(config))), pem)
    }

    fn with(yard: &Yard, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let new = Self {
            address: listener.local_addr().expect("an address"),
            scheme: if tls.is_some() { "https" } else { "http" },
            manners: Arc::default(),
            log: Arc::default(),
            closing: Arc::default(),
        };
        let (manners, log, closing) = (new.manners.clone(), new.log.clone(), new.closing.clone());
        let root = yard.path().join("srv");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if closing.load(Ordering::SeqCst) {
                    return;
                }
                let (manners, log, root) = (manners.lock().expect("a mutex").clone(), log.clone(), root.clone());
                let tls = tls.clone();
                // Some tests close the connection early.
                thread::spawn(move || drop(connection(stream, tls, &manners, &log, &root)));
            }
        });
        new
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}/.git", self.base())
    }

    pub(crate) fn base(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(crate) fn behave(&self, manners: Manners) {
        *self.manners.lock().expect("a mutex") = manners;
    }

    /// Heads of all requests so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("a mutex").join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    manners: &Manners,
    log: &Mutex<Vec<String>>,
    root: &Path,
) -> io::Result<()> {
    let Some(config) = tls else { return serve(stream, manners, log, root) };
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, stream);
    serve(&mut stream, manners, log, root)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn serve(stream: impl Read + Write, manners: &Manners, log: &Mutex<Vec<String>>, root: &Path) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while stream.read_line(&mut head)? > 2 {}
    log.lock().expect("a mutex").push(head.clone());
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if header("expect").is_some() {
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = body(&mut stream, header("content-length"), header("transfer-encoding"))?;
    if let Some(base) = &manners.redirect {
        return refuse(stream.get_mut(), 302, &format!("location: {base}{target}\r\n"), manners);
    }
    if let Some(status) = manners.status {
        return refuse(stream.get_mut(), status, "", manners);
    }
    if let Some((user, password)) = &manners.login {
        let expected = format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
        if header("authorization") != Some(expected) {
            return refuse(stream.get_mut(), 401, "www-authenticate: Basic realm=\"here\"\r\n", manners);
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut command = hermetic(tool("git").expect("git"), NO_HOME);
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    command
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env("REMOTE_ADDR", "127.0.0.1");
    command.env("CONTENT_LENGTH", body.len().to_string());
    for (name, variable) in [("content-type", "CONTENT_TYPE"), ("content-encoding", "HTTP_CONTENT_ENCODING")] {
        command.env(variable, header(name).unwrap_or_default());
    }
    if let Some(version) = header("git-protocol").filter(|_| !manners.old) {
        command.env("GIT_PROTOCOL", version);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    child.stdin.take().expect("a pipe").write_all(&body)?;
    let answered = answer(stream.get_mut(), child.stdout.take().expect("a pipe"), method, manners);
    let _ = child.kill();
    child.wait()?;
    answered
}

fn refuse(stream: &mut impl Write, status: u16, more: &str, manners: &Manners) -> io::Result<()> {
    let (kind, page) = manners.page.unwrap_or(("text/plain", ""));
    let length = page.len();
    write!(
        stream,
        "HTTP/1.1 {status} No\r\n{more}content-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{page}"
    )
}

fn answer(stream: &mut impl Write, out: impl Read, method: &str, manners: &Manners) -> io::Result<()> {
    let mut out = BufReader::new(out);
    let (mut status, mut headers) = ("200 OK".to_owned(), String::new());
    loop {
        let mut line = String::new();
        if out.read_line(&mut line)? <= 2 {
            break;
        }
        match line.strip_prefix("Status: ") {
            Some(code) => status = code.trim().to_owned(),
            None => headers.push_str(&line),
        }
    }
    write!(stream, "HTTP/1.1 {status}\r\n{headers}connection: close\r\n")?;
    let limit = manners.breaks_after.filter(|_| method == "POST");
    // The header promises more than is sent.
    write!(stream, "{}\r\n", if limit.is_some() { "content-length: 10000000\r\n" } else { "" })?;
    let mut sent = 0;
    let mut buffer = [0; 1024];
    loop {
        let read = out.read(&mut buffer)?;
        if read == 0 || limit.is_some_and(|limit| sent >= limit) {
            return stream.flush();
        }
        stream.write_all(&buffer[..read])?;
        sent += read;
        if let Some(pause) = manners.drip.filter(|_| method == "POST") {
            stream.flush()?;
            thread::sleep(pause);
        }
    }
}

fn body(stream: &mut impl io::BufRead, length: Option<String>, encoding: Option<String>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if encoding.is_none_or(|encoding| encoding != "chunked") {
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        stream.take(length).read_to_end(&mut body)?;
        return Ok(body);
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        stream.take(size).read_to_end(&mut body)?;
        stream.read_line(&mut line)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}
