//! Questions to a mirror about commits: whether one is complete, what a ref means, whether one is an ancestor of another. Never uses the network.

use std::collections::{BinaryHeap, HashSet};

use gix::{ObjectId, Repository, objs::tree::EntryKind};

use super::{
    commit::Commit,
    git_error::GitError,
    mirror::{commit_id, id},
};
use crate::model::CommitId;

/// Whether a commit is here with every folder and file of its tree. Objects are only looked up; readers check their content.
pub(super) fn is_whole(repository: &Repository, commit: &CommitId) -> bool {
    let root = repository.find_commit(id(commit)).and_then(|commit| Ok(commit.tree_id()?.detach()));
    let Ok(root) = root else { return false };
    let mut seen = HashSet::from([root]);
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        let Ok(tree) = repository.find_tree(folder) else { return false };
        for entry in tree.iter() {
            let Ok(entry) = entry else { return false };
            let child = entry.object_id();
            let is_here = match entry.kind() {
                EntryKind::Tree => {
                    if seen.insert(child) {
                        folders.push(child);
                    }
                    true
                }
                // A commit of another repository.
                EntryKind::Commit => true,
                EntryKind::Blob | EntryKind::BlobExecutable | EntryKind::Link => {
                    !seen.insert(child) || repository.has_object(child)
                }
            };
            if !is_here {
                return false;
            }
        }
    }
    true
}

/// The object that a ref means; tags of tags are followed to their end. None where it is not here.
pub(super) fn target(repository: &Repository, name: &str) -> Option<ObjectId> {
    let reference = repository.try_find_reference(name).ok()??;
    Some(reference.try_id()?.detach())
}

/// The commit that a ref means. None where it is not here, or is not a commit.
pub(super) fn commit_of(repository: &Repository, name: &str) -> Option<CommitId> {
    commit_id(repository, target(repository, name)?)
}

/// Whether a commit is an ancestor of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// It is.
    Yes,
    /// It is not, and the whole past is here.
    No,
    /// The past is incomplete.
    Unknown,
}

/// Whether `old` is an ancestor of `new`, as far as the mirror knows.
pub(super) fn is_behind(repository: &Repository, old: &CommitId, new: &CommitId) -> Result<Behind, GitError> {
    let mut past = Past::of(repository, new)?;
    let old = id(old);
    while let Some(found) = past.next()? {
        if found.id == old {
            return Ok(Behind::Yes);
        }
    }
    Ok(if past.is_cut { Behind::Unknown } else { Behind::No })
}

/// A commit of the past.
pub(super) struct Found {
    /// Its id.
    pub id: ObjectId,
    /// Its parents; empty where the mirror ends.
    pub parents: Vec<ObjectId>,
}

/// Commits, the newest first.
pub(super) struct Past<'r> {
    repository: &'r Repository,
    shallow: HashSet<ObjectId>,
    queue: BinaryHeap<(i64, ObjectId)>,
    seen: HashSet<ObjectId>,
    /// Whether commits are missing because the mirror is shallow.
    pub is_cut: bool,
}

impl<'r> Past<'r> {
    /// A commit and its ancestors.
    pub(super) fn of(repository: &'r Repository, tip: &CommitId) -> Result<Self, GitError> {
        Self::without(repository, tip, &HashSet::new())
    }

    /// The same, without some commits and their ancestors.
    pub(super) fn without(
        repository: &'r Repository,
        tip: &CommitId,
        without: &HashSet<ObjectId>,
    ) -> Result<Self, GitError> {
        let shallow = repository.shallow_commits().map_err(|error| GitError::mirror(repository.path(), &error))?;
        let shallow = shallow.iter().flat_map(|commits| commits.iter().copied()).collect();
        let mut past = Self { repository, shallow, queue: BinaryHeap::new(), seen: without.clone(), is_cut: false };
        past.push(id(tip));
        Ok(past)
    }

    fn push(&mut self, id: ObjectId) {
        if !self.seen.insert(id) {
            return;
        }
        match Commit::find(self.repository, id) {
            Some(commit) => self.queue.push((commit.committed(), id)),
            None => self.is_cut = true,
        }
    }

    /// The next commit.
    pub(super) fn next(&mut self) -> Result<Option<Found>, GitError> {
        let Some((_, id)) = self.queue.pop() else { return Ok(None) };
        let mut parents = Vec::new();
        if self.shallow.contains(&id) {
            self.is_cut = true;
        } else if let Some(commit) = Commit::find(self.repository, id) {
            parents = commit.parents();
        }
        parents.iter().for_each(|parent| self.push(*parent));
        Ok(Some(Found { id, parents }))
    }
}
