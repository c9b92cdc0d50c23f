//! `smidr layers diff`: branches that advanced, were reset or removed, and folders of this machine.

use std::fs;

use smidr::{layers::Changes, plan::PlannedGit};

use super::{
    checkout_fixture::{object, try_git},
    fetch_fixture::{Origin, Yard, git},
    support::{Done, World, has, skip},
};

const CONF: &str = "BBPATH .= \":${LAYERDIR}\"\nBBFILE_COLLECTIONS += \"NAME\"\nBBFILE_PATTERN_NAME = \"\"\nLAYERSERIES_COMPAT_NAME = \"hello\"\n";

/// A project whose layers are `meta-hello` and `meta-second`, each from a git repository. Nothing is ever built.
struct Project {
    world: World,
    hello: Origin,
    second: Origin,
}

impl Project {
    fn new(test: &str) -> Option<Self> {
        if !has("git") {
            skip(test, "no git here");
            return None;
        }
        let world = World::new();
        world.init("p");
        let repository = |name: &str| Origin { path: world.work.join("repositories").join(name) };
        let (hello, second) = (repository("meta-hello"), repository("meta-second"));
        fs::create_dir_all(second.path.join("conf")).expect("a folder");
        fs::rename(world.project().join("layers/meta-hello"), &hello.path).expect("the layer moves");
        fs::write(second.path.join("conf/layer.conf"), CONF.replace("NAME", "second")).expect("a layer");
        for origin in [&hello, &second] {
            origin.git(&["init", "-q", "-b", "main"]);
            origin.commit("begin", "x");
        }
        world.edit("smidr.yaml", "path: ./layers/meta-hello", &format!("git: {}\n    branch: main", hello.url()));
        let other = format!("  - {{name: meta-second, git: '{}', branch: main}}\nbuild:", second.url());
        world.edit("smidr.yaml", "\nbuild:", &format!("\n{other}"));
        let made = Self { world, hello, second };
        made.pin();
        Some(made)
    }

    /// Layers alone: `smidr lock` would make the image as well.
    fn pin(&self) {
        let _ = fs::remove_file(self.world.project().join("smidr.lock"));
        self.smidr(&["layers", "sync"]).expect_code(0);
    }

    fn smidr(&self, args: &[&str]) -> Done {
        self.world.smidr().args(args).run()
    }

    fn diff(&self) -> Done {
        self.smidr(&["layers", "diff"])
    }
}

/// Removes commits that no branch has any more.
fn forget(origin: &Origin) {
    origin.git(&["reflog", "expire", "--expire=now", "--all"]);
    origin.git(&["gc", "-q", "--prune=now"]);
}

#[test]
fn a_reset_branch() {
    let Some(project) = Project::new("layers_diff::a_reset_branch") else { return };
    let first = project.hello.at("HEAD");
    for file in ["one", "two"] {
        project.hello.commit(file, "x");
    }
    project.pin();
    let last = project.hello.at("HEAD");
    project.hello.git(&["reset", "-q", "--hard", "HEAD~2"]);
    let diff = project.diff();
    let line = format!("{:<24} {} -> {}\n", "meta-hello", last.short(), first.short());
    diff.expect_code(0).expect_out(&line).expect_out("it went back").expect_out("one: x").expect_out("two: x");
    assert!(!diff.out.contains("begin: x") && !diff.out.contains("further back"), "{}", diff.out);
    let json = project.smidr(&["layers", "diff", "--json"]).expect_code(0).json()["repositories"][0].clone();
    assert_eq!((&json["total"], &json["gone_total"], &json["whole"]), (&0.into(), &2.into(), &true.into()), "{json}");
    assert_eq!(json["gone"][0]["subject"], "two: x", "{json}");
    assert_eq!((&json["rewritten"], &json["lost"]), (&false.into(), &false.into()), "{json}");
}

#[test]
fn a_commit_that_the_server_lost() {
    let Some(project) = Project::new("layers_diff::a_commit_that_the_server_lost") else { return };
    project.hello.commit("more", "x");
    let old = project.hello.commit("lost", "x");
    project.pin();
    project.hello.git(&["reset", "-q", "--hard", "HEAD~1"]);
    project.hello.commit("other", "x");
    forget(&project.hello);
    // The commit is here, but not its history.
    let diff = project.diff();
    diff.expect_code(0).expect_out("does not come from the old one").expect_out("other: x");
    assert!(!diff.out.contains("begin: x"), "{}", diff.out);
    // The commit is not here.
    fs::remove_dir_all(project.world.smidr.join("layers")).expect("a fresh store");
    let diff = project.diff();
    diff.expect_code(0).expect_out(&format!("  {} is not there any more", old.short()));
    assert!(!diff.out.contains(": x") && !diff.out.contains("further back"), "{}", diff.out);
    let json = project.smidr(&["layers", "diff", "--json"]).expect_code(0).json()["repositories"][0].clone();
    assert_eq!((&json["lost"], &json["whole"], &json["total"]), (&true.into(), &false.into(), &0.into()), "{json}");
}

#[test]
fn an_unreachable_repository_hides_no_other() {
    let Some(project) = Project::new("layers_diff::an_unreachable_repository_hides_no_other") else { return };
    project.world.append("variants:\n  a: {description: a}\n");
    project.second.commit("news", "x");
    let gone = project.hello.path.with_extension("gone");
    fs::rename(&project.hello.path, &gone).expect("moved");
    let diff = project.diff();
    diff.expect_code(4).expect_one_error().expect_err("there is no git repository at").expect_err("hint:");
    diff.expect_out("news: x").expect_out("-> ?: there is no git repository at");
    assert_eq!(diff.out.matches("meta-hello ").count(), 1, "said once for all variants: {}", diff.out);
    let done = project.smidr(&["layers", "diff", "--json"]);
    let json = done.expect_code(4).json()["repositories"].clone();
    assert_eq!(json.as_array().map(Vec::len), Some(2), "{json}");
    assert!(json[0]["error"].as_str().is_some_and(|error| error.starts_with("there is no git")), "{json}");
    assert_eq!((&json[1]["error"], &json[1]["total"]), (&serde_json::Value::Null, &1.into()), "{json}");
}

#[test]
fn folders_of_this_machine() {
    let Some(project) = Project::new("layers_diff::folders_of_this_machine") else { return };
    let path = project.hello.path.display().to_string();
    let git = format!("git: {}\n    branch: main", project.hello.url());
    project.world.edit("smidr.yaml", &git, &format!("path: {path}"));
    project.pin();
    let old = project.hello.at("HEAD").short();
    let ls = || project.smidr(&["layers", "ls"]);
    ls().expect_code(0).expect_out(&format!("{path}, {old}\n"));
    let diff = project.diff();
    diff.expect_code(0).expect_err("nothing has changed");
    let new = project.hello.commit("more", "x").short();
    let line = |what: &str| format!("{:<24} {what} (path)\n", "meta-hello");
    assert_eq!(project.diff().expect_code(0).out, line(&format!("{old} -> {new}")));
    fs::write(project.hello.path.join("uncommitted"), "x").expect("a file");
    assert_eq!(project.diff().expect_code(0).out, line(&format!("{old} -> {new} and changes")));
    ls().expect_code(0).expect_out(&format!("{path}, {new} and changes\n"));
    let before = project.world.work.join("before.lock");
    fs::copy(project.world.project().join("smidr.lock"), &before).expect("a copy");
    project.pin();
    project.diff().expect_code(0).expect_err("nothing has changed");
    let between = project.world.smidr().args(["layers", "diff", "--json"]).arg(&before).run();
    let json = between.expect_code(0).json()["repositories"][0].clone();
    assert_eq!((&json["from_dirty"], &json["to_dirty"]), (&false.into(), &true.into()), "{json}");
    assert_eq!(json["also"], "other changes that are not committed", "{json}");
    let between = project.world.smidr().args(["layers", "diff"]).arg(&before).run();
    assert_eq!(between.expect_code(0).out, line(&format!("{old} -> {new} and changes")));
    // A missing folder.
    fs::rename(&project.hello.path, project.hello.path.with_extension("gone")).expect("moved");
    project.diff().expect_code(2).expect_one_error().expect_out("-> ?: the layer `meta-hello` is not there");
}

#[test]
fn history_is_fetched_only_as_far_as_needed() {
    let Some(yard) = Yard::new("layers_diff::history_is_fetched_only_as_far_as_needed") else { return };
    let origin = yard.repository("meta-x");
    let many: String = (1..=400)
        .map(|n| {
            format!(
                "commit refs/heads/main\ncommitter T <t@example.com> {} +0000\ndata 1\nx\n{}\n",
                1_800_000_000 + n,
                if n == 1 { "from refs/heads/main^0" } else { "" }
            )
        })
        .collect();
    assert!(try_git(&origin.path, &["fast-import", "--quiet", "--force"], many.as_bytes()).status.success());
    let wanted = origin.branch("main");
    let (mirror, new) = yard.pin(&wanted).expect("fetched");
    let ask = |from: &str| -> Changes {
        yard.mirrors().changes(&wanted, &origin.at(from), &new, 3, yard.access(true)).expect("told")
    };
    assert_eq!((ask("main~5").total, ask("main~5").is_whole), (5, true));
    let here = || git(mirror.path(), &["rev-list", "--count", &new.to_string()]);
    assert_eq!(here(), "200");
    assert_eq!((ask("main~300").total, ask("main~300").is_whole), (300, true));
    assert_eq!(yard.warned(), "");
}

/// Commits that git never wrote, or not for long: git log shows them, and what lies behind them.
#[test]
fn odd_commits_are_shown() {
    let Some(yard) = Yard::new("layers_diff::odd_commits_are_shown") else { return };
    let origin = yard.repository("meta-x");
    let old = origin.at("main");
    let mut tip = origin.commit("ordinary", "x").to_string();
    let tree = origin.git(&["rev-parse", "main^{tree}"]);
    let odd = [
        "A <a@x> 1700000000 +51800",
        "NoMail 1700000000 +0000",
        "A <a@x> -1 +0000",
        "A <a@x> 18446744073709551614 +0000",
        "A <a@x>",
        "A <a@x> Tue Jan 1 00:00:00 2008",
        " <> 0 +0000",
        "A<g <A<g@x>> 1282910542 +0200",
    ];
    for (number, who) in odd.iter().enumerate() {
        let head = format!("tree {tree}\nparent {tip}\nauthor {who}\ncommitter {who}\n");
        let text = format!("{head}encoding ISO-8859-1\n\nodd ? {number}\n");
        let text: Vec<u8> = text.bytes().map(|byte| if byte == b'?' { 0xe9 } else { byte }).collect();
        tip = object(&origin.path, "commit", &text);
        // A tag whose tagger is as odd.
        let tag = format!("object {tip}\ntype commit\ntag t{number}\ntagger {who}\n\nt\n");
        let tag = object(&origin.path, "tag", tag.as_bytes());
        origin.git(&["update-ref", &format!("refs/tags/t{number}"), &tag]);
        let wanted = PlannedGit { tag: Some(format!("t{number}")), ..origin.wanted() };
        assert_eq!(yard.pin(&wanted).expect("a tag").1.to_string(), tip, "{who}");
    }
    origin.git(&["update-ref", "refs/heads/main", &tip]);
    let wanted = origin.branch("main");
    let (_, new) = yard.pin(&wanted).expect("fetched");
    let found = yard.mirrors().changes(&wanted, &old, &new, 20, yard.access(true)).expect("told");
    assert_eq!((found.total, found.is_whole, found.is_rewritten), (odd.len() + 1, true, false), "{found:?}");
    let subjects: Vec<&str> = found.commits.iter().map(|change| change.subject.as_str()).collect();
    for number in 0..odd.len() {
        assert!(subjects.contains(&format!("odd \u{e9} {number}").as_str()), "{subjects:?}");
    }
    assert!(subjects.contains(&"ordinary: x"), "{subjects:?}");
    assert_eq!(yard.warned(), "");
}

#[test]
fn no_address_shows_its_password() {
    let world = World::new();
    world.init("p");
    let with = |who: &str| format!("[{{name: q, git: 'https://{who}@host.invalid/q', branch: main}}]");
    world.edit("smidr.yaml", "\nbuild:", &format!("\nvariants:\n  v:\n    layers: {}\nbuild:", with("me:hunter2")));
    let short = format!("  w:\n    layers: {}\nbuild:", with("me:ab1"));
    world.edit("smidr.yaml", "\nbuild:", &format!("\n{short}"));
    for args in [
        &["layers", "ls"][..],
        &["layers", "ls", "--json"],
        &["plan", "--variant", "v"],
        &["plan", "--variant", "w", "--json"],
        &["plan", "--variant", "w"],
    ] {
        let done = world.smidr().args(args).run();
        done.expect_code(0).expect_out("host.invalid/q");
        assert!(!done.out.contains("hunter2") && !done.out.contains(":ab1"), "{args:?}: {}", done.out);
    }
}
