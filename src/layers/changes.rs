//! What has changed in a repository between two commits, for `layers diff`.

use std::{collections::HashSet, sync::Arc};

use gix::ObjectId;
use jiff::Timestamp;

use super::{
    access::Access,
    commit::Commit,
    fetch::{self, Depth, Request, Want},
    git_error::{GitError, shown},
    mirror::{self, Mirrors, id},
    revision::Past,
};
use crate::{model::CommitId, plan::PlannedGit};

/// How many commits are fetched first, before the whole past is.
const FIRST: u32 = 200;

/// The commits from one to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The new commits, the newest first, at most as many as asked for. Only the newest one where no common ancestor is known.
    pub commits: Vec<Change>,
    /// How many are new in all, as far as the mirror knows the past.
    pub total: usize,
    /// Whether the whole past between the two is known.
    pub is_whole: bool,
    /// Whether the new one does not descend from the old one: the branch was rewritten, or another branch is meant now.
    pub is_rewritten: bool,
    /// The commits that were removed, the newest first, where the new one is an ancestor of the old one; at most as many as asked for.
    pub gone: Vec<Change>,
    /// How many were removed.
    pub gone_total: usize,
    /// Whether no server has the old one any more. What has changed since is then unknown.
    pub is_lost: bool,
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its id.
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
    /// The changes between two commits, at most `limit` of them. Fetches more of the past where that is missing and the network
    /// may be used; otherwise the result says that it is incomplete.
    ///
    /// # Errors
    ///
    /// When the mirror cannot be read, or a stop is requested.
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
        let look = || between(&mirror::open(mirror.path())?, from, to, limit);
        let mut found = look()?;
        if found.is_whole || !access.online {
            return Ok(found);
        }
        let lock = Arc::new(self.hold(&mirror, access)?);
        let (new, old) =
            (|depth| request(wanted, to, depth), |depth| Request::new([Want::Commit(from.clone())], depth));
        let mut gives_old = true;
        // A branch that was moved by force does not contain the old commit, but some servers still give it by its id.
        for depth in [Depth::Commits(FIRST), Depth::Past] {
            for (request, is_old) in [(new(depth), false), (old(depth), true)] {
                if is_old && !gives_old {
                    continue;
                }
                let room = self.room(&mirror, &lock)?;
                match fetch::deepen(&room, wanted, &request, access) {
                    Ok(()) => room.settle()?,
                    Err(error) if is_old && error.is_about_the_place() => gives_old = false,
                    // The result is only shown, so a failure is a warning.
                    Err(error) if error.is_about_the_place() => {
                        access.on.warn(format!("the past of {} cannot be fetched: {error}", mirror.url()));
                        return Ok(found);
                    }
                    Err(error) => return Err(error),
                }
                found = look()?;
                if found.is_whole {
                    return Ok(found);
                }
            }
        }
        found.is_lost = !has(&mirror::open(mirror.path())?, from);
        Ok(found)
    }
}

// By the branch if there is one: not every server gives a commit by its id.
fn request(wanted: &PlannedGit, to: &CommitId, depth: Depth) -> Request {
    let want = wanted.branch.clone().map_or_else(|| Want::Commit(to.clone()), Want::Branch);
    Request::new([want], depth)
}

fn has(repository: &gix::Repository, commit: &CommitId) -> bool {
    repository.find_commit(id(commit)).is_ok()
}

fn between(repository: &gix::Repository, from: &CommitId, to: &CommitId, limit: usize) -> Result<Changes, GitError> {
    // Without the old one all of the past would look new.
    if !has(repository, from) {
        return Ok(Changes::default());
    }
    let list = |ids: &[ObjectId]| ids.iter().take(limit).filter_map(|id| change(repository, *id)).collect();
    // Everything behind the old one, and everything behind the new one that is not among it. The newest come first in both, so that a
    // cut of the past matters only where neither of them is known to end.
    let old = behind(repository, from, &HashSet::new())?;
    let (old_id, new_id) = (id(from), id(to));
    let old_ids: HashSet<ObjectId> = old.commits.iter().copied().collect();
    if new_id != old_id && old_ids.contains(&new_id) {
        let kept = behind(repository, to, &HashSet::new())?.commits.into_iter().collect();
        let gone = behind(repository, from, &kept)?;
        let (gone_total, is_whole) = (gone.commits.len(), !gone.is_cut);
        return Ok(Changes { gone: list(&gone.commits), gone_total, is_whole, ..Changes::default() });
    }
    let mut new = behind(repository, to, &old_ids)?;
    let leads_to =
        |is: &dyn Fn(&ObjectId) -> bool| new.commits.iter().any(|one| parents(repository, *one).iter().any(is));
    let comes_from = new_id == old_id || leads_to(&|parent| *parent == old_id);
    if !comes_from && old.is_cut && !leads_to(&|parent| old_ids.contains(parent)) {
        new.commits.truncate(1);
    }
    Ok(Changes {
        commits: list(&new.commits),
        total: new.commits.len(),
        is_whole: !new.is_cut && (comes_from || !old.is_cut),
        is_rewritten: !new.is_cut && !comes_from,
        ..Changes::default()
    })
}

/// What lies behind a commit, with itself, as far as it is here.
struct Found {
    commits: Vec<ObjectId>,
    // Whether the past ends too early.
    is_cut: bool,
}

// Without the commits of `without`.
fn behind(repository: &gix::Repository, tip: &CommitId, without: &HashSet<ObjectId>) -> Result<Found, GitError> {
    let mut past = Past::without(repository, tip, without)?;
    let mut commits = Vec::new();
    while let Some(one) = past.next()? {
        commits.push(one.id);
    }
    Ok(Found { commits, is_cut: past.is_cut })
}

fn parents(repository: &gix::Repository, id: ObjectId) -> Vec<ObjectId> {
    Commit::find(repository, id).map(|commit| commit.parents()).unwrap_or_default()
}

fn change(repository: &gix::Repository, id: ObjectId) -> Option<Change> {
    let commit = Commit::find(repository, id)?;
    let authored = commit.authored().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let id = CommitId::from_sha1(id.as_slice().try_into().ok()?);
    Some(Change { commit: id, subject: shown(&commit.subject()), authored })
}
