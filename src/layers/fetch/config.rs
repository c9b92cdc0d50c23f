//! The user's configuration of git, as far as fetching needs it: rewritten addresses, credential helpers, ssh,
//! proxies. Comes from the environment that `cli` has read, not from the one of this process.
//!
//! Two things still look at the process's own: the HTTP client for `https_proxy` and the like, and the programs that gix starts
//! (ssh, credential helpers, `git-upload-pack`). Both are the same environment wherever smidr is not a test.

use std::path::{Path, PathBuf};

use gix::{
    bstr::{BStr, ByteSlice as _},
    config::{
        File, Source,
        file::{Metadata, includes, init::Options},
    },
};

use super::super::{
    access::Access,
    git_error::{GitError, said},
};
use crate::model::Logins;

/// What the user's configuration says.
#[derive(Clone)]
pub(crate) struct GitConfig {
    file: File,
    /// The folder of `.netrc`; none where it may not be used.
    home: Option<PathBuf>,
    /// Whether credentials may be shown.
    with_logins: bool,
    /// Whether redirects are followed: not with a login, which was granted for one address.
    follows: bool,
    /// Variables that git understands and gix does not.
    only_git: Vec<&'static str>,
    has_agent: bool,
}

/// Keys of `http` that the in-process client does not follow.
const ONLY_GIT: [&str; 8] =
    ["proxy", "sslCAInfo", "sslCAPath", "sslVerify", "sslCert", "sslKey", "cookieFile", "proxySSLCAInfo"];
/// Keys of `http` that say nothing about the user: proxies, certificate authorities, timeouts.
const REACHING: [&str; 14] = [
    "proxy",
    "proxyAuthMethod",
    "proxySSLCAInfo",
    "sslVerify",
    "sslCAInfo",
    "sslCAPath",
    "sslBackend",
    "sslVersion",
    "version",
    "followRedirects",
    "lowSpeedLimit",
    "lowSpeedTime",
    "postBuffer",
    "userAgent",
];
const ONLY_GIT_VARIABLES: [&str; 5] =
    ["GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_NO_VERIFY", "GIT_SSL_CERT", "GIT_PROXY_SSL_CAINFO"];

impl GitConfig {
    /// Reads the files that git reads outside of a repository (git-config(1), "FILES"), for fetching from an address. Where logins have not been
    /// granted, only the settings for reaching servers are kept.
    pub(crate) fn read(access: Access<'_>, address: &str) -> Result<Self, GitError> {
        let home = access.variable("HOME").map(PathBuf::from);
        let includes = includes::Options::follow_without_conditional(home.as_deref());
        let options = Options { includes, ..Options::default() };
        let mut file = File::new(Metadata::from(Source::User));
        for (source, path) in files(access, home.as_deref()) {
            let wrong = |error: gix::Error| GitError::Config(format!("{}: {}", path.display(), said(&error)));
            let metadata = Metadata::from(source).at(&path).with(gix::sec::Trust::Full);
            let read = File::from_paths_metadata([metadata], options).map_err(wrong)?;
            read.map(|read| file.append(read).map(drop)).transpose().map_err(wrong)?;
        }
        let wrong = |error: gix::Error| GitError::Config(said(&error));
        for (key, value) in from_variables(access) {
            file.set_raw_value(key.as_str(), value.as_str()).map_err(wrong)?;
        }
        // Addresses over ssh and of this machine need a grant before anything is fetched.
        let is_public = is_http(address) || address.starts_with("git://");
        let with_logins = !is_public || access.logins.reach(address);
        if !with_logins {
            file = without_logins(&file, home.as_deref()).map_err(wrong)?;
        }
        let follows = !with_logins || !is_public || *access.logins == Logins::All;
        if !follows {
            file.set_raw_value("http.followRedirects", "false").map_err(wrong)?;
        }
        for (key, value) in ours(&file, access) {
            file.set_raw_value(key, value.as_str()).map_err(wrong)?;
        }
        let only_git = ONLY_GIT_VARIABLES.into_iter().filter(|name| access.variable(name).is_some()).collect();
        let home = home.filter(|_| with_logins);
        Ok(Self { file, home, with_logins, follows, only_git, has_agent: access.variable("SSH_AUTH_SOCK").is_some() })
    }

    /// Whether redirects are followed.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }

    /// Whether credentials may be shown.
    pub(crate) fn with_logins(&self) -> bool {
        self.with_logins
    }

    /// All of it, as a file that git reads.
    pub(crate) fn text(&self) -> Vec<u8> {
        self.file.to_bstring().into()
    }

    /// Applies it to a repository. The output of ssh goes to the file `said`: gix would print what it does not understand.
    pub(crate) fn apply(&self, repository: &mut gix::Repository, said: &Path) -> gix::Result<()> {
        let mut config = repository.config_snapshot_mut();
        config.append(self.file.clone())?;
        let command = config.string("core.sshCommand");
        if let (Some(command), Ok(said)) = (command, shlex::try_quote(&said.to_string_lossy())) {
            // git-config(1): the value is for a shell; gix recognises by the `>` that it needs one.
            config.set_raw_value("core.sshCommand", format!("2>{said} {command}").as_str())?;
        }
        config.commit()?;
        Ok(())
    }

    /// Why only git itself can reach an address, if that is so. `url` is the address after `insteadOf`.
    pub(crate) fn only_git(&self, url: &gix::Url) -> Option<String> {
        if !matches!(url.scheme, gix::url::Scheme::Http | gix::url::Scheme::Https) {
            return None;
        }
        let of_variable = self.only_git.first().map(|name| format!("{name} is set"));
        let sections = self.file.sections_by_name("http").into_iter().flatten();
        let of_section = sections.filter_map(|section| {
            let place = section.header().subsection_name().map(|place| place.to_str_lossy().into_owned());
            match place {
                // gix ignores sections for certain hosts.
                Some(place) => is_for(&place, url).then(|| format!("`http.{place}` is set in git's configuration")),
                None => {
                    let key = ONLY_GIT.into_iter().find(|key| section.value(key).is_some());
                    key.map(|key| format!("`http.{key}` is set in git's configuration"))
                }
            }
        });
        of_variable.into_iter().chain(of_section).next()
    }

    /// The file in which curl looks for passwords, if it exists.
    pub(crate) fn netrc(&self) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(".netrc")).filter(|path| path.is_file())
    }

    /// Whether ssh has an agent, for messages.
    pub(crate) fn has_agent(&self) -> bool {
        self.has_agent
    }

    /// How ssh is called.
    pub(crate) fn ssh_command(&self) -> Option<String> {
        self.file.string("core.sshCommand").map(|command| command.to_string())
    }

    /// The credential helpers, for messages.
    pub(crate) fn helpers(&self) -> Vec<String> {
        let sections = self.file.sections_by_name("credential").into_iter().flatten();
        let helpers = sections.flat_map(|section| section.values("helper"));
        let first = |helper: &str| helper.split_whitespace().next().unwrap_or_default().to_owned();
        helpers.map(|helper| first(&helper.to_str_lossy())).filter(|helper| !helper.is_empty()).collect()
    }
}

fn is_http(address: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| address.starts_with(scheme))
}

/// Settings for reaching servers, and rewritten addresses over http: nothing that identifies the user.
fn without_logins(file: &File, home: Option<&Path>) -> gix::Result<File> {
    let mut public = File::new(Metadata::from(Source::User));
    for section in file.sections() {
        let name = section.header().name().to_str_lossy().to_ascii_lowercase();
        let place = section.header().subsection_name();
        let keys: &[&str] = match name.as_str() {
            "http" => &REACHING,
            "url" if place.is_some_and(is_anonymous) => &["insteadOf"],
            _ => continue,
        };
        let values: Vec<(&str, String)> = keys
            .iter()
            .flat_map(|key| section.values(key).into_iter().map(|value| (*key, value.to_str_lossy().into_owned())))
            .collect();
        if values.is_empty() {
            continue;
        }
        let mut copy = public.new_section(name, place.map(ToOwned::to_owned))?;
        for (key, value) in values {
            // git itself gets another HOME.
            let value = match (home, value.strip_prefix("~/")) {
                (Some(home), Some(rest)) => home.join(rest).display().to_string(),
                _ => value,
            };
            copy.push(key, value.as_str())?;
        }
    }
    Ok(public)
}

fn is_anonymous(base: &BStr) -> bool {
    let base = base.to_str_lossy();
    let authority = base.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    is_http(&base) && authority.is_some_and(|authority| !authority.contains('@'))
}

fn is_for(place: &str, url: &gix::Url) -> bool {
    gix::url::parse(place.as_bytes().as_bstr()).is_ok_and(|place| {
        place.scheme == url.scheme
            && place.host() == url.host()
            && place.port_or_default() == url.port_or_default()
            && url.path.starts_with(place.path.trim_end_with(|c| c == '/'))
    })
}

/// The files that git reads outside of a repository, those that there are.
pub(crate) fn files(access: Access<'_>, home: Option<&Path>) -> Vec<(Source, PathBuf)> {
    let mut files: Vec<(Source, PathBuf)> = Vec::new();
    if access.variable("GIT_CONFIG_NOSYSTEM").is_none_or(|value| ["0", "false", "no", "off"].contains(&value)) {
        files.push((Source::System, access.variable("GIT_CONFIG_SYSTEM").unwrap_or("/etc/gitconfig").into()));
    }
    if let Some(global) = access.environment.iter().find(|(name, _)| name == "GIT_CONFIG_GLOBAL") {
        files.push((Source::User, (&global.1).into()));
        return files.into_iter().filter(|(_, path)| path.is_file()).collect();
    }
    let base = access.variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".config")));
    files.extend(base.map(|base| (Source::Git, base.join("git/config"))));
    files.extend(home.map(|home| (Source::User, home.join(".gitconfig"))));
    files.into_iter().filter(|(_, path)| path.is_file()).collect()
}

// git-config(1), "ENVIRONMENT".
fn from_variables(access: Access<'_>) -> Vec<(String, String)> {
    let count = access.variable("GIT_CONFIG_COUNT").and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    let pair = |number: usize| {
        let key = access.variable(&format!("GIT_CONFIG_KEY_{number}"))?;
        let value = access.variable(&format!("GIT_CONFIG_VALUE_{number}")).unwrap_or_default();
        Some((key.to_owned(), value.to_owned()))
    };
    (0..count.min(1000)).filter_map(pair).collect()
}

fn ours(user: &File, access: Access<'_>) -> Vec<(&'static str, String)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let mut ours = vec![
        // No prompts: several repositories are fetched at once.
        ("gitoxide.credentials.terminalPrompt", "false".to_owned()),
        // Only `cli` prints.
        ("gitoxide.credentials.helperStderr", "false".to_owned()),
        // A server's repository may be shallow itself.
        ("clone.rejectShallow", "false".to_owned()),
        // Each thread that indexes a pack holds inflated objects.
        ("pack.threads", threads.to_string()),
    ];
    match (access.variable("GIT_SSH_COMMAND"), access.variable("GIT_SSH")) {
        (Some(command), _) => ours.push(("core.sshCommand", command.into())),
        (None, _) if user.string("core.sshCommand").is_some() => {}
        (None, Some(program)) => ours.push(("gitoxide.ssh.commandWithoutShellFallback", program.into())),
        (None, None) => {
            ours.push(("core.sshCommand", "ssh -o BatchMode=yes".into()));
            // Otherwise gix would run ssh once more, to find out its variant.
            ours.push(("ssh.variant", "ssh".into()));
        }
    }
    ours
}
