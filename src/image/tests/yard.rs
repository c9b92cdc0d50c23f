//! For tables of hostile archives: a folder to unpack in, a canary beside it, and what must come of each.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::super::{
    LayerError, Limits,
    archive::Archive,
    lowers::Lowers,
    testing::{Seen, Tar, chmod, picture},
    unpack::{Unpacked, unpack},
};
use crate::host::rooted::Rooted;

/// A folder with a canary, and an empty root beside it.
pub struct Yard {
    folder: tempfile::TempDir,
    before: BTreeMap<PathBuf, Seen>,
}

impl Yard {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let canary = folder.path().join("victim");
        fs::create_dir_all(canary.join("deep")).expect("folders");
        for (file, text) in [("file", "untouched"), ("passwd", "root:x:0:0"), ("deep/file", "too")] {
            fs::write(canary.join(file), text).expect("a file");
        }
        chmod(&canary.join("deep"), 0o751);
        std::os::unix::fs::symlink("file", canary.join("link")).expect("a link");
        let before = picture(&canary);
        fs::create_dir(folder.path().join("root")).expect("a folder");
        Self { folder, before }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub fn unpack(&self, archive: &[u8], limits: Limits) -> Result<Unpacked, LayerError> {
        let tree = Rooted::open(&self.root()).expect("a root");
        unpack(&mut Archive::new(archive, limits), &tree, &Lowers::default(), limits, limits.layer_bytes)
    }

    pub fn assert_untouched(&self, case: &str) {
        assert_eq!(picture(&self.folder.path().join("victim")), self.before, "{case}");
        let mut beside: Vec<_> =
            fs::read_dir(self.folder.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["root", "victim"], "{case}");
    }
}

/// What must come of an archive.
pub enum Then {
    /// Refused, with a message that holds this.
    Refused(&'static str),
    /// Unpacked, and this path holds this content or, after `-> `, is a link to it.
    Holds(&'static str, &'static str),
    /// Unpacked, and this is a folder.
    Folder(&'static str),
    /// Unpacked, and there is nothing at this path.
    Lacks(&'static str),
}

/// A case: its name, the archive, what must come of it.
pub type Case = (&'static str, Tar, Then);

/// An error with its causes.
pub fn told(error: &LayerError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Fails the test if something else came of it.
pub fn check(case: &str, root: &Path, result: Result<Unpacked, LayerError>, then: &Then) {
    match (then, result) {
        (Then::Refused(text), Err(error)) => assert!(told(&error).contains(text), "{case}: {}", told(&error)),
        (Then::Refused(_), Ok(_)) => panic!("{case}: was accepted"),
        (_, Err(error)) => panic!("{case}: {}", told(&error)),
        (Then::Holds(path, content), Ok(_)) => {
            let found = fs::read_link(root.join(path)).map(|link| format!("-> {}", link.display()));
            let found = found.or_else(|_| fs::read_to_string(root.join(path)));
            assert_eq!(found.unwrap_or_else(|error| format!("{case}: {error}")), *content, "{case}");
        }
        (Then::Folder(path), Ok(_)) => {
            assert!(root.join(path).symlink_metadata().is_ok_and(|meta| meta.is_dir()), "{case}")
        }
        (Then::Lacks(path), Ok(_)) => assert!(root.join(path).symlink_metadata().is_err(), "{case}"),
    }
}

/// Unpacks each archive beside a canary of its own, and looks at both.
pub fn try_all(cases: Vec<Case>) {
    for (case, tar, then) in cases {
        let yard = Yard::new();
        // Whoever is "half" of something has no end.
        let bytes = if case.starts_with("half ") { tar.0 } else { tar.end() };
        let result = yard.unpack(&bytes, Limits::default());
        yard.assert_untouched(case);
        check(case, &yard.root(), result, &then);
    }
}
