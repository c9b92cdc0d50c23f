//! A kas project as a project: its files are read as far as their repositories are here, and become the text of a smidr.yaml.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{Project, ProjectError, Sources, read_lock};
use crate::{
    kas::{self, Around, Asked, Files, Found, Kas, KasError, Merged, Node, Repository, Revision},
    layers::{self, Store},
    lock::{Lock, lock_path},
    model::{BuildRequest, FileContent, SystemFacts},
    plan::Domain,
    system::{
        files::{FileError, read_bounded},
        paths,
    },
};

/// The files of a kas project, and what stands around them.
#[derive(Clone, Debug)]
pub(crate) struct KasFiles {
    /// Absolute. The first one names the project.
    pub files: Vec<PathBuf>,
    /// Folders and wishes.
    pub around: Around,
    /// Whether lock files count.
    pub locks: bool,
    /// Whether repositories with an address are taken from there, also where their folders are there.
    pub apart: bool,
    /// Whether what smidr's own lock pins is asked for anew.
    pub forget: bool,
    /// The smidr.yaml that names the files, and its other keys.
    beside: Option<(PathBuf, Node)>,
    /// Variables that are set for kas, and that smidr does not read, with the reason.
    unread: Vec<(&'static str, &'static str)>,
    /// Lines `REGEX REPLACEMENT` (KAS_PREMIRRORS).
    premirrors: Vec<(regex::Regex, String)>,
}

/// A kas project, as far as it can be read.
pub(crate) enum KasRead {
    /// All of it.
    Whole(Box<WholeKas>),
    /// Some repositories are needed first: this is a project of them alone.
    Wants(Box<Sources>),
}

/// A kas project that was read whole.
pub(crate) struct WholeKas {
    /// What its files say.
    pub merged: Merged,
    /// What that means.
    pub kas: Kas,
    /// The patches of each repository, by its id.
    pub patches: BTreeMap<String, Vec<PathBuf>>,
    /// As a project of smidr's.
    pub sources: Sources,
}

struct Disk;

impl Files for Disk {
    fn real(&self, path: &Path) -> Option<PathBuf> {
        fs::canonicalize(path).ok()
    }

    fn text(&self, path: &Path) -> io::Result<String> {
        let bytes = read_bounded(path)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Whether a path names kas files: several, or one with a kas header.
pub(crate) fn is_kas(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    let is_file = |part: &str| {
        [".yml", ".yaml", ".json"].iter().any(|ending| part.ends_with(ending)) && !part.ends_with(".conf.json")
    };
    if text.contains(':') && !path.exists() {
        return text.split(':').all(is_file);
    }
    is_file(text) && Disk.text(path).is_ok_and(|text| kas::named_by(&text).is_some() || kas::has_header(&text))
}

/// The kas file of a folder, by its usual names, or the only one that there is.
pub(crate) fn kas_file_in(folder: &Path) -> Option<PathBuf> {
    let usual = ["kas.yml", "kas-project.yml", "kas.yaml", ".config.yaml"].map(|name| folder.join(name));
    if let Some(found) = usual.iter().find(|file| is_kas(file)) {
        return found.file_name().map(PathBuf::from);
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_lock = |file: &Path| file.to_string_lossy().contains(".lock.");
    let mut all = entries.take(1000).filter(|file| file.is_file() && is_kas(file) && !is_lock(file));
    match (all.next(), all.next()) {
        (Some(one), None) => one.file_name().map(PathBuf::from),
        _ => None,
    }
}

impl KasFiles {
    /// The files that a path names, separated by colons.
    ///
    /// # Errors
    ///
    /// When they do not lie in one repository.
    pub(crate) fn of(path: &Path, facts: &SystemFacts) -> Result<Self, ProjectError> {
        let here = |path: &Path| std::path::absolute(path).map_err(FileError::new("find", path));
        let beside = Disk.text(path).ok().and_then(|text| kas::named_by(&text));
        let (named, folder, beside) = match beside {
            None => (path.to_string_lossy().into_owned(), PathBuf::new(), None),
            Some((named, keys)) => {
                let file = fs::canonicalize(path).map_err(FileError::new("find", path))?;
                (named, file.parent().map(Path::to_path_buf).unwrap_or_default(), Some((file, keys)))
            }
        };
        let files = named.split(':').map(|file| here(&folder.join(file))).collect::<Result<Vec<_>, _>>()?;
        let mut tops = BTreeSet::new();
        for file in &files {
            let folder = fs::canonicalize(file).map_err(|_| KasError::NotFound(file.clone()))?;
            tops.insert(root_of(folder.parent().unwrap_or(Path::new("/")), &facts.home));
        }
        let first = files.first().cloned().unwrap_or_default();
        if let (Some(other), true) = (files.get(1), tops.len() > 1) {
            return Err(KasError::Apart(first, other.clone()).into());
        }
        let folder_of_first =
            first.parent().and_then(|folder| fs::canonicalize(folder).ok()).unwrap_or_else(|| "/".into());
        let variable = |name: &str| facts.variable(name).filter(|value| !value.is_empty());
        // A smidr.yaml says where its project is, wherever the command is typed.
        let usual = if folder.as_os_str().is_empty() { ".".into() } else { folder };
        let work = here(&variable("KAS_WORK_DIR").map_or(usual, PathBuf::from))?;
        let work = fs::canonicalize(&work).unwrap_or(work);
        // One in the work folder says what kas has no words for, such as the build host.
        let beside = beside.or_else(|| {
            let file = work.join("smidr.yaml");
            let (_, keys) = kas::named_by(&Disk.text(&file).ok()?)?;
            Some((file, keys))
        });
        let build = match variable("KAS_BUILD_DIR") {
            Some(build) => crate::model::without_dots(&here(Path::new(&build))?),
            None => work.join("build"),
        };
        let around = Around {
            build,
            top: tops.pop_first().flatten().unwrap_or(folder_of_first),
            machine: variable("KAS_MACHINE"),
            distro: variable("KAS_DISTRO"),
            targets: variable("KAS_TARGET").iter().flat_map(|all| all.split_whitespace()).map(str::to_owned).collect(),
            task: variable("KAS_TASK"),
            work,
        };
        Ok(Self {
            files,
            around,
            locks: true,
            apart: false,
            forget: false,
            beside,
            unread: UNREAD.into_iter().filter(|(name, _)| variable(name).is_some()).collect(),
            premirrors: premirrors(variable("KAS_PREMIRRORS")),
        })
    }

    /// The config that names the project.
    pub(crate) fn config(&self) -> PathBuf {
        if let Some((file, _)) = &self.beside {
            return file.clone();
        }
        self.files.first().map(|file| fs::canonicalize(file).unwrap_or_else(|_| file.clone())).unwrap_or_default()
    }

    /// Reads the files, with what is here of their repositories.
    ///
    /// # Errors
    ///
    /// When one is wrong, or names what there is not.
    pub(crate) fn read(&self, facts: &SystemFacts) -> Result<KasRead, ProjectError> {
        let lock_text = if self.forget { None } else { read_lock(&lock_path(&self.config()))? };
        let lock = lock_text.as_deref().map(Lock::parse).transpose()?;
        let mut folders = BTreeMap::new();
        loop {
            let asked = Asked { files: &self.files, top: &self.around.top, folders: &folders, locks: self.locks };
            let mut merged = kas::merge(&asked, &Disk)?;
            let mut all = kas::repositories(&merged, &self.around, &mut Vec::new())?;
            settle(&mut all, lock.as_ref());
            let mut needed: BTreeSet<String> = merged.wanted.iter().map(|(id, _)| id.clone()).collect();
            if needed.is_empty() {
                let sources = all.iter().flat_map(|repository| &repository.patches).map(|patch| &patch.repository);
                needed.extend(sources.filter(|id| !folders.contains_key(*id)).cloned());
                needed.extend(
                    all.iter()
                        .filter(|one| one.revision.refspec.is_some() && !self.is_here(one))
                        .map(|one| one.id.clone()),
                );
            }
            if needed.is_empty() {
                return self.whole(merged, all, &folders, lock_text).map(|whole| KasRead::Whole(Box::new(whole)));
            }
            if let Some(at) = merged.wanted.iter().position(|(id, _)| all.iter().all(|one| one.id != *id)) {
                return Err(merged.wanted.swap_remove(at).1.into());
            }
            let wanted: Vec<Repository> = all.into_iter().filter(|one| needed.contains(&one.id)).collect();
            let mut missing = Vec::new();
            let far: Vec<Repository> = wanted.iter().filter(|one| !self.is_here(one)).cloned().collect();
            let found = self.in_store(&far, lock_text.clone(), facts)?;
            for one in wanted {
                match found.get(&one.id) {
                    _ if self.is_here(&one) => drop(folders.insert(one.id.clone(), one.folder.clone())),
                    Some(folder) if one.revision.refspec.is_none() => {
                        drop(folders.insert(one.id.clone(), folder.clone()))
                    }
                    _ => missing.push(one),
                }
            }
            if !missing.is_empty() {
                return Ok(KasRead::Wants(Box::new(self.only(&missing, lock_text))));
            }
        }
    }

    fn whole(
        &self,
        merged: Merged,
        all: Vec<Repository>,
        folders: &BTreeMap<String, PathBuf>,
        lock: Option<String>,
    ) -> Result<WholeKas, ProjectError> {
        let mut kas = Kas::of(&merged, &self.around)?;
        kas.repositories = all;
        let mut patches = BTreeMap::new();
        let mut files = Vec::new();
        for one in kas.repositories.iter().filter(|one| one.url.is_some()) {
            let mut of_one = Vec::new();
            for patch in &one.patches {
                let root = folders.get(&patch.repository).cloned().unwrap_or_default();
                for file in expand(&root, &patch.path)? {
                    let content = read_bounded(&file).map_err(FileError::new("read", &file))?;
                    files.push(FileContent { path: file.clone(), content, executable: false });
                    of_one.push(file);
                }
            }
            patches.insert(one.id.clone(), of_one);
        }
        let file = self.config();
        let found = |one: &Repository| self.found_with(&patches, one);
        let over = self.beside.as_ref().map(|(_, keys)| keys);
        let text = kas::smidr_yaml(&kas, &self.around, &file, over, &found);
        let mut warnings = kas.warnings.clone();
        warnings.extend(self.unread.iter().map(|(name, why)| format!("{name} has no effect: {why}")));
        warnings
            .extend(kas.repositories.iter().filter(|one| one.url.is_some() && self.is_here(one)).filter_map(stands));
        let sources = Sources { file, texts: text.as_str().into(), lock, files, warnings, ..Sources::default() };
        Ok(WholeKas { merged, kas, patches, sources })
    }

    /// What is known of a repository of a project that was read.
    pub(crate) fn found(&self, whole: &WholeKas, one: &Repository) -> Found {
        self.found_with(&whole.patches, one)
    }

    fn found_with(&self, patches: &BTreeMap<String, Vec<PathBuf>>, one: &Repository) -> Found {
        Found {
            is_here: self.is_here(one),
            patches: patches.get(&one.id).cloned().unwrap_or_default(),
            instead: one.url.as_deref().and_then(|url| self.mirrored(url)),
        }
    }

    /// A project of some repositories alone.
    fn only(&self, repositories: &[Repository], lock: Option<String>) -> Sources {
        let kas = Kas::of_repositories(
            repositories.iter().map(|one| Repository { patches: Vec::new(), ..one.clone() }).collect(),
        );
        let file = self.config();
        let found = |one: &Repository| Found {
            instead: one.url.as_deref().and_then(|url| self.mirrored(url)),
            ..Found::default()
        };
        let text = kas::smidr_yaml(&kas, &self.around, &file, None, &found);
        Sources { file, texts: text.as_str().into(), lock, ..Sources::default() }
    }

    /// The checkouts of the store of those that are pinned and there, by id.
    fn in_store(
        &self,
        repositories: &[Repository],
        lock: Option<String>,
        facts: &SystemFacts,
    ) -> Result<BTreeMap<String, PathBuf>, ProjectError> {
        if repositories.is_empty() {
            return Ok(BTreeMap::new());
        }
        let paths = paths::find(&facts.environment)?;
        let project = Project::of(self.only(repositories, lock), None, facts)?;
        let plan = project.plan(&BuildRequest::default(), facts, &paths, &Domain::Own)?;
        let store = Store::of(&plan);
        let mut found = BTreeMap::new();
        for layer in &plan.layers {
            if let Ok(Some(repository)) = store.find(&layer.name, &layer.source, &facts.home) {
                found.insert(layer.name.clone(), repository.whole().to_path_buf());
            }
        }
        Ok(found)
    }

    /// Whether a repository is used as it stands: one of this machine, or one whose folder is there and not empty.
    fn is_here(&self, repository: &Repository) -> bool {
        let is_filled = || fs::read_dir(&repository.folder).is_ok_and(|mut entries| entries.next().is_some());
        repository.url.is_none() || !self.apart && is_filled()
    }

    fn mirrored(&self, url: &str) -> Option<String> {
        let (pattern, replacement) =
            self.premirrors.iter().find(|(pattern, _)| pattern.find(url).is_some_and(|found| found.start() == 0))?;
        Some(pattern.replace_all(url, replacement.as_str()).into_owned())
    }
}

/// Variables that kas reads and smidr does not.
const UNREAD: [(&str, &str); 6] = [
    ("KAS_CLONE_DEPTH", "smidr's store fetches each repository once, with its past"),
    ("KAS_REPO_REF_DIR", "smidr's store takes its place"),
    ("SSH_PRIVATE_KEY", "load the key into an ssh-agent, whose socket is SSH_AUTH_SOCK"),
    ("SSH_PRIVATE_KEY_FILE", "load the key into an ssh-agent, whose socket is SSH_AUTH_SOCK"),
    ("GIT_CREDENTIAL_HELPER", "git's own configuration names it, and `smidr trust --login` lends it"),
    ("NETRC_FILE", "git reads ~/.netrc; the build gets a file by `host: {netrc: FILE}`"),
];

/// How a repository that is used as it stands differs from what the files want.
fn stands(one: &Repository) -> Option<String> {
    let (folder, head) = (one.folder.display(), layers::head_of(&one.folder)?.to_string());
    match &one.revision.commit {
        Some(wanted) if *wanted != head => {
            Some(format!("{}: {folder} is used as it stands, at {head:.12}; the files want {wanted:.12}", one.id))
        }
        _ if layers::holds_work(&one.folder) => {
            Some(format!("{}: {folder} is used as it stands, with changes that are not committed", one.id))
        }
        _ => None,
    }
}

/// Says of refspecs what the lock knows of them.
fn settle(repositories: &mut [Repository], lock: Option<&Lock>) {
    for one in repositories {
        let Some(refspec) = &one.revision.refspec else { continue };
        let pins = lock.into_iter().flat_map(Lock::repositories).filter(|pin| pin.name == one.id);
        for pin in pins {
            if pin.branch.as_ref() == Some(refspec) {
                one.revision = Revision { branch: pin.branch.clone(), ..Revision::default() };
                break;
            }
            if pin.tag.as_ref() == Some(refspec) {
                one.revision = Revision { tag: pin.tag.clone(), ..Revision::default() };
                break;
            }
        }
    }
}

/// The repository that holds a folder; where that is a submodule, the one around it.
fn root_of(folder: &Path, home: &Path) -> Option<PathBuf> {
    let root = layers::repository_around(folder, home)?;
    let link = fs::read_to_string(root.join(".git")).unwrap_or_default();
    match root.parent() {
        Some(above) if link.starts_with("gitdir:") && link.contains("/modules/") => root_of(above, home).or(Some(root)),
        _ => Some(root),
    }
}

/// A patch, or those of a folder with a file `series`.
fn expand(root: &Path, path: &str) -> Result<Vec<PathBuf>, ProjectError> {
    let failed = |path: &Path, why: &'static str| {
        FileError::new("use the patch", path)(io::Error::new(io::ErrorKind::InvalidInput, why))
    };
    let root = fs::canonicalize(root).map_err(FileError::new("find", root))?;
    let inside = |path: &Path| {
        let real = fs::canonicalize(path).map_err(FileError::new("find", path))?;
        if real.starts_with(&root) { Ok(real) } else { Err(failed(path, "it lies outside of its repository")) }
    };
    let path = inside(&root.join(path))?;
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let series = inside(&path.join("series"))?;
    let text = Disk.text(&series).map_err(FileError::new("read", &series))?;
    let mut patches = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        let name = line.split(" #").next().unwrap_or(line).trim_end();
        let patch = inside(&path.join(name))?;
        if !patch.is_file() {
            return Err(failed(&series, "a line of it names no file").into());
        }
        patches.push(patch);
    }
    Ok(patches)
}

/// Lines of an expression of Python's and what stands in its place.
fn premirrors(lines: Option<String>) -> Vec<(regex::Regex, String)> {
    static GROUP: std::sync::LazyLock<regex::Regex> =
        std::sync::LazyLock::new(|| regex::Regex::new(r"\\([0-9]+)").expect("a fixed pattern"));
    let pair = |line: &str| {
        let (pattern, replacement) = line.trim().split_once(' ')?;
        let replacement = GROUP.replace_all(&replacement.trim().replace('$', "$$"), "$${$1}").into_owned();
        Some((regex::Regex::new(pattern).ok()?, replacement))
    };
    lines.iter().flat_map(|lines| lines.lines()).filter_map(pair).collect()
}
