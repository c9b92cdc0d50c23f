//! From kas files to one configuration: each with its lock file, then what it includes, then itself; what comes later wins.
//!
//! Pure but for the files, which the caller reads. Where an include lies in a repository that is not here yet, the repository is named, and the
//! caller comes again once it is.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    schema,
    yaml::{self, Node, Place, Scalar, Value},
};
use crate::{
    config::{Problem, Problems},
    model::{Hint, Kind, UserError, without_dots},
};

/// How many files are read for one configuration, those that are included more than once counted each time.
const FILES: usize = 5_000;

/// How deep includes may be nested.
const DEPTH: usize = 100;

/// Reads the files that configurations name.
pub trait Files {
    /// Where a path leads, links followed; none where nothing is.
    fn real(&self, path: &Path) -> Option<PathBuf>;
    /// The text of a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is no plain file, is too large or is no UTF-8.
    fn text(&self, path: &Path) -> io::Result<String>;
}

/// What files are read, and from where.
pub struct Asked<'a> {
    /// The files of the command line, absolute.
    pub files: &'a [PathBuf],
    /// The repository that holds them, or the folder of the first.
    pub top: &'a Path,
    /// The folders of the repositories that are here, by id.
    pub folders: &'a BTreeMap<String, PathBuf>,
    /// Whether lock files count.
    pub locks: bool,
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where it stands, links followed.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it holds.
    pub node: Node,
    /// Whether it is a lock file.
    pub is_lock: bool,
    /// Whether it lies in the top repository.
    pub is_top: bool,
}

/// All files merged.
#[derive(Debug)]
pub struct Merged {
    /// Without includes.
    pub config: Node,
    /// In the order in which they were merged. Places count in it.
    pub files: Vec<Loaded>,
    /// Ids of repositories that includes need and that are not here, each with the error for one that is nowhere declared.
    pub wanted: Vec<(String, KasError)>,
    /// For the user.
    pub warnings: Vec<String>,
}

/// Why kas files make no configuration.
#[derive(Debug, thiserror::Error)]
pub enum KasError {
    /// Places in a file.
    #[error(transparent)]
    Wrong(#[from] Box<Problems>),
    /// A file of the command line.
    #[error("there is no {}", .0.display())]
    NotFound(PathBuf),
    /// A file that cannot be read.
    #[error("cannot read {}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another ending.
    #[error("{} is no kas file: these end in .yml, .yaml or .json", .0.display())]
    Ending(PathBuf),
    /// Files of the command line in different repositories.
    #[error("{} and {} do not lie in the same repository", .0.display(), .1.display())]
    Apart(PathBuf, PathBuf),
}

impl UserError for KasError {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Wrong(problems) => problems.hints(),
            Self::Apart(..) => {
                vec![Hint::new("let one of them include the other:  includes: [{repo: ID, file: FILE}]")]
            }
            Self::NotFound(_) | Self::Unreadable { .. } | Self::Ending(_) => Vec::new(),
        }
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        match self {
            Self::Wrong(problems) => problems.drawn(colour),
            _ => None,
        }
    }
}

/// Reads the files and merges them, as far as they are here.
///
/// # Errors
///
/// When one of them cannot be read, or is wrong.
pub fn merge(asked: &Asked<'_>, files: &dyn Files) -> Result<Merged, KasError> {
    let mut merger =
        Merger { asked, files, loaded: Vec::new(), wanted: Vec::new(), warnings: Vec::new(), open: Vec::new() };
    for file in asked.files {
        let real = files.real(file).ok_or_else(|| KasError::NotFound(file.clone()))?;
        merger.load(real, file, asked.top.to_path_buf(), true)?;
    }
    let Merger { loaded, wanted, warnings, .. } = merger;
    let mut config = Node::made(Value::Map(Vec::new()));
    let mut version = 0;
    for file in &loaded {
        lay(&mut config, &file.node);
        version = version.max(self::version(&file.node));
    }
    if let Some((_, header)) = config.entries_mut().iter_mut().find(|(key, _)| key.is("header")) {
        header.remove("includes");
        header.set("version", Node::made(Value::Scalar(Scalar::Int(version))));
    }
    Ok(Merged { config, files: loaded, wanted, warnings })
}

/// The version that a file says; `0.10` is the first one's other name.
fn version(file: &Node) -> i128 {
    match file.get("header").and_then(|header| header.get("version")).map(|version| &version.value) {
        Some(Value::Scalar(Scalar::Int(version))) => *version,
        _ => 1,
    }
}

/// Lays one on top of another: mappings key by key, everything else is replaced.
pub(super) fn lay(below: &mut Node, above: &Node) {
    let (Value::Map(_), Value::Map(entries)) = (&below.value, &above.value) else {
        *below = above.clone();
        return;
    };
    let map = below.entries_mut();
    for (key, node) in entries {
        match map.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => lay(known, node),
            None => map.push((key.clone(), node.clone())),
        }
    }
}

impl Merged {
    /// Problems of one file.
    pub fn wrong(&self, place: &Place, title: impl Into<String>, hint: Option<String>) -> KasError {
        wrong(&self.files, place, title, hint)
    }
}

fn wrong(files: &[Loaded], place: &Place, title: impl Into<String>, hint: Option<String>) -> KasError {
    let problem = Problem { span: place.span.clone(), title: title.into(), hint };
    match files.get(place.file) {
        Some(file) => problems(&file.path, &file.text, vec![problem]),
        None => problems(Path::new("kas"), "", vec![problem]),
    }
}

fn problems(path: &Path, text: &str, list: Vec<Problem>) -> KasError {
    KasError::Wrong(Box::new(Problems { file: path.display().to_string(), text: text.into(), further: None, list }))
}

struct Merger<'a> {
    asked: &'a Asked<'a>,
    files: &'a dyn Files,
    loaded: Vec<Loaded>,
    wanted: Vec<(String, KasError)>,
    warnings: Vec<String>,
    // The files whose includes are being read.
    open: Vec<PathBuf>,
}

impl Merger<'_> {
    /// `named` is how it was asked for, `root` where its own includes are looked for.
    fn load(&mut self, real: PathBuf, named: &Path, root: PathBuf, is_top: bool) -> Result<(), KasError> {
        let (text, node) = self.read(&real, named)?;
        if let Some(lock) = lock_of(&real)
            && self.asked.locks
            && let Some(lock) = self.files.real(&lock)
        {
            let (text, node) = self.read(&lock, &lock)?;
            self.push(Loaded { path: lock, text, node, is_lock: true, is_top });
        }
        self.open.push(real.clone());
        let includes = node.get("header").and_then(|header| header.get("includes")).cloned();
        for include in includes.iter().flat_map(Node::items) {
            self.include(include, &real, &text, &root, is_top)?;
        }
        self.open.pop();
        if self.loaded.len() > FILES || self.open.len() > DEPTH {
            return Err(problems(&real, &text, vec![Problem::new(0..0, "too many files are included, or too deeply")]));
        }
        self.push(Loaded { path: real, text, node, is_lock: false, is_top });
        Ok(())
    }

    fn push(&mut self, mut file: Loaded) {
        place_in(&mut file.node, self.loaded.len());
        self.loaded.push(file);
    }

    fn read(&self, real: &Path, named: &Path) -> Result<(String, Node), KasError> {
        if !matches!(real.extension().and_then(|ending| ending.to_str()), Some("yml" | "yaml" | "json")) {
            return Err(KasError::Ending(named.to_path_buf()));
        }
        let text = self.files.text(real);
        let text = text.map_err(|source| KasError::Unreadable { file: real.to_path_buf(), source })?;
        let node = yaml::parse(&text, 0).map_err(|problem| problems(real, &text, vec![problem]))?;
        match schema::check(&node) {
            list if list.is_empty() => Ok((text, node)),
            list => Err(problems(real, &text, list)),
        }
    }

    fn include(&mut self, include: &Node, from: &Path, text: &str, root: &Path, is_top: bool) -> Result<(), KasError> {
        let wrong = |node: &Node, title: String, hint: Option<String>| {
            problems(from, text, vec![Problem { span: node.place.span.clone(), title, hint }])
        };
        let (file, root, is_top) = match include.as_text() {
            Some(_) => (include, root.to_path_buf(), is_top),
            None => {
                let (Some(id), Some(file)) = (include.get("repo"), include.get("file")) else { return Ok(()) };
                let id = id.as_text().unwrap_or_default();
                let Some(folder) = self.asked.folders.get(id) else {
                    if self.wanted.iter().all(|(known, _)| known != id) {
                        let error = wrong(
                            include,
                            format!("no repository is called {id}"),
                            Some("repositories stand under repos:".into()),
                        );
                        self.wanted.push((id.to_owned(), error));
                    }
                    return Ok(());
                };
                (file, folder.clone(), folder == self.asked.top)
            }
        };
        let name = file.as_text().unwrap_or_default();
        let root = self.files.real(&root).unwrap_or(root);
        let inside = |path: &Path| {
            let real = self.files.real(path).unwrap_or_else(|| without_dots(path));
            real.starts_with(&root).then_some(real)
        };
        let path = root.join(name);
        let Some(mut real) = inside(&path) else {
            let title = format!("the include {name} lies outside of the repository {}", root.display());
            let hint = "includes are relative to the root of the repository of the file that names them; those of other repositories are written `{repo: ID, file: FILE}`";
            return Err(wrong(file, title, Some(hint.into())));
        };
        if self.files.real(&path).is_none() {
            let beside = from.with_file_name("").join(name);
            match inside(&beside).filter(|_| self.files.real(&beside).is_some()) {
                Some(found) if include.as_text().is_some() => {
                    self.warnings.push(format!(
                        "{}: the include {name} is relative to this file, and should be to {}",
                        from.display(),
                        root.display()
                    ));
                    real = found;
                }
                _ => return Err(wrong(file, format!("there is no {}", path.display()), None)),
            }
        }
        if self.open.contains(&real) {
            let title = format!("{name} includes itself{}", if real == from { "" } else { ", by way of others" });
            return Err(wrong(file, title, Some("one of these includes has to go".into())));
        }
        self.load(real, &path, root, is_top)
    }
}

/// The lock file of a kas file: `kas.lock.yml` of `kas.yml`.
pub fn lock_of(file: &Path) -> Option<PathBuf> {
    let (stem, ending) = (file.file_stem()?.to_str()?, file.extension()?.to_str()?);
    Some(file.with_file_name(format!("{stem}.lock.{ending}")))
}

/// Numbers the places of a file.
fn place_in(node: &mut Node, file: usize) {
    node.place.file = file;
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| place_in(item, file)),
        Value::Map(map) => map.iter_mut().for_each(|(key, node)| {
            key.place.file = file;
            place_in(node, file);
        }),
    }
}
