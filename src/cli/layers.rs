//! `smidr layers`: the repositories that layers come from.

use std::{
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
    let project = Project::read(file, None, &desk.facts)?;
    let plan = plan_of(desk, &project)?;
    let store = Store::of(&plan);
    let seen: Vec<Seen> = plan.sources().map(|(name, source)| see(desk, &plan, &store, name, source)).collect();
    if json {
        let mut document = serde_json::json!({ "version": 1, "repositories": seen });
        desk.on.redactor().json(&mut document);
        say_json(&document);
        return Ok(());
    }
    let redactor = desk.on.redactor();
    for seen in &seen {
        say(redactor.text(&format!("{:<24} {}", seen.name, seen.line)));
        for layer in &seen.layers {
            let name = layer.folder.file_name().unwrap_or_default().to_string_lossy();
            say(format!("  {name:<22} {}", described(layer)));
        }
    }
    Ok(())
}

fn see(desk: &Desk, plan: &Plan, store: &Store, name: &str, source: &PlannedSource) -> Seen {
    let found = store.find(name, source, &desk.facts.home);
    let folder = found.as_ref().map(|repository| repository.folder().to_path_buf());
    let layer = plan.layers.iter().find(|layer| layer.name == name);
    let layers = match (&folder, layer) {
        (Some(folder), Some(layer)) => layers_in(folder, layer).unwrap_or_default(),
        _ => Vec::new(),
    };
    let pin = found.as_ref().map(|repository| repository.pin());
    let missing = if found.is_none() { ", not here:  smidr layers sync" } else { "" };
    Seen {
        name: name.into(),
        source: match source {
            PlannedSource::Git(git) => SeenSource::Git(git.url.clone()),
            PlannedSource::Path(path) => SeenSource::Path(path.folder.clone()),
        },
        commit: pin.and_then(|pin| pin.commit.clone()),
        dirty: pin.is_some_and(|pin| pin.dirty),
        folder,
        layers,
        line: format!("{}{missing}", plan::describe(source)),
    }
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
}

fn diff(desk: &Desk, file: &Path, old: Option<&Path>, new: Option<&Path>, json: bool) -> Result<(), NoProject> {
    let project = Project::read(file, None, &desk.facts)?;
    let plan = plan_of(desk, &project)?;
    let store = Store::of(&plan);
    let lock = |path: Option<&Path>| match path {
        Some(path) => read_lock(path),
        None => Ok(project.lock.clone().unwrap_or_default()),
    };
    let differences = match old {
        Some(old) => between(desk, &store, &plan, &lock(Some(old))?, &lock(new)?)?,
        None => since_lock(desk, &store, &plan)?,
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
fn since_lock(desk: &Desk, store: &Store, plan: &Plan) -> Result<Vec<Difference>, Failure> {
    let access = desk.tools().access(true);
    let mut differences = Vec::new();
    for (name, source) in plan.sources() {
        let PlannedSource::Git(git) = source else { continue };
        let from = git.pinned.as_ref().and_then(|lock| lock.commit.clone());
        let unpinned = PlannedGit { pinned: None, ..(**git).clone() };
        let (_, to) = store.mirrors.pin(&unpinned, access)?;
        if from.as_ref() != Some(&to) {
            let changes =
                from.as_ref().map(|from| store.mirrors.changes(git, from, &to, SUBJECTS, access)).transpose()?;
            differences.push(Difference { name: name.into(), from, to: Some(to), changes });
        }
    }
    Ok(differences)
}

/// From one lock to another.
fn between(desk: &Desk, store: &Store, plan: &Plan, old: &Lock, new: &Lock) -> Result<Vec<Difference>, Failure> {
    let access = desk.tools().access(true);
    let twin = |lock: &Lock, one: &RepositoryLock| {
        let mut named = lock.repositories().iter().filter(|known| known.name == one.name);
        let exact = lock.repositories().iter().find(|known| known.name == one.name && known.branch == one.branch);
        exact.or_else(|| named.next()).cloned()
    };
    let pairs = new.repositories().iter().map(|to| (twin(old, to), Some(to.clone())));
    let gone =
        old.repositories().iter().filter(|from| twin(new, from).is_none()).map(|from| (Some(from.clone()), None));
    let mut differences = Vec::new();
    for (from, to) in pairs.chain(gone) {
        let commit = |lock: &Option<RepositoryLock>| lock.as_ref().and_then(|lock| lock.commit.clone());
        let (before, after) = (commit(&from), commit(&to));
        let name = from.iter().chain(&to).next().map(|lock| lock.name.clone()).unwrap_or_default();
        if from.is_some() && to.is_some() && before == after {
            continue;
        }
        let url = to.as_ref().and_then(|lock| lock.git.clone());
        let changes = match (&before, &after, url) {
            (Some(before), Some(after), Some(url)) => {
                // The config's own words for it, where it still has it: mirrors of the address belong to those.
                let known = plan.sources().find_map(|(_, source)| match source {
                    PlannedSource::Git(git) if git.url == url => Some((**git).clone()),
                    _ => None,
                });
                let wanted = known.unwrap_or_else(|| PlannedGit::at_commit(&url, after));
                Some(store.mirrors.changes(&wanted, before, after, SUBJECTS, access)?)
            }
            _ => None,
        };
        differences.push(Difference { name, from: before, to: after, changes });
    }
    Ok(differences)
}

fn difference_document(difference: &Difference) -> serde_json::Value {
    let Difference { name, from, to, changes } = difference;
    let commits = |changes: &Changes| -> Vec<_> {
        let one = |change: &layers::Change| serde_json::json!({ "commit": change.commit, "subject": change.subject, "authored": change.authored });
        changes.commits.iter().map(one).collect()
    };
    serde_json::json!({
        "name": name, "from": from, "to": to,
        "commits": changes.as_ref().map(commits), "total": changes.as_ref().map(|changes| changes.total),
        "whole": changes.as_ref().map(|changes| changes.is_whole),
        "rewritten": changes.as_ref().map(|changes| changes.is_rewritten),
    })
}

fn difference_lines(difference: &Difference) -> Vec<String> {
    let short = |commit: &Option<CommitId>| commit.as_ref().map_or_else(|| "nothing".into(), CommitId::short);
    let mut lines = vec![format!("{:<24} {} -> {}", difference.name, short(&difference.from), short(&difference.to))];
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
