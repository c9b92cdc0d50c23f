//! Verifies the store by reading every byte of an image again.
//!
//! Blobs are hashed. An unpacked layer is compared with what its blob unpacks to, file by file. Damaged parts are named, and
//! can be repaired: an unpacked layer from its blob, a blob from the image's source.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{
    account::Account,
    documents::Descriptor,
    error::ImageError,
    intake::{self, Incoming},
    limits::Limits,
    progress::Progress,
    store::{ImageStore, StoredImage},
    tree,
};
use crate::{
    events::Emitter,
    model::{Activity, Digest},
    system::{
        files::{self, FileError},
        scratch::Scratch,
    },
};

/// The damage of a part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A blob is missing or incomplete.
    Missing,
    /// A blob has another digest than its name.
    Digest(Digest),
    /// An unpacked layer differs from its blob, first at this path.
    Differs(PathBuf),
}

/// A damaged part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In words: `the layer 1234abcd`.
    pub part: String,
    /// Its damage.
    pub damage: Damage,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Blob(Digest),
    Diff(Digest),
    Seam,
}

/// What has been found of layers, by the digests of blob and content. Images share layers, and may have one several times.
#[derive(Debug, Default)]
pub struct Checked(BTreeMap<(Digest, Digest), Option<Finding>>);

impl ImageStore {
    /// Checks every byte of an image, but for layers that have been `checked` before.
    ///
    /// # Errors
    ///
    /// When the image's documents cannot be read, or the file system refuses.
    pub fn verify(&self, image: &StoredImage, checked: &mut Checked, on: &Emitter) -> Result<Vec<Finding>, ImageError> {
        let holder = format!("image verify {}", image.name);
        let _store = self.share(&holder, on)?;
        let distinct: BTreeMap<_, _> =
            image.layer_list().map(|(layer, id)| ((layer.digest.clone(), id.clone()), layer)).collect();
        let left = distinct.iter().filter(|(key, _)| !checked.0.contains_key(key)).map(|(_, layer)| layer.size).sum();
        let progress = Progress::new(on, Activity::Verify, image.name.as_str(), Some(left));
        // Removed together at the end: some file systems are slow to make files where many have just been removed.
        let (mut found, mut scratches) = (Vec::new(), Vec::new());
        for (key, layer) in distinct {
            if !checked.0.contains_key(&key) {
                let part = format!("the layer {}", layer.digest.short());
                let finding = match self.verify_blob(layer, &part, &progress)? {
                    None => self.verify_diff(layer, &key.1, part, &mut scratches, on)?,
                    damaged => damaged,
                };
                checked.0.insert(key.clone(), finding);
            }
            found.extend(checked.0.get(&key).cloned().flatten());
        }
        if found.is_empty() {
            found.extend(self.verify_seam(image)?);
        }
        progress.finish();
        Ok(found)
    }

    // The expected seam is known only if all layers are sound and unpacked.
    fn verify_seam(&self, image: &StoredImage) -> Result<Option<Finding>, ImageError> {
        let outer = self.seam_path(&image.manifest);
        let seam = outer.join("fs");
        if !outer.exists() || !image.layer_list().all(|(_, diff_id)| self.has_diff(diff_id)) {
            return Ok(None);
        }
        let part = "what the image adds to its layers".to_owned();
        let limits = Limits::none();
        let account = Account::new(&limits);
        let Some(metas) = self.left_open(image, &account)? else { return Ok(None) };
        let wanted = self.make_seam(image, &metas, image.name.as_str(), limits, &account)?;
        let differs = if seam.is_dir() { compare(wanted.path(), &seam)? } else { Some(PathBuf::new()) };
        Ok(differs.map(|path| Finding { part, damage: Damage::Differs(path), place: Place::Seam }))
    }

    /// Removes damaged parts that no build uses, so that they are made or fetched again.
    ///
    /// # Errors
    ///
    /// When a build uses it, or the file system refuses.
    pub fn discard_damaged(&self, image: &StoredImage, findings: &[Finding], on: &Emitter) -> Result<(), ImageError> {
        let _alone = self.alone_with(image, "image verify", on)?;
        for finding in findings {
            match &finding.place {
                Place::Blob(digest) => {
                    // Without its blob an unpacked layer cannot be compared any more.
                    for (_, diff_id) in image.layer_list().filter(|(blob, _)| blob.digest == *digest) {
                        self.discard(&self.diff(diff_id), &self.diff_lock(diff_id))?;
                    }
                    let path = self.blob(digest);
                    match fs::remove_file(&path) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(FileError::new("remove", &path)(error).into());
                        }
                        _ => {}
                    }
                }
                Place::Diff(diff_id) => {
                    self.discard(&self.diff(diff_id), &self.diff_lock(diff_id))?;
                }
                Place::Seam => {}
            }
        }
        // The seam may have been made from damaged layers.
        self.discard(&self.seam_path(&image.manifest), &self.image_lock(&image.manifest)).map(drop)
    }

    fn verify_blob(&self, layer: &Descriptor, part: &str, progress: &Progress) -> Result<Option<Finding>, ImageError> {
        let path = self.blob(&layer.digest);
        let finding =
            |damage| Ok(Some(Finding { part: part.into(), damage, place: Place::Blob(layer.digest.clone()) }));
        if !self.has_blob(layer) {
            return finding(Damage::Missing);
        }
        let mut file = File::open(&path).map_err(FileError::new("read", &path))?;
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            let part = files::read_part(&mut file, &mut buffer).map_err(FileError::new("read", &path))?;
            if part.is_empty() {
                break;
            }
            hasher.update(part);
            progress.add(part.len() as u64);
        }
        match Digest::from_sha256(hasher.finalize().into()) {
            digest if digest == layer.digest => Ok(None),
            digest => finding(Damage::Digest(digest)),
        }
    }

    // A layer that is not unpacked is unpacked when it is needed.
    fn verify_diff(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        part: String,
        scratches: &mut Vec<Scratch>,
        on: &Emitter,
    ) -> Result<Option<Finding>, ImageError> {
        if !self.has_diff(diff_id) {
            return Ok(None);
        }
        let scratch = Scratch::make(&self.tmp())?;
        let path = self.blob(&layer.digest);
        let input = File::open(&path).map_err(FileError::new("read", &path))?;
        let incoming = Incoming {
            what: &part,
            wanted: Some(layer),
            diff_id: Some(diff_id),
            size: layer.size,
            tree: Some(scratch.path()),
            over: &AtomicBool::new(false),
            // Its limits were checked when it was stored.
            limits: Limits::none(),
            account: &Account::new(&Limits::none()),
            progress: &Progress::new(on, Activity::Unpack, part.as_str(), Some(layer.size)),
        };
        intake::receive(incoming, input, None)?;
        let unpacked = self.diff(diff_id).join("fs");
        let differs = if unpacked.is_dir() { compare(scratch.path(), &unpacked)? } else { Some(PathBuf::new()) };
        scratches.push(scratch);
        let place = Place::Diff(diff_id.clone());
        Ok(differs.map(|path| Finding { part, damage: Damage::Differs(path), place }))
    }
}

fn compare(wanted: &Path, found: &Path) -> Result<Option<PathBuf>, FileError> {
    let open = |path: &Path| File::open(path).map(OwnedFd::from).map_err(FileError::new("open", path));
    difference(&open(wanted)?, &open(found)?, Path::new(""))
        .map_err(|error| FileError::new("compare", found)(error.into()))
}

/// The first path at which two trees differ.
fn difference(wanted: &OwnedFd, found: &OwnedFd, path: &Path) -> rustix::io::Result<Option<PathBuf>> {
    if count(found)? != count(wanted)? || tree::xattrs(wanted)? != tree::xattrs(found)? {
        return Ok(Some(path.into()));
    }
    // One by one, in the file system's order: a folder may hold millions of names.
    for entry in Dir::read_from(wanted)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let ours = statat(wanted, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let theirs = match statat(found, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Some(path.into())),
            theirs => theirs?,
        };
        let path = path.join(name);
        let look = |stat: &Stat| (stat.st_mode, stat.st_mtime, stat.st_mtime_nsec, stat.st_rdev);
        if look(&ours) != look(&theirs) {
            return Ok(Some(path));
        }
        let same = match FileType::from_raw_mode(ours.st_mode) {
            FileType::Directory => {
                let (ours, theirs) =
                    (tree::open_folder(wanted.as_fd(), name)?, tree::open_folder(found.as_fd(), name)?);
                if let Some(path) = difference(&ours, &theirs, &path)? {
                    return Ok(Some(path));
                }
                true
            }
            FileType::RegularFile => ours.st_size == theirs.st_size && same_file(wanted, found, name)?,
            FileType::Symlink => readlinkat(wanted, name, Vec::new())? == readlinkat(found, name, Vec::new())?,
            _ => true,
        };
        if !same {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn count(folder: &OwnedFd) -> rustix::io::Result<u64> {
    Dir::read_from(folder)?.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

fn same_file(wanted: &OwnedFd, found: &OwnedFd, name: &OsStr) -> rustix::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |dir| openat(dir, name, flags, Mode::empty()).map(File::from);
    let (mut ours, mut theirs) = (open(wanted)?, open(found)?);
    if tree::xattrs(&ours)? != tree::xattrs(&theirs)? {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    loop {
        let part = read_full(&mut ours, &mut left)?;
        if part != read_full(&mut theirs, &mut right)? {
            return Ok(false);
        }
        if part.is_empty() {
            return Ok(true);
        }
    }
}

fn read_full<'b>(file: &mut File, buffer: &'b mut [u8]) -> rustix::io::Result<&'b [u8]> {
    let mut filled = 0;
    while let Some(room @ [_, ..]) = buffer.get_mut(filled..) {
        match file.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}
