//! Publishes a tree as an image of the store.
//!
//! A folder that a rootfs recipe filled becomes an image with one layer more than its base. The same tree, base,
//! environment, labels and epoch give the same digest on every machine.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::BufWriter,
    path::Path,
};

use jiff::Timestamp;

use super::{
    checkout::Meta,
    codec::Hashed,
    documents::{Addition, Descriptor, Manifest, config_text, manifest_text, media},
    error::ImageError,
    layer_error::LayerError,
    limits::Limits,
    lowers::Lowers,
    name::ImageName,
    normalise::normalise,
    pack::pack,
    progress::Progress,
    store::{ImageStore, StoredImage},
    unpack::Unpacked,
};
use crate::{
    events::Emitter,
    model::{Activity, Digest},
    system::{files::FileError, scratch::Scratch},
};

/// zstd's own default: smaller than gzip -6, and several times faster to write and to read.
const LEVEL: i32 = 3;

/// The output is the same for any number of threads above none.
const THREADS: u32 = 2;

/// An image to be published.
#[derive(Debug)]
pub struct NewImage {
    /// Its name. An image of that name is replaced.
    pub name: ImageName,
    /// Its base, if it has one.
    pub base: Option<StoredImage>,
    /// From [`ImageStore::scratch`]. Its folder is a whole root or, with a base, an overlayfs upper folder in `userxattr` form.
    pub tree: Scratch,
    /// Environment to add to the base's.
    pub env: Vec<(String, String)>,
    /// Labels to add to the base's.
    pub labels: BTreeMap<String, String>,
    /// The history's `created_by`.
    pub created_by: String,
    /// SOURCE_DATE_EPOCH: the creation time. No file in the layer is younger.
    pub epoch: i64,
}

struct Packed {
    blob: Descriptor,
    diff_id: Digest,
    meta: Meta,
}

impl ImageStore {
    /// Makes an image of a tree. The tree itself becomes the unpacked layer.
    ///
    /// # Errors
    ///
    /// When the tree holds something that no layer can, the base is no longer in the store, or the file system refuses.
    pub fn publish(&self, new: NewImage, on: &Emitter) -> Result<StoredImage, ImageError> {
        let name = new.name.clone();
        let store = self.share(&format!("image build {name}"), on)?;
        let image = self.publish_shared(new, on);
        drop(store);
        // Left by the earlier meaning of the name, or by a failure.
        self.sweep_if_free(on);
        image
    }

    fn publish_shared(&self, new: NewImage, on: &Emitter) -> Result<StoredImage, ImageError> {
        let holder = format!("image build {}", new.name);
        let (below, _locks) = match &new.base {
            Some(base) => self.make_diffs(base, None, Limits::none(), &holder, on)?,
            None => Default::default(),
        };
        let failed = |source| ImageError::Pack { name: new.name.clone(), source };
        let lowers = Lowers::open(&below).map_err(failed)?;
        let census = normalise(new.tree.path(), &lowers, new.epoch, self.limits).map_err(failed)?;
        if census.removed > 0 {
            on.warn(format!("{} devices and sockets of `{}` were left out", census.removed, new.name));
        }
        let found = Unpacked { bytes: census.bytes, entries: census.entries, ..Unpacked::default() };
        let meta = Meta::of(found);
        let packed = self.pack_tree(&new, meta, on)?;
        let manifest = self.add_documents(&new, &packed)?;
        let NewImage { name, tree, created_by, .. } = new;
        {
            let _making = self.lock_making(&packed.diff_id, &holder, on)?;
            if !self.has_diff(&packed.diff_id) {
                self.place_diff(tree, &packed.diff_id, &packed.meta)?;
            }
        }
        self.set_name(&name, &manifest, &created_by, None)
    }

    fn pack_tree(&self, new: &NewImage, meta: Meta, on: &Emitter) -> Result<Packed, ImageError> {
        let path = new.tree.outer().join("blob");
        let progress = Progress::new(on, Activity::Pack, new.name.as_str(), Some(meta.bytes));
        let written = write_layer(new.tree.path(), &path, &mut |bytes| progress.add(bytes));
        let (diff_id, digest, size) = written.map_err(|source| ImageError::Pack { name: new.name.clone(), source })?;
        progress.finish();
        let to = self.blob(&digest);
        fs::rename(&path, &to).map_err(FileError::new("put in its place", &to))?;
        let media_type = format!("{}+zstd", media::LAYER);
        Ok(Packed { blob: Descriptor { media_type, digest, size }, diff_id, meta })
    }

    fn add_documents(&self, new: &NewImage, packed: &Packed) -> Result<Digest, ImageError> {
        let what = format!("the configuration of the base of `{}`", new.name);
        let base = match &new.base {
            Some(base) => Some(self.document(&what, &base.documents.config.digest, self.limits.config)?),
            None => None,
        };
        let addition = Addition {
            diff_id: &packed.diff_id,
            created: Timestamp::from_second(new.epoch).ok(),
            created_by: &new.created_by,
            env: &new.env,
            labels: &new.labels,
        };
        let config = config_text(&what, base.as_deref(), &addition)?;
        let digest = self.add_document(config.as_bytes())?;
        let config = Descriptor { media_type: media::CONFIG.into(), digest, size: config.len() as u64 };
        let mut layers = new.base.as_ref().map(|base| base.documents.layers.clone()).unwrap_or_default();
        layers.push(packed.blob.clone());
        self.add_document(manifest_text(&Manifest { config, layers }).as_bytes())
    }
}

// One pass: read, hash, compress, hash, write.
fn write_layer(tree: &Path, to: &Path, progress: &mut dyn FnMut(u64)) -> Result<(Digest, Digest, u64), LayerError> {
    let failed = |call| LayerError::io(call, to);
    let file = File::create_new(to).map_err(failed("make"))?;
    let compressed = Hashed::new(BufWriter::with_capacity(256 << 10, file));
    let encoder = || {
        let mut encoder = zstd::stream::write::Encoder::new(compressed, LEVEL)?;
        encoder.multithread(THREADS)?;
        encoder.include_checksum(true)?;
        Ok(encoder)
    };
    let plain = Hashed::new(encoder().map_err(failed("compress"))?);
    let plain = pack(tree, BufWriter::with_capacity(256 << 10, plain), progress)?;
    let plain = plain.into_inner().map_err(|error| failed("write")(error.into_error()))?;
    let (encoder, diff_id, _) = plain.finish();
    let (out, digest, size) = encoder.finish().map_err(failed("write"))?.finish();
    out.into_inner().map_err(|error| failed("write")(error.into_error()))?;
    Ok((diff_id, digest, size))
}
