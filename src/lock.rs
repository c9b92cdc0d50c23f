//! `smidr.lock`: what a build was made from, exactly. Pure: text in, text out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Digest, Explain, Kind};

/// The newest form that this smidr reads and writes.
const VERSION: u32 = 1;

/// What a project is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// The build host.
    pub host: HostLock,
}

/// The build host that a project is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLock {
    /// The rootfs recipe or image, as the config names it.
    pub name: String,
    /// The digest of its manifest.
    pub image: Digest,
    /// The digest of the rootfs recipe that it was made from, with the files that it copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Digest>,
    /// The packages that it was made from, by name: version and sha256. Empty for images that were not made here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub packages: BTreeMap<String, PackageLock>,
}

/// One package, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageLock {
    /// As the package manager writes it.
    pub version: String,
    /// Of the package's file.
    pub sha256: Digest,
}

/// Why a lock cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Not what `smidr` writes.
    #[error("smidr.lock is damaged")]
    Damaged(#[source] Box<serde_yaml::Error>),
    /// A package whose name or version could not be one.
    #[error("smidr.lock names the package `{0}`, which cannot be one")]
    Package(String),
    /// Written by a newer smidr.
    #[error("smidr.lock has version {0}, and this smidr knows up to {VERSION}")]
    TooNew(u32),
}

impl Explain for LockError {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Damaged(_) | Self::Package(_) => {
                "take it from version control again:  git checkout smidr.lock".into()
            }
            Self::TooNew(_) => "update smidr".into(),
        })
    }
}

impl Lock {
    /// A lock for a build host.
    pub fn new(host: HostLock) -> Self {
        Self { version: VERSION, host }
    }

    /// Reads a lock.
    ///
    /// # Errors
    ///
    /// When it is damaged or too new.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |error| LockError::Damaged(Box::new(error));
        let Version { version } = serde_yaml::from_str(text).map_err(damaged)?;
        if version > VERSION {
            return Err(LockError::TooNew(version));
        }
        let lock: Self = serde_yaml::from_str(text).map_err(damaged)?;
        // These become arguments of the host's apt, and a lock may come from a stranger.
        match lock.host.packages.iter().find(|(name, package)| !is_package(name, &package.version)) {
            Some((name, package)) => Err(LockError::Package(format!("{name}={}", package.version))),
            None => Ok(lock),
        }
    }

    /// The text of the lock: the same lock gives the same text.
    ///
    /// # Errors
    ///
    /// Never, in practice: the values here can all be written as YAML.
    pub fn to_text(&self) -> Result<String, serde_yaml::ser::Error> {
        let body = serde_yaml::to_string(self)?;
        Ok(format!("# Written by smidr. Commit it: it pins what this project is built with.\n{body}"))
    }
}

/// Debian's rules for names and versions (Debian Policy, 5.6.7 and 5.6.12).
fn is_package(name: &str, version: &str) -> bool {
    let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_alphanumeric());
    begins(name)
        && begins(version)
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".+-:~".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_comes_back_as_it_was_written() {
        let digest: Digest = format!("sha256:{}", "ab".repeat(32)).parse().expect("a digest");
        let package = PackageLock { version: "1:2.3-4~deb12u1".into(), sha256: digest.clone() };
        let packages = [("libc6".to_owned(), package)].into();
        let lock =
            Lock::new(HostLock { name: "debian-12".into(), image: digest.clone(), recipe: Some(digest), packages });
        let text = lock.to_text().expect("text");
        assert_eq!(Lock::parse(&text).expect("parses"), lock);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_package_is_never_an_option_of_apt() {
        assert!(is_package("libstdc++6", "12.2.0-14+deb12u1") && is_package("g++", "4:12.2.0-3"));
        for (name, version) in [
            ("-oAcquire::http::Proxy-Auto-Detect", "./evil"),
            ("a", "-x"),
            ("a", "./evil"),
            ("a", "1 b"),
            ("", "1"),
            ("a", ""),
            ("A", "1"),
        ] {
            assert!(!is_package(name, version), "{name}={version}");
        }
    }

    #[test]
    fn newer_and_damaged_locks_are_refused() {
        assert!(matches!(Lock::parse("version: 2\nfoo: bar\n"), Err(LockError::TooNew(2))));
        assert!(matches!(Lock::parse("version: 1\nhost: 3\n"), Err(LockError::Damaged(_))));
        assert!(matches!(Lock::parse("<<<<<<< HEAD\n"), Err(LockError::Damaged(_))));
    }
}
