//! Which pseudo a build uses, and whether that one knows openat2(2).
//!
//! pseudo lets a build own files as root does: it stands between programs and libc, and remembers what they would have done. A version
//! before 1.9.3 does not stand between them and openat2(2), which the tar of some distributions uses since a security update (AlmaLinux 9,
//! Ubuntu 22.04): `do_package` then ends with `tar: .: Cannot mkdir: Bad address` (openembedded-core 51f1388dd1). Such a build is told that
//! there is no openat2, as on Linux before 5.6, and tar takes the way that it took before.
//!
//! Tested is that programs hear so. That every affected tar then does fall back has not been tried: there was none to try it with.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{layers::Checkouts, lock::PackagePin, system::rooted::Rooted};

/// The first pseudo that knows openat2.
const KNOWS_OPENAT2: Version = [1, 9, 3];

/// Where OpenEmbedded-Core has its recipe, below the layer, and where layers that change it have theirs.
const FOLDER: &str = "recipes-devtools/pseudo";

/// More than any such recipe has, in bytes.
const RECIPE_LIMIT: u64 = 64 << 10;

type Version = [u32; 3];

/// Whether the pseudo of a build is known to be too old for openat2: that of the layers, or, where no layer has one, the image's package.
pub(super) fn lacks_openat2(checkouts: &Checkouts, packages: Option<&BTreeMap<String, PackagePin>>) -> bool {
    // Of several recipes BitBake takes the newest.
    let of_layers = checkouts.layers.iter().flat_map(|layer| in_layer(layer)).max();
    let of_image = || packages?.get("pseudo").and_then(|package| version(&package.version));
    of_layers.or_else(of_image).is_some_and(|version| version < KNOWS_OPENAT2)
}

fn in_layer(layer: &Path) -> Vec<Version> {
    let (Ok(root), Ok(entries)) = (Rooted::open(layer), fs::read_dir(layer.join(FOLDER))) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with("pseudo_") && (name.ends_with(".bb") || name.ends_with(".bbappend")))
        .filter_map(|name| {
            let text = root.read_text(&Path::new(FOLDER).join(&name), RECIPE_LIMIT).ok()?;
            recipe_version(&name, &text)
        })
        .collect()
}

/// PV of a recipe, from its last line that sets one, or from its name.
fn recipe_version(name: &str, text: &str) -> Option<Version> {
    let set = text.lines().rev().find_map(|line| {
        let value = line.strip_prefix("PV")?.trim_start().trim_start_matches([':', '?']).strip_prefix('=')?;
        version(value.trim().trim_matches(['"', '\'']))
    });
    let stem = name.trim_end_matches("append").trim_end_matches(".bb");
    set.or_else(|| version(stem.strip_prefix("pseudo_")?))
}

/// The numbers that a version begins with: 1.9.0 of `1.9.0+git${SRCPV}`, and of Debian's `1.9.0+git20220715+ee24ebec9e-2`.
fn version(text: &str) -> Option<Version> {
    let numbers = text.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
    let mut numbers = numbers.split('.').map_while(|number| number.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    #[test]
    fn versions_as_recipes_and_packages_write_them() {
        let rows = [
            ("pseudo_git.bb", "S = \"${WORKDIR}/git\"\nPV = \"1.9.0+git${SRCPV}\"\n", Some([1, 9, 0])), // kirkstone
            (
                "pseudo_git.bb",
                "SRCREV = \"28dcefb809ce95db997811b5662f0b893b9923e0\"\nPV = \"1.9.0+git\"\n",
                Some([1, 9, 0]),
            ), // scarthgap
            ("pseudo_git.bb", "PV = \"1.9.3+git\"\n\n# PV = \"1.9.0+git\"\n", Some([1, 9, 3])),         // master
            ("pseudo_1.8.2.bb", "require pseudo.inc\nPR = \"r1\"\n", Some([1, 8, 2])),
            ("pseudo_1.2.bb", "", Some([1, 2, 0])),
            ("pseudo_git.bbappend", "PV = \"1.9.11+git\"\n", Some([1, 9, 11])),
            ("pseudo_git.bbappend", "FILESEXTRAPATHS:prepend := \"${THISDIR}:\"\n", None),
            ("pseudo_%.bbappend", "PV:append = \"+mine\"\nPVX = \"1.1\"\nPV = \"${OTHER}\"\n", None),
            ("pseudo_git.bb", "", None),
        ];
        for (name, text, expected) in rows {
            assert_eq!(recipe_version(name, text), expected, "{name}: {text}");
        }
        assert_eq!(version("1.9.0+git20220715+ee24ebec9e-2"), Some([1, 9, 0]));
        for none in ["", "1", "git", "99999999999.1"] {
            assert_eq!(version(none), None, "{none}");
        }
    }

    #[test]
    fn the_newest_recipe_counts_and_the_image_where_there_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let package = |version: &str| {
            let sha256 = Digest::from_sha256([0; 32]);
            BTreeMap::from([("pseudo".to_owned(), PackagePin { version: version.into(), sha256 })])
        };
        let layers = ["core", "mine"].map(|name| folder.path().join(name));
        let checkouts = Checkouts { layers: layers.to_vec(), ..Checkouts::default() };
        assert!(!lacks_openat2(&checkouts, None), "nothing is known");
        assert!(lacks_openat2(&checkouts, Some(&package("1.9.0+git20220715+ee24ebec9e-2"))));
        assert!(!lacks_openat2(&checkouts, Some(&package("1.9.3-1"))));
        let write = |layer: &Path, name: &str, text: &str| {
            fs::create_dir_all(layer.join(FOLDER)).expect("folders");
            fs::write(layer.join(FOLDER).join(name), text).expect("a file");
        };
        write(&layers[0], "pseudo_git.bb", "PV = \"1.9.0+git\"\n");
        assert!(lacks_openat2(&checkouts, Some(&package("1.9.3-1"))), "a layer's own comes first");
        write(&layers[1], "pseudo_git.bbappend", "PV = \"1.9.3+git\"\n");
        assert!(!lacks_openat2(&checkouts, Some(&package("1.9.0-1"))));
        // Nothing is read that is no recipe, or is not in the layer.
        fs::remove_file(layers[1].join(FOLDER).join("pseudo_git.bbappend")).expect("remove it");
        write(folder.path(), "outside", "PV = \"1.9.3+git\"\n");
        let outside = folder.path().join(FOLDER).join("outside");
        std::os::unix::fs::symlink(outside, layers[1].join(FOLDER).join("pseudo_9.bb")).expect("a link");
        assert!(lacks_openat2(&checkouts, None));
    }
}
