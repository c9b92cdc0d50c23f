//! `smidr layers edit`: a working copy of a git layer takes the layer's place in the user's own file, until it is given back. Removes nothing but
//! that entry, and the lock's pins of it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use super::super::{
    args::{Grant, LayersEdit},
    command_context::CommandContext,
    context::default_wanted,
    local,
    lock::settle,
    output::{say, talk},
    report::{Failure, Refused},
    trust,
};
use crate::{
    config::{self, Layer, Source, Texts, edit as text, local_path, nearest},
    engine,
    layers::{
        Access, Store,
        edit::{self, BRANCH, EditError, Original, Work},
        read_patches, would_commit,
    },
    model::{Ask, Hint, SystemFacts},
    plan::{PlannedGit, PlannedSource},
    project::Project,
    system::files::{FileError, shell, write_atomically},
};

/// How a file begins that is written here.
const HEADER: &str = "# Yours alone: laid over the config beside it, and not committed.\n";

/// Subjects of commits that are shown.
const SUBJECTS: usize = 50;

/// Runs the command.
pub(super) fn edit(context: &CommandContext, file: &Path, grant: &Grant, args: &LayersEdit) -> Result<(), Failure> {
    if args.done { give_back(context, file, args) } else { begin(context, file, grant, args) }
}

fn begin(context: &CommandContext, file: &Path, grant: &Grant, args: &LayersEdit) -> Result<(), Failure> {
    let project = Project::read(file, None, &context.facts)?;
    let own = local_path(&project.file);
    if is_entered(&project, &args.name) {
        let done = format!("smidr layers edit {} --done", word(&args.name));
        let hints = [Hint::command("where it is", "smidr layers ls"), Hint::command("to give it back", done)];
        return Err(Refused::new(format!("{} has the layer `{}` already", shell(&own), args.name), hints).into());
    }
    let plan = settle(context, &project, &default_wanted(None), grant)?;
    context.on.hide(&engine::inputs::secrets(&plan));
    let layer = layer_of(&project, &args.name)?;
    let planned = plan.layers.iter().find(|layer| layer.name == args.name).map(|layer| &layer.source);
    let Some(PlannedSource::Git(git)) = planned else { return Err(unknown(&project, &args.name)) };
    let into = place(&project, args)?;
    let access = context.tools().access(true, &plan.logins);
    if into.symlink_metadata().is_ok() {
        let work = edit::look(&into, access)?;
        talk(format!("{} is there already, at {}, and is taken up again", shell(&into), work.head.short()));
    } else {
        copy(git, &Store::of(&plan), &into, access)?;
    }
    let into = real(&into);
    enter(&project, layer, &into, &context.facts)?;
    // The user has just said that the layer is to be read from there.
    let project = Project::read(file, None, &context.facts)?;
    let judged = trust::judge(&project, &default_wanted(None), &context.facts, &context.paths, &Default::default())?;
    let caused = |ask: &&Ask| matches!(ask, Ask::Outside { path, .. } if *path == into);
    let asks: Vec<Ask> = judged.refused.iter().filter(caused).cloned().collect();
    trust::keep(&project, &judged.plan, &asks, &context.paths)?;
    say(into.display().to_string());
    talk(format!("builds use it from now on; when it is done:  smidr layers edit {} --done", word(&args.name)));
    let (_, warning) = local::lines(&project, &context.facts.home);
    warning.into_iter().for_each(|warning| talk(format!("warning: {warning}")));
    if would_commit(&into, &context.facts.home) {
        let ignore = project.file.with_file_name(".gitignore");
        let inside = into.strip_prefix(project.file.parent().unwrap_or(&into)).unwrap_or(&into);
        talk(format!(
            "git sees it in the project; to leave it out:  echo '/{}' >> {}",
            inside.display(),
            shell(&ignore)
        ));
    }
    Ok(())
}

/// Makes the working copy.
fn copy(git: &PlannedGit, store: &Store, into: &Path, access: Access<'_>) -> Result<(), Failure> {
    let patches = read_patches(git)?;
    let (mirror, commit) = store.mirrors.pin(git, access)?;
    let original =
        Original { url: &git.url, mirror: mirror.path(), commit: &commit, patches: &patches, branch: Some(BRANCH) };
    let submodules = edit::copy(&original, into, access)?;
    let on_top = match patches.len() {
        0 => String::new(),
        1 => ", with the patch of the config as a commit".into(),
        count => format!(", with the {count} patches of the config as commits"),
    };
    talk(format!("a copy of {} at {}{on_top}, on the branch {BRANCH}", mirror.url(), commit.short()));
    if !submodules.is_empty() {
        let names: Vec<String> = submodules.iter().map(|path| path.display().to_string()).collect();
        talk(format!(
            "warning: submodules stay empty ({}); to bring them:  git -C {} submodule update --init --recursive",
            names.join(", "),
            shell(into)
        ));
    }
    Ok(())
}

/// Whether the user's own file has an entry for a layer.
fn is_entered(project: &Project, name: &str) -> bool {
    let key = format!("layers.{name}");
    project.local.iter().any(|local| local.keys.contains(&key))
}

fn layer_of<'p>(project: &'p Project, name: &str) -> Result<&'p Layer, Failure> {
    let found = project.config.layers.iter().find(|layer| layer.name.text == name);
    match found.map(|layer| (layer, &layer.source)) {
        Some((layer, Source::Git(_))) => Ok(layer),
        Some((_, Source::Path(path))) => {
            let hint = Hint::command("builds read it there as it is", "smidr shell");
            Err(Refused::new(format!("`{name}` is a folder of this machine already: {path}"), [hint]).into())
        }
        None => Err(unknown(project, name)),
    }
}

fn unknown(project: &Project, name: &str) -> Failure {
    let is_git = |layer: &&Layer| matches!(layer.source, Source::Git(_));
    let names: Vec<&str> = project.config.layers.iter().filter(is_git).map(|layer| layer.name.text.as_str()).collect();
    let hint = match (nearest(name, names.iter().copied()), names.is_empty()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, true) => "it has no layers from git".into(),
        (None, false) => format!("its layers from git: {}", names.join(", ")),
    };
    Refused::new(format!("{} has no layer `{name}` outside of variants", project.file.display()), [Hint::new(hint)])
        .into()
}

/// Where the working copy is, or is to be.
fn place(project: &Project, args: &LayersEdit) -> Result<PathBuf, Failure> {
    if let Some(into) = &args.into {
        return Ok(std::path::absolute(into).map_err(FileError::new("find", into))?);
    }
    let mut parts = Path::new(&args.name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) => {
            Ok(project.file.parent().unwrap_or(Path::new("/")).join("layers").join(name))
        }
        _ => {
            let hint = Hint::command("name one", format!("smidr layers edit {} --into DIR", word(&args.name)));
            Err(Refused::new(format!("`{}` cannot name a folder", args.name), [hint]).into())
        }
    }
}

/// A path as the config has it.
fn written(project: &Project, path: &Path) -> String {
    let root = project.file.parent().unwrap_or(Path::new("/"));
    let inside = path.strip_prefix(root).map(|inside| Path::new(".").join(inside));
    inside.unwrap_or_else(|_| path.into()).display().to_string()
}

/// Enters the working copy into the user's own file.
fn enter(project: &Project, layer: &Layer, into: &Path, facts: &SystemFacts) -> Result<(), Failure> {
    let own = local_path(&project.file);
    let path = written(project, into);
    let before = project.sources.texts.local.clone();
    let is_right = |new: &String| {
        let texts = Texts { local: Some(new.clone()), ..project.sources.texts.clone() };
        let (config, problems) = config::examine(&texts, None, &|name| facts.variable(name));
        let same = |new: &Layer| {
            let texts = |texts: &[config::Text]| texts.iter().map(|text| text.text.clone()).collect::<Vec<_>>();
            texts(&new.include) == texts(&layer.include)
                && texts(&new.exclude) == texts(&layer.exclude)
                && new.ignore_series == layer.ignore_series
                && matches!(&new.source, Source::Path(written) if written.text == path)
        };
        problems.is_empty()
            && config.is_some_and(|config| config.layers.iter().any(|new| *new.name == *layer.name && same(new)))
    };
    let below = before.unwrap_or_else(|| HEADER.into());
    // One that only a provider has is replaced as a whole.
    let entries = [text::layer(&layer.name, &path), text::layer_like(layer, &path)];
    let new = entries.iter().filter_map(|entry| text::add(&below, std::slice::from_ref(entry), &[])).find(is_right);
    match new {
        Some(new) => Ok(write(&own, &new)?),
        None => {
            let what = format!("{} is there, and smidr cannot edit {} the way it is written", shell(into), shell(&own));
            Err(Refused::new(what, [Hint::config("write it yourself", format!("layers:\n  - {}", entries[0]))]).into())
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_or(0o644, |data| data.permissions().mode() & 0o777);
    write_atomically(path, text.as_bytes(), mode)
}

/// Gives a layer back, and says what has been done in its working copy.
fn give_back(context: &CommandContext, file: &Path, args: &LayersEdit) -> Result<(), Failure> {
    let project = Project::read(file, None, &context.facts)?;
    let entered = is_entered(&project, &args.name).then(|| {
        let layer = project.config.layers.iter().find(|layer| layer.name.text == args.name);
        layer.and_then(|layer| match &layer.source {
            Source::Path(path) => Some(real(&project.file.parent()?.join(&path.text))),
            Source::Git(_) => None,
        })
    });
    let folder = match entered.clone().flatten() {
        Some(folder) if args.into.is_none() => folder,
        _ => place(&project, args)?,
    };
    if entered.is_none() && folder.symlink_metadata().is_err() {
        return Err(Refused::new(
            format!("`{}` is not being edited", args.name),
            [Hint::command("the layers, and where they are", "smidr layers ls")],
        )
        .into());
    }
    let logins = Default::default();
    let access = context.tools().access(false, &logins);
    // What cannot be looked at can still be given back.
    let work = folder.symlink_metadata().is_ok().then(|| edit::look(&folder, access)).transpose();
    let patches = match (&work, &args.patch) {
        (Ok(Some(_)), Some(into)) => {
            let into = std::path::absolute(into).map_err(FileError::new("find", into))?;
            edit::write_patches(&folder, &into, access)?.iter().map(|path| real(path)).collect()
        }
        (Err(_), Some(_)) => return work.map(drop).map_err(Into::into),
        _ => Vec::new(),
    };
    if entered.is_some() {
        leave(&project, &args.name)?;
        talk(format!("builds use the pinned `{}` again; {} stays as it is", args.name, shell(&folder)));
    }
    match work {
        Ok(Some(work)) => tell(&project, args, &folder, &work, &patches),
        // A folder that the user has entered: nothing is known of it.
        Ok(None) | Err(EditError::Other(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// Takes the entry out of the user's own file, and its pin out of that file's lock.
fn leave(project: &Project, name: &str) -> Result<(), Failure> {
    let own = local_path(&project.file);
    let key = format!("layers.{name}");
    let before = project.sources.texts.local.clone().unwrap_or_default();
    let others: Vec<String> = project.sources.texts.local_keys().into_iter().filter(|known| *known != key).collect();
    let keys = |new: &String| Texts { local: Some(new.clone()), ..Texts::default() }.local_keys();
    match text::remove_layer(&before, name).filter(|new| keys(new) == others) {
        // Nothing of it is the user's.
        Some(new) if new == HEADER => fs::remove_file(&own).map_err(FileError::new("remove", &own))?,
        Some(new) => write(&own, &new)?,
        None => {
            let what = format!("smidr cannot edit {} the way it is written", shell(&own));
            return Err(Refused::new(what, [Hint::new(format!("take the layer `{name}` out of it yourself"))]).into());
        }
    }
    let mut lock = project.local.as_ref().and_then(|local| local.lock.clone()).unwrap_or_default();
    lock.forget(&[name]);
    Ok(project.write_local_lock(&lock)?)
}

/// What has been done in the working copy, and how it becomes part of the project.
fn tell(project: &Project, args: &LayersEdit, folder: &Path, work: &Work, patches: &[PathBuf]) {
    if work.dirty {
        talk(format!("warning: not all is committed in it:  git -C {} status", shell(folder)));
    }
    if work.commits.is_empty() {
        talk("no commits were made in it");
        return;
    }
    for (id, subject) in work.commits.iter().take(SUBJECTS) {
        say(format!("{} {subject}", id.short()));
    }
    if let Some(more @ 1..) = work.commits.len().checked_sub(SUBJECTS) {
        say(format!("… and {more} more"));
    }
    if !patches.is_empty() {
        let files: Vec<String> = patches.iter().map(|path| written(project, path)).collect();
        talk(format!("the same as patches; in smidr.yaml, behind those of `{}` if it has any:", args.name));
        talk(format!("  patches: [{}]", files.join(", ")));
        return;
    }
    let name = word(&args.name);
    talk(format!("as patches for smidr.yaml:  smidr layers edit {name} --done --patch patches"));
    talk(format!(
        "or push them, and name the commit in smidr.yaml (commit: {}):  git -C {} push origin HEAD:BRANCH",
        work.head,
        shell(folder)
    ));
}

/// A name as a shell takes it.
fn word(name: &str) -> String {
    shell(Path::new(name))
}
