//! Projects that a client has sent: their worker writes them down, and nothing of this machine gets into them.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    layers::git,
    support::{Done, LONG, World, has, skip, wait_for},
};

const COMMIT: &str = "0123456789012345678901234567890123456789";

/// A daemon's SMIDR_HOME, and the project `p` of a client, which the daemon does not see.
struct Remote {
    world: World,
    count: u32,
}

impl Remote {
    fn new(test: &str) -> Option<Self> {
        Some(Self { world: World::with_project(test)?, count: 0 })
    }

    /// The folder of the project, as the daemon keeps it.
    fn folder(&self) -> PathBuf {
        self.world.smidr.join("projects/acme/p")
    }

    /// A file of the layer there.
    fn sent(&self, file: &str) -> PathBuf {
        self.folder().join(".layers/meta-hello").join(file)
    }

    fn config(&self) -> String {
        fs::read_to_string(self.world.project().join("smidr.yaml")).expect("a config")
    }

    /// Sends a blob, and gives what a submission says of it.
    fn send(&self, name: &str, archive: &[u8]) -> Value {
        let digest = hex::encode(Sha256::digest(archive));
        let blobs = self.world.smidr.join("daemon/blobs");
        fs::create_dir_all(&blobs).expect("a folder");
        fs::write(blobs.join(&digest), archive).expect("a blob");
        json!({"name": name, "digest": format!("sha256:{digest}"), "size": archive.len(), "commit": COMMIT, "dirty": true})
    }

    fn layer(&self) -> Value {
        self.send("meta-hello", &archive(&self.world.project().join("layers/meta-hello")))
    }

    /// A submission of the project, as a daemon would write it; `more` changes it.
    fn submission(&mut self, more: Value) -> Value {
        self.count += 1;
        let mut submission = json!({
            "version": 1, "id": format!("acme-{:08x}", self.count),
            "origin": {"from": "remote", "customer": "acme", "config": self.folder().join("smidr.yaml")},
            "request": {
                "targets": [], "machine": null, "variant": null, "fetch_only": false, "locked": false, "offline": false,
                "clean": false, "bitbake_args": [],
            },
            "config": self.config(), "config_is_link": false, "lock": null, "files": [], "recipe": null, "variables": {}, "granted": [],
            "logins": {"below": []}, "share": null, "group": null, "wait": false, "layers": [self.layer()],
        });
        for (name, value) in more.as_object().expect("fields") {
            submission[name] = value.clone();
        }
        submission
    }

    /// Runs a submission. Gives its id.
    fn run(&self, submission: &Value, environment: &[(&str, &str)]) -> (String, Done) {
        let id = submission["id"].as_str().expect("an id").to_owned();
        let folder = self.world.smidr.join("builds").join(&id);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("submission.json"), submission.to_string()).expect("a submission");
        // As a daemon would start it: not in the project.
        let smidr = self.world.smidr().args(["__worker", &id]).current_dir(Path::new("/"));
        let done = environment.iter().fold(smidr, |smidr, (name, value)| smidr.env(name, value)).run();
        (id, done)
    }

    /// Builds what `more` makes of the project.
    #[track_caller]
    fn builds(&mut self, more: Value) -> String {
        let submission = self.submission(more);
        let (id, done) = self.run(&submission, &[]);
        assert_eq!(done.code, Some(0), "{done:?}\n{}", self.status(&id));
        id
    }

    fn status(&self, id: &str) -> Value {
        self.world.smidr().args(["status", id, "--json"]).run().json()["build"].clone()
    }

    /// Why a build failed.
    #[track_caller]
    fn refused(&mut self, more: Value) -> String {
        let submission = self.submission(more);
        let (id, done) = self.run(&submission, &[]);
        assert_ne!(done.code, Some(0), "{done:?}");
        self.status(&id)["outcome"]["reasons"].to_string()
    }

    fn journal(&self, id: &str) -> String {
        self.world.smidr().args(["logs", id, "--json"]).run().expect_code(0).out.clone()
    }
}

/// A tar archive of a folder's files.
fn archive(folder: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
    for file in entries.filter(|entry| entry.file_type().is_file()) {
        let name = file.path().strip_prefix(folder).expect("inside");
        let content = fs::read(file.path()).expect("a file");
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, &*content).expect("packed");
    }
    archive.into_inner().expect("an archive")
}

/// The tasks that have run.
fn ran(journal: &str) -> Vec<String> {
    let records = journal.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let tasks = records.filter(|record| record["event"] == "task_started");
    let word = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    tasks.map(|record| format!("{}:{}", word(&record, "recipe"), word(&record, "task"))).collect()
}

#[test]
fn a_project_that_was_sent_is_built_and_built_again() {
    let Some(mut remote) = Remote::new("remote::a_project_that_was_sent_is_built_and_built_again") else { return };
    // Where the client has its layer means nothing here.
    remote.world.edit("smidr.yaml", "path: ./layers/meta-hello", "path: ../../elsewhere/meta-hello");
    remote.world.write("layers/meta-hello/old/file", "old\n");
    let greet = "recipes-hello/libgreet/files/greet.c";
    let first = remote.builds(json!({}));
    let journal = remote.journal(&first);
    assert!(journal.contains("path, 01234567 and changes"), "{journal}");
    assert!(ran(&journal).contains(&"libgreet:do_compile".into()), "{:?}", ran(&journal));
    let lock = fs::read_to_string(remote.folder().join("smidr.lock")).expect("a lock");
    assert!(lock.contains(COMMIT) && lock.contains("../../elsewhere/meta-hello"), "{lock}");
    assert_eq!(fs::read_to_string(remote.folder().join("smidr.yaml")).expect("a config"), remote.config());
    // Its customer's caches, and no others.
    assert_eq!(World::names(&remote.world.smidr.join("domains")), ["customer.acme"]);
    assert_eq!(World::names(&remote.world.smidr.join("downloads")), [""; 0]);
    // The same again: nothing is written, and nothing is needed.
    let before = remote.sent(greet).metadata().expect("a file");
    fs::remove_dir_all(remote.world.smidr.join("daemon/blobs")).expect("removed");
    remote.builds(json!({"lock": lock}));
    let same = remote.sent(greet).metadata().expect("a file");
    assert_eq!((same.ino(), same.mtime_nsec()), (before.ino(), before.mtime_nsec()));
    // One file is another, one is new, one is gone.
    let other = remote.sent("conf/layer.conf").metadata().expect("a file");
    remote.world.edit(&format!("layers/meta-hello/{greet}"), "Hello, %s!", "Good day, %s!");
    remote.world.write("layers/meta-hello/new/file", "new\n");
    fs::remove_file(remote.world.project().join("layers/meta-hello/old/file")).expect("removed");
    fs::write(remote.folder().join("smidr.local.yaml"), "name: left\n").expect("a file");
    let again = remote.builds(json!({}));
    let tasks = ran(&remote.journal(&again));
    assert!(
        tasks.contains(&"libgreet:do_compile".into()) && !tasks.contains(&"host-libc:do_package".into()),
        "{tasks:?}"
    );
    let kept = remote.sent("conf/layer.conf").metadata().expect("a file");
    assert_eq!((kept.mtime(), kept.mtime_nsec()), (other.mtime(), other.mtime_nsec()));
    let changed = remote.sent(greet).metadata().expect("a file");
    assert!(changed.mtime() > before.mtime(), "BitBake would not see it");
    assert!(remote.sent("new/file").is_file() && !remote.sent("old").exists());
    assert_eq!(World::names(&remote.folder()), [".layers", ".layers.json", "smidr.lock", "smidr.yaml"]);
    assert_eq!(World::names(&remote.folder().join(".layers")), ["meta-hello"]);
    // Its sandbox shows what was sent, from any folder; nothing in it is changed there.
    let shell = remote.world.smidr().args(["shell", &again]).current_dir(&remote.world.work);
    let typed = "cat $BUILDDIR/conf/bblayers.conf && cd $(sed -n 's/.* \"\\?\\([^ ]*meta-hello\\).*/\\1/p' $BUILDDIR/conf/bblayers.conf) && cat new/file; touch new/other conf/other";
    let done = shell.run_with(typed);
    assert!(done.out.contains("new\n") && done.err.contains("Read-only file system"), "{done:?}");
    assert!(!remote.sent("new/other").exists(), "{done:?}");
    // Its workspace belongs to a config that is there.
    let done = remote.world.smidr().args(["clean", "--dry-run"]).current_dir(&remote.world.work).run();
    assert!(!format!("{}{}", done.expect_code(0).out, done.err).contains("workspaces/p-"), "{done:?}");
}

#[test]
fn what_was_not_sent_is_an_error_and_read_nowhere() {
    let Some(mut remote) = Remote::new("remote::what_was_not_sent_is_an_error_and_read_nowhere") else { return };
    let why = remote.refused(json!({"layers": []}));
    assert!(why.contains("the layer `meta-hello` is a folder of the client's machine, and was not sent"), "{why}");
    let layer = remote.layer();
    fs::remove_dir_all(remote.world.smidr.join("daemon/blobs")).expect("removed");
    let submission = remote.submission(json!({"layers": [layer]}));
    fs::remove_dir_all(remote.world.smidr.join("daemon/blobs")).expect("removed");
    let (id, done) = remote.run(&submission, &[]);
    assert_eq!(done.code, Some(2), "{done:?}");
    let why = remote.status(&id)["outcome"]["reasons"].to_string();
    assert!(why.contains("the files of the layer `meta-hello` are not here"), "{why}");
    // Of an archive that leads out, nothing stays.
    let mut hostile = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    hostile.append_link(&mut header, "conf", "../../../../..").expect("packed");
    let layer = remote.send("meta-hello", &hostile.into_inner().expect("an archive"));
    let why = remote.refused(json!({"layers": [layer]}));
    assert!(why.contains("is a link that leads out of the layer"), "{why}");
    assert!(!remote.sent("").exists());
    // A project elsewhere would overwrite what is not a client's.
    let place = json!({"from": "remote", "customer": "acme", "config": remote.world.project().join("smidr.yaml")});
    let why = remote.refused(json!({"origin": place}));
    assert!(why.contains("is no config of a project that was sent"), "{why}");
    // Files of this machine, which the client may only name.
    let secret = remote.world.home.join("secret");
    fs::write(&secret, "hunter2\n").expect("a file");
    let layers = format!(
        "  - name: meta-hello\n    git: https://localhost/x\n    branch: main\n    patches: [{}]",
        secret.display()
    );
    let config = remote.config().replace("  - name: meta-hello\n    path: ./layers/meta-hello", &layers);
    let why = remote.refused(json!({"config": config}));
    assert!(why.contains("is a file of the client's machine, and was not sent"), "{why}");
    let recipes = remote.world.smidr.join("recipes");
    fs::create_dir_all(&recipes).expect("a folder");
    fs::write(recipes.join("mine.yaml"), "base: {image: hello}\n").expect("a rootfs recipe");
    let config = remote.config().replace("recipe: hello", "recipe: mine");
    let why = remote.refused(json!({"config": config}));
    assert!(why.contains("there is no rootfs recipe `mine`"), "{why}");
    let why = remote.refused(json!({"config": format!("{}  netrc: true\n", remote.config())}));
    assert!(why.contains("was not granted: credentials"), "{why}");
    assert!(!why.contains(&remote.world.home.display().to_string()), "{why}");
}

#[test]
fn patches_and_a_rootfs_recipe_are_nowhere_but_in_the_submission() {
    let name = "remote::patches_and_a_rootfs_recipe_are_nowhere_but_in_the_submission";
    if !has("git") {
        return skip(name, "there is no git here");
    }
    let Some(mut remote) = Remote::new(name) else { return };
    let layer = remote.world.work.join("extra");
    let recipe = layer.join("recipes-test/told/told.bb");
    let told = |word: &str| {
        let text = format!(
            "LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\ndo_act() {{\n    echo {word}\n    cat /opt/tool\n}}\n"
        );
        fs::write(&recipe, text).expect("a recipe");
        git(&layer, &["add", "-A"]);
    };
    for folder in ["conf", "recipes-test/told"] {
        fs::create_dir_all(layer.join(folder)).expect("folders");
    }
    let conf = "BBFILES += \"${LAYERDIR}/recipes-*/*/*.bb\"\nBBFILE_COLLECTIONS += \"extra\"\nBBFILE_PATTERN_extra = \"^${LAYERDIR}/\"\n";
    fs::write(layer.join("conf/layer.conf"), conf).expect("a layer");
    git(&layer, &["init", "-q", "-b", "main"]);
    told("one");
    git(&layer, &["commit", "-qm", "Begin"]);
    let mut patches = Vec::new();
    for word in ["two", "three"] {
        told(word);
        patches.push(git(&layer, &["diff", "--cached"]) + "\n");
        git(&layer, &["commit", "-qm", word]);
    }
    git(&layer, &["reset", "-q", "--hard", "HEAD~2"]);
    let url = format!("file://{}", layer.display());
    let extra = format!(
        "layers:\n  - name: extra\n    git: {url}\n    branch: main\n    patches: [../../two.patch, /nowhere/three.patch]\n"
    );
    let config = remote.config().replace("layers:\n", &extra).replace("recipe: hello", "recipe: ../own.yaml");
    let encode = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.encode(bytes)
    };
    let file =
        |path: &str, content: &str| json!({"path": path, "content": encode(content.as_bytes()), "executable": false});
    let own = "base: {image: hello}\nfiles: [{source: tool, dest: /opt/tool}]\n";
    let copies = json!({"tool": [file("", "sent tool\n")]});
    // As the client has it: the text, then each file that it copies.
    let digest = recipe_digest(&remote.world, own);
    let id = remote.builds(json!({
        "config": config,
        "files": [file("../../two.patch", &patches[0]), file("/nowhere/three.patch", &patches[1])],
        "recipe": {"from": "file", "text": file("/nowhere/own.yaml", own), "digest": digest, "copies": copies},
        "granted": [
            {"ask": "local_repository", "url": url, "path": layer},
        ],
        "request": {
            "targets": ["told"], "machine": null, "variant": null, "fetch_only": false, "locked": false, "offline": false, "clean": false,
            "bitbake_args": [],
        },
    }));
    let log = remote.world.smidr().args(["logs", &id, "--task", "told:do_act"]).run();
    log.expect_code(0).expect_out("three\n").expect_out("sent tool");
}

/// The digest of a rootfs recipe that copies a file `tool`, as smidr itself submits it.
fn recipe_digest(world: &World, text: &str) -> Value {
    fs::write(world.project().join("own.yaml"), text).expect("a rootfs recipe");
    fs::write(world.project().join("tool"), "sent tool\n").expect("a file");
    let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let other = world.project().join("other.yaml");
    fs::write(&other, config.replace("recipe: hello", "recipe: own")).expect("a config");
    let done = world.smidr().args(["--config", "other.yaml", "build", "--detach", "--target", "nothing"]).run();
    let folder = world.smidr.join("builds").join(done.expect_code(0).out.trim_end());
    let submission = fs::read_to_string(folder.join("submission.json")).expect("a submission");
    let submission: Value = serde_json::from_str(&submission).expect("JSON");
    for file in ["own.yaml", "tool", "other.yaml"] {
        fs::remove_file(world.project().join(file)).expect("removed");
    }
    submission["recipe"]["digest"].clone()
}

#[test]
fn nothing_of_the_daemons_environment_gets_in() {
    let Some(mut remote) = Remote::new("remote::nothing_of_the_daemons_environment_gets_in") else { return };
    let task = "LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\n\
        do_act[network] = \"1\"\ndo_act() {\n    env\n}\nexport TOKEN\nexport DAEMON_TOKEN\nexport PLACE\nexport http_proxy\nexport https_proxy\n";
    remote.world.write("layers/meta-hello/recipes-test/told/told.bb", task);
    let config = remote.config().replace("image: hello-image", "image: told")
        + "  env: [DAEMON_TOKEN, TOKEN]\nenv: {PLACE: \"${HOME:-nowhere}+${WHERE}\", OTHER: \"${DAEMON_TOKEN:-unset}\"}\n";
    let variable = |name: &str, key: &str| json!({"ask": "variable", "name": name, "key": key});
    let granted = [
        variable("DAEMON_TOKEN", "host.env"),
        variable("TOKEN", "host.env"),
        variable("WHERE", "env.PLACE"),
        variable("DAEMON_TOKEN", "env.OTHER"),
    ];
    fs::write(remote.world.home.join(".gitconfig"), "[user]\nname = hunter2\nemail = hunter2@localhost\n")
        .expect("a file");
    let variables = json!({"TOKEN": "sent-token", "WHERE": "here", "SMIDR_HOME": "/nowhere", "PATH": "/nowhere"});
    let environment = [
        ("DAEMON_TOKEN", "hunter2-of-the-daemon"),
        ("WHERE", "there"),
        ("GIT_AUTHOR_NAME", "hunter2 the operator"),
        ("http_proxy", "http://user:hunter2-of-the-proxy@localhost:1"),
        ("https_proxy", "http://localhost:2"),
    ];
    let more = json!({"config": config, "variables": variables, "granted": granted});
    let submission = remote.submission(more.clone());
    let (id, done) = remote.run(&submission, &environment);
    assert_eq!(done.code, Some(0), "{done:?}\n{}", remote.status(&id));
    let log = remote.world.smidr.join("workspaces").join(&World::names(&remote.world.smidr.join("workspaces"))[0]);
    let log = fs::read_to_string(log.join("build/tmp/work/told/1.0-r0/temp/log.do_act")).expect("the log of the task");
    for line in ["PLACE=nowhere+here", "https_proxy=http://localhost:2", "TOKEN=sent-token"] {
        assert!(log.lines().any(|known| known == line), "{line} in {log}");
    }
    assert!(!log.contains("DAEMON_TOKEN") && !log.contains("hunter2"), "{log}");
    let workspaces = remote.world.smidr.join("workspaces");
    let written = walkdir::WalkDir::new(&workspaces).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    for file in written {
        let text = fs::read(file.path()).unwrap_or_default();
        assert!(!text.windows(7).any(|part| part == b"hunter2"), "{}", file.path().display());
    }
    // What is not granted stops it, whatever this machine's own trust says.
    let mut ungranted = more;
    ungranted["granted"] = json!([]);
    let why = remote.refused(ungranted);
    assert!(why.contains("was not granted"), "{why}");
    // Other projects' caches are an ask; without it the customer's own are used.
    remote.world.append("cache: team\n");
    let id = remote.builds(json!({}));
    assert_eq!(World::names(&remote.world.smidr.join("domains")), ["customer.acme"], "{id}");
    remote.builds(json!({"granted": [{"ask": "shared_cache", "domain": "team"}]}));
    assert_eq!(World::names(&remote.world.smidr.join("domains")), ["customer.acme", "team"]);
    // Those that the policy gives a customer are no ask.
    let config = remote.config().replace("cache: team\n", "");
    let file = remote.folder().join("smidr.yaml");
    let origin = json!({"from": "remote", "customer": "acme", "caches": "joined", "config": file});
    remote.builds(json!({"config": config, "origin": origin}));
    assert_eq!(World::names(&remote.world.smidr.join("domains")), ["customer.acme", "joined", "team"]);
}

#[test]
fn layers_stay_as_they_are_while_a_build_uses_them() {
    let Some(mut remote) = Remote::new("remote::layers_stay_as_they_are_while_a_build_uses_them") else { return };
    remote.world.append("variants: {other: {}}\n");
    let variant = || {
        json!({
            "targets": ["host-libc"], "machine": null, "variant": "other", "fetch_only": false, "locked": false, "offline": false,
            "clean": false, "bitbake_args": [],
        })
    };
    remote.builds(json!({"request": variant()}));
    // As a build of another variant holds it.
    let name = hex::encode(Sha256::digest(remote.folder().as_os_str().as_encoded_bytes()));
    let lock = remote.world.smidr.join("locks").join(format!("project-{name:.16}.lock"));
    let held = fs::File::open(lock).expect("the lock of the project");
    held.lock_shared().expect("a lock");
    remote.builds(json!({"request": variant()}));
    remote.world.write("layers/meta-hello/new/file", "new\n");
    let why = remote.refused(json!({"request": variant()}));
    assert!(why.contains("are in use by") && why.contains("and this build brings others"), "{why}");
    assert!(!remote.sent("new/file").exists());
    // One that waits gets its turn.
    let submission = remote.submission(json!({"request": variant(), "wait": true}));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| remote.run(&submission, &[]).1.code);
        let journal =
            remote.world.smidr.join("builds").join(submission["id"].as_str().expect("an id")).join("events.jsonl");
        let is_waiting = || fs::read_to_string(&journal).unwrap_or_default().contains("the layers of");
        wait_for("the build to wait", LONG, is_waiting);
        drop(held);
        assert_eq!(waits.join().expect("it ends"), Some(0));
    });
    assert!(remote.sent("new/file").is_file());
}
