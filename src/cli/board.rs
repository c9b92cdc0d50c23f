//! What of a build goes on just now, and the lines that show it. In go records and the time, out come lines; a thread draws them again, so
//! that clocks go on. It never prints.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anstyle::AnsiColor;
use jiff::Timestamp;

use super::{
    live::Room,
    output::{Bar, bytes, duration, paint},
    tight,
    times::{between, clock},
    wrap::{cut, width},
};
use crate::model::{Activity, Event, Level, Record, Shown, Stage, TaskName, Unit};

/// How many running tasks are followed: more than any machine runs, and no more than memory is there for, whatever a build claims.
const TASKS: usize = 10_000;

/// How many running tasks have lines of their own.
const TASKS_SHOWN: usize = 8;

/// Rows of the terminal that are left to what was said before.
const ROWS_LEFT: usize = 6;

/// How often the clocks are looked at: often enough that none skips a second.
const PERIOD: Duration = Duration::from_millis(250);

/// How often what may run out is looked at, in those.
const LOOK_EVERY: u32 = 20;

/// How wide a bar is, in columns.
const BAR: std::ops::RangeInclusive<usize> = 8..=30;

/// Where the words of a line begin.
const WORDS: usize = 11;

/// Below so many columns, lines of tasks begin farther left.
const NARROW: usize = 60;

/// Below so many, tasks have none.
const TINY: usize = 30;

/// A build, as far as it is.
#[derive(Default)]
pub(super) struct Board {
    /// What BitBake was asked for.
    pub targets: Vec<String>,
    /// Of BitBake.
    pub version: String,
    /// All tasks that are to be run or skipped. Those that restore from sstate are not among them: what they restore is skipped.
    pub total: u64,
    /// When the build began.
    pub begun: Option<Timestamp>,
    ran: u64,
    covered: u64,
    current: u64,
    running: BTreeMap<u32, Running>,
    work: Option<Work>,
    // Whether a task of the build runs, so that sstate is through.
    has_begun: bool,
    last_end: Option<Timestamp>,
    failed: u64,
    warnings: u64,
    /// Earlier builds of the same, the newest first.
    pub paces: Vec<Pace>,
    /// Where the build writes, if that is on this machine.
    pub folder: Option<PathBuf>,
    /// What of this machine runs out, in words.
    pub tight: Vec<String>,
    is_collecting: bool,
    is_hidden: bool,
}

/// How an earlier build went.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pace {
    /// How long it took.
    pub took: Duration,
    /// When each task that ran had ended, since its beginning, in that order.
    pub ends: Vec<Duration>,
}

/// With fewer tasks, a build says nothing about another one.
pub(super) const LEAST_PACE: usize = 20;

struct Running {
    name: TaskName,
    since: Timestamp,
    percent: Option<u8>,
    rate: Option<String>,
}

/// Long work beside tasks.
struct Work {
    activity: Activity,
    subject: String,
    done: u64,
    total: Option<u64>,
    unit: Unit,
    since: Timestamp,
}

/// A board that a thread looks at, too.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Board>>);

impl Shared {
    /// For a look or a change. Nothing is drawn meanwhile.
    pub(super) fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws it from time to time, behind a label, for as long as it exists.
    pub(super) fn keep_drawn(&self, bar: Bar, label: String) {
        let board = Arc::downgrade(&self.0);
        thread::spawn(move || {
            let mut turns = (0..LOOK_EVERY).cycle();
            while let Some(board) = board.upgrade() {
                let board = Self(board);
                if turns.next() == Some(0) {
                    board.look_at_machine();
                }
                board.draw(&bar, &label);
                thread::sleep(PERIOD);
            }
        });
    }

    /// Looks what runs out, where the build has a folder here.
    pub(super) fn look_at_machine(&self) {
        let folder = self.lock().folder.clone();
        if let Some(folder) = folder {
            let found = tight::look(&folder);
            self.lock().tight = found;
        }
    }

    /// Draws it.
    pub(super) fn draw(&self, bar: &Bar, label: &str) {
        // Under the lock, so that nothing is drawn after it was taken away.
        let board = self.lock();
        bar.show(&board.lines(Timestamp::now(), bar.room(), label));
    }
}

impl Board {
    /// Takes what has happened.
    pub(super) fn take(&mut self, record: &Record) {
        self.is_hidden = false;
        match &record.event {
            Event::BuildStarted { targets, .. } => {
                self.targets.clone_from(targets);
                self.begun = Some(record.at);
            }
            Event::StageStarted { stage } => {
                self.work = None;
                self.is_collecting = *stage == Stage::Collect;
                // BitBake begins anew.
                if matches!(stage, Stage::Fetch | Stage::Run) {
                    self.running.clear();
                    (self.ran, self.covered, self.current, self.total) = (0, 0, 0, 0);
                    (self.has_begun, self.last_end) = (false, None);
                }
            }
            Event::Progress { activity, subject, done, total, unit } => {
                let same = self.work.take().filter(|work| work.activity == *activity && work.subject == *subject);
                let (subject, since) = (subject.clone(), same.map_or(record.at, |work| work.since));
                self.work = Some(Work { activity: *activity, subject, done: *done, total: *total, unit: *unit, since });
            }
            Event::HostReady { .. }
            | Event::LayersReady { .. }
            | Event::SandboxReady { .. }
            | Event::RecipeStep { .. }
            | Event::Parsed { .. } => self.work = None,
            Event::BitbakeReady { version } => self.version.clone_from(version),
            Event::TasksPlanned { total, .. } => (self.total, self.work) = (*total, None),
            Event::TaskStarted { name, pid, total, setscene, .. } => {
                if !setscene {
                    self.total = *total;
                    self.has_begun = true;
                }
                if self.running.len() < TASKS {
                    self.running
                        .insert(*pid, Running { name: name.clone(), since: record.at, percent: None, rate: None });
                }
            }
            Event::TaskProgress { pid, percent, rate } => {
                if let Some(task) = self.running.get_mut(pid) {
                    task.percent = *percent;
                    task.rate.clone_from(rate);
                }
            }
            // One that restores from sstate is not counted: BitBake then skips what it stands for, or runs it after all.
            Event::TaskEnded { pid, setscene, ok, .. } => {
                self.running.remove(pid);
                self.ran += u64::from(!setscene);
                self.failed += u64::from(!setscene && !ok);
                self.last_end = Some(record.at);
            }
            Event::Warning { .. } | Event::Message { level: Level::Warning, .. } => self.warnings += 1,
            // Because sstate has its result, or because it was run before.
            Event::TaskSkipped { covered, .. } => *(if *covered { &mut self.covered } else { &mut self.current }) += 1,
            Event::Finished { .. } => self.is_hidden = true,
            _ => {}
        }
    }

    /// Shows nothing until something happens.
    pub(super) fn hide(&mut self) {
        self.is_hidden = true;
    }

    /// Tasks that are done, whether they ran or did not have to.
    pub(super) fn done(&self) -> u64 {
        self.ran + self.covered + self.current
    }

    /// How far it is, in few words.
    pub(super) fn progress(&self) -> Option<String> {
        (self.total > 0).then(|| format!("{}/{} {} %", self.done(), self.total, percent(self.done(), self.total)))
    }

    /// Its lines: how far it is, and each task that runs, the longest first.
    pub(super) fn lines(&self, now: Timestamp, room: Room, label: &str) -> Vec<String> {
        // The last column stays free: some terminals break the line behind it at once.
        let columns = room.columns.saturating_sub(1);
        let label = String::from(Shown::plain(label));
        match &self.work {
            _ if self.is_hidden => Vec::new(),
            Some(work) => vec![work.line(now, self.begun.unwrap_or(work.since), columns, &label)],
            None if self.total == 0 && self.running.is_empty() || self.is_collecting => Vec::new(),
            None => {
                let mut running: Vec<_> = self.running.values().collect();
                running.sort_by_key(|task| task.since);
                let is_tiny = columns < TINY;
                let most = if is_tiny { 0 } else { TASKS_SHOWN.min(room.rows.saturating_sub(ROWS_LEFT)) };
                let tail = match running.first() {
                    // There is no other place for it.
                    Some(longest) if most == 0 => {
                        format!("{} {}", longest.name, clock(between(longest.since, now)))
                    }
                    _ => shortened(&self.targets),
                };
                let mut lines = vec![self.line(now, columns, &label, &tail)];
                let remarks = if most > 0 { self.remarks(now, columns) } else { None };
                let most = most.saturating_sub(usize::from(remarks.is_some()));
                lines.extend(remarks);
                lines.extend(task_lines(&running, most, now, columns));
                lines
            }
        }
    }

    fn line(&self, now: Timestamp, columns: usize, label: &str, tail: &str) -> String {
        let sstate = (self.covered * 100).checked_div(self.done()).filter(|_| self.covered > 0);
        let meter = Meter {
            count: format!("{}/{}", self.done(), self.total),
            percent: Some(percent(self.done(), self.total)),
            running: format!("{} running", self.running.len()),
            sstate: sstate.map(|percent| format!("sstate {percent} %")).unwrap_or_default(),
            clock: self.begun.map(|begun| clock(between(begun, now))).unwrap_or_default(),
            tail: tail.into(),
        };
        meter.line(&format!("{label}{:<10} ", "bitbake"), columns)
    }

    /// What else a person asks, in one line: what is worth least is left out first.
    fn remarks(&self, now: Timestamp, columns: usize) -> Option<String> {
        let counted = |count: u64, what: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            _ => Some(format!("{count} {many}")),
        };
        let failed = counted(self.failed, "task failed", "tasks failed").map(|text| paint(AnsiColor::Red, &text));
        let tight = self.tight.iter().map(|text| paint(AnsiColor::Yellow, &String::from(Shown::plain(text))));
        let left = self.left(now).map(|(left, took)| {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let left = if left.as_secs() < 60 { "less than 1 min".into() } else { format!("about {}", minutes(left)) };
            format!("{left} left (last build took {})", duration(millis(took)))
        });
        let warnings = counted(self.warnings, "warning", "warnings");
        let indent = if columns < NARROW { 2 } else { WORDS };
        let mut room = columns.saturating_sub(indent);
        let mut fits = |text: &String| {
            let wanted = width(text) + 2;
            let fits = wanted <= room + 2;
            room = if fits { room.saturating_sub(wanted) } else { room };
            fits
        };
        let parts: Vec<String> =
            failed.into_iter().chain(tight).chain(left).chain(warnings).filter(|text| fits(text)).collect();
        (!parts.is_empty()).then(|| format!("{:indent$}{}", "", parts.join("  ")))
    }

    /// What is left by an earlier build in which about as many tasks ran, and how long that took. None before sstate is through: how
    /// much it spares is not known earlier.
    fn left(&self, now: Timestamp) -> Option<(Duration, Duration)> {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let wanted = count(self.total.saturating_sub(self.covered + self.current));
        if !self.has_begun || wanted < LEAST_PACE {
            return None;
        }
        // A fifth more or less.
        let is_alike = |pace: &&Pace| pace.ends.len() >= LEAST_PACE && pace.ends.len().abs_diff(wanted) * 5 <= wanted;
        let pace = self.paces.iter().find(is_alike)?;
        let at = count(self.ran).saturating_mul(pace.ends.len()) / wanted;
        let until_end = |at: usize| pace.ends.get(at).map_or(Duration::ZERO, |end| pace.took.saturating_sub(*end));
        let last = match at.checked_sub(1) {
            Some(last) => until_end(last),
            None => pace.took.saturating_sub(pace.ends.first().copied().unwrap_or_default()),
        };
        let since = self.last_end.map(|end| between(end, now)).unwrap_or_default();
        Some((last.saturating_sub(since).max(until_end(at)), pace.took))
    }

    /// What was done, at the end.
    pub(super) fn summary(&self) -> Option<String> {
        let sstate = if self.covered > 0 { format!(", {} from sstate", self.covered) } else { String::new() };
        let of = if self.done() < self.total { format!("{} of ", self.done()) } else { String::new() };
        (self.total > 0).then(|| format!("{of}{} tasks, {} run{sstate}", self.total, self.ran))
    }
}

impl Work {
    fn line(&self, now: Timestamp, begun: Timestamp, columns: usize, label: &str) -> String {
        let is_share = self.unit == Unit::Percent || self.activity == Activity::LoadCache;
        let count = match self.total {
            _ if is_share => String::new(),
            Some(total) => format!("{}/{}", amount(self.done, self.unit), amount(total, self.unit)),
            None => amount(self.done, self.unit),
        };
        let meter = Meter {
            count,
            percent: self.total.filter(|total| *total > 0).map(|total| percent(self.done, total)),
            running: String::new(),
            sstate: String::new(),
            clock: clock(between(begun, now)),
            tail: self.subject.clone(),
        };
        meter.line(&format!("{label}{:<10} ", verb(self.activity)), columns)
    }
}

/// A time that is no better known than in minutes.
fn minutes(time: Duration) -> String {
    match time.as_secs().div_ceil(60) {
        minutes @ 0..100 => format!("{minutes} min"),
        minutes => format!("{} h {} min", minutes / 60, minutes % 60 / 5 * 5),
    }
}

fn task_lines(running: &[&Running], most: usize, now: Timestamp, columns: usize) -> Vec<String> {
    // One line says how many have none.
    let named = if running.len() > most { most.saturating_sub(1) } else { running.len() };
    let indent = if columns < NARROW { 2 } else { WORDS };
    let rows: Vec<(String, String)> = running
        .iter()
        .take(named)
        .map(|task| {
            let percent = task.percent.map(|percent| format!("  {percent} %")).unwrap_or_default();
            let rate =
                task.rate.as_ref().map_or(String::new(), |rate| format!("  {}", String::from(Shown::plain(rate))));
            let since = clock(between(task.since, now));
            (String::from(Shown::plain(&task.name.to_string())), format!("  {since:>5}{percent}{rate}"))
        })
        .collect();
    let widest = |of: fn(&(String, String)) -> &String| rows.iter().map(|row| width(of(row))).max().unwrap_or_default();
    let name_width = widest(|(name, _)| name).min(columns.saturating_sub(indent + widest(|(_, since)| since)));
    let line = |(name, since): &(String, String)| {
        let name = cut(name, name_width);
        format!("{:indent$}{name}{}{since}", "", " ".repeat(name_width.saturating_sub(width(&name))))
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if named < running.len() && most > 0 {
        lines.push(format!("{:indent$}+{} more", "", running.len() - named));
    }
    lines.iter().map(|line| cut(line, columns)).collect()
}

/// How far something is, in one line: what is worth least is left out first.
struct Meter {
    count: String,
    percent: Option<u64>,
    running: String,
    sstate: String,
    clock: String,
    tail: String,
}

impl Meter {
    fn line(&self, head: &str, columns: usize) -> String {
        let tail = String::from(Shown::plain(&self.tail));
        let share = self.percent.map(|percent| format!("{percent} %")).unwrap_or_default();
        let mut left = columns.saturating_sub(width(head));
        let mut first = true;
        let mut fits = |wanted: usize| {
            let gap = if first { 0 } else { 2 };
            let fits = wanted > 0 && wanted + gap <= left;
            if fits {
                left -= wanted + gap;
                first = false;
            }
            fits
        };
        // In the order of their worth.
        let [has_count, has_clock, has_share] = [&self.count, &self.clock, &share].map(|text| fits(width(text)));
        let [has_running, has_sstate] = [&self.running, &self.sstate].map(|text| fits(width(text)));
        let has_bar = self.percent.is_some() && fits(*BAR.start());
        let tail_least = width(&tail).min(12);
        let has_tail = fits(tail_least);
        let bar_width = if has_bar { (*BAR.start() + left).min(*BAR.end()) } else { 0 };
        left = (left + if has_bar { *BAR.start() } else { 0 }).saturating_sub(bar_width);
        let parts = [
            (has_count, self.count.clone()),
            (has_bar, bar(self.percent.unwrap_or_default(), bar_width)),
            (has_share, share),
            (has_running, self.running.clone()),
            (has_sstate, self.sstate.clone()),
            (has_clock, self.clock.clone()),
            (has_tail, cut(&tail, tail_least + left)),
        ];
        let shown: Vec<String> = parts.into_iter().filter_map(|(has, text)| has.then_some(text)).collect();
        format!("{}{}", cut(head, columns), shown.join("  "))
    }
}

/// `━━━━━━╸───`, with a colour.
fn bar(percent: u64, width: usize) -> String {
    let halves = usize::try_from(percent.min(100)).unwrap_or_default() * width * 2 / 100;
    let done = format!("{}{}", "━".repeat(halves / 2), if halves % 2 == 1 { "╸" } else { "" });
    let rest = "─".repeat(width - halves.div_ceil(2));
    format!("{}{rest}", paint(AnsiColor::Cyan, &done))
}

fn percent(done: u64, total: u64) -> u64 {
    // Never 100 before the end.
    done.saturating_mul(100).checked_div(total).unwrap_or_default().min(100)
}

/// A number with its unit.
pub(super) fn amount(number: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => bytes(number),
        Unit::Percent => format!("{number} %"),
        Unit::Items => number.to_string(),
    }
}

/// What BitBake was asked for, in few words.
pub(super) fn shortened(targets: &[String]) -> String {
    match targets {
        [first, _, ..] => format!("{first} +{}", targets.len() - 1),
        _ => targets.concat(),
    }
}

/// What is done, as a line says it.
pub(super) fn verb(activity: Activity) -> &'static str {
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
        Activity::Plan => "plan",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BuildId, Place};

    fn take(board: &mut Board, event: Event) {
        let build = BuildId::new("x", 1).expect("an id");
        board.take(&Record { build, place: Place::Seq(1), at: Timestamp::now(), event });
    }

    fn name() -> TaskName {
        TaskName { recipe: "hello".into(), task: "do_compile".into() }
    }

    fn started(pid: u32, setscene: bool) -> Event {
        Event::TaskStarted { name: name(), pid, index: 1, total: 1000, setscene, log: None }
    }

    fn ended(pid: u32, setscene: bool) -> Event {
        Event::TaskEnded { name: name(), pid, ok: true, setscene, log: None }
    }

    #[test]
    fn what_sstate_restores_is_counted_once() {
        let mut board = Board::default();
        take(&mut board, Event::TasksPlanned { total: 1000, setscene: 800 });
        for pid in 0..800 {
            take(&mut board, started(pid, true));
            take(&mut board, ended(pid, true));
        }
        assert_eq!(board.progress().as_deref(), Some("0/1000 0 %"));
        (0..900).for_each(|_| take(&mut board, Event::TaskSkipped { name: name(), covered: true }));
        (0..60).for_each(|_| take(&mut board, Event::TaskSkipped { name: name(), covered: false }));
        for pid in 0..40 {
            take(&mut board, started(pid, false));
            take(&mut board, ended(pid, false));
        }
        assert_eq!(board.progress().as_deref(), Some("1000/1000 100 %"));
        assert_eq!(board.summary().as_deref(), Some("1000 tasks, 40 run, 900 from sstate"));
        take(&mut board, Event::StageStarted { stage: Stage::Run });
        assert_eq!((board.progress(), board.summary()), (None, None), "BitBake begins anew");
    }

    #[test]
    fn what_is_left_is_said_by_a_build_that_was_alike() {
        let mut board = Board::default();
        let pace = |tasks: u64| Pace {
            took: Duration::from_secs(tasks * 60 + 60),
            ends: (1..=tasks).map(|task| Duration::from_secs(task * 60)).collect(),
        };
        board.paces = vec![pace(10), pace(100), pace(400)];
        let at = |board: &Board, columns: usize| {
            let remarks = board.remarks(Timestamp::now(), columns);
            remarks.map(|text| text.replace("\x1b[1m\x1b[33m", "").replace("\x1b[0m", ""))
        };
        let left = |board: &Board| at(board, 79);
        take(&mut board, Event::TasksPlanned { total: 1000, setscene: 20 });
        assert_eq!(left(&board), None, "sstate is not through");
        (0..900).for_each(|_| take(&mut board, Event::TaskSkipped { name: name(), covered: true }));
        (0..50).for_each(|pid| {
            take(&mut board, started(pid, false));
            take(&mut board, ended(pid, false));
        });
        assert_eq!(left(&board).as_deref(), Some("           about 51 min left (last build took 101 min)"));
        take(&mut board, Event::Message { level: Level::Warning, text: "x".into(), task: None });
        board.tight = vec!["4.0 GB free on the disk of the build".into()];
        let all =
            "           4.0 GB free on the disk of the build  about 51 min left (last build took 101 min)  1 warning";
        assert_eq!(at(&board, 119).as_deref(), Some(all));
        assert_eq!(
            left(&board).as_deref(),
            Some("           4.0 GB free on the disk of the build  1 warning"),
            "what fits"
        );
        // As much more from sstate that nothing is alike.
        (0..50).for_each(|_| take(&mut board, Event::TaskSkipped { name: name(), covered: true }));
        board.tight.clear();
        assert_eq!(left(&board).as_deref(), Some("           1 warning"));
    }

    #[test]
    fn clocks_go_on_by_themselves() {
        let (board, bar) = (Shared::default(), Bar::new());
        take(&mut board.lock(), started(7, false));
        board.keep_drawn(bar.clone(), String::new());
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !bar.message().contains("hello:do_compile   0:01") {
            assert!(std::time::Instant::now() < until, "{}", bar.message());
            thread::sleep(Duration::from_millis(20));
        }
        board.lock().hide();
        board.draw(&bar, "");
        assert_eq!(bar.message(), "");
    }

    #[test]
    fn several_targets_are_told_shortly() {
        let targets = |names: &[&str]| shortened(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!([targets(&[]), targets(&["a"]), targets(&["a", "b", "c"])], ["", "a", "a +2"]);
    }
}
