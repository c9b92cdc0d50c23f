//! `smidr lock`: pins the build host and all layers, of the config and of each of its variants.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    args::{self, Grant},
    command_context::CommandContext,
    context::default_wanted,
    kas::kas,
    local,
    output::{Document, Unwritable, say, talk},
    report::{Done, Failure, Refused, placed},
    trust,
};
use crate::{
    bitbake_setup::fixed_revisions,
    config::{BITBAKE, Config, HOST, conflict, nearest},
    engine,
    lock::{HostPin, Lock, PatchPin, Pins, RepositoryPin, lock_path},
    model::{BuildRequest, CommitId, Digest, Hint},
    plan::Plan,
    project::{KasFiles, KasRead, Project, SetupFiles, SetupRead, Sources, is_kas, is_setup},
    system::files::{FileError, shell, write_atomically},
};

/// Runs the command.
pub(super) fn lock(file: &Path, grant: &Grant, args: &args::Lock) -> Done {
    // First, since what they pin is part of the config.
    if args.kas {
        let update = args.update.as_ref().map(|_| "--update".to_owned());
        let words = ["lock".to_owned()].into_iter().chain(update).chain([file.display().to_string()]);
        if kas(grant, words.collect()) != ExitCode::SUCCESS {
            return Err(Refused::new("the lock files of kas are not written", None).into());
        }
    }
    let context = CommandContext::open("lock")?;
    let (mut project, had_conflict) = open(file, &context)?;
    if let (Some(_), false, Some(lock)) = (&args.update, args.kas, kas_lock_of(file, &context)?) {
        let moved = format!("smidr lock --update --kas -c {}", shell(file));
        talk(format!("warning: {} pins commits, which stay as they are; to move them:  {moved}", lock.display()));
    }
    let before = project.lock.clone().unwrap_or_default();
    let mut lock = before.clone();
    // What is to be pinned anew; no name is everything.
    let mut wanted = args.update.clone();
    let mut fresh_host = wanted.is_some();
    if let Some(names) = &mut wanted {
        if names.is_empty() && !args.layers && !args.host {
            lock = Lock::default();
        } else {
            let known = all_names(file, &project, &context)?;
            names.extend(known.iter().filter(|_| args.layers).cloned());
            names.extend(args.host.then(|| HOST.to_owned()));
            fresh_host = forget(&mut lock, names, &known)?;
        }
    }
    project.lock = Some(lock);
    let host = if fresh_host { HostWanted::Fresh } else { HostWanted::Pinned };
    let pins = pin_all(&context, &project, host, grant)?;
    let alone = project.alone(&context.paths)?;
    let mut lock = project.lock.clone().unwrap_or_default();
    lock.forget_folders();
    let asked = pins.clone();
    lock.pin(pins);
    lock.keep(&asked);
    lock.config = project.digest_in_lock().cloned();
    if lock != before || had_conflict {
        project.write_lock(&lock)?;
    }
    let redactor = context.on.redactor();
    drop(alone);
    if args.bitbake_setup {
        write_fixed_revisions(file, &lock, &context)?;
    }
    let own = lock_own(file, &context, grant, &wanted)?;
    if args.json {
        let local = own.as_ref().map(|own| own.document()).transpose()?;
        own_document(Document::new(), &before, &lock)?.with("local", &local)?.say_without(&redactor);
        return Ok(ExitCode::SUCCESS);
    }
    summary(&before, &lock).iter().for_each(|line| say(redactor.text(line)));
    if let Some(own) = own.filter(|own| !own.lock.is_empty()) {
        talk(format!("{}, for what only it asks:", own.used));
        summary(&own.before, &own.lock).iter().for_each(|line| say(redactor.text(line)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A lock file of kas that counts.
fn kas_lock_of(file: &Path, context: &CommandContext) -> Result<Option<PathBuf>, Failure> {
    if !is_kas(file) {
        return Ok(None);
    }
    let KasRead::Whole(whole) = KasFiles::of(file, &context.facts)?.read(&context.facts)? else { return Ok(None) };
    Ok(whole.merged.files.iter().find(|loaded| loaded.is_lock).map(|loaded| loaded.path.clone()))
}

/// Writes what bitbake-setup calls its fixed revisions: a file that it takes for `--source-overrides`.
fn write_fixed_revisions(file: &Path, lock: &Lock, context: &CommandContext) -> Result<(), Failure> {
    if !is_setup(file) {
        return Err(Refused::new(format!("{} is no configuration of bitbake-setup", file.display()), None).into());
    }
    let files = SetupFiles::of(file)?;
    let SetupRead::Whole(whole) = files.read(&context.facts)? else { return Ok(()) };
    let commits = lock.repositories().iter().filter_map(|pin| Some((pin.name.as_str(), pin.commit.clone()?))).collect();
    let text = fixed_revisions(&whole.document.sources, &commits);
    let beside = files.file.parent().unwrap_or(Path::new("/"));
    let folder = beside.join(&whole.setup.folder).join("config");
    std::fs::create_dir_all(&folder).map_err(FileError::new("make the folder", &folder))?;
    let path = folder.join("sources-fixed-revisions.json");
    write_atomically(&path, text.as_bytes(), 0o644)?;
    talk(format!("written    {}", path.display()));
    Ok(())
}

/// What the user's own file is pinned to.
struct Own {
    used: String,
    before: Lock,
    lock: Lock,
}

impl Own {
    fn document(&self) -> Result<Document, Unwritable> {
        own_document(Document::default(), &self.before, &self.lock)
    }
}

fn own_document(document: Document, before: &Lock, lock: &Lock) -> Result<Document, Unwritable> {
    let hosts: Vec<PinnedHost<'_>> = lock.hosts().iter().map(|host| PinnedHost::of(before, host)).collect();
    document.with("hosts", &hosts)?.with("repositories", &repository_documents(before, lock))
}

/// Pins what only the user's own file asks for, where there is one. Of `wanted` see [`lock`].
fn lock_own(
    file: &Path,
    context: &CommandContext,
    grant: &Grant,
    wanted: &Option<Vec<String>>,
) -> Result<Option<Own>, Failure> {
    let mut project = Project::read(file, None, &context.facts)?;
    let Some(local) = &project.local else { return Ok(None) };
    let before = local.lock.clone().unwrap_or_default();
    let mut kept = before.clone();
    match wanted {
        None => {}
        Some(names) if names.is_empty() => kept = Lock::default(),
        Some(names) => kept.forget(&names.iter().map(String::as_str).collect::<Vec<_>>()),
    }
    let committed = Sources::read(file, &context.facts)?.committed();
    let committed = Project::of(committed, None, &context.facts)?.lock.unwrap_or_default();
    project.lock = Some(committed.with(&kept));
    let (_, own) = local.divide(pin_all(context, &project, HostWanted::Pinned, grant)?);
    let lock = Lock::of(own);
    let _alone = project.alone(&context.paths)?;
    if lock != before {
        project.write_local_lock(&lock)?;
    }
    Ok(Some(Own { used: local::used(local, &project.file), before, lock }))
}

/// The project as it is committed, and whether its lock is what both sides of an open merge pin alike.
fn open(file: &Path, context: &CommandContext) -> Result<(Project, bool), Failure> {
    let mut sources = Sources::read(file, &context.facts)?.committed();
    let Some(text) = sources.lock.take_if(|text| conflict(text).is_some()) else {
        return Ok((Project::of(sources, None, &context.facts)?, false));
    };
    let merged = Lock::merged(&text);
    let (lock, left_out) =
        merged.map_err(|error| if lock_path(&sources.file).is_symlink() { error.unquoted() } else { error })?;
    let mut project = Project::of(sources, None, &context.facts)?;
    project.lock = Some(lock);
    talk("smidr.lock had a merge conflict: what both sides pin alike stays");
    left_out.iter().for_each(|name| talk(format!("pinned differently by the two sides, so to what it is now: {name}")));
    Ok((project, true))
}

/// The project with one of its variants.
fn with_variant(context: &CommandContext, project: &Project, variant: &str) -> Result<Project, Failure> {
    let of_variant = Project::of(project.sources.clone(), Some(variant), &context.facts)?;
    Ok(Project { lock: project.lock.clone(), ..of_variant })
}

/// Forgets what is to be pinned anew, which the config or one of its variants has, or the lock. Says whether the build host is among it.
fn forget(lock: &mut Lock, names: &[String], config: &[String]) -> Result<bool, Failure> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let pinned = lock.repositories().iter().map(|known| known.name.clone());
    let mut known: Vec<String> = config.iter().cloned().chain(pinned).chain([HOST.into()]).collect();
    known.sort();
    known.dedup();
    let unknown: Vec<&str> = names.iter().copied().filter(|name| !known.iter().any(|known| known == name)).collect();
    if let Some(first) = unknown.first() {
        let hint = match nearest(first, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", known.join(", ")),
        };
        let all = unknown.join("`, `");
        return Err(Refused::new(format!("neither smidr.yaml nor smidr.lock has `{all}`"), [Hint::new(hint)]).into());
    }
    lock.forget(&names);
    Ok(names.contains(&HOST))
}

/// What the config, the user's own file and all variants call what is pinned.
fn all_names(file: &Path, project: &Project, context: &CommandContext) -> Result<Vec<String>, Failure> {
    let mut all = names(project, context)?;
    if Sources::read(file, &context.facts)?.texts.local.is_some() {
        all.extend(names(&Project::read(file, None, &context.facts)?, context)?);
    }
    Ok(all)
}

/// What the config and its variants call what is pinned.
fn names(project: &Project, context: &CommandContext) -> Result<Vec<String>, Failure> {
    let of = |config: &Config| {
        let bitbake = config.bitbake.as_ref().map(|_| BITBAKE.to_owned());
        config.layers.iter().map(|layer| layer.name.text.clone()).chain(bitbake).collect::<Vec<_>>()
    };
    let mut names = of(&project.config);
    for variant in &project.config.variants {
        names.extend(of(&with_variant(context, project, variant)?.config));
    }
    Ok(names)
}

/// What is wanted of the build host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HostWanted {
    /// Only layers are.
    Not,
    /// What the lock has, or what is here.
    Pinned,
    /// Whatever it is now.
    Fresh,
}

/// What the config and each of its variants are to be pinned to.
pub(super) fn pin_all(
    context: &CommandContext,
    project: &Project,
    host: HostWanted,
    grant: &Grant,
) -> Result<Pins, Failure> {
    // What is wrong with one of them is said before anything long begins.
    for variant in &project.config.variants {
        settle(context, &with_variant(context, project, variant)?, &wanted(variant), grant)?;
    }
    let mut all = pin_one(context, project, default_wanted(None), host, grant)?;
    for variant in &project.config.variants {
        let mut variant_project = with_variant(context, project, variant)?;
        variant_project.lock.get_or_insert_default().pin(all.clone());
        let pins = pin_one(context, &variant_project, wanted(variant), host, grant)?;
        all.repositories.extend(pins.repositories);
        all.hosts.extend(pins.hosts);
    }
    Ok(all)
}

fn wanted(variant: &str) -> BuildRequest {
    default_wanted(Some(variant.to_owned()))
}

/// The plan of a project that may do what it asks for.
pub(super) fn settle(
    context: &CommandContext,
    project: &Project,
    wanted: &BuildRequest,
    grant: &Grant,
) -> Result<Plan, Failure> {
    Ok(trust::settle(
        project,
        wanted,
        &context.facts,
        &context.paths,
        &trust::given(&context.facts, grant),
        &context.stop,
    )?
    .plan)
}

fn pin_one(
    context: &CommandContext,
    project: &Project,
    wanted: BuildRequest,
    host: HostWanted,
    grant: &Grant,
) -> Result<Pins, Failure> {
    let plan = settle(context, project, &wanted, grant)?;
    context.on.hide(&engine::inputs::secrets(&plan));
    let pins = match host {
        HostWanted::Not => engine::layers(&plan, context.tools())
            .map(|checkouts| Pins { hosts: Vec::new(), repositories: checkouts.pins }),
        host => {
            let known = project.host_lock(&plan);
            // What is asked for anew is not in the lock any more, unless the config before has brought it.
            let fresh = host == HostWanted::Fresh && known.is_none();
            engine::pin(&plan, known, fresh, context.tools())
        }
    };
    pins.map_err(|error| placed(error, project, &wanted, &context.facts, &context.paths))
}

/// A line for everything that is pinned.
fn summary(before: &Lock, after: &Lock) -> Vec<String> {
    let mut lines = Vec::new();
    for PinnedHost { host, was } in after.hosts().iter().map(|host| PinnedHost::of(before, host)) {
        let was = was.map(|old| format!(", was {}", old.short())).unwrap_or_default();
        lines.push(format!("{HOST:<24} {} {}{was}", host.name, host.image.short()));
    }
    lines.extend(repositories(before, after));
    lines
}

/// A line for each repository.
pub(super) fn repositories(before: &Lock, after: &Lock) -> Vec<String> {
    let line = |new: &RepositoryPin| format!("{:<24} {}{}", new.name, describe(new), was(before_it(before, new), new));
    after.repositories().iter().map(line).collect()
}

fn before_it<'a>(before: &'a Lock, new: &RepositoryPin) -> Option<&'a RepositoryPin> {
    let named = || before.repositories().iter().filter(|old| old.name == new.name && old.branch == new.branch);
    named().find(|old| old.replaces(new)).or_else(|| named().next())
}

/// A build host as it is pinned now, for scripts.
#[derive(Serialize)]
struct PinnedHost<'a> {
    #[serde(flatten)]
    host: &'a HostPin,
    // The image before, where that was another.
    was: Option<&'a Digest>,
}

impl<'a> PinnedHost<'a> {
    fn of(before: &'a Lock, host: &'a HostPin) -> Self {
        let was = before.host(&host.name).map(|old| &old.image).filter(|old| **old != host.image);
        Self { host, was }
    }
}

/// A repository as it is pinned now, for scripts.
#[derive(Serialize)]
pub(super) struct PinnedRepository<'a> {
    name: &'a str,
    git: Option<&'a str>,
    path: Option<&'a str>,
    branch: Option<&'a str>,
    tag: Option<&'a str>,
    commit: Option<&'a CommitId>,
    dirty: bool,
    patches: &'a [PatchPin],
    // Whether no pin was there before.
    new: bool,
    // The commit before, where that was another.
    was: Option<&'a CommitId>,
}

/// A document for each repository.
pub(super) fn repository_documents<'a>(before: &'a Lock, after: &'a Lock) -> Vec<PinnedRepository<'a>> {
    let document = |new: &'a RepositoryPin| {
        let old = before_it(before, new);
        PinnedRepository {
            name: &new.name,
            git: new.git.as_deref(),
            path: new.path.as_deref(),
            branch: new.branch.as_deref(),
            tag: new.tag.as_deref(),
            commit: new.commit.as_ref(),
            dirty: new.dirty,
            patches: &new.patches,
            new: old.is_none(),
            was: old.and_then(|old| old.commit.as_ref()).filter(|old| Some(*old) != new.commit.as_ref()),
        }
    };
    after.repositories().iter().map(document).collect()
}

fn describe(lock: &RepositoryPin) -> String {
    let commit = lock.commit.as_ref().map_or_else(|| "no commit".into(), CommitId::short);
    let reference = lock.tag.iter().chain(&lock.branch).next().map(|name| format!("{name} ")).unwrap_or_default();
    let patches = match lock.patches.len() {
        0 => String::new(),
        1 => " and 1 patch".into(),
        count => format!(" and {count} patches"),
    };
    let dirty = if lock.dirty { " and changes" } else { "" };
    let kind = if lock.path.is_some() { "path, " } else { "" };
    format!("{kind}{reference}{commit}{patches}{dirty}")
}

fn was(old: Option<&RepositoryPin>, new: &RepositoryPin) -> String {
    match old {
        None => ", new".into(),
        Some(old) if old.commit != new.commit => {
            format!(", was {}", old.commit.as_ref().map_or_else(|| "no commit".into(), CommitId::short))
        }
        Some(old) if old.patches != new.patches => ", other patches".into(),
        Some(_) => String::new(),
    }
}
