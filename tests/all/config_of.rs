//! `smidr __config-of`: a config of a git repository as a submission, for a schedule of the daemon.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{
    layers::git,
    support::{Done, World, has, skip},
};

/// A world whose project `p` is a repository, with a layer of its own and one of another repository.
struct Fetching {
    world: World,
    other: PathBuf,
}

impl Fetching {
    fn new(test: &str) -> Option<Self> {
        if !has("git") {
            skip(test, "there is no git here");
            return None;
        }
        let world = World::new();
        let project = world.init("p");
        let other = world.work.join("meta-other");
        fs::create_dir_all(other.join("conf")).expect("a folder");
        fs::write(other.join("conf/layer.conf"), "BBFILE_COLLECTIONS += \"other\"\n").expect("a file");
        commit_all(&other);
        let layers = format!(
            "path: ./layers/meta-hello\n  - name: meta-other\n    git: file://{}\n    branch: main\n    patches: [a.patch]",
            other.display()
        );
        world.edit("smidr.yaml", "path: ./layers/meta-hello", &layers);
        world.write("a.patch", "--- a/conf/layer.conf\n+++ b/conf/layer.conf\n@@ -1 +1,2 @@\n BBFILE_COLLECTIONS += \"other\"\n+# patched\n");
        // An image that is nothing but a file: it is named, not entered.
        let archive = world.work.join("image.tar");
        let mut tar = tar::Builder::new(fs::File::create(&archive).expect("a file"));
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        tar.append_data(&mut header, "etc/os-release", std::io::empty()).expect("an entry");
        tar.into_inner().expect("an archive");
        world.smidr().args(["image", "import"]).arg(&archive).args(["--name", "tiny"]).run().expect_code(0);
        world.edit_host("tiny");
        commit_all(&project);
        Some(Self { world, other })
    }

    fn url(&self) -> String {
        format!("file://{}", self.world.project().display())
    }

    fn run(&self, args: &[&str], given: &Value) -> Done {
        self.world.smidr().current_dir(&self.world.home).arg("__config-of").args(args).run_with(&given.to_string())
    }

    /// What is printed for a reference, with this granted.
    fn fetch(&self, args: &[&str], granted: &Value) -> Value {
        let given = json!({"logins": {"below": [self.url()]}, "granted": granted, "variables": {}});
        let url = self.url();
        let done = self.run(&[&[url.as_str()], args].concat(), &given);
        done.expect_code(0);
        done.json()
    }
}

fn commit_all(folder: &std::path::Path) -> String {
    if !folder.join(".git").is_dir() {
        git(folder, &["init", "-q", "-b", "main"]);
    }
    git(folder, &["add", "-A"]);
    git(folder, &["commit", "-qm", "x"]);
    git(folder, &["rev-parse", "HEAD"])
}

#[test]
fn a_config_in_git_becomes_a_submission_and_its_own_layers_git_layers() {
    let Some(at) = Fetching::new("config_of::a_config_in_git_becomes_a_submission_and_its_own_layers_git_layers")
    else {
        return;
    };
    let project = at.world.project();
    let commit = git(&project, &["rev-parse", "HEAD"]);
    git(&project, &["tag", "v1"]);
    let found = at.fetch(&["main", "smidr.yaml"], &json!([]));
    assert_eq!(found["commit"], commit);
    assert_eq!(found["pins"], Value::Null);
    let submission = &found["submission"];
    assert_eq!(submission["config"], fs::read_to_string(project.join("smidr.yaml")).expect("the config"));
    assert_eq!(submission["files"].as_array().map(Vec::len), Some(1), "its patch: {submission}");
    let own: Value = serde_json::from_str(submission["local"]["config"].as_str().expect("text")).expect("JSON");
    let layer = json!({
        "name": "meta-hello",
        "git": at.url(),
        "commit": commit,
        "sublayers": {"include": ["layers/meta-hello"], "exclude": []},
    });
    assert_eq!(own, json!({"layers": [layer]}));
    assert!(found["asks"].as_array().expect("asks").iter().any(|ask| ask["ask"] == "stored_image"), "{found}");
    // What the repository becomes later is not what a tag or a commit is.
    fs::write(project.join("README"), "more\n").expect("a file");
    let later = commit_all(&project);
    assert_eq!(at.fetch(&["main", "smidr.yaml"], &json!([]))["commit"], later);
    for fixed in ["v1", commit.as_str()] {
        assert_eq!(at.fetch(&[fixed, "smidr.yaml"], &json!([]))["commit"], commit, "{fixed}");
    }
    let wanted = at.fetch(&["--target=a", "--target=b", "main", "smidr.yaml"], &json!([]));
    assert_eq!(wanted["submission"]["request"]["targets"], json!(["a", "b"]));
    // Nothing was written where the config is.
    assert_eq!(git(&project, &["status", "--porcelain"]), "");
}

#[test]
fn the_digest_of_the_pins_changes_when_a_build_would() {
    let Some(at) = Fetching::new("config_of::the_digest_of_the_pins_changes_when_a_build_would") else { return };
    let url = at.url();
    let given = json!({"logins": {"below": [url]}});
    at.run(&["--pins", &url, "main", "smidr.yaml"], &given)
        .expect_code(2)
        .expect_err("the config asks for what is not granted")
        .expect_err("image: every recipe can read");
    let asks = at.fetch(&["main", "smidr.yaml"], &json!([]))["asks"].clone();
    let pins = |args: &[&str]| at.fetch(&[&["--pins"], args].concat(), &asks)["pins"].clone();
    let first = pins(&["main", "smidr.yaml"]);
    let lock = first["lock"].as_str().expect("text");
    let of_other = git(&at.other, &["rev-parse", "HEAD"]);
    assert!(lock.contains(&of_other) && lock.contains("a.patch") && lock.contains("tiny"), "{lock}");
    assert_eq!(pins(&["main", "smidr.yaml"]), first);
    assert_ne!(pins(&["--target=a", "main", "smidr.yaml"])["digest"], first["digest"]);
    fs::write(at.other.join("README"), "more\n").expect("a file");
    commit_all(&at.other);
    let second = pins(&["main", "smidr.yaml"]);
    assert_ne!(second["digest"], first["digest"]);
    at.world.append("# said differently\n");
    commit_all(&at.world.project());
    assert_ne!(pins(&["main", "smidr.yaml"])["digest"], second["digest"]);
}

#[test]
fn what_a_config_in_git_cannot_be_is_said() {
    let Some(at) = Fetching::new("config_of::what_a_config_in_git_cannot_be_is_said") else { return };
    let url = at.url();
    let given = json!({"logins": {"below": [url]}});
    let refused = |args: &[&str], code: i32, said: &str| {
        at.run(args, &given).expect_code(code).expect_err(said);
    };
    at.run(&[&url, "main", "smidr.yaml"], &json!({})).expect_code(2).expect_err("a config is not fetched from file://");
    refused(&["ssh://git@localhost:1/x", "main", "smidr.yaml"], 2, "a config is not fetched from");
    refused(&[&url, "nowhere", "smidr.yaml"], 2, "has no branch `nowhere`");
    refused(&[&url, "main", "other.yaml"], 2, "there is no ");
    refused(&[&url, "main", "../smidr.yaml"], 2, "is no path in a repository");
    refused(&["--variant=x", &url, "main", "smidr.yaml"], 2, "there is no variant `x`");
    at.world.edit("smidr.yaml", "./layers/meta-hello", "../meta-other");
    commit_all(&at.world.project());
    refused(&[&url, "main", "smidr.yaml"], 2, "the layer `meta-hello` is not in the repository: ../meta-other");
    at.world.edit("smidr.yaml", "../meta-other", "${HERE}/meta-other");
    commit_all(&at.world.project());
    refused(&[&url, "main", "smidr.yaml"], 2, "HERE");
}
