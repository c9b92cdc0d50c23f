//! How earlier builds of the same went: same config, variant, machine and targets, and completed. What a new one will take is told by them alone.

use std::{path::PathBuf, time::Duration};

use super::{
    board::{LEAST_PACE, Pace},
    times::between,
};
use crate::{
    history::{BuildRecord, Filter, TaskRecord},
    model::State,
    plan::Plan,
    service::BuildService,
};

/// So many builds of this machine are looked at, and so many of them kept.
const LOOKED_AT: u32 = 100;
const KEPT: usize = 4;

/// The newest first. A record that cannot be read is no reason not to build: then there is none.
pub(super) fn before(service: &dyn BuildService, plan: &Plan) -> Vec<Pace> {
    if plan.fetch_only {
        return Vec::new();
    }
    earlier(service, &plan.name, |build| what(build) == (Some(&plan.file), &plan.variant, &plan.machine, &plan.targets))
}

/// The same for a build that runs.
pub(super) fn beside(service: &dyn BuildService, running: &BuildRecord) -> Vec<Pace> {
    earlier(service, &running.name, |build| build.id != running.id && what(build) == what(running))
}

/// What two builds of the same have in common: config, variant, machine and targets.
fn what(build: &BuildRecord) -> (Option<&PathBuf>, &Option<String>, &String, &Vec<String>) {
    (build.config.as_ref(), &build.variant, &build.machine, &build.targets)
}

fn earlier(service: &dyn BuildService, name: &str, is_same: impl Fn(&BuildRecord) -> bool) -> Vec<Pace> {
    let filter = Filter { name: Some(name.to_owned()), states: vec![State::Completed], ..Filter::default() };
    let builds = service.page(&filter, None, LOOKED_AT).map(|(builds, _)| builds).unwrap_or_default();
    let same = builds.into_iter().filter(is_same);
    same.filter_map(|build| of(&build, &service.tasks(&build.id).ok()?)).take(KEPT).collect()
}

/// None of a build that hardly ran anything.
fn of(build: &BuildRecord, tasks: &[TaskRecord]) -> Option<Pace> {
    let took = Duration::from_millis(build.outcome.as_ref()?.duration_ms);
    let ran = tasks.iter().filter(|task| !task.setscene);
    let mut ends: Vec<Duration> = ran.filter_map(|task| Some(between(build.started, task.ended?))).collect();
    ends.sort_unstable();
    (ends.len() >= LEAST_PACE).then_some(Pace { took, ends })
}
