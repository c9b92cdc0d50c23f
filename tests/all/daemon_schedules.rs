//! Schedules of a daemon: what they start, and with which values of variables; and what builds of customers count.

use std::fs;

use super::{
    daemon_fixture::{Served, wire},
    layers::git,
    support::{LONG, has, skip, wait_for},
};

/// Ends the daemon, and starts it three days later for its schedules.
fn days_later(served: &Served) {
    served.daemon(&["stop"]).expect_code(0);
    served.until_ended();
    let ledger = rusqlite::Connection::open(served.smidr.join("daemon/daemon.db")).expect("a ledger");
    ledger.execute("UPDATE schedules SET handled = handled - 3 * 86400000", []).expect("an earlier time");
    drop(ledger);
    served.begin();
}

/// The machine of the one build that waits.
#[track_caller]
fn started(served: &Served, schedule: &str) -> String {
    let of = format!("schedule={schedule}");
    let list = || served.client(&["list", "--json", "--label", &of]).run().expect_code(0).json()["builds"].clone();
    wait_for("the schedule starts a build", LONG, || list().as_array().is_some_and(|builds| !builds.is_empty()));
    let builds = list();
    assert_eq!(builds.as_array().map(Vec::len), Some(1), "one for all that were missed: {builds}");
    builds[0]["machine"].as_str().expect("a machine").to_owned()
}

#[test]
fn a_schedule_takes_variables_from_the_daemons_config_alone() {
    if !has("git") {
        return skip("daemon_schedules::a_schedule_takes_variables_from_the_daemons_config_alone", "there is no git");
    }
    let served = Served::paused();
    served.edit("smidr.yaml", "machine: hello-x86-64", "machine: ${SITE}");
    let repository = served.project();
    git(&repository, &["init", "-q", "-b", "main"]);
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "Begin"]);
    let url = format!("file://{}", repository.display());
    let allow = format!("allow: ['login:{url}', 'local-repositories:{}']\n", repository.display());
    let token = served.token("ci", &["--scope", "submit", "--customer", "acme"]);
    let stored = || {
        let create = ["schedule", "create", "stored", "--cron", "@daily", "--run-missed"];
        served.client_with(&token, &create).env("SITE", "of-the-client").run()
    };
    // The client's value reads its config, and goes no further.
    let refused = stored();
    refused.expect_code(2).expect_err("SITE");
    let customers = "customers: {acme: {variables: {SITE: lab, OTHER: x}}}\nvariables: {SITE: office}\n";
    fs::write(served.smidr.join("daemon.yaml"), format!("{allow}{customers}")).expect("a config");
    served.daemon(&["reload"]).expect_code(0);
    stored().expect_code(0);
    let create = ["schedule", "create", "fetched", "--cron", "@daily", "--run-missed", "--git", &url];
    served.client_with(&token, &create).run().expect_code(0);
    let own = ["schedule", "create", "own", "--cron", "@daily", "--run-missed", "--git", &url];
    served.client(&own).run().expect_code(0);
    let ledger = fs::read(served.smidr.join("daemon/daemon.db")).expect("a ledger");
    let holds = |text: &str| ledger.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(!holds("of-the-client") && !holds("lab"), "values are kept");
    days_later(&served);
    assert_eq!(started(&served, "stored"), "lab");
    assert_eq!(started(&served, "fetched"), "lab");
    assert_eq!(started(&served, "own"), "office");
    let listed = served.client(&["schedule", "ls", "--json"]).run().expect_code(0).json();
    let errors: Vec<_> = listed["schedules"].as_array().expect("a list").iter().map(|one| &one["last_error"]).collect();
    assert!(errors.iter().all(|error| *error == ""), "{listed}");
}

#[test]
fn a_config_in_git_is_judged_before_anything_of_it_is_brought() {
    if !has("git") {
        let test = "daemon_schedules::a_config_in_git_is_judged_before_anything_of_it_is_brought";
        return skip(test, "there is no git");
    }
    let served = Served::paused();
    let repository = served.work.join("repository");
    fs::create_dir(&repository).expect("a folder");
    let layers = "layers: [{name: l, git: 'https://127.0.0.1:1/l', branch: b}]";
    let host = "host: {image: 'docker://127.0.0.1:1/x:1'}";
    let config = format!("name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\n{host}\n{layers}\n");
    fs::write(repository.join("smidr.yaml"), config).expect("a file");
    git(&repository, &["init", "-q", "-b", "main"]);
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "Begin"]);
    let url = format!("file://{}", repository.display());
    fs::write(served.smidr.join("daemon.yaml"), format!("allow: 'login:{url}'\n")).expect("a config");
    served.daemon(&["reload"]).expect_code(0);
    let create = ["schedule", "create", "pinned", "--cron", "@daily", "--run-missed", "--customer", "acme"];
    served.client(&[&create[..], &["--only-if-changed", "--git", &url]].concat()).run().expect_code(0);
    days_later(&served);
    let error = || {
        let listed = served.client(&["schedule", "ls", "--json"]).run().expect_code(0).json();
        listed["schedules"][0]["last_error"].as_str().unwrap_or_default().to_owned()
    };
    wait_for("the schedule to be refused", LONG, || !error().is_empty());
    assert!(error().contains("the daemon's policy does not allow images:127.0.0.1:1/x:1"), "{}", error());
}

#[test]
fn a_build_counts_what_it_gets_at_most() {
    let served = Served::paused();
    fs::write(served.smidr.join("daemon.yaml"), "customers: {acme: {memory: 1g}}\n").expect("a config");
    served.daemon(&["reload"]).expect_code(0);
    let caller = served.caller();
    let counts = |host: &str, customer: &str| {
        let layers = "layers: [{name: l, git: 'https://127.0.0.1:1/l', branch: b}]";
        let config = format!("name: p\nbase: {{machine: m}}\nbuild: {{image: i}}\n{host}\n{layers}\n");
        let request = wire::Start { config, customer: customer.into(), ..wire::Start::default() };
        let id = caller.call::<wire::Started>("StartBuild", &request).expect("taken").build_id;
        let ledger = rusqlite::Connection::open(served.smidr.join("daemon/daemon.db")).expect("the ledger");
        let sql = "SELECT json_extract(about, '$.memory') >> 30 FROM waiting WHERE build = ?1";
        ledger.query_row(sql, [id], |row| row.get::<_, Option<i64>>(0)).expect("a build")
    };
    let large = "host: {memory: 64g}";
    assert_eq!([counts("", "acme"), counts(large, "acme"), counts(large, "other")], [Some(1), Some(1), Some(64)]);
}

#[test]
fn an_address_that_no_run_could_fetch_from_is_refused_at_once() {
    let served = Served::paused();
    let create = |url: &str| {
        served.client(&["schedule", "create", "x", "--cron", "@daily", "--customer", "acme", "--git", url]).run()
    };
    for (url, shown, allow) in [
        ("file:///srv/p", "file:///srv/p", "allow: ['login:file:///srv/p', 'local-repositories:/srv/p']"),
        ("/srv/p", "/srv/p", "allow: ['login:/srv/p', 'local-repositories:/srv/p']"),
        ("git@h:p", "git@h:p", "allow: ['login:git@h:p', 'ssh-repositories:git@h:p']"),
        ("ssh://u:geheim@h/p", "h/p", "allow: ['login:ssh://"),
    ] {
        let refused = create(url);
        refused.expect_code(2).expect_err("a config is not fetched from").expect_err(shown).expect_err(allow);
        assert!(!refused.err.contains("geheim"), "{}", refused.err);
    }
    let none = served.client(&["schedule", "ls", "--json"]).run().expect_code(0).json();
    assert_eq!(none["schedules"].as_array().map(Vec::len), Some(0));
    // What is said to allow it does.
    let allow = "customers: {acme: {allow: ['login:git@h:p', 'ssh-repositories:git@h:p']}}\n";
    fs::write(served.smidr.join("daemon.yaml"), allow).expect("a config");
    served.daemon(&["reload"]).expect_code(0);
    create("git@h:p").expect_code(0);
    create("https://u:geheim@192.0.2.1/p").expect_code(0);
    let listed = served.client(&["schedule", "ls", "--json"]).run();
    assert!(listed.out.contains("192.0.2.1/p") && !listed.out.contains("geheim"), "{}", listed.out);
}

#[test]
fn a_schedule_is_told_whole_and_runs_when_it_is_asked_to() {
    let served = Served::paused();
    let create = ["schedule", "create", "stored", "--cron", "0 3 1 1 *", "--target", "hello"];
    served.client(&create).run().expect_code(0);
    let listed = || served.client(&["schedule", "ls", "--json"]).run().expect_code(0).json()["schedules"][0].clone();
    let before = listed();
    assert_eq!((&before["project"], &before["targets"][0]), (&"p".into(), &"hello".into()), "{before}");
    assert!(before["git"].is_null() && before["last"].is_null(), "{before}");
    let ran = served.client(&["schedule", "run", "stored"]).run();
    let id = ran.expect_code(0).out.strip_prefix("Build ID: ").expect("an id").trim_end().to_owned();
    assert_eq!(served.waiting(), [id.as_str()]);
    assert_eq!(served.shown(&id)["labels"]["schedule"], "stored");
    let after = listed();
    assert_eq!((&after["last_build"], &after["next"]), (&id.as_str().into(), &before["next"]));
    let text = served.client(&["schedule", "ls"]).run();
    text.expect_code(0).expect_out("  builds    p as it was stored: hello\n").expect_out(&format!("  {id}\n"));
    // A client whose answer was lost asks again.
    let run = wire::RunSchedule { name: "stored".into(), at: Some(wire::Time { seconds: 1_900_000_000 }) };
    let caller = served.caller();
    let builds: Vec<wire::Ran> = (0..2).map(|_| caller.call("RunSchedule", &run).expect("an answer")).collect();
    assert!(builds[0] == builds[1] && builds[0].build_id != id, "{builds:?}");
    served.client(&["schedule", "run", "other"]).run().expect_code(2).expect_err("there is no schedule `other`");
    let token = served.token("reader", &["--scope", "read"]);
    served.client_with(&token, &["schedule", "run", "stored"]).run().expect_code(2).expect_err("`submit`");
    let token = served.token("acme", &["--scope", "submit", "--customer", "acme"]);
    served.client_with(&token, &["schedule", "run", "stored"]).run().expect_code(2).expect_err("there is no schedule");
    served.client(&["schedule", "rm", "stored"]).run().expect_code(0).expect_err("the schedule stored is removed");
}

#[test]
fn why_a_schedule_builds_nothing_is_told_line_by_line_and_logged_once() {
    if !has("git") {
        return skip("daemon_schedules::why_a_schedule_builds_nothing_is_told_line_by_line_and_logged_once", "no git");
    }
    let served = Served::paused();
    // A port at which nothing listens.
    let url = "http://127.0.0.1:1/p";
    let create = ["schedule", "create", "fetched", "--cron", "@daily", "--run-missed", "--git", url, "--ref", "v1"];
    served.client(&create).run().expect_code(0);
    served.client(&["schedule", "run", "fetched"]).run().expect_code(4).expect_one_error();
    let shown = || served.client(&["schedule", "ls"]).run().expect_code(0).out.clone();
    let text = shown();
    assert!(text.contains("\n  builds    smidr.yaml of v1 in http://127.0.0.1:1/p\n"), "{text}");
    assert!(text.contains("\n  failed    ") && !text.contains("\\n"), "{text}");
    days_later(&served);
    let logged = || served.log().lines().filter(|line| line.contains("a schedule started no build")).count();
    wait_for("the failure to be logged", LONG, || logged() > 0);
    let is_over = || served.client(&["schedule", "ls", "--json"]).run().json()["schedules"][0]["last_error"] != "";
    wait_for("the run to be over", LONG, is_over);
    assert_eq!(logged(), 1);
}
