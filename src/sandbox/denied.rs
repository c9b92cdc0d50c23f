//! A seccomp filter against system calls that no build needs: defence in depth, in case of a hole in the other layers. It returns
//! errors and never kills; unknown calls are allowed.
//!
//! It allows what BitBake needs: user and network namespaces (bb.utils.disable_network), every kind of file. Numbers are those of the
//! kernel's tables (arch/*/entry/syscalls), the same for all architectures from 424 on.

use libc::sock_filter;

use super::bpf::{
    ARCHITECTURE, NUMBER, allow, answer, arch, argument, jump, jump_if_any, jump_if_at_least, load, mask, only, skip,
};

/// In this order: 64-bit and 32-bit x86, 64-bit and 32-bit ARM.
const ARCHITECTURES: [u32; 4] = [arch::X86_64, arch::I386, arch::AARCH64, arch::ARM];

/// An architecture that does not have the call.
const NONE: u32 = u32::MAX;

/// Answered with EPERM.
const DENIED: [(&str, [u32; 4]); 43] = [
    ("mount", [165, 21, 40, 21]),
    ("umount2", [166, 52, 39, 52]),
    // Before there was umount2(2).
    ("umount", [NONE, 22, NONE, NONE]),
    ("pivot_root", [155, 217, 41, 218]),
    ("chroot", [161, 61, 51, 61]),
    ("setns", [308, 346, 268, 375]),
    ("fsopen", [430, 430, 430, 430]),
    ("fsconfig", [431, 431, 431, 431]),
    ("fsmount", [432, 432, 432, 432]),
    ("fspick", [433, 433, 433, 433]),
    ("move_mount", [429, 429, 429, 429]),
    ("open_tree", [428, 428, 428, 428]),
    // Linux 6.15.
    ("open_tree_attr", [467, 467, 467, 467]),
    ("mount_setattr", [442, 442, 442, 442]),
    ("add_key", [248, 286, 217, 309]),
    ("request_key", [249, 287, 218, 310]),
    ("keyctl", [250, 288, 219, 311]),
    ("bpf", [321, 357, 280, 386]),
    ("perf_event_open", [298, 336, 241, 364]),
    ("userfaultfd", [323, 374, 282, 388]),
    ("kexec_load", [246, 283, 104, 347]),
    ("kexec_file_load", [320, NONE, 294, 401]),
    ("init_module", [175, 128, 105, 128]),
    ("finit_module", [313, 350, 273, 379]),
    ("delete_module", [176, 129, 106, 129]),
    ("swapon", [167, 87, 224, 87]),
    ("swapoff", [168, 115, 225, 115]),
    ("reboot", [169, 88, 142, 88]),
    ("quotactl", [179, 131, 60, 131]),
    ("quotactl_fd", [443, 443, 443, 443]),
    ("open_by_handle_at", [304, 342, 265, 371]),
    ("acct", [163, 51, 89, 51]),
    ("syslog", [103, 103, 116, 103]),
    ("lookup_dcookie", [212, 253, 18, 249]),
    ("nfsservctl", [180, 169, 42, 169]),
    ("settimeofday", [164, 79, 170, 79]),
    ("clock_settime", [227, 264, 112, 262]),
    ("clock_settime64", [NONE, 404, NONE, 404]),
    ("iopl", [172, 110, NONE, NONE]),
    ("ioperm", [173, 101, NONE, NONE]),
    ("io_uring_setup", [425, 425, 425, 425]),
    ("io_uring_enter", [426, 426, 426, 426]),
    ("io_uring_register", [427, 427, 427, 427]),
];

/// Answered with ENOSYS: its flags are in memory, which filters cannot read, and every C library can do without it (CVE-2021-41133).
const CLONE3: u32 = 435;

/// Answered with ENOSYS for the same reason: its arguments are in memory, and 64-bit programs can call it too. 32-bit x86 programs
/// whose C library does not use socket(2) (Linux 4.3; glibc's usual build) therefore have no sockets.
const SOCKETCALL: [u32; 4] = [NONE, 102, NONE, NONE];

/// Answered with ENOSYS for builds whose pseudo does not intercept it and would lose track of files.
const OPENAT2: u32 = 437;

const UNSHARE: [u32; 4] = [272, 310, 97, 337];
const CLONE: [u32; 4] = [56, 120, 220, 120];
const IOCTL: [u32; 4] = [16, 54, 29, 54];

/// It can set limits of any process of the same user, and a limit on processor time kills (prlimit(2)). Without a PID namespace only
/// the caller itself is allowed.
const PRLIMIT: [u32; 4] = [302, 340, 261, 369];

/// Namespaces that no build needs.
const NAMESPACES: u32 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP) as u32;

/// For `unshare` only: in `clone` these bits are the exit signal.
const CLONE_NEWTIME: u32 = 0x80;

/// Pushing characters into a terminal (CVE-2017-5226, CVE-2023-28100), asm-generic/ioctls.h. Like the kernel, the filter compares the
/// low half of the argument only (CVE-2019-7303).
const TERMINAL: [u32; 2] = [0x5412, 0x541C];

const SOCKET: [u32; 4] = [41, 359, 198, 281];
const SOCKETPAIR: [u32; 4] = [53, 360, 199, 288];
const SETSOCKOPT: [u32; 4] = [54, 366, 208, 294];

/// All others get the error of a kernel that lacks them, so that programs do without. In its own user and network namespace a program
/// could use every family of the kernel (packet, XDP, CAN, TIPC, ...), and some, such as vsock, ignore namespaces.
const FAMILIES: [u32; 4] = [AF_UNIX, AF_NETLINK, libc::AF_INET as u32, libc::AF_INET6 as u32];
const AF_UNIX: u32 = libc::AF_UNIX as u32;
const AF_NETLINK: u32 = libc::AF_NETLINK as u32;

/// The machine's addresses, which getaddrinfo(3) needs; not firewalls, IPsec, devices.
const NETLINK: [u32; 1] = [libc::NETLINK_ROUTE as u32];

/// Of Internet sockets; neither raw sockets nor SOCK_PACKET.
const TYPES: [u32; 2] = [libc::SOCK_STREAM as u32, libc::SOCK_DGRAM as u32];

/// TCP, UDP and pings; not protocols for which the kernel would load a module (SCTP, DCCP, L2TP, ...).
const PROTOCOLS: [u32; 5] = [
    libc::IPPROTO_IP as u32,
    libc::IPPROTO_TCP as u32,
    libc::IPPROTO_UDP as u32,
    libc::IPPROTO_ICMP as u32,
    libc::IPPROTO_ICMPV6 as u32,
];

/// SOCK_TYPE_MASK, linux/net.h: the rest are flags.
const TYPE: u32 = 0xF;

/// The first IP option of packet filters (linux/netfilter_ipv4/ip_tables.h and others); all above belong to them, of IPv6 two.
const TABLES: u32 = 64;

/// The x32 interface of 64-bit x86 numbers its calls from here.
const X32: u32 = 0x4000_0000;

/// The filter. `hide_openat2` answers ENOSYS to openat2(2); `shared` is for sandboxes that share this machine's processes.
pub(super) fn denied(hide_openat2: bool, shared: bool) -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE)];
    for (column, architecture) in ARCHITECTURES.into_iter().enumerate() {
        let rules = rules(column, architecture, hide_openat2, shared);
        program.extend([jump(architecture, 1, 0), skip(rules.len())]);
        program.extend(rules);
    }
    program.push(allow());
    program
}

#[expect(clippy::indexing_slicing, reason = "columns are counted off ARCHITECTURES, and each table has one for each")]
fn rules(column: usize, architecture: u32, hide_openat2: bool, shared: bool) -> Vec<sock_filter> {
    let mut rules = vec![load(NUMBER)];
    if architecture == arch::X86_64 {
        rules.extend([jump_if_any(X32, 0, 1), answer(libc::ENOSYS)]);
    }
    for (_, numbers) in DENIED.iter().filter(|(_, numbers)| numbers[column] != NONE) {
        rules.extend([jump(numbers[column], 0, 1), answer(libc::EPERM)]);
    }
    let hidden = [Some(CLONE3), hide_openat2.then_some(OPENAT2), Some(SOCKETCALL[column])];
    let hidden = hidden.into_iter().flatten().filter(|number| *number != NONE);
    rules.extend(hidden.flat_map(|number| [jump(number, 0, 1), answer(libc::ENOSYS)]));
    for (number, flags) in [(UNSHARE[column], NAMESPACES | CLONE_NEWTIME), (CLONE[column], NAMESPACES)] {
        rules.extend([jump(number, 0, 4), load(argument(0)), jump_if_any(flags, 0, 1), answer(libc::EPERM), allow()]);
    }
    let [push, console] = TERMINAL;
    rules.extend([
        jump(IOCTL[column], 0, 5),
        load(argument(1)),
        jump(push, 1, 0),
        jump(console, 0, 1),
        answer(libc::EPERM),
        allow(),
    ]);
    if shared {
        rules.extend(when(PRLIMIT[column], vec![load(argument(0)), jump(0, 1, 0), answer(libc::EPERM), allow()]));
    }
    rules.extend(when(SOCKET[column], socket()));
    rules.extend(when(SOCKETPAIR[column], socket()));
    rules.extend(when(SETSOCKOPT[column], packet_filters()));
    rules.push(allow());
    rules
}

/// Instructions for one call; `decide` must end with an answer.
fn when(number: u32, decide: Vec<sock_filter>) -> Vec<sock_filter> {
    [vec![jump(number, 1, 0), skip(decide.len())], decide].concat()
}

/// socket(domain, type, protocol).
fn socket() -> Vec<sock_filter> {
    let netlink = [vec![load(argument(2))], only(&NETLINK, libc::EPROTONOSUPPORT), vec![allow()]].concat();
    [
        vec![load(argument(0))],
        only(&FAMILIES, libc::EAFNOSUPPORT),
        vec![jump(AF_UNIX, 0, 1), allow(), jump(AF_NETLINK, 1, 0), skip(netlink.len())],
        netlink,
        vec![load(argument(1)), mask(TYPE)],
        only(&TYPES, libc::EPERM),
        vec![load(argument(2))],
        only(&PROTOCOLS, libc::EPROTONOSUPPORT),
        vec![allow()],
    ]
    .concat()
}

/// setsockopt(fd, level, option).
fn packet_filters() -> Vec<sock_filter> {
    vec![
        load(argument(1)),
        jump(libc::IPPROTO_IP as u32, 0, 3),
        load(argument(2)),
        jump_if_at_least(TABLES, 6, 0),
        allow(),
        jump(libc::IPPROTO_IPV6 as u32, 1, 0),
        allow(),
        load(argument(2)),
        jump(TABLES, 1, 0),
        jump(TABLES + 1, 0, 1),
        answer(libc::EPERM),
        allow(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel does, with the instructions that it uses.
    fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 3]) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    word = match k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        16 => arguments[0] as u32,
                        24 => arguments[1] as u32,
                        32 => arguments[2] as u32,
                        other => panic!("loads {other}"),
                    }
                }
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => word &= k,
                code if code == libc::BPF_RET | libc::BPF_K => return k,
                code if code == libc::BPF_JMP | libc::BPF_JA => at += k as usize,
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += usize::from(if word == k { jt } else { jf });
                }
                code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                    at += usize::from(if word >= k { jt } else { jf });
                }
                code if code == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => {
                    at += usize::from(if word & k != 0 { jt } else { jf });
                }
                other => panic!("instruction {other}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    #[test]
    fn every_architecture_denies_the_same_and_unknown_ones_nothing() {
        let program = denied(false, false);
        assert!(program.len() < 4096);
        for (column, architecture) in ARCHITECTURES.into_iter().enumerate() {
            let says = |number, arguments| run(&program, architecture, number, arguments);
            for (name, numbers) in DENIED.iter().filter(|(_, numbers)| numbers[column] != NONE) {
                assert_eq!(says(numbers[column], [0; 3]), EPERM, "{name} on {architecture:x}");
            }
            assert_eq!((says(CLONE3, [0; 3]), says(OPENAT2, [0; 3])), (ENOSYS, ALLOW));
            for flag in [libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWUTS, libc::CLONE_NEWIPC] {
                let flags = (flag | libc::CLONE_NEWUSER) as u64;
                assert_eq!((says(UNSHARE[column], [flags, 0, 0]), says(CLONE[column], [flags, 0, 0])), (EPERM, EPERM));
            }
            // BitBake's unshare before each task, and fork.
            let needed = (libc::CLONE_NEWUSER | libc::CLONE_NEWNET) as u64;
            assert_eq!(says(UNSHARE[column], [needed, 0, 0]), ALLOW);
            assert_eq!(says(CLONE[column], [needed | libc::SIGCHLD as u64, 0, 0]), ALLOW);
            for request in [0x5412, 0x541C, 0xdead_beef_0000_5412] {
                assert_eq!(says(IOCTL[column], [0, request, 0]), EPERM, "{request:x}");
            }
            assert_eq!(says(IOCTL[column], [0, 0x5401, 0]), ALLOW);
            assert_eq!(says(4000, [0; 3]), ALLOW, "a call of a future kernel");
        }
        for (_, numbers) in DENIED {
            assert_eq!(run(&program, 0xC000_00F3, numbers[0], [0; 3]), ALLOW, "riscv64 is not in the table");
        }
        assert_eq!(run(&program, arch::X86_64, X32 + 1, [0; 3]), ENOSYS);
        assert_eq!(run(&denied(true, false), arch::X86_64, OPENAT2, [0; 3]), ENOSYS);
    }

    #[test]
    fn prlimit_of_other_processes_is_refused() {
        for (column, architecture) in ARCHITECTURES.into_iter().enumerate() {
            let says = |shared, pid| run(&denied(false, shared), architecture, PRLIMIT[column], [pid, 0, 0]);
            assert_eq!([says(true, 0), says(true, 4711), says(false, 4711)], [ALLOW, EPERM, ALLOW]);
        }
    }

    #[test]
    fn sockets_are_those_of_the_internet_and_of_this_machine() {
        let program = denied(false, false);
        let says = |column: usize, call: [u32; 4], arguments: [u64; 3]| {
            run(&program, ARCHITECTURES[column], call[column], arguments)
        };
        let no = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
        let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
        let (stream, datagram, raw, packet) = (1, 2, 3, 10);
        let rows = [
            ([1, stream, 0], ALLOW),
            ([1, datagram | flags, 0], ALLOW),
            ([2, stream | flags, 0], ALLOW),
            ([2, datagram, 17], ALLOW),
            ([2, datagram, 1], ALLOW),
            ([10, stream, 6], ALLOW),
            ([10, datagram | flags, 58], ALLOW),
            ([16, raw | flags, 0], ALLOW),
            // Raw, by its own name, with flags, and SOCK_PACKET.
            ([2, raw, 1], EPERM),
            ([10, raw | flags, 58], EPERM),
            ([2, packet, 0x300], EPERM),
            // SEQPACKET and DCCP.
            ([2, 5, 132], EPERM),
            ([2, 6, 33], EPERM),
            // SCTP, L2TP, MPTCP, UDP-Lite.
            ([2, stream, 132], no(libc::EPROTONOSUPPORT)),
            ([2, datagram, 115], no(libc::EPROTONOSUPPORT)),
            ([2, stream, 262], no(libc::EPROTONOSUPPORT)),
            ([10, datagram, 136], no(libc::EPROTONOSUPPORT)),
            // Socket diagnosis, XFRM, audit, netfilter, uevents, generic.
            ([16, raw, 4], no(libc::EPROTONOSUPPORT)),
            ([16, raw, 6], no(libc::EPROTONOSUPPORT)),
            ([16, raw, 9], no(libc::EPROTONOSUPPORT)),
            ([16, datagram, 12], no(libc::EPROTONOSUPPORT)),
            ([16, datagram, 15], no(libc::EPROTONOSUPPORT)),
            ([16, datagram, 16], no(libc::EPROTONOSUPPORT)),
            // The kernel takes the low half of an argument.
            ([0xdead_0000_0011, raw, 0], no(libc::EAFNOSUPPORT)),
            ([0xdead_0000_0001, stream, 0], ALLOW),
            ([16, raw, 0xdead_0000_000c], no(libc::EPROTONOSUPPORT)),
        ];
        for column in 0..ARCHITECTURES.len() {
            for (arguments, answer) in rows {
                assert_eq!(says(column, SOCKET, arguments), answer, "socket {arguments:?} in column {column}");
                assert_eq!(says(column, SOCKETPAIR, arguments), answer, "socketpair {arguments:?} in column {column}");
            }
            for family in (0..64).filter(|family| ![1, 2, 10, 16].contains(family)) {
                assert_eq!(says(column, SOCKET, [family, stream, 0]), no(libc::EAFNOSUPPORT), "{family}");
            }
            // iptables, arptables, ebtables, IPVS; ip6tables; and neighbouring options.
            for (level, option, answer) in [
                (0, 64, EPERM),
                (0, 65, EPERM),
                (0, 96, EPERM),
                (0, 128, EPERM),
                (0, 1153, EPERM),
                (0, 52, ALLOW),
                (41, 64, EPERM),
                (41, 65, EPERM),
                (41, 63, ALLOW),
                (41, 67, ALLOW),
                (1, 64, ALLOW),
                (6, 64, ALLOW),
            ] {
                assert_eq!(says(column, SETSOCKOPT, [3, level, option]), answer, "{level} {option}");
            }
        }
        assert_eq!((says(1, SOCKETCALL, [1, 0, 0]), says(1, SOCKETCALL, [14, 0, 0])), (ENOSYS, ENOSYS));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_numbers_are_those_of_the_kernel() {
        let known = [
            ("mount", libc::SYS_mount),
            ("setns", libc::SYS_setns),
            ("keyctl", libc::SYS_keyctl),
            ("bpf", libc::SYS_bpf),
            ("open_by_handle_at", libc::SYS_open_by_handle_at),
            ("io_uring_setup", libc::SYS_io_uring_setup),
        ];
        for (name, number) in known {
            let row = DENIED.iter().find(|(denied, _)| *denied == name).expect(name);
            assert_eq!(i64::from(row.1[0]), number, "{name}");
        }
        assert_eq!(
            [UNSHARE[0], CLONE[0], IOCTL[0], SOCKET[0], SOCKETPAIR[0], SETSOCKOPT[0], PRLIMIT[0]].map(i64::from),
            [
                libc::SYS_unshare,
                libc::SYS_clone,
                libc::SYS_ioctl,
                libc::SYS_socket,
                libc::SYS_socketpair,
                libc::SYS_setsockopt,
                libc::SYS_prlimit64
            ]
        );
    }
}
