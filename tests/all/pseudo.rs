//! pseudo in the sandbox: its owners, modes and devices outlive the process, the build and the sandbox; and openat2(2), which an old
//! pseudo does not intercept.

use nix::sys::signal::Signal;

use super::{
    support::{NO_HOME, World, hermetic, tool},
    trouble::recipe,
};

/// A pseudo with its database where BitBake has it, in `${WORKDIR}/pseudo`.
pub(crate) const PSEUDO: &str = "set -e; W=$PWD/tmp/work/all/owners/1.0; mkdir -p $W/pseudo $W/root; cd $W/root
export PSEUDO_PREFIX=/usr PSEUDO_LOCALSTATEDIR=$W/pseudo";

pub(crate) const MAKE: &str = "echo x > file; chown 12:34 file; chmod 4755 file; mkdir folder; chown 5:6 folder; chmod 1777 folder
mknod -m 620 tty c 5 1; mknod -m 600 loop b 7 0; ln -s file link; chown -h 9:9 link; mkfifo pipe; chown 1:2 pipe; ln file again";

pub(crate) const OWNED: &str = "again 12:34 4755 0,0
file 12:34 4755 0,0
folder 5:6 1777 0,0
link 9:9 777 0,0
loop 0:0 600 7,0
pipe 1:2 644 0,0
tty 0:0 620 5,1
";

pub(crate) const LOOK: &str = "stat -c '%n %u:%g %a %t,%T' -- *";

#[test]
fn owners_outlive_the_process_and_the_sandbox() {
    let Some(world) = World::with_project("pseudo::owners_outlive_the_process_and_the_sandbox") else { return };
    let run = |script: &str| world.smidr().args(["run", "--", "sh", "-c", &format!("{PSEUDO}\n{script}")]).run();
    // A second process, the same server; then a second server, since the sandbox ends with what is in it.
    let first = run(&format!("pseudo sh -c '{MAKE}'\npseudo sh -c \"{LOOK}\""));
    assert_eq!(first.expect_code(0).out, OWNED);
    let second = run(&format!("pseudo sh -c \"{LOOK}\""));
    assert_eq!(second.expect_code(0).out, OWNED, "what one sandbox owned the next one owns");
    // The owners exist only in pseudo.
    let bare = run("stat -c '%n %F %u' loop file");
    let uid = if super::support::is_root() { 1000 } else { nix::unistd::geteuid().as_raw() };
    assert_eq!(bare.expect_code(0).out, format!("loop regular empty file {uid}\nfile regular file {uid}\n"));
    let tar = run("pseudo tar --sort=name --numeric-owner -cf ../root.tar file folder link loop pipe tty
tar --numeric-owner -tvf ../root.tar | awk '{ print $1, $2, $3 }'");
    let listed = tar.expect_code(0).out.lines().map(str::to_owned).collect::<Vec<_>>();
    let expected =
        ["-rwsr-xr-x 12/34 2", "drwxrwxrwt 5/6 0", "lrwxrwxrwx 9/9 0", "brw------- 0/0 7,0", "prw-r--r-- 1/2 0"];
    assert_eq!(listed[..5], expected);
    assert_eq!(listed[5], "crw--w---- 0/0 5,1");
    // And unpacked again, in a third sandbox.
    let again = run(
        "mkdir ../copy; cd ../copy; pseudo tar -xpf ../root.tar; pseudo stat -c '%n %u:%g %a %t,%T' file tty; rm -r ../copy",
    );
    assert_eq!(again.expect_code(0).out, "file 12:34 4755 0,0\ntty 0:0 620 5,1\n");
}

#[test]
fn owners_outlive_a_kill() {
    let name = "pseudo::owners_outlive_a_kill";
    let Some(world) = World::with_project(name) else { return };
    let deaf = format!("{PSEUDO}\ntrap '' INT TERM\npseudo sh -c '{MAKE}; echo rea\"\"dy; while :; do sleep 1; done'");
    let mut running = world.smidr().args(["run", "--", "sh", "-c", &deaf]).start();
    running.until_says("ready");
    running.signal(Signal::SIGTERM);
    // Two equal signals at once would be one.
    running.signal(Signal::SIGINT);
    running.wait().expect_code(137);
    let next = world.smidr().args(["run", "--", "sh", "-c", &format!("{PSEUDO}\npseudo sh -c \"{LOOK}\"")]).run();
    assert_eq!(next.expect_code(0).out, OWNED);
}

#[test]
fn owners_outlive_a_build_that_failed() {
    let Some(world) = World::with_project("pseudo::owners_outlive_a_build_that_failed") else { return };
    // do_rootfs sets owners of what do_image packs; a failure and another sandbox are between them.
    let config = std::fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    world.write("smidr.yaml", &format!("{config}\nlocal_conf: |\n  IMAGE_FSTYPES = \"tar.gz none-such\"\n"));
    world.smidr().arg("build").run().expect_code(1).expect_err("failed in hello-image:do_image");
    world.write("smidr.yaml", &config);
    let done = world.smidr().args(["build", "--events", "json"]).run();
    done.expect_code(0);
    let began = |task: &str| {
        done.out.lines().any(|line| {
            line.contains("\"task_started\"")
                && line.contains("\"hello-image\"")
                && line.contains(&format!("\"{task}\""))
        })
    };
    assert!(began("do_image") && !began("do_rootfs"), "the root was made by the first build:\n{}", done.out);
    let artifacts = world.smidr.join("builds").join(done.build_id()).join("artifacts");
    let image = artifacts.join("images/hello-x86-64/hello-image-hello-x86-64.tar.gz");
    let mut tar = hermetic(tool("tar").expect("tar, which made the build host"), NO_HOME);
    let list = tar.args(["--numeric-owner", "-tvzf"]).arg(&image).output().expect("tar starts");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.lines().count() > 10 && list.lines().all(|line| line.contains(" 0/0 ")), "{list}");
    assert!(list.contains("crw------- 0/0") && list.contains("./dev/console"), "{list}");
}

#[test]
fn openat2_is_hidden_for_an_old_pseudo() {
    let Some(world) = World::with_project("pseudo::openat2_is_hidden_for_an_old_pseudo") else { return };
    let call = "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                how = (ctypes.c_uint64 * 3)(0, 0, 0)\nfd = libc.syscall(437, -100, b'/usr', how, 24)\n\
                print('opened' if fd > 2 else errno.errorcode[ctypes.get_errno()])";
    let says = || world.smidr().args(["run", "--", "python3", "-c", call]).run().expect_code(0).out.clone();
    let config = std::fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    // The image's own pseudo is Debian 12's: too old.
    assert_eq!(says(), "ENOSYS\n");
    for (word, expected) in [("show", "opened\n"), ("hide", "ENOSYS\n"), ("auto", "ENOSYS\n")] {
        world.write("smidr.yaml", &format!("{config}  openat2: {word}\n"));
        assert_eq!(says(), expected, "{word}");
    }
    // A layer's recipe overrides the image's.
    let pseudo = |version: &str| {
        let text = format!("SRCREV = \"28dcefb8\"\nPV = \"{version}\"\n");
        world.write("layers/meta-hello/recipes-devtools/pseudo/pseudo_git.bb", &text);
    };
    pseudo("1.9.3+git");
    assert_eq!(says(), "opened\n");
    pseudo("1.9.0+git");
    assert_eq!(says(), "ENOSYS\n");
    std::fs::remove_dir_all(world.project().join("layers/meta-hello/recipes-devtools")).expect("remove it");
    // It is shown by --print-sandbox and in a build.
    let explain = || world.smidr().args(["run", "--print-sandbox", "true"]).run().expect_code(0).out.clone();
    assert!(explain().contains("answer ENOSYS to openat2"), "{}", explain());
    recipe(&world, "quick", "    true");
    let hidden = world.smidr().args(["build", "--target", "quick"]).run();
    hidden.expect_code(0).expect_err("full isolation, openat2 hidden, task network cut");
    world.write("smidr.yaml", &format!("{config}  openat2: show\n"));
    assert!(!explain().contains("openat2"), "{}", explain());
    world
        .smidr()
        .args(["build", "--target", "quick"])
        .run()
        .expect_code(0)
        .expect_err("full isolation, task network cut");
}
