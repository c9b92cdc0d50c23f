//! Errors as gRPC status codes, with details that a client can print; and back.

use prost::Message as _;
use tonic::{Code, Status};

use super::{
    convert::{self, Invalid},
    proto::ErrorInfo,
};
use crate::{
    daemon::{ArtifactError, DaemonError, blobs::BlobError, schedules::ScheduleError, webhooks::WebhookError},
    model::{Kind, UserError},
    service::{Cause, ServiceError},
};

/// Message and details travel in headers, of which some clients take 8 KiB together (grpcio): the message percent-encoded, the details with it in
/// base64. More than this is cut, in bytes.
const MESSAGE: usize = 1 << 10;
const DETAILS: usize = 7 << 9;

/// How many characters of a cause travel.
const TEXT: usize = 2000;

/// google.rpc.Status.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The type of [`ErrorInfo`], for those who know it.
const TYPE: &str = "type.googleapis.com/smidr.v1.ErrorInfo";

/// An error of the daemon as a status.
pub(crate) fn status(error: &DaemonError) -> Status {
    of(code(error), error)
}

/// A panic as a status.
pub(crate) fn panicked() -> Status {
    Status::internal("the daemon has failed in this call; its log says more")
}

/// Any error with a code.
pub(crate) fn of(code: Code, error: &dyn UserError) -> Status {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(short(&error.to_string()));
        cause = error.source();
    }
    let drawn = error.drawn(false).unwrap_or_default();
    let message = message(&error.to_string());
    let mut info = ErrorInfo {
        kind: convert::kind(Some(error.kind())).into(),
        causes,
        hints: error.hints().iter().map(convert::hint).collect(),
        drawn,
        further: 0,
    };
    fit(&mut info);
    let details = vec![prost_types::Any { type_url: TYPE.into(), value: info.encode_to_vec() }];
    let whole = RpcStatus { code: code.into(), message: message.clone(), details };
    Status::with_details(code, message, whole.encode_to_vec().into())
}

/// A status says one line, and not more than a header holds.
fn message(text: &str) -> String {
    let encoded = |c: char| if c.is_ascii_graphic() || c == ' ' { 1 } else { 3 * c.len_utf8() };
    let mut length = 0;
    let line = text.lines().next().unwrap_or_default();
    let fits = |c: &char| {
        length += encoded(*c);
        length <= MESSAGE
    };
    line.chars().take_while(fits).collect()
}

fn short(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// Leaves out what a header cannot hold: whole problems, from the end.
fn fit(info: &mut ErrorInfo) {
    info.hints.truncate(16);
    while info.encoded_len() > DETAILS && !info.drawn.is_empty() {
        // Problems are apart by an empty line.
        match info.drawn.trim_end().rfind("\n\n") {
            Some(at) => info.drawn.truncate(at),
            None => info.drawn.clear(),
        }
        info.further += 1;
    }
    while info.encoded_len() > DETAILS && info.causes.pop().is_some() {}
    if info.encoded_len() > DETAILS {
        info.hints.clear();
    }
}

fn code(error: &DaemonError) -> Code {
    match error {
        DaemonError::Denied(_) => Code::PermissionDenied,
        DaemonError::Project(_) | DaemonError::Plan(_) | DaemonError::NotGranted(_) => match error.kind() {
            Kind::Request => Code::InvalidArgument,
            _ => Code::FailedPrecondition,
        },
        DaemonError::Service(error) => match error {
            ServiceError::Unknown(_)
            | ServiceError::NoArtifact { .. }
            | ServiceError::Gone { .. }
            | ServiceError::NoBuilds => Code::NotFound,
            ServiceError::Size { .. } => Code::DataLoss,
            ServiceError::Ambiguous { .. } | ServiceError::Place(_) => Code::InvalidArgument,
            ServiceError::Offset { .. } => Code::OutOfRange,
            ServiceError::Runs(_) | ServiceError::Over { .. } => Code::FailedPrecondition,
            _ => by_kind(error.kind()),
        },
        DaemonError::Ledger(error) if error.is_full() => Code::ResourceExhausted,
        DaemonError::NoBlob { .. } => Code::FailedPrecondition,
        DaemonError::Refused(_) => Code::PermissionDenied,
        DaemonError::Full { .. }
        | DaemonError::Blob(BlobError::Full { .. } | BlobError::Disk { .. })
        | DaemonError::Schedule(ScheduleError::TooMany)
        | DaemonError::Webhook(WebhookError::TooMany) => Code::ResourceExhausted,
        DaemonError::Blob(_) | DaemonError::Schedule(_) | DaemonError::Webhook(_) if error.kind() == Kind::Request => {
            Code::InvalidArgument
        }
        DaemonError::Taken { .. } => Code::AlreadyExists,
        DaemonError::NoBuild { .. } | DaemonError::Missing { .. } => Code::NotFound,
        DaemonError::Artifacts(ArtifactError::NoSuch(_)) => Code::NotFound,
        DaemonError::Artifacts(ArtifactError::Pattern(..)) => Code::InvalidArgument,
        DaemonError::Ends => Code::Unavailable,
        // Not UNAVAILABLE, whatever could not be reached: that is the daemon, and clients ask again.
        DaemonError::Fetched(_) => Code::FailedPrecondition,
        _ => by_kind(error.kind()),
    }
}

fn by_kind(kind: Kind) -> Code {
    match kind {
        Kind::Request => Code::FailedPrecondition,
        Kind::Outside => Code::Unavailable,
        Kind::Cancelled => Code::Cancelled,
        Kind::Build | Kind::Warning | Kind::Host => Code::Internal,
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(message(&invalid.to_string()))
    }
}

/// What a status says, as an error of builds.
pub(crate) fn error(status: &Status) -> ServiceError {
    let details = RpcStatus::decode(status.details()).unwrap_or_default().details;
    let info = details.iter().find(|detail| detail.type_url == TYPE);
    let info = info.and_then(|detail| ErrorInfo::decode(&*detail.value).ok()).unwrap_or_default();
    let kind = convert::kind_of(info.kind).unwrap_or(match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted => Kind::Outside,
        Code::Cancelled => Kind::Cancelled,
        Code::Internal | Code::DataLoss | Code::Unknown => Kind::Host,
        _ => Kind::Request,
    });
    let mut drawn = Some(info.drawn).filter(|drawn| !drawn.is_empty());
    if let (Some(drawn), further @ 1..) = (&mut drawn, info.further) {
        drawn.push_str(&format!("\n\n{further} further problems were left out\n"));
    }
    ServiceError::Daemon {
        message: status.message().to_owned(),
        cause: Cause::chain(info.causes),
        kind,
        hints: info.hints.into_iter().map(convert::hint_of).collect(),
        drawn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BuildId, Hint};

    #[test]
    fn an_error_arrives_as_it_was() {
        let id: BuildId = "x-00000001".parse().expect("an id");
        let sent: DaemonError = ServiceError::Runs(id).into();
        let status = status(&sent);
        assert_eq!(status.code(), Code::FailedPrecondition);
        let arrived = error(&status);
        assert_eq!(
            (arrived.to_string(), arrived.kind(), arrived.hints()),
            (sent.to_string(), sent.kind(), sent.hints())
        );
        let plain = error(&Status::unavailable("gone"));
        assert_eq!((plain.kind(), plain.hints()), (Kind::Outside, Vec::<Hint>::new()));
    }

    #[test]
    fn no_error_is_larger_than_headers_may_be() {
        for text in ["x", "\u{6f22}"] {
            let error = DaemonError::Missing { what: "schedule", name: text.repeat(5000) };
            let headers = status(&error).into_http::<()>().into_parts().0.headers;
            let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!((1000..8000).contains(&size), "{text}: {size}");
        }
    }

    #[test]
    fn what_a_header_cannot_hold_is_counted() {
        let drawn = vec!["error: something is wrong\n --> line\n"; 400].join("\n");
        let mut info = ErrorInfo { drawn, causes: vec!["x".repeat(100)], ..ErrorInfo::default() };
        fit(&mut info);
        assert!(info.encoded_len() <= DETAILS && info.further > 200, "{} {}", info.encoded_len(), info.further);
        assert!(info.drawn.starts_with("error:") && info.causes.len() == 1);
    }
}
