//! Shows a build to people, as it runs or from its journal: on a terminal with progress, elsewhere line by line.

mod failure;
mod missing;
mod progress;

use std::{cell::Cell, collections::BTreeSet, path::PathBuf, time::Duration};

use anstyle::AnsiColor;
use failure::Troubles;
use jiff::Timestamp;
use progress::Works;

use super::{
    board::{self, shortened},
    output::{
        Bar, bytes, complain, complain_block, complain_lines, duration, offer_json, paint, say, say_block, say_lines,
        used,
    },
    times::{between, clock},
    voice::{self, Amount, watched},
};
use crate::{
    config,
    events::EventSink,
    model::{Event, Level, Outcome, Record, Stage, State, TaskName},
};

/// How many kinds of warnings are told at the end.
const WARNED: usize = 8;

/// Where it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// How often it is told that sstate is restored, where no lines are drawn again.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How often what may run out is looked at there.
const LOOKED_EVERY: Duration = Duration::from_secs(60);

/// The sink.
pub(super) struct Terminal {
    to: Stream,
    amount: Amount,
    // Tells builds apart that are shown together.
    label: String,
    bar: Option<Bar>,
    // Whether it has been shown once.
    drawn: Cell<bool>,
    board: board::Shared,
    // From then on all that matters comes as events. The whole of BitBake's own log is what `smidr logs` shows.
    connected: bool,
    kept: (u64, u64),
    // Without a terminal.
    works: Works,
    told_restored: Option<Timestamp>,
    looked: Option<Timestamp>,
    troubles: Troubles,
    // One command may look at the same thing more than once: for each variant, for instance.
    warned: BTreeSet<String>,
}

impl Terminal {
    /// On standard error, with progress where that is a terminal.
    pub(super) fn new() -> Self {
        Self::with(Stream::Err, String::new(), watched().then(Bar::new))
    }

    /// With what is known of earlier builds of the same, and where this one builds, if that is here.
    pub(super) fn knowing(self, folder: Option<PathBuf>, paces: Vec<board::Pace>) -> Self {
        let mut board = self.board.lock();
        (board.folder, board.paces) = (folder, paces);
        drop(board);
        self
    }

    /// The same for one of several builds. `bar` is its own line of progress.
    pub(super) fn labelled(label: String, bar: Option<Bar>) -> Self {
        Self::with(Stream::Err, label, bar)
    }

    /// Only what is wrong, on standard error.
    pub(super) fn errors() -> Self {
        let mut quiet = Self::with(Stream::Err, String::new(), None);
        quiet.amount = Amount::Errors;
        quiet
    }

    /// For a build of a daemon, which other commands know unless it is the caller's own.
    pub(super) fn of_daemon(mut self, is_own: bool) -> Self {
        self.troubles.elsewhere = !is_own;
        self
    }

    /// Line by line, on standard output.
    pub(super) fn log() -> Self {
        Self::with(Stream::Out, String::new(), None)
    }

    fn with(to: Stream, label: String, bar: Option<Bar>) -> Self {
        // What was asked for is data.
        let amount = match (to, voice::amount()) {
            (Stream::Out, Amount::Errors) => Amount::Usual,
            (_, amount) => amount,
        };
        Self {
            to,
            amount,
            label,
            bar,
            drawn: Cell::new(false),
            board: board::Shared::default(),
            connected: false,
            kept: (0, 0),
            works: Works::default(),
            told_restored: None,
            looked: None,
            troubles: Troubles::default(),
            warned: BTreeSet::new(),
        }
    }

    /// Takes the lines of progress away until there is something new.
    pub(super) fn pause(&mut self) {
        self.board.lock().hide();
        if let Some(bar) = &self.bar {
            bar.clear();
        }
    }

    fn print(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn line(&self, line: impl AsRef<str>) {
        self.all([line.as_ref().to_owned()]);
    }

    // At once, so that what is drawn steps aside only once.
    fn all(&self, lines: impl IntoIterator<Item = String>) {
        let lines = lines.into_iter().map(|line| format!("{}{line}", self.label));
        match self.to {
            Stream::Err => self.print(|| lines.for_each(complain)),
            Stream::Out => lines.for_each(say),
        }
    }

    // For texts that may have several lines.
    fn lines(&self, text: impl AsRef<str>) {
        let text = format!("{}{}", self.label, text.as_ref());
        match self.to {
            Stream::Err => self.print(|| complain_lines(text)),
            Stream::Out => say_lines(text),
        }
    }

    // For texts whose lines are smidr's own.
    fn block(&self, text: &str) {
        match self.to {
            Stream::Err => self.print(|| complain_block(text)),
            Stream::Out => say_block(text),
        }
    }

    fn stage(&mut self, stage: Stage) {
        match stage {
            Stage::Prepare => {}
            Stage::Collect => self.troubles.collecting(),
            Stage::Fetch => {
                self.line("fetch      all sources first: the build itself has no network (host.network: fetch-only)")
            }
            // BitBake begins anew.
            Stage::Run => self.connected = false,
        }
    }

    fn fact(&self, subject: &str, text: &str, state: &str) {
        self.line(format!("{subject:<10} {text:<47}  {state}").trim_end());
    }

    // On a terminal.
    fn draw(&self) {
        let Some(bar) = &self.bar else { return };
        if !self.drawn.replace(true) {
            self.board.keep_drawn(bar.clone(), self.label.clone());
        }
        self.board.draw(bar, &self.label);
    }

    /// A task begins: a line, where no lines are drawn again.
    fn task(&mut self, record: &Record, name: &TaskName, index: u64, total: u64, setscene: bool) {
        if self.bar.is_some() || self.to == Stream::Out {
            return;
        }
        self.look_at_machine(record.at);
        let begun = self.board.lock().begun.unwrap_or(record.at);
        // Thousands are restored in a moment.
        if setscene {
            let is_due = self.told_restored.is_none_or(|told| between(told, record.at) >= TOLD_EVERY);
            if !is_due && index < total {
                return;
            }
            self.told_restored = Some(record.at);
        }
        let what = if setscene { "sstate" } else { "task" };
        let count = format!("{index}/{total}");
        self.line(format!("{what:<10} {count:<9}  {}  {name}", clock(between(begun, record.at))));
    }

    /// Says once what runs out on this machine.
    fn look_at_machine(&mut self, now: Timestamp) {
        if self.looked.is_some_and(|looked| between(looked, now) < LOOKED_EVERY) {
            return;
        }
        self.looked = Some(now);
        self.board.look_at_machine();
        let tight = std::mem::take(&mut self.board.lock().tight);
        if !tight.is_empty() && self.warned.insert("tight".into()) {
            self.line(format!("{} {}", paint(AnsiColor::Yellow, "warning:"), tight.join(", ")));
        }
    }

    /// Whether it is, or explains, something that went wrong.
    fn tells_error(&self, event: &Event) -> bool {
        match event {
            Event::Message { level, .. } => *level >= Level::Error,
            // Only looked at.
            Event::Console { .. } => self.connected,
            Event::NoProvider { .. } | Event::TaskLog { .. } => true,
            Event::Finished { outcome } => outcome.state != State::Completed,
            _ => false,
        }
    }

    fn console(&mut self, line: &str) {
        if self.to == Stream::Out || !self.connected {
            self.line(console(line));
        } else {
            self.troubles.heard(line);
        }
    }

    fn message(&mut self, level: Level, text: &str, task: Option<&TaskName>) {
        // The console has it.
        if self.to == Stream::Out && self.connected {
            return;
        }
        match level {
            Level::Plain => text.lines().for_each(|line| self.line(console(line))),
            Level::Debug | Level::Verbose | Level::Note => {}
            Level::Warning => self.lines(failure::message(AnsiColor::Yellow, "warning:", text, task)),
            Level::Error | Level::Critical => {
                let began = self.board.lock().total > 0;
                if let Some(text) = self.troubles.take(text, task, began) {
                    self.lines(text);
                }
            }
        }
    }

    fn finished(&mut self, record: &Record, outcome: &Outcome) {
        self.pause();
        let (id, took) = (&record.build, duration(outcome.duration_ms));
        self.troubles.rest(outcome).into_iter().for_each(|text| self.lines(text));
        if self.to == Stream::Err && self.connected && self.amount != Amount::Errors {
            let board = self.board.lock();
            self.fact(
                "bitbake",
                &format!("{}  {}", board.version, shortened(&board.targets)),
                &board.summary().unwrap_or_default(),
            );
        }
        if let Some(usage) = outcome.usage.as_ref().filter(|_| self.amount != Amount::Errors) {
            self.fact("used", &used(usage), "");
        }
        if self.amount != Amount::Errors {
            let groups = outcome.warnings.iter().take(WARNED).map(|group| warned(&group.to_string()));
            let more = outcome.warnings.len().saturating_sub(WARNED);
            let more = (more > 0).then(|| warned(&format!("{more} more kinds")));
            self.all(groups.chain(more).collect::<Vec<_>>());
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
                failure::causes(&outcome.reasons).into_iter().for_each(|text| self.lines(text));
            }
            _ if outcome.place.is_some() => self.placed(outcome),
            _ => {
                let board = self.board.lock();
                let (done, total) = (board.done(), board.total);
                drop(board);
                let told = self.troubles.told(record, outcome, done, total);
                told.into_iter().for_each(|text| self.lines(text));
            }
        }
    }

    /// An error of the config, at its line.
    fn placed(&self, outcome: &Outcome) {
        let Some(place) = &outcome.place else { return };
        let title = format!("{}{}", self.label, outcome.reasons.join(": "));
        let hints: Vec<String> = outcome.hints.iter().map(ToString::to_string).collect();
        let hint = (!hints.is_empty()).then(|| hints.join("\n"));
        self.block(&config::drawn_at(place, &title, hint.as_deref(), voice::coloured()));
    }

    /// What only those want to know who ask for details.
    fn details(&self, record: &Record) {
        let task = |name: &TaskName, state: &str| self.fact("task", &name.to_string(), state);
        match &record.event {
            Event::TasksPlanned { total, setscene } => {
                self.fact("tasks", &format!("{total}, of which sstate may save {setscene}"), "");
            }
            // Elsewhere it has a line in any case.
            Event::TaskStarted { name, index, total, .. } if self.bar.is_some() || self.to == Stream::Out => {
                task(name, &format!("begins, {index} of {total}"));
            }
            Event::TaskEnded { name, ok: true, .. } => task(name, "done"),
            Event::TaskEnded { name, ok: false, .. } => task(name, "failed"),
            Event::TaskSkipped { name, covered: true } => task(name, "in sstate"),
            Event::TaskSkipped { name, covered: false } => task(name, "was run before"),
            _ => {}
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.pause();
    }
}

/// A line of warnings, at the end of a build.
fn warned(group: &str) -> String {
    format!("{} {group}", paint(AnsiColor::Yellow, "warnings:"))
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
        self.board.lock().take(record);
        self.troubles.note(record);
        match self.amount {
            Amount::Errors if !self.tells_error(&record.event) => return,
            Amount::Details => self.details(record),
            _ => {}
        }
        match &record.event {
            Event::StageStarted { stage } => self.stage(*stage),
            Event::Queued { ahead, of_command } => {
                let builds = if *ahead == 1 { "1 build is".into() } else { format!("{ahead} builds are") };
                let limit = if *of_command { "--jobs" } else { "limits.builds in settings.yaml" };
                self.line(format!("queued     {builds} before it ({limit})"));
            }
            Event::InQueue { position, reason } => self.line(format!("waiting    {position}. {reason}")),
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
            Event::Progress { .. } if self.bar.is_none() => {
                if let Some(line) = self.works.line(record) {
                    self.line(line);
                }
            }
            Event::RecipeStep { recipe, step } => self.line(format!("image      {recipe}: {step}")),
            Event::Console { line } => self.console(line),
            Event::BitbakeReady { version } => {
                self.connected = true;
                if self.bar.is_none() {
                    let targets = self.board.lock().targets.join(" ");
                    self.fact("bitbake", &format!("{version}  {targets}"), "");
                }
            }
            Event::Parsed { recipes, errors, .. } if *errors > 0 => {
                self.line(format!("bitbake    {errors} of {recipes} recipes cannot be parsed"));
            }
            Event::TaskStarted { name, index, total, setscene, .. } => {
                self.task(record, name, *index, *total, *setscene);
            }
            Event::Message { level, text, task } => self.message(*level, text, task.as_ref()),
            Event::NoProvider { item, .. } => {
                self.message(Level::Error, &format!("nothing provides `{item}`"), None);
            }
            Event::TaskLog { name, log, tail } => {
                let (end, lines) = match self.to {
                    Stream::Out => (format!("the end of {}", log.display()), tail.clone()),
                    Stream::Err => ("what its log says at the end".into(), self.troubles.excerpt(name, tail)),
                };
                let heading = format!("--- {name}, {end}");
                self.all([heading].into_iter().chain(lines.iter().map(|line| console(line))));
            }
            Event::Stopping { force: false } => {
                self.line("stopping   BitBake finishes the tasks that run (at most 30 s; Ctrl-C again kills them)");
            }
            Event::Stopping { force: true } => self.line("stopping   everything is killed"),
            Event::ArtifactKept { artifact } => {
                self.kept = (self.kept.0 + 1, self.kept.1 + artifact.size);
            }
            Event::Finished { outcome } => self.finished(record, outcome),
            Event::BuildStarted { .. }
            | Event::Progress { .. }
            | Event::Parsed { .. }
            | Event::TasksPlanned { .. }
            | Event::TaskProgress { .. }
            | Event::TaskEnded { .. }
            | Event::TaskSkipped { .. } => {}
        }
        self.draw();
    }
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
