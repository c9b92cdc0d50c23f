//! Path layers as archives, for a daemon that has no such folder. The same files give the same archive.
//!
//! What a repository ignores is left out, as are `.git` folders: `.gitignore` up to the top of the repository and its `.git/info/exclude` decide,
//! not what the user's own configuration ignores, which would make archives of two users differ. What git tracks is sent, ignored or not.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use ignore::WalkBuilder;
use tar::{Builder, EntryType, Header};

use super::local::{Local, repository, tracked};
use crate::{
    model::{Hint, Kind, SubmittedLayer, UserError},
    plan::{Plan, PlannedPath, PlannedSource},
    system::{
        files::{FileError, sha256_of_all},
        rooted::{Rooted, RootedError},
    },
};

/// What may be in one layer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files and links.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 100_000, bytes: 1 << 30 }
    }
}

/// A path layer, ready to be sent.
#[derive(Debug)]
pub struct PackedLayer {
    /// What a submission says of it.
    pub layer: SubmittedLayer,
    /// Where it stands.
    pub folder: PathBuf,
    /// What is in it, in the order of names.
    pub files: Vec<PackedFile>,
    /// The archive, from its beginning. It has no name, and goes with this value.
    pub archive: File,
}

/// A file of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFile {
    /// In the layer.
    pub path: PathBuf,
    /// In bytes; none for a link.
    pub size: Option<u64>,
}

/// Why a layer cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// No such folder.
    #[error("the layer `{name}` is not there: {} does not exist", path.display())]
    Missing {
        /// The layer.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// A symbolic link whose target is not sent.
    #[error("the layer `{name}` cannot be sent: its link {} leads out of it", path.display())]
    LinkOut {
        /// The layer.
        name: String,
        /// The link, in the layer.
        path: PathBuf,
    },
    /// Neither a file nor a folder nor a link.
    #[error("the layer `{name}` cannot be sent: {} is a {what}", path.display())]
    Special {
        /// The layer.
        name: String,
        /// In the layer.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// More than one submission should bring.
    #[error("the layer `{name}` cannot be sent: it holds more than {limit} {what}")]
    TooLarge {
        /// The layer.
        name: String,
        /// How many.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// A file that was written to meanwhile.
    #[error("the layer `{name}` cannot be sent: {} was changed while it was read", path.display())]
    Changed {
        /// The layer.
        name: String,
        /// In the layer.
        path: PathBuf,
    },
    /// The layer's folder cannot be walked through.
    #[error("cannot read the layer `{name}`")]
    Walk {
        /// The layer.
        name: String,
        /// What is wrong.
        source: ignore::Error,
    },
    /// Resolving links.
    #[error(transparent)]
    Rooted(#[from] RootedError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for PackError {
    fn kind(&self) -> Kind {
        match self {
            Self::Rooted(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Walk { source, .. } => source.io_error().map_or(Kind::Host, Kind::of_io),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Missing { .. } => vec![Hint::new("paths are relative to smidr.yaml")],
            Self::LinkOut { .. } => vec![Hint::new("put what it leads to into the layer")],
            Self::Special { .. } | Self::TooLarge { .. } => {
                vec![Hint::new("what its repository ignores (.gitignore) is not sent")]
            }
            Self::Changed { .. } => vec![Hint::new("start the build again")],
            Self::Walk { .. } | Self::Rooted(_) => Vec::new(),
            Self::File(error) => error.hints(),
        }
    }
}

/// Packs the path layers of a plan, and BitBake where it is a folder. `home` is the caller's; archives are written below `tmp`.
///
/// # Errors
///
/// The first layer that cannot be sent.
pub fn pack(plan: &Plan, home: &Path, tmp: &Path, limits: Limits) -> Result<Vec<PackedLayer>, PackError> {
    let folders = plan.sources().filter_map(|(name, source)| match source {
        PlannedSource::Path(path) => Some((name, path)),
        PlannedSource::Git(_) => None,
    });
    folders.map(|(name, path)| one(name, path, home, tmp, limits)).collect()
}

fn one(name: &str, path: &PlannedPath, home: &Path, tmp: &Path, limits: Limits) -> Result<PackedLayer, PackError> {
    let missing = |_| PackError::Missing { name: name.into(), path: path.folder.clone() };
    let folder = fs::canonicalize(&path.folder).map_err(missing)?;
    // Before its files are read: what changes afterwards is taken for a change, or is none.
    let pin = Local::find(name, path, home).pin;
    let mut packer = Packer {
        name,
        root: Rooted::open(&folder)?,
        files: Vec::new(),
        room: limits.bytes,
        limits,
        archive: Builder::new(BufWriter::new(tempfile::tempfile_in(tmp).map_err(FileError::new("write in", tmp))?)),
    };
    for path in paths(name, &folder, home, limits)? {
        packer.add(&folder, path)?;
    }
    let (files, mut archive) = packer.finish(tmp)?;
    let failed = || FileError::new("read an archive in", tmp);
    archive.rewind().map_err(failed())?;
    let (digest, size) = sha256_of_all(&archive).map_err(failed())?;
    archive.rewind().map_err(failed())?;
    let layer = SubmittedLayer { name: name.into(), digest, size, commit: pin.commit, dirty: pin.dirty };
    Ok(PackedLayer { layer, folder: path.folder.clone(), files, archive })
}

/// What of a folder is sent, relative to it.
fn paths(name: &str, folder: &Path, home: &Path, limits: Limits) -> Result<BTreeSet<PathBuf>, PackError> {
    let top = repository(folder, home);
    let is_taken = top.is_some();
    let mut walk = WalkBuilder::new(folder);
    walk.standard_filters(false).parents(is_taken).git_ignore(is_taken).git_exclude(is_taken);
    walk.filter_entry(|entry| entry.file_name() != ".git");
    let mut paths = BTreeSet::new();
    let mut take = |path: &Path| {
        paths.insert(path.strip_prefix(folder).unwrap_or(path).to_owned());
        match paths.len() > limits.files {
            true => Err(PackError::TooLarge { name: name.into(), limit: limits.files as u64, what: "files" }),
            false => Ok(()),
        }
    };
    for entry in walk.build() {
        let entry = entry.map_err(|source| PackError::Walk { name: name.into(), source })?;
        // Folders are made for what is in them.
        if !entry.file_type().is_none_or(|kind| kind.is_dir()) {
            take(entry.path())?;
        }
    }
    for path in top.iter().flat_map(|top| tracked(top, folder)) {
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir()) {
            take(&path)?;
        }
    }
    Ok(paths)
}

struct Packer<'a> {
    name: &'a str,
    root: Rooted,
    files: Vec<PackedFile>,
    room: u64,
    limits: Limits,
    archive: Builder<BufWriter<File>>,
}

impl Packer<'_> {
    fn add(&mut self, folder: &Path, path: PathBuf) -> Result<(), PackError> {
        let whole = folder.join(&path);
        let found = fs::symlink_metadata(&whole).map_err(FileError::new("look at", &whole))?;
        let size = match found.file_type() {
            kind if kind.is_symlink() => {
                self.add_link(&whole, &path)?;
                None
            }
            kind if kind.is_file() => Some(self.add_file(&whole, &path)?),
            _ => return Err(PackError::Special { name: self.name.into(), path, what: special(&found) }),
        };
        self.files.push(PackedFile { path, size });
        Ok(())
    }

    fn add_link(&mut self, whole: &Path, path: &Path) -> Result<(), PackError> {
        if self.root.leads_out(path) {
            return Err(PackError::LinkOut { name: self.name.into(), path: path.into() });
        }
        let target = fs::read_link(whole).map_err(FileError::new("read the link", whole))?;
        let mut header = header(EntryType::Symlink, 0o777, 0);
        let added = self.archive.append_link(&mut header, path, target);
        Ok(added.map_err(FileError::new("pack", whole))?)
    }

    fn add_file(&mut self, whole: &Path, path: &Path) -> Result<u64, PackError> {
        let file = self.root.open_file(path)?;
        let found = file.metadata().map_err(FileError::new("look at", whole))?;
        let size = found.len();
        let what = || PackError::TooLarge { name: self.name.into(), limit: self.limits.bytes, what: "bytes" };
        self.room = self.room.checked_sub(size).ok_or_else(what)?;
        let mode = if found.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let mut header = header(EntryType::Regular, mode, size);
        // One byte more tells whether it has grown.
        let mut input = BufReader::new(file).take(size + 1);
        let added = self.archive.append_data(&mut header, path, &mut (&mut input).take(size));
        added.map_err(FileError::new("pack", whole))?;
        let left = input.limit() - u64::try_from(io::copy(&mut input, &mut io::sink()).unwrap_or(0)).unwrap_or(0);
        match left {
            1 => Ok(size),
            _ => Err(PackError::Changed { name: self.name.into(), path: path.into() }),
        }
    }

    fn finish(self, tmp: &Path) -> Result<(Vec<PackedFile>, File), FileError> {
        let mut written = self.archive.into_inner().map_err(FileError::new("write in", tmp))?;
        written.flush().map_err(FileError::new("write in", tmp))?;
        let archive = written.into_inner().map_err(|error| FileError::new("write in", tmp)(error.into_error()))?;
        Ok((self.files, archive))
    }
}

/// A header without owner and time.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn special(found: &Metadata) -> &'static str {
    match found.file_type() {
        kind if kind.is_socket() => "socket",
        kind if kind.is_fifo() => "named pipe",
        kind if kind.is_dir() => "folder now, and was something else",
        _ => "device",
    }
}
