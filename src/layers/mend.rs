//! Replaces a damaged mirror. What the server has is fetched again; commits that only the old mirror has are copied object by
//! object, each with its digest checked. The old mirror is removed only after the new one is in its place.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use gix::{
    ObjectId, Repository,
    objs::{Kind, Write as _},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{
    access::Access,
    fetch,
    git_error::GitError,
    mirror::{self, DAMAGED, KEPT, Mirror, Mirrors, Room, id},
    revision,
};
use crate::{
    lock::RepositoryPin,
    model::CommitId,
    plan::PlannedGit,
    system::files::{self, FileError},
};

impl Mirrors {
    /// Replaces a mirror in which an object of `commit` is damaged or missing. One that is sound, because another process has replaced it already,
    /// stays as it is.
    ///
    /// # Errors
    ///
    /// When the commit cannot be fetched; the old mirror is then still there.
    pub fn mend(&self, wanted: &PlannedGit, commit: &CommitId, access: Access<'_>) -> Result<Mirror, GitError> {
        let mirror = self.mirror(&wanted.url);
        let lock = Arc::new(self.hold(&mirror, access)?);
        if mirror.is_there() && is_sound(&mirror::open(mirror.path())?, commit) {
            return Ok(mirror);
        }
        if !access.online {
            return Err(GitError::Offline {
                url: mirror.url().into(),
                wanted: format!("an undamaged copy of {commit}"),
            });
        }
        access.on.warn(format!("the mirror of {} is damaged: fetching it anew", mirror.url()));
        let room = Room::replacement(&mirror, &lock)?;
        let fetched = fetch::from_any_place(&room, &only(wanted, commit), access);
        let lost = match fetched.and_then(|_| carry_over(&mirror, &room, wanted, access)) {
            Ok(lost) => lost,
            Err(error) => {
                room.give_up();
                return Err(error);
            }
        };
        match replace(&mirror, room)? {
            Some(damaged) if lost.is_empty() => files::remove_tree(&damaged)?,
            Some(damaged) => {
                let names: Vec<String> = lost.iter().map(CommitId::short).collect();
                access.on.warn(format!(
                    "{} cannot be fetched any more; what is left of the damaged mirror is kept in {}",
                    names.join(", "),
                    damaged.display()
                ));
            }
            None => {}
        }
        Ok(mirror)
    }
}

// The same repository, pinned to one commit.
fn only(wanted: &PlannedGit, commit: &CommitId) -> PlannedGit {
    let name = wanted.pinned.as_ref().map_or_else(|| fetch::subject(&wanted.url), |pinned| pinned.name.clone());
    let pinned = RepositoryPin {
        name,
        git: wanted.asked().git,
        path: None,
        branch: wanted.branch.clone(),
        tag: wanted.tag.clone(),
        exact: true,
        commit: Some(commit.clone()),
        dirty: false,
        patches: Vec::new(),
    };
    PlannedGit { commit: Some(commit.clone()), pinned: Some(pinned), ..wanted.clone() }
}

// Brings the commits to which other projects may be pinned: from the old mirror, or else from the server. Gives those that neither has.
fn carry_over(
    mirror: &Mirror,
    room: &Room,
    wanted: &PlannedGit,
    access: Access<'_>,
) -> Result<Vec<CommitId>, GitError> {
    let mut lost = Vec::new();
    for commit in kept(mirror.path()) {
        let fresh = mirror::open(&room.folder)?;
        if revision::is_whole(&fresh, &commit)
            || mirror::open(mirror.path()).is_ok_and(|old| copy(&old, &fresh, &commit))
        {
            mirror::keep(&fresh, &commit);
            continue;
        }
        match fetch::from_any_place(room, &only(wanted, &commit), access) {
            Ok(_) => {}
            Err(error) if error.is_about_the_place() => lost.push(commit),
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

fn kept(mirror: &Path) -> Vec<CommitId> {
    let loose = fs::read_dir(mirror.join(KEPT)).into_iter().flatten().flatten();
    let mut names: HashSet<String> = loose.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // After a `git pack-refs` by hand.
    let packed = fs::read_to_string(mirror.join("packed-refs")).unwrap_or_default();
    names.extend(packed.lines().filter_map(|line| Some(line.split_once(&format!("{KEPT}/"))?.1.to_owned())));
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Visits every object of a commit and its tree, depth first; false when `each` says so or an object cannot be read.
fn every_object(
    repository: &Repository,
    commit: &CommitId,
    mut each: impl FnMut(ObjectId, Kind, &[u8]) -> bool,
) -> bool {
    let mut open = vec![(id(commit), Kind::Commit)];
    let mut seen = HashSet::new();
    while let Some((id, kind)) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let Ok(object) = repository.find_object(id) else { return false };
        let hash = gix::objs::compute_hash(gix::hash::Kind::Sha1, object.kind, &object.data);
        if object.kind != kind || hash.map_or(true, |hash| hash != id) || !each(id, kind, &object.data) {
            return false;
        }
        match kind {
            Kind::Commit => match object.into_commit().tree_id() {
                Ok(tree) => open.push((tree.detach(), Kind::Tree)),
                Err(_) => return false,
            },
            Kind::Tree => {
                for entry in object.into_tree().iter() {
                    let Ok(entry) = entry else { return false };
                    let mode = entry.mode();
                    if mode.is_tree() {
                        open.push((entry.object_id(), Kind::Tree));
                    } else if !mode.is_commit() {
                        open.push((entry.object_id(), Kind::Blob));
                    }
                }
            }
            Kind::Blob | Kind::Tag => {}
        }
    }
    true
}

fn is_sound(repository: &Repository, commit: &CommitId) -> bool {
    every_object(repository, commit, |_, _, _| true)
}

// Copies a commit without its past; false where the old mirror does not have it undamaged.
fn copy(old: &Repository, fresh: &Repository, commit: &CommitId) -> bool {
    let copied =
        every_object(old, commit, |id, kind, data| fresh.has_object(id) || fresh.write_buf(kind, data).is_ok());
    copied && cut_off(fresh, commit).is_ok()
}

// The parents are missing, so git needs the commit in its "shallow" file (gitformat-pack(5)), one id in each line.
fn cut_off(fresh: &Repository, commit: &CommitId) -> Result<(), GitError> {
    let path = fresh.path().join("shallow");
    let mut known: HashSet<String> = fs::read_to_string(&path).unwrap_or_default().lines().map(String::from).collect();
    known.insert(commit.to_string());
    let mut lines: Vec<String> = known.into_iter().collect();
    lines.sort();
    Ok(files::write_atomically(&path, format!("{}\n", lines.join("\n")).as_bytes(), 0o644)?)
}

// Puts the new mirror in its place and gives the path of the damaged one beside it. At once where the file system can (renameat2(2)): builds read
// the checkouts that borrow the mirror's objects. After a kill, the damaged one or the new one is left under that path.
fn replace(mirror: &Mirror, mut room: Room) -> Result<Option<PathBuf>, GitError> {
    room.tidy()?;
    if !mirror.path().exists() {
        room.settle()?;
        return Ok(None);
    }
    let mut number = 1;
    while mirror.beside(&format!("{DAMAGED}{number}")).exists() {
        number += 1;
    }
    let damaged = mirror.beside(&format!("{DAMAGED}{number}"));
    room.move_to(&damaged)?;
    if renameat_with(CWD, &damaged, CWD, mirror.path(), RenameFlags::EXCHANGE).is_err() {
        room.move_to(&mirror.beside("new"))?;
        fs::rename(mirror.path(), &damaged).map_err(FileError::new("rename to", &damaged))?;
        room.settle()?;
    }
    Ok(Some(damaged))
}
