//! The host's git, for what gix cannot do: proxies and certificates that only git's configuration names, passwords over plain http,
//! old servers. The same request, the same refs, in the same mirror.
//!
//! It dies with smidr, never prompts, never collects garbage, and runs no transport that is a program (`ext::`).

use std::{
    ffi::OsStr,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use tempfile::NamedTempFile;

use super::{
    super::{
        access::Access,
        git_error::{GitError, shown},
        mirror::{self, Room},
    },
    GitConfig,
    error::{OTHER_HASH, ask_git},
    request::{Request, Shallow, Want, remove_stale, unknown},
};
use crate::{
    model::{Activity, Unit, without_secrets},
    system::files::FileError,
};

/// How often the stop request is polled.
const LOOK: Duration = Duration::from_millis(50);
/// How much of git's output is kept; its end is what matters.
const SAID_BYTES: usize = 64 << 10;

/// Variables that would lead git into another repository (git(1), "Environment Variables"), or make it prompt.
pub(in crate::layers) const WITHOUT: [&str; 11] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_COMMON_DIR",
    "GIT_SHALLOW_FILE",
    "GIT_ASKPASS",
    "SSH_ASKPASS",
    "GIT_TRACE",
];

/// Variables that would let git show the user's credentials to a server.
const OF_THE_USER: [&str; 9] = [
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_SYSTEM",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CERT",
    "GIT_SSL_KEY",
    "NETRC",
    "SSH_AUTH_SOCK",
];

/// Variables for the login of one address, and a credential helper that prints it (gitcredentials(7)).
const LOGIN: [&str; 2] = ["SMIDR_GIT_USER", "SMIDR_GIT_PASSWORD"];
const HELPER: &str =
    r#"!f() { test "$1" != get || printf 'username=%s\npassword=%s\n' "$SMIDR_GIT_USER" "$SMIDR_GIT_PASSWORD"; }; f"#;

/// git's own error for servers without git.
const NO_DEPTH: &str = "does not support shallow";

/// Fetches a request into a mirror. `why` says what gix cannot do.
pub(super) fn fetch(
    room: &Room,
    url: &str,
    request: &Request,
    config: &GitConfig,
    access: Access<'_>,
    why: &str,
) -> Result<(), GitError> {
    let git = Git::find(url, &room.folder, config, access, why)?;
    let repository = mirror::open(&room.folder)?;
    let mut arguments: Vec<String> =
        ["fetch", "--no-auto-gc", "--no-write-fetch-head", "--no-tags", "--force", "--progress"]
            .map(String::from)
            .into();
    let depth = match request.shallow(&repository) {
        Shallow::Keep => None,
        Shallow::At(count) => Some(format!("--depth={count}")),
        Shallow::Undo => Some("--unshallow".into()),
    };
    if request.wants.contains(&Want::Everything) {
        arguments.push("--prune".into());
    } else {
        git.remove_stale(&room.folder, request)?;
    }
    arguments.extend(["--end-of-options".into(), git.address.clone()]);
    arguments.extend(request.refspecs());
    let with_depth: Vec<&String> = arguments.iter().take(1).chain(&depth).chain(arguments.iter().skip(1)).collect();
    let (mut status, mut said) = git.run(&room.folder, &with_depth, true)?;
    // A server of plain files (dumb http) cannot be fetched from shallowly.
    if !status.success() && depth.is_some() && said.contains(NO_DEPTH) {
        (status, said) = git.run(&room.folder, &arguments, true)?;
    }
    if status.success() { Ok(()) } else { Err(git.failure(&room.folder, request, &said)) }
}

/// The host's git.
pub(in crate::layers) fn program(access: Access<'_>) -> Option<PathBuf> {
    let path = access.variable("PATH").unwrap_or("/usr/bin:/bin");
    std::env::split_paths(path).map(|folder| folder.join("git")).find(|path| path.is_file())
}

struct Git<'a> {
    program: PathBuf,
    url: &'a str,
    /// The address without its login: every user of this machine sees the arguments of programs.
    address: String,
    /// User and password of the address.
    login: Option<(String, String)>,
    follows: bool,
    ssh: Option<String>,
    /// Replaces the user's configuration where logins may not be used.
    public: Option<NamedTempFile>,
    access: Access<'a>,
}

impl<'a> Git<'a> {
    fn find(url: &'a str, folder: &Path, config: &GitConfig, access: Access<'a>, why: &str) -> Result<Self, GitError> {
        let program = program(access);
        let missing = || GitError::NoGit { url: without_secrets(url), why: why.into() };
        let public = || {
            let mut file = tempfile::Builder::new().prefix("smidr-git-config-").tempfile_in(folder)?;
            file.write_all(&config.text())?;
            Ok(file)
        };
        let public =
            if config.with_logins() { None } else { Some(public().map_err(FileError::new("write to", folder))?) };
        let login = login_in(url);
        let address = if login.is_some() { without_secrets(url) } else { url.to_owned() };
        let (follows, ssh) = (config.follows(), config.ssh_command());
        Ok(Self { program: program.ok_or_else(missing)?, url, address, login, follows, ssh, public, access })
    }

    fn command(&self, folder: &Path, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = self.access.spawner.command(&self.program);
        command.env_clear().envs(self.access.environment.iter().map(|(name, value)| (name, value)));
        for name in WITHOUT {
            command.env_remove(name);
        }
        if let Some(public) = &self.public {
            for name in OF_THE_USER {
                command.env_remove(name);
            }
            // curl looks for .netrc in HOME.
            command.env("HOME", folder).env("GIT_CONFIG_GLOBAL", public.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        }
        command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C").env("GCM_INTERACTIVE", "never");
        command.arg("--git-dir").arg(folder);
        for setting in [
            "gc.auto=0",
            "maintenance.auto=false",
            "protocol.ext.allow=never",
            "core.askPass=",
            "fetch.fsckObjects=false",
        ] {
            command.args(["-c", setting]);
        }
        if let Some(ssh) = &self.ssh {
            command.args(["-c", &format!("core.sshCommand={ssh}")]);
        }
        if !self.follows {
            // The key for the whole address outranks those for its server.
            let of_address = format!("http.{}.followRedirects=false", without_secrets(self.url));
            command.args(["-c", "http.followRedirects=false", "-c", &of_address]);
        }
        if let Some((user, password)) = &self.login {
            command.env(LOGIN[0], user).env(LOGIN[1], password);
            // This helper instead of all others, for this server only.
            command.args(["-c", "credential.helper=", "-c", &format!("credential.{}.helper={HELPER}", self.address)]);
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    // Runs git to its end, or until a stop is requested; gives its output and its status.
    fn run(
        &self,
        folder: &Path,
        arguments: &[impl AsRef<OsStr>],
        tell: bool,
    ) -> Result<(ExitStatus, String), GitError> {
        let failed =
            |error: std::io::Error| GitError::Failed { url: without_secrets(self.url), why: error.to_string() };
        let subject = super::subject(self.url);
        let spawned = self.access.spawner.spawn(self.command(folder, arguments), Vec::new());
        let mut child = spawned.map_err(failed)?;
        let lines = listen(&mut child);
        let mut said = String::new();
        loop {
            while let Ok(line) = lines.try_recv() {
                match objects(&line).filter(|_| tell) {
                    Some((done, total)) => {
                        self.access.on.progress(Activity::Fetch, &subject, done, Some(total), Unit::Items);
                    }
                    None if said.len() < SAID_BYTES => said.extend([line.as_str(), "\n"]),
                    None => {}
                }
            }
            if let Some(status) = child.try_wait().map_err(failed)? {
                lines.iter().filter(|line| objects(line).is_none()).for_each(|line| said.extend([line.as_str(), "\n"]));
                return Ok((status, said));
            }
            if self.access.stop.is_requested() {
                // It leaves at most a file that the next fetch removes.
                let _ = child.kill();
                let _ = child.wait();
                return Err(GitError::Stopped(subject));
            }
            thread::sleep(LOOK);
        }
    }

    // git refuses to make `a/b` where there is `a`, and would say so only after it has fetched everything.
    fn remove_stale(&self, folder: &Path, request: &Request) -> Result<(), GitError> {
        let repository = mirror::open(folder)?;
        remove_stale(&repository, request, None).map_err(|error| GitError::mirror(folder, &error))
    }

    // All branches and tags of the server.
    fn refs(&self, folder: &Path) -> Vec<String> {
        let arguments = ["ls-remote", "--refs", "--heads", "--tags", "--end-of-options", &self.address];
        let Ok((_, said)) = self.run(folder, &arguments, false) else { return Vec::new() };
        said.lines().filter_map(|line| Some(line.split_once('\t')?.1.to_owned())).collect()
    }

    // git's words in the C locale; those of ssh and curl come through it.
    fn failure(&self, folder: &Path, request: &Request, said: &str) -> GitError {
        let url = without_secrets(self.url);
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let why = words(said);
        if has(&["couldn't find remote ref"]) {
            let lacking = request.wants.iter().find_map(|want| match want {
                Want::Branch(name) if said.contains(&format!("refs/heads/{name}")) => Some(("branch", name)),
                Want::Tag(name) if said.contains(&format!("refs/tags/{name}")) => Some(("tag", name)),
                _ => None,
            });
            if let Some((kind, name)) = lacking {
                return unknown(url, kind, name, &self.refs(folder));
            }
        }
        if !self.follows && has(&["error: 301", "error: 302", "error: 303", "error: 307", "error: 308"]) {
            return GitError::Elsewhere { url, to: "elsewhere".into() };
        }
        if has(&OTHER_HASH) {
            return GitError::OtherHash { url };
        }
        if has(&["No space left on device", "Disk quota exceeded"]) {
            return GitError::disk(folder, std::io::ErrorKind::StorageFull.into());
        }
        if has(&[
            "Authentication failed",
            "could not read Username",
            "could not read Password",
            "Permission denied (",
            "error: 403",
        ]) {
            if self.public.is_some() && self.login.is_none() {
                return GitError::NeedsLogin { url };
            }
            let hint = Box::new(ask_git(&url));
            return GitError::Denied { url, tried: format!("(git says: {why})"), hint };
        }
        if has(&[
            "Could not resolve",
            "Failed to connect",
            "Couldn't connect",
            "Connection refused",
            "unable to connect",
            "timed out",
        ]) {
            return GitError::Unreachable { url, why };
        }
        if has(&["not found", "does not appear to be a git repository", "not a git repository"]) {
            return GitError::NoRepository { url, why };
        }
        match request.only_commit() {
            Some(commit) => GitError::Refused { url, commit: commit.clone() },
            None => GitError::Failed { url, why },
        }
    }
}

/// User and password in an http address.
fn login_in(url: &str) -> Option<(String, String)> {
    let parsed = gix::url::parse(url).ok()?;
    let is_http = matches!(parsed.scheme, gix::url::Scheme::Http | gix::url::Scheme::Https);
    let user = parsed.user().filter(|_| is_http)?;
    Some((user.to_owned(), parsed.password().unwrap_or_default().to_owned()))
}

// Reads both outputs, line by line; progress lines end with a carriage return.
fn listen(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let out = child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>);
    let err = child.stderr.take().map(|err| Box::new(err) as Box<dyn Read + Send>);
    for pipe in [out, err].into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut line = Vec::new();
            for byte in std::io::BufReader::new(pipe).bytes().map_while(Result::ok) {
                if byte != b'\n' && byte != b'\r' {
                    line.push(byte);
                } else if sender.send(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned()).is_err() {
                    return;
                }
            }
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        });
    }
    lines
}

/// Parses `Receiving objects:  45% (450/1000), 1.2 MiB` and the same of deltas: objects are received, then resolved.
fn objects(line: &str) -> Option<(u64, u64)> {
    let second = line.starts_with("Resolving deltas:");
    if !second && !line.starts_with("Receiving objects:") {
        return None;
    }
    let (done, rest) = line.split_once('(')?.1.split_once('/')?;
    // git counts objects with 32 bits.
    let (done, total): (u32, u32) = (done.parse().ok()?, rest.split_once(')')?.0.parse().ok()?);
    let (done, total) = (u64::from(done), u64::from(total));
    Some((if second { total + done } else { done }, 2 * total))
}

/// The line of git's output that names the failure, and what the server says.
fn words(said: &str) -> String {
    let of_server: Vec<&str> = said.lines().filter(|line| line.starts_with("remote:")).collect();
    let of_git = || said.lines().filter(|line| !line.starts_with("remote:"));
    let telling = |line: &&str| ["fatal: ", "error: ", "ERROR: ", "ssh: "].iter().any(|start| line.starts_with(start));
    let line = of_git().find(telling).or_else(|| of_git().rfind(|line| !line.trim().is_empty()));
    let line = shown(line.unwrap_or("it says nothing").trim_start_matches("fatal: "));
    match speech(&of_server.join("\n")) {
        words if words.is_empty() => line,
        words => format!("{line} (the server says: {words})"),
    }
}

/// What a server says, over ssh or by way of git, in one line: without lines that only decorate, progress and warnings of ssh itself.
pub(super) fn speech(said: &str) -> String {
    let own = ["Warning: Permanently added", "** ", "debug1:", "Pseudo-terminal "];
    let progress = ["Enumerating objects:", "Counting objects:", "Compressing objects:", "Total "];
    let is_said = |line: &&str| {
        line.contains(char::is_alphanumeric) && !own.iter().chain(&progress).any(|start| line.starts_with(start))
    };
    let lines = said.lines().map(|line| line.trim_start_matches("remote:").trim()).filter(is_said);
    shown(&lines.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_on_the_way() {
        assert_eq!(objects("Receiving objects:  45% (450/1000), 1.20 MiB | 3 MiB/s"), Some((450, 2000)));
        assert_eq!(objects("Resolving deltas: 100% (20/20), done."), Some((40, 40)));
        assert_eq!(objects("Resolving deltas:   0% (1/4294967295)"), Some((4_294_967_296, 8_589_934_590)));
        for other in [
            "remote: Counting objects: 100% (5/5), done.",
            "Receiving objects:   0% (1/18446744073709551615)",
            "Receiving objects: x",
            "",
        ] {
            assert_eq!(objects(other), None, "{other}");
        }
        let said = "remote: Hello\nfatal: unable to access 'https://me:pw@host/x/': The requested URL returned error: 500\nbye\n";
        let expected = "unable to access 'https://host/x/': The requested URL returned error: 500";
        assert_eq!(words(said), format!("{expected} (the server says: Hello)"));
        assert_eq!(words("\nlast words\n\n"), "last words");
        assert_eq!(words(""), "it says nothing");
    }
}
