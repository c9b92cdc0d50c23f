//! Prepares an image for export or push: its files as they are in the store, or compressed anew for tools without zstd.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression as Level, write::GzEncoder};

use super::{
    checkout::sniff,
    codec::{Compression, Hashed},
    documents::{Descriptor, Manifest, json_of, manifest_text, media},
    error::ImageError,
    layer_error::LayerError,
    progress::Progress,
    store::{ImageStore, StoredImage},
};
use crate::{
    model::Digest,
    system::{
        files::{self, FileError},
        scratch::Scratch,
    },
};

/// The compression of exported layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerForm {
    /// Unchanged, so that every digest stays.
    AsIs,
    /// With gzip, which every tool reads. The layers' content keeps its digests; manifest and blobs get new ones.
    Gzip,
}

/// The blobs of an image, each once, and its manifest.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Layers and configuration, each with the path of its bytes.
    pub blobs: Vec<(Descriptor, PathBuf)>,
    /// The manifest.
    pub manifest: Descriptor,
    /// Its text.
    pub text: Vec<u8>,
}

impl Outgoing {
    /// Bytes of everything.
    pub(super) fn size(&self) -> u64 {
        self.blobs.iter().map(|(blob, _)| blob.size).sum::<u64>() + self.manifest.size
    }
}

impl ImageStore {
    /// Prepares an image; new blobs go to `scratch`. Needs the store's lock, shared.
    pub(super) fn outgoing(
        &self,
        image: &StoredImage,
        form: LayerForm,
        scratch: &Scratch,
        progress: &Progress,
    ) -> Result<Outgoing, ImageError> {
        let what = format!("the manifest of `{}`", image.name);
        let text = self.document(&what, &image.manifest, self.limits.manifest)?;
        let mut blobs: Vec<(Descriptor, PathBuf)> = Vec::new();
        for (layer, diff_id) in image.layer_list() {
            blobs.push(match form {
                LayerForm::AsIs => (layer.clone(), self.blob(&layer.digest)),
                LayerForm::Gzip => self.gzipped(layer, diff_id, scratch, progress)?,
            });
        }
        let config = &image.documents.config;
        let layers: Vec<Descriptor> = blobs.iter().map(|(layer, _)| layer.clone()).collect();
        let text = if layers == image.documents.layers {
            text
        } else {
            let config = Descriptor { media_type: media::CONFIG.into(), ..config.clone() };
            manifest_text(&Manifest { config, layers }).into_bytes()
        };
        blobs.push((config.clone(), self.blob(&config.digest)));
        // An image may have a layer twice.
        blobs.sort_by(|(a, _), (b, _)| a.digest.cmp(&b.digest));
        blobs.dedup_by(|(a, _), (b, _)| a.digest == b.digest);
        let value: serde_json::Value = json_of(&what, &text)?;
        let media_type =
            value.get("mediaType").and_then(|media_type| media_type.as_str()).unwrap_or(media::MANIFEST).into();
        let manifest = Descriptor { media_type, digest: super::codec::digest(&text), size: text.len() as u64 };
        Ok(Outgoing { blobs, manifest, text })
    }

    fn gzipped(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        scratch: &Scratch,
        progress: &Progress,
    ) -> Result<(Descriptor, PathBuf), ImageError> {
        let from = self.blob(&layer.digest);
        let file = File::open(&from).map_err(FileError::new("read", &from))?;
        let compression = sniff(&file).map_err(FileError::new("read", &from))?;
        if compression == Ok(Compression::Gzip) {
            return Ok((layer.clone(), from));
        }
        let what = format!("the layer {}", layer.digest.short());
        let failed = |source| ImageError::Layer { what: what.clone(), source };
        let compression = compression.map_err(|name| failed(LayerError::Compression(name.0)))?;
        let to = scratch.outer().join(format!("{}.gz", layer.digest.hex()));
        let packed = || -> io::Result<_> {
            let content = compression.decode(BufReader::with_capacity(256 << 10, file), u64::MAX)?;
            compress(content, &to, progress)
        };
        let (found, digest, size) = packed().map_err(FileError::new("compress", &from))?;
        if found != *diff_id {
            let what = format!("the content of {what}");
            return Err(ImageError::Digest { what, wanted: diff_id.clone(), found });
        }
        Ok((Descriptor { media_type: format!("{}+gzip", media::LAYER), digest, size }, to))
    }
}

// The digests of the content and of its compressed form. No name and no time in the gzip header: equal content gives equal bytes.
fn compress(content: impl Read, to: &Path, progress: &Progress) -> io::Result<(Digest, Digest, u64)> {
    let out = Hashed::new(BufWriter::with_capacity(256 << 10, File::create_new(to)?));
    let mut encoder = GzEncoder::new(out, Level::default());
    let mut content = Hashed::new(content);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let part = files::read_part(&mut content, &mut buffer)?;
        if part.is_empty() {
            break;
        }
        encoder.write_all(part)?;
        progress.add(part.len() as u64);
    }
    let (_, diff_id, _) = content.finish();
    let (mut file, digest, size) = encoder.finish()?.finish();
    file.flush()?;
    Ok((diff_id, digest, size))
}
