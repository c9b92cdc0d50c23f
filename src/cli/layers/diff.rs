//! `smidr layers diff`: what has changed since the lock was written, or between two locks.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    super::{
        context::{NoProject, Project},
        desk::Desk,
        output::{say, say_json, talk},
        report::Failure,
    },
    plans,
};
use crate::{
    config::HOST,
    host::files::FileError,
    layers::{self, Changes, Store},
    lock::{Lock, RepositoryLock},
    model::CommitId,
    plan::{Plan, PlannedGit, PlannedSource},
};

/// Subjects of commits that are shown of one repository.
const SUBJECTS: usize = 50;

/// How one repository differs.
struct Difference {
    name: String,
    from: Option<CommitId>,
    to: Option<CommitId>,
    changes: Option<Changes>,
    // What else is different.
    also: Option<&'static str>,
}

/// Runs the command.
pub fn diff(desk: &Desk, file: &Path, old: Option<&Path>, new: Option<&Path>, json: bool) -> Result<(), NoProject> {
    let plans = plans(desk, file)?;
    let differences = match old {
        None => since_lock(desk, &plans)?,
        Some(old) => {
            let new = match new {
                Some(new) => read_lock(new)?,
                None => Project::read(file, None, &desk.facts)?.lock.unwrap_or_default(),
            };
            between(desk, &plans, &read_lock(old)?, &new)?
        }
    };
    let redactor = desk.on.redactor();
    if json {
        let mut document = serde_json::json!({
            "version": 1, "repositories": differences.iter().map(difference_document).collect::<Vec<_>>(),
        });
        redactor.json(&mut document);
        say_json(&document);
        return Ok(());
    }
    let lines: Vec<String> = differences.iter().flat_map(difference_lines).collect();
    lines.iter().for_each(|line| say(redactor.text(line)));
    if lines.is_empty() {
        talk("nothing has changed");
    }
    Ok(())
}

/// From what is pinned to what the server has now.
fn since_lock(desk: &Desk, plans: &[Plan]) -> Result<Vec<Difference>, Failure> {
    let access = desk.tools().access(true);
    let mut differences: Vec<Difference> = Vec::new();
    for plan in plans {
        let store = Store::of(plan);
        for (name, source) in plan.sources() {
            let PlannedSource::Git(git) = source else { continue };
            let from = git.pinned.as_ref().and_then(|lock| lock.commit.clone());
            let unpinned = PlannedGit { pinned: None, ..(**git).clone() };
            let (_, to) = store.mirrors.pin(&unpinned, access)?;
            let same = |known: &Difference| known.name == name && known.from == from && known.to.as_ref() == Some(&to);
            if from.as_ref() != Some(&to) && !differences.iter().any(same) {
                let changes =
                    from.as_ref().map(|from| store.mirrors.changes(git, from, &to, SUBJECTS, access)).transpose()?;
                differences.push(Difference { name: name.into(), from, to: Some(to), changes, also: None });
            }
        }
    }
    Ok(differences)
}

/// From one lock to another.
fn between(desk: &Desk, plans: &[Plan], old: &Lock, new: &Lock) -> Result<Vec<Difference>, Failure> {
    let mut differences = hosts_between(old, new);
    let of = |lock: &Lock, one: &RepositoryLock| {
        let named = || lock.repositories().iter().filter(|known| known.name == one.name);
        // The only one of a name is that one, whatever it was asked for.
        named().find(|known| known.replaces(one)).or_else(|| named().next().filter(|_| named().count() == 1)).cloned()
    };
    let pairs = new.repositories().iter().map(|to| (of(old, to), Some(to.clone())));
    let gone = old.repositories().iter().filter(|from| of(new, from).is_none()).map(|from| (Some(from.clone()), None));
    for (from, to) in pairs.chain(gone).filter(|(from, to)| from != to) {
        differences.push(difference(desk, plans, from, to)?);
    }
    Ok(differences)
}

fn difference(
    desk: &Desk,
    plans: &[Plan],
    from: Option<RepositoryLock>,
    to: Option<RepositoryLock>,
) -> Result<Difference, Failure> {
    let commit = |lock: &Option<RepositoryLock>| lock.as_ref().and_then(|lock| lock.commit.clone());
    let (before, after) = (commit(&from), commit(&to));
    let name = from.iter().chain(&to).next().map(|lock| lock.name.clone()).unwrap_or_default();
    let url = to.as_ref().and_then(|lock| lock.git.clone());
    let changes = match (&before, &after, url) {
        (Some(before), Some(after), Some(url)) if before != after => {
            // The config's own words for it, where it still has it: mirrors of the address belong to those.
            let known = plans.iter().flat_map(Plan::sources).find_map(|(_, source)| match source {
                PlannedSource::Git(git) if git.asked().git.as_ref() == Some(&url) => Some((**git).clone()),
                _ => None,
            });
            let wanted = known.unwrap_or_else(|| PlannedGit::at_commit(&url, after));
            let store = plans.first().map_or_else(|| Store::at(&desk.paths.layers()), Store::of);
            Some(store.mirrors.changes(&wanted, before, after, SUBJECTS, desk.tools().access(true))?)
        }
        _ => None,
    };
    let also = from.zip(to).and_then(|(from, to)| match () {
        () if from.git != to.git || from.path != to.path => Some("from another place"),
        () if from.patches != to.patches => Some("other patches"),
        () if from.dirty != to.dirty => Some("other changes that are not committed"),
        () if before == after => Some("asked for in other words"),
        () => None,
    });
    Ok(Difference { name, from: before, to: after, changes, also })
}

fn hosts_between(old: &Lock, new: &Lock) -> Vec<Difference> {
    let changed = |name: &&str| old.host(name) != new.host(name);
    let names: BTreeSet<&str> = old.hosts().iter().chain(new.hosts()).map(|host| host.name.as_str()).collect();
    let one = |name: &str| Difference {
        name: format!("{HOST} {name}"),
        from: None,
        to: None,
        changes: None,
        also: Some(match (old.host(name), new.host(name)) {
            (None, _) => "new",
            (_, None) => "gone",
            _ => "another image",
        }),
    };
    names.into_iter().filter(changed).map(one).collect()
}

fn difference_document(difference: &Difference) -> serde_json::Value {
    let Difference { name, from, to, changes, also } = difference;
    let commits = |changes: &Changes| -> Vec<_> {
        let one = |change: &layers::Change| serde_json::json!({ "commit": change.commit, "subject": change.subject, "authored": change.authored });
        changes.commits.iter().map(one).collect()
    };
    serde_json::json!({
        "name": name, "from": from, "to": to, "also": also,
        "commits": changes.as_ref().map(commits), "total": changes.as_ref().map(|changes| changes.total),
        "whole": changes.as_ref().map(|changes| changes.is_whole),
        "rewritten": changes.as_ref().map(|changes| changes.is_rewritten),
    })
}

fn difference_lines(difference: &Difference) -> Vec<String> {
    let short = |commit: &Option<CommitId>| commit.as_ref().map_or_else(|| "nothing".into(), CommitId::short);
    let also = difference.also.unwrap_or_default();
    let commits = match (&difference.from, &difference.to) {
        (from, to) if from == to => also.to_owned(),
        (from, to) if also.is_empty() => format!("{} -> {}", short(from), short(to)),
        (from, to) => format!("{} -> {}, {also}", short(from), short(to)),
    };
    let mut lines = vec![format!("{:<24} {commits}", difference.name)];
    let Some(changes) = &difference.changes else { return lines };
    if changes.is_rewritten {
        lines.push("  the new one does not come from the old one".into());
    }
    lines.extend(changes.commits.iter().map(|change| format!("  {} {}", change.short(), change.subject)));
    let more = changes.total.saturating_sub(changes.commits.len());
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    if !changes.is_whole {
        lines.push("  and what lies further back, which is not here".into());
    }
    lines
}

fn read_lock(path: &Path) -> Result<Lock, Failure> {
    Ok(Lock::parse(&fs::read_to_string(path).map_err(FileError::new("read", path))?)?)
}
