//! Maps gix's errors of a fetch to `GitError`.

use std::{error::Error, io, path::Path};

use gix::protocol::transport::client;

use super::{
    super::git_error::{GitError, deepest, said, shown},
    config::GitConfig,
    heard,
    host_git::speech,
    request::Request,
};
use crate::model::{Hint, without_secrets};

/// What gix cannot do.
const OLD_PROTOCOL: &str = "the server speaks only the old protocol without a service";

/// What gix and git say about a repository whose objects are not named by SHA-1.
pub(super) const OTHER_HASH: [&str; 4] = [
    "object format used by the remote is unsupported",
    "mismatched algorithms",
    "mismatched object format",
    "A hash sized 64 hexadecimal",
];

/// Why gix has not fetched.
pub(super) enum FetchError {
    /// gix cannot, but the host's git can.
    NeedsGit(String),
    /// It failed.
    Error(GitError),
}

impl From<GitError> for FetchError {
    fn from(error: GitError) -> Self {
        Self::Error(error)
    }
}

/// The fetch that failed.
pub(super) struct Attempt<'a> {
    /// The mirror.
    pub folder: &'a Path,
    /// The address in the config, without a password.
    pub named: &'a str,
    /// The address that was fetched from, after `insteadOf`.
    pub url: &'a gix::Url,
    /// The user's configuration of git.
    pub config: &'a GitConfig,
    /// The request.
    pub request: &'a Request,
}

impl Attempt<'_> {
    /// Why it failed. `by_ssh` is the output of ssh, which includes that of the server.
    pub(super) fn trouble(&self, error: &gix::Error, by_ssh: &str) -> FetchError {
        let all = flat(error);
        let has_password = self.url.password().is_some() || self.is_http() && self.url.user().is_some();
        let url = self.shown_url();
        for error in &all {
            if let Some(trouble) = error.downcast_ref::<client::Error>().and_then(|error| self.of_transport(error)) {
                return trouble;
            }
            if let Some(error) = error.downcast_ref::<reqwest::Error>()
                && error.status().is_none()
            {
                return GitError::Unreachable { url, why: shown(&deepest(error).to_string()) }.into();
            }
        }
        if error.is_unauthenticated() || all.iter().any(|error| error.is::<client::AuthenticationRequired>()) {
            return self.denied(has_password, by_ssh);
        }
        self.of_words(error, &all, by_ssh)
    }

    /// The same failure with the words of an http server.
    pub(super) fn with_words(&self, failure: FetchError) -> FetchError {
        let is_asked = self.is_http() && !matches!(failure, FetchError::NeedsGit(ref why) if why != OLD_PROTOCOL);
        let Some(heard) = is_asked.then(|| heard::listen(self.url)).flatten() else { return failure };
        match failure {
            FetchError::Error(error) => error.with_words(heard.words, heard.has_text, heard.leads_to).into(),
            FetchError::NeedsGit(why) => match heard.leads_to {
                Some(to) if !self.config.follows() => GitError::Elsewhere { url: self.shown_url(), to }.into(),
                Some(_) => FetchError::NeedsGit(why),
                // A page, about which git would say less.
                None => GitError::NoRepository { url: self.shown_url(), why: heard.words }.into(),
            },
        }
    }

    fn of_transport(&self, error: &client::Error) -> Option<FetchError> {
        match error {
            client::Error::AuthenticationRefused(_) => {
                Some(FetchError::NeedsGit("smidr itself sends no password over plain http".into()))
            }
            client::Error::InvokeProgram { source, command } if source.kind() == io::ErrorKind::NotFound => {
                let command = command.to_string_lossy();
                Some(match self.url.scheme {
                    gix::url::Scheme::File => FetchError::NeedsGit("a folder of this machine is served by git".into()),
                    _ => GitError::Failed { url: self.shown_url(), why: format!("there is no `{}`", shown(&command)) }
                        .into(),
                })
            }
            _ => None,
        }
    }

    // Where only the text tells. Texts of ssh are its own, in English; those of servers have been the same for years.
    fn of_words(&self, error: &gix::Error, all: &[&(dyn Error + 'static)], by_ssh: &str) -> FetchError {
        let texts = all.iter().map(|error| shown(&error.to_string())).chain(by_ssh.lines().map(shown));
        let texts: Vec<String> = texts.collect();
        let find = |words: &[&str]| texts.iter().find(|text| words.iter().any(|word| text.contains(word))).cloned();
        let url = self.shown_url();
        if find(&["is a valid git directory"]).is_some() {
            return GitError::NoRepository { url, why: String::new() }.into();
        }
        if find(&OTHER_HASH).is_some() {
            return GitError::OtherHash { url }.into();
        }
        if let Some(source) = texts.iter().find_map(|text| disk(text)) {
            return GitError::disk(self.folder, source).into();
        }
        if !self.config.follows() && self.is_http() && find(&["HTTP status 30"]).is_some() {
            return GitError::Elsewhere { url, to: "elsewhere".into() }.into();
        }
        if find(&["HTTP status 404", "HTTP status 410"]).is_some() {
            let why = if self.config.with_logins() { "" } else { "at least none that is public" };
            return GitError::NoRepository { url, why: why.into() }.into();
        }
        if find(&["Host key verification failed"]).is_some() {
            let is_changed = find(&["HOST IDENTIFICATION HAS CHANGED"]).is_some();
            let host = self.url.host().unwrap_or_default().to_owned();
            return GitError::HostKey { url, host, port: self.url.port, is_changed }.into();
        }
        if find(&["HTTP status 401", "HTTP status 403", "Permission denied ("]).is_some() {
            return self.denied(self.url.user().is_some(), by_ssh);
        }
        let unreachable =
            ["resolve hostname", "connect to host", "Connection closed by", "No route to host", "Connection refused"];
        if let Some(why) = find(&unreachable).or_else(|| all.iter().find_map(|error| away(*error))) {
            let why = Some(speech(by_ssh)).filter(|words| !words.is_empty()).unwrap_or(why);
            return GitError::Unreachable { url, why }.into();
        }
        if find(&["'dumb' protocol"]).is_some() {
            return FetchError::NeedsGit(OLD_PROTOCOL.into());
        }
        if !by_ssh.is_empty()
            && find(&["not appear to be a git repository", "Repository not found", "not a git repository"]).is_some()
        {
            return GitError::NoRepository { url, why: speech(by_ssh) }.into();
        }
        if let Some(commit) = self.request.only_commit() {
            return GitError::Refused { url, commit: commit.clone() }.into();
        }
        if self.url.scheme == gix::url::Scheme::File {
            // gix drops the output of `git-upload-pack`; git shows it.
            return FetchError::NeedsGit(said(error));
        }
        let why = Some(speech(by_ssh)).filter(|words| !words.is_empty()).unwrap_or_else(|| said(error));
        GitError::Failed { url, why }.into()
    }

    fn denied(&self, has_password: bool, by_ssh: &str) -> FetchError {
        let url = self.shown_url();
        if self.url.scheme == gix::url::Scheme::Ssh {
            let who = self.url.user().map(|user| format!("{user}@")).unwrap_or_default();
            let who = format!("{who}{}", self.url.host().unwrap_or_default());
            let who = shlex::try_quote(&who).unwrap_or_default();
            let text = "smidr never asks for a passphrase (use ssh-add); try";
            let port = self.url.port.map(|port| format!("-p {port} ")).unwrap_or_default();
            let hint = Box::new(Hint::command(text, format!("ssh -o BatchMode=yes -T {port}{who}")));
            let agent =
                if self.config.has_agent() { "and the agent" } else { "without an agent: SSH_AUTH_SOCK is not set" };
            let words = Some(speech(by_ssh)).filter(|words| !words.is_empty());
            let words = words.map(|words| format!(" (ssh says: {words})")).unwrap_or_default();
            return GitError::Denied { url, tried: format!("with the keys that ssh has, {agent}{words}"), hint }.into();
        }
        if !self.config.with_logins() && !has_password {
            // The grant is for the config's address, before `insteadOf`.
            return GitError::NeedsLogin { url: self.named.into() }.into();
        }
        if self.config.netrc().is_some() && !has_password {
            return FetchError::NeedsGit("~/.netrc is there, which curl reads".into());
        }
        let helpers = self.config.helpers();
        let tried = if has_password {
            "with the password in its address".into()
        } else if helpers.is_empty() {
            "without credentials: git has no credential helper, and there is no ~/.netrc".into()
        } else {
            format!("with what git's credential helpers say ({})", helpers.join(", "))
        };
        let hint = Box::new(ask_git(&url));
        GitError::Denied { url, tried, hint }.into()
    }

    fn is_http(&self) -> bool {
        matches!(self.url.scheme, gix::url::Scheme::Http | gix::url::Scheme::Https)
    }

    fn shown_url(&self) -> String {
        without_secrets(&self.url.to_bstring().to_string())
    }
}

/// What to type where access is denied.
pub(crate) fn ask_git(url: &str) -> Hint {
    let url = shlex::try_quote(url).unwrap_or_default();
    Hint::command("check the address, and that git gets in", format!("git ls-remote {url}"))
}

// `io::Error::source` skips the error that it wraps.
fn flat(error: &gix::Error) -> Vec<&(dyn Error + 'static)> {
    let mut all: Vec<&(dyn Error + 'static)> = error.iter_errors().collect();
    let mut at = 0;
    while let Some(error) = all.get(at).copied() {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(inner) = inner {
            let inner: &(dyn Error + 'static) = inner;
            all.push(inner);
            let mut cause = inner.source();
            while let Some(error) = cause {
                all.push(error);
                cause = error.source();
            }
            if let Some(error) = inner.downcast_ref::<gix::Error>() {
                all.extend(error.iter_errors());
            }
        }
        at += 1;
    }
    all
}

// Not by type: gix may turn an error of the disk into text.
fn disk(text: &str) -> Option<io::Error> {
    let number = text.rsplit_once("(os error ")?.1.split_once(')')?.0.parse().ok()?;
    let of_the_disk =
        [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EFBIG, libc::EIO, libc::EMFILE, libc::EACCES, libc::EPERM];
    of_the_disk.contains(&number).then(|| io::Error::from_raw_os_error(number))
}

fn away(error: &(dyn Error + 'static)) -> Option<String> {
    let error = error.downcast_ref::<io::Error>()?;
    let number = error.raw_os_error()?;
    let away = [libc::ECONNREFUSED, libc::ECONNRESET, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ETIMEDOUT];
    away.contains(&number).then(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_disk_are_known_by_their_number() {
        let full = disk("Could not write: No space left on device (os error 28)").expect("of the disk");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(
            disk("Permission denied (os error 13) at path \"/x/.tmpAb\"").is_some(),
            "as the crate tempfile writes it"
        );
        for other in
            ["Connection refused (os error 111)", "(os error x)", "git@host: Permission denied (publickey)", ""]
        {
            assert!(disk(other).is_none(), "{other}");
        }
    }
}
