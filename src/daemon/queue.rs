//! The queue as it runs: what waits and what runs, in memory beside the ledger; the thread that starts workers, and one for each build that
//! runs, which waits for its end.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Daemon, DaemonError,
    access::Principal,
    config::DaemonConfig,
    ledger::waiting::Waiting,
    lock,
    told::facts,
    webhooks::{Event, Webhooks},
};
use crate::{
    executors::{self, Life},
    history::{BuildRecord, History},
    model::{BuildId, Digest, Origin, Outcome, Share, State as BuildState, Submission, UserError as _},
    queue::policy::{self, Budget, Decision, Pressure, Resource},
    service::ServiceError,
    system::{
        files::remove_tree,
        lock::{Attempt, FileLock, Mode, holder, lock_if_free},
        process::vital,
        stop::StopToken,
    },
    worker,
};

/// The ledger's note that the queue is paused.
const PAUSED: &str = "paused";

/// How long a build waits whose worker could not be started, before the next try.
const AGAIN: Duration = Duration::from_secs(5);

/// How often a worker is tried to be started.
const TRIES: u32 = 3;

/// What the queue knows of a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// As lists show it.
    pub record: BuildRecord,
    /// Where it builds.
    pub workspace: PathBuf,
    /// Higher goes first, within a customer.
    pub priority: i32,
    /// Its limit, in bytes.
    pub memory: Option<u64>,
    /// Its limit of processors.
    pub cpus: Option<u32>,
    /// Blobs that it needs.
    #[serde(default)]
    pub blobs: Vec<Digest>,
}

impl About {
    fn id(&self) -> &BuildId {
        &self.record.id
    }

    /// In whose turn it is. A build of no customer is one of its project's.
    pub(super) fn customer(&self) -> String {
        self.turn().into()
    }

    fn turn(&self) -> &str {
        self.record.customer.as_deref().unwrap_or(&self.record.name)
    }

    fn workspace(&self) -> String {
        self.workspace.to_string_lossy().into_owned()
    }
}

struct Entry {
    seq: u64,
    since: Timestamp,
    about: About,
    tries: u32,
    // Why its worker could not be started, and when that is tried again.
    failed: Option<(String, Instant)>,
}

/// A place in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// From 1.
    pub position: u32,
    /// Why it waits.
    pub reason: String,
}

/// What became of a build that was to be taken out of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// It is over.
    Ended,
    /// It does not wait, or not yet again.
    NotWaiting,
    /// A worker has it that a daemon had started which was killed: it is to be stopped.
    HasWorker,
}

/// A build in the queue, as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct InQueue {
    /// The build.
    pub record: BuildRecord,
    /// Its priority.
    pub priority: i32,
    /// Since when it waits or runs.
    pub since: Timestamp,
    /// Of one that waits.
    pub place: Option<Place>,
}

/// The queue, as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct QueueView {
    /// Whether it is paused.
    pub paused: bool,
    /// How many run at once.
    pub builds: u32,
    /// What runs.
    pub running: Vec<InQueue>,
    /// What waits, in its order.
    pub waiting: Vec<InQueue>,
    /// How many run, those of other customers included: they take room.
    pub running_in_all: usize,
    /// How many wait, those of other customers included: positions count them.
    pub waiting_in_all: usize,
}

/// The queue.
pub(super) struct State {
    budget: Budget,
    waiting: BTreeMap<u64, Entry>,
    running: HashMap<BuildId, Entry>,
    decided: Vec<Decision>,
    // Whether something was added since.
    is_behind: bool,
    // Of pressure, in percent.
    limit: u32,
    // Neither waiting nor with a worker whose socket answers: being started, or ended.
    between: HashSet<BuildId>,
    ends: bool,
}

/// What wakes the thread that starts workers.
pub(crate) enum Signal {
    /// Something has changed.
    Look,
    /// A build is over.
    Ended(BuildId),
}

impl State {
    pub(super) fn new(builds: u32) -> Self {
        Self {
            budget: Budget { builds, ..Budget::default() },
            waiting: BTreeMap::new(),
            running: HashMap::new(),
            decided: Vec::new(),
            is_behind: false,
            limit: 100,
            between: HashSet::new(),
            ends: false,
        }
    }

    /// Adds one that waits. Many may come at once: where they stand is found out when it is asked for.
    pub(super) fn add(&mut self, seq: u64, since: Timestamp, about: About) {
        self.waiting.insert(seq, Entry { seq, since, about, tries: 0, failed: None });
        self.is_behind = true;
    }

    pub(super) fn place(&mut self, id: &BuildId, principal: &Principal) -> Option<Place> {
        self.catch_up();
        let entry = self.waiting.values().find(|entry| entry.about.id() == id)?;
        Some(self.told(entry, self.decided.iter().find(|decision| decision.id == *id), principal))
    }

    fn told(&self, entry: &Entry, decision: Option<&Decision>, principal: &Principal) -> Place {
        let reason = match (&entry.failed, decision.and_then(|decision| decision.why.as_ref())) {
            _ if self.ends => "this daemon ends, and starts no more builds: the next one does".into(),
            (Some((failed, _)), _) => format!("its worker could not be started: {failed}"),
            (None, Some(why)) => {
                let sees = |record: &BuildRecord| principal.sees(record.customer.as_deref());
                why.clone().hiding(|id| self.record(id).is_some_and(sees)).to_string()
            }
            (None, None) => "it starts now".into(),
        };
        Place { position: decision.map_or(1, |decision| decision.position), reason }
    }

    /// How many of a customer wait.
    pub(super) fn waiting_of(&self, customer: &str) -> usize {
        self.waiting.values().filter(|entry| entry.about.turn() == customer).count()
    }

    /// Whether a build that waits needs a blob.
    pub(super) fn needs(&self, blob: &Digest) -> bool {
        let mut all = self.waiting.values().chain(self.running.values());
        all.any(|entry| entry.about.blobs.contains(blob))
    }

    /// Takes over what `daemon.yaml` says.
    pub(super) fn configure(&mut self, config: &DaemonConfig, builds: u32) {
        self.budget.builds = config.queue.builds.unwrap_or(builds);
        (self.budget.memory, self.budget.cpus) = (config.queue.memory, config.queue.cpus);
        self.budget.weights = config.customers.iter().map(|(name, known)| (name.clone(), known.weight)).collect();
        self.limit = config.queue.pressure;
    }

    /// A build that waits or runs.
    pub(super) fn record(&self, id: &BuildId) -> Option<&BuildRecord> {
        let waiting = self.waiting.values().find(|entry| entry.about.id() == id);
        Some(&self.running.get(id).or(waiting)?.about.record)
    }

    fn decide(&mut self) {
        self.budget.pressure = pressure(self.limit).filter(|_| !self.waiting.is_empty());
        self.is_behind = true;
        self.catch_up();
    }

    fn catch_up(&mut self) {
        if !std::mem::take(&mut self.is_behind) {
            return;
        }
        let waiting: Vec<_> = self.waiting.values().map(waiting_of).collect();
        let running: Vec<_> = self.running.values().map(running_of).collect();
        self.decided = policy::decide(&running, &waiting, &self.budget);
    }

    fn remove_waiting(&mut self, id: &BuildId) -> Option<Entry> {
        let seq = self.waiting.values().find(|entry| entry.about.id() == id)?.seq;
        self.waiting.remove(&seq)
    }

    /// Takes out the first that starts. One whose worker could not be started has its time to wait.
    fn start_next(&mut self, now: Instant) -> Option<Entry> {
        let is_ready = |entry: &&Entry| entry.failed.as_ref().is_none_or(|(_, until)| *until <= now);
        let ready: HashMap<&BuildId, u64> =
            self.waiting.values().filter(is_ready).map(|entry| (entry.about.id(), entry.seq)).collect();
        let mut starts = self.decided.iter().filter(|one| one.why.is_none());
        let seq = starts.find_map(|one| ready.get(&one.id).copied())?;
        let mut entry = self.waiting.remove(&seq)?;
        entry.tries += 1;
        self.between.insert(entry.about.id().clone());
        self.budget.recent.push(entry.about.customer());
        let old = self.budget.recent.len().saturating_sub(policy::RECENT);
        self.budget.recent.drain(..old);
        Some(entry)
    }

    fn view(&mut self, principal: &Principal) -> QueueView {
        self.catch_up();
        let shown = |entry: &Entry, place| InQueue {
            record: entry.about.record.clone(),
            priority: entry.about.priority,
            since: entry.since,
            place,
        };
        // Of other customers' builds, only the number.
        let sees = |entry: &&Entry| principal.sees(entry.about.record.customer.as_deref());
        let mut running: Vec<InQueue> = self.running.values().filter(sees).map(|entry| shown(entry, None)).collect();
        running.sort_by_key(|one| one.since);
        let decided: HashMap<&BuildId, &Decision> = self.decided.iter().map(|one| (&one.id, one)).collect();
        let place = |entry: &Entry| self.told(entry, decided.get(entry.about.id()).copied(), principal);
        let waiting = self.waiting.values().filter(sees).map(|entry| shown(entry, Some(place(entry))));
        let mut waiting: Vec<InQueue> = waiting.collect();
        waiting.sort_by_key(|one| one.place.as_ref().map(|place| place.position));
        QueueView {
            paused: self.budget.paused,
            builds: self.budget.builds,
            running,
            waiting,
            running_in_all: self.running.len(),
            waiting_in_all: self.waiting.len(),
        }
    }
}

/// The largest share of time, in percent, in which processes waited for a resource (PSI, averaged over 10 s), if it is above the limit.
fn pressure(limit: u32) -> Option<Pressure> {
    let of = |(resource, file): (Resource, &str)| {
        let text = fs::read_to_string(Path::new("/proc/pressure").join(file)).ok()?;
        let some = text.lines().find(|line| line.starts_with("some "))?;
        let percent: f64 = some.split("avg10=").nth(1)?.split(' ').next()?.parse().ok()?;
        // Never more than 100.
        Some(Pressure { resource, percent: percent as u32 })
    };
    let all = [(Resource::Cpu, "cpu"), (Resource::Memory, "memory"), (Resource::Io, "io")];
    let highest = all.into_iter().filter_map(of).max_by_key(|pressure| pressure.percent);
    highest.filter(|pressure| limit < 100 && pressure.percent > limit)
}

fn waiting_of(entry: &Entry) -> policy::Waiting {
    policy::Waiting {
        id: entry.about.id().clone(),
        seq: entry.seq,
        customer: entry.about.customer(),
        priority: entry.about.priority,
        workspace: entry.about.workspace(),
        memory: entry.about.memory,
        cpus: entry.about.cpus,
    }
}

fn running_of(entry: &Entry) -> policy::Running {
    policy::Running {
        id: entry.about.id().clone(),
        customer: entry.about.customer(),
        workspace: entry.about.workspace(),
        memory: entry.about.memory,
        cpus: entry.about.cpus,
    }
}

/// Starts the thread that starts workers.
pub(super) fn run(daemon: Arc<Daemon>, signals: Receiver<Signal>) -> io::Result<()> {
    let followed: Vec<BuildId> = lock(&daemon.queue).running.keys().cloned().collect();
    for id in followed {
        follow(&daemon, id)?;
    }
    thread::Builder::new().name("queue".into()).spawn(move || vital(|| look(&daemon, &signals)))?;
    Ok(())
}

/// Looks at the queue after each signal.
fn look(daemon: &Arc<Daemon>, signals: &Receiver<Signal>) {
    let mut retry = None;
    loop {
        let signal = match retry {
            None => signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(pause) => signals.recv_timeout(pause),
        };
        if matches!(signal, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        // What has come meanwhile is one look at the queue.
        for signal in signal.into_iter().chain(signals.try_iter()) {
            if let Signal::Ended(id) = signal {
                daemon.ended(&id);
            }
        }
        retry = daemon.start_some().then_some(AGAIN);
        daemon.changes.send_modify(|count| *count += 1);
    }
}

/// Waits for the end of a build, on a thread of its own: few run at once.
fn follow(daemon: &Arc<Daemon>, id: BuildId) -> io::Result<()> {
    let daemon = daemon.clone();
    thread::Builder::new().name("follow".into()).spawn(move || {
        let ever = StopToken::default();
        // One whose journal cannot be watched is looked at from time to time.
        while daemon.builds().wakes(&id, &ever, |_| {}).is_err() {
            thread::sleep(AGAIN);
        }
        let _ = daemon.wake.send(Signal::Ended(id));
    })?;
    Ok(())
}

impl Daemon {
    /// Finds what waits and what runs, after a start.
    pub(super) fn recover(&self) -> Result<(), DaemonError> {
        let mut announced = Vec::new();
        for Waiting { seq, build, since, about } in self.ledger.all_waiting()? {
            let has_begun =
                History::in_journal(&self.paths, &build).is_some() || holder(&self.paths.alive(&build))?.is_some();
            let about = serde_json::from_str::<About>(&about).ok();
            match about.filter(|_| !has_begun) {
                Some(about) => {
                    announced.push(about.record.clone());
                    lock(&self.queue).add(seq, since, about);
                }
                None => self.ledger.begun(&build, None)?,
            }
        }
        let history = lock(&self.history);
        history.catch_up()?;
        history.announce(&announced)?;
        let unfinished = history.unfinished()?;
        for Waiting { build, since, about, .. } in self.ledger.all_running()? {
            // One that ended meanwhile is followed too: its end is told then.
            if let Ok(about) = serde_json::from_str::<About>(&about) {
                // A power cut may have taken its records.
                history.begun(&about.record)?;
                let entry = Entry { seq: 0, since, about, tries: 0, failed: None };
                lock(&self.queue).running.insert(build, entry);
            }
        }
        drop(history);
        for build in unfinished.into_iter().filter(|build| !build.waits) {
            let build = self.builds().show(Some(build.id.as_str()))?;
            let is_known = lock(&self.queue).running.contains_key(&build.id);
            if !build.state.is_final() && !is_known {
                let about = self.about_running(build);
                let entry = Entry { seq: 0, since: about.record.started, about, tries: 0, failed: None };
                lock(&self.queue).running.insert(entry.about.id().clone(), entry);
            }
        }
        let mut queue = lock(&self.queue);
        queue.budget.paused = self.ledger.setting(PAUSED)?.is_some_and(|paused| paused == "true");
        queue.decide();
        drop(queue);
        let _ = self.wake.send(Signal::Look);
        Ok(())
    }

    /// What the queue has to know of a build that another daemon, or its user, has started.
    fn about_running(&self, record: BuildRecord) -> About {
        let submission = worker::submitted(&self.paths.build(&record.id)).ok();
        let workspace = submission.as_ref().map(|submission| submission.config_path().clone()).unwrap_or_default();
        About { record, workspace, priority: 0, memory: None, cpus: None, blobs: Vec::new() }
    }

    /// Starts what may start. Gives whether to try again soon.
    fn start_some(self: &Arc<Self>) -> bool {
        loop {
            let mut queue = lock(&self.queue);
            queue.decide();
            if queue.ends {
                return false;
            }
            let Some(entry) = queue.start_next(Instant::now()) else {
                // One whose worker could not be started is tried again; and pressure ends.
                return queue.budget.pressure.is_some() || queue.decided.iter().any(|one| one.why.is_none());
            };
            let about = entry.about.clone();
            let id = about.id().clone();
            queue.running.insert(id.clone(), entry);
            drop(queue);
            self.begin(&id, about);
            lock(&self.queue).between.remove(&id);
        }
    }

    /// Gives a build that is among those that run its worker, unless it has one.
    fn begin(self: &Arc<Self>, id: &BuildId, about: About) {
        match self.start_worker(id) {
            Ok(()) => {
                let _ = follow(self, id.clone());
            }
            Err(error) => self.not_started(id, about, &error),
        }
    }

    fn start_worker(&self, id: &BuildId) -> Result<(), DaemonError> {
        let Some(mut submission) = self.ledger.submission(id)? else { return Ok(()) };
        submission.share = self.share(&submission);
        if let Some(alone) = self.without_worker(id)? {
            worker::submit(&submission, &self.paths.build(id))?;
            drop(alone);
            let mut child =
                executors::start(id, &self.paths, &self.spawner, Life::OfItsOwn).map_err(ServiceError::from)?;
            // Reaped when it ends.
            thread::Builder::new()
                .spawn(move || child.wait())
                .map_err(super::io_error("wait for a worker of", &self.paths))?;
        }
        let build = lock(&self.queue).running.get(id).map(|entry| entry.about.record.clone());
        // A worker of another daemon may end before its first record. What the index lacks, the queue tells.
        let _ = build.as_ref().map(|build| lock(&self.history).begun(build));
        let told = build.map(|build| {
            let build = BuildRecord { waits: false, started: Timestamp::now(), ..build };
            Webhooks::queue(Event::Started, &facts(&build, BuildState::Preparing), build.started)
        });
        self.ledger.begun(id, told)?;
        self.webhooks.wake();
        tracing::info!(build = %id, "a build starts");
        Ok(())
    }

    /// How much of the machine a build gets: its part of the processors, beside those that run; and no more memory than its customer may have.
    fn share(&self, submission: &Submission) -> Option<Share> {
        let running = u32::try_from(self.running()).unwrap_or(u32::MAX).max(1);
        let memory = match &submission.origin {
            Origin::Remote { customer, .. } => self.config().customer(customer).memory,
            Origin::Local { .. } => None,
        };
        let cpus = (self.facts.cpus / running).max(1);
        (running > 1 || memory.is_some()).then_some(Share { cpus, memory })
    }

    /// Puts a build back, or ends it, whose worker could not be started.
    fn not_started(&self, id: &BuildId, about: About, error: &DaemonError) {
        let mut queue = lock(&self.queue);
        let Some(mut entry) = queue.running.remove(id) else { return };
        if entry.tries < TRIES {
            entry.failed = Some((error.with_causes(), Instant::now() + AGAIN));
            queue.waiting.insert(entry.seq, entry);
            return;
        }
        drop(queue);
        let outcome = Outcome { hints: error.hints(), ..Outcome::of(error) };
        if !matches!(self.end_unbegun(&about.record, outcome), Ok(true)) {
            lock(&self.queue).add(entry.seq, entry.since, about);
        }
    }

    /// Holds the lock of a build that has neither a worker nor a record, and removes what a daemon left that was killed before there was one. None
    /// where there is: a worker of such a daemon may come late, and is then the one that builds.
    fn without_worker(&self, id: &BuildId) -> Result<Option<FileLock>, DaemonError> {
        let Attempt::Held(alone) = lock_if_free(&self.paths.alive(id), Mode::Exclusive, "daemon")? else {
            return Ok(None);
        };
        if History::in_journal(&self.paths, id).is_some() {
            return Ok(None);
        }
        let folder = self.paths.build(id);
        if folder.exists() {
            remove_tree(&folder)?;
        }
        Ok(Some(alone))
    }

    /// Ends a build that has no worker. Gives whether that is so.
    fn end_unbegun(&self, known: &BuildRecord, outcome: Outcome) -> Result<bool, DaemonError> {
        let id = &known.id;
        if let Some(submission) = self.ledger.submission(id)? {
            let Some(_alone) = self.without_worker(id)? else { return Ok(false) };
            worker::end_unbegun(&submission, known, &self.paths, outcome)?;
            let _ = fs::remove_file(self.paths.alive(id));
        }
        let told = self
            .builds()
            .show(Some(id.as_str()))
            .ok()
            .map(|build| Webhooks::queue(Event::Finished, &facts(&build, build.state), Timestamp::now()));
        // It is over. What the ledger still has of it goes when the daemon starts anew.
        match self.ledger.ended(id, told) {
            Ok(()) => self.webhooks.wake(),
            Err(error) => {
                tracing::warn!(build = %id, error = &error as &dyn std::error::Error, "a build that is over stays in the ledger")
            }
        }
        Ok(true)
    }

    /// Cancels a build that waits.
    pub(super) fn drop_waiting(self: &Arc<Self>, id: &BuildId, reason: &str) -> Result<Dropped, DaemonError> {
        let mut queue = lock(&self.queue);
        let Some(entry) = queue.remove_waiting(id) else { return Ok(Dropped::NotWaiting) };
        queue.between.insert(id.clone());
        drop(queue);
        let outcome = Outcome { reasons: vec![reason.into()], ..Outcome::new(BuildState::Cancelled) };
        let ended = self.end_unbegun(&entry.about.record, outcome);
        let mut queue = lock(&self.queue);
        queue.between.remove(id);
        let dropped = match ended {
            Ok(true) => Ok(Dropped::Ended),
            // It runs, and is followed as what runs.
            Ok(false) => {
                let about = entry.about.clone();
                queue.running.insert(id.clone(), entry);
                drop(queue);
                self.begin(id, about);
                Ok(Dropped::HasWorker)
            }
            Err(error) => {
                queue.waiting.insert(entry.seq, entry);
                drop(queue);
                Err(error)
            }
        };
        let _ = self.wake.send(Signal::Look);
        dropped
    }

    /// Whether a build is just being started, or ended without a worker, or waits again: there is nothing that could be told to stop.
    pub(super) fn is_between(&self, id: &BuildId) -> bool {
        let queue = lock(&self.queue);
        queue.between.contains(id) || queue.waiting.values().any(|entry| entry.about.id() == id)
    }

    fn ended(self: &Arc<Self>, id: &BuildId) {
        let entry = lock(&self.queue).running.remove(id);
        let since = entry.map_or_else(Timestamp::now, |entry| entry.since);
        if let Err(error) = self.tell_end(id, since) {
            tracing::error!(build = %id, %error, "the end of a build could not be noted");
        }
        let _ = self.retain.send(Some(id.clone()));
    }

    /// The queue, as far as a caller may know of it.
    pub(crate) fn queue(&self, principal: &Principal) -> QueueView {
        lock(&self.queue).view(principal)
    }

    /// How many builds run.
    pub(crate) fn running(&self) -> usize {
        lock(&self.queue).running.len()
    }

    /// Starts nothing more, or goes on.
    ///
    /// # Errors
    ///
    /// When that cannot be kept.
    pub(crate) async fn pause(self: &Arc<Self>, paused: bool) -> Result<(), DaemonError> {
        self.ledger.set(PAUSED, paused.to_string()).await?;
        let mut queue = lock(&self.queue);
        queue.budget.paused = paused;
        queue.decide();
        drop(queue);
        let _ = self.wake.send(Signal::Look);
        Ok(())
    }

    /// Starts no more builds: the daemon is about to end. Gives what runs.
    pub(crate) fn end(&self) -> Vec<BuildId> {
        let mut queue = lock(&self.queue);
        queue.ends = true;
        let running = queue.running.keys().cloned().collect();
        drop(queue);
        running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(number: u32) -> About {
        let id = BuildId::new("x", number).expect("an id");
        let record = BuildRecord {
            id,
            name: "x".into(),
            config: None,
            machine: String::new(),
            targets: Vec::new(),
            variant: None,
            customer: None,
            labels: BTreeMap::new(),
            waits: true,
            queued: None,
            state: BuildState::Queued,
            started: Timestamp::UNIX_EPOCH,
            ended: None,
            outcome: None,
        };
        let workspace = format!("/w/{number}").into();
        About { record, workspace, priority: 0, memory: None, cpus: None, blobs: Vec::new() }
    }

    #[test]
    fn a_worker_that_could_not_be_started_has_its_time_to_wait() {
        let mut queue = State::new(1);
        queue.add(1, Timestamp::UNIX_EPOCH, about(1));
        let now = Instant::now();
        queue.decide();
        let mut entry = queue.start_next(now).expect("it starts");
        entry.failed = Some(("no disk".into(), now + AGAIN));
        queue.waiting.insert(entry.seq, entry);
        // Whatever wakes the queue meanwhile.
        queue.decide();
        assert!(queue.start_next(now).is_none());
        let place = queue.place(about(1).id(), &Principal::owner("u")).expect("it waits");
        assert_eq!(place.reason, "its worker could not be started: no disk");
        assert_eq!(queue.start_next(now + AGAIN).expect("it starts").tries, 2);
    }

    #[test]
    fn of_the_latest_starts_only_those_that_count_are_kept() {
        let mut queue = State::new(1);
        for number in 0..100 {
            queue.add(u64::from(number), Timestamp::UNIX_EPOCH, about(number));
            queue.decide();
            queue.start_next(Instant::now()).expect("it starts");
        }
        assert_eq!(queue.budget.recent.len(), policy::RECENT);
    }
}
