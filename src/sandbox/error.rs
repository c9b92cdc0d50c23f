//! Errors of starting a sandbox: which step failed, on which object, and what to do about it.

use std::io;

use serde::{Deserialize, Serialize};

use super::{
    obstacle::{Obstacle, diagnose},
    signs::Signs,
};
use crate::{
    model::{Hint, Kind, Usage, UserError},
    plan::{Isolation, SandboxSpec},
};

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

    /// The step, the kernel's error, and its cause, which is looked for on this machine.
    fn reason(&self) -> String {
        let error = SandboxError::from(self.clone());
        let why = error.obstacle().map(|obstacle| format!("; {}", obstacle.hint())).unwrap_or_default();
        format!("{error}: {}{why}", error.errno().unwrap_or_default())
    }
}

/// The properties of a started sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// What keeps it apart from this machine.
    pub isolation: Isolation,
    /// Whether ids of a range exist in there beside one's own.
    pub ranged: bool,
    /// Whether BitBake can cut its tasks off from the network in there.
    pub tasks: Tasks,
    /// Why overlayfs does not hold the root, where it has more than one folder: they are bound one by one.
    pub no_overlay: Option<StepFailure>,
    /// Whether abstract sockets of this machine are out of reach.
    pub sockets_scoped: bool,
    /// Whether other processes of this machine are out of reach of its signals.
    pub signals_scoped: bool,
    /// Whether the helper is in the cgroup that the spec names; none where it names none.
    pub in_cgroup: Option<bool>,
    /// Whether the kernel limits the sandbox's processes by itself; none where the spec did not ask.
    pub processes_limited: Option<bool>,
}

/// Whether BitBake can cut its tasks off from the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tasks {
    /// The spec did not ask.
    Unasked,
    /// It can.
    Cut,
    /// It cannot, because of this step.
    Open(StepFailure),
}

impl Verified {
    /// What the build does not get on this machine, with the reasons; one sentence each.
    pub fn losses(&self, spec: &SandboxSpec) -> Vec<String> {
        let mut losses: Vec<&str> = Vec::new();
        if spec.ids.range.is_some() && !self.ranged {
            losses.push(
                "only one id exists in the build: newuidmap and newgidmap did not map the others (host.ids: range)",
            );
        }
        match self.isolation {
            Isolation::Full => {}
            Isolation::SharedProcesses => {
                losses.push(
                    "parts of /proc are masked here: the build has no PID namespace and sees this machine's processes",
                );
            }
            Isolation::None => {
                losses.push("the build uses this machine's own files and programs (host.isolation: none)")
            }
        }
        if !self.signals_scoped {
            losses.push(
                "the build can send signals to your other processes: only Linux 6.12 and newer can keep it from that",
            );
        }
        if !self.sockets_scoped {
            losses.push(
                "the build can reach abstract sockets of this machine (X11, D-Bus): only Linux 6.12 and newer with Landlock can keep it from that",
            );
        }
        let mut losses: Vec<String> = losses.into_iter().map(str::to_owned).collect();
        if let Some(failure) = &self.no_overlay {
            losses.push(format!("the image's files are bound one by one, which takes longer: {}", failure.reason()));
        }
        if let Tasks::Open(failure) = &self.tasks {
            losses.push(format!("BitBake cannot cut its tasks off from the network here: {}", failure.reason()));
        }
        losses
    }

    /// What keeps the build apart from this machine, in a few words.
    pub fn describe(&self, spec: &SandboxSpec) -> String {
        let mut text = String::from(match self.isolation {
            Isolation::Full => "full isolation",
            Isolation::SharedProcesses => "isolation without a PID namespace",
            Isolation::None => "no isolation",
        });
        if self.ranged {
            text.push_str(", a range of ids");
        }
        if spec.own_network {
            text.push_str(", no network");
        }
        if self.no_overlay.is_some() {
            text.push_str(", without overlay");
        }
        if !self.sockets_scoped {
            text.push_str(", abstract sockets open");
        }
        if spec.hide_openat2 {
            text.push_str(", openat2 hidden");
        }
        text
    }
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

/// Why a sandbox could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Our own binary could not be started again.
    #[error("cannot start the sandbox's helper {path}")]
    Spawn {
        /// The path of our own binary.
        path: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// Pipes and the like.
    #[error("cannot prepare the sandbox: {what}")]
    Prepare {
        /// What was to be made.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// A step inside failed.
    #[error("the sandbox cannot {step}")]
    Step {
        /// The step, in words.
        step: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The program is not there, or cannot be executed.
    #[error("cannot run {program} in the sandbox")]
    Payload {
        /// The program.
        program: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The helper ended without a report.
    #[error("the sandbox's helper ended unexpectedly ({0})")]
    Silent(String),
    /// Another process killed the helper or PID 1.
    #[error("the sandbox was killed from outside: its helper ended unexpectedly ({0})")]
    Killed(String),
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

impl SandboxError {
    /// Whether this very step failed with this errno.
    pub(super) fn is_at(&self, at: &str, errno: i32) -> bool {
        matches!(self, Self::Step { step, source } if step == at && source.raw_os_error() == Some(errno))
    }

    /// The obstacle, where a step failed. Looks at this machine.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let Self::Step { step, source } = self else { return None };
        Some(diagnose(step, source.raw_os_error().unwrap_or(0), &Signs::gather()))
    }

    /// The name of the errno that the kernel answered: `EPERM`.
    pub fn errno(&self) -> Option<String> {
        let (Self::Spawn { source, .. }
        | Self::Prepare { source, .. }
        | Self::Step { source, .. }
        | Self::Payload { source, .. }) = self
        else {
            return None;
        };
        Some(format!("{:?}", nix::errno::Errno::from_raw(source.raw_os_error()?)))
    }
}

impl UserError for SandboxError {
    fn kind(&self) -> Kind {
        match self {
            Self::Payload { .. } => Kind::Request,
            _ => Kind::Host,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Step { .. } => self.obstacle().map(|obstacle| obstacle.hint()).into_iter().collect(),
            Self::Payload { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                vec![Hint::new("is it part of the build host? Its rootfs recipe lists the packages")]
            }
            Self::Killed(_) => vec![Hint::command(
                "an administrator or an out-of-memory daemon may have done that",
                "journalctl -b -u systemd-oomd",
            )],
            _ => Vec::new(),
        }
    }
}
