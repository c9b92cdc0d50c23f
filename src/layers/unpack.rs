//! Unpacks the archive of a path layer that a client has sent: hostile input. Takes only what [`super::pack`] writes: files, folders and links in GNU's
//! form of tar. The archive is hashed while it is read, and its tree counts only when this has succeeded.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType};
use walkdir::WalkDir;

use crate::{
    model::{Digest, Kind, UserError},
    system::{
        files::{FileError, read_part},
        rooted::{Missing, Rooted, RootedError},
    },
};

/// Of a path or of a link's target, in bytes (PATH_MAX).
const LONGEST: u64 = 4096;

/// Entries of one archive. What it holds costs an inode each, and its size says little about their number.
const MOST_ENTRIES: usize = 200_000;

/// BitBake tells versions of a file apart by its time, in seconds.
const STEP: Duration = Duration::from_secs(1);

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be read, or is no tar archive.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// It is another one than was announced.
    #[error("the archive is {found} with {size} bytes, and not {wanted}")]
    Digest {
        /// The digest that was announced.
        wanted: Digest,
        /// What it is.
        found: Digest,
        /// Its size.
        size: u64,
    },
    /// An entry that no layer has.
    #[error("the entry `{}` of the archive {why}", path.display())]
    Entry {
        /// Its path, as the archive has it.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Too many of them.
    #[error("the archive has more than {MOST_ENTRIES} entries")]
    TooMany,
    /// Where an entry should go.
    #[error(transparent)]
    Rooted(#[from] RootedError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for UnpackError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(error) => Kind::of_io(error),
            Self::Digest { .. } | Self::Entry { .. } | Self::TooMany => Kind::Request,
            Self::Rooted(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }
}

/// Unpacks into an empty folder. After a failure its content is worth nothing.
///
/// # Errors
///
/// When the archive is not that of the digest, or holds what no layer has; and when the file system refuses.
pub fn unpack(archive: impl Read, digest: &Digest, folder: &Path) -> Result<(), UnpackError> {
    let mut archive = Archive::new(Hashed { from: archive, hash: Sha256::new(), size: 0 });
    let root = Rooted::open(folder)?;
    add_all(&mut archive, &root)?;
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(UnpackError::Read)?;
    let found = Digest::from_sha256(rest.hash.finalize().into());
    if found != *digest {
        return Err(UnpackError::Digest { wanted: digest.clone(), found, size: rest.size });
    }
    finish(folder, &root)
}

/// Counts and hashes what is read.
struct Hashed<R> {
    from: R,
    hash: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = read_part(&mut self.from, buffer)?;
        self.hash.update(part);
        self.size += part.len() as u64;
        Ok(part.len())
    }
}

fn add_all<R: Read>(archive: &mut Archive<R>, root: &Rooted) -> Result<(), UnpackError> {
    let (mut name, mut target) = (None, None);
    // Raw: long names are read here, within limits.
    for (count, entry) in archive.entries().map_err(UnpackError::Read)?.raw(true).enumerate() {
        if count >= MOST_ENTRIES {
            return Err(UnpackError::TooMany);
        }
        let mut entry = entry.map_err(UnpackError::Read)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => name = Some(long(&mut entry)?),
            EntryType::GNULongLink => target = Some(long(&mut entry)?),
            _ => add(&mut entry, name.take(), target.take(), root)?,
        }
    }
    Ok(())
}

/// A long name, which the next entry has.
fn long(entry: &mut Entry<'_, impl Read>) -> Result<PathBuf, UnpackError> {
    let mut bytes = Vec::new();
    entry.take(LONGEST + 1).read_to_end(&mut bytes).map_err(UnpackError::Read)?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    let path = PathBuf::from(OsStr::from_bytes(bytes));
    if bytes.len() as u64 >= LONGEST { Err(refuse(&path, "has too long a name")) } else { Ok(path) }
}

fn add(
    entry: &mut Entry<'_, impl Read>,
    name: Option<PathBuf>,
    target: Option<PathBuf>,
    root: &Rooted,
) -> Result<(), UnpackError> {
    let named = name.unwrap_or_else(|| OsStr::from_bytes(&entry.path_bytes()).into());
    let path = clean(&named)?;
    let kind = entry.header().entry_type();
    if kind == EntryType::Directory {
        return place(root, &path, &named).map(drop);
    }
    let Some(name) = path.file_name() else { return Err(refuse(&named, "is the layer itself")) };
    let parent = place(root, path.parent().unwrap_or(Path::new("")), &named)?;
    let failed = || FileError::new("write", &path);
    match kind {
        EntryType::Regular => {
            let mut file = parent.create_file(Path::new(name))?;
            let size = entry.size();
            let written = io::copy(entry, &mut file).map_err(failed())?;
            if written != size {
                return Err(refuse(&named, "is cut off"));
            }
            let mode = if entry.header().mode().unwrap_or_default() & 0o111 == 0 { 0o644 } else { 0o755 };
            Ok(file.set_permissions(Permissions::from_mode(mode)).map_err(failed())?)
        }
        EntryType::Symlink => {
            let written = entry.link_name_bytes().unwrap_or_default();
            let target = target.unwrap_or_else(|| OsStr::from_bytes(&written).into());
            let made = rustix::fs::symlinkat(&target, parent.root(), name);
            Ok(made.map_err(|error| failed()(error.into()))?)
        }
        _ => Err(refuse(&named, "is no file, folder or symbolic link")),
    }
}

/// The folder of an entry. No link leads there.
fn place(root: &Rooted, folder: &Path, named: &Path) -> Result<Rooted, UnpackError> {
    let walked = root.walk(folder, Missing::Make(0o755))?;
    if walked.path != folder {
        return Err(refuse(named, "lies behind a symbolic link"));
    }
    Ok(Rooted::from_fd(walked.dir))
}

fn clean(named: &Path) -> Result<PathBuf, UnpackError> {
    let mut path = PathBuf::new();
    for part in named.components() {
        match part {
            Component::Normal(name) if name.eq_ignore_ascii_case(".git") => {
                return Err(refuse(named, "belongs to a .git, which git on this machine would obey"));
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(refuse(named, "has `..` in its path")),
            Component::RootDir | Component::Prefix(_) => return Err(refuse(named, "has an absolute path")),
        }
    }
    Ok(path)
}

/// Refuses links that lead out, now that all are there, and opens folders to all, whatever the umask was.
fn finish(folder: &Path, root: &Rooted) -> Result<(), UnpackError> {
    for entry in WalkDir::new(folder) {
        let entry = entry.map_err(|error| FileError::new("read", folder)(error.into()))?;
        let inside = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        if entry.path_is_symlink() && root.leads_out(inside) {
            return Err(refuse(inside, "is a link that leads out of the layer"));
        }
        if entry.file_type().is_dir() {
            let opened = fs::set_permissions(entry.path(), Permissions::from_mode(0o755));
            opened.map_err(FileError::new("set the mode of", entry.path()))?;
        }
    }
    Ok(())
}

/// Gives files that an older tree has too their times there, and others a later one: BitBake then parses again what has changed, and no more.
///
/// # Errors
///
/// When the file system refuses.
pub fn keep_times(old: &Path, new: &Path) -> Result<(), UnpackError> {
    let root = Rooted::open(old)?;
    for entry in WalkDir::new(new) {
        let entry = entry.map_err(|error| FileError::new("read", new)(error.into()))?;
        let inside = entry.path().strip_prefix(new).unwrap_or(entry.path());
        let Some(known) = entry.file_type().is_file().then(|| open(&root, inside)).flatten() else { continue };
        let failed = || FileError::new("set the time of", entry.path());
        let mut file = fs::File::open(entry.path()).map_err(failed())?;
        let time = known.metadata().and_then(|found| found.modified()).map_err(failed())?;
        let is_same = same(&mut file, known).map_err(failed())?;
        let time = if is_same { time } else { SystemTime::now().max(time + STEP) };
        file.set_modified(time).map_err(failed())?;
    }
    Ok(())
}

/// A file of a tree in which a shell may have put anything.
fn open(root: &Rooted, path: &Path) -> Option<fs::File> {
    let file = fs::File::from(root.open_plain(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?);
    file.metadata().is_ok_and(|found| found.is_file()).then_some(file)
}

fn same(one: &mut fs::File, mut other: fs::File) -> io::Result<bool> {
    let (one_is, other_is) = (one.metadata()?, other.metadata()?);
    if (one_is.len(), one_is.mode() & 0o111) != (other_is.len(), other_is.mode() & 0o111) {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let part = read_part(one, &mut left)?;
        let Some(wanted) = right.get_mut(..part.len()) else { return Ok(false) };
        match other.read_exact(wanted) {
            Ok(()) if part == wanted => {}
            _ => return Ok(false),
        }
        if part.is_empty() {
            return Ok(true);
        }
    }
}

fn refuse(path: &Path, why: &'static str) -> UnpackError {
    UnpackError::Entry { path: path.into(), why }
}
