//! What a build leaves behind: what it deployed itself, and nothing where BitBake only looked or tried.

use std::fs;

use super::support::{Done, World};

fn build(world: &World, args: &[&str]) -> Done {
    world.smidr().arg("build").args(args).run()
}

fn artifacts(world: &World) -> usize {
    let list = world.smidr().args(["artifacts", "list", "--json"]).run();
    let list: serde_json::Value = serde_json::from_str(&list.expect_code(0).out).expect("JSON");
    list["artifacts"].as_array().expect("a list").len()
}

#[test]
fn only_what_a_build_deployed_is_kept() {
    let Some(world) = World::with_project("kept::only_what_a_build_deployed_is_kept") else { return };
    build(&world, &[]).expect_code(0);
    let all = artifacts(&world);
    assert!(all > 0);
    for look in [&["-n"][..], &["-e"], &["-g"], &["-S", "none"], &["-c", "listtasks"], &["-p"]] {
        build(&world, &[&["--"], look].concat()).expect_code(0);
        assert_eq!(artifacts(&world), 0, "{look:?}");
    }
    // What is up to date is of this build as well.
    build(&world, &[]).expect_code(0);
    assert_eq!(artifacts(&world), all);
    // From a folder below, and by a part of its id.
    let folder = world.project().join("layers");
    world.smidr().args(["artifacts", "list"]).current_dir(&folder).run().expect_code(0).expect_out("hello-image");
    let status = world.smidr().args(["status", "--json"]).run();
    let status: serde_json::Value = serde_json::from_str(&status.expect_code(0).out).expect("JSON");
    let id = status["builds"][0]["id"].as_str().expect("an id");
    let (name, hex) = id.rsplit_once('-').expect("a number");
    world.smidr().args(["status", &hex[..6]]).run().expect_code(0).expect_out(id);
    world.smidr().args(["status", &format!("{name}-{}", &hex[..6])]).run().expect_code(0).expect_out(id);
    world.smidr().args(["status", name]).run().expect_code(2).expect_err("begins the ids of several builds: ");
    world.smidr().args(["status", "zz"]).run().expect_code(2).expect_err("there is no build `zz`");
    world.smidr().arg("cancel").run().expect_code(2).expect_err("is over: COMPLETED");
    // Targets as arguments; a task by hand that deploys nothing needs no artifacts.
    let config = world.project().join("smidr.yaml");
    let text = fs::read_to_string(&config).expect("a config");
    fs::write(&config, text.replace("build:\n", "artifacts: [nothing/*]\nbuild:\n")).expect("written");
    build(&world, &["hello", "--", "-c", "compile"]).expect_code(0);
    let done = build(&world, &[]);
    done.expect_code(1).expect_err("failed after").expect_err("matches nothing/*").expect_err("used ");
}

#[test]
fn the_end_of_a_long_line_of_a_log_is_shown() {
    let Some(world) = World::with_project("kept::the_end_of_a_long_line_of_a_log_is_shown") else { return };
    world.write(
        "layers/meta-hello/recipes-hello/odd/odd.bb",
        "SUMMARY = \"Odd\"\nLICENSE = \"MIT\"\ninherit nobuild\ndo_shout[nostamp] = \"1\"\ndo_shout() {\n    printf 'gcc '; \
         head -c 200000 /dev/zero | tr '\\0' 'x'; echo ' undefined reference to foo'\n    exit 1\n}\naddtask shout\n",
    );
    let done = build(&world, &["odd:do_shout"]);
    done.expect_code(1).expect_err("[the beginning of this line is left out] undefined reference to foo");
}
