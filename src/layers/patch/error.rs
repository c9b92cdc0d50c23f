//! Why a patch cannot be applied.

use std::path::PathBuf;

use crate::{
    model::{Hint, Kind, UserError},
    system::files::FileError,
};

/// Which side has lines that end in CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnds {
    /// The patch.
    Patch,
    /// The file.
    File,
}

/// Why a patch cannot be applied.
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
    /// More bytes of files than may be held in memory.
    #[error("{patch} goes through more than {limit} bytes of files, at `{file}`")]
    TooMuch {
        /// As the config has it.
        patch: String,
        /// Where the limit was reached.
        file: String,
        /// In bytes.
        limit: u64,
    },
    /// Not a patch.
    #[error("{patch} is not a patch that smidr can read")]
    Malformed {
        /// As the config has it.
        patch: String,
        /// The parser's error.
        source: Box<diffy::patch_set::PatchSetParseError>,
    },
    /// A mail in a transfer encoding.
    #[error("{patch} is a mail in {encoding}, which smidr does not decode")]
    Encoded {
        /// As the config has it.
        patch: String,
        /// As the mail calls it.
        encoding: &'static str,
    },
    /// Hunks outside of any file, or damaged ones.
    #[error("{patch} has {of} hunks, of which only {found} can be read")]
    LostHunk {
        /// As the config has it.
        patch: String,
        /// How many were parsed.
        found: usize,
        /// How many headers of hunks there are.
        of: usize,
    },
    /// A path that must not be written.
    #[error("{patch} names `{file}`, which it must not change")]
    Name {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// A path without the first component that is removed from each.
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
    /// Another type than the patch says, such as a link instead of a file.
    #[error("{patch} does not apply: `{file}` is something else than the patch says")]
    Type {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
    },
    /// Lines of the hunk are not in the file.
    #[error("{patch} does not apply to `{file}`: its lines are not there, at {hunk}")]
    Hunk {
        /// As the config has it.
        patch: String,
        /// The file.
        file: String,
        /// The hunk's header.
        hunk: String,
        /// Which side has lines that end in CRLF, where only one has.
        crlf: Option<LineEnds>,
    },
    /// A file that should be removed has further content.
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

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Missing { .. } => vec![Hint::new("paths are relative to smidr.yaml")],
            Self::Malformed { .. } => {
                vec![Hint::command("make it in the repository", "git format-patch -1")]
            }
            Self::Encoded { .. } => {
                vec![Hint::command("take it from the repository instead", "git format-patch --stdout")]
            }
            Self::Prefix { .. } => {
                vec![Hint::command("make it in the repository, without --no-prefix", "git format-patch -1")]
            }
            Self::Hunk { crlf: Some(LineEnds::Patch), .. } => {
                vec![Hint::command(
                    "its lines end in CRLF, those of the file do not; take that out",
                    "sed -i 's/\\r$//' PATCH",
                )]
            }
            Self::Hunk { crlf: Some(LineEnds::File), .. } => vec![Hint::command(
                "the lines of the file end in CRLF, those of the patch do not any more; make it anew, and send it as a file",
                "git format-patch -1",
            )],
            Self::NoFile { .. } | Self::Exists { .. } | Self::Type { .. } | Self::Hunk { .. } | Self::Left { .. } => {
                vec![Hint::command("make it anew on top of the commit in smidr.lock", "git format-patch -1")]
            }
            Self::Binary { .. } => vec![Hint::new(
                "commit the file to a branch of the repository and name that in smidr.yaml, or put it into a layer of your own",
            )],
            Self::File(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}
