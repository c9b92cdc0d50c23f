//! smidr inside another sandbox, with its home in memory, and run by unusual users.

use std::{fs, os::unix::fs::chown, path::Path, process::Command};

use super::{
    hostile_roots::Yard,
    support::{Done, World, is_root, shared_home, skip, smidr_bin, tool, user_namespaces},
};

/// smidr behind another program.
fn behind(world: &World, wrapper: &[&str], smidr: &Path, args: &[&str]) -> Done {
    let mut command = Command::new(tool(wrapper[0]).expect("the wrapper"));
    world.surround(&mut command);
    command.current_dir(world.project()).args(&wrapper[1..]).arg(smidr).args(args);
    Done::new(command.output().expect("the wrapper starts"))
}

#[test]
fn a_build_inside_bubblewrap() {
    let name = "nested::a_build_inside_bubblewrap";
    if tool("bwrap").is_none() {
        return skip(name, "there is no bwrap(1)");
    }
    let Some(world) = World::with_project(name) else { return };
    let bwrap = ["bwrap", "--unshare-user", "--dev-bind", "/", "/"];
    if behind(&world, &bwrap, Path::new("true"), &[]).code != Some(0) {
        return skip(name, "bwrap cannot make a sandbox here");
    }
    let smidr = smidr_bin();
    let build = behind(&world, &bwrap, &smidr, &["build", "--target", "libgreet"]);
    build.expect_code(0).expect_err("full isolation").expect_err("task network cut");
    let home = world.home.display().to_string();
    let wrappers: [(&str, &[&str]); 2] = [
        ("with a session of its own", &["--new-session", "--unshare-ipc", "--unshare-uts"]),
        ("with a home that is read-only", &["--ro-bind", &home, &home]),
    ];
    for (what, more) in wrappers {
        let done = behind(&world, &[&bwrap, more].concat(), &smidr, &["run", "--", "sh", "-c", "id -un; echo $$"]);
        assert_eq!((done.code, done.out.as_str()), (Some(0), "builder\n2\n"), "{what}: {done:?}");
    }
    // Where parts of /proc are covered no other can be mounted ("too revealing"): it fails with that reason, or works without.
    let covered = [&bwrap[..], &["--unshare-pid", "--proc", "/proc"]].concat();
    let done = behind(&world, &covered, &smidr, &["run", "--", "id", "-un"]);
    match done.code {
        Some(0) => assert_eq!(done.out, "builder\n"),
        _ => drop(done.expect_code(125).expect_one_error().expect_err("parts of /proc are masked")),
    }
    // Without SMIDR_HOME, the error is about the read-only home.
    let lost = [&bwrap[..], &["--ro-bind", &home, &home, "--unsetenv", "SMIDR_HOME"]].concat();
    for (args, code) in [(&["build"][..], 3), (&["run", "true"], 125)] {
        let done = behind(&world, &lost, &smidr, args);
        done.expect_code(code)
            .expect_one_error()
            .expect_err("Read-only file system")
            .expect_err("export SMIDR_HOME=DIR");
    }
}

#[test]
fn homes_in_memory() {
    let name = "nested::homes_in_memory";
    let Some(world) = World::with_project(name) else { return };
    let Some(shared) = shared_home(name) else { return };
    // Everything but the image is in memory: the workspace, downloads, the record, the skeleton of the root.
    let script =
        "mount -t tmpfs -o mode=700 tmpfs \"$HOME\" && mount -t tmpfs -o mode=700 tmpfs \"$SMIDR_HOME\" || exit 99
        ln -s \"$SHARED/images\" \"$SHARED/locks\" \"$SMIDR_HOME\"; exec \"$@\"";
    let mut command = Command::new(tool("unshare").expect("unshare(1)"));
    world.surround(&mut command);
    command.current_dir(world.project()).env("SHARED", shared).args(["-Urm", "sh", "-c", script, "sh"]);
    let done =
        Done::new(command.arg(smidr_bin()).args(["build", "--target", "hello"]).output().expect("unshare starts"));
    if done.code == Some(99) {
        return skip(name, "a tmpfs cannot be mounted in a namespace of one's own here");
    }
    done.expect_code(0).expect_err("full isolation").expect_err("completed in");
    assert!(World::names(&world.smidr.join("workspaces")).is_empty(), "it was in memory, and is gone");
}

/// Each user imports the image of one program into a store of its own, and runs it.
#[test]
fn unusual_users() {
    let name = "nested::unusual_users";
    let Some(yard) = Yard::new(name, World::new()) else { return };
    yard.image(&[]);
    let world = &yard.world;
    let who: Vec<(&str, &[&str])> = vec![
        ("this user", &["env"]),
        ("root of a user namespace", &["unshare", "-Ur"]),
        ("root of nested user namespaces", &["unshare", "-Ur", "unshare", "-Ur", "unshare", "-Ur"]),
        ("root of all namespaces", &["unshare", "-Urmpfiun", "--mount-proc"]),
        ("a uid that is mapped to another one", &["unshare", "--user", "--map-user=4321", "--map-group=4321"]),
    ];
    let mut ran = 0;
    for (what, wrapper) in who {
        if tool(wrapper[0]).is_none() || behind(world, wrapper, Path::new("true"), &[]).code != Some(0) {
            skip(name, &format!("{what}: {} cannot do that here", wrapper[0]));
            continue;
        }
        let done = behind(world, wrapper, &smidr_bin(), &["run", "--", "/bin/mark", "by-whom"]);
        assert_eq!((done.code, done.out.as_str()), (Some(0), "ran\n"), "{what}: {done:?}");
        ran += 1;
    }
    assert!(ran > 1, "hardly any user could be tried");
    // A user whose uid is not mapped gets an error.
    let nobody = behind(world, &["unshare", "-U"], &smidr_bin(), &["run", "true"]);
    nobody.expect_code(125).expect_one_error().expect_err("your uid or gid has no number");
    // And root of a container without capabilities: mapping uid 0 needs CAP_SETFCAP (user_namespaces(7)).
    if is_root() && tool("setpriv").is_some() {
        let bare = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"];
        behind(world, &bare, &smidr_bin(), &["run", "true"])
            .expect_code(125)
            .expect_one_error()
            .expect_err("--cap-add SETFCAP");
    }
}

#[test]
fn an_unknown_uid() {
    let name = "nested::an_unknown_uid";
    if !is_root() {
        return skip(name, "only root can become another user; and as this one everything is tested");
    }
    if tool("setpriv").is_none() || user_namespaces().is_err() {
        return skip(name, "there is no setpriv(1), or there are no user namespaces");
    }
    let Some(yard) = Yard::new(name, World::new()) else { return };
    let world = &yard.world;
    const UID: u32 = 54_321;
    let known = |file: &str| fs::read_to_string(file).unwrap_or_default().contains(&UID.to_string());
    assert!(!known("/etc/passwd") && !known("/etc/subuid"), "uid {UID} exists here");
    // A folder that it may read, and a smidr that it can start.
    let smidr = world.home.join("smidr");
    fs::copy(smidr_bin(), &smidr).expect("a copy of smidr");
    let top = world.home.parent().expect("a folder");
    for entry in walkdir::WalkDir::new(top).into_iter().flatten() {
        chown(entry.path(), Some(UID), Some(UID)).expect("chown");
    }
    let setpriv = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=-all"];
    let tar = world.work.join("image.tar");
    super::hostile::archive(
        &tar,
        &[
            super::hostile::Entry::Folder("bin"),
            super::hostile::Entry::File("bin/mark", &fs::read(world.work.join("mark")).expect("a program"), 0o755),
        ],
    );
    fs::set_permissions(&tar, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("a mode");
    let import = ["image", "import", &tar.display().to_string(), "--name", "odd"].map(str::to_owned);
    let import: Vec<&str> = import.iter().map(String::as_str).collect();
    behind(world, &setpriv, &smidr, &import).expect_code(0);
    world.edit_host("odd");
    let done = behind(world, &setpriv, &smidr, &["run", "--", "/bin/mark", "here"]);
    assert_eq!((done.code, done.out.as_str()), (Some(0), "ran\n"), "{done:?}");
    // Below a folder that may be passed through but not listed, and is not theirs.
    chown(top, Some(0), Some(0)).expect("chown");
    fs::set_permissions(top, std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("a mode");
    let done = behind(world, &setpriv, &smidr, &["run", "--", "/bin/mark", "there"]);
    assert_eq!((done.code, done.out.as_str()), (Some(0), "ran\n"), "{done:?}");
    // For root, it belongs to another user.
    let root = world.smidr().args(["run", "--", "/bin/mark", "here"]).run();
    root.expect_code(125).expect_one_error().expect_err("belongs to another user, and a build of it is theirs");
}

#[test]
fn a_setuid_smidr_refuses_to_run() {
    let name = "nested::a_setuid_smidr_refuses_to_run";
    if !is_root() || tool("setpriv").is_none() {
        return skip(name, "only root can make a program setuid, and change its uid with setpriv(1)");
    }
    let world = World::new();
    let smidr = world.home.join("smidr");
    fs::copy(smidr_bin(), &smidr).expect("a copy of smidr");
    for folder in [world.home.parent().expect("a folder"), &world.home, &world.work] {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    }
    let user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];
    let call = |args: &[&str]| {
        let mut command = Command::new(tool("setpriv").expect("setpriv(1)"));
        world.surround(&mut command);
        Done::new(command.args(&user[1..]).arg(&smidr).args(args).output().expect("setpriv starts"))
    };
    call(&["--version"]).expect_code(0);
    fs::set_permissions(&smidr, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).expect("a mode");
    let mut refused = 0;
    for args in [
        &["--version"][..],
        &["image", "ls"],
        &["__sandbox-init", "1", "3", "4", "5"],
        &["__die-with-parent", "1", "id"],
    ] {
        let done = call(args);
        if done.code == Some(0) && args == ["--version"] {
            return skip(name, "this file system lends no privileges (nosuid)");
        }
        done.expect_code(2).expect_one_error().expect_err("lends some").expect_err("chmod ug-s");
        assert_eq!(done.out, "");
        refused += 1;
    }
    assert_eq!(refused, 4);
    assert!(!world.smidr.exists());
}
