//! Images exchanged with skopeo and umoci: the same trees, and the same digests for the same bytes.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    registry::{import, pull, push, with_small},
    registry_images::{digest, documents, hex_of, layers, store, unpacked},
    registry_server::Registry,
    support::{Done, World, hermetic, skip, tool},
};

/// Runs another tool in the world's place for projects.
#[track_caller]
pub(crate) fn other(world: &World, program: &str, args: &[&str]) -> Done {
    let mut command = hermetic(tool(program).expect("the tool was there a moment ago"), &world.home);
    // Both keep temporary files.
    command.env("TMPDIR", &world.home).current_dir(&world.work);
    command.args((program == "skopeo").then_some("--insecure-policy")).args(args);
    let done = Done::new(command.output().expect("the tool starts"));
    assert_eq!(done.code, Some(0), "{program} {args:?}: {done:?}");
    done
}

fn has_all(test: &str, tools: &[&str]) -> bool {
    let missing: Vec<&str> = tools.iter().filter(|name| tool(name).is_none()).copied().collect();
    if !missing.is_empty() {
        skip(test, &format!("there is no {} here", missing.join(" and no ")));
    }
    missing.is_empty()
}

fn smidr(world: &World, args: &[&str]) -> Done {
    world.smidr().arg("image").args(args).current_dir(&world.work).run()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a document")).expect("JSON")
}

/// Everything below a folder: kind, mode, time, content, where links lead, and which files are one.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut first = BTreeMap::new();
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry.expect("an entry");
        let name = entry.path().strip_prefix(root).expect("below").to_string_lossy().into_owned();
        let meta = entry.metadata().expect("what it is");
        // smidr lets the owner read and write what it unpacks, so that it can be removed again.
        let (mode, time, kind) = (meta.permissions().mode() & 0o7777 | 0o600, meta.mtime(), meta.file_type());
        let what = if kind.is_symlink() {
            format!("link {}", fs::read_link(entry.path()).expect("a target").display())
        } else if kind.is_dir() {
            format!("folder {mode:o} {time}")
        } else if kind.is_file() {
            let same: &mut String = first.entry(meta.ino()).or_insert_with(|| name.clone());
            let content = hex_of(&fs::read(entry.path()).expect("a file"));
            format!("file {mode:o} {time} {content} is {same}")
        } else {
            format!("{kind:?}")
        };
        found.insert(name, what);
    }
    found
}

/// The layers of an image as the kernel stacks them; none where an overlay cannot be mounted.
pub(crate) fn merged_tree(world: &World, manifest: &str) -> Option<PathBuf> {
    let (lowest, out) = (world.work.join("lowest"), world.work.join("merged"));
    let seam = store(world, "seams").join(manifest.strip_prefix("sha256:").expect("a digest")).join("fs");
    let mut folders = vec![lowest.clone()];
    // The kernel takes no folder twice.
    let all: Vec<PathBuf> = layers(world, manifest).iter().map(|(_, diff_id)| unpacked(world, diff_id)).collect();
    folders.extend(all.iter().enumerate().filter(|(at, one)| !all[at + 1..].contains(one)).map(|(_, one)| one.clone()));
    folders.extend(seam.is_dir().then_some(seam));
    let folders: Vec<String> = folders.iter().rev().map(|folder| folder.display().to_string()).collect();
    let script = "mkdir lowest merged mount
        mount -t overlay overlay -o \"userxattr,lowerdir=$LOWER\" mount || exit 99
        cp -a --no-preserve=ownership mount/. merged";
    let mut command = hermetic(tool("unshare")?, &world.home);
    command.env("LOWER", folders.join(":")).current_dir(&world.work).args(["-Urm", "sh", "-ec", script]);
    let done = Done::new(command.output().expect("unshare starts"));
    if done.code == Some(99) || done.err.starts_with("unshare:") {
        return None;
    }
    done.expect_code(0);
    Some(out)
}

#[test]
fn skopeo_and_umoci_load_our_exports() {
    if !has_all("exchange::skopeo_and_umoci_load_our_exports", &["skopeo", "umoci"]) {
        return;
    }
    let (world, manifest) = with_small();
    smidr(&world, &["export", "small", "out", "--compression", "gzip"]).expect_code(0);
    let index = json(&world.work.join("out/index.json"));
    let gzip = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    assert_ne!(gzip, manifest);
    other(&world, "skopeo", &["copy", "oci:out:small", "dir:copied"]);
    let copied = world.work.join("copied");
    assert_eq!(format!("sha256:{}", hex_of(&fs::read(copied.join("manifest.json")).expect("a manifest"))), gzip);
    let config = documents(&world, &manifest).0["config"]["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(json(&copied.join("manifest.json"))["config"]["digest"], config.as_str(), "the content is the same");
    let config_file = copied.join(config.strip_prefix("sha256:").expect("a digest"));
    assert_eq!(hex_of(&fs::read(config_file).expect("a config")), config["sha256:".len()..]);
    let inspect = other(&world, "skopeo", &["inspect", "oci:out:small"]).json();
    assert_eq!(inspect["Digest"], gzip.as_str());
    other(&world, "umoci", &["unpack", "--rootless", "--image", "out:small", "bundle"]);
    let (ours, theirs) =
        (tree(&unpacked(&world, &layers(&world, &manifest)[0].1)), tree(&world.work.join("bundle/rootfs")));
    assert_eq!(ours, theirs);
    assert_eq!(ours["lib"], "link usr/lib");
    assert_eq!(ours["usr/lib/away"], "link ../../../nowhere");
    assert!(ours["bin/sh"].ends_with("is bin/dash") && ours["empty"].starts_with("folder 711 "), "{ours:#?}");
    // Uncompressed, which both read too.
    smidr(&world, &["export", "small", "plain.tar"]).expect_code(0);
    let inspect = other(&world, "skopeo", &["inspect", "oci-archive:plain.tar"]).json();
    assert_eq!(inspect["Digest"], manifest.as_str());
}

#[test]
fn images_from_skopeo_are_imported() {
    if !has_all("exchange::images_from_skopeo_are_imported", &["skopeo"]) {
        return;
    }
    let (world, manifest) = with_small();
    smidr(&world, &["export", "small", "out", "--compression", "gzip"]).expect_code(0);
    let index = json(&world.work.join("out/index.json"));
    let gzip = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    for to in ["oci:layout:tag", "oci-archive:oci.tar:tag", "docker-archive:docker.tar:small:tag"] {
        other(&world, "skopeo", &["copy", "oci:out:small", to]);
    }
    let there = World::new();
    let at = |path: &str| world.work.join(path);
    let layout = format!("oci:{}:tag", at("layout").display());
    let pulls = [
        (layout.as_str(), &gzip),
        (&format!("oci-archive:{}:tag", at("oci.tar").display()), &gzip),
        (&format!("oci-archive:{}", at("oci.tar").display()), &gzip),
        // Its layers are not compressed, as ours were at first, and documents are written the same way.
        (&format!("docker-archive:{}", at("docker.tar").display()), &manifest),
    ];
    let (config, diff_id) =
        (documents(&world, &manifest).0["config"]["digest"].clone(), &layers(&world, &manifest)[0].1);
    for (number, (reference, expected)) in pulls.into_iter().enumerate() {
        let name = format!("pulled-{number}");
        let found = digest(&smidr(&there, &["pull", reference, "--name", &name]));
        assert_eq!(found, *expected, "{reference}");
        assert_eq!(documents(&there, &found).0["config"]["digest"], config, "{reference}");
    }
    for (path, expected) in [("layout", &gzip), ("oci.tar", &gzip), ("docker.tar", &manifest)] {
        assert_eq!(import(&there, &at(path), &format!("imported-{path}")), *expected, "{path}");
    }
    assert_eq!(World::names(&store(&there, "diffs")).len(), 1, "one layer, unpacked once");
    smidr(&there, &["verify"]).expect_code(0);
    assert_eq!(tree(&unpacked(&there, diff_id)), tree(&unpacked(&world, diff_id)));
    let unnamed = smidr(&there, &["pull", &layout]);
    unnamed.expect_code(2).expect_one_error().expect_err("needs a name").expect_err("--name NAME");
    let gone = format!("oci:{}:tag", at("nowhere").display());
    smidr(&there, &["pull", &gone, "--name", "x"]).expect_code(2).expect_one_error().expect_err("nowhere");
}

#[test]
fn images_changed_by_umoci_are_imported() {
    let test = "exchange::images_changed_by_umoci_are_imported";
    if !has_all(test, &["umoci"]) {
        return;
    }
    let (world, _) = with_small();
    smidr(&world, &["export", "small", "out", "--compression", "gzip"]).expect_code(0);
    other(&world, "umoci", &["unpack", "--rootless", "--image", "out:small", "bundle"]);
    // A file less and one more, a folder for a link and a link for a folder, another content, another mode.
    let root = world.work.join("bundle/rootfs");
    let at = |path: &str| root.join(path);
    fs::remove_file(at("bin/dash")).expect("a file less");
    fs::write(at("etc/new"), "new\n").expect("a file more");
    fs::remove_file(at("etc/root")).expect("a link less");
    fs::create_dir(at("etc/root")).expect("a folder in its place");
    fs::write(at("etc/root/inside"), "inside\n").expect("a file in it");
    fs::remove_dir(at("empty")).expect("a folder less");
    std::os::unix::fs::symlink("etc", at("empty")).expect("a link in its place");
    fs::write(at("etc/os-release"), "ID=changed\n").expect("another content");
    fs::set_permissions(at("bin/nothing"), fs::Permissions::from_mode(0o755)).expect("another mode");
    other(&world, "umoci", &["repack", "--image", "out:changed", "bundle"]);
    other(&world, "umoci", &["unpack", "--rootless", "--image", "out:changed", "again"]);
    // Two images are in the layout now.
    let layout = format!("oci:{}", world.work.join("out").display());
    smidr(&world, &["pull", &layout, "--name", "x"]).expect_code(2).expect_one_error();
    let missing = smidr(&world, &["pull", &format!("{layout}:nothing"), "--name", "x"]);
    missing.expect_code(2).expect_one_error().expect_err("changed");
    let done = smidr(&world, &["pull", &format!("{layout}:changed"), "--name", "changed"]);
    let changed = digest(&done);
    assert_eq!(layers(&world, &changed).len(), 2);
    smidr(&world, &["verify", "changed"]).expect_code(0);
    match merged_tree(&world, &changed) {
        Some(ours) => {
            let (ours, theirs) = (tree(&ours), tree(&world.work.join("again/rootfs")));
            assert_eq!(ours, theirs);
            assert!(ours["etc/os-release"].contains(&hex_of(b"ID=changed\n")) && !ours.contains_key("bin/dash"));
        }
        None => skip(&format!("{test} (the tree)"), "no overlay can be mounted in a namespace of one's own here"),
    }
    // And out again, with the same digests, since gzip is what they have already.
    smidr(&world, &["export", "changed", "back", "--compression", "gzip"]).expect_code(0);
    let index = json(&world.work.join("back/index.json"));
    assert_eq!(index["manifests"][0]["digest"], changed.as_str());
    other(&world, "umoci", &["unpack", "--rootless", "--image", "back:changed", "third"]);
    assert_eq!(tree(&world.work.join("third/rootfs")), tree(&world.work.join("again/rootfs")));
}

#[test]
fn a_registry_is_shared_with_skopeo() {
    let test = "exchange::a_registry_is_shared_with_skopeo";
    if !has_all(test, &["skopeo"]) {
        return;
    }
    let Some(registry) = Registry::start(test) else { return };
    let (world, manifest) = with_small();
    push(&world, "small", &registry.at("ours:1")).expect_code(0);
    let inspect = other(&world, "skopeo", &["inspect", "--tls-verify=false", &registry.at("ours:1")]).json();
    assert_eq!(inspect["Digest"], manifest.as_str());
    other(&world, "skopeo", &["copy", "--src-tls-verify=false", &registry.at("ours:1"), "oci:layout:tag"]);
    let theirs = json(&world.work.join("layout/index.json"))["manifests"][0]["digest"].clone();
    let there = World::new();
    for (tag, how) in [("oci", "--preserve-digests"), ("docker", "--format=v2s2")] {
        let to = registry.at(&format!("theirs:{tag}"));
        other(&world, "skopeo", &["copy", "--dest-tls-verify=false", how, "oci:layout:tag", &to]);
        let asked = other(&world, "skopeo", &["inspect", "--tls-verify=false", &to]).json();
        let found = digest(&pull(&there, &to));
        assert_eq!(asked["Digest"], found.as_str(), "{tag}");
        assert_eq!(layers(&there, &found)[0].1, layers(&world, &manifest)[0].1, "{tag}");
        let kind = documents(&there, &found).0["mediaType"].clone();
        assert_eq!(kind == "application/vnd.docker.distribution.manifest.v2+json", tag == "docker", "{kind}");
        if tag == "oci" {
            assert_eq!(theirs, found.as_str());
        }
        // Documents of other tools are exported unchanged.
        let name = to.strip_prefix("docker://").expect("a reference");
        assert_eq!(digest(&push(&there, name, &registry.at(&format!("back:{tag}")))), found);
        let text =
            other(&world, "skopeo", &["inspect", "--raw", "--tls-verify=false", &registry.at(&format!("back:{tag}"))]);
        assert_eq!(format!("sha256:{}", hex_of(text.out.as_bytes())), found);
    }
    smidr(&there, &["verify"]).expect_code(0);
}
