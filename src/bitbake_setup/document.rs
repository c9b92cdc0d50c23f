//! The file as it is written, and its nested configurations made flat.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, de::DeserializeOwned};

use super::ENDING;
use crate::model::{Hint, Kind, UserError};

/// Where repositories come from, by id, in the order of the file.
pub type Sources = IndexMap<String, serde_json::Value>;

/// The same, read.
pub(super) type ReadSources = Vec<(String, Source)>;

/// A configuration file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The name of its file, without its ending.
    pub name: String,
    /// Its sources, with what was laid over them.
    pub sources: Sources,
    /// What may be chosen, by name.
    pub configurations: IndexMap<String, Configuration>,
    /// For the user.
    pub warnings: Vec<String>,
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Another name.
    #[error("{} is a configuration of bitbake-setup, and the name of such a file ends with {ENDING}", .0.display())]
    Name(PathBuf),
    /// Not JSON, or not of this kind.
    #[error("{}: {error}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What, and where.
        error: serde_json::Error,
    },
    /// What its values say.
    #[error("{}: {what}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// What.
        what: String,
    },
    /// A choice that there is not.
    #[error("{what}")]
    Choice {
        /// What.
        what: String,
        /// What there is.
        hints: Vec<String>,
    },
}

impl UserError for SetupError {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Choice { hints, .. } => hints.iter().map(Hint::new).collect(),
            Self::Name(_) | Self::Json { .. } | Self::Wrong { .. } => Vec::new(),
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    version: Option<String>,
    #[serde(default, rename = "description")]
    _description: Option<String>,
    #[serde(default)]
    expires: Option<String>,
    sources: Sources,
    #[serde(rename = "bitbake-setup")]
    section: Section,
}

#[derive(Deserialize)]
struct Section {
    configurations: Vec<Configuration>,
}

/// One that may be chosen, or holds some that may.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Configuration {
    /// What it is chosen by.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// For people, once it is set up.
    pub notes: Option<OneOrMore>,
    /// Layers below `layers`.
    pub bb_layers: Option<Vec<String>>,
    /// Layers below the folder of the file, behind the others.
    pub bb_layers_file_relative: Option<Vec<String>>,
    /// A folder of conf that a layer brings.
    pub oe_template: Option<String>,
    /// Fragments that are always on.
    pub oe_fragments: Option<Vec<Named>>,
    /// Fragments of which one is chosen, by key.
    pub oe_fragments_one_of: Option<IndexMap<String, OneOf>>,
    /// Variables of the environment that BitBake takes.
    pub bb_env_passthrough_additions: Option<Vec<String>>,
    /// The name of the set-up's folder, with `$KEY` for choices.
    pub setup_dir_name: Option<String>,
    #[serde(rename = "install-buildtools")]
    _buildtools: Option<serde::de::IgnoredAny>,
    configurations: Vec<Self>,
}

/// A text, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

/// A fragment.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a text, or `name` and `description`")]
pub enum Named {
    /// Its name.
    Plain(String),
    /// Its name with a description.
    Described {
        /// Its name.
        name: String,
        /// For people.
        #[serde(default)]
        description: String,
    },
}

impl Named {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Plain(name) | Self::Described { name, .. } => name,
        }
    }

    /// What people are told of it.
    pub fn description(&self) -> &str {
        match self {
            Self::Plain(_) => "",
            Self::Described { description, .. } => description,
        }
    }
}

/// Fragments of which one is chosen.
#[derive(Clone, Debug, Deserialize)]
pub struct OneOf {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The fragments.
    pub options: Vec<Named>,
}

/// Where a repository comes from.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    /// Its folder below `layers`; none: its id.
    pub path: Option<String>,
    /// A git repository.
    #[serde(rename = "git-remote")]
    pub git: Option<GitRemote>,
    /// A folder of this machine.
    pub local: Option<LocalSource>,
    #[serde(default, rename = "contains_this_file")]
    _contains_this_file: Option<serde::de::IgnoredAny>,
}

/// A git repository.
#[derive(Clone, Debug, Deserialize)]
pub struct GitRemote {
    /// A commit, a branch or a tag.
    pub rev: String,
    /// The branch that it must be on.
    pub branch: Option<String>,
    uri: Option<String>,
    #[serde(default)]
    remotes: IndexMap<String, Remote>,
    #[serde(default, rename = "describe")]
    _describe: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
struct Remote {
    uri: String,
}

/// A folder of this machine.
#[derive(Clone, Debug, Deserialize)]
pub struct LocalSource {
    /// `~` is the caller's home; a relative one counts from the file.
    pub path: String,
}

impl GitRemote {
    /// Its address: of several, bitbake-setup records what the last one has.
    pub fn address(&self) -> Option<&str> {
        self.remotes.last().map(|(_, remote)| remote.uri.as_str()).or(self.uri.as_deref())
    }

    /// Addresses that are not asked.
    fn others(&self) -> usize {
        (self.remotes.len() + usize::from(self.uri.is_some())).saturating_sub(1)
    }
}

impl Document {
    /// Reads the text of a file. `today` is a day like `2026-11-30`.
    ///
    /// # Errors
    ///
    /// When it is not a configuration of version 1.0.
    pub fn read(file: &Path, text: &str, today: &str) -> Result<Self, SetupError> {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(name) = name.strip_suffix(ENDING) else { return Err(SetupError::Name(file.into())) };
        let wrong = |what: String| SetupError::Wrong { file: file.into(), what };
        let mut warnings = Vec::new();
        let read: File = told(text, &mut warnings).map_err(|error| SetupError::Json { file: file.into(), error })?;
        match read.version.as_deref() {
            Some("1.0") => {}
            Some(other) => return Err(wrong(format!("version {other} is not known, only 1.0"))),
            None => warnings.push("version is missing; it is read as 1.0".into()),
        }
        if let Some(day) = read.expires.filter(|day| day.as_str() < today) {
            warnings.push(format!("it has expired, on {day}"));
        }
        let mut configurations = IndexMap::new();
        for one in read.section.configurations {
            flatten(&Configuration::default(), one, &mut configurations).map_err(&wrong)?;
        }
        if configurations.is_empty() {
            return Err(wrong("bitbake-setup.configurations has none".into()));
        }
        let document = Self { name: name.into(), sources: read.sources, configurations, warnings };
        Ok(document)
    }

    /// Lays the sources of another file over those that there are: each as a whole.
    ///
    /// # Errors
    ///
    /// When it is no such file.
    pub fn lay_over(&mut self, file: &Path, text: &str) -> Result<(), SetupError> {
        #[derive(Deserialize)]
        struct Overrides {
            sources: Sources,
            #[serde(default, rename = "version")]
            _version: Option<serde::de::IgnoredAny>,
        }
        let mut warnings = Vec::new();
        let read: Overrides =
            told(text, &mut warnings).map_err(|error| SetupError::Json { file: file.into(), error })?;
        self.warnings.append(&mut warnings);
        let beside = file.parent().unwrap_or(Path::new("/"));
        for (id, mut source) in read.sources {
            let Some(known) = self.sources.get_mut(&id) else {
                self.warnings.push(format!("{}: there is no source {id}", file.display()));
                continue;
            };
            if let Some(path) = source.pointer_mut("/local/path")
                && let Some(text) = path.as_str().filter(|text| !text.starts_with(['/', '~']))
            {
                *path = beside.join(text).display().to_string().into();
            }
            *known = source;
        }
        Ok(())
    }

    /// The sources, read one by one; with them, what is left out.
    ///
    /// # Errors
    ///
    /// When one says neither where it is nor what, or both.
    pub fn all_sources(&self, file: &Path) -> Result<(ReadSources, Vec<String>), SetupError> {
        let wrong = |what: String| SetupError::Wrong { file: file.into(), what };
        let (mut all, mut warnings) = (Vec::new(), Vec::new());
        for (id, value) in &self.sources {
            let mut unknown = |path: serde_ignored::Path<'_>| warnings.push(no_effect(&format!("sources.{id}.{path}")));
            let source: Source = serde_ignored::deserialize(value, &mut unknown)
                .map_err(|error| wrong(format!("sources.{id}: {error}")))?;
            let folder = source.path.as_deref().unwrap_or(id);
            let leaves = folder.split('/').any(|part| part == ".." || part.is_empty());
            if leaves || folder.contains(['"', '\n', '\\', '$', ' ']) {
                return Err(wrong(format!("sources.{id}: `{folder}` cannot be its folder below layers")));
            }
            match (&source.git, &source.local) {
                (Some(_), Some(_)) => return Err(wrong(format!("source {id} has both git-remote and local"))),
                (Some(git), None) if git.address().is_none() => {
                    return Err(wrong(format!("sources.{id}.git-remote: `uri` or `remotes` is missing")));
                }
                (Some(git), None) if git.others() > 0 => {
                    let address = git.address().unwrap_or_default();
                    warnings.push(format!("sources.{id}: of several remotes, {address} is used, the last one"));
                }
                _ => {}
            }
            all.push((id.clone(), source));
        }
        Ok((all, warnings))
    }
}

/// Reads JSON; keys that are not known become warnings.
fn told<T: DeserializeOwned>(text: &str, warnings: &mut Vec<String>) -> Result<T, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_ignored::deserialize(&mut reader, |path| warnings.push(no_effect(&path.to_string())))?;
    reader.end().map(|()| value)
}

fn no_effect(key: &str) -> String {
    // serde_ignored writes a `?` for each optional value on the way.
    let key: Vec<&str> = key.split('.').filter(|part| *part != "?").collect();
    format!("{} is not known, and has no effect", key.join("."))
}

/// Adds the leaves below a configuration. What both it and its parent say is joined as Python joins it: lists one behind the other, and texts too.
fn flatten(
    parent: &Configuration,
    own: Configuration,
    leaves: &mut IndexMap<String, Configuration>,
) -> Result<(), String> {
    let children = own.configurations;
    let notes = match (parent.notes.clone(), own.notes) {
        (Some(OneOrMore::One(one)), Some(OneOrMore::One(other))) => Some(OneOrMore::One(one + &other)),
        (Some(OneOrMore::More(some)), Some(OneOrMore::More(more))) => {
            Some(OneOrMore::More(some.into_iter().chain(more).collect()))
        }
        (Some(_), Some(_)) => return Err("`notes` of nested configurations are a text here and a list there".into()),
        (one, other) => one.or(other),
    };
    let oe_fragments_one_of = match (parent.oe_fragments_one_of.clone(), own.oe_fragments_one_of) {
        (Some(_), Some(_)) => {
            return Err("nested configurations have oe-fragments-one-of each, and only one of them may".into());
        }
        (one, other) => one.or(other),
    };
    let own = Configuration {
        name: text(&parent.name, own.name),
        description: text(&parent.description, own.description),
        notes,
        bb_layers: list(&parent.bb_layers, own.bb_layers),
        bb_layers_file_relative: list(&parent.bb_layers_file_relative, own.bb_layers_file_relative),
        oe_template: text(&parent.oe_template, own.oe_template),
        oe_fragments: list(&parent.oe_fragments, own.oe_fragments),
        oe_fragments_one_of,
        bb_env_passthrough_additions: list(&parent.bb_env_passthrough_additions, own.bb_env_passthrough_additions),
        setup_dir_name: text(&parent.setup_dir_name, own.setup_dir_name),
        _buildtools: None,
        configurations: Vec::new(),
    };
    if !children.is_empty() {
        return children.into_iter().try_for_each(|child| flatten(&own, child, leaves));
    }
    let name = own.name.clone().ok_or("a configuration has no name")?;
    // Of two with one name, the last counts.
    leaves.shift_remove(&name);
    leaves.insert(name, own);
    Ok(())
}

fn text(parent: &Option<String>, own: Option<String>) -> Option<String> {
    match (parent, own) {
        (Some(parent), Some(own)) => Some(format!("{parent}{own}")),
        (parent, own) => own.or_else(|| parent.clone()),
    }
}

fn list<T: Clone>(parent: &Option<Vec<T>>, own: Option<Vec<T>>) -> Option<Vec<T>> {
    match (parent, own) {
        (Some(parent), Some(own)) => Some(parent.iter().cloned().chain(own).collect()),
        (parent, own) => own.or_else(|| parent.clone()),
    }
}
