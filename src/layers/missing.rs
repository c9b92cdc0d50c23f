//! Where to get a layer that others need: from a repository of the config, or from a well-known one.

use super::{
    collection_error::Missing,
    collections,
    discover::{Found, layers_below},
    known::Repository,
};
use crate::system::rooted::Rooted;

/// How to get a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suggestion {
    /// It is in a repository of the config, unused.
    Here {
        /// As the config calls it.
        repository: String,
        /// The layer's folder in it.
        sublayer: String,
        /// The layers of the repository that the config names; none where all that are found are used.
        chosen: Vec<String>,
    },
    /// A well-known repository has it.
    Known(&'static Repository),
    /// Unknown.
    Unknown,
}

/// Fills in how to get each of them. Unused layers that cannot be read are passed over.
pub(super) fn find(missing: &mut [Missing], found: &[Found]) {
    let unused = unused(found);
    for missing in missing {
        let here = unused.iter().find(|(collection, _)| *collection == missing.needs);
        missing.suggestion = match (here, Repository::with(&missing.needs)) {
            (Some((_, suggestion)), _) => suggestion.clone(),
            (None, Some(repository)) => Suggestion::Known(repository),
            (None, None) => Suggestion::Unknown,
        };
    }
}

/// The first layer that has a machine, lies in one of the config's repositories and is not used.
pub(super) fn with_machine(machine: &str, found: &[Found]) -> Option<Suggestion> {
    let file = format!("conf/machine/{machine}.conf");
    let has = |layer: &Found| {
        let inside = layer.folder.strip_prefix(&layer.root).ok()?.join(&file);
        Rooted::open(&layer.root).and_then(|root| root.resolve(&inside)).ok()
    };
    left_out(found).into_iter().find_map(|(layer, suggestion)| has(&layer).map(|_| suggestion))
}

/// The collections of layers that lie in the config's repositories and are not used.
fn unused(found: &[Found]) -> Vec<(String, Suggestion)> {
    let mut unused = Vec::new();
    for (layer, suggestion) in left_out(found) {
        let Ok(set) = collections::read(std::slice::from_ref(&layer)) else { continue };
        unused.extend(set.collections.into_iter().map(|(collection, _)| (collection, suggestion.clone())));
    }
    unused
}

/// Layers that lie in the config's repositories and are not used.
fn left_out(found: &[Found]) -> Vec<(Found, Suggestion)> {
    let mut left_out = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for one in found {
        if seen.contains(&one.repository.as_str()) {
            continue;
        }
        seen.push(&one.repository);
        let of_it = || found.iter().filter(|layer| layer.repository == one.repository);
        let inside = |layer: &Found| layer.folder.strip_prefix(&one.root).ok()?.to_str().map(str::to_owned);
        let chosen: Vec<String> = of_it().filter(|layer| layer.chosen).filter_map(inside).collect();
        let layers = Rooted::open(&one.root).and_then(|root| layers_below(&root)).unwrap_or_default();
        for sublayer in layers {
            let layer = Found { folder: one.root.join(&sublayer), chosen: false, ..one.clone() };
            if !of_it().any(|used| used.folder == layer.folder) {
                let (repository, chosen) = (one.repository.clone(), chosen.clone());
                left_out.push((layer, Suggestion::Here { repository, sublayer, chosen }));
            }
        }
    }
    left_out
}
