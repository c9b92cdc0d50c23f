//! `smidr run` and `smidr shell`: a program in the build's own sandbox. Its exit status is passed on; 125 means that smidr itself
//! failed, as with other tools that run something in something.

use std::{path::Path, process::ExitCode};

use super::{
    args::{Grant, Run, Shell},
    build::start_spawner,
    conf,
    context::{self, default_wanted},
    output::{complain, say, talk, talk_lines},
    pty::Relay,
    report::{Failure, Refused, placed, report},
    terminal::Terminal,
    trust,
};
use crate::{
    engine::{
        self, Confinement, Prepared, Sent, Services, Tools, Use,
        conf::{Written, changes},
    },
    events::Emitter,
    image::ImageStore,
    model::{BuildId, Hint, Kind, Limits, Submission},
    plan,
    project::Project,
    sandbox,
    service::{LocalService, random},
    system::{
        files::FileError,
        paths,
        stop::{StopRequest, StopToken},
    },
    worker,
};

/// smidr's own failures, in the habit of env(1), timeout(1) and docker run.
const OWN_FAILURE: u8 = 125;

/// Runs the command `run`.
pub(super) fn run(file: &Path, grant: &Grant, args: Run) -> ExitCode {
    finish(inside(Of::Folder { file, grant, variant: args.variant }, Some(args.command), args.print_sandbox))
}

/// Runs the command `shell`.
pub(super) fn shell(file: &Path, grant: &Grant, args: Shell) -> ExitCode {
    let of = match &args.id {
        Some(id) => of_build(file, grant, id, args.variant.as_deref()),
        None => Ok(Of::Folder { file, grant, variant: args.variant.clone() }),
    };
    finish(of.and_then(|of| inside(of, None, args.print_sandbox)))
}

/// Whose sandbox is opened.
enum Of<'a> {
    /// That of the project in a folder.
    Folder { file: &'a Path, grant: &'a Grant, variant: Option<String> },
    /// That of a build whose project a client of the daemon has sent. It is looked at: what the client sends next counts, not what is changed here.
    Sent(Box<Submission>),
}

/// A build of this folder's project has the workspace of its variant.
fn of_build<'a>(file: &'a Path, grant: &'a Grant, id: &str, wanted: Option<&str>) -> Result<Of<'a>, Failure> {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let build = LocalService::new(&paths).show(Some(id))?;
    if wanted.is_some() && wanted != build.variant.as_deref() {
        let variant =
            build.variant.as_ref().map_or_else(|| "no variant".into(), |name| format!("the variant `{name}`"));
        let hint = Hint::command("leave one of them out", format!("smidr shell {id}"));
        return Err(Refused::new(format!("{id} is a build of {variant}"), [hint]).into());
    }
    if build.config.as_ref().is_some_and(|config| config.starts_with(paths.projects())) {
        return Ok(Of::Sent(Box::new(worker::submitted(&paths.build(&build.id))?)));
    }
    match Project::read(file, None, &facts) {
        Ok(project) if *project.config.name != *build.name => {
            let what = format!("{id} is a build of `{}`, and this is `{}`", build.name, project.config.name);
            Err(Refused::new(what, [Hint::new("go to that project's folder")]).into())
        }
        // What is wrong with the config is said by what needs it.
        _ => Ok(Of::Folder { file, grant, variant: build.variant }),
    }
}

fn finish(done: Result<ExitCode, Failure>) -> ExitCode {
    let failure = match done {
        Ok(code) => return code,
        Err(failure) => failure,
    };
    let cancelled = failure.kind() == Kind::Cancelled;
    let code = report(&failure);
    if cancelled { code } else { ExitCode::from(OWN_FAILURE) }
}

/// The image's best shell.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "exec \"$(command -v bash || echo sh)\""];

/// Runs a command, or a shell.
fn inside(of: Of<'_>, command: Option<Vec<String>>, print_sandbox: bool) -> Result<ExitCode, Failure> {
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let second = context::exit_at_second(&stop);
    let spawner = start_spawner()?;
    let mut facts = context::gather();
    let (project, wanted, mut plan, paths) = match &of {
        Of::Folder { file, grant, variant } => {
            let project = Project::read(file, variant.as_deref(), &facts)?;
            let paths = context::open_paths(&facts)?;
            let wanted = default_wanted(variant.clone());
            let given = trust::given(&facts, grant);
            let plan = trust::settle(&project, &wanted, &facts, &paths, &given, &stop)?.plan;
            (project, wanted, plan, paths)
        }
        Of::Sent(submission) => {
            let paths = context::open_paths(&facts)?;
            facts = facts.for_submission(submission);
            let (project, plan) = worker::plan(submission, &facts, &paths)?;
            (project, submission.request.clone(), plan, paths)
        }
    };
    let what = if matches!(of, Of::Sent(_)) { Use::Look } else { Use::Edit };
    // Describing a sandbox fetches nothing.
    plan.offline |= print_sandbox;
    let on = Emitter::new(BuildId::new("run", random())?, vec![Box::new(Terminal::new())]);
    on.hide(&engine::inputs::secrets(&plan));
    let redactor = on.redactor();
    let store = ImageStore::open(&paths)?.heeding(&stop);
    let services = Services { paths, facts, store, spawner, outlives: false };
    let Services { paths, facts, spawner, .. } = &services;
    let tools = Tools { services: &services, stop: &stop, on: &on };
    let sent = match &of {
        Of::Sent(submission) => Sent::of(submission, paths)?,
        Of::Folder { .. } => None,
    };
    let _layers = sent.map(|sent| sent.write(true, tools)).transpose()?;
    let host = project.host_lock(&plan).cloned();
    let prepared = engine::prepare(plan, host.as_ref(), None, what, tools);
    let prepared = prepared.map_err(|error| placed(error, &project, &wanted, facts, paths))?;
    project.pin(prepared.pins(), paths, print_sandbox || what == Use::Look)?;
    let streams = || FileError::new("use", Path::new("standard input and output"));
    let (relay, stdio) = Relay::of_caller().map_err(streams())?;
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
    let env = [("TERM", term.as_str()), ("GIT_OPTIONAL_LOCKS", "0")];
    let edits = prepared.begin_edits(paths)?;
    let is_shell = command.is_none();
    let command = command.unwrap_or_else(|| SHELL.map(String::from).to_vec());
    let mut spec = prepared.sandbox(command, &edits, relay.keys(), &env)?;
    spec.resources.precaution = Some(plan::usual_tasks(facts.cpus));
    if print_sandbox {
        spec.describe().iter().for_each(|line| say(redactor.text(line)));
        return Ok(ExitCode::SUCCESS);
    }
    // What is used here is not recorded: without limits that are asked for there is nothing more to confine.
    let limits = prepared.plan().limits;
    let confinement = (limits != Limits::default()).then(|| Confinement::find(limits, tools));
    if let Some(confinement) = &confinement {
        confinement.apply(&mut spec);
    }
    // What showed how far the preparation was must not draw into the program's output.
    drop(on);
    drop(second);
    match prepared.user() {
        Some(user) => {
            talk(format!("{user} runs here: layers and conf are read-only, and bitbake waits until it is done"))
        }
        None if what == Use::Look => {
            talk(format!("{}, as its client has sent it: layers and conf are read-only", prepared.plan().name));
        }
        None if is_shell && relay.keys() => greet(&prepared),
        None => {}
    }
    edits.keep()?;
    let exit = sandbox::launch(&spec, stdio, spawner).map_err(Failure::from).and_then(|running| {
        let losses = running.verified().losses(&spec).into_iter();
        let shortfalls = confinement.iter().flat_map(|confinement| confinement.shortfalls(running.verified()));
        losses.chain(shortfalls).for_each(warn);
        let (control, keys) = (running.control(), relay.keys());
        // Ctrl-C is a byte for a program that gets keys; what arrives as a signal comes from outside then.
        let signals = stop.clone();
        let _listening = stop.listen(move |request| match request {
            StopRequest::Graceful if !keys => control.signal(signals.signal()),
            _ => control.kill(),
        });
        let relaying = relay.start().map_err(streams())?;
        let exit = running.wait();
        relaying.finish();
        Ok(exit?)
    });
    edits.finish()?.lines().into_iter().for_each(warn);
    if what == Use::Edit && prepared.user().is_none() {
        conf::tell(prepared.plan(), &changes(prepared.plan(), &Written::of(prepared.plan(), paths)));
        // What the user has changed here is nothing to ask about.
        trust::keep(&project, prepared.plan(), &engine::left_conf(prepared.plan()), paths)?;
    }
    // What was to be done says more than the one step that failed.
    if exit.as_ref().is_err_and(|failure| failure.kind() == Kind::Host) {
        complain("the sandbox, step by step:");
        spec.describe().iter().for_each(|step| complain(format!("  {step}")));
    }
    Ok(ExitCode::from(u8::try_from(exit?.status).unwrap_or(OWN_FAILURE)))
}

/// How many layers are named when a shell opens.
const NAMED: usize = 3;

/// Says where one is, and what is writable.
fn greet(prepared: &Prepared) {
    let plan = prepared.plan();
    let variant = plan.variant.as_ref().map(|name| format!(", variant {name}")).unwrap_or_default();
    let tools = if prepared.has_scripts() { "bitbake, devtool, recipetool and the like are" } else { "bitbake is" };
    talk(format!("{}{variant}, in {}: {tools} in PATH; exit to leave", plan.name, plan.host.name));
    let layers = prepared.editable();
    let names = layers.iter().take(NAMED).map(|layer| layer.strip_prefix(&plan.project).unwrap_or(layer));
    let mut names: Vec<String> = names.map(|layer| layer.display().to_string()).collect();
    names.extend((layers.len() > NAMED).then(|| format!("{} more layers", layers.len() - NAMED)));
    names.push("this folder".into());
    talk(format!("writable: {}; git commit only outside, .git is read-only here", names.join(", ")));
}

fn warn(what: String) {
    let warning = anstyle::AnsiColor::Yellow.on_default().bold();
    talk_lines(format!("{warning}warning:{warning:#} {what}"));
}
