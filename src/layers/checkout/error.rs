//! Why a commit is not written out.

use std::{error::Error, fmt, io, path::PathBuf};

use crate::{
    layers::patch::PatchError,
    model::{CommitId, Kind, UserError},
    system::{
        files::{FileError, shell},
        lock::WaitError,
    },
};

/// Why a commit is not written out.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// An object is not there, or its content is not what its id says. Fetching the mirror anew is what helps.
    #[error("the object {object} in {mirror} is missing or damaged")]
    Damaged {
        /// Its id.
        object: String,
        /// The bare repository.
        mirror: PathBuf,
        /// What git's formats have to say about it.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// Somebody has written into one that is there.
    #[error("the checkout {folder} has been changed since it was made: {path} is younger")]
    Changed {
        /// The checkout.
        folder: PathBuf,
        /// The first thing that is not as it was: a file, or the folder in which something was made or removed.
        path: PathBuf,
    },
    /// A tree with a name that is a trap.
    #[error("{repository} holds `{path}`, a name that must not be written to a disk")]
    Name {
        /// The repository's address.
        repository: String,
        /// Where in it.
        path: String,
        /// What is wrong with it.
        source: gix::validate::path::component::Error,
    },
    /// A tree with two things of one name.
    #[error("{repository} holds two things called `{path}`")]
    Twice {
        /// The repository's address.
        repository: String,
        /// Where in it.
        path: String,
    },
    /// A tree with something that git does not know.
    #[error("{repository} holds `{path}` with mode {mode:o}, which git does not know")]
    Mode {
        /// The repository's address.
        repository: String,
        /// Where in it.
        path: String,
        /// Its mode.
        mode: u16,
    },
    /// A commit or a tree that nobody can read, though its content is what its id says.
    #[error("{repository} holds the object {object}, which is malformed")]
    Malformed {
        /// The repository's address.
        repository: String,
        /// The object.
        object: String,
    },
    /// More than there may be.
    #[error("{repository} holds more than {limit} {what}")]
    Limit {
        /// The repository's address.
        repository: String,
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// A symbolic link that leads out.
    #[error("{repository} holds the link `{link}` -> `{target}`, which leads out of it")]
    OutsideLink {
        /// The repository's address.
        repository: String,
        /// Where in it.
        link: String,
        /// What it holds.
        target: String,
    },
    /// A submodule that must not be followed.
    #[error("the submodule `{path}` of {repository} is refused: {why}")]
    Submodule {
        /// The repository's address.
        repository: String,
        /// Where in it.
        path: String,
        /// What is wrong with it.
        why: RefusedUrl,
    },
    /// A submodule that cannot be had.
    #[error("the submodule `{path}` of {repository} cannot be had")]
    Fetch {
        /// The repository's address.
        repository: String,
        /// Where in it.
        path: String,
        /// Whether its address is one beside that of the repository.
        relative: bool,
        /// What whoever was asked for it said.
        source: SubmoduleFailed,
    },
    /// Two names that are one on this file system.
    #[error("`{path}` is there twice on the file system of {folder}, which does not tell upper from lower case")]
    Collision {
        /// Where in the repository.
        path: String,
        /// Where it was written.
        folder: PathBuf,
    },
    /// gix, for another reason than the file system.
    #[error("cannot write out {commit} of {repository}")]
    Write {
        /// The repository's address.
        repository: String,
        /// What was to be written out.
        commit: CommitId,
        /// What it said.
        source: Box<gix::Error>,
    },
    /// What `.git` borrows could not be read or written.
    #[error("cannot prepare the git folder of {commit}")]
    Git {
        /// What was to be written out.
        commit: CommitId,
        /// What gix said.
        source: Box<gix::Error>,
    },
    /// The record of what was made.
    #[error("cannot write down what {commit} was made of")]
    Record {
        /// What was written out.
        commit: CommitId,
        /// What is in the way.
        source: serde_json::Error,
    },
    /// A patch.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// Somebody asked to stop.
    #[error("stopped while writing out {0}")]
    Stopped(CommitId),
    /// Waiting for others.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is wrong with the address of a submodule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedUrl {
    /// It could be taken for an option, or holds what no address does.
    #[error("`{0}` is not an address")]
    NoAddress(String),
    /// It names a program, or a way that layers are not fetched by.
    #[error("`{0}` is not https, http, ssh or git")]
    Scheme(String),
    /// A folder of this machine, named by a repository that comes from elsewhere.
    #[error("`{0}` is a folder of this machine, and the repository comes from elsewhere")]
    Local(String),
    /// More `..` than there are folders.
    #[error("`{0}` leads above the server")]
    Above(String),
    /// A name that would be a trap where git keeps submodules.
    #[error("it is called `{0}`")]
    Name(String),
    /// `.gitmodules` is no git configuration.
    #[error(".gitmodules cannot be read")]
    Unreadable,
}

/// Whatever went wrong with having a submodule.
#[derive(Debug)]
pub struct SubmoduleFailed(Box<dyn UserError + Send + Sync>);

impl SubmoduleFailed {
    /// Carries the error of whoever was asked for it.
    pub fn new(error: impl UserError + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for SubmoduleFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for SubmoduleFailed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl CheckoutError {
    /// What gix could not do: the file system's fault, if it says so.
    pub(super) fn of_gix(error: gix::Error, action: &'static str, path: &std::path::Path) -> Result<Self, gix::Error> {
        let code = error.downcast_any_ref::<io::Error>().and_then(io::Error::raw_os_error);
        match code {
            Some(code) => Ok(FileError::new(action, path)(io::Error::from_raw_os_error(code)).into()),
            None => Err(error),
        }
    }
}

/// What helps where a submodule cannot be had. No patch does: patches are put on top of all submodules.
fn ways(path: &str, relative: bool) -> String {
    let mirror = match relative {
        true => "name a mirror of its repository that has it beside itself, in `mirrors:`, or ",
        false => "",
    };
    format!(
        "{mirror}do without it: take a branch of the repository whose .gitmodules says `update = none` for `{path}`"
    )
}

impl UserError for CheckoutError {
    fn kind(&self) -> Kind {
        match self {
            Self::Damaged { .. } | Self::Malformed { .. } => Kind::Outside,
            Self::Name { .. }
            | Self::Twice { .. }
            | Self::Mode { .. }
            | Self::Limit { .. }
            | Self::OutsideLink { .. }
            | Self::Submodule { .. } => Kind::Request,
            Self::Changed { .. }
            | Self::Collision { .. }
            | Self::Write { .. }
            | Self::Git { .. }
            | Self::Record { .. } => Kind::Host,
            Self::Fetch { source, .. } => source.0.kind(),
            Self::Patch(error) => error.kind(),
            Self::Stopped(_) => Kind::Cancelled,
            Self::Wait(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::OutsideLink { .. } => {
                Some("if you trust it, write `outside_links: true` beside its `git:` in smidr.yaml".into())
            }
            Self::Changed { folder, .. } => Some(format!(
                "all projects share it: keep changes as a patch, or in a layer of `path:`. It is made anew after  rm -rf {}",
                shell(folder)
            )),
            Self::Collision { .. } => Some("keep layers elsewhere:  export SMIDR_HOME=DIR".into()),
            Self::Fetch { path, relative, source, .. } => {
                let ways = matches!(source.0.kind(), Kind::Outside | Kind::Request).then(|| ways(path, *relative));
                let all: Vec<String> = source.0.hint().into_iter().chain(ways).collect();
                (!all.is_empty()).then(|| all.join("\n"))
            }
            Self::Patch(error) => error.hint(),
            Self::Wait(error) => error.hint(),
            Self::File(error) => error.hint(),
            _ => None,
        }
    }
}
