//! Ends what the payload leaves behind: kills everything but pseudo's servers, which may first write their databases.
//!
//! Such a server keeps owners, modes and devices of a build's files in memory (its memory-db), and writes them to disk when it ends or
//! has been idle for a while. If it is killed before, the next task has lost the owners of files that a task made as root. There is no
//! time for this when smidr itself is killed.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::descendants;

/// Time for writing; a database of a hundred thousand files takes less than a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Time when everything has to be gone within a second.
pub(super) const IMPATIENCE: Duration = Duration::from_millis(800);

/// Ends every process below this one, if there are servers among them. What is left after all must be killed by the caller, or with it.
pub(super) fn end_servers(patience: Duration) {
    let until = Instant::now() + patience;
    let mut asked = BTreeSet::new();
    loop {
        let (servers, others): (Vec<Pid>, Vec<Pid>) =
            descendants::all().into_iter().map(Pid::from_raw).partition(|pid| is_pseudo(*pid));
        if servers.is_empty() || Instant::now() >= until {
            return;
        }
        // First the clients, which would start a new server. They may have ended by themselves.
        for other in others {
            let _ = kill(other, Signal::SIGKILL);
        }
        for server in servers {
            if asked.insert(server) {
                let _ = kill(server, Signal::SIGTERM);
            }
        }
        while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
        thread::sleep(Duration::from_millis(2));
    }
}

/// By its name; another program with that name gains a few seconds.
fn is_pseudo(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "pseudo\n")
}
