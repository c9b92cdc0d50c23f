//! For the tests of this module: a store in a temporary folder, archives made byte by byte, pictures of trees.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::fs::{CWD, FileType, Mode};
use tar::EntryType;

use super::{
    ImageStore, Scratch,
    member::{END, Member, padding},
    tree,
};
use crate::{
    events::{Emitter, EventSink},
    model::{BuildId, Event, Paths, Record},
};

/// A store that vanishes.
pub(super) struct TestStore {
    /// Everything.
    pub home: tempfile::TempDir,
    /// Where things are.
    pub paths: Paths,
    /// The store.
    pub store: ImageStore,
}

impl TestStore {
    pub(super) fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(home.path().join("smidr"));
        let store = ImageStore::open(&paths).expect("a store");
        Self { home, paths, store }
    }

    /// Files in `blobs`, `diffs`, `names` and `tmp`.
    pub(super) fn counts(&self) -> [usize; 4] {
        ["blobs/sha256", "diffs", "names", "tmp"]
            .map(|folder| fs::read_dir(self.paths.images().join(folder)).expect("a folder of the store").count())
    }
}

#[derive(Clone, Default)]
pub(super) struct Recorded(pub Arc<Mutex<Vec<Event>>>);

impl EventSink for Recorded {
    fn accept(&mut self, record: &Record) {
        self.0.lock().expect("a mutex").push(record.event.clone());
    }
}

/// An emitter, and the events that it was given.
pub(super) fn emitter() -> (Emitter, Recorded) {
    let recorded = Recorded::default();
    let id = BuildId::new("test", 7).expect("a good name");
    (Emitter::new(id, vec![Box::new(recorded.clone())]), recorded)
}

/// An error and all its causes in one line.
pub(super) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Packed, as a layer may be.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut out, bytes).expect("memory");
    out.finish().expect("memory")
}

/// Likewise.
pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory")
}

/// An archive in the making.
#[derive(Clone, Default)]
pub(super) struct Tar {
    pub bytes: Vec<u8>,
    unended: bool,
}

impl Tar {
    pub(super) fn entry(mut self, path: &str, kind: EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        let size = content.len() as u64;
        let (path, link) = (path.as_bytes(), link.as_bytes());
        let member = Member { path, kind, mode, mtime: 1_000_000_000, size, link, xattrs: &[] };
        self.bytes.extend(member.header());
        self.bytes.extend(content);
        self.bytes.extend(padding(size));
        self
    }

    pub(super) fn file(self, path: &str, content: &str) -> Self {
        self.entry(path, EntryType::Regular, 0o644, "", content.as_bytes())
    }

    pub(super) fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, "", b"")
    }

    pub(super) fn symlink(self, path: &str, link: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, link, b"")
    }

    pub(super) fn hard_link(self, path: &str, link: &str) -> Self {
        self.entry(path, EntryType::Link, 0o644, link, b"")
    }

    /// A PAX header, as it is.
    pub(super) fn pax(self, records: &[u8]) -> Self {
        self.entry("././@PaxHeader", EntryType::XHeader, 0o644, "", records)
    }

    /// A header with some of its bytes changed and its checksum right again, and its content.
    pub(super) fn patched(mut self, path: &str, patches: &[(usize, &[u8])], content: &[u8]) -> Self {
        let begin = self.bytes.len();
        self = self.entry(path, EntryType::Regular, 0o644, "", content);
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&self.bytes[begin..begin + 512]);
        for (at, bytes) in patches {
            header.as_mut_bytes()[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        header.set_cksum();
        self.bytes[begin..begin + 512].copy_from_slice(header.as_bytes());
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// Without its last bytes, and to be left so.
    pub(super) fn cut(mut self, count: usize) -> Self {
        self.bytes.truncate(self.bytes.len() - count);
        self.unended()
    }

    /// An archive that shall not get an end.
    pub(super) fn unended(self) -> Self {
        Self { unended: true, ..self }
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        if !self.unended {
            self.bytes.extend(END);
        }
        self.bytes
    }
}

/// One PAX record.
pub(super) fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).map(|digits| rest + digits).find(|length| rest + length.to_string().len() == *length);
    format!("{} {key}={value}\n", length.expect("some length fits")).into_bytes()
}

/// What there is to know of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub mode: u32,
    pub owner: u32,
    pub mtime: (i64, i64),
    pub what: String,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The smallest path that is the same file.
    pub same: PathBuf,
}

/// Everything below a folder, itself included.
pub(super) fn picture(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut first = BTreeMap::new();
    let mut picture = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.expect("a readable tree");
        let path = entry.path().strip_prefix(root).expect("below the root").to_path_buf();
        let meta = entry.path().symlink_metadata().expect("a file");
        let same = first.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        let what = match FileType::from_raw_mode(meta.mode()) {
            FileType::RegularFile => format!("{:?}", super::codec::digest(&fs::read(entry.path()).expect("a file"))),
            FileType::Symlink => format!("-> {}", fs::read_link(entry.path()).expect("a link").display()),
            kind => format!("{kind:?} {}", meta.rdev()),
        };
        let xattrs = if meta.is_file() || meta.is_dir() {
            tree::xattrs(fs::File::open(entry.path()).expect("a file")).expect("attributes")
        } else {
            Vec::new()
        };
        let mtime = (meta.mtime(), meta.mtime_nsec());
        picture.insert(path, Seen { mode: meta.mode(), owner: meta.uid(), mtime, what, xattrs, same });
    }
    picture
}

/// Fills a tree with one of everything that a layer may hold.
pub(super) fn furnish(scratch: &Scratch) {
    let root = scratch.path();
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("usr/bin")).expect("folders");
    fs::write(at("usr/bin/tool"), b"#!/bin/sh\n").expect("a file");
    chmod(&at("usr/bin/tool"), 0o4755);
    fs::hard_link(at("usr/bin/tool"), at("usr/bin/also")).expect("a hard link");
    std::os::unix::fs::symlink("usr/bin", at("bin")).expect("a link");
    std::os::unix::fs::symlink("/nowhere", at("dangling")).expect("a link");
    fs::create_dir(at("tmp")).expect("a folder");
    chmod(&at("tmp"), 0o1777);
    fs::create_dir(at("closed")).expect("a folder");
    fs::write(at("closed/secret"), b"hidden").expect("a file");
    chmod(&at("closed/secret"), 0o000);
    chmod(&at("closed"), 0o555);
    let long: PathBuf = std::iter::repeat_n("a-rather-long-name-of-a-folder", 6).collect();
    fs::create_dir_all(root.join(&long)).expect("folders");
    fs::write(root.join(&long).join("file"), vec![b'x'; 300_000]).expect("a file");
    std::os::unix::fs::symlink(&long, at("to-long")).expect("a link");
    fs::write(root.join(OsStr::from_bytes(b"b\xff\n")), b"odd name").expect("a file");
    rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from(0o644), 0).expect("a named pipe");
    let tool = fs::File::open(at("usr/bin/tool")).expect("a file");
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::fsetxattr(&tool, "user.colour", b"gr\nee\0n", none).expect("an attribute");
}

pub(super) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("a mode");
}
