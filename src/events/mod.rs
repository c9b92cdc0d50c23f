//! The journal: one order for all events of a build.
//!
//! In go events from any thread, out they go, stamped, to every sink in turn; the durable one stands first, so that nothing
//! is shown that could be forgotten. It never formats and never prints.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::model::{Activity, BuildId, Event, Record, Unit};

/// Takes the events of a build, in order. Must not block for long: it holds up the build.
pub trait EventSink: Send {
    /// Takes one event.
    fn accept(&mut self, record: &Record);
}

/// A cheap handle on one build's journal. Stamps build, sequence number and time.
#[derive(Clone)]
pub struct Emitter(Arc<Mutex<Journal>>);

struct Journal {
    build: BuildId,
    seq: u64,
    sinks: Vec<Box<dyn EventSink>>,
}

impl Emitter {
    /// Opens the journal of a build. Sinks are served in the order given: the durable one first.
    pub fn new(build: BuildId, sinks: Vec<Box<dyn EventSink>>) -> Self {
        Self(Arc::new(Mutex::new(Journal { build, seq: 0, sinks })))
    }

    /// The build that this journal belongs to.
    pub fn build(&self) -> BuildId {
        self.lock().build.clone()
    }

    /// Stamps an event and hands it to every sink.
    pub fn emit(&self, event: Event) {
        let mut journal = self.lock();
        journal.seq += 1;
        let record = Record { build: journal.build.clone(), seq: journal.seq, at: Timestamp::now(), event };
        journal.sinks.iter_mut().for_each(|sink| sink.accept(&record));
    }

    /// Says that nothing is broken but something is doubtful.
    pub fn warn(&self, text: impl Into<String>) {
        self.emit(Event::Warning { text: text.into() });
    }

    /// Says how far some long work is.
    pub fn progress(&self, activity: Activity, subject: &str, done: u64, total: Option<u64>, unit: Unit) {
        self.emit(Event::Progress { activity, subject: subject.into(), done, total, unit });
    }

    // A sink that panicked has been reported already; the others still deserve their events.
    fn lock(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
