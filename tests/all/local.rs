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
