//! How much of this machine's disk a build's copies may take. A build fills its own folders as it likes; what smidr copies out of them
//! stays within what is free, less a reserve, so that the disk of SMIDR_HOME is never full because of a copy.

use std::path::{Path, PathBuf};

use crate::system::files::FileError;

/// What stays free in any case: the smaller of this, in bytes, and a twentieth of the disk.
const RESERVE: u64 = 1 << 30;

/// Files that are kept of one build. Each is an entry in the manifest and in the history.
const FILES: u64 = 250_000;

/// The length of all kept files, holes included, in bytes: every byte of an artifact is hashed.
const LENGTH: u64 = 1 << 40;

/// What may still be kept of one build. It is asked before a file is copied.
#[derive(Debug)]
pub struct Room {
    place: PathBuf,
    bytes: u64,
    all_bytes: u64,
    length: u64,
    files: u64,
}

/// What there is no more room for.
#[derive(Debug, thiserror::Error)]
pub enum Spent {
    /// Blocks on the disk.
    #[error("copies of this build may take {may} bytes of the disk of {place}, which keeps a reserve free")]
    Disk {
        /// In bytes.
        may: u64,
        /// A folder on it.
        place: PathBuf,
    },
    /// Bytes to be hashed.
    #[error("all artifacts together may be {LENGTH} bytes long, holes included")]
    Length,
    /// Files.
    #[error("{FILES} files of a build are kept at most")]
    Files,
}

impl Spent {
    /// What to do about it.
    pub fn hint(&self) -> String {
        const LESS: &str = "keep less of the build (`artifacts:` in smidr.yaml)";
        match self {
            Self::Disk { place, .. } => format!("{LESS}, or free some space:  df -h {}", place.display()),
            Self::Length | Self::Files => LESS.into(),
        }
    }
}

impl Room {
    /// What is free on the disk of this folder, less the reserve.
    ///
    /// # Errors
    ///
    /// When the file system does not say.
    pub fn on(place: &Path) -> Result<Self, FileError> {
        let found = rustix::fs::statvfs(place)
            .map_err(|errno| FileError::new("measure the free space of", place)(errno.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let reserve = RESERVE.min(bytes(found.f_blocks) / 20);
        Ok(Self::of(bytes(found.f_bavail).saturating_sub(reserve), place))
    }

    /// So many bytes.
    pub fn of(bytes: u64, place: &Path) -> Self {
        Self { place: place.into(), bytes, all_bytes: bytes, length: LENGTH, files: FILES }
    }

    /// How many files may still be kept.
    pub fn files_left(&self) -> u64 {
        self.files
    }

    /// One more file or link.
    pub(super) fn file(&mut self) -> Result<(), Spent> {
        self.files = self.files.checked_sub(1).ok_or(Spent::Files)?;
        Ok(())
    }

    /// So many bytes on the disk.
    pub(super) fn data(&mut self, bytes: u64) -> Result<(), Spent> {
        let spent = || Spent::Disk { may: self.all_bytes, place: self.place.clone() };
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(spent)?;
        Ok(())
    }

    /// So many bytes to be hashed.
    pub(super) fn hashed(&mut self, bytes: u64) -> Result<(), Spent> {
        self.length = self.length.checked_sub(bytes).ok_or(Spent::Length)?;
        Ok(())
    }
}
