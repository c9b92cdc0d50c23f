//! `smidr logs`: what a build said, from its beginning; with `--follow`, until its end.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    args::Logs,
    context::{self, default_wanted},
    output::{in_pages, raw, say_json, talk},
    report::{Done, Failure, Refused},
    terminal::Terminal,
};
use crate::{
    config::nearest,
    engine::{inputs, keep},
    events::{EventSink as _, Redactor},
    history::{BuildRecord, TaskRecord, journal::Entry},
    model::{BuildId, Event, Hint, Paths, Secrets, SystemFacts, TaskName},
    plan::Domain,
    project::Project,
    service::{BuildService, LocalService},
    system::{files::FileError, paths, rooted::open_linkless, stop::StopToken},
};

/// Runs the command.
pub(super) fn logs(config: &Path, args: &Logs) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let service = LocalService::new(&paths);
    let mut reports = args.reports.settle(&facts, false)?;
    let build = context::named_or_newest(&service, args.id.as_deref(), config, &facts)?;
    if let Some(task) = &args.task {
        let (path, kept) = task_log(&service, &paths, &build, task)?;
        let mut file = open_linkless(&path).map_err(FileError::new("read the log", &path))?;
        // Kept logs hold no secrets; BitBake's own, in the workspace, do.
        let secrets = secrets(config, &build, &facts, &paths);
        if !kept && !keep::knows(&secrets, &build.id, &paths.build(&build.id)) {
            return Err(unknown_secrets(task, &path).into());
        }
        // Bytes else as they are, where no terminal obeys them: a compiler's output need not be UTF-8.
        return match Redactor::new(&secrets).copy(&mut file, &mut raw()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(FileError::new("print", &path)(error).into())
            }
            _ => Ok(ExitCode::SUCCESS),
        };
    }
    let done = print(&service, &build, Terminal::log(), 0, args.follow, args.json);
    if reports.any() {
        let build = service.show(Some(build.id.as_str()))?;
        reports.take(&service, &build, None)?;
    }
    reports.end(done, config)
}

/// Prints what a build said after a record.
pub(super) fn print(
    service: &dyn BuildService,
    build: &BuildRecord,
    mut view: Terminal,
    after: u64,
    follow: bool,
    json: bool,
) -> Done {
    let mut lost = 0;
    let mut show = |entry| {
        match entry {
            Entry::Record(record) if matches!(record.event, Event::InQueue { .. }) => {
                if let Event::InQueue { position, reason } = &record.event {
                    talk(format!("waiting    {position}. {reason}"));
                }
            }
            // Other passing states are shown by `attach`.
            Entry::Record(record) if record.seq().is_none() => {}
            Entry::Record(record) if json => say_json(&record),
            Entry::Record(record) => view.accept(&record),
            Entry::Missing(count) => lost += count,
            Entry::Unreadable(line) => match serde_json::from_slice::<serde_json::Value>(&line) {
                Ok(newer) if json => say_json(&newer),
                _ => lost += 1,
            },
        }
        true
    };
    match follow {
        true => service.watch(&build.id, after, Some(&StopToken::default()), &mut show)?,
        false => in_pages(|| service.watch(&build.id, after, None, &mut show))?,
    };
    if lost > 0 {
        talk(format!("warning: {lost} records of the journal of {} are damaged or from a newer smidr", build.id));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the project in this folder keeps secret; where there is none, what the environment sounds like.
fn secrets(config: &Path, build: &BuildRecord, facts: &SystemFacts, paths: &Paths) -> Secrets {
    let project = Project::look(config, build.variant.as_deref(), facts).ok();
    match project
        .and_then(|project| project.plan(&default_wanted(build.variant.clone()), facts, paths, &Domain::Own).ok())
    {
        Some(plan) => inputs::secrets(&plan),
        None => context::secrets(&facts.environment),
    }
}

fn unknown_secrets(task: &str, log: &Path) -> Refused {
    let what =
        format!("the log of {task} may hold passwords or tokens of that build, which are not to be found any more");
    let hint = Hint::command(
        "ask again in the project's folder, with the environment and credential files that the build had, or read it unmasked",
        format!("less {}", log.display()),
    );
    Refused::new(what, [hint])
}

fn no_task<'a>(wanted: &str, build: &BuildId, known: impl Iterator<Item = &'a TaskName>) -> Refused {
    let names: Vec<String> = known.map(ToString::to_string).collect();
    let hint = nearest(wanted, names.iter().map(String::as_str)).map(|near| format!("did you mean {near}?"));
    Refused::new(format!("{build} ran no task {wanted}"), hint.map(Hint::new))
}

/// Checks that a build that is over ran a task, where its tasks are known.
pub(super) fn check_ran(wanted: &str, build: &BuildId, tasks: &[TaskRecord]) -> Result<(), Refused> {
    match tasks.is_empty() || tasks.iter().any(|task| task.name.to_string() == wanted) {
        true => Ok(()),
        false => Err(no_task(wanted, build, tasks.iter().map(|task| &task.name))),
    }
}

/// Where the log of a task is, and whether it was kept.
fn task_log(
    service: &LocalService<'_>,
    paths: &Paths,
    build: &BuildRecord,
    wanted: &str,
) -> Result<(PathBuf, bool), Failure> {
    // A failed task's log was kept with the build, if there was room for it; the others are where BitBake wrote them, until the next
    // build replaces them.
    let failed = build.outcome.iter().flat_map(|outcome| &outcome.failed).find(|task| task.name.to_string() == wanted);
    let kept = failed.and_then(|task| task.log.clone()).filter(|log| log.starts_with(paths.build(&build.id)));
    if let Some(log) = kept {
        if let Some(day) = context::cleaned_on(build, paths).filter(|_| !log.exists()) {
            let what = format!("the log of {wanted} was removed on {day}, by `smidr clean` or `smidr artifacts clean`");
            return Err(Refused::new(what, None).into());
        }
        return Ok((log, true));
    }
    let mut known: Vec<(TaskName, PathBuf)> = Vec::new();
    service.watch(&build.id, 0, None, |entry| {
        if let Entry::Record(record) = entry
            && let Event::TaskStarted { name, log: Some(log), .. } = record.event
        {
            known.push((name, log));
        }
        true
    })?;
    match known.iter().rev().find(|(name, _)| name.to_string() == wanted) {
        Some((_, log)) if log.exists() => Ok((log.clone(), false)),
        Some((_, log)) => {
            let what = format!("the log of {wanted} is gone: {} was replaced by a later build", log.display());
            Err(Refused::new(what, None).into())
        }
        None => Err(no_task(wanted, &build.id, known.iter().map(|(name, _)| name)).into()),
    }
}
