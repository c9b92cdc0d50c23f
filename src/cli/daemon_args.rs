//! The words of `smidr daemon` and `smidr client`. What is said here is what `--help` shows.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    args::{EventForm, Wanted, state},
    candidates,
};
use crate::{daemon::access::Scope, model::State};

/// `smidr daemon`
#[derive(Args)]
pub(super) struct Daemon {
    /// What to do with the daemon that runs, instead of starting one
    #[command(subcommand)]
    pub command: Option<DaemonCommand>,
    /// Listen on this address too, with TLS: HOST:PORT, or :PORT for all addresses of this machine; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub address: Vec<String>,
    /// Listen there without TLS; only on loopback
    #[arg(long, requires = "address")]
    pub insecure: bool,
    /// Take the place of the daemon that runs: its sockets and its builds; no request is refused. Without --address it goes on where that one
    /// listens
    #[arg(long)]
    pub replace: bool,
    /// Return once it serves; its log goes to SMIDR_HOME/daemon/daemon.log
    #[arg(long)]
    pub background: bool,
    /// The process that --background starts
    #[arg(long, hide = true)]
    pub of_background: bool,
}

/// What to do with the daemon that runs.
#[derive(Subcommand)]
pub(super) enum DaemonCommand {
    /// Show what the daemon does
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End the daemon; builds go on
    Stop {
        /// Cancel builds that run; those that wait stay
        #[arg(long, conflicts_with = "drain")]
        cancel: bool,
        /// Start no more builds, and end with the last one that runs
        #[arg(long)]
        drain: bool,
        /// Let builds go on, as without any of these options
        #[arg(long, conflicts_with_all = ["cancel", "drain"])]
        leave: bool,
    },
    /// Read daemon.yaml again; a bad one is refused, and the old one stays
    Reload,
    /// Print the units for systemd: a service and its socket
    Units {
        /// Of the machine's daemon, which runs as the user smidr; without this: of your own
        #[arg(long)]
        system: bool,
        /// Let systemd listen on this address too: HOST:PORT or PORT
        #[arg(long, value_name = "ADDRESS")]
        address: Option<String>,
        /// Write them where systemd looks for them
        #[arg(long)]
        write: bool,
    },
    /// Start no more builds; those that run go on, and new ones are taken
    Pause,
    /// Start builds again
    Resume,
    /// Remove old builds; what more than one option names goes only if all of them say so
    Purge(Purge),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Check daemon.yaml, and the files of certificates that it names
    Check,
    /// Print the certificate of the daemon's authority
    Ca,
    /// Make a client certificate; daemon.yaml says what its subject may do
    Certificate {
        /// The subject, as `certificates` in daemon.yaml has it
        subject: String,
        /// The folder to write SUBJECT.pem and SUBJECT.key to
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
}

/// `smidr daemon purge`
#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(super) struct Purge {
    /// Keep so many builds of each project, variant and customer, the newest: so many that left artifacts, and so many that did not. Without
    /// this, or with 1, one of each stays
    #[arg(long, value_name = "N", group = "what")]
    pub keep: Option<u32>,
    /// Only builds that ended longer ago, such as 30d or 12h
    #[arg(long, value_name = "AGE", group = "what")]
    pub older_than: Option<String>,
    /// Of each customer, only so many that the artifacts of the others fit into this size, such as 200G
    #[arg(long, value_name = "SIZE", group = "what")]
    pub max_size: Option<String>,
    /// Only builds of this customer
    #[arg(long, value_name = "NAME")]
    pub customer: Option<String>,
    /// Remove only what builds left behind; what is known of them stays
    #[arg(long)]
    pub artifacts_only: bool,
    /// Only list them
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `smidr daemon token`
#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token, and print it: it is shown only now
    Create {
        /// Its name
        name: String,
        /// What it allows: read, submit, cancel or admin; may be repeated, or separated by commas
        #[arg(long, value_name = "SCOPE", value_delimiter = ',', required = true)]
        scope: Vec<Scope>,
        /// Only builds of this customer
        #[arg(long, value_name = "NAME")]
        customer: Option<String>,
        /// How long it is good, such as 90d or 12h; without this it does not expire
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List tokens
    #[command(visible_alias = "list")]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token; what was opened with it ends
    #[command(visible_alias = "revoke")]
    Rm {
        /// Its name
        name: String,
    },
}

/// `smidr client`
#[derive(Args)]
pub(super) struct Client {
    /// The daemon
    #[command(flatten)]
    pub reach: ReachDaemon,
    /// What to do
    #[command(subcommand)]
    pub command: ClientCommand,
}

/// Which daemon is spoken to. Without any of it: the one of the login, or the one of this SMIDR_HOME.
#[derive(Args, Clone, Default)]
pub(super) struct ReachDaemon {
    /// The daemon's address, instead of that of the login or the own one
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// What `smidr daemon` prints: the SHA-256 of the certificate of its authority
    #[arg(long, global = true, value_name = "sha256:HEX", value_parser = pin)]
    pub pin: Option<String>,
    /// A file with a token
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A client certificate, in PEM form
    #[arg(long, global = true, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, global = true, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Without TLS; only on loopback
    #[arg(long, global = true)]
    pub insecure: bool,
}

/// A pin as it is written.
fn pin(text: &str) -> Result<String, String> {
    let is_hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.strip_prefix("sha256:").is_some_and(is_hex) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("it is sha256: and 64 hexadecimal digits, as `smidr daemon` prints it".into()),
    }
}

/// What to do with a daemon's builds.
#[derive(Subcommand)]
pub(super) enum ClientCommand {
    /// Keep a daemon's address and a token for later commands
    Login {
        /// Its address
        #[arg(value_name = "HOST:PORT")]
        to: String,
    },
    /// Forget the login
    Logout,
    /// Show who the daemon takes this client for
    Whoami {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start a build
    Start(Start),
    /// Show a build
    Status(Which),
    /// Show what a build said
    Logs(ClientLogs),
    /// List builds, the newest first
    List(List),
    /// Stop a build; it must be named
    Cancel {
        /// The build
        #[command(flatten)]
        which: Which,
        /// Kill its tasks at once
        #[arg(long)]
        force: bool,
    },
    /// Say why a build failed, and what to do
    Explain {
        /// The build
        #[command(flatten)]
        which: Which,
        /// Tell everything that is known, with all lines that show it
        #[arg(long)]
        all: bool,
    },
    /// Watch a build, as if it had been started here
    Attach(Which),
    /// Write to smidr.lock what a build of this project was pinned to
    Lock(Which),
    /// List what a build left behind
    Artifacts(Which),
    /// Copy what a build left behind
    Download(Download),
    /// Remove a build that is over, with all that is known of it; it must be named
    Delete(Which),
    /// Build at times
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Tell addresses what becomes of builds
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Show which builds run and which wait, and why
    Queue {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `smidr client schedule`
#[derive(Subcommand)]
pub(super) enum ScheduleCommand {
    /// Build at times; replaces the schedule with this name
    Create(NewSchedule),
    /// List schedules
    #[command(visible_alias = "list")]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start the build of a schedule now; its times stay as they are
    Run {
        /// Its name
        name: String,
        /// Whose it is
        #[arg(long, value_name = "NAME")]
        customer: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a schedule
    Rm {
        /// Its name
        name: String,
        /// Whose it is
        #[arg(long, value_name = "NAME")]
        customer: Option<String>,
    },
}

/// `smidr client schedule create`
#[derive(Args)]
pub(super) struct NewSchedule {
    /// Its name
    pub name: String,
    /// When: minute, hour, day of the month, month, day of the week, as crontab(5) has them; or @daily
    #[arg(long, value_name = "CRON")]
    pub cron: String,
    /// The time zone of that, such as Europe/Berlin; UTC if left out
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// Build the config of this git repository, as it is then; without it, this project as it is now
    #[arg(long, value_name = "URL")]
    pub git: Option<String>,
    /// The branch or tag of the repository
    #[arg(long = "ref", value_name = "REF", default_value = "main", requires = "git")]
    pub reference: String,
    /// The config in the repository
    #[arg(long, value_name = "FILE", default_value = "smidr.yaml", requires = "git")]
    pub path: String,
    /// Build these instead of build.image; may be repeated
    #[arg(long = "target", value_name = "TARGET", add = candidates::targets())]
    pub targets: Vec<String>,
    /// Build with this overlay of the config
    #[arg(long, value_name = "NAME", add = candidates::variants())]
    pub variant: Option<String>,
    /// Whose builds they are
    #[arg(long, value_name = "NAME")]
    pub customer: Option<String>,
    /// Make up one run for those that were missed while the daemon was down
    #[arg(long)]
    pub run_missed: bool,
    /// Build only if smidr.lock would change
    #[arg(long, requires = "git")]
    pub only_if_changed: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `smidr client webhook`
#[derive(Subcommand)]
pub(super) enum WebhookCommand {
    /// Tell an address what becomes of builds; replaces the webhook with this name
    Create {
        /// Its name
        name: String,
        /// The address
        url: String,
        /// Only this: build.queued, build.started or build.finished; may be repeated
        #[arg(long = "event", value_name = "EVENT")]
        events: Vec<String>,
        /// Only builds of this customer
        #[arg(long, value_name = "NAME")]
        customer: Option<String>,
        /// What signs, as whsec_ and base64; without it one is made; twice while one replaces another
        #[arg(long = "secret", value_name = "SECRET")]
        secrets: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List webhooks
    #[command(visible_alias = "list")]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a webhook
    Rm {
        /// Its name
        name: String,
        /// Whose it is
        #[arg(long, value_name = "NAME")]
        customer: Option<String>,
    },
    /// Show what was sent, and how it was answered
    Deliveries {
        /// Only to this webhook
        name: Option<String>,
        /// Whose it is
        #[arg(long, value_name = "NAME")]
        customer: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send a delivery again, with its id
    Resend {
        /// The delivery
        id: String,
    },
}

/// A build of a daemon.
#[derive(Args)]
pub(super) struct Which {
    /// The build; the newest if left out
    #[arg(value_name = "ID", conflicts_with = "build_id", add = candidates::daemon_builds())]
    pub id: Option<String>,
    /// The same, as an option
    #[arg(long, value_name = "ID", add = candidates::daemon_builds())]
    pub build_id: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Which {
    /// The id, if there is one.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref().or(self.build_id.as_deref())
    }
}

/// `smidr client start`
#[derive(Args)]
pub(super) struct Start {
    /// What to build
    #[command(flatten)]
    pub wanted: Wanted,
    /// Build with this overlay of the config
    #[arg(long, value_name = "NAME", add = candidates::variants())]
    pub variant: Option<String>,
    /// What names the build
    #[command(flatten)]
    pub about: About,
    /// Return when the build is over, with the exit code of a local build; Ctrl-C stops the build
    #[arg(long)]
    pub wait: bool,
    /// Show the build as it runs, until it is over
    #[arg(long)]
    pub follow: bool,
    /// Print events to standard output in this form
    #[arg(long, value_name = "FORM", requires = "follow")]
    pub events: Option<EventForm>,
    /// List the files that would be sent, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["wait", "follow", "dry_run"])]
    pub json: bool,
}

/// What a daemon is told of a build beside what is built.
#[derive(Args, Clone, Default)]
pub(super) struct About {
    /// Whose build it is: names the build and its caches
    #[arg(long, value_name = "NAME")]
    pub customer: Option<String>,
    /// Something to find it by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Higher goes first, within a customer
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    pub priority: i32,
    /// Start it again, once, where its worker is killed
    #[arg(long)]
    pub retry_interrupted: bool,
}

/// `smidr client logs`
#[derive(Args)]
pub(super) struct ClientLogs {
    /// The build
    #[command(flatten)]
    pub which: Which,
    /// Go on until the build ends
    #[arg(long, short)]
    pub follow: bool,
    /// Begin after this record
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from_seq: u64,
    /// Only the last lines
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    pub tail: u32,
    /// Only lines that hold this text
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
    /// Only what this task said
    #[arg(long, value_name = "RECIPE:TASK", add = candidates::daemon_tasks())]
    pub task: Option<String>,
}

/// `smidr client list`
#[derive(Args)]
pub(super) struct List {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Only builds in this state, such as building or failed; repeatable
    #[arg(long = "state", value_name = "STATE", value_parser = state)]
    pub states: Vec<State>,
    /// Only builds of this customer
    #[arg(long, value_name = "NAME")]
    pub customer: Option<String>,
    /// Only builds of the project with this name
    #[arg(long, value_name = "NAME")]
    pub project: Option<String>,
    /// Only builds with this label; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `smidr client download`
#[derive(Args)]
pub(super) struct Download {
    /// The build, and the folder to copy to; the newest build if only the folder is named
    #[arg(required_unless_present = "tar", num_args = 1..=2, value_name = "[ID] DEST", add = candidates::daemon_builds())]
    pub words: Vec<PathBuf>,
    /// The build, as an option
    #[arg(long, value_name = "ID", add = candidates::daemon_builds())]
    pub build_id: Option<String>,
    /// Only files that match, such as '*.wic'; may be repeated
    #[arg(long = "path", value_name = "GLOB")]
    pub patterns: Vec<String>,
    /// Write a tar archive to this file instead, or to standard output (-)
    #[arg(long, value_name = "FILE")]
    pub tar: Option<PathBuf>,
    /// Replace files that are there already
    #[arg(long)]
    pub force: bool,
}
