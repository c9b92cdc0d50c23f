//! Fetches the missing layers of an image from its source, several at once.
//!
//! The result is the layers' folders and the locks that keep them. A layer that two processes want at once is fetched once. The bytes
//! of a blob that were received before a connection broke are kept, and the rest is requested next time.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{
    account::Account,
    checkout::Meta,
    documents::Descriptor,
    error::ImageError,
    intake::{self, Incoming, Keep, Received},
    layer_error::LayerError,
    limits::Limits,
    progress::Progress,
    registry::Registry,
    store::ImageStore,
};
use crate::{
    events::Emitter,
    model::{Activity, Digest},
    system::{
        files::{self, FileError},
        lock::{FileLock, Mode},
        scratch::Scratch,
    },
};

/// How many layers are received at the same time: enough to keep two processors and a network busy.
const AT_ONCE: usize = 4;

/// The layers of an image, and their source.
pub(super) struct Wanted<'a> {
    /// The image, for messages.
    pub what: &'a str,
    /// Each layer's blob and the digest of its content, lowest first.
    pub layers: Vec<(&'a Descriptor, &'a Digest)>,
    /// The source of blobs that the store lacks.
    pub from: Option<&'a dyn Registry>,
    /// Limits for the missing layers. None for an image that is in the store: they were checked when it was stored.
    pub limits: Limits,
}

// One blob that the store lacks, or whose content is not unpacked.
struct Missing<'a> {
    blob: &'a Descriptor,
    diff_id: &'a Digest,
    // Whether the content has to be unpacked, or only checked.
    unpack: bool,
}

// One layer that was received, and is not visible yet.
struct Staged<'a> {
    blob: &'a Descriptor,
    diff_id: &'a Digest,
    // Its bytes, if the store lacked them. Locked until they are in their place.
    landing: Option<Landing>,
    scratch: Scratch,
    meta: Option<Meta>,
}

impl ImageStore {
    /// Makes the layers of an image ready, and locks them against removal. Needs the store's lock, shared.
    pub(super) fn gather(&self, wanted: &Wanted<'_>, holder: &str, on: &Emitter) -> Result<Vec<FileLock>, ImageError> {
        // In the order of their digests, so that two processes never deadlock. An image may have a layer twice,
        // also in two blobs, as when two tools have compressed it.
        let mut layers: BTreeMap<String, (&Digest, BTreeMap<String, &Descriptor>)> = BTreeMap::new();
        for (blob, diff_id) in &wanted.layers {
            let (_, blobs) = layers.entry(diff_id.hex()).or_insert_with(|| (*diff_id, BTreeMap::new()));
            blobs.insert(blob.digest.hex(), blob);
        }
        let used =
            layers.values().map(|(diff_id, _)| self.use_diff(diff_id, holder, on)).collect::<Result<Vec<_>, _>>()?;
        let (mut making, mut missing) = (Vec::new(), Vec::new());
        for (diff_id, blobs) in layers.into_values() {
            let lacks = || self.lacks(diff_id, &blobs, wanted.from.is_some());
            if lacks().is_empty() {
                continue;
            }
            let lock = self.lock_making(diff_id, holder, on)?;
            let lacking = lacks();
            if !lacking.is_empty() {
                making.push(lock);
                missing.extend(lacking);
            }
        }
        if !missing.is_empty() {
            let arrived = self.receive_all(wanted, missing, on)?;
            arrived.into_iter().try_for_each(|layer| self.show(layer))?;
        }
        Ok(used)
    }

    // What is missing of one layer. Without a source only the content counts.
    fn lacks<'a>(
        &self,
        diff_id: &'a Digest,
        blobs: &BTreeMap<String, &'a Descriptor>,
        with_blobs: bool,
    ) -> Vec<Missing<'a>> {
        let mut unpack = !self.has_diff(diff_id);
        let mut missing = Vec::new();
        for blob in blobs.values() {
            if unpack || (with_blobs && !self.has_blob(blob)) {
                missing.push(Missing { blob, diff_id, unpack });
                unpack = false;
            }
        }
        missing
    }

    fn receive_all<'a>(
        &self,
        wanted: &Wanted<'_>,
        mut missing: Vec<Missing<'a>>,
        on: &Emitter,
    ) -> Result<Vec<Staged<'a>>, ImageError> {
        let account = Account::new(&wanted.limits);
        let total = missing.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.blob.size));
        let activity = if wanted.from.is_some() { Activity::Pull } else { Activity::Unpack };
        let progress = Progress::new(on, activity, wanted.what, Some(total));
        // The largest first, so that the last ones to finish are short.
        missing.sort_by_key(|layer| layer.blob.size);
        let workers = missing.len().min(AT_ONCE);
        let (queue, arrived, failed) = (Mutex::new(missing), Mutex::new(Vec::new()), Mutex::new(None));
        let over = AtomicBool::new(false);
        let work = || {
            while let Some(layer) = next(&queue, &over) {
                match self.receive(wanted, &layer, &account, &over, &progress, on) {
                    Ok(layer) => locked(&arrived).push(layer),
                    Err(error) => {
                        // The first failure is the cause: the other threads were stopped because of it.
                        if !over.swap(true, Ordering::Relaxed) {
                            *locked(&failed) = Some(error);
                        }
                    }
                }
            }
        };
        thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => {
                progress.finish();
                Ok(arrived.into_inner().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    fn receive<'a>(
        &self,
        wanted: &Wanted<'_>,
        layer: &Missing<'a>,
        account: &Account,
        over: &AtomicBool,
        progress: &Progress,
        on: &Emitter,
    ) -> Result<Staged<'a>, ImageError> {
        let scratch = Scratch::make(&self.tmp())?;
        let what = format!("the layer {} of {}", layer.blob.digest.short(), wanted.what);
        let incoming = Incoming {
            what: &what,
            wanted: Some(layer.blob),
            diff_id: Some(layer.diff_id),
            size: layer.blob.size,
            tree: layer.unpack.then_some(scratch.path()),
            over,
            limits: wanted.limits,
            account,
            progress,
        };
        let (received, landing) = match wanted.from.filter(|_| !self.has_blob(layer.blob)) {
            Some(from) => {
                let mut landing = Landing::open(self, layer.blob, &scratch)?;
                (landing.receive(layer.blob, from, incoming)?, Some(landing))
            }
            None => (intake::receive(incoming, self.open_blob(layer.blob, &what)?, None)?, None),
        };
        let Received { found, .. } = received;
        if found.devices > 0 {
            on.warn(format!("{} device nodes of {what} were left out", found.devices));
        }
        let meta = layer.unpack.then(|| Meta::of(found));
        Ok(Staged { blob: layer.blob, diff_id: layer.diff_id, landing, scratch, meta })
    }

    fn open_blob(&self, blob: &Descriptor, what: &str) -> Result<File, ImageError> {
        let path = self.blob(&blob.digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ImageError::Missing(what.into()),
            _ => FileError::new("read", &path)(error).into(),
        })
    }

    fn show(&self, layer: Staged<'_>) -> Result<(), ImageError> {
        if let Some(landing) = layer.landing {
            let to = self.blob(&layer.blob.digest);
            fs::rename(&landing.path, &to).map_err(FileError::new("put in its place", &to))?;
        }
        match layer.meta {
            Some(meta) => self.place_diff(layer.scratch, layer.diff_id, &meta),
            None => Ok(()),
        }
    }

    fn use_diff(&self, diff_id: &Digest, holder: &str, on: &Emitter) -> Result<FileLock, ImageError> {
        let what = format!("the layer {}", diff_id.short());
        self.lock(&diff_lock_name(&diff_id.hex()), Mode::Shared, holder, &what, on)
    }

    /// Held to make a layer's folder, so that two processes never do the same work. Not the lock for using it, which a
    /// build may hold for hours: unpacking must not wait for a running build.
    pub(super) fn lock_making(&self, diff_id: &Digest, holder: &str, on: &Emitter) -> Result<FileLock, ImageError> {
        let what = format!("the layer {}", diff_id.short());
        self.lock(&format!("making-{}", diff_id.hex()), Mode::Exclusive, holder, &what, on)
    }

    /// Whether a blob is there, judged by its size.
    pub(super) fn has_blob(&self, blob: &Descriptor) -> bool {
        fs::metadata(self.blob(&blob.digest)).is_ok_and(|found| found.is_file() && found.len() == blob.size)
    }
}

/// A partial blob: the file for a blob's bytes, with those of earlier attempts. Locked while this value lives.
struct Landing {
    path: PathBuf,
    file: File,
    have: u64,
}

impl Landing {
    fn open(store: &ImageStore, blob: &Descriptor, scratch: &Scratch) -> Result<Self, ImageError> {
        let path = store.partial(&blob.digest);
        let mut new = Self::at(path)?;
        // Two images may disagree about the content of one blob, and then no other lock keeps them apart. The previous holder of this lock may
        // have put it in its place meanwhile.
        if new.file.try_lock().is_err() || !new.is_there() {
            new = Self::at(scratch.outer().join("blob"))?;
        }
        new.have = new.file.metadata().map_err(FileError::new("look at", &new.path))?.len();
        if new.have > blob.size {
            new.empty()?;
        }
        Ok(new)
    }

    fn at(path: PathBuf) -> Result<Self, FileError> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(FileError::new("make", &path))?;
        Ok(Self { path, file, have: 0 })
    }

    fn is_there(&self) -> bool {
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        self.file.metadata().and_then(|own| Ok(same(own, fs::symlink_metadata(&self.path)?))).unwrap_or(false)
    }

    fn empty(&mut self) -> Result<(), FileError> {
        self.have = 0;
        self.file.set_len(0).map_err(FileError::new("empty", &self.path))
    }

    fn receive(
        &mut self,
        blob: &Descriptor,
        from: &dyn Registry,
        incoming: Incoming<'_>,
    ) -> Result<Received, ImageError> {
        let mut last = self.attempt(blob, from, incoming);
        // The bytes of an earlier attempt may be damaged; and a mirror may serve something else than the registry itself.
        while is_wrong(&last) {
            let had = self.have > 0;
            self.empty()?;
            if !had && !from.skip_mirrors() {
                if self.is_there() {
                    fs::remove_file(&self.path).map_err(FileError::new("remove", &self.path))?;
                }
                break;
            }
            if let Some(tree) = incoming.tree {
                clear(tree)?;
            }
            last = self.attempt(blob, from, incoming);
        }
        last
    }

    fn attempt(&self, blob: &Descriptor, from: &dyn Registry, incoming: Incoming<'_>) -> Result<Received, ImageError> {
        let keep = Some(Keep { file: &self.file, path: &self.path, have: self.have });
        let landed = File::open(&self.path).map_err(FileError::new("read", &self.path))?.take(self.have);
        if self.have == blob.size {
            return intake::receive(incoming, landed, keep);
        }
        intake::receive(incoming, landed.chain(from.blob(blob, self.have)?), keep)
    }
}

// Whether the bytes were wrong, rather than too many or incomplete.
fn is_wrong(received: &Result<Received, ImageError>) -> bool {
    match received {
        Err(ImageError::Digest { .. } | ImageError::Size { .. }) => true,
        Err(ImageError::Layer { source, .. }) => !matches!(source, LayerError::Limit { .. } | LayerError::File { .. }),
        _ => false,
    }
}

// An empty folder for another attempt.
fn clear(tree: &Path) -> Result<(), FileError> {
    files::remove_tree(tree)?;
    fs::create_dir(tree)
        .and_then(|()| fs::set_permissions(tree, fs::Permissions::from_mode(0o755)))
        .map_err(FileError::new("make", tree))
}

fn next<'a>(queue: &Mutex<Vec<Missing<'a>>>, over: &AtomicBool) -> Option<Missing<'a>> {
    if over.load(Ordering::Relaxed) { None } else { locked(queue).pop() }
}

// A panic of a thread ends the scope too; the data itself is sound.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the lock that users of an unpacked layer share.
pub(super) fn diff_lock_name(hex: &str) -> String {
    format!("diff-{hex}")
}
