//! Folders that git takes for repositories, by the names in them. git itself is not run.

use std::{fs, path::Path};

/// Whether git would take a folder for a repository's own (setup.c, is_git_directory): it has `HEAD`, and `objects` and `refs` either there or
/// where `commondir` says.
pub fn is_git_folder(folder: &Path) -> bool {
    let has = |name: &str| fs::symlink_metadata(folder.join(name)).is_ok();
    has("HEAD") && (has("commondir") || has("objects") && has("refs"))
}
