//! A project: a folder's config with its lock. In go a path and facts of this machine, out come a [`Project`] and its plans.
//!
//! Reads the config and reads and writes the lock; never prints, and reads no environment but the variables in [`SystemFacts`].

mod bitbake_setup;
mod kas;
mod local;
pub(crate) mod trust;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

pub(crate) use self::{
    bitbake_setup::{SetupFiles, SetupRead, is_setup},
    kas::{KasFiles, KasRead, WholeKas, is_kas},
    local::Local,
};
use crate::{
    bitbake_setup::{Question, SetupError},
    config::{self, Config, Problem, Problems, Texts, UsedVariable, local_path},
    kas::KasError,
    lock::{HostPin, Lock, LockError, Pins, lock_path},
    model::{
        BuildRequest, Digest, FileContent, Hint, InvalidName, Kind, Origin, Paths, Submission, SubmittedRecipe,
        SystemFacts, UserError,
    },
    plan::{self, Domain, Plan, PlanError},
    settings::{self, Settings, SettingsError},
    system::{
        self,
        files::{FileError, read_bounded, shell, write_atomically},
        paths::{self, PathsError},
    },
};

/// A project: its config with everything that belongs to it.
#[derive(Clone)]
pub(crate) struct Project {
    /// The config, absolute.
    pub file: PathBuf,
    /// The config.
    pub config: Config,
    /// Of the text of the config alone.
    pub digest: Digest,
    /// The user's settings, which decide what it may do.
    pub settings: Settings,
    /// What it is pinned to, by the lock of the user's own file too.
    pub lock: Option<Lock>,
    /// The user's own file, where there is one.
    pub local: Option<Local>,
    /// What it was read from.
    pub sources: Sources,
}

/// The texts that a project is read from: those of a folder, or of a submission.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The config, absolute.
    pub file: PathBuf,
    /// Whether a link led to it, or to the user's own file beside it.
    pub is_link: bool,
    /// Its text, and that of the user's own file.
    pub texts: Texts,
    /// The text of its lock.
    pub lock: Option<String>,
    /// The text of the lock of the user's own file.
    pub local_lock: Option<String>,
    /// Its patches, where they were submitted.
    pub files: Vec<FileContent>,
    /// Its rootfs recipe, where that was submitted.
    pub recipe: Option<SubmittedRecipe>,
    /// What is to be said of another tool's files.
    pub warnings: Vec<String>,
    /// Whether the caller has to say what is built.
    pub names_no_target: bool,
}

/// Why there is no project, or its lock cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectError {
    /// There is no config.
    #[error("there is no {}", .file.display())]
    Missing {
        /// Where it was looked for.
        file: PathBuf,
        /// A parent folder that has one.
        above: Option<PathBuf>,
        /// What is there instead.
        other: Option<OtherTool>,
    },
    /// A name on the command line that no overlay has.
    #[error("there is no variant `{variant}` in {} (--variant)", .file.display())]
    Variant {
        /// The name.
        variant: String,
        /// The config.
        file: PathBuf,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A folder in the place of a config.
    #[error("{} is a folder, and --config names a file", .0.display())]
    Folder(PathBuf),
    /// It belongs to another user.
    #[error("the project {} belongs to another user, and a build of it is theirs", .0.display())]
    Foreign(PathBuf),
    /// A config that is no text.
    #[error("{} is not valid UTF-8", .0.display())]
    NotText(PathBuf),
    /// The config is wrong.
    #[error(transparent)]
    Config(#[from] Box<Problems>),
    /// Its folder cannot be looked at.
    #[error(transparent)]
    Owner(#[from] PathsError),
    /// The user's settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The lock is wrong.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The lock of the user's own file is not what `smidr` writes.
    #[error("{} is damaged", .0.display())]
    LocalLock(PathBuf),
    /// kas files are wrong.
    #[error(transparent)]
    Kas(#[from] KasError),
    /// kas files lead to repositories that are not here.
    #[error("the includes of {} lead to repositories that are not here yet", .0.display())]
    Wants(PathBuf),
    /// A configuration of bitbake-setup is wrong, or has no such choice.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// One of which something is to be chosen.
    #[error("it is not chosen yet: {}", .0.what)]
    Open(Question),
    /// One that is to be built, without a target.
    #[error("{} does not say what is built", .0.display())]
    NoTarget(PathBuf),
    /// What kas files ask for cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A name that no build can have.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for ProjectError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. }
            | Self::Variant { .. }
            | Self::Folder(_)
            | Self::NotText(_)
            | Self::LocalLock(_)
            | Self::Wants(_)
            | Self::Open(_)
            | Self::NoTarget(_)
            | Self::Name(_) => Kind::Request,
            Self::Setup(error) => error.kind(),
            Self::Kas(error) => error.kind(),
            Self::Plan(error) => error.kind(),
            Self::Foreign(_) => Kind::Host,
            Self::Config(error) => error.kind(),
            Self::Owner(error) => error.kind(),
            Self::Settings(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Missing { other: Some(other), .. } => vec![other.hint()],
            Self::Missing { above: Some(folder), .. } => {
                vec![Hint::command("the project is further up", format!("cd {}", shell(folder)))]
            }
            Self::Missing { .. } => {
                vec![Hint::command("begin a project", "smidr init NAME --template hello")]
            }
            Self::Variant { known, .. } if known.is_empty() => {
                vec![Hint::new("it has none; they stand under `variants:`")]
            }
            Self::Variant { variant, known, .. } => {
                let near = config::nearest(variant, known.iter().map(String::as_str));
                let near = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
                vec![Hint::new(format!("{near}there are: {}", known.join(", ")))]
            }
            Self::Folder(folder) => {
                let file = folder.join("smidr.yaml");
                let is_there =
                    file.is_file().then(|| Hint::command("name the file", format!("smidr -c {}", shell(&file))));
                is_there.into_iter().collect()
            }
            Self::LocalLock(file) => {
                vec![Hint::command(
                    "without it, what smidr.local.yaml asks for is pinned anew",
                    format!("rm {}", shell(file)),
                )]
            }
            Self::Foreign(_) => vec![Hint::new("log in as its owner, or copy it to a folder of your own")],
            Self::NotText(_) | Self::Name(_) => Vec::new(),
            Self::Wants(file) => vec![Hint::command("bring them", format!("smidr lock -c {}", shell(file)))],
            Self::Open(question) => {
                let told = |(name, about): &(String, String)| match about.is_empty() {
                    true => name.clone(),
                    false => format!("{name}  ({about})"),
                };
                let all = question.answers.iter().map(told).map(Hint::new);
                std::iter::once(Hint::new("name one of these behind the file:")).chain(all).collect()
            }
            Self::NoTarget(_) => vec![Hint::new("name it:  --target core-image-minimal")],
            Self::Setup(error) => error.hints(),
            Self::Kas(error) => error.hints(),
            Self::Plan(error) => error.hints(),
            Self::Config(error) => error.hints(),
            Self::Owner(error) => error.hints(),
            Self::Settings(error) => error.hints(),
            Self::Lock(error) => error.hints(),
            Self::File(error) => error.hints(),
        }
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        match self {
            Self::Config(problems) => problems.drawn(colour),
            Self::Settings(error) => error.drawn(colour),
            Self::Lock(error) => error.drawn(colour),
            Self::Kas(error) => error.drawn(colour),
            _ => None,
        }
    }
}

/// A project of another tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OtherTool {
    /// One that builds as it is: of kas or of bitbake-setup.
    Builds(PathBuf),
    /// One of which a smidr.yaml is made first: a manifest, or a build folder.
    Imports(PathBuf),
}

impl OtherTool {
    /// What a folder has, where it is plain what is meant.
    pub(crate) fn find_in(folder: &Path) -> Option<Self> {
        let builds = || kas::kas_file_in(folder).or_else(|| bitbake_setup::setup_file_in(folder)).map(Self::Builds);
        let imports = || {
            let all = ["default.xml", "build/conf/bblayers.conf", "conf/bblayers.conf"];
            all.into_iter().find(|name| folder.join(name).is_file()).map(|name| Self::Imports(name.into()))
        };
        builds().or_else(imports)
    }

    /// The file that names it.
    pub(crate) fn file(&self) -> &Path {
        match self {
            Self::Builds(file) | Self::Imports(file) => file,
        }
    }

    /// What to type.
    pub(crate) fn hint(&self) -> Hint {
        match self {
            Self::Builds(file) => Hint::command(
                "there is a project of another tool, which builds as it is",
                format!("smidr build {}", shell(file)),
            ),
            Self::Imports(file) => Hint::command(
                "there is what another tool has set up; to make a smidr.yaml of it",
                format!("smidr import {} --target core-image-minimal", shell(file)),
            ),
        }
    }
}

impl Sources {
    /// Reads config and lock of a folder that belongs to the caller.
    ///
    /// # Errors
    ///
    /// When there is no config, it belongs to another user, or cannot be read.
    pub(crate) fn read(file: &Path, facts: &SystemFacts) -> Result<Self, ProjectError> {
        let sources = Self::look(file, facts)?;
        let folder = sources.file.parent().unwrap_or(Path::new("/"));
        // What smidr writes there would have the wrong owner, or could not be written.
        match paths::check_owner(folder) {
            Err(PathsError::Foreign { path, .. }) => Err(ProjectError::Foreign(path)),
            checked => Ok(checked.map(|()| sources)?),
        }
    }

    /// Reads config and lock of any folder, to look at them.
    ///
    /// # Errors
    ///
    /// When there is no config, or it cannot be read.
    pub(crate) fn look(file: &Path, facts: &SystemFacts) -> Result<Self, ProjectError> {
        if is_kas(file) {
            return match KasFiles::of(file, facts)?.read(facts)? {
                KasRead::Whole(whole) => Ok(whole.sources),
                KasRead::Wants(_) => Err(ProjectError::Wants(file.into())),
            };
        }
        if is_setup(file) {
            return match SetupFiles::of(file)?.read(facts)? {
                SetupRead::Whole(whole) => Ok(whole.sources),
                SetupRead::Open(question) => Err(ProjectError::Open(question)),
            };
        }
        if !file.exists() {
            let file = std::path::absolute(file).map_err(FileError::new("find", file))?;
            let name = file.file_name().unwrap_or_default();
            let above = file.ancestors().skip(2).find(|folder| folder.join(name).is_file()).map(Path::to_path_buf);
            let other = file.parent().and_then(OtherTool::find_in).filter(|_| above.is_none());
            return Err(ProjectError::Missing { file, above, other });
        }
        if file.is_dir() {
            return Err(ProjectError::Folder(file.into()));
        }
        let named = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (named, file_name) = (fs::canonicalize(named), file.file_name().unwrap_or_default());
        let file = fs::canonicalize(file).map_err(FileError::new("find", file))?;
        let own = local_path(&file);
        let is_link = named.is_ok_and(|folder| folder.join(file_name) != file) || own.is_symlink();
        let text = |path: &Path| {
            let bytes = read_bounded(path).map_err(FileError::new("read", path))?;
            String::from_utf8(bytes).map_err(|_| ProjectError::NotText(path.into()))
        };
        let config = text(&file)?;
        // A link that leads nowhere is an error, not a file that is not there.
        let local = own.symlink_metadata().is_ok().then(|| text(&own)).transpose()?;
        let local_lock = if local.is_some() { read_lock(&lock_path(&own))? } else { None };
        let lock = read_lock(&lock_path(&file))?;
        Ok(Self { file, is_link, texts: Texts { config, local }, lock, local_lock, ..Self::default() })
    }

    /// The same without the user's own file.
    #[must_use]
    pub(crate) fn committed(&self) -> Self {
        Self { texts: self.texts.committed(), local_lock: None, ..self.clone() }
    }

    /// Problems of the config. A project chooses where its links lead, and a CI's log may be read by many: what came in by one is not quoted.
    pub(crate) fn problems(&self, list: Vec<Problem>) -> Problems {
        let problems = self.texts.problems(&self.file, list);
        let own = local_path(&self.file);
        match self.is_link {
            true if own.is_symlink() => problems
                .unquoted(&format!("{} is a link, so nothing is quoted; put the file itself there", shell(&own))),
            true => problems.unquoted(&format!(
                "{0} is reached through a link, so nothing of it is quoted; to see more:  smidr --config {0} check",
                shell(&self.file)
            )),
            false => problems,
        }
    }

    /// Those of a submission.
    pub(crate) fn of(submission: &Submission) -> Self {
        Self {
            file: submission.config_path().clone(),
            is_link: submission.config_is_link,
            texts: Texts {
                config: submission.config.clone(),
                local: submission.local.as_ref().map(|local| local.config.clone()),
            },
            lock: submission.lock.clone(),
            local_lock: submission.local.as_ref().and_then(|local| local.lock.clone()),
            files: submission.files.clone(),
            recipe: recipe_of(submission),
            ..Self::default()
        }
    }
}

/// The rootfs recipe of a submission. That of a remote one is never looked for on this machine, and stands nowhere but in its project.
fn recipe_of(submission: &Submission) -> Option<SubmittedRecipe> {
    let Origin::Remote { config, .. } = &submission.origin else { return submission.recipe.clone() };
    let mut recipe = submission.recipe.clone().unwrap_or(SubmittedRecipe::Shipped);
    if let SubmittedRecipe::File { text, .. } = &mut recipe {
        text.path = config.with_file_name(text.path.file_name().unwrap_or_default());
    }
    Some(recipe)
}

impl Project {
    /// Reads the config, with the overlay `variant`, and its lock.
    ///
    /// # Errors
    ///
    /// When there is none, it belongs to another user, or it is wrong.
    pub(crate) fn read(file: &Path, variant: Option<&str>, facts: &SystemFacts) -> Result<Self, ProjectError> {
        Self::of(Sources::read(file, facts)?, variant, facts)
    }

    /// The same for any folder, to look at it.
    ///
    /// # Errors
    ///
    /// When there is none, or it is wrong.
    pub(crate) fn look(file: &Path, variant: Option<&str>, facts: &SystemFacts) -> Result<Self, ProjectError> {
        Self::of(Sources::look(file, facts)?, variant, facts)
    }

    /// The project that these texts are.
    ///
    /// # Errors
    ///
    /// When one of them is wrong.
    pub(crate) fn of(sources: Sources, variant: Option<&str>, facts: &SystemFacts) -> Result<Self, ProjectError> {
        let (project, wrong) = Self::examine(sources, variant, facts)?;
        match wrong.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(project.expect("a config without problems was read")),
        }
    }

    /// As much of a project as its texts give, and what is wrong with each of them.
    ///
    /// # Errors
    ///
    /// When there is no such variant.
    pub(crate) fn examine(
        sources: Sources,
        variant: Option<&str>,
        facts: &SystemFacts,
    ) -> Result<(Option<Self>, Vec<ProjectError>), ProjectError> {
        let Sources { file, is_link, texts, .. } = &sources;
        let (mut config, list) = config::examine(texts, variant, &|name| facts.variable(name));
        if let (Some(config), true) = (&mut config, *is_link) {
            config.warnings.clear();
        }
        if let (Some(_), Some(variant)) = (&config, variant)
            && let known = texts.variants()
            && !known.iter().any(|known| known == variant)
        {
            return Err(ProjectError::Variant { variant: variant.into(), file: file.clone(), known });
        }
        let mut wrong = Vec::new();
        let settings = match paths::find(&facts.environment) {
            Ok(paths) => Settings::read(&paths, &facts.home).unwrap_or_else(|error| {
                wrong.push(error.into());
                Settings::default()
            }),
            Err(_) => Settings::default(),
        };
        // A remote client's variables are its own, and its own settings have judged them.
        let judged = config.as_ref().filter(|_| facts.remote.is_none());
        let addresses = judged.into_iter().flat_map(|config| check_addresses(config, &settings));
        let list: Vec<Problem> = list.into_iter().chain(addresses).collect();
        if !list.is_empty() {
            wrong.insert(0, Box::new(sources.problems(list)).into());
        }
        let mut parsed = |path: PathBuf, text: &Option<String>| {
            text.as_deref().map(|text| parse_lock(&path, text)).transpose().unwrap_or_else(|error| {
                wrong.push(error);
                None
            })
        };
        let lock = parsed(lock_path(file), &sources.lock);
        let local = Local::of(&sources, parsed(lock_path(&local_path(file)), &sources.local_lock), facts);
        let own = local.as_ref().and_then(|local| local.lock.as_ref());
        let lock = match (lock, own) {
            (lock, None) => lock,
            (lock, Some(own)) => Some(lock.unwrap_or_default().with(own)),
        };
        let (file, digest) = (file.clone(), Digest::from_sha256(Sha256::digest(&texts.config).into()));
        Ok((config.map(|config| Self { file, config, digest, settings, lock, local, sources }), wrong))
    }

    /// The config's warnings with line and caret, where there are any.
    pub(crate) fn drawn_warnings(&self, colour: bool) -> Option<String> {
        let all = self.sources.texts.problems(&self.file, self.config.warnings.clone());
        (!all.list.is_empty()).then(|| all.render_warnings(colour))
    }

    /// Whether a warning of a plan is one of the config's.
    pub(crate) fn draws(&self, warning: &str) -> bool {
        self.config.warnings.iter().any(|problem| problem.title == warning)
    }

    /// The plan for what is wanted.
    ///
    /// # Errors
    ///
    /// When what is asked for cannot be built anywhere.
    pub(crate) fn plan(
        &self,
        wanted: &BuildRequest,
        facts: &SystemFacts,
        paths: &Paths,
        domain: &Domain,
    ) -> Result<Plan, PlanError> {
        let mut plan = plan::make(&self.config, self.lock.as_ref(), facts, paths, &self.file, wanted, domain)?;
        plan.take_submitted(&self.sources.files, self.sources.recipe.as_ref());
        if facts.remote.is_some() {
            plan.has_all_patches()?;
        }
        self.local.iter().for_each(|local| local.note(&mut plan));
        plan.warnings.extend(self.sources.warnings.iter().cloned());
        if !self.sources.is_link {
            plan.texts.clone_from(&self.sources.texts);
        }
        Ok(plan)
    }

    /// What the project is pinned to, as far as a plan's build host goes.
    pub(crate) fn host_lock(&self, plan: &Plan) -> Option<&HostPin> {
        self.lock.as_ref()?.host(&plan.host.name)
    }

    /// Writes what has been found out into the lock, unless that is nothing new or the lock is to stay as it is.
    ///
    /// # Errors
    ///
    /// When the lock has become unreadable meanwhile, or the file system refuses.
    pub(crate) fn pin(&self, pins: Pins, paths: &Paths, locked: bool) -> Result<(), ProjectError> {
        if locked {
            return Ok(());
        }
        // Builds of two variants may end their preparation at the same time.
        let _alone = self.alone(paths)?;
        let (committed, own) = match &self.local {
            None => (pins, Pins::default()),
            Some(local) => local.divide(pins),
        };
        if self.local.is_none() || committed != Pins::default() {
            self.pin_in(&lock_path(&self.file), committed, self.digest_in_lock())?;
        }
        if own != Pins::default() {
            self.pin_in(&lock_path(&local_path(&self.file)), own, None)?;
        }
        Ok(())
    }

    /// What its lock says of the config: nothing where that is made of another tool's files, since it names folders of this machine.
    pub(crate) fn digest_in_lock(&self) -> Option<&Digest> {
        self.config.as_is.is_none().then_some(&self.digest)
    }

    /// Whether the config has changed since its lock was written.
    pub(crate) fn is_newer_than_lock(&self) -> bool {
        let digest = self.digest_in_lock();
        digest.is_some() && self.lock.as_ref().is_some_and(|lock| lock.config.as_ref() != digest)
    }

    /// Adds to a lock what is new. `config` is the digest of what it is the lock of.
    fn pin_in(&self, path: &Path, pins: Pins, config: Option<&Digest>) -> Result<(), ProjectError> {
        let now = read_lock(path)?.map(|text| parse_lock(path, &text)).transpose()?.unwrap_or_default();
        let mut lock = now.clone();
        lock.pin_news(pins, &self.lock.clone().unwrap_or_default());
        lock.config = config.cloned();
        if lock == now { Ok(()) } else { Ok(write_lock(path, &lock)?) }
    }

    /// Keeps other processes from writing the lock.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn alone(&self, paths: &Paths) -> Result<system::lock::FileLock, FileError> {
        let name = Sha256::digest(self.file.as_os_str().as_encoded_bytes());
        let path = system::lock::path_in(&paths.locks(), &format!("pin-{:.16}", hex::encode(name)));
        system::lock::lock_briefly(&path, "smidr")
    }

    /// Writes the lock as it is.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn write_lock(&self, lock: &Lock) -> Result<(), FileError> {
        write_lock(&lock_path(&self.file), lock)
    }

    /// Writes the lock of the user's own file as it is; one that would pin nothing goes.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn write_local_lock(&self, lock: &Lock) -> Result<(), FileError> {
        let path = lock_path(&local_path(&self.file));
        match lock.is_empty() {
            false => write_lock(&path, lock),
            true => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", &path)(error)),
                _ => Ok(()),
            },
        }
    }
}

/// Writes a lock of exactly these pins.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn write_pins(pins: Pins, path: &Path) -> Result<(), FileError> {
    write_lock(path, &Lock::of(pins))
}

fn write_lock(path: &Path, lock: &Lock) -> Result<(), FileError> {
    let is_local = path.to_string_lossy().ends_with(LOCAL_LOCK);
    let text = if is_local { lock.to_local_text() } else { lock.to_text() };
    let text = text.map_err(|error| FileError::new("write", path)(io::Error::other(error)))?;
    write_atomically(path, text.as_bytes(), 0o644)
}

/// The end of the names of locks of users' own files.
const LOCAL_LOCK: &str = ".local.lock";

/// Keys whose values say which server is asked.
const ADDRESSES: [&str; 9] = [
    "layers.git",
    "layers.mirrors",
    "bitbake.git",
    "bitbake.mirrors",
    "host.image",
    "container.base_image",
    "advanced.sstate_mirrors",
    "advanced.premirrors",
    "advanced.bb_hashserve",
];

/// Refuses variables in addresses that the user has not named: their values would go to whatever server the config chooses.
fn check_addresses(config: &Config, settings: &Settings) -> Vec<Problem> {
    let is_address = |key: &str| {
        let plain = key.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect::<String>();
        ADDRESSES.contains(&plain.as_str())
    };
    let refused = config.variables.iter().filter(|used| used.is_set && is_address(&used.key));
    let refused = refused.filter(|used| !settings.address_variables.contains(&used.name));
    let problem = |used: &UsedVariable| {
        let title = format!("{}: your variable {} may not stand in an address", used.key, used.name);
        Problem::new(used.span.clone(), title).hint(format!(
            "if it may go to that server, add to SMIDR_HOME/{}:  address_variables: [{}]",
            settings::FILE,
            used.name
        ))
    };
    refused.map(problem).collect()
}

/// The lock at a path. What a link leads to is not quoted.
fn parse_lock(path: &Path, text: &str) -> Result<Lock, ProjectError> {
    Lock::parse(text).map_err(|error| match path.to_string_lossy().ends_with(LOCAL_LOCK) {
        true => ProjectError::LocalLock(path.into()),
        false if path.is_symlink() => error.unquoted().into(),
        false => error.into(),
    })
}

/// The configs of projects that are trusted.
pub(crate) fn trusted(paths: &Paths) -> Vec<PathBuf> {
    let trusted = trust::Trust::read(paths).map(|trust| trust.list().to_vec()).unwrap_or_default();
    trusted.into_iter().map(|project| project.config).collect()
}

/// Those configs whose locks name an image. A lock that cannot be read names none.
pub(crate) fn pinning(image: &Digest, configs: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let pins = |config: &Path| {
        let lock = read_lock(&lock_path(config)).ok().flatten().and_then(|text| Lock::parse(&text).ok());
        lock.is_some_and(|lock| lock.hosts().iter().any(|host| host.image == *image))
    };
    configs.into_iter().filter(|config| pins(config)).collect()
}

/// The text of the lock at a path.
fn read_lock(path: &Path) -> Result<Option<String>, FileError> {
    let text = read_bounded(path)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)));
    match text {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read", path)(error)),
    }
}
