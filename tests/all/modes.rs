//! Hosts that give less than all: what still works there, and that it is said.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

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
    // The files of /etc that are smidr's own may be a moment older or younger.
    let find = "find /usr /opt /bin /lib -printf '%p %y %m %l %T@\\n' | sort; find /etc -printf '%p %y %m %l\\n'; cat /etc/passwd";
    let look = ["run", "--", "sh", "-c", find];
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
    build.expect_code(0).expect_err("full isolation, without overlay, openat2 hidden, task network cut");
}

/// Adds layers of one file each to an image in a layout.
fn add_layers(layout: &Path, count: usize) {
    let blobs = layout.join("blobs/sha256");
    let read = |digest: &Value| {
        let hex = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest");
        serde_json::from_slice::<Value>(&fs::read(blobs.join(hex)).expect("a blob")).expect("JSON")
    };
    let add = |bytes: &[u8]| {
        let hex = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&hex), bytes).expect("a blob");
        (format!("sha256:{hex}"), bytes.len())
    };
    let mut index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("JSON");
    let mut manifest = read(&index["manifests"][0]["digest"]);
    let mut config = read(&manifest["config"]["digest"]);
    for number in 0..count {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("opt/many/{number}"), &b"x"[..]).expect("an entry");
        let (digest, size) = add(&tar.into_inner().expect("an archive"));
        config["rootfs"]["diff_ids"].as_array_mut().expect("a list").push(digest.clone().into());
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let layer = serde_json::json!({ "mediaType": kind, "digest": digest, "size": size });
        manifest["layers"].as_array_mut().expect("a list").push(layer);
    }
    let (digest, size) = add(config.to_string().as_bytes());
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest.into(), size.into());
    let (digest, size) = add(manifest.to_string().as_bytes());
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (digest.into(), size.into());
    fs::write(layout.join("index.json"), index.to_string()).expect("an index");
}

#[test]
fn an_image_may_have_hundreds_of_layers() {
    let Some(world) = World::with_project("modes::an_image_may_have_hundreds_of_layers") else { return };
    let layout = world.work.join("layout");
    world.smidr().args(["image", "export", "hello"]).arg(&layout).run().expect_code(0);
    add_layers(&layout, 300);
    let image = format!("many-{}", std::process::id());
    world.smidr().args(["image", "import"]).arg(&layout).args(["--name", &image]).run().expect_code(0);
    world.edit_host(&image);
    let look = "ls /opt/many | wc -l; awk '$2 == \"/\" { print $3 }' /proc/mounts";
    let seen = world.smidr().args(["run", "--", "sh", "-c", look]).run();
    world.smidr().args(["image", "rm", &image]).run().expect_code(0);
    // By hand where the kernel is older than 6.8.
    let out = &seen.expect_code(0).out;
    assert!(["300\noverlay\n", "300\ntmpfs\n"].contains(&out.as_str()), "{out}");
}
