//! Build-host images: a content-addressed store, and the way of an image into it, onto the disk and out again.
//!
//! In go OCI layouts, docker archives and plain archives of a root file system, or a tree that a rootfs recipe made; out
//! come folders, one per layer, for a sandbox to stack. Nothing here needs root, a user namespace or another program, and
//! no image, however hostile, changes anything outside its own folder. It never runs anything of an image.

pub mod apt;
mod archive;
mod checkout;
mod codec;
mod documents;
mod error;
mod export;
mod import;
mod layer_error;
mod limits;
mod lowers;
mod member;
mod name;
mod normalise;
mod pack;
mod progress;
mod publish;
pub mod recipe;
pub mod reference;
pub mod registry;
mod scratch;
mod source;
mod store;
#[cfg(test)]
mod testing;
mod tree;
mod unpack;

#[cfg(test)]
mod tests;

pub use checkout::RootFs;
pub use documents::{Descriptor, ImageConfig};
pub use error::ImageError;
pub use layer_error::LayerError;
pub use limits::Limits;
pub use name::ImageName;
pub use publish::NewImage;
pub use scratch::Scratch;
pub use store::{ImageStore, StoredImage};
