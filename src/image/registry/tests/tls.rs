//! Hostile TLS and HTTP/2: every exchange ends, with an error.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use super::*;
use crate::image::registry::{Wanted, settings::Patience, testing::Talk};

#[test]
fn a_certificate_that_proves_nothing_gets_no_request() {
    type Parameters = rcgen::CertificateParams;
    let other = |parameters: &mut Parameters| {
        *parameters = Parameters::new(["other.example".to_owned()]).expect("a name");
    };
    let old = |parameters: &mut Parameters| parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let servers = [FaultyRegistry::start_tls_with(other, None), FaultyRegistry::start_tls_with(old, None)];
    for (server, why) in servers.iter().zip(["not valid for name", "expired"]) {
        log_in(server, &server.host(), "user", "secret");
        let error = server.open("a/b").resolve("12").expect_err(why);
        assert!(error.is_certificate() && error.line().contains(why), "{}", error.line());
        assert!(server.seen("/").is_empty());
    }
    // One that speaks no TLS at all.
    let plain = FaultyRegistry::start();
    let settings = super::super::Settings { insecure: false, ..plain.settings() };
    let error = plain.open_with("a/b", &settings).expect("good settings").resolve("12").expect_err("no TLS");
    assert!(matches!(error, RegistryError::Connection { .. }), "{error:?}");
    assert!(plain.seen("HTTP").is_empty());
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK's static table.
const OK: u8 = 0x88;

// RFC 9113, section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads up to the next request; says the number of its stream.
fn request(stream: &mut impl Read) -> io::Result<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [_, a, b, kind, _, id @ ..] = head;
        let length = u64::from(u32::from_be_bytes([0, head[0], a, b]));
        io::copy(&mut stream.take(length), &mut io::sink())?;
        if kind == HEADERS {
            return Ok(u32::from_be_bytes(id));
        }
    }
}

fn greet(stream: &mut (impl Read + Write)) -> io::Result<u32> {
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    request(stream)
}

/// Until the other side has had enough.
fn for_ever(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let many = bytes.repeat((1 << 16) / bytes.len() + 1);
    loop {
        stream.write_all(&many)?;
    }
}

const TALKS: [(&str, Talk); 14] = [
    ("silence", |stream| greet(stream).and_then(|_| request(stream)).map(drop)),
    ("go away", |stream| {
        greet(stream)?;
        stream.write_all(&frame(GO_AWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]))
    }),
    ("each request refused", |stream| {
        let mut id = greet(stream)?;
        loop {
            stream.write_all(&frame(RESET, 0, id, &[0, 0, 0, 7]))?;
            id = request(stream)?;
        }
    }),
    ("data without bytes", |stream| {
        let id = greet(stream)?;
        stream.write_all(&frame(HEADERS, END_HEADERS, id, &[OK]))?;
        for_ever(stream, &frame(DATA, 0, id, &[]))
    }),
    ("data that is all padding", |stream| {
        let id = greet(stream)?;
        stream.write_all(&frame(HEADERS, END_HEADERS, id, &[OK]))?;
        for_ever(stream, &frame(DATA, 8, id, &[[200].as_slice(), &[0; 200]].concat()))
    }),
    ("data without an end", |stream| {
        let id = greet(stream)?;
        stream.write_all(&frame(HEADERS, END_HEADERS, id, &[OK]))?;
        for_ever(stream, &frame(DATA, 0, id, &[b'x'; 16_000]))
    }),
    ("headers that go on", |stream| {
        let id = greet(stream)?;
        stream.write_all(&frame(HEADERS, 0, id, &[OK]))?;
        for_ever(stream, &frame(CONTINUATION, 0, id, &[0, 1, b'a', 1, b'b'].repeat(3000)))
    }),
    ("a header again and again by its number", |stream| {
        let id = greet(stream)?;
        let long = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
        stream.write_all(&frame(HEADERS, END_HEADERS, id, &[&[OK][..], &long, &[0xbe; 12_000]].concat()))?;
        request(stream).map(drop)
    }),
    ("answers that are none yet", |stream| {
        let id = greet(stream)?;
        for_ever(stream, &frame(HEADERS, END_HEADERS, id, &[8, 3, b'1', b'0', b'3']))
    }),
    ("settings without an end", |stream| {
        greet(stream)?;
        for_ever(stream, &frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]))
    }),
    ("pings without an end", |stream| {
        greet(stream)?;
        for_ever(stream, &frame(PING, 0, 0, &[0; 8]))
    }),
    ("a promise to push", |stream| {
        let id = greet(stream)?;
        stream.write_all(&frame(PUSH, END_HEADERS, id, &[0, 0, 0, 2, 0x82]))?;
        request(stream).map(drop)
    }),
    ("a frame larger than allowed", |stream| {
        let id = greet(stream)?;
        stream.write_all(&frame(HEADERS, END_HEADERS, id, &[OK]))?;
        for_ever(stream, &frame(DATA, 0, id, &[b'x'; 100_000]))
    }),
    ("a window larger than there can be", |stream| {
        let id = greet(stream)?;
        stream.write_all(&frame(WINDOW, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2))?;
        stream.write_all(&frame(HEADERS, END_HEADERS, id, &[OK]))?;
        request(stream).map(drop)
    }),
];

#[test]
fn whatever_is_said_in_http_2_ends() {
    for (what, talk) in TALKS {
        let server = FaultyRegistry::start_tls_with(|_| {}, Some(talk));
        let mut settings = server.settings();
        let short = Duration::from_millis(300);
        settings.patience = Patience { idle: short, window: short, retries: 1, ..settings.patience };
        let registry = server.open_with("a/b", &settings).expect("good settings");
        let error = registry.document(Wanted::Tag("12"), 1000).expect_err(what);
        let fits = error.is_temporary() || matches!(error, RegistryError::TooLarge { .. });
        assert!(fits, "{what}: {}", error.line());
        let blob = Descriptor { media_type: String::new(), digest: crate::image::codec::digest(b""), size: 1000 };
        read(&registry, &blob).expect_err(what);
    }
}
