//! Root emulation: package managers may believe that they are root, with one uid mapped.
//!
//! A seccomp filter answers 0 to the calls that only root can make and that do not matter here: every file of an image
//! belongs to 0:0 by decree when it is packed, so who owned it on the way is of no interest. The idea is charliecloud's. It
//! also answers 0 to the calls that wait for the disk: a half-made image is thrown away anyhow.

use libc::sock_filter;

/// Answered with success, and not done.
const PRETENDED: &[i64] = &[
    // Owners.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    // Becoming somebody else.
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
const ARCH: u32 = 0xC000_003E; // AUDIT_ARCH_X86_64, linux/audit.h
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7; // AUDIT_ARCH_AARCH64

// Offsets in struct seccomp_data, seccomp(2).
const NR: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    // The low half on a little-endian machine, which is all that a mode has.
    16 + 8 * index
}

/// The filter. Programs of another architecture are let through as they are.
pub fn root_emulation() -> Vec<sock_filter> {
    let allow = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    // An error number of 0: the call returns 0.
    let pretend = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO);
    let mut program = vec![load(ARCHITECTURE), jump(ARCH, 1, 0), allow, load(NR)];
    for number in PRETENDED {
        program.extend([jump(*number as u32, 0, 1), pretend]);
    }
    for (number, mode) in NODES {
        program.extend([
            jump(*number as u32, 0, 6),
            load(argument(*mode)),
            statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, libc::S_IFMT),
            jump(libc::S_IFCHR, 1, 0),
            jump(libc::S_IFBLK, 0, 1),
            pretend,
            allow,
        ]);
    }
    program.push(allow);
    program
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Compares for equality: skips `jt` instructions if so, `jf` if not.
fn jump(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k }
}
