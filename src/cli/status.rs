//! `smidr status`: builds, or one of them.

use std::{path::PathBuf, process::ExitCode};

use anstyle::AnsiColor;
use jiff::Timestamp;

use super::{
    args::Status,
    board::{Board, shortened},
    context,
    output::{Document, bytes, duration, paint, room_for_tables, say, say_lines, talk, used},
    report::{Done, Failure},
    times::{between, minute, moment},
    wrap::{table, width},
};
use crate::{
    history::{BuildRecord, TaskRecord, journal::Entry},
    model::{Shown, State},
    service::{BuildService, LocalService, ServiceError},
    system::paths,
};

/// How many builds a list shows.
const LIMIT: u32 = 50;

/// Runs the command.
pub(super) fn status(args: &Status) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let service = LocalService::new(&paths);
    match &args.id {
        Some(id) => of(&service, &service.show(Some(id))?, args.json)?,
        None => {
            let is_chosen = !args.states.is_empty() || args.project.is_some();
            let of_project = |build: &BuildRecord| args.project.as_ref().is_none_or(|name| *name == build.name);
            let mut builds = service.list(if args.all || is_chosen { u32::MAX } else { LIMIT })?;
            builds.retain(|build| of_project(build) && (args.states.is_empty() || args.states.contains(&build.state)));
            let total = if is_chosen { builds.len() as u64 } else { service.count()? };
            builds.truncate(if args.all { usize::MAX } else { LIMIT as usize });
            if args.json {
                Document::new().with("total", &total)?.with("builds", &builds)?.say();
            } else if builds.is_empty() {
                talk(if is_chosen { "there are no such builds" } else { "nothing has been built yet" });
            } else {
                let count = builds.len();
                list(builds, &service)?;
                if total > count as u64 {
                    talk(format!("the newest {count} of {total} builds; all of them:  smidr status --all"));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One build.
pub(super) fn of(service: &dyn BuildService, build: &BuildRecord, json: bool) -> Result<(), Failure> {
    let tasks = service.tasks(&build.id)?;
    if json {
        Document::new().with("build", build)?.with("tasks", &tasks)?.say();
    } else {
        let progress = if build.state.is_final() { None } else { progress(build, service)? };
        one(build, &tasks, progress.as_deref());
    }
    Ok(())
}

/// A table: project by project, in each what runs first, then the newest first.
fn list(mut builds: Vec<BuildRecord>, service: &LocalService<'_>) -> Result<(), ServiceError> {
    let mut projects: Vec<(String, Option<PathBuf>)> = Vec::new();
    for BuildRecord { name, config, .. } in &builds {
        if !projects.iter().any(|known| (&known.0, &known.1) == (name, config)) {
            projects.push((name.clone(), config.clone()));
        }
    }
    let place =
        |build: &BuildRecord| projects.iter().position(|(name, config)| (name, config) == (&build.name, &build.config));
    builds.sort_by_key(|build| (place(build), build.state.is_final()));
    // Two checkouts may have one name.
    let folder = |build: &BuildRecord| -> Option<String> {
        let is_alone = projects.iter().filter(|(name, _)| *name == build.name).count() < 2;
        let folder = build.config.as_ref().filter(|_| !is_alone)?.parent()?.file_name()?;
        Some(format!(" ({})", folder.display()))
    };
    let room = room_for_tables();
    let mut rows = Vec::new();
    for build in &builds {
        let project = format!("{}{}", build.name, folder(build).unwrap_or_default());
        let progress = if build.state.is_final() { None } else { progress(build, service)? };
        rows.push(row(build, &project, progress.unwrap_or_default(), room.is_some()));
    }
    let mut header = vec!["ID", "PROJECT", "STATE", "PROGRESS", "BEGUN", "TOOK", "TARGET"];
    if builds.iter().all(|build| build.state.is_final()) {
        leave_out("PROGRESS", &mut header, &mut rows);
    }
    // An id begins with the project's name. Where the target is shortened already, times are worth less than whole lines.
    for (name, shortened) in [("PROJECT", None), ("BEGUN", room), ("TOOK", room)] {
        if room.is_some_and(|columns| table(&header, &rows, shortened).iter().any(|line| width(line) > columns)) {
            leave_out(name, &mut header, &mut rows);
        }
    }
    table(&header, &rows, room).iter().for_each(say);
    Ok(())
}

fn leave_out(name: &str, header: &mut Vec<&str>, rows: &mut [Vec<String>]) {
    if let Some(column) = header.iter().position(|other| *other == name) {
        header.remove(column);
        rows.iter_mut().for_each(|row| drop(row.remove(column)));
    }
}

fn row(build: &BuildRecord, project: &str, progress: String, is_short: bool) -> Vec<String> {
    let foreign = |text: &str| String::from(Shown::plain(text));
    let variant = build.variant.iter().map(|variant| format!(" ({variant})")).collect::<String>();
    let targets = if is_short { shortened(&build.targets) } else { build.targets.join(" ") };
    let took = match &build.outcome {
        Some(outcome) => outcome.duration_ms,
        None => u64::try_from(between(build.started, Timestamp::now()).as_millis()).unwrap_or_default(),
    };
    let (begun, took, target) = (minute(build.started), duration(took), foreign(&format!("{targets}{variant}")));
    vec![build.id.to_string(), foreign(project), coloured(build.state), progress, begun, took, target]
}

fn coloured(state: State) -> String {
    let colour = match state {
        State::Completed => AnsiColor::Green,
        State::Failed | State::Interrupted => AnsiColor::Red,
        State::Cancelled => AnsiColor::Yellow,
        State::Queued | State::Preparing | State::Building | State::ExtractingArtifacts => AnsiColor::Cyan,
    };
    paint(colour, &state.to_string())
}

/// How far a build is that runs, as its journal tells.
fn progress(build: &BuildRecord, service: &dyn BuildService) -> Result<Option<String>, ServiceError> {
    let mut board = Board::default();
    service.watch(&build.id, 0, None, &mut |entry| {
        if let Entry::Record(record) = entry {
            board.take(&record);
        }
        true
    })?;
    Ok(board.progress())
}

fn one(build: &BuildRecord, tasks: &[TaskRecord], progress: Option<&str>) {
    let line = |subject: &str, text: &str| say_lines(format!("{subject:<10} {text}"));
    line("build", build.id.as_str());
    if let Some(config) = &build.config {
        line("config", &config.display().to_string());
    }
    line("state", &coloured(build.state));
    let variant = build.variant.iter().map(|variant| format!(", variant {variant}")).collect::<String>();
    line("target", &format!("{} for {}{variant}", build.targets.join(" "), build.machine));
    line("started", &moment(build.started));
    if let Some(place) = &build.queued {
        line("waiting", &format!("{}.  {}", place.position, place.reason));
    }
    if let Some(progress) = progress {
        line("progress", progress);
    }
    let Some(outcome) = &build.outcome else { return };
    if let Some(ended) = build.ended {
        line("ended", &format!("{}, after {}", moment(ended), duration(outcome.duration_ms)));
    }
    if let Some(exit) = outcome.bitbake_exit {
        line("bitbake", &format!("exit status {exit}"));
    }
    if let Some(text) = told(tasks) {
        line("tasks", &text);
    }
    for task in &outcome.failed {
        let log = task.log.as_ref().map(|log| log.display().to_string()).unwrap_or_default();
        line("failed", &format!("{}  {log}", task.name));
        task.reasons.iter().for_each(|reason| line("because", reason));
    }
    outcome.reasons.iter().for_each(|reason| line("because", reason));
    outcome.hints.iter().for_each(|hint| line("hint", &hint.to_string()));
    if let Some(usage) = &outcome.usage {
        line("used", &used(usage));
    }
    if outcome.artifacts > 0 {
        line("artifacts", &format!("{} files, {}", outcome.artifacts, bytes(outcome.artifact_bytes)));
    }
    if outcome.cleaned {
        line("cleaned", "artifacts and logs have been removed since");
    }
}

/// How many tasks ran, and which took longest.
fn told(tasks: &[TaskRecord]) -> Option<String> {
    let took = |task: &TaskRecord| {
        let took = task.ended?.duration_since(task.started).as_millis();
        Some((u64::try_from(took).ok()?, task.name.to_string()))
    };
    let restored = tasks.iter().filter(|task| task.setscene).count();
    let (longest, name) = tasks.iter().filter_map(took).max()?;
    let sstate = if restored > 0 { format!(", {restored} from sstate") } else { String::new() };
    Some(format!("{} run{sstate}; {name} took longest, {}", tasks.len() - restored, duration(longest)))
}
