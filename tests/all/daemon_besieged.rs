//! A daemon of several customers keeps what each of them may take: memory, connections, disk, and what they know of each other.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
};

use prost::Message as _;
use tonic::{Code, Status};

use super::{
    daemon_fixture::{Caller, Served},
    registry_images::hex_of,
};

/// `MissingBlobsRequest` and its answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Digests {
    #[prost(string, repeated, tag = "1")]
    digests: Vec<String>,
}

/// `UploadBlobRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct Upload {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

fn upload(caller: &Caller, bytes: &[u8]) -> Result<(), Status> {
    let (digest, size) = (format!("sha256:{}", hex_of(bytes)), bytes.len() as u64);
    caller.bytes("UploadBlob", Upload { digest, size, data: bytes.into() }.encode_to_vec()).map(drop)
}

fn missing(caller: &Caller, bytes: &[u8]) -> bool {
    let wanted = Digests { digests: vec![format!("sha256:{}", hex_of(bytes))] };
    let answer: Digests = caller.call("MissingBlobs", &wanted).expect("an answer");
    answer == wanted
}

/// A caller that may start builds of one customer.
fn customer(served: &Served, name: &str) -> Caller {
    served.caller_with(&served.token(name, &["--scope", "submit", "--customer", name]))
}

/// What the daemon keeps of all customers.
fn blobs(served: &Served) -> usize {
    let names = fs::read_dir(served.smidr.join("daemon/blobs")).expect("a folder").flatten();
    names.filter(|entry| entry.path().is_file()).count()
}

/// Behind one address there are many clients: those whose token is good are answered.
#[test]
fn wrong_tokens_keep_no_good_ones_out() {
    let served = Served::paused();
    let good = served.token("good", &["--scope", "read"]);
    let wrong = served.token_file("wrong", &format!("smidr_{}", "1".repeat(64)));
    let is_limited = || served.client_with(&wrong, &["list"]).run().err.contains("too many wrong tokens");
    assert!((0..20).any(|_| is_limited()), "wrong tokens are not limited");
    served.client_with(&good, &["list"]).run().expect_code(0);
}

/// Without a credential, there are no streams without an end.
#[test]
fn health_is_not_watched() {
    let served = Served::paused();
    let mut socket = UnixStream::connect(served.smidr.join("daemon/daemon.sock")).expect("a connection");
    let head = "Host: x\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    write!(socket, "POST /grpc.health.v1.Health/Watch HTTP/1.1\r\n{head}\0\0\0\0\0").expect("sent");
    // A server that answers before it has read the body resets the connection behind its answer.
    let mut answer = Vec::new();
    let ended = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("grpc-status: 12"), "{answer}, {ended:?}");
}

#[test]
fn a_customer_knows_the_blobs_that_it_has_sent() {
    let served = Served::paused();
    let [acme, beta] = ["acme", "beta"].map(|name| customer(&served, name));
    let layer = b"the archive of a path layer";
    upload(&acme, layer).expect("taken");
    assert!(!missing(&acme, layer) && !missing(&served.caller(), layer));
    assert!(missing(&beta, layer), "the blob of another customer");
    upload(&beta, layer).expect("taken");
    assert!(!missing(&beta, layer) && !missing(&acme, layer));
    assert_eq!(blobs(&served), 1);
}

#[test]
fn all_blobs_have_a_bounded_size() {
    let served = Served::paused();
    fs::write(served.smidr.join("daemon.yaml"), "limits: {blobs_size: 1m}\n").expect("a file");
    served.daemon(&["reload"]).expect_code(0);
    let acme = customer(&served, "acme");
    let sent = |byte: u8| upload(&acme, &vec![byte; 600 << 10]);
    sent(1).expect("room");
    let full = sent(2).expect_err("no room");
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    assert!(full.message().contains("1048576"), "{full:?}");
    assert_eq!(blobs(&served), 1);
    sent(1).expect("it is here already");
}
