//! `smidr.local.yaml`: what one user has over the committed config, and layers that are edited in a working copy.

use std::fs;

use super::{
    layers::git,
    support::{Done, World, has, skip},
};

/// A world with a project under git whose one layer comes from a repository of this machine.
pub(crate) struct LocalWorld {
    pub world: World,
    commit: String,
}

impl LocalWorld {
    fn new(test: &str) -> Option<Self> {
        if !has("git") {
            skip(test, "there is no git here");
            return None;
        }
        let world = World::new();
        let project = world.init("p");
        let repository = world.work.join("meta-hello");
        fs::rename(project.join("layers/meta-hello"), &repository).expect("the layer moves");
        git(&repository, &["init", "-q", "-b", "main"]);
        git(&repository, &["add", "-A"]);
        git(&repository, &["commit", "-qm", "Begin"]);
        let commit = git(&repository, &["rev-parse", "HEAD"]);
        let source = format!("git: file://{}\n    branch: main", repository.display());
        world.edit("smidr.yaml", "path: ./layers/meta-hello", &source);
        git(&project, &["init", "-q"]);
        git(&project, &["add", "-A"]);
        git(&project, &["commit", "-qm", "Begin"]);
        Some(Self { world, commit })
    }

    fn url(&self) -> String {
        format!("file://{}", self.world.work.join("meta-hello").display())
    }

    fn smidr(&self, args: &[&str]) -> Done {
        self.world.smidr().args(args).run()
    }

    /// A file of the project; empty where it is not there.
    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.world.project().join(file)).unwrap_or_default()
    }

    fn plan(&self) -> serde_json::Value {
        self.smidr(&["plan", "--json"]).expect_code(0).json()["plan"].clone()
    }
}

#[test]
fn a_file_of_ones_own_lies_over_the_config() {
    let Some(local) = LocalWorld::new("local::a_file_of_ones_own_lies_over_the_config") else { return };
    local.smidr(&["layers", "sync"]).expect_code(0);
    let lock = local.text("smidr.lock");
    assert!(lock.contains(&local.commit) && local.text("smidr.local.lock").is_empty(), "{lock}");
    // A layer from a folder beside the project, another one from git, and a line of conf.
    let other = local.world.work.join("meta-more");
    fs::create_dir_all(other.join("conf")).expect("a folder");
    fs::write(other.join("conf/layer.conf"), "").expect("a file");
    git(&other, &["init", "-q", "-b", "main"]);
    git(&other, &["add", "-A"]);
    git(&other, &["commit", "-qm", "More"]);
    let more = git(&other, &["rev-parse", "HEAD"]);
    local.world.write(
        "smidr.local.yaml",
        &format!(
            "layers:\n  - {{name: meta-hello, path: ../meta-hello}}\n  - {{name: meta-more, git: 'file://{}', branch: main}}\nlocal_conf: MINE = \"1\"\n",
            other.display()
        ),
    );
    let plan = local.plan();
    assert_eq!(plan["layers"][0]["path"]["instead_of"], local.url());
    assert_eq!(plan["local"], serde_json::json!(["layers.meta-hello", "layers.meta-more", "local_conf"]));
    local
        .smidr(&["plan"])
        .expect_code(0)
        .expect_out("local      smidr.local.yaml is in effect: layers.meta-hello, layers.meta-more, local_conf")
        .expect_out(&format!(", edited here instead of {}", local.url()))
        .expect_out("conf       MINE = \"1\"");
    // What only it asks for is pinned beside it.
    local.smidr(&["layers", "sync"]).expect_code(0).expect_out("meta-more");
    assert_eq!(local.text("smidr.lock"), lock);
    let own = local.text("smidr.local.lock");
    assert!(own.contains(&more) && own.contains("../meta-hello") && own.contains("Not to be committed"), "{own}");
    assert_eq!(local.plan()["layers"][1]["git"]["pinned"]["commit"], more);
    // `init` has told git; without that, it is said.
    assert_eq!(git(&local.world.project(), &["status", "--porcelain", "--", "smidr.local.yaml"]), "");
    let check = local.smidr(&["check"]);
    check.expect_err("smidr.local.yaml is in effect");
    assert!(!check.err.contains("git does not ignore"), "{}", check.err);
    fs::remove_file(local.world.project().join(".gitignore")).expect("the file goes");
    let check = local.smidr(&["check"]);
    check.expect_err("warning: git does not ignore smidr.local.yaml, which is yours alone:  echo '/smidr.local.*' >>");
    // A build is submitted with both texts.
    let id = local.smidr(&["build", "--offline", "--detach"]).expect_code(0).out.trim().to_owned();
    let submission = fs::read_to_string(local.world.smidr.join("builds").join(&id).join("submission.json"));
    let submission: serde_json::Value = serde_json::from_str(&submission.expect("a submission")).expect("JSON");
    assert_eq!(submission["local"]["config"], local.text("smidr.local.yaml"));
    assert_eq!(submission["local"]["lock"], own);
    local.smidr(&["attach", &id]);
    // Its errors name it.
    local.world.write("smidr.local.yaml", "layers:\n  - {name: meta-hello, paht: ../meta-hello}\n");
    for command in ["check", "plan", "build"] {
        local
            .smidr(&[command])
            .expect_code(2)
            .expect_err("--> smidr.local.yaml:2:24")
            .expect_err("did you mean `path`?");
    }
    local.world.write("smidr.local.yaml", "layers:\n  - {name: meta-hello, path: ../nowhere}\n");
    local.smidr(&["check"]).expect_code(2).expect_err("--> smidr.local.yaml:2:30");
    // One that is a link quotes nothing of where it leads.
    fs::remove_file(local.world.project().join("smidr.local.yaml")).expect("the file goes");
    fs::write(local.world.work.join("key"), "hunter2\n").expect("a file");
    std::os::unix::fs::symlink("../key", local.world.project().join("smidr.local.yaml")).expect("a link");
    let linked = local.smidr(&["check"]);
    linked.expect_code(2).expect_err("smidr.local.yaml is a link, so nothing is quoted");
    assert!(!linked.err.contains("hunter2"), "{}", linked.err);
}

#[test]
fn the_committed_lock_holds_nothing_of_ones_own() {
    let Some(world) = World::with_project("local::the_committed_lock_holds_nothing_of_ones_own") else { return };
    let text = |file: &str| fs::read_to_string(world.project().join(file)).unwrap_or_default();
    let lock = |args: &[&str]| world.smidr().arg("lock").args(args).run();
    world.append("variants:\n  other: {local_conf: X = 1}\n");
    lock(&[]).expect_code(0);
    let committed = text("smidr.lock");
    for name in ["mine", "more"] {
        world.write(&format!("{name}/conf/layer.conf"), &format!("BBFILE_COLLECTIONS += \"{name}\"\n"));
        world.write(&format!("{name}/conf/machine/hello-x86-64.conf"), "");
    }
    world.write(
        "smidr.local.yaml",
        "layers: [{name: meta-hello, path: ./mine}]\nvariants: {other: {layers: [{name: meta-more, path: ./more}]}}\n",
    );
    let own = lock(&[]);
    own.expect_code(0).expect_err("smidr.local.yaml is in effect: layers.meta-hello, variants.other.layers.meta-more");
    assert_eq!(text("smidr.lock"), committed);
    let pinned = text("smidr.local.lock");
    assert!(pinned.contains("./mine") && pinned.contains("./more") && !pinned.contains("hosts"), "{pinned}");
    lock(&["--update", "meta-more"]).expect_code(0);
    assert_eq!((text("smidr.lock"), text("smidr.local.lock")), (committed.clone(), pinned));
    world.write("smidr.local.lock", "what?\n");
    lock(&[])
        .expect_code(2)
        .expect_one_error()
        .expect_err("smidr.local.lock is damaged")
        .expect_err("hint: without it");
    // With nothing left to pin, it goes.
    fs::remove_file(world.project().join("smidr.local.lock")).expect("the lock goes");
    lock(&[]).expect_code(0);
    world.write("smidr.local.yaml", "local_conf: MINE = 1\n");
    lock(&[]).expect_code(0);
    assert_eq!((text("smidr.lock"), text("smidr.local.lock")), (committed, String::new()));
}

/// A patch as `git format-patch` writes it, and one as `diff -u` does.
const MAIL: &str = "\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A Developer <developer@localhost>
Date: Mon, 5 Jan 2026 10:00:00 +0000
Subject: [PATCH] sub: a note

---
 sub/note | 1 +
 1 file changed, 1 insertion(+)
 create mode 100644 sub/note

diff --git a/sub/note b/sub/note
new file mode 100644
index 0000000..5626abf
--- /dev/null
+++ b/sub/note
@@ -0,0 +1 @@
+one
-- 
2.39.2
";
const PLAIN: &str = "--- a/sub/note\n+++ b/sub/note\n@@ -1 +1,2 @@\n one\n+two\n";

#[test]
fn a_layer_is_edited_and_given_back() {
    let Some(local) = LocalWorld::new("local::a_layer_is_edited_and_given_back") else { return };
    let world = &local.world;
    // A repository of several layers, of which one is used, with patches.
    let repository = world.work.join("meta-hello");
    for layer in ["sub", "other"] {
        let conf = repository.join(layer).join("conf");
        fs::create_dir_all(conf.join("machine")).expect("a folder");
        fs::write(conf.join("layer.conf"), format!("BBFILE_COLLECTIONS += \"{layer}\"\n")).expect("a file");
        fs::write(conf.join("machine/hello-x86-64.conf"), "").expect("a file");
    }
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "Sublayers"]);
    world.write("patches/mail.patch", MAIL);
    world.write("patches/plain.patch", PLAIN);
    world.edit(
        "smidr.yaml",
        "branch: main",
        "branch: main\n    sublayers: {include: [sub]}\n    patches: [patches/mail.patch, patches/plain.patch]",
    );
    local.smidr(&["layers", "sync"]).expect_code(0);
    let (lock, config) = (local.text("smidr.lock"), local.text("smidr.yaml"));
    // The mirror is enough.
    let gone = world.work.join("gone");
    fs::rename(&repository, &gone).expect("the repository goes");

    let edit = local.smidr(&["layers", "edit", "meta-hello"]);
    edit.expect_code(0)
        .expect_err("with the 2 patches of the config as commits, on the branch smidr-edit")
        .expect_err("smidr layers edit meta-hello --done")
        .expect_err("git sees it in the project; to leave it out:  echo '/layers/meta-hello' >>");
    let copy = world.project().join("layers/meta-hello");
    assert_eq!(edit.out.trim(), copy.display().to_string());
    assert_eq!(git(&copy, &["remote", "get-url", "origin"]), local.url());
    assert_eq!(git(&copy, &["log", "--format=%s", "-3"]), "Apply patches/plain.patch\nsub: a note\nSublayers");
    assert_eq!(git(&copy, &["status", "--porcelain", "--branch"]), "## smidr-edit");
    assert_eq!(fs::read_to_string(copy.join("sub/note")).expect("the note"), "one\ntwo\n");
    assert!(local.text("smidr.local.yaml").ends_with("layers:\n  - {name: meta-hello, path: ./layers/meta-hello}\n"));
    let plan = local.plan();
    assert_eq!(plan["layers"][0]["include"], serde_json::json!(["sub"]), "what is taken of it stays");
    assert_eq!(plan["layers"][0]["path"]["folder"], copy.display().to_string());
    for command in [&["plan"][..], &["layers", "ls"]] {
        local.smidr(command).expect_code(0).expect_out(&format!("edited here instead of {}", local.url()));
    }
    local.smidr(&["layers", "edit", "meta-hello"]).expect_code(2).expect_one_error().expect_err("has the layer");

    // Work in it, some of it not committed.
    fs::write(copy.join("sub/note"), "three\n").expect("a file");
    git(&copy, &["commit", "-qam", "sub: three"]);
    fs::write(copy.join("sub/unfinished"), "").expect("a file");
    // Nothing that the copy's configuration names is run by smidr.
    let trap = world.work.join("trap");
    for key in ["core.fsmonitor", "diff.external", "core.pager", "filter.x.clean", "diff.x.textconv", "gpg.program"] {
        git(&copy, &["config", key, &format!("touch '{}'; true", trap.display())]);
    }
    fs::create_dir_all(copy.join(".git/info")).expect("a folder");
    fs::write(copy.join(".git/info/attributes"), "* filter=x diff=x\n").expect("a file");
    let done = local.smidr(&["layers", "edit", "meta-hello", "--done"]);
    done.expect_code(0)
        .expect_out("sub: three")
        .expect_err("builds use the pinned `meta-hello` again")
        .expect_err("warning: not all is committed in it")
        .expect_err("--done --patch patches")
        .expect_err("push origin HEAD:BRANCH");
    assert_eq!(done.out.lines().count(), 1, "{}", done.out);
    assert!(!trap.exists(), "a program of the copy's configuration was run");
    assert!(copy.join("sub/unfinished").exists(), "the copy stays");
    for gone in ["smidr.local.yaml", "smidr.local.lock"] {
        assert!(!world.project().join(gone).exists(), "{gone}");
    }
    assert_eq!((local.text("smidr.lock"), local.text("smidr.yaml")), (lock, config));
    assert!(local.plan()["layers"][0]["git"]["pinned"]["commit"].is_string());

    // The patch makes the same of the pinned commit.
    let patched = local.smidr(&["layers", "edit", "meta-hello", "--done", "--patch", "patches"]);
    patched.expect_code(0).expect_err("patches: [./patches/0001-sub-three.patch]");
    assert!(!trap.exists(), "a program of the copy's configuration was run");
    world.edit("smidr.yaml", "patches/plain.patch]", "patches/plain.patch, ./patches/0001-sub-three.patch]");
    local.smidr(&["layers", "sync"]).expect_code(0).expect_out("and 3 patches");
    let listed = local.smidr(&["layers", "ls", "--json"]).expect_code(0).json();
    let checkout = std::path::PathBuf::from(listed["repositories"][0]["folder"].as_str().expect("a folder"));
    assert_eq!(fs::read_to_string(checkout.join("sub/note")).expect("the note"), "three\n");

    // It can be taken up again, and elsewhere: a folder beside the project that its user has named asks nothing.
    local.smidr(&["layers", "edit", "meta-hello"]).expect_code(0).expect_err("is taken up again");
    local.smidr(&["layers", "edit", "meta-hello", "--done"]).expect_code(0);
    local.smidr(&["layers", "edit", "meta-hello", "--into", "../elsewhere"]).expect_code(0);
    let elsewhere = world.work.join("elsewhere");
    assert!(local.text("smidr.local.yaml").contains(&elsewhere.display().to_string()));
    let judged = world.smidr().args(["plan", "--json"]).env("SMIDR_TRUST", "0").run().expect_code(0).json();
    let named = |list: &serde_json::Value| list.to_string().contains("elsewhere");
    assert!(named(&judged["asks"]) && !named(&judged["refused"]), "{judged}");
    for (name, said) in [("meta-helo", "did you mean `meta-hello`?"), ("nothing-like-it", "its layers from git: ")] {
        let _ = local.smidr(&["layers", "edit", "meta-hello", "--done"]);
        local.smidr(&["layers", "edit", name]).expect_code(2).expect_one_error().expect_err(said);
    }
    local.smidr(&["layers", "edit", "nothing", "--done"]).expect_code(2).expect_err("is not being edited");
}
