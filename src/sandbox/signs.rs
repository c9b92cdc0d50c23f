//! Facts of this machine that can explain why a sandbox failed. Read after a step has failed; judged by
//! [`diagnose`](super::obstacle::diagnose).

use std::path::{Path, PathBuf};

use crate::system::mounts::{self, Mount};

/// Namespaces that a sandbox enters, as `/proc/self/ns` names them.
const NAMESPACES: [&str; 6] = ["user", "mnt", "pid", "ipc", "uts", "cgroup"];

/// What counts as a mark of a container, and which.
const MARKS: [(&str, Container); 4] = [
    ("/.flatpak-info", Container::Flatpak),
    ("/run/.toolboxenv", Container::Toolbox),
    ("/run/.containerenv", Container::Podman),
    ("/.dockerenv", Container::Docker),
];

/// What may surround this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    /// Docker's.
    Docker,
    /// podman's, with or without root.
    Podman,
    /// A pod.
    Kubernetes,
    /// A job of GitLab's runner, in Docker.
    GitlabRunner,
    /// podman's or Docker's, made by distrobox to work in.
    Distrobox,
    /// podman's, made by toolbox to work in.
    Toolbox,
    /// An application of Flatpak, such as an editor with a terminal.
    Flatpak,
    /// LXC's, also under Incus, LXD and Proxmox.
    Lxc,
    /// Any other.
    Other,
}

/// The facts; none where this machine does not show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// The sysctl kernel.unprivileged_userns_clone, which Debian's kernels have.
    pub userns_clone: Option<u64>,
    /// The sysctl user.max_user_namespaces of this user namespace.
    pub max_user_namespaces: Option<u64>,
    /// The sysctl kernel.apparmor_restrict_unprivileged_userns, which Ubuntu's kernels have.
    pub apparmor_restricts: Option<u64>,
    /// The sysctl kernel.apparmor_restrict_unprivileged_unconfined: with it, no profile is left by changing into another.
    pub apparmor_restricts_unconfined: Option<u64>,
    /// How AppArmor or SELinux names this process.
    pub label: Option<String>,
    /// Whether a seccomp filter judges its system calls.
    pub seccomp: bool,
    /// Whether it can gain no privileges by executing a program.
    pub no_new_privs: bool,
    /// Whether it holds CAP_SYS_ADMIN.
    pub sys_admin: bool,
    /// Whether it is uid 0 without CAP_SETFCAP.
    pub bare_root: bool,
    /// Whether its root is not the root of its mount namespace.
    pub chroot: Option<bool>,
    /// What surrounds it.
    pub container: Option<Container>,
    /// The service of systemd to which it belongs.
    pub service: Option<String>,
    /// Mounts that hide or protect parts of `/proc`.
    pub proc_covered: Vec<PathBuf>,
    /// Whether its root is the kernel's first one, in memory, which no other can replace.
    pub initial_ramfs: bool,
    /// The kernel's release.
    pub kernel: String,
    /// Namespaces that the kernel was built without.
    pub no_namespaces: Vec<&'static str>,
    /// Whether it is in a user namespace that is not the machine's.
    pub nested: bool,
    /// Whether its uid and gid have a number in its user namespace.
    pub mapped: bool,
    /// Our own binary, at its real path.
    pub binary: PathBuf,
}

impl Signs {
    /// Looks at this machine.
    pub(super) fn gather() -> Self {
        let text = |path: &str| {
            // That a file exists is a fact too, even if it cannot be read.
            std::fs::read_to_string(path).ok().or_else(|| Path::new(path).exists().then(String::new))
        };
        let binary = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/smidr".into());
        Self::read(&text, binary)
    }

    /// Reads the signs off files, by their path: the text; empty where a file is there and cannot be read.
    pub(super) fn read(text: &dyn Fn(&str) -> Option<String>, binary: PathBuf) -> Self {
        let sysctl = |name: &str| text(&format!("/proc/sys/{name}"))?.trim().parse().ok();
        let status = text("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mountinfo = text("/proc/self/mountinfo");
        let table = mountinfo.as_deref().map(mounts::parse).unwrap_or_default();
        let first_table = text("/proc/1/mountinfo").as_deref().map(mounts::parse).unwrap_or_default();
        let cgroup = text("/proc/self/cgroup").unwrap_or_default();
        let maps = ["uid", "gid"].map(|which| text(&format!("/proc/self/{which}_map")));
        let effective = ["Uid:", "Gid:"].map(|name| field(name)?.split_whitespace().nth(1)?.parse().ok());
        Self {
            userns_clone: sysctl("kernel/unprivileged_userns_clone"),
            max_user_namespaces: sysctl("user/max_user_namespaces"),
            apparmor_restricts: sysctl("kernel/apparmor_restrict_unprivileged_userns"),
            apparmor_restricts_unconfined: sysctl("kernel/apparmor_restrict_unprivileged_unconfined"),
            label: text("/proc/self/attr/current").as_deref().and_then(label),
            seccomp: field("Seccomp:") == Some("2"),
            no_new_privs: field("NoNewPrivs:") == Some("1"),
            sys_admin: field("CapEff:").is_some_and(|mask| has_capability(mask, SYS_ADMIN)),
            bare_root: effective[0] == Some(0) && !field("CapEff:").is_some_and(|mask| has_capability(mask, SETFCAP)),
            chroot: mountinfo.is_some().then(|| chroot(&table, &first_table)).flatten(),
            container: container(text, &table, &cgroup),
            service: service(&cgroup),
            proc_covered: proc_covered(&table),
            initial_ramfs: table.iter().any(|mount| mount.point == Path::new("/") && mount.kind == "rootfs"),
            kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            no_namespaces: no_namespaces(text),
            nested: maps[0].as_deref().is_some_and(|map| !is_whole(map)),
            mapped: maps.iter().zip(effective).all(|(map, id)| is_mapped(map.as_deref(), id)),
            binary,
        }
    }

    /// Whether AppArmor keeps user namespaces from programs without a profile, this one among them (Ubuntu 23.10 and later).
    pub(super) fn is_restricted_by_apparmor(&self) -> bool {
        // A process that enters a user namespace without permission gets that profile, which refuses everything in it.
        self.apparmor_restricts == Some(1) || self.profile() == Some("unprivileged_userns")
    }

    /// The AppArmor profile that confines this process.
    pub(super) fn profile(&self) -> Option<&str> {
        let label = self.label.as_deref()?;
        let name = label.rsplit_once(" (").filter(|(_, mode)| *mode != "unconfined)" && *mode != "complain)")?.0;
        Some(name)
    }

    /// The SELinux type of this process, unless it is an unconfined one.
    pub(super) fn domain(&self) -> Option<&str> {
        let label = self.label.as_deref().filter(|label| !label.contains('('))?;
        label.split(':').nth(2).filter(|domain| !["unconfined_t", "kernel_t", "init_t"].contains(domain))
    }
}

/// The kernel ends it with a zero byte (AppArmor: a newline).
fn label(text: &str) -> Option<String> {
    let label = text.trim_end_matches(['\0', '\n']);
    (!label.is_empty()).then(|| label.to_owned())
}

/// Numbers of CAP_SYS_ADMIN and CAP_SETFCAP (linux/capability.h).
const SYS_ADMIN: u32 = 21;
const SETFCAP: u32 = 31;

fn has_capability(mask: &str, number: u32) -> bool {
    u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & (1 << number) != 0)
}

/// `proc` shows mounts below one's own root only, and PID 1's table shows where that root really is. None where PID 1 has
/// other mounts, or hides them.
fn chroot(own: &[Mount], first: &[Mount]) -> Option<bool> {
    let at_root = |mount: &&Mount| mount.point == Path::new("/");
    let Some(root) = own.iter().rfind(at_root) else { return Some(true) };
    let same = first.iter().find(|mount| mount.id == root.id)?;
    Some(!at_root(&same))
}

fn container(text: &dyn Fn(&str) -> Option<String>, table: &[Mount], cgroup: &str) -> Option<Container> {
    let shows = |part: &str| table.iter().any(|mount| mount.root.contains(part));
    let stands_at = |path: &str| table.iter().any(|mount| mount.point == Path::new(path));
    // A runner names the volumes of its jobs after itself.
    if table.iter().any(|mount| mount.root.contains("/runner-") && mount.root.contains("-project-")) {
        return Some(Container::GitlabRunner);
    }
    if stands_at("/usr/bin/distrobox-host-exec") {
        return Some(Container::Distrobox);
    }
    if cgroup.contains("kubepods")
        || shows("/kubelet/pods/")
        || stands_at("/var/run/secrets/kubernetes.io/serviceaccount")
    {
        return Some(Container::Kubernetes);
    }
    if let Some((_, found)) = MARKS.into_iter().find(|(path, _)| text(path).is_some()) {
        return Some(found);
    }
    match text("/run/systemd/container").as_deref().map(str::trim) {
        Some("docker") => Some(Container::Docker),
        Some("podman") => Some(Container::Podman),
        Some("lxc" | "lxc-libvirt") => Some(Container::Lxc),
        Some(_) => Some(Container::Other),
        None if cgroup.contains("/docker") || shows("/docker/containers/") => Some(Container::Docker),
        None if cgroup.contains("/libpod") || shows("/overlay-containers/") => Some(Container::Podman),
        None if cgroup.contains("/lxc") => Some(Container::Lxc),
        None => None,
    }
}

/// The innermost service in the text of `/proc/self/cgroup`. Those of a user's own manager are left out: they forbid nothing by
/// themselves, and another folder configures them.
fn service(cgroup: &str) -> Option<String> {
    let lines = cgroup.lines().filter(|line| !line.contains("/user@"));
    let service = lines.flat_map(|line| line.rsplit('/')).find(|part| part.ends_with(".service"));
    service.map(str::to_owned)
}

/// What covers parts of `/proc` or protects them, by the kernel's rule for a new one (`mount_too_revealing`):
/// folders that are made to be mount points hide nothing.
fn proc_covered(table: &[Mount]) -> Vec<PathBuf> {
    let made_for_it = |mount: &&Mount| {
        ["/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd"].iter().any(|known| mount.point == Path::new(known))
    };
    let below = |mount: &&Mount| mount.point.starts_with("/proc") && mount.point != Path::new("/proc");
    let itself = |mount: &&Mount| mount.point == Path::new("/proc") && (mount.has("ro") || mount.root != "/");
    let covering = table.iter().filter(|mount| itself(mount) || below(mount) && !made_for_it(mount));
    covering.map(|mount| mount.point.clone()).collect()
}

fn no_namespaces(text: &dyn Fn(&str) -> Option<String>) -> Vec<&'static str> {
    let missing = |name: &&str| text(&format!("/proc/self/ns/{name}")).is_none();
    // Unknown without /proc.
    if NAMESPACES.iter().all(&missing) {
        return Vec::new();
    }
    NAMESPACES.into_iter().filter(|name| missing(name)).collect()
}

/// Whether a map gives every id to itself, as that of the machine's own user namespace does.
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether a map has a number for `id`; true where that is unknown, since it then explains nothing.
fn is_mapped(map: Option<&str>, id: Option<u64>) -> bool {
    let (Some(map), Some(id)) = (map, id) else { return true };
    let holds = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (numbers.next().unwrap_or(0), numbers.next(), numbers.next().unwrap_or(0));
        (first..first.saturating_add(count)).contains(&id)
    };
    map.lines().any(holds)
}
