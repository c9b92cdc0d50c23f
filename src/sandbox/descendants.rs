//! All descendants of this process, orphans included: where there is no PID namespace to end them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::{Pid, getpid},
};

/// How long killing is retried. A process in uninterruptible sleep (a broken disk or file server) does not die before it wakes up.
const HUNT: Duration = Duration::from_secs(5);

/// Every process below this one. Complete only where this process adopts orphans: as PID 1, or as a subreaper (`prctl(2)`). None where
/// /proc shows the processes of another PID namespace: the same numbers mean others there.
pub(super) fn all() -> BTreeSet<i32> {
    let me = getpid().as_raw();
    let shown = fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == me.to_string().as_str());
    if shown { below(me, &parents()) } else { BTreeSet::new() }
}

/// Ends every process below this one, those that they start meanwhile included, and reaps them.
pub(super) fn end() {
    // For PID 1, -1 means the sandbox; for any other process, everything that the caller runs (kill(2)).
    if getpid() == Pid::from_raw(1) {
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        while matches!(waitpid(None, None), Ok(_) | Err(Errno::EINTR)) {}
        return;
    }
    let until = Instant::now() + HUNT;
    loop {
        // Stopped processes start no others, so that few have been started since /proc was read.
        send(&all(), Signal::SIGSTOP);
        let left = all();
        if left.is_empty() || Instant::now() >= until {
            return;
        }
        send(&left, Signal::SIGKILL);
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills the processes whose parent is `parent`, as this process sees them.
pub(super) fn kill_children(parent: i32) {
    let children = parents().into_iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid);
    send(&children.collect(), Signal::SIGKILL);
}

fn send(pids: &BTreeSet<i32>, signal: Signal) {
    for pid in pids {
        // Gone already, or gone in a moment.
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}

/// Each process that /proc shows, with its parent.
fn parents() -> BTreeMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// The parent in a line of /proc/PID/stat. The program's name before it stands in parentheses, and may hold any character
/// (proc_pid_stat(5)).
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn below(root: i32, parents: &BTreeMap<i32, i32>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut found = BTreeSet::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                next.push(*child);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_read_whatever_a_program_is_called() {
        assert_eq!(parent("12 (sh) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent("12 (a) Z 9 (b) R 8 1"), Some(8));
        assert_eq!(parent("12 (sh"), None);
    }

    #[test]
    fn only_those_below() {
        let parents = BTreeMap::from([(1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 7)]);
        assert_eq!(below(2, &parents), BTreeSet::from([3, 4]));
        assert_eq!(below(7, &parents), BTreeSet::from([7]));
        assert!(below(9, &parents).is_empty());
    }
}
