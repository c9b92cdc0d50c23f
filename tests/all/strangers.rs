//! What a stranger's project could read, or stop, by what its files are called, lead to and name.

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
fn any_name_of_a_file_can_be_granted() {
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
