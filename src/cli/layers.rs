//! `smidr layers`: the repositories that layers come from.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    args::Layers,
    context::{NoProject, Project, default_wanted},
    desk::Desk,
    lock::{HostWanted, pin_all, repositories},
    output::{bytes, say, say_json, talk},
    report::{Done, Failure},
};
use crate::{
    config::HOST,
    engine,
    host::files::FileError,
    layers::{
        self, Changes, LayerInfo, Store,
        prune::{Keep, StoredCheckout},
    },
    lock::{Lock, RepositoryLock},
    model::CommitId,
    plan::{self, Plan, PlannedGit, PlannedLayer, PlannedSource},
};

/// Subjects of commits that are shown of one repository.
const SUBJECTS: usize = 50;

/// Runs the command.
pub fn layers(file: &Path, command: &Layers) -> Done {
    let desk = Desk::open("layers")?;
    let done = match command {
        Layers::Ls { store: true, json } => store(&desk, file, *json),
        Layers::Ls { store: false, json } => list(&desk, file, *json),
        Layers::Sync => sync(&desk, file),
        Layers::Diff { old, new, json } => diff(&desk, file, old.as_deref(), new.as_deref(), *json),
        Layers::Prune { days, dry_run } => prune(&desk, file, *days, *dry_run),
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(no_project) => no_project.report(),
    }
}

/// A repository of a project, as far as it is here.
#[derive(Serialize)]
struct Seen {
    name: String,
    #[serde(flatten)]
    source: SeenSource,
    commit: Option<CommitId>,
    dirty: bool,
    folder: Option<PathBuf>,
    layers: Vec<LayerInfo>,
    // Why its layers are not known, though it is here.
    error: Option<String>,
    #[serde(skip)]
    line: String,
}

/// Where a repository comes from.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum SeenSource {
    Git(String),
    Path(PathBuf),
}

fn list(desk: &Desk, file: &Path, json: bool) -> Result<(), NoProject> {
    let mut seen: Vec<Seen> = Vec::new();
    for plan in plans(desk, file)? {
        let store = Store::of(&plan);
        for (name, source) in plan.sources() {
            let one = see(desk, &plan, &store, name, source);
            if !seen.iter().any(|known| (&known.name, &known.line) == (&one.name, &one.line)) {
                seen.push(one);
            }
        }
    }
    let redactor = desk.on.redactor();
    if json {
        let mut document = serde_json::json!({ "version": 1, "repositories": seen });
        redactor.json(&mut document);
        say_json(&document);
        return Ok(());
    }
    for seen in &seen {
        say(redactor.text(&format!("{:<24} {}", seen.name, seen.line)));
        for layer in &seen.layers {
            let name = layer.folder.file_name().unwrap_or_default().to_string_lossy();
            say(format!("  {name:<22} {}", described(layer)));
        }
        if let Some(error) = &seen.error {
            say(redactor.text(&format!("  {error}")));
        }
    }
    Ok(())
}

fn see(desk: &Desk, plan: &Plan, store: &Store, name: &str, source: &PlannedSource) -> Seen {
    let found = store.find(name, source, &desk.facts.home);
    let mut line = plan::describe(source);
    let (found, mut error) = match found {
        Ok(found) => (found, None),
        Err(error) => (None, Some(error.to_string())),
    };
    if found.is_none() && error.is_none() {
        line.push_str(", not here:  smidr layers sync");
    }
    let folder = found.as_ref().map(|repository| repository.folder().to_path_buf());
    let layer = plan.layers.iter().find(|layer| layer.name == name);
    let layers = match (&folder, layer) {
        (Some(folder), Some(layer)) => layers_in(folder, layer).unwrap_or_else(|failure| {
            error = Some(failure.to_string());
            Vec::new()
        }),
        _ => Vec::new(),
    };
    let (commit, source) = match source {
        PlannedSource::Git(git) => {
            (git.pinned.as_ref().and_then(|pin| pin.commit.clone()), SeenSource::Git(git.url.clone()))
        }
        PlannedSource::Path(path) => {
            let commit = found.as_ref().and_then(|repository| repository.pin().commit.clone());
            (commit, SeenSource::Path(path.folder.clone()))
        }
    };
    let dirty = found.as_ref().is_some_and(|repository| repository.pin().dirty);
    Seen { name: name.into(), source, commit, dirty, folder, layers, error, line }
}

fn layers_in(folder: &Path, layer: &PlannedLayer) -> Result<Vec<LayerInfo>, Failure> {
    Ok(layers::look(&layers::discover(folder, layer)?)?)
}

fn described(layer: &LayerInfo) -> String {
    let collection = layer.collection.as_deref().unwrap_or("no collection");
    let priority = layer.priority.map(|priority| format!(", priority {priority}")).unwrap_or_default();
    let series = if layer.series.is_empty() { String::new() } else { format!(", for {}", layer.series.join(" ")) };
    format!("{collection}{priority}{series}")
}

/// Everything in the store, whatever project it belongs to.
fn store(desk: &Desk, file: &Path, json: bool) -> Result<(), NoProject> {
    let store = any_store(desk, file);
    let mut mirrors = Vec::new();
    for mirror in store.mirrors.list()? {
        mirrors.push(serde_json::json!({
            "url": mirror.url(), "path": mirror.path(), "bytes": mirror.bytes()?, "fetched": mirror.fetched(),
        }));
    }
    let checkouts = store.checkouts.list()?;
    if json {
        let checkouts: Vec<_> = checkouts.iter().map(document).collect();
        say_json(&serde_json::json!({ "version": 1, "mirrors": mirrors, "checkouts": checkouts }));
        return Ok(());
    }
    for mirror in &mirrors {
        let size = bytes(mirror["bytes"].as_u64().unwrap_or_default());
        say(format!("mirror    {size:>8}  {}", mirror["url"].as_str().unwrap_or_default()));
    }
    for checkout in &checkouts {
        say(line(checkout));
    }
    Ok(())
}

fn document(checkout: &StoredCheckout) -> serde_json::Value {
    let StoredCheckout { folder, url, commit, patches, bytes, last_used, user, .. } = checkout;
    serde_json::json!({
        "url": url, "commit": commit, "patches": patches, "folder": folder, "bytes": bytes, "used": last_used, "user": user,
    })
}

fn line(checkout: &StoredCheckout) -> String {
    let StoredCheckout { url, commit, patches, bytes: size, last_used, user, .. } = checkout;
    let patched = if patches.is_empty() { "" } else { " and patches" };
    let used = match user {
        Some(user) => format!("in use by {user}"),
        None => format!("used {}", last_used.strftime("%F")),
    };
    format!("checkout  {:>8}  {url} {}{patched}, {used}", bytes(*size), commit.short())
}

fn sync(desk: &Desk, file: &Path) -> Result<(), NoProject> {
    let project = Project::read(file, None, &desk.facts)?;
    let before = project.lock.clone().unwrap_or_default();
    let pins = pin_all(desk, file, &project, HostWanted::Not)?;
    project.pin(pins, &desk.paths, false)?;
    let after = Project::read(file, None, &desk.facts)?.lock.unwrap_or_default();
    let redactor = desk.on.redactor();
    repositories(&before, &after).iter().for_each(|line| say(redactor.text(line)));
    Ok(())
}

/// How one repository differs.
struct Difference {
    name: String,
    from: Option<CommitId>,
    to: Option<CommitId>,
    changes: Option<Changes>,
    // What else is different.
    also: Option<&'static str>,
}

fn diff(desk: &Desk, file: &Path, old: Option<&Path>, new: Option<&Path>, json: bool) -> Result<(), NoProject> {
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

fn prune(desk: &Desk, file: &Path, days: u64, dry_run: bool) -> Result<(), NoProject> {
    let keep = Keep { used_within: Duration::from_secs(days.saturating_mul(24 * 60 * 60)), dry_run };
    let gone = any_store(desk, file).checkouts.prune(keep, Timestamp::now(), &desk.on, &desk.stop)?;
    gone.checkouts.iter().for_each(|checkout| say(line(checkout)));
    for (mirror, size) in &gone.mirrors {
        say(format!("mirror    {:>8}  {}", bytes(*size), mirror.display()));
    }
    for checkout in &gone.in_use {
        talk(format!("kept: {}", line(checkout)));
    }
    let what = if dry_run { "would free" } else { "freed" };
    talk(format!("{what} {}", bytes(gone.bytes())));
    Ok(())
}

/// The plans of a config and of all its variants.
fn plans(desk: &Desk, file: &Path) -> Result<Vec<Plan>, NoProject> {
    let project = Project::read(file, None, &desk.facts)?;
    let mut plans = vec![plan_of(desk, &project)?];
    for variant in &project.config.variants {
        let wanted = default_wanted(Some(variant.text.clone()));
        plans.push(Project::read(file, Some(variant), &desk.facts)?.plan(&wanted, &desk.facts, &desk.paths)?);
    }
    Ok(plans)
}

fn plan_of(desk: &Desk, project: &Project) -> Result<Plan, Failure> {
    let plan = project.plan(&default_wanted(None), &desk.facts, &desk.paths)?;
    desk.on.hide(engine::inputs::redactor(&plan));
    Ok(plan)
}

/// The project's store, or, without a project, the one that is usual.
fn any_store(desk: &Desk, file: &Path) -> Store {
    let project = Project::read(file, None, &desk.facts).ok();
    match project.and_then(|project| plan_of(desk, &project).ok()) {
        Some(plan) => Store::of(&plan),
        None => Store::at(&desk.paths.layers()),
    }
}

fn read_lock(path: &Path) -> Result<Lock, Failure> {
    Ok(Lock::parse(&fs::read_to_string(path).map_err(FileError::new("read", path))?)?)
}
