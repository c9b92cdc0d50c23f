//! What smidr.lock must pin, and `smidr lock --update`.

use std::fs;

use super::{layers::git, support::World};

#[test]
fn a_folder_that_the_lock_does_not_name_is_not_built_with_locked() {
    let Some(world) = World::with_project("layers_lock::a_folder_that_the_lock_does_not_name_is_not_built_with_locked")
    else {
        return;
    };
    world.smidr().arg("lock").run().expect_code(0);
    // A BitBake that fails at once: this is about what comes before it.
    fs::create_dir_all(world.project().join("own/lib/bb")).expect("a folder");
    fs::create_dir_all(world.project().join("own/bin")).expect("a folder");
    for program in ["own/bin/python3", "own/bin/bitbake"] {
        world.write(program, "#!/bin/sh\nexit 1\n");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(world.project().join(program), mode).expect("a mode");
    }
    let layer = fs::read_to_string(world.project().join("layers/meta-hello/conf/layer.conf")).expect("a layer");
    world.write("layers/other/conf/layer.conf", &layer);
    world.write("layers/other/conf/machine/hello-x86-64.conf", "");
    world.append(
        "bitbake: {path: ./own}\nvariants:\n  other:\n    layers: [{name: meta-hello, path: ./layers/other}]\n",
    );
    let build = |args: &[&str]| world.smidr().arg("build").args(args).run();
    let refused = |args: &[&str], names: &str| {
        let done = build(args);
        done.expect_code(2).expect_one_error().expect_err(&format!("smidr.lock does not pin {names}, and --locked"));
        done.expect_err("smidr lock");
    };
    let other = ["--locked", "--variant", "other"];
    refused(&["--locked"], "bitbake");
    refused(&other, "meta-hello, bitbake");
    // A build pins its own inputs; `smidr lock` those of all variants.
    build(&[]).expect_code(1);
    build(&["--locked"]).expect_code(1);
    refused(&other, "meta-hello");
    world.smidr().arg("lock").run().expect_code(0);
    build(&other).expect_code(1);
    // A folder's commit is a record, not a pin.
    git(&world.project(), &["init", "-q"]);
    git(&world.project(), &["add", "-A"]);
    git(&world.project(), &["commit", "-qm", "Begin"]);
    build(&["--locked"]).expect_code(1);
}

#[test]
fn an_update_names_what_the_config_or_the_lock_has() {
    let Some(world) = World::with_project("layers_lock::an_update_names_what_the_config_or_the_lock_has") else {
        return;
    };
    world.write("layers/more/conf/layer.conf", "");
    world.append("variants:\n  other:\n    layers: [{name: meta-more, path: ./layers/more}]\n");
    let update = |names: &[&str]| world.smidr().args(["lock", "--update"]).args(names).run();
    let text = || fs::read_to_string(world.project().join("smidr.lock")).expect("a lock");
    // Nothing is pinned yet.
    update(&["meta-more", "meta-hello"]).expect_code(0).expect_out("meta-more");
    let lock = text();
    for (names, refused, hint) in [
        (&["host", "meta-mroe"][..], "has `meta-mroe`", "did you mean `meta-more`?"),
        (&["quite-another", "meta-hello", "bitbake"], "has `quite-another`, `bitbake`", "host, meta-hello, meta-more"),
    ] {
        let done = update(names);
        done.expect_code(2).expect_one_error().expect_err(refused).expect_err(hint);
        assert_eq!(text(), lock, "nothing was forgotten");
    }
    // Pins of names that only the lock has are removed.
    let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let without = config.split("variants:").next().expect("what is above");
    fs::write(world.project().join("smidr.yaml"), without).expect("a config");
    update(&["meta-more"]).expect_code(0);
    assert!(!text().contains("meta-more"), "{}", text());
}
