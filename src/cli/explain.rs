//! `smidr explain`: why a build failed, of the record, or of logs from elsewhere.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    process::ExitCode,
};

use anstyle::AnsiColor;

use super::{
    args::Explain,
    context,
    output::{Document, paint, say, say_lines},
    report::{Done, Failure, Refused},
};
use crate::{
    diagnose::{self, Facts, Heard, Log, UNKNOWN, diagnose, warnings},
    engine::kept_logs,
    history::{BuildRecord, journal::Entry},
    model::{Certainty, Diagnosis, Event, Hint, Kind, Outcome, Recovered, Stage, State, WarnedPlace, WarningGroup},
    service::LocalService,
    system::{files::FileError, paths},
};

/// How many diagnoses are told without `--all`.
const TOLD: usize = 5;

/// How many places of warnings are told without `--all`.
const PLACES: usize = 5;

/// How many lines show a failure without `--all`, and of one that no rule knows.
const SHOWN: usize = 4;
const SHOWN_UNKNOWN: usize = 30;

/// Runs the command.
pub(super) fn explain(config: &Path, args: &Explain) -> Done {
    let facts = context::gather();
    let mut reports = args.reports.settle(&facts, false)?;
    if args.log.is_some() || !args.task_log.is_empty() {
        let all = of_files(args)?;
        let done = tell(None, &all, args.json, args.all);
        reports.take_logs(first_log(args), all);
        return reports.end(done, config);
    }
    let paths = paths::find(&facts.environment)?;
    let service = LocalService::new(&paths);
    let build = context::named_or_newest(&service, args.id.as_deref(), config, &facts)?;
    if args.warnings {
        let groups = service.end(&build.id)?.map(|outcome| outcome.warnings).unwrap_or_default();
        let done = tell_warnings(&build, &groups, args);
        if reports.any() {
            reports.take(&service, &build, None)?;
        }
        return reports.end(done, config);
    }
    let known = if args.again { Vec::new() } else { service.diagnoses(&build.id)? };
    // Builds of an earlier smidr have none.
    let is_bitbakes = |outcome: &Outcome| outcome.kind == Some(Kind::Build) && outcome.bitbake_exit != Some(0);
    let is_untold = known.is_empty() && build.state == State::Failed && build.outcome.as_ref().is_some_and(is_bitbakes);
    let all = if is_untold || args.again { of_build(&service, &build, &paths.build(&build.id))? } else { known };
    let done = tell(Some(&build), &all, args.json, args.all);
    if reports.any() {
        reports.take(&service, &build, Some(all))?;
    }
    reports.end(done, config)
}

/// The log that reports are named after.
fn first_log(args: &Explain) -> &Path {
    args.log.as_deref().or(args.task_log.first().map(AsRef::as_ref)).unwrap_or(Path::new("-"))
}

/// What the logs of the caller's tell.
fn of_files(args: &Explain) -> Result<Vec<Diagnosis>, Failure> {
    if let Some(series) = args.series.as_ref().filter(|series| diagnose::series(series).is_none()) {
        let hint = Hint::new("the name or the number of a release, such as scarthgap or 5.0");
        return Err(Refused::new(format!("`{series}` is no Yocto series"), [hint]).into());
    }
    let log = |path: &Path| {
        let name = path.display().to_string();
        opened(path).map(|text| Log { name: Some(name), text, task: None }).map_err(FileError::new("read", path))
    };
    let console = args.log.as_deref().map(log).transpose()?;
    let logs = args.task_log.iter().map(|path| log(path)).collect::<Result<_, _>>()?;
    let facts = Facts { series: args.series.clone() };
    Ok(diagnose(console, logs, &facts).map_err(FileError::new("read", first_log(args)))?)
}

/// A log, decompressed.
fn opened(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(path)?),
    };
    let mut mark = Vec::new();
    file.by_ref().take(4).read_to_end(&mut mark)?;
    let all = io::Cursor::new(mark.clone()).chain(file);
    Ok(match mark.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(all))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(all)?),
        _ => Box::new(all),
    })
}

/// What the journal of a build and the kept logs of its failed tasks tell.
fn of_build(service: &LocalService<'_>, build: &BuildRecord, folder: &Path) -> Result<Vec<Diagnosis>, Failure> {
    let mut heard = Heard::default();
    service.watch(&build.id, 0, None, &mut |entry| {
        if let Entry::Record(record) = entry {
            match record.event {
                Event::Console { line } => heard.line(&line),
                Event::BitbakeReady { version } => heard.version(&version),
                // Of a second try, what the first said no longer counts.
                Event::StageStarted { stage: Stage::Fetch | Stage::Run } => heard = Heard::default(),
                _ => {}
            }
        }
        true
    })?;
    let failed = build.outcome.as_ref().map(|outcome| outcome.failed.as_slice()).unwrap_or_default();
    Ok(heard
        .diagnose(kept_logs(failed, folder), &Facts::default())
        .map_err(FileError::new("read the logs of", folder))?)
}

/// Tells the first diagnoses, or all.
pub(super) fn tell(build: Option<&BuildRecord>, diagnoses: &[Diagnosis], json: bool, all: bool) -> Done {
    if json {
        let document = Document::new();
        let document = match build {
            Some(build) => document.with("build", &build.id)?.with("state", &build.state)?,
            None => document,
        };
        document.with("diagnoses", diagnoses)?.say();
        return Ok(ExitCode::SUCCESS);
    }
    match build {
        Some(build) if diagnoses.is_empty() => without_diagnosis(build),
        None if diagnoses.is_empty() => say("no failure stands in it"),
        _ => {}
    }
    if let Some(Recovered { how, helped, .. }) =
        build.and_then(|build| build.outcome.as_ref()).and_then(|outcome| outcome.recovered.as_ref())
    {
        let how: Vec<String> = how.iter().map(ToString::to_string).collect();
        let end = if *helped { "it helped; why the first failed:" } else { "it failed too" };
        say(format!("a second try was made ({}): {end}", how.join(", ")));
    }
    let count = if all { diagnoses.len() } else { diagnoses.len().min(TOLD) };
    for (place, one) in diagnoses.iter().take(count).enumerate() {
        if place > 0 {
            say("");
        }
        block(one, all);
    }
    if count < diagnoses.len() {
        say("");
        say(format!("{} more, with --all", diagnoses.len() - count));
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells what BitBake and its tasks warned about: how much of each kind, what it means, where, and some of the messages.
fn tell_warnings(build: &BuildRecord, groups: &[WarningGroup], args: &Explain) -> Done {
    if args.json {
        Document::new().with("build", &build.id)?.with("state", &build.state)?.with("warnings", groups)?.say();
        return Ok(ExitCode::SUCCESS);
    }
    if groups.is_empty() {
        say(format!("{} is {}: no warnings are known", build.id, build.state));
    }
    for group in groups {
        say(paint(AnsiColor::Yellow, &group.to_string()));
        let about = warnings::about(&group.kind);
        if !about.is_empty() {
            say(format!("  {about}"));
        }
        let shown = if args.all { group.places.len() } else { PLACES };
        for WarnedPlace { recipe, layer, count, new } in group.places.iter().take(shown) {
            let layer = layer.as_ref().map(|layer| format!(" ({layer})")).unwrap_or_default();
            let new = if *new > 0 { format!(", {new} new") } else { String::new() };
            say(format!("  {count:>5}  {}{layer}{new}", recipe.as_deref().unwrap_or("no recipe's")));
        }
        if shown < group.places.len() {
            say(format!("         {} more, with --all", group.places.len() - shown));
        }
        let shown = if args.all { group.examples.len() } else { 1 };
        for line in group.examples.iter().take(shown).flat_map(|text| text.lines()) {
            say(format!("  | {line}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A build of which BitBake has told no failure: why it failed all the same, if it did.
fn without_diagnosis(build: &BuildRecord) {
    match &build.outcome {
        Some(Outcome { reasons, hints, state, .. }) if *state != State::Completed => {
            say(format!("{} is {state}", build.id));
            reasons.iter().for_each(|reason| say_lines(format!("  {reason}")));
            hints.iter().for_each(|hint| say_lines(format!("  {hint}")));
        }
        _ => say(format!("{} is {}: nothing failed", build.id, build.state)),
    }
}

/// One diagnosis.
fn block(one: &Diagnosis, all: bool) {
    let name = match (&one.recipe, &one.task) {
        (Some(recipe), Some(task)) => format!("{recipe}:{task}"),
        (Some(recipe), None) => recipe.clone(),
        (None, task) => task.clone().unwrap_or_else(|| "the build".into()),
    };
    let multiconfig = one.multiconfig.as_ref().map_or(String::new(), |name| format!(" (multiconfig {name})"));
    say(format!("{}{multiconfig}: {}", paint(AnsiColor::Red, &name), one.kind));
    let shown = match (all, one.kind.as_str()) {
        (true, _) => usize::MAX,
        (false, UNKNOWN) => SHOWN_UNKNOWN,
        (false, _) => SHOWN,
    };
    for quote in one.evidence.iter().take(shown) {
        say(format!("  | {}", quote.text));
    }
    if let Some(first) = &one.first_error
        && let Some(file) = &first.file
        && first.line > 0
    {
        say(format!("  {file}:{}", first.line));
    }
    let doubt = if one.sure == Certainty::Likely { "most likely: " } else { "" };
    say_lines(format!("  {doubt}{}", one.cause));
    for fact in &one.facts {
        say_lines(format!("  {fact}"));
    }
    for hint in &one.next {
        say_lines(format!("  - {}", hint.to_string().replace('\n', "\n      ")));
    }
    if !one.could_be.is_empty() {
        say(format!("  or: {}", one.could_be.join("; ")));
    }
    if !one.also.is_empty() {
        let shown = if all { one.also.len() } else { 3 };
        let names: Vec<String> = one.also.iter().take(shown).map(ToString::to_string).collect();
        let more = one.also.len().saturating_sub(shown);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        say(format!("  the same: {}{more}", names.join(", ")));
    }
}
