//! `smidr explain` of logs from elsewhere.

use std::{fs, io::Write as _};

use super::support::World;

const CONSOLE: &str = "2026-01-01T10:00:00.1234567Z ERROR: sensord-1.0-r0 do_compile: ExecutionError('/b/run.do_compile.7', 1, None, None)
2026-01-01T10:00:00.1234567Z ERROR: Task (/l/sensord_1.0.bb:do_compile) failed with exit code '1'
";

const TASK: &str = "make -j 8
src/bus.c:6:10: fatal error: systemd/sd-bus.h: No such file or directory
make: *** [bus.o] Error 1
";

fn kind(world: &World, args: &[&str], input: &str) -> String {
    let done = world.smidr().args(["explain", "--json"]).args(args).run_with(input);
    let document = done.expect_code(0).json();
    document["diagnoses"][0]["kind"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn logs_from_elsewhere_are_read_as_they_were_kept() {
    let world = World::new();
    let at = |name: &str| world.work.join(name);
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(TASK.as_bytes()).expect("zipped");
    fs::write(at("console"), CONSOLE).expect("written");
    fs::write(at("task"), TASK).expect("written");
    fs::write(at("task.gz"), zipped.finish().expect("zipped")).expect("written");
    fs::write(at("task.zst"), zstd::encode_all(TASK.as_bytes(), 1).expect("zipped")).expect("written");
    fs::write(at("both"), format!("{CONSOLE}{TASK}")).expect("written");
    for log in ["task", "task.gz", "task.zst"] {
        assert_eq!(kind(&world, &["--log", "console", "--task-log", log], ""), "missing-header", "{log}");
    }
    assert_eq!(kind(&world, &["--task-log", "task"], ""), "missing-header");
    assert_eq!(kind(&world, &["--log", "console", "--task-log", "-"], TASK), "missing-header");
    assert_eq!(kind(&world, &["--log", "-", "--task-log", "task"], CONSOLE), "missing-header");
    assert_eq!(kind(&world, &["--log", "-"], "NOTE: all is well\n"), "none");
    let told = world.smidr().args(["explain", "--log", "console", "--task-log", "task"]).run();
    told.expect_code(0).expect_out("sensord:do_compile: missing-header\n").expect_out("task:2\n");
    told.expect_out("oe-pkgdata-util find-path '*/sd-bus.h'").expect_out("(sensord_1.0.bb)");
}

#[test]
fn what_cannot_be_explained_is_said() {
    let world = World::new();
    fs::write(world.work.join("empty"), "").expect("written");
    let explain = |args: &[&str]| world.smidr().arg("explain").args(args).run();
    explain(&["--log", "none"]).expect_code(3).expect_err("cannot read none");
    explain(&["--log", "."]).expect_code(3).expect_err("cannot read .");
    explain(&["--log", "empty", "--series", "mine"]).expect_code(2).expect_err("`mine` is no Yocto series");
    explain(&["--log", "empty"]).expect_code(0).expect_out("no failure stands in it");
    explain(&["p-00000000", "--log", "empty"]).expect_code(2).expect_err("cannot be used with");
    explain(&[]).expect_code(2);
}
