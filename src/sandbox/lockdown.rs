//! What the payload gives up before it starts: capabilities, privileges by exec, and, in recipes, some system calls.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, setrlimit};

use super::{error::StepFailure, seccomp, sys};
use crate::plan::SandboxSpec;

/// What a package manager that believes to be root needs to write into folders of mode 0555 and to change modes.
const EMULATED_ROOT: [Capability; 3] =
    [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH, Capability::CAP_FOWNER];

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
    let failed = |error: caps::errors::CapsError| io::Error::other(error.to_string());
    // The bounding set of an unknown, newer capability cannot be read, and need not be: exec without it is what counts.
    for capability in caps::all() {
        if !keep.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability).map_err(failed)?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed)?;
    caps::set(None, CapSet::Effective, keep).map_err(failed)?;
    caps::set(None, CapSet::Permitted, keep).map_err(failed)?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Bounding] {
        if caps::read(None, set).map_err(failed)?.difference(keep).next().is_some() {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}
