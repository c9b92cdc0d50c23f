//! Which layer a recipe is in that has warned, by the names of files. BitBake does not say it with a warning.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

/// More files than layers have, of which is looked at.
const MOST_FILES: usize = 200_000;

/// The layers of a build, and the files of recipes in them.
pub(super) struct LayersOf<'a> {
    layers: &'a [PathBuf],
    // By the name of the recipe without variants; none where several layers have it.
    recipes: BTreeMap<String, Option<&'a Path>>,
}

impl<'a> LayersOf<'a> {
    /// Looks for these recipes.
    pub(super) fn find(recipes: &BTreeSet<String>, layers: &'a [PathBuf]) -> Self {
        let wanted: BTreeSet<&str> = recipes.iter().map(|recipe| plain(recipe)).collect();
        let mut found: BTreeMap<String, Option<&Path>> = BTreeMap::new();
        let mut room = if wanted.is_empty() { 0 } else { MOST_FILES };
        for layer in layers {
            // BBFILES of nearly all layers: recipes-*/*/*.bb
            for entry in WalkDir::new(layer).max_depth(4).into_iter().flatten().take(room) {
                room = room.saturating_sub(1);
                let name = entry.file_name().to_str().and_then(|name| name.strip_suffix(".bb"));
                let Some(recipe) = name.and_then(|name| name.split('_').next()) else { continue };
                if wanted.contains(recipe) {
                    let known = found.entry(recipe.to_owned()).or_insert(Some(layer));
                    known.take_if(|known| *known != layer);
                }
            }
        }
        Self { layers, recipes: found }
    }

    /// The name of the layer of a file or a recipe.
    pub(super) fn name(&self, file: Option<&str>, recipe: Option<&str>) -> Option<String> {
        let of_file = file.and_then(|file| self.layers.iter().filter(|layer| Path::new(file).starts_with(layer)).max());
        let layer = match of_file {
            Some(layer) => layer,
            None => (*self.recipes.get(plain(recipe?))?)?,
        };
        Some(layer.file_name()?.to_string_lossy().into_owned())
    }
}

/// The recipe that a variant is made of: `mc:x:lib32-zlib-native` is `zlib`.
fn plain(recipe: &str) -> &str {
    let name = recipe.rsplit(':').next().unwrap_or_default();
    let name = name.strip_prefix("nativesdk-").unwrap_or(name);
    let name = ["lib32-", "lib64-", "libx32-"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    name.strip_suffix("-native").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_layer_is_found_by_file_and_by_recipe() {
        let folder = tempfile::tempdir().expect("a folder");
        let layers: Vec<PathBuf> = ["meta-a", "meta-b"].iter().map(|name| folder.path().join(name)).collect();
        for (layer, name) in [
            ("meta-a", "a_1.0.bb"),
            ("meta-b", "b.bb"),
            ("meta-a", "both_1.bb"),
            ("meta-b", "both_2.bb"),
            ("meta-b", "a_%.bbappend"),
        ] {
            let place = folder.path().join(layer).join("recipes-x/x");
            fs::create_dir_all(&place).expect("folders");
            fs::write(place.join(name), "").expect("a file");
        }
        let recipes = ["a", "mc:x:b-native", "both", "none"].map(str::to_owned).into();
        let found = LayersOf::find(&recipes, &layers);
        let of = |recipe: &str| found.name(None, Some(recipe));
        assert_eq!((of("a").as_deref(), of("mc:x:b-native").as_deref()), (Some("meta-a"), Some("meta-b")));
        assert_eq!((of("both"), of("none"), found.name(Some("/elsewhere/a.bb"), None)), (None, None, None));
        let file = folder.path().join("meta-b/conf/layer.conf").display().to_string();
        assert_eq!(found.name(Some(&file), Some("a")).as_deref(), Some("meta-b"));
    }
}
