//! Warnings: counted by kind while a build runs, compared with earlier builds, and refused on request.

use super::support::World;

/// A recipe that warns so many times about its binaries, and once about something else.
fn warner(world: &World, times: u8) {
    let text = format!(
        "LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\npython do_act() {{\n    for n in range({times}):\n        bb.warn('QA Issue: file %d was not linked as it should be [ldflags]' % n)\n    bb.warn('strange')\n}}\n"
    );
    world.write("layers/meta-hello/recipes-test/warner/warner_1.bb", &text);
}

#[test]
fn warnings_are_counted_compared_and_refused() {
    let Some(world) = World::with_project("warnings::warnings_are_counted_compared_and_refused") else { return };
    let build = |more: &[&str]| world.smidr().args(["build", "--target", "warner"]).args(more).run();
    warner(&world, 2);
    let first = build(&[]);
    first.expect_code(0).expect_err("\nwarnings: 2 qa-ldflags in warner (meta-hello)\n");
    first.expect_err("\nwarnings: 1 other in warner (meta-hello)\n");
    let told = world.smidr().args(["explain", "--warnings"]).run();
    told.expect_code(0).expect_out("2 qa-ldflags in warner (meta-hello)\n  a QA check of recipes or packages; ");
    told.expect_out("\n  | QA Issue: file 0 was not linked as it should be [ldflags]\n");
    // A build in which it does not run says nothing of it.
    world.smidr().args(["build", "--target", "hello"]).run().expect_code(0);
    warner(&world, 3);
    build(&["--fail-on-warning", "cve"]).expect_code(0).expect_err("3 qa-ldflags in warner (meta-hello), 1 new\n");
    let groups = world.smidr().args(["explain", "--warnings", "--json"]).run().json()["warnings"].clone();
    assert_eq!(
        (&groups[1]["kind"], &groups[1]["count"], &groups[1]["new"]),
        (&"qa-ldflags".into(), &3.into(), &1.into())
    );
    assert_eq!(groups[0].get("new"), None, "{groups:#}");
    // What the build made stays, whatever it warned about.
    warner(&world, 4);
    let refused = build(&["--target", "hello-image", "--fail-on-warning", "qa", "--junit", "r.xml"]);
    refused.expect_code(1).expect_err("for its warnings\n  it has warnings that --fail-on-warning does not allow\n");
    refused.expect_err("\ncaused by: 4 qa-ldflags in warner (meta-hello), 1 new\n");
    let id = refused.build_id();
    let status = world.smidr().args(["status", &id, "--json"]).run().json();
    let outcome = &status["build"]["outcome"];
    assert_eq!((&outcome["state"], &outcome["kind"]), (&"FAILED".into(), &"warning".into()), "{outcome}");
    world.smidr().args(["artifacts", "list", &id]).run().expect_code(0).expect_out("hello-image");
    let junit = std::fs::read_to_string(world.project().join("r.xml")).expect("a report");
    assert!(junit.contains("<testcase name=\"the build\"") && junit.contains("<failure type=\"warning\""), "{junit}");
    // The same without this terminal. What failed is no good build to compare with.
    warner(&world, 5);
    let started = build(&["--detach", "--fail-on-warning", "all"]);
    let id = started.expect_code(0).out.trim().to_owned();
    world.smidr().args(["attach", &id]).run().expect_code(1).expect_err("5 qa-ldflags in warner (meta-hello), 2 new");
}

#[test]
fn a_kind_that_there_is_not_is_refused() {
    let world = World::new();
    world.init("p");
    let refused = world.smidr().args(["build", "--fail-on-warning", "qa-ldflag"]).run();
    refused.expect_code(2).expect_err("there is no such kind of warnings").expect_err("did you mean qa-ldflags?");
}
