//! What can go wrong on the way into a sandbox: which step, on what, and what to do about it.

use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::model::{Explain, Kind, Usage};

/// A step that failed, as the helper reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailure {
    /// The step, in words: `mount /proc`.
    pub step: String,
    /// errno.
    pub errno: i32,
    /// Whether the payload itself could not be started, rather than the sandbox.
    pub payload: bool,
}

impl StepFailure {
    /// Names the step of an I/O error; made for `map_err`.
    pub fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self { step: step.into(), errno: error.into().raw_os_error().unwrap_or(libc::EIO), payload: false }
    }
}

/// What was found out on the way into a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether BitBake can cut its tasks off from the network in there; none where the spec did not ask.
    pub tasks_cut: Option<bool>,
    /// Whether overlayfs holds the root, where it has more than one folder; otherwise they are bound one by one.
    pub overlay: bool,
    /// Whether abstract sockets of this machine are out of reach.
    pub sockets_scoped: bool,
    /// Whether the helper is in the cgroup that the spec names; none where it names none.
    pub in_cgroup: Option<bool>,
    /// Whether the kernel limits the sandbox's processes by itself; none where the spec did not ask.
    pub processes_limited: Option<bool>,
}

/// What init tells the parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Everything is mounted; the payload runs.
    Ready(Verified),
    /// A step failed.
    Failed(StepFailure),
    /// The payload ended.
    Exited {
        /// Its exit status, or 128 and the number of the signal that ended it.
        status: i32,
        /// What it and everything that it started used, as far as PID 1 saw it end.
        usage: Usage,
    },
}

/// Why a sandbox could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Our own binary could not be started again.
    #[error("cannot start the sandbox's helper {path}")]
    Spawn {
        /// The path of our own binary.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Pipes and the like.
    #[error("cannot prepare the sandbox: {what}")]
    Prepare {
        /// What was to be made.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A step inside failed.
    #[error("the sandbox cannot {step}")]
    Step {
        /// The step, in words.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program is not there, or cannot be executed.
    #[error("cannot run {program} in the sandbox")]
    Payload {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The helper ended without a word.
    #[error("the sandbox's helper ended unexpectedly ({0})")]
    Silent(String),
}

impl From<StepFailure> for SandboxError {
    fn from(failure: StepFailure) -> Self {
        let source = io::Error::from_raw_os_error(failure.errno);
        if failure.payload {
            Self::Payload { program: failure.step, source }
        } else {
            Self::Step { step: failure.step, source }
        }
    }
}

impl Explain for SandboxError {
    fn kind(&self) -> Kind {
        match self {
            Self::Payload { .. } => Kind::Request,
            _ => Kind::Host,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Step { step, source } => Some(obstacle(step, source.raw_os_error().unwrap_or(0))),
            Self::Payload { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("is it part of the build host? Its rootfs recipe lists the packages".into())
            }
            _ => None,
        }
    }
}

/// What stands in the way, judged by the step, the errno and what this machine says about itself.
///
/// The errno alone does not tell: the same EPERM comes from a sysctl, from AppArmor, from a container's seccomp filter
/// and from a chroot (user_namespaces(7), unshare(2)).
fn obstacle(step: &str, errno: i32) -> String {
    let sysctl = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned());
    if sysctl("user/max_user_namespaces").as_deref() == Some("0") || errno == libc::ENOSPC && step.contains("namespace")
    {
        return "user namespaces are used up or switched off here; as administrator:  sysctl -w user.max_user_namespaces=15000"
            .into();
    }
    if sysctl("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return "this kernel keeps user namespaces from ordinary users; as administrator:  sysctl -w kernel.unprivileged_userns_clone=1".into();
    }
    if sysctl("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return "AppArmor keeps user namespaces from programs without a profile; as administrator:  sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".into();
    }
    if step.contains("/proc") && errno == libc::EPERM {
        return "parts of /proc are masked, as containers do; start the container with  --security-opt unmask=ALL  (podman) or  --security-opt systempaths=unconfined  (docker)".into();
    }
    if errno == libc::EPERM && seccomp_filtered() {
        return "a seccomp filter of the surrounding container forbids it; start the container with  --security-opt seccomp=unconfined".into();
    }
    if errno == libc::EPERM && step.contains("namespace") {
        return "namespaces are forbidden in a chroot and in some containers; run smidr outside of it".into();
    }
    "see what works here and what does not:  smidr doctor".into()
}

fn seccomp_filtered() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| status.lines().any(|line| line == "Seccomp:\t2"))
}
