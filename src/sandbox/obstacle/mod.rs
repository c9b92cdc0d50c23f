//! Why a sandbox failed, judged by the step, its errno and facts of this machine; and what to do about it. Pure.
//!
//! The errno alone is ambiguous: EPERM comes from a sysctl, from AppArmor, from a container's seccomp filter and from a chroot
//! (user_namespaces(7), unshare(2)).

mod remedy;
#[cfg(test)]
mod tests;

use super::signs::{Container, Signs};
use crate::{
    model::Hint,
    system::kernel::{OLDEST, version},
};

pub use remedy::Remedy;
use remedy::{administrator, by_sysctl, outside};

/// User namespaces that are enough for any build and for other programs.
const ENOUGH: u64 = 15_000;

/// More than any machine has.
const NO_LIMIT: u64 = 1 << 30;

/// The cause of a failed sandbox, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// In words.
    pub cause: String,
    /// What its user can do.
    pub remedy_user: Option<Remedy>,
    /// What its administrator can do.
    pub remedy_admin: Option<Remedy>,
}

impl Obstacle {
    fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy_user: None, remedy_admin: None }
    }

    fn user(self, remedy: Remedy) -> Self {
        Self { remedy_user: Some(remedy), ..self }
    }

    fn admin(self, remedy: Remedy) -> Self {
        Self { remedy_admin: Some(remedy), ..self }
    }

    fn by_what_surrounds(self, signs: &Signs) -> Self {
        let (remedy_user, remedy_admin) = outside(signs);
        Self { remedy_user, remedy_admin, ..self }
    }

    /// In one line: the cause, and the first thing to type.
    pub fn hint(&self) -> Hint {
        match self.remedy_user.as_ref().or(self.remedy_admin.as_ref()) {
            Some(remedy) => Hint { text: format!("{}; {}", self.cause, remedy.how), ..remedy.in_short() },
            None => Hint::new(&self.cause),
        }
    }
}

/// The phase of the start to which a step belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Enter,
    Maps,
    Proc,
    Mount,
    Pivot,
    Fork,
    Filter,
    Other,
}

impl Stage {
    fn of(step: &str) -> Self {
        let begins = |words: &[&str]| words.iter().any(|word| step.starts_with(word));
        match step {
            _ if step.starts_with("enter") && step.contains("namespaces") => Self::Enter,
            _ if begins(&["write /proc/self/"]) => Self::Maps,
            _ if step.contains("/proc of its PID namespace") => Self::Proc,
            _ if step.contains("pivot_root") => Self::Pivot,
            "fork" => Self::Fork,
            _ if step.contains("(seccomp)") => Self::Filter,
            _ if begins(&["mount ", "restrict the mount", "detach its mounts", "lay "]) => Self::Mount,
            _ if step.ends_with("to show it inside") || step.ends_with("read-only") => Self::Mount,
            _ => Self::Other,
        }
    }

    /// Whether the kernel's security modules can refuse it.
    fn is_guarded(self) -> bool {
        matches!(self, Self::Enter | Self::Maps | Self::Proc | Self::Mount | Self::Pivot)
    }
}

/// A step that failed, and where.
struct Failed<'a> {
    stage: Stage,
    errno: i32,
    signs: &'a Signs,
}

impl Failed<'_> {
    fn is(&self, stage: Stage, errno: &[i32]) -> bool {
        self.stage == stage && errno.contains(&self.errno)
    }

    fn is_refused(&self) -> bool {
        self.stage.is_guarded() && [libc::EPERM, libc::EACCES].contains(&self.errno)
    }
}

/// Judges a step that failed with `errno`, on a machine with these signs. What is certain comes before what is likely.
pub(super) fn diagnose(step: &str, errno: i32, signs: &Signs) -> Obstacle {
    let failed = Failed { stage: Stage::of(step), errno, signs };
    let causes: [fn(&Failed<'_>) -> Option<Obstacle>; 15] = [
        used_up,
        too_many_mounts,
        too_many_processes,
        not_in_this_kernel,
        too_old,
        in_a_chroot,
        without_ids,
        bare_root,
        switched_off,
        filtered_entry,
        restricted_by_apparmor,
        confined,
        proc_covered,
        filtered,
        first_root,
    ];
    causes.iter().find_map(|cause| cause(&failed)).unwrap_or_else(|| unknown(&failed))
}

/// The limit is counted per user, in each user namespace up to the machine's own (namespaces(7), "The /proc/sys/user directory").
fn used_up(failed: &Failed<'_>) -> Option<Obstacle> {
    if !failed.is(Stage::Enter, &[libc::ENOSPC, libc::EUSERS]) {
        return None;
    }
    let name = "user.max_user_namespaces";
    Some(match failed.signs.max_user_namespaces {
        Some(0) => Obstacle::new(format!("user namespaces are switched off here ({name} is 0)")).admin(by_sysctl(
            failed.signs,
            name,
            ENOUGH,
        )),
        limit => {
            let limit = limit.unwrap_or(0);
            let around = if failed.signs.nested { ", here or in a user namespace around this one" } else { "" };
            let cause = format!(
                "user namespaces are used up ({name} is {limit}{around}), or 32 of them are inside each other already"
            );
            let obstacle =
                Obstacle::new(cause).user(Remedy::new("see which programs hold them, and end some", ["lsns -t user"]));
            // The kernel's initial value of a new namespace, which was not configured.
            if limit >= NO_LIMIT {
                return Some(obstacle);
            }
            obstacle.admin(by_sysctl(failed.signs, name, ENOUGH.max(2 * limit)))
        }
    })
}

fn too_many_mounts(failed: &Failed<'_>) -> Option<Obstacle> {
    let full = failed.is(Stage::Mount, &[libc::ENOSPC]) || failed.is(Stage::Proc, &[libc::ENOSPC]);
    full.then(|| {
        Obstacle::new("there are as many mounts as one namespace may have (fs.mount-max)").admin(by_sysctl(
            failed.signs,
            "fs.mount-max",
            200_000,
        ))
    })
}

fn too_many_processes(failed: &Failed<'_>) -> Option<Obstacle> {
    failed.is(Stage::Fork, &[libc::EAGAIN]).then(|| {
        Obstacle::new("there may be no more processes: the limit of this user (ulimit -u) or of the cgroup (pids.max)")
            .user(Remedy::new("see the limit, and end what is not needed", ["ulimit -u; ps -L -u $(id -u) | wc -l"]))
    })
}

fn not_in_this_kernel(failed: &Failed<'_>) -> Option<Obstacle> {
    let kernel = &failed.signs.kernel;
    if failed.is(Stage::Filter, &[libc::EINVAL, libc::ENOSYS]) {
        return Some(Obstacle::new("this kernel was built without seccomp filters (CONFIG_SECCOMP_FILTER)").admin(
            Remedy::new(
                "boot a kernel that has them; to see what this one has",
                ["grep SECCOMP /boot/config-$(uname -r)"],
            ),
        ));
    }
    if !failed.is(Stage::Enter, &[libc::EINVAL, libc::ENOSYS]) {
        return None;
    }
    if kernel.ends_with("-Microsoft") {
        return Some(
            Obstacle::new("this is WSL 1, which is not a Linux kernel and has no namespaces")
                .user(Remedy::new("move this distribution to WSL 2, in Windows", ["wsl --set-version NAME 2"])),
        );
    }
    if kernel.contains(".el7") {
        let line = "grubby --args=user_namespace.enable=1 --update-kernel=ALL && reboot";
        return Some(
            Obstacle::new("this kernel has user namespaces only with a boot option (RHEL 7)")
                .admin(Remedy::new("as administrator", [line])),
        );
    }
    let missing = &failed.signs.no_namespaces;
    (!missing.is_empty()).then(|| {
        let line = "grep -E '_NS=|_NS is|CGROUPS' /boot/config-$(uname -r)";
        Obstacle::new(format!("this kernel was built without {} namespaces", missing.join(", ")))
            .admin(Remedy::new("boot a kernel that has them; to see what this one has", [line]))
    })
}

fn too_old(failed: &Failed<'_>) -> Option<Obstacle> {
    let (kernel, (major, minor)) = (&failed.signs.kernel, OLDEST);
    let old = version(kernel).is_some_and(|version| version < OLDEST);
    (failed.errno == libc::ENOSYS && old).then(|| {
        Obstacle::new(format!("Linux {kernel} is too old: smidr needs {major}.{minor} or newer"))
            .admin(Remedy::new("boot a newer kernel; many distributions have one beside their usual one", ["uname -r"]))
    })
}

/// The kernel refuses user namespaces in a chroot: they would be a way out of it (user_namespaces(7), EPERM of unshare(2)).
fn in_a_chroot(failed: &Failed<'_>) -> Option<Obstacle> {
    (failed.is(Stage::Enter, &[libc::EPERM]) && failed.signs.chroot == Some(true)).then(|| {
        let line = format!("bwrap --dev-bind DIR / --proc /proc {}", remedy::own_command(failed.signs));
        Obstacle::new("this is a chroot, and the kernel forbids user namespaces in one")
            .user(Remedy::new("run smidr outside of it, or enter its folder DIR another way", [line]))
    })
}

fn without_ids(failed: &Failed<'_>) -> Option<Obstacle> {
    (failed.is(Stage::Enter, &[libc::EPERM]) && !failed.signs.mapped).then(|| {
        Obstacle::new("your uid or gid has no number in the user namespace around smidr")
            .user(Remedy::new("enter that namespace with your own ids", ["unshare --user --map-current-user"]))
    })
}

/// A process that maps uid 0 could lend its file capabilities to others (user_namespaces(7), "Defining user and group ID mappings", Linux
/// 5.12).
fn bare_root(failed: &Failed<'_>) -> Option<Obstacle> {
    (failed.is(Stage::Maps, &[libc::EPERM]) && failed.signs.bare_root).then(|| {
        Obstacle::new("root without CAP_SETFCAP cannot map its own uid").user(Remedy::new(
            "run smidr as another user, or start the container with",
            ["podman run --cap-add SETFCAP IMAGE"],
        ))
    })
}

fn switched_off(failed: &Failed<'_>) -> Option<Obstacle> {
    let name = "kernel.unprivileged_userns_clone";
    let off = failed.signs.userns_clone == Some(0) && !failed.signs.sys_admin;
    (failed.is(Stage::Enter, &[libc::EPERM]) && off).then(|| {
        Obstacle::new(format!("this kernel keeps user namespaces from ordinary users ({name} is 0)")).admin(by_sysctl(
            failed.signs,
            name,
            1,
        ))
    })
}

/// On the way in, a filter answers before AppArmor does.
fn filtered_entry(failed: &Failed<'_>) -> Option<Obstacle> {
    (failed.is(Stage::Enter, &[libc::EPERM, libc::ENOSYS]) && failed.signs.seccomp).then(|| by_filter(failed.signs))
}

/// Since Ubuntu 23.10: entering succeeds, and everything that needs a capability in there is refused, the id maps first.
fn restricted_by_apparmor(failed: &Failed<'_>) -> Option<Obstacle> {
    let signs = failed.signs;
    let inside_already = signs.profile() == Some("unprivileged_userns");
    // A profile of its own decides instead; root is exempt.
    let free = signs.profile().is_none() && !signs.sys_admin;
    if !failed.is_refused() || !signs.is_restricted_by_apparmor() || !(inside_already || free) {
        return None;
    }
    let profile = Some(remedy::apparmor_profile(signs));
    if inside_already {
        let obstacle = Obstacle::new("smidr was started in a user namespace in which AppArmor allows nothing");
        return Some(Obstacle { remedy_admin: profile, ..obstacle.user(Remedy::advice("run smidr outside of it")) });
    }
    let name = "kernel.apparmor_restrict_unprivileged_userns";
    let cause = format!("AppArmor keeps user namespaces from programs without a profile ({name} is 1)");
    let (remedy_user, _) = signs.container.map_or((None, None), |_| outside(signs));
    Some(Obstacle { cause, remedy_user, remedy_admin: profile })
}

/// A security module confines smidr by a domain or profile that was not made for it.
fn confined(failed: &Failed<'_>) -> Option<Obstacle> {
    let signs = failed.signs;
    if !failed.is_refused() {
        return None;
    }
    if let Some(profile) = signs.profile() {
        let obstacle = Obstacle::new(format!("AppArmor's profile {profile} refuses it"));
        return Some(match profile.strip_prefix("snap.") {
            Some(snap) => {
                let snap = snap.split('.').next().unwrap_or(snap);
                obstacle.user(Remedy::advice(format!("run smidr in a terminal that is not part of the snap {snap}")))
            }
            None if signs.container.is_some() => obstacle.by_what_surrounds(signs),
            None => obstacle.admin(administrator([format!("aa-complain {profile}")])),
        });
    }
    // SELinux answers EACCES, never EPERM.
    let domain = signs.domain().filter(|_| failed.errno == libc::EACCES)?;
    let obstacle = Obstacle::new(format!("SELinux refuses it to programs of the domain {domain}"));
    if signs.container.is_some() {
        return Some(obstacle.by_what_surrounds(signs));
    }
    let lines = ["ausearch -m avc -ts recent | audit2allow -M smidr", "semodule -i smidr.pp"];
    Some(obstacle.admin(administrator(lines)))
}

/// The kernel refuses a new `/proc` while parts of the present one are covered (mount_too_revealing in fs/namespace.c).
fn proc_covered(failed: &Failed<'_>) -> Option<Obstacle> {
    if !failed.is(Stage::Proc, &[libc::EPERM]) && !failed.is(Stage::Maps, &[libc::EROFS]) {
        return None;
    }
    let signs = failed.signs;
    let Some(first) = signs.proc_covered.first() else {
        return Some(Obstacle::new("parts of /proc are covered where smidr cannot see it").by_what_surrounds(signs));
    };
    let more = match signs.proc_covered.len() - 1 {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let cause = format!("parts of /proc are covered, as containers do ({}{more})", first.display());
    let obstacle = Obstacle::new(cause);
    if signs.container.is_some() || signs.service.is_some() {
        return Some(match signs.container {
            Some(Container::GitlabRunner) => obstacle.admin(remedy::privileged_runner()),
            _ => obstacle.by_what_surrounds(signs),
        });
    }
    Some(
        obstacle
            .user(Remedy::advice("start smidr where nothing covers them"))
            .admin(administrator([format!("umount {}", remedy::quoted(&first.display().to_string()))])),
    )
}

fn filtered(failed: &Failed<'_>) -> Option<Obstacle> {
    let answer = matches!(failed.errno, libc::EPERM | libc::ENOSYS);
    (failed.stage.is_guarded() && failed.stage != Stage::Maps && answer && failed.signs.seccomp)
        .then(|| by_filter(failed.signs))
}

fn by_filter(signs: &Signs) -> Obstacle {
    let whose = match (signs.container, &signs.service) {
        (Some(_), _) => "the surrounding container's seccomp filter forbids it".to_owned(),
        (None, Some(service)) => format!("a seccomp filter forbids it, which systemd installs for {service}"),
        (None, None) => "a seccomp filter forbids it, which whatever started smidr has installed".to_owned(),
    };
    Obstacle::new(whose).by_what_surrounds(signs)
}

/// pivot_root(2), EINVAL.
fn first_root(failed: &Failed<'_>) -> Option<Obstacle> {
    (failed.is(Stage::Pivot, &[libc::EINVAL]) && failed.signs.initial_ramfs).then(|| {
        let lines = ["mount -t tmpfs tmpfs /mnt && cp -ax / /mnt && exec switch_root /mnt /sbin/init"];
        Obstacle::new("the root is the kernel's first one, in memory, which nothing can take the place of")
            .admin(Remedy::new("as administrator, in the machine's /init", lines))
    })
}

fn unknown(failed: &Failed<'_>) -> Obstacle {
    let signs = failed.signs;
    if failed.is(Stage::Enter, &[libc::EPERM]) {
        let cause = match signs.container {
            Some(_) => "the surrounding container forbids namespaces",
            None => "namespaces are forbidden here, as they are in a chroot and in some containers",
        };
        return Obstacle::new(cause).by_what_surrounds(signs);
    }
    let lines = ["smidr doctor".to_owned(), format!("strace -f {}", remedy::own_command(signs))];
    Obstacle::new("smidr found no setting of this machine that explains it")
        .user(Remedy::new("see what works here, and what the kernel is asked", lines))
        .admin(Remedy::new("read the kernel's messages", ["journalctl -k -n 20"]))
}
