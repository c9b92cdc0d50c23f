//! Artifacts of a daemon's builds, brought here.

use std::path::Path;

use tonic::transport::Endpoint;

use super::{Broken, Patience, Remote, pause};
use crate::{
    model::{Artifact, BuildId},
    rpc::{convert::path, proto},
    service::{ServiceError, Sink},
    system::{files::FileError, stop::StopToken},
};

/// How much of one stream may be on its way, in bytes.
const WINDOW: u32 = 4 << 20;

/// A connection on which large files arrive as fast as the network has them: what is on its way is more than a default of HTTP/2.
pub(super) fn endpoint() -> Endpoint {
    Endpoint::from_static("http://smidr").initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW)
}

impl Remote {
    /// Hands on the bytes of an artifact, from an offset to its end. Ends earlier at a stop.
    ///
    /// # Errors
    ///
    /// What the daemon answers, and what `take` fails with.
    pub(crate) fn download(
        &self,
        id: &BuildId,
        artifact: &Artifact,
        offset: u64,
        stop: Option<&StopToken>,
        take: Sink<'_>,
    ) -> Result<(), ServiceError> {
        let mut at = offset;
        let mut patience = Patience::default();
        loop {
            let request = proto::DownloadArtifactRequest {
                build_id: id.to_string(),
                path: Some(path(&artifact.path)),
                offset: at,
            };
            let failed = || FileError::new("copy", &artifact.path);
            let done = self.stream(
                |mut caller| async move { caller.download_artifact(request).await },
                stop,
                |chunk: proto::Chunk| {
                    patience.renew();
                    take(&chunk.data).map_err(failed())?;
                    at += chunk.data.len() as u64;
                    Ok(true)
                },
            );
            match done {
                Ok(_) => return Ok(()),
                Err(Broken::Status(status)) if patience.has_for(&status) => {
                    if stop.is_some_and(StopToken::is_requested) {
                        return Ok(());
                    }
                    pause();
                }
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// Hands on a tar archive of all artifacts, or of those that match. Gives whether it came to its end, and not to a stop.
    ///
    /// # Errors
    ///
    /// What the daemon answers, and what `take` fails with.
    pub(crate) fn archive(
        &self,
        id: &BuildId,
        patterns: &[String],
        stop: &StopToken,
        take: Sink<'_>,
    ) -> Result<bool, ServiceError> {
        let request = proto::DownloadBuildRequest { build_id: id.to_string(), patterns: patterns.to_vec() };
        let (mut missing, failed) = (0, || FileError::new("write", Path::new("the archive")));
        let done = self.stream(
            |mut caller| async move { caller.download_build(request).await },
            Some(stop),
            |chunk: proto::Chunk| {
                missing = (missing + chunk.size.unwrap_or_default()).saturating_sub(chunk.data.len() as u64);
                take(&chunk.data).map_err(failed())?;
                Ok(true)
            },
        );
        match done? {
            true if missing > 0 => Err(failed()(std::io::ErrorKind::UnexpectedEof.into()).into()),
            ended => Ok(ended),
        }
    }
}
