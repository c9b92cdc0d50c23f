//! The daemon in operation: it is replaced, told to read its config again, started by systemd, asked how it is, and ended.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::support::{LONG, Smidr, World, has, skip, smidr_bin, wait_for};

/// A daemon in the background of a world; ended with it.
struct Daemon {
    world: World,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.smidr(&["daemon", "stop", "--cancel"]).run();
    }
}

impl Daemon {
    fn start(world: World, args: &[&str]) -> Self {
        let daemon = Self { world };
        daemon.begin(args);
        daemon
    }

    fn smidr(&self, args: &[&str]) -> Smidr {
        self.world.smidr().args(args)
    }

    fn begin(&self, args: &[&str]) {
        self.smidr(&["daemon", "--background"]).args(args).run().expect_code(0);
    }

    fn status(&self) -> Value {
        let done = self.smidr(&["daemon", "status", "--json"]).run();
        done.expect_code(0).json()
    }

    fn pid(&self) -> Pid {
        let pid = self.status()["pid"].as_i64().expect("a process");
        Pid::from_raw(i32::try_from(pid).expect("a process"))
    }

    /// Its first address of TCP.
    fn tcp(&self) -> String {
        self.status()["addresses"][1].as_str().expect("an address").into()
    }

    fn token(&self, args: &[&str]) -> String {
        let done = self.smidr(&["daemon", "token", "create"]).args(args).run();
        done.expect_code(0).out.trim().into()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.world.smidr.join("daemon/daemon.log")).expect("a log")
    }

    fn config(&self, text: &str) {
        fs::write(self.world.smidr.join("daemon.yaml"), text).expect("written");
    }
}

/// Status and body of an answer over HTTP, on a connection of its own.
fn get(address: &str, path: &str, token: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).unwrap_or_default().into();
    Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.into()).unwrap_or_default()))
}

/// Calls a method on one connection, again and again, until `over`. Gives how often.
fn call_until(address: &str, token: &str, over: &AtomicBool) -> u32 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let mut caller = tonic::client::Grpc::new(channel.connect().await.expect("a connection"));
        let mut calls = 0;
        while calls < 200 || !over.load(Ordering::Relaxed) {
            let mut request = tonic::Request::new(());
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("text"));
            caller.ready().await.expect("ready");
            let path = "/smidr.v1.Smidr/WhoAmI".parse().expect("a path");
            let answer: Result<tonic::Response<()>, _> =
                caller.unary(request, path, tonic_prost::ProstCodec::<(), ()>::default()).await;
            answer.unwrap_or_else(|status| panic!("call {calls}: {status:?}"));
            calls += 1;
        }
        calls
    })
}

#[test]
fn a_replacement_fails_no_call() {
    let Some(world) = World::with_project("daemon_ops::a_replacement_fails_no_call") else { return };
    let args = ["--address", "127.0.0.1:0", "--insecure"];
    let daemon = Daemon::start(world, &args);
    daemon.config("limits: {requests_per_second: 1000000}\n");
    daemon.smidr(&["daemon", "reload"]).run().expect_code(0);
    let (address, token) = (daemon.tcp(), daemon.token(&["t", "--scope", "read"]));
    let mut follower = daemon.smidr(&["client", "start", "--wait", "--follow", "--events", "json"]).start();
    follower.until_says("Build ID: ");
    let (over, gets, first) = (AtomicBool::new(false), AtomicU32::new(0), daemon.pid());
    thread::scope(|scope| {
        let calls = scope.spawn(|| call_until(&address, &token, &over));
        scope.spawn(|| {
            while gets.load(Ordering::Relaxed) < 200 || !over.load(Ordering::Relaxed) {
                let (status, _) = get(&address, "/healthz", "").expect("an answer");
                assert_eq!(status, "200");
                gets.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 1..=3 {
            wait_for("calls", LONG, || gets.load(Ordering::Relaxed) > 50 * round);
            daemon.begin(&["--replace", args[0], args[1], args[2]]);
        }
        over.store(true, Ordering::Relaxed);
        assert!(calls.join().expect("no call fails") >= 200);
    });
    assert_ne!(daemon.pid(), first);
    assert_eq!(daemon.tcp(), address);
    let done = follower.wait();
    done.expect_code(0);
    let seqs: Vec<u64> =
        done.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["seq"].as_u64()).collect();
    assert!(seqs.len() > 10, "{}", done.out);
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "{}", done.out);
}

#[test]
fn the_new_daemon_listens_where_it_is_told_to() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let daemon = Daemon::start(World::new(), &["--address", "127.0.0.1:0", "--insecure"]);
    let old = daemon.tcp();
    let second = daemon.smidr(&["daemon", "--background"]).run();
    second.expect_code(2).expect_err("a daemon runs already").expect_err("smidr daemon --replace");
    daemon.begin(&["--replace", "--address", &free, "--insecure"]);
    assert_eq!(daemon.tcp(), free);
    assert!(TcpStream::connect(&old).is_err(), "{old} is closed");
    assert_eq!(get(&free, "/healthz", "").expect("an answer").0, "200");
    // A bad config is found while the old one still serves.
    let before = daemon.pid();
    daemon.config("queue: {builds: none}\n");
    daemon.smidr(&["daemon", "--replace", "--background"]).run().expect_code(2).expect_err("queue.builds");
    assert_eq!(daemon.pid(), before);
    fs::remove_file(daemon.world.smidr.join("daemon.yaml")).expect("removed");
    // Without one that runs, it starts.
    daemon.smidr(&["daemon", "stop"]).run().expect_code(0);
    daemon.begin(&["--replace"]);
}

#[test]
fn the_new_daemon_goes_on_where_the_old_one_listens() {
    let daemon = Daemon::start(World::new(), &["--address", "127.0.0.1:0", "--insecure"]);
    let addresses = || daemon.status()["addresses"].clone();
    let before = addresses();
    for _ in 0..2 {
        daemon.begin(&["--replace"]);
        assert_eq!(addresses(), before);
        assert_eq!(get(&daemon.tcp(), "/healthz", "").expect("an answer").0, "200");
        assert!(daemon.status()["pin"].is_null());
    }
    daemon.begin(&["--replace", "--address", "127.0.0.1:0", "--address", "127.0.0.1:0"]);
    let (before, pin) = (addresses(), daemon.status()["pin"].clone());
    assert_eq!(before.as_array().expect("a list").len(), 3);
    daemon.begin(&["--replace"]);
    assert_eq!((addresses(), daemon.status()["pin"].clone()), (before, pin.clone()));
    assert!(!get(&daemon.tcp(), "/healthz", "").is_ok_and(|(status, _)| status == "200"), "it has TLS");
    let join = format!("smidr client login HOST:{} --pin {}", port(&daemon.tcp()), pin.as_str().expect("a pin"));
    daemon.smidr(&["daemon", "status"]).run().expect_code(0).expect_out(&join);
    // What daemon.yaml says is read again, where the command line said nothing.
    daemon.smidr(&["daemon", "stop"]).run().expect_code(0);
    for _ in 0..2 {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
        daemon.config(&format!("address: {free}\n"));
        daemon.begin(&["--replace"]);
        assert_eq!((daemon.tcp(), addresses().as_array().expect("a list").len()), (free, 2));
    }
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().expect("a port")
}

#[test]
fn a_replacement_that_cannot_serve_leaves_the_old_daemon() {
    let daemon = Daemon::start(World::new(), &["--address", "127.0.0.1:0"]);
    let (pid, address) = (daemon.pid(), daemon.tcp());
    let refused = |args: &[&str], message: &str| {
        let done = daemon.smidr(&["daemon", "--background", "--replace"]).args(args).run();
        done.expect_code(2).expect_err(message);
        assert!(!done.err.contains("ca.*"), "{}", done.err);
        assert_eq!((daemon.pid(), daemon.tcp()), (pid, address.clone()));
    };
    refused(&["--insecure", "--address", &format!("0.0.0.0:{}", port(&address))], "is for an address of loopback");
    refused(&["--address", "nonsense"], "is not an address");
    let at = |name: &str| daemon.world.work.join(name).display().to_string();
    for (name, text) in
        [("words", "no certificate\n"), ("damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
    {
        fs::write(at(name), text).expect("written");
    }
    daemon.smidr(&["daemon", "certificate", "x", "--out", &at("")]).run().expect_code(0).expect_err("customer: ");
    let own = daemon.world.smidr.join("daemon");
    for (tls, message) in [
        (format!("client_ca: {}", at("words")), "words is no certificate in PEM form"),
        (format!("client_ca: {}", at("damaged")), "damaged is not that of an authority"),
        (format!("certificate: {0}, key: {0}", at("words")), "words is no certificate in PEM form"),
        (format!("certificate: {0}, key: {0}", at("x.pem")), "x.pem is no key in PEM form"),
        (
            format!("certificate: {0}/ca.pem, key: {1}", own.display(), at("x.key")),
            "x.key is not that of the certificate",
        ),
    ] {
        daemon.config(&format!("tls: {{{tls}}}\n"));
        refused(&[], message);
        daemon.smidr(&["daemon", "check"]).run().expect_code(2).expect_err(message);
    }
    daemon.config(&format!("tls: {{client_ca: {}}}\n", at("none")));
    for args in [&["daemon", "check"][..], &["daemon", "--replace", "--background"]] {
        daemon.smidr(args).run().expect_code(3).expect_err("cannot read").expect_err("none");
    }
    assert_eq!(daemon.pid(), pid);
    // A certificate of another authority is not pinned.
    daemon.config(&format!("tls: {{certificate: {}, key: {}}}\n", at("x.pem"), at("x.key")));
    daemon.smidr(&["daemon", "check"]).run().expect_code(0).expect_err("is good");
    daemon.begin(&["--replace"]);
    assert_eq!((daemon.tcp(), daemon.status()["pin"].clone()), (address.clone(), Value::Null));
}

#[test]
fn curl_takes_the_certificate_by_its_authority() {
    let test = "daemon_ops::curl_takes_the_certificate_by_its_authority";
    if !has("curl") {
        return skip(test, "curl is not installed");
    }
    let daemon = Daemon::start(World::new(), &[]);
    daemon.config("tls: {names: [builds.example]}\n");
    daemon.begin(&["--replace", "--address", "127.0.0.1:0"]);
    let (port, ca) = (port(&daemon.tcp()).to_owned(), daemon.world.work.join("ca.pem"));
    fs::write(&ca, &daemon.smidr(&["daemon", "ca"]).run().expect_code(0).out).expect("written");
    let curl = |host: &str| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--noproxy", "*", "--cacert"]).arg(&ca);
        command.args(["--resolve", &format!("{host}:{port}:127.0.0.1"), &format!("https://{host}:{port}/healthz")]);
        let output = command.output().expect("curl");
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for host in ["127.0.0.1", "localhost", "builds.example"] {
        assert_eq!(curl(host), ("ok\n".into(), String::new()), "{host}");
    }
    assert_eq!(curl("other.example").0, "");
    // Another name: another certificate, the same pin.
    let pin = daemon.status()["pin"].clone();
    daemon.config("tls: {names: [other.example]}\n");
    daemon.begin(&["--replace"]);
    assert_eq!(curl("other.example").0, "ok\n");
    assert_eq!(daemon.status()["pin"], pin);
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn one_that_does_not_answer_is_left_alone() {
    let daemon = Daemon::start(World::new(), &[]);
    let pid = daemon.pid();
    kill(pid, Signal::SIGSTOP).expect("stopped");
    let done = daemon.smidr(&["daemon", "--replace", "--background"]).run();
    kill(pid, Signal::SIGCONT).expect("goes on");
    done.expect_code(3).expect_err("does not hand over its sockets").expect_err("smidr daemon stop");
    assert_eq!(daemon.pid(), pid);
}

#[test]
fn stop_returns_when_the_daemon_is_gone() {
    let daemon = Daemon::start(World::new(), &[]);
    for _ in 0..5 {
        let pid = daemon.pid();
        daemon.smidr(&["daemon", "stop"]).run().expect_code(0).expect_err("has ended");
        daemon.begin(&[]);
        assert_ne!(daemon.pid(), pid);
    }
    kill(daemon.pid(), Signal::SIGTERM).expect("a signal");
    wait_for("its end", LONG, || daemon.smidr(&["daemon", "status"]).run().code != Some(0));
    assert!(!daemon.world.smidr.join("daemon/daemon.sock").exists());
    assert!(daemon.log().contains(r#""message":"stopped","how":"Leave""#), "{}", daemon.log());
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn builds_outlive_their_daemon() {
    let Some(world) = World::with_project("daemon_ops::builds_outlive_their_daemon") else { return };
    let daemon = Daemon::start(world, &[]);
    let start = || daemon.smidr(&["client", "start", "--json"]).run().expect_code(0).json();
    let id = |started: &Value| started["build"].as_str().expect("an id").to_owned();
    let state = |id: &str| daemon.smidr(&["status", id, "--json"]).run().expect_code(0).json();
    let (first, second) = (id(&start()), id(&start()));
    let queue = || daemon.smidr(&["client", "queue", "--json"]).run().json();
    wait_for("a build that runs", LONG, || queue()["running"].as_array().is_some_and(|all| all.len() == 1));
    // A follower does not hold it up.
    let follower = daemon.smidr(&["client", "logs", &first, "--follow"]).start();
    wait_for("a line", LONG, || !follower.out().is_empty());
    daemon.smidr(&["daemon", "stop"]).run().expect_code(0).expect_err("1 builds go on").expect_err("1 builds wait");
    daemon.begin(&[]);
    follower.wait().expect_code(0);
    // One workspace: the second one waits for the first, and with a drain for the next daemon.
    daemon.smidr(&["daemon", "stop", "--drain"]).run().expect_code(0);
    daemon.begin(&[]);
    wait_for("both builds", LONG, || {
        [&first, &second].iter().all(|id| state(id).to_string().to_lowercase().contains("completed"))
    });
}

#[test]
fn an_administrator_may_be_the_first_in_a_home() {
    let world = World::new();
    fs::create_dir_all(&world.smidr).expect("a folder");
    fs::write(world.smidr.join("daemon.yaml"), "queue: {builds: 7}\n").expect("written");
    assert_eq!(Daemon::start(world, &[]).status()["max_builds"], 7);
    // Also systemd makes this folder, for its socket.
    let world = World::new();
    fs::create_dir_all(world.smidr.join("daemon")).expect("a folder");
    assert!(Daemon::start(world, &[]).status()["pid"].is_u64());
}

#[test]
fn a_config_is_read_again() {
    let daemon = Daemon::start(World::new(), &[]);
    let pid = daemon.pid();
    let most = || daemon.status()["max_builds"].clone();
    daemon.config("queue: {builds: 7}\n");
    daemon.smidr(&["daemon", "reload"]).run().expect_code(0).expect_err("counts now");
    assert_eq!(most(), 7);
    daemon.config("queue: {builds: 0}\nqueues: 1\n");
    let done = daemon.smidr(&["daemon", "reload"]).run();
    done.expect_code(2).expect_err("daemon.yaml:1:").expect_err("^").expect_err("unknown key `queues`");
    done.expect_err("the daemon goes on with what it read before");
    kill(pid, Signal::SIGHUP).expect("a signal");
    let refused = || daemon.log().matches("is refused, and the old one stays").count();
    wait_for("two refusals", LONG, || refused() == 2);
    assert_eq!(most(), 7);
    daemon.config("queue: {builds: 3}\naddress: ':1'\n");
    kill(pid, Signal::SIGHUP).expect("a signal");
    wait_for("the new one", LONG, || most() == 3);
    assert_eq!(daemon.pid(), pid);
    wait_for("a word", LONG, || daemon.log().contains(r#""keys":"address""#));
    let done = daemon.smidr(&["daemon", "reload"]).run();
    done.expect_code(0);
}

#[test]
fn machines_are_told_how_it_is() {
    let daemon = Daemon::start(World::new(), &["--address", "127.0.0.1:0", "--insecure"]);
    let (address, all) = (daemon.tcp(), daemon.token(&["all", "--scope", "read"]));
    let one = daemon.token(&["one", "--scope", "read", "--customer", "acme"]);
    let submit = daemon.token(&["submit", "--scope", "submit"]);
    let status = |path, token: &str| get(&address, path, token).expect("an answer").0;
    assert_eq!(["/healthz", "/readyz"].map(|path| status(path, "")), ["200", "200"]);
    assert_eq!([&all, &one, &submit, "wrong"].map(|token| status("/metrics", token)), ["200", "403", "403", "401"]);
    let (_, text) = get(&address, "/metrics", &all).expect("an answer");
    for line in [
        r#"smidr_rpcs_total{method="CreateToken",code="ok"} 3"#,
        r#"smidr_rpcs_total{method="http",code="permission_denied"} 2"#,
        "smidr_builds_waiting 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let is_refusal = |line: &Value| line["message"] == "a call is refused" && line["status"] == "unauthenticated";
    assert!(daemon.log().lines().filter_map(|line| serde_json::from_str(line).ok()).any(|line| is_refusal(&line)));
    // A ledger that cannot be written. What was known before counts for a moment.
    let ledger = rusqlite::Connection::open(daemon.world.smidr.join("daemon/daemon.db")).expect("a ledger");
    ledger.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
    wait_for("it is not ready", LONG, || status("/readyz", "") == "503");
    ledger.execute_batch("ROLLBACK").expect("the end of it");
    wait_for("it is ready", LONG, || status("/readyz", "") == "200");
}

/// A process that is killed with this.
struct Activator(Child);

impl Drop for Activator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn systemd_starts_it_and_is_told() {
    if !has("systemd-socket-activate") {
        return skip("daemon_ops::systemd_starts_it_and_is_told", "systemd-socket-activate is not installed");
    }
    let world = World::new();
    let at = |name: &str| world.work.join(name).display().to_string();
    let told = UnixDatagram::bind(at("notify")).expect("a socket");
    told.set_read_timeout(Some(LONG)).expect("a time");
    let hear = |word: &str| {
        let mut heard = [0; 1000];
        loop {
            let length = told.recv(&mut heard).unwrap_or_else(|error| panic!("{word}: {error}"));
            if String::from_utf8_lossy(&heard[..length]).contains(word) {
                return;
            }
        }
    };
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let mut command = Command::new("systemd-socket-activate");
    world.surround(&mut command);
    command.args(["-l", &at("unix"), "-l", &port]);
    for variable in [format!("SMIDR_HOME={}", world.smidr.display()), format!("NOTIFY_SOCKET={}", at("notify"))] {
        command.args(["-E", &variable]);
    }
    for variable in ["HOME", "PATH"] {
        command.args(["-E", variable]);
    }
    let command = command.arg(smidr_bin()).arg("daemon").stdout(Stdio::null()).stderr(Stdio::null());
    let mut activator = Activator(command.spawn().expect("systemd-socket-activate"));
    wait_for("the sockets", LONG, || Path::new(&at("unix")).exists());
    // A connection begins it.
    drop(TcpStream::connect(&port));
    hear("READY=1");
    let status = || world.smidr().args(["daemon", "status", "--json"]).run();
    assert_eq!(status().json()["addresses"], serde_json::json!([format!("unix:{}", at("unix")), port]));
    let pid = i32::try_from(activator.0.id()).expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGHUP).expect("a signal");
    ["RELOADING=1", "READY=1"].iter().for_each(|word| hear(word));
    let done = world.smidr().args(["daemon", "--replace"]).run();
    done.expect_code(2).expect_err("systemd holds them").expect_err("systemctl --user restart");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a signal");
    hear("STOPPING=1");
    assert!(activator.0.wait().expect("its end").success());
    assert!(Path::new(&at("unix")).exists(), "the socket is systemd's");
}

#[test]
fn units_are_written_where_systemd_looks() {
    let world = World::new();
    let done = world.smidr().args(["daemon", "units", "--address", "50051"]).run();
    done.expect_code(0).expect_out("KillMode=process").expect_out("ListenStream=50051").expect_err("enable --now");
    world.smidr().args(["daemon", "units", "--write"]).run().expect_code(0);
    let folder = world.home.join(".config/systemd/user");
    assert_eq!(World::names(&folder), ["smidr.service", "smidr.socket"]);
}
