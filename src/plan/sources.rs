//! Where layers and BitBake come from, with their pins.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    config::{self, GitSource, Layer, Source, SubmoduleKey, WithoutBranch},
    lock::{Asked, Lock, PatchPin, RepositoryPin},
    model::{BuildId, CommitId, RemoteCaller, SubmittedLayer, document_path, without_dots, without_secrets},
};

/// A repository with Yocto layers.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedLayer {
    /// As the config calls it.
    pub name: String,
    /// Where it comes from.
    #[serde(flatten)]
    pub source: PlannedSource,
    /// The layers in it to use, relative to its root; empty: all that are found.
    pub include: Vec<String>,
    /// The layers in it to leave out.
    pub exclude: Vec<String>,
    /// Whether they are used with a series that they do not name.
    pub ignore_series: bool,
    /// Whether it has layers at all.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub has_layers: bool,
    /// Where the build sees a git repository, beside its place in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<PathBuf>,
}

/// Where a repository comes from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedSource {
    /// A folder on this machine, which stays as it is.
    Path(PlannedPath),
    /// A git repository.
    Git(Box<PlannedGit>),
}

/// A folder on this machine.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedPath {
    /// Absolute.
    pub folder: PathBuf,
    /// As the config and the lock have it.
    pub written: String,
    /// Whether the lock names it. The commit there is a record, not a pin: a folder of the project's own repository changes with each commit.
    pub pinned: bool,
    /// The address in whose place the user's own file has it: the layer is being edited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<String>,
    /// What a client of the daemon has sent of it. Then it stands in the project's folder, without its repository.
    #[serde(skip)]
    pub sent: Option<SubmittedLayer>,
}

/// Something that a remote project names, and that its client has not sent.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// A path layer, or BitBake.
    #[error("the layer `{0}` is a folder of the client's machine, and was not sent")]
    Layer(String),
    /// A patch.
    #[error("the patch {0} is a file of the client's machine, and was not sent")]
    Patch(String),
}

/// Where the layers of remote projects stand, in the project's folder.
pub const SENT_LAYERS: &str = ".layers";

/// The folder of a layer that was sent.
pub fn sent_folder(project: &Path, name: &str) -> PathBuf {
    let file = match BuildId::is_valid_name(name) {
        true => name.to_owned(),
        false => hex::encode(Sha256::digest(name)),
    };
    project.join(SENT_LAYERS).join(file)
}

/// A git repository, and the wanted revision.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedGit {
    /// Its address.
    pub url: String,
    /// Other places with the same commits, tried in order after the first.
    pub mirrors: Vec<String>,
    /// The branch that is followed, or that `commit` or `tag` must be on.
    pub branch: Option<String>,
    /// The tag.
    pub tag: Option<String>,
    /// The very commit.
    pub commit: Option<CommitId>,
    /// Patches put on top, in order.
    pub patches: Vec<PlannedPatch>,
    /// Whether it may contain symbolic links that lead out of it.
    pub outside_links: bool,
    /// Which of its submodules are brought.
    pub submodules: Submodules,
    /// What is done where there is no such branch.
    #[serde(skip)]
    pub without_branch: WithoutBranch,
    /// The lock's pin; none: not resolved yet, or the config has changed.
    pub pinned: Option<RepositoryPin>,
}

/// Which submodules of a repository are brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Submodules {
    /// All that git would bring.
    All,
    /// None.
    None,
    /// Those in these folders, and no others.
    Listed(Vec<String>),
    /// Those that the layers in these folders may need; without a folder: the layers that are found.
    ForLayers(Vec<String>),
}

/// A patch on top of a repository.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedPatch {
    /// Absolute.
    #[serde(flatten, with = "document_path::file")]
    pub file: PathBuf,
    /// As the config and the lock have it.
    pub written: String,
    /// What it held when the build was submitted; none: the file counts.
    #[serde(skip)]
    pub submitted: Option<Vec<u8>>,
}

impl PlannedSource {
    /// Whether the lock has it.
    pub fn is_pinned(&self) -> bool {
        match self {
            Self::Path(path) => path.pinned,
            Self::Git(git) => git.pinned.is_some(),
        }
    }
}

impl PlannedGit {
    /// A commit of a repository, and nothing else about it.
    pub fn at_commit(url: &str, commit: &CommitId) -> Self {
        Self {
            url: url.into(),
            mirrors: Vec::new(),
            branch: None,
            tag: None,
            commit: Some(commit.clone()),
            patches: Vec::new(),
            outside_links: false,
            submodules: Submodules::All,
            without_branch: WithoutBranch::Fail,
            pinned: None,
        }
    }

    /// The request to the lock.
    pub fn asked(&self) -> Asked {
        Asked {
            // The lock is committed, so it must not hold passwords.
            git: Some(without_secrets(&self.url)),
            path: None,
            branch: self.branch.clone(),
            tag: self.tag.clone(),
            at: self.commit.clone(),
            patches: self.patches.iter().map(|patch| patch.written.clone()).collect(),
        }
    }

    /// The same with a branch or tag that may stand for the branch that is asked for.
    pub fn read_as(&self, branch: Option<&str>, tag: Option<&str>) -> Option<Self> {
        let (Some(asked), None, None) = (&self.branch, &self.tag, &self.commit) else { return None };
        match (self.without_branch, branch, tag) {
            (WithoutBranch::Continue, Some(branch), None) if continues(branch, asked) => {
                Some(Self { branch: Some(branch.into()), ..self.clone() })
            }
            (WithoutBranch::Tag, None, Some(tag)) if tag == asked => {
                Some(Self { branch: None, tag: Some(tag.into()), ..self.clone() })
            }
            _ => None,
        }
    }

    /// What the lock says of it, once its commit is known.
    pub fn pinned_to(&self, name: &str, commit: CommitId, patches: Vec<PatchPin>) -> RepositoryPin {
        RepositoryPin {
            name: name.into(),
            git: self.asked().git,
            path: None,
            branch: self.branch.clone(),
            tag: self.tag.clone(),
            exact: self.commit.is_some(),
            commit: Some(commit),
            dirty: false,
            patches,
        }
    }

    /// The wanted revision, for display: the most exact that the config names.
    pub fn wanted(&self) -> String {
        let commit = self.commit.as_ref().map(ToString::to_string);
        commit.or_else(|| self.tag.clone()).or_else(|| self.branch.clone()).unwrap_or_else(|| "HEAD".into())
    }
}

/// What decides where sources are.
pub(super) struct Places<'a> {
    /// The project's.
    pub lock: Option<&'a Lock>,
    /// Where a path of the config is.
    pub place: &'a dyn Fn(&str) -> PathBuf,
    /// The config's folder.
    pub project: &'a Path,
    /// The folder in which repositories of another tool's project stand.
    pub work: Option<PathBuf>,
    /// The client that has sent the project.
    pub remote: Option<&'a RemoteCaller>,
}

impl Places<'_> {
    /// A layer.
    pub(super) fn layer(&self, layer: &Layer) -> Result<PlannedLayer, NotSent> {
        let include = texts(&layer.include);
        Ok(PlannedLayer {
            name: layer.name.text.clone(),
            source: self.source(&layer.name, &layer.source, Submodules::ForLayers(include.clone()))?,
            include,
            exclude: texts(&layer.exclude),
            ignore_series: layer.ignore_series,
            has_layers: layer.has_layers,
            at: self.work.as_ref().zip(layer.at.as_ref()).map(|(work, at)| without_dots(&work.join(&at.text))),
        })
    }

    /// A source. `usual` are its submodules where the config names none.
    pub(super) fn source(&self, name: &str, source: &Source, usual: Submodules) -> Result<PlannedSource, NotSent> {
        Ok(match source {
            Source::Path(path) => PlannedSource::Path(self.folder(name, path)?),
            Source::Git(git) => PlannedSource::Git(Box::new(self.git(name, git, usual))),
        })
    }

    fn folder(&self, name: &str, path: &str) -> Result<PlannedPath, NotSent> {
        let sent = |remote: &RemoteCaller| {
            let found = remote.layers.iter().find(|layer| layer.name == name).cloned();
            found.ok_or_else(|| NotSent::Layer(name.into()))
        };
        let sent = self.remote.map(sent).transpose()?;
        let folder = if sent.is_some() { sent_folder(self.project, name) } else { (self.place)(path) };
        let pinned = self.lock.is_some_and(|lock| lock.repository(name, &Asked::folder(path)).is_some());
        Ok(PlannedPath { folder, written: path.into(), pinned, instead_of: None, sent })
    }

    fn git(&self, name: &str, git: &GitSource, usual: Submodules) -> PlannedGit {
        let Self { lock, place, .. } = self;
        let text = |text: &Option<config::Text>| text.as_ref().map(|text| text.text.clone());
        let patch =
            |text: &config::Text| PlannedPatch { file: place(text), written: text.text.clone(), submitted: None };
        let mut planned = PlannedGit {
            url: git.url.text.clone(),
            mirrors: texts(&git.mirrors),
            branch: text(&git.branch),
            tag: text(&git.tag),
            commit: git.commit.clone(),
            patches: git.patches.iter().map(patch).collect(),
            outside_links: git.outside_links,
            submodules: submodules(git).unwrap_or(usual),
            without_branch: git.without_branch,
            pinned: None,
        };
        // What was found out once stands in the lock.
        let pinned = lock.iter().flat_map(|lock| lock.repositories()).filter(|pin| pin.name == name);
        let read = pinned.filter_map(|pin| planned.read_as(pin.branch.as_deref(), pin.tag.as_deref()));
        let is_locked = |one: &PlannedGit| lock.is_some_and(|lock| lock.repository(name, &one.asked()).is_some());
        if let Some(read) = read.into_iter().find(is_locked) {
            planned = read;
        }
        planned.pinned = lock.and_then(|lock| lock.repository(name, &planned.asked())).cloned();
        planned
    }
}

/// Whether a branch is another one with something behind a dash.
pub fn continues(branch: &str, begin: &str) -> bool {
    branch.strip_prefix(begin).is_some_and(|rest| rest.starts_with('-'))
}

fn submodules(git: &GitSource) -> Option<Submodules> {
    Some(match git.submodules.as_ref()? {
        SubmoduleKey::Flag(true) => Submodules::All,
        SubmoduleKey::Flag(false) => Submodules::None,
        SubmoduleKey::Listed(folders) => Submodules::Listed(texts(folders)),
    })
}

/// The folders of this machine among all sources.
pub(super) fn local(layers: &[PlannedLayer], bitbake: Option<&PlannedSource>) -> Vec<PathBuf> {
    let sources = layers.iter().map(|layer| &layer.source).chain(bitbake);
    let folder = |source: &PlannedSource| match source {
        PlannedSource::Path(path) => Some(path.folder.clone()),
        PlannedSource::Git(_) => None,
    };
    sources.filter_map(folder).collect()
}

/// For display: its origin and its pin.
pub fn describe(source: &PlannedSource) -> String {
    match source {
        PlannedSource::Path(path) => match &path.instead_of {
            None => show(&path.folder),
            Some(url) => format!("{}, edited here instead of {url}", show(&path.folder)),
        },
        PlannedSource::Git(git) => {
            let pinned = git.pinned.as_ref().and_then(|lock| lock.commit.as_ref());
            let pinned = pinned.map_or_else(|| "unresolved".into(), CommitId::short);
            format!("{} {}, {pinned}", git.url, git.wanted())
        }
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn texts(texts: &[config::Text]) -> Vec<String> {
    texts.iter().map(|text| text.text.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{BuildRequest, Digest, FileContent, Paths, SystemFacts},
        plan::{Domain, Plan, asks, make},
    };

    #[test]
    fn a_remote_project_names_nothing_of_this_machine() {
        let text = "name: x\nbase: {machine: m}\nbuild: {image: i}\nbitbake: {path: ~/bb}\nlayers:\n- {name: l, path: /srv/l}\n\
            - {name: a/b, path: ../b}\n- {name: g, git: 'https://h/g', branch: b, patches: [~/x.patch]}\n\
            directories: {tmp: ./tmp, downloads: ~/.smidr/downloads}\nhost: {env: [DAEMONS, SENT], netrc: true}\n";
        let config = config::read("smidr.yaml", text, None, &|_| None).expect("a good config");
        let layer = |name: &str| SubmittedLayer {
            name: name.into(),
            digest: Digest::from_sha256([1; 32]),
            size: 1,
            commit: None,
            dirty: false,
        };
        let facts = |layers: &[&str]| SystemFacts {
            environment: vec![("DAEMONS".into(), "x".into())],
            remote: Some(RemoteCaller {
                customer: "acme".into(),
                caches: None,
                variables: [("SENT".to_owned(), "x".to_owned())].into(),
                layers: layers.iter().map(|name| layer(name)).collect(),
            }),
            ..SystemFacts::of_an_ordinary_user()
        };
        let paths = Paths::new("/home/u/.smidr".into());
        let file = Path::new("/home/u/.smidr/projects/acme/x/smidr.yaml");
        let plan = |layers: &[&str]| {
            let domain = Domain::wanted(None, Some("customer.acme"));
            make(&config, None, &facts(layers), &paths, file, &BuildRequest::default(), &domain)
        };
        assert!(plan(&["l", "bitbake"]).expect_err("no layer").to_string().contains("the layer `a/b`"));
        let mut plan = plan(&["l", "a/b", "bitbake"]).expect("a plan");
        let folders = local(&plan.layers, plan.bitbake.as_ref());
        assert_eq!(folders[0], file.with_file_name(".layers/l"));
        assert_eq!(folders[2], file.with_file_name(".layers/bitbake"));
        // No layer's name is a path.
        assert!(
            folders[1].parent() == folders[0].parent() && folders[1].file_name().is_some_and(|name| name.len() == 64)
        );
        assert_eq!(plan.folders.tmp, file.with_file_name("tmp"));
        assert!(plan.folders.downloads.starts_with("/home/u/.smidr/domains/customer.acme"));
        assert!(plan.inputs.iter().all(|input| input.source.as_deref() == Some(Path::new("/nonexistent/.netrc"))));
        let value = |name: &str| plan.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!((value("DAEMONS"), value("SENT")), (None, Some("x")));
        let asks = |plan: &Plan| {
            serde_json::to_string(&asks(&config, plan, &plan.project, &|path| path.into())).expect("JSON")
        };
        assert!(asks(&plan).contains("a patch of"), "{}", asks(&plan));
        assert!(!asks(&plan).contains("shared_cache") && !asks(&plan).contains("the layer l"), "{}", asks(&plan));
        assert!(plan.has_all_patches().expect_err("no patch").to_string().contains("~/x.patch"));
        let patch = FileContent { path: "~/x.patch".into(), content: b"x".to_vec(), executable: false };
        plan.take_submitted(&[patch], None);
        plan.has_all_patches().expect("all are there");
        assert!(!asks(&plan).contains("a patch of"), "{}", asks(&plan));
    }

    #[test]
    fn a_lock_has_no_passwords() {
        let text = "name: x\nbase: {machine: m}\nbuild: {image: i}\nlayers:\n\
            - {name: l, git: 'https://me:${TOKEN}@host/l', branch: b}\n";
        let lookup = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
        let config = config::read("smidr.yaml", text, None, &lookup).expect("a good config");
        let place = |text: &str| PathBuf::from(text);
        let places = Places { lock: None, place: &place, project: Path::new("/p"), work: None, remote: None };
        let layer = places.layer(&config.layers[0]).expect("a layer");
        let PlannedSource::Git(git) = layer.source else { panic!("it is from git") };
        assert_eq!(git.url, "https://me:hunter2@host/l");
        assert_eq!(git.asked().git.as_deref(), Some("https://host/l"));
    }
}
