//! Every JSON document of every command, compared with docs/json.md: what is there is written down, and what is written down is there.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::{
    completions::record,
    daemon_fixture::Served,
    disk::written_in,
    layers::git,
    support::{Done, World, has, skip},
};

const REFERENCE: &str = include_str!("../../docs/json.md");

/// What these projects do not have: an image made of packages, another image than before, a machine that cannot build, a symbolic link, a build
/// that runs.
const NOT_HERE: [&str; 21] = [
    "deep.recipes",
    "deep.tasks",
    "deep.sources",
    "deep.branches.total",
    "deep.branches.downloaded",
    "deep.branches.asked",
    "deep.branches.unasked[].reason",
    "deep.branches.unasked[].count",
    "hosts[].recipe",
    "hosts[].packages",
    "artifacts[].link",
    "findings[].hint",
    "findings[].errno",
    "findings[].cause",
    "findings[].remedy_user",
    "findings[].remedy_admin",
    "plan.ca_bundle",
    "running[].build",
    "running[].customer",
    "running[].priority",
    "running[].since",
];

/// All keys of a document, as the reference writes them; an empty list counts as one of its entries.
fn keys(value: &Value, above: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                keys(field, &format!("{above}{}{name}", if above.is_empty() { "" } else { "." }), found);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter().for_each(|field| keys(field, &format!("{above}[]"), found))
        }
        Value::Array(_) => _ = found.insert(format!("{above}[]")),
        _ => _ = found.insert(above.to_owned()),
    }
}

/// Whether a key is another one, or of what that holds.
fn is_of(key: &str, other: &str) -> bool {
    key.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[derive(Default)]
struct Seen(Vec<(&'static str, BTreeSet<String>)>);

impl Seen {
    fn add(&mut self, title: &'static str, done: &Done) {
        let document: Value = done.json();
        assert_eq!(document["version"], 1, "{title}");
        let mut found = BTreeSet::new();
        keys(&document, "", &mut found);
        match self.0.iter_mut().find(|(known, _)| *known == title) {
            Some((_, all)) => all.extend(found),
            None => self.0.push((title, found)),
        }
    }

    /// Compares what was seen with the documents of the reference that are meant.
    #[track_caller]
    fn compare(&self, is_meant: fn(&str) -> bool) {
        let mut wrong = Vec::new();
        for (title, found) in &self.0 {
            let written = written_in(REFERENCE, title);
            // What is null, or an empty list, may have more below it.
            let is_written = |key: &&String| written.iter().any(|known| is_of(key, known) || is_of(known, key));
            let is_there =
                |key: &&String| found.iter().any(|known| is_of(known, key)) || NOT_HERE.contains(&key.as_str());
            wrong.extend(
                found.iter().filter(|key| !is_written(key)).map(|key| format!("{title}: {key} is not in docs/json.md")),
            );
            wrong.extend(written.iter().filter(|key| !is_there(key)).map(|key| format!("{title}: there is no {key}")));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        let titles = REFERENCE.lines().filter_map(|line| line.strip_prefix("## `")).filter(|title| is_meant(title));
        assert_eq!(titles.count(), self.0.len(), "docs/json.md has documents that there are not");
    }
}

/// A project with as much as a config can have, and a second commit in one of its layers.
fn project(world: &World) {
    world.init("p");
    let repository = world.work.join("meta-git");
    fs::create_dir_all(repository.join("conf")).expect("folders");
    let conf = "BBFILE_COLLECTIONS += \"git\"\nBBFILE_PRIORITY_git = \"5\"\nLAYERVERSION_git = \"2\"\nLAYERDEPENDS_git = \"meta-hello\"\nLAYERSERIES_COMPAT_git = \"hello\"\n";
    fs::write(repository.join("conf/layer.conf"), conf).expect("a layer");
    fs::write(repository.join("COPYING"), "a\n").expect("a file");
    git(&repository, &["init", "-q", "-b", "main"]);
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "Begin"]);
    git(&repository, &["tag", "v1"]);
    fs::write(world.project().join("a.patch"), "--- a/COPYING\n+++ b/COPYING\n@@ -1 +1 @@\n-a\n+b\n").expect("a patch");
    world.edit(
        "smidr.yaml",
        "    path: ./layers/meta-hello\n",
        &format!(
            "    path: ./layers/meta-hello\n  - name: meta-git\n    git: file://{0}\n    branch: main\n    mirrors: ['file://{0}']\n    patches: [a.patch]\n",
            repository.display()
        ),
    );
    world.edit_host("tiny");
    fs::create_dir_all(world.work.join("shown")).expect("a folder");
    world.append(&format!(
        "  binds: [{{source: {}}}]\nenv: {{GREETING: hi}}\nartifacts: ['*']\nvariants: {{debug: {{}}}}\n",
        world.work.join("shown").display()
    ));
}

/// An image with one folder.
fn import(world: &World, folder: &str, name: &str) {
    let archive = world.work.join("root.tar");
    let mut tar = tar::Builder::new(fs::File::create(&archive).expect("a file"));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    tar.append_data(&mut header, folder, std::io::empty()).expect("a folder");
    tar.finish().expect("an archive");
    world.smidr().args(["image", "import"]).arg(&archive).args(["--name", name]).run().expect_code(0);
}

#[test]
fn layers_and_host_are_pinned_anew_one_without_the_other() {
    if !has("git") {
        return skip("documents::layers_and_host_are_pinned_anew_one_without_the_other", "there is no git here");
    }
    let world = World::new();
    project(&world);
    import(&world, "usr/", "tiny");
    import(&world, "usr/", "kept");
    let lock = |flags: &[&str]| world.smidr().args(["lock", "--json"]).args(flags).run().expect_code(0).json();
    let changed = |document: &Value| {
        let is_other = |list: &str| document[list].as_array().expect("a list").iter().any(|one| !one["was"].is_null());
        (is_other("hosts"), is_other("repositories"))
    };
    let commit = |text: &str| {
        let repository = world.work.join("meta-git");
        fs::write(repository.join("README"), text).expect("a file");
        git(&repository, &["add", "-A"]);
        git(&repository, &["commit", "-qm", text]);
    };
    assert_eq!(changed(&lock(&[])), (false, false));
    commit("one");
    import(&world, "opt/", "tiny");
    assert_eq!(changed(&lock(&["--update", "--layers"])), (false, true), "the build host stays");
    commit("two");
    assert_eq!(changed(&lock(&["--update", "--host"])), (true, false), "layers stay");
    assert_eq!(changed(&lock(&["--update", "host", "--layers"])), (false, true));
    world.smidr().args(["lock", "--layers"]).run().expect_code(2).expect_err("--update");
    // A project that was built here is known, trusted or not.
    world.smidr().arg("untrust").run();
    let owner = format!(
        r#"{{"version":1,"config":"{}","variant":null,"domain":null,"elsewhere":[]}}"#,
        world.project().join("smidr.yaml").display()
    );
    for folder in ["workspaces/p-1", "owners"] {
        fs::create_dir_all(world.smidr.join(folder)).expect("folders");
    }
    fs::write(world.smidr.join("owners/p-1.json"), owner).expect("a record");
    let removed = world.smidr().args(["image", "rm", "tiny"]).run();
    removed.expect_code(0).expect_err("p/smidr.yaml is pinned to it");
}

#[test]
fn the_reference_has_every_key_of_every_document() {
    if !has("git") {
        return skip("documents::the_reference_has_every_key_of_every_document", "there is no git here");
    }
    let world = World::new();
    project(&world);
    let run = |line: &str| world.smidr().args(line.split(' ')).run();
    import(&world, "usr/", "tiny");
    let mut seen = Seen::default();
    let mut add = |title: &'static str, line: &str, code: i32| {
        let done = run(line);
        done.expect_code(code);
        seen.add(title, &done);
    };
    add("smidr plan --json", "plan --json", 0);
    add("smidr check --json", "check --json", 0);
    add("smidr layers ls --json", "layers ls --json", 0);
    add("smidr lock --json", "lock --json", 0);
    add("smidr layers sync --json", "layers sync --json", 0);
    add("smidr layers ls --json", "layers ls --json", 0);
    add("smidr layers ls --store --json", "layers ls --store --json", 0);
    add("smidr plan --json", "plan --json -- -k", 0);
    let repository = world.work.join("meta-git");
    fs::write(repository.join("README"), "x\n").expect("a file");
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "More"]);
    add("smidr layers diff --json", "layers diff --json", 0);
    add("smidr lock --json", "lock --update --layers --json", 0);
    world.append("nonsense: 1\n");
    add("smidr check --json", "check --json", 2);
    world.edit("smidr.yaml", "nonsense: 1\n", "");
    add("smidr layers prune --json", "layers prune --days 0 --dry-run --json", 0);
    add("smidr trust --list --json", "trust --list --json", 0);
    add("smidr image ls --json", "image ls --json", 0);
    add("smidr image verify --json", "image verify --json", 0);
    add("smidr image prune --json", "image prune --keep 0 --dry-run --json", 0);
    add("smidr doctor --json", "doctor --json", 0);
    record(&world, "p-0000abcd");
    run("history rebuild").expect_code(0);
    add("smidr status --json", "status --json", 0);
    add("smidr status ID --json", "status p-0000abcd --json", 0);
    add("smidr explain --json", "explain p-0000abcd --json", 0);
    add("smidr explain --warnings --json", "explain p-0000abcd --warnings --json", 0);
    fs::write(world.work.join("console"), CONSOLE).expect("a file");
    add("smidr explain --json", &format!("explain --log {}/console --json", world.work.display()), 0);
    add("smidr artifacts list --json", "artifacts list p-0000abcd --json", 0);
    add("smidr artifacts show --json", "artifacts show p-0000abcd --json", 0);
    add("smidr artifacts clean --json", "artifacts clean --keep 0 --dry-run --json", 0);
    add("smidr history prune --json", "history prune --keep 0 --dry-run --json", 0);
    add("smidr image rm --json", "image rm tiny --json", 0);
    seen.compare(|title| !DAEMON.iter().any(|of| title.starts_with(of)));
}

/// Failures with all that can be said of one.
const CONSOLE: &str = "ERROR: Nothing PROVIDES 'x' (but mc:arm:/l/a_1.bb DEPENDS on or otherwise requires it)
ERROR: a-1.0-r0 do_compile: failed
ERROR: Logfile of failure stored in: /b/work/x/a/1.0-r0/temp/log.do_compile.7
| a.c:1:10: fatal error: x.h: No such file or directory
ERROR: Task (/l/a_1.0.bb:do_compile) failed with exit code '1'
ERROR: b-1.0-r0 do_install: No space left on device
ERROR: Task (mc:arm:/l/b_1.0.bb:do_install) failed with exit code '1'
ERROR: c-1.0-r0 do_install: No space left on device
ERROR: Task (/l/c_1.0.bb:do_install) failed with exit code '1'
ERROR: d-1.0-r0 do_package_qa: QA Issue: d: strange [build-deps]
ERROR: Task (/l/d_1.0.bb:do_package_qa) failed with exit code '1'
";

/// Documents of these commands are those of a daemon.
const DAEMON: [&str; 2] = ["smidr client ", "smidr daemon "];

#[test]
fn the_reference_has_every_key_of_a_daemons_documents() {
    let served = Served::paused();
    served.daemon(&["token", "create", "ci", "--scope", "read", "--json"]).expect_code(0);
    served.client(&["schedule", "create", "nightly", "--cron", "0 3 * * *"]).run().expect_code(0);
    record(&served, "p-0000abcd");
    served.smidr().args(["history", "rebuild"]).run().expect_code(0);
    let mut seen = Seen::default();
    let mut add = |title: &'static str, line: &str| {
        let done = served.smidr().args(line.split(' ')).run();
        done.expect_code(0);
        seen.add(title, &done);
        done
    };
    add("smidr client webhook create --json", "client webhook create ci http://192.0.2.1/ --json");
    let id =
        add("smidr client start --json", "client start --customer acme --label a=b --json").json()["build"].clone();
    let id = id.as_str().expect("an id");
    add("smidr client list --json", "client list --json");
    add("smidr client status --json", &format!("client status {id} --json"));
    add("smidr client status --json", "client status p-0000abcd --json");
    add("smidr client artifacts --json", "client artifacts p-0000abcd --json");
    add("smidr client queue --json", "client queue --json");
    add("smidr daemon status --json", "daemon status --json");
    add("smidr client cancel --json", &format!("client cancel {id} --json"));
    add("smidr client whoami --json", "client whoami --json");
    add("smidr client schedule create --json", "client schedule create daily --cron @daily --json");
    let git = "client schedule create weekly --cron @weekly --git https://192.0.2.1/p --json";
    add("smidr client schedule create --json", git);
    add("smidr client schedule ls --json", "client schedule ls --json");
    add("smidr client schedule run --json", "client schedule run daily --json");
    add("smidr client webhook ls --json", "client webhook ls --json");
    add("smidr client webhook deliveries --json", "client webhook deliveries --json");
    add("smidr daemon token create --json", "daemon token create other --scope read --json");
    add("smidr daemon token ls --json", "daemon token ls --json");
    add("smidr daemon purge --json", "daemon purge --keep 1 --dry-run --json");
    seen.compare(|title| DAEMON.iter().any(|of| title.starts_with(of)));
}
