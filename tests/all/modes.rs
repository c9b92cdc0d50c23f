//! Hosts without full isolation: what still works there, and that it is reported.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    pseudo,
    support::{Done, World, is_root, processes_with, skip, smidr_bin, tool, wait_for},
};

/// A command that runs smidr in namespaces of its own, after `script` has made there what the test is about. The script ends with 99
/// where it cannot.
fn surrounded(world: &World, script: &str, args: &[&str]) -> Option<Command> {
    let mut command = Command::new(tool("unshare")?);
    world.surround(&mut command);
    command.current_dir(world.project()).env("TMPDIR", &world.home);
    command.args(["-Urm", "sh", "-c", &format!("{script}\nexec \"$@\""), "sh"]).arg(smidr_bin()).args(args);
    Some(command)
}

fn done(mut command: Command) -> Option<Done> {
    let done = Done::new(command.output().expect("unshare starts"));
    (done.code != Some(99) && !done.err.starts_with("unshare:")).then_some(done)
}

/// smidr where overlayfs cannot be mounted on a folder of SMIDR_HOME: there are two of them below it already, and the kernel takes
/// no third (overlayfs.rst; FILESYSTEM_MAX_STACK_DEPTH).
fn without_overlay_on(folder: &str, world: &World, args: &[&str]) -> Option<Done> {
    let script = "mkdir -p \"$SMIDR_HOME/$FOLDER\" && store=$(readlink -f \"$SMIDR_HOME/$FOLDER\") || exit 99
        for i in 1 2; do
            d=$(mktemp -d) && mount -t tmpfs tmpfs \"$d\" && mkdir \"$d/u\" \"$d/w\" &&
            mount -t overlay overlay -o \"userxattr,lowerdir=$store,upperdir=$d/u,workdir=$d/w\" \"$store\" || exit 99
        done";
    let mut command = surrounded(world, script, args)?;
    command.env("FOLDER", folder);
    done(command)
}

/// The skeleton of a sandbox's root stands in `tmp`.
pub(crate) fn without_overlay(world: &World, args: &[&str]) -> Option<Done> {
    without_overlay_on("tmp", world, args)
}

/// A build host of two layers, the upper of which changes, hides and replaces what the lower has.
const RECIPE: &str = "base: {image: hello}
commands:
  - rm -r /usr/share/doc && mkdir -p /usr/share/doc/only && echo new > /usr/share/doc/only/here
  - rm /etc/issue && chmod 0700 /usr/share/perl5 && ln -sfn elsewhere /usr/share/link
  - mkdir -p /opt/some/where && echo x > /opt/some/where/file && mv /usr/bin/tac /usr/bin/cat-backwards
";

#[test]
fn without_overlay_the_root_is_the_same() {
    let name = "modes::without_overlay_the_root_is_the_same";
    let Some(world) = World::with_project(name) else { return };
    let image = format!("two-{}", std::process::id());
    world.write(&format!("{image}.yaml"), RECIPE);
    world.smidr().args(["image", "build", &image]).run().expect_code(0);
    world.edit_host(&image);
    // The files of /etc that are smidr's own may be a moment older or younger.
    let find = "find /usr /opt /bin /lib -printf '%p %y %m %l %T@\\n' | sort; find /etc -printf '%p %y %m %l\\n'; cat /etc/passwd";
    let look = ["run", "--", "sh", "-c", find];
    let usual = world.smidr().args(look).run();
    usual.expect_code(0).expect_out("/usr/share/doc/only/here f").expect_out("/usr/share/link l 777 elsewhere");
    let Some(by_hand) = without_overlay(&world, &look) else {
        return skip(name, "two overlays cannot be mounted in a namespace of one's own here");
    };
    by_hand.expect_code(0);
    let lines = |done: &Done| done.out.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let mine = |line: &String| !line.contains("builder:x:");
    let (usual, by_hand) = (lines(&usual), lines(&by_hand));
    let different: Vec<_> = usual.symmetric_difference(&by_hand).filter(|line| mine(line)).collect();
    assert!(different.is_empty() && usual.len() > 300, "{}: {different:#?}", usual.len());
    let write = without_overlay(
        &world,
        &["run", "sh", "-c", "echo x > /new; echo x > /etc/new; echo x > /usr/bin/new; exit 5"],
    );
    let write = write.expect("it worked a moment ago");
    assert_eq!((write.code, write.err.matches("Read-only file system").count()), (Some(5), 3), "{}", write.err);
    let doctor = without_overlay_on("images", &world, &["doctor"]).expect("it worked a moment ago");
    world.smidr().args(["image", "rm", &image]).run().expect_code(0);
    doctor.expect_code(0).expect_out("root          doubtful  overlayfs cannot be mounted");
}

#[test]
fn without_overlay_a_build_works_and_says_so() {
    let name = "modes::without_overlay_a_build_works_and_says_so";
    let Some(world) = World::with_project(name) else { return };
    let Some(build) = without_overlay(&world, &["build"]) else {
        return skip(name, "two overlays cannot be mounted in a namespace of one's own here");
    };
    build.expect_code(0).expect_err("full isolation, without overlay, openat2 hidden, task network cut");
    build.expect_err(
        "bound one by one, which takes longer: the sandbox cannot lay the image's layers on top of each other",
    );
    owners_are_kept(|script| {
        without_overlay(&world, &["run", "--", "sh", "-c", script]).expect("it worked a moment ago")
    });
}

/// Owners in pseudo's database, made in one sandbox and seen in the next. `run` runs a script in one.
fn owners_are_kept(run: impl Fn(&str) -> Done) {
    let within = |script: &str| run(&format!("{}\n{script}", pseudo::PSEUDO));
    within(&format!("pseudo sh -c '{}'", pseudo::MAKE)).expect_code(0);
    assert_eq!(within(&format!("pseudo sh -c \"{}\"", pseudo::LOOK)).expect_code(0).out, pseudo::OWNED);
}

/// smidr where a part of /proc is masked, as container engines do.
fn masked(world: &World, args: &[&str]) -> Option<Command> {
    surrounded(world, "mount -t tmpfs tmpfs /proc/fs || exit 99", args)
}

const MASKED: &str = "nothing can be mounted over a part of /proc here";

#[test]
fn with_a_masked_proc_a_build_works_and_says_so() {
    let name = "modes::with_a_masked_proc_a_build_works_and_says_so";
    let Some(world) = World::with_project(name) else { return };
    let Some(doctor) = masked(&world, &["doctor"]).and_then(done) else { return skip(name, MASKED) };
    doctor.expect_code(0).expect_out("doubtful  no PID namespace");
    let build = masked(&world, &["build"]).and_then(done).expect("it worked a moment ago");
    build.expect_code(0).expect_err("isolation without a PID namespace, openat2 hidden, task network cut");
    owners_are_kept(|script| {
        masked(&world, &["run", "--", "sh", "-c", script]).and_then(done).expect("it worked a moment ago")
    });
    // The user's other processes are seen, and out of reach where Landlock knows signals (Linux 6.12).
    let outside = std::process::id().to_string();
    let script = "[ -e /proc/$1 ] && { kill -0 $1 2>/dev/null && echo reached || echo refused; }; id -u";
    let run = masked(&world, &["run", "--", "sh", "-c", script, "sh", &outside]).and_then(done);
    let run = run.expect("it worked a moment ago");
    run.expect_code(0).expect_err("warning: parts of /proc are masked here");
    let scoped = doctor.out.contains("Landlock keeps");
    assert!(run.out.starts_with(if scoped { "refused\n" } else { "reached\n" }), "{}", run.out);
    // Nor do limits reach them, one of which would kill.
    let script = format!(
        "import resource\nresource.prlimit(0, resource.RLIMIT_CPU)\ntry:\n    resource.prlimit({outside}, resource.RLIMIT_CPU, (10**6, 10**6))\n\
         except PermissionError:\n    print('refused')"
    );
    let run = masked(&world, &["run", "--", "python3", "-c", &script]).and_then(done);
    assert_eq!(run.expect("it worked a moment ago").expect_code(0).out, "refused\n");
    // `isolation: full` fails with the reason.
    world.edit("smidr.yaml", "recipe: hello", "recipe: hello\n  isolation: full");
    let strict = masked(&world, &["build"]).and_then(done).expect("it worked a moment ago");
    strict.expect_code(3).expect_err("mount /proc of its PID namespace").expect_err("parts of /proc are covered");
    let steps = masked(&world, &["run", "true"]).and_then(done).expect("it worked a moment ago");
    steps
        .expect_code(125)
        .expect_err("the sandbox, step by step:")
        .expect_err("  enter new user, mount, PID,")
        .expect_err("  drop every capability");
}

#[test]
fn without_a_pid_namespace_nothing_outlives_smidr() {
    let name = "modes::without_a_pid_namespace_nothing_outlives_smidr";
    let Some(world) = World::with_project(name) else { return };
    let marker = format!("SMIDR_TEST_ORPHAN_{}", std::process::id());
    // Orphans in sessions of their own, which no group and no terminal reaches.
    let script = format!("export {marker}=1; for i in 1 2 3; do (setsid sleep 300 &); done; echo ready; $1");
    for (end, wait) in [("exit 7", false), ("sleep 300", true)] {
        let Some(mut command) = masked(&world, &["run", "--", "sh", "-c", &script.replace("$1", end)]) else {
            return skip(name, MASKED);
        };
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("unshare starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("readable");
        if line.is_empty() {
            let _ = child.wait();
            return skip(name, MASKED);
        }
        assert!(!wait || processes_with(&marker).len() >= 4, "{:?}", processes_with(&marker));
        if wait {
            child.kill().expect("it can be killed");
        }
        let status = child.wait().expect("it ends");
        assert!(wait || status.code() == Some(7), "{status}");
        wait_for("the end of every orphan", Duration::from_secs(2), || processes_with(&marker).is_empty());
    }
}

/// Where newuidmap and a range in /etc/subuid are.
#[test]
fn host_ids_range_maps_a_range() {
    let name = "modes::host_ids_range_maps_a_range";
    let Some(world) = World::with_project(name) else { return };
    world.edit("smidr.yaml", "recipe: hello", "recipe: hello\n  ids: range");
    let look = [
        "run",
        "--",
        "sh",
        "-c",
        "cat /proc/self/uid_map | wc -l; id -u; grep -c CapEff:.0000000000000000 /proc/self/status",
    ];
    let run = world.smidr().args(look).run();
    let me = if is_root() { 1000 } else { nix::unistd::getuid().as_raw() };
    if world.smidr().arg("plan").run().out.contains("host.ids: range has no effect") {
        run.expect_code(0).expect_out(&format!("1\n{me}\n1\n"));
        return skip(name, "/etc/subuid and /etc/subgid have no range for this user");
    }
    if run.err.contains("only one id exists") {
        run.expect_code(0).expect_out(&format!("1\n{me}\n1\n"));
        return skip(name, "there is no newuidmap here, or it refuses");
    }
    run.expect_code(0).expect_out(&format!("3\n{me}\n1\n"));
    world.smidr().arg("build").run().expect_code(0).expect_err("full isolation, a range of ids, task network cut");
}

/// A build host in a container that allows no namespaces: our own sandbox, in which a second smidr cannot mount anything.
#[test]
fn isolation_none_builds() {
    let name = "modes::isolation_none_builds";
    let Some(world) = World::with_project(name) else { return };
    // smidr itself needs what is hidden from old versions of pseudo.
    world.append("  openat2: show\n");
    let plan = world.smidr().args(["plan", "--json"]).run().json();
    let home = Path::new(plan["plan"]["folders"]["home"].as_str().expect("a folder")).to_path_buf();
    let inside = |script: &str| world.smidr().args(["run", "--", "sh", "-c", script]).run();
    inside("true").expect_code(0);
    fs::copy(smidr_bin(), home.join("smidr")).expect("room for smidr");
    if inside("~/smidr --version").code != Some(0) {
        return skip(name, "this smidr needs a newer C library than the build host has");
    }
    inside("cd ~ && ./smidr init q --template hello").expect_code(0);
    inside("~/smidr doctor").expect_code(3).expect_out("cannot enter new namespaces").expect_out("seccomp");
    let config = home.join("q/smidr.yaml");
    let text = fs::read_to_string(&config).expect("a config");
    fs::write(&config, text.replace("recipe: hello", "isolation: none")).expect("room for a config");
    let plan = inside("cd ~/q && ../smidr plan");
    plan.expect_code(0).expect_out("this machine as it is, without any isolation");
    let build = inside("cd ~/q && ../smidr build && ! grep hosts: smidr.lock && ../smidr artifacts list");
    build.expect_code(0).expect_err("host       this machine").expect_err("no isolation, task network cut");
    build.expect_err("uses this machine's own files").expect_out(".ext4");
    owners_are_kept(|script| {
        fs::write(home.join("script"), script).expect("room for a script");
        inside("script=$HOME/script; cd ~/q && ../smidr run -- sh $script")
    });
    let cut = "cd ~/q && echo '  network: none' >> smidr.yaml && ../smidr check";
    inside(cut).expect_code(2).expect_err("host.network needs namespaces");
    // Everything ends with smidr here too.
    let marker = format!("SMIDR_TEST_NONE_{}", std::process::id());
    let orphans = format!(
        "sed -i '/network: none/d' smidr.yaml; ../smidr run -- sh -c '(setsid sleep 300 &); exit 4'; echo $?; grep -l {marker} /proc/[0-9]*/environ | grep -c ."
    );
    inside(&format!("cd ~/q; {marker}=1; export {marker}; {orphans}")).expect_out("4\n");
    wait_for("the end of every orphan", Duration::from_secs(2), || processes_with(&marker).is_empty());
}

/// Other processes of the same user are visible there.
#[test]
fn isolation_none_still_filters_system_calls() {
    let name = "modes::isolation_none_still_filters_system_calls";
    if is_root() {
        return skip(name, "root cannot do without namespaces");
    }
    if tool("python3").is_none() {
        return skip(name, "there is no python3 here");
    }
    let world = World::new();
    world.init("p");
    world.edit("smidr.yaml", "recipe: hello", "isolation: none");
    let outside = std::process::id();
    let script = format!(
        "import os, resource, socket\ndef attempt(name, work):\n    try:\n        work()\n        print(name, 'done')\n    except OSError as error:\n        \
         print(name, error.strerror)\nattempt('limit', lambda: resource.prlimit({outside}, resource.RLIMIT_CPU, (10**6, 10**6)))\n\
         attempt('own', lambda: resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6)))\n\
         attempt('packet', lambda: socket.socket(17, 3, 3))\nattempt('environ', lambda: open('/proc/{outside}/mem').close())\n\
         attempt('terminal', lambda: os.open('/dev/tty', os.O_RDWR))\n"
    );
    let done = world.smidr().args(["run", "--", "python3", "-c", &script]).run();
    let out = &done.expect_code(0).out;
    assert!(out.starts_with("limit Operation not permitted\nown done\npacket Address family not supported"), "{out}");
    assert!(!out.contains("environ done") || done.err.contains("warning: "), "{out}");
    assert!(out.contains("terminal No such device or address\n"), "{out}");
}

/// Adds layers of one file each to an image in a layout.
fn add_layers(layout: &Path, count: usize) {
    let blobs = layout.join("blobs/sha256");
    let read = |digest: &Value| {
        let hex = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest");
        serde_json::from_slice::<Value>(&fs::read(blobs.join(hex)).expect("a blob")).expect("JSON")
    };
    let add = |bytes: &[u8]| {
        let hex = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&hex), bytes).expect("a blob");
        (format!("sha256:{hex}"), bytes.len())
    };
    let mut index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("JSON");
    let mut manifest = read(&index["manifests"][0]["digest"]);
    let mut config = read(&manifest["config"]["digest"]);
    for number in 0..count {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("opt/many/{number}"), &b"x"[..]).expect("an entry");
        let (digest, size) = add(&tar.into_inner().expect("an archive"));
        config["rootfs"]["diff_ids"].as_array_mut().expect("a list").push(digest.clone().into());
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let layer = serde_json::json!({ "mediaType": kind, "digest": digest, "size": size });
        manifest["layers"].as_array_mut().expect("a list").push(layer);
    }
    let (digest, size) = add(config.to_string().as_bytes());
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest.into(), size.into());
    let (digest, size) = add(manifest.to_string().as_bytes());
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (digest.into(), size.into());
    fs::write(layout.join("index.json"), index.to_string()).expect("an index");
}

#[test]
fn an_image_may_have_hundreds_of_layers() {
    let Some(world) = World::with_project("modes::an_image_may_have_hundreds_of_layers") else { return };
    let layout = world.work.join("layout");
    world.smidr().args(["image", "export", "hello"]).arg(&layout).run().expect_code(0);
    add_layers(&layout, 300);
    let image = format!("many-{}", std::process::id());
    world.smidr().args(["image", "import"]).arg(&layout).args(["--name", &image]).run().expect_code(0);
    world.edit_host(&image);
    let look = "ls /opt/many | wc -l; awk '$2 == \"/\" { print $3 }' /proc/mounts";
    let seen = world.smidr().args(["run", "--", "sh", "-c", look]).run();
    world.smidr().args(["image", "rm", &image]).run().expect_code(0);
    // By hand where the kernel is older than 6.8.
    let out = &seen.expect_code(0).out;
    assert!(["300\noverlay\n", "300\ntmpfs\n"].contains(&out.as_str()), "{out}");
}
