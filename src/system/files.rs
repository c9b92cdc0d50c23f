//! Atomic writes, removal of trees, and bounded reads.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::removal::remove_at;
use crate::model::{Digest, Hint, Kind, UserError};

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

/// A path, quoted for a shell.
pub fn shell(path: &Path) -> String {
    let path = path.display().to_string();
    shlex::try_quote(&path).map_or(path.clone(), |quoted| quoted.into_owned())
}

impl UserError for FileError {
    fn kind(&self) -> Kind {
        Kind::of_io(&self.source)
    }

    fn hints(&self) -> Vec<Hint> {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => vec![Hint::command(
                "free some space on that file system",
                format!("df -h {}", shlex::try_quote(&self.path).unwrap_or_default()),
            )],
            io::ErrorKind::ReadOnlyFilesystem => {
                vec![Hint::command("choose a writable place", "export SMIDR_HOME=DIR")]
            }
            _ => Vec::new(),
        }
    }
}

/// Makes a folder and its parents, readable by their owner only.
///
/// # Errors
///
/// When the file system refuses.
pub fn make_private_dir(path: &Path) -> Result<(), FileError> {
    make_dir(path, 0o700)
}

/// Makes a folder and its parents, with as much of `mode` as the caller's umask leaves.
///
/// # Errors
///
/// When the file system refuses.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), FileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    // The kernel says of a link to nowhere that it exists.
    let dangling = |error| match path.ancestors().find_map(dangling) {
        Some((link, target)) => {
            let words = format!("{} is a symbolic link to {}, which is not there", link.display(), target.display());
            io::Error::new(io::ErrorKind::NotFound, words)
        }
        None => error,
    };
    made.map_err(dangling).map_err(FileError::new("make the folder", path))
}

fn dangling(path: &Path) -> Option<(&Path, PathBuf)> {
    let target = fs::read_link(path).ok()?;
    (!path.exists()).then_some((path, target))
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
/// When it cannot be read or is not valid UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    let text =
        || String::from_utf8(read_bounded(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
    text().map_err(FileError::new("read", path))
}

/// A file beside another one, with a dot and more at the end of its name. Not [`Path::with_extension`]: a name may have dots of its own.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

/// Larger than any text written by hand, in bytes.
const TEXT_LIMIT: u64 = 16 << 20;

/// Opens a file that could be anything else, such as an endless device or a pipe without a writer.
///
/// # Errors
///
/// When it is not a regular file, or cannot be opened.
pub fn open_regular(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

/// Reads a file of a project.
///
/// # Errors
///
/// When it is not a regular file, is too large, or cannot be read.
pub fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match open_regular(path)?.take(TEXT_LIMIT + 1).read_to_end(&mut bytes)? as u64 {
        0..=TEXT_LIMIT => Ok(bytes),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB")),
    }
}

/// Reads once and returns the bytes read: none at the end.
///
/// # Errors
///
/// Those of the input.
pub fn read_part<'b>(input: &mut impl io::Read, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let count = input.read(buffer)?;
    // Out of range only if the reader is faulty.
    Ok(buffer.get(..count).ok_or(io::ErrorKind::InvalidData)?)
}

/// The digest of a file's content, and its size in bytes.
///
/// # Errors
///
/// When it cannot be read.
pub fn sha256_of(path: &Path) -> Result<(Digest, u64), FileError> {
    fs::File::open(path).and_then(sha256_of_all).map_err(FileError::new("read", path))
}

/// The digest and size of all that a reader gives.
///
/// # Errors
///
/// When it cannot be read.
pub fn sha256_of_all(mut from: impl io::Read) -> io::Result<(Digest, u64)> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match read_part(&mut from, &mut buffer)? {
            [] => return Ok((Digest::from_sha256(hash.finalize().into()), size)),
            part => {
                hash.update(part);
                size += part.len() as u64;
            }
        }
    }
}

/// Removes a whole tree that smidr made, even where it holds folders without write permission. A tree that is not there is fine. No
/// link is followed, not even one that takes the place of a folder meanwhile.
///
/// # Errors
///
/// When something in it belongs to another user.
pub fn remove_tree(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let remove = || -> rustix::io::Result<()> {
        let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        remove_at(folder.as_fd(), path.file_name().ok_or(Errno::INVAL)?)
    };
    match remove() {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(FileError::new("remove", path)(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::symlink,
        sync::atomic::{AtomicBool, Ordering},
    };

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use super::*;

    /// Swaps a folder and a link until it is stopped, and makes the link again where it was removed.
    fn swap(folder: &Path, link: &Path, target: &Path, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            if renameat_with(CWD, folder, CWD, link, RenameFlags::EXCHANGE).is_err() {
                let _ = symlink(target, link);
            }
        }
    }

    #[test]
    fn a_tree_goes_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        remove_tree(&at("nowhere/at/all")).expect("nothing to do");
        fs::create_dir_all(at("canary/inner")).expect("folders");
        fs::write(at("canary/inner/file"), "mine").expect("a file");
        mode(&at("canary/inner"), 0o750);
        for _ in 0..200 {
            // As Go's module cache has them: folders that can only be read.
            fs::create_dir_all(at("tree/closed/inner")).expect("folders");
            fs::write(at("tree/closed/inner/file"), "x").expect("a file");
            symlink(at("canary"), at("tree/link")).expect("a link");
            [at("tree/closed/inner"), at("tree/closed")].iter().for_each(|path| mode(path, 0o500));
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| swap(&at("tree/closed"), &at("tree/link"), &at("canary"), &over));
                // A swap at the wrong moment makes it fail, but never leads out.
                let _ = remove_tree(&at("tree"));
                over.store(true, Ordering::Relaxed);
            });
            remove_tree(&at("tree")).expect("removed");
            assert!(!at("tree").exists());
        }
        let found = fs::metadata(at("canary/inner")).expect("the canary");
        assert_eq!(found.permissions().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_to_string(at("canary/inner/file")).expect("the file"), "mine");
    }
}
