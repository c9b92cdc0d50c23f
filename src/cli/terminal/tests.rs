//! Every text of every event, hostile: nothing raw reaches a terminal, and no line looks like one of smidr's own. And a whole build that
//! was recorded, as each kind of reader sees it.

use jiff::Timestamp;
use serde_json::Value;

use super::*;
use crate::{
    cli::{
        live::Room,
        output::{PRINTED, printed_on},
    },
    model::{
        Activity, Artifact, BuildId, Certainty, Diagnosis, FailedTask, Hint, PeakOf, Place, Quote, Recovered, Recovery,
        SourcePlace, Unit, Usage, WarnedPlace, WarningGroup, danger,
    },
};

const HOSTILE: [&str; 3] = [
    "\x1b]52;c;eA==\x07\x1b[2J\r\u{9b}1m\u{202e}\u{2028}\n::add-mask::x\nerror: forged ##vso[a.b]c\x1b[31mred",
    "error: forged",
    "::add-mask::x",
];

/// One event of each kind, with all that it can hold.
fn samples() -> Vec<Event> {
    let text = || "x".to_owned();
    let name = || TaskName { recipe: text(), task: text() };
    let log = || Some("/x".into());
    let digest = crate::model::Digest::from_sha256([1; 32]);
    let usage = Usage { cpu_ms: 1, peak_memory: 1, peak_of: PeakOf::Build, read_bytes: 1, written_bytes: 1 };
    let quote = Quote { text: text(), file: Some(text()), line: 1 };
    let diagnosis = Diagnosis {
        kind: text(),
        recipe: Some(text()),
        task: Some(text()),
        multiconfig: Some(text()),
        first_error: Some(quote.clone()),
        source: Some(SourcePlace { file: text(), line: Some(1) }),
        evidence: vec![quote],
        cause: text(),
        next: vec![Hint::config_in("x", "x", "x")],
        sure: Certainty::Likely,
        could_be: vec![text()],
        also: vec![name()],
        facts: vec![text()],
        recovery: None,
        subject: Some(text()),
    };
    let outcome = |state, bitbake_exit, failed: Vec<FailedTask>| {
        let has_place = failed.is_empty();
        Outcome {
            state,
            bitbake_exit,
            failed,
            reasons: vec![text()],
            kind: Some(crate::model::Kind::Host),
            hints: vec![Hint::command("x", "x")],
            diagnoses: if state == State::Failed { vec![diagnosis.clone()] } else { vec![] },
            warnings: vec![WarningGroup {
                kind: "other".into(),
                count: 2,
                new: 1,
                places: vec![WarnedPlace { recipe: Some(text()), layer: Some(text()), count: 1, new: 1 }],
                examples: vec![text()],
            }],
            recovered: Some(Recovered {
                how: vec![Recovery::Network],
                diagnoses: vec![diagnosis.clone()],
                helped: true,
            }),
            place: has_place.then(|| crate::model::ConfigPlace {
                file: text(),
                line: 1,
                column: 1,
                length: 1,
                text: text(),
            }),
            usage: Some(usage),
            artifacts: 1,
            artifact_bytes: 1,
            duration_ms: 1,
            cleaned: false,
        }
    };
    let failed = vec![FailedTask { name: name(), log: log(), reasons: vec![text()], urls: vec![text()] }];
    let artifact = Artifact { path: "x".into(), size: 1, sha256: Some(digest.clone()), link: log() };
    let mut all = vec![
        Event::BuildStarted {
            name: text(),
            targets: vec![text()],
            machine: text(),
            variant: Some(text()),
            config: log(),
            customer: None,
            labels: Default::default(),
        },
        Event::Queued { ahead: 1, of_command: false },
        Event::Queued { ahead: 2, of_command: true },
        Event::InQueue { position: 1, reason: text() },
        Event::StageStarted { stage: Stage::Fetch },
        Event::Waiting { resource: text(), holder: text() },
        Event::Warning { text: text() },
        Event::HostReady { name: text(), digest: Some(digest) },
        Event::LayersReady { layers: vec![(text(), text())] },
        Event::SandboxReady { isolation: text(), task_network_cut: true },
        Event::Progress { activity: Activity::Pull, subject: text(), done: 1, total: Some(2), unit: Unit::Bytes },
        Event::RecipeStep { recipe: text(), step: text() },
        Event::Console { line: text() },
        Event::BitbakeReady { version: text() },
        Event::Parsed { recipes: 2, cached: 1, errors: 1 },
        Event::TasksPlanned { total: 2, setscene: 1 },
        Event::TaskStarted { name: name(), pid: 1, index: 1, total: 2, setscene: false, log: log() },
        Event::TaskProgress { pid: 1, percent: Some(1), rate: Some(text()) },
        Event::TaskEnded { name: name(), pid: 1, ok: false, setscene: false, log: log() },
        Event::TaskSkipped { name: name(), covered: true },
        Event::NoProvider { item: text(), dependees: vec![text()], reasons: vec![text()], close_matches: vec![text()] },
        Event::TaskLog { name: name(), log: "/x".into(), tail: vec![text()] },
        Event::Stopping { force: false },
        Event::ArtifactKept { artifact },
        Event::Finished { outcome: outcome(State::Failed, Some(1), failed) },
        Event::Finished { outcome: outcome(State::Failed, Some(1), Vec::new()) },
        Event::Finished { outcome: outcome(State::Completed, Some(0), Vec::new()) },
    ];
    let levels = [Level::Plain, Level::Note, Level::Warning, Level::Error, Level::Critical];
    all.extend(levels.map(|level| Event::Message { level, text: text(), task: Some(name()) }));
    all
}

/// Where a document has texts, as JSON pointers (RFC 6901).
fn texts(document: &Value, at: &str, found: &mut Vec<String>) {
    match document {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(list) => (0..).zip(list).for_each(|(n, part): (u32, _)| texts(part, &format!("{at}/{n}"), found)),
        Value::Object(map) => map.iter().for_each(|(key, part)| texts(part, &format!("{at}/{key}"), found)),
        _ => {}
    }
}

/// The same document with another text in each place in turn.
fn variations(document: &Value, text: &str) -> Vec<Value> {
    let mut places = Vec::new();
    texts(document, "", &mut places);
    let with_text = |place: &String| {
        let mut new = document.clone();
        *new.pointer_mut(place)? = text.into();
        Some(new)
    };
    places.iter().filter_map(with_text).collect()
}

/// What all sinks print of some events, and what the line of progress says meanwhile.
fn printed(events: &[Event], watched: bool, connected: bool) -> String {
    PRINTED.take();
    let mut terminal = Terminal::new();
    terminal.bar = watched.then(Bar::new);
    let mut log = Terminal::log();
    (terminal.connected, log.connected) = (connected, connected);
    let build = BuildId::new("x", 1).expect("an id");
    let mut bar = String::new();
    for (seq, event) in (1..).zip(events) {
        let record =
            Record { build: build.clone(), place: Place::Seq(seq), at: Timestamp::UNIX_EPOCH, event: event.clone() };
        terminal.accept(&record);
        bar.extend(terminal.bar.iter().map(|bar| format!("{}\n", bar.message())));
        JsonLines.accept(&record);
        log.accept(&record);
    }
    PRINTED.take() + &bar
}

#[test]
fn every_kind_of_event_is_sampled() {
    // serde names all kinds to who asks for one that there is not.
    let error = serde_json::from_str::<Event>(r#"{"event": "?"}"#).expect_err("no event");
    let error = error.to_string();
    let known: BTreeSet<String> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    let kind = |event: &Event| serde_json::to_value(event).expect("JSON")["event"].as_str().map(str::to_owned);
    let sampled: BTreeSet<String> = samples().iter().filter_map(kind).collect();
    assert!(known.len() > 20, "{error}");
    assert_eq!(sampled, known);
}

#[test]
fn nothing_that_an_event_says_reaches_a_terminal_raw() {
    let mut seen = 0;
    for hostile in HOSTILE {
        for sample in samples() {
            let document = serde_json::to_value(&sample).expect("JSON");
            assert!(!document.to_string().contains("null"), "{document}: a sample has all that an event can hold");
            // What is no free text, as a digest, is refused.
            let events = variations(&document, hostile).into_iter().filter_map(|new| serde_json::from_value(new).ok());
            for event in events.collect::<Vec<Event>>() {
                let all = [event.clone(), Event::TasksPlanned { total: 2, setscene: 1 }, event.clone()];
                for (watched, connected) in [(false, false), (false, true), (true, false), (true, true)] {
                    let printed = printed(&all, watched, connected);
                    assert_eq!(danger(&printed), None, "{event:?}: {printed}");
                    let forged = printed.lines().find(|line| line.starts_with("error: forged"));
                    assert_eq!(forged, None, "{event:?}");
                    seen += usize::from(printed.contains("forged") || printed.contains("add-mask"));
                }
            }
        }
    }
    assert!(seen > 200, "only {seen} texts were shown at all");
}

/// A build of nine recipes, of which one fails.
fn recorded() -> Vec<Record> {
    include_str!("failed-build.jsonl").lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// What a reader of the recorded build sees.
fn read(columns: Option<usize>, mut view: Terminal) -> String {
    printed_on(columns, || {
        recorded().iter().for_each(|record| view.accept(record));
        assert_eq!(view.bar.as_ref().map(Bar::message).unwrap_or_default(), "", "nothing stays behind");
    })
}

#[test]
fn a_failed_build_as_each_reader_sees_it() {
    let watched = || Terminal::with(Stream::Err, String::new(), Some(Bar::new()));
    let unwatched = Terminal::with(Stream::Err, String::new(), None);
    let seen = [
        ("on a terminal of 80 columns", read(Some(80), watched())),
        ("on a terminal of 40 columns", read(Some(40), watched())),
        ("in a pipe", read(None, unwatched)),
        ("smidr logs", read(None, Terminal::log())),
    ];
    for (reader, text) in &seen {
        assert_eq!(text.matches("fatal error: foo.h").count(), 2, "{reader}: in the log and in the reason\n{text}");
        let last = text.lines().rfind(|line| line.starts_with("error: ")).expect("an error");
        assert!(last.starts_with("error: my-system-e3d58ee5 failed in"), "{reader}: {last}");
    }
    let document: Vec<String> = seen.map(|(reader, text)| format!("=== {reader}\n{text}")).into();
    insta::assert_snapshot!(document.join("\n"));
}

#[test]
fn what_goes_on_fits_any_terminal() {
    let mut board = board::Board::default();
    let mut shots = Vec::new();
    for record in recorded() {
        board.take(&record);
        // Many tasks run; some of them say how far they are; artifacts would be gathered now.
        let moments = [Place::Seq(7), Place::After(7), Place::Seq(103), Place::After(109), Place::Seq(121)];
        if moments.contains(&record.place) {
            for (columns, rows) in [(80, 24), (40, 24), (40, 9), (20, 24), (100, 1)] {
                let lines = board.lines(record.at, Room { columns, rows }, "");
                assert!(lines.len() < rows.max(2), "{lines:?}");
                let lines = printed_on(None, || lines.iter().for_each(complain));
                assert!(lines.lines().all(|line| crate::cli::wrap::width(line) < columns), "{lines}");
                shots.push((record.place, format!("=== {:?}, {columns} columns, {rows} rows\n{lines}", record.place)));
            }
        }
    }
    // Of several states at the same place, the last.
    let last = |number: usize, place: &Place| !shots.iter().skip(number + 5).any(|(other, _)| other == place);
    let shown: Vec<&str> = shots
        .iter()
        .enumerate()
        .filter(|(number, (place, _))| last(*number, place))
        .map(|(_, (_, text))| text.as_str())
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn what_a_person_asks_fits_at_any_width() {
    let mut board = board::Board::default();
    let mut seen = Vec::new();
    for record in recorded() {
        board.take(&record);
        if record.place == Place::Seq(103) {
            let wanted = board.total;
            let ends: Vec<Duration> = (1..=wanted).map(|task| Duration::from_secs(task * 30)).collect();
            board.paces = vec![board::Pace { took: Duration::from_secs(wanted * 30 + 60), ends }];
            let failed = Event::TaskEnded {
                name: TaskName { recipe: "x".into(), task: "do_compile".into() },
                pid: u32::MAX,
                ok: false,
                setscene: false,
                log: None,
            };
            let warning = Event::Warning { text: "x".into() };
            for event in [failed, warning.clone(), warning] {
                board.take(&Record { event, ..record.clone() });
            }
            for tight in [None, Some("3.1 GB free on the disk of the build".to_owned())] {
                board.tight = tight.into_iter().collect();
                for columns in [40, 80, 120, 200] {
                    let lines = board.lines(record.at, Room { columns, rows: 24 }, "");
                    let lines = printed_on(None, || lines.iter().for_each(complain));
                    assert!(lines.lines().all(|line| crate::cli::wrap::width(line) < columns), "{lines}");
                    seen.push(format!("=== {columns} columns\n{lines}"));
                }
            }
        }
    }
    insta::assert_snapshot!(seen.join("\n"));
}

#[test]
fn sstate_is_told_every_ten_seconds_without_a_terminal() {
    let mut view = Terminal::with(Stream::Err, String::new(), None);
    let build = BuildId::new("x", 1).expect("an id");
    let said = printed_on(None, || {
        for index in 1..=3000 {
            let name = TaskName { recipe: "x".into(), task: "do_package".into() };
            let event = Event::TaskStarted { name, pid: 1, index, total: 3000, setscene: true, log: None };
            let at = Timestamp::UNIX_EPOCH + Duration::from_millis(index * 10);
            view.accept(&Record { build: build.clone(), place: Place::Seq(index), at, event });
        }
    });
    let told: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix("sstate")?.split_whitespace().next()).collect();
    assert_eq!(told, ["1/3000", "1001/3000", "2001/3000", "3000/3000"], "{said}");
}

/// What is printed of these events by a build that ends like this.
fn told(events: &[Event], outcome: Outcome) -> String {
    let build = BuildId::new("x", 1).expect("an id");
    let mut view = Terminal::with(Stream::Err, String::new(), None);
    let end = Event::Finished { outcome };
    let begin = Event::BitbakeReady { version: "2.8".into() };
    printed_on(None, || {
        for event in [&begin].into_iter().chain(events).chain([&end]) {
            let (build, event) = (build.clone(), event.clone());
            view.accept(&Record { build, place: Place::Seq(1), at: Timestamp::UNIX_EPOCH, event });
        }
    })
}

#[test]
fn each_error_is_told_once() {
    let name = |recipe: &str| TaskName { recipe: recipe.into(), task: "do_act".into() };
    let said = |text: &str, task: Option<TaskName>| Event::Message { level: Level::Error, text: text.into(), task };
    let failed = |reasons: &[&str]| FailedTask {
        name: name("bad"),
        log: None,
        reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        urls: Vec::new(),
    };
    let outcome = |failed: Vec<FailedTask>, reasons: &[&str]| Outcome {
        bitbake_exit: Some(1),
        failed,
        reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        ..Outcome::new(State::Failed)
    };
    let planned = Event::TasksPlanned { total: 9, setscene: 0 };
    let traced = "Error executing a python function in exec_func_python() autogenerated:\n\nThe stack trace of python calls that \
                  resulted in this exception/failure was:\nFile: 'x', lineno: 2\nException: bb.X: no such thing";
    let missing = Event::NoProvider {
        item: "none".into(),
        dependees: vec![],
        reasons: vec![],
        close_matches: vec!["nine".into()],
    };
    let why = "why:    smidr explain x-00000001\n";
    let commands = format!("log:    smidr logs x-00000001 --task bad:do_act\n{why}shell:  smidr shell x-00000001\n");
    let after = "bitbake    2.8";
    let rows = [
        (
            vec![
                said("ParseError at a.bb:13: unparsed line", None),
                said("Parsing halted due to errors, see above", None),
            ],
            outcome(vec![], &["ParseError at a.bb:13: unparsed line"]),
            format!(
                "{after}\nerror: x-00000001 failed after 0.0 s, before any task\n  ParseError at a.bb:13: unparsed line\n{why}"
            ),
        ),
        (
            vec![missing.clone()],
            outcome(vec![], &["nothing provides `none`; near: nine"]),
            format!(
                "{after}\nerror: x-00000001 failed after 0.0 s, before any task\n  nothing provides `none`; near: nine\n{why}"
            ),
        ),
        // Whose log was not there.
        (
            vec![planned.clone(), said(traced, Some(name("bad")))],
            outcome(vec![failed(&["no such thing"])], &[]),
            format!(
                "{after}                                              0 of 9 tasks, 0 run\nerror: x-00000001 failed in bad:do_act (after 0.0 s)\n  no such thing\n{commands}"
            ),
        ),
        // Of a task that did not fail, and of none, before and while others ran.
        (
            vec![missing, planned, said(traced, Some(name("good"))), said("odd", None)],
            outcome(vec![failed(&["why"])], &["memory ran out"]),
            format!(
                "error: odd\nerror: nothing provides `none`\nerror: good:do_act: Exception: bb.X: no such thing\n{after}                                              0 of 9 tasks, 0 run\nerror: x-00000001 failed in bad:do_act (after 0.0 s)\n  why\ncaused by: memory ran out\n{commands}"
            ),
        ),
        // BitBake itself broke: its last words.
        (
            vec![Event::Console { line: "Segmentation fault".into() }],
            outcome(vec![], &["BitBake ended with exit status 139 before it was done"]),
            format!(
                "| Segmentation fault\n{after}\nerror: x-00000001 failed after 0.0 s, before any task\n  BitBake ended with exit status 139 before it was done\n{why}"
            ),
        ),
    ];
    for (events, outcome, expected) in rows {
        let printed = told(&events, outcome);
        assert_eq!(printed, format!("{after}\n{expected}"), "{events:?}");
    }
}

#[test]
fn a_failure_is_told_with_its_diagnosis() {
    let name = |recipe: &str| TaskName { recipe: recipe.into(), task: "do_act".into() };
    let failed =
        |recipe: &str| FailedTask { name: name(recipe), log: None, reasons: vec!["a reason".into()], urls: Vec::new() };
    let text = "a.c:1:10: fatal error: b.h: No such file or directory";
    let quote = Quote { text: text.into(), file: None, line: 3 };
    let diagnosis = |recipe: &str, sure: Certainty| Diagnosis {
        recipe: Some(recipe.into()),
        task: Some("do_act".into()),
        first_error: Some(quote.clone()),
        evidence: vec![quote.clone()],
        next: ["one", "two", "three"].map(Hint::new).into(),
        sure,
        also: vec![name("same")],
        ..Diagnosis::new("missing-header", "no recipe gives b.h")
    };
    let outcome = Outcome {
        bitbake_exit: Some(1),
        failed: ["bad", "odd", "same", "other", "another"].map(failed).into(),
        diagnoses: vec![diagnosis("bad", Certainty::Likely), diagnosis("odd", Certainty::Unknown)],
        ..Outcome::new(State::Failed)
    };
    assert_eq!(
        told(&[], outcome),
        format!(
            "bitbake    2.8\nbitbake    2.8\nerror: x-00000001 failed in bad:do_act (after 0.0 s)\n  {text}\n\
             caused by: most likely: no recipe gives b.h\nhint: one\nhint: two\n\
             error: x-00000001 failed in odd:do_act (after 0.0 s)\n  a reason\n\
             error: x-00000001 failed in same:do_act, same:do_act for the same reason\n\
             error: 2 more tasks failed: other:do_act, another:do_act\n\
             log:    smidr logs x-00000001 --task bad:do_act\nwhy:    smidr explain x-00000001\n\
             shell:  smidr shell x-00000001\n"
        )
    );
}

/// What one sink prints of all samples.
fn told_at(amount: Amount) -> String {
    PRINTED.take();
    let mut terminal = Terminal::new();
    (terminal.amount, terminal.connected) = (amount, true);
    let build = BuildId::new("x", 1).expect("an id");
    for event in samples() {
        terminal.accept(&Record { build: build.clone(), place: Place::Seq(1), at: Timestamp::UNIX_EPOCH, event });
    }
    PRINTED.take()
}

#[test]
fn quiet_tells_what_failed_and_verbose_each_task() {
    let (quiet, usual, verbose) = (told_at(Amount::Errors), told_at(Amount::Usual), told_at(Amount::Details));
    for part in ["error:", "x:x", "hint:"] {
        assert!(quiet.contains(part), "no {part} in\n{quiet}");
    }
    for part in ["warning:", "completed", "used   ", "sandbox", "layers", "waiting"] {
        assert!(usual.contains(part) && !quiet.contains(part), "{part}:\n{usual}\n{quiet}");
    }
    for part in ["  failed", "in sstate", "of which sstate may save 1"] {
        assert!(verbose.contains(part) && !usual.contains(part), "{part} in\n{verbose}");
    }
}
