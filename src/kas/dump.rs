//! A configuration as text: YAML as PyYAML writes it for `kas dump` (emitter.py), or JSON as Python does.

use super::yaml::{Key, Node, Scalar, Value, plain};

/// The forms of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}

/// Beyond this column, text is continued on the next line where it has a space.
const WIDTH: usize = 80;

/// The text of a configuration, `indent` blanks for each step; sorted by keys on request.
pub fn dump(config: &Node, form: Form, indent: usize, sorted: bool) -> String {
    let mut config = config.clone();
    if sorted {
        sort(&mut config);
    }
    match form {
        Form::Yaml => {
            // As PyYAML does where a number makes no sense.
            let step = if (2..10).contains(&indent) { indent } else { 2 };
            let mut emitter = Emitter { text: String::new(), step };
            emitter.node(&config, None, false);
            emitter.text
        }
        Form::Json => {
            let mut text = String::new();
            json(&config, indent, 0, &mut text);
            text.push('\n');
            text
        }
    }
}

fn sort(node: &mut Node) {
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(sort),
        Value::Map(map) => {
            map.sort_by_key(|(key, _)| key.scalar.to_string());
            map.iter_mut().for_each(|(_, node)| sort(node));
        }
    }
}

struct Emitter {
    text: String,
    step: usize,
}

impl Emitter {
    /// `indent` is that of the collection around it; `mapping` whether that is a mapping. What is written stands behind a colon or a dash.
    fn node(&mut self, node: &Node, indent: Option<usize>, mapping: bool) {
        match &node.value {
            Value::List(items) if items.is_empty() => self.text.push_str(" []\n"),
            Value::Map(map) if map.is_empty() => self.text.push_str(if indent.is_some() { " {}\n" } else { "{}\n" }),
            Value::Scalar(scalar) => {
                self.value(scalar, indent.unwrap_or_default() + self.step);
                if !self.text.ends_with('\n') {
                    self.text.push('\n');
                }
            }
            Value::List(items) => {
                let own = match indent {
                    Some(indent) if mapping => indent,
                    Some(indent) => indent + self.step,
                    None => 0,
                };
                for (at, item) in items.iter().enumerate() {
                    self.begin(own, at == 0 && !mapping && indent.is_some());
                    self.text.push('-');
                    self.node(item, Some(own), false);
                }
            }
            Value::Map(map) => {
                let own = indent.map_or(0, |indent| indent + self.step);
                for (at, (key, node)) in map.iter().enumerate() {
                    self.begin(own, at == 0 && !mapping && indent.is_some());
                    self.key(key);
                    self.text.push(':');
                    self.node(node, Some(own), true);
                }
            }
        }
    }

    /// Begins an entry of a collection: on a line of its own, or behind the dash of the entry that it is.
    fn begin(&mut self, indent: usize, behind_dash: bool) {
        if behind_dash {
            let line = self.column();
            self.text.push_str(&" ".repeat(indent.saturating_sub(line).max(1)));
            return;
        }
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.text.push_str(&" ".repeat(indent));
    }

    fn column(&self) -> usize {
        self.text.rsplit('\n').next().unwrap_or_default().chars().count()
    }

    fn key(&mut self, key: &Key) {
        match &key.scalar {
            Scalar::Text(text) => {
                let found = Analysis::of(text);
                if is_text(text) && found.block_plain && !text.is_empty() {
                    self.text.push_str(text);
                } else if found.single && !found.multiline {
                    self.single(text, None);
                } else {
                    self.double(text, None);
                }
            }
            scalar => self.text.push_str(&printed(scalar)),
        }
    }

    fn value(&mut self, scalar: &Scalar, indent: usize) {
        let text = match scalar {
            Scalar::Null => return,
            Scalar::Text(text) => text,
            scalar => {
                self.text.push(' ');
                return self.text.push_str(&printed(scalar));
            }
        };
        self.text.push(' ');
        let found = Analysis::of(text);
        if text.contains('\n') {
            if found.block {
                return self.literal(text, indent);
            }
        } else if is_text(text) && found.block_plain {
            return self.plain(text, indent);
        }
        if found.single { self.single(text, Some(indent)) } else { self.double(text, Some(indent)) }
    }

    fn line(&mut self, indent: usize) {
        self.text.push('\n');
        self.text.push_str(&" ".repeat(indent));
    }

    fn plain(&mut self, text: &str, indent: usize) {
        for (spaces, word) in words(text) {
            if spaces == 1 && self.column() > WIDTH {
                self.line(indent);
            } else {
                self.text.push_str(&" ".repeat(spaces));
            }
            self.text.push_str(word);
        }
    }

    /// `indent` is that of further lines; none where there can be none.
    fn single(&mut self, text: &str, indent: Option<usize>) {
        self.text.push('\'');
        for (at, line) in text.split('\n').enumerate() {
            if at > 0 {
                // One break would be a space.
                if at == 1 || !line.is_empty() {
                    self.text.push('\n');
                }
                if line.is_empty() { self.text.push('\n') } else { self.line(indent.unwrap_or_default()) }
            }
            let count = words(line).count();
            for (word_at, (spaces, word)) in words(line).enumerate() {
                let splits = spaces == 1 && word_at > 0 && word_at < count && !word.is_empty();
                match indent.filter(|_| splits && self.column() > WIDTH) {
                    Some(indent) => self.line(indent),
                    None => self.text.push_str(&" ".repeat(spaces)),
                }
                self.text.push_str(&word.replace('\'', "''"));
            }
        }
        self.text.push('\'');
    }

    fn double(&mut self, text: &str, indent: Option<usize>) {
        self.text.push('"');
        let count = text.chars().count();
        let mut chars = text.chars().enumerate().peekable();
        while let Some((at, c)) = chars.next() {
            let is_plain = (' '..='~').contains(&c) && c != '"' && c != '\\';
            if let Some(indent) = indent.filter(|_| at > 0 && at + 1 < count && c == ' ' && self.column() > WIDTH) {
                self.text.push('\\');
                self.line(indent);
                self.text.push('\\');
            }
            if is_plain {
                self.text.push(c);
                continue;
            }
            self.text.push_str(&escaped(c));
            if let Some(indent) = indent.filter(|_| at > 0 && at + 1 < count && self.column() > WIDTH) {
                self.text.push('\\');
                self.line(indent);
                if chars.peek().is_some_and(|(_, next)| *next == ' ') {
                    self.text.push('\\');
                }
            }
        }
        self.text.push('"');
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.text.push('|');
        if text.starts_with([' ', '\n']) {
            self.text.push_str(&self.step.to_string());
        }
        if !text.ends_with('\n') {
            self.text.push('-');
        } else if text == "\n" || text.ends_with("\n\n") {
            self.text.push('+');
        }
        self.text.push('\n');
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            if !line.is_empty() {
                self.text.push_str(&" ".repeat(indent));
                self.text.push_str(line);
            }
            self.text.push('\n');
        }
    }
}

fn is_text(text: &str) -> bool {
    // `=` and `<<` mean something of their own.
    matches!(plain(text), Scalar::Text(_)) && text != "=" && text != "<<"
}

fn printed(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Null => String::new(),
        Scalar::Bool(truth) => truth.to_string(),
        scalar => scalar.to_string(),
    }
}

/// The words of a line, each with the number of spaces before it; the last may be empty.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let word = rest.trim_start_matches(' ');
        let spaces = rest.len() - word.len();
        let (word, behind) = word.split_at(word.find(' ').unwrap_or(word.len()));
        rest = behind;
        Some((spaces, word))
    })
}

fn escaped(c: char) -> String {
    let short = match c {
        '\0' => '0',
        '\x07' => 'a',
        '\x08' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\x0b' => 'v',
        '\x0c' => 'f',
        '\r' => 'r',
        '\x1b' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{a0}' => '_',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        c if u32::from(c) <= 0xff => return format!("\\x{:02X}", u32::from(c)),
        c if u32::from(c) <= 0xffff => return format!("\\u{:04X}", u32::from(c)),
        c => return format!("\\U{:08X}", u32::from(c)),
    };
    format!("\\{short}")
}

/// In which styles a text can be written (`analyze_scalar`).
struct Analysis {
    multiline: bool,
    block_plain: bool,
    single: bool,
    block: bool,
}

impl Analysis {
    fn of(text: &str) -> Self {
        const BREAKS: [char; 4] = ['\n', '\u{85}', '\u{2028}', '\u{2029}'];
        let is_blank = |c: Option<char>| c.is_none_or(|c| BREAKS.contains(&c) || "\0 \t\r".contains(c));
        let chars: Vec<char> = text.chars().collect();
        let (mut indicators, mut special) = (text.starts_with("---") || text.starts_with("..."), false);
        let (mut space_break, mut break_space) = (false, false);
        for (at, c) in chars.iter().copied().enumerate() {
            let before = at.checked_sub(1).and_then(|at| chars.get(at)).copied();
            let after = chars.get(at + 1).copied();
            indicators |= match (at, c) {
                (0, c) if "#,[]{}&*!|>'\"%@`".contains(c) => true,
                (0, '?' | ':' | '-') => is_blank(after),
                (_, ':') => is_blank(after),
                (_, '#') => is_blank(before),
                _ => false,
            };
            special |= c != '\n' && !(' '..='~').contains(&c);
            space_break |= BREAKS.contains(&c) && before == Some(' ');
            break_space |= c == ' ' && before.is_some_and(|before| BREAKS.contains(&before));
        }
        let ends = [chars.first(), chars.last()].into_iter().flatten().any(|c| *c == ' ' || BREAKS.contains(c));
        let multiline = chars.iter().any(|c| BREAKS.contains(c));
        let trouble = space_break || special;
        Self {
            multiline,
            block_plain: !(indicators || ends || multiline || break_space || trouble),
            single: !(break_space || trouble),
            block: !(chars.is_empty() || chars.last() == Some(&' ') || trouble),
        }
    }
}

fn json(node: &Node, indent: usize, depth: usize, text: &mut String) {
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.push_str(&" ".repeat(indent * depth));
    };
    match &node.value {
        Value::Scalar(scalar) => json_scalar(scalar, text),
        Value::List(items) if items.is_empty() => text.push_str("[]"),
        Value::Map(map) if map.is_empty() => text.push_str("{}"),
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                text.push(if at == 0 { '[' } else { ',' });
                line(text, depth + 1);
                json(item, indent, depth + 1, text);
            }
            line(text, depth);
            text.push(']');
        }
        Value::Map(map) => {
            for (at, (key, node)) in map.iter().enumerate() {
                text.push(if at == 0 { '{' } else { ',' });
                line(text, depth + 1);
                match &key.scalar {
                    Scalar::Null => text.push_str("\"null\""),
                    Scalar::Bool(truth) => text.push_str(&format!("\"{truth}\"")),
                    scalar => json_text(&scalar.to_string(), text),
                }
                text.push_str(": ");
                json(node, indent, depth + 1, text);
            }
            line(text, depth);
            text.push('}');
        }
    }
}

fn json_scalar(scalar: &Scalar, text: &mut String) {
    match scalar {
        Scalar::Null => text.push_str("null"),
        Scalar::Text(value) | Scalar::Time(value) => json_text(value, text),
        scalar => text.push_str(&printed(scalar)),
    }
}

fn json_text(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\x08' => text.push_str("\\b"),
            '\x0c' => text.push_str("\\f"),
            ' '..='~' => text.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    text.push('"');
}
