//! Who may do what: customers, scopes, tokens in every state, certificates, and ways in without any of it.

use std::fs;

use prost::Message as _;
use tonic::Code;

use super::{
    daemon_fixture::{Caller, Served, wire},
    support::{LONG, wait_for},
};

/// What each call says, of a build.
fn of(id: &str) -> Vec<u8> {
    wire::OfBuild { id: id.into(), follow: false }.encode_to_vec()
}

/// The calls that name a build, and the scope that they need.
const OF_BUILDS: [(&str, &str); 10] = [
    ("GetBuild", "read"),
    ("GetBuildStatus", "read"),
    ("StreamLogs", "read"),
    ("WatchBuild", "read"),
    ("ListArtifacts", "read"),
    ("ExplainBuild", "read"),
    ("DownloadArtifact", "read"),
    ("DownloadBuild", "read"),
    ("CancelBuild", "cancel"),
    ("DeleteBuild", "cancel"),
];

/// Calls whose answer is of all builds.
const OF_ALL: [&str; 5] = ["ListBuilds", "GetQueue", "PurgeBuilds", "GetServerInfo", "WhoAmI"];

/// How a call ended: its code, and all its text without what protobuf puts between it.
fn ended(caller: &Caller, method: &str, message: Vec<u8>) -> (Code, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(|c: char| c.is_ascii_control(), " ");
    match caller.bytes(method, message) {
        Ok(answers) => (Code::Ok, answers.iter().map(|one| text(one)).collect()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

#[test]
fn a_customer_learns_nothing_of_another() {
    let served = Served::paused();
    let token = served.token("acme-ci", &["--scope", "read,submit,cancel", "--customer", "acme"]);
    let refused =
        served.smidr().args(["daemon", "token", "create", "x", "--scope", "admin", "--customer", "acme"]).run();
    refused.expect_code(2).expect_err("admin is for all customers");
    // Same project, same workspace: what waits for the other must not be named.
    let theirs: Vec<String> = (0..2).map(|_| served.started(&["--customer", "zeta", "--label", "zeta=1"])).collect();
    let nobodys = served.started(&[]);
    let own = served.started(&["--customer", "acme"]);
    {
        let caller = served.caller_with(&token);
        for id in theirs.iter().chain([&nobodys]) {
            // Cut, too: as an id that is none.
            for text in [id.as_str(), &id[..id.len() - 3], &id[id.len() - 8..]] {
                for (method, _) in OF_BUILDS {
                    let found = ended(&caller, method, of(text));
                    let unknown = ended(&caller, method, of("zeta-ffffffff"));
                    assert!(matches!(found.0, Code::NotFound), "{method}: {found:?}");
                    let same = unknown.1.replace("zeta-ffffffff", "ID");
                    assert_eq!(found.1.replace(text, "ID"), same, "{method} tells that it exists");
                }
            }
        }
        for method in OF_ALL {
            let (code, text) = ended(&caller, method, Vec::new());
            assert!(matches!(code, Code::Ok | Code::InvalidArgument), "{method}: {text}");
            for secret in theirs.iter().chain([&nobodys]).map(String::as_str).chain(["zeta"]) {
                assert!(!text.contains(secret), "{method} tells {secret}: {text}");
            }
        }
        let queue: wire::Queue = caller.call("GetQueue", &wire::Anything {}).expect("a queue");
        let seen: Vec<&str> = queue.waiting.iter().map(|one| one.build_id.as_str()).collect();
        assert_eq!(seen, [own.as_str()]);
        let started = wire::Start { config: "name: p\n".into(), customer: "zeta".into(), ..wire::Start::default() };
        let refused = caller.call::<wire::Started>("StartBuild", &started).expect_err("another customer's");
        assert_eq!(refused.code(), Code::PermissionDenied);
        let list = served.client_with(&token, &["list", "--json"]).run().json();
        assert_eq!(list["builds"].as_array().expect("a list").len(), 1);
        let other = served.client_with(&token, &["list", "--json", "--customer", "zeta"]).run();
        assert_eq!(other.expect_code(0).json()["builds"], serde_json::json!([]));
    }
    // The own one is there, whole and cut.
    served.client_with(&token, &["status", &own]).run().expect_code(0).expect_out("QUEUED");
    served.client_with(&token, &["cancel", &own]).run().expect_code(0).expect_err("CANCELLED");
    assert_eq!(served.waiting().len(), 3, "the others' wait");
}

#[test]
fn a_scope_that_is_missing_is_named() {
    let served = Served::paused();
    let id = served.started(&["--customer", "acme"]);
    let scopes = ["read", "submit", "cancel"];
    let callers = scopes.map(|scope| (scope, served.caller_with(&served.token(scope, &["--scope", scope]))));
    for (own, caller) in &callers {
        for (method, needed) in OF_BUILDS.into_iter().filter(|(_, needed)| needed != own) {
            let (code, text) = ended(caller, method, of(&id));
            let is_refused = code == Code::PermissionDenied && text.contains(&format!("`{needed}`"));
            assert!(is_refused || code == Code::Unimplemented, "{method} with {own}: {code:?} {text}");
        }
        if *own != "submit" {
            let started = wire::Start { config: "name: p\n".into(), ..wire::Start::default() };
            let (code, text) = ended(caller, "StartBuild", started.encode_to_vec());
            assert!(code == Code::PermissionDenied && text.contains("`submit`"), "{own}: {text}");
        }
        for method in ["PauseQueue", "ResumeQueue"] {
            assert_eq!(ended(caller, method, Vec::new()).0, Code::PermissionDenied, "{method} with {own}");
        }
    }
    // Not even a token of all scopes makes tokens, stops the daemon, or names a folder of its machine.
    let admin = served.caller_with(&served.token("admin", &["--scope", "admin"]));
    for method in ["CreateToken", "ListTokens", "DeleteToken", "StopDaemon"] {
        assert_eq!(ended(&admin, method, Vec::new()).0, Code::PermissionDenied, "{method}");
    }
    let folder = wire::Local { config: Some(wire::Path { text: "/etc/smidr.yaml".into() }) };
    let started = wire::Start { config: "name: p\n".into(), local: Some(folder), ..wire::Start::default() };
    assert_eq!(ended(&admin, "StartBuild", started.encode_to_vec()).0, Code::PermissionDenied);
    assert_eq!(ended(&admin, "PauseQueue", Vec::new()).0, Code::Ok);
    assert_eq!(served.waiting(), [id]);
    served.expect_alive();
}

#[test]
fn tokens_that_are_not_good_are_refused() {
    let served = Served::paused();
    let good = served.token("ci", &["--scope", "read"]);
    let text = fs::read_to_string(&good).expect("a token").trim().to_owned();
    served.client_with(&good, &["whoami"]).run().expect_code(0).expect_out("ci (token)").expect_out("read");
    let short = served.token_for("short", 1);
    let another = Served::paused();
    let foreign = another.token("ci", &["--scope", "read"]);
    let revoked = served.token("revoked", &["--scope", "read"]);
    served.daemon(&["token", "rm", "revoked"]).expect_code(0);
    let file = |name: &str, text: &str| served.token_file(name, text);
    wait_for("the token to expire", LONG, || served.client_with(&short, &["whoami"]).run().code != Some(0));
    let bad = [
        short,
        foreign,
        revoked,
        file("cut", &text[..text.len() - 1]),
        file("longer", &format!("{text}0")),
        file("prefix", "smidr_"),
        file("word", "x"),
        file("large", &text.to_uppercase()),
    ];
    for token in &bad {
        let done = served.client_with(token, &["whoami"]).run();
        done.expect_code(2).expect_one_error().expect_err("the token is not known, has expired or was revoked");
        for method in OF_ALL.into_iter().chain(OF_BUILDS.map(|(method, _)| method)).chain(["StartBuild", "StopDaemon"])
        {
            let (code, _) = ended(&served.caller_with(token), method, Vec::new());
            assert_eq!(code, Code::Unauthenticated, "{method} with {}", token.display());
        }
    }
    served.over_tls(&["whoami"]).run().expect_code(2).expect_err("show a token");
    served.client_with(&file("empty", ""), &["whoami"]).run().expect_code(2).expect_one_error();
    served.client_with(&file("lines", "smidr_1\nsmidr_2"), &["whoami"]).run().expect_code(2).expect_one_error();
    // The pin of another daemon; none.
    let other = another.greeting();
    let pin = other.split("--pin ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a pin");
    let at = ["--address", served.address()];
    let wrong = served.client(&["whoami", "--pin", pin]).args(at).arg("--token-file").arg(&good).run();
    wrong.expect_code(4).expect_one_error().expect_err("has the pin");
    served.client(&["whoami"]).args(at).arg("--token-file").arg(&good).run().expect_code(4).expect_one_error();
    // None of it is in the ledger as it was shown.
    let ledger = ["daemon.db", "daemon.db-wal"].map(|name| fs::read(served.smidr.join("daemon").join(name)));
    for bytes in ledger.into_iter().flatten() {
        assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "the token stands in the ledger");
    }
    served.daemon(&["token", "create", "ci", "--scope", "read"]).expect_code(2).expect_err("already");
    served.daemon(&["token", "rm", "nothing"]).expect_code(2).expect_err("there is no token");
}

#[test]
fn the_streams_of_a_token_end_with_it() {
    let served = Served::paused();
    let id = served.started(&["--customer", "acme"]);
    served.token("revoked", &["--scope", "read"]);
    let revoked = served.home.join("revoked");
    let stays = served.token("stays", &["--scope", "read"]);
    let stream = |token: &std::path::Path, method: &str| {
        let caller = served.caller_with(token);
        let opened = caller.open(method, vec![wire::OfBuild { id: id.clone(), follow: true }.encode_to_vec().into()]);
        let reading = caller.runtime().spawn(async move {
            let mut stream = opened.await?;
            while stream.message().await?.is_some() {}
            Ok::<_, tonic::Status>(())
        });
        (caller, reading)
    };
    let begun = std::time::Instant::now();
    let expiring = served.token_for("expiring", 2);
    let [expires, revoke, stay] =
        [&expiring, &revoked, &stays].map(|token| ["WatchBuild", "StreamLogs"].map(|method| stream(token, method)));
    served.daemon(&["token", "rm", "revoked"]).expect_code(0);
    for (caller, reading) in revoke.into_iter().chain(expires) {
        wait_for("the stream of a token to end with it", LONG, || reading.is_finished());
        let ended = caller.runtime().block_on(reading).expect("no panic").expect_err("the build goes on");
        assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
    }
    assert!(begun.elapsed().as_secs() >= 2, "not before");
    assert!(stay.iter().all(|(_, reading)| !reading.is_finished()), "those of other tokens go on");
    served.client(&["cancel", &id]).run().expect_code(0);
    for (_, reading) in &stay {
        wait_for("the stream of a build that is over to end", LONG, || reading.is_finished());
    }
}

#[test]
fn client_certificates_count_by_their_subject() {
    let served = Served::paused();
    let folder = served.home.clone();
    let make = |subject: &str| {
        served.daemon(&["certificate", subject, "--out", folder.to_str().expect("text")]).expect_code(0);
    };
    make("robot");
    make("stranger");
    let another = Served::paused();
    another.daemon(&["certificate", "robot", "--out", another.home.to_str().expect("text")]).expect_code(0);
    let yaml = "certificates: [{subject: robot, customer: acme, scopes: [read, cancel]}]\n";
    fs::write(served.smidr.join("daemon.yaml"), yaml).expect("write daemon.yaml");
    served.daemon(&["check"]).expect_code(0);
    let (own, theirs) = (served.started(&["--customer", "acme"]), served.started(&["--customer", "zeta"]));
    served.kill();
    served.begin();
    let shows = |folder: &std::path::Path, subject: &str, args: &[&str]| {
        let (certificate, key) = (folder.join(format!("{subject}.pem")), folder.join(format!("{subject}.key")));
        served.over_tls(args).arg("--certificate").arg(certificate).arg("--key").arg(key).run()
    };
    shows(&folder, "robot", &["whoami"]).expect_code(0).expect_out("robot (certificate)").expect_out("for acme");
    shows(&folder, "robot", &["status", &own]).expect_code(0).expect_out("QUEUED");
    shows(&folder, "robot", &["status", &theirs]).expect_code(2).expect_err("there is no build");
    shows(&folder, "robot", &["cancel", &own]).expect_code(0).expect_err("CANCELLED");
    shows(&folder, "stranger", &["whoami"]).expect_code(2).expect_err("is not in daemon.yaml");
    // Of another daemon's authority: the handshake fails.
    shows(&another.home, "robot", &["whoami"]).expect_code(4).expect_one_error();
    served.expect_alive();
}

#[test]
fn a_login_is_kept_once_it_is_good() {
    let served = Served::paused();
    let id = served.started(&["--customer", "acme"]);
    let token = served.token("ci", &["--scope", "read,cancel"]);
    let pin =
        served.greeting().split("--pin ").nth(1).and_then(|rest| rest.split_whitespace().next()).map(String::from);
    let pin = pin.expect("a pin");
    let elsewhere = super::support::World::new();
    let bad = elsewhere.home.join("bad");
    fs::write(&bad, "smidr_x").expect("write a token");
    let login = |file: &std::path::Path| {
        elsewhere.smidr().args(["client", "login", served.address(), "--pin", &pin, "--token-file"]).arg(file).run()
    };
    login(&bad).expect_code(2).expect_one_error();
    elsewhere.smidr().args(["client", "list"]).run().expect_code(2).expect_err("no daemon runs");
    login(&token).expect_code(0).expect_err("ci (token)");
    elsewhere.smidr().args(["client", "list"]).run().expect_code(0).expect_out(&format!("Build ID: {id}"));
    let mode = fs::metadata(elsewhere.smidr.join("client.json")).expect("the login").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    elsewhere.smidr().args(["client", "cancel", &id]).run().expect_code(0).expect_err("CANCELLED");
    elsewhere.smidr().args(["client", "logout"]).run().expect_code(0);
    elsewhere.smidr().args(["client", "list"]).run().expect_code(2);
}

#[test]
fn without_tls_it_is_for_loopback_and_wants_a_token() {
    let world = super::support::World::new();
    for address in [":0", "0.0.0.0:0", "[::]:0"] {
        let done = world.smidr().args(["daemon", "--insecure", "--address", address]).run();
        done.expect_code(2).expect_one_error().expect_err("--insecure is for an address of loopback");
    }
    for address in ["nonsense", ":x", "1.2.3.4", "127.0.0.1:99999"] {
        world.smidr().args(["daemon", "--address", address]).run().expect_code(2).expect_one_error();
    }
    let mut daemon = world.smidr().args(["daemon", "--insecure", "--address", "127.0.0.1:0"]).start();
    daemon.until_says("tokens:");
    let said = daemon.out();
    let line = said.lines().find(|line| line.contains("tcp")).expect("a line of TCP");
    let address = line.split_whitespace().nth(3).expect("an address");
    assert!(line.ends_with("no TLS, token"), "{line}");
    let client = |args: &[&str]| world.smidr().args(["client", "--address", address]).args(args).run();
    client(&["--insecure", "whoami"]).expect_code(2).expect_one_error().expect_err("show a token");
    let made = world.smidr().args(["daemon", "token", "create", "ci", "--scope", "read"]).run();
    let file = world.home.join("token");
    fs::write(&file, &made.expect_code(0).out).expect("write the token");
    let token = ["--token-file", file.to_str().expect("text")];
    client(&[&["--insecure", "whoami"], &token[..]].concat()).expect_code(0).expect_out("ci (token)");
    let far = ["client", "--insecure", "--address", "192.0.2.1:9", "whoami"];
    world.smidr().args(far).args(token).run().expect_code(2).expect_err("on loopback only");
    // One that expects TLS does not send its token.
    client(&[&["whoami", "--pin", &format!("sha256:{}", "0".repeat(64))], &token[..]].concat())
        .expect_code(4)
        .expect_one_error();
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.wait().expect_code(0);
}
