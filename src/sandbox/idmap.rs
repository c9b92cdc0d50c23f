//! The ids of a user namespace: the caller's own, without any helper, or with newuidmap(1) a range of further ones.

use std::{
    fs,
    io::{self, PipeWriter, Read as _, Write as _},
    os::unix::process::parent_id,
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::{ForkResult, Pid},
};

use super::{error::StepFailure, init::wait_for, sys};
use crate::{
    model::SubordinateIds,
    plan::{Ids, id_map},
};

/// Where setuid helpers are looked for, whatever the caller's PATH.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Maps one uid and one gid, which needs no privilege when they are one's own (user_namespaces(7)).
pub(super) fn write_single(ids: &Ids) -> Result<(), StepFailure> {
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("{} {} 1", ids.gid, ids.outer_gid)),
        ("uid_map", format!("{} {} 1", ids.uid, ids.outer_uid)),
    ];
    for (name, content) in maps {
        let path = Path::new("/proc/self").join(name);
        fs::write(&path, content)
            .map_err(StepFailure::at(format!("write {} of its user namespace", path.display())))?;
    }
    Ok(())
}

/// A process that stays outside of the new user namespace and runs newuidmap and newgidmap, which work from outside only.
pub(super) struct Mapper {
    process: Pid,
    go: PipeWriter,
}

impl Mapper {
    /// Starts it. This process is the one whose namespace will be mapped.
    pub(super) fn start(ids: &Ids, range: SubordinateIds) -> Result<Self, StepFailure> {
        let failed = || StepFailure::at("prepare the mapping of further ids");
        let (mut wait, go) = io::pipe().map_err(failed())?;
        match sys::fork_single_threaded().map_err(failed())? {
            ForkResult::Parent { child } => Ok(Self { process: child, go }),
            ForkResult::Child => {
                drop(go);
                let _ = prctl::set_pdeathsig(Signal::SIGKILL);
                let asked = matches!(wait.read(&mut [0]), Ok(1));
                // Groups first: where that is refused, no map is there yet, and the single one can be written.
                let done = asked
                    && run("newgidmap", &id_map(ids.gid, ids.outer_gid, range.gids))
                    && run("newuidmap", &id_map(ids.uid, ids.outer_uid, range.uids));
                std::process::exit(i32::from(!done))
            }
        }
    }

    /// Has the maps written, now that this process is in its namespace. Says whether they are.
    pub(super) fn map(mut self) -> bool {
        self.go.write_all(&[1]).is_ok() && wait_for(self.process) == 0
    }
}

fn run(program: &str, map: &[[u32; 3]]) -> bool {
    let mut command = Command::new(program);
    command.env("PATH", PATH).arg(parent_id().to_string()).args(map.iter().flatten().map(u32::to_string));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
