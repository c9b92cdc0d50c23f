//! What a build may use of this machine, and what it has used.

use serde::{Deserialize, Serialize};

/// How much a build may use at most. None: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Memory of all its processes together, in bytes.
    pub memory: Option<u64>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Processes and threads at once.
    pub tasks: Option<u32>,
}

/// What a build has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Time on processors, of all its processes together, in milliseconds.
    pub cpu_ms: u64,
    /// The most memory at one time, in bytes.
    pub peak_memory: u64,
    /// Whose memory that is.
    pub peak_of: PeakOf,
    /// Read from disks, in bytes; what was in memory already does not count.
    pub read_bytes: u64,
    /// Written to disks, in bytes.
    pub written_bytes: u64,
}

impl Usage {
    /// What two runs, one after the other, have used together.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let larger = if next.peak_memory > self.peak_memory { next } else { self };
        Self {
            cpu_ms: self.cpu_ms + next.cpu_ms,
            peak_memory: larger.peak_memory,
            peak_of: larger.peak_of,
            read_bytes: self.read_bytes + next.read_bytes,
            written_bytes: self.written_bytes + next.written_bytes,
        }
    }
}

/// Whose memory was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeakOf {
    /// All processes together, with the files that they had in memory.
    Build,
    /// The largest process alone: more is not known without a cgroup.
    #[default]
    LargestProcess,
}
