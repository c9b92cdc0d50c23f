//! Every text that an event carries. A new field of an event has to be named here, as a text or as none.

use super::{
    Action, ConfigPlace, Diagnosis, Event, FailedTask, Hint, Outcome, Quote, SourcePlace, TaskName, WarnedPlace,
    WarningGroup,
};

impl Event {
    /// Hands every text to `change`, which may replace it. Paths, digests and numbers are none: a path that was changed would name
    /// another file.
    pub fn for_each_text(&mut self, change: &mut dyn FnMut(&mut String)) {
        match self {
            Self::BuildStarted { name, targets, machine, variant, config: _, customer: _, labels: _ } => {
                change(name);
                variant.iter_mut().for_each(&mut *change);
                targets.iter_mut().for_each(&mut *change);
                change(machine);
            }
            Self::Waiting { resource, holder } => {
                change(resource);
                change(holder);
            }
            Self::InQueue { reason: text, .. } | Self::Warning { text } => change(text),
            Self::HostReady { name, .. } => change(name),
            Self::LayersReady { layers } => {
                for (name, pinned) in layers {
                    change(name);
                    change(pinned);
                }
            }
            Self::SandboxReady { isolation, .. } => change(isolation),
            Self::Progress { subject, .. } => change(subject),
            Self::RecipeStep { recipe, step } => {
                change(recipe);
                change(step);
            }
            Self::Console { line } => change(line),
            Self::BitbakeReady { version } => change(version),
            Self::TaskStarted { name, .. } | Self::TaskEnded { name, .. } | Self::TaskSkipped { name, .. } => {
                task(name, change);
            }
            Self::Message { text, task: name, .. } => {
                change(text);
                if let Some(name) = name {
                    task(name, change);
                }
            }
            Self::NoProvider { item, dependees, reasons, close_matches } => {
                change(item);
                dependees.iter_mut().chain(reasons).chain(close_matches).for_each(&mut *change);
            }
            Self::TaskLog { name, tail, .. } => {
                task(name, change);
                tail.iter_mut().for_each(&mut *change);
            }
            Self::Finished { outcome } => {
                // Named one by one, so that a new field has to be thought of here.
                let Outcome {
                    state: _,
                    bitbake_exit: _,
                    failed,
                    reasons,
                    kind: _,
                    hints,
                    diagnoses,
                    warnings,
                    recovered,
                    place,
                    usage: _,
                    artifacts: _,
                    artifact_bytes: _,
                    duration_ms: _,
                    cleaned: _,
                } = outcome;
                for FailedTask { name, log: _, reasons, urls } in failed {
                    task(name, change);
                    urls.iter_mut().for_each(&mut *change);
                    reasons.iter_mut().for_each(&mut *change);
                }
                reasons.iter_mut().for_each(&mut *change);
                if let Some(ConfigPlace { file, text, .. }) = place {
                    change(file);
                    change(text);
                }
                hints.iter_mut().for_each(|one| hint(one, change));
                let first_try = recovered.iter_mut().flat_map(|recovered| &mut recovered.diagnoses);
                diagnoses.iter_mut().chain(first_try).for_each(|one| diagnosis(one, change));
                for WarningGroup { kind: _, count: _, new: _, places, examples } in warnings {
                    for WarnedPlace { recipe, layer, count: _, new: _ } in places {
                        [recipe, layer].into_iter().flatten().for_each(&mut *change);
                    }
                    examples.iter_mut().for_each(&mut *change);
                }
            }
            Self::TaskProgress { rate, .. } => rate.iter_mut().for_each(change),
            Self::StageStarted { .. }
            | Self::Queued { .. }
            | Self::Parsed { .. }
            | Self::TasksPlanned { .. }
            | Self::Stopping { .. }
            | Self::ArtifactKept { .. } => {}
        }
    }
}

fn task(name: &mut TaskName, change: &mut dyn FnMut(&mut String)) {
    change(&mut name.recipe);
    change(&mut name.task);
}

fn hint(Hint { text, action, file }: &mut Hint, change: &mut dyn FnMut(&mut String)) {
    file.iter_mut().for_each(&mut *change);
    change(text);
    if let Some(Action::Command(action) | Action::Config(action) | Action::Page(action)) = action {
        change(action);
    }
}

fn diagnosis(one: &mut Diagnosis, change: &mut dyn FnMut(&mut String)) {
    let Diagnosis {
        kind: _,
        recipe,
        task: name,
        multiconfig,
        first_error,
        source,
        subject,
        evidence,
        cause,
        next,
        sure: _,
        could_be,
        also,
        facts,
        recovery: _,
    } = one;
    [recipe, name, multiconfig, subject].into_iter().flatten().for_each(&mut *change);
    for Quote { text, file: _, line: _ } in first_error.iter_mut().chain(evidence) {
        change(text);
    }
    if let Some(SourcePlace { file, line: _ }) = source {
        change(file);
    }
    change(cause);
    could_be.iter_mut().chain(facts).for_each(&mut *change);
    next.iter_mut().for_each(|one| hint(one, change));
    also.iter_mut().for_each(|name| task(name, change));
}
