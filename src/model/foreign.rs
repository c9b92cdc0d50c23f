//! Foreign text: what builds, images, repositories, servers and names of files say. In goes any text, out comes [`Shown`], which can be
//! made here only: the one policy of what a terminal or the log of a CI system gets to see.
//!
//! *Escaped*, so that it can be read and does nothing: control characters (C0, DEL, C1) and with them every escape sequence, what turns
//! the direction of writing (Trojan Source, CVE-2021-42574), line and paragraph separators, and what cannot be seen (UTS #36, section
//! 2.10; UTS #39): Default_Ignorable_Code_Point, tags included.
//! *Kept*: tabs; colours (`ESC [ … m`), where the constructor says so, ended at the end of a line; joiners between letters that are not
//! ASCII, and one variation selector after a visible character, because scripts and emoji are written with them.
//! *Defused*: commands to CI systems. GitHub obeys `::name` after any white space at the beginning of a line, GitHub and Azure
//! `##[name]` and `##vso[name]` anywhere in it, TeamCity `##teamcity[name]`; a prefix alone would not do.

use std::fmt;

/// Text that may be printed: the only kind that `cli::output` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown(String);

/// What becomes of the ends of lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Newline {
    Escaped,
    Indented,
    Kept,
}

impl Shown {
    /// One line, whatever the text says. Colours stay.
    pub fn line(text: &str) -> Self {
        Self(Filter::new(Newline::Escaped, true, escape).run(text))
    }

    /// One line without colours: for a place in a text that has colours of its own, or is cut to a width.
    pub fn plain(text: &str) -> Self {
        Self(Filter::new(Newline::Escaped, false, escape).run(text))
    }

    /// Several lines. All but the first are indented: none of them begins where lines of smidr do.
    pub fn lines(text: &str) -> Self {
        Self(Filter::new(Newline::Indented, true, escape).run(text.trim_end_matches('\n')))
    }

    /// Several lines of which smidr has decided where each begins. What is foreign in it must have been [`Shown::plain`] before.
    pub fn block(text: &str) -> Self {
        Self(Filter::new(Newline::Kept, true, escape).run(text))
    }

    /// A document in JSON: the same document, with escapes of JSON.
    pub fn json(document: &str) -> Self {
        Self(Filter::new(Newline::Kept, false, escape_json).run(document))
    }
}

impl Shown {
    /// The one command to a CI system that smidr gives itself: `::error file=…,line=…,title=…::message` of GitHub's runner. What is foreign in
    /// it is filtered like any other text, and then escaped as the runner takes the command apart.
    pub fn annotation(level: &str, properties: &[(&str, &str)], message: &str) -> Self {
        let data = |text: &str| String::from(Self::plain(text)).replace('%', "%25");
        let property =
            |(name, value): &(&str, &str)| format!("{name}={}", data(value).replace(':', "%3A").replace(',', "%2C"));
        let properties: Vec<String> = properties.iter().map(property).collect();
        let message: Vec<String> = message.lines().map(data).collect();
        Self(format!("::{level} {}::{}", properties.join(","), message.join("%0A")))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<Shown> for String {
    fn from(Shown(text): Shown) -> Self {
        text
    }
}

/// One pass over a text. Colours count as nothing where commands are looked for, since they are left out where no terminal is.
struct Filter {
    newline: Newline,
    colours: bool,
    escape: fn(char, &mut String),
    out: String,
    // The last character that can be seen in this line.
    last: Option<char>,
    lead: Lead,
    hashes: Hashes,
    coloured: bool,
}

/// What of a line has been seen, as far as `::` matters.
enum Lead {
    Blank,
    Colon,
    Text,
}

/// How much of `##name[` has been seen.
enum Hashes {
    None,
    One,
    Two,
}

impl Filter {
    fn new(newline: Newline, colours: bool, escape: fn(char, &mut String)) -> Self {
        let (last, lead, hashes) = (None, Lead::Blank, Hashes::None);
        Self { newline, colours, escape, out: String::new(), last, lead, hashes, coloured: false }
    }

    fn run(mut self, text: &str) -> String {
        self.out.reserve(text.len());
        let mut rest = text;
        loop {
            if let Some((colour, after)) = colour(rest).filter(|_| self.colours) {
                self.out.push_str(colour);
                self.coloured = !["\x1b[m", "\x1b[0m"].contains(&colour);
                rest = after;
                continue;
            }
            let mut chars = rest.chars();
            let Some(c) = chars.next() else { break };
            rest = chars.as_str();
            match (c, self.newline) {
                ('\n', Newline::Kept) => self.end_line("\n"),
                ('\n', Newline::Indented) => self.end_line("\n  "),
                _ => self.character(c, chars.next()),
            }
        }
        self.end_line("");
        self.out
    }

    fn end_line(&mut self, end: &str) {
        if std::mem::take(&mut self.coloured) {
            self.out.push_str("\x1b[0m");
        }
        self.out.push_str(end);
        (self.last, self.lead, self.hashes) = (None, Lead::Blank, Hashes::None);
    }

    fn character(&mut self, c: char, next: Option<char>) {
        let command = self.is_command(c);
        if command || self.is_hidden(c, next) {
            (self.escape)(c, &mut self.out);
            (self.last, self.lead, self.hashes) = (Some('}'), Lead::Text, Hashes::None);
        } else {
            self.out.push(c);
            self.last = Some(c);
        }
    }

    /// Whether this character would complete the beginning of a command.
    fn is_command(&mut self, c: char) -> bool {
        let colons = matches!((&self.lead, c), (Lead::Colon, ':'));
        self.lead = match (&self.lead, c) {
            (Lead::Blank, ':') => Lead::Colon,
            (Lead::Blank, c) if c.is_whitespace() => Lead::Blank,
            _ => Lead::Text,
        };
        let bracket = matches!((&self.hashes, c), (Hashes::Two, '['));
        self.hashes = match (&self.hashes, c) {
            (Hashes::None, '#') => Hashes::One,
            (Hashes::One | Hashes::Two, '#') => Hashes::Two,
            (Hashes::Two, c) if c.is_ascii_alphabetic() => Hashes::Two,
            _ => Hashes::None,
        };
        colons || bracket
    }

    fn is_hidden(&self, c: char, next: Option<char>) -> bool {
        let visible = |c: char| !c.is_control() && !is_ignorable(c);
        match c {
            '\t' => false,
            // Joiners of scripts and emoji: nothing in ASCII is joined.
            '\u{200c}' | '\u{200d}' => {
                let before = self.last.is_some_and(|c| !c.is_ascii() && (visible(c) || is_selector(c)));
                !(before && next.is_some_and(|c| !c.is_ascii() && visible(c)))
            }
            c if is_selector(c) => !self.last.is_some_and(|last| visible(last) && !last.is_whitespace()),
            c => !visible(c),
        }
    }
}

/// The colour that a text begins with, and what follows: `ESC [`, numbers, `m` (ECMA-48, SGR).
fn colour(text: &str) -> Option<(&str, &str)> {
    let numbers = text.strip_prefix("\x1b[")?;
    let after = numbers.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';' || c == ':').strip_prefix('m')?;
    text.split_at_checked(text.len() - after.len())
}

fn is_selector(c: char) -> bool {
    matches!(c, '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt), in which all of Bidi_Control lies; line and paragraph
/// separators; and annotations, of which terminals show one half.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

fn escape(c: char, out: &mut String) {
    match c {
        // These are printable, and would stay as they are.
        ':' | '[' => out.extend(c.escape_unicode()),
        c => out.extend(c.escape_default()),
    }
}

fn escape_json(c: char, out: &mut String) {
    let mut units = [0; 2];
    for unit in c.encode_utf16(&mut units) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

/// What no terminal may get, and no CI system obeys; `None` where all is well.
#[cfg(test)]
pub fn danger(text: &str) -> Option<String> {
    let bare = without_colours(text);
    let bad = bare.chars().find(|c| {
        c.is_control() && !"\t\n".contains(*c)
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}'
                | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    });
    let obeyed = bare.lines().find(|line| {
        let command = line
            .split("##")
            .skip(1)
            .any(|after| after.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '#').starts_with('['));
        command || line.trim_start().starts_with("::")
    });
    bad.map(|c| c.escape_unicode().to_string()).or(obeyed.map(str::to_owned))
}

#[cfg(test)]
fn without_colours(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        rest = colour(rest).map_or_else(
            || {
                out.push(c);
                rest.split_at(c.len_utf8()).1
            },
            |(_, after)| after,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> String {
        Shown::line(text).into()
    }

    #[test]
    fn each_kind_of_text() {
        let rows = [
            ("plain", "plain"),
            ("a\tb é 漢 مرحبا हिन्दी", "a\tb é 漢 مرحبا हिन्दी"),
            ("a\nb\r", "a\\nb\\r"),
            ("\x1b[2J\x1b[1;1H", "\\u{1b}[2J\\u{1b}[1;1H"),
            ("\x1b]52;c;cHduZWQ=\x07", "\\u{1b}]52;c;cHduZWQ=\\u{7}"),
            ("\x1b]8;;http://x\x1b\\y", "\\u{1b}]8;;http://x\\u{1b}\\y"),
            ("\x1bPq\x1bc\x08\x7f", "\\u{1b}Pq\\u{1b}c\\u{8}\\u{7f}"),
            ("\u{9b}2J\u{9d}0;t\u{9c}", "\\u{9b}2J\\u{9d}0;t\\u{9c}"),
            ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
            ("\x1b[38:5:1mred", "\x1b[38:5:1mred\x1b[0m"),
            ("\x1b[>4;2m \x1b[?1m \x1b[1 m", "\\u{1b}[>4;2m \\u{1b}[?1m \\u{1b}[1 m"),
            ("a\u{202e}b\u{2066}c\u{61c}d\u{200f}", "a\\u{202e}b\\u{2066}c\\u{61c}d\\u{200f}"),
            ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
            ("pass\u{200b}word \u{feff}\u{ad}\u{3164}", "pass\\u{200b}word \\u{feff}\\u{ad}\\u{3164}"),
            ("a\u{e0041}\u{e0001}", "a\\u{e0041}\\u{e0001}"),
            // A family, a heart in colour, a keycap, Persian.
            (
                "👩\u{200d}👧 ❤\u{fe0f} 1\u{fe0f}\u{20e3} می\u{200c}خواهم",
                "👩\u{200d}👧 ❤\u{fe0f} 1\u{fe0f}\u{20e3} می\u{200c}خواهم",
            ),
            ("❤\u{fe0f}\u{200d}🔥", "❤\u{fe0f}\u{200d}🔥"),
            ("a\u{200d}b \u{200c}é", "a\\u{200d}b \\u{200c}é"),
            ("a\u{fe01}\u{fe02}\u{e0101}", "a\u{fe01}\\u{fe02}\u{e0101}"),
            ("::add-mask::x", ":\\u{3a}add-mask::x"),
            (" \u{a0}\x1b[31m:\x1b[32m:x", " \u{a0}\x1b[31m:\x1b[32m\\u{3a}x\x1b[0m"),
            ("busybox::do", "busybox::do"),
            ("x ##[error]y", "x ##\\u{5b}error]y"),
            (
                "##vso[task.x]##teamcity[y] ###[z] #\x1b[m#[a]",
                "##vso\\u{5b}task.x]##teamcity\\u{5b}y] ###\\u{5b}z] #\x1b[m#\\u{5b}a]",
            ),
            ("## heading [1] ####", "## heading [1] ####"),
        ];
        for (text, expected) in rows {
            let shown = line(text);
            assert_eq!(shown, expected, "{text:?}");
            assert_eq!(danger(&shown), None, "{text:?}");
        }
    }

    #[test]
    fn an_annotation_is_one_command_whatever_it_says() {
        let of = |file: &str, message: &str| {
            String::from(Shown::annotation("error", &[("file", file), ("title", "a:b,c")], message))
        };
        assert_eq!(of("a/b.bb", "100 %\nof x: y, z"), "::error file=a/b.bb,title=a%3Ab%2Cc::100 %25%0Aof x: y, z");
        let hostile = of("x::set-env name=A::\n##[add-mask]b,line=7", "a\r\n::stop-commands::x\n##[error]y\u{2028}%0A");
        assert_eq!(hostile.lines().count(), 1);
        assert_eq!(hostile.matches("::").count(), 3, "{hostile}");
        assert!(!hostile.contains("##[") && hostile.ends_with("y\\u{2028}%250A"), "{hostile}");
    }

    #[test]
    fn lines_of_others_begin_nowhere_where_ours_do() {
        let lines = |text: &str| String::from(Shown::lines(text));
        assert_eq!(lines("no layer `a\nhint: rm -rf\n\n"), "no layer `a\n  hint: rm -rf");
        assert_eq!(lines("\x1b[31ma\nb"), "\x1b[31ma\x1b[0m\n  b");
        assert_eq!(lines("a\n::add-mask::x\n\u{2028}"), "a\n  :\\u{3a}add-mask::x\n  \\u{2028}");
        assert_eq!(String::from(Shown::plain("\x1b[31ma")), "\\u{1b}[31ma");
        assert_eq!(String::from(Shown::block("a\n\x1b[31mb\n::c")), "a\n\x1b[31mb\x1b[0m\n:\\u{3a}c");
    }

    proptest! {
        #[test]
        fn nothing_dangerous_comes_out_of_anything(
            parts in prop::collection::vec(
                prop_oneof![
                    any::<char>().prop_map(String::from),
                    prop::sample::select(vec![
                        "\x1b", "[", "\x1b[31m", "\x1b[m", "\n", "\r", " ", "::", ":", "#", "##", "vso[", "\u{200d}", "\u{fe0f}", "é", "a",
                        "\u{9b}", "\u{202e}", "\t", "\\",
                    ])
                    .prop_map(String::from),
                ],
                0..24,
            ),
        ) {
            let text = parts.concat();
            for shown in [Shown::line(&text), Shown::plain(&text), Shown::lines(&text), Shown::block(&text)] {
                prop_assert_eq!(danger(&shown.0), None);
            }
            let once = line(&text);
            prop_assert!(!once.contains('\n'));
            prop_assert_eq!(&line(&once), &once);
            prop_assert!(Shown::lines(&text).0.split('\n').skip(1).all(|line| line.starts_with("  ")));
            let document = serde_json::Value::from_iter([("text", serde_json::Value::from(text.clone())), ("list", vec![text.clone()].into())]);
            for json in [document.to_string(), format!("{document:#}")] {
                let shown = Shown::json(&json).0;
                prop_assert_eq!(danger(&shown), None);
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).ok(), Some(document.clone()));
            }
        }

        #[test]
        fn plain_text_stays_as_it_is(text in "[a-zA-Z0-9 äöü漢字.,/(){}=\"'-]*") {
            prop_assert_eq!(line(&text), text);
        }
    }
}
