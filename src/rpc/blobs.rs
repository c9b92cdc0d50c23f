//! Path layers on their way to the daemon.

use tonic::{Status, Streaming};

use super::{
    proto::{UploadBlobRequest, UploadBlobResponse},
    server::blocking,
    status::status,
};
use crate::{daemon::Daemon, model::Digest};

/// How many digests one request may name.
const MOST: usize = 1000;

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

/// Takes one blob.
///
/// # Errors
///
/// When it is too large, is not what it says, or cannot be kept.
pub(crate) async fn receive(
    daemon: &Daemon,
    mut parts: Streaming<UploadBlobRequest>,
) -> Result<UploadBlobResponse, Status> {
    let Some(first) = parts.message().await? else { return Err(Status::invalid_argument("nothing was sent")) };
    let wanted = digest(&first.digest)?;
    let mut incoming = daemon.blobs.receive(wanted.clone(), first.size).map_err(|error| status(&error.into()))?;
    let mut part = first.data;
    loop {
        incoming = blocking(move || Ok(incoming.write(&part).map(|()| incoming)?)).await?;
        match parts.message().await? {
            Some(next) => part = next.data,
            None => break,
        }
    }
    blocking(move || Ok(incoming.finish()?)).await?;
    Ok(UploadBlobResponse { digest: wanted.to_string() })
}
