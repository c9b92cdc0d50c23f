//! What a request is allowed to do is known before it is served: each gets its `Principal` here, or none and an answer. Rates are kept here,
//! and what changes something is written into the audit log.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use tonic::{Code, Status};

use super::{
    listen::{Admitted, Peer},
    status::panicked,
};
use crate::daemon::{
    Daemon,
    access::{How, Principal},
    audit::{self, Call, Object},
    limits::{Buckets, client},
};

/// Served without a word of who asks: they tell nothing but that the daemon lives.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/grpc.health.v1.Health/Check"];

/// How long such a request may take: one whose body does not come holds nothing.
const OPEN_FOR: Duration = Duration::from_secs(10);

/// Served to no caller: streams without an end that need no credential would take the memory of the daemon.
const CLOSED: &str = "/grpc.health.v1.Health/Watch";

/// Calls that change nothing: only their refusals are written into the audit log.
const READS: [&str; 20] = [
    "GetBuild",
    "GetBuildStatus",
    "ListBuilds",
    "StreamLogs",
    "WatchBuild",
    "ExplainBuild",
    "ListTasks",
    "GetLock",
    "ListArtifacts",
    "DownloadArtifact",
    "DownloadBuild",
    "GetQueue",
    "MissingBlobs",
    "ListTokens",
    "ListSchedules",
    "ListWebhooks",
    "ListDeliveries",
    "WhoAmI",
    "GetServerInfo",
    "ServerReflectionInfo",
];

/// Calls that change something.
const WRITES: [&str; 17] = [
    "StartBuild",
    "CancelBuild",
    "DeleteBuild",
    "PurgeBuilds",
    "PauseQueue",
    "ResumeQueue",
    "UploadBlob",
    "CreateToken",
    "DeleteToken",
    "CreateSchedule",
    "DeleteSchedule",
    "RunSchedule",
    "CreateWebhook",
    "DeleteWebhook",
    "ResendDelivery",
    "ReloadDaemon",
    "StopDaemon",
];

/// What counts as one method of which too many names could be made up.
const OTHER: &str = "other";

/// Refusals that the log names.
const REFUSED: [&str; 3] = ["unauthenticated", "permission_denied", "resource_exhausted"];

/// What a call was about, noted by what answers it.
#[derive(Clone, Default)]
pub(crate) struct Noted(Arc<Mutex<Object>>);

impl Noted {
    /// Notes the build, and whose it is.
    pub(crate) fn build(&self, id: &str, customer: Option<&str>) {
        self.object(Object { build: Some(id.into()), customer: customer.map(Into::into), ..Object::default() });
    }

    /// Notes something with a name, and whose it is; an empty customer is the caller's.
    pub(crate) fn name(&self, name: &str, customer: &str) {
        let customer = Some(customer.into()).filter(|customer: &String| !customer.is_empty());
        self.object(Object { name: Some(name.into()), customer, ..Object::default() });
    }

    /// Notes the build that something with a name has started, if it has.
    pub(crate) fn started(&self, build: &str) {
        lock(&self.0).build = Some(build.into()).filter(|build: &String| !build.is_empty());
    }

    /// Notes what it was about.
    pub(crate) fn object(&self, object: Object) {
        *lock(&self.0) = object;
    }
}

/// What decides whether requests pass.
#[derive(Clone)]
pub(crate) struct Gate {
    daemon: Arc<Daemon>,
    wrong: Arc<Mutex<Buckets<IpAddr>>>,
    requests: Arc<Mutex<Buckets<String>>>,
    // Refusals of callers that are not known, by address: they leave room in the audit log.
    unknown: Arc<Mutex<Buckets<IpAddr>>>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// The gate of a daemon.
    pub(crate) fn new(daemon: Arc<Daemon>) -> Self {
        let requests = Buckets::of_requests(daemon.config().limits.requests_per_second);
        Self {
            daemon,
            wrong: Arc::new(Mutex::new(Buckets::of_wrong_tokens())),
            requests: Arc::new(Mutex::new(requests)),
            unknown: Arc::new(Mutex::new(Buckets::of_wrong_tokens())),
        }
    }

    /// Who asks. A token counts before what the connection says.
    fn principal(&self, request: &Request<Body>) -> Result<Principal, Refusal> {
        let peer = request.extensions().get::<Peer>();
        if let Some(shown) = request.headers().get(header::AUTHORIZATION) {
            let token = shown.to_str().ok().and_then(|text| text.split_once(' '));
            let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            // Before the rate: behind one address there may be many clients, and a look costs a hash.
            if let Some(principal) = token.and_then(|(_, token)| self.daemon.by_token(token.trim())) {
                return Ok(principal);
            }
            let taken = peer.and_then(key).map(|address| lock(&self.wrong).take(&address, Instant::now()));
            return Err(match taken {
                Some(Err(wait)) => Refusal::Wait("too many wrong tokens came from this address", wait),
                _ => Refusal::Unknown("the token is not known, has expired or was revoked"),
            });
        }
        let Some(peer) = peer else { return Err(Refusal::Unknown("the connection is not known")) };
        if peer.uid.is_some_and(|uid| uid == rustix::process::geteuid().as_raw()) {
            return Ok(Principal::owner(&format!("uid {}", self.daemon.facts.uid)));
        }
        if let Some(subject) = &peer.subject {
            let known = self.daemon.by_subject(subject);
            return known.ok_or(Refusal::Unknown("the certificate's subject is not in daemon.yaml"));
        }
        Err(Refusal::Unknown("show a token (authorization: Bearer …) or a client certificate"))
    }

    /// Whether a caller may ask once more now.
    fn rate(&self, principal: &Principal) -> Result<(), Refusal> {
        if principal.how == How::Owner {
            return Ok(());
        }
        let key = format!("{} {}", principal.how.name(), principal.name);
        let per_second = self.daemon.config().limits.requests_per_second;
        let mut requests = lock(&self.requests);
        requests.set_requests(per_second);
        let taken = requests.take(&key, Instant::now());
        taken.map_err(|wait| Refusal::Wait("too many requests", wait))
    }

    fn note(&self, principal: Option<&Principal>, request: &Asked, noted: &Noted, status: &str) {
        let what = request.what.as_str();
        if status == "ok" && READS.contains(&what) {
            return;
        }
        let unknown = request.key.filter(|_| principal.is_none());
        if unknown.is_some_and(|address| lock(&self.unknown).take(&address, Instant::now()).is_err()) {
            return;
        }
        if REFUSED.contains(&status) {
            let (who, address) = (principal.map_or("", |principal| &principal.name), request.address.as_deref());
            tracing::info!(who, address, call = what, status, "a call is refused");
        }
        let mut object = lock(&noted.0).clone();
        if object.name.is_some() && object.customer.is_none() {
            object.customer = principal.and_then(|principal| principal.customer.clone());
        }
        let how = match principal.map(|principal| &principal.how) {
            None => audit::How::Nothing,
            Some(How::Owner) => audit::How::Owner,
            Some(How::Token(_)) => audit::How::Token,
            Some(How::Certificate) => audit::How::Certificate,
        };
        self.daemon.audit.note(&Call {
            at: Timestamp::now(),
            who: principal.map_or("", |principal| &principal.name),
            how,
            address: request.address.as_deref(),
            what,
            object,
            status,
        });
    }
}

/// The address of a connection, as rates count it; none on the Unix socket.
fn key(peer: &Peer) -> Option<IpAddr> {
    peer.address.parse().ok().map(client)
}

/// What is written down of a request.
struct Asked {
    what: String,
    address: Option<String>,
    key: Option<IpAddr>,
    is_grpc: bool,
}

impl Asked {
    fn of(request: &Request<Body>) -> Self {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let peer = request.extensions().get::<Peer>();
        let (address, key) = (peer.map(|peer| peer.address.clone()), peer.and_then(key));
        let path = request.uri().path();
        let is_grpc = kind.is_some_and(|kind| kind.starts_with("application/grpc"));
        let what = if is_grpc {
            path.rsplit('/').next().unwrap_or_default().into()
        } else {
            format!("{} {path}", request.method())
        };
        Self { what, address: address.filter(|address| address != "unix"), key, is_grpc }
    }

    /// The method, for metrics. A path that a client has made up is none.
    fn method(&self) -> &'static str {
        if !self.is_grpc {
            return "http";
        }
        READS.iter().chain(&WRITES).find(|method| **method == self.what).copied().unwrap_or(OTHER)
    }
}

/// Why a request does not pass.
enum Refusal {
    /// It does not say who asks.
    Unknown(&'static str),
    /// Later it may.
    Wait(&'static str, Duration),
}

impl Refusal {
    fn status(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unauthenticated",
            Self::Wait(..) => "resource_exhausted",
        }
    }

    fn answer(self, is_grpc: bool) -> Response {
        let (code, http, why) = match &self {
            Self::Unknown(why) => (Code::Unauthenticated, StatusCode::UNAUTHORIZED, (*why).to_owned()),
            Self::Wait(why, wait) => {
                let why = format!("{why}: try again in {:.1} s", wait.as_secs_f64());
                (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, why)
            }
        };
        let mut response = match is_grpc {
            true => Status::new(code, why).into_http(),
            false => (http, format!("{why}\n")).into_response(),
        };
        let headers = response.headers_mut();
        match self {
            Self::Unknown(_) => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Self::Wait(_, wait) => headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1)),
        };
        response
    }
}

/// Lets requests pass that come from a caller that is known.
pub(crate) async fn check(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let admitted = request.extensions().get::<Peer>().map(|peer| peer.admitted.clone());
    if OPEN.contains(&request.uri().path()) {
        admitted.inspect(Admitted::note);
        let late = |_| Status::deadline_exceeded("the request has not come to its end").into_http();
        return tokio::time::timeout(OPEN_FOR, next.run(request)).await.unwrap_or_else(late);
    }
    if request.uri().path() == CLOSED {
        return Status::unimplemented("health is told by Check").into_http();
    }
    let (asked, begun) = (Asked::of(&request), Instant::now());
    let refused = |principal: Option<&Principal>, refusal: Refusal| {
        gate.note(principal, &asked, &Noted::default(), refusal.status());
        gate.daemon.metrics.answered(asked.method(), refusal.status(), begun.elapsed());
        refusal.answer(asked.is_grpc)
    };
    let principal = match gate.principal(&request) {
        Ok(principal) => principal,
        Err(refusal) => return refused(None, refusal),
    };
    if let Err(refusal) = gate.rate(&principal) {
        return refused(Some(&principal), refusal);
    }
    admitted.inspect(Admitted::note);
    let is_write = WRITES.contains(&asked.what.as_str());
    let answer = answer(gate, principal, asked, begun, request, next);
    if !is_write {
        return answer.await;
    }
    // A connection that breaks ends no change in the middle, and what was done is written into the audit log.
    tokio::spawn(answer).await.unwrap_or_else(|_| panicked().into_http())
}

async fn answer(
    gate: Gate,
    principal: Principal,
    asked: Asked,
    begun: Instant,
    mut request: Request,
    next: Next,
) -> Response {
    let noted = Noted::default();
    request.extensions_mut().insert(principal.clone());
    request.extensions_mut().insert(noted.clone());
    let response = next.run(request).await;
    // An answer without a message has its status among the headers.
    let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()?.parse::<i32>().ok());
    let status = match code.map(Code::from) {
        None | Some(Code::Ok) => of_http(response.status()),
        Some(code) => of_grpc(code),
    };
    gate.note(Some(&principal), &asked, &noted, status);
    gate.daemon.metrics.answered(asked.method(), status, begun.elapsed());
    response
}

/// The word for an answer over HTTP: that of gRPC for the same.
fn of_http(status: StatusCode) -> &'static str {
    of_grpc(match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::RANGE_NOT_SATISFIABLE => Code::OutOfRange,
        status if status.is_success() || status == StatusCode::NOT_MODIFIED => Code::Ok,
        status if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    })
}

fn of_grpc(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known() {
        let proto = include_str!("smidr.proto");
        let methods = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
        for method in methods {
            assert!(READS.contains(&method) != WRITES.contains(&method), "{method}");
        }
    }
}
