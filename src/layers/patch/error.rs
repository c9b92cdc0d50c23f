//! Why a patch cannot be put on top.

use std::path::PathBuf;

use crate::{
    model::{Kind, UserError},
    system::files::FileError,
};

/// Whose lines end in CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnds {
    /// Those of the patch.
    Patch,
    /// Those of the file.
    File,
}

/// Why a patch cannot be put on top.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// No such file.
    #[error("the patch {patch} is not there: {path} does not exist")]
    Missing {
        /// As the config has it.
        patch: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// Too large.
    #[error("the patch {patch} is larger than {limit} bytes")]
    TooLarge {
        /// As the config has it.
        patch: String,
        /// In bytes.
        limit: u64,
    },
    /// Files that fill any memory.
    #[error("{patch} goes through more than {limit} bytes of files, at `{file}`")]
    TooMuch {
        /// As the config has it.
        patch: String,
        /// Where the limit was reached.
        file: String,
        /// In bytes.
        limit: u64,
    },
    /// No patch.
    #[error("{patch} is no patch that smidr can read")]
    Malformed {
        /// As the config has it.
        patch: String,
        /// Where the trouble is.
        source: Box<diffy::patch_set::PatchSetParseError>,
    },
    /// A mail as it was sent, rather than as it was written.
    #[error("{patch} is a mail in {encoding}, which smidr does not decode")]
    Encoded {
        /// As the config has it.
        patch: String,
        /// As the mail calls it.
        encoding: &'static str,
    },
    /// Hunks that belong to no file, or stand behind something that is none.
    #[error("{patch} has {of} hunks, of which only {found} can be read")]
    LostHunk {
        /// As the config has it.
        patch: String,
        /// How many were understood.
        found: usize,
        /// How many there seem to be.
        of: usize,
    },
    /// A name that must not be written.
    #[error("{patch} names `{file}`, which it must not change")]
    Name {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// A name without the part that is taken away from each.
    #[error("{patch} names `{file}`, and its paths need the form `a/{file}`")]
    Prefix {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// A file behind a symbolic link.
    #[error("{patch} names `{file}`, which is behind a symbolic link")]
    Link {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// A file that is not there.
    #[error("{patch} does not apply: there is no `{file}`")]
    NoFile {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// A file that is there already.
    #[error("{patch} does not apply: `{file}` is there already")]
    Exists {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// Something else than a file, or a link instead of one.
    #[error("{patch} does not apply: `{file}` is something else than the patch says")]
    Type {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// Lines that are not there.
    #[error("{patch} does not apply to `{file}`: its lines are not there, at {hunk}")]
    Hunk {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
        /// The hunk's header.
        hunk: String,
        /// Whose lines end in CRLF, where only those of one of both do.
        crlf: Option<LineEnds>,
    },
    /// A removed file that has more in it.
    #[error("{patch} does not apply: it removes `{file}`, which holds more than the patch knows")]
    Left {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// A change of a binary file, with its content or without.
    #[error("{patch} changes the binary file `{file}`, and only changes of text are applied")]
    Binary {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// Submodules have no content that a patch could change.
    #[error("{patch} changes the submodule `{file}`, which a patch cannot do here")]
    Submodule {
        /// As the config has it.
        patch: String,
        /// The submodule.
        file: String,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for PatchError {
    fn kind(&self) -> Kind {
        match self {
            Self::File(error) => error.kind(),
            _ => Kind::Request,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some("paths are relative to smidr.yaml".into()),
            Self::Malformed { .. } => {
                Some("make it in the repository:  git format-patch -1".into())
            }
            Self::Encoded { .. } => Some("take it from the repository instead:  git format-patch --stdout".into()),
            Self::Prefix { .. } => Some("make it in the repository, without --no-prefix:  git format-patch -1".into()),
            Self::Hunk { crlf: Some(LineEnds::Patch), .. } => {
                Some("its lines end in CRLF, those of the file do not; take that out:  sed -i 's/\\r$//' PATCH".into())
            }
            Self::Hunk { crlf: Some(LineEnds::File), .. } => Some(
                "the lines of the file end in CRLF, those of the patch do not any more; make it anew, and send it as a file:  git format-patch -1".into(),
            ),
            Self::NoFile { .. } | Self::Exists { .. } | Self::Type { .. } | Self::Hunk { .. } | Self::Left { .. } => {
                Some("make it anew on top of the commit in smidr.lock:  git format-patch -1".into())
            }
            Self::Binary { .. } => Some(
                "commit the file to a branch of the repository and name that in smidr.yaml, or put it into a layer of your own".into(),
            ),
            Self::File(error) => error.hint(),
            _ => None,
        }
    }
}
