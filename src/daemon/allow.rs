//! What `allow:` of `daemon.yaml` may name, and whether it covers what a submission needs. Pure.

use std::{
    fmt,
    path::{Component, Path},
};

use crate::{config::nearest, model::Logins};

/// One of the things that the policy can allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// `host.isolation: none`.
    NoIsolation,
    /// A folder or file to be read.
    Bind,
    /// A folder or file to be changed.
    BindWritable,
    /// Every `.git` in a folder.
    GitWritable,
    /// Files of passwords.
    Credentials,
    /// The daemon's ssh-agent.
    SshAgent,
    /// The daemon's proxies, where they have a password.
    Proxies,
    /// Device nodes.
    Devices,
    /// Folders that builds write to.
    Folders,
    /// Files that builds read.
    Outside,
    /// git repositories of the daemon's machine.
    LocalRepositories,
    /// git repositories by ssh.
    SshRepositories,
    /// The daemon's logins.
    Login,
    /// Links out of layers.
    OutsideLinks,
    /// Ids of /etc/subuid.
    IdRange,
    /// Rootfs recipes that run commands.
    RecipeCommands,
    /// The same with the network.
    RecipeNetwork,
    /// Package mirrors of rootfs recipes.
    RecipeMirror,
    /// Keyrings of rootfs recipes.
    RecipeKeys,
    /// Proxies and pip configuration for rootfs recipes.
    RecipeCredentials,
    /// Images of registries.
    Images,
    /// Images of the daemon's store.
    StoredImages,
    /// Conf that a shell has left in a workspace.
    LeftConf,
    /// Caches.
    Cache,
}

/// What stands behind the colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Nothing,
    /// An absolute path, with wildcards, for itself and all below it.
    Path,
    /// The same, or nothing for all.
    PathOrAll,
    /// An address, for itself and all below it.
    Address,
    /// The same, or nothing for all.
    AddressOrAll,
    /// A name with wildcards.
    Pattern,
}

/// As they are written, in the order of the documentation.
const NAMES: [(&str, Name, Form); 24] = [
    ("no-isolation", Name::NoIsolation, Form::Nothing),
    ("bind", Name::Bind, Form::Path),
    ("bind-writable", Name::BindWritable, Form::Path),
    ("git-writable", Name::GitWritable, Form::Path),
    ("credentials", Name::Credentials, Form::PathOrAll),
    ("ssh-agent", Name::SshAgent, Form::Nothing),
    ("proxies", Name::Proxies, Form::Nothing),
    ("devices", Name::Devices, Form::Path),
    ("folders", Name::Folders, Form::Path),
    ("outside", Name::Outside, Form::PathOrAll),
    ("local-repositories", Name::LocalRepositories, Form::PathOrAll),
    ("ssh-repositories", Name::SshRepositories, Form::AddressOrAll),
    ("login", Name::Login, Form::Address),
    ("outside-links", Name::OutsideLinks, Form::Nothing),
    ("id-range", Name::IdRange, Form::Nothing),
    ("recipe-commands", Name::RecipeCommands, Form::Nothing),
    ("recipe-network", Name::RecipeNetwork, Form::Nothing),
    ("recipe-mirror", Name::RecipeMirror, Form::AddressOrAll),
    ("recipe-keys", Name::RecipeKeys, Form::Nothing),
    ("recipe-credentials", Name::RecipeCredentials, Form::Nothing),
    ("images", Name::Images, Form::Pattern),
    ("stored-images", Name::StoredImages, Form::Pattern),
    ("left-conf", Name::LeftConf, Form::Nothing),
    ("cache", Name::Cache, Form::Pattern),
];

/// An entry of `allow:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allow {
    name: Name,
    about: Option<String>,
}

/// What a submission needs, as the policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need<'a> {
    /// Of which kind it is.
    pub name: Name,
    /// Which one.
    pub about: About<'a>,
}

/// Which one of its kind something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum About<'a> {
    /// There is only one.
    Nothing,
    /// By its real path.
    Path(&'a Path),
    /// By its address.
    Address(&'a str),
    /// By its name.
    Named(&'a str),
}

impl Name {
    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        self.row().0
    }

    fn row(self) -> (&'static str, Self, Form) {
        NAMES.into_iter().find(|(_, name, _)| *name == self).unwrap_or(("", self, Form::Nothing))
    }
}

impl Allow {
    /// Reads an entry.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, AllowError> {
        let (word, about) = text.split_once(':').map_or((text, None), |(word, about)| (word, Some(about)));
        let Some((word, name, form)) = NAMES.into_iter().find(|(known, ..)| *known == word) else {
            return Err(AllowError::Unknown { word: word.into(), near: nearest(word, words()) });
        };
        match (form, about) {
            (Form::Nothing, Some(_)) => return Err(AllowError::Superfluous { word }),
            (Form::Path, None) => return Err(AllowError::Lacks { word, what: "a path", example: "/srv/shared" }),
            (Form::Address, None) => {
                return Err(AllowError::Lacks { word, what: "an address", example: "https://git.example.com/team/" });
            }
            (Form::Pattern, None) => return Err(AllowError::Lacks { word, what: "a name", example: "team-*" }),
            (Form::Path | Form::PathOrAll, Some(path)) => check_path(path)?,
            (Form::Address | Form::AddressOrAll | Form::Pattern, Some(about)) if about.trim().is_empty() => {
                return Err(AllowError::Empty { word });
            }
            (Form::Pattern, Some(pattern)) => {
                drop(glob(pattern).map_err(|error| AllowError::Pattern { why: error.kind().to_string() })?)
            }
            (Form::Nothing | Form::PathOrAll | Form::AddressOrAll, None)
            | (Form::Address | Form::AddressOrAll, Some(_)) => {}
        }
        Ok(Self { name, about: about.map(str::to_owned) })
    }

    /// The address that `login` names.
    pub(crate) fn login(&self) -> Option<&String> {
        self.about.as_ref().filter(|_| self.name == Name::Login)
    }

    /// Whether this allows what is needed.
    pub(crate) fn covers(&self, need: &Need<'_>) -> bool {
        // What may be changed may be read.
        let is_it = self.name == need.name || (self.name, need.name) == (Name::BindWritable, Name::Bind);
        is_it
            && match (&self.about, &need.about) {
                (None, _) => true,
                (Some(pattern), About::Path(path)) => covers_path(pattern, path),
                (Some(prefix), About::Address(address)) => Logins::Below(vec![prefix.clone()]).reach(address),
                (Some(pattern), About::Named(name)) => glob(pattern).is_ok_and(|glob| glob.is_match(name)),
                (Some(_), About::Nothing) => false,
            }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.word())?;
        self.about.iter().try_for_each(|about| write!(f, ":{about}"))
    }
}

/// The entry of `allow:` that would cover it, and no more.
impl fmt::Display for Need<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.word())?;
        match &self.about {
            About::Nothing => Ok(()),
            About::Path(path) => write!(f, ":{}", path.display()),
            About::Address(text) | About::Named(text) => write!(f, ":{text}"),
        }
    }
}

/// Why an entry is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AllowError {
    /// There is no such thing.
    #[error("`{word}` is nothing that a config can ask for")]
    Unknown {
        /// As written.
        word: String,
        /// What may be meant.
        near: Option<&'static str>,
    },
    /// It has to say which.
    #[error("`{word}` needs {what}")]
    Lacks {
        /// The name.
        word: &'static str,
        /// What is missing.
        what: &'static str,
        /// One.
        example: &'static str,
    },
    /// There is nothing to say.
    #[error("`{word}` stands alone")]
    Superfluous {
        /// The name.
        word: &'static str,
    },
    /// Nothing behind the colon.
    #[error("`{word}:` has nothing behind the colon")]
    Empty {
        /// The name.
        word: &'static str,
    },
    /// No absolute path, or one that leads up.
    #[error("`{path}` is no absolute path without `..`")]
    Path {
        /// As written.
        path: String,
    },
    /// Wildcards that cannot be read.
    #[error("the pattern is not valid: {why}")]
    Pattern {
        /// What is wrong.
        why: String,
    },
}

impl AllowError {
    /// What to write instead.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Unknown { near: Some(near), .. } => format!("did you mean `{near}`?"),
            Self::Unknown { near: None, .. } => format!("known here: {}", words().collect::<Vec<_>>().join(", ")),
            Self::Lacks { word, example, .. } => format!("write  {word}:{example}"),
            Self::Superfluous { word } => format!("write  {word}"),
            Self::Empty { .. } => "for all of them write  *".into(),
            Self::Path { .. } => {
                "write  /srv/shared  for that folder and all below it,  /srv/*/layers  with wildcards".into()
            }
            Self::Pattern { .. } => "* stands for anything but a slash, ** for anything".into(),
        }
    }
}

fn words() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().map(|(word, ..)| word)
}

fn check_path(text: &str) -> Result<(), AllowError> {
    let path = Path::new(text);
    if !path.is_absolute() || !is_straight(path) {
        return Err(AllowError::Path { path: text.into() });
    }
    glob(text).map(drop).map_err(|error| AllowError::Pattern { why: error.kind().to_string() })
}

/// Whether a path leads nowhere up.
fn is_straight(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Whether a path, or a folder that it is in, matches. Wildcards stay within a component.
fn covers_path(pattern: &str, path: &Path) -> bool {
    let pattern = match pattern.trim_end_matches('/') {
        "" => "/",
        pattern => pattern,
    };
    is_straight(path) && glob(pattern).is_ok_and(|glob| path.ancestors().any(|part| glob.is_match(part)))
}

fn glob(pattern: &str) -> Result<globset::GlobMatcher, globset::Error> {
    Ok(globset::GlobBuilder::new(pattern).literal_separator(true).backslash_escape(false).build()?.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_by_components() {
        for (allowed, path, covered) in [
            ("bind:/srv/x", "/srv/x", true),
            ("bind:/srv/x/", "/srv/x/y/z", true),
            ("bind:/srv/x", "/srv/x-evil", false),
            ("bind:/srv/x", "/srv", false),
            ("bind:/srv/x", "/srv/x/../y", false),
            ("bind:/srv/x", "srv/x", false),
            ("bind:/", "/anything", true),
            ("bind:/srv/*", "/srv/x/y", true),
            ("bind:/srv/*", "/srv", false),
            ("bind:/srv/*/out", "/srv/a/out/b", true),
            ("bind:/srv/*/out", "/srv/a/b/out", false),
            ("bind:/srv/**/out", "/srv/a/b/out", true),
            ("bind-writable:/srv/x", "/srv/x", true),
            ("folders:/srv/x", "/srv/x", false),
            ("devices:/srv/x", "/srv/x", false),
        ] {
            let allow = Allow::parse(allowed).expect(allowed);
            let need = Need { name: Name::Bind, about: About::Path(Path::new(path)) };
            assert_eq!(allow.covers(&need), covered, "{allowed} {path}");
            assert_eq!(allow.to_string(), allowed);
        }
        let writable = Need { name: Name::BindWritable, about: About::Path(Path::new("/srv/x")) };
        assert!(!Allow::parse("bind:/srv/x").expect("an entry").covers(&writable));
        // What an entry would have to be.
        assert!(Allow::parse(&writable.to_string()).expect("an entry").covers(&writable));
    }

    #[test]
    fn names_and_addresses() {
        let hub = Need { name: Name::Images, about: About::Named("docker.io/library/debian:12") };
        for (allowed, covered) in [
            ("images:docker.io/library/*", true),
            ("images:docker.io/*", false),
            ("images:docker.io/**", true),
            ("images:docker.io/library/debian", false),
            ("images:docker.io/library/debian:*", true),
            ("images:**", true),
            ("stored-images:**", false),
        ] {
            assert_eq!(Allow::parse(allowed).expect(allowed).covers(&hub), covered, "{allowed}");
        }
        let ssh = Need { name: Name::SshRepositories, about: About::Address("ssh://git@h/team/x") };
        for (allowed, covered) in [
            ("ssh-repositories", true),
            ("ssh-repositories:ssh://git@h/team/", true),
            ("ssh-repositories:ssh://git@h/te", false),
            ("login:ssh://git@h/team/", false),
        ] {
            assert_eq!(Allow::parse(allowed).expect(allowed).covers(&ssh), covered, "{allowed}");
        }
    }

    #[test]
    fn wrong_entries_say_what_to_write() {
        for (text, error, hint) in [
            ("ssh-agnet", "nothing that a config can ask for", "`ssh-agent`"),
            ("variables", "nothing that a config can ask for", "known here"),
            ("bind", "needs a path", "bind:/srv/shared"),
            ("login", "needs an address", "login:https://"),
            ("images", "needs a name", "images:team-*"),
            ("images:", "nothing behind the colon", "*"),
            ("ssh-agent:x", "stands alone", "write  ssh-agent"),
            ("bind:srv", "no absolute path", "/srv/shared"),
            ("bind:/srv/../etc", "no absolute path", "/srv/shared"),
            ("outside:", "no absolute path", "/srv/shared"),
            ("cache:[x", "pattern is not valid", "**"),
        ] {
            let found = Allow::parse(text).expect_err(text);
            assert!(found.to_string().contains(error), "{text}: {found}");
            assert!(found.hint().contains(hint), "{text}: {}", found.hint());
        }
    }

    #[test]
    fn every_entry_is_documented() {
        let reference = include_str!("../../docs/daemon-yaml.md");
        let section =
            reference.split("\n## allow\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
        let rows: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let wanted = NAMES.map(|(word, _, form)| match form {
            Form::Nothing => word.into(),
            Form::Path => format!("{word}:PATH"),
            Form::PathOrAll => format!("{word}[:PATH]"),
            Form::Address => format!("{word}:ADDRESS"),
            Form::AddressOrAll => format!("{word}[:ADDRESS]"),
            Form::Pattern => format!("{word}:NAME"),
        });
        assert_eq!(rows, wanted);
    }
}
