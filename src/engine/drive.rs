//! Runs BitBake in its sandbox. Reads its user interface and its console, and heeds stop requests and the clock.
//!
//! One loop takes messages from all of them, in one order; this is where a build's course is decided. What the console and the user
//! interface say are claims of a build, and taken in as far as its [`Budget`] goes; how BitBake ended is for the kernel to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    mem,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    EngineError, Tools,
    budget::Budget,
    confine::Confinement,
    deployed::Action,
    keep,
    memory::{self, Evidence, Sign},
    origin::Said,
};
use crate::{
    bitbake::{self, Answer, Console, Finding, Looked, NO_ROOM, UiMessage, parse_line},
    diagnose::{Heard, warnings::Warnings},
    events::{Emitter, Redactor},
    model::{Event, FailedTask, Level, Limits, Recovered, TaskName, Usage},
    plan::{Folders, SandboxSpec},
    queue,
    sandbox::{self, Control, Exit, SandboxError, Tasks},
    system::{
        lines::{LINE_LIMIT, lines},
        process::Spawner,
        stop::StopRequest,
    },
};

/// How long BitBake may take to end what runs, after it was asked to stop. With the end of what does not, it is half a minute.
const GRACE: Duration = Duration::from_secs(30).saturating_sub(sandbox::LONGEST_END);

/// How long BitBake's last words may take to arrive.
const DRAIN: Duration = Duration::from_secs(20);

/// How much of a failed task's log is shown.
const LOG_LINES: usize = 60;

/// How much of the end of a log is looked at, in bytes.
const LOG_BYTES: u64 = 64 * 1024;

/// A line of the user interface, in bytes. Its messages may hold the output of a program: `TEXT` in smidr.py is what of that passes.
const MESSAGE_LIMIT: u64 = 256 * 1024;

/// The longest path of a log, in bytes (PATH_MAX in limits.h).
const LONGEST_PATH: usize = 4096;

/// What every program says when it cannot write any more (strerror(3), ENOSPC).
const DISK_FULL: &str = "No space left on device";

/// What programs say when fork(2) or pthread_create(3) gives EAGAIN: shells, Python, make, glibc's strerror(3).
const NO_PROCESS: [&str; 4] =
    ["can't start new thread", "Resource temporarily unavailable", "Cannot fork", "can't fork"];

/// How many of BitBake's own errors are told at the end, where no task failed.
const ERRORS_KEPT: usize = 20;

/// Findings of `check --deep` that are kept, and their length in bytes: more than `KEPT` of each kind and `TEXT` of smidr_deep.py.
const FOUND_KEPT: usize = 500;
const FOUND_BYTES: usize = 64 * 1024;
/// Answers of servers that are kept: as many as smidr_ask.py asks for, in both tries.
const ANSWERS: usize = 10;

/// Tasks that are remembered; an image of everything has some 50,000.
const MOST_TASKS: usize = 200_000;

/// How much of one of them, in bytes.
const ERROR_BYTES: usize = 16 * 1024;

/// Lines of the console that are held until it is known whether they are all that BitBake tells.
const EARLY: usize = 100;

/// Messages that may wait for the loop, each of at most [`MESSAGE_LIMIT`]: a build that talks faster than its record can be written waits,
/// and memory does not grow.
const WAITING: usize = 64;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Finished {
    /// BitBake's exit status, or 128 and the number of the signal that ended it.
    pub exit: i32,
    /// Whether its user interface said that it is done; if not, BitBake did not come that far.
    pub said_done: bool,
    /// What BitBake was asked to do.
    pub action: Action,
    /// The tasks of the build, those that did not have to run too.
    pub tasks: BTreeSet<TaskName>,
    /// Tasks that are said to have failed.
    pub failed: Vec<FailedTask>,
    /// BitBake's own errors, where no task failed.
    pub errors: Vec<Said>,
    /// What the console said, without secrets.
    pub heard: Heard,
    /// What BitBake and its tasks warned about.
    pub warnings: Warnings,
    /// The second try that this is of, if it is of one.
    pub recovered: Option<Recovered>,
    /// What `check --deep` has found, and looked at.
    pub found: Vec<Finding>,
    /// What it has looked at, once it was through.
    pub looked: Option<Looked>,
    /// What servers answer now for sources that could not be fetched.
    pub answers: Vec<Answer>,
    /// Whether no further process could be started.
    pub no_process: bool,
    /// Whether it was ended for that, because BitBake itself could not begin.
    pub starved: bool,
    /// Whether a disk was full.
    pub disk_full: bool,
    /// That memory ran out, in a sentence.
    pub out_of_memory: Option<String>,
    /// What the build used, where that was counted.
    pub usage: Option<Usage>,
    /// How the sandbox was ended from outside, or broke, where smidr did not end it.
    pub broken: Option<SandboxError>,
    /// Whether a stop was requested.
    pub stopped: bool,
    /// Whether the config's time was up.
    pub timed_out: bool,
}

impl Finished {
    /// Whether there is something to collect. BitBake's exit status says so, whatever was claimed before: its user interface ends with
    /// an error where a task failed, and nothing else in the build can reach that process. That it came to its end must have been said,
    /// too: a program that does nothing at all also ends with 0.
    pub(crate) fn is_good(&self) -> bool {
        self.exit == 0 && self.said_done && !self.stopped && !self.timed_out
    }
}

enum Message {
    Console(String),
    Interface(String),
    /// A pipe has come to its end.
    Closed,
    Stop,
    Ended(Result<Exit, SandboxError>),
}

/// Runs the payload of `spec` as BitBake within `limits`, and shows those of the logs that it names that lie in `folders`.
///
/// # Errors
///
/// When the sandbox cannot be had, or the program is not there.
pub(super) fn drive(
    mut spec: SandboxSpec,
    limits: Limits,
    timeout: Option<Duration>,
    tools: Tools<'_>,
    folders: &Folders,
    budget: &mut Budget,
) -> Result<Finished, EngineError> {
    let on = tools.on;
    let (inbox, messages) = mpsc::sync_channel(WAITING);
    let confinement = Confinement::find(limits, tools);
    confinement.apply(&mut spec);
    let (running, control) = start(&spec, &tools.spawner, &inbox, on)?;
    confinement.shortfalls(running.verified()).into_iter().for_each(|shortfall| on.warn(shortfall));
    thread::spawn({
        let inbox = inbox.clone();
        move || inbox.send(Message::Ended(running.wait()))
    });
    let _listening = tools.stop.listen({
        let control = control.clone();
        move |request| {
            // Not left to the loop, which a slow reader of our output may hold up.
            if request == StopRequest::Kill {
                control.kill();
            }
            // Only wakes the loop: where there is no room, it is awake.
            let _ = inbox.try_send(Message::Stop);
        }
    });
    let mut course = Course::new(control, timeout, limits.tasks, on, folders, budget, tools.paths.queue());
    // Console and interface.
    let mut open = 2;
    loop {
        let message = match course.deadline() {
            None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => messages.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        course.heed(tools.stop.requested());
        match message {
            Ok(Message::Console(line)) => course.take_console(line),
            Ok(Message::Interface(line)) => course.take_line(&line),
            Ok(Message::Closed) => open -= 1,
            Ok(Message::Stop) => {}
            Ok(Message::Ended(exit)) => {
                let end = End::of(exit)?;
                // What was written before the end may still be on its way. Every writer is dead, so both pipes do end; but for one that
                // waits for a broken disk, which nothing ends.
                let until = Instant::now() + DRAIN;
                while open > 0 {
                    match messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
                        Ok(Message::Console(line)) => course.take_console(line),
                        Ok(Message::Interface(line)) => course.take_line(&line),
                        Ok(Message::Closed) => open -= 1,
                        Ok(Message::Stop | Message::Ended(_)) => {}
                        Err(_) => break,
                    }
                }
                return Ok(course.finish(end, confinement, tools.facts.uid));
            }
            Err(RecvTimeoutError::Timeout) => course.time_is_up(),
            Err(RecvTimeoutError::Disconnected) => return Err(EngineError::Lost),
        }
    }
}

fn start(
    spec: &SandboxSpec,
    spawner: &Spawner,
    inbox: &SyncSender<Message>,
    on: &Emitter,
) -> Result<(sandbox::Sandbox, Control), EngineError> {
    let failed = |source| SandboxError::Prepare { what: "a pipe", source };
    let (console, out) = std::io::pipe().map_err(failed)?;
    let (interface, events) = std::io::pipe().map_err(failed)?;
    let stdio = sandbox::Stdio { events: Some(events.into()), ..sandbox::Stdio::to(out.into()).map_err(failed)? };
    let running = sandbox::launch(spec, stdio, spawner)?;
    let control = running.control();
    let verified = running.verified();
    verified.losses(spec).into_iter().for_each(|loss| on.warn(loss));
    on.emit(Event::SandboxReady { isolation: verified.describe(spec), task_network_cut: verified.tasks == Tasks::Cut });
    let console_message: fn(String) -> Message = Message::Console;
    for (pipe, wrap, limit) in [(console, console_message, LINE_LIMIT), (interface, Message::Interface, MESSAGE_LIMIT)]
    {
        let inbox = inbox.clone();
        thread::spawn(move || {
            let _ = lines(pipe, limit).try_for_each(|line| inbox.send(wrap(line)));
            let _ = inbox.send(Message::Closed);
        });
    }
    Ok((running, control))
}

/// How a sandbox ended in which BitBake ran.
struct End {
    status: i32,
    usage: Option<Usage>,
    broken: Option<SandboxError>,
}

impl End {
    /// Only a program that could not be started has left nothing to tell.
    fn of(exit: Result<Exit, SandboxError>) -> Result<Self, SandboxError> {
        match exit {
            Ok(Exit { status, usage }) => Ok(Self { status, usage: Some(usage), broken: None }),
            // Whatever ended it, the kernel has ended everything in it by SIGKILL.
            Err(broken @ (SandboxError::Killed(_) | SandboxError::Silent(_))) => {
                Ok(Self { status: 128 + Signal::SIGKILL as i32, usage: None, broken: Some(broken) })
            }
            Err(error) => Err(error),
        }
    }
}

struct Course<'a> {
    control: Control,
    on: &'a Emitter,
    folders: &'a Folders,
    budget: &'a mut Budget,
    // Where builds stand in line, and whether another one ran meanwhile.
    queue: PathBuf,
    shared: bool,
    timeout: Option<Instant>,
    grace: Option<Instant>,
    said_done: bool,
    action: Action,
    tasks: BTreeSet<TaskName>,
    failed: Vec<FailedTask>,
    errors: Vec<Said>,
    found: Vec<Finding>,
    looked: Option<Looked>,
    answers: Vec<Answer>,
    // Of tasks that run.
    said_by: BTreeMap<TaskName, Vec<String>>,
    heard: Heard,
    warnings: Warnings,
    redactor: Redactor,
    disk_full: bool,
    no_process: bool,
    // How many processes it may have, whether BitBake has begun, and whether it was ended because it could not.
    most_tasks: Option<u32>,
    begun: bool,
    starved: bool,
    // What its console tells, without smidr's user interface; what came before that was known.
    console: Option<Console>,
    early: Vec<String>,
    // What the logs of failed tasks say about memory, the most telling.
    sign: Option<(TaskName, Sign)>,
    asked: Option<StopRequest>,
    stopped: bool,
    timed_out: bool,
}

impl<'a> Course<'a> {
    fn new(
        control: Control,
        timeout: Option<Duration>,
        tasks: Option<u32>,
        on: &'a Emitter,
        folders: &'a Folders,
        budget: &'a mut Budget,
        queue: PathBuf,
    ) -> Self {
        Self {
            shared: is_shared(&queue),
            queue,
            control,
            on,
            folders,
            budget,
            timeout: timeout.map(|timeout| Instant::now() + timeout),
            grace: None,
            said_done: false,
            action: Action::Look,
            tasks: BTreeSet::new(),
            failed: Vec::new(),
            errors: Vec::new(),
            found: Vec::new(),
            looked: None,
            answers: Vec::new(),
            said_by: BTreeMap::new(),
            heard: Heard::default(),
            warnings: Warnings::default(),
            redactor: on.redactor(),
            disk_full: false,
            no_process: false,
            most_tasks: tasks,
            begun: false,
            starved: false,
            console: None,
            early: Vec::new(),
            sign: None,
            asked: None,
            stopped: false,
            timed_out: false,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.grace.or(self.timeout)
    }

    fn take_line(&mut self, line: &str) {
        self.begun = true;
        match parse_line(line) {
            UiMessage::Nothing => {}
            UiMessage::Done => self.said_done = true,
            UiMessage::Found(finding) if self.found.len() < FOUND_KEPT && line.len() <= FOUND_BYTES => {
                self.found.push(finding);
            }
            UiMessage::Found(_) => {}
            UiMessage::Looked(looked) => self.looked = Some(looked),
            UiMessage::Answered(answer) if self.answers.len() < ANSWERS && line.len() <= FOUND_BYTES => {
                self.answers.push(answer);
            }
            UiMessage::Answered(_) => {}
            UiMessage::Action { builds: false, .. } => self.action = Action::Look,
            UiMessage::Action { task, .. } => {
                let whole = task.is_none_or(|task| ["build", "do_build"].contains(&task.as_str()));
                self.action = if whole { Action::Build } else { Action::Task };
            }
            UiMessage::NoInterface { why, version } => self.read_console(&why, version),
            UiMessage::Event(event) => self.learn(event),
        }
    }

    fn learn(&mut self, mut event: Event) {
        self.forget_foreign_log(&mut event);
        let failed = self.note(&event);
        self.take(event);
        if let Some(FailedTask { name, log: Some(log), .. }) = failed {
            self.show(name, log);
        }
    }

    fn read_console(&mut self, why: &str, version: Option<String>) {
        let text = format!(
            "smidr's user interface does not fit this BitBake ({why}): its console is read instead, which tells less of tasks"
        );
        self.take(Event::Warning { text });
        self.learn(Event::BitbakeReady { version: version.unwrap_or_else(|| "?".into()) });
        let mut console = Console::default();
        let told: Vec<Event> = mem::take(&mut self.early).iter().flat_map(|line| console.take(line)).collect();
        told.into_iter().for_each(|event| self.learn(event));
        self.console = Some(console);
    }

    fn take_console(&mut self, line: String) {
        let told = self.console.as_mut().map_or_else(Vec::new, |console| console.take(&line));
        if !self.begun && self.early.len() < EARLY {
            self.early.push(line.clone());
        }
        self.take(Event::Console { line });
        told.into_iter().for_each(|event| self.learn(event));
    }

    // Says it, if there is room for it.
    fn take(&mut self, mut event: Event) {
        match &event {
            Event::Console { line } => self.heard.line(&self.redactor.text(line)),
            Event::BitbakeReady { version } => self.heard.version(version),
            Event::Message { level: Level::Warning, text, task } => {
                self.warnings.take(&self.redactor.text(text), task.as_ref())
            }
            _ => {}
        }
        // Once BitBake has begun, without a limit, the logs of failed tasks tell.
        if let Event::Console { line } = &event
            && (self.most_tasks.is_some() || !self.begun)
            && is_short_of_processes(line)
        {
            self.no_process = true;
            // BitBake would try it for half a minute.
            if self.most_tasks.is_some() && !self.begun && !self.starved {
                self.starved = true;
                self.control.end();
            }
        }
        if self.budget.takes(&mut event, self.on) {
            self.on.emit(event);
        }
    }

    fn show(&mut self, name: TaskName, log: PathBuf) {
        let Some(file) = keep::open_log(self.folders, &log) else { return };
        if !file.metadata().is_ok_and(|found| self.budget.is_new(&found)) {
            return;
        }
        let Some(mut tail) = tail(file) else { return };
        self.disk_full |= tail.iter().any(|line| line.contains(DISK_FULL));
        self.no_process |= tail.iter().any(|line| is_short_of_processes(line));
        self.note_memory(&name, &tail);
        self.note_reasons(&name, bitbake::log::reason(&tail), bitbake::log::sources(&name.task, &tail));
        tail.drain(..tail.len().saturating_sub(LOG_LINES));
        self.take(Event::TaskLog { name, log, tail });
    }

    // Readers of the record open what it names.
    fn forget_foreign_log(&self, event: &mut Event) {
        if let Event::TaskStarted { log, .. } | Event::TaskEnded { log, .. } = event {
            log.take_if(|log| log.as_os_str().len() > LONGEST_PATH || self.folders.inside(log).is_none());
        }
    }

    fn note_memory(&mut self, name: &TaskName, log: &[String]) {
        if let Some(sign) = memory::sign_of(log)
            && self.sign.as_ref().is_none_or(|(_, known)| memory::weight(known) < memory::weight(&sign))
        {
            self.sign = Some((name.clone(), sign));
        }
    }

    // Gives the task that failed, if that is what happened.
    fn note(&mut self, event: &Event) -> Option<FailedTask> {
        if let Event::TaskStarted { name, .. } | Event::TaskSkipped { name, .. } = event
            && self.tasks.len() < MOST_TASKS
        {
            // Without its multiconfig: files are listed by recipe.
            let recipe = name.recipe.rsplit(':').next().unwrap_or_default().to_owned();
            self.tasks.insert(TaskName { recipe, task: name.task.clone() });
        }
        match event {
            Event::TaskEnded { name, ok: false, setscene: false, log, .. } if self.budget.takes_failed(self.on) => {
                self.shared |= is_shared(&self.queue);
                let reasons = self.said_by.remove(name).unwrap_or_default();
                let failed = FailedTask { name: name.clone(), log: log.clone(), reasons, urls: Vec::new() };
                self.failed.push(failed.clone());
                return Some(failed);
            }
            Event::Message { level, text, task } if *level >= Level::Error => {
                self.disk_full |= text.contains(DISK_FULL) || text.contains(NO_ROOM);
                if let Some(task) = task {
                    self.note_said(task, text);
                }
                if !bitbake::log::is_repetition(text) {
                    self.note_error(|| Said::Message(beginning(text)));
                }
            }
            Event::NoProvider { item, close_matches, .. } => self.note_error(|| {
                let near = if close_matches.is_empty() { "" } else { "; near: " };
                let text = beginning(&format!("nothing provides `{item}`{near}{}", close_matches.join(", ")));
                Said::NoProvider { item: item.clone(), text }
            }),
            _ => {}
        }
        None
    }

    // Why a task failed whose log says nothing of it, or is not there.
    fn note_said(&mut self, task: &TaskName, text: &str) {
        let lines: Vec<String> = format!("ERROR: {text}").lines().map(str::to_owned).collect();
        let reasons = bitbake::log::reason(&lines);
        if self.said_by.len() < ERRORS_KEPT && !reasons.is_empty() {
            self.said_by.insert(task.clone(), reasons);
        }
    }

    fn note_reasons(&mut self, name: &TaskName, reasons: Vec<String>, urls: Vec<String>) {
        let Some(failed) = self.failed.iter_mut().rfind(|task| task.name == *name) else { return };
        failed.urls = urls;
        if !reasons.is_empty() {
            failed.reasons = reasons;
        }
    }

    fn note_error(&mut self, text: impl FnOnce() -> Said) {
        if self.errors.len() < ERRORS_KEPT {
            self.errors.push(text());
        }
    }

    // What was asked for since the last look.
    fn heed(&mut self, asked: Option<StopRequest>) {
        if let Some(request) = asked.filter(|_| asked > self.asked) {
            self.asked = asked;
            self.stop(request);
        }
    }

    fn stop(&mut self, request: StopRequest) {
        self.stopped = true;
        let force = request == StopRequest::Kill;
        self.on.emit(Event::Stopping { force });
        if force {
            self.control.kill();
        } else {
            self.control.interrupt();
            self.grace = Some(Instant::now() + GRACE);
        }
    }

    fn time_is_up(&mut self) {
        if self.grace.is_some() {
            self.on.emit(Event::Stopping { force: true });
            self.control.end();
            // Killed once; what remains is the message of its end.
            (self.grace, self.timeout) = (None, None);
        } else {
            self.timed_out = true;
            self.timeout = None;
            self.on.warn("the build's time is up (advanced.build_timeout)");
            self.on.emit(Event::Stopping { force: false });
            self.control.interrupt();
            self.grace = Some(Instant::now() + GRACE);
        }
    }

    fn finish(mut self, end: End, confinement: Confinement, uid: u32) -> Finished {
        let last = self.console.take().and_then(|mut console| console.end());
        last.into_iter().for_each(|event| self.learn(event));
        self.budget.tell(self.on);
        self.shared |= is_shared(&self.queue);
        let (usage, seen) = confinement.finish(end.usage);
        let unasked = !self.stopped && !self.timed_out && !self.starved;
        // SIGTERM is what a daemon that watches over memory sends first.
        let by_signal = [Signal::SIGKILL, Signal::SIGTERM].iter().any(|signal| end.status == 128 + *signal as i32);
        let failed = self.failed.first().map(|task| &task.name);
        let evidence = Evidence {
            seen: &seen,
            sign: self.sign.as_ref(),
            failed,
            killed: by_signal && unasked,
            shared: self.shared,
            uid,
        };
        Finished {
            exit: end.status,
            out_of_memory: memory::verdict(&evidence),
            usage,
            broken: end.broken.filter(|_| unasked),
            said_done: self.said_done,
            action: self.action,
            tasks: self.tasks,
            failed: self.failed,
            errors: self.errors,
            heard: self.heard,
            warnings: self.warnings,
            recovered: None,
            found: self.found,
            looked: self.looked,
            answers: self.answers,
            disk_full: self.disk_full,
            no_process: self.no_process,
            starved: self.starved,
            stopped: self.stopped,
            timed_out: self.timed_out,
        }
    }
}

/// Whether builds other than this one are in line.
fn is_shared(queue: &Path) -> bool {
    queue::held(queue).is_ok_and(|held| held > 1)
}

fn is_short_of_processes(line: &str) -> bool {
    NO_PROCESS.iter().any(|sign| line.contains(sign))
}

/// What is told of an error. Cut between words: half a secret would not be recognised.
fn beginning(text: &str) -> String {
    if text.len() <= ERROR_BYTES {
        return text.to_owned();
    }
    let start = (0..ERROR_BYTES).rev().find_map(|at| text.get(..at)).unwrap_or_default();
    format!("{} …", start.rsplit_once(char::is_whitespace).map_or("", |(words, _)| words))
}

/// The lines at the end of a log. One that is too long has only its end, behind a remark: errors stand there.
fn tail(mut file: File) -> Option<Vec<String>> {
    let length = file.metadata().ok()?.len();
    let start = length.saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes).ok()?;
    let mut lines: Vec<String> =
        bytes.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    // Behind the last newline there is nothing.
    lines.pop_if(|last| last.is_empty());
    if start > 0
        && let Some(first) = lines.first_mut()
    {
        // Half a word could be half a secret, which is not recognised.
        let whole = first.split_once(char::is_whitespace).map_or("", |(_, rest)| rest);
        *first = format!("[the beginning of this line is left out] {whole}");
    }
    Some(lines)
}
