//! `smidr.lock`: the exact inputs of a build. Pure.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, HOST, Problems, Source, Text},
    model::{CommitId, Digest, Hint, Kind, UserError, without_secrets},
};

/// The newest version that this smidr reads and writes.
const VERSION: u32 = 1;

/// The lock of a config: beside it, with its name.
pub fn lock_path(config: &Path) -> PathBuf {
    config.with_extension("lock")
}

/// What a project is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// The digest of smidr.yaml when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Digest>,
    // The older form, with one build host for all variants.
    #[serde(default, skip_serializing)]
    host: Option<HostPin>,
    /// Build hosts, by name: variants may have different ones. None where this machine is its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostPin>,
    /// Where layers and BitBake come from, by name. One name may stand here more than once: variants ask for different things.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    repositories: Vec<RepositoryPin>,
}

/// A repository that a project is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryPin {
    /// The layer's name in the config, or `bitbake`.
    pub name: String,
    /// Its address, as the config has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
    /// Or the folder of this machine, as the config has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The branch that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The tag that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Whether the config itself names the commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// The commit. For a folder: its commit when this was written, if it belongs to a git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// For a folder: whether it had uncommitted changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dirty: bool,
    /// Patches on top, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<PatchPin>,
}

/// One patch, exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchPin {
    /// As the config has it.
    pub file: String,
    /// Of its content.
    pub sha256: Digest,
}

/// What a build or a lookup has resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Build hosts; none where this machine is its own, or was not looked at.
    pub hosts: Vec<HostPin>,
    /// Where layers and BitBake come from.
    pub repositories: Vec<RepositoryPin>,
}

/// What a config asks of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// An address.
    pub git: Option<String>,
    /// Or a folder.
    pub path: Option<String>,
    /// A branch.
    pub branch: Option<String>,
    /// A tag.
    pub tag: Option<String>,
    /// A certain commit; a pin of another one does not match.
    pub at: Option<CommitId>,
    /// The patches on top, as the config has them. A pin with other patches still matches: adding a patch does not change the commit.
    pub patches: Vec<String>,
}

impl Asked {
    /// A folder of this machine, as the config has it.
    pub fn folder(written: &str) -> Self {
        Self { git: None, path: Some(written.to_owned()), branch: None, tag: None, at: None, patches: Vec::new() }
    }
}

impl From<&Source> for Asked {
    fn from(source: &Source) -> Self {
        let git = match source {
            Source::Path(path) => return Self::folder(path),
            Source::Git(git) => git,
        };
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.text.clone());
        Self {
            // The lock is committed, so it must not hold passwords.
            git: Some(without_secrets(&git.url)),
            path: None,
            branch: text(&git.branch),
            tag: text(&git.tag),
            at: git.commit.clone(),
            patches: git.patches.iter().map(|patch| patch.text.clone()).collect(),
        }
    }
}

impl RepositoryPin {
    /// Whether both pin the same request.
    pub fn replaces(&self, other: &Self) -> bool {
        (&self.name, &self.git, &self.path, &self.branch, &self.tag, self.exact)
            == (&other.name, &other.git, &other.path, &other.branch, &other.tag, other.exact)
            && (!self.exact || self.commit == other.commit)
            && self.patch_files().eq(other.patch_files())
    }

    /// Whether it has exactly these patches, as the config names them.
    pub fn has_patches(&self, files: &[String]) -> bool {
        self.patch_files().eq(files.iter().map(String::as_str))
    }

    fn patch_files(&self) -> impl Iterator<Item = &str> {
        self.patches.iter().map(|patch| patch.file.as_str())
    }

    /// Whether this is what a config asks for.
    pub fn answers(&self, asked: &Asked) -> bool {
        self.git == asked.git
            && self.path == asked.path
            && self.branch == asked.branch
            && self.tag == asked.tag
            && self.exact == asked.at.is_some()
            && (asked.at.is_none() || asked.at == self.commit)
            // Without a commit it pins nothing.
            && (self.git.is_none() || self.commit.is_some())
    }
}

/// The build host that a project is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPin {
    /// The rootfs recipe or image, as the config names it.
    pub name: String,
    /// The digest of its manifest.
    pub image: Digest,
    /// The digest of the rootfs recipe that it was made from, with the files that it copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Digest>,
    /// The packages that it was made from, by name: version and sha256. Empty for images that were not made here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub packages: BTreeMap<String, PackagePin>,
}

/// One package, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagePin {
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
    Damaged(Box<Problems>),
    /// A merge of git's that was left open.
    #[error("smidr.lock has a merge conflict")]
    Conflict(Box<Problems>),
    /// A link, so that nothing of what it leads to is quoted.
    #[error("smidr.lock is a link to a file that is not a lock (line {line}, column {column})")]
    Linked {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// A malformed name or version of a package.
    #[error("smidr.lock has the package `{0}`, which is not a valid name and version")]
    Package(String),
    /// Written by a newer smidr.
    #[error("smidr.lock has version {0}, and this smidr reads up to {VERSION}")]
    TooNew(u32),
}

impl UserError for LockError {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        match self {
            Self::Damaged(problems) | Self::Conflict(problems) => Some(problems.render(colour)),
            _ => None,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        vec![match self {
            Self::Damaged(_) | Self::Package(_) => {
                Hint::command("restore it from version control, or update smidr", "git checkout smidr.lock")
            }
            Self::Conflict(_) => {
                Hint::command("keep what both sides pin alike, and pin the rest to what it is now", "smidr lock")
            }
            Self::Linked { .. } => Hint::new("replace the link by the lock itself"),
            Self::TooNew(_) => Hint::new("update smidr"),
        }]
    }
}

impl LockError {
    /// The same without quoting the lock.
    #[must_use]
    pub fn unquoted(self) -> Self {
        match self {
            Self::Damaged(problems) | Self::Conflict(problems) => {
                let start = problems.list.first().map_or(0, |problem| problem.span.start);
                let before = problems.text.get(..start).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                Self::Linked { line, column }
            }
            other => other,
        }
    }
}

impl Default for Lock {
    /// A lock that pins nothing yet.
    fn default() -> Self {
        Self { version: VERSION, config: None, host: None, hosts: Vec::new(), repositories: Vec::new() }
    }
}

impl Lock {
    /// A lock of exactly this.
    pub fn of(pins: Pins) -> Self {
        let mut lock = Self::default();
        lock.pin(pins);
        lock
    }

    /// What a repository is pinned to, if that is what is asked for.
    pub fn repository(&self, name: &str, asked: &Asked) -> Option<&RepositoryPin> {
        let answers = || self.repositories.iter().filter(|known| known.name == name && known.answers(asked));
        answers().find(|known| known.has_patches(&asked.patches)).or_else(|| answers().next())
    }

    /// What a build host is pinned to.
    pub fn host(&self, name: &str) -> Option<&HostPin> {
        self.hosts.iter().find(|known| known.name == name)
    }

    /// All build hosts, by name.
    pub fn hosts(&self) -> &[HostPin] {
        &self.hosts
    }

    /// All repositories, in the lock's order.
    pub fn repositories(&self) -> &[RepositoryPin] {
        &self.repositories
    }

    /// Replaces the pins of the same names, addresses and references. A folder's commit is not updated: it would change with each commit
    /// in it.
    pub fn pin(&mut self, pins: Pins) {
        for new in pins.hosts {
            self.hosts.retain(|old| old.name != new.name);
            self.hosts.push(new);
        }
        self.hosts.sort_by(|a, b| a.name.cmp(&b.name));
        for new in pins.repositories {
            if new.path.is_none() || !self.repositories.iter().any(|old| old.replaces(&new)) {
                self.repositories.retain(|old| !old.replaces(&new));
                self.repositories.push(new);
            }
        }
        self.repositories.sort();
    }

    /// Adds what another lock pins beyond this one.
    #[must_use]
    pub fn with(mut self, further: &Self) -> Self {
        self.hosts
            .extend(further.hosts.iter().filter(|pin| self.host(&pin.name).is_none()).cloned().collect::<Vec<_>>());
        let is_new = |pin: &&RepositoryPin| !self.repositories.iter().any(|known| known.replaces(pin));
        self.repositories.extend(further.repositories.iter().filter(is_new).cloned().collect::<Vec<_>>());
        self
    }

    /// Whether it pins nothing.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.repositories.is_empty()
    }

    /// Takes pins that were resolved on top of `before`, except those that are equal in it: this lock may have newer ones.
    pub fn pin_news(&mut self, mut pins: Pins, before: &Self) {
        pins.hosts.retain(|new| !before.hosts.contains(new) || self.host(&new.name).is_none());
        pins.repositories.retain(|new| {
            !before.repositories.contains(new) || !self.repositories.iter().any(|known| known.replaces(new))
        });
        self.pin(pins);
    }

    /// Removes the pins of `names`; `host` is the build host.
    pub fn forget(&mut self, names: &[&str]) {
        self.repositories.retain(|known| !names.contains(&known.name.as_str()));
        self.hosts.retain(|_| !names.contains(&HOST));
    }

    /// Removes the pins of folders of this machine.
    pub fn forget_folders(&mut self) {
        self.repositories.retain(|known| known.path.is_none());
    }

    /// Removes pins that no variant asks for any more.
    pub fn keep(&mut self, asked: &Pins) {
        self.hosts.retain(|known| asked.hosts.iter().any(|other| known.name == other.name));
        self.repositories.retain(|known| asked.repositories.iter().any(|other| known.replaces(other)));
    }

    /// Reads a lock.
    ///
    /// # Errors
    ///
    /// When it is damaged or too new.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let problems = |problem| {
            Box::new(Problems { file: "smidr.lock".into(), text: text.into(), further: None, list: vec![problem] })
        };
        if let Some(conflict) = config::conflict(text) {
            return Err(LockError::Conflict(problems(config::Problem { hint: None, ..conflict })));
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let mut lock = match serde_yaml::from_str::<Self>(text) {
            Ok(lock) if lock.version > VERSION => return Err(LockError::TooNew(lock.version)),
            Ok(lock) => lock,
            // A newer version may have another form.
            Err(error) => match serde_yaml::from_str(text) {
                Ok(Version { version }) if version > VERSION => return Err(LockError::TooNew(version)),
                _ => return Err(LockError::Damaged(problems(config::yaml_problem(text, &error)))),
            },
        };
        // These become arguments of the host's apt, and a lock is untrusted.
        lock.hosts.extend(lock.host.take());
        let packages = lock.hosts.iter().flat_map(|host| &host.packages);
        match packages.into_iter().find(|(name, package)| !is_package(name, &package.version)) {
            Some((name, package)) => Err(LockError::Package(format!("{name}={}", package.version))),
            None => Ok(lock),
        }
    }

    /// What the two sides of a merge conflict pin alike, or only one of them pins; and the names of what they pin differently.
    ///
    /// # Errors
    ///
    /// When one of the sides is no lock.
    pub fn merged(text: &str) -> Result<(Self, Vec<String>), LockError> {
        let [ours, theirs] = config::sides(text);
        let (mut lock, theirs) = (Self::parse(&ours)?, Self::parse(&theirs)?);
        let mut left_out: Vec<String> = Vec::new();
        let mut both = Pins { hosts: lock.hosts.clone(), repositories: lock.repositories.clone() };
        both.hosts.extend(theirs.hosts.iter().filter(|pin| lock.host(&pin.name).is_none()).cloned());
        let is_new = |pin: &&RepositoryPin| !lock.repositories.iter().any(|known| known.replaces(pin));
        both.repositories.extend(theirs.repositories.iter().filter(is_new).cloned());
        both.hosts.retain(|pin| {
            let agrees = theirs.host(&pin.name).is_none_or(|other| other == pin);
            left_out.extend((!agrees).then(|| pin.name.clone()));
            agrees
        });
        both.repositories.retain(|pin| {
            let agrees = theirs.repositories.iter().all(|other| !other.replaces(pin) || other == pin);
            left_out.extend((!agrees).then(|| pin.name.clone()));
            agrees
        });
        (lock.config, lock.hosts, lock.repositories) = (None, both.hosts, both.repositories);
        Ok((lock, left_out))
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

    /// The text of the lock of the user's own file.
    ///
    /// # Errors
    ///
    /// As [`Lock::to_text`].
    pub fn to_local_text(&self) -> Result<String, serde_yaml::ser::Error> {
        let body = serde_yaml::to_string(self)?;
        Ok(format!("# Written by smidr, for smidr.local.yaml. Not to be committed.\n{body}"))
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
        let package = PackagePin { version: "1:2.3-4~deb12u1".into(), sha256: digest.clone() };
        let packages = [("libc6".to_owned(), package)].into();
        let host = HostPin { name: "debian-12".into(), image: digest.clone(), recipe: Some(digest.clone()), packages };
        let commit = "0a".repeat(20).parse().expect("a commit");
        let patch = PatchPin { file: "./patches/0001.patch".into(), sha256: digest.clone() };
        let poky = RepositoryPin {
            name: "poky".into(),
            git: Some("https://git.yoctoproject.org/poky".into()),
            path: None,
            branch: Some("scarthgap".into()),
            tag: None,
            exact: false,
            commit: Some(commit),
            dirty: false,
            patches: vec![patch],
        };
        let own = RepositoryPin {
            name: "meta-own".into(),
            git: None,
            path: Some("./layers/meta-own".into()),
            branch: None,
            dirty: true,
            patches: vec![],
            ..poky.clone()
        };
        let mut lock = Lock { config: Some(digest), ..Lock::default() };
        lock.pin(Pins { hosts: vec![host], repositories: vec![poky.clone(), own.clone()] });
        let text = lock.to_text().expect("text");
        assert_eq!(Lock::parse(&text).expect("parses"), lock);
        insta::assert_snapshot!(text);

        // Another commit of the same branch replaces the old one; another branch is added; folders stay.
        let other: CommitId = "0b".repeat(20).parse().expect("a commit");
        let moved = RepositoryPin { commit: Some(other.clone()), ..poky.clone() };
        let beside = RepositoryPin { branch: Some("kirkstone".into()), ..poky.clone() };
        let later = RepositoryPin { commit: Some(other.clone()), ..own.clone() };
        let before = lock.clone();
        lock.pin(Pins { hosts: vec![], repositories: vec![moved.clone(), beside.clone(), later] });
        assert_eq!(lock.repositories(), [own, beside.clone(), moved.clone()]);
        let asked = |at: Option<&CommitId>| Asked {
            git: poky.git.clone(),
            path: None,
            branch: poky.branch.clone(),
            tag: None,
            at: at.cloned(),
            patches: vec!["./patches/0001.patch".into()],
        };
        assert_eq!(lock.repository("poky", &asked(None)), Some(&moved));
        assert_eq!(lock.repository("poky", &asked(Some(&other))), None, "the config did not name it");
        assert_eq!(
            lock.repository("poky", &Asked { patches: vec![], ..asked(None) }),
            Some(&moved),
            "the commit stays when patches come and go"
        );
        // Pins that are unchanged since `before` replace nothing.
        let mut unchanged = lock.clone();
        unchanged.pin_news(Pins { hosts: vec![], repositories: before.repositories().to_vec() }, &before);
        assert_eq!(unchanged, lock);
        // Variants that differ in a commit or in patches have a pin each.
        let exact = RepositoryPin { exact: true, ..poky.clone() };
        let plain = RepositoryPin { patches: vec![], ..moved.clone() };
        let mut many = lock.clone();
        many.pin(Pins { hosts: vec![], repositories: vec![exact.clone(), plain.clone()] });
        assert_eq!(many.repositories().len(), lock.repositories().len() + 2);
        assert_eq!(many.repository("poky", &asked(poky.commit.as_ref())), Some(&exact));
        assert_eq!(many.repository("poky", &Asked { patches: vec![], ..asked(None) }), Some(&plain));
        let empty = RepositoryPin { commit: None, ..plain };
        assert!(!empty.answers(&asked(None)), "a pin without a commit matches nothing");
        assert_eq!(lock.repository("poky", &asked(poky.commit.as_ref())), None, "the config names another commit");
        assert_eq!(lock.repository("other", &asked(None)), None);

        lock.keep(&Pins { hosts: lock.hosts().to_vec(), repositories: vec![beside.clone()] });
        assert_eq!(lock.repositories(), [beside]);
        lock.forget(&["poky", "host", "nothing"]);
        assert_eq!((lock.repositories().len(), lock.hosts().len()), (0, 0));
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
        assert!(matches!(Lock::parse("<<<<<<< HEAD\n"), Err(LockError::Conflict(_))));
    }

    #[test]
    fn a_merge_keeps_what_both_sides_pin_alike() {
        let pin = |name: &str, commit: &str| {
            format!("- name: {name}\n  git: https://h/{name}\n  branch: b\n  commit: {}\n", commit.repeat(20))
        };
        let text = format!(
            "version: 1\nrepositories:\n{}<<<<<<< ours\n{}=======\n{}{}>>>>>>> theirs\n",
            pin("same", "0a"),
            pin("other", "0b"),
            pin("other", "0c"),
            pin("new", "0d")
        );
        let (lock, left_out) = Lock::merged(&text).expect("two locks");
        let names: Vec<&str> = lock.repositories().iter().map(|pin| pin.name.as_str()).collect();
        assert_eq!((names, left_out), (vec!["same", "new"], vec!["other".to_owned()]));
        assert!(Lock::merged("<<<<<<< a\nversion: 1\n=======\nnonsense\n>>>>>>> b\n").is_err());
    }
}
