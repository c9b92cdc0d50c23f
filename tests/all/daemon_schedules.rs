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
