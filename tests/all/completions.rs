//! What the shell offers when its user presses the key: asked of a real bash, in silence whatever is wrong.

use std::{fs, process::Command};

use super::{
    daemon_fixture::Served,
    support::{Done, World, has, skip, smidr_bin},
};

/// What bash completes: its own words, as readline takes them apart, and what stands before the cursor of the last one.
fn completed(world: &World, words: &[&str], typed: &str) -> Vec<String> {
    let script = r#"source <("$SMIDR" completions bash)
        shopt -s extglob; typed=$1; shift
        COMP_WORDS=(smidr "$@") COMP_CWORD=$#
        _smidr smidr "$typed" x
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut command = Command::new("bash");
    world.surround(&mut command);
    command.env("SMIDR", smidr_bin()).args(["--norc", "-c", script, "bash", typed]).args(words);
    command.current_dir(world.project());
    let done = Done::new(command.output().expect("bash runs"));
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{words:?}");
    done.out.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A build with one task, as far as the record goes.
pub(super) fn record(world: &World, id: &str) {
    let folder = world.smidr.join("builds").join(id);
    fs::create_dir_all(&folder).expect("a folder");
    let config = world.project().join("smidr.yaml");
    let started = format!(
        r#"{{"build":"{id}","seq":1,"at":"2026-01-01T00:00:00Z","event":"build_started","name":"p","targets":["x"],"machine":"m","config":"{}"}}"#,
        config.display()
    );
    let task = |seq: u8, rest: &str| {
        format!(
            r#"{{"build":"{id}","seq":{seq},"at":"2026-01-01T00:00:0{seq}Z","event":"{rest},"recipe":"hello","task":"do_compile","pid":1"#
        )
    };
    let outcome = r#"{"state":"COMPLETED","bitbake_exit":0,"artifacts":1,"artifact_bytes":1,"duration_ms":1,"diagnoses":[{"kind":"fetch-network","recipe":"hello","task":"do_fetch","first_error":{"text":"x","file":null,"line":1},"subject":"https://example.org/x","evidence":[],"cause":"x","next":[],"sure":"certain","facts":["x"],"recovery":"network"}],"warnings":[{"kind":"cve","count":2,"new":1,"places":[{"recipe":"hello","layer":"meta","count":2,"new":1}],"examples":["x"]}]}"#;
    let sha256 = "a".repeat(64);
    let artifact = format!(r#"{{"path":"a","size":1,"sha256":"sha256:{sha256}"}}"#);
    let lines = [
        started,
        format!(r#"{},"index":1,"total":1,"setscene":false,"log":null}}"#, task(2, r#"task_started""#)),
        format!(r#"{},"ok":true,"log":null}}"#, task(3, r#"task_ended""#)),
        format!(
            r#"{{"build":"{id}","seq":4,"at":"2026-01-01T00:00:04Z","event":"artifact_kept","artifact":{artifact}}}"#
        ),
        format!(r#"{{"build":"{id}","seq":5,"at":"2026-01-01T00:00:04Z","event":"finished","outcome":{outcome}}}"#),
    ];
    fs::write(folder.join("events.jsonl"), lines.join("\n") + "\n").expect("a journal");
}

#[test]
fn a_shell_offers_what_there_is() {
    if !has("bash") {
        return skip("completions::a_shell_offers_what_there_is", "there is no bash");
    }
    let world = World::new();
    world.init("p");
    world.append("variants:\n  debug: {base: {machine: other}}\n  fast: {}\n");
    let names = world.smidr.join("images/names");
    fs::create_dir_all(&names).expect("folders");
    fs::write(names.join("debian-12.json"), "{}").expect("a name");
    record(&world, "p-0000abcd");
    world.smidr().args(["history", "rebuild"]).run().expect_code(0);
    let rows: &[(&[&str], &str, &[&str])] = &[
        (&["logs", ""], "", &["p-0000abcd"]),
        (&["artifacts", "copy", "p-"], "p-", &["p-0000abcd"]),
        (&["shell", "p-00"], "p-00", &["p-0000abcd"]),
        (&["logs", "--task", ""], "", &["hello:do_compile"]),
        (&["logs", "p-0000abcd", "--task", "hello", ":"], "", &["do_compile"]),
        (&["logs", "--task", "hello", ":", "do_"], "do_", &["do_compile"]),
        (&["logs", "--task", "=", "hel"], "hel", &["hello:do_compile"]),
        (&["build", "--variant", ""], "", &["debug", "fast"]),
        (&["plan", "--variant", "f"], "f", &["fast"]),
        (&["plan", "--machine", ""], "", &["hello-x86-64", "other"]),
        (&["build", "hello-i"], "hello-i", &["hello-image"]),
        (&["lock", "--update", ""], "", &["bitbake", "host", "meta-hello"]),
        (&["image", "rm", ""], "", &["debian-12"]),
        (&["image", "build", "hel"], "hel", &["hello"]),
        (&["image", "bui"], "bui", &["build"]),
        (&["plan", "--color", ""], "", &["auto", "always", "never"]),
        (&["-c", "smidr.y"], "smidr.y", &["smidr.yaml"]),
        (&["cancel", "--f"], "--f", &["--force"]),
        (&["init", "n", "--template", "hel"], "hel", &["hello"]),
    ];
    for (words, typed, expected) in rows {
        assert_eq!(completed(&world, words, typed), *expected, "{words:?}");
    }
    // A project that is broken, or whose names a shell would run, offers the rest.
    world.append("  '$(touch pwned)': {}\n");
    assert_eq!(completed(&world, &["plan", "--variant", ""], ""), ["debug", "fast"]);
    world.write("smidr.yaml", "{[\u{0}");
    for words in [&["plan", "--variant", ""][..], &["build", ""], &["plan", "--machine", ""]] {
        let found = completed(&world, words, "");
        assert!(found.iter().all(|name| name.starts_with('-')), "{words:?}: {found:?}");
    }
    assert_eq!(completed(&world, &["logs", ""], ""), ["p-0000abcd"]);
    assert!(!world.project().join("pwned").exists());
}

#[test]
fn questions_of_shells_are_answered_in_silence() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "nonsense"] {
        let ask =
            |words: &[&str]| world.smidr().env("SMIDR_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", "1").args(words);
        for words in [&[][..], &["--"], &["--", "smidr"], &["--", "smidr", "ima"]] {
            let done = ask(words).run();
            assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{shell} {words:?}");
        }
        if ["zsh", "fish"].contains(&shell) {
            ask(&["--", "smidr", "ima"]).run().expect_out("image");
        }
    }
    assert!(!world.smidr.exists(), "asking touches nothing");
}

#[test]
fn builds_of_a_daemon_are_offered() {
    if !has("bash") {
        return skip("completions::builds_of_a_daemon_are_offered", "there is no bash");
    }
    let served = Served::paused();
    record(&served, "p-0000abcd");
    served.smidr().args(["history", "rebuild"]).run().expect_code(0);
    let waiting = served.started(&[]);
    let offers = |words: &[&str]| completed(&served, words, words.last().expect("a word"));
    assert_eq!(offers(&["client", "status", ""]), [waiting.as_str(), "p-0000abcd"]);
    assert_eq!(offers(&["client", "logs", "--build-id", "p-0000"]), ["p-0000abcd"]);
    assert_eq!(offers(&["client", "logs", "p-0000abcd", "--task", "he"]), ["hello:do_compile"]);
    served.smidr().args(["daemon", "stop"]).run().expect_code(0);
    assert_eq!(offers(&["client", "status", "p-"]), [""; 0]);
}
