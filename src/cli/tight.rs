//! What of this machine runs out while a build runs: space where it writes, and memory. Only looks.

use std::{fs, path::Path};

use super::output::bytes;

/// Below so much space, or so small a part of the disk, a build may not come to its end.
const SPACE: u64 = 5 << 30;
const SPACE_PART: u64 = 20;

/// Below so small a part of the memory, programs are killed soon.
const MEMORY_PART: u64 = 20;

/// The share of the last ten seconds in which every program waited for memory, in percent (PSI, "full" in the kernel's psi.rst).
const STALLED: f64 = 10.0;

/// What is tight, in words.
pub(super) fn look(folder: &Path) -> Vec<String> {
    // It may be made later.
    let folder = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let disk = rustix::fs::statvfs(folder).ok().and_then(|found| {
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        of_disk(bytes(found.f_bavail), bytes(found.f_blocks))
    });
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    disk.into_iter().chain(of_memory(&read("/proc/meminfo"), &read("/proc/pressure/memory"))).collect()
}

fn of_disk(free: u64, all: u64) -> Option<String> {
    (free < SPACE || free < all / SPACE_PART).then(|| format!("{} free on the disk of the build", bytes(free)))
}

fn of_memory(meminfo: &str, pressure: &str) -> Option<String> {
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
    };
    let (free, all) = (field("MemAvailable")?, field("MemTotal")?);
    let full =
        pressure.lines().find_map(|line| line.strip_prefix("full avg10=")?.split(' ').next()?.parse::<f64>().ok());
    let stalled = full.filter(|share| *share > STALLED);
    (free < all / MEMORY_PART || stalled.is_some()).then(|| match stalled {
        Some(share) => format!("{} of memory free, programs wait for it {share:.0} % of the time", bytes(free)),
        None => format!("{} of memory free", bytes(free)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_tight_is_said() {
        assert_eq!(of_disk(6 << 30, 100 << 30), None);
        assert!(of_disk(4 << 30, 10 << 30).is_some_and(|text| text.ends_with("free on the disk of the build")));
        assert!(of_disk(40 << 30, 1000 << 30).is_some(), "a part of it");
        let memory = |available: u64| format!("MemTotal:  1000000 kB\nMemAvailable: {available} kB\n");
        assert_eq!(of_memory(&memory(60_000), "some avg10=50.00 x\nfull avg10=5.00 avg60=0\n"), None);
        assert!(of_memory(&memory(40_000), "").is_some());
        let stalled = of_memory(&memory(60_000), "full avg10=25.50 avg60=0\n").unwrap_or_default();
        assert!(stalled.ends_with("of memory free, programs wait for it 26 % of the time"), "{stalled}");
        assert_eq!(of_memory("", ""), None);
    }
}
