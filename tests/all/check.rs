//! `smidr check`: everything that can be known without the network at once, one error for one mistake, each at its line.

use std::fs;

use super::support::{World, is_root, skip};

/// The places of all errors in what was said, and nothing else.
fn places(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.trim_start().strip_prefix("--> ")).collect()
}

#[test]
fn one_mistake_is_one_error_at_its_place() {
    let world = World::new();
    world.init("p");
    let original = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let rows: &[(&str, &str, &[&str], &str)] = &[
        ("name: p", "nmae: p", &["did you mean `name`?"], "2:1"),
        ("name: p", "name: a b", &["`a b` cannot name a project"], "2:7"),
        ("image: hello-image", "imgae: hello-image", &["unknown key `build.imgae`"], "14:3"),
        ("build:", "biuld:", &["did you mean `build`?"], "13:1"),
        ("base:", "bsae:", &["did you mean `base`?"], "5:1"),
        ("layers:\n", "laeyrs:\n", &["did you mean `layers`?"], "9:1"),
        ("machine: hello", "mahcine: hello", &["did you mean `machine`?"], "6:3"),
        ("path: ./", "pth: ./", &["did you mean `path`?"], "11:5"),
        ("base:\n  machine: hello-x86-64\n  distro: hello\n", "base: x\n", &["base must be a mapping"], "5:7"),
        ("machine: hello-x86-64", "machine: foo", &["no layer has the machine `foo`", "hello-x86-64"], "6:12"),
        ("distro: hello", "distro: helo", &["no layer has the distro `helo`", "did you mean `hello`?"], "7:11"),
        ("image: hello-image", "image: hello-imgae", &["did you mean `hello-image`?"], "14:10"),
        ("./layers/meta-hello", "./layers/gone", &["layers/gone does not exist"], "11:11"),
        ("./layers/meta-hello", "./layers/meta-hello/classes", &["holds no conf/layer.conf"], "11:11"),
        (
            "path: ./layers/meta-hello",
            "path: ./layers\n    sublayers: {include: [meta-helo]}",
            &["`meta-helo`"],
            "12:27",
        ),
        ("recipe: hello", "recipe: helo", &["did you mean `hello`?"], "18:11"),
        ("recipe: hello", "image: not-here", &["smidr image import FILE"], "18:10"),
        ("recipe: hello", "recipe: hello\n  binds: [{source: /tmp/none}]", &["the bind /tmp/none"], "19:20"),
        ("recipe: hello", "recipe: hello\n  binds: [{source: /proc/1}]", &["belongs to the kernel"], "19:20"),
        ("recipe: hello", "recipe: hello\n  netrc: ./no", &["cannot read the netrc"], "19:10"),
        ("recipe: hello", "recipe: hello\n  git_credentials: ./no", &["cannot read the git cred"], "19:20"),
        ("name: p", "name: p\ndirectories: {deploy: /, downloads: ./dl}", &["holds your project"], "3:23"),
        ("name: p", "name: p\ndirectories: {downloads: /x y}", &["holds a space"], "3:26"),
    ];
    for (old, new, expected, place) in rows {
        world.write("smidr.yaml", &original.replace(old, new));
        let done = world.smidr().arg("check").run();
        done.expect_code(2).expect_one_error();
        expected.iter().for_each(|part| _ = done.expect_err(part));
        assert_eq!(places(&done.err), [format!("smidr.yaml:{place}")], "{new}:\n{}", done.err);
    }
    world.write("smidr.yaml", "- a\n- b\n");
    let list = world.smidr().arg("check").run();
    assert_eq!(places(&list.expect_code(2).expect_one_error().err), ["smidr.yaml:1:1"]);
}

#[test]
fn no_mistake_hides_another() {
    let world = World::new();
    world.init("p");
    world.edit("smidr.yaml", "name: p", "nmae: p");
    world.edit("smidr.yaml", "machine: hello-x86-64", "machine: foo");
    world.edit("smidr.yaml", "distro: hello", "distro: helo");
    world.edit("smidr.yaml", "recipe: hello", "recipe: helo\n  netrc: ./no\n  binds: [{source: /none}]");
    world.append("directories: {deploy: /}\nvariants: {v: {build: {image: hello-imgae}}}\n");
    let done = world.smidr().arg("check").run();
    let wanted = ["2:1", "6:12", "7:11", "18:11", "19:10", "20:20", "21:23", "22:31"];
    let wanted: Vec<String> = wanted.iter().map(|place| format!("smidr.yaml:{place}")).collect();
    assert_eq!(places(&done.expect_code(2).err), wanted, "{}", done.err);
    done.expect_err("with --variant v:");
    // A layer that is gone does not hide what needs no layer; what needs all layers is not guessed.
    world.edit("smidr.yaml", "path: ./layers/meta-hello", "path: ./gone");
    let done = world.smidr().arg("check").run();
    let places = places(&done.expect_code(2).err);
    assert!(places.contains(&"smidr.yaml:11:11") && places.contains(&"smidr.yaml:18:11"), "{}", done.err);
    assert!(!done.err.contains("no layer has"), "{}", done.err);
}

#[test]
fn targets_that_have_no_file_of_their_name_are_left_to_bitbake() {
    let world = World::new();
    world.init("p");
    world.edit("smidr.yaml", "image: hello-image", "image: virtual-thing");
    world.smidr().arg("check").run().expect_code(2).expect_err("no layer has a recipe for the target `virtual-thing`");
    world.write("layers/meta-hello/recipes-x/x/x_1.bb", "PROVIDES = \"virtual-thing\"\n");
    world.smidr().arg("check").run().expect_code(0);
    for target in ["hello-native", "lib32-hello", "mc:x:hello", "hello:do_compile", "world"] {
        world.edit("smidr.yaml", "image: ", &format!("image: {target} # "));
        world.smidr().arg("check").run().expect_code(0);
    }
}

#[test]
fn a_variant_of_the_command_line_has_no_place_in_the_config() {
    let world = World::new();
    world.init("p");
    world.append("variants: {debug: {}, release: {}}\n");
    for command in ["check", "plan", "build"] {
        let done = world.smidr().args([command, "--variant", "debg"]).run();
        done.expect_code(2).expect_one_error().expect_err("--variant").expect_err("did you mean `debug`?");
        assert!(!done.err.contains("-->"), "{}", done.err);
    }
    world.smidr().args(["check", "--variant", "x"]).run().expect_code(2).expect_err("there are: debug, release");
}

#[test]
fn who_only_looks_need_not_own_the_folder() {
    if !is_root() {
        return skip("check::who_only_looks_need_not_own_the_folder", "only root can give a folder away");
    }
    let world = World::new();
    world.init("p");
    std::os::unix::fs::chown(world.project(), Some(4242), None).expect("given away");
    world.smidr().arg("check").run().expect_code(0);
    world.smidr().arg("plan").run().expect_code(0);
    let build = world.smidr().arg("build").run();
    build.expect_code(3).expect_one_error().expect_err("belongs to another user");
    let home = world.work.join("home-of-another");
    fs::create_dir(&home).expect("a folder");
    std::os::unix::fs::chown(&home, Some(4242), None).expect("given away");
    std::os::unix::fs::chown(world.project(), Some(0), None).expect("taken back");
    let home = world.smidr().arg("build").env("SMIDR_HOME", &home).run();
    home.expect_code(3).expect_one_error().expect_err("export SMIDR_HOME=DIR");
    assert!(!(build.err + &home.err).contains("chown"));
}

#[test]
fn a_folder_is_not_a_config() {
    let world = World::new();
    world.init("p");
    let done = world.smidr().args(["-c", "/", "check"]).run();
    done.expect_code(2).expect_one_error().expect_err("/ is a folder, and --config names a file");
    let done = world.smidr().args(["-c", ".", "build"]).run();
    done.expect_code(2).expect_one_error().expect_err("smidr -c ./smidr.yaml");
}

#[test]
fn conflicts_of_git_are_named() {
    let world = World::new();
    world.init("p");
    let original = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    world.edit("smidr.yaml", "name: p\n", "<<<<<<< HEAD\nname: p\n=======\nname: q\n>>>>>>> other\n");
    for command in ["check", "build"] {
        let done = world.smidr().arg(command).run();
        done.expect_code(2).expect_one_error().expect_err("git has left a merge conflict here");
        assert_eq!(places(&done.err), ["smidr.yaml:2:1"]);
    }
    world.write("smidr.yaml", &original);
    let conflict = "version: 1\n<<<<<<< HEAD\nconfig: sha256:00\n=======\nconfig: sha256:11\n>>>>>>> other\n";
    world.write("smidr.lock", conflict);
    for command in ["check", "plan", "build"] {
        let done = world.smidr().arg(command).run();
        done.expect_code(2).expect_one_error().expect_err("merge conflict").expect_err("smidr lock");
        assert_eq!(places(&done.err), ["smidr.lock:2:1"]);
    }
}

#[test]
fn no_value_of_env_changes_silently() {
    let Some(world) = World::with_project("check::no_value_of_env_changes_silently") else { return };
    world.write(
        "layers/meta-hello/recipes-test/teller/teller.bb",
        "LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\npython do_act() {\n    import os\n    \
         for name in (\"CERT\", \"QUOTES\", \"PATTERN\"):\n        bb.warn(\"%s %r %s\" % (name, d.getVar(name), d.getVar(name) == os.environ[name]))\n}\n",
    );
    world.append(
        "env:\n  CERT: |\n    -----BEGIN {\n    a=\n  QUOTES: \"it's \\\"$${MACHINE}\\\"\"\n  PATTERN: 'a\\.b{2}'\n",
    );
    let done = world.smidr().args(["build", "--target", "teller"]).run();
    done.expect_code(0)
        .expect_err(r"CERT '-----BEGIN {\na=\n' True")
        .expect_err(r#"QUOTES 'it\'s "hello-x86-64"' True"#)
        .expect_err(r"PATTERN 'a\\.b{2}' True");
    let check = world.smidr().arg("check").run();
    check.expect_code(0).expect_err("warning: env.CERT: BitBake gives shell tasks a space for each line break");
    assert!(!check.err.contains("env.QUOTES"), "{}", check.err);
    for bad in [r"'x\'", r"'a\\b'", r"'a\$b'", r#"'a\"b'"#, "\"a\\0b\""] {
        world.edit("smidr.yaml", "env:\n", &format!("env:\n  BAD: {bad}\n"));
        for command in ["check", "build"] {
            let done = world.smidr().arg(command).run();
            done.expect_code(2).expect_one_error().expect_err("env.BAD: ").expect_err("smidr.yaml:20:8");
        }
        world.edit("smidr.yaml", &format!("  BAD: {bad}\n"), "");
    }
}

#[test]
fn errors_of_bitbake_have_the_line_that_asked() {
    let Some(world) = World::with_project("check::errors_of_bitbake_have_the_line_that_asked") else { return };
    let original = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let rows: &[(&str, &str, &str)] = &[
        ("local_conf: |\n  A = \"1\"\n  FOO bar\n", "BitBake cannot read this: unparsed line: 'FOO bar'", "21:3"),
        ("local_conf: |\n  require conf/nope.inc\n", "Could not include required file conf/nope.inc", "20:3"),
        ("features: {inherit_classes: [nope]}\n", "no layer has the class `nope`", "19:30"),
        ("local_conf: 'B := \"${@foo()}\"'\n", "BitBake cannot expand ", "19:14"),
    ];
    for (text, title, place) in rows {
        world.write("smidr.yaml", &format!("{original}{text}"));
        let done = world.smidr().arg("build").run();
        done.expect_code(1).expect_err(title);
        assert_eq!(places(&done.err), [format!("smidr.yaml:{place}")], "{text}:\n{}", done.err);
        assert!(!done.err.contains("ConfHandler"), "{}", done.err);
    }
    world.write("smidr.yaml", &original);
    world.edit("smidr.yaml", "  image: hello-image\n", "  image: hello-image\n  extra_packages: [strace]\n");
    let done = world.smidr().arg("build").run();
    assert_eq!(places(&done.expect_code(1).expect_err("nothing provides `strace`").err), ["smidr.yaml:15:20"]);
    world.write("smidr.yaml", &original);
    // The command line has no line in the config.
    let done = world.smidr().args(["build", "--target", "hello-imgae"]).run();
    assert_eq!(places(&done.expect_code(1).expect_err("nothing provides `hello-imgae`").err), Vec::<&str>::new());
    let done = world.smidr().args(["build", "--", "--nope"]).run();
    done.expect_code(2).expect_one_error().expect_err("what stands behind -- goes to BitBake").expect_err("--nope");
}

#[test]
fn a_limit_that_is_reached_is_named() {
    let name = "check::a_limit_that_is_reached_is_named";
    let Some(world) = World::with_project(name) else { return };
    world.edit("smidr.yaml", "  recipe: hello\n", "  recipe: hello\n  tasks: 5\n");
    world.smidr().arg("check").run().expect_code(0).expect_err("BitBake cannot build with 5 processes");
    let done = world.smidr().arg("build").run();
    if done.err.contains("host.tasks 5 is not enforced") {
        return skip(name, "no limit of processes holds for this user");
    }
    done.expect_code(3).expect_one_error().expect_err("may have 5 at once (host.tasks)").expect_err("host: {tasks: ");
}

#[test]
fn a_home_that_is_not_smidrs_is_refused_by_every_command() {
    let world = World::new();
    world.init("p");
    let file = world.work.join("file");
    fs::write(&file, "x").expect("a file");
    let (file, used) = (file.display().to_string(), world.work.display().to_string());
    for (home, why) in [
        ("/proc", "belongs to the kernel"),
        ("home", "is not an absolute path"),
        (file.as_str(), "is not a folder"),
        (used.as_str(), "holds files that are not smidr's"),
    ] {
        for command in [&["status"][..], &["check"], &["build"], &["image", "ls"], &["artifacts", "list"]] {
            let done = world.smidr().args(command).env("SMIDR_HOME", home).run();
            done.expect_code(2).expect_one_error().expect_err(why).expect_err("export SMIDR_HOME=");
        }
    }
    assert!(!world.project().join("home").exists());
}

#[test]
fn folders_that_the_user_names_have_the_callers_umask() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(world) = World::with_project("check::folders_that_the_user_names_have_the_callers_umask") else { return };
    world.append("directories: {downloads: ../shared/dl, sstate: ../shared/sstate, deploy: ../shared/deploy}\n");
    world.smidr().args(["build", "--target", "host-libc"]).run().expect_code(0);
    let mode = |path: &std::path::Path| fs::metadata(path).expect("a folder").permissions().mode() & 0o777;
    let made = world.work.join("plain");
    fs::create_dir(&made).expect("a folder");
    for name in ["", "dl", "sstate", "deploy"] {
        assert_eq!(mode(&world.work.join("shared").join(name)), mode(&made), "{name}");
    }
    assert_eq!(mode(&world.smidr), 0o700);
}

#[test]
fn lock_settles_a_conflict_of_its_file() {
    let Some(world) = World::with_project("check::lock_settles_a_conflict_of_its_file") else { return };
    world.smidr().arg("lock").run().expect_code(0);
    let file = world.project().join("smidr.lock");
    let good = fs::read_to_string(&file).expect("a lock");
    let image = good.lines().find(|line| line.contains("image: ")).expect("a build host");
    let theirs =
        format!("{}{}", image.split("sha256:").next().expect("a key"), format_args!("sha256:{}", "ab".repeat(32)));
    let conflict = format!("<<<<<<< HEAD\n{image}\n=======\n{theirs}\n>>>>>>> other");
    world.write("smidr.lock", &good.replace(image, &conflict));
    world.smidr().arg("build").run().expect_code(2).expect_one_error().expect_err("smidr lock");
    let done = world.smidr().arg("lock").run();
    done.expect_code(0).expect_err("pinned differently by the two sides, so to what it is now: hello");
    assert_eq!(fs::read_to_string(&file).expect("a lock"), good);
}

/// What is known before BitBake starts has its line, whatever command finds it.
#[test]
fn every_command_shows_the_line_that_check_shows() {
    let world = World::new();
    world.init("p");
    let repository = world.work.join("meta-git");
    fs::create_dir_all(&repository).expect("a folder");
    fs::write(repository.join("README"), "x").expect("a file");
    let has_git = super::support::has("git");
    if has_git {
        super::layers::git(&repository, &["init", "-q", "-b", "main"]);
        super::layers::git(&repository, &["add", "-A"]);
        super::layers::git(&repository, &["commit", "-qm", "Begin"]);
    }
    let original = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let branch = format!("git: file://{}\n    branch: mian", repository.display());
    let rows: &[(&str, &str, &str)] = &[
        ("recipe: hello", "recipe: hello\n  binds: [{source: /tmp/none}]", "19:20"),
        ("recipe: hello", "recipe: hello\n  devices: [mem]", "19:13"),
        ("recipe: hello", "recipe: hello\n  netrc: ./no", "19:10"),
        ("recipe: hello", "recipe: helo", "18:11"),
        ("recipe: hello", "image: not-here", "18:10"),
        ("machine: hello-x86-64", "machine: foo", "6:12"),
        ("distro: hello", "distro: helo", "7:11"),
        ("./layers/meta-hello", "./layers/gone", "11:11"),
        ("name: p", "name: p\ndirectories: {downloads: /x y}", "3:26"),
        // Only the network knows.
        ("path: ./layers/meta-hello", &branch, "12:13"),
    ];
    let elsewhere = world.work.join("elsewhere");
    fs::write(&elsewhere, "x").expect("a file");
    let link = world.project().join("layers/meta-hello/link");
    for (old, new, place) in rows.iter().filter(|(_, new, _)| has_git || *new != branch) {
        world.write("smidr.yaml", &original.replace(old, new));
        let expected = [format!("smidr.yaml:{place}")];
        if *new != branch {
            assert_eq!(places(&world.smidr().arg("check").run().err), expected, "check of {new}");
        }
        // What a build is shown of its caller is nothing to pin.
        let is_input = new.starts_with("recipe: hello\n");
        for command in [&["lock"][..], &["build"], &["run", "true"]].into_iter().skip(usize::from(is_input)) {
            let done = world.smidr().args(command).run();
            done.expect_one_error();
            assert_eq!(places(&done.err), expected, "{command:?} of {new}:\n{}", done.err);
        }
    }
    world.write("smidr.yaml", &original);
    std::os::unix::fs::symlink(&elsewhere, &link).expect("a link");
    for command in ["check", "build"] {
        let done = world.smidr().arg(command).run();
        done.expect_code(2).expect_one_error().expect_err("is a symbolic link to");
        assert_eq!(places(&done.err), ["smidr.yaml:11:11"], "{command}: {}", done.err);
    }
    fs::remove_file(link).expect("a link less");
    // What a link leads to is not quoted.
    world.write("other.yaml", &original.replace("recipe: hello", "recipe: hello\n  netrc: ./no"));
    fs::remove_file(world.project().join("smidr.yaml")).expect("a file less");
    std::os::unix::fs::symlink("other.yaml", world.project().join("smidr.yaml")).expect("a link");
    assert_eq!(places(&world.smidr().arg("build").run().expect_code(2).err), Vec::<&str>::new());
}
