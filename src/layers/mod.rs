//! Yocto layers: from what the config names to folders that BitBake can read.
//!
//! In go planned layers, out come [`Checkouts`]: which folders to show in the sandbox, which of them are layers, and where
//! BitBake is, if one of the repositories carries it. Layers from git repositories are refused for now.

pub mod checkout;
pub mod patch;
pub mod prune;

use std::path::{Path, PathBuf};

use crate::{
    model::{Explain, Kind},
    plan::{PlannedLayer, PlannedSource},
};

/// Never meant: OpenEmbedded-Core keeps them for its own tests and as examples.
const NOT_FOR_BUILDS: [&str; 2] = ["meta-selftest", "meta-skeleton"];

/// Layers that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkouts {
    /// What has to be visible in the sandbox: whole repositories, or BitBake could not tell their revisions.
    pub roots: Vec<PathBuf>,
    /// BBLAYERS, in the order of the config.
    pub layers: Vec<PathBuf>,
    /// For people: each repository's name and what it is pinned to.
    pub names: Vec<(String, String)>,
    /// A folder with `bin/bitbake` in it.
    pub bitbake: Option<PathBuf>,
}

/// Why layers are not there.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Not built yet.
    #[error("the layer `{name}` comes from a git repository ({url}), which this smidr cannot fetch yet")]
    Git {
        /// The layer.
        name: String,
        /// Its address.
        url: String,
        /// Branch, tag or commit, as `git checkout` takes it.
        revision: String,
    },
    /// No such folder.
    #[error("the layer `{name}` is not there: {path} does not exist")]
    Missing {
        /// The layer.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// A folder without a layer in it.
    #[error("{path} (layer `{name}`) holds no conf/layer.conf")]
    NoLayer {
        /// The layer.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// A folder that should have BitBake.
    #[error("{0} holds no bin/bitbake")]
    NoBitbake(PathBuf),
}

impl Explain for LayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Git { .. } => Kind::Host,
            _ => Kind::Request,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Git { name, url, revision } => Some(format!(
                "clone it yourself, and write `path: layers/{name}` instead of `git:`\n  git clone {} layers/{name} && git -C layers/{name} checkout {}",
                shlex::try_quote(url).unwrap_or_default(),
                shlex::try_quote(revision).unwrap_or_default(),
            )),
            Self::Missing { .. } => Some("paths are relative to smidr.yaml".into()),
            Self::NoLayer { .. } => {
                Some("name the layers inside it:  sublayers: {include: [meta-one, meta-two]}".into())
            }
            Self::NoBitbake(_) => None,
        }
    }
}

/// Finds every layer, and BitBake. `home` is the caller's.
///
/// # Errors
///
/// The first layer that is not there.
pub fn resolve(
    planned: &[PlannedLayer],
    bitbake: Option<&PlannedSource>,
    home: &Path,
) -> Result<Checkouts, LayerError> {
    let mut checkouts = Checkouts::default();
    for layer in planned {
        let root = local(&layer.name, &layer.source)?;
        let found = sublayers(root, layer);
        if found.is_empty() {
            return Err(LayerError::NoLayer { name: layer.name.clone(), path: root.into() });
        }
        let repository = repository(root, home);
        let carried = repository.join("bitbake");
        if has_bitbake(&carried) {
            checkouts.bitbake.get_or_insert(carried);
        }
        checkouts.names.push((layer.name.clone(), "path".into()));
        checkouts.layers.extend(found);
        checkouts.roots.push(repository);
    }
    if let Some(source) = bitbake {
        let root = local("bitbake", source)?;
        if !has_bitbake(root) {
            return Err(LayerError::NoBitbake(root.into()));
        }
        checkouts.roots.push(repository(root, home));
        checkouts.bitbake = Some(root.into());
    }
    checkouts.roots = outermost(checkouts.roots);
    Ok(checkouts)
}

fn local<'a>(name: &str, source: &'a PlannedSource) -> Result<&'a Path, LayerError> {
    match source {
        PlannedSource::Git(git) => {
            Err(LayerError::Git { name: name.into(), url: git.url.clone(), revision: git.wanted() })
        }
        PlannedSource::Path(path) if path.folder.is_dir() => Ok(&path.folder),
        PlannedSource::Path(path) => Err(LayerError::Missing { name: name.into(), path: path.folder.clone() }),
    }
}

fn sublayers(root: &Path, layer: &PlannedLayer) -> Vec<PathBuf> {
    if !layer.include.is_empty() {
        return layer.include.iter().map(|name| root.join(name)).filter(|path| is_layer(path)).collect();
    }
    if is_layer(root) {
        return vec![root.into()];
    }
    let excluded = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        NOT_FOR_BUILDS.contains(&name) || layer.exclude.iter().any(|excluded| root.join(excluded) == path)
    };
    walkdir::WalkDir::new(root)
        .min_depth(1)
        .max_depth(2)
        .sort_by_file_name()
        .into_iter()
        .flatten()
        .map(walkdir::DirEntry::into_path)
        .filter(|path| is_layer(path) && !excluded(path))
        .collect()
}

fn is_layer(path: &Path) -> bool {
    path.join("conf/layer.conf").is_file()
}

fn has_bitbake(path: &Path) -> bool {
    path.join("bin/bitbake").is_file() && path.join("lib/bb").is_dir()
}

/// The git repository that a folder belongs to, or the folder itself. Those who keep their whole home in git do not mean to show
/// it to a build.
fn repository(path: &Path, home: &Path) -> PathBuf {
    let below_home = path.ancestors().take_while(|folder| !home.starts_with(folder));
    below_home.into_iter().find(|folder| folder.join(".git").exists()).unwrap_or(path).into()
}

fn outermost(mut roots: Vec<PathBuf>) -> Vec<PathBuf> {
    roots.sort();
    roots.dedup_by(|inner, outer| inner.starts_with(outer));
    roots
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::plan::PlannedPath;

    fn layer(name: &str, path: &Path) -> PlannedLayer {
        let source = PlannedSource::Path(PlannedPath { folder: path.into(), written: String::new() });
        PlannedLayer { name: name.into(), source, include: vec![], exclude: vec![], ignore_series: false }
    }

    #[test]
    fn layers_of_a_repository_and_their_bitbake() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let repository = folder.path().join("poky");
        for path in ["meta/conf", "meta-poky/conf", "meta-skeleton/conf", "bitbake/bin", "bitbake/lib/bb", ".git"] {
            fs::create_dir_all(repository.join(path)).expect("a folder");
        }
        for path in [
            "meta/conf/layer.conf",
            "meta-poky/conf/layer.conf",
            "meta-skeleton/conf/layer.conf",
            "bitbake/bin/bitbake",
        ] {
            fs::write(repository.join(path), "").expect("a file");
        }
        let all = resolve(&[layer("poky", &repository)], None, Path::new("/")).expect("layers");
        assert_eq!(all.layers, [repository.join("meta"), repository.join("meta-poky")]);
        assert_eq!((all.roots, all.bitbake), (vec![repository.clone()], Some(repository.join("bitbake"))));
        let one = resolve(&[layer("meta", &repository.join("meta"))], None, Path::new("/")).expect("a layer");
        assert_eq!((one.layers, one.roots), (vec![repository.join("meta")], vec![repository.clone()]));
        // A home under git is no repository of layers.
        let at_home = resolve(&[layer("meta", &repository.join("meta"))], None, &repository).expect("a layer");
        assert_eq!(at_home.roots, [repository.join("meta")]);
        let none = resolve(&[layer("x", &repository.join("bitbake"))], None, Path::new("/"));
        assert!(matches!(none, Err(LayerError::NoLayer { .. })));
        let missing = resolve(&[layer("x", &repository.join("nowhere"))], None, Path::new("/"));
        assert!(matches!(missing, Err(LayerError::Missing { .. })));
    }
}
