//! Failures that were posted, with their names replaced, and logs in bad shape.

use std::{fmt::Write as _, io::Cursor};

use include_dir::{Dir, include_dir};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

static CASES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/tests/failures");

#[derive(Deserialize)]
struct Case {
    series: String,
    kind: String,
    recipe: Option<String>,
    task: Option<String>,
    first: First,
    console: String,
    #[serde(default)]
    task_log: String,
}

#[derive(Deserialize)]
struct First {
    log: String,
    line: u64,
}

fn log<'a>(name: &str, text: &'a [u8]) -> Log<'a> {
    Log { name: Some(name.into()), text: Box::new(Cursor::new(text)), task: None }
}

fn of(console: &str, task: &str, series: Option<&str>) -> Vec<Diagnosis> {
    let console = (!console.is_empty()).then(|| log("console", console.as_bytes()));
    let logs = (!task.is_empty()).then(|| log("task", task.as_bytes())).into_iter().collect();
    diagnose(console, logs, &Facts { series: series.map(str::to_owned) }).expect("texts can be read")
}

#[test]
fn posted_failures_are_known() {
    let mut wrong = String::new();
    for file in CASES.files() {
        let name = file.path().display();
        let case: Case = serde_yaml::from_str(file.contents_utf8().expect("UTF-8"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let all = of(&case.console, &case.task_log, Some(&case.series));
        let first = all.first().unwrap_or_else(|| panic!("{name} has no diagnosis"));
        let line = first.first_error.as_ref().map(|quote| (quote.file.clone().unwrap_or_default(), quote.line));
        let got = (&first.kind, &first.recipe, &first.task, line);
        let wanted = (&case.kind, &case.recipe, &case.task, Some((case.first.log, case.first.line)));
        if got != wanted {
            writeln!(wrong, "{name}: {got:?} instead of {wanted:?}").expect("written");
        }
        assert!(!first.cause.is_empty() && !first.next.is_empty() && !first.evidence.is_empty(), "{name}");
        let told = format!("{} {:?}", first.cause, first.next);
        assert!(!told.contains("{recipe}") && !told.contains("{recipe|") && !told.contains("{bb"), "{told}");
    }
    assert_eq!(wrong, "");
    assert_eq!(CASES.files().count(), 113);
}

const COMPILE: &str = "DEBUG: Executing shell function do_compile
gcc -Werror -c error.c -o error.o
a.c:3:5: error: expected ';' before 'return'
make: *** [a.o] Error 1
ERROR: oe_runmake failed
WARNING: exit code 1 from a shell command.
";

const FAILED: &str =
    "ERROR: a-1.0-r0 do_compile: ExecutionError('/b/work/x/a/1.0-r0/temp/run.do_compile.7', 1, None, None)
ERROR: Logfile of failure stored in: /b/work/x/a/1.0-r0/temp/log.do_compile.7
ERROR: Task (/l/a_1.0.bb:do_compile) failed with exit code '1'
";

fn kinds(all: &[Diagnosis]) -> Vec<&str> {
    all.iter().map(|one| one.kind.as_str()).collect()
}

#[test]
fn a_log_is_read_however_it_was_kept() {
    let plain = of(FAILED, COMPILE, None);
    assert_eq!(kinds(&plain), ["compile-error"]);
    assert_eq!(plain[0].source, Some(SourcePlace { file: "a.c".into(), line: Some(3) }));
    let dirty: [fn(&str) -> String; 5] = [
        |line| format!("2026-01-01T10:00:00.1234567Z {line}"),
        |line| format!("\x1b[31m{line}\x1b[0m\r"),
        |line| format!("  1% |#  |\r  2% |## |\r{line}"),
        |line| format!("2026-01-01 10:00:00 - INFO     - {line}"),
        |line| format!("[10:00:00] {line}"),
    ];
    for made in dirty {
        let all = |text: &str| text.lines().map(|line| made(line) + "\n").collect::<String>();
        let found = of(&all(FAILED), &all(COMPILE), None);
        assert_eq!(
            (kinds(&found), &found[0].recipe, &found[0].source),
            (kinds(&plain), &plain[0].recipe, &plain[0].source),
            "{}",
            made("x")
        );
    }
    // In the console alone, once and twice behind `| `.
    for bar in ["| ", "| | "] {
        let quoted: String = COMPILE.lines().map(|line| format!("{bar}{line}\n")).collect();
        let mut lines = FAILED.lines();
        let console = format!(
            "{}\n{}\n{quoted}{}\n",
            lines.next().expect("one"),
            lines.next().expect("two"),
            lines.next().expect("three")
        );
        let found = of(&console, "", None);
        assert_eq!((kinds(&found), found[0].task.as_deref()), (vec!["compile-error"], Some("do_compile")), "{found:?}");
    }
    // PowerShell writes UTF-16.
    let wide: Vec<u8> = std::iter::once(0xfeff).chain(COMPILE.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let found =
        diagnose(Some(log("console", FAILED.as_bytes())), vec![log("task", &wide)], &Facts::default()).expect("read");
    assert_eq!((kinds(&found), &found[0].first_error.as_ref().expect("a line").line), (vec!["compile-error"], &3));
    // Cut in the middle, and bytes that are no text.
    let (cut, _) = COMPILE.split_once("make:").expect("there");
    assert_eq!(kinds(&of(FAILED, cut, None)), ["compile-error"]);
    let binary = [b"\xff\x00\xfe\n".repeat(1000), COMPILE.as_bytes().to_vec(), vec![0; 5000]].concat();
    let found = diagnose(None, vec![log("/b/work/x/a/1.0-r0/temp/log.do_compile.7", &binary)], &Facts::default())
        .expect("read");
    assert_eq!((kinds(&found), found[0].recipe.as_deref()), (vec!["compile-error"], Some("a")));
}

#[test]
fn compilers_in_other_languages_are_understood() {
    for (line, kind) in [
        ("a.c:3:10: schwerwiegender Fehler: zlib.h: Datei oder Verzeichnis nicht gefunden", "missing-header"),
        ("a.c:3:10: erreur fatale : zlib.h : Aucun fichier ou dossier de ce type", "missing-header"),
        ("a.c:3:10: 致命的エラー: zlib.h: そのようなファイルやディレクトリはありません", "missing-header"),
        ("a.c:3:10: Fehler: »x« nicht deklariert", "compile-error"),
        ("a.c:3:10: erreur : « x » non déclaré", "compile-error"),
        ("a.c:3:10: エラー: ‘x’ が宣言されていません", "compile-error"),
    ] {
        let found = of(FAILED, &format!("gcc -c a.c\n{line}\nmake: *** [a.o] Error 1\n"), None);
        assert_eq!(kinds(&found), [kind], "{line}");
        assert_eq!(found[0].first_error.as_ref().expect("a line").text, line);
    }
}

#[test]
fn what_only_quotes_errors_is_none() {
    let log = "NOTE: make -j 8
gcc -Werror -Wformat-security -DMSG=\"fatal error\" -c error.c -o error.o
test_parser ... expected error: unexpected token ... ok
checking whether the compiler reports error: no
a.c:9:1: warning: error: in a string [-Wfoo]
the disclaimer says: error or omission; failed to warn
real.c:7:2: error: unknown type name 'u33'
make: *** [real.o] Error 1
";
    let found = of(FAILED, log, None);
    assert_eq!(found[0].first_error.as_ref().expect("a line").line, 7, "{found:?}");
    let fine = "NOTE: Running task 1 of 2 (/l/a.bb:do_compile)\nWARNING: a-1.0-r0 do_fetch: Failed to fetch URL http://a/b, attempting MIRRORS if available\nWARNING: Setscene task (/l/a.bb:do_package_setscene) failed with exit code '1' - real task will be run instead\nNOTE: Tasks Summary: Attempted 9 tasks of which 9 didn't need to be rerun and all succeeded.\n";
    assert_eq!(of(fine, "", None), []);
}

#[test]
fn an_unknown_failure_shows_its_first_lines_and_no_noise() {
    let log = format!(
        "DEBUG: Executing shell function do_compile\n{}frobnicator: it broke badly\nfrobnicator: error: it said no\n{}make: *** [all] Error 3\nERROR: oe_runmake failed\n",
        "building\n".repeat(50),
        "more\n".repeat(40)
    );
    let found = of(FAILED, &log, None);
    assert_eq!((kinds(&found), found[0].sure), (vec![UNKNOWN], Certainty::Unknown));
    assert_eq!(found[0].first_error.as_ref().expect("a line").line, 53);
    assert!(found[0].evidence.len() > 25 && found[0].cause.contains("it said no"), "{found:?}");
    // No line that looks like one: the last are shown.
    let found = of(FAILED, "one\ntwo\nthree\n", None);
    assert_eq!(found[0].kind, UNKNOWN);
    assert_eq!(found[0].evidence.iter().map(|quote| quote.text.as_str()).collect::<Vec<_>>(), ["one", "two", "three"]);
}

#[test]
fn equal_failures_are_one_and_others_are_all_there() {
    let mut console = String::new();
    for number in 0..500 {
        let name = format!("r{number}");
        let text = if number % 2 == 0 {
            "No space left on device".to_owned()
        } else {
            format!("{name} is special: error: x{number}")
        };
        writeln!(console, "ERROR: {name}-1.0-r0 do_install: {text}\nERROR: Task (/l/{name}_1.0.bb:do_install) failed with exit code '1'").expect("written");
    }
    let found = of(&console, "", None);
    let full = found.iter().find(|one| one.kind == "disk-full").expect("found");
    assert_eq!((full.also.len(), found.len()), (249, 251));
}

/// A reader of `count` times the same text.
struct Again<'a>(&'a [u8], u64, usize);

impl Read for Again<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.1 == 0 {
            return Ok(0);
        }
        let count = into.len().min(self.0.len() - self.2);
        into[..count].copy_from_slice(&self.0[self.2..self.2 + count]);
        self.2 = (self.2 + count) % self.0.len();
        self.1 -= u64::from(self.2 == 0);
        Ok(count)
    }
}

#[test]
fn lines_without_an_end_and_many_errors_are_bounded() {
    let long = Again(&[b'e'; 4096], 2048, 0).chain(Again(b"\na.c:3:5: error: late\n", 1, 0));
    let text = Log { name: Some("log.do_compile".into()), text: Box::new(long), task: None };
    let found = diagnose(Some(log("console", FAILED.as_bytes())), vec![text], &Facts::default()).expect("read");
    assert_eq!((kinds(&found), found[0].first_error.as_ref().expect("a line").line), (vec!["compile-error"], 2));
    // One that begins behind a short one, and fills all that is read at once.
    let long = Again(b"x\n", 1, 0).chain(Again(&[b'e'; 4096], 200, 0)).chain(Again(b"\na.c:3:5: error: late\n", 1, 0));
    let text = Log { name: Some("log.do_compile".into()), text: Box::new(long), task: None };
    let found = diagnose(Some(log("console", FAILED.as_bytes())), vec![text], &Facts::default()).expect("read");
    assert_eq!((kinds(&found), found[0].first_error.as_ref().expect("a line").line), (vec!["compile-error"], 3));
    let many = Again(b"a.c:3:5: error: again\nERROR: x-1.0-r0 do_y: No such file or directory\n", 20_000, 0);
    let text = Log { name: Some("log.do_compile".into()), text: Box::new(many), task: None };
    let found = diagnose(Some(log("console", FAILED.as_bytes())), vec![text], &Facts::default()).expect("read");
    assert_eq!((kinds(&found), found[0].first_error.as_ref().expect("a line").line), (vec!["compile-error"], 1));
}

#[test]
fn logs_of_two_multiconfigs_are_told_apart() {
    let console = "ERROR: Task (mc:a:/l/zlib_1.0.bb:do_compile) failed with exit code '1'\n\
                   ERROR: Task (mc:b:/l/zlib_1.0.bb:do_compile) failed with exit code '1'\n";
    let of = |name: &str, text: &'static str| {
        let task = TaskName { recipe: format!("mc:{name}:zlib"), task: "do_compile".into() };
        Log { name: Some(name.into()), text: Box::new(text.as_bytes()), task: Some(task) }
    };
    let logs =
        vec![of("b", "x.c:1:2: fatal error: b.h: No such file or directory\n"), of("a", "a.c:3:5: error: here\n")];
    let found = diagnose(Some(log("console", console.as_bytes())), logs, &Facts::default()).expect("read");
    let told: Vec<(Option<&str>, &str)> =
        found.iter().map(|one| (one.multiconfig.as_deref(), one.kind.as_str())).collect();
    assert_eq!(told, [(Some("a"), "compile-error"), (Some("b"), "missing-header")]);
}

#[test]
fn no_error_is_denied() {
    let found = of("\u{feff}ERROR: Variable FOO_KEY is empty\nSummary: There was 1 ERROR message shown\n", "", None);
    assert_eq!(kinds(&found), ["unknown"]);
    assert!(found[0].cause.ends_with(": Variable FOO_KEY is empty"), "{}", found[0].cause);
    // UTF-16, cut in the middle of a character.
    let mut cut: Vec<u8> = "\u{feff}ERROR: a is empty\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    cut.push(b'x');
    let found = diagnose(Some(log("console", &cut)), Vec::new(), &Facts::default()).expect("read");
    assert_eq!(kinds(&found), ["unknown"]);
    // The stamps of a CI and of kas behind it.
    let stamped = FAILED.lines().fold(String::new(), |all, line| {
        all + "2026-01-01T10:00:00.1234567Z 2026-01-01 10:00:00 - ERROR    - " + line + "\n"
    });
    let text = "conftest.c:1:10: fatal error: none.h: No such file or directory\na.c:3:5: error: here\n";
    assert_eq!(kinds(&of(&stamped, text, None)), ["compile-error"]);
}

#[test]
fn logs_are_of_the_task_that_the_console_names() {
    let console = "ERROR: a-1.0-r0 do_compile: ExecutionError('x', 1)\nERROR: Logfile of failure stored in: /w/a/1.0/temp/log.do_compile.7\n\
                   ERROR: Task (/l/a_1.0.bb:do_compile) failed with exit code '1'\n\
                   ERROR: b-1.0-r0 do_compile: ExecutionError('x', 1)\nERROR: Logfile of failure stored in: /w/b/1.0/temp/log.do_compile.8\n\
                   ERROR: Task (/l/b_1.0.bb:do_compile) failed with exit code '1'\n";
    let logs = vec![log("log.do_compile.8", b"b.c:3:5: error: here\n"), log("saved", b"DEBUG: Executing shell function do_compile\ncd /w/a/1.0\nx.c:1:2: fatal error: a.h: No such file or directory\n")];
    let found = diagnose(Some(log("console", console.as_bytes())), logs, &Facts::default()).expect("read");
    let told: Vec<(Option<&str>, &str)> = found.iter().map(|one| (one.recipe.as_deref(), one.kind.as_str())).collect();
    assert_eq!(told, [(Some("a"), "missing-header"), (Some("b"), "compile-error")]);
}

#[test]
fn what_a_task_says_itself_is_the_cause() {
    let console = format!(
        "ERROR: a-1.0-r0 do_compile: Please set FOO\nWARNING: Error contacting Hash Equivalence Server a: b\n{FAILED}"
    );
    let found = of(&console, "DEBUG: Executing python function do_compile\nERROR: Please set FOO\n", None);
    assert_eq!((kinds(&found), found[0].cause.as_str()), (vec!["unknown"], "Please set FOO"));
    assert_eq!(found[0].evidence.last().map(|quote| quote.text.as_str()), Some("ERROR: Please set FOO"));
    // A log alone names no recipe.
    let found = of("", "DEBUG: Executing shell function do_compile\na.c:3:5: error: here\n", None);
    assert_eq!((found[0].recipe.as_deref(), found[0].task.as_deref()), (None, Some("do_compile")));
}

#[test]
fn commands_to_paste_hold_what_a_log_says() {
    let console =
        "ERROR: x-1.0-r0 do_fetch: Fetcher failure: Unable to find revision 0123 in branch main even from upstream\n";
    let console = format!(
        "WARNING: x-1.0-r0 do_fetch: Failed to fetch URL git://h/$(touch${{IFS}}x);branch=main, attempting MIRRORS if available\n{console}\
                           ERROR: Task (/l/x_1.0.bb:do_fetch) failed with exit code '1'\n"
    );
    let found = of(&console, "", None);
    let commands: Vec<String> = found[0].next.iter().map(|hint| hint.to_string()).collect();
    assert!(
        commands.iter().any(|text| text.contains("'git://h/$(touch"))
            || commands.iter().all(|text| !text.contains("$(")),
        "{commands:?}"
    );
}

/// What the rules match, damaged: cut, joined, repeated, with bytes between.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let examples: Vec<String> = rules::examples().map(str::to_owned).collect();
    let before = [
        "",
        "ERROR: ",
        "ERROR: x-1.0-r0 do_compile: ",
        "| ",
        "| | ",
        "2026-01-01T10:00:00Z ",
        "\x1b[31m",
        "\r10%\r",
        "\0",
    ];
    let line = (
        proptest::sample::select(before.to_vec()),
        proptest::sample::select(examples),
        any::<prop::sample::Index>(),
        0..4_usize,
        ".{0,3}",
    )
        .prop_map(|(before, example, at, how, more)| {
            let mut bytes = example.into_bytes();
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.truncate(at),
                1 => bytes.splice(at..at, more.into_bytes()).for_each(drop),
                2 => bytes = bytes.repeat(at + 1),
                _ => {}
            }
            [before.as_bytes(), &bytes, b"\n"].concat()
        });
    proptest::collection::vec(line, 0..40).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing breaks it, what it gives fits an outcome, and it gives the same again.
    #[test]
    fn damaged_logs_are_read_to_their_end(console in damaged(), task in damaged()) {
        let read = || {
            let console = [FAILED.as_bytes(), &console].concat();
            let logs = vec![Log { name: Some("log.do_compile".into()), text: Box::new(Cursor::new(task.clone())), task: None }];
            diagnose(Some(log("console", &console)), logs, &Facts::default()).expect("bytes can be read")
        };
        let found = read();
        prop_assert!(!found.is_empty());
        let kept = bounded(found.clone());
        prop_assert!(serde_json::to_string(&kept).expect("JSON").len() <= 2 * STORED);
        for one in &kept {
            prop_assert!(!one.kind.is_empty() && !one.cause.is_empty() && one.evidence.len() <= EVIDENCE);
        }
        prop_assert_eq!(found, read());
    }
}
