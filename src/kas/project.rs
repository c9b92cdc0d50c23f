//! What merged kas files mean: which repositories at which revisions, which layers in which order, and what BitBake is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    merge::{KasError, Merged},
    schema,
    yaml::{Key, Node, Scalar, Value},
};
use crate::model::{CommitId, without_dots};

/// What stands around the files: folders, and what the caller asks for in place of them.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// kas's work folder, in which repositories and the build folder lie.
    pub work: PathBuf,
    /// TOPDIR.
    pub build: PathBuf,
    /// The root of the repository of the first file, or that file's folder.
    pub top: PathBuf,
    /// MACHINE (KAS_MACHINE).
    pub machine: Option<String>,
    /// DISTRO (KAS_DISTRO).
    pub distro: Option<String>,
    /// Targets (KAS_TARGET).
    pub targets: Vec<String>,
    /// Task (KAS_TASK).
    pub task: Option<String>,
}

/// A kas project.
#[derive(Clone, Debug)]
pub struct Kas {
    /// MACHINE, weakly.
    pub machine: String,
    /// DISTRO, weakly.
    pub distro: String,
    /// BitBake's targets.
    pub targets: Vec<String>,
    /// The task of each.
    pub task: String,
    /// Variables of BitBake's environment; a value counts where the caller has none.
    pub env: Vec<(String, Option<String>)>,
    /// Repositories, in the order of the files.
    pub repositories: Vec<Repository>,
    /// Texts for `local.conf` and `bblayers.conf`, in their order, with what stands in the comment above each.
    pub local_conf: Vec<(String, String)>,
    /// Likewise.
    pub bblayers_conf: Vec<(String, String)>,
    /// Patterns below TOPDIR.
    pub artifacts: Vec<String>,
    /// For the user.
    pub warnings: Vec<String>,
}

/// A repository.
#[derive(Clone, Debug, PartialEq)]
pub struct Repository {
    /// As the files call it.
    pub id: String,
    /// Its name: the folder below the work folder, and where its layers stand among others.
    pub name: String,
    /// Its address; none: a folder of this machine.
    pub url: Option<String>,
    /// Its folder, absolute.
    pub folder: PathBuf,
    /// What is wanted of it.
    pub revision: Revision,
    /// Its layers with their priorities, as written.
    pub layers: Vec<(String, i128)>,
    /// Patches, in their order.
    pub patches: Vec<Patch>,
}

/// What is wanted of a git repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// A commit.
    pub commit: Option<String>,
    /// A branch, which the commit must be on.
    pub branch: Option<String>,
    /// A tag, which must be the commit.
    pub tag: Option<String>,
    /// A branch, tag or commit.
    pub refspec: Option<String>,
}

/// A patch, or a folder of them with a file `series`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// As the files call it.
    pub id: String,
    /// The repository that has it.
    pub repository: String,
    /// Where in it.
    pub path: String,
}

impl Kas {
    /// What the merged files mean.
    ///
    /// # Errors
    ///
    /// The first thing that means nothing, or that smidr does not do.
    pub fn of(merged: &Merged, around: &Around) -> Result<Self, KasError> {
        let config = &merged.config;
        let text = |key: &str| config.get(key).and_then(Node::as_text).map(str::to_owned);
        let refuse = |key: &str, title: &str, hint: Option<&str>| match config.get(key) {
            Some(node) => Err(merged.wrong(&node.place, title, hint.map(str::to_owned))),
            None => Ok(()),
        };
        if text("build_system").is_some_and(|system| system.starts_with("isar")) {
            refuse("build_system", "smidr builds with OpenEmbedded, not with isar", Some("build this one with kas"))?;
        }
        let mut warnings = merged.warnings.clone();
        for (key, what) in [
            ("proxy_config", "proxies come from your environment"),
            ("buildtools", "smidr's build host takes their place"),
            ("menu_configuration", "it only records what kas menu chose"),
            ("signers", "nothing is verified with them"),
        ] {
            if config.get(key).is_some() {
                warnings.push(format!("{key} has no effect: {what}"));
            }
        }
        let target = config.get("target");
        let targets = match target.map(|node| &node.value) {
            _ if !around.targets.is_empty() => around.targets.clone(),
            Some(Value::List(items)) => items.iter().filter_map(Node::as_text).map(str::to_owned).collect(),
            _ => vec![text("target").unwrap_or_else(|| "core-image-minimal".into())],
        };
        let repositories = repositories(merged, around, &mut warnings)?;
        let entries = |key: &str| config.get(key).map(Node::entries).unwrap_or_default();
        let env = entries("env").iter().map(|(key, node)| (key.scalar.to_string(), node.as_text().map(str::to_owned)));
        Ok(Self {
            machine: around.machine.clone().or_else(|| text("machine")).unwrap_or_else(|| "qemux86-64".into()),
            distro: around.distro.clone().or_else(|| text("distro")).unwrap_or_else(|| "nodistro".into()),
            targets,
            task: around.task.clone().or_else(|| text("task")).unwrap_or_else(|| "build".into()),
            env: env.collect(),
            repositories,
            local_conf: header(merged, entries("local_conf_header"), &mut warnings)?,
            bblayers_conf: header(merged, entries("bblayers_conf_header"), &mut warnings)?,
            artifacts: entries("artifacts").iter().filter_map(|(_, node)| node.as_text()).map(str::to_owned).collect(),
            warnings,
        })
    }

    /// A project of some repositories, which is never built.
    pub fn of_repositories(repositories: Vec<Repository>) -> Self {
        let text = |text: &str| text.to_owned();
        Self {
            machine: text("unknown"),
            distro: text("nodistro"),
            targets: vec![text("unknown")],
            task: text("build"),
            env: Vec::new(),
            repositories,
            local_conf: Vec::new(),
            bblayers_conf: Vec::new(),
            artifacts: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// BBLAYERS: the folders of all layers, the highest priority first, then by the names of repositories and layers.
    pub fn layers(&self) -> Vec<PathBuf> {
        let mut all: Vec<(i128, &str, &str, PathBuf)> = Vec::new();
        for repository in &self.repositories {
            for (layer, priority) in &repository.layers {
                all.push((-priority, &repository.name, layer, without_dots(&repository.folder.join(layer))));
            }
        }
        all.sort();
        all.into_iter().map(|(.., folder)| folder).collect()
    }

    /// BBMULTICONFIG: those that targets name, each once.
    pub fn multiconfigs(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for target in &self.targets {
            let mut parts = target.split(':');
            if let (Some("mc" | "multiconfig"), Some(name)) = (parts.next(), parts.next())
                && !all.contains(&name)
            {
                all.push(name);
            }
        }
        all
    }
}

/// Texts of a conf header, sorted by their keys: by number, or by text.
fn header(
    merged: &Merged,
    entries: &[(Key, Node)],
    warnings: &mut Vec<String>,
) -> Result<Vec<(String, String)>, KasError> {
    for (key, node) in entries {
        let name = key.scalar.to_string();
        if name.contains(['\n', '\r', '\0']) {
            return Err(merged.wrong(
                &key.place,
                "a line break in this key would end the comment that it becomes",
                None,
            ));
        }
        // Several lines without `|` are one.
        let source = merged.files.get(node.place.file).and_then(|file| file.text.get(node.place.span.clone()));
        let is_plain =
            source.is_some_and(|text| !text.starts_with(['|', '>', '"', '\'']) && text.trim_end().contains('\n'));
        if is_plain && node.as_text().is_some_and(|text| !text.contains('\n')) {
            warnings
                .push(format!("the lines of {name} become one line of conf: a `|` behind the colon keeps them apart"));
        }
    }
    let mut sorted: Vec<_> = entries.iter().collect();
    sort(merged, &mut sorted)?;
    Ok(sorted
        .into_iter()
        .map(|(key, node)| (key.scalar.to_string(), node.as_text().unwrap_or_default().to_owned()))
        .collect())
}

/// Sorts entries by their keys, as Python does: numbers among themselves, or texts among themselves.
fn sort(merged: &Merged, entries: &mut [&(Key, Node)]) -> Result<(), KasError> {
    let number = |key: &Key| match &key.scalar {
        Scalar::Int(number) => Some(*number),
        Scalar::Bool(truth) => Some(i128::from(*truth)),
        _ => None,
    };
    let (numbers, texts): (Vec<_>, Vec<_>) = entries.iter().map(|(key, _)| key).partition(|key| number(key).is_some());
    if let (Some(number), Some(text)) = (numbers.first(), texts.first()) {
        let title =
            format!("the keys {} and {} have no order: one is a number, the other is text", number.scalar, text.scalar);
        let hint = "`08` and `09` are text in YAML 1.1, and `07` is a number: put all of them in quotes";
        return Err(merged.wrong(&text.place, title, Some(hint.into())));
    }
    entries.sort_by(|(one, _), (other, _)| match (number(one), number(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => one.scalar.to_string().cmp(&other.scalar.to_string()),
    });
    Ok(())
}

/// The repositories of merged files.
///
/// # Errors
///
/// The first one that means nothing.
pub fn repositories(merged: &Merged, around: &Around, warnings: &mut Vec<String>) -> Result<Vec<Repository>, KasError> {
    let config = &merged.config;
    let defaults = config.get("defaults").and_then(|defaults| defaults.get("repos"));
    let overrides = config.get("overrides").and_then(|overrides| overrides.get("repos"));
    let all = config.get("repos").map(Node::entries).unwrap_or_default();
    let ids: BTreeSet<String> = all.iter().map(|(key, _)| key.scalar.to_string()).collect();
    let mut repositories = Vec::new();
    for (key, node) in all {
        let over =
            overrides.and_then(|overrides| overrides.entries().iter().find(|(id, _)| id == key)).map(|(_, node)| node);
        let reader = Reader { merged, around, defaults, over, key, node };
        repositories.push(reader.read(&ids, warnings)?);
    }
    let mut folders = BTreeMap::new();
    for (repository, (key, _)) in repositories.iter().zip(all).filter(|(repository, _)| repository.url.is_some()) {
        if let Some(other) = folders.insert(repository.folder.clone(), repository.id.clone()) {
            let title =
                format!("{} and {other} lie in the same folder, {}", repository.id, repository.folder.display());
            return Err(merged.wrong(&key.place, title, Some("give one of them another `name` or `path`".into())));
        }
    }
    Ok(repositories)
}

struct Reader<'a> {
    merged: &'a Merged,
    around: &'a Around,
    defaults: Option<&'a Node>,
    over: Option<&'a Node>,
    key: &'a Key,
    node: &'a Node,
}

impl Reader<'_> {
    fn read(&self, ids: &BTreeSet<String>, warnings: &mut Vec<String>) -> Result<Repository, KasError> {
        let Self { node, around, .. } = self;
        let id = self.key.scalar.to_string();
        let text = |key: &str| node.get(key).and_then(Node::as_text).map(str::to_owned);
        let name = text("name").unwrap_or_else(|| id.clone());
        let url = self.over.and_then(|over| over.get("url")).and_then(Node::as_text).map(str::to_owned);
        let url = url.filter(|_| text("url").is_some()).or_else(|| text("url"));
        let folder = match (text("path"), &url) {
            (Some(path), _) => without_dots(&around.work.join(path)),
            (None, Some(_)) => without_dots(&around.work.join(&name)),
            (None, None) => around.top.clone(),
        };
        if name.contains(['\n', '\r', '\0', '"']) || name.is_empty() {
            return Err(self.wrong("name", "this cannot be the name of a repository", None));
        }
        if text("type").as_deref() == Some("hg") {
            return Err(self.wrong("type", "smidr knows git, not Mercurial", Some("a git mirror of it would do")));
        }
        if matches!(node.get("signed").map(|node| &node.value), Some(Value::Scalar(Scalar::Bool(true)))) {
            let hint = "pin a commit that you have verified, and leave `signed` out";
            return Err(self.wrong("signed", "smidr verifies no signatures", Some(hint)));
        }
        let revision = match &url {
            Some(_) => self.revision(&name, warnings)?,
            None => Revision::default(),
        };
        if url.is_some() && (!folder.starts_with(&around.work) || folder == around.work) {
            let title = format!("the repository {id} would lie in {}, outside of the work folder", folder.display());
            return Err(self.wrong("path", title, Some("a `path` below it, or none")));
        }
        if url.is_some() && (around.build.starts_with(&folder) || folder.starts_with(&around.build)) {
            let title = format!("the repository {id} and the build folder {} hold one another", around.build.display());
            return Err(self.wrong("path", title, None));
        }
        Ok(Repository {
            layers: self.layers(&id, warnings)?,
            patches: self.patches(ids)?,
            id,
            name,
            url,
            folder,
            revision,
        })
    }

    fn wrong(&self, key: &str, title: impl Into<String>, hint: Option<&str>) -> KasError {
        let place = self.node.get(key).map_or(&self.key.place, |node| &node.place);
        self.merged.wrong(place, title, hint.map(str::to_owned))
    }

    fn revision(&self, name: &str, warnings: &mut Vec<String>) -> Result<Revision, KasError> {
        let value = |key: &str| {
            let own = self.node.get(key).or_else(|| self.defaults.and_then(|defaults| defaults.get(key)));
            own.and_then(Node::as_text).map(str::to_owned)
        };
        let mut revision = Revision {
            commit: self.node.get("commit").and_then(Node::as_text).map(str::to_owned),
            branch: value("branch"),
            tag: value("tag"),
            refspec: value("refspec"),
        };
        if revision == Revision::default() {
            let title = format!("{name} has an address, and neither commit, branch nor tag");
            return Err(self.wrong(
                "url",
                title,
                Some("add `branch:` or `commit:`; `defaults: {repos: {branch: …}}` names one for all"),
            ));
        }
        if revision.refspec.is_some()
            && (revision.commit.is_some() || revision.branch.is_some() || revision.tag.is_some())
        {
            let title = format!("{name} has `refspec` beside commit, branch or tag, of its own or of `defaults`");
            return Err(self.wrong("refspec", title, Some("write `branch:` or `commit:` instead of `refspec:`")));
        }
        if let Some(over) = self.over {
            let of = |key: &str| over.get(key).map(|node| node.as_text().map(str::to_owned));
            if revision.refspec.is_some() {
                if let Some(Some(commit)) = of("commit") {
                    revision = Revision { commit: Some(commit), ..Revision::default() };
                }
            } else {
                revision.commit = of("commit").unwrap_or(revision.commit);
                revision.branch = of("branch").unwrap_or(revision.branch);
            }
        }
        if revision.tag.is_some() && revision.branch.is_some() {
            let title = format!("{name} has both a tag and a branch");
            return Err(self.wrong(
                "tag",
                title,
                Some("one of them goes; `branch:` with nothing behind it takes back a default"),
            ));
        }
        for (text, what) in [(&mut revision.branch, "heads"), (&mut revision.tag, "tags")] {
            if let Some(text) = text {
                *text = text.strip_prefix(&format!("refs/{what}/")).unwrap_or(text).to_owned();
            }
        }
        // What git calls a branch of a clone's origin was once common; the branch is meant.
        if let Some(refspec) = &mut revision.refspec {
            if let Some(branch) =
                refspec.strip_prefix("refs/remotes/origin/").or_else(|| refspec.strip_prefix("origin/"))
            {
                revision = Revision { branch: Some(branch.to_owned()), ..Revision::default() };
            } else if refspec.parse::<CommitId>().is_ok() {
                revision = Revision { commit: revision.refspec.take(), ..Revision::default() };
            } else if let Some(branch) = refspec.strip_prefix("refs/heads/") {
                revision = Revision { branch: Some(branch.to_owned()), ..Revision::default() };
            } else if let Some(tag) = refspec.strip_prefix("refs/tags/") {
                revision = Revision { tag: Some(tag.to_owned()), ..Revision::default() };
            }
        }
        for part in [&revision.commit, &revision.branch, &revision.tag, &revision.refspec].into_iter().flatten() {
            let plain = |c: char| c.is_ascii_graphic() && !"~^:?*[\\".contains(c);
            if part.is_empty() || part.starts_with('-') || !part.chars().all(plain) || part.contains("..") {
                return Err(self.wrong("branch", format!("`{part}` names no revision of {name}"), None));
            }
        }
        if revision.commit.is_none() {
            warnings.push(match &revision.tag {
                Some(tag) => format!("{name} is at the tag {tag}, which can be moved; smidr.lock pins its commit"),
                None => format!("{name} follows a branch; smidr's lock pins its commit"),
            });
        }
        Ok(revision)
    }

    fn layers(&self, id: &str, warnings: &mut Vec<String>) -> Result<Vec<(String, i128)>, KasError> {
        let Some(layers) = self.node.get("layers") else { return Ok(vec![(".".into(), 0)]) };
        let mut all = Vec::new();
        for (key, node) in layers.entries() {
            let name = key.scalar.to_string();
            match schema::is_disabled(node) {
                Some(is_old) => {
                    if is_old {
                        warnings.push(format!("{id}: write `{name}: disabled`, for what stands there is deprecated"));
                    }
                    continue;
                }
                None if name.contains(['\n', '\r', '\0', '"']) => {
                    return Err(self.merged.wrong(&key.place, "this cannot be the folder of a layer", None));
                }
                None => {}
            }
            let priority = match node.get("prio").map(|node| &node.value) {
                Some(Value::Scalar(Scalar::Int(priority))) => *priority,
                _ => 0,
            };
            all.push((name, priority));
        }
        Ok(all)
    }

    fn patches(&self, ids: &BTreeSet<String>) -> Result<Vec<Patch>, KasError> {
        let usual = self.defaults.and_then(|defaults| defaults.get("patches")).and_then(|patches| patches.get("repo"));
        let entries = self.node.get("patches").map(Node::entries).unwrap_or_default();
        let mut sorted: Vec<_> = entries.iter().filter(|(_, node)| !node.is_null()).collect();
        sort(self.merged, &mut sorted)?;
        let mut patches = Vec::new();
        for (key, node) in sorted {
            let repository = node.get("repo").or(usual).and_then(Node::as_text);
            let path = node.get("path").and_then(Node::as_text).unwrap_or_default();
            let wrong =
                |title: String, hint: Option<&str>| self.merged.wrong(&key.place, title, hint.map(str::to_owned));
            let Some(repository) = repository else {
                return Err(wrong(
                    format!("the patch {} names no repository that has it", key.scalar),
                    Some("add `repo: ID`"),
                ));
            };
            if !ids.contains(repository) {
                return Err(wrong(
                    format!("the patch {} lies in {repository}, which is no repository of this project", key.scalar),
                    None,
                ));
            }
            if Path::new(path).is_absolute() || !without_dots(&Path::new("/x").join(path)).starts_with("/x") {
                return Err(wrong(format!("the patch {} lies outside of {repository}", key.scalar), None));
            }
            patches.push(Patch {
                id: key.scalar.to_string(),
                repository: repository.to_owned(),
                path: path.to_owned(),
            });
        }
        Ok(patches)
    }
}
