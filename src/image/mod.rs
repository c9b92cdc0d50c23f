//! Build-host images: a content-addressed store, with import, unpacking and export.
//!
//! Images come from registries, OCI layouts, docker archives, plain archives of a root file system, or a tree that a rootfs recipe made. The
//! result is folders, one per layer, for a sandbox to stack. Nothing here needs root, a user namespace or another program, and
//! no image, however hostile, changes anything outside its own folder. Nothing of an image is run.

mod account;
mod archive;
mod checkout;
mod codec;
mod documents;
mod error;
mod export;
mod fields;
mod gather;
mod import;
mod intake;
mod layer_error;
mod limits;
mod lowers;
mod member;
mod name;
mod normalise;
mod outgoing;
mod pack;
mod pax;
mod progress;
mod prune;
mod publish;
mod pull;
mod push;
mod readahead;
mod reference;
mod registry;
mod seam;
mod source;
mod space;
mod sparse;
mod store;
#[cfg(test)]
mod testing;
mod tree;
mod unpack;
mod verify;
mod waiting;

#[cfg(test)]
mod tests;

pub use crate::system::scratch::Scratch;
pub use checkout::RootFs;
pub use documents::{Descriptor, ImageConfig};
pub use error::ImageError;
pub use layer_error::LayerError;
pub use limits::{Limits, NoLimit};
pub use name::ImageName;
pub use outgoing::LayerForm;
pub use prune::{Policy, Pruned};
pub use publish::NewImage;
pub use reference::{Reference, ReferenceError, RegistryReference, stored_name};
pub use registry::Settings as RegistrySettings;
pub use space::Usage;
pub use store::{ImageStore, Origin, StoredImage, names};
pub use verify::{Checked, Damage, Finding};
