//! What machines ask: `/healthz` (it lives), `/readyz` (it takes builds), `/metrics`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};

use super::lease::Leases;
use crate::daemon::{
    Daemon,
    access::{Principal, Scope},
    metrics::{CONTENT_TYPE, Present},
};

/// For so long an answer of the disk counts: no token is needed to ask.
const FRESH: Duration = Duration::from_secs(5);

/// How long the disk may take.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Probes {
    daemon: Arc<Daemon>,
    leases: Leases,
    // When the ledger was last written, and whether that worked.
    written: Arc<tokio::sync::Mutex<Option<(Instant, bool)>>>,
}

/// The routes.
pub(crate) fn routes(daemon: &Arc<Daemon>, leases: &Leases) -> Router {
    let probes = Probes { daemon: daemon.clone(), leases: leases.clone(), written: Arc::default() };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(probes)
}

async fn ready(State(probes): State<Probes>) -> Response {
    if probes.daemon.endings().borrow().is_some() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the daemon ends\n").into_response();
    }
    match probes.can_write().await {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot be written\n").into_response(),
    }
}

async fn metrics(State(probes): State<Probes>, Extension(principal): Extension<Principal>) -> Response {
    if principal.customer.is_some() || !principal.has(Scope::Read) {
        let why = "metrics are for tokens with the scope read of all customers\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    let followers = probes.leases.count();
    let present = tokio::task::spawn_blocking(move || {
        let present = present(&probes.daemon, followers);
        probes.daemon.metrics.render(&present)
    });
    match present.await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn present(daemon: &Daemon, followers: u64) -> Present {
    let queue = daemon.queue(&Principal::owner("metrics"));
    let state = |id: &str| daemon.builds().show(Some(id)).ok().map(|build| build.state);
    let disk = rustix::fs::statvfs(daemon.paths.home());
    Present {
        waiting: queue.waiting.len() as u64,
        running: queue.running.iter().filter_map(|one| state(one.record.id.as_str())).collect(),
        followers,
        kept: Vec::new(),
        free: disk.map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
    }
}

impl Probes {
    async fn can_write(&self) -> bool {
        // Held while it is tried: the others wait for the same answer.
        let mut written = self.written.lock().await;
        if let Some((_, can)) = written.filter(|(at, _)| at.elapsed() < FRESH) {
            return can;
        }
        let tried = tokio::time::timeout(PATIENCE, self.daemon.try_to_write()).await;
        let can = matches!(tried, Ok(Ok(())));
        *written = Some((Instant::now(), can));
        can
    }
}
