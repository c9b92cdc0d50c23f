//! Detects store entries torn by a power cut, without fsync.
//!
//! A rename can reach the disk before the content of the renamed tree, and a power cut then leaves empty files. fsync would prevent that,
//! but also waits for data of other programs, builds included. Instead, an entry carries the boot id and what it should contain; in
//! another boot its content is counted once before it is used. File systems write the size of a file after its content (ext4's
//! `data=ordered`, XFS, btrfs), so that counting is enough.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::files::{self, FileError};

const MARK: &str = "unsettled.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    boot: String,
    census: Census,
}

/// The content of a tree.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Census {
    entries: u64,
    // The sum of the files' lengths.
    bytes: u64,
}

/// Marks a tree before it is renamed to its place, in a folder beside it or inside it. Without a boot id, it syncs the file system
/// instead.
///
/// # Errors
///
/// When the file system refuses.
pub fn mark(folder: &Path, tree: &Path) -> Result<(), FileError> {
    match boot() {
        Some(boot) => mark_for(folder, tree, boot),
        None => {
            let sync = || rustix::fs::syncfs(File::open(folder)?).map_err(io::Error::from);
            sync().map_err(FileError::new("write out", folder))
        }
    }
}

fn mark_for(folder: &Path, tree: &Path, boot: String) -> Result<(), FileError> {
    let path = folder.join(MARK);
    let census = count(tree, &path).map_err(FileError::new("count", tree))?;
    let text = serde_json::to_vec(&Mark { boot, census }).unwrap_or_default();
    files::write_atomically(&path, &text, 0o600)
}

/// Whether a tree of the store has its original content. Safe to call concurrently.
pub fn is_whole(folder: &Path, tree: &Path) -> bool {
    let path = folder.join(MARK);
    let bytes = match fs::read(&path) {
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
        Ok(bytes) => bytes,
    };
    let Ok(mark) = serde_json::from_slice::<Mark>(&bytes) else { return false };
    if Some(&mark.boot) == boot().as_ref() {
        return true;
    }
    let whole = count(tree, &path).is_ok_and(|census| census == mark.census);
    if whole {
        // It has survived a boot, so it is on the disk. If this fails, it is counted again next time.
        let _ = fs::remove_file(&path);
    }
    whole
}

// proc(5), random(4).
fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    (!text.trim().is_empty()).then(|| text.trim().to_owned())
}

// Without the mark, which is written after the first count.
fn count(tree: &Path, mark: &Path) -> io::Result<Census> {
    let mut census = Census::default();
    // With fewer open folders, walkdir would hold the rest of a listing in memory.
    for entry in walkdir::WalkDir::new(tree).max_open(512) {
        let entry = entry?;
        if entry.path() == mark {
            continue;
        }
        census.entries += 1;
        if entry.file_type().is_file() {
            census.bytes += entry.metadata()?.len();
        }
    }
    Ok(census)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_tree_is_detected() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("fs/etc")).expect("folders");
        fs::write(at("fs/etc/file"), "content").expect("a file");
        assert!(is_whole(folder.path(), &at("fs")), "nothing was promised");
        mark(folder.path(), &at("fs")).expect("marked");
        fs::write(at("fs/etc/file"), "").expect("emptied");
        assert!(
            is_whole(folder.path(), &at("fs")),
            "in the same boot the kernel shows what was written, whatever the disk has"
        );
        let earlier = || mark_for(folder.path(), &at("fs"), "another boot".into()).expect("marked");
        earlier();
        assert!(is_whole(folder.path(), &at("fs")) && !at(MARK).exists(), "counted, and good for ever");
        earlier();
        fs::write(at("fs/etc/file"), "content").expect("changed");
        assert!(!is_whole(folder.path(), &at("fs")) && at(MARK).exists());
        earlier();
        fs::remove_file(at("fs/etc/file")).expect("removed");
        assert!(!is_whole(folder.path(), &at("fs")));
        fs::write(at(MARK), "").expect("emptied");
        assert!(!is_whole(folder.path(), &at("fs")), "a mark that was lost itself");
    }

    #[test]
    fn a_mark_may_stand_in_its_own_tree() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join(".git");
        fs::create_dir(&inside).expect("a folder");
        mark_for(&inside, folder.path(), "another boot".into()).expect("marked");
        assert!(inside.join(MARK).exists() && is_whole(&inside, folder.path()) && !inside.join(MARK).exists());
        mark_for(&inside, folder.path(), "another boot".into()).expect("marked");
        fs::write(folder.path().join("file"), "content").expect("a file");
        assert!(!is_whole(&inside, folder.path()));
    }
}
