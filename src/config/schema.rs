//! A checked config.

use std::time::Duration;

use super::{decode::UsedVariable, inputs::Inputs, node::Text, problem::Problem, provided::Provided, values::Size};
use crate::model::{CommitId, Recovery};

/// A project: one `smidr.yaml`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the project, its builds and its workspace.
    pub name: Text,
    /// For display.
    pub description: Option<Text>,
    /// The Yocto series: the branch of git layers that name no other, and what path layers must be compatible with.
    pub yocto_series: Option<Text>,
    /// The board.
    pub base: Base,
    /// The defaults of `base.provider`.
    pub provided: Option<Provided>,
    /// Yocto layers, in the order of `bblayers.conf`.
    pub layers: Vec<Layer>,
    /// Where BitBake comes from, when neither a layer's repository nor the image carries it.
    pub bitbake: Option<Source>,
    /// What to build.
    pub build: Build,
    /// Shared folders outside of `SMIDR_HOME`.
    pub directories: Directories,
    /// The build host.
    pub host: Host,
    /// `PACKAGE_CLASSES`.
    pub package_classes: Vec<Text>,
    /// `EXTRA_IMAGE_FEATURES`, together with `build.extra_image_features`.
    pub image_features: Vec<Text>,
    /// `USER_CLASSES`.
    pub user_classes: Vec<Text>,
    /// `INHERIT`.
    pub inherit_classes: Vec<Text>,
    /// Rarely needed.
    pub advanced: Advanced,
    /// For which failures there is a second try.
    pub recovery: Vec<Recovery>,
    /// What to keep; empty: everything in `deploy/images/MACHINE`.
    pub artifacts: Vec<Text>,
    /// Appended to `local.conf` as it is.
    pub local_conf: String,
    /// Environment of BitBake, and visible to recipes.
    pub env: Vec<(Text, Text)>,
    /// The names of its overlays.
    pub variants: Vec<Text>,
    /// The name of the caches that it shares; none: the user's own.
    pub cache: Option<Text>,
    /// Conf of another tool, in the place of smidr's own.
    pub as_is: Option<AsIs>,
    /// Whether it was written for the Go smidr.
    pub of_go: bool,
    /// What does not seem to fit together.
    pub warnings: Vec<Problem>,
    /// Variables of the caller that its values name.
    pub variables: Vec<UsedVariable>,
    /// Whether machine, target and all layers are in it; not so only in a config that has problems.
    pub whole: bool,
}

/// The conf of another tool, word for word: smidr writes it instead of its own, and its folders reach BitBake by the environment.
#[derive(Clone, Debug)]
pub struct AsIs {
    /// The folder in which repositories stand, relative to the config.
    pub work: Text,
    /// `local.conf`.
    pub local_conf: String,
    /// `bblayers.conf`.
    pub bblayers_conf: String,
    /// Other files of conf, by name.
    pub further: Vec<(String, String)>,
    /// Variables of BitBake's environment: the caller's values, and where there is none, these.
    pub env: Vec<(Text, Option<Text>)>,
}

/// The board that is built for.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// The source of defaults for the board.
    pub provider: Option<Text>,
    /// MACHINE, unless `build.machine` is set.
    pub machine: Option<Text>,
    /// DISTRO.
    pub distro: Option<Text>,
    /// The provider's release.
    pub version: Option<Text>,
}

/// A repository with one or more Yocto layers.
#[derive(Clone, Debug)]
pub struct Layer {
    /// For messages and for `smidr layers`.
    pub name: Text,
    /// Where it comes from.
    pub source: Source,
    /// The layers inside it to use; empty: the repository's own root.
    pub include: Vec<Text>,
    /// The layers inside it to leave out.
    pub exclude: Vec<Text>,
    /// Whether it is used with a series that it does not name.
    pub ignore_series: bool,
    /// Whether it has layers at all; one without may have BitBake, or patches.
    pub has_layers: bool,
    /// Where it stands in `as_is.work`.
    pub at: Option<Text>,
}

/// Where a repository comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder on this machine, relative to the config.
    Path(Text),
    /// A git repository.
    Git(GitSource),
}

/// What to take from a git repository.
#[derive(Clone, Debug)]
pub struct GitSource {
    /// https, ssh, file or scp-like.
    pub url: Text,
    /// The branch to follow.
    pub branch: Option<Text>,
    /// Or the tag.
    pub tag: Option<Text>,
    /// Or the very commit, which must be on the branch if both are named.
    pub commit: Option<CommitId>,
    /// What is done where there is no such branch.
    pub without_branch: WithoutBranch,
    /// Other places with the same commits, tried in order.
    pub mirrors: Vec<Text>,
    /// Patches put on top, in order, relative to the config.
    pub patches: Vec<Text>,
    /// Whether it may hold symbolic links that lead out of it.
    pub outside_links: bool,
    /// Which of its submodules are brought; none: those that its layers may need.
    pub submodules: Option<SubmoduleKey>,
}

/// What is done where a repository has no branch of the name that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutBranch {
    /// It is an error.
    #[default]
    Fail,
    /// The branch is taken whose name goes on behind a dash, if it is the only one: `kirkstone-6.x.y` for `kirkstone`.
    Continue,
    /// The tag of that name is taken.
    Tag,
}

/// Which submodules of a repository are brought.
#[derive(Clone, Debug)]
pub enum SubmoduleKey {
    /// All that git would bring, or none.
    Flag(bool),
    /// These, by their folders.
    Listed(Vec<Text>),
}

/// What BitBake builds, and how.
#[derive(Clone, Debug)]
pub struct Build {
    /// The target; the first of several.
    pub image: Text,
    /// All targets, where there are several.
    pub targets: Vec<Text>,
    /// The task of the targets that is run, instead of `build`.
    pub task: Option<Text>,
    /// MACHINE, instead of `base.machine`.
    pub machine: Option<Text>,
    /// BB_NUMBER_THREADS.
    pub threads: Option<u32>,
    /// PARALLEL_MAKE, the number behind `-j`.
    pub parallel_make: Option<u32>,
    /// Added to IMAGE_INSTALL.
    pub extra_packages: Vec<Text>,
}

/// Folders of a build in other places than the default.
#[derive(Clone, Debug, Default)]
pub struct Directories {
    /// Layer mirrors and checkouts.
    pub layers: Option<Text>,
    /// DL_DIR.
    pub downloads: Option<Text>,
    /// SSTATE_DIR.
    pub sstate: Option<Text>,
    /// TMPDIR.
    pub tmp: Option<Text>,
    /// DEPLOY_DIR.
    pub deploy: Option<Text>,
    /// TOPDIR.
    pub build: Option<Text>,
}

/// The build host: its image, and what builds may use of this machine.
#[derive(Clone, Debug)]
pub struct Host {
    /// The image.
    pub image: HostImage,
    /// What keeps the build apart from this machine.
    pub isolation: Isolation,
    /// Which ids exist in the build.
    pub ids: Ids,
    /// Whether the build shares this machine's network.
    pub network: Network,
    /// Whether programs of the build may use openat2(2).
    pub openat2: Openat2,
    /// Devices of this machine: kvm, tun, fuse.
    pub devices: Vec<Device>,
    /// Environment variables of this machine that the build sees.
    pub env: Vec<Text>,
    /// Files and settings of this machine and of the caller.
    pub inputs: Inputs,
    /// The most memory of all processes of a build together, files in memory included. Above it, the kernel kills processes of the build
    /// unless it can reclaim memory. Needs a cgroup.
    pub memory: Option<Size>,
    /// How many processors a build may use.
    pub cpus: Option<u32>,
    /// The most processes and threads that a build may have at once; one more cannot be started.
    pub tasks: Option<u32>,
}

/// Which image a build runs in.
#[derive(Clone, Debug)]
pub enum HostImage {
    /// Made from a rootfs recipe, by name or path.
    Recipe(Text),
    /// Taken from the store or a registry.
    Image(Text),
}

/// What keeps a build apart from this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// As much as this machine allows.
    Auto,
    /// Everything, or no build.
    Full,
    /// Nothing: this machine's own files and programs are the build host.
    None,
}

/// Which ids exist in a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Only the caller's; files of all others appear as owned by the overflow uid (user_namespaces(7)).
    Single,
    /// Also those that /etc/subuid and /etc/subgid give to the caller.
    Range,
}

/// What of the network a build sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// This machine's.
    Full,
    /// This machine's while all sources are fetched, then only a loopback of its own: the build proves that it is offline.
    FetchOnly,
    /// Only a loopback of its own.
    None,
}

/// Whether programs of a build may use openat2(2), which an old pseudo does not intercept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openat2 {
    /// As the build's pseudo needs it.
    Auto,
    /// As if the kernel did not have it.
    Hide,
    /// As the kernel has it.
    Show,
}

/// A device node that can be passed into the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// `/dev/kvm`
    Kvm,
    /// `/dev/net/tun`
    Tun,
    /// `/dev/fuse`
    Fuse,
}

impl Device {
    /// Its place, on the host and inside.
    pub fn path(self) -> &'static str {
        match self {
            Self::Kvm => "/dev/kvm",
            Self::Tun => "/dev/net/tun",
            Self::Fuse => "/dev/fuse",
        }
    }
}

/// Rarely needed, each named after the variable that it sets.
#[derive(Clone, Debug, Default)]
pub struct Advanced {
    /// SSTATE_MIRRORS
    pub sstate_mirrors: Vec<Text>,
    /// PREMIRRORS
    pub premirrors: Vec<Text>,
    /// BB_NO_NETWORK
    pub no_network: Option<bool>,
    /// BB_FETCH_PREMIRRORONLY
    pub premirror_only: Option<bool>,
    /// ACCEPT_FSL_EULA
    pub accept_fsl_eula: Option<bool>,
    /// After this long the build is stopped as if by Ctrl-C.
    pub build_timeout: Option<Duration>,
    /// BB_HASHSERVE
    pub hashserve: Option<Text>,
    /// BB_SIGNATURE_HANDLER
    pub signature_handler: Option<Text>,
    /// LICENSE_FLAGS_ACCEPTED
    pub license_flags: Vec<Text>,
    /// BB_DISKMON_DIRS, of which `true` and `false` mean a sensible default and none.
    pub disk_monitoring: Option<Text>,
}
