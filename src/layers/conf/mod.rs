//! Reads the `layer.conf` of all layers, one after the other, into one set of variables, as BitBake reads them before anything else
//! (`bb.cookerdata`, `parseConfigurationFiles`).
//!
//! The files are untrusted. They are opened inside the layer's repository only, up to a size, and nothing in them is run.

mod lines;
mod variables;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

pub(super) use variables::Value;
use variables::{Variables, is_known};

use self::lines::{Statement, statements};
use crate::{
    layers::discover::Found,
    model::{Hint, Kind, UserError, without_dots},
    system::rooted::{Rooted, RootedError},
};

/// The largest file, in bytes: OpenEmbedded-Core's is 5 KiB.
const FILE_LIMIT: u64 = 1 << 20;

/// How deep files may include each other.
const MAX_DEPTH: usize = 16;

/// How many files all layers together may include.
const MAX_FILES: usize = 4096;

/// Why the conf of a layer cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// A repository's folder cannot be opened.
    #[error("cannot look into the repository of the layer {folder}")]
    Root {
        /// The layer.
        folder: PathBuf,
        /// Why.
        source: RootedError,
    },
    /// There is no such file inside the repository.
    #[error("{path} is not there, or is a link that leads out of {root}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The repository.
        root: PathBuf,
    },
    /// Not a text file, or too large.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RootedError,
    },
    /// Files that include each other.
    #[error("{path} is included by a file that is included, and so on, {MAX_DEPTH} times")]
    Circle {
        /// The file.
        path: PathBuf,
    },
    /// Values that grow without limit, or too many files.
    #[error(
        "{path} leads to more than any layer needs: its values refer to each other too often, or it includes too many files"
    )]
    TooMuch {
        /// The file.
        path: PathBuf,
    },
}

impl UserError for ConfError {
    fn kind(&self) -> Kind {
        match self {
            Self::Root { source, .. } | Self::File { source, .. } => source.kind(),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        let path = match self {
            Self::Root { .. } => return Vec::new(),
            Self::Missing { .. } => {
                return vec![Hint::new("a layer is read inside its repository only: put the file itself there")];
            }
            Self::File { path, .. } | Self::Circle { path } | Self::TooMuch { path } => path,
        };
        vec![Hint::command("look at it", format!("ls -l {}", path.display()))]
    }
}

/// Reads layers into variables.
#[derive(Debug)]
pub(super) struct Reader {
    variables: Variables,
    /// Repositories, each opened once.
    roots: BTreeMap<PathBuf, Rooted>,
    files: usize,
    /// For the user: what was not read.
    pub warnings: Vec<String>,
}

impl Reader {
    /// Opens every repository.
    ///
    /// # Errors
    ///
    /// When one is not a folder.
    pub(super) fn new(found: &[Found]) -> Result<Self, ConfError> {
        let mut roots = BTreeMap::new();
        for layer in found.iter().filter(|layer| layer.folder.starts_with(&layer.root)) {
            if !roots.contains_key(&layer.root) {
                let root = Rooted::open(&layer.root)
                    .map_err(|source| ConfError::Root { folder: layer.folder.clone(), source })?;
                roots.insert(layer.root.clone(), root);
            }
        }
        Ok(Self { variables: Variables::new(), roots, files: 0, warnings: Vec::new() })
    }

    /// Reads the `conf/layer.conf` of one layer, after those that come before it in BBLAYERS.
    ///
    /// # Errors
    ///
    /// When it is not there, or must not be read.
    pub(super) fn layer(&mut self, layer: &Found) -> Result<(), ConfError> {
        let path = layer.folder.join("conf/layer.conf");
        self.variables.refill();
        self.variables.set("LAYERDIR", layer.folder.display().to_string());
        // BitBake escapes it for regular expressions, in patterns of file names that are not used here.
        self.variables.set("LAYERDIR_RE", layer.folder.display().to_string());
        match self.inside(&path) {
            Some(text) => self.text(&path, &text?, 0)?,
            None => return Err(ConfError::Missing { path, root: layer.root.clone() }),
        }
        for name in ["LAYERDIR", "LAYERDIR_RE"] {
            self.variables.settle(name);
            self.variables.unset(name);
        }
        if self.variables.is_exhausted() { Err(ConfError::TooMuch { path }) } else { Ok(()) }
    }

    /// Reads the text of a `local.conf`, which comes after all layers. Its includes are left out.
    pub(super) fn local(&mut self, text: &str) {
        for statement in statements(text) {
            match statement {
                Statement::Assign { name, operator, value } => self.variables.assign(&name, operator, &value),
                Statement::Unset(name) => self.variables.unset(&name),
                Statement::Include { .. } => {}
            }
        }
    }

    /// The current value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.variables.refill();
        self.variables.get(name)
    }

    /// Removes a variable.
    pub(super) fn unset(&mut self, name: &str) {
        self.variables.unset(name);
    }

    /// The repository of a folder, and its path in it; none outside of all repositories.
    pub(super) fn place(&self, folder: &Path) -> Option<(&Rooted, PathBuf)> {
        let folder = without_dots(folder);
        let outer = self.roots.iter().rev().find(|(root, _)| folder.starts_with(root));
        outer.and_then(|(root, rooted)| Some((rooted, folder.strip_prefix(root).ok()?.into())))
    }

    /// The folders in which BitBake looks for `conf/machine` and the like, and whether there may be others.
    pub(super) fn search_path(&self) -> (Vec<PathBuf>, bool) {
        let Some(value) = self.variables.get("BBPATH") else { return (Vec::new(), false) };
        let known = value.whole().split(':').filter(|part| !part.is_empty() && is_known(part));
        (known.map(PathBuf::from).collect(), value.is_open())
    }

    fn text(&mut self, path: &Path, text: &str, depth: usize) -> Result<(), ConfError> {
        // One file may be included many times.
        if !self.variables.spend(text.len()) {
            return Err(ConfError::TooMuch { path: path.into() });
        }
        for statement in statements(text) {
            match statement {
                Statement::Assign { name, operator, value } => self.variables.assign(&name, operator, &value),
                Statement::Unset(name) => self.variables.unset(&name),
                Statement::Include { files, required } => self.include(path, &files, required, depth)?,
            }
        }
        Ok(())
    }

    fn include(&mut self, from: &Path, files: &str, required: bool, depth: usize) -> Result<(), ConfError> {
        for file in self.variables.expand_now(files).split_whitespace() {
            self.files += 1;
            if self.files > MAX_FILES || self.variables.is_exhausted() {
                return Err(ConfError::TooMuch { path: from.into() });
            }
            match self.find(from, file) {
                Some((path, _)) if path == from => {}
                Some((path, _)) if depth >= MAX_DEPTH => return Err(ConfError::Circle { path }),
                Some((path, text)) => self.text(&path, &text?, depth + 1)?,
                // An optional file may be missing. It could also be in the build folder, which holds no facts about layers.
                None if !required && is_known(file) => {}
                None => {
                    self.warnings.push(format!(
                        "{} includes {}, which smidr does not see: what it says of layers is not known",
                        from.display(),
                        if is_known(file) { file } else { "a file whose name inline Python or another variable makes" },
                    ));
                }
            }
        }
        Ok(())
    }

    /// Looks beside the file that includes it, then in BBPATH.
    fn find(&self, from: &Path, file: &str) -> Option<(PathBuf, Result<String, ConfError>)> {
        if !is_known(file) {
            return None;
        }
        let beside = from.parent().map(Path::to_path_buf);
        let folders = beside.into_iter().chain(self.search_path().0);
        let mut candidates: Box<dyn Iterator<Item = PathBuf>> = match Path::new(file).is_absolute() {
            true => Box::new(std::iter::once(PathBuf::from(file))),
            false => Box::new(folders.map(|folder| folder.join(file))),
        };
        candidates.find_map(|path| {
            let path = without_dots(&path);
            self.inside(&path).map(|text| (path, text))
        })
    }

    /// The text of a file of a repository; none where there is no such file.
    fn inside(&self, path: &Path) -> Option<Result<String, ConfError>> {
        let (rooted, inside) = self.place(path)?;
        let failed = |source| ConfError::File { path: path.into(), source };
        match rooted.read_text(&inside, FILE_LIMIT) {
            // A NUL stands for an unknown value here, and is in no text file.
            Ok(text) if text.contains('\0') => Some(Err(failed(RootedError::NotText(inside)))),
            Ok(text) => Some(Ok(text)),
            Err(error) if is_absent(&error) => None,
            Err(error) => Some(Err(failed(error))),
        }
    }
}

/// Nothing there, or a file where a folder should be: BitBake continues its search.
pub(super) fn is_absent(error: &RootedError) -> bool {
    let not_folder = |source: &io::Error| source.kind() == io::ErrorKind::NotADirectory;
    error.is_missing() || matches!(error, RootedError::Call { source, .. } if not_folder(source))
}

#[cfg(test)]
mod tests;
