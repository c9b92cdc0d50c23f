//! Work trees at a commit of a mirror, in folders that are the user's: made where there is none, moved where nothing of the user's is lost by that.

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use sha2::{Digest as _, Sha256};

use super::{
    LayerError, Store,
    access::Access,
    edit::{self, Original},
    local,
    patch::{ReadPatch, read_patches},
};
use crate::{
    lock::RepositoryPin,
    model::CommitId,
    plan::{Plan, PlannedGit, PlannedLayer, PlannedSource},
    system::files::{FileError, write_atomically},
};

/// What was done about a work tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It was made.
    Made,
    /// It was there.
    Same,
    /// It was at another commit.
    Moved,
    /// It has changes that are not committed, and stays as it is.
    Dirty,
}

/// In `.git`: what smidr has checked out.
const RECORD: &str = "smidr-tree";

/// How many repositories are worked on at once: most of the time they wait for git or for a server.
const WORKERS: usize = 4;

/// Pins the git layers of a plan, and writes none of them out.
///
/// # Errors
///
/// The first one that cannot be had.
pub fn pin(plan: &Plan, access: Access<'_>) -> Result<Vec<RepositoryPin>, LayerError> {
    let store = Store::of(plan);
    let all = for_each(plan, |layer, git| {
        let (_, commit, git) = store.mirrors.pin_as_read(&layer.name, git, access)?;
        let patches = read_patches(&git)?.into_iter().map(|patch| patch.lock);
        Ok(Some(git.pinned_to(&layer.name, commit, patches.collect())))
    });
    all.into_iter().filter_map(Result::transpose).collect()
}

/// Makes or moves the work trees of those git layers of a plan that have a place. Gives their names, and what was done.
///
/// # Errors
///
/// The first one that cannot be made.
pub fn write_out(plan: &Plan, force: bool, access: Access<'_>) -> Result<Vec<(String, Settled)>, LayerError> {
    let store = Store::of(plan);
    let all = for_each(plan, |layer, git| {
        let Some(at) = &layer.at else { return Ok(None) };
        let patches = read_patches(git)?;
        let (mirror, commit, git) = store.mirrors.pin_as_read(&layer.name, git, access)?;
        let original = Original {
            url: &git.url,
            mirror: mirror.path(),
            commit: &commit,
            patches: &patches,
            branch: git.branch.as_deref(),
        };
        Ok(Some((layer.name.clone(), settle(&original, at, force, access)?)))
    });
    all.into_iter().filter_map(Result::transpose).collect()
}

/// Does something with each git layer of a plan, several at once. Gives what came of it, in their order.
fn for_each<T: Send>(
    plan: &Plan,
    work: impl Fn(&PlannedLayer, &PlannedGit) -> Result<Option<T>, LayerError> + Sync,
) -> Vec<Result<Option<T>, LayerError>> {
    let layers: Vec<(&PlannedLayer, &PlannedGit)> = plan
        .layers
        .iter()
        .filter_map(|layer| match &layer.source {
            PlannedSource::Git(git) => Some((layer, &**git)),
            PlannedSource::Path(_) => None,
        })
        .collect();
    let next = Mutex::new(layers.iter().enumerate());
    let done = Mutex::new(Vec::new());
    let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(layers.len()) {
            scope.spawn(|| {
                while let Some((at, (layer, git))) = take() {
                    let one = work(layer, git);
                    // After a failure no further repository is begun.
                    if one.is_err() {
                        next.lock().unwrap_or_else(PoisonError::into_inner).by_ref().for_each(drop);
                    }
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, one));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, one)| one).collect()
}

fn settle(original: &Original<'_>, at: &Path, force: bool, access: Access<'_>) -> Result<Settled, LayerError> {
    let is_empty = fs::read_dir(at).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        fs::remove_dir(at).map_err(FileError::new("remove", at)).map_err(edit::EditError::from)?;
    }
    if at.symlink_metadata().is_err() {
        edit::copy(original, at, access)?;
        note(original, at)?;
        return Ok(Settled::Made);
    }
    let record = fs::read_to_string(at.join(".git").join(RECORD)).unwrap_or_default();
    let head = local::head(at).ok_or_else(|| edit::EditError::NoRepository(at.into()))?;
    let is_same = match original.patches {
        [] => head == *original.commit,
        patches => record == written(original.commit, patches, &head),
    };
    if is_same {
        return Ok(Settled::Same);
    }
    if !force && local::state(at, at).is_none_or(|(_, dirty)| dirty) {
        return Ok(Settled::Dirty);
    }
    edit::move_to(original, at, force, access)?;
    note(original, at)?;
    Ok(Settled::Moved)
}

fn note(original: &Original<'_>, at: &Path) -> Result<(), LayerError> {
    let head = local::head(at).ok_or_else(|| edit::EditError::NoRepository(at.into()))?;
    let text = written(original.commit, original.patches, &head);
    let file = at.join(".git").join(RECORD);
    Ok(write_atomically(&file, text.as_bytes(), 0o644).map_err(edit::EditError::from)?)
}

/// The commit, what lies on top of it, and where that led.
fn written(commit: &CommitId, patches: &[ReadPatch], head: &CommitId) -> String {
    let mut digest = Sha256::new();
    for patch in patches {
        digest.update(&patch.text);
        digest.update([0]);
    }
    format!("{commit} {} {head}\n", hex::encode(digest.finalize()))
}
