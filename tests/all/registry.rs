//! Images from a registry: there and back, damaged and mended, built on, thrown away. With a registry that others wrote.

use std::{fs, path::Path};

use super::{
    registry_images::{Random, blob, counts, digest, documents, files, layered, layers, store, unpacked, varied},
    registry_server::{Registry, Tap, free_port},
    support::{Done, World},
};

fn import(world: &World, source: &Path, name: &str) -> String {
    digest(&world.smidr().args(["image", "import"]).arg(source).args(["--name", name]).run())
}

fn push(world: &World, name: &str, to: &str) -> Done {
    world.smidr().args(["image", "push", "--insecure", name, to]).run()
}

fn pull(world: &World, from: &str) -> Done {
    world.smidr().args(["image", "pull", "--insecure", from]).run()
}

/// A world with the image `small`, which has links and odd names.
fn with_small() -> (World, String) {
    let world = World::new();
    let source = world.work.join("small.tar");
    varied(&source);
    let manifest = import(&world, &source, "small");
    (world, manifest)
}

/// A world with the image `layered`: some layers of random files.
fn with_layers(count: usize, size: usize) -> (World, String) {
    let world = World::new();
    let source = world.work.join("layered.tar");
    let mut random = Random(1);
    let layers: Vec<_> = (0..count).map(|at| files(&mut random, &format!("folder/{at}"), 5, size)).collect();
    layered(&source, &layers);
    let manifest = import(&world, &source, "layered");
    (world, manifest)
}

#[test]
fn there_and_back() {
    let Some(registry) = Registry::start("registry::there_and_back") else { return };
    let (from, manifest) = with_small();
    assert_eq!(digest(&push(&from, "small", &registry.at("team/small:1"))), manifest);
    let tap = Tap::before(&registry);
    let world = World::new();
    let reference = tap.at("team/small:1");
    let first = pull(&world, &reference);
    assert_eq!(digest(&first), manifest, "the same image, however it travels");
    let name = reference.strip_prefix("docker://").expect("a reference");
    first.expect_out(name);
    world.smidr().args(["image", "verify"]).run().expect_code(0).expect_out(&format!("{name}  good"));
    let asked = tap.asked();
    assert_eq!(asked.len(), 4, "what it means, the manifest, the configuration, the layer: {asked:?}");
    assert_eq!(counts(&world), [3, 1, 1, 0, 0]);
    // What is here already costs one question.
    assert_eq!(digest(&pull(&world, &reference)), manifest);
    assert_eq!(tap.asked(), ["HEAD /v2/team/small/manifests/1"]);
    // By what it is, under a name of its own; the layer does not come a second time.
    let by_digest = tap.at(&format!("team/small@{manifest}"));
    assert_eq!(digest(&pull(&world, &by_digest)), manifest);
    let layer = &layers(&world, &manifest)[0].0;
    let asked = tap.asked();
    assert!(asked.contains(&format!("GET /v2/team/small/manifests/{manifest}")), "{asked:?}");
    assert!(!asked.iter().any(|line| line.contains(layer)), "{asked:?}");
    assert_eq!(digest(&pull(&world, &by_digest)), manifest);
    assert_eq!(tap.asked(), Vec::<String>::new(), "there is nothing to ask");
    let list = world.smidr().args(["image", "ls", "--json"]).run().json();
    let names: Vec<_> = list["images"].as_array().expect("a list").iter().map(|image| image["name"].clone()).collect();
    assert_eq!(names, [name, by_digest.strip_prefix("docker://").expect("a reference")]);
    assert_eq!(counts(&world), [3, 1, 2, 0, 0]);
    // The tag comes to mean another image.
    let other = from.work.join("other.tar");
    layered(&other, &[files(&mut Random(2), "other", 2, 1000)]);
    let other = import(&from, &other, "other");
    push(&from, "other", &registry.at("team/small:1")).expect_code(0);
    assert_eq!(digest(&pull(&world, &reference)), other);
    assert_eq!(digest(&pull(&world, &by_digest)), manifest);
}

#[test]
fn a_build_host_travels() {
    let test = "registry::a_build_host_travels";
    let Some(from) = World::with_image(test) else { return };
    let Some(registry) = Registry::start(test) else { return };
    let manifest = digest(&push(&from, "hello", &registry.at("hello:1")));
    let world = World::new();
    assert_eq!(digest(&pull(&world, &registry.at("hello:1"))), manifest);
    world.smidr().args(["image", "verify"]).run().expect_code(0).expect_out("hello:1  good");
    world.init("p");
    let name = format!("{}/hello:1", registry.host());
    world.edit_host(&name);
    world.smidr().args(["run", "--", "true"]).run().expect_code(0);
    let lock = fs::read_to_string(world.project().join("smidr.lock")).expect("a lock");
    assert!(lock.contains(&format!("name: {name}\n  image: {manifest}\n")), "{lock}");
    world.smidr().arg("build").run().expect_code(0).expect_err(&name).expect_err("completed");
    world.smidr().args(["artifacts", "list"]).run().expect_code(0).expect_out(".ext4");
    // It is gone, and a registry without TLS is not talked to unasked.
    world.smidr().args(["image", "rm", &name]).run().expect_code(0);
    assert_eq!(counts(&world), [0; 5]);
    for (command, code) in [(&["run", "--", "true"][..], 125), (&["build"], 4)] {
        let done = world.smidr().args(command).run();
        done.expect_code(code).expect_one_error();
        done.expect_err(&format!("cannot reach {}", registry.host())).expect_err("hint: ").expect_err("--insecure");
        assert_eq!(counts(&world), [0; 5]);
    }
    // With a word from the user, a build gets it by itself, and what the lock says.
    push(&from, "hello", &registry.at("hello:2")).expect_code(0);
    let folder = world.home.join(".config/containers");
    fs::create_dir_all(&folder).expect("a folder");
    let text = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host());
    fs::write(folder.join("registries.conf"), text).expect("settings for registries");
    world.smidr().args(["run", "--", "sh", "-c", "python3 --version"]).run().expect_code(0).expect_out("Python 3");
    let list = world.smidr().args(["image", "ls", "--json"]).run().json();
    assert_eq!((&list["images"][0]["name"], &list["images"][0]["digest"]), (&name.into(), &manifest.into()));
}

#[test]
fn what_is_not_there_is_said() {
    let Some(registry) = Registry::start("registry::what_is_not_there_is_said") else { return };
    let (from, manifest) = with_small();
    push(&from, "small", &registry.at("small:1")).expect_code(0);
    let world = World::new();
    let (host, down) = (registry.host(), format!("127.0.0.1:{}", free_port()));
    let unknown = format!("small@sha256:{}", "0".repeat(64));
    let rows = [
        (registry.at("small:2"), 2, format!("{host} does not know {host}/small:2")),
        (registry.at("other:1"), 2, format!("{host} does not know {host}/other:1")),
        (registry.at(&unknown), 2, format!("{host} does not know {host}/{unknown}")),
        (registry.at("Small:1"), 2, "lower-case".into()),
        (format!("docker://{down}/small:1"), 4, format!("cannot reach {down}")),
        (format!("docker://{down}/small@{manifest}"), 4, format!("cannot reach {down}")),
    ];
    for (reference, code, expected) in rows {
        let done = pull(&world, &reference);
        done.expect_code(code).expect_one_error().expect_err(&expected).expect_err("hint: ");
        assert_eq!((&*done.out, counts(&world)), ("", [0; 5]), "{reference}");
    }
    // Without --insecure, plain http is no way to talk.
    let done = world.smidr().args(["image", "pull", &registry.at("small:1")]).run();
    done.expect_code(4).expect_one_error().expect_err(&host).expect_err("--insecure");
    let done = push(&from, "small", &format!("docker://{down}/small:1"));
    done.expect_code(4).expect_one_error().expect_err(&format!("cannot reach {down}"));
    push(&from, "nothing", &registry.at("small:1")).expect_code(2).expect_one_error().expect_err("no image `nothing`");
    // What is here already is of no use as long as nobody says what the tag means; by its digest it is.
    let pinned = registry.at(&format!("small@{manifest}"));
    pull(&world, &pinned).expect_code(0);
    drop(registry);
    pull(&world, &pinned).expect_code(0);
}

#[test]
fn compressed_anew_for_others() {
    let Some(registry) = Registry::start("registry::compressed_anew_for_others") else { return };
    let (from, manifest) = with_layers(2, 1000);
    let to = registry.at("x:gzip");
    let done = from.smidr().args(["image", "push", "--insecure", "layered", &to, "--compression", "gzip"]).run();
    let gzip = digest(&done);
    assert_ne!(gzip, manifest);
    let world = World::new();
    assert_eq!(digest(&pull(&world, &to)), gzip);
    let (there, here) = (documents(&from, &manifest), documents(&world, &gzip));
    assert_eq!(here.0["config"]["digest"], there.0["config"]["digest"], "what it unpacks to is the same");
    for layer in here.0["layers"].as_array().expect("layers") {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let path = blob(&world, layer["digest"].as_str().expect("a digest"));
        assert!(fs::read(path).expect("a layer").starts_with(&[0x1f, 0x8b]));
    }
    world.smidr().args(["image", "verify"]).run().expect_code(0);
}
