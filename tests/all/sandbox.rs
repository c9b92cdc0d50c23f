//! The sandbox from the inside: ids, files and rights of a program in `smidr run`.

use std::{fs, path::Path, process::Command, time::Duration};

use nix::sys::signal::Signal;

use super::support::{Done, LONG, World, is_root, processes_with, skip, smidr_bin, tool, wait_for};

fn inside(world: &World, script: &str) -> Done {
    world.smidr().args(["run", "--", "sh", "-c", script]).run()
}

/// The trimmed output of a script that must succeed.
#[track_caller]
fn says(world: &World, script: &str) -> String {
    inside(world, script).expect_code(0).out.trim().to_owned()
}

#[test]
fn ids_and_capabilities() {
    let Some(world) = World::with_project("sandbox::ids_and_capabilities") else { return };
    let own = nix::unistd::geteuid().as_raw();
    let expected = if own == 0 { 1000 } else { own };
    assert_eq!(says(&world, "id -u; id -g; id -un; echo $USER"), format!("{expected}\n{expected}\nbuilder\nbuilder"));
    let status = says(&world, "cat /proc/self/status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{set} in\n{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    // One id is mapped, and the caller's own.
    assert_eq!(says(&world, "awk '{print $1, $2, $3}' /proc/self/uid_map"), format!("{expected} {own} 1"));
    assert_eq!(says(&world, "cat /proc/self/setgroups"), "deny");
    assert_eq!(says(&world, "unshare -Urn true && echo works"), "works");
}

#[test]
fn forbidden_operations_fail() {
    let Some(world) = World::with_project("sandbox::forbidden_operations_fail") else { return };
    let rows = [
        ("echo x > /usr/x", "Read-only file system"),
        ("echo x > /etc/passwd", "Read-only file system"),
        ("mkdir /new", "Read-only file system"),
        ("rm /bin/sh", "Read-only file system"),
        ("echo x > /proc/sys/kernel/hostname", "Read-only file system"),
        ("echo b > /proc/sysrq-trigger", ""),
        ("mount -t tmpfs none /mnt", ""),
        ("mknod /tmp/null c 1 3", "not permitted"),
        ("chown 0:0 /tmp", ""),
        ("hostname other", ""),
        ("kill -0 2 && kill -STOP 1 && cat /proc/1/environ", ""),
        ("cat /proc/1/mem", ""),
        ("chroot / true || exit 9", "not permitted"),
    ];
    for (script, reason) in rows {
        let done = inside(&world, script);
        assert!(!matches!(done.code, Some(0 | 125)), "{script}: {done:?}");
        assert!(done.err.contains(reason), "{script}: {done:?}");
    }
}

#[test]
fn unneeded_system_calls_are_refused() {
    let Some(world) = World::with_project("sandbox::unneeded_system_calls_are_refused") else { return };
    world.append("  openat2: show\n");
    let script = r#"
import ctypes, errno, fcntl, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    ctypes.set_errno(0)
    libc.syscall(*args)
    return errno.errorcode.get(ctypes.get_errno(), "done")
x86 = platform.machine() == "x86_64"
numbers = dict(unshare=272, mount=165, keyctl=250, bpf=321, setns=308) if x86 else dict(unshare=97, mount=40, keyctl=219, bpf=280, setns=268)
print("clone3", call(435, 0, 0))
print("openat2", call(437, -100, 0, 0, 0))
print("io_uring", call(425, 1, 0))
print("open_tree", call(428, -100, b"/", 0))
for name in ("keyctl", "bpf", "setns"):
    print(name, call(numbers[name], 0, 0, 0, 0, 0))
print("unshare", call(numbers["unshare"], 0x10000000 | 0x00020000))
for request in (0x5412, 0x541C, 0xdead00005412):
    print("ioctl", call(16 if x86 else 29, 0, ctypes.c_ulong(request), ctypes.c_char_p(b"x")))
print("nested", call(numbers["unshare"], 0x10000000 | 0x40000000))
# Root of a user namespace of its own by now, and still not allowed to.
print("mount", call(numbers["mount"], b"none", b"/tmp", b"tmpfs", 0, 0))
"#;
    let done = world.smidr().args(["run", "--", "python3", "-c", script]).run();
    let expected = "clone3 ENOSYS\nopenat2 EINVAL\nio_uring EPERM\nopen_tree EPERM\nkeyctl EPERM\nbpf EPERM\nsetns EPERM\n\
                    unshare EPERM\nioctl EPERM\nioctl EPERM\nioctl EPERM\nnested done\nmount EPERM\n";
    assert_eq!(done.expect_code(0).out, expected);
}

#[test]
fn abstract_sockets_of_this_machine_are_out_of_reach() {
    let name = "sandbox::abstract_sockets_of_this_machine_are_out_of_reach";
    let Some(world) = World::with_project(name) else { return };
    if world.smidr().arg("doctor").run().out.contains("sockets       doubtful") {
        return skip(name, "this kernel has no Landlock that scopes abstract sockets");
    }
    use std::os::linux::net::SocketAddrExt as _;
    let label = format!("smidr-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&label).expect("an address");
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("a socket");
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ntry:\n  s.connect('\\0{label}'); print('reached')\n\
         except PermissionError: print('refused')\nown = socket.socket(socket.AF_UNIX); own.bind('\\0{label}-own'); own.listen()\n\
         socket.socket(socket.AF_UNIX).connect('\\0{label}-own'); print('own works')\n"
    );
    let done = world.smidr().args(["run", "--", "python3", "-c", &script]).run();
    assert_eq!(done.expect_code(0).out, "refused\nown works\n");
    // From here it can be reached, so the test would fail without Landlock.
    std::os::unix::net::UnixStream::connect_addr(&address).expect("reached");
}

#[test]
fn visible_files_and_processes() {
    let Some(world) = World::with_project("sandbox::visible_files_and_processes") else { return };
    fs::write(world.home.join("secret"), "mine").expect("a file");
    let project = world.project();
    let places = format!(
        "for p in {home} {home}/secret {project}/smidr.yaml {smidr}/history.db {smidr}/images {exe} /root/secret; do \
         test -e $p && echo $p; done; test -d {project}/layers/meta-hello && echo layer",
        home = world.home.display(),
        project = project.display(),
        smidr = world.smidr.display(),
        exe = smidr_bin().display(),
    );
    assert_eq!(says(&world, &places), "layer", "of the host only the layer is there");
    let workspace = World::names(&world.smidr.join("workspaces"));
    let top = world.smidr.join("workspaces").join(&workspace[0]);
    assert_eq!(says(&world, "pwd"), top.join("build").display().to_string());
    assert_eq!(says(&world, "echo $HOME"), top.join("home").display().to_string());
    assert_eq!(says(&world, "touch ~/kept && hostname"), "smidr");
    assert!(!top.join("home/kept").exists(), "HOME is the session's own, and gone with it");
    assert_eq!(says(&world, "cat /etc/hostname"), "smidr");
    // /tmp is empty but for mount points, open to all, and gone afterwards.
    assert_eq!(says(&world, "stat -c %a /tmp /var/tmp; echo x > /tmp/left; cat /tmp/left"), "1777\n1777\nx");
    assert_eq!(says(&world, "find /tmp /var/tmp /run -type f -name left | wc -l"), "0");
    assert!(!std::env::temp_dir().join("left").exists());
    // Processes: PID 1 is smidr's, and besides it there is only this shell with its children.
    let processes = says(&world, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done");
    assert!(processes.lines().count() <= 3, "{processes}");
    assert!(processes.lines().next().is_some_and(|line| line.contains("__sandbox-init")), "{processes}");
    let devices = says(&world, "ls /dev");
    let devices: Vec<&str> = devices.lines().collect();
    let expected =
        ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"];
    assert_eq!(devices, expected);
    assert_eq!(says(&world, "echo x > /dev/null; head -c 3 /dev/zero | wc -c"), "3");
}

#[test]
fn layers_are_writable_in_run_and_shell() {
    let Some(world) = World::with_project("sandbox::layers_are_writable_in_run_and_shell") else { return };
    let layer = world.project().join("layers/meta-hello");
    assert_eq!(says(&world, &format!("echo x > {}/new && echo ok", layer.display())), "ok");
    assert_eq!(fs::read_to_string(layer.join("new")).expect("the file"), "x\n");
}

#[test]
fn no_environment_or_descriptor_of_the_caller_leaks() {
    let Some(world) = World::with_project("sandbox::no_environment_or_descriptor_of_the_caller_leaks") else { return };
    world.append("  env: [GREETING]\n");
    let dump = "env; cat /proc/[0-9]*/environ | tr '\\0' '\\n'; cat /proc/*/cmdline | tr '\\0' ' '";
    let run = world.smidr().args(["run", "sh", "-c", dump]).env("GREETING", "named by the config");
    let done = run.env("AWS_SECRET_ACCESS_KEY", "hunter2").env("SSH_AUTH_SOCK", "/hunter2").run();
    done.expect_out("GREETING=named by the config");
    assert!(!done.out.contains("hunter2"), "{}", done.out);
    assert!(!done.out.contains(&world.home.display().to_string()), "{}", done.out);
    // A descriptor that smidr happens to inherit ends with smidr.
    let mut command = Command::new("sh");
    world.surround(&mut command);
    command.current_dir(world.project()).args(["-c", "exec 7</etc/passwd; exec \"$0\" run -- sh -c 'ls /proc/$$/fd'"]);
    let done = Done::new(command.arg(smidr_bin()).output().expect("sh starts"));
    assert_eq!(done.expect_code(0).out, "0\n1\n2\n");
}

#[test]
fn the_exit_status_is_passed_on() {
    let Some(world) = World::with_project("sandbox::the_exit_status_is_passed_on") else { return };
    let rows = [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 127", 127),
        ("exit 255", 255),
        ("kill -SEGV $$", 139),
        ("kill -KILL $$", 137),
    ];
    for (script, code) in rows {
        let done = inside(&world, script);
        assert_eq!(done.code, Some(code), "{script}: {done:?}");
        assert_eq!(done.out, "", "{script}");
    }
    let missing = world.smidr().args(["run", "no-such-program"]).run();
    missing.expect_code(125).expect_one_error().expect_err("cannot run no-such-program in the sandbox");
    let folder = world.smidr().args(["run", "/usr"]).run();
    folder.expect_code(125).expect_one_error().expect_err("Permission denied");
    // Processes that it leaves behind do not delay the end.
    assert_eq!(says(&world, "(setsid sleep 1000 >/dev/null 2>&1 &); echo done"), "done");
}

#[test]
fn streams_pass_through() {
    let Some(world) = World::with_project("sandbox::streams_pass_through") else { return };
    let input: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let done = world.smidr().args(["run", "cat"]).run_with(&input);
    assert_eq!(done.expect_code(0).out, input);
    let done = inside(&world, "echo data; echo talk >&2");
    assert_eq!((done.out.as_str(), done.err.as_str()), ("data\n", "talk\n"));
    // Arguments are passed unchanged.
    let odd = ["a b", "", "--help", "$HOME", "*", "ü"];
    let done = world.smidr().args(["run", "--", "printf", "[%s]"]).args(odd).run();
    assert_eq!(done.out, "[a b][][--help][$HOME][*][ü]");
}

#[test]
fn printing_the_sandbox_runs_nothing() {
    let Some(world) = World::with_project("sandbox::printing_the_sandbox_runs_nothing") else { return };
    let mark = world.project().join("layers/meta-hello/mark");
    let done = world.smidr().args(["run", "--print-sandbox", "touch"]).arg(&mark).run();
    done.expect_code(0).expect_out("enter new user, mount, PID, IPC, UTS and cgroup namespaces");
    done.expect_out("drop every capability, set no_new_privs").expect_out("run touch ").expect_out("pivot_root");
    assert!(!mark.exists());
    let plain = world.smidr().args(["shell", "--print-sandbox"]).run();
    plain.expect_code(0).expect_out("show /");
    assert!(!plain.out.contains(&world.home.display().to_string()), "{}", plain.out);
}

#[test]
fn network_none_gives_an_own_network() {
    let Some(world) = World::with_project("sandbox::network_none_gives_an_own_network") else { return };
    let interfaces =
        "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\\n' ' '; readlink /proc/self/ns/net";
    let host = fs::read_link("/proc/self/ns/net").expect("a link").display().to_string();
    assert!(says(&world, interfaces).ends_with(&host), "by default, the fetchers have this machine's network");
    world.append("  network: none\n");
    let own = says(&world, interfaces);
    assert!(!own.ends_with(&host), "{own}");
    assert!(own.split_whitespace().next() == Some("lo"), "{own}");
    assert_eq!(says(&world, "nproc | grep -c ."), "1");
}

#[test]
fn host_cpus_limits_processors() {
    let Some(world) = World::with_project("sandbox::host_cpus_limits_processors") else { return };
    world.append("  cpus: 1\n");
    assert_eq!(says(&world, "nproc"), "1");
}

#[test]
fn signals_end_it() {
    let Some(world) = World::with_project("sandbox::signals_end_it") else { return };
    // Not dash, which loses a SIGINT that comes while it starts a program.
    let rows = [
        ("trap 'exit 7' INT; echo ready; while :; do sleep 0.02; done", Signal::SIGINT, 7),
        ("echo ready; sleep 1000; true", Signal::SIGINT, 130),
        ("echo ready; sleep 1000; true", Signal::SIGTERM, 143),
        ("echo ready; sleep 1000; true", Signal::SIGHUP, 129),
    ];
    for (script, signal, code) in rows {
        let mut running = world.smidr().args(["run", "bash", "-c", script]).start();
        running.until_says("ready");
        running.signal(signal);
        let done = running.wait();
        assert_eq!(done.code, Some(code), "{script} after {signal}: {done:?}");
    }
    // A program that ignores the first is killed by the second.
    let mut running =
        world.smidr().args(["run", "bash", "-c", "trap '' INT TERM; echo ready; while :; do sleep 1; done"]).start();
    running.until_says("ready");
    running.signal(Signal::SIGTERM);
    // Two equal signals at once would be one.
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait().code, Some(137));
    let marker = world.smidr.join("workspaces").display().to_string();
    wait_for("the processes to be gone", LONG, || processes_with(&marker).is_empty());
}

#[test]
fn sigkill_leaves_nothing() {
    let Some(world) = World::with_project("sandbox::sigkill_leaves_nothing") else { return };
    let script = "trap '' HUP INT TERM; (setsid sleep 1000 &); unshare -Ur sleep 1000 & sleep 1000 & echo ready; wait";
    let mut running = world.smidr().args(["run", "sh", "-c", script]).start();
    running.until_says("ready");
    let marker = world.smidr.join("workspaces").display().to_string();
    let helper = format!("__sandbox-init\0{}\0", running.pid());
    wait_for("four processes of the sandbox", LONG, || processes_with(&marker).len() >= 4);
    assert_eq!(processes_with(&helper).len(), 2, "the helper and its PID 1");
    running.signal(Signal::SIGKILL);
    let _ = running.child.wait();
    let left = || [processes_with(&marker), processes_with(&helper)].concat();
    wait_for("every process of the sandbox to be gone", Duration::from_secs(1), || left().is_empty());
}

#[test]
fn a_terminal_is_passed_through() {
    let name = "sandbox::a_terminal_is_passed_through";
    let Some(script) = tool("script") else { return skip(name, "there is no script(1) to give it a terminal") };
    let Some(world) = World::with_project(name) else { return };
    let mut command = Command::new(script);
    world.surround(&mut command);
    let line = format!(
        "{} run -- sh -c 'test -t 0 && test -t 1 && stty -a && echo a terminal > /dev/tty'",
        smidr_bin().display()
    );
    command.current_dir(world.project()).args(["-qefc", &line, "/dev/null"]);
    let done = Done::new(command.output().expect("script starts"));
    done.expect_code(0).expect_out("isig").expect_out("a terminal");
}

#[test]
fn folders_of_other_users_are_refused() {
    let Some(world) = World::with_project("sandbox::folders_of_other_users_are_refused") else { return };
    // Root gives its own folders away; others use one of root's.
    if is_root() {
        let project = world.init("theirs");
        std::os::unix::fs::chown(&project, Some(4242), Some(4242)).expect("chown");
        let config = project.join("smidr.yaml");
        for (command, code) in [(&["build"][..], 3), (&["run", "true"], 125)] {
            let done = world.smidr().arg("--config").arg(&config).args(command).run();
            done.expect_code(code)
                .expect_one_error()
                .expect_err("belongs to another user, and a build of it is theirs");
        }
        // check and plan only look.
        for command in ["check", "plan"] {
            world.smidr().arg("--config").arg(&config).arg(command).run().expect_code(0);
        }
    }
    let home = world.work.join("their-home");
    let (home, code, why) = if is_root() {
        fs::create_dir(&home).expect("a folder");
        std::os::unix::fs::chown(&home, Some(4242), Some(4242)).expect("chown");
        (home, 3, "belongs to uid 4242")
    } else {
        ("/usr".into(), 2, "holds files that are not smidr's")
    };
    for (command, code) in
        [(&["build"][..], code), (&["image", "ls"], code), (&["run", "true"], 125), (&["doctor"], code)]
    {
        let done = world.smidr().args(command).env("SMIDR_HOME", &home).run();
        done.expect_code(code).expect_one_error().expect_err(why).expect_err("hint: ");
    }
    if is_root() {
        assert_eq!(World::names(&home), Vec::<String>::new());
    }
}

#[test]
fn no_signal_of_a_program_ends_it() {
    let Some(world) = World::with_project("sandbox::no_signal_of_a_program_ends_it") else { return };
    assert_eq!(says(&world, "kill -USR2 1; kill -TERM 1; kill -HUP 1; sleep 0.3; echo alive"), "alive");
}

#[test]
fn a_home_that_others_write_to_is_refused_and_one_that_they_read_is_closed() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    fs::create_dir(&world.smidr).expect("a SMIDR_HOME");
    for bad in [0o777, 0o1777, 0o775, 0o722, 0o2770] {
        set(&world.smidr, bad);
        let done = world.smidr().args(["image", "ls"]).run();
        done.expect_code(3).expect_one_error().expect_err(&format!("can be written to by others (mode {bad:04o})"));
        done.expect_err(&format!("chmod 700 {}", world.smidr.display()));
        assert_eq!((mode(&world.smidr), World::names(&world.smidr)), (bad, Vec::new()), "nothing was done there");
    }
    // Readable ones are closed, and what is made in them as well.
    set(&world.smidr, 0o755);
    world.smidr().args(["image", "ls"]).run().expect_code(0);
    assert_eq!(mode(&world.smidr), 0o700);
    for name in World::names(&world.smidr) {
        assert_eq!(mode(&world.smidr.join(&name)) & 0o077, 0, "{name}");
    }
    // A folder of it that others may write to: refused only if they can reach it. A link there is allowed.
    let recipes = world.smidr.join("recipes");
    set(&recipes, 0o777);
    world.smidr().args(["image", "ls"]).run().expect_code(0);
    // They can if its home was open until now.
    set(&world.smidr, 0o755);
    world.smidr().args(["image", "ls"]).run().expect_code(3).expect_err(&format!("{} can be", recipes.display()));
    fs::remove_dir(&recipes).expect("empty");
    let shared = world.work.join("shared");
    fs::create_dir(&shared).expect("a folder");
    set(&shared, 0o777);
    std::os::unix::fs::symlink(&shared, &recipes).expect("a link");
    world.smidr().args(["image", "ls"]).run().expect_code(0);
    // A folder like /tmp is allowed as its parent.
    set(&world.work, 0o1777);
    let inside = world.work.join("home");
    world.smidr().args(["image", "ls"]).env("SMIDR_HOME", &inside).run().expect_code(0);
    assert_eq!(mode(&inside), 0o700);
}
