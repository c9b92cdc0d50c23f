//! `smidr layers diff`: what has changed since the lock was written, or between two locks.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    super::{
        args::Grant,
        command_context::CommandContext,
        context::default_wanted,
        lock::settle,
        output::{Document, Unwritable, say, talk},
        report::Failure,
    },
    at,
};
use crate::{
    config::HOST,
    engine,
    layers::{self, Change, Changes, Store},
    lock::{Lock, RepositoryPin},
    model::{CommitId, Kind},
    plan::{Plan, PlannedGit, PlannedPath, PlannedSource},
    project::Project,
    system::files::FileError,
};

/// Subjects of commits that are shown of one repository.
const SUBJECTS: usize = 50;

/// Of a folder of this machine.
const OTHER_CHANGES: &str = "other changes that are not committed";

/// How one repository differs.
#[derive(Default)]
struct Difference {
    name: String,
    from: Option<CommitId>,
    to: Option<CommitId>,
    changes: Option<Changes>,
    // What else is different.
    also: Option<&'static str>,
    // Of a folder of this machine: whether something in it was, and is, not committed.
    dirty: Option<(bool, bool)>,
    // Why it is not known.
    error: Option<Failure>,
}

/// Runs the command.
pub(super) fn diff(
    context: &CommandContext,
    file: &Path,
    grant: &Grant,
    (old, new): (Option<&Path>, Option<&Path>),
    json: bool,
) -> Result<(), Failure> {
    // Servers are asked.
    let project = Project::read(file, None, &context.facts)?;
    let mut plans = vec![settle(context, &project, &default_wanted(None), grant)?];
    for variant in &project.config.variants {
        let (variant, wanted) =
            (Project::read(file, Some(variant), &context.facts)?, default_wanted(Some(variant.text.clone())));
        plans.push(settle(context, &variant, &wanted, grant)?);
    }
    plans.iter().for_each(|plan| context.on.hide(&engine::inputs::secrets(plan)));
    let lock = match new {
        Some(new) => read_lock(new)?,
        None => project.lock.unwrap_or_default(),
    };
    let differences = match old {
        None => since_lock(context, &plans, &lock)?,
        Some(old) => between(context, &plans, &read_lock(old)?, &lock)?,
    };
    show(context, &differences, json)?;
    // What one repository lacks has hidden nothing of the others, and is still what went wrong.
    differences.into_iter().find_map(|difference| difference.error).map_or(Ok(()), Err)
}

fn show(context: &CommandContext, differences: &[Difference], json: bool) -> Result<(), Unwritable> {
    let redactor = context.on.redactor();
    if json {
        let repositories = differences.iter().map(difference_document).collect::<Result<Vec<_>, _>>()?;
        Document::new().with("repositories", &repositories)?.say_without(&redactor);
        return Ok(());
    }
    let lines: Vec<String> = differences.iter().flat_map(difference_lines).collect();
    lines.iter().for_each(|line| say(redactor.text(line)));
    if lines.is_empty() {
        talk("nothing has changed");
    }
    Ok(())
}

/// From what is pinned to what the server has now, and what folders of this machine are at.
fn since_lock(context: &CommandContext, plans: &[Plan], lock: &Lock) -> Result<Vec<Difference>, Failure> {
    let mut asked = Vec::new();
    let mut differences: Vec<Difference> = Vec::new();
    for plan in plans {
        let store = Store::of(plan);
        for (name, source) in plan.sources() {
            let difference = match source {
                PlannedSource::Path(path) => of_folder(context, &store, name, path, lock),
                PlannedSource::Git(git) => {
                    let wish = (name, git.asked(), git.pinned.as_ref().and_then(|lock| lock.commit.clone()));
                    if asked.contains(&wish) {
                        continue;
                    }
                    asked.push(wish);
                    of_branch(context, plan, name, git)?
                }
            };
            let why = |one: &Difference| one.error.as_ref().map(in_one_line);
            let same = |known: &Difference, new: &Difference| {
                (&known.name, &known.from, &known.to, why(known)) == (&new.name, &new.from, &new.to, why(new))
            };
            differences.extend(difference.filter(|new| !differences.iter().any(|known| same(known, new))));
        }
    }
    Ok(differences)
}

fn of_branch(
    context: &CommandContext,
    plan: &Plan,
    name: &str,
    git: &PlannedGit,
) -> Result<Option<Difference>, Failure> {
    let (store, access) = (Store::of(plan), context.tools().access(true, &plan.logins));
    let from = git.pinned.as_ref().and_then(|lock| lock.commit.clone());
    let mut difference = Difference { name: name.into(), from: from.clone(), ..Difference::default() };
    let unpinned = PlannedGit { pinned: None, ..git.clone() };
    let changes = store.mirrors.pin(&unpinned, access).and_then(|(_, to)| {
        difference.to = Some(to.clone());
        let from = from.filter(|from| *from != to);
        from.map(|from| store.mirrors.changes(git, &from, &to, SUBJECTS, access)).transpose()
    });
    difference.look_at(changes)?;
    Ok(Some(difference).filter(|new| new.from != new.to || new.error.is_some()))
}

fn of_folder(
    context: &CommandContext,
    store: &Store,
    name: &str,
    path: &PlannedPath,
    lock: &Lock,
) -> Option<Difference> {
    let name = name.to_owned();
    let was = lock.repositories().iter().find(|known| known.name == name && known.path.as_ref() == Some(&path.written));
    let from = was.and_then(|was| was.commit.clone());
    let now = match store.find(&name, &PlannedSource::Path(path.clone()), &context.facts.home) {
        Ok(now) => now?,
        Err(error) => return Some(Difference { name, from, error: Some(error.into()), ..Difference::default() }),
    };
    let (to, dirty) = (now.pin().commit.clone(), (was.is_some_and(|was| was.dirty), now.pin().dirty));
    let also = (dirty.0 != dirty.1).then_some(OTHER_CHANGES);
    (from != to || also.is_some()).then(|| Difference {
        name,
        from,
        to,
        also,
        dirty: Some(dirty),
        ..Difference::default()
    })
}

impl Difference {
    // Who wants to stop does not want to hear of the others either.
    fn look_at(&mut self, changes: Result<Option<Changes>, layers::GitError>) -> Result<(), Failure> {
        match changes.map_err(Failure::from) {
            Ok(changes) => self.changes = changes,
            Err(error) if error.kind() == Kind::Cancelled => return Err(error),
            Err(error) => self.error = Some(error),
        }
        Ok(())
    }
}

/// From one lock to another.
fn between(context: &CommandContext, plans: &[Plan], old: &Lock, new: &Lock) -> Result<Vec<Difference>, Failure> {
    let mut differences = hosts_between(old, new);
    let of = |lock: &Lock, one: &RepositoryPin| {
        let named = || lock.repositories().iter().filter(|known| known.name == one.name);
        // The only one of a name is that one, whatever it was asked for.
        named().find(|known| known.replaces(one)).or_else(|| named().next().filter(|_| named().count() == 1)).cloned()
    };
    let pairs = new.repositories().iter().map(|to| (of(old, to), Some(to.clone())));
    let gone = old.repositories().iter().filter(|from| of(new, from).is_none()).map(|from| (Some(from.clone()), None));
    for (from, to) in pairs.chain(gone).filter(|(from, to)| from != to) {
        differences.push(difference(context, plans, from, to)?);
    }
    Ok(differences)
}

fn difference(
    context: &CommandContext,
    plans: &[Plan],
    from: Option<RepositoryPin>,
    to: Option<RepositoryPin>,
) -> Result<Difference, Failure> {
    let commit = |lock: &Option<RepositoryPin>| lock.as_ref().and_then(|lock| lock.commit.clone());
    let (before, after) = (commit(&from), commit(&to));
    let name = from.iter().chain(&to).next().map(|lock| lock.name.clone()).unwrap_or_default();
    let url = to.as_ref().and_then(|lock| lock.git.clone());
    let mut difference = Difference { name, from: before.clone(), to: after.clone(), ..Difference::default() };
    match (&before, &after, url) {
        (Some(before), Some(after), Some(url))
            if before != after
                && let Some(plan) = plans.first() =>
        {
            // The config's own words for it, where it still has it: mirrors of the address belong to those.
            let known = plans.iter().flat_map(Plan::sources).find_map(|(_, source)| match source {
                PlannedSource::Git(git) if git.asked().git.as_ref() == Some(&url) => Some((**git).clone()),
                _ => None,
            });
            let wanted = known.unwrap_or_else(|| PlannedGit::at_commit(&url, after));
            let access = context.tools().access(true, &plan.logins);
            let changes = Store::of(plan).mirrors.changes(&wanted, before, after, SUBJECTS, access);
            difference.look_at(changes.map(Some))?;
        }
        _ => {}
    }
    let is_dirty = |lock: &Option<RepositoryPin>| lock.as_ref().is_some_and(|lock| lock.dirty);
    let is_folder = from.iter().chain(&to).any(|lock| lock.path.is_some());
    difference.dirty = is_folder.then(|| (is_dirty(&from), is_dirty(&to)));
    difference.also = from.zip(to).and_then(|(from, to)| match () {
        () if from.git != to.git || from.path != to.path => Some("from another place"),
        () if from.patches != to.patches => Some("other patches"),
        () if from.dirty != to.dirty => Some(OTHER_CHANGES),
        () if before == after => Some("asked for in other words"),
        () => None,
    });
    Ok(difference)
}

fn hosts_between(old: &Lock, new: &Lock) -> Vec<Difference> {
    let changed = |name: &&str| old.host(name) != new.host(name);
    let names: BTreeSet<&str> = old.hosts().iter().chain(new.hosts()).map(|host| host.name.as_str()).collect();
    let one = |name: &str| Difference {
        name: format!("{HOST} {name}"),
        also: Some(match (old.host(name), new.host(name)) {
            (None, _) => "new",
            (_, None) => "gone",
            _ => "another image",
        }),
        ..Difference::default()
    };
    names.into_iter().filter(changed).map(one).collect()
}

fn difference_document(difference: &Difference) -> Result<Document, Unwritable> {
    let Difference { name, from, to, changes, also, dirty, error } = difference;
    let one = |change: &Change| {
        let document = Document::default().with("commit", &change.commit)?;
        document.with("subject", &change.subject)?.with("authored", &change.authored)
    };
    let list = |commits: &[Change]| commits.iter().map(one).collect::<Result<Vec<_>, _>>();
    let changes = changes.as_ref();
    Document::default()
        .with("name", name)?
        .with("from", from)?
        .with("to", to)?
        .with("also", also)?
        .with("commits", &changes.map(|changes| list(&changes.commits)).transpose()?)?
        .with("total", &changes.map(|changes| changes.total))?
        .with("whole", &changes.map(|changes| changes.is_whole))?
        .with("rewritten", &changes.map(|changes| changes.is_rewritten))?
        .with("gone", &changes.map(|changes| list(&changes.gone)).transpose()?)?
        .with("gone_total", &changes.map(|changes| changes.gone_total))?
        .with("lost", &changes.map(|changes| changes.is_lost))?
        .with("from_dirty", &dirty.map(|(was, _)| was))?
        .with("to_dirty", &dirty.map(|(_, is)| is))?
        .with("error", &error.as_ref().map(in_one_line))
}

fn difference_lines(difference: &Difference) -> Vec<String> {
    let Difference { name, from, to, changes, also, dirty, error } = difference;
    let (was_dirty, is_dirty) = dirty.unwrap_or_default();
    let (before, after) = (at(from.as_ref(), was_dirty), at(to.as_ref(), is_dirty));
    let mut parts = Vec::new();
    if from != to || was_dirty != is_dirty {
        parts.push(format!("{before} -> {after}{}", if dirty.is_some() { " (path)" } else { "" }));
    }
    // That is told already.
    parts.extend(also.filter(|also| *also != OTHER_CHANGES).map(str::to_owned));
    if let Some(error) = error {
        parts = vec![match to {
            Some(_) => format!("{before} -> {after}, but {}", in_one_line(error)),
            None => format!("{before} -> ?: {}", in_one_line(error)),
        }];
    }
    let mut lines = vec![format!("{name:<24} {}", parts.join(", "))];
    lines.extend(changes.iter().flat_map(|changes| changes_lines(from.as_ref(), changes)));
    lines
}

fn changes_lines(from: Option<&CommitId>, changes: &Changes) -> Vec<String> {
    let mut lines = Vec::new();
    if changes.is_lost {
        lines.push(format!("  {} is not there any more: what has changed since is not known", at(from, false)));
        return lines;
    }
    if changes.is_rewritten {
        lines.push("  the new one does not come from the old one".into());
    }
    if changes.gone_total > 0 {
        lines.push("  it went back to an earlier commit; what went away:".into());
    }
    for (commits, total) in [(&changes.commits, changes.total), (&changes.gone, changes.gone_total)] {
        lines.extend(commits.iter().map(|change| format!("  {} {}", change.short(), change.subject)));
        let more = total.saturating_sub(commits.len());
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
    }
    if !changes.is_whole {
        let nothing = lines.is_empty();
        let what =
            if nothing { "what lies between is not here" } else { "and what lies further back, which is not here" };
        lines.push(format!("  {what}"));
    }
    lines
}

fn in_one_line(error: &Failure) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read_lock(path: &Path) -> Result<Lock, Failure> {
    Ok(Lock::parse(&fs::read_to_string(path).map_err(FileError::new("read", path))?)?)
}
