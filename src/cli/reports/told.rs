//! What reports tell of a build: its journal, folded, and why it failed. In go records and diagnoses, out comes a value.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::super::times::between;
use crate::{
    diagnose::{UNKNOWN, recipe_of_file},
    history::BuildRecord,
    model::{
        Diagnosis, Event, Hint, Outcome, Quote, Record, Shown, SourcePlace, State, TaskName, WarningGroup, recipe_parts,
    },
};

/// More recipes than any build has.
const MOST_RECIPES: usize = 50_000;

/// How many files are listed.
const MOST_FILES: usize = 1000;

/// How much is told of a line, in characters.
const LONGEST: usize = 2000;

/// How many lines show a failure.
const EVIDENCE: usize = 30;

/// A build, for reports.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Its id, or the log that was read.
    pub(super) name: String,
    /// The project and the variant.
    pub(super) class: String,
    /// Where it is, or how it ended; none for logs.
    pub(super) state: Option<State>,
    /// What was built.
    pub(super) targets: Vec<String>,
    pub(super) machine: String,
    pub(super) begun: Option<Timestamp>,
    pub(super) took_ms: u64,
    pub(super) recipes: Vec<Recipe>,
    /// How many tasks ran, and how many took their result from sstate.
    pub(super) ran: u64,
    pub(super) restored: u64,
    pub(super) failures: Vec<Failed>,
    /// The config, as the repository has it.
    pub(super) config: Option<String>,
    /// How many files were kept, their size, and the first of them.
    pub(super) kept: (u64, u64),
    pub(super) files: Vec<(PathBuf, u64)>,
    pub(super) warnings: Vec<WarningGroup>,
}

/// A recipe of which a task ran, or had nothing to do.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) multiconfig: Option<String>,
    /// Of all its tasks together.
    pub(super) took_ms: u64,
    pub(super) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All of its tasks that ran are done.
    Good,
    /// The results of its tasks were there before.
    UpToDate,
    /// A task began and did not end.
    Open,
    /// A task failed.
    Bad,
}

/// A failure, and its place in the repository.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) why: Diagnosis,
    pub(super) place: Option<(String, u64)>,
}

impl Failed {
    /// `busybox:do_compile: missing-header`, on one line.
    pub(super) fn title(&self) -> String {
        let Diagnosis { recipe, task, multiconfig, kind, .. } = &self.why;
        let multiconfig = multiconfig.as_ref().map(|name| format!("mc:{name}:")).unwrap_or_default();
        line(&match (recipe, task) {
            (Some(recipe), Some(task)) => format!("{multiconfig}{recipe}:{task}: {kind}"),
            (Some(recipe), None) => format!("{multiconfig}{recipe}: {kind}"),
            (None, _) => format!("the build: {kind}"),
        })
    }

    /// The lines that show it; each is one line.
    pub(super) fn evidence(&self) -> impl Iterator<Item = String> {
        self.why.evidence.iter().take(EVIDENCE).map(|quote| line(&quote.text))
    }

    /// What smidr has found out about it; each is one line.
    pub(super) fn facts(&self) -> impl Iterator<Item = String> {
        self.why.facts.iter().map(|fact| line(fact))
    }

    /// What to do; each may have lines of a config behind its first one.
    pub(super) fn next(&self) -> impl Iterator<Item = String> {
        self.why.next.iter().map(|hint| lines(&hint.to_string()))
    }
}

/// Text of others as one line that can be printed, of bounded length.
pub(super) fn line(text: &str) -> String {
    let short: String = text.chars().take(LONGEST).collect();
    let more = if short.len() < text.len() { " …" } else { "" };
    String::from(Shown::plain(&format!("{short}{more}")))
}

/// Text of others that can be printed, line by line.
pub(super) fn lines(text: &str) -> String {
    text.lines().take(EVIDENCE).map(line).collect::<Vec<_>>().join("\n")
}

/// The repository that a build belongs to: reports name files as they stand there.
#[derive(Debug, Default)]
pub(crate) struct Repository {
    /// Its folder; under several names, if a link leads to it.
    pub(super) roots: Vec<PathBuf>,
}

impl Repository {
    /// A file's path in it.
    pub(super) fn inside(&self, file: &Path) -> Option<String> {
        let inside = self.roots.iter().find_map(|root| file.strip_prefix(root).ok())?;
        let is_plain = inside.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        inside.to_str().filter(|path| is_plain && !path.is_empty()).map(str::to_owned)
    }
}

/// Records of a build, folded.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    recipes: BTreeMap<String, Work>,
    // The file of each recipe that failed.
    files: BTreeMap<(String, Option<String>), PathBuf>,
    artifacts: Vec<(PathBuf, u64)>,
    ran: u64,
    restored: u64,
    diagnoses: Vec<Diagnosis>,
    warnings: Vec<WarningGroup>,
}

#[derive(Debug, Default)]
struct Work {
    took_ms: u64,
    is_begun: bool,
    running: BTreeMap<(String, bool), Timestamp>,
    failed: BTreeSet<String>,
}

impl Gathering {
    /// Takes what has happened.
    pub(crate) fn take(&mut self, record: &Record) {
        match &record.event {
            Event::TaskStarted { name, setscene, .. } => {
                *(if *setscene { &mut self.restored } else { &mut self.ran }) += 1;
                if let Some(work) = self.work(name) {
                    work.is_begun = true;
                    work.running.insert((name.task.clone(), *setscene), record.at);
                }
            }
            Event::TaskEnded { name, setscene, ok, .. } => {
                let Some(work) = self.work(name) else { return };
                if let Some(begun) = work.running.remove(&(name.task.clone(), *setscene)) {
                    work.took_ms += u64::try_from(between(begun, record.at).as_millis()).unwrap_or_default();
                }
                // What fails from sstate is run, and what failed may be tried again.
                match (setscene, ok) {
                    (false, false) => _ = work.failed.insert(name.task.clone()),
                    (false, true) => _ = work.failed.remove(&name.task),
                    (true, _) => {}
                }
            }
            Event::TaskSkipped { name, .. } => _ = self.work(name),
            Event::Message { text, .. } | Event::Console { line: text } => self.note_file(text),
            Event::ArtifactKept { artifact } if artifact.link.is_none() && self.artifacts.len() < MOST_FILES => {
                self.artifacts.push((artifact.path.clone(), artifact.size));
            }
            Event::Finished { outcome } => {
                self.diagnoses.clone_from(&outcome.diagnoses);
                self.warnings.clone_from(&outcome.warnings);
            }
            _ => {}
        }
    }

    fn work(&mut self, name: &TaskName) -> Option<&mut Work> {
        let is_known = self.recipes.contains_key(&name.recipe) || self.recipes.len() < MOST_RECIPES;
        is_known.then(|| self.recipes.entry(name.recipe.clone()).or_default())
    }

    /// BitBake names the file of a recipe only where a task of it failed: `Task (mc:a:/l/b.bb:do_c) failed with exit code '1'`.
    fn note_file(&mut self, text: &str) {
        let named = text.split_once("Task (").and_then(|(_, rest)| rest.split_once(") failed with exit code"));
        let Some((file, _)) = named.and_then(|(named, _)| named.rsplit_once(":do_")) else { return };
        let Some(path) = file.find('/').and_then(|start| file.get(start..)) else { return };
        if let Some(recipe) = recipe_of_file(file).filter(|_| self.files.len() < MOST_FILES) {
            self.files.insert(recipe, path.into());
        }
    }

    /// All of it; why the build failed stands at its end, unless it is known better.
    pub(crate) fn told(self, build: &BuildRecord, known: Option<Vec<Diagnosis>>, repository: &Repository) -> Told {
        let variant = build.variant.as_ref().map(|variant| format!(".{variant}")).unwrap_or_default();
        let outcome = build.outcome.as_ref();
        let is_bad = matches!(build.state, State::Failed | State::Interrupted);
        let recipes: Vec<Recipe> = self.recipes.iter().map(|(name, work)| work.recipe(name)).collect();
        let config = build.config.as_deref();
        let mut all = known.unwrap_or(self.diagnoses);
        all.retain(|_| is_bad);
        if let Some(outcome) = outcome.filter(|_| is_bad) {
            untold(&mut all, outcome, &recipes, config);
        }
        let place = |why: &Diagnosis| {
            let source = why
                .source
                .as_ref()
                .and_then(|source| Some((repository.inside(Path::new(&source.file))?, source.line.unwrap_or(1))));
            let recipe = why.recipe.clone().and_then(|recipe| self.files.get(&(recipe, why.multiconfig.clone())));
            source.or_else(|| Some((repository.inside(recipe?)?, 1)))
        };
        Told {
            name: build.id.to_string(),
            class: format!("{}{variant}", build.name),
            state: Some(build.state),
            targets: build.targets.clone(),
            machine: build.machine.clone(),
            begun: Some(build.started),
            took_ms: outcome.map_or(0, |outcome| outcome.duration_ms),
            failures: all.into_iter().map(|why| Failed { place: place(&why), why }).collect(),
            config: config.and_then(|config| repository.inside(config)),
            kept: outcome.map_or((0, 0), |outcome| (outcome.artifacts, outcome.artifact_bytes)),
            recipes,
            ran: self.ran,
            restored: self.restored,
            files: self.artifacts,
            warnings: self.warnings,
        }
    }
}

impl Work {
    fn recipe(&self, name: &str) -> Recipe {
        let (multiconfig, recipe) = recipe_parts(name);
        let end = match self {
            Self { failed, .. } if !failed.is_empty() => End::Bad,
            Self { running, .. } if !running.is_empty() => End::Open,
            Self { is_begun: false, .. } => End::UpToDate,
            _ => End::Good,
        };
        Recipe { name: recipe.into(), multiconfig: multiconfig.map(str::to_owned), took_ms: self.took_ms, end }
    }
}

/// Adds failures of the outcome that no diagnosis tells.
fn untold(all: &mut Vec<Diagnosis>, outcome: &Outcome, recipes: &[Recipe], config: Option<&Path>) {
    for recipe in recipes.iter().filter(|recipe| recipe.end == End::Bad) {
        if all.iter().any(|why| tells_of(why, recipe)) {
            continue;
        }
        let failed = outcome
            .failed
            .iter()
            .find(|task| task.name.parts() == (recipe.multiconfig.as_deref(), recipe.name.as_str()));
        let reasons = failed.map(|failed| failed.reasons.clone()).unwrap_or_default();
        let cause = reasons.first().cloned().unwrap_or_else(|| "A task failed, and no line says why.".into());
        all.push(Diagnosis {
            recipe: Some(recipe.name.clone()),
            multiconfig: recipe.multiconfig.clone(),
            task: failed.map(|failed| failed.name.task.clone()),
            ..plain(UNKNOWN.into(), cause, reasons, Vec::new())
        });
    }
    if !all.is_empty() {
        return;
    }
    // What has no task is the build's own failure.
    let kind = outcome.kind.and_then(|kind| serde_json::to_value(kind).ok()?.as_str().map(str::to_owned));
    let cause = match outcome.reasons.is_empty() {
        true => format!("The build ended as {}.", outcome.state),
        false => outcome.reasons.join(": "),
    };
    let source = outcome.place.as_ref().map(|place| SourcePlace {
        file: config.and_then(Path::parent).unwrap_or(Path::new("")).join(&place.file).display().to_string(),
        line: Some(place.line as u64),
    });
    let line = outcome.place.iter().map(|place| place.text.clone()).collect();
    all.push(Diagnosis { source, ..plain(kind.unwrap_or_else(|| UNKNOWN.into()), cause, line, outcome.hints.clone()) });
}

/// A diagnosis without a place.
pub(super) fn plain(kind: String, cause: String, evidence: Vec<String>, next: Vec<Hint>) -> Diagnosis {
    let evidence = evidence.into_iter().map(|text| Quote { text, file: None, line: 0 }).collect();
    Diagnosis { evidence, next, ..Diagnosis::new(kind, cause) }
}

/// Whether a diagnosis is of a recipe, alone or among others.
pub(super) fn tells_of(why: &Diagnosis, recipe: &Recipe) -> bool {
    let own = (why.multiconfig.as_deref(), why.recipe.as_deref());
    own == (recipe.multiconfig.as_deref(), Some(&recipe.name))
        || why.also.iter().any(|task| task.parts() == (recipe.multiconfig.as_deref(), recipe.name.as_str()))
}
