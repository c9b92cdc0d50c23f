//! Warnings at the end of a build: which of them are new, and whether they fail it. In go the outcome and earlier builds of the record, out comes
//! the outcome.

use crate::{
    diagnose::warnings::{Earlier, mark_new, meant},
    history::{BuildRecord, History, HistoryError, journal},
    model::{Hint, Kind, Outcome, Paths, State, Submission},
};

/// How many good builds are looked at: one in which a recipe did not run says nothing of its warnings.
const EARLIER: u32 = 10;

/// The outcome with what is new marked, failed if it has warnings that the request does not allow.
pub(super) fn judged(mut outcome: Outcome, submission: &Submission, paths: &Paths) -> Outcome {
    if outcome.warnings.is_empty() {
        return outcome;
    }
    // Without a record nothing is called new.
    let earlier = earlier(submission, paths).unwrap_or_default();
    mark_new(&mut outcome.warnings, &earlier);
    let refused = meant(&outcome.warnings, &submission.request.fail_on_warning);
    let reasons: Vec<String> = refused.iter().map(|group| group.to_string()).collect();
    if outcome.state == State::Completed && !reasons.is_empty() {
        let id = &submission.id;
        outcome.state = State::Failed;
        outcome.kind = Some(Kind::Warning);
        outcome.hints = vec![Hint::command("what they say", format!("smidr explain {id} --warnings"))];
        outcome.reasons = [vec!["it has warnings that --fail-on-warning does not allow".into()], reasons].concat();
    }
    outcome
}

/// The last good builds of the same project and variant, the newest first.
fn earlier(submission: &Submission, paths: &Paths) -> Result<Vec<Earlier>, HistoryError> {
    let Some(history) = History::open_existing(paths)? else { return Ok(Vec::new()) };
    let variant = submission.request.variant.as_deref();
    let of = |build: BuildRecord| {
        let warnings = journal::outcome(&paths.build(&build.id))?.map(|outcome| outcome.warnings).unwrap_or_default();
        let ran = history.tasks(&build.id)?.into_iter().map(|task| task.name.recipe).collect();
        Ok(Earlier { warnings, ran })
    };
    history.good_builds_of(submission.config_path(), variant, EARLIER)?.into_iter().map(of).collect()
}
