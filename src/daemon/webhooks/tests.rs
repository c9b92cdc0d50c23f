//! Webhooks against a server on loopback: what it is sent, and what a daemon does that is killed in between.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::mpsc::{self, Receiver},
    thread,
};

use super::{deliver::delay, table::Sent, *};
use crate::{
    model::State,
    system::stop::{StopRequest, StopToken},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What came in.
struct Request {
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("{name} in {:?}", self.headers)).1
    }
}

/// Answers requests in turn, and gives what came in. The last answer is repeated.
fn server(answers: &[&str]) -> (String, Receiver<Request>) {
    serve(answers, "http", Ok)
}

/// The same behind TLS, with the certificate for it.
fn tls_server(answers: &[&str]) -> (String, Receiver<Request>, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
    let config = Arc::new(config.expect("a configuration"));
    let (url, requests) = serve(answers, "https", move |stream| {
        let mut talk = rustls::ServerConnection::new(config.clone()).expect("a connection");
        let mut stream = stream;
        talk.complete_io(&mut stream)?;
        Ok(rustls::StreamOwned::new(talk, stream))
    });
    (url.replace("127.0.0.1", "localhost"), requests, cert.pem())
}

fn serve<S: io::Read + io::Write>(
    answers: &[&str],
    scheme: &str,
    begin: impl Fn(TcpStream) -> io::Result<S> + Send + 'static,
) -> (String, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("{scheme}://{}/hook", listener.local_addr().expect("an address"));
    let (seen, requests) = mpsc::channel();
    let answers: Vec<String> = answers.iter().map(|text| (*text).to_owned()).collect();
    thread::spawn(move || {
        for (at, stream) in listener.incoming().enumerate() {
            let Ok(stream) = begin(stream.expect("a stream")) else { continue };
            let answer = answers.get(at).or(answers.last()).expect("an answer");
            if seen.send(talk(stream, answer)).is_err() {
                break;
            }
        }
    });
    (address, requests)
}

fn talk(stream: impl io::Read + io::Write, answer: &str) -> Request {
    let mut reader = BufReader::new(stream);
    let (mut line, mut headers) = (String::new(), Vec::new());
    reader.read_line(&mut line).expect("a line");
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a line");
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").expect("a length");
    let mut body = vec![0; length.1.parse().expect("a number")];
    reader.read_exact(&mut body).expect("a body");
    let (status, text) = answer.split_once('|').unwrap_or((answer, ""));
    let head = format!("content-length: {}\r\nconnection: close\r\nlocation: /hook\r\n", text.len());
    let _ = reader.get_mut().write_all(format!("HTTP/1.1 {status}\r\n{head}\r\n{text}").as_bytes());
    let _ = reader.get_mut().flush();
    Request { headers, body: String::from_utf8(body).expect("text") }
}

fn open(path: &Path) -> Ledger {
    Ledger::open(path).expect("a ledger")
}

fn quick(allow_private: bool) -> Settings {
    let usual = Settings::new(allow_private, None);
    Settings { first_delay: SignedDuration::from_millis(20), ..usual }
}

fn hook(url: &str) -> NewWebhook {
    let secrets = vec![SECRET.to_owned()];
    NewWebhook { customer: "acme".into(), name: "ci".into(), url: url.into(), events: Vec::new(), secrets }
}

fn add(webhooks: &Webhooks, new: NewWebhook) -> Result<(WebhookRow, Option<String>), WebhookError> {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(webhooks.create(new))
}

fn facts(customer: &str) -> BuildFacts {
    BuildFacts {
        id: "acme-a3f9c2b1".into(),
        name: "gateway".into(),
        customer: customer.into(),
        state: State::Failed,
        targets: vec!["core-image-minimal".into()],
        machine: Some("qemux86-64".into()),
        started: Some("2026-11-30T10:00:00Z".parse().expect("a time")),
        ended: Some("2026-11-30T11:00:00Z".parse().expect("a time")),
        exit_code: Some(1),
        reasons: vec!["busybox:do_compile failed".into()],
    }
}

fn tell(ledger: &Ledger, event: Event, customer: &str) -> usize {
    ledger.write_now(Webhooks::queue(event, &facts(customer), Timestamp::now())).expect("written")
}

/// Lets the loop run until so many attempts have ended.
fn run(webhooks: &Webhooks, count: usize) -> Vec<Attempt> {
    let (stop, (told, heard)) = (StopToken::default(), mpsc::channel());
    thread::scope(|scope| {
        let looping = scope.spawn(|| webhooks.run(&stop, |attempt| told.send(attempt).expect("heard")));
        let attempts = (0..count).map(|_| heard.recv().expect("an attempt")).collect();
        stop.request(StopRequest::Graceful);
        looping.join().expect("the loop").expect("no error");
        attempts
    })
}

#[test]
fn what_is_sent_is_signed_and_documented() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(&folder.path().join("daemon.db"));
    let webhooks = Webhooks::new(&ledger, quick(true));
    let (url, requests) = server(&["204 No Content"]);
    add(&webhooks, hook(&url.replace("http://", "http://user:pass@"))).expect("created");
    assert_eq!(tell(&ledger, Event::Finished, "acme"), 1);
    assert_eq!(tell(&ledger, Event::Finished, "other"), 0, "another customer's builds");
    assert_eq!(run(&webhooks, 1), [Attempt::Delivered]);
    let request = requests.recv().expect("a request");
    let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    assert!(id.len() == 36 && id.starts_with("msg_"), "{id}");
    let expected = signature::standard(&[SECRET], id, timestamp.parse().expect("seconds"), &request.body);
    assert_eq!(request.header("webhook-signature"), expected);
    assert_eq!(request.header("x-hub-signature-256"), signature::github(SECRET, &request.body));
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("authorization"), "Basic dXNlcjpwYXNz");
    let mut body: serde_json::Value = serde_json::from_str(&request.body).expect("JSON");
    assert!(body["timestamp"].take().as_str().is_some_and(|text| text.parse::<Timestamp>().is_ok()));
    // The example of the documentation.
    let (_, example) = include_str!("../../../docs/webhooks.md").split_once("```json").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let mut expected: serde_json::Value = serde_json::from_str(example).expect("JSON");
    expected["timestamp"] = serde_json::Value::Null;
    assert_eq!(body, expected);
    let row = webhooks.deliveries("acme", "ci", 10).expect("rows").remove(0);
    assert!(row.delivered && row.attempts == 1 && row.status == 204 && row.next_attempt.is_none(), "{row:?}");
}

#[test]
fn a_receiver_that_fails_gets_the_same_again_also_from_the_next_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("daemon.db");
    let (url, requests) = server(&["500 Internal Server Error|not\x1b[2J now", "302 Found", "200 OK"]);
    let id = {
        let ledger = open(&path);
        // Long enough that the next attempt is the next daemon's.
        let webhooks = Webhooks::new(&ledger, Settings { first_delay: SignedDuration::from_secs(4), ..quick(true) });
        add(&webhooks, hook(&url)).expect("created");
        tell(&ledger, Event::Queued, "acme");
        assert_eq!(run(&webhooks, 1), [Attempt::Failed]);
        let row = webhooks.deliveries("acme", "", 10).expect("rows").remove(0);
        assert_eq!(row.error, "answered 500 Internal Server Error: not\\u{1b}[2J now");
        assert!(row.next_attempt.is_some() && row.status == 500, "{row:?}");
        row.id
    };
    // Killed here.
    let ledger = open(&path);
    let webhooks = Webhooks::new(&ledger, quick(true));
    assert_eq!(run(&webhooks, 2), [Attempt::Failed, Attempt::Delivered]);
    let requests: Vec<Request> = (0..3).map(|_| requests.recv().expect("a request")).collect();
    assert!(requests.iter().all(|request| request.header("webhook-id") == id && request.body == requests[0].body));
    let row = webhooks.delivery(&id).expect("read").expect("a row");
    assert!(row.delivered && row.attempts == 3 && row.error.is_empty(), "{row:?}");
    // Once more, by hand.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    assert!(runtime.block_on(webhooks.resend(&id, Timestamp::now())).expect("written"));
    assert!(!runtime.block_on(webhooks.resend("msg_none", Timestamp::now())).expect("written"));
    assert_eq!(run(&webhooks, 1), [Attempt::Delivered]);
}

#[test]
fn after_a_day_it_is_given_up_and_one_that_is_gone_hears_nothing_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(&folder.path().join("daemon.db"));
    let webhooks = Webhooks::new(&ledger, quick(true));
    let (dead, _requests) = server(&["503 Service Unavailable"]);
    let (gone, _others) = server(&["410 Gone"]);
    add(&webhooks, hook(&dead)).expect("created");
    add(&webhooks, NewWebhook { name: "gone".into(), ..hook(&gone) }).expect("created");
    let yesterday = Timestamp::now() - SignedDuration::from_hours(24);
    let event = Webhooks::queue(Event::Started, &facts("acme"), yesterday);
    assert_eq!(ledger.write_now(event).expect("written"), 2);
    assert_eq!(run(&webhooks, 2), [Attempt::GivenUp, Attempt::GivenUp]);
    let of = |name: &str| webhooks.deliveries("acme", name, 1).expect("rows").remove(0);
    assert!(of("ci").next_attempt.is_none() && of("ci").status == 503 && !of("ci").delivered, "{:?}", of("ci"));
    assert!(of("gone").next_attempt.is_none() && of("gone").error.contains("410"), "{:?}", of("gone"));
    let ended: Vec<bool> = webhooks.list().expect("rows").iter().map(|hook| hook.ended.is_some()).collect();
    assert_eq!(ended, [false, true]);
    assert_eq!(tell(&ledger, Event::Finished, "acme"), 1);
    // Made again, it is told again.
    add(&webhooks, NewWebhook { name: "gone".into(), ..hook(&gone) }).expect("created");
    assert_eq!(tell(&ledger, Event::Finished, "acme"), 2);
}

#[test]
fn this_machine_is_not_connected_to_unless_that_is_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(&folder.path().join("daemon.db"));
    let (url, requests) = server(&["200 OK"]);
    // By a name, which is not known before it is resolved.
    let name = url.replace("127.0.0.1", "localhost");
    let webhooks = Webhooks::new(&ledger, quick(false));
    assert!(matches!(add(&webhooks, hook(&url)), Err(WebhookError::Url { source: BadUrl::Inward(_), .. })));
    add(&webhooks, hook(&name)).expect("created");
    tell(&ledger, Event::Queued, "acme");
    assert_eq!(run(&webhooks, 1), [Attempt::Failed]);
    let row = webhooks.deliveries("acme", "", 1).expect("rows").remove(0);
    assert!(row.error.starts_with("localhost (") && row.error.contains("this machine"), "{}", row.error);
    assert!(requests.try_recv().is_err());
    let webhooks = Webhooks::new(&ledger, quick(true));
    assert_eq!(run(&webhooks, 1), [Attempt::Delivered]);
    requests.recv().expect("a request");
}

#[test]
fn a_certificate_counts_as_the_machine_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(&folder.path().join("daemon.db"));
    let (url, requests, certificate) = tls_server(&["200 OK"]);
    let strangers = Webhooks::new(&ledger, quick(true));
    add(&strangers, hook(&url)).expect("created");
    tell(&ledger, Event::Queued, "acme");
    assert_eq!(run(&strangers, 1), [Attempt::Failed]);
    let row = strangers.deliveries("acme", "", 1).expect("rows").remove(0);
    assert!(row.error.starts_with("no connection: invalid peer certificate"), "{}", row.error);
    let bundle = folder.path().join("ca.pem");
    fs::write(&bundle, certificate).expect("a file");
    let mut settings = quick(true);
    settings.sending.ca_bundle = Some(bundle);
    assert_eq!(run(&Webhooks::new(&ledger, settings), 1), [Attempt::Delivered]);
    assert!(requests.recv().expect("a request").body.contains("build.queued"));
}

#[test]
fn wrong_webhooks_are_refused_and_a_secret_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(&folder.path().join("daemon.db"));
    let webhooks = Webhooks::new(&ledger, quick(false));
    let with = |change: &dyn Fn(&mut NewWebhook)| {
        let mut new = hook("https://example.org/");
        change(&mut new);
        add(&webhooks, new).map(|(row, made)| (row.events, made)).map_err(|error| error.to_string())
    };
    assert!((0..MOST).all(|number| with(&|new| new.name = format!("w{number}")).is_ok()));
    assert!(with(&|new| new.name = "more".into()).is_err_and(|error| error.contains("already")));
    (0..MOST).for_each(|number| {
        ledger.write_now(table::delete("acme".into(), format!("w{number}"))).expect("written");
    });
    assert!(with(&|new| new.name = "a b".into()).is_err_and(|error| error.contains("`a b`")));
    assert!(with(&|new| new.events = vec!["build.gone".into()]).is_err_and(|error| error.contains("build.gone")));
    assert!(with(&|new| new.events = vec!["build.queued".into(); MOST_EVENTS]).is_ok());
    let error = with(&|new| new.events = vec!["build.queued".into(); MOST_EVENTS + 1]).expect_err("refused");
    assert!(error.contains("at most 32 events"), "{error}");
    for url in ["https://example.org/\n", "https://exam\tple.org/", "https://example.org/\u{1b}[2J"] {
        assert!(
            with(&|new| new.url = url.into()).is_err_and(|error| error.starts_with("nothing can be sent")),
            "{url:?}"
        );
    }
    assert!(with(&|new| new.secrets = vec!["hunter2".into()]).is_err_and(|error| !error.contains("hunter2")));
    let error = with(&|new| new.url = "ftp://user:hunter2@example.org".into()).expect_err("refused");
    assert!(error.contains("example.org") && !error.contains("hunter2"), "{error}");
    let (events, made) = with(&|new| {
        (new.secrets, new.events) = (Vec::new(), vec!["build.queued".into(), "build.finished".into()]);
    })
    .expect("created");
    assert_eq!(events, "build.queued,build.finished");
    assert!(made.is_some_and(|secret| signature::key(&secret).is_some()));
    assert_eq!([tell(&ledger, Event::Started, "acme"), tell(&ledger, Event::Queued, "acme")], [0, 1]);
}

#[test]
fn the_history_is_bounded_and_what_waits_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(&folder.path().join("daemon.db"));
    let webhooks = Webhooks::new(&ledger, quick(false));
    add(&webhooks, hook("https://example.org/")).expect("created");
    assert!((0..1003).all(|_| tell(&ledger, Event::Queued, "acme") == 1));
    let all = webhooks.deliveries("acme", "ci", u32::MAX).expect("rows");
    let (waiting, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(|row| row.next_attempt.is_some());
    assert_eq!((waiting.len(), refused.len()), (1000, 3));
    assert!(refused.iter().all(|row| row.error.contains("too many")));
    for row in &waiting {
        ledger.write_now(table::finish(row.id.clone(), Sent::Delivered(200))).expect("written");
    }
    assert_eq!(webhooks.deliveries("acme", "ci", u32::MAX).expect("rows").len(), 200);
}

#[test]
fn delays_grow_for_a_day() {
    let first = SignedDuration::from_secs(5);
    let whole: Vec<i64> = (0..8).map(|before| delay(first, before, 1.0).as_secs()).collect();
    assert_eq!(whole, [5, 20, 80, 320, 1280, 5120, 14400, 14400]);
    assert_eq!(delay(first, 0, 0.0), first / 2);
    assert_eq!(delay(first, u32::MAX, 1.0).as_secs(), 14400);
}
