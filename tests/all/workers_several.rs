//! Several builds of one command: a worker each, one view, one exit code, one end.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    screen::on_terminal,
    support::{Running, World, skip, tool, wait_for},
    trouble::recipe,
    workers::{Alone, SOON},
};

/// With variants, each of a target of that name.
fn with_variants(test: &str, names: &[&str]) -> Option<Alone> {
    let world = Alone::new(test)?;
    world.settings("limits: {builds: 8}\n");
    let variants: String = names.iter().map(|name| format!("  {name}: {{build: {{image: {name}}}}}\n")).collect();
    world.append(&format!("variants:\n{variants}"));
    recipe(&world, "quick", "    true");
    recipe(&world, "bad", "    sleep 1; exit 7");
    Some(world)
}

fn builds(world: &World) -> Vec<Value> {
    let status = world.smidr().args(["status", "--json"]).run().json();
    status["builds"].as_array().expect("a list").clone()
}

/// The build of a variant.
#[track_caller]
fn of(world: &World, variant: &str) -> Value {
    builds(world).into_iter().find(|build| build["variant"] == variant).expect("a build of the variant")
}

fn id(build: &Value) -> String {
    build["id"].as_str().expect("an id").to_owned()
}

/// Waits until the variants' tasks run.
#[track_caller]
fn until_all_act(world: &Alone, running: &mut Running, count: usize) {
    running.until_says(":do_act");
    wait_for("the builds", 60 * SOON, || builds(world).len() == count);
    builds(world).iter().for_each(|build| world.until_acts(&id(build)));
}

#[test]
fn variants_and_configs_are_built_at_once_and_keep_what_they_made() {
    let name = "workers_several::variants_and_configs_are_built_at_once_and_keep_what_they_made";
    let Some(world) = with_variants(name, &["hello-image", "quick"]) else { return };
    let done = world.smidr().args(["build", "--all-variants", "--events", "json"]).run();
    done.expect_code(0).expect_err("hello-image  task  ").expect_err("quick        task  ");
    for variant in ["hello-image", "quick"] {
        let build = of(&world, variant);
        let id = id(&build);
        assert_eq!(build["state"], "COMPLETED");
        let line = done.err.lines().find(|line| line.starts_with(&id)).expect("a line of the summary");
        assert!(line.contains(variant) && line.ends_with("COMPLETED"), "{line}");
        let records = done.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let own: Vec<Value> = records.filter(|record| record["build"] == id && record["seq"].is_u64()).collect();
        assert_eq!(own, world.journal(&id), "each build's records are all there, in order");
        let kept = world.smidr().args(["artifacts", "list", &id, "--json"]).run();
        let kept = kept.expect_code(0).json()["artifacts"].as_array().expect("a list").len() as u64;
        assert_eq!(build["outcome"]["artifacts"], kept);
        assert_eq!(kept > 0, variant == "hello-image");
    }
    assert_eq!(World::names(&world.smidr.join("workspaces")).len(), 2, "a workspace for each");
    // Two configs, one after the other, and a variant that both have.
    let other = world.init("q");
    std::fs::copy(world.project().join("smidr.yaml"), other.join("smidr.yaml")).expect("a config");
    world.write("../q/layers/meta-hello/recipes-test/quick/quick.bb", "LICENSE = \"MIT\"\ninherit nobuild\n");
    let config = std::fs::read_to_string(other.join("smidr.yaml")).expect("a config");
    std::fs::write(other.join("smidr.yaml"), config.replace("name: p", "name: q")).expect("a config");
    let args = ["-c", "smidr.yaml", "-c", "../q/smidr.yaml", "build", "--jobs", "1", "--variant", "quick"];
    let done = world.smidr().args(args).run();
    done.expect_code(0).expect_err("p/quick      bitbake  ").expect_err("q/quick      bitbake  ");
    let all = builds(&world);
    let newest = |name: &str| all.iter().find(|build| build["name"] == name).expect("a build").clone();
    let journals = ["p", "q"].map(|name| world.journal(&id(&newest(name))));
    let at = |journal: &[Value], event: &str| {
        let record = journal.iter().find(|record| record["event"] == event).unwrap_or_else(|| panic!("no {event}"));
        record["at"].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time")
    };
    assert!(at(&journals[1], "queued") < at(&journals[0], "finished"));
    assert!(at(&journals[1], "stage_started") >= at(&journals[0], "finished"), "one after the other");
    // What is asked for twice is built once, and without variants there are none.
    let done = world.smidr().args(["build", "--variant", "quick", "--variant", "quick"]).run();
    done.expect_code(0);
    assert_eq!(builds(&world).len(), all.len() + 1);
    world.smidr().args(["build", "--variant", "quick", "--variant", "quack"]).run().expect_code(2).expect_err("quack");
    assert_eq!(builds(&world).len(), all.len() + 1, "nothing begins where one cannot");
    world.until_quiet();
    assert_eq!(World::names(&world.smidr.join("queue")), ["order.lock"]);
}

#[test]
fn one_that_fails_stops_the_rest_unless_they_keep_going() {
    let name = "workers_several::one_that_fails_stops_the_rest_unless_they_keep_going";
    let Some(world) = with_variants(name, &["bad", "slow", "quick"]) else { return };
    world.append("  gone: {layers: [{name: gone, path: ./gone}]}\n");
    recipe(&world, "slow", "    sleep 3");
    // The third waits for its turn, and need not begin.
    world.settings("limits: {builds: 2}\n");
    let done = world.smidr().args(["build", "--variant", "bad", "--variant", "slow", "--variant", "quick"]).run();
    done.expect_code(1).expect_err("failed in bad:do_act");
    let bad = of(&world, "bad");
    assert_eq!(bad["state"], "FAILED");
    for variant in ["slow", "quick"] {
        let build = of(&world, variant);
        assert_eq!((&build["state"], &build["outcome"]["kind"]), (&"CANCELLED".into(), &"cancelled".into()));
        let why = format!("{} did not complete", id(&bad));
        assert_eq!(build["outcome"]["reasons"], serde_json::json!([why]), "{build}");
        world.smidr().args(["status", &id(&build)]).run().expect_code(0).expect_out(&why);
    }
    world.until_quiet();
    // The first that fails in time has the word: a layer that is not there is no build's fault, and known at once.
    let before = builds(&world).len();
    let args = ["build", "--keep-going", "--variant", "bad", "--variant", "slow", "--variant", "gone"];
    world.settings("limits: {builds: 8}\n");
    let done = world.smidr().args(args).run();
    done.expect_code(2).expect_err("failed in bad:do_act");
    assert_eq!(builds(&world).len(), before + 3);
    let states = ["bad", "slow", "gone"].map(|variant| of(&world, variant)["state"].clone());
    assert_eq!(states, ["FAILED", "COMPLETED", "FAILED"]);
    world.until_quiet();
    world.next_build_works();
}

#[test]
fn a_stop_by_the_user_cancels_all() {
    let name = "workers_several::a_stop_by_the_user_cancels_all";
    let Some(world) = with_variants(name, &["a", "b"]) else { return };
    for variant in ["a", "b"] {
        recipe(&world, variant, "    sleep 3; echo over > ${TMPDIR}/over");
    }
    let mut running = world.smidr().args(["build", "--all-variants"]).start();
    until_all_act(&world, &mut running, 2);
    running.signal(Signal::SIGINT);
    let done = running.wait();
    done.expect_code(130).expect_err("stopping   BitBake finishes the tasks that run");
    for variant in ["a", "b"] {
        let build = of(&world, variant);
        assert_eq!((&build["state"], &build["outcome"]["reasons"]), (&"CANCELLED".into(), &Value::Array(vec![])));
    }
    let workspaces = world.smidr.join("workspaces");
    for workspace in World::names(&workspaces) {
        assert!(workspaces.join(workspace).join("build/tmp/over").exists(), "the tasks may finish");
    }
    world.until_quiet();
    // The second signal kills all, and a terminal that is closed is a signal.
    for variant in ["a", "b"] {
        world.held(variant, "never");
    }
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let before: BTreeSet<String> = builds(&world).iter().map(id).collect();
    let (mut screen, mut child) = on_terminal(&setsid, &world, &["build", "--all-variants"]);
    screen.says("a:do_act");
    screen.says("b:do_act");
    let new = || builds(&world).into_iter().filter(|build| !before.contains(&id(build)));
    new().for_each(|build| world.until_acts(&id(&build)));
    screen.types("\x03");
    screen.says("stopping   BitBake finishes the tasks that run");
    drop(screen);
    assert_eq!(child.wait().expect("smidr ends").code(), Some(130));
    let states: Vec<Value> = new().map(|build| build["state"].clone()).collect();
    assert_eq!(states, ["CANCELLED"; 2]);
    world.until_quiet();
    world.next_build_works();
}

#[test]
fn kill_9_of_the_foreground_process_ends_all() {
    let name = "workers_several::kill_9_of_the_foreground_process_ends_all";
    let Some(world) = with_variants(name, &["a", "b", "c"]) else { return };
    for variant in ["a", "b", "c"] {
        world.held(variant, "never");
    }
    // One of them waits for its turn.
    let mut running = world.smidr().args(["build", "--all-variants", "--jobs", "2"]).start();
    running.until_says("a:do_act");
    running.until_says("b:do_act");
    wait_for("the builds", 60 * SOON, || builds(&world).len() == 3);
    assert_eq!(of(&world, "c")["state"], "QUEUED");
    running.signal(Signal::SIGKILL);
    let _ = running.child.wait();
    wait_for("the record to be true", SOON, || builds(&world).iter().all(|build| build["state"] == "INTERRUPTED"));
    world.until_quiet();
    for build in builds(&world) {
        assert_eq!(world.journal(&id(&build)).pop().expect("a record")["outcome"], build["outcome"]);
    }
    world.next_build_works();
    assert_eq!(World::names(&world.smidr.join("queue")), ["order.lock"]);
    // The death of one worker is the failure of one build.
    let mut running = world.smidr().args(["build", "--variant", "a", "--variant", "b"]).start();
    running.until_says("a:do_act");
    running.until_says("b:do_act");
    let killed = id(&of(&world, "a"));
    nix::sys::signal::kill(world.worker(&killed), Signal::SIGKILL).expect("a worker");
    running.wait().expect_code(3).expect_err("INTERRUPTED").expect_err("CANCELLED");
    let other = of(&world, "b");
    assert_eq!(other["outcome"]["reasons"], serde_json::json!([format!("{killed} did not complete")]), "{other}");
    world.until_quiet();
}
