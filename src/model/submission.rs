//! Everything that a build is asked with, as one document.

use std::{collections::BTreeMap, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Ask, BuildId, BuildRequest, CommitId, Digest, Logins, document_path};

/// The form of the document.
const VERSION: u32 = 1;

/// What a worker runs. What changes on disk after it was made changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The form of the document.
    pub version: u32,
    /// Names the build.
    pub id: BuildId,
    /// Whose build it is.
    pub origin: Origin,
    /// What is asked for, beyond the config.
    pub request: BuildRequest,
    /// The text of the config.
    pub config: String,
    /// Whether a link led to the config: nothing of it is quoted then.
    pub config_is_link: bool,
    /// The text of `smidr.lock`.
    pub lock: Option<String>,
    /// The user's own file beside the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SubmittedLocal>,
    /// Patches that the config names.
    pub files: Vec<FileContent>,
    /// The build host's rootfs recipe, where it has one.
    pub recipe: Option<SubmittedRecipe>,
    /// Variables that the config names, with the caller's values. Removed when the build is over.
    pub variables: BTreeMap<String, String>,
    /// What of the project's asks was granted.
    pub granted: Vec<Ask>,
    /// Which servers may be shown the user's logins.
    pub logins: Logins,
    /// How much of the machine the build gets, where several are started together.
    pub share: Option<Share>,
    /// The builds that are started together with it, where only some of them may run at once.
    pub group: Option<Group>,
    /// Whether it waits for a busy workspace.
    pub wait: bool,
    /// Whose build it is, for a daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// The project's name, where the id begins with the customer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// What the caller has noted about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Higher goes first, within a customer.
    #[serde(default)]
    pub priority: i32,
    /// Whether it is started once more where its worker is killed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_interrupted: bool,
    /// Path layers of a remote origin, as blobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<SubmittedLayer>,
}

/// A path layer that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedLayer {
    /// As the config calls it.
    pub name: String,
    /// Of the tar archive with its files.
    pub digest: Digest,
    /// Of the archive, in bytes.
    pub size: u64,
    /// The commit of the repository that it is part of.
    pub commit: Option<CommitId>,
    /// Whether files differ from that commit.
    pub dirty: bool,
}

/// Builds of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The first of them.
    pub name: BuildId,
    /// How many may run at once.
    pub places: u32,
}

/// Where a submission comes from. It tells projects of one name apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Origin {
    /// A config of this machine.
    Local {
        /// Its path, absolute.
        #[serde(flatten, with = "document_path::config")]
        config: PathBuf,
    },
    /// A client of the daemon, which keeps what was sent of the project in a folder of its own.
    Remote {
        /// Whose it is.
        customer: String,
        /// The name of the caches that the daemon's policy gives it, if they are not its customer's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        caches: Option<String>,
        /// Where the daemon keeps the config, absolute.
        #[serde(flatten, with = "document_path::config")]
        config: PathBuf,
    },
}

/// The user's own file beside a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedLocal {
    /// The text of `smidr.local.yaml`.
    pub config: String,
    /// The text of `smidr.local.lock`.
    pub lock: Option<String>,
}

/// A file with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// Where it stands.
    #[serde(flatten, with = "document_path::path")]
    pub path: PathBuf,
    /// What it holds.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub content: Vec<u8>,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// A rootfs recipe as it was when the build was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum SubmittedRecipe {
    /// The one that is part of smidr.
    Shipped,
    /// A file of the project or of the user.
    File {
        /// The recipe.
        text: FileContent,
        /// Of the recipe and all that it copies.
        digest: Digest,
        /// The files that it copies, by each `source:` in it; their paths are relative to that. None: they are too large, or the build is over.
        copies: Option<BTreeMap<String, Vec<FileContent>>>,
    },
}

/// How much of a machine one of several builds gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// BB_NUMBER_THREADS and the jobs of PARALLEL_MAKE, at most.
    pub cpus: u32,
    /// Memory in bytes, where that is limited.
    pub memory: Option<u64>,
}

impl Submission {
    /// The present form of the document.
    pub const VERSION: u32 = VERSION;

    /// The config's path.
    pub fn config_path(&self) -> &PathBuf {
        let (Origin::Local { config } | Origin::Remote { config, .. }) = &self.origin;
        config
    }

    /// The project's name.
    pub fn name(&self) -> String {
        self.project.clone().unwrap_or_else(|| self.id.name().into())
    }

    /// One that asks for nothing.
    #[cfg(test)]
    pub fn of_a_test(origin: Origin) -> Self {
        Self {
            version: VERSION,
            id: BuildId::new("x", 1).expect("an id"),
            origin,
            request: BuildRequest::default(),
            config: String::new(),
            config_is_link: false,
            lock: None,
            local: None,
            files: Vec::new(),
            recipe: None,
            variables: BTreeMap::new(),
            granted: Vec::new(),
            logins: Logins::default(),
            share: None,
            group: None,
            wait: false,
            customer: None,
            project: None,
            labels: BTreeMap::new(),
            priority: 0,
            retry_interrupted: false,
            layers: Vec::new(),
        }
    }

    /// What is kept of it when the build is over: no values of variables, and no files that an image was made of.
    pub fn for_the_record(mut self) -> Self {
        self.variables.values_mut().for_each(String::clear);
        if let Some(SubmittedRecipe::File { copies, .. }) = &mut self.recipe {
            *copies = None;
        }
        self
    }
}

fn to_base64<S: Serializer>(content: &[u8], to: S) -> Result<S::Ok, S::Error> {
    BASE64_STANDARD.encode(content).serialize(to)
}

fn from_base64<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    BASE64_STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
}
