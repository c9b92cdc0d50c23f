//! Root emulation for package managers, with one uid mapped.
//!
//! A seccomp filter returns 0 for calls that only root can make and whose effect is not needed: every file of an image is packed as
//! 0:0, whatever its owner was before. The idea is charliecloud's. It also returns 0 for fsync and the like: an incomplete image is
//! discarded anyway.

use libc::sock_filter;

use super::bpf::{ARCHITECTURE, NUMBER, allow, answer, arch, argument, jump, load, mask};

/// Answered with success, and not done.
const PRETENDED: &[i64] = &[
    // Owners.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    // Changing ids.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    // Waiting for the disk.
    libc::SYS_sync,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_msync,
];

/// Answered with success for devices, with the argument that holds the mode; other nodes are made.
const NODES: &[(i64, u32)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
    (libc::SYS_mknodat, 2),
];

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = arch::X86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = arch::AARCH64;

/// The filter. Programs of another architecture are let through as they are.
pub(super) fn root_emulation() -> Vec<sock_filter> {
    let (allow, pretend) = (allow(), answer(0));
    let mut program = vec![load(ARCHITECTURE), jump(ARCH, 1, 0), allow, load(NUMBER)];
    for number in PRETENDED {
        program.extend([jump(*number as u32, 0, 1), pretend]);
    }
    for (number, mode) in NODES {
        program.extend([
            jump(*number as u32, 0, 6),
            load(argument(*mode)),
            mask(libc::S_IFMT),
            jump(libc::S_IFCHR, 1, 0),
            jump(libc::S_IFBLK, 0, 1),
            pretend,
            allow,
        ]);
    }
    program.push(allow);
    program
}
