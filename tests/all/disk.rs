//! What everything takes on the disk: `smidr du`.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use serde_json::Value;

use super::{
    support::{Smidr, World},
    trouble::recipe,
};

const REFERENCE: &str = include_str!("../../docs/disk.md");

/// What `du` says a folder takes, in bytes.
fn du(folder: &Path) -> u64 {
    let said = Command::new("du").args(["-s", "-B1"]).arg(folder).output().expect("du runs");
    let text = String::from_utf8(said.stdout).expect("text");
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// All keys of a document, as the reference writes them.
fn keys(value: &Value, above: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                keys(field, &format!("{above}{}{name}", if above.is_empty() { "" } else { "." }), found);
            }
        }
        Value::Array(list) => list.iter().for_each(|field| keys(field, &format!("{above}[]"), found)),
        _ => _ = found.insert(above.to_owned()),
    }
}

/// The keys that a table below a title of the reference lists.
fn written(title: &str) -> BTreeSet<String> {
    written_in(REFERENCE, title)
}

/// The same of any reference; none where it has no such title.
pub(super) fn written_in(reference: &str, title: &str) -> BTreeSet<String> {
    let below = reference.split(&format!("## `{title}`\n")).nth(1).unwrap_or_default();
    let rows = below.split("\n## ").next().unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
    let first = rows.filter_map(|row| row.split('|').nth(1));
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn du_tells_whose_everything_is() {
    let Some(world) = World::with_project("disk::du_tells_whose_everything_is") else { return };
    recipe(&world, "one", "    echo x >${TOPDIR}/$(printf 'gr\\374n')");
    world.append("\nvariants: {debug: {directories: {tmp: ../elsewhere}}}\n");
    let build = |world: &World, variant: &[&str]| {
        world.smidr().args(["build", "--target", "one"]).args(variant).run().expect_code(0);
    };
    build(&world, &[]);
    build(&world, &["--variant", "debug"]);
    // A project that nothing was granted to has caches of its own.
    let other = world.init("other");
    for args in [&["untrust"][..], &["build", "--target", "libgreet"]] {
        world.smidr().current_dir(&other).env("SMIDR_TRUST", "0").args(args).run().expect_code(0);
    }
    let document = world.smidr().args(["du", "--json"]).run().expect_code(0).json();
    let number = |place: &str| {
        document.pointer(place).and_then(Value::as_u64).unwrap_or_else(|| panic!("{place}: {document:#}"))
    };

    // The image store of a test stands elsewhere.
    assert_eq!(number("/bytes") - number("/images/bytes"), du(&world.smidr));
    let both = Command::new("sh").args(["-c", "du -cs -B1 builds kept | tail -1"]).current_dir(&world.smidr).output();
    let text = String::from_utf8(both.expect("du runs").stdout).expect("text");
    assert_eq!(text.split_whitespace().next(), Some(number("/builds/bytes").to_string().as_str()));
    assert_eq!(number("/builds/count"), 3);
    let mut found = BTreeSet::new();
    keys(&document, "", &mut found);
    assert_eq!(found, written("smidr du --json"));

    let workspaces = document["workspaces"].as_array().expect("a list");
    let variant = |name: Option<&str>| {
        let config = world.project().join("smidr.yaml");
        let is_it = |one: &&Value| one["variant"].as_str() == name && one["config"].as_str() == config.to_str();
        workspaces.iter().find(is_it).unwrap_or_else(|| panic!("no {name:?} in {document:#}"))
    };
    assert_eq!(variant(Some("debug"))["elsewhere"][0]["path"], world.work.join("elsewhere").to_str().expect("text"));
    assert_eq!(variant(Some("debug"))["elsewhere"][0]["bytes"], du(&world.work.join("elsewhere")));
    assert_eq!(variant(None)["gone"], false);
    let shared = number("/domains/0/downloads/bytes") + number("/domains/0/sstate/bytes");
    assert_eq!((number("/domains/0/workspaces"), number("/domains/0/saving")), (2, shared));
    assert_eq!(number("/saving"), shared, "the other domain has one workspace");
    assert_eq!(document["domains"][1]["config"], other.join("smidr.yaml").to_str().expect("text"));

    fs::remove_dir_all(world.project()).expect("removed");
    let screen = world.smidr().arg("du").current_dir(&world.work).run();
    screen.expect_code(0).expect_out("smidr.yaml, variant debug, which is gone").expect_out("Sharing saves ");
    assert!(screen.out.lines().count() <= 24, "{}", screen.out);
}

#[test]
fn du_of_nothing() {
    let world = World::new();
    world.smidr().arg("du").run().expect_code(0).expect_out("0 B  downloads");
    assert!(!world.smidr.exists(), "it only looks");
}

/// Worlds share the locks of their images, and with them those of caches: builds of other tests would count as users.
fn with_own_locks(world: World) -> World {
    fs::remove_file(world.smidr.join("locks")).expect("a link");
    world
}

/// A download and an sstate object with what belongs to them, unused for so many days.
fn put_unused(world: &World, name: &str, days: u64) {
    let time = std::time::SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
    for (folder, object, beside) in [
        ("downloads", format!("{name}.tar.gz"), "done"),
        ("sstate-cache/00", format!("sstate:{name}.tar.zst"), "siginfo"),
    ] {
        let folder = world.smidr.join(folder);
        fs::create_dir_all(&folder).expect("folders");
        for file in [object.clone(), format!("{object}.{beside}")] {
            fs::write(folder.join(&file), "x").expect("a file");
            fs::File::open(folder.join(file)).and_then(|file| file.set_modified(time)).expect("a time");
        }
    }
}

fn unused(world: &World) -> usize {
    let names = ["downloads", "sstate-cache/00"].map(|folder| World::names(&world.smidr.join(folder)));
    names.iter().flatten().filter(|name| name.contains("unused")).count()
}

#[test]
fn clean_removes_what_is_not_needed_any_more() {
    let Some(world) = World::with_project("disk::clean_removes_what_is_not_needed_any_more") else { return };
    let world = with_own_locks(world);
    let clean = |args: &[&str]| world.smidr().arg("clean").args(args).current_dir(&world.work).run();
    for (args, told) in [
        (&["--older-than", "30"][..], "`30` is not an age"),
        (&["--keep-size", "20"], "`20` has no unit"),
        (&["--yes"], "say what may be removed"),
    ] {
        clean(args).expect_code(2).expect_one_error().expect_err(told);
    }
    recipe(&world, "one", "    true");
    recipe(&world, "slow", "    sleep 1000");
    world.smidr().args(["build", "--target", "one"]).run().expect_code(0);
    put_unused(&world, "unused", 90);
    put_unused(&world, "used", 1);
    let nothing = clean(&[]);
    nothing.expect_code(0).expect_out("unused.tar.gz").expect_err("smidr clean --older-than 30d --gone");
    assert!(!nothing.out.contains("/used"), "{nothing:?}");
    // Never what a running build uses.
    let mut running = world.smidr().args(["build", "--target", "slow"]).start();
    running.until_says("slow:do_act");
    clean(&["--older-than", "30d"]).expect_code(0).expect_err("uses it, and the sstate of its domain");
    fs::rename(world.project(), world.work.join("moved")).expect("moved");
    let busy = clean(&["--gone"]);
    busy.expect_code(0).expect_err("stays: build ");
    assert_eq!((unused(&world), World::names(&world.smidr.join("workspaces")).len()), (4, 1));
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.wait();
    let would = clean(&["--older-than", "30d", "--gone", "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!(unused(&world), 4);
    let done = clean(&["--older-than", "30d", "--gone", "--json"]).expect_code(0).json();
    assert_eq!((&would["dry_run"], &done["dry_run"]), (&true.into(), &false.into()));
    assert_eq!((&would["things"], &would["bytes"]), (&done["things"], &done["bytes"]));
    for folder in ["workspaces", "owners", "tmp/roots"] {
        assert_eq!(World::names(&world.smidr.join(folder)), Vec::<String>::new(), "{folder}");
    }
    assert_eq!(unused(&world), 0);
    assert!(world.smidr.join("downloads/used.tar.gz.done").is_file());
    let mut found = BTreeSet::new();
    keys(&done, "", &mut found);
    // Nothing was kept.
    let expected = written("smidr clean --json").into_iter().filter(|key| !key.starts_with("kept[]")).collect();
    assert_eq!(found, expected);
    clean(&["--keep-size", "1k"]).expect_code(0);
    assert!(!world.smidr.join("sstate-cache/00/sstate:used.tar.zst").exists());
}

#[test]
fn what_devtool_works_on_stays() {
    let Some(world) = World::with_project("disk::what_devtool_works_on_stays") else { return };
    let world = with_own_locks(world);
    recipe(&world, "one", "    mkdir -p ${TOPDIR}/workspace/sources/mine");
    world.smidr().args(["build", "--target", "one"]).run().expect_code(0);
    fs::rename(world.project(), world.work.join("moved")).expect("moved");
    let kept = world.smidr().args(["clean", "--gone"]).current_dir(&world.work).run();
    kept.expect_code(0).expect_err("build/workspace/sources stays: devtool works on these sources");
    assert_eq!(World::names(&world.smidr.join("workspaces")).len(), 1);
}

#[test]
fn cleans_at_once_and_killed_ones_leave_nothing_half() {
    // No image is needed.
    let world = World::new();
    let count = 300;
    let clean = || world.smidr().args(["clean", "--older-than", "30d", "--only", "downloads,sstate"]);
    for round in 0..6_u64 {
        (0..count).for_each(|number| put_unused(&world, &format!("unused-{number}"), 90));
        let running: Vec<_> = [clean(), clean(), clean()].map(Smidr::start).into_iter().collect();
        std::thread::sleep(Duration::from_millis(round * 40));
        for (number, running) in running.into_iter().enumerate() {
            if number == 0 {
                running.signal(nix::sys::signal::Signal::SIGKILL);
                running.wait();
            } else {
                running.wait().expect_code(0);
            }
        }
        // Whatever it had come to: no download is said to be whole that is not there.
        for name in World::names(&world.smidr.join("downloads")) {
            let file = name.strip_suffix(".done").unwrap_or(&name);
            assert!(world.smidr.join("downloads").join(file).is_file(), "{name} in round {round}");
        }
        clean().run().expect_code(0);
        assert_eq!(unused(&world), 0);
    }
}
