//! The server of the API: each call is checked here, and answered by the daemon.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{
    auth::Noted,
    batch::{self, Batch, LogLines, Records},
    convert::{self, artifact, path_of, state_of, time},
    download::{self, FilePieces, LEFT_OUT, Tar},
    feed::{Feeds, Form},
    lease::Leases,
    listen::{Following, Peer},
    proto::{self, smidr_server::Smidr},
    records::record,
    status::{panicked, status},
    submission,
};
use crate::{
    daemon::{
        About, Asked, Daemon, DaemonError, InQueue, Place, Purge, QueueView, Rule,
        access::{Denied, Principal, Scope},
        audit::Object,
    },
    history::{BuildRecord, Filter, journal::Spot},
    model::{self, BuildId, Event, Record, State, Submission},
    service::{BuildService as _, ServiceError},
};

/// Changes of the queue that come within this time are looked at once.
const TOGETHER: Duration = Duration::from_millis(20);

/// How many builds a page has, where the caller does not say.
const PAGE: u32 = 50;

/// How many at most.
const LARGEST_PAGE: u32 = 1000;

/// How many tasks one message holds.
const TASKS_AT_ONCE: usize = 1000;

/// The answers of the API.
#[derive(Clone)]
pub(crate) struct Api {
    /// Answers.
    pub daemon: Arc<Daemon>,
    /// Journals.
    pub feeds: Arc<Feeds>,
    /// Open streams.
    pub leases: Leases,
}

type Answer<T> = Result<Response<T>, Status>;
type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn principal<T>(request: &Request<T>) -> Result<Principal, Status> {
    request.extensions().get::<Principal>().cloned().ok_or_else(|| Status::unauthenticated("the caller is not known"))
}

/// What the audit log says of a call.
fn note<T>(request: &Request<T>) -> Noted {
    request.extensions().get::<Noted>().cloned().unwrap_or_default()
}

fn answer<T, E: Into<DaemonError>>(result: Result<T, E>) -> Answer<T> {
    result.map(Response::new).map_err(|error| status(&error.into()))
}

/// An id as callers write it; one that cannot be part of an id is none of a build.
pub(super) fn wanted(id: &str) -> Result<&str, Status> {
    let is_part =
        !id.is_empty() && id.len() <= 100 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match is_part {
        true => Ok(id),
        false if id.is_empty() => Err(Status::invalid_argument("build_id is missing")),
        false => Err(Status::not_found("there is no such build")),
    }
}

/// Work that blocks: SQLite, files.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DaemonError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| status(&error)),
        Err(_) => Err(panicked()),
    }
}

fn queued(place: Place) -> proto::Queued {
    proto::Queued { position: place.position, reason: place.reason }
}

fn in_queue(one: InQueue) -> proto::QueueEntry {
    proto::QueueEntry {
        build_id: one.record.id.to_string(),
        customer: one.record.customer.unwrap_or_default(),
        priority: one.priority,
        since: Some(time(one.since)),
        position: one.place.as_ref().map_or(0, |place| place.position),
        reason: one.place.map(|place| place.reason).unwrap_or_default(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn queue(view: QueueView) -> proto::Queue {
    proto::Queue {
        paused: view.paused,
        max_builds: view.builds,
        running: view.running.into_iter().map(in_queue).collect(),
        waiting: view.waiting.into_iter().map(in_queue).collect(),
        running_in_all: count(view.running_in_all),
        waiting_in_all: count(view.waiting_in_all),
    }
}

impl Api {
    /// A build that the caller may see.
    async fn build(&self, principal: &Principal, id: &str) -> Result<BuildRecord, Status> {
        let (daemon, principal, id) = (self.daemon.clone(), principal.clone(), wanted(id)?.to_owned());
        blocking(move || daemon.show(&principal, &id)).await
    }

    fn as_sent(&self, principal: &Principal, build: &BuildRecord) -> proto::Build {
        let place = if build.state.is_final() { None } else { self.daemon.waits(&build.id, principal) };
        convert::build(build, place.map(queued))
    }

    /// Streams a journal in the form that is wanted.
    fn journal<T: Send + 'static>(
        &self,
        (principal, following): (Principal, Following),
        id: BuildId,
        form: Form,
        from: Spot,
        (follow, progress): (bool, bool),
    ) -> Result<Sent<Batch<T>>, Status> {
        let lease = self.leases.take(&principal)?;
        let (daemon, feeds) = (self.daemon.clone(), self.feeds.clone());
        let sent = lease.stream(move |to| async move {
            if follow {
                until_begun(&daemon, &principal, &id, (&to, progress)).await;
            }
            let sent = feeds.of(&id).stream(form, from, follow, progress, (to, following.connection())).await;
            drop(following);
            sent
        });
        Ok(Box::pin(sent.map(|encoded| encoded.map(Batch::encoded))))
    }

    /// What is sent, named and judged.
    pub(super) async fn judged(
        &self,
        principal: &Principal,
        sent: proto::StartBuildRequest,
    ) -> Result<(Submission, About), Status> {
        if sent.local.is_some() {
            principal.require_owner().map_err(|_| status(&DaemonError::Denied(Denied::Local)))?;
        }
        let customer = principal.customer_for(Some(sent.customer.clone()).filter(|name| !name.is_empty()));
        let customer = customer.map_err(|error| status(&error.into()))?;
        submission::check_words(&sent)?;
        let daemon = self.daemon.clone();
        let judging = tokio::task::spawn_blocking(move || {
            let local = sent.local.as_ref().map(submission::local_config).transpose()?;
            let asked = Asked {
                config: &sent.config,
                config_name: submission::config_name(&sent),
                local_config: sent.local_config.as_deref(),
                variant: sent.variant.as_deref(),
                variables: &sent.variables.clone().into_iter().collect(),
                local,
                customer: customer.clone(),
            };
            let (id, origin, project) = daemon.name(&asked).map_err(|error| status(&error))?;
            let mut submission = submission::submission(sent, origin, id)?;
            (submission.project, submission.customer) = (Some(project), customer);
            let about = daemon.judge(&mut submission).map_err(|error| status(&error))?;
            Ok((submission, about))
        });
        judging.await.unwrap_or_else(|_| Err(panicked()))
    }

    async fn start(
        &self,
        principal: Principal,
        sent: proto::StartBuildRequest,
    ) -> Result<proto::StartBuildResponse, Status> {
        principal.require(Scope::Submit).map_err(|error| status(&error.into()))?;
        let request_id = sent.request_id.clone();
        let (submission, about) = self.judged(&principal, sent).await?;
        let accepted = self.daemon.take(&principal, submission, about, &request_id).await;
        let accepted = accepted.map_err(|error| status(&error))?;
        Ok(proto::StartBuildResponse {
            build_id: accepted.build.to_string(),
            repeated: accepted.repeated,
            queued: accepted.place.map(queued),
        })
    }
}

/// Counts a stream among those of its connection.
fn following<T>(request: &Request<T>) -> Following {
    request.extensions().get::<Peer>().map(|peer| peer.followers.clone()).unwrap_or_default().follow()
}

/// Waits until a build waits for the daemon no longer, or its client is gone, and tells that client its place, if it wants to know.
async fn until_begun(daemon: &Daemon, principal: &Principal, id: &BuildId, (to, tells): (&mpsc::Sender<Bytes>, bool)) {
    let mut changes = daemon.queue_changes();
    let mut told = None;
    while let Some(place) = daemon.waits(id, principal) {
        if tells && told.as_ref() != Some(&place) {
            let Place { position, reason } = place.clone();
            let (at, event) = (Timestamp::now(), Event::InQueue { position, reason });
            let mut encoded = BytesMut::new();
            batch::encode(
                &record(&Record { build: id.clone(), place: model::Place::After(0), at, event }),
                &mut encoded,
            );
            if to.send(encoded.freeze()).await.is_err() {
                return;
            }
            told = Some(place);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = to.closed() => return,
        }
        // Many builds may begin to wait at once: each of them is a change.
        tokio::time::sleep(TOGETHER).await;
    }
}

#[tonic::async_trait]
impl Smidr for Api {
    type StreamLogsStream = Sent<LogLines>;
    type WatchBuildStream = Sent<Records>;
    type ListTasksStream = Sent<proto::Tasks>;
    type DownloadArtifactStream = Sent<proto::Chunk>;
    type DownloadBuildStream = Sent<proto::Chunk>;

    async fn start_build(&self, request: Request<proto::StartBuildRequest>) -> Answer<proto::StartBuildResponse> {
        let (principal, noted) = (principal(&request)?, note(&request));
        let asked = request.into_inner();
        let customer = Some(asked.customer.clone()).filter(|customer| !customer.is_empty());
        let started = self.start(principal, asked).await?;
        noted.build(&started.build_id, customer.as_deref());
        Ok(Response::new(started))
    }

    async fn get_build(&self, request: Request<proto::GetBuildRequest>) -> Answer<proto::Build> {
        let principal = principal(&request)?;
        let build = self.build(&principal, &request.get_ref().build_id).await?;
        Ok(Response::new(self.as_sent(&principal, &build)))
    }

    async fn get_build_status(&self, request: Request<proto::GetBuildStatusRequest>) -> Answer<proto::BuildStatus> {
        let principal = principal(&request)?;
        let build = self.build(&principal, &request.get_ref().build_id).await?;
        let (daemon, id) = (self.daemon.clone(), build.id.clone());
        let tally = blocking(move || Ok(daemon.tally(&id)?)).await?;
        Ok(Response::new(proto::BuildStatus {
            build_id: build.id.to_string(),
            state: convert::state(build.state).into(),
            queued: self.daemon.waits(&build.id, &principal).map(queued),
            tasks_done: tally.done,
            tasks_total: tally.total,
            tasks_failed: tally.failed,
            started: Some(time(build.started)),
            ended: build.ended.map(time),
            exit_code: build.outcome.as_ref().map(|outcome| outcome.exit_code().into()),
        }))
    }

    async fn list_builds(&self, request: Request<proto::ListBuildsRequest>) -> Answer<proto::ListBuildsResponse> {
        let principal = principal(&request)?;
        principal.require(Scope::Read).map_err(|error| status(&error.into()))?;
        let wanted = request.into_inner();
        let states = wanted.states.iter().map(|state| state_of(*state)).collect::<Result<Vec<_>, _>>()?;
        let asked = Some(wanted.customer).filter(|customer| !customer.is_empty());
        let Ok(customer) = principal.customer_for(asked) else {
            // Another customer's builds: there are none to be seen.
            return Ok(Response::new(proto::ListBuildsResponse::default()));
        };
        let filter = Filter {
            customer,
            name: Some(wanted.name).filter(|name| !name.is_empty()),
            states: states.into_iter().flatten().collect::<Vec<State>>(),
            labels: wanted.labels.into_iter().collect(),
        };
        let size = if wanted.page_size == 0 { PAGE } else { wanted.page_size.min(LARGEST_PAGE) };
        let (daemon, from) = (self.daemon.clone(), wanted.page_token);
        let (builds, next) = blocking(move || {
            let from = Some(from.as_str()).filter(|from| !from.is_empty());
            Ok(daemon.builds().page(&filter, from, size)?)
        })
        .await?;
        Ok(Response::new(proto::ListBuildsResponse {
            builds: builds.iter().map(|build| self.as_sent(&principal, build)).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn stream_logs(&self, request: Request<proto::StreamLogsRequest>) -> Answer<Self::StreamLogsStream> {
        let (principal, following) = (principal(&request)?, following(&request));
        let asked = request.into_inner();
        let build = self.build(&principal, &asked.build_id).await?;
        let form = match (asked.grep.as_str(), asked.task.as_str()) {
            ("", "") => Form::Lines,
            _ => Form::Some { grep: asked.grep, task: asked.task },
        };
        let mut from = Spot { after: asked.after_seq, offset: None };
        if asked.tail > 0 {
            let (daemon, id, form, tail) = (self.daemon.clone(), build.id.clone(), form.clone(), asked.tail);
            from = blocking(move || {
                Ok(super::feed::tail(&daemon.paths.build(&id), &form, tail, from).map_err(ServiceError::from)?)
            })
            .await?;
        }
        Ok(Response::new(self.journal((principal, following), build.id, form, from, (asked.follow, false))?))
    }

    async fn watch_build(&self, request: Request<proto::WatchBuildRequest>) -> Answer<Self::WatchBuildStream> {
        let (principal, following) = (principal(&request)?, following(&request));
        let asked = request.into_inner();
        let build = self.build(&principal, &asked.build_id).await?;
        let from = Spot { after: asked.after_seq, offset: None };
        let place = (asked.follow, asked.progress);
        let sent = self.journal((principal, following), build.id, Form::Records, from, place)?;
        Ok(Response::new(sent))
    }

    async fn cancel_build(&self, request: Request<proto::CancelBuildRequest>) -> Answer<proto::CancelBuildResponse> {
        let (principal, daemon, noted) = (principal(&request)?, self.daemon.clone(), note(&request));
        let asked = request.into_inner();
        noted.build(wanted(&asked.build_id)?, None);
        let build = blocking(move || {
            let reason = Some(asked.reason.as_str()).filter(|reason| !reason.is_empty());
            daemon.cancel(&principal, &asked.build_id, asked.force, reason)
        })
        .await?;
        Ok(Response::new(proto::CancelBuildResponse { state: convert::state(build.state).into() }))
    }

    async fn delete_build(&self, request: Request<proto::DeleteBuildRequest>) -> Answer<proto::DeleteBuildResponse> {
        let (principal, daemon) = (principal(&request)?, self.daemon.clone());
        let id = wanted(&request.get_ref().build_id)?.to_owned();
        note(&request).build(&id, None);
        blocking(move || daemon.remove(&principal, &id)).await?;
        Ok(Response::new(proto::DeleteBuildResponse {}))
    }

    async fn purge_builds(&self, request: Request<proto::PurgeBuildsRequest>) -> Answer<proto::PurgeBuildsResponse> {
        let (principal, daemon, noted) = (principal(&request)?, self.daemon.clone(), note(&request));
        let asked = request.into_inner();
        let wanted = super::admin::purge_words(&asked);
        let whose = Some(asked.customer.clone()).filter(|customer| !customer.is_empty());
        let note = |detail| noted.object(Object { customer: whose.clone(), detail: Some(detail), ..Object::default() });
        note(wanted.clone());
        let rule = Rule {
            keep: asked.keep.map(|keep| keep as usize),
            older_than: asked.older_than_s.map(Duration::from_secs),
            size: asked.max_bytes,
            ..Rule::default()
        };
        if rule.is_empty() {
            return Err(Status::invalid_argument("keep, older_than_s or max_bytes says what goes"));
        }
        let customer = Some(asked.customer).filter(|customer| !customer.is_empty());
        let purge = Purge { rule, customer, artifacts_only: asked.artifacts_only, dry_run: asked.dry_run };
        let gone = blocking(move || daemon.purge(&principal, purge)).await?;
        note(format!("{wanted}: {} builds", gone.len()));
        Ok(Response::new(proto::PurgeBuildsResponse {
            build_ids: gone.iter().map(|(build, _)| build.id.to_string()).collect(),
            bytes: gone.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)),
        }))
    }

    async fn explain_build(&self, request: Request<proto::ExplainBuildRequest>) -> Answer<proto::Explanation> {
        let build = self.build(&principal(&request)?, &request.get_ref().build_id).await?;
        let (daemon, id) = (self.daemon.clone(), build.id.clone());
        let diagnoses = blocking(move || Ok(daemon.builds().diagnoses(&id)?)).await?;
        Ok(Response::new(convert::explanation(&build, &diagnoses)))
    }

    async fn get_lock(&self, request: Request<proto::GetLockRequest>) -> Answer<proto::GetLockResponse> {
        let principal = principal(&request)?;
        let build = self.build(&principal, &request.get_ref().build_id).await?;
        let daemon = self.daemon.clone();
        let lock = blocking(move || daemon.pins(&build.id)).await?;
        let none =
            || Status::not_found("its sources are not resolved, or its project is a folder of the daemon's machine");
        Ok(Response::new(proto::GetLockResponse { lock: lock.ok_or_else(none)? }))
    }

    async fn list_tasks(&self, request: Request<proto::ListTasksRequest>) -> Answer<Self::ListTasksStream> {
        let principal = principal(&request)?;
        let build = self.build(&principal, &request.get_ref().build_id).await?;
        let daemon = self.daemon.clone();
        let tasks = blocking(move || Ok(daemon.builds().tasks(&build.id)?)).await?;
        let parts: Vec<_> = tasks
            .chunks(TASKS_AT_ONCE)
            .map(|part| Ok(proto::Tasks { items: part.iter().map(convert::task_record).collect() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn list_artifacts(
        &self,
        request: Request<proto::ListArtifactsRequest>,
    ) -> Answer<proto::ListArtifactsResponse> {
        let principal = principal(&request)?;
        let asked = request.into_inner();
        let build = self.build(&principal, &asked.build_id).await?;
        let (daemon, id) = (self.daemon.clone(), build.id.clone());
        let artifacts = blocking(move || daemon.artifacts(&id, &asked.patterns)).await?;
        let artifacts = artifacts.iter().map(artifact).collect();
        Ok(Response::new(proto::ListArtifactsResponse { build_id: build.id.to_string(), artifacts }))
    }

    async fn download_artifact(
        &self,
        request: Request<proto::DownloadArtifactRequest>,
    ) -> Answer<Self::DownloadArtifactStream> {
        let principal = principal(&request)?;
        let asked = request.into_inner();
        let build = self.build(&principal, &asked.build_id).await?;
        let Some(path) = path_of(asked.path) else { return Err(Status::invalid_argument("path is missing")) };
        let lease = self.leases.take(&principal)?;
        let (daemon, id, offset) = (self.daemon.clone(), build.id, asked.offset);
        let (pieces, artifact) = blocking(move || {
            let artifact = download::found(&daemon, &id, &path)?;
            Ok((FilePieces::open(&daemon, &id, &artifact, offset, None)?, artifact))
        })
        .await?;
        let sha256 = artifact.sha256.map(|digest| digest.hex().to_string());
        let sent = download::stream(lease, pieces);
        Ok(Response::new(download::chunks(artifact.size, sha256, sent)))
    }

    async fn download_build(&self, request: Request<proto::DownloadBuildRequest>) -> Answer<Self::DownloadBuildStream> {
        let principal = principal(&request)?;
        let asked = request.into_inner();
        let build = self.build(&principal, &asked.build_id).await?;
        let (daemon, lease) = (self.daemon.clone(), self.leases.take(&principal)?);
        let archive = blocking(move || Tar::new(daemon, &build.id, &asked.patterns)).await?;
        let (size, left_out) = (archive.size, archive.left_out);
        let sent = download::stream(lease, archive);
        let mut response = Response::new(download::chunks(size, None, sent));
        response.metadata_mut().insert(LEFT_OUT, left_out.into());
        Ok(response)
    }

    async fn get_queue(&self, request: Request<proto::GetQueueRequest>) -> Answer<proto::Queue> {
        let principal = principal(&request)?;
        principal.require(Scope::Read).map_err(|error| status(&error.into()))?;
        Ok(Response::new(queue(self.daemon.queue(&principal))))
    }

    async fn pause_queue(&self, request: Request<proto::PauseQueueRequest>) -> Answer<proto::Queue> {
        let principal = principal(&request)?;
        principal.require(Scope::Admin).map_err(|error| status(&error.into()))?;
        self.daemon.pause(true).await.map_err(|error| status(&error))?;
        Ok(Response::new(queue(self.daemon.queue(&principal))))
    }

    async fn resume_queue(&self, request: Request<proto::ResumeQueueRequest>) -> Answer<proto::Queue> {
        let principal = principal(&request)?;
        principal.require(Scope::Admin).map_err(|error| status(&error.into()))?;
        self.daemon.pause(false).await.map_err(|error| status(&error))?;
        Ok(Response::new(queue(self.daemon.queue(&principal))))
    }

    async fn missing_blobs(&self, request: Request<proto::MissingBlobsRequest>) -> Answer<proto::MissingBlobsResponse> {
        let principal = principal(&request)?;
        principal.require(Scope::Submit).map_err(|error| status(&error.into()))?;
        let (daemon, wanted) = (self.daemon.clone(), super::blobs::digests(&request.get_ref().digests)?);
        let missing = blocking(move || Ok(daemon.blobs.missing(&wanted, principal.customer.as_deref()))).await?;
        let digests = missing.iter().map(ToString::to_string).collect();
        Ok(Response::new(proto::MissingBlobsResponse { digests }))
    }

    async fn upload_blob(
        &self,
        request: Request<Streaming<proto::UploadBlobRequest>>,
    ) -> Answer<proto::UploadBlobResponse> {
        let (principal, noted) = (principal(&request)?, note(&request));
        principal.require(Scope::Submit).map_err(|error| status(&error.into()))?;
        let lease = self.leases.take(&principal)?;
        let received =
            lease.hold(super::blobs::receive(&self.daemon, principal.customer, request.into_inner())).await?;
        noted.name(&received.digest, "");
        Ok(Response::new(received))
    }

    async fn create_token(&self, request: Request<proto::CreateTokenRequest>) -> Answer<proto::CreateTokenResponse> {
        let (principal, noted) = (principal(&request)?, note(&request));
        let asked = request.into_inner();
        noted.object(Object {
            name: Some(asked.name.clone()),
            customer: Some(asked.customer.clone()).filter(|customer| !customer.is_empty()),
            scopes: asked.scopes().map(|scope| scope.as_str_name().to_ascii_lowercase()).collect(),
            ..Object::default()
        });
        self.make_token(&principal, asked).await.map(Response::new)
    }

    async fn list_tokens(&self, request: Request<proto::ListTokensRequest>) -> Answer<proto::ListTokensResponse> {
        let principal = principal(&request)?;
        self.tokens(&principal).map(Response::new)
    }

    async fn delete_token(&self, request: Request<proto::DeleteTokenRequest>) -> Answer<proto::DeleteTokenResponse> {
        note(&request).name(&request.get_ref().name, "");
        principal(&request)?.require_owner().map_err(|error| status(&error.into()))?;
        answer(self.daemon.revoke_token(request.into_inner().name).await.map(|()| proto::DeleteTokenResponse {}))
    }

    async fn create_schedule(&self, request: Request<proto::CreateScheduleRequest>) -> Answer<proto::Schedule> {
        let principal = principal(&request)?;
        if let Some(asked) = &request.get_ref().schedule {
            note(&request).name(&asked.name, &asked.customer);
        }
        self.make_schedule(principal, request.into_inner()).await.map(Response::new)
    }

    async fn list_schedules(
        &self,
        request: Request<proto::ListSchedulesRequest>,
    ) -> Answer<proto::ListSchedulesResponse> {
        let principal = principal(&request)?;
        self.schedules(&principal).await.map(Response::new)
    }

    async fn delete_schedule(
        &self,
        request: Request<proto::DeleteScheduleRequest>,
    ) -> Answer<proto::DeleteScheduleResponse> {
        let principal = principal(&request)?;
        note(&request).name(&request.get_ref().name, &request.get_ref().customer);
        self.drop_schedule(&principal, request.into_inner()).await.map(Response::new)
    }

    async fn run_schedule(&self, request: Request<proto::RunScheduleRequest>) -> Answer<proto::RunScheduleResponse> {
        let (principal, noted) = (principal(&request)?, note(&request));
        let asked = request.into_inner();
        noted.name(&asked.name, &asked.customer);
        let started = self.start_schedule(&principal, asked).await?;
        noted.started(&started.build_id);
        Ok(Response::new(started))
    }

    async fn create_webhook(
        &self,
        request: Request<proto::CreateWebhookRequest>,
    ) -> Answer<proto::CreateWebhookResponse> {
        let principal = principal(&request)?;
        if let Some(asked) = &request.get_ref().webhook {
            note(&request).name(&asked.name, &asked.customer);
        }
        self.make_webhook(&principal, request.into_inner()).await.map(Response::new)
    }

    async fn list_webhooks(&self, request: Request<proto::ListWebhooksRequest>) -> Answer<proto::ListWebhooksResponse> {
        let principal = principal(&request)?;
        self.webhooks(&principal).await.map(Response::new)
    }

    async fn delete_webhook(
        &self,
        request: Request<proto::DeleteWebhookRequest>,
    ) -> Answer<proto::DeleteWebhookResponse> {
        let principal = principal(&request)?;
        note(&request).name(&request.get_ref().name, &request.get_ref().customer);
        self.drop_webhook(&principal, request.into_inner()).await.map(Response::new)
    }

    async fn list_deliveries(
        &self,
        request: Request<proto::ListDeliveriesRequest>,
    ) -> Answer<proto::ListDeliveriesResponse> {
        let principal = principal(&request)?;
        self.deliveries(&principal, request.into_inner()).await.map(Response::new)
    }

    async fn resend_delivery(
        &self,
        request: Request<proto::ResendDeliveryRequest>,
    ) -> Answer<proto::ResendDeliveryResponse> {
        let principal = principal(&request)?;
        note(&request).name(&request.get_ref().id, "");
        self.resend(&principal, request.into_inner()).await.map(Response::new)
    }

    async fn who_am_i(&self, request: Request<proto::WhoAmIRequest>) -> Answer<proto::WhoAmIResponse> {
        let principal = principal(&request)?;
        Ok(Response::new(proto::WhoAmIResponse {
            scopes: principal.scopes.iter().map(|one| super::admin::scope(*one).into()).collect(),
            customer: principal.customer.clone().unwrap_or_default(),
            how: principal.how.name().into(),
            name: principal.name,
        }))
    }

    async fn get_server_info(&self, request: Request<proto::GetServerInfoRequest>) -> Answer<proto::ServerInfo> {
        let principal = principal(&request)?;
        let view = self.daemon.queue(&principal);
        let is_admin = principal.has(Scope::Admin);
        let admin = |text: String| if is_admin { text } else { String::new() };
        let (addresses, pin) = self.daemon.addresses();
        Ok(Response::new(proto::ServerInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            started: Some(time(self.daemon.started)),
            builds_running: count(view.running.len()),
            builds_waiting: count(view.waiting.len()),
            paused: view.paused,
            home: admin(self.daemon.paths.home().display().to_string()),
            addresses: if is_admin { addresses } else { Vec::new() },
            pid: if is_admin { std::process::id() } else { 0 },
            pin: admin(pin.unwrap_or_default()),
            draining: *self.daemon.endings().borrow() == Some(crate::daemon::Ending::Drain),
        }))
    }

    async fn reload_daemon(&self, request: Request<proto::ReloadDaemonRequest>) -> Answer<proto::ReloadDaemonResponse> {
        principal(&request)?.require_owner().map_err(|error| status(&error.into()))?;
        let later = super::run::reload(&self.daemon).await?;
        Ok(Response::new(proto::ReloadDaemonResponse { later: later.into_iter().map(String::from).collect() }))
    }

    async fn stop_daemon(&self, request: Request<proto::StopDaemonRequest>) -> Answer<proto::StopDaemonResponse> {
        let detail = Some(request.get_ref().builds().as_str_name().to_ascii_lowercase());
        note(&request).object(Object { detail, ..Object::default() });
        principal(&request)?.require_owner().map_err(|error| status(&error.into()))?;
        let how = proto::stop_daemon_request::Builds::try_from(request.get_ref().builds);
        let how = match how {
            Ok(proto::stop_daemon_request::Builds::Leave) => crate::daemon::Ending::Leave,
            Ok(proto::stop_daemon_request::Builds::CancelAll) => crate::daemon::Ending::Cancel,
            Ok(proto::stop_daemon_request::Builds::Drain) => crate::daemon::Ending::Drain,
            Err(_) => return Err(Status::invalid_argument("builds: not known here")),
        };
        self.daemon.ask_to_end(how);
        Ok(Response::new(proto::StopDaemonResponse {}))
    }
}
