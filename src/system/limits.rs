//! Limits of this process: files, processes, memory, namespaces, watches.

use std::{collections::BTreeSet, fs, path::Path};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::mounts::{self, Mount};

/// Limits of this process and its children; none where there is none, or it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Files that one process may have open, at most (RLIMIT_NOFILE, hard).
    pub open_files: Option<u64>,
    /// Processes and threads of this user (RLIMIT_NPROC, soft).
    pub processes: Option<u64>,
    /// Processes and threads of the cgroup, and of those around it (pids.max).
    pub tasks: Option<u64>,
    /// Bytes of memory of the cgroup, and of those around it (memory.max).
    pub memory: Option<u64>,
    /// Folders and files that this user may watch (fs.inotify.max_user_watches).
    pub watches: Option<u64>,
    /// Programs of this user that may watch (fs.inotify.max_user_instances).
    pub watchers: Option<u64>,
    /// User namespaces of this user (user.max_user_namespaces).
    pub user_namespaces: Option<u64>,
    /// User namespaces in which there is a process that this user may look at.
    pub user_namespaces_seen: u64,
    /// Permissions that new files do not get.
    pub umask: u32,
}

/// Looks at this process.
pub fn gather() -> Limits {
    let text = |path: &Path| fs::read_to_string(path).ok();
    let number = |path: &str| text(Path::new(path))?.trim().parse().ok();
    let finite = |limit: u64| (limit != RLIM_INFINITY).then_some(limit);
    let groups = Cgroups::read(
        &text(Path::new("/proc/self/cgroup")).unwrap_or_default(),
        mounts::parse(&text(Path::new("/proc/self/mountinfo")).unwrap_or_default()),
    );
    Limits {
        open_files: getrlimit(Resource::RLIMIT_NOFILE).ok().and_then(|(_, hard)| finite(hard)),
        processes: getrlimit(Resource::RLIMIT_NPROC).ok().and_then(|(soft, _)| finite(soft)),
        tasks: groups.least("pids", &["pids.max"], &text),
        memory: groups.least("memory", &["memory.max", "memory.limit_in_bytes"], &text),
        watches: number("/proc/sys/fs/inotify/max_user_watches"),
        watchers: number("/proc/sys/fs/inotify/max_user_instances"),
        user_namespaces: number("/proc/sys/user/max_user_namespaces"),
        user_namespaces_seen: user_namespaces_seen(),
        umask: text(Path::new("/proc/self/status")).as_deref().and_then(umask).unwrap_or(0o022),
    }
}

/// cgroup v1 shows a number above this where there is no limit.
const UNLIMITED: u64 = 1 << 60;

/// The cgroups of a process, one for each hierarchy, and where they are shown.
struct Cgroups {
    groups: Vec<(String, String)>,
    table: Vec<Mount>,
}

impl Cgroups {
    /// Takes the text of `/proc/self/cgroup` (cgroups(7)) and the mount table.
    fn read(text: &str, table: Vec<Mount>) -> Self {
        let line = |line: &str| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        };
        Self { groups: text.lines().filter_map(line).collect(), table }
    }

    /// The least number in any of these files, from the process's own cgroup up to the last one that is shown.
    fn least(&self, controller: &str, files: &[&str], text: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
        let mut found = Vec::new();
        for (controllers, path) in &self.groups {
            let unified = controllers.is_empty();
            if !unified && !controllers.split(',').any(|known| known == controller) {
                continue;
            }
            for mount in self.table.iter().filter(|mount| shows(mount, unified, controller)) {
                // A container is shown its own part only, which is its root then.
                let below = path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or_default();
                let own = mount.point.join(below.trim_start_matches('/'));
                for folder in own.ancestors().take_while(|folder| folder.starts_with(&mount.point)) {
                    let limits = files.iter().filter_map(|file| text(&folder.join(file))?.trim().parse::<u64>().ok());
                    found.extend(limits.filter(|limit| *limit < UNLIMITED));
                }
            }
        }
        found.into_iter().min()
    }
}

fn shows(mount: &Mount, unified: bool, controller: &str) -> bool {
    let named = || {
        mount
            .point
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.split(',').any(|part| part == controller))
    };
    if unified { mount.kind == "cgroup2" } else { mount.kind == "cgroup" && named() }
}

fn umask(status: &str) -> Option<u32> {
    u32::from_str_radix(status.lines().find_map(|line| line.strip_prefix("Umask:"))?.trim(), 8).ok()
}

/// The kernel does not show its count; namespaces without a process are missing here.
fn user_namespaces_seen() -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let own = fs::read_link("/proc/self/ns/user").ok();
    let mut seen: BTreeSet<_> = numbers.filter_map(|entry| fs::read_link(entry.path().join("ns/user")).ok()).collect();
    if let Some(own) = own {
        seen.remove(&own);
    }
    seen.len() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn least(cgroup: &str, table: &str, files: &[(&str, &str)], controller: &str) -> Option<u64> {
        let files: BTreeMap<_, _> = files.iter().copied().collect();
        let text = |path: &Path| files.get(path.to_str()?).map(|text| (*text).to_owned());
        let names = [format!("{controller}.max"), "memory.limit_in_bytes".into()];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Cgroups::read(cgroup, mounts::parse(table)).least(controller, &names, &text)
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let table = "31 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let own = "0::/user.slice/user-1000.slice/session-2.scope\n";
        let files = [
            ("/sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope/pids.max", "max\n"),
            ("/sys/fs/cgroup/user.slice/user-1000.slice/pids.max", "10813\n"),
            ("/sys/fs/cgroup/user.slice/pids.max", "20000\n"),
            ("/sys/fs/cgroup/other/pids.max", "1\n"),
        ];
        assert_eq!(least(own, table, &files, "pids"), Some(10_813));
        assert_eq!(least(own, table, &files, "memory"), None);
        assert_eq!(least("", table, &files, "pids"), None);
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let table = "900 880 0:30 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let files = [("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n")];
        assert_eq!(least("5:memory:/docker/ab\n", table, &files, "memory"), Some(2_147_483_648));
        let none = [("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(least("5:memory:/docker/ab\n", table, &none, "memory"), None);
        // With a cgroup namespace the own path is `/` (cgroup_namespaces(7)).
        let table = "900 880 0:30 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let files = [("/sys/fs/cgroup/memory.max", "1073741824\n")];
        assert_eq!(least("0::/\n", table, &files, "memory"), Some(1_073_741_824));
    }

    #[test]
    fn this_process_has_limits() {
        let limits = gather();
        assert!(limits.open_files.is_none_or(|limit| limit >= 3), "{limits:?}");
        assert_eq!(umask("Name:\tx\nUmask:\t0027\nState:\tR"), Some(0o027));
        assert_eq!(umask("Name:\tx\n"), None);
    }
}
