//! What has changed since a project's last good build, as a fact of why it failed: layers that smidr.lock pins to other commits.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{
    history::History,
    lock::Lock,
    model::{Outcome, Paths, State, Submission},
};

/// How many layers are named.
const NAMED: usize = 8;

/// The outcome of a build that failed, with what has changed since the last good one.
pub(super) fn told(mut outcome: Outcome, submission: &Submission, paths: &Paths) -> Outcome {
    if outcome.state == State::Failed
        && let Some(first) = outcome.diagnoses.first_mut()
    {
        first.facts.extend(changed(submission, paths));
    }
    outcome
}

/// One sentence, if there is a good build to compare with.
fn changed(submission: &Submission, paths: &Paths) -> Option<String> {
    let history = History::open_existing(paths).ok()??;
    let variant = submission.request.variant.as_deref();
    let good = history.good_builds_of(submission.config_path(), variant, 1).ok()?.pop()?;
    let (before, now) = (pins(&paths.build(&good.id))?, pins(&paths.build(&submission.id))?);
    let short = |commit: &str| commit.get(..12).unwrap_or(commit).to_owned();
    let mut changes: Vec<String> = Vec::new();
    for (name, commit) in &now {
        match before.get(name) {
            None => changes.push(format!("{name} is new")),
            Some(old) if old != commit => changes.push(format!("{name} {} is {} now", short(old), short(commit))),
            Some(_) => {}
        }
    }
    changes.extend(before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{name} is gone")));
    if now.is_empty() {
        return None;
    }
    if changes.is_empty() {
        return Some(format!("the layers from git are at the commits of {}, which was good", good.id));
    }
    let more = if changes.len() > NAMED { ", …" } else { "" };
    changes.truncate(NAMED);
    Some(format!("since {}, which was good: {}{more}", good.id, changes.join(", ")))
}

/// The commits that a build was made of, by the names of their repositories. Folders have none that says what they hold.
fn pins(build: &Path) -> Option<BTreeMap<String, String>> {
    let text = fs::read_to_string(build.join("smidr.lock")).ok()?;
    let lock = Lock::parse(&text).ok()?;
    let pinned = lock.repositories().iter().filter(|pin| pin.git.is_some());
    Some(pinned.filter_map(|pin| Some((pin.name.clone(), pin.commit.as_ref()?.to_string()))).collect())
}
