//! What builds left behind as streams of bytes: one file, or many as a tar archive. Each piece is read when the client has taken those before it.

use std::{fs::File, io, path::Path, pin::Pin, sync::Arc, vec};

use bytes::Bytes;
use rustix::{buffer::spare_capacity, io::Errno};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::{
    lease::Lease,
    proto::Chunk,
    status::{panicked, status},
};
use crate::{
    daemon::{Daemon, DaemonError},
    model::{Artifact, BuildId},
    service::ServiceError,
    system::files::FileError,
};

/// How large a piece is at most, in bytes.
const PIECE: u64 = 256 << 10;

/// A piece of small files of an archive is at least so large, in bytes: a message for each would be slow.
const SMALL: usize = 64 << 10;

/// The unit of tar archives, in bytes.
const BLOCK: u64 = 512;

/// Names the header with the number of links that an archive lacks because they lead out of the artifacts.
pub(crate) const LEFT_OUT: &str = "smidr-links-left-out";

type Piece = Result<Bytes, ServiceError>;
type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

/// A part of one file. Ends after the promised number of bytes, or with an error.
pub(crate) struct FilePieces {
    file: File,
    build: BuildId,
    artifact: Artifact,
    at: u64,
    left: u64,
}

impl FilePieces {
    /// `length` bytes from `offset`, or all that follow.
    ///
    /// # Errors
    ///
    /// When the file is not there any more, or has another size than it had.
    pub(crate) fn open(
        daemon: &Daemon,
        build: &BuildId,
        artifact: &Artifact,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Self, ServiceError> {
        let (file, size) = daemon.builds().open_artifact(build, artifact, offset)?;
        let left = length.unwrap_or(size - offset);
        Ok(Self { file, build: build.clone(), artifact: artifact.clone(), at: offset, left })
    }

    fn read(&self, length: u64) -> Piece {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut piece = Vec::with_capacity(length);
        loop {
            match rustix::io::pread(&self.file, spare_capacity(&mut piece), self.at) {
                Ok(0) => {
                    let (id, path) = (self.build.clone(), self.artifact.path.clone());
                    return Err(ServiceError::Size { id, path, size: self.artifact.size, found: self.at });
                }
                Ok(_) => {
                    piece.truncate(length);
                    return Ok(piece.into());
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(FileError::new("read", &self.artifact.path)(errno.into()).into()),
            }
        }
    }
}

impl Iterator for FilePieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let wanted = self.left.min(PIECE);
        let piece = (wanted > 0).then(|| self.read(wanted))?;
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        (self.at, self.left) = (self.at + length, self.left - length);
        Some(piece)
    }
}

/// A tar archive of artifacts.
pub(crate) struct Tar {
    daemon: Arc<Daemon>,
    build: BuildId,
    rest: vec::IntoIter<Artifact>,
    now: Option<FilePieces>,
    ended: bool,
    /// Of the whole archive, in bytes.
    pub size: u64,
    /// Links that it lacks because they lead out.
    pub left_out: usize,
}

impl Tar {
    /// The archive of all artifacts of a build, or of those that match.
    ///
    /// # Errors
    ///
    /// When a pattern is wrong or matches nothing, or a name fits into no archive.
    pub(crate) fn new(daemon: Arc<Daemon>, build: &BuildId, patterns: &[String]) -> Result<Self, DaemonError> {
        let mut artifacts = daemon.artifacts(build, patterns)?;
        let all = artifacts.len();
        artifacts.retain(|artifact| !artifact.leads_out());
        let mut size = 2 * BLOCK;
        for artifact in &artifacts {
            size += head(artifact, None)?.len() as u64 + artifact.size + padding(artifact.size) as u64;
        }
        let left_out = all - artifacts.len();
        Ok(Self { daemon, build: build.clone(), rest: artifacts.into_iter(), now: None, ended: false, size, left_out })
    }

    /// Begins the next file or link.
    fn begin(&mut self, artifact: &Artifact, piece: &mut Vec<u8>) -> Result<(), ServiceError> {
        let file = match &artifact.link {
            Some(_) => None,
            None => Some(FilePieces::open(&self.daemon, &self.build, artifact, 0, None)?),
        };
        piece.extend(head(artifact, file.as_ref().map(|file| &file.file))?);
        self.now = file;
        Ok(())
    }
}

impl Iterator for Tar {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let mut piece = Vec::new();
        while piece.len() < SMALL {
            if let Some(file) = &mut self.now {
                match file.next() {
                    Some(Ok(bytes)) if piece.is_empty() => return Some(Ok(bytes)),
                    Some(Ok(bytes)) => piece.extend_from_slice(&bytes),
                    Some(Err(error)) => return Some(Err(error)),
                    None => {
                        piece.resize(piece.len() + padding(file.artifact.size), 0);
                        self.now = None;
                    }
                }
            } else if let Some(artifact) = self.rest.next() {
                if let Err(error) = self.begin(&artifact, &mut piece) {
                    return Some(Err(error));
                }
            } else if !self.ended {
                piece.resize(piece.len() + 2 * BLOCK as usize, 0);
                self.ended = true;
            } else {
                break;
            }
        }
        (!piece.is_empty()).then(|| Ok(piece.into()))
    }
}

/// How many bytes fill the last block of a file.
fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK) - size) as usize
}

/// What stands before the bytes of a file; all there is of a link. The same length with a file and without.
fn head(artifact: &Artifact, file: Option<&File>) -> Result<Vec<u8>, FileError> {
    use std::os::unix::fs::MetadataExt as _;
    let found = file.and_then(|file| file.metadata().ok());
    let is_program = found.as_ref().is_some_and(|found| found.mode() & 0o111 != 0);
    let mut header = tar::Header::new_gnu();
    header.set_size(artifact.size);
    header.set_mode(if artifact.link.is_some() { 0o777 } else { 0o644 | (u32::from(is_program) * 0o111) });
    header.set_mtime(found.and_then(|found| u64::try_from(found.mtime()).ok()).unwrap_or_default());
    let mut archive = tar::Builder::new(Vec::new());
    let path: &Path = &artifact.path;
    let written = match &artifact.link {
        Some(link) => {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, path, link)
        }
        // Its bytes follow on another way.
        None => archive.append_data(&mut header, path, io::empty()),
    };
    written.map_err(FileError::new("archive", path))?;
    Ok(std::mem::take(archive.get_mut()))
}

/// Sends pieces as the client takes them, until the end, an error, or the loss of the lease. Waiting for a client takes no thread.
pub(crate) fn stream(
    lease: Lease,
    mut pieces: impl Iterator<Item = Piece> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    lease.stream(|to| async move {
        while let Ok(place) = to.reserve().await {
            let read = tokio::task::spawn_blocking(move || {
                let piece = pieces.next();
                (pieces, piece)
            });
            let (rest, piece) = read.await.map_err(|_| panicked())?;
            pieces = rest;
            let Some(piece) = piece else { break };
            place.send(piece.map_err(|error| status(&error.into()))?);
        }
        Ok(())
    })
}

/// The messages of the API: first what the whole is, then its bytes.
pub(crate) fn chunks(
    size: u64,
    sha256: Option<String>,
    pieces: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> Chunks {
    let first = Chunk { size: Some(size), sha256, ..Chunk::default() };
    let rest = pieces.map(|piece| piece.map(|data| Chunk { data, ..Chunk::default() }));
    Box::pin(tokio_stream::once(Ok(first)).chain(rest))
}

/// The file of a build with that path.
///
/// # Errors
///
/// When it left none.
pub(crate) fn found(daemon: &Daemon, id: &BuildId, path: &Path) -> Result<Artifact, DaemonError> {
    let found = daemon.artifacts(id, &[])?.into_iter().find(|artifact| artifact.path == path);
    // A link leads to another file, which has a path of its own.
    let found = found.filter(|artifact| artifact.link.is_none());
    found.ok_or_else(|| ServiceError::NoArtifact { id: id.clone(), path: path.into() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_the_length_that_was_counted() {
        let long = "folder/".repeat(40);
        let file = tempfile::tempfile().expect("a file");
        for (path, link) in [("a.txt", None), (&*format!("{long}b"), None), ("l", Some(&*format!("{long}c")))] {
            let artifact = Artifact { path: path.into(), size: 0, sha256: None, link: link.map(Into::into) };
            let [counted, sent] = [None, Some(&file)].map(|file| head(&artifact, file).expect("a head"));
            assert_eq!(counted.len(), sent.len(), "{path}");
            assert_eq!(sent.len() % BLOCK as usize, 0);
            let mut archive = tar::Archive::new(&*sent);
            let entry = archive.entries().expect("entries").next().expect("one").expect("good");
            assert_eq!(entry.path().expect("a path"), Path::new(path));
            assert_eq!(entry.link_name().expect("a name").as_deref(), link.map(Path::new));
        }
        let out = Artifact { path: "../x".into(), size: 0, sha256: None, link: None };
        assert!(head(&out, None).is_err());
    }
}
