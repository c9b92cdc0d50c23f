//! The isolation of the sandbox, part by part: capabilities, system calls, PID 1, mounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use super::{
    screen::on_terminal,
    support::{Done, World, skip, smidr_bin, tool},
};

/// System calls by number, with arguments for which an unfiltered kernel would return another error or succeed; prints each result.
const CALLS: &str = r#"
import ctypes, errno, os, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return errno.errorcode.get(ctypes.get_errno(), "?") if result == -1 else "done"
"#;

/// Mounts and namespaces, by name, for 64-bit x86 and 64-bit ARM.
const TABLE: &str = r#"
x86 = platform.machine() == "x86_64"
NEWNS, NEWPID, NEWUSER, NEWNET, SIGCHLD = 0x20000, 0x20000000, 0x10000000, 0x40000000, 17
rows = [
    ("mount", (165, 40), (b"none", b"/tmp", b"tmpfs", 0, 0)), ("umount2", (166, 39), (b"/tmp", 2)),
    ("pivot_root", (155, 41), (b".", b".")), ("chroot", (161, 51), (b"/tmp",)), ("setns", (308, 268), (0, 0)),
    ("unshare NEWNS", (272, 97), (NEWNS,)), ("unshare NEWUSER|NEWNS", (272, 97), (NEWUSER | NEWNS,)),
    ("unshare NEWPID", (272, 97), (NEWPID,)), ("unshare NEWTIME", (272, 97), (0x80,)),
    ("unshare NEWNS, high bits", (272, 97), (0x7fffffff00000000 | NEWNS,)),
    ("clone NEWNS", (56, 220), (NEWNS | NEWUSER | SIGCHLD, 0, 0, 0, 0)), ("clone NEWPID", (56, 220), (NEWPID | SIGCHLD, 0, 0, 0, 0)),
    ("clone3", (435, 435), (0, 0)), ("open_tree", (428, 428), (-100, b"/", 1)), ("open_tree_attr", (467, 467), (-100, b"/", 1, 0, 0)), ("move_mount", (429, 429), (-100, b"/tmp", -100, b"/run", 0)),
    ("fsopen", (430, 430), (b"tmpfs", 0)), ("fsconfig", (431, 431), (0, 0, 0, 0, 0)), ("fsmount", (432, 432), (0, 0, 0)),
    ("fspick", (433, 433), (-100, b"/", 0)), ("mount_setattr", (442, 442), (-100, b"/tmp", 0, 0, 0)),
    ("open_by_handle_at", (304, 265), (0, 0, 0)), ("keyctl", (250, 219), (0, -3, 0)), ("add_key", (248, 217), (b"user", b"x", b"y", 1, -3)),
    ("bpf", (321, 280), (0, 0, 0)), ("perf_event_open", (298, 241), (0, 0, 0, 0, 0)), ("userfaultfd", (323, 282), (1,)),
    ("io_uring_setup", (425, 425), (1, 0)), ("kexec_load", (246, 104), (0, 0, 0, 0)), ("syslog", (103, 116), (3, 0, 0)),
]
for name, numbers, arguments in rows:
    print(name, "|", call(numbers[0 if x86 else 1], *arguments))
if x86:
    print("x32 mount", "|", call(0x40000000 + 165, b"none", b"/tmp", b"tmpfs", 0, 0))
    print("x32 getpid", "|", call(0x40000000 + 39))
"#;

fn expected(name: &str) -> &'static str {
    if name == "clone3" || name.starts_with("x32") || name.starts_with("socketcall") { "ENOSYS" } else { "EPERM" }
}

#[track_caller]
fn all_are_refused(out: &str, rows: usize) {
    let lines: Vec<(&str, &str)> = out.lines().filter_map(|line| line.split_once(" | ")).collect();
    assert!(lines.len() >= rows, "only {} of {rows} calls in\n{out}", lines.len());
    for (name, answer) in lines {
        assert_eq!(answer, expected(name), "{name}");
    }
}

#[test]
fn mounts_and_namespaces_are_refused() {
    let Some(world) = World::with_project("isolation::mounts_and_namespaces_are_refused") else { return };
    let python = |script: &str| world.smidr().args(["run", "--", "python3", "-c", &format!("{CALLS}{script}")]).run();
    all_are_refused(&python(TABLE).expect_code(0).out, 29);
    // Nor as root of a user and network namespace of its own, where the kernel alone would allow some of them.
    let nested = format!("assert call(272 if platform.machine() == 'x86_64' else 97, 0x50000000) == 'done'\n{TABLE}");
    all_are_refused(&python(&nested).expect_code(0).out, 29);
    // Without the filter most of them succeed, or fail with another error.
    if let Some(unshare) = tool("unshare")
        && let Some(python3) = tool("python3")
    {
        let mut bare = Command::new(unshare);
        world.surround(&mut bare);
        let out = bare
            .args(["-Urmpf"])
            .arg(python3)
            .args(["-c", &format!("{CALLS}{TABLE}")])
            .output()
            .expect("unshare starts");
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        let refused = out.lines().filter(|line| line.ends_with("| EPERM")).count();
        assert!(
            out.lines().count() < 20 || refused < 20,
            "the table proves nothing: bare processes are refused all of it\n{out}"
        );
    }
}

/// Sockets by family, type and protocol, options of packet filters, and the same asked of 32-bit x86's multiplexer; prints what came of
/// each.
const SOCKETS: &str = r#"
import socket
def attempt(name, work):
    try:
        work()
        print(name, "|", "done")
    except OSError as error:
        print(name, "|", errno.errorcode.get(error.errno, "?"))
rows = [("packet", 17, 3, 0x300), ("packet datagram", 17, 2, 0), ("vsock", 40, 1, 0), ("alg", 38, 5, 0), ("xdp", 44, 3, 0),
        ("bluetooth", 31, 3, 0), ("can", 29, 3, 1), ("tipc", 30, 5, 0), ("rds", 21, 5, 0), ("key", 15, 3, 2), ("smc", 43, 1, 0),
        ("x25", 9, 5, 0), ("phonet", 35, 2, 0), ("nfc", 39, 2, 0), ("kcm", 41, 5, 0), ("qrtr", 42, 2, 0), ("llc", 26, 1, 0),
        ("pppox", 24, 1, 0), ("ax25", 3, 5, 0), ("mctp", 45, 2, 0),
        ("netlink diag", 16, 3, 4), ("netlink xfrm", 16, 3, 6), ("netlink audit", 16, 3, 9), ("netlink netfilter", 16, 3, 12),
        ("netlink uevent", 16, 3, 15), ("netlink generic", 16, 3, 16), ("netlink crypto", 16, 3, 21), ("netlink rdma", 16, 3, 20),
        ("raw", 2, 3, 1), ("raw 6", 10, 3, 58), ("raw all", 2, 3, 255), ("SOCK_PACKET", 2, 10, 0x300), ("sctp", 2, 1, 132),
        ("sctp packets", 2, 5, 132), ("dccp", 2, 6, 33), ("l2tp", 2, 2, 115), ("udplite", 2, 2, 136), ("mptcp", 2, 1, 262)]
for name, *row in rows:
    attempt(name, lambda: socket.socket(*row).close())
    number = 53 if platform.machine() == "x86_64" else 199
    pair = ctypes.create_string_buffer(8)
    print("pair " + name, "|", call(number, *row, pair))
inet, inet6 = socket.socket(), None
for option in (64, 65, 96, 128, 1153):
    attempt("option %d" % option, lambda: inet.setsockopt(0, option, b"x" * 96))
try:
    inet6 = socket.socket(socket.AF_INET6)
except OSError:
    pass
if inet6:
    for option in (64, 65):
        attempt("option 6 %d" % option, lambda: inet6.setsockopt(41, option, b"x" * 96))
"#;

/// The sockets that a build needs.
const USUAL_SOCKETS: &str = r#"
import socket, os
a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
client = socket.create_connection(server.getsockname()); client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
client.setsockopt(socket.SOL_IP, socket.IP_TOS, 8); client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("127.0.0.1", 0))
assert socket.getaddrinfo("localhost", 80)
route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); route.bind((0, 0))
# RTM_GETADDR, as getaddrinfo(3) asks.
route.send(b"\x14\0\0\0\x16\0\x01\x03\x01\0\0\0\0\0\0\0\0\0\0\0"); assert len(route.recv(65536)) > 16
print("all work")
"#;

#[test]
fn sockets_are_only_those_that_a_build_needs() {
    let Some(world) = World::with_project("isolation::sockets_are_only_those_that_a_build_needs") else { return };
    let python = |script: &str| world.smidr().args(["run", "--", "python3", "-c", &format!("{CALLS}{script}")]).run();
    // As it is, and as root of a user and network namespace of its own, which may open everything that the kernel has.
    let nested = "assert call(272 if platform.machine() == 'x86_64' else 97, 0x50000000) == 'done'\n\
                  open('/proc/self/setgroups', 'w').write('deny')\nopen('/proc/self/uid_map', 'w').write('0 %d 1' % os.getuid())\n";
    let nested = nested.replace("os.getuid()", "uid");
    for before in ["", &format!("uid = os.getuid()\n{nested}")] {
        let done = python(&format!("{before}{SOCKETS}"));
        let out = &done.expect_code(0).out;
        let lines: Vec<(&str, &str)> = out.lines().filter_map(|line| line.split_once(" | ")).collect();
        assert!(lines.len() >= 81, "{}: {out}", lines.len());
        for (name, answer) in lines {
            let expected = match name.trim_start_matches("pair ") {
                "raw" | "raw 6" | "raw all" | "SOCK_PACKET" | "sctp packets" | "dccp" => "EPERM",
                "sctp" | "l2tp" | "udplite" | "mptcp" => "EPROTONOSUPPORT",
                name if name.starts_with("option") => "EPERM",
                name if name.starts_with("netlink") => "EPROTONOSUPPORT",
                _ => "EAFNOSUPPORT",
            };
            assert_eq!(answer, expected, "{name} in\n{out}");
        }
    }
    assert_eq!(python(USUAL_SOCKETS).expect_code(0).out, "all work\n");
    // Without the filter some of them open.
    if let Some(unshare) = tool("unshare")
        && let Some(python3) = tool("python3")
    {
        let mut bare = Command::new(unshare);
        world.surround(&mut bare);
        bare.arg("-Urn").arg(python3).args(["-c", &format!("{CALLS}{SOCKETS}")]);
        let out = bare.output().expect("unshare starts").stdout;
        let out = String::from_utf8_lossy(&out).into_owned();
        let rows = [("packet", "done"), ("raw", "done"), ("netlink netfilter", "done"), ("netlink uevent", "done")];
        let open = rows.iter().filter(|(name, answer)| out.contains(&format!("{name} | {answer}\n"))).count();
        assert!(out.is_empty() || open > 0, "the table proves nothing: bare processes are refused all of it\n{out}");
    }
}

/// The same for the 32-bit x86 table of system calls. Without a C library, since there may be no 32-bit one.
const PROGRAM_32: &str = r#"
static int call(int nr, int a, int b, int c, int d, int e) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
    return result;
}
static void say(const char *text) {
    int length = 0;
    while (text[length]) length++;
    call(4, 1, (int)text, length, 0, 0);
}
static const struct { const char *name; int nr, a, b, c, d, e; } rows[] = {
    {"mount", 21, (int)"none", (int)"/tmp", (int)"tmpfs", 0, 0}, {"umount", 22, (int)"/tmp", 0, 0, 0, 0},
    {"umount2", 52, (int)"/tmp", 2, 0, 0, 0},
    {"pivot_root", 217, (int)".", (int)".", 0, 0, 0}, {"chroot", 61, (int)"/tmp", 0, 0, 0, 0}, {"setns", 346, 0, 0, 0, 0, 0},
    {"unshare NEWNS", 310, 0x20000, 0, 0, 0, 0}, {"unshare NEWUSER|NEWNS", 310, 0x10020000, 0, 0, 0, 0},
    {"clone NEWNS", 120, 0x10020011, 0, 0, 0, 0}, {"clone3", 435, 0, 0, 0, 0, 0}, {"open_tree", 428, -100, (int)"/", 1, 0, 0},
    {"move_mount", 429, -100, (int)"/tmp", -100, (int)"/run", 0}, {"fsopen", 430, (int)"tmpfs", 0, 0, 0, 0},
    {"fsconfig", 431, 0, 0, 0, 0, 0}, {"fsmount", 432, 0, 0, 0, 0, 0}, {"fspick", 433, -100, (int)"/", 0, 0, 0},
    {"mount_setattr", 442, -100, (int)"/tmp", 0, 0, 0}, {"keyctl", 288, 0, -3, 0, 0, 0}, {"bpf", 357, 0, 0, 0, 0, 0},
    {"socketcall", 102, 1, 0, 0, 0, 0}, {"socketcall setsockopt", 102, 14, 0, 0, 0, 0},
    {"setsockopt", 366, 3, 0, 64, 0, 0},
    {"io_uring_setup", 425, 1, 0, 0, 0, 0}, {"ioctl TIOCSTI", 54, 0, 0x5412, (int)"x", 0, 0}, {"ioctl TIOCLINUX", 54, 0, 0x541c, (int)"x", 0, 0},
};
void _start(void) {
    for (unsigned at = 0; at < sizeof rows / sizeof *rows; at++) {
        int result = call(rows[at].nr, rows[at].a, rows[at].b, rows[at].c, rows[at].d, rows[at].e);
        say(rows[at].name);
        say(result == -1 ? " | EPERM\n" : result == -38 ? " | ENOSYS\n" : result < 0 ? " | another error\n" : " | done\n");
    }
    call(1, 0, 0, 0, 0, 0);
}
"#;

#[test]
fn the_32_bit_system_calls_are_filtered_too() {
    let name = "isolation::the_32_bit_system_calls_are_filtered_too";
    if !cfg!(target_arch = "x86_64") {
        return skip(name, "only 64-bit x86 has such a door");
    }
    let Some(gcc) = tool("gcc") else { return skip(name, "there is no gcc to make a 32-bit program with") };
    let Some(world) = World::with_project(name) else { return };
    let (source, program) = (world.work.join("door.c"), world.project().join("layers/meta-hello/door"));
    fs::write(&source, PROGRAM_32).expect("a file");
    let flags = ["-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector", "-O1", "-o"];
    let made = Command::new(gcc).args(flags).arg(&program).arg(&source).output().expect("gcc starts");
    if !made.status.success() {
        return skip(name, &format!("gcc cannot make 32-bit programs: {}", String::from_utf8_lossy(&made.stderr)));
    }
    if Command::new(&program).output().is_err() {
        return skip(name, "this kernel runs no 32-bit programs");
    }
    let done = world.smidr().args(["run", "--"]).arg(&program).run();
    all_are_refused(&done.expect_code(0).out, 25);
}

#[test]
fn nothing_is_pushed_into_a_terminal() {
    let name = "isolation::nothing_is_pushed_into_a_terminal";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = World::with_project(name) else { return };
    // On its own controlling terminal, where the kernel would let it (dev.tty.legacy_tiocsti), whatever the upper half holds.
    let script = format!(
        "{CALLS}\nassert os.isatty(0)\nnumber = 16 if platform.machine() == 'x86_64' else 29\n\
         for request in (0x5412, 0x541c, 0x100005412, 0xffffffff00005412 - (1 << 64), 0xdead0000541c):\n    \
         print('ioctl', '|', call(number, 0, request, b'x'))\nprint('all', 'said')"
    );
    let (mut screen, mut child) = on_terminal(&setsid, &world, &["run", "--", "python3", "-c", &script]);
    screen.says("all said");
    screen.until_closed();
    assert_eq!(child.wait().expect("smidr ends").code(), Some(0));
    all_are_refused(&screen.seen().replace('\r', ""), 5);
}

#[test]
fn pid_1_cannot_be_touched() {
    let Some(world) = World::with_project("isolation::pid_1_cannot_be_touched") else { return };
    let script = format!(
        "{CALLS}
def attempt(name, work):
    try:
        print(name, work() or 'done')
    except OSError as error:
        print(name, errno.errorcode[error.errno])
x86 = platform.machine() == 'x86_64'
for name in ('mem', 'exe', 'environ', 'maps', 'uid_map', 'gid_map', 'setgroups', 'attr/current'):
    attempt('write ' + name, lambda: os.write(os.open('/proc/1/' + name, os.O_WRONLY), b'0 0 1') and None)
for name in ('mem', 'exe', 'environ', 'maps', 'auxv', 'stack', 'syscall'):
    attempt('read ' + name, lambda: os.read(os.open('/proc/1/' + name, os.O_RDONLY), 64) and None)
for name in ('exe', 'root', 'cwd', 'fd/0'):
    attempt('follow ' + name, lambda: os.stat('/proc/1/' + name) and None)
attempt('list map_files', lambda: os.listdir('/proc/1/map_files') and None)
for name, request in (('attach', 16), ('seize', 0x4206)):
    print(name, call(101 if x86 else 117, request, 1, 0, 0))
buffer = ctypes.create_string_buffer(8)
vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
print('process_vm_readv', call(310 if x86 else 270, 1, vector, 1, vector, 1, 0))
print('process_vm_writev', call(311 if x86 else 271, 1, vector, 1, vector, 1, 0))
pidfd = libc.syscall(434, 1, 0)
print('pidfd_getfd', call(438, pidfd, 0, 0))
os.kill(1, 9); os.kill(1, 15); os.kill(1, 19)
print('alive', os.path.exists('/proc/1'))
"
    );
    let done = world.smidr().args(["run", "--", "python3", "-c", &script]).run();
    let out = &done.expect_code(0).out;
    let mut refused = 0;
    for line in out.lines().filter(|line| !line.starts_with("alive")) {
        assert!(["EACCES", "EPERM"].iter().any(|errno| line.ends_with(errno)), "{line}\nin\n{out}");
        refused += 1;
    }
    assert!(refused >= 24, "{out}");
    done.expect_out("alive True");
}

#[test]
fn bitbake_holds_what_it_needs_and_nothing_more() {
    let Some(world) = World::with_project("isolation::bitbake_holds_what_it_needs_and_nothing_more") else { return };
    // Instead of the Python that would run BitBake: a program that prints what it inherited, and fails.
    let look = "import os\nfor fd in sorted(int(fd) for fd in os.listdir('/proc/self/fd')):\n    try: \
                print('fd', fd, os.readlink('/proc/self/fd/%d' % fd).split(':')[0])\n    except OSError: pass\n\
                print('events', os.environ['SMIDR_EVENT_FD'])\nprint('cwd', os.getcwd())\nprint('groups', os.getsid(0) == os.getpid())\n\
                print('sys', os.listdir('/sys'))\n\
                [print(line.strip()) for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew', 'Seccomp:', 'SigBlk', 'SigIgn'))]\n";
    for folder in ["bin", "lib/bb"] {
        fs::create_dir_all(world.project().join("own").join(folder)).expect("a folder");
    }
    world.write("own/look.py", look);
    world.write("own/bin/bitbake", "#!/bin/sh\nexit 1\n");
    let python = world.project().join("own/bin/python3");
    let script = format!("#!/bin/sh\nexec /usr/bin/python3 {}\n", world.project().join("own/look.py").display());
    world.write("own/bin/python3", &script);
    fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    world.append("bitbake: {path: ./own}\n");
    // Capabilities that smidr itself holds.
    let mut command = Command::new("sh");
    world.surround(&mut command);
    command
        .current_dir(world.project())
        .args(["-c", "trap '' PIPE INT; exec 7</etc/passwd 9<.; exec \"$0\" build --events json"]);
    let done = Done::new(command.arg(smidr_bin()).output().expect("sh starts"));
    done.expect_code(1);
    let lines: Vec<String> = done
        .out
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|event| event["event"] == "console")
        .filter_map(|event| event["line"].as_str().map(str::to_owned))
        .collect();
    let value = |name: &str| {
        let found = lines.iter().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_else(|| panic!("no `{name}` in {lines:#?}\n{}", done.err)).trim().to_owned()
    };
    let events = value("events ");
    let mut held =
        vec!["fd 0 /dev/null".to_owned(), "fd 1 pipe".into(), "fd 2 pipe".into(), format!("fd {events} pipe")];
    held.sort();
    let mut seen: Vec<String> = lines.iter().filter(|line| line.starts_with("fd ")).cloned().collect();
    seen.sort();
    assert_eq!(seen, held);
    assert!(Path::new(&value("cwd ")).starts_with(world.smidr.join("workspaces")));
    assert_eq!((value("groups "), value("sys ")), ("True".into(), "[]".into()));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk"] {
        assert_eq!(value(&format!("{set}:")), "0000000000000000", "{set}");
    }
    assert_eq!((value("NoNewPrivs:"), value("Seccomp:")), ("1".into(), "2".into()));
}

/// Starts smidr by a wrapper with unusual process attributes, and reports what a program in the sandbox inherits.
fn started_by(world: &World, wrapper: &[&str], script: &str) -> Done {
    let mut command = Command::new(tool(wrapper[0]).expect("the wrapper"));
    world.surround(&mut command);
    command.current_dir(world.project()).args(&wrapper[1..]).arg(smidr_bin()).args(["run", "--", "sh", "-c", script]);
    Done::new(command.output().expect("the wrapper starts"))
}

#[test]
fn signal_masks_and_descriptors_are_not_inherited() {
    let Some(world) = World::with_project("isolation::signal_masks_and_descriptors_are_not_inherited") else { return };
    let look = "grep -E '^(SigBlk|SigIgn|SigCgt|NoNewPrivs)' /proc/self/status; umask; ulimit -c; ulimit -n; ls /proc/self/fd; \
                (exit 3) & wait $!; echo $?";
    let usual = started_by(&world, &["env"], look).expect_code(0).out.clone();
    assert!(usual.starts_with("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"), "{usual}");
    assert!(usual.contains("\nNoNewPrivs:\t1\n0022\n0\n"), "{usual}");
    let rows: [&[&str]; 5] = [
        &["env", "--ignore-signal"],
        &["env", "--ignore-signal=CHLD"],
        &["env", "--block-signal"],
        &["sh", "-c", "umask 077; ulimit -c unlimited; exec \"$@\"", "sh"],
        &["sh", "-c", "cd /proc/self/fd; exec 9<.; cd \"$OLDPWD\"; exec 3<&0 4>&1; exec \"$@\"", "sh"],
    ];
    for wrapper in rows {
        let done = started_by(&world, wrapper, look);
        if done.err.contains("unrecognized option") {
            skip(
                "isolation::signal_masks_and_descriptors_are_not_inherited",
                &format!("this env(1) has no {}", wrapper[1]),
            );
            continue;
        }
        assert_eq!(done.expect_code(0).out, usual, "{wrapper:?}");
    }
    // Without standard streams the first files that a program opens would be taken for them.
    let closed = ["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"];
    let workspaces = world.smidr.join("workspaces");
    let list = workspaces.join(&World::names(&workspaces)[0]).join("build/fds");
    // A shell moves its own about while it redirects.
    let look = "exec python3 -c \"import os; seen = [os.readlink('/proc/self/fd/%d' % fd) for fd in range(3)]; open('fds', 'w').write(' '.join(seen))\"";
    started_by(&world, &closed, look).expect_code(0);
    assert_eq!(fs::read_to_string(list).expect("a list"), "/dev/null /dev/null /dev/null");
}

/// Mount points inside, and their options.
fn mounted(world: &World) -> BTreeMap<String, (BTreeSet<String>, String)> {
    let done = world.smidr().args(["run", "--", "cat", "/proc/self/mountinfo"]).run();
    let lines = done.expect_code(0).out.lines().map(str::to_owned).collect::<Vec<_>>();
    let fields = lines.iter().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .map(|fields| {
            let options = fields[5].split(',').map(str::to_owned).collect();
            let dash = fields.iter().position(|field| *field == "-").expect("a separator");
            (fields[4].to_owned(), (options, fields[6..dash].join(" ")))
        })
        .collect()
}

#[test]
fn only_planned_mounts_exist() {
    let Some(world) = World::with_project("isolation::only_planned_mounts_exist") else { return };
    let mounted = mounted(&world);
    let workspaces = world.smidr.join("workspaces");
    let workspace = workspaces.join(&World::names(&workspaces)[0]);
    let mine = [
        workspace.join("home"),
        workspace,
        world.smidr.join("downloads"),
        world.smidr.join("sstate-cache"),
        world.project().join("layers/meta-hello"),
    ]
    .map(|path| path.display().to_string());
    let devices = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| format!("/dev/{name}"));
    let mut expected: BTreeSet<String> =
        ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/var/tmp", "/run"].map(str::to_owned).into();
    expected.extend(devices.iter().cloned().chain(mine.iter().cloned()));
    // Parts of /proc that are read-only or hidden; a kernel need not have all of them.
    let masked = |point: &str| point.starts_with("/proc/");
    let seen: BTreeSet<String> = mounted.keys().filter(|point| !masked(point)).cloned().collect();
    assert_eq!(seen, expected);
    for name in ["sys", "sysrq-trigger", "irq", "bus", "keys", "timer_list", "iomem"] {
        let path = format!("/proc/{name}");
        assert!(mounted.contains_key(&path) || !Path::new(&path).exists(), "{path}");
    }
    for (point, (options, propagation)) in &mounted {
        assert!(options.contains("nosuid"), "{point}: {options:?}");
        let device = devices.contains(point) || point == "/dev/pts";
        assert!(options.contains("nodev") || device || point == "/dev", "{point}: {options:?}");
        assert!(!propagation.contains("shared"), "{point}: {propagation}: what is mounted here shows on this machine");
        let read_only = point == "/" || masked(point);
        assert_eq!(options.contains("ro"), read_only, "{point}: {options:?}");
    }
}

#[test]
fn what_is_mounted_in_a_layer_is_as_read_only_as_the_layer() {
    let name = "isolation::what_is_mounted_in_a_layer_is_as_read_only_as_the_layer";
    let Some(unshare) = tool("unshare") else { return skip(name, "there is no unshare(1)") };
    let Some(world) = World::with_project(name) else { return };
    let layer = world.project().join("layers/meta-hello");
    for folder in ["layers/meta-hello/inner", "own/bin", "own/lib/bb"] {
        fs::create_dir_all(world.project().join(folder)).expect("a folder");
    }
    let look = format!(
        "#!/bin/sh\nfor f in {0} {0}/inner {0}/inner/deep; do echo x > $f/new && echo written $f; done\nexit 1\n",
        layer.display()
    );
    for program in ["own/bin/python3", "own/bin/bitbake"] {
        world.write(program, &look);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(world.project().join(program), mode).expect("a mode");
    }
    world.append("bitbake: {path: ./own}\n");
    let script = "mount -t tmpfs one \"$LAYER/inner\" && mkdir \"$LAYER/inner/deep\" && mount -t tmpfs two \"$LAYER/inner/deep\" || exit 99
        exec \"$@\"";
    let mut command = Command::new(unshare);
    world.surround(&mut command);
    command.current_dir(world.project()).env("LAYER", &layer).args(["-Urm", "sh", "-c", script, "sh"]);
    let done =
        Done::new(command.arg(smidr_bin()).args(["build", "--events", "json"]).output().expect("unshare starts"));
    if done.code == Some(99) {
        return skip(name, "a tmpfs cannot be mounted in a namespace of one's own here");
    }
    done.expect_code(1);
    let said = done.out.lines().filter(|line| line.contains(r#""event":"console""#));
    assert_eq!(said.filter(|line| line.contains("Read-only file system")).count(), 3, "{}", done.out);
    assert!(!done.out.contains("written "), "{}", done.out);
}
