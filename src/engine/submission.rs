//! What a build is asked with, read whole: afterwards nothing on disk counts.

use std::{collections::BTreeMap, path::Path};

use super::{EngineError, Judged};
use crate::{
    layers::{LayerError, read_patches},
    model::{
        BuildId, BuildRequest, FileContent, Origin, Paths, Submission, SubmittedLayer, SubmittedLocal, SystemFacts,
    },
    plan::{Isolation, Plan, PlannedSource},
    project::{Project, ProjectError},
    recipes,
};

/// Everything that a worker needs to build a project. `random` is drawn by the caller, for the build's id.
///
/// # Errors
///
/// When a patch or the rootfs recipe cannot be read, or the build cannot be named.
pub(crate) fn submission(
    project: &Project,
    judged: &Judged,
    request: BuildRequest,
    facts: &SystemFacts,
    paths: &Paths,
    random: u32,
) -> Result<Submission, EngineError> {
    let plan = &judged.plan;
    let has_recipe = plan.host.recipe && plan.isolation != Isolation::None;
    let config = &project.config;
    let names = config.variables.iter().map(|used| &used.name).chain(config.host.env.iter().map(|name| &name.text));
    let value =
        |name: &String| Some((name.clone(), facts.environment.iter().find(|(known, _)| known == name)?.1.clone()));
    Ok(Submission {
        version: Submission::VERSION,
        id: BuildId::new(&plan.name, random).map_err(ProjectError::from)?,
        origin: Origin::Local { config: project.file.clone() },
        request,
        config: project.sources.texts.config.clone(),
        config_is_link: project.sources.is_link,
        lock: project.sources.lock.clone(),
        local: project.sources.texts.local.clone().map(|config| {
            let lock = project.sources.local_lock.clone();
            SubmittedLocal { config, lock }
        }),
        files: patches(plan)?,
        recipe: has_recipe.then(|| recipes::submit(plan, paths)).transpose()?,
        variables: names.filter_map(value).collect(),
        granted: judged.granted(),
        logins: plan.logins.clone(),
        share: None,
        group: None,
        wait: false,
        customer: None,
        project: None,
        labels: Default::default(),
        priority: 0,
        retry_interrupted: false,
        layers: Vec::new(),
    })
}

/// The same for a daemon on another machine, which knows no folder of this one: patches are called as the config calls them, and path layers come
/// as blobs.
pub(crate) fn for_elsewhere(mut submission: Submission, plan: &Plan, layers: Vec<SubmittedLayer>) -> Submission {
    let git = plan.sources().filter_map(|(_, source)| match source {
        PlannedSource::Git(git) => Some(git),
        PlannedSource::Path(_) => None,
    });
    let written: BTreeMap<&Path, &str> =
        git.flat_map(|git| &git.patches).map(|patch| (patch.file.as_path(), patch.written.as_str())).collect();
    for file in &mut submission.files {
        if let Some(name) = written.get(file.path.as_path()) {
            file.path = name.into();
        }
    }
    Submission { layers, ..submission }
}

fn patches(plan: &Plan) -> Result<Vec<FileContent>, LayerError> {
    let mut files = Vec::new();
    for (_, source) in plan.sources() {
        let PlannedSource::Git(git) = source else { continue };
        for (patch, read) in git.patches.iter().zip(read_patches(git)?) {
            files.push(FileContent { path: patch.file.clone(), content: read.text, executable: false });
        }
    }
    Ok(files)
}
