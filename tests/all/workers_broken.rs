//! Workers that are killed, journals and indexes that are damaged, disks that are full: the record stays true, and the next build works.

use std::{fs, io::Write as _, os::unix::fs::symlink, path::Path, process::Command};

use super::{
    support::{Done, LONG, World, is_root, skip, smidr_bin, tool, wait_for},
    trouble::recipe,
    workers::{Alone, SOON},
};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

fn killed(world: &Alone, id: &str) {
    kill(world.worker(id), Signal::SIGKILL).expect("a worker");
}

/// The journal of a build that is over, as text again.
fn unpack(folder: &Path) -> Vec<String> {
    let packed = fs::read(folder.join("events.jsonl.zst")).expect("a journal");
    let text = zstd::decode_all(packed.as_slice()).expect("zstd");
    String::from_utf8(text).expect("text").lines().map(str::to_owned).collect()
}

/// Puts a journal in the place of a compressed one.
fn replace(folder: &Path, lines: &[String]) {
    fs::remove_file(folder.join("events.jsonl.zst")).expect("remove the journal");
    fs::write(folder.join("events.jsonl"), lines.join("\n") + "\n").expect("a journal");
}

#[test]
fn kill_9_of_a_worker_is_an_interrupted_build() {
    let Some(world) = Alone::new("workers_broken::kill_9_of_a_worker_is_an_interrupted_build") else { return };
    world.held("slow", "never");
    world.append("env: {WORD: \"${SUBMITTED:-}\"}\n");
    let done = world.smidr().args(["build", "--detach", "--target", "slow"]).env("SUBMITTED", "mine").run();
    let id = done.expect_code(0).out.trim_end().to_owned();
    world.until_acts(&id);
    let readers = [&["attach", &id][..], &["logs", "--follow", &id], &["cancel", &id]];
    let [mut attached, mut follower, canceller] = readers.map(|args| world.smidr().args(args).start());
    attached.until_says("do_act");
    follower.until_says("do_act");
    let journal = world.folder(&id).join("events.jsonl");
    killed(&world, &id);
    // Many look at once, and one of them writes it down.
    let lookers = [(); 12].map(|()| world.smidr().args(["status", &id, "--json"]).start());
    for looker in lookers {
        let done = looker.wait();
        assert!(
            ["INTERRUPTED", "BUILDING"]
                .contains(&done.expect_code(0).json()["build"]["state"].as_str().expect("a state"))
        );
    }
    wait_for("the record to be true", SOON, || world.build(&id)["state"] == "INTERRUPTED");
    attached.wait().expect_code(3).expect_err(&format!("{id} was interrupted after"));
    follower.wait().expect_code(0).expect_out(&format!("{id} was interrupted after"));
    assert!(matches!(canceller.wait().code, Some(0 | 2 | 3)));
    let build = world.build(&id);
    assert_eq!(build["outcome"]["kind"], "host");
    let records = world.journal(&id);
    assert_eq!(records.iter().filter(|record| record["event"] == "finished").count(), 1);
    assert_eq!(records.last().expect("a record")["outcome"], build["outcome"]);
    assert!(!journal.exists(), "it is compressed");
    let submission = fs::read_to_string(world.folder(&id).join("submission.json")).expect("a submission");
    assert!(submission.contains(r#""SUBMITTED":"""#), "the values are gone: {submission}");
    assert_eq!(world.smidr().args(["cancel", &id]).run().expect_code(2).err.matches("is over: INTERRUPTED").count(), 1);
    world.until_quiet();
    world.next_build_works();
}

#[test]
fn a_line_that_a_crash_has_cut_is_ignored() {
    let Some(world) = Alone::new("workers_broken::a_line_that_a_crash_has_cut_is_ignored") else { return };
    world.held("slow", "never");
    let id = world.detached(&["--target", "slow"]);
    world.until_acts(&id);
    let follower = world.smidr().args(["logs", "--follow", "--json", &id]).start();
    let journal = world.folder(&id).join("events.jsonl");
    kill(world.worker(&id), Signal::SIGSTOP).expect("a worker");
    // A reader may have seen the half of it.
    let cut =
        format!("{{\"build\":\"{id}\",\"seq\":1000,\"at\":\"2026-01-01T00:00:00Z\",\"event\":\"console\",\"line\":\"");
    let mut file = fs::OpenOptions::new().append(true).open(&journal).expect("the journal");
    file.write_all(cut.as_bytes()).expect("half a line");
    wait_for("the reader to have it", LONG, || {
        let pid = follower.pid();
        let positions = World::names(Path::new(&format!("/proc/{pid}/fd"))).into_iter().filter_map(|fd| {
            (fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()? == journal).then_some(())?;
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
            info.lines().next()?.strip_prefix("pos:")?.trim().parse::<u64>().ok()
        });
        positions.max() == Some(fs::metadata(&journal).expect("there").len())
    });
    killed(&world, &id);
    let done = follower.wait();
    assert_eq!(done.expect_code(0).err, "", "nothing is damaged");
    let followed: Vec<Value> = done.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(followed, world.journal(&id));
    assert_eq!(followed.last().expect("a record")["outcome"]["state"], "INTERRUPTED");
    world.until_quiet();
}

#[test]
fn a_damaged_journal_shows_what_is_left() {
    let Some(world) = Alone::new("workers_broken::a_damaged_journal_shows_what_is_left") else { return };
    recipe(&world, "quick", "    true");
    let id = world.smidr().args(["build", "--target", "quick"]).run().expect_code(0).build_id();
    let folder = world.folder(&id);
    let whole = unpack(&folder);
    let logs = || world.smidr().args(["logs", &id]).run();
    let before = logs();
    before.expect_code(0).expect_out("completed in");
    // One of the future, one that is none, one that is gone, and one that is too long.
    let mut lines = whole.clone();
    lines[4] =
        format!("{{\"build\":\"{id}\",\"seq\":5,\"at\":\"2026-01-01T00:00:00Z\",\"event\":\"teleported\",\"to\":9}}");
    lines[7] = "\u{0}\u{7f}{]".into();
    lines.remove(9);
    lines[10] = "x".repeat(17 << 20);
    replace(&folder, &lines);
    let damaged = logs();
    let warning = |lost| format!("warning: {lost} records of the journal of {id} are damaged or from a newer smidr");
    damaged.expect_code(0).expect_out("completed in").expect_err(&warning(4));
    let kept: Vec<&str> = damaged.out.lines().collect();
    assert!(kept.iter().all(|line| before.out.lines().any(|other| other == *line)), "{damaged:?}");
    let json = world.smidr().args(["logs", "--json", &id]).run();
    // Another program may know what this smidr does not.
    json.expect_code(0).expect_err(&warning(3)).expect_out(r#""event":"teleported""#);
    assert_eq!(json.out.lines().count(), whole.len() - 3);
    world.smidr().args(["attach", &id]).run().expect_code(0);
    world.smidr().args(["history", "rebuild"]).run().expect_code(0).expect_err("1 builds are in the history");
    assert_eq!(world.build(&id)["state"], "COMPLETED");
    // Its end is gone: it did not end.
    let other = world.smidr().args(["build", "--target", "quick"]).run().expect_code(0).build_id();
    let lines = unpack(&world.folder(&other));
    let packed = zstd::encode_all((lines[..lines.len() - 1].join("\n") + "\n").as_bytes(), 3).expect("zstd");
    fs::write(world.folder(&other).join("events.jsonl.zst"), packed).expect("a journal");
    world.smidr().args(["history", "rebuild"]).run().expect_code(0).expect_err("2 builds are in the history");
    assert_eq!(world.build(&other)["state"], "INTERRUPTED");
    world.smidr().args(["logs", &other]).run().expect_code(0).expect_out("was interrupted after");
    // A compressed one is damaged in the middle, cut, or empty: one error, and all other builds are as they were.
    world.next_build_works();
    let third = world.smidr().args(["status", "--json"]).run().json()["builds"][0]["id"].clone();
    let third = third.as_str().expect("an id");
    let path = world.folder(third).join("events.jsonl.zst");
    let good = fs::read(&path).expect("a journal");
    for bad in [&good[..good.len() / 3], b"", b"garbage, garbage"] {
        fs::write(&path, bad).expect("a journal");
        let logs = world.smidr().args(["logs", third]).run();
        assert!(!logs.err.contains("panicked") && logs.code.is_some(), "{logs:?}");
        assert!(logs.code != Some(0) || !logs.err.is_empty(), "not silently: {logs:?}");
        let rebuilt = world.smidr().args(["history", "rebuild"]).run();
        rebuilt.expect_code(0).expect_err(&format!("{third} is left out: "));
        assert_eq!(world.build(&id)["state"], "COMPLETED");
    }
    world.next_build_works();
}

#[test]
fn the_history_is_made_again_from_the_journals_and_pruned() {
    let name = "workers_broken::the_history_is_made_again_from_the_journals_and_pruned";
    let Some(world) = Alone::new(name) else { return };
    recipe(&world, "bad", "    exit 7");
    world.held("slow", "never");
    world.smidr().arg("build").run().expect_code(0);
    world.smidr().args(["artifacts", "clean", "--keep", "0"]).run().expect_code(0);
    world.smidr().arg("build").run().expect_code(0);
    world.smidr().args(["build", "--target", "bad"]).run().expect_code(1);
    let cancelled = world.detached(&["--target", "slow"]);
    world.until_acts(&cancelled);
    world.smidr().args(["cancel", "--force", &cancelled]).run().expect_code(0);
    let interrupted = world.detached(&["--target", "slow"]);
    world.until_acts(&interrupted);
    killed(&world, &interrupted);
    world.until_state(&interrupted, "INTERRUPTED");
    let status = || world.smidr().args(["status", "--json"]).run();
    let before = status().expect_code(0).json();
    let states: Vec<&Value> =
        before["builds"].as_array().expect("a list").iter().map(|build| &build["state"]).collect();
    assert_eq!(states, ["INTERRUPTED", "CANCELLED", "FAILED", "COMPLETED", "COMPLETED"]);
    assert_eq!(before["builds"][4]["outcome"]["cleaned"], true);
    let artifacts = || {
        world.smidr().args(["artifacts", "list", "--json", before["builds"][3]["id"].as_str().expect("an id")]).run()
    };
    let kept = artifacts().expect_code(0).json();
    let index = world.smidr.join("history.db");
    // Its first page is whole, and the rest is not.
    let mut half = fs::read(&index).expect("an index");
    half.iter_mut().skip(4096).for_each(|byte| *byte = 0xa5);
    assert!(half.len() > 3 * 4096);
    for damage in [None, Some(&b"garbage"[..]), Some(&half), Some(b"SQLite format 3\0and no more")] {
        ["history.db-wal", "history.db-shm"].iter().for_each(|name| drop(fs::remove_file(world.smidr.join(name))));
        fs::remove_file(&index).expect("remove the index");
        if let Some(damage) = damage {
            fs::write(&index, damage).expect("an index");
            let lost = status();
            lost.expect_code(3).expect_one_error().expect_err("smidr history rebuild");
        }
        world.smidr().args(["history", "rebuild"]).run().expect_code(0).expect_err("5 builds are in the history");
        assert_eq!(status().expect_code(0).json(), before);
        assert_eq!(artifacts().expect_code(0).json(), kept);
    }
    // While one runs; and one whose folder is gone.
    let running = world.detached(&["--target", "slow"]);
    world.until_acts(&running);
    let lost = world.smidr().args(["build", "--wait", "--target", "bad"]).start();
    wait_for("it to wait", LONG, || World::names(&world.smidr.join("builds")).len() == 7);
    lost.signal(Signal::SIGINT);
    let lost = lost.wait().expect_code(130).build_id();
    assert_eq!(status().json()["total"], 7);
    fs::remove_dir_all(world.folder(&lost)).expect("remove the build");
    world.smidr().args(["history", "rebuild"]).run().expect_code(0).expect_err("6 builds are in the history");
    assert_eq!(world.build(&running)["state"], "BUILDING");
    // It is neither removed nor counted.
    world.smidr().args(["history", "prune"]).run().expect_code(2).expect_one_error().expect_err("--keep 3");
    let would = world.smidr().args(["history", "prune", "--keep", "1", "--dry-run"]).run();
    would.expect_code(0).expect_err("would remove 3 builds");
    assert_eq!(status().json()["total"], 6);
    let gone = world.smidr().args(["history", "prune", "--keep", "1"]).run();
    assert_eq!(gone.expect_code(0).expect_err("removed 3 builds").out, would.out);
    let left: Vec<String> = World::names(&world.smidr.join("builds"));
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.contains(&running) && left.contains(&interrupted));
    world.release("slow");
    world.until_state(&running, "COMPLETED");
    world.smidr().args(["history", "prune", "--keep", "0"]).run().expect_code(0).expect_err("removed 3 builds");
    assert_eq!(World::names(&world.smidr.join("builds")), Vec::<String>::new());
    assert_eq!(status().json()["total"], 0);
    world.next_build_works();
}

#[test]
fn a_home_too_deep_for_a_socket_s_address() {
    let Some(mut world) = Alone::new("workers_broken::a_home_too_deep_for_a_socket_s_address") else { return };
    let deep = world.work.join("d".repeat(120)).join("e".repeat(60));
    fs::create_dir_all(&deep).expect("folders");
    symlink(fs::read_link(world.smidr.join("images")).expect("a link"), deep.join("images")).expect("a link");
    world.move_to(deep);
    world.held("slow", "at last");
    let id = world.detached(&["--target", "slow"]);
    let mut watcher = world.smidr().args(["attach", &id]).start();
    watcher.until_says("do_act");
    world.release("slow");
    watcher.wait().expect_code(0);
    world.held("deaf", "never");
    let id = world.detached(&["--target", "deaf"]);
    world.until_acts(&id);
    world.smidr().args(["cancel", "--force", &id]).run().expect_code(0).expect_err("CANCELLED");
    world.until_quiet();
}

/// Runs a shell whose `$SMIDR_HOME/builds` is a file system of its own of this size; `$0` is smidr. None where that cannot be.
fn with_small_disk(world: &World, size: &str, script: &str) -> Option<Done> {
    let mount = format!(
        "mkdir -p \"$SMIDR_HOME/builds\" && mount -t tmpfs -o mode=700,size={size} none \"$SMIDR_HOME/builds\" && cd p || exit 99"
    );
    in_own_mounts(world, &format!("{mount}\n{script}"))
}

/// Runs a shell in a mount namespace of its own; `$0` is smidr. None where that cannot be, or the script says so with 99.
pub(crate) fn in_own_mounts(world: &World, script: &str) -> Option<Done> {
    let mut command = Command::new(tool("unshare")?);
    world.surround(&mut command);
    let own = if is_root() { "-m" } else { "-Urm" };
    command.current_dir(&world.work).args([own, "sh", "-c", script]).arg(smidr_bin());
    let done = Done::new(command.output().expect("unshare starts"));
    (done.code != Some(99) && !done.err.starts_with("unshare:")).then_some(done)
}

#[test]
fn a_full_disk_ends_the_build_and_not_its_record() {
    let name = "workers_broken::a_full_disk_ends_the_build_and_not_its_record";
    let Some(world) = Alone::new(name) else { return };
    let python =
        "python do_act() {\n    for number in range(60000):\n        bb.plain(\"%d %s\" % (number, \"x\" * 200))\n}\n";
    let text = format!("LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\n{python}");
    world.write("layers/meta-hello/recipes-test/loud/loud.bb", &text);
    recipe(&world, "quick", "    true");
    let ends = "echo \"code $?\"; \"$0\" status --json; \"$0\" logs --json | tail -n 1; \"$0\" logs | tail -n 5";
    let Some(done) = with_small_disk(&world, "3m", &format!("\"$0\" build --target loud; {ends}")) else {
        return skip(name, "nothing can be mounted in a namespace of its own here");
    };
    done.expect_code(0)
        .expect_out("code 3\n")
        .expect_err("No space left on device")
        .expect_err("hint: free some space");
    let mut lines = done.out.lines().skip_while(|line| *line != "code 3").skip(1);
    let mut document = String::new();
    let status: Value = loop {
        document += lines.next().expect("a status");
        if let Ok(status) = serde_json::from_str(&document) {
            break status;
        }
    };
    let build = &status["builds"][0];
    assert_eq!((&build["state"], &build["outcome"]["kind"]), (&"FAILED".into(), &"host".into()), "{build}");
    let last: Value = serde_json::from_str(lines.next().expect("a record")).expect("JSON");
    assert_eq!(last["outcome"], build["outcome"], "the journal has its end");
    done.expect_out("FAILED");
    assert!(!done.err.contains("are damaged"), "what was not written has no number: {}", done.err);
    // A worker of its own; and the space may be gone before anything begins.
    let script =
        "id=$(\"$0\" build --detach --clean --target loud) && \"$0\" attach $id; echo \"code $?\"; \"$0\" status $id";
    let detached = with_small_disk(&world, "3m", script).expect("it worked a moment ago");
    detached.expect_out("code 3\n").expect_out("FAILED").expect_err("No space left on device");
    for how in ["", "--detach"] {
        let script = format!("\"$0\" build {how} --target quick; echo \"code $?\"; ls -A \"$SMIDR_HOME/builds\"");
        let none = with_small_disk(&world, "100k", &script).expect("it worked a moment ago");
        none.expect_one_error().expect_err("No space left on device").expect_err("hint: free some space");
        assert_eq!(none.out, "code 3\n", "nothing is left of it");
    }
    world.until_quiet();
    world.next_build_works();
}

#[test]
fn an_interrupted_build_is_known_on_a_full_disk() {
    let name = "workers_broken::an_interrupted_build_is_known_on_a_full_disk";
    let Some(world) = Alone::new(name) else { return };
    world.held("slow", "never");
    let script = "id=$(\"$0\" build --detach --target slow) && until \"$0\" logs $id | grep -q do_act; do sleep 0.1; done
        kill -9 $(sed 's/.*process //; s/)//' \"$SMIDR_HOME/locks/build-$id.lock\")
        dd if=/dev/zero of=\"$SMIDR_HOME/builds/rest\" bs=4k 2>/dev/null; dd if=/dev/zero of=\"$SMIDR_HOME/builds/rest2\" bs=1 2>/dev/null
        for look in $(seq 100); do \"$0\" status $id | grep -q INTERRUPTED && break; sleep 0.05; done
        \"$0\" status $id; echo \"code $?\"; rm \"$SMIDR_HOME\"/builds/rest*; \"$0\" status $id; \"$0\" logs $id";
    let Some(done) = with_small_disk(&world, "3m", script) else {
        return skip(name, "nothing can be mounted in a namespace of its own here");
    };
    done.expect_code(0).expect_out("code 0\n").expect_out("was interrupted after");
    assert_eq!((done.err.as_str(), done.out.matches("INTERRUPTED").count()), ("", 2), "{}", done.out);
    world.until_quiet();
}

#[test]
fn an_index_that_cannot_be_opened_on_a_full_disk_says_so() {
    let name = "workers_broken::an_index_that_cannot_be_opened_on_a_full_disk_says_so";
    let world = Alone::empty();
    let script = "mkdir -p \"$SMIDR_HOME\" && mount -t tmpfs -o mode=700,size=300k none \"$SMIDR_HOME\" || exit 99
        \"$0\" history rebuild; dd if=/dev/zero of=\"$SMIDR_HOME/rest\" bs=4k 2>/dev/null; \"$0\" status";
    let Some(done) = in_own_mounts(&world, script) else {
        return skip(name, "nothing can be mounted in a namespace of its own here");
    };
    done.expect_code(3).expect_one_error().expect_err("the history of builds").expect_err("hint: free some space");
}

#[test]
fn a_build_whose_index_cannot_be_written_is_still_completed() {
    let Some(world) = Alone::new("workers_broken::a_build_whose_index_cannot_be_written_is_still_completed") else {
        return;
    };
    world.held("slow", "at last");
    let mut build = world.smidr().args(["build", "--target", "slow"]).start();
    build.until_says("do_act");
    let index = rusqlite::Connection::open(world.smidr.join("history.db")).expect("the index");
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON builds BEGIN SELECT RAISE(ABORT, 'it is refused'); END";
    index.execute_batch(refuse).expect("a trigger");
    world.release("slow");
    let done = build.wait();
    done.expect_code(0).expect_err("completed in").expect_err("it is refused").expect_err("smidr history rebuild");
    let id = done.build_id();
    index.execute_batch("DROP TRIGGER refuse").expect("no trigger");
    world.smidr().args(["history", "rebuild"]).run().expect_code(0);
    assert_eq!(world.build(&id)["state"], "COMPLETED");
}

#[test]
fn a_worker_without_its_socket_is_stopped_by_a_signal() {
    let Some(world) = Alone::new("workers_broken::a_worker_without_its_socket_is_stopped_by_a_signal") else { return };
    for (force, state) in [(&[][..], "CANCELLED"), (&["--force"], "INTERRUPTED")] {
        world.held("slow", "never");
        let id = world.detached(&["--clean", "--target", "slow"]);
        world.until_acts(&id);
        fs::remove_file(world.folder(&id).join("control.sock")).expect("its socket");
        world.smidr().arg("cancel").args(force).arg(&id).run().expect_code(0).expect_err(state);
        assert_eq!(world.build(&id)["state"], state);
        world.until_quiet();
    }
    // A build that is over is not run again.
    recipe(&world, "quick", "    true");
    let over = world.smidr().args(["build", "--target", "quick"]).run().expect_code(0).build_id();
    world.smidr().args(["__worker", &over]).run().expect_code(3).expect_err("already exists");
    assert_eq!(world.build(&over)["state"], "COMPLETED");
}
