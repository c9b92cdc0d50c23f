//! Pushes an image to a registry: missing blobs, then its manifest, under a tag.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use super::{
    documents::Descriptor,
    error::ImageError,
    outgoing::LayerForm,
    progress::Progress,
    reference::RegistryReference,
    registry::{HttpRegistry, Settings, Wanted},
    store::{ImageStore, StoredImage},
};
use crate::{
    events::Emitter,
    model::{Activity, Digest, Kind, UserError as _},
    system::{files::FileError, scratch::Scratch},
};

/// How often the upload of a blob is started.
const ATTEMPTS: u32 = 3;

impl ImageStore {
    /// Pushes an image. Gives its digest in the registry.
    ///
    /// # Errors
    ///
    /// When the registry refuses it, or a blob is missing from the store.
    pub fn push(
        &self,
        image: &StoredImage,
        to: &RegistryReference,
        form: LayerForm,
        settings: &Settings,
        on: &Emitter,
    ) -> Result<Digest, ImageError> {
        let registry = HttpRegistry::open(to, settings)?;
        let _store = self.share(&format!("image push {}", image.name), on)?;
        let scratch = Scratch::make(&self.tmp())?;
        let packing = Progress::new(on, Activity::Pack, image.name.as_str(), None);
        let outgoing = self.outgoing(image, form, &scratch, &packing)?;
        packing.finish();
        let progress = Arc::new(Progress::new(on, Activity::Push, to.to_string(), Some(outgoing.size())));
        for (blob, path) in &outgoing.blobs {
            if registry.has_blob(&blob.digest)? {
                progress.add(blob.size);
            } else {
                put(&registry, blob, path, &progress)?;
            }
        }
        let digest = &outgoing.manifest.digest;
        if let Some(wanted) = to.digest.as_ref().filter(|wanted| *wanted != digest) {
            let what = format!("the manifest of `{}`", image.name);
            return Err(ImageError::Digest { what, wanted: wanted.clone(), found: digest.clone() });
        }
        let at = to.tag.as_deref().map_or(Wanted::Digest(&outgoing.manifest.digest), Wanted::Tag);
        Ok(registry.put_manifest(at, &outgoing.manifest.media_type, &outgoing.text)?)
    }
}

fn put(registry: &HttpRegistry, blob: &Descriptor, path: &Path, progress: &Arc<Progress>) -> Result<(), ImageError> {
    let mut attempt = 1;
    loop {
        let file = File::open(path).map_err(FileError::new("read", path))?;
        match registry.put_blob(blob, Counted { file, progress: progress.clone() }) {
            Err(error) if attempt < ATTEMPTS && error.kind() == Kind::Outside => attempt += 1,
            done => return Ok(done?),
        }
    }
}

struct Counted {
    file: File,
    progress: Arc<Progress>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.progress.add(count as u64);
        Ok(count)
    }
}
