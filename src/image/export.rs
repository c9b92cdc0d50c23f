//! Exports an image: as an OCI layout in a folder, or as an archive of one.
//!
//! skopeo and others load the result. Digests stay the same unless it is compressed anew. Every blob is hashed once more
//! while it is copied, and the destination appears when it is complete.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tar::EntryType;

use super::{
    codec::Hashed,
    documents::{Descriptor, index_text},
    error::ImageError,
    intake::check,
    member::{END, Member, padding},
    outgoing::{LayerForm, Outgoing},
    progress::Progress,
    store::{ImageStore, StoredImage},
};
use crate::{
    events::Emitter,
    model::Activity,
    system::{
        files::{self, FileError},
        scratch::Scratch,
    },
};

impl ImageStore {
    /// Writes an image to `dest`: an archive when its name ends in `.tar`, else a folder. Both are OCI layouts.
    ///
    /// # Errors
    ///
    /// When `dest` exists already, a blob is damaged, or the file system refuses.
    pub fn export(&self, image: &StoredImage, dest: &Path, form: LayerForm, on: &Emitter) -> Result<(), ImageError> {
        if dest.symlink_metadata().is_ok() {
            return Err(ImageError::Exists(dest.into()));
        }
        let _store = self.share(&format!("image export {}", image.name), on)?;
        let scratch = Scratch::make(&self.tmp())?;
        let packing = Progress::new(on, Activity::Pack, image.name.as_str(), None);
        let outgoing = self.outgoing(image, form, &scratch, &packing)?;
        packing.finish();
        let progress = Progress::new(on, Activity::Export, image.name.as_str(), Some(outgoing.size()));
        if dest.extension().is_some_and(|extension| extension == "tar") {
            export_archive(image, &outgoing, dest, &progress)?;
        } else {
            export_folder(image, &outgoing, dest, &progress)?;
        }
        progress.finish();
        Ok(())
    }
}

fn export_folder(image: &StoredImage, outgoing: &Outgoing, dest: &Path, progress: &Progress) -> Result<(), ImageError> {
    let folder = tempfile::Builder::new().prefix(".smidr-").tempdir_in(beside(dest)).map_err(failed(dest))?;
    // Private while it is made; then with the mode that the umask gives a new folder.
    let inner = folder.path().join("layout");
    fs::create_dir_all(inner.join("blobs/sha256")).map_err(failed(dest))?;
    for (path, text) in small_files(image, outgoing) {
        fs::write(inner.join(path), text).map_err(failed(dest))?;
    }
    for (blob, path) in &outgoing.blobs {
        let file = File::create_new(inner.join("blobs").join(blob.digest.blob_path())).map_err(failed(dest))?;
        copy_blob(blob, path, &file, dest, progress)?;
    }
    match renameat_with(CWD, &inner, CWD, dest, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => Err(ImageError::Exists(dest.into())),
        result => result.map_err(|errno| failed(dest)(errno.into())),
    }
}

fn export_archive(
    image: &StoredImage,
    outgoing: &Outgoing,
    dest: &Path,
    progress: &Progress,
) -> Result<(), ImageError> {
    let file = tempfile::Builder::new()
        .prefix(".smidr-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(beside(dest))
        .map_err(failed(dest))?;
    let mut out = BufWriter::with_capacity(256 << 10, file.as_file());
    for folder in ["blobs/", "blobs/sha256/"] {
        out.write_all(&member(folder, EntryType::Directory, 0o755, 0)).map_err(failed(dest))?;
    }
    for (blob, path) in &outgoing.blobs {
        let name = format!("blobs/{}", blob.digest.blob_path().display());
        out.write_all(&member(&name, EntryType::Regular, 0o644, blob.size)).map_err(failed(dest))?;
        copy_blob(blob, path, &mut out, dest, progress)?;
        out.write_all(padding(blob.size)).map_err(failed(dest))?;
    }
    for (path, text) in small_files(image, outgoing) {
        let size = text.len() as u64;
        out.write_all(&member(&path, EntryType::Regular, 0o644, size)).map_err(failed(dest))?;
        out.write_all(&text).map_err(failed(dest))?;
        out.write_all(padding(size)).map_err(failed(dest))?;
    }
    out.write_all(&END).and_then(|()| out.flush()).map_err(failed(dest))?;
    drop(out);
    match file.persist_noclobber(dest) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(ImageError::Exists(dest.into())),
        Err(error) => Err(failed(dest)(error.error)),
    }
}

fn copy_blob(
    blob: &Descriptor,
    path: &Path,
    mut out: impl Write,
    dest: &Path,
    progress: &Progress,
) -> Result<(), ImageError> {
    let file = File::open(path).map_err(FileError::new("read", path))?;
    let mut input = Hashed::new(file.take(blob.size.saturating_add(1)));
    let mut buffer = vec![0; 256 << 10];
    loop {
        let part = files::read_part(&mut input, &mut buffer).map_err(FileError::new("read", path))?;
        if part.is_empty() {
            break;
        }
        out.write_all(part).map_err(failed(dest))?;
        progress.add(part.len() as u64);
    }
    let (_, found, size) = input.finish();
    check(&format!("the blob {} in the store", blob.digest), blob, size, &found)
}

// The manifest is small.
fn small_files(image: &StoredImage, outgoing: &Outgoing) -> [(String, Vec<u8>); 3] {
    let index = index_text(&outgoing.manifest, image.name.as_str());
    let manifest = format!("blobs/{}", outgoing.manifest.digest.blob_path().display());
    [
        (manifest, outgoing.text.clone()),
        ("index.json".into(), index.into_bytes()),
        ("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ]
}

fn member(path: &str, kind: EntryType, mode: u32, size: u64) -> Vec<u8> {
    Member { path: path.as_bytes(), kind, mode, mtime: 0, size, link: b"", xattrs: &[] }.header()
}

fn beside(dest: &Path) -> PathBuf {
    match dest.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

fn failed(dest: &Path) -> impl FnOnce(io::Error) -> ImageError + use<> {
    let path = dest.to_path_buf();
    move |source| {
        let source = FileError::new("write", &path)(source);
        ImageError::Export { path, source }
    }
}
