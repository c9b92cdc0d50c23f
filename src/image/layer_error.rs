//! Errors of a layer.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::limits::name_of;
use crate::{
    model::{Hint, Kind, Shown, UserError},
    system::rooted::RootedError,
};

/// Why a tar stream cannot be unpacked, or a tree cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream could not be read: a damaged compression, or a disk.
    #[error("cannot read the archive after {at} bytes of its content")]
    Read {
        /// Uncompressed bytes read before.
        at: u64,
        /// The reader's error.
        source: io::Error,
    },
    /// The stream ends too early.
    #[error("the archive is truncated: it ends after {0} bytes of its content")]
    Truncated(u64),
    /// The archive is malformed.
    #[error("the archive is damaged at byte {at} of its content: {why}")]
    Malformed {
        /// Uncompressed bytes before the damage.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A compression that image layers do not have; holds its name.
    #[error("it is compressed with {0}, which image layers are not")]
    Compression(&'static str),
    /// An entry is not acceptable.
    #[error("the archive's entry `{entry}` {why}")]
    Entry {
        /// Its path.
        entry: Name,
        /// What is wrong.
        why: &'static str,
    },
    /// A limit is reached.
    #[error("the archive's entry `{entry}` exceeds the limit for {what} ({limit})")]
    Limit {
        /// The entry's path.
        entry: Name,
        /// What is limited.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// The file system refused.
    #[error("cannot {call} `{path}`")]
    File {
        /// The system call.
        call: &'static str,
        /// Its path in the tree.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A path could not be resolved inside the tree.
    #[error("cannot place the archive's entry `{entry}`")]
    Place {
        /// The entry's path.
        entry: Name,
        /// Why.
        source: RootedError,
    },
}

/// The bytes of a name, escaped for a terminal.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(Vec<u8>);

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.iter().take(200).copied().collect())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.utf8_chunks() {
            write!(f, "{}", Shown::plain(part.valid()))?;
            for byte in part.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl LayerError {
    pub(super) fn file(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self + use<> {
        let path = path.to_path_buf();
        move |errno| Self::File { call, path, source: errno.into() }
    }

    pub(super) fn io(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::File { call, path, source }
    }
}

impl UserError for LayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::File { source, .. } => Kind::of_io(source),
            Self::Place { source, .. } => source.kind(),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        match self {
            Self::Limit { what, .. } => {
                let raise = |name| format!("smidr image pull (or import) … --limit {name}=NUMBER");
                name_of(what).map(|name| Hint::command("if you trust the image", raise(name))).into_iter().collect()
            }
            Self::File { source, .. } if full.contains(&source.kind()) => {
                vec![Hint::command("free some space where SMIDR_HOME is", "df -h")]
            }
            _ => Vec::new(),
        }
    }
}
