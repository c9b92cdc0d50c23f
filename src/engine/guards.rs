//! Finds what the rule on mounts (`plan::protect`) has to cover: paths of this machine that exist, without links.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{EngineError, edits::Edits, prepare::Use, reach::everywhere};
use crate::{
    layers::{self, LayerError},
    model::{Hint, Kind, UserError},
    plan::{Guarded, OwnRepository, PlacedInput, Plan},
};

/// What the git of this machine obeys: its configuration names programs.
pub(super) const GIT: &str = ".git";

/// Folders and files of TOPDIR that BitBake reads before any recipe. Only `run` and `shell` change them.
pub(super) const DECISIVE: [&str; 4] = ["conf", "workspace/conf", "workspace/recipes", "workspace/appends"];

/// Everything that must not be written to in a sandbox of this plan, as far as it exists.
pub(super) fn find(plan: &Plan, own: &[OwnRepository], inputs: &[PlacedInput], edits: &Edits) -> Vec<Guarded> {
    let edit = edits.what() == Use::Edit;
    let mut guarded: Vec<Guarded> =
        everywhere(&plan.guarded).into_iter().filter(|guarded| !(edit && is_layer(&guarded.path, own))).collect();
    for git in edits.repositories().map(Path::to_path_buf) {
        guarded
            .push(Guarded { what: format!("what git obeys in {}", git.parent().unwrap_or(&git).display()), path: git });
    }
    let inside = inputs.iter().filter(|input| input.writable && !input.git_writable);
    for git in inside
        .filter_map(|input| input.source.ancestors().find(|path| path.file_name().is_some_and(|name| name == GIT)))
    {
        guarded.push(Guarded { what: "what git obeys".into(), path: git.into() });
    }
    guarded.push(Guarded { path: plan.smidr_home.clone(), what: "SMIDR_HOME".into() });
    if !edit {
        let decisive =
            decisive(plan).into_iter().map(|path| Guarded { path, what: "what every later build reads".into() });
        guarded.extend(decisive);
    }
    guarded.retain(|guarded| guarded.path.symlink_metadata().is_ok_and(|data| !data.is_symlink()));
    guarded
}

/// A folder of the build where the user's git would enter what the build puts there.
#[derive(Debug, thiserror::Error)]
#[error(
    "builds would write to {}, where the repository {} has a submodule: git would obey what they leave there",
    folder.display(),
    repository.display()
)]
pub(crate) struct Submodule {
    folder: PathBuf,
    repository: PathBuf,
}

impl UserError for Submodule {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        vec![Hint::command(
            "choose another folder (`directories`), or remove the submodule from the index",
            "git rm --cached PATH",
        )]
    }
}

/// Makes sure that no folder of the build has a place where the index of a repository around it names a submodule.
///
/// # Errors
///
/// The first that has, or an index that cannot be read, where the project has chosen the folder.
pub(super) fn check_submodules(plan: &Plan) -> Result<(), EngineError> {
    let mut known: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for folder in plan.folders.writable() {
        let is_chosen = !folder.starts_with(&plan.smidr_home);
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.into());
        for repository in folder.ancestors().skip(1) {
            if !known.contains_key(repository) {
                let links = match layers::gitlinks(repository) {
                    Err(error) if is_chosen => return Err(LayerError::from(error).into()),
                    links => links.unwrap_or_default(),
                };
                known.insert(repository.into(), links);
            }
            if known.get(repository).is_some_and(|links| links.iter().any(|link| link.starts_with(&folder))) {
                return Err(Submodule { folder: folder.clone(), repository: repository.into() }.into());
            }
        }
    }
    Ok(())
}

/// The folders of TOPDIR that no build writes to.
pub(super) fn decisive(plan: &Plan) -> Vec<PathBuf> {
    DECISIVE.iter().map(|name| plan.folders.top.join(name)).collect()
}

// In `shell` and `run` the user works on layers.
fn is_layer(path: &Path, own: &[OwnRepository]) -> bool {
    own.iter().any(|own| own.layers.iter().any(|layer| layer.starts_with(path)))
}
