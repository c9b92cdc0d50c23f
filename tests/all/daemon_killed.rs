//! SIGKILL of the daemon at fifty random moments, with builds running and queued: none is lost, and none runs twice.

use std::{collections::BTreeSet, thread, time::Duration};

use super::{
    daemon_fixture::Served,
    daemon_fuzz::Random,
    support::{LONG, World, wait_for},
    trouble::recipe,
};

const ROUNDS: usize = 50;

/// Customers, of whom each third round has a build of all, and the others of one: some builds run and some wait at every moment.
const CUSTOMERS: usize = 3;

#[test]
#[ignore = "takes minutes: scripts/test --slow"]
fn kill_9_of_the_daemon_at_any_moment() {
    let Some(served) = Served::new("daemon_killed::kill_9_of_the_daemon_at_any_moment") else { return };
    served.settings("limits: {builds: 2}\n");
    recipe(&served, "quick", "    true");
    let mut random = Random::seeded();
    let mut answered = BTreeSet::new();
    for round in 0..ROUNDS {
        // Some are answered before the daemon is gone, and some try until it is there again.
        let builds = if round % 3 == 0 { CUSTOMERS } else { 1 };
        let starts: Vec<_> = (0..builds)
            .map(|number| {
                let customer = format!("c{number}");
                served.client(&["start", "--clean", "--target", "quick", "--customer", &customer]).start()
            })
            .collect();
        thread::sleep(Duration::from_millis(random.below(1500) as u64));
        served.kill();
        thread::sleep(Duration::from_millis(random.below(500) as u64));
        served.begin();
        for start in starts {
            let done = start.wait();
            // One that came while none listened was told so.
            if done.code == Some(0) {
                let id = done.out.trim_end().strip_prefix("Build ID: ").expect("an id").to_owned();
                assert!(answered.insert(id), "round {round}: an id twice");
            }
        }
    }
    let states = || {
        let list = served.client(&["list", "--limit", "1000", "--json"]).run().expect_code(0).json();
        list["builds"].as_array().expect("a list").clone()
    };
    wait_for("the queue to be empty", 5 * LONG, || states().iter().all(|build| build["ended"].is_string()));
    let known: BTreeSet<String> = World::names(&served.smidr.join("builds")).into_iter().collect();
    for id in &answered {
        assert!(known.contains(id), "{id} is lost");
    }
    for id in &known {
        let records = served.journal(id);
        let count = |event: &str| records.iter().filter(|record| record["event"] == event).count();
        assert_eq!((count("build_started"), count("finished")), (1, 1), "{id}");
        assert_eq!(records.last().expect("a record")["outcome"]["state"], "COMPLETED", "{id}: {:?}", records.last());
        let acts = records.iter().filter(|record| record["event"] == "task_started" && record["task"] == "do_act");
        assert_eq!(acts.count(), 1, "{id}");
    }
    assert!(answered.len() > ROUNDS, "most were answered: {}", answered.len());
    served.until_only_the_daemon();
}
