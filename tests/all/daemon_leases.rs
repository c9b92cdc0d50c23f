//! Calls and streams that end before their time: the caller goes away, its token is revoked, it has too many, or the daemon ends.

use std::{
    fs,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::{
    daemon_fixture::{Caller, Served, wire},
    support::{LONG, wait_for},
};

/// How many bytes an artifact has of which no client takes all at once.
const LARGE: usize = 32 << 20;

/// A build that left one large file, put into the history.
fn with_artifact(served: &Served, id: &str) -> Bytes {
    served.synthetic(id, 1);
    let journal = served.folder(id).join("events.jsonl");
    let kept = format!(
        r#"{{"build":"{id}","seq":3,"at":"2026-01-01T00:00:00Z","event":"artifact_kept","artifact":{{"path":"large","size":{LARGE},"sha256":"sha256:{}"}}}}"#,
        "0".repeat(64)
    );
    let text = fs::read_to_string(&journal).expect("a journal").replace(r#""seq":3"#, r#""seq":4"#);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.insert(2, &kept);
    fs::write(&journal, lines.join("\n") + "\n").expect("a journal");
    let folder = served.folder(id).join("artifacts");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("large"), vec![7; LARGE]).expect("an artifact");
    served.smidr().args(["history", "rebuild"]).run().expect_code(0);
    wire::OfFile { id: id.into(), path: Some(wire::Path { text: "large".into() }) }.encode_to_vec().into()
}

/// Reads a stream to its end.
fn ends(caller: &Caller, mut stream: tonic::Streaming<Bytes>) -> Result<(), Status> {
    caller.runtime().block_on(async {
        while stream.message().await?.is_some() {}
        Ok(())
    })
}

#[test]
fn a_submission_whose_caller_goes_away_waits_or_was_never_taken() {
    let served = Served::paused();
    let file = served.project().join("smidr.yaml");
    let request = |id: String| wire::Start {
        config: fs::read_to_string(&file).expect("a config"),
        config_name: "smidr.yaml".into(),
        request_id: id,
        local: Some(wire::Local { config: Some(wire::Path { text: file.display().to_string() }) }),
        ..wire::Start::default()
    };
    let caller = served.caller();
    let names: Vec<String> = (0..60).map(|number| format!("r{number}")).collect();
    let begun = Instant::now();
    caller.call::<wire::Started>("StartBuild", &request("first".into())).expect("taken");
    let usual = begun.elapsed();
    for (number, name) in names.iter().enumerate() {
        let call = caller.open("StartBuild", vec![request(name.clone()).encode_to_vec().into()]);
        // From the moment in which it is sent to the one in which it is answered.
        let patience = usual * u32::try_from(number).expect("few") / 50;
        let _ = caller.runtime().block_on(async { tokio::time::timeout(patience, call).await });
    }
    let again: Vec<wire::Started> =
        names.iter().map(|name| caller.call("StartBuild", &request(name.clone())).expect("taken")).collect();
    let waiting = served.waiting();
    assert!(again.iter().any(|one| one.repeated), "none was taken");
    for (one, name) in again.iter().zip(&names) {
        assert!(waiting.contains(&one.build_id), "{name}: {one:?} was taken, and does not wait");
    }
    // What was done is in the audit log, whether its answer was taken or not.
    let audit = fs::read_to_string(served.smidr.join("daemon/audit.jsonl")).expect("the log");
    for one in &again {
        assert!(audit.contains(&format!(r#""what":"StartBuild","build":"{}""#, one.build_id)), "{one:?}");
    }
}

#[test]
fn downloads_and_uploads_count_as_streams_and_end_with_their_token() {
    let served = Served::paused();
    let file = with_artifact(&served, "p-00000001");
    fs::write(served.smidr.join("daemon.yaml"), "limits: {streams: 3}\n").expect("a config");
    served.daemon(&["reload"]).expect_code(0);
    let token = served.token("t", &["--scope", "read,submit"]);
    let caller = served.caller_with(&token);
    let opened = |method: &str, message: Bytes| caller.runtime().block_on(caller.open(method, vec![message]));
    let all = wire::OfBuild { id: "p-00000001".into(), follow: false }.encode_to_vec().into();
    let downloads = [opened("DownloadArtifact", file.clone()), opened("DownloadBuild", all)];
    let first = wire::Upload { digest: format!("sha256:{}", "0".repeat(64)), size: 9 }.encode_to_vec().into();
    let parts = tokio_stream::iter([first]).chain(tokio_stream::pending());
    let upload = caller.runtime().spawn(caller.open_with("UploadBlob", parts));
    let full = || opened("DownloadArtifact", file.clone()).map(drop).map_err(|status| status.code());
    wait_for("the upload to count", LONG, || full() == Err(Code::ResourceExhausted));
    served.daemon(&["token", "rm", "t"]).expect_code(0);
    let uploaded = caller.runtime().block_on(upload).expect("no panic").map(drop);
    assert_eq!(uploaded.expect_err("revoked").code(), Code::Unauthenticated);
    for stream in downloads {
        assert_eq!(ends(&caller, stream.expect("a stream")).expect_err("revoked").code(), Code::Unauthenticated);
    }
}

#[test]
fn downloads_and_uploads_do_not_hold_up_the_end_of_the_daemon() {
    let served = Served::paused();
    let file = with_artifact(&served, "p-00000001");
    let caller = served.caller();
    let mut stream = caller.runtime().block_on(caller.open("DownloadArtifact", vec![file])).expect("a stream");
    let first = wire::Upload { digest: format!("sha256:{}", "0".repeat(64)), size: 9 }.encode_to_vec().into();
    let parts = tokio_stream::iter([first]).chain(tokio_stream::pending());
    let upload = caller.runtime().spawn(caller.open_with("UploadBlob", parts));
    let reading = caller.runtime().spawn(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                ended => return ended.map(drop),
            }
        }
    });
    let begun = Instant::now();
    served.daemon(&["stop"]).expect_code(0);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let read = caller.runtime().block_on(reading).expect("no panic").expect_err("it is not all");
    assert_eq!(read.code(), Code::Unavailable, "{read:?}");
    let uploaded = caller.runtime().block_on(upload).expect("no panic").map(drop).expect_err("it is not all");
    assert_eq!(uploaded.code(), Code::Unavailable, "{uploaded:?}");
}

#[test]
fn followers_of_a_build_that_waits_cost_no_thread() {
    let served = Served::paused();
    let id = served.started(&[]);
    let caller = served.caller();
    let message = wire::OfBuild { id: id.clone(), follow: true }.encode_to_vec();
    let streams = ["StreamLogs", "WatchBuild"]
        .map(|method| caller.runtime().block_on(caller.open(method, vec![message.clone().into()])).expect("a stream"));
    caller.bytes("GetServerInfo", Bytes::new()).expect("on the same connection");
    let tasks = fs::read_dir(format!("/proc/{}/task", served.pid())).expect("threads").flatten();
    let names = tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    assert_eq!(names.filter(|name| name.trim() == "feed").count(), 0);
    // Nor does a local command think that it is over.
    let local = served.smidr().args(["logs", "--json", "--follow", &id]).start();
    // Another one that comes and goes ends nothing.
    let other = served.started(&[]);
    served.client(&["cancel", &other]).run().expect_code(0);
    assert_eq!(served.waiting(), [id.as_str()]);
    served.client(&["cancel", &id]).run().expect_code(0);
    for stream in streams {
        ends(&caller, stream).expect("to the end of the build");
    }
    local.wait().expect_code(0).expect_out(r#""event":"finished""#);
}
