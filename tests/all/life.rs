//! However a build is stopped or killed, no process of it is left, its record has the right end, and the next one works.
//!
//! `stopping` has the simple cases: one Ctrl-C, two, and SIGKILL of smidr.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    screen::on_terminal,
    support::{LONG, Running, World, processes_with, skip, tool, wait_for},
    trouble::recipe,
};

/// How long BitBake may take after it was asked to stop (engine::drive).
const GRACE: Duration = Duration::from_secs(30);

/// A task that ignores everything but SIGKILL, with such a child under the name of pseudo's server.
const DEAF: &str = "LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\npython do_act() {\n    \
                    import shutil, signal, subprocess, time\n    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n    \
                    pseudo = shutil.copy(\"/bin/sleep\", d.expand(\"${WORKDIR}/pseudo\"))\n    \
                    subprocess.Popen([pseudo, \"1000\"])\n    time.sleep(1000)\n}\n";

#[derive(Clone, Copy)]
enum Deed {
    Send(Signal),
    /// Two signals for smidr.
    Twice,
    /// SIGKILL for the process that smidr has started.
    KillHelper,
    /// SIGKILL for the sandbox's PID 1.
    KillInit,
    /// SIGSTOP for BitBake's server, then SIGINT for smidr.
    FreezeServer,
    /// SIGSTOP for the sandbox's PID 1, then two signals for smidr.
    FreezeInit,
    /// The config's build_timeout.
    Wait,
}

struct Row {
    name: &'static str,
    /// In seconds; none: it ignores signals, forever.
    task: Option<u32>,
    deed: Deed,
    code: i32,
    state: &'static str,
    says: &'static str,
    within: Duration,
}

/// How long PID 1 may take to end everything (sandbox::launch).
const PATIENCE: Duration = Duration::from_secs(4);

/// On an idle machine a second is enough; here three builds end at once, beside other tests.
const SLACK: Duration = Duration::from_secs(5);

const SECOND: Duration = Duration::from_secs(1);
const POLITE: &str = "BitBake finishes the tasks that run";

const ROWS: [Row; 9] = [
    Row {
        name: "SIGTERM",
        task: Some(2),
        deed: Deed::Send(Signal::SIGTERM),
        code: 130,
        state: "CANCELLED",
        says: POLITE,
        within: GRACE,
    },
    Row {
        name: "SIGHUP",
        task: Some(2),
        deed: Deed::Send(Signal::SIGHUP),
        code: 130,
        state: "CANCELLED",
        says: POLITE,
        within: GRACE,
    },
    Row {
        name: "a deaf task",
        task: None,
        deed: Deed::Send(Signal::SIGINT),
        code: 130,
        state: "CANCELLED",
        says: "everything is killed",
        within: GRACE,
    },
    Row {
        name: "a deaf task, killed",
        task: None,
        deed: Deed::Twice,
        code: 130,
        state: "CANCELLED",
        says: "everything is killed",
        within: SECOND,
    },
    Row {
        name: "a frozen server",
        task: None,
        deed: Deed::FreezeServer,
        code: 130,
        state: "CANCELLED",
        says: "everything is killed",
        within: GRACE,
    },
    Row {
        name: "a frozen PID 1",
        task: None,
        deed: Deed::FreezeInit,
        code: 130,
        state: "CANCELLED",
        says: "everything is killed",
        within: PATIENCE,
    },
    Row {
        name: "time is up",
        task: None,
        deed: Deed::Wait,
        code: 1,
        state: "FAILED",
        says: "advanced.build_timeout",
        within: LONG,
    },
    Row {
        name: "the helper dies",
        task: None,
        deed: Deed::KillHelper,
        code: 3,
        state: "FAILED",
        says: "ended unexpectedly (signal 9)",
        within: SECOND,
    },
    Row {
        name: "PID 1 dies",
        task: None,
        deed: Deed::KillInit,
        code: 3,
        state: "FAILED",
        says: "ended unexpectedly (exit status 137)",
        within: SECOND,
    },
];

/// What BitBake and all its tasks have in their environment or command line.
fn marker(world: &World) -> String {
    world.smidr.join("workspaces").display().to_string()
}

/// The mount namespaces of a build's processes, which also those are in that have changed their environment.
fn namespaces(marker: &str) -> BTreeSet<PathBuf> {
    let pids = processes_with(marker).into_iter().filter_map(|line| line.split(' ').next().map(str::to_owned));
    let host = fs::read_link("/proc/self/ns/mnt").expect("a link");
    pids.filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()).filter(|found| *found != host).collect()
}

/// All that can be known of a build's processes while it runs.
struct Traces {
    marker: String,
    helper: String,
    namespaces: BTreeSet<PathBuf>,
}

impl Traces {
    fn of(world: &World, smidr: Pid) -> Self {
        let marker = marker(world);
        let namespaces = namespaces(&marker);
        assert_eq!(namespaces.len(), 1, "one sandbox has one mount namespace");
        Self { helper: format!("__sandbox-init\0{smidr}\0"), namespaces, marker }
    }

    fn left(&self) -> Vec<String> {
        let mut left = [processes_with(&self.marker), processes_with(&self.helper)].concat();
        let pids = World::names(Path::new("/proc")).into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
        left.extend(pids.filter(|pid| {
            fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|found| self.namespaces.contains(&found))
        }));
        left
    }
}

/// The helper, and its child, PID 1 of the sandbox.
fn helpers(smidr: Pid) -> (Pid, Pid) {
    let lines = processes_with(&format!("__sandbox-init\0{smidr}\0"));
    let pids: Vec<i32> = lines.iter().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    let parent = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
        let after = stat.rsplit_once(") ").expect("the name's end").1.to_owned();
        after.split(' ').nth(1).and_then(|ppid| ppid.parse::<i32>().ok()).expect("its parent")
    };
    let helper = *pids.iter().find(|pid| parent(pid) == smidr.as_raw()).expect("a helper");
    let init = *pids.iter().find(|pid| parent(pid) == helper).expect("a PID 1");
    (Pid::from_raw(helper), Pid::from_raw(init))
}

fn write_task(world: &World, seconds: Option<u32>) {
    match seconds {
        Some(seconds) => recipe(world, "slow", &format!("    sleep {seconds}")),
        None => world.write("layers/meta-hello/recipes-test/slow/slow.bb", DEAF),
    }
}

fn task_runs(world: &World) -> bool {
    let tmp = world.smidr.join("workspaces");
    let logs = walkdir::WalkDir::new(tmp).into_iter().flatten();
    let begun = logs.filter(|entry| entry.file_name().to_string_lossy().starts_with("log.do_act.")).count() > 0;
    begun && !processes_with(&marker(world)).is_empty()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("the mounts of this machine")
}

fn do_it(deed: Deed, running: &Running, world: &World) {
    let sigkill = |pid: Pid| kill(pid, Signal::SIGKILL).expect("send SIGKILL");
    match deed {
        Deed::Send(signal) => running.signal(signal),
        Deed::KillHelper => sigkill(helpers(running.pid()).0),
        Deed::KillInit => sigkill(helpers(running.pid()).1),
        Deed::FreezeServer => {
            let all = processes_with(&marker(world));
            let server = all.iter().find(|line| line.contains("bitbake-server")).expect("BitBake's server");
            let pid = server.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a process id");
            kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stop it");
            running.signal(Signal::SIGINT);
        }
        Deed::FreezeInit => {
            kill(helpers(running.pid()).1, Signal::SIGSTOP).expect("stop it");
            running.signal(Signal::SIGINT);
            running.signal(Signal::SIGTERM);
        }
        Deed::Twice => {
            running.signal(Signal::SIGINT);
            running.signal(Signal::SIGTERM);
        }
        Deed::Wait => {}
    }
}

fn live_and_die(row: &Row, world: &World) {
    let name = row.name;
    write_task(world, row.task);
    if let Deed::Wait = row.deed {
        world.append("advanced: {build_timeout: 20s}\n");
    }
    let running = world.smidr().args(["build", "--target", "slow"]).start();
    wait_for(&format!("the task of `{name}`"), LONG, || task_runs(world));
    let traces = Traces::of(world, running.pid());
    assert!(traces.left().len() >= 5, "{name}: helper, PID 1, BitBake, its server, its worker, the task");
    do_it(row.deed, &running, world);
    wait_for(&format!("every process of `{name}` to be gone"), row.within + SLACK, || traces.left().is_empty());
    let done = running.wait();
    assert_eq!(done.code, Some(row.code), "{name}: {done:?}");
    assert!(done.err.contains(row.says), "{name}: no `{}` in\n{}", row.says, done.err);
    let status = world.smidr().args(["status", "--json"]).run().json();
    assert_eq!(status["builds"][0]["state"], row.state, "{name}");
    write_task(world, Some(0));
    let next = world.smidr().args(["build", "--target", "slow"]).run();
    assert_eq!(next.code, Some(0), "{name}: the next build: {next:?}");
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn no_process_outlives_any_end() {
    let name = "life::no_process_outlives_any_end";
    let before = mounts();
    let worlds: Vec<World> = ROWS.iter().map_while(|_| World::with_project(name)).collect();
    if worlds.len() < ROWS.len() {
        return;
    }
    // Three side by side: some wait for the whole grace time.
    let all: Vec<(&Row, &World)> = ROWS.iter().zip(&worlds).collect();
    for some in all.chunks(3) {
        std::thread::scope(|scope| {
            for (row, world) in some {
                scope.spawn(move || live_and_die(row, world));
            }
        });
    }
    assert_eq!(mounts(), before, "the mounts of this machine");
}

#[test]
fn failures_before_a_killed_sandbox_are_reported() {
    let name = "life::failures_before_a_killed_sandbox_are_reported";
    for deed in [Deed::KillHelper, Deed::KillInit] {
        let Some(world) = World::with_project(name) else { return };
        write_task(&world, Some(1000));
        let last_words = "cc1plus: out of memory allocating 65536 bytes after a total of 158720000 bytes";
        recipe(&world, "bad", &format!("    echo '{last_words}'; exit 7"));
        let mut running = world.smidr().args(["build", "--target", "bad", "--target", "slow", "--", "-k"]).start();
        running.until_says(last_words);
        wait_for("the other task", LONG, || {
            processes_with(&marker(&world)).iter().any(|line| line.ends_with("sleep 1000 "))
        });
        let traces = Traces::of(&world, running.pid());
        do_it(deed, &running, &world);
        let done = running.wait();
        done.expect_code(3).expect_err("failed in bad:do_act").expect_err("memory ran out: cc1plus was refused more");
        done.expect_err("the sandbox was killed from outside: its helper ended unexpectedly");
        done.expect_err("hint: let less run at once");
        let id = done.build_id();
        let log = world.smidr().args(["logs", &id, "--task", "bad:do_act"]).run();
        log.expect_code(0).expect_out(last_words);
        let status = world.smidr().args(["status", &id, "--json"]).run().json();
        let outcome = &status["build"]["outcome"];
        assert_eq!((&outcome["failed"][0]["recipe"], &outcome["kind"]), (&"bad".into(), &"host".into()));
        assert!(outcome["failed"][0]["log"].as_str().is_some_and(|log| log.contains(&id)), "{outcome}: not kept");
        // Usage is known only with a cgroup, and is never shown as zero.
        assert_ne!(outcome["usage"]["cpu_ms"], 0, "{outcome}");
        wait_for("every process to be gone", SECOND + SLACK, || traces.left().is_empty());
    }
}

#[test]
fn a_closed_terminal_ends_what_runs_on_it() {
    let name = "life::a_closed_terminal_ends_what_runs_on_it";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = World::with_project(name) else { return };
    // A build is stopped gracefully, as by one Ctrl-C: the task may finish.
    recipe(&world, "slow", "    sleep 3");
    let (mut screen, mut child) = on_terminal(&setsid, &world, &["build", "--target", "slow"]);
    screen.until("the task", || task_runs(&world));
    let smidr = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let traces = Traces::of(&world, smidr);
    drop(screen);
    assert_eq!(child.wait().expect("smidr ends").code(), Some(130));
    wait_for("every process of the build to be gone", SECOND, || traces.left().is_empty());
    let status = world.smidr().args(["status", "--json"]).run().json();
    assert_eq!(status["builds"][0]["state"], "CANCELLED");
    // A shell has lost its terminal.
    let (mut screen, mut child) = on_terminal(&setsid, &world, &["shell"]);
    screen.types("trap '' HUP; setsid sleep 1000 & sleep 1000 & echo un''der way\n");
    screen.says("under way");
    let smidr = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let traces = Traces::of(&world, smidr);
    drop(screen);
    let mut status = None;
    wait_for("smidr to end", 5 * SECOND, || {
        status = child.try_wait().expect("look at smidr");
        status.is_some()
    });
    assert_ne!(status.and_then(|status| status.code()), Some(0));
    wait_for("every process of the shell to be gone", SECOND, || traces.left().is_empty());
    world.smidr().args(["run", "true"]).run().expect_code(0);
}

#[test]
fn ctrl_c_on_a_terminal_is_for_smidr_alone() {
    let name = "life::ctrl_c_on_a_terminal_is_for_smidr_alone";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = World::with_project(name) else { return };
    // Two of them, the terminal's and the one that smidr passes on, would make BitBake kill the task.
    recipe(&world, "slow", "    sleep 3; echo over > ${TMPDIR}/over");
    let (mut screen, mut child) = on_terminal(&setsid, &world, &["build", "--target", "slow"]);
    screen.until("the task", || task_runs(&world));
    screen.types("\x03");
    screen.says(POLITE);
    screen.until_closed();
    assert_eq!(child.wait().expect("smidr ends").code(), Some(130), "{}", screen.seen());
    let workspaces = world.smidr.join("workspaces");
    let over = workspaces.join(&World::names(&workspaces)[0]).join("build/tmp/over");
    assert!(over.exists(), "the task was not let finish:\n{}", screen.seen());
}

#[test]
fn a_shell_is_as_large_as_its_terminal() {
    let name = "life::a_shell_is_as_large_as_its_terminal";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = World::with_project(name) else { return };
    let (mut screen, mut child) = on_terminal(&setsid, &world, &["shell"]);
    screen.types("stty size | tr ' ' x\n");
    screen.says("30x100");
    screen.types("trap 'got=1; echo re''sized' WINCH; echo wait''ing\n");
    screen.says("waiting");
    screen.resize(41, 123);
    // A shell that waits for a line looks at its traps after it, and the new size may still be on its way. The signal goes to the group of processes
    // in the foreground, which builtins leave to the shell; a command substitution does too, but bash 5.2 breaks if a trap comes while it reads one.
    screen.types("until [ \"$got\" ]; do read -t 0.1; done\n");
    screen.says("resized");
    screen.types("stty size | tr ' ' x\n");
    screen.says("41x123");
    // Ctrl-C is a byte for what runs in there, and ends neither the shell nor smidr.
    screen.types("sleep 1371\n");
    screen.until("sleep to run", || !processes_with("sleep\x001371").is_empty());
    screen.types("\x03");
    screen.types("echo still\" \"there; exit 7\n");
    screen.says("still there");
    screen.until_closed();
    assert_eq!(child.wait().expect("smidr ends").code(), Some(7));
}

/// Locks that no other test holds: this world's own, on images that it shares.
fn own_locks(world: &World) -> PathBuf {
    let locks = world.smidr.join("locks");
    fs::remove_file(&locks).expect("remove the link");
    fs::create_dir(&locks).expect("a folder");
    locks
}

#[test]
fn ctrl_c_ends_waiting_for_a_lock() {
    let Some(world) = World::with_project("life::ctrl_c_ends_waiting_for_a_lock") else { return };
    let locks = own_locks(&world);
    let hold = |name: &str| {
        let file = fs::File::create(locks.join(name)).expect("a lock file");
        file.lock().expect("the lock");
        file
    };
    let stopped = |args: &[&str]| {
        let mut running = world.smidr().args(args).start();
        running.until_says("waiting    for ");
        let begun = Instant::now();
        running.signal(Signal::SIGINT);
        let done = running.wait();
        assert!(begun.elapsed() < 5 * SECOND, "{args:?} took {:?}", begun.elapsed());
        done.expect_code(130);
    };
    let store = hold("images.lock");
    stopped(&["build"]);
    let status = world.smidr().args(["status", "--json"]).run().json();
    assert_eq!(status["builds"][0]["state"], "CANCELLED");
    stopped(&["run", "true"]);
    // A process that goes on waiting gets the lock.
    let mut patient = world.smidr().args(["run", "echo", "at last"]).start();
    patient.until_says("waiting    for ");
    drop(store);
    patient.wait().expect_code(0).expect_out("at last");
    // The same where an image would have to be made first.
    world.write("other.yaml", "base: {image: hello}\ncommands: ['true']\n");
    world.edit("smidr.yaml", "recipe: hello", "recipe: other");
    let _ = fs::remove_file(world.project().join("smidr.lock"));
    let _recipe = hold("recipe-other.lock");
    stopped(&["build"]);
    let _packages = hold("packages-debian-bookworm.lock");
    stopped(&["image", "build", "hello"]);
}
