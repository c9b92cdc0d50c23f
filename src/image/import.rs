//! An image enters the store from a file or folder.
//!
//! In goes a path, out comes an image whose every blob and layer has been checked against its digest. Until that is done, no
//! name refers to any of it, and what a failure leaves is removed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    codec::{Compression, Hashed},
    documents::{
        Addition, Descriptor, Document, ImageConfig, Manifest, architecture, choose, config_text, json_of,
        manifest_text, media,
    },
    error::ImageError,
    layer_error::LayerError,
    name::ImageName,
    progress::{Progress, Watched},
    scratch::Scratch,
    source::{Files, Source, no_image},
    store::{ImageStore, StoredImage},
};
use crate::{
    events::Emitter,
    host::files::FileError,
    model::{Activity, Digest},
};

/// An index may lead to an index, but not for ever.
const MAX_INDICES: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Takes an image from an OCI layout (folder or archive), from what `docker save` wrote, or from an archive of a root
    /// file system; the archives may be compressed with gzip or zstd. What it is, is told by its content.
    ///
    /// # Errors
    ///
    /// When it is none of these, damaged, for another platform, or asks for more than the limits; nothing of it stays then.
    pub fn import(&self, source: &Path, name: &ImageName, on: &Emitter) -> Result<StoredImage, ImageError> {
        let store = self.share(&format!("image import {name}"), on)?;
        let image = self.import_shared(source, name, on);
        drop(store);
        // What a failure left, or what the name meant before.
        self.sweep_if_free(on);
        image
    }

    fn import_shared(&self, source: &Path, name: &ImageName, on: &Emitter) -> Result<StoredImage, ImageError> {
        let scratch = Scratch::make(&self.tmp())?;
        let import = Import { store: self, scratch: &scratch, source, name, on };
        let manifest = match Source::open(source, &scratch, self.limits)? {
            Source::Layout(files) => import.layout(&files)?,
            Source::Docker(files) => import.docker(&files)?,
            Source::RootFs(file, compression) => import.root_fs(file, compression)?,
        };
        let text = format!("import of {}", source.display());
        let image = self.image_of(name, &manifest, &text)?;
        self.make_diffs(&image, &format!("image import {name}"), on)?;
        self.set_name(name, &manifest, &text)
    }
}

struct Import<'a> {
    store: &'a ImageStore,
    scratch: &'a Scratch,
    source: &'a Path,
    name: &'a ImageName,
    on: &'a Emitter,
}

impl Import<'_> {
    fn layout(&self, files: &Files) -> Result<Digest, ImageError> {
        let limits = &self.store.limits;
        let mut what = format!("the index of {}", self.source.display());
        let mut bytes = files.read(Path::new("index.json"), limits.manifest)?;
        for _ in 0..MAX_INDICES {
            let choices = match Document::parse(&what, &bytes, limits)? {
                Document::Index(choices) => choices,
                Document::Manifest(manifest) => return self.manifest(files, &bytes, &manifest),
            };
            let chosen = choose(&what, choices, self.name.as_str(), architecture())?;
            what = format!("the document {} of {}", chosen.digest, self.source.display());
            bytes = self.document(files, &chosen, &what, limits.manifest)?;
        }
        Err(ImageError::Document { what, why: "is one index too deep".into() })
    }

    fn manifest(&self, files: &Files, bytes: &[u8], manifest: &Manifest) -> Result<Digest, ImageError> {
        let what = format!("the configuration of {}", self.source.display());
        let config = self.document(files, &manifest.config, &what, self.store.limits.config)?;
        ImageConfig::parse(&what, &config)?;
        for layer in &manifest.layers {
            if !self.store.blob(&layer.digest).exists() {
                let (input, _) = files.open(&blob_name(&layer.digest))?;
                self.blob(input, Some(layer))?;
            }
        }
        self.store.add_document(&config)?;
        self.store.add_document(bytes)
    }

    fn document(&self, files: &Files, wanted: &Descriptor, what: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let bytes = files.read(&blob_name(&wanted.digest), limit)?;
        let found = super::codec::digest(&bytes);
        if found != wanted.digest {
            return Err(ImageError::Digest { what: what.into(), wanted: wanted.digest.clone(), found });
        }
        let size = bytes.len() as u64;
        if size != wanted.size {
            return Err(ImageError::Size { what: what.into(), wanted: wanted.size, found: size });
        }
        Ok(bytes)
    }

    // Copies into the scratch folder, then to its place. A descriptor says in advance what it must be.
    fn blob(&self, input: impl Read, wanted: Option<&Descriptor>) -> Result<(Digest, u64), ImageError> {
        let path = self.scratch.outer().join("blob");
        let failed = |source| ImageError::Source { path: self.source.into(), source };
        let most = wanted.map_or(u64::MAX, |wanted| wanted.size.saturating_add(1));
        let subject = self.source.file_name().unwrap_or_default().to_string_lossy();
        let mut progress = Progress::new(self.on, Activity::Unpack, subject, wanted.map(|wanted| wanted.size));
        let mut input = Hashed::new(Watched::new(input, &mut progress).take(most));
        let file = File::create(&path).map_err(FileError::new("make", &path))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = input.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            out.write_all(&buffer[..count]).map_err(FileError::new("write", &path))?;
        }
        out.flush().and_then(|()| out.get_ref().sync_data()).map_err(FileError::new("write", &path))?;
        let (_, digest, size) = input.finish();
        if let Some(wanted) = wanted {
            let what = || format!("the layer {} of {}", wanted.digest, self.source.display());
            if size != wanted.size {
                return Err(ImageError::Size { what: what(), wanted: wanted.size, found: size });
            }
            if digest != wanted.digest {
                return Err(ImageError::Digest { what: what(), wanted: wanted.digest.clone(), found: digest });
            }
        }
        let to = self.store.blob(&digest);
        fs::rename(&path, &to).map_err(FileError::new("put in its place", &to))?;
        Ok((digest, size))
    }

    fn docker(&self, files: &Files) -> Result<Digest, ImageError> {
        let what = format!("manifest.json of {}", self.source.display());
        let bytes = files.read(Path::new("manifest.json"), self.store.limits.manifest)?;
        let mut images: Vec<DockerImage> = json_of(&what, &bytes)?;
        if images.len() > 1 {
            let names: Vec<_> = images.iter().flat_map(|image| image.repo_tags.clone().unwrap_or_default()).collect();
            let why = format!("holds several images ({}); save the one you want alone", names.join(", "));
            return Err(no_image(self.source, why));
        }
        let Some(image) = images.pop() else { return Err(no_image(self.source, "holds no image")) };
        let what = format!("the configuration of {}", self.source.display());
        let config = files.read(Path::new(&image.config), self.store.limits.config)?;
        let parsed = ImageConfig::parse(&what, &config)?;
        if parsed.diff_ids.len() != image.layers.len() {
            return Err(ImageError::Document { what, why: "names another number of layers than manifest.json".into() });
        }
        let layers = image.layers.iter().map(|layer| self.docker_layer(files, layer)).collect::<Result<_, _>>()?;
        let digest = self.store.add_document(&config)?;
        let config = Descriptor { media_type: media::CONFIG.into(), digest, size: config.len() as u64 };
        self.store.add_document(manifest_text(&Manifest { config, layers }).as_bytes())
    }

    fn docker_layer(&self, files: &Files, name: &str) -> Result<Descriptor, ImageError> {
        let (mut input, size) = files.open(Path::new(name))?;
        let mut start = Vec::new();
        let failed = |source| ImageError::Source { path: self.source.into(), source };
        input.by_ref().take(8).read_to_end(&mut start).map_err(failed)?;
        let compression = Compression::sniff(&start).map_err(|name| {
            no_image(self.source, format!("has a layer that is compressed with {}, which smidr does not read", name.0))
        })?;
        let (digest, found) = self.blob((&start[..]).chain(input), None)?;
        if found != size {
            let what = format!("the layer `{name}` of {}", self.source.display());
            return Err(ImageError::Size { what, wanted: size, found });
        }
        Ok(Descriptor { media_type: layer_type(compression), digest, size })
    }

    fn root_fs(&self, mut file: File, compression: Compression) -> Result<Digest, ImageError> {
        let failed = |source| ImageError::Source { path: self.source.into(), source };
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (digest, size) = self.blob(file, None)?;
        let layer = Descriptor { media_type: layer_type(compression), digest, size };
        let unpacked = self.store.unpack_blob(&layer, &[], self.on)?;
        if !unpacked.has_end {
            // Nobody vouches for the content of such an archive, so its own end mark must be there.
            let source = LayerError::Truncated(unpacked.meta.bytes);
            return Err(ImageError::Archive { path: self.source.into(), source });
        }
        let diff_id = unpacked.diff_id;
        {
            let _making = self.store.lock_making(&diff_id, &format!("image import {}", self.name), self.on)?;
            if !self.store.has_diff(&diff_id) {
                self.store.place_diff(unpacked.tree, &diff_id, &unpacked.meta)?;
            }
        }
        self.root_fs_documents(layer, &diff_id)
    }

    fn root_fs_documents(&self, layer: Descriptor, diff_id: &Digest) -> Result<Digest, ImageError> {
        // The same archive gives the same digest, so nothing here may come from the clock.
        let labels = BTreeMap::new();
        let addition = Addition { diff_id, created: None, created_by: "smidr image import", env: &[], labels: &labels };
        let config = config_text("the configuration", None, &addition)?;
        let digest = self.store.add_document(config.as_bytes())?;
        let config = Descriptor { media_type: media::CONFIG.into(), digest, size: config.len() as u64 };
        self.store.add_document(manifest_text(&Manifest { config, layers: vec![layer] }).as_bytes())
    }
}

fn blob_name(digest: &Digest) -> PathBuf {
    Path::new("blobs").join(digest.blob_path())
}

fn layer_type(compression: Compression) -> String {
    let suffix = match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    format!("{}{suffix}", media::LAYER)
}
