//! Layers from git, with real repositories on this machine: pinning, sharing, pruning, and errors.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::support::{Done, NO_HOME, Running, World, has, hermetic, skip};

/// A world with a project whose one layer comes from a git repository.
struct GitWorld {
    world: World,
    repository: PathBuf,
}

/// Runs git in a folder, and gives what it printed.
pub(crate) fn git(folder: &Path, args: &[&str]) -> String {
    let fixed = ["-c", "user.name=A Developer", "-c", "user.email=developer@localhost", "-c", "commit.gpgsign=false"];
    let mut command = hermetic("git", NO_HOME);
    command.arg("-C").arg(folder).args(fixed).args(args);
    let done = Done::new(command.output().expect("git starts"));
    done.expect_code(0).out.trim().to_owned()
}

impl GitWorld {
    /// With the image of `hello`, or none where that is not possible; the skip is then reported.
    fn new(test: &str) -> Option<Self> {
        if !has("git") {
            skip(test, "there is no git here");
            return None;
        }
        let world = World::with_project(test)?;
        let repository = world.work.join("repositories/meta-hello");
        fs::create_dir_all(repository.parent().expect("a folder")).expect("a folder");
        fs::rename(world.project().join("layers/meta-hello"), &repository).expect("the layer moves");
        git(&repository, &["init", "-q", "-b", "main"]);
        let made = Self { world, repository };
        made.commit("Begin");
        let source = format!("git: {}\n    branch: main", made.url());
        made.world.edit("smidr.yaml", "path: ./layers/meta-hello", &source);
        Some(made)
    }

    fn url(&self) -> String {
        format!("file://{}", self.repository.display())
    }

    /// Commits everything, and gives the commit.
    fn commit(&self, subject: &str) -> String {
        git(&self.repository, &["add", "-A"]);
        git(&self.repository, &["commit", "-qm", subject]);
        git(&self.repository, &["rev-parse", "HEAD"])
    }

    /// A commit that makes another version of hello.
    fn new_version(&self, old: &str, new: &str) -> String {
        let recipe = |version: &str| format!("recipes-hello/hello/hello_{version}.bb");
        git(&self.repository, &["mv", &recipe(old), &recipe(new)]);
        self.commit(&format!("hello: {new}"))
    }

    fn smidr(&self, args: &[&str]) -> Done {
        self.world.smidr().args(args).run()
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.world.project().join("smidr.lock")).expect("a lock")
    }

    /// Builds, and gives the version of hello that the image holds.
    #[track_caller]
    fn version_built(&self, args: &[&str]) -> String {
        let done = self.world.smidr().arg("build").args(args).run();
        let id = done.expect_code(0).build_id();
        let folder = self.world.smidr.join("builds").join(id).join("artifacts/images/hello-x86-64");
        let manifest = fs::read_to_string(folder.join("hello-image-hello-x86-64.manifest")).expect("a manifest");
        let line = manifest.lines().find_map(|line| line.strip_prefix("hello ")).expect("hello");
        line.split("-r").next().expect("a version").to_owned()
    }

    /// Every file of the checkouts: path, time and the digest of its content. Without git's own folder, which notes the last use.
    fn checkouts(&self) -> Vec<(PathBuf, std::time::SystemTime, String)> {
        let root = self.world.smidr.join("layers/checkouts");
        let mut all: Vec<_> = walk(&root)
            .into_iter()
            .filter(|path| !path.components().any(|part| part.as_os_str() == ".git"))
            .map(|path| {
                let time = path.symlink_metadata().and_then(|data| data.modified()).expect("a time");
                let digest = hex::encode(Sha256::digest(fs::read(&path).unwrap_or_default()));
                (path, time, digest)
            })
            .collect();
        all.sort();
        all
    }
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_moved_branch_changes_nothing_before_lock_update() {
    let Some(git_world) = GitWorld::new("layers::a_moved_branch_changes_nothing_before_lock_update") else {
        return;
    };
    let first = git(&git_world.repository, &["rev-parse", "HEAD"]);
    assert_eq!(git_world.version_built(&[]), "1.0");
    let lock = git_world.lock();
    assert!(lock.contains(&first) && lock.contains("branch: main") && lock.contains("config: sha256:"), "{lock}");

    let second = git_world.new_version("1.0", "1.1");
    let checkouts = git_world.checkouts();
    assert_eq!(git_world.version_built(&["--locked"]), "1.0", "the branch has moved, the lock has not");
    assert_eq!(git_world.lock(), lock);
    assert_eq!(git_world.checkouts(), checkouts, "a build changes no checkout");

    let diff = git_world.smidr(&["layers", "diff"]);
    diff.expect_code(0)
        .expect_out("meta-hello")
        .expect_out(&first[..8])
        .expect_out(&second[..8])
        .expect_out("hello: 1.1");
    let updated = git_world.smidr(&["lock", "--update", "meta-hello"]);
    updated.expect_code(0).expect_out(&second[..8]).expect_out(&format!("was {}", &first[..8]));
    assert!(git_world.lock().contains(&second));
    assert_eq!(git_world.version_built(&["--locked"]), "1.1");

    // From one lock to another.
    let old = git_world.world.work.join("old.lock");
    fs::write(&old, &lock).expect("the old lock");
    let between = git_world.world.smidr().args(["layers", "diff"]).arg(&old).run();
    between.expect_code(0).expect_out("hello: 1.1");

    // The repository vanishes: what is pinned is here.
    fs::rename(&git_world.repository, git_world.repository.with_extension("gone")).expect("the repository goes");
    assert_eq!(git_world.version_built(&["--offline"]), "1.1");
    assert_eq!(git_world.version_built(&[]), "1.1");
    let update = git_world.smidr(&["lock", "--update", "meta-hello"]);
    update.expect_code(4).expect_one_error().expect_err(&git_world.url());
    assert!(git_world.lock().contains(&second), "a lock is never half-written");
}

#[test]
fn locked_and_offline_refuse_unpinned_layers() {
    let Some(git_world) = GitWorld::new("layers::locked_and_offline_refuse_unpinned_layers") else {
        return;
    };
    let locked = git_world.smidr(&["build", "--locked"]);
    locked.expect_code(2).expect_one_error().expect_err("meta-hello").expect_err("smidr lock");
    let offline = git_world.smidr(&["build", "--offline"]);
    offline.expect_one_error().expect_err("--offline");
    assert!(!git_world.world.project().join("smidr.lock").exists(), "nothing was pinned");
    assert_eq!(offline.code, Some(2), "{}", offline.err);
    git_world.smidr(&["lock"]).expect_code(0).expect_out("meta-hello").expect_out("host");
    git_world.smidr(&["run", "--", "true"]).expect_code(0);
    // Another branch, which the lock does not pin.
    git(&git_world.repository, &["branch", "other"]);
    git_world.world.edit("smidr.yaml", "branch: main", "branch: other");
    git_world.smidr(&["build", "--locked"]).expect_code(2).expect_one_error().expect_err("meta-hello");
    let plan = git_world.smidr(&["plan"]);
    plan.expect_code(0).expect_out("other, unresolved");
}

#[test]
fn a_failed_fetch_stops_the_build_before_bitbake() {
    let Some(git_world) = GitWorld::new("layers::a_failed_fetch_stops_the_build_before_bitbake") else {
        return;
    };
    let config = fs::read_to_string(git_world.world.project().join("smidr.yaml")).expect("a config");
    let url = git_world.url();
    let head = git(&git_world.repository, &["rev-parse", "HEAD"]);
    git(&git_world.repository, &["branch", "scarthgap"]);
    git(&git_world.repository, &["checkout", "-q", "--orphan", "elsewhere"]);
    let orphan = git_world.commit("Elsewhere");
    git(&git_world.repository, &["checkout", "-q", "main"]);
    git(&git_world.repository, &["tag", "v1.0"]);
    fs::write(git_world.world.work.join("bad.patch"), BAD_PATCH).expect("a patch");
    let nobody = "0".repeat(40);
    let rows: [(&str, String, i32, Vec<&str>); 12] = [
        ("an unknown branch", format!("git: {url}, branch: scarthgpa"), 2, vec!["scarthgpa", "scarthgap"]),
        ("an unknown tag", format!("git: {url}, tag: v1.1"), 2, vec!["v1.1", "v1.0"]),
        ("an unknown commit", format!("git: {url}, commit: '{nobody}'"), 2, vec![&nobody[..8]]),
        ("a commit elsewhere", format!("git: {url}, branch: main, commit: {orphan}"), 2, vec![&orphan[..8], "main"]),
        ("a tag elsewhere", format!("git: {url}, branch: elsewhere, tag: v1.0"), 2, vec!["elsewhere"]),
        ("nothing there", format!("git: {url}-not, branch: main"), 4, vec!["-not"]),
        ("no patch", format!("git: {url}, branch: main, patches: [./none.patch]"), 2, vec!["none.patch"]),
        (
            "a patch that does not fit",
            format!("git: {url}, branch: main, patches: [../bad.patch]"),
            2,
            vec!["bad.patch", "conf/layer.conf", "@@ -1,3 +1,3 @@"],
        ),
        ("no such sublayer", format!("git: {url}, branch: main, sublayers: {{include: [meta-x]}}"), 2, vec!["meta-x"]),
        ("an option", "git: --upload-pack=touch, branch: main".into(), 2, vec!["not an address"]),
        ("an option of ssh", "git: 'ssh://-oProxyCommand=x/y', branch: main".into(), 2, vec!["names no host"]),
        ("another program", "git: 'ext::sh -c touch', branch: main".into(), 2, vec!["not an address"]),
    ];
    for (name, source, code, parts) in rows {
        let (above, below) = config.split_once("layers:").expect("layers");
        let below = &below[below.find("\nbuild:").expect("what follows")..];
        let text = format!("{above}layers: [{{name: meta-hello, {source}}}]\n{below}");
        fs::write(git_world.world.project().join("smidr.yaml"), text).expect("a config");
        let done = git_world.world.smidr().args(["build", "--events", "json"]).run();
        done.expect_code(code);
        // Problems in the config are drawn there, and counted at the end.
        if !done.err.contains("smidr.yaml has 1 problem") {
            done.expect_one_error();
        }
        for part in parts {
            done.expect_err(part);
        }
        assert!(!done.out.contains("bitbake_ready") && !done.out.contains("host_ready"), "{name}: {}", done.out);
    }
    // The whole commit alone is enough, and so is a tag on the branch.
    for source in [format!("git: {url}, commit: {head}"), format!("git: {url}, branch: main, tag: v1.0")] {
        let (above, below) = config.split_once("layers:").expect("layers");
        let below = &below[below.find("\nbuild:").expect("what follows")..];
        let text = format!("{above}layers: [{{name: meta-hello, {source}}}]\n{below}");
        fs::write(git_world.world.project().join("smidr.yaml"), text).expect("a config");
        git_world.smidr(&["lock"]).expect_code(0).expect_out(&head[..8]);
    }
}

const BAD_PATCH: &str = "\
--- a/conf/layer.conf
+++ b/conf/layer.conf
@@ -1,3 +1,3 @@
 nothing
-of this
+is there
 at all
";

#[test]
fn a_modified_checkout_is_refused() {
    let Some(git_world) = GitWorld::new("layers::a_modified_checkout_is_refused") else { return };
    let run = || git_world.smidr(&["run", "true"]);
    run().expect_code(0);
    let all = git_world.checkouts();
    let conf = all.iter().map(|(path, ..)| path).find(|path| path.ends_with("conf/layer.conf")).expect("a layer");
    let folder = conf.ancestors().nth(2).expect("a checkout").display().to_string();
    let text = fs::read_to_string(conf).expect("a conf");
    let recipe = conf.with_file_name("new.conf");
    let changes: [&dyn Fn(); 3] = [
        &|| fs::write(conf, format!("{text}\n# one line more\n")).expect("changed"),
        &|| fs::write(&recipe, "").expect("added"),
        &|| {
            fs::remove_file(
                all.iter().map(|(path, ..)| path).find(|path| path.ends_with("hello_1.0.bb")).expect("a recipe"),
            )
            .expect("removed")
        },
    ];
    for change in changes {
        change();
        let done = run();
        done.expect_code(125).expect_one_error().expect_err("has been changed since it was made: ");
        done.expect_err(&format!("rm -rf {folder}"));
        fs::remove_dir_all(&folder).expect("as the hint says");
        run().expect_code(0);
        assert_eq!(fs::read_to_string(conf).expect("a conf"), text);
    }
}

#[test]
fn submodules_are_fetched_from_beside_a_mirror() {
    let Some(git_world) = GitWorld::new("layers::submodules_are_fetched_from_beside_a_mirror") else { return };
    let (group, mirror) = (git_world.world.work.join("repositories"), git_world.world.work.join("mirror"));
    let lib = group.join("lib");
    fs::create_dir(&lib).expect("a folder");
    fs::write(lib.join("part"), "x\n").expect("a file");
    git(&lib, &["init", "-q", "-b", "main"]);
    git(&lib, &["add", "-A"]);
    git(&lib, &["commit", "-qm", "Begin"]);
    let url = format!("file://{}", lib.display());
    git(&git_world.repository, &["-c", "protocol.file.allow=always", "submodule", "add", "-q", &url, "modules/lib"]);
    let relative = ["config", "-f", ".gitmodules", "submodule.modules/lib.url", "../lib"];
    git(&git_world.repository, &relative);
    git_world.commit("A submodule");
    // All of it has moved to the mirror.
    fs::rename(&group, &mirror).expect("moved");
    let moved = format!("branch: main\n    mirrors: [file://{}/meta-hello]", mirror.display());
    git_world.world.edit("smidr.yaml", "branch: main", &moved);
    git_world.smidr(&["layers", "sync"]).expect_code(0).expect_err("/mirror/lib instead");
    let has_part = |path: &PathBuf| path.ends_with("meta-hello/modules/lib/part");
    assert!(git_world.checkouts().iter().any(|(path, ..)| has_part(path)), "{:?}", git_world.checkouts());
    assert!(!git_world.lock().contains("mirror/"), "the lock has the address of the config");
}

/// A file that `ls` shows, and the build does not see.
#[test]
fn links_that_lead_out_of_a_path_layer_are_found_before_bitbake() {
    use std::os::unix::fs::symlink;
    let Some(world) = World::with_project("layers::links_that_lead_out_of_a_path_layer_are_found_before_bitbake")
    else {
        return;
    };
    let project = world.project();
    let layer = project.join("layers/meta-hello");
    let (recipe, common) = (layer.join("recipes-hello/hello/hello_1.0.bb"), project.join("common"));
    // Links that are no trouble: to nowhere, to the system, to another file of the layer, of an editor.
    for (link, target) in
        [("nowhere", "/nowhere/at/all"), ("off", "/dev/null"), ("same", "conf/layer.conf"), (".#lock", "/root")]
    {
        symlink(target, layer.join(link)).expect("a link");
    }
    world.smidr().args(["build", "--target", "hello"]).run().expect_code(0);
    fs::create_dir(&common).expect("a folder");
    fs::rename(&recipe, common.join("hello_1.0.bb")).expect("moved");
    symlink("../../../../common/hello_1.0.bb", &recipe).expect("a link");
    for versioned in [false, true] {
        if versioned && has("git") {
            git(&project, &["init", "-q"]);
        }
        let done = world.smidr().args(["build", "--target", "hello"]).run();
        let said = format!("{} is a symbolic link to {}", recipe.display(), common.join("hello_1.0.bb").display());
        done.expect_code(2).expect_one_error().expect_err(&said).expect_err("which the build does not see");
        done.expect_err("host: {binds: [{source: './common'}]}");
    }
    // What the hint says helps.
    let text = fs::read_to_string(project.join("smidr.yaml")).expect("a config");
    fs::write(project.join("smidr.yaml"), text.replace("host:\n", "host:\n  binds: [{source: './common'}]\n"))
        .expect("a config");
    world.smidr().args(["build", "--target", "hello"]).run().expect_code(0);
    // A folder of the build that is a link to nowhere.
    symlink("./gone", project.join("dang")).expect("a link");
    world.edit("smidr.yaml", "host:\n", "directories: {sstate: ./dang}\nhost:\n");
    let done = world.smidr().args(["build", "--target", "hello"]).run();
    done.expect_one_error().expect_err("dang is a symbolic link to ./gone, which is not there");
}

#[test]
fn incompatible_layers_stop_the_build_before_bitbake() {
    let Some(git_world) = GitWorld::new("layers::incompatible_layers_stop_the_build_before_bitbake") else { return };
    let world = &git_world.world;
    let layer = |name: &str, conf: &str| {
        let conf = format!(
            "BBPATH .= \":${{LAYERDIR}}\"\nBBFILE_COLLECTIONS += \"{name}\"\nBBFILE_PATTERN_{name} = \"\"\n{conf}\n"
        );
        world.write("layers/meta-second/conf/layer.conf", &conf);
    };
    world.edit("smidr.yaml", "\nbuild:", "  - {name: meta-second, path: ./layers/meta-second}\nbuild:");
    let compatible = |name: &str| format!("LAYERSERIES_COMPAT_{name} = \"hello\"");
    let build = || git_world.smidr(&["build"]);

    layer("meta-hello", &compatible("meta-hello"));
    build().expect_code(2).expect_one_error().expect_err("meta-hello").expect_err("meta-second");

    layer("second", &format!("{}\nLAYERDEPENDS_second = \"core openembedded-layer\"", compatible("second")));
    build()
        .expect_code(2)
        .expect_one_error()
        .expect_err("second")
        .expect_err("openembedded-layer")
        .expect_err("https://");

    layer("second", "LAYERSERIES_COMPAT_second = \"kirkstone \\\n  scarthgap\"");
    build()
        .expect_code(2)
        .expect_one_error()
        .expect_err("scarthgap")
        .expect_err("hello")
        .expect_err("ignore_series: true");
    world.edit("smidr.yaml", "path: ./layers/meta-second}", "path: ./layers/meta-second, ignore_series: true}");
    build().expect_code(0);
    // Reported once for all variants.
    world.append("variants:\n  a: {description: a}\n  b: {description: b}\n");
    let lock = git_world.smidr(&["lock"]);
    assert_eq!(lock.expect_code(0).err.matches("(ignore_series)").count(), 1, "{}", lock.err);

    let machine = git_world.smidr(&["build", "--machine", "hello-x86-46"]);
    machine.expect_code(2).expect_one_error().expect_err("hello-x86-46").expect_err("hello-x86-64");
}

#[test]
fn patches_have_a_checkout_of_their_own() {
    let Some(git_world) = GitWorld::new("layers::patches_have_a_checkout_of_their_own") else { return };
    git_world.smidr(&["lock"]).expect_code(0);
    let plain = git_world.checkouts();
    // A developer's patch, from a commit that is not in the repository.
    git_world.new_version("1.0", "1.0p");
    let patch = git(&git_world.repository, &["format-patch", "-1", "--stdout"]);
    git(&git_world.repository, &["reset", "-q", "--hard", "HEAD~1"]);
    git_world.world.write("patches/0001-hello.patch", &format!("{patch}\n"));
    git_world.world.edit("smidr.yaml", "branch: main", "branch: main\n    patches: [./patches/0001-hello.patch]");
    let locked = git_world.smidr(&["build", "--locked"]);
    locked.expect_code(2).expect_one_error().expect_err("meta-hello").expect_err("smidr lock");
    assert_eq!(git_world.version_built(&[]), "1.0p");
    assert!(git_world.lock().contains("file: ./patches/0001-hello.patch"), "{}", git_world.lock());
    let after = git_world.checkouts();
    assert!(plain.iter().all(|file| after.contains(file)), "the plain checkout is as it was");
    assert_eq!(git_world.version_built(&["--locked"]), "1.0p");
}

#[test]
fn a_checkout_of_the_store_is_read_only_even_in_a_shell() {
    let Some(git_world) = GitWorld::new("layers::a_checkout_of_the_store_is_read_only_even_in_a_shell") else { return };
    let ls = git_world.smidr(&["layers", "sync"]);
    ls.expect_code(0);
    let json = git_world.smidr(&["layers", "ls", "--json"]).expect_code(0).json();
    let folder = json["repositories"][0]["folder"].as_str().expect("a folder").to_owned();
    assert_eq!(json["repositories"][0]["layers"][0]["collection"], "meta-hello", "{json}");
    let before = git_world.checkouts();
    let script = format!(
        "cat {folder}/conf/layer.conf >/dev/null && ! touch {folder}/x 2>/dev/null && ! rm {folder}/conf/layer.conf 2>/dev/null"
    );
    git_world.smidr(&["run", "--", "sh", "-c", &script]).expect_code(0);
    assert_eq!(git_world.checkouts(), before);
    let status = git(Path::new(&folder), &["status", "--porcelain"]);
    assert_eq!(status, "", "git sees a clean checkout");
    assert!(git_world.lock().contains(&git(Path::new(&folder), &["rev-parse", "HEAD"])));
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn three_builds_at_once_while_another_process_syncs() {
    let Some(git_world) = GitWorld::new("layers::three_builds_at_once_while_another_process_syncs") else { return };
    let other = Other::new(&git_world);
    git_world.world.append("variants:\n  a: {description: a}\n  b: {description: b}\n");
    git_world.smidr(&["lock"]).expect_code(0);
    let lock = git_world.lock();
    let before = git_world.checkouts();
    let mut builds: Vec<_> = [&["build"][..], &["build", "--variant", "a"], &["build", "--variant", "b"]]
        .into_iter()
        .map(|args| git_world.world.smidr().args(args).start())
        .collect();
    // From here on each of them has locked its layers.
    builds.iter_mut().for_each(|build| build.until_says("layers     meta-hello"));
    let is_running = |build: &mut Running| build.child.try_wait().expect("look at smidr").is_none();
    let mut version = 0;
    while builds.iter_mut().any(is_running) {
        let (old, new) = (format!("1.{version}"), format!("1.{}", version + 1));
        let commit = git_world.new_version(&old, &new);
        git_world.smidr(&["layers", "diff"]).expect_code(0);
        git_world.smidr(&["layers", "sync"]).expect_code(0);
        other.moves_on(&git_world, &commit, version == 0);
        let kept = git_world.checkouts();
        // Checkouts without a lock on them may have been pruned.
        if builds.iter_mut().any(is_running) {
            assert!(before.iter().all(|file| kept.contains(file)), "a file of a build has changed");
        }
        version += 1;
    }
    assert!(version > 0, "nothing was written while they were built");
    for build in builds {
        build.wait().expect_code(0);
    }
    assert_eq!(git_world.lock(), lock, "no update was requested");
}

/// Another project that uses the same repository, at commits of its own.
struct Other {
    folder: PathBuf,
    config: String,
}

impl Other {
    fn new(git_world: &GitWorld) -> Self {
        let folder = git_world.world.init("q");
        let config = fs::read_to_string(git_world.world.project().join("smidr.yaml")).expect("a config");
        fs::write(folder.join("smidr.yaml"), &config).expect("a config");
        fs::write(folder.join("x.patch"), "--- /dev/null\n+++ b/patched\n@@ -0,0 +1 @@\n+x\n").expect("a patch");
        git_world.world.smidr().arg("lock").current_dir(&folder).run().expect_code(0);
        Self { folder, config }
    }

    /// Updates the lock to a commit, perhaps with a patch, syncs, and prunes what is unused.
    fn moves_on(&self, git_world: &GitWorld, commit: &str, patched: bool) {
        let smidr = |args: &[&str]| git_world.world.smidr().args(args).current_dir(&self.folder).run();
        let source = if patched { "branch: main\n    patches: [./x.patch]" } else { "branch: main" };
        fs::write(self.folder.join("smidr.yaml"), self.config.replace("branch: main", source)).expect("a config");
        smidr(&["lock", "--update", "meta-hello"]).expect_code(0).expect_out(&commit[..8]);
        smidr(&["layers", "sync"]).expect_code(0);
        let ls = smidr(&["layers", "ls", "--json"]).expect_code(0).json();
        let folder = PathBuf::from(ls["repositories"][0]["folder"].as_str().expect("a folder"));
        assert_eq!(folder.join("patched").exists(), patched, "{ls}");
        smidr(&["layers", "prune", "--days", "0"]).expect_code(0).expect_out(&commit[..8]);
        assert!(!folder.exists(), "it was not locked");
    }
}

#[test]
fn variants_are_pinned_side_by_side() {
    let Some(git_world) = GitWorld::new("layers::variants_are_pinned_side_by_side") else { return };
    git(&git_world.repository, &["branch", "next"]);
    let first = git(&git_world.repository, &["rev-parse", "HEAD"]);
    let second = git_world.new_version("1.0", "2.0");
    let variant =
        format!("variants:\n  next:\n    layers: [{{name: meta-hello, git: {}, branch: next}}]\n", git_world.url());
    git_world.world.append(&variant);
    git_world.smidr(&["lock"]).expect_code(0);
    let lock = git_world.lock();
    assert!(lock.contains(&first) && lock.contains(&second), "{lock}");
    let planned = |args: &[&str]| git_world.smidr(args).expect_code(0).json()["plan"]["layers"][0].clone();
    let commit = |layer: &Value| layer["git"]["pinned"]["commit"].as_str().unwrap_or_default().to_owned();
    assert_eq!(commit(&planned(&["plan", "--json"])), second);
    assert_eq!(commit(&planned(&["plan", "--json", "--variant", "next"])), first);
    // Pins that no variant needs are removed.
    let text = fs::read_to_string(git_world.world.project().join("smidr.yaml")).expect("a config");
    fs::write(git_world.world.project().join("smidr.yaml"), text.replace(&variant, "")).expect("a config");
    git_world.smidr(&["lock"]).expect_code(0);
    assert!(!git_world.lock().contains(&first), "{}", git_world.lock());
}

#[test]
fn variants_that_differ_in_commits_patches_and_build_hosts() {
    let test = "layers::variants_that_differ_in_commits_patches_and_build_hosts";
    let Some(git_world) = GitWorld::new(test) else { return };
    let first = git(&git_world.repository, &["rev-parse", "HEAD"]);
    git_world.new_version("1.0", "2.0");
    let patch = git(&git_world.repository, &["format-patch", "-1", "--stdout"]);
    git_world.world.write("one.patch", &format!("{patch}\n"));
    let url = git_world.url();
    git_world.world.append(&format!(
        "variants:\n  exact:\n    layers: [{{name: meta-hello, git: {url}, branch: main, commit: {first}}}]\n  \
         patched:\n    layers: [{{name: meta-hello, git: {url}, branch: main, commit: {first}, patches: [./one.patch]}}]\n  \
         machine: {{host: {{recipe: other-host}}}}\n",
    ));
    // Errors come before anything is pinned.
    git_world.smidr(&["lock"]).expect_one_error().expect_err("other-host");
    assert!(!git_world.world.project().join("smidr.lock").exists());
    git_world.world.edit("smidr.yaml", "{host: {recipe: other-host}}", "{host: {isolation: full}}");
    git_world.smidr(&["lock"]).expect_code(0);
    let lock = git_world.lock();
    assert_eq!(lock.matches("name: meta-hello").count(), 3, "{lock}");
    for variant in [&[][..], &["--variant", "exact"], &["--variant", "patched"]] {
        let plan = git_world.world.smidr().args(["plan", "--json", "--locked"]).args(variant).run();
        let layer = plan.expect_code(0).json()["plan"]["layers"][0].clone();
        assert!(layer["git"]["pinned"]["commit"].is_string(), "{variant:?}: {layer}");
    }
    let ls = git_world.smidr(&["layers", "ls", "--json"]).expect_code(0).json();
    assert_eq!(ls["repositories"].as_array().map(Vec::len), Some(2), "two commits: {ls}");
    // A pin without a commit pins nothing.
    let line = lock.lines().find(|line| line.contains("commit:")).expect("a commit");
    fs::write(git_world.world.project().join("smidr.lock"), lock.replace(&format!("{line}\n"), "")).expect("a lock");
    git_world.smidr(&["build", "--locked"]).expect_code(2).expect_one_error().expect_err("meta-hello");
    // Another config in the same folder has a lock of its own.
    fs::copy(git_world.world.project().join("smidr.yaml"), git_world.world.project().join("other.yaml"))
        .expect("a copy");
    let before = git_world.lock();
    git_world.smidr(&["-c", "other.yaml", "layers", "sync"]).expect_code(0);
    assert_eq!(git_world.lock(), before);
    assert!(git_world.world.project().join("other.lock").exists());
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_killed_sync_can_be_repeated() {
    let Some(git_world) = GitWorld::new("layers::a_killed_sync_can_be_repeated") else { return };
    // Large enough that a kill meets every step.
    for n in 0..400 {
        let folder = git_world.repository.join(format!("recipes-many/r{n}"));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("data.inc"), format!("{n}\n").repeat(200)).expect("a file");
    }
    let head = git_world.commit("Many files");
    let begun = std::time::Instant::now();
    git_world.smidr(&["layers", "sync"]).expect_code(0);
    let whole = begun.elapsed();
    let store = git_world.world.smidr.join("layers");
    let lock = git_world.world.project().join("smidr.lock");
    for n in 1..=25 {
        fs::remove_dir_all(&store).expect("an empty store");
        let _ = fs::remove_file(&lock);
        let mut running = git_world.world.smidr().args(["layers", "sync"]).start();
        std::thread::sleep(whole * n / 25);
        let _ = running.child.kill();
        running.child.wait().expect("it is gone");
        git_world.smidr(&["layers", "sync"]).expect_code(0);
        assert!(git_world.lock().contains(&head));
        let json = git_world.smidr(&["layers", "ls", "--json"]).expect_code(0).json();
        let folder = PathBuf::from(json["repositories"][0]["folder"].as_str().expect("a folder"));
        assert_eq!(git(&folder, &["status", "--porcelain"]), "", "after {n} of 25");
        git(&folder, &["fsck", "--full"]);
        assert_eq!(World::names(&folder.join("recipes-many")).len(), 400);
    }
}

#[test]
fn prune_removes_unused_checkouts() {
    let Some(git_world) = GitWorld::new("layers::prune_removes_unused_checkouts") else { return };
    git_world.smidr(&["layers", "sync"]).expect_code(0);
    let first = git_world.checkouts();
    assert!(!first.is_empty());
    git_world.smidr(&["layers", "prune"]).expect_code(0);
    assert_eq!(git_world.checkouts(), first, "it was used today");
    let dry = git_world.smidr(&["layers", "prune", "--days", "0", "--dry-run"]);
    dry.expect_code(0).expect_out("meta-hello");
    assert_eq!(git_world.checkouts(), first);
    // In use.
    let mut shell = git_world.world.smidr().args(["run", "--", "sh", "-c", "echo ready; sleep 60"]).start();
    shell.until_says("ready");
    git_world.smidr(&["layers", "prune", "--days", "0"]).expect_code(0);
    assert_eq!(git_world.checkouts(), first);
    shell.signal(nix::sys::signal::Signal::SIGTERM);
    shell.child.wait().expect("it ends");
    git_world.smidr(&["layers", "prune", "--days", "0"]).expect_code(0).expect_out("meta-hello");
    assert_eq!(git_world.checkouts(), []);
    git_world.smidr(&["run", "--", "true"]).expect_code(0);
}
