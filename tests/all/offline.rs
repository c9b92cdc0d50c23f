//! `host.network: fetch-only`: sources come over the network, and the build itself has none.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::support::World;

/// Fetches over HTTP; then a task that asks for the network tries to reach the same server.
const RECIPE: &str = r#"SUMMARY = "Reaches for a server, while fetching and afterwards"
LICENSE = "MIT"
inherit nobuild

SERVER = "127.0.0.1:@PORT@"

python do_fetch() {
    import urllib.request
    with urllib.request.urlopen("http://%s/source" % d.getVar("SERVER"), timeout=5) as answer:
        with open(d.expand("${DL_DIR}/source-${PN}-@PORT@"), "wb") as file:
            file.write(answer.read())
}

addtask reach after do_patch before do_build
do_reach[network] = "1"
python do_reach() {
    import urllib.request
    with open(d.expand("${DL_DIR}/source-${PN}-@PORT@")) as file:
        bb.plain("reacher: fetched %s" % file.read().strip())
    try:
        urllib.request.urlopen("http://%s/later" % d.getVar("SERVER"), timeout=5)
    except OSError as problem:
        bb.plain("reacher: offline: %s" % problem)
        return
    bb.fatal("reacher: the network is still there")
}
"#;

/// Answers every request, and counts them.
fn server() -> (u16, Arc<AtomicUsize>) {
    server_that_says("HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\ncontent\n")
}

fn server_that_says(answer: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (port, asked)
}

#[test]
fn fetch_only_builds_without_a_network() {
    let Some(world) = World::with_project("offline::fetch_only_builds_without_a_network") else { return };
    let (port, asked) = server();
    let recipe = "layers/meta-hello/recipes-hello/reacher/reacher_1.0.bb";
    std::fs::create_dir_all(world.project().join(recipe).parent().expect("a folder")).expect("a folder");
    world.write(recipe, &RECIPE.replace("@PORT@", &port.to_string()));
    world.append("  network: fetch-only\n");
    let build = world.smidr().args(["build", "--target", "reacher", "--events", "json"]).run();
    build.expect_code(0).expect_err("reacher: fetched content").expect_err("reacher: offline: ");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one request, by the fetcher");
    let stages: Vec<String> = build
        .out
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|event| event["event"] == "stage_started")
        .map(|event| event["stage"].to_string())
        .collect();
    assert_eq!(stages, [r#""prepare""#, r#""fetch""#, r#""run""#, r#""collect""#]);
    // The default is the whole network.
    world.edit("smidr.yaml", "network: fetch-only", "network: full");
    let build = world.smidr().args(["build", "--target", "reacher", "--clean"]).run();
    build.expect_code(1).expect_err("reacher: the network is still there");
    assert_eq!(asked.load(Ordering::SeqCst), 3, "a fetch, and what followed it");
}

#[test]
fn every_source_that_cannot_be_had_is_listed_at_once() {
    let Some(world) = World::with_project("offline::every_source_that_cannot_be_had_is_listed_at_once") else { return };
    let (good, asked) = server();
    let (bad, _) = server_that_says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let recipe = |name: &str, port: u16, more: &str| {
        let text = format!(
            "LICENSE = \"MIT\"\ninherit nobuild\nSRC_URI = \"http://127.0.0.1:{port}/{name}.txt\"\n\
             SRC_URI[sha256sum] = \"434728a410a78f56fc1b5899c3593436e61ab0c731e9072d95e96db290205e53\"\n{more}\n"
        );
        world.write(&format!("layers/meta-hello/recipes-test/{name}/{name}_1.0.bb"), &text);
    };
    // Nothing listens on port 1.
    recipe("refused", 1, "");
    recipe("gone", bad, "");
    recipe("there", good, "");
    let three = format!(
        "SRC_URI += \"http://127.0.0.1:{bad}/second http://127.0.0.1:{good}/fine;md5sum=f75b8179e4bbe7e2b4a074dcef62de95\""
    );
    recipe("several", bad, &three);
    let fetch = |target: &[&str]| {
        let targets = target.iter().flat_map(|target| ["--target", target]);
        world.smidr().args(["build", "--fetch-only"]).args(targets).run()
    };
    let done = fetch(&["refused", "gone", "there", "several"]);
    done.expect_code(4).expect_err("could not fetch 4 sources");
    done.expect_err(&format!("missing    gone     127.0.0.1:{bad}  fetch-not-found: "));
    done.expect_err(&format!("\n           http://127.0.0.1:{bad}/gone.txt\n"));
    done.expect_err("missing    refused  127.0.0.1:1").expect_err("fetch-network: ").expect_err("refused.\n");
    done.expect_err(&format!("missing    several  127.0.0.1:{bad}\n           http://127.0.0.1:{bad}/second\n"));
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the others are fetched all the same, of the same recipe too");
    let outcome = &world.smidr().args(["status", &done.build_id(), "--json"]).run().json()["build"]["outcome"];
    assert_eq!(outcome["kind"], "outside");
    let urls: Vec<&str> = outcome["failed"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|task| task["urls"].as_array().expect("a list"))
        .filter_map(|url| url.as_str())
        .collect();
    assert_eq!(urls.len(), 4, "{outcome}");
    fetch(&["there"]).expect_code(0);
    // A build that fails for it is a failed build.
    world.smidr().args(["build", "--target", "gone"]).run().expect_code(1).expect_err("gone:do_fetch");
}

#[test]
fn what_a_server_answers_now_is_told() {
    let Some(world) = World::with_project("offline::what_a_server_answers_now_is_told") else { return };
    let (proxy, asked) = server_that_says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let recipe = |address: &str| {
        let text = format!(
            "LICENSE = \"MIT\"\ninherit nobuild\nSRC_URI = \"{address}/lost.txt;md5sum=0123456789abcdef0123456789abcdef\"\n"
        );
        world.write("layers/meta-hello/recipes-test/lost/lost_1.0.bb", &text);
    };
    let build = || {
        let smidr = world.smidr().env("http_proxy", format!("http://127.0.0.1:{proxy}"));
        let done = smidr.args(["build", "--target", "lost"]).run();
        done.expect_code(1).expect_err("lost:do_fetch");
        world.smidr().args(["explain", &done.build_id()]).run().out
    };
    recipe("http://source.example");
    let told = build();
    assert!(told.contains("asked again, the server of http://source.example/lost.txt answers 404 Not Found"), "{told}");
    // What is in this network is for nobody to find out.
    recipe("http://127.0.0.1:1");
    let told = build();
    assert!(!told.contains("asked again"), "{told}");
    let before = asked.load(Ordering::SeqCst);
    world.append("  network: none\n");
    recipe("http://source.example");
    let told = build();
    assert!(!told.contains("asked again"), "{told}");
    assert_eq!(asked.load(Ordering::SeqCst), before, "a build without a network asks nothing");
}

/// A task that is allowed the network, and uses it.
const TRIES: &str = "LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\ndo_act[network] = \"1\"\ndo_act[nostamp] = \"1\"\n\
    python do_act() {\n    import socket\n    for address in [(\"127.0.0.1\", @PORT@), (\"192.0.2.1\", 9)]:\n        try:\n            \
    socket.create_connection(address, 3)\n        except OSError as error:\n            bb.plain(\"tries: %s: %s\" % (address[0], error))\n        \
    else:\n            bb.fatal(\"tries: reached %s\" % address[0])\n}\n";

#[test]
fn network_none_leaves_only_a_loopback() {
    let Some(world) = World::with_project("offline::network_none_leaves_only_a_loopback") else { return };
    let (port, asked) = server();
    world.write("layers/meta-hello/recipes-test/tries/tries.bb", &TRIES.replace("@PORT@", &port.to_string()));
    world.append("  network: none\n");
    let build = || world.smidr().args(["build", "--target", "tries"]).run();
    let none = build();
    none.expect_code(0).expect_err("full isolation, no network").expect_err("tries: 127.0.0.1: [Errno 111]");
    none.expect_err("tries: 192.0.2.1: [Errno 101] Network is unreachable");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // Its own loopback has no server; the default is this machine's loopback.
    world.edit("smidr.yaml", "network: none", "network: full");
    build().expect_code(1).expect_err("tries: reached 127.0.0.1");
}
