//! Artifacts of old builds, and `smidr artifacts clean`.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{support::World, trouble::recipe};

#[test]
fn clean_keeps_the_last_good_build() {
    let Some(world) = World::with_project("artifacts::clean_keeps_the_last_good_build") else { return };
    let good = world.smidr().arg("build").run().expect_code(0).build_id();
    recipe(&world, "bad", "    exit 1");
    let bad = world.smidr().args(["build", "--target", "bad"]).run().expect_code(1).build_id();
    assert_eq!(world.smidr().args(["artifacts", "clean", "--keep", "1"]).run().expect_code(0).out, "");
    let list = |id: &str| world.smidr().args(["artifacts", "list", id]).run();
    list(&good).expect_code(0).expect_out("hello-image");
    list(&bad).expect_code(0).expect_err("left nothing behind");
    let log = world.smidr().args(["logs", &good]).run();
    log.expect_code(0).expect_out("sandbox    full isolation").expect_out("task");
    // A project lists its own builds only.
    let other = world.project().with_file_name("other");
    fs::create_dir(&other).expect("a folder");
    let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let name = config.lines().find(|line| line.starts_with("name:")).expect("a name");
    fs::write(other.join("smidr.yaml"), config.replace(name, "name: other")).expect("a config");
    let there = |args: &[&str]| world.smidr().current_dir(&other).args(args).run();
    for args in [&["artifacts", "list"][..], &["artifacts", "show"], &["logs"]] {
        there(args).expect_code(2).expect_err("`other` has not been built yet");
        let here = world.smidr().args(args).run();
        assert!(here.err.contains(&bad) || here.out.contains(&bad), "{here:?}");
    }
    there(&["logs", &good]).expect_code(0).expect_out("completed in");
    there(&["shell", &good]).expect_code(125).expect_err("and this is `other`");
    world.smidr().args(["shell", "nosuch"]).run().expect_code(125).expect_err("nosuch");
}

#[test]
fn clean_removes_artifacts_of_old_builds() {
    let Some(world) = World::with_project("artifacts::clean_removes_artifacts_of_old_builds") else { return };
    recipe(&world, "bad", "    echo marker-of-the-log; exit 1");
    let ids = [0, 1].map(|_| world.smidr().args(["build", "--target", "bad"]).run().expect_code(1).build_id());
    recipe(&world, "slow", "    sleep 1000");
    let mut running = world.smidr().args(["build", "--target", "slow"]).start();
    running.until_says("slow:do_act");
    let status = || world.smidr().args(["status", "--json"]).run().json();
    let newest = status()["builds"][0]["id"].as_str().expect("an id").to_owned();
    let folder = |id: &str| -> PathBuf { world.smidr.join("builds").join(id) };
    let clean = |args: &[&str]| world.smidr().args(["artifacts", "clean"]).args(args).run();
    clean(&[]).expect_code(2).expect_err("--keep");
    // All are younger than a day.
    assert_eq!(clean(&["--days", "1"]).expect_code(0).out, "");
    let would = clean(&["--keep", "1", "--dry-run"]);
    would.expect_code(0).expect_out(&ids[0]).expect_err("would remove what 1 builds left behind, ");
    assert!(folder(&ids[0]).join("logs/bad.do_act").is_file() && !would.out.contains(&ids[1]), "{would:?}");
    clean(&["--keep", "1"]).expect_code(0).expect_out(&ids[0]).expect_err("removed what 1 builds left behind, ");
    let left = |id: &str| World::names(&folder(id));
    assert_eq!(left(&ids[0]), ["events.jsonl.zst", "secrets", "submission.json"]);
    assert!(folder(&ids[1]).join("logs").exists());
    // Never those of a running build.
    let all = clean(&["--keep", "0"]);
    all.expect_code(0).expect_out(&ids[1]);
    assert!(!all.out.contains(&newest) && folder(&newest).is_dir() && left(&ids[1]).len() == 3, "{all:?}");
    assert_eq!(clean(&["--keep", "0"]).expect_code(0).out, "");
    // The history and the logs of these builds stay.
    let told = status();
    let outcome = |id: &str| {
        let all = told["builds"].as_array().expect("a list");
        all.iter().find(|build| build["id"] == id).expect("the build")["outcome"].clone()
    };
    assert_eq!((&outcome(&ids[0])["cleaned"], &outcome(&ids[0])["state"]), (&true.into(), &"FAILED".into()));
    world.smidr().args(["status", &ids[1]]).run().expect_code(0).expect_out("cleaned ").expect_out("bad:do_act");
    world.smidr().args(["logs", &ids[1]]).run().expect_code(0).expect_out("marker-of-the-log");
    // A folder that smidr did not make is not touched.
    fs::create_dir(folder("by-hand")).expect("a folder");
    clean(&["--keep", "0"]).expect_code(0);
    assert!(folder("by-hand").is_dir());
    running.signal(nix::sys::signal::Signal::SIGINT);
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.wait().expect_code(130);
}

/// A recipe that deploys files of its own.
fn deploying(world: &World, name: &str, lines: &str) {
    recipe(
        world,
        name,
        &format!(
            "    cd ${{DEPLOY_DIR}}/images/${{MACHINE}} || {{ mkdir -p ${{DEPLOY_DIR}}/images/${{MACHINE}}; cd ${{DEPLOY_DIR}}/images/${{MACHINE}}; }}\n{lines}"
        ),
    );
}

fn kept(world: &World, id: &str, name: &str) -> PathBuf {
    world.smidr.join("builds").join(id).join("artifacts/images/hello-x86-64").join(name)
}

/// The inode of a file, and what it takes on the disk in bytes.
fn inode(path: &Path) -> (u64, u64) {
    let found = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.ino(), found.blocks() * 512)
}

#[test]
fn equal_artifacts_are_kept_once() {
    let Some(world) = World::with_project("artifacts::equal_artifacts_are_kept_once") else { return };
    let make = "    [ -e same.img ] || head -c 3000000 /dev/zero | tr '\\0' x >same.img\n";
    let other = |number: u32| deploying(&world, "art", &format!("{make}    echo {number} >other.img"));
    other(1);
    let build = || world.smidr().args(["build", "--target", "art"]).run().expect_code(0).build_id();
    let first = build();
    other(2);
    let second = build();
    assert_eq!(inode(&kept(&world, &first, "same.img")), inode(&kept(&world, &second, "same.img")));
    assert_ne!(inode(&kept(&world, &first, "other.img")).0, inode(&kept(&world, &second, "other.img")).0);
    // Made anew, and the same.
    deploying(&world, "art", &format!("    rm -f same.img\n{make}"));
    let third = build();
    let inodes = [&first, &second, &third].map(|id| inode(&kept(&world, id, "same.img")).0);
    assert!(inodes[0] == inodes[1] && inodes[1] == inodes[2], "{inodes:?}");
    // What was written to meanwhile is given to no later build.
    let path = kept(&world, &third, "same.img");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
    fs::write(&path, "changed").expect("written");
    let fourth = build();
    assert_eq!(inode(&kept(&world, &fourth, "same.img")).1, 3_002_368);
    assert_eq!(fs::read(kept(&world, &fourth, "same.img")).expect("a file"), vec![b'x'; 3_000_000]);
    // Only the last one frees it.
    let freed = |keep: &str| {
        let done = world.smidr().args(["artifacts", "clean", "--keep", keep, "--dry-run"]).run();
        done.expect_code(0).err.clone()
    };
    assert!(freed("0").contains(" MB") && !freed("1").contains("MB"), "{} {}", freed("0"), freed("1"));
    let fifth = build();
    assert_eq!(inode(&kept(&world, &fifth, "same.img")).0, inode(&kept(&world, &fourth, "same.img")).0);
    world.smidr().args(["artifacts", "clean", "--keep", "0"]).run().expect_code(0).expect_err(" MB");
    assert_eq!(World::names(&world.smidr.join("kept")), Vec::<String>::new());
}

#[test]
fn what_cannot_be_read_is_lost_alone() {
    let Some(world) = World::with_project("artifacts::what_cannot_be_read_is_lost_alone") else { return };
    deploying(
        &world,
        "art",
        "    echo x >good; echo x >closed; chmod 000 closed; mkdir -p shut; echo x >shut/y; chmod 000 shut",
    );
    let done = world.smidr().args(["build", "--target", "art"]).run();
    let id = done.expect_code(0).build_id();
    assert!(kept(&world, &id, "good").is_file());
    // root reads what it likes.
    if !nix::unistd::geteuid().is_root() {
        done.expect_err("1 files are not kept").expect_err("a folder in ");
        assert!(!kept(&world, &id, "closed").exists());
    }
}

#[test]
fn copies_may_be_made_again_and_of_some() {
    let Some(world) = World::with_project("artifacts::copies_may_be_made_again_and_of_some") else { return };
    deploying(
        &world,
        "art",
        "    echo 1 >a.wic; echo 2 >b.wic; echo 3 >c.txt; ln -sf a.wic latest; truncate -s 3G hole",
    );
    let id = world.smidr().args(["build", "--target", "art"]).run().expect_code(0).build_id();
    let copy = |args: &[&str]| world.smidr().args(["artifacts", "copy"]).args(args).run();
    let at = |name: &str| world.project().join("out/images/hello-x86-64").join(name);
    copy(&["out"]).expect_code(0).expect_err("5 files of ");
    assert_eq!(inode(&at("hole")).1, 0, "holes stay holes");
    assert_eq!(fs::metadata(at("a.wic")).expect("a file").permissions().mode() & 0o777, 0o644);
    let before = inode(&at("a.wic"));
    copy(&[&id, "out"]).expect_code(0).expect_err("0 files of ").expect_err("5 were there already");
    assert_eq!(inode(&at("a.wic")), before);
    fs::write(at("a.wic"), "mine").expect("written");
    fs::remove_file(at("b.wic")).expect("removed");
    let refused = copy(&[&id, "out"]);
    refused.expect_code(2).expect_one_error().expect_err("a.wic is there already").expect_err("--force");
    assert!(!at("b.wic").exists() && fs::read_to_string(at("a.wic")).expect("a file") == "mine");
    copy(&["--force", &id, "out"]).expect_code(0).expect_err("2 files of ");
    assert_eq!(fs::read_to_string(at("a.wic")).expect("a file"), "1\n");
    // Some of them, by name or by path.
    copy(&[&id, "some", "*.wic", "images/hello-x86-64/c.*"]).expect_code(0).expect_err("3 files of ");
    let some = world.project().join("some/images/hello-x86-64");
    assert_eq!(World::names(&some), ["a.wic", "b.wic", "c.txt"]);
    copy(&[&id, "some", "*.iso"]).expect_code(2).expect_err("nothing that `*.iso` names");
    copy(&[&id]).expect_code(2).expect_err("name the folder");
}

#[test]
fn a_project_cleans_its_own() {
    let Some(world) = World::with_project("artifacts::a_project_cleans_its_own") else { return };
    recipe(&world, "bad", "    echo marker; exit 1");
    let id = world.smidr().args(["build", "--target", "bad"]).run().expect_code(1).build_id();
    let other = world.init("other");
    let clean = |folder: &Path, args: &[&str]| {
        world.smidr().current_dir(folder).args(["artifacts", "clean", "--keep", "0"]).args(args).run()
    };
    assert_eq!(clean(&other, &[]).expect_code(0).out, "");
    clean(&world.work, &[]).expect_code(2).expect_one_error().expect_err("--all-projects");
    clean(&world.work, &["--all-projects"]).expect_code(0).expect_out(&id);
    let day = jiff::Timestamp::now().strftime("%F").to_string();
    let log = world.smidr().args(["logs", &id, "--task", "bad:do_act"]).run();
    log.expect_code(2).expect_err(&format!("was removed on {day}, by `smidr clean` or"));
    let prune = |folder: &Path| world.smidr().current_dir(folder).args(["history", "prune", "--keep", "0"]).run();
    assert_eq!(prune(&other).expect_code(0).out, "");
    prune(&world.project()).expect_code(0).expect_out(&id).expect_err("all that is known of them, ");
}
