//! PID 1 while the payload runs: reaps everything, forwards signals, and ends in time. Works without a PID namespace too.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::parent_id,
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, read},
};

use super::{
    descendants,
    shutdown::{IMPATIENCE, PATIENCE},
};

/// How long a daemon of the payload may take to end after the payload: BitBake's server writes its caches then.
const LINGER: Duration = Duration::from_secs(10);

/// On the control pipe: end at once.
pub(super) const KILL: u8 = 0;

/// On the control pipe: end, and let pseudo's servers write their databases.
pub(super) const END: u8 = u8::MAX;

/// The signal for the death of its parent, where PID 1 must clean up before it ends.
pub(super) const PARENT_GONE: Signal = Signal::SIGUSR2;

/// The signals of PID 1, blocked so that they wait to be read: PID 1 ignores what it does not handle (pid_namespaces(7)).
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks all signals.
    pub(super) fn block() -> io::Result<Self> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
        Ok(Self(SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// For the payload: nothing is blocked, whatever smidr itself was started with.
    pub(super) fn unblock() -> io::Result<()> {
        Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
    }
}

/// Runs until the payload, and for a short while what it leaves behind, has ended. Returns the payload's exit status, and how long
/// shutdown may take. The caller must end what is left: by its own end as PID 1, or with [`descendants::end`].
///
/// The end of `parent` ends everything.
pub(super) fn run(payload: Pid, linger: bool, parent: u32, signals: &Signals, control: &OwnedFd) -> (i32, Duration) {
    let mut ended: Option<(i32, Instant)> = None;
    loop {
        let (status, left) = reap(payload);
        if let (Some(status), None) = (status, ended) {
            ended = Some((status, Instant::now() + LINGER));
        }
        if let Some((status, until)) = ended
            && (!linger || !left || Instant::now() >= until || !server_left())
        {
            return (status, PATIENCE);
        }
        if !left && ended.is_none() {
            // Cannot be, unless the kernel lost the payload.
            return (125, PATIENCE);
        }
        match wait(parent, signals, control, ended.is_some()) {
            Wake::Again => {}
            Wake::Forward(signal) => {
                // The payload leads its own process group. It may be gone already.
                let _ = killpg(payload, signal).or_else(|_| kill(payload, signal));
            }
            Wake::End(patience) => {
                return (ended.map_or(128 + Signal::SIGKILL as i32, |(status, _)| status), patience);
            }
        }
    }
}

enum Wake {
    Again,
    Forward(Signal),
    End(Duration),
}

fn wait(parent: u32, signals: &Signals, control: &OwnedFd, lingering: bool) -> Wake {
    let mut fds = [PollFd::new(signals.0.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    let timeout = if lingering { PollTimeout::from(20u8) } else { PollTimeout::NONE };
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(_) => return Wake::End(IMPATIENCE),
    }
    while let Ok(Some(signal)) = signals.0.read_signal() {
        // Other processes can send this signal too, so the parent is checked. In a PID namespace it stays the same.
        if signal.ssi_signo == PARENT_GONE as u32 && parent_id() != parent {
            return Wake::End(IMPATIENCE);
        }
    }
    if fds[1].any().unwrap_or(true) {
        let mut byte = [KILL];
        return match read(control, &mut byte) {
            Ok(1) if byte[0] == END => Wake::End(PATIENCE),
            Ok(1) => Signal::try_from(i32::from(byte[0])).map_or(Wake::End(IMPATIENCE), Wake::Forward),
            Err(Errno::EINTR | Errno::EAGAIN) => Wake::Again,
            // The end of the pipe: smidr is gone.
            _ => Wake::End(IMPATIENCE),
        };
    }
    Wake::Again
}

/// Reaps what has ended. Says how the payload ended, if it was among them, and whether any process is left.
fn reap(payload: Pid) -> (Option<i32>, bool) {
    let mut status = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == payload => status = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == payload => status = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => return (status, true),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return (status, false),
        }
    }
}

/// Whether BitBake's server still runs. It daemonises, and writes its caches after its user interface has gone.
fn server_left() -> bool {
    descendants::all().into_iter().any(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(14).any(|window| window == b"bitbake-server"))
    })
}
