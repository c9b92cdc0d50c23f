//! Images pushed to and pulled from Debian's docker-registry: equal, shared, waited for, built on, pruned.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    registry_images::{Random, blob, counts, digest, documents, files, layered, layers, store, unpacked, varied},
    registry_server::{Registry, Tap, free_port},
    support::{Done, LONG, World, wait_for},
};

pub(crate) fn import(world: &World, source: &Path, name: &str) -> String {
    digest(&world.smidr().args(["image", "import"]).arg(source).args(["--name", name]).run())
}

pub(crate) fn push(world: &World, name: &str, to: &str) -> Done {
    world.smidr().args(["image", "push", "--insecure", name, to]).run()
}

pub(crate) fn pull(world: &World, from: &str) -> Done {
    world.smidr().args(["image", "pull", "--insecure", from]).run()
}

/// A world with the image `small`, which has links and odd names.
pub(crate) fn with_small() -> (World, String) {
    let world = World::new();
    let source = world.work.join("small.tar");
    varied(&source);
    let manifest = import(&world, &source, "small");
    (world, manifest)
}

/// A world with the image `layered`: some layers of random files.
pub(crate) fn with_layers(count: usize, size: usize) -> (World, String) {
    let world = World::new();
    let source = world.work.join("layered.tar");
    let mut random = Random(1);
    let layers: Vec<_> = (0..count).map(|at| files(&mut random, &format!("folder/{at}"), 5, size)).collect();
    layered(&source, &layers);
    let manifest = import(&world, &source, "layered");
    (world, manifest)
}

#[test]
fn push_and_pull_give_the_same_image() {
    let Some(registry) = Registry::start("registry::push_and_pull_give_the_same_image") else { return };
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
    // A stored image takes one request.
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
fn a_pulled_build_host_builds() {
    let test = "registry::a_pulled_build_host_builds";
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
    // It was removed, and a registry without TLS needs --insecure.
    world.smidr().args(["image", "rm", &name]).run().expect_code(0);
    assert_eq!(counts(&world), [0; 5]);
    for (command, code) in [(&["run", "--", "true"][..], 125), (&["build"], 4)] {
        let done = world.smidr().args(command).run();
        done.expect_code(code).expect_one_error();
        done.expect_err(&format!("cannot reach {}", registry.host())).expect_err("hint: ").expect_err("--insecure");
        assert_eq!(counts(&world), [0; 5]);
    }
    // With an insecure registry in registries.conf, a build pulls what the lock pins.
    push(&from, "hello", &registry.at("hello:2")).expect_code(0);
    let folder = world.home.join(".config/containers");
    fs::create_dir_all(&folder).expect("a folder");
    let text = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host());
    fs::write(folder.join("registries.conf"), text).expect("settings for registries");
    world.smidr().args(["run", "--", "sh", "-c", "python3 --version"]).run().expect_code(0).expect_out("Python 3");
    let list = world.smidr().args(["image", "ls", "--json"]).run().json();
    // Under a name of its own: another project may be pinned to another image of that tag.
    let pinned = format!("{name}@{manifest}");
    assert_eq!((&list["images"][0]["name"], &list["images"][0]["digest"]), (&pinned.into(), &manifest.into()));
}

#[test]
fn missing_images_and_servers_are_errors() {
    let Some(registry) = Registry::start("registry::missing_images_and_servers_are_errors") else { return };
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
    // Plain http needs --insecure.
    let done = world.smidr().args(["image", "pull", &registry.at("small:1")]).run();
    done.expect_code(4).expect_one_error().expect_err(&host).expect_err("--insecure");
    let done = push(&from, "small", &format!("docker://{down}/small:1"));
    done.expect_code(4).expect_one_error().expect_err(&format!("cannot reach {down}"));
    push(&from, "nothing", &registry.at("small:1")).expect_code(2).expect_one_error().expect_err("no image `nothing`");
    // A stored image does not answer for a tag that cannot be resolved, but does for its digest.
    let pinned = registry.at(&format!("small@{manifest}"));
    pull(&world, &pinned).expect_code(0);
    drop(registry);
    pull(&world, &pinned).expect_code(0);
}

#[test]
fn push_can_compress_again() {
    let Some(registry) = Registry::start("registry::push_can_compress_again") else { return };
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

/// A layer that is here is neither fetched nor pushed again, even if it is not unpacked.
#[test]
fn known_layers_are_not_transferred() {
    let Some(registry) = Registry::start("registry::known_layers_are_not_transferred") else { return };
    let (from, manifest) = with_layers(2, 1000);
    push(&from, "layered", &registry.at("x:1")).expect_code(0);
    let (tap, world) = (Tap::before(&registry), World::new());
    assert_eq!(digest(&pull(&world, &registry.at("x:1"))), manifest);
    let all = layers(&world, &manifest);
    fs::remove_dir_all(unpacked(&world, &all[0].1).parent().expect("a folder")).expect("remove what is unpacked");
    fs::remove_file(blob(&world, &all[1].0)).expect("remove a blob");
    assert_eq!(digest(&pull(&world, &tap.at("x:1"))), manifest);
    let asked = tap.asked();
    assert!(asked.iter().any(|line| line.ends_with(&all[1].0)), "{asked:?}");
    assert!(!asked.iter().any(|line| line.ends_with(&all[0].0)), "{asked:?}");
    assert_eq!(counts(&world)[1], 2);
    world.smidr().args(["image", "verify"]).run().expect_code(0);
    assert_eq!(digest(&push(&from, "layered", &tap.at("x:1"))), manifest);
    let asked = tap.asked();
    assert!(!asked.iter().any(|line| line.starts_with("POST")), "{asked:?}");
}

/// Each asks for the layers while the other one does.
#[test]
fn two_pulls_at_once_fetch_once() {
    let Some(registry) = Registry::start("registry::two_pulls_at_once_fetch_once") else { return };
    let (from, manifest) = with_layers(3, 10_000);
    push(&from, "layered", &registry.at("x:1")).expect_code(0);
    let (tap, world) = (Tap::before(&registry), World::new());
    for names in [[None, None], [Some("a"), Some("b")]] {
        tap.close();
        tap.asked();
        let start = |name: Option<&str>| {
            let more = name.into_iter().flat_map(|name| ["--name", name]);
            world.smidr().args(["image", "pull", "--insecure", &tap.at("x:1")]).args(more).start()
        };
        let first = start(names[0]);
        // The configuration is held up, so both are on their way when it arrives.
        let both = |what: &str| tap.seen().iter().filter(|line| line.contains(what)).count() == 2;
        let second = start(names[1]);
        wait_for("both to ask for the configuration", LONG, || both("/blobs/"));
        tap.open();
        let done = [first.wait(), second.wait()];
        assert!(done.iter().all(|done| digest(done) == manifest), "{done:?}");
        let asked = tap.asked();
        for (layer, _) in layers(&world, &manifest) {
            let times = asked.iter().filter(|line| line.ends_with(&layer)).count();
            assert_eq!(times, 1, "{layer} in {asked:?}");
        }
        let expected = names.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(counts(&world), [5, 3, expected, 0, 0]);
        world.smidr().args(["image", "verify"]).run().expect_code(0);
        world.smidr().args(["image", "prune", "--days", "0"]).run().expect_code(0);
        assert_eq!(counts(&world), [0; 5]);
    }
}

#[test]
fn waiting_for_a_layer_names_its_puller() {
    let Some(registry) = Registry::start("registry::waiting_for_a_layer_names_its_puller") else { return };
    let (from, manifest) = with_layers(1, 10_000);
    push(&from, "layered", &registry.at("x:1")).expect_code(0);
    let (tap, world) = (Tap::before(&registry), World::new());
    let layer = layers(&from, &manifest)[0].0.clone();
    tap.close_for(&layer);
    let first = world.smidr().args(["image", "pull", "--insecure", &tap.at("x:1")]).start();
    wait_for("the layer to be asked for", LONG, || tap.seen().iter().any(|line| line.ends_with(&layer)));
    let mut second = world.smidr().args(["image", "pull", "--insecure", &tap.at("x:1"), "--name", "second"]).start();
    second.until_says("held by image pull 127.0.0.1:");
    // The waiting one goes on when the other one is killed.
    first.signal(nix::sys::signal::Signal::SIGKILL);
    drop(first);
    tap.open();
    assert_eq!(digest(&second.wait()), manifest);
    // The next process removes what the killed one left.
    world.smidr().args(["image", "verify"]).run().expect_code(0).expect_out("second  good");
    assert_eq!(counts(&world), [3, 1, 1, 0, 0]);
}

/// Lets an image be as if it was stored, or used last, so many days ago.
fn age(world: &World, name: &str, manifest: &str, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
    let path = store(world, "names").join(format!("{name}.json"));
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).expect("a record")).expect("a record in JSON");
    assert!(record["stored"].is_string(), "{record}");
    record["stored"] = jiff::Timestamp::try_from(then).expect("a time").to_string().into();
    fs::write(&path, record.to_string()).expect("write the record");
    let lock = world.smidr.join(format!("locks/image-{}.lock", &manifest["sha256:".len()..]));
    if let Ok(lock) = fs::File::options().append(true).open(lock) {
        lock.set_modified(then).expect("its time");
    }
}

pub(crate) fn prune(world: &World, args: &[&str]) -> Done {
    world.smidr().args(["image", "prune"]).args(args).run()
}

fn names(world: &World) -> Vec<String> {
    let list = world.smidr().args(["image", "ls", "--json"]).run().expect_code(0).json();
    let images = list["images"].as_array().expect("a list");
    images.iter().map(|image| image["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn prune_removes_unused_images() {
    let world = World::new();
    let mut random = Random(3);
    // As large as they are old, in steps of 100 kB.
    for (name, days) in [("new", 1), ("middle", 20), ("old", 40)] {
        let source = world.work.join("image.tar");
        layered(&source, &[files(&mut random, name, days as usize, 100_000)]);
        age(&world, name, &import(&world, &source, name), days);
    }
    let before = counts(&world);
    assert_eq!(before, [9, 3, 3, 0, 0]);
    let rows: [(&[&str], &[&str]); 8] = [
        (&[], &[]),
        (&["--days", "50"], &[]),
        (&["--days", "30"], &["old"]),
        (&["--days", "0"], &["old", "middle", "new"]),
        // Packed and unpacked, each takes twice what is in it.
        (&["--keep", "14m"], &[]),
        (&["--keep", "10m"], &["old"]),
        (&["--keep", "6m", "--days", "30"], &["old"]),
        (&["--keep", "0"], &["old", "middle", "new"]),
    ];
    for (args, expected) in rows {
        let done = prune(&world, &[args, &["--dry-run"]].concat());
        let gone: Vec<&str> = done.expect_code(0).out.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(gone, expected, "{args:?}: {}", done.out);
        let images = if expected.len() == 1 { "image" } else { "images" };
        done.expect_err(&format!("would remove {} {images}, ", expected.len()));
        assert_eq!(counts(&world), before, "{args:?}: nothing is removed");
    }
    for (text, why) in [
        ("much", "`much` is not a size"),
        ("20", "`20` has no unit: it is 20 bytes"),
        ("-1g", "not a size"),
        ("0x", "not a size"),
        ("99999999999g", "not a size"),
    ] {
        let done = prune(&world, &[&format!("--keep={text}")]);
        done.expect_code(2).expect_one_error().expect_err(why).expect_err("smidr image prune --keep 20g");
    }
    prune(&world, &["--days", "30"]).expect_code(0).expect_out("old ").expect_err("removed 1 image, 8.");
    assert_eq!((names(&world), counts(&world)), (vec!["middle".into(), "new".into()], [6, 2, 2, 0, 0]));
    // Images without a name, and partial blobs.
    let stray = "0".repeat(64);
    fs::write(store(&world, "blobs/sha256").join(&stray), "x").expect("a blob");
    fs::write(store(&world, "partial").join(&stray), "x").expect("the beginning of a blob");
    fs::create_dir_all(store(&world, "diffs").join(&stray).join("fs")).expect("a layer");
    prune(&world, &["--keep", "1m"]).expect_code(0).expect_err("removed 1 image, ").expect_err("that no image needed");
    assert_eq!((names(&world), counts(&world)), (vec!["new".into()], [3, 1, 1, 0, 0]));
    world.smidr().args(["image", "verify"]).run().expect_code(0);
}

#[test]
fn prune_keeps_used_images() {
    let test = "registry::prune_keeps_used_images";
    let Some(from) = World::with_image(test) else { return };
    let world = World::new();
    // A separate store: other tests use the shared one.
    let layout = world.work.join("hello.tar");
    from.smidr().args(["image", "export", "hello"]).arg(&layout).run().expect_code(0);
    let manifest = import(&world, &layout, "hello");
    fs::remove_file(&layout).expect("remove the archive");
    let source = world.work.join("small.tar");
    varied(&source);
    let small = import(&world, &source, "small");
    world.init("p");
    world.edit_host("hello");
    let script = "pwd; while ! test -e go; do sleep 0.05; done; python3 --version; cat /usr/bin/* | wc -c";
    let mut running = world.smidr().args(["run", "--", "sh", "-c", script]).start();
    running.until_says("/workspaces/");
    age(&world, "hello", &manifest, 100);
    age(&world, "small", &small, 100);
    let done = prune(&world, &["--days", "30"]);
    done.expect_code(0).expect_err("hello stays: build ").expect_err("uses it").expect_err("removed 1 image, ");
    assert_eq!((names(&world), counts(&world)), (vec!["hello".into()], [3, 1, 1, 0, 0]));
    let done = prune(&world, &["--keep", "1k"]);
    done.expect_code(0).expect_err("hello stays: build ").expect_err("removed 0 images");
    let done = world.smidr().args(["image", "rm", "hello"]).run();
    done.expect_code(2).expect_one_error().expect_err("the image `hello` is in use by build ");
    // Every file of it can still be read.
    fs::write(Path::new(running.out().trim()).join("go"), "").expect("let it go on");
    running.wait().expect_code(0).expect_out("Python 3");
    age(&world, "hello", &manifest, 100);
    prune(&world, &["--days", "30"]).expect_code(0).expect_out("hello ").expect_err("removed 1 image, ");
    assert_eq!(counts(&world), [0; 5]);
}
