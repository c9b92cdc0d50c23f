//! Artifacts as streams of bytes, read piece by piece while the client takes them.

use std::{io::Read as _, path::PathBuf, pin::Pin, sync::Arc};

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

use super::{proto::Chunk, status::status};
use crate::{
    daemon::{Daemon, DaemonError},
    model::{Artifact, BuildId},
    service::ServiceError,
};

/// How large a piece is, in bytes.
const PIECE: usize = 256 << 10;

/// How many pieces wait for a client at most.
const AHEAD: usize = 2;

type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

/// One file that a build left behind, from an offset.
///
/// # Errors
///
/// When there is no such file.
pub(crate) async fn artifact(daemon: &Arc<Daemon>, id: BuildId, path: PathBuf, offset: u64) -> Result<Chunks, Status> {
    let daemon = daemon.clone();
    let (to, chunks) = mpsc::channel(AHEAD);
    let opened = tokio::task::spawn_blocking(move || {
        let artifact = found(&daemon, &id, path)?;
        let (file, size) = daemon.builds().open_artifact(&id, &artifact, offset)?;
        Ok::<_, DaemonError>((file, size, artifact))
    });
    let opened = opened.await.map_err(|_| Status::internal("the daemon has failed in this call"))?;
    let (mut file, size, artifact) = opened.map_err(|error| status(&error))?;
    tokio::task::spawn_blocking(move || {
        let mut first = Chunk {
            size: Some(size),
            sha256: artifact.sha256.map(|digest| digest.hex().to_string()),
            ..Chunk::default()
        };
        loop {
            let mut piece = BytesMut::zeroed(PIECE);
            let read = match file.read(&mut piece) {
                Ok(read) => read,
                Err(error) => {
                    let _ = to.blocking_send(Err(Status::data_loss(format!("cannot read the file: {error}"))));
                    return;
                }
            };
            piece.truncate(read);
            let chunk = Chunk { data: piece.freeze(), ..std::mem::take(&mut first) };
            let is_last = read == 0;
            if (!is_last || chunk.size.is_some()) && to.blocking_send(Ok(chunk)).is_err() || is_last {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(chunks)))
}

fn found(daemon: &Daemon, id: &BuildId, path: PathBuf) -> Result<Artifact, ServiceError> {
    let all = daemon.builds().artifacts(id)?;
    let found = all.into_iter().find(|artifact| artifact.path == path);
    found.ok_or_else(|| ServiceError::NoArtifact { id: id.clone(), path })
}
