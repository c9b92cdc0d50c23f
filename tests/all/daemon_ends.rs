//! Ends of the daemon and of workers, asked for or not: no build is lost, none runs twice, and whoever follows one sees every record once.

use nix::sys::signal::{Signal, kill};

use super::{
    daemon::expect_dense,
    daemon_fixture::Served,
    support::{LONG, World, wait_for},
    trouble::recipe,
    workers::SOON,
};

impl Served {
    /// That each of these builds ran once, one after the other.
    #[track_caller]
    fn expect_ran_once_in_order(&self, ids: &[&str]) {
        let mut before = String::new();
        for id in ids {
            let records = self.journal(id);
            for event in ["build_started", "finished"] {
                assert_eq!(records.iter().filter(|record| record["event"] == event).count(), 1, "{event} of {id}");
            }
            let acts = records.iter().filter(|record| record["event"] == "task_started" && record["task"] == "do_act");
            assert_eq!(acts.count(), 1, "{id}");
            let begun = records[0]["at"].as_str().expect("a time").to_owned();
            assert!(before < begun, "{id} began at {begun}, and one before it at {before}");
            before = begun;
        }
        let folders = World::names(&self.smidr.join("builds"));
        assert_eq!(folders.len(), ids.len(), "{folders:?}");
    }
}

#[test]
fn a_daemon_that_is_killed_loses_nothing() {
    let Some(served) = Served::new("daemon_ends::a_daemon_that_is_killed_loses_nothing") else { return };
    served.held("slow", "at last");
    recipe(&served, "quick", "    true");
    let running = served.started(&["--target", "slow"]);
    let queued: Vec<String> = (0..2).map(|_| served.started(&["--clean", "--target", "quick"])).collect();
    served.until_acts(&running);
    let token = served.token("ci", &["--scope", "read"]);
    let mut followers = [
        served.client(&["logs", "--follow", "--json", &running]).start(),
        served.client_with(&token, &["logs", "--follow", "--json", &running]).start(),
        // From before its first record on.
        served.client(&["logs", "--follow", "--json", &queued[1]]).start(),
    ];
    followers[0].until_says("do_act");
    followers[1].until_says("do_act");
    served.kill();
    // Local commands need no daemon.
    assert_eq!(served.build(&running)["state"], "BUILDING");
    assert_eq!(served.build(&queued[0])["state"], "QUEUED");
    served.begin();
    assert_eq!(served.waiting(), *queued, "the order is kept");
    let status = served.daemon(&["status", "--json"]).json();
    assert_eq!(status["running"][0]["build"], running.as_str(), "it is followed again");
    served.release("slow");
    for id in [&running, &queued[0], &queued[1]] {
        served.until_shown(id, "COMPLETED");
    }
    for follower in followers {
        let done = follower.wait();
        expect_dense(&done.expect_code(0).out);
        assert_eq!(done.out.matches(r#""event":"finished""#).count(), 1, "{}", done.out);
    }
    served.expect_ran_once_in_order(&[&running, &queued[0], &queued[1]]);
    served.until_only_the_daemon();
}

#[test]
fn a_worker_that_is_killed_is_known_soon() {
    let Some(served) = Served::new("daemon_ends::a_worker_that_is_killed_is_known_soon") else { return };
    served.held("slow", "never");
    recipe(&served, "quick", "    true");
    let id = served.started(&["--target", "slow"]);
    let next = served.started(&["--target", "quick"]);
    let mut lines = served.client(&["logs", "--follow", &id]).start();
    let records = served.client(&["logs", "--follow", "--json", &id]).start();
    served.until_acts(&id);
    lines.until_says("do_act");
    kill(served.worker(&id), Signal::SIGKILL).expect("it runs");
    served.until_interrupted(&id);
    let (lines, records) = (lines.wait(), records.wait());
    lines.expect_code(0);
    expect_dense(&records.expect_code(0).out);
    assert_eq!(served.client(&["logs", &id]).run().expect_code(0).out, lines.out, "to the last record");
    let kept = served.client(&["logs", "--json", &id]).run();
    assert_eq!(kept.expect_code(0).out, records.out, "to the last record");
    // The next one is not kept from its turn.
    served.until_shown(&next, "COMPLETED");
    served.until_only_the_daemon();
}

#[test]
fn an_interrupted_build_starts_once_more_where_that_was_asked_for() {
    let name = "daemon_ends::an_interrupted_build_starts_once_more_where_that_was_asked_for";
    let Some(served) = Served::new(name) else { return };
    served.held("slow", "never");
    recipe(&served, "quick", "    true");
    let id = served.started(&["--target", "slow", "--retry-interrupted"]);
    served.until_acts(&id);
    kill(served.worker(&id), Signal::SIGKILL).expect("it runs");
    served.until_interrupted(&id);
    let label = format!("retry-of={id}");
    let tries = || {
        let list = served.client(&["list", "--label", &label, "--json"]).run().json();
        let ids = list["builds"].as_array().expect("a list").iter();
        ids.map(|build| build["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    wait_for("the second try", LONG, || !tries().is_empty());
    let again = tries().remove(0);
    served.until_acts(&again);
    kill(served.worker(&again), Signal::SIGKILL).expect("it runs");
    served.until_interrupted(&again);
    // Another build has its turn; there is no third try.
    let next = served.started(&["--target", "quick"]);
    served.until_shown(&next, "COMPLETED");
    assert_eq!(tries(), [again]);
}

#[test]
fn a_worker_that_dies_while_no_daemon_runs_is_known_at_the_next_start() {
    let name = "daemon_ends::a_worker_that_dies_while_no_daemon_runs_is_known_at_the_next_start";
    let Some(served) = Served::new(name) else { return };
    served.held("slow", "never");
    recipe(&served, "quick", "    true");
    let id = served.started(&["--target", "slow"]);
    let next = served.started(&["--target", "quick"]);
    served.until_acts(&id);
    served.kill();
    kill(served.worker(&id), Signal::SIGKILL).expect("it runs");
    served.begin();
    served.until_interrupted(&id);
    served.until_shown(&next, "COMPLETED");
}

#[test]
fn a_second_daemon_says_so_and_ends() {
    let served = Served::paused();
    for args in [&["daemon"][..], &["daemon", "--address", "127.0.0.1:0"], &["daemon", "--background"]] {
        let second = served.smidr().args(args).run();
        second.expect_code(2).expect_one_error().expect_err("a daemon runs already").expect_err("smidr daemon status");
        second.expect_err(&format!("process {}", served.pid()));
    }
    served.expect_alive();
    let id = served.started(&[]);
    assert_eq!(served.waiting(), [id]);
    // Another home may have one, but not at the same port.
    let other = World::new();
    let busy = other.smidr().args(["daemon", "--address", served.address()]).run();
    busy.expect_code(3).expect_one_error().expect_err("another program listens there");
}

#[test]
fn a_daemon_in_the_background_serves_and_is_stopped() {
    let world = World::new();
    let begun = world.smidr().args(["daemon", "--address", "127.0.0.1:0", "--background"]).run();
    begun.expect_code(0).expect_out("this user, no token").expect_out("--pin sha256:").expect_out("tokens:");
    let status = world.smidr().args(["daemon", "status", "--json"]).run().expect_code(0).json();
    assert!(status["pid"].as_u64().is_some_and(|pid| pid > 1), "{status}");
    world.smidr().args(["daemon", "stop"]).run().expect_code(0).expect_err("has ended");
    let after = world.smidr().args(["daemon", "status"]).run();
    after.expect_code(2).expect_one_error().expect_err("no daemon runs").expect_err("smidr daemon --background");
    let gone = || !std::path::Path::new(&format!("/proc/{}", status["pid"])).exists();
    wait_for("its process to be gone", SOON, gone);
    // The folder is for its user alone.
    for name in ["daemon.db", "ca.key", "server.pem", "daemon.log", "daemon.lock"] {
        let mode = std::fs::metadata(world.smidr.join("daemon").join(name))
            .map(|found| std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o077);
        assert!(matches!(mode, Ok(0)), "{name}: {mode:?}");
    }
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn the_ways_to_stop_a_daemon() {
    let Some(served) = Served::new("daemon_ends::the_ways_to_stop_a_daemon") else { return };
    served.held("slow", "at last");
    recipe(&served, "quick", "    true");
    // Left alone, its build goes on.
    let id = served.started(&["--target", "slow"]);
    served.until_acts(&id);
    served.daemon(&["stop"]).expect_code(0).expect_err("1 builds go on");
    served.until_ended().expect_code(0);
    assert_eq!(served.build(&id)["state"], "BUILDING");
    served.begin();
    // Drained, it ends with what runs; what waits stays.
    let waits = served.started(&["--target", "quick"]);
    let drained = served.smidr().args(["daemon", "stop", "--drain"]).start();
    wait_for("the queue to be closed", LONG, || served.waiting() == [waits.as_str()]);
    assert_eq!(served.shown(&id)["state"], "BUILDING");
    wait_for("the end to be told", LONG, || served.daemon(&["status", "--json"]).json()["draining"] == true);
    let status = served.daemon(&["status"]);
    status.expect_out("with the last of 1 builds; no more are started").expect_out("starts no more builds");
    served.client(&["queue"]).run().expect_code(0).expect_out("starts no more builds");
    served.release("slow");
    drained.wait().expect_code(0);
    served.until_ended().expect_code(0);
    assert_eq!(
        (served.build(&id)["state"].as_str(), served.build(&waits)["state"].as_str()),
        (Some("COMPLETED"), Some("QUEUED"))
    );
    served.begin();
    served.until_shown(&waits, "COMPLETED");
    // Cancelled.
    served.held("deaf", "never");
    let (id, waits) = (served.started(&["--target", "deaf"]), served.started(&["--target", "quick"]));
    served.until_acts(&id);
    let follower = served.client(&["logs", "--follow", &id]).start();
    served.daemon(&["stop", "--cancel"]).expect_code(0);
    served.until_ended().expect_code(0);
    served.until_state(&id, "CANCELLED");
    assert_eq!(served.build(&waits)["state"], "QUEUED");
    served.begin();
    follower.wait().expect_code(0);
    served.until_shown(&waits, "COMPLETED");
    // A signal is a stop.
    let id = served.started(&["--clean", "--target", "deaf"]);
    served.until_acts(&id);
    kill(nix::unistd::Pid::from_raw(i32::try_from(served.pid()).expect("a process id")), Signal::SIGTERM)
        .expect("it runs");
    served.until_ended().expect_code(0);
    assert_eq!(served.build(&id)["state"], "BUILDING");
    served.smidr().args(["cancel", "--force", &id]).run().expect_code(0);
}
