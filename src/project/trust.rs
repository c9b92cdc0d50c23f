//! Which projects the user trusts, and with what: `SMIDR_HOME/trust.json`. Kept by the path of the config and by the asks that were granted, so
//! that ordinary edits ask nothing and a new ask does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    model::{Ask, Digest, Hint, Kind, Logins, Paths, UserError, asks_digest, document_path},
    plan::is_workspace_of,
    settings::Settings,
    system::{
        files::{FileError, write_atomically},
        lock,
        paths::{BEFORE_TRUST, set_version},
    },
};

/// The form of the record that this smidr reads and writes.
const VERSION: u32 = 1;

/// A project that the user trusts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trusted {
    /// Its config.
    #[serde(flatten, with = "document_path::config")]
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
    // Workspaces of projects built before this record existed. Each is granted what it asks for at its next build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
}

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// It is damaged, or from a newer smidr.
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

impl UserError for TrustError {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Record { file, .. } => {
                vec![Hint::command("without it every project asks again", format!("rm {}", file.display()))]
            }
            Self::File(error) => error.hints(),
        }
    }
}

/// What a caller grants for one command, without a record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// Whatever is asked for (`SMIDR_TRUST=1`).
    pub all: bool,
    /// Exactly the asks with this digest (`--trust`).
    pub digest: Option<Digest>,
    /// Whether it builds on another machine: what it asks of that one is judged there.
    pub elsewhere: bool,
}

/// Whether an ask is for what is read on the machine of a client, and sent.
fn is_of_sender(ask: &Ask) -> bool {
    matches!(ask, Ask::Outside { .. } | Ask::Variable { .. })
}

/// The record.
pub(crate) struct Trust {
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
    pub(crate) fn read(paths: &Paths) -> Result<Self, TrustError> {
        let file = paths.trust();
        let record = match fs::read(&file) {
            Ok(bytes) => parse(&file, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Only once: without a record later, nothing is granted.
                let layout = fs::read_to_string(paths.version()).unwrap_or_default();
                let earlier = if layout.trim() == BEFORE_TRUST { names(&paths.workspaces()) } else { Vec::new() };
                Record { version: VERSION, projects: Vec::new(), earlier }
            }
            Err(error) => return Err(FileError::new("read", &file)(error).into()),
        };
        Ok(Self { file, locks: paths.locks(), record })
    }

    /// Reads the record, and writes it where there is none yet: later workspaces are not trusted for being there.
    ///
    /// # Errors
    ///
    /// When it is damaged or cannot be written.
    pub(crate) fn open(paths: &Paths) -> Result<Self, TrustError> {
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
    pub(crate) fn refused(
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
        let asks = asks.iter().filter(|ask| !given.elsewhere || is_of_sender(ask));
        let (granted, earlier) = (self.granted(config), self.is_earlier(workspace));
        // The user was never asked about conf files that an earlier build left.
        let is_granted = |ask: &&Ask| granted.contains(ask) || earlier && !matches!(ask, Ask::LeftConf { .. });
        // With a lent login the project could pull the image anyway.
        let logins = self.logins(config, workspace, given, settings);
        let is_lent = |ask: &&Ask| matches!(ask, Ask::StoredImage { name } if logins.reach(repository_of(name)));
        asks.filter(|ask| !is_granted(ask) && !is_lent(ask)).cloned().collect()
    }

    /// Which servers may be shown the user's logins for a project.
    pub(crate) fn logins(&self, config: &Path, workspace: &str, given: &Given, settings: &Settings) -> Logins {
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
    pub(crate) fn is_earlier(&self, workspace: &str) -> bool {
        self.record.earlier.iter().any(|name| is_of(name, workspace))
    }

    /// All projects that are trusted.
    pub(crate) fn list(&self) -> &[Trusted] {
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
    pub(crate) fn grant(self, config: &Path, workspace: &str, asks: &[Ask]) -> Result<Self, TrustError> {
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

    /// Revokes everything that was granted to a project. Whether there was anything.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub(crate) fn revoke(self, config: &Path) -> Result<bool, TrustError> {
        let was = self.record.projects.iter().any(|known| known.config == config)
            || self.record.earlier.iter().any(|name| is_workspace_of(name, config));
        self.change(|record| {
            record.projects.retain(|known| known.config != config);
            record.earlier.retain(|name| !is_workspace_of(name, config));
        })?;
        Ok(was)
    }

    /// Changes the record as it is now on disk, whatever other processes write.
    fn change(self, change: impl FnOnce(&mut Record)) -> Result<Self, TrustError> {
        let Self { file, locks, record } = self;
        let _alone = lock::lock_briefly(&lock::path_in(&locks, "trust"), "smidr trust")?;
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

/// An image's name without tag and digest.
fn repository_of(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(repository, _)| repository)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn asks() -> Vec<Ask> {
        vec![Ask::SshAgent, Ask::Device { path: "/dev/kvm".into() }]
    }

    #[test]
    fn any_path_survives_and_records_of_before_are_read() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(folder.path().join("home"));
        fs::create_dir_all(paths.locks()).expect("a folder");
        let before = r#"{"version":1,"projects":[{"config":"/p/smidr.yaml","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","at":"2026-01-01T00:00:00Z",
            "asks":[{"ask":"bind","path":"/a","writable":true},{"ask":"outside","what":"bitbake","path":"/b"}]}]}"#;
        fs::write(paths.trust(), before).expect("a record");
        let trust = Trust::open(&paths).expect("a record");
        let known = [
            Ask::Bind { path: "/a".into(), writable: true },
            Ask::Outside { what: "bitbake".into(), path: "/b".into() },
        ];
        assert_eq!(trust.list()[0].asks, known);
        let path = |byte: u8| PathBuf::from(std::ffi::OsStr::from_bytes(&[b'/', byte]));
        let asks = |byte| vec![Ask::Bind { path: path(byte), writable: false }, Ask::Credentials { path: path(byte) }];
        assert_ne!(asks_digest(&asks(0xfe)), asks_digest(&asks(0xff)));
        trust.grant(&path(0xff), "x-1", &asks(0xff)).expect("granted");
        let refused = |config: &Path, asks: &[Ask]| {
            let trust = Trust::read(&paths).expect("a record");
            trust.refused(config, "x-1", asks, &Given::default(), &Settings::default())
        };
        assert_eq!(refused(&path(0xff), &asks(0xff)), []);
        assert_eq!(refused(&path(0xff), &asks(0xfe)), asks(0xfe));
        assert_eq!(refused(&path(0xfe), &asks(0xff)), asks(0xff));
        assert_eq!(refused(Path::new("/p/smidr.yaml"), &known), []);
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
        // Projects built before the record existed are trusted until asked about once.
        assert_eq!(refused(config, "old-12345678", &asks(), &nothing), []);
        assert_eq!(refused(config, "p-1", &asks(), &nothing), asks());
        let left = Ask::LeftConf { path: "/x".into(), digest: asks_digest(&[]) };
        assert_eq!(refused(config, "old-12345678", std::slice::from_ref(&left), &nothing), [left]);
        let trust = Trust::open(&paths).expect("a record");
        let record = fs::read(paths.trust()).expect("the record");
        fs::remove_file(paths.trust()).expect("lost");
        assert_eq!(refused(config, "old-12345678", &asks(), &nothing), asks(), "a lost record grants nothing");
        fs::write(paths.trust(), record).expect("found again");
        fs::create_dir_all(paths.workspaces().join("p-1")).expect("a workspace");
        assert_eq!(refused(config, "p-1", &asks(), &nothing), asks(), "a later workspace grants nothing");
        let trust = trust.grant(config, "p-1", &asks()[..1]).expect("granted");
        assert_eq!(refused(config, "p-1", &asks(), &nothing), asks()[1..]);
        assert_eq!(refused(Path::new("/q/smidr.yaml"), "q-1", &asks(), &nothing), asks());
        let exact = Given { digest: Some(asks_digest(&asks())), ..Given::default() };
        assert_eq!(refused(config, "p-1", &asks(), &exact), []);
        assert_eq!(refused(config, "p-1", &[Ask::IdRange], &exact), [Ask::IdRange]);
        assert_eq!(refused(config, "p-1", &asks(), &Given { all: true, ..Given::default() }), []);
        let trust = trust.grant(config, "p-1", &asks()[1..]).expect("granted");
        assert_eq!(refused(config, "p-1", &asks(), &nothing), []);
        let image = |name: &str| vec![Ask::StoredImage { name: name.into() }];
        let trust = trust.grant(config, "p-1", &[Ask::Login { below: "r.example:5000/team".into() }]).expect("granted");
        for name in ["r.example:5000/team:1", "r.example:5000/team/x", "r.example:5000/team/x@sha256:00"] {
            assert_eq!(refused(config, "p-1", &image(name), &nothing), [], "{name}");
        }
        for name in ["r.example:5000/other:1", "r.example:5000", "mine"] {
            assert_eq!(refused(config, "p-1", &image(name), &nothing), image(name));
        }
        assert!(trust.revoke(config).expect("revoked"));
        assert_eq!(refused(config, "p-1", &asks(), &nothing), asks());
    }
}
