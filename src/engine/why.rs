//! Why a build failed: BitBake's console, as it was heard, and the kept logs of failed tasks go to the rules of [`crate::diagnose`].

use std::path::Path;

use super::{Finished, Prepared, facts};
use crate::{
    diagnose::{self, Facts, Log},
    model::{Diagnosis, FailedTask, Kind, Outcome, Recovery},
    system::rooted::open_linkless,
};

/// The outcome of a build that BitBake failed, with its diagnoses. One that was stopped, or for which this machine had no room, has its reason already.
pub(super) fn explained(outcome: Outcome, finished: Finished, prepared: &Prepared, build: &Path) -> Outcome {
    let diagnoses = if let Some(reason) = finished.out_of_memory {
        vec![out_of_memory(reason, &outcome, finished.broken.is_some() || finished.stopped || finished.timed_out)]
    } else if outcome.kind != Some(Kind::Build) || finished.timed_out {
        Vec::new()
    } else {
        let facts = Facts { series: prepared.plan.series.clone() };
        // A log that cannot be read is as one that is not there.
        finished.heard.diagnose(kept_logs(&outcome.failed, build), &facts).unwrap_or_default()
    };
    let mut diagnoses = diagnose::bounded(diagnoses);
    facts::add_answers(&mut diagnoses, &outcome.failed, &finished.answers);
    facts::add(&mut diagnoses, &prepared.plan, prepared.layer_folders());
    // Servers that lack a source, or do not answer, are what was to be found out.
    let is_outside = prepared.plan.fetch_only
        && outcome.kind == Some(Kind::Build)
        && !outcome.failed.is_empty()
        && outcome.failed.iter().all(|task| !task.urls.is_empty());
    let kind = if is_outside { Some(Kind::Outside) } else { outcome.kind };
    Outcome { diagnoses, kind, ..outcome }
}

/// What the kernel has told, in place of what compilers say of it.
fn out_of_memory(cause: String, outcome: &Outcome, ended: bool) -> Diagnosis {
    let task = outcome.failed.first();
    let (multiconfig, recipe) = task.map(|task| task.name.parts()).unzip();
    Diagnosis {
        recipe: recipe.map(str::to_owned),
        multiconfig: multiconfig.flatten().map(str::to_owned),
        task: task.map(|task| task.name.task.clone()),
        next: outcome.hints.clone(),
        also: outcome.failed.iter().skip(1).map(|task| task.name.clone()).collect(),
        // A kill from outside, a stop or a timeout is no lack of memory alone: nothing is tried again.
        recovery: (!ended).then_some(Recovery::Memory),
        ..Diagnosis::new("out-of-memory", cause)
    }
}

/// The logs of failed tasks that were kept in the folder of their build: in those, secrets are taken out.
pub(crate) fn kept_logs(failed: &[FailedTask], build: &Path) -> Vec<Log<'static>> {
    let kept = failed.iter().filter_map(|task| Some((task, task.log.as_ref().filter(|log| log.starts_with(build))?)));
    kept.filter_map(|(task, path)| {
        let text = open_linkless(path).ok()?;
        Some(Log { name: Some(path.display().to_string()), text: Box::new(text), task: Some(task.name.clone()) })
    })
    .collect()
}
