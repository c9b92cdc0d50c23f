//! A daemon's builds, from anywhere: the other [`BuildService`].

mod bring;
mod connect;

use std::{
    io::{Read as _, Seek as _},
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use connect::{Login, kept};
use tokio::{runtime::Runtime, sync::Notify};
use tonic::{Code, Status};

use self::connect::{Caller, causes};
use super::{
    convert::{artifact_of, build_of, diagnosis_of, task_record_of},
    proto,
    records::record_of,
    status::error,
    submission,
};
use crate::{
    history::{BuildRecord, Filter, TaskRecord, journal::Entry},
    layers::PackedLayer,
    model::{Artifact, BuildId, Diagnosis, Event, Hint, Kind, Submission, SubmittedLayer},
    service::{BuildService, Cause, Listed, ServiceError},
    system::stop::StopToken,
};

/// How long a call is tried again whose connection has broken: a daemon that is replaced is back before that.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of a blob one message holds, in bytes.
const PART: usize = 256 << 10;

/// A daemon.
pub(crate) struct Remote {
    runtime: Runtime,
    caller: Caller,
    /// Whether it is this user's own, on this machine.
    pub is_own: bool,
    /// Where it is, for people.
    pub address: String,
}

impl Remote {
    /// Waits for a future. The runtime's loop is compiled once for each type that it is given: here that is one for all calls.
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut done = None;
        {
            let future: Pin<&mut dyn Future<Output = ()>> = pin!(async { done = Some(future.await) });
            self.runtime.block_on(future);
        }
        done.expect("the future has ended")
    }

    /// Makes a call. One whose connection breaks is made again, as long as that can do no harm.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn call<T, F>(&self, mut call: impl FnMut(Caller) -> F) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.block_on(async {
            let begun = Instant::now();
            let mut pause = Duration::from_millis(100);
            loop {
                match call(self.caller.clone()).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) if is_broken(&status) && begun.elapsed() < PATIENCE => {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(2));
                    }
                    Err(status) => return Err(failed(&status)),
                }
            }
        })
    }

    /// Makes a call with a request, as [`Remote::call`] does.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn ask<R: Clone, T>(
        &self,
        request: &R,
        ask: impl AsyncFn(Caller, R) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, ServiceError> {
        self.call(|caller| ask(caller, request.clone()))
    }

    /// Hands on each message of a stream until `take` wants no more. Gives whether the stream came to its end.
    fn stream<T, F>(
        &self,
        call: impl FnOnce(Caller) -> F,
        stop: Option<&StopToken>,
        mut take: impl FnMut(T) -> Result<bool, ServiceError>,
    ) -> Result<bool, Broken>
    where
        F: Future<Output = Result<tonic::Response<tonic::Streaming<T>>, Status>>,
    {
        let stopped = Arc::new(Notify::new());
        let notify = stopped.clone();
        let _listening = stop.map(|stop| stop.listen(move |_| notify.notify_one()));
        self.block_on(async {
            let messages = tokio::select! {
                messages = call(self.caller.clone()) => messages,
                () = stopped.notified() => return Ok(false),
            };
            let mut messages = messages.map_err(Broken::Status)?.into_inner();
            loop {
                let message = tokio::select! {
                    message = messages.message() => message.map_err(Broken::Status)?,
                    () = stopped.notified() => return Ok(false),
                };
                match message {
                    None => return Ok(true),
                    Some(message) => {
                        if !take(message).map_err(Broken::Taken)? {
                            return Ok(false);
                        }
                    }
                }
            }
        })
    }

    /// Sends path layers that the daemon does not have. `told` is called with each before it is sent.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn send(
        &self,
        layers: &mut [PackedLayer],
        mut told: impl FnMut(&SubmittedLayer),
    ) -> Result<(), ServiceError> {
        let digests: Vec<String> = layers.iter().map(|layer| layer.layer.digest.to_string()).collect();
        let request = proto::MissingBlobsRequest { digests };
        let missing = self.ask(&request, async |mut caller, request| caller.missing_blobs(request).await)?;
        for packed in layers {
            let digest = packed.layer.digest.to_string();
            if !missing.digests.contains(&digest) {
                continue;
            }
            told(&packed.layer);
            let size = packed.layer.size;
            self.call(|mut caller| {
                let file = packed.archive.try_clone();
                let digest = digest.clone();
                async move {
                    let mut file = file.map_err(|error| Status::aborted(error.to_string()))?;
                    file.rewind().map_err(|error| Status::aborted(error.to_string()))?;
                    let mut first = Some((digest, size));
                    let parts = std::iter::from_fn(move || {
                        let mut data = vec![0; PART];
                        let read = file.read(&mut data).ok()?;
                        data.truncate(read);
                        let (digest, size) = match first.take() {
                            None if read == 0 => return None,
                            first => first.unwrap_or_default(),
                        };
                        Some(proto::UploadBlobRequest { digest, size, data })
                    });
                    caller.upload_blob(tokio_stream::iter(parts)).await
                }
            })?;
        }
        Ok(())
    }

    /// Hands on each line of a log until its end. Where the connection breaks, it goes on from there.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn lines(
        &self,
        mut request: proto::StreamLogsRequest,
        mut take: impl FnMut(&str),
    ) -> Result<(), ServiceError> {
        // The last record, and how many of its lines have come.
        let (mut last, mut patience) = ((0, 0), Patience::default());
        loop {
            let (seq, mut known) = last;
            if seq > 0 {
                (request.after_seq, request.tail) = (seq - 1, 0);
            }
            let sent = request.clone();
            let done = self.stream(
                |mut caller| async move { caller.stream_logs(sent).await },
                None,
                |lines: super::batch::LogLines| {
                    patience.renew();
                    for line in lines.items {
                        if line.seq == seq && known > 0 {
                            known -= 1;
                            continue;
                        }
                        last = (line.seq, if line.seq == last.0 { last.1 + 1 } else { 1 });
                        take(&line.text);
                    }
                    Ok(true)
                },
            );
            match done {
                Err(Broken::Status(status)) if patience.has_for(&status) => pause(),
                done => return done.map(drop).map_err(Into::into),
            }
        }
    }

    /// What a build was pinned to, if that is known.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn lock(&self, id: &BuildId) -> Result<Option<String>, ServiceError> {
        let request = proto::GetLockRequest { build_id: id.to_string() };
        self.call(|mut caller| {
            let request = request.clone();
            async move {
                match caller.get_lock(request).await {
                    Ok(answer) => Ok(tonic::Response::new(Some(answer.into_inner().lock))),
                    Err(status) if status.code() == Code::NotFound => Ok(tonic::Response::new(None)),
                    Err(status) => Err(status),
                }
            }
        })
    }

    /// What the daemon is.
    ///
    /// # Errors
    ///
    /// What the daemon answers.
    pub(crate) fn info(&self) -> Result<proto::ServerInfo, ServiceError> {
        self.call(|mut caller| async move { caller.get_server_info(proto::GetServerInfoRequest {}).await })
    }
}

/// Why a stream ended before its end.
enum Broken {
    /// The daemon, or the connection.
    Status(Status),
    /// The one that takes its messages.
    Taken(ServiceError),
}

impl From<Broken> for ServiceError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Status(status) => failed(&status),
            Broken::Taken(error) => error,
        }
    }
}

/// Since when a stream is broken, if it is.
#[derive(Default)]
struct Patience(Option<Instant>);

impl Patience {
    /// Something has come.
    fn renew(&mut self) {
        self.0 = None;
    }

    /// Whether the stream may be opened again.
    fn has_for(&mut self, status: &Status) -> bool {
        is_broken(status) && self.0.get_or_insert_with(Instant::now).elapsed() < PATIENCE
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(300));
}

/// Whether it was the connection that failed, or the daemon that ended.
fn is_broken(status: &Status) -> bool {
    let of_transport = std::error::Error::source(status).is_some();
    matches!(status.code(), Code::Unavailable)
        || (of_transport && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled))
}

/// What the daemon has answered, or why there is no answer.
fn failed(status: &Status) -> ServiceError {
    let Some(cause) = std::error::Error::source(status) else {
        let mut error = error(status);
        if let (Code::Unauthenticated, ServiceError::Daemon { hints, .. }) = (status.code(), &mut error) {
            let login = "smidr client login HOST:PORT --pin sha256:… --token-file FILE";
            hints.push(Hint::command("say who you are, with --token-file, or for all commands", login));
        }
        return error;
    };
    ServiceError::Daemon {
        message: "the connection to the daemon has failed".into(),
        cause: Cause::chain(vec![causes(cause)]),
        kind: Kind::Outside,
        hints: Vec::new(),
        drawn: None,
    }
}

impl BuildService for Remote {
    fn submit(&self, submission: &Submission) -> Result<BuildId, ServiceError> {
        // Sent twice where an answer is lost, it is one build.
        let request_id = submission.id.to_string();
        let request = submission::request(submission, &request_id, self.is_own);
        let answer = self.ask(&request, async |mut caller, request| caller.start_build(request).await)?;
        parsed(&answer.build_id)
    }

    fn page(&self, filter: &Filter, from: Option<&str>, limit: u32) -> Result<Listed, ServiceError> {
        let request = proto::ListBuildsRequest {
            page_size: limit,
            page_token: from.unwrap_or_default().into(),
            states: filter.states.iter().map(|state| super::convert::state(*state).into()).collect(),
            customer: filter.customer.clone().unwrap_or_default(),
            name: filter.name.clone().unwrap_or_default(),
            labels: filter.labels.clone().into_iter().collect(),
        };
        let answer = self.ask(&request, async |mut caller, request| caller.list_builds(request).await)?;
        let builds = answer.builds.into_iter().map(|build| build_of(build).map_err(odd)).collect::<Result<_, _>>()?;
        Ok((builds, Some(answer.next_page_token).filter(|token| !token.is_empty())))
    }

    fn show(&self, id: Option<&str>) -> Result<BuildRecord, ServiceError> {
        let Some(id) = id else {
            let (builds, _) = self.page(&Filter::default(), None, 1)?;
            return builds.into_iter().next().ok_or(ServiceError::NoBuilds);
        };
        let request = proto::GetBuildRequest { build_id: id.into() };
        let build = self.ask(&request, async |mut caller, request| caller.get_build(request).await)?;
        build_of(build).map_err(odd)
    }

    fn diagnoses(&self, id: &BuildId) -> Result<Vec<Diagnosis>, ServiceError> {
        let request = proto::ExplainBuildRequest { build_id: id.to_string() };
        let answer = self.ask(&request, async |mut caller, request| caller.explain_build(request).await)?;
        Ok(answer.diagnoses.into_iter().map(diagnosis_of).collect())
    }

    fn tasks(&self, id: &BuildId) -> Result<Vec<TaskRecord>, ServiceError> {
        let request = proto::ListTasksRequest { build_id: id.to_string() };
        let mut tasks = Vec::new();
        let take = |part: proto::Tasks| {
            for task in part.items {
                tasks.push(task_record_of(task).map_err(odd)?);
            }
            Ok(true)
        };
        self.stream(|mut caller| async move { caller.list_tasks(request).await }, None, take)?;
        Ok(tasks)
    }

    fn artifacts(&self, id: &BuildId) -> Result<Vec<Artifact>, ServiceError> {
        let request = proto::ListArtifactsRequest { build_id: id.to_string(), patterns: Vec::new() };
        let answer = self.ask(&request, async |mut caller, request| caller.list_artifacts(request).await)?;
        answer.artifacts.into_iter().map(|artifact| artifact_of(artifact).map_err(odd)).collect()
    }

    fn watch(
        &self,
        id: &BuildId,
        after: u64,
        follow: Option<&StopToken>,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, ServiceError> {
        let (mut after, mut end) = (after, false);
        let mut patience = Patience::default();
        loop {
            let (build_id, is_following) = (id.to_string(), follow.is_some());
            let request =
                proto::WatchBuildRequest { build_id, after_seq: after, follow: is_following, progress: is_following };
            let done = self.stream(
                |mut caller| async move { caller.watch_build(request).await },
                follow,
                |records: super::batch::Records| {
                    patience.renew();
                    for record in records.items {
                        let Some(record) = record_of(id, record).map_err(odd)? else { continue };
                        if let Some(seq) = record.seq() {
                            let missing = seq.saturating_sub(after).saturating_sub(1);
                            if missing > 0 && !take(Entry::Missing(missing)) {
                                return Ok(false);
                            }
                            after = seq;
                        }
                        end = matches!(record.event, Event::Finished { .. });
                        if !take(Entry::Record(Box::new(record))) {
                            return Ok(false);
                        }
                        if end {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                },
            );
            if end {
                return Ok(true);
            }
            match done {
                Ok(true) if follow.is_none() => return Ok(true),
                // A daemon that ends closes its streams.
                Ok(true) if self.show(Some(id.as_str()))?.state.is_final() => return Ok(true),
                Ok(true) => pause(),
                Ok(false) => return Ok(false),
                Err(Broken::Status(status)) if patience.has_for(&status) => {
                    if follow.is_some_and(StopToken::is_requested) {
                        return Ok(false);
                    }
                    pause();
                }
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    fn stop(&self, id: &BuildId, kill: bool, reason: Option<&str>) -> Result<(), ServiceError> {
        let request = proto::CancelBuildRequest {
            build_id: id.to_string(),
            force: kill,
            reason: reason.unwrap_or_default().into(),
        };
        self.ask(&request, async |mut caller, request| caller.cancel_build(request).await).map(drop)
    }

    fn remove(&self, id: &BuildId) -> Result<(), ServiceError> {
        let request = proto::DeleteBuildRequest { build_id: id.to_string() };
        self.ask(&request, async |mut caller, request| caller.delete_build(request).await).map(drop)
    }
}

fn parsed(id: &str) -> Result<BuildId, ServiceError> {
    super::convert::id_of("build_id", id).map_err(odd)
}

/// An answer that makes no sense here.
fn odd(invalid: super::convert::Invalid) -> ServiceError {
    ServiceError::Daemon {
        message: format!("the daemon's answer makes no sense here: {invalid}"),
        cause: None,
        kind: Kind::Outside,
        hints: vec![Hint::new("it may be of another version")],
        drawn: None,
    }
}
