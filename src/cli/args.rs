//! The command line's words. What is said here is what `--help` shows.

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser},
};

pub(super) use super::daemon_args::{Client, Daemon};
pub(super) use super::exchange_args::{Export, Fmt, Import, SchemaArgs};
pub(super) use super::image_args::{Compression, Image, Prune};
use super::{candidates, reports::Reports, voice::Voice};
use crate::{
    config::{nearest, provider},
    diagnose::warnings,
    model::{Digest, State},
};

/// Build embedded Linux (Yocto, BitBake) without Docker and without root
#[derive(Parser)]
#[command(name = "smidr", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(super) struct Cli {
    /// The project's config; commands that are about no project do not look at it
    #[arg(short, long, global = true, default_value = "smidr.yaml", value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// How much is said, and how
    #[command(flatten)]
    pub voice: Voice,
    /// What the caller grants
    #[command(flatten)]
    pub grant: Grant,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the build failed; 2 the request is wrong; 3 this host cannot;
4 something outside failed (network, mirror); 130 cancelled.
SMIDR_HOME (default ~/.smidr) holds everything that builds share.";

const PASSED_ON: &str = "The program's own status is passed on (128 and the signal's number if one ended it); 125 is a failure of smidr itself.";

/// The commands.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Write a project that builds as it is
    Init(Init),
    /// Show every problem of the config at once
    Check(Check),
    /// Show what a build would do; touches nothing
    Plan(Plan),
    /// Build the project
    Build(Build),
    /// Pin the build host and all layers in smidr.lock
    Lock(Lock),
    /// Look at layers, bring them, and see what has changed in them
    #[command(subcommand)]
    Layers(Layers),
    /// Run a command in the build's own sandbox
    Run(Run),
    /// Run one of kas's commands on a kas project
    #[command(disable_help_flag = true)]
    Kas {
        /// kas's own command line
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        words: Vec<String>,
    },
    /// Open a shell in the build's own sandbox
    Shell(Shell),
    /// Decide on what was changed in local.conf and bblayers.conf in a shell
    #[command(subcommand)]
    Conf(Conf),
    /// Grant a project what it asks for beyond its own folders
    Trust(Trust),
    /// Take back what was granted to a project
    Untrust(Untrust),
    /// Show builds, or one of them
    Status(Status),
    /// Show what a build said
    Logs(Logs),
    /// Say why a build failed, and what to do
    Explain(Explain),
    /// Watch a build that runs, as if it had been started here
    Attach(Attach),
    /// Stop a build that runs, and wait until it has stopped
    Cancel(Cancel),
    /// Look after the record of builds
    #[command(subcommand)]
    History(History),
    /// Look at and copy what builds left behind
    #[command(subcommand)]
    Artifacts(Artifacts),
    /// Make, bring and remove build-host images
    #[command(subcommand)]
    Image(Image),
    /// Show what all of it takes on the disk
    Du(Du),
    /// Free space on the disk; without options, show what could go
    Clean(CleanUp),
    /// Take builds for a team, queue them, and run them; or look after the daemon that does
    Daemon(Box<Daemon>),
    /// Start builds on a daemon and look at them, from anywhere
    Client(Box<Client>),
    /// Find out whether this machine can build, and what to do if not
    Doctor(Doctor),
    /// Write a smidr.yaml that builds what another tool's files describe
    Import(Import),
    /// Print the project as another tool's files
    Export(Export),
    /// Write a config in one style, with its comments
    Fmt(Fmt),
    /// Print the JSON schema of a document, for editors
    Schema(SchemaArgs),
    /// Print a script that completes commands in your shell
    Completions(Completions),
    /// Print the manual page, or write one for each command
    Man(Man),
    /// Run a submission; not for people
    #[command(name = "__worker", hide = true)]
    Worker(Worker),
    /// Print a config of a git repository as a submission; not for people
    #[command(name = "__config-of", hide = true)]
    ConfigOf(ConfigOf),
    /// Keep a hash-equivalence server; not for people
    #[command(name = "__keeper", hide = true)]
    Keeper,
}

/// `smidr init`
#[derive(Args)]
pub(super) struct Init {
    /// Name of the project and of its new folder; `.` for this folder
    pub name: String,
    /// What to begin with; all but hello need git hosts
    #[arg(long, default_value = "poky", value_name = "PROVIDER", value_parser = templates())]
    pub template: String,
}

/// What `init` can write: a system of its own, and a project for each provider.
fn templates() -> PossibleValuesParser {
    let hello = PossibleValue::new("hello")
        .help("A small system of its own (a Debian mirror and the Python registry are enough)");
    let about = |name| PossibleValue::new(name).help(provider::about(name));
    PossibleValuesParser::new([hello].into_iter().chain(provider::names().into_iter().map(about)))
}

/// `smidr check`
#[derive(Args)]
pub(super) struct Check {
    /// Check the config with this overlay
    #[arg(long, value_name = "NAME", add = candidates::variants())]
    pub variant: Option<String>,
    /// Also parse with BitBake, and look for what would fail; runs no task
    #[arg(long)]
    pub deep: bool,
    /// With --deep: look at these instead of build.image
    #[arg(value_name = "TARGET", requires = "deep", add = candidates::targets())]
    pub targets: Vec<String>,
    /// With --deep: reach no network
    #[arg(long, requires = "deep")]
    pub offline: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is built, for `build` and `plan`.
#[derive(Args, Clone, Default)]
pub struct Wanted {
    /// Build these instead of build.image
    #[arg(value_name = "TARGET", add = candidates::targets())]
    pub targets: Vec<String>,
    /// The same, as an option; may be repeated
    #[arg(long = "target", value_name = "TARGET", add = candidates::targets())]
    pub more_targets: Vec<String>,
    /// Build for this machine instead of the config's
    #[arg(long, value_name = "MACHINE", add = candidates::machines())]
    pub machine: Option<String>,
    /// Remove first all that builds of the project write; downloads and sstate stay
    #[arg(long)]
    pub clean: bool,
    /// Fetch all sources and stop
    #[arg(long)]
    pub fetch_only: bool,
    /// Use what smidr.lock pins, or fail; for CI
    #[arg(long)]
    pub locked: bool,
    /// Reach no network at all, neither for image and layers nor in the build
    #[arg(long)]
    pub offline: bool,
    /// Fail the build if it has warnings of this kind, of `qa` (any QA check) or `all`; may be repeated
    #[arg(long, value_name = "KIND", value_parser = kind_of_warnings)]
    pub fail_on_warning: Vec<String>,
    /// Handed to BitBake as they are, such as -k, or -c TASK -f
    #[arg(last = true, value_name = "BITBAKE-ARGS", allow_hyphen_values = true)]
    pub bitbake_args: Vec<String>,
}

/// A kind of warnings that there is: one that is misspelt would let all pass.
fn kind_of_warnings(text: &str) -> Result<String, String> {
    let known = warnings::kinds();
    if known.iter().any(|kind| kind == text) {
        return Ok(text.into());
    }
    let near = nearest(text, known.iter().map(String::as_str));
    let near = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
    Err(format!("there is no such kind of warnings. {near}docs/ci.md lists them; for all QA checks: qa"))
}

/// `smidr plan`
#[derive(Args)]
pub(super) struct Plan {
    /// What to plan for
    #[command(flatten)]
    pub wanted: Wanted,
    /// Plan with this overlay of the config
    #[arg(long, value_name = "NAME", add = candidates::variants())]
    pub variant: Option<String>,
    /// Print local.conf and bblayers.conf whole
    #[arg(long, conflicts_with = "json")]
    pub conf: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `smidr build`
#[derive(Args, Default)]
pub(super) struct Build {
    /// What to build
    #[command(flatten)]
    pub wanted: Wanted,
    /// Build with this overlay of the config; several are built at once
    #[arg(long = "variant", value_name = "NAME", add = candidates::variants())]
    pub variants: Vec<String>,
    /// Build all variants of the config at once
    #[arg(long, conflicts_with = "variants")]
    pub all_variants: bool,
    /// Of several builds, run at most so many at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// Of several builds, let the others go on when one fails
    #[arg(long)]
    pub keep_going: bool,
    /// Wait while another build uses the workspace
    #[arg(long)]
    pub wait: bool,
    /// Print the build's id and return; the build goes on without this terminal
    #[arg(long, conflicts_with_all = ["events", "junit", "code_quality", "summary", "annotations"])]
    pub detach: bool,
    /// Build on a daemon: this user's own, or the one at ADDRESS
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "", require_equals = true, conflicts_with = "detach")]
    pub daemon: Option<String>,
    /// Print events to standard output in this form
    #[arg(long, value_name = "FORM")]
    pub events: Option<EventForm>,
    /// For CI
    #[command(flatten)]
    pub reports: Reports,
}

/// How events are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum EventForm {
    /// A JSON object per line
    Json,
}

/// `smidr lock`
#[derive(Args)]
pub(super) struct Lock {
    /// Pin these anew, to what their branches are at now: names of layers, `bitbake`, or `host`; without a name everything
    #[arg(long, value_name = "NAME", num_args = 0.., add = candidates::pins())]
    pub update: Option<Vec<String>>,
    /// With --update: all layers and BitBake, and not the build host
    #[arg(long, requires = "update")]
    pub layers: bool,
    /// With --update: the build host, and no layer
    #[arg(long, requires = "update")]
    pub host: bool,
    /// Write lock files of kas too, beside its files
    #[arg(long)]
    pub kas: bool,
    /// Write sources-fixed-revisions.json of bitbake-setup too, in the folder config of the set-up
    #[arg(long, conflicts_with = "kas")]
    pub bitbake_setup: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `smidr layers`
#[derive(Subcommand)]
pub(super) enum Layers {
    /// Show the project's repositories and their layers, as far as they are here
    #[command(visible_alias = "list")]
    Ls {
        /// Show everything in the store instead, whatever project it belongs to
        #[arg(long)]
        store: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring everything that smidr.lock pins, and pin what it does not
    Sync {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Edit a git layer in a working copy, which builds use until it is given back
    Edit(LayersEdit),
    /// Show what has changed since smidr.lock, or from one lock to another
    Diff {
        /// A lock; without it, smidr.lock against the branches
        #[arg(value_name = "OLD")]
        old: Option<PathBuf>,
        /// A later lock; without it, smidr.lock
        #[arg(value_name = "NEW")]
        new: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove checkouts unused for long, and repositories that no checkout needs
    Prune {
        /// Keep what was used within this many days
        #[arg(long, value_name = "N", default_value_t = 30)]
        days: u64,
        /// Say what would go, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `smidr layers edit`
#[derive(Args)]
pub(super) struct LayersEdit {
    /// The layer, as smidr.yaml calls it
    pub name: String,
    /// The folder of the working copy; without it, layers/NAME beside smidr.yaml
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// Give it back: builds use the pinned layer again. The working copy stays
    #[arg(long)]
    pub done: bool,
    /// Write a patch for each commit that was made in it
    #[arg(long, value_name = "DIR", requires = "done")]
    pub patch: Option<PathBuf>,
}

/// `smidr run`
#[derive(Args)]
#[command(after_help = PASSED_ON)]
pub(super) struct Run {
    /// Use this overlay of the config
    #[arg(long, value_name = "NAME", add = candidates::variants())]
    pub variant: Option<String>,
    /// Print what the sandbox does, one operation per line, instead of running anything
    #[arg(long)]
    pub print_sandbox: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `smidr shell`
#[derive(Args)]
#[command(after_help = PASSED_ON)]
pub(super) struct Shell {
    /// A build of this project: where it was made, its variant included
    #[arg(add = candidates::builds())]
    pub id: Option<String>,
    /// Use this overlay of the config
    #[arg(long, value_name = "NAME", add = candidates::variants())]
    pub variant: Option<String>,
    /// Print what the sandbox does, one operation per line, instead of running anything
    #[arg(long)]
    pub print_sandbox: bool,
}

/// `smidr conf`
#[derive(Subcommand)]
pub(super) enum Conf {
    /// Write added layers and lines into the config, so that builds have them too
    Adopt(OfVariant),
    /// Drop what was changed
    Discard(OfVariant),
}

/// A workspace of the project.
#[derive(Args)]
pub(super) struct OfVariant {
    /// That of this overlay of the config
    #[arg(long, value_name = "NAME", add = candidates::variants())]
    pub variant: Option<String>,
}

/// `smidr trust`
#[derive(Args)]
pub(super) struct Trust {
    /// List the projects that are trusted, instead of trusting one
    #[arg(long)]
    pub list: bool,
    /// With --list: print JSON
    #[arg(long, requires = "list")]
    pub json: bool,
    /// Grant only this: to reach what begins with this address (of git, of images) with your logins and ssh keys; may be repeated
    #[arg(long, value_name = "ADDRESS", conflicts_with = "list")]
    pub login: Vec<String>,
}

/// `smidr untrust`
#[derive(Args)]
pub(super) struct Untrust {}

/// What the caller grants for this one command.
#[derive(Args, Clone, Default)]
pub(super) struct Grant {
    /// Grant exactly the asks with this digest, as `smidr check` prints it; for CI
    #[arg(long = "trust", global = true, value_name = "DIGEST")]
    pub trust: Option<Digest>,
}

/// `smidr status`
#[derive(Args)]
pub(super) struct Status {
    /// The build; the newest builds if left out
    #[arg(add = candidates::builds())]
    pub id: Option<String>,
    /// List all builds, not only the newest 50
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
    /// List only builds in this state, such as building or failed; repeatable
    #[arg(long = "state", value_name = "STATE", conflicts_with = "id", value_parser = state)]
    pub states: Vec<State>,
    /// List only builds of the project with this name
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    pub project: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn state(text: &str) -> Result<State, String> {
    text.to_ascii_uppercase().replace('-', "_").parse()
}

/// `smidr cancel`
#[derive(Args)]
pub(super) struct Cancel {
    /// The build; if left out, the one of the project in this folder that runs
    #[arg(add = candidates::builds())]
    pub id: Option<String>,
    /// Kill its tasks at once, instead of letting those that run finish (at most 30 s)
    #[arg(long)]
    pub force: bool,
}

/// `smidr logs`
#[derive(Args)]
pub(super) struct Logs {
    /// The build; if left out, the newest of the project in this folder, or of all
    #[arg(add = candidates::builds())]
    pub id: Option<String>,
    /// Go on until the build ends
    #[arg(long, short)]
    pub follow: bool,
    /// Only this task's own log
    #[arg(long, value_name = "RECIPE:TASK", conflicts_with_all = ["follow", "junit", "code_quality", "summary", "annotations"], add = candidates::tasks())]
    pub task: Option<String>,
    /// Print the journal, a JSON object per line
    #[arg(long, conflicts_with = "task")]
    pub json: bool,
    /// For CI
    #[command(flatten)]
    pub reports: Reports,
}

/// `smidr explain`
#[derive(Args)]
pub(super) struct Explain {
    /// The build; if left out, the newest of the project in this folder, or of all
    #[arg(add = candidates::builds(), conflicts_with_all = ["log", "task_log"])]
    pub id: Option<String>,
    /// A console of BitBake from elsewhere, such as a CI's log; `-` is standard input
    #[arg(long, value_name = "CONSOLE")]
    pub log: Option<PathBuf>,
    /// The log of a task that failed there; may be repeated
    #[arg(long, value_name = "LOG")]
    pub task_log: Vec<PathBuf>,
    /// The Yocto series that was built there, such as scarthgap or 5.0
    #[arg(long, value_name = "SERIES", conflicts_with = "id")]
    pub series: Option<String>,
    /// Read the logs of the build again, in place of what its end says
    #[arg(long, conflicts_with_all = ["log", "task_log"])]
    pub again: bool,
    /// Tell what BitBake and its tasks warned about instead
    #[arg(long, conflicts_with_all = ["log", "task_log", "series"])]
    pub warnings: bool,
    /// Tell everything that is known, with all lines that show it
    #[arg(long)]
    pub all: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
    /// For CI
    #[command(flatten)]
    pub reports: Reports,
}

/// `smidr attach`
#[derive(Args)]
pub(super) struct Attach {
    /// The build; if left out, the newest of the project in this folder, or of all
    #[arg(add = candidates::builds())]
    pub id: Option<String>,
}

/// `smidr history`
#[derive(Subcommand)]
pub(super) enum History {
    /// Make the index of builds again from their journals
    Rebuild,
    /// Remove old builds with all that is known of them
    Prune(Clean),
}

/// `smidr __worker`
#[derive(Args)]
pub(super) struct Worker {
    /// The build
    pub id: String,
    /// It outlives the session that has started it
    #[arg(long)]
    pub outlives: bool,
}

/// `smidr __config-of`
#[derive(Args)]
pub(super) struct ConfigOf {
    /// The repository
    pub url: String,
    /// A branch, a tag or a commit
    pub reference: String,
    /// The config in it
    pub path: PathBuf,
    /// What is built instead of what it says
    #[arg(long = "target", value_name = "TARGET")]
    pub targets: Vec<String>,
    /// An overlay of it
    #[arg(long)]
    pub variant: Option<String>,
    /// Say what it would be pinned to now
    #[arg(long)]
    pub pins: bool,
}

/// `smidr artifacts`
#[derive(Subcommand)]
pub(super) enum Artifacts {
    /// List what a build left behind
    #[command(visible_alias = "ls")]
    List(Listing),
    /// Copy what a build left behind into a folder
    #[command(
        override_usage = "smidr artifacts copy [OPTIONS] <DEST>\n       smidr artifacts copy [OPTIONS] <ID> <DEST> [PATTERN]..."
    )]
    Copy(Copy),
    /// Show where a build's artifacts are, with their digests
    Show(Listing),
    /// Remove artifacts and logs of old builds; that they were built stays known
    Clean(Clean),
}

/// `smidr artifacts copy`
#[derive(Args)]
pub(super) struct Copy {
    /// The folder, made if it is missing; before it the build, if it is not the newest of the project in this folder; after it paths or patterns
    /// such as '*.wic', if not everything is wanted
    #[arg(required = true, value_name = "DEST", add = candidates::builds_or_paths())]
    pub words: Vec<PathBuf>,
    /// Replace files that are there already
    #[arg(long)]
    pub force: bool,
}

/// `smidr artifacts clean`
#[derive(Args)]
pub(super) struct Clean {
    /// Keep so many of the newest builds of each project and variant that left artifacts, and as many that left only logs
    #[arg(long, value_name = "BUILDS")]
    pub keep: Option<usize>,
    /// Only builds that ended more than so many days ago
    #[arg(long, value_name = "DAYS")]
    pub days: Option<u32>,
    /// Builds of all projects, not only of the one in this folder
    #[arg(long)]
    pub all_projects: bool,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A build whose artifacts are listed.
#[derive(Args)]
pub(super) struct Listing {
    /// The build; if left out, the newest of the project in this folder, or of all
    #[arg(add = candidates::builds())]
    pub id: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `smidr du`
#[derive(Args)]
pub(super) struct Du {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `smidr clean`
#[derive(Args)]
#[command(
    after_help = "What a running build uses stays. `smidr image prune`, `layers prune` and `artifacts clean` do their part of this alone."
)]
pub(super) struct CleanUp {
    /// Remove what no build has used for so long, such as 30d or 12h; of artifacts and logs the newest of each project and variant stay
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<String>,
    /// Remove the downloads and sstate that were used longest ago until the rest takes no more, such as 20g
    #[arg(long, value_name = "SIZE")]
    pub keep_size: Option<String>,
    /// Remove workspaces and caches of projects whose config is not there any more
    #[arg(long)]
    pub gone: bool,
    /// Remove only things of this kind; may be repeated
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<Store>,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What takes space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Store {
    /// What BitBake has downloaded
    Downloads,
    /// What BitBake has built and could use again
    Sstate,
    /// Layers' checkouts and mirrors
    Layers,
    /// Build-host images
    Images,
    /// What builds left behind
    Artifacts,
    /// Folders of projects that are gone
    Workspaces,
}

/// `smidr doctor`
#[derive(Args)]
pub(super) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `smidr man`
#[derive(Args)]
pub(super) struct Man {
    /// Write a page for each command into this folder
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

/// `smidr completions`
#[derive(Args)]
pub(super) struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}
