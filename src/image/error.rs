//! What can go wrong with images.

use std::path::PathBuf;

use super::{layer_error::LayerError, name::ImageName, registry::RegistryError};
use crate::{
    model::{Digest, Kind, UserError},
    system::{files::FileError, lock::WaitError, rooted::RootedError},
};

/// Why something could not be done with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store cannot be read or written.
    #[error("cannot use the image store")]
    Store(#[from] FileError),
    /// A part of the store is in use.
    #[error(transparent)]
    Lock(#[from] WaitError),
    /// The store belongs to somebody else.
    #[error("the image store {path} belongs to the user with the id {owner}, not to {me}")]
    Foreign {
        /// The store.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who runs smidr.
        me: u32,
    },
    /// A registry did not give, or take, what it was asked for.
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
        /// Who uses it.
        holder: String,
    },
    /// The source is no image.
    #[error("{path} {why}")]
    NoImage {
        /// What was to be imported.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// The source cannot be read.
    #[error("cannot read {path}")]
    Source {
        /// What was to be imported.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A part of the source cannot be found or read in it.
    #[error("cannot read `{part}` of {path}")]
    Part {
        /// What was to be imported.
        path: PathBuf,
        /// The file in it.
        part: String,
        /// Why.
        source: RootedError,
    },
    /// The source as an archive is damaged.
    #[error("cannot read {path}")]
    Archive {
        /// What was to be imported.
        path: PathBuf,
        /// Why.
        source: LayerError,
    },
    /// What a registry served is not what it should be.
    #[error(transparent)]
    Served(Box<ImageError>),
    /// Bytes stopped coming.
    #[error("cannot read {what}")]
    Receive {
        /// What was read.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A layer is damaged, or asks for what no layer may.
    #[error("cannot unpack {what}")]
    Layer {
        /// Which, and where it came from.
        what: String,
        /// Why.
        source: LayerError,
    },
    /// A tree could not become a layer.
    #[error("cannot pack the new layer of `{name}`")]
    Pack {
        /// The new image.
        name: ImageName,
        /// Why.
        source: LayerError,
    },
    /// The content is not what its digest promises.
    #[error("{what} is damaged: its digest should be {wanted} and is {found}")]
    Digest {
        /// What was read.
        what: String,
        /// As promised.
        wanted: Digest,
        /// As read.
        found: Digest,
    },
    /// The content is not as long as its descriptor promises.
    #[error("{what} is damaged: it should have {wanted} bytes and has {found}")]
    Size {
        /// What was read.
        what: String,
        /// As promised.
        wanted: u64,
        /// As read, or one more than wanted where reading stopped.
        found: u64,
    },
    /// A document of an image is not in the store any more.
    #[error("{0} is missing from the store")]
    Missing(String),
    /// A document is larger than it may be.
    #[error("{what} has {size} bytes, which exceeds the limit of {limit} for such a document")]
    TooLarge {
        /// Which.
        what: String,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// A document is no JSON of the right shape.
    #[error("cannot understand {what}")]
    Json {
        /// Which.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document says what it must not.
    #[error("{what} {why}")]
    Document {
        /// Which.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The destination of an export is there already.
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

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(source) | Self::Export { source, .. } => source.hint(),
            Self::Lock(source) => source.hint(),
            Self::Registry(source) => source.hint(),
            Self::Served(_) => Some("pull again; if that does not help, tell whoever publishes the image".into()),
            Self::Receive { source, .. } => RegistryError::of(source).and_then(UserError::hint),
            Self::Foreign { .. } => Some("use a store of your own:  export SMIDR_HOME=DIR".into()),
            Self::Unknown(_) => Some("see what there is:  smidr image ls".into()),
            Self::InUse { .. } => Some("see what runs:  smidr status".into()),
            Self::Exists(path) => {
                let path = path.display().to_string();
                Some(format!("choose another name, or:  rm -r {}", shlex::try_quote(&path).unwrap_or_default()))
            }
            Self::Archive { source: LayerError::Truncated(_), .. }
            | Self::Layer { source: LayerError::Truncated(_), .. } => {
                Some("the file is incomplete: copy or download it again".into())
            }
            Self::Missing(_) => Some("mend the store:  smidr image verify --repair".into()),
            Self::Archive { source, .. } | Self::Layer { source, .. } | Self::Pack { source, .. } => source.hint(),
            Self::Digest { .. } | Self::Size { .. } => Some("copy or download the image again".into()),
            _ => None,
        }
    }
}
