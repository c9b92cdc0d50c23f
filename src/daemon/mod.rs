//! The daemon: it takes submissions, decides which build starts when, starts their workers and follows them. It runs no build itself.

pub(crate) mod access;
pub(crate) mod allow;
pub(crate) mod audit;
pub(crate) mod blobs;
pub(crate) mod config;
pub(crate) mod ledger;
pub(crate) mod limits;
pub(crate) mod metrics;
pub(crate) mod policy;
mod principals;
mod queue;
mod reload;
mod retention;
mod scheduled;
pub(crate) mod schedules;
mod submit;
mod tally;
mod told;
pub(crate) mod units;
pub(crate) mod webhooks;
mod where_asked;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

use self::{
    access::{Denied, Principal, Scope, Token, TokenHash},
    audit::Audit,
    blobs::{BlobError, Blobs},
    config::DaemonConfig,
    ledger::{Ledger, LedgerError},
    metrics::Metrics,
    schedules::{ScheduleError, Schedules, fetched::FetchedError},
    webhooks::{WebhookError, Webhooks},
};
pub(crate) use crate::artifacts::ArtifactError;
use crate::{
    artifacts,
    history::{BuildRecord, Filter, History, HistoryError},
    model::{Artifact, BuildId, Digest, Hint, Kind, Paths, SystemFacts, UserError},
    plan::PlanError,
    project::ProjectError,
    service::{BuildService as _, LocalService, ServiceError},
    settings::{Settings, SettingsError},
    system::{
        files::{FileError, make_private_dir, read_text},
        lock::{self, Attempt, FileLock, Mode},
        process::Spawner,
        stop::StopToken,
    },
    worker::{self, WorkerError},
};
use queue::Dropped;
pub(crate) use queue::{About, InQueue, Place, QueueView};
pub(crate) use retention::{Purge, Rule};
pub(crate) use submit::Asked;

/// The ledger's file, and that of the lock, below SMIDR_HOME/daemon.
const LEDGER: &str = "daemon.db";
const LOCK: &str = "daemon.lock";

/// Why the daemon cannot do what is asked of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Another one runs.
    #[error("a daemon runs already for this SMIDR_HOME: {0}")]
    Runs(String),
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The config.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// What it asks for cannot be built.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// What it asks for is not granted.
    #[error("the project asks for what was not granted: {}", .0.join(", "))]
    NotGranted(Vec<String>),
    /// What it asks for is not allowed to those who are elsewhere.
    #[error("{0}")]
    Refused(Box<submit::Refused>),
    /// Too many wait.
    #[error("{most} builds of {customer} wait already")]
    Full {
        /// Whose.
        customer: String,
        /// How many may wait.
        most: u32,
    },
    /// Schedules.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A config in git, for a schedule.
    #[error(transparent)]
    Fetched(#[from] FetchedError),
    /// What a schedule has stored.
    #[error("the stored submission cannot be read")]
    Template(#[source] serde_json::Error),
    /// Webhooks.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// Blobs.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A path layer that was not sent.
    #[error("the layer {layer} was not sent: there is no blob {digest}")]
    NoBlob {
        /// Its name.
        layer: String,
        /// Of its archive.
        digest: Digest,
    },
    /// No build that the caller may see.
    #[error("there is no build `{id}`")]
    NoBuild {
        /// What was asked for.
        id: String,
        /// Builds that there are, whose ids are like it.
        nearest: Vec<BuildId>,
    },
    /// Builds.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The index.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A build that never began.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// `daemon.yaml`, or the user's settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// A name that is taken.
    #[error("there is a {what} `{name}` already")]
    Taken {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name that is not there.
    #[error("there is no {what} `{name}`")]
    Missing {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Artifacts.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// It ends.
    #[error("the daemon is about to end")]
    Ends,
}

impl UserError for DaemonError {
    fn kind(&self) -> Kind {
        match self {
            Self::Runs(_) | Self::NotGranted(_) | Self::Taken { .. } | Self::Missing { .. } => Kind::Request,
            Self::Ends | Self::Full { .. } => Kind::Outside,
            Self::Refused(_) | Self::NoBlob { .. } | Self::NoBuild { .. } => Kind::Request,
            Self::Blob(error) => error.kind(),
            Self::Schedule(error) => error.kind(),
            Self::Fetched(error) => error.kind(),
            Self::Template(_) => Kind::Host,
            Self::Webhook(error) => error.kind(),
            Self::Artifacts(error) => error.kind(),
            Self::Denied(error) => error.kind(),
            Self::Project(error) => error.kind(),
            Self::Plan(error) => error.kind(),
            Self::Service(error) => error.kind(),
            Self::Ledger(error) => error.kind(),
            Self::History(error) => error.kind(),
            Self::Worker(error) => error.kind(),
            Self::Settings(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Runs(_) => vec![
                Hint::command("look at it", "smidr daemon status"),
                Hint::command("let this one take its place", "smidr daemon --replace"),
                Hint::command("or end it; its builds go on", "smidr daemon stop"),
            ],
            Self::NotGranted(_) => vec![Hint::command("in the project's folder, if you trust its code", "smidr trust")],
            Self::Refused(refused) => refused.hints(),
            Self::Full { .. } => vec![Hint::new("try again when one of them has started")],
            Self::Blob(error) => error.hints(),
            Self::NoBlob { .. } => vec![Hint::new("send it with UploadBlob first, as `smidr client start` does")],
            Self::NoBuild { nearest, .. } => {
                let near = nearest.iter().map(|id| Hint::new(format!("did you mean {id}?")));
                near.chain([Hint::command("all builds", "smidr client list")]).collect()
            }
            Self::Schedule(error) => error.hints(),
            Self::Fetched(error) => error.hints(),
            Self::Webhook(error) => error.hints(),
            Self::Taken { .. } | Self::Missing { .. } | Self::Template(_) | Self::Ends => Vec::new(),
            Self::Denied(error) => error.hints(),
            Self::Artifacts(error) => error.hints(),
            Self::Project(error) => error.hints(),
            Self::Plan(error) => error.hints(),
            Self::Service(error) => error.hints(),
            Self::Ledger(error) => error.hints(),
            Self::History(error) => error.hints(),
            Self::Worker(error) => error.hints(),
            Self::Settings(error) => error.hints(),
            Self::File(error) => error.hints(),
        }
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        match self {
            Self::Project(error) => error.drawn(colour),
            Self::Refused(refused) => refused.drawn(colour),
            Self::Fetched(error) => error.drawn(colour),
            Self::Settings(error) => error.drawn(colour),
            Self::Service(error) => error.drawn(colour),
            _ => None,
        }
    }
}

/// What the daemon is and knows. Shared by all that serves.
pub(crate) struct Daemon {
    /// SMIDR_HOME.
    pub paths: Paths,
    /// This machine.
    pub facts: SystemFacts,
    /// When it began.
    pub started: Timestamp,
    config: RwLock<Arc<DaemonConfig>>,
    /// Path layers of clients.
    pub blobs: Blobs,
    /// Who did what.
    pub audit: Audit,
    /// Builds at times.
    pub schedules: Schedules,
    /// What addresses are told.
    pub webhooks: Webhooks,
    /// What is counted.
    pub metrics: Metrics,
    spawner: Spawner,
    ledger: Ledger,
    history: Mutex<History>,
    queue: Mutex<queue::State>,
    wake: mpsc::Sender<queue::Signal>,
    // Builds that are over: what is older may go.
    retain: mpsc::Sender<Option<BuildId>>,
    tokens: RwLock<HashMap<TokenHash, Token>>,
    // Counts changes of tokens: streams look again whether they may go on.
    access: watch::Sender<u64>,
    stop: StopToken,
    // What it listens on, for people, and what clients pin.
    addresses: RwLock<(Vec<String>, Option<String>)>,
    ending: watch::Sender<Option<Ending>>,
    tallies: Mutex<HashMap<BuildId, tally::Tally>>,
    // Counts changes of the queue.
    changes: watch::Sender<u64>,
    _alone: FileLock,
}

/// How the daemon is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Builds go on.
    Leave,
    /// Builds are cancelled.
    Cancel,
    /// It ends with the last build, and starts no more.
    Drain,
    /// Builds go on, and another daemon has its sockets.
    Replaced,
}

/// Among how many builds, the newest, like ids are looked for; how many of them are told.
const LIKE: (u32, usize) = (200, 3);

/// How often a build is looked at that is being started, before it can be stopped.
const BETWEEN: Duration = Duration::from_millis(10);

/// How long what goes on beside the queue pauses after a failure.
const AFTER_A_FAILURE: Duration = Duration::from_secs(30);

/// Does what ends with the daemon alone, and begins again where it fails: neither a disk that is full for a moment nor a panic ends the schedules.
fn keep_on<E: std::error::Error + 'static>(what: &str, pause: Duration, work: impl Fn() -> Result<(), E>) {
    loop {
        // All that it shares is in the ledger, or behind locks that outlive a panic.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(&work)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "{what} have failed, and begin again");
            }
            Err(_) => tracing::error!("{what} have panicked, and begin again"),
        }
        std::thread::sleep(pause);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failure of a call to the kernel that has no object.
fn io_error(action: &'static str, paths: &Paths) -> impl FnOnce(io::Error) -> FileError {
    FileError::new(action, &paths.daemon())
}

/// Waits until no other daemon runs, but not longer than `patience`.
fn alone(file: &Path, patience: Duration) -> Result<FileLock, DaemonError> {
    let until = Instant::now() + patience;
    loop {
        match lock::lock_if_free(file, Mode::Exclusive, "daemon")? {
            Attempt::Held(lock) => return Ok(lock),
            Attempt::Busy(holder) if Instant::now() >= until => return Err(DaemonError::Runs(holder)),
            Attempt::Busy(_) => {}
        }
    }
}

impl Daemon {
    /// Takes the SMIDR_HOME for this daemon, finds what waits and what runs, and starts builds.
    ///
    /// # Errors
    ///
    /// When another daemon runs, also after `patience`, or something that it needs cannot be opened.
    pub(crate) fn start(
        paths: Paths,
        facts: SystemFacts,
        spawner: Spawner,
        patience: Duration,
    ) -> Result<Arc<Self>, DaemonError> {
        let folder = paths.daemon();
        make_private_dir(&folder)?;
        let alone = alone(&folder.join(LOCK), patience)?;
        let ledger = Ledger::open(&folder.join(LEDGER))?;
        let now = Timestamp::now();
        ledger.forget_requests(now)?;
        let history = History::open(&paths)?;
        history.by_customer()?;
        let tokens = ledger.tokens()?.into_iter().map(|token| (token.hash, token)).collect();
        let settings = Settings::read(&paths, &facts.home)?;
        let config = config::read(&paths)?;
        let builds = settings.limits.builds(facts.cpus);
        let mut queue = queue::State::new(builds);
        queue.configure(&config, builds);
        let (wake, signals) = mpsc::channel();
        let (retain, ended) = mpsc::channel();
        let daemon = Arc::new(Self {
            queue: Mutex::new(queue),
            schedules: Schedules::new(&ledger)?,
            webhooks: Webhooks::new(&ledger, webhooks::Settings::new(config.private_webhooks, facts.ca_bundle.clone())),
            metrics: Metrics::new(),
            blobs: Blobs::open(&paths, config.limits.blob_size, config.limits.blobs_size)?,
            audit: Audit::open(&folder)?,
            config: RwLock::new(Arc::new(config)),
            paths,
            facts,
            started: now,
            spawner,
            ledger,
            history: Mutex::new(history),
            wake,
            retain,
            tokens: RwLock::new(tokens),
            access: watch::Sender::new(0),
            stop: StopToken::default(),
            addresses: RwLock::default(),
            ending: watch::Sender::new(None),
            tallies: Mutex::default(),
            changes: watch::Sender::new(0),
            _alone: alone,
        });
        daemon.recover()?;
        let failed = io_error("start a thread of", &daemon.paths);
        queue::run(daemon.clone(), signals).map_err(failed)?;
        daemon.begin_beside()?;
        daemon.sweep_blobs();
        retention::run(daemon.clone(), ended).map_err(io_error("start a thread of", &daemon.paths))?;
        let _ = daemon.retain.send(None);
        Ok(daemon)
    }

    /// Starts what runs beside the queue: schedules, and what is told to webhooks.
    fn begin_beside(self: &Arc<Self>) -> Result<(), DaemonError> {
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let begun = std::thread::Builder::new().name(name.into()).spawn(work);
            begun.map(drop).map_err(io_error("start a thread of", &self.paths))
        };
        let daemon = self.clone();
        spawn(
            "schedules",
            Box::new(move || {
                keep_on("schedules", AFTER_A_FAILURE, || {
                    daemon.schedules.run(&daemon.stop, |due, source| daemon.run_schedule(due, source))
                });
            }),
        )?;
        let daemon = self.clone();
        spawn(
            "webhooks",
            Box::new(move || {
                keep_on("webhooks", AFTER_A_FAILURE, || {
                    daemon.webhooks.run(&daemon.stop, |one| daemon.metrics.sent(one))
                });
            }),
        )?;
        Ok(())
    }

    /// What `daemon.yaml` says.
    pub(crate) fn config(&self) -> Arc<DaemonConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Builds of this machine.
    pub(crate) fn builds(&self) -> LocalService<'_> {
        LocalService::new(&self.paths)
    }

    /// A build that the caller may see.
    ///
    /// # Errors
    ///
    /// When there is none, or it is another customer's.
    pub(crate) fn show(&self, principal: &Principal, id: &str) -> Result<BuildRecord, DaemonError> {
        principal.require(Scope::Read)?;
        let build = match self.builds().show(Some(id)) {
            // Other customers' ids are not told.
            Err(ServiceError::Ambiguous { text, ids }) => {
                let seen: Vec<BuildRecord> = ids
                    .iter()
                    .filter_map(|id| self.builds().show(Some(id.as_str())).ok())
                    .filter(|build| principal.sees(build.customer.as_deref()))
                    .collect();
                match <[BuildRecord; 1]>::try_from(seen) {
                    Ok([one]) => one,
                    Err(seen) if seen.is_empty() => return Err(self.no_build(principal, id)),
                    Err(seen) => {
                        let ids = seen.into_iter().map(|build| build.id).collect();
                        return Err(ServiceError::Ambiguous { text, ids }.into());
                    }
                }
            }
            Err(ServiceError::Unknown(_)) if self.index_again(id)? => self.builds().show(Some(id))?,
            Err(ServiceError::Unknown(_)) => return Err(self.no_build(principal, id)),
            found => found?,
        };
        match principal.sees(build.customer.as_deref()) {
            true => Ok(build),
            false => Err(self.no_build(principal, id)),
        }
    }

    /// What is said of an id that is none, whether it is of another customer's build or of no build.
    fn no_build(&self, principal: &Principal, id: &str) -> DaemonError {
        let filter = Filter { customer: principal.customer.clone(), ..Filter::default() };
        let known = self.builds().page(&filter, None, LIKE.0).map(|(builds, _)| builds).unwrap_or_default();
        let like = |build: &BuildId| strsim::normalized_damerau_levenshtein(build.as_str(), id);
        let mut nearest: Vec<BuildId> = known.into_iter().map(|build| build.id).filter(|id| like(id) > 0.7).collect();
        nearest.sort_by(|one, other| like(other).total_cmp(&like(one)));
        nearest.truncate(LIKE.1);
        DaemonError::NoBuild { id: id.into(), nearest }
    }

    /// Stops a build. Gives its state.
    ///
    /// # Errors
    ///
    /// When there is none, or its worker cannot be reached.
    pub(crate) fn cancel(
        self: &Arc<Self>,
        principal: &Principal,
        id: &str,
        force: bool,
        reason: Option<&str>,
    ) -> Result<BuildRecord, DaemonError> {
        principal.require(Scope::Cancel)?;
        let build = self.show(&Principal { scopes: vec![Scope::Read], ..principal.clone() }, id)?;
        if build.state.is_final() {
            return Ok(build);
        }
        let by = format!("cancelled by {}", principal.name);
        let reason = reason.map_or(by.clone(), |reason| format!("{by}: {reason}"));
        loop {
            match self.drop_waiting(&build.id, &reason)? {
                Dropped::Ended => return Ok(self.builds().show(Some(build.id.as_str()))?),
                Dropped::NotWaiting if self.is_between(&build.id) => std::thread::sleep(BETWEEN),
                Dropped::NotWaiting | Dropped::HasWorker => break,
            }
        }
        match self.builds().stop(&build.id, force, Some(&reason)) {
            Ok(()) | Err(ServiceError::Over { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.builds().show(Some(build.id.as_str()))?)
    }

    /// Removes a build that is over.
    ///
    /// # Errors
    ///
    /// When it is not over, or the caller may not.
    pub(crate) fn remove(&self, principal: &Principal, id: &str) -> Result<(), DaemonError> {
        principal.require(Scope::Cancel)?;
        let build = self.show(&Principal { scopes: vec![Scope::Read], ..principal.clone() }, id)?;
        Ok(self.builds().remove(&build.id)?)
    }

    /// The holder of the lock of the daemon that runs, if one does.
    ///
    /// # Errors
    ///
    /// When the lock cannot be looked at.
    pub(crate) fn holder(paths: &Paths) -> Result<Option<String>, DaemonError> {
        Ok(lock::holder(&paths.daemon().join(LOCK))?)
    }

    /// What it listens on, for people, and what clients pin, where there is anything.
    pub(crate) fn addresses(&self) -> (Vec<String>, Option<String>) {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what it listens on, and what clients pin.
    pub(crate) fn listens_on(&self, addresses: Vec<String>, pin: Option<String>) {
        tracing::info!(addresses = addresses.join(" "), "listening");
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = (addresses, pin);
    }

    /// Told at each change of the queue.
    pub(crate) fn queue_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self, how: Ending) {
        tracing::info!(?how, "asked to end");
        self.ending.send_replace(Some(how));
    }

    /// Whether it was asked to end.
    fn is_ending(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Told when it is asked to end.
    pub(crate) fn endings(&self) -> watch::Receiver<Option<Ending>> {
        self.ending.subscribe()
    }

    /// What a build left behind, as far as patterns match; without patterns all.
    ///
    /// # Errors
    ///
    /// When a pattern is wrong or matches nothing, or the record cannot be read.
    pub(crate) fn artifacts(&self, id: &BuildId, patterns: &[String]) -> Result<Vec<Artifact>, DaemonError> {
        let all = self.builds().artifacts(id)?;
        if patterns.is_empty() { Ok(all) } else { Ok(artifacts::select(all, patterns)?) }
    }

    /// What a build of a project that was sent is pinned to, once that is known.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn pins(&self, id: &BuildId) -> Result<Option<String>, DaemonError> {
        let path = self.paths.build(id).join(worker::PINS);
        match read_text(&path) {
            Ok(text) => Ok(Some(text)),
            Err(_) if !path.exists() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a build waits for this daemon.
    pub(crate) fn waits(&self, id: &BuildId, principal: &Principal) -> Option<Place> {
        lock(&self.queue).place(id, principal)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_fails_begins_again() {
        let begun = Cell::new(0);
        let work = || match begun.replace(begun.get() + 1) {
            0 | 1 => Err(io::Error::other("a full disk")),
            _ => Ok(()),
        };
        keep_on("schedules", Duration::ZERO, work);
        assert_eq!(begun.get(), 3);
    }
}
