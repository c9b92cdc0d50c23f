//! `init`, `check` and `plan`: a project that is good as it is, and looking at it leaves no trace.

use std::{collections::BTreeMap, fs, path::Path};

use super::support::World;

/// Every file below a folder with its content.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.expect("an entry"));
    entries
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| (entry.path().display().to_string(), fs::read(entry.path()).expect("a file")))
        .collect()
}

#[test]
fn hello_is_good_as_it_is() {
    let world = World::new();
    let done = world.smidr().args(["init", "p", "--template", "hello"]).run();
    done.expect_code(0).expect_err("cd p && smidr build");
    assert_eq!(done.out, "p\n");
    assert_eq!(World::names(&world.work), ["p"], "nothing else is left there");
    let before = tree(&world.project());
    assert!(before.keys().any(|path| path.ends_with("/conf/layer.conf")));
    let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    assert!(config.contains("name: p\n"), "{config}");
    world.smidr().arg("check").run().expect_code(0).expect_err("smidr.yaml is good");
    let plan = world.smidr().arg("plan").run();
    plan.expect_code(0)
        .expect_out("target     hello-image for hello-x86-64")
        .expect_out("rootfs recipe hello, unresolved");
    let json = world.smidr().args(["plan", "--json", "--target", "libgreet", "--machine", "other"]).run();
    let json = json.expect_code(0).json();
    assert_eq!(json["version"], 1);
    assert_eq!(json["plan"]["targets"], serde_json::json!(["libgreet"]));
    assert_eq!(json["plan"]["machine"], "other");
    assert!(json["plan"]["host"]["pinned"].is_null());
    // None of them touches anything: not the project, not the home, and no SMIDR_HOME appears.
    assert_eq!(tree(&world.project()), before);
    assert!(!world.smidr.exists());
    assert_eq!(World::names(&world.home), Vec::<String>::new());
}

#[test]
fn the_config_may_stand_elsewhere() {
    let world = World::new();
    let project = world.init("p");
    let file = project.join("smidr.yaml");
    let from_far = world.smidr().current_dir(Path::new("/")).args(["plan", "--config"]).arg(&file).run();
    let layer = format!("meta-hello  {}", project.join("layers/meta-hello").display());
    from_far.expect_code(0).expect_out(&layer);
    let via_link = world.work.join("link");
    std::os::unix::fs::symlink(&project, &via_link).expect("a link");
    let linked = world.smidr().current_dir(&via_link).arg("plan").run();
    assert_eq!(linked.expect_code(0).out, from_far.out, "one project, one workspace, however it is reached");
}

#[test]
fn init_leaves_what_is_there() {
    let world = World::new();
    let folder = world.work.join("there");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("precious"), "mine").expect("a file");
    std::os::unix::fs::symlink("nowhere", world.work.join("dangling")).expect("a link");
    let before = tree(&world.work);
    for name in ["there", "dangling"] {
        let done = world.smidr().args(["init", name, "--template", "hello"]).run();
        done.expect_code(2).expect_one_error().expect_err("exists already").expect_err("hint: choose another name");
    }
    assert_eq!(tree(&world.work), before);
    assert_eq!(World::names(&world.work), ["dangling", "there"]);
}

#[test]
fn names_that_cannot_be() {
    let world = World::new();
    let long = "l".repeat(65);
    for name in ["a b", "../up", "a/b", ".hidden", "-dash", "ü", "", "a:b", long.as_str()] {
        let done = world.smidr().args(["init", "--template", "hello", "--", name]).run();
        assert_eq!(done.expect_code(2).out, "", "{name}");
    }
    assert_eq!(World::names(&world.work), Vec::<String>::new());
    assert_eq!(World::names(world.work.parent().expect("a folder")), ["home", "work"], "../up is not there either");
}

#[test]
fn poky_is_complete_and_waits_for_git() {
    let world = World::new();
    let done = world.smidr().args(["init", "p"]).run();
    done.expect_code(0).expect_err("git");
    let plan = world.smidr().arg("plan").run();
    plan.expect_code(0).expect_out("core-image-minimal for qemux86-64").expect_out(" wrynose").expect_out("2.18");
    let build = world.smidr().arg("build").run();
    build.expect_code(3).expect_one_error().expect_err("comes from a git repository").expect_err("git clone ");
    let check = world.smidr().arg("check").run();
    check.expect_code(0);
    assert!(!check.err.contains("unknown key"), "the schema knows every word of the template:\n{}", check.err);
    let status = world.smidr().args(["status", "--json"]).run().json();
    assert_eq!(status["builds"][0]["state"], "FAILED", "a refused build is remembered: {status}");
}

#[test]
fn variants_change_what_they_say() {
    let world = World::new();
    world.init("p");
    world.append("variants:\n  small:\n    build: {image: libgreet}\n    local_conf: |\n      SMALL = \"1\"\n");
    let plan =
        |args: &[&str]| world.smidr().args(["plan", "--json"]).args(args).run().expect_code(0).json()["plan"].clone();
    let (plain, small) = (plan(&[]), plan(&["--variant", "small"]));
    assert_eq!(plain["targets"], serde_json::json!(["hello-image"]));
    assert_eq!(small["targets"], serde_json::json!(["libgreet"]));
    assert!(small["conf_tail"].as_str().is_some_and(|tail| tail.contains("SMALL")), "{small}");
    let workspace = |plan: &serde_json::Value| plan["folders"]["workspace"].as_str().expect("a path").to_owned();
    assert_eq!(workspace(&small), format!("{}-small", workspace(&plain)));
}
