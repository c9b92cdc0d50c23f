//! Configs that were written for the Go smidr: its keys, its provider that is a word for people, its folders.

use std::fs;

use serde_json::Value;

use super::support::{Done, World, hermetic};

const HEAD: &str = "name: ci\ndescription: an image\n";
const CONTAINER: &str = "container: {base_image: \"crops/yocto:ubuntu-22.04-builder\", memory: 8g, cpu_count: 2}\n";
const POKY: &str = "layers:\n- {name: poky, git: \"https://git.yoctoproject.org/poky\", branch: kirkstone}\n";

fn check(world: &World, text: &str) -> Done {
    fs::write(world.work.join("smidr.yaml"), text).expect("a file");
    world.smidr().current_dir(&world.work).arg("check").run()
}

fn layers(world: &World) -> Vec<String> {
    let done = world.smidr().current_dir(&world.work).args(["plan", "--json"]).run();
    let plan: Value = serde_json::from_str(&done.expect_code(0).out).expect("JSON");
    let layers = plan["plan"]["layers"].as_array().expect("layers").iter();
    layers.map(|layer| layer["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_provider_is_a_word_where_the_layers_bring_the_core() {
    let world = World::new();
    for (provider, version) in
        [("raspberrypi", "6.0.0"), ("intel", "6.0.0"), ("custom", "6.0.0"), ("toradex", "6.0.0"), ("poky", "4.0.20")]
    {
        let base = format!("base: {{provider: {provider}, machine: m, distro: poky, version: \"{version}\"}}\n");
        let text = format!("{HEAD}{base}{POKY}build: {{image: i, parallel_make: -j8}}\n{CONTAINER}");
        let done = check(&world, &text);
        done.expect_code(0).expect_err(&format!("base.provider: `{provider}` has no effect"));
        assert_eq!(layers(&world), ["poky"], "{provider}");
    }
    // Without the format's mark, a name that nobody has is one that was mistyped.
    let text =
        format!("{HEAD}base: {{provider: custom, machine: m}}\nlayers: [{{name: l, path: l}}]\nbuild: {{image: i}}\n");
    check(&world, &text).expect_code(2).expect_err("there is no provider");
}

#[test]
fn keys_without_effect_are_warnings() {
    let world = World::new();
    let text = format!(
        "{HEAD}base: {{machine: m, distro: poky, version: \"6.0.0\"}}\n{POKY}build: {{image: i, extra_image_features: \"a b\", tmp: x}}\n\
         advanced: {{conf_version: \"2\", qemu_sdl: true, qemu_gtk: false, license_flags: \"commercial other\"}}\n\
         cache: {{downloads: d, retention: 30}}\ncustom: 1\nartifacts: [\"*.wic\"]\n\
         directories: {{source: ~/.smidr/sources, tmp: \"${{TOPDIR}}/tmp\", deploy: ~/.smidr/deploy}}\n\
         container: {{base_image: \"crops/yocto:ubuntu-22.04-builder\", entrypoint: [\"/bin/bash\", \"-l\"]}}\n"
    );
    let done = check(&world, &text);
    done.expect_code(0);
    for key in [
        "advanced.conf_version",
        "advanced.qemu_sdl",
        "advanced.qemu_gtk",
        "build.tmp",
        "cache",
        "custom",
        "container.entrypoint",
        "directories.source",
        "base.version",
    ] {
        done.expect_err(key);
    }
    let done = world.smidr().current_dir(&world.work).args(["plan", "--json"]).run();
    let plan: Value = serde_json::from_str(&done.expect_code(0).out).expect("JSON");
    let plan = &plan["plan"];
    assert_eq!(plan["artifacts"], serde_json::json!(["**/*.wic"]));
    let conf = plan["conf"].to_string();
    assert!(conf.contains("commercial other") && conf.contains("a b"), "{conf}");
    // In any other config they are errors, but those that never had an effect.
    let plain =
        format!("{HEAD}base: {{machine: m}}\n{POKY}build: {{image: i}}\ncustom: 1\nadvanced: {{qemu_sdl: true}}\n");
    let done = check(&world, &plain);
    done.expect_code(2).expect_err("unknown key `custom`");
    assert!(!done.err.contains("unknown key `advanced.qemu_sdl`"), "{}", done.err);
}

/// A branch that the repository has only with something behind it, as Toradex's `kirkstone-6.x.y`.
#[test]
fn a_branch_may_go_on() {
    let world = World::new();
    let folder = world.work.join("bsp");
    fs::create_dir_all(folder.join("conf")).expect("folders");
    fs::write(folder.join("conf/layer.conf"), "BBFILE_COLLECTIONS += \"b\"\n").expect("a file");
    let script =
        "git init -q -b kirkstone-6.x.y . && git add -A && git -c user.name=x -c user.email=x@localhost commit -q -m x";
    assert!(hermetic("sh", &world.home).args(["-c", script]).current_dir(&folder).status().expect("sh").success());
    let url = format!("file://{}", folder.display());
    let text = |series: &str| {
        format!(
            "{HEAD}yocto_series: {series}\nbase: {{machine: m}}\nlayers: [{{name: bsp, git: \"{url}\"}}]\nbuild: {{image: i}}\nhost: {{recipe: hello}}\n"
        )
    };
    let smidr = || world.smidr().current_dir(&world.work).env("SMIDR_TRUST", "1");
    fs::write(world.work.join("smidr.yaml"), text("kirkstone")).expect("a file");
    let done = smidr().args(["layers", "sync"]).run();
    done.expect_code(0).expect_err("kirkstone-6.x.y");
    let lock = fs::read_to_string(world.work.join("smidr.lock")).expect("a lock");
    assert!(lock.contains("kirkstone-6.x.y"), "{lock}");
    let done = smidr().args(["layers", "sync"]).run();
    done.expect_code(0);
    assert!(!done.err.contains("has no branch"), "{}", done.err);
    fs::write(world.work.join("smidr.yaml"), text("scarthgap")).expect("a file");
    smidr().args(["layers", "sync"]).run().expect_code(2).expect_err("no branch `scarthgap`");
}
