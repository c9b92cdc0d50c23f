//! Removes images that have not been used for a given time.
//!
//! What a running build uses stays, whatever its age.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    error::ImageError,
    name::ImageName,
    store::{ImageStore, StoredImage},
};
use crate::{events::Emitter, model::Digest};

/// The policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Remove images that were not used for longer.
    pub unused_for: Option<Duration>,
    /// Remove the least recently used images, until the rest has no more bytes.
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
    /// Images, and the bytes that only each of them needed.
    pub images: Vec<(StoredImage, u64)>,
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
        for (image, bytes) in chosen(self.list()?, policy, now) {
            if policy.dry_run {
                if let Some(holder) = self.user_of(&image.manifest)? {
                    pruned.in_use.push((image, holder));
                    continue;
                }
            } else {
                match self.remove(&image.name, on) {
                    Err(ImageError::InUse { holder, .. }) => {
                        pruned.in_use.push((image, holder));
                        continue;
                    }
                    // Another process has removed it.
                    Err(ImageError::Unknown(_)) => continue,
                    removed => removed?,
                }
            }
            pruned.images.push((image, bytes));
        }
        for (name, used) in self.damaged()? {
            if policy.is_old(used, now) {
                pruned.damaged.push(name.clone());
                if !policy.dry_run {
                    self.remove(&name, on)?;
                }
            }
        }
        if !policy.dry_run {
            self.sweep_now(on)?;
        }
        Ok(pruned)
    }
}

// The images to remove, and how many bytes each frees: those that no remaining image needs.
fn chosen(mut images: Vec<StoredImage>, policy: Policy, now: Timestamp) -> Vec<(StoredImage, u64)> {
    images.sort_by_key(|image| image.last_used);
    let mut users: BTreeMap<Digest, (u64, usize)> = BTreeMap::new();
    for (digest, size) in images.iter().flat_map(StoredImage::blobs) {
        users.entry(digest).or_insert((size, 0)).1 += 1;
    }
    let mut left = users.values().fold(0, |sum: u64, (size, _)| sum.saturating_add(*size));
    let mut gone = Vec::new();
    for image in images {
        if !policy.is_old(image.last_used, now) && policy.keep_bytes.is_none_or(|keep| left <= keep) {
            continue;
        }
        let mut bytes: u64 = 0;
        for digest in image.blobs().into_keys() {
            if let Some((size, count)) = users.get_mut(&digest) {
                *count -= 1;
                bytes = bytes.saturating_add(if *count == 0 { *size } else { 0 });
            }
        }
        left = left.saturating_sub(bytes);
        gone.push((image, bytes));
    }
    gone
}
