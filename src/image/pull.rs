//! Pulls an image from a registry or a layout on this machine.
//!
//! Everything that a [`Registry`] serves is checked; all blobs and layers of the image have the digests that its
//! documents promise. The documents come first, then the layers, several at once; the image's name is written last.

use super::{
    codec::digest,
    documents::{Descriptor, Document, ImageConfig, Manifest, architecture, choose},
    error::ImageError,
    intake::check,
    layer_error::LayerError,
    name::ImageName,
    reference::RegistryReference,
    registry::{HttpRegistry, Registry, Settings, Wanted},
    store::{ImageStore, Origin, StoredImage},
};
use crate::{events::Emitter, model::Digest};

/// How deep indexes may refer to each other.
const MAX_INDICES: usize = 4;

/// Labels of images in an index.
#[derive(Clone, Copy, Debug)]
pub(super) enum Label<'a> {
    /// Chooses among several.
    May(&'a str),
    /// Where images are labelled, one has to have this label.
    Must(&'a str),
}

/// An image to be pulled.
pub(super) struct Order<'a> {
    /// Its source.
    pub from: &'a dyn Registry,
    /// The tag or digest to ask for.
    pub wanted: Wanted<'a>,
    /// The source in words, for messages.
    pub what: &'a str,
    /// Its name in the store.
    pub name: &'a ImageName,
    /// Where it can be pulled again, if anywhere.
    pub origin: Option<Origin>,
    /// The label of the wanted image among several for this machine; also required of a single one, if it is a `Label::Must`.
    pub label: Label<'a>,
}

// For a file these are errors of the user; here they are the registry's.
fn served(error: ImageError) -> ImageError {
    match error {
        ImageError::Layer { source: LayerError::Limit { .. } | LayerError::File { .. }, .. } => error,
        ImageError::Digest { .. }
        | ImageError::Size { .. }
        | ImageError::Layer { .. }
        | ImageError::Document { .. }
        | ImageError::Json { .. }
        | ImageError::TooLarge { .. } => ImageError::Served(Box::new(error)),
        error => error,
    }
}

impl ImageStore {
    /// Pulls an image from a registry. One that is here already costs one request.
    ///
    /// # Errors
    ///
    /// When the registry refuses or fails, the content is not as promised, exceeds the limits, or the file system
    /// refuses. What was received by then is kept for the next attempt.
    pub fn pull(
        &self,
        reference: &RegistryReference,
        name: &ImageName,
        settings: &Settings,
        on: &Emitter,
    ) -> Result<StoredImage, ImageError> {
        let registry = HttpRegistry::open(reference, settings)?;
        let digest = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.clone(),
            (None, tag) => registry.resolve(tag.as_deref().unwrap_or("latest"))?,
        };
        let holder = format!("image pull {name}");
        let store = self.share(&holder, on)?;
        // Registries challenge for public images too: that credentials were sent does not mean that they were needed.
        let note_public = |image: StoredImage| match image.origin.clone().filter(|origin| !origin.anonymous) {
            Some(origin) if is_public(reference, settings, &digest) => {
                self.set_name(name, &image.manifest, &image.source, Some(Origin { anonymous: true, ..origin }))
            }
            _ => Ok(image),
        };
        if let Some(image) = self.pulled(name, &digest) {
            return note_public(image);
        }
        let origin = Origin { reference: reference.to_string(), digest: digest.clone(), anonymous: false };
        let order = Order {
            from: &registry,
            wanted: Wanted::Digest(&digest),
            what: &origin.reference,
            name,
            origin: Some(origin.clone()),
            label: Label::May(reference.tag.as_deref().unwrap_or_default()),
        };
        let image = self.bring(&order, &holder, on);
        drop(store);
        // Left by a failure, or by the earlier meaning of the name.
        self.sweep_if_free(on);
        image.map_err(served).and_then(note_public)
    }

    // The image of that name, if it is complete and what the reference means now.
    fn pulled(&self, name: &ImageName, digest: &Digest) -> Option<StoredImage> {
        // One that cannot be read is pulled again.
        let image = self.find(name.as_str()).ok()??;
        let same = image.name == *name && image.origin.as_ref().is_some_and(|origin| origin.digest == *digest);
        let whole = same && image.layer_list().all(|(blob, diff_id)| self.has_blob(blob) && self.has_diff(diff_id));
        whole.then_some(image)
    }

    /// Fetches an image and gives it its name. Needs the store's lock, shared.
    pub(super) fn bring(&self, order: &Order<'_>, holder: &str, on: &Emitter) -> Result<StoredImage, ImageError> {
        let (manifest, bytes) = self.find_manifest(order)?;
        let what = format!("the configuration of {}", order.what);
        let config = self.small_blob(order.from, &manifest.config, &what, self.limits.config)?;
        ImageConfig::parse(&what, &config)?;
        self.add_document(&config)?;
        let manifest = self.add_document(&bytes)?;
        let image = self.image_of(order.name, &manifest, order.what)?;
        self.make_diffs(&image, Some(order.from), self.limits, holder, on)?;
        let origin = order.origin.clone().map(|origin| Origin { anonymous: !order.from.used_login(), ..origin });
        let image = self.set_name(order.name, &manifest, order.what, origin)?;
        note_foreign(&image, on);
        Ok(image)
    }

    fn find_manifest(&self, order: &Order<'_>) -> Result<(Manifest, Vec<u8>), ImageError> {
        let mut what = order.what.to_owned();
        let (mut bytes, mut said) = order.from.document(order.wanted, self.limits.manifest)?;
        for _ in 0..MAX_INDICES {
            let choices = match Document::parse(&what, &bytes, said.as_deref(), &self.limits)? {
                Document::Index(choices) => choices,
                Document::Manifest(manifest) => return Ok((manifest, bytes)),
            };
            let label = match order.label {
                Label::May(label) => label,
                Label::Must(label) => {
                    let names: Vec<&str> = choices.iter().filter_map(|choice| choice.name.as_deref()).collect();
                    if !names.is_empty() && !names.contains(&label) {
                        let why = format!("has no image called `{label}`; there are {}", names.join(", "));
                        return Err(ImageError::Document { what, why });
                    }
                    label
                }
            };
            let chosen = choose(&what, choices, label, architecture())?;
            what = format!("the document {} of {}", chosen.digest, order.what);
            (bytes, said) = order.from.document(Wanted::Digest(&chosen.digest), self.limits.manifest)?;
            check(&what, &chosen, bytes.len() as u64, &digest(&bytes))?;
        }
        Err(ImageError::Document { what, why: "is one index too deep".into() })
    }

    fn small_blob(
        &self,
        from: &dyn Registry,
        wanted: &Descriptor,
        what: &str,
        limit: u64,
    ) -> Result<Vec<u8>, ImageError> {
        if wanted.size > limit {
            return Err(ImageError::TooLarge { what: what.into(), size: wanted.size, limit });
        }
        let mut bytes = Vec::new();
        let read =
            std::io::Read::read_to_end(&mut std::io::Read::take(from.blob(wanted, 0)?, wanted.size + 1), &mut bytes);
        read.map_err(|source| ImageError::Receive { what: what.into(), source })?;
        check(what, wanted, bytes.len() as u64, &digest(&bytes))?;
        Ok(bytes)
    }
}

/// Says when an image is for another architecture: there was no choice, or it would have been refused.
pub(super) fn note_foreign(image: &StoredImage, on: &Emitter) {
    let (theirs, ours) = (&image.config.architecture, architecture());
    if theirs != ours {
        let need = "its programs run only where the kernel has an emulator for them (qemu-user, binfmt_misc)";
        on.warn(format!("`{}` is for {theirs}, and this machine is {ours}: {need}", image.name));
    }
}

/// Whether a registry gives a manifest without a login.
fn is_public(reference: &RegistryReference, settings: &Settings, digest: &Digest) -> bool {
    let settings = Settings { logins: false, ..settings.clone() };
    HttpRegistry::open(reference, &settings).is_ok_and(|registry| {
        registry.document(Wanted::Digest(digest), super::limits::Limits::default().manifest).is_ok()
    })
}
