//! The user's own settings: `SMIDR_HOME/settings.yaml`, for what a project may not decide.
//!
//! Decoded like a config, with all problems at once.

use std::{fs, io, path::Path};

use crate::{
    config::{
        Problem, Problems, Size,
        decode::{Decoder, KnownKey},
        node::{Node, Text},
    },
    model::{Hint, Kind, Paths, Share, UserError},
    system::files::FileError,
};

/// The file, below SMIDR_HOME.
pub(crate) const FILE: &str = "settings.yaml";

/// The user's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Patterns of folders whose projects get what they ask for.
    pub trust: Vec<String>,
    /// Variables that are allowed in addresses.
    pub address_variables: Vec<String>,
    /// How much of the machine builds may use together.
    pub limits: BuildLimits,
}

/// The budget of all builds of one SMIDR_HOME.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BuildLimits {
    /// How many run at once.
    pub builds: Option<u32>,
    /// Processors that builds started together share.
    pub cpus: Option<u32>,
    /// Memory that they share, in bytes.
    pub memory: Option<u64>,
}

impl BuildLimits {
    /// How many builds run at once on a machine with so many processors. A build of OpenEmbedded keeps four busy.
    pub(crate) fn builds(&self, cpus: u32) -> u32 {
        self.builds.unwrap_or_else(|| (cpus / 4).max(2))
    }

    /// What each of `count` builds gets that are started together; none where there is nothing to divide.
    pub(crate) fn share(&self, count: u32, cpus: u32) -> Option<Share> {
        let divided = count > 1 || self.cpus.is_some() || self.memory.is_some();
        let count = count.max(1);
        let cpus = (self.cpus.unwrap_or(cpus).min(cpus) / count).max(1);
        divided.then(|| Share { cpus, memory: self.memory.map(|memory| memory / u64::from(count)) })
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// They are wrong.
    #[error(transparent)]
    Problems(#[from] Box<Problems>),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for SettingsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Problems(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Problems(error) => error.hints(),
            Self::File(error) => error.hints(),
        }
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        match self {
            Self::Problems(error) => error.drawn(colour),
            Self::File(_) => None,
        }
    }
}

impl Settings {
    /// Reads the user's settings; the defaults without a file. `~/` in patterns is `home`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or something in it is wrong.
    pub(crate) fn read(paths: &Paths, home: &Path) -> Result<Self, SettingsError> {
        let file = paths.home().join(FILE);
        match fs::read_to_string(&file) {
            Ok(text) => {
                // Projects are compared by their paths without links.
                let home = fs::canonicalize(home).unwrap_or_else(|_| home.into());
                Ok(Self::parse(&file.display().to_string(), &text, &home).map_err(Box::new)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(FileError::new("read", &file)(error).into()),
        }
    }

    fn parse(name: &str, text: &str, home: &Path) -> Result<Self, Problems> {
        let problems = |list| Problems { file: name.into(), text: text.into(), further: None, list };
        let root = Node::parse(text).map_err(|problem| problems(vec![problem]))?;
        let mut d = Decoder::new(&|_| None);
        let settings = Self::decode(&mut d, &root, home);
        if d.problems.is_empty() { Ok(settings) } else { Err(problems(d.problems)) }
    }

    /// All keys, as they are asked for.
    pub(crate) fn known_keys() -> Vec<KnownKey> {
        let mut d = Decoder::new(&|_| None);
        Self::decode(&mut d, &Node::parse("{}").expect("a fixed text"), Path::new("/"));
        d.known
    }

    fn decode(d: &mut Decoder<'_>, root: &Node, home: &Path) -> Self {
        let mut f = d.fields(root, "");
        let (patterns, variables) = (f.texts(d, "trust"), f.texts(d, "address_variables"));
        let mut l = f.fields(d, "limits");
        let (builds, cpus) = (l.count(d, "builds"), l.count(d, "cpus"));
        let memory = l.text(d, "memory");
        let memory = memory.and_then(|text| d.parse::<Size>(text, "limits.memory", "a size such as 8g or 512m"));
        l.finish(d);
        f.finish(d);
        let trust = patterns.iter().filter_map(|text| pattern(d, text, home)).collect();
        let address_variables = variables.into_iter().map(|text| text.text).collect();
        let limits = BuildLimits { builds, cpus, memory: memory.map(|size| size.0) };
        Self { trust, address_variables, limits }
    }

    /// Whether the user trusts every project in this folder.
    pub(crate) fn trusts(&self, folder: &Path) -> bool {
        self.trust.iter().filter_map(|pattern| matcher(pattern).ok()).any(|pattern| pattern.is_match(folder))
    }
}

fn pattern(d: &mut Decoder<'_>, text: &Text, home: &Path) -> Option<String> {
    let pattern = match text.text.strip_prefix("~/") {
        Some(rest) => format!("{}/{rest}", home.display()),
        None => text.text.clone(),
    };
    let wrong = match matcher(&pattern) {
        _ if !pattern.starts_with('/') => "begins neither with / nor with ~/".to_owned(),
        Ok(_) => return Some(pattern),
        Err(error) => format!("is not a valid pattern: {error}"),
    };
    d.problem(
        Problem::new(text.span.clone(), format!("trust: `{}` {wrong}", text.text))
            .hint("name a folder:  /srv/ci/*  for those in it,  /srv/ci/**  at any depth"),
    );
    None
}

fn matcher(pattern: &str) -> Result<globset::GlobMatcher, globset::Error> {
    Ok(globset::GlobBuilder::new(pattern).literal_separator(true).build()?.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_of_whole_folders() {
        let text = "trust: [/srv/ci/*, ~/src/**]\naddress_variables: GIT_TOKEN\nlimits: {builds: 3, memory: 8g}\n";
        let settings = Settings::parse("settings.yaml", text, Path::new("/home/u")).expect("good settings");
        assert_eq!(settings.address_variables, ["GIT_TOKEN"]);
        assert_eq!(settings.limits.share(4, 16), Some(Share { cpus: 4, memory: Some(2 << 30) }));
        assert_eq!((settings.limits.builds(64), BuildLimits::default().builds(64)), (3, 16));
        assert_eq!(BuildLimits::default().share(1, 16), None);
        assert_eq!(BuildLimits::default().share(5, 2), Some(Share { cpus: 1, memory: None }));
        for (folder, trusted) in [
            ("/srv/ci/one", true),
            ("/srv/ci", false),
            ("/srv/ci/one/two", false),
            ("/srv/ci-evil/one", false),
            ("/home/u/src/a/b", true),
            ("/home/u/src-other/a", false),
            ("/home/other/src/a", false),
        ] {
            assert_eq!(settings.trusts(Path::new(folder)), trusted, "{folder}");
        }
    }

    #[test]
    fn wrong_settings_are_errors() {
        for (text, message) in [
            ("trust: work", "begins neither"),
            ("trust: '/a/[x'", "is not a valid"),
            ("trsut: x", "unknown key"),
            ("limits: {build: 1}", "unknown key"),
            ("limits: {memory: much}", "8g"),
        ] {
            let problems = Settings::parse("settings.yaml", text, Path::new("/home/u")).expect_err(text);
            assert!(problems.render(false).contains(message), "{}", problems.render(false));
        }
    }
}
