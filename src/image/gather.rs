//! An image's layers are gathered: those that are missing come from where the image comes from, several at once.
//!
//! In goes a list of layers, out come folders and the locks that keep them. A layer that two smidr want at once comes once. What
//! a broken connection left of a blob is kept, and the rest asked for next time.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{
    checkout::Meta,
    documents::Descriptor,
    error::ImageError,
    intake::{self, Incoming, Keep, Received},
    progress::Progress,
    registry::Registry,
    scratch::Scratch,
    store::ImageStore,
};
use crate::{
    events::Emitter,
    host::{
        files::FileError,
        lock::{Lock, Mode},
    },
    model::{Activity, Digest},
};

/// Layers that are received at the same time: enough to keep two processors and a network busy.
const AT_ONCE: usize = 4;

/// The layers of an image, and where to have them from.
pub struct Wanted<'a> {
    /// For messages: the image.
    pub what: &'a str,
    /// Each layer's blob and the digest of its content, lowest first.
    pub layers: Vec<(&'a Descriptor, &'a Digest)>,
    /// Where blobs come from that the store does not have.
    pub from: Option<&'a dyn Registry>,
}

// One layer that the store lacks, wholly or in part.
struct Missing<'a> {
    blob: &'a Descriptor,
    diff_id: &'a Digest,
    has_diff: bool,
}

// One layer that has been received, and is not visible yet.
struct Arrived<'a> {
    blob: &'a Descriptor,
    diff_id: &'a Digest,
    // Where its bytes are, if the store has not got them already.
    bytes: Option<PathBuf>,
    tree: Option<(Scratch, Meta)>,
}

impl ImageStore {
    /// Makes the layers of an image ready, and locks them against removal. With the store's lock shared.
    pub(super) fn gather(&self, wanted: &Wanted<'_>, holder: &str, on: &Emitter) -> Result<Vec<Lock>, ImageError> {
        // In the order of their names, so that two smidr never wait for each other in a circle. An image may have a layer twice.
        let layers: BTreeMap<_, _> =
            wanted.layers.iter().map(|(blob, diff_id)| (diff_id.hex(), (*blob, *diff_id))).collect();
        let used =
            layers.values().map(|(_, diff_id)| self.use_diff(diff_id, holder, on)).collect::<Result<Vec<_>, _>>()?;
        let (mut making, mut missing) = (Vec::new(), Vec::new());
        for (blob, diff_id) in layers.into_values() {
            let ready = || self.has_diff(diff_id) && (wanted.from.is_none() || self.has_blob(blob));
            if ready() {
                continue;
            }
            let lock = self.lock_making(diff_id, holder, on)?;
            if !ready() {
                making.push(lock);
                missing.push(Missing { blob, diff_id, has_diff: self.has_diff(diff_id) });
            }
        }
        if !missing.is_empty() {
            let arrived = self.receive_all(wanted, missing, on)?;
            self.settle()?;
            arrived.into_iter().try_for_each(|layer| self.show(layer))?;
        }
        Ok(used)
    }

    fn receive_all<'a>(
        &self,
        wanted: &Wanted<'_>,
        mut missing: Vec<Missing<'a>>,
        on: &Emitter,
    ) -> Result<Vec<Arrived<'a>>, ImageError> {
        let total = missing.iter().map(|layer| layer.blob.size).sum();
        let activity = if wanted.from.is_some() { Activity::Pull } else { Activity::Unpack };
        let progress = Progress::new(on, activity, wanted.what, Some(total));
        // The largest first: what is left at the end should be short.
        missing.sort_by_key(|layer| layer.blob.size);
        let workers = missing.len().min(AT_ONCE);
        let (queue, arrived, failed) = (Mutex::new(missing), Mutex::new(Vec::new()), Mutex::new(None));
        let over = AtomicBool::new(false);
        let work = || {
            while let Some(layer) = next(&queue, &over) {
                match self.receive(wanted, &layer, &over, &progress, on) {
                    Ok(layer) => locked(&arrived).push(layer),
                    Err(error) => {
                        // Only the first says what went wrong: the others were told to stop.
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
        over: &AtomicBool,
        progress: &Progress,
        on: &Emitter,
    ) -> Result<Arrived<'a>, ImageError> {
        let scratch = Scratch::make(&self.tmp())?;
        let what = format!("the layer {} of {}", layer.blob.digest.short(), wanted.what);
        let incoming = Incoming {
            what: &what,
            wanted: Some(layer.blob),
            diff_id: Some(layer.diff_id),
            size: layer.blob.size,
            tree: (!layer.has_diff).then_some(scratch.path()),
            over,
            limits: self.limits,
            progress,
        };
        let (received, bytes) = if let Some(from) = wanted.from.filter(|_| !self.has_blob(layer.blob)) {
            let landing = Landing::open(self, layer.blob, &scratch)?;
            let received = landing.receive(layer.blob, from, incoming);
            // A part that does not fit what was promised would never become whole.
            if matches!(received, Err(ImageError::Digest { .. } | ImageError::Size { .. } | ImageError::Layer { .. })) {
                let _ = fs::remove_file(&landing.path);
            }
            (received?, Some(landing.path))
        } else {
            let path = self.blob(&layer.blob.digest);
            let file = File::open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => ImageError::Missing(what.clone()),
                _ => FileError::new("read", &path)(error).into(),
            })?;
            (intake::receive(incoming, file, None)?, None)
        };
        let Received { found, .. } = received;
        if found.devices > 0 {
            on.warn(format!("{} device nodes of {what} were left out", found.devices));
        }
        let tree = (!layer.has_diff).then(|| (scratch, Meta::of(found)));
        Ok(Arrived { blob: layer.blob, diff_id: layer.diff_id, bytes, tree })
    }

    fn show(&self, layer: Arrived<'_>) -> Result<(), ImageError> {
        if let Some(path) = layer.bytes {
            let to = self.blob(&layer.blob.digest);
            fs::rename(&path, &to).map_err(FileError::new("put in its place", &to))?;
        }
        match layer.tree {
            Some((scratch, meta)) => self.place_diff(scratch, layer.diff_id, &meta),
            None => Ok(()),
        }
    }

    fn use_diff(&self, diff_id: &Digest, holder: &str, on: &Emitter) -> Result<Lock, ImageError> {
        let what = format!("the layer {}", diff_id.short());
        self.lock(&diff_lock_name(&diff_id.hex()), Mode::Shared, holder, &what, on)
    }

    /// Held by whoever makes a layer's folder, so that two smidr never do the same work. Another lock than that for using, which a
    /// build may hold for hours: nobody who wants to make a layer shall wait for somebody who has it already.
    pub(super) fn lock_making(&self, diff_id: &Digest, holder: &str, on: &Emitter) -> Result<Lock, ImageError> {
        let what = format!("the layer {}", diff_id.short());
        self.lock(&format!("making-{}", diff_id.hex()), Mode::Exclusive, holder, &what, on)
    }

    /// Whether a blob is there, as far as its size tells.
    pub(super) fn has_blob(&self, blob: &Descriptor) -> bool {
        fs::metadata(self.blob(&blob.digest)).is_ok_and(|found| found.is_file() && found.len() == blob.size)
    }
}

/// Where a blob's bytes land, and those that have landed before.
struct Landing {
    path: PathBuf,
    file: File,
    have: u64,
}

impl Landing {
    fn open(store: &ImageStore, blob: &Descriptor, scratch: &Scratch) -> Result<Self, ImageError> {
        let open = |path: PathBuf| {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
            file.map(|file| (file, path.clone())).map_err(FileError::new("make", &path))
        };
        let (mut file, mut path) = open(store.partial(&blob.digest))?;
        // Two images may disagree about the content of one blob, and then no other lock keeps them apart.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            (file, path) = open(scratch.outer().join("blob"))?;
        }
        let mut have = file.metadata().map_err(FileError::new("look at", &path))?.len();
        if have >= blob.size {
            file.set_len(0).map_err(FileError::new("empty", &path))?;
            have = 0;
        }
        Ok(Self { path, file, have })
    }

    fn receive(&self, blob: &Descriptor, from: &dyn Registry, incoming: Incoming<'_>) -> Result<Received, ImageError> {
        let keep = |have| Some(Keep { file: &self.file, path: &self.path, have });
        if self.have > 0 {
            let landed = File::open(&self.path).map_err(FileError::new("read", &self.path))?.take(self.have);
            match intake::receive(incoming, landed.chain(from.blob(blob, self.have)?), keep(self.have)) {
                // What had landed may have been damaged since.
                Err(ImageError::Digest { .. } | ImageError::Layer { .. }) => {
                    self.file.set_len(0).map_err(FileError::new("empty", &self.path))?;
                }
                received => return received,
            }
        }
        intake::receive(incoming, from.blob(blob, 0)?, keep(0))
    }
}

fn next<'a>(queue: &Mutex<Vec<Missing<'a>>>, over: &AtomicBool) -> Option<Missing<'a>> {
    if over.load(Ordering::Relaxed) { None } else { locked(queue).pop() }
}

// A thread that panicked takes the scope down with it; until then the data is as good as ever.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the lock that whoever uses an unpacked layer shares.
pub(super) fn diff_lock_name(hex: &str) -> String {
    format!("diff-{hex}")
}
