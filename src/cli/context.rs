//! What commands have in common: the environment, the shared folders, the config, the lock, the plan.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use sha2::{Digest as _, Sha256};

use super::{
    args::Wanted,
    output::talk,
    report::{Failure, Refused},
};
use crate::{
    config::{self, Config, Problems},
    engine::EngineError,
    history::BuildRecord,
    host::{
        self, facts,
        files::{FileError, shell, write_atomically},
        lock::{Mode, WaitError},
        paths,
        stop::Stop,
    },
    lock::{HostLock, Lock, Pins, lock_path},
    model::{BuildRequest, Digest, HostFacts, Paths, Secrets},
    plan::{self, Plan},
    service::LocalService,
};

/// The caller's environment, as text; variables that are no UTF-8 are left out.
pub fn environment() -> Vec<(String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// The shared folders, open for use.
pub fn open_paths(facts: &HostFacts) -> Result<Paths, Failure> {
    let found = paths::find(&facts.environment)?;
    paths::open(&found)?;
    Ok(found)
}

/// This machine and its caller.
pub fn gather() -> HostFacts {
    facts::gather(environment())
}

/// What sounds like a secret in an environment. For what is said where no plan says more.
pub fn secrets(environment: &[(String, String)]) -> Secrets {
    let mut secrets = Secrets::default();
    environment.iter().for_each(|(name, value)| secrets.add_variable(name, value));
    secrets
}

/// A project: its config with everything that belongs to it.
pub struct Project {
    /// The config, absolute.
    pub file: PathBuf,
    /// The config.
    pub config: Config,
    /// Of the config's text.
    pub digest: Digest,
    /// What it is pinned to.
    pub lock: Option<Lock>,
    // As it was read.
    lock_text: Option<String>,
}

/// Why there is no project.
pub enum NoProject {
    /// The config is wrong; shown with line and caret.
    Problems(Box<Problems>),
    /// Anything else.
    Failure(Failure),
}

impl<E: Into<Failure>> From<E> for NoProject {
    fn from(error: E) -> Self {
        Self::Failure(error.into())
    }
}

impl NoProject {
    /// Shows problems where they are, and passes on anything else.
    pub fn report(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Problems(problems) => {
                talk(problems.render(super::output::watched()));
                talk(format!("error: {problems}"));
                Ok(ExitCode::from(2))
            }
            Self::Failure(failure) => Err(failure),
        }
    }
}

/// A build by its id; without one the newest of the project in this folder, or of all where there is no project.
pub fn named_or_newest(
    service: &LocalService<'_>,
    id: Option<&str>,
    config: &Path,
    facts: &HostFacts,
) -> Result<BuildRecord, Failure> {
    let project = if id.is_none() { Project::read(config, None, facts).ok() } else { None };
    let Some(project) = project else { return Ok(service.show(id)?) };
    service.newest_of(&project.config.name)?.ok_or_else(|| {
        let what = format!("`{}` has not been built yet", project.config.name);
        Refused::new(what, Some("builds of other projects:  smidr status".into())).into()
    })
}

impl Project {
    /// Reads the config and its lock.
    pub fn read(file: &Path, variant: Option<&str>, facts: &HostFacts) -> Result<Self, NoProject> {
        if !file.exists() {
            let file = std::path::absolute(file).map_err(FileError::new("find", file))?;
            let what = format!("there is no {}", file.display());
            let name = file.file_name().unwrap_or_default();
            let above = file.ancestors().skip(2).find(|folder| folder.join(name).is_file());
            let hint = match above {
                Some(folder) => format!("the project is further up:  cd {}", shell(folder)),
                None => "begin a project:  smidr init NAME --template hello".to_owned(),
            };
            return Err(NoProject::Failure(Refused::new(what, Some(hint)).into()));
        }
        let file = fs::canonicalize(file).map_err(FileError::new("find", file))?;
        let folder = file.parent().unwrap_or(Path::new("/")).to_path_buf();
        paths::check_owner(&folder)?;
        let text = match fs::read(&file).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                let what = format!("{} is no text in UTF-8", file.display());
                return Err(NoProject::Failure(Refused::new(what, None).into()));
            }
            Err(error) => return Err(FileError::new("read", &file)(error).into()),
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lookup =
            |name: &str| facts.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let config = config::read(&name, &text, variant, &lookup).map_err(|p| NoProject::Problems(Box::new(p)))?;
        let lock_text = read_lock(&file)?;
        let lock = lock_text.as_deref().map(Lock::parse).transpose()?;
        let digest = Digest::from_sha256(Sha256::digest(&text).into());
        Ok(Self { file, config, digest, lock, lock_text })
    }

    /// The plan for what is wanted.
    pub fn plan(&self, wanted: &Wanted, facts: &HostFacts, paths: &Paths) -> Result<Plan, Failure> {
        let request = BuildRequest {
            targets: wanted.targets.clone(),
            machine: wanted.machine.clone(),
            variant: wanted.variant.clone(),
            fetch_only: wanted.fetch_only,
            locked: wanted.locked,
            offline: wanted.offline,
            clean: wanted.clean,
            bitbake_args: wanted.bitbake_args.clone(),
        };
        Ok(plan::make(&self.config, self.lock.as_ref(), facts, paths, &self.file, &request)?)
    }

    /// What the project is pinned to, as far as a plan's build host goes.
    pub fn host_lock(&self, plan: &Plan) -> Option<&HostLock> {
        self.lock.as_ref()?.host(&plan.host.name)
    }

    /// Writes what has been found out into the lock, unless that is nothing new or the lock is to stay as it is.
    pub fn pin(&self, pins: Pins, paths: &Paths, locked: bool) -> Result<(), EngineError> {
        if locked {
            return Ok(());
        }
        // Builds of two variants may end their preparation at the same time.
        let _alone = self.alone(paths)?;
        let text = read_lock(&self.file)?;
        let now = match text {
            text if text == self.lock_text => self.lock.clone(),
            text => text.as_deref().map(Lock::parse).transpose()?,
        };
        let now = now.unwrap_or_default();
        let mut lock = now.clone();
        lock.pin_news(pins, &self.lock.clone().unwrap_or_default());
        lock.config = Some(self.digest.clone());
        if lock == now { Ok(()) } else { Ok(self.write_lock(&lock)?) }
    }

    /// Keeps other processes from writing the lock.
    pub fn alone(&self, paths: &Paths) -> Result<host::lock::Lock, FileError> {
        let name = Sha256::digest(self.file.as_os_str().as_encoded_bytes());
        let path = host::lock::path_in(&paths.locks(), &format!("pin-{}", hex::encode(&name[..8])));
        // Held for the time of a rename, so nobody is told about it.
        match host::lock::lock(&path, Mode::Exclusive, "smidr", &Stop::default(), |_| {}) {
            Ok(lock) => Ok(lock),
            Err(WaitError::File(error)) => Err(error),
            Err(WaitError::Stopped(_)) => Err(FileError::new("lock", &path)(std::io::ErrorKind::Interrupted.into())),
        }
    }

    /// Writes the lock as it is.
    pub fn write_lock(&self, lock: &Lock) -> Result<(), FileError> {
        let path = lock_path(&self.file);
        let text = lock.to_text().map_err(|error| FileError::new("write", &path)(std::io::Error::other(error)))?;
        write_atomically(&path, text.as_bytes(), 0o644)
    }
}

/// The text of a config's lock.
fn read_lock(config: &Path) -> Result<Option<String>, FileError> {
    let path = lock_path(config);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read", &path)(error)),
    }
}

/// Nothing in particular is wanted.
pub fn default_wanted(variant: Option<String>) -> Wanted {
    Wanted { variant, ..Wanted::default() }
}
