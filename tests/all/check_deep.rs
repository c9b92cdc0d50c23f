//! `smidr check --deep`: what would fail, told by a real BitBake before a task runs.

use std::{fs, path::Path};

use super::support::{Done, World, has, skip, tool};

/// A recipe of the project's own layer.
fn recipe(world: &World, file: &str, text: &str) {
    world.write(&format!("layers/meta-hello/recipes-x/x/{file}"), &format!("LICENSE = \"MIT\"\n{text}"));
}

fn deep(world: &World, args: &[&str]) -> Done {
    world.smidr().args(["check", "--deep"]).args(args).run()
}

#[test]
fn a_good_project_is_parsed_and_nothing_is_built() {
    let Some(world) = World::with_project("check_deep::a_good_project_is_parsed_and_nothing_is_built") else { return };
    let before = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let done = deep(&world, &["--json"]);
    let document = done.expect_code(0).json();
    assert_eq!(document["good"], true, "{document}");
    let looked = &document["deep"];
    assert!(looked["recipes"].as_u64() > Some(2) && looked["tasks"].as_u64() > Some(20), "{document}");
    assert_eq!(looked["branches"]["total"], 0, "{document}");
    assert!(!world.project().join("smidr.lock").exists(), "it pins nothing");
    assert_eq!(fs::read_to_string(world.project().join("smidr.yaml")).expect("a config"), before);
    assert!(!world.smidr().args(["status"]).run().out.contains("COMPLETED"), "it is no build");
    // Without it, nothing is parsed.
    let document = world.smidr().args(["check", "--json"]).run().expect_code(0).json();
    assert!(document["deep"].is_null(), "{document}");
    world.smidr().args(["check", "hello"]).run().expect_code(2).expect_err("--deep");
}

#[test]
fn what_would_fail_is_told_with_what_to_do() {
    let test = "check_deep::what_would_fail_is_told_with_what_to_do";
    let Some(world) = World::with_project(test) else { return };
    if !has("git") {
        return skip(test, "there is no git here");
    }
    let upstream = world.project().join("layers/meta-hello/recipes-x/x/files/upstream");
    fs::create_dir_all(&upstream).expect("a folder");
    git(&upstream, &["init", "-q", "--bare", "-b", "main"]);
    let tree = git(&upstream, &["mktree"]);
    let commit = git(&upstream, &["commit-tree", "-m", "x", tree.trim()]);
    git(&upstream, &["update-ref", "refs/heads/main", commit.trim()]);
    let source = |branch: &str| {
        format!(
            "SRC_URI = \"git://{};protocol=file;branch={branch}\"\nSRCREV = \"{}\"\n",
            upstream.display(),
            commit.trim()
        )
    };
    recipe(&world, "nosum_1.bb", "SRC_URI = \"https://localhost/a.tar.gz\"\nBB_STRICT_CHECKSUM = \"1\"\n");
    recipe(&world, "loose_1.bb", "SRC_URI = \"https://localhost/b.tar.gz\"\n");
    recipe(&world, "summed_1.bb", "SRC_URI = \"https://localhost/c.tar.gz;name=c\"\nSRC_URI[c.sha256sum] = \"00\"\n");
    recipe(&world, "gone_1.bb", &source("old"));
    recipe(&world, "there_1.bb", &source("main"));
    let skips =
        "python () {\n    raise bb.parse.SkipRecipe('incompatible with machine m (not in COMPATIBLE_MACHINE)')\n}\n";
    recipe(&world, "other_1.bb", &format!("PROVIDES = \"virtual-x\"\n{skips}"));
    recipe(&world, "top_1.bb", "DEPENDS = \"nosum loose summed gone there virtual-x hello-imag\"\n");
    recipe(&world, "absent_1.bbappend", "");
    let done = deep(&world, &["top", "--json"]);
    let document = done.expect_code(1).json();
    let titles = |list: &str| {
        let list = document[list].as_array().expect("a list").iter();
        list.map(|one| one["title"].as_str().expect("a title").to_owned()).collect::<Vec<_>>().join("\n")
    };
    let (problems, warnings) = (titles("problems"), titles("warnings"));
    for part in [
        "nothing provides `virtual-x`: other would, and is skipped: incompatible with machine m (not in COMPATIBLE_MACHINE); needed by top",
        "nothing provides `hello-imag`; needed by top",
        "nosum: https://localhost/a.tar.gz has no checksum, and BB_STRICT_CHECKSUM refuses that",
        "has no branch `old`, which its server was asked for",
        "recipes-x/x/absent_1.bbappend appends to a recipe that no layer has",
    ] {
        assert!(problems.contains(part), "{part}\n{problems}\n{}", done.err);
    }
    assert_eq!(problems.lines().count(), 5, "{problems}");
    assert!(warnings.contains("loose: https://localhost/b.tar.gz has no checksum"), "{warnings}");
    assert!(!format!("{problems}{warnings}").contains("summed"), "{problems}\n{warnings}");
    assert!(document["problems"].to_string().contains("did you mean hello-image?"), "{document}");
    assert_eq!(document["deep"]["branches"]["asked"], 2, "{document}");
    // Without a network no server is asked, and that is said.
    let done = deep(&world, &["gone", "--offline"]);
    done.expect_code(1).expect_err("not 1 without a network");
    assert!(!done.err.contains("has no branch"), "{}", done.err);
    // For people: a target of the config has its line.
    world.edit("smidr.yaml", "image: hello-image", "image: other");
    let done = deep(&world, &[]);
    done.expect_code(1).expect_err("error: other is skipped").expect_err("--> smidr.yaml:");
}

#[test]
fn recipes_that_cannot_be_parsed_are_told_once() {
    let Some(world) = World::with_project("check_deep::recipes_that_cannot_be_parsed_are_told_once") else { return };
    recipe(&world, "broken_1.bb", "inherit no-such-class\n");
    let done = deep(&world, &[]);
    done.expect_code(1).expect_one_error().expect_err("no-such-class");
    // A build would not come that far.
    world.edit("smidr.yaml", "image: hello-image", "imgae: hello-image");
    deep(&world, &[]).expect_code(2).expect_err("not parsed with BitBake");
}

fn git(folder: &Path, args: &[&str]) -> String {
    let mut git = std::process::Command::new(tool("git").expect("git"));
    git.current_dir(folder).args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(args);
    let done = git.stdin(std::process::Stdio::null()).output().expect("git runs");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}
