//! What the payload gives up before it starts: capabilities, privileges by exec, and system calls.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{Ruleset, RulesetAttr as _, RulesetStatus, Scope};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::kill,
    },
    unistd::Pid,
};
use rustix::{
    io::Errno,
    thread::{CapabilitySet, remove_capability_from_bounding_set},
};

use super::{denied, emulation, error::StepFailure, sys};
use crate::plan::{Isolation, SandboxSpec};

/// Open files of a program, unless it asks for more.
const USUAL_FILES: u64 = 1024;

/// What a package manager under root emulation needs to write into folders of mode 0555 and to change modes.
const EMULATED_ROOT: [Capability; 3] =
    [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH, Capability::CAP_FOWNER];

/// What PID 1 gives up. It never executes anything, so only the capabilities that it holds matter.
pub(super) fn disarm() -> Result<(), StepFailure> {
    set_held(&CapsHashSet::new()).map_err(StepFailure::at("drop capabilities"))?;
    nix::sys::prctl::set_no_new_privs().map_err(StepFailure::at("set no_new_privs"))
}

/// Cuts this process and its children off from abstract sockets of others (X11, D-Bus), which network namespaces keep apart and
/// mount namespaces do not (CVE-2020-15257). Says whether the kernel can (landlock(7), Linux 6.12).
pub(super) fn scope_sockets() -> Result<bool, StepFailure> {
    let step = "keep abstract sockets out of reach (Landlock)";
    let name = format!("smidr-{:x}", RandomState::new().hash_one(std::process::id()));
    let address = SocketAddr::from_abstract_name(name).map_err(StepFailure::at(step))?;
    // A socket made before the restriction counts as outside.
    let _outside = UnixListener::bind_addr(&address).map_err(StepFailure::at(step))?;
    let scoped = scope(Scope::AbstractUnixSocket, step)?;
    let reached = UnixStream::connect_addr(&address);
    let refused = reached.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    // The connection may be refused for another reason too.
    if refused || !scoped { Ok(scoped) } else { Err(unproved(step)) }
}

/// Keeps this process and its children from sending signals to others of the same user, as a PID namespace would. Says whether the
/// kernel can (landlock(7), Linux 6.12); where it can, tracing others is refused as well.
pub(super) fn scope_signals() -> Result<bool, StepFailure> {
    let step = "keep other processes out of reach of its signals (Landlock)";
    let scoped = scope(Scope::Signal, step)?;
    let refused = kill(Pid::parent(), None) == Err(nix::Error::EPERM);
    // A parent of another user is out of reach anyway.
    if refused || !scoped { Ok(scoped) } else { Err(unproved(step)) }
}

// The kernel accepted the restriction, but it does not hold.
fn unproved(step: &str) -> StepFailure {
    StepFailure::at(format!("{step}: it has no effect"))(nix::Error::EPERM)
}

fn scope(scope: Scope, step: &str) -> Result<bool, StepFailure> {
    let failed = |error: landlock::RulesetError| {
        let errno = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        StepFailure::at(step)(io::Error::from_raw_os_error(
            errno.and_then(io::Error::raw_os_error).unwrap_or(libc::EIO),
        ))
    };
    let ruleset = Ruleset::default().scope(scope).map_err(failed)?.create().map_err(failed)?;
    let status = ruleset.restrict_self().map_err(failed)?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

/// Drops all privileges and verifies that they are gone.
pub(super) fn lock_down(spec: &SandboxSpec) -> Result<(), StepFailure> {
    // A core dump of a compiler in a loop fills a disk.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(StepFailure::at("limit core dumps"))?;
    // Many programs close every number that could be open (Python, pseudo), which takes its time when there are millions.
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(StepFailure::at("ask for the limit of open files"))?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(USUAL_FILES), hard).map_err(StepFailure::at("limit open files"))?;
    let keep: CapsHashSet = if spec.root_emulation { EMULATED_ROOT.into_iter().collect() } else { CapsHashSet::new() };
    // Outside of a user namespace an ordinary user may not shrink the bounding set; with no_new_privs nothing comes out of it.
    let bounding = spec.isolation != Isolation::None;
    drop_capabilities(&keep, bounding).map_err(StepFailure::at("drop capabilities"))?;
    nix::sys::prctl::set_no_new_privs().map_err(StepFailure::at("set no_new_privs"))?;
    let shared = spec.isolation != Isolation::Full;
    sys::install_seccomp(&denied::denied(spec.hide_openat2, shared))
        .map_err(StepFailure::at("forbid system calls that no build needs (seccomp)"))?;
    if spec.root_emulation {
        sys::install_seccomp(&emulation::root_emulation())
            .map_err(StepFailure::at("install the root emulation (seccomp)"))?;
    }
    is_locked().map_err(StepFailure::at("make sure that it is locked down"))
}

/// Verifies that privileges are gone and that our filter answers; that some filter is installed proves nothing in a container.
fn is_locked() -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let has = |line: &str| status.lines().any(|known| known == line);
    let locked = has("NoNewPrivs:\t1") && has("Seccomp:\t2") && sys::refuses_characters();
    if locked { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn drop_capabilities(keep: &CapsHashSet, bounding: bool) -> io::Result<()> {
    // By number, to include capabilities newer than this smidr.
    let numbers = if bounding { 0..64 } else { 0..0 };
    for bit in numbers.map(|number| 1 << number).filter(|bit| mask(keep) & bit == 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            // The first number that this kernel does not support.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    set_held(keep)?;
    if holds_at_most(keep, bounding)? { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn set_held(keep: &CapsHashSet) -> io::Result<()> {
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed)?;
    caps::set(None, CapSet::Effective, keep).map_err(failed)?;
    caps::set(None, CapSet::Permitted, keep).map_err(failed)
}

/// Verifies that no set holds more than `keep`, capabilities newer than this smidr included.
fn holds_at_most(keep: &CapsHashSet, bounding: bool) -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let masks = status.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t"));
    let counted = masks.filter(|(set, _)| bounding || *set != "Bnd");
    let held = counted.filter_map(|(_, mask)| u64::from_str_radix(mask.trim(), 16).ok()).collect::<Vec<_>>();
    Ok(held.len() == 4 + usize::from(bounding) && held.iter().all(|held| held & !mask(keep) == 0))
}

fn mask(capabilities: &CapsHashSet) -> u64 {
    capabilities.iter().fold(0, |mask, capability| mask | capability.bitmask())
}

fn failed(error: caps::errors::CapsError) -> io::Error {
    io::Error::other(error.to_string())
}
