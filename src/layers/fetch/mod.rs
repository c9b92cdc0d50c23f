//! Brings the commit of a planned repository into its mirror, complete.
//!
//! A pinned commit that is here costs one look at the disk. Otherwise the repository's address is tried, then its mirrors: for a branch's
//! newest commit where that is enough, for its whole past only where the config names two things that have to fit.

mod background;
pub(super) mod config;
mod counters;
mod error;
mod heard;
mod host_git;
mod inside;
mod request;

use std::sync::Arc;

pub(super) use self::config::GitConfig;
pub(super) use self::host_git::{WITHOUT, program};
pub(super) use self::request::{Depth, Request, Want};
use self::{error::FetchError, request::HEAD};
use super::{
    access::Access,
    git_error::{GitError, Instead, when},
    mirror::{self, Mirror, Mirrors, Room},
    revision::{self, Behind},
};
use crate::{
    model::{CommitId, last_part, without_secrets},
    plan::PlannedGit,
};

impl Mirrors {
    /// The wanted commit, and the mirror that has it with its whole tree. A commit that is pinned, or named by its id, and here needs
    /// no network.
    ///
    /// # Errors
    ///
    /// When no server has it, the config's branch, tag and commit do not fit, or the disk refuses.
    pub fn pin(&self, wanted: &PlannedGit, access: Access<'_>) -> Result<(Mirror, CommitId), GitError> {
        let mirror = self.mirror(&wanted.url);
        if let Some(commit) = self.known(&mirror, wanted)? {
            return Ok((mirror, commit));
        }
        if !access.online {
            return offline(&mirror, wanted, access).map(|commit| (mirror, commit));
        }
        let lock = Arc::new(self.hold(&mirror, access)?);
        // Another process may have fetched it while this one waited for the lock.
        if let Some(commit) = self.known(&mirror, wanted)? {
            return Ok((mirror, commit));
        }
        let room = self.room(&mirror, &lock)?;
        match from_any_place(&room, wanted, access) {
            Ok(commit) => {
                room.settle()?;
                Ok((mirror, commit))
            }
            Err(error) => {
                room.give_up();
                Err(error)
            }
        }
    }

    /// The same, and what was wanted as it was understood: a branch that is not there may stand for another one, or for a tag.
    ///
    /// # Errors
    ///
    /// As [`Mirrors::pin`]; that of the branch, where nothing else is there either.
    pub fn pin_as_read(
        &self,
        name: &str,
        wanted: &PlannedGit,
        access: Access<'_>,
    ) -> Result<(Mirror, CommitId, PlannedGit), GitError> {
        let error = match self.pin(wanted, access) {
            Ok((mirror, commit)) => return Ok((mirror, commit, wanted.clone())),
            Err(error) => error,
        };
        let read = match error.unknown_branch() {
            Some(Instead::Continued(branch)) => wanted.read_as(Some(branch), None),
            Some(Instead::Other("tag")) => wanted.read_as(None, wanted.branch.as_deref()),
            _ => None,
        };
        let Some(read) = read else { return Err(error) };
        let (mirror, commit) = self.pin(&read, access)?;
        if let (Some(asked), Some(taken)) = (&wanted.branch, &read.branch) {
            access
                .on
                .warn(format!("{name}: there is no branch {asked}; {taken} is taken, the only one that begins so"));
        }
        Ok((mirror, commit, read))
    }

    // The wanted commit where no server has to be asked for it.
    fn known(&self, mirror: &Mirror, wanted: &PlannedGit) -> Result<Option<CommitId>, GitError> {
        if let Some(commit) = exact(wanted) {
            if mirror.has_kept(commit) {
                return Ok(Some(commit.clone()));
            }
            if mirror.has(commit)? {
                mirror::keep(&mirror::open(mirror.path())?, commit);
                return Ok(Some(commit.clone()));
            }
        }
        Ok(None)
    }
}

/// The commit, where it alone decides. A lock's commit was checked against the config when it was written.
fn exact(wanted: &PlannedGit) -> Option<&CommitId> {
    let locked = wanted.pinned.as_ref().and_then(|pinned| pinned.commit.as_ref());
    locked.or(wanted.commit.as_ref().filter(|_| wanted.branch.is_none() && wanted.tag.is_none()))
}

/// The name of an address in progress: its last part.
pub(super) fn subject(url: &str) -> String {
    let url = without_secrets(url);
    // `/srv/meta-x/.git` is a repository as well.
    last_part(url.strip_suffix("/.git").unwrap_or(&url)).to_owned()
}

// The result of an earlier fetch.
fn offline(mirror: &Mirror, wanted: &PlannedGit, access: Access<'_>) -> Result<CommitId, GitError> {
    let missing = || GitError::Offline {
        url: mirror.url().into(),
        wanted: exact(wanted).map_or_else(|| wanted.wanted(), ToString::to_string),
    };
    if exact(wanted).is_some() || !mirror.is_there() {
        return Err(missing());
    }
    let repository = mirror::open(mirror.path())?;
    match resolve(&repository, wanted, mirror.url())? {
        Resolved::Commit(commit) if revision::is_whole(&repository, &commit) => {
            let name = want_of(wanted).local().unwrap_or_default();
            let date = when(mirror.fetched_ref(&name));
            access.on.warn(format!(
                "`{}` of {} is as fetched {date}: the network may not be used",
                wanted.wanted(),
                mirror.url()
            ));
            Ok(commit)
        }
        Resolved::Commit(_) | Resolved::Missing | Resolved::Cut { .. } => Err(missing()),
    }
}

// Tries the address first, then its mirrors.
pub(super) fn from_any_place(room: &Room, wanted: &PlannedGit, access: Access<'_>) -> Result<CommitId, GitError> {
    let mut failures = Vec::new();
    for place in std::iter::once(&wanted.url).chain(&wanted.mirrors) {
        let config = GitConfig::read(access, place)?;
        let at = Place { room, url: place, config: &config, access };
        match at.commit(wanted) {
            Ok(commit) => {
                for failure in failures {
                    access.on.warn(format!("{failure}; fetched from {} instead", without_secrets(place)));
                }
                return Ok(commit);
            }
            Err(error) if !error.is_about_the_place() => return Err(error),
            Err(error) => failures.push(error),
        }
    }
    Err(verdict(failures, wanted))
}

fn verdict(mut failures: Vec<GitError>, wanted: &PlannedGit) -> GitError {
    let url = without_secrets(&wanted.url);
    let locked = wanted.pinned.as_ref().and_then(|pinned| Some((pinned.name.clone(), pinned.commit.clone()?)));
    let all_lack_it = failures.iter().all(|failure| matches!(failure, GitError::UnknownCommit { .. }));
    match (locked, failures.pop()) {
        (Some((name, commit)), _) if all_lack_it => GitError::Gone { url, name, commit },
        (_, Some(only)) if failures.is_empty() => only,
        (_, last) => {
            failures.extend(last);
            GitError::Everywhere { url, failures }
        }
    }
}

/// Fetches the past that changes between commits need: see [`super::changes`].
pub(super) fn deepen(room: &Room, wanted: &PlannedGit, request: &Request, access: Access<'_>) -> Result<(), GitError> {
    let mut failures = Vec::new();
    for url in std::iter::once(&wanted.url).chain(&wanted.mirrors) {
        let config = GitConfig::read(access, url)?;
        match (Place { room, url, config: &config, access }).fetch(request) {
            Err(error) if error.is_about_the_place() => failures.push(error),
            done => return done,
        }
    }
    Err(verdict(failures, wanted))
}

/// One address from which a repository is fetched.
struct Place<'a> {
    room: &'a Room,
    url: &'a str,
    config: &'a GitConfig,
    access: Access<'a>,
}

impl Place<'_> {
    fn commit(&self, wanted: &PlannedGit) -> Result<CommitId, GitError> {
        let commit = match exact(wanted) {
            Some(commit) => self.exactly(commit, wanted.branch.as_deref()).map(|()| commit.clone()),
            None => self.newest(wanted),
        }?;
        let repository = self.open()?;
        if !revision::is_whole(&repository, &commit) {
            return Err(GitError::Torn { url: self.shown(), commit });
        }
        mirror::keep(&repository, &commit);
        Ok(commit)
    }

    // Fetches a certain commit: as the branch's newest, by its id, somewhere on the branch, anywhere.
    fn exactly(&self, commit: &CommitId, branch: Option<&str>) -> Result<(), GitError> {
        let branch = branch.map(|name| Want::Branch(name.into()));
        let head = branch
            .clone()
            .map(|branch| Request { only_at: Some(commit.clone()), ..Request::new([branch], Depth::Newest) });
        let requests = [
            head,
            Some(Request::new([Want::Commit(commit.clone())], Depth::Newest)),
            branch.map(|branch| Request::new([branch], Depth::Past)),
            Some(Request::new([Want::Everything], Depth::Past)),
        ];
        for request in requests.into_iter().flatten() {
            match self.fetch(&request) {
                Ok(()) if revision::is_whole(&self.open()?, commit) => return Ok(()),
                Err(error) if !error.is_about_the_request() => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Err(GitError::UnknownCommit { url: self.shown(), commit: commit.clone() })
    }

    // The current commit of a branch or a tag.
    fn newest(&self, wanted: &PlannedGit) -> Result<CommitId, GitError> {
        let claims = [wanted.tag.is_some(), wanted.commit.is_some()].contains(&true) && wanted.branch.is_some();
        // A tag is one commit; whether a branch contains it is a question about the past.
        let depth = if claims { Depth::Past } else { Depth::Newest };
        let branch = wanted.branch.clone().map(Want::Branch);
        let mut wants: Vec<Want> = branch.into_iter().chain(wanted.tag.clone().map(Want::Tag)).collect();
        if wants.is_empty() {
            wants.push(Want::Head);
        }
        self.fetch(&Request::new(wants, depth))?;
        match resolve(&self.open()?, wanted, &self.shown())? {
            Resolved::Commit(commit) => Ok(commit),
            Resolved::Missing => Err(GitError::Failed { url: self.shown(), why: "it sent nothing".into() }),
            Resolved::Cut { commit, branch } => Err(GitError::Cut { url: self.shown(), commit, branch }),
        }
    }

    fn fetch(&self, request: &Request) -> Result<(), GitError> {
        if self.access.stop.is_requested() {
            return Err(GitError::Stopped(subject(self.url)));
        }
        match inside::fetch(self.room, self.url, request, self.config, self.access) {
            Err(FetchError::NeedsGit(why)) => {
                host_git::fetch(self.room, self.url, request, self.config, self.access, &why)
            }
            Err(FetchError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        }?;
        // A request that is only met at one commit does not tell where the branch is now.
        let refs = if request.only_at.is_some() { Vec::new() } else { request.locals() };
        mirror::note_fetched(&self.room.folder, &refs);
        Ok(())
    }

    fn open(&self) -> Result<gix::Repository, GitError> {
        mirror::open(&self.room.folder)
    }

    fn shown(&self) -> String {
        without_secrets(self.url)
    }
}

/// What the refs of a mirror say about a planned repository.
enum Resolved {
    Commit(CommitId),
    /// A ref is missing.
    Missing,
    /// The mirror is too shallow to tell whether the commit is on the branch.
    Cut {
        commit: CommitId,
        branch: String,
    },
}

fn want_of(wanted: &PlannedGit) -> Want {
    match (&wanted.tag, &wanted.branch) {
        (Some(tag), _) => Want::Tag(tag.clone()),
        (None, Some(branch)) => Want::Branch(branch.clone()),
        (None, None) => Want::Head,
    }
}

// Branch, tag and commit all describe one commit, and each has to be right.
fn resolve(repository: &gix::Repository, wanted: &PlannedGit, url: &str) -> Result<Resolved, GitError> {
    let name = want_of(wanted).local().unwrap_or_else(|| HEAD.into());
    let url = || url.to_owned();
    let Some(target) = revision::target(repository, &name) else { return Ok(Resolved::Missing) };
    let meant = mirror::commit_id(repository, target);
    let mut commit = match (meant, &wanted.tag) {
        (Some(commit), _) => commit,
        (None, Some(tag)) if repository.has_object(target) => {
            return Err(GitError::NoCommit { url: url(), tag: tag.clone() });
        }
        (None, _) => return Ok(Resolved::Missing),
    };
    if let Some(named) = &wanted.commit {
        // The id of an annotated tag stands for its commit.
        let of_tag = || mirror::commit_id(repository, mirror::id(named)).is_some_and(|found| found == commit);
        match &wanted.tag {
            Some(_) if of_tag() => {}
            Some(tag) if *named != commit => {
                return Err(GitError::OtherTag { url: url(), tag: tag.clone(), found: commit, wanted: named.clone() });
            }
            _ => commit = named.clone(),
        }
    }
    let Some(branch) = wanted.branch.as_ref().filter(|_| wanted.tag.is_some() || wanted.commit.is_some()) else {
        return Ok(Resolved::Commit(commit));
    };
    let Some(head) = revision::commit_of(repository, &format!("refs/heads/{branch}")) else {
        return Ok(Resolved::Missing);
    };
    match revision::is_behind(repository, &commit, &head)? {
        Behind::Yes => Ok(Resolved::Commit(commit)),
        Behind::No => Err(GitError::NotOnBranch { url: url(), commit, branch: branch.clone() }),
        Behind::Unknown => Ok(Resolved::Cut { commit, branch: branch.clone() }),
    }
}
