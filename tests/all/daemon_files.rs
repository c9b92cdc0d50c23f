//! Artifacts of a daemon's builds, over TLS and over the Unix socket, and old builds that go. The builds are journals and files made here: no BitBake.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::support::{Done, LONG, Running, World, wait_for};

/// A daemon with builds that are over.
struct Yard {
    world: World,
    running: Option<Running>,
    port: u16,
}

/// What one of the builds left behind.
#[derive(Clone, Copy)]
enum Left<'a> {
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
}

impl Yard {
    fn new() -> Self {
        let yard = Self { world: World::new(), running: None, port: 0 };
        // Makes the home.
        yard.run("history rebuild").expect_code(0);
        yard
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.world.smidr.join("builds").join(id)
    }

    /// Makes a build of a customer that ended on a day of January 2026.
    fn build(&self, id: &str, customer: Option<&str>, day: u8, left: &[Left<'_>]) {
        let name = id.rsplit_once('-').map_or(id, |(name, _)| name);
        let customer = customer.map_or(String::new(), |name| format!(r#","customer":"{name}""#));
        let mut events = vec![format!(
            r#""event":"build_started","machine":"m","name":"{name}","targets":["t"],"config":"/p/{name}.yaml"{customer}"#
        )];
        let mut size = 0;
        for one in left {
            let artifact = match one {
                Left::Link(path, to) => format!(r#"{{"path":"{path}","size":0,"link":"{to}"}}"#),
                Left::File(path, content) => {
                    let file = self.folder(id).join("artifacts").join(path);
                    fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
                    fs::write(&file, content).expect("a file");
                    size += content.len();
                    let digest = hex::encode(Sha256::digest(content));
                    format!(r#"{{"path":"{path}","size":{},"sha256":"sha256:{digest}"}}"#, content.len())
                }
            };
            events.push(format!(r#""event":"artifact_kept","artifact":{artifact}"#));
        }
        events.push(format!(
            r#""event":"finished","outcome":{{"state":"COMPLETED","bitbake_exit":0,"artifacts":{},"artifact_bytes":{size},"duration_ms":1}}"#,
            left.len()
        ));
        let line = |(at, event): (usize, &String)| {
            format!(r#"{{"build":"{id}","seq":{},"at":"2026-01-{day:02}T00:00:00Z",{event}}}{}"#, at + 1, "\n")
        };
        fs::create_dir_all(self.folder(id)).expect("a folder");
        fs::write(self.folder(id).join("events.jsonl"), events.iter().enumerate().map(line).collect::<String>())
            .expect("a journal");
    }

    fn run(&self, words: &str) -> Done {
        self.world.smidr().args(words.split(' ')).run()
    }

    /// Takes the builds up, and starts the daemon.
    fn serve(mut self) -> Self {
        self.run("history rebuild").expect_code(0);
        let mut running = self.world.smidr().args(["daemon", "--address", "127.0.0.1:0"]).start();
        running.until_says("tokens:");
        let status = self.run("daemon status --json").expect_code(0).json();
        let addresses = status["addresses"].as_array().expect("a list");
        let tcp = addresses.iter().filter_map(Value::as_str).find_map(|text| text.strip_prefix("127.0.0.1:"));
        self.port = tcp.expect("an address").parse().expect("a port");
        self.running = Some(running);
        self
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::SIGTERM);
            running.wait();
        }
    }

    fn token(&self, name: &str, more: &str) -> String {
        self.run(&format!("daemon token create {name} {more}")).expect_code(0).out.trim().to_owned()
    }

    /// What follows `smidr client` for a caller with a token.
    fn login(&self, name: &str, more: &str) -> String {
        let file = self.world.work.join(format!("{name}.token"));
        fs::write(&file, self.token(name, more)).expect("a file");
        let pin = self.run("daemon ca").out;
        let pem: String = pin.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, pem).expect("base64");
        let pin = hex::encode(Sha256::digest(der));
        format!("--address 127.0.0.1:{} --pin sha256:{pin} --token-file {}", self.port, file.display())
    }

    fn tls(&self) -> Web {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = self.run("daemon ca").out;
        let ca = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate");
        let client = Client::builder().tls_certs_only([ca]).no_proxy().build().expect("a client");
        Web { client, base: format!("https://127.0.0.1:{}", self.port) }
    }

    fn unix(&self) -> Web {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let socket = self.world.smidr.join("daemon/daemon.sock");
        let client = Client::builder().unix_socket(socket).no_proxy().build().expect("a client");
        Web { client, base: "http://daemon".into() }
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Web {
    client: Client,
    base: String,
}

impl Web {
    fn get(&self, path: &str, token: &str) -> RequestBuilder {
        let request = self.client.get(format!("{}{path}", self.base));
        if token.is_empty() { request } else { request.bearer_auth(token) }
    }
}

fn sent(request: RequestBuilder) -> (u16, Response) {
    let response = request.send().expect("an answer");
    (response.status().as_u16(), response)
}

fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// Bytes that differ everywhere.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn the_audit_log_has_what_was_done_and_room_for_it() {
    let yard = Yard::new().serve();
    let token = yard.token("t", "--scope submit");
    let web = yard.tls();
    let call = |path: &str| {
        let request = web.client.post(format!("{}{path}", web.base)).bearer_auth(&token);
        sent(request.header("content-type", "application/grpc")).0
    };
    // Of another service, whose methods have the names of ours.
    assert_eq!(call("/other.Service/StartBuild"), 404);
    for _ in 0..50 {
        assert_eq!(sent(web.get(&format!("/{}", "x".repeat(4000)), "")).0, 401);
    }
    let log = fs::read_to_string(yard.world.smidr.join("daemon/audit.jsonl")).expect("the log");
    let lines: Vec<&str> = log.lines().collect();
    let is_of = |word: &'static str| move |line: &&&str| line.contains(word);
    assert!(lines.iter().all(|line| line.len() < 500), "{log}");
    assert!(lines.iter().filter(is_of("StartBuild")).all(|line| line.contains("not_found")), "{log}");
    let unknown = lines.iter().filter(is_of("xxx")).count();
    assert!((1..20).contains(&unknown), "{unknown}");
}

#[test]
fn http_serves_files_ranges_and_archives() {
    let large = noise(3_000_000);
    let yard = Yard::new();
    let left = [
        Left::File("images/large.wic", &large),
        Left::File("empty", b""),
        Left::File("images/ü 100%.txt", b"0123456789"),
        Left::Link("images/latest", "large.wic"),
        Left::Link("images/out", "/etc/passwd"),
    ];
    yard.build("acme-00000001", Some("acme"), 1, &left);
    yard.build("other-00000001", Some("other"), 1, &[Left::File("a", b"a")]);
    fs::write(yard.folder("acme-00000001").join("secret"), "x").expect("a file");
    let yard = yard.serve();
    let token = yard.token("acme", "--scope read --customer acme");
    let web = yard.tls();
    let base = "/v1/builds/acme-00000001/artifacts";
    let get = |path: &str| sent(web.get(&format!("{base}{path}"), &token));

    let (code, list) = get("");
    let mut list: Value = serde_json::from_str(&list.text().expect("text")).expect("JSON");
    let local = yard.run("artifacts list --json acme-00000001").json();
    assert_eq!((code, &list), (200, &local));
    assert_eq!(list["artifacts"].as_array_mut().expect("a list").len(), 5);

    let (code, whole) = get("/images/large.wic");
    let tag = header(&whole, "etag");
    assert_eq!((code, header(&whole, "content-length")), (200, "3000000".into()));
    assert_eq!(tag, format!("\"{}\"", hex::encode(Sha256::digest(&large))));
    assert_eq!(header(&whole, "x-content-type-options"), "nosniff");
    assert!(whole.bytes().expect("bytes") == large);
    assert_eq!(get("/empty").1.bytes().expect("bytes").len(), 0);
    assert_eq!(get("/images/%C3%BC%20100%25.txt").1.text().expect("text"), "0123456789");

    let head = web.client.head(format!("{}{base}/images/large.wic", web.base)).bearer_auth(&token);
    let (code, head) = sent(head);
    assert_eq!((code, header(&head, "content-length"), header(&head, "etag")), (200, "3000000".into(), tag.clone()));

    let asked = |path: &str, headers: &[(&str, &str)]| {
        let request = web.get(&format!("{base}{path}"), &token);
        let (code, answer) = sent(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)));
        (code, header(&answer, "content-range"), answer.bytes().expect("bytes"))
    };
    let part = asked("/images/large.wic", &[("range", "bytes=1000000-1999999")]);
    assert_eq!((part.0, &*part.1), (206, "bytes 1000000-1999999/3000000"));
    assert!(part.2 == large[1_000_000..2_000_000]);
    assert_eq!(asked("/images/large.wic", &[("range", "bytes=-5")]).2, large[2_999_995..]);
    let beyond = asked("/images/large.wic", &[("range", "bytes=3000000-")]);
    assert_eq!((beyond.0, &*beyond.1), (416, "bytes */3000000"));
    assert_eq!(asked("/images/large.wic", &[("if-none-match", &tag)]).0, 304);
    let range = ("range", "bytes=0-1");
    assert_eq!(asked("/images/large.wic", &[range, ("if-range", &tag)]).0, 206);
    let whole = asked("/images/large.wic", &[range, ("if-range", "\"another\"")]);
    assert_eq!((whole.0, whole.2.len()), (200, large.len()));

    for (path, code) in [
        ("/images/latest", 404),
        ("/images/out", 404),
        ("/../secret", 404),
        ("/%2e%2e/secret", 404),
        ("/..%2fsecret", 404),
        ("/images", 404),
        ("/%00", 404),
        ("/%ff", 404),
        (".tar?path=nothing", 404),
        (".tar?path=%5B", 400),
        (".tar?x=y", 400),
    ] {
        assert_eq!(get(path).0, code, "{path}");
    }
    assert_eq!(sent(web.get("/v1/builds/other-00000001/artifacts/a", &token)).0, 404);
    assert_eq!(sent(web.get("/v1/builds/other-00000001/artifacts.tar", &token)).0, 404);
    assert_eq!(sent(web.get(base, "")).0, 401);
    assert_eq!(sent(web.get(base, "smidr_wrong")).0, 401);
    let blind = yard.token("blind", "--scope submit --customer acme");
    assert_eq!(sent(web.get(&format!("{base}/empty"), &blind)).0, 403);
    assert_eq!(sent(yard.unix().get("/v1/builds/other-00000001/artifacts/a", "")).1.text().expect("text"), "a");

    let (code, archive) = get(".tar");
    let (length, left_out) = (header(&archive, "content-length"), header(&archive, "smidr-links-left-out"));
    let archive = archive.bytes().expect("bytes");
    assert_eq!((code, left_out, length), (200, "1".into(), archive.len().to_string()));
    let mut names = Vec::new();
    for entry in tar::Archive::new(&*archive).entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("bytes");
        assert!(name != "images/large.wic" || content == large);
        let link = entry.link_name().expect("a name").map(|link| format!(" -> {}", link.display()));
        names.push(format!("{name}{} {}", link.unwrap_or_default(), content.len()));
    }
    let expected = ["images/large.wic 3000000", "empty 0", "images/ü 100%.txt 10", "images/latest -> large.wic 0"];
    assert_eq!(names, expected);
    let one = get(".tar?path=empty").1.bytes().expect("bytes");
    assert_eq!(one.len(), 512 + 1024);
}

#[test]
fn a_client_brings_files() {
    let large = noise(2_000_000);
    let yard = Yard::new();
    let left = [
        Left::File("images/large.wic", &large),
        Left::File("images/second", b"second"),
        Left::File("empty", b""),
        Left::Link("latest", "images/large.wic"),
        Left::Link("out", "../../etc/passwd"),
    ];
    yard.build("acme-00000001", Some("acme"), 1, &left);
    let yard = yard.serve();
    let at = yard.login("acme", "--scope read,cancel --customer acme");
    let dest = |name: &str| yard.world.work.join(name);
    let download = |at: &str, dest: &Path, more: &str| {
        yard.run(format!("client {at} download acme-00000001 {} {more}", dest.display()).replace("  ", " ").trim())
    };

    for (name, at) in [("tls", &*at), ("unix", "")] {
        let out = dest(name);
        download(at, &out, "")
            .expect_code(0)
            .expect_err("4 files of acme-00000001")
            .expect_err("1 links were not made");
        assert!(fs::read(out.join("latest")).expect("a file") == large);
        assert_eq!(fs::read(out.join("empty")).expect("a file"), b"");
        assert!(out.join("out").symlink_metadata().is_err());
        assert_eq!(World::names(&out.join("images")), ["large.wic", "second"]);
        download(at, &out, "").expect_code(0).expect_err("4 were there already");
    }

    // What broke off goes on, and a beginning of another file does not harm.
    for (name, begin) in [("begun", &large[..700_000]), ("foreign", &noise(700_001)[1..]), ("long", &noise(2_000_001))]
    {
        let out = dest(name);
        fs::create_dir_all(out.join("images")).expect("a folder");
        fs::write(out.join("images/large.wic.smidr-part"), begin).expect("a part");
        download(&at, &out, "--path large.wic").expect_code(0);
        assert!(fs::read(out.join("images/large.wic")).expect("a file") == large, "{name}");
        assert_eq!(World::names(&out.join("images")), ["large.wic"]);
    }

    // Another file stays, and a link in the folder is no way out of it.
    let out = dest("links");
    let beside = dest("beside");
    fs::create_dir_all(&out).expect("a folder");
    fs::create_dir_all(&beside).expect("a folder");
    symlink(&beside, out.join("images")).expect("a link");
    fs::write(out.join("empty"), "mine").expect("a file");
    download(&at, &out, "").expect_code(2).expect_err("--force");
    assert_eq!(fs::read_to_string(out.join("empty")).expect("a file"), "mine");
    download(&at, &out, "--force");
    assert!(World::names(&beside).is_empty(), "{:?}", World::names(&beside));

    let archive = dest("all.tar");
    let tar =
        |to: &str| yard.run(&format!("client {at} download acme-00000001 --path empty --path large.wic --tar {to}"));
    tar(&archive.display().to_string()).expect_code(0);
    let bytes = fs::read(&archive).expect("an archive");
    assert_eq!(bytes.len(), 512 + 2_000_384 + 512 + 1024);
    tar(&archive.display().to_string()).expect_code(2);

    // On the daemon's machine, something happens to the files.
    let kept = yard.folder("acme-00000001").join("artifacts");
    fs::write(kept.join("images/second"), "sec").expect("a file");
    download(&at, &dest("shorter"), "").expect_code(3).expect_err("it has 3 bytes, and had 6");
    fs::write(kept.join("images/second"), "SECOND").expect("a file");
    download(&at, &dest("changed"), "").expect_code(2).expect_err("arrived damaged");
    assert!(!dest("changed").join("images/second").exists());
    fs::remove_file(kept.join("images/second")).expect("removed");
    symlink("/etc/passwd", kept.join("images/second")).expect("a link");
    download(&at, &dest("gone"), "").expect_code(2).expect_err("not there any more");
    let web = yard.tls();
    let token = fs::read_to_string(dest("acme.token")).expect("a token");
    assert_eq!(sent(web.get("/v1/builds/acme-00000001/artifacts/images/second", &token)).0, 404);
    let cut = web.get("/v1/builds/acme-00000001/artifacts.tar", &token).send().expect("an answer").bytes();
    assert!(cut.is_err(), "an archive that lacks a file looks whole");

    yard.run(&format!("client {at} artifacts acme-00000001")).expect_code(0).expect_out("images/large.wic");
    yard.run(&format!("client {at} delete acme-00000001")).expect_code(0);
    assert!(!yard.folder("acme-00000001").exists());
    assert_eq!(sent(web.get("/v1/builds/acme-00000001/artifacts", &token)).0, 404);
}

#[test]
fn old_builds_go() {
    let yard = Yard::new();
    let content = noise(100_000);
    for (id, customer, day) in [
        ("a-00000001", Some("acme"), 1),
        ("a-00000002", Some("acme"), 2),
        ("a-00000003", Some("acme"), 3),
        ("b-00000004", Some("acme"), 4),
        ("o-00000005", Some("other"), 5),
        ("o-00000006", Some("other"), 6),
    ] {
        yard.build(id, customer, day, &[Left::File("f", &content)]);
    }
    let mut yard = yard.serve();
    let builds = |yard: &Yard| World::names(&yard.world.smidr.join("builds"));
    yard.run("daemon purge").expect_code(2);
    let dry = yard.run("daemon purge --keep 1 --dry-run --json").expect_code(0).json();
    assert_eq!(dry["builds"], serde_json::json!(["o-00000005", "a-00000002", "a-00000001"]));
    assert!(dry["bytes"].as_u64().expect("a number") >= 300_000, "{dry}");
    assert_eq!(builds(&yard).len(), 6);
    let cleaned = yard.run("daemon purge --max-size 290k --customer acme --artifacts-only");
    assert_eq!(cleaned.expect_code(0).out, "a-00000002\na-00000001\n");
    assert_eq!(builds(&yard).len(), 6);
    assert!(!yard.folder("a-00000001").join("artifacts").exists());
    yard.run("client download a-00000001 out").expect_code(2).expect_err("not there any more");

    // A customer's token reaches its own builds only.
    let purge = |yard: &Yard, token: &str, body: &[u8]| {
        let body = [&[0][..], &u32::try_from(body.len()).expect("small").to_be_bytes(), body].concat();
        let request = yard.tls().client.post(format!("https://127.0.0.1:{}/smidr.v1.Smidr/PurgeBuilds", yard.port));
        let request = request.bearer_auth(token).header("content-type", "application/grpc-web+proto").body(body);
        let (_, answer) = sent(request);
        let status = header(&answer, "grpc-status");
        String::from_utf8_lossy(&answer.bytes().expect("bytes")).into_owned() + &status
    };
    let own = yard.token("own", "--scope cancel --customer other");
    // keep: 0, customer: acme
    let denied = purge(&yard, &own, b"\x08\x00\x22\x04acme");
    assert!(denied.ends_with('7'), "{denied}");
    let reader = yard.token("reader", "--scope read --customer other");
    assert!(purge(&yard, &reader, b"\x08\x00").ends_with('7'));
    let wide = yard.token("wide", "--scope read,cancel");
    assert!(purge(&yard, &wide, b"\x08\x00").ends_with('7'));
    let done = purge(&yard, &own, b"\x08\x00");
    assert!(done.contains("o-00000005") && done.contains("o-00000006") && !done.contains("a-0"), "{done}");
    assert_eq!(builds(&yard).len(), 4);

    // At the next start `daemon.yaml` counts.
    yard.stop();
    fs::write(yard.world.smidr.join("daemon.yaml"), "retention: {keep: 2, customers: {x: {keep: 1}}}\n")
        .expect("a file");
    let yard = yard.serve();
    wait_for("the oldest to go", LONG, || builds(&yard).len() == 3);
    assert_eq!(builds(&yard), ["a-00000002", "a-00000003", "b-00000004"]);
    assert_eq!(yard.run("client list --json").json()["builds"].as_array().expect("a list").len(), 3);
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_revoked_token_ends_downloads_and_slow_ones_hold_up_no_other() {
    let yard = Yard::new();
    yard.build("a-00000001", None, 1, &[Left::File("f", &noise(32 << 20))]);
    let yard = yard.serve();
    let token = yard.token("t", "--scope read");
    let web = yard.tls();
    let path = "/v1/builds/a-00000001/artifacts/f";
    // More than the daemon has threads for what blocks.
    let mut slow: Vec<Response> = (0..80).map(|_| web.get(path, &token).send().expect("an answer")).collect();
    assert_eq!(sent(web.get("/v1/builds/a-00000001/artifacts", &token)).0, 200);
    yard.run("daemon token rm t").expect_code(0);
    let mut bytes = Vec::new();
    assert!(slow.remove(0).read_to_end(&mut bytes).is_err());
    assert!(bytes.len() < 32 << 20);
}
