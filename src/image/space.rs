//! What images take on the disk: blobs, unpacked layers and seams, each counted once whatever images need it. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    name::ImageName,
    store::{ImageStore, StoredImage},
};
use crate::system::space::{Space, measure};

/// The size of a block of `st_blocks` (stat(2)), in bytes.
const BLOCK: u64 = 512;

/// What some images take, part by part.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Bytes on the disk, and how many images need them.
    parts: BTreeMap<PathBuf, (u64, usize)>,
    images: BTreeMap<ImageName, BTreeSet<PathBuf>>,
}

impl ImageStore {
    /// What these images take on the disk. All others of the store count as if they were not there.
    pub fn usage(&self, images: &[StoredImage]) -> Usage {
        let images: BTreeMap<_, _> = images.iter().map(|image| (image.name.clone(), self.parts(image))).collect();
        let mut users: BTreeMap<&PathBuf, usize> = BTreeMap::new();
        images.values().flatten().for_each(|part| *users.entry(part).or_default() += 1);
        let paths: Vec<&Path> = users.keys().map(|path| path.as_path()).collect();
        let sizes = sizes(&paths);
        let parts = users.into_iter().zip(sizes).map(|((path, users), bytes)| (path.clone(), (bytes, users))).collect();
        Usage { parts, images }
    }

    fn parts(&self, image: &StoredImage) -> BTreeSet<PathBuf> {
        let blobs = image.blobs().into_keys().chain([image.manifest.clone()]).map(|digest| self.blob(&digest));
        let diffs = image.layer_list().map(|(_, diff_id)| self.diff(diff_id));
        blobs.chain(diffs).chain([self.seam_path(&image.manifest)]).collect()
    }
}

impl Usage {
    /// What all of them take together.
    pub fn total(&self) -> u64 {
        self.parts.values().fold(0, |sum, (bytes, _)| sum.saturating_add(*bytes))
    }

    /// What an image takes, with what others need too.
    pub fn of(&self, image: &ImageName) -> u64 {
        self.sum(image, |_| true)
    }

    /// What others need too.
    pub fn shared(&self, image: &ImageName) -> u64 {
        self.sum(image, |users| users > 1)
    }

    /// Takes an image away, and gives what that frees.
    pub fn remove(&mut self, image: &ImageName) -> u64 {
        let freed = self.sum(image, |users| users == 1);
        for part in self.images.remove(image).unwrap_or_default() {
            if let Some((_, users)) = self.parts.get_mut(&part) {
                *users -= 1;
            }
        }
        self.parts.retain(|_, (_, users)| *users > 0);
        freed
    }

    fn sum(&self, image: &ImageName, wanted: impl Fn(usize) -> bool) -> u64 {
        let parts = self.images.get(image).into_iter().flatten().filter_map(|part| self.parts.get(part));
        parts.filter(|(_, users)| wanted(*users)).fold(0, |sum, (bytes, _)| sum.saturating_add(*bytes))
    }
}

/// What files and folders take; one that is not there takes nothing.
pub(super) fn sizes(paths: &[&Path]) -> Vec<u64> {
    let folders = measure(paths).folders;
    let size = |(path, folder): (&&Path, Space)| if path.is_file() { file_size(path) } else { folder.bytes };
    paths.iter().zip(folders).map(size).collect()
}

/// What a file takes.
pub(super) fn file_size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| found.blocks().saturating_mul(BLOCK))
}
