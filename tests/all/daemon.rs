//! Builds of a daemon: what its users see is what users of local builds see, in every state and from every way in.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use serde_json::Value;

use super::{
    daemon_fixture::{Served, wire},
    support::{Done, LONG, Smidr, wait_for},
    trouble::recipe,
    workers::SOON,
};

/// By which way a user asks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// `smidr build --detach` and its sisters, without the daemon.
    Local,
    /// `smidr client`, on the Unix socket.
    Unix,
    /// The same over TLS, with a token. Builds are started by the Unix socket: the project is a folder of this machine.
    Tls,
}

/// The commands of one way.
struct User<'a> {
    served: &'a Served,
    way: Way,
    token: PathBuf,
}

impl User<'_> {
    fn start(&self, target: &str) -> String {
        match self.way {
            Way::Local => self.served.detached(&["--clean", "--target", target]),
            Way::Unix | Way::Tls => self.served.started(&["--clean", "--target", target]),
        }
    }

    fn does(&self, args: &[&str]) -> Smidr {
        match self.way {
            Way::Local => self.served.smidr().args(args),
            Way::Unix => self.served.client(args),
            Way::Tls => self.served.client_with(&self.token, args),
        }
    }

    fn state(&self, id: &str) -> String {
        let status = self.does(&["status", id, "--json"]).run();
        status.expect_code(0).json()["build"]["state"].as_str().expect("a state").to_owned()
    }

    fn artifacts(&self, id: &str) -> Done {
        match self.way {
            Way::Local => self.served.smidr().args(["artifacts", "list", id, "--json"]).run(),
            Way::Unix | Way::Tls => self.does(&["artifacts", id, "--json"]).run(),
        }
    }
}

/// The numbers of records that `--json` printed.
fn numbers(text: &str) -> Vec<u64> {
    let record = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    text.lines().filter_map(|line| record(line)["seq"].as_u64()).collect()
}

/// Every record once, from the first.
#[track_caller]
pub(crate) fn expect_dense(text: &str) {
    let found = numbers(text);
    assert!(!found.is_empty() && found.iter().copied().eq(1..=found.len() as u64), "{found:?}");
}

#[test]
fn builds_are_the_same_by_every_way() {
    let Some(served) = Served::new("daemon::builds_are_the_same_by_every_way") else { return };
    let token = served.token("ci", &["--scope", "read,submit,cancel"]);
    for way in [Way::Local, Way::Unix, Way::Tls] {
        let user = User { served: &served, way, token: token.clone() };
        a_build_that_is_followed(&user);
        builds_that_are_cancelled(&user);
    }
    served.until_only_the_daemon();
}

fn a_build_that_is_followed(user: &User<'_>) {
    let served = user.served;
    served.held("slow", "at last");
    let id = user.start("slow");
    let mut first = user.does(&["logs", &id, "--follow"]).start();
    served.until_acts(&id);
    assert_eq!(user.state(&id), "BUILDING", "{:?}", user.way);
    first.until_says("do_act");
    // One that comes late, and one that wants records.
    let late = user.does(&["logs", &id, "--follow"]).start();
    let raw = user.does(&["logs", &id, "--follow", "--json"]).start();
    served.release("slow");
    let (first, late, raw) = (first.wait(), late.wait(), raw.wait());
    for one in [&first, &late, &raw] {
        one.expect_code(0);
    }
    assert_eq!(first.out, late.out, "{:?}", user.way);
    expect_dense(&raw.out);
    // Over, it is told from the start, and the stream ends.
    for args in [&["logs", &id, "--follow"][..], &["logs", &id]] {
        assert_eq!(user.does(args).run().expect_code(0).out, first.out, "{:?}", user.way);
    }
    assert_eq!(user.does(&["logs", &id, "--json"]).run().out, raw.out, "{:?}", user.way);
    assert_eq!(user.state(&id), "COMPLETED", "{:?}", user.way);
    let status = user.does(&["status", &id, "--json"]).run().expect_code(0).json();
    let kept = served.smidr().args(["status", &id, "--json"]).run().expect_code(0).json();
    assert!(status["tasks"].as_array().is_some_and(|tasks| !tasks.is_empty()), "{status}");
    assert_eq!(status["tasks"], kept["tasks"], "{:?}", user.way);
    assert_eq!(user.artifacts(&id).expect_code(0).json()["build"], id.as_str(), "{:?}", user.way);
}

fn builds_that_are_cancelled(user: &User<'_>) {
    // A task that does not end delays a graceful stop by half a minute: once is enough.
    let ways = if user.way == Way::Tls {
        &[&["cancel"][..], &["cancel", "--force"]][..]
    } else {
        &[&["cancel", "--force"][..]]
    };
    for args in ways {
        let args = *args;
        user.served.held("deaf", "never");
        let id = user.start("deaf");
        user.served.until_acts(&id);
        let mut follower = user.does(&["logs", &id, "--follow"]).start();
        follower.until_says("do_act");
        user.does(args).arg(&id).run().expect_code(0).expect_err(&format!("{id} CANCELLED"));
        follower.wait().expect_code(0);
        assert_eq!(user.state(&id), "CANCELLED", "{:?}", user.way);
        let again = user.does(args).arg(&id).run();
        // A local user is told that there was nothing to do; a script that cancels twice is in no error.
        again.expect_code(if user.way == Way::Local { 2 } else { 0 }).expect_err("CANCELLED");
        assert_eq!(user.state(&id), "CANCELLED", "{:?}", user.way);
    }
}

#[test]
fn exit_codes_are_those_of_local_builds() {
    let Some(served) = Served::new("daemon::exit_codes_are_those_of_local_builds") else { return };
    recipe(&served, "good", "    true");
    recipe(&served, "bad", "    exit 7");
    let remote = ["client", "start", "--wait", "--follow"];
    for (target, code, says) in [("good", 0, "completed in"), ("bad", 1, "failed in bad:do_act")] {
        let local = served.smidr().args(["build", "--clean", "--target", target]).run();
        local.expect_code(code).expect_err(says);
        let by_client = served.smidr().args(remote).args(["--clean", "--target", target]).run();
        by_client.expect_code(code).expect_err(says);
        let by_build = served.smidr().args(["build", "--daemon", "--clean", "--target", target]).run();
        by_build.expect_code(code).expect_err(says);
        // Of the build itself it says only what is wrong.
        let silent = served.client(&["start", "--wait", "--target", target]).run();
        silent.expect_code(code);
        assert_eq!(silent.err.matches(says).count(), usize::from(code != 0), "{}", silent.err);
        assert!(!silent.err.contains("BitBake"), "{}", silent.err);
    }
    served.held("slow", "never");
    let mut stopped = served.smidr().args(remote).args(["--target", "slow"]).start();
    stopped.until_says("do_act");
    let id = stopped.out().lines().next().and_then(|line| line.strip_prefix("Build ID: ")).expect("an id").to_owned();
    served.client(&["cancel", "--force", &id]).run().expect_code(0);
    stopped.wait().expect_code(130);
    // As a build of the terminal: Ctrl-C stops it.
    let mut stopped = served.smidr().args(["build", "--daemon", "--target", "slow"]).start();
    stopped.until_says("do_act");
    stopped.signal(nix::sys::signal::Signal::SIGINT);
    let done = stopped.wait();
    done.expect_code(130);
    served.until_shown(&done.build_id(), "CANCELLED");
    // A hangup leaves it alone.
    let mut left = served.smidr().args(["build", "--daemon", "--target", "slow"]).start();
    left.until_says("do_act");
    left.signal(nix::sys::signal::Signal::SIGHUP);
    left.wait();
    let id = served.client(&["list", "--limit", "1", "--json"]).run().json()["builds"][0]["id"].clone();
    let id = id.as_str().expect("an id");
    assert_eq!(served.shown(id)["state"], "BUILDING");
    served.client(&["cancel", "--force", id]).run().expect_code(0);
}

#[test]
fn a_wrong_config_is_shown_with_line_and_caret() {
    let served = Served::paused();
    served.append("surprise: yes\n");
    let local = served.smidr().args(["build", "--detach"]).run();
    for args in [&["client", "start"][..], &["client", "start", "--wait", "--follow"], &["build", "--daemon"]] {
        let done = served.smidr().args(args).run();
        done.expect_code(2).expect_one_error().expect_err("surprise").expect_err("^");
        assert_eq!((&done.out, &done.err), (&local.out, &local.err), "{args:?}");
    }
    // What the client would have seen is seen by the daemon, too.
    let sent = wire::Start { config: "surprise: yes\nname: 7\n".into(), ..wire::Start::default() };
    let refused = served.caller().call::<wire::Started>("StartBuild", &sent).expect_err("refused");
    let details = String::from_utf8_lossy(refused.details()).into_owned();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    assert!(details.contains("surprise") && details.contains('^') && details.contains("smidr.yaml:1"), "{details}");
    assert_eq!(served.waiting(), [""; 0]);
}

#[test]
fn what_is_wrong_in_a_request_is_an_invalid_argument() {
    let served = Served::paused();
    let caller = served.caller();
    let git = |url: &str| Some(wire::Git { url: url.into(), reference: "main".into() });
    let schedule = |cron: &str, url: &str| wire::CreateSchedule {
        schedule: Some(wire::Schedule { name: "n".into(), cron: cron.into(), git: git(url) }),
    };
    for wrong in [schedule("x", "https://host.example/p"), schedule("@daily", "--upload-pack=x")] {
        let refused = caller.call::<wire::Anything>("CreateSchedule", &wrong).expect_err("wrong");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    }
    // A password is for the daemon alone.
    let good = schedule("@daily", "https://user:s3cret@host.example/p");
    let answers =
        [caller.bytes("CreateSchedule", prost::Message::encode_to_vec(&good)), caller.bytes("ListSchedules", "")];
    for answer in answers {
        let text = format!("{:?}", answer.expect("an answer"));
        assert!(text.contains("host.example/p") && !text.contains("s3cret"), "{text}");
    }
    // However long a word is that an error repeats, its answer fits into the headers that clients take.
    let long = wire::Start { config: "name: p\n".into(), variant: "\u{6f22}".repeat(1300), ..wire::Start::default() };
    let refused = caller.call::<wire::Started>("StartBuild", &long).expect_err("no such variant");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    assert!(refused.details().len() < 6 << 10 && refused.message().len() < 1 << 10, "{}", refused.details().len());
}

#[test]
fn parts_of_a_log_are_those_of_the_whole() {
    let served = Served::paused();
    served.synthetic("p-00000001", 1000);
    let logs = |args: &[&str]| served.client(&["logs", "p-00000001"]).args(args).run().expect_code(0).out.clone();
    let all = logs(&["--tail", "100000"]);
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 1001, "{}", all.len());
    assert!(logs(&["--tail", "5"]).lines().eq(lines[996..].iter().copied()));
    assert!(logs(&["--grep", "line 99"]).lines().eq(lines.iter().copied().filter(|line| line.contains("line 99"))));
    assert!(logs(&["--grep", "of a log", "--tail", "3"]).lines().eq(lines[997..1000].iter().copied()));
    assert!(logs(&["--grep", "line", "--from-seq", "900"]).lines().eq(lines[899..1000].iter().copied()));
    // A daemon that ends cuts nothing off, and repeats nothing.
    let id = served.started(&[]);
    let follower = served.client(&["logs", &id, "--follow", "--grep", "smidr"]).start();
    wait_for("the stream to be open", LONG, || served.metrics().contains("smidr_followers 1"));
    served.kill();
    served.begin();
    served.client(&["cancel", &id]).run().expect_code(0);
    let done = follower.wait();
    assert_eq!(done.expect_code(0).out.matches("CANCELLED").count(), 1, "{}", done.out);
}

#[test]
fn the_old_way_of_scripts_works() {
    let Some(served) = Served::new("daemon::the_old_way_of_scripts_works") else { return };
    recipe(&served, "word", "    true");
    let script = r#"set -e
        "$0" client start --target word --customer acme >/dev/null
        BUILD_ID=$("$0" client list --limit 1 | grep "Build ID" | awk '{print $3}')
        "$0" client logs --build-id $BUILD_ID --follow
        "$0" client status --build-id $BUILD_ID --json"#;
    let mut command = Command::new("sh");
    served.surround(&mut command);
    command.current_dir(served.project()).args(["-c", script]).arg(super::support::smidr_bin());
    let done = Done::new(command.output().expect("sh starts"));
    done.expect_code(0).expect_out("(word:do_act)").expect_out("\"COMPLETED\"").expect_out("\"acme-");
}

#[test]
fn a_queue_that_is_paused_takes_builds_and_cancels_them_at_once() {
    let served = Served::paused();
    let ids: Vec<String> = (0..3).map(|_| served.started(&[])).collect();
    assert_eq!(served.waiting(), *ids);
    served.client(&["status", &ids[2]]).run().expect_code(0).expect_out("QUEUED");
    served.client(&["queue"]).run().expect_code(0).expect_out("paused").expect_out("  3. ");
    // A local user sees it as well, and so does one who follows it.
    assert_eq!(served.build(&ids[1])["state"], "QUEUED");
    let mut follower = served.client(&["logs", "--follow", &ids[1]]).start();
    let mut waits = served.client(&["attach", &ids[1]]).start();
    for one in [&mut follower, &mut waits] {
        one.until_says("waiting    2. the queue is paused");
    }
    served.client(&["cancel", &ids[1]]).run().expect_code(0).expect_err("CANCELLED");
    served.client(&["cancel", "--force", &ids[1]]).run().expect_code(0).expect_err("CANCELLED");
    follower.wait().expect_code(0);
    waits.wait().expect_code(130);
    assert_eq!(served.waiting(), [ids[0].as_str(), ids[2].as_str()]);
    // It stays as it is, whatever becomes of the daemon.
    served.kill();
    served.begin();
    assert_eq!(served.waiting(), [ids[0].as_str(), ids[2].as_str()]);
    assert_eq!(served.shown(&ids[1])["state"], "CANCELLED");
    served.daemon(&["status"]).expect_code(0).expect_out("paused");
    served.daemon(&["stop"]).expect_code(0);
    served.until_ended().expect_code(0);
    // Without the daemon, the record says that it waits.
    assert_eq!(served.build(&ids[2])["state"], "QUEUED");
    served.begin();
    assert_eq!(served.waiting(), [ids[0].as_str(), ids[2].as_str()]);
    // Ids may be cut, and stand in either place.
    let short = ids[2].strip_suffix(&ids[2][ids[2].len() - 2..]).expect("a shorter one");
    served.client(&["cancel", "--build-id", short]).run().expect_code(0);
    assert_eq!(served.waiting(), [ids[0].as_str()]);
    // Nothing of one that never began is left but its record.
    served.client(&["delete", &ids[2]]).run().expect_code(0);
    served.client(&["status", &ids[2]]).run().expect_code(2).expect_one_error();
    served.client(&["delete", &ids[0]]).run().expect_code(2).expect_err("is not over");
}

#[test]
fn a_build_that_waits_says_why_and_keeps_what_is_known_when_it_is_cancelled() {
    let served = Served::paused();
    let ids: Vec<String> = (0..2).map(|_| served.started(&["--customer", "acme", "--target", "hello"])).collect();
    let id = ids[1].as_str();
    let before = served.shown(id);
    assert_eq!((&before["queued"]["position"], before["waits"].as_bool()), (&2.into(), Some(true)), "{before}");
    let reason = before["queued"]["reason"].as_str().expect("a reason");
    let text = served.client(&["status", id]).run();
    text.expect_code(0).expect_out(&format!("\nwaiting    2.  {reason}\n"));
    served.client(&["cancel", id]).run().expect_code(0);
    let same = || {
        let after = served.shown(id);
        assert_eq!(after["state"], "CANCELLED");
        assert_eq!((&after["queued"], &after["waits"]), (&Value::Null, &Value::Null));
        for key in ["machine", "targets", "started", "config", "customer"] {
            assert!(before[key] == after[key] && !before[key].is_null(), "{key}: {before} {after}");
        }
    };
    same();
    served.client(&["list"]).run().expect_code(0).expect_out("  target    hello for hello-x86-64\n");
    served.smidr().args(["history", "rebuild"]).run().expect_code(0);
    same();
}

#[test]
fn priorities_order_the_builds_of_a_customer() {
    let served = Served::paused();
    let start = |customer: &str, priority: &str| {
        served.started(&["--customer", customer, "--priority", priority, "--label", "branch=main"])
    };
    let (low, high) = (start("acme", "-5"), start("acme", "7"));
    let other = start("zeta", "0");
    let waiting = served.waiting();
    let place = |id: &String| waiting.iter().position(|one| one == id).expect("it waits");
    assert!(place(&high) < place(&low), "{waiting:?}");
    assert!(place(&other) < place(&low), "in turn: {waiting:?}");
    let labelled = served.client(&["list", "--label", "branch=main", "--customer", "zeta", "--json"]).run().json();
    assert_eq!(labelled["builds"].as_array().expect("a list").len(), 1);
    assert_eq!(labelled["builds"][0]["id"], other.as_str());
    served.client(&["start", "--priority", "101"]).run().expect_code(2);
}

#[test]
fn a_request_that_is_repeated_is_one_build() {
    let served = Served::paused();
    let config = served.project().join("smidr.yaml");
    let request = |request_id: &str| wire::Start {
        config: fs::read_to_string(&config).expect("a config"),
        config_name: "smidr.yaml".into(),
        request_id: request_id.into(),
        local: Some(wire::Local { config: Some(wire::Path { text: config.display().to_string() }) }),
        ..wire::Start::default()
    };
    let caller = served.caller();
    let start = |id: &str| caller.call::<wire::Started>("StartBuild", &request(id)).expect("taken");
    let (one, again, other) = (start("x"), start("x"), start("y"));
    assert_eq!((&one.build_id, one.repeated, again.repeated), (&again.build_id, false, true));
    assert_ne!(one.build_id, other.build_id);
    // Without an id each is a build of its own.
    let (none, another) = (start(""), start(""));
    assert_ne!(none.build_id, another.build_id);
    // Many at once, and after the daemon was killed.
    let together: Vec<_> = (0..20)
        .map(|_| {
            caller.runtime().spawn(caller.open("StartBuild", vec![prost::Message::encode_to_vec(&request("z")).into()]))
        })
        .collect();
    let ids: BTreeSet<String> = together
        .into_iter()
        .map(|one| {
            let answer = caller.runtime().block_on(async { one.await.expect("no panic")?.message().await });
            let answer = answer.expect("taken").expect("an answer");
            <wire::Started as prost::Message>::decode(answer).expect("a message").build_id
        })
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    // Also when there is no room for another one.
    fs::write(served.smidr.join("daemon.yaml"), "limits: {submissions_waiting: 1}\n").expect("a config");
    served.daemon(&["reload"]).expect_code(0);
    let full = caller.call::<wire::Started>("StartBuild", &request("new")).expect_err("no room");
    assert_eq!(full.code(), tonic::Code::ResourceExhausted);
    let again = start("x");
    assert_eq!((again.build_id, again.repeated), (one.build_id.clone(), true));
    served.kill();
    // Also where no more may wait.
    fs::write(served.smidr.join("daemon.yaml"), "limits: {submissions_waiting: 1}\n").expect("a config");
    served.begin();
    let (caller, start) = (served.caller(), "StartBuild");
    let after = caller.call::<wire::Started>(start, &request("x")).expect("taken");
    assert_eq!((after.build_id, after.repeated), (one.build_id, true));
    let refused = caller.call::<wire::Started>(start, &request("new")).expect_err("no room");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert_eq!(served.waiting().len(), 5);
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn cancelled_while_it_starts_it_never_runs_on() {
    let Some(served) = Served::new("daemon::cancelled_while_it_starts_it_never_runs_on") else { return };
    served.held("slow", "never");
    // From "it starts now" to "its first record is written", in steps.
    for round in 0..8_u64 {
        let id = served.started(&["--target", "slow"]);
        std::thread::sleep(std::time::Duration::from_millis(round * 6));
        served.client(&["cancel", &id]).run().expect_code(0).expect_err("CANCELLED");
        assert_eq!(served.shown(&id)["state"], "CANCELLED", "round {round}");
    }
    served.until_only_the_daemon();
    assert_eq!(served.waiting(), [""; 0]);
}

#[test]
fn ids_that_are_wrong_are_refused_in_words() {
    let served = Served::paused();
    let id = served.started(&["--customer", "acme"]);
    for wrong in ["nothing", "../../etc/passwd", "", "acme-00000000", "%", "acme-*"] {
        for command in ["status", "logs", "cancel", "artifacts", "delete"] {
            let done = served.client(&[command, "--build-id", wrong]).run();
            done.expect_code(2).expect_one_error();
        }
    }
    let like = format!("{}x", &id[..id.len() - 1]);
    for command in ["status", "delete"] {
        served.client(&[command, &like]).run().expect_code(2).expect_err(&format!("did you mean {id}?"));
    }
    // Of builds that a caller may not see, none is like anything.
    let token = served.token("other", &["--scope", "read", "--customer", "other"]);
    let done = served.client_with(&token, &["status", &like]).run();
    assert!(!done.expect_code(2).err.contains("did you mean"), "{}", done.err);
    assert_eq!(served.waiting(), [id]);
    wait_for("the daemon to answer", SOON, || served.daemon(&["status"]).code == Some(0));
}

#[test]
fn a_project_of_another_machine_is_sent_and_pinned() {
    let Some(served) = Served::new("daemon::a_project_of_another_machine_is_sent_and_pinned") else { return };
    recipe(&served, "good", "    true");
    let token = served.token("ci", &["--scope", "read,submit,cancel", "--customer", "acme"]);
    let start = |args: &[&str]| served.client_with(&token, &[&["start", "--target", "good"], args].concat()).run();
    let listed = start(&["--dry-run"]);
    listed.expect_code(0).expect_out("conf/layer.conf").expect_out("of them not in git");
    let lock = served.project().join("smidr.lock");
    assert!(!lock.exists());
    let done = start(&["--wait"]);
    done.expect_code(0).expect_err("sending    meta-hello").expect_err("COMPLETED");
    let text = fs::read_to_string(&lock).expect("a lock");
    assert!(text.contains("meta-hello") && text.contains("hello-x86-64") || text.contains("hosts:"), "{text}");
    // What is there is not sent again, and one that nobody waits for is pinned later.
    fs::remove_file(&lock).expect("removed");
    let again = start(&[]);
    assert!(!again.expect_code(0).err.contains("sending"), "{again:?}");
    let id = again.out.trim().strip_prefix("Build ID: ").expect("an id");
    served.until_shown(id, "COMPLETED");
    served.client_with(&token, &["lock", id]).run().expect_code(0).expect_err("smidr.lock pins");
    assert_eq!(fs::read_to_string(&lock).expect("a lock"), text);
    served.client_with(&token, &["start", "--locked", "--wait", "--target", "good"]).run().expect_code(0);
    // A failure names the client's own commands.
    recipe(&served, "bad", "    exit 7");
    let failed = served.client_with(&token, &["start", "--wait", "--target", "bad"]).run();
    failed.expect_code(1).expect_err("log:    smidr client logs acme-");
    assert!(!failed.err.contains("smidr shell"), "{}", failed.err);
    let gone = served.client_with(&token, &["status", "acme-00000000"]).run();
    gone.expect_code(2).expect_err("smidr client list");
}
