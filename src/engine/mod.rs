//! The pipeline: prepare, run, collect. The only module that combines the capabilities, and only here is the course of a
//! build decided. Prints nothing.

mod asks;
mod budget;
pub(crate) mod conf;
mod confine;
mod crossing;
mod deep;
mod deep_disk;
mod deployed;
mod devices;
mod downloads;
mod drive;
mod edits;
mod facts;
mod failure;
mod flocks;
mod guards;
mod host;
pub(crate) mod inputs;
pub(crate) mod keep;
pub(crate) mod keeper;
mod look;
mod memory;
mod obeyed;
mod origin;
pub(crate) mod owner;
mod prepare;
mod pseudo;
mod reach;
mod recovery;
mod remote;
mod session;
mod skeleton;
mod submission;
mod warned;
mod why;
mod workspace;

use std::{
    ops::Deref,
    path::Path,
    time::{Instant, SystemTime},
};

pub(crate) use crate::artifacts::sweep;
pub(crate) use crate::layers::{head_of, holds_work};
pub(crate) use asks::{Judged, judge, left_conf, registry_image};
use budget::Budget;
pub(crate) use confine::Confinement;
pub(crate) use crossing::cross;
pub(crate) use deep::{Deep, deep};
pub(crate) use drive::Finished;
pub(crate) use edits::Edits;
use failure::not_built;
use host::resolve_host;
pub(crate) use look::{Wrong, look, place, settle};
pub(crate) use prepare::{Prepared, Use, prepare};
use recovery::SecondTry;
pub(crate) use remote::Sent;
pub(crate) use submission::{for_elsewhere, submission};
pub(crate) use why::kept_logs;
pub(crate) use workspace::{check_free, claim};

use crate::{
    artifacts::{self, ArtifactError, Keep, Pool, Room},
    bitbake,
    config::Network,
    diagnose::warnings::Warnings,
    events::Emitter,
    image::{ImageError, ImageStore, ReferenceError},
    layers::{self, Access, Checkouts, LayerError, Settled},
    lock::{HostPin, Pins, RepositoryPin},
    model::{Event, Hint, Kind, Logins, Outcome, Paths, Stage, State, SystemFacts, Usage, UserError},
    plan::{Exposed, Isolation, Plan, PlanError, SandboxSpec},
    project::ProjectError,
    recipes::{self, ImageBuildError, RecipeError},
    sandbox::SandboxError,
    system::{
        files::{FileError, make_private_dir},
        lock::WaitError,
        process::Spawner,
        stop::StopToken,
    },
};
use remote::RemoteError;
use warned::LayersOf;
use workspace::{Claim, WorkspaceError};

/// What all runs of a process share.
pub(crate) struct Services {
    /// Shared folders.
    pub paths: Paths,
    /// This machine and its caller.
    pub facts: SystemFacts,
    /// Images.
    pub store: ImageStore,
    /// Starts processes.
    pub spawner: Spawner,
    /// Whether what runs is to outlive the caller's session.
    pub outlives: bool,
}

/// What every stage of one run needs.
#[derive(Clone, Copy)]
pub(crate) struct Tools<'a> {
    /// What it shares with others.
    pub services: &'a Services,
    /// Whether to stop.
    pub stop: &'a StopToken,
    /// Receives the run's events.
    pub on: &'a Emitter,
}

impl Deref for Tools<'_> {
    type Target = Services;

    fn deref(&self) -> &Services {
        self.services
    }
}

impl<'a> Tools<'a> {
    /// How layers may be fetched.
    pub(crate) fn access(self, online: bool, logins: &'a Logins) -> Access<'a> {
        let Self { services: Services { facts, spawner, .. }, stop, on } = self;
        Access { online, on, stop, spawner, logins, environment: &facts.environment }
    }

    /// What making an image needs.
    pub(crate) fn recipes(self) -> recipes::Context<'a> {
        let Self { services: Services { paths, facts, store, spawner, .. }, stop, on } = self;
        recipes::Context { paths, facts, store, spawner, stop, on }
    }
}

/// Why a build could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// Something that decides over later runs would be writable.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// A submodule where builds write.
    #[error(transparent)]
    Submodule(#[from] guards::Submodule),
    /// Devices.
    #[error(transparent)]
    Device(#[from] devices::DeviceError),
    /// What the build sees of its caller and of this machine.
    #[error(transparent)]
    Inputs(#[from] inputs::InputsError),
    /// Layers.
    #[error(transparent)]
    Layers(#[from] LayerError),
    /// A rootfs recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The image, made from a rootfs recipe.
    #[error(transparent)]
    ImageBuild(#[from] ImageBuildError),
    /// The image, of a distribution that this machine's apt does not know.
    #[error("the build host `{name}` cannot be made on this machine")]
    Foreign {
        /// The rootfs recipe.
        name: String,
        /// Shipped ones of other distributions that the project's series was validated on.
        instead: Vec<String>,
        /// What is missing.
        source: Box<ImageBuildError>,
    },
    /// The store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The project, or its lock, which has been changed meanwhile.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// What is asked for cannot be built anywhere.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The submission does not grant what the project asks for.
    #[error("the project asks for what was not granted: {}", .0.join(", "))]
    NotGranted(Vec<String>),
    /// `--locked`, and something would have to be pinned.
    #[error("smidr.lock does not pin {}, and --locked adds no pins", .0.join(", "))]
    NotLocked(Vec<String>),
    /// `--offline`, and the image is not here.
    #[error("the image of `{0}` is not in the store, and nothing is fetched with --offline or --print-sandbox")]
    Offline(String),
    /// An image that is neither here nor can be made.
    #[error("the image `{0}` is not in the store")]
    NoImage(String),
    /// Not the name of an image.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The lock's image cannot be had again.
    #[error("smidr.lock pins the image {wanted} of `{name}`, but making it again gave {found}")]
    Digest {
        /// The build host.
        name: String,
        /// The lock's.
        wanted: String,
        /// What was made.
        found: String,
    },
    /// The folder of a project that was sent.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The workspace.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Artifacts.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// What another process holds.
    #[error(transparent)]
    Lock(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// What would fail.
    #[error(transparent)]
    WouldFail(#[from] deep::WouldFail),
    /// Every sender of messages is gone, which cannot happen while BitBake runs.
    #[error("lost track of BitBake")]
    Lost,
    /// A stop was asked for before BitBake ran.
    #[error("stopped")]
    Stopped,
}

impl UserError for EngineError {
    fn kind(&self) -> Kind {
        match self {
            Self::Exposed(error) => error.kind(),
            Self::Submodule(error) => error.kind(),
            Self::Device(error) => error.kind(),
            Self::Inputs(error) => error.kind(),
            Self::Layers(error) => error.kind(),
            Self::Recipe(error) => error.kind(),
            Self::ImageBuild(error) => error.kind(),
            Self::Foreign { source, .. } => source.kind(),
            Self::Image(error) => error.kind(),
            Self::NoImage(_) | Self::NotLocked(_) | Self::Offline(_) | Self::NotGranted(_) => Kind::Request,
            Self::Plan(error) => error.kind(),
            Self::Reference(error) => error.kind(),
            Self::Project(error) => error.kind(),
            Self::Digest { .. } => Kind::Outside,
            Self::Remote(error) => error.kind(),
            Self::Workspace(error) => error.kind(),
            Self::Sandbox(error) => error.kind(),
            Self::Artifacts(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::WouldFail(error) => error.kind(),
            Self::Lost => Kind::Host,
            Self::Stopped => Kind::Cancelled,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Exposed(error) => error.hints(),
            Self::Submodule(error) => error.hints(),
            Self::Device(error) => error.hints(),
            Self::Inputs(error) => error.hints(),
            Self::Layers(error) => error.hints(),
            Self::Recipe(error) => error.hints(),
            Self::ImageBuild(error) => error.hints(),
            Self::Foreign { instead, source, .. } => {
                let one = |name: &String| {
                    Hint::config("the series was validated on it too", format!("host: {{recipe: {name}}}"))
                };
                instead.iter().map(one).chain(source.hints()).collect()
            }
            Self::Image(error) => error.hints(),
            Self::NoImage(name) => vec![
                Hint::command("bring it from a registry", format!("smidr image pull REFERENCE --name {name}")),
                Hint::command("bring it from a file", format!("smidr image import FILE --name {name}")),
            ],
            Self::Plan(error) => error.hints(),
            Self::NotGranted(_) => vec![Hint::command("if you trust its code", "smidr trust")],
            Self::NotLocked(_) => vec![Hint::command("pin it, and commit smidr.lock", "smidr lock")],
            Self::Offline(_) => vec![Hint::command("bring it while there is a network", "smidr lock")],
            Self::Reference(error) => error.hints(),
            Self::Project(error) => error.hints(),
            Self::Digest { .. } => vec![Hint::command("to take the new image", "smidr lock --update host")],
            Self::Remote(error) => error.hints(),
            Self::Workspace(error) => error.hints(),
            Self::Sandbox(error) => error.hints(),
            Self::Artifacts(error) => error.hints(),
            Self::Lock(error) => error.hints(),
            Self::File(error) => error.hints(),
            Self::WouldFail(error) => error.hints(),
            Self::Lost | Self::Stopped => Vec::new(),
        }
    }
}

/// Makes the layers of a plan ready.
///
/// # Errors
///
/// The first thing that is not there, or does not fit.
pub(crate) fn layers(plan: &Plan, tools: Tools<'_>) -> Result<Checkouts, EngineError> {
    match plan.unpinned() {
        loose if plan.locked && !loose.is_empty() => {
            Err(EngineError::NotLocked(loose.into_iter().map(str::to_owned).collect()))
        }
        _ => Ok(layers::resolve(plan, &tools.facts.home, tools.access(!plan.offline, &plan.logins))?),
    }
}

/// Brings the repositories of a plan, whatever layers are in them.
///
/// # Errors
///
/// The first one that cannot be had.
pub(crate) fn repositories(plan: &Plan, tools: Tools<'_>) -> Result<Vec<RepositoryPin>, EngineError> {
    match plan.unpinned() {
        loose if plan.locked && !loose.is_empty() => {
            Err(EngineError::NotLocked(loose.into_iter().map(str::to_owned).collect()))
        }
        _ => Ok(layers::bring(plan, &tools.facts.home, tools.access(!plan.offline, &plan.logins))?),
    }
}

/// Pins the git layers of a plan, and writes none of them out.
///
/// # Errors
///
/// The first one that cannot be had.
pub(crate) fn pin_repositories(plan: &Plan, tools: Tools<'_>) -> Result<Vec<RepositoryPin>, EngineError> {
    Ok(layers::pin(plan, tools.access(!plan.offline, &plan.logins))?)
}

/// Makes or moves the work trees of the git layers of a plan that have a place.
///
/// # Errors
///
/// The first one that cannot be made.
pub(crate) fn write_out(plan: &Plan, force: bool, tools: Tools<'_>) -> Result<Vec<(String, Settled)>, EngineError> {
    Ok(layers::write_out(plan, force, tools.access(!plan.offline, &plan.logins))?)
}

/// Finds out what a project is to be pinned to: its build host, which is brought or made if need be, and its layers.
///
/// # Errors
///
/// The first thing that is not there, or does not fit.
/// With `fresh_host`, an image is brought or made again even if there is one.
pub(crate) fn pin(
    plan: &Plan,
    lock: Option<&HostPin>,
    fresh_host: bool,
    tools: Tools<'_>,
) -> Result<Pins, EngineError> {
    let repositories = layers(plan, tools)?.pins;
    let hosts = match plan.isolation {
        Isolation::None => Vec::new(),
        _ => vec![resolve_host(tools, plan, lock, fresh_host)?.0],
    };
    Ok(Pins { hosts, repositories })
}

/// Builds: prepare, run, collect. `workspace` is the plan's where it was taken already; `pin` gets what the project is pinned to, once that
/// is known, and writes the lock.
///
/// # Errors
///
/// What kept BitBake from running to its end. A build that BitBake failed is an outcome, not an error.
pub(crate) fn build(
    plan: Plan,
    lock: Option<&HostPin>,
    workspace: Option<Claim>,
    tools: Tools<'_>,
    pin: impl FnOnce(Pins) -> Result<(), EngineError>,
) -> Result<Outcome, EngineError> {
    // Whatever goes wrong after a stop went wrong because of it: children of ours get Ctrl-C, too.
    stages(plan, lock, workspace, tools, pin)
        .map_err(|error| if tools.stop.is_requested() { EngineError::Stopped } else { error })
}

fn stages(
    plan: Plan,
    lock: Option<&HostPin>,
    workspace: Option<Claim>,
    tools: Tools<'_>,
    pin: impl FnOnce(Pins) -> Result<(), EngineError>,
) -> Result<Outcome, EngineError> {
    tools.on.emit(Event::StageStarted { stage: Stage::Prepare });
    plan.warnings.iter().for_each(|warning| tools.on.warn(warning.clone()));
    let prepared = prepare(plan, lock, workspace, Use::Build, tools)?;
    pin(prepared.pins())?;
    tools.on.emit(match prepared.host.lock() {
        Some(lock) => Event::HostReady { name: lock.name.clone(), digest: Some(lock.image.clone()) },
        None => Event::HostReady { name: "this machine".into(), digest: None },
    });
    tools.on.emit(Event::LayersReady { layers: prepared.layers().to_vec() });
    let id = tools.on.build();
    let build = tools.paths.build(&id);
    make_private_dir(&build)?;
    keep::pins(prepared.pins(), &build)?;
    keep::seal(&inputs::secrets(&prepared.plan), &id, &build)?;
    let edits = prepared.begin_edits(&tools.paths)?;
    edits.keep()?;
    let outcome = run_and_collect(&prepared, &edits, &build, tools);
    // With the workspace's lock still held.
    edits.finish()?.lines().into_iter().for_each(|line| tools.on.warn(line));
    outcome
}

fn run_and_collect(prepared: &Prepared, edits: &Edits, build: &Path, tools: Tools<'_>) -> Result<Outcome, EngineError> {
    let (mut budget, mut warnings) = (Budget::default(), Warnings::default());
    let since = SystemTime::now();
    let outcome = match run(prepared, edits, build, &mut budget, &mut warnings, tools)? {
        Err(outcome) => Ok(*outcome),
        Ok(finished) => {
            tools.on.emit(Event::StageStarted { stage: Stage::Collect });
            match collect(prepared, &finished, since, build, tools) {
                // It ends as any other build that fails.
                Err(error) if error.kind() == Kind::Build => {
                    let (bitbake_exit, usage) = (Some(finished.exit), finished.usage);
                    Ok(Outcome { bitbake_exit, usage, recovered: finished.recovered, ..Outcome::of(&error) })
                }
                collected => collected,
            }
        }
    }?;
    let layers = LayersOf::find(&warnings.recipes(), prepared.layer_folders());
    Ok(Outcome { warnings: warnings.groups(|file, recipe| layers.name(file, recipe)), ..outcome })
}

/// Runs BitBake: once, or for `host.network: fetch-only` twice, the second time without a network. Gives the outcome of a build that
/// left nothing to collect.
fn run(
    prepared: &Prepared,
    edits: &Edits,
    build: &Path,
    budget: &mut Budget,
    warnings: &mut Warnings,
    tools: Tools<'_>,
) -> Result<Ran, EngineError> {
    let plan = &prepared.plan;
    let own = prepared.own_folder();
    let begun = Instant::now();
    let server = keeper::hold(prepared, tools).unwrap_or_else(|error| {
        tools.on.warn(format!("this build has a hash-equivalence server of its own: {}", causes(&error)));
        None
    });
    let mut extra_env = vec![("BB_SERVER_TIMEOUT", "0")];
    extra_env.extend(server.as_ref().map(|server| ("BB_HASHSERVE", server.address.as_str())));
    let mut once = |stage, argv, own_network| -> Result<Ran, EngineError> {
        tools.on.emit(Event::StageStarted { stage });
        let asks = [("SMIDR_ASK", if own_network || plan.offline { "0" } else { "1" })];
        let env = [extra_env.as_slice(), &asks].concat();
        let spec = SandboxSpec { own_network, probe_tasks: true, ..prepared.sandbox(argv, edits, false, &env)? };
        let _watch = flocks::Watch::begin(&plan.folders.downloads, tools);
        let timeout = plan.timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
        let mut finished = drive::drive(spec, plan.limits, timeout, tools, &plan.folders, budget)?;
        warnings.append(std::mem::take(&mut finished.warnings));
        let good = finished.is_good();
        if let (true, Some(first)) = (good, finished.failed.first()) {
            let count = finished.failed.len();
            tools.on.warn(format!(
                "BitBake ended well, though {count} tasks were said to have failed: {} is the first",
                first.name
            ));
        }
        let failed =
            if good { Vec::new() } else { keep::logs(&finished.failed, &plan.folders, build, budget, tools.on) };
        Ok(match not_built(&finished, failed, plan) {
            None => Ok(finished),
            Some(outcome) => Err(Box::new(why::explained(outcome, finished, prepared, build))),
        })
    };
    let mut recovered = None;
    let mut tried = |stage, argv: Vec<String>, own_network| -> Result<Ran, EngineError> {
        let ended = match once(stage, argv.clone(), own_network)? {
            Err(ended) if recovered.is_none() => ended,
            ran => return Ok(ran),
        };
        let Some(second) = SecondTry::of(&ended, plan, &own) else { return Ok(Err(ended)) };
        tools.on.warn(second.told());
        if !second.clean.is_empty() {
            // What it says, the second try says too.
            let _ = once(stage, bitbake::clean_command(second.clean.iter(), &own), own_network)?;
        }
        let ran = match tools.stop.is_requested() {
            true => Err(Box::new(Outcome { diagnoses: Vec::new(), ..Outcome::new(State::Cancelled) })),
            false => once(stage, [argv, second.arguments.clone()].concat(), own_network)?,
        };
        recovered = Some(second.ended(ran.is_ok()));
        Ok(with_usage(ran, ended.usage))
    };
    let ran = match plan.network {
        Network::Full => tried(Stage::Run, bitbake::command(plan, &own), false)?,
        Network::None => tried(Stage::Run, bitbake::command(plan, &own), true)?,
        // There is nothing to do afterwards.
        Network::FetchOnly if plan.fetch_only => tried(Stage::Fetch, bitbake::fetch_command(plan, &own), false)?,
        Network::FetchOnly => match tried(Stage::Fetch, bitbake::fetch_command(plan, &own), false)? {
            Ok(fetched) => with_usage(tried(Stage::Run, bitbake::command(plan, &own), true)?, fetched.usage),
            ended => ended,
        },
    };
    Ok(match ran {
        Ok(finished) => Ok(Finished { recovered, ..finished }),
        Err(ended) => Err(Box::new(Outcome { recovered, ..*ended })),
    })
}

/// How a run of BitBake ended: with something to collect, or not.
type Ran = Result<Finished, Box<Outcome>>;

/// With what a run before it has used.
fn with_usage(ran: Ran, before: Option<Usage>) -> Ran {
    match ran {
        Ok(built) => Ok(Finished { usage: together(before, built.usage), ..built }),
        Err(ended) => Err(Box::new(Outcome { usage: together(before, ended.usage), ..*ended })),
    }
}

/// An error with its causes, on one line.
fn causes(error: &EngineError) -> String {
    Outcome::of(error).reasons.join(": ")
}

/// What two runs have used, as far as that is known.
fn together(first: Option<Usage>, second: Option<Usage>) -> Option<Usage> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first.then(second)),
        (first, second) => first.or(second),
    }
}

fn collect(
    prepared: &Prepared,
    finished: &Finished,
    since: SystemTime,
    build: &Path,
    tools: Tools<'_>,
) -> Result<Outcome, EngineError> {
    let mut room = Room::on(build)?;
    let workspace = prepared.plan.folders.workspace.file_name().unwrap_or_default();
    let mut pool = Pool::open(&tools.paths.kept(), &owner::memory_of(workspace.into(), &tools.paths));
    let mut keep = Keep { pool: &mut pool, room: &mut room };
    let kept = keep::artifacts(&prepared.plan, finished, since, build, keep.again(), tools)?;
    if let Err(error) = keep::records(&prepared.plan.folders, build, keep, tools) {
        artifacts::discard(build)?;
        return Err(error);
    }
    pool.close()?;
    kept.iter().for_each(|artifact| tools.on.emit(Event::ArtifactKept { artifact: artifact.clone() }));
    Ok(Outcome {
        bitbake_exit: Some(finished.exit),
        usage: finished.usage,
        recovered: finished.recovered.clone(),
        artifacts: kept.len() as u64,
        artifact_bytes: kept.iter().map(|artifact| artifact.size).sum(),
        ..Outcome::new(State::Completed)
    })
}
