//! Errors of the image store.

use std::path::PathBuf;

use super::{layer_error::LayerError, name::ImageName, registry::error::RegistryError};
use crate::{
    model::{Digest, Hint, Kind, UserError},
    system::{files::FileError, lock::WaitError, rooted::RootedError},
};

/// Why an operation on an image failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store cannot be read or written.
    #[error("cannot use the image store")]
    Store(#[from] FileError),
    /// A part of the store is in use.
    #[error(transparent)]
    Lock(#[from] WaitError),
    /// The store belongs to another user.
    #[error("the image store {path} belongs to the user with the id {owner}, not to {me}")]
    Foreign {
        /// The store.
        path: PathBuf,
        /// The uid of its owner.
        owner: u32,
        /// The uid of this process.
        me: u32,
    },
    /// A registry refused or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// No image has this name.
    #[error("there is no image `{0}` in the store")]
    Unknown(String),
    /// A build uses the image.
    #[error("the image `{name}` is in use by {holder}")]
    InUse {
        /// Its name.
        name: ImageName,
        /// The build that uses it.
        holder: String,
    },
    /// The source is not an image.
    #[error("{path} {why}")]
    NoImage {
        /// The path that was to be imported.
        path: PathBuf,
        /// Why it is not one.
        why: String,
    },
    /// The source cannot be read.
    #[error("cannot read {path}")]
    Source {
        /// The path that was to be imported.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A part of the source cannot be found or read in it.
    #[error("cannot read `{part}` of {path}")]
    Part {
        /// The path that was to be imported.
        path: PathBuf,
        /// The file in it.
        part: String,
        /// Why.
        source: RootedError,
    },
    /// The source as an archive is damaged.
    #[error("cannot read {path}")]
    Archive {
        /// The path that was to be imported.
        path: PathBuf,
        /// Why.
        source: LayerError,
    },
    /// A registry's content is not as promised.
    #[error(transparent)]
    Served(Box<ImageError>),
    /// A stream ended with an error.
    #[error("cannot read {what}")]
    Receive {
        /// The layer or blob.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A layer is damaged, or not acceptable.
    #[error("cannot unpack {what}")]
    Layer {
        /// The layer, and where it came from.
        what: String,
        /// Why.
        source: LayerError,
    },
    /// A tree cannot be packed.
    #[error("cannot pack the new layer of `{name}`")]
    Pack {
        /// The new image.
        name: ImageName,
        /// Why.
        source: LayerError,
    },
    /// The content has another digest than promised.
    #[error("{what} is damaged: its digest should be {wanted} and is {found}")]
    Digest {
        /// The blob.
        what: String,
        /// As promised.
        wanted: Digest,
        /// As read.
        found: Digest,
    },
    /// The content has another size than its descriptor says.
    #[error("{what} is damaged: it should have {wanted} bytes and has {found}")]
    Size {
        /// The blob.
        what: String,
        /// As promised.
        wanted: u64,
        /// As read; one more than wanted where reading stopped.
        found: u64,
    },
    /// A document of an image is no longer in the store.
    #[error("{0} is missing from the store")]
    Missing(String),
    /// A document exceeds its limit.
    #[error("{what} has {size} bytes, which exceeds the limit of {limit} for such a document")]
    TooLarge {
        /// Which.
        what: String,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// A document is not JSON of the right shape.
    #[error("cannot understand {what}")]
    Json {
        /// Which.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document has an unacceptable content.
    #[error("{what} {why}")]
    Document {
        /// Which.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The destination of an export exists already.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The destination of an export cannot be written.
    #[error("cannot export to {path}")]
    Export {
        /// The destination.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
}

impl UserError for ImageError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(source) | Self::Export { source, .. } => source.kind(),
            Self::Lock(source) => source.kind(),
            Self::Registry(source) => source.kind(),
            Self::Served(_) => Kind::Outside,
            Self::Receive { source, .. } => {
                RegistryError::of(source).map_or_else(|| Kind::of_io(source), UserError::kind)
            }
            Self::Foreign { .. } => Kind::Host,
            Self::Part { source, .. } => source.kind(),
            Self::Source { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Kind::Request,
                _ => Kind::of_io(source),
            },
            Self::Archive { source, .. } | Self::Layer { source, .. } | Self::Pack { source, .. } => source.kind(),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Store(source) | Self::Export { source, .. } => source.hints(),
            Self::Lock(source) => source.hints(),
            Self::Registry(source) => source.hints(),
            Self::Served(_) => vec![Hint::new("pull again; if that does not help, tell its publisher")],
            Self::Receive { source, .. } => RegistryError::of(source).map(UserError::hints).unwrap_or_default(),
            Self::Foreign { .. } => vec![Hint::command("use a store of your own", "export SMIDR_HOME=DIR")],
            Self::Unknown(_) => vec![Hint::command("see what there is", "smidr image ls")],
            Self::InUse { .. } => vec![Hint::command("see what runs", "smidr status")],
            Self::Exists(path) => {
                let path = path.display().to_string();
                vec![Hint::command(
                    "choose another name, or",
                    format!("rm -r {}", shlex::try_quote(&path).unwrap_or_default()),
                )]
            }
            Self::Archive { source: LayerError::Truncated(_), .. }
            | Self::Layer { source: LayerError::Truncated(_), .. } => {
                vec![Hint::new("the file is incomplete: copy or download it again")]
            }
            Self::Missing(_) => vec![Hint::command("mend the store", "smidr image verify --repair")],
            Self::Archive { source, .. } | Self::Layer { source, .. } | Self::Pack { source, .. } => source.hints(),
            Self::Digest { .. } | Self::Size { .. } => vec![Hint::new("copy or download the image again")],
            _ => Vec::new(),
        }
    }
}
