//! The end of what the payload leaves behind: everything is killed but pseudo's servers, which first write down what they know.
//!
//! Such a server keeps owners, modes and devices of a build's files in memory (its memory-db), and writes them to disk when it ends, or when
//! it has had nothing to do for a while. Killed before that, files that a task made as root belong to nobody in particular for the next one.
//! Who kills smidr itself leaves no time for it.

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

/// For writing; a database of a hundred thousand files takes less than a second.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Where everything has to be gone within the second.
pub const IMPATIENCE: Duration = Duration::from_millis(800);

/// Ends every process below this one, if there are servers among them. What is left after all must be killed by the caller, or with it.
pub fn part(patience: Duration) {
    let until = Instant::now() + patience;
    let mut asked = BTreeSet::new();
    loop {
        let (servers, others): (Vec<Pid>, Vec<Pid>) =
            descendants::all().into_iter().map(Pid::from_raw).partition(|pid| is_pseudo(*pid));
        if servers.is_empty() || Instant::now() >= until {
            return;
        }
        // First those that would start a server anew when theirs is gone. They may have ended by themselves.
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

/// A program that only calls itself that gains a few seconds.
fn is_pseudo(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "pseudo\n")
}
