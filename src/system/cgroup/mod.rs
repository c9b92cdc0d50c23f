//! Control groups: where this process is, a leaf of its own for a build, limits that are read back, and what was used.
//!
//! A [`Leaf`] knows which limits hold; a [`CgroupError`] is why there is none. Only cgroup v2 can be delegated to an ordinary user
//! (cgroups(7), "Cgroups delegation"); v1 is read, never changed.

mod leaf;
mod place;
mod scope;

pub(crate) use leaf::field;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use leaf::{Leaf, Used};
pub use place::Place;
pub use scope::Scope;

use crate::model::{Hint, Kind, UserError};

/// The controller of memory, and what its limit is called in a config.
const MEMORY: Controller = Controller { name: "memory", key: "host.memory" };

/// As [`MEMORY`].
const TASKS: Controller = Controller { name: "pids", key: "host.tasks" };

/// As [`MEMORY`]. Optional, since affinity limits processors too.
const CPU: Controller = Controller { name: "cpu", key: "host.cpus" };

/// The kernel's name of a resource, and the config's name of its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Controller {
    name: &'static str,
    key: &'static str,
}

/// A limit that does not hold, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotEnforced {
    /// As the config calls it: `host.memory`.
    pub key: &'static str,
    /// A clause.
    pub why: String,
}

/// Why there is no cgroup for a build.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Only v1, or nothing.
    #[error("this machine has no cgroup v2, and v1 cannot be delegated")]
    NoV2,
    /// v2 exists for systemd's own use only.
    #[error("this machine limits memory by cgroup v1, which cannot be delegated")]
    Hybrid,
    /// As in containers that do not mount it, or mount another one.
    #[error("the cgroup of this session is not visible here")]
    Hidden,
    /// The usual case of a login over ssh.
    #[error("no cgroup of this session is delegated to you ({path} cannot be changed)")]
    NotYours {
        /// The session's cgroup.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

impl CgroupError {
    /// The error and its hint, as one clause.
    pub fn reason(&self) -> String {
        self.hints().pop().map_or_else(|| self.to_string(), |hint| format!("{self}; {hint}"))
    }
}

impl UserError for CgroupError {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::NoV2 | Self::Hybrid => {
                // sd_booted(3). Without systemd, a kernel parameter leaves the controllers to v2 (cgroup-v2.rst).
                let systemd = Path::new("/run/systemd/system").is_dir();
                let parameter = if systemd { "systemd.unified_cgroup_hierarchy=1" } else { "cgroup_no_v1=all" };
                vec![Hint::new(format!(
                    "as administrator, start the kernel (outside of any container) with {parameter}"
                ))]
            }
            Self::Hidden => vec![Hint::new("mount the container's cgroup at /sys/fs/cgroup")],
            Self::NotYours { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                vec![Hint::new("mount /sys/fs/cgroup of the container writable")]
            }
            Self::NotYours { .. } => vec![Hint::command("try", "systemd-run --user --scope smidr build")],
        }
    }
}
