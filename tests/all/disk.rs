//! What everything takes on the disk: `smidr du`.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

use super::{support::World, trouble::recipe};

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
    let below = REFERENCE.split(&format!("## `{title}`")).nth(1).expect("the title");
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
    assert_eq!(number("/builds/bytes"), du(&world.smidr.join("builds")));
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
