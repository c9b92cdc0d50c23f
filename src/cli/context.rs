//! What commands have in common: the environment, the shared folders, the config, the lock, the plan.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    args::Wanted,
    output::talk,
    report::{Failure, Refused},
};
use crate::{
    config::{self, Config, Problems},
    events::Redactor,
    host::{
        facts,
        files::{FileError, write_atomically},
        paths,
    },
    lock::{HostLock, Lock},
    model::{BuildRequest, HostFacts, Paths, Secrets},
    plan::{self, Plan},
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

/// Knows what sounds like a secret in an environment. For what is said where no plan says more.
pub fn redactor(environment: &[(String, String)]) -> Redactor {
    let mut secrets = Secrets::default();
    environment.iter().for_each(|(name, value)| secrets.add_variable(name, value));
    Redactor::new(&secrets)
}

/// A project: its config with everything that belongs to it.
pub struct Project {
    /// The config, absolute.
    pub file: PathBuf,
    /// Its folder.
    pub folder: PathBuf,
    /// The config.
    pub config: Config,
    /// What it is pinned to.
    pub lock: Option<Lock>,
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

impl Project {
    /// Reads the config and its lock.
    pub fn read(file: &Path, variant: Option<&str>, facts: &HostFacts) -> Result<Self, NoProject> {
        if !file.exists() {
            let what = format!("there is no {}", file.display());
            let hint = "begin a project:  smidr init NAME --template hello".to_owned();
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
        let lock = match fs::read_to_string(lock_path(&folder)) {
            Ok(text) => Some(Lock::parse(&text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(FileError::new("read", &lock_path(&folder))(error).into()),
        };
        Ok(Self { file, folder, config, lock })
    }

    /// The plan for what is wanted.
    pub fn plan(&self, wanted: &Wanted, facts: &HostFacts, paths: &Paths) -> Result<Plan, Failure> {
        let request = BuildRequest {
            targets: wanted.targets.clone(),
            machine: wanted.machine.clone(),
            variant: wanted.variant.clone(),
            fetch_only: wanted.fetch_only,
            locked: false,
            offline: false,
            clean: wanted.clean,
            bitbake_args: wanted.bitbake_args.clone(),
        };
        Ok(plan::make(&self.config, self.lock.as_ref(), facts, paths, &self.file, &request)?)
    }

    /// What the project is pinned to, as far as the build host goes.
    pub fn host_lock(&self) -> Option<&HostLock> {
        self.lock.as_ref()?.host.as_ref()
    }

    /// Writes the lock, if it says anything new.
    pub fn pin(&self, host: &HostLock) -> Result<(), FileError> {
        let mut lock = self.lock.clone().unwrap_or_default();
        lock.host = Some(host.clone());
        if self.lock.as_ref() == Some(&lock) {
            return Ok(());
        }
        let path = lock_path(&self.folder);
        let text = lock.to_text().map_err(|error| FileError::new("write", &path)(std::io::Error::other(error)))?;
        write_atomically(&path, text.as_bytes(), 0o644)
    }
}

fn lock_path(folder: &Path) -> PathBuf {
    folder.join("smidr.lock")
}

/// Nothing in particular is wanted.
pub fn default_wanted(variant: Option<String>) -> Wanted {
    Wanted { targets: vec![], variant, machine: None, clean: false, fetch_only: false, bitbake_args: vec![] }
}
