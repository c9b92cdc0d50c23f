//! Archives that would fill the memory: everything that is kept is charged to one account.

use std::{fs, io::Write as _};

use super::{
    super::{
        ImageError, Limits, StoredImage,
        testing::{Tar, TestStore, emitter, gzip, picture, record, told},
    },
    yard::Yard,
};
use crate::model::UserError as _;

/// Room for some thirty short names.
const TIGHT: u64 = 4096;

fn many(add: impl Fn(Tar, u32) -> Tar) -> Tar {
    (0..100).fold(Tar::default(), add)
}

#[test]
fn what_has_to_wait_is_charged() {
    let cases = [
        ("whiteouts", many(|tar, n| tar.file(&format!(".wh.{n}"), ""))),
        ("opaque folders", many(|tar, n| tar.file(&format!("{n}/.wh..wh..opq"), ""))),
        ("implied folders", many(|tar, n| tar.file(&format!("{n}/file"), ""))),
        ("links to what is below", many(|tar, n| tar.hard_link(&format!("{n}"), "below"))),
        ("links to links to what is below", many(|tar, n| tar.hard_link(&format!("{}", n + 1), &format!("{n}")))),
        (
            "folders that whiteouts make opaque",
            many(|tar, n| tar.folder(&format!("{n}"), 0o755))
                .raw(&many(|tar, n| tar.file(&format!(".wh.{n}"), "")).bytes),
        ),
    ];
    for (what, tar) in cases {
        let yard = Yard::new();
        let bytes = tar.end();
        let error = yard.unpack(&bytes, Limits { memory: TIGHT, ..Limits::default() }).expect_err(what);
        assert!(error.hint().is_some_and(|hint| hint.contains("--limit memory-bytes=")), "{what}: {}", told(&error));
        yard.unpack(&bytes, Limits::default()).unwrap_or_else(|error| panic!("{what}: {}", told(&error)));
    }
}

#[test]
fn what_need_not_wait_costs_nothing() {
    let again = |path: &'static str| move |tar: Tar, _| tar.file(path, "");
    let cases = [
        ("files", many(|tar, n| tar.file(&format!("{n}"), ""))),
        ("links", many(|tar, n| tar.symlink(&format!("{n}"), "x"))),
        ("folders", many(|tar, n| tar.folder(&format!("{n}"), 0o755))),
        ("a folder again and again", many(|tar, _| tar.folder("a", 0o755))),
        ("a whiteout again and again", many(again(".wh.a"))),
        ("an opaque folder again and again", many(again("a/.wh..wh..opq"))),
        (
            "attributes",
            many(|tar, n| tar.pax(&record("SCHILY.xattr.user.a", &"x".repeat(999))).file(&format!("{n}"), "")),
        ),
    ];
    for (what, tar) in cases {
        let yard = Yard::new();
        let done = yard.unpack(&tar.end(), Limits { memory: TIGHT, ..Limits::default() });
        done.unwrap_or_else(|error| panic!("{what}: {}", told(&error)));
    }
}

#[test]
fn the_last_entry_of_a_folder_says_how_it_looks() {
    let yard = Yard::new();
    let tar = Tar::default()
        .folder("a", 0o711)
        .folder("a/b", 0o700)
        .file("a/b/c", "")
        .folder("a", 0o751)
        .folder("a/b", 0o755);
    yard.unpack(&tar.file("a/d", "").end(), Limits::default()).expect("a good archive");
    let seen = picture(&yard.root());
    let modes: Vec<_> = ["a", "a/b"].iter().map(|path| seen[std::path::Path::new(path)].mode & 0o777).collect();
    assert_eq!(modes, [0o751, 0o755]);
    assert_eq!(fs::read_dir(yard.root()).expect("a folder").count(), 1, "what waited has no name");
}

#[test]
fn folders_that_wait_take_room_as_files_do() {
    let path = format!("{}/", "d".repeat(200));
    let tar = many(|tar, _| tar.folder(&path, 0o755)).end();
    let limits = Limits { ratio_from: 10_000, ratio: 1, ..Limits::default() };
    let yard = Yard::new();
    let error = yard.unpack_into(&tar, limits, 10_000).expect_err("100 records of 220 bytes");
    assert!(error.to_string().contains("for the size of its blob"), "{error}");
}

fn import(bytes: &[u8], limits: Limits) -> Result<StoredImage, ImageError> {
    let test = TestStore::new();
    let path = test.home.path().join("archive");
    fs::write(&path, bytes).expect("a file");
    test.store.with_limits(limits).import(&path, None, &"x".parse().expect("a name"), &emitter().0)
}

#[test]
fn telling_what_an_archive_is_has_the_same_limits() {
    // Named as the parts of an image, so that only the end of the archive shows what it is.
    let big = record("SCHILY.xattr.user.a", &"x".repeat(8000));
    let links = gzip(&many(|tar, n| tar.pax(&big).symlink(&format!("blobs/{n}"), "../nowhere")).end());
    let files = gzip(&many(|tar, n| tar.file(&format!("blobs/{n}"), "")).end());
    let tight = Limits { memory: TIGHT, ..Limits::default() };
    let few = Limits { entries: 50, ..Limits::default() };
    let flat = Limits { ratio: 2, ratio_from: 1000, ..Limits::default() };
    for (limits, expected) in [(tight, "--limit memory-bytes="), (few, "--limit entries=")] {
        for archive in [&links, &files] {
            let error = import(archive, limits).expect_err(expected);
            assert!(error.hint().is_some_and(|hint| hint.contains(expected)), "{}", told(&error));
        }
    }
    let error = import(&links, flat).expect_err("800 kB in a few");
    assert!(matches!(error, ImageError::TooLarge { .. }), "{}", told(&error));
    let error = import(&links, Limits::default()).expect_err("no image");
    assert!(told(&error).contains("neither an image nor"), "charged no attributes: {}", told(&error));
}

#[test]
fn a_large_window_of_zstd_needs_a_larger_limit() {
    let content = Tar::default().file("a", "content").end();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("memory");
    encoder.window_log(24).expect("a window");
    encoder.write_all(&content).expect("memory");
    // Not told how long it is, it has to promise the whole window.
    let packed = encoder.finish().expect("memory");
    let error = import(&packed, Limits::default()).expect_err("a window of 16 MiB");
    assert!(error.hint().is_some_and(|hint| hint.contains("--limit window-bytes=")), "{}", told(&error));
    import(&packed, Limits { window: 16 << 20, ..Limits::default() }).expect("an image");
}

#[test]
fn attributes_that_could_not_be_listed_are_left_out() {
    let records: Vec<u8> = (0..3000).flat_map(|n| record(&format!("SCHILY.xattr.user.{n:030}"), "x")).collect();
    let yard = Yard::new();
    yard.unpack(&Tar::default().pax(&records).file("a", "").end(), Limits::default()).expect("a good archive");
    super::super::tree::xattrs(fs::File::open(yard.root().join("a")).expect("a file")).expect("they can be listed");
}
