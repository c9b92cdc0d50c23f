//! Fixture for tests of checkouts: git repositories made by the real git, and pictures of trees.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex},
};

use smidr::{
    events::{Emitter, EventSink},
    layers::{
        checkout::{Checkout, CheckoutError, CheckoutStore, SubmoduleFailed, Submodules, Wanted},
        patch::ReadPatch,
    },
    lock::PatchPin,
    model::{BuildId, CommitId, Digest, Event, Paths, Record},
    plan::Submodules as Choice,
    system::stop::StopToken,
};

use super::support::{NO_HOME, hermetic};

/// The address of all repositories of a yard.
pub(crate) const URL: &str = "https://git.example.org/group/meta-test.git";

/// Runs git, which must succeed.
pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = try_git(folder, arguments, b"");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Runs git with this on standard input.
pub(crate) fn try_git(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = hermetic("git", NO_HOME)
        .arg("-C")
        .arg(folder)
        .args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", "-c", "safe.directory=*"])
        .args(arguments)
        .envs([
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@example.org"),
            ("GIT_AUTHOR_DATE", "2026-01-02T03:04:05Z"),
        ])
        .envs([
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@example.org"),
            ("GIT_COMMITTER_DATE", "2026-01-02T03:04:05Z"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("git starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("git reads");
    child.wait_with_output().expect("git ends")
}

/// Writes an object without git's checks.
pub(crate) fn object(folder: &Path, kind: &str, bytes: &[u8]) -> String {
    let output = try_git(folder, &["hash-object", "-t", kind, "--literally", "-w", "--stdin"], bytes);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A tree of entries: mode, name, id. Not sorted, not checked.
pub(crate) fn tree(folder: &Path, entries: &[(&str, &[u8], &str)]) -> String {
    let mut bytes = Vec::new();
    for (mode, name, id) in entries {
        bytes.extend(mode.as_bytes());
        bytes.push(b' ');
        bytes.extend(*name);
        bytes.push(0);
        bytes.extend((0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).expect("hexadecimal digits")));
    }
    object(folder, "tree", &bytes)
}

/// A commit of a tree.
pub(crate) fn commit(folder: &Path, tree: &str) -> CommitId {
    git(folder, &["commit-tree", tree, "-m", "x"]).parse().expect("a commit")
}

/// A patch.
pub(crate) fn patch(name: &str, text: &[u8]) -> ReadPatch {
    let sha256 = Digest::from_sha256(<sha2::Sha256 as sha2::Digest>::digest(text).into());
    ReadPatch { lock: PatchPin { file: name.into(), sha256 }, text: text.into() }
}

/// An error and all its causes in one line.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Everything below a folder but `.git`: mode and content of files, targets of links.
pub(crate) fn picture(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let tree = walkdir::WalkDir::new(folder).min_depth(1).into_iter().filter_entry(|entry| entry.file_name() != ".git");
    tree.map(|entry| {
        let entry = entry.expect("an entry");
        let content = if entry.path_is_symlink() {
            let target = fs::read_link(entry.path()).expect("a link");
            target.into_os_string().into_encoded_bytes()
        } else if entry.file_type().is_file() {
            fs::read(entry.path()).expect("a file")
        } else {
            Vec::new()
        };
        let mode = entry.metadata().expect("there").permissions().mode();
        (entry.path().strip_prefix(folder).expect("below").to_path_buf(), (mode, content))
    })
    .collect()
}

#[derive(Clone, Default)]
pub(crate) struct Recorder(pub Arc<Mutex<Vec<Event>>>);

impl EventSink for Recorder {
    fn accept(&mut self, record: &Record) {
        self.0.lock().expect("a mutex").push(record.event.clone());
    }
}

impl Recorder {
    pub(crate) fn warnings(&self) -> Vec<String> {
        let events = self.0.lock().expect("a mutex");
        let warnings = events.iter().filter_map(|event| match event {
            Event::Warning { text } => Some(text.clone()),
            _ => None,
        });
        warnings.collect()
    }
}

/// A temporary layer store, a bare mirror in it, and a canary beside it.
pub(crate) struct Yard {
    pub home: tempfile::TempDir,
    pub paths: Paths,
    pub store: CheckoutStore,
    pub mirror: PathBuf,
    pub on: Emitter,
    pub recorder: Recorder,
}

impl Yard {
    /// Where the store has its locks.
    pub(crate) fn locks(&self) -> PathBuf {
        let locks = self.paths.layers().join("locks");
        fs::create_dir_all(&locks).expect("a folder");
        locks
    }

    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(home.path().join("smidr"));
        fs::create_dir_all(paths.home()).expect("folders");
        fs::write(home.path().join("canary"), "alive").expect("a file");
        fs::write(paths.home().join("canary"), "alive").expect("a file");
        let mirror = paths.layers().join("mirrors/meta-test-1");
        fs::create_dir_all(&mirror).expect("folders");
        git(&mirror, &["init", "-q", "--bare", "."]);
        let recorder = Recorder::default();
        let on = Emitter::new(BuildId::new("test", 7).expect("a name"), vec![Box::new(recorder.clone())]);
        let store = CheckoutStore::new(&paths.layers());
        Self { home, paths, store, mirror, on, recorder }
    }

    pub(crate) fn checkout(&self, commit: &CommitId) -> Result<Checkout, CheckoutError> {
        self.checkout_with(commit, &[], false)
    }

    pub(crate) fn checkout_with(
        &self,
        commit: &CommitId,
        patches: &[ReadPatch],
        outside_links: bool,
    ) -> Result<Checkout, CheckoutError> {
        let mut none =
            |url: &str, _: &[String], _: &CommitId| -> Result<PathBuf, SubmoduleFailed> { panic!("asked for {url}") };
        self.checkout_of(URL, commit, patches, outside_links, &mut none)
    }

    pub(crate) fn checkout_of(
        &self,
        url: &str,
        commit: &CommitId,
        patches: &[ReadPatch],
        outside_links: bool,
        submodule: &mut Submodules<'_>,
    ) -> Result<Checkout, CheckoutError> {
        self.chosen(url, commit, (patches, outside_links), &Choice::All, submodule)
    }

    /// With a choice of submodules.
    pub(crate) fn chosen(
        &self,
        url: &str,
        commit: &CommitId,
        (patches, outside_links): (&[ReadPatch], bool),
        submodules: &Choice,
        submodule: &mut Submodules<'_>,
    ) -> Result<Checkout, CheckoutError> {
        let stop = StopToken::default();
        let wanted = Wanted { mirror: &self.mirror, url, mirrors: &[], commit, patches, outside_links, submodules };
        self.store.checkout(&wanted, submodule, &self.on, &stop)
    }

    /// Asserts that nothing outside of the store has changed, and that it has no partial files.
    pub(crate) fn is_clean(&self, checkouts: usize) {
        let names = |folder: &Path| {
            let mut names: Vec<String> = fs::read_dir(folder)
                .map(|list| {
                    list.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
                })
                .unwrap_or_default();
            names.sort();
            names
        };
        assert_eq!(names(self.home.path()), ["canary", "smidr"]);
        assert_eq!(names(self.paths.home()), ["canary", "layers"]);
        for canary in [self.home.path().join("canary"), self.paths.home().join("canary")] {
            assert_eq!(fs::read_to_string(canary).expect("the canary"), "alive");
        }
        let store = self.paths.layers().join("checkouts");
        assert_eq!(names(&store.join("tmp")), Vec::<String>::new());
        let made = names(&store).into_iter().filter(|name| name != "tmp").map(|key| names(&store.join(key)).len());
        assert_eq!(made.sum::<usize>(), checkouts, "{:?}", names(&store));
    }
}
