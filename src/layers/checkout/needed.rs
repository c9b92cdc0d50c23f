//! Which submodules are brought: from the config's choice and what a repository lists to a yes or no for each. Pure; it never fetches.
//!
//! Where the config names none, those count that lie in a layer that is used or hold one, those to which a link of such a layer leads, and
//! `bitbake`. Where it names no layers either, a layer is what `discover` finds, and a submodule that may be one counts.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use crate::{layers::discover, plan::Submodules};

/// Where smidr looks for BitBake in a repository of layers.
const BITBAKE: &str = "bitbake";

/// How deep layers are looked for.
const LAYER_DEPTH: usize = 2;

/// What of a repository decides about its submodules.
pub(super) trait Tree {
    /// All paths in it.
    fn paths(&self) -> impl Iterator<Item = String>;
    /// Where a symbolic link in it leads, as it is written.
    fn target(&self, link: &str) -> Option<String>;
}

/// The choice for one checkout. Paths are those in the checkout, also of submodules in submodules.
pub(super) struct Needed<'a> {
    choice: &'a Submodules,
    // Layers, and what their links lead to.
    used: BTreeSet<String>,
}

impl<'a> Needed<'a> {
    pub(super) fn new(choice: &'a Submodules) -> Self {
        let used = match choice {
            Submodules::ForLayers(layers) => layers.iter().map(|path| discover::tidy(path)).collect(),
            _ => BTreeSet::new(),
        };
        Self { choice, used }
    }

    /// Looks at a repository, which stands at `place`: nothing for the checkout itself.
    pub(super) fn look(&mut self, place: &str, tree: &impl Tree) {
        let Submodules::ForLayers(named) = self.choice else { return };
        let at = |path: &str| join(place, path);
        if named.is_empty() {
            let layers = tree.paths().filter_map(|path| at(&path).strip_suffix("conf/layer.conf").map(discover::tidy));
            self.used
                .extend(layers.filter(|layer| depth(layer) <= LAYER_DEPTH && !is_for_tests(layer)).collect::<Vec<_>>());
        }
        let mut led_to = Vec::new();
        for path in tree.paths() {
            let link = at(&path);
            let through: Vec<&str> = self.below(&link).collect();
            if through.is_empty() && !self.is_inside(&link) {
                continue;
            }
            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
            let Some(target) = tree.target(&path).and_then(|target| inside(above, &target)) else { continue };
            led_to.extend(
                through.into_iter().map(|layer| join(&at(&target), layer.get(link.len()..).unwrap_or_default())),
            );
            led_to.push(at(&target));
        }
        self.used.extend(led_to.iter().map(|path| discover::tidy(path)));
    }

    /// Whether a submodule is brought.
    pub(super) fn takes(&self, submodule: &str) -> bool {
        match self.choice {
            Submodules::All => true,
            Submodules::None => false,
            // And those in which it lies.
            Submodules::Listed(list) => list.iter().any(|one| is_in(&discover::tidy(one), submodule)),
            Submodules::ForLayers(named) => {
                let may_be_layer =
                    || depth(submodule) <= LAYER_DEPTH && !is_for_tests(submodule) && !is_hidden(submodule);
                submodule == BITBAKE
                    || self.below(submodule).next().is_some()
                    || self.is_inside(submodule)
                    || named.is_empty() && !self.used.contains("") && may_be_layer()
            }
        }
    }

    // What is used of the folder `path`: itself and what lies below it.
    fn below<'s>(&'s self, path: &'s str) -> impl Iterator<Item = &'s str> {
        let itself = self.used.get(path).map(String::as_str);
        let below = format!("{path}/");
        let rest = self.used.range(below.clone()..).map(String::as_str);
        itself.into_iter().chain(rest.take_while(move |used| used.starts_with(&below)))
    }

    // Whether it lies in a layer, and not among the layer's tests.
    fn is_inside(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(at, _)| path.split_at(at));
        let mut all = above.map(|(above, rest)| (above, rest.trim_start_matches('/'))).chain([("", path)]);
        all.any(|(above, rest)| self.used.contains(above) && !is_for_tests(rest))
    }
}

/// What tells this choice from others, where a repository has submodules.
pub(super) fn identity(choice: &Submodules) -> Option<String> {
    let (kind, mut list) = match choice {
        Submodules::All => return None,
        Submodules::None => ("none", Vec::new()),
        Submodules::Listed(list) => ("listed", list.iter().map(|path| discover::tidy(path)).collect()),
        Submodules::ForLayers(layers) => ("for layers", layers.iter().map(|path| discover::tidy(path)).collect()),
    };
    list.sort();
    list.dedup();
    Some(hex::encode(Sha256::digest(format!("{kind}\0{}", list.join("\0")))))
}

fn is_for_tests(path: &str) -> bool {
    discover::is_for_tests(path) || ["test", "tests"].contains(&path.split('/').next().unwrap_or_default())
}

// `discover` enters no such folder.
fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.'))
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// Whether `inner` is `outer`, or lies in it.
fn is_in(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn join(place: &str, path: &str) -> String {
    if place.is_empty() { path.into() } else { format!("{place}/{path}") }
}

// The target of a link in the folder `above`; none where it leads out of the repository.
fn inside(above: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = above.split('/').collect();
    for part in target.split('/') {
        match part {
            ".." => _ = parts.pop()?,
            part => parts.push(part),
        }
        parts.retain(|part| !part.is_empty() && *part != ".");
    }
    (!target.starts_with('/')).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths, links with `-> TARGET`.
    struct Paths(&'static [&'static str]);

    impl Tree for Paths {
        fn paths(&self) -> impl Iterator<Item = String> {
            self.0.iter().map(|path| path.split(" -> ").next().unwrap_or_default().to_owned())
        }

        fn target(&self, link: &str) -> Option<String> {
            let found = self.0.iter().find_map(|path| path.split_once(" -> ").filter(|(name, _)| *name == link));
            found.map(|(_, target)| target.to_owned())
        }
    }

    fn taken<'s>(choice: &Submodules, paths: &'static [&'static str], submodules: &[&'s str]) -> Vec<&'s str> {
        let mut needed = Needed::new(choice);
        needed.look("", &Paths(paths));
        submodules.iter().copied().filter(|path| needed.takes(path)).collect()
    }

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_the_layers_may_need() {
        let mender: &[&str] = &["meta-mender-core/conf/layer.conf", "README", "scripts/x/y/z"];
        let all = ["tests/image-tests", "meta-mender-core/files/lib", "more/deep/lib", "bitbake", ".ci/lib"];
        for (layers, paths, submodules, expected) in [
            (&[][..], mender, &all[..], &["meta-mender-core/files/lib", "bitbake"][..]),
            // A repository that is one layer, with tests.
            (
                &[],
                &["conf/layer.conf"],
                &["tests/lib", "test/lib", "tests", "lib/x", "deep/er/x"],
                &["lib/x", "deep/er/x"],
            ),
            (&["."], &["conf/layer.conf"], &["tests/lib", "lib/x"], &["lib/x"]),
            // A repository of repositories: what may be a layer, or hold some.
            (
                &[],
                &["conf/bblayers.conf"],
                &["oe-core", "layers/meta-x", "a/b/c", "tests/meta-y", "x/meta-skeleton"],
                &["oe-core", "layers/meta-x"],
            ),
            (
                &["oe-core/meta", "./meta-y/"],
                &[],
                &["oe-core", "meta-x", "meta-y/lib", "meta-ya"],
                &["oe-core", "meta-y/lib"],
            ),
            // By way of links.
            (
                &["layers/tegra"],
                &["layers/tegra -> ../repos/tegra", "layers/x -> ../repos/x"],
                &["repos/tegra", "repos/x"],
                &["repos/tegra"],
            ),
            (
                &["l/oe/meta-oe"],
                &["l/oe -> ../repos/oe"],
                &["repos/oe", "repos/oe/meta-oe/lib", "repos/o"],
                &["repos/oe", "repos/oe/meta-oe/lib"],
            ),
            (
                &["meta-x"],
                &["meta-x/files/y -> ../../shared/./y", "meta-x/z -> /shared", "meta-x/q -> ../.."],
                &["shared/y", "shared/x"],
                &["shared/y"],
            ),
            (&["tests/meta-t"], &[], &["tests/meta-t/lib", "tests/other"], &["tests/meta-t/lib"]),
        ] {
            let choice = Submodules::ForLayers(owned(layers));
            assert_eq!(taken(&choice, paths, submodules), expected, "{layers:?} {paths:?}");
        }
    }

    #[test]
    fn submodules_in_submodules() {
        let found = Submodules::ForLayers(Vec::new());
        let mut needed = Needed::new(&found);
        needed.look("", &Paths(&[]));
        assert!(needed.takes("bsp") && !needed.takes("bsp/x/lib"));
        needed.look("bsp", &Paths(&["conf/layer.conf", "files/y -> ../z"]));
        assert!(needed.takes("bsp/x/lib") && !needed.takes("bsp/tests/lib"));
        let listed = Submodules::Listed(owned(&["a/b", "./c/d/"]));
        assert_eq!(taken(&listed, &[], &["a", "a/b", "a/b/c", "ab", "c", "c/d", "c/dd"]), ["a", "a/b", "c", "c/d"]);
        assert_eq!(taken(&Submodules::None, &["conf/layer.conf"], &["a"]), [""; 0]);
        assert_eq!(taken(&Submodules::All, &[], &["tests/a"]), ["tests/a"]);
    }

    #[test]
    fn choices_are_told_apart() {
        let (listed, layers) = (|list| Submodules::Listed(owned(list)), |list| Submodules::ForLayers(owned(list)));
        let all =
            [Submodules::None, listed(&["a"]), listed(&["a", "b"]), listed(&["a/b"]), layers(&[]), layers(&["a"])];
        let ids: BTreeSet<_> = all.iter().map(identity).collect();
        assert_eq!((ids.len(), identity(&Submodules::All)), (all.len(), None));
        assert_eq!(identity(&listed(&["a", "b"])), identity(&listed(&["./b/", "a", "a"])));
    }
}
