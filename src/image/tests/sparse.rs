//! Sparse files in the two forms that are read, maps that lie, and the forms that are refused.

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

use super::{
    super::{
        Limits,
        testing::{Tar, TestStore, emitter, record, told},
    },
    yard::{
        Case,
        Then::{Holds, Refused},
        Yard, try_all,
    },
};

type Map<'a> = &'a [(u64, u64)];

const GNU: (usize, &[u8]) = (257, b"ustar  \0");
const TYPE: usize = 156;

fn octal(number: u64) -> Vec<u8> {
    // What does not fit is base-256, as GNU tar writes it.
    if number < 1 << 33 {
        format!("{number:011o}\0").into_bytes()
    } else {
        [&[0x80, 0, 0, 0][..], &number.to_be_bytes()].concat()
    }
}

fn fields(map: Map<'_>) -> Vec<u8> {
    map.iter().flat_map(|(offset, length)| [octal(*offset), octal(*length)].concat()).collect()
}

fn old(tar: Tar, size: u64, map: Map<'_>, stored: &[u8]) -> Tar {
    let (first, rest) = map.split_at(map.len().min(4));
    let more: Vec<u8> = rest
        .chunks(21)
        .enumerate()
        .flat_map(|(at, chunk)| {
            let mut block = fields(chunk);
            block.resize(512, 0);
            block[504] = u8::from((at + 1) * 21 < rest.len());
            block
        })
        .collect();
    let goes_on = [u8::from(!rest.is_empty())];
    // The blocks of map stand before the content, and the size does not count them.
    let (map, real, kept) = (fields(first), octal(size), octal(stored.len() as u64));
    let mut content = [&more, stored].concat();
    content.resize(content.len().next_multiple_of(512), 0);
    let patches: [(usize, &[u8]); 6] = [GNU, (TYPE, b"S"), (386, &map), (482, &goes_on), (483, &real), (124, &kept)];
    tar.patched("f", &patches, b"").raw(&content)
}

fn pax_1_0(tar: Tar, size: u64, map: Map<'_>, stored: &[u8]) -> Tar {
    let lines: String = map.iter().map(|(offset, length)| format!("{offset}\n{length}\n")).collect();
    tar.pax(&version_1(size)).patched("GNUSparseFile.1/f", &[], &with_map(&format!("{}\n{lines}", map.len()), stored))
}

fn version_1(size: u64) -> Vec<u8> {
    let size = size.to_string();
    [("major", "1"), ("minor", "0"), ("name", "f"), ("realsize", &size)]
        .map(|(key, value)| record(&format!("GNU.sparse.{key}"), value))
        .concat()
}

fn with_map(map: &str, stored: &[u8]) -> Vec<u8> {
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend(stored);
    content
}

type Form = fn(Tar, u64, Map<'_>, &[u8]) -> Tar;
const FORMS: [(&str, Form); 2] = [("old GNU", old), ("PAX 1.0", pax_1_0)];

// What is stored of each piece: a letter, over and over.
fn stored(map: Map<'_>) -> Vec<u8> {
    let letters = (b'a'..=b'z').cycle();
    map.iter().zip(letters).flat_map(|((_, length), letter)| vec![letter; *length as usize]).collect()
}

#[test]
fn every_form_becomes_the_same_file() {
    let long: Vec<(u64, u64)> = (0..60).map(|at| (at * 8192, 100 + at)).collect();
    let rows: [(u64, Map<'_>); 8] = [
        (0, &[]),
        (0, &[(0, 0)]),
        (1_000_000, &[(1_000_000, 0)]),
        (10, &[(0, 10)]),
        (700_000, &[(0, 5), (65_536, 1000), (600_000, 100_000)]),
        (700_000, &[(5, 5), (10, 5), (15, 0), (20, 5), (699_000, 0), (700_000, 0)]),
        (60 * 8192, &long),
        (25 * 8192, &long[..25]),
    ];
    for (form, make) in FORMS {
        for (size, map) in rows {
            let yard = Yard::new();
            let stored = stored(map);
            let bytes = make(Tar::default(), size, map, &stored).file("after", "still read").end();
            let done = yard.unpack(&bytes, Limits::default()).unwrap_or_else(|e| panic!("{form} {size}: {}", told(&e)));
            assert_eq!((done.entries, done.bytes), (2, size + 10), "{form}: holes count");
            let mut expected = vec![0; size as usize];
            let mut rest = &stored[..];
            for (offset, length) in map {
                let (piece, more) = rest.split_at(*length as usize);
                expected[*offset as usize..][..piece.len()].copy_from_slice(piece);
                rest = more;
            }
            let found = fs::read(yard.root().join("f")).expect("a file");
            assert!(found == expected, "{form} {size}: {} bytes, not what they should be", found.len());
            assert_eq!(fs::read_to_string(yard.root().join("after")).expect("a file"), "still read", "{form}");
        }
    }
}

#[test]
fn ten_gibibytes_of_hole_cost_nothing() {
    let size = 10 << 30;
    for (form, make) in FORMS {
        let yard = Yard::new();
        let map = [(1 << 20, 4), (size - 8, 4)];
        let bytes = make(Tar::default(), size, &map, b"headtail").end();
        yard.unpack(&bytes, Limits::default()).unwrap_or_else(|error| panic!("{form}: {}", told(&error)));
        let file = fs::File::open(yard.root().join("f")).expect("a file");
        let meta = file.metadata().expect("metadata");
        assert_eq!((meta.len(), meta.mode() & 0o777, meta.mtime()), (size, 0o644, 1_000_000_000), "{form}");
        assert!(meta.blocks() * 512 < 10 << 20, "{form}: {} blocks are on the disk", meta.blocks());
        let mut tail = [1; 12];
        file.read_exact_at(&mut tail, size - 12).expect("the end");
        assert_eq!(tail, *b"\0\0\0\0tail\0\0\0\0", "{form}");
    }
}

fn lies(form: &str, make: Form) -> Vec<Case> {
    let case = |what: &str| -> &'static str { format!("{form}: {what}").leak() };
    let tar = |size, map: Map<'_>, stored: &[u8]| make(Tar::default(), size, map, stored);
    let far = u64::MAX >> 1;
    vec![
        (case("pieces in disorder"), tar(20, &[(10, 2), (0, 2)], b"1234"), Refused("not in order")),
        (case("overlapping pieces"), tar(20, &[(0, 5), (4, 2)], b"1234567"), Refused("overlap")),
        (case("a piece beyond the end"), tar(20, &[(19, 2)], b"12"), Refused("beyond its end")),
        (case("an empty piece beyond the end"), tar(20, &[(21, 0)], b""), Refused("beyond its end")),
        (case("a piece beyond all numbers"), tar(far, &[(far, far)], b""), Refused("beyond its end")),
        (case("more stored than mapped"), tar(20, &[(0, 2)], b"123"), Refused("not as long as")),
        (case("less stored than mapped"), tar(20, &[(0, 4)], b"123"), Refused("not as long as")),
        (case("nothing mapped"), tar(20, &[], b"123"), Refused("not as long as")),
        (case("larger than a file may be"), tar(17 << 30, &[], b""), Refused("bytes of one file (17179869184)")),
        (case("the largest size there is"), tar(far, &[(far, 0)], b""), Refused("bytes of one file")),
    ]
}

fn old_lies() -> Vec<Case> {
    let sparse = |patches: &[(usize, &[u8])], content: &[u8]| {
        let all: Vec<(usize, &[u8])> = [&[GNU, (TYPE, &b"S"[..])][..], patches].concat();
        Tar::default().patched("f", &all, content)
    };
    let (full, part) = (fields(&[(0, 1), (1, 1), (2, 1), (3, 1)]), fields(&[(0, 1)]));
    let (size, negative) = (octal(10), [0xff; 12]);
    vec![
        ("not GNU's header", sparse(&[(257, b"ustar\x0000"), (483, &size)], b""), Refused("without a size")),
        ("a negative size", sparse(&[(483, &negative)], b""), Refused("without a size")),
        (
            "a negative offset",
            sparse(&[(386, &negative), (398, &part[12..]), (483, &size)], b"1"),
            Refused("damaged map"),
        ),
        ("a negative length", sparse(&[(386, &part), (398, &negative), (483, &size)], b"1"), Refused("damaged map")),
        ("letters", sparse(&[(386, b"elevenelevenelevenelevn"), (483, &size)], b"1"), Refused("damaged map")),
        ("an offset alone", sparse(&[(386, &part[..12]), (483, &size)], b""), Refused("damaged map")),
        ("a length alone", sparse(&[(398, &part[12..]), (483, &size)], b"1"), Refused("damaged map")),
        (
            "a map that goes on after its end",
            sparse(&[(386, &part), (482, &[1]), (483, &size)], b"1"),
            Refused("goes on after its end"),
        ),
        (
            "an empty block of map",
            sparse(&[(386, &full), (482, &[1]), (483, &size)], b"").raw(&[0; 504]).raw(&[1; 8]),
            Refused("goes on after its end"),
        ),
        (
            "half a map",
            sparse(&[(386, &full), (482, &[1]), (483, &size)], b"").raw(&[0; 100]).unended(),
            Refused("truncated"),
        ),
        (
            "half a map, none of it",
            sparse(&[(386, &full), (482, &[1]), (483, &size)], b"").unended(),
            Refused("truncated"),
        ),
        (
            "both forms at once",
            Tar::default().pax(&version_1(10)).raw(&sparse(&[(483, &size)], b"").bytes),
            Refused("its type cannot be"),
        ),
    ]
}

fn pax_lies() -> Vec<Case> {
    let pax = |records: &[(&str, &str)]| {
        let records = records.iter().map(|(key, value)| record(&format!("GNU.sparse.{key}"), value));
        Tar::default().pax(&records.collect::<Vec<_>>().concat())
    };
    let text = |map: &str, stored: &[u8]| Tar::default().pax(&version_1(100)).patched("x", &[], &with_map(map, stored));
    let sized = |records: &[(&str, &str)]| pax(&[&[("realsize", "10")], records].concat()).file("f", "12");
    let other =
        "in a form other than PAX 1.0 and old GNU; pack it again without --sparse, or with --sparse-version=1.0";
    let many = "9".repeat(20);
    vec![
        ("a size alone", pax(&[("realsize", "99999999999999")]).file("x", ""), Refused(other)),
        ("a name alone", pax(&[("name", "../x")]).file("x", ""), Refused(other)),
        (
            "PAX 0.0",
            pax(&[("size", "10"), ("numblocks", "1"), ("offset", "0"), ("numbytes", "2")]).file("f", "12"),
            Refused(other),
        ),
        (
            "PAX 0.1",
            pax(&[("size", "10"), ("numblocks", "1"), ("map", "0,2"), ("name", "f")]).file("x", "12"),
            Refused(other),
        ),
        ("a version of the future", sized(&[("major", "2"), ("minor", "0")]), Refused(other)),
        ("half a version", sized(&[("major", "1")]), Refused(other)),
        ("a map of PAX 0.1 in PAX 1.0", sized(&[("major", "1"), ("minor", "0"), ("map", "0,2")]), Refused(other)),
        ("a size of PAX 0.1 in PAX 1.0", sized(&[("major", "1"), ("minor", "0"), ("size", "9")]), Refused(other)),
        ("no size", pax(&[("major", "1"), ("minor", "0")]).file("x", ""), Refused("without a size")),
        (
            "a name that climbs",
            pax(&[("major", "1"), ("minor", "0"), ("name", "../victim/file"), ("realsize", "2")]).patched(
                "x",
                &[],
                &with_map("1\n0\n2\n", b"12"),
            ),
            Refused("has `..`"),
        ),
        ("a negative size", sized(&[("realsize", "-1")]), Refused("damaged value")),
        ("a sparse folder", Tar::default().pax(&version_1(0)).folder("d", 0o755), Refused("its type cannot be")),
        ("a sparse link", Tar::default().pax(&version_1(0)).symlink("d", "x"), Refused("its type cannot be")),
        ("a map in the content, without one", text("", b""), Refused("damaged map")),
        ("a map that does not end", text(&format!("300\n{}", "0\n0\n".repeat(127)), b""), Refused("damaged map")),
        ("a map longer than the content", text("300\n", &[]), Refused("damaged map")),
        ("a map of letters", text("x\n", &[]), Refused("damaged map")),
        ("a map with an empty line", text("\n", &[]), Refused("damaged map")),
        ("a map with a long line", text(&format!("1\n0\n{many}\n"), b""), Refused("damaged map")),
        ("half a map in the content", text("300\n", &[0; 2000]).cut(2512), Refused("truncated")),
        (
            "a million pieces promised",
            text("1000000\n", b""),
            Refused("`f` exceeds the limit for pieces of a sparse file (100000)"),
        ),
        ("sparse, then not", pax_1_0(Tar::default(), 10, &[(0, 2)], b"12").file("x", "plain"), Holds("x", "plain")),
    ]
}

#[test]
fn maps_that_lie_are_refused() {
    for (form, make) in FORMS {
        try_all(lies(form, make));
    }
    try_all(old_lies());
    try_all(pax_lies());
}

#[test]
fn the_archive_of_an_image_holds_no_sparse_file() {
    let test = TestStore::new();
    let records = [("major", "1"), ("minor", "0"), ("realsize", "9"), ("name", "index.json")];
    let records = records.map(|(key, value)| record(&format!("GNU.sparse.{key}"), value));
    let content = with_map("1\n0\n2\n", b"{}");
    let tar = Tar::default().file("oci-layout", "{}").pax(&records.concat()).patched("x", &[], &content).end();
    let path = test.home.path().join("image.tar");
    fs::write(&path, tar).expect("an archive");
    let error = test.store.import(&path, None, &"image".parse().expect("a name"), &emitter().0).expect_err("refused");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(
        source.contains("`index.json` is a sparse file") && source.contains("without --sparse"),
        "{error}: {source}"
    );
    assert_eq!(test.counts(), [0; 4]);
}

#[test]
fn the_pieces_of_a_map_are_limited() {
    let limits = Limits { pieces: 50, ..Limits::default() };
    let map: Vec<(u64, u64)> = (0..51).map(|at| (at * 2, 1)).collect();
    for (form, make) in FORMS {
        for (count, fits) in [(50, true), (51, false)] {
            let yard = Yard::new();
            let bytes = make(Tar::default(), 1000, &map[..count], &vec![b'x'; count]).end();
            match yard.unpack(&bytes, limits) {
                Ok(_) => assert!(fits, "{form}"),
                Err(error) => {
                    assert!(!fits && told(&error).contains("pieces of a sparse file (50)"), "{form}: {}", told(&error))
                }
            }
        }
    }
}
