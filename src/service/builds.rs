//! What may be asked of builds, whether they are this machine's or a daemon's.

use std::io;

use super::{LocalService, ServiceError};
use crate::{
    executors::Life,
    history::{BuildRecord, Cursor, Filter, TaskRecord, journal::Entry},
    model::{Artifact, BuildId, Diagnosis, Submission},
    system::{files::FileError, process::Spawner, stop::StopToken},
};

/// A part of a list of builds, and where the next one begins, if there is one.
pub(crate) type Listed = (Vec<BuildRecord>, Option<String>);

/// Takes a piece of data.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// Builds, on this machine or far away.
pub(crate) trait BuildService {
    /// Takes a build, which goes on without the caller.
    ///
    /// # Errors
    ///
    /// When it is refused, or cannot be recorded.
    fn submit(&self, submission: &Submission) -> Result<BuildId, ServiceError>;

    /// Builds, the newest first, from a place that an earlier answer gave.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    fn page(&self, filter: &Filter, from: Option<&str>, limit: u32) -> Result<Listed, ServiceError>;

    /// One build; without an id the newest. The beginning of an id is enough, or of its last part.
    ///
    /// # Errors
    ///
    /// When there is no such build.
    fn show(&self, id: Option<&str>) -> Result<BuildRecord, ServiceError>;

    /// Why a build failed, as its end says.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    fn diagnoses(&self, id: &BuildId) -> Result<Vec<Diagnosis>, ServiceError>;

    /// The tasks of a build that is over, where they are known.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    fn tasks(&self, id: &BuildId) -> Result<Vec<TaskRecord>, ServiceError>;

    /// What a build left behind.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    fn artifacts(&self, id: &BuildId) -> Result<Vec<Artifact>, ServiceError>;

    /// Hands every entry of a build's journal after record number `after` to `take`, in order. With `follow`, passing states too, until the
    /// build is over or that token stops. `take` says whether it wants more. Gives whether the end of the build was reached.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    fn watch(
        &self,
        id: &BuildId,
        after: u64,
        follow: Option<&StopToken>,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, ServiceError>;

    /// Asks a build to stop, without waiting for its end.
    ///
    /// # Errors
    ///
    /// When there is no such build, it is over, or its worker cannot be reached.
    fn stop(&self, id: &BuildId, kill: bool, reason: Option<&str>) -> Result<(), ServiceError>;

    /// Asks a build to stop, and waits until it has; with `force`, everything in it is killed at once. Gives its final state.
    ///
    /// # Errors
    ///
    /// As for [`BuildService::stop`].
    fn cancel(&self, id: &str, force: bool) -> Result<BuildRecord, ServiceError> {
        let build = self.show(Some(id))?;
        if build.state.is_final() {
            return Err(ServiceError::Over { id: build.id, state: build.state });
        }
        self.stop(&build.id, force, None)?;
        self.watch(&build.id, u64::MAX - 1, Some(&StopToken::default()), &mut |_| true)?;
        self.show(Some(build.id.as_str()))
    }

    /// Removes a build that is over, with all that is known of it.
    ///
    /// # Errors
    ///
    /// When it is not over, or cannot be removed.
    fn remove(&self, id: &BuildId) -> Result<(), ServiceError>;
}

impl BuildService for LocalService<'_> {
    fn submit(&self, submission: &Submission) -> Result<BuildId, ServiceError> {
        let spawner = Spawner::start().map_err(FileError::new("start", std::path::Path::new("/proc/self/exe")))?;
        self.start(submission, &spawner, Life::OfItsOwn)?;
        Ok(submission.id.clone())
    }

    fn page(&self, filter: &Filter, from: Option<&str>, limit: u32) -> Result<Listed, ServiceError> {
        let wrong = |_| ServiceError::Place(from.unwrap_or_default().into());
        let from: Option<Cursor> = from.map(serde_json::from_str).transpose().map_err(wrong)?;
        let Some(history) = self.history()? else { return Ok((Vec::new(), None)) };
        let page = history.page(filter, from.as_ref(), limit)?;
        let builds = page.builds.into_iter().map(|build| self.now(&history, build)).collect::<Result<_, _>>()?;
        Ok((builds, page.next.and_then(|next| serde_json::to_string(&next).ok())))
    }

    fn show(&self, id: Option<&str>) -> Result<BuildRecord, ServiceError> {
        self.show(id)
    }

    fn diagnoses(&self, id: &BuildId) -> Result<Vec<Diagnosis>, ServiceError> {
        self.diagnoses(id)
    }

    fn tasks(&self, id: &BuildId) -> Result<Vec<TaskRecord>, ServiceError> {
        self.tasks(id)
    }

    fn artifacts(&self, id: &BuildId) -> Result<Vec<Artifact>, ServiceError> {
        self.artifacts(id)
    }

    fn watch(
        &self,
        id: &BuildId,
        after: u64,
        follow: Option<&StopToken>,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, ServiceError> {
        self.watch(id, after, follow, take)
    }

    fn stop(&self, id: &BuildId, kill: bool, reason: Option<&str>) -> Result<(), ServiceError> {
        self.stop(id, kill, reason)
    }

    fn remove(&self, id: &BuildId) -> Result<(), ServiceError> {
        let build = self.show(Some(id.as_str()))?;
        if !build.state.is_final() {
            return Err(ServiceError::Runs(build.id));
        }
        self.forget(&build.id)
    }
}
