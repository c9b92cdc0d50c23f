//! Records of a journal as messages, and back; and as lines of text.

use super::{
    convert::{Invalid, artifact, artifact_of, outcome, outcome_of, path, path_of, task, task_of, time, time_of},
    proto::{self, record::Event as Sent, record::Place as SentPlace},
};
use crate::model::{Activity, BuildId, Event, Level, Outcome, Place, Record, Stage, Unit};

/// A record as a message.
pub(crate) fn record(record: &Record) -> proto::Record {
    let place = match record.place {
        Place::Seq(seq) => SentPlace::Seq(seq),
        Place::After(seq) => SentPlace::After(seq),
    };
    proto::Record { place: Some(place), at: Some(time(record.at)), event: Some(event(&record.event)) }
}

/// A record of a build that came in; none for one of a newer API.
///
/// # Errors
///
/// When something is missing in it.
pub(crate) fn record_of(build: &BuildId, record: proto::Record) -> Result<Option<Record>, Invalid> {
    let place = match record.place.ok_or_else(|| Invalid::missing("place"))? {
        SentPlace::Seq(seq) => Place::Seq(seq),
        SentPlace::After(seq) => Place::After(seq),
    };
    let at = time_of(record.at).ok_or_else(|| Invalid::missing("at"))?;
    let Some(event) = record.event.map(event_of).transpose()?.flatten() else { return Ok(None) };
    Ok(Some(Record { build: build.clone(), place, at, event }))
}

fn stage(stage: Stage) -> proto::Stage {
    match stage {
        Stage::Prepare => proto::Stage::Prepare,
        Stage::Fetch => proto::Stage::Fetch,
        Stage::Run => proto::Stage::Run,
        Stage::Collect => proto::Stage::Collect,
    }
}

/// A word of the documents, such as `checkout`.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(String::from)).unwrap_or_default()
}

fn word_of<T: serde::de::DeserializeOwned>(text: String) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}

fn event(event: &Event) -> Sent {
    match event.clone() {
        Event::BuildStarted { name, targets, machine, variant, config, customer, labels } => {
            Sent::BuildStarted(proto::BuildStarted {
                name,
                targets,
                machine,
                variant,
                config: config.as_deref().map(path),
                customer: customer.unwrap_or_default(),
                labels: labels.into_iter().collect(),
            })
        }
        Event::Queued { ahead, of_command } => Sent::Queued(proto::QueuedBehind { ahead, of_command }),
        Event::InQueue { position, reason } => Sent::InQueue(proto::Queued { position, reason }),
        Event::StageStarted { stage } => Sent::StageStarted(proto::StageStarted { stage: self::stage(stage).into() }),
        Event::Waiting { resource, holder } => Sent::Waiting(proto::Waiting { resource, holder }),
        Event::Warning { text } => Sent::Warning(proto::Warning { text }),
        Event::HostReady { name, digest } => {
            Sent::HostReady(proto::HostReady { name, digest: digest.map(|digest| digest.to_string()) })
        }
        Event::LayersReady { layers } => {
            let layers = layers.into_iter().map(|(name, pin)| proto::LayerPin { name, pin }).collect();
            Sent::LayersReady(proto::LayersReady { layers })
        }
        Event::SandboxReady { isolation, task_network_cut } => {
            Sent::SandboxReady(proto::SandboxReady { isolation, task_network_cut })
        }
        Event::Progress { activity, subject, done, total, unit } => {
            let (activity, unit) = (word(activity), word(unit));
            Sent::Progress(proto::Progress { activity, subject, done, total, unit })
        }
        Event::RecipeStep { recipe, step } => Sent::RecipeStep(proto::RecipeStep { recipe, step }),
        Event::Console { line } => Sent::Console(proto::Console { line }),
        Event::BitbakeReady { version } => Sent::BitbakeReady(proto::BitbakeReady { version }),
        Event::Parsed { recipes, cached, errors } => Sent::Parsed(proto::Parsed { recipes, cached, errors }),
        Event::TasksPlanned { total, setscene } => Sent::TasksPlanned(proto::TasksPlanned { total, setscene }),
        Event::TaskStarted { name, pid, index, total, setscene, log } => {
            let (name, log) = (Some(task(&name)), log.as_deref().map(path));
            Sent::TaskStarted(proto::TaskStarted { name, pid, index, total, setscene, log })
        }
        Event::TaskProgress { pid, percent, rate } => {
            Sent::TaskProgress(proto::TaskProgress { pid, percent: percent.map(Into::into), rate })
        }
        Event::TaskEnded { name, pid, ok, setscene, log } => {
            let (name, log) = (Some(task(&name)), log.as_deref().map(path));
            Sent::TaskEnded(proto::TaskEnded { name, pid, ok, setscene, log })
        }
        Event::TaskSkipped { name, covered } => {
            Sent::TaskSkipped(proto::TaskSkipped { name: Some(task(&name)), covered })
        }
        Event::Message { level, text, task } => {
            Sent::Message(proto::Message { level: word(level), text, task: task.as_ref().map(self::task) })
        }
        Event::NoProvider { item, dependees, reasons, close_matches } => {
            Sent::NoProvider(proto::NoProvider { item, dependees, reasons, close_matches })
        }
        Event::TaskLog { name, log, tail } => {
            Sent::TaskLog(proto::TaskLog { name: Some(task(&name)), log: Some(path(&log)), tail })
        }
        Event::Stopping { force } => Sent::Stopping(proto::Stopping { force }),
        Event::ArtifactKept { artifact: kept } => {
            Sent::ArtifactKept(proto::ArtifactKept { artifact: Some(artifact(&kept)) })
        }
        Event::Finished { outcome: end } => Sent::Finished(proto::Finished { outcome: Some(outcome(&end)) }),
    }
}

/// None: its words are of a newer API.
fn event_of(event: Sent) -> Result<Option<Event>, Invalid> {
    Ok(Some(match event {
        Sent::BuildStarted(proto::BuildStarted { name, targets, machine, variant, config, customer, labels }) => {
            let customer = Some(customer).filter(|customer| !customer.is_empty());
            let labels = labels.into_iter().collect();
            Event::BuildStarted { name, targets, machine, variant, config: path_of(config), customer, labels }
        }
        Sent::InQueue(proto::Queued { position, reason }) => Event::InQueue { position, reason },
        Sent::Queued(proto::QueuedBehind { ahead, of_command }) => Event::Queued { ahead, of_command },
        Sent::StageStarted(proto::StageStarted { stage }) => {
            let stage = match proto::Stage::try_from(stage) {
                Ok(proto::Stage::Prepare) => Stage::Prepare,
                Ok(proto::Stage::Fetch) => Stage::Fetch,
                Ok(proto::Stage::Run) => Stage::Run,
                Ok(proto::Stage::Collect) => Stage::Collect,
                Ok(proto::Stage::Unspecified) | Err(_) => return Ok(None),
            };
            Event::StageStarted { stage }
        }
        Sent::Waiting(proto::Waiting { resource, holder }) => Event::Waiting { resource, holder },
        Sent::Warning(proto::Warning { text }) => Event::Warning { text },
        Sent::HostReady(proto::HostReady { name, digest }) => {
            let digest = digest.map(|digest| digest.parse()).transpose();
            Event::HostReady { name, digest: digest.map_err(|error| Invalid::new("digest", error))? }
        }
        Sent::LayersReady(proto::LayersReady { layers }) => {
            Event::LayersReady { layers: layers.into_iter().map(|layer| (layer.name, layer.pin)).collect() }
        }
        Sent::SandboxReady(proto::SandboxReady { isolation, task_network_cut }) => {
            Event::SandboxReady { isolation, task_network_cut }
        }
        Sent::Progress(proto::Progress { activity, subject, done, total, unit }) => {
            let (Some(activity), Some(unit)) = (word_of::<Activity>(activity), word_of::<Unit>(unit)) else {
                return Ok(None);
            };
            Event::Progress { activity, subject, done, total, unit }
        }
        Sent::RecipeStep(proto::RecipeStep { recipe, step }) => Event::RecipeStep { recipe, step },
        Sent::Console(proto::Console { line }) => Event::Console { line },
        Sent::BitbakeReady(proto::BitbakeReady { version }) => Event::BitbakeReady { version },
        Sent::Parsed(proto::Parsed { recipes, cached, errors }) => Event::Parsed { recipes, cached, errors },
        Sent::TasksPlanned(proto::TasksPlanned { total, setscene }) => Event::TasksPlanned { total, setscene },
        Sent::TaskStarted(proto::TaskStarted { name, pid, index, total, setscene, log }) => {
            Event::TaskStarted { name: task_of(name), pid, index, total, setscene, log: path_of(log) }
        }
        Sent::TaskProgress(proto::TaskProgress { pid, percent, rate }) => {
            let percent = percent.map(|percent| u8::try_from(percent).unwrap_or(100));
            Event::TaskProgress { pid, percent, rate }
        }
        Sent::TaskEnded(proto::TaskEnded { name, pid, ok, setscene, log }) => {
            Event::TaskEnded { name: task_of(name), pid, ok, setscene, log: path_of(log) }
        }
        Sent::TaskSkipped(proto::TaskSkipped { name, covered }) => Event::TaskSkipped { name: task_of(name), covered },
        Sent::Message(proto::Message { level, text, task }) => {
            let Some(level) = word_of::<Level>(level) else { return Ok(None) };
            Event::Message { level, text, task: task.map(|task| task_of(Some(task))) }
        }
        Sent::NoProvider(proto::NoProvider { item, dependees, reasons, close_matches }) => {
            Event::NoProvider { item, dependees, reasons, close_matches }
        }
        Sent::TaskLog(proto::TaskLog { name, log, tail }) => {
            Event::TaskLog { name: task_of(name), log: path_of(log).unwrap_or_default(), tail }
        }
        Sent::Stopping(proto::Stopping { force }) => Event::Stopping { force },
        Sent::ArtifactKept(proto::ArtifactKept { artifact }) => {
            Event::ArtifactKept { artifact: artifact_of(artifact.ok_or_else(|| Invalid::missing("artifact"))?)? }
        }
        Sent::Finished(proto::Finished { outcome }) => {
            Event::Finished { outcome: outcome_of(outcome.ok_or_else(|| Invalid::missing("outcome"))?)? }
        }
    }))
}

/// Of how many diagnoses a log tells.
const EXPLAINED: usize = 3;

/// What a log shows of a record: what was printed, and what smidr has to say about it.
pub(crate) fn texts(record: &Record) -> Vec<String> {
    match &record.event {
        Event::Console { line } => vec![line.clone()],
        Event::Warning { text } => vec![format!("smidr: warning: {text}")],
        Event::Queued { ahead, .. } => vec![format!("smidr: waits behind {ahead} builds")],
        Event::Waiting { resource, holder } => vec![format!("smidr: waits for {resource}, held by {holder}")],
        Event::HostReady { name, .. } => vec![format!("smidr: build host {name} is ready")],
        Event::LayersReady { layers } => {
            layers.iter().map(|(name, pin)| format!("smidr: layer {name} {pin}")).collect()
        }
        Event::RecipeStep { recipe, step } => vec![format!("smidr: {recipe}: {step}")],
        Event::Stopping { .. } => vec!["smidr: stopping".into()],
        Event::Finished { outcome } => end(record, outcome),
        _ => Vec::new(),
    }
}

fn end(record: &Record, outcome: &Outcome) -> Vec<String> {
    let mut lines = vec![format!("smidr: {} {}", record.build, outcome.state)];
    for task in &outcome.failed {
        lines.push(format!("smidr: failed: {}", task.name));
        lines.extend(task.reasons.iter().map(|reason| format!("smidr:   {reason}")));
    }
    lines.extend(outcome.reasons.iter().map(|reason| format!("smidr: because {reason}")));
    let explained = outcome.diagnoses.iter().take(EXPLAINED);
    lines.extend(explained.clone().map(|one| format!("smidr: because {}", one.cause)));
    let hints = outcome.hints.iter().chain(explained.flat_map(|one| &one.next));
    lines.extend(hints.map(|hint| format!("smidr: hint: {hint}")));
    lines
}

/// The task that a record is about, as `recipe:do_task`.
pub(crate) fn task_name(record: &Record) -> Option<String> {
    match &record.event {
        Event::TaskStarted { name, .. }
        | Event::TaskEnded { name, .. }
        | Event::TaskSkipped { name, .. }
        | Event::TaskLog { name, .. } => Some(name.to_string()),
        Event::Message { task, .. } => task.as_ref().map(ToString::to_string),
        _ => None,
    }
}

/// As [`texts`], with what a record about one task says.
pub(crate) fn task_texts(record: &Record) -> Vec<String> {
    match &record.event {
        Event::TaskStarted { name, .. } => vec![format!("smidr: {name} begins")],
        Event::TaskEnded { name, ok, .. } => {
            vec![format!("smidr: {name} {}", if *ok { "succeeded" } else { "failed" })]
        }
        Event::TaskSkipped { name, .. } => vec![format!("smidr: {name} need not run")],
        Event::TaskLog { tail, .. } => tail.clone(),
        Event::Message { text, .. } => text.lines().map(String::from).collect(),
        _ => Vec::new(),
    }
}
