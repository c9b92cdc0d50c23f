//! The journal: one order for all events of a build.
//!
//! In go events from any thread, out they go, stamped, to every sink in turn; the durable one stands first, so that nothing
//! is shown that could be forgotten; secrets are taken out before that. It never formats and never prints.

mod redact;

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
pub use redact::Redactor;

use crate::model::{Activity, BuildId, Event, Place, Record, Secrets, Unit};

/// Takes the events of a build, in order. Must not block for long: it holds up the build.
pub trait EventSink: Send {
    /// Takes one event.
    fn accept(&mut self, record: &Record);

    /// Whether it can still take such an event. One that a sink cannot take gets no number: numbers are dense in every journal.
    fn takes(&self, _event: &Event) -> bool {
        true
    }
}

/// A cheap handle on one build's journal. Stamps build, sequence number and time.
#[derive(Clone)]
pub struct Emitter(Arc<Mutex<Journal>>);

struct Journal {
    build: BuildId,
    seq: u64,
    secrets: Secrets,
    redactor: Redactor,
    sinks: Vec<Box<dyn EventSink>>,
}

impl Emitter {
    /// Opens the journal of a build. Sinks are served in the order given: the durable one first.
    pub fn new(build: BuildId, sinks: Vec<Box<dyn EventSink>>) -> Self {
        let (secrets, redactor) = (Secrets::default(), Redactor::default());
        Self(Arc::new(Mutex::new(Journal { build, seq: 0, secrets, redactor, sinks })))
    }

    /// The build that this journal belongs to.
    pub fn build(&self) -> BuildId {
        self.lock().build.clone()
    }

    /// From now on no sink sees these secrets either.
    pub fn hide(&self, secrets: &Secrets) {
        let mut journal = self.lock();
        journal.secrets.extend(secrets);
        journal.redactor = Redactor::new(&journal.secrets);
    }

    /// What takes secrets out of this journal.
    pub fn redactor(&self) -> Redactor {
        self.lock().redactor.clone()
    }

    /// Stamps an event and hands it to every sink.
    pub fn emit(&self, event: Event) {
        self.emit_at(Timestamp::now(), event);
    }

    /// The same for an event that was earlier.
    pub fn emit_at(&self, at: Timestamp, mut event: Event) {
        let mut journal = self.lock();
        journal.redactor.event(&mut event);
        let place = if event.is_passing() || !journal.sinks.iter().all(|sink| sink.takes(&event)) {
            Place::After(journal.seq)
        } else {
            journal.seq += 1;
            Place::Seq(journal.seq)
        };
        let record = Record { build: journal.build.clone(), place, at, event };
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
