//! Runs gix on a thread of its own, while this one reports progress and polls the stop request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use super::{
    super::{access::Access, git_error::GitError, mirror::Room},
    counters::Counters,
};
use crate::model::{Activity, Unit, without_secrets};

/// How often progress is reported and the stop request is polled.
const LOOK: Duration = Duration::from_millis(100);
/// How long a stop waits for a clean end.
const LAST_WORD: Duration = Duration::from_millis(700);

/// Runs `work`, which counts in the counters and ends soon after the flag is set. On a stop the thread is detached after a short wait; the mirror
/// stays locked until it has ended.
///
/// # Errors
///
/// When a stop is requested, or the thread cannot be started.
pub(super) fn background<T: Send + 'static>(
    room: &Room,
    url: &str,
    access: Access<'_>,
    work: impl FnOnce(&Counters, &AtomicBool) -> T + Send + 'static,
) -> Result<T, GitError> {
    let (done, result) = mpsc::channel();
    let counters = Counters::default();
    let interrupt = Arc::new(AtomicBool::new(false));
    let subject = super::subject(url);
    let (counted, interrupted, lock) = (counters.clone(), interrupt.clone(), room.lock());
    let started = thread::Builder::new().name("fetch".into()).spawn(move || {
        let sent = done.send(work(&counted, &interrupted));
        drop(lock);
        sent
    });
    let failed = |why: String| GitError::Failed { url: without_secrets(url), why };
    started.map_err(|error| failed(error.to_string()))?;
    let tell = || {
        if let (done, Some(total)) = counters.objects() {
            access.on.progress(Activity::Fetch, &subject, done, Some(total), Unit::Items);
        }
    };
    loop {
        match result.recv_timeout(LOOK) {
            Ok(done) => {
                tell();
                return Ok(done);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(failed("gix has panicked".into())),
            Err(RecvTimeoutError::Timeout) if access.stop.is_requested() => {
                interrupt.store(true, Ordering::SeqCst);
                // The result does not matter after a stop.
                let _ = result.recv_timeout(LAST_WORD);
                return Err(GitError::Stopped(subject));
            }
            Err(RecvTimeoutError::Timeout) => tell(),
        }
    }
}
