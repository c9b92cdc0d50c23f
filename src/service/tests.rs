//! Processes that look at a build at the same time, and one that has followed it to its end.

use std::{fs, time::Duration};

use super::*;
use crate::{
    events::Emitter,
    history::journal::{JournalSink, Reader, Writer},
};

/// A build whose worker is this test.
fn begin(
    paths: &Paths,
    id: &BuildId,
    order: impl FnOnce(Box<dyn EventSink>, Box<dyn EventSink>) -> Vec<Box<dyn EventSink>>,
) -> Emitter {
    crate::system::paths::open(paths).expect("a SMIDR_HOME");
    let folder = paths.build(id);
    fs::create_dir(&folder).expect("a folder");
    let (journal, _) = JournalSink::new(Writer::create(&folder).expect("a journal"), &StopToken::default());
    let index = History::open(paths).expect("an index").into_sink().0;
    let on = Emitter::new(id.clone(), order(Box::new(journal), Box::new(index)));
    let (name, machine, targets) = ("p".into(), "m".into(), Vec::new());
    let (variant, config, customer, labels) = (None, None, None, Default::default());
    on.emit(Event::BuildStarted { name, targets, machine, variant, config, customer, labels });
    on
}

#[test]
fn many_that_look_at_once_write_one_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = Paths::new(folder.path().join("home"));
    for number in 0..40 {
        let id = BuildId::new("p", number).expect("an id");
        drop(begin(&paths, &id, |journal, index| vec![journal, index]));
        let looks = || LocalService::new(&paths).show(Some(id.as_str())).expect("a build").state;
        let states: Vec<State> = std::thread::scope(|scope| {
            let lookers = [(); 8].map(|()| scope.spawn(looks));
            lookers.map(|looker| looker.join().expect("no panic")).to_vec()
        });
        // One that looks while another one writes may still see it run.
        assert!(states.iter().all(|state| matches!(state, State::Queued | State::Interrupted)), "{states:?}");
        assert_eq!(looks(), State::Interrupted);
        let mut reader = Reader::open(&paths.build(&id), 0).expect("opens").expect("a journal");
        let records = std::iter::from_fn(|| reader.read().expect("reads")).count();
        assert_eq!(records, 2, "build {number}");
    }
}

/// Takes its time.
struct Slow;

impl EventSink for Slow {
    fn accept(&mut self, record: &Record) {
        if matches!(record.event, Event::Finished { .. }) {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

#[test]
fn who_has_followed_to_the_end_finds_it_in_the_index() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = Paths::new(folder.path().join("home"));
    let id = BuildId::new("p", 1).expect("an id");
    let on = begin(&paths, &id, |journal, index| vec![journal, Box::new(Slow), index]);
    let _alive =
        fs::File::create(paths.alive(&id)).map(|file| file.lock().map(|()| file)).expect("a lock").expect("held");
    let service = LocalService::new(&paths);
    std::thread::scope(|scope| {
        scope.spawn(|| on.emit(Event::Finished { outcome: Outcome::new(State::Completed) }));
        assert!(service.watch(&id, 0, Some(&StopToken::default()), |_| true).expect("followed"));
        let history = History::open(&paths).expect("an index");
        assert_eq!(history.find(Some(id.as_str())).expect("reads").map(|build| build.state), Some(State::Completed));
    });
}

#[test]
fn what_never_began_goes_with_the_next_prune() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = Paths::new(folder.path().join("home"));
    let id = |number| BuildId::new("p", number).expect("an id");
    begin(&paths, &id(1), |journal, index| vec![journal, index]);
    // Killed while it wrote the submission; before the first record; a moment ago; and one whose worker is about to begin.
    let (written, empty, young, held) = (id(2), id(3), id(4), id(5));
    for (id, file) in
        [(&written, ".smidr-x"), (&empty, "events.jsonl"), (&young, "submission.json"), (&held, "events.jsonl")]
    {
        fs::create_dir(paths.build(id)).expect("a folder");
        fs::write(paths.build(id).join(file), if file.starts_with("events") { "" } else { "a value" }).expect("a file");
    }
    let _alive = lock::try_lock(&paths.alive(&held), Mode::Exclusive, "a worker").expect("a lock");
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    for id in [&written, &empty, &held] {
        fs::File::open(paths.build(id)).and_then(|folder| folder.set_modified(long_ago)).expect("an older folder");
    }
    let service = LocalService::new(&paths);
    service.prune(&Clean::default(), jiff::Timestamp::now()).expect("pruned");
    let left = |id: &BuildId| paths.build(id).exists();
    assert_eq!(
        [left(&id(1)), left(&written), left(&empty), left(&young), left(&held)],
        [true, false, false, true, true]
    );
}

#[test]
fn a_removed_index_is_made_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = Paths::new(folder.path().join("home"));
    let id = BuildId::new("p", 1).expect("an id");
    drop(begin(&paths, &id, |journal, index| vec![journal, index]));
    fs::remove_file(paths.history()).expect("removed");
    assert_eq!(LocalService::new(&paths).count().expect("an index"), 1);
    // A build that is refused leaves nothing, even where the index cannot be opened.
    fs::remove_file(paths.history()).expect("removed");
    fs::create_dir(paths.history()).expect("a folder in its place");
    assert!(LocalService::new(&paths).forget(&id).is_err());
    assert!(!paths.build(&id).exists());
}

#[test]
fn a_build_that_runs_is_found_beside_one_that_is_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = Paths::new(folder.path().join("home"));
    let id = |number| BuildId::new("p", number).expect("an id");
    let _running = begin(&paths, &id(1), |journal, index| vec![journal, index]);
    let _alive = lock::try_lock(&paths.alive(&id(1)), Mode::Exclusive, "a worker").expect("a lock");
    let over = begin(&paths, &id(2), |journal, index| vec![journal, index]);
    over.emit(Event::Finished { outcome: Outcome::new(State::Cancelled) });
    let service = LocalService::new(&paths);
    let newest = service.show(None).expect("a build");
    assert_eq!(newest.id, id(2));
    assert_eq!(service.or_running(newest).expect("a build").id, id(1));
}

#[test]
fn a_build_that_only_its_journal_knows_is_taken_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = Paths::new(folder.path().join("home"));
    let (first, killed) = (BuildId::new("p", 1).expect("an id"), BuildId::new("p", 2).expect("an id"));
    drop(begin(&paths, &first, |journal, index| vec![journal, index]));
    // Killed between the two: its lock stays.
    drop(begin(&paths, &killed, |journal, _| vec![journal]));
    let service = LocalService::new(&paths);
    let alive = lock::try_lock(&paths.alive(&killed), Mode::Exclusive, "a worker").expect("a lock");
    assert_eq!(service.list(9).expect("a list").len(), 1, "it runs");
    drop(alive);
    let list = service.list(9).expect("a list");
    assert_eq!(list.iter().map(|build| (&build.id, build.state)).collect::<Vec<_>>()[0], (&killed, State::Interrupted));
    assert_eq!(list.len(), 2);
}
