//! Receives a layer into the store in one pass: its bytes are kept, hashed, inflated, hashed again and unpacked, all at
//! the same time.
//!
//! The stream is untrusted. The result says what it was: digests, size, and its tree in a scratch folder. Nothing
//! becomes visible here.

use std::{
    fs::File,
    io::{self, BufRead as _, Read, Write as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use sha2::{Digest as _, Sha256};

use super::{
    account::Account,
    archive::{Archive, read_error},
    codec::Compression,
    documents::Descriptor,
    error::ImageError,
    layer_error::LayerError,
    limits::Limits,
    progress::Progress,
    readahead::{Ahead, read_ahead},
    unpack::{Unpacked, unpack},
};
use crate::{
    model::Digest,
    system::{
        files::{self, FileError},
        rooted::Rooted,
    },
};

/// A file that takes a layer's bytes.
#[derive(Clone, Copy)]
pub(super) struct Keep<'a> {
    /// The file, open at its end.
    pub file: &'a File,
    /// Its path, for messages.
    pub path: &'a Path,
    /// How many bytes it has already.
    pub have: u64,
}

/// A layer that is about to be received.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    /// The layer, for messages.
    pub what: &'a str,
    /// The promised digest of the bytes, if there is one.
    pub wanted: Option<&'a Descriptor>,
    /// The promised digest of the content, if there is one.
    pub diff_id: Option<&'a Digest>,
    /// The number of bytes, which limits the size of the content.
    pub size: u64,
    /// An empty folder for the tree; without one, the content is only hashed.
    pub tree: Option<&'a Path>,
    /// Becomes true when the layer is no longer wanted.
    pub over: &'a AtomicBool,
    /// The limits.
    pub limits: Limits,
    /// The memory budget of its image.
    pub account: &'a Account,
    /// Reports its bytes.
    pub progress: &'a Progress,
}

/// A layer that was received.
#[derive(Debug)]
pub(super) struct Received {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Number of its bytes.
    pub size: u64,
    /// Their compression.
    pub compression: Compression,
    /// The digest of its content, padding included.
    pub diff_id: Digest,
    /// The result of unpacking.
    pub found: Unpacked,
    /// Whether the archive has its end mark.
    pub has_end: bool,
}

// Reads the bytes, counts and keeps them. An error of its own is stored here, since a reader can only pass on an io::Error.
struct Inlet<'a, R> {
    input: R,
    layer: Incoming<'a>,
    keep: Option<Keep<'a>>,
    count: u64,
    failed: Option<ImageError>,
}

impl<R: Read> Read for Inlet<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.layer.over.load(Ordering::Relaxed) {
            return Err(self.broken(io::Error::other("it is not wanted any more")));
        }
        // One byte too many is enough to tell.
        let most = self.layer.wanted.map_or(u64::MAX, |wanted| wanted.size.saturating_add(1));
        let mut input = self.input.by_ref().take(most.saturating_sub(self.count));
        let part = match files::read_part(&mut input, buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            read => read.map_err(|error| self.broken(error))?,
        };
        if let Some(Keep { mut file, path, have }) = self.keep
            && self.count >= have
            && let Err(error) = file.write_all(part)
        {
            let kind = error.kind();
            self.failed = Some(FileError::new("write", path)(error).into());
            return Err(kind.into());
        }
        self.count += part.len() as u64;
        self.layer.progress.add(part.len() as u64);
        Ok(part.len())
    }
}

impl<R> Inlet<'_, R> {
    fn broken(&mut self, source: io::Error) -> io::Error {
        let kind = source.kind();
        self.failed = Some(ImageError::Receive { what: self.layer.what.into(), source });
        kind.into()
    }
}

struct Content {
    compression: Compression,
    diff_id: Digest,
    found: Unpacked,
    has_end: bool,
}

/// Receives a layer; its tree is complete when this returns.
///
/// # Errors
///
/// When the bytes are not as promised, are not a layer, or exceed the limits.
pub(super) fn receive(
    layer: Incoming<'_>,
    input: impl Read + Send,
    keep: Option<Keep<'_>>,
) -> Result<Received, ImageError> {
    let Incoming { what, wanted, diff_id, limits, account, .. } = layer;
    let mut inlet = Inlet { input, layer, keep, count: 0, failed: None };
    let mut hasher = Sha256::new();
    let room = limits.unpacked(layer.size);
    let unpack = |bytes: &mut Ahead| match layer.tree {
        Some(tree) => write(bytes, tree, room, limits, account),
        None => skim(bytes, room).map(|()| (Unpacked::default(), true)),
    };
    let content = |bytes: &mut Ahead| content(bytes, limits.window, unpack);
    let content = read_ahead(&mut inlet, |bytes| hasher.update(bytes), content);
    if let Some(error) = inlet.failed {
        return Err(error);
    }
    // Reading stopped after these, so size and digest say nothing.
    let content = match content {
        Err(source @ (LayerError::Limit { .. } | LayerError::File { .. })) => {
            return Err(ImageError::Layer { what: what.into(), source });
        }
        content => content,
    };
    let (count, digest) = (inlet.count, Digest::from_sha256(hasher.finalize().into()));
    if let Some(wanted) = wanted {
        check(what, wanted, count, &digest)?;
    }
    let content = content.map_err(|source| ImageError::Layer { what: what.into(), source })?;
    if let Some(wanted) = diff_id.filter(|wanted| **wanted != content.diff_id) {
        let what = format!("the content of {what}");
        return Err(ImageError::Digest { what, wanted: wanted.clone(), found: content.diff_id });
    }
    let Content { compression, diff_id, found, has_end } = content;
    Ok(Received { digest, size: count, compression, diff_id, found, has_end })
}

/// Compares what was received with what was promised.
///
/// # Errors
///
/// When it has another size or digest.
pub(super) fn check(what: &str, wanted: &Descriptor, size: u64, digest: &Digest) -> Result<(), ImageError> {
    if size != wanted.size {
        return Err(ImageError::Size { what: what.into(), wanted: wanted.size, found: size });
    }
    if *digest != wanted.digest {
        let (wanted, found) = (wanted.digest.clone(), digest.clone());
        return Err(ImageError::Digest { what: what.into(), wanted, found });
    }
    Ok(())
}

/// The result of unpacking, and whether the archive has its end mark.
type Written = Result<(Unpacked, bool), LayerError>;

fn content(bytes: &mut Ahead, window: u64, unpack: impl FnOnce(&mut Ahead) -> Written) -> Result<Content, LayerError> {
    let result = inflate(bytes, window, unpack);
    // Damage is better reported by the digest, which needs the whole stream; after an exceeded limit the rest is not read.
    if !matches!(result, Err(LayerError::Limit { .. } | LayerError::File { .. })) {
        let _ = io::copy(bytes, &mut io::sink());
    }
    result
}

fn inflate(bytes: &mut Ahead, window: u64, unpack: impl FnOnce(&mut Ahead) -> Written) -> Result<Content, LayerError> {
    let failed = |source| LayerError::Read { at: 0, source };
    let compression =
        Compression::sniff(bytes.fill_buf().map_err(failed)?).map_err(|name| LayerError::Compression(name.0))?;
    let decoder = compression.decode(&mut *bytes, window).map_err(failed)?;
    let mut hasher = Sha256::new();
    let (found, has_end) = read_ahead(decoder, |content| hasher.update(content), unpack)?;
    Ok(Content { compression, diff_id: Digest::from_sha256(hasher.finalize().into()), found, has_end })
}

// Headers and padding are added to the files' bytes.
fn most_of(room: u64) -> u64 {
    room.saturating_mul(2).saturating_add(1 << 30)
}

fn write(content: &mut Ahead, tree: &Path, room: u64, limits: Limits, account: &Account) -> Written {
    let tree = Rooted::open(tree).map_err(|source| LayerError::Place { entry: b"."[..].into(), source })?;
    let mut archive = Archive::new(content, limits);
    let found = unpack(&mut archive, &tree, limits, room, account)?;
    let has_end = archive.has_end();
    archive.drain(most_of(room))?;
    Ok((found, has_end))
}

fn skim(content: &mut Ahead, room: u64) -> Result<(), LayerError> {
    let most = most_of(room);
    let read = io::copy(&mut content.take(most.saturating_add(1)), &mut io::sink());
    match read.map_err(|source| read_error(source, 0))? {
        read if read > most => {
            Err(LayerError::Limit { entry: b"(all)"[..].into(), what: "bytes of a layer", limit: most })
        }
        _ => Ok(()),
    }
}
