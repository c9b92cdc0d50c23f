//! What a build sends to this machine: output, events and artifacts, all untrusted.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::support::{Done, LONG, Running, Smidr, World, wait_for};

/// A recipe that tries to open the pipe of BitBake's user interface, and deploys hostile files.
const SPOIL: &str = r##"LICENSE = "MIT"
inherit nobuild

def reach(d, when):
    import ctypes, os
    said = []
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as file:
                if b"launch.py" not in file.read():
                    continue
        except OSError:
            continue
        said.append("%s found it" % when)
        try:
            with open("/proc/%s/environ" % pid) as file:
                fd = file.read().split("SMIDR_EVENT_FD=")[1].split("\0")[0]
            with open("/proc/%s/fd/%s" % (pid, fd), "w") as pipe:
                pipe.write('{"e":"log","level":"error","text":"forged by %s"}\n' % when)
            said.append("%s opened it" % when)
        except OSError as problem:
            said.append("%s: %s" % (when, problem.strerror))
        pidfd = libc.syscall(434, int(pid), 0)
        if any(libc.syscall(438, pidfd, number, 0) >= 0 for number in range(3, 16)):
            said.append("%s took it" % when)
    for folder in ("/proc/%s/fd" % pid for pid in filter(str.isdigit, os.listdir("/proc"))):
        try:
            ends = [(os.readlink(folder + "/" + fd), os.lstat(folder + "/" + fd).st_mode) for fd in os.listdir(folder)]
        except OSError:
            continue
        said += ["%s writes %s" % (when, pipe) for pipe, mode in ends if pipe.startswith("pipe:") and mode & 0o200]
    with open(d.getVar("TOPDIR") + "/report", "a") as file:
        file.writelines(line + "\n" for line in said)
        file.write("%s net %s\n" % (when, os.readlink("/proc/self/ns/net")))

python () {
    reach(d, "parsing")
}

addtask spoil after do_patch before do_build
do_spoil[network] = "1"
python do_spoil() {
    reach(d, "task")
    images = d.getVar("DEPLOY_DIR_IMAGE").encode()
    at = lambda name: os.path.join(images, name)
    os.makedirs(at(b"sub\xfe"), exist_ok=True)
    for name in (b"bad\xff.img", b"bad\xfe.img", b"sub\xfe/inner", b"plain"):
        with open(at(name), "wb") as file:
            file.write(name)
    with open(at(b"sparse"), "wb") as file:
        file.seek(2 << 30)
        file.write(b"end")
        file.truncate(3 << 30)
    with open(at(b"setuid"), "wb") as file:
        file.write(b"#!/bin/sh\n")
    os.chmod(at(b"setuid"), 0o6755)
    with open(at(b"one"), "wb") as file:
        file.write(os.urandom(4 << 20))
    os.link(at(b"one"), at(b"two"))
    for name, target in ((b"absolute", b"/etc/shadow"), (b"climbs", b"../../../key"), (b"turns", b"here/../../key"),
                         (b"stays", b"plain"), (b"odd", b"bad\xff.img"), (b"here", b"."), (b"sub\xfe/up", b"../plain")):
        os.symlink(target, at(name))
    licences = d.expand("${DEPLOY_DIR}/licenses/coll")
    os.makedirs(licences, exist_ok=True)
    with open(licences + "/text", "w") as file:
        file.write("MIT")
    os.chmod(licences + "/text", 0o4755)
    os.symlink("/etc/shadow", licences + "/key")
    os.symlink("text", licences + "/again")
}

addtask cut after do_spoil before do_build
python do_cut() {
    reach(d, "cut")
}
"##;

/// smidr for a project that this test has changed on purpose.
fn trusted(world: &World) -> Smidr {
    world.smidr().env("SMIDR_TRUST", "1")
}

fn artifact<'a>(document: &'a Value, path: &str) -> &'a Value {
    let all = document["artifacts"].as_array().expect("a list");
    all.iter().find(|artifact| artifact["path"] == path).unwrap_or_else(|| panic!("no {path} in {document:#}"))
}

#[test]
fn artifacts_lose_setuid_bits_and_outside_links() {
    let Some(world) = World::with_project("border::artifacts_lose_setuid_bits_and_outside_links") else { return };
    world.write("layers/meta-hello/recipes-test/spoil/spoil.bb", SPOIL);
    let plan = trusted(&world).args(["plan", "--json"]).run().json();
    let top = plan["plan"]["folders"]["top"].as_str().expect("TOPDIR").to_owned();
    let report = Path::new(&top).join("report");
    let running = trusted(&world).args(["build", "--target", "spoil", "--events", "json"]).start();
    wait_for("BitBake to parse", LONG, || report.exists());
    let pipes = pipes_of(&running);
    let done = running.wait();
    assert!(!done.err.contains("panicked"), "{}", done.err);
    done.expect_code(0);
    nobody_else_speaks_for_bitbake(&done, &report, &pipes);

    let id =
        done.out.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()?["build"].as_str().map(String::from));
    let id = id.expect("an event");
    let listed = world.smidr().args(["artifacts", "show", &id, "--json"]).run().json();
    let folder = PathBuf::from(listed["folder"].as_str().expect("a folder")).join("images/hello-x86-64");
    let copied = world.work.join("copied");
    let copy = world.smidr().args(["artifacts", "copy", &id]).arg(&copied).run();
    copy.expect_code(0).expect_err("3 links");
    for place in [&folder, &copied.join("images/hello-x86-64")] {
        are_harmless(place);
    }
    // Names that are not UTF-8 are recorded without loss.
    let odd = artifact(&listed, "images/hello-x86-64/bad\u{fffd}.img");
    let all = listed["artifacts"].as_array().expect("a list");
    let bytes: Vec<&str> = all.iter().filter_map(|artifact| artifact["path_bytes"].as_str()).collect();
    let hex = |name: &[u8]| hex::encode([b"images/hello-x86-64/", name].concat());
    assert!(odd["sha256"].is_string() && bytes.contains(&hex(b"bad\xff.img").as_str()), "{listed:#}");
    assert!(bytes.contains(&hex(b"bad\xfe.img").as_str()) && bytes.contains(&hex(b"sub\xfe/inner").as_str()));
    assert_eq!(artifact(&listed, "images/hello-x86-64/odd")["link_bytes"], hex::encode(b"bad\xff.img"));
    assert_eq!(artifact(&listed, "images/hello-x86-64/absolute")["link"], "/etc/shadow");
    assert_eq!(artifact(&listed, "images/hello-x86-64/sparse")["size"], 3_u64 << 30);
    let manifest = fs::read(folder.join("../../../artifacts.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    assert_eq!(manifest["artifacts"].as_array().expect("a list").len(), all.len());

    // Records likewise.
    let licences = world.smidr.join("builds").join(&id).join("licenses/coll");
    assert_eq!(World::names(&licences), ["again", "text"]);
    assert_eq!(fs::metadata(licences.join("text")).expect("a licence").permissions().mode() & 0o7000, 0);
    assert!(done.out.contains("licenses") && done.out.contains("leads out"), "{}", done.out);
}

fn pipes_of(running: &Running) -> BTreeSet<String> {
    let folder = format!("/proc/{}/fd", running.pid());
    let links =
        World::names(Path::new(&folder)).into_iter().filter_map(|fd| fs::read_link(format!("{folder}/{fd}")).ok());
    links.map(|link| link.display().to_string()).filter(|link| link.starts_with("pipe:")).collect()
}

fn nobody_else_speaks_for_bitbake(done: &Done, report: &Path, pipes: &BTreeSet<String>) {
    assert!(!done.out.contains("\"text\":\"forged"), "{}", done.out);
    let report = fs::read_to_string(report).expect("what the recipe saw");
    // Of the pipes that smidr reads, nothing that BitBake starts has inherited any.
    let written: BTreeSet<&str> = report.lines().filter_map(|line| Some(line.split_once(" writes ")?.1)).collect();
    assert!(!written.is_empty() && !pipes.is_empty(), "{written:?} {pipes:?}");
    assert!(written.iter().all(|pipe| !pipes.contains(*pipe)), "{written:?} of {pipes:?}");
    for when in ["parsing", "task", "cut"] {
        let found = format!("{when} found it");
        assert!(report.contains(&found) && report.contains(&format!("{when}: Permission denied")), "{report}");
        assert!(
            !report.contains(&format!("{when} opened it")) && !report.contains(&format!("{when} took it")),
            "{report}"
        );
    }
    // A task without the network is still cut off: the user interface alone cannot be opened, not what BitBake starts.
    let net = |when: &str| {
        let of = |line: &str| line.strip_prefix(&format!("{when} net ")).map(String::from);
        report.lines().filter_map(of).next_back().expect("a network namespace")
    };
    assert_eq!(net("task"), net("parsing"));
    assert_ne!(net("task"), net("cut"), "{report}");
}

fn are_harmless(folder: &Path) {
    let at = |name: &[u8]| folder.join(OsStr::from_bytes(name));
    let look = |name: &[u8]| fs::symlink_metadata(at(name));
    assert_eq!(fs::read(at(b"bad\xff.img")).expect("a file"), b"bad\xff.img");
    assert_eq!(fs::read(at(b"sub\xfe/inner")).expect("a file"), b"sub\xfe/inner");
    let sparse = look(b"sparse").expect("a file");
    assert_eq!(sparse.len(), 3 << 30);
    assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks of a file with nothing but a hole", sparse.blocks());
    assert_eq!(look(b"setuid").expect("a file").permissions().mode() & 0o7577, 0o555);
    let (one, two) = (look(b"one").expect("a file"), look(b"two").expect("a file"));
    assert_eq!((one.ino(), one.len()), (two.ino(), 4 << 20), "one file is kept once");
    for out in ["absolute", "climbs", "turns"] {
        assert!(look(out.as_bytes()).is_err(), "{out} is a link in {}", folder.display());
    }
    assert_eq!(fs::read_link(at(b"stays")).expect("a link"), Path::new("plain"));
    assert_eq!(fs::read_link(at(b"sub\xfe/up")).expect("a link"), Path::new("../plain"));
    assert_eq!(fs::read_link(at(b"odd")).expect("a link").as_os_str().as_bytes(), b"bad\xff.img");
}

/// Gives the project `p` a BitBake that sends any events. `script` may `say(e=…)` to smidr.
fn pretend(world: &World, script: &str) {
    const TALK: &str = "import json, os, sys\nPIPE = int(os.environ['SMIDR_EVENT_FD'])\n\
        def say(**fields):\n    line = memoryview(json.dumps(fields).encode() + b'\\n')\n    while line:\n        line = line[os.write(PIPE, line):]\n\
        def failed(task, log):\n    say(e='task_ended', recipe='r', task=task, pid=1, ok=False, log=log)\n\
        say(e='hello', version='0')\n";
    world.write("bb/bin/bitbake", &format!("{TALK}{script}"));
    world.write("bb/lib/bb/__init__.py", "");
    world.write("bb/lib/bb/ui/__init__.py", "");
    // In the place of smidr's, which needs all of BitBake.
    world.write("bb/lib/bb/ui/smidr.py", "");
    let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    if !config.contains("bitbake:") {
        world.append("bitbake:\n  path: ./bb\n");
    }
    let deploy = "tmp/deploy/images/hello-x86-64";
    let path = world.project().join("bb/bin/bitbake");
    let text = fs::read_to_string(&path).expect("the script");
    fs::write(
        &path,
        format!("import os\nos.makedirs('{deploy}', exist_ok=True)\nopen('{deploy}/file', 'w').close()\n{text}"),
    )
    .expect("the script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[test]
fn bitbakes_exit_status_decides_not_its_events() {
    let Some(world) = World::with_project("border::bitbakes_exit_status_decides_not_its_events") else {
        return;
    };
    let build = || trusted(&world).arg("build").run();
    // A forged failure and a forged verdict, with exit status 0.
    pretend(&world, "failed('do_x', None)\nsay(e='done', exit=1)\n");
    build().expect_code(0).expect_err("completed").expect_err("r:do_x");
    // Without its last event the build failed, whatever the exit status.
    pretend(&world, "");
    build().expect_code(1).expect_err("before it was done");
    // A forged success.
    pretend(&world, "say(e='done', exit=0)\nsys.exit(3)\n");
    let forged = build();
    forged.expect_code(1).expect_err("exit status 3");
    let status = world.smidr().args(["status", &forged.build_id(), "--json"]).run().json();
    assert_eq!(status["build"]["outcome"]["bitbake_exit"], 3);
    pretend(&world, "os.kill(os.getpid(), 9)\n");
    build().expect_code(1).expect_err("exit status 137");
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn events_of_many_failed_tasks_take_bounded_memory_and_one_log() {
    let Some(world) = World::with_project("border::events_of_many_failed_tasks_take_bounded_memory_and_one_log") else {
        return;
    };
    pretend(
        &world,
        "log = os.path.abspath('log')\nwith open(log, 'wb') as file:\n    file.write(b'it broke\\n')\n    file.truncate(1 << 40)\n\
         for number in range(3000):\n    failed('do_%d' % number, log)\n\
         for number in range(600):\n    say(e='no_provider', item='x', reasons=['y' * 250000])\n    say(e='log', level='error', text='z' * 250000)\n\
         say(e='no_provider', item='x', dependees=[''] * 60000)\n\
         sys.exit(1)\n",
    );
    let mut running = trusted(&world).arg("build").start();
    let mut peak = 0;
    while running.child.try_wait().expect("look at smidr").is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let done = running.wait();
    done.expect_code(1).expect_err("1000 tasks");
    assert!((1..200_000).contains(&peak), "{peak} kB of memory");
    let id = done.build_id();
    let logs = world.smidr.join("builds").join(&id).join("logs");
    assert_eq!(World::names(&logs), ["r.do_0"]);
    let kept = fs::metadata(logs.join("r.do_0")).expect("a log");
    assert!(kept.blocks() * 512 < 1 << 20, "{} blocks of a log with one line", kept.blocks());
    let outcome = &world.smidr().args(["status", &id, "--json"]).run().json()["build"]["outcome"];
    let failed = outcome["failed"].as_array().expect("a list");
    assert_eq!(failed.len(), 1000);
    assert!(failed.iter().all(|task| task["log"] == failed[0]["log"]), "{}", failed[999]);
    let db = fs::metadata(world.smidr.join("history.db")).expect("the history").len();
    assert!(db < 200 << 20, "{db} bytes of history");
}
