//! Limits, accounting, and out of memory, in cgroups that the test makes where it may.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{
    support::{Done, LONG, World, is_root, skip, smidr_bin, wait_for},
    trouble::recipe,
};

/// A cgroup of v1 below the test's own. Dropping it kills its processes and removes it.
struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// With a limit in bytes; none where that is not possible, and why.
    fn new(limit: u64) -> Result<Self, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let path = own.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path);
        let path = path.ok_or("memory is not a matter of cgroup v1 here")?;
        let own = Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/'));
        let group = own.join(format!("smidr-test-{}", std::process::id()));
        fs::create_dir(&group).map_err(|error| format!("no cgroup can be made in {}: {error}", own.display()))?;
        let group = Self(group);
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).map_err(|error| error.to_string())?;
        Ok(group)
    }

    fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.oom_control")).expect("a cgroup");
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).expect("a counter")
    }

    /// Runs smidr in it.
    fn run(&self, world: &World, args: &[&str]) -> Done {
        let mut command = Command::new("sh");
        world.surround(&mut command);
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        command.current_dir(world.project()).args(["-c", script]).arg(&self.0).arg(smidr_bin()).args(args);
        Done::new(command.output().expect("sh starts"))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        for _ in 0..500 {
            for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Ok(pid) = pid.parse() {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = writeln!(io::stderr(), "{} is left", self.0.display());
    }
}

/// A task that wants more memory than there is, as a compiler would.
const GREEDY: &str = "    python3 -c 'bytearray(b\"x\") * (1 << 30)'";

#[test]
fn memory_that_runs_out_is_named() {
    let name = "resources::memory_that_runs_out_is_named";
    if !is_root() {
        return skip(name, "only root can make a cgroup with a limit around smidr");
    }
    let Some(world) = World::with_project(name) else { return };
    let group = match MemoryCgroup::new(600 << 20) {
        Ok(group) => group,
        Err(reason) => return skip(name, &reason),
    };
    recipe(&world, "greedy", GREEDY);
    let done = group.run(&world, &["build", "--target", "greedy"]);
    assert!(group.kills() > 0, "the limit was not reached: {done:?}");
    done.expect_code(3)
        .expect_err("failed in greedy:do_act")
        .expect_err("caused by: memory ran out: the kernel killed ");
    done.expect_err(" while greedy:do_act ran").expect_err("hint: let less run at once (build.parallel_make,");
    assert!(!done.err.contains("df -h"), "{}", done.err);
    if fs::File::open("/dev/kmsg").is_ok() {
        done.expect_err("the kernel killed python3 (");
    }
    let status = world.smidr().args(["status", &done.build_id(), "--json"]).run().json();
    let outcome = &status["build"]["outcome"];
    assert_eq!(outcome["kind"], "host");
    assert!(outcome["reasons"][0].as_str().expect("a reason").starts_with("memory ran out: "), "{outcome}");
    // An ordinary failure in the same cgroup stays one.
    recipe(&world, "greedy", "    echo Killed by nobody; exit 7");
    let done = group.run(&world, &["build", "--target", "greedy"]);
    done.expect_code(1).expect_err("failed in greedy:do_act");
    assert!(!done.err.contains("memory ran out"), "{}", done.err);
}

#[test]
fn a_refused_allocation_is_named() {
    let Some(world) = World::with_project("resources::a_refused_allocation_is_named") else { return };
    // As on a machine without overcommit: the allocation fails.
    recipe(
        &world,
        "greedy",
        &format!(
            "    ulimit -v 400000\n{}",
            GREEDY.replace("bytearray", "import mmap; mmap.mmap(-1, 1 << 30); bytearray")
        ),
    );
    let done = world.smidr().args(["build", "--target", "greedy"]).run();
    done.expect_code(3).expect_err("memory ran out: a program was refused more while greedy:do_act ran");
}

#[test]
fn resource_usage_is_recorded() {
    let Some(world) = World::with_project("resources::resource_usage_is_recorded") else { return };
    recipe(&world, "busy", "    python3 -c 'x = bytearray(b\"x\") * (300 << 20); [i * i for i in range(3000000)]'");
    let done = world.smidr().args(["build", "--target", "busy"]).run();
    done.expect_code(0).expect_err("used       ").expect_err(" of processor time, up to ");
    let status = world.smidr().args(["status", &done.build_id(), "--json"]).run().json();
    let usage = &status["build"]["outcome"]["usage"];
    let number = |key: &str| usage[key].as_u64().unwrap_or_else(|| panic!("no {key} in {usage}"));
    assert!((300 << 20..4 << 30).contains(&number("peak_memory")), "{usage}");
    assert!((100..600_000).contains(&number("cpu_ms")), "{usage}");
    assert!(["build", "largest_process"].contains(&usage["peak_of"].as_str().expect("whose")), "{usage}");
    let text = world.smidr().args(["status", &done.build_id()]).run();
    text.expect_code(0).expect_out("used       ").expect_out(" of processor time, up to ");
}

/// Whether the program warns that a limit does not hold.
fn not_enforced(done: &Done, key: &str) -> bool {
    done.err
        .lines()
        .any(|line| line.starts_with("warning: ") && line.contains(key) && line.contains("is not enforced: "))
}

/// Starts 40 processes that wait, and says how many there were when one more could not be started.
const MANY: &str = "import os, time\nn = 0\ntry:\n    while n < 40:\n        if os.fork() == 0:\n            time.sleep(100)\n        n += 1\nexcept BlockingIOError:\n    pass\nprint(n)\nos.killpg(0, 9)";

#[test]
fn a_process_limit_holds_or_is_warned_about() {
    let Some(world) = World::with_project("resources::a_process_limit_holds_or_is_warned_about") else { return };
    let count = |done: &Done| done.out.trim().parse::<u32>().unwrap_or_else(|_| panic!("{done:?}"));
    let run = || world.smidr().args(["run", "python3", "-uc", MANY]).run();
    let free = run();
    assert_eq!(count(&free), 40, "{free:?}");
    world.append("  tasks: 20\n");
    let limited = run();
    match not_enforced(&limited, "host.tasks 20") {
        // Helper and PID 1 are among them.
        false => assert!((10..20).contains(&count(&limited)), "{limited:?}"),
        true => assert_eq!(count(&limited), 40, "{limited:?}"),
    }
    // Where there is no cgroup, only root is beyond what the kernel counts.
    assert!(is_root() || !not_enforced(&limited, "host.tasks"), "{limited:?}");
    // BitBake's own tasks, each in a namespace of its own, are counted too.
    recipe(&world, "many", &format!("    python3 -uc '{}'", MANY.replace("os.killpg(0, 9)", "os._exit(n != 40)")));
    world.edit("smidr.yaml", "tasks: 20", "tasks: 60");
    let done = world.smidr().args(["build", "--target", "many"]).run();
    assert!(done.code == Some(0) || not_enforced(&done, "host.tasks"), "{done:?}");
}

#[test]
fn a_memory_limit_holds_or_is_warned_about() {
    let Some(world) = World::with_project("resources::a_memory_limit_holds_or_is_warned_about") else { return };
    world.append("  memory: 300m\n");
    let run = world.smidr().args(["run", "python3", "-c", "bytearray(b\"x\") * (1 << 30); print(\"survived\")"]).run();
    match not_enforced(&run, "host.memory 300 MiB") {
        false => assert_eq!(run.code, Some(137), "{run:?}"),
        true => run.expect_code(0).expect_out("survived").expect_err("cgroup").code.map_or((), drop),
    }
    recipe(&world, "greedy", GREEDY);
    let done = world.smidr().args(["build", "--target", "greedy"]).run();
    match not_enforced(&done, "host.memory 300 MiB") {
        false => {
            done.expect_code(3)
                .expect_err("memory ran out: the kernel killed ")
                .expect_err("raise host.memory, which is 300 MiB");
        }
        true => drop(done.expect_code(0)),
    }
    // Without limits there is no warning.
    world.edit("smidr.yaml", "  memory: 300m\n", "");
    let quiet = world.smidr().args(["run", "true"]).run();
    assert_eq!((quiet.code, quiet.err.as_str()), (Some(0), ""));
}

/// Leaves of smidr in the cgroup v2 of this test, if it may make some there.
fn leaves() -> Option<(PathBuf, Vec<String>)> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/').to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let own = Path::new(mount).join(path);
    let folders = [own.as_path(), own.parent().unwrap_or(&own)];
    let open = |folder: &&&Path| {
        let mode = fs::metadata(folder.join("cgroup.procs")).map(|meta| meta.permissions().mode()).unwrap_or(0);
        mode & 0o200 != 0 && rustix::fs::access(folder.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok()
    };
    let folder = folders.iter().find(open)?.to_path_buf();
    let names = World::names(&folder).into_iter().filter(|name| name.starts_with("smidr-run-")).collect();
    Some((folder, names))
}

#[test]
fn a_cgroup_is_removed_with_its_build() {
    let name = "resources::a_cgroup_is_removed_with_its_build";
    if leaves().is_none() {
        return skip(name, "no cgroup v2 of this session is delegated to this user");
    }
    let Some(world) = World::with_project(name) else { return };
    // Without a limit a program of `run` gets none.
    world.append("  tasks: 5000\n");
    // Other tests come and go beside this one.
    let holds = |marker: &str| {
        let (folder, names) = leaves().expect("still there");
        let inside = |leaf: &String| {
            let processes = fs::read_to_string(folder.join(leaf).join("cgroup.procs")).unwrap_or_default();
            processes.lines().any(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
            })
        };
        names.into_iter().find(inside).map(|leaf| folder.join(leaf))
    };
    let start = |marker: &str| {
        let mut running =
            world.smidr().args(["run", "sh", "-c", &format!("echo ready {marker}; sleep 1000; true")]).start();
        running.until_says("ready");
        running
    };
    let running = start("polite");
    let leaf = holds("ready polite").expect("a cgroup with the program in it");
    running.signal(Signal::SIGTERM);
    running.wait();
    assert!(!leaf.exists(), "removed with the end");
    let mut running = start("killed");
    let leaf = holds("ready killed").expect("a cgroup with the program in it");
    running.signal(Signal::SIGKILL);
    let _ = running.child.wait();
    wait_for("its processes to be gone", LONG, || {
        fs::read_to_string(leaf.join("cgroup.procs")).unwrap_or_default().trim().is_empty()
    });
    // Any other smidr removes what is left; perhaps one of another test has done so.
    world.smidr().args(["run", "true"]).run().expect_code(0);
    assert!(!leaf.exists(), "{} is left", leaf.display());
}

#[test]
fn a_fork_bomb_stays_in_its_sandbox() {
    let Some(world) = World::with_project("resources::a_fork_bomb_stays_in_its_sandbox") else { return };
    let limit =
        || world.smidr().args(["run", "sh", "-c", "awk '/Max processes/ { print $3 }' /proc/self/limits"]).run();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let most = limit().expect_code(0).out.trim().to_owned();
    // Before Linux 5.14 the kernel would count what the user runs elsewhere too; fewer than that stay fewer.
    assert!(most.parse::<usize>().is_ok_and(|most| most <= 8192.max(512 * processors)), "{most}");
    let plain = world.smidr().args(["run", "true"]).run();
    assert_eq!(plain.err, "", "a default says nothing");
    // Every process makes two, as often as it is let.
    world.append("  tasks: 200\n");
    let bomb = "import os, signal, time\nrefused = 0\nend = time.monotonic() + 3\nwhile time.monotonic() < end:\n    \
                try:\n        os.fork()\n    except BlockingIOError:\n        refused += 1\n        time.sleep(0.01)\n\
                if refused: os.write(1, b'EAGAIN\\n')\n";
    if not_enforced(&world.smidr().args(["run", "true"]).run(), "host.tasks") {
        return skip("resources::a_fork_bomb_stays_in_its_sandbox", "host.tasks does not hold here");
    }
    let done = world.smidr().args(["run", "python3", "-c", bomb]).run();
    done.expect_out("EAGAIN");
    // The machine and the next sandbox still work.
    world.smidr().args(["run", "sh", "-c", "true | true"]).run().expect_code(0);
}
