//! The log of a task: what in it tells people why the task failed. In go its lines, out come some of them. Pure, and best effort: the
//! whole log is always kept.

use std::collections::HashSet;

/// What BitBake writes before the frames of a Python function that raised, and the line behind them.
const FRAMES: [&str; 2] = [
    "Error executing a python function in ",
    "The stack trace of python calls that resulted in this exception/failure was:",
];
const RAISED: &str = "Exception: ";

/// What Python itself writes there.
const TRACEBACK: &str = "Traceback (most recent call last):";

/// How long a line of a reason may be, in characters.
const REASON_WIDTH: usize = 400;

/// How many sources are named of one task.
const MOST_SOURCES: usize = 100;

/// Whether a message of BitBake only repeats that something failed, which is told by other means.
pub(crate) fn is_repetition(text: &str) -> bool {
    let text = text.trim_start_matches("ERROR: ");
    (text.starts_with("Task (") && text.contains("failed with exit code"))
        || (text.starts_with("Execution of '")
            && text.lines().next().is_some_and(|line| line.contains("' failed with exit code")))
        || text.starts_with("Logfile of failure stored in")
        || text.starts_with("Fetcher failure: Fetch command ")
        || text.starts_with("Parsing halted due to errors")
        || text.starts_with("Command execution failed")
}

/// The lines that matter: without BitBake's debugging, the frames of Python, and what was said before.
pub(crate) fn essential(log: &[String]) -> Vec<&str> {
    let mut seen = HashSet::new();
    let (mut lines, mut skipping) = (Vec::new(), Skipping::Nothing);
    for line in log.iter().map(|line| line.trim_end()) {
        let bare =
            ["ERROR: ", "DEBUG: ", "WARNING: "].iter().find_map(|level| line.strip_prefix(level)).unwrap_or(line);
        skipping = match skipping {
            Skipping::Frames if !line.starts_with(RAISED) => Skipping::Frames,
            Skipping::Indented if line.starts_with([' ', '\t']) => Skipping::Indented,
            _ if FRAMES.iter().any(|begin| bare.starts_with(begin)) => Skipping::Frames,
            _ if line == TRACEBACK => Skipping::Indented,
            // A list of places that were looked at.
            _ if line.starts_with("DEBUG: ") && line.ends_with(':') => Skipping::Indented,
            _ => Skipping::Nothing,
        };
        let is_noise = line.starts_with("DEBUG: ")
            || line.starts_with("NOTE: ")
            || line.starts_with("WARNING: exit code ")
            || line.starts_with("WARNING: ") && line.contains("/temp/run.do_") && line.contains(" exit ")
            || is_repetition(bare);
        if !matches!(skipping, Skipping::Nothing) || is_noise {
            continue;
        }
        // A program may say the same twice, as part of another picture.
        if seen.insert(bare) || bare == line {
            lines.push(line);
        }
    }
    let blank = |line: &&&str| line.is_empty();
    let (before, after) = (lines.iter().take_while(blank).count(), lines.iter().rev().take_while(blank).count());
    lines.truncate(lines.len().saturating_sub(after));
    lines.drain(..before.min(lines.len()));
    lines
}

/// What is left out.
enum Skipping {
    Nothing,
    /// Up to the exception.
    Frames,
    /// As far as lines are indented.
    Indented,
}

/// Why the task failed: the most telling lines of its log, none if there are none.
pub(crate) fn reason(log: &[String]) -> Vec<String> {
    let lines = essential(log);
    let first = |is: fn(&str) -> bool| lines.iter().copied().find(|line| is(line)).map(str::trim_start);
    let exception = lines.iter().find_map(|line| raised(line));
    let told = exception.or_else(|| lines.iter().find_map(|line| line.strip_prefix("ERROR: ")));
    let reason = match (first(is_error), told) {
        (Some(error), _) => vec![error],
        // BitBake says what was tried, the program what came in its way.
        (None, Some(told)) => [told].into_iter().chain(first(is_cause)).collect(),
        (None, None) => first(is_cause).or(lines.last().map(|line| line.trim_start())).into_iter().collect(),
    };
    reason.into_iter().map(shortened).collect()
}

/// The sources that a task of fetching could not have: those that `fetch-all.bbclass` names, else the last one that is said to have failed everywhere, or
/// at its own place.
pub(crate) fn sources(task: &str, log: &[String]) -> Vec<String> {
    if task != "do_fetch" {
        return Vec::new();
    }
    let named = |begin: &str, end: char| -> Vec<&str> {
        let words = log.iter().filter_map(|line| line.split_once(begin)?.1.split(end).next());
        words.filter(|url| url.contains("://")).collect()
    };
    let mut all = named("NOTE: Could not be fetched: ", ' ');
    if all.is_empty() {
        let last = named("Fetcher failure for URL: '", '\'').pop();
        all.extend(last.or_else(|| named("Failed to fetch URL ", ',').pop()));
    }
    all.into_iter().take(MOST_SOURCES).map(shortened).collect()
}

/// `Exception: bb.fetch2.FetchError: words` without the names of Python.
fn raised(line: &str) -> Option<&str> {
    let words = line.strip_prefix(RAISED)?;
    let bare = words.split_once(": ").filter(|(class, _)| class.contains('.') && !class.contains(' '));
    Some(bare.map_or(words, |(_, bare)| bare))
}

/// What compilers, git, Python and CMake write before an error.
fn is_error(line: &str) -> bool {
    let own = ["ERROR: ", "WARNING: ", RAISED].iter().any(|level| line.starts_with(level));
    !own && (["error: ", "fatal: ", "Error: ", "undefined reference to"].iter().any(|sign| line.contains(sign))
        || line.starts_with("CMake Error"))
}

/// What other programs write.
fn is_cause(line: &str) -> bool {
    const SIGNS: [&str; 14] = [
        "failed: ",
        "FAILED",
        "not found",
        "No such file",
        "refused",
        "denied",
        "timed out",
        "Could not resolve",
        "ERROR 4",
        "ERROR 5",
        "No space left",
        "Killed",
        "unable to",
        "cannot ",
    ];
    let own = ["ERROR: ", "WARNING: ", RAISED].iter().any(|level| line.starts_with(level));
    !own && SIGNS.iter().any(|sign| line.contains(sign))
}

/// Cut between words: half a secret would not be recognised.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(REASON_WIDTH) {
        None => line.to_owned(),
        Some((at, _)) => {
            let start = line.get(..at).unwrap_or_default();
            format!("{} …", start.rsplit_once(char::is_whitespace).map_or("", |(words, _)| words))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_failed_fetch_is_told_once() {
        let log = lines(
            "DEBUG: Executing python function do_fetch
DEBUG: Searching for hello.c in paths:
    /layers/hello/files
DEBUG: Using /layers/hello/files/hello.c for hello.c
DEBUG: Running ['wget', 'http://example.com/none.tar.gz']
--2026-11-29 20:44:24--  http://example.com/none.tar.gz
Connecting to example.com... failed: Connection refused.
WARNING: Failed to fetch URL http://example.com/none.tar.gz, attempting MIRRORS if available
DEBUG: Fetcher failure: Fetch command ['wget'] failed with exit code 4, see logfile for output
ERROR: Fetcher failure: Fetch command ['wget'] failed with exit code 4, see logfile for output
ERROR: Error executing a python function in exec_func_python() autogenerated:

The stack trace of python calls that resulted in this exception/failure was:
File: 'exec_func_python() autogenerated', lineno: 2, function: <module>
     0001:
 *** 0002:do_fetch(d)
Exception: bb.fetch2.FetchError: Fetcher failure for URL: 'http://example.com/none.tar.gz'. Unable to fetch URL from any source.

DEBUG: Python function do_fetch finished",
        );
        let told = [
            "--2026-11-29 20:44:24--  http://example.com/none.tar.gz",
            "Connecting to example.com... failed: Connection refused.",
            "WARNING: Failed to fetch URL http://example.com/none.tar.gz, attempting MIRRORS if available",
            "Exception: bb.fetch2.FetchError: Fetcher failure for URL: 'http://example.com/none.tar.gz'. Unable to fetch URL from any source.",
        ];
        assert_eq!(essential(&log), told);
        let why = [
            "Fetcher failure for URL: 'http://example.com/none.tar.gz'. Unable to fetch URL from any source.",
            "Connecting to example.com... failed: Connection refused.",
        ];
        assert_eq!(reason(&log), why);
        assert_eq!(sources("do_fetch", &log), ["http://example.com/none.tar.gz"]);
        assert!(sources("do_compile", &log).is_empty());
        let revision = lines(
            "WARNING: Failed to fetch URL git://example.com/a.git;branch=main, attempting MIRRORS if available
ERROR: Fetcher failure: Unable to find revision 0123 in branch main even from upstream",
        );
        assert_eq!(sources("do_fetch", &revision), ["git://example.com/a.git;branch=main"]);
        let both = lines("NOTE: Could not be fetched: http://a/b\nNOTE: Could not be fetched: git://c/d;branch=main");
        assert_eq!(sources("do_fetch", &both), ["http://a/b", "git://c/d;branch=main"]);
        assert!(sources("do_fetch", &lines("ERROR: no SRC_URI")).is_empty());
    }

    #[test]
    fn the_most_telling_line_is_the_reason() {
        let long = format!("error: {}", "word ".repeat(200));
        let rows: [(&str, &[&str]); 9] = [
            (
                "DEBUG: Executing shell function do_compile\ngcc -c hello.c\nhello.c: In function 'main':\nhello.c:12:9: error: implicit declaration of function 'prinff'\n   12 |         prinff(text);\n      |         ^~~~~~\nhello.c:18:1: error: expected declaration\nmake: *** [<builtin>: hello.o] Error 1\nWARNING: exit code 2 from a shell command.",
                &["hello.c:12:9: error: implicit declaration of function 'prinff'"],
            ),
            (
                "DEBUG: Executing shell function do_patch\nApplying x.patch\npatching file Makefile\nHunk #1 FAILED at 2.\n1 out of 1 hunk FAILED -- saving rejects\nWARNING: exit code 1 from a shell command.",
                &["Hunk #1 FAILED at 2."],
            ),
            (
                "/b/temp/run.do_fetch.7: line 12: wget: command not found\nWARNING: /b/temp/run.do_fetch.7:180 exit 127 from 'wget'",
                &["/b/temp/run.do_fetch.7: line 12: wget: command not found"],
            ),
            (
                "ERROR: QA Issue: hello: Files/directories were installed but not shipped [installed-vs-shipped]\nERROR: Fatal QA errors were found, failing task.",
                &["QA Issue: hello: Files/directories were installed but not shipped [installed-vs-shipped]"],
            ),
            (
                "Traceback (most recent call last):\n  File \"setup.py\", line 3, in <module>\n    import nothing\nModuleNotFoundError: No module named 'nothing'",
                &["ModuleNotFoundError: No module named 'nothing'"],
            ),
            ("doing this\ndoing that", &["doing that"]),
            ("DEBUG: Executing shell function do_act\nWARNING: exit code 1 from a shell command.", &[]),
            ("", &[]),
            (&long, &[]),
        ];
        for (log, expected) in rows {
            let reason = reason(&lines(log));
            match log.len() {
                ..=999 => assert_eq!(reason, expected, "{log}"),
                _ => assert!(reason.iter().all(|line| line.len() < 420 && line.ends_with("word …")), "{reason:?}"),
            }
        }
    }
}
