//! What an untrusted project could read or block by names of files, links and references.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::PathBuf,
};

use super::support::{Done, World};

/// A project `p` that only has this config.
fn project(world: &World, more: &str) -> PathBuf {
    let folder = world.project();
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("smidr.yaml"), config(more)).expect("a config");
    folder
}

fn config(more: &str) -> String {
    format!("name: p\nbase: {{machine: m}}\nbuild: {{image: i}}\n{more}\n")
}

/// Without the trust that other tests have.
fn stranger(world: &World, args: &[&str]) -> Done {
    world.smidr().env("SMIDR_TRUST", "0").args(args).run()
}

#[test]
fn asks_with_any_file_name_can_be_granted() {
    let world = World::new();
    let folder = world.work.join(OsStr::from_bytes(b"p\xff"));
    let private = world.work.join(OsStr::from_bytes(b"private\xfe"));
    [&folder, &private].into_iter().for_each(|path| fs::create_dir(path).expect("a folder"));
    symlink(&private, folder.join("link")).expect("a link");
    fs::write(folder.join("smidr.yaml"), config("host: {binds: [{source: ./link, dest: /srv/x}]}")).expect("a config");
    let smidr = |args: &[&str]| world.smidr().env("SMIDR_TRUST", "0").current_dir(&folder).args(args).run();
    let plan = smidr(&["plan", "--json"]);
    let plan = plan.expect_code(0).json();
    let bytes = plan["refused"][0]["path_bytes"].as_str().expect("what no text can hold");
    assert_eq!(bytes, hex::encode(private.as_os_str().as_bytes()));
    smidr(&["check"]).expect_code(0).expect_err("and send it away");
    smidr(&["trust"]).expect_code(0);
    assert_eq!(smidr(&["plan", "--json"]).json()["refused"].as_array().map(Vec::len), Some(0));
    let list = smidr(&["trust", "--list", "--json"]);
    let list = list.expect_code(0).json();
    let file = folder.join("smidr.yaml");
    assert_eq!(list["projects"][0]["config_bytes"], hex::encode(file.as_os_str().as_bytes()));
    smidr(&["untrust"]).expect_code(0);
}

#[test]
fn images_of_the_user_are_asks() {
    let Some(world) = World::with_image("strangers::images_of_the_user_are_asks") else { return };
    let archive = world.work.join("mine.tar");
    let mut tar = tar::Builder::new(fs::File::create(&archive).expect("a file"));
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(1);
    tar.append_data(&mut header, "etc/private", &b"x"[..]).expect("an entry");
    tar.finish().expect("an archive");
    // A store of its own, with what the shared one has.
    let images = world.smidr.join("images");
    let shared = fs::canonicalize(&images).expect("images");
    fs::remove_file(&images).expect("a link");
    let copied = std::process::Command::new("cp").arg("-a").arg(shared).arg(&images).status().expect("cp runs");
    assert!(copied.success());
    world.smidr().args(["image", "import"]).arg(&archive).args(["--name", "mine"]).run().expect_code(0);
    let recipes = world.smidr.join("recipes");
    fs::create_dir_all(&recipes).expect("a folder");
    fs::write(recipes.join("own.yaml"), "base: {image: mine}\n").expect("a recipe");
    let folder = project(&world, "");
    fs::write(folder.join("on-mine.yaml"), "base: {image: mine}\n").expect("a recipe");
    fs::write(folder.join("on-hello.yaml"), "base: {image: hello}\n").expect("a recipe");
    let list = world.smidr().args(["image", "ls", "--json"]).run().json();
    let digest = list["images"].as_array().expect("a list").iter().find(|image| image["name"] == "mine");
    let digest = digest.expect("the image")["digest"].as_str().expect("a digest").to_owned();
    let by_digest = format!("image: {}", &digest["sha256:".len()..][..12]);
    let rows = [
        ("image: mine", Some("mine")),
        (by_digest.as_str(), Some("mine")),
        ("recipe: on-mine", Some("mine")),
        ("recipe: own", Some("own")),
        ("image: hello", None),
        ("recipe: hello", None),
        ("recipe: on-hello", None),
        ("image: docker.io/library/none:1", None),
    ];
    for (host, asked) in rows {
        project(&world, &format!("host: {{{host}}}"));
        let refused = stranger(&world, &["plan", "--json"]).json()["refused"].clone();
        let images = refused.as_array().expect("a list").iter().filter(|ask| ask["ask"] == "stored_image");
        let names: Vec<_> = images.map(|ask| ask["name"].as_str().expect("a name")).collect();
        assert_eq!(names, Vec::from_iter(asked), "{host}");
    }
    project(&world, "layers: []\nhost: {image: mine}");
    let said = "every recipe can read the image mine of your store";
    stranger(&world, &["build"]).expect_code(2).expect_one_error().expect_err(said);
    // Naming it in the lock does not avoid the question.
    project(&world, "layers: []\nhost: {recipe: on-hello}");
    stranger(&world, &["trust"]).expect_code(0);
    stranger(&world, &["lock"]).expect_code(0);
    let path = folder.join("smidr.lock");
    let lock = fs::read_to_string(&path).expect("a lock");
    let pinned = lock.split("image: ").nth(1).and_then(|rest| rest.lines().next()).expect("an image");
    fs::write(&path, lock.replace(pinned, &digest)).expect("a lock");
    let done = stranger(&world, &["run", "--", "true"]);
    done.expect_code(125).expect_err(&digest).expect_err(pinned);
}

#[test]
fn targets_of_links_are_not_quoted() {
    let world = World::new();
    let folder = project(&world, "layers: []");
    let secret = world.home.join("credentials");
    fs::write(&secret, "hosts:\n  example.org: {token: hunter2}\n  - hunter2\n").expect("a file");
    let flat = world.home.join("flat.yaml");
    fs::write(&flat, "name: hunter2 hunter2\nhunter2: &hunter2\nversion: 1\nhost: hunter2\nbase: hunter2\n")
        .expect("a file");
    let told = |done: Done, place: &str| {
        done.expect_err(place);
        assert!(!done.err.contains("hunter2") && !done.out.contains("hunter2"), "{}{}", done.out, done.err);
        assert!(done.code != Some(0), "{done:?}");
    };
    let config = folder.join("smidr.yaml");
    let good = fs::read_to_string(&config).expect("a config");
    for (target, place) in [(&secret, "credentials:3:"), (&flat, "flat.yaml:")] {
        fs::remove_file(&config).expect("removed");
        symlink(target, &config).expect("a link");
        for command in ["check", "plan", "build"] {
            told(stranger(&world, &[command]), place);
        }
        // Shown if the user names the file.
        let named = target.display().to_string();
        let shown = world.smidr().args(["--config", &named, "check"]).run();
        assert!(shown.err.contains("hunter2"), "{}", shown.err);
        fs::remove_file(&config).expect("removed");
        fs::write(&config, &good).expect("a config");
    }
    // A link to the environment of smidr itself.
    fs::remove_file(&config).expect("removed");
    symlink("/proc/self/environ", &config).expect("a link");
    told(world.smidr().env("TOKEN", "hunter2").arg("check").run(), "environ:1:");
    fs::remove_file(&config).expect("removed");
    fs::write(&config, &good).expect("a config");
    for target in [&secret, &flat] {
        let lock = folder.join("smidr.lock");
        symlink(target, &lock).expect("a link");
        told(stranger(&world, &["check"]), "smidr.lock is a link to a file that is not a lock (line ");
        fs::remove_file(&lock).expect("removed");
    }
    symlink(&secret, folder.join("linked.yaml")).expect("a link");
    symlink(&world.home, folder.join("way")).expect("a link");
    fs::copy(&secret, folder.join(".env")).expect("a file");
    fs::copy(&secret, folder.join("own.yaml")).expect("a file");
    let absolute = flat.display().to_string();
    for recipe in ["linked", "./linked.yaml", "./way/flat.yaml", "./.env", "../../home/flat.yaml", &absolute] {
        fs::write(&config, format!("{good}host: {{recipe: {recipe}}}\n")).expect("a config");
        told(stranger(&world, &["check"]), "something is wrong here");
        told(world.smidr().arg("build").run(), "something is wrong here");
    }
    for recipe in ["own", "./own.yaml"] {
        fs::write(&config, format!("{good}host: {{recipe: {recipe}}}\n")).expect("a config");
        stranger(&world, &["check"]).expect_err("- hunter2");
    }
    for recipe in ["./.env", &absolute] {
        world.smidr().args(["image", "build", recipe]).run().expect_code(2).expect_err("hunter2");
    }
}

#[test]
fn trust_can_be_revoked_without_a_config() {
    for breaks in ["name: [", ""] {
        let world = World::new();
        let asking = "host: {binds: [{source: ~/x, dest: /srv/x}]}";
        let folder = project(&world, asking);
        let file = folder.join("smidr.yaml");
        let refused = || stranger(&world, &["plan", "--json"]).json()["refused"].as_array().map(Vec::len);
        let plan = stranger(&world, &["plan", "--json"]).json();
        let workspace = plan["plan"]["folders"]["workspace"].as_str().expect("a path").to_owned();
        for (place, text) in [("trust.json", None), ("version", Some("1\n"))] {
            let path = world.smidr.join(place);
            fs::create_dir_all(&workspace).expect("a folder");
            match text {
                Some(text) => fs::write(path, text).expect("a file"),
                None => fs::remove_file(path).unwrap_or_default(),
            }
        }
        assert_eq!(refused(), Some(0), "what was built before is trusted");
        match breaks {
            "" => fs::remove_file(&file).expect("removed"),
            text => fs::write(&file, text).expect("a config"),
        }
        stranger(&world, &["untrust"]).expect_code(0).expect_err("is not trusted any more");
        stranger(&world, &["untrust"]).expect_code(2).expect_err("was not trusted");
        project(&world, asking);
        assert_eq!(refused(), Some(2), "the bind and the caches");
    }
}
