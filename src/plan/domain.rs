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
    /// The customer's of a daemon, for all projects that clients have sent of theirs.
    Customer(String),
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
    /// What a project wants: the caches that its config names, or the usual ones of its user or customer.
    /// `customer` is the name of a customer's caches.
    pub fn wanted(cache: Option<&str>, customer: Option<&str>) -> Self {
        match cache {
            Some(name) => Self::Named(name.into()),
            None => customer.map_or(Self::Own, |name| Self::Customer(name.into())),
        }
    }

    /// What a project gets to which these are not granted.
    pub fn instead(customer: Option<&str>) -> Self {
        customer.map_or(Self::Private, |name| Self::Customer(name.into()))
    }

    /// Its folder below `domains`; none for the user's own. `workspace` is the name of the project's workspace, without a variant.
    pub fn folder(&self, workspace: &str) -> Option<String> {
        match self {
            Self::Own => None,
            Self::Private => Some(format!("{PRIVATE}{workspace}")),
            Self::Customer(name) | Self::Named(name) => Some(name.clone()),
        }
    }

    /// Where its caches are. `workspace` is as above.
    pub fn caches(&self, paths: &Paths, workspace: &str) -> Caches {
        let Some(folder) = self.folder(workspace).map(|name| paths.domain(&name)) else {
            // Beside its sstate.
            return Caches { downloads: paths.downloads(), sstate: paths.sstate(), hash_equivalence: paths.sstate() };
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
            Self::Customer(name) | Self::Named(name) => write!(f, "those called {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_project_gets_what_it_only_names() {
        let folder = |domain: Domain| domain.folder("x-1").unwrap_or_default();
        assert_eq!(Domain::wanted(None, None), Domain::Own);
        assert_eq!(folder(Domain::wanted(None, Some("customer.acme"))), "customer.acme");
        assert_eq!(folder(Domain::wanted(Some("team"), Some("customer.acme"))), "team");
        assert_eq!(folder(Domain::instead(Some("customer.acme"))), "customer.acme");
        assert_eq!(folder(Domain::instead(None)), "private-x-1");
        // `config` refuses these as names.
        for own in ["private-x-1", "customer.acme"] {
            let text = format!("name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\ncache: {own}\n");
            assert!(crate::config::read("smidr.yaml", &text, None, &|_| None).is_err(), "{own}");
        }
    }
}
