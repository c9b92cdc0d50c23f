//! What a daemon is told by those who mean no good, or by a damaged machine: it answers or refuses, never dies, and loses nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};

use super::{
    daemon_fixture::{Caller, Served, wire},
    daemon_fuzz::{Api, Method, Random, Say},
    support::{Done, LONG, World, skip, wait_for},
    workers::SOON,
    workers_broken::in_own_mounts,
};

/// How many generated messages each call gets; ten thousand in `scripts/test --slow`.
const MESSAGES: usize = 100;

/// How many calls are made at once.
const TOGETHER: usize = 16;

/// What the daemon may answer to nonsense: anything that says that the request is at fault, or an answer. A call that has failed, or a
/// connection that is gone, is none of it.
#[track_caller]
fn expect_answered(method: &str, said: &Bytes, answer: &Result<(), Status>) {
    let Err(status) = answer else { return };
    let of_decoding = status.code() == Code::Internal && status.message().contains("decode");
    let is_refusal =
        !matches!(status.code(), Code::Internal | Code::Unknown | Code::Unavailable | Code::Cancelled | Code::DataLoss);
    let shown = String::from_utf8_lossy(&said[..said.len().min(200)]);
    assert!(of_decoding || is_refusal, "{method}: {status:?}\nto {} bytes: {shown:?}", said.len());
}

/// Makes these calls, several at a time, and looks at each answer.
fn make(caller: &Caller, method: &Method, messages: Vec<Bytes>) {
    let mut several: Vec<Vec<_>> = (0..TOGETHER).map(|_| Vec::new()).collect();
    for (number, message) in messages.into_iter().enumerate() {
        let stream = if method.takes_many { vec![message.clone(), message.clone()] } else { vec![message.clone()] };
        several[number % TOGETHER].push((message, caller.open(&method.name, stream)));
    }
    let lines: Vec<_> = several.into_iter().map(|calls| caller.runtime().spawn(one_after_the_other(calls))).collect();
    for line in lines {
        for (message, answer) in caller.runtime().block_on(line).expect("no panic") {
            expect_answered(&method.name, &message, &answer);
        }
    }
}

type Answers = Vec<(Bytes, Result<(), Status>)>;

async fn one_after_the_other(
    calls: Vec<(Bytes, impl Future<Output = Result<tonic::Streaming<Bytes>, Status>>)>,
) -> Answers {
    let mut answers = Vec::new();
    for (message, call) in calls {
        let answer = async {
            let mut stream = call.await?;
            // One that follows the build that waits is answered for as long as it is kept.
            while let Ok(message) = tokio::time::timeout(KEPT, stream.message()).await {
                if message?.is_none() {
                    break;
                }
            }
            Ok(())
        };
        answers.push((message, answer.await));
    }
    answers
}

/// How long the next message of a stream is waited for.
const KEPT: Duration = Duration::from_secs(2);

/// A daemon with a build that is over and one that waits, and who calls what: some calls would end the game.
struct Game {
    served: Served,
    waits: String,
    owner: Caller,
    admin: Caller,
    reader: Caller,
    admin_token: PathBuf,
    reader_token: PathBuf,
}

impl Game {
    fn new() -> Self {
        let served = Served::paused();
        served.synthetic("p-00000001", 100);
        let waits = served.started(&["--customer", "zeta"]);
        let owner = served.caller();
        let (admin_token, reader_token) =
            (served.token("admin", &["--scope", "admin"]), served.token("reader", &["--scope", "read"]));
        let (admin, reader) = (served.caller_with(&admin_token), served.caller_with(&reader_token));
        Self { served, waits, owner, admin, reader, admin_token, reader_token }
    }

    fn caller(&self, method: &Method) -> &Caller {
        match method.name.as_str() {
            // Not the owner: it would be obeyed.
            "StopDaemon" => &self.admin,
            "ResumeQueue" => &self.reader,
            _ => &self.owner,
        }
    }

    /// The same, on another connection.
    fn caller_anew(&self, method: &Method) -> Caller {
        match method.name.as_str() {
            "StopDaemon" => self.served.caller_with(&self.admin_token),
            "ResumeQueue" => self.served.caller_with(&self.reader_token),
            _ => self.served.caller(),
        }
    }

    /// The daemon is the same process, answers, and has lost nothing.
    #[track_caller]
    fn expect_unharmed(&self) {
        self.served.expect_alive();
        assert_eq!(self.served.waiting(), [self.waits.as_str()]);
        self.owner.bytes("GetServerInfo", Bytes::new()).expect("on the same connection");
    }
}

#[test]
fn every_call_with_nothing_with_too_much_and_with_nonsense() {
    let (game, api) = (Game::new(), Api::read());
    assert!(api.methods.len() >= 30, "all calls of the descriptor: {}", api.methods.len());
    for method in &api.methods {
        let said = Say::ALL.map(|what| api.directed(&method.input, what));
        make(game.caller(method), method, said.into_iter().chain([Bytes::new()]).collect());
        game.owner.bytes("GetServerInfo", Bytes::new()).expect("it answers");
    }
    // An enum of a newer API is no order to stop.
    let later = game.owner.bytes("StopDaemon", vec![0x08, 0x7f]).expect_err("not known");
    assert_eq!(later.code(), Code::InvalidArgument);
    // Larger than any message.
    let large = wire::Start { config: "#".repeat(65 << 20), ..wire::Start::default() };
    let refused = game.owner.call::<wire::Started>("StartBuild", &large).expect_err("too large");
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused:?}");
    game.expect_unharmed();
}

fn fuzz(messages: usize) {
    let (game, api, mut random) = (Game::new(), Api::read(), Random::seeded());
    for method in &api.methods {
        let mut left = messages;
        while left > 0 {
            // A connection of its own: one that is idle for minutes, or on which nothing but refusals was heard for seconds, is closed, and
            // HTTP/2 ends one with a thousand streams that were reset (max_local_error_reset_streams).
            let caller = game.caller_anew(method);
            // One that makes more than 200 requests a second is asked to wait.
            wait_for("an answer", SOON, || caller.bytes("GetServerInfo", Bytes::new()).is_ok());
            let some = left.min(500);
            make(&caller, method, (0..some).map(|_| api.generated(&method.input, &mut random)).collect());
            left -= some;
        }
    }
    game.served.expect_alive();
    assert_eq!(game.served.waiting(), [game.waits.as_str()]);
}

#[test]
fn every_call_with_generated_messages() {
    fuzz(MESSAGES);
}

#[test]
#[ignore = "takes minutes: scripts/test --slow"]
fn every_call_with_ten_thousand_generated_messages() {
    fuzz(10_000);
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn configs_that_grow_are_refused() {
    let game = Game::new();
    let bomb: String =
        (1..40).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))).collect();
    let configs = [
        format!("a0: &a0 [x,x,x]\n{bomb}"),
        format!("name: &a [*a]\nbase: *a\n{}", "variants: {a: {<<: *a}}\n".repeat(100)),
        "[".repeat(100_000),
        "{a: ".repeat(50_000),
        "- ".repeat(50_000),
        format!("name: {}\n", "x".repeat(2 << 20)),
        format!("{}: 1\n", "k".repeat(1 << 20)),
        (0..200_000).map(|n| format!("k{n}: {n}\n")).collect(),
        (0..20_000).map(|n| format!("k{n}: {n}\n")).collect(),
        "name: \u{0}\n".into(),
        "%YAML 9.9\n---\n!!python/object:os.system x\n".into(),
        "name: ${A}${A}${A}\n".into(),
    ];
    for config in configs {
        let start: String = config.chars().take(60).collect();
        let sent = wire::Start { config, ..wire::Start::default() };
        let refused = game.owner.call::<wire::Started>("StartBuild", &sent).expect_err(&start);
        assert_eq!(refused.code(), Code::InvalidArgument, "{start}: {refused:?}");
        game.owner.bytes("GetServerInfo", Bytes::new()).expect("it answers");
    }
    game.expect_unharmed();
    let status = fs::read_to_string(format!("/proc/{}/status", game.served.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory").trim();
    let kib: u64 = peak.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    assert!(kib < 1 << 20, "the daemon took {kib} KiB for configs");
}

/// Reads the lines of a log to its end, each once and in order.
async fn reads_all(mut stream: tonic::Streaming<Bytes>) -> Result<u64, Status> {
    let (mut seen, mut same) = (0, 0_u64);
    while let Some(message) = stream.message().await? {
        for line in wire::Lines::decode(message).expect("lines").lines {
            // A record may have several lines, but not a whole log.
            assert!(line.seq >= seen && same < 20, "{} after {seen}", line.seq);
            same = if line.seq == seen { same + 1 } else { 0 };
            seen = line.seq;
        }
    }
    Ok(seen)
}

#[test]
fn a_client_that_stops_reading_keeps_no_other_from_it() {
    const LINES: u64 = 100_000;
    let game = Game::new();
    let id = "p-00000002";
    game.served.synthetic(id, LINES);
    let all = || wire::OfBuild { id: id.into(), follow: true }.encode_to_vec().into();
    // Each takes a message and no more.
    let lazy: Vec<_> = (0..5)
        .map(|_| {
            let caller = game.served.caller();
            let mut stream = caller.runtime().block_on(caller.open("StreamLogs", vec![all()])).expect("a stream");
            caller.runtime().block_on(stream.message()).expect("a message").expect("a message");
            (caller, stream)
        })
        .collect();
    let other = game.served.caller();
    let read = other.runtime().block_on(async { reads_all(other.open("StreamLogs", vec![all()]).await?).await });
    assert_eq!(read.expect("to the end"), LINES + 2);
    game.expect_unharmed();
    // Those that were slow have missed nothing.
    for (caller, stream) in lazy {
        assert_eq!(caller.runtime().block_on(reads_all(stream)).expect("to the end"), LINES + 2);
    }
}

#[test]
fn a_thousand_streams_on_one_connection() {
    let game = Game::new();
    let message: Bytes = wire::OfBuild { id: game.waits.clone(), follow: true }.encode_to_vec().into();
    let runtime = game.owner.runtime();
    let streams: Vec<_> = (0..1000)
        .map(|_| runtime.block_on(game.owner.open("StreamLogs", vec![message.clone()])).expect("a stream"))
        .collect();
    game.served.expect_alive();
    game.owner.bytes("GetServerInfo", Bytes::new()).expect("on the same connection");
    // They end with the build.
    game.served.client(&["cancel", &game.waits]).run().expect_code(0);
    for stream in streams {
        runtime.block_on(reads_all(stream)).expect("to the end");
    }
    game.served.expect_alive();
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_thousand_connections_without_a_handshake() {
    let name = "daemon_hostile::a_thousand_connections_without_a_handshake";
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < 4096 {
        return skip(name, "no process here may open 4096 files");
    }
    // Of the test; the daemon inherits what the caller of the tests has, and looks after itself.
    let game = Game::new();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft.max(4096), hard)
        .expect("a higher one");
    let token = game.served.token("ci", &["--scope", "read"]);
    let halves: Vec<UnixStream> = [&b""[..], b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n"]
        .iter()
        .map(|begun| {
            let mut one = UnixStream::connect(game.served.smidr.join("daemon/daemon.sock")).expect("a connection");
            one.write_all(begun).expect("written");
            one
        })
        .collect();
    let mut silent: Vec<TcpStream> = Vec::new();
    for number in 0..1000 {
        let mut one = TcpStream::connect(game.served.address()).expect("a connection");
        // Nothing; nonsense; the beginning of a handshake.
        let _ = match number % 4 {
            0 | 1 => Ok(0),
            2 => one.write(b"GET / HTTP/1.1\r\n\r\n"),
            _ => one.write(&[0x16, 3, 1, 2, 0, 1]),
        };
        silent.push(one);
    }
    let socket = game.served.smidr.join("daemon/daemon.sock");
    let local: Vec<UnixStream> = (0..200)
        .map(|number| {
            let mut one = UnixStream::connect(&socket).expect("a connection");
            let _ = if number % 2 == 0 { one.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n") } else { one.write(&[0; 64]) };
            one
        })
        .collect();
    for _ in 0..3 {
        game.served.client_with(&token, &["status", &game.waits]).run().expect_code(0).expect_out("QUEUED");
        game.expect_unharmed();
    }
    // They do not stay for ever.
    let is_gone = |stream: &TcpStream| {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        match (&*stream).read(&mut [0; 64]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };
    wait_for("silent connections to be closed", LONG, || {
        silent.retain(|one| !is_gone(one));
        silent.is_empty()
    });
    for mut half in halves {
        half.set_read_timeout(Some(LONG)).expect("a timeout");
        half.read_to_end(&mut Vec::new()).expect("closed");
    }
    drop(local);
    game.expect_unharmed();
}

/// A daemon that cannot start says one thing, and touches nothing.
#[track_caller]
fn refuses_to_start(world: &World, file: &str, code: i32, says: &str) -> Done {
    let path = world.smidr.join(file);
    let before = fs::read(&path).expect("the file");
    for args in [&["daemon"][..], &["daemon", "--background", "--address", "127.0.0.1:0"]] {
        let done = world.smidr().args(args).run();
        done.expect_code(code).expect_one_error().expect_err(says);
        assert_eq!(fs::read(&path).expect("the file"), before, "{file} was touched");
    }
    world.smidr().arg("daemon").run()
}

#[test]
fn what_a_daemon_cannot_read_keeps_it_from_starting() {
    let served = Served::paused();
    let waits = served.started(&[]);
    served.daemon(&["stop"]).expect_code(0);
    served.until_ended().expect_code(0);
    let file = |name: &str| served.smidr.join(name);
    // Each is damaged, and then as it was.
    let nonsense = b"this is no database\n".repeat(1000);
    let rows: [(&str, &[u8], i32, &str); 5] = [
        ("daemon/daemon.db", &nonsense, 3, "daemon.db"),
        ("history.db", &nonsense, 3, "the history of builds"),
        ("daemon.yaml", b"queue: {builds: many}\n", 2, "^"),
        ("daemon.yaml", b"queue: [\n", 2, "daemon.yaml"),
        ("settings.yaml", b"limits: 7\n", 2, "^"),
    ];
    for (name, bytes, code, says) in rows {
        // What stands in a log beside it would mend it.
        if name.ends_with(".db") {
            let db = rusqlite::Connection::open(file(name)).expect("a database");
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("no log");
        }
        let kept = fs::read(file(name)).ok();
        fs::write(file(name), bytes).expect("write the file");
        refuses_to_start(&served, name, code, says);
        match kept {
            Some(kept) => fs::write(file(name), kept).expect("write the file"),
            None => fs::remove_file(file(name)).expect("remove the file"),
        }
    }
    // Of a newer smidr.
    for name in ["daemon/daemon.db", "history.db"] {
        let set = |version: i64| {
            let db = rusqlite::Connection::open(file(name)).expect("a database");
            let old: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a number");
            db.pragma_update(None, "user_version", version).expect("written");
            old
        };
        let old = set(99);
        refuses_to_start(&served, name, 2, "99").expect_err("update smidr");
        set(old);
    }
    // Keys of the authority.
    let kept = fs::read(file("daemon/ca.key")).expect("a key");
    fs::write(file("daemon/ca.key"), "no key").expect("write the file");
    let done = served.smidr().args(["daemon", "--address", "127.0.0.1:0"]).run();
    done.expect_code(3).expect_one_error().expect_err("ca.key is no certificate or key").expect_err("hint:");
    fs::write(file("daemon/ca.key"), kept).expect("write the file");
    // Nothing was lost by all that.
    served.begin();
    assert_eq!(served.waiting(), [waits]);
}

#[test]
fn a_history_that_is_locked_delays_and_does_not_lose() {
    let game = Game::new();
    let db = rusqlite::Connection::open(game.served.smidr.join("history.db")).expect("the history");
    db.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
    let taken = game.served.client(&["start", "--customer", "zeta"]).start();
    let ledger = game.served.smidr.join("daemon/daemon.db");
    let count = || {
        let db = rusqlite::Connection::open(&ledger).expect("the ledger");
        db.query_row("SELECT count(*) FROM waiting", [], |row| row.get::<_, i64>(0)).expect("a number")
    };
    wait_for("the build to be taken", LONG, || count() == 2);
    // The queue needs no history; what does is answered or refused once it is free.
    assert_eq!(game.served.waiting().len(), 2);
    let asks = game.served.client(&["status", &game.waits]).start();
    db.execute_batch("COMMIT").expect("no lock");
    let id = taken.wait().expect_code(0).out.trim_end().strip_prefix("Build ID: ").expect("an id").to_owned();
    asks.wait().expect_code(0).expect_out("QUEUED");
    wait_for("the build to be in the history", LONG, || game.served.shown(&id)["state"] == "QUEUED");
    game.served.expect_alive();
}

#[test]
fn a_ledger_that_is_locked_delays_and_does_not_lose() {
    let game = Game::new();
    let db = rusqlite::Connection::open(game.served.smidr.join("daemon/daemon.db")).expect("the ledger");
    db.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let mut taken = game.served.client(&["start", "--customer", "zeta"]).start();
    game.served.client(&["status", &game.waits]).run().expect_code(0).expect_out("QUEUED");
    // Long enough for it to be refused, if it were.
    std::thread::sleep(Duration::from_secs(1));
    assert!(taken.child.try_wait().expect("it is there").is_none(), "{}", taken.err());
    db.execute_batch("COMMIT").expect("no lock");
    taken.wait().expect_code(0).expect_out("Build ID: zeta-");
    assert_eq!(game.served.waiting().len(), 2);
}

#[test]
fn a_client_that_leaves_meanwhile_gets_all_or_nothing() {
    let game = Game::new();
    let token = game.served.token("revoked", &["--scope", "read"]);
    let db = rusqlite::Connection::open(game.served.smidr.join("daemon/daemon.db")).expect("the ledger");
    db.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let config = "name: p\nbase: {machine: m}\nbuild: {image: i}\nlayers: [{name: l, git: 'https://h/l', branch: b}]\n";
    let request = wire::Start {
        config: config.into(),
        customer: "zeta".into(),
        request_id: "x".into(),
        ..wire::Start::default()
    };
    let caller = game.served.caller();
    let revoke = wire::OfBuild { id: "revoked".into(), follow: false };
    for (method, message) in [("StartBuild", request.encode_to_vec()), ("DeleteToken", revoke.encode_to_vec())] {
        let left = caller.open(method, vec![message.into()]);
        let left = caller.runtime().block_on(async { tokio::time::timeout(Duration::from_secs(2), left).await });
        left.expect_err("the ledger is locked");
    }
    db.execute_batch("COMMIT").expect("no lock");
    let again: wire::Started = caller.call("StartBuild", &request).expect("taken");
    assert!(again.repeated, "the first call did not reach the ledger");
    wait_for("the build to be in the queue", SOON, || game.served.waiting().contains(&again.build_id));
    let tokens = game.served.daemon(&["token", "ls"]);
    assert!(!tokens.expect_code(0).out.contains("revoked"), "{}", tokens.out);
    game.served.client_with(&token, &["whoami"]).run().expect_code(2);
}

#[test]
fn a_full_disk_refuses_builds_and_loses_none() {
    let name = "daemon_hostile::a_full_disk_refuses_builds_and_loses_none";
    let world = World::new();
    world.init("p");
    let script = r#"mkdir -p "$SMIDR_HOME/daemon" && mount -t tmpfs -o mode=700,size=2m none "$SMIDR_HOME/daemon" || exit 99
        set -e; cd p
        "$0" daemon --background >/dev/null; "$0" daemon pause
        before=$("$0" client start)
        dd if=/dev/zero of="$SMIDR_HOME/daemon/rest" bs=4k 2>/dev/null || true
        for try in 1 2 3; do
            "$0" client start && echo "taken, try $try" || echo "code $?"
        done
        "$0" client list; "$0" daemon token create x --scope read || echo "token $?"
        rm "$SMIDR_HOME/daemon/rest"
        "$0" client start >after; "$0" daemon stop
        "$0" daemon --background >/dev/null
        echo "before $before, after $(cat after)"; "$0" client queue; "$0" daemon stop"#;
    let Some(done) = in_own_mounts(&world, script) else {
        return skip(name, "nothing can be mounted in a namespace of its own here");
    };
    done.expect_code(0).expect_out("code ").expect_out("token ").expect_err("hint: free some space");
    // What was answered is there; what was refused is not.
    let ids: Vec<&str> =
        done.out.split("Build ID: ").skip(1).filter_map(|rest| rest.split([',', '\n']).next()).collect();
    let queue = done.out.split("\nwaiting ").nth(1).expect("the queue").to_owned();
    assert!(ids.iter().all(|id| queue.contains(id)), "{}", done.out);
    let taken = done.out.matches("taken, try").count() + 2;
    assert!(queue.trim_start().starts_with(&taken.to_string()), "{taken} were taken: {}", done.out);
}
