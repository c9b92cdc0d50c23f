//! Promises of the daemon where the moment counts: a build runs once, a cancel reaches it in every state, an old history is brought along.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    daemon_fixture::{Served, wire},
    support::{LONG, Running, World, processes_with, wait_for},
    workers::Alone,
};

/// The longest that a test waits for what takes a moment: machines may be busy.
const BUSY: Duration = Duration::from_secs(10);

impl Served {
    /// A recipe whose task notes that it runs, whatever its stamps say, and waits for [`Alone::release`].
    fn counted(&self) {
        self.held("slow", "at last\n}\ndo_act[nostamp] = \"1\"\ndo_act:prepend() {\n    echo ran >> ${TOPDIR}/../ran");
    }

    /// How often that task has begun.
    fn runs(&self) -> usize {
        let workspaces = self.smidr.join("workspaces");
        let of =
            |name: String| fs::read_to_string(workspaces.join(name).join("ran")).unwrap_or_default().lines().count();
        World::names(&workspaces).into_iter().map(of).sum()
    }

    fn lock_of(&self, id: &str) -> PathBuf {
        self.smidr.join("locks").join(format!("build-{id}.lock"))
    }

    /// What the ledger has of a build that waits.
    fn row(&self, id: &str) -> Row {
        let db = rusqlite::Connection::open(self.smidr.join("daemon/daemon.db")).expect("the ledger");
        let sql = "SELECT seq, build, since, about, submission FROM waiting WHERE build = ?1";
        db.query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .expect("a row")
    }

    /// As a daemon leaves the ledger that was killed after the first record of a build and before it could note that.
    fn put_back(&self, row: &Row) {
        let db = rusqlite::Connection::open(self.smidr.join("daemon/daemon.db")).expect("the ledger");
        db.execute("DELETE FROM running WHERE build = ?1", [&row.1]).expect("removed");
        let values = rusqlite::params![row.0, row.1, row.2, row.3, row.4];
        db.execute("INSERT INTO waiting (seq, build, since, about, submission) VALUES (?1,?2,?3,?4,?5)", values)
            .expect("a row");
    }

    fn running(&self) -> Vec<String> {
        let queue = self.client(&["queue", "--json"]).run().expect_code(0).json();
        let ids = queue["running"].as_array().expect("a list").iter();
        ids.map(|one| one["build"].as_str().expect("an id").to_owned()).collect()
    }

    /// Has a worker started that cannot go on before the lock is dropped, stops it there, and kills the daemon, which has seen nothing of it. The
    /// next one has a queue that is paused.
    fn worker_of_a_killed_daemon(&self) -> (String, Pid) {
        self.daemon(&["pause"]).expect_code(0);
        let id = self.started(&["--target", "slow"]);
        let lock = File::create(self.lock_of(&id)).expect("a lock file");
        self.daemon(&["resume"]).expect_code(0);
        spin_until_there(&self.folder(&id).join("submission.json"));
        // The kernel hands it over before there is a worker.
        lock.lock().expect("a lock");
        let mut found = None;
        wait_for("its worker", LONG, || {
            found = processes_with(&format!("__worker\0--outlives\0{id}")).first().cloned();
            found.is_some()
        });
        let worker = found.and_then(|line| line.split(' ').next()?.parse().ok()).map(Pid::from_raw).expect("a process");
        kill(worker, Signal::SIGSTOP).expect("it runs");
        self.daemon(&["pause"]).expect_code(0);
        self.kill();
        drop(lock);
        self.begin();
        assert_eq!(self.waiting(), [id.as_str()]);
        (id, worker)
    }
}

/// Waits for a file without a pause: what follows has to be soon.
#[track_caller]
fn spin_until_there(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < LONG, "no {}", file.display());
        std::hint::spin_loop();
    }
}

type Row = (i64, String, String, String, String);

#[test]
fn a_build_whose_row_was_not_removed_runs_once() {
    let Some(served) = Served::new("daemon_promises::a_build_whose_row_was_not_removed_runs_once") else { return };
    served.counted();
    served.daemon(&["pause"]).expect_code(0);
    let id = served.started(&["--target", "slow"]);
    let row = served.row(&id);
    served.daemon(&["resume"]).expect_code(0);
    served.until_acts(&id);
    served.kill();
    served.put_back(&row);
    served.begin();
    assert_eq!((served.waiting(), served.running()), (Vec::new(), vec![id.clone()]));
    // And once it is over.
    served.kill();
    served.put_back(&row);
    served.release("slow");
    served.until_state(&id, "COMPLETED");
    served.begin();
    wait_for("the queue to be empty", BUSY, || (served.waiting(), served.running()) == (Vec::new(), Vec::new()));
    assert_eq!((served.runs(), served.shown(&id)["state"].as_str()), (1, Some("COMPLETED")));
    served.until_only_the_daemon();
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_worker_that_comes_late_does_not_build_beside_another() {
    let name = "daemon_promises::a_worker_that_comes_late_does_not_build_beside_another";
    let Some(served) = Served::new(name) else { return };
    served.counted();
    let (id, late) = served.worker_of_a_killed_daemon();
    served.daemon(&["resume"]).expect_code(0);
    served.until_acts(&id);
    kill(late, Signal::SIGCONT).expect("it is there");
    // It does not wait for the end of the other, and whoever reaps it is not this.
    wait_for("it to end", BUSY, || {
        fs::read_to_string(format!("/proc/{late}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    served.release("slow");
    served.until_shown(&id, "COMPLETED");
    assert_eq!((served.runs(), served.running()), (1, Vec::new()));
    served.until_only_the_daemon();
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_worker_without_a_record_yet_is_no_reason_to_start_another() {
    let name = "daemon_promises::a_worker_without_a_record_yet_is_no_reason_to_start_another";
    let Some(served) = Served::new(name) else { return };
    served.counted();
    // Whether it is caught before its first record is chance.
    let (id, worker) = loop {
        let (id, worker) = served.worker_of_a_killed_daemon();
        let journal = served.folder(&id).join("events.jsonl");
        kill(worker, Signal::SIGCONT).expect("it is there");
        spin_until_there(&journal);
        kill(worker, Signal::SIGSTOP).expect("it is there");
        if fs::metadata(&journal).expect("a journal").len() == 0 {
            break (id, worker);
        }
        kill(worker, Signal::SIGKILL).expect("it is there");
        served.client(&["cancel", &id]).run().expect_code(0);
    };
    served.daemon(&["resume"]).expect_code(0);
    wait_for("it to run", BUSY, || served.running() == [id.as_str()]);
    kill(worker, Signal::SIGCONT).expect("it is there");
    served.until_acts(&id);
    served.release("slow");
    served.until_shown(&id, "COMPLETED");
    wait_for("the queue to be empty", BUSY, || served.running().is_empty());
    assert_eq!(served.runs(), 1);
    served.until_only_the_daemon();
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_worker_that_the_daemon_does_not_know_is_cancelled() {
    let name = "daemon_promises::a_worker_that_the_daemon_does_not_know_is_cancelled";
    let Some(served) = Served::new(name) else { return };
    served.counted();
    let (id, worker) = served.worker_of_a_killed_daemon();
    kill(worker, Signal::SIGCONT).expect("it is there");
    served.until_acts(&id);
    assert_eq!(served.waiting(), [id.as_str()]);
    served.client(&["cancel", "--force", &id]).run().expect_code(0).expect_err("CANCELLED");
    served.daemon(&["resume"]).expect_code(0);
    wait_for("the queue to be empty", BUSY, || (served.waiting(), served.running()) == (Vec::new(), Vec::new()));
    assert_eq!((served.runs(), served.shown(&id)["state"].as_str()), (1, Some("CANCELLED")));
    served.until_only_the_daemon();
}

/// Cancels with force: who follows learns it, nothing is left, and the state stays, however often it is asked for.
#[track_caller]
fn expect_cancelled(served: &Served, id: &str, follower: Running) {
    let begun = Instant::now();
    served.client(&["cancel", "--force", id]).run().expect_code(0).expect_err(&format!("{id} CANCELLED"));
    served.until_only_the_daemon();
    assert!(begun.elapsed() < BUSY, "after {:?}", begun.elapsed());
    follower.wait().expect_code(0).expect_out(&format!("{id} CANCELLED"));
    for args in [&["cancel", id][..], &["cancel", "--force", id]] {
        served.client(args).run().expect_code(0).expect_err("CANCELLED");
        assert_eq!(served.shown(id)["state"], "CANCELLED");
    }
    // The command asks what it is before it asks for its end.
    let asked = wire::OfBuild { id: id.into(), ..wire::OfBuild::default() };
    served.caller().call::<wire::Anything>("CancelBuild", &asked).expect("no error");
    let ends = served.journal(id).iter().filter(|record| record["event"] == "finished").count();
    assert_eq!(ends, 1);
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_build_is_cancelled_in_each_state() {
    let Some(served) = Served::new("daemon_promises::a_build_is_cancelled_in_each_state") else { return };
    let follow = |id: &str| served.client(&["logs", "--follow", id]).start();
    served.held("deaf", "never");
    // It heeds no signal that asks.
    served.edit(
        "layers/meta-hello/recipes-test/deaf/deaf.bb",
        "    until",
        "    trap '' INT TERM HUP\n    setsid sleep 1000 &\n    until",
    );
    let runs = served.started(&["--target", "deaf"]);
    served.until_acts(&runs);
    served.until_shown(&runs, "BUILDING");
    let waits = served.started(&["--target", "deaf"]);
    assert_eq!(served.shown(&waits)["state"], "QUEUED");
    let follower = follow(&waits);
    served.client(&["cancel", "--force", &waits]).run().expect_code(0).expect_err("CANCELLED");
    follower.wait().expect_code(0).expect_out(&format!("{waits} CANCELLED"));
    let mut follower = follow(&runs);
    follower.until_says("do_act");
    expect_cancelled(&served, &runs, follower);
    // A layer that is fetched for ever.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/silent.git", silent.local_addr().expect("an address"));
    served.edit("smidr.yaml", "layers:\n", &format!("layers:\n  - name: silent\n    git: {url}\n    branch: main\n"));
    let prepares = served.started(&[]);
    let follower = follow(&prepares);
    let _connection = silent.accept().expect("a connection");
    assert_eq!(served.shown(&prepares)["state"], "PREPARING");
    expect_cancelled(&served, &prepares, follower);
    // Over for another reason, it stays what it was, and its user is told, as of a local build.
    served.synthetic("p-00000001", 1);
    served.client(&["cancel", "--force", "p-00000001"]).run().expect_code(2).expect_err("is over: COMPLETED");
    assert_eq!(served.shown("p-00000001")["state"], "COMPLETED");
    assert_eq!((served.waiting(), served.running()), (Vec::new(), Vec::new()));
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn everything_of_a_worker_that_is_killed_is_gone_and_told() {
    let name = "daemon_promises::everything_of_a_worker_that_is_killed_is_gone_and_told";
    let Some(served) = Served::new(name) else { return };
    served.held("deaf", "never");
    served.edit(
        "layers/meta-hello/recipes-test/deaf/deaf.bb",
        "    until",
        "    trap '' INT TERM HUP\n    setsid sleep 1000 &\n    until",
    );
    let id = served.started(&["--target", "deaf"]);
    served.until_acts(&id);
    let mut follower = served.client(&["logs", "--follow", "--json", &id]).start();
    follower.until_says("do_act");
    let journal = || fs::read_to_string(served.folder(&id).join("events.jsonl")).expect("a journal");
    kill(served.worker(&id), Signal::SIGSTOP).expect("it runs");
    let before = journal();
    kill(served.worker(&id), Signal::SIGKILL).expect("it runs");
    served.until_interrupted(&id);
    served.until_only_the_daemon();
    let followed = follower.wait().expect_code(0).out.clone();
    let records = |text: &str| -> Vec<serde_json::Value> {
        let all = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        all.filter(|record: &serde_json::Value| record["seq"].is_u64()).collect()
    };
    let (kept, before) = (served.journal(&id), records(&before));
    assert_eq!(kept[..before.len()], before, "to the last record");
    assert_eq!((kept.len(), &kept[before.len()]["event"]), (before.len() + 1, &"finished".into()));
    assert_eq!(records(&followed), kept);
}

/// The history of the first smidr, with a build that failed and one whose smidr was killed.
fn first_history(world: &World) -> rusqlite::Connection {
    fs::create_dir_all(&world.smidr).expect("a folder");
    let db = rusqlite::Connection::open(world.smidr.join("history.db")).expect("made");
    db.execute_batch(
        r#"CREATE TABLE builds (id TEXT PRIMARY KEY, name TEXT NOT NULL, machine TEXT NOT NULL, targets TEXT NOT NULL, state TEXT NOT NULL,
             started TEXT NOT NULL, ended TEXT, outcome TEXT) STRICT;
           CREATE TABLE events (build TEXT NOT NULL, seq INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (build, seq)) STRICT, WITHOUT ROWID;
           CREATE TABLE artifacts (build TEXT NOT NULL, path TEXT NOT NULL, artifact TEXT NOT NULL, PRIMARY KEY (build, path)) STRICT, WITHOUT ROWID;
           CREATE INDEX builds_started ON builds(started); PRAGMA user_version = 1;
           INSERT INTO builds VALUES ('p-00000001','p','m','["i"]','FAILED','2026-01-01T00:00:01Z','2026-01-01T00:00:09Z',
             '{"state":"FAILED","bitbake_exit":1,"artifacts":0,"artifact_bytes":0,"duration_ms":8000}'),
             ('p-00000002','p','m','["i"]','BUILDING','2026-01-01T00:00:02Z',NULL,NULL);"#,
    )
    .expect("the old tables");
    for id in ["p-00000001", "p-00000002"] {
        for (seq, event) in [
            (10, r#""event":"build_started","name":"p","targets":["i"],"machine":"m""#),
            (20, r#""event":"console","line":"a line of long ago""#),
        ] {
            let record = format!(r#"{{"build":"{id}","seq":{seq},"at":"2026-01-01T00:00:03Z",{event}}}"#);
            db.execute("INSERT INTO events VALUES (?1,?2,?3)", rusqlite::params![id, seq, record]).expect("an event");
        }
    }
    db
}

#[test]
fn a_daemon_brings_an_old_history_along_or_leaves_it_as_it_was() {
    let world = Alone::empty();
    let db = first_history(&world);
    let old_events = || db.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0));
    let refused = |code: i32, says: &str| {
        let done = world.smidr().args(["daemon", "--background"]).run();
        done.expect_code(code).expect_one_error().expect_err(says);
        assert_eq!(old_events().expect("the old tables"), 4, "nothing is lost");
    };
    // A build of the earlier smidr writes to it.
    fs::create_dir_all(world.smidr.join("locks")).expect("a folder");
    let lock = File::create(world.smidr.join("locks/build-p-00000002.lock")).expect("a lock file");
    lock.lock().expect("a lock");
    refused(2, "p-00000002 is a build of an earlier smidr and still runs");
    drop(lock);
    // A journal cannot be written.
    let folder = world.smidr.join("builds/p-00000002");
    fs::write(&folder, "in the way").expect("a file");
    refused(3, "builds/p-00000002");
    fs::remove_file(&folder).expect("removed");
    let mut daemon = world.smidr().arg("daemon").start();
    daemon.until_says("listening on");
    let client = |args: &[&str]| world.smidr().arg("client").args(args).run();
    for (id, state) in [("p-00000001", "FAILED"), ("p-00000002", "INTERRUPTED")] {
        assert_eq!(client(&["status", id, "--json"]).expect_code(0).json()["build"]["state"], state);
        client(&["logs", id]).expect_code(0).expect_out("a line of long ago");
    }
    assert!(old_events().is_err(), "they are in journals");
    world.smidr().args(["daemon", "stop"]).run().expect_code(0);
    daemon.wait().expect_code(0);
}
