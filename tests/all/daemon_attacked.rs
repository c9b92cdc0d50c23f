//! What an attack on a daemon of two customers found: each of these took the daemon from another customer, or from its operator.

use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};

use super::daemon_fixture::{Caller, Served};

/// `CreateScheduleRequest`, with as much of a `Schedule` as is sent here.
#[derive(Clone, PartialEq, prost::Message)]
struct CreateSchedule {
    #[prost(message, optional, tag = "1")]
    schedule: Option<Schedule>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Schedule {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    cron: String,
    #[prost(message, optional, tag = "6")]
    git: Option<GitConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GitConfig {
    #[prost(string, tag = "1")]
    url: String,
    #[prost(string, tag = "2")]
    reference: String,
}

/// `StartBuildRequest` with labels.
#[derive(Clone, PartialEq, prost::Message)]
struct Labelled {
    #[prost(string, tag = "1")]
    config: String,
    #[prost(map = "string, string", tag = "15")]
    labels: std::collections::HashMap<String, String>,
}

fn schedule(name: &str, cron: &str) -> CreateSchedule {
    let git = GitConfig { url: "https://git.example.com/x".into(), reference: "main".into() };
    CreateSchedule { schedule: Some(Schedule { name: name.into(), cron: cron.into(), git: Some(git) }) }
}

fn refused(caller: &Caller, method: &str, message: &impl prost::Message) -> Status {
    caller.bytes(method, message.encode_to_vec()).expect_err(method)
}

/// Twelve megabytes of labels stay in memory while the build waits, and are in each list of builds.
#[test]
fn labels_are_small() {
    let served = Served::paused();
    let caller = served.caller();
    let labels = (0..1000).map(|n| (format!("{n:04}{}", "k".repeat(4000)), "v".repeat(4000))).collect();
    let sent = Labelled { config: "name: p\n".into(), labels };
    let status = refused(&caller, "StartBuild", &sent);
    assert!(status.code() == Code::InvalidArgument && status.message().contains("labels"), "{status:?}");
}

/// Reading a time for schedules of megabytes took a thread that serves for most of a minute, and again at each look at the schedules.
#[test]
fn a_time_for_a_schedule_is_short() {
    let served = Served::paused();
    let caller = served.caller();
    let cron = format!("{}0 * * * *", "0,".repeat(5000));
    let status = refused(&caller, "CreateSchedule", &schedule("long", &cron));
    assert!(matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition), "{status:?}");
}

/// Each that is due is a run.
#[test]
#[ignore = "takes long, since requests of one client are limited: scripts/test --slow"]
fn a_customer_has_a_bounded_number_of_schedules() {
    let served = Served::paused();
    let caller = served.caller_with(&served.token("beta", &["--scope", "submit", "--customer", "beta"]));
    let never = "0 0 1 1 *";
    let mut made = 0;
    let status = loop {
        match caller.bytes("CreateSchedule", schedule(&format!("s{made}"), never).encode_to_vec()) {
            Ok(_) => made += 1,
            // Requests of one client are limited, too.
            Err(status) if status.message().starts_with("too many requests") => {
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(status) => break status,
        }
        assert!(made <= 1000, "more than a thousand schedules of one customer");
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    // Another customer's are not counted.
    let other = served.caller_with(&served.token("acme", &["--scope", "submit", "--customer", "acme"]));
    other.bytes("CreateSchedule", schedule("own", never).encode_to_vec()).expect("one of its own");
}
