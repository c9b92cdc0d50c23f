//! Files of the caller and of this machine that a build uses: named here, found and checked by `engine` when the build begins.
//!
//! They are bound into the sandbox, never copied.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{build::Plan, folders::Folders, guarded::Guarded, sources::PlannedSource};
use crate::{
    config::{self, Config, overlap, refused_dest},
    model::{Hint, Kind, Paths, Secrets, SystemFacts, UserError, document_path},
};

/// The caller's ssh-agent, inside. `/run` is in memory, so nothing of it stays.
pub(super) const SSH_AGENT: &str = "/run/smidr/ssh-agent.sock";

/// The caller's git credentials, inside.
pub(super) const GIT_CREDENTIALS: &str = "/run/smidr/git-credentials";

/// A global config of git that names them.
pub const GIT_CONFIG: &str = "/.smidr/gitconfig";

/// The machine's host keys (ssh(1), FILES), at the same path on both sides.
const SYSTEM_KNOWN_HOSTS: &str = "/etc/ssh/ssh_known_hosts";

/// A file or folder that a build sees besides its own folders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    /// What it is.
    pub what: What,
    /// On this machine; none: the caller has none, as without `SSH_AUTH_SOCK`.
    #[serde(flatten, with = "document_path::source")]
    pub source: Option<PathBuf>,
    /// In the sandbox.
    pub dest: PathBuf,
    /// Whether the build may change it.
    pub writable: bool,
    /// Whether that holds for every `.git` in it too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub git_writable: bool,
}

/// Kinds of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The socket of the caller's ssh-agent.
    SshAgent,
    /// The known hosts of the caller's ssh. Optional.
    KnownHosts,
    /// Passwords for hosts.
    Netrc,
    /// Passwords for git.
    GitCredentials,
    /// An entry of `host.binds`.
    Bind,
}

/// An input that has been found: a path without links, and of a known kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedInput {
    /// On this machine.
    pub source: PathBuf,
    /// In the sandbox.
    pub dest: PathBuf,
    /// Whether the build may change it.
    pub writable: bool,
    /// Whether that holds for every `.git` in it too.
    pub git_writable: bool,
    /// Whether it is a folder, rather than a file or a socket.
    pub folder: bool,
}

/// Why an input cannot be shown to a build.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Its source.
    #[error("{path} cannot be shown to a build: it {why}")]
    Source {
        /// On this machine.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A folder of the build itself.
    #[error("{path} cannot be a folder of the build: it {why}")]
    Folder {
        /// On this machine.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Its place in the sandbox.
    #[error("host.binds: nothing can be shown at {path}: it {why}")]
    Dest {
        /// In the sandbox.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl UserError for InputError {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        vec![match self {
            Self::Source { .. } => Hint::new("name the one folder or file that the build needs"),
            Self::Folder { .. } => Hint::new("name a folder of its own under `directories:`"),
            Self::Dest { .. } => Hint::config("show it in a place of its own", "dest: /srv/NAME"),
        }]
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SshAgent => "ssh-agent",
            Self::KnownHosts => "known hosts",
            Self::Netrc => "netrc",
            Self::GitCredentials => "git credentials",
            Self::Bind => "bind",
        })
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.writable { "writable" } else { "read-only" };
        write!(f, "{}: ", self.what)?;
        match &self.source {
            None => write!(f, "none, SSH_AUTH_SOCK is not set"),
            Some(source) if *source == self.dest => write!(f, "{} ({how})", source.display()),
            Some(source) => write!(f, "{} as {} ({how})", source.display(), self.dest.display()),
        }
    }
}

/// Paths that must not be sources.
#[derive(Clone, Copy)]
pub struct OffLimits<'a> {
    /// The caller's home.
    pub home: &'a Path,
    /// SMIDR_HOME.
    pub smidr: &'a Path,
    /// Folders that builds may write to.
    pub writable: &'a [&'a Path],
}

impl OffLimits<'_> {
    /// Checks whether this may be shown to a build. Called with the path of the config, and again with its real path.
    ///
    /// # Errors
    ///
    /// When the path is refused.
    pub fn check(self, path: &Path) -> Result<(), InputError> {
        let why = if path == Path::new("/") {
            "is the root of this machine"
        } else if self.home.starts_with(path) {
            "holds your home"
        } else if overlap(self.smidr, path) {
            "is SMIDR_HOME, or a part of it"
        } else if ["/proc", "/sys", "/dev"].iter().any(|own| path.starts_with(own)) {
            "belongs to the kernel"
        } else if self.writable.iter().any(|folder| path.starts_with(folder)) {
            "lies where builds may write, and could be a link to anything by the next build"
        } else {
            return Ok(());
        };
        Err(InputError::Source { path: path.into(), why: why.into() })
    }
}

/// The inputs of a plan.
///
/// # Errors
///
/// The first that cannot be shown, or not there.
pub(super) fn inputs(
    config: &Config,
    facts: &SystemFacts,
    paths: &Paths,
    folders: &Folders,
    (layers, store): (&[PathBuf], &Path),
    guarded: &[Guarded],
    place: &dyn Fn(&str) -> PathBuf,
) -> Result<Vec<Input>, InputError> {
    let wanted = &config.host.inputs;
    let writable = folders.writable();
    let off_limits = OffLimits { home: &facts.home, smidr: paths.home(), writable: &writable };
    let read_only = |what, source: PathBuf, dest: PathBuf| Input {
        what,
        source: Some(source),
        dest,
        writable: false,
        git_writable: false,
    };
    let mut inputs = Vec::new();
    if wanted.ssh_agent {
        let agent = facts.environment.iter().find(|(name, value)| name == "SSH_AUTH_SOCK" && !value.is_empty());
        let source = agent.map(|(_, path)| place(path));
        inputs.push(Input {
            what: What::SshAgent,
            source,
            dest: SSH_AGENT.into(),
            writable: false,
            git_writable: false,
        });
        // ssh looks there by default, so the image's configuration is not changed.
        let known = ".ssh/known_hosts";
        inputs.push(read_only(What::KnownHosts, facts.home.join(known), folders.home.join(known)));
        inputs.push(read_only(What::KnownHosts, SYSTEM_KNOWN_HOSTS.into(), SYSTEM_KNOWN_HOSTS.into()));
    }
    let files = [
        (What::Netrc, &wanted.netrc, folders.home.join(".netrc")),
        (What::GitCredentials, &wanted.git_credentials, GIT_CREDENTIALS.into()),
    ];
    for (what, file, dest) in files {
        if let Some(file) = file {
            let source = place(file);
            off_limits.check(&source)?;
            inputs.push(read_only(what, source, dest));
        }
    }
    let own: Vec<&Path> = writable.iter().copied().chain([paths.home(), store]).collect();
    for bind in &wanted.binds {
        let input = planned(bind, place);
        let source = input.source.as_deref().unwrap_or(Path::new("/"));
        off_limits.check(source)?;
        // A build could write there what the next one obeys.
        if bind.writable
            && let Some(why) = guarded.iter().find_map(|guarded| guarded.refuses(source))
        {
            return Err(InputError::Source { path: source.into(), why });
        }
        if bind.writable
            && let Some(folder) = writable.iter().find(|folder| **folder != source && folder.starts_with(source))
        {
            let why = format!("lies in the bind {}, where builds may put a link to anything", source.display());
            return Err(InputError::Folder { path: folder.to_path_buf(), why });
        }
        check_dest(&input.dest, &own)?;
        let refused = |why: &str| Err(InputError::Dest { path: input.dest.clone(), why: why.into() });
        if inputs.iter().any(|known: &Input| known.dest == input.dest) {
            return refused("is taken by another bind");
        }
        if layers.iter().any(|layer| in_the_way(layer, source, &input.dest)) {
            return refused("would hide or change a layer");
        }
        inputs.push(input);
    }
    check_nested(&inputs)?;
    Ok(inputs)
}

fn planned(bind: &config::Bind, place: &dyn Fn(&str) -> PathBuf) -> Input {
    let source = place(&bind.source);
    // Without `.` and double slashes: paths are compared.
    let dest = bind.dest.as_ref().map_or_else(|| source.clone(), |dest| Path::new(&dest.text).components().collect());
    Input { what: What::Bind, source: Some(source), dest, writable: bind.writable, git_writable: bind.git_writable }
}

fn check_dest(dest: &Path, own: &[&Path]) -> Result<(), InputError> {
    let taken =
        || own.iter().find(|own| overlap(dest, own)).map(|own| format!("would hide or change {}", own.display()));
    match refused_dest(dest).or_else(taken) {
        Some(why) => Err(InputError::Dest { path: dest.into(), why }),
        None => Ok(()),
    }
}

/// Whether a bind would change the content of a layer. One at its own path changes nothing.
pub fn in_the_way(layer: &Path, source: &Path, dest: &Path) -> bool {
    layer == dest || source != dest && overlap(layer, dest)
}

/// In a folder that a build may write to, it could leave a link to anything, which a second bind must not follow.
fn check_nested(inputs: &[Input]) -> Result<(), InputError> {
    let writable: Vec<&Path> =
        inputs.iter().filter(|input| input.writable).filter_map(|input| input.source.as_deref()).collect();
    let inner = inputs.iter().filter_map(|input| input.source.as_deref()).find(|source| {
        let mut folders = writable.iter().filter(|folder| source.starts_with(folder));
        folders.any(|folder| folder != source)
    });
    match inner {
        None => Ok(()),
        Some(path) => {
            Err(InputError::Source { path: path.into(), why: "lies in a bind that the build may write to".into() })
        }
    }
}

/// Variables with the places of inputs.
pub(super) fn variables(config: &Config) -> Vec<(&'static str, &'static str)> {
    let wanted = &config.host.inputs;
    let agent = wanted.ssh_agent.then_some(("SSH_AUTH_SOCK", SSH_AGENT));
    let git = wanted.git_credentials.is_some().then_some(("GIT_CONFIG_GLOBAL", GIT_CONFIG));
    agent.into_iter().chain(git).collect()
}

/// The text of [`GIT_CONFIG`].
pub fn git_config() -> String {
    // `store` would try to rewrite the file after every success, and print an error.
    format!(
        "# Written by smidr (host.git_credentials)\n[include]\n\tpath = ~/.gitconfig\n[credential]\n\
         \thelper = \"!f() {{ test \\\"$1\\\" != get || git credential-store --file={GIT_CREDENTIALS} get; }}; f\"\n"
    )
}

impl Plan {
    /// Secrets that the plan itself holds: in variables and in addresses.
    pub fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::default();
        for (name, value) in self.env.iter().chain(&self.exports) {
            secrets.add_variable(name, value);
        }
        self.conf.iter().for_each(|(_, value)| secrets.add_addresses(value));
        secrets.add_addresses(&self.conf_tail);
        for source in self.layers.iter().map(|layer| &layer.source).chain(&self.bitbake) {
            if let PlannedSource::Git(git) = source {
                git.mirrors.iter().chain([&git.url]).for_each(|url| secrets.add_addresses(url));
            }
        }
        secrets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::read, model::BuildRequest, plan::make};

    fn facts() -> SystemFacts {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        SystemFacts {
            environment: vec![variable("SSH_AUTH_SOCK", "/tmp/ssh-x/agent.1"), variable("MY_TOKEN", "hunter2")],
            fetch_env: vec![variable("http_proxy", "http://me:letmein@proxy:3128")],
            ca_bundle: Some("/etc/ssl/cert.pem".into()),
            ..SystemFacts::of_an_ordinary_user()
        }
    }

    fn plan_of(host: &str, facts: &SystemFacts) -> Result<Plan, String> {
        let text = format!(
            "name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\nlayers: [{{name: l, path: ./layers/l}}]\n\
             directories: {{downloads: /srv/dl}}\nhost: {{{host}}}\n"
        );
        let config = read("smidr.yaml", &text, None, &|_| None).map_err(|problems| problems.render(false))?;
        let paths = Paths::new("/home/u/.smidr".into());
        make(
            &config,
            None,
            facts,
            &paths,
            Path::new("/home/u/p/smidr.yaml"),
            &BuildRequest::default(),
            &crate::plan::Domain::Own,
        )
        .map_err(|error| error.to_string())
    }

    fn binds(binds: &str) -> Result<Plan, String> {
        plan_of(&format!("binds: [{binds}]"), &facts())
    }

    fn variable<'a>(plan: &'a Plan, name: &str) -> Option<&'a str> {
        plan.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn inputs_have_fixed_places() {
        let host = "ssh_agent: true, netrc: true, git_credentials: ./secret/git, binds: [{source: ~/c, dest: /srv/./c/}, {source: ./f, writable: yes}]";
        let plan = plan_of(host, &facts()).expect("a plan");
        let shown: Vec<String> = plan.inputs.iter().map(ToString::to_string).collect();
        let home = plan.folders.home.display();
        assert_eq!(
            shown,
            [
                "ssh-agent: /tmp/ssh-x/agent.1 as /run/smidr/ssh-agent.sock (read-only)".into(),
                format!("known hosts: /home/u/.ssh/known_hosts as {home}/.ssh/known_hosts (read-only)"),
                "known hosts: /etc/ssh/ssh_known_hosts (read-only)".into(),
                format!("netrc: /home/u/.netrc as {home}/.netrc (read-only)"),
                "git credentials: /home/u/p/secret/git as /run/smidr/git-credentials (read-only)".into(),
                "bind: /home/u/c as /srv/c (read-only)".into(),
                "bind: /home/u/p/f (writable)".into(),
            ]
        );
        assert_eq!(variable(&plan, "SSH_AUTH_SOCK"), Some(SSH_AGENT));
        assert_eq!(variable(&plan, "GIT_CONFIG_GLOBAL"), Some(GIT_CONFIG));
        let passed = variable(&plan, "BB_ENV_PASSTHROUGH_ADDITIONS").expect("a list");
        for name in ["SSH_AUTH_SOCK", "GIT_CONFIG_GLOBAL", "http_proxy", "SSL_CERT_FILE"] {
            assert!(passed.split(' ').any(|known| known == name), "{name} in {passed}");
        }
        let no_agent = SystemFacts { environment: vec![], ..facts() };
        let plan = plan_of("ssh_agent: true", &no_agent).expect("a plan: the agent may be there when the build begins");
        assert_eq!(plan.inputs[0].source, None);
    }

    #[test]
    fn inputs_can_be_left_out() {
        let plan = plan_of("certificates: false, proxies: false", &facts()).expect("a plan");
        assert_eq!((plan.inputs.len(), &plan.ca_bundle), (0, &None));
        for name in ["http_proxy", "SSL_CERT_FILE", "SSH_AUTH_SOCK", "GIT_CONFIG_GLOBAL", "MY_TOKEN"] {
            assert_eq!(variable(&plan, name), None, "{name}");
        }
        let shared = format!("{} BB_HASHSERVE", crate::plan::BY_ENVIRONMENT.join(" "));
        assert_eq!(variable(&plan, "BB_ENV_PASSTHROUGH_ADDITIONS"), Some(shared.as_str()));
        // Ours, not the caller's, whose socket is not there.
        let plan = plan_of("ssh_agent: true, env: [SSH_AUTH_SOCK]", &facts()).expect("a plan");
        assert_eq!(variable(&plan, "SSH_AUTH_SOCK"), Some(SSH_AGENT));
    }

    #[test]
    fn binds_that_are_refused() {
        let rows = [
            ("{source: /}", "is the root of this machine"),
            ("{source: /home, dest: /srv/h}", "holds your home"),
            ("{source: '~', dest: /srv/h}", "holds your home"),
            ("{source: ~/.smidr, dest: /srv/s}", "is SMIDR_HOME"),
            ("{source: ~/.smidr/images, dest: /srv/s}", "is SMIDR_HOME"),
            ("{source: /proc/1, dest: /srv/s}", "belongs to the kernel"),
            ("{source: ., writable: true}", "holds smidr.yaml"),
            ("{source: ~/p/., dest: /srv/p, writable: true}", "holds smidr.yaml"),
            ("{source: /srv/dl/x, dest: /srv/s}", "could be a link to anything"),
            ("{source: /srv/c, writable: true}, {source: /srv/c/d}", "in a bind that the build may write to"),
            ("{source: /srv/x, dest: /srv/dl}", "hide or change /srv/dl"),
            ("{source: /srv/x, dest: /srv/dl/x}", "hide or change /srv/dl"),
            ("{source: /srv, dest: /home/u}", "hide or change /home/u/.smidr"),
            ("{source: /srv/x, dest: /home/u/.smidr/x}", "hide or change /home/u/.smidr"),
            ("{source: /srv/x, dest: /home/u/p}", "hide or change a layer"),
            ("{source: /srv/x, dest: /home/u/p/layers/l/conf}", "hide or change a layer"),
            ("{source: ./layers/l}", "hide or change a layer"),
            ("{source: /srv/x}, {source: /srv/y, dest: /srv/x}", "is taken by another bind"),
            ("{source: /srv/y, dest: /srv/x}, {source: /srv/z, dest: /srv//x/}", "is taken by another bind"),
            ("{source: /usr/lib/x}", "hide or change /usr/lib"),
            ("{source: /srv/x, dest: /etc/passwd}", "hide or change /etc/passwd"),
            ("{source: /srv/x, dest: x}", "is not an absolute path"),
            ("{source: /srv/x, dest: /srv/../x}", "holds `..`"),
        ];
        for (bad, why) in rows {
            let error = binds(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
        for good in [
            "{source: /srv/dl-evil}",
            "{source: /srv/x, dest: /srv/dl-evil}",
            "{source: /home/u/.smidr-evil}",
            "{source: /home/u/project}",
            "{source: .}",
            "{source: ./layers/l/files}",
            "{source: ./layers/l-evil}",
            "{source: /srv/c, writable: true}, {source: /srv/c-evil}",
            "{source: /usr/local/x}",
            "{source: /srv/x, dest: /etc/foo.conf}",
        ] {
            assert_eq!(binds(good).map(|_| ()), Ok(()), "{good}");
        }
        let linked = plan_of("netrc: /srv/dl/netrc", &facts()).expect_err("in a folder of builds");
        assert!(linked.contains("could be a link to anything"), "{linked}");
    }

    #[test]
    fn an_unset_variable_is_a_warning() {
        let plan = plan_of("env: [MY_TOKEN, MY_TOKNE]", &facts()).expect("a plan");
        let warned: Vec<&String> = plan.warnings.iter().filter(|warning| warning.contains("host.env")).collect();
        assert_eq!(warned, ["host.env: `MY_TOKNE` is not set here, so the build does not have it"]);
        assert!(variable(&plan, "MY_TOKNE").is_none());
    }

    #[test]
    fn a_plan_knows_its_secrets() {
        let plan = plan_of("env: [MY_TOKEN]", &facts()).expect("a plan");
        let forms = plan.secrets().forms();
        for secret in ["hunter2", "letmein"] {
            assert!(forms.iter().any(|form| form == secret), "{secret} in {forms:?}");
        }
    }
}
