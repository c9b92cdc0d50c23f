//! What a stream needs to go on: a place among its caller's open streams, a caller that still may, and a daemon that does not end. A stream that
//! loses its lease ends with a status that says why.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use super::status::{panicked, status};
use crate::daemon::{
    Daemon, DaemonError,
    access::{How, Principal},
};

/// How many messages of a stream wait for a client at most.
const AHEAD: usize = 2;

/// The open streams of a daemon, by caller. Clones are the same.
#[derive(Clone)]
pub(crate) struct Leases {
    daemon: Arc<Daemon>,
    open: Arc<Mutex<HashMap<String, u32>>>,
    ends: watch::Receiver<bool>,
}

impl Leases {
    /// Of a daemon that ends when `ends` says so.
    pub(crate) fn new(daemon: Arc<Daemon>, ends: watch::Receiver<bool>) -> Self {
        Self { daemon, open: Arc::default(), ends }
    }

    /// How many streams are open.
    pub(crate) fn count(&self) -> u64 {
        self.lock().values().copied().map(u64::from).sum()
    }

    /// Counts one more stream of a caller.
    ///
    /// # Errors
    ///
    /// When it has as many as it may.
    pub(crate) fn take(&self, principal: &Principal) -> Result<Lease, Status> {
        let key = format!("{} {}", principal.how.name(), principal.name);
        let most = self.daemon.config().limits.streams;
        let mut open = self.lock();
        let count = open.entry(key.clone()).or_default();
        if *count >= most && principal.how != How::Owner {
            return Err(Status::resource_exhausted(format!(
                "{most} streams are open already: try again when one has ended"
            )));
        }
        *count += 1;
        drop(open);
        let changes = self.daemon.access_changes();
        Ok(Lease { all: self.clone(), principal: principal.clone(), key, changes })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a caller's open streams.
pub(crate) struct Lease {
    all: Leases,
    principal: Principal,
    key: String,
    changes: watch::Receiver<u64>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut open = self.all.lock();
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

impl Lease {
    /// Works for as long as the lease holds.
    ///
    /// # Errors
    ///
    /// Those of the work; why the lease was lost.
    pub(crate) async fn hold<T>(mut self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        tokio::select! {
            done = work => done,
            why = self.lost() => Err(why),
        }
    }

    /// What `work` sends, for as long as the lease holds; at last why it ended early, if it did.
    pub(crate) fn stream<T, F>(self, work: impl FnOnce(mpsc::Sender<T>) -> F) -> impl Stream<Item = Result<T, Status>>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (to, sent) = mpsc::channel(AHEAD);
        let mut task = Some(tokio::spawn(self.hold(work(to))));
        let end = tokio_stream::once(()).then(move |()| {
            let task = task.take();
            async move { task?.await.unwrap_or_else(|_| Err(panicked())).err() }
        });
        let end = end.filter_map(|why| why.map(Err));
        ReceiverStream::new(sent).map(Ok).chain(end)
    }

    /// Waits until the stream may no longer go on. Gives why.
    async fn lost(&mut self) -> Status {
        let (daemon, principal) = (&self.all.daemon, &self.principal);
        tokio::select! {
            () = until_denied(daemon, principal, &mut self.changes) => {
                Status::unauthenticated("the token or certificate is not good any more")
            }
            _ = self.all.ends.wait_for(|ends| *ends) => status(&DaemonError::Ends),
        }
    }
}

/// Waits until a caller may no longer what it might: its token was revoked, or has expired.
async fn until_denied(daemon: &Daemon, principal: &Principal, changes: &mut watch::Receiver<u64>) {
    while daemon.still(principal) {
        let expires = async {
            match daemon.time_left(principal) {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = expires => {}
        }
    }
}
