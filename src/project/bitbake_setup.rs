//! A configuration of bitbake-setup as a project: its file, with what was chosen of it, becomes the text of a smidr.yaml.

use std::{
    fs,
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

use super::{ProjectError, Sources, read_lock};
use crate::{
    bitbake_setup::{self, Choice, Chosen, Document, ENDING, Question, Setup, SetupError, choose},
    kas::{self, Node},
    lock::lock_path,
    model::SystemFacts,
    system::files::{FileError, read_text},
};

/// A configuration file, and what is chosen of it.
#[derive(Clone, Debug)]
pub(crate) struct SetupFiles {
    /// Absolute.
    pub file: PathBuf,
    /// What the caller has chosen.
    pub choice: Choice,
    /// Files of sources that are laid over its own, in their order.
    overrides: Vec<PathBuf>,
    /// The smidr.yaml that names it, and its other keys.
    beside: Option<(PathBuf, Node)>,
}

/// A configuration that was read.
pub(crate) enum SetupRead {
    /// As a project.
    Whole(Box<WholeSetup>),
    /// Something is to be chosen first.
    Open(Question),
}

/// A configuration of which all is chosen.
pub(crate) struct WholeSetup {
    /// What the file says.
    pub document: Document,
    /// What was chosen.
    pub setup: Setup,
    /// As a project of smidr's.
    pub sources: Sources,
}

/// Whether a path names a configuration of bitbake-setup: `FILE`, `FILE:CONFIGURATION:OPTION…`, or `REGISTRY:ID…`; or is a smidr.yaml that does.
pub(crate) fn is_setup(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    let (first, id) = parts(path, text);
    let file = Path::new(first);
    if file.is_dir() {
        return id.is_some_and(|id| in_registry(file, id).is_some());
    }
    let read = |file: &Path| read_text(file).unwrap_or_default();
    match () {
        () if first.ends_with(ENDING) => file.is_file(),
        () if first.ends_with(".json") => bitbake_setup::is_configuration(&read(file)),
        () => first.ends_with(".yaml") && kas::taken_out(&read(file), KEY).is_some(),
    }
}

/// The configuration of a folder, where it has exactly one.
pub(crate) fn setup_file_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = entries.take(1000).filter(|file| file.to_string_lossy().ends_with(ENDING) && is_setup(file));
    match (all.next(), all.next()) {
        (Some(one), None) => one.file_name().map(PathBuf::from),
        _ => None,
    }
}

/// The key of a smidr.yaml that names one.
const KEY: &str = "bitbake_setup";

/// The file or folder, and the first word behind it. A file may have colons in its own name.
fn parts<'p>(path: &Path, text: &'p str) -> (&'p str, Option<&'p str>) {
    if path.exists() {
        return (text, None);
    }
    let mut parts = text.split(':');
    (parts.next().unwrap_or_default(), parts.next())
}

/// The file of an id in a registry: `configurations/**/ID.conf.json`.
fn in_registry(registry: &Path, id: &str) -> Option<PathBuf> {
    let name = format!("{id}{ENDING}");
    let all = WalkDir::new(registry.join("configurations")).max_depth(8).sort_by_file_name().into_iter().flatten();
    all.take(10_000).find(|entry| entry.file_name().to_str() == Some(&name)).map(|entry| entry.path().to_path_buf())
}

impl SetupFiles {
    /// What a path names.
    ///
    /// # Errors
    ///
    /// When it cannot be found, or the smidr.yaml that names it is wrong.
    pub(crate) fn of(path: &Path) -> Result<Self, ProjectError> {
        let here = |path: &Path| fs::canonicalize(path).map_err(FileError::new("find", path));
        let beside = read_text(path).ok().and_then(|text| kas::taken_out(&text, KEY));
        if let Some((named, keys)) = beside {
            let file = here(path)?;
            let folder = file.parent().unwrap_or(Path::new("/")).to_path_buf();
            let words = |key: &str| -> Vec<String> {
                named.get(key).into_iter().flat_map(Node::items).filter_map(Node::as_text).map(str::to_owned).collect()
            };
            let config = named.as_text().or_else(|| named.get("config").and_then(Node::as_text)).unwrap_or_default();
            let mut found = Self::of(&folder.join(config))?;
            if let Some(name) = named.get("configuration").and_then(Node::as_text) {
                found.choice.configuration = Some(name.to_owned());
            }
            found.choice.options.extend(words("options"));
            found.overrides.extend(words("source_overrides").iter().map(|file| folder.join(file)));
            found.beside = Some((file, keys));
            return Ok(found);
        }
        let text = path.to_str().unwrap_or_default();
        let (first, id) = parts(path, text);
        let mut words = text.get(first.len()..).unwrap_or_default().split(':').skip(1).map(str::to_owned);
        let mut file = PathBuf::from(first);
        if let (true, Some(id)) = (file.is_dir(), id) {
            words.next();
            file = in_registry(&file, id).ok_or_else(|| SetupError::Choice {
                what: format!("{} has no configuration {id}", file.display()),
                hints: Vec::new(),
            })?;
        }
        let (overrides, words): (Vec<String>, Vec<String>) = words.partition(|word| word.ends_with(".json"));
        let mut words = words.into_iter();
        Ok(Self {
            file: here(&file)?,
            choice: Choice { configuration: words.next(), options: words.collect() },
            overrides: overrides.iter().map(|file| here(Path::new(file))).collect::<Result<_, _>>()?,
            beside: None,
        })
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is wrong, or there is no such choice.
    pub(crate) fn read(&self, facts: &SystemFacts) -> Result<SetupRead, ProjectError> {
        let today = jiff::Zoned::now().date().to_string();
        let mut document = Document::read(&self.file, &read_text(&self.file)?, &today)?;
        for file in &self.overrides {
            document.lay_over(file, &read_text(file)?)?;
        }
        let setup = match choose(&document, &self.choice)? {
            Chosen::Whole(setup) => setup,
            Chosen::Open(question) => return Ok(SetupRead::Open(question)),
        };
        let (all, warnings) = document.all_sources(&self.file)?;
        document.warnings.extend(warnings);
        let is_here = |folder: &Path| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        let over = self.beside.as_ref().map(|(_, keys)| keys);
        let file = self.beside.as_ref().map_or(&self.file, |(file, _)| file).clone();
        let text = bitbake_setup::smidr_yaml(&setup, &all, &self.file, &file, &facts.home, over, &is_here);
        let lock = read_lock(&lock_path(&file))?;
        let says_what = |keys: &Node| {
            keys.get("build").is_some_and(|build| ["image", "targets"].iter().any(|key| build.get(key).is_some()))
        };
        let sources = Sources {
            texts: text.as_str().into(),
            lock,
            warnings: document.warnings.iter().map(|warning| format!("{}: {warning}", self.file.display())).collect(),
            names_no_target: !over.is_some_and(says_what),
            file,
            ..Sources::default()
        };
        Ok(SetupRead::Whole(Box::new(WholeSetup { document, setup: *setup, sources })))
    }
}
