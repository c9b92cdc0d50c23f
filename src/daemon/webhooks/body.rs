//! What is sent to webhooks. Documented in `docs/webhooks.md`.

use jiff::Timestamp;
use serde::Serialize;

use crate::model::State;

/// What can be told of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was taken, and waits.
    Queued,
    /// Its worker has begun.
    Started,
    /// It is over.
    Finished,
}

impl Event {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Queued, Self::Started, Self::Finished];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queued => "build.queued",
            Self::Started => "build.started",
            Self::Finished => "build.finished",
        }
    }
}

/// A build, as webhooks are told of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BuildFacts {
    /// Its id.
    pub id: String,
    /// Of its project.
    pub name: String,
    /// Whose it is; empty: of no customer.
    pub customer: String,
    /// Where it stands.
    pub state: State,
    /// What is built.
    pub targets: Vec<String>,
    /// For which machine.
    pub machine: Option<String>,
    /// When its worker began.
    pub started: Option<Timestamp>,
    /// When it was over.
    pub ended: Option<Timestamp>,
    /// That a local build would end with.
    pub exit_code: Option<u8>,
    /// Why it ended as it did.
    pub reasons: Vec<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: Timestamp,
    data: &'a BuildFacts,
}

/// The text that is sent.
pub(super) fn text(event: Event, build: &BuildFacts, now: Timestamp) -> String {
    let body = Body { r#type: event.name(), timestamp: now, data: build };
    serde_json::to_string(&body).expect("each field has a text")
}
