//! Archives of GNU tar and Python, unpacked by smidr, GNU tar and Python with equal results; and the fuzzer's corpus, replayed.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use include_dir::{Dir, include_dir};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use smidr::{
    events::Emitter,
    image::{ImageName, ImageStore},
    model::{BuildId, Paths},
};

use super::{
    fuzz_one,
    support::{NO_HOME, hermetic, skip, tool},
};

/// Something in a tree; its folder is one of those before it, or the root.
#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    parent: usize,
    name: &'static str,
    mode: u32,
    seconds: i64,
    /// Fractions that a floating-point number holds exactly, since that is what Python makes of them.
    nanos: i64,
}

#[derive(Clone, Debug)]
enum Kind {
    Folder,
    /// Holes and what stands after each.
    File(Vec<(u64, usize)>),
    Symlink(&'static str),
    /// To one of the files before it.
    HardLink(usize),
}

const NAMES: [&str; 7] = [
    "",
    " with a space",
    "-\u{e9}\u{2713}",
    "\nnewline",
    "-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long",
    "-\\back",
];

const TARGETS: [&str; 5] = [
    "0",
    "../up/and/away",
    "/an/absolute/one",
    "caf\u{e9}",
    "very/long/very/long/very/long/very/long/very/long/very/long/very/long/very/long/very/long/very/long/very/long/target",
];

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let piece = (select(vec![0_u64, 100, 4096, 70_000]), select(vec![0_usize, 1, 511, 512, 5000]));
    let kind = prop_oneof![
        Just(Kind::Folder),
        vec(piece, 0..12).prop_map(Kind::File),
        select(TARGETS.to_vec()).prop_map(Kind::Symlink),
        any::<usize>().prop_map(Kind::HardLink),
    ];
    // They must be readable for packing.
    let mode = (0..=0o7777_u32).prop_map(|mode| mode | 0o500);
    let node = (kind, any::<usize>(), select(NAMES.to_vec()), mode, 0..1_i64 << 32, 0..4_i64);
    let node = node.prop_map(|(kind, parent, name, mode, seconds, quarters)| Node {
        kind,
        parent,
        name,
        mode,
        seconds,
        nanos: quarters * 250_000_000,
    });
    vec(node, 1..25)
}

fn make(root: &Path, nodes: &[Node]) {
    let (mut folders, mut files, mut made) = (vec![root.to_path_buf()], Vec::<PathBuf>::new(), Vec::new());
    for (at, node) in nodes.iter().enumerate() {
        let path = folders[node.parent % folders.len()].join(format!("{at}{}", node.name));
        match &node.kind {
            Kind::Folder => {
                fs::create_dir(&path).expect("a folder");
                if path.as_os_str().len() < root.as_os_str().len() + 500 {
                    folders.push(path.clone());
                }
            }
            Kind::Symlink(target) => symlink(target, &path).expect("a link"),
            Kind::HardLink(index) if !files.is_empty() => {
                fs::hard_link(&files[index % files.len()], &path).expect("a hard link");
                continue;
            }
            Kind::HardLink(_) => continue,
            Kind::File(pieces) => {
                fill(&path, pieces);
                files.push(path.clone());
            }
        }
        made.push((path, node));
    }
    for (path, node) in made.iter().rev() {
        if !matches!(node.kind, Kind::Symlink(_)) {
            fs::set_permissions(path, fs::Permissions::from_mode(node.mode)).expect("a mode");
        }
        let time = Timespec { tv_sec: node.seconds, tv_nsec: node.nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
    }
}

fn fill(path: &Path, pieces: &[(u64, usize)]) {
    let file = File::create(path).expect("a file");
    let mut end = 0;
    for (hole, length) in pieces {
        file.write_all_at(&vec![b'x'; *length], end + hole).expect("a piece");
        end += hole + *length as u64;
    }
    file.set_len(end).expect("a length");
}

#[derive(Debug, PartialEq)]
struct Seen {
    what: String,
    mode: u32,
    time: (i64, i64),
    /// The first path of the same file.
    same: PathBuf,
}

/// The same tree with names that the oldest formats have room for.
fn short(nodes: &[Node]) -> Vec<Node> {
    let shorten = |mut node: Node| {
        node.name = "";
        if let Kind::Symlink(target) = &mut node.kind
            && target.len() > 99
        {
            *target = TARGETS[0];
        }
        node
    };
    nodes.iter().cloned().map(shorten).collect()
}

/// Everything below a folder. Modes are masked as smidr does it: no setuid, always readable and writable by the owner.
fn picture(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut first, mut seen) = (HashMap::new(), BTreeMap::new());
    for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry.expect("a readable tree");
        let meta = entry.path().symlink_metadata().expect("a file");
        let path = entry.path().strip_prefix(root).expect("below the root").to_path_buf();
        let (what, mode) = if meta.is_dir() {
            ("folder".into(), meta.mode() & 0o1777 | 0o700)
        } else if meta.is_symlink() {
            (format!("-> {}", fs::read_link(entry.path()).expect("a link").display()), 0)
        } else {
            (told(&fs::read(entry.path()).expect("a file")), meta.mode() & 0o777 | 0o600)
        };
        let same = first.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        seen.insert(path, Seen { what, mode, time: (meta.mtime(), meta.mtime_nsec()), same });
    }
    seen
}

// Long contents as what a failure can show: runs of equal bytes.
fn told(content: &[u8]) -> String {
    let runs = content.chunk_by(|a, b| a == b);
    runs.map(|run| format!("{}*{}", run.len(), run[0].escape_ascii())).collect::<Vec<_>>().join(" ")
}

const PACK: &str = "
import os, sys, tarfile
out = tarfile.open(sys.argv[2], 'w', format=int(sys.argv[3]))
os.chdir(sys.argv[1])
for folder, folders, files in os.walk('.'):
    folders.sort()
    for name in ['', *sorted(files), *(f for f in folders if os.path.islink(os.path.join(folder, f)))]:
        out.add(os.path.join(folder, name), recursive=False)
out.close()
";

const UNPACK: &str = "
import sys, tarfile
archive = tarfile.open(sys.argv[1])
if hasattr(tarfile, 'fully_trusted_filter'):
    archive.extraction_filter = tarfile.fully_trusted_filter
archive.extractall(sys.argv[2])
";

struct Tools {
    tar: Option<PathBuf>,
    python: Option<PathBuf>,
}

impl Tools {
    fn find() -> Self {
        let is_gnu = |path: &PathBuf| {
            let said = Command::new(path).arg("--version").output();
            said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("GNU tar"))
        };
        Self { tar: tool("tar").filter(is_gnu), python: tool("python3") }
    }

    /// Every way of packing the folder `short` or `long`: its name, the command, which folder, and whether it keeps parts of
    /// a second.
    fn packers(&self, yard: &Path) -> Vec<Packer> {
        let (mut packers, out) = (Vec::new(), yard.join("archive.tar"));
        for (tar, (options, tree)) in self.tar.iter().flat_map(|tar| TAR_OPTIONS.map(|options| (tar, options))) {
            let python = tree == "short" || !options.contains("version=1.0");
            let (how, exact, tree) = (format!("tar {options}, {tree}"), options.contains("posix"), yard.join(tree));
            let mut command = hermetic(tar, NO_HOME);
            command.args(options.split(' ')).arg("-C").arg(&tree).arg("-cf").arg(&out).arg(".");
            packers.push(Packer { how, command, tree, exact, python });
        }
        let formats = ["ustar", "gnu", "pax"].into_iter().zip(0..);
        for (python, (name, number)) in
            self.python.iter().flat_map(|python| formats.clone().map(move |it| (python, it)))
        {
            let tree = yard.join(if name == "ustar" { "short" } else { "long" });
            let mut command = hermetic(python, NO_HOME);
            command.args(["-c", PACK]).arg(&tree).arg(&out).arg(i32::to_string(&number));
            packers.push(Packer { how: format!("python {name}"), command, tree, exact: name == "pax", python: true });
        }
        packers
    }
}

struct Packer {
    how: String,
    command: Command,
    tree: PathBuf,
    exact: bool,
    /// Whether Python reads it rightly.
    python: bool,
}

/// And which of the two trees. With long names, Python takes the invented name of a sparse file for its real one.
const TAR_OPTIONS: [(&str, &str); 7] = [
    ("--format=v7", "short"),
    ("--format=ustar", "short"),
    ("--format=gnu", "long"),
    ("--format=posix", "long"),
    ("--format=gnu --sparse --hole-detection=raw", "long"),
    ("--format=posix --sparse --hole-detection=raw --sparse-version=1.0", "short"),
    ("--format=posix --sparse --hole-detection=raw --sparse-version=1.0", "long"),
];

/// By smidr, into a store of its own.
fn ours(folder: &Path, archive: &Path) -> BTreeMap<PathBuf, Seen> {
    let store = ImageStore::open(&Paths::new(folder.join("smidr"))).expect("a store");
    let on = Emitter::new(BuildId::new("test", 1).expect("a good name"), Vec::new());
    let name: ImageName = "test".parse().expect("a good name");
    let image = store.import(archive, None, &name, &on).expect("smidr unpacks it");
    let root = store.checkout(&image, &on).expect("a root file system");
    picture(&root.diffs()[0])
}

fn theirs(how: &str, folder: &Path, mut command: Command) -> BTreeMap<PathBuf, Seen> {
    fs::create_dir(folder).expect("a folder");
    let done = command.current_dir(folder).output().expect("it starts");
    assert!(done.status.success(), "{how}: {}", String::from_utf8_lossy(&done.stderr));
    picture(folder)
}

fn without_times<'a>(
    seen: impl IntoIterator<Item = (&'a PathBuf, &'a Seen)>,
    lacks: impl Fn(&Seen) -> bool,
) -> Vec<(PathBuf, Seen)> {
    let plain = |seen: &Seen| Seen {
        what: seen.what.clone(),
        mode: seen.mode,
        time: if lacks(seen) { (0, 0) } else { seen.time },
        same: seen.same.clone(),
    };
    seen.into_iter().map(|(path, seen)| (path.clone(), plain(seen))).collect()
}

fn compare(tools: &Tools, nodes: &[Node]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    for (name, nodes) in [("long", nodes), ("short", &short(nodes))] {
        fs::create_dir(at(name)).expect("a folder");
        make(&at(name), nodes);
    }
    for (number, Packer { how, mut command, tree, exact, python }) in
        tools.packers(folder.path()).into_iter().enumerate()
    {
        let packed = command.output().expect("it starts");
        assert!(packed.status.success(), "{how}: {}", String::from_utf8_lossy(&packed.stderr));
        let own = folder.path().join(number.to_string());
        fs::create_dir(&own).expect("a folder");
        let (ours, tree) = (ours(&own, &at("archive.tar")), picture(&tree));
        let seconds = |_: &Seen| !exact;
        assert_eq!(without_times(&ours, seconds), without_times(&tree, seconds), "{how}: smidr and the tree");
        if let Some(tar) = &tools.tar {
            let mut command = hermetic(tar, NO_HOME);
            command.args(["-x", "--same-permissions", "--no-same-owner", "-f"]).arg(at("archive.tar"));
            assert_eq!(ours, theirs(&how, &own.join("tar"), command), "{how}: smidr and GNU tar");
        }
        if let Some(python) = tools.python.as_ref().filter(|_| python) {
            let mut command = hermetic(python, NO_HOME);
            command.args(["-c", UNPACK]).arg(at("archive.tar")).arg(OsStr::new("."));
            // It sets no times of links.
            let links = |seen: &Seen| seen.what.starts_with("-> ");
            let theirs = theirs(&how, &own.join("python"), command);
            assert_eq!(without_times(&ours, links), without_times(&theirs, links), "{how}: smidr and Python");
        }
    }
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn three_readers_see_one_tree() {
    let name = "archives::three_readers_see_one_tree";
    let tools = Tools::find();
    if tools.tar.is_none() {
        skip(name, "there is no GNU tar to compare with");
    }
    if tools.python.is_none() {
        skip(name, "there is no Python to compare with");
    }
    let config = Config { cases: 5, max_shrink_iters: 30, failure_persistence: None, ..Config::default() };
    // The same trees each time, so that a failure can be repeated.
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&nodes(), |nodes| {
        compare(&tools, &nodes);
        Ok(())
    });
    result.expect("three readers agree");
}

static CORPUS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/tests/fuzz/corpus/layer");

#[test]
fn fuzz_corpus_is_accepted() {
    let mut yard = fuzz_one::Yard::new();
    let results: Vec<_> = CORPUS.files().map(|file| (file.path(), yard.import(file.contents()))).collect();
    assert!(results.len() >= 15, "only {} inputs", results.len());
    let refused: Vec<_> = results.iter().filter_map(|(path, result)| Some((path, result.as_ref().err()?))).collect();
    assert!(refused.is_empty(), "what begins as refused leads the fuzzer nowhere: {refused:?}");
}
