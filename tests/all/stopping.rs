//! Builds that are stopped gracefully, by a second signal and by SIGKILL; and two builds of one project at once.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{
    support::{LONG, Running, World, processes_with, wait_for},
    trouble::recipe,
};

/// A build whose task sleeps, up to the point where it does.
fn sleeping(world: &World, script: &str) -> Running {
    recipe(world, "slow", script);
    let mut running = world.smidr().args(["build", "--target", "slow", "--events", "json"]).start();
    running.until_says(r#""task":"do_act""#);
    let marker = marker(world);
    wait_for("the task to run", LONG, || processes_with(&marker).iter().any(|line| line.contains("run.do_act")));
    running
}

/// What BitBake and all its tasks have in their environment or command line.
fn marker(world: &World) -> String {
    world.smidr.join("workspaces").display().to_string()
}

fn state(world: &World) -> String {
    let status = world.smidr().args(["status", "--json"]).run().json();
    status["builds"][0]["state"].as_str().expect("a state").to_owned()
}

#[test]
fn first_signal_is_graceful() {
    let Some(world) = World::with_project("stopping::first_signal_is_graceful") else { return };
    let running = sleeping(&world, "    sleep 3; echo over > ${TMPDIR}/over");
    running.signal(Signal::SIGINT);
    let done = running.wait();
    done.expect_code(130).expect_err("stopping   BitBake finishes the tasks that run").expect_err("CANCELLED");
    assert_eq!(processes_with(&marker(&world)), Vec::<String>::new());
    assert_eq!(state(&world), "CANCELLED");
    assert!(done.out.lines().last().is_some_and(|line| line.contains(r#""state":"CANCELLED""#)), "{}", done.out);
    // The workspace is free again, and the next build continues.
    recipe(&world, "slow", "    true");
    world.smidr().args(["build", "--target", "slow"]).run().expect_code(0);
}

#[test]
fn a_closed_terminal_is_graceful() {
    let Some(world) = World::with_project("stopping::a_closed_terminal_is_graceful") else { return };
    let running = sleeping(&world, "    sleep 3; echo over > ${TMPDIR}/over");
    // From the kernel and from the shell.
    running.signal(Signal::SIGHUP);
    running.signal(Signal::SIGHUP);
    let done = running.wait();
    done.expect_code(130).expect_err("CANCELLED");
    assert!(!done.err.contains("everything is killed"), "{}", done.err);
}

#[test]
fn cancel_from_another_terminal() {
    let Some(world) = World::with_project("stopping::cancel_from_another_terminal") else { return };
    let script = "    trap '' INT TERM HUP\n    while true; do sleep 1; done";
    let running = sleeping(&world, script);
    let id =
        world.smidr().args(["status", "--json"]).run().json()["builds"][0]["id"].as_str().expect("an id").to_owned();
    let begun = Instant::now();
    let cancel = world.smidr().args(["cancel", &id, "--force"]).run();
    cancel.expect_code(0).expect_err(&format!("{id} CANCELLED"));
    assert!(begun.elapsed() < Duration::from_secs(5), "at once, not after {:?}", begun.elapsed());
    running.wait().expect_code(130);
    wait_for("the processes to be gone", Duration::from_secs(1), || processes_with(&marker(&world)).is_empty());
    let again = world.smidr().args(["cancel", &id]).run();
    again.expect_code(2).expect_err(&format!("the build {id} is over: CANCELLED"));
    world.smidr().args(["cancel", "p-00000000"]).run().expect_code(2).expect_err("there is no build");
    // Gracefully: the running task may end.
    let running = sleeping(&world, "    sleep 3; echo over > ${TMPDIR}/over");
    let id =
        world.smidr().args(["status", "--json"]).run().json()["builds"][0]["id"].as_str().expect("an id").to_owned();
    world.smidr().args(["cancel", &id]).run().expect_code(0).expect_err("CANCELLED");
    running.wait().expect_code(130).expect_err("stopping   BitBake finishes");
}

#[test]
fn second_signal_kills() {
    let Some(world) = World::with_project("stopping::second_signal_kills") else { return };
    let mut running = sleeping(&world, "    trap '' INT TERM HUP\n    while true; do sleep 1; done");
    running.signal(Signal::SIGINT);
    running.until_says("stopping   BitBake finishes");
    let begun = Instant::now();
    running.signal(Signal::SIGTERM);
    let done = running.wait();
    assert!(begun.elapsed() < Duration::from_secs(5), "at once, not after {:?}", begun.elapsed());
    done.expect_code(130).expect_err("everything is killed").expect_err("CANCELLED");
    wait_for("the processes to be gone", Duration::from_secs(1), || processes_with(&marker(&world)).is_empty());
    assert_eq!(state(&world), "CANCELLED");
}

#[test]
fn sigkill_in_mid_build_leaves_nothing() {
    let Some(world) = World::with_project("stopping::sigkill_in_mid_build_leaves_nothing") else { return };
    let mut running =
        sleeping(&world, "    trap '' INT TERM HUP\n    setsid sleep 1000 &\n    while true; do sleep 1; done");
    let (marker, helper) = (marker(&world), format!("__sandbox-init\0{}\0", running.pid()));
    assert!(processes_with(&marker).len() >= 4, "BitBake, its server, its worker, the task");
    assert_eq!(processes_with(&helper).len(), 2, "the helper and its PID 1");
    assert_eq!(state(&world), "BUILDING");
    running.signal(Signal::SIGKILL);
    let _ = running.child.wait();
    let left = || [processes_with(&marker), processes_with(&helper)].concat();
    wait_for("every process of the build to be gone", Duration::from_secs(1), || left().is_empty());
    assert_eq!(state(&world), "INTERRUPTED");
    recipe(&world, "slow", "    true");
    world.smidr().args(["build", "--target", "slow"]).run().expect_code(0);
}

#[test]
fn a_workspace_has_one_build_at_a_time() {
    let Some(world) = World::with_project("stopping::a_workspace_has_one_build_at_a_time") else { return };
    let running = sleeping(&world, "    sleep 1000");
    let first =
        world.smidr().args(["status", "--json"]).run().json()["builds"][0]["id"].as_str().expect("an id").to_owned();
    let second = world.smidr().arg("build").run();
    second.expect_code(2).expect_one_error().expect_err("is in use by").expect_err(&first).expect_err("smidr status");
    // A shell beside it looks, and has a HOME of its own; BitBake's commands wait for the lock of the running one.
    let layer = world.project().join("layers/meta-hello").display().to_string();
    let look = format!(
        "touch ~/mine; ls -A ~; cat conf/local.conf; for file in conf/x workspace/conf/x {layer}/x; do touch $file; done; \
         timeout 1 bitbake --version; echo ended $?"
    );
    let joined = world.smidr().args(["run", "--", "sh", "-c", &look]).run();
    joined.expect_code(0).expect_err(&format!("{first} (process")).expect_err("layers and conf are read-only");
    joined
        .expect_out("mine\n")
        .expect_out("MACHINE")
        .expect_out("ended 124")
        .expect_err("bitbake: waiting for the BitBake");
    assert_eq!(joined.err.matches("Read-only file system").count(), 3, "{}", joined.err);
    assert_eq!(world.smidr().args(["run", "ls", "-A"]).run().out.matches("mine").count(), 0);
    assert!(!world.smidr.join("tmp/sessions").read_dir().is_ok_and(|mut left| left.next().is_some()));
    // Another project of the same name is another project.
    std::fs::create_dir(world.work.join("q")).expect("a folder");
    let other = world.smidr().current_dir(&world.work.join("q")).args(["init", "p", "--template", "hello"]).run();
    other.expect_code(0);
    let other = world.smidr().current_dir(&world.work.join("q/p")).args(["run", "true"]).run();
    other.expect_code(0);
    // `logs --follow` sees the end.
    let mut follower = world.smidr().args(["logs", "--follow", &first]).start();
    follower.until_says("Running task");
    running.signal(Signal::SIGTERM);
    running.signal(Signal::SIGINT);
    running.wait().expect_code(130);
    follower.wait().expect_code(0).expect_out(&format!("{first} CANCELLED"));
}
