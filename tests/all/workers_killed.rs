//! SIGKILL at a hundred random moments: the record is true soon, nothing is left running, and the next build works.

use std::{
    collections::BTreeSet,
    io::Write as _,
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    support::{LONG, World, wait_for},
    workers::{Alone, SOON},
};

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Worker,
    Reader,
    Foreground,
    ForegroundOfSeveral,
    All,
}

const VICTIMS: [Victim; 5] =
    [Victim::Worker, Victim::Reader, Victim::Foreground, Victim::ForegroundOfSeveral, Victim::All];

const ROUNDS: usize = 100;

/// xorshift64 (Marsaglia, 2003): the seed is told, so that a run can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

fn builds(world: &World) -> Vec<Value> {
    let status = world.smidr().args(["status", "--all", "--json"]).run();
    status.expect_code(0).json()["builds"].as_array().expect("a list").clone()
}

fn id(build: &Value) -> String {
    build["id"].as_str().expect("an id").to_owned()
}

fn kill_all(world: &Alone) {
    for pid in world.processes().iter().filter_map(|line| line.split(' ').next()?.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[test]
#[ignore = "takes minutes: scripts/test --slow"]
fn kill_9_at_any_moment() {
    let Some(world) = Alone::new("workers_killed::kill_9_at_any_moment") else { return };
    world.settings("limits: {builds: 8}\n");
    world.append("variants:\n  a: {build: {image: hello}}\n  b: {build: {image: libgreet}}\n");
    let build = ["build", "--clean", "--variant", "a"];
    world.smidr().args(build).run().expect_code(0);
    let begun = Instant::now();
    world.smidr().args(build).run().expect_code(0);
    let whole = u64::try_from(begun.elapsed().as_millis()).expect("not for ever");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let seed = std::env::var("SMIDR_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(now.as_nanos() as u64 | 1);
    let _ = writeln!(std::io::stderr(), "SMIDR_TEST_SEED={seed}, {whole} ms for a build");
    let mut random = Random(seed);
    let mut known: BTreeSet<String> = builds(&world).iter().map(id).collect();
    for (round, victim) in (0..ROUNDS).zip(VICTIMS.iter().cycle()) {
        let moment = Duration::from_millis(random.below(whole * 11 / 10));
        let what = format!("round {round}: {victim:?} after {moment:?}");
        match victim {
            Victim::Worker | Victim::Reader => {
                let id = world.detached(&build[1..]);
                let worker = world.worker(&id);
                let mut reader = world.smidr().args(["logs", "--follow", &id]).start();
                thread::sleep(moment);
                if let Victim::Worker = victim {
                    // It may be over.
                    let _ = kill(worker, Signal::SIGKILL);
                    reader.wait().expect_code(0);
                } else {
                    reader.signal(Signal::SIGKILL);
                    let _ = reader.child.wait();
                    world.until_state(&id, "COMPLETED");
                }
            }
            Victim::Foreground | Victim::ForegroundOfSeveral => {
                let more: &[&str] = if let Victim::Foreground = victim { &[] } else { &["--variant", "b"] };
                let mut running = world.smidr().args(build).args(more).start();
                thread::sleep(moment);
                running.signal(Signal::SIGKILL);
                let _ = running.child.wait();
            }
            Victim::All => {
                let several = world.smidr().args(build).args(["--variant", "b"]).start();
                let apart = world.smidr().args(["build", "--wait", "--detach", "--target", "hello"]).start();
                thread::sleep(moment);
                kill_all(&world);
                drop((several, apart));
            }
        }
        let is_over = |build: &Value| build["outcome"]["state"] == build["state"];
        wait_for(&format!("a true record, {what}"), SOON, || builds(&world).iter().all(is_over));
        world.until_quiet();
        for build in builds(&world).iter().filter(|build| !known.contains(&id(build))) {
            let end = world.journal(&id(build)).pop().expect("a record");
            assert_eq!(end["outcome"], build["outcome"], "{what}");
            let state = build["state"].as_str().expect("a state");
            assert!(["INTERRUPTED", "COMPLETED"].contains(&state), "{what}: {build}");
        }
        known = builds(&world).iter().map(id).collect();
        if round % 10 == 9 {
            world.smidr().args(build).run().expect_code(0);
            known = builds(&world).iter().map(id).collect();
            assert_eq!(World::names(&world.smidr.join("queue")), ["order.lock"], "{what}");
        }
    }
    // The index is what the journals say.
    let before = builds(&world);
    world.smidr().args(["history", "rebuild"]).run().expect_code(0);
    assert_eq!(builds(&world), before);
    wait_for("nothing to be left", LONG, || world.processes().is_empty());
}
