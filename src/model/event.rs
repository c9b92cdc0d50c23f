//! Everything observable about a build, in the words of the domain. Sinks make sentences of it.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Artifact, BuildId, Digest, Outcome, document_path};

/// An event with its place in the one order that a build's journal keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The build that it belongs to.
    pub build: BuildId,
    /// Where it stands among the others.
    #[serde(flatten)]
    pub place: Place,
    /// When the journal took it.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the journal: 1 for the build's first record, without gaps.
    Seq(u64),
    /// A passing state after that record. It is in no journal, and only the last of its kind is kept.
    After(u64),
}

impl Record {
    /// Its number in the journal, if it is in there.
    pub fn seq(&self) -> Option<u64> {
        match self.place {
            Place::Seq(seq) => Some(seq),
            Place::After(_) => None,
        }
    }
}

/// The steps of a build, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Image, layers, workspace and conf are made ready.
    Prepare,
    /// BitBake fetches all sources, before the network goes.
    Fetch,
    /// BitBake runs.
    Run,
    /// Artifacts are gathered.
    Collect,
}

/// A BitBake task of a recipe, written `busybox:do_compile`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskName {
    /// The recipe, as BitBake's PN names it; of a multiconfig other than the default one, `mc:NAME:` stands before it.
    pub recipe: String,
    /// The task, with its `do_`.
    pub task: String,
}

impl TaskName {
    /// The multiconfig, unless it is the default one, and the recipe as its PN names it.
    pub fn parts(&self) -> (Option<&str>, &str) {
        recipe_parts(&self.recipe)
    }
}

/// The multiconfig, unless it is the default one, and the PN in the name of a recipe.
pub fn recipe_parts(name: &str) -> (Option<&str>, &str) {
    let named = name.strip_prefix("mc:").and_then(|rest| rest.split_once(':'));
    named.map_or((None, name), |(multiconfig, recipe)| (Some(multiconfig), recipe))
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.recipe, self.task)
    }
}

/// How much a message matters, in BitBake's own steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For those who debug BitBake.
    Debug,
    /// More than a note.
    Verbose,
    /// What BitBake does.
    Note,
    /// Text without a level.
    Plain,
    /// Something is doubtful.
    Warning,
    /// Something failed.
    Error,
    /// BitBake cannot go on.
    Critical,
}

/// Long work that shows progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Commits of a layer repository come over the network.
    Fetch,
    /// A commit of a layer repository is written out.
    Checkout,
    /// Packages and wheels of a rootfs recipe come over the network.
    Download,
    /// Layers of an image come from a registry, and are written out on the way.
    Pull,
    /// Layers or packages are written out.
    Unpack,
    /// Packages are configured under root emulation.
    Configure,
    /// A tree becomes a layer blob.
    Pack,
    /// Images of the store are read again.
    Verify,
    /// An image goes to a registry.
    Push,
    /// An image is written to a file or folder.
    Export,
    /// Artifacts are copied.
    Collect,
    /// BitBake loads its cache of parsed recipes.
    LoadCache,
    /// BitBake parses recipes.
    Parse,
    /// BitBake finds out which tasks there are, and which results sstate has.
    Plan,
}

/// What a progress number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files, packages, recipes: whatever the activity handles.
    Items,
    /// Hundredths of the whole.
    Percent,
}

impl Event {
    /// Whether it is a passing state, which no journal keeps.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::InQueue { .. } | Self::Progress { .. } | Self::TaskProgress { .. })
    }
}

/// Something that happened in a build, or in making an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The build exists.
    BuildStarted {
        /// The project's name.
        name: String,
        /// What BitBake is asked for.
        targets: Vec<String>,
        /// BitBake's MACHINE.
        machine: String,
        /// The variant of the config, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variant: Option<String>,
        /// The project's config. Records of the first smidr have none.
        #[serde(flatten, with = "document_path::config")]
        config: Option<PathBuf>,
        /// Whose build it is, for a daemon.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        customer: Option<String>,
        /// What the caller has noted about it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
    },
    /// The build waits for its turn.
    Queued {
        /// How many builds run, or are before it.
        ahead: u64,
        /// Whether only builds of the same command count: so many of them run at once.
        #[serde(default)]
        of_command: bool,
    },
    /// It waits for the daemon to start it.
    InQueue {
        /// Its place, from 1.
        position: u32,
        /// Why it waits, for people.
        reason: String,
    },
    /// A stage begins; the one before it is over.
    StageStarted {
        /// Which.
        stage: Stage,
    },
    /// Another smidr holds something that this one needs.
    Waiting {
        /// What is held.
        resource: String,
        /// Who holds it, as far as it said.
        holder: String,
    },
    /// Something worth knowing, which does not stop the build.
    Warning {
        /// A sentence fragment.
        text: String,
    },
    /// The build host is ready.
    HostReady {
        /// Its name in the store, or `this machine`.
        name: String,
        /// Its manifest's digest; none for a machine that is its own build host.
        digest: Option<Digest>,
    },
    /// The layers are ready.
    LayersReady {
        /// Name and what it is pinned to (`path`, or a commit), in the order of the config.
        layers: Vec<(String, String)>,
    },
    /// The sandbox has been set up; BitBake is about to start in it.
    SandboxReady {
        /// What isolates the build.
        isolation: String,
        /// Whether BitBake's tasks can be cut off from the network.
        task_network_cut: bool,
    },
    /// Long work goes on.
    Progress {
        /// Which work.
        activity: Activity,
        /// On what, for people.
        subject: String,
        /// Done so far.
        done: u64,
        /// Of how much, where that is known.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// A step of a rootfs recipe begins.
    RecipeStep {
        /// The rootfs recipe.
        recipe: String,
        /// What the step does.
        step: String,
    },
    /// A line that a process in the sandbox printed.
    Console {
        /// Without its newline; bytes that are no UTF-8 are replaced.
        line: String,
    },
    /// BitBake's user interface is connected.
    BitbakeReady {
        /// BitBake's version.
        version: String,
    },
    /// All recipes are known.
    Parsed {
        /// How many recipes there are.
        recipes: u64,
        /// How many came from BitBake's cache.
        cached: u64,
        /// How many could not be parsed.
        errors: u64,
    },
    /// BitBake knows how much there is to do.
    TasksPlanned {
        /// Tasks in the run queue.
        total: u64,
        /// Of which sstate may save some.
        setscene: u64,
    },
    /// A task begins.
    TaskStarted {
        /// Which.
        #[serde(flatten)]
        name: TaskName,
        /// Its process; where BitBake's console is read, a number of its own.
        pid: u32,
        /// Its place in the run queue, from 1.
        index: u64,
        /// The length of the run queue.
        total: u64,
        /// Whether it takes its result from sstate.
        setscene: bool,
        /// Its log, at the host's own path.
        #[serde(flatten, with = "document_path::log")]
        log: Option<PathBuf>,
    },
    /// A running task says how far it is.
    TaskProgress {
        /// Its process.
        pid: u32,
        /// Of a hundred, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        percent: Option<u8>,
        /// How fast, in the words of what it runs, such as `1.2M/s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<String>,
    },
    /// A task is over.
    TaskEnded {
        /// Which.
        #[serde(flatten)]
        name: TaskName,
        /// Its process.
        pid: u32,
        /// Whether it succeeded.
        ok: bool,
        /// Whether it was to take its result from sstate. If that fails, BitBake runs the real task.
        #[serde(default)]
        setscene: bool,
        /// Its log, at the host's own path.
        #[serde(flatten, with = "document_path::log")]
        log: Option<PathBuf>,
    },
    /// A task need not run: its result is there.
    TaskSkipped {
        /// Which.
        #[serde(flatten)]
        name: TaskName,
        /// Whether sstate has its result; if not, it was run before.
        #[serde(default)]
        covered: bool,
    },
    /// BitBake, or one of its tasks, says something.
    Message {
        /// How much it matters.
        level: Level,
        /// The text, possibly of several lines.
        text: String,
        /// The task that said it, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<TaskName>,
    },
    /// Nothing provides what was asked for.
    NoProvider {
        /// The target or dependency.
        item: String,
        /// Who wants it.
        dependees: Vec<String>,
        /// Why a candidate was passed over.
        reasons: Vec<String>,
        /// Names that are near.
        close_matches: Vec<String>,
    },
    /// The end of a failed task's own log.
    TaskLog {
        /// Which.
        #[serde(flatten)]
        name: TaskName,
        /// Where the whole log is.
        #[serde(flatten, with = "document_path::log")]
        log: PathBuf,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// The build is asked to stop.
    Stopping {
        /// False: BitBake is asked to finish what runs. True: everything is killed.
        force: bool,
    },
    /// A file was kept.
    ArtifactKept {
        /// Which.
        artifact: Artifact,
    },
    /// The last event of every build.
    Finished {
        /// How it ended.
        outcome: Outcome,
    },
}
