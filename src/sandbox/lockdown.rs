//! What the payload gives up before it starts: capabilities, privileges by exec, and, in recipes, some system calls.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, setrlimit};
use rustix::{
    io::Errno,
    thread::{CapabilitySet, remove_capability_from_bounding_set},
};

use super::{error::StepFailure, seccomp, sys};
use crate::plan::SandboxSpec;

/// What a package manager that believes to be root needs to write into folders of mode 0555 and to change modes.
const EMULATED_ROOT: [Capability; 3] =
    [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH, Capability::CAP_FOWNER];

/// What PID 1 gives up: it never executes anything, so that what it holds is all that counts.
pub fn disarm() -> Result<(), StepFailure> {
    set_held(&CapsHashSet::new()).map_err(StepFailure::at("drop capabilities"))?;
    nix::sys::prctl::set_no_new_privs().map_err(StepFailure::at("set no_new_privs"))
}

/// Gives everything up, and makes sure that it is gone.
pub fn lock_down(spec: &SandboxSpec) -> Result<(), StepFailure> {
    // A core dump of a compiler in a loop fills a disk.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(StepFailure::at("limit core dumps"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let keep: CapsHashSet = if spec.root_emulation { EMULATED_ROOT.into_iter().collect() } else { CapsHashSet::new() };
    drop_capabilities(&keep).map_err(StepFailure::at("drop capabilities"))?;
    nix::sys::prctl::set_no_new_privs().map_err(StepFailure::at("set no_new_privs"))?;
    if spec.root_emulation {
        sys::install_seccomp(&seccomp::root_emulation())
            .map_err(StepFailure::at("install the root emulation (seccomp)"))?;
    }
    Ok(())
}

fn drop_capabilities(keep: &CapsHashSet) -> io::Result<()> {
    // By number, so that capabilities go that this smidr has no name for yet.
    for bit in (0..64).map(|number| 1 << number).filter(|bit| mask(keep) & bit == 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    set_held(keep)?;
    if holds_at_most(keep)? { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn set_held(keep: &CapsHashSet) -> io::Result<()> {
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed)?;
    caps::set(None, CapSet::Effective, keep).map_err(failed)?;
    caps::set(None, CapSet::Permitted, keep).map_err(failed)
}

/// Whether the kernel agrees: no set holds more than `keep`, newer capabilities than we know included.
fn holds_at_most(keep: &CapsHashSet) -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let masks = status.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t"));
    let held = masks.filter_map(|(_, mask)| u64::from_str_radix(mask.trim(), 16).ok()).collect::<Vec<_>>();
    Ok(held.len() == 5 && held.iter().all(|held| held & !mask(keep) == 0))
}

fn mask(capabilities: &CapsHashSet) -> u64 {
    capabilities.iter().fold(0, |mask, capability| mask | capability.bitmask())
}

fn failed(error: caps::errors::CapsError) -> io::Error {
    io::Error::other(error.to_string())
}
