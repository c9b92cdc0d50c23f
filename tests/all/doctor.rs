//! `smidr doctor` on machines that cannot build, or only with losses: each simulated in its own namespaces.

use std::{
    fs,
    io::{Seek as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::support::{Done, World, is_root, skip, smidr_bin, tool, user_namespaces};

/// Longer than `doctor` may take, on a machine that does other things too.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

#[test]
fn a_good_machine() {
    if let Err(reason) = user_namespaces() {
        return skip("doctor::a_good_machine", reason);
    }
    let world = World::new();
    let begun = std::time::Instant::now();
    let done = world.smidr().arg("doctor").run();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    done.expect_code(0)
        .expect_out("sandbox       good")
        .expect_out("task network  good")
        .expect_out("files         good")
        .expect_err("this machine can build");
    let long: Vec<&str> = done.out.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(long.is_empty(), "{long:#?}");
    let json = world.smidr().args(["doctor", "--json"]).run().expect_code(0).json();
    assert_eq!((&json["version"], &json["can_build"]), (&1.into(), &true.into()));
    let findings = json["findings"].as_array().expect("a list");
    assert!(findings.iter().all(|finding| finding["name"].is_string() && finding["verdict"].is_string()), "{json}");
    let told: Vec<&str> = findings.iter().filter_map(|finding| finding["name"].as_str()).collect();
    for name in [
        "caller",
        "kernel",
        "namespaces",
        "home",
        "space",
        "memory",
        "processes",
        "open files",
        "limits",
        "detached",
        "certificates",
    ] {
        assert_eq!(told.iter().filter(|known| **known == name).count(), 1, "{name} in {told:?}");
    }
    assert_eq!(World::names(&world.smidr.join("tmp")), Vec::<String>::new(), "nothing is left");
    assert_eq!(World::names(&world.smidr.join("images/tmp")), Vec::<String>::new(), "nothing is left");
}

/// The same with each finding on one line: where the lines break depends on the length of paths.
fn unbroken(done: Done) -> Done {
    Done { out: done.out.replace(&format!("\n{:24}", ""), " "), ..done }
}

/// One finding of `doctor --json`.
#[track_caller]
fn finding(done: &Done, name: &str) -> Value {
    let json = done.json();
    let found = json["findings"].as_array().expect("a list").iter().find(|finding| finding["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {json}")).clone()
}

/// smidr after a shell has changed what is around it, in namespaces that `unshare` makes with these options. None where that
/// does not work here: the script's exit status 99, or unshare's own complaint.
fn inside(world: &World, options: &str, script: &str, args: &[&str]) -> Option<Done> {
    let mut command = Command::new(tool("unshare")?);
    world.surround(&mut command);
    command.current_dir(&world.work).args([options, "sh", "-c", script, "sh"]).arg(smidr_bin()).args(args);
    let done = Done::new(command.output().expect("unshare starts"));
    (done.code != Some(99) && !done.err.starts_with("unshare:")).then(|| unbroken(done))
}

/// smidr where the number of user namespaces is limited.
fn with_user_namespaces(limit: u32, world: &World, args: &[&str]) -> Option<Done> {
    // The limit belongs to a user namespace; that of this machine must stay as it is (namespaces(7)).
    let script = format!(
        "read inside outside count < /proc/self/uid_map && [ \"$count\" = 1 ] || exit 99
        echo {limit} > /proc/sys/user/max_user_namespaces || exit 99; exec \"$@\""
    );
    inside(world, "-Ur", &script, args)
}

fn without_user_namespaces(world: &World, args: &[&str]) -> Option<Done> {
    let heeded = "echo 0 > /proc/sys/user/max_user_namespaces && ! unshare -U true 2>/dev/null || exit 99";
    inside(world, "-Ur", heeded, &[])?;
    with_user_namespaces(0, world, args)
}

#[test]
fn tasks_that_cannot_be_cut_off() {
    let name = "doctor::tasks_that_cannot_be_cut_off";
    let Some(mut world) = World::with_project(name) else { return };
    world.work = world.project();
    // Enough for the sandbox, but not for its tasks.
    let Some(doctor) = with_user_namespaces(1, &world, &["doctor", "--json"]) else {
        return skip(name, "their number cannot be limited in a namespace of its own here");
    };
    let tasks = finding(doctor.expect_code(0), "task network");
    assert_eq!((&tasks["verdict"], &tasks["errno"]), (&"doubtful".into(), &"ENOSPC".into()), "{tasks}");
    assert!(tasks["cause"].as_str().is_some_and(|cause| cause.starts_with("user namespaces are used up")), "{tasks}");
    let build = with_user_namespaces(1, &world, &["build"]).expect("it worked a moment ago");
    // hello has a task that tests it.
    build.expect_code(1).expect_err("failed in network-probe:do_probe");
    build.expect_err("BitBake cannot cut its tasks off from the network here: the sandbox cannot");
    build.expect_err("user namespaces are used up").expect_err("tasks share the network\n");
    let config = world.work.join("smidr.yaml");
    let text = fs::read_to_string(&config).expect("a config");
    fs::write(&config, format!("{text}  isolation: full\n")).expect("a config");
    let strict = with_user_namespaces(1, &world, &["build"]).expect("it worked a moment ago");
    strict.expect_code(3).expect_one_error().expect_err("user namespaces are used up");
}

#[test]
fn no_user_namespaces() {
    let name = "doctor::no_user_namespaces";
    let world = World::new();
    let Some(doctor) = without_user_namespaces(&world, &["doctor"]) else {
        return skip(name, "their number cannot be limited in a namespace of its own here");
    };
    doctor.expect_code(3).expect_out("sandbox       BROKEN").expect_out("(unshare): ENOSPC");
    doctor.expect_out("\nAs administrator");
    doctor.expect_out("\nsysctl -w user.max_user_namespaces=15000\n").expect_err("this machine cannot build yet");
    doctor.expect_out("home          good");
    let json = without_user_namespaces(&world, &["doctor", "--json"]).expect("it worked a moment ago");
    let sandbox = finding(json.expect_code(3), "sandbox");
    assert_eq!((&sandbox["verdict"], &sandbox["errno"]), (&"broken".into(), &"ENOSPC".into()), "{sandbox}");
    assert_eq!(sandbox["cause"], "user namespaces are switched off here (user.max_user_namespaces is 0)");
    assert_eq!(sandbox["remedy_admin"]["lines"][0], "sysctl -w user.max_user_namespaces=15000");
    assert!(sandbox["remedy_user"].is_null() && json.json()["can_build"] == false, "{sandbox}");
    let Some(mut world) = World::with_project(name) else { return };
    world.work = world.project();
    let build = without_user_namespaces(&world, &["build"]).expect("it worked a moment ago");
    build.expect_code(3).expect_one_error().expect_err("namespaces").expect_err("sysctl -w user.max_user_namespaces=");
    let run = without_user_namespaces(&world, &["run", "true"]).expect("it worked a moment ago");
    run.expect_code(125).expect_one_error().expect_err("sysctl -w user.max_user_namespaces=");
}

/// smidr in a sandbox of bubblewrap's.
fn in_bwrap(world: &World, options: &[&str], stdin: Stdio) -> Option<Done> {
    let mut command = Command::new(tool("bwrap")?);
    world.surround(&mut command);
    command.args(options).args(["--dev-bind", "/", "/", "--chdir"]).arg(&world.work).arg("--").arg(smidr_bin());
    Some(Done::new(command.args(["doctor", "--json"]).stdin(stdin).output().expect("bwrap starts")))
}

#[test]
fn in_bubblewrap() {
    let name = "doctor::in_bubblewrap";
    let world = World::new();
    let Some(done) = in_bwrap(&world, &["--unshare-user"], Stdio::null()) else {
        return skip(name, "there is no bwrap");
    };
    if done.err.contains("bwrap: ") {
        return skip(name, done.err.trim());
    }
    assert_eq!(finding(done.expect_code(0), "sandbox")["verdict"], "good");
    // It can forbid further user namespaces.
    let closed =
        in_bwrap(&world, &["--unshare-user", "--disable-userns"], Stdio::null()).expect("it worked a moment ago");
    if closed.err.contains("bwrap: ") {
        return skip(name, closed.err.trim());
    }
    let sandbox = finding(closed.expect_code(3), "sandbox");
    assert_eq!(sandbox["errno"], "ENOSPC", "{sandbox}");
    assert!(
        sandbox["cause"].as_str().is_some_and(|cause| cause.contains("user namespace around this one")),
        "{sandbox}"
    );
}

/// A filter as containers have it, in the kernel's own form (seccomp(2), "struct sock_filter"): EPERM for unshare.
fn filter_of_unshare() -> Vec<u8> {
    let instructions: [(u16, u8, u8, u32); 4] = [
        // Load the call's number; where it is unshare's, answer EPERM; allow everything else.
        ((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        ((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, libc::SYS_unshare as u32),
        ((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        ((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let bytes =
        |(code, yes, no, k): (u16, u8, u8, u32)| [&code.to_ne_bytes()[..], &[yes, no], &k.to_ne_bytes()].concat();
    instructions.into_iter().flat_map(bytes).collect()
}

#[test]
fn a_filter_that_forbids_namespaces() {
    let name = "doctor::a_filter_that_forbids_namespaces";
    let world = World::new();
    let mut filter = tempfile::tempfile().expect("a file");
    filter.write_all(&filter_of_unshare()).and_then(|()| filter.rewind()).expect("write the filter");
    let Some(done) = in_bwrap(&world, &["--seccomp", "0"], filter.into()) else {
        return skip(name, "there is no bwrap");
    };
    if done.err.contains("bwrap: ") {
        return skip(name, done.err.trim());
    }
    let sandbox = finding(done.expect_code(3), "sandbox");
    assert_eq!(sandbox["errno"], "EPERM", "{sandbox}");
    assert!(sandbox["cause"].as_str().is_some_and(|cause| cause.contains("seccomp filter")), "{sandbox}");
    assert_ne!((&sandbox["remedy_user"], &sandbox["remedy_admin"]), (&Value::Null, &Value::Null), "{sandbox}");
}

/// PID 1 stays outside, as that of a machine does.
const CHROOT: &str = "mkdir -p new && mount -t tmpfs tmpfs new && cd new && mkdir root || exit 99
    for path in /*; do
        if [ -L \"$path\" ]; then cp -d \"$path\" root || exit 99
        elif [ -d \"$path\" ]; then mkdir \"root$path\" && mount --rbind \"$path\" \"root$path\" || exit 99
        fi
    done
    $MOUNTED
    chroot root \"$@\"
    exit $?";

#[test]
fn in_a_chroot() {
    let name = "doctor::in_a_chroot";
    let world = World::new();
    // A folder that is no mount point, and one that is.
    for mounted in [":", "mount --rbind root root"] {
        let script = CHROOT.replace("$MOUNTED", mounted);
        let Some(done) =
            inside(&world, "-Urmpf", &format!("mount -t proc proc /proc || exit 99; {script}"), &["doctor"])
        else {
            return skip(name, "there can be no chroot in a namespace of its own here");
        };
        done.expect_code(3).expect_out("sandbox       BROKEN").expect_out("(unshare): EPERM");
        done.expect_out("this is a chroot, and the kernel forbids user namespaces in one");
        done.expect_out("\nYou can run smidr outside of it").expect_out("\nbwrap --dev-bind DIR / ");
    }
}

#[test]
fn in_a_chroot_as_root() {
    let name = "doctor::in_a_chroot_as_root";
    if !is_root() {
        return skip(name, "only root can make one without a user namespace");
    }
    let world = World::new();
    let script = CHROOT.replace("$MOUNTED", ":");
    let Some(done) = inside(&world, "-mpf", &format!("mount -t proc proc /proc || exit 99; {script}"), &["doctor"])
    else {
        return skip(name, "nothing can be mounted here");
    };
    done.expect_code(3).expect_out("this is a chroot");
}

#[test]
fn with_parts_of_proc_masked() {
    let name = "doctor::with_parts_of_proc_masked";
    let world = World::new();
    let script = "mount -t proc proc /proc && mount -t tmpfs tmpfs /proc/fs || exit 99; exec \"$@\"";
    let Some(done) = inside(&world, "-Urmpf", script, &["doctor", "--json"]) else {
        return skip(name, "/proc cannot be mounted in a namespace of its own here");
    };
    let sandbox = finding(done.expect_code(0), "sandbox");
    assert_eq!(sandbox["text"], "no PID namespace: builds work, and see this machine's processes");
    assert_eq!((&sandbox["verdict"], &sandbox["errno"]), (&"doubtful".into(), &"EPERM".into()));
    assert!(sandbox["cause"].as_str().is_some_and(|cause| cause.contains("/proc/fs")), "{sandbox}");
    assert!(sandbox["remedy_user"]["how"].is_string(), "{sandbox}");
}

/// `doctor` with SMIDR_HOME on a file system of its own, mounted like this.
fn on(world: &World, mount: &str) -> Option<Done> {
    let script = format!("mkdir -p \"$SMIDR_HOME\" && mount {mount} none \"$SMIDR_HOME\" || exit 99; exec \"$@\"");
    inside(world, "-Urm", &script, &["doctor"])
}

#[test]
fn a_home_on_tmpfs() {
    let name = "doctor::a_home_on_tmpfs";
    let world = World::new();
    let Some(memory) = on(&world, "-t tmpfs -o mode=700,size=50m,nr_inodes=5000") else {
        return skip(name, "nothing can be mounted in a namespace of its own here");
    };
    memory.expect_code(0).expect_out("home          doubtful  ").expect_out("on tmpfs: it is gone after the next boot");
    memory.expect_out("space         doubtful  52 MB free").expect_out("inodes        doubtful  ");
    memory.expect_out("export SMIDR_HOME=DIR").expect_err("this machine can build");
    let noexec = on(&world, "-t tmpfs -o mode=700,noexec").expect("it worked a moment ago");
    noexec.expect_code(3).expect_out("home          BROKEN    no program may run from ").expect_out("noexec");
    noexec.expect_out("mount -o remount,exec").expect_err("this machine cannot build yet");
    let read_only = on(&world, "-t tmpfs -o mode=700,ro").expect("it worked a moment ago");
    read_only.expect_code(3).expect_out("home          BROKEN    ").expect_out("Read-only file system");
    read_only.expect_one_error().expect_err("hint: choose a writable place:  export SMIDR_HOME=DIR");
    read_only.expect_out("sandbox       good").expect_out("memory        ");
}

#[test]
fn a_home_without_extended_attributes() {
    let name = "doctor::a_home_without_extended_attributes";
    let world = World::new();
    let Some(done) = on(&world, "-t ramfs -o mode=700") else {
        return skip(name, "ramfs cannot be mounted in a namespace of its own here");
    };
    done.expect_code(0).expect_out("files         doubtful  files can have no attributes (user.*) there");
    done.expect_out("images whose layers replace folders of other layers cannot be unpacked");
}

#[test]
fn a_home_on_a_read_only_file_system() {
    let name = "doctor::a_home_on_a_read_only_file_system";
    let world = World::new();
    let script = "mkdir -p \"$SMIDR_HOME\" && mount -t tmpfs -o mode=700 tmpfs \"$SMIDR_HOME\" || exit 99
        \"$1\" doctor > /dev/null 2>&1 || exit 99
        mount -o remount,bind,ro \"$SMIDR_HOME\" || exit 99; exec \"$@\"";
    let Some(done) = inside(&world, "-Urm", script, &["doctor"]) else {
        return skip(name, "nothing can be mounted in a namespace of its own here");
    };
    done.expect_code(3).expect_out("home          BROKEN    nothing may be written to ");
    done.expect_out("sandbox       good").expect_out("choose another place:  export SMIDR_HOME=DIR");
}

#[test]
fn a_home_that_cannot_be_made() {
    let world = World::new();
    let done = world.smidr().args(["doctor", "--json"]).env("SMIDR_HOME", "/proc/nowhere").run();
    let home = finding(done.expect_code(2).expect_one_error(), "home");
    assert_eq!((&home["verdict"], &done.json()["can_build"]), (&"broken".into(), &false.into()), "{home}");
    assert!(home["text"].as_str().is_some_and(|text| text.contains("/proc/nowhere")), "{home}");
    assert!(finding(&done, "memory")["text"].is_string(), "the rest is told all the same");
}

#[test]
fn a_home_that_openembedded_refuses() {
    let mut world = World::new();
    fs::create_dir(&world.smidr).expect("a SMIDR_HOME");
    fs::set_permissions(&world.smidr, fs::Permissions::from_mode(0o2700)).expect("chmod");
    let shared = world.smidr().args(["doctor", "--json"]).run();
    let path = finding(shared.expect_code(3), "path");
    assert!(path["text"].as_str().is_some_and(|text| text.starts_with("workspaces inherit the setgid bit")), "{path}");
    let typed = path["hint"].as_str().and_then(|hint| hint.strip_prefix("take it away:  ")).expect("something to type");
    assert!(Command::new("sh").args(["-c", typed]).status().expect("sh starts").success(), "{typed}");
    assert!(!world.smidr().arg("doctor").run().out.contains("setgid"), "what is typed helps");
    world.smidr = world.work.join("a+b c");
    let named = unbroken(world.smidr().arg("doctor").run());
    named.expect_code(3).expect_out("path          BROKEN    ").expect_out("a+b c").expect_out("export SMIDR_HOME=DIR");
}

#[test]
fn limits_of_this_process() {
    let name = "doctor::limits_of_this_process";
    let Some(prlimit) = tool("prlimit") else { return skip(name, "there is no prlimit(1)") };
    let world = World::new();
    let mut command = Command::new(prlimit);
    world.surround(&mut command);
    command.args(["--nofile=512:512", "--nproc=900:900"]).arg(smidr_bin()).arg("doctor").current_dir(&world.work);
    let done = unbroken(Done::new(command.output().expect("prlimit starts")));
    done.expect_out("open files    doubtful  only 512 in each process").expect_out("/etc/security/limits.d/smidr.conf");
    done.expect_out("processes     doubtful  only ");
}
