//! The folders of a build.

use std::path::{Component, Path, PathBuf};

use serde::Serialize;

/// Folders of a build. All have the same path inside and outside the sandbox.
#[derive(Clone, Debug, Serialize)]
pub struct Folders {
    /// Belongs to this project alone, and is kept between its builds.
    pub workspace: PathBuf,
    /// BitBake's TOPDIR.
    pub top: PathBuf,
    /// TMPDIR.
    pub tmp: PathBuf,
    /// DEPLOY_DIR.
    pub deploy: PathBuf,
    /// DL_DIR.
    pub downloads: PathBuf,
    /// SSTATE_DIR.
    pub sstate: PathBuf,
    /// BB_HASHSERVE_DB_DIR.
    pub hash_equivalence: PathBuf,
    /// HOME inside.
    pub home: PathBuf,
}

impl Folders {
    /// The folders that the build may write to.
    pub fn writable(&self) -> Vec<&Path> {
        let all = [
            &self.workspace,
            &self.top,
            &self.tmp,
            &self.deploy,
            &self.downloads,
            &self.sstate,
            &self.hash_equivalence,
        ];
        let mut folders: Vec<&Path> = Vec::new();
        for folder in all {
            let is_inside = |known: &&PathBuf| folder.starts_with(known) && folder != *known;
            if !all.iter().any(is_inside) && !folders.contains(&folder.as_path()) {
                folders.push(folder);
            }
        }
        folders
    }

    /// The writable folder that holds `path`, and the path relative to it; none for a path with `..`. A build can put links anywhere in
    /// such a folder.
    pub fn inside<'a>(&'a self, path: &'a Path) -> Option<(&'a Path, &'a Path)> {
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        self.writable().into_iter().find_map(|root| Some((root, path.strip_prefix(root).ok()?)))
    }
}

/// What a folder of a config may begin with.
pub(super) const TOPDIR: &str = "${TOPDIR}";

/// Whether a folder is one of those that the Go smidr had in its own home, where its examples have them: the default is meant.
pub(super) fn is_of_go(text: &str) -> bool {
    let name = text.strip_prefix("~/.smidr/").unwrap_or_default().trim_end_matches('/');
    ["build", "deploy", "downloads", "layers", "sources", "sstate", "sstate-cache", "tmp"].contains(&name)
}
