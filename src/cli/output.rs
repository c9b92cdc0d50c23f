//! Standard output is data, standard error is talk.
//!
//! A build goes on when its output is closed; a command that only shows something ends.

use std::{
    cell::RefCell,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::{Map, Value};

pub(super) use anstream::ColorChoice;

use super::{
    live::{Frame, Room},
    voice::is_quiet,
    wrap,
};
use crate::{
    events::Redactor,
    model::{Kind, PeakOf, Shown, Usage, UserError},
};

/// The lines at the end of the terminal are drawn no more often than this.
const DRAWN_EVERY: Duration = Duration::from_millis(100);

/// A log whose lines are longer is shown in pieces.
const LONGEST_LINE: usize = 64 * 1024;

/// Prints a line of data. Whatever it says, it is one line.
pub(super) fn say(line: impl AsRef<str>) {
    say_shown(&fitting(&io::stdout(), Shown::line(line.as_ref())));
}

/// Prints data that may have several lines, of which only the first begins where lines of smidr do.
pub(super) fn say_lines(text: impl AsRef<str>) {
    say_shown(&fitting(&io::stdout(), Shown::lines(text.as_ref())));
}

/// Prints data whose lines are smidr's own.
pub(super) fn say_block(text: &str) {
    say_shown(&Shown::block(text));
}

/// Prints a document on one line.
pub(crate) fn say_json(document: &impl Serialize) {
    say_shown(&Shown::json(&serde_json::to_string(document).unwrap_or_default()));
}

/// Prints a document on one line; a closed pipe is no error.
pub(super) fn offer_json(document: &impl Serialize) {
    note(print(anstream::stdout().lock(), &Shown::json(&serde_json::to_string(document).unwrap_or_default())));
}

/// Prints what a shell reads, byte by byte.
pub(super) fn print_bytes(bytes: &[u8]) {
    note(io::stdout().write_all(bytes));
}

/// Prints a line of talk. Whatever it says, it is one line.
pub(super) fn talk(line: impl AsRef<str>) {
    if !is_quiet() {
        complain(line);
    }
}

/// Prints talk that may have several lines, of which only the first begins where lines of smidr do.
pub(super) fn talk_lines(text: impl AsRef<str>) {
    if !is_quiet() {
        complain_lines(text);
    }
}

/// Prints talk whose lines are smidr's own.
pub(super) fn talk_block(text: &str) {
    if !is_quiet() {
        complain_block(text);
    }
}

/// Prints a line of an error, however little is to be said. Whatever it says, it is one line.
pub(super) fn complain(line: impl AsRef<str>) {
    let _ = print(anstream::stderr().lock(), &fitting(&io::stderr(), Shown::line(line.as_ref())));
}

/// Prints an error that may have several lines, of which only the first begins where lines of smidr do.
pub(super) fn complain_lines(text: impl AsRef<str>) {
    let _ = print(anstream::stderr().lock(), &fitting(&io::stderr(), Shown::lines(text.as_ref())));
}

/// Prints a command to a CI system, which is a line as it is.
pub(super) fn annotate(command: &Shown) {
    let _ = print(anstream::stderr().lock(), command);
}

/// A line of a log, on standard error. Each is written at once.
pub(super) enum LogLine {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let line = match self {
            Self::Text => Shown::line(text.trim_end_matches('\n')),
            Self::Json => Shown::json(text.trim_end_matches('\n')),
        };
        // A log that is closed, or a disk that is full, ends no daemon.
        let _ = print(anstream::stderr().lock(), &line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints an error whose lines are smidr's own.
pub(super) fn complain_block(text: &str) {
    let _ = print(anstream::stderr().lock(), &Shown::block(text));
}

/// On a terminal, a text that breaks between words. What then stands at the beginning of a line is filtered once more.
fn fitting(stream: &(impl AsFd + io::IsTerminal), text: Shown) -> Shown {
    match width_of(stream) {
        None => text,
        Some(columns) => Shown::block(&wrap::wrap(&text.to_string(), columns)),
    }
}

/// The columns of a terminal; none for anything else.
fn width_of(stream: &(impl AsFd + io::IsTerminal)) -> Option<usize> {
    // Tests choose it, wherever they run.
    #[cfg(test)]
    let stream = COLUMNS.get().map(|columns| (stream, columns));
    #[cfg(test)]
    return stream.map(|(_, columns)| columns);
    #[cfg(not(test))]
    stream.is_terminal().then(|| size(stream)).flatten().map(|(_, columns)| columns)
}

/// The columns that tables have, on a terminal.
pub(super) fn room_for_tables() -> Option<usize> {
    width_of(&io::stdout())
}

/// A word with a colour.
pub(super) fn paint(colour: AnsiColor, text: &str) -> String {
    let style: Style = colour.on_default().bold();
    format!("{style}{text}{style:#}")
}

/// Asks for an answer on the same line.
pub(super) fn ask(question: &str) {
    let _ = write!(anstream::stderr().lock(), "{} ", Shown::line(question));
}

/// How much data is printed at once, in bytes, where there is much of it.
const PAGE: usize = 64 * 1024;

thread_local! {
    /// Data that is printed with what follows.
    static WAITING: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Prints the data of `work` in larger pieces. For what is all there, not for what comes bit by bit.
pub(crate) fn in_pages<T>(work: impl FnOnce() -> T) -> T {
    WAITING.set(Some(Vec::with_capacity(2 * PAGE)));
    let done = work();
    if let Some(rest) = WAITING.take() {
        end_at_closed_pipe(anstream::stdout().lock().write_all(&rest));
    }
    done
}

fn say_shown(text: &Shown) {
    let is_waiting = WAITING.with_borrow_mut(|waiting| {
        let Some(page) = waiting else { return false };
        // Memory takes anything.
        let _ = writeln!(page, "{text}");
        if page.len() >= PAGE {
            end_at_closed_pipe(anstream::stdout().lock().write_all(page));
            page.clear();
        }
        true
    });
    if !is_waiting {
        end_at_closed_pipe(print(anstream::stdout().lock(), text));
    }
}

fn end_at_closed_pipe(printed: io::Result<()>) {
    match printed {
        // `smidr logs | head` has seen enough. 128 and the number of SIGPIPE is what a shell would report.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(141),
        printed => note(printed),
    }
}

/// The first error of standard output but a closed pipe, such as a full disk.
static LOST: OnceLock<io::Error> = OnceLock::new();

fn note(printed: io::Result<()>) {
    if let Err(error) = printed.and_then(|()| io::stdout().flush())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = LOST.set(error);
    }
}

/// Standard output that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output could not be written, and what is missing there is lost")]
pub(super) struct Lost(#[source] io::Error);

impl UserError for Lost {
    fn kind(&self) -> Kind {
        Kind::Host
    }
}

/// What became of standard output, once everything is printed.
///
/// # Errors
///
/// When some of it could not be written.
pub(super) fn written() -> Result<(), Lost> {
    LOST.get().map_or(Ok(()), |error| Err(Lost(io::Error::new(error.kind(), error.to_string()))))
}

#[cfg(test)]
thread_local! {
    /// What this thread has printed.
    pub static PRINTED: RefCell<String> = const { RefCell::new(String::new()) };
    /// The width of the terminal that this thread prints on.
    static COLUMNS: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
}

/// What this thread has printed, as a terminal of a width shows it (none: no terminal), without colours.
#[cfg(test)]
pub(super) fn printed_on(columns: Option<usize>, work: impl FnOnce()) -> String {
    PRINTED.take();
    COLUMNS.set(columns);
    work();
    COLUMNS.set(None);
    anstream::adapter::strip_str(&PRINTED.take()).to_string()
}

#[cfg(not(test))]
fn print(mut to: impl Write, text: &Shown) -> io::Result<()> {
    writeln!(to, "{text}")
}

#[cfg(test)]
fn print(_: impl Write, text: &Shown) -> io::Result<()> {
    PRINTED.with_borrow_mut(|printed| *printed += &format!("{text}\n"));
    Ok(())
}

/// Where a file goes that is shown as it is: byte by byte, but for a terminal, which gets it as it gets everything.
pub(super) fn raw() -> Box<dyn Write> {
    match io::stdout().is_terminal() {
        true => Box::new(ByLine { to: anstream::stdout().lock(), line: Vec::new() }),
        false => Box::new(io::stdout().lock()),
    }
}

/// A document for scripts, or a part of one: fields by their names.
#[derive(Debug, Default, Serialize)]
pub(super) struct Document(Map<String, Value>);

/// A value holds what no document can: a path of the caller's own that is no UTF-8.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` cannot be written as JSON")]
pub(super) struct Unwritable {
    name: &'static str,
    source: serde_json::Error,
}

impl UserError for Unwritable {
    fn kind(&self) -> Kind {
        Kind::Request
    }
}

impl Document {
    /// A whole one, with the version that there is.
    pub(super) fn new() -> Self {
        Self(Map::from_iter([("version".into(), 1.into())]))
    }

    /// With one field more.
    ///
    /// # Errors
    ///
    /// When the value cannot be written down.
    pub(super) fn with(mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<Self, Unwritable> {
        self.0.insert(name.into(), serde_json::to_value(value).map_err(|source| Unwritable { name, source })?);
        Ok(self)
    }

    /// With the fields of a document.
    ///
    /// # Errors
    ///
    /// When the value cannot be written down.
    pub(super) fn with_all(mut self, fields: &impl Serialize) -> Result<Self, Unwritable> {
        match serde_json::to_value(fields).map_err(|source| Unwritable { name: "document", source })? {
            Value::Object(fields) => self.0.extend(fields),
            other => drop(self.0.insert("document".into(), other)),
        }
        Ok(self)
    }

    /// Prints it.
    pub(super) fn say(self) {
        self.say_without(&Redactor::default());
    }

    /// Prints it without secrets.
    pub(super) fn say_without(self, secrets: &Redactor) {
        let mut document = Value::from(self.0);
        secrets.json(&mut document);
        say_shown(&Shown::json(&format!("{document:#}")));
    }
}

struct ByLine<W: Write> {
    to: W,
    line: Vec<u8>,
}

impl<W: Write> ByLine<W> {
    fn end_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        writeln!(self.to, "{}", Shown::line(&String::from_utf8_lossy(&line)))
    }
}

impl<W: Write> Write for ByLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line()?,
                byte => self.line.push(*byte),
            }
            if self.line.len() >= LONGEST_LINE {
                self.end_line()?;
            }
        }
        Ok(bytes.len())
    }

    // Only the end of the file flushes.
    fn flush(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        self.to.flush()
    }
}

/// Lines at the end of the terminal that are drawn again and again, where people watch. Several builds have one below the other.
#[derive(Clone)]
pub(super) struct Bar {
    screen: Arc<Mutex<Screen>>,
    number: usize,
}

/// What stands at the end of the terminal.
#[derive(Default)]
struct Screen {
    blocks: Vec<Vec<String>>,
    frame: Frame,
    drawn: Option<Instant>,
}

impl Bar {
    /// One on standard error.
    pub(super) fn new() -> Self {
        let screen = Screen { blocks: vec![Vec::new()], ..Screen::default() };
        Self { screen: Arc::new(Mutex::new(screen)), number: 0 }
    }

    /// So many on standard error, one below the other.
    pub(super) fn several(count: usize) -> Vec<Self> {
        let screen = Screen { blocks: vec![Vec::new(); count], ..Screen::default() };
        let screen = Arc::new(Mutex::new(screen));
        (0..count).map(|number| Self { screen: screen.clone(), number }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much room there is for it.
    pub(super) fn room(&self) -> Room {
        let (rows, columns) = size(&io::stderr()).unwrap_or((24, 80));
        let is_one = self.lock().blocks.len() == 1;
        Room { columns, rows: if is_one { rows } else { 1 } }
    }

    /// Puts these lines in the place of those before. Each is one line, whatever it says.
    pub(super) fn show(&self, lines: &[String]) {
        let mut screen = self.lock();
        let Some(block) = screen.blocks.get_mut(self.number) else { return };
        *block = lines.iter().map(|line| String::from(Shown::line(line))).collect();
        // What is left out now is shown by the next look at the clocks.
        if lines.is_empty() || screen.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAWN_EVERY) {
            screen.draw();
        }
    }

    /// Steps aside for what people print.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        let mut screen = self.lock();
        screen.erase();
        print();
        screen.draw();
    }

    /// Takes it away.
    pub(super) fn clear(&self) {
        self.show(&[]);
    }

    /// What it says.
    #[cfg(test)]
    pub(super) fn message(&self) -> String {
        self.lock().blocks.concat().join("\n")
    }
}

impl Screen {
    fn draw(&mut self) {
        let lines = self.blocks.concat();
        let plain = anstream::AutoStream::choice(&io::stderr()) == ColorChoice::Never;
        let colour = |line: String| if plain { anstream::adapter::strip_str(&line).to_string() } else { line };
        let lines: Vec<String> = lines.into_iter().map(colour).collect();
        let text = self.frame.draw(&lines, columns());
        put(&text);
        self.drawn = Some(Instant::now());
    }

    fn erase(&mut self) {
        let text = self.frame.erase(columns());
        put(&text);
    }
}

fn columns() -> usize {
    size(&io::stderr()).map_or(80, |(_, columns)| columns)
}

// What moves the cursor is smidr's own, and no colour that a stream may take out.
fn put(text: &str) {
    if cfg!(not(test)) && !text.is_empty() {
        let mut to = io::stderr().lock();
        let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
    }
}

/// Rows and columns of a terminal.
fn size(stream: &impl AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stream).ok().filter(|size| size.ws_col > 0)?;
    Some((size.ws_row.into(), size.ws_col.into()))
}

/// A number of bytes for people.
pub(super) fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..1_000_000 => format!("{:.0} kB", size as f64 / 1e3),
        1_000_000..10_000_000 => format!("{:.1} MB", size as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{:.0} MB", size as f64 / 1e6),
        _ => format!("{:.1} GB", size as f64 / 1e9),
    }
}

/// A duration for people.
pub(super) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..10 => format!("{:.1} s", milliseconds as f64 / 1e3),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// What a build has used, for people.
pub(super) fn used(usage: &Usage) -> String {
    let whose = match usage.peak_of {
        PeakOf::Build => "",
        PeakOf::LargestProcess => " in its largest process",
    };
    let (cpu, peak) = (duration(usage.cpu_ms), bytes(usage.peak_memory));
    let (read, written) = (bytes(usage.read_bytes), bytes(usage.written_bytes));
    format!("{cpu} of processor time, up to {peak} of memory{whose}, {read} read, {written} written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_shown_line_by_line() {
        let mut by_line = ByLine { to: Vec::new(), line: Vec::new() };
        let long = "x".repeat(LONGEST_LINE + 1);
        write!(by_line, "a\x1b[2Jb\r\n::c\n{long}").expect("a line");
        by_line.write_all(b"\xff").expect("a byte");
        by_line.flush().expect("the end");
        let shown = String::from_utf8(by_line.to).expect("text");
        assert_eq!(shown, format!("a\\u{{1b}}[2Jb\\r\n:\\u{{3a}}c\n{}\nx\u{fffd}\n", "x".repeat(LONGEST_LINE)));
    }

    #[test]
    fn the_bar_shows_no_more_than_a_line() {
        let bar = Bar::new();
        bar.show(&["a\n\x1b[2Jb\u{9b}c".into()]);
        assert_eq!(bar.message(), "a\\n\\u{1b}[2Jb\\u{9b}c");
    }
}
