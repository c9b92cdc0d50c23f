//! The store of build-host images: import, export, remove; damaged archives; concurrency; the same recipe twice.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use super::support::{Done, World, shared_home, skip};

/// Writes an archive of a small root file system.
fn archive(path: &Path, files: &[(&str, &str)]) {
    let mut tar = tar::Builder::new(File::create(path).expect("a file"));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes()).expect("an entry");
    }
    tar.finish().expect("the end of the archive");
}

fn small(world: &World) -> PathBuf {
    let path = world.work.join("small.tar");
    let long = "content\n".repeat(40_000);
    archive(&path, &[("etc/os-release", "ID=small\n"), ("usr/lib/long", &long), ("bin/sh", "none\n")]);
    path
}

fn import(world: &World, source: &Path, name: &str) -> Done {
    world.smidr().args(["image", "import"]).arg(source).args(["--name", name]).run()
}

/// The digest that `import` and `build` print behind the name.
#[track_caller]
fn digest(done: &Done) -> String {
    let words: Vec<&str> = done.expect_code(0).out.split_whitespace().collect();
    assert!(words.len() == 2 && words[1].starts_with("sha256:"), "{done:?}");
    words[1].to_owned()
}

/// How many blobs, layers, names and partial entries the store has.
fn counts(world: &World) -> [usize; 4] {
    ["blobs/sha256", "diffs", "names", "tmp"].map(|folder| World::names(&world.smidr.join("images").join(folder)).len())
}

#[test]
fn import_export_and_remove() {
    let world = World::new();
    world.smidr().args(["image", "ls"]).run().expect_code(0).expect_err("there are no images yet");
    let first = digest(&import(&world, &small(&world), "small"));
    let (folder, tar) = (world.work.join("layout"), world.work.join("layout.tar"));
    for dest in [&folder, &tar] {
        let export = || world.smidr().args(["image", "export", "small"]).arg(dest).run();
        export().expect_code(0);
        export().expect_code(2).expect_one_error().expect_err("exists already");
    }
    assert!(folder.join("oci-layout").is_file() && folder.join("index.json").is_file());
    for (source, name) in [(&folder, "again"), (&tar, "third")] {
        assert_eq!(digest(&import(&world, source, name)), first, "the same image, however it travels");
    }
    let json = world.smidr().args(["image", "ls", "--json"]).run().json();
    let names: Vec<_> = json["images"].as_array().expect("a list").iter().map(|image| image["name"].clone()).collect();
    assert_eq!(names, ["again", "small", "third"]);
    assert_eq!(json["images"][0]["digest"], first.as_str());
    assert_eq!(counts(&world)[1], 1, "one layer, unpacked once");
    world.smidr().args(["image", "rm", "smal"]).run().expect_code(2).expect_err("did you mean `small`?");
    for name in ["small", "again"] {
        world.smidr().args(["image", "rm", name]).run().expect_code(0);
        assert_eq!(counts(&world)[1], 1, "another name needs it");
    }
    world.smidr().args(["image", "rm", "third"]).run().expect_code(0);
    assert_eq!(counts(&world), [0; 4]);
}

#[test]
fn damaged_archives_leave_nothing() {
    let world = World::new();
    let whole = small(&world);
    import(&world, &whole, "x").expect_code(0);
    let oci = world.work.join("oci.tar");
    world.smidr().args(["image", "export", "x"]).arg(&oci).run().expect_code(0);
    world.smidr().args(["image", "rm", "x"]).run().expect_code(0);
    let gz = world.work.join("small.tar.gz");
    let mut encoder = flate2::write::GzEncoder::new(File::create(&gz).expect("a file"), flate2::Compression::fast());
    encoder.write_all(&fs::read(&whole).expect("an archive")).expect("compress");
    encoder.finish().expect("compress");
    let cut = |source: &Path, keep: f64| {
        let bytes = fs::read(source).expect("an archive");
        let path = world.work.join("cut");
        fs::write(&path, &bytes[..(bytes.len() as f64 * keep) as usize]).expect("a file");
        path
    };
    for source in [&whole, &gz, &oci] {
        for keep in [0.1, 0.5, 0.9] {
            let done = import(&world, &cut(source, keep), "cut");
            let what = format!("{} of {}: {done:?}", keep, source.display());
            assert_eq!(done.code, Some(2), "{what}");
            done.expect_one_error();
            assert_eq!(counts(&world), [0; 4], "{what}");
        }
    }
    // One byte of a layer differs from what its digest says.
    let mut bytes = fs::read(&oci).expect("an archive");
    let at = bytes.windows(16).position(|window| window == b"content\ncontent\n").expect("the layer's text") + 1000;
    bytes[at] ^= 1;
    fs::write(world.work.join("flipped"), bytes).expect("a file");
    import(&world, &world.work.join("flipped"), "x").expect_code(2).expect_one_error().expect_err("is damaged");
    fs::write(world.work.join("text"), "no archive\n".repeat(100)).expect("a file");
    for source in ["text", "missing"] {
        import(&world, &world.work.join(source), "x").expect_code(2).expect_one_error();
    }
    import(&world, &whole, "no/such:NAME ").expect_code(2).expect_one_error();
    assert_eq!(counts(&world), [0; 4]);
}

#[test]
fn a_busy_store_is_waited_for() {
    let world = World::new();
    let source = small(&world);
    world.smidr().args(["image", "ls"]).run().expect_code(0);
    // This test is the other smidr: it holds the very lock, and signs it.
    let path = world.smidr.join("locks/images.lock");
    let mut file = File::create(&path).expect("the lock file");
    file.lock().expect("the lock");
    file.write_all(b"image rm other (process 1)\n").expect("sign");
    let mut waiting = world.smidr().args(["image", "import"]).arg(&source).args(["--name", "x"]).start();
    waiting.until_says("waiting    for the image store, held by image rm other (process 1)");
    assert_eq!(counts(&world)[2], 0);
    drop(file);
    digest(&waiting.wait());
}

#[test]
fn two_imports_at_once() {
    let world = World::new();
    let source = small(&world);
    let start = |name: &str| world.smidr().args(["image", "import"]).arg(&source).args(["--name", name]).start();
    let running: Vec<_> = ["a", "b", "a", "c"].map(start).into();
    let digests: Vec<String> = running.into_iter().map(|running| digest(&running.wait())).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    let [_, diffs, names, tmp] = counts(&world);
    assert_eq!((diffs, names, tmp), (1, 3, 0));
}

#[test]
fn a_recipe_on_an_image_gives_the_same_digest_twice() {
    let Some(world) = World::with_image("images::a_recipe_on_an_image_gives_the_same_digest_twice") else { return };
    let name = format!("again-{}", std::process::id());
    let recipe = "base: {image: hello}\nfiles:\n  - {source: extra, dest: /opt/extra}\ncommands:\n  \
                  - test $(id -u) = 0 && chown 12:34 /opt/extra && date > /tmp/now\n  - python3 -c 'print(1)' > /opt/one\n\
                  env: {EXTRA: \"yes\"}\n";
    fs::write(world.work.join(format!("{name}.yaml")), recipe).expect("a recipe");
    fs::write(world.work.join("extra"), "x\n").expect("a file");
    let build = || world.smidr().args(["image", "build", &name]).run();
    let first = digest(&build());
    world.smidr().args(["image", "rm", &name]).run().expect_code(0);
    assert_eq!(digest(&build()), first);
    // What the recipe added is there, and what the base has.
    world.init("p");
    let config = world.project().join("smidr.yaml");
    let text = fs::read_to_string(&config).expect("a config").replace("recipe: hello", &format!("image: {name}"));
    fs::write(config, text).expect("a config");
    let done = world
        .smidr()
        .args(["run", "sh", "-c", "cat /opt/extra /opt/one; echo $EXTRA; ls /tmp/now; python3 --version"])
        .run();
    done.expect_code(0).expect_out("x\n1\nyes\nPython 3");
    world.smidr().args(["image", "rm", &name]).run().expect_code(0);
}

#[test]
fn a_recipe_that_fails_leaves_nothing() {
    let Some(world) = World::with_image("images::a_recipe_that_fails_leaves_nothing") else { return };
    let name = format!("broken-{}", std::process::id());
    let path = world.work.join(format!("{name}.yaml"));
    let rows = [
        ("base: {image: hello}\ncommands:\n  - echo the reason >&2; exit 3\n", "the reason"),
        ("base: {image: nowhere}\n", "which is not in the store"),
        ("base: {image: hello}\nfiles:\n  - {source: gone, dest: /x}\n", "which does not stand beside it"),
        ("base: {image: hello}\ncomands: [x]\n", "did you mean `commands`?"),
    ];
    for (text, expected) in rows {
        fs::write(&path, text).expect("a recipe");
        let done = world.smidr().args(["image", "build", &name]).run();
        assert!(matches!(done.code, Some(1..=3)) && done.err.contains(expected), "{expected}: {done:?}");
        assert_eq!(done.out, "");
    }
    assert!(!world.smidr().args(["image", "ls"]).run().expect_code(0).out.contains(&name));
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn hello_is_the_same_image_everywhere() {
    let name = "images::hello_is_the_same_image_everywhere";
    let Some(shared) = shared_home(name) else { return };
    let world = World::new();
    // Only the packages come along: everything that is made of them is made again.
    let from = shared.join("images/packages");
    for entry in walkdir::WalkDir::new(&from) {
        let entry = entry.expect("an entry of the package cache");
        let to = world.smidr.join("images/packages").join(entry.path().strip_prefix(&from).expect("below"));
        if entry.file_type().is_dir() {
            fs::create_dir_all(&to).expect("a folder");
        } else {
            fs::copy(entry.path(), &to).expect("a copy");
        }
    }
    let mut permissions = fs::metadata(&world.smidr).expect("a SMIDR_HOME").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o700);
    fs::set_permissions(&world.smidr, permissions).expect("a private folder");
    let second = digest(&world.smidr().args(["image", "build", "hello"]).run());
    let mut first = World::new();
    first.smidr = shared.into();
    let list = first.smidr().args(["image", "ls", "--json"]).run().json();
    let hello = list["images"].as_array().and_then(|all| all.iter().find(|image| image["name"] == "hello")).cloned();
    assert_eq!(hello.expect("hello")["digest"], second.as_str());
}

/// The build host of every project that names none, from an empty store: what a Yocto build needs first must be there.
#[test]
#[ignore = "makes an image of 400 packages: scripts/test --slow"]
fn debian_12_is_a_build_host() {
    let world = World::new();
    let made = world.smidr().args(["image", "build", "debian-12"]).run();
    made.expect_code(0);
    world.init("p");
    let path = world.project().join("smidr.yaml");
    let text = fs::read_to_string(&path).expect("a config").replace("recipe: hello", "recipe: debian-12");
    fs::write(&path, text).expect("write the config");
    let script = "locale -a | grep en_US.utf8 && dpkg --audit && python3 -c 'import sqlite3, ssl, multiprocessing' && \
                  for tool in chrpath cpio diffstat file g++ gawk gcc git lz4c make patch rpcgen socat ssh unzip wget xz zstd; \
                  do command -v $tool || exit 1; done";
    let done = world.smidr().args(["run", "sh", "-ec", script]).run();
    done.expect_code(0).expect_out("en_US.utf8").expect_out("/usr/bin/zstd");
}

/// A build host of a distribution that this machine's apt does not know: what the series was validated on besides is named.
#[test]
fn a_foreign_build_host_names_another_one() {
    if Path::new("/usr/share/keyrings/ubuntu-archive-keyring.gpg").exists() {
        return skip("a foreign build host", "this machine has Ubuntu's keyring");
    }
    let world = World::new();
    world.init("p");
    world.edit("smidr.yaml", "recipe: hello", "recipe: ubuntu-22.04");
    let text = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    world.write("smidr.yaml", &format!("{text}yocto_series: kirkstone\n"));
    world.edit("layers/meta-hello/conf/layer.conf", "\"hello\"", "\"kirkstone\"");
    let done = world.smidr().arg("build").run();
    done.expect_code(3)
        .expect_err("the build host `ubuntu-22.04` cannot be made on this machine")
        .expect_err("caused by: the keyring /usr/share/keyrings/ubuntu-archive-keyring.gpg that signs the suite")
        .expect_err("host: {recipe: debian-11}")
        .expect_err("apt-get install ubuntu-keyring");
}
