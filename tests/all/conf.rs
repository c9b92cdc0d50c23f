//! What users change of BitBake's conf in `run` and `shell`: devtool's layer stays, everything else is adopted or discarded, never dropped.

use std::fs;

use super::support::{Done, World};

fn run(world: &World, script: &str) -> Done {
    world.smidr().args(["run", "--", "sh", "-c", script]).run()
}

fn conf(world: &World, command: &str) -> Done {
    world.smidr().args(["conf", command]).run()
}

/// Parses only.
fn build(world: &World) -> Done {
    world.smidr().args(["build", "--", "-p"]).run()
}

#[test]
fn changed_conf_is_adopted_or_discarded() {
    let Some(world) = World::with_project("conf::changed_conf_is_adopted_or_discarded") else { return };
    let config = || fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    conf(&world, "adopt").expect_code(0).expect_out("nothing was changed");
    let before = config();

    let done = run(&world, "echo 'EXTRA = \"1\"' >> conf/local.conf");
    done.expect_code(0).expect_err("was changed; the next build stops until you decide:  smidr conf adopt");
    done.expect_err("  EXTRA = \"1\"");
    // A second look keeps it, a build does not begin.
    run(&world, "grep -c EXTRA conf/local.conf").expect_code(0).expect_out("1");
    build(&world).expect_code(2).expect_err("local.conf: + EXTRA = \"1\"").expect_err("smidr conf discard");
    conf(&world, "discard").expect_code(0);
    assert_eq!(config(), before);
    build(&world).expect_code(0);
    run(&world, "grep -c EXTRA conf/local.conf").expect_code(1);

    // As `bitbake-layers add-layer` does: a layer made in the build folder has to be moved, since --clean would remove it.
    let make = "mkdir -p meta-new/conf && printf '%s\\n' 'BBFILE_COLLECTIONS += \"new\"' 'BBFILE_PATTERN_new = \"^${LAYERDIR}/\"' \
                'BBFILE_PATTERN_IGNORE_EMPTY_new = \"1\"' > meta-new/conf/layer.conf && \
                sed -i 's,meta-hello,&  '$PWD'/meta-new ,' conf/bblayers.conf && echo 'EXTRA = \"2\"' >> conf/local.conf";
    run(&world, make).expect_code(0).expect_err("- {name: meta-new, path: ");
    let done = conf(&world, "adopt");
    done.expect_code(2).expect_err("lies in the build folder, where --clean removes it");
    assert_eq!(config(), before);
    let command = done.err.lines().find_map(|line| line.split("into the project first:  ").nth(1)).expect("a command");
    let moving = command.replace(" && smidr conf adopt", "");
    assert!(std::process::Command::new("sh").args(["-c", &moving]).status().expect("sh").success(), "{moving}");
    conf(&world, "adopt").expect_code(0).expect_out("- {name: meta-new, path: ");
    let after = config();
    assert!(
        after.contains("- {name: meta-new, path: ./layers/meta-new}") && after.contains("  EXTRA = \"2\""),
        "{after}"
    );
    assert!(after.starts_with(before.lines().next().expect("a line")), "{after}");
    let done = build(&world);
    done.expect_code(0);
    run(&world, "grep -c 'layers/meta-new' conf/bblayers.conf && grep -c 'EXTRA = \"2\"' conf/local.conf")
        .expect_code(0)
        .expect_out("1\n1");

    // As `bitbake-layers remove-layer` does: what to take out of the config is told.
    run(&world, "sed -i '/meta-new/d' conf/bblayers.conf").expect_code(0).expect_err("bblayers.conf: - ");
    let done = conf(&world, "adopt");
    done.expect_code(2).expect_err("smidr takes nothing out of").expect_err("hint: take it out yourself");
    assert!(!done.err.contains("write it yourself"), "{}", done.err);
    conf(&world, "discard").expect_code(0);

    // What sourcing oe-init-build-env leaves is read by no build.
    let done =
        run(&world, "echo meta > conf/templateconf.cfg; echo x | tee conf/conf-notes.txt > conf/conf-summary.txt");
    done.expect_code(0);
    assert!(!done.err.contains("later builds read it"), "{}", done.err);
}

#[test]
fn the_layer_of_devtool_stays() {
    let Some(world) = World::with_project("conf::the_layer_of_devtool_stays") else { return };
    // What `devtool create-workspace` writes.
    let make = "mkdir -p workspace/conf workspace/sources workspace/appends && printf '%s\\n' 'BBFILE_COLLECTIONS += \"workspacelayer\"' \
                'BBFILE_PATTERN_workspacelayer = \"^${LAYERDIR}/\"' 'BBFILE_PATTERN_IGNORE_EMPTY_workspacelayer = \"1\"' \
                'BBFILES += \"${LAYERDIR}/appends/*.bbappend\"' > workspace/conf/layer.conf && echo 'SUMMARY = \"Mine\"' > workspace/appends/hello_1.0.bbappend && \
                sed -i 's,meta-hello,&  '$PWD'/workspace ,' conf/bblayers.conf";
    let done = run(&world, make);
    done.expect_code(0);
    assert!(!done.err.contains("smidr conf"), "{}", done.err);
    world.smidr().arg("plan").run().expect_code(0).expect_out("workspace, of devtool");
    world.smidr().args(["plan", "--conf"]).run().expect_code(0).expect_out("/workspace \\").expect_out("MACHINE ?= ");
    build(&world).expect_code(0);
    run(&world, "bitbake -e hello | grep '^SUMMARY='").expect_code(0).expect_out("SUMMARY=\"Mine\"");
    // Its sources are the user's work, its recipes go with it.
    run(&world, "rm -r workspace").expect_code(0);
    build(&world).expect_code(0);
    run(&world, "grep -c workspace conf/bblayers.conf").expect_code(1);
}

#[test]
fn run_has_the_environment_of_oe_init_build_env() {
    let Some(world) = World::with_project("conf::run_has_the_environment_of_oe_init_build_env") else { return };
    let done = run(
        &world,
        "cd / && bitbake -p >/dev/null && [ \"$BUILDDIR\" = \"$BDIR\" ] && [ -d $BUILDDIR/conf ] && echo in $BUILDDIR",
    );
    done.expect_code(0).expect_out("/build");
    // As with OpenEmbedded, the environment may name another machine for one command.
    run(&world, "MACHINE=hello-other bitbake -e 2>&1").expect_out("conf/machine/hello-other.conf");
    let commit = "git init -q /tmp/r && cd /tmp/r && git commit -q --allow-empty -m x && git log -1 --format=%ae";
    let done = run(&world, &format!("command -v git >/dev/null || {{ echo smidr@localhost; exit 0; }}; {commit}"));
    done.expect_code(0).expect_out("@");
}
