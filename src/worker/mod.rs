//! The worker: one submission, from its first record to its outcome. Runs in the process that calls it.

pub(crate) mod control;
mod since;
mod warned;

use std::{cell::Cell, fs, io::Read as _, os::unix::fs::DirBuilderExt as _, path::Path, time::Instant};

use control::Server;
use jiff::Timestamp;

use crate::{
    engine::{self, EngineError, Sent, Services, Tools, inputs},
    events::{Emitter, EventSink},
    history::{
        BuildRecord, History, HistoryError,
        journal::{self, JournalSink, Writer},
    },
    model::{
        Ask, BuildId, Event, Hint, Kind, Origin, Outcome, Paths, Secrets, State, Submission, SystemFacts, UserError,
    },
    plan::Plan,
    project::{self, Project, ProjectError, Sources},
    queue::{self, Ticket},
    system::{
        files::{FileError, make_private_dir, open_regular, write_atomically},
        lock::{self, Attempt, FileLock, Mode, WaitError},
        stop::StopToken,
    },
};

/// What a build of a project that was sent is pinned to, in its folder: its client takes it over.
pub(crate) const PINS: &str = "smidr.lock";

/// A submission, in the build's folder.
pub(crate) const SUBMISSION: &str = "submission.json";

/// Why there is no record of a build, or of its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// Of a newer smidr.
    #[error("the submission has form {0}, and this smidr knows form {known}", known = Submission::VERSION)]
    TooNew(u32),
    /// The record.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The lock of the build.
    #[error(transparent)]
    Lock(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// The build is over, and its journal does not say so.
    #[error("the end of the build is not recorded")]
    Unrecorded(#[source] FileError),
}

impl UserError for WorkerError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooNew(_) => Kind::Request,
            Self::History(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::File(error) | Self::Unrecorded(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::TooNew(_) => vec![Hint::new("update smidr")],
            Self::History(error) => error.hints(),
            Self::Lock(error) => error.hints(),
            Self::File(error) | Self::Unrecorded(error) => error.hints(),
        }
    }
}

/// Writes a submission down where its worker finds it.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn submit(submission: &Submission, folder: &Path) -> Result<(), FileError> {
    make_private_dir(folder.parent().unwrap_or(folder))?;
    // Never one that is there: two builds may draw one number.
    fs::DirBuilder::new().mode(0o700).create(folder).map_err(FileError::new("make the folder", folder))?;
    write_down(submission, folder)
}

fn write_down(submission: &Submission, folder: &Path) -> Result<(), FileError> {
    let path = folder.join(SUBMISSION);
    let text = serde_json::to_vec(submission).map_err(|error| FileError::new("write", &path)(error.into()))?;
    write_atomically(&path, &text, 0o600)
}

/// Reads a submission.
///
/// # Errors
///
/// When there is none, or it is none that this smidr can read.
pub(crate) fn submitted(folder: &Path) -> Result<Submission, WorkerError> {
    #[derive(serde::Deserialize)]
    struct Form {
        version: u32,
    }
    let path = folder.join(SUBMISSION);
    let failed = || FileError::new("read", &path);
    let mut bytes = Vec::new();
    open_regular(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed())?;
    let Form { version } = serde_json::from_slice(&bytes).map_err(|error| failed()(error.into()))?;
    if version > Submission::VERSION {
        return Err(WorkerError::TooNew(version));
    }
    Ok(serde_json::from_slice(&bytes).map_err(|error| failed()(error.into()))?)
}

/// Removes what the worker of a build that is over was killed before it could remove: its socket, a journal that it was compressing, and
/// the values of variables.
pub(crate) fn tidy(folder: &Path) {
    forget_values(folder);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name == control::NAME || name.as_encoded_bytes().starts_with(journal::PACKING.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes the values of variables from the submission of a build that is over.
fn forget_values(folder: &Path) {
    let Ok(submission) = submitted(folder) else { return };
    if write_down(&submission.for_the_record(), folder).is_err() {
        let _ = fs::remove_file(folder.join(SUBMISSION));
    }
}

/// The name under which a worker holds the lock of its build.
pub(crate) fn name(id: &BuildId) -> String {
    format!("build {id}")
}

/// Takes the lock of a build that has no journal. Some hold it for a moment, to see whether it is free; a worker that holds it has a journal soon,
/// and its end is not waited for.
fn alone(path: &Path, folder: &Path, holder: &str) -> Result<FileLock, WorkerError> {
    loop {
        match lock::lock_if_free(path, Mode::Exclusive, holder)? {
            Attempt::Held(lock) => return Ok(lock),
            Attempt::Busy(_) => journal::check_new(folder)?,
        }
    }
}

/// Runs a submission, which stands in the build's folder, to its outcome. `shown` are sinks beside the journal; `begun` is called when the
/// first record is written.
///
/// # Errors
///
/// When there can be no record of it.
pub(crate) fn run(
    submission: Submission,
    mut services: Services,
    stop: &StopToken,
    shown: Vec<Box<dyn EventSink>>,
    begun: impl FnOnce(),
) -> Result<Outcome, WorkerError> {
    let (id, folder) = (submission.id.clone(), services.paths.build(&submission.id));
    let alive_path = services.paths.alive(&id);
    let alive = alone(&alive_path, &folder, &name(&id))?;
    let stop = stop.child();
    let (index, behind) = History::open(&services.paths)?.into_sink();
    let (journal, failure) = JournalSink::new(Writer::create(&folder)?, &stop);
    let (control, progress) = Server::start(&folder, &id, &stop)?;
    let mut sinks: Vec<Box<dyn EventSink>> = vec![Box::new(journal), Box::new(index), Box::new(progress)];
    sinks.extend(shown);
    let on = Emitter::new(id.clone(), sinks);
    // What the config names counts as it was submitted.
    services.facts = services.facts.for_submission(&submission);
    services.store = services.store.heeding(&stop);
    let started = Instant::now();
    let tools = Tools { services: &services, stop: &stop, on: &on };
    let mut outcome = build(&submission, tools, begun).unwrap_or_else(|error| Outcome::of(&error));
    if outcome.state == State::Cancelled {
        outcome.reasons.extend(control.reason());
    }
    if let Some(error) = failure.take() {
        outcome = Outcome { usage: outcome.usage, failed: outcome.failed, ..Outcome::of(&error) };
    }
    outcome = since::told(outcome, &submission, &services.paths);
    outcome = warned::judged(outcome, &submission, &services.paths);
    outcome.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Some(error) = behind.take() {
        let why = Outcome::of(&error).reasons.join(": ");
        on.warn(format!("{why}; once it can be written, bring the index up to date:  smidr history rebuild"));
    }
    // Before the end is told, after which the folder may be pruned.
    forget_values(&folder);
    on.emit(Event::Finished { outcome: outcome.clone() });
    failure.finish();
    drop(control);
    let _ = fs::remove_file(alive_path);
    drop(alive);
    match failure.take() {
        Some(error) => Err(WorkerError::Unrecorded(error)),
        None => Ok(outcome),
    }
}

/// Records a build that is over before it had a worker: cancelled while it waited, or one whose worker could not be started. What is `known` of it since it
/// was submitted stays: when that was, its machine and its targets, which no worker has found out.
///
/// # Errors
///
/// When that cannot be recorded; nothing of it is then.
pub(crate) fn end_unbegun(
    submission: &Submission,
    known: &BuildRecord,
    paths: &Paths,
    outcome: Outcome,
) -> Result<(), WorkerError> {
    let folder = paths.build(&submission.id);
    make_private_dir(&paths.builds())?;
    let is_new = !folder.exists();
    let done = write_unbegun(submission, known, paths, outcome);
    if done.is_err() && is_new {
        // It has no end then, so it has not begun either.
        let _ = fs::remove_dir_all(&folder);
    }
    done
}

fn write_unbegun(
    submission: &Submission,
    known: &BuildRecord,
    paths: &Paths,
    outcome: Outcome,
) -> Result<(), WorkerError> {
    let folder = paths.build(&submission.id);
    make_private_dir(&folder)?;
    let stop = StopToken::default();
    let (journal, failure) = JournalSink::new(Writer::create(&folder)?, &stop);
    write_down(&submission.clone().for_the_record(), &folder)?;
    let on = Emitter::new(submission.id.clone(), vec![Box::new(journal)]);
    on.emit_at(known.started, begun_event(submission, known.targets.clone(), Some(known.machine.clone())));
    let duration_ms = Timestamp::now().duration_since(known.started).as_millis();
    on.emit(Event::Finished {
        outcome: Outcome { duration_ms: u64::try_from(duration_ms).unwrap_or_default(), ..outcome },
    });
    failure.finish();
    failure.take().map_or(Ok(()), |error| Err(WorkerError::Unrecorded(error)))?;
    Ok(History::open(paths)?.take_in(&submission.id)?)
}

fn begun_event(submission: &Submission, targets: Vec<String>, machine: Option<String>) -> Event {
    Event::BuildStarted {
        name: submission.name(),
        targets,
        machine: machine.unwrap_or_default(),
        variant: submission.request.variant.clone(),
        config: Some(submission.config_path().clone()),
        customer: submission.customer.clone(),
        labels: submission.labels.clone(),
    }
}

/// What a submission asks for, as a project and a plan of this machine, whose facts are those for the submission.
///
/// # Errors
///
/// When it is wrong, cannot be built here, or asks for what it was not granted.
pub(crate) fn plan(
    submission: &Submission,
    facts: &SystemFacts,
    paths: &Paths,
) -> Result<(Project, Plan), EngineError> {
    let request = &submission.request;
    let project = Project::of(Sources::of(submission), request.variant.as_deref(), facts)?;
    let refused =
        |_: &Plan, asks: &[Ask]| asks.iter().filter(|ask| !submission.granted.contains(ask)).cloned().collect();
    let judged = engine::judge(&project, request, facts, paths, refused)?;
    if judged.stops() {
        return Err(EngineError::NotGranted(judged.refused.iter().map(|ask| ask.key().to_string()).collect()));
    }
    let mut plan = judged.plan;
    plan.logins = submission.logins.clone();
    plan.wait = submission.wait;
    if let Some(share) = submission.share {
        plan.take_share(share);
    }
    Ok((project, plan))
}

fn build(submission: &Submission, tools: Tools<'_>, begun: impl FnOnce()) -> Result<Outcome, EngineError> {
    let planned = plan(submission, &tools.facts, &tools.paths);
    // Before anything is said.
    match &planned {
        Ok((_, plan)) => tools.on.hide(&inputs::secrets(plan)),
        Err(_) => {
            let mut secrets = Secrets::default();
            let known = tools.facts.environment.iter().map(|(name, value)| (name, value));
            known.chain(&submission.variables).for_each(|(name, value)| secrets.add_variable(name, value));
            tools.on.hide(&secrets);
        }
    }
    let request = &submission.request;
    let (targets, machine) = match &planned {
        Ok((_, plan)) => (plan.targets.clone(), Some(plan.machine.clone())),
        Err(_) => (request.targets.clone(), request.machine.clone()),
    };
    tools.on.emit(begun_event(submission, targets, machine));
    begun();
    let (mut project, mut plan) = planned?;
    let sent = Sent::of(submission, &tools.paths).map_err(EngineError::from)?;
    // Before a place in the queue: a busy workspace is refused at once, or waited for without holding up others.
    let workspace = engine::claim(&plan, tools)?;
    // A project that was sent is written now, and looked at anew.
    let waited = Cell::new(plan.wait || sent.is_some());
    let _project = sent.map(|sent| sent.write(plan.wait, tools)).transpose().map_err(EngineError::from)?;
    let holder = format!("build {}", submission.id);
    let turn = |line: &str, places: u32, of_command| {
        let ticket = Ticket::draw(&tools.paths.queue(), line, &holder)?;
        let turn = ticket.wait(u64::from(places), tools.stop, |ahead| {
            waited.set(true);
            tools.on.emit(Event::Queued { ahead, of_command });
        });
        turn.map_err(|error| if tools.stop.is_requested() { EngineError::Stopped } else { error.into() })?;
        Ok::<_, EngineError>(ticket)
    };
    // First the line of its own command, then that of all.
    let _among_its_own = submission.group.as_ref().map(|own| turn(own.name.as_str(), own.places, true)).transpose()?;
    let _among_all = turn(queue::ALL, project.settings.limits.builds(tools.facts.cpus), false)?;
    if waited.get() {
        // A link may lead elsewhere by now, and another file hold other passwords.
        (project, plan) = self::plan(submission, &tools.facts, &tools.paths)?;
        tools.on.hide(&inputs::secrets(&plan));
    }
    let host = project.host_lock(&plan).cloned();
    let locked = plan.locked;
    let built = engine::build(plan, host.as_ref(), Some(workspace), tools, |pins| {
        if let Origin::Remote { .. } = submission.origin {
            project::write_pins(pins.clone(), &tools.paths.build(&submission.id).join(PINS))?;
        }
        match project.pin(pins, &tools.paths, locked) {
            // The build is of the lock that was submitted.
            Err(ProjectError::Lock(error)) => {
                let why = Outcome::of(&error).reasons.join(": ");
                tools.on.warn(format!("smidr.lock is not what was submitted, and stays as it is: {why}"));
                Ok(())
            }
            pinned => Ok(pinned?),
        }
    });
    built.or_else(|error| {
        let place = engine::place(&error, &project, request, &tools.facts, &tools.paths);
        Ok(Outcome { place, ..Outcome::of(&error) })
    })
}
