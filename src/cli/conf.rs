//! `smidr conf`: what users have changed in the conf of a workspace becomes part of the config, or goes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    args::Conf,
    context::{self, default_wanted},
    output::{say, talk_lines},
    report::{Done, Failure, Refused},
    trust,
};
use crate::{
    config,
    engine::{
        self,
        conf::{ConfChanges, Written, changes},
    },
    model::{Hint, last_part},
    plan::Plan,
    project::Project,
    system::{
        files::{FileError, shell, write_atomically},
        paths,
    },
};

/// Runs the command.
pub(super) fn conf(file: &Path, command: &Conf) -> Done {
    let (Conf::Adopt(of) | Conf::Discard(of)) = command;
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let project = Project::read(file, of.variant.as_deref(), &facts)?;
    let wanted = default_wanted(of.variant.clone());
    let plan = trust::judge(&project, &wanted, &facts, &paths, &Default::default())?.plan;
    // A shell that is open may still change them.
    engine::check_free(&plan, &paths)?;
    let written = Written::of(&plan, &paths);
    let changes = changes(&plan, &written);
    if changes.is_empty() {
        say("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    if let Conf::Adopt(_) = command {
        adopt(&project, &plan, &changes)?;
    }
    written.discard(&plan)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells what a shell has changed of the conf, and what to do about it.
pub(super) fn tell(plan: &Plan, changes: &ConfChanges) {
    if changes.is_empty() {
        return;
    }
    let yellow = anstyle::AnsiColor::Yellow.on_default().bold();
    let folder = plan.folders.top.join("conf");
    let variant = plan.variant.as_ref().map(|name| format!(" --variant {name}")).unwrap_or_default();
    talk_lines(format!(
        "{yellow}warning:{yellow:#} {} was changed; the next build stops until you decide:  smidr conf adopt{variant}  or  smidr conf discard{variant}",
        folder.display()
    ));
    let config = changes.config();
    let lines = config.lines().map(str::to_owned).chain(changes.other.iter().cloned());
    lines.for_each(|line| talk_lines(format!("  {line}")));
}

/// Whether a line tells what a shell took out.
fn is_gone(line: &str) -> bool {
    line.contains(".conf: - ")
}

/// Writes them into the config.
fn adopt(project: &Project, plan: &Plan, changes: &ConfChanges) -> Result<(), Failure> {
    let file = &project.file;
    let by_hand = |why: String| {
        let config = changes.config();
        let variant = plan.variant.as_ref().map(|name| format!(" --variant {name}")).unwrap_or_default();
        let hints = [
            (!config.is_empty()).then(|| Hint::config("write it yourself", config)),
            changes.other.iter().any(|line| is_gone(line)).then(|| Hint::new("take it out yourself")),
            Some(Hint::command("then drop the changes of the shell", format!("smidr conf discard{variant}"))),
        ];
        Failure::from(Refused::new(why, hints.into_iter().flatten()))
    };
    if let Some(variant) = &plan.variant {
        return Err(by_hand(format!("smidr does not edit the variant `{variant}` in {}", file.display())));
    }
    if let Some(line) = changes.other.iter().find(|line| is_gone(line)) {
        return Err(by_hand(format!("smidr takes nothing out of {}: `{line}`", file.display())));
    }
    if let Some(line) = changes.other.first() {
        return Err(by_hand(format!("{} has no place for `{line}`", file.display())));
    }
    let layers =
        changes.layers.iter().map(|layer| placed(project, plan, layer)).collect::<Result<Vec<_>, Failure>>()?;
    let text = fs::read_to_string(file).map_err(FileError::new("read", file))?;
    let entries: Vec<String> = layers.iter().map(|(name, path)| config::edit::layer(name, path)).collect();
    let new = config::edit::add(&text, &entries, &changes.lines);
    let facts = context::gather();
    // What is added goes into the config that is committed.
    let config = project.local.as_ref().map_or(Some(&project.config), |local| local.committed(None));
    let is_right = |new: &String| {
        let Some(config) = config else { return false };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let read = config::read(&name, new, None, &|name| facts.variable(name));
        let expected = config.local_conf.lines().map(str::to_owned).chain(changes.lines.iter().cloned());
        read.is_ok_and(|read| {
            read.local_conf.lines().map(str::to_owned).eq(expected)
                && layers.iter().all(|(name, _)| read.layers.iter().any(|layer| *layer.name.text == **name))
        })
    };
    let Some(new) = new.filter(is_right) else {
        return Err(by_hand(format!("smidr cannot edit {} the way it is written", file.display())));
    };
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(file).map_err(FileError::new("look at", file))?.permissions(),
    );
    write_atomically(file, new.as_bytes(), mode & 0o777)?;
    changes.config().lines().for_each(say);
    say(format!("added to {}", file.display()));
    Ok(())
}

/// A layer's name, and its path as the config has it. One that was made in the build folder has to be moved first: `--clean` would remove it.
fn placed(project: &Project, plan: &Plan, layer: &Path) -> Result<(String, String), Failure> {
    let root = project.file.parent().unwrap_or(Path::new("/"));
    let name = last_part(&layer.display().to_string()).to_owned();
    let in_project = |folder: PathBuf| {
        let path = folder.strip_prefix(root).map_or_else(|_| folder.clone(), |inside| Path::new(".").join(inside));
        (name.clone(), path.display().to_string())
    };
    if plan.folders.inside(layer).is_none() {
        return Ok(in_project(layer.to_path_buf()));
    }
    let moved = [root.join(&name), root.join("layers").join(&name)];
    match moved.iter().find(|folder| folder.join("conf/layer.conf").is_file()) {
        Some(folder) => Ok(in_project(folder.clone())),
        None => {
            let what = format!("{} lies in the build folder, where --clean removes it", layer.display());
            let to = root.join("layers");
            let command = format!("mkdir -p {0} && mv {1} {0}/ && smidr conf adopt", shell(&to), shell(layer));
            Err(Refused::new(what, [Hint::command("move it into the project first", command)]).into())
        }
    }
}
