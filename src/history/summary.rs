//! What the index knows of a build: its journal, folded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    HistoryError,
    journal::{Entry, Reader},
};
use crate::{
    model::{Artifact, BuildId, Event, Outcome, Record, Stage, State, TaskName, document_path},
    system::files::FileError,
};

/// More tasks than any build has: of a hostile one the index keeps no more.
const MOST_TASKS: usize = 200_000;

/// What a list of builds shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BuildRecord {
    /// Its id.
    pub id: BuildId,
    /// The project's name.
    pub name: String,
    /// The project's config; builds of the first smidr have none.
    #[serde(flatten, with = "document_path::config")]
    pub config: Option<PathBuf>,
    /// MACHINE.
    pub machine: String,
    /// What BitBake was asked for.
    pub targets: Vec<String>,
    /// The variant of the config, if it was one.
    pub variant: Option<String>,
    /// Whose build it is, for a daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// What the caller has noted about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it waits for the daemon, and has no worker yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// Where it stands among those that wait, as a daemon has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<QueuePlace>,
    /// Where it is, or how it ended.
    pub state: State,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// A place among the builds that wait for a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueuePlace {
    /// From 1.
    pub position: u32,
    /// Why it waits.
    pub reason: String,
}

/// A task of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    /// Which.
    #[serde(flatten)]
    pub name: TaskName,
    /// Whether it took its result from sstate.
    pub setscene: bool,
    /// When it began.
    pub started: Timestamp,
    /// When it ended, if it did.
    pub ended: Option<Timestamp>,
    /// Whether it succeeded.
    pub ok: Option<bool>,
    /// Its log, at the host's own path.
    #[serde(flatten, with = "document_path::log")]
    pub log: Option<PathBuf>,
}

/// A build with all that the index keeps of it.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// The build.
    pub build: BuildRecord,
    /// Its tasks, in the order in which they began.
    pub tasks: Vec<TaskRecord>,
    /// What it left behind.
    pub artifacts: Vec<Artifact>,
    /// When its last record was written.
    pub last: Option<Timestamp>,
}

impl Summary {
    /// What a build's first record tells; none for another record.
    pub(crate) fn begin(record: &Record) -> Option<Self> {
        let Event::BuildStarted { name, targets, machine, variant, config, customer, labels } = &record.event else {
            return None;
        };
        Some(Self::of(BuildRecord {
            id: record.build.clone(),
            name: name.clone(),
            config: config.clone(),
            machine: machine.clone(),
            targets: targets.clone(),
            variant: variant.clone(),
            customer: customer.clone(),
            labels: labels.clone(),
            waits: false,
            queued: None,
            state: State::Queued,
            started: record.at,
            ended: None,
            outcome: None,
        }))
    }

    /// A build of which no more is known.
    pub(crate) fn of(build: BuildRecord) -> Self {
        Self { build, tasks: Vec::new(), artifacts: Vec::new(), last: None }
    }

    /// Reads a build's journal; with it the number of its last record. None where there is no journal.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read, or does not begin as one.
    pub(crate) fn read(folder: &Path) -> Result<Option<(Self, u64)>, HistoryError> {
        let Some(mut reader) = Reader::open(folder, 0)? else { return Ok(None) };
        let mut summary = None;
        let mut seq = 0;
        while let Some(entry) = reader.read().map_err(FileError::new("read the journal in", folder))? {
            let Entry::Record(record) = entry else { continue };
            seq = record.seq().unwrap_or(seq);
            let summary = match (&mut summary, Self::begin(&record)) {
                (Some(summary), _) => summary,
                (none, Some(begun)) => none.insert(begun),
                (None, None) => continue,
            };
            summary.take(&record);
        }
        let damaged = || HistoryError::Damaged(format!("the journal in {}", folder.display()));
        if seq == 0 { Ok(None) } else { summary.ok_or_else(damaged).map(|summary| Some((summary, seq))) }
    }

    /// Takes one record more.
    pub(crate) fn take(&mut self, record: &Record) {
        if record.seq().is_none() {
            return;
        }
        let before = self.last.replace(record.at);
        match &record.event {
            Event::StageStarted { stage } => {
                self.build.state = match stage {
                    Stage::Prepare => State::Preparing,
                    Stage::Fetch | Stage::Run => State::Building,
                    Stage::Collect => State::ExtractingArtifacts,
                };
            }
            Event::TaskStarted { name, setscene, log, .. } if self.tasks.len() < MOST_TASKS => {
                self.tasks.push(TaskRecord {
                    name: name.clone(),
                    setscene: *setscene,
                    started: record.at,
                    ended: None,
                    ok: None,
                    log: log.clone(),
                })
            }
            Event::TaskEnded { name, setscene, ok, log, .. } => {
                // The last that began: a task that failed from sstate is run.
                let known = self
                    .tasks
                    .iter_mut()
                    .rev()
                    .take(1000)
                    .find(|task| task.ended.is_none() && task.name == *name && task.setscene == *setscene);
                if let Some(task) = known {
                    (task.ended, task.ok) = (Some(record.at), Some(*ok));
                    task.log = log.clone().or(task.log.take());
                }
            }
            Event::ArtifactKept { artifact } => self.artifacts.push(artifact.clone()),
            Event::Finished { outcome } => {
                self.build.state = outcome.state;
                // Of an interrupted one nothing is known after its last record.
                let interrupted = outcome.state == State::Interrupted;
                self.build.ended = before.filter(|_| interrupted).or(Some(record.at));
                // The journal has them: the index stays small.
                self.build.outcome = Some(Outcome { diagnoses: Vec::new(), warnings: Vec::new(), ..outcome.clone() });
                let first_try = self.build.outcome.iter_mut().flat_map(|outcome| &mut outcome.recovered);
                first_try.for_each(|recovered| recovered.diagnoses.clear());
            }
            _ => {}
        }
    }

    /// The journal does not say whether what a build left behind was removed since; its folder does.
    pub(crate) fn note_cleaned(&mut self, folder: &Path) {
        if let Some(outcome) = &mut self.build.outcome
            && outcome.artifacts > 0
        {
            outcome.cleaned = !folder.join("artifacts").is_dir();
        }
    }
}
