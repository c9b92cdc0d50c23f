//! Hosts that give less than all: what still works there, and that it is said.

use std::process::Command;

use super::support::{Done, World, skip, smidr_bin, tool};

/// smidr where overlayfs cannot be mounted on a folder of SMIDR_HOME: there are two of them below it already, and the kernel takes
/// no third (overlayfs.rst; FILESYSTEM_MAX_STACK_DEPTH). In namespaces of its own.
fn without_overlay_on(folder: &str, world: &World, args: &[&str]) -> Option<Done> {
    let script = "mkdir -p \"$SMIDR_HOME/$FOLDER\" && store=$(readlink -f \"$SMIDR_HOME/$FOLDER\") || exit 99
        for i in 1 2; do
            d=$(mktemp -d) && mount -t tmpfs tmpfs \"$d\" && mkdir \"$d/u\" \"$d/w\" &&
            mount -t overlay overlay -o \"userxattr,lowerdir=$store,upperdir=$d/u,workdir=$d/w\" \"$store\" || exit 99
        done
        exec \"$@\"";
    let mut command = Command::new(tool("unshare")?);
    world.surround(&mut command);
    command.current_dir(world.project()).env("TMPDIR", &world.home).env("FOLDER", folder);
    command.args(["-Urm", "sh", "-c", script, "sh"]).arg(smidr_bin()).args(args);
    let done = Done::new(command.output().expect("unshare starts"));
    (done.code != Some(99) && !done.err.starts_with("unshare:")).then_some(done)
}

/// The skeleton of a sandbox's root stands in `tmp`.
fn without_overlay(world: &World, args: &[&str]) -> Option<Done> {
    without_overlay_on("tmp", world, args)
}

/// A build host of two layers, the upper of which changes, hides and replaces what the lower has.
const RECIPE: &str = "base: {image: hello}
commands:
  - rm -r /usr/share/doc && mkdir -p /usr/share/doc/only && echo new > /usr/share/doc/only/here
  - rm /etc/issue && chmod 0700 /usr/share/perl5 && ln -sfn elsewhere /usr/share/link
  - mkdir -p /opt/some/where && echo x > /opt/some/where/file && mv /usr/bin/tac /usr/bin/cat-backwards
";

#[test]
fn without_overlay_the_root_is_the_same() {
    let name = "modes::without_overlay_the_root_is_the_same";
    let Some(world) = World::with_project(name) else { return };
    let image = format!("two-{}", std::process::id());
    world.write(&format!("{image}.yaml"), RECIPE);
    world.smidr().args(["image", "build", &image]).run().expect_code(0);
    world.edit_host(&image);
    let look =
        ["run", "--", "sh", "-c", "find /usr /etc /opt /bin /lib -printf '%p %y %m %l %T@\\n' | sort; cat /etc/passwd"];
    let usual = world.smidr().args(look).run();
    usual.expect_code(0).expect_out("/usr/share/doc/only/here f").expect_out("/usr/share/link l 777 elsewhere");
    let Some(by_hand) = without_overlay(&world, &look) else {
        return skip(name, "two overlays cannot be mounted in a namespace of one's own here");
    };
    by_hand.expect_code(0);
    let lines = |done: &Done| done.out.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let mine = |line: &String| !line.contains("builder:x:");
    let (usual, by_hand) = (lines(&usual), lines(&by_hand));
    let different: Vec<_> = usual.symmetric_difference(&by_hand).filter(|line| mine(line)).collect();
    assert!(different.is_empty() && usual.len() > 300, "{}: {different:#?}", usual.len());
    let write = without_overlay(
        &world,
        &["run", "sh", "-c", "echo x > /new; echo x > /etc/new; echo x > /usr/bin/new; exit 5"],
    );
    let write = write.expect("it worked a moment ago");
    assert_eq!((write.code, write.err.matches("Read-only file system").count()), (Some(5), 3), "{}", write.err);
    let doctor = without_overlay_on("images", &world, &["doctor"]).expect("it worked a moment ago");
    world.smidr().args(["image", "rm", &image]).run().expect_code(0);
    doctor.expect_code(0).expect_out("root          doubtful  overlayfs cannot be mounted");
}

#[test]
fn without_overlay_a_build_works_and_says_so() {
    let name = "modes::without_overlay_a_build_works_and_says_so";
    let Some(world) = World::with_project(name) else { return };
    let Some(build) = without_overlay(&world, &["build"]) else {
        return skip(name, "two overlays cannot be mounted in a namespace of one's own here");
    };
    build.expect_code(0).expect_err("full isolation, without overlay, task network cut");
}
