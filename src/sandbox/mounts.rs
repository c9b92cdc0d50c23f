//! The sandbox's file system: sources opened before anything is hidden, destinations resolved inside the new root only.
//!
//! A destination is never a path string for the kernel. What an image says about `/dev` or a mount point is resolved by
//! [`Rooted`], which cannot leave the root; path strings here are what CVE-2026-87766 (bubblewrap) and CVE-2026-41579 (runc) are about.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, CWD, FileType, Mode, OFlags},
    io::Errno,
    mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

use super::{
    error::StepFailure,
    merge::merge,
    sys::{MountAttr, Reach, mount_setattr},
};
use crate::{
    plan::{Isolation, MountOp, Root, SandboxSpec},
    system::rooted::{Rooted, RootedError},
};

pub(super) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(super) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(super) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// Of memory; the smallest that Linux has.
const PAGE: usize = 4096;

/// The step that fails where parts of this machine's /proc are masked.
pub(super) const OWN_PROC: &str = "mount /proc of its PID namespace";

/// The harmless devices that every sandbox has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Parts of /proc through which a build started by root could change this machine without any capability. Not every kernel has all of
/// them. User namespaces need /proc/PID only, which stays writable.
const PROC_READ_ONLY: [&str; 10] =
    ["sys", "sysrq-trigger", "irq", "bus", "fs", "scsi", "acpi", "driver", "mtrr", "dynamic_debug"];

/// Parts with details of this machine that no build needs; only root can read them anyway.
const PROC_HIDDEN: [&str; 11] = [
    "kcore",
    "keys",
    "timer_list",
    "sched_debug",
    "slabinfo",
    "vmallocinfo",
    "iomem",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "latency_stats",
];

/// What a step of the way yields, or which step failed.
pub(super) type Step<T> = Result<T, StepFailure>;

/// Mounts whose sources are open: no path of this machine is looked up after this.
pub(super) struct Opened<'a> {
    root: OpenedRoot,
    mounts: Vec<(&'a MountOp, Source)>,
    devices: Vec<(&'static str, OwnedFd)>,
    // The payload's terminal, as /dev/console.
    console: Option<OwnedFd>,
}

enum OpenedRoot {
    Overlay { lower: Vec<OwnedFd>, upper: Option<(OwnedFd, OwnedFd)> },
    Folder(OwnedFd),
}

enum Source {
    Tree(OwnedFd),
    Nothing,
}

/// Opens every source, as this machine names them.
pub(super) fn open_sources(spec: &SandboxSpec) -> Step<Opened<'_>> {
    let root = match &spec.root {
        Root::Layers(lower) => OpenedRoot::Overlay { lower: open_folders(lower)?, upper: None },
        Root::Writable { lower, upper, work } => {
            OpenedRoot::Overlay { lower: open_folders(lower)?, upper: Some((open_folder(upper)?, open_folder(work)?)) }
        }
        Root::Folder(path) => OpenedRoot::Folder(clone_tree(path)?),
    };
    let mounts = spec
        .mounts
        .iter()
        .map(|op| {
            let source = match op {
                MountOp::Bind { source, .. } => Source::Tree(clone_tree(source)?),
                MountOp::Device { path } => Source::Tree(clone_tree(path)?),
                MountOp::Proc if spec.isolation == Isolation::SharedProcesses => {
                    Source::Tree(clone_tree(Path::new("/proc"))?)
                }
                MountOp::Tmpfs { .. } | MountOp::Proc | MountOp::Dev => Source::Nothing,
            };
            Ok((op, source))
        })
        .collect::<Step<_>>()?;
    let devices =
        DEVICES.iter().map(|name| Ok((*name, clone_tree(&Path::new("/dev").join(name))?))).collect::<Step<_>>()?;
    let console = if spec.payload.terminal { terminal() } else { None };
    Ok(Opened { root, mounts, devices, console })
}

/// The terminal on standard input. In the sandbox it has no name in /dev/pts, which is another file system there, so that ttyname(3), and with
/// it tmux(1), would find none. None where this machine does not know its name either.
fn terminal() -> Option<OwnedFd> {
    let name = rustix::termios::ttyname(io::stdin(), Vec::new()).ok()?;
    clone_tree(Path::new(name.to_str().ok()?)).ok()
}

/// How the root's folders came to lie on top of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stacked {
    /// By overlayfs, or there was only one.
    ByKernel,
    /// Bound one by one, because overlayfs cannot be mounted here.
    ByHand(StepFailure),
}

/// Builds the new root on top of `/tmp` of the old one and makes it the root.
pub(super) fn enter(opened: Opened<'_>) -> Step<Stacked> {
    // Nothing that happens here may reach the host, but what the host mounts later may be seen here.
    mount::mount_change("/", mount::MountPropagationFlags::DOWNSTREAM | mount::MountPropagationFlags::REC)
        .map_err(StepFailure::at("detach its mounts from the host's"))?;
    mount::mount("tmpfs", "/tmp", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)
        .map_err(StepFailure::at("mount a tmpfs"))?;
    fs::mkdir("/tmp/root", Mode::RWXU).map_err(StepFailure::at("make the new root's folder"))?;
    let stacked = mount_root(&opened.root)?;
    let root = fs::open("/tmp/root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(StepFailure::at("open the new root"))?;
    let rooted = Rooted::from_fd(root);
    for (op, source) in &opened.mounts {
        apply(&rooted, op, source, &opened.devices)?;
    }
    if let Some(console) = &opened.console {
        device(&rooted, Path::new("/dev/console"), console)?;
    }
    if let Stacked::ByHand(_) = stacked {
        // Not before: mount points may still have been missing.
        let attr = MountAttr(RDONLY | NOSUID | NODEV);
        mount_setattr(rooted.root(), attr, Reach::Alone).map_err(StepFailure::at("make its root read-only"))?;
    }
    pivot(rooted.root())?;
    Ok(stacked)
}

fn pivot(root: BorrowedFd<'_>) -> Step<()> {
    rustix::process::fchdir(root).map_err(StepFailure::at("enter the new root"))?;
    rustix::process::pivot_root(".", ".").map_err(StepFailure::at("change the root (pivot_root)"))?;
    // Both roots now stand at `.`, the old one on top (pivot_root(2), "pivot_root(".", ".")").
    mount::unmount(".", UnmountFlags::DETACH).map_err(StepFailure::at("unmount the old root"))?;
    rustix::process::chdir("/").map_err(StepFailure::at("enter the new root"))
}

fn mount_root(root: &OpenedRoot) -> Step<Stacked> {
    match root {
        OpenedRoot::Folder(tree) => {
            restrict(tree.as_fd(), NOSUID | NODEV, Path::new("/"))?;
            let at = fs::open("/tmp/root", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(StepFailure::at("open the new root"))?;
            attach(tree.as_fd(), at.as_fd(), Path::new("/"))?;
            Ok(Stacked::ByKernel)
        }
        OpenedRoot::Overlay { lower, upper } => {
            // Tried rather than predicted from kernel, container and file system.
            match overlay(lower, upper.as_ref()) {
                Ok(()) => Ok(Stacked::ByKernel),
                Err(failure) if upper.is_some() => Err(failure),
                Err(failure) => by_hand(lower).map(|()| Stacked::ByHand(failure)),
            }
        }
    }
}

fn by_hand(lower: &[OwnedFd]) -> Step<()> {
    let failed = || StepFailure::at("mount a tmpfs as its root");
    mount::mount("tmpfs", "/tmp/root", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
        .map_err(failed())?;
    let root = fs::open("/tmp/root", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    merge(root.map_err(failed())?.as_fd(), lower, Path::new("/"))
}

/// Lays folders on top of each other. They are named by descriptor: short, and nothing in a name needs escaping.
fn overlay(lower: &[OwnedFd], upper: Option<&(OwnedFd, OwnedFd)>) -> Step<()> {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower: Vec<String> = lower.iter().map(name).collect();
    // Distributions change the defaults of these options, so each is given; an unprivileged mount must have `userxattr`
    // (overlayfs.rst, "User xattr").
    let mut options = format!("userxattr,index=off,metacopy=off,lowerdir={}", lower.join(":"));
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    match upper {
        Some((upper, work)) => options.push_str(&format!(",upperdir={},workdir={}", name(upper), name(work))),
        None => flags |= MountFlags::RDONLY,
    }
    // mount(2) takes one page of options; what replaces it takes any number, from Linux 6.8 on.
    if options.len() >= PAGE {
        return long_overlay(&lower, upper.map(|(upper, work)| (name(upper), name(work))), flags)
            .map_err(StepFailure::at("lay the image's layers on top of each other (overlay)"));
    }
    let options = std::ffi::CString::new(options).map_err(StepFailure::at("lay folders on top of each other"))?;
    mount::mount("overlay", "/tmp/root", "overlay", flags, Some(options.as_c_str()))
        .map_err(StepFailure::at("lay the image's layers on top of each other (overlay)"))
}

fn long_overlay(lower: &[String], upper: Option<(String, String)>, flags: MountFlags) -> rustix::io::Result<()> {
    let context = mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    mount::fsconfig_set_flag(context, "userxattr")?;
    for (key, value) in [("index", "off"), ("metacopy", "off")] {
        mount::fsconfig_set_string(context, key, value)?;
    }
    lower.iter().try_for_each(|folder| mount::fsconfig_set_string(context, "lowerdir+", folder.as_str()))?;
    if let Some((upper, work)) = &upper {
        mount::fsconfig_set_string(context, "upperdir", upper.as_str())?;
        mount::fsconfig_set_string(context, "workdir", work.as_str())?;
    }
    mount::fsconfig_create(context)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    if flags.contains(MountFlags::RDONLY) {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let tree = mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    mount::move_mount(&tree, "", CWD, "/tmp/root", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn apply(root: &Rooted, op: &MountOp, source: &Source, devices: &[(&'static str, OwnedFd)]) -> Step<()> {
    match (op, source) {
        (MountOp::Bind { dest, writable, .. }, Source::Tree(tree)) => {
            restrict(tree.as_fd(), NOSUID | NODEV | if *writable { 0 } else { RDONLY }, dest)?;
            attach(tree.as_fd(), find_or_make(root, dest, tree.as_fd())?.as_fd(), dest)
        }
        (MountOp::Device { path }, Source::Tree(tree)) => {
            // /dev is a tmpfs of ours by now; only /dev/net may be missing.
            if let Some(folder) = path.parent() {
                root.make_dirs(folder, 0o755).map_err(rooted("make", folder))?;
            }
            device(root, path, tree)
        }
        (MountOp::Tmpfs { dest, mode }, _) => tmpfs(root, dest, *mode),
        (MountOp::Proc, Source::Tree(shared)) => proc(root, shared, devices),
        (MountOp::Proc, Source::Nothing) => proc(root, &own_proc()?, devices),
        (MountOp::Dev, _) => dev(root, devices),
        (op, _) => Err(StepFailure::at::<io::Error>(op.to_string())(io::Error::from_raw_os_error(libc::EINVAL))),
    }
}

fn tmpfs(root: &Rooted, dest: &Path, mode: u32) -> Step<()> {
    let what = || format!("mount a tmpfs at {}", dest.display());
    let tree = filesystem("tmpfs", &[("mode", &format!("{mode:o}"))], MountAttrFlags::MOUNT_ATTR_NODEV)
        .map_err(StepFailure::at(what()))?;
    attach(tree.as_fd(), find(root, dest)?.as_fd(), dest)
}

fn own_proc() -> Step<OwnedFd> {
    let flags = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    filesystem("proc", &[], flags).map_err(StepFailure::at(OWN_PROC))
}

fn proc(root: &Rooted, tree: &OwnedFd, devices: &[(&'static str, OwnedFd)]) -> Step<()> {
    let dest = Path::new("/proc");
    attach(tree.as_fd(), find(root, dest)?.as_fd(), dest)?;
    for name in PROC_READ_ONLY {
        let path = dest.join(name);
        let Ok(found) = root.resolve(&path) else { continue };
        let copy = clone_fd(found.as_fd()).map_err(StepFailure::at(format!("make {} read-only", path.display())))?;
        restrict(copy.as_fd(), RDONLY, &path)?;
        attach(copy.as_fd(), found.as_fd(), &path)?;
    }
    // This machine's, opened before anything of an image was there (CVE-2025-31133). The covers are mounted `nodev`, so that they cannot be opened.
    let Some((_, null)) = devices.iter().find(|(name, _)| *name == "null") else { return Ok(()) };
    for name in PROC_HIDDEN {
        let path = dest.join(name);
        let Ok(found) = root.resolve(&path) else { continue };
        let cover = clone_fd(null.as_fd()).map_err(StepFailure::at(format!("hide {}", path.display())))?;
        restrict(cover.as_fd(), RDONLY | NOSUID | NODEV, &path)?;
        attach(cover.as_fd(), found.as_fd(), &path)?;
    }
    Ok(())
}

fn dev(root: &Rooted, devices: &[(&'static str, OwnedFd)]) -> Step<()> {
    let dest = Path::new("/dev");
    // Not 1777: with the sysctl fs.protected_regular, `> /dev/null` would be refused in a sticky folder (proc_sys_fs(5)).
    let tree =
        filesystem("tmpfs", &[("mode", "755")], MountAttrFlags::empty()).map_err(StepFailure::at("mount /dev"))?;
    attach(tree.as_fd(), find(root, dest)?.as_fd(), dest)?;
    for (name, tree) in devices {
        device(root, &dest.join(name), tree)?;
    }
    for folder in ["/dev/pts", "/dev/shm"] {
        root.make_dirs(Path::new(folder), 0o755).map_err(rooted("make", Path::new(folder)))?;
    }
    // Never gid=5: that group is not mapped here, and devpts refuses ids that are not (mount(8), devpts).
    let options = [("ptmxmode", "0666"), ("mode", "620")];
    let pts =
        filesystem("devpts", &options, MountAttrFlags::MOUNT_ATTR_NOEXEC).map_err(StepFailure::at("mount /dev/pts"))?;
    attach(pts.as_fd(), find(root, Path::new("/dev/pts"))?.as_fd(), Path::new("/dev/pts"))?;
    tmpfs(root, Path::new("/dev/shm"), 0o1777)?;
    let folder = find(root, dest)?;
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, target) in links {
        fs::symlinkat(target, &folder, name).map_err(StepFailure::at(format!("make the link /dev/{name}")))?;
    }
    Ok(())
}

fn device(root: &Rooted, path: &Path, tree: &OwnedFd) -> Step<()> {
    let at = root.make_file(path).map_err(rooted("make", path))?;
    restrict(tree.as_fd(), NOSUID, path)?;
    attach(tree.as_fd(), at.as_fd(), path)
}

fn find(root: &Rooted, dest: &Path) -> Step<OwnedFd> {
    root.resolve(dest).map_err(rooted("find the mount point", dest))
}

/// The skeleton has every mount point, but a tmpfs of ours hides those below it, as when SMIDR_HOME is in /tmp. Links are refused: only a
/// concurrent writer to a folder that this sandbox shares could have made one.
fn find_or_make(root: &Rooted, dest: &Path, tree: BorrowedFd<'_>) -> Step<OwnedFd> {
    let find = || root.open_plain(dest, OFlags::PATH);
    let found = match find() {
        Err(Errno::NOENT) => {
            make_point(root, dest, tree)?;
            find()
        }
        found => found,
    };
    found.map_err(StepFailure::at(format!("find the mount point {} in its root", dest.display())))
}

/// A folder for a folder, an empty file for a file or a socket.
fn make_point(root: &Rooted, dest: &Path, tree: BorrowedFd<'_>) -> Step<()> {
    let kind = fs::fstat(tree).map_err(StepFailure::at(format!("look at what belongs at {}", dest.display())))?.st_mode;
    let made = if FileType::from_raw_mode(kind) == FileType::Directory {
        root.make_dirs(dest, 0o755)
    } else {
        dest.parent()
            .map_or(Ok(()), |folder| root.make_dirs(folder, 0o755).map(drop))
            .and_then(|()| root.make_file(dest))
    };
    made.map(drop).map_err(rooted("make the mount point", dest))
}

fn rooted(verb: &'static str, path: &Path) -> impl FnOnce(RootedError) -> StepFailure {
    let step = format!("{verb} {} in its root", path.display());
    move |error| match error {
        RootedError::Call { source, .. } => StepFailure::at(step)(source),
        _ => StepFailure::at(step)(io::Error::from_raw_os_error(libc::ENOTDIR)),
    }
}

fn filesystem(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    mount::fsconfig_create(context.as_fd())?;
    mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags | MountAttrFlags::MOUNT_ATTR_NOSUID)
}

fn clone_tree(path: &Path) -> Step<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    mount::open_tree(CWD, path, flags).map_err(StepFailure::at(format!("open {} to show it inside", path.display())))
}

fn clone_fd(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    mount::open_tree(fd, "", flags)
}

pub(super) fn restrict(tree: BorrowedFd<'_>, flags: u64, dest: &Path) -> Step<()> {
    mount_setattr(tree, MountAttr(flags), Reach::Below)
        .map_err(StepFailure::at(format!("restrict the mount at {}", dest.display())))
}

pub(super) fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>, dest: &Path) -> Step<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(tree, "", at, "", flags).map_err(StepFailure::at(format!("mount at {}", dest.display())))
}

fn open_folder(path: &Path) -> Step<OwnedFd> {
    File::open(path).map(OwnedFd::from).map_err(StepFailure::at(format!("open {}", path.display())))
}

fn open_folders(paths: &[PathBuf]) -> Step<Vec<OwnedFd>> {
    paths.iter().map(|path| open_folder(path)).collect()
}
