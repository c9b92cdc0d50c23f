//! What becomes of builds, told to webhooks and metrics; and what follows from it: a second try, retention.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Daemon, DaemonError,
    blobs::{Incoming, Keep},
    ledger::schedules::ScheduleRow,
    lock,
    metrics::Tasks,
    schedules::Source,
    webhooks::{BuildFacts, Event, Webhooks},
};
use crate::{
    history::BuildRecord,
    model::{BuildId, Digest, State, Submission},
    service::random,
    worker,
};

/// The label of a second try: the build that was interrupted.
const RETRY_OF: &str = "retry-of";

/// A build, as webhooks are told of it.
pub(super) fn facts(build: &BuildRecord, state: State) -> BuildFacts {
    BuildFacts {
        id: build.id.to_string(),
        name: build.name.clone(),
        customer: build.customer.clone().unwrap_or_default(),
        state,
        targets: build.targets.clone(),
        machine: Some(build.machine.clone()).filter(|machine| !machine.is_empty()),
        started: (!build.waits).then_some(build.started),
        ended: build.ended,
        exit_code: build.outcome.as_ref().map(|outcome| outcome.exit_code()),
        reasons: build.outcome.as_ref().map(|outcome| outcome.reasons.clone()).unwrap_or_default(),
    }
}

/// The blobs of a schedule's submission.
fn blobs_of(schedule: &ScheduleRow) -> Vec<Digest> {
    let Ok(Source::Submission { template }) = serde_json::from_str(&schedule.source) else { return Vec::new() };
    let submission: Result<Submission, _> = serde_json::from_str(&template);
    submission.map(|sent| sent.layers.into_iter().map(|layer| layer.digest).collect()).unwrap_or_default()
}

impl Daemon {
    /// Tells that a build is over, once.
    pub(super) fn tell_end(self: &std::sync::Arc<Self>, id: &BuildId, since: Timestamp) -> Result<(), DaemonError> {
        let build = match self.builds().show(Some(id.as_str())) {
            Ok(build) => build,
            // Removed meanwhile.
            Err(_) => return Ok(self.ledger.ended(id, None)?),
        };
        let now = Timestamp::now();
        self.ledger.ended(id, Some(Webhooks::queue(Event::Finished, &facts(&build, build.state), now)))?;
        self.webhooks.wake();
        let tally = self.tally(id).unwrap_or_default();
        let tasks = Tasks {
            succeeded: tally.done.saturating_sub(tally.failed + tally.skipped),
            failed: tally.failed,
            from_sstate: tally.from_sstate,
            not_in_sstate: tally.not_in_sstate,
        };
        let between = |from: Timestamp, to: Timestamp| Duration::try_from(to.duration_since(from)).unwrap_or_default();
        self.metrics.ended(
            build.state,
            between(since, build.started),
            between(build.started, build.ended.unwrap_or(now)),
            tasks,
        );
        lock(&self.tallies).remove(id);
        tracing::info!(build = %id, state = %build.state, "a build is over");
        let again = if build.state == State::Interrupted { self.try_again(id) } else { Ok(()) };
        // Afterwards: what is tried again needs its blobs.
        self.sweep_blobs();
        again
    }

    /// Removes blobs that were not used for long, and those for which there is no room.
    pub(super) fn sweep_blobs(&self) {
        self.sweep_blobs_to(self.config().limits.blobs_size);
    }

    fn sweep_blobs_to(&self, bytes: u64) {
        let days = self.config().limits.blob_days;
        let keep = Keep { used_within: Duration::from_secs(u64::from(days) * 86_400), bytes };
        let of_schedules: Vec<Digest> = self.schedules.list().unwrap_or_default().iter().flat_map(blobs_of).collect();
        let needed = |blob: &Digest| of_schedules.contains(blob) || lock(&self.queue).needs(blob);
        if let Err(error) = self.blobs.sweep(keep, &needed) {
            tracing::warn!(%error, "old blobs could not be removed");
        }
    }

    /// Begins to take a blob of a customer; those that are not used make room for it.
    ///
    /// # Errors
    ///
    /// When it is too large, there is no room for it, or the file system refuses.
    pub(crate) fn receive(&self, digest: Digest, size: u64, customer: Option<&str>) -> Result<Incoming, DaemonError> {
        Ok(self.blobs.receive(digest, size, customer, &|bytes| self.sweep_blobs_to(bytes))?)
    }

    /// Takes a part of a blob.
    ///
    /// # Errors
    ///
    /// When more comes than was announced, there is no room for it, or the file system refuses.
    pub(crate) fn receive_part(&self, incoming: &mut Incoming, part: &[u8]) -> Result<(), DaemonError> {
        self.blobs.keep_room(incoming, part.len() as u64, &|bytes| self.sweep_blobs_to(bytes))?;
        Ok(incoming.write(part)?)
    }

    /// Starts a build once more whose worker was killed, where that was asked for.
    fn try_again(self: &std::sync::Arc<Self>, id: &BuildId) -> Result<(), DaemonError> {
        let Ok(submission) = worker::submitted(&self.paths.build(id)) else { return Ok(()) };
        if !submission.retry_interrupted || submission.labels.contains_key(RETRY_OF) {
            return Ok(());
        }
        let again = BuildId::new(id.name(), random()).map_err(crate::project::ProjectError::from)?;
        let mut submission = Submission { id: again.clone(), ..submission };
        submission.labels.insert(RETRY_OF.into(), id.to_string());
        let about = self.judge(&mut submission)?;
        // Once for each that was interrupted, whatever is killed meanwhile.
        self.take_now(submission, about, Some(format!("{RETRY_OF}\n{id}")))?;
        tracing::info!(build = %id, again = %again, "an interrupted build starts again");
        Ok(())
    }
}
