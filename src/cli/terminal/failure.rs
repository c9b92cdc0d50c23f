//! How a build is told that failed: what BitBake says, once, and the block at the end with what, where, why and what to type. In go records,
//! out come texts. It never prints.

use std::collections::{BTreeMap, HashSet, VecDeque};

use anstyle::AnsiColor;
use jiff::Timestamp;

use super::{
    super::{
        output::{duration, paint},
        times::between,
    },
    missing,
};
use crate::{
    bitbake::log,
    model::{BuildId, Certainty, Event, FailedTask, Hint, Kind, Outcome, Record, State, TaskName},
};

/// How many errors wait for their task or for the end; each that comes later is told at once.
const HELD: usize = 100;

/// How many lines of a failed task's log are shown, of those that matter.
const EXCERPT: usize = 30;

/// How many failed tasks are told at the end.
const TOLD: usize = 10;

/// Of failures that have a diagnosis: how many are told, and how much of the advice for the first.
const EXPLAINED: usize = 2;
const ADVICE: usize = 2;

/// How many lines of BitBake's errors are told where no task failed.
const REASON_LINES: usize = 5;

/// How many other failed tasks are named.
const NAMED: usize = 4;

/// How many of the last lines of the console are shown where nothing else says why.
const CONSOLE: usize = 20;

/// What went wrong so far.
#[derive(Default)]
pub(super) struct Troubles {
    begun: Option<Timestamp>,
    collecting: bool,
    held: Vec<(Option<TaskName>, String)>,
    // Warnings of tasks that were told.
    warned: HashSet<String>,
    // Its place in the queue and the time of its end, of each task that failed.
    failed: BTreeMap<TaskName, Place>,
    running: BTreeMap<u32, Place>,
    console: VecDeque<String>,
    // Whether the build is a daemon's that is not the caller's own.
    pub(super) elsewhere: bool,
}

#[derive(Clone, Copy, Default)]
struct Place {
    index: u64,
    total: u64,
    ended: Option<Timestamp>,
}

impl Troubles {
    /// Takes what has happened.
    pub(super) fn note(&mut self, record: &Record) {
        match &record.event {
            Event::BuildStarted { .. } => self.begun = Some(record.at),
            Event::TaskStarted { pid, index, total, setscene: false, .. } if self.running.len() < 10_000 => {
                self.running.insert(*pid, Place { index: *index, total: *total, ended: None });
            }
            Event::TaskEnded { pid, name, ok, setscene: false, .. } => {
                let place = self.running.remove(pid);
                if !ok && self.failed.len() < 1000 {
                    self.failed.insert(name.clone(), Place { ended: Some(record.at), ..place.unwrap_or_default() });
                }
            }
            Event::Message { level: crate::model::Level::Warning, text, task: Some(_) } if self.warned.len() < HELD => {
                self.warned.insert(text.clone());
            }
            _ => {}
        }
    }

    /// Artifacts are gathered now.
    pub(super) fn collecting(&mut self) {
        self.collecting = true;
    }

    /// A line of BitBake's console that is not shown.
    pub(super) fn heard(&mut self, line: &str) {
        if self.console.len() >= CONSOLE {
            self.console.pop_front();
        }
        self.console.push_back(line.to_owned());
    }

    /// Takes an error. Gives it as text if it is told at once: no end of a task or of the build will tell it.
    pub(super) fn take(&mut self, text: &str, task: Option<&TaskName>, began: bool) -> Option<String> {
        if log::is_repetition(text) {
            return None;
        }
        if (task.is_some() || !began) && self.held.len() < HELD {
            self.held.push((task.cloned(), text.to_owned()));
            return None;
        }
        Some(error(text, task))
    }

    /// The lines that matter of the log of a task that failed. What it said itself stands there.
    pub(super) fn excerpt(&mut self, name: &TaskName, tail: &[String]) -> Vec<String> {
        self.held.retain(|(task, _)| task.as_ref() != Some(name));
        let told = |line: &&str| line.strip_prefix("WARNING: ").is_some_and(|text| self.warned.contains(text));
        let lines: Vec<&str> = log::essential(tail).into_iter().filter(|line| !told(line)).collect();
        let skipped = lines.len().saturating_sub(EXCERPT);
        let mark = (skipped > 0).then(|| format!("[{skipped} lines before]"));
        mark.into_iter().chain(lines.into_iter().skip(skipped).map(str::to_owned)).collect()
    }

    /// What was held back and is not among the reasons of the outcome.
    pub(super) fn rest(&mut self, outcome: &Outcome) -> Vec<String> {
        let known = |text: &str| {
            let first = text.lines().next().unwrap_or_default().trim();
            outcome.bitbake_exit.is_some() && outcome.reasons.iter().any(|reason| reason.contains(first))
        };
        let of_failed =
            |task: &TaskName| outcome.failed.iter().any(|failed| failed.name == *task && !failed.reasons.is_empty());
        let held = std::mem::take(&mut self.held);
        let untold = held.iter().filter(|(task, text)| !known(text) && !task.as_ref().is_some_and(of_failed));
        let mut texts: Vec<String> = untold.map(|(task, text)| error(text, task.as_ref())).collect();
        // BitBake itself broke.
        let is_unexplained =
            outcome.state == State::Failed && outcome.failed.is_empty() && held.is_empty() && !self.collecting;
        if is_unexplained && outcome.bitbake_exit.is_some_and(|exit| exit != 0) {
            texts.extend(self.console.drain(..).map(|line| super::console(&line)));
        }
        texts
    }

    /// The block at the end: what failed, where, after what time and why; then hints and commands.
    pub(super) fn told(&self, record: &Record, outcome: &Outcome, done: u64, total: u64) -> Vec<String> {
        let (id, took) = (&record.build, duration(outcome.duration_ms));
        let word = paint(AnsiColor::Red, "error:");
        let smidr = if self.elsewhere { "smidr client" } else { "smidr" };
        if let Some(texts) = missing::listed(id, outcome, &took, smidr) {
            return texts;
        }
        if let (Some(Kind::Build), Some(first)) = (outcome.kind, outcome.diagnoses.first()) {
            let mut texts = self.explained(id, outcome, &took, done, total);
            if let Some(task) = outcome.failed.iter().find(|task| first.is_of(&task.name)).or(outcome.failed.first()) {
                texts.push(format!("log:    {smidr} logs {id} --task {}", task.name));
            }
            texts.push(format!("why:    {smidr} explain {id}"));
            if !outcome.failed.is_empty() && !self.elsewhere {
                texts.push(format!("shell:  smidr shell {id}"));
            }
            return texts;
        }
        let mut texts = Vec::new();
        let first = outcome.failed.iter().take(TOLD);
        let more = outcome.failed.len().saturating_sub(TOLD);
        if more > 0 {
            texts.push(format!("{word} {more} more tasks failed, than are told here:  {smidr} status {id}"));
        }
        texts.extend(first.clone().map(|task| {
            let reasons: String = task.reasons.iter().map(|reason| format!("\n{reason}")).collect();
            format!("{word} {id} failed in {} ({}){reasons}", task.name, self.place(task, &took))
        }));
        let mut reasons = outcome.reasons.as_slice();
        if outcome.state == State::Interrupted {
            texts.push(format!("{word} {id} was interrupted after at least {took}"));
        } else if let (None, Some((first, causes))) = (outcome.bitbake_exit, reasons.split_first()) {
            // What kept BitBake from running is an error as any command's are.
            texts.push(format!("{word} {first}"));
            reasons = causes;
        } else if outcome.failed.is_empty() {
            let place = match outcome.kind {
                Some(Kind::Warning) => "for its warnings".into(),
                _ => when(self.collecting, done, total),
            };
            let (reason, others) = reasons
                .split_first()
                .map_or((String::new(), reasons), |(first, others)| (format!("\n{first}"), others));
            texts.push(format!("{word} {id} failed after {took}, {place}{reason}"));
            reasons = others;
        }
        texts.extend(causes(reasons));
        texts.extend(outcome.hints.iter().map(hint));
        texts.extend(first.map(|task| format!("log:    {smidr} logs {id} --task {}", task.name)));
        if outcome.bitbake_exit.is_some() && outcome.state == State::Failed && outcome.kind != Some(Kind::Warning) {
            texts.push(format!("why:    {smidr} explain {id}"));
        }
        if !outcome.failed.is_empty() && !self.elsewhere {
            texts.push(format!("shell:  smidr shell {id}"));
        }
        texts
    }

    /// What failed, its first line, why and what to do, of the first diagnoses; the other tasks by name.
    fn explained(&self, id: &BuildId, outcome: &Outcome, took: &str, done: u64, total: u64) -> Vec<String> {
        let word = paint(AnsiColor::Red, "error:");
        let mut texts = Vec::new();
        let mut others: Vec<&FailedTask> = outcome.failed.iter().collect();
        for (place, one) in outcome.diagnoses.iter().take(EXPLAINED).enumerate() {
            let task = outcome.failed.iter().find(|task| one.is_of(&task.name));
            others.retain(|other| task != Some(*other) && !one.also.contains(&other.name));
            let is_known = one.sure != Certainty::Unknown;
            let line = match (&one.first_error, task) {
                (_, Some(task)) if !is_known => task.reasons.iter().map(|reason| format!("\n{reason}")).collect(),
                // With the line of the config that asked for it.
                (_, None) if place == 0 && !outcome.reasons.is_empty() => {
                    let lines = outcome.reasons.iter().flat_map(|reason| reason.lines());
                    lines.take(REASON_LINES).map(|line| format!("\n{line}")).collect()
                }
                (Some(first), _) => format!("\n{}", first.text.trim()),
                (None, _) => String::new(),
            };
            texts.push(match task {
                Some(task) => format!("{word} {id} failed in {} ({}){line}", task.name, self.place(task, took)),
                None => format!("{word} {id} failed after {took}, {}{line}", when(self.collecting, done, total)),
            });
            if !is_known {
                continue;
            }
            let doubt = if one.sure == Certainty::Likely { "most likely: " } else { "" };
            texts.push(format!("{} {doubt}{}", paint(AnsiColor::Red, "caused by:"), one.cause));
            let advice = if place == 0 { ADVICE } else { 0 };
            texts.extend(one.next.iter().take(advice).map(hint));
        }
        let same: Vec<&TaskName> = outcome.diagnoses.iter().take(EXPLAINED).flat_map(|one| &one.also).collect();
        if !same.is_empty() {
            texts.push(format!("{word} {id} failed in {} for the same reason", listed(&same)));
        }
        texts.extend(outcome.hints.iter().map(hint));
        if !others.is_empty() {
            let names: Vec<&TaskName> = others.iter().map(|task| &task.name).collect();
            texts.push(format!("{word} {} more tasks failed: {}", others.len(), listed(&names)));
        }
        texts
    }

    fn place(&self, task: &FailedTask, took: &str) -> String {
        let place = self.failed.get(&task.name).copied().unwrap_or_default();
        let after = match (self.begun, place.ended) {
            (Some(begun), Some(ended)) => {
                duration(u64::try_from(between(begun, ended).as_millis()).unwrap_or(u64::MAX))
            }
            _ => took.to_owned(),
        };
        match place.index {
            0 => format!("after {after}"),
            index => format!("task {index} of {}, after {after}", place.total),
        }
    }
}

/// The first of some tasks.
fn listed(names: &[&TaskName]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn hint(hint: &Hint) -> String {
    format!("{} {hint}", paint(AnsiColor::Cyan, "hint:"))
}

/// How far a build came that failed in no task.
fn when(collecting: bool, done: u64, total: u64) -> String {
    match total {
        _ if collecting => "while artifacts were gathered".into(),
        0 => "before any task".into(),
        _ => format!("after {done} of {total} tasks"),
    }
}

/// A message of BitBake, without the frames of Python.
pub(super) fn message(colour: AnsiColor, word: &str, text: &str, task: Option<&TaskName>) -> String {
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let essential = log::essential(&lines);
    let text = if essential.is_empty() { text.to_owned() } else { essential.join("\n") };
    let origin = task.map(|task| format!(" {task}:")).unwrap_or_default();
    format!("{}{origin} {text}", paint(colour, word))
}

fn error(text: &str, task: Option<&TaskName>) -> String {
    message(AnsiColor::Red, "error:", text, task)
}

/// Each reason behind another one.
pub(super) fn causes(reasons: &[String]) -> Vec<String> {
    reasons.iter().map(|reason| format!("{} {reason}", paint(AnsiColor::Red, "caused by:"))).collect()
}
