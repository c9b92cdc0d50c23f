//! Says which build a build waits for: BitBake's fetchers lock each download with flock(2), and wait without a word. The kernel lists who
//! holds and who waits (/proc/locks, proc_locks(5)).

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use super::Tools;
use crate::model::Event;

/// A wait that is shorter is not worth a word.
const PERIOD: Duration = Duration::from_secs(5);

/// As deep as processes of a build are below smidr.
const MOST_ANCESTORS: usize = 64;

/// Looks from time to time, until it is dropped.
pub(super) struct Watch(#[expect(dead_code, reason = "the thread ends when it is dropped")] Sender<()>);

/// A line of /proc/locks.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    waits: bool,
    pid: i32,
    /// Major and minor number of the device, and the inode.
    file: (u32, u32, u64),
}

impl Watch {
    /// Watches the locks in a folder of downloads.
    pub(super) fn begin(downloads: &Path, tools: Tools<'_>) -> Self {
        let (alive, ended) = mpsc::channel();
        let (downloads, locks, on) = (downloads.to_path_buf(), tools.paths.locks(), tools.on.clone());
        thread::spawn(move || {
            let mut said = BTreeSet::new();
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                for (resource, holder) in waits(&downloads, &locks) {
                    if said.insert((resource.clone(), holder.clone())) {
                        on.emit(Event::Waiting { resource, holder });
                    }
                }
            }
        });
        Self(alive)
    }
}

/// Downloads that processes below this one wait for, and who holds each.
fn waits(downloads: &Path, locks: &Path) -> Vec<(String, String)> {
    let entries = read();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let ours = entries.iter().filter(|entry| entry.waits && ancestors(entry.pid).contains(&own));
    let mut found = Vec::new();
    for waiting in ours {
        let Some(name) = name_of(waiting.file, downloads) else { continue };
        let holder = entries.iter().find(|entry| !entry.waits && entry.file == waiting.file);
        let Some(holder) = holder.filter(|holder| !ancestors(holder.pid).contains(&own)) else { continue };
        let build = build_of(holder.pid, locks, &entries).unwrap_or_else(|| format!("process {}", holder.pid));
        found.push((format!("the download {name}"), build));
    }
    found
}

fn read() -> Vec<Entry> {
    fs::read_to_string("/proc/locks").unwrap_or_default().lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Entry> {
    let (_, rest) = line.split_once(':')?;
    let waits = rest.trim_start().starts_with("->");
    let mut words = rest.trim_start().trim_start_matches("->").split_whitespace();
    if words.next()? != "FLOCK" {
        return None;
    }
    let pid = words.nth(2)?.parse().ok()?;
    let mut file = words.next()?.split(':');
    let (major, minor) = (u32::from_str_radix(file.next()?, 16).ok()?, u32::from_str_radix(file.next()?, 16).ok()?);
    Some(Entry { waits, pid, file: (major, minor, file.next()?.parse().ok()?) })
}

/// A process and those that it descends from, itself first.
fn ancestors(pid: i32) -> Vec<i32> {
    let parent = |pid: &i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|pid| *pid > 0)
    };
    std::iter::successors(Some(pid), parent).take(MOST_ANCESTORS).collect()
}

fn name_of(file: (u32, u32, u64), folder: &Path) -> Option<String> {
    let entry = find(file, folder)?;
    let name = entry.file_name()?.to_string_lossy();
    Some(name.trim_end_matches(".lock").to_owned())
}

/// By its inode alone: the kernel and stat(2) name the devices of some file systems differently, btrfs among them.
fn find((.., inode): (u32, u32, u64), folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let is_it = |path: &PathBuf| {
        let data = fs::symlink_metadata(path);
        data.is_ok_and(|data| data.ino() == inode)
    };
    entries.map(|entry| entry.path()).find(is_it)
}

/// The build whose smidr is an ancestor of a process: each holds a lock of its own while it lives.
fn build_of(pid: i32, locks: &Path, entries: &[Entry]) -> Option<String> {
    let above = ancestors(pid);
    let builds = entries.iter().filter(|entry| !entry.waits && above.contains(&entry.pid));
    builds
        .filter_map(|entry| find(entry.file, locks))
        .filter_map(|path| {
            Some(path.file_name()?.to_str()?.strip_prefix("build-")?.trim_end_matches(".lock").to_owned())
        })
        .map(|id| format!("build {id}"))
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let entry = |waits, pid, file| Some(Entry { waits, pid, file });
        assert_eq!(parse("1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"), entry(false, 1234, (0xfe, 0, 5678)));
        assert_eq!(parse("1: -> FLOCK  ADVISORY  WRITE 99 00:2b:7 0 EOF"), entry(true, 99, (0, 0x2b, 7)));
        assert_eq!(parse("2: POSIX  ADVISORY  READ 1 08:01:5 0 EOF"), None);
        for garbage in ["", "1:", "1: FLOCK", "1: FLOCK ADVISORY WRITE x 00:2b:7", "1: FLOCK ADVISORY WRITE 1 7"] {
            assert_eq!(parse(garbage), None, "{garbage}");
        }
    }
}
