//! Prepares an image's layers as folders that a sandbox can stack.
//!
//! The result is a `RootFs`: the folders of an image's layers, lowest first, kept from removal while
//! the value lives. Missing layers are unpacked, each only once even if several processes want it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    account::Account,
    codec::Compression,
    documents::{Descriptor, json_of},
    error::ImageError,
    gather::Wanted,
    layer_error::LayerError,
    limits::Limits,
    registry::Registry,
    seam,
    store::{ImageStore, StoredImage, image_lock_name},
    unpack::Unpacked,
};
use crate::{
    events::Emitter,
    model::Digest,
    system::{
        crash_check,
        files::FileError,
        lock::{FileLock, Mode},
        rooted::Rooted,
        scratch::Scratch,
    },
};

/// An image's file system, as folders to be stacked. Nothing of it is removed from the store while this value lives.
#[derive(Debug)]
pub struct RootFs {
    diffs: Vec<PathBuf>,
    env: Vec<(String, String)>,
    manifest: Digest,
    _locks: Vec<FileLock>,
}

impl RootFs {
    /// The layers' folders, lowest first, in overlayfs's form with `userxattr`. They must not be written to.
    pub fn diffs(&self) -> &[PathBuf] {
        &self.diffs
    }

    /// The environment that the image sets.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// The image's manifest.
    pub fn manifest(&self) -> &Digest {
        &self.manifest
    }
}

/// The content of `layer.json`, beside a layer's folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The version of the format of unpacked layers.
    pub version: u32,
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, folders, links.
    pub entries: u64,
    /// Device nodes that were left out.
    pub devices: u64,
    /// Folders that the archive needs but does not name.
    #[serde(with = "names")]
    pub implied: Vec<PathBuf>,
    /// Hard links to files of layers below, and their targets.
    #[serde(with = "names::pairs")]
    pub links: Vec<(PathBuf, PathBuf)>,
}

impl Meta {
    pub(super) fn of(found: Unpacked) -> Self {
        let Unpacked { bytes, entries, devices, implied, links } = found;
        Self { version: 1, bytes, entries, devices, implied, links }
    }

    /// Whether the layer depends on none below it. The root folder's own mode comes from the sandbox.
    fn is_closed(&self) -> bool {
        self.links.is_empty() && self.implied.iter().all(|path| path.as_os_str().is_empty())
    }
}

impl ImageStore {
    /// Makes an image's layers ready for a sandbox.
    ///
    /// # Errors
    ///
    /// When the image was removed meanwhile, a blob is damaged, or the file system refuses.
    pub fn checkout(&self, image: &StoredImage, on: &Emitter) -> Result<RootFs, ImageError> {
        let holder = format!("build {}", on.build());
        let _store = self.share(&holder, on)?;
        if !self.blob(&image.manifest).exists() {
            return Err(ImageError::Unknown(image.name.to_string()));
        }
        let name = image_lock_name(&image.manifest);
        let own = self.lock(&name, Mode::Shared, &holder, &format!("the image {}", image.name), on)?;
        let (diffs, mut locks) = self.make_diffs(image, None, Limits::none(), &holder, on)?;
        locks.push(own);
        Ok(RootFs { diffs, env: image.config.env.clone(), manifest: image.manifest.clone(), _locks: locks })
    }

    /// Makes the missing layers of an image, and its seam, and locks all of them: folders to be stacked, the lowest
    /// first. Needs the store's lock, shared.
    pub(super) fn make_diffs(
        &self,
        image: &StoredImage,
        from: Option<&dyn Registry>,
        limits: Limits,
        holder: &str,
        on: &Emitter,
    ) -> Result<(Vec<PathBuf>, Vec<FileLock>), ImageError> {
        let what = if from.is_some() { image.source.clone() } else { format!("the image `{}`", image.name) };
        let locks =
            self.gather(&Wanted { what: &what, layers: image.layer_list().collect(), from, limits }, holder, on)?;
        let mut diffs = self.folders(image);
        diffs.extend(self.seam(image, &what, limits, holder, on)?);
        Ok((diffs, locks))
    }

    fn folders(&self, image: &StoredImage) -> Vec<PathBuf> {
        image.stack().into_iter().map(|(_, diff_id)| self.diff(diff_id).join("fs")).collect()
    }

    /// The folder that an image needs on top of its layers, if any. Its layers have to be locked.
    fn seam(
        &self,
        image: &StoredImage,
        what: &str,
        limits: Limits,
        holder: &str,
        on: &Emitter,
    ) -> Result<Option<PathBuf>, ImageError> {
        let to = self.seam_path(&image.manifest);
        let is_there = || to.exists() && crash_check::is_whole(&to, &to.join("fs"));
        if !is_there() {
            // Checked before the lock is taken: an image without a seam has nothing to wait for.
            let account = Account::new(&limits);
            let Some(metas) = self.left_open(image, &account)? else { return Ok(None) };
            let _making = self.lock_making(&image.manifest, holder, on)?;
            if !is_there() {
                let scratch = self.make_seam(image, &metas, what, limits, &account)?;
                crash_check::mark(scratch.outer(), scratch.path())?;
                scratch.persist(&to)?;
            }
        }
        Ok(Some(to.join("fs")))
    }

    /// The records of the layers that an image is stacked of, lowest first, if any of them needs something on top. Its layers have to be locked.
    pub(super) fn left_open(&self, image: &StoredImage, account: &Account) -> Result<Option<Vec<Meta>>, ImageError> {
        let charged = |(layer, diff_id): (&Descriptor, &Digest)| {
            let meta = self.meta(&self.diff(diff_id))?;
            let links = meta.links.iter().flat_map(|(link, target)| [link, target]);
            let charged = meta.implied.iter().chain(links).try_for_each(|path| account.charge(path));
            let what = || format!("the layer {} of {}", layer.digest.short(), image.name);
            charged.map(|()| meta).map_err(|source| ImageError::Layer { what: what(), source })
        };
        let metas = image.stack().into_iter().map(charged).collect::<Result<Vec<Meta>, ImageError>>()?;
        Ok(if metas.iter().all(Meta::is_closed) { None } else { Some(metas) })
    }

    /// Makes the seam of an image in a scratch folder. Its layers have to be locked.
    pub(super) fn make_seam(
        &self,
        image: &StoredImage,
        metas: &[Meta],
        what: &str,
        limits: Limits,
        account: &Account,
    ) -> Result<Scratch, ImageError> {
        let folders = self.folders(image);
        let layers: Vec<seam::Open<'_>> =
            folders.iter().zip(metas).map(|(folder, meta)| seam::Open::new(folder, meta)).collect();
        let scratch = Scratch::make(&self.tmp())?;
        let failed = |source| ImageError::Layer { what: format!("the layers of {what}"), source };
        let tree = Rooted::open(scratch.path());
        let tree = tree.map_err(|source| failed(LayerError::Place { entry: b"."[..].into(), source }))?;
        seam::make(&layers, &tree, limits.unpacked(image.size), account).map_err(failed)?;
        Ok(scratch)
    }

    pub(super) fn has_diff(&self, diff_id: &Digest) -> bool {
        // An earlier version wrote a `meta.json`; what it unpacked is not used any more.
        let folder = self.diff(diff_id);
        folder.join("layer.json").exists() && crash_check::is_whole(&folder, &folder.join("fs"))
    }

    fn meta(&self, diff: &Path) -> Result<Meta, ImageError> {
        let path = diff.join("layer.json");
        let bytes = fs::read(&path).map_err(FileError::new("read", &path))?;
        json_of(&path.display().to_string(), &bytes)
    }

    /// Moves a complete tree into a layer's place. Needs the layer's lock, held exclusively.
    pub(super) fn place_diff(&self, scratch: Scratch, diff_id: &Digest, meta: &Meta) -> Result<(), ImageError> {
        let path = scratch.outer().join("layer.json");
        let write = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let mut out = BufWriter::new(file);
            serde_json::to_writer(&mut out, meta)?;
            out.flush()
        };
        write().map_err(FileError::new("write", &path))?;
        crash_check::mark(scratch.outer(), scratch.path())?;
        Ok(scratch.persist(&self.diff(diff_id))?)
    }
}

/// Detects a file's compression, and leaves its position as it was.
pub(super) fn sniff(file: &File) -> io::Result<Result<Compression, super::codec::Unsupported>> {
    use std::os::unix::fs::FileExt as _;
    let mut start = [0; 8];
    let mut filled = 0;
    while let Some(room @ [_, ..]) = start.get_mut(filled..) {
        match file.read_at(room, filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(Compression::sniff(start.get(..filled).unwrap_or_default()))
}

/// Names of files in JSON. They may be any bytes: all but plain ASCII is written as `%` and two digits.
mod names {
    use std::{
        ffi::OsString,
        os::unix::ffi::{OsStrExt as _, OsStringExt as _},
        path::{Path, PathBuf},
    };

    use serde::{Deserialize, Deserializer, Serializer};

    // Read and written one by one: together they may take megabytes.
    struct Name(PathBuf);

    impl<'de> Deserialize<'de> for Name {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = String::deserialize(from)?;
            unescape(&text).map(Self).ok_or_else(|| serde::de::Error::custom("a damaged name"))
        }
    }

    fn escape(path: &Path) -> String {
        let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
        let escaped = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
        path.as_os_str().as_bytes().iter().map(escaped).collect()
    }

    fn unescape(text: &str) -> Option<PathBuf> {
        let mut parts = text.split('%');
        let mut bytes = parts.next()?.as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
            bytes.extend(part.get(2..)?.as_bytes());
        }
        bytes.shrink_to_fit();
        Some(OsString::from_vec(bytes).into())
    }

    pub(super) fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| escape(path)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<Name>::deserialize(from)?.into_iter().map(|Name(path)| path).collect())
    }

    /// The same for pairs.
    pub(super) mod pairs {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(pairs: &[(PathBuf, PathBuf)], to: S) -> Result<S::Ok, S::Error> {
            to.collect_seq(pairs.iter().map(|(a, b)| (escape(a), escape(b))))
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(PathBuf, PathBuf)>, D::Error> {
            let pairs = Vec::<(Name, Name)>::deserialize(from)?;
            Ok(pairs.into_iter().map(|(Name(a), Name(b))| (a, b)).collect())
        }
    }
}
