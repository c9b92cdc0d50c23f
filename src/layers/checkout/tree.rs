//! Lists what a commit holds, from untrusted trees: files, links and submodules whose paths may be written to a disk.

use std::{collections::HashSet, path::Path};

use gix::{
    ObjectId,
    bstr::{BString, ByteSlice as _},
    index::entry::{Flags, Mode, Stat},
    objs::{
        CommitRefIter, Kind, TreeRefIter,
        tree::{EntryKind, EntryRef},
    },
    validate::path::{component, component::Mode as Leaf},
};

use super::{super::valid_names::VALID_NAMES, error::CheckoutError, objects::Objects};
use crate::{model::CommitId, system::stop::StopToken};

/// Limits, far above any repository of layers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nested folders.
    pub depth: usize,
    /// Bytes of a path inside the repository. The store's own is before it, and Linux takes 4095 (`path_resolution(7)`).
    pub path: usize,
    /// Bytes of all paths of a repository, which are in memory at once. Linux has 6 MiB of them.
    pub paths: usize,
    /// Files, folders, links, submodules; of a repository with its submodules.
    pub entries: u64,
    /// Bytes of files and links, likewise.
    pub bytes: u64,
    /// Bytes of one file, which is read as a whole.
    pub file: u64,
    /// Nested submodules.
    pub nesting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 128,
            path: 2048,
            paths: 256 << 20,
            entries: 1_000_000,
            bytes: 16 << 30,
            file: 1 << 30,
            nesting: 10,
        }
    }
}

/// What a commit holds.
pub(super) struct Listing {
    /// Files, links and submodules, in git's order.
    pub index: gix::index::State,
    /// The paths of submodules, and their commits.
    pub submodules: Vec<(BString, ObjectId)>,
    /// `.gitmodules`.
    pub gitmodules: Option<ObjectId>,
    /// `.gitattributes` files.
    pub attributes: Vec<(BString, ObjectId)>,
    /// How many entries there are, folders included.
    pub entries: u64,
}

/// Lists what a commit holds. `entries` is how many entries other repositories of the same checkout have.
///
/// # Errors
///
/// When objects are damaged, or a name must not be written out.
pub(super) fn list(
    objects: &Objects,
    commit: &ObjectId,
    repository: &str,
    limits: &Limits,
    entries: u64,
) -> Result<Listing, CheckoutError> {
    let bytes = objects.read(commit, Kind::Commit)?;
    let malformed = |id: &ObjectId| malformed(repository, id);
    let tree = CommitRefIter::from_bytes(&bytes, commit.kind()).tree_id().map_err(|_| malformed(commit))?;
    let index = gix::index::State::new(commit.kind());
    let listing = Listing { index, submodules: Vec::new(), gitmodules: None, attributes: Vec::new(), entries };
    let mut walk = Walk { objects, repository, limits, listing, paths: 0, todo: vec![(tree, BString::default(), 1)] };
    while let Some((tree, path, depth)) = walk.todo.pop() {
        walk.tree(&tree, &path, depth)?;
    }
    walk.listing.index.sort_entries();
    walk.listing.submodules.sort();
    Ok(walk.listing)
}

/// Whether a commit has submodules: it then has `.gitmodules`. No, where it cannot be read.
pub(super) fn has_submodules(mirror: &Path, commit: &CommitId, limits: &Limits) -> bool {
    let id = ObjectId::from_bytes_or_panic(commit.as_bytes());
    let look = || -> Option<bool> {
        let objects = Objects::open(mirror, &id, limits, 0, &StopToken::default()).ok()?;
        let bytes = objects.read(&id, Kind::Commit).ok()?;
        let tree = CommitRefIter::from_bytes(&bytes, id.kind()).tree_id().ok()?;
        let bytes = objects.read(&tree, Kind::Tree).ok()?;
        Some(TreeRefIter::from_bytes(&bytes, id.kind()).flatten().any(|entry| entry.filename == ".gitmodules"))
    };
    look().unwrap_or_default()
}

struct Walk<'a> {
    objects: &'a Objects,
    repository: &'a str,
    limits: &'a Limits,
    listing: Listing,
    paths: usize,
    todo: Vec<(ObjectId, BString, usize)>,
}

impl Walk<'_> {
    fn tree(&mut self, id: &ObjectId, path: &BString, depth: usize) -> Result<(), CheckoutError> {
        if depth > self.limits.depth {
            return Err(self.limit("folders inside each other", self.limits.depth as u64));
        }
        let bytes = self.objects.read(id, Kind::Tree)?;
        let mut names = HashSet::new();
        for entry in TreeRefIter::from_bytes(&bytes, id.kind()) {
            let entry = entry.map_err(|_| malformed(self.repository, id))?;
            let mut full = path.clone();
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(entry.filename);
            if !names.insert(entry.filename.to_owned()) {
                return Err(CheckoutError::Twice { repository: self.repository.into(), path: full.to_string() });
            }
            self.entry(&entry, full, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &EntryRef<'_>, path: BString, depth: usize) -> Result<(), CheckoutError> {
        // As git reads a mode: its type, and of its permissions the owner's x.
        let kind = entry.mode.kind();
        let is_link = (kind == EntryKind::Link).then_some(Leaf::Symlink);
        component(entry.filename, is_link, VALID_NAMES).map_err(|source| CheckoutError::Name {
            repository: self.repository.into(),
            path: path.to_string(),
            source,
        })?;
        self.listing.entries += 1;
        if self.listing.entries > self.limits.entries {
            return Err(self.limit("files and folders", self.limits.entries));
        }
        if path.len() > self.limits.path {
            return Err(self.limit("bytes in the path of a file", self.limits.path as u64));
        }
        self.paths += path.len();
        if self.paths > self.limits.paths {
            return Err(self.limit("bytes in the paths of its files", self.limits.paths as u64));
        }
        let id = entry.oid.to_owned();
        let mode = match kind {
            EntryKind::Tree => {
                self.todo.push((id, path, depth + 1));
                return Ok(());
            }
            EntryKind::Blob => Mode::FILE,
            EntryKind::BlobExecutable => Mode::FILE_EXECUTABLE,
            EntryKind::Link => Mode::SYMLINK,
            EntryKind::Commit => Mode::COMMIT,
        };
        if mode == Mode::COMMIT {
            self.listing.submodules.push((path.clone(), id));
        } else if path == ".gitmodules" {
            self.listing.gitmodules = Some(id);
        } else if entry.filename == ".gitattributes" && mode != Mode::SYMLINK {
            self.listing.attributes.push((path.clone(), id));
        }
        self.listing.index.dangerously_push_entry(Stat::default(), id, Flags::empty(), mode, path.as_bstr());
        Ok(())
    }

    fn limit(&self, what: &'static str, limit: u64) -> CheckoutError {
        CheckoutError::Limit { repository: self.repository.into(), what, limit }
    }
}

fn malformed(repository: &str, id: &ObjectId) -> CheckoutError {
    CheckoutError::Malformed { repository: repository.into(), object: id.to_string() }
}
