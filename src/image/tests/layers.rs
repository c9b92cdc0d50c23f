//! Ordinary archives: whiteouts in any order, folders that are only implied, odd modes and times.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, statat};
use tar::EntryType;

use super::super::{
    Limits,
    account::Account,
    archive::Archive,
    checkout::Meta,
    layer_error::LayerError,
    seam::{Open, make},
    testing::{Tar, chmod, picture, record},
    tree,
    unpack::{Unpacked, unpack},
};
use crate::system::rooted::Rooted;

fn layer(archive: &[u8]) -> (tempfile::TempDir, Unpacked) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = Rooted::open(folder.path()).expect("a root");
    let limits = Limits::default();
    let mut archive = Archive::new(archive, limits);
    let done = unpack(&mut archive, &root, limits, limits.layer_bytes, &Account::new(&limits)).expect("a good archive");
    (folder, done)
}

fn is_whiteout(path: &Path) -> bool {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| tree::is_whiteout(&stat))
}

fn is_opaque(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(tree::is_opaque)
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("a file").mode() & 0o7777
}

#[test]
fn whiteouts_concern_the_layers_below_whatever_the_order() {
    let members: [&dyn Fn(Tar) -> Tar; 4] = [
        &|tar| tar.file("dir/.wh.gone", ""),
        &|tar| tar.file(".wh.again", ""),
        &|tar| tar.file("again/kept", "new"),
        &|tar| tar.file("dir/kept", "new").file("dir/.wh.kept", ""),
    ];
    let forward = members.iter().fold(Tar::default(), |tar, add| add(tar)).end();
    let backward = members.iter().rev().fold(Tar::default(), |tar, add| add(tar)).end();
    let (one, _) = layer(&forward);
    let (other, _) = layer(&backward);
    assert_eq!(picture(one.path()), picture(other.path()));
    let at = |path: &str| one.path().join(path);
    assert!(is_whiteout(&at("dir/gone")));
    assert!(is_opaque(&at("again")) && at("again/kept").is_file(), "what is put back hides what was there");
    assert!(at("dir/kept").is_file() && !is_opaque(&at("dir")));
}

#[test]
fn an_opaque_folder_holds_no_whiteouts() {
    let (root, _) = layer(&Tar::default().file("d/.wh.x", "").file("d/sub/.wh.y", "").file("d/.wh..wh..opq", "").end());
    assert!(is_opaque(&root.path().join("d")));
    assert!(root.path().join("d/x").symlink_metadata().is_err());
    assert!(root.path().join("d/sub/y").symlink_metadata().is_err());
    let (root, _) = layer(&Tar::default().file("a/.wh.b", "").file(".wh.a", "").end());
    assert!(is_whiteout(&root.path().join("a")), "a whiteout below a whiteout has nothing to hide");
}

/// What layers, the lowest first, need on top of them.
fn seam(layers: &[&(tempfile::TempDir, Unpacked)]) -> Result<tempfile::TempDir, LayerError> {
    let metas: Vec<Meta> = layers.iter().map(|(_, found)| Meta::of(found.clone())).collect();
    let open = layers.iter().zip(&metas).map(|((folder, _), meta)| Open::new(folder.path(), meta));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = Rooted::open(folder.path()).expect("a root");
    make(&open.collect::<Vec<_>>(), &root, 1 << 20, &Account::new(&Limits::default())).map(|()| folder)
}

#[test]
fn implied_folders_look_like_those_below() {
    let bottom = layer(&Tar::default().folder("./", 0o751).folder("tmp/", 0o1777).folder("a/b/", 0o700).end());
    assert_eq!(bottom.1.implied, [Path::new("a")]);
    let middle = layer(&Tar::default().file(".wh.a", "").end());
    let top = layer(&Tar::default().file("tmp/x", "").file("a/b/x", "").end());
    assert_eq!(top.1.implied, ["", "a", "a/b", "tmp"].map(PathBuf::from));
    assert_eq!(mode(&top.0.path().join("tmp")), 0o755, "the layer itself knows nothing of others");
    let seam = seam(&[&bottom, &middle, &top]).expect("a seam");
    let at = |path: &str| seam.path().join(path);
    assert_eq!((mode(seam.path()), mode(&at("tmp"))), (0o751, 0o1777));
    assert_eq!(at("tmp").metadata().expect("a folder").mtime(), 1_000_000_000);
    assert!(!at("a").exists(), "a whiteout between hides the folder below");
    assert!(!at("tmp/x").exists());
}

#[test]
fn a_folder_that_an_upper_layer_names_needs_no_seam() {
    let bottom = layer(&Tar::default().folder("d/", 0o700).end());
    let middle = layer(&Tar::default().file("d/x", "").end());
    let top = layer(&Tar::default().folder("d/", 0o711).end());
    assert!(!seam(&[&bottom, &middle, &top]).expect("a seam").path().join("d").exists());
    let opaque = layer(&Tar::default().file("d/.wh..wh..opq", "").file("d/y", "").end());
    assert!(!seam(&[&bottom, &opaque]).expect("a seam").path().join("d").exists());
    let link = layer(&Tar::default().symlink("d", "/etc").end());
    assert!(!seam(&[&bottom, &middle, &link]).expect("a seam").path().join("d").exists());
}

#[test]
fn a_hard_link_to_a_file_of_a_lower_layer_is_a_copy() {
    let bottom =
        layer(&Tar::default().folder("bin/", 0o711).entry("bin/tool", EntryType::Regular, 0o755, "", b"elf").end());
    let top = layer(&Tar::default().hard_link("bin/also", "/bin/tool").end());
    assert!(!top.0.path().join("bin/also").exists(), "the layer itself knows nothing of others");
    let third = layer(&Tar::default().hard_link("usr/third", "bin/also").end());
    let merged = seam(&[&bottom, &top, &third]).expect("a seam");
    for path in ["bin/also", "usr/third"] {
        assert_eq!(fs::read(merged.path().join(path)).expect("a file"), b"elf");
        assert_eq!(mode(&merged.path().join(path)), 0o755);
    }
    assert_eq!(mode(&merged.path().join("bin")), 0o711, "the folder of a copy looks like the one below");
    let gone = layer(&Tar::default().file("bin/.wh.also", "").end());
    let hidden = seam(&[&bottom, &top, &gone]).expect("a seam");
    assert!(!hidden.path().join("bin/also").exists());
    let later = layer(&Tar::default().hard_link("bin/also", "bin/tool").file("bin/also", "own").end());
    assert_eq!(later.1.links, []);
    let error = seam(&[&top]).expect_err("nothing below");
    assert!(error.to_string().contains("neither its archive nor a layer below"), "{error}");
}

#[test]
fn what_one_image_has_says_nothing_of_another() {
    // The upper layer is the same in both images, and so is its folder; the files that it links to are not.
    let top = layer(&Tar::default().hard_link("x", "/secret").end());
    for content in ["one", "other"] {
        let bottom = layer(&Tar::default().file("secret", content).end());
        let seam = seam(&[&bottom, &top]).expect("a seam");
        assert_eq!(fs::read_to_string(seam.path().join("x")).expect("a file"), content);
    }
}

#[test]
fn modes_times_and_attributes_are_kept_where_that_is_safe() {
    let records = [
        record("mtime", "1234567890.5"),
        record("SCHILY.xattr.user.colour", "green"),
        record("SCHILY.xattr.user.overlay.opaque", "y"),
        record("SCHILY.xattr.user.overlay.redirect", "/etc"),
        record("SCHILY.xattr.trusted.overlay.opaque", "y"),
        record("SCHILY.xattr.security.capability", "x"),
        record("unknown.key", "value"),
    ];
    let archive = Tar::default()
        .entry("setuid", EntryType::Regular, 0o6755, "", b"x")
        .entry("shadow", EntryType::Regular, 0o000, "", b"x")
        .folder("closed/", 0o2555)
        .file("closed/inside", "x")
        .pax(&records.concat())
        .folder("noted/", 0o755)
        .pax(&record("mtime", "-5"))
        .file("early", "")
        .pax(&record("mtime", "99999999999999"))
        .file("late", "")
        .end();
    let (root, _) = layer(&archive);
    let at = |path: &str| root.path().join(path);
    assert_eq!((mode(&at("setuid")), mode(&at("shadow")), mode(&at("closed"))), (0o755, 0o600, 0o755));
    let time = |path: &str| at(path).metadata().map(|meta| (meta.mtime(), meta.mtime_nsec())).expect("a file");
    assert_eq!(time("noted"), (1_234_567_890, 500_000_000));
    assert_eq!((time("early"), time("late").0), ((0, 0), (1 << 33) - 1));
    assert_eq!(time("closed").0, 1_000_000_000, "filling a folder does not change its time");
    let kept = tree::xattrs(fs::File::open(at("noted")).expect("a folder")).expect("attributes");
    assert_eq!(kept, [(b"user.colour".to_vec(), b"green".to_vec())]);
    let me = rustix::process::geteuid().as_raw();
    assert!(picture(root.path()).values().all(|seen| seen.owner == me));
}

#[test]
fn long_and_odd_names_survive() {
    let long = "n".repeat(200);
    let mut old_folder = tar::Header::new_old();
    old_folder.set_path("old-folder/").expect("a short name");
    old_folder.as_mut_bytes()[156] = 0;
    old_folder.set_size(0);
    old_folder.set_mode(0o755);
    old_folder.set_cksum();
    let archive = Tar::default()
        .entry("L", EntryType::GNULongName, 0, "", format!("{long}\0").as_bytes())
        .entry("K", EntryType::GNULongLink, 0, "", format!("{long}-target\0").as_bytes())
        .symlink("short", "short")
        .file("with\nnewline", "x")
        .raw(old_folder.as_bytes())
        .end();
    let (root, _) = layer(&archive);
    let link = fs::read_link(root.path().join(&long)).expect("a link");
    assert_eq!(link.to_string_lossy(), format!("{long}-target"));
    assert!(root.path().join("with\nnewline").is_file() && root.path().join("old-folder").is_dir());
}

#[test]
fn an_inaccessible_tree_can_be_removed() {
    let (root, _) = layer(&Tar::default().folder("a/b/", 0o000).file("a/b/c", "").end());
    assert_eq!(mode(&root.path().join("a/b")), 0o700);
    chmod(&root.path().join("a"), 0o700);
}
