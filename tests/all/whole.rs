//! Whole builds with a real BitBake in the real sandbox, from a project to artifacts, and the commands that report on them.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::Command,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::support::{Done, World, skip, tool};

const EXT4: &str = "images/hello-x86-64/hello-image-hello-x86-64.ext4";
const TAR_GZ: &str = "images/hello-x86-64/hello-image-hello-x86-64.tar.gz";

/// The peak of a process's memory in MiB, as far as it lives.
fn peak(pid: nix::unistd::Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

fn events(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[track_caller]
fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

#[test]
fn a_project_builds_its_artifacts() {
    let Some(world) = World::with_project("whole::a_project_builds_its_artifacts") else { return };
    let mut running = world.smidr().args(["build", "--events", "json"]).start();
    let mut most = 0;
    while running.child.try_wait().expect("look at smidr").is_none() {
        most = peak(running.pid()).unwrap_or(0).max(most);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let done = running.wait();
    done.expect_code(0).expect_err("task network cut").expect_err("network-probe: tasks are cut off from the network");
    let _ = writeln!(std::io::stderr(), "smidr itself took {most} MiB at most during a build");
    // Of which an unoptimised smidr takes 28 for its program, and the rules of `diagnose` take 6.
    assert!((1..72).contains(&most), "{most} MiB");
    let id = done.build_id();
    first_events(&done, &id);
    artifacts(&world, &id);
    ext4(&world, &id);
    tar_gz(&world, &id);
    told_afterwards(&world, &id);
    again(&world, &id);
}

fn first_events(done: &Done, id: &str) {
    let events = events(&done.out);
    let mut last = 0;
    for event in &events {
        assert_eq!(event["build"], id);
        match event["seq"].as_u64() {
            Some(seq) => {
                assert_eq!(seq, last + 1, "no gap: {event}");
                last = seq;
            }
            None => assert_eq!((&event["event"], &event["after"]), (&"progress".into(), &last.into()), "{event}"),
        }
    }
    assert_eq!(events[0]["event"], "build_started");
    let stages: Vec<&Value> = of(&events, "stage_started").into_iter().map(|event| &event["stage"]).collect();
    assert_eq!(stages, ["prepare", "run", "collect"]);
    assert_eq!(of(&events, "sandbox_ready")[0]["task_network_cut"], true);
    assert_eq!(of(&events, "bitbake_ready")[0]["version"], "2.19.0");
    let tasks = |kind| {
        let name = |event: &&Value| format!("{}:{}", event["recipe"], event["task"]);
        of(&events, kind).iter().map(name).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(tasks("task_started").len() > 20);
    assert_eq!(tasks("task_started"), tasks("task_ended"), "what begins ends");
    assert!(of(&events, "task_ended").iter().all(|event| event["ok"] == true));
    assert_eq!(of(&events, "artifact_kept").len(), 4);
    let last = events.last().expect("an event");
    assert_eq!((&last["event"], &last["outcome"]["state"]), (&"finished".into(), &"COMPLETED".into()));
}

fn artifacts(world: &World, id: &str) {
    let list = world.smidr().args(["artifacts", "list"]).run();
    list.expect_code(0).expect_out(EXT4).expect_out(TAR_GZ).expect_out(".manifest").expect_out(".licenses");
    let json = world.smidr().args(["artifacts", "show", id, "--json"]).run().expect_code(0).json();
    let all = json["artifacts"].as_array().expect("a list");
    assert_eq!(all.len(), 4);
    let dest = world.work.join("copied/here");
    let copy = || world.smidr().args(["artifacts", "copy", id]).arg(&dest).run();
    copy().expect_code(0);
    let manifest = fs::read_to_string(world.smidr.join("builds").join(id).join("artifacts.json")).expect("a manifest");
    for folder in [Path::new(json["folder"].as_str().expect("a folder")), &dest] {
        for artifact in all {
            let content = fs::read(folder.join(artifact["path"].as_str().expect("a path"))).expect("an artifact");
            let digest = hex::encode(Sha256::digest(&content));
            assert_eq!(artifact["size"], content.len());
            assert!(artifact["sha256"].as_str().expect("a digest").ends_with(&digest), "{artifact}");
            assert!(manifest.contains(&digest), "the manifest has {artifact}");
        }
    }
    let shown = world.smidr().args(["artifacts", "show", id]).run();
    assert_eq!(shown.expect_code(0).out.lines().count(), 4);
    copy().expect_code(0).expect_err("4 were there already");
    world.smidr().args(["artifacts", "copy", "p-00000000", "x"]).run().expect_code(2).expect_err("there is no build");
    let kept = world.smidr.join("builds").join(id).join("licenses");
    assert!(World::names(&kept).contains(&"hello".to_owned()), "licences are kept: {:?}", World::names(&kept));
    let packages = fs::read_to_string(dest.join(EXT4.replace(".ext4", ".manifest"))).expect("a list of packages");
    assert!(packages.contains("hello 1.0-r0\n") && packages.contains("libgreet 1.0-r0\n"), "{packages}");
    let licences = fs::read_to_string(dest.join(EXT4.replace(".ext4", ".licenses"))).expect("a list of licences");
    assert!(licences.contains("hello: MIT OR Apache-2.0\n"), "{licences}");
}

/// The image, looked at with the tools that know its format.
fn ext4(world: &World, id: &str) {
    let image = world.smidr.join("builds").join(id).join("artifacts").join(EXT4);
    let (Some(e2fsck), Some(debugfs)) = (tool("e2fsck"), tool("debugfs")) else {
        return skip("whole::a_project_builds_its_artifacts (the ext4)", "there is no e2fsprogs here");
    };
    let check = Done::new(Command::new(e2fsck).arg("-fn").arg(&image).output().expect("e2fsck starts"));
    check.expect_code(0);
    let ask = |request: &str| {
        Done::new(Command::new(&debugfs).args(["-R", request]).arg(&image).output().expect("debugfs starts")).out
    };
    let (mut folders, mut seen) = (vec![String::new()], Vec::new());
    while let Some(folder) = folders.pop() {
        // /inode/mode/uid/gid/name/size/
        for line in ask(&format!("ls -p {folder}/")).lines().filter(|line| line.starts_with('/')) {
            let fields: Vec<&str> = line.split('/').collect();
            let path = format!("{folder}/{}", fields[5]);
            if fields[1] != "0" {
                assert_eq!((fields[3], fields[4]), ("0", "0"), "{path} belongs to 0:0");
            }
            if !matches!(fields[5], "." | "..") {
                if fields[2].starts_with("04") {
                    folders.push(path.clone());
                }
                seen.push(path);
            }
        }
    }
    for path in ["/usr/bin/hello", "/usr/lib/libgreet.so.1", "/etc/passwd", "/dev/null"] {
        assert!(seen.iter().any(|found| found == path), "{path} in {seen:?}");
    }
    let program = world.work.join("hello-program");
    ask(&format!("dump /usr/bin/hello {}", program.display()));
    let content = fs::read(&program).expect("the program");
    assert!(content.starts_with(b"\x7fELF"));
    let text = b"Built by BitBake, in a sandbox of smidr.";
    assert!(content.windows(text.len()).any(|window| window == text), "the patch went in");
}

fn tar_gz(world: &World, id: &str) {
    let file = fs::File::open(world.smidr.join("builds").join(id).join("artifacts").join(TAR_GZ)).expect("an archive");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let (mut names, mut devices) = (Vec::new(), 0);
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let header = entry.header();
        assert_eq!((header.uid().expect("a uid"), header.gid().expect("a gid")), (0, 0));
        devices += u32::from(header.entry_type().is_character_special());
        let path = entry.path().expect("a path").display().to_string();
        if path == "./usr/bin/hello" {
            let mut start = [0; 4];
            entry.read_exact(&mut start).expect("the program");
            assert_eq!(&start, b"\x7fELF");
        }
        names.push(path);
    }
    assert_eq!(devices, 2, "device nodes, although the build was not root");
    assert!(names.iter().any(|name| name == "./usr/bin/hello"), "{names:?}");
}

fn told_afterwards(world: &World, id: &str) {
    let list = world.smidr().arg("status").run();
    list.expect_code(0).expect_out(id).expect_out("COMPLETED");
    let json = world.smidr().args(["status", id, "--json"]).run().expect_code(0).json();
    assert_eq!(json["build"]["id"], id);
    assert_eq!(json["build"]["outcome"]["bitbake_exit"], 0);
    world.smidr().args(["status", id]).run().expect_code(0).expect_out("artifacts  4 files");
    let logs = world.smidr().arg("logs").run();
    logs.expect_code(0).expect_out("Running task").expect_out(&format!("{id} completed in"));
    let follow = world.smidr().args(["logs", "--follow", id]).run();
    assert_eq!(follow.expect_code(0).out, logs.out, "a build that is over is not waited for");
    let task = world.smidr().args(["logs", id, "--task", "hello:do_compile"]).run();
    task.expect_code(0).expect_out("gcc").expect_out("hello.c");
    let probe = world.smidr().args(["logs", "--task", "network-probe:do_probe"]).run();
    probe.expect_code(0).expect_out("up: none").expect_out("ENETUNREACH");
    let wrong = world.smidr().args(["logs", "--task", "hello:do_compil"]).run();
    wrong.expect_code(2).expect_one_error().expect_err("did you mean hello:do_compile?");
    let lock = fs::read_to_string(world.project().join("smidr.lock")).expect("a lock");
    assert!(lock.contains("version: 1\n") && lock.contains("gcc:") && lock.contains("sha256:"), "{lock}");
    world.smidr().arg("plan").run().expect_code(0).expect_out("rootfs recipe hello, sha256:");
}

/// Nothing to do; then one line changes, and only what depends on it is made.
fn again(world: &World, first: &str) {
    let lock = fs::read(world.project().join("smidr.lock")).expect("a lock");
    let build = |world: &World| {
        let done = world.smidr().args(["build", "--events", "json"]).run();
        done.expect_code(0);
        let ran: Vec<String> = of(&events(&done.out), "task_started")
            .into_iter()
            .map(|event| format!("{}:{}", event["recipe"].as_str().unwrap_or(""), event["task"].as_str().unwrap_or("")))
            .collect();
        (done.build_id(), ran)
    };
    let (second, ran) = build(world);
    assert_eq!(ran, Vec::<String>::new());
    assert_ne!(second, first);
    assert_eq!(fs::read(world.project().join("smidr.lock")).expect("a lock"), lock);
    let image =
        |id: &str| fs::read(world.smidr.join("builds").join(id).join("artifacts").join(EXT4)).expect("an image");
    assert!(image(&second) == image(first));
    world.edit("layers/meta-hello/recipes-hello/libgreet/files/greet.c", "Hello, %s!", "Good day, %s!");
    let (third, ran) = build(world);
    assert!(
        ran.iter().any(|task| task == "libgreet:do_compile") && ran.iter().any(|task| task == "hello-image:do_image"),
        "{ran:?}"
    );
    assert!(!ran.iter().any(|task| task.starts_with("host-libc:")), "{ran:?}");
    assert!(image(&third) != image(first), "what was kept of the first build stays as it was");
}

#[test]
fn the_view_of_a_task() {
    let Some(world) = World::with_project("whole::the_view_of_a_task") else { return };
    let layer = world.project().join("layers/meta-hello");
    world.write(
        "layers/meta-hello/recipes-test/looker/looker.bb",
        &format!(
            r#"LICENSE = "MIT"
inherit nobuild
addtask look after do_patch before do_build
do_look[nostamp] = "1"
do_look() {{
    echo "uid $(id -u) greeting $GREETING own ${{OWN}} from ${{FROM_TAIL}} threads ${{BB_NUMBER_THREADS}}"
    echo "secret [$HUNTER] home $HOME"
    touch {layer}/mark 2>/dev/null && echo "layer writable" || echo "layer read-only"
    ls {project}
    ls -l /proc/self/fd | wc -l
    unshare -Urn true && echo "nested works"
}}
"#,
            layer = layer.display(),
            project = world.project().display()
        ),
    );
    world.append("env: {GREETING: \"good day\", OWN: \"from env\"}\nlocal_conf: |\n  FROM_TAIL = \"tail\"\n  BB_NUMBER_THREADS = \"1\"\n");
    let build =
        |args: &[&str]| world.smidr().args(["build", "--target", "looker"]).args(args).env("HUNTER", "hunter2").run();
    build(&[]).expect_code(0);
    let log = world.smidr().args(["logs", "--task", "looker:do_look"]).run();
    let expected = if super::support::is_root() { 1000 } else { nix::unistd::geteuid().as_raw() };
    log.expect_code(0).expect_out(&format!("uid {expected} greeting good day own from env from tail threads 1"));
    log.expect_out("secret [] home ").expect_out("layer read-only").expect_out("\nlayers\n").expect_out("nested works");
    assert!(!log.out.contains("smidr.yaml"), "nothing else of the project is there: {}", log.out);
    // The same, of a variant, which has a workspace of its own.
    world.append("variants:\n  other:\n    local_conf: |\n      FROM_TAIL = \"variant\"\n");
    build(&["--variant", "other"]).expect_code(0);
    let log = world.smidr().args(["logs", "--task", "looker:do_look"]).run();
    log.expect_code(0).expect_out("from variant");
    assert_eq!(World::names(&world.smidr.join("workspaces")).len(), 2);
}

#[test]
fn partial_builds() {
    let Some(world) = World::with_project("whole::partial_builds") else { return };
    let ran = |args: &[&str]| {
        let done = world.smidr().args(["build", "--events", "json"]).args(args).run();
        done.expect_code(0);
        let all = events(&done.out);
        let names = of(&all, "task_started").into_iter().map(|event| event["task"].clone());
        let names: Vec<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
        (names, done)
    };
    let (tasks, _) = ran(&["--fetch-only"]);
    assert!(tasks.len() >= 4 && tasks.iter().all(|task| task == "do_fetch"), "{tasks:?}");
    let (tasks, done) = ran(&["--target", "libgreet", "--", "-c", "listtasks"]);
    assert_eq!(tasks, ["do_listtasks"]);
    done.expect_err("do_compile").expect_err("List the tasks of this recipe");
    let (tasks, _) = ran(&["--target", "network-probe"]);
    assert!(tasks.contains(&"do_probe".to_owned()), "{tasks:?}");
    let (tasks, _) = ran(&["--target", "network-probe"]);
    assert_eq!(tasks, Vec::<String>::new());
    let (tasks, _) = ran(&["--target", "network-probe", "--clean"]);
    assert!(tasks.contains(&"do_probe".to_owned()), "{tasks:?}");
}
