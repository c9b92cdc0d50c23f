//! Limits for copies of a build's files. A build may fill its own folders; copies stay within the free space less a reserve, so that
//! they never fill the disk of SMIDR_HOME.

use std::path::{Path, PathBuf};

use crate::{model::Hint, system::files::FileError};

/// The reserve: the smaller of this, in bytes, and a twentieth of the disk.
const RESERVE: u64 = 1 << 30;

/// Files that are kept of one build. Each is an entry in the manifest and in the history.
const FILES: u64 = 250_000;

/// The length of all kept files, holes included, in bytes: every byte of an artifact is hashed.
const LENGTH: u64 = 1 << 40;

/// What may still be kept of one build. Checked before a file is copied.
#[derive(Debug)]
pub(crate) struct Room {
    place: PathBuf,
    bytes: u64,
    all_bytes: u64,
    length: u64,
    files: u64,
}

/// The limit that was reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Spent {
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
    #[error("at most {FILES} files of a build are kept")]
    Files,
}

impl Spent {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Hint {
        const LESS: &str = "keep less of the build (`artifacts:` in smidr.yaml)";
        match self {
            Self::Disk { place, .. } => {
                Hint::command(format!("{LESS}, or free some space"), format!("df -h {}", place.display()))
            }
            Self::Length | Self::Files => Hint::new(LESS),
        }
    }
}

impl Room {
    /// What is free on the disk of this folder, less the reserve.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn on(place: &Path) -> Result<Self, FileError> {
        let found = rustix::fs::statvfs(place)
            .map_err(|errno| FileError::new("measure the free space of", place)(errno.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let reserve = RESERVE.min(bytes(found.f_blocks) / 20);
        Ok(Self::of(bytes(found.f_bavail).saturating_sub(reserve), place))
    }

    /// So many bytes.
    pub(crate) fn of(bytes: u64, place: &Path) -> Self {
        Self { place: place.into(), bytes, all_bytes: bytes, length: LENGTH, files: FILES }
    }

    /// How many files may still be kept.
    pub(crate) fn files_left(&self) -> u64 {
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
