//! A registry for the tests: Debian's docker-registry on a loopback port, and a proxy before it that counts and delays requests. Both end
//! when their values are dropped.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::support::{LONG, skip, tool};

/// A free port of this machine.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

/// A docker-registry that runs. Ended when dropped; its images are gone then.
pub(crate) struct Registry {
    port: u16,
    child: Child,
    folder: TempDir,
}

impl Registry {
    /// Starts an empty one; none where there is no docker-registry, and the skip is then reported.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if tool("docker-registry").is_none() {
            skip(test, "there is no docker-registry here");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("smidr-r-").tempdir().expect("a temporary folder");
        for _ in 0..5 {
            // Another process can take the port before the registry does.
            let port = free_port();
            if let Ok(child) = serve(&folder, port) {
                return Some(Self { port, child, folder });
            }
        }
        panic!("no docker-registry on five ports; the last one said\n{}", said(&folder));
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// smidr's reference of an image there.
    pub(crate) fn at(&self, image: &str) -> String {
        format!("docker://{}/{image}", self.host())
    }

    /// Ends it; its images stay.
    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        self.child = serve(&self.folder, self.port).unwrap_or_else(|()| panic!("{}", said(&self.folder)));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn said(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("log")).unwrap_or_default()
}

// An error says that it ended before it answered.
fn serve(folder: &TempDir, port: u16) -> Result<Child, ()> {
    let at = |name: &str| folder.path().join(name);
    let config = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: \"{}\"}}}}\n\
         http: {{addr: \"127.0.0.1:{port}\", secret: tests}}\n",
        at("images").display()
    );
    fs::write(at("config.yml"), config).expect("write the registry's config");
    let log = File::create(at("log")).expect("a log");
    let registry = tool("docker-registry").expect("it was there a moment ago");
    // So that not even a test that is killed leaves it behind.
    let mut command = match tool("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(registry);
            command
        }
        None => Command::new(registry),
    };
    // All of its settings are in this file; it takes variables named REGISTRY_… for more of them.
    command.env_clear().current_dir(folder).arg("serve").arg(at("config.yml")).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("the log")).stderr(log);
    let mut child = command.spawn().expect("docker-registry starts");
    let begun = Instant::now();
    while !answers(port) {
        if child.try_wait().expect("look at docker-registry").is_some() {
            return Err(());
        }
        if begun.elapsed() > LONG {
            let _ = child.kill();
            let _ = child.wait();
            panic!("docker-registry does not answer:\n{}", said(folder));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains(" 200 ") && text.contains("Docker-Distribution-Api-Version"))
}

/// A proxy before a registry, which logs each request before it passes it on, and delays some while it is closed.
pub(crate) struct Tap {
    port: u16,
    inner: Arc<Inner>,
    accepting: Option<thread::JoinHandle<()>>,
}

struct Inner {
    to: u16,
    asked: Mutex<Vec<String>>,
    // Requests with this text are delayed.
    closed: Mutex<Option<String>>,
    opened: Condvar,
    over: AtomicBool,
}

impl Tap {
    /// A proxy for this registry, open.
    pub(crate) fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let inner = Arc::new(Inner {
            to: registry.port,
            asked: Mutex::default(),
            closed: Mutex::default(),
            opened: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let ours = inner.clone();
        let accept = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ours.over.load(Ordering::Relaxed) {
                    return;
                }
                let inner = ours.clone();
                thread::spawn(move || inner.pass(stream));
            }
        };
        Self { port, inner, accepting: Some(thread::spawn(accept)) }
    }

    /// smidr's reference of an image behind it.
    pub(crate) fn at(&self, image: &str) -> String {
        format!("docker://127.0.0.1:{}/{image}", self.port)
    }

    /// The requests since the last call, such as `HEAD /v2/hello/manifests/1`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.inner.asked))
    }

    /// As [`Tap::asked`], without resetting it.
    pub(crate) fn seen(&self) -> Vec<String> {
        locked(&self.inner.asked).clone()
    }

    /// Delays requests for blobs.
    pub(crate) fn close(&self) {
        self.close_for("/blobs/");
    }

    /// Delays requests with this text.
    pub(crate) fn close_for(&self, part: &str) {
        *locked(&self.inner.closed) = Some(part.into());
    }

    /// Lets them go.
    pub(crate) fn open(&self) {
        *locked(&self.inner.closed) = None;
        self.inner.opened.notify_all();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.inner.over.store(true, Ordering::Relaxed);
        self.open();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.accepting.take().map(thread::JoinHandle::join);
    }
}

impl Inner {
    fn pass(&self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", self.to)) else { return };
        let (Ok(mut answers), Ok(mut back)) = (server.try_clone(), client.try_clone()) else { return };
        let answering = thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut back);
            let _ = back.shutdown(Shutdown::Both);
        });
        let (mut bytes, mut buffer, mut body) = (Vec::new(), [0; 4096], 0);
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
            while let Some(end) = part(&bytes, body) {
                let next: Vec<u8> = bytes.drain(..end).collect();
                if body == 0 {
                    self.note(&next);
                    body = length(&next);
                } else {
                    body -= end;
                }
                if server.write_all(&next).is_err() {
                    break;
                }
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = answering.join();
    }

    fn note(&self, request: &[u8]) {
        let text = String::from_utf8_lossy(request);
        let line = text.lines().next().unwrap_or_default();
        let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned();
        locked(&self.asked).push(line.clone());
        let held = |closed: &mut Option<String>| closed.as_ref().is_some_and(|part| line.contains(part.as_str()));
        drop(self.opened.wait_while(locked(&self.closed), held));
    }
}

// Where what can be passed on ends: some of the body that is on its way, or the head of a request.
fn part(bytes: &[u8], body: usize) -> Option<usize> {
    match body {
        0 => bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4),
        body => (!bytes.is_empty()).then_some(bytes.len().min(body)),
    }
}

fn length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.map_or(0, |text| text.trim().parse().expect("a number"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
