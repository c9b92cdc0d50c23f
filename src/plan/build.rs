//! From config, lock, facts and paths to a [`Plan`].

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    domain::Domain,
    folders::{Folders, TOPDIR, is_of_go},
    guarded::{Guarded, guarded},
    inputs::{Input, InputError},
    provider::{self, PlannedProvider},
    sandbox::Ids,
    sources::{self, NotSent, Places, PlannedLayer, PlannedPatch, PlannedSource, Submodules},
};
use crate::{
    config::{self, Config, HOST, HostImage, Network, Openat2, Texts},
    lock::Lock,
    model::{
        BuildRequest, Digest, FileContent, Hint, Kind, Limits, Logins, Paths, Recovery, Share, SubmittedRecipe,
        SystemFacts, UserError, document_path, without_dots,
    },
};

/// With fewer processes and threads than this, no build comes to its end.
const FEW_TASKS: u32 = 32;

/// With less memory than this, in bytes, no build comes to its end.
const LITTLE_MEMORY: u64 = 64 << 20;

/// What a build will do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The project's name.
    pub name: String,
    /// The overlay of the config that is built.
    pub variant: Option<String>,
    /// The config.
    #[serde(flatten, with = "document_path::file")]
    pub file: PathBuf,
    /// Its texts, to show lines of them; empty where nothing of them may be quoted.
    #[serde(skip)]
    pub texts: Texts,
    /// The keys that the user's own file beside it sets.
    pub local: Vec<String>,
    /// Where it stands.
    #[serde(flatten, with = "document_path::project")]
    pub project: PathBuf,
    /// SMIDR_HOME.
    #[serde(skip)]
    pub smidr_home: PathBuf,
    /// The trust domain, which decides on the caches.
    pub domain: Domain,
    /// BitBake's targets.
    pub targets: Vec<String>,
    /// Fetch all sources and stop.
    pub fetch_only: bool,
    /// First remove all that builds of the project wrote, except caches.
    pub clean: bool,
    /// The task of the targets that is run, instead of `build`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Handed to BitBake as they are.
    pub bitbake_args: Vec<String>,
    /// MACHINE.
    pub machine: String,
    /// The build host.
    pub host: PlannedHost,
    /// The provider of defaults.
    pub provider: Option<PlannedProvider>,
    /// Yocto layers, in order.
    pub layers: Vec<PlannedLayer>,
    /// Where BitBake comes from, unless a layer's repository or the image has it.
    pub bitbake: Option<PlannedSource>,
    /// For which failures there is a second try.
    pub recovery: Vec<Recovery>,
    /// The Yocto series that the config names.
    pub series: Option<String>,
    /// Where mirrors and checkouts of repositories stand.
    pub layer_store: PathBuf,
    /// Paths that no build may write to.
    #[serde(skip)]
    pub guarded: Vec<Guarded>,
    /// Whether no pin may be added or changed.
    pub locked: bool,
    /// Whether no network may be reached for images and layers.
    pub offline: bool,
    /// Whether a busy workspace is waited for.
    pub wait: bool,
    /// The servers that may get the caller's logins. None, unless granted by the user.
    pub logins: Logins,
    /// Folders.
    pub folders: Folders,
    /// Variables of `local.conf` with their values, in order; an operator such as `:append` belongs to the name.
    pub conf: Vec<(String, String)>,
    /// Appended to `local.conf`.
    pub conf_tail: String,
    /// Variables of the config's `env`, which recipes see too.
    pub exports: Vec<(String, String)>,
    /// Conf of another tool: `local.conf` and `bblayers.conf`, in the place of smidr's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_is: Option<PlannedAsIs>,
    /// Environment of BitBake.
    pub env: Vec<(String, String)>,
    /// Files of the caller and of this machine that the build sees, besides its folders.
    pub inputs: Vec<Input>,
    /// This machine's CA certificates, where they go in.
    pub ca_bundle: Option<PathBuf>,
    /// Devices of this machine.
    pub devices: Vec<PathBuf>,
    /// What keeps the build apart from this machine.
    pub isolation: super::Isolation,
    /// Whether less isolation than that is an error.
    pub strict: bool,
    /// The network of the build.
    pub network: Network,
    /// Whether programs may use openat2(2); none: decided by the version of the layers' pseudo.
    pub openat2: Option<bool>,
    /// Limits of memory, processors and processes.
    pub limits: Limits,
    /// uid and gid outside and inside.
    #[serde(skip)]
    pub ids: Ids,
    /// After this long the build is stopped, in seconds.
    #[serde(serialize_with = "seconds")]
    pub timeout: Option<Duration>,
    /// What to keep, relative to `folders.deploy`.
    pub artifacts: Vec<String>,
    /// Whether the config names these: then it is an error if none matches. A recipe that is not an image deploys nothing.
    pub artifacts_required: bool,
    /// Parts of the config that have no effect.
    pub warnings: Vec<String>,
}

/// Conf of another tool, word for word.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedAsIs {
    /// The folder in which its repositories stand.
    pub work: PathBuf,
    /// `local.conf`.
    pub local_conf: String,
    /// `bblayers.conf`.
    pub bblayers_conf: String,
    /// Other files of conf, by name.
    pub further: Vec<(String, String)>,
    /// The variables that BitBake takes from the environment beside those that OpenEmbedded names, in order.
    pub passed: Vec<String>,
}

/// The build host of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedHost {
    /// The rootfs recipe's name or path, or the image's name.
    pub name: String,
    /// Whether `name` is a rootfs recipe.
    pub recipe: bool,
    /// What the lock pins it to; none: not resolved yet.
    pub pinned: Option<Digest>,
    /// Those that the project's series was validated on.
    #[serde(skip)]
    pub validated: &'static [String],
    /// The rootfs recipe as it was submitted; none: the file counts.
    #[serde(skip)]
    pub submitted: Option<SubmittedRecipe>,
}

/// Why there can be no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// BitBake refuses such paths, or breaks on them later.
    #[error("BitBake cannot build in `{path}`: the path {why}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A folder that a build may write to holds what it must not touch.
    #[error("{path} cannot be a folder of the build: it holds {what}")]
    Holds {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        what: &'static str,
    },
    /// A folder of smidr's own.
    #[error("{} lies in SMIDR_HOME, which is smidr's own", .0.display())]
    InHome(PathBuf),
    /// Where programs keep settings and keys.
    #[error("{} is a hidden folder of your home, or lies in one: builds write to no such folder", .0.display())]
    Hidden(PathBuf),
    /// An input that must not be shown to the build.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Something of a remote project.
    #[error(transparent)]
    NotSent(#[from] NotSent),
    /// A name given on the command line.
    #[error("`{0}` cannot be a target or machine")]
    Word(String),
    /// Without a user namespace, the uid cannot be changed.
    #[error(
        "BitBake refuses to run as root, and without namespaces (host.isolation: none) smidr cannot change the uid"
    )]
    Root,
}

impl UserError for PlanError {
    fn kind(&self) -> Kind {
        match self {
            Self::Root => Kind::Host,
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Path { .. } => {
                vec![Hint::command("use a plain path; for folders in SMIDR_HOME", "export SMIDR_HOME=/some/plain/path")]
            }
            Self::Holds { .. } | Self::InHome(_) | Self::Hidden(_) => {
                vec![Hint::new("name a folder of its own under `directories:`")]
            }
            Self::Input(error) => error.hints(),
            Self::Word(_) | Self::NotSent(_) => Vec::new(),
            Self::Root => vec![Hint::command("build as an ordinary user", "useradd -m builder && su - builder")],
        }
    }
}

/// Makes the plan of a build. `file` is the absolute path of the config.
///
/// # Errors
///
/// When what is asked for cannot be built anywhere.
pub fn make(
    config: &Config,
    lock: Option<&Lock>,
    facts: &SystemFacts,
    paths: &Paths,
    file: &Path,
    request: &BuildRequest,
    domain: &Domain,
) -> Result<Plan, PlanError> {
    let project = file.parent().unwrap_or(file);
    let place = |text: &str| absolute(project, facts.home_of_config(), text);
    let folders = folders(config, paths, file, &facts.home, request.variant.as_deref(), domain, &place)?;
    let machine = request
        .machine
        .clone()
        .or_else(|| config.build.machine.as_ref().or(config.base.machine.as_ref()).map(|text| text.text.clone()))
        .unwrap_or_default();
    let targets = match (&request.targets, &config.build.targets) {
        (asked, _) if !asked.is_empty() => asked.clone(),
        (_, several) if !several.is_empty() => several.iter().map(|text| text.text.clone()).collect(),
        _ => vec![config.build.image.text.clone()],
    };
    for word in targets.iter().chain([&machine]) {
        check_word(word)?;
    }
    if config.host.isolation == config::Isolation::None && facts.uid == 0 {
        return Err(PlanError::Root);
    }
    let host = host(config, lock);
    let (uid, gid) = facts.inner_ids();
    let work = config.as_is.as_ref().map(|as_is| place(&as_is.work));
    let places = Places { lock, place: &place, project, work: work.clone(), remote: facts.remote.as_ref() };
    let layers: Vec<PlannedLayer> = config.layers.iter().map(|layer| places.layer(layer)).collect::<Result<_, _>>()?;
    let bitbake = config.bitbake.as_ref().map(|source| places.source(config::BITBAKE, source, Submodules::All));
    let bitbake = bitbake.transpose()?;
    let local = sources::local(&layers, bitbake.as_ref());
    local.iter().try_for_each(|path| check_path(path))?;
    let store = default_or(config.directories.layers.as_ref(), "layers", paths.layers(), paths, project, &place)?;
    check_path(&store)?;
    if let Some(folder) = folders.writable().into_iter().find(|folder| config::overlap(folder, &store)) {
        return Err(PlanError::Holds { path: folder.into(), what: "the store of layers, or lies in it" });
    }
    let guarded = guarded(config, file, &layers, bitbake.as_ref(), &store, &place);
    let inputs = super::inputs::inputs(config, facts, paths, &folders, (&local, &store), &guarded, &place)?;
    Ok(Plan {
        name: config.name.text.clone(),
        variant: request.variant.clone(),
        file: file.to_path_buf(),
        texts: Texts::default(),
        local: Vec::new(),
        project: project.to_path_buf(),
        smidr_home: paths.home().to_path_buf(),
        domain: domain.clone(),
        fetch_only: request.fetch_only,
        clean: request.clean,
        task: config.build.task.as_ref().map(|text| text.text.clone()),
        bitbake_args: request.bitbake_args.clone(),
        host,
        provider: provider::planned(config),
        layers,
        bitbake,
        recovery: config.recovery.clone(),
        series: config.yocto_series.as_ref().map(|text| text.text.clone()),
        layer_store: store,
        guarded,
        locked: request.locked,
        offline: request.offline,
        wait: false,
        logins: Logins::default(),
        conf: super::conf::variables(config, facts, &folders, &machine),
        conf_tail: config.as_is.as_ref().map_or(&config.local_conf, |as_is| &as_is.local_conf).clone(),
        as_is: config.as_is.as_ref().zip(work).map(|(as_is, work)| PlannedAsIs {
            work,
            local_conf: as_is.local_conf.clone(),
            bblayers_conf: as_is.bblayers_conf.clone(),
            further: as_is.further.clone(),
            passed: super::conf::passed(config, facts),
        }),
        exports: config.env.iter().map(|(name, value)| (name.text.clone(), value.text.clone())).collect(),
        env: super::conf::environment(config, facts, &folders, request.offline),
        inputs,
        ca_bundle: facts.ca_bundle.clone().filter(|_| config.host.inputs.certificates),
        devices: config.host.devices.iter().map(|device| device.path().into()).collect(),
        isolation: match config.host.isolation {
            config::Isolation::Auto | config::Isolation::Full => super::Isolation::Full,
            config::Isolation::None => super::Isolation::None,
        },
        strict: config.host.isolation == config::Isolation::Full,
        // Without namespaces, only variables of local.conf keep BitBake off the network.
        network: match config.host.isolation {
            config::Isolation::Auto | config::Isolation::Full if request.offline => Network::None,
            _ => config.host.network,
        },
        openat2: match config.host.openat2 {
            Openat2::Auto => None,
            Openat2::Hide => Some(false),
            Openat2::Show => Some(true),
        },
        limits: Limits {
            memory: config.host.memory.map(|size| size.0),
            cpus: config.host.cpus,
            tasks: config.host.tasks,
        },
        ids: Ids {
            outer_uid: facts.uid,
            outer_gid: facts.gid,
            uid,
            gid,
            range: facts.subordinate.filter(|_| config.host.ids == config::Ids::Range),
        },
        timeout: config.advanced.build_timeout,
        // They are those of the config's own target; another recipe, built by name, need not deploy anything.
        artifacts_required: !config.artifacts.is_empty() && !config.of_go && targets.contains(&config.build.image.text),
        artifacts: match config.artifacts.as_slice() {
            // Another tool's conf may name another machine.
            [] if config.as_is.is_some() => vec!["images/**".into()],
            [] => vec![format!("images/{machine}/**")],
            patterns => patterns.iter().map(|text| text.text.clone()).collect(),
        },
        warnings: warnings(config, facts),
        targets,
        machine,
        folders,
    })
}

fn host(config: &Config, lock: Option<&Lock>) -> PlannedHost {
    let (name, recipe) = match &config.host.image {
        HostImage::Recipe(name) => (name.text.clone(), true),
        HostImage::Image(name) => (name.text.clone(), false),
    };
    let pinned = lock.and_then(|lock| lock.host(&name)).map(|host| host.image.clone());
    PlannedHost { name, recipe, pinned, validated: config::series::hosts(config), submitted: None }
}

fn folders(
    config: &Config,
    paths: &Paths,
    file: &Path,
    home: &Path,
    variant: Option<&str>,
    domain: &Domain,
    place: &dyn Fn(&str) -> PathBuf,
) -> Result<Folders, PlanError> {
    let project = file.parent().unwrap_or(file);
    let named = &config.directories;
    let workspace = paths.workspaces().join(workspace_name(&config.name, file, variant));
    let caches = domain.caches(paths, &workspace_name(&config.name, file, None));
    let top = match &named.build {
        Some(text) if is_of_go(text) => workspace.join("build"),
        Some(text) if is_smidrs(&place(text), project, paths) => return Err(PlanError::InHome(place(text))),
        Some(text) => place(text),
        None => workspace.join("build"),
    };
    // BitBake's own name for the build folder.
    let is_of_workspace = |text: &str, named: &Path| text.contains(TOPDIR) && named.starts_with(&workspace);
    let place = &|text: &str| place(&text.replace(TOPDIR, &top.display().to_string()));
    let or = |text: &Option<config::Text>, default: PathBuf| match text {
        None => Ok(default),
        Some(text) if is_of_go(text) => Ok(default),
        Some(text) if is_of_workspace(text, &place(text)) => Ok(place(text)),
        Some(text) if is_smidrs(&place(text), project, paths) => Err(PlanError::InHome(place(text))),
        Some(text) => Ok(place(text)),
    };
    let cache = |text: &Option<config::Text>, name: &str, default: PathBuf| match text {
        Some(text) if is_of_workspace(text, &place(text)) => Ok(place(text)),
        text => default_or(text.as_ref(), name, default, paths, project, place),
    };
    let downloads = cache(&named.downloads, "downloads", caches.downloads)?;
    let sstate = cache(&named.sstate, "sstate-cache", caches.sstate)?;
    // The database of hash equivalence belongs to the sstate.
    let elsewhere = !sstate.starts_with(paths.home());
    let hash_equivalence = if elsewhere { sstate.clone() } else { caches.hash_equivalence };
    let tmp = or(&named.tmp, top.join("tmp"))?;
    let folders = Folders {
        deploy: or(&named.deploy, tmp.join("deploy"))?,
        downloads,
        sstate,
        hash_equivalence,
        home: workspace.join("home"),
        workspace,
        top,
        tmp,
    };
    for folder in folders.writable() {
        check_path(folder)?;
        // `--clean` removes what is in them, and the build may change it.
        let held = [(project, "your project"), (home, "your home"), (paths.home(), "SMIDR_HOME")];
        if let Some((_, what)) = held.iter().find(|(path, _)| path.starts_with(folder)) {
            return Err(PlanError::Holds { path: folder.into(), what });
        }
        if !folder.starts_with(paths.home()) && is_hidden(folder, home) {
            return Err(PlanError::Hidden(folder.into()));
        }
    }
    Ok(folders)
}

/// A folder that a config names; one of SMIDR_HOME, as examples everywhere have it, means the default.
fn default_or(
    text: Option<&config::Text>,
    name: &str,
    default: PathBuf,
    paths: &Paths,
    project: &Path,
    place: &dyn Fn(&str) -> PathBuf,
) -> Result<PathBuf, PlanError> {
    let Some(text) = text else { return Ok(default) };
    let named = place(text);
    if is_of_go(text) || named == paths.home().join(name) {
        return Ok(default);
    }
    if is_smidrs(&named, project, paths) { Err(PlanError::InHome(named)) } else { Ok(named) }
}

/// Whether a path lies in SMIDR_HOME, and not in the folder of a project that stands there because it was sent.
fn is_smidrs(path: &Path, project: &Path, paths: &Paths) -> bool {
    let is_own = project.starts_with(paths.projects()) && path.starts_with(project);
    path.starts_with(paths.home()) && !is_own
}

/// Whether a folder is, or lies in, a hidden folder of the user's home, where programs keep settings and keys. `.cache` holds neither.
pub fn is_hidden(folder: &Path, home: &Path) -> bool {
    let first = folder.strip_prefix(home).ok().and_then(|inside| inside.iter().next());
    first.is_some_and(|name| name != ".cache" && name.as_encoded_bytes().starts_with(b"."))
}

/// `<name>-<hash8>[-variant]`: projects of the same name have different workspaces.
fn workspace_name(name: &str, file: &Path, variant: Option<&str>) -> String {
    let mut text = format!("{name}-{}", place_hash(file));
    if let Some(variant) = variant {
        let _ = write!(text, "-{variant}");
    }
    text
}

fn place_hash(file: &Path) -> String {
    format!("{:.8}", hex::encode(Sha256::digest(file.as_os_str().as_encoded_bytes())))
}

/// Whether a workspace is of the project whose config is `file`, whatever its present or former name and variants.
pub fn is_workspace_of(name: &str, file: &Path) -> bool {
    let mark = format!("-{}", place_hash(file));
    name.match_indices(&mark).any(|(at, _)| matches!(name.as_bytes().get(at + mark.len()), None | Some(b'-')))
}

/// Refuses characters and lengths that OpenEmbedded-Core's sanity check refuses, or that break recipes (sanity.bbclass).
///
/// # Errors
///
/// When BitBake cannot work at that path.
pub fn check_path(path: &Path) -> Result<(), PlanError> {
    let wrong = |why| Err(PlanError::Path { path: path.to_path_buf(), why });
    let Some(text) = path.to_str() else { return wrong("is not valid UTF-8") };
    if text.chars().any(char::is_whitespace) {
        return wrong("holds a space");
    }
    if text.contains(['+', '@', '%', '"', '\'', '\\', '$', '`', ':', '#']) {
        return wrong("holds one of + @ % : # or a quote");
    }
    if text.len() > 400 { wrong("is longer than 400 characters") } else { Ok(()) }
}

fn check_word(word: &str) -> Result<(), PlanError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+:@/~".contains(c);
    if word.is_empty() || word.starts_with('-') || !word.chars().all(plain) {
        return Err(PlanError::Word(word.into()));
    }
    Ok(())
}

/// Makes a path absolute: relative ones against the config's folder, `~/` against the caller's home. `.` and `..` go.
pub(super) fn absolute(project: &Path, home: &Path, text: &str) -> PathBuf {
    let path = match text.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None if text == "~" => home.to_path_buf(),
        None => project.join(text),
    };
    without_dots(&path)
}

fn warnings(config: &Config, facts: &SystemFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.host.ids == config::Ids::Range && facts.subordinate.is_none() {
        warnings.push("host.ids: range has no effect: /etc/subuid and /etc/subgid have no range for you".into());
    }
    // Those of another tool's project may have a value of its own, and need none.
    let named = |name: &str| config.as_is.iter().flat_map(|as_is| &as_is.env).any(|(known, _)| known.text == name);
    let unset = |name: &&config::Text| facts.variable(&name.text).is_none() && !named(&name.text);
    for name in config.host.env.iter().filter(unset) {
        warnings.push(format!("host.env: `{}` is not set here, so the build does not have it", name.text));
    }
    // Its server, worker and user interface with their threads, and what one task of a small recipe starts, are 20.
    if let Some(tasks) = config.host.tasks.filter(|tasks| *tasks < FEW_TASKS) {
        warnings.push(format!(
            "host.tasks: BitBake cannot build with {tasks} processes and threads; it needs some hundreds"
        ));
    }
    if let Some(memory) = config.host.memory.filter(|memory| memory.0 < LITTLE_MEMORY) {
        let mib = memory.0 >> 20;
        warnings.push(format!(
            "host.memory: BitBake cannot build with {mib} MiB; for OpenEmbedded it needs some gigabytes"
        ));
    }
    // bb.data.emit_var writes variables into the scripts of tasks.
    for (name, _) in config.env.iter().filter(|(_, value)| value.contains('\n')) {
        warnings.push(format!(
            "env.{name}: BitBake gives shell tasks a space for each line break in it; Python tasks see it as it is"
        ));
    }
    warnings.extend(provider::warnings(config));
    warnings.extend(config.warnings.iter().map(|warning| warning.title.clone()));
    warnings
}

fn seconds<S: serde::Serializer>(timeout: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    timeout.map(|timeout| timeout.as_secs()).serialize(serializer)
}

impl Plan {
    /// The name of the project's workspace, whatever variant is planned.
    pub fn project_workspace(&self) -> String {
        workspace_name(&self.name, &self.file, None)
    }

    /// The names of what is not pinned: the build host, layers, BitBake.
    pub fn unpinned(&self) -> Vec<&str> {
        let host = (self.isolation != super::Isolation::None && self.host.pinned.is_none()).then_some(HOST);
        host.into_iter().chain(self.sources().filter(|(_, source)| !source.is_pinned()).map(|(name, _)| name)).collect()
    }

    /// Where layers and BitBake come from, by name.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &PlannedSource)> {
        let layers = self.layers.iter().map(|layer| (layer.name.as_str(), &layer.source));
        layers.chain(self.bitbake.as_ref().map(|source| (config::BITBAKE, source)))
    }

    /// Takes patches and the rootfs recipe as they were submitted, whatever stands in their files now.
    pub fn take_submitted(&mut self, files: &[FileContent], recipe: Option<&SubmittedRecipe>) {
        self.host.submitted = recipe.cloned();
        let project = self.project.clone();
        for patch in self.patches_mut() {
            // A remote client names them as its config does, whose folder is another one.
            let is_it = |file: &&FileContent| {
                file.path == Path::new(&patch.written) || without_dots(&project.join(&file.path)) == patch.file
            };
            patch.submitted = files.iter().find(is_it).map(|file| file.content.clone());
        }
    }

    /// Makes sure that no patch is read from this machine.
    ///
    /// # Errors
    ///
    /// The first that was not submitted.
    pub fn has_all_patches(&mut self) -> Result<(), NotSent> {
        match self.patches_mut().find(|patch| patch.submitted.is_none()) {
            Some(patch) => Err(NotSent::Patch(patch.written.clone())),
            None => Ok(()),
        }
    }

    fn patches_mut(&mut self) -> impl Iterator<Item = &mut PlannedPatch> {
        let layers = self.layers.iter_mut().map(|layer| &mut layer.source);
        let git = layers.chain(&mut self.bitbake).filter_map(|source| match source {
            PlannedSource::Git(git) => Some(git),
            PlannedSource::Path(_) => None,
        });
        git.flat_map(|git| &mut git.patches)
    }

    /// Lowers what the build may use of this machine to its share. What the config asks for is never raised.
    pub fn take_share(&mut self, share: Share) {
        super::conf::take_share(&self.conf, &mut self.env, share.cpus);
        self.limits.memory = [self.limits.memory, share.memory].into_iter().flatten().min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_the_config() {
        let place = |text| absolute(Path::new("/p/x"), Path::new("/home/u"), text);
        assert_eq!(place("./a/../b"), Path::new("/p/x/b"));
        assert_eq!(place("~/dl"), Path::new("/home/u/dl"));
        assert_eq!(place("/abs"), Path::new("/abs"));
        assert_eq!(place("../../.."), Path::new("/"));
    }

    #[test]
    fn paths_that_bitbake_refuses() {
        for bad in ["/home/a b/x", "/srv/c++", "/x@y", "/a%b", &format!("/{}", "l".repeat(401))] {
            assert!(check_path(Path::new(bad)).is_err(), "{bad}");
        }
        assert!(check_path(Path::new("/home/user/.smidr/workspaces/a-1.2_x")).is_ok());
        for bad in ["", "-k", "a b", "x;y", "$(x)"] {
            assert!(check_word(bad).is_err(), "{bad}");
        }
        assert!(check_word("mc:other:core-image-minimal").is_ok());
    }

    #[test]
    fn a_workspace_is_known_by_the_place_of_its_config() {
        let file = Path::new("/p/smidr.yaml");
        for variant in [None, Some("debug")] {
            for name in ["x", "a-b-00000000"] {
                let workspace = workspace_name(name, file, variant);
                assert!(is_workspace_of(&workspace, file), "{workspace}");
                assert!(!is_workspace_of(&workspace, Path::new("/q/smidr.yaml")), "{workspace}");
            }
        }
        assert!(!is_workspace_of(&format!("{}0", workspace_name("x", file, None)), file));
    }

    #[test]
    fn artifacts_are_required_of_the_own_target() {
        let text = "name: x\nbase: {machine: m}\nbuild: {image: i}\nartifacts: ['images/**']\n";
        let config = config::read("smidr.yaml", text, None, &|_| None).expect("a good config");
        let (facts, paths) = (SystemFacts::of_an_ordinary_user(), Paths::new("/home/u/.smidr".into()));
        for (targets, required) in [(&[][..], true), (&["i"], true), (&["other", "i"], true), (&["other"], false)] {
            let targets = targets.iter().map(|name| (*name).to_owned()).collect();
            let request = BuildRequest { targets, ..BuildRequest::default() };
            let plan = make(&config, None, &facts, &paths, Path::new("/p/smidr.yaml"), &request, &Domain::Own);
            assert_eq!(plan.expect("a plan").artifacts_required, required);
        }
    }

    #[test]
    fn a_build_never_holds_what_it_could_destroy() {
        let facts = SystemFacts::of_an_ordinary_user();
        let plan = |directories: &str| {
            let text = format!("name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\ndirectories: {{{directories}}}\n");
            let config = config::read("smidr.yaml", &text, None, &|_| None).expect("a good config");
            let paths = Paths::new("/home/u/.smidr".into());
            make(
                &config,
                None,
                &facts,
                &paths,
                Path::new("/home/u/p/smidr.yaml"),
                &BuildRequest::default(),
                &Domain::Own,
            )
        };
        for bad in ["deploy: .", "tmp: '~'", "build: /", "sstate: ..", "downloads: ~/.smidr", "deploy: /home"] {
            assert!(matches!(plan(bad), Err(PlanError::Holds { .. } | PlanError::InHome(_))), "{bad}");
        }
        for good in ["", "deploy: ./out", "tmp: /scratch/tmp", "downloads: ~/dl"] {
            assert!(plan(good).is_ok(), "{good}");
        }
    }
}
