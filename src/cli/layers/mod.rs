//! `smidr layers`: the repositories that layers come from.

mod diff;
mod edit;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    args::{Grant, Layers},
    command_context::CommandContext,
    context::default_wanted,
    lock::{HostWanted, pin_all, repositories, repository_documents, settle},
    output::{Document, Unwritable, bytes, say, say_lines, talk},
    report::{Done, Failure},
    times::day,
};
use crate::{
    engine,
    layers::{
        self, LayerInfo, Mirror, Repository, Store,
        prune::{Keep, StoredCheckout},
    },
    model::CommitId,
    plan::{self, Domain, Plan, PlannedLayer, PlannedSource},
    project::Project,
};

/// Runs the command.
pub(super) fn layers(file: &Path, grant: &Grant, command: &Layers) -> Done {
    let context = CommandContext::open("layers")?;
    let done = match command {
        Layers::Ls { store: true, json } => store(&context, file, *json),
        Layers::Ls { store: false, json } => list(&context, file, *json),
        Layers::Edit(args) => edit::edit(&context, file, grant, args),
        Layers::Sync { json } => sync(&context, file, grant, *json),
        Layers::Diff { old, new, json } => diff::diff(&context, file, grant, (old.as_deref(), new.as_deref()), *json),
        Layers::Prune { days, dry_run, json } => prune(&context, file, grant, (*days, *dry_run), *json),
    };
    done.map(|()| ExitCode::SUCCESS)
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

fn list(context: &CommandContext, file: &Path, json: bool) -> Result<(), Failure> {
    let mut seen: Vec<Seen> = Vec::new();
    for plan in plans(context, file)? {
        let store = Store::of(&plan);
        for (name, source) in plan.sources() {
            let one = see(context, &plan, &store, name, source);
            if !seen.iter().any(|known| (&known.name, &known.line) == (&one.name, &one.line)) {
                seen.push(one);
            }
        }
    }
    let redactor = context.on.redactor();
    if json {
        Document::new().with("repositories", &seen)?.say_without(&redactor);
        return Ok(());
    }
    for seen in &seen {
        say(redactor.text(&format!("{:<24} {}", seen.name, seen.line)));
        for layer in &seen.layers {
            let name = layer.folder.file_name().unwrap_or_default().to_string_lossy();
            say(format!("  {name:<22} {}", described(layer)));
        }
        if let Some(error) = &seen.error {
            say_lines(redactor.text(&format!("  {error}")));
        }
    }
    Ok(())
}

fn see(context: &CommandContext, plan: &Plan, store: &Store, name: &str, source: &PlannedSource) -> Seen {
    let found = store.find(name, source, &context.facts.home);
    let mut line = plan::describe(source);
    let (found, mut error) = match found {
        Ok(found) => (found, None),
        Err(error) => (None, Some(error.to_string())),
    };
    match &found {
        None if error.is_none() => line.push_str(", not here:  smidr layers sync"),
        Some(Repository::Local(local)) if local.pin.commit.is_some() => {
            line.push_str(", ");
            line.push_str(&at(local.pin.commit.as_ref(), local.pin.dirty));
        }
        _ => {}
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

// Where a repository is, and whether something in it is not committed.
fn at(commit: Option<&CommitId>, dirty: bool) -> String {
    let commit = commit.map_or_else(|| "nothing".into(), CommitId::short);
    if dirty { format!("{commit} and changes") } else { commit }
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
fn store(context: &CommandContext, file: &Path, json: bool) -> Result<(), Failure> {
    let store = any_store(context, file);
    let (mirrors, checkouts) = (store.mirrors.list()?, store.checkouts.list()?);
    if json {
        let mirrors = mirrors.iter().map(mirror_document).collect::<Result<Vec<_>, Failure>>()?;
        let checkouts = checkouts.iter().map(document).collect::<Result<Vec<_>, _>>()?;
        Document::new().with("mirrors", &mirrors)?.with("checkouts", &checkouts)?.say();
        return Ok(());
    }
    for mirror in &mirrors {
        say(format!("mirror    {:>8}  {}", bytes(mirror.bytes()?), mirror.url()));
    }
    for checkout in &checkouts {
        say(line(checkout));
    }
    Ok(())
}

fn mirror_document(mirror: &Mirror) -> Result<Document, Failure> {
    let document = Document::default().with("url", mirror.url())?.with("path", mirror.path())?;
    Ok(document.with("bytes", &mirror.bytes()?)?.with("fetched", &mirror.fetched())?)
}

fn document(checkout: &StoredCheckout) -> Result<Document, Unwritable> {
    let StoredCheckout { folder, url, commit, patches, bytes, last_used, user, .. } = checkout;
    let document = Document::default().with("url", url)?.with("commit", commit)?.with("patches", patches)?;
    document.with("folder", folder)?.with("bytes", bytes)?.with("used", last_used)?.with("user", user)
}

fn line(checkout: &StoredCheckout) -> String {
    let StoredCheckout { url, commit, patches, bytes: size, last_used, user, .. } = checkout;
    let patched = if patches.is_empty() { "" } else { " and patches" };
    let used = match user {
        Some(user) => format!("in use by {user}"),
        None => format!("used {}", day(*last_used)),
    };
    format!("checkout  {:>8}  {url} {}{patched}, {used}", bytes(*size), commit.short())
}

fn sync(context: &CommandContext, file: &Path, grant: &Grant, json: bool) -> Result<(), Failure> {
    let project = Project::read(file, None, &context.facts)?;
    let before = project.lock.clone().unwrap_or_default();
    let pins = pin_all(context, &project, HostWanted::Not, grant)?;
    project.pin(pins, &context.paths, false)?;
    let after = Project::read(file, None, &context.facts)?.lock.unwrap_or_default();
    let redactor = context.on.redactor();
    if json {
        Document::new().with("repositories", &repository_documents(&before, &after))?.say_without(&redactor);
        return Ok(());
    }
    repositories(&before, &after).iter().for_each(|line| say(redactor.text(line)));
    Ok(())
}

fn prune(
    context: &CommandContext,
    file: &Path,
    grant: &Grant,
    (days, dry_run): (u64, bool),
    json: bool,
) -> Result<(), Failure> {
    let keep = Keep { used_within: Duration::from_secs(days.saturating_mul(24 * 60 * 60)), dry_run };
    // A store that the project names elsewhere is swept only with the user's leave.
    let store = match Project::read(file, None, &context.facts) {
        Ok(project) => Store::of(&settle(context, &project, &default_wanted(None), grant)?),
        Err(_) => Store::at(&context.paths.layers()),
    };
    let gone = store.checkouts.prune(keep, Timestamp::now(), &context.on, &context.stop)?;
    if json {
        let documents = |all: &[StoredCheckout]| all.iter().map(document).collect::<Result<Vec<_>, _>>();
        let mirror = |(path, bytes): &(PathBuf, u64)| Document::default().with("path", path)?.with("bytes", bytes);
        let mirrors = gone.mirrors.iter().map(mirror).collect::<Result<Vec<_>, _>>()?;
        let all = Document::new().with("dry_run", &dry_run)?.with("bytes", &gone.bytes())?;
        let all = all.with("leftovers", &gone.leftovers)?.with("checkouts", &documents(&gone.checkouts)?)?;
        all.with("mirrors", &mirrors)?.with("kept", &documents(&gone.in_use)?)?.say();
        return Ok(());
    }
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
fn plans(context: &CommandContext, file: &Path) -> Result<Vec<Plan>, Failure> {
    let project = Project::read(file, None, &context.facts)?;
    let mut plans = vec![plan_of(context, &project, None)?];
    for variant in &project.config.variants {
        plans.push(plan_of(context, &Project::read(file, Some(variant), &context.facts)?, Some(variant))?);
    }
    Ok(plans)
}

fn plan_of(context: &CommandContext, project: &Project, variant: Option<&str>) -> Result<Plan, Failure> {
    let plan =
        project.plan(&default_wanted(variant.map(str::to_owned)), &context.facts, &context.paths, &Domain::Own)?;
    context.on.hide(&engine::inputs::secrets(&plan));
    Ok(plan)
}

/// The project's store, or, without a project, the one that is usual.
fn any_store(context: &CommandContext, file: &Path) -> Store {
    let project = Project::read(file, None, &context.facts).ok();
    match project.and_then(|project| plan_of(context, &project, None).ok()) {
        Some(plan) => Store::of(&plan),
        None => Store::at(&context.paths.layers()),
    }
}
