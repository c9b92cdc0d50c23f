//! The store: images by name, blobs and unpacked layers by digest.
//!
//! ```text
//! blobs/sha256/<digest>       as in an OCI layout: manifests, configurations, compressed layers
//! diffs/<diffID>/fs           a layer in overlayfs's form; complete, or not there at all
//! diffs/<diffID>/layer.json    the result of unpacking it
//! seams/<digest>/fs           what one image adds on top of its layers, by its manifest
//! partial/<digest>            the beginning of a blob, locked while it is written to
//! names/<name>.json           the manifest of a name
//! tmp/                        incomplete entries, each locked by the process that makes it
//! ```
//!
//! Everything appears by rename, without fsync, and is checked once after a power cut ([`crate::system::crash_check`]; blobs by their size).
//! Adding and reading hold `images.lock` shared; only removal holds it
//! exclusively, for as long as it takes to unlink. A build holds a lock on its image and on each layer, so that they stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    codec,
    documents::{Descriptor, Document, ImageConfig, Manifest, json_of},
    error::ImageError,
    gather::diff_lock_name,
    limits::Limits,
    name::ImageName,
    space::{file_size, sizes},
};
use crate::{
    events::Emitter,
    model::{Digest, Event, Paths},
    system::{
        files::{self, FileError},
        lock::{self, Attempt, FileLock, Mode},
        scratch::Scratch,
        stop::StopToken,
    },
};

/// The images of one user.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
    locks: PathBuf,
    pub(super) limits: Limits,
    stop: StopToken,
}

/// An image that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Its name.
    pub name: ImageName,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The creation time in its configuration, or else the time when it was stored.
    pub created: Timestamp,
    /// Its source in words.
    pub source: String,
    /// Where it can be pulled again, if it came from a registry.
    pub origin: Option<Origin>,
    /// When a build last used it, or else the time when it was stored.
    pub last_used: Timestamp,
    /// Bytes of all its blobs.
    pub size: u64,
    /// How many of them other names in the store need too; set by [`ImageStore::list`] only.
    pub shared: u64,
    /// Number of layers.
    pub layers: usize,
    /// Its configuration: environment, architecture, labels.
    pub config: ImageConfig,
    pub(super) documents: Manifest,
}

/// The content of a name's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NameRecord {
    version: u32,
    name: ImageName,
    manifest: Digest,
    stored: Timestamp,
    source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

/// Where an image can be pulled again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// In the form that `smidr image pull` takes.
    pub reference: String,
    /// The digest that the reference had when the image was pulled: of the manifest, or of the index that led to it.
    pub digest: Digest,
    /// Whether it was pulled without a login. Records of earlier versions do not tell.
    #[serde(default)]
    pub anonymous: bool,
}

impl NameRecord {
    fn new(name: &ImageName, manifest: &Digest, source: &str, origin: Option<Origin>) -> Self {
        let (name, manifest, stored) = (name.clone(), manifest.clone(), Timestamp::now());
        Self { version: 1, name, manifest, stored, source: source.into(), origin }
    }
}

const STORE_LOCK: &str = "images";

/// What no image refers to, with the locks of those who use it.
struct Unneeded {
    kept: BTreeSet<Digest>,
    blobs: Vec<PathBuf>,
    diffs: Vec<(PathBuf, PathBuf)>,
    seams: Vec<(PathBuf, PathBuf)>,
}

/// The names of images in a store that need not be there, for a command line; nothing is opened.
pub fn names(paths: &Paths) -> Vec<ImageName> {
    ImageStore::at(paths).names().unwrap_or_default()
}

impl ImageStore {
    /// The store for reading. Creates nothing.
    pub fn at(paths: &Paths) -> Self {
        Self { root: paths.images(), locks: paths.locks(), limits: Limits::default(), stop: StopToken::default() }
    }

    /// Opens the store, creates missing folders and removes what killed processes left incomplete.
    ///
    /// # Errors
    ///
    /// When it belongs to another user, or the file system refuses.
    pub fn open(paths: &Paths) -> Result<Self, ImageError> {
        let store = Self::at(paths);
        store.check_owner()?;
        for folder in [
            store.blobs(),
            store.diffs(),
            store.seams(),
            store.partials(),
            store.names_folder(),
            store.tmp(),
            store.locks.clone(),
        ] {
            files::make_private_dir(&folder)?;
        }
        store.check_owner()?;
        let left_over = !entries(&store.tmp())?.is_empty();
        if left_over
            && let Attempt::Held(_alone) = lock::try_lock(&store.lock_path(STORE_LOCK), Mode::Exclusive, "smidr")?
        {
            Scratch::remove_stale(&store.tmp())?;
        }
        Ok(store)
    }

    /// The same store, whose waits end when a stop is requested.
    #[must_use]
    pub fn heeding(self, stop: &StopToken) -> Self {
        Self { stop: stop.clone(), ..self }
    }

    /// The same store with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    fn check_owner(&self) -> Result<(), ImageError> {
        let me = rustix::process::geteuid().as_raw();
        match fs::metadata(&self.root) {
            Ok(found) if found.uid() != me => {
                Err(ImageError::Foreign { path: self.root.clone(), owner: found.uid(), me })
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FileError::new("look at", &self.root)(error).into())
            }
            _ => Ok(()),
        }
    }

    /// All images, sorted by name, without those whose documents are damaged; [`ImageStore::names`] has these too.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<StoredImage>, ImageError> {
        let mut images = Vec::new();
        for name in self.names()? {
            match self.record(&name).and_then(|record| record.map(|record| self.load(record)).transpose()) {
                Ok(image) => images.extend(image),
                Err(error @ ImageError::Store(_)) => return Err(error),
                Err(_) => {}
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
        for image in &images {
            image.blobs().into_iter().for_each(|(digest, _)| *users.entry(digest).or_default() += 1);
        }
        for image in &mut images {
            let shared =
                image.blobs().into_iter().filter(|(digest, _)| users.get(digest).is_some_and(|count| *count > 1));
            image.shared = shared.map(|(_, size)| size).fold(0, u64::saturating_add);
        }
        Ok(images)
    }

    /// The image with that name, or with that manifest digest: complete, or its first hexadecimal digits, eight at least.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or the image is damaged.
    pub fn find(&self, name_or_digest: &str) -> Result<Option<StoredImage>, ImageError> {
        if let Ok(name) = name_or_digest.parse::<ImageName>()
            && let Some(record) = self.record(&name)?
        {
            return self.load(record).map(Some);
        }
        let digits = name_or_digest.strip_prefix("sha256:").unwrap_or(name_or_digest);
        if digits.len() < 8 {
            return Ok(None);
        }
        let mut records = self.records()?;
        records.retain(|record| record.manifest.hex().starts_with(digits));
        records.sort_by(|a, b| a.name.cmp(&b.name));
        // Digits that begin several digests name none of them.
        match records.first().cloned() {
            Some(first) if records.iter().all(|record| record.manifest == first.manifest) => self.load(first).map(Some),
            _ => Ok(None),
        }
    }

    /// Removes a name, then blobs and unpacked layers that no name refers to and no build uses. Gives the bytes that are free then.
    ///
    /// # Errors
    ///
    /// When there is no such name, or a build uses the image and no other name keeps it.
    pub fn remove(&self, name: &ImageName, on: &Emitter) -> Result<u64, ImageError> {
        let _alone = self.lock(STORE_LOCK, Mode::Exclusive, "image rm", "the image store", on)?;
        match self.record(name) {
            Ok(None) => return Err(ImageError::Unknown(name.to_string())),
            Ok(Some(record)) => {
                let same = |other: &NameRecord| other.name != *name && other.manifest == record.manifest;
                if !self.records()?.iter().any(same)
                    && let Some(holder) = self.user_of(&record.manifest)?
                {
                    return Err(ImageError::InUse { name: name.clone(), holder });
                }
            }
            // A damaged image can still be removed.
            Err(ImageError::Json { .. }) => {}
            Err(error) => return Err(error),
        }
        let path = self.name_path(name);
        fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
        self.sweep()
    }

    /// The process that uses an image now, if there is one.
    pub(super) fn user_of(&self, manifest: &Digest) -> Result<Option<String>, ImageError> {
        Ok(lock::holder(&self.image_lock(manifest))?)
    }

    /// A private folder in the store's file system, for a tree that may be published. It is removed when dropped.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn scratch(&self) -> Result<Scratch, ImageError> {
        // Cleaning up cannot run between the folder's creation and its locking.
        let _shared = lock::lock(&self.lock_path(STORE_LOCK), Mode::Shared, "smidr", &self.stop, |_| ())?;
        Ok(Scratch::make(&self.tmp())?)
    }

    /// Removes what nothing refers to, unless the store is in use.
    ///
    /// What it cannot remove costs space and nothing else, so it only warns.
    pub(super) fn sweep_if_free(&self, on: &Emitter) {
        let sweep =
            || match lock::try_lock(&self.lock_path(STORE_LOCK), Mode::Exclusive, "clearing up the image store")? {
                Attempt::Held(_alone) => self.sweep(),
                Attempt::Busy(_) => Ok(0),
            };
        if let Err(error) = sweep() {
            on.warn(format!("the image store could not be cleared up: {error}"));
        }
    }

    /// Removes what nothing refers to, partial blobs included, as soon as the store is not in use. Gives the bytes that are free then.
    pub(super) fn sweep_now(&self, on: &Emitter) -> Result<u64, ImageError> {
        let _alone = self.lock(STORE_LOCK, Mode::Exclusive, "image prune", "the image store", on)?;
        let mut freed = 0;
        for (_, path) in entries(&self.partials())? {
            freed += remove_if_there(&path)?;
        }
        Ok(freed + self.sweep()?)
    }

    /// The bytes that [`Self::sweep_now`] would free, as far as nothing uses them.
    pub(super) fn unneeded_bytes(&self) -> Result<u64, ImageError> {
        let partials = entries(&self.partials())?.into_iter().map(|(_, path)| path);
        let unneeded = self.unneeded()?;
        let locked = [&unneeded.diffs, &unneeded.seams].into_iter().flatten();
        let mut all: Vec<PathBuf> = partials.chain(unneeded.blobs.iter().cloned()).collect();
        for (path, lock) in locked {
            if lock::holder(lock)?.is_none() {
                all.push(path.clone());
            }
        }
        Ok(sizes(&all.iter().map(PathBuf::as_path).collect::<Vec<_>>()).into_iter().fold(0, u64::saturating_add))
    }

    // What no image refers to.
    fn unneeded(&self) -> Result<Unneeded, ImageError> {
        let mut kept = BTreeSet::new();
        for record in self.records()? {
            match self.load(record.clone()) {
                Ok(image) => kept.extend(image.references()),
                // The other parts of a damaged image are not known, so only its manifest is kept.
                Err(error @ ImageError::Store(_)) => return Err(error),
                Err(_) => kept.extend([record.manifest]),
            }
        }
        let of = |folder: PathBuf| -> Result<Vec<(String, PathBuf)>, ImageError> {
            let found = entries(&folder)?.into_iter();
            Ok(found.filter(|(hex, _)| !is_kept(hex, &kept)).collect())
        };
        let blobs = of(self.blobs())?.into_iter().map(|(_, path)| path).collect();
        let diffs = of(self.diffs())?.into_iter();
        let diffs = diffs.map(|(hex, path)| (path, self.lock_path(&diff_lock_name(&hex)))).collect();
        let seams = of(self.seams())?.into_iter();
        let seams = seams.map(|(hex, path)| (path, self.lock_path(&image_lock_name_of(&hex)))).collect();
        Ok(Unneeded { kept, blobs, diffs, seams })
    }

    // Needs the store's lock, held exclusively.
    fn sweep(&self) -> Result<u64, ImageError> {
        let Unneeded { kept, blobs, diffs, seams } = self.unneeded()?;
        let mut freed: u64 = 0;
        for path in blobs {
            freed += remove_if_there(&path)?;
        }
        for (file, path) in entries(&self.names_folder())? {
            // Temporary files of killed processes.
            if file.starts_with('.') {
                remove_if_there(&path)?;
            }
        }
        for (path, lock) in diffs.into_iter().chain(seams) {
            freed += self.discard(&path, &lock)?;
        }
        self.sweep_locks(&kept)?;
        Ok(freed)
    }

    // The store's exclusive lock keeps these from being opened, so none can be held after it is removed.
    fn sweep_locks(&self, kept: &BTreeSet<Digest>) -> Result<(), ImageError> {
        for (file, path) in entries(&self.locks)? {
            let name = file.strip_suffix(".lock").and_then(|name| name.split_once('-'));
            let ours = name.filter(|(kind, hex)| matches!(*kind, "image" | "diff" | "making") && !is_kept(hex, kept));
            if ours.is_some() && matches!(lock::try_lock(&path, Mode::Exclusive, "smidr")?, Attempt::Held(_)) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    // Moved away first: an incomplete layer must never stand in the place of a complete one. Skipped while it is in use. Gives its bytes.
    pub(super) fn discard(&self, path: &Path, using: &Path) -> Result<u64, ImageError> {
        let Attempt::Held(_lock) = lock::try_lock(using, Mode::Exclusive, "clearing up the image store")? else {
            return Ok(0);
        };
        let size = sizes(&[path]).into_iter().sum();
        let scratch = Scratch::make(&self.tmp())?;
        let away = scratch.outer().join("away");
        match fs::rename(path, &away) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FileError::new("move away", path)(error).into())
            }
            _ => Ok(size),
        }
    }

    /// The lock that users of an unpacked layer share.
    pub(super) fn diff_lock(&self, diff_id: &Digest) -> PathBuf {
        self.lock_path(&diff_lock_name(&diff_id.hex()))
    }

    /// Locks the store exclusively, and refuses where a build uses a layer of `image`.
    pub(super) fn alone_with(&self, image: &StoredImage, holder: &str, on: &Emitter) -> Result<FileLock, ImageError> {
        let alone = self.lock(STORE_LOCK, Mode::Exclusive, holder, "the image store", on)?;
        for (_, diff_id) in image.layer_list() {
            let path = self.lock_path(&diff_lock_name(&diff_id.hex()));
            if let Attempt::Busy(holder) = lock::try_lock(&path, Mode::Exclusive, holder)? {
                return Err(ImageError::InUse { name: image.name.clone(), holder });
            }
        }
        Ok(alone)
    }

    pub(super) fn share(&self, holder: &str, on: &Emitter) -> Result<FileLock, ImageError> {
        self.lock(STORE_LOCK, Mode::Shared, holder, "the image store", on)
    }

    pub(super) fn lock(
        &self,
        name: &str,
        mode: Mode,
        holder: &str,
        what: &str,
        on: &Emitter,
    ) -> Result<FileLock, ImageError> {
        let waiting = |other: &str| on.emit(Event::Waiting { resource: what.into(), holder: other.into() });
        Ok(lock::lock(&self.lock_path(name), mode, holder, &self.stop, waiting)?)
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        lock::path_in(&self.locks, name)
    }

    pub(super) fn image_lock(&self, manifest: &Digest) -> PathBuf {
        self.lock_path(&image_lock_name(manifest))
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn diffs(&self) -> PathBuf {
        self.root.join("diffs")
    }

    fn seams(&self) -> PathBuf {
        self.root.join("seams")
    }

    fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// The place of an image's seam.
    pub(super) fn seam_path(&self, manifest: &Digest) -> PathBuf {
        self.seams().join(manifest.hex())
    }

    /// The place of a partial blob.
    pub(super) fn partial(&self, blob: &Digest) -> PathBuf {
        self.partials().join(blob.hex())
    }

    fn names_folder(&self) -> PathBuf {
        self.root.join("names")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The place of a blob.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.blob_path())
    }

    /// The place of an unpacked layer.
    pub(super) fn diff(&self, diff_id: &Digest) -> PathBuf {
        self.diffs().join(diff_id.hex())
    }

    fn name_path(&self, name: &ImageName) -> PathBuf {
        self.names_folder().join(format!("{}.json", name.to_file_name()))
    }

    /// Stores a small document as a blob.
    pub(super) fn add_document(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = codec::digest(bytes);
        files::write_atomically(&self.blob(&digest), bytes, 0o600)?;
        Ok(digest)
    }

    /// Reads a small blob, and checks its digest.
    pub(super) fn document(&self, what: &str, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.blob(digest);
        let size = match fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ImageError::Missing(what.into())),
            found => found.map_err(FileError::new("find", &path))?.len(),
        };
        if size > limit {
            return Err(ImageError::TooLarge { what: what.into(), size, limit });
        }
        let bytes = fs::read(&path).map_err(FileError::new("read", &path))?;
        let found = codec::digest(&bytes);
        if found != *digest {
            return Err(ImageError::Digest { what: what.into(), wanted: digest.clone(), found });
        }
        Ok(bytes)
    }

    /// An image without a name. Needs the store's lock, shared.
    pub(super) fn image_of(
        &self,
        name: &ImageName,
        manifest: &Digest,
        source: &str,
    ) -> Result<StoredImage, ImageError> {
        self.load(NameRecord::new(name, manifest, source, None))
    }

    /// Gives a name to a manifest, whose blobs are all there. Needs the store's lock, shared.
    pub(super) fn set_name(
        &self,
        name: &ImageName,
        manifest: &Digest,
        source: &str,
        origin: Option<Origin>,
    ) -> Result<StoredImage, ImageError> {
        let record = NameRecord::new(name, manifest, source, origin);
        let image = self.load(record.clone())?;
        let text = serde_json::to_vec(&record).map_err(|source| ImageError::Json { what: "a name".into(), source })?;
        files::write_atomically(&self.name_path(name), &text, 0o600)?;
        Ok(image)
    }

    /// The names of all images, sorted, damaged ones too.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn names(&self) -> Result<Vec<ImageName>, ImageError> {
        let files = entries(&self.names_folder())?;
        let mut names: Vec<ImageName> =
            files.iter().filter_map(|(file, _)| ImageName::from_file_name(file.strip_suffix(".json")?)).collect();
        names.sort();
        Ok(names)
    }

    /// Images whose documents are damaged: their names, and when they were last used.
    pub(super) fn damaged(&self) -> Result<Vec<(ImageName, Timestamp)>, ImageError> {
        let damaged = |record: &NameRecord| self.load(record.clone()).is_err();
        let found = self.records()?.into_iter().filter(damaged);
        Ok(found.map(|record| (record.name.clone(), self.last_used(&record))).collect())
    }

    /// Where the image of a name can be pulled again, and its expected digest; also if it is damaged.
    ///
    /// # Errors
    ///
    /// When the name's own record is damaged.
    pub fn origin(&self, name: &ImageName) -> Result<Option<(Origin, Digest)>, ImageError> {
        Ok(self.record(name)?.and_then(|record| Some((record.origin?, record.manifest))))
    }

    fn records(&self) -> Result<Vec<NameRecord>, ImageError> {
        let names = self.names()?.into_iter();
        // One that cannot be parsed does not prevent the listing of others,
        // and a name that vanishes while it is read is left out.
        let records = names.filter_map(|name| match self.record(&name) {
            Err(ImageError::Json { .. }) => None,
            found => found.transpose(),
        });
        records.collect()
    }

    fn record(&self, name: &ImageName) -> Result<Option<NameRecord>, ImageError> {
        let path = self.name_path(name);
        match fs::read(&path) {
            Ok(bytes) => json_of(&path.display().to_string(), &bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::new("read", &path)(error).into()),
        }
    }

    fn load(&self, record: NameRecord) -> Result<StoredImage, ImageError> {
        let what = format!("the manifest of the image `{}`", record.name);
        let bytes = self.document(&what, &record.manifest, self.limits.manifest)?;
        let Document::Manifest(documents) = Document::parse(&what, &bytes, None, &self.limits)? else {
            return Err(ImageError::Document { what, why: "is an index".into() });
        };
        let what = format!("the configuration of the image `{}`", record.name);
        let config = ImageConfig::parse(&what, &self.document(&what, &documents.config.digest, self.limits.config)?)?;
        if config.diff_ids.len() != documents.layers.len() {
            let (said, are) = (config.diff_ids.len(), documents.layers.len());
            return Err(ImageError::Document { what, why: format!("names {said} layers, but its manifest {are}") });
        }
        let sizes = documents.layers.iter().chain([&documents.config]).map(|blob| blob.size);
        let size = sizes.fold(bytes.len() as u64, u64::saturating_add);
        Ok(StoredImage {
            created: config.created.unwrap_or(record.stored),
            size,
            shared: 0,
            layers: documents.layers.len(),
            last_used: self.last_used(&record),
            name: record.name,
            manifest: record.manifest,
            source: record.source,
            origin: record.origin,
            config,
            documents,
        })
    }
}

impl ImageStore {
    // Users of an image write their names into its lock.
    fn last_used(&self, record: &NameRecord) -> Timestamp {
        let used = fs::metadata(self.image_lock(&record.manifest)).and_then(|lock| lock.modified());
        let used = used.ok().and_then(|time| Timestamp::try_from(time).ok());
        used.map_or(record.stored, |used| used.max(record.stored))
    }
}

impl StoredImage {
    pub(super) fn blobs(&self) -> BTreeMap<Digest, u64> {
        self.documents
            .layers
            .iter()
            .chain([&self.documents.config])
            .map(|blob| (blob.digest.clone(), blob.size))
            .collect()
    }

    fn references(&self) -> impl Iterator<Item = Digest> {
        self.blobs().into_keys().chain(self.config.diff_ids.clone()).chain([self.manifest.clone()])
    }

    /// Each layer's blob and the digest of its content, lowest first.
    pub(super) fn layer_list(&self) -> impl Iterator<Item = (&Descriptor, &Digest)> {
        self.documents.layers.iter().zip(&self.config.diff_ids)
    }

    /// The layers that its file system is stacked of, lowest first: of equal contents only the uppermost. It has every path, whiteout and
    /// opaque mark of the others, and the kernel takes no folder twice (ELOOP).
    pub(super) fn stack(&self) -> Vec<(&Descriptor, &Digest)> {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<_> = self.layer_list().collect();
        stack.reverse();
        stack.retain(|(_, diff_id)| seen.insert(*diff_id));
        stack.reverse();
        stack
    }
}

/// The name of the lock that a build holds on its image.
pub(super) fn image_lock_name(manifest: &Digest) -> String {
    image_lock_name_of(&manifest.hex())
}

fn image_lock_name_of(hex: &str) -> String {
    format!("image-{hex}")
}

// Gives its bytes.
fn remove_if_there(path: &Path) -> Result<u64, FileError> {
    let size = file_size(path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FileError::new("remove", path)(error)),
        _ => Ok(size),
    }
}

fn is_kept(hex: &str, kept: &BTreeSet<Digest>) -> bool {
    format!("sha256:{hex}").parse::<Digest>().is_ok_and(|digest| kept.contains(&digest))
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, FileError> {
    let failed = || FileError::new("list", folder);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}
