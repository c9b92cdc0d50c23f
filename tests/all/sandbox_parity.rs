//! Tests from the suites of other sandboxes (bubblewrap, youki, runc).

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use super::{
    hostile::Entry,
    hostile_roots::Yard,
    support::{Done, World, is_root, skip, smidr_bin, tool},
};

fn inside(world: &World, script: &str) -> Done {
    world.smidr().args(["run", "--", "sh", "-c", script]).run()
}

#[track_caller]
fn says(world: &World, script: &str) -> String {
    inside(world, script).expect_code(0).out.trim().to_owned()
}

/// smidr, started by a wrapper that changes its process attributes.
fn after(world: &World, wrapper: &[&str], script: &str) -> Done {
    let mut command = Command::new(tool(wrapper[0]).expect("the wrapper"));
    world.surround(&mut command);
    command.current_dir(world.project()).args(&wrapper[1..]).arg(smidr_bin()).args(["run", "--", "sh", "-c", script]);
    Done::new(command.output().expect("the wrapper starts"))
}

#[test]
fn a_bind_keeps_read_only_and_noexec_of_its_mounts() {
    let name = "sandbox_parity::a_bind_keeps_read_only_and_noexec_of_its_mounts";
    if tool("unshare").is_none() {
        return skip(name, "there is no unshare(1)");
    }
    let Some(world) = World::with_project(name) else { return };
    let tree = world.work.join("tree");
    fs::create_dir(&tree).expect("a folder");
    world.append(
        "  binds:\n    - {source: ../tree, dest: /srv/ro}\n    - {source: ../tree, dest: /srv/rw, writable: true}\n",
    );
    let mounts = format!(
        "cd '{}' && mount -t tmpfs -o nosuid,nodev,noexec one . && cd \"$PWD\" && mkdir closed open && printf '#!/bin/sh\\n' > run &&
         chmod 755 run && mount -t tmpfs two open && cp run open && mount -t tmpfs -o noexec three closed && cp run closed &&
         mount -o remount,bind,ro,noexec closed && cd '{}' || exit 99; exec \"$@\"",
        tree.display(),
        world.project().display()
    );
    let look = "for b in ro rw; do for f in . open closed; do
            (echo x > /srv/$b/$f/new) 2>/dev/null && echo $b/$f written; /srv/$b/$f/run 2>/dev/null && echo $b/$f executed
        done; done; grep ' /srv/r' /proc/self/mountinfo | cut -d' ' -f5,6";
    let done = after(&world, &["unshare", "-Urm", "sh", "-c", &mounts, "sh"], look);
    if done.code == Some(99) || done.err.starts_with("unshare:") {
        return skip(name, "nothing can be mounted in a namespace of one's own here");
    }
    let out = &done.expect_code(0).out;
    let (mounted, could): (Vec<&str>, Vec<&str>) = out.lines().partition(|line| line.starts_with("/srv/"));
    assert_eq!(could, ["ro/open executed", "rw/. written", "rw/open written", "rw/open executed"]);
    assert_eq!(mounted.len(), 6, "{out}");
    for line in mounted {
        let (point, options) = line.split_once(' ').expect("options");
        let options: Vec<&str> = options.split(',').collect();
        let has = |option| options.contains(&option);
        assert!(has("nosuid") && has("nodev"), "{line}");
        assert_eq!(has("noexec"), !point.ends_with("/open"), "{line}");
        assert_eq!(has("ro"), point.starts_with("/srv/ro") || point.ends_with("/closed"), "{line}");
    }
}

#[test]
fn unreadable_files_stay_unreadable() {
    let name = "sandbox_parity::unreadable_files_stay_unreadable";
    let Some(world) = World::with_project(name) else { return };
    // Root reads everything, by a capability that the build does not have.
    let closed = if is_root() {
        let path = world.work.join("closed");
        fs::write(&path, "secret").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        std::os::unix::fs::chown(&path, Some(4242), Some(4242)).expect("chown");
        path
    } else {
        "/etc/shadow".into()
    };
    if !is_root() && fs::read(&closed).is_ok() {
        return skip(name, "there is no /etc/shadow that is closed to this user");
    }
    world.append(&format!("  binds: [{{source: {}, dest: /srv/closed}}]\n", closed.display()));
    let look =
        "cat /srv/closed || echo closed; chmod 644 /srv/closed || echo kept; cp /srv/closed /tmp/x || echo closed";
    assert_eq!(says(&world, look), "closed\nkept\nclosed");
}

#[test]
fn a_bind_takes_the_place_of_a_link() {
    let Some(yard) = Yard::new("sandbox_parity::a_bind_takes_the_place_of_a_link", World::new()) else { return };
    let given = yard.world.work.join("given");
    fs::create_dir(&given).expect("a folder");
    for way in ["/etc", "/proc/self/root", "../../../../tmp", "itself", "nowhere"] {
        let target = if way == "/etc" { yard.world.work.join("canary").display().to_string() } else { way.into() };
        yard.image(&[Entry::Folder("srv"), Entry::Link("srv/there", &target)]);
        yard.world.append("  binds: [{source: ../given, dest: /srv/there, writable: true}]\n");
        let done = yard.world.smidr().args(["run", "--", "/bin/mark", "/srv/there/mark"]).run();
        assert_eq!((done.code, done.out.as_str()), (Some(0), "ran\n"), "{target}: {done:?}");
        yard.unharmed(&target);
        fs::remove_file(given.join("mark")).unwrap_or_else(|error| panic!("{target}: {error}"));
    }
}

#[test]
fn the_machine_is_neither_writable_nor_readable() {
    let Some(world) = World::with_project("sandbox_parity::the_machine_is_neither_writable_nor_readable") else {
        return;
    };
    // Only what is in memory or in the workspace, and files that any user may write: PSI triggers.
    let writable = says(&world, "find / -xdev -not -type l -writable | sort | tr '\\n' ' '");
    assert_eq!(writable.trim(), "/dev /run /tmp /var/tmp");
    // Opened and nothing more: a test that fails must not change the machine.
    let open = "find /proc -path '/proc/[0-9]*' -prune -o -path '/proc/*self' -prune -o -type f -print 2>/dev/null | grep -v '^/proc/pressure/' |
        while read -r f; do (: >> $f) 2>/dev/null && echo opened $f; done; true";
    assert_eq!(says(&world, open), "");
    // For root some of these would be open: outside it is their owner.
    let hidden =
        "kcore keys timer_list sched_debug slabinfo vmallocinfo iomem kpagecount kpageflags latency_stats kmsg";
    let read = format!("for f in {hidden}; do head -c 1 /proc/$f 2>/dev/null && echo read $f; done; true");
    assert_eq!(says(&world, &read), "");
    assert_eq!(says(&world, "ls -A /sys; cat /proc/sysvipc/shm | wc -l"), "1");
}

#[test]
fn devices_work() {
    let Some(world) = World::with_project("sandbox_parity::devices_work") else { return };
    let script = r#"
import errno, os, pty, stat, multiprocessing
def what(work):
    try:
        return work()
    except OSError as error:
        return errno.errorcode[error.errno]
for name, kind in (("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("random", (1, 8)), ("urandom", (1, 9)), ("tty", (5, 0))):
    found = os.stat("/dev/" + name)
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == kind and stat.S_IMODE(found.st_mode) == 0o666, name
print("full", what(lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"x")))
print("null", os.read(os.open("/dev/null", os.O_RDWR | os.O_CREAT), 1))
print("random", len(os.read(os.open("/dev/random", os.O_RDONLY), 8)))
# There is no terminal here, not even the caller's.
print("tty", what(lambda: os.open("/dev/tty", os.O_RDWR)))
ours, theirs = pty.openpty()
found = os.fstat(theirs)
print("pty", os.ttyname(theirs).startswith("/dev/pts/"), oct(stat.S_IMODE(found.st_mode)), found.st_uid == os.getuid())
print("pts", sorted(os.listdir("/dev/pts")))
print("shm", oct(os.stat("/dev/shm").st_mode & 0o7777), multiprocessing.Semaphore(2).acquire(), multiprocessing.Value("i", 7).value)
print("remove", what(lambda: os.remove("/dev/null")))
for mode, name in ((stat.S_IFCHR, "char"), (stat.S_IFBLK, "block")):
    print(name, what(lambda: os.mknod("/tmp/node", mode | 0o666, os.makedev(1, 1))))
"#;
    let done = world.smidr().args(["run", "--", "python3", "-c", script]).run();
    let expected = "full ENOSPC\nnull b''\nrandom 8\ntty ENXIO\npty True 0o620 True\npts ['0', 'ptmx']\nshm 0o1777 True 7\n\
                    remove EBUSY\nchar EPERM\nblock EPERM\n";
    assert_eq!(done.expect_code(0).out, expected, "{}", done.err);
}

#[test]
fn namespaces_inside_of_namespaces() {
    let Some(world) = World::with_project("sandbox_parity::namespaces_inside_of_namespaces") else { return };
    let own = says(&world, "for n in user mnt pid ipc uts cgroup net; do readlink /proc/self/ns/$n; done");
    for (name, inner) in ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net"].iter().zip(own.lines()) {
        let outer = fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace").display().to_string();
        assert_eq!(outer == inner, *name == "net", "{name}: {inner} inside, {outer} outside");
    }
    // As deep as the kernel allows (user_namespaces(7): 32), and then an error.
    let dive = "deeper() { if [ $1 -lt 40 ]; then unshare -Urn sh -c \"$2\" sh $(($1 + 1)) \"$2\" || echo bottom $1; fi; }; deeper $1 \"$2\"";
    let done = world.smidr().args(["run", "--", "sh", "-c", dive, "sh", "0", dive]).run();
    let bottom = done.out.lines().find_map(|line| line.strip_prefix("bottom ")?.parse::<u32>().ok());
    assert!(bottom.is_some_and(|depth| (3..33).contains(&depth)), "{done:?}");
    // At any depth, mounts and other kinds of namespaces are refused.
    for refused in ["mount -t tmpfs none /tmp", "unshare -m true", "unshare -p true", "unshare -Ur unshare -Urm true"] {
        let done = inside(&world, &format!("unshare -Urn sh -c '{refused}'"));
        assert!(!matches!(done.code, Some(0 | 125)), "{refused}: {done:?}");
    }
}

#[test]
fn orphans_are_reaped() {
    let Some(world) = World::with_project("sandbox_parity::orphans_are_reaped") else { return };
    // Each of them loses its parent at once, and ends as a child of PID 1.
    let script = "for i in $(seq 100); do (sleep 0.05 &) ; done; sleep 0.5; n=0
        for s in /proc/[0-9]*/stat; do read -r line < $s || continue; case $line in *') Z '*) n=$((n + 1));; esac; done; echo $n left";
    assert_eq!(says(&world, script), "0 left");
}

#[test]
fn setuid_has_no_effect() {
    let name = "sandbox_parity::setuid_has_no_effect";
    let Some(world) = World::with_project(name) else { return };
    let program = world.project().join("layers/meta-hello/who");
    let own = says(&world, &format!("cp /usr/bin/id {} && id -u", program.display()));
    for owner in [None, Some(4242), Some(0)] {
        if let Some(owner) = owner {
            if !is_root() {
                continue;
            }
            std::os::unix::fs::chown(&program, Some(owner), Some(owner)).expect("chown");
        }
        fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).expect("a mode");
        assert_eq!(fs::metadata(&program).expect("a file").mode() & 0o6000, 0o6000);
        assert_eq!(says(&world, &format!("{0} -u; {0} -ru", program.display())), format!("{own}\n{own}"), "{owner:?}");
    }
}

#[test]
fn limits_of_the_caller_stay() {
    let Some(world) = World::with_project("sandbox_parity::limits_of_the_caller_stay") else { return };
    let look = "nice; ulimit -Hn; ulimit -Ht; ulimit -Hf";
    let script =
        "ulimit -n 600; ulimit -t 5000; ulimit -f 4000000; exec nice -n 3 sh -c 'nice >&2; exec \"$@\"' sh \"$@\"";
    let done = after(&world, &["sh", "-c", script, "sh"], look);
    let nice = done.expect_code(0).err.lines().next().expect("how nice it is").to_owned();
    assert_eq!(done.out, format!("{nice}\n600\n5000\n4000000\n"));
    let (Some(_), Some(_)) = (tool("taskset"), tool("choom")) else {
        return skip("sandbox_parity::limits_of_the_caller_stay", "in part: there is no taskset(1) or choom(1)");
    };
    let first = ["choom", "-n", "321", "--", "taskset", "-c", "0"];
    assert_eq!(after(&world, &first, "nproc; cat /proc/self/oom_score_adj").expect_code(0).out, "1\n321\n");
}

#[test]
fn modes_are_independent_of_the_umask() {
    let Some(world) = World::with_project("sandbox_parity::modes_are_independent_of_the_umask") else { return };
    fs::create_dir(world.work.join("given")).expect("a folder");
    fs::write(world.work.join("file"), "x").expect("a file");
    symlink("file", world.work.join("link")).expect("a link");
    world.append("  binds: [{source: ../given, dest: /srv/a/b/c}, {source: ../link, dest: /run/d/e/f}]\n");
    let look = "stat -c '%a %n' / /dev /etc /etc/passwd /etc/hosts /srv /srv/a /srv/a/b /run /run/d /run/d/e /tmp /dev/shm /.smidr /.smidr/*";
    let usual = says(&world, look);
    assert!(usual.contains("755 /srv/a/b\n755 /run\n755 /run/d\n") && usual.contains("1777 /tmp"), "{usual}");
    let forget = || {
        // The skeleton on top of the image is made again.
        for name in World::names(&world.smidr.join("tmp/roots")) {
            let path = world.smidr.join("tmp/roots").join(name);
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    };
    for mask in ["000", "077", "027"] {
        forget();
        let umask = format!("umask {mask}; exec \"$@\"");
        let done = after(&world, &["sh", "-c", &umask, "sh"], look);
        assert_eq!(done.expect_code(0).out.trim(), usual, "umask {mask}");
    }
    assert!(Path::new(&world.smidr).exists());
}

#[test]
fn it_starts_in_the_build_folder() {
    let Some(world) = World::with_project("sandbox_parity::it_starts_in_the_build_folder") else { return };
    let look = "import os; cwd = os.getcwd(); print(cwd == os.readlink('/proc/self/cwd') == os.path.realpath('.'), cwd.startswith('/'), \
                os.path.exists('../../../../../../../../../etc/passwd'), os.stat('..').st_ino == os.stat(os.path.dirname(cwd)).st_ino)";
    let done = world.smidr().args(["run", "--", "python3", "-c", look]).run();
    assert_eq!(done.expect_code(0).out, "True True True True\n");
    // Wherever smidr itself was started, a folder that is gone by now among them.
    let gone = format!(
        "mkdir gone && cd gone && rmdir ../gone && exec \"$@\" --config '{}' run -- pwd",
        world.project().join("smidr.yaml").display()
    );
    let mut command = Command::new("sh");
    world.surround(&mut command);
    command.current_dir(world.project()).args(["-c", &gone, "sh"]).arg(smidr_bin());
    let done = Done::new(command.output().expect("sh starts"));
    assert_eq!(done.expect_code(0).out.trim(), says(&world, "pwd"));
}
