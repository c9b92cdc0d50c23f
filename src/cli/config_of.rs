//! `smidr __config-of URL REF PATH`: a config of a git repository as a submission, for a schedule of the daemon. Not for people.
//!
//! The repository is fetched as a layer's is, into the store. Layers of its own, which the config names by path, become git layers of the same address and commit: a file beside the
//! config, as a user's own would be, says so. What would be pinned is what `smidr lock --update` would pin; nothing is written.

use std::{
    io::{self, IsTerminal as _, Read as _},
    path::{Component, Path},
    process::ExitCode,
};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    args,
    command_context::CommandContext,
    output::Document,
    report::{Done, Failure, Refused, placed},
};
use crate::{
    config::{self, Config, Source, Texts},
    daemon::schedules::fetched::{Fetched, Given, Pinned, may_fetch},
    engine::{self, Judged},
    layers::{LayerError, Repository, Store, discover},
    lock::Lock,
    model::{BuildRequest, CommitId, Digest, Hint, SystemFacts, without_secrets},
    plan::{PlannedLayer, PlannedPath, PlannedSource},
    project::{Project, Sources},
    service::random,
    system::files::FileError,
};

/// Of the standard input.
const MOST_GIVEN: u64 = 16 << 20;
/// What a config can always name, because its own folders depend on it.
const OWN_VARIABLES: [&str; 2] = ["HOME", "SMIDR_HOME"];

/// Runs the command.
pub(super) fn config_of(args: &args::ConfigOf) -> Done {
    let context = CommandContext::open("config")?;
    let given = given()?;
    let shown = without_secrets(&args.url);
    if !may_fetch(&args.url, &given.logins) {
        let hint = Hint::new("it is reached by https, http or git, or a login for it is granted");
        return Err(Refused::new(format!("a config is not fetched from {shown}"), [hint]).into());
    }
    let store = Store::at(&context.paths.layers());
    let access = context.tools().access(true, &given.logins);
    let repository = store.bring_reference(&args.url, &args.reference, access)?;
    let facts = only(&context.facts, &given);
    let project = read(&repository, args, &facts)?;
    let request =
        BuildRequest { targets: args.targets.clone(), variant: args.variant.clone(), ..BuildRequest::default() };
    let fetched = fetched(&context, &project, request, &facts, &given, args.pins)?;
    let commit = repository.pin().commit.clone();
    Document::new().with_all(&Fetched { commit: commit.expect("what is fetched has one"), ..fetched })?.say();
    Ok(ExitCode::SUCCESS)
}

fn given() -> Result<Given, Failure> {
    let mut text = Vec::new();
    if !io::stdin().is_terminal() {
        let read = io::stdin().take(MOST_GIVEN).read_to_end(&mut text);
        read.map_err(FileError::new("read", Path::new("standard input")))?;
    }
    if text.is_empty() {
        return Ok(Given::default());
    }
    serde_json::from_slice(&text).map_err(|error| Refused::new(format!("standard input: {error}"), None).into())
}

/// This machine, with the variables that the config may name.
fn only(facts: &SystemFacts, given: &Given) -> SystemFacts {
    let own = facts.environment.iter().filter(|(name, _)| OWN_VARIABLES.contains(&name.as_str())).cloned();
    let further = given.variables.iter().map(|(name, value)| (name.clone(), value.clone()));
    SystemFacts { environment: own.chain(further).collect(), ..facts.clone() }
}

/// The config, with its own layers as git layers.
fn read(repository: &Repository, args: &args::ConfigOf, facts: &SystemFacts) -> Result<Project, Failure> {
    let root = repository.whole();
    if !args.path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Refused::new(format!("{} is no path in a repository", args.path.display()), None).into());
    }
    let sources = Sources::look(&root.join(&args.path), facts)?.committed();
    if !sources.file.starts_with(root) {
        return Err(Refused::new(format!("{} leads out of the repository", args.path.display()), None).into());
    }
    let project = Project::of(sources, args.variant.as_deref(), facts)?;
    let Some(local) = own_layers(&project.config, &project.file, repository, &args.url)? else { return Ok(project) };
    let texts = Texts { local: Some(local), ..project.sources.texts.clone() };
    Ok(Project::of(Sources { texts, ..project.sources }, args.variant.as_deref(), facts)?)
}

/// What is laid over the config.
#[derive(Serialize)]
struct Overlay<'a> {
    layers: Vec<OwnLayer<'a>>,
}

/// A layer of the repository.
#[derive(Serialize)]
struct OwnLayer<'a> {
    name: &'a str,
    git: &'a str,
    commit: Option<&'a CommitId>,
    sublayers: Sublayers,
}

#[derive(Serialize)]
struct Sublayers {
    include: Vec<String>,
    // The config's own are of another folder.
    exclude: [String; 0],
}

/// What names layers of the repository by its address; none where the config has no such layers.
fn own_layers(config: &Config, file: &Path, repository: &Repository, url: &str) -> Result<Option<String>, Failure> {
    let (root, mut own) = (repository.whole(), Vec::new());
    if let Some(Source::Path(path)) = &config.bitbake {
        let hint = Hint::new("name BitBake's repository, `bitbake: {git: ...}`, or have a layer bring it");
        return Err(Refused::new(format!("a config from git cannot have BitBake at a path ({path})"), [hint]).into());
    }
    for layer in &config.layers {
        let Source::Path(path) = &layer.source else { continue };
        let name = &layer.name.text;
        let folder = file.with_file_name(&path.text).canonicalize().ok().filter(|folder| folder.starts_with(root));
        let Some(folder) = folder else {
            let hint = Hint::new("it may name layers of its own repository by path, and others by `git:`");
            return Err(Refused::new(format!("the layer `{name}` is not in the repository: {path}"), [hint]).into());
        };
        let texts = |list: &[config::Text]| list.iter().map(|text| text.text.clone()).collect();
        let planned = PlannedLayer {
            name: name.clone(),
            source: PlannedSource::Path(PlannedPath {
                folder: folder.clone(),
                written: path.text.clone(),
                pinned: false,
                instead_of: None,
                sent: None,
            }),
            include: texts(&layer.include),
            exclude: texts(&layer.exclude),
            ignore_series: layer.ignore_series,
            has_layers: layer.has_layers,
            at: None,
        };
        let found = discover(&folder, &planned).map_err(LayerError::from)?;
        let include: Vec<String> = found
            .iter()
            .filter_map(|found| found.folder.strip_prefix(root).ok())
            .map(|path| path.display().to_string())
            // The repository itself is one layer.
            .filter(|path| !path.is_empty())
            .collect();
        let sublayers = Sublayers { include, exclude: [] };
        own.push(OwnLayer { name, git: url, commit: repository.pin().commit.as_ref(), sublayers });
    }
    // JSON is YAML.
    Ok((!own.is_empty()).then(|| serde_json::to_string(&Overlay { layers: own }).expect("each field has a text")))
}

fn fetched(
    context: &CommandContext,
    project: &Project,
    request: BuildRequest,
    facts: &SystemFacts,
    given: &Given,
    pins: bool,
) -> Result<Fetched, Failure> {
    let judge = |project: &Project| -> Result<Judged, Failure> {
        let refused = |asks: &[_]| asks.iter().filter(|ask| !given.granted.contains(ask)).cloned().collect();
        let judged = engine::judge(project, &request, facts, &context.paths, |_, asks| refused(asks));
        let mut judged = judged.map_err(|error| placed(error, project, &request, facts, &context.paths))?;
        judged.plan.logins = given.logins.clone();
        Ok(judged)
    };
    let judged = judge(project)?;
    let submission = engine::submission(project, &judged, request.clone(), facts, &context.paths, random())?;
    let pins = match pins {
        false => None,
        true => {
            let fresh = Project { lock: None, ..project.clone() };
            Some(pin(context, &fresh, &judge(&fresh)?, &request)?)
        }
    };
    let commit = CommitId::from_sha1([0; 20]);
    Ok(Fetched { commit, submission, asks: judged.asks, pins })
}

/// What the config would be pinned to now, if all that it asks for is granted.
fn pin(
    context: &CommandContext,
    project: &Project,
    judged: &Judged,
    request: &BuildRequest,
) -> Result<Pinned, Failure> {
    if judged.stops() {
        let asks: Vec<String> =
            judged.refused.iter().map(|ask| format!("{}: {}", ask.key(), ask.consequence())).collect();
        let what = "the config asks for what is not granted, so nothing of it is fetched to compare its pins";
        return Err(Refused::new(what, asks.into_iter().map(Hint::new).collect::<Vec<_>>()).into());
    }
    context.on.hide(&engine::inputs::secrets(&judged.plan));
    let pins = engine::pin(&judged.plan, None, true, context.tools())
        .map_err(|error| placed(error, project, request, &context.facts, &context.paths))?;
    let lock = Lock::of(pins)
        .to_text()
        .map_err(|error| FileError::new("write", Path::new("smidr.lock"))(io::Error::other(error)))?;
    let whole = serde_json::to_string(&(&project.digest, request, &lock)).expect("each field has a text");
    Ok(Pinned { digest: Digest::from_sha256(Sha256::digest(whole).into()), lock })
}
