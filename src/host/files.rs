//! Writing files so that nobody ever sees half of one.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::model::{Digest, Explain, Kind};

/// What failed, on which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct FileError {
    action: &'static str,
    path: String,
    source: io::Error,
}

impl FileError {
    /// Names the operation and the path of an I/O error; made for `map_err`.
    pub fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.display().to_string();
        move |source| Self { action, path, source }
    }
}

impl Explain for FileError {
    fn kind(&self) -> Kind {
        Kind::of_io(&self.source)
    }

    fn hint(&self) -> Option<String> {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(format!(
                "free some space on that file system:  df -h {}",
                shlex::try_quote(&self.path).unwrap_or_default()
            )),
            io::ErrorKind::ReadOnlyFilesystem => Some("choose a writable place:  export SMIDR_HOME=DIR".into()),
            _ => None,
        }
    }
}

/// Makes a folder and its parents, readable by their owner only.
///
/// # Errors
///
/// When the file system refuses.
pub fn make_private_dir(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::new("make the folder", path))
}

/// Replaces a file's content at once or not at all: a new file beside it, then a rename.
///
/// # Errors
///
/// When the file system refuses; the old content is then untouched.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let attempt = || -> io::Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".smidr-").tempfile_in(folder)?;
        file.write_all(content)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.as_file().sync_data()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(FileError::new("write", path))
}

/// Reads a text file.
///
/// # Errors
///
/// When it cannot be read or is no UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::new("read", path))
}

/// The digest of a file's content, and its size in bytes.
///
/// # Errors
///
/// When it cannot be read.
pub fn sha256_of(path: &Path) -> Result<(Digest, u64), FileError> {
    let read = || -> io::Result<(Digest, u64)> {
        let mut file = fs::File::open(path)?;
        let (mut hash, mut size) = (Sha256::new(), 0);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((Digest::from_sha256(hash.finalize().into()), size)),
                read => {
                    hash.update(&buffer[..read]);
                    size += read as u64;
                }
            }
        }
    };
    read().map_err(FileError::new("read", path))
}

/// Removes a whole tree that smidr made, even where it holds folders without write permission. A tree that is not there is fine.
///
/// # Errors
///
/// When something in it belongs to somebody else.
pub fn remove_tree(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    // Read-only folders (Go's module cache, overlay's `work`) refuse the removal of their entries: open them, then again.
    open_tree(path);
    fs::remove_dir_all(path).map_err(FileError::new("remove", path))
}

// A folder can only be listed once it is open, hence top down.
fn open_tree(folder: &Path) {
    let opened = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    if let (Ok(()), Ok(entries)) = (opened, fs::read_dir(folder)) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open_tree(&entry.path());
            }
        }
    }
}
