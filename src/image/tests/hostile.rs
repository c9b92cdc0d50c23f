//! Archives that want something outside their folder, or more than they should. Each is unpacked beside a canary, which
//! must not change in a byte, a mode or a time; alone, and again as the upper of two layers in one store.
//!
//! The cases are those of the advisories that smidr's facts name (umoci CVE-2021-29136, go-archive CVE-2026-17106, containerd
//! CVE-2021-32760, tar-rs CVE-2018-20990 and CVE-2026-33056, GNU tar CVE-2025-45582, Go CVE-2022-2879 and CVE-2025-58183), written
//! fresh.

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

fn cases() -> Vec<Case> {
    let tar = Tar::default;
    let climb = "../../../../../../../../../../../../tmp/x";
    vec![
        ("`..` in a name", tar().file("../victim/file", "evil"), Refused("has `..`")),
        ("`..` in the middle", tar().file("a/../../victim/file", "evil"), Refused("has `..`")),
        ("`..` at the end", tar().folder("a/..", 0o700), Refused("has `..`")),
        ("an absolute name", tar().file("/etc/file", "in"), Holds("etc/file", "in")),
        ("many slashes", tar().file("//etc//./file", "in"), Holds("etc/file", "in")),
        ("the root as a link", tar().symlink("./", "../victim").file("file", "evil"), Refused("root folder")),
        ("the root as a link, bare", tar().symlink(".", "../victim"), Refused("root folder")),
        ("the root as a link, absolute", tar().symlink("/", "/tmp"), Refused("root folder")),
        ("the root as a file", tar().file(".", "x"), Refused("root folder")),
        (
            "a link out, written through",
            tar().symlink("out", "../victim").file("out/file", "evil"),
            Holds("victim/file", "evil"),
        ),
        (
            "an absolute link, written through",
            tar().symlink("out", "/victim").file("out/file", "evil"),
            Holds("victim/file", "evil"),
        ),
        ("a link far up", tar().symlink("out", climb).file("out/file", "evil"), Holds("tmp/x/file", "evil")),
        (
            "two links, each harmless",
            tar()
                .folder("inner", 0o755)
                .symlink("inner/go_up", "..")
                .symlink("inner/escape", "go_up/../victim")
                .file("inner/escape/file", "evil"),
            Holds("victim/file", "evil"),
        ),
        (
            "a chain through itself",
            tar().symlink("a", "b").symlink("b", "a").file("a/file", "x"),
            Refused("cannot place"),
        ),
        (
            "absolute links still work",
            tar().folder("run", 0o755).symlink("var/run", "/run").file("var/run/pid", "1"),
            Holds("run/pid", "1"),
        ),
        ("a dangling absolute link", tar().symlink("var/run", "/run").file("var/run/pid", "1"), Holds("run/pid", "1")),
        ("a hard link out", tar().hard_link("x", "../victim/file"), Refused("has `..`")),
        ("a hard link to an absolute file", tar().hard_link("x", "/etc/passwd"), Refused("not in the archive")),
        ("an absolute hard link in the root", tar().file("a/b", "in").hard_link("x", "/a/b"), Holds("x", "in")),
        (
            "a hard link through a link",
            tar().symlink("out", "../victim").hard_link("x", "out/file").file("x", "evil"),
            Refused("not in the archive"),
        ),
        (
            "a hard link to a link, then written",
            tar().symlink("l", "../victim/file").hard_link("x", "l").file("x", "evil"),
            Holds("x", "evil"),
        ),
        (
            "a hard link to a link is one",
            tar().symlink("l", "../victim/file").hard_link("x", "l"),
            Holds("x", "-> ../victim/file"),
        ),
        ("a hard link to a folder", tar().folder("d", 0o755).hard_link("x", "d"), Refused("to a folder")),
        ("a hard link to the root", tar().hard_link("x", "/"), Refused("to the root")),
        ("a hard link to itself", tar().file("x", "in").hard_link("x", "x"), Holds("x", "in")),
        ("a hard link to nothing", tar().hard_link("x", "gone"), Refused("not in the archive")),
        ("a link, then a folder of its name", tar().symlink("d", "../victim/deep").folder("d", 0o777), Folder("d")),
        ("a link, then a file of its name", tar().symlink("f", "../victim/file").file("f", "evil"), Holds("f", "evil")),
        (
            "a folder, then a link, then a file in it",
            tar().folder("d", 0o755).symlink("d", "../victim").file("d/file", "evil"),
            Holds("victim/file", "evil"),
        ),
        (
            "a folder that was entered, then replaced by a link",
            tar().file("d/one", "1").symlink("d", "/other").file("d/two", "2"),
            Holds("other/two", "2"),
        ),
        (
            "a folder above that was replaced by a link",
            tar().file("a/b/one", "1").symlink("a", "/other").file("a/b/two", "2"),
            Holds("other/b/two", "2"),
        ),
        ("a file where a folder is needed", tar().file("a", "x").file("a/b", "y"), Holds("a/b", "y")),
        ("a folder full of files, then a file", tar().file("a/b/c", "x").file("a", "y"), Holds("a", "y")),
        ("a link to nothing", tar().symlink("l", ""), Refused("to nothing")),
        ("a whiteout of nothing", tar().file("a/.wh.", ""), Refused("whiteout of nothing")),
        ("a whiteout of `.`", tar().file("a/.wh..", ""), Refused("whiteout of nothing")),
        ("a whiteout of `..`", tar().file("a/.wh...", ""), Refused("whiteout of nothing")),
        ("a whiteout through a link", tar().symlink("out", "../victim").file("out/.wh.file", ""), Folder("victim")),
        (
            "an opaque mark through a link",
            tar().symlink("out", "../victim").file("out/.wh..wh..opq", ""),
            Folder("victim"),
        ),
        ("a whiteout that climbs", tar().file("../.wh.victim", ""), Refused("has `..`")),
        ("a folder with a whiteout's name", tar().folder(".wh.d", 0o755), Refused("only whiteouts")),
        ("a file in a folder with a whiteout's name", tar().file(".wh.d/x", ""), Refused("only whiteouts")),
        ("aufs's own files", tar().file(".wh..wh.plnk", ""), Lacks(".wh..wh.plnk")),
        ("a device", tar().entry("null", EntryType::Char, 0o666, "", b""), Lacks("null")),
        ("a device that would be a whiteout", tar().entry("etc", EntryType::Char, 0o0, "", b""), Lacks("etc")),
        ("an empty name", tar().file("", "x").file("y", "z"), Holds("y", "z")),
        ("NUL in a PAX name", tar().pax(&record("path", "a\0b")).file("x", ""), Refused("NUL")),
        ("`..` in a PAX name", tar().pax(&record("path", "../victim/file")).file("x", "evil"), Refused("has `..`")),
        (
            "`..` in a PAX link",
            tar().pax(&record("linkpath", "../victim/file")).hard_link("x", "y"),
            Refused("has `..`"),
        ),
        (
            "`..` in a GNU name",
            tar().entry("L", EntryType::GNULongName, 0, "", b"../victim/file\0").file("x", "e"),
            Refused("has `..`"),
        ),
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
        ("half a header", tar().file("x", "y").raw(&[b'x'; 100]), Refused("truncated")),
    ]
}

#[test]
fn no_archive_reaches_beyond_its_folder() {
    try_all(cases());
}

#[test]
fn no_archive_reaches_beyond_its_folder_when_links_are_there_already() {
    // CVE-2025-45582: the first archive leaves the links, the second writes through them.
    for target in ["../victim", "../victim/deep", "/victim", "../../../../../../../../victim"] {
        let yard = Yard::new();
        let first = Tar::default().symlink("out", target).symlink("f", "../victim/file").end();
        yard.unpack(&first, Limits::default()).expect("links are fine");
        for second in [
            Tar::default().file("out/file", "evil"),
            Tar::default().file("f", "evil"),
            Tar::default().folder("out/", 0o777),
            Tar::default().folder("out/deep", 0o777),
            Tar::default().file("out/.wh.file", ""),
            Tar::default().file(".wh.out", "").file("out/.wh..wh..opq", ""),
            Tar::default().hard_link("h", "out/file"),
        ] {
            let _ = yard.unpack(&second.end(), Limits::default());
            yard.assert_untouched(target);
        }
    }
}

#[test]
fn every_limit_has_its_name_in_the_message() {
    let tight = Limits {
        layer_bytes: 10_000,
        file_bytes: 8_000,
        entries: 50,
        depth: 10,
        path: 300,
        link: 100,
        header: 2048,
        ..Limits::default()
    };
    let deep = "d/".repeat(11);
    let many = (0..60).fold(Tar::default(), |tar, i| tar.folder(&format!("d{i}"), 0o755));
    let implied = (0..20).fold(Tar::default(), |tar, i| tar.file(&format!("a{i}/b/c/d"), ""));
    let full = Tar::default().file("a", &"x".repeat(6_000)).file("b", &"x".repeat(6_000));
    let cases = [
        ("bytes of an unpacked layer", full),
        ("bytes of one file", Tar::default().file("a", &"x".repeat(9_000))),
        ("files and folders", many),
        ("files and folders", implied),
        ("components of a path", Tar::default().file(&format!("{deep}f"), "")),
        ("bytes of a path", Tar::default().file(&"x".repeat(301), "")),
        ("bytes of a link's target", Tar::default().symlink("l", &"x".repeat(101))),
        ("bytes of an extended header", Tar::default().pax(&record("comment", &"x".repeat(4_000))).file("x", "")),
        ("bytes of an extended header", Tar::default().entry("L", EntryType::GNULongName, 0, "", &[b'x'; 4_000])),
        ("bytes of an extended header", Tar::default().entry("g", EntryType::XGlobalHeader, 0, "", &[b'x'; 4_000])),
    ];
    for (what, tar) in cases {
        let yard = Yard::new();
        let error = yard.unpack(&tar.end(), tight).expect_err(what);
        assert!(error.to_string().contains(what), "{what}: {error}");
        yard.assert_untouched(what);
    }
}

#[test]
fn a_header_that_promises_more_than_the_limits_costs_nothing() {
    let mut header = Tar::default().entry("x", EntryType::Regular, 0o644, "", b"").0;
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
