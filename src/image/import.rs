//! Imports an image from a file or folder.
//!
//! Every blob and layer is checked against its digest. Until that is done, no
//! name refers to any of it, and a failure removes everything.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek as _, SeekFrom},
    path::Path,
    sync::atomic::AtomicBool,
};

use serde::Deserialize;

use super::{
    account::Account,
    checkout::Meta,
    codec::Compression,
    documents::{Addition, Descriptor, ImageConfig, Manifest, config_text, json_of, manifest_text, media},
    error::ImageError,
    intake::{self, Incoming, Keep},
    layer_error::LayerError,
    name::ImageName,
    progress::Progress,
    pull::{Label, Order, note_foreign},
    registry::Wanted,
    source::{Files, Source, no_image},
    store::{ImageStore, StoredImage},
};
use crate::{
    events::Emitter,
    model::{Activity, Digest},
    system::{files::FileError, scratch::Scratch},
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Imports an OCI layout (folder or archive), the output of `docker save`, or an archive of a root
    /// file system; archives may be compressed with gzip or zstd. The form is detected from the content. `label` names the wanted image of a layout
    /// with several; without it, `name` does.
    ///
    /// # Errors
    ///
    /// When it is none of these, damaged, for another platform, or exceeds the limits; nothing of it is kept then.
    pub fn import(
        &self,
        source: &Path,
        label: Option<&str>,
        name: &ImageName,
        on: &Emitter,
    ) -> Result<StoredImage, ImageError> {
        let store = self.share(&format!("image import {name}"), on)?;
        let image = self.import_shared(source, label, name, on);
        drop(store);
        // Left by a failure, or by the earlier meaning of the name.
        self.sweep_if_free(on);
        image
    }

    fn import_shared(
        &self,
        source: &Path,
        label: Option<&str>,
        name: &ImageName,
        on: &Emitter,
    ) -> Result<StoredImage, ImageError> {
        let scratch = Scratch::make(&self.tmp())?;
        let holder = format!("image import {name}");
        let import = Import { store: self, source, holder: &holder, account: Account::new(&self.limits), on };
        let manifest = match Source::open(source, &scratch, self.limits)? {
            Source::Layout(files) => {
                let what = source.display().to_string();
                let label = label.map_or(Label::May(name.as_str()), Label::Must);
                let wanted = Wanted::Tag(name.as_str());
                let order = Order { from: &files, wanted, what: &what, name, origin: None, label };
                return self.bring(&order, &holder, on);
            }
            Source::Docker(files) => import.docker(&files)?,
            Source::RootFs(file) => import.root_fs(file)?,
        };
        let text = format!("import of {}", source.display());
        let image = self.image_of(name, &manifest, &text)?;
        self.make_diffs(&image, None, self.limits, &holder, on)?;
        let image = self.set_name(name, &manifest, &text, None)?;
        note_foreign(&image, on);
        Ok(image)
    }
}

struct Import<'a> {
    store: &'a ImageStore,
    source: &'a Path,
    holder: &'a str,
    account: Account,
    on: &'a Emitter,
}

impl Import<'_> {
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
        let layers = image.layers.iter().zip(&parsed.diff_ids);
        let layers =
            layers.map(|(layer, diff_id)| self.docker_layer(files, layer, diff_id)).collect::<Result<_, _>>()?;
        let digest = self.store.add_document(&config)?;
        let config = Descriptor { media_type: media::CONFIG.into(), digest, size: config.len() as u64 };
        self.store.add_document(manifest_text(&Manifest { config, layers }).as_bytes())
    }

    fn docker_layer(&self, files: &Files, name: &str, diff_id: &Digest) -> Result<Descriptor, ImageError> {
        let (input, size) = files.open(Path::new(name))?;
        let what = format!("the layer `{name}` of {}", self.source.display());
        let (layer, _) = self.layer(input, &what, size, Some(diff_id))?;
        if layer.size == size { Ok(layer) } else { Err(ImageError::Size { what, wanted: size, found: layer.size }) }
    }

    fn root_fs(&self, mut file: File) -> Result<Digest, ImageError> {
        let failed = |source| ImageError::Source { path: self.source.into(), source };
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let (layer, diff_id) = self.layer(file, &self.source.display().to_string(), size, None)?;
        self.root_fs_documents(layer, &diff_id)
    }

    // A layer for which no digest was promised. It is in its place when this returns.
    fn layer(
        &self,
        input: impl Read + Send,
        what: &str,
        size: u64,
        diff_id: Option<&Digest>,
    ) -> Result<(Descriptor, Digest), ImageError> {
        let store = self.store;
        let scratch = Scratch::make(&store.tmp())?;
        let path = scratch.outer().join("blob");
        let file = File::create_new(&path).map_err(FileError::new("make", &path))?;
        let keep = Some(Keep { file: &file, path: &path, have: 0 });
        let has = diff_id.is_some_and(|diff_id| store.has_diff(diff_id));
        let (tree, over) = ((!has).then_some(scratch.path()), &AtomicBool::new(false));
        let progress = Progress::new(self.on, Activity::Unpack, what, Some(size));
        let (limits, account) = (store.limits, &self.account);
        let incoming = Incoming { what, wanted: None, diff_id, size, tree, over, limits, account, progress: &progress };
        let received = intake::receive(incoming, input, keep)?;
        progress.finish();
        if !received.has_end && diff_id.is_none() {
            // No digest covers such an archive, so its own end mark must be there.
            let source = LayerError::Truncated(received.found.bytes);
            return Err(ImageError::Archive { path: self.source.into(), source });
        }
        if received.found.devices > 0 {
            self.on.warn(format!("{} device nodes of {what} were left out", received.found.devices));
        }
        let to = store.blob(&received.digest);
        fs::rename(&path, &to).map_err(FileError::new("put in its place", &to))?;
        let _making = store.lock_making(&received.diff_id, self.holder, self.on)?;
        if !store.has_diff(&received.diff_id) {
            store.place_diff(scratch, &received.diff_id, &Meta::of(received.found))?;
        }
        let (media_type, digest, size) = (layer_type(received.compression), received.digest, received.size);
        Ok((Descriptor { media_type, digest, size }, received.diff_id))
    }

    fn root_fs_documents(&self, layer: Descriptor, diff_id: &Digest) -> Result<Digest, ImageError> {
        // The same archive gives the same digest, so no time of this machine may be used.
        let labels = BTreeMap::new();
        let addition = Addition { diff_id, created: None, created_by: "smidr image import", env: &[], labels: &labels };
        let config = config_text("the configuration", None, &addition)?;
        let digest = self.store.add_document(config.as_bytes())?;
        let config = Descriptor { media_type: media::CONFIG.into(), digest, size: config.len() as u64 };
        self.store.add_document(manifest_text(&Manifest { config, layers: vec![layer] }).as_bytes())
    }
}

fn layer_type(compression: Compression) -> String {
    let suffix = match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    format!("{}{suffix}", media::LAYER)
}
