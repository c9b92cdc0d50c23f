//! One input of the fuzzer: made plausible, imported, and removed again. The test that replays the corpus does the same.
//!
//! Whatever the input is, nothing panics, nothing is made or changed beside the store, and a failure leaves nothing in it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use smidr::{
    events::Emitter,
    image::{ImageError, ImageName, ImageStore, Limits},
    model::{BuildId, Paths},
};

const BLOCK: usize = 512;

/// A store, and a canary beside it.
pub(crate) struct Yard {
    folder: tempfile::TempDir,
    store: ImageStore,
    before: Vec<(PathBuf, [i64; 6])>,
}

impl Yard {
    /// In a temporary folder.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let canary = folder.path().join("canary");
        fs::create_dir_all(canary.join("deep")).expect("folders");
        fs::write(canary.join("deep/file"), "untouched").expect("a file");
        let store = ImageStore::open(&Paths::new(folder.path().join("smidr"))).expect("a store");
        // Small, so that a round is short, and so that the limits are reached.
        let limits = Limits {
            layer_bytes: 1 << 20,
            file_bytes: 1 << 19,
            entries: 200,
            depth: 20,
            path: 1000,
            link: 1000,
            header: 16 << 10,
            pieces: 100,
            ..Limits::default()
        };
        let before = picture(&canary);
        Self { store: store.with_limits(limits), folder, before }
    }

    /// Imports an archive and, if that worked, removes it. Says what came of it.
    pub(crate) fn import(&mut self, input: &[u8]) -> Result<(), ImageError> {
        let source = self.folder.path().join("input");
        fs::write(&source, plausible(input)).expect("an input");
        let on = Emitter::new(BuildId::new("fuzz", 1).expect("a good name"), Vec::new());
        let name: ImageName = "fuzz".parse().expect("a good name");
        let result = self.store.import(&source, None, &name, &on);
        assert_eq!(picture(&self.folder.path().join("canary")), self.before, "the canary");
        if result.is_ok() {
            self.store.remove(&name, &on).expect("an image can be removed");
        }
        let images = self.folder.path().join("smidr/images");
        for part in ["blobs/sha256", "diffs", "names", "tmp"] {
            let left = fs::read_dir(images.join(part)).expect("a folder of the store").count();
            assert_eq!(left, 0, "{part}: something stayed");
        }
        result.map(drop)
    }
}

fn picture(folder: &Path) -> Vec<(PathBuf, [i64; 6])> {
    ["", "deep", "deep/file"]
        .map(|name| {
            let found = folder.join(name).symlink_metadata().expect("a part of the canary");
            let numbers = [found.ino(), found.nlink(), u64::from(found.mode()), found.size()];
            let [ino, links, mode, size] = numbers.map(u64::cast_signed);
            (name.into(), [ino, links, mode, size, found.mtime(), found.mtime_nsec()])
        })
        .into()
}

/// With checksums that are right wherever a header seems to be, which chance would not find, and with an end.
fn plausible(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + BLOCK) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = header[124..136].iter().take_while(|byte| (b'0'..=b'7').contains(*byte));
        let size = digits.fold(0, |size: usize, digit| size << 3 | usize::from(digit - b'0'));
        at = at.saturating_add(BLOCK).saturating_add(size.next_multiple_of(BLOCK));
    }
    bytes.extend([0; 2 * BLOCK]);
    bytes
}
