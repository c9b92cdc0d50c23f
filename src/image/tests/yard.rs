//! For tables of hostile archives: a folder to unpack in, a canary beside it, and what must come of each.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, statat};

use super::super::{
    LayerError, Limits,
    account::Account,
    archive::Archive,
    testing::{Seen, Tar, chmod, picture, told},
    tree,
    unpack::{Unpacked, unpack},
};
use crate::system::rooted::Rooted;

const SECRETS: [&str; 3] = ["untouched", "root:x:0:0", "too"];

/// A folder with a canary, and an empty root beside it.
pub(super) struct Yard {
    folder: tempfile::TempDir,
    before: BTreeMap<PathBuf, Seen>,
}

impl Yard {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let canary = folder.path().join("victim");
        fs::create_dir_all(canary.join("deep")).expect("folders");
        for (file, text) in ["file", "passwd", "deep/file"].into_iter().zip(SECRETS) {
            fs::write(canary.join(file), text).expect("a file");
        }
        chmod(&canary.join("deep"), 0o751);
        std::os::unix::fs::symlink("file", canary.join("link")).expect("a link");
        let before = picture(&canary);
        fs::create_dir(folder.path().join("root")).expect("a folder");
        Self { folder, before }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub(super) fn unpack(&self, archive: &[u8], limits: Limits) -> Result<Unpacked, LayerError> {
        self.unpack_into(archive, limits, limits.layer_bytes)
    }

    pub(super) fn unpack_into(&self, archive: &[u8], limits: Limits, room: u64) -> Result<Unpacked, LayerError> {
        let tree = Rooted::open(&self.root()).expect("a root");
        unpack(&mut Archive::new(archive, limits), &tree, limits, room, &Account::new(&limits))
    }

    pub(super) fn assert_untouched(&self, case: &str) {
        assert_eq!(picture(&self.folder.path().join("victim")), self.before, "{case}");
        for file in ["file", "passwd", "deep/file"] {
            let links = self.folder.path().join("victim").join(file).metadata().expect("a file").nlink();
            assert_eq!(links, 1, "{case}: {file} has another name");
        }
        let mut beside: Vec<_> =
            fs::read_dir(self.folder.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["root", "victim"], "{case}");
    }
}

/// What must come of an archive.
pub(super) enum Then {
    /// Refused, with a message that holds this.
    Refused(&'static str),
    /// Unpacked, and this path holds this content or, after `-> `, is a link to it.
    Holds(&'static str, &'static str),
    /// Unpacked, and this is a folder.
    Folder(&'static str),
    /// Unpacked, and there is nothing at this path.
    Lacks(&'static str),
    /// Unpacked, and what lower layers have at this path is hidden.
    Hidden(&'static str),
    /// Unpacked, and this is a folder that hides what lower layers have in it.
    Opaque(&'static str),
    /// Refused or not, so long as the canary lives and its content is not here.
    Harmless(&'static str),
}

/// A case: its name, the archive, what must come of it.
pub(super) type Case = (&'static str, Tar, Then);

/// An error with its causes.
/// Fails the test if something else came of it.
pub(super) fn check(case: &str, root: &Path, result: Result<Unpacked, LayerError>, then: &Then) {
    match (then, result) {
        (Then::Refused(text), Err(error)) => assert!(told(&error).contains(text), "{case}: {}", told(&error)),
        (Then::Harmless(path), _) => {
            let is_file = root.join(path).symlink_metadata().is_ok_and(|meta| meta.is_file());
            let found = if is_file { fs::read_to_string(root.join(path)).unwrap_or_default() } else { String::new() };
            assert!(!SECRETS.contains(&found.as_str()), "{case}: {found}");
        }
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
        (Then::Hidden(path), Ok(_)) => {
            let stat = statat(CWD, root.join(path), AtFlags::SYMLINK_NOFOLLOW);
            assert!(stat.is_ok_and(|stat| tree::is_whiteout(&stat)), "{case}");
        }
        (Then::Opaque(path), Ok(_)) => {
            assert!(fs::File::open(root.join(path)).is_ok_and(tree::is_opaque), "{case}");
        }
        (Then::Lacks(path), Ok(_)) => assert!(root.join(path).symlink_metadata().is_err(), "{case}"),
    }
}

/// Unpacks each archive beside a canary of its own, and looks at both.
pub(super) fn try_all(cases: Vec<Case>) {
    for (case, tar, then) in cases {
        let yard = Yard::new();
        let bytes = tar.end();
        let result = yard.unpack(&bytes, Limits::default());
        yard.assert_untouched(case);
        check(case, &yard.root(), result, &then);
        // The same once more, onto what is there now: its links may be a way out for what comes before them in the archive.
        let _ = yard.unpack(&bytes, Limits::default());
        yard.assert_untouched(case);
    }
}
