//! From how BitBake ended to the outcome of a build that left nothing to collect: why it failed, who has to act, and what to do. Pure.

use super::{Finished, memory};
use crate::{
    model::{FailedTask, Hint, Kind, Limits, Outcome, State, UserError},
    plan::Plan,
};

/// The exit status of BitBake for a command line that it does not understand (Python's argparse).
const USAGE: i32 = 2;

/// The outcome of a build that left nothing to collect, if this is one.
pub(super) fn not_built(finished: &Finished, failed: Vec<FailedTask>, plan: &Plan) -> Option<Outcome> {
    if finished.is_good() {
        return None;
    }
    let (bitbake_exit, usage) = (Some(finished.exit), finished.usage);
    if finished.stopped {
        return Some(Outcome { bitbake_exit, failed, usage, ..Outcome::new(State::Cancelled) });
    }
    let limit = limit(finished, plan.limits);
    let refused = refused(finished, plan);
    let mut reasons = reasons(finished, failed.is_empty(), plan);
    let mut outcome = Outcome::new(State::Failed);
    if let Some((reason, hint)) = limit {
        reasons.insert(0, reason);
        outcome.hints = vec![hint];
    } else if finished.disk_full {
        outcome.hints = vec![Hint::command("free some space", "df -h")];
    } else if let Some(broken) = &finished.broken {
        outcome.hints = broken.hints();
    }
    if !outcome.hints.is_empty() || finished.broken.is_some() {
        outcome.kind = Some(Kind::Host);
    }
    if let Some(reason) = refused {
        (reasons, outcome.kind) = (vec![reason], Some(Kind::Request));
        outcome.hints = vec![Hint::command("what BitBake takes", "smidr run bitbake --help")];
    }
    Some(Outcome { bitbake_exit, failed, reasons, usage, ..outcome })
}

/// The limit that the build ran into, and what to do.
fn limit(finished: &Finished, limits: Limits) -> Option<(String, Hint)> {
    if let Some(reason) = &finished.out_of_memory {
        return Some((reason.clone(), memory::hint(limits.memory)));
    }
    let tasks = limits.tasks.filter(|_| finished.no_process)?;
    let reason = format!("no further process could be started: the build may have {tasks} at once (host.tasks)");
    Some((
        reason,
        Hint::config("give it more, or remove the limit", format!("host: {{tasks: {}}}", tasks.max(256) * 2)),
    ))
}

/// Why BitBake refused its command line, if what the user added to it can be the reason.
fn refused(finished: &Finished, plan: &Plan) -> Option<String> {
    let is_refused = finished.exit == USAGE && !finished.said_done && finished.errors.is_empty();
    let added = plan.bitbake_args.join(" ");
    (is_refused && !added.is_empty())
        .then(|| format!("what stands behind -- goes to BitBake, which does not understand it: {added}"))
}

/// Why a build failed, beside tasks that did.
fn reasons(finished: &Finished, no_task: bool, plan: &Plan) -> Vec<String> {
    let errors = finished.errors.iter().filter(|_| no_task);
    let mut reasons: Vec<String> = errors.map(|error| error.told(plan)).collect();
    if finished.timed_out {
        reasons.insert(0, "the build's time was up (advanced.build_timeout)".into());
    } else if let Some(broken) = &finished.broken {
        reasons.insert(0, broken.to_string());
    } else if reasons.is_empty() && no_task && !finished.starved {
        let how = if finished.said_done { "and names no task" } else { "before it was done" };
        reasons.push(format!("BitBake ended with exit status {} {how}", finished.exit));
    }
    reasons
}
