//! Files and settings of the caller and of this machine that a build may use: keys of the section `host`.
//!
//! Also the places in the sandbox where no bind is allowed. What depends on this machine is checked by `plan` and `engine`.

use std::path::{Component, Path};

use super::{
    decode::{Decoder, Fields},
    node::Text,
    problem::Problem,
};

/// What the config shows to the sandbox.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Whether fetchers may use the caller's ssh-agent.
    pub ssh_agent: bool,
    /// A file of passwords for hosts, as curl, wget and Python read it.
    pub netrc: Option<Text>,
    /// A file of `git credential-store`.
    pub git_credentials: Option<Text>,
    /// Whether this machine's CA certificates go in.
    pub certificates: bool,
    /// Whether this machine's proxy variables go in.
    pub proxies: bool,
    /// Further folders and files.
    pub binds: Vec<Bind>,
}

/// A folder or file of this machine that a build sees.
#[derive(Clone, Debug)]
pub struct Bind {
    /// On this machine, relative to the config.
    pub source: Text,
    /// In the sandbox; none: the same.
    pub dest: Option<Text>,
    /// Whether the build may change it.
    pub writable: bool,
    /// Whether that holds for every `.git` in it too, whose configuration the git of this machine obeys.
    pub git_writable: bool,
}

/// No bind at, below or above these: the sandbox makes them itself, or the image would break.
const OWN: [&str; 24] = [
    "/proc",
    "/sys",
    "/dev",
    "/.smidr",
    "/run/smidr",
    // In most images links into /usr, which a mount point would hide.
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/machine-id",
];

/// As above; the sandbox makes these only for some configs.
const OWN_AT_TIMES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssh/ssh_known_hosts"];

/// No bind at these; below them is allowed.
const PARENTS: [&str; 5] = ["/tmp", "/var/tmp", "/run", "/etc", "/usr"];

/// Why no bind is allowed at this path of the sandbox, if so.
pub fn refused_dest(dest: &Path) -> Option<String> {
    if !dest.is_absolute() {
        return Some("is not an absolute path".into());
    }
    if dest.components().any(|part| part == Component::ParentDir) {
        return Some("holds `..`".into());
    }
    if dest == Path::new("/") {
        return Some("is the whole root".into());
    }
    let own = OWN.iter().chain(&OWN_AT_TIMES).find(|own| overlap(dest, Path::new(own)));
    let parent = || PARENTS.iter().find(|parent| Path::new(parent).starts_with(dest));
    own.or_else(parent).map(|own| format!("would hide or change {own}, which belongs to the sandbox"))
}

/// Whether one path is the other, or lies below it. By components: `/srv/cache` does not overlap `/srv/cache-evil`.
pub fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Takes the keys from the section `host`.
pub(super) fn inputs(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Inputs {
    Inputs {
        ssh_agent: f.flag(d, "ssh_agent").unwrap_or(false),
        netrc: file(d, f, "netrc", "~/.netrc"),
        git_credentials: file(d, f, "git_credentials", "~/.git-credentials"),
        certificates: f.flag(d, "certificates").unwrap_or(true),
        proxies: f.flag(d, "proxies").unwrap_or(true),
        binds: binds(d, f),
    }
}

/// A file of the caller's: `true` means the one in its usual place.
fn file(d: &mut Decoder<'_>, f: &mut Fields<'_>, key: &'static str, usual: &str) -> Option<Text> {
    let path = f.path(key);
    let text = f.text(d, key)?;
    match text.text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(Text { text: usual.into(), ..text }),
        "false" | "no" | "off" => None,
        "" => {
            d.problem(Problem::new(text.span, format!("{path} must be true, false or the path of a file")));
            None
        }
        _ => Some(text),
    }
}

fn binds(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Vec<Bind> {
    let mut binds: Vec<Bind> = Vec::new();
    for (i, node) in f.list(d, "binds").iter().enumerate() {
        let path = format!("host.binds[{i}]");
        let before = d.problems.len();
        let mut f = d.fields(node, &path);
        let source = f.required(d, "source");
        let dest = f.text(d, "dest");
        let writable = f.flag(d, "writable").unwrap_or(false);
        let git_writable = f.flag(d, "git_writable").unwrap_or(false);
        f.finish(d);
        if let Some(dest) = &dest {
            let refused = refused_dest(Path::new(&dest.text));
            let twin = || {
                let mut known = binds.iter().filter_map(|bind| bind.dest.as_ref());
                known
                    .any(|known| Path::new(&known.text) == Path::new(&dest.text))
                    .then(|| "is taken by another bind".into())
            };
            if let Some(why) = refused.or_else(twin) {
                let title = format!("{path}.dest: `{}` {why}", dest.text);
                d.problem(
                    Problem::new(dest.span.clone(), title)
                        .hint("choose a place of its own, such as /srv/NAME or /opt/NAME"),
                );
            }
        }
        // One that is wrong is told already.
        if d.problems.len() == before {
            binds.push(Bind { source, dest, writable, git_writable });
        }
    }
    binds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_of_the_sandbox_itself_are_refused() {
        for bad in [
            "",
            "srv",
            "/",
            "/srv/../etc",
            "/proc",
            "/proc/1",
            "/dev/kvm",
            "/etc",
            "/etc/",
            "/etc/passwd",
            "/etc/passwd/x",
            "/etc/ssl",
            "/etc/ssh/ssh_known_hosts",
            "/usr",
            "/usr/bin",
            "/usr/bin/gcc",
            "/usr/lib/x",
            "/lib/x",
            "/lib64",
            "/run",
            "/run/smidr",
            "/run/smidr/x",
            "/tmp",
            "/var",
            "/var/tmp",
            "/.smidr/launch.py",
        ] {
            assert!(refused_dest(Path::new(bad)).is_some(), "{bad}");
        }
        for good in [
            "/srv",
            "/srv/cache",
            "/opt/x",
            "/etc/foo.conf",
            "/etc/passwd-evil",
            "/procs",
            "/developers/x",
            "/usr/local/x",
            "/usr/share/x",
            "/usr/binaries",
            "/libs",
            "/tmp/x",
            "/var/cache/x",
            "/run/x",
            "/run/smidr-evil",
            "/home/u/x",
        ] {
            assert_eq!(refused_dest(Path::new(good)), None, "{good}");
        }
        assert!(!overlap(Path::new("/srv/cache"), Path::new("/srv/cache-evil")));
        assert!(overlap(Path::new("/srv/cache/"), Path::new("/srv/cache/x")));
    }
}
