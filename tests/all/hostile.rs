//! Hostile images: mount points that are links out of the root, archives that write beside it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::support::{World, skip, tool};

/// Tries to write a file through each place that an image could have made a way out.
const PROGRAM: &str = r#"
#include <stdio.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "w");
        if (file) { fputs("mark", file); fclose(file); }
    }
    puts("ran");
    return 0;
}
"#;

pub(crate) fn static_program(world: &World) -> Result<PathBuf, &'static str> {
    let cc = tool("cc").ok_or("there is no C compiler")?;
    let (source, program) = (world.work.join("mark.c"), world.work.join("mark"));
    fs::write(&source, PROGRAM).expect("a file");
    let done = Command::new(cc).arg("-static").arg("-o").arg(&program).arg(&source).output().expect("cc starts");
    if done.status.success() { Ok(program) } else { Err("the C compiler cannot link statically") }
}

/// Mode, times and content of a file, or where a link leads.
pub(crate) type Look = (u32, [i64; 4], Vec<u8>);

/// Names, content, modes and times of all that is in the canary's folder, and of the folder.
pub(crate) fn picture(folder: &Path) -> BTreeMap<PathBuf, Look> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let found = entry.metadata().expect("metadata");
            let content = match found.file_type() {
                kind if kind.is_file() => fs::read(entry.path()).expect("a file"),
                kind if kind.is_symlink() => {
                    fs::read_link(entry.path()).expect("a link").into_os_string().into_encoded_bytes()
                }
                _ => Vec::new(),
            };
            let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
            (entry.path().into(), (found.mode(), times, content))
        })
        .collect()
}

pub(crate) fn canary(world: &World) -> PathBuf {
    let folder = world.work.join("canary");
    for name in ["", "pts", "shm", "net", "tmp", "sys"] {
        fs::create_dir_all(folder.join(name)).expect("a folder");
    }
    for name in ["passwd", "null", "tmp/file"] {
        fs::write(folder.join(name), "untouched").expect("a file");
    }
    folder
}

#[derive(Clone, Copy)]
pub(crate) enum Entry<'a> {
    Link(&'a str, &'a str),
    File(&'a str, &'a [u8], u32),
    Folder(&'a str),
}

/// Writes an archive with names as they are, which `tar::Builder` itself would refuse.
pub(crate) fn archive(path: &Path, entries: &[Entry<'_>]) {
    let mut tar = tar::Builder::new(File::create(path).expect("a file"));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        let (name, mode, kind, content) = match entry {
            Entry::Link(name, _) => (name, 0o777, tar::EntryType::Symlink, &[][..]),
            Entry::File(name, content, mode) => (name, *mode, tar::EntryType::Regular, *content),
            Entry::Folder(name) => (name, 0o755, tar::EntryType::Directory, &[][..]),
        };
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Entry::Link(_, target) = entry {
            header.set_link_name_literal(target).expect("a link's target");
        }
        header.set_mode(mode);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content).expect("an entry");
    }
    tar.finish().expect("the end of the archive");
}

#[test]
fn mount_points_that_are_links_stay_inside() {
    let name = "hostile::mount_points_that_are_links_stay_inside";
    if let Err(reason) = super::support::user_namespaces() {
        return skip(name, reason);
    }
    let world = World::new();
    let program = match static_program(&world) {
        Ok(program) => fs::read(program).expect("a program"),
        Err(reason) => return skip(name, reason),
    };
    world.init("p");
    let canary = canary(&world);
    // The first folder of the workspace's path, besides the fixed mount points.
    let first = world.smidr.components().nth(1).expect("a folder").as_os_str().to_string_lossy().into_owned();
    let mut points = vec!["tmp", "dev", "proc", "etc", "run", "var/tmp", "sys", "var", ".smidr"];
    if !points.contains(&first.as_str()) {
        points.push(&first);
    }
    let absolute = canary.display().to_string();
    let climbing = format!("../../../../../../..{absolute}");
    let targets = [absolute.as_str(), &climbing, "../../..", "/", "nowhere", "loop", "/bin/mark"];
    let marks: Vec<String> = ["/tmp", "/dev", "/proc", "/etc", "/run", "/var/tmp", &absolute, "", "/usr"]
        .map(|folder| format!("{folder}/mark-of-the-image"))
        .into();
    let before = picture(&canary);
    let mut ran = 0;
    let mut attempt = |what: &str, links: &[Entry<'_>]| {
        let mut entries =
            vec![Entry::Folder("bin"), Entry::File("bin/mark", &program, 0o755), Entry::Link("loop", "loop")];
        if links.iter().any(|link| matches!(link, Entry::Link("var/tmp", _))) {
            entries.push(Entry::Folder("var"));
        }
        let tar = world.work.join("image.tar");
        archive(&tar, &[&entries[..], links].iter().flat_map(|part| part.iter()).copied().collect::<Vec<_>>());
        world.smidr().args(["image", "import"]).arg(&tar).args(["--name", "odd"]).run().expect_code(0);
        world.edit_host("odd");
        let done = world.smidr().args(["run", "--", "/bin/mark"]).args(&marks).run();
        match done.code {
            Some(0) => {
                assert_eq!(done.out, "ran\n", "{what}");
                ran += 1;
            }
            Some(125) => drop(done.expect_one_error()),
            _ => panic!("{what}: {done:?}"),
        }
        assert_eq!(picture(&canary), before, "{what}: the canary was touched");
    };
    for target in targets {
        let all: Vec<Entry<'_>> =
            points.iter().filter(|point| **point != "var/tmp").map(|point| Entry::Link(point, target)).collect();
        attempt(&format!("all -> {target}"), &all);
    }
    for point in &points {
        attempt(&format!("{point} -> the canary"), &[Entry::Link(point, &absolute)]);
        attempt(&format!("{point} is a file"), &[Entry::File(point, b"text", 0o644)]);
    }
    assert!(ran > 0, "not one of these images could be used: nothing was shown");
    for mark in ["/mark-of-the-image", "/tmp/mark-of-the-image", "/usr/mark-of-the-image", "/etc/mark-of-the-image"] {
        assert!(!Path::new(mark).exists(), "{mark}");
    }
}

#[test]
fn archives_write_nothing_outside_the_root() {
    let world = World::new();
    let canary = canary(&world);
    let absolute = canary.display().to_string();
    let short = world.work.join("c");
    std::os::unix::fs::symlink(&canary, &short).expect("a link");
    let (inside, passwd) = (format!("{absolute}/mark"), format!("{absolute}/passwd"));
    let before = picture(&canary);
    let rows: [(&str, Vec<Entry<'_>>); 6] = [
        ("dots", vec![Entry::File("../../../../../../mark", b"x", 0o644), Entry::File("a/../../mark", b"x", 0o644)]),
        ("absolute", vec![Entry::File(&inside, b"x", 0o644)]),
        ("through a link", vec![Entry::Link("out", &absolute), Entry::File("out/mark", b"x", 0o644)]),
        ("onto a link", vec![Entry::Link("out", &passwd), Entry::File("out", b"x", 0o600)]),
        (
            "a folder for a link",
            vec![Entry::Link("out", &absolute), Entry::Folder("out"), Entry::File("out/mark", b"x", 0o644)],
        ),
        (
            "links of links",
            vec![Entry::Link("a", "b/.."), Entry::Link("b", &absolute), Entry::File("a/canary/mark", b"x", 0o644)],
        ),
    ];
    for (what, entries) in rows {
        let tar = world.work.join("image.tar");
        archive(&tar, &entries);
        let done = world.smidr().args(["image", "import"]).arg(&tar).args(["--name", "x"]).run();
        assert!(matches!(done.code, Some(0 | 2)), "{what}: {done:?}");
        assert_eq!(picture(&canary), before, "{what}");
        assert!(!world.smidr.join("mark").exists() && !Path::new("/mark").exists(), "{what}");
    }
    assert_eq!(World::names(&world.smidr.join("images/tmp")), Vec::<String>::new());
}

/// Says how much memory a program had at most: the kernel's mark, read until the program is gone (proc(5), VmHWM).
fn most_memory(running: super::support::Running) -> (u64, super::support::Done) {
    let status = format!("/proc/{}/status", running.pid());
    let mark = || -> Option<u64> {
        let text = fs::read_to_string(&status).ok()?;
        text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse().ok()
    };
    let mut most = 0;
    while let Some(kilobytes) = mark() {
        most = kilobytes;
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    (most << 10, running.wait())
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn archives_take_bounded_memory() {
    let pax = |records: &[(&str, &[u8])], path: &str, kind: tar::EntryType| {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_pax_extensions(records.iter().copied()).expect("memory");
        let mut header = tar::Header::new_ustar();
        header.set_path(path).expect("a path");
        header.set_entry_type(kind);
        header.set_mode(0o755);
        if kind.is_symlink() {
            header.set_link_name("../nowhere").expect("a link");
        }
        header.set_cksum();
        archive.append(&header, &b""[..]).expect("memory");
        archive.get_ref().clone()
    };
    let deep = format!("{}/", "d".repeat(200)).repeat(15);
    // Each of these took gigabytes, or would have with a few more entries.
    let link = pax(&[("SCHILY.xattr.user.a", &[b'x'; 8000])], "blobs/l", tar::EntryType::Symlink);
    let folder = pax(&[("path", deep.as_bytes())], "d/", tar::EntryType::Directory);
    let mark = pax(&[("path", format!("{deep}.wh..wh..opq").as_bytes())], "d", tar::EntryType::Regular);
    for (what, entry) in [("links", link), ("folders", folder), ("marks", mark)] {
        let world = World::new();
        let path = world.work.join("bomb.tgz");
        let file = File::create(&path).expect("a file");
        let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        (0..40_000).for_each(|_| std::io::Write::write_all(&mut out, &entry).expect("room"));
        std::io::Write::write_all(&mut out, &[0; 1024]).expect("room");
        out.finish().expect("room");
        let running = world.smidr().args(["image", "import"]).arg(&path).args(["--name", "bomb"]).start();
        let (most, done) = most_memory(running);
        assert!(most > 0 && most < 128 << 20, "{what}: {most} bytes; {done:?}");
    }
}
