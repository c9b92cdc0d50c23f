//! Documents and blobs: limits, resuming, timeouts.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    image::{
        codec,
        registry::{
            Settings, Wanted,
            http::{Ask, Http},
            testing::Fault,
        },
    },
    model::{Kind, UserError as _},
};

#[test]
fn a_tag_is_resolved_and_its_document_fetched() {
    let server = FaultyRegistry::start();
    let digest = server.add_manifest("12", MANIFEST, b"{}");
    let registry = server.open("a/b");
    assert_eq!(registry.resolve("12").expect("a digest"), digest);
    assert_eq!(server.seen("GET ").len(), 0, "HEAD is enough, which some registries do not count");
    for wanted in [Wanted::Tag("12"), Wanted::Digest(&digest)] {
        let (bytes, media_type) = registry.document(wanted, 100).expect("a document");
        assert_eq!((bytes.as_slice(), media_type.as_deref()), (&b"{}"[..], Some(MANIFEST)));
    }
    let accept = server.seen("GET /v2/a/b/manifests/12")[0].header("accept").map(String::from);
    assert!(accept.is_some_and(|accept| accept.contains("manifest.list.v2") && accept.contains(MANIFEST)));
}

#[test]
fn who_does_not_answer_head_is_asked_again() {
    let odd = "sha512:00".to_owned();
    for fault in [Fault::Status(405, vec![], ""), Fault::Header("docker-content-digest", odd)] {
        let server = FaultyRegistry::start();
        let digest = server.add_manifest("12", MANIFEST, b"{}");
        server.fault("HEAD", 1, fault);
        assert_eq!(server.open("a/b").resolve("12").expect("a digest"), digest);
        assert_eq!(server.seen("GET ").len(), 1);
    }
}

#[test]
fn what_is_not_there_is_named() {
    let server = FaultyRegistry::start();
    let registry = server.open("a/b");
    let missing = registry.document(Wanted::Tag("no"), 100).expect_err("nothing");
    let expected = format!("{0} does not know {0}/a/b:no: MANIFEST_UNKNOWN: manifest unknown", server.host());
    assert_eq!((missing.to_string(), missing.kind()), (expected, Kind::Request));
    assert!(missing.hint().is_some());
    assert!(matches!(registry.resolve("no"), Err(RegistryError::Unknown { .. })));
    assert!(matches!(registry.resolve("../../x"), Err(RegistryError::Tag(_))));
    assert_eq!(server.seen("x").len(), 0, "a wrong tag goes nowhere");
}

#[test]
fn documents_are_what_they_should_be_or_refused() {
    let server = FaultyRegistry::start();
    let digest = server.add_manifest("12", MANIFEST, b"0123456789");
    let registry = server.open("a/b");
    let get = |wanted: Wanted<'_>, limit| registry.document(wanted, limit).map(|found| found.0);
    assert_eq!(get(Wanted::Tag("12"), 10).expect("just small enough"), b"0123456789");
    assert!(matches!(get(Wanted::Tag("12"), 9), Err(RegistryError::TooLarge { limit: 9, .. })));
    server.fault("GET", 1, Fault::Endless);
    assert!(matches!(get(Wanted::Tag("12"), 5000), Err(RegistryError::TooLarge { .. })));
    server.fault("GET", 1, Fault::Content(b"other".to_vec()));
    let wrong = get(Wanted::Digest(&digest), 100).expect_err("other bytes");
    assert!(matches!(&wrong, RegistryError::Digest { wanted, .. } if *wanted == digest), "{wrong}");
    // The header belongs to the manifest, the bytes do not.
    server.fault("GET", 1, Fault::Content(b"other".to_vec()));
    assert!(matches!(get(Wanted::Tag("12"), 100), Err(RegistryError::Digest { .. })));
    server.fault("GET", 1, Fault::Header("docker-content-digest", codec::digest(b"lie").to_string()));
    assert!(matches!(get(Wanted::Digest(&digest), 100), Err(RegistryError::Digest { .. })));
    server.fault("GET", 1, Fault::Truncate(4));
    assert_eq!(get(Wanted::Tag("12"), 10).expect("at the second attempt"), b"0123456789");
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let (server, content) = (FaultyRegistry::start(), bytes(300_000));
    let blob = server.add_blob(&content);
    server.fault("blobs", 1, Fault::Truncate(100_000));
    server.fault("blobs", 1, Fault::Close);
    server.fault("blobs", 1, Fault::Truncate(50_000));
    assert_eq!(read(&server.open("a/b"), &blob).expect("all of it"), content);
    let ranges: Vec<_> = server.seen("blobs").iter().map(|seen| seen.header("range").map(String::from)).collect();
    let expected = [None, Some("bytes=100000-"), Some("bytes=100000-"), Some("bytes=150000-")];
    assert_eq!(ranges, expected.map(|range| range.map(String::from)));
}

#[test]
fn who_does_not_know_ranges_sends_all_again() {
    let (server, content) = (FaultyRegistry::start(), bytes(200_000));
    let blob = server.add_blob(&content);
    server.fault("blobs", 1, Fault::Truncate(70_000));
    server.fault("blobs", 1, Fault::IgnoreRange);
    assert_eq!(read(&server.open("a/b"), &blob).expect("all of it"), content);
}

#[test]
fn a_blob_can_begin_anywhere() {
    let (server, content) = (FaultyRegistry::start(), bytes(1000));
    let (blob, registry) = (server.add_blob(&content), server.open("a/b"));
    assert_eq!(read_from(&registry, &blob, 400).expect("the rest"), content[400..]);
    assert_eq!(read_from(&registry, &blob, 1000).expect("nothing"), b"");
    assert_eq!(server.seen("blobs").len(), 1, "nothing is asked for when nothing is left");
    assert!(matches!(read_from(&registry, &blob, 1001), Err(RegistryError::Size { wanted: 1000, .. })));
}

#[test]
fn never_more_than_promised() {
    for fault in [Fault::Extra(b"x".to_vec()), Fault::Endless] {
        let (server, content) = (FaultyRegistry::start(), bytes(1000));
        let blob = server.add_blob(&content);
        server.fault("blobs", 9, fault);
        let registry = server.open("a/b");
        let (mut all, mut reader) = (Vec::new(), registry.blob(&blob, 0).expect("a blob"));
        let error = RegistryError::from_io(reader.read_to_end(&mut all).expect_err("too much")).expect("ours");
        assert!(error.to_string().contains("should have 1000 bytes and has more"), "{error}");
        assert_eq!((all, error.kind()), (content, Kind::Outside));
    }
}

#[test]
fn a_wrong_length_is_not_even_read() {
    let server = FaultyRegistry::start();
    let (blob, registry) = (server.add_blob(&bytes(1000)), server.open("a/b"));
    for length in [999, 1001, 1 << 60] {
        server.fault("blobs", 1, Fault::Length(length));
        assert!(matches!(registry.blob(&blob, 0), Err(RegistryError::Size { wanted: 1000, .. })), "{length}");
    }
    for (range, named) in
        [("bytes 500-999/1001", "has 1001"), ("bytes 5-999/1000", "from byte 5"), ("odd", "which part")]
    {
        server.fault("blobs", 1, Fault::Header("content-range", range.into()));
        let Err(error) = registry.blob(&blob, 500) else { panic!("{range} is wrong") };
        assert!(error.to_string().contains(named), "{range}: {error}");
    }
}

#[test]
fn a_blob_that_always_breaks_off_ends() {
    let server = FaultyRegistry::start();
    let blob = server.add_blob(&bytes(1000));
    server.fault("blobs", 99, Fault::Truncate(10));
    let error = read(&server.open("a/b"), &blob).expect_err("it cannot");
    assert!(matches!(error, RegistryError::Broken { .. }), "{error}");
    assert_eq!(server.seen("blobs").len(), 6);
}

#[test]
fn a_drip_is_a_broken_connection() {
    let server = FaultyRegistry::start();
    let blob = server.add_blob(&bytes(1000));
    server.fault("blobs", 99, Fault::Drip(1, Duration::from_millis(5)));
    let mut settings = server.settings();
    settings.patience.window = Duration::from_millis(30);
    let error = read(&server.open_with("a/b", &settings).expect("settings"), &blob).expect_err("it is too slow");
    assert!(error.line().contains("too slowly"), "{}", error.line());
}

#[test]
fn silence_is_a_broken_connection() {
    let (server, content) = (FaultyRegistry::start(), bytes(1000));
    let blob = server.add_blob(&content);
    server.fault("blobs", 1, Fault::Drip(500, Duration::from_secs(5)));
    let mut settings = server.settings();
    settings.patience.idle = Duration::from_millis(100);
    let start = Instant::now();
    assert_eq!(read(&server.open_with("a/b", &settings).expect("settings"), &blob).expect("all of it"), content);
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn what_may_pass_is_tried_again_and_the_rest_is_not() {
    for (status, attempts) in [(429, 6), (500, 6), (502, 6), (503, 6), (504, 6), (400, 1), (410, 1), (501, 1)] {
        let server = FaultyRegistry::start();
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\u001bdown"}]}"#;
        server.fault("GET", 99, Fault::Status(status, vec![], body));
        let error = server.open("a/b").document(Wanted::Tag("x"), 100).expect_err("a failure");
        assert_eq!(server.seen("GET").len(), attempts, "{status}");
        let expected = format!(
            "answered {status} when it was asked for {}/a/b:x: TOOMANYREQUESTS: slow\\u{{1b}}down",
            server.host()
        );
        assert!(error.to_string().ends_with(&expected), "{error}");
        assert_eq!(error.kind(), Kind::Outside);
    }
}

#[test]
fn a_registry_may_ask_for_time() {
    let server = FaultyRegistry::start();
    server.add_manifest("12", MANIFEST, b"{}");
    let words = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}"#;
    let later = |seconds: &str| Fault::Status(429, vec![("retry-after", seconds.into())], words);
    let mut settings = server.settings();
    settings.patience.longest = Duration::from_secs(4);
    let registry = server.open_with("a/b", &settings).expect("settings");
    // Told, and kept.
    server.fault("GET", 1, later("3"));
    let start = Instant::now();
    registry.document(Wanted::Tag("12"), 100).expect("the second time");
    assert!(start.elapsed() >= Duration::from_secs(3), "it waits: {:?}", start.elapsed());
    let told = server.warnings.lock().expect("a mutex").join("\n");
    let parts = ["answered 429", "a/b:12", "You have reached", "a wait of 3 s", "asks again in 3 s"];
    assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    // Too long: the end, with the registry's words though the first question was HEAD, which has none. It is not asked again.
    server.fault("manifests", 99, later("3660"));
    let error = registry.resolve("12").expect_err("too long");
    let parts = ["You have reached your pull rate limit", "a wait of 1 h 1 min"];
    assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    assert!(error.hints().iter().any(|hint| format!("{hint:?}").contains("mirror")), "{:?}", error.hints());
    let login = format!("skopeo login {}", server.host());
    assert!(error.hints().iter().any(|hint| hint.to_string().contains(&login)), "{:?}", error.hints());
    assert_eq!(server.seen("manifests").len(), 4, "twice before, HEAD, and GET");
    assert_eq!(server.warnings.lock().expect("a mutex").len(), 1);
}

#[test]
fn who_is_not_there_is_named() {
    let server = FaultyRegistry::start();
    let (host, settings) = (server.host(), server.settings());
    drop(server);
    let reference = format!("{host}/a/b:c").parse().expect("a reference");
    let registry = HttpRegistry::open(&reference, &settings).expect("settings");
    let error = registry.resolve("c").expect_err("nobody is there");
    assert_eq!(error.to_string(), format!("cannot reach {host}"));
    assert!(
        error.hint().is_some() && error.kind() == Kind::Outside && !error.line().contains("/v2/"),
        "{}",
        error.line()
    );
}

#[test]
fn plain_http_is_only_spoken_when_allowed() {
    let server = FaultyRegistry::start();
    server.add_manifest("12", MANIFEST, b"{}");
    let mut settings = server.settings();
    settings.insecure = false;
    let refused = server.open_with("a/b", &settings).expect("settings").resolve("12");
    assert!(matches!(refused, Err(RegistryError::Connection { .. })), "{refused:?}");
    assert!(server.seen("/").is_empty());
    // An address that is not known as this machine's: TLS comes first, and the fall back is said.
    settings.insecure = true;
    let (_, port) = server.host().split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a port");
    let reference = format!("0.0.0.0:{port}/a/b:12").parse().expect("a reference");
    let registry = HttpRegistry::open(&reference, &settings).expect("settings");
    registry.resolve("12").expect("a digest");
    assert!(server.warned().contains("no TLS"), "{}", server.warned());
}

#[test]
fn tls_needs_a_certificate_that_is_known() {
    let server = FaultyRegistry::start_tls();
    server.add_manifest("12", MANIFEST, b"{}");
    let mut settings = server.settings();
    server.open_with("a/b", &settings).expect("settings").resolve("12").expect("a digest");
    settings.ca_bundle = None;
    settings.insecure = true;
    let refuse = |settings: &_| {
        let error = server.open_with("a/b", settings).expect("settings").resolve("12").expect_err("unknown");
        (error.is_certificate(), error.hint().unwrap_or_default())
    };
    settings.insecure = false;
    let (certificate, hint) = refuse(&settings);
    assert!(certificate && hint.contains(&format!("certs.d/{}/ca.crt", server.host())), "{hint}");
    let own = server.home.path().join(format!("etc/docker/certs.d/{}/ca.crt", server.host()));
    write(&own, &std::fs::read_to_string(server.certificate()).expect("a certificate"));
    server.open_with("a/b", &settings).expect("settings").resolve("12").expect("a digest");
    write(&own, "nonsense");
    let Err(bad) = server.open_with("a/b", &settings) else { panic!("it is no certificate") };
    assert!(bad.to_string().contains("ca.crt"), "{bad}");
}

#[test]
fn a_certificate_that_is_its_own_authority_is_explained() {
    let server = FaultyRegistry::start_tls_as(rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let error = server.open("a/b").resolve("12").expect_err("rustls does not take it");
    assert!(error.hint().is_some_and(|hint| hint.contains("CA:FALSE")), "{}", error.line());
}

#[test]
fn a_request_to_stop_is_heard() {
    let server = FaultyRegistry::start();
    let blob = server.add_blob(&bytes(100_000));
    let (mut settings, asked) = (server.settings(), Arc::new(AtomicBool::new(false)));
    let heard = asked.clone();
    settings.stopping = Arc::new(move || heard.load(Ordering::SeqCst));
    (settings.patience.backoff, settings.patience.longest) = (Duration::from_secs(600), Duration::from_secs(600));
    let registry = server.open_with("a/b", &settings).expect("settings");
    // While it reads, while it waits to try again, and before it asks at all.
    let mut reader = registry.blob(&blob, 0).expect("a blob");
    reader.read_exact(&mut [0; 10]).expect("the beginning");
    asked.store(true, Ordering::SeqCst);
    let error = RegistryError::from_io(reader.read(&mut [0; 10]).expect_err("a stop")).expect("ours");
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::Cancelled, format!("stopped while talking to {}", server.host()))
    );
    asked.store(false, Ordering::SeqCst);
    server.fault("manifests", 99, Fault::Status(503, vec![], ""));
    thread::scope(|scope| {
        let waits = scope.spawn(|| registry.document(Wanted::Tag("x"), 9));
        while server.seen("manifests").is_empty() {
            thread::yield_now();
        }
        asked.store(true, Ordering::SeqCst);
        assert!(matches!(waits.join().expect("no panic"), Err(RegistryError::Stopped(_))));
    });
    assert!(matches!(registry.resolve("x"), Err(RegistryError::Stopped(_))));
    assert_eq!(server.seen("manifests").len(), 1);
}

#[test]
fn proxies_come_from_the_given_environment() {
    let (server, proxy) = (FaultyRegistry::start(), FaultyRegistry::start());
    let digest = proxy.add_manifest("12", MANIFEST, b"{}");
    let mut settings = server.settings();
    settings.environment = vec![("http_proxy".into(), proxy.url())];
    let plain = "http://registry.invalid/v2/a/b/manifests/12";
    let get = |settings: &Settings| {
        let http = Http::new("registry.invalid", &Arc::new(settings.clone())).expect("a client");
        let url = reqwest::Url::parse(plain).expect("a URL");
        http.send(Ask::new(reqwest::Method::GET, url, "x")).map(|response| response.status().as_u16())
    };
    // A proxy is asked for the whole URL.
    assert_eq!(get(&settings).ok(), Some(200));
    assert_eq!(proxy.seen("/")[0].path, plain);
    server.add_manifest("12", MANIFEST, b"{}");
    assert_eq!(server.open_with("a/b", &settings).expect("settings").resolve("12").expect("a digest"), digest);
    assert_eq!((proxy.seen("/").len(), server.seen("/").len()), (1, 1), "this machine needs no proxy");
    settings.environment.push(("no_proxy".into(), ".invalid".into()));
    assert!(get(&settings).is_err(), "it has no address");
    settings.environment = vec![("HTTPS_PROXY".into(), "socks5://user:hidden@x".into())];
    let Err(bad) = server.open_with("a/b", &settings) else { panic!("socks is not supported") };
    assert!(bad.to_string().contains("HTTPS_PROXY") && !format!("{bad:?}").contains("hidden"), "{bad}");
}
