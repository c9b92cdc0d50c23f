//! Archives that reach for something outside their folder, or exceed limits. Each is unpacked beside a canary, which
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
        Then::{Folder, Harmless, Hidden, Holds, Lacks, Opaque, Refused},
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
        ("a hard link to an absolute file", tar().hard_link("x", "/etc/passwd"), Lacks("x")),
        ("an absolute hard link in the root", tar().file("a/b", "in").hard_link("x", "/a/b"), Holds("x", "in")),
        (
            "a hard link through a link",
            tar().symlink("out", "../victim").hard_link("x", "out/file").file("x", "evil"),
            Holds("x", "evil"),
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
        ("a hard link to nothing", tar().hard_link("x", "gone"), Lacks("x")),
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
        ("aufs's own folders", tar().file(".wh..wh.plnk/1.2", "x").file(".wh..wh.orph/x", ""), Lacks(".wh..wh.plnk")),
        (
            "a link in the place of aufs's own folder",
            tar()
                .symlink(".wh..wh.plnk", "../victim")
                .file(".wh..wh.plnk/file", "x")
                .hard_link("a", ".wh..wh.plnk/file"),
            Holds("a", "x"),
        ),
        (
            "a way into aufs's own folder",
            tar().symlink("way", ".wh..wh.plnk").file("way/1", "x").hard_link("a", ".wh..wh.plnk/1"),
            Holds("a", "x"),
        ),
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
    ]
}

// What umoci's, containerd's and moby's suites try, and what overlayfs would make of it.
fn breakouts() -> Vec<Case> {
    let tar = Tar::default;
    let up = "../../../../../../../../victim";
    vec![
        (
            "several links, absolute",
            tar().symlink("a", "/b").symlink("b", "/victim").file("a/file", "evil"),
            Holds("victim/file", "evil"),
        ),
        (
            "several links, relative",
            tar().folder("d", 0o755).symlink("d/a", "../b").symlink("b", up).file("d/a/file", "evil"),
            Holds("victim/file", "evil"),
        ),
        (
            "two hops, the second a sibling of the root",
            tar().symlink("inner/up", "..").symlink("escape", "inner/up/../victim").file("escape/new", "evil"),
            Holds("victim/new", "evil"),
        ),
        (
            "a sibling whose name begins as the root's does",
            tar().symlink("out", "../root-evil").file("out/file", "evil"),
            Holds("root-evil/file", "evil"),
        ),
        ("a parent that stays inside", tar().symlink("a/up", "../b").file("a/up/x", "in"), Holds("b/x", "in")),
        ("an empty file through a link", tar().symlink("f", "../victim/file").file("f", ""), Holds("f", "")),
        ("a folder through a link", tar().symlink("out", up).folder("out/deep", 0o777), Folder("victim/deep")),
        ("a folder's mode through a link", tar().symlink("out", up).folder("out/", 0o777), Folder("out")),
        (
            "a folder over a link to a folder, then a file in it",
            tar().folder("real", 0o755).symlink("link", "real").folder("link", 0o755).file("link/x", "in"),
            Lacks("real/x"),
        ),
        (
            "a named pipe through a link",
            tar().symlink("out", up).entry("out/file", EntryType::Fifo, 0o666, "", b""),
            Lacks("victim/none"),
        ),
        (
            "a named pipe over a link",
            tar().symlink("f", "../victim/file").entry("f", EntryType::Fifo, 0o666, "", b"").file("f", "evil"),
            Holds("f", "evil"),
        ),
        (
            "a device through a link",
            tar().symlink("out", up).entry("out/file", EntryType::Block, 0o666, "", b""),
            Lacks("victim"),
        ),
        (
            "a link through a link",
            tar().symlink("out", up).symlink("out/file", "x").file("out/file/y", "evil"),
            Holds("victim/x/y", "evil"),
        ),
        (
            "a relative hard link within",
            tar().file("a/b", "in").hard_link("a/c", "a/b").file("a/c", "new"),
            Holds("a/b", "in"),
        ),
        ("a hard link up and out", tar().hard_link("x", &format!("{up}/file")).file("x", "evil"), Refused("has `..`")),
        ("a hard link down and out", tar().hard_link("x", "a/../../victim/file"), Refused("has `..`")),
        ("an absolute hard link out", tar().hard_link("x", "/../victim/file").file("x", "evil"), Refused("has `..`")),
        (
            "a hard link through a link that leaves",
            tar().symlink("out", "/victim").hard_link("x", "out/file"),
            Harmless("x"),
        ),
        (
            "a hard link through an absolute link that stays",
            tar().file("run/pid", "1").symlink("var/run", "/run").hard_link("x", "var/run/pid"),
            Holds("x", "1"),
        ),
        (
            "a hard link whose last part is a link: the link itself",
            tar().file("t", "in").symlink("l", "t").hard_link("x", "l"),
            Holds("x", "-> t"),
        ),
        (
            "a hard link to a link out, then a mode",
            tar().symlink("l", "../victim/file").hard_link("x", "l").entry("x", EntryType::Link, 0o777, "l", b""),
            Holds("x", "-> ../victim/file"),
        ),
        (
            "a hard link to a link out, then a folder in its place",
            tar().symlink("l", "../victim/deep").hard_link("x", "l").folder("x", 0o777).file("x/file", "evil"),
            Holds("x/file", "evil"),
        ),
        (
            "a hard link to a link, before the target is made",
            tar().symlink("l", "later").hard_link("x", "l").file("later", "in").file("x", "own"),
            Holds("later", "in"),
        ),
        (
            "a hard link to a link out, then through it",
            tar().symlink("l", up).hard_link("x", "l").file("x/file", "evil"),
            Holds("victim/file", "evil"),
        ),
        (
            "a hard link to a named pipe",
            tar().entry("p", EntryType::Fifo, 0o600, "", b"").hard_link("x", "p"),
            Lacks("y"),
        ),
        (
            "a hard link to a file that is then replaced",
            tar().file("a", "old").hard_link("b", "a").file("a", "new"),
            Holds("b", "old"),
        ),
        ("a hard link over a folder", tar().file("a", "in").file("d/x", "").hard_link("d", "a"), Holds("d", "in")),
        ("a hard link over its own folder", tar().file("d/a", "in").hard_link("d", "d/a"), Harmless("d")),
        ("a hard link below a whiteout's name", tar().file("a", "").hard_link("b/.wh..", "a"), Refused("of nothing")),
        ("a hard link to a whiteout", tar().file(".wh.a", "").hard_link("b", ".wh.a"), Harmless("b")),
        ("a whiteout of the root's parent", tar().file(".wh...", ""), Refused("whiteout of nothing")),
        ("a whiteout of the root", tar().file(".wh..", ""), Refused("whiteout of nothing")),
        ("a whiteout of nobody", tar().file(".wh.", ""), Refused("whiteout of nothing")),
        ("a whiteout in a folder of its own", tar().file("a/b/.wh.c", ""), Hidden("a/b/c")),
        ("a whiteout that is a link", tar().symlink(".wh.x", "../victim"), Hidden("x")),
        ("a whiteout that is a hard link", tar().file("a", "").hard_link(".wh.x", "a"), Hidden("x")),
        ("a whiteout of a link out", tar().symlink("out", up).file(".wh.out", ""), Holds("out", UP_AS_LINK)),
        ("a whiteout below a link to nowhere", tar().symlink("out", "gone").file("out/.wh.x", ""), Hidden("gone/x")),
        ("a whiteout below a file", tar().file("a", "in").file("a/.wh.x", ""), Holds("a", "in")),
        ("a whiteout below a whiteout", tar().file(".wh.a", "").file("a/.wh.b", ""), Hidden("a")),
        ("nested whiteouts", tar().file(".wh.a", "").file("a/b/.wh.c", "").file("a/b/d", "in"), Opaque("a")),
        ("what a whiteout hides, put back", tar().file("a/b", "new").file(".wh.a", ""), Opaque("a")),
        ("an opaque folder that is not named", tar().file("a/.wh..wh..opq", ""), Opaque("a")),
        ("an opaque root", tar().file(".wh..wh..opq", "").file("a", "in"), Holds("a", "in")),
        ("an opaque mark below a file", tar().file("a", "in").file("a/.wh..wh..opq", ""), Opaque("a")),
        (
            "an opaque attribute of the archive's own",
            tar().pax(&record("SCHILY.xattr.user.overlay.whiteout", "y")).file("x", ""),
            Holds("x", ""),
        ),
        (
            "folders in a link's place, deeper than it led",
            tar().symlink("a", up).folder("a", 0o755).folder("a/b", 0o755).file("a/b/c", "in"),
            Holds("a/b/c", "in"),
        ),
        (
            "a link to a file where a folder is needed",
            tar().file("f", "x").symlink("l", "f").file("l/x", "in"),
            Holds("f/x", "in"),
        ),
        ("a link to itself, replaced", tar().symlink("l", "l").file("l", "in"), Holds("l", "in")),
        ("a folder below a link to itself", tar().symlink("l", "l").folder("l/x", 0o755), Refused("cannot place")),
        (
            "links without a bottom",
            tar().symlink("l", &"a/".repeat(300)).symlink("m", &format!("l/{}", "b/".repeat(300))).file("m/x", ""),
            Refused("folders deep"),
        ),
        (
            "a longer chain than the kernel follows",
            (0..50).fold(tar(), |tar, i| tar.symlink(&format!("l{i}"), &format!("l{}", i + 1))).file("l0/x", "in"),
            Refused("cannot place"),
        ),
        (
            "links as long as paths may be (CVE-2025-4517)",
            (0..20)
                .fold(tar(), |tar, i| {
                    let name = char::from(b'a' + i).to_string();
                    let (long, short) = ("d".repeat(240), format!("{name}/"));
                    tar.folder(&format!("{}{long}", short.repeat(i.into())), 0o755).symlink(&short, &long)
                })
                .symlink("escape", &format!("{}{up}", "d/../".repeat(200)))
                .file("escape/file", "evil"),
            Harmless("file"),
        ),
        ("a name too long for the disk", tar().file(&"n".repeat(256), ""), Refused("File name too long")),
        (
            "names that differ in case, or only look alike",
            tar().symlink("Out", up).file("out/file", "in").file("\u{fc}/x", "1").file("u\u{308}/x", "2"),
            Holds("out/file", "in"),
        ),
    ]
}

const UP_AS_LINK: &str = "-> ../../../../../../../../victim";

#[test]
fn no_archive_reaches_beyond_its_folder() {
    try_all(cases());
    try_all(breakouts());
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
