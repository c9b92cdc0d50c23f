//! Trust domains: which projects share downloads, sstate and hash equivalence, which BitBake uses without checks.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{config::PRIVATE, model::Paths};

/// The trust domain of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// The user's own.
    Own,
    /// The project's alone.
    Private,
    /// Those of all projects that name it (`cache`).
    Named(String),
}

/// The folders of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caches {
    /// DL_DIR.
    pub downloads: PathBuf,
    /// SSTATE_DIR.
    pub sstate: PathBuf,
    /// BB_HASHSERVE_DB_DIR.
    pub hash_equivalence: PathBuf,
}

impl Domain {
    /// Where its caches are. `workspace` is the name of the project's workspace, without a variant.
    pub fn caches(&self, paths: &Paths, workspace: &str) -> Caches {
        let folder = match self {
            // Beside its sstate.
            Self::Own => {
                return Caches {
                    downloads: paths.downloads(),
                    sstate: paths.sstate(),
                    hash_equivalence: paths.sstate(),
                };
            }
            Self::Private => paths.domain(&format!("{PRIVATE}{workspace}")),
            Self::Named(name) => paths.domain(name),
        };
        let at = |name| Path::new(&folder).join(name);
        Caches { downloads: at("downloads"), sstate: at("sstate"), hash_equivalence: at("hashequiv") }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("yours"),
            Self::Private => f.write_str("this project's own"),
            Self::Named(name) => write!(f, "those called {name}"),
        }
    }
}
