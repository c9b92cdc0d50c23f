//! Failing builds: each has one clear reason and the right exit code, and loses nothing.

use std::{fs, process::Command};

use super::support::{Done, World, is_root, skip, smidr_bin, tool};

/// A recipe with one task that runs a script.
pub(crate) fn recipe(world: &World, name: &str, script: &str) {
    let text = format!(
        "LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\ndo_act() {{\n{script}\n}}\n"
    );
    world.write(&format!("layers/meta-hello/recipes-test/{name}/{name}.bb"), &text);
}

#[test]
fn a_compiler_error_is_shown() {
    let Some(world) = World::with_project("trouble::a_compiler_error_is_shown") else { return };
    world.edit("layers/meta-hello/recipes-hello/hello/files/hello.c", "greet(text, sizeof", "greet(txt, sizeof");
    let done = world.smidr().args(["build", "--target", "hello"]).run();
    done.expect_code(1)
        .expect_err("hello.c:11:15: error: ")
        .expect_err("undeclared")
        .expect_err("failed in hello:do_compile");
    let id = done.build_id();
    let log = world.smidr().args(["logs", &id, "--task", "hello:do_compile"]).run();
    log.expect_code(0).expect_out("undeclared (first use in this function)");
    let why = world.smidr().args(["explain", &id, "--json"]).run().expect_code(0).json();
    let why = &why["diagnoses"][0];
    assert_eq!([&why["kind"], &why["recipe"], &why["task"]], ["compile-error", "hello", "do_compile"], "{why}");
    assert_eq!((&why["source"]["line"], why["first_error"]["line"].as_u64().is_some()), (&11.into(), true), "{why}");
    world.smidr().args(["explain"]).run().expect_code(0).expect_out("hello:do_compile").expect_out("undeclared");
    let status = world.smidr().args(["status", &id, "--json"]).run().json();
    let outcome = &status["build"]["outcome"];
    assert_eq!((&status["build"]["state"], &outcome["bitbake_exit"]), (&"FAILED".into(), &1.into()));
    assert_eq!(outcome["failed"][0]["recipe"], "hello");
    assert!(
        outcome["failed"][0]["reasons"][0].as_str().is_some_and(|reason| reason.contains("undeclared")),
        "{outcome}"
    );
    done.expect_err("\nerror: ").expect_err("(task ").expect_err(&format!("\nshell:  smidr shell {id}\n"));
    // As a table, of which the rows can be chosen; and one build, with times of this place.
    let table = world.smidr().args(["status", "--state", "failed"]).run();
    let rows: Vec<&str> = table.expect_code(0).out.lines().collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows[0].starts_with("ID ") && rows[0].find("STATE") == rows[1].find("FAILED"), "{rows:?}");
    world.smidr().args(["status", "--state", "building"]).run().expect_code(0).expect_err("no such builds");
    world.smidr().args(["status", "--state", "nothing"]).run().expect_code(2);
    let one = world.smidr().env("TZ", "XYZ-3").args(["status", &id]).run();
    one.expect_code(0).expect_out(" XYZ\n").expect_out("because    hello.c:11:15: error: ");
    let kept = outcome["failed"][0]["log"].as_str().expect("a log").to_owned();
    assert!(kept.starts_with(&world.smidr.join("builds").join(&id).display().to_string()), "{kept}");
    world.smidr().args(["artifacts", "list", &id]).run().expect_code(0).expect_err("left nothing behind");
    // Repaired, it builds; the old log is still the old one.
    world.edit("layers/meta-hello/recipes-hello/hello/files/hello.c", "greet(txt, sizeof", "greet(text, sizeof");
    world.smidr().args(["build", "--target", "hello"]).run().expect_code(0);
    assert!(fs::read_to_string(kept).expect("the log").contains("undeclared (first use in this function)"));
}

#[test]
fn unknown_targets_and_broken_recipes() {
    let Some(world) = World::with_project("trouble::unknown_targets_and_broken_recipes") else { return };
    let near = world.smidr().args(["build", "--target", "hello-imag"]).run();
    assert!(matches!(near.code, Some(1 | 2)), "{near:?}");
    near.expect_err("hello-imag").expect_err("hello-image");
    let why = world.smidr().args(["explain", "--json"]).run().expect_code(0).json();
    assert_eq!(why["diagnoses"][0]["kind"], "provider-unknown", "{why}");
    world.smidr().args(["build", "--target", "a b"]).run().expect_code(2).expect_one_error();
    let machine = world.smidr().args(["build", "--machine", "other"]).run();
    machine.expect_code(2).expect_one_error().expect_err("no layer has the machine `other`").expect_err("hello-x86-64");
    world.edit("smidr.yaml", "distro: hello", "distro: helo");
    let distro = world.smidr().arg("build").run();
    distro
        .expect_code(2)
        .expect_one_error()
        .expect_err("no layer has the distro `helo`")
        .expect_err("did you mean `hello`?");
    world.edit("smidr.yaml", "distro: helo", "distro: hello");
    world.write("layers/meta-hello/recipes-test/broken/broken.bb", "LICENSE = \"MIT\"\nthis is no recipe\n");
    let parse = world.smidr().arg("build").run();
    parse.expect_code(1).expect_err("broken.bb:2").expect_err("this is no recipe");
    let why = world.smidr().args(["explain", "--json"]).run().expect_code(0).json();
    assert_eq!([&why["diagnoses"][0]["kind"], &why["diagnoses"][0]["recipe"]], ["parse-error", "broken"], "{why}");
    let states = world.smidr().args(["status", "--json"]).run().json();
    let builds = states["builds"].as_array().expect("a list");
    assert!(builds.iter().all(|build| build["state"] == "FAILED"), "{states}");
    assert_eq!(builds.len(), 2, "what was refused before it began is no build: {states}");
}

#[test]
fn links_out_of_the_build_are_not_followed() {
    let Some(world) = World::with_project("trouble::links_out_of_the_build_are_not_followed") else { return };
    let outside = world.work.join("outside/images/hello-x86-64");
    fs::create_dir_all(&outside).expect("folders");
    fs::write(outside.join("secret"), "mine").expect("a file");
    let outside = world.work.join("outside").display().to_string();
    recipe(&world, "linker", &format!("    rm -rf ${{DEPLOY_DIR}}; ln -s {outside} ${{DEPLOY_DIR}}"));
    // Whatever else writes there has to be done by then.
    let after = "do_act[depends] = \"linker:do_populate_lic\"\n";
    let path = "layers/meta-hello/recipes-test/linker/linker.bb";
    let text = fs::read_to_string(world.project().join(path)).expect("a recipe");
    world.write(path, &format!("{text}{after}"));
    let done = world.smidr().args(["build", "--target", "linker"]).run();
    done.expect_code(1)
        .expect_one_error()
        .expect_err("leads through a symbolic link")
        .expect_err("smidr build --clean");
    let id =
        world.smidr().args(["status", "--json"]).run().json()["builds"][0]["id"].as_str().expect("an id").to_owned();
    assert!(!world.smidr.join("builds").join(&id).join("artifacts").exists());
    // The log of a task that did not fail stays in the workspace, where the next build may replace it.
    let log = |id: &str| world.smidr().args(["logs", id, "--task", "linker:do_act"]).run();
    log(&id).expect_code(0);
    let workspace = World::names(&world.smidr.join("workspaces"))[0].clone();
    let temp = world.smidr.join("workspaces").join(workspace).join("build/tmp/work");
    let logs = walkdir::WalkDir::new(temp)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file() && entry.file_name().to_string_lossy().starts_with("log.do_act."));
    for entry in logs {
        fs::remove_file(entry.path()).expect("remove a log");
        std::os::unix::fs::symlink(world.work.join("outside/images/hello-x86-64/secret"), entry.path())
            .expect("a link");
    }
    let linked = log(&id);
    assert!(linked.code != Some(0) && !linked.out.contains("mine"), "{linked:?}");
}

#[test]
fn a_clean_build_removes_folders_that_can_only_be_read() {
    let Some(world) = World::with_project("trouble::a_clean_build_removes_folders_that_can_only_be_read") else {
        return;
    };
    // As Go's module cache has them. Root would not notice.
    let close = "mkdir -p tmp/closed/inner && echo x > tmp/closed/inner/file && chmod 500 tmp/closed/inner tmp/closed";
    world.smidr().args(["run", "--", "sh", "-c", close]).run().expect_code(0);
    let workspaces = world.smidr.join("workspaces");
    let closed = workspaces.join(&World::names(&workspaces)[0]).join("build/tmp/closed");
    assert!(closed.join("inner/file").exists());
    world.smidr().args(["build", "--clean", "--fetch-only", "--target", "libgreet"]).run().expect_code(0);
    assert!(!closed.exists());
}

#[test]
fn build_timeout_stops_the_build() {
    let Some(world) = World::with_project("trouble::build_timeout_stops_the_build") else { return };
    recipe(&world, "slow", "    exec sleep 1000");
    world.append("advanced: {build_timeout: 6s}\n");
    let done = world.smidr().args(["build", "--target", "slow"]).run();
    done.expect_code(1).expect_err("advanced.build_timeout");
    let status = world.smidr().args(["status", &done.build_id()]).run();
    status.expect_code(0).expect_out("FAILED").expect_out("advanced.build_timeout");
}

#[test]
fn a_full_disk() {
    let name = "trouble::a_full_disk";
    if !is_root() {
        return skip(name, "only root can mount a small file system");
    }
    let Some(unshare) = tool("unshare") else { return skip(name, "there is no unshare(1)") };
    let Some(world) = World::with_project(name) else { return };
    recipe(&world, "fat", "    dd if=/dev/zero of=fat bs=1M count=200");
    // In a mount namespace of its own: the workspaces are 60 MiB, and full of it after the first task.
    let workspaces = world.smidr.join("workspaces");
    fs::create_dir_all(&workspaces).expect("a folder");
    let small = |script: &str, args: &[&str]| {
        let mut command = Command::new(&unshare);
        world.surround(&mut command);
        command.current_dir(world.project());
        let script = format!("mount -t tmpfs -o size=60m,mode=700 small \"$W\" || exit 99; {script}");
        command.env("W", &workspaces).env("H", &world.smidr);
        command.args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(smidr_bin()).args(args);
        Done::new(command.output().expect("unshare starts"))
    };
    // BitBake's disk monitor looks once a second, and would be there first on a slow machine.
    let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    world.append("advanced: {disk_monitoring: false}\n");
    let done = small("exec \"$@\"", &["build", "--target", "fat"]);
    if done.code == Some(99) {
        return skip(name, "nothing can be mounted here");
    }
    done.expect_code(3).expect_err("No space left on device").expect_err("df -h");
    let full = small("dd if=/dev/zero of=\"$W/fill\" bs=1M 2>/dev/null; exec \"$@\"", &["build"]);
    full.expect_code(3).expect_one_error().expect_err("No space left on device").expect_err("df -h");
    // With the monitor, the build ends before the disk is full, and says the same.
    world.write("smidr.yaml", &config);
    recipe(&world, "patient", "    sleep 5");
    let stopped = small("exec \"$@\"", &["build", "--target", "patient"]);
    stopped.expect_code(3).expect_err("the disk space monitor action is").expect_err("df -h");
    assert!(!stopped.err.contains("Traceback"), "{}", stopped.err);
    // With room again, nothing is damaged.
    world.smidr().args(["build", "--target", "libgreet"]).run().expect_code(0);
    let import = small("exec \"$@\"", &["status"]);
    import.expect_code(0).expect_out("FAILED").expect_out("COMPLETED");
}

#[test]
fn a_store_on_a_full_disk() {
    let name = "trouble::a_store_on_a_full_disk";
    if !is_root() {
        return skip(name, "only root can mount a small file system");
    }
    let Some(unshare) = tool("unshare") else { return skip(name, "there is no unshare(1)") };
    let world = World::new();
    fs::create_dir(&world.smidr).expect("a folder");
    let tar = world.work.join("big.tar");
    let mut builder = tar::Builder::new(fs::File::create(&tar).expect("a file"));
    let mut header = tar::Header::new_gnu();
    header.set_size(30 << 20);
    header.set_mode(0o644);
    builder.append_data(&mut header, "big", std::io::Read::take(std::io::repeat(7), 30 << 20)).expect("an entry");
    builder.finish().expect("the end");
    let mut command = Command::new(unshare);
    world.surround(&mut command);
    let script = "mount -t tmpfs -o size=40m,mode=700 small \"$SMIDR_HOME\" || exit 99; \"$1\" image import \"$2\" --name big; \
                  code=$?; find \"$SMIDR_HOME/images\" -type f; exit $code";
    command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]).arg(smidr_bin()).arg(&tar);
    let done = Done::new(command.output().expect("unshare starts"));
    if done.code == Some(99) {
        return skip(name, "nothing can be mounted here");
    }
    done.expect_code(3).expect_one_error().expect_err("No space left on device").expect_err("df -h");
    assert_eq!(done.out, "", "nothing is left in the store");
}

/// Names and kinds of what a build told of tasks, sorted.
fn tasks_told(done: &Done) -> Vec<String> {
    let events = done.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an event"));
    let told = events.filter_map(|event| {
        let kind = event["event"].as_str()?;
        let is_told = ["task_started", "task_ended"].contains(&kind);
        is_told.then(|| format!("{} {kind} {} {} {}", event["recipe"], event["task"], event["setscene"], event["ok"]))
    });
    let mut told: Vec<String> = told.collect();
    told.sort();
    told
}

#[test]
fn a_bitbake_that_the_user_interface_does_not_fit_is_read_by_its_console() {
    let name = "trouble::a_bitbake_that_the_user_interface_does_not_fit_is_read_by_its_console";
    let Some(world) = World::with_project(name) else { return };
    let build = |targets: &[&str]| {
        let targets = targets.iter().flat_map(|target| ["--target", target]);
        world.smidr().args(["build", "--clean", "--events", "json"]).args(targets).args(["--", "-k"]).run()
    };
    let usual = build(&["hello-image"]);
    usual.expect_code(0);
    let folder = world.project().join("layers/meta-hello/python");
    world.write("layers/meta-hello/python/sitecustomize.py", "import sys\nsys.modules['bb.ui.smidr'] = None\n");
    world.append(&format!("env: {{PYTHONPATH: {}}}\n", folder.display()));
    let read = build(&["hello-image"]);
    read.expect_code(0).expect_out("does not fit this BitBake").expect_out("\"event\":\"artifact_kept\"");
    assert_eq!(tasks_told(&read), tasks_told(&usual));
    // A dry run has no artifacts.
    let dry = world.smidr().args(["build", "--events", "json", "--", "-n"]).run();
    assert!(!dry.expect_code(0).out.contains("artifact_kept"), "{}", dry.out);
    recipe(&world, "fails", "echo 'a.c:1:2: error: first'; exit 1");
    recipe(&world, "dies", "kill -9 $$");
    world.edit("layers/meta-hello/recipes-hello/hello/files/hello.c", "greet(text, sizeof", "greet(txt, sizeof");
    let broken = build(&["fails", "hello", "dies", "libgreet"]);
    broken.expect_code(1);
    let id = broken.out.lines().next().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let id = id.expect("an event")["build"].as_str().expect("an id").to_owned();
    let outcome = &world.smidr().args(["status", &id, "--json"]).run().json()["build"]["outcome"];
    let mut failed: Vec<String> = outcome["failed"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|task| format!("{}:{} {}", task["recipe"], task["task"], task["log"].is_string()))
        .collect();
    failed.sort();
    assert_eq!(failed, ["\"dies\":\"do_act\" true", "\"fails\":\"do_act\" true", "\"hello\":\"do_compile\" true"]);
    let why = world.smidr().args(["explain", &id]).run();
    why.expect_code(0).expect_out("hello.c:11").expect_out("a.c:1:2: error: first");
    // No provider and no recipe are told, too.
    let missing = world.smidr().args(["build", "--target", "nothing-there"]).run();
    missing.expect_code(1).expect_err("nothing provides `nothing-there`");
    let told = world.smidr().args(["logs", &missing.build_id(), "--json"]).run();
    told.expect_code(0).expect_out("\"event\":\"no_provider\",\"item\":\"nothing-there\"");
    assert_eq!(missing.err.matches("does not fit this BitBake").count(), 1, "{}", missing.err);
}
