//! What a project wants beyond building in its own folders. Computed from its plan; a user or a daemon's policy grants it or not.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Digest, document_path};

/// One thing that a project asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// No sandbox (`host.isolation: none`).
    NoIsolation,
    /// A folder or file of this machine (`host.binds`).
    Bind {
        /// Where it really is.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
        /// Whether builds may change it.
        writable: bool,
    },
    /// To write to every `.git` in a folder (`host.binds[].git_writable`).
    GitWritable {
        /// The folder.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
    },
    /// A file of passwords (`host.netrc`, `host.git_credentials`).
    Credentials {
        /// Where it really is.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
    },
    /// The caller's ssh-agent (`host.ssh_agent`).
    SshAgent,
    /// A variable of the caller's environment.
    Variable {
        /// Its name.
        name: String,
        /// The key of the config that uses it.
        key: String,
    },
    /// A device of this machine (`host.devices`).
    Device {
        /// Its node.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
    },
    /// A folder that builds write to, outside of the project (`directories`).
    Folder {
        /// The key of the config that names it.
        key: String,
        /// Where it really is.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
    },
    /// Something that a build reads, outside of the project: a layer, BitBake, a patch, a rootfs recipe.
    Outside {
        /// What it is.
        what: String,
        /// Where it really is.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
    },
    /// A git repository of this machine (`file://`).
    LocalRepository {
        /// Its address.
        url: String,
        /// Where it really is.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
    },
    /// A git repository that is reached with the caller's ssh keys.
    SshRepository {
        /// Its address, without a password.
        url: String,
    },
    /// Repositories and images that are reached with the caller's logins and ssh keys (`smidr trust --login`).
    Login {
        /// An address, for all that lies below it.
        below: String,
    },
    /// Links that lead out of a layer's checkout (`outside_links`).
    OutsideLinks {
        /// The layer.
        layer: String,
    },
    /// The caller's ids of /etc/subuid (`host.ids: range`).
    IdRange,
    /// A rootfs recipe of the project that runs commands.
    RecipeCommands {
        /// The recipe.
        recipe: String,
        /// Whether they have this machine's network.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        network: bool,
    },
    /// A rootfs recipe of the project whose base brings the pip or apt that is given the caller's proxies and pip configuration.
    RecipeCredentials {
        /// The recipe.
        recipe: String,
    },
    /// A rootfs recipe of the project with a package mirror of its own.
    RecipeMirror {
        /// The recipe.
        recipe: String,
        /// The mirror.
        mirror: String,
    },
    /// A rootfs recipe of the project that names the keys which sign its packages.
    RecipeKeys {
        /// The recipe.
        recipe: String,
        /// The keyring.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
    },
    /// An image of the caller's store that others may not have: imported, made of a recipe of the caller's, or pulled with a login.
    StoredImage {
        /// Its name there.
        name: String,
    },
    /// A conf file that an earlier build or shell has left where every build reads it.
    LeftConf {
        /// The file.
        #[serde(flatten, with = "document_path::path")]
        path: PathBuf,
        /// Of its content.
        digest: Digest,
    },
    /// Downloads, sstate and hash equivalence together with other projects: the user's own, or those called so (`cache`).
    SharedCache {
        /// The name of the domain; none: the user's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
}

impl Ask {
    /// The key of the variables that are proxies of this machine with a password.
    pub const PROXIES: &str = "host.network";

    /// The key of the config that asks, or what else does.
    pub fn key(&self) -> &str {
        match self {
            Self::NoIsolation => "host.isolation",
            Self::Bind { .. } | Self::GitWritable { .. } => "host.binds",
            Self::Credentials { .. } => "credentials",
            Self::SshAgent => "host.ssh_agent",
            Self::Variable { key, .. } | Self::Folder { key, .. } => key,
            Self::Device { .. } => "host.devices",
            Self::Outside { what, .. } => what,
            Self::LocalRepository { .. } | Self::SshRepository { .. } => "repository",
            Self::Login { .. } => "login",
            Self::OutsideLinks { .. } => "outside_links",
            Self::IdRange => "host.ids",
            Self::RecipeCommands { .. }
            | Self::RecipeCredentials { .. }
            | Self::RecipeMirror { .. }
            | Self::RecipeKeys { .. } => "host.recipe",
            Self::StoredImage { .. } => "image",
            Self::LeftConf { .. } => "conf",
            Self::SharedCache { .. } => "cache",
        }
    }

    /// What could happen, in a sentence fragment.
    pub fn consequence(&self) -> String {
        match self {
            Self::NoIsolation => "runs every recipe as you, with all your files, keys and processes".into(),
            Self::Bind { path, writable: false } => {
                format!("every recipe can read {}, and send it away", path.display())
            }
            Self::Bind { path, writable: true } => format!("every recipe can read and change {}", path.display()),
            Self::GitWritable { path } => {
                format!(
                    "every recipe can change .git in {}, and your next git command there runs what it says",
                    path.display()
                )
            }
            Self::Credentials { path } => format!("every recipe can read the passwords in {}", path.display()),
            Self::SshAgent => "every recipe can log in as you wherever your ssh-agent can".into(),
            Self::Variable { name, .. } => format!("gives your variable {name} to the project's builds and servers"),
            Self::Device { path } => format!("every recipe can use {}", path.display()),
            Self::Folder { key, path } if key == "directories.layers" => {
                format!("layers are taken from {}, whatever has put them there", path.display())
            }
            Self::Folder { path, .. } => {
                format!("builds write to {}, and --clean removes what they left there", path.display())
            }
            Self::Outside { path, .. } => format!("every recipe can read {}", path.display()),
            Self::LocalRepository { url, .. } => format!("fetches {url} from this machine"),
            Self::SshRepository { url } => format!("fetches {url} with your ssh keys"),
            Self::Login { below } => format!("every recipe can read what your logins and ssh keys open at {below}"),
            Self::OutsideLinks { layer } => format!("links in the layer {layer} may lead out of it"),
            Self::IdRange => "builds use your ids of /etc/subuid".into(),
            Self::RecipeCommands { recipe, network } => {
                let network = if *network { ", with your network" } else { "" };
                format!("the rootfs recipe {recipe} runs commands while it makes the build host{network}")
            }
            Self::RecipeCredentials { recipe } => {
                format!("what the rootfs recipe {recipe} begins with sees your proxies and pip configuration")
            }
            Self::RecipeMirror { recipe, mirror } => {
                format!("the rootfs recipe {recipe} takes its packages from {mirror}")
            }
            Self::RecipeKeys { recipe, path } => {
                format!("the rootfs recipe {recipe} trusts packages signed by {}", path.display())
            }
            Self::StoredImage { name } => format!("every recipe can read the image {name} of your store"),
            Self::LeftConf { path, .. } => {
                format!("{} was left by an earlier build or shell, and builds read it", path.display())
            }
            Self::SharedCache { domain: None } => {
                "its builds write to your downloads and sstate, which your other projects use unchecked".into()
            }
            Self::SharedCache { domain: Some(name) } => {
                format!("its builds write to the downloads and sstate of `{name}`, which other projects use unchecked")
            }
        }
    }
}

/// Identifies a set of asks, in any order.
pub fn asks_digest(asks: &[Ask]) -> Digest {
    let mut lines: Vec<String> =
        asks.iter().map(|ask| serde_json::to_string(ask).expect("each field has a text")).collect();
    lines.sort();
    lines.dedup();
    Digest::from_sha256(Sha256::digest(lines.join("\n")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_the_set() {
        let (one, other) = (Ask::SshAgent, Ask::Device { path: "/dev/kvm".into() });
        let digest = |asks: &[&Ask]| asks_digest(&asks.iter().map(|ask| (*ask).clone()).collect::<Vec<_>>());
        assert_eq!(digest(&[&one, &other]), digest(&[&other, &one, &one]));
        assert_ne!(digest(&[&one, &other]), digest(&[&one]));
        assert_ne!(
            digest(&[&Ask::Bind { path: "/a".into(), writable: false }]),
            digest(&[&Ask::Bind { path: "/a".into(), writable: true }])
        );
    }
}
