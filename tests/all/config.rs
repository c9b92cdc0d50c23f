//! Wrong configs: each error has its reason and place, and no command changes anything.

use std::fs;

use super::support::World;

const BASE: &str = "base: {machine: hello-x86-64, distro: hello}\n";
const LAYERS: &str = "layers: [{name: meta-hello, path: ./layers/meta-hello}]\n";
const BUILD: &str = "build: {image: hello-image}\nhost: {recipe: hello}\n";

fn with(text: &str) -> String {
    format!("name: p\n{BASE}{LAYERS}{BUILD}{text}")
}

#[test]
fn wrong_configs_are_refused_by_every_command() {
    let rows: Vec<(&str, String, &[&str])> = vec![
        ("not YAML", "name: [p\n".into(), &["smidr.yaml:"]),
        ("a tab", "name: p\n\tbase: x\n".into(), &["smidr.yaml:"]),
        ("a list", "- a\n- b\n".into(), &["must be a mapping"]),
        ("nothing", String::new(), &["name is missing"]),
        (
            "unknown key",
            with("pacakges: {classes: [x]}\n"),
            &["unknown key `pacakges`", "did you mean `packages`?", "smidr.yaml:6:1"],
        ),
        (
            "unknown key inside",
            with("").replace("image: hello-image", "image: hello-image, thread: 3"),
            &["unknown key `build.thread`"],
        ),
        (
            "wrong type",
            with("").replace("image: hello-image", "image: hello-image, parallel_make: many"),
            &["build.parallel_make must be a whole number above 0, not `many`"],
        ),
        (
            "a list for a value",
            with("").replace("machine: hello-x86-64", "machine: [a, b]"),
            &["base.machine must be a single value, not a list"],
        ),
        ("no machine", with("").replace(BASE, ""), &["no machine: base.machine and build.machine"]),
        ("no target", with("").replace("image: hello-image", ""), &["build.image is missing"]),
        ("bad name", with("").replace("name: p", "name: a b"), &["cannot name a project"]),
        (
            "unset variable",
            with("env: {TOKEN: \"${SMIDR_TEST_UNSET}\"}\n"),
            &["SMIDR_TEST_UNSET is not set", "${SMIDR_TEST_UNSET:-default}"],
        ),
        ("open brace", with("env: {TOKEN: \"${OPEN\"}\n"), &["no closing brace"]),
        (
            "two sources",
            with("").replace("path: ./layers/meta-hello", "path: ./x, git: https://example.org/x"),
            &["exclude each other"],
        ),
        ("no source", with("").replace(", path: ./layers/meta-hello", ""), &["layers[0].git is missing"]),
        (
            "two hosts",
            with("").replace("recipe: hello", "recipe: hello, image: x"),
            &["host.recipe and host.image exclude each other"],
        ),
        (
            "an unknown word",
            with("").replace("recipe: hello", "recipe: hello, openat2: maybe"),
            &["auto, hide or show"],
        ),
        ("a duplicate key", with("name: q\n"), &["name"]),
        ("a path with a space", with("directories: {downloads: /tmp/a b}\n"), &["holds a space"]),
        ("a target that is an option", with("").replace("image: hello-image", "image: -k"), &["-k"]),
        (
            "an unknown provider",
            with("").replace("machine: hello-x86-64", "provider: toradx, machine: m"),
            &["there is no provider `toradx`", "did you mean `toradex`? known: intel, ", "smidr.yaml:2:18"],
        ),
        (
            "an unknown version",
            with("").replace("machine: hello-x86-64", "provider: poky, version: 5.9, machine: m"),
            &["poky has no version `5.9`", "did you mean \"5.0\"? known: 4.0, 5.0, ", "smidr.yaml:2:33"],
        ),
        (
            "a version of nothing",
            with("").replace("machine: hello-x86-64", "version: 5.0, machine: m"),
            &["base.version has no effect without base.provider"],
        ),
        ("timeout", with("advanced: {build_timeout: soon}\n"), &["soon"]),
    ];
    let world = World::new();
    world.init("p");
    for (what, text, expected) in rows {
        world.write("smidr.yaml", &text);
        for (command, code) in [(&["check"][..], 2), (&["plan"], 2), (&["build"], 2), (&["run", "true"], 125)] {
            let done = world.smidr().args(command).run();
            assert_eq!(done.code, Some(code), "{what}: smidr {command:?}\n{}{}", done.out, done.err);
            assert_eq!(done.out, "", "{what}: an error is no data");
            for part in expected {
                assert!(done.err.contains(part), "{what}: smidr {command:?}: no `{part}` in\n{}", done.err);
            }
        }
        assert!(!world.project().join("smidr.lock").exists(), "{what}");
        assert_eq!(World::names(&world.smidr.join("builds")), Vec::<String>::new(), "{what}");
        assert_eq!(World::names(&world.smidr.join("workspaces")), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn all_problems_at_once() {
    let world = World::new();
    world.init("p");
    world.write("smidr.yaml", "nmae: p\nbase: {machine: [a]}\nbuild: {image: x, parallel_make: 0}\n");
    let done = world.smidr().arg("check").run();
    done.expect_code(2)
        .expect_err("did you mean `name`?")
        .expect_err("base.machine must be")
        .expect_err("parallel_make");
    assert!(done.err.contains("smidr.yaml:1:1") && done.err.contains("smidr.yaml:3:"), "{}", done.err);
}

/// What the config alone tells about its series; nothing is fetched.
#[test]
fn parts_of_two_series_are_warned_about() {
    let world = World::new();
    world.init("p");
    let layers = "layers:\n- {name: one, git: 'https://h.invalid/1', branch: scarthgap}\n- {name: two, git: 'https://h.invalid/2', branch: kirkstone}\n";
    world.write("smidr.yaml", &format!("name: p\n{BASE}{layers}build: {{image: x}}\nhost: {{recipe: debian-13}}\n"));
    for args in [&["check"][..], &["plan"]] {
        let done = world.smidr().args(args).run();
        done.expect_code(0)
            .expect_err("warning: the layer `two` is of kirkstone, and the project of scarthgap\n --> smidr.yaml:5:51")
            .expect_err("^^^^^^^^^")
            .expect_err("warning: BitBake of scarthgap was not validated on `debian-13`\n --> smidr.yaml:7:16");
        assert_eq!(done.err.matches("is of kirkstone").count() + done.out.matches("is of kirkstone").count(), 1);
    }
    let provided = "base: {provider: poky, version: '4.0', machine: qemux86}\n";
    world.write("smidr.yaml", &format!("name: p\nyocto_series: scarthgap\n{provided}"));
    let done = world.smidr().args(["check"]).run();
    done.expect_code(2)
        .expect_err("yocto_series is scarthgap, but poky 4.0 is of kirkstone")
        .expect_err("smidr.yaml:2:15");
    world.write("smidr.yaml", &format!("name: p\n{provided}"));
    world.smidr().args(["plan"]).run().expect_code(0).expect_out("debian-11");
}

#[test]
fn variants_are_checked_too() {
    let world = World::new();
    world.init("p");
    world.write("smidr.yaml", &with("variants: {d: {bulid: {}}, e: {host: {memory: lots}}}\n"));
    let done = world.smidr().arg("check").run();
    done.expect_code(2).expect_err("with --variant d:").expect_err("`bulid`").expect_err("host.memory");
    world.smidr().args(["check", "--variant", "e"]).run().expect_code(2).expect_err("host.memory");
    // Problems of the common part are shown once.
    world.write("smidr.yaml", &with("variants: {d: {env: {A: b}}}\n").replace("./layers/meta-hello", "./layers/gone"));
    let done = world.smidr().arg("check").run();
    assert_eq!(done.expect_code(2).err.matches("does not exist").count(), 1, "{}", done.err);
}

#[test]
fn missing_layers_recipes_and_images_are_refused() {
    let world = World::new();
    world.init("p");
    let original = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let config = |old: &str, new: &str| {
        assert!(original.contains(old), "{old}");
        world.write("smidr.yaml", &original.replace(old, new));
    };
    config("./layers/meta-hello", "./layers/meta-gone");
    world.smidr().arg("check").run().expect_code(2).expect_one_error().expect_err("meta-gone does not exist");
    world.smidr().arg("plan").run().expect_code(0);
    world.smidr().arg("build").run().expect_code(2).expect_one_error().expect_err("meta-gone does not exist");
    config("./layers/meta-hello", "./layers/meta-hello/classes");
    world.smidr().arg("check").run().expect_code(2).expect_one_error().expect_err("holds no conf/layer.conf");
    config("recipe: hello", "recipe: helo");
    world.smidr().arg("check").run().expect_code(2).expect_one_error().expect_err("did you mean `hello`?");
    world.smidr().arg("build").run().expect_code(2).expect_one_error().expect_err("did you mean `hello`?");
    config("recipe: hello", "image: nobody-has-this");
    world.smidr().arg("build").run().expect_code(2).expect_one_error().expect_err("smidr image import FILE");
}

#[test]
fn a_missing_patch_is_refused() {
    let world = World::new();
    world.init("p");
    let layer = "layers: [{name: x, git: \"file:///srv/x\", branch: main, patches: [patches/0001.patch]}]\n";
    world.write("smidr.yaml", &with("").replace(LAYERS, layer));
    world.smidr().arg("check").run().expect_code(2).expect_err("patches/0001.patch does not exist");
}

#[test]
fn missing_and_binary_configs_are_refused() {
    let world = World::new();
    let none = world.smidr().arg("check").run();
    none.expect_code(2).expect_one_error().expect_err("there is no /").expect_err("smidr init NAME");
    world.init("p");
    fs::write(world.project().join("smidr.yaml"), [0xff, 0xfe, 0x00]).expect("a file");
    world.smidr().arg("check").run().expect_code(2).expect_one_error().expect_err("is not valid UTF-8");
    fs::remove_file(world.project().join("smidr.yaml")).expect("remove");
    fs::create_dir(world.project().join("smidr.yaml")).expect("a folder");
    let folder = world.smidr().arg("check").run();
    assert!(matches!(folder.expect_one_error().code, Some(2 | 3)), "{folder:?}");
}

#[test]
fn a_project_is_found_from_its_folders() {
    let world = World::new();
    world.init("p");
    let inside = world.project().join("layers/meta-hello");
    world
        .smidr()
        .arg("plan")
        .current_dir(&inside)
        .run()
        .expect_code(0)
        .expect_out(&format!("p in {}", world.project().display()));
    // One that is named with its folder is that one.
    let named = world.smidr().args(["-c", "./smidr.yaml", "plan"]).current_dir(&inside).run();
    named.expect_code(2).expect_one_error().expect_err("layers/meta-hello/smidr.yaml");
    world.smidr().arg("plan").current_dir(&world.work).run().expect_code(2).expect_err("smidr init NAME");
}

#[test]
fn standard_output_on_a_full_disk_is_an_error() {
    let world = World::new();
    world.init("p");
    for command in [
        &["plan", "--json"][..],
        &["plan"],
        &["layers", "ls"],
        &["status", "--json"],
        &["image", "ls", "--json"],
        &["doctor", "--json"],
        &["completions", "bash"],
        &["du"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let done = world.smidr().args(command).run_into(full);
        done.expect_code(3).expect_one_error().expect_err("standard output could not be written");
        done.expect_err("caused by: No space left on device");
    }
}

#[test]
fn an_unknown_variant_is_refused() {
    let world = World::new();
    world.init("p");
    world.append("variants:\n  debug:\n    local_conf: \"D = '1'\"\n");
    for command in ["check", "plan", "build"] {
        let done = world.smidr().args([command, "--variant", "debgu"]).run();
        done.expect_code(2).expect_err("there is no variant `debgu`").expect_err("did you mean `debug`?");
    }
    assert_eq!(World::names(&world.smidr.join("builds")), Vec::<String>::new());
}

#[test]
fn homes_with_paths_that_bitbake_refuses() {
    let world = World::new();
    world.init("p");
    for (name, reason) in [("a b", "holds a space"), ("c++", "+ @ %"), ("a@b", "+ @ %"), ("100%", "+ @ %")] {
        let home = world.work.join(name);
        for command in ["check", "plan", "build"] {
            let done = world.smidr().arg(command).env("SMIDR_HOME", &home).run();
            done.expect_code(2).expect_one_error().expect_err("BitBake cannot build in").expect_err(reason);
        }
    }
    let long = world.work.join("l".repeat(200)).join("m".repeat(200));
    let done = world.smidr().arg("check").env("SMIDR_HOME", &long).run();
    done.expect_code(2).expect_one_error().expect_err("longer than 400");
}

#[test]
fn a_newer_home_and_a_damaged_lock() {
    let world = World::new();
    world.init("p");
    // What `init` has noted.
    fs::remove_dir_all(&world.smidr).expect("remove");
    fs::create_dir(&world.smidr).expect("a SMIDR_HOME");
    fs::write(world.smidr.join("version"), "3\n").expect("a version");
    for command in [&["build"][..], &["image", "ls"], &["doctor"]] {
        let done = world.smidr().args(command).run();
        done.expect_code(2).expect_one_error().expect_err("written by a newer smidr");
    }
    assert_eq!(World::names(&world.smidr), ["version"], "nothing is made in it");
    fs::remove_file(world.smidr.join("version")).expect("remove");
    for text in ["version: 1\nhost: {name: hello", "version: 9\n", "\0"] {
        world.write("smidr.lock", text);
        let done = world.smidr().arg("plan").run();
        done.expect_code(2).expect_one_error().expect_err("smidr.lock");
        assert_eq!(
            fs::read_to_string(world.project().join("smidr.lock")).expect("the lock"),
            text,
            "it stays as it is"
        );
    }
}

#[test]
fn without_home_and_smidr_home() {
    let world = World::new();
    world.init("p");
    let done = world.smidr().arg("build").env("HOME", "").env("SMIDR_HOME", "").run();
    done.expect_code(2).expect_one_error().expect_err("export SMIDR_HOME=DIR");
    let done = world.smidr().arg("doctor").env("SMIDR_HOME", "/proc/nowhere").run();
    done.expect_code(2).expect_one_error();
}
