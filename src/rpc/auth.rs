//! What a request is allowed to do is known before it is served: each gets its `Principal` here, or none and an answer.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tonic::Status;

use super::listen::Peer;
use crate::daemon::{Daemon, access::Principal};

/// Served without a word of who asks: they tell nothing but that the daemon lives.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];

/// Lets requests pass that come from a caller that is known.
pub(crate) async fn check(State(daemon): State<Arc<Daemon>>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match principal(&daemon, &request) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(why) => refusal(&request, why),
    }
}

/// Who asks. A token counts before what the connection says.
fn principal(daemon: &Daemon, request: &Request<Body>) -> Result<Principal, &'static str> {
    let peer = request.extensions().get::<Peer>();
    if let Some(shown) = request.headers().get(header::AUTHORIZATION) {
        let token = shown.to_str().ok().and_then(|text| text.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        return token
            .and_then(|token| daemon.by_token(token))
            .ok_or("the token is not known, has expired or was revoked");
    }
    let Some(peer) = peer else { return Err("the connection is not known") };
    if peer.uid.is_some_and(|uid| uid == rustix::process::geteuid().as_raw()) {
        return Ok(Principal::owner(&format!("uid {}", daemon.facts.uid)));
    }
    if let Some(subject) = &peer.subject {
        return daemon.by_subject(subject).ok_or("the certificate's subject is not in daemon.yaml");
    }
    Err("show a token (authorization: Bearer …) or a client certificate")
}

fn refusal(request: &Request<Body>, why: &'static str) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("application/grpc")) {
        return Status::unauthenticated(why).into_http();
    }
    let mut response = (StatusCode::UNAUTHORIZED, format!("{why}\n")).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
