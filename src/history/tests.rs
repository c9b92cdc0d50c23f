//! The journals and the index over them: read back, damaged, interrupted, migrated.

#![expect(clippy::disallowed_macros, reason = "documents that tests make of literals")]

use std::{fs::File, io::Write as _};

use serde_json::json;

use super::{
    journal::{COMPRESSED, Entry, Failure, JOURNAL, JournalSink, Reader},
    *,
};
use crate::{
    events::Emitter,
    model::{Activity, Kind, Stage, TaskName, Unit},
    system::stop::StopToken,
};

struct World {
    _folder: tempfile::TempDir,
    paths: Paths,
}

fn world() -> World {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = Paths::new(folder.path().into());
    make_private_dir(&paths.locks()).expect("a folder");
    World { _folder: folder, paths }
}

fn id(number: u32) -> BuildId {
    BuildId::new("hello", number).expect("an id")
}

/// The journal of a new build.
fn begin(paths: &Paths, id: &BuildId) -> Begun {
    let folder = paths.build(id);
    make_private_dir(&folder).expect("a folder");
    let (journal, failure) = JournalSink::new(Writer::create(&folder).expect("a journal"), &StopToken::default());
    let index = History::open(paths).expect("made").into_sink().0;
    let on = Emitter::new(id.clone(), vec![Box::new(journal), Box::new(index)]);
    on.emit(Event::BuildStarted {
        name: "hello".into(),
        targets: vec!["image".into()],
        machine: "m".into(),
        variant: Some("debug".into()),
        config: Some("/p/smidr.yaml".into()),
        customer: None,
        labels: Default::default(),
    });
    Begun { on, failure }
}

struct Begun {
    on: Emitter,
    failure: Failure,
}

impl std::ops::Deref for Begun {
    type Target = Emitter;

    fn deref(&self) -> &Emitter {
        &self.on
    }
}

impl Begun {
    fn end(&self, outcome: Outcome) {
        self.emit(Event::Finished { outcome });
        self.failure.finish();
    }
}

fn records(folder: &Path, after: u64) -> Vec<Entry> {
    let mut reader = Reader::open(folder, after).expect("opens").expect("a journal");
    std::iter::from_fn(|| reader.read().expect("reads")).collect()
}

#[test]
fn only_its_owner_reads_it() {
    let World { paths, .. } = &world();
    let at = |name: &str| paths.home().join(name);
    let mode = |name: &str| fs::metadata(at(name)).expect(name).mode() & 0o777;
    let names = ["history.db", "history.db-wal", "history.db-shm"];
    let _db = History::open(paths).expect("made");
    assert_eq!(names.map(mode), [0o600; 3]);
    for open in
        [|paths: &Paths| History::open(paths).map(drop), |paths: &Paths| History::open_existing(paths).map(drop)]
    {
        for name in names {
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o644)).expect("a mode");
        }
        open(paths).expect("opened");
        assert_eq!(names.map(mode), [0o600; 3]);
    }
    // A link, to a file of the caller's too, or a folder; beside it, too.
    for (number, place) in [(0_u32, "history.db"), (1, "history.db"), (2, "history.db-shm")] {
        let World { paths, .. } = &world();
        let place = paths.home().join(place);
        match number {
            0 => std::os::unix::fs::symlink(at("history.db"), place).expect("a link"),
            1 => fs::create_dir(place).expect("a folder"),
            _ => {
                drop(History::open(paths).expect("made"));
                let _ = fs::remove_file(&place);
                std::os::unix::fs::symlink(paths.home().join("nowhere"), place).expect("a link");
            }
        }
        assert!(matches!(History::open(paths), Err(HistoryError::NotOwn { .. })), "{number}");
        assert!(matches!(History::open_existing(paths), Err(HistoryError::NotOwn { .. })), "{number}");
        assert!(!paths.home().join("nowhere").exists());
    }
}

#[test]
fn a_build_is_read_back_while_and_after_it_runs() {
    let World { paths, .. } = &world();
    assert!(History::open_existing(paths).expect("nothing yet").is_none());
    let on = begin(paths, &id(7));
    on.emit(Event::StageStarted { stage: Stage::Run });
    let name = TaskName { recipe: "busybox".into(), task: "do_compile".into() };
    on.emit(Event::TaskStarted { name: name.clone(), pid: 9, index: 1, total: 2, setscene: false, log: None });
    for done in 0..100 {
        on.progress(Activity::Parse, "recipes", done, Some(100), Unit::Items);
    }
    on.emit(Event::Console { line: "NOTE: hi".into() });
    let reader = History::open_existing(paths).expect("opens").expect("is there");
    let build = reader.find(None).expect("reads").expect("a build");
    assert_eq!((build.state, build.variant.as_deref()), (State::Building, Some("debug")));
    let folder = paths.build(&id(7));
    let seqs = |entries: &[Entry]| -> Vec<_> {
        let seq = |entry: &Entry| match entry {
            Entry::Record(record) => record.seq(),
            _ => None,
        };
        entries.iter().map(seq).collect()
    };
    assert_eq!(seqs(&records(&folder, 0)), (1..=4).map(Some).collect::<Vec<_>>(), "dense, without passing states");
    on.emit(Event::TaskEnded { name: name.clone(), pid: 9, ok: true, setscene: false, log: Some("/log".into()) });
    on.end(Outcome::new(State::Completed));
    assert!(!folder.join(JOURNAL).exists() && folder.join(COMPRESSED).exists());
    assert_eq!(seqs(&records(&folder, 4)), [Some(5), Some(6)]);
    let build = reader.find(Some(id(7).as_str())).expect("reads").expect("a build");
    assert_eq!(build.state, State::Completed);
    let tasks = reader.tasks(&id(7)).expect("reads");
    assert_eq!((tasks.len(), tasks[0].ok, &tasks[0].name), (1, Some(true), &name));
    assert_eq!(reader.newest_of(Path::new("/p/smidr.yaml"), "x").expect("reads").map(|build| build.id), Some(id(7)));
    // Another checkout of the same name is another project.
    assert_eq!(reader.newest_of(Path::new("/q/smidr.yaml"), "hello").expect("reads"), None);
    // What the index has is what the journals have.
    fs::remove_file(paths.history()).expect("removed");
    drop(reader);
    fs::create_dir(paths.builds().join("hello-000000ff")).expect("a folder");
    let mut left_out = Vec::new();
    assert_eq!(History::rebuild(paths, |id, _| left_out.push(id.to_owned())).expect("rebuilt"), 1);
    assert_eq!(left_out, ["hello-000000ff"]);
    let again = History::open(paths).expect("opens");
    assert_eq!(again.find(None).expect("reads"), Some(build));
    assert_eq!(again.tasks(&id(7)).expect("reads"), tasks);
}

#[test]
fn a_large_journal_is_read_from_the_middle() {
    let World { paths, .. } = &world();
    let on = begin(paths, &id(1));
    for number in 0..20_000 {
        on.emit(Event::Console { line: format!("{number} {}", "x".repeat(200)) });
    }
    on.end(Outcome::new(State::Completed));
    let folder = paths.build(&id(1));
    for after in [0, 1, 5000, 19_999, 20_000, 20_001, 20_002] {
        let found = records(&folder, after);
        assert_eq!(found.len() as u64, 20_002 - after, "after {after}");
        let seq = found.first().map(|entry| match entry {
            Entry::Record(record) => record.seq(),
            other => panic!("{other:?}"),
        });
        assert_eq!(seq, (after < 20_002).then_some(Some(after + 1)));
    }
}

#[test]
fn damage_is_counted_and_hides_nothing_else() {
    let World { paths, .. } = &world();
    let on = begin(paths, &id(1));
    ["a", "b", "c"].iter().for_each(|line| on.emit(Event::Console { line: (*line).into() }));
    let path = paths.build(&id(1)).join(JOURNAL);
    let text = fs::read_to_string(&path).expect("a journal");
    let lines: Vec<&str> = text.lines().collect();
    let read = |text: String| {
        fs::write(&path, text).expect("written");
        let entries = records(&paths.build(&id(1)), 0);
        entries
            .iter()
            .map(|entry| match entry {
                Entry::Record(record) => format!("{}", record.seq().unwrap_or_default()),
                Entry::Unreadable(_) => "?".into(),
                Entry::Missing(count) => format!("-{count}"),
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let future = lines[1].replace("console", "from_the_future");
    for (text, found) in [
        (text.clone(), "1 2 3 4"),
        // The last line was cut: it may still come.
        (text.trim_end().to_owned(), "1 2 3"),
        (format!("{}\n{}\n{}\n", lines[0], lines[2], lines[3]), "1 -1 3 4"),
        (format!("{}\n{{\"x\n{}\n{}\n", lines[0], lines[2], lines[3]), "1 ? 3 4"),
        (format!("{}\n{{\"x\n{}\n", lines[0], lines[3]), "1 ? -1 4"),
        (format!("{}\n{}\n{}\n", lines[0], "x".repeat(17 << 20), lines[2]), "1 ? 3"),
        (format!("{}\n{future}\n{}\n", lines[0], lines[2]), "1 ? 3"),
        ("\0\0\0".into(), ""),
        (String::new(), ""),
    ] {
        assert_eq!(read(text), found);
    }
}

#[test]
fn a_build_whose_worker_is_gone_was_interrupted_when_it_was_last_heard_of() {
    let World { paths, .. } = &world();
    let on = begin(paths, &id(1));
    on.emit(Event::StageStarted { stage: Stage::Run });
    let folder = paths.build(&id(1));
    let last = match records(&folder, 1).pop() {
        Some(Entry::Record(record)) => record.at,
        other => panic!("{other:?}"),
    };
    // A crash has cut its last line.
    let mut journal = fs::OpenOptions::new().append(true).open(folder.join(JOURNAL)).expect("a journal");
    journal.write_all(b"{\"build\":\"hel").expect("written");
    drop(on);
    let history = History::open(paths).expect("opens");
    let build = history.find(None).expect("reads").expect("a build");
    let marked = history.mark_interrupted(&build);
    assert_eq!((marked.state, marked.ended), (State::Interrupted, Some(last)));
    assert_eq!(marked.outcome.as_ref().map(Outcome::exit_code), Some(3));
    assert_eq!(history.mark_interrupted(&build), marked);
    let found = records(&folder, 0);
    assert_eq!(found.len(), 3, "{found:?}");
    History::rebuild(paths, |_, why| panic!("{why}")).expect("rebuilt");
    assert_eq!(history.find(None).expect("reads"), Some(marked));
}

#[test]
fn a_journal_without_a_beginning_stops_no_list() {
    let World { paths, .. } = &world();
    for (number, text) in [(1, ""), (2, "garbage\n"), (3, "\0\0")] {
        let on = begin(paths, &id(number));
        drop(on);
        fs::write(paths.build(&id(number)).join(JOURNAL), text).expect("written");
        let history = History::open(paths).expect("opens");
        let build = history.find(Some(id(number).as_str())).expect("reads").expect("a build");
        assert_eq!(history.ended(&build), None);
        assert_eq!(history.mark_interrupted(&build).state, State::Interrupted);
        assert!(history.unfinished().expect("reads").is_empty(), "{text:?}: and known as such from now on");
    }
}

#[test]
fn a_history_of_the_first_smidr_is_brought_along() {
    let World { paths, .. } = &world();
    let old = Connection::open(paths.history()).expect("made");
    old.execute_batch(
        "CREATE TABLE builds (id TEXT PRIMARY KEY, name TEXT NOT NULL, machine TEXT NOT NULL, targets TEXT NOT NULL, state TEXT NOT NULL,
           started TEXT NOT NULL, ended TEXT, outcome TEXT) STRICT;
         CREATE TABLE events (build TEXT NOT NULL, seq INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (build, seq)) STRICT, WITHOUT ROWID;
         CREATE TABLE artifacts (build TEXT NOT NULL, path TEXT NOT NULL, artifact TEXT NOT NULL, PRIMARY KEY (build, path)) STRICT, WITHOUT ROWID;
         CREATE INDEX builds_started ON builds(started); PRAGMA user_version = 1;",
    )
    .expect("the old tables");
    let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z");
    let outcome = |state: &str, cleaned: bool| {
        json!({"state": state, "bitbake_exit": 1, "host_at_fault": true, "hint": "free some space:  df -h", "artifacts": 0,
            "artifact_bytes": 0, "duration_ms": 5000, "cleaned": cleaned})
    };
    for (number, state, finished) in [(1, "FAILED", true), (2, "FAILED", false), (3, "BUILDING", false)] {
        let id = id(number);
        let insert = "INSERT INTO builds VALUES (?1,'hello','m','[\"i\"]',?2,?3,?4,?5)";
        let ended = (state == "FAILED").then(|| at(9));
        let end = ended.as_ref().map(|_| outcome(state, true).to_string());
        old.execute(insert, params![id.as_str(), state, at(number), ended, end]).expect("a build");
        let mut events = vec![
            json!({"event": "build_started", "name": "hello", "targets": ["i"], "machine": "m"}),
            json!({"event": "stage_started", "stage": "run"}),
            json!({"event": "console", "line": "hi"}),
        ];
        if finished {
            events.push(json!({"event": "finished", "outcome": outcome(state, false)}));
        }
        for (seq, mut event) in (1..).zip(events) {
            event["build"] = id.as_str().into();
            // Those of the first smidr counted passing states, too.
            event["seq"] = (seq * 10).into();
            event["at"] = at(number).into();
            let values = params![id.as_str(), seq * 10, event.to_string()];
            old.execute("INSERT INTO events VALUES (?1,?2,?3)", values).expect("an event");
        }
    }
    let held = lock_of(paths, &id(3));
    assert!(matches!(History::open(paths), Err(HistoryError::Earlier(found)) if found == id(3)));
    drop(held);
    // One that could not write all journals is begun again.
    fs::write(paths.builds(), "in the way").expect("a file");
    assert!(History::open(paths).is_err());
    let version: i64 = old.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a version");
    assert_eq!(version, 1);
    fs::remove_file(paths.builds()).expect("removed");
    drop(old);
    let history = History::open_existing(paths).expect("migrated").expect("is there");
    assert_eq!(history.count().expect("reads"), 3);
    for number in [1, 2] {
        let build = history.find(Some(id(number).as_str())).expect("reads").expect("a build");
        let outcome = build.outcome.expect("an outcome");
        assert_eq!((build.state, outcome.kind, outcome.cleaned), (State::Failed, Some(Kind::Host), true));
        assert_eq!(outcome.hints[0].to_string(), "free some space:  df -h");
        assert_eq!(records(&paths.build(&id(number)), 0).len(), 4);
    }
    let running = history.find(Some(id(3).as_str())).expect("reads").expect("a build");
    assert_eq!(running.state, State::Building);
    assert_eq!(history.mark_interrupted(&running).state, State::Interrupted);
    history.db.pragma_update(None, "user_version", VERSION + 1).expect("a newer one");
    assert!(matches!(History::open_existing(paths), Err(HistoryError::TooNew(_))));
}

fn lock_of(paths: &Paths, id: &BuildId) -> File {
    let file = File::create(paths.alive(id)).expect("a lock file");
    file.try_lock().expect("a lock");
    file
}

#[test]
fn a_part_of_the_list_fits_into_a_message() {
    let World { paths, .. } = &world();
    begin(paths, &id(1)).end(Outcome::new(State::Completed));
    let db = History::open(paths).expect("opens");
    let first = db.page(&Filter::default(), None, 10).expect("a part").builds.remove(0);
    // The last one is too large for any part, and is one alone.
    let large = [(2, 2), (3, 2), (4, 5)].map(|(number, size)| BuildRecord {
        id: id(number),
        labels: [("l".into(), "v".repeat(size << 20))].into(),
        ..first.clone()
    });
    db.announce(&large).expect("written");
    let (mut after, mut parts) = (None, Vec::new());
    loop {
        let part = db.page(&Filter::default(), after.as_ref(), 10).expect("a part");
        parts.push(part.builds.into_iter().map(|build| build.id).collect::<Vec<_>>());
        after = part.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(parts, [vec![id(4)], vec![id(3)], vec![id(2), id(1)]]);
}
