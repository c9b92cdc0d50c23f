//! What can fail between smidr and a git repository. Texts never hold a password: addresses are shown without it.

use std::{error::Error, io, path::PathBuf};

use jiff::Timestamp;

use crate::{
    model::{CommitId, Hint, Kind, Shown, UserError, folder_of, without_secrets},
    system::{files::FileError, lock::WaitError},
};

/// Foreign text is cut after so many characters.
const MOST_CHARS: usize = 400;

/// Why a commit of a repository cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// A stop was requested.
    #[error("stopped while fetching {0}")]
    Stopped(String),
    /// The lock of a mirror.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The network would be needed and may not be used.
    #[error("{wanted} of {url} is not in the store yet, and the network may not be used")]
    Offline {
        /// The repository.
        url: String,
        /// Branch, tag or commit.
        wanted: String,
    },
    /// No such branch or tag.
    #[error("{url} has no {kind} `{name}`")]
    Unknown {
        /// The repository.
        url: String,
        /// `branch` or `tag`.
        kind: &'static str,
        /// As asked for.
        name: String,
        /// Names that it has, the nearest first.
        near: Vec<String>,
        /// What there is instead.
        instead: Option<Instead>,
    },
    /// No such commit.
    #[error("{url} has no commit {commit}")]
    UnknownCommit {
        /// The repository.
        url: String,
        /// As asked for.
        commit: CommitId,
    },
    /// The lock names a commit that cannot be had any more.
    #[error("smidr.lock pins `{name}` to the commit {commit}, which {url} does not have any more")]
    Gone {
        /// The repository.
        url: String,
        /// The layer's name in the lock.
        name: String,
        /// The commit.
        commit: CommitId,
    },
    /// The config names a commit and a branch that does not contain it.
    #[error("{url} has no commit {commit} on the branch `{branch}`")]
    NotOnBranch {
        /// The repository.
        url: String,
        /// The commit, or the one that the tag means.
        commit: CommitId,
        /// The branch.
        branch: String,
    },
    /// The config names a commit and a branch, and the server is shallow, so that containment is unknown.
    #[error("{url} cannot tell whether {commit} is on the branch `{branch}`: its own past is cut off")]
    Cut {
        /// The repository.
        url: String,
        /// The commit, or the one that the tag means.
        commit: CommitId,
        /// The branch.
        branch: String,
    },
    /// The config names a commit and a tag of another one.
    #[error("the tag `{tag}` of {url} is the commit {found}, and not {wanted}")]
    OtherTag {
        /// The repository.
        url: String,
        /// The tag.
        tag: String,
        /// What it is.
        found: CommitId,
        /// What the config says.
        wanted: CommitId,
    },
    /// A tag of a file or a folder.
    #[error("the tag `{tag}` of {url} is not a commit")]
    NoCommit {
        /// The repository.
        url: String,
        /// The tag.
        tag: String,
    },
    /// Access is denied.
    #[error("{url} denies access {tried}")]
    Denied {
        /// The repository.
        url: String,
        /// Which credentials were shown, or looked for.
        tried: String,
        /// What to do.
        hint: Box<Hint>,
    },
    /// It wants a login, and the project may not use the user's.
    #[error("{url} wants a login, and this project has not been granted yours")]
    NeedsLogin {
        /// The repository.
        url: String,
    },
    /// An index that is needed to tell which submodules there are.
    #[error("cannot read {}: {why}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// In the words of the library.
        why: String,
    },
    /// A redirect, where a login was granted for one address.
    #[error("{url} leads to {to}, and a login was granted for this address only")]
    Elsewhere {
        /// The repository.
        url: String,
        /// Where to, as far as that is known.
        to: String,
    },
    /// A submodule that needs the user's keys or a folder of this machine.
    #[error(
        "{url} is a submodule that is fetched with your keys or from this machine, which this project has not been granted"
    )]
    NotGranted {
        /// Its address.
        url: String,
    },
    /// ssh does not know the machine, or knows another one by that name.
    #[error("{}", host_key(.url, .host, *.is_changed))]
    HostKey {
        /// The repository.
        url: String,
        /// The machine.
        host: String,
        /// Its port, where it is not the usual one.
        port: Option<u16>,
        /// Whether ssh knows another key.
        is_changed: bool,
    },
    /// No connection.
    #[error("cannot reach {url}: {why}")]
    Unreachable {
        /// The repository.
        url: String,
        /// The transport's own words.
        why: String,
    },
    /// There is no such repository.
    #[error("there is no git repository at {url}{}", colon(.why))]
    NoRepository {
        /// The address.
        url: String,
        /// The server's own words.
        why: String,
    },
    /// The server does not give a commit by its id; it may be on a branch.
    #[error("{url} does not give the commit {commit}")]
    Refused {
        /// The repository.
        url: String,
        /// The commit.
        commit: CommitId,
    },
    /// Any other failure of the server or the connection.
    #[error("cannot fetch from {url}: {why}")]
    Failed {
        /// The repository.
        url: String,
        /// The transport's own words.
        why: String,
    },
    /// The objects of a commit are incomplete after a fetch.
    #[error("what {url} sent of the commit {commit} is not whole")]
    Torn {
        /// The repository.
        url: String,
        /// The commit.
        commit: CommitId,
    },
    /// Neither the repository nor any of its mirrors.
    #[error("neither {url} nor its mirrors have it:{}", lines(.failures))]
    Everywhere {
        /// The repository.
        url: String,
        /// Why not, for each of them.
        failures: Vec<GitError>,
    },
    /// The host's git is needed and not installed.
    #[error("{url} needs git on this machine, which is not installed: {why}")]
    NoGit {
        /// The repository.
        url: String,
        /// What smidr cannot do itself.
        why: String,
    },
    /// git's own configuration.
    #[error("cannot understand the configuration of git: {0}")]
    Config(String),
    /// A mirror of the store.
    #[error("cannot use the mirror {path}: {why}")]
    Mirror {
        /// Its folder.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A repository in git's newer format of objects.
    #[error("{url} is a repository of SHA-256 (its ids have 64 digits), and smidr reads only those of SHA-1")]
    OtherHash {
        /// The repository.
        url: String,
    },
    /// The disk, in the middle of a fetch.
    #[error("cannot write into {path}")]
    Disk {
        /// The folder of all mirrors.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn host_key(url: &str, host: &str, is_changed: bool) -> String {
    if is_changed {
        format!("{host}, where {url} is, shows another host key than ssh knows: the connection may be intercepted")
    } else {
        format!("ssh does not know the host key of {host}, where {url} is")
    }
}

fn colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

fn lines(failures: &[GitError]) -> String {
    failures.iter().map(|failure| format!("\n  {failure}")).collect()
}

impl GitError {
    /// A mirror that gix cannot open or read.
    pub(super) fn mirror(path: &std::path::Path, error: &gix::Error) -> Self {
        Self::Mirror { path: path.into(), why: said(error) }
    }

    /// The disk refused what was fetched. The mirrors' folder is named: a new mirror is removed when its first fetch fails.
    pub(super) fn disk(mirror: &std::path::Path, source: io::Error) -> Self {
        Self::Disk { path: mirror.parent().unwrap_or(mirror).into(), source }
    }

    /// The same error with the words of an http server. `has_text`: more than a status.
    pub(super) fn with_words(self, words: String, has_text: bool, leads_to: Option<String>) -> Self {
        match self {
            Self::Denied { url, tried, hint } => Self::Denied { url, tried: format!("{tried} ({words})"), hint },
            Self::NoRepository { url, why } if has_text && why.is_empty() => Self::NoRepository { url, why: words },
            Self::NoRepository { url, why } if has_text => Self::NoRepository { url, why: format!("{why} ({words})") },
            Self::Failed { url, .. } => Self::Failed { url, why: words },
            Self::Elsewhere { url, to } => Self::Elsewhere { url, to: leads_to.unwrap_or(to) },
            other => other,
        }
    }

    /// Whether another mirror of the repository may succeed.
    pub(super) fn is_about_the_place(&self) -> bool {
        !matches!(
            self,
            Self::Stopped(_)
                | Self::Wait(_)
                | Self::File(_)
                | Self::Disk { .. }
                | Self::Mirror { .. }
                | Self::Config(_)
        )
    }

    /// Whether the same server may give it when it is asked in another way.
    pub(super) fn is_about_the_request(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unknown { .. } | Self::UnknownCommit { .. } | Self::Torn { .. })
    }
}

/// What there is where there is no branch or tag of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Instead {
    /// A `tag` of that name where a branch is asked for, and the reverse.
    Other(&'static str),
    /// The only one whose name goes on behind a dash.
    Continued(Box<str>),
}

impl GitError {
    /// Where there is no such branch: what there is instead.
    pub(super) fn unknown_branch(&self) -> Option<&Instead> {
        match self {
            Self::Unknown { kind: "branch", instead, .. } => instead.as_ref(),
            Self::Everywhere { failures, .. } => failures.iter().find_map(Self::unknown_branch),
            _ => None,
        }
    }

    /// The key of a repository in the config that asks for what cannot be had.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Unknown { kind, .. } => kind,
            Self::UnknownCommit { .. } | Self::NotOnBranch { .. } | Self::Cut { .. } | Self::Refused { .. } => "commit",
            Self::OtherTag { .. } | Self::NoCommit { .. } => "tag",
            Self::Everywhere { failures, .. } => failures.first().map_or("git", Self::key),
            _ => "git",
        }
    }
}

impl UserError for GitError {
    fn kind(&self) -> Kind {
        match self {
            Self::Stopped(_) => Kind::Cancelled,
            Self::Wait(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Disk { source, .. } => Kind::of_io(source),
            Self::Offline { .. }
            | Self::Unknown { .. }
            | Self::UnknownCommit { .. }
            | Self::NotOnBranch { .. }
            | Self::OtherTag { .. }
            | Self::NoCommit { .. }
            | Self::NeedsLogin { .. }
            | Self::Elsewhere { .. }
            | Self::NotGranted { .. }
            | Self::OtherHash { .. }
            | Self::Config(_) => Kind::Request,
            Self::Everywhere { failures, .. } if failures.iter().all(|one| one.kind() == Kind::Request) => {
                Kind::Request
            }
            Self::NoGit { .. } | Self::Mirror { .. } | Self::Index { .. } => Kind::Host,
            _ => Kind::Outside,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        let hint = match self {
            Self::Wait(error) => return error.hints(),
            Self::File(error) => return error.hints(),
            Self::Offline { .. } => {
                Hint::command("leave out --offline, or fetch it while there is a network", "smidr layers sync")
            }
            Self::Unknown { instead: Some(Instead::Other(other)), name, .. } => {
                return vec![Hint::new(format!("it is a {other}: write `{other}: {name}`"))];
            }
            Self::Unknown { near, .. } if near.is_empty() => return Vec::new(),
            Self::Unknown { near, .. } => {
                let near: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
                return vec![Hint::new(format!("there is {}", near.join(", ")))];
            }
            Self::UnknownCommit { .. } => {
                Hint::new("check the commit; a commit that no branch has any more is given by few servers")
            }
            Self::Gone { name, .. } => {
                let name = shlex::try_quote(name).unwrap_or_default();
                return vec![Hint::command("take what the config asks for now", format!("smidr lock --update {name}"))];
            }
            Self::NotOnBranch { .. } => Hint::new("leave out `branch:`, or name the branch that the commit is on"),
            Self::Cut { .. } => Hint::new("leave out `branch:`"),
            Self::OtherTag { .. } => Hint::new("leave out `commit:` or `tag:`"),
            Self::Denied { hint, .. } => return vec![(**hint).clone()],
            Self::Index { .. } => Hint::command(
                "it belongs to a repository around a folder of the build; see what git says there",
                "git status",
            ),
            Self::Elsewhere { url, .. } => Hint::command(
                "name the address that it leads to, often the same with .git at its end; git shows it",
                format!("git ls-remote {}", shlex::try_quote(url).unwrap_or_default()),
            ),
            Self::NeedsLogin { url } | Self::NotGranted { url } => {
                let url = shlex::try_quote(url).unwrap_or_default();
                return vec![Hint::command("if you trust the project with it", format!("smidr trust --login {url}"))];
            }
            Self::HostKey { host, port, is_changed: true, .. } => {
                // In the form that ssh writes into known_hosts.
                let known = port.map_or_else(|| host.clone(), |port| format!("[{host}]:{port}"));
                let known = shlex::try_quote(&known).unwrap_or_default();
                return vec![Hint::command("once you know why it has changed", format!("ssh-keygen -R {known}"))];
            }
            Self::HostKey { host, port, .. } => {
                let host = shlex::try_quote(host).unwrap_or_default();
                let port = port.map(|port| format!("-p {port} ")).unwrap_or_default();
                return vec![
                    Hint::command("log in once and compare the fingerprint", format!("ssh {port}{host}")),
                    Hint::command(
                        "if you trust this network",
                        format!("ssh-keyscan {port}{host} >> ~/.ssh/known_hosts"),
                    ),
                ];
            }
            Self::Failed { url, why } if why.contains("dubious ownership") => {
                let path = folder_of(url).map_or_else(|| url.clone(), |path| path.display().to_string());
                let path = shlex::try_quote(&path).unwrap_or_default();
                return vec![Hint::command(
                    "if you trust its owner",
                    format!("git config --global --add safe.directory {path}"),
                )];
            }
            Self::Failed { url, .. } => {
                // Which shows also what fails only after the server has listed its branches.
                return vec![Hint::command(
                    "see what git says",
                    format!("git clone --bare --depth=1 {} /tmp/see", shlex::try_quote(url).unwrap_or_default()),
                )];
            }
            Self::Unreachable { why, .. } if why.contains("peer certificate") => Hint::command(
                "if it is an authority of your own, tell git",
                "git config --global http.sslCAInfo /PATH/TO/ca.pem",
            ),
            Self::Unreachable { .. } => Hint::new("check the address, the network and the proxy, or add `mirrors:`"),
            Self::NoRepository { .. } => {
                Hint::new("check the address; a private repository can also look like a missing one")
            }
            Self::OtherHash { .. } => {
                Hint::new("name a copy of it with SHA-1, if there is one, or a clone of it on this machine as `path:`")
            }
            Self::NoGit { .. } => Hint::command("install git", "sudo apt-get install git"),
            Self::Config(_) => Hint::command("look at it", "git config --global --list"),
            Self::Mirror { path, .. } => {
                let path = path.display().to_string();
                return vec![Hint::command(
                    "remove it",
                    format!("rm -r {}", shlex::try_quote(&path).unwrap_or_default()),
                )];
            }
            Self::Disk { path, source } if is_full(source) => {
                let path = path.display().to_string();
                let path = shlex::try_quote(&path).unwrap_or_default();
                return vec![Hint::command("free some space on that file system", format!("df -h {path}"))];
            }
            Self::Everywhere { failures, .. } => {
                return failures.iter().map(UserError::hints).find(|hints| !hints.is_empty()).unwrap_or_default();
            }
            _ => return Vec::new(),
        };
        vec![hint]
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A time, for messages.
pub(super) fn when(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "some time ago".into(), |time| format!("on {}", time.strftime("%Y-%m-%d %H:%M UTC")))
}

/// The outermost and the innermost of gix's errors, in one line.
pub(super) fn said(error: &gix::Error) -> String {
    let inner = deepest(error.probable_cause()).to_string();
    let outer = error.error().to_string();
    if outer == inner { shown(&inner) } else { shown(&format!("{outer}: {inner}")) }
}

/// The innermost cause of an error.
pub(super) fn deepest<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

/// Foreign text made fit to show: one line, no control characters, no passwords, not too long.
pub(super) fn shown(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    let clean = without_secrets(&line.join(" "));
    Shown::plain(&clean.chars().take(MOST_CHARS).collect::<String>()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_one_line() {
        assert_eq!(shown("a\n  b\u{1b}[2J"), "a b\\u{1b}[2J");
    }

    #[test]
    fn the_kind_says_who_must_act() {
        let url = || "https://host/x".to_owned();
        let unknown = || GitError::Unknown {
            url: url(),
            kind: "branch",
            name: "x".into(),
            near: vec!["y".into()],
            instead: None,
        };
        let away = || GitError::Unreachable { url: url(), why: "no route".into() };
        let all = |failures| GitError::Everywhere { url: url(), failures };
        assert_eq!(unknown().kind(), Kind::Request);
        assert_eq!(all(vec![unknown(), unknown()]).kind(), Kind::Request);
        let both = all(vec![away(), unknown()]);
        assert_eq!(both.kind(), Kind::Outside);
        assert_eq!(
            both.to_string(),
            "neither https://host/x nor its mirrors have it:\n  cannot reach https://host/x: no route\n  https://host/x has no branch `x`"
        );
        assert_eq!(unknown().hint().as_deref(), Some("there is `y`"));
        let full = GitError::disk("/a b/.x.git.new".as_ref(), io::ErrorKind::StorageFull.into());
        assert_eq!(
            (full.kind(), full.hint().as_deref()),
            (Kind::Host, Some("free some space on that file system:  df -h '/a b'"))
        );
    }
}
