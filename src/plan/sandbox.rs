//! The sandbox as a plain value: which namespaces, which root, which mounts, which program. Describes itself in plain words.
//!
//! `sandbox` carries it out. It travels to the sandbox's helper as JSON.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Everything that the sandbox's helper needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Who the build is, outside and inside.
    pub ids: Ids,
    /// The same on every machine, since some programs write it into what they make.
    pub hostname: String,
    /// Whether the sandbox has a network of its own, with nothing but a loopback.
    pub own_network: bool,
    /// Whether package managers may believe that they are root; only for rootfs recipes.
    pub root_emulation: bool,
    /// Whether programs learn that there is no openat2(2), which a pseudo older than 1.9.3 does not know.
    pub hide_openat2: bool,
    /// Whether to find out first if BitBake could cut its tasks off from the network; BitBake itself would not say.
    pub probe_tasks: bool,
    /// The root filesystem.
    pub root: Root,
    /// Mounts on top of it, in their order.
    pub mounts: Vec<MountOp>,
    /// What keeps it within limits.
    #[serde(default)]
    pub resources: Resources,
    /// What runs in it.
    pub payload: Payload,
}

/// How a sandbox comes under limits; by default under none of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// A cgroup that the helper joins before anything else, so that everything in the sandbox is in it.
    pub cgroup: Option<PathBuf>,
    /// A program that leads the helper to where it may join that cgroup, and then becomes it; none: it may from here.
    pub through: Option<Through>,
    /// Processes and threads at once, counted by the kernel for this sandbox's user namespace (RLIMIT_NPROC).
    pub processes: Option<u32>,
}

/// A program that becomes the helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// The program and its arguments; the helper's own follow.
    pub argv: Vec<String>,
    /// What it needs to know of the caller's environment.
    pub env: Vec<(String, String)>,
}

/// The single id that the user namespace maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The caller's uid.
    pub outer_uid: u32,
    /// The caller's gid.
    pub outer_gid: u32,
    /// The uid inside.
    pub uid: u32,
    /// The gid inside.
    pub gid: u32,
}

/// The root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// Read-only: folders on top of each other, the topmost first.
    Layers(Vec<PathBuf>),
    /// Writable: what is written goes to `upper`.
    Writable {
        /// The topmost first.
        lower: Vec<PathBuf>,
        /// Takes the changes.
        upper: PathBuf,
        /// Scratch space for the kernel, on the same file system as `upper`.
        work: PathBuf,
    },
    /// Writable: one folder as it is.
    Folder(PathBuf),
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountOp {
    /// A folder or file of this machine.
    Bind {
        /// On this machine.
        source: PathBuf,
        /// In the sandbox.
        dest: PathBuf,
        /// Whether the build may write there.
        writable: bool,
    },
    /// A device node of this machine.
    Device {
        /// The same on both sides.
        path: PathBuf,
    },
    /// An empty folder in memory.
    Tmpfs {
        /// In the sandbox.
        dest: PathBuf,
        /// Permissions.
        mode: u32,
    },
    /// The processes of the sandbox.
    Proc,
    /// A `/dev` with the harmless devices.
    Dev,
}

/// The program that runs in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The program and its arguments. A name without a slash is looked for in the PATH of `env`, inside. Empty: nothing runs, and
    /// the sandbox ends as soon as it is ready.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Where it starts, inside.
    pub cwd: PathBuf,
    /// Whether its standard input is a terminal of its own.
    pub terminal: bool,
    /// Whether BitBake's server may end by itself after the program, rather than with it: it may still write its caches.
    pub linger: bool,
    /// Processors that it may use; none: all.
    pub cpus: Option<u32>,
}

impl SandboxSpec {
    /// What the sandbox does, one operation a line, in plain words.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "enter new user, mount, PID, IPC, UTS and cgroup namespaces{}",
                if self.own_network { ", and an empty network" } else { "; keep this machine's network" }
            ),
            format!(
                "be uid {} and gid {} inside, {} and {} outside",
                self.ids.uid, self.ids.gid, self.ids.outer_uid, self.ids.outer_gid
            ),
            self.root.to_string(),
        ];
        if let Some(cgroup) = &self.resources.cgroup {
            lines.insert(0, format!("join the cgroup {}", cgroup.display()));
        }
        lines.extend(self.mounts.iter().map(ToString::to_string));
        lines.push("leave this machine's root behind (pivot_root), drop every capability, set no_new_privs".into());
        lines.push(
            "forbid mounts, further namespaces, kernel modules, keyrings, bpf, io_uring and the like (seccomp)".into(),
        );
        if self.hide_openat2 {
            lines.push("say that there is no openat2, which this build's pseudo does not know".into());
        }
        if self.root_emulation {
            lines.push("answer `done` to chown, setuid, mknod of devices and fsync without doing them".into());
        }
        lines.push(format!("in {}, run {}", self.payload.cwd.display(), self.payload));
        lines
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layers(layers) => write!(
                f,
                "take {} folders on top of each other as a read-only root (overlay; without it, bound one by one)",
                layers.len()
            ),
            Self::Writable { lower, upper, .. } => {
                write!(f, "take {} folders as root, changes go to {}", lower.len(), upper.display())
            }
            Self::Folder(path) => write!(f, "take {} as a writable root", path.display()),
        }
    }
}

impl fmt::Display for MountOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { source, dest, writable } => {
                let how = if *writable { "writable" } else { "read-only" };
                if source == dest {
                    write!(f, "show {} ({how})", dest.display())
                } else {
                    write!(f, "show {} as {} ({how})", source.display(), dest.display())
                }
            }
            Self::Device { path } => write!(f, "show the device {}", path.display()),
            Self::Tmpfs { dest, mode } => {
                write!(f, "put an empty folder in memory at {} (mode {mode:04o})", dest.display())
            }
            Self::Proc => write!(f, "mount /proc of the new PID namespace, its dangerous parts read-only"),
            Self::Dev => write!(f, "make /dev with null, zero, full, random, urandom, tty, pts and shm"),
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> =
            self.argv.iter().map(|word| shlex::try_quote(word).unwrap_or_else(|_| word.as_str().into())).collect();
        f.write_str(&words.join(" "))
    }
}
