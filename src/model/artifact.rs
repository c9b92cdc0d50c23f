//! What a build leaves behind.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Digest, document_path};

/// A file that was kept after a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Relative to the build's artifact folder.
    #[serde(flatten, with = "document_path::path")]
    pub path: PathBuf,
    /// In bytes; 0 for a symbolic link.
    pub size: u64,
    /// Of the content; absent for a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Where a symbolic link points.
    #[serde(flatten, with = "document_path::link", skip_serializing_if = "Option::is_none")]
    pub link: Option<PathBuf>,
}

impl Artifact {
    /// Whether it is a link that leads out of the folder of artifacts. Such a link is written down and never made: whatever follows
    /// links later (`cp -L`, a web server) would read a file of this machine in its place.
    pub fn leads_out(&self) -> bool {
        self.link.as_ref().is_some_and(|link| leads_out(&self.path, link))
    }
}

/// Whether the link at `path`, relative to the root of its tree, leads out of the tree, or could: after `..` only its first names are sure not to be
/// links themselves, since `a/..` is anywhere if `a` is a link.
pub fn leads_out(path: &Path, link: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    let mut descends = false;
    for part in link.components() {
        match part {
            Component::ParentDir if descends || depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => descends = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_links_lead() {
        for (path, link, expected) in [
            ("a", "b", false),
            ("a", "./b/c", false),
            ("d/e/a", "../../b", false),
            ("d/e/a", "../..", false),
            ("d/e/a", "../../../b", true),
            ("a", "..", true),
            ("a", "/b", true),
            ("d/a", "../b/../c", true),
            ("d/a", "b/..", true),
        ] {
            assert_eq!(leads_out(Path::new(path), Path::new(link)), expected, "{path} -> {link}");
        }
    }
}
