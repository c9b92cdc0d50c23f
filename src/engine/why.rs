//! Why a build failed: BitBake's console, as it was heard, and the kept logs of failed tasks go to the rules of [`crate::diagnose`].

use std::path::Path;

use super::Finished;
use crate::{
    diagnose::{self, Facts, Log},
    model::{FailedTask, Kind, Outcome},
    plan::Plan,
    system::rooted::open_linkless,
};

/// The outcome of a build that BitBake failed, with its diagnoses. One that was stopped, or for which this machine had no room, has its reason already.
pub(super) fn explained(outcome: Outcome, finished: Finished, plan: &Plan, build: &Path) -> Outcome {
    if outcome.kind != Some(Kind::Build) || finished.timed_out {
        return outcome;
    }
    let facts = Facts { series: plan.series.clone() };
    // A log that cannot be read is as one that is not there.
    let diagnoses = finished.heard.diagnose(logs(&outcome.failed, build), &facts).unwrap_or_default();
    // Servers that lack a source, or do not answer, are what was to be found out.
    let is_outside =
        plan.fetch_only && !outcome.failed.is_empty() && outcome.failed.iter().all(|task| task.url.is_some());
    let kind = if is_outside { Some(Kind::Outside) } else { outcome.kind };
    Outcome { diagnoses: diagnose::bounded(diagnoses), kind, ..outcome }
}

/// The logs of failed tasks that were kept: in those, secrets are taken out.
fn logs(failed: &[FailedTask], build: &Path) -> Vec<Log<'static>> {
    let kept = failed.iter().filter_map(|task| Some((task, task.log.as_ref().filter(|log| log.starts_with(build))?)));
    kept.filter_map(|(task, path)| {
        let text = open_linkless(path).ok()?;
        Some(Log { name: Some(path.display().to_string()), text: Box::new(text), task: Some(task.name.clone()) })
    })
    .collect()
}
