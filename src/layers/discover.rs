//! Which folders of a repository are layers: `sublayers()` applies the config's `include` and `exclude` to a repository's folder and gives
//! the layers in the order of BBLAYERS.
//!
//! A layer is a folder with a `conf/layer.conf`. The content of that file is not looked at here.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};

use crate::{
    config::nearest,
    model::{Hint, Kind, UserError},
    plan::PlannedLayer,
    system::rooted::{Missing, Rooted, RootedError},
};

/// An upper limit for the folders in the root of a repository, or in one of its folders.
const MAX_ENTRIES: usize = 20_000;

/// A layer that BitBake is to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The layer's folder, as BBLAYERS has it.
    pub folder: PathBuf,
    /// Its repository: nothing of the layer is read outside of it.
    pub root: PathBuf,
    /// What the config calls the repository.
    pub repository: String,
    /// Whether it is used with a series that it does not name.
    pub ignore_series: bool,
    /// Whether the config names it, or names a repository that is one layer; not only found by search.
    pub chosen: bool,
}

/// Why the layers of a repository cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// A repository's folder.
    #[error("cannot look for layers in `{repository}` ({root})")]
    Folder {
        /// As the config calls it.
        repository: String,
        /// Where it is.
        root: PathBuf,
        /// Why.
        source: RootedError,
    },
    /// There is no layer, or all are excluded.
    #[error("`{repository}` ({root}) holds no {}", if excluded.is_empty() { "conf/layer.conf" } else { "layer that is not left out" })]
    NoLayer {
        /// As the config calls it.
        repository: String,
        /// Where it is.
        root: PathBuf,
        /// Layers that are there, but are not used.
        excluded: Vec<String>,
    },
    /// A name in the config that no layer has.
    #[error("`{name}` is not a layer of `{repository}` ({root}): sublayers.{list} names it")]
    Unknown {
        /// What the config says.
        name: String,
        /// As the config calls it.
        repository: String,
        /// Where it is.
        root: PathBuf,
        /// `include` or `exclude`.
        list: &'static str,
        /// Layers that are there.
        known: Vec<String>,
    },
}

impl UserError for DiscoverError {
    fn kind(&self) -> Kind {
        match self {
            Self::Folder { source, .. } => source.kind(),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Folder { .. } => Vec::new(),
            Self::NoLayer { excluded, .. } if excluded.is_empty() => vec![Hint::new(
                "a layer is a folder with that file: it is looked for in the folder itself and up to two folders below",
            )],
            Self::NoLayer { excluded, .. } => {
                vec![Hint::config(
                    "name what is to be used",
                    format!("sublayers: {{include: [{}]}}", excluded.join(", ")),
                )]
            }
            Self::Unknown { name, known, .. } => vec![match near(name, known) {
                Some(near) => Hint::new(format!("did you mean `{near}`?")),
                None if known.is_empty() => Hint::new("no layer is in there"),
                None => Hint::new(format!("the layers in there: {}", known.join(", "))),
            }],
        }
    }
}

/// The same layer in another folder, or the nearest name.
fn near<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let elsewhere = known.iter().find(|path| last(path) == last(name));
    elsewhere.map(String::as_str).or_else(|| nearest(name, known.iter().map(String::as_str)))
}

/// Finds the layers of the repository at `root`. Those that `include` names keep its order; found ones are in the order of their names.
///
/// # Errors
///
/// When there is none, or the config names one that does not exist.
pub fn discover(root: &Path, layer: &PlannedLayer) -> Result<Vec<Found>, DiscoverError> {
    if !layer.has_layers {
        return Ok(Vec::new());
    }
    let failed = |source| DiscoverError::Folder { repository: layer.name.clone(), root: root.into(), source };
    let rooted = Rooted::open(root).map_err(failed)?;
    let found = |folder: &str, chosen| Found {
        folder: if folder.is_empty() { root.into() } else { root.join(folder) },
        root: root.into(),
        repository: layer.name.clone(),
        ignore_series: layer.ignore_series,
        chosen,
    };
    let known = || layers_below(&rooted).map_err(failed);
    let unknown = |name: &str, list| -> Result<DiscoverError, DiscoverError> {
        let (name, repository) = (name.to_owned(), layer.name.clone());
        Ok(DiscoverError::Unknown { name, repository, root: root.into(), list, known: known()? })
    };
    let excluded: Vec<String> = layer.exclude.iter().map(|name| tidy(name)).collect();
    if let Some(name) = excluded.iter().find(|name| name.is_empty() || !is_layer(&rooted, name)) {
        return Err(unknown(name, "exclude")?);
    }
    let mut layers = Vec::new();
    for name in layer.include.iter().map(|name| tidy(name)) {
        if !is_layer(&rooted, &name) {
            return Err(unknown(&name, "include")?);
        }
        layers.push(found(&name, true));
    }
    if !layer.include.is_empty() {
        layers.retain(|layer| !excluded.iter().any(|name| layer.folder == root.join(name)));
    } else if is_layer(&rooted, "") {
        layers.push(found("", true));
    } else {
        let used = |name: &String| !is_for_tests(name) && !excluded.contains(name);
        layers.extend(known()?.iter().filter(|name| used(name)).map(|name| found(name, false)));
    }
    if layers.is_empty() {
        return Err(DiscoverError::NoLayer { repository: layer.name.clone(), root: root.into(), excluded: known()? });
    }
    Ok(layers)
}

/// All layers in a repository, by their folders in it. Folders below a layer are not searched.
///
/// # Errors
///
/// When a folder cannot be read.
pub(super) fn layers_below(rooted: &Rooted) -> Result<Vec<String>, RootedError> {
    let mut layers = Vec::new();
    for name in folders(rooted, "")? {
        if is_layer(rooted, &name) {
            layers.push(name);
        } else {
            let below = folders(rooted, &name)?.into_iter().map(|inner| format!("{name}/{inner}"));
            layers.extend(below.filter(|path| is_layer(rooted, path)));
        }
    }
    layers.sort();
    Ok(layers)
}

/// Layers for tests of their repository, or examples: of OpenEmbedded-Core, meta-ti, and tegra-demo-distro.
const FOR_TESTS: [&str; 4] = ["meta-selftest", "meta-skeleton", "meta-ti-test", "meta-demo-ci"];

/// Whether a layer is used only where the config names it. meta-mender has those of its tests in one folder.
pub(super) fn is_for_tests(path: &str) -> bool {
    path.starts_with("tests/") || FOR_TESTS.contains(&path.rsplit('/').next().unwrap_or(path))
}

/// Whether there is a `conf/layer.conf` of any kind. One that cannot be read is an error later; here it would be left out without a word.
fn is_layer(rooted: &Rooted, folder: &str) -> bool {
    let Ok((conf, name)) = rooted.parent(&Path::new(folder).join("conf/layer.conf")) else { return false };
    statat(&conf, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// The names of folders in a folder, sorted. Links are left out, since their targets are found where they stand; so are folders in which BitBake has
/// built, whose `workspace` is a layer of devtool's.
fn folders(rooted: &Rooted, path: &str) -> Result<Vec<String>, RootedError> {
    let is_build = |name: &str| rooted.resolve(&Path::new(path).join(name).join("conf/bblayers.conf")).is_ok();
    let mut folders: Vec<String> = entries(rooted, Path::new(path))?
        .into_iter()
        .filter(|(name, kind)| *kind == FileType::Directory && !name.starts_with('.') && !is_build(name))
        .map(|(name, _)| name)
        .collect();
    folders.sort();
    Ok(folders)
}

/// The entries of a folder inside a root. Names that are not UTF-8 are left out: no conf could name them.
///
/// # Errors
///
/// When it is no folder, or cannot be read.
pub(super) fn entries(rooted: &Rooted, path: &Path) -> Result<Vec<(String, FileType)>, RootedError> {
    let failed = |errno: rustix::io::Errno| RootedError::Call { call: "list", path: path.into(), source: errno.into() };
    let folder = rooted.walk(path, Missing::Fail)?.dir;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let reading = openat(&folder, ".", flags, Mode::empty()).map_err(failed)?;
    let mut entries = Vec::new();
    for entry in Dir::new(reading).map_err(failed)?.take(MAX_ENTRIES) {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let Some(name) = name.to_str().filter(|name| *name != "." && *name != "..") else { continue };
        let kind = match entry.file_type() {
            // Some file systems do not tell the type.
            FileType::Unknown => statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            kind => kind,
        };
        entries.push((name.to_owned(), kind));
    }
    Ok(entries)
}

/// `./meta-one/` in the form in which it is found: `meta-one`.
pub(super) fn tidy(name: &str) -> String {
    name.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{create_dir_all, write},
        os::unix::fs::symlink,
    };

    use super::*;
    use crate::plan::{PlannedPath, PlannedSource};

    fn repository(layers: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for layer in layers {
            create_dir_all(root.path().join(layer).join("conf")).expect("folders");
            write(root.path().join(layer).join("conf/layer.conf"), "").expect("a file");
        }
        root
    }

    fn look(root: &Path, include: &[&str], exclude: &[&str]) -> Result<Vec<String>, DiscoverError> {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let source = PlannedSource::Path(PlannedPath {
            folder: root.into(),
            written: String::new(),
            pinned: false,
            instead_of: None,
            sent: None,
        });
        let (include, exclude) = (texts(include), texts(exclude));
        let layer = PlannedLayer {
            name: "mine".into(),
            source,
            include,
            exclude,
            ignore_series: false,
            has_layers: true,
            at: None,
        };
        let found = discover(root, &layer)?;
        Ok(found
            .iter()
            .map(|layer| {
                let path = layer.folder.strip_prefix(root).expect("below").to_string_lossy().into_owned();
                if layer.chosen { format!("{path}!") } else { path }
            })
            .collect())
    }

    #[test]
    fn sublayers_by_name_and_by_depth() {
        let root =
            repository(&["meta-b", "meta-a", "meta-skeleton", "more/meta-c", "more/deep/meta-d", "meta-a/inner", ".x"]);
        let root = root.path();
        symlink("meta-a", root.join("link")).expect("a link");
        create_dir_all(root.join("build/workspace/conf")).expect("folders");
        write(root.join("build/workspace/conf/layer.conf"), "").expect("a file");
        create_dir_all(root.join("build/conf")).expect("folders");
        write(root.join("build/conf/bblayers.conf"), "").expect("a file");
        for (include, exclude, expected) in [
            (&[][..], &[][..], &["meta-a", "meta-b", "more/meta-c"][..]),
            (&[], &["meta-a", "./more/meta-c/"], &["meta-b"]),
            (&[], &["meta-skeleton"], &["meta-a", "meta-b", "more/meta-c"]),
            (&["meta-b", "meta-a/"], &[], &["meta-b!", "meta-a!"]),
            (
                &["meta-skeleton", "more/deep/meta-d", "meta-a/inner"],
                &[],
                &["meta-skeleton!", "more/deep/meta-d!", "meta-a/inner!"],
            ),
            (&["meta-a", "meta-b"], &["meta-a"], &["meta-b!"]),
        ] {
            assert_eq!(look(root, include, exclude).expect("layers"), expected, "{include:?} {exclude:?}");
        }
        for (include, exclude, message, hint) in [
            (&["meta-aa"][..], &[][..], "sublayers.include", "did you mean `meta-a`?"),
            (&["meta-c"], &[], "`meta-c` is not a layer of `mine`", "did you mean `more/meta-c`?"),
            (
                &[],
                &["elsewhere"],
                "sublayers.exclude",
                "the layers in there: meta-a, meta-b, meta-skeleton, more/meta-c",
            ),
            (&["meta-a"], &["meta-a"], "holds no layer that is not left out", "include: [meta-a, "),
        ] {
            let error = look(root, include, exclude).expect_err("an error");
            assert!(error.to_string().contains(message), "{error}");
            let given = error.hint().expect("a hint");
            assert!(given.contains(hint) && error.kind() == Kind::Request, "{given}");
        }
    }

    #[test]
    fn a_repository_that_is_one_layer() {
        let root = repository(&["", "meta-inside"]);
        assert_eq!(look(root.path(), &[], &[]).expect("a layer"), ["!"]);
        assert_eq!(look(root.path(), &["meta-inside", "."], &[]).expect("layers"), ["meta-inside!", "!"]);
        let none = repository(&["one/two/three"]);
        let error = look(none.path(), &[], &[]).expect_err("too deep");
        assert!(matches!(&error, DiscoverError::NoLayer { excluded, .. } if excluded.is_empty()), "{error}");
        assert!(matches!(look(&none.path().join("x"), &[], &[]), Err(DiscoverError::Folder { .. })));
    }

    #[test]
    fn a_layer_with_a_bad_conf_is_not_overlooked() {
        let root = repository(&["meta-a"]);
        create_dir_all(root.path().join("meta-b/conf")).expect("folders");
        symlink("/etc/passwd", root.path().join("meta-b/conf/layer.conf")).expect("a link");
        create_dir_all(root.path().join("meta-c")).expect("folders");
        symlink("/etc", root.path().join("meta-c/conf")).expect("a link");
        assert_eq!(look(root.path(), &[], &[]).expect("layers"), ["meta-a", "meta-b"]);
    }
}
