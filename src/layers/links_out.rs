//! Symbolic links in layers of this machine that lead to what a build does not see. BitBake would say that the link's own file is not there, which
//! `ls` shows. A link that leads nowhere here, or into the system's own folders, which the image has too, is left to BitBake.

use std::{
    fs,
    path::{Path, PathBuf},
};

use walkdir::{DirEntry, WalkDir};

use super::{Checkouts, LayerError};
use crate::plan::Plan;

/// Folders that every image has, with content of its own.
const OF_THE_IMAGE: [&str; 11] =
    ["/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/sbin", "/sys", "/usr"];

/// The most entries that are looked at: a layer's folder may hold what is none of it.
const MOST_ENTRIES: usize = 200_000;

/// Makes sure that no link leads to what a build does not see.
///
/// # Errors
///
/// The first that does, in the order of names.
pub(super) fn check(checkouts: &Checkouts, plan: &Plan) -> Result<(), LayerError> {
    let writable = plan.folders.writable();
    // A layer may be the whole project, with SMIDR_HOME in it.
    let others = [writable.as_slice(), &[plan.smidr_home.as_path(), plan.layer_store.as_path()]].concat();
    let own = checkouts.own.iter().flat_map(|own| own.layers.iter().chain(&own.shown));
    let inputs = plan.inputs.iter().map(|input| &input.dest);
    let seen = own.chain(&checkouts.pinned).chain(inputs).map(PathBuf::as_path);
    let seen: Vec<&Path> = seen.chain(writable.iter().copied()).chain(OF_THE_IMAGE.map(Path::new)).collect();
    let real: Vec<PathBuf> = seen.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    let is_seen = |target: &Path| {
        seen.iter().copied().chain(real.iter().map(PathBuf::as_path)).any(|one| target.starts_with(one))
    };
    let layers = checkouts.own.iter().flat_map(|own| &own.layers);
    let is_of_layer = |entry: &DirEntry| {
        entry.depth() == 0 || !is_hidden(entry) && !others.contains(&entry.path()) && !is_build(entry)
    };
    let entries =
        layers.flat_map(|layer| WalkDir::new(layer).sort_by_file_name().into_iter().filter_entry(is_of_layer));
    let links = entries.take(MOST_ENTRIES).flatten().filter(|entry| entry.path_is_symlink());
    for link in links.map(DirEntry::into_path) {
        if let Ok(target) = fs::canonicalize(&link)
            && !is_seen(&target)
        {
            let folder = if target.is_dir() { Some(&*target) } else { target.parent() }.unwrap_or(&target);
            let inside = folder.strip_prefix(&plan.project).map(|inside| Path::new(".").join(inside));
            let folder = inside.unwrap_or_else(|_| folder.into());
            return Err(LayerError::LinkOut { link, target, folder });
        }
    }
    Ok(())
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with('.')
}

/// Whether BitBake has built there.
fn is_build(entry: &DirEntry) -> bool {
    entry.file_type().is_dir() && entry.path().join("conf/bblayers.conf").exists()
}
