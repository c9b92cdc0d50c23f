//! Standard output is data, standard error is talk.
//!
//! A build does not end because nobody listens any more; a command that only shows something does.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    events::Redactor,
    model::{Explain, Kind, PeakOf, Usage},
};

/// Prints a line of data.
pub fn say(line: impl AsRef<str>) {
    if let Err(error) = writeln!(anstream::stdout().lock(), "{}", line.as_ref())
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        // `smidr logs | head` has seen enough. 128 and the number of SIGPIPE is what a shell would report.
        std::process::exit(141);
    }
}

/// Prints a line of data that nobody need read.
pub fn offer(line: impl AsRef<str>) {
    let _ = writeln!(anstream::stdout().lock(), "{}", line.as_ref());
}

/// Prints a line of talk.
pub fn talk(line: impl AsRef<str>) {
    let _ = writeln!(anstream::stderr().lock(), "{}", line.as_ref());
}

/// Where Unicode turns the direction of writing (Bidi_Control), so that text reads as something else.
const TURNS: [char; 12] = [
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}',
    '\u{2067}', '\u{2068}', '\u{2069}',
];

/// Text that may quote a hostile name: no control character reaches the terminal, and no line of it begins where ours do.
pub fn quoted(text: impl ToString) -> String {
    let mut out = String::new();
    for c in text.to_string().chars() {
        match c {
            '\n' => out.push_str("\n  "),
            '\t' => out.push(c),
            c if c.is_control() || TURNS.contains(&c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// A document for scripts, or a part of one: fields by their names.
#[derive(Debug, Default, Serialize)]
pub struct Document(Map<String, Value>);

/// A value holds what no document can: a path of the caller's own that is no UTF-8.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` cannot be written as JSON")]
pub struct Unwritable {
    name: &'static str,
    source: serde_json::Error,
}

impl Explain for Unwritable {
    fn kind(&self) -> Kind {
        Kind::Request
    }
}

impl Document {
    /// A whole one, with the version that there is.
    pub fn new() -> Self {
        Self(Map::from_iter([("version".into(), 1.into())]))
    }

    /// With one field more.
    ///
    /// # Errors
    ///
    /// When the value cannot be written down.
    pub fn with(mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<Self, Unwritable> {
        self.0.insert(name.into(), serde_json::to_value(value).map_err(|source| Unwritable { name, source })?);
        Ok(self)
    }

    /// Prints it.
    pub fn say(self) {
        self.say_without(&Redactor::default());
    }

    /// Prints it without secrets.
    pub fn say_without(self, secrets: &Redactor) {
        let mut document = Value::from(self.0);
        secrets.json(&mut document);
        say(format!("{document:#}"));
    }
}

/// Whether people watch standard error, on a terminal that can draw.
pub fn watched() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// A number of bytes for people.
pub fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..1_000_000 => format!("{:.0} kB", size as f64 / 1e3),
        1_000_000..10_000_000 => format!("{:.1} MB", size as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{:.0} MB", size as f64 / 1e6),
        _ => format!("{:.1} GB", size as f64 / 1e9),
    }
}

/// A duration for people.
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..10 => format!("{:.1} s", milliseconds as f64 / 1e3),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// What a build has used, for people.
pub fn used(usage: &Usage) -> String {
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
    fn nobody_speaks_in_our_name() {
        assert_eq!(quoted("no layer `a\nhint: rm -rf"), "no layer `a\n  hint: rm -rf");
        assert_eq!(quoted("a\r\u{1b}[2Jb\u{9b}c\té"), "a\\r\\u{1b}[2Jb\\u{9b}c\té");
    }
}
