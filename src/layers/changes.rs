//! What has happened to a repository between two commits, for people who decide whether they want it.

use std::{collections::HashSet, sync::Arc};

use gix::ObjectId;
use jiff::Timestamp;

use super::{
    access::Access,
    fetch::{self, Depth, Request, Want},
    git_error::{GitError, shown},
    mirror::{self, Mirrors, id},
    revision::Past,
};
use crate::{model::CommitId, plan::PlannedGit};

/// How much of the past is fetched before all of it is.
const FIRST: u32 = 200;

/// The commits from one to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What is new, the newest first; not more than were asked for.
    pub commits: Vec<Change>,
    /// How many are new, all in all; as far as the mirror knows, if it does not know the whole past.
    pub total: usize,
    /// Whether the whole past between the two is known.
    pub is_whole: bool,
    /// Whether the new one does not come from the old one: somebody has rewritten the branch, or another one is meant now.
    pub is_rewritten: bool,
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub commit: CommitId,
    /// The first line of its message, without control characters.
    pub subject: String,
    /// When it was written.
    pub authored: Option<Timestamp>,
}

impl Change {
    /// The first digits of its id.
    pub fn short(&self) -> String {
        self.commit.short()
    }
}

impl Mirrors {
    /// What has happened between two commits, at most `limit` of it. Fetches more of the past where that is missing and the network
    /// may be used; where it cannot, what is known is said to be that.
    ///
    /// # Errors
    ///
    /// When the mirror cannot be read, or somebody asks to stop.
    pub fn changes(
        &self,
        wanted: &PlannedGit,
        from: &CommitId,
        to: &CommitId,
        limit: usize,
        access: Access<'_>,
    ) -> Result<Changes, GitError> {
        let mirror = self.mirror(&wanted.url);
        if !mirror.is_there() {
            return Ok(Changes::default());
        }
        let between = || between(&mirror::open(mirror.path())?, from, to, limit);
        let mut found = between()?;
        if found.is_whole || !access.online {
            return Ok(found);
        }
        let lock = Arc::new(self.hold(&mirror, access)?);
        for depth in [Depth::Commits(FIRST), Depth::Past] {
            let room = self.room(&mirror, &lock)?;
            match fetch::deepen(&room, wanted, &request(wanted, to, depth), access) {
                Ok(()) => room.settle()?,
                // It is only about what people are told.
                Err(error) if error.is_about_the_place() => {
                    access.on.warn(format!("the past of {} cannot be fetched: {error}", mirror.url()));
                    return Ok(found);
                }
                Err(error) => return Err(error),
            }
            found = between()?;
            if found.is_whole {
                break;
            }
        }
        Ok(found)
    }
}

// By the branch if there is one: not every server gives a commit by its id.
fn request(wanted: &PlannedGit, to: &CommitId, depth: Depth) -> Request {
    let want = wanted.branch.clone().map_or_else(|| Want::Commit(to.clone()), Want::Branch);
    Request::new([want], depth)
}

fn between(repository: &gix::Repository, from: &CommitId, to: &CommitId, limit: usize) -> Result<Changes, GitError> {
    // Everything behind the old one, and everything behind the new one that is not among it. The newest come first in both, so that a
    // cut of the past matters only where neither of them is known to end.
    let (old, is_cut_old) = behind(repository, from, &HashSet::new())?;
    let (new, is_cut_new) = behind(repository, to, &old.iter().copied().collect())?;
    let (old_id, new_id) = (id(from), id(to));
    let comes_from = new_id == old_id || new.iter().any(|one| parents(repository, *one).contains(&old_id));
    let known = !old.is_empty() && !new.is_empty() || new_id == old_id;
    let commits = new.iter().take(limit).filter_map(|id| change(repository, *id)).collect();
    Ok(Changes {
        commits,
        total: new.len(),
        is_whole: known && !is_cut_new && (comes_from || !is_cut_old),
        is_rewritten: known && !is_cut_new && !comes_from,
    })
}

// Commits behind one, without those of `without`; and whether the past ends too early.
fn behind(
    repository: &gix::Repository,
    tip: &CommitId,
    without: &HashSet<ObjectId>,
) -> Result<(Vec<ObjectId>, bool), GitError> {
    let mut past = Past::without(repository, tip, without)?;
    let mut found = Vec::new();
    while let Some(one) = past.next()? {
        found.push(one.id);
    }
    Ok((found, past.is_cut))
}

fn parents(repository: &gix::Repository, id: ObjectId) -> Vec<ObjectId> {
    repository.find_commit(id).map(|commit| commit.parent_ids().map(gix::Id::detach).collect()).unwrap_or_default()
}

fn change(repository: &gix::Repository, id: ObjectId) -> Option<Change> {
    let commit = repository.find_commit(id).ok()?;
    let subject = commit.message().ok()?.summary().to_string();
    let seconds = commit.author().ok()?.time().ok()?.seconds;
    let id = CommitId::from_sha1(id.as_slice().try_into().ok()?);
    Some(Change { commit: id, subject: shown(&subject), authored: Timestamp::from_second(seconds).ok() })
}
