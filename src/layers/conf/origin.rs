//! Where values stand, for those that BitBake refuses: the file and line of each assignment to the few variables that are looked at so closely.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::variables::base;

/// How much of what a layer says fits into a message, in characters.
const SHOWN: usize = 80;

/// A place in some conf file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What the config calls the repository that was being read.
    pub repository: Option<String>,
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
        self.repository.as_ref().map_or(Ok(()), |repository| write!(f, ", of `{repository}`"))
    }
}

/// All places, by variable, in the order in which they are read.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// Which repository is being read.
    pub repository: Option<String>,
    all: BTreeMap<String, Vec<Noted>>,
}

#[derive(Debug)]
struct Noted {
    repository: Option<String>,
    path: Rc<Path>,
    line: Option<usize>,
    value: String,
}

impl Origins {
    /// A place in the repository that is being read.
    pub(super) fn at(&self, path: &Path, line: Option<usize>) -> Origin {
        Origin { repository: self.repository.clone(), path: path.into(), line }
    }

    /// Takes down an assignment, if anybody will ask for it.
    pub(super) fn note(&mut self, path: &Rc<Path>, line: Option<usize>, name: &str, value: impl FnOnce() -> String) {
        let name = base(name);
        if name.starts_with("BBFILE_PRIORITY_") || ["BBFILE_COLLECTIONS", "BBFILES_DYNAMIC"].contains(&name) {
            let noted = Noted { repository: self.repository.clone(), path: path.clone(), line, value: value() };
            self.all.entry(name.to_owned()).or_default().push(noted);
        }
    }

    /// The last assignment that has the word, or the last of all.
    pub(super) fn of(&self, name: &str, word: Option<&str>) -> Option<Origin> {
        let all = self.all.get(name)?;
        let has = |noted: &&Noted| word.is_some_and(|word| noted.value.split_whitespace().any(|one| one == word));
        let noted = all.iter().rfind(has).or(all.last())?;
        Some(Origin { repository: noted.repository.clone(), path: noted.path.to_path_buf(), line: noted.line })
    }
}

/// The beginning of what a layer says, for a message.
pub fn short(text: &str) -> String {
    let start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() { format!("{start}…") } else { start }
}
