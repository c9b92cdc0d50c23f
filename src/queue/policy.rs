//! Which of the builds that wait for a daemon start now, and why each other one does not. Pure: who runs, who waits and a budget go in.
//!
//! - *Order.* Next is the customer with the fewest builds for its weight, then the one with the fewest of the latest starts for its weight,
//!   then the one that waits longest. Within a customer the highest priority goes first, then the oldest.
//! - *Room.* A build that waits for memory or processors keeps what it asks for: those behind it get only what would be left if it ran too.
//!   One that asks for more than there is waits until it is alone, and holds back all behind it.
//! - *Workspaces.* A build whose workspace is busy keeps its place, and holds nothing back but builds of that workspace.
//! - With nothing running, the first one starts, whatever it asks for and whatever the pressure, unless the queue is paused.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    fmt,
};

use serde::Serialize;

use crate::model::BuildId;

/// How many of the latest starts count.
pub(crate) const RECENT: usize = 32;

/// A build that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// Its name.
    pub id: BuildId,
    /// Rises with each submission.
    pub seq: u64,
    /// Whose it is.
    pub customer: String,
    /// Higher goes first, within a customer.
    pub priority: i32,
    /// What it will write to.
    pub workspace: String,
    /// In bytes; none: not known, and counted as nothing.
    pub memory: Option<u64>,
    /// Processors; none: not known, and counted as nothing.
    pub cpus: Option<u32>,
}

/// A build that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// Its name.
    pub id: BuildId,
    /// Whose it is.
    pub customer: String,
    /// What it writes to.
    pub workspace: String,
    /// In bytes, as far as known.
    pub memory: Option<u64>,
    /// Processors, as far as known.
    pub cpus: Option<u32>,
}

/// What builds may use together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget {
    /// Nothing starts.
    pub paused: bool,
    /// How many run at once, at least one.
    pub builds: u32,
    /// In bytes; none: not limited.
    pub memory: Option<u64>,
    /// Processors; none: not limited.
    pub cpus: Option<u32>,
    /// Of customers; 1 for those that are not named.
    pub weights: BTreeMap<String, u32>,
    /// Whose builds were started last; the last [`RECENT`] count.
    pub recent: Vec<String>,
    /// What this machine has too little of at the moment.
    pub pressure: Option<Pressure>,
}

/// What processes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Resource {
    /// A processor.
    Cpu,
    /// Memory.
    Memory,
    /// A disk.
    Io,
}

/// That processes wait for a resource (PSI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pressure {
    /// Which one.
    pub resource: Resource,
    /// For how much of the time, in percent.
    pub percent: u32,
}

/// Why a build does not start yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub(crate) enum Why {
    /// The queue is paused.
    Paused,
    /// As many run as may.
    Builds {
        /// How many that is.
        running: u32,
    },
    /// Other builds use the memory.
    Memory {
        /// By this build, in bytes.
        needed: u64,
        /// By those that run.
        used: u64,
        /// All that builds may use.
        total: u64,
        /// The one that uses most.
        by: Option<BuildId>,
        /// How many others use some.
        others: u32,
    },
    /// Other builds use the processors.
    Cpus {
        /// By this build.
        needed: u32,
        /// By those that run.
        used: u32,
        /// All that builds may use.
        total: u32,
        /// The one that uses most.
        by: Option<BuildId>,
        /// How many others use some.
        others: u32,
    },
    /// Another build of the same workspace runs, or goes first.
    Workspace {
        /// That build; none: of another customer.
        by: Option<BuildId>,
    },
    /// The machine has too little of something.
    Pressure(Pressure),
    /// A build before it needs the room.
    Turn {
        /// That build; none: of another customer.
        before: Option<BuildId>,
    },
}

impl Why {
    /// The same without the names of builds that the caller may not see.
    #[must_use]
    pub(crate) fn hiding(mut self, may_see: impl Fn(&BuildId) -> bool) -> Self {
        if let Self::Memory { by, .. } | Self::Cpus { by, .. } | Self::Workspace { by } | Self::Turn { before: by } =
            &mut self
        {
            by.take_if(|id| !may_see(id));
        }
        self
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("the queue is paused"),
            Self::Builds { running: 1 } => f.write_str("1 build runs, and no more may"),
            Self::Builds { running } => write!(f, "{running} builds run, and no more may"),
            Self::Memory { used, total, by, others, .. } => {
                write!(f, "memory: {} of {} GiB are used by {}", gib(*used), gib(*total), users(by.as_ref(), *others))
            }
            Self::Cpus { used, total, by, others, .. } => {
                write!(f, "processors: {used} of {total} are used by {}", users(by.as_ref(), *others))
            }
            Self::Workspace { by: Some(id) } => write!(f, "its workspace is taken by {id}"),
            Self::Workspace { by: None } => f.write_str("its workspace is taken by another build"),
            Self::Pressure(Pressure { resource, percent }) => {
                let what = match resource {
                    Resource::Cpu => "processors",
                    Resource::Memory => "memory",
                    Resource::Io => "disks",
                };
                write!(f, "pressure: processes wait for {what} {percent}% of the time")
            }
            Self::Turn { before: Some(id) } => write!(f, "the room is kept for {id}, which is before it"),
            Self::Turn { before: None } => f.write_str("the room is kept for a build before it"),
        }
    }
}

fn users(by: Option<&BuildId>, others: u32) -> String {
    match (by, others) {
        (Some(id), 0) => id.to_string(),
        (Some(id), 1) => format!("{id} and 1 other"),
        (Some(id), others) => format!("{id} and {others} others"),
        (None, 0) => "1 build".into(),
        (None, others) => format!("{} builds", others + 1),
    }
}

fn gib(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 30);
    let (whole, rest) = (tenths / 10, tenths % 10);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest}") }
}

/// What becomes of a build that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The build.
    pub id: BuildId,
    /// Its place among those that go on waiting, from 1; 0 where it starts.
    pub position: u32,
    /// None: it starts now.
    pub why: Option<Why>,
}

/// Decides for every build that waits: first those that start now, then the others in the order in which they are expected to.
pub(crate) fn decide(running: &[Running], waiting: &[Waiting], budget: &Budget) -> Vec<Decision> {
    let mut room = Room::new(running, budget);
    let mut turns = Turns::new(running, waiting, budget);
    let (mut starts, mut rest) = (Vec::new(), Vec::new());
    while let Some(build) = turns.next() {
        let why = room.refuses(build);
        // What only waits for its own workspace takes nothing from its customer.
        if !matches!(why, Some(Why::Workspace { .. })) {
            turns.count(build);
        }
        match why {
            None => {
                room.start(build);
                starts.push(Decision { id: build.id.clone(), position: 0, why: None });
            }
            Some(why) => {
                let position = u32::try_from(rest.len() + 1).unwrap_or(u32::MAX);
                rest.push(Decision { id: build.id.clone(), position, why: Some(why) });
            }
        }
    }
    starts.extend(rest);
    starts
}

/// Whose turn it is.
struct Turns<'a> {
    lines: Vec<Line<'a>>,
}

/// The builds of one customer, in order.
struct Line<'a> {
    customer: &'a str,
    weight: u64,
    running: u64,
    recent: u64,
    builds: VecDeque<&'a Waiting>,
}

impl<'a> Turns<'a> {
    fn new(running: &[Running], waiting: &'a [Waiting], budget: &Budget) -> Self {
        let mut of: BTreeMap<&str, Vec<&Waiting>> = BTreeMap::new();
        waiting.iter().for_each(|build| of.entry(&build.customer).or_default().push(build));
        let recent = || budget.recent.iter().rev().take(RECENT);
        let line = |(customer, mut builds): (&'a str, Vec<&'a Waiting>)| {
            builds.sort_by_key(|build| (std::cmp::Reverse(build.priority), build.seq));
            Line {
                customer,
                weight: budget.weights.get(customer).copied().unwrap_or(1).max(1).into(),
                running: running.iter().filter(|build| build.customer == customer).count() as u64,
                recent: recent().filter(|known| *known == customer).count() as u64,
                builds: builds.into(),
            }
        };
        Self { lines: of.into_iter().map(line).collect() }
    }

    fn next(&mut self) -> Option<&'a Waiting> {
        let line =
            self.lines.iter_mut().filter(|line| !line.builds.is_empty()).min_by(|one, other| one.order(other))?;
        line.builds.pop_front()
    }

    fn count(&mut self, build: &Waiting) {
        for line in self.lines.iter_mut().filter(|line| line.customer == build.customer) {
            line.running += 1;
            line.recent += 1;
        }
    }
}

impl Line<'_> {
    fn order(&self, other: &Self) -> Ordering {
        let first = |line: &Self| line.builds.front().map(|build| build.seq);
        (self.running * other.weight)
            .cmp(&(other.running * self.weight))
            .then((self.recent * other.weight).cmp(&(other.recent * self.weight)))
            .then(first(self).cmp(&first(other)))
    }
}

/// What is left of the budget.
struct Room<'a> {
    budget: &'a Budget,
    builds: u32,
    memory: Used<'a>,
    cpus: Used<'a>,
    workspaces: BTreeMap<&'a str, &'a BuildId>,
    /// The first build that waits for room.
    head: Option<&'a BuildId>,
    /// The first that has to be alone.
    alone: Option<&'a BuildId>,
}

/// How much of a resource is used.
#[derive(Default)]
struct Used<'a> {
    by: Vec<(u64, &'a BuildId)>,
    /// By builds that run.
    now: u64,
    /// Kept for builds that wait.
    kept: u64,
}

impl<'a> Used<'a> {
    fn add(&mut self, amount: u64, id: &'a BuildId) {
        if amount > 0 {
            self.now = self.now.saturating_add(amount);
            self.by.push((amount, id));
        }
    }

    fn has(&self, amount: u64, total: Option<u64>) -> Fit {
        let with = |used: u64| used.saturating_add(amount);
        match total {
            Some(total) if amount > 0 && with(self.now) > total => Fit::Used,
            Some(total) if amount > 0 && with(self.now.saturating_add(self.kept)) > total => Fit::Kept,
            _ => Fit::Yes,
        }
    }

    /// The build that uses most, and how many others use some.
    fn users(&self) -> (Option<BuildId>, u32) {
        let most = self.by.iter().max_by_key(|(amount, _)| *amount).map(|(_, id)| (*id).clone());
        (most, u32::try_from(self.by.len().saturating_sub(1)).unwrap_or(u32::MAX))
    }
}

/// Whether something fits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    /// Not beside what runs.
    Used,
    /// Not beside what waits before it.
    Kept,
}

impl<'a> Room<'a> {
    fn new(running: &'a [Running], budget: &'a Budget) -> Self {
        let mut room = Self {
            budget,
            builds: u32::try_from(running.len()).unwrap_or(u32::MAX),
            memory: Used::default(),
            cpus: Used::default(),
            workspaces: BTreeMap::new(),
            head: None,
            alone: None,
        };
        for build in running {
            room.memory.add(build.memory.unwrap_or(0), &build.id);
            room.cpus.add(build.cpus.unwrap_or(0).into(), &build.id);
            room.workspaces.insert(&build.workspace, &build.id);
        }
        room
    }

    fn start(&mut self, build: &'a Waiting) {
        self.builds = self.builds.saturating_add(1);
        self.memory.add(build.memory.unwrap_or(0), &build.id);
        self.cpus.add(build.cpus.unwrap_or(0).into(), &build.id);
    }

    /// Why a build cannot start; keeps what it needs where that is room.
    fn refuses(&mut self, build: &'a Waiting) -> Option<Why> {
        if self.budget.paused {
            return Some(Why::Paused);
        }
        // Also one that waits has its workspace: a later build would overtake it there.
        if let Some(by) = self.workspaces.get(build.workspace.as_str()) {
            return Some(Why::Workspace { by: Some((*by).clone()) });
        }
        self.workspaces.insert(&build.workspace, &build.id);
        if self.builds == 0 {
            return None;
        }
        if self.builds >= self.budget.builds.max(1) {
            return Some(Why::Builds { running: self.builds });
        }
        if let Some(pressure) = self.budget.pressure {
            return Some(Why::Pressure(pressure));
        }
        if let Some(alone) = self.alone {
            return Some(Why::Turn { before: Some(alone.clone()) });
        }
        self.lacks(build)
    }

    fn lacks(&mut self, build: &'a Waiting) -> Option<Why> {
        let (memory, cpus) = (build.memory.unwrap_or(0), build.cpus.unwrap_or(0));
        let (all_memory, all_cpus) = (self.budget.memory, self.budget.cpus.map(u64::from));
        let fits = [self.memory.has(memory, all_memory), self.cpus.has(cpus.into(), all_cpus)];
        let why = match fits {
            [Fit::Yes, Fit::Yes] => return None,
            [Fit::Used, _] => {
                let (by, others) = self.memory.users();
                let (used, total) = (self.memory.now, all_memory.unwrap_or(0));
                Why::Memory { needed: memory, used, total, by, others }
            }
            [_, Fit::Used] => {
                let (by, others) = self.cpus.users();
                let used = u32::try_from(self.cpus.now).unwrap_or(u32::MAX);
                Why::Cpus { needed: cpus, used, total: self.budget.cpus.unwrap_or(0), by, others }
            }
            _ => Why::Turn { before: self.head.cloned() },
        };
        self.head = self.head.or(Some(&build.id));
        if all_memory.is_some_and(|all| memory > all) || all_cpus.is_some_and(|all| u64::from(cpus) > all) {
            self.alone = Some(&build.id);
        }
        self.memory.kept = self.memory.kept.saturating_add(memory);
        self.cpus.kept = self.cpus.kept.saturating_add(cpus.into());
        Some(why)
    }
}

#[cfg(test)]
mod tests;
