//! Where things stand under `SMIDR_HOME`. Pure: knows names, touches nothing.

use std::path::{Component, Path, PathBuf};

use super::{BuildId, Digest};

/// A path without `.` and `..`, as it is written: no link is looked at.
pub fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// A file that tells folders of builds, outside of SMIDR_HOME, from the user's own.
pub const FOLDER_MARK: &str = ".smidr-build-folder";

/// The folders that all builds of one user share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    home: PathBuf,
}

impl Paths {
    /// Takes an absolute path, usually `~/.smidr`.
    pub fn new(home: PathBuf) -> Self {
        Self { home }
    }

    /// `SMIDR_HOME` itself.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.home.join("images")
    }

    /// Layer mirrors and checkouts.
    pub fn layers(&self) -> PathBuf {
        self.home.join("layers")
    }

    /// BitBake's DL_DIR, shared.
    pub fn downloads(&self) -> PathBuf {
        self.home.join("downloads")
    }

    /// BitBake's SSTATE_DIR, shared.
    pub fn sstate(&self) -> PathBuf {
        self.home.join("sstate-cache")
    }

    /// The caches of a trust domain other than the user's own.
    pub fn domain(&self, name: &str) -> PathBuf {
        self.domains().join(name)
    }

    /// The user's own rootfs recipes.
    pub fn recipes(&self) -> PathBuf {
        self.home.join("recipes")
    }

    /// Folders that survive from one build of a project to its next.
    pub fn workspaces(&self) -> PathBuf {
        self.home.join("workspaces")
    }

    /// Whose workspaces are, a file for each.
    pub fn owners(&self) -> PathBuf {
        self.home.join("owners")
    }

    /// What builds made where this machine would obey it, moved away.
    pub fn quarantine(&self) -> PathBuf {
        self.home.join("quarantine")
    }

    /// The folders of trust domains other than the user's own.
    pub fn domains(&self) -> PathBuf {
        self.home.join("domains")
    }

    /// All builds' own folders.
    pub fn builds(&self) -> PathBuf {
        self.home.join("builds")
    }

    /// One build's own folder: artifacts, licences and other records, logs of failed tasks.
    pub fn build(&self, id: &BuildId) -> PathBuf {
        self.builds().join(id.as_str())
    }

    /// Files that were kept of builds, by their digests: other names of what is in the folders of builds.
    pub fn kept(&self) -> PathBuf {
        self.home.join("kept")
    }

    /// Lock files. They hold no data but the name of their holder.
    pub fn locks(&self) -> PathBuf {
        self.home.join("locks")
    }

    /// The lock that a build's worker holds while it lives.
    pub fn alive(&self, id: &BuildId) -> PathBuf {
        self.locks().join(format!("build-{id}.lock"))
    }

    /// The line of builds that run, and of those that wait for their turn.
    pub fn queue(&self) -> PathBuf {
        self.home.join("queue")
    }

    /// Projects that clients of the daemon have sent, by customer and name.
    pub fn projects(&self) -> PathBuf {
        self.home.join("projects")
    }

    /// What clients of the daemon have sent: archives of path layers.
    pub fn blobs(&self) -> PathBuf {
        self.daemon().join("blobs")
    }

    /// One of them.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Half-made things, on the same file system as what they become.
    pub fn tmp(&self) -> PathBuf {
        self.home.join("tmp")
    }

    /// The index over the journals of builds.
    pub fn history(&self) -> PathBuf {
        self.home.join("history.db")
    }

    /// Which projects the user trusts.
    pub fn trust(&self) -> PathBuf {
        self.home.join("trust.json")
    }

    /// What the daemon keeps.
    pub fn daemon(&self) -> PathBuf {
        self.home.join("daemon")
    }

    /// The layout's version.
    pub fn version(&self) -> PathBuf {
        self.home.join("version")
    }
}
