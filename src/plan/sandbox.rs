//! The sandbox as a plain value: namespaces, root, mounts and program. Can describe itself in words.
//!
//! `sandbox` carries it out; its helper gets it as JSON.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::SubordinateIds;

/// The input of the sandbox's helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// What keeps it apart from this machine.
    pub isolation: Isolation,
    /// Whether less isolation than that is an error.
    pub strict: bool,
    /// uid and gid outside and inside.
    pub ids: Ids,
    /// The same on every machine, since some programs write it into their output.
    pub hostname: String,
    /// Whether the sandbox has a network of its own, with nothing but a loopback.
    pub own_network: bool,
    /// Whether root is emulated for package managers; only for rootfs recipes.
    pub root_emulation: bool,
    /// Whether openat2(2) is answered with ENOSYS, for a pseudo older than 1.9.3, which does not intercept it.
    pub hide_openat2: bool,
    /// Whether to test first that BitBake can cut its tasks off from the network; BitBake itself does not report it.
    pub probe_tasks: bool,
    /// The root filesystem.
    pub root: Root,
    /// Mounts on top of it, in their order.
    pub mounts: Vec<MountOp>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// What runs in it.
    pub payload: Payload,
}

/// What keeps a build apart from the machine that it runs on, the strictest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Namespaces of its own for everything but the network.
    Full,
    /// As [`Full`](Self::Full), but with this machine's processes and its /proc: where parts of /proc are masked, as containers do,
    /// the kernel refuses to mount another one.
    SharedProcesses,
    /// No namespaces: this machine's own files and programs. The machine, or the container that it is, must be the build host.
    None,
}

/// How a sandbox is limited; not at all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// A cgroup that the helper joins before anything else, so that everything in the sandbox is in it.
    pub cgroup: Option<PathBuf>,
    /// A program that starts the helper where it may join that cgroup; none: it may from here.
    pub through: Option<Through>,
    /// Processes and threads at once, counted by the kernel for this sandbox's user namespace (RLIMIT_NPROC). Whether it holds is tried.
    pub processes: Option<u32>,
    /// The same as a default: only set where it holds without trying.
    pub precaution: Option<u32>,
}

/// How many processes and threads a sandbox may have at once by default: no honest build gets there (each processor builds a
/// recipe with one compiler a processor; OpenEmbedded counts 64 of them at most), and it is at most half of the process ids that the
/// kernel has (1024 a processor, or 32768; kernel/pid.c). What runs away then is the build, not the machine.
pub fn usual_tasks(cpus: u32) -> u32 {
    cpus.saturating_mul(512).max(8192)
}

/// A program that executes the helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// The program and its arguments; the helper's own follow.
    pub argv: Vec<String>,
    /// The variables of the caller that it needs.
    pub env: Vec<(String, String)>,
}

/// The id that the user namespace maps, and with [`range`](Self::range) further ones.
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
    /// Further ids inside, by newuidmap(1): their files keep their owners. The build itself still has one id.
    pub range: Option<SubordinateIds>,
}

/// Lines of a map: first id inside, first id outside, how many (user_namespaces(7)). `count` ids from `first` on fill the place
/// around `inside`, from 0 on.
pub fn id_map(inside: u32, outside: u32, (first, count): (u32, u32)) -> Vec<[u32; 3]> {
    let below = inside.min(count);
    let mut map = vec![[0, first, below], [inside, outside, 1]];
    if inside < count {
        map.push([inside + 1, first + inside, count - inside]);
    }
    map.retain(|[_, _, count]| *count > 0);
    map
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
    /// The processes of the sandbox; this machine's, where they are shared.
    Proc,
    /// A `/dev` with the harmless devices.
    Dev,
}

/// The program that runs in the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A sandbox with everything that isolates, and nothing special.
    pub fn new(ids: Ids, root: Root, mounts: Vec<MountOp>, payload: Payload) -> Self {
        Self {
            isolation: Isolation::Full,
            strict: false,
            ids,
            hostname: "smidr".into(),
            own_network: false,
            root_emulation: false,
            hide_openat2: false,
            probe_tasks: false,
            root,
            mounts,
            resources: Resources::default(),
            payload,
        }
    }

    /// What the sandbox does, one operation a line, in plain words.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(cgroup) = &self.resources.cgroup {
            lines.push(format!("join the cgroup {}", cgroup.display()));
        }
        if self.isolation == Isolation::None {
            lines.push("stay in this machine's namespaces, with its root, its processes and its network".into());
        } else {
            lines.push(format!(
                "enter new user, mount, {}IPC, UTS and cgroup namespaces{}",
                if self.isolation == Isolation::Full { "PID, " } else { "" },
                if self.own_network { ", and an empty network" } else { "; keep this machine's network" }
            ));
            if self.isolation == Isolation::Full && !self.strict {
                lines.push("where parts of /proc are masked, warn and go on without the PID namespace".into());
            }
            lines.push(format!(
                "be uid {} and gid {} inside, {} and {} outside",
                self.ids.uid, self.ids.gid, self.ids.outer_uid, self.ids.outer_gid
            ));
            if let Some(SubordinateIds { uids, gids }) = self.ids.range {
                lines.push(format!("map {} further uids and {} further gids (newuidmap)", uids.1, gids.1));
            }
            lines.push(self.root.to_string());
            lines.extend(self.mounts.iter().map(ToString::to_string));
            lines.push("leave this machine's root behind (pivot_root)".into());
            lines.push(format!("be called {}", self.hostname));
            if self.own_network {
                lines.push("switch the loopback on".into());
            }
        }
        if !self.own_network {
            lines.push("keep abstract sockets of this machine out of reach (Landlock, Linux 6.12)".into());
        }
        if self.isolation != Isolation::Full {
            lines.push("keep this machine's processes out of reach of its signals (Landlock, Linux 6.12)".into());
        }
        if let Some(processes) = self.resources.processes.or(self.resources.precaution) {
            lines.push(format!("have at most {processes} processes and threads at once"));
        }
        if let Some(cpus) = self.payload.cpus {
            lines.push(format!("use at most {cpus} processors"));
        }
        lines.push("begin a session of its own, which ends with smidr, however smidr ends".into());
        lines.push("drop every capability, set no_new_privs".into());
        lines.push(
            "forbid mounts, further namespaces, kernel modules, keyrings, bpf, io_uring and the like (seccomp)".into(),
        );
        if self.hide_openat2 {
            lines.push("answer ENOSYS to openat2, which this build's pseudo does not support".into());
        }
        if self.root_emulation {
            lines.push("answer success to chown, setuid, mknod of devices and fsync without doing them".into());
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
            Self::Proc => write!(f, "show processes at /proc, its dangerous parts read-only or hidden"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_laid_around_the_own_id() {
        assert_eq!(
            id_map(1000, 1000, (100_000, 65_536)),
            [[0, 100_000, 1000], [1000, 1000, 1], [1001, 101_000, 64_536]]
        );
        assert_eq!(id_map(54_321, 54_321, (7, 100)), [[0, 7, 100], [54_321, 54_321, 1]]);
        assert_eq!(id_map(0, 1000, (7, 2)), [[0, 1000, 1], [1, 7, 2]]);
    }

    #[test]
    fn no_build_gets_there_and_the_machine_has_more() {
        for cpus in 1..=4096u32 {
            let most = usual_tasks(cpus);
            // A driver, a compiler and an assembler for each job of each recipe.
            let builders = cpus.min(64);
            assert!(most >= 2 * 3 * builders * builders || cpus > 36 && most >= 4 * 64 * 64, "{cpus}: {most}");
            assert!(most <= (1024 * cpus).max(32768) / 2, "{cpus}: {most}");
        }
    }
}
