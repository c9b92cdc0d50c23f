//! How far builds are: their tasks, counted while their journals grow, from where the last count ended.

use super::{Daemon, lock};
use crate::{
    history::journal::{Entry, Reader, Spot},
    model::{BuildId, Event},
    system::files::FileError,
};

/// How many builds are counted at most; of those that are over, none need be.
const MOST: usize = 256;

/// The tasks of a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    spot: Spot,
    /// How many are over, or need not run.
    pub done: u64,
    /// How many there are, once BitBake knows.
    pub total: u64,
    /// How many failed.
    pub failed: u64,
    /// How many need not run.
    pub skipped: u64,
    /// How many took their result from sstate.
    pub from_sstate: u64,
    /// How many could not.
    pub not_in_sstate: u64,
}

impl Tally {
    fn take(&mut self, event: &Event) {
        match event {
            Event::TasksPlanned { total, .. } => self.total = *total,
            Event::TaskEnded { setscene: false, ok, .. } => {
                self.done += 1;
                self.failed += u64::from(!ok);
            }
            Event::TaskEnded { setscene: true, ok, .. } => {
                self.from_sstate += u64::from(*ok);
                self.not_in_sstate += u64::from(!ok);
            }
            Event::TaskSkipped { .. } => {
                self.done += 1;
                self.skipped += 1;
            }
            _ => {}
        }
    }
}

impl Daemon {
    /// How far a build is.
    ///
    /// # Errors
    ///
    /// When its journal cannot be read.
    pub(crate) fn tally(&self, id: &BuildId) -> Result<Tally, FileError> {
        let folder = self.paths.build(id);
        let mut tally = lock(&self.tallies).get(id).copied().unwrap_or_default();
        let Some(mut reader) = Reader::at(&folder, tally.spot)? else { return Ok(tally) };
        while let Some(entry) = reader.read().map_err(FileError::new("read the journal in", &folder))? {
            if let Entry::Record(record) = entry {
                tally.take(&record.event);
            }
        }
        tally.spot = reader.spot();
        let mut tallies = lock(&self.tallies);
        if tallies.len() >= MOST {
            tallies.clear();
        }
        tallies.insert(id.clone(), tally);
        Ok(tally)
    }
}
