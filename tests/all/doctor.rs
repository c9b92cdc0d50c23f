//! `smidr doctor`, and machines that cannot build.

use std::process::Command;

use super::support::{Done, World, skip, smidr_bin, tool, user_namespaces};

#[test]
fn a_machine_that_can() {
    if let Err(reason) = user_namespaces() {
        return skip("doctor::a_machine_that_can", reason);
    }
    let world = World::new();
    let done = world.smidr().arg("doctor").run();
    done.expect_code(0)
        .expect_out("sandbox       good")
        .expect_out("task network  good")
        .expect_err("this machine can build");
    let json = world.smidr().args(["doctor", "--json"]).run().expect_code(0).json();
    assert_eq!((&json["version"], &json["can_build"]), (&1.into(), &true.into()));
    let findings = json["findings"].as_array().expect("a list");
    assert!(findings.iter().all(|finding| finding["name"].is_string() && finding["verdict"].is_string()), "{json}");
    assert_eq!(World::names(&world.smidr.join("tmp")), Vec::<String>::new(), "nothing is left");
}

/// smidr where the number of user namespaces is limited to none: in a namespace of its own, never on this machine.
fn without_user_namespaces(world: &World, args: &[&str]) -> Option<Done> {
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && ! unshare -U true 2>/dev/null || exit 99; exec \"$@\"";
    let mut command = Command::new(tool("unshare")?);
    world.surround(&mut command);
    command.current_dir(&world.work).args(["-Ur", "sh", "-c", script, "sh"]).arg(smidr_bin()).args(args);
    let done = Done::new(command.output().expect("unshare starts"));
    (done.code != Some(99) && !done.err.starts_with("unshare:")).then_some(done)
}

#[test]
fn no_user_namespaces() {
    let name = "doctor::no_user_namespaces";
    let world = World::new();
    let Some(doctor) = without_user_namespaces(&world, &["doctor"]) else {
        return skip(name, "their number cannot be limited in a namespace of its own here");
    };
    doctor.expect_code(3).expect_out("sandbox       BROKEN").expect_out("sysctl -w user.max_user_namespaces=");
    doctor.expect_err("this machine cannot build yet");
    let Some(mut world) = World::with_project(name) else { return };
    world.work = world.project();
    let build = without_user_namespaces(&world, &["build"]).expect("it worked a moment ago");
    build.expect_code(3).expect_one_error().expect_err("namespaces").expect_err("sysctl -w user.max_user_namespaces=");
    let run = without_user_namespaces(&world, &["run", "true"]).expect("it worked a moment ago");
    run.expect_code(125).expect_one_error().expect_err("sysctl -w user.max_user_namespaces=");
}
