//! How builds stand and end.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Diagnosis, Hint, Kind, Recovered, TaskName, Usage, UserError, WarningGroup, document_path};

/// Where a build is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Waits for its turn.
    Queued,
    /// Image, layers and conf are made ready.
    Preparing,
    /// BitBake runs.
    Building,
    /// Artifacts are gathered.
    ExtractingArtifacts,
    /// All that was asked for is there.
    Completed,
    /// It ended without.
    Failed,
    /// It was stopped on request.
    Cancelled,
    /// Its worker died without saying how it ended.
    Interrupted,
}

const NAMES: [(State, &str); 8] = [
    (State::Queued, "QUEUED"),
    (State::Preparing, "PREPARING"),
    (State::Building, "BUILDING"),
    (State::ExtractingArtifacts, "EXTRACTING_ARTIFACTS"),
    (State::Completed, "COMPLETED"),
    (State::Failed, "FAILED"),
    (State::Cancelled, "CANCELLED"),
    (State::Interrupted, "INTERRUPTED"),
];

impl State {
    /// Whether the build is over.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Interrupted)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(state, _)| state == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(state, _)| *state)
            .ok_or_else(|| format!("`{text}` is not a state of a build: {}", NAMES.map(|(_, name)| name).join(", ")))
    }
}

/// A task that failed, and its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTask {
    /// Which.
    #[serde(flatten)]
    pub name: TaskName,
    /// Its log, at the host's own path.
    #[serde(flatten, with = "document_path::log")]
    pub log: Option<PathBuf>,
    /// Why: the most telling lines of its log, or of BitBake's messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// The sources that it could not fetch, as SRC_URI names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

/// A line of a config, and what is meant of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigPlace {
    /// The name of the config.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters.
    pub length: usize,
    /// The line.
    pub text: String,
}

/// How a build ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// One of the final states.
    pub state: State,
    /// BitBake's own exit status, where it ran to its end. 128 and the signal's number where a signal ended it.
    pub bitbake_exit: Option<i32>,
    /// Tasks that failed.
    #[serde(default)]
    pub failed: Vec<FailedTask>,
    /// Why it failed, where no task did: an error and its causes.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Who has to act, unless it completed.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// What to do about it.
    #[serde(default)]
    pub hints: Vec<Hint>,
    /// Why it failed, by what BitBake and the logs of failed tasks said: what explains most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnoses: Vec<Diagnosis>,
    /// What BitBake and its tasks warned about, by kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<WarningGroup>,
    /// The second try that was made, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
    /// The line of the config that asked for what failed, if one did and BitBake did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<ConfigPlace>,
    /// What it used of this machine, where BitBake ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Number of files kept.
    pub artifacts: u64,
    /// Their size in bytes.
    pub artifact_bytes: u64,
    /// Whole duration in milliseconds.
    pub duration_ms: u64,
    /// Whether what it left behind has been removed since (`smidr artifacts clean`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleaned: bool,
}

impl Outcome {
    /// The outcome of a build that an error has kept from ending.
    pub fn of(error: &dyn UserError) -> Self {
        let mut reasons = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(error) = cause {
            reasons.push(error.to_string());
            cause = error.source();
        }
        let hints = error.hints();
        match error.kind() {
            // What was asked for needs no reason.
            Kind::Cancelled => Self::new(State::Cancelled),
            kind => Self { reasons, kind: Some(kind), hints, ..Self::new(State::Failed) },
        }
    }

    /// What a process says of it to its caller.
    pub fn exit_code(&self) -> u8 {
        self.kind.map_or(0, Kind::exit_code)
    }

    /// An outcome in a final state, of which nothing else is known yet.
    pub fn new(state: State) -> Self {
        Self {
            state,
            bitbake_exit: None,
            failed: Vec::new(),
            reasons: Vec::new(),
            kind: match state {
                State::Cancelled => Some(Kind::Cancelled),
                State::Failed => Some(Kind::Build),
                State::Interrupted => Some(Kind::Host),
                _ => None,
            },
            hints: Vec::new(),
            diagnoses: Vec::new(),
            warnings: Vec::new(),
            recovered: None,
            place: None,
            usage: None,
            artifacts: 0,
            artifact_bytes: 0,
            duration_ms: 0,
            cleaned: false,
        }
    }
}
