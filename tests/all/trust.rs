//! Attacks of an untrusted project on its user, each as it was once found: code for later shells, the git of this machine, shared caches,
//! configs that ask for anything.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    fetch_fixture::{Manners, Server, Yard},
    screen::runs_on_terminal,
    support::{Done, NO_HOME, World, hermetic, is_root, skip, smidr_bin, tool},
};

/// A recipe `probe` whose only task runs `script`; with a network, which leaves it in the namespaces of BitBake itself.
fn probe(world: &World, script: &str) {
    let body: String = script.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "SUMMARY = \"Tries things\"\nLICENSE = \"MIT\"\ninherit nobuild\naddtask probe before do_build\n\
         do_probe[nostamp] = \"1\"\ndo_probe[network] = \"1\"\ndo_probe() {{\n{body}}}\n"
    );
    world.write("layers/meta-hello/recipes-hello/probe/probe_1.0.bb", &text);
}

fn build_probe(world: &World) -> Done {
    world.smidr().env("SMIDR_TRUST", "0").args(["build", "--target", "probe"]).run()
}

fn git(folder: &Path, args: &[&str]) -> Done {
    let identity = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false"];
    let mut command = hermetic("git", NO_HOME);
    Done::new(command.arg("-C").arg(folder).args(identity).args(args).output().expect("git runs"))
}

/// The project `p` as a git repository with a secret beside its layers.
fn repository(world: &World) {
    world.write(".env", "TOKEN=hunter2\n");
    world.write(".gitignore", ".env\n");
    world.write("notes.txt", "not for builds\n");
    let project = world.project();
    git(&project, &["init", "-q"]).expect_code(0);
    git(&project, &["add", "."]).expect_code(0);
    git(&project, &["commit", "-qm", "x"]).expect_code(0);
}

fn run(world: &World, script: &str) -> Done {
    world.smidr().env("SMIDR_TRUST", "0").args(["run", "--", "sh", "-c", script]).run()
}

#[test]
fn a_build_cannot_plant_code_for_later_runs() {
    let Some(world) = World::with_project("trust::a_build_cannot_plant_code_for_later_runs") else { return };
    probe(
        &world,
        "mark() { echo \"$1: $2\" >> ${TOPDIR}/marks; }\n\
         echo 'echo trapped' > $HOME/.bashrc; echo 'echo trapped' > $HOME/.profile\n\
         site=$(python3 -c 'import site; print(site.getusersitepackages())')\n\
         mkdir -p $site && echo 'open(\"/tmp/trapped\", \"w\")' > $site/usercustomize.py\n\
         for file in conf/auto.conf conf/site.conf conf/local.conf workspace/conf/layer.conf workspace/appends/x.bbappend; do\n\
             if echo 'X = \"1\"' > ${TOPDIR}/$file; then mark written $file; fi\n\
         done\n\
         for folder in conf workspace/conf workspace; do\n\
             if mv ${TOPDIR}/$folder ${TOPDIR}/$folder.away; then mark moved $folder; fi\n\
         done\n\
         if mv ${TOPDIR} ${TOPDIR}.away; then mark moved topdir; fi\n\
         mkdir -p ${TOPDIR}/workspace/sources/x && mark written sources",
    );
    build_probe(&world).expect_code(0);
    // The one file there is smidr's own.
    let marks = run(&world, "cat marks; ls -A ~; ls -A ~/.local 2>/dev/null; true").expect_code(0).out.clone();
    assert_eq!(
        marks, "written: sources\n.gitconfig\n",
        "what a build could change, and what the next shell finds in HOME"
    );
    // With --clean all goes but the caches and what devtool works on.
    let stays = world.smidr.join("downloads/stays");
    fs::write(&stays, "").expect("a file");
    let cleaned = world.smidr().args(["build", "--clean", "--target", "libgreet"]).run();
    cleaned.expect_code(0).expect_err("workspace, which holds sources that devtool works on");
    run(&world, "test ! -e marks && test -d workspace/sources/x").expect_code(0);
    assert!(stays.exists());
}

#[test]
fn a_build_sees_layers_and_not_what_lies_beside_them() {
    let Some(world) = World::with_project("trust::a_build_sees_layers_and_not_what_lies_beside_them") else { return };
    let Some(git_program) = tool("git") else { return skip("trust::a_build_sees_layers_…", "no git here") };
    let _ = git_program;
    repository(&world);
    probe(
        &world,
        "cd ${LAYERDIR_hello}/../..\n\
         for file in .env notes.txt smidr.yaml smidr.lock layers/meta-hello/conf/layer.conf .git/HEAD; do\n\
             if [ -s $file ]; then echo \"seen $file\"; fi\n\
         done > ${TOPDIR}/seen\n\
         cp .git/index .git/config ${TOPDIR}; cp .git/modules/lib/config ${TOPDIR}/of-lib\n\
         grep -rl hunter2 .git > ${TOPDIR}/with-secrets || true",
    );
    world.edit(
        "layers/meta-hello/conf/layer.conf",
        "BBFILE_COLLECTIONS",
        "LAYERDIR_hello := \"${LAYERDIR}\"\nBBFILE_COLLECTIONS",
    );
    git(&world.project(), &["add", "."]);
    git(&world.project(), &["commit", "-qm", "probe"]).expect_code(0);
    // As CI systems check out, and more places where passwords stand.
    let config = world.project().join(".git/config");
    let mut text = fs::read_to_string(&config).expect("a config");
    text += "[remote \"origin\"]\n\turl = https://me:hunter2@h.example/p\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n\tproxy = u:hunter2@h\n\
             [remote \"b\"]\n\turl = https://h.example/p?private_token=hunter2\n[remote \"c\"]\n\turl = me:hunter2@h.example:p\n\
             [http \"https://h.example/\"]\n\textraheader = AUTHORIZATION: basic hunter2\n\
             [url \"https://oauth2:hunter2@h.example/\"]\n\tinsteadOf = https://h.example/\n\
             [branch \"main\"]\n\tremote = https://u:hunter2@h.example/p\n\tmerge = refs/heads/main\n\
             [credential]\n\thelper = \"!echo password=hunter2\"\n# https://u:hunter2@h.example\n[core]\n\teditor = vi hunter2\n";
    fs::write(&config, &text).expect("a config");
    let modules = world.project().join(".git/modules");
    for module in ["lib", "hooks/lfs"].map(|name| modules.join(name)) {
        for part in ["objects", "refs", "logs"] {
            fs::create_dir_all(module.join(part)).expect("folders");
        }
        fs::write(module.join("HEAD"), "ref: refs/heads/main\n").expect("a file");
        fs::write(module.join("logs/HEAD"), "clone: from https://hunter2@h.example/lib\n").expect("a file");
        fs::write(module.join("config"), "[remote \"origin\"]\n\turl = https://hunter2@h.example/lib\n")
            .expect("a config");
    }
    for other in ["FETCH_HEAD", "config.bak", "config.lock", "worktrees/w/config.worktree", "hooks/post-commit"] {
        let file = world.project().join(".git").join(other);
        fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
        fs::write(file, "hunter2").expect("a file");
    }
    build_probe(&world).expect_code(0);
    let top = top(&world);
    let seen = fs::read_to_string(top.join("config")).expect("a config");
    assert!(!seen.contains("hunter2"), "{seen}");
    assert_eq!(fs::read_to_string(top.join("with-secrets")).expect("a list"), "", "files of .git with passwords");
    let listed =
        hermetic("git", NO_HOME).args(["config", "--list", "--file"]).arg(top.join("config")).output().expect("git");
    let listed = String::from_utf8(listed.stdout).expect("text");
    for line in ["remote.origin.url=https://h.example/p\n", "remote.c.url=me@h.example:p\n", "core.bare=false\n"] {
        assert!(listed.contains(line), "{listed}");
    }
    let of_lib = fs::read_to_string(top.join("of-lib")).expect("a config");
    assert!(of_lib.contains("https://h.example/lib") && !of_lib.contains("hunter2"), "{of_lib}");
    assert_eq!(fs::read_to_string(&config).expect("a config"), text, "the user's own stays");
    assert_eq!(
        fs::read_to_string(top.join("seen")).expect("written by the recipe"),
        "seen layers/meta-hello/conf/layer.conf\nseen .git/HEAD\n"
    );
    // With the index that a build sees, git finds nothing changed though files are missing: BitBake writes that into what it builds.
    let view = world.work.join("view");
    fs::create_dir_all(view.join("layers")).expect("folders");
    let copy = |from: PathBuf, to: &str| {
        let done = Command::new("cp").arg("-a").arg(from).arg(view.join(to)).status().expect("cp runs");
        assert!(done.success());
    };
    copy(world.project().join("layers/meta-hello"), "layers/meta-hello");
    copy(world.project().join(".git"), ".git");
    copy(world.project().join(".gitignore"), ".gitignore");
    assert_eq!(git(&view, &["diff", "--quiet"]).code, Some(1), "files are missing");
    fs::copy(top.join("index"), view.join(".git/index")).expect("the index");
    git(&view, &["diff", "--quiet"]).expect_code(0);
    git(&view, &["diff", "--quiet", "--cached"]).expect_code(0);
}

fn top(world: &World) -> PathBuf {
    let names = World::names(&world.smidr.join("workspaces"));
    world.smidr.join("workspaces").join(names.first().expect("a workspace")).join("build")
}

#[test]
fn git_of_this_machine_runs_nothing_from_inside() {
    let Some(world) = World::with_project("trust::git_of_this_machine_runs_nothing_from_inside") else { return };
    if tool("git").is_none() {
        return skip("trust::git_of_this_machine_runs_nothing_from_inside", "no git here");
    }
    repository(&world);
    let project = world.project();
    let nested = project.join("layers/meta-hello/vendor/module");
    fs::create_dir_all(&nested).expect("a folder");
    git(&nested, &["init", "-q"]).expect_code(0);
    let (project_text, canary) = (project.display(), world.work.join("canary"));
    let evil = format!("[core]\\n\\tfsmonitor = touch {}; false\\n\\tbare = false\\n", canary.display());
    let script = format!(
        "cd {project_text}\n\
         tried() {{ if \"$@\" 2>/dev/null; then echo \"did: $*\"; fi; }}\n\
         write() {{ printf '{evil}' >> $1; }}\n\
         cd layers/meta-hello && touch conf/new.conf && cd ../.. && echo layers are writable\n\
         tried write .git/config; tried write smidr.yaml; tried write smidr.lock; tried write .env\n\
         tried write layers/meta-hello/vendor/module/.git/config\n\
         tried mv .git away; tried mv layers/meta-hello/vendor/module/.git layers/meta-hello/away\n\
         tried mv layers/meta-hello/vendor layers/meta-hello/away; tried mv layers/meta-hello/vendor/module layers/meta-hello/away\n\
         tried rm -rf layers/meta-hello/vendor; tried mv layers away; tried mkdir .git2\n\
         cd layers/meta-hello\n\
         mkdir -p new/.git/objects new/.git/refs new/bare/objects new/bare/refs file\n\
         echo 'ref: refs/heads/x' | tee new/.git/HEAD > new/bare/HEAD\n\
         write new/.git/config; write new/bare/config; echo 'gitdir: /tmp/x' > file/.git\n\
         ln -s /etc/passwd out; ln -s ../../../../x climbs; ln -s conf/layer.conf inside"
    );
    let done = run(&world, &script);
    done.expect_code(0);
    assert_eq!(done.out, "layers are writable\n", "{}", done.err);
    for name in ["new/.git", "new/bare/HEAD", "file/.git", "out", "climbs"] {
        let path = project.join("layers/meta-hello").join(name);
        assert!(fs::symlink_metadata(&path).is_err(), "{name} is still there");
        done.expect_err(&format!("{} is new; programs of this machine would obey or follow it", path.display()));
    }
    assert_eq!(World::names(&world.smidr.join("quarantine")).len(), 1);
    assert!(
        project.join("layers/meta-hello/inside").exists() && project.join("layers/meta-hello/conf/new.conf").exists()
    );
    for folder in [&project, &nested, &project.join("layers/meta-hello/new")] {
        git(folder, &["status", "--short"]);
        assert!(!canary.exists(), "the git of this machine ran something in {}", folder.display());
    }
    // Killed in the middle: the next one finishes the work.
    let mut running = world
        .smidr()
        .args([
            "run",
            "--",
            "sh",
            "-c",
            &format!("mkdir -p {project_text}/layers/meta-hello/late/.git && echo made && sleep 100"),
        ])
        .start();
    running.until_says("made");
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.wait();
    let late = project.join("layers/meta-hello/late/.git");
    assert!(late.exists(), "nothing could tidy up yet");
    run(&world, "true").expect_code(0).expect_err(&format!("{} is new", late.display()));
    assert!(!late.exists());
}

/// A build must leave no repository in folders where users work: the next git command, or a prompt that shows the branch, would run what its
/// configuration says.
#[test]
fn repositories_left_by_a_build_are_quarantined() {
    let test = "trust::repositories_left_by_a_build_are_quarantined";
    let Some(world) = World::with_project(test) else { return };
    world.edit("smidr.yaml", "build:\n", "directories: {build: ./b, tmp: ./t, deploy: ./d}\nbuild:\n");
    let shared = world.work.join("shared");
    fs::create_dir_all(shared.join("old")).expect("folders");
    git(&shared.join("old"), &["init", "-q"]).expect_code(0);
    world.edit(
        "smidr.yaml",
        "\nhost:\n",
        "\nhost:\n  binds: [{source: ../shared, dest: /srv/shared, writable: true}]\n",
    );
    world.smidr().arg("trust").run().expect_code(0);
    probe(
        &world,
        "plant() { mkdir -p $1/objects $1/refs; echo 'ref: refs/heads/main' > $1/HEAD; \\\n\
            printf '[core]\\n\\tbare = false\\n\\tfsmonitor = touch /tmp/smidr-obeyed; false\\n' > $1/config; }\n\
         mkdir -p ${DEPLOY_DIR}/images/x ${WORKDIR}/own\n\
         for folder in ${TOPDIR} ${TMPDIR} ${DEPLOY_DIR}/images/x ${WORKDIR}/own /srv/shared /srv/shared/new; do\n\
             mkdir -p $folder; plant $folder/.git\n\
         done\n\
         plant /srv/shared/bare\n\
         if echo x > /srv/shared/old/.git/config; then echo old > ${TOPDIR}/marks; fi",
    );
    let done = build_probe(&world);
    done.expect_code(0).expect_err("programs of this machine would obey or follow it, so it was moved to");
    let project = world.project();
    for gone in [
        "b/.git",
        "t/.git",
        "d/images/x/.git",
        "../shared/.git",
        "../shared/new/.git",
        "../shared/bare/HEAD",
        "b/marks",
    ] {
        assert!(!project.join(gone).exists(), "{gone} is there: {}", done.err);
    }
    let own = World::names(&project.join("t/work"));
    assert!(!own.is_empty(), "work folders are the build's own");
    git(&shared.join("old"), &["status"]).expect_code(0);
    // In quarantine git does not take it for a repository.
    let moved = world.smidr.join("quarantine").join(&World::names(&world.smidr.join("quarantine"))[0]);
    assert!(!World::names(&moved).is_empty());
    for name in World::names(&moved).into_iter().filter(|name| !name.ends_with(".path")) {
        let data = fs::symlink_metadata(moved.join(&name)).expect("it is there");
        assert_eq!(data.permissions().mode() & 0o777, 0, "{name}");
        assert!(!moved.join(&name).join("HEAD").exists(), "{name}");
    }
    // The user's own repositories in such places stay, and no build changes them.
    git(&project.join("b"), &["init", "-q"]).expect_code(0);
    probe(&world, "if echo x >> ${TOPDIR}/.git/config; then echo changed > ${TOPDIR}/marks; fi");
    build_probe(&world).expect_code(0);
    assert!(project.join("b/.git/config").exists() && !project.join("b/marks").exists());
}

#[test]
fn changes_of_conf_in_a_shell_are_reported() {
    let Some(world) = World::with_project("trust::changes_of_conf_in_a_shell_are_reported") else { return };
    let done = run(
        &world,
        "echo 'A = \"1\"' > conf/auto.conf; mkdir -p workspace/appends; touch workspace/appends/x.bbappend",
    );
    done.expect_code(0).expect_err("conf/auto.conf is new; later builds read it").expect_err("x.bbappend is new");
    // The user's own change asks nothing.
    run(&world, "true").expect_code(0);
    // A new one does.
    fs::write(top(&world).join("conf/auto.conf"), "A = \"2\"\n").expect("a file");
    let refused = run(&world, "true");
    refused.expect_code(125).expect_err("auto.conf was left by an earlier build or shell");
    world.smidr().arg("trust").run().expect_code(0);
    run(&world, "true").expect_code(0);
}

/// Each asks for something that a build in its own folders does not need.
const STRANGERS: [(&str, &str); 12] = [
    ("host: {isolation: none}\nbitbake: {path: ./bb}", "runs every recipe as you"),
    ("host: {binds: [{source: ~/.ssh, dest: /srv/x}]}", "can read HOME/.ssh, and send it away"),
    ("host: {binds: [{source: ~/.bashrc, dest: /srv/x, writable: true}]}", "can read and change HOME/.bashrc"),
    ("host: {netrc: ~/.ssh/id_rsa}", "can read the passwords in HOME/.ssh/id_rsa"),
    ("host: {env: [AWS_SECRET]}", "gives your variable AWS_SECRET"),
    ("env: {A: '${AWS_SECRET}'}", "gives your variable AWS_SECRET"),
    ("directories: {sstate: ~/Documents}", "builds write to HOME/Documents"),
    ("directories: {tmp: ./link}", "builds write to HOME/Documents"),
    ("layers: [{name: l, path: ./link}]", "can read HOME/Documents"),
    ("layers: [{name: l, git: 'file:///srv/x', branch: b}]", "fetches file:///srv/x from this machine"),
    ("layers: [{name: l, git: 'git@example.org:x', branch: b}]", "fetches git@example.org:x with your ssh keys"),
    ("host: {recipe: evil}", "the rootfs recipe evil runs commands"),
];

#[test]
fn an_untrusted_project_runs_nothing_before_the_question() {
    let world = World::new();
    let home = world.home.clone();
    for folder in [".ssh", "Documents"] {
        fs::create_dir_all(home.join(folder)).expect("a folder");
    }
    for file in [".ssh/id_rsa", ".bashrc", "Documents/thesis"] {
        fs::write(home.join(file), "mine").expect("a file");
    }
    let project = world.work.join("p");
    fs::create_dir_all(project.join("bb/bin")).expect("folders");
    symlink(home.join("Documents"), project.join("link")).expect("a link");
    fs::write(project.join("bb/bin/bitbake"), "#!/bin/sh\ntouch ran\n").expect("a file");
    fs::write(
        project.join("evil.yaml"),
        "base: {suite: bookworm, distribution: debian}\npackages: []\ncommands: [touch ran]\n",
    )
    .expect("a recipe");
    let smidr = |args: &[&str]| world.smidr().env("SMIDR_TRUST", "0").env("AWS_SECRET", "hunter2").args(args).run();
    for (more, said) in STRANGERS {
        // Not possible for root.
        if is_root() && more.contains("isolation: none") {
            continue;
        }
        let said = said.replace("HOME", &home.display().to_string());
        let rest = if more.contains("layers:") { "" } else { "layers: []\n" };
        let config = format!("name: p\nbase: {{machine: m}}\nbuild: {{image: i}}\n{rest}{more}\n");
        fs::write(project.join("smidr.yaml"), config).expect("a config");
        for args in [&["build"][..], &["build", "--clean"], &["lock"], &["layers", "sync"]] {
            let done = smidr(args);
            done.expect_code(2).expect_one_error().expect_err(&said).expect_err("asks for what you have not granted");
        }
        smidr(&["run", "--", "true"]).expect_code(125).expect_err(&said);
        smidr(&["plan"]).expect_code(0).expect_out("not granted: ");
        let checked = smidr(&["check"]);
        checked.expect_err(&said).expect_err("--trust=sha256:");
        assert_eq!(fs::read_to_string(home.join("Documents/thesis")).expect("still there"), "mine", "{more}");
        assert!(!project.join("ran").exists(), "{more}");
        assert!(!project.join("smidr.lock").exists(), "{more}");
    }
}

#[test]
fn only_new_asks_are_asked_again() {
    let Some(world) = World::with_project("trust::only_new_asks_are_asked_again") else { return };
    let Some(setsid) = tool("setsid") else { return skip("trust::only_new_asks_are_asked_again", "no setsid here") };
    // What `init` has made asks nothing.
    let built = world.smidr().env("SMIDR_TRUST", "0").args(["build", "--target", "libgreet"]).run();
    built.expect_code(0);
    assert!(!built.err.contains("trust") && !built.err.contains("caches "), "{}", built.err);
    fs::create_dir_all(world.work.join("shared")).expect("a folder");
    let host = "\nhost:\n";
    world.edit("smidr.yaml", host, &format!("{host}  binds: [{{source: ../shared, dest: /srv/shared}}]\n"));
    run(&world, "true").expect_code(125).expect_err("not granted");
    let ask = |answer: &str| {
        let program = smidr_bin().display().to_string();
        let command = ["SMIDR_TRUST=0", &program, "run", "--", "sh", "-c", "echo ran > ~/x; echo done"];
        let (mut screen, mut child) = runs_on_terminal(&setsid, &world, Path::new("/usr/bin/env"), &command);
        screen.says("Trust it? [y/N]");
        assert!(screen.seen().contains("can read") && screen.seen().contains("/shared, and send it away"));
        screen.types(answer);
        screen.until_closed();
        let code = child.wait().expect("it ends").code();
        (code, screen.seen().to_owned())
    };
    let trust_is_asked = |world: &World| world.smidr().env("SMIDR_TRUST", "0").args(["run", "--", "true"]).run();
    assert_eq!(ask("n\n").0, Some(125));
    assert_eq!(ask("\x03").0, Some(130), "Ctrl-C at the question");
    trust_is_asked(&world).expect_code(125);
    let (code, seen) = ask("y\n");
    assert_eq!(code, Some(0), "{seen}");
    trust_is_asked(&world).expect_code(0);
    // Ordinary edits ask nothing.
    world.edit("smidr.yaml", "build:\n", "env: {A: b}\nbuild:\n");
    trust_is_asked(&world).expect_code(0);
    world.edit("smidr.yaml", host, &format!("{host}  env: [SECRET]\n"));
    trust_is_asked(&world).expect_code(125).expect_err("gives your variable SECRET");
    let digest = world.smidr().env("SMIDR_TRUST", "0").arg("check").run().err;
    let digest = digest.split("--trust=").nth(1).expect("a digest").lines().next().expect("a line").to_owned();
    let given = |digest: &str| {
        world.smidr().env("SMIDR_TRUST", "0").arg(format!("--trust={digest}")).args(["run", "--", "true"]).run()
    };
    given(&digest).expect_code(0);
    given(&format!("sha256:{}", "0".repeat(64))).expect_code(125).expect_err("asks for something else");
    trust_is_asked(&world).expect_code(125);
    // Patterns are the user's, never the project's.
    let settings = world.smidr.join("settings.yaml");
    fs::write(&settings, format!("trust: [{}]\n", world.work.join("*").display())).expect("settings");
    trust_is_asked(&world).expect_code(0);
    fs::write(&settings, "trsut: []\n").expect("settings");
    trust_is_asked(&world).expect_code(125).expect_err("unknown key `trsut`");
    fs::remove_file(&settings).expect("removed");
    // All of it at once, listed, and taken back.
    world.smidr().arg("trust").run().expect_code(0).expect_out("gives your variable SECRET");
    trust_is_asked(&world).expect_code(0);
    world.smidr().args(["trust", "--list"]).run().expect_code(0).expect_out("p/smidr.yaml");
    world.smidr().arg("untrust").run().expect_code(0);
    trust_is_asked(&world).expect_code(125);
    world.smidr().arg("untrust").run().expect_code(2).expect_err("was not trusted");
}

/// Folders of the build in a repository of the user: builds write to them again and again, and where the index names a submodule in one, the
/// git of this machine would enter what a build puts there.
#[test]
fn folders_of_a_build_in_a_repository() {
    let Some(world) = World::with_project("trust::folders_of_a_build_in_a_repository") else { return };
    if tool("git").is_none() {
        return skip("trust::folders_of_a_build_in_a_repository", "no git here");
    }
    world.edit("smidr.yaml", "build:\n", "directories: {tmp: ./t, downloads: ./dl}\nbuild:\n");
    world.smidr().arg("trust").run().expect_code(0);
    repository(&world);
    probe(&world, "echo x > ${DL_DIR}/x; ls ${DL_DIR}; echo y >> ${TMPDIR}/y");
    for lines in ["y\n", "y\ny\n"] {
        build_probe(&world).expect_code(0);
        assert_eq!(fs::read_to_string(world.project().join("t/y")).expect("written"), lines);
    }
    assert!(world.project().join("dl/x").exists());
    // A link in the place of a folder that users go to.
    probe(&world, "mkdir -p ${TMPDIR}/real/.git; rm -rf ${DEPLOY_DIR}; ln -s real ${DEPLOY_DIR}");
    build_probe(&world).expect_err("t/deploy is new; programs of this machine would obey or follow it");
    assert!(!world.project().join("t/deploy").is_symlink() && world.project().join("t/real").exists());
    probe(&world, "true");
    for (link, folder) in [("dl", "dl"), ("t/work/sub", "t")] {
        let link = format!("160000,1111111111111111111111111111111111111111,{link}");
        git(&world.project(), &["update-index", "--add", "--cacheinfo", &link]).expect_code(0);
        let refused = build_probe(&world);
        refused.expect_code(2).expect_err(&format!("p/{folder}, where the repository")).expect_err("has a submodule");
        run(&world, "true").expect_code(125).expect_err("has a submodule");
        git(&world.project(), &["reset", "-q"]).expect_code(0);
    }
    build_probe(&world).expect_code(0);
}

const REPOSITORIES: &str = r#"
    rm -r git2/evil; mkdir mine; cd mine
    git init -q -b main; git config user.name x; git config user.email x@localhost
    for n in 1 2 3; do echo $n > file; git add file; git commit -qm $n; done; git tag -am v1 v1; cd ..
    for name in packed loose cut forged; do git clone -q --mirror mine git2/$name; git -C git2/$name gc -q; done
    mkdir unpacked; mv git2/loose/objects/pack/*.pack unpacked; cat unpacked/*.pack | git -C git2/loose unpack-objects -q
    for name in packed loose; do
        echo 'touch /tmp/smidr-ran' > git2/$name/hooks/post-checkout; chmod +x git2/$name/hooks/*
        printf '[core]\n\tfsmonitor = touch /tmp/smidr-ran\n' >> git2/$name/config
    done
    # A malformed path of an object, a link to the user's objects, and a FIFO.
    git clone -q --mirror mine git2/placed; git -C git2/placed tag -d v1 > /dev/null; git init -q loose; git -C loose pull -q ../mine main
    object=$(git -C loose rev-parse HEAD); first=$(echo $object | cut -c1-1); two=$(echo $object | cut -c1-2)
    mkdir -p git2/placed/objects/$first; : > git2/placed/objects/$first/$(echo $object | cut -c2-)
    rm -rf git2/placed/objects/$two; ln -s "$PWD/loose/.git/objects/$two" git2/placed/objects/$two
    mkdir -p git2/placed/objects/ab git2/placed/objects/AB
    mkfifo git2/placed/objects/ab/cdef000000000000000000000000000000000000; : > git2/placed/objects/AB/CDEF000000000000000000000000000000000000
    git clone -q --mirror mine git2/borrows; echo "$PWD/mine/.git/objects" > git2/borrows/objects/info/alternates
    git clone -q --bare mine private; git -C private gc -q; mkdir git2/linked; cp private/HEAD git2/linked
    for part in objects refs packed-refs; do ln -s "$PWD/private/$part" git2/linked/$part; done
    git -C mine rev-parse HEAD > git2/cut/shallow
    chmod -R u+w git2; printf 'x' | dd of=$(ls git2/forged/objects/pack/*.pack) bs=1 seek=40 conv=notrunc 2>/dev/null
    rm -r mine unpacked
"#;

#[test]
fn an_untrusted_project_has_its_own_caches() {
    let Some(world) = World::with_project("trust::an_untrusted_project_has_its_own_caches") else { return };
    if tool("git").is_none() {
        return skip("trust::an_untrusted_project_has_its_own_caches", "no git here");
    }
    world.smidr().arg("untrust").run().expect_code(0);
    probe(
        &world,
        "echo poison > ${DL_DIR}/source.tar.gz; echo pickle > ${DL_DIR}/source.tar.gz.done\n\
         mkfifo ${DL_DIR}/other.tar.gz.done; ln -s /etc/passwd ${DL_DIR}/link.tar.gz\n\
         mkdir -p ${DL_DIR}/git2/evil/hooks; echo x > ${SSTATE_DIR}/object",
    );
    build_probe(&world).expect_code(0).expect_err("this project's own").expect_err("smidr trust");
    let own = world.smidr.join("downloads");
    for folder in [&own, &world.smidr.join("sstate-cache")] {
        assert_eq!(World::names(folder), Vec::<String>::new(), "{}", folder.display());
    }
    let domains = world.smidr.join("domains");
    let private = domains.join(World::names(&domains).first().expect("a private domain")).join("downloads");
    let fifo = private.join("other.tar.gz.done");
    assert!(fs::symlink_metadata(&fifo).expect("the FIFO").file_type().is_fifo());
    // Before the next build, everything but downloads is removed.
    let again = world.smidr().env("SMIDR_TRUST", "0").args(["build", "--target", "libgreet"]).run();
    again.expect_code(0).expect_err("things that are no downloads were removed");
    assert!(fs::symlink_metadata(&fifo).is_err() && fs::symlink_metadata(private.join("link.tar.gz")).is_err());
    // As BitBake's git fetcher leaves them, and worse.
    let made = hermetic("sh", &world.home).args(["-ec", REPOSITORIES]).current_dir(&private).status();
    assert!(made.expect("sh runs").success());
    // Trusted from now on: plain files cross, without their `.done`.
    world
        .smidr()
        .arg("trust")
        .run()
        .expect_code(0)
        .expect_err("taken over from its own caches: downloads 1, repositories 2");
    assert!(own.join("source.tar.gz").is_file());
    assert!(!own.join("source.tar.gz.done").exists());
    // Repositories cross as what their objects are.
    assert_eq!(World::names(&own.join("git2")), ["loose", "packed"]);
    for name in ["loose", "packed"] {
        let repository = own.join("git2").join(name);
        git(&repository, &["fsck", "--full", "--strict"]).expect_code(0);
        git(&repository, &["log", "--format=%s", "main"]).expect_code(0).expect_out("3\n2\n1\n");
        git(&repository, &["describe", "main"]).expect_code(0).expect_out("v1");
        let config = fs::read_to_string(repository.join("config")).expect("a config");
        assert!(!config.contains("fsmonitor") && !repository.join("hooks").exists(), "{config}");
        assert!(!repository.join("objects/info/alternates").exists());
    }
    assert_eq!(World::names(&world.smidr.join("sstate-cache")), Vec::<String>::new());
    assert_eq!(World::names(&domains), Vec::<String>::new());
    let shared = world.smidr().env("SMIDR_TRUST", "0").args(["build", "--target", "libgreet"]).run();
    assert!(!shared.expect_code(0).err.contains("this project's own"), "{}", shared.err);
    // A name of its own: shared with those that use it.
    world.append("cache: team\n");
    world.smidr().arg("trust").run().expect_code(0);
    world.smidr().env("SMIDR_TRUST", "0").args(["build", "--target", "libgreet"]).run().expect_code(0);
    assert_eq!(World::names(&domains), ["team"]);
}

#[test]
fn variables_reach_only_servers_that_the_user_allows() {
    let world = World::new();
    let project = world.work.join("p");
    fs::create_dir_all(&project).expect("a folder");
    let smidr = |args: &[&str]| world.smidr().env("TOKEN", "hunter2").args(args).run();
    let addresses = [
        "layers: [{name: l, git: 'https://x:${TOKEN}@127.0.0.1:1/l', branch: b}]",
        "layers: [{name: l, git: 'https://127.0.0.1:1/l', branch: b, mirrors: ['https://127.0.0.1:1/${TOKEN}']}]",
        "host: {image: '127.0.0.1:1/${TOKEN}:x'}",
        "advanced: {sstate_mirrors: ['file://.* https://127.0.0.1:1/${TOKEN}/PATH']}",
        "bitbake: {git: 'https://127.0.0.1:1/${TOKEN}', branch: b}",
    ];
    for address in addresses {
        let config = format!("name: p\nbase: {{machine: m}}\nbuild: {{image: i}}\n{address}\n");
        fs::write(project.join("smidr.yaml"), config).expect("a config");
        for command in ["build", "check", "lock", "plan"] {
            let done = smidr(&[command]);
            done.expect_code(2).expect_err("your variable TOKEN may not stand in an address");
            assert!(!done.err.contains("hunter2"), "{}", done.err);
        }
    }
    fs::create_dir_all(&world.smidr).expect("a folder");
    fs::write(world.smidr.join("settings.yaml"), "address_variables: [TOKEN]\n").expect("settings");
    smidr(&["plan"]).expect_code(0);
}

#[test]
fn folders_of_the_user_are_refused_as_build_folders() {
    let world = World::new();
    world.init("p");
    let thesis = world.home.join("Documents/thesis");
    fs::create_dir_all(thesis.parent().expect("a folder")).expect("a folder");
    fs::write(&thesis, "mine").expect("a file");
    let with = |directories: &str| {
        let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
        let config = config.split("\ndirectories:").next().expect("what is above").to_owned();
        fs::write(world.project().join("smidr.yaml"), format!("{config}\ndirectories: {directories}\n"))
            .expect("a config");
        world.smidr().args(["build", "--clean"]).run()
    };
    for (directories, said) in [
        ("{tmp: ~/Documents}", "is not empty, and no build has used it before"),
        ("{deploy: ~/Documents}", "is not empty, and no build has used it before"),
        ("{build: ~/Documents}", "is not empty, and no build has used it before"),
        ("{sstate: ~/.ssh}", "is a hidden folder of your home"),
        ("{downloads: ~/.config/x}", "is a hidden folder of your home"),
    ] {
        with(directories).expect_code(2).expect_err(said);
        assert_eq!(fs::read_to_string(&thesis).expect("still there"), "mine", "{directories}");
    }
    let images = format!("{{downloads: {}}}", world.smidr.join("images").display());
    with(&images).expect_code(2).expect_err("lies in SMIDR_HOME, which is smidr's own");
}

#[test]
fn waiting_for_a_download_names_its_build() {
    let Some(world) = World::with_project("trust::waiting_for_a_download_names_its_build") else { return };
    let path = world.smidr.join("downloads/x.tar.gz.lock");
    probe(
        &world,
        "python3 -c \"import fcntl; fcntl.flock(open('${DL_DIR}/x.tar.gz.lock', 'w'), fcntl.LOCK_EX)\"\n\
         echo the lock was had > ${TOPDIR}/had",
    );
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let held = fs::File::create(&path).expect("a lock");
    held.lock().expect("held");
    let mut build = world.smidr().args(["build", "--target", "probe"]).start();
    build.until_says(&format!("waiting    for the download x.tar.gz, held by process {}", std::process::id()));
    drop(held);
    build.wait().expect_code(0);
    assert!(top(&world).join("had").exists());
}

#[test]
fn a_layer_at_the_projects_root_with_everything_below_it() {
    let test = "trust::a_layer_at_the_projects_root_with_everything_below_it";
    let Some(world) = World::with_project(test) else { return };
    if tool("git").is_none() {
        return skip(test, "no git here");
    }
    // As in CI, where only the project's folder is kept.
    let project = world.project();
    for name in ["conf", "classes", "recipes-hello"] {
        fs::rename(project.join("layers/meta-hello").join(name), project.join(name)).expect("moved");
    }
    world.edit("smidr.yaml", "path: ./layers/meta-hello", "path: .");
    git(&project, &["init", "-q"]).expect_code(0);
    let home = project.join("home");
    fs::create_dir(&home).expect("a folder");
    fs::create_dir(home.join("locks")).expect("a folder");
    symlink(fs::canonicalize(world.smidr.join("images")).expect("images"), home.join("images")).expect("a link");
    let smidr = |args: &[&str]| world.smidr().env("SMIDR_HOME", &home).args(args).run();
    smidr(&["build", "--target", "libgreet"]).expect_code(0);
    let script = format!(
        "mkdir -p sources/y/.git; cd {0}; echo x > recipes-hello/new; for file in smidr.yaml smidr.lock home/trust.json home/settings.yaml home/version .git/config; do \
         if echo x >> $file; then echo wrote $file; fi; done 2>/dev/null",
        project.display()
    );
    let done = smidr(&["run", "--", "sh", "-c", &script]);
    done.expect_code(0);
    assert_eq!(done.out, "", "{}", done.err);
    assert!(!done.err.contains("is new"), "{}", done.err);
    smidr(&["build", "--target", "libgreet"]).expect_code(0);
}

#[test]
fn the_quarantine_cannot_be_blocked() {
    let test = "trust::the_quarantine_cannot_be_blocked";
    let Some(world) = World::with_project(test) else { return };
    if tool("git").is_none() {
        return skip(test, "no git here");
    }
    let layer = world.project().join("layers/meta-hello");
    git(&layer, &["init", "-q", "--bare", "fixture.git"]).expect_code(0);
    let long = "a".repeat(240);
    let script = format!(
        "cd {0}\n\
         mkdir -p {long}/.git aa zz/.git common/sub/objects common/sub/refs w/HEAD w/objects w/refs\n\
         ln -s /etc/passwd aa/x; chmod 555 aa; chmod 444 w\n\
         echo 'ref: refs/heads/x' > common/HEAD; echo sub > common/commondir\n\
         if echo x >> fixture.git/config; then echo wrote a config; fi 2>/dev/null\n\
         if mv fixture.git away; then echo moved a repository; fi 2>/dev/null; true",
        layer.display()
    );
    let done = run(&world, &script);
    done.expect_code(0);
    assert_eq!(done.out, "", "{}", done.err);
    for name in [&format!("{long}/.git"), "aa/x", "zz/.git", "common/HEAD", "w/HEAD"] {
        assert!(fs::symlink_metadata(layer.join(name)).is_err(), "{name} is still there\n{}", done.err);
    }
    let again = run(&world, "true");
    again.expect_code(0);
    assert!(!again.err.contains("is new"), "{}", again.err);
}

#[test]
fn a_projects_recipe_cannot_replace_another_image() {
    let Some(world) = World::with_project("trust::a_projects_recipe_cannot_replace_another_image") else { return };
    let digest = |name: &str| {
        let list = world.smidr().args(["image", "ls", "--json"]).run().json();
        let images = list["images"].as_array().expect("a list").clone();
        images.iter().find(|image| image["name"] == name).map(|image| image["digest"].to_string())
    };
    let before = digest("hello").expect("the image of hello");
    // In an untrusted project: the name of one of smidr's recipes, with changed content.
    world.write("hello.yaml", "base: {image: hello}\nenv: {PLANTED: \"1\"}\n");
    fs::remove_file(world.project().join("smidr.lock")).ok();
    let done = world.smidr().args(["run", "--", "sh", "-c", "echo planted $PLANTED"]).run();
    done.expect_code(0).expect_out("planted 1");
    assert_eq!(digest("hello"), Some(before), "{}", done.err);
}

#[test]
fn endless_files_of_a_project_are_refused() {
    let world = World::new();
    world.init("p");
    symlink("/dev/zero", world.project().join("smidr.lock")).expect("a link");
    world.smidr().arg("build").run().expect_one_error().expect_err("smidr.lock").expect_err("it is not a regular file");
    fs::remove_file(world.project().join("smidr.lock")).expect("removed");
    symlink("/dev/zero", world.project().join("zero")).expect("a link");
    world.edit("smidr.yaml", "recipe: hello", "recipe: ./zero");
    world.smidr().arg("build").run().expect_one_error().expect_err("it is not a regular file");
}

#[test]
fn logins_are_granted_by_address() {
    let Some(yard) = Yard::new("trust::logins_are_granted_by_address") else { return };
    let world = World::new();
    let layer = yard.repository("meta-x");
    layer.commit("conf/layer.conf", "BBFILE_COLLECTIONS += \"x\"\nBBFILE_PATTERN_x = \"^${LAYERDIR}/\"\n");
    let server = Server::start(&yard);
    server.behave(Manners { login: Some(("me".into(), "hunter2".into())), ..Manners::default() });
    let helper = "[credential]\n\thelper = \"!f() { echo username=me; echo password=hunter2; }; f\"\n";
    fs::write(world.home.join(".gitconfig"), helper).expect("a file");
    let project = world.work.join("p");
    fs::create_dir_all(&project).expect("a folder");
    let config = |url: &str| {
        let text = format!(
            "name: p\nbase: {{machine: m}}\nbuild: {{image: i}}\nlayers: [{{name: meta-x, git: '{url}', branch: main}}]\n"
        );
        fs::write(project.join("smidr.yaml"), text).expect("a config");
    };
    let smidr = |args: &[&str]| world.smidr().env("SMIDR_TRUST", "0").args(args).run();
    config(&server.url("meta-x"));
    let sync = || smidr(&["layers", "sync"]);
    sync().expect_code(2).expect_err("wants a login").expect_err("smidr trust --login http");
    assert!(!server.log().to_lowercase().contains("authorization"), "{}", server.log());
    smidr(&["trust", "--login", &server.base()]).expect_code(0).expect_out("your logins and ssh keys open at http");
    sync().expect_code(0);
    smidr(&["untrust"]).expect_code(0);
    // A grant covers only itself; patterns and SMIDR_TRUST=1 grant all.
    fs::remove_dir_all(world.smidr.join("layers")).expect("a store");
    fs::remove_file(project.join("smidr.lock")).expect("a lock");
    sync().expect_code(2);
    world.smidr().args(["layers", "sync"]).run().expect_code(0);
}

#[test]
fn a_granted_repository_brings_submodules_from_beside_it_only() {
    let Some(yard) = Yard::new("trust::a_granted_repository_brings_submodules_from_beside_it_only") else { return };
    let (top, lib, other) = (yard.repository("meta-x"), yard.repository("lib"), yard.repository("../other"));
    symlink(yard.path().join("other"), yard.path().join("srv/link")).expect("a link");
    top.commit("conf/layer.conf", "BBFILE_COLLECTIONS += \"x\"\nBBFILE_PATTERN_x = \"^${LAYERDIR}/\"\n");
    let world = World::new();
    let project = world.work.join("p");
    fs::create_dir_all(&project).expect("a folder");
    let layer = format!("layers: [{{name: meta-x, git: '{}', branch: main}}]", top.url());
    let config = format!("name: p\nbase: {{machine: m}}\nbuild: {{image: i}}\n{layer}\n");
    fs::write(project.join("smidr.yaml"), config).expect("a config");
    world.smidr().env("SMIDR_TRUST", "0").arg("trust").run().expect_code(0);
    let elsewhere = other.path.display().to_string();
    for (url, of, good) in [
        ("../lib", &lib, true),
        (&lib.url(), &lib, true),
        (&elsewhere, &other, false),
        (&format!("file://{elsewhere}"), &other, false),
        ("../link", &other, false),
        ("../../other", &other, false),
        ("ssh://git@localhost/x", &other, false),
    ] {
        let _ = fs::remove_dir_all(world.smidr.join("layers"));
        let _ = fs::remove_file(project.join("smidr.lock"));
        fs::write(top.path.join(".gitmodules"), format!("[submodule \"sub\"]\n\tpath = sub\n\turl = {url}\n"))
            .expect("a file");
        top.git(&["add", ".gitmodules"]);
        top.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},sub", of.at("HEAD"))]);
        top.git(&["commit", "-qm", url]);
        let done = world.smidr().env("SMIDR_TRUST", "0").args(["layers", "sync"]).run();
        if good {
            done.expect_code(0);
            continue;
        }
        done.expect_code(2).expect_err("not been granted").expect_err("smidr trust --login");
        if !url.starts_with("ssh") {
            world.smidr().args(["layers", "sync"]).run().expect_code(0);
        }
    }
}
