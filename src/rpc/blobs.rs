//! Path layers on their way to the daemon.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{
    proto::{UploadBlobRequest, UploadBlobResponse},
    server::blocking,
};
use crate::{daemon::Daemon, model::Digest};

/// How many digests one request may name.
const MOST: usize = 1000;

/// How long the next part of an upload may take: it keeps room that others could use.
const PAUSE: Duration = Duration::from_secs(60);

/// Digests that came in.
///
/// # Errors
///
/// When one is none, or there are too many.
pub(crate) fn digests(texts: &[String]) -> Result<Vec<Digest>, Status> {
    if texts.len() > MOST {
        return Err(Status::invalid_argument(format!("digests has more than {MOST} entries")));
    }
    texts.iter().map(|text| digest(text)).collect()
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|_| Status::invalid_argument("digest is not sha256: and 64 hexadecimal digits"))
}

/// Takes one blob of a customer.
///
/// # Errors
///
/// When it is too large, is not what it says, does not come, or cannot be kept.
pub(crate) async fn receive(
    daemon: &Arc<Daemon>,
    customer: Option<String>,
    mut parts: Streaming<UploadBlobRequest>,
) -> Result<UploadBlobResponse, Status> {
    let Some(first) = next(&mut parts).await? else { return Err(Status::invalid_argument("nothing was sent")) };
    let wanted = digest(&first.digest)?;
    let (to, announced) = (daemon.clone(), wanted.clone());
    let mut incoming = blocking(move || to.receive(announced, first.size, customer.as_deref())).await?;
    let mut part = first.data;
    loop {
        let to = daemon.clone();
        incoming = blocking(move || to.receive_part(&mut incoming, &part).map(|()| incoming)).await?;
        match next(&mut parts).await? {
            Some(next) => part = next.data,
            None => break,
        }
    }
    blocking(move || Ok(incoming.finish()?)).await?;
    Ok(UploadBlobResponse { digest: wanted.to_string() })
}

async fn next(parts: &mut Streaming<UploadBlobRequest>) -> Result<Option<UploadBlobRequest>, Status> {
    let late = |_| Status::deadline_exceeded(format!("no part of the blob came for {} s", PAUSE.as_secs()));
    timeout(PAUSE, parts.message()).await.map_err(late)?
}
