//! Repositories of well-known layers: `known.toml`, which names the source of each fact.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

static KNOWN: LazyLock<Known> =
    LazyLock::new(|| toml::from_str(include_str!("known.toml")).expect("a file of our own that a test reads"));

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    repository: Vec<Repository>,
}

/// A repository with layers.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    url: String,
    series: Vec<String>,
    /// Collection, and folder in the repository.
    layers: BTreeMap<String, String>,
}

impl Repository {
    /// The repository that has a collection.
    pub fn with(collection: &str) -> Option<&'static Self> {
        KNOWN.repository.iter().find(|repository| repository.layers.contains_key(collection))
    }

    /// What a config would call it.
    pub fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }

    /// An entry for the section `layers` of `smidr.yaml` with the named collections. Where it has no branch for the series, or the series is
    /// unknown, the branch is left to be filled in.
    pub fn yaml(&self, collections: &[&str], series: Option<&str>) -> String {
        let branch = match series {
            Some(series) if self.series.iter().any(|known| known == series) => format!("branch: {series}"),
            Some(series) => format!("branch: # the one that works with {series}"),
            None => "branch: # the one of your Yocto series".into(),
        };
        let mut folders: Vec<&str> =
            collections.iter().filter_map(|name| self.layers.get(*name)).map(String::as_str).collect();
        folders.sort_unstable();
        folders.dedup();
        let mut yaml = format!("  - name: {}\n    git: {}\n    {branch}", self.name(), self.url);
        // A repository that is one layer needs no sublayers; among several its own folder is named `.`.
        if folders != [""] {
            let folders: Vec<&str> =
                folders.into_iter().map(|folder| if folder.is_empty() { "." } else { folder }).collect();
            yaml.push_str(&format!("\n    sublayers: {{include: [{}]}}", folders.join(", ")));
        }
        yaml
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_sound() {
        let mut seen = std::collections::BTreeSet::new();
        for repository in &KNOWN.repository {
            assert!(repository.url.starts_with("https://") && !repository.url.ends_with('/'), "{}", repository.url);
            assert!(!repository.layers.is_empty() && !repository.series.is_empty(), "{}", repository.url);
            for (collection, folder) in &repository.layers {
                assert!(seen.insert(collection), "{collection} is in two repositories");
                assert!(!folder.starts_with('/') && !folder.ends_with('/') && !folder.contains(".."), "{folder}");
            }
        }
        assert!(seen.len() >= 40, "{}", seen.len());
        assert_eq!(Repository::with("nobody"), None);
    }

    #[test]
    fn an_entry_to_paste() {
        let oe = Repository::with("openembedded-layer").expect("a known layer");
        assert_eq!(
            oe.yaml(&["openembedded-layer", "meta-python"], Some("scarthgap")),
            "  - name: meta-openembedded\n    git: https://git.openembedded.org/meta-openembedded\n    branch: scarthgap\n    sublayers: {include: [meta-oe, meta-python]}"
        );
        let security = Repository::with("tpm-layer").expect("a known layer");
        let both = security.yaml(&["security", "tpm-layer"], None);
        assert!(
            both.ends_with("branch: # the one of your Yocto series\n    sublayers: {include: [., meta-tpm]}"),
            "{both}"
        );
        let one = Repository::with("raspberrypi").expect("a known layer").yaml(&["raspberrypi"], Some("dunfell"));
        assert!(one.ends_with("branch: # the one that works with dunfell"), "{one}");
    }
}
