//! Words of the API to words of `model`, and back. What comes in is checked here.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Component, PathBuf},
};

use jiff::Timestamp;

use super::proto::{self, hint, path};
use crate::{
    history::{BuildRecord, QueuePlace, TaskRecord},
    model::{
        Action, Artifact, BuildId, Certainty, ConfigPlace, Diagnosis, Digest, FailedTask, Hint, Kind, Outcome, PeakOf,
        Quote, Recovered, SourcePlace, State, TaskName, Usage, WarnedPlace, WarningGroup,
    },
};

/// A field that cannot be what it says.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {why}")]
pub(crate) struct Invalid {
    /// Its name in the `.proto`.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Invalid {
    /// Says what is wrong with a field.
    pub(crate) fn new(field: &'static str, why: impl ToString) -> Self {
        Self { field, why: why.to_string() }
    }

    /// A field that is not there.
    pub(crate) fn missing(field: &'static str) -> Self {
        Self::new(field, "is missing")
    }
}

/// A time.
pub(crate) fn time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// A time that came in.
pub(crate) fn time_of(at: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let at = at?;
    Timestamp::new(at.seconds, at.nanos).ok()
}

/// A path.
pub(crate) fn path(path: &std::path::Path) -> proto::Path {
    let form = match path.to_str() {
        Some(text) => path::Form::Text(text.into()),
        None => path::Form::Raw(path.as_os_str().as_bytes().into()),
    };
    proto::Path { form: Some(form) }
}

/// A path that came in.
pub(crate) fn path_of(path: Option<proto::Path>) -> Option<PathBuf> {
    Some(match path?.form? {
        path::Form::Text(text) => text.into(),
        path::Form::Raw(bytes) => OsString::from_vec(bytes).into(),
    })
}

/// A state.
pub(crate) fn state(state: State) -> proto::State {
    match state {
        State::Queued => proto::State::Queued,
        State::Preparing => proto::State::Preparing,
        State::Building => proto::State::Building,
        State::ExtractingArtifacts => proto::State::ExtractingArtifacts,
        State::Completed => proto::State::Completed,
        State::Failed => proto::State::Failed,
        State::Cancelled => proto::State::Cancelled,
        State::Interrupted => proto::State::Interrupted,
    }
}

/// A state that came in; none where it is not given.
///
/// # Errors
///
/// For one of a newer API.
pub(crate) fn state_of(number: i32) -> Result<Option<State>, Invalid> {
    let state = proto::State::try_from(number).map_err(|_| Invalid::new("state", "is not known here"))?;
    Ok(Some(match state {
        proto::State::Unspecified => return Ok(None),
        proto::State::Queued => State::Queued,
        proto::State::Preparing => State::Preparing,
        proto::State::Building => State::Building,
        proto::State::ExtractingArtifacts => State::ExtractingArtifacts,
        proto::State::Completed => State::Completed,
        proto::State::Failed => State::Failed,
        proto::State::Cancelled => State::Cancelled,
        proto::State::Interrupted => State::Interrupted,
    }))
}

/// A kind.
pub(crate) fn kind(kind: Option<Kind>) -> proto::Kind {
    match kind {
        None => proto::Kind::Unspecified,
        Some(Kind::Build) => proto::Kind::Build,
        Some(Kind::Request) => proto::Kind::Request,
        Some(Kind::Host) => proto::Kind::Host,
        Some(Kind::Outside) => proto::Kind::Outside,
        Some(Kind::Cancelled) => proto::Kind::Stopped,
        Some(Kind::Warning) => proto::Kind::Warning,
    }
}

/// A kind that came in. One of a newer API is the machine's fault.
pub(crate) fn kind_of(number: i32) -> Option<Kind> {
    match proto::Kind::try_from(number) {
        Ok(proto::Kind::Unspecified) => None,
        Ok(proto::Kind::Build) => Some(Kind::Build),
        Ok(proto::Kind::Request) => Some(Kind::Request),
        Ok(proto::Kind::Outside) => Some(Kind::Outside),
        Ok(proto::Kind::Stopped) => Some(Kind::Cancelled),
        Ok(proto::Kind::Warning) => Some(Kind::Warning),
        Ok(proto::Kind::Host) | Err(_) => Some(Kind::Host),
    }
}

/// A hint.
pub(crate) fn hint(hint: &Hint) -> proto::Hint {
    let action = hint.action.as_ref().map(|action| match action {
        Action::Command(text) => hint::Action::Command(text.clone()),
        Action::Config(text) => hint::Action::Config(text.clone()),
        Action::Page(text) => hint::Action::Page(text.clone()),
    });
    proto::Hint { text: hint.text.clone(), action, file: hint.file.clone().unwrap_or_default() }
}

/// A hint that came in.
pub(crate) fn hint_of(hint: proto::Hint) -> Hint {
    let action = hint.action.map(|action| match action {
        hint::Action::Command(text) => Action::Command(text),
        hint::Action::Config(text) => Action::Config(text),
        hint::Action::Page(text) => Action::Page(text),
    });
    Hint { text: hint.text, action, file: (!hint.file.is_empty()).then_some(hint.file) }
}

fn diagnosis(one: &Diagnosis) -> proto::Diagnosis {
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    let sure = match one.sure {
        Certainty::Certain => proto::Certainty::Certain,
        Certainty::Likely => proto::Certainty::Likely,
        Certainty::Unknown => proto::Certainty::Unknown,
    };
    proto::Diagnosis {
        kind: one.kind.clone(),
        recipe: word(&one.recipe),
        task: word(&one.task),
        multiconfig: word(&one.multiconfig),
        first_error: one.first_error.as_ref().map(quote),
        source: one.source.as_ref().map(|source| proto::SourcePlace { file: source.file.clone(), line: source.line }),
        evidence: one.evidence.iter().map(quote).collect(),
        cause: one.cause.clone(),
        next: one.next.iter().map(hint).collect(),
        sure: sure.into(),
        could_be: one.could_be.clone(),
        also: one.also.iter().map(task).collect(),
        facts: one.facts.clone(),
        recovery: one.recovery.map(|how| how.to_string()).unwrap_or_default(),
        subject: word(&one.subject),
    }
}

/// A diagnosis that came in.
pub(crate) fn diagnosis_of(one: proto::Diagnosis) -> Diagnosis {
    let word = |word: String| Some(word).filter(|word| !word.is_empty());
    Diagnosis {
        sure: match one.sure() {
            proto::Certainty::Certain => Certainty::Certain,
            proto::Certainty::Likely => Certainty::Likely,
            proto::Certainty::Unknown | proto::Certainty::Unspecified => Certainty::Unknown,
        },
        kind: one.kind,
        recipe: word(one.recipe),
        task: word(one.task),
        multiconfig: word(one.multiconfig),
        first_error: one.first_error.map(quote_of),
        source: one.source.map(|source| SourcePlace { file: source.file, line: source.line }),
        evidence: one.evidence.into_iter().map(quote_of).collect(),
        cause: one.cause,
        next: one.next.into_iter().map(hint_of).collect(),
        could_be: one.could_be,
        also: one.also.into_iter().map(|name| task_of(Some(name))).collect(),
        facts: one.facts,
        recovery: one.recovery.parse().ok(),
        subject: word(one.subject),
    }
}

fn warnings(group: &WarningGroup) -> proto::WarningGroup {
    let place = |place: &WarnedPlace| proto::WarnedPlace {
        recipe: place.recipe.clone(),
        layer: place.layer.clone(),
        count: place.count,
        new: place.new,
    };
    proto::WarningGroup {
        kind: group.kind.clone(),
        count: group.count,
        new: group.new,
        places: group.places.iter().map(place).collect(),
        examples: group.examples.clone(),
    }
}

fn warnings_of(group: proto::WarningGroup) -> WarningGroup {
    let place = |place: proto::WarnedPlace| WarnedPlace {
        recipe: place.recipe,
        layer: place.layer,
        count: place.count,
        new: place.new,
    };
    WarningGroup {
        kind: group.kind,
        count: group.count,
        new: group.new,
        places: group.places.into_iter().map(place).collect(),
        examples: group.examples,
    }
}

fn quote(quote: &Quote) -> proto::Quote {
    proto::Quote { text: quote.text.clone(), file: quote.file.clone().unwrap_or_default(), line: quote.line }
}

fn quote_of(quote: proto::Quote) -> Quote {
    Quote { text: quote.text, file: Some(quote.file).filter(|file| !file.is_empty()), line: quote.line }
}

/// A task's name.
pub(crate) fn task(name: &TaskName) -> proto::TaskName {
    proto::TaskName { recipe: name.recipe.clone(), task: name.task.clone() }
}

/// A task's name that came in.
pub(crate) fn task_of(name: Option<proto::TaskName>) -> TaskName {
    let name = name.unwrap_or_default();
    TaskName { recipe: name.recipe, task: name.task }
}

fn failed(task: &FailedTask) -> proto::FailedTask {
    proto::FailedTask {
        name: Some(self::task(&task.name)),
        log: task.log.as_deref().map(path),
        reasons: task.reasons.clone(),
        urls: task.urls.clone(),
    }
}

fn failed_of(task: proto::FailedTask) -> FailedTask {
    FailedTask { name: task_of(task.name), log: path_of(task.log), reasons: task.reasons, urls: task.urls }
}

/// An outcome.
pub(crate) fn outcome(outcome: &Outcome) -> proto::Outcome {
    proto::Outcome {
        state: state(outcome.state).into(),
        bitbake_exit: outcome.bitbake_exit,
        failed: outcome.failed.iter().map(failed).collect(),
        reasons: outcome.reasons.clone(),
        kind: kind(outcome.kind).into(),
        hints: outcome.hints.iter().map(hint).collect(),
        place: outcome.place.as_ref().map(|place| proto::ConfigPlace {
            file: place.file.clone(),
            line: place.line as u64,
            column: place.column as u64,
            length: place.length as u64,
            text: place.text.clone(),
        }),
        usage: outcome.usage.map(|usage| proto::Usage {
            cpu_ms: usage.cpu_ms,
            peak_memory: usage.peak_memory,
            peak_of_build: usage.peak_of == PeakOf::Build,
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
        }),
        artifacts: outcome.artifacts,
        artifact_bytes: outcome.artifact_bytes,
        duration_ms: outcome.duration_ms,
        cleaned: outcome.cleaned,
        diagnoses: outcome.diagnoses.iter().map(diagnosis).collect(),
        warnings: outcome.warnings.iter().map(warnings).collect(),
        recovered: outcome.recovered.as_ref().map(|recovered| proto::Recovered {
            how: recovered.how.iter().map(ToString::to_string).collect(),
            diagnoses: recovered.diagnoses.iter().map(diagnosis).collect(),
            helped: recovered.helped,
        }),
    }
}

/// An outcome that came in.
///
/// # Errors
///
/// Without a state that is known here.
pub(crate) fn outcome_of(outcome: proto::Outcome) -> Result<Outcome, Invalid> {
    let number = |number: u64| usize::try_from(number).unwrap_or_default();
    Ok(Outcome {
        state: state_of(outcome.state)?.ok_or_else(|| Invalid::missing("outcome.state"))?,
        bitbake_exit: outcome.bitbake_exit,
        failed: outcome.failed.into_iter().map(failed_of).collect(),
        reasons: outcome.reasons,
        kind: kind_of(outcome.kind),
        hints: outcome.hints.into_iter().map(hint_of).collect(),
        place: outcome.place.map(|place| ConfigPlace {
            file: place.file,
            line: number(place.line),
            column: number(place.column),
            length: number(place.length),
            text: place.text,
        }),
        usage: outcome.usage.map(|usage| Usage {
            cpu_ms: usage.cpu_ms,
            peak_memory: usage.peak_memory,
            peak_of: if usage.peak_of_build { PeakOf::Build } else { PeakOf::LargestProcess },
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
        }),
        artifacts: outcome.artifacts,
        artifact_bytes: outcome.artifact_bytes,
        duration_ms: outcome.duration_ms,
        cleaned: outcome.cleaned,
        diagnoses: outcome.diagnoses.into_iter().map(diagnosis_of).collect(),
        warnings: outcome.warnings.into_iter().map(warnings_of).collect(),
        recovered: outcome.recovered.map(|recovered| Recovered {
            how: recovered.how.iter().filter_map(|how| how.parse().ok()).collect(),
            diagnoses: recovered.diagnoses.into_iter().map(diagnosis_of).collect(),
            helped: recovered.helped,
        }),
    })
}

/// An artifact.
pub(crate) fn artifact(artifact: &Artifact) -> proto::Artifact {
    proto::Artifact {
        path: Some(path(&artifact.path)),
        size: artifact.size,
        sha256: artifact.sha256.as_ref().map(|digest| digest.hex().to_string()),
        link: artifact.link.as_deref().map(path),
    }
}

/// A task of a build that is over.
pub(crate) fn task_record(of: &TaskRecord) -> proto::Task {
    proto::Task {
        name: Some(task(&of.name)),
        setscene: of.setscene,
        started: Some(time(of.started)),
        ended: of.ended.map(time),
        ok: of.ok,
        log: of.log.as_deref().map(path),
    }
}

/// A task that came in.
///
/// # Errors
///
/// Without the time when it began.
pub(crate) fn task_record_of(of: proto::Task) -> Result<TaskRecord, Invalid> {
    Ok(TaskRecord {
        name: task_of(of.name),
        setscene: of.setscene,
        started: time_of(of.started).ok_or_else(|| Invalid::missing("task.started"))?,
        ended: time_of(of.ended),
        ok: of.ok,
        log: path_of(of.log),
    })
}

/// An artifact that came in.
///
/// # Errors
///
/// Without a path inside the artifacts, or with a digest that is none.
pub(crate) fn artifact_of(artifact: proto::Artifact) -> Result<Artifact, Invalid> {
    let digest = |hex: String| format!("sha256:{hex}").parse::<Digest>();
    let path = path_of(artifact.path).ok_or_else(|| Invalid::missing("artifact.path"))?;
    if path.file_name().is_none() || !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Invalid::new("artifact.path", format!("`{}` leads out of the artifacts", path.display())));
    }
    Ok(Artifact {
        path,
        size: artifact.size,
        sha256: artifact.sha256.map(digest).transpose().map_err(|error| Invalid::new("artifact.sha256", error))?,
        link: path_of(artifact.link),
    })
}

/// A build, and its place in the queue if it waits for the daemon.
pub(crate) fn build(build: &BuildRecord, queued: Option<proto::Queued>) -> proto::Build {
    proto::Build {
        id: build.id.as_str().into(),
        name: build.name.clone(),
        customer: build.customer.clone().unwrap_or_default(),
        labels: build.labels.clone().into_iter().collect(),
        machine: build.machine.clone(),
        targets: build.targets.clone(),
        variant: build.variant.clone(),
        state: state(build.state).into(),
        started: Some(time(build.started)),
        ended: build.ended.map(time),
        outcome: build.outcome.as_ref().map(outcome),
        config: build.config.as_deref().map(path),
        queued,
    }
}

/// A build that came in.
///
/// # Errors
///
/// Without an id, a state or a time.
pub(crate) fn build_of(build: proto::Build) -> Result<BuildRecord, Invalid> {
    Ok(BuildRecord {
        id: id_of("id", &build.id)?,
        name: build.name,
        config: path_of(build.config),
        machine: build.machine,
        targets: build.targets,
        variant: build.variant,
        customer: Some(build.customer).filter(|customer| !customer.is_empty()),
        labels: build.labels.into_iter().collect(),
        waits: build.queued.is_some(),
        queued: build.queued.map(|place| QueuePlace { position: place.position, reason: place.reason }),
        state: state_of(build.state)?.ok_or_else(|| Invalid::missing("state"))?,
        started: time_of(build.started).ok_or_else(|| Invalid::missing("started"))?,
        ended: time_of(build.ended),
        outcome: build.outcome.map(outcome_of).transpose()?,
    })
}

/// The id of a build, whole.
///
/// # Errors
///
/// For what is none.
pub(crate) fn id_of(field: &'static str, text: &str) -> Result<BuildId, Invalid> {
    text.parse().map_err(|error| Invalid::new(field, error))
}

/// What an outcome tells of a failure.
pub(crate) fn explanation(record: &BuildRecord, diagnoses: &[Diagnosis]) -> proto::Explanation {
    let told = record.outcome.as_ref().map(outcome).unwrap_or_default();
    proto::Explanation {
        state: state(record.state).into(),
        kind: told.kind,
        reasons: told.reasons,
        hints: told.hints,
        failed: told.failed,
        diagnoses: diagnoses.iter().map(diagnosis).collect(),
    }
}
