//! What a daemon tells of tokens, schedules and webhooks: lists, answers in a line, and the audit log.

use std::fs;

use serde_json::Value;

use super::daemon_fixture::Served;

/// Lines of the audit log about a call.
fn noted(served: &Served, call: &str) -> Vec<Value> {
    let text = fs::read_to_string(served.smidr.join("daemon/audit.jsonl")).expect("an audit log");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines.filter(|line| line["what"] == call).collect()
}

#[test]
fn the_audit_log_says_what_was_changed() {
    let served = Served::paused();
    let token = served.token("ci", &["--scope", "read,submit", "--customer", "acme"]);
    let client = |args: &[&str]| served.client_with(&token, args).run();
    client(&["schedule", "create", "nightly", "--cron", "@daily", "--git", "https://192.0.2.1/p"]).expect_code(0);
    client(&["webhook", "create", "chat", "http://192.0.2.1/geheim"]).expect_code(0);
    client(&["schedule", "rm", "nightly"]).expect_code(0);
    client(&["schedule", "rm", "other"]).expect_code(2);
    client(&["webhook", "rm", "chat"]).expect_code(0);
    client(&["webhook", "resend", "msg_1"]).expect_code(2);
    served.client(&["schedule", "create", "stored", "--cron", "@daily"]).run().expect_code(0);
    let id = served.client(&["schedule", "run", "stored"]).run().out.trim_start_matches("Build ID: ").trim().to_owned();
    served.daemon(&["purge", "--keep", "3", "--customer", "acme", "--dry-run"]).expect_code(0);
    served.daemon(&["token", "rm", "ci"]).expect_code(0);
    let made = &noted(&served, "CreateToken")[0];
    assert_eq!((&made["name"], &made["customer"], &made["status"]), (&"ci".into(), &"acme".into(), &"ok".into()));
    assert_eq!(made["scopes"], Value::from(vec!["read", "submit"]));
    for (call, at, name, customer, status) in [
        ("CreateSchedule", 0, "nightly", Value::from("acme"), "ok"),
        ("CreateWebhook", 0, "chat", "acme".into(), "ok"),
        ("DeleteSchedule", 0, "nightly", "acme".into(), "ok"),
        ("DeleteSchedule", 1, "other", "acme".into(), "not_found"),
        ("DeleteWebhook", 0, "chat", "acme".into(), "ok"),
        ("ResendDelivery", 0, "msg_1", "acme".into(), "not_found"),
        ("RunSchedule", 0, "stored", Value::Null, "ok"),
        ("DeleteToken", 0, "ci", Value::Null, "ok"),
    ] {
        let line = &noted(&served, call)[at];
        assert_eq!((&line["name"], &line["customer"], &line["status"]), (&name.into(), &customer, &status.into()));
    }
    assert_eq!(noted(&served, "RunSchedule")[0]["build"], id.as_str());
    let purge = &noted(&served, "PurgeBuilds")[0];
    assert_eq!((&purge["detail"], &purge["customer"]), (&"keep 3, dry run: 0 builds".into(), &"acme".into()));
    let text = fs::read_to_string(served.smidr.join("daemon/audit.jsonl")).expect("an audit log");
    assert!(!text.contains("geheim") && !text.contains("smidr_"), "{text}");
}

#[test]
fn lists_have_headers_and_what_is_removed_is_said() {
    let served = Served::paused();
    let columns = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        let at = |line: &str, word: &str| line.find(word).expect("a column");
        (lines.len(), at(lines[0], "CUSTOMER"), at(lines[1], "acme"), at(lines[2], "acme"))
    };
    served.token("a", &["--scope", "read", "--customer", "acme"]);
    served.token("much-longer-than-that-other-one", &["--scope", "read,submit,cancel", "--customer", "acme"]);
    let tokens = served.daemon(&["token", "ls"]);
    let (count, header, first, second) = columns(&tokens.expect_code(0).out);
    assert_eq!((count, header, header), (3, first, second), "{}", tokens.out);
    for name in ["b", "much-longer-than-that-other-one"] {
        let create = ["webhook", "create", name, "http://192.0.2.1/", "--customer", "acme", "--event", "build.queued"];
        served.client(&create).run().expect_code(0);
    }
    let webhooks = served.client(&["webhook", "ls"]).run();
    let (count, header, first, second) = columns(&webhooks.expect_code(0).out);
    assert_eq!((count, header, header), (3, first, second), "{}", webhooks.out);
    let deliveries = |name: &str| served.client(&["webhook", "deliveries", name, "--customer", "acme"]).run();
    deliveries("b").expect_code(0);
    deliveries("nosuch").expect_code(2).expect_err("there is no webhook `nosuch`");
    served.started(&["--customer", "acme"]);
    deliveries("b").expect_code(0).expect_out("build.queued");
    let removed = served.client(&["webhook", "rm", "b", "--customer", "acme"]).run();
    removed.expect_code(0).expect_err("the webhook b is removed");
    deliveries("b").expect_code(2);
    served.daemon(&["resume"]).expect_code(0).expect_err("builds are started again");
}

#[test]
fn a_customer_is_told_how_many_builds_are_before_its_own() {
    let served = Served::paused();
    for customer in ["zeta", "acme"] {
        served.started(&["--customer", customer]);
    }
    let token = served.token("ci", &["--scope", "read", "--customer", "acme"]);
    let queue = served.client_with(&token, &["queue", "--json"]).run().expect_code(0).json();
    assert_eq!((&queue["waiting_in_all"], queue["waiting"].as_array().map(Vec::len)), (&2.into(), Some(1)));
    let text = served.client_with(&token, &["queue"]).run();
    text.expect_code(0).expect_out("running    0 of at most 1\n");
    text.expect_out("waiting    2, 1 of them of other customers\n");
    assert!(!text.out.contains("zeta"), "{}", text.out);
}
