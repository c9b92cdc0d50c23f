//! Progress of long work, reported at most a few times a second.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    events::Emitter,
    model::{Activity, Unit},
};

const PAUSE: Duration = Duration::from_millis(100);

/// Counts bytes of one piece of work, which several threads may share.
pub(super) struct Progress {
    on: Emitter,
    activity: Activity,
    subject: String,
    state: Mutex<State>,
}

struct State {
    done: u64,
    total: Option<u64>,
    told: Instant,
}

impl Progress {
    /// Starts, and reports the start.
    pub(super) fn new(on: &Emitter, activity: Activity, subject: impl Into<String>, total: Option<u64>) -> Self {
        let state = State { done: 0, total, told: Instant::now() };
        let new = Self { on: on.clone(), activity, subject: subject.into(), state: Mutex::new(state) };
        new.tell(0, total);
        new
    }

    /// Adds to what is done.
    pub(super) fn add(&self, bytes: u64) {
        // The count is sound even if a thread panicked while it held the lock.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += bytes;
        if state.told.elapsed() >= PAUSE {
            state.told = Instant::now();
            self.tell(state.done, state.total);
        }
    }

    /// Reports the end.
    pub(super) fn finish(self) {
        let done = self.state.lock().unwrap_or_else(PoisonError::into_inner).done;
        self.tell(done, Some(done));
    }

    fn tell(&self, done: u64, total: Option<u64>) {
        self.on.progress(self.activity, &self.subject, done, total, Unit::Bytes);
    }
}
