//! Artifacts of old builds, and `smidr artifacts clean`.

use std::path::PathBuf;

use super::{support::World, trouble::recipe};

#[test]
fn clean_keeps_the_last_good_build() {
    let Some(world) = World::with_project("artifacts::clean_keeps_the_last_good_build") else { return };
    let good = world.smidr().arg("build").run().expect_code(0).build_id();
    recipe(&world, "bad", "    exit 1");
    let bad = world.smidr().args(["build", "--target", "bad"]).run().expect_code(1).build_id();
    assert_eq!(world.smidr().args(["artifacts", "clean", "--keep", "1"]).run().expect_code(0).out, "");
    let list = |id: &str| world.smidr().args(["artifacts", "list", id]).run();
    list(&good).expect_code(0).expect_out("hello-image");
    list(&bad).expect_code(0).expect_err("left nothing behind");
    let log = world.smidr().args(["logs", &good]).run();
    log.expect_code(0).expect_out("sandbox    full isolation").expect_out("task");
    // A project lists its own builds only.
    let other = world.project().with_file_name("other");
    std::fs::create_dir(&other).expect("a folder");
    let config = std::fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let name = config.lines().find(|line| line.starts_with("name:")).expect("a name");
    std::fs::write(other.join("smidr.yaml"), config.replace(name, "name: other")).expect("a config");
    let there = |args: &[&str]| world.smidr().current_dir(&other).args(args).run();
    for args in [&["artifacts", "list"][..], &["artifacts", "show"], &["logs"]] {
        there(args).expect_code(2).expect_err("`other` has not been built yet");
        let here = world.smidr().args(args).run();
        assert!(here.err.contains(&bad) || here.out.contains(&bad), "{here:?}");
    }
    there(&["logs", &good]).expect_code(0).expect_out("completed in");
    there(&["shell", &good]).expect_code(125).expect_err("and this is `other`");
    world.smidr().args(["shell", "nosuch"]).run().expect_code(125).expect_err("nosuch");
}

#[test]
fn clean_removes_artifacts_of_old_builds() {
    let Some(world) = World::with_project("artifacts::clean_removes_artifacts_of_old_builds") else { return };
    recipe(&world, "bad", "    echo marker-of-the-log; exit 1");
    let ids = [0, 1].map(|_| world.smidr().args(["build", "--target", "bad"]).run().expect_code(1).build_id());
    recipe(&world, "slow", "    sleep 1000");
    let mut running = world.smidr().args(["build", "--target", "slow"]).start();
    running.until_says("slow:do_act");
    let status = || world.smidr().args(["status", "--json"]).run().json();
    let newest = status()["builds"][0]["id"].as_str().expect("an id").to_owned();
    let folder = |id: &str| -> PathBuf { world.smidr.join("builds").join(id) };
    let clean = |args: &[&str]| world.smidr().args(["artifacts", "clean"]).args(args).run();
    clean(&[]).expect_code(2).expect_err("--keep");
    // All are younger than a day.
    assert_eq!(clean(&["--days", "1"]).expect_code(0).out, "");
    let would = clean(&["--keep", "1", "--dry-run"]);
    would.expect_code(0).expect_out(&ids[0]).expect_err("would remove what 1 builds left behind, ");
    assert!(folder(&ids[0]).join("logs/bad.do_act").is_file() && !would.out.contains(&ids[1]), "{would:?}");
    clean(&["--keep", "1"]).expect_code(0).expect_out(&ids[0]).expect_err("removed what 1 builds left behind, ");
    let left = |id: &str| World::names(&folder(id));
    assert_eq!(left(&ids[0]), ["events.jsonl.zst", "secrets", "submission.json"]);
    assert!(folder(&ids[1]).join("logs").exists());
    // Never those of a running build.
    let all = clean(&["--keep", "0"]);
    all.expect_code(0).expect_out(&ids[1]);
    assert!(!all.out.contains(&newest) && folder(&newest).is_dir() && left(&ids[1]).len() == 3, "{all:?}");
    assert_eq!(clean(&["--keep", "0"]).expect_code(0).out, "");
    // The history and the logs of these builds stay.
    let told = status();
    let outcome = |id: &str| {
        let all = told["builds"].as_array().expect("a list");
        all.iter().find(|build| build["id"] == id).expect("the build")["outcome"].clone()
    };
    assert_eq!((&outcome(&ids[0])["cleaned"], &outcome(&ids[0])["state"]), (&true.into(), &"FAILED".into()));
    world.smidr().args(["status", &ids[1]]).run().expect_code(0).expect_out("cleaned ").expect_out("bad:do_act");
    world.smidr().args(["logs", &ids[1]]).run().expect_code(0).expect_out("marker-of-the-log");
    // A folder that smidr did not make is not touched.
    std::fs::create_dir(folder("by-hand")).expect("a folder");
    clean(&["--keep", "0"]).expect_code(0);
    assert!(folder("by-hand").is_dir());
    running.signal(nix::sys::signal::Signal::SIGINT);
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.wait().expect_code(130);
}
