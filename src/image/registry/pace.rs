//! A reader with a minimum transfer rate. Only the time spent waiting for the server counts, not the time that
//! the caller spends on the bytes.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use super::settings::Patience;

/// Fails when the rate is too low.
pub(super) struct Paced<R> {
    inner: R,
    window: Duration,
    least: u64,
    waited: Duration,
    read: u64,
}

impl<R> Paced<R> {
    /// Starts measuring.
    pub(super) fn new(inner: R, patience: &Patience) -> Self {
        Self { inner, window: patience.window, least: patience.least, waited: Duration::ZERO, read: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        let count = self.inner.read(buffer)?;
        self.waited += start.elapsed();
        self.read += count as u64;
        if self.waited >= self.window {
            if self.read < self.least && count > 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the data comes too slowly"));
            }
            (self.waited, self.read) = (Duration::ZERO, 0);
        }
        Ok(count)
    }
}
