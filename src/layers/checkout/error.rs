//! Why a commit cannot be written out.

use std::{error::Error, fmt, io, path::PathBuf};

use crate::{
    layers::patch::PatchError,
    model::{CommitId, Hint, Kind, UserError},
    system::{
        files::{FileError, shell},
        lock::WaitError,
    },
};

/// Why a commit cannot be written out.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// An object is missing, or its content does not have its id. Replacing the mirror helps.
    #[error("the object {object} in {mirror} is missing or damaged")]
    Damaged {
        /// Its id.
        object: String,
        /// The bare repository.
        mirror: PathBuf,
        /// What gix says about its format.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A finished checkout has been written to.
    #[error("the checkout {folder} has been changed since it was made: {path} is younger")]
    Changed {
        /// The checkout.
        folder: PathBuf,
        /// The first difference: a file, or the folder in which something was made or removed.
        path: PathBuf,
    },
    /// A tree with a dangerous name.
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
    /// A commit or a tree that cannot be parsed, though its content has its id.
    #[error("{repository} holds the object {object}, which is malformed")]
    Malformed {
        /// The repository's address.
        repository: String,
        /// The object.
        object: String,
    },
    /// A limit was reached.
    #[error("{repository} holds more than {limit} {what}")]
    Limit {
        /// The repository's address.
        repository: String,
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A symbolic link that leads out of the repository.
    #[error("{repository} holds the link `{link}` -> `{target}`, which leads out of it")]
    OutsideLink {
        /// The repository's address.
        repository: String,
        /// Where in it.
        link: String,
        /// Its target.
        target: String,
    },
    /// A submodule with a dangerous address or name.
    #[error("the submodule `{path}` of {repository} is refused: {why}")]
    Submodule {
        /// The repository's address.
        repository: String,
        /// Where in the checkout.
        path: String,
        /// What to write in smidr.yaml to do without it.
        without: String,
        /// What is wrong with it.
        why: RefusedUrl,
    },
    /// The config names a submodule that is not there.
    #[error("{repository} has no submodule `{path}`, which `submodules:` names")]
    NoSubmodule {
        /// The repository's address.
        repository: String,
        /// What the config names.
        path: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// A submodule that cannot be fetched.
    #[error("the submodule `{path}` of {repository} cannot be fetched")]
    Fetch {
        /// The repository's address.
        repository: String,
        /// Where in the checkout.
        path: String,
        /// Whether its address is relative to that of the repository.
        relative: bool,
        /// What to write in smidr.yaml to do without it.
        without: String,
        /// The error of the fetch.
        source: SubmoduleFailed,
    },
    /// Two names that are one name on this file system.
    #[error("`{path}` is there twice on the file system of {folder}, which does not tell upper from lower case")]
    Collision {
        /// Where in the repository.
        path: String,
        /// The folder.
        folder: PathBuf,
    },
    /// gix failed for another reason than the file system.
    #[error("cannot write out {commit} of {repository}")]
    Write {
        /// The repository's address.
        repository: String,
        /// The commit.
        commit: CommitId,
        /// gix's error.
        source: Box<gix::Error>,
    },
    /// The refs or objects that `.git` borrows could not be read or written.
    #[error("cannot prepare the git folder of {commit}")]
    Git {
        /// The commit.
        commit: CommitId,
        /// gix's error.
        source: Box<gix::Error>,
    },
    /// The record could not be written.
    #[error("cannot write down what {commit} was made of")]
    Record {
        /// The commit.
        commit: CommitId,
        /// The cause.
        source: serde_json::Error,
    },
    /// A patch.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// A stop was requested.
    #[error("stopped while writing out {0}")]
    Stopped(CommitId),
    /// A lock.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is wrong with the address of a submodule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedUrl {
    /// It could be taken for an option, or has characters that no address has.
    #[error("`{0}` is not an address")]
    NoAddress(String),
    /// It names a program, or a transport that is not used for layers.
    #[error("`{0}` is not https, http, ssh or git")]
    Scheme(String),
    /// A folder of this machine, named by a repository from elsewhere.
    #[error("`{0}` is a folder of this machine, and the repository comes from elsewhere")]
    Local(String),
    /// More `..` than there are folders.
    #[error("`{0}` leads above the server")]
    Above(String),
    /// A name that is dangerous in git's own folder of submodules.
    #[error("it is called `{0}`")]
    Name(String),
    /// `.gitmodules` is not a git configuration.
    #[error(".gitmodules cannot be read")]
    Unreadable,
}

/// Any error of fetching a submodule.
#[derive(Debug)]
pub struct SubmoduleFailed(Box<dyn UserError + Send + Sync>);

impl SubmoduleFailed {
    /// Wraps the error of the fetch.
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
    /// gix's error, or that of the file system behind it.
    pub(super) fn of_gix(error: gix::Error, action: &'static str, path: &std::path::Path) -> Result<Self, gix::Error> {
        let code = error.downcast_any_ref::<io::Error>().and_then(io::Error::raw_os_error);
        match code {
            Some(code) => Ok(FileError::new(action, path)(io::Error::from_raw_os_error(code)).into()),
            None => Err(error),
        }
    }
}

/// What helps where a submodule cannot be fetched.
fn ways(relative: bool, without: &str) -> Hint {
    let mirror = match relative {
        true => "name a mirror of its repository that has it beside itself, in `mirrors:`, or ",
        false => "",
    };
    Hint::config(format!("{mirror}if its layers can do without it, write beside the repository's `git:`"), without)
}

impl UserError for CheckoutError {
    fn kind(&self) -> Kind {
        match self {
            Self::Damaged { .. } | Self::Malformed { .. } => Kind::Outside,
            Self::Name { .. }
            | Self::Twice { .. }
            | Self::Limit { .. }
            | Self::OutsideLink { .. }
            | Self::Submodule { .. }
            | Self::NoSubmodule { .. } => Kind::Request,
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

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::OutsideLink { .. } => {
                vec![Hint::new("if you trust it, write `outside_links: true` beside its `git:` in smidr.yaml")]
            }
            Self::Changed { folder, .. } => vec![Hint::command(
                "all projects share it: keep changes as a patch, or in a layer of `path:`; then have it made anew",
                format!("rm -rf {}", shell(folder)),
            )],
            Self::Collision { .. } => vec![Hint::command("keep layers elsewhere", "export SMIDR_HOME=DIR")],
            Self::Submodule { without, .. } => vec![ways(false, without)],
            Self::NoSubmodule { known, .. } if known.is_empty() => vec![Hint::new("it has none")],
            Self::NoSubmodule { known, .. } => vec![Hint::new(format!("there is {}", known.join(", ")))],
            Self::Fetch { relative, without, source, .. } => {
                let ways = matches!(source.0.kind(), Kind::Outside | Kind::Request).then(|| ways(*relative, without));
                source.0.hints().into_iter().chain(ways).collect()
            }
            Self::Patch(error) => error.hints(),
            Self::Wait(error) => error.hints(),
            Self::File(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}
