//! A line of a console or a log: without colours, progress bars and the time stamps of CI, and with what BitBake puts before a message as fields.

use std::sync::LazyLock;

use regex::Regex;

use crate::model::Level;

/// How much of a line is looked at, in bytes. No message that matters is longer.
pub(super) const WIDTH: usize = 8 * 1024;

/// A line, taken apart.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Line {
    /// What a reader sees, without colours, progress bars and time stamps.
    pub(crate) text: String,
    /// Where the message itself begins in it.
    body: usize,
    /// What stands before it.
    pub(crate) level: Option<Level>,
    /// Package and task before the message: `hello-1.0-r0`, `do_compile`.
    pub(crate) owner: Option<(String, String)>,
    /// Whether BitBake printed it from a task's log, behind `| `.
    pub(super) is_log: bool,
    /// Whether kas printed it.
    pub(super) is_kas: bool,
}

/// A regular expression of this program's own.
macro_rules! pattern {
    ($text:expr) => {
        LazyLock::new(|| Regex::new($text).expect("a pattern of our own"))
    };
}
pub(crate) use pattern;

/// Escape sequences of terminals.
static ESCAPES: LazyLock<Regex> = pattern!(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])");
/// kas: `2026-09-15 14:27:18 - ERROR    - `.
static KAS: LazyLock<Regex> = pattern!(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - (DEBUG|INFO|WARNING|ERROR|CRITICAL) +- ");
/// Time stamps of GitHub, GitLab, Jenkins, docker's BuildKit and `ts`.
static STAMP: LazyLock<Regex> = pattern!(
    r"^(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?(?: \d\d[OE][ +])?\s?|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?\s|#\d+ \d+\.\d+ |[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d )"
);
/// A level at the beginning, or behind a progress bar that was not ended by a newline.
static LEVEL: LazyLock<Regex> = pattern!(
    r"^(?:(?:Parsing recipes|Loading cache|Initialising tasks|Checking sstate|Setscene tasks|Sstate summary|Running tasks|Currently ).*?)?(ERROR|WARNING|NOTE|DEBUG|CRITICAL|FATAL|VERBOSE):(?: |$)"
);
static OWNER: LazyLock<Regex> = pattern!(r"^(\S+) (do_\w+): ");

impl Line {
    /// Takes a line apart. What is no UTF-8 is replaced.
    pub(crate) fn new(raw: &[u8]) -> Self {
        let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
        // A progress bar draws itself anew behind a carriage return.
        let raw = raw.rsplit(|byte| *byte == b'\r').find(|part| !part.is_empty()).unwrap_or_default();
        let raw = raw.get(..WIDTH).unwrap_or(raw);
        let raw = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw);
        let lossy = String::from_utf8_lossy(raw);
        let mut text =
            if raw.contains(&0x1b) { ESCAPES.replace_all(&lossy, "").into_owned() } else { lossy.into_owned() };
        let mut line = Self::default();
        // A CI's, and kas's behind it.
        for _ in 0..2 {
            if let Some(found) = KAS.captures(&text) {
                line.is_kas = true;
                // What it relays has no level of its own.
                line.level = level(&found[1]).filter(|level| *level > Level::Note);
                text.drain(..found.get(0).map_or(0, |all| all.end()));
            } else if let Some(found) = STAMP.find(&text) {
                text.drain(..found.end());
            } else {
                break;
            }
        }
        let bars = text
            .as_bytes()
            .chunks(2)
            .take_while(|two| two.starts_with(b"|") && two.get(1).is_none_or(|next| *next == b' '))
            .count();
        line.is_log = bars > 0;
        text.drain(..text.len().min(2 * bars));
        if let Some(found) = LEVEL.captures(&text) {
            let word = found.get(1).expect("the group is not optional");
            line.level = level(word.as_str()).or(line.level);
            let (start, end) = (word.start(), found.get(0).map_or(0, |all| all.end()));
            text.drain(..start);
            line.body = end - start;
            if let Some(found) = text.get(line.body..).and_then(|body| OWNER.captures(body)) {
                line.owner = Some((found[1].to_owned(), found[2].to_owned()));
                line.body += found[0].len();
            }
        }
        line.text = text;
        line
    }

    /// The message itself.
    pub(crate) fn body(&self) -> &str {
        self.text.get(self.body..).unwrap_or_default()
    }

    /// Whether it goes on with the message of the line before it.
    pub(super) fn goes_on(&self) -> bool {
        self.level.is_none() || self.is_log
    }
}

fn level(word: &str) -> Option<Level> {
    Some(match word {
        "ERROR" => Level::Error,
        "CRITICAL" | "FATAL" => Level::Critical,
        "WARNING" => Level::Warning,
        "NOTE" | "INFO" => Level::Note,
        "VERBOSE" => Level::Verbose,
        "DEBUG" => Level::Debug,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_a_message_is_taken_off() {
        type Row = (&'static str, Option<Level>, Option<(&'static str, &'static str)>, &'static str);
        let rows: [Row; 14] = [
            ("plain", None, None, "plain"),
            ("ERROR: text", Some(Level::Error), None, "text"),
            ("ERROR: zlib-1.2-r0 do_fetch: text", Some(Level::Error), Some(("zlib-1.2-r0", "do_fetch")), "text"),
            (
                "\x1b[31;1mERROR: \x1b[0mzlib do_fetch: text\x1b[K",
                Some(Level::Error),
                Some(("zlib", "do_fetch")),
                "text",
            ),
            ("Parsing recipes...ERROR: text", Some(Level::Error), None, "text"),
            (
                "Parsing recipes:  10% |##   | ETA\rParsing recipes:  20% |###  |\rERROR: text",
                Some(Level::Error),
                None,
                "text",
            ),
            ("2026-01-01T10:00:00.1234567Z ERROR: text", Some(Level::Error), None, "text"),
            ("[2026-01-01T10:00:00.123Z] WARNING: text\r", Some(Level::Warning), None, "text"),
            ("2026-01-01 10:00:00 - INFO     - ERROR: text", Some(Level::Error), None, "text"),
            ("2026-01-01 10:00:00 - ERROR    - text", Some(Level::Error), None, "text"),
            ("2026-01-01T10:00:00.123456Z 01O ERROR: text", Some(Level::Error), None, "text"),
            ("#12 34.56 ERROR: text", Some(Level::Error), None, "text"),
            ("| | a.c:1:1: error: text", None, None, "a.c:1:1: error: text"),
            ("   57 | int a;", None, None, "   57 | int a;"),
        ];
        for (raw, level, owner, body) in rows {
            let line = Line::new(raw.as_bytes());
            let owner = owner.map(|(package, task)| (package.to_owned(), task.to_owned()));
            assert_eq!((line.level, &line.owner, line.body()), (level, &owner, body), "{raw}");
        }
        assert_eq!(Line::new(b"\xff\xfe|").text, "\u{fffd}\u{fffd}|");
        assert!(Line::new(&[b'x'; 1 << 20]).text.len() == WIDTH);
    }
}
