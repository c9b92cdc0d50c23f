//! A cgroup of its own for one build: made, limited, read back, read out, killed, removed.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{CPU, CgroupError, Controller, MEMORY, NotEnforced, Place, TASKS};
use crate::model::Limits;

/// What the names of leaves begin with.
const PREFIX: &str = "smidr-";

/// The span in which `cpu.max` counts, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;

/// How often removal of a leaf is tried: killed processes take a moment to end.
const TRIES: u32 = 100;

/// A cgroup of our own. Dropping it kills the processes in it and removes it.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    not_enforced: Vec<NotEnforced>,
    // While it is held, no other smidr removes the leaf as abandoned.
    _lock: File,
}

/// What the processes of a leaf used; none where its kernel or controllers do not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Time on processors, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// The most memory at one time, in bytes (Linux 5.19).
    pub peak_memory: Option<u64>,
    /// Read from and written to disks, in bytes.
    pub io: Option<(u64, u64)>,
}

impl Leaf {
    /// Makes the leaf `smidr-<name>` in the cgroup of this process, or beside it where it cannot have the controllers there: a cgroup
    /// with processes of its own hands none on (cgroups(7), the "no internal processes" rule).
    ///
    /// # Errors
    ///
    /// When no cgroup v2 is visible, or it does not belong to the caller.
    pub fn make(place: &Place, name: &str, limits: &Limits) -> Result<Self, CgroupError> {
        let own = place.v2.as_deref().ok_or(match (place.has_v2, place.has_memory_v1) {
            (true, _) => CgroupError::Hidden,
            (false, _) => CgroupError::NoV2,
        })?;
        let beside = own.parent().filter(|_| own != place.top);
        let mut best: Option<Self> = None;
        let mut refusal = None;
        for parent in [Some(own), beside].into_iter().flatten() {
            remove_left_behind(parent);
            match Self::make_in(parent, name, limits) {
                Ok(leaf) if leaf.lacks() == 0 => return Ok(leaf),
                Ok(leaf) if best.as_ref().is_none_or(|best| leaf.lacks() < best.lacks()) => {
                    best = Some(leaf);
                }
                Ok(_) => {}
                Err(source) => refusal = refusal.or(Some(source)),
            }
        }
        match (best, refusal) {
            (Some(mut leaf), _) => {
                if place.has_memory_v1 {
                    let why = CgroupError::Hybrid.reason();
                    leaf.not_enforced.iter_mut().for_each(|limit| limit.why.clone_from(&why));
                }
                Ok(leaf)
            }
            (None, _) if place.has_memory_v1 => Err(CgroupError::Hybrid),
            (None, refusal) => Err(CgroupError::NotYours {
                path: own.into(),
                source: refusal.unwrap_or_else(|| io::ErrorKind::PermissionDenied.into()),
            }),
        }
    }

    fn make_in(parent: &Path, name: &str, limits: &Limits) -> io::Result<Self> {
        // Moving a process needs write access to this file of the common ancestor (cgroups(7)).
        rustix::fs::access(parent.join("cgroup.procs"), rustix::fs::Access::WRITE_OK)?;
        // With processes of its own it delegates no controllers, or would become a threaded one, whose leaf cannot be joined (cgroups(7)).
        let occupied = fs::read_to_string(parent.join("cgroup.procs")).is_ok_and(|pids| !pids.trim().is_empty());
        for controller in wanted(limits).filter(|_| !occupied) {
            // Refused where the controller is not delegated, or processes are in the way. What the leaf has is checked below.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{}", controller.name));
        }
        let path = parent.join(format!("{PREFIX}{name}"));
        let lock = create_locked(&path)?;
        let not_enforced = enforce(&path, limits);
        Ok(Self { path, not_enforced, _lock: lock })
    }

    /// How much is missing: limits first, then the measuring of memory, useful without a limit too.
    fn lacks(&self) -> usize {
        2 * self.not_enforced.len() + usize::from(!self.path.join("memory.current").exists())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The limits that were asked for and do not hold.
    pub fn not_enforced(&self) -> &[NotEnforced] {
        &self.not_enforced
    }

    /// What was used so far.
    pub fn used(&self) -> Used {
        let read = |name: &str| fs::read_to_string(self.path.join(name)).ok();
        Used {
            cpu_ms: read("cpu.stat").and_then(|text| field(&text, "usage_usec")).map(|usec| usec / 1000),
            peak_memory: read("memory.peak").and_then(|text| text.trim().parse().ok()),
            io: read("io.stat").map(|text| io_total(&text)),
        }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // Linux 5.14. The sandbox has ended with its PID 1; this is for what a host without PID namespaces would leave.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        for _ in 0..TRIES {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // Removed, or no longer ours.
                _ => return,
            }
        }
    }
}

/// Makes a folder and locks it. Until it is locked, another smidr may remove it as abandoned.
fn create_locked(path: &Path) -> io::Result<File> {
    loop {
        fs::create_dir(path)?;
        let lock = File::open(path)?;
        lock.lock_shared()?;
        if path.exists() {
            return Ok(lock);
        }
    }
}

fn wanted(limits: &Limits) -> impl Iterator<Item = Controller> {
    let asked = [(limits.memory.is_some(), MEMORY), (limits.tasks.is_some(), TASKS), (limits.cpus.is_some(), CPU)];
    asked.into_iter().filter(|(asked, _)| *asked).map(|(_, controller)| controller)
}

/// Writes the limits and reads them back. Without `cpu.max` the sandbox still limits its processors, by affinity.
fn enforce(leaf: &Path, limits: &Limits) -> Vec<NotEnforced> {
    if let Some(cpus) = limits.cpus {
        let _ = fs::write(leaf.join("cpu.max"), format!("{} {PERIOD}", u64::from(cpus) * PERIOD));
    }
    let rows = [
        (MEMORY, "memory.max", limits.memory.map(|bytes| bytes.to_string())),
        (TASKS, "pids.max", limits.tasks.map(|most| most.to_string())),
    ];
    let asked = rows.into_iter().filter_map(|(controller, file, value)| Some((controller, file, value?)));
    asked
        .filter_map(|(controller, file, value)| {
            let why = set(&leaf.join(file), &value).err()?;
            Some(NotEnforced { key: controller.key, why: format!("{why} in {}", leaf.display()) })
        })
        .collect()
}

fn set(file: &Path, value: &str) -> Result<(), String> {
    let name = file.file_name().unwrap_or_default().display();
    fs::write(file, value).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => format!("there can be no {name}"),
        _ => format!("{name} cannot be written ({error})"),
    })?;
    let found = fs::read_to_string(file).unwrap_or_default();
    if holds(found.trim(), value) {
        Ok(())
    } else {
        Err(format!("{name} is {} after {value} was written", found.trim()))
    }
}

/// Whether a limit that was read is the one that was written. The kernel counts memory in pages and rounds down.
fn holds(found: &str, wanted: &str) -> bool {
    match (found.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(found), Ok(wanted)) => found <= wanted && wanted - found < 1 << 16,
        _ => found == wanted,
    }
}

/// Removes leaves that a killed smidr has left behind. One that has processes, or whose smidr lives, stays.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
        if ours && let Ok(folder) = File::open(&path) {
            match folder.try_lock() {
                // The kernel refuses where it has processes.
                Ok(()) => drop(fs::remove_dir(&path)),
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
            }
        }
    }
}

/// The number behind a name, in files such as `memory.events`.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Sums over all disks. Lines are `8:0 rbytes=90430464 wbytes=299008000 rios=8950 …`.
fn io_total(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        text.split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
            .fold(0, u64::saturating_add)
    };
    (sum("rbytes="), sum("wbytes="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes() {
        let events = "low 0\nhigh 0\nmax 231\noom 4\noom_kill 3\noom_group_kill 0\n";
        assert_eq!((field(events, "oom_kill"), field(events, "oom"), field(events, "o")), (Some(3), Some(4), None));
        let io = "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n8:0 rbytes=90430464 wbytes=8 rios=1 wios=1\n";
        assert_eq!(io_total(io), (91_889_664, 314_773_512));
        assert_eq!(io_total(""), (0, 0));
    }

    #[test]
    fn a_limit_is_what_was_written() {
        let rows = [
            ("8589934592", "8589934592", true),
            ("1000001536", "1000005000", true),
            ("max", "8589934592", false),
            ("8589934592", "4294967296", false),
            ("4294967296", "8589934592", false),
            ("200000 100000", "200000 100000", true),
            ("max 100000", "200000 100000", false),
            ("", "5", false),
        ];
        for (found, wanted, good) in rows {
            assert_eq!(holds(found, wanted), good, "{found} for {wanted}");
        }
    }
}
