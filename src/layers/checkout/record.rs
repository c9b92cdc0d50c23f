//! The record of a checkout: a small file in its `.git`, written last.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    lock::PatchPin,
    model::CommitId,
    system::{crash_check, files, files::FileError},
};

const FILE: &str = ".git/smidr.json";

/// The version of the format of checkouts.
pub(super) const VERSION: u32 = 1;

/// The youngest entry of a checkout, and its time. git's own folders are not looked at.
///
/// # Errors
///
/// When an entry cannot be looked at.
pub(super) fn youngest(folder: &Path) -> Result<Option<(SystemTime, PathBuf)>, FileError> {
    let mut youngest: Option<(SystemTime, PathBuf)> = None;
    for entry in walkdir::WalkDir::new(folder).into_iter().filter_entry(|entry| entry.file_name() != ".git") {
        let looked = entry.and_then(|entry| Ok((entry.metadata()?.modified(), entry)));
        let (modified, entry) = looked.map_err(|error| FileError::new("look through", folder)(error.into()))?;
        let modified = modified.map_err(FileError::new("look at", entry.path()))?;
        if youngest.as_ref().is_none_or(|(known, _)| *known < modified) {
            youngest = Some((modified, entry.into_path()));
        }
    }
    Ok(youngest)
}

/// What a checkout was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The version of the format.
    pub version: u32,
    /// Where it came from.
    pub url: String,
    /// The commit.
    pub commit: CommitId,
    /// Its patches.
    pub patches: Vec<PatchPin>,
    /// The mirrors that its objects are in.
    pub borrowed: Vec<PathBuf>,
    /// A link that leads out, and its target.
    pub outside: Option<(String, String)>,
    /// Bytes of all files.
    pub bytes: u64,
    /// The time of the youngest entry, by the clock of its file system. Records of an earlier version lack it.
    #[serde(default)]
    pub sealed: Option<Timestamp>,
}

impl Record {
    /// The record of a checkout that is complete.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let record = Self::read(folder)?;
        let whole = crash_check::is_whole(&folder.join(".git"), folder);
        whole.then_some(record)
    }

    /// The record, without a check of the checkout.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let bytes = fs::read(folder.join(FILE)).ok()?;
        serde_json::from_slice::<Self>(&bytes).ok().filter(|record| record.version == VERSION)
    }

    /// Writes it, which marks the checkout as complete. The checkout must not be written to afterwards.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn seal(&self, folder: &Path, text: &[u8]) -> Result<(), FileError> {
        files::write_atomically(&folder.join(FILE), text, 0o644)?;
        crash_check::mark(&folder.join(".git"), folder)
    }

    /// Records a use.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn touch(folder: &Path) -> Result<(), FileError> {
        let path = folder.join(FILE);
        let touch = || fs::File::options().write(true).open(&path)?.set_modified(SystemTime::now());
        touch().map_err(FileError::new("note the use of", &path))
    }

    /// When it was last used.
    pub(crate) fn used(folder: &Path) -> io::Result<Timestamp> {
        let modified = fs::metadata(folder.join(FILE))?.modified()?;
        Timestamp::try_from(modified).map_err(io::Error::other)
    }
}
