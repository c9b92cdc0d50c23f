//! Which projects the user trusts, and with what: `SMIDR_HOME/trust.json`. Kept by the path of the config and by the asks that were granted, so
//! that ordinary edits ask nothing and a new ask does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    host::{
        files::{FileError, write_atomically},
        lock::{self, Lock, Mode, WaitError},
        paths::{BEFORE_TRUST, set_version},
        stop::Stop,
    },
    model::{Ask, Digest, Explain, Kind, Logins, Paths, asks_digest},
    settings::Settings,
};

/// The form of the record that this smidr reads and writes.
const VERSION: u32 = 1;

/// A project that the user trusts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trusted {
    /// Its config.
    pub config: PathBuf,
    /// Of the asks that were granted.
    pub digest: Digest,
    /// What was granted.
    pub asks: Vec<Ask>,
    /// When that was.
    pub at: Timestamp,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    version: u32,
    projects: Vec<Trusted>,
    // Workspaces of projects that were built before there was this record. Each is trusted with what it asks for when it is built next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
}

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It is damaged, or of a newer smidr.
    #[error("cannot read {}", file.display())]
    Record {
        /// The record.
        file: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Explain for TrustError {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Record { file, .. } => Some(format!("without it every project asks again:  rm {}", file.display())),
            Self::File(error) => error.hint(),
        }
    }
}

/// What a caller grants for one command, without a record.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Whatever is asked for (`SMIDR_TRUST=1`).
    pub all: bool,
    /// Exactly the asks with this digest (`--trust`).
    pub digest: Option<Digest>,
}

/// The record.
pub struct Trust {
    file: PathBuf,
    locks: PathBuf,
    record: Record,
}

impl Trust {
    /// Reads the record. Touches nothing.
    ///
    /// # Errors
    ///
    /// When it is damaged.
    pub fn read(paths: &Paths) -> Result<Self, TrustError> {
        let file = paths.trust();
        let record = match fs::read(&file) {
            Ok(bytes) => parse(&file, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Once only: a record that was lost later says nothing.
                let layout = fs::read_to_string(paths.version()).unwrap_or_default();
                let earlier = if layout.trim() == BEFORE_TRUST { names(&paths.workspaces()) } else { Vec::new() };
                Record { version: VERSION, projects: Vec::new(), earlier }
            }
            Err(error) => return Err(FileError::new("read", &file)(error).into()),
        };
        Ok(Self { file, locks: paths.locks(), record })
    }

    /// Reads the record, and writes it where there is none yet: from then on a new workspace says nothing about trust.
    ///
    /// # Errors
    ///
    /// When it is damaged or cannot be written.
    pub fn open(paths: &Paths) -> Result<Self, TrustError> {
        let mut trust = Self::read(paths)?;
        if !trust.file.exists() {
            trust = trust.change(|_| {})?;
        }
        if fs::read_to_string(paths.version()).is_ok_and(|layout| layout.trim() == BEFORE_TRUST) {
            set_version(paths)?;
        }
        Ok(trust)
    }

    /// What of `asks` is not granted. `workspace` is the name of the project's, without a variant.
    pub fn refused(
        &self,
        config: &Path,
        workspace: &str,
        asks: &[Ask],
        given: &Given,
        settings: &Settings,
    ) -> Vec<Ask> {
        let by_digest = given.digest.as_ref().is_some_and(|digest| *digest == asks_digest(asks));
        let folder = config.parent().unwrap_or(config);
        if given.all || by_digest || settings.trusts(folder) {
            return Vec::new();
        }
        let (granted, earlier) = (self.granted(config), self.is_earlier(workspace));
        // What an earlier build has left in conf was never asked about.
        let is_granted = |ask: &&Ask| granted.contains(ask) || earlier && !matches!(ask, Ask::LeftConf { .. });
        asks.iter().filter(|ask| !is_granted(ask)).cloned().collect()
    }

    /// Which servers may be shown the user's logins for a project.
    pub fn logins(&self, config: &Path, workspace: &str, given: &Given, settings: &Settings) -> Logins {
        let folder = config.parent().unwrap_or(config);
        if given.all || settings.trusts(folder) || self.is_earlier(workspace) {
            return Logins::All;
        }
        let below = |ask: &Ask| match ask {
            Ask::Login { below } => Some(below.clone()),
            _ => None,
        };
        Logins::Below(self.granted(config).iter().filter_map(below).collect())
    }

    /// Whether a project was built before there was this record.
    pub fn is_earlier(&self, workspace: &str) -> bool {
        self.record.earlier.iter().any(|name| is_of(name, workspace))
    }

    /// All projects that are trusted.
    pub fn list(&self) -> &[Trusted] {
        &self.record.projects
    }

    fn granted(&self, config: &Path) -> &[Ask] {
        self.record.projects.iter().find(|known| known.config == config).map_or(&[], |known| &known.asks)
    }

    /// Grants asks to a project, beside those that it has.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn grant(self, config: &Path, workspace: &str, asks: &[Ask]) -> Result<Self, TrustError> {
        self.change(|record| {
            record.earlier.retain(|name| !is_of(name, workspace));
            let known =
                record.projects.iter().position(|known| known.config == config).map(|at| record.projects.remove(at));
            let mut all: Vec<Ask> = known.map(|known| known.asks).unwrap_or_default();
            all.extend(asks.iter().cloned());
            all.sort();
            all.dedup();
            record.projects.push(Trusted {
                config: config.into(),
                digest: asks_digest(&all),
                asks: all,
                at: Timestamp::now(),
            });
        })
    }

    /// Takes back everything that was granted to a project. Says whether there was something.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn revoke(self, config: &Path, workspace: Option<&str>) -> Result<bool, TrustError> {
        let was = self.record.projects.iter().any(|known| known.config == config)
            || workspace.is_some_and(|workspace| self.is_earlier(workspace));
        self.change(|record| {
            record.projects.retain(|known| known.config != config);
            record.earlier.retain(|name| !workspace.is_some_and(|workspace| is_of(name, workspace)));
        })?;
        Ok(was)
    }

    /// Changes the record as it is now on disk, whatever other processes write.
    fn change(self, change: impl FnOnce(&mut Record)) -> Result<Self, TrustError> {
        let Self { file, locks, record } = self;
        let _alone = alone(&locks)?;
        let mut record = match fs::read(&file) {
            Ok(bytes) => parse(&file, &bytes)?,
            Err(_) => record,
        };
        change(&mut record);
        let failed = |error: serde_json::Error| FileError::new("write", &file)(error.into());
        let text = serde_json::to_vec_pretty(&record).map_err(failed)?;
        write_atomically(&file, &text, 0o600)?;
        Ok(Self { file, locks, record })
    }
}

/// Whether a workspace, perhaps of a variant, is of the project whose workspace without a variant is `workspace`.
fn is_of(name: &str, workspace: &str) -> bool {
    name.strip_prefix(workspace).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Record, TrustError> {
    let wrong = |source: io::Error| TrustError::Record { file: file.into(), source };
    let record: Record = serde_json::from_slice(bytes).map_err(|error| wrong(error.into()))?;
    match record.version {
        VERSION => Ok(record),
        newer => Err(wrong(io::Error::other(format!("it was written by a newer smidr (form {newer})")))),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

// Held for the time of a rename: nothing is said of the wait.
fn alone(locks: &Path) -> Result<Lock, FileError> {
    let path = lock::path_in(locks, "trust");
    match lock::lock(&path, Mode::Exclusive, "smidr trust", &Stop::default(), |_| {}) {
        Ok(lock) => Ok(lock),
        Err(WaitError::File(error)) => Err(error),
        Err(WaitError::Stopped(_)) => Err(FileError::new("lock", &path)(io::ErrorKind::Interrupted.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks() -> Vec<Ask> {
        vec![Ask::SshAgent, Ask::Device { path: "/dev/kvm".into() }]
    }

    #[test]
    fn a_grant_covers_what_was_asked_and_no_more() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(folder.path().join("home"));
        for place in [paths.locks(), paths.workspaces().join("old-12345678-debug")] {
            fs::create_dir_all(place).expect("a folder");
        }
        fs::write(paths.version(), "1\n").expect("a version");
        let (config, settings) = (Path::new("/p/smidr.yaml"), Settings::default());
        let refused = |config: &Path, workspace: &str, asks: &[Ask], given: &Given| {
            Trust::read(&paths).expect("a record").refused(config, workspace, asks, given, &settings)
        };
        let nothing = Given::default();
        // What was built before there was a record is trusted until it has been asked for once.
        assert_eq!(refused(config, "old-12345678", &asks(), &nothing), []);
        assert_eq!(refused(config, "p-1", &asks(), &nothing), asks());
        let left = Ask::LeftConf { path: "/x".into(), digest: asks_digest(&[]) };
        assert_eq!(refused(config, "old-12345678", std::slice::from_ref(&left), &nothing), [left]);
        let trust = Trust::open(&paths).expect("a record");
        let record = fs::read(paths.trust()).expect("the record");
        fs::remove_file(paths.trust()).expect("lost");
        assert_eq!(refused(config, "old-12345678", &asks(), &nothing), asks(), "a record that was lost says nothing");
        fs::write(paths.trust(), record).expect("found again");
        fs::create_dir_all(paths.workspaces().join("p-1")).expect("a workspace");
        assert_eq!(refused(config, "p-1", &asks(), &nothing), asks(), "a workspace made later says nothing");
        let trust = trust.grant(config, "p-1", &asks()[..1]).expect("granted");
        assert_eq!(refused(config, "p-1", &asks(), &nothing), asks()[1..]);
        assert_eq!(refused(Path::new("/q/smidr.yaml"), "q-1", &asks(), &nothing), asks());
        let exact = Given { digest: Some(asks_digest(&asks())), ..Given::default() };
        assert_eq!(refused(config, "p-1", &asks(), &exact), []);
        assert_eq!(refused(config, "p-1", &[Ask::IdRange], &exact), [Ask::IdRange]);
        assert_eq!(refused(config, "p-1", &asks(), &Given { all: true, digest: None }), []);
        let trust = trust.grant(config, "p-1", &asks()[1..]).expect("granted");
        assert_eq!(refused(config, "p-1", &asks(), &nothing), []);
        assert!(trust.revoke(config, Some("p-1")).expect("revoked"));
        assert_eq!(refused(config, "p-1", &asks(), &nothing), asks());
    }
}
