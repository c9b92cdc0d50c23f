//! What can be done about an obstacle, as lines to type.

use serde::Serialize;

use crate::{
    model::Hint,
    sandbox::signs::{Container, Signs},
};

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// In words: what to do, or where, in a form that can follow "you can" or "as administrator,".
    pub how: String,
    /// To be typed, or to be put where `how` says; one of them may itself be several lines.
    pub lines: Vec<String>,
}

impl Remedy {
    /// Takes words without a final colon.
    pub fn new<L: Into<String>>(how: impl Into<String>, lines: impl IntoIterator<Item = L>) -> Self {
        Self { how: how.into(), lines: lines.into_iter().map(Into::into).collect() }
    }

    /// Where there is nothing to type.
    pub fn advice(how: impl Into<String>) -> Self {
        Self { how: how.into(), lines: Vec::new() }
    }

    /// For one line of a hint.
    pub fn in_short(&self) -> Hint {
        match self.lines.first() {
            None => Hint::new(&self.how),
            Some(line) if line.contains('\n') => {
                Hint::command(format!("{}, what this prints", self.how), "smidr doctor")
            }
            Some(line) => Hint::command(&self.how, line),
        }
    }
}

/// What only the administrator can type.
pub(super) fn administrator<L: Into<String>>(lines: impl IntoIterator<Item = L>) -> Remedy {
    Remedy::new("as administrator", lines)
}

/// Sets a sysctl, now and after the next boot.
pub(super) fn by_sysctl(signs: &Signs, name: &str, value: u64) -> Remedy {
    // A container shows its machine's, but cannot set them; only those of its own user namespace.
    let how = match signs.container {
        Some(_) if !signs.nested => "as administrator, outside of the container",
        _ => "as administrator",
    };
    let now = format!("sysctl -w {name}={value}");
    Remedy::new(how, [now, format!("echo {name}={value} > /etc/sysctl.d/60-smidr.conf")])
}

/// How to run smidr outside of its container, or with more rights in it: for its user, and for its administrator.
pub(super) fn outside(signs: &Signs) -> (Option<Remedy>, Option<Remedy>) {
    let here = own_command(signs);
    let start = |line: &str| Remedy::new("start the container with", [line]);
    let leave = |by: &str| Remedy::new("run smidr outside of the container", [format!("{by} {here}")]);
    let Some(container) = signs.container else {
        return match &signs.service {
            Some(service) => (None, Some(unit(service))),
            None => (Some(Remedy::advice("run smidr outside of it, in an ordinary terminal")), None),
        };
    };
    match container {
        Container::Docker => (
            Some(start(
                "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined IMAGE",
            )),
            None,
        ),
        Container::Podman => (
            Some(start(
                "podman run --security-opt seccomp=unconfined --security-opt label=disable --security-opt unmask=ALL IMAGE",
            )),
            None,
        ),
        Container::Kubernetes => (Some(Remedy::new("write in the manifest of the pod", [POD])), None),
        Container::GitlabRunner => {
            (None, Some(runner("security_opt = [\"seccomp=unconfined\", \"apparmor=unconfined\"]")))
        }
        Container::Distrobox => (Some(leave("distrobox-host-exec")), None),
        Container::Toolbox | Container::Flatpak => (Some(leave("flatpak-spawn --host")), None),
        Container::Lxc => (
            None,
            Some(Remedy::new(
                "as administrator, outside of the container NAME (in Proxmox:  pct set ID --features nesting=1)",
                ["incus config set NAME security.nesting=true && incus restart NAME"],
            )),
        ),
        Container::Other => (Some(Remedy::advice("run smidr outside of the container")), None),
    }
}

/// A pod may only have an uncovered /proc where it has a user namespace of its own.
const POD: &str = "spec:
  hostUsers: false
  containers:
  - securityContext:
      procMount: Unmasked
      seccompProfile: {type: Unconfined}
      appArmorProfile: {type: Unconfined}";

fn runner(line: &str) -> Remedy {
    Remedy::new("as administrator of the runner, below [runners.docker] in /etc/gitlab-runner/config.toml", [line])
}

/// Docker's daemon does not support `systempaths=unconfined`: its command line translates that, the runner does not.
pub(super) fn privileged_runner() -> Remedy {
    runner("privileged = true")
}

/// Takes back what systemd.exec(5) forbids a service.
fn unit(service: &str) -> Remedy {
    let folder = format!("/etc/systemd/system/{service}.d");
    let text = "[Service]\nRestrictNamespaces=no\nSystemCallFilter=\nProtectKernelTunables=no\nProtectKernelLogs=no\n\
        ProtectProc=default\nProcSubset=all\nEOF";
    administrator([
        format!("mkdir -p {folder} && cat > {folder}/smidr.conf <<'EOF'\n{text}"),
        format!("systemctl daemon-reload && systemctl restart {service}"),
    ])
}

/// The profile that lets smidr, and nothing else, have user namespaces; children stay in it.
pub(super) fn apparmor_profile(signs: &Signs) -> Remedy {
    let profile = format!(
        "cat > /etc/apparmor.d/smidr <<'EOF'
abi <abi/4.0>,
include <tunables/global>
profile smidr {} flags=(unconfined) {{
  userns,
  include if exists <local/smidr>
}}
EOF",
        pattern(&signs.binary.display().to_string())
    );
    administrator([profile, "apparmor_parser -r /etc/apparmor.d/smidr".to_owned()])
}

/// A path as apparmor.d(5) takes it: these signs would match more than themselves.
fn pattern(path: &str) -> String {
    let mut text = String::from("\"");
    for sign in path.chars() {
        if "*?[]{}^,\\\"".contains(sign) {
            text.push('\\');
        }
        text.push(sign);
    }
    text.push('"');
    if text.len() == path.len() + 2 && !path.contains(char::is_whitespace) { path.to_owned() } else { text }
}

/// The command that the user has typed, approximately.
pub(super) fn own_command(signs: &Signs) -> String {
    format!("{} doctor", quoted(&signs.binary.display().to_string()))
}

/// For a shell.
pub(super) fn quoted(text: &str) -> String {
    shlex::try_quote(text).map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned)
}
