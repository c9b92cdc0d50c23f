//! One request to one server: plain values, for gix and for git.

use std::path::Path;

use gix::{
    Repository,
    refs::transaction::{Change, PreviousValue, RefEdit, RefLog},
};

use super::super::{
    git_error::{GitError, Instead},
    revision,
};
use crate::{model::CommitId, plan::continues};

/// The local ref for the server's HEAD.
pub(super) const HEAD: &str = "refs/smidr/head";

/// Something to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// A branch.
    Branch(String),
    /// A tag.
    Tag(String),
    /// The server's HEAD.
    Head,
    /// A commit, by its id. Servers may refuse that.
    Commit(CommitId),
    /// All branches and tags.
    Everything,
}

/// How much of the past is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Only the newest commit, unless the mirror has more already.
    Newest,
    /// So many commits, unless the mirror has more already.
    Commits(u32),
    /// All of it.
    Past,
}

/// What is fetched at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// What to fetch.
    pub wants: Vec<Want>,
    /// How much of the past.
    pub depth: Depth,
    /// If the wanted branch is at another commit, nothing is fetched.
    pub only_at: Option<CommitId>,
}

/// The shallow boundary that is sent to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shallow {
    /// The one that is there.
    Keep,
    /// After so many commits.
    At(u32),
    /// None: the whole past.
    Undo,
}

impl Want {
    /// Refspecs: remote names and local ones.
    pub(crate) fn refspecs(&self) -> Vec<String> {
        match self {
            Self::Branch(name) => vec![format!("+refs/heads/{name}:refs/heads/{name}")],
            Self::Tag(name) => vec![format!("+refs/tags/{name}:refs/tags/{name}")],
            Self::Head => vec![format!("+HEAD:{HEAD}")],
            Self::Commit(id) => vec![id.to_string()],
            Self::Everything => ["heads", "tags"].map(|kind| format!("+refs/{kind}/*:refs/{kind}/*")).into(),
        }
    }

    /// The local ref that it becomes, if it is one.
    pub(crate) fn local(&self) -> Option<String> {
        match self {
            Self::Branch(name) => Some(format!("refs/heads/{name}")),
            Self::Tag(name) => Some(format!("refs/tags/{name}")),
            Self::Head => Some(HEAD.into()),
            Self::Commit(_) | Self::Everything => None,
        }
    }
}

impl Request {
    /// A request without a condition.
    pub(crate) fn new(wants: impl Into<Vec<Want>>, depth: Depth) -> Self {
        Self { wants: wants.into(), depth, only_at: None }
    }

    /// Refspecs: remote names and local ones.
    pub(crate) fn refspecs(&self) -> Vec<String> {
        self.wants.iter().flat_map(Want::refspecs).collect()
    }

    /// The local refs that are wanted.
    pub(crate) fn locals(&self) -> Vec<String> {
        self.wants.iter().filter_map(Want::local).collect()
    }

    /// The commit, where one is wanted by its id alone.
    pub(crate) fn only_commit(&self) -> Option<&CommitId> {
        match self.wants.as_slice() {
            [Want::Commit(id)] => Some(id),
            _ => None,
        }
    }

    /// The boundary to ask for. Asking for less than the mirror has would make it drop the rest.
    pub(crate) fn shallow(&self, repository: &Repository) -> Shallow {
        let is_shallow = repository.path().join("shallow").is_file();
        let count = match self.depth {
            Depth::Past if is_shallow => return Shallow::Undo,
            Depth::Past => return Shallow::Keep,
            Depth::Commits(_) if !is_shallow && has_packs(repository.path()) => return Shallow::Keep,
            Depth::Commits(count) => return Shallow::At(count),
            Depth::Newest => 1,
        };
        let locals = self.locals();
        let knows_past = if !is_shallow {
            has_packs(repository.path())
        } else {
            !locals.is_empty() && locals.iter().all(|name| has_past(repository, name))
        };
        if knows_past { Shallow::Keep } else { Shallow::At(count) }
    }
}

fn has_packs(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder.join("objects/pack")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|kind| kind == "idx"))
}

// Whether a ref is here with more than one commit.
fn has_past(repository: &Repository, name: &str) -> bool {
    let Some(commit) = revision::commit_of(repository, name) else { return false };
    let past = revision::Past::of(repository, &commit).and_then(|mut past| past.next());
    past.is_ok_and(|found| found.is_some_and(|found| !found.parents.is_empty()))
}

/// Removes refs that the server cannot have any more: gix leaves them, and a branch `a` beside a branch `a/b` makes a mirror
/// unreadable. `has` tells whether the server has a ref, where everything is wanted.
pub(crate) fn remove_stale(
    repository: &Repository,
    request: &Request,
    has: Option<&dyn Fn(&str) -> bool>,
) -> gix::Result<()> {
    let locals = request.locals();
    let has = has.filter(|_| request.wants.contains(&Want::Everything));
    let below = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('/'));
    let in_the_way = |name: &str| locals.iter().any(|local| below(local, name) || below(name, local));
    let mut edits = Vec::new();
    for reference in repository.references()?.all()?.flatten() {
        let name = reference.name().as_bstr().to_string();
        let is_mirrored = ["refs/heads/", "refs/tags/"].iter().any(|kind| name.starts_with(kind));
        if is_mirrored && (in_the_way(&name) || has.is_some_and(|has| !has(&name))) {
            let change = Change::Delete { expected: PreviousValue::Any, log: RefLog::AndReference };
            edits.push(RefEdit { change, name: reference.name().to_owned(), deref: false });
        }
    }
    if !edits.is_empty() {
        repository.edit_references(edits)?;
    }
    Ok(())
}

/// How many names are listed in a message.
const A_FEW: usize = 5;

/// The error for a branch or tag that the server does not have. `refs` are all that it has.
pub(crate) fn unknown(url: String, kind: &'static str, name: &str, refs: &[String]) -> GitError {
    let (of_kind, of_other, other) = match kind {
        "tag" => ("refs/tags/", "refs/heads/", "branch"),
        _ => ("refs/heads/", "refs/tags/", "tag"),
    };
    let names: Vec<String> = refs.iter().filter_map(|one| one.strip_prefix(of_kind)).map(str::to_owned).collect();
    let is_other = refs.iter().any(|one| one.strip_prefix(of_other) == Some(name));
    let mut continuing = names.iter().filter(|known| continues(known, name));
    let continued = continuing.next().filter(|_| continuing.next().is_none());
    let instead = match is_other {
        true => Some(Instead::Other(other)),
        false => continued.map(|branch| Instead::Continued(branch.as_str().into())),
    };
    GitError::Unknown { url, kind, name: name.into(), near: near(name, &names), instead }
}

/// The names nearest to a wrong one, three at most; if none is near, all of a few.
fn near(wrong: &str, names: &[String]) -> Vec<String> {
    let low = wrong.to_lowercase();
    let mut near: Vec<(usize, &String)> = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&low, &name.to_lowercase()), name))
        .filter(|(distance, name)| {
            let name = name.to_lowercase();
            *distance <= (name.len().max(low.len()) / 3).max(1) || low.len() > 2 && name.contains(&low)
        })
        .collect();
    near.sort();
    match near.is_empty() {
        true if names.len() <= A_FEW => names.to_vec(),
        _ => near.into_iter().take(3).map(|(_, name)| name.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_near() {
        let names =
            ["scarthgap", "scarthgap-next", "styhead", "kirkstone", "master", "origin/Scarthgap"].map(String::from);
        assert_eq!(near("scarthgab", &names), ["scarthgap"]);
        assert_eq!(near("scarthgap-nxt", &names), ["scarthgap-next", "scarthgap"]);
        assert_eq!(near("SCARTHGAP", &names), ["scarthgap", "scarthgap-next", "origin/Scarthgap"]);
        assert_eq!(near("main", &names), [""; 0]);
        assert_eq!(near("x", &[]), [""; 0]);
    }
}
