//! Before a command looks at a kas project: the repositories that its includes and patches lead to are brought, one round after the other.

use std::{env, os::unix::process::CommandExt as _, path::Path, process::Command};

use nix::sys::signal::{SigSet, Signal};

use crate::{
    cli::{
        args::Grant,
        command_context::CommandContext,
        context,
        report::{Failure, Refused},
        trust,
    },
    engine,
    lock::Pins,
    model::BuildRequest,
    project::{KasFiles, KasRead, Project, is_kas},
    system::files::FileError,
};

/// Set once all is there: what is missing then will not come.
const BROUGHT: &str = "SMIDR_KAS_BROUGHT";

/// What a command allows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// No pin may be added or changed.
    pub locked: bool,
    /// No network may be reached.
    pub offline: bool,
}

/// Brings what the kas files `config` name need to be read whole; does nothing for any other config. Where something was brought, this process
/// begins anew: signals and threads belong to the command.
pub(crate) fn bring(config: &Path, grant: &Grant, rules: Rules) -> Result<(), Failure> {
    if !is_kas(config) {
        return Ok(());
    }
    let facts = context::gather();
    let files = KasFiles::of(config, &facts)?;
    let KasRead::Wants(sources) = files.read(&facts)? else { return Ok(()) };
    if env::var_os(BROUGHT).is_some() {
        return Err(Refused::new(format!("the includes of {} cannot be read", config.display()), None).into());
    }
    let context = CommandContext::open("lock")?;
    bring_all(&files, *sources, grant, rules, &context)?;
    drop(context);
    let all = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH]);
    let _ = all.thread_unblock();
    let error = Command::new("/proc/self/exe").args(env::args_os().skip(1)).env(BROUGHT, "1").exec();
    Err(FileError::new("start", Path::new("/proc/self/exe"))(error).into())
}

/// The same within a command that has everything open.
pub(super) fn bring_all(
    files: &KasFiles,
    first: crate::project::Sources,
    grant: &Grant,
    rules: Rules,
    context: &CommandContext,
) -> Result<(), Failure> {
    let given = trust::given(&context.facts, grant);
    let Rules { locked, offline } = rules;
    let request = BuildRequest { locked, offline, ..BuildRequest::default() };
    let mut sources = first;
    for _ in 0..ROUNDS {
        let project = Project::of(sources, None, &context.facts)?;
        let judged = trust::settle(&project, &request, &context.facts, &context.paths, &given, &context.stop)?;
        let repositories = engine::repositories(&judged.plan, context.tools())?;
        project.pin(Pins { hosts: Vec::new(), repositories }, &context.paths, locked)?;
        match files.read(&context.facts)? {
            KasRead::Whole(_) => return Ok(()),
            KasRead::Wants(next) => sources = *next,
        }
    }
    Err(Refused::new(format!("the includes lead on and on, after {ROUNDS} rounds of fetching"), None).into())
}

/// More levels of repositories than any project has.
const ROUNDS: usize = 100;
