//! Everything that keeps a project from being built here and that can be known by looking, each with the keys of the config that ask
//! for it. Changes nothing, and reaches no network.

use std::path::Path;

use super::{EngineError, devices, guards, host, inputs};
use crate::{
    config::{self, BITBAKE, Config, Problem, Span},
    layers::{self, CollectionError, DiscoverError, LayerError, patch::PatchError},
    model::{BuildRequest, ConfigPlace, Kind, Paths, SystemFacts, UserError, without_secrets},
    plan::{self, Domain, InputError, Isolation, Plan, PlanError, PlannedSource, What},
    project::Project,
    recipes,
};

/// Something that is wrong.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// The keys of the config that lead to what asks for it; none where nothing in it does.
    pub keys: Vec<String>,
    /// Or the place itself.
    pub span: Option<Span>,
    /// What it is.
    pub error: EngineError,
}

impl Wrong {
    fn new(keys: &[&str], error: impl Into<EngineError>) -> Self {
        Self { keys: owned(keys, &[]), span: None, error: error.into() }
    }
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// All that is wrong.
    pub wrong: Vec<Wrong>,
    /// What may not be as it is meant.
    pub warnings: Vec<String>,
    /// Repositories that are not here yet: what depends on them is not known.
    pub absent: Vec<String>,
}

/// A part of a config that no plan may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Directory(&'static str),
    Layer(usize),
    Bind(usize),
    Netrc,
    GitCredentials,
}

/// Takes everything out of a project that keeps it from having a plan.
///
/// # Errors
///
/// When it cannot have one whatever is taken out.
pub(crate) fn settle(
    project: &mut Project,
    wanted: &BuildRequest,
    facts: &SystemFacts,
    paths: &Paths,
) -> Result<Vec<Wrong>, PlanError> {
    let whole = project.config.clone();
    let make = |config: &Config| plan::make(config, None, facts, paths, &project.file, wanted, &Domain::Own).map(drop);
    if make(&whole).is_ok() {
        return Ok(Vec::new());
    }
    let parts = parts(&whole);
    let with = |kept: &[Part]| {
        let mut config = whole.clone();
        remove(&mut config, &|part| !kept.contains(&part));
        config
    };
    make(&with(&[]))?;
    let (mut kept, mut wrong) = (Vec::new(), Vec::new());
    for part in parts {
        match make(&with(&[part])) {
            Ok(()) => kept.push(part),
            Err(error) => wrong.push(Wrong { keys: keys(part, &whole), span: None, error: error.into() }),
        }
    }
    // Good alone, but not together.
    let mut together = Vec::new();
    for part in kept {
        together.push(part);
        if let Err(error) = make(&with(&together)) {
            together.pop();
            wrong.push(Wrong { keys: keys(part, &whole), span: None, error: error.into() });
        }
    }
    project.config = with(&together);
    Ok(wrong)
}

const DIRECTORIES: [&str; 6] = ["layers", "downloads", "sstate", "tmp", "deploy", "build"];

fn parts(config: &Config) -> Vec<Part> {
    let directories = DIRECTORIES.map(Part::Directory).into_iter();
    let layers = (0..config.layers.len()).map(Part::Layer);
    let binds = (0..config.host.inputs.binds.len()).map(Part::Bind);
    directories.chain(layers).chain([Part::Netrc, Part::GitCredentials]).chain(binds).collect()
}

fn keys(part: Part, config: &Config) -> Vec<String> {
    let keys = |keys: &[&str]| owned(keys, &[]);
    match part {
        Part::Directory(name) => keys(&["directories", name]),
        Part::Layer(at) => {
            let name = config.layers.get(at).map_or("", |layer| layer.name.text.as_str());
            keys(&["layers", name, "path"])
        }
        Part::Bind(at) => keys(&["host", "binds", &at.to_string()]),
        Part::Netrc => keys(&["host", "netrc"]),
        Part::GitCredentials => keys(&["host", "git_credentials"]),
    }
}

fn remove(config: &mut Config, is_out: &dyn Fn(Part) -> bool) {
    let named = &mut config.directories;
    let folders = [
        &mut named.layers,
        &mut named.downloads,
        &mut named.sstate,
        &mut named.tmp,
        &mut named.deploy,
        &mut named.build,
    ];
    for (folder, _) in folders.into_iter().zip(DIRECTORIES).filter(|(_, name)| is_out(Part::Directory(name))) {
        *folder = None;
    }
    let mut at = 0..;
    config.layers.retain(|_| !at.next().is_some_and(|at| is_out(Part::Layer(at))));
    let inputs = &mut config.host.inputs;
    let mut at = 0..;
    inputs.binds.retain(|_| !at.next().is_some_and(|at| is_out(Part::Bind(at))));
    inputs.netrc.take_if(|_| is_out(Part::Netrc));
    inputs.git_credentials.take_if(|_| is_out(Part::GitCredentials));
}

/// Looks at everything that a plan stands on. `whole` says whether the plan has all layers of the config.
pub(crate) fn look(project: &Project, plan: &Plan, whole: bool, facts: &SystemFacts, paths: &Paths) -> Seen {
    let mut seen = Seen::default();
    for path in &plan.devices {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let checked = devices::check(std::slice::from_ref(path));
        seen.wrong.extend(checked.err().map(|error| Wrong::new(&["host", "devices", name], error)));
    }
    if let Err(error) = guards::check_submodules(plan) {
        seen.wrong.push(Wrong::new(&["directories"], error));
    }
    let warnings = std::cell::RefCell::new(Vec::new());
    let (_, wrong) = inputs::look(plan, &facts.home, paths, &|warning| warnings.borrow_mut().push(warning));
    seen.warnings = warnings.into_inner();
    seen.wrong.extend(wrong.into_iter().map(|(input, error)| of_input(&project.config, plan, input, error)));
    of_host(plan, paths, &mut seen);
    let missing = layers::missing(plan);
    let all_here = missing.is_empty();
    seen.wrong.extend(missing.into_iter().map(|(name, error)| of_layer(&name, project, error)));
    if all_here && whole {
        match layers::look_at_all(plan, &facts.home) {
            Ok(looked) => {
                seen.wrong
                    .extend(looked.misfits.into_iter().map(|error| of_layer(layer_of(plan, &error), project, error)));
                seen.warnings.extend(looked.warnings);
                seen.absent = looked.absent;
            }
            Err(error) => seen.wrong.push(of_layer("", project, error)),
        }
    }
    seen
}

/// The line of the config that asks for what failed, as `smidr check` shows it, or which only a look into the network could tell.
pub(crate) fn place(
    error: &(dyn UserError + 'static),
    project: &Project,
    wanted: &BuildRequest,
    facts: &SystemFacts,
    paths: &Paths,
) -> Option<ConfigPlace> {
    let sources = &project.sources;
    // What is drawn already has its place, and nothing of what a link leads to is quoted.
    if error.drawn(false).is_some() || sources.is_link || error.kind() == Kind::Cancelled {
        return None;
    }
    let mut looked = project.clone();
    let mut all = settle(&mut looked, wanted, facts, paths).ok()?;
    let plan = looked.plan(wanted, facts, paths, &Domain::Own).ok()?;
    let error_of_ours: &(dyn std::error::Error + 'static) = error;
    let fetched = error_of_ours.downcast_ref().and_then(|error| of_fetch(error, &plan));
    if fetched.is_none() {
        let whole = project.config.whole && looked.config.layers.len() == project.config.layers.len();
        all.extend(look(&looked, &plan, whole, facts, paths).wrong);
    }
    let title = error.to_string();
    let same = || all.into_iter().find(|wrong| wrong.error.to_string() == title);
    let (keys, span) = match fetched {
        Some(keys) => (keys, None),
        None => same().map(|wrong| (wrong.keys, wrong.span))?,
    };
    let span = span.or_else(|| config::place(&sources.texts, wanted.variant.as_deref(), &keys))?;
    let problem = Problem::new(span, title);
    Some(sources.problems(vec![problem.clone()]).place(&problem))
}

/// The keys of a repository that cannot be had as the config wants it.
fn of_fetch(error: &EngineError, plan: &Plan) -> Option<Vec<String>> {
    let EngineError::Layers(LayerError::Git(error)) = error else { return None };
    let said = error.to_string();
    let is_it = |source: &PlannedSource| match source {
        PlannedSource::Git(git) => said.contains(&without_secrets(&git.url)),
        PlannedSource::Path(_) => false,
    };
    let name = plan.sources().find(|(_, source)| is_it(source))?.0;
    let part = if name == BITBAKE { vec![BITBAKE] } else { vec!["layers", name] };
    Some(owned(&part, &[error.key()]))
}

fn of_input(config: &Config, plan: &Plan, input: Option<usize>, error: inputs::InputsError) -> Wrong {
    let Some((at, input)) = input.and_then(|at| Some((at, plan.inputs.get(at)?))) else {
        return Wrong::new(&of_folder(plan, &error), error);
    };
    match input.what {
        What::SshAgent | What::KnownHosts => Wrong::new(&["host", "ssh_agent"], error),
        What::Netrc => Wrong::new(&["host", "netrc"], error),
        What::GitCredentials => Wrong::new(&["host", "git_credentials"], error),
        What::Bind => {
            let before = plan.inputs.iter().take(at).filter(|input| input.what == What::Bind).count();
            let span = config.host.inputs.binds.get(before).map(|bind| bind.source.span.clone());
            Wrong { span, ..Wrong::new(&["host", "binds"], error) }
        }
    }
}

/// The key of the folder of the build, or of the layer, that an error is about.
fn of_folder<'a>(plan: &'a Plan, error: &inputs::InputsError) -> Vec<&'a str> {
    let inputs::InputsError::Refused(InputError::Folder { path, .. } | InputError::Source { path, .. }) = error else {
        return Vec::new();
    };
    let is = |folder: &Path| folder == path;
    let folders = &plan.folders;
    let named = [
        ("downloads", &folders.downloads),
        ("sstate", &folders.sstate),
        ("tmp", &folders.tmp),
        ("deploy", &folders.deploy),
        ("build", &folders.top),
    ];
    named.into_iter().find(|(_, folder)| is(folder)).map_or_else(Vec::new, |(name, _)| vec!["directories", name])
}

fn of_host(plan: &Plan, paths: &Paths, seen: &mut Seen) {
    if plan.isolation == Isolation::None {
        return;
    }
    let wrong = match plan.host.recipe {
        true => recipes::planned(plan, paths).err().map(|error| Wrong::new(&["host", "recipe"], error)),
        false => host::look(plan, paths).err().map(|error| Wrong::new(&["host", "image"], error)),
    };
    seen.wrong.extend(wrong);
}

fn of_layer(name: &str, project: &Project, error: LayerError) -> Wrong {
    let machine = if project.config.build.machine.is_some() { ["build", "machine"] } else { ["base", "machine"] };
    let part = if name == BITBAKE { vec![BITBAKE] } else { vec!["layers", name] };
    let keys: Vec<String> = match &error {
        LayerError::Missing { .. } | LayerError::NoBitbake(_) | LayerError::LinkOut { .. } => owned(&part, &["path"]),
        LayerError::Patch(error) => owned(&part, &["patches", of_patch(error)]),
        LayerError::Discover(DiscoverError::Unknown { name, list, .. }) => owned(&part, &["sublayers", list, name]),
        LayerError::Discover(_) => owned(&part, &["path"]),
        LayerError::Target { .. } => owned(&["build", "image"], &[]),
        LayerError::Collection(error) => match error {
            CollectionError::Machine { .. } => owned(&machine, &[]),
            CollectionError::Distro { .. } => owned(&["base", "distro"], &[]),
            CollectionError::OtherSeries { .. } => owned(&["yocto_series"], &[]),
            CollectionError::Series { layers, .. } => {
                owned(&["layers"], &[layers.first().map_or("", |layer| layer.repository.as_str())])
            }
            CollectionError::Duplicate { second, .. } => owned(&["layers"], &[&second.repository]),
            CollectionError::Depends { missing, .. } => {
                let wanting = missing.first().and_then(|missing| missing.wanted_by.first());
                owned(&["layers"], &[wanting.map_or("", |(_, layer)| layer.repository.as_str())])
            }
            CollectionError::NoCore { .. } => owned(&["layers"], &[]),
            CollectionError::Conf(_) => Vec::new(),
        },
        _ => Vec::new(),
    };
    Wrong { keys, span: None, error: error.into() }
}

/// The layer that holds what an error is about, where that is a file.
fn layer_of<'a>(plan: &'a Plan, error: &LayerError) -> &'a str {
    let LayerError::LinkOut { link, .. } = error else { return "" };
    let holds = |source: &PlannedSource| matches!(source, PlannedSource::Path(path) if link.starts_with(&path.folder));
    plan.layers.iter().find(|layer| holds(&layer.source)).map_or("", |layer| &layer.name)
}

fn of_patch(error: &PatchError) -> &str {
    match error {
        PatchError::Missing { patch, .. } | PatchError::TooLarge { patch, .. } => patch,
        _ => "",
    }
}

fn owned(keys: &[&str], more: &[&str]) -> Vec<String> {
    keys.iter().chain(more).map(|key| (*key).to_owned()).collect()
}
