//! The sandbox's helper and its PID 1. One thread, no tokio, nothing that outlives the sandbox.

use std::{
    convert::Infallible,
    ffi::CString,
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, process::parent_id},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    sys::{prctl, signal::Signal},
    unistd::{ForkResult, Pid},
};

use super::{
    descendants,
    error::{Report, StepFailure, Tasks, Verified},
    idmap::{self, Mapper},
    lockdown,
    mounts::{self, Stacked},
    pid1, resources, shutdown, sys,
};
use crate::plan::{Ids, Isolation, SandboxSpec};

/// The hidden first argument that makes our binary the helper.
pub(super) const HELPER: &str = "__sandbox-init";

/// Tells the payload the number of its event pipe.
pub(super) const EVENT_FD: &str = "SMIDR_EVENT_FD";

/// The helper's arguments: smidr's process id, to detect its end, and numbers of inherited descriptors: the spec as JSON; a pipe for
/// reports, one JSON line each; a pipe of signals to forward, one byte each, whose end means that smidr is gone; and, optionally, the
/// payload's event pipe.
pub(super) struct HelperArgs {
    /// Process id of smidr.
    pub parent: u32,
    /// Where the spec is read from.
    pub spec: i32,
    /// Where reports go.
    pub status: i32,
    /// Where signals come from.
    pub control: i32,
    /// Handed on to the payload.
    pub events: Option<i32>,
}

impl HelperArgs {
    /// As arguments of the helper.
    pub(super) fn to_args(&self) -> Vec<String> {
        let mut args = vec![HELPER.into(), self.parent.to_string()];
        args.extend([self.spec, self.status, self.control].map(|fd| fd.to_string()));
        args.extend(self.events.map(|fd| fd.to_string()));
        args
    }

    fn parse(args: &[String]) -> Option<Self> {
        let number = |at: usize| args.get(at)?.parse().ok();
        Some(Self {
            parent: args.first()?.parse().ok()?,
            spec: number(1)?,
            status: number(2)?,
            control: number(3)?,
            events: number(4),
        })
    }
}

/// Becomes the helper if this process was started as one. Must be the first thing that `main` does: before any thread.
pub fn helper_main() -> Option<ExitCode> {
    // For smidr itself too: with an inherited, ignored SIGCHLD no child could be waited for.
    sys::default_child_signal();
    let mut args = std::env::args_os().skip(1);
    if args.next()?.to_str() != Some(HELPER) {
        return None;
    }
    let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
    let done = HelperArgs::parse(&args)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
        .and_then(|args| helper(&args));
    Some(match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // Only without a status pipe, as when a user types this argument.
            let _ = writeln!(io::stderr(), "smidr: {HELPER} is internal: {error}");
            ExitCode::from(2)
        }
    })
}

struct Inherited {
    status: fs::File,
    control: OwnedFd,
    events: Option<OwnedFd>,
}

fn helper(args: &HelperArgs) -> io::Result<u8> {
    let mut text = String::new();
    fs::File::from(sys::inherited_fd(args.spec)?).read_to_string(&mut text)?;
    let inherited = Inherited {
        status: sys::inherited_fd(args.status)?.into(),
        control: sys::inherited_fd(args.control)?,
        events: args.events.map(sys::inherited_fd).transpose()?,
    };
    sys::cloexec_from(3)?;
    let spec: SandboxSpec = serde_json::from_str(&text)?;
    // For mount points that are made on the way, and for the payload: OpenEmbedded-Core wants this one (sanity.bbclass).
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let in_cgroup = resources::join(&spec.resources);
    let mut status = inherited.status.try_clone()?;
    let entered = isolate(&spec, Some(args.parent));
    match entered.and_then(|ranged| become_parent_of_init(&spec, (ranged, in_cgroup), inherited)) {
        Ok(code) => Ok(code),
        Err(failure) => {
            report(&mut status, &Report::Failed(failure));
            Ok(125)
        }
    }
}

/// Enters the namespaces. Says whether more than one id exists there.
fn isolate(spec: &SandboxSpec, parent: Option<u32>) -> Result<bool, StepFailure> {
    die_with_parent(parent, Signal::SIGKILL)?;
    if spec.isolation == Isolation::None {
        return Ok(false);
    }
    // A process that cannot be dumped has id maps that belong to root, which it then cannot write (proc_pid_uid_map(5)).
    prctl::set_dumpable(true).map_err(StepFailure::at("become dumpable"))?;
    let mut flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if spec.isolation == Isolation::Full {
        flags |= CloneFlags::CLONE_NEWPID;
    }
    if spec.own_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    let mapper = spec.ids.range.map(|range| Mapper::start(&spec.ids, range)).transpose()?;
    unshare(flags).map_err(StepFailure::at("enter new namespaces (unshare)"))?;
    if mapper.is_some_and(Mapper::map) {
        return Ok(true);
    }
    idmap::write_single(&spec.ids).map(|()| false)
}

fn die_with_parent(parent: Option<u32>, signal: Signal) -> Result<(), StepFailure> {
    prctl::set_pdeathsig(signal).map_err(StepFailure::at("ask to die with smidr"))?;
    // If the parent died before the call, no signal comes.
    match parent {
        Some(parent) if parent_id() != parent => Err(StepFailure::at("find its parent alive")(nix::Error::ESRCH)),
        _ => Ok(()),
    }
}

fn become_parent_of_init(
    spec: &SandboxSpec,
    found: (bool, Option<bool>),
    inherited: Inherited,
) -> Result<u8, StepFailure> {
    let alone = spec.isolation == Isolation::Full;
    if !alone {
        prctl::set_child_subreaper(true).map_err(StepFailure::at("adopt orphans"))?;
    }
    match sys::fork_single_threaded().map_err(StepFailure::at("fork"))? {
        ForkResult::Parent { child } => {
            drop(inherited);
            let code = wait_for(child);
            if !alone {
                // For what init could not end because it was killed.
                descendants::end();
            }
            Ok(code)
        }
        ForkResult::Child => {
            let Inherited { mut status, control, events } = inherited;
            let code = init(spec, found, &mut status, &control, events).unwrap_or_else(|failure| {
                report(&mut status, &Report::Failed(failure));
                125
            });
            std::process::exit(code)
        }
    }
}

/// The exit status of a child, or 128 and the number of the signal that ended it.
pub(super) fn wait_for(child: Pid) -> u8 {
    use nix::sys::wait::{WaitStatus, waitpid};
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return code as u8,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as u8,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return 125,
        }
    }
}

/// PID 1 of the new PID namespace; where there is none, the nearest ancestor that adopts every orphan. No exec may come before the
/// mounts: it would cost the capabilities (capabilities(7)).
fn init(
    spec: &SandboxSpec,
    (ranged, in_cgroup): (bool, Option<bool>),
    status: &mut fs::File,
    control: &OwnedFd,
    events: Option<OwnedFd>,
) -> Result<i32, StepFailure> {
    let signals = pid1::Signals::block().map_err(StepFailure::at("block signals"))?;
    let parent = parent_id();
    if spec.isolation == Isolation::Full {
        die_with_parent(None, Signal::SIGKILL)?;
    } else {
        // It must outlive its parent for long enough to end what the kernel would end with a PID namespace.
        die_with_parent(None, pid1::PARENT_GONE)?;
        prctl::set_child_subreaper(true).map_err(StepFailure::at("adopt orphans"))?;
    }
    let stacked = match spec.isolation {
        Isolation::None => Stacked::ByKernel,
        Isolation::Full | Isolation::SharedProcesses => enter(spec)?,
    };
    let sockets_scoped = spec.own_network || lockdown::scope_sockets()?;
    // The payload does so once more: then it cannot reach this process either.
    let signals_scoped = spec.isolation == Isolation::Full || lockdown::scope_signals()?;
    let tasks = if spec.probe_tasks { cut_tasks(spec)? } else { Tasks::Unasked };
    if let (true, Tasks::Open(failure)) = (spec.strict, &tasks) {
        return Err(failure.clone());
    }
    let processes_limited = resources::limit_processes(spec)?;
    let ready = Report::Ready(Verified {
        isolation: spec.isolation,
        ranged,
        tasks,
        no_overlay: match stacked {
            Stacked::ByKernel => None,
            Stacked::ByHand(failure) => Some(failure),
        },
        sockets_scoped,
        signals_scoped,
        in_cgroup,
        processes_limited,
    });
    if spec.payload.argv.is_empty() {
        report(status, &ready);
        report(status, &Report::Exited { status: 0, usage: resources::used() });
        return Ok(0);
    }
    let payload = match sys::fork_single_threaded().map_err(StepFailure::at("fork"))? {
        ForkResult::Child => {
            let failure = payload(spec, events.as_ref());
            report(status, &Report::Failed(failure));
            std::process::exit(125)
        }
        ForkResult::Parent { child } => child,
    };
    // From here on the payload, which has the same uid, must not be able to touch PID 1 (CVE-2019-5736).
    prctl::set_dumpable(false).map_err(StepFailure::at("become undumpable"))?;
    lockdown::disarm()?;
    report(status, &ready);
    let (code, patience) = pid1::run(payload, spec.payload.linger, parent, &signals, control);
    shutdown::end_servers(patience);
    descendants::end();
    report(status, &Report::Exited { status: code, usage: resources::used() });
    Ok(code)
}

fn enter(spec: &SandboxSpec) -> Result<Stacked, StepFailure> {
    let stacked = mounts::enter(mounts::open_sources(spec)?)?;
    nix::unistd::sethostname(&spec.hostname).map_err(StepFailure::at("set the host name"))?;
    if spec.own_network {
        sys::loopback_up().map_err(StepFailure::at("switch its loopback on"))?;
    }
    Ok(stacked)
}

/// Tries what BitBake does before each task without network access (bb.utils.disable_network).
fn cut_tasks(spec: &SandboxSpec) -> Result<Tasks, StepFailure> {
    let (mut reader, mut writer) = io::pipe().map_err(StepFailure::at("make a pipe"))?;
    match sys::fork_single_threaded().map_err(StepFailure::at("fork"))? {
        ForkResult::Parent { child } => {
            drop(writer);
            let mut report = Vec::new();
            let read = reader.read_to_end(&mut report);
            if wait_for(child) == 0 {
                return Ok(Tasks::Cut);
            }
            let failure = read.ok().and_then(|_| serde_json::from_slice(&report).ok());
            let lost = || StepFailure::at("find out whether tasks can be cut off")(nix::Error::ECHILD);
            Ok(Tasks::Open(failure.unwrap_or_else(lost)))
        }
        ForkResult::Child => {
            let Ids { uid, gid, .. } = spec.ids;
            let nested = Ids { outer_uid: uid, outer_gid: gid, uid, gid, range: None };
            let cut = listed(uid)
                .and_then(|()| lockdown::lock_down(spec))
                .and_then(|()| {
                    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
                    unshare(flags).map_err(StepFailure::at("enter nested namespaces (unshare)"))
                })
                .and_then(|()| idmap::write_single(&nested));
            if let Err(failure) = &cut {
                let _ = writer.write_all(&serde_json::to_vec(failure).unwrap_or_default());
            }
            std::process::exit(i32::from(cut.is_err()))
        }
    }
}

/// BitBake disables the network only for users listed in this file (bb.utils.is_local_uid).
fn listed(uid: u32) -> Result<(), StepFailure> {
    let users = fs::read_to_string("/etc/passwd").map_err(StepFailure::at("read /etc/passwd"))?;
    let known = users.lines().any(|line| line.split(':').nth(2).is_some_and(|id| id.parse() == Ok(uid)));
    if known { Ok(()) } else { Err(StepFailure::at("find its uid in /etc/passwd")(nix::Error::ENOENT)) }
}

/// Executes the program; returns only on failure.
fn payload(spec: &SandboxSpec, events: Option<&OwnedFd>) -> StepFailure {
    match prepare_payload(spec, events).and_then(|()| exec(spec, events)) {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

fn prepare_payload(spec: &SandboxSpec, events: Option<&OwnedFd>) -> Result<(), StepFailure> {
    // A session of its own: no terminal of the caller's to push characters into (CVE-2017-5226, CVE-2023-28100).
    nix::unistd::setsid().map_err(StepFailure::at("begin a session"))?;
    if spec.payload.terminal {
        rustix::process::ioctl_tiocsctty(io::stdin().as_fd()).map_err(StepFailure::at("take its terminal"))?;
    }
    sys::default_signals();
    pid1::Signals::unblock().map_err(StepFailure::at("unblock signals"))?;
    if let Some(events) = events {
        rustix::io::fcntl_setfd(events, rustix::io::FdFlags::empty())
            .map_err(StepFailure::at("hand over the event pipe"))?;
    }
    limit_processors(spec.payload.cpus)?;
    if spec.isolation != Isolation::Full {
        lockdown::scope_signals()?;
    }
    let cwd = &spec.payload.cwd;
    nix::unistd::chdir(cwd).map_err(StepFailure::at(format!("enter {}", cwd.display())))?;
    lockdown::lock_down(spec)
}

fn limit_processors(wanted: Option<u32>) -> Result<(), StepFailure> {
    let Some(wanted) = wanted else { return Ok(()) };
    let failed = || StepFailure::at("limit its processors");
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).map_err(failed())?;
    let mut chosen = CpuSet::new();
    let usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    for cpu in usable.take(wanted as usize) {
        chosen.set(cpu).map_err(failed())?;
    }
    sched_setaffinity(Pid::from_raw(0), &chosen).map_err(failed())
}

fn exec(spec: &SandboxSpec, events: Option<&OwnedFd>) -> Result<Infallible, StepFailure> {
    let payload = &spec.payload;
    let program = payload.argv.first().map(String::as_str).unwrap_or_default();
    let failed = |errno: nix::Error| StepFailure { step: program.into(), errno: errno as i32, payload: true };
    let c_string = |text: &str| CString::new(text).map_err(|_| failed(nix::Error::EINVAL));
    let argv = payload.argv.iter().map(|arg| c_string(arg)).collect::<Result<Vec<_>, _>>()?;
    let mut env =
        payload.env.iter().map(|(name, value)| c_string(&format!("{name}={value}"))).collect::<Result<Vec<_>, _>>()?;
    if let Some(events) = events {
        env.push(c_string(&format!("{EVENT_FD}={}", events.as_raw_fd()))?);
    }
    let mut last = nix::Error::ENOENT;
    for candidate in candidates(program, &payload.env) {
        let path = CString::new(candidate.as_os_str().as_bytes()).map_err(|_| failed(nix::Error::EINVAL))?;
        let Err(errno) = nix::unistd::execve(&path, &argv, &env);
        if errno != nix::Error::ENOENT && errno != nix::Error::ENOTDIR {
            last = errno;
        }
    }
    Err(failed(last))
}

fn candidates(program: &str, env: &[(String, String)]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![program.into()];
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map_or("/usr/bin:/bin", |(_, value)| value.as_str());
    path.split(':').filter(|folder| !folder.is_empty()).map(|folder| Path::new(folder).join(program)).collect()
}

fn report(status: &mut fs::File, report: &Report) {
    // If this fails, smidr sees the end of the pipe.
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = status.write_all(&line);
    }
}
