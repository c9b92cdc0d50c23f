//! System calls that no crate wraps safely. The only file with `unsafe`.

#![expect(unsafe_code, reason = "the one place for it")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::unistd::ForkResult;

/// Flags that a mount gains: `MOUNT_ATTR_RDONLY`, `_NOSUID`, `_NODEV`, `_NOEXEC` of mount_setattr(2).
pub(super) struct MountAttr(pub u64);

/// How far a change of mounts goes.
#[derive(Clone, Copy)]
pub(super) enum Reach {
    /// This mount.
    Alone,
    /// This mount and everything below it.
    Below,
}

/// Adds flags to mounts (`mount_setattr(2)`, Linux 5.12).
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, add: MountAttr, reach: Reach) -> io::Result<()> {
    let recursive = match reach {
        Reach::Alone => 0,
        Reach::Below => libc::AT_RECURSIVE,
    };
    let attr = libc::mount_attr { attr_set: add.0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the fd is open for the call's duration, the path is a constant NUL-terminated string, `attr` is a live struct
    // of the size that is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forks a process that has only one thread.
///
/// # Panics
///
/// When there is more than one thread, since the child could then do next to nothing (`signal-safety(7)`).
pub(super) fn fork_single_threaded() -> io::Result<ForkResult> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(1);
    assert_eq!(threads, 1, "fork in a process with threads");
    // SAFETY: with a single thread no lock can be held by a thread that the child lacks, so the child may do anything.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Installs a seccomp filter for this thread and its children (`seccomp(2)`); no_new_privs must be set.
pub(super) fn install_seccomp(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `fprog` points to `len` live instructions, which the kernel copies and does not change.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const fprog) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a filter answers for the kernel when characters are to be pushed into a terminal (`ioctl_tty(2)`): no file is open at -1.
/// True also where the filter has no rules for this architecture.
pub(super) fn refuses_characters() -> bool {
    let known = cfg!(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64", target_arch = "arm"));
    // SAFETY: the kernel refuses the descriptor -1 before it reads through the pointer.
    let result = unsafe { libc::ioctl(-1, libc::TIOCSTI, std::ptr::null::<libc::c_char>()) };
    !known || result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Switches the loopback interface of this network namespace on (`netdevice(7)`).
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all-zero bytes are a valid ifreq, a plain C struct of integers and arrays.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = byte.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the socket is open, `request` is live and of the type that SIOCSIFFLAGS reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a file descriptor that was inherited at a known number.
///
/// Must be called once per number, at the start of the helper, before anything else has opened files.
pub(super) fn inherited_fd(number: i32) -> io::Result<std::os::fd::OwnedFd> {
    // SAFETY: fcntl(F_GETFD) only asks whether the number is open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open, was passed to us by our parent, and has no other owner in this process.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
}

/// Marks every descriptor from `first` on to be closed by the next exec (`close_range(2)`, Linux 5.11).
pub(super) fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: only flags of descriptors change; nothing is closed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's number of signals (_NSIG), on every architecture that smidr knows.
const SIGNALS: usize = 64;

/// Lets every signal do what it does by default, whatever this process was started with or Rust has set: an ignored SIGPIPE or
/// SIGCHLD would be inherited by every program that we start (`execve(2)`).
pub(super) fn default_signals() {
    // By system call: the C library refuses its own two real-time signals, which the caller of smidr may have ignored too. The kernel's
    // struct sigaction: handler, flags, restorer, mask, each 0 for the default.
    let default = [0usize; 4];
    for number in 1..=SIGNALS {
        // SAFETY: `default` is live and as large as the kernel's struct; the default action runs no code of ours. The two signals that
        // cannot be changed (SIGKILL, SIGSTOP) are refused, which is as good.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), std::ptr::null::<usize>(), SIGNALS / 8);
        }
    }
}

/// Whether this process may do more than its caller, because its file is setuid or has capabilities.
pub fn privileged_by_file() -> bool {
    // SAFETY: getauxval(3) reads a table that the kernel left on the stack, and accepts any argument.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Lets the end of a child be waited for, even if this process was started with SIGCHLD ignored (`wait(2)`, NOTES).
pub(super) fn default_child_signal() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}
