//! The sandbox of a build: which folders of this machine it sees, and where.

use std::path::{Path, PathBuf};

use super::{
    build::Plan,
    inputs::PlacedInput,
    sandbox::{Isolation, MountOp, Payload, Root, SandboxSpec},
};
use crate::config::Network;

/// What has been made ready for a build.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The image's folders, the lowest first.
    pub diffs: Vec<PathBuf>,
    /// Mount points and generated files, on top of the image.
    pub skeleton: PathBuf,
    /// Repositories of layers, and BitBake, that belong to the user.
    pub repositories: Vec<PathBuf>,
    /// Those that belong to the store, and never change.
    pub pinned: Vec<PathBuf>,
    /// What the build sees of its caller and of this machine.
    pub inputs: Vec<PlacedInput>,
    /// Whether repositories may be written: in `shell` and `run`, where people develop.
    pub edit: bool,
}

/// Folders in memory, with their permissions.
const TMPFS: [(&str, u32); 3] = [("/tmp", 0o1777), ("/var/tmp", 0o1777), ("/run", 0o755)];

impl Plan {
    /// The sandbox of this build, with `payload` in it.
    pub fn sandbox(&self, placed: &Placed, payload: Payload) -> SandboxSpec {
        if self.isolation == Isolation::None {
            let nothing = Root::Layers(Vec::new());
            let isolation = Isolation::None;
            return SandboxSpec { isolation, ..SandboxSpec::new(self.ids, nothing, Vec::new(), payload) };
        }
        let lower = std::iter::once(&placed.skeleton).chain(placed.diffs.iter().rev()).cloned().collect();
        let mut mounts = vec![MountOp::Proc, MountOp::Dev];
        mounts.extend(TMPFS.map(|(dest, mode)| MountOp::Tmpfs { dest: dest.into(), mode }));
        mounts.extend(self.devices.iter().map(|path| MountOp::Device { path: path.clone() }));
        // Sorted, so that a folder inside another one is shown after it.
        let mut binds: Vec<(&Path, &Path, bool)> =
            self.folders.writable().into_iter().map(|path| (path, path, true)).collect();
        binds.extend(placed.repositories.iter().map(|path| (path.as_path(), path.as_path(), placed.edit)));
        binds.extend(placed.pinned.iter().map(|path| (path.as_path(), path.as_path(), false)));
        binds.extend(placed.inputs.iter().map(|input| (input.dest.as_path(), input.source.as_path(), input.writable)));
        binds.sort();
        mounts.extend(binds.into_iter().map(|(dest, source, writable)| MountOp::Bind {
            source: source.into(),
            dest: dest.into(),
            writable,
        }));
        SandboxSpec {
            isolation: self.isolation,
            strict: self.strict,
            own_network: self.network != Network::Full,
            ..SandboxSpec::new(self.ids, Root::Layers(lower), mounts, payload)
        }
    }

    /// Everything that must exist in the skeleton for [`Plan::sandbox`] to find its mount points, and whether it is a folder rather
    /// than an empty file.
    pub fn mount_points(&self, repositories: &[PathBuf], inputs: &[PlacedInput]) -> Vec<(PathBuf, bool)> {
        let fixed = ["/proc", "/sys", "/dev", "/etc"].into_iter().chain(TMPFS.map(|(dest, _)| dest));
        let mut points: Vec<PathBuf> = fixed.map(PathBuf::from).collect();
        points.extend(self.folders.writable().into_iter().map(Path::to_path_buf));
        points.extend(repositories.iter().cloned());
        let mut points: Vec<(PathBuf, bool)> = points.into_iter().map(|path| (path, true)).collect();
        // Those in folders of the build are made there.
        let outside = inputs.iter().filter(|input| self.folders.inside(&input.dest).is_none());
        points.extend(outside.map(|input| (input.dest.clone(), input.folder)));
        points
    }
}
