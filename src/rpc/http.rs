//! Artifacts over plain HTTP, for programs that do not speak gRPC: a list, single files with ranges, and an archive.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tonic::{Code, Status};

use super::{
    download::{self, FilePieces, LEFT_OUT, Tar},
    lease::Leases,
    server::{blocking, wanted},
};
use crate::{
    daemon::{Daemon, access::Principal},
    model::{Artifact, BuildId},
};

/// Before the id of a build.
const BUILDS: &str = "/v1/builds/";

/// Between the id and the path of a file.
const ARTIFACTS: &str = "/artifacts/";

#[derive(Clone)]
struct Files {
    daemon: Arc<Daemon>,
    leases: Leases,
}

/// The routes. Their callers are known.
pub(crate) fn routes(daemon: &Arc<Daemon>, leases: &Leases) -> Router {
    let files = Files { daemon: daemon.clone(), leases: leases.clone() };
    Router::new()
        .route("/v1/builds/{id}/artifacts", get(list))
        .route("/v1/builds/{id}/artifacts.tar", get(tar))
        .route("/v1/builds/{id}/artifacts/{*path}", get(file))
        .with_state(files)
}

/// What `smidr artifacts list --json` prints.
#[derive(Serialize)]
struct List {
    version: u32,
    build: BuildId,
    artifacts: Vec<Artifact>,
}

#[derive(Serialize)]
struct Wrong<'a> {
    error: &'a str,
}

/// An error as an answer.
struct Refusal(Status);

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match self.0.code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(Wrong { error: self.0.message() })).into_response()
    }
}

type Answer = Result<Response, Refusal>;

/// The id and what follows it, as they were sent.
fn parts(uri: &Uri) -> Result<(String, &str), Status> {
    let rest = uri.path().strip_prefix(BUILDS).unwrap_or_default();
    let (id, rest) = rest.split_once('/').unwrap_or_default();
    Ok((wanted(id)?.to_owned(), rest))
}

async fn list(
    State(Files { daemon, .. }): State<Files>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
) -> Answer {
    let (id, _) = parts(&uri)?;
    let document = blocking(move || {
        let build = daemon.show(&principal, &id)?;
        let artifacts = daemon.artifacts(&build.id, &[])?;
        Ok(List { version: 1, build: build.id, artifacts })
    });
    Ok(Json(document.await?).into_response())
}

async fn tar(
    State(Files { daemon, leases }): State<Files>,
    Extension(principal): Extension<Principal>,
    method: Method,
    uri: Uri,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer {
    let (id, _) = parts(&uri)?;
    if let Some((name, _)) = query.iter().find(|(name, _)| name != "path") {
        return Err(Status::invalid_argument(format!("the parameter `{name}` is not known: path is")).into());
    }
    let patterns: Vec<String> = query.into_iter().map(|(_, value)| value).collect();
    let lease = leases.take(&principal)?;
    let (id, archive) = blocking(move || {
        let build = daemon.show(&principal, &id)?;
        let archive = Tar::new(daemon, &build.id, &patterns)?;
        Ok((build.id, archive))
    })
    .await?;
    let name = format!("attachment; filename=\"{id}.tar\"");
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/x-tar".into()),
        (header::CONTENT_LENGTH.as_str(), archive.size.to_string()),
        (header::CONTENT_DISPOSITION.as_str(), name),
        (LEFT_OUT, archive.left_out.to_string()),
    ];
    let body = match method {
        Method::HEAD => Body::empty(),
        _ => Body::from_stream(download::stream(lease, archive)),
    };
    Ok((headers, body).into_response())
}

async fn file(
    State(Files { daemon, leases }): State<Files>,
    Extension(principal): Extension<Principal>,
    method: Method,
    uri: Uri,
    asked: HeaderMap,
) -> Answer {
    let (id, rest) = parts(&uri)?;
    let path = rest.strip_prefix(ARTIFACTS.trim_start_matches('/')).unwrap_or_default();
    let path = PathBuf::from(OsString::from_vec(percent_decode_str(path).collect()));
    let (lease, known) = (leases.take(&principal)?, daemon.clone());
    let (id, artifact) = blocking(move || {
        let build = known.show(&principal, &id)?;
        let artifact = download::found(&known, &build.id, &path)?;
        Ok((build.id, artifact))
    })
    .await?;
    let (size, tag) = (artifact.size, artifact.sha256.as_ref().map(|digest| format!("\"{}\"", digest.hex())));
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(tag) = tag.as_deref().and_then(|tag| tag.parse().ok()) {
        headers.insert(header::ETAG, tag);
    }
    let text = |name| asked.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let (Some(tag), Some(known)) = (&tag, text(header::IF_NONE_MATCH))
        && matches(known, tag)
    {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let is_same = text(header::IF_RANGE).is_none_or(|known| Some(known.trim()) == tag.as_deref());
    let part = match text(header::RANGE).filter(|_| is_same && method == Method::GET).map(|range| span(range, size)) {
        None | Some(Span::All) => None,
        Some(Span::Some(from, length)) => Some((from, length)),
        Some(Span::Nothing) => {
            headers.insert(header::CONTENT_RANGE, number(&format!("bytes */{size}")));
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response());
        }
    };
    let (from, length) = part.unwrap_or((0, size));
    if part.is_some() {
        headers.insert(header::CONTENT_RANGE, number(&format!("bytes {from}-{}/{size}", from + length - 1)));
    }
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    let pieces = blocking(move || Ok(FilePieces::open(&daemon, &id, &artifact, from, Some(length))?)).await?;
    let body = match method {
        Method::HEAD => Body::empty(),
        _ => Body::from_stream(download::stream(lease, pieces)),
    };
    let code = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    Ok((code, headers, body).into_response())
}

fn number(text: &str) -> HeaderValue {
    text.parse().unwrap_or(HeaderValue::from_static(""))
}

/// Whether a list of tags (`If-None-Match`) has one. Such a comparison is a weak one (RFC 9110, 13.1.2).
fn matches(list: &str, tag: &str) -> bool {
    let is_tag = |one: &str| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag;
    list.split(',').any(|one| is_tag(one.trim()))
}

/// What a `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Span {
    /// The whole: it is no range that is understood here, which is then ignored (RFC 9110, 14.2).
    All,
    /// From a byte, so many.
    Some(u64, u64),
    /// What is not there.
    Nothing,
}

fn span(range: &str, size: u64) -> Span {
    let Some((unit, set)) = range.split_once('=') else { return Span::All };
    let Some((first, last)) = set.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes")) else {
        return Span::All;
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return Span::All;
    }
    // More digits than fit are beyond any end.
    let value = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    match (first, last) {
        ("", "") => Span::All,
        ("", last) if value(last) == 0 || size == 0 => Span::Nothing,
        ("", last) => Span::Some(size - value(last).min(size), value(last).min(size)),
        (first, "") if value(first) < size => Span::Some(value(first), size - value(first)),
        (first, last) if !last.is_empty() && value(last) < value(first) => Span::All,
        (first, last) if value(first) < size => Span::Some(value(first), value(last).min(size - 1) - value(first) + 1),
        _ => Span::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, size, expected) in [
            ("bytes=0-0", 10, Span::Some(0, 1)),
            ("bytes=2-", 10, Span::Some(2, 8)),
            ("bytes=2-99", 10, Span::Some(2, 8)),
            ("Bytes=-3", 10, Span::Some(7, 3)),
            ("bytes=-99", 10, Span::Some(0, 10)),
            ("bytes=-0", 10, Span::Nothing),
            ("bytes=10-", 10, Span::Nothing),
            ("bytes=99999999999999999999-", 10, Span::Nothing),
            ("bytes=0-", 0, Span::Nothing),
            ("bytes=-1", 0, Span::Nothing),
            ("bytes=3-2", 10, Span::All),
            ("bytes=0-1,4-5", 10, Span::All),
            ("bytes=+1-2", 10, Span::All),
            ("bytes=-", 10, Span::All),
            ("lines=1-2", 10, Span::All),
            ("nonsense", 10, Span::All),
        ] {
            assert_eq!(span(range, size), expected, "{range} of {size}");
        }
        assert!(matches("\"a\", W/\"b\"", "\"b\"") && matches("*", "\"x\"") && !matches("\"a\"", "\"b\""));
    }
}
