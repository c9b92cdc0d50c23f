//! Progress of long work, not told more often than anybody could read.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use crate::{
    events::Emitter,
    model::{Activity, Unit},
};

const PAUSE: Duration = Duration::from_millis(100);

/// Counts bytes of one piece of work.
pub struct Progress {
    on: Emitter,
    activity: Activity,
    subject: String,
    done: u64,
    total: Option<u64>,
    told: Instant,
}

impl Progress {
    /// Begins, and says so.
    pub fn new(on: &Emitter, activity: Activity, subject: impl Into<String>, total: Option<u64>) -> Self {
        let new = Self { on: on.clone(), activity, subject: subject.into(), done: 0, total, told: Instant::now() };
        new.tell();
        new
    }

    /// Some more is done.
    pub fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.told.elapsed() >= PAUSE {
            self.tell();
            self.told = Instant::now();
        }
    }

    /// All is done.
    pub fn finish(mut self) {
        self.total = Some(self.done);
        self.tell();
    }

    fn tell(&self) {
        self.on.progress(self.activity, &self.subject, self.done, self.total, Unit::Bytes);
    }
}

/// Counts what is read.
pub struct Watched<'a, R> {
    inner: R,
    progress: &'a mut Progress,
}

impl<'a, R> Watched<'a, R> {
    /// Begins.
    pub fn new(inner: R, progress: &'a mut Progress) -> Self {
        Self { inner, progress }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.add(count as u64);
        Ok(count)
    }
}
