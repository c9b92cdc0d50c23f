//! A stop is heeded in every stage of a build, however often it is asked for, and the record says CANCELLED.

use std::net::TcpListener;

use nix::sys::signal::Signal;

use super::{
    support::{Running, World},
    trouble::recipe,
};

/// The end of a build that was stopped. Gives its id.
fn cancelled(world: &World, running: Running) -> String {
    running.wait().expect_code(130).expect_err("CANCELLED");
    let newest = &world.smidr().args(["status", "--json"]).run().json()["builds"][0];
    assert_eq!(newest["state"], "CANCELLED", "{newest}");
    assert_eq!(newest["outcome"]["reasons"], serde_json::json!([]), "{newest}");
    newest["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_stop_while_artifacts_are_kept_cancels() {
    let Some(world) = World::with_project("stages::a_stop_while_artifacts_are_kept_cancels") else { return };
    let images = "${DEPLOY_DIR}/images/${MACHINE}";
    recipe(
        &world,
        "large",
        &format!("    mkdir -p {images}\n    dd if=/dev/zero of={images}/large bs=1M count=700 status=none"),
    );
    for signals in [&[Signal::SIGINT][..], &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGINT]] {
        let mut running = world.smidr().args(["build", "--target", "large", "--events", "json"]).start();
        running.until_says(r#""stage":"collect""#);
        signals.iter().for_each(|signal| running.signal(*signal));
        let id = cancelled(&world, running);
        assert!(!world.smidr.join("builds").join(&id).join("artifacts").exists(), "what is half kept goes");
    }
    world.smidr().args(["build", "--target", "large"]).run().expect_code(0);
}

#[test]
fn two_stops_before_bitbake_runs_are_recorded() {
    let Some(world) = World::with_project("stages::two_stops_before_bitbake_runs_are_recorded") else { return };
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/silent.git", silent.local_addr().expect("an address"));
    world.edit("smidr.yaml", "layers:\n", &format!("layers:\n  - name: silent\n    git: {url}\n    branch: main\n"));
    let running = world.smidr().args(["build"]).start();
    let _connection = silent.accept().expect("a connection");
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGTERM);
    cancelled(&world, running);
}

#[test]
fn a_failure_before_bitbake_keeps_its_kind_and_hints() {
    let Some(world) = World::with_project("stages::a_failure_before_bitbake_keeps_its_kind_and_hints") else { return };
    // A port without a listener.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let layer = format!("layers:\n  - name: gone\n    git: http://127.0.0.1:{port}/gone.git\n    branch: main\n");
    world.edit("smidr.yaml", "layers:\n", &layer);
    let here = world.smidr().arg("build").run();
    here.expect_code(4).expect_one_error().expect_err("hint: ");
    // From another process, and from the record, it is the same.
    let id = world.smidr().args(["build", "--detach"]).run().expect_code(0).out.trim().to_owned();
    let attached = world.smidr().args(["attach", &id]).run();
    attached.expect_code(4).expect_one_error().expect_err("hint: ");
    let outcome = &world.smidr().args(["status", &id, "--json"]).run().json()["build"]["outcome"];
    assert_eq!((&outcome["state"], &outcome["kind"]), (&"FAILED".into(), &"outside".into()), "{outcome}");
    assert!(outcome["hints"][0]["text"].is_string() && outcome["reasons"][0].is_string(), "{outcome}");
    world.smidr().args(["status", &id]).run().expect_code(0).expect_out("hint ");
    world.smidr().args(["logs", &id]).run().expect_code(0).expect_out("hint: ");
}
