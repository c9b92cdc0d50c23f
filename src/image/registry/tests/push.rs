//! Writing.

use std::io::Cursor;

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

fn described(content: &[u8]) -> Descriptor {
    let (media_type, size) = ("application/octet-stream".into(), content.len() as u64);
    Descriptor { media_type, digest: codec::digest(content), size }
}

#[test]
fn what_is_pushed_can_be_pulled() {
    let server = FaultyRegistry::start_tls();
    server.demand(Demand::Token { user: "me", password: "word", uses: 99, life: 300, realm: None });
    log_in(&server, &server.host(), "me", "word");
    let (registry, content) = (server.open("a/b"), bytes(300_000));
    let blob = described(&content);
    assert!(!registry.has_blob(&blob.digest).expect("an answer"));
    registry.put_blob(&blob, Cursor::new(content.clone())).expect("it is taken");
    assert!(registry.has_blob(&blob.digest).expect("an answer"));
    assert_eq!(server.blob(&blob.digest), Some(content.clone()));
    let digest = registry.put_manifest(Wanted::Tag("12"), MANIFEST, b"{}").expect("it is taken");
    assert_eq!(digest, codec::digest(b"{}"));
    assert_eq!(server.manifest("12"), Some((MANIFEST.into(), b"{}".to_vec())));
    assert_eq!(read(&registry, &blob).expect("a blob"), content);
    let scopes: Vec<_> = server.seen("/token").iter().map(|seen| seen.path.contains("pull%2Cpush")).collect();
    assert_eq!(scopes, [true, false], "a token per purpose");
    assert!(server.seen("PUT")[0].path.contains("state=x%2Fy&digest=sha256"), "{}", server.seen("PUT")[0].path);
}

#[test]
fn an_upload_elsewhere_gets_no_credentials() {
    let (server, other) = (FaultyRegistry::start(), FaultyRegistry::start());
    server.demand(Demand::Token { user: "", password: "", uses: 99, life: 300, realm: None });
    let registry = server.open("a/b");
    let blob = described(b"content");
    registry.has_blob(&blob.digest).expect("an answer");
    let elsewhere = format!("{}/v2/x/blobs/uploads/y", other.url());
    server.fault("POST", 1, Fault::Status(202, vec![("location", elsewhere)], ""));
    registry.put_blob(&blob, Cursor::new(b"content")).expect("it is taken");
    assert_eq!(other.seen("PUT")[0].header("authorization"), None);
    assert_eq!(other.blob(&blob.digest), Some(b"content".to_vec()));
}

#[test]
fn what_is_not_as_described_fails() {
    let server = FaultyRegistry::start();
    let registry = server.open("a/b");
    let blob = described(b"content");
    assert!(registry.put_blob(&blob, Cursor::new(b"short")).is_err());
    assert!(registry.put_blob(&blob, Cursor::new(b"CONTENT")).is_err());
    let other = codec::digest(b"other").to_string();
    server.fault("PUT", 1, Fault::Header("docker-content-digest", other));
    assert!(matches!(registry.put_manifest(Wanted::Tag("x"), MANIFEST, b"{}"), Err(RegistryError::Digest { .. })));
}

#[test]
fn uploads_do_not_leave_tls() {
    let server = FaultyRegistry::start_tls();
    for location in ["http://127.0.0.1:1/x", "file:///x"] {
        server.fault("POST", 1, Fault::Status(202, vec![("location", location.into())], ""));
        let error = server.open("a/b").put_blob(&described(b"x"), Cursor::new(b"x")).expect_err(location);
        assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    }
    server.fault("POST", 1, Fault::Status(202, vec![], ""));
    let error = server.open("a/b").put_blob(&described(b"x"), Cursor::new(b"x")).expect_err("no place");
    assert!(error.to_string().contains("where to send it") && error.hint().is_none(), "{error}");
}
