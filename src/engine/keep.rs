//! What is kept of a build: artifacts, licences and other records, logs of failed tasks without secrets. Copies; the workspace
//! stays as it is, for the next build.
//!
//! A recipe can put anything in the place of what it should leave behind: a link to a file of this machine, a pipe without a
//! writer. So nothing is opened here but regular files inside the build's own folders.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::OFlags;

use super::{
    EngineError, Tools,
    budget::{self, Budget},
    deployed::{Action, Deployed},
    drive::Finished,
};
use crate::{
    artifacts::{self, ArtifactError, Keep},
    events::Emitter,
    lock::{Lock, Pins},
    model::{Artifact, BuildId, FailedTask, Secrets},
    plan::{Folders, Plan},
    system::{
        files::{FileError, make_private_dir, write_atomically},
        rooted::Rooted,
    },
};

/// Tells the secrets of a build from others.
pub(crate) const SEAL: &str = "secrets";

/// Copies what the plan asks for, of what this build deployed; it began at `since`.
///
/// # Errors
///
/// When there is nothing though the config asks for something, or the file system refuses.
pub(crate) fn artifacts(
    plan: &Plan,
    finished: &Finished,
    since: SystemTime,
    build: &Path,
    keep: Keep<'_>,
    tools: Tools<'_>,
) -> Result<Vec<Artifact>, EngineError> {
    let folders = &plan.folders;
    if plan.fetch_only || finished.action == Action::Look {
        return Ok(Vec::new());
    }
    if folders.deploy.is_dir() && !is_own(folders, &folders.deploy) {
        return Err(ArtifactError::Link(folders.deploy.clone()).into());
    }
    let deployed = Deployed::look(plan, &finished.action, &finished.tasks, since);
    // A task that was chosen by hand need not deploy anything.
    let is_required = plan.artifacts_required && finished.action == Action::Build;
    let is_own = |path: &Path| deployed.is_own(path);
    match artifacts::collect(&folders.deploy, &plan.artifacts, &is_own, build, keep, tools.on, tools.stop) {
        Err(ArtifactError::Nothing { .. }) if !is_required => Ok(Vec::new()),
        collected => Ok(collected?),
    }
}

/// Writes down what a build was made from, as a lock of its own: `smidr layers diff` compares two of them.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn pins(pins: Pins, build: &Path) -> Result<(), EngineError> {
    let path = build.join("smidr.lock");
    let text = Lock::of(pins).to_text().map_err(|error| FileError::new("write", &path)(io::Error::other(error)))?;
    Ok(write_atomically(&path, text.as_bytes(), 0o644)?)
}

/// Writes down by which secrets logs of this build are to be cleaned, without telling them: who shows a log of the workspace
/// later has to know the same.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn seal(secrets: &Secrets, id: &BuildId, build: &Path) -> Result<(), EngineError> {
    let lines: String = secrets.fingerprints(id.as_str()).iter().map(|digest| format!("{digest}\n")).collect();
    Ok(write_atomically(&build.join(SEAL), lines.as_bytes(), 0o600)?)
}

/// Whether these secrets hold all those of a build. Of one without a seal that cannot be told.
pub(crate) fn knows(secrets: &Secrets, id: &BuildId, build: &Path) -> bool {
    let known: BTreeSet<String> = secrets.fingerprints(id.as_str()).iter().map(ToString::to_string).collect();
    fs::read_to_string(build.join(SEAL)).is_ok_and(|sealed| sealed.lines().all(|line| known.contains(line)))
}

/// Copies what a build says about itself, without secrets: licences, software bills of materials, its history. Only what is there, and
/// for which there is room: a build is not worse without them.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn records(
    folders: &Folders,
    build: &Path,
    mut keep: Keep<'_>,
    tools: Tools<'_>,
) -> Result<(), EngineError> {
    let redactor = tools.on.redactor();
    for (name, folder) in records_of(folders) {
        if folder.is_dir() && is_own(folders, &folder) {
            match artifacts::keep_folder(&folder, &build.join(name), &redactor, keep.again(), tools.on, tools.stop) {
                Err(ArtifactError::Full { path, source }) => {
                    tools.on.warn(format!("{name} is not kept, since {} cannot be: {source}", path.display()));
                }
                kept => kept?,
            }
        }
    }
    Ok(())
}

/// Where OpenEmbedded leaves its records (license.bbclass, create-spdx.bbclass, buildhistory.bbclass), and what they are called
/// among ours.
fn records_of(folders: &Folders) -> [(&'static str, PathBuf); 3] {
    [
        ("licenses", folders.deploy.join("licenses")),
        ("spdx", folders.deploy.join("spdx")),
        ("buildhistory", folders.top.join("buildhistory")),
    ]
}

/// Copies the logs of failed tasks out of the workspace, where the next build replaces them. Each file once, whatever tasks name it.
pub(crate) fn logs(
    failed: &[FailedTask],
    folders: &Folders,
    build: &Path,
    budget: &mut Budget,
    on: &Emitter,
) -> Vec<FailedTask> {
    let redactor = on.redactor();
    let mut keep = |task: &FailedTask| -> Option<PathBuf> {
        let from = open_log(folders, task.log.as_ref()?)?;
        let found = from.metadata().ok()?;
        if let Some(copy) = budget.copy_of(&found) {
            return Some(copy.into());
        }
        if !budget.takes_log(artifacts::data_in(&from).ok()?, on) {
            return None;
        }
        let folder = build.join("logs");
        make_private_dir(&folder).ok()?;
        let name = format!("{}.{}", task.name.recipe.replace('/', "_"), task.name.task.replace('/', "_"));
        let to = folder.join(redactor.text(&name).as_ref());
        artifacts::keep_log(&from, &to, budget::LOG, &redactor).ok()?;
        budget.log_kept(&found, &to);
        Some(to)
    };
    let failed =
        failed.iter().map(|task| FailedTask { log: keep(task).or_else(|| task.log.clone()), ..task.clone() }).collect();
    budget.tell(on);
    failed
}

/// Opens a log that a build names.
pub(crate) fn open_log(folders: &Folders, log: &Path) -> Option<File> {
    let (root, rest) = folders.inside(log)?;
    Rooted::open(root).ok()?.open_file(rest).ok()
}

// Whether no link on the way leads out of the build's folders. The build is over: they do not change any more.
fn is_own(folders: &Folders, folder: &Path) -> bool {
    folders.inside(folder).is_some_and(|(root, rest)| {
        Rooted::open(root).is_ok_and(|root| root.open_plain(rest, OFlags::PATH | OFlags::DIRECTORY).is_ok())
    })
}
