//! The command lines of kas 5.5.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// `smidr kas`
#[derive(Parser)]
#[command(name = "smidr kas", about = "Run one of kas's commands on a kas project", disable_version_flag = true, after_help = AFTER)]
pub(super) struct Kas {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: KasCommand,
}

const AFTER: &str = "Takes kas's own command lines. A kas project builds with `smidr build kas.yml` as well, without repositories in its folder.";

/// What all commands take.
#[derive(Args, Clone, Default)]
pub(super) struct Common {
    /// Log less or more: debug, info, warning, error or critical
    #[arg(short, long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Use no colours
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// Its commands.
#[derive(Subcommand)]
pub(super) enum KasCommand {
    /// Check out all repositories and write the conf files
    Checkout(Checkout),
    /// Check out, and build
    Build(Build),
    /// Check out, and run a command or a shell where BitBake is
    Shell(Shell),
    /// Check out, and run a command in each repository
    ForAllRepos(ForAllRepos),
    /// Print the merged configuration
    Dump(Dump),
    /// Write lock files
    Lock(Lock),
    /// Compare two configurations
    Diff(Diff),
    /// Remove what builds and checkouts have left
    Purge(Purge),
}

/// What is checked out.
#[derive(Args, Clone, Default)]
pub(super) struct Setup {
    /// Steps that are left out; has no effect, since smidr has other ones
    #[arg(long, value_name = "STEP")]
    pub skip: Vec<String>,
    /// Check out over changes that are not committed
    #[arg(long)]
    pub force_checkout: bool,
    /// Ask the servers where branches and tags are now; lock files do not count
    #[arg(long)]
    pub update: bool,
}

/// `smidr kas checkout`
#[derive(Args)]
pub(super) struct Checkout {
    #[command(flatten)]
    pub setup: Setup,
    /// kas files, separated by colons
    #[arg(default_value = CONFIG)]
    pub config: PathBuf,
}

/// What kas reads where no file is named.
const CONFIG: &str = ".config.yaml";

/// `smidr kas build`
#[derive(Args)]
pub(super) struct Build {
    #[command(flatten)]
    pub setup: Setup,
    /// Build this instead of the files' targets; may be repeated
    #[arg(long)]
    pub target: Vec<String>,
    /// Run this task
    #[arg(short, long, visible_alias = "cmd", value_name = "TASK")]
    pub c: Option<String>,
    /// The same
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,
    /// Check nothing out
    #[arg(short, long)]
    pub keep_config_unchanged: bool,
    /// Has no effect
    #[arg(long, value_name = "MODE", hide = true)]
    pub provenance: Option<String>,
    /// kas files, separated by colons
    #[arg(default_value = CONFIG)]
    pub config: PathBuf,
    /// Handed to BitBake
    #[arg(last = true, allow_hyphen_values = true)]
    pub extra: Vec<String>,
}

/// `smidr kas shell`
#[derive(Args)]
pub(super) struct Shell {
    #[command(flatten)]
    pub setup: Setup,
    /// Run this command line
    #[arg(short, long)]
    pub command: Option<String>,
    /// Keep the caller's environment; has no effect
    #[arg(short = 'E', long)]
    pub preserve_env: bool,
    /// Check nothing out
    #[arg(short, long)]
    pub keep_config_unchanged: bool,
    /// kas files, separated by colons
    #[arg(default_value = CONFIG)]
    pub config: PathBuf,
}

/// `smidr kas for-all-repos`
#[derive(Args)]
pub(super) struct ForAllRepos {
    #[command(flatten)]
    pub setup: Setup,
    /// Keep the caller's environment; it is kept anyway
    #[arg(short = 'E', long)]
    pub preserve_env: bool,
    /// Check nothing out
    #[arg(short, long)]
    pub keep_config_unchanged: bool,
    /// kas files, separated by colons
    pub config: PathBuf,
    /// A command line for sh
    pub command: String,
}

/// Forms of a dump.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DumpForm {
    Yaml,
    Json,
}

/// `smidr kas dump`
#[derive(Args)]
pub(super) struct Dump {
    #[command(flatten)]
    pub setup: Setup,
    #[command(flatten)]
    pub written: Written,
    /// The form
    #[arg(long, value_enum, default_value = "yaml")]
    pub format: DumpForm,
    /// Write commits for branches and tags
    #[arg(long)]
    pub resolve_refs: bool,
    /// Write the commits of repositories without an address, too
    #[arg(long)]
    pub resolve_local: bool,
    /// Write the caller's values of variables
    #[arg(long, conflicts_with = "lock")]
    pub resolve_env: bool,
    /// Print a lock file
    #[arg(long, conflicts_with = "resolve_local")]
    pub lock: bool,
    /// kas files, separated by colons
    #[arg(default_value = CONFIG)]
    pub config: PathBuf,
}

/// How documents are written.
#[derive(Args, Clone, Copy)]
pub(super) struct Written {
    /// Blanks for each step
    #[arg(long, default_value_t = 2)]
    pub indent: usize,
    /// Sort by keys
    #[arg(long)]
    pub sort: bool,
}

/// `smidr kas lock`
#[derive(Args)]
pub(super) struct Lock {
    #[command(flatten)]
    pub setup: Setup,
    #[command(flatten)]
    pub written: Written,
    /// kas files, separated by colons
    #[arg(default_value = CONFIG)]
    pub config: PathBuf,
}

/// `smidr kas diff`
#[derive(Args)]
pub(super) struct Diff {
    /// The form
    #[arg(long, value_enum, default_value = "text")]
    pub format: DiffForm,
    /// Only commits of repositories
    #[arg(long, conflicts_with = "content_only")]
    pub commit_only: bool,
    /// All but commits of repositories
    #[arg(long)]
    pub content_only: bool,
    /// Has no effect: a line for each value is the only form
    #[arg(long, hide = true)]
    pub oneline: bool,
    /// kas files, separated by colons
    pub before: PathBuf,
    /// kas files, separated by colons
    pub after: PathBuf,
}

/// Forms of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DiffForm {
    Text,
    Json,
}

/// `smidr kas purge`
#[derive(Args)]
pub(super) struct Purge {
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// kas files, separated by colons
    #[arg(default_value = CONFIG)]
    pub config: PathBuf,
}
