//! The sandbox of a build: which folders of this machine it sees, and where.

use std::path::{Path, PathBuf};

use super::{
    build::Plan,
    inputs::PlacedInput,
    sandbox::{Isolation, MountOp, Payload, Root, SandboxSpec},
};
use crate::config::Network;

/// What was prepared for a build.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The image's folders, the lowest first.
    pub diffs: Vec<PathBuf>,
    /// Mount points and generated files, on top of the image.
    pub skeleton: PathBuf,
    /// A folder with [`EMPTY_FOLDER`] and [`EMPTY_FILE`] in it.
    pub empty: PathBuf,
    /// Repositories of the user's that hold layers, or BitBake.
    pub repositories: Vec<OwnRepository>,
    /// Repositories of the store, which never change.
    pub pinned: Vec<PathBuf>,
    /// Those of them that are seen in a second place as well, and that place.
    pub twice: Vec<(PathBuf, PathBuf)>,
    /// Inputs of the caller and of this machine.
    pub inputs: Vec<PlacedInput>,
    /// Whether layers may be written: in `shell` and `run`, for development.
    pub edit: bool,
}

/// A repository of the user's, as far as a build sees it: its layers and its `.git`, not what else lies beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnRepository {
    /// The whole of it.
    pub root: PathBuf,
    /// Its layers, the outermost folders: writable where layers are edited.
    pub layers: Vec<PathBuf>,
    /// Further parts that builds need: `.git`, BitBake, the scripts beside OpenEmbedded-Core, licences.
    pub shown: Vec<PathBuf>,
    /// Those of these that are a `.git` folder: builds see only parts of each.
    pub gits: Vec<PathBuf>,
    /// Everything else in it, and whether it is a folder: builds see an empty file or folder instead.
    pub hidden: Vec<(PathBuf, bool)>,
    /// Files of `.git`, and what builds see instead: an index that marks hidden files, configuration without passwords.
    pub copies: Vec<(PathBuf, PathBuf)>,
}

impl OwnRepository {
    /// Binds as destination, source, and whether it is writable. One mount shows the whole repository, since git looks for `.git` on one
    /// file system only. `empty` is a folder with an empty folder and an empty file.
    fn binds(&self, edit: bool, empty: &Path) -> Vec<(PathBuf, PathBuf, bool)> {
        let same = |path: &PathBuf, writable| (path.clone(), path.clone(), writable);
        if edit {
            let root = (!self.layers.contains(&self.root)).then(|| same(&self.root, false));
            return self.layers.iter().map(|path| same(path, true)).chain(root).collect();
        }
        let mut binds = vec![same(&self.root, false)];
        let nothing = |folder: bool| empty.join(if folder { EMPTY_FOLDER } else { EMPTY_FILE });
        binds.extend(self.hidden.iter().map(|(path, folder)| (path.clone(), nothing(*folder), false)));
        binds.extend(self.copies.iter().map(|(copied, copy)| (copied.clone(), copy.clone(), false)));
        binds
    }
}

/// Names in the folder of smidr's own files in the skeleton.
pub const EMPTY_FOLDER: &str = "empty";
/// Likewise.
pub const EMPTY_FILE: &str = "nothing";

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
        // Sorted, so that nested folders are mounted after the outer ones.
        let mut binds: Vec<(PathBuf, PathBuf, bool)> =
            self.folders.writable().into_iter().map(|path| (path.into(), path.into(), true)).collect();
        binds.extend(placed.repositories.iter().flat_map(|repository| repository.binds(placed.edit, &placed.empty)));
        binds.extend(placed.pinned.iter().map(|path| (path.clone(), path.clone(), false)));
        binds.extend(placed.twice.iter().map(|(path, at)| (at.clone(), path.clone(), false)));
        binds.extend(placed.inputs.iter().map(|input| (input.dest.clone(), input.source.clone(), input.writable)));
        binds.sort();
        mounts.extend(binds.into_iter().map(|(dest, source, writable)| MountOp::Bind { source, dest, writable }));
        SandboxSpec {
            isolation: self.isolation,
            strict: self.strict,
            own_network: self.network != Network::Full,
            ..SandboxSpec::new(self.ids, Root::Layers(lower), mounts, payload)
        }
    }

    /// The mount points of [`Plan::sandbox`] that must exist in the skeleton, and whether each is a folder rather than an empty file.
    pub fn mount_points(&self, shown: &[PathBuf], inputs: &[PlacedInput]) -> Vec<(PathBuf, bool)> {
        let fixed = ["/proc", "/sys", "/dev", "/etc"].into_iter().chain(TMPFS.map(|(dest, _)| dest));
        let mut points: Vec<PathBuf> = fixed.map(PathBuf::from).collect();
        points.extend(self.folders.writable().into_iter().map(Path::to_path_buf));
        points.extend(shown.iter().cloned());
        let mut points: Vec<(PathBuf, bool)> = points.into_iter().map(|path| (path, true)).collect();
        // Those in folders of the build are made there.
        let outside = inputs.iter().filter(|input| self.folders.inside(&input.dest).is_none());
        points.extend(outside.map(|input| (input.dest.clone(), input.folder)));
        points
    }
}
