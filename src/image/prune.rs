//! Images that nobody has used for long leave the store.
//!
//! In goes a policy, out comes what was removed. What a running build uses stays, whatever its age.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    error::ImageError,
    store::{ImageStore, StoredImage},
};
use crate::events::Emitter;

/// What may go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Images that nobody has used for longer.
    pub unused_for: Option<Duration>,
    /// The images that were not used for longest, until the rest has no more bytes.
    pub keep_bytes: Option<u64>,
    /// Say what would go, and keep it.
    pub dry_run: bool,
}

/// What has gone, or would.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Images.
    pub images: Vec<StoredImage>,
    /// Images that would have gone if nobody used them, and who does.
    pub in_use: Vec<(StoredImage, String)>,
    /// Bytes that their blobs took, shared ones aside.
    pub bytes: u64,
}

impl ImageStore {
    /// Removes images by a policy, then everything that no image refers to, beginnings of blobs included.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written.
    pub fn prune(&self, policy: Policy, now: Timestamp, on: &Emitter) -> Result<Pruned, ImageError> {
        let mut pruned = Pruned::default();
        for image in chosen(self.list()?, policy, now) {
            if !policy.dry_run {
                match self.remove(&image.name, on) {
                    Err(ImageError::InUse { holder, .. }) => {
                        pruned.in_use.push((image, holder));
                        continue;
                    }
                    // Somebody else was faster.
                    Err(ImageError::Unknown(_)) => continue,
                    removed => removed?,
                }
            }
            pruned.bytes += image.size - image.shared;
            pruned.images.push(image);
        }
        if !policy.dry_run {
            self.sweep_now(on)?;
        }
        Ok(pruned)
    }
}

fn chosen(mut images: Vec<StoredImage>, policy: Policy, now: Timestamp) -> Vec<StoredImage> {
    images.sort_by_key(|image| image.last_used);
    let mut left: u64 = images.iter().map(|image| image.size - image.shared).sum();
    let old = |image: &StoredImage| {
        let age = now.duration_since(image.last_used);
        policy.unused_for.is_some_and(|limit| Duration::try_from(age).is_ok_and(|age| age > limit))
    };
    images.retain(|image| {
        let goes = old(image) || policy.keep_bytes.is_some_and(|keep| left > keep);
        left -= if goes { image.size - image.shared } else { 0 };
        goes
    });
    images
}
