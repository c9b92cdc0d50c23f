//! Text in the width of a terminal. In go text and a number of columns, out comes text. Pure; colours take no room.

use textwrap::{Options, WordSeparator, WordSplitter, core::display_width};

/// What stands before a command that is there to be typed: it is never broken.
const COMMAND: &str = ":  ";

/// The farthest column at which the words of a line may begin, behind its subject.
const FARTHEST: usize = 24;

/// What follows a number and belongs to it.
const UNITS: [&str; 8] = ["s", "min", "h", "%", "B", "kB", "MB", "GB"];

/// A blank at which no line breaks.
const NO_BREAK: char = '\u{a0}';

/// Breaks lines that are too long between words. What follows stands below the words of the first line; a command stands on a line of its own.
pub(super) fn wrap(text: &str, columns: usize) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| wrap_line(line, columns)).collect();
    lines.join("\n")
}

fn wrap_line(line: &str, columns: usize) -> String {
    if display_width(line) <= columns {
        return line.to_owned();
    }
    let indent = indent(line, columns);
    // What aligns columns is worth less than whole words.
    let line = &closer(line, width(&indent));
    if display_width(line) <= columns {
        return line.to_owned();
    }
    let (words, command) = match line.rsplit_once(COMMAND) {
        Some((words, command)) if !line.starts_with("| ") => (format!("{words}:"), Some(command.trim_start())),
        _ => (line.to_owned(), None),
    };
    let options = Options::new(columns)
        .subsequent_indent(&indent)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    let mut lines: Vec<String> =
        textwrap::wrap(&joined(&words), options).into_iter().map(|line| line.replace(NO_BREAK, " ")).collect();
    lines.extend(command.map(|command| format!("{indent}{command}")));
    lines.join("\n")
}

/// With the numbers tied to their units.
fn joined(words: &str) -> String {
    let mut text = String::new();
    let mut parts = words.split(' ').peekable();
    while let Some(part) = parts.next() {
        text.push_str(part);
        let unit = parts.peek().map(|next| next.trim_end_matches([',', ';', '.', ')']));
        let is_number = part.ends_with(|c: char| c.is_ascii_digit());
        match unit {
            Some(unit) if is_number && UNITS.contains(&unit) => text.push(NO_BREAK),
            Some(_) => text.push(' '),
            None => {}
        }
    }
    text
}

/// A line of smidr's own without the blanks that align what stands behind its subject.
fn closer(line: &str, subject: usize) -> String {
    match line.split_at_checked(subject) {
        Some((subject, rest)) if !line.starts_with(['|', ' ']) => {
            let parts: Vec<&str> =
                rest.split("  ").filter(|part| !part.is_empty()).map(|part| part.trim_start_matches(' ')).collect();
            format!("{subject}{}", parts.join("  "))
        }
        _ => line.to_owned(),
    }
}

/// What stands before the second line: below the words, if a subject stands before them.
fn indent(line: &str, columns: usize) -> String {
    if line.starts_with("| ") {
        return "|   ".into();
    }
    let words = line.trim_start_matches(' ');
    let leading = line.len() - words.len();
    let behind_subject = words.find("  ").map(|gap| {
        let rest = words.split_at(gap).1;
        leading + gap + rest.len() - rest.trim_start_matches(' ').len()
    });
    let column = match behind_subject {
        Some(column) if leading == 0 && column <= FARTHEST && column <= columns / 2 => column,
        _ => (leading + 2).min(columns / 2),
    };
    " ".repeat(column)
}

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    display_width(text)
}

/// A text without colours, with its end left out where it is too long.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if display_width(text) <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |c: &char| {
        let taken = display_width(c.encode_utf8(&mut [0; 4]));
        left.checked_sub(taken).inspect(|rest| left = *rest).is_some()
    };
    let start: String = text.chars().take_while(fits).collect();
    if columns == 0 { start } else { format!("{start}…") }
}

/// Rows below a header, in aligned columns. Where there are too many columns for the terminal, the last one is shortened.
pub(super) fn table(header: &[&str], rows: &[Vec<String>], columns: Option<usize>) -> Vec<String> {
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let all = || [&header].into_iter().chain(rows);
    let widths: Vec<usize> = (0..header.len())
        .map(|column| all().filter_map(|row| row.get(column)).map(|cell| display_width(cell)).max().unwrap_or_default())
        .collect();
    let last = header.len().saturating_sub(1);
    let before: usize = widths.iter().take(last).map(|width| width + 2).sum();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match columns {
            Some(columns) if column == last => cut(cell, columns.saturating_sub(before).max(8)),
            _ if column == last => cell.clone(),
            _ => format!("{cell}{}  ", " ".repeat(width.saturating_sub(display_width(cell)))),
        });
        cells.collect::<String>().trim_end().to_owned()
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_commands_stay_whole() {
        let rows = [
            ("short:  smidr trust", 40, "short:  smidr trust"),
            (
                "caches     this project's own: nothing is shared with others; to share yours:  smidr trust",
                60,
                "caches     this project's own: nothing is shared with\n           others; to share yours:\n           smidr trust",
            ),
            (
                "hint: look at the whole of it:  smidr logs my-system-0d9e51c2 --task hello:do_compile",
                40,
                "hint: look at the whole of it:\n  smidr logs my-system-0d9e51c2 --task hello:do_compile",
            ),
            (
                "log:    smidr logs my-system-0d9e51c2 --task hello:do_compile",
                40,
                "log:\n        smidr logs my-system-0d9e51c2 --task hello:do_compile",
            ),
            ("\u{1b}[1mabcde\u{1b}[0m fghij klmno", 11, "\u{1b}[1mabcde\u{1b}[0m fghij\n  klmno"),
            ("| gcc -O2 -c -o hello.o hello.c:  x", 20, "| gcc -O2 -c -o\n|   hello.o hello.c:\n|   x"),
            ("error: x failed (after 6.5 s)", 27, "error: x failed (after\n  6.5 s)"),
            ("bitbake    2.19.0                         42 tasks, 42 run", 40, "bitbake    2.19.0  42 tasks, 42 run"),
            ("  indented words that go on", 16, "  indented words\n    that go on"),
            (
                "error: first line is short\n  the second of them is long",
                26,
                "error: first line is short\n  the second of them is\n    long",
            ),
            (
                "a/path/that/is/longer/than/the/terminal and more",
                20,
                "a/path/that/is/longer/than/the/terminal\n  and more",
            ),
            ("漢字漢字漢字 漢字漢字", 12, "漢字漢字漢字\n  漢字漢字"),
        ];
        for (text, columns, expected) in rows {
            assert_eq!(wrap(text, columns), expected, "{text}");
        }
    }

    #[test]
    fn what_is_cut_says_so() {
        let rows =
            [("abcdef", 6, "abcdef"), ("abcdef", 4, "abc…"), ("漢字漢字", 5, "漢字…"), ("漢字", 1, "…"), ("a", 0, "")];
        for (text, columns, expected) in rows {
            assert_eq!(cut(text, columns), expected, "{text}");
        }
        let rows = [
            vec!["a-1".into(), "\u{1b}[32mGOOD\u{1b}[0m".into(), "core-image-minimal".into()],
            vec!["bb-22".into(), "X".into()],
        ];
        let shown = table(&["ID", "STATE", "TARGET"], &rows, Some(24));
        assert_eq!(shown, ["ID     STATE  TARGET", "a-1    \u{1b}[32mGOOD\u{1b}[0m   core-imag…", "bb-22  X"]);
        assert!(table(&["ID", "STATE", "TARGET"], &rows, None).concat().contains("core-image-minimal"));
    }
}
