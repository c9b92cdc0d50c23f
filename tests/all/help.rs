//! `--help` of every command, completions, and wrong usage.

use std::path::Path;

use super::support::{World, skip};

pub(super) const COMMANDS: [&[&str]; 102] = [
    &[],
    &["init"],
    &["check"],
    &["plan"],
    &["build"],
    &["lock"],
    &["layers"],
    &["layers", "ls"],
    &["layers", "sync"],
    &["layers", "edit"],
    &["layers", "diff"],
    &["layers", "prune"],
    &["run"],
    &["kas"],
    &["export"],
    &["fmt"],
    &["import"],
    &["schema"],
    &["kas", "checkout"],
    &["kas", "build"],
    &["kas", "shell"],
    &["kas", "for-all-repos"],
    &["kas", "dump"],
    &["kas", "lock"],
    &["kas", "diff"],
    &["kas", "purge"],
    &["shell"],
    &["conf"],
    &["conf", "adopt"],
    &["conf", "discard"],
    &["trust"],
    &["untrust"],
    &["status"],
    &["cancel"],
    &["logs"],
    &["explain"],
    &["attach"],
    &["history"],
    &["history", "rebuild"],
    &["history", "prune"],
    &["artifacts"],
    &["artifacts", "list"],
    &["artifacts", "copy"],
    &["artifacts", "show"],
    &["artifacts", "clean"],
    &["image"],
    &["image", "ls"],
    &["image", "build"],
    &["image", "import"],
    &["image", "export"],
    &["image", "rm"],
    &["image", "pull"],
    &["image", "push"],
    &["image", "verify"],
    &["image", "prune"],
    &["du"],
    &["clean"],
    &["daemon"],
    &["daemon", "status"],
    &["daemon", "stop"],
    &["daemon", "pause"],
    &["daemon", "resume"],
    &["daemon", "reload"],
    &["daemon", "token"],
    &["daemon", "token", "create"],
    &["daemon", "token", "ls"],
    &["daemon", "token", "rm"],
    &["daemon", "check"],
    &["daemon", "ca"],
    &["daemon", "certificate"],
    &["daemon", "purge"],
    &["daemon", "units"],
    &["client"],
    &["client", "login"],
    &["client", "logout"],
    &["client", "whoami"],
    &["client", "start"],
    &["client", "status"],
    &["client", "logs"],
    &["client", "explain"],
    &["client", "list"],
    &["client", "cancel"],
    &["client", "attach"],
    &["client", "artifacts"],
    &["client", "lock"],
    &["client", "download"],
    &["client", "delete"],
    &["client", "schedule"],
    &["client", "schedule", "create"],
    &["client", "schedule", "ls"],
    &["client", "schedule", "run"],
    &["client", "schedule", "rm"],
    &["client", "webhook"],
    &["client", "webhook", "create"],
    &["client", "webhook", "ls"],
    &["client", "webhook", "rm"],
    &["client", "webhook", "deliveries"],
    &["client", "webhook", "resend"],
    &["client", "queue"],
    &["doctor"],
    &["man"],
    &["completions"],
];

#[test]
fn help_of_every_command() {
    // insta compares with a file of the source tree.
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/all").is_dir() {
        return skip("help::help_of_every_command", "the source tree cannot be read");
    }
    let world = World::new();
    let mut all = String::new();
    for command in COMMANDS {
        let done = world.smidr().args(command).arg("--help").run();
        done.expect_code(0);
        assert_eq!(done.err, "");
        all.push_str(&format!("$ smidr {} --help\n{}\n", command.join(" "), done.out).replace("smidr  --", "smidr --"));
    }
    assert!(!world.smidr.exists(), "--help touches nothing");
    let lines: Vec<&str> = all.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn the_help_test_covers_every_command() {
    let world = World::new();
    for parent in [
        &[][..],
        &["artifacts"],
        &["client"],
        &["client", "schedule"],
        &["client", "webhook"],
        &["conf"],
        &["daemon"],
        &["daemon", "token"],
        &["history"],
        &["image"],
        &["kas"],
        &["layers"],
    ] {
        let help = world.smidr().args(parent).arg("--help").run().out;
        let list =
            help.split("Commands:\n").nth(1).expect("a list of commands").split("\n\n").next().expect("its lines");
        for name in list.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            let path: Vec<&str> = parent.iter().copied().chain([name]).collect();
            assert!(COMMANDS.contains(&path.as_slice()), "{path:?} is in no test");
        }
    }
}

#[test]
fn manual_pages_of_all_commands() {
    let world = World::new();
    world.smidr().arg("man").run().expect_code(0).expect_out(".TH smidr 1").expect_out("SUBCOMMANDS");
    let folder = world.work.join("man");
    let done = world.smidr().args(["man", "--dir"]).arg(folder.to_str().expect("text")).run();
    done.expect_code(0).expect_out("man -l ");
    let pages = World::names(&folder);
    for page in ["smidr.1", "smidr-build.1", "smidr-layers-diff.1"] {
        assert!(pages.iter().any(|known| known == page), "{page} in {pages:?}");
    }
    // What is not for people has none.
    assert!(!pages.iter().any(|page| page.contains("__")), "{pages:?}");
}

#[test]
fn completions_for_shells() {
    let world = World::new();
    for (shell, marks) in [
        ("bash", ["complete -o nosort -F", "SMIDR_COMPLETE=bash"]),
        ("zsh", ["#compdef smidr", "SMIDR_COMPLETE=\"zsh\""]),
        ("fish", ["--command smidr", "SMIDR_COMPLETE=fish"]),
    ] {
        let done = world.smidr().args(["completions", shell]).run();
        done.expect_code(0).expect_out(marks[0]).expect_out(marks[1]);
    }
    world.smidr().args(["completions", "cmd.exe"]).run().expect_code(2);
}

#[test]
fn wrong_usage_exits_with_2() {
    let world = World::new();
    let rows: [(&[&str], &str); 8] = [
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["biuld"], "'build'"),
        (&["build", "--frob"], "--frob"),
        (&["run"], "<COMMAND>"),
        (&["init"], "<NAME>"),
        (&["init", "x", "--template", "gentoo"], "hello"),
        (&["image", "import", "x"], "--name"),
        (&["logs", "--follow", "--task", "x:do_y"], "cannot be used with"),
    ];
    for (args, expected) in rows {
        let done = world.smidr().args(args).run();
        done.expect_code(2).expect_err(expected);
        assert_eq!(done.out, "", "talk goes to standard error: {args:?}");
    }
    let version = world.smidr().arg("--version").run();
    version.expect_code(0).expect_out(concat!("smidr ", env!("CARGO_PKG_VERSION")));
    assert!(!world.smidr.exists());
}
