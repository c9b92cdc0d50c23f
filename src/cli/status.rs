//! `smidr status`: builds, or one of them.

use std::process::ExitCode;

use super::{
    args::Status,
    context,
    output::{Document, bytes, duration, say, say_lines, talk, used},
    report::Done,
};
use crate::{
    history::{BuildRecord, TaskRecord},
    service::LocalService,
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
        Some(id) => {
            let build = service.show(Some(id))?;
            let tasks = service.tasks(&build.id)?;
            if args.json {
                Document::new().with("build", &build)?.with("tasks", &tasks)?.say();
            } else {
                one(&build, &tasks);
            }
        }
        None => {
            let (shown, total) = (if args.all { u32::MAX } else { LIMIT }, service.count()?);
            let builds = service.list(shown)?;
            if args.json {
                Document::new().with("total", &total)?.with("builds", &builds)?.say();
            } else if builds.is_empty() {
                talk("nothing has been built yet");
            } else {
                builds.iter().for_each(row);
                if total > builds.len() as u64 {
                    talk(format!("the newest {} of {total} builds; all of them:  smidr status --all", builds.len()));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(build: &BuildRecord) {
    let took = build.outcome.as_ref().map(|outcome| duration(outcome.duration_ms)).unwrap_or_default();
    let started = build.started.strftime("%Y-%m-%d %H:%M");
    let variant = build.variant.iter().map(|variant| format!("  ({variant})")).collect::<String>();
    let targets = build.targets.join(" ");
    say(format!("{:<32} {:<21} {started}  {took:>8}  {targets}{variant}", build.id, build.state));
}

fn one(build: &BuildRecord, tasks: &[TaskRecord]) {
    let line = |subject: &str, text: &str| say_lines(format!("{subject:<10} {text}"));
    line("build", build.id.as_str());
    line("state", &build.state.to_string());
    let variant = build.variant.iter().map(|variant| format!(", variant {variant}")).collect::<String>();
    line("target", &format!("{} for {}{variant}", build.targets.join(" "), build.machine));
    line("started", &build.started.to_string());
    let Some(outcome) = &build.outcome else { return };
    if let Some(ended) = build.ended {
        line("ended", &format!("{ended}, after {}", duration(outcome.duration_ms)));
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
