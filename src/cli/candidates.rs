//! What may stand in the place of a word that a shell completes: builds, images, variants, tasks and the like. In goes what is typed, out come names;
//! nothing is fetched, changed or waited for, and where something is wrong there are none.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _};

use super::{
    client,
    context::{self, default_wanted},
    daemon_args::ReachDaemon,
};
use crate::{
    config::{BITBAKE, HOST},
    history::Filter,
    image,
    layers::offered,
    model::{BuildId, Paths, SystemFacts},
    plan::{Domain, Plan},
    project::{Project, Sources},
    recipes,
    rpc::client::Remote,
    service::{BuildService as _, LocalService},
    system::paths,
};

/// The whole line, for what depends on more than one word.
static WORDS: OnceLock<Vec<OsString>> = OnceLock::new();

/// Says what is typed.
pub(super) fn remember(words: &[OsString]) {
    let _ = WORDS.set(words.to_vec());
}

/// What is typed after an option.
fn option(names: &[&str]) -> Option<OsString> {
    let words = WORDS.get().map(Vec::as_slice).unwrap_or_default();
    words.windows(2).find_map(|pair| match pair {
        [option, value] if names.iter().any(|name| option == name) => Some(value.clone()),
        _ => None,
    })
}

/// What can be looked at without a question.
struct Here {
    facts: SystemFacts,
    paths: Paths,
    config: PathBuf,
}

impl Here {
    fn find() -> Option<Self> {
        let facts = context::gather();
        let paths = paths::find(&facts.environment).ok()?;
        let named = option(&["-c", "--config"]).map(PathBuf::from);
        let config = context::find_above(named.unwrap_or_else(|| "smidr.yaml".into()));
        Some(Self { facts, paths, config })
    }

    fn variants(&self) -> Vec<String> {
        Sources::look(&self.config, &self.facts).map(|sources| sources.texts.variants()).unwrap_or_default()
    }

    /// The projects of all variants, the one without a variant first.
    fn projects(&self) -> impl Iterator<Item = Project> {
        let variants = self.variants().into_iter().map(Some);
        let all = std::iter::once(None).chain(variants);
        all.filter_map(|variant| Project::look(&self.config, variant.as_deref(), &self.facts).ok())
    }

    fn plan(&self) -> Option<Plan> {
        self.projects().next()?.plan(&default_wanted(None), &self.facts, &self.paths, &Domain::Own).ok()
    }
}

/// A completer of names: those that begin with what is typed and that no shell takes for something else.
fn names(list: fn(&Here) -> Option<Vec<String>>) -> ArgValueCompleter {
    ArgValueCompleter::new(move |typed: &OsStr| offer(typed, list))
}

fn offer(typed: &OsStr, list: fn(&Here) -> Option<Vec<String>>) -> Vec<CompletionCandidate> {
    let found = Here::find().and_then(|here| list(&here)).unwrap_or_default();
    let typed = typed.to_str().unwrap_or("\n");
    // A config or a layer may have any names.
    let is_plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/@+".contains(c));
    let fitting = found.into_iter().filter(|name| name.starts_with(typed) && is_plain(name));
    fitting.map(CompletionCandidate::new).collect()
}

/// Builds, the newest first, those of this project before others.
fn all_builds(here: &Here) -> Option<Vec<String>> {
    let own = here.projects().next().map(|project| project.config.name);
    let entries = fs::read_dir(here.paths.builds()).ok()?.flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse::<BuildId>().ok()?;
            let at = entry.metadata().ok()?.created().or_else(|_| entry.metadata()?.modified()).ok()?;
            Some((own.as_deref() != Some(id.name()), std::cmp::Reverse(at), id.to_string()))
        })
        .collect();
    found.sort();
    Some(found.into_iter().map(|(.., id)| id).collect())
}

/// Builds.
pub(super) fn builds() -> ArgValueCompleter {
    names(all_builds)
}

/// How long a daemon is waited for, and how many of its builds are asked for.
const DAEMON: (Duration, u32) = (Duration::from_secs(1), 100);

/// Asks the daemon that is meant: the one of the login, or of an option that is typed.
fn ask<T: Send + 'static>(question: fn(&Remote) -> Option<T>) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    // What does not answer in time is left alone: this process ends.
    thread::spawn(move || {
        let text = |name: &str| option(&[name])?.into_string().ok();
        let file = |name: &str| option(&[name]).map(PathBuf::from);
        let reach = ReachDaemon {
            address: text("--address"),
            pin: text("--pin"),
            token_file: file("--token-file"),
            certificate: file("--certificate"),
            key: file("--key"),
            insecure: WORDS.get().is_some_and(|words| words.iter().any(|word| word == "--insecure")),
        };
        let here = Here::find()?;
        let remote = client::reach(&here.paths, &reach, &here.facts).ok()?;
        answer.send(question(&remote)).ok()
    });
    answered.recv_timeout(DAEMON.0).ok()?
}

/// Builds of a daemon, the newest first.
pub(super) fn daemon_builds() -> ArgValueCompleter {
    names(|_| {
        let (builds, _) = ask(|remote| remote.page(&Filter::default(), None, DAEMON.1).ok())?;
        Some(builds.into_iter().map(|build| build.id.to_string()).collect())
    })
}

/// Tasks of a daemon's build that is over: of the one that is named, or of the newest.
pub(super) fn daemon_tasks() -> ArgValueCompleter {
    names(|_| {
        ask(|remote| {
            let id = named_build();
            let build = remote.show(id.as_deref()).ok()?;
            let tasks: BTreeSet<String> =
                remote.tasks(&build.id).ok()?.iter().map(|task| task.name.to_string()).collect();
            Some(tasks.into_iter().collect())
        })
    })
}

/// The first word that can be a build's id.
fn named_build() -> Option<String> {
    let words = WORDS.get()?.iter().filter_map(|word| word.to_str());
    words.skip(2).find(|word| word.parse::<BuildId>().is_ok()).map(Into::into)
}

/// Builds, and files and folders.
pub(super) fn builds_or_paths() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let mut all = offer(typed, all_builds);
        all.extend(PathCompleter::any().complete(typed));
        all
    })
}

/// Images of the store.
pub(super) fn images() -> ArgValueCompleter {
    names(|here| Some(image::names(&here.paths).iter().map(ToString::to_string).collect()))
}

/// Rootfs recipes, of the project and those that come with smidr.
pub(super) fn rootfs_recipes() -> ArgValueCompleter {
    names(|here| {
        let folder = here.config.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(recipes::known(folder, &here.paths))
    })
}

/// Variants of the config.
pub(super) fn variants() -> ArgValueCompleter {
    names(|here| Some(here.variants()))
}

/// Machines: those of the config before those of the layers that are here.
pub(super) fn machines() -> ArgValueCompleter {
    names(|here| {
        let plans = here
            .projects()
            .filter_map(|project| project.plan(&default_wanted(None), &here.facts, &here.paths, &Domain::Own).ok());
        let own: BTreeSet<String> = plans.map(|plan| plan.machine).collect();
        let others = here.plan().map(|plan| offered::machines(&plan, &here.facts.home)).unwrap_or_default();
        Some(own.iter().chain(others.difference(&own)).cloned().collect())
    })
}

/// Targets: those of the config before the recipes of the layers that are here.
pub(super) fn targets() -> ArgValueCompleter {
    names(|here| {
        let plan = here.plan()?;
        let others = offered::recipes(&plan, &here.facts.home);
        let others = others.into_iter().filter(|name| !plan.targets.contains(name));
        Some(plan.targets.iter().cloned().chain(others).collect())
    })
}

/// What `smidr lock` can pin anew.
pub(super) fn pins() -> ArgValueCompleter {
    names(|here| {
        let layers = here.projects().flat_map(|project| project.config.layers).map(|layer| layer.name.text);
        let names: BTreeSet<String> = layers.chain([BITBAKE.into(), HOST.into()]).collect();
        Some(names.into_iter().collect())
    })
}

/// Tasks of the build that is named, or of the newest.
pub(super) fn tasks() -> ArgValueCompleter {
    names(|here| {
        // What makes the index could take long.
        fs::metadata(here.paths.history()).ok()?;
        let words = WORDS.get()?.iter().filter_map(|word| word.to_str());
        let id = words.skip(2).find(|word| word.parse::<BuildId>().is_ok_and(|id| here.paths.build(&id).is_dir()));
        let service = LocalService::new(&here.paths);
        let build = context::named_or_newest(&service, id, &here.config, &here.facts).ok()?;
        let tasks: BTreeSet<String> = service.tasks(&build.id).ok()?.iter().map(|task| task.name.to_string()).collect();
        Some(tasks.into_iter().collect())
    })
}
