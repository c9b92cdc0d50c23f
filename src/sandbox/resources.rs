//! The sandbox's part in limits and accounting: joins a cgroup, limits processes without one, reports what was used.

use std::fs;

use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, pause},
};

use super::{error::StepFailure, sys};
use crate::{
    model::{PeakOf, Usage},
    plan::{Isolation, Resources, SandboxSpec},
    system::kernel,
};

/// Puts the helper into its cgroup, before anything is unshared: the cgroup namespace then begins there. Whether that works is
/// reported, since a build without limits is better than none.
pub(super) fn join(resources: &Resources) -> Option<bool> {
    // 0 means the writer (cgroups(7)).
    resources.cgroup.as_ref().map(|cgroup| fs::write(cgroup.join("cgroup.procs"), "0").is_ok())
}

/// Limits the processes of PID 1 and of everything that it will start, if the kernel counts them for this user namespace alone. Says
/// whether it does, where that was asked for.
pub(super) fn limit_processes(spec: &SandboxSpec) -> Result<Option<bool>, StepFailure> {
    let Some(most) = spec.resources.processes else {
        spec.resources.precaution.filter(|_| spec.isolation != Isolation::None).into_iter().for_each(take_precaution);
        return Ok(None);
    };
    let counted = counted_here()?;
    if counted {
        let most = u64::from(most);
        let failed = || StepFailure::at("limit its processes");
        setrlimit(Resource::RLIMIT_NPROC, most, most).map_err(failed())?;
        if getrlimit(Resource::RLIMIT_NPROC).map_err(failed())? != (most, most) {
            return Err(failed()(Errno::EPERM));
        }
    }
    Ok(Some(counted))
}

/// By the kernel's version: trying takes three processes, too slow for a sandbox that starts in milliseconds.
fn take_precaution(most: u32) {
    let most = u64::from(most);
    if kernel::version(&kernel::release()).is_some_and(|version| version >= COUNTS_BY_NAMESPACE)
        && let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NPROC)
    {
        // Fewer stay fewer. Lowering a limit cannot fail.
        let _ = setrlimit(Resource::RLIMIT_NPROC, soft.min(most), hard.min(most));
    }
}

/// From this version of Linux on RLIMIT_NPROC counts each user namespace by itself.
const COUNTS_BY_NAMESPACE: (u32, u32) = (5, 14);

/// Whether RLIMIT_NPROC means this sandbox. Before Linux 5.14 it counts whatever the caller runs on this machine, and it never
/// binds the machine's root, whatever that is called inside (getrlimit(2)). Helper, PID 1 and the one that tries are three.
fn counted_here() -> Result<bool, StepFailure> {
    let failed = StepFailure::at("find out how processes are counted");
    match sys::fork_single_threaded().map_err(failed)? {
        ForkResult::Parent { child } => Ok(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0)))),
        ForkResult::Child => std::process::exit(i32::from(!one_more_and_no_second())),
    }
}

fn one_more_and_no_second() -> bool {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NPROC) else { return false };
    if setrlimit(Resource::RLIMIT_NPROC, 4, hard).is_err() {
        return false;
    }
    let (first, second) = (idle_child(), idle_child());
    let verdict = first.is_ok() && second == Err(Some(Errno::EAGAIN as i32));
    for child in [first, second].into_iter().flatten() {
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, None);
    }
    verdict
}

/// A child that waits to be killed, or the errno of why there is none.
fn idle_child() -> Result<Pid, Option<i32>> {
    match sys::fork_single_threaded().map_err(|error| error.raw_os_error())? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => loop {
            pause();
        },
    }
}

/// What everything together has used. Only what was waited for counts (getrusage(2)), so everything must have ended. Memory is that of
/// the largest process; blocks are of 512 bytes.
pub(super) fn used() -> Usage {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Usage::default() };
    let milliseconds = |time: nix::sys::time::TimeVal| time.tv_sec() * 1000 + time.tv_usec() / 1000;
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    Usage {
        cpu_ms: positive(milliseconds(usage.user_time()) + milliseconds(usage.system_time())),
        peak_memory: positive(usage.max_rss()) * 1024,
        peak_of: PeakOf::LargestProcess,
        read_bytes: positive(usage.block_reads()) * 512,
        written_bytes: positive(usage.block_writes()) * 512,
    }
}
