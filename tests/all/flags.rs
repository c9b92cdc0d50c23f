//! The flags that all commands have: what `--quiet`, `--verbose`, `--color` and `--config` do is the same everywhere.

use super::{help::COMMANDS, support::World};

/// A line for each command, with its exit code in a project whose build host is not there; `{N}` is another name each time.
const LINES: &[(&str, i32)] = &[
    ("init {N} --template hello", 0),
    ("check", 2),
    ("plan", 0),
    ("build", 2),
    ("lock", 2),
    ("layers ls", 0),
    ("layers sync", 0),
    ("layers diff", 0),
    ("layers edit none", 2),
    ("layers prune", 0),
    ("run true", 125),
    ("shell", 125),
    ("conf adopt", 0),
    ("conf discard", 0),
    ("import none", 2),
    ("export kas", 0),
    ("fmt", 0),
    ("schema", 0),
    ("trust", 0),
    ("untrust", 0),
    ("status", 0),
    ("cancel", 2),
    ("logs", 2),
    ("explain", 2),
    ("attach", 2),
    ("history rebuild", 0),
    ("history prune --keep 9", 0),
    ("artifacts list", 2),
    ("artifacts copy x", 2),
    ("artifacts show", 2),
    ("artifacts clean --keep 9", 0),
    ("image ls", 0),
    ("image build none", 2),
    ("image import none --name none", 2),
    ("image export none none", 2),
    ("image rm none", 2),
    ("image pull oci:none --name none", 2),
    ("image push none docker://none/none", 2),
    ("image verify", 0),
    ("image prune", 0),
    ("du", 0),
    ("clean", 0),
    ("daemon status", 2),
    ("daemon stop", 2),
    ("daemon pause", 2),
    ("daemon resume", 2),
    ("daemon reload", 2),
    ("daemon token create x --scope read", 2),
    ("daemon token ls", 2),
    ("daemon token rm x", 2),
    ("daemon check", 0),
    ("daemon ca", 0),
    ("daemon certificate {N}", 0),
    ("daemon purge --keep 9", 2),
    ("daemon units", 0),
    ("client login localhost:1", 4),
    ("client logout", 0),
    ("client whoami", 2),
    ("client start", 2),
    ("client status", 2),
    ("client logs", 2),
    ("client list", 2),
    ("client cancel", 2),
    ("client explain", 2),
    ("client attach", 2),
    ("client artifacts", 2),
    ("client lock", 2),
    ("client download x", 2),
    ("client delete", 2),
    ("client schedule create x --cron @daily", 2),
    ("client schedule ls", 2),
    ("client schedule run x", 2),
    ("client schedule rm x", 2),
    ("client webhook create x http://localhost", 2),
    ("client webhook ls", 2),
    ("client webhook rm x", 2),
    ("client webhook deliveries", 2),
    ("client webhook resend x", 2),
    ("client queue", 2),
    ("doctor", 0),
    ("man", 0),
    ("completions bash", 0),
];

#[test]
fn the_table_has_every_command() {
    let is_leaf = |path: &&[&str]| !COMMANDS.iter().any(|other| other.len() > path.len() && other.starts_with(path));
    // kas's command lines are kas's own.
    let is_ours = |path: &&[&str]| path.first() != Some(&"kas");
    for command in COMMANDS.iter().copied().filter(is_leaf).filter(is_ours) {
        let line = command.join(" ");
        assert!(LINES.iter().any(|(known, _)| format!("{known} ").starts_with(&format!("{line} "))), "{line}");
    }
}

#[test]
fn global_flags_mean_the_same_everywhere() {
    let world = World::new();
    world.init("p");
    world.edit_host("not-here");
    let mut names = 0..;
    for (line, code) in LINES {
        let mut run = |flags: &[&str], before: bool| {
            let line = line.replace("{N}", &format!("n{}", names.next().expect("a number")));
            let words: Vec<&str> = line.split(' ').collect();
            let all = if before { [flags, &words].concat() } else { [&words[..1], flags, &words[1..]].concat() };
            let done = world.smidr().args(&all).run();
            // What a machine lacks, and what untrust took, differs.
            assert!(done.code == Some(*code) || ["doctor", "untrust"].contains(&words[0]), "{all:?}: {}", done.err);
            done
        };
        let usual = run(&[], true);
        for (flags, before) in [(&["--quiet"][..], true), (&["-q"], false)] {
            let quiet = run(flags, before);
            assert_eq!(quiet.out.is_empty(), usual.out.is_empty(), "{line}: what is data stays");
            match quiet.code {
                Some(0) => assert_eq!(quiet.err, "", "{line}"),
                _ => assert!(quiet.err.starts_with("error") || !quiet.out.is_empty(), "{line}: {}", quiet.err),
            }
        }
        let colours = |done: &super::support::Done| format!("{}{}", done.out, done.err).contains('\x1b');
        assert!(!colours(&run(&["--color", "never"], true)), "{line}");
        assert!(!colours(&run(&["-v", "--color=auto"], false)), "{line}: into a pipe");
        let always = run(&["--color=always"], false);
        assert!(always.code == Some(0) || colours(&always) || always.err.is_empty(), "{line}: {}", always.err);
    }
    for line in ["nonsense", "build --nonsense"] {
        let words = || line.split(' ');
        assert!(world.smidr().args(words()).args(["--color", "always"]).run().err.contains('\x1b'));
        assert!(!world.smidr().args(words()).args(["--color", "never"]).run().err.contains('\x1b'));
    }
    world.smidr().args(["plan", "-q", "-v"]).run().expect_code(2).expect_err("cannot be used with");
    assert!(!world.smidr().args(["check", "--color", "always"]).env("NO_COLOR", "1").run().err.is_empty());
}

/// Commands that are about no project: which config is named is all the same to them.
#[test]
fn a_config_is_not_looked_at_where_it_means_nothing() {
    let world = World::new();
    world.init("p");
    for line in [
        "status",
        "history rebuild",
        "image ls",
        "image verify",
        "image prune",
        "du",
        "clean",
        "man",
        "completions bash",
        "trust --list",
        "history prune --keep 9 --all-projects",
        "artifacts clean --keep 9 --all-projects",
    ] {
        world.smidr().args(["-c", "/none/x.yaml"]).args(line.split(' ')).run().expect_code(0);
    }
}

#[test]
fn a_clean_that_finds_nothing_says_so() {
    let world = World::new();
    world.init("p");
    for line in ["clean", "clean --dry-run", "clean --older-than 1d --dry-run", "clean --gone --dry-run"] {
        world.smidr().args(line.split(' ')).run().expect_code(0).expect_err("nothing to remove: ");
    }
}
