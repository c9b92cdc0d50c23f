//! What a user may ask of builds: start one, look at them, follow one. On this machine.

mod builds;
mod clean;
pub(crate) mod du;
pub(crate) mod gone;
pub(crate) mod unused;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub(crate) use builds::{BuildService, Listed, Sink};
pub(crate) use clean::Clean;
pub(crate) use watch::Woken;

use rustix::{fs::OFlags, io::Errno, process::Signal};

use crate::{
    engine::Services,
    events::EventSink,
    executors::{self, Life, StartError},
    history::{BuildRecord, History, HistoryError, TaskRecord, journal},
    model::{Artifact, BuildId, Diagnosis, Event, Hint, Kind, Outcome, Paths, Record, State, Submission, UserError},
    system::{
        files::{FileError, remove_tree},
        lock::{self, Attempt, Mode, WaitError},
        process::Spawner,
        rooted::Rooted,
        stop::StopToken,
    },
    worker::{
        self, WorkerError,
        control::{Ask, Client},
    },
};

/// Why a request could not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// No such build.
    #[error("there is no build `{0}`")]
    Unknown(String),
    /// A part of the ids of several builds.
    #[error("`{text}` begins the ids of several builds: {}", ids.iter().map(BuildId::as_str).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was typed.
        text: String,
        /// The newest of them.
        ids: Vec<BuildId>,
    },
    /// There is nothing to stop any more.
    #[error("the build {id} is over: {state}")]
    Over {
        /// Which.
        id: BuildId,
        /// How it ended.
        state: State,
    },
    /// Its process does not answer.
    #[error("the worker of {0} does not answer")]
    Silent(BuildId),
    /// Its process cannot be reached.
    #[error("the process of the build {0} cannot be found from here")]
    Elsewhere(BuildId),
    /// It is not over, and cannot be removed.
    #[error("the build {0} is not over")]
    Runs(BuildId),
    /// A place in a list that no answer gave.
    #[error("`{0}` is no place in the list of builds")]
    Place(String),
    /// A build has no such file.
    #[error("{id} left no file {} behind", .path.display())]
    NoArtifact {
        /// The build.
        id: BuildId,
        /// The file.
        path: PathBuf,
    },
    /// A file that was removed since.
    #[error("{} of {id} is not there any more", .path.display())]
    Gone {
        /// The build.
        id: BuildId,
        /// The file.
        path: PathBuf,
    },
    /// A file that has changed since.
    #[error("{} of {id} is damaged: it has {found} bytes, and had {size}", .path.display())]
    Size {
        /// The build.
        id: BuildId,
        /// The file.
        path: PathBuf,
        /// Its size in bytes, when it was kept.
        size: u64,
        /// What there is.
        found: u64,
    },
    /// Beyond the end of a file.
    #[error("{} of {id} has {size} bytes, and {offset} was asked for", .path.display())]
    Offset {
        /// The build.
        id: BuildId,
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What was asked for.
        offset: u64,
    },
    /// What a daemon answered.
    #[error("{message}")]
    Daemon {
        /// Its words.
        message: String,
        /// Its causes.
        #[source]
        cause: Option<Box<Cause>>,
        /// Who has to act.
        kind: Kind,
        /// What to do.
        hints: Vec<Hint>,
        /// Problems of a config, drawn.
        drawn: Option<String>,
    },
    /// Not a single build yet.
    #[error("nothing has been built yet")]
    NoBuilds,
    /// The build itself.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A worker of its own.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The record.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A lock.
    #[error(transparent)]
    FileLock(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A cause, as a daemon told it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Cause {
    text: String,
    #[source]
    cause: Option<Box<Cause>>,
}

impl Cause {
    /// A chain of causes, the last one deepest.
    pub(crate) fn chain(texts: Vec<String>) -> Option<Box<Self>> {
        texts.into_iter().rev().fold(None, |cause, text| Some(Box::new(Self { text, cause })))
    }
}

impl UserError for ServiceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown(_)
            | Self::Ambiguous { .. }
            | Self::NoBuilds
            | Self::Over { .. }
            | Self::Runs(_)
            | Self::Place(_)
            | Self::NoArtifact { .. }
            | Self::Gone { .. }
            | Self::Offset { .. } => Kind::Request,
            Self::Daemon { kind, .. } => *kind,
            Self::Elsewhere(_) | Self::Silent(_) | Self::Size { .. } => Kind::Host,
            Self::Worker(error) => error.kind(),
            Self::Start(error) => error.kind(),
            Self::History(error) => error.kind(),
            Self::FileLock(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Unknown(_) => vec![Hint::command("all builds", "smidr status")],
            Self::Ambiguous { .. } => vec![Hint::new("type more of it")],
            Self::NoBuilds => vec![Hint::new("smidr build")],
            Self::Worker(error) => error.hints(),
            Self::Start(error) => error.hints(),
            Self::History(error) => error.hints(),
            Self::FileLock(error) => error.hints(),
            Self::File(error) => error.hints(),
            Self::Silent(id) => vec![Hint::command("kill it", format!("smidr cancel --force {id}"))],
            Self::Elsewhere(_) => vec![Hint::new("it runs in another container: cancel it there")],
            Self::Runs(id) => vec![Hint::command("stop it first", format!("smidr cancel {id}"))],
            Self::Daemon { hints, .. } => hints.clone(),
            Self::Over { .. }
            | Self::Place(_)
            | Self::NoArtifact { .. }
            | Self::Gone { .. }
            | Self::Size { .. }
            | Self::Offset { .. } => Vec::new(),
        }
    }

    fn drawn(&self, _colour: bool) -> Option<String> {
        match self {
            Self::Daemon { drawn, .. } => drawn.clone(),
            _ => None,
        }
    }
}

/// Notes whether a build has run any program.
struct Ran(Arc<AtomicBool>);

impl EventSink for Ran {
    fn accept(&mut self, record: &Record) {
        if matches!(record.event, Event::Console { .. } | Event::RecipeStep { .. } | Event::SandboxReady { .. }) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Builds of this user, on this machine.
pub(crate) struct LocalService<'a> {
    paths: &'a Paths,
}

impl<'a> LocalService<'a> {
    /// Serves what is under `paths`, which must be open.
    pub(crate) fn new(paths: &'a Paths) -> Self {
        Self { paths }
    }

    /// Runs a build to its end in this process. `shown` are sinks that show it.
    ///
    /// # Errors
    ///
    /// When there can be no record of it.
    pub(crate) fn run(
        &self,
        submission: Submission,
        services: Services,
        stop: &StopToken,
        mut shown: Vec<Box<dyn EventSink>>,
    ) -> Result<Outcome, ServiceError> {
        let id = submission.id.clone();
        let folder = self.paths.build(&id);
        worker::submit(&submission, &folder)?;
        let anything = Arc::new(AtomicBool::new(false));
        shown.push(Box::new(Ran(anything.clone())));
        let ran = worker::run(submission, services, stop, shown, || {});
        if ran.as_ref().is_err_and(|error| !matches!(error, WorkerError::Unrecorded(_))) {
            let _ = self.forget(&id);
        }
        let outcome = ran?;
        if outcome.kind == Some(Kind::Request) && !anything.load(Ordering::SeqCst) {
            // What was refused before anything ran is no build, and would hide those that are.
            self.forget(&id)?;
        }
        Ok(outcome)
    }

    /// Starts the worker of a build, and waits for its first record.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(crate) fn start(&self, submission: &Submission, spawner: &Spawner, life: Life) -> Result<Child, ServiceError> {
        worker::submit(submission, &self.paths.build(&submission.id))?;
        let started = executors::start(&submission.id, self.paths, spawner, life);
        if started.is_err() {
            let _ = self.forget(&submission.id);
        }
        Ok(started?)
    }

    fn forget(&self, id: &BuildId) -> Result<(), ServiceError> {
        // The folder in any case: it holds the values of variables.
        let removed = remove_tree(&self.paths.build(id));
        let _ = std::fs::remove_file(self.paths.alive(id));
        if let Some(history) = self.history()? {
            history.forget(id)?;
        }
        Ok(removed?)
    }

    /// Why a build, or its first try, failed, as its end says.
    ///
    /// # Errors
    ///
    /// When its journal cannot be read.
    pub(crate) fn diagnoses(&self, id: &BuildId) -> Result<Vec<Diagnosis>, ServiceError> {
        let outcome = self.end(id)?;
        let Some(Outcome { diagnoses, recovered, .. }) = outcome else { return Ok(Vec::new()) };
        // Where the second try came to its end, why the first did not.
        let first_try = recovered.filter(|_| diagnoses.is_empty()).map(|recovered| recovered.diagnoses);
        Ok(first_try.unwrap_or(diagnoses))
    }

    /// How a build ended, with all that its end says.
    ///
    /// # Errors
    ///
    /// When its journal cannot be read.
    pub(crate) fn end(&self, id: &BuildId) -> Result<Option<Outcome>, ServiceError> {
        Ok(journal::outcome(&self.paths.build(id))?)
    }

    /// All builds, the newest first.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub(crate) fn list(&self, limit: u32) -> Result<Vec<BuildRecord>, ServiceError> {
        let Some(history) = self.history()? else { return Ok(Vec::new()) };
        self.take_up(&history)?;
        history.builds(limit)?.into_iter().map(|build| self.now(&history, build)).collect()
    }

    /// How many builds there are.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub(crate) fn count(&self) -> Result<u64, ServiceError> {
        Ok(self.history()?.map(|history| history.count()).transpose()?.unwrap_or_default())
    }

    /// One build; without an id the newest. The beginning of an id is enough, or of its last part.
    ///
    /// # Errors
    ///
    /// When there is no such build.
    pub(crate) fn show(&self, id: Option<&str>) -> Result<BuildRecord, ServiceError> {
        let unknown = || id.map_or(ServiceError::NoBuilds, |id| ServiceError::Unknown(id.into()));
        let history = self.history()?.ok_or_else(unknown)?;
        let build = match history.find(id)? {
            None => {
                self.take_up(&history)?;
                match history.matching(id.unwrap_or_default())?.as_mut_slice() {
                    [] => return Err(unknown()),
                    [one] => one.clone(),
                    several => {
                        let ids = several.iter().map(|build| build.id.clone()).collect();
                        return Err(ServiceError::Ambiguous { text: id.unwrap_or_default().into(), ids });
                    }
                }
            }
            Some(build) => build,
        };
        self.now(&history, build)
    }

    /// The newest build of a project, by its config and its name.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub(crate) fn newest_of(&self, config: &Path, name: &str) -> Result<Option<BuildRecord>, ServiceError> {
        let Some(history) = self.history()? else { return Ok(None) };
        history.newest_of(config, name)?.map(|build| self.now(&history, build)).transpose()
    }

    /// That build, or if it does not run one of the same project that does; else one that is not over.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub(crate) fn or_running(&self, build: BuildRecord) -> Result<BuildRecord, ServiceError> {
        let waits = |build: &BuildRecord| build.state == State::Queued;
        let Some(history) = self.history()?.filter(|_| build.state.is_final() || waits(&build)) else {
            return Ok(build);
        };
        let mut found = build.clone();
        let is_beside = |other: &BuildRecord| other.config == build.config && other.name == build.name;
        for other in history.unfinished()?.into_iter().filter(is_beside) {
            let other = self.now(&history, other)?;
            if !other.state.is_final() && (found.state.is_final() || waits(&found) && !waits(&other)) {
                found = other;
            }
        }
        Ok(found)
    }

    /// Asks a build to stop, without waiting for its end.
    ///
    /// # Errors
    ///
    /// When there is no such build, it is over, or its worker cannot be reached.
    pub(crate) fn stop(&self, id: &BuildId, kill: bool, reason: Option<&str>) -> Result<(), ServiceError> {
        let folder = self.paths.build(id);
        let ask = Ask::Stop { kill, reason: reason.map(str::to_owned) };
        let client = Client::connect(&folder).map_err(FileError::new("reach the worker in", &folder))?;
        let asked = client.map(|client| {
            client.ask(&ask)?;
            client.next(true)
        });
        match asked {
            Some(Ok(Some(_))) => Ok(()),
            Some(Err(error)) if !kill && error.kind() == io::ErrorKind::WouldBlock => {
                Err(ServiceError::Silent(id.clone()))
            }
            // It hangs, serves too many others, or its socket is gone: a signal reaches it all the same. What a killed one built goes with
            // it, and the next look at it says so.
            _ => match self.show(Some(id.as_str()))? {
                build if build.state.is_final() => Err(ServiceError::Over { id: build.id, state: build.state }),
                build => {
                    let signal = if kill { Signal::KILL } else { Signal::TERM };
                    let reached = lock::signal_holder(&self.paths.alive(id), &worker::name(id), signal)?;
                    if reached { Ok(()) } else { Err(ServiceError::Elsewhere(build.id)) }
                }
            },
        }
    }

    /// The tasks of a build that is over.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub(crate) fn tasks(&self, id: &BuildId) -> Result<Vec<TaskRecord>, ServiceError> {
        Ok(self.history()?.map(|history| history.tasks(id)).transpose()?.unwrap_or_default())
    }

    /// What a build left behind.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub(crate) fn artifacts(&self, id: &BuildId) -> Result<Vec<Artifact>, ServiceError> {
        Ok(self.history()?.map(|history| history.artifacts(id)).transpose()?.unwrap_or_default())
    }

    /// Opens a file that a build left behind, at an offset. Gives its size too.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub(crate) fn open_artifact(
        &self,
        id: &BuildId,
        artifact: &Artifact,
        offset: u64,
    ) -> Result<(std::fs::File, u64), ServiceError> {
        let path = || artifact.path.clone();
        if artifact.link.is_some() {
            return Err(ServiceError::NoArtifact { id: id.clone(), path: path() });
        }
        let folder = self.paths.build(id).join("artifacts");
        let failed = || FileError::new("read", &folder.join(&artifact.path));
        let gone = || ServiceError::Gone { id: id.clone(), path: path() };
        let root = match Rooted::open(&folder) {
            Err(error) if error.is_missing() => return Err(gone()),
            opened => opened.map_err(io::Error::other).map_err(failed())?,
        };
        // Without it, opening a FIFO would wait for a writer.
        let mut file = match root.open_plain(&artifact.path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(gone()),
            opened => std::fs::File::from(opened.map_err(io::Error::from).map_err(failed())?),
        };
        let found = file.metadata().map_err(failed())?;
        let size = found.len();
        if !found.is_file() || size != artifact.size {
            return Err(ServiceError::Size { id: id.clone(), path: path(), size: artifact.size, found: size });
        }
        if offset > size {
            return Err(ServiceError::Offset { id: id.clone(), path: path(), size, offset });
        }
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset)).map_err(failed())?;
        Ok((file, size))
    }

    /// Takes up builds whose worker was killed after it had written the first record and before the index had it. Such a worker leaves its lock.
    fn take_up(&self, history: &History) -> Result<(), ServiceError> {
        for entry in std::fs::read_dir(self.paths.locks()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_prefix("build-")?.strip_suffix(".lock")?.parse::<BuildId>().ok());
            let Some(id) = id.filter(|id| self.paths.alive(id) == entry.path()) else { continue };
            if history.find(Some(id.as_str()))?.is_none()
                && lock::holder(&entry.path())?.is_none()
                && let Some(build) = History::in_journal(self.paths, &id)
            {
                self.now(history, build)?;
            }
        }
        Ok(())
    }

    fn history(&self) -> Result<Option<History>, ServiceError> {
        Ok(History::open_existing(self.paths)?)
    }

    /// A build as it is now: one whose process is gone was interrupted.
    fn now(&self, history: &History, build: BuildRecord) -> Result<BuildRecord, ServiceError> {
        if build.state.is_final() || build.waits {
            return Ok(build);
        }
        let path = self.paths.alive(&build.id);
        match lock::try_lock(&path, Mode::Exclusive, "smidr status")? {
            Attempt::Busy(_) => Ok(history.ended(&build).unwrap_or(build)),
            Attempt::Held(_lock) => {
                // It may have ended between the two looks.
                let again = history.find(Some(build.id.as_str()))?.unwrap_or(build);
                let ended = if again.state.is_final() { again } else { history.mark_interrupted(&again) };
                worker::tidy(&self.paths.build(&ended.id));
                // Last: a process that makes it anew must find what is done here.
                let _ = std::fs::remove_file(path);
                Ok(ended)
            }
        }
    }

    /// Makes the index again from the journals. Gives the number of builds.
    ///
    /// # Errors
    ///
    /// When the index cannot be written.
    pub(crate) fn rebuild(&self, unreadable: impl FnMut(&str, String)) -> Result<u64, ServiceError> {
        self.remove_unbegun()?;
        let count = History::rebuild(self.paths, unreadable)?;
        // Those whose worker is gone are told so.
        if let Some(history) = self.history()? {
            for build in history.unfinished()? {
                self.now(&history, build)?;
            }
        }
        Ok(count)
    }
}

/// Eight hexadecimal digits' worth of chance, from the keys that the standard library draws from the kernel.
pub(crate) fn random() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    let hash = RandomState::new().hash_one(std::process::id());
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests;
