//! Removes images that have not been used for a given time.
//!
//! What a running build uses stays, whatever its age.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    error::ImageError,
    name::ImageName,
    space::Usage,
    store::{ImageStore, StoredImage},
};
use crate::events::Emitter;

/// The policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Remove images that were not used for longer.
    pub unused_for: Option<Duration>,
    /// Remove the least recently used images, until the rest takes no more bytes on the disk.
    pub keep_bytes: Option<u64>,
    /// Only report what would be removed.
    pub dry_run: bool,
}

impl Policy {
    fn is_old(&self, used: Timestamp, now: Timestamp) -> bool {
        let age = Duration::try_from(now.duration_since(used));
        self.unused_for.is_some_and(|limit| age.is_ok_and(|age| age > limit))
    }
}

/// What was removed, or would be.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Images, and the bytes on the disk that only each of them needed.
    pub images: Vec<(StoredImage, u64)>,
    /// Bytes of what no image needed any more: beginnings of blobs, leftovers.
    pub leftovers: u64,
    /// Images whose documents are damaged, so that their size is unknown.
    pub damaged: Vec<ImageName>,
    /// Images that would have been removed but are in use, and by which build.
    pub in_use: Vec<(StoredImage, String)>,
}

impl ImageStore {
    /// Removes images by a policy, then everything that no image refers to, partial blobs included.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written.
    pub fn prune(&self, policy: Policy, now: Timestamp, on: &Emitter) -> Result<Pruned, ImageError> {
        let mut pruned = Pruned::default();
        let images = self.list()?;
        let usage = self.usage(&images);
        for (image, bytes) in chosen(images, usage, policy, now) {
            let removed = match self.user_of(&image.manifest)?.filter(|_| policy.dry_run) {
                Some(holder) => Err(ImageError::InUse { name: image.name.clone(), holder }),
                None if policy.dry_run => Ok(bytes),
                None => self.remove(&image.name, on),
            };
            match removed {
                Err(ImageError::InUse { holder, .. }) => {
                    pruned.in_use.push((image, holder));
                    continue;
                }
                // Another process has removed it.
                Err(ImageError::Unknown(_)) => continue,
                removed => pruned.leftovers += removed?.saturating_sub(bytes),
            }
            pruned.images.push((image, bytes));
        }
        for (name, used) in self.damaged()? {
            if policy.is_old(used, now) {
                pruned.damaged.push(name.clone());
                if !policy.dry_run {
                    pruned.leftovers += self.remove(&name, on)?;
                }
            }
        }
        pruned.leftovers += if policy.dry_run { self.unneeded_bytes()? } else { self.sweep_now(on)? };
        Ok(pruned)
    }
}

// The images to remove, and how many bytes each frees: those that no remaining image needs.
fn chosen(mut images: Vec<StoredImage>, mut usage: Usage, policy: Policy, now: Timestamp) -> Vec<(StoredImage, u64)> {
    images.sort_by_key(|image| image.last_used);
    let mut gone = Vec::new();
    for image in images {
        if policy.is_old(image.last_used, now) || policy.keep_bytes.is_some_and(|keep| usage.total() > keep) {
            let freed = usage.remove(&image.name);
            gone.push((image, freed));
        }
    }
    gone
}
