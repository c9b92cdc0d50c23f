//! What a command line offers of the layers that are here: names of machines and of recipes. In goes a plan, out come names. Only names of files are
//! looked at; nothing is fetched, nothing is waited for, and what cannot be read has no names.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{Found, Store, discover};
use crate::plan::{Plan, PlannedSource};

/// The machines that layers have.
pub fn machines(plan: &Plan, home: &Path) -> BTreeSet<String> {
    let files = here(plan, home).into_iter().flat_map(|layer| entries(&layer.folder.join("conf/machine")));
    files.filter_map(|file| named(&file, ".conf")).collect()
}

/// What recipes are called, in the folders where layers have them: `recipes-KIND/SOURCE/NAME_VERSION.bb`.
pub fn recipes(plan: &Plan, home: &Path) -> BTreeSet<String> {
    let is_kind =
        |folder: &PathBuf| folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"recipes"));
    let kinds = here(plan, home).into_iter().flat_map(|layer| entries(&layer.folder)).filter(is_kind);
    let files = kinds.flat_map(|kind| entries(&kind)).flat_map(|source| entries(&source));
    let recipe = |file: PathBuf| named(&file, ".bb").map(|name| name.split('_').next().unwrap_or(&name).to_owned());
    files.filter_map(recipe).collect()
}

fn here(plan: &Plan, home: &Path) -> Vec<Found> {
    let store = Store::of(plan);
    let mut found = Vec::new();
    for layer in &plan.layers {
        let layers = match &layer.source {
            // What has changed there is of no interest.
            PlannedSource::Path(path) => discover(&path.folder, layer),
            PlannedSource::Git(_) => match store.find(&layer.name, &layer.source, home) {
                Ok(Some(repository)) => discover(repository.folder(), layer),
                _ => continue,
            },
        };
        found.extend(layers.unwrap_or_default());
    }
    found
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn named(file: &Path, end: &str) -> Option<String> {
    Some(file.file_name()?.to_str()?.strip_suffix(end)?.to_owned())
}
