//! Shows a build to people, as it runs or from its journal: on a terminal with progress, elsewhere line by line.

use std::{
    cell::Cell,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::{
    board::{self, Board},
    output::{Bar, bytes, duration, offer_json, say, say_lines, talk, talk_lines, used, watched},
};
use crate::{
    events::EventSink,
    model::{Activity, Event, Level, Outcome, Record, Stage, State, TaskName, Unit},
};

/// Without a terminal, progress of the same work is told this often.
const PLAIN_PERIOD: Duration = Duration::from_secs(10);

/// What the line of progress is about while tasks run.
const BITBAKE: &str = "bitbake";

/// Where it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// The sink.
pub(super) struct Terminal {
    to: Stream,
    // Tells builds apart that are shown together.
    label: String,
    bar: Option<Bar>,
    // Whether it has been shown once.
    drawn: Cell<bool>,
    board: board::Shared,
    // Without a terminal BitBake's own log is shown as it is; on one, only what matters of it.
    connected: bool,
    kept: (u64, u64),
    last_progress: Option<(Activity, Instant)>,
    // One command may look at the same thing more than once: for each variant, for instance.
    warned: BTreeSet<String>,
}

impl Terminal {
    /// On standard error, with progress where that is a terminal.
    pub(super) fn new() -> Self {
        Self::with(Stream::Err, String::new(), watched().then(Bar::new))
    }

    /// The same for one of several builds. `bar` is its own line of progress.
    pub(super) fn labelled(label: String, bar: Option<Bar>) -> Self {
        Self::with(Stream::Err, label, bar)
    }

    /// Line by line, on standard output.
    pub(super) fn log() -> Self {
        Self::with(Stream::Out, String::new(), None)
    }

    fn with(to: Stream, label: String, bar: Option<Bar>) -> Self {
        Self {
            to,
            label,
            bar,
            drawn: Cell::new(false),
            board: board::Shared::default(),
            connected: false,
            kept: (0, 0),
            last_progress: None,
            warned: BTreeSet::new(),
        }
    }

    /// Takes the line of progress away until there is something new.
    pub(super) fn pause(&mut self) {
        if let Some(bar) = &mut self.bar {
            bar.clear();
            *bar = Bar::new();
        }
        self.board.lock().shown(false);
        self.drawn.set(false);
    }

    fn print(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn line(&self, line: impl AsRef<str>) {
        let line = format!("{}{}", self.label, line.as_ref());
        match self.to {
            Stream::Err => self.print(|| talk(line)),
            Stream::Out => say(line),
        }
    }

    // For texts that may have several lines.
    fn lines(&self, text: impl AsRef<str>) {
        let text = format!("{}{}", self.label, text.as_ref());
        match self.to {
            Stream::Err => self.print(|| talk_lines(text)),
            Stream::Out => say_lines(text),
        }
    }

    fn stage(&mut self, stage: Stage) {
        match stage {
            Stage::Prepare | Stage::Collect => {}
            Stage::Fetch => {
                self.line("fetch      all sources first: the build itself has no network (host.network: fetch-only)")
            }
            // BitBake begins anew.
            Stage::Run => {
                self.board.lock().begin();
                self.connected = false;
            }
        }
    }

    fn fact(&self, subject: &str, text: &str, state: &str) {
        self.line(format!("{subject:<10} {text:<47}  {state}").trim_end());
    }

    fn progress(&mut self, activity: Activity, subject: &str, done: u64, total: Option<u64>, unit: Unit) {
        let verb = verb(activity);
        let count = |n| if unit == Unit::Bytes { bytes(n) } else { n.to_string() };
        let mut text = match total {
            _ if unit == Unit::Percent => format!("{subject}  {done} %"),
            Some(total) => format!("{subject}  {}/{}", count(done), count(total)),
            None => format!("{subject}  {}", count(done)),
        };
        if activity == Activity::LoadCache {
            text = subject.into();
        }
        if self.show(verb, text.clone()) {
            return;
        }
        let due = self.last_progress.is_none_or(|(last, at)| last != activity || at.elapsed() >= PLAIN_PERIOD);
        if due && !matches!(activity, Activity::LoadCache | Activity::Collect) {
            self.last_progress = Some((activity, Instant::now()));
            self.line(format!("{verb:<10} {text}"));
        }
    }

    fn tasks(&self, change: impl FnOnce(&mut Board)) {
        let text = {
            let mut board = self.board.lock();
            change(&mut board);
            if self.bar.is_none() {
                return;
            }
            board.text(Timestamp::now())
        };
        if self.show(BITBAKE, text) {
            self.board.lock().shown(true);
        }
    }

    /// Shows what happens now, on a terminal.
    fn show(&self, subject: &'static str, text: String) -> bool {
        let Some(bar) = &self.bar else { return false };
        if !self.drawn.replace(true) {
            bar.draw();
            self.board.keep_drawn(bar.clone(), format!("{}{BITBAKE:<10} ", self.label));
        }
        self.board.lock().shown(false);
        bar.show(&format!("{}{subject:<10} {text}", self.label));
        true
    }

    fn message(&self, level: Level, text: &str, task: Option<&TaskName>) {
        // Without a terminal the console has it.
        if self.bar.is_none() && self.connected {
            return;
        }
        let word = match level {
            Level::Warning => paint(AnsiColor::Yellow, "warning:"),
            Level::Error | Level::Critical => paint(AnsiColor::Red, "error:"),
            Level::Plain => return text.lines().for_each(|line| self.line(console(line))),
            Level::Debug | Level::Verbose | Level::Note => return,
        };
        let origin = task.map(|task| format!(" {task}:")).unwrap_or_default();
        self.lines(format!("{word}{origin} {text}").trim_start());
    }

    fn finished(&self, record: &Record, outcome: &Outcome) {
        if let Some(bar) = &self.bar {
            bar.clear();
        }
        let (id, took) = (&record.build, duration(outcome.duration_ms));
        if self.bar.is_some() && self.connected {
            let board = self.board.lock();
            self.fact("bitbake", &format!("{}  {}", board.version, board.targets), &board.summary());
        }
        if let Some(usage) = &outcome.usage {
            self.fact("used", &used(usage), "");
        }
        match outcome.state {
            State::Completed => {
                if outcome.artifacts > 0 {
                    self.fact("artifacts", &format!("{} files, {}", self.kept.0, bytes(self.kept.1)), "");
                }
                self.line(format!("{id} {} in {took}", paint(AnsiColor::Green, "completed")));
            }
            State::Cancelled => {
                self.line(format!("{id} {} after {took}", paint(AnsiColor::Yellow, "CANCELLED")));
                self.causes(&outcome.reasons);
            }
            _ => self.failure(record, outcome, &took),
        }
    }

    fn causes(&self, reasons: &[String]) {
        reasons.iter().for_each(|reason| self.lines(format!("{} {reason}", paint(AnsiColor::Red, "caused by:"))));
    }

    fn failure(&self, record: &Record, outcome: &Outcome, took: &str) {
        let id = &record.build;
        let error = paint(AnsiColor::Red, "error:");
        let mut reasons = outcome.reasons.as_slice();
        if outcome.state == State::Interrupted {
            self.line(format!("{error} {id} was interrupted after at least {took}"));
        } else if let (None, Some((first, causes))) = (outcome.bitbake_exit, reasons.split_first()) {
            // What kept BitBake from running is an error as any command's are.
            self.lines(format!("{error} {first}"));
            reasons = causes;
        } else if outcome.failed.is_empty() {
            self.line(format!("{error} {id} failed after {took}"));
        }
        for task in &outcome.failed {
            self.line(format!("{error} {id} failed in {} (after {took})", task.name));
            self.line(format!("log: smidr logs {id} --task {}      shell: smidr shell {id}", task.name));
        }
        self.causes(reasons);
        for hint in &outcome.hints {
            self.lines(format!("{} {hint}", paint(AnsiColor::Cyan, "hint:")));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.clear();
        }
    }
}

/// A line that a build has printed. None of them looks like a line of smidr.
pub(super) fn console(line: &str) -> String {
    format!("| {line}")
}

/// What isolates a build.
pub(super) fn sandbox(isolation: &str, task_network_cut: bool) -> String {
    format!("{isolation}, {}", if task_network_cut { "task network cut" } else { "tasks share the network" })
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl EventSink for Terminal {
    fn accept(&mut self, record: &Record) {
        match &record.event {
            Event::BuildStarted { targets, .. } => self.board.lock().targets = targets.join(" "),
            Event::StageStarted { stage } => self.stage(*stage),
            Event::Queued { ahead, of_command } => {
                let builds = if *ahead == 1 { "1 build is".into() } else { format!("{ahead} builds are") };
                let limit = if *of_command { "--jobs" } else { "limits.builds in settings.yaml" };
                self.line(format!("queued     {builds} before it ({limit})"));
            }
            Event::Waiting { resource, holder } => self.line(format!("waiting    for {resource}, held by {holder}")),
            Event::Warning { text } => {
                if self.warned.insert(text.clone()) {
                    self.lines(format!("{} {text}", paint(AnsiColor::Yellow, "warning:")));
                }
            }
            Event::HostReady { name, digest } => {
                let digest = digest.as_ref().map_or_else(String::new, |digest| format!("  sha256:{}…", digest.short()));
                self.fact("host", &format!("{name}{digest}"), "ready");
            }
            Event::LayersReady { layers } => {
                let names: Vec<String> = layers.iter().map(|(name, pin)| format!("{name} ({pin})")).collect();
                self.fact("layers", &names.join("  "), "ready");
            }
            Event::SandboxReady { isolation, task_network_cut } => {
                // What is not as it should be has been said before, each with its reason.
                let state = if *task_network_cut { "verified" } else { "" };
                self.fact("sandbox", &sandbox(isolation, *task_network_cut), state);
            }
            Event::Progress { activity, subject, done, total, unit } => {
                self.progress(*activity, subject, *done, *total, *unit);
            }
            Event::RecipeStep { recipe, step } => {
                self.show("image", format!("{recipe}: {step}"));
                self.line(format!("image      {recipe}: {step}"));
            }
            Event::Console { line } if self.bar.is_none() || !self.connected => self.line(console(line)),
            Event::Console { .. } => {}
            Event::BitbakeReady { version } => {
                self.connected = true;
                let mut board = self.board.lock();
                board.version.clone_from(version);
                if self.bar.is_none() {
                    self.fact("bitbake", &format!("{version}  {}", board.targets), "");
                }
            }
            Event::Parsed { recipes, errors, .. } if *errors > 0 => {
                self.line(format!("bitbake    {errors} of {recipes} recipes cannot be parsed"));
            }
            Event::Parsed { .. } => {}
            Event::TasksPlanned { total, .. } => self.tasks(|board| board.total = *total),
            Event::TaskStarted { name, pid, total, setscene, .. } => {
                self.tasks(|board| {
                    if !setscene {
                        board.total = *total;
                    }
                    board.started(*pid, name.clone(), record.at);
                });
            }
            Event::TaskProgress { pid, percent } => self.tasks(|board| board.progress(*pid, *percent)),
            Event::TaskEnded { pid, setscene, .. } => self.tasks(|board| board.ended(*pid, *setscene)),
            Event::TaskSkipped { covered, .. } => self.tasks(|board| board.skipped(*covered)),
            Event::Message { level, text, task } => self.message(*level, text, task.as_ref()),
            Event::NoProvider { item, .. } if self.bar.is_some() => {
                self.line(format!("{} nothing provides `{item}`", paint(AnsiColor::Red, "error:")));
            }
            Event::NoProvider { .. } => {}
            Event::TaskLog { name, log, tail } => {
                self.line(format!("--- {name}, the end of {}", log.display()));
                tail.iter().for_each(|line| self.line(console(line)));
            }
            Event::Stopping { force: false } => {
                self.line("stopping   BitBake finishes the tasks that run (at most 30 s; Ctrl-C again kills them)");
            }
            Event::Stopping { force: true } => self.line("stopping   everything is killed"),
            Event::ArtifactKept { artifact } => {
                self.kept = (self.kept.0 + 1, self.kept.1 + artifact.size);
            }
            Event::Finished { outcome } => self.finished(record, outcome),
        }
    }
}

fn verb(activity: Activity) -> &'static str {
    match activity {
        Activity::Fetch => "fetch",
        Activity::Checkout => "checkout",
        Activity::Download => "download",
        Activity::Pull => "pull",
        Activity::Unpack => "unpack",
        Activity::Configure => "configure",
        Activity::Pack => "pack",
        Activity::Verify => "verify",
        Activity::Push => "push",
        Activity::Export => "export",
        Activity::Collect => "collect",
        Activity::LoadCache | Activity::Parse => "parse",
    }
}

fn paint(colour: AnsiColor, text: &str) -> String {
    let style: Style = colour.on_default().bold();
    format!("{style}{text}{style:#}")
}

/// Events as lines of JSON on standard output, for scripts.
pub(super) struct JsonLines;

impl EventSink for JsonLines {
    fn accept(&mut self, record: &Record) {
        offer_json(record);
    }
}

#[cfg(test)]
mod tests;
