//! Decisions in tables, and rules that hold for any builds.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

fn id(number: u64) -> BuildId {
    BuildId::new("b", u32::try_from(number).expect("small")).expect("a good name")
}

/// A build with a workspace of its own.
fn build(customer: &str, seq: u64) -> Waiting {
    let (id, workspace) = (id(seq), format!("w{seq}"));
    Waiting { id, seq, customer: customer.into(), priority: 0, workspace, memory: None, cpus: None }
}

fn run(build: &Waiting) -> Running {
    Running {
        id: build.id.clone(),
        customer: build.customer.clone(),
        workspace: build.workspace.clone(),
        memory: build.memory,
        cpus: build.cpus,
    }
}

/// One line for each decision: its number, and why it waits.
fn told(running: &[Waiting], waiting: &[Waiting], budget: &Budget) -> Vec<String> {
    let running: Vec<Running> = running.iter().map(run).collect();
    let line = |decision: Decision| {
        let number = decision.id.as_str().trim_start_matches("b-").trim_start_matches('0').to_owned();
        decision.why.map_or(number.clone(), |why| format!("{} {number}: {why}", decision.position))
    };
    decide(&running, waiting, budget).into_iter().map(line).collect()
}

#[test]
fn customers_take_turns() {
    let waiting: Vec<Waiting> = (1..=3).map(|seq| build("a", seq)).chain([build("b", 4)]).collect();
    let one = Budget { builds: 1, ..Budget::default() };
    let full = "1 build runs, and no more may";
    // The oldest first, then the customer with one before the one with many.
    assert_eq!(
        told(&[], &waiting, &one),
        ["1".into(), format!("1 4: {full}"), format!("2 2: {full}"), format!("3 3: {full}")]
    );
    // With one place, nothing runs when it is given away: the latest starts count.
    let after = Budget { recent: vec!["a".into()], ..one.clone() };
    assert_eq!(told(&[], &waiting[1..], &after)[0], "4");
    let two = Budget { builds: 2, ..Budget::default() };
    assert_eq!(told(&[build("a", 9)], &waiting, &two)[0], "4");
    // Three of `a` for each of `b`.
    let waiting: Vec<Waiting> = (1..=4).map(|seq| build("b", seq)).chain((5..=9).map(|seq| build("a", seq))).collect();
    let weighted = Budget { builds: 4, weights: [("a".into(), 3)].into(), ..Budget::default() };
    assert_eq!(told(&[], &waiting, &weighted)[..4], ["1", "5", "6", "7"]);
}

#[test]
fn priority_counts_within_a_customer() {
    let waiting = [build("a", 1), Waiting { priority: 5, ..build("a", 2) }, Waiting { priority: 9, ..build("b", 3) }];
    let order = told(&[], &waiting, &Budget { builds: 9, ..Budget::default() });
    assert_eq!(order, ["2", "3", "1"]);
}

#[test]
fn each_reason_is_told() {
    let sized = |seq, memory, cpus| Waiting { memory: Some(memory * GIB), cpus: Some(cpus), ..build("a", seq) };
    let budget = Budget { builds: 9, memory: Some(24 * GIB), cpus: Some(16), ..Budget::default() };
    let running = [sized(1, 12, 2), sized(2, 7, 2), sized(3, 1, 2)];
    let rows: [(Budget, Vec<Waiting>, &[&str]); 7] = [
        (Budget { paused: true, ..budget.clone() }, vec![sized(4, 1, 1)], &["1 4: the queue is paused"]),
        (Budget { builds: 3, ..budget.clone() }, vec![sized(4, 1, 1)], &["1 4: 3 builds run, and no more may"]),
        (budget.clone(), vec![sized(4, 8, 1)], &["1 4: memory: 20 of 24 GiB are used by b-00000001 and 2 others"]),
        (
            budget.clone(),
            vec![sized(4, 1, 11), build("a", 5), sized(6, 1, 1)],
            &[
                "5",
                "1 4: processors: 6 of 16 are used by b-00000003 and 2 others",
                "2 6: the room is kept for b-00000004, which is before it",
            ],
        ),
        // What the first one could not use anyway.
        (
            Budget { cpus: Some(8), memory: Some(64 * GIB), ..budget.clone() },
            vec![sized(4, 1, 3), Waiting { cpus: None, ..sized(5, 43, 0) }, Waiting { cpus: None, ..sized(6, 1, 0) }],
            &[
                "5",
                "1 4: processors: 6 of 8 are used by b-00000003 and 2 others",
                "2 6: the room is kept for b-00000004",
            ],
        ),
        // More than there is.
        (
            budget.clone(),
            vec![sized(4, 99, 1), build("a", 5)],
            &["1 4: memory: 20 of", "2 5: the room is kept for b-00000004"],
        ),
        (
            Budget { pressure: Some(Pressure { resource: Resource::Io, percent: 91 }), ..budget.clone() },
            vec![sized(4, 1, 1), Waiting { workspace: "w1".into(), ..sized(5, 1, 1) }],
            &["1 4: pressure: processes wait for disks 91% of the time", "2 5: its workspace is taken by b-00000001"],
        ),
    ];
    for (budget, waiting, wanted) in rows {
        let told = told(&running, &waiting, &budget);
        assert!(told.len() == wanted.len(), "{told:#?}");
        told.iter().zip(wanted).for_each(|(line, start)| assert!(line.starts_with(start), "{told:#?}"));
    }
}

#[test]
fn a_busy_workspace_holds_back_nothing_else() {
    let of = |workspace: &str, seq| Waiting { workspace: workspace.into(), ..build("a", seq) };
    let budget = Budget { builds: 3, ..Budget::default() };
    let waiting = [of("x", 2), of("y", 3), of("y", 4), of("z", 5)];
    let taken = |number: u64| format!("its workspace is taken by b-0000000{number}");
    let wanted = ["3".into(), "5".into(), format!("1 2: {}", taken(1)), format!("2 4: {}", taken(3))];
    assert_eq!(told(&[of("x", 1)], &waiting, &budget), wanted);
}

#[test]
fn names_of_others_are_hidden() {
    let why = Why::Memory { needed: GIB, used: 20 * GIB + 1, total: 24 * GIB, by: Some(id(1)), others: 2 };
    assert_eq!(why.clone().hiding(|_| true), why);
    assert_eq!(why.hiding(|_| false).to_string(), "memory: 20.1 of 24 GiB are used by 3 builds");
    let workspace = Why::Workspace { by: Some(id(1)) }.hiding(|_| false);
    assert_eq!(workspace.to_string(), "its workspace is taken by another build");
    let turn = Why::Turn { before: Some(id(1)) }.hiding(|_| false);
    assert_eq!(turn.to_string(), "the room is kept for a build before it");
    let workspace = Why::Workspace { by: Some(id(1)) }.hiding(|_| false);
    assert_eq!(workspace.to_string(), "its workspace is taken by another build");
}

fn any_build() -> impl Strategy<Value = Waiting> {
    let memory = prop_oneof![Just(None), (0..30 * GIB).prop_map(Some)];
    let cpus = prop_oneof![Just(None), (0..20_u32).prop_map(Some)];
    (0..4_u32, -2..3, 0..8_u32, memory, cpus).prop_map(|(customer, priority, workspace, memory, cpus)| Waiting {
        customer: format!("c{customer}"),
        priority,
        workspace: format!("w{workspace}"),
        memory,
        cpus,
        ..build("", 0)
    })
}

fn any_budget() -> impl Strategy<Value = Budget> {
    let pressure = Pressure { resource: Resource::Cpu, percent: 90 };
    let pressure = prop_oneof![3 => Just(None), 1 => Just(Some(pressure))];
    let memory = prop_oneof![Just(None), (0..24 * GIB).prop_map(Some)];
    let cpus = prop_oneof![Just(None), (0..16_u32).prop_map(Some)];
    let recent = proptest::collection::vec((0..4_u32).prop_map(|customer| format!("c{customer}")), 0..40);
    let rest = (prop::bool::weighted(0.1), 0..5_u32, 0..4_u32, recent);
    (rest, memory, cpus, pressure).prop_map(|((paused, builds, weight, recent), memory, cpus, pressure)| Budget {
        paused,
        builds,
        memory,
        cpus,
        weights: [("c1".into(), weight)].into(),
        recent,
        pressure,
    })
}

fn numbered(builds: Vec<Waiting>, from: u64) -> Vec<Waiting> {
    let number = |(seq, build)| Waiting { seq, id: id(seq), ..build };
    (from..).zip(builds).map(number).collect()
}

/// What runs after all starts, beginning with nothing.
fn settled(first: &[Waiting], budget: &Budget) -> Vec<Running> {
    let decisions = decide(&[], first, &Budget { paused: false, pressure: None, ..budget.clone() });
    let starts = decisions.iter().filter(|decision| decision.why.is_none());
    starts.filter_map(|start| first.iter().find(|build| build.id == start.id)).map(run).collect()
}

proptest! {
    #[test]
    fn no_budget_is_exceeded_and_each_build_is_decided_once(
        first in proptest::collection::vec(any_build(), 0..8),
        waiting in proptest::collection::vec(any_build(), 0..20),
        budget in any_budget(),
    ) {
        let running = settled(&numbered(first, 1), &budget);
        let waiting = numbered(waiting, 100);
        let decisions = decide(&running, &waiting, &budget);
        let decided: BTreeSet<&BuildId> = decisions.iter().map(|decision| &decision.id).collect();
        prop_assert_eq!(decided.len(), waiting.len());
        prop_assert_eq!(decisions.len(), waiting.len());
        let started = decisions.iter().filter(|decision| decision.why.is_none()).count();
        // Those that start come first, the others are counted.
        for (at, decision) in decisions.iter().enumerate() {
            prop_assert_eq!(decision.why.is_none(), at < started);
            let position = (at + 1).saturating_sub(started);
            prop_assert_eq!(decision.position as usize, position);
        }
        let starts = decisions.iter().take(started);
        let starts = starts.filter_map(|start| waiting.iter().find(|build| build.id == start.id)).map(run);
        let all: Vec<Running> = running.iter().cloned().chain(starts).collect();
        if started > 0 && all.len() > 1 {
            prop_assert!(all.len() <= budget.builds.max(1) as usize);
            let (memory, cpus): (u64, u32) =
                all.iter().fold((0, 0), |(memory, cpus), build| {
                    (memory + build.memory.unwrap_or(0), cpus + build.cpus.unwrap_or(0))
                });
            // One that was alone may have more than there is: then those beside it have nothing.
            let users = all.iter().filter(|build| build.memory.unwrap_or(0) > 0).count();
            prop_assert!(budget.memory.is_none_or(|most| memory <= most || users == 1));
            let users = all.iter().filter(|build| build.cpus.unwrap_or(0) > 0).count();
            prop_assert!(budget.cpus.is_none_or(|most| cpus <= most || users == 1));
        }
        let workspaces: BTreeSet<&str> = all.iter().map(|build| build.workspace.as_str()).collect();
        prop_assert_eq!(workspaces.len(), all.len());
        if running.is_empty() && !waiting.is_empty() {
            prop_assert_eq!(started == 0, budget.paused);
        }
        if budget.paused || budget.pressure.is_some() && !running.is_empty() {
            prop_assert_eq!(started, 0);
        }
        // In whatever order they are given.
        let backwards: Vec<Waiting> = waiting.iter().rev().cloned().collect();
        prop_assert_eq!(decide(&running, &backwards, &budget), decisions);
    }

    /// Others send builds without end, each a few steps long; one that asks for much still starts.
    #[test]
    fn no_build_starves(
        lasting in proptest::collection::vec(1..6_u64, 16),
        sizes in proptest::collection::vec(2..8_u64, 16),
        wanted in 16..40_u64,
        own in prop::bool::ANY,
        builds in 3..6_u32,
    ) {
        let mut budget = Budget { builds, memory: Some(24 * GIB), ..Budget::default() };
        let customer = if own { "c0" } else { "big" };
        let big = Waiting { memory: Some(wanted * GIB), ..build(customer, 1150) };
        let (mut running, mut waiting): (Vec<(Running, u64)>, Vec<Waiting>) = (Vec::new(), Vec::new());
        let mut started_at = None;
        for step in 0..400_u64 {
            running.retain(|(_, until)| *until > step);
            if step == 50 {
                waiting.push(big.clone());
            }
            let pick = |list: &[u64], at: u64| list[at as usize % list.len()];
            for number in 0..2 {
                let seq = 1000 + 3 * step + number;
                let size = pick(&sizes, seq);
                                // Only so many wait at once.
                if waiting.len() < 12 {
                    waiting.push(Waiting { memory: Some(size * GIB), ..build(&format!("c{}", seq % 3), seq) });
                }
            }
            let now: Vec<Running> = running.iter().map(|(build, _)| build.clone()).collect();
            for start in decide(&now, &waiting, &budget).into_iter().take_while(|decision| decision.why.is_none()) {
                let at = waiting.iter().position(|build| build.id == start.id).expect("it waits");
                let build = waiting.remove(at);
                if build.id == big.id {
                    started_at = Some(step);
                }
                budget.recent.push(build.customer.clone());
                running.push((run(&build), step + pick(&lasting, build.seq)));
            }
            if started_at.is_some() {
                break;
            }
        }
        prop_assert!(started_at.is_some(), "not within 350 steps");
    }
}
