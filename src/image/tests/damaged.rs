//! Archives whose headers lie, contradict each other, or end too early: each is a row of what public suites test, written
//! fresh (Go's archive/tar, tar-rs, tokio-tar, libarchive; CVE-2025-62518, CVE-2026-33055, CVE-2022-2879, CVE-2019-20907).

use tar::EntryType;

use super::{
    super::{
        Limits,
        testing::{Tar, record},
    },
    yard::{
        Case,
        Then::{Folder, Holds, Lacks, Refused},
        Yard, try_all,
    },
};

fn contradictions() -> Vec<Case> {
    let tar = Tar::default;
    vec![
        ("a hard link with content", tar().entry("x", EntryType::Link, 0o644, "y", b"content"), Refused("has content")),
        (
            "a folder with content",
            tar().entry("x/", EntryType::Directory, 0o755, "", &[0; 512]),
            Refused("has content"),
        ),
        (
            "a PAX size larger than the header's",
            tar().pax(&record("size", "7000")).file("x", "short"),
            Refused("truncated"),
        ),
        ("a PAX size that is no number", tar().pax(&record("size", "+5")).file("x", "short"), Refused("damaged value")),
        ("a PAX size that is negative", tar().pax(&record("size", "-1")).file("x", "short"), Refused("damaged value")),
        (
            "a PAX size beyond 63 bits",
            tar().pax(&record("size", "9223372036854775808")).file("x", ""),
            Refused("damaged value"),
        ),
        ("a PAX record that is too long", tar().pax(b"99 path=x\n").file("x", ""), Refused("damaged PAX")),
        ("a PAX record without its end", tar().pax(b"9 path=xy").file("x", ""), Refused("damaged PAX")),
        ("a PAX record of no length", tar().pax(b"0 path=x\n").file("x", ""), Refused("damaged PAX")),
        ("a PAX record without a key", tar().pax(b"5 =x\n").file("x", ""), Refused("damaged PAX")),
        (
            "two PAX headers",
            tar().pax(&record("path", "a")).pax(&record("path", "b")).file("x", ""),
            Refused("two extended headers"),
        ),
        ("a PAX header for nothing", tar().pax(&record("path", "a")), Refused("truncated")),
        (
            "PAX, then a GNU name: the size is the file's",
            tar().pax(&record("size", "5")).entry("L", EntryType::GNULongName, 0, "", b"named\0").file("x", "right"),
            Holds("named", "right"),
        ),
        (
            "a global PAX header",
            tar().entry("g", EntryType::XGlobalHeader, 0, "", &record("path", "../evil")).file("x", "in"),
            Holds("x", "in"),
        ),
        ("an unknown type", tar().entry("x", EntryType::new(b'Z'), 0o644, "", b""), Refused("of a type")),
        ("a lone block of zeros", tar().file("x", "y").raw(&[0; 512]).file("z", "y"), Refused("lone block")),
        ("garbage", tar().raw(&[b'x'; 1024]), Refused("wrong checksum")),
        ("half a header", tar().file("x", "y").raw(&[b'x'; 100]).unended(), Refused("truncated")),
        (
            "half a content",
            tar().entry("x", EntryType::Regular, 0o644, "", &[b'x'; 1000]).cut(600),
            Refused("truncated"),
        ),
        ("half a padding", tar().file("x", "y").cut(100), Refused("truncated")),
        ("half an extended header", tar().pax(&record("path", "a")).cut(510), Refused("truncated")),
        ("a content that is not there", tar().patched("x", &[(124, b"00000010000\0")], b""), Refused("truncated")),
    ]
}

// What some reader took for something else, and what it is.
fn disputed() -> Vec<Case> {
    let tar = Tar::default;
    let inner = tar().file("inner", "hidden").bytes;
    let long = |letter: u8, name: &[u8]| (EntryType::new(letter), name.to_vec());
    let with = |tar: Tar, (kind, name): (EntryType, Vec<u8>)| tar.entry("././@LongLink", kind, 0, "", &name);
    let (global, comment) = (EntryType::XGlobalHeader, record("comment", "by git"));
    let star: [(usize, &[u8]); 3] = [(257, b"ustar\x0000"), (345, b"dir"), (476, b"00000000000 00000000000 ")];
    vec![
        (
            "an entry inside of a file stays inside, says PAX (TARmageddon)",
            tar().pax(&record("size", "1024")).patched("x", &[(124, &[b'0'; 11])], &inner),
            Lacks("inner"),
        ),
        (
            "a file that PAX makes empty hides no entry",
            tar().pax(&record("size", "0")).patched("x", &[(124, b"00000002000\0")], b"").raw(&inner),
            Holds("inner", "hidden"),
        ),
        (
            "PAX, then a GNU name, then an entry that only the header's size would show",
            with(tar().pax(&record("size", "1024")), long(b'L', b"big\0")).patched("x", &[], b"").raw(&inner),
            Lacks("inner"),
        ),
        (
            "a GNU name, then PAX: the size is the file's",
            with(tar(), long(b'L', b"named\0")).pax(&record("size", "5")).file("x", "right"),
            Holds("named", "right"),
        ),
        (
            "PAX's name goes before GNU's",
            with(tar().pax(&record("path", "pax")), long(b'L', b"gnu\0")).file("x", "in"),
            Holds("pax", "in"),
        ),
        (
            "whichever comes first",
            with(tar(), long(b'L', b"gnu\0")).pax(&record("path", "pax")).file("x", "in"),
            Holds("pax", "in"),
        ),
        (
            "PAX's target goes before GNU's",
            with(tar().pax(&record("linkpath", "pax")), long(b'K', b"gnu\0")).symlink("x", "own"),
            Holds("x", "-> pax"),
        ),
        (
            "PAX's name is for the file, not for the target between",
            with(tar().pax(&record("path", "named")), long(b'K', b"target\0")).symlink("x", "own"),
            Holds("named", "-> target"),
        ),
        (
            "a global header between takes nothing away",
            tar().pax(&record("path", "named")).entry("g", global, 0, "", &comment).file("x", "in"),
            Holds("named", "in"),
        ),
        (
            "a global size is not listened to",
            tar().entry("g", global, 0, "", &record("size", "1024")).file("x", "in").file("y", "too"),
            Holds("y", "too"),
        ),
        ("a damaged global header", tar().entry("g", global, 0, "", b"99 x\n").file("x", "in"), Refused("damaged PAX")),
        (
            "extended headers without an end",
            (0..100).fold(tar(), |tar, _| tar.entry("g", global, 0, "", &comment)).file("x", "in"),
            Refused("more extended headers"),
        ),
        ("two GNU names", with(with(tar(), long(b'L', b"a")), long(b'L', b"b")).file("x", ""), Refused("two extended")),
        (
            "two GNU targets",
            with(with(tar(), long(b'K', b"a")), long(b'K', b"b")).symlink("x", "y"),
            Refused("two ext"),
        ),
        ("a GNU name for nothing", with(tar(), long(b'L', b"a\0")), Refused("truncated")),
        ("an empty GNU name says nothing", with(tar(), long(b'L', b"\0")).file("x", "in"), Holds("x", "in")),
        ("a GNU name without its NUL", with(tar(), long(b'L', b"named")).file("x", "in"), Holds("named", "in")),
        ("a GNU name with many", with(tar(), long(b'L', b"named\0\0\0")).file("x", "in"), Holds("named", "in")),
        ("a GNU name that goes on after one", with(tar(), long(b'L', b"x\0/../y\0")).file("x", ""), Refused("NUL")),
        (
            "a GNU name before a header with a prefix",
            with(tar(), long(b'L', b"gnu/name\0")).patched("x", &[(257, b"ustar\x0000"), (345, b"prefix")], b"in"),
            Holds("gnu/name", "in"),
        ),
        ("a prefix", tar().patched("x", &[(257, b"ustar\x0000"), (345, b"dir/a")], b"in"), Holds("dir/a/x", "in")),
        ("a prefix that climbs", tar().patched("x", &[(257, b"ustar\x0000"), (345, b"..")], b""), Refused("has `..`")),
        ("a prefix beside star's times", tar().patched("x", &star, b"in"), Holds("dir/x", "in")),
        (
            "no prefix, but GNU's times",
            tar().patched("x", &[(257, b"ustar  \0"), (345, b"0123")], b"in"),
            Holds("x", "in"),
        ),
        ("NUL in a PAX key", tar().pax(b"13 SCHILY\0=x\n").file("x", ""), Refused("damaged PAX")),
        ("NUL in a PAX target", tar().pax(&record("linkpath", "a\0b")).symlink("x", "y"), Refused("NUL")),
        ("an empty PAX name says nothing", tar().pax(&record("path", "")).file("x", "in"), Holds("x", "in")),
        ("an unknown PAX key", tar().pax(&record("VENDOR.path", "../x")).file("x", "in"), Holds("x", "in")),
        ("a PAX time that is none", tar().pax(&record("mtime", "soon")).file("x", ""), Refused("damaged value")),
        ("a PAX header full of zeros", tar().pax(&[0; 512]).file("x", ""), Refused("damaged PAX")),
        ("an empty PAX header", tar().pax(b"").file("x", "in"), Holds("x", "in")),
        (
            "a volume's label",
            tar().entry("../label", EntryType::new(b'V'), 0, "", b"").file("x", "in"),
            Holds("x", "in"),
        ),
        (
            "fields of spaces",
            tar().patched("x", &[(100, &[b' '; 24]), (124, b"          2 ")], b"in"),
            Holds("x", "in"),
        ),
        ("blank fields", tar().patched("x", &[(100, &[0; 48])], b"").file("y", "in"), Holds("y", "in")),
        ("a size with a sign", tar().patched("x", &[(124, b"+0000000002\0")], b"in"), Refused("proper size")),
        ("a negative size", tar().patched("x", &[(124, b"-0000000002\0")], b"in"), Refused("proper size")),
        ("a mode that is none", tar().patched("x", &[(100, b"rw-r--r-")], b"in"), Refused("proper mode")),
        ("a time that is none", tar().patched("x", &[(136, b"yesterday..\0")], b"in"), Holds("x", "in")),
        ("a time before all others", tar().patched("x", &[(136, &[0xff; 12])], b"in"), Holds("x", "in")),
        (
            "a time after all others",
            tar().patched("x", &[(136, b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")], b"in"),
            Holds("x", "in"),
        ),
        ("an old folder", tar().patched("d/", &[(156, &[0])], b""), Folder("d")),
        (
            "an old folder, by its PAX name",
            tar().pax(&record("path", "d/")).patched("x", &[(156, &[0])], b""),
            Folder("d"),
        ),
        ("a file with a slash behind it", tar().file("x/", "in"), Holds("x", "in")),
        ("a link with a slash behind it", tar().symlink("x/", "y"), Holds("x", "-> y")),
        ("an old file", tar().patched("x", &[(156, &[0])], b"in"), Holds("x", "in")),
        ("a contiguous file", tar().patched("x", &[(156, b"7")], b"in"), Holds("x", "in")),
        ("GNU's incremental folder", tar().patched("d/", &[(156, b"D")], b"Yx\0"), Refused("of a type")),
        ("the rest of a volume before", tar().patched("x", &[(156, b"M")], b"in"), Refused("of a type")),
        ("Solaris's extended header", tar().entry("x", EntryType::new(b'X'), 0, "", &comment), Refused("of a type")),
        ("no end", tar().file("x", "in").unended(), Holds("x", "in")),
        ("one block of zeros for an end", tar().file("x", "in").raw(&[0; 512]).unended(), Holds("x", "in")),
        ("an entry after the end", tar().file("x", "in").raw(&[0; 1024]).file("y", "late"), Lacks("y")),
        ("nothing at all", tar(), Lacks("x")),
        ("an attribute without a name", tar().pax(&record("SCHILY.xattr.", "x")).file("x", "in"), Holds("x", "in")),
        (
            "an attribute longer than all names",
            tar().pax(&record(&format!("SCHILY.xattr.user.{}", "n".repeat(300)), "x")).file("x", "in"),
            Holds("x", "in"),
        ),
        (
            "an attribute larger than all values",
            tar().pax(&record("SCHILY.xattr.user.x", &"n".repeat(70_000))).file("x", "in"),
            Holds("x", "in"),
        ),
        ("two files of one name", tar().file("x", "first").file("x", "second"), Holds("x", "second")),
        ("two folders of one name", tar().folder("d", 0o700).folder("d/", 0o755).file("d/x", "in"), Holds("d/x", "in")),
        ("bytes that are no text", tar().pax(b"10 path=\xff\n").file("x", "in"), Lacks("x")),
    ]
}

#[test]
fn what_parsers_dispute_is_settled() {
    try_all(disputed());
}

#[test]
fn contradictions_are_refused() {
    try_all(contradictions());
}

#[test]
fn a_header_that_promises_more_than_the_limits_costs_nothing() {
    let mut header = Tar::default().entry("x", EntryType::Regular, 0o644, "", b"").bytes;
    for (field, expected) in [
        ([0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "bytes of one file"),
        ([0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], "without a proper size"),
        ([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], "without a proper size"),
        ([0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], "without a proper size"),
        (*b"not octal!!!", "without a proper size"),
    ] {
        header[124..136].copy_from_slice(&field);
        let mut fixed = tar::Header::new_old();
        fixed.as_mut_bytes().copy_from_slice(&header);
        fixed.set_cksum();
        let yard = Yard::new();
        let error = yard.unpack(fixed.as_bytes(), Limits::default()).expect_err("refused");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}
