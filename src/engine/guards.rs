//! Finds what the rule on mounts (`plan::protect`) has to cover: paths of this machine that exist, without links.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::reach::everywhere;
use crate::host::repository::is_git_folder;
use crate::plan::{Guarded, OwnRepository, PlacedInput, Plan};

/// What the git of this machine obeys: its configuration names programs.
pub const GIT: &str = ".git";

/// Folders and files of TOPDIR that BitBake reads before any recipe. Only `run` and `shell` change them.
pub const DECISIVE: [&str; 4] = ["conf", "workspace/conf", "workspace/recipes", "workspace/appends"];

/// Everything that must not be written to in a sandbox of this plan, as far as it exists.
pub fn find(plan: &Plan, own: &[OwnRepository], inputs: &[PlacedInput], edit: bool) -> Vec<Guarded> {
    let mut guarded: Vec<Guarded> =
        everywhere(&plan.guarded).into_iter().filter(|guarded| !(edit && is_layer(&guarded.path, own))).collect();
    let layers = own.iter().flat_map(|own| &own.layers).filter(|_| edit);
    let binds =
        inputs.iter().filter(|input| input.writable && input.folder && !input.git_writable).map(|input| &input.source);
    for git in layers.chain(binds).flat_map(|folder| gits(folder, plan)) {
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

/// The folders of TOPDIR that no build writes to.
pub fn decisive(plan: &Plan) -> Vec<PathBuf> {
    DECISIVE.iter().map(|name| plan.folders.top.join(name)).collect()
}

// In `shell` and `run` the user works on layers.
fn is_layer(path: &Path, own: &[OwnRepository]) -> bool {
    own.iter().any(|own| own.layers.iter().any(|layer| layer.starts_with(path)))
}

/// Every `.git` in a folder, at any depth.
fn gits(folder: &Path, plan: &Plan) -> Vec<PathBuf> {
    let mut skipped = plan.folders.writable();
    skipped.push(&plan.smidr_home);
    let mut found = Vec::new();
    let mut walk = WalkDir::new(folder).into_iter();
    while let Some(entry) = walk.next() {
        let entry = match entry {
            Ok(entry) => entry,
            // What cannot be looked into could hold one, and a build that owns it can open it.
            Err(error) => {
                found.extend(error.path().filter(|path| *path != folder).map(Path::to_path_buf));
                continue;
            }
        };
        if skipped.contains(&entry.path()) {
            walk.skip_current_dir();
            continue;
        }
        let is_bare = entry.file_type().is_dir() && is_git_folder(entry.path());
        if (entry.file_name() == GIT || is_bare) && entry.depth() > 0 {
            if entry.file_type().is_dir() {
                walk.skip_current_dir();
            }
            found.push(entry.into_path());
        }
    }
    found
}
