//! The cgroups of this process, from `/proc/self/cgroup` and `/proc/self/mountinfo`. Pure except for reading these.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// The cgroups of a process, as visible folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its cgroup v2.
    pub v2: Option<PathBuf>,
    /// The uppermost visible folder of v2.
    pub top: PathBuf,
    /// Whether there is a cgroup v2 at all, visible or not.
    pub has_v2: bool,
    /// Its cgroup of the v1 memory controller.
    pub memory_v1: Option<PathBuf>,
    /// Whether v1 controls memory.
    pub has_memory_v1: bool,
}

impl Place {
    /// Of this process, now.
    pub fn own() -> Self {
        Self::seen_from_here(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
    }

    /// Of another process, which has read its own `/proc/self/cgroup`.
    pub fn seen_from_here(cgroup: &str) -> Self {
        Self::parse(cgroup, &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Reads the two texts (cgroups(7), proc_pid_mountinfo(5)).
    pub fn parse(cgroup: &str, mountinfo: &str) -> Self {
        let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        let lines = || cgroup.lines().filter_map(split_line);
        let v2_path = lines().find(|(controllers, _)| controllers.is_empty()).map(|(_, path)| path);
        let v1_path = lines().find(|(controllers, _)| names_memory(controllers)).map(|(_, path)| path);
        let v2_mounts = || mounts.iter().filter(|mount| mount.kind == "cgroup2");
        let v1_mounts = || mounts.iter().filter(|mount| mount.kind == "cgroup" && names_memory(&mount.options));
        let v2 = v2_path.and_then(|path| v2_mounts().find_map(|mount| Some((mount.show(path)?, mount.at.clone()))));
        let (v2, top) = v2.map_or_else(Default::default, |(v2, top)| (Some(v2), top));
        Self {
            v2,
            top,
            has_v2: v2_path.is_some() && v2_mounts().next().is_some(),
            memory_v1: v1_path.and_then(|path| v1_mounts().find_map(|mount| mount.show(path))),
            has_memory_v1: v1_path.is_some(),
        }
    }
}

/// `4:memory:/user.slice` as controllers and path.
fn split_line(line: &str) -> Option<(&str, &Path)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    Some((controllers, Path::new(path)))
}

fn names_memory(list: &str) -> bool {
    list.split(',').any(|name| name == "memory")
}

struct Mount {
    /// The folder of the hierarchy that is mounted.
    root: PathBuf,
    at: PathBuf,
    kind: String,
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, at) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, _source, options) = (after.next()?, after.next()?, after.next()?);
        Some(Self { root: unescape(root), at: unescape(at), kind: kind.into(), options: options.into() })
    }

    /// Where a cgroup is visible through this mount. A path that begins with `/..` is outside of the cgroup namespace.
    fn show(&self, cgroup: &Path) -> Option<PathBuf> {
        let below = cgroup.strip_prefix(&self.root).ok()?;
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        let shown = if below.as_os_str().is_empty() { self.at.clone() } else { self.at.join(below) };
        plain.then_some(shown)
    }
}

/// Spaces and the like stand as `\040` in mountinfo.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let escape = part.split_at_checked(3);
        match escape.and_then(|(digits, rest)| Some((u8::from_str_radix(digits, 8).ok()?, rest))) {
            Some((byte, rest)) => {
                plain.push(byte.into());
                plain.push_str(rest);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "\
24 31 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
35 30 0:29 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

    #[test]
    fn a_session_over_ssh() {
        let place = Place::parse("0::/user.slice/user-1000.slice/session-4.scope\n", UNIFIED);
        let own = "/sys/fs/cgroup/user.slice/user-1000.slice/session-4.scope";
        assert_eq!(place.v2.as_deref(), Some(Path::new(own)));
        assert_eq!((place.top.as_path(), place.has_v2), (Path::new("/sys/fs/cgroup"), true));
        assert_eq!((place.memory_v1, place.has_memory_v1), (None, false));
    }

    #[test]
    fn a_terminal_of_a_desktop() {
        let line = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-0b.scope\n";
        let own = Place::parse(line, UNIFIED).v2.expect("in sight");
        assert!(own.ends_with("app.slice/app-org.gnome.Terminal.slice/vte-spawn-0b.scope"), "{own:?}");
    }

    #[test]
    fn a_container_with_a_namespace_of_its_own() {
        let mounts = "702 698 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n";
        let place = Place::parse("0::/\n", mounts);
        assert_eq!(place.v2.as_deref(), Some(Path::new("/sys/fs/cgroup")));
        // A process that was put there from outside.
        let place = Place::parse("0::/../../system.slice/sshd.service\n", mounts);
        assert_eq!((place.v2, place.has_v2), (None, true));
    }

    #[test]
    fn a_container_that_shows_its_part_only() {
        let mounts = "9 8 0:29 /system.slice/my\\040box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let place = Place::parse("0::/system.slice/my box/init.scope\n", mounts);
        assert_eq!(place.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/init.scope")));
        let place = Place::parse("0::/system.slice/my boxes\n", mounts);
        assert_eq!((place.v2, place.has_v2), (None, true), "a prefix of a name is no parent");
    }

    #[test]
    fn both_versions_side_by_side() {
        let cgroup = "9:name=systemd:/\n8:pids:/\n4:memory:/jobs/e65b5195\n2:cpuacct:/\n1:cpu:/\n0::/\n";
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let place = Place::parse(cgroup, mounts);
        assert_eq!(place.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(place.memory_v1.as_deref(), Some(Path::new("/sys/fs/cgroup/memory/jobs/e65b5195")));
        assert!(place.has_memory_v1);
    }

    #[test]
    fn version_one_only() {
        let cgroup =
            "11:cpu,cpuacct:/user.slice\n7:memory:/user.slice/user-1000.slice\n1:name=systemd:/user.slice/x.scope\n";
        let mounts = "33 25 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory\n";
        let place = Place::parse(cgroup, mounts);
        assert_eq!((place.v2.clone(), place.has_v2, place.has_memory_v1), (None, false, true));
        let own = "/sys/fs/cgroup/memory/user.slice/user-1000.slice";
        assert_eq!(place.memory_v1.as_deref(), Some(Path::new(own)));
        assert_eq!(Place::parse("", ""), Place::default());
        assert_eq!(Place::parse("garbage\n0:\n", "- \n - cgroup2\n"), Place::default());
    }
}
