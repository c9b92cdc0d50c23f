//! When schedules are due, by a table and a fixed clock; and the loop, by a ledger.

use std::sync::{Mutex, mpsc};

use super::{due::next, when::MOST_MISSED, *};
use crate::system::stop::StopRequest;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn times_are_right_where_clocks_change() {
    // After each time, the next ones.
    #[rustfmt::skip]
    let rows: &[(&str, &str, &str, &[&str])] = &[
        ("30 2 * * *", "", "2027-03-28T00:00Z", &["2027-03-28T02:30Z", "2027-03-29T02:30Z"]),
        // Spring: 02:00 becomes 03:00 at 01:00Z. What is left out is due at once, on that day.
        ("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00Z", &["2027-03-28T01:00Z", "2027-03-29T00:30Z"]),
        ("0 3 * * *", "Europe/Berlin", "2027-03-27T12:00Z", &["2027-03-28T01:00Z", "2027-03-29T01:00Z"]),
        ("*/30 * * * *", "Europe/Berlin", "2027-03-28T00:20Z", &["2027-03-28T00:30Z", "2027-03-28T01:00Z", "2027-03-28T01:30Z"]),
        ("0 2 * * 0", "Europe/Berlin", "2027-03-27T12:00Z", &["2027-03-28T01:00Z", "2027-04-04T00:00Z"]),
        // Autumn: 03:00 becomes 02:00 at 01:00Z. What comes twice is due once, intervals go on.
        ("30 2 * * *", "Europe/Berlin", "2027-10-30T12:00Z", &["2027-10-31T00:30Z", "2027-11-01T01:30Z"]),
        ("30 2 * * *", "Europe/Berlin", "2027-10-31T01:10Z", &["2027-11-01T01:30Z"]),
        ("*/30 * * * *", "Europe/Berlin", "2027-10-31T00:10Z", &["2027-10-31T00:30Z", "2027-10-31T01:00Z", "2027-10-31T01:30Z", "2027-10-31T02:00Z"]),
        ("0 * * * *", "Europe/Berlin", "2027-10-30T23:30Z", &["2027-10-31T00:00Z", "2027-10-31T01:00Z", "2027-10-31T02:00Z"]),
        ("0 6 * * *", "Asia/Kathmandu", "2027-05-01T00:00Z", &["2027-05-01T00:15Z", "2027-05-02T00:15Z"]),
        ("0 0 31 * *", "", "2027-01-31T00:00Z", &["2027-03-31T00:00Z", "2027-05-31T00:00Z"]),
        ("0 3 L * *", "", "2027-11-29T00:00Z", &["2027-11-30T03:00Z", "2027-12-31T03:00Z", "2028-01-31T03:00Z", "2028-02-29T03:00Z"]),
        ("0 0 29 2 *", "", "2027-01-01T00:00Z", &["2028-02-29T00:00Z", "2032-02-29T00:00Z"]),
        ("0 0 29 2 *", "", "2097-01-01T00:00Z", &["2104-02-29T00:00Z"]),
        // Either of both days, as crontab(5) has it.
        ("0 0 13 * 5", "", "2027-08-12T00:00Z", &["2027-08-13T00:00Z", "2027-08-20T00:00Z"]),
        ("@daily", "Europe/Berlin", "2027-07-01T12:00Z", &["2027-07-01T22:00Z", "2027-07-02T22:00Z"]),
        ("@weekly", "", "2027-07-01T12:00Z", &["2027-07-04T00:00Z"]),
        ("0 9 * * MON-FRI", "", "2027-07-02T12:00Z", &["2027-07-05T09:00Z"]),
        // Parts of a second neither hide a due time nor repeat one.
        ("* * * * *", "", "2027-07-02T12:00:59.9Z", &["2027-07-02T12:01Z"]),
        ("* * * * *", "", "2027-07-02T12:01:00.1Z", &["2027-07-02T12:02Z"]),
        ("* * * * *", "", "2027-07-02T12:01:00Z", &["2027-07-02T12:02Z"]),
    ];
    for (cron, zone, after, expected) in rows {
        let when = When::new(cron, zone).expect(cron);
        let found = std::iter::successors(when.next_after(at(after)), |last| when.next_after(*last));
        let found: Vec<Timestamp> = found.take(expected.len()).collect();
        assert_eq!(found, expected.iter().map(|text| at(text)).collect::<Vec<_>>(), "{cron} {zone} {after}");
    }
}

#[test]
fn what_is_no_time_is_refused_with_the_reason() {
    for (cron, zone, said) in [
        ("0 0 31 2 *", "UTC", "`0 0 31 2 *` is never due in UTC"),
        ("0 0 30 2 *", "Europe/Berlin", "never due"),
        ("0 0 31 4,6,9,11 *", "", "never due in UTC"),
        ("0 * * * * *", "", "it has 6 fields"),
        ("* * * *", "", "it has 4 fields"),
        ("", "", "it has 0 fields"),
        ("99 * * * *", "", "`99 * * * *` is no time for a schedule: `99` is no minute, 0 to 59"),
        ("0 24 * * *", "", "`24` is no hour, 0 to 23"),
        ("0 0 0 * *", "", "`0` is no day of the month, 1 to 31"),
        ("0 0 1 1-13 *", "", "`1-13` is no month, 1 to 12 or JAN to DEC"),
        ("0 0 * * 8", "", "`8` is no day of the week, 0 to 7 or SUN to SAT"),
        ("@reboot", "", "is no time for a schedule"),
        ("@daily 0 0 * *", "", "stands alone"),
        ("0 0 * * @daily", "", "stands alone"),
        ("x y z a b", "", "`x` is no minute"),
        ("0 0 * * *", "Europe/Atlantis", "there is no time zone `Europe/Atlantis`"),
        ("0 0 * * *", "../../etc/passwd", "there is no time zone"),
    ] {
        let error = When::new(cron, zone).expect_err(cron).to_string();
        assert!(error.contains(said), "{cron}: {error}");
    }
}

/// A static binary in a container finds time zones where the machine has none.
#[test]
fn time_zones_are_part_of_the_program() {
    let bundled = jiff::tz::TimeZoneDatabase::bundled();
    for name in ["Europe/Berlin", "Asia/Kathmandu", "UTC"] {
        assert!(bundled.get(name).is_ok(), "{name}");
    }
}

fn row(cron: &str, handled: &str, run_missed: bool) -> ScheduleRow {
    let source = Source::Submission { template: "{}".into() };
    let (customer, name) = ("acme".into(), "nightly".into());
    let new = NewSchedule {
        customer,
        name,
        cron: cron.into(),
        time_zone: "Europe/Berlin".into(),
        source,
        run_missed,
        only_if_changed: false,
    };
    checked(new, at(handled)).expect("a schedule")
}

#[test]
fn a_due_time_is_run_once_and_those_that_were_missed_as_asked() {
    let handled = "2027-07-01T00:00Z";
    // Due at 01:00Z.
    let daily = "0 3 * * *";
    /// The due time, how many were missed, and whether it is run.
    type Expected = Option<(&'static str, u32, bool)>;
    #[rustfmt::skip]
    let rows: &[(&str, bool, &str, Expected)] = &[
        (daily, true, "2027-07-01T00:59:59.9Z", None),
        (daily, true, "2027-07-01T01:00Z", Some(("2027-07-01T01:00Z", 0, true))),
        (daily, false, "2027-07-01T01:01Z", Some(("2027-07-01T01:00Z", 0, true))),
        (daily, false, "2027-07-01T01:01:01Z", Some(("2027-07-01T01:00Z", 1, false))),
        (daily, true, "2027-07-04T00:00Z", Some(("2027-07-03T01:00Z", 3, true))),
        (daily, false, "2027-07-04T01:00:30Z", Some(("2027-07-04T01:00Z", 3, true))),
        ("* * * * *", true, "2028-07-01T00:00Z", Some(("2027-07-07T22:40Z", MOST_MISSED, true))),
    ];
    for (cron, run_missed, now, expected) in rows {
        let found = due(&[row(cron, handled, *run_missed)], at(now));
        let found: Vec<_> = found.iter().map(|due| (due.at, due.missed, due.runs)).collect();
        let expected: Vec<_> = expected.iter().map(|(time, missed, runs)| (at(time), *missed, *runs)).collect();
        assert_eq!(found, expected, "{cron} {run_missed} {now}");
    }
}

#[test]
fn a_clock_that_is_set_back_repeats_nothing() {
    let schedule = row("0 3 * * *", "2027-07-01T01:00:10Z", true);
    for now in ["2027-07-01T00:30Z", "2027-07-01T01:00:30Z", "2027-06-30T12:00Z"] {
        assert_eq!(due(std::slice::from_ref(&schedule), at(now)), [], "{now}");
        assert_eq!(next(&schedule, at(now)), Some(at("2027-07-02T01:00Z")), "{now}");
    }
    // The clock stood in another year: it is not waited for.
    assert_eq!(next(&schedule, at("2026-01-01T00:00Z")), Some(at("2026-01-01T02:00Z")));
    assert_eq!(sleep_until(&[], at("2026-01-01T00:00Z")), None);
    let other = row("0 2 * * *", "2027-07-01T01:00:10Z", true);
    assert_eq!(sleep_until(&[schedule, other], at("2027-07-01T12:00Z")), Some(at("2027-07-02T00:00Z")));
}

#[test]
fn what_would_be_an_option_or_lead_out_of_a_repository_is_refused() {
    let good = GitConfig {
        url: "https://example.org/p".into(),
        reference: "main".into(),
        path: "a/smidr.yaml".into(),
        targets: Vec::new(),
        variant: None,
    };
    assert!(check_git(&good).is_ok());
    let with = |change: fn(&mut GitConfig)| {
        let mut git = good.clone();
        change(&mut git);
        check_git(&git).expect_err("a wrong one").to_string()
    };
    assert!(with(|git| git.url = "--upload-pack=x".into()).contains("address"));
    assert!(with(|git| git.reference = "-x".into()).contains("branch or tag"));
    assert!(with(|git| git.path = "../smidr.yaml".into()).contains("path"));
    assert!(with(|git| git.path = "/etc/passwd".into()).contains("path"));
    assert!(with(|git| git.path = String::new()).contains("path"));
}

#[test]
fn pins_are_compared_for_configs_in_git() {
    let source = Source::Submission { template: "{}".into() };
    let git = Source::Git(GitConfig {
        url: "https://example.org/p".into(),
        reference: "main".into(),
        path: "smidr.yaml".into(),
        targets: Vec::new(),
        variant: None,
    });
    for (source, is_good) in [(source, false), (git, true)] {
        let (customer, name, cron) = ("acme".into(), "nightly".into(), "@daily".into());
        let new = NewSchedule {
            customer,
            name,
            cron,
            time_zone: String::new(),
            source,
            run_missed: true,
            only_if_changed: true,
        };
        assert_eq!(checked(new, at("2027-07-01T00:00Z")).is_ok(), is_good);
    }
}

/// A run, and its request id.
type Runs = Vec<(String, String)>;

/// Lets the loop start this many runs, then stops it.
fn run(ledger: &Ledger, count: usize, answer: impl Fn(&Due) -> Ran + Sync) -> Runs {
    let schedules = Schedules::new(ledger).expect("schedules");
    let (stop, seen, (told, heard)) = (StopToken::default(), Mutex::new(Vec::new()), mpsc::channel());
    thread::scope(|scope| {
        let looping = scope.spawn(|| {
            schedules.run(&stop, |due, _| {
                seen.lock().expect("a list").push((due.name.clone(), due.request_id()));
                told.send(()).expect("heard");
                answer(due)
            })
        });
        (0..count).for_each(|_| heard.recv().expect("a run"));
        stop.request(StopRequest::Graceful);
        looping.join().expect("the loop").expect("no error");
    });
    seen.into_inner().expect("a list")
}

#[test]
fn a_run_that_was_begun_by_a_killed_daemon_is_begun_again_as_the_same_build() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("daemon.db");
    let ledger = Ledger::open(&path).expect("a ledger");
    let mut killed = row("0 0 1 1 *", "2026-01-01T00:00Z", true);
    (killed.handled, killed.pending) = (Timestamp::now(), Some(at("2026-02-01T01:00Z")));
    let mut missed = row("* * * * *", "2026-01-01T00:00Z", true);
    missed.name = "minutely".into();
    let mut skipped = row("0 0 1 1 *", "2020-06-01T00:00Z", false);
    skipped.name = "yearly".into();
    // Of an earlier start.
    skipped.missed = 1000;
    for row in [killed, missed, skipped] {
        ledger.write_now(table::put(row, MOST)).expect("written");
    }
    drop(ledger);
    let ledger = Ledger::open(&path).expect("a ledger");
    let mut runs = run(&ledger, 2, |due| match due.name.as_str() {
        "nightly" => Ran::Started("acme-1".into(), Some("sha256:1".into())),
        _ => Ran::Failed("no such branch".into()),
    });
    runs.sort();
    let names: Vec<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["minutely", "nightly"]);
    assert_eq!(runs[1].1, "schedule/acme/nightly/2026-02-01T01:00:00Z");
    let all = ledger.read(table::all(u32::MAX)).expect("read");
    let of = |name: &str| all.iter().find(|row| row.name == name).expect(name).clone();
    let nightly = of("nightly");
    assert_eq!((nightly.pending, nightly.last_build.as_deref()), (None, Some("acme-1")));
    assert_eq!((nightly.pins.as_deref(), nightly.last_error), (Some("sha256:1"), None));
    let minutely = of("minutely");
    assert_eq!((minutely.pending, minutely.last_error.as_deref()), (None, Some("no such branch")));
    assert_eq!(minutely.missed, MOST_MISSED);
    assert!(minutely.last.is_some() && minutely.handled > at("2026-11-01T00:00Z"), "{minutely:?}");
    let yearly = of("yearly");
    assert!((6..1000).contains(&yearly.missed) && yearly.last.is_none() && yearly.last_build.is_none(), "{yearly:?}");
}

#[test]
fn a_run_that_is_not_due_is_one_run_and_leaves_the_due_times() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::open(&folder.path().join("daemon.db")).expect("a ledger");
    let schedules = Schedules::new(&ledger).expect("schedules");
    let known = row("0 3 * * *", "2027-07-01T00:00Z", true);
    ledger.write_now(table::put(known.clone(), MOST)).expect("written");
    let (first, later) = (at("2027-07-01T12:00:00.123456Z"), at("2027-07-01T12:00:01Z"));
    let begin = |time| schedules.begin("acme", "nightly", time);
    let due = begin(first).expect("begun").expect("a run");
    assert_eq!(due.request_id(), "schedule/acme/nightly/2027-07-01T12:00:00.123Z");
    assert_eq!(begin(first).expect("asked again").expect("a run").request_id(), due.request_id());
    assert!(matches!(begin(later), Err(ScheduleError::Starting(_))));
    assert!(schedules.begin("acme", "hourly", first).expect("read").is_none());
    assert!(schedules.begin("", "nightly", first).expect("read").is_none());
    schedules.finish(&due, Ran::Started("acme-1".into(), None));
    let ended = schedules.list().expect("read").remove(0);
    assert_eq!((ended.pending, ended.last_build.as_deref(), ended.handled), (None, Some("acme-1"), known.handled));
    assert!(ended.last.is_some() && begin(later).expect("begun").is_some());
}

#[test]
fn a_new_schedule_wakes_the_loop_and_a_replaced_one_hears_nothing_of_the_old_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::open(&folder.path().join("daemon.db")).expect("a ledger");
    let schedules = Schedules::new(&ledger).expect("schedules");
    let (stop, (told, heard)) = (StopToken::default(), mpsc::channel());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let create = |row: ScheduleRow| {
        let new = NewSchedule {
            customer: row.customer,
            name: row.name,
            cron: row.cron,
            time_zone: row.time_zone,
            source: serde_json::from_str(&row.source).expect("a source"),
            run_missed: true,
            only_if_changed: false,
        };
        runtime.block_on(schedules.create(new, row.handled)).expect("created")
    };
    thread::scope(|scope| {
        let looping = scope.spawn(|| {
            schedules.run(&stop, |due, _| {
                let (answer, wait) = mpsc::channel();
                told.send((due.clone(), answer)).expect("heard");
                wait.recv().expect("an answer")
            })
        });
        create(ScheduleRow { name: "first".into(), ..row("0 3 * * *", "2026-01-01T00:00Z", true) });
        let (_, first) = heard.recv().expect("a run");
        // The loop sleeps, or is about to.
        create(row("0 3 * * *", "2026-01-01T00:00Z", true));
        let (due, answer) = heard.recv().expect("a run");
        assert!(due.runs && due.missed > 0 && due.name == "nightly");
        first.send(Ran::Unchanged).expect("answered");
        create(row("0 0 1 1 *", &Timestamp::now().to_string(), true));
        answer.send(Ran::Started("acme-1".into(), None)).expect("answered");
        stop.request(StopRequest::Graceful);
        looping.join().expect("the loop").expect("no error");
    });
    let row = ledger
        .read(table::all(u32::MAX))
        .expect("read")
        .into_iter()
        .find(|row| row.customer == "acme" && row.name == "nightly")
        .expect("a row");
    assert_eq!((row.cron.as_str(), row.last_build, row.pending), ("0 0 1 1 *", None, None));
    assert!(runtime.block_on(schedules.delete("acme", "nightly")).expect("deleted"));
    assert!(!runtime.block_on(schedules.delete("acme", "nightly")).expect("nothing there"));
}

#[test]
fn what_a_schedule_says_is_bounded() {
    let git = |change: &dyn Fn(&mut GitConfig)| {
        let mut git = GitConfig {
            url: "https://example.org/x".into(),
            reference: "main".into(),
            path: "smidr.yaml".into(),
            targets: vec!["t".repeat(LONGEST_TARGET); MOST_TARGETS],
            variant: None,
        };
        change(&mut git);
        check_git(&git)
    };
    assert!(git(&|_| {}).is_ok());
    assert!(matches!(git(&|git| git.targets.push("t".into())), Err(ScheduleError::Targets)));
    assert!(matches!(git(&|git| git.targets[0].push('t')), Err(ScheduleError::Long { what: "target", .. })));
    assert!(matches!(git(&|git| git.variant = Some("a\0".into())), Err(ScheduleError::Git { what: "variant", .. })));
    assert!(matches!(git(&|git| git.url = "u".repeat(LONGEST_TEXT + 1)), Err(ScheduleError::Long { .. })));
    let list = format!("0{} * * * *", ",0".repeat(120));
    assert!(When::new(&list, "UTC").is_ok());
    assert!(matches!(When::new(&format!("{list} {list}"), "UTC"), Err(ScheduleError::Long { what: "time", .. })));
    assert!(matches!(When::new("@daily", &"z".repeat(257)), Err(ScheduleError::Long { what: "time zone", .. })));
}

#[test]
fn runs_of_one_customer_leave_room_for_others() {
    let busy = Busy::default();
    assert!(busy.take("acme") && busy.take("acme") && !busy.take("acme") && busy.take("other"));
    busy.give_back("acme");
    assert!(busy.take("acme") && !busy.take("acme"));
    assert_eq!((0..AT_ONCE).filter(|number| busy.take(&number.to_string())).count(), AT_ONCE - 3);
}

#[test]
fn large_submissions_are_read_for_their_run_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::open(&folder.path().join("daemon.db")).expect("a ledger");
    let schedules = Schedules::new(&ledger).expect("schedules");
    let template = "t".repeat(LONGEST_LISTED as usize);
    let source = serde_json::to_string(&Source::Submission { template }).expect("JSON");
    let (small, pending) = (row("0 0 1 1 *", "2026-01-01T00:00Z", true), at("2026-02-01T01:00Z"));
    let large = ScheduleRow { name: "large".into(), source: source.clone(), pending: Some(pending), ..small.clone() };
    for row in [large, small.clone()] {
        ledger.write_now(table::put(row, MOST)).expect("written");
    }
    let sources = |rows: Vec<ScheduleRow>| rows.into_iter().map(|row| row.source).collect::<Vec<_>>();
    assert_eq!(sources(schedules.list().expect("rows")), ["", &small.source]);
    assert_eq!(sources(schedules.times().expect("rows")), ["", ""]);
    let read = |at| ledger.read(|db| table::source(db, "acme", "large", at)).expect("read");
    assert_eq!((read(pending), read(at("2026-02-02T01:00Z"))), (Some(source), None));
}

#[test]
fn one_customer_has_only_so_many() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::open(&folder.path().join("daemon.db")).expect("a ledger");
    let schedules = Schedules::new(&ledger).expect("schedules");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let create = |customer: &str, number: u32| {
        let new = NewSchedule {
            customer: customer.into(),
            name: format!("s{number}"),
            cron: "@daily".into(),
            time_zone: String::new(),
            source: Source::Submission { template: String::new() },
            run_missed: false,
            only_if_changed: false,
        };
        runtime.block_on(schedules.create(new, Timestamp::UNIX_EPOCH)).map(drop)
    };
    assert!((0..MOST).all(|number| create("acme", number).is_ok()));
    assert!(matches!(create("acme", MOST), Err(ScheduleError::TooMany)));
    // Others have their own, and one is replaced.
    assert!(create("other", MOST).is_ok() && create("acme", 0).is_ok());
}
