//! The parent's side: starts the helper, reads its reports, sends it signals.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{self, Child, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};

use super::{
    descendants,
    error::{Report, SandboxError, Tasks, Verified},
    init::HelperArgs,
    mounts::OWN_PROC,
    pid1::{END, KILL},
};
use crate::{
    model::Usage,
    plan::{Isolation, Resources, SandboxSpec, Through},
    system::process::Spawner,
};

/// Where the payload's streams go.
pub struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// The write end of the payload's event pipe.
    pub events: Option<OwnedFd>,
}

impl Stdio {
    /// Nothing to read, and what is written goes to `output`, errors too.
    ///
    /// # Errors
    ///
    /// When no more files can be opened.
    pub fn to(output: OwnedFd) -> io::Result<Self> {
        Ok(Self { stdin: File::open("/dev/null")?.into(), stderr: output.try_clone()?, stdout: output, events: None })
    }

    /// Nothing to read, and what is written is lost.
    ///
    /// # Errors
    ///
    /// When no more files can be opened.
    pub fn null() -> io::Result<Self> {
        Self::to(File::options().write(true).open("/dev/null")?.into())
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            stdin: self.stdin.try_clone()?,
            stdout: self.stdout.try_clone()?,
            stderr: self.stderr.try_clone()?,
            events: self.events.as_ref().map(OwnedFd::try_clone).transpose()?,
        })
    }
}

/// A running sandbox. Dropping it kills everything in it.
pub struct Sandbox {
    child: Child,
    reports: BufReader<PipeReader>,
    control: Control,
    verified: Verified,
    lacks: Option<SandboxError>,
}

/// Sends signals to a sandbox. When the last one is gone, the sandbox is killed.
#[derive(Clone)]
pub struct Control(Arc<ControlInner>);

struct ControlInner {
    pipe: PipeWriter,
    helper: OwnedFd,
    helper_pid: i32,
    killing: AtomicBool,
}

/// How long PID 1 may take to end everything, pseudo's servers included, before it is killed. Only a stopped one (SIGSTOP) takes
/// that long.
const OF_INIT: Duration = Duration::from_secs(4);

/// How long its parent may take then: without a PID namespace, it kills what is left.
const OF_HELPER: Duration = Duration::from_secs(3);

/// The sum of these.
pub const LONGEST_END: Duration = OF_INIT.saturating_add(OF_HELPER);

/// How the payload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status, or 128 and the number of the signal that ended it.
    pub status: i32,
    /// What it used, with everything that it started.
    pub usage: Usage,
}

/// Starts a sandbox and waits until everything is mounted and the payload is about to run. Where [`Isolation::Full`] is asked for
/// and only a new /proc cannot be mounted, the sandbox shares this machine's processes, which [`Sandbox::verified`] shows.
///
/// # Errors
///
/// The first step that failed, in words, with what to do about it.
pub fn launch(spec: &SandboxSpec, stdio: Stdio, spawner: &Spawner) -> Result<Sandbox, SandboxError> {
    let again = stdio.try_clone().map_err(|source| SandboxError::Prepare { what: "its streams", source })?;
    match start(spec, stdio, spawner) {
        Err(error) if error.is_at(OWN_PROC, libc::EPERM) && !spec.strict => {
            let spec = SandboxSpec { isolation: Isolation::SharedProcesses, ..spec.clone() };
            let mut sandbox = start(&spec, again, spawner)?;
            sandbox.lacks = Some(error);
            Ok(sandbox)
        }
        started => started,
    }
}

fn start(spec: &SandboxSpec, stdio: Stdio, spawner: &Spawner) -> Result<Sandbox, SandboxError> {
    let prepare = |what| move |source| SandboxError::Prepare { what, source };
    let spec_fd = spec_file(spec).map_err(prepare("the description of the sandbox"))?;
    let (reports, status) = io::pipe().map_err(prepare("a pipe"))?;
    let (control_read, control) = io::pipe().map_err(prepare("a pipe"))?;
    let args = HelperArgs {
        parent: process::id(),
        spec: spec_fd.as_raw_fd(),
        status: status.as_raw_fd(),
        control: control_read.as_raw_fd(),
        events: stdio.events.as_ref().map(std::os::fd::AsRawFd::as_raw_fd),
    };
    let mut inherit: Vec<OwnedFd> = vec![spec_fd, status.into(), control_read.into()];
    inherit.extend(stdio.events);
    let mut command = helper_command(&spec.resources, spawner);
    // A group of its own: Ctrl-C in the terminal is for smidr alone, which passes on what it decides.
    command.args(args.to_args()).process_group(0);
    command.stdin(stdio.stdin).stdout(stdio.stdout).stderr(stdio.stderr);
    let path = command.get_program().display().to_string();
    let child = spawner.spawn(command, inherit).map_err(|source| SandboxError::Spawn { path, source })?;
    let helper_pid = child.id().cast_signed();
    let opened = Pid::from_raw(helper_pid).ok_or(Errno::SRCH);
    let helper = opened.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let helper = helper.map_err(|errno| prepare("a handle of its helper")(errno.into()))?;
    let control =
        Control(Arc::new(ControlInner { pipe: control, helper, helper_pid, killing: AtomicBool::new(false) }));
    let verified = Verified {
        isolation: spec.isolation,
        ranged: false,
        tasks: Tasks::Unasked,
        no_overlay: None,
        sockets_scoped: false,
        signals_scoped: false,
        in_cgroup: None,
        processes_limited: None,
    };
    let mut sandbox = Sandbox { child, reports: BufReader::new(reports), control, verified, lacks: None };
    match sandbox.next_report()? {
        Report::Ready(verified) => {
            sandbox.verified = verified;
            Ok(sandbox)
        }
        Report::Failed(failure) => Err(failure.into()),
        Report::Exited { status, .. } => Err(SandboxError::Silent(format!("exit status {status}"))),
    }
}

impl Sandbox {
    /// A handle for signals, which other threads may hold.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What was found out on the way in.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// Why it is not the one that was asked for, if it is not.
    pub fn lacks(&self) -> Option<&SandboxError> {
        self.lacks.as_ref()
    }

    /// Waits for the payload, and for everything else in the sandbox, to end.
    ///
    /// # Errors
    ///
    /// When the program could not be executed at all.
    pub fn wait(mut self) -> Result<Exit, SandboxError> {
        let exit = match self.next_report()? {
            Report::Exited { status, usage } => Ok(Exit { status, usage }),
            Report::Failed(failure) => Err(failure.into()),
            Report::Ready(_) => Err(SandboxError::Silent("two beginnings".into())),
        };
        let _ = self.child.wait();
        exit
    }

    // The payload reports its failure to exec on the same pipe, possibly before init reports that it is ready.
    fn next_report(&mut self) -> Result<Report, SandboxError> {
        let mut line = String::new();
        let read = self.reports.read_line(&mut line);
        match (read, serde_json::from_str(&line)) {
            (Ok(1..), Ok(report)) => Ok(report),
            _ => Err(match self.child.wait() {
                Err(error) => SandboxError::Silent(error.to_string()),
                Ok(status) => unexpected(status, self.control.0.killing.load(Ordering::SeqCst)),
            }),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.control.kill();
            let _ = self.child.wait();
        }
    }
}

impl Control {
    /// Passes a signal on to the payload's process group.
    pub fn signal(&self, signal: Signal) {
        self.send(signal as u8);
    }

    /// As Ctrl-C in a terminal does.
    pub fn interrupt(&self) {
        self.signal(Signal::SIGINT);
    }

    /// Ends the sandbox with everything in it within the second.
    pub fn kill(&self) {
        self.order(KILL);
    }

    /// Ends the sandbox with everything in it. pseudo's servers get some seconds to write their databases; everything is gone after
    /// [`LONGEST_END`] at the latest.
    pub fn end(&self) {
        self.order(END);
    }

    fn order(&self, byte: u8) {
        self.send(byte);
        if !self.0.killing.swap(true, Ordering::SeqCst) {
            let control = Arc::clone(&self.0);
            thread::spawn(move || {
                thread::sleep(OF_INIT);
                // Usually already gone. SIGKILL ends a stopped PID 1 too, and its parent ends what that has left.
                descendants::kill_children(control.helper_pid);
                thread::sleep(OF_HELPER);
                let _ = pidfd_send_signal(&control.helper, rustix::process::Signal::KILL);
            });
        }
    }

    // A pipe without a reader means that the sandbox has ended.
    fn send(&self, byte: u8) {
        let _ = (&self.0.pipe).write_all(&[byte]);
    }
}

/// An end without a report, perhaps by our own signal. A helper's exit status from 128 on means that a signal ended PID 1.
fn unexpected(status: ExitStatus, by_us: bool) -> SandboxError {
    let (how, by_signal) = match (status.signal(), status.code().unwrap_or_default()) {
        (Some(signal), _) => (format!("signal {signal}"), true),
        (None, code) => (format!("exit status {code}"), code > 128),
    };
    if by_signal && !by_us { SandboxError::Killed(how) } else { SandboxError::Silent(how) }
}

/// The helper without its arguments, in an empty environment.
fn helper_command(resources: &Resources, spawner: &Spawner) -> process::Command {
    let own = spawner.own_command();
    let Some((Through { env, .. }, (program, arguments))) =
        resources.through.as_ref().and_then(|through| Some((through, through.argv.split_first()?)))
    else {
        let mut own = own;
        own.env_clear();
        return own;
    };
    let mut command = process::Command::new(program);
    command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    command.args(arguments).arg(own.get_program());
    command
}

fn spec_file(spec: &SandboxSpec) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("smidr-sandbox", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(spec)?)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}
