//! An image's layers as folders that a sandbox can stack.
//!
//! In goes an image of the store, out comes a `RootFs`: the folders of its layers, lowest first, kept from removal for as long
//! as the value lives. Layers that are not unpacked yet are; each only once, however many smidr want it.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    archive::Archive,
    codec::{Ahead, Compression, Hashed, read_ahead},
    documents::Descriptor,
    error::ImageError,
    layer_error::LayerError,
    lowers::Lowers,
    progress::{Progress, Watched},
    scratch::Scratch,
    store::{ImageStore, StoredImage, image_lock_name},
    unpack::{Unpacked, unpack},
};
use crate::{
    events::Emitter,
    host::{
        files::{self, FileError},
        lock::{Lock, Mode},
        rooted::Rooted,
    },
    model::{Activity, Digest},
};

/// An image's file system, as folders to be stacked. While it lives, nothing of it is removed from the store.
#[derive(Debug)]
pub struct RootFs {
    diffs: Vec<PathBuf>,
    env: Vec<(String, String)>,
    manifest: Digest,
    _locks: Vec<Lock>,
}

impl RootFs {
    /// The layers' folders, lowest first, in overlayfs's form with `userxattr`. They must not be written to.
    pub fn diffs(&self) -> &[PathBuf] {
        &self.diffs
    }

    /// The environment that the image asks for.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// The image's manifest.
    pub fn manifest(&self) -> &Digest {
        &self.manifest
    }
}

/// What `meta.json` holds, beside a layer's folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    /// Of the way that layers are unpacked.
    pub version: u32,
    /// Of all files.
    pub bytes: u64,
    /// Files, folders, links.
    pub entries: u64,
    /// Device nodes that were left out.
    pub devices: u64,
    /// Folders that the archive needs but does not name. Their modes come from the layers below.
    pub implied: Vec<PathBuf>,
}

impl Meta {
    pub(super) fn of(found: Unpacked) -> Self {
        let Unpacked { bytes, entries, devices, implied } = found;
        Self { version: 1, bytes, entries, devices, implied }
    }
}

/// A layer's tree that is not in its place yet.
pub(super) struct UnpackedBlob {
    /// Complete.
    pub tree: Scratch,
    /// What unpacking it found.
    pub meta: Meta,
    /// Of the content, padding and all.
    pub diff_id: Digest,
    /// Whether the archive had its end mark.
    pub has_end: bool,
}

impl ImageStore {
    /// Makes an image's layers ready for a sandbox.
    ///
    /// # Errors
    ///
    /// When the image has been removed meanwhile, a blob is damaged, or the file system refuses.
    pub fn checkout(&self, image: &StoredImage, on: &Emitter) -> Result<RootFs, ImageError> {
        let holder = format!("build {}", on.build());
        let _store = self.share(&holder, on)?;
        if !self.blob(&image.manifest).exists() {
            return Err(ImageError::Unknown(image.name.to_string()));
        }
        let name = image_lock_name(&image.manifest);
        let own = self.lock(&name, Mode::Shared, &holder, &format!("the image {}", image.name), on)?;
        let (diffs, mut locks) = self.make_diffs(image, &holder, on)?;
        locks.push(own);
        Ok(RootFs { diffs, env: image.config.env.clone(), manifest: image.manifest.clone(), _locks: locks })
    }

    /// Makes those layers of an image that are missing, in order, and locks all of them. With the store's lock shared.
    pub(super) fn make_diffs(
        &self,
        image: &StoredImage,
        holder: &str,
        on: &Emitter,
    ) -> Result<(Vec<PathBuf>, Vec<Lock>), ImageError> {
        let (mut diffs, mut locks) = (Vec::new(), Vec::new());
        for (layer, diff_id) in image.layer_list() {
            locks.push(self.make_diff(layer, diff_id, &diffs, holder, on)?);
            diffs.push(self.diff(diff_id).join("fs"));
        }
        Ok((diffs, locks))
    }

    // The lock for making is another one than that for using, which a build may hold for hours: nobody who wants to make a
    // layer shall wait for somebody who has it already.
    fn make_diff(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        below: &[PathBuf],
        holder: &str,
        on: &Emitter,
    ) -> Result<Lock, ImageError> {
        let used = self.use_diff(diff_id, holder, on)?;
        if !self.has_diff(diff_id) {
            let _making = self.lock_making(diff_id, holder, on)?;
            if !self.has_diff(diff_id) {
                self.unpack_layer(layer, diff_id, below, on)?;
            }
        }
        Ok(used)
    }

    fn use_diff(&self, diff_id: &Digest, holder: &str, on: &Emitter) -> Result<Lock, ImageError> {
        let what = format!("the layer {}", diff_id.short());
        self.lock(&diff_lock_name(&diff_id.hex()), Mode::Shared, holder, &what, on)
    }

    /// Held by whoever makes a layer's folder, so that two smidr never do the same work.
    pub(super) fn lock_making(&self, diff_id: &Digest, holder: &str, on: &Emitter) -> Result<Lock, ImageError> {
        let what = format!("the layer {}", diff_id.short());
        self.lock(&making_lock_name(&diff_id.hex()), Mode::Exclusive, holder, &what, on)
    }

    pub(super) fn has_diff(&self, diff_id: &Digest) -> bool {
        self.diff(diff_id).join("meta.json").exists()
    }

    fn unpack_layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        below: &[PathBuf],
        on: &Emitter,
    ) -> Result<(), ImageError> {
        let unpacked = self.unpack_blob(layer, below, on)?;
        if unpacked.diff_id != *diff_id {
            let what = format!("the content of the layer {}", layer.digest);
            return Err(ImageError::Digest { what, wanted: diff_id.clone(), found: unpacked.diff_id });
        }
        self.place_diff(unpacked.tree, diff_id, &unpacked.meta)
    }

    /// Unpacks a blob of the store, hashing its content.
    pub(super) fn unpack_blob(
        &self,
        layer: &Descriptor,
        below: &[PathBuf],
        on: &Emitter,
    ) -> Result<UnpackedBlob, ImageError> {
        let scratch = Scratch::make(&self.tmp())?;
        let mut progress =
            Progress::new(on, Activity::Unpack, format!("layer {}", layer.digest.short()), Some(layer.size));
        let path = self.blob(&layer.digest);
        let mut hashed = Hashed::new(decoded(&path, &mut progress)?);
        let unpacked = read_ahead(&mut hashed, |ahead| self.unpack_stream(ahead, layer.size, below, scratch.path()));
        let (found, has_end) = unpacked.map_err(|source| ImageError::Layer { blob: layer.digest.clone(), source })?;
        let (_, diff_id, _) = hashed.finish();
        progress.finish();
        if found.devices > 0 {
            on.warn(format!("{} device nodes of layer {} were left out", found.devices, layer.digest.short()));
        }
        Ok(UnpackedBlob { tree: scratch, meta: Meta::of(found), diff_id, has_end })
    }

    fn unpack_stream(
        &self,
        content: &mut Ahead,
        blob_size: u64,
        below: &[PathBuf],
        to: &Path,
    ) -> Result<(Unpacked, bool), LayerError> {
        let room = self.limits.unpacked(blob_size);
        let lowers = Lowers::open(below)?;
        let tree = Rooted::open(to).map_err(|source| LayerError::Place { entry: b"."[..].into(), source })?;
        let mut archive = Archive::new(content, self.limits);
        let found = unpack(&mut archive, &tree, &lowers, self.limits, room)?;
        let has_end = archive.has_end();
        // Headers and padding come on top of the files' bytes.
        archive.drain(room.saturating_mul(2).saturating_add(1 << 30))?;
        Ok((found, has_end))
    }

    /// Lets a complete tree become a layer's folder. With the layer's lock held alone.
    pub(super) fn place_diff(&self, scratch: Scratch, diff_id: &Digest, meta: &Meta) -> Result<(), ImageError> {
        let text =
            serde_json::to_vec(meta).map_err(|source| ImageError::Json { what: "a layer's record".into(), source })?;
        files::write_atomically(&scratch.outer().join("meta.json"), &text, 0o600)?;
        settle(scratch.outer())?;
        let to = self.diff(diff_id);
        if !scratch.become_whole(&to)? {
            // Somebody else was faster, which the lock should have prevented, or it is a wreck without `meta.json`.
            files::remove_tree(&to)?;
            return Err(ImageError::Document {
                what: format!("{}", to.display()),
                why: "was in the way; try again".into(),
            });
        }
        Ok(())
    }
}

// A rename may reach the disk before the files that it shows: without this, a power cut could leave a layer of empty files.
fn settle(folder: &Path) -> Result<(), FileError> {
    let sync = || rustix::fs::syncfs(File::open(folder)?).map_err(std::io::Error::from);
    sync().map_err(FileError::new("write out", folder))
}

fn decoded<'a>(path: &Path, progress: &'a mut Progress) -> Result<Box<dyn Read + Send + 'a>, ImageError> {
    let failed = || FileError::new("read", path);
    let file = File::open(path).map_err(failed())?;
    let compression = sniff(&file).map_err(failed())?;
    let compression = compression.map_err(|name| ImageError::Document {
        what: format!("the layer {}", path.display()),
        why: format!("is compressed with {}, which image layers are not", name.0),
    })?;
    let input = BufReader::with_capacity(256 << 10, Watched::new(file, progress));
    compression.decode(input).map_err(|error| failed()(error).into())
}

/// Tells a file's compression, and leaves its position as it was.
pub(super) fn sniff(file: &File) -> std::io::Result<Result<Compression, super::codec::Unsupported>> {
    use std::os::unix::fs::FileExt as _;
    let mut start = [0; 8];
    let mut filled = 0;
    while filled < start.len() {
        match file.read_at(&mut start[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(Compression::sniff(&start[..filled]))
}

/// The name of the lock that whoever uses an unpacked layer shares.
pub(super) fn diff_lock_name(hex: &str) -> String {
    format!("diff-{hex}")
}

/// The name of the lock that whoever makes an unpacked layer holds alone.
pub(super) fn making_lock_name(hex: &str) -> String {
    format!("making-{hex}")
}
