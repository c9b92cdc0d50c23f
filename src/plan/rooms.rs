//! The sandbox of a build: which folders of this machine it sees, and where.

use std::path::{Path, PathBuf};

use super::{
    build::Plan,
    sandbox::{MountOp, Payload, Resources, Root, SandboxSpec},
};

/// What has been made ready for a build.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The image's folders, the lowest first.
    pub diffs: Vec<PathBuf>,
    /// Mount points and generated files, on top of the image.
    pub skeleton: PathBuf,
    /// Repositories of layers, and BitBake.
    pub repositories: Vec<PathBuf>,
    /// Whether these may be written: in `shell` and `run`, where people develop.
    pub edit: bool,
}

/// Folders in memory, with their permissions.
const TMPFS: [(&str, u32); 3] = [("/tmp", 0o1777), ("/var/tmp", 0o1777), ("/run", 0o755)];

impl Plan {
    /// The sandbox of this build, with `payload` in it.
    pub fn sandbox(&self, placed: &Placed, payload: Payload) -> SandboxSpec {
        let lower = std::iter::once(&placed.skeleton).chain(placed.diffs.iter().rev()).cloned().collect();
        let mut mounts = vec![MountOp::Proc, MountOp::Dev];
        mounts.extend(TMPFS.map(|(dest, mode)| MountOp::Tmpfs { dest: dest.into(), mode }));
        mounts.extend(self.devices.iter().map(|path| MountOp::Device { path: path.clone() }));
        // Sorted, so that a folder inside another one is shown after it.
        let mut binds: Vec<(&Path, bool)> = self.folders.writable().into_iter().map(|path| (path, true)).collect();
        binds.extend(placed.repositories.iter().map(|path| (path.as_path(), placed.edit)));
        binds.sort();
        mounts.extend(binds.into_iter().map(|(path, writable)| MountOp::Bind {
            source: path.into(),
            dest: path.into(),
            writable,
        }));
        SandboxSpec {
            ids: self.ids,
            hostname: "smidr".into(),
            own_network: self.own_network,
            root_emulation: false,
            hide_openat2: false,
            probe_tasks: false,
            root: Root::Layers(lower),
            mounts,
            resources: Resources::default(),
            payload,
        }
    }

    /// Every folder that must exist in the skeleton for [`Plan::sandbox`] to find its mount points.
    pub fn mount_points(&self, repositories: &[PathBuf]) -> Vec<PathBuf> {
        let fixed = ["/proc", "/sys", "/dev", "/etc"].into_iter().chain(TMPFS.map(|(dest, _)| dest));
        let mut points: Vec<PathBuf> = fixed.map(PathBuf::from).collect();
        points.extend(self.folders.writable().into_iter().map(Path::to_path_buf));
        points.extend(repositories.iter().cloned());
        points
    }
}
