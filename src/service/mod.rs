//! What a user may ask of builds: start one, look at them, follow one. Local, in this process.

mod clean;

use std::{thread, time::Duration};

pub use clean::Clean;

use rustix::process::Signal;

use crate::{
    engine::{self, EngineError, Tools},
    events::{Emitter, EventSink},
    history::{BuildRecord, Failure, History, HistoryError},
    image::{ImageError, ImageStore},
    lock::{HostPin, Pins},
    model::{Artifact, BuildId, InvalidName, Kind, Outcome, Paths, Record, State, SystemFacts, UserError},
    plan::Plan,
    system::{
        files::FileError,
        lock::{self, Attempt, FileLock, Mode, WaitError},
        process::Spawner,
        stop::StopToken,
    },
};

/// How often a build of another process is looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// How many events are read at once. Each may take a quarter of a mebibyte.
const PAGE: u32 = 100;

/// Why a request could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No such build.
    #[error("there is no build `{0}`")]
    Unknown(String),
    /// There is nothing to stop any more.
    #[error("the build {id} is over: {state}")]
    Over {
        /// Which.
        id: BuildId,
        /// How it ended.
        state: State,
    },
    /// Its process cannot be reached.
    #[error("the process of the build {0} cannot be found from here")]
    Elsewhere(BuildId),
    /// Not a single build yet.
    #[error("nothing has been built yet")]
    NoBuilds,
    /// The build itself.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The record.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A lock.
    #[error(transparent)]
    FileLock(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for ServiceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown(_) | Self::NoBuilds | Self::Name(_) | Self::Over { .. } => Kind::Request,
            Self::Elsewhere(_) => Kind::Host,
            Self::Engine(error) => error.kind(),
            Self::Image(error) => error.kind(),
            Self::History(error) => error.kind(),
            Self::FileLock(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => Some("all builds:  smidr status".into()),
            Self::NoBuilds => Some("smidr build".into()),
            Self::Engine(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::History(error) => error.hint(),
            Self::FileLock(error) => error.hint(),
            Self::File(error) => error.hint(),
            Self::Elsewhere(_) => Some("it runs in another container: cancel it there".into()),
            Self::Name(_) | Self::Over { .. } => None,
        }
    }
}

/// Builds of this user, on this machine.
pub struct LocalService<'a> {
    paths: &'a Paths,
}

/// What a build needs of the process that it runs in.
pub struct Means<'a> {
    /// This machine.
    pub facts: &'a SystemFacts,
    /// Starts processes.
    pub spawner: &'a Spawner,
    /// Whether somebody wants it to stop.
    pub stop: &'a StopToken,
}

/// A build that has a name and a journal, and is about to begin.
pub struct Begun {
    /// Its id.
    pub id: BuildId,
    on: Emitter,
    store: ImageStore,
    failure: Failure,
    // Says that the build's process lives.
    _alive: FileLock,
}

impl<'a> LocalService<'a> {
    /// Serves what is under `paths`, which must be open.
    pub fn new(paths: &'a Paths) -> Self {
        Self { paths }
    }

    /// Names a build and opens its journal. `make_sinks` gives the sinks that show it.
    ///
    /// # Errors
    ///
    /// When the record or the store cannot be opened.
    pub fn begin(
        &self,
        plan: &Plan,
        make_sinks: impl FnOnce(&BuildId) -> Vec<Box<dyn EventSink>>,
    ) -> Result<Begun, ServiceError> {
        let id = plan.build_id(random())?;
        let store = ImageStore::open(self.paths)?;
        let (history, failure) = History::open(&self.paths.history())?.into_sink();
        let mut sinks: Vec<Box<dyn EventSink>> = vec![Box::new(history)];
        sinks.extend(make_sinks(&id));
        // Only `smidr status` could stand in the way, for a moment.
        let stop = StopToken::default();
        let alive = lock::lock(&self.alive_path(&id), Mode::Exclusive, &format!("build {id}"), &stop, |_| {})?;
        Ok(Begun { on: Emitter::new(id.clone(), sinks), id, store, failure, _alive: alive })
    }

    /// Runs a build to its end. `pin` writes the project's lock.
    ///
    /// # Errors
    ///
    /// What kept BitBake from running to its end.
    pub fn run(
        &self,
        begun: Begun,
        plan: Plan,
        lock: Option<&HostPin>,
        means: &Means<'_>,
        pin: impl FnOnce(Pins) -> Result<(), EngineError>,
    ) -> Result<Outcome, ServiceError> {
        let Means { facts, spawner, stop } = *means;
        let store = begun.store.heeding(stop);
        let tools = Tools { paths: self.paths, facts, store: &store, spawner, stop, on: &begun.on };
        let outcome = engine::build(plan, lock, tools, pin);
        let _ = std::fs::remove_file(self.alive_path(&begun.id));
        if outcome.as_ref().is_err_and(|error| error.kind() == Kind::Request) && !self.paths.build(&begun.id).exists() {
            // What was refused before it began is no build, and would hide those that are.
            if let Some(history) = self.history()? {
                history.forget(&begun.id)?;
            }
        }
        let outcome = outcome?;
        match begun.failure.take() {
            Some(error) => Err(error.into()),
            None => Ok(outcome),
        }
    }

    /// All builds, the newest first.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn list(&self, limit: u32) -> Result<Vec<BuildRecord>, ServiceError> {
        let Some(history) = self.history()? else { return Ok(Vec::new()) };
        history.builds(limit)?.into_iter().map(|build| self.now(&history, build)).collect()
    }

    /// How many builds there are.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn count(&self) -> Result<u64, ServiceError> {
        Ok(self.history()?.map(|history| history.count()).transpose()?.unwrap_or_default())
    }

    /// One build; without an id the newest.
    ///
    /// # Errors
    ///
    /// When there is no such build.
    pub fn show(&self, id: Option<&str>) -> Result<BuildRecord, ServiceError> {
        let unknown = || id.map_or(ServiceError::NoBuilds, |id| ServiceError::Unknown(id.into()));
        let history = self.history()?.ok_or_else(unknown)?;
        let build = history.find(id)?.ok_or_else(unknown)?;
        self.now(&history, build)
    }

    /// The newest build of a project.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn newest_of(&self, name: &str) -> Result<Option<BuildRecord>, ServiceError> {
        let Some(history) = self.history()? else { return Ok(None) };
        history.newest_of(name)?.map(|build| self.now(&history, build)).transpose()
    }

    /// Asks a build to stop, and waits until it has; with `force`, everything in it is killed at once. Gives its final state.
    ///
    /// # Errors
    ///
    /// When there is no such build, it is over already, or it runs where it cannot be reached.
    pub fn cancel(&self, id: &str, force: bool) -> Result<BuildRecord, ServiceError> {
        let build = self.show(Some(id))?;
        if build.state.is_final() {
            return Err(ServiceError::Over { id: build.id, state: build.state });
        }
        // Two different ones: of two that are alike and both wait, the kernel keeps one (signal(7)).
        let signals: &[Signal] = if force { &[Signal::INT, Signal::TERM] } else { &[Signal::INT] };
        let reached = lock::signal_holder(&self.alive_path(&build.id), signals)?;
        loop {
            let now = self.show(Some(id))?;
            if now.state.is_final() {
                return Ok(now);
            }
            if !reached {
                return Err(ServiceError::Elsewhere(build.id));
            }
            thread::sleep(GLANCE);
        }
    }

    /// What a build left behind.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn artifacts(&self, id: &BuildId) -> Result<Vec<Artifact>, ServiceError> {
        Ok(self.history()?.map(|history| history.artifacts(id)).transpose()?.unwrap_or_default())
    }

    /// Hands every event of a build to `take`, in order and without a gap; with `follow`, until the build ends. `take` says
    /// whether it wants more.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn watch(&self, id: &BuildId, follow: bool, mut take: impl FnMut(Record) -> bool) -> Result<(), ServiceError> {
        let Some(history) = self.history()? else { return Ok(()) };
        let mut after = 0;
        loop {
            // Asked before reading: what is written after the end of a build would else be missed.
            let over = !follow || self.show(Some(id.as_str()))?.state.is_final();
            loop {
                let page = history.events(id, after, PAGE)?;
                let Some(last) = page.last() else { break };
                after = last.seq;
                if !page.into_iter().all(&mut take) {
                    return Ok(());
                }
            }
            if over {
                return Ok(());
            }
            thread::sleep(GLANCE);
        }
    }

    fn history(&self) -> Result<Option<History>, ServiceError> {
        Ok(History::open_existing(&self.paths.history())?)
    }

    /// A build as it is now: one whose process is gone has failed.
    fn now(&self, history: &History, build: BuildRecord) -> Result<BuildRecord, ServiceError> {
        if build.state.is_final() {
            return Ok(build);
        }
        let path = self.alive_path(&build.id);
        match lock::try_lock(&path, Mode::Exclusive, "smidr status")? {
            Attempt::Busy(_) => Ok(build),
            Attempt::Held(_lock) => {
                // It may have ended between the two looks.
                let again = history.find(Some(build.id.as_str()))?.unwrap_or(build);
                let _ = std::fs::remove_file(path);
                if again.state.is_final() { Ok(again) } else { Ok(history.mark_interrupted(&again)?) }
            }
        }
    }

    fn alive_path(&self, id: &BuildId) -> std::path::PathBuf {
        lock::path_in(&self.paths.locks(), &format!("build-{id}"))
    }
}

/// Eight hexadecimal digits' worth of chance, from the keys that the standard library draws from the kernel.
pub fn random() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    let hash = RandomState::new().hash_one(std::process::id());
    (hash >> 32) as u32
}
