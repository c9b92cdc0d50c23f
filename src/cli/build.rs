//! `smidr build`: the whole way.

use std::{path::Path, process::ExitCode};

use super::{
    args::{Build, EventForm, Grant},
    context,
    output::talk,
    report::{Done, Failure},
    terminal::{JsonLines, Terminal},
    trust,
};
use crate::{
    events::EventSink,
    model::{Kind, Outcome, State},
    plan::Domain,
    project::Project,
    service::{LocalService, Means},
    system::{files::FileError, process::Spawner, stop::StopToken},
};

/// Runs the command.
pub fn build(file: &Path, grant: &Grant, args: Build) -> Done {
    // Before any thread: threads inherit what is blocked.
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let spawner = start_spawner()?;
    let facts = context::gather();
    let project = Project::read(file, args.wanted.variant.as_deref(), &facts)?;
    let paths = context::open_paths(&facts)?;
    let plan = trust::settle(&project, &(&args.wanted).into(), &facts, &paths, &trust::given(&facts, grant), &stop)?;
    if plan.domain == Domain::Private {
        talk("caches     this project's own: nothing is shared with others; to share yours:  smidr trust");
    }
    let host = project.host_lock(&plan).cloned();
    let stale = project.lock.as_ref().is_some_and(|lock| lock.config.as_ref() != Some(&project.digest));
    if args.wanted.locked && stale {
        talk("warning: smidr.yaml has changed since smidr.lock was written:  smidr lock");
    }
    let service = LocalService::new(&paths);
    let begun = service.begin(&plan, |_| {
        let mut sinks: Vec<Box<dyn EventSink>> = vec![Box::new(Terminal::new())];
        if let Some(EventForm::Json) = args.events {
            sinks.push(Box::new(JsonLines));
        }
        sinks
    })?;
    let means = Means { facts: &facts, spawner: &spawner, stop: &stop };
    let outcome =
        service.run(begun, plan, host.as_ref(), &means, |pins| Ok(project.pin(pins, &paths, args.wanted.locked)?))?;
    Ok(exit_code(&outcome))
}

/// Starts what starts processes.
pub fn start_spawner() -> Result<Spawner, Failure> {
    Ok(Spawner::start().map_err(FileError::new("start", Path::new("/proc/self/exe")))?)
}

fn exit_code(outcome: &Outcome) -> ExitCode {
    let kind = match outcome.state {
        State::Completed => return ExitCode::SUCCESS,
        State::Cancelled => Kind::Cancelled,
        _ if outcome.host_at_fault => Kind::Host,
        _ => Kind::Build,
    };
    ExitCode::from(kind.exit_code())
}
