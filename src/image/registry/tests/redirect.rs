//! Redirects and mirrors: which hosts are contacted, and what they receive.

use super::*;
use crate::{
    image::{
        codec,
        registry::{
            Wanted,
            testing::{Demand, Fault},
        },
    },
    model::UserError as _,
};

const TOKENS: Demand = Demand::Token { user: "", password: "", uses: 99, life: 300, realm: None };

#[test]
fn another_host_never_sees_our_authorization() {
    let (server, other) = (FaultyRegistry::start(), FaultyRegistry::start());
    let content = bytes(1000);
    let blob = other.add_blob(&content);
    server.demand(TOKENS);
    let elsewhere = format!("{}/elsewhere/blobs/{}?signature=x", other.url(), blob.digest);
    let registry = server.open("a/b");
    // The first answer is 401; a token then comes before the redirect.
    server.add_manifest("12", MANIFEST, b"{}");
    registry.document(Wanted::Tag("12"), 100).expect("a document");
    server.fault("blobs", 1, Fault::Redirect(elsewhere));
    assert_eq!(read(&registry, &blob).expect("from elsewhere"), content);
    assert!(server.seen("blobs")[0].header("authorization").is_some());
    assert_eq!(other.seen("elsewhere")[0].header("authorization"), None);
}

#[test]
fn the_same_host_does() {
    let server = FaultyRegistry::start();
    let blob = server.add_blob(b"content");
    server.demand(TOKENS);
    let registry = server.open("a/b");
    read(&registry, &blob).expect("a blob");
    server.fault("/a/b/blobs", 1, Fault::Redirect(format!("/v2/c/d/blobs/{}", blob.digest)));
    assert_eq!(read(&registry, &blob).expect("a blob"), b"content");
    assert!(server.seen("/c/d/")[0].header("authorization").is_some());
}

#[test]
fn a_401_of_another_host_gets_no_answer() {
    let (server, other) = (FaultyRegistry::start(), FaultyRegistry::start());
    let blob = server.add_blob(b"content");
    other.demand(TOKENS);
    server.fault("blobs", 9, Fault::Redirect(format!("{}/v2/x/blobs/y", other.url())));
    let error = read(&server.open("a/b"), &blob).expect_err("no");
    assert!(matches!(error, RegistryError::Status { status: 401, .. }), "{error}");
    assert!(other.seen("token").is_empty());
}

#[test]
fn redirects_end_and_stay_on_tls() {
    let server = FaultyRegistry::start_tls();
    let (blob, registry) = (server.add_blob(b"content"), server.open("a/b"));
    let rows = [
        (format!("/v2/a/b/blobs/{}", blob.digest), "too often"),
        ("http://127.0.0.1:1/".into(), "from https to plain http"),
        ("file:///etc/passwd".into(), "neither https nor http"),
        ("http://[".into(), "no URL"),
    ];
    for (to, why) in rows {
        server.fault("blobs", 6, Fault::Redirect(to));
        let error = read(&registry, &blob).expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.hint().is_none());
        server.heal();
    }
}

/// Addresses that a registry on this machine may not lead to, and no machine answers at once.
const INNER: [&str; 4] = ["169.254.169.254", "10.255.255.1", "0.0.0.0:9", "[::ffff:192.168.255.1]"];

fn assert_inward(error: &RegistryError, server: &FaultyRegistry) {
    assert!(matches!(error, RegistryError::Inward { .. }), "{error:?}");
    let line = error.line();
    assert!(line.contains(&server.host()) && line.contains("leads to"), "{line}");
    assert!(error.hint().is_some_and(|hint| hint.contains("name it by an address there")));
}

#[test]
fn a_registry_leads_only_into_its_own_network() {
    for start in [FaultyRegistry::start, FaultyRegistry::start_tls] {
        let server = start();
        let (blob, digest) = (server.add_blob(b"content"), server.add_manifest("12", MANIFEST, b"{}"));
        let scheme = server.url().split("://").next().unwrap_or_default().to_owned();
        for inner in INNER {
            let (registry, to) = (server.open("a/b"), format!("{scheme}://{inner}/admin"));
            let refused = |error: RegistryError| assert_inward(&error, &server);
            server.fault("HEAD", 9, Fault::Redirect(to.clone()));
            refused(registry.resolve("12").expect_err("a HEAD"));
            server.fault("manifests", 9, Fault::Redirect(to.clone()));
            refused(registry.document(Wanted::Digest(&digest), 100).expect_err("a document"));
            server.fault("GET", 9, Fault::Redirect(to.clone()));
            refused(read(&registry, &blob).expect_err("a blob"));
            server.heal();
            let way = [("location", to.clone())].to_vec();
            server.fault("POST", 9, Fault::Status(202, way, ""));
            refused(registry.put_blob(&blob, &b"content"[..]).expect_err("an upload"));
            server.heal();
            let realm = Some(format!("https://{inner}/token"));
            server.demand(Demand::Token { user: "", password: "", uses: 99, life: 300, realm });
            refused(registry.document(Wanted::Tag("12"), 100).expect_err("a token"));
            server.demand(Demand::Nothing);
            assert_eq!(read(&registry, &blob).expect("the registry itself"), b"content");
        }
    }
}

#[test]
fn a_redirect_may_be_written_in_many_ways() {
    let server = FaultyRegistry::start();
    let (blob, registry) = (server.add_blob(b"content"), server.open("a/b"));
    for to in [
        "//10.255.255.1/x",
        "http:\\\\10.255.255.1\\x",
        "http://0xaffff01/",
        "http://127.0.0.1@10.255.255.1/",
        "http://012.255.255.1/",
    ] {
        server.fault("blobs", 1, Fault::Redirect(to.into()));
        assert_inward(&read(&registry, &blob).expect_err(to), &server);
    }
}

#[test]
fn a_redirect_to_a_redirect_leads_nowhere_else() {
    let (server, other) = (FaultyRegistry::start(), FaultyRegistry::start());
    let (blob, registry) = (server.add_blob(b"content"), server.open("a/b"));
    server.fault("blobs", 9, Fault::Redirect(format!("{}/v2/hop", other.url())));
    other.fault("hop", 9, Fault::Redirect(format!("http://{}/", INNER[0])));
    assert_inward(&read(&registry, &blob).expect_err("two steps"), &server);
}

#[test]
fn a_mirror_that_leads_inwards_only_costs_a_warning() {
    let (server, mirror) = (FaultyRegistry::start(), FaultyRegistry::start());
    let blob = server.add_blob(b"content");
    mirror.fault("blobs", 9, Fault::Redirect(format!("http://{}/", INNER[0])));
    let registry = with_mirror(&server, &mirror_text(&mirror, ""));
    assert_eq!(read(&registry, &blob).expect("from the registry"), b"content");
    assert!(server.warned().contains("may not lead to"), "{}", server.warned());
}

fn with_mirror(server: &FaultyRegistry, text: &str) -> HttpRegistry {
    let path = server.home.path().join("etc/containers/registries.conf");
    write(&path, &format!("[[registry]]\nlocation = '{}/a'\ninsecure = true\n{text}", server.host()));
    server.open("a/b")
}

fn mirror_text(mirror: &FaultyRegistry, more: &str) -> String {
    format!("[[registry.mirror]]\nlocation = '{}/copy'\ninsecure = true\n{more}\n", mirror.host())
}

#[test]
fn a_mirror_is_asked_first() {
    let (server, mirror) = (FaultyRegistry::start(), FaultyRegistry::start());
    let digest = mirror.add_manifest("12", MANIFEST, b"{}");
    let blob = mirror.add_blob(b"content");
    let registry = with_mirror(&server, &mirror_text(&mirror, ""));
    assert_eq!(registry.resolve("12").expect("a digest"), digest);
    assert_eq!(read(&registry, &blob).expect("a blob"), b"content");
    assert_eq!(mirror.seen("/v2/copy/b/").len(), 2);
    assert!(server.seen("/").is_empty() && server.warned().is_empty());
}

#[test]
fn a_mirror_that_lies_or_fails_only_costs_a_warning() {
    let (server, mirror) = (FaultyRegistry::start(), FaultyRegistry::start());
    let digest = server.add_manifest("12", MANIFEST, b"{}");
    mirror.add_manifest(&digest.to_string(), MANIFEST, b"evil");
    let blob = server.add_blob(b"content");
    let registry = with_mirror(&server, &mirror_text(&mirror, "pull-from-mirror = 'digest-only'"));
    assert_eq!(registry.resolve("12").expect("a digest"), digest);
    assert!(mirror.seen("/").is_empty(), "it may not say what a tag means");
    assert_eq!(registry.document(Wanted::Digest(&digest), 9).expect("a document").0, b"{}");
    assert_eq!(mirror.seen("/").len(), 1);
    assert!(server.warned().contains("should have the digest"), "{}", server.warned());
    assert_eq!(read(&registry, &blob).expect("a blob"), b"content");
    assert_eq!(mirror.seen("/").len(), 1, "who failed once is not asked again");
}

#[test]
fn a_blob_that_a_mirror_breaks_off_goes_on_at_the_registry() {
    let (server, mirror) = (FaultyRegistry::start(), FaultyRegistry::start());
    let content = bytes(100_000);
    let blob = mirror.add_blob(&content);
    server.add_blob(&content);
    mirror.fault("blobs", 1, Fault::Truncate(40_000));
    mirror.fault("blobs", 99, Fault::Status(500, vec![], ""));
    let registry = with_mirror(&server, &mirror_text(&mirror, ""));
    assert_eq!(codec::digest(&read(&registry, &blob).expect("all of it")), blob.digest);
    assert_eq!(server.seen("blobs")[0].header("range"), Some("bytes=40000-"));
}

#[test]
fn a_blocked_registry_is_not_asked() {
    let server = FaultyRegistry::start();
    let path = server.home.path().join(".config/containers/registries.conf.d/1.conf");
    write(&path, &format!("[[registry]]\nprefix = '{}'\nblocked = true\n", server.host()));
    let Err(error) = server.open_with("a/b", &server.settings()) else { panic!("it is blocked") };
    assert!(error.to_string().contains("1.conf"), "{error}");
}
