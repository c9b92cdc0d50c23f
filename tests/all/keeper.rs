//! The hash-equivalence server of a trust domain: one for all builds that run, gone with the last of them.

use std::{fs, os::unix::net::UnixStream, path::Path, process::Command};

use super::{
    support::{LONG, World, processes_with, wait_for},
    trouble::recipe,
};

/// A server that does no more than answer, and tell in its database that it was started.
const SERVER: &str = r#"
import os, signal, socket, sys
path = sys.argv[sys.argv.index("-b") + 1][len("unix://"):]
open(sys.argv[sys.argv.index("-d") + 1], "a").write("started\n")
if len(path) > 100:
    os.chdir(os.path.dirname(path))
    path = os.path.basename(path)
if os.path.exists(path):
    os.remove(path)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(8)
while True:
    server.accept()[0].close()
"#;

/// The project builds with a BitBake in its own folder, which brings that server.
fn own_bitbake(world: &World) {
    let diffs = fs::read_dir(world.smidr.join("images/diffs")).expect("images").flatten();
    let bitbake = diffs
        .map(|entry| entry.path().join("fs/opt/bitbake"))
        .find(|path| path.is_dir())
        .expect("BitBake in the image");
    let copied = Command::new("cp")
        .args(["-r", "--no-preserve=ownership"])
        .arg(bitbake)
        .arg(world.project().join("bitbake"))
        .status();
    assert!(copied.expect("cp").success());
    world.write("bitbake/bin/bitbake-hashserv", SERVER);
    world.append("\nbitbake: {path: ./bitbake}\n");
}

fn keepers(world: &World) -> Vec<String> {
    let home = world.smidr.display().to_string();
    processes_with(&home).into_iter().filter(|line| line.contains("bitbake-hashserv")).collect()
}

#[test]
fn builds_of_a_domain_share_one_server() {
    let Some(world) = World::with_project("keeper::builds_of_a_domain_share_one_server") else { return };
    own_bitbake(&world);
    let sstate = world.smidr.join("sstate-cache");
    let socket = sstate.join("smidr-v2.sock");
    recipe(&world, "one", "    while ! [ -e ${TOPDIR}/../go ]; do sleep 0.1; done");
    let mut first = world.smidr().args(["build", "--target", "one"]).start();
    first.until_says("task  ");
    wait_for("the server", LONG, || keepers(&world).len() == 1);
    assert!(UnixStream::connect(&socket).is_ok() || socket.as_os_str().len() > 100);
    // Another workspace, while the first build runs.
    world.append("\nvariants:\n  other: {local_conf: 'X = \"1\"'}\n");
    recipe(&world, "two", "    true");
    let environment = world.smidr().args(["build", "--variant", "other", "--target", "two", "--", "-e"]).run();
    environment.expect_code(0).expect_err(&format!("BB_HASHSERVE=\"unix://{}\"", socket.display()));
    world.smidr().args(["build", "--variant", "other", "--target", "two"]).run().expect_code(0);
    assert_eq!(keepers(&world).len(), 1);
    let started = || fs::read_to_string(sstate.join("hashserv-v2.db")).expect("a database").lines().count();
    assert_eq!(started(), 1);
    for workspace in fs::read_dir(world.smidr.join("workspaces")).expect("workspaces").flatten() {
        fs::write(workspace.path().join("go"), "").expect("a file");
    }
    first.wait().expect_code(0);
    wait_for("the server to end", LONG, || keepers(&world).is_empty());
    // What decides about it in the project counts.
    world.append("\nadvanced: {bb_hashserve: ''}\n");
    world.smidr().args(["build", "--target", "two"]).run().expect_code(0);
    assert_eq!(started(), 1);
}

#[test]
fn a_server_that_cannot_be_had_stops_no_build() {
    let Some(world) = World::with_project("keeper::a_server_that_cannot_be_had_stops_no_build") else { return };
    own_bitbake(&world);
    world.write("bitbake/bin/bitbake-hashserv", "import sys\nsys.exit(\"no such luck\")\n");
    recipe(&world, "one", "    true");
    let done = world.smidr().args(["build", "--target", "one"]).run();
    done.expect_code(0).expect_err("a hash-equivalence server of its own").expect_err("no such luck");
    assert!(!Path::new(&world.smidr).join("sstate-cache/smidr-v2.sock").exists());
}
