//! Parses the lines of a conf file into [`Statement`]s. Knows nothing of the values of variables.
//!
//! BitBake's `bb.parse.parse_py.ConfHandler` is the specification: a line ends in a backslash to go on, a value stands between quotes of one
//! kind, and neither a quote nor a backslash can be escaped. Files that do not end in `.conf` are read by its `BBHandler`, which takes functions too.

/// How an assignment changes a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    /// `=`
    Set,
    /// `:=`, expanded at once.
    SetNow,
    /// `?=`, unless it is set.
    SetIfUnset,
    /// `??=`, while nothing else sets it.
    Default,
    /// `+=`, with a space.
    Append,
    /// `=+`, with a space.
    Prepend,
    /// `.=`
    AppendBare,
    /// `=.`
    PrependBare,
}

/// A statement that matters for layers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `NAME = "value"` and the like. Those of a flag (`NAME[flag] = …`) are left out.
    Assign {
        /// The variable, with overrides and `:append`.
        name: String,
        /// How.
        operator: Operator,
        /// The text between the quotes.
        value: String,
    },
    /// `include`, `require`, or `include_all`: names of files, not expanded.
    Include {
        /// The names, separated by spaces.
        files: String,
        /// Whether BitBake fails without them.
        required: bool,
    },
    /// `unset NAME`
    Unset(String),
}

/// Longest first: `??=` begins like `?=`.
const OPERATORS: [(&str, Operator); 8] = [
    ("??=", Operator::Default),
    ("?=", Operator::SetIfUnset),
    (":=", Operator::SetNow),
    ("+=", Operator::Append),
    ("=+", Operator::Prepend),
    ("=.", Operator::PrependBare),
    (".=", Operator::AppendBare),
    ("=", Operator::Set),
];

/// Reads a whole file. Functions and lines that BitBake does not know are skipped: it refuses the latter itself, with file and line.
pub(super) fn statements(text: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut block = Block::None;
    for line in joined(text) {
        if block.holds(&line) || line.starts_with('#') {
            continue;
        }
        match statement(&line) {
            Some(statement) => statements.push(statement),
            None => block = Block::begins(&line),
        }
    }
    statements
}

/// Whether the reader is in a function.
#[derive(PartialEq, Eq)]
enum Block {
    None,
    /// A function of Python or shell, up to a line that is only `}`.
    Braces,
    /// `def`, as long as lines are indented.
    Indented,
}

impl Block {
    fn begins(line: &str) -> Self {
        let name = line.strip_prefix("def ").map(str::trim_start);
        if name.is_some_and(|name| name.starts_with(|c: char| c.is_alphanumeric() || c == '_') && name.contains(':')) {
            return Self::Indented;
        }
        // `python () {`, `do_something:append() {`, `fakeroot python x() {`; never an assignment, which ends in a quote.
        if line.ends_with('{') && line.contains('(') { Self::Braces } else { Self::None }
    }

    /// Whether the line still belongs to it; leaves the function if not.
    fn holds(&mut self, line: &str) -> bool {
        match self {
            Self::None => false,
            Self::Braces => {
                if line == "}" {
                    *self = Self::None;
                }
                true
            }
            Self::Indented => {
                let inside = line.starts_with([' ', '\t', '#']);
                if !inside {
                    *self = Self::None;
                }
                inside
            }
        }
    }
}

/// All lines but empty ones, each joined with its continuation lines.
fn joined(text: &str) -> Vec<String> {
    // Python also ends a line at a `\r` alone.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = text.lines();
    let mut joined = Vec::new();
    while let Some(line) = lines.next() {
        let mut whole = line.trim_end().to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            whole.push_str(lines.next().unwrap_or_default().trim_end());
        }
        if !whole.is_empty() {
            joined.push(whole);
        }
    }
    joined
}

fn statement(line: &str) -> Option<Statement> {
    if let Some(assignment) = assignment(line) {
        return Some(assignment);
    }
    let (word, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    match word {
        _ if rest.is_empty() => None,
        "include" | "include_all" | "require" => {
            Some(Statement::Include { files: rest.into(), required: word == "require" })
        }
        "unset" if rest.chars().all(is_name) => Some(Statement::Unset(rest.into())),
        _ => None,
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_+.${}/~:".contains(c)
}

/// An assignment to a variable; none to a flag of it.
fn assignment(line: &str) -> Option<Statement> {
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with(char::is_whitespace) => rest.trim_start(),
        _ => line,
    };
    // The shortest name that is followed by an operator: `+`, `.` and `:` may be part of either.
    let end = line.find(|c| !is_name(c)).unwrap_or(line.len());
    (1..=end).find_map(|length| {
        let (name, rest) = line.split_at(length);
        // In the middle of a name, the usual case.
        if rest.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
            return None;
        }
        let (operator, value) = assigned(rest.trim_start())?;
        Some(Statement::Assign { name: name.into(), operator, value: value.into() })
    })
}

/// The operator, and the text between the quotes that reach to the end of the line.
fn assigned(rest: &str) -> Option<(Operator, &str)> {
    OPERATORS.iter().find_map(|(text, operator)| {
        let value = rest.strip_prefix(text)?.trim_start();
        let mark = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let inner = value.strip_prefix(mark)?.strip_suffix(mark)?;
        // `"a" b"`: BitBake refuses three quotes, and accepts four.
        (inner.matches(mark).count() != 1).then_some((*operator, inner))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Option<Statement> {
        let mut found = statements(line);
        assert!(found.len() < 2, "{line}: {found:?}");
        found.pop()
    }

    #[test]
    fn assignments_of_every_kind() {
        for (line, name, operator, value) in [
            ("A = \"x\"", "A", Operator::Set, "x"),
            ("A='x \"y\"'", "A", Operator::Set, "x \"y\""),
            ("A := \"x\"", "A", Operator::SetNow, "x"),
            ("A:=\"x\"", "A", Operator::SetNow, "x"),
            ("A ?= \"x\"", "A", Operator::SetIfUnset, "x"),
            ("A ??= \"x\"", "A", Operator::Default, "x"),
            ("A += \"x\"", "A", Operator::Append, "x"),
            ("A+=\"x\"", "A", Operator::Append, "x"),
            ("A =+ \"x\"", "A", Operator::Prepend, "x"),
            ("A .= \":${LAYERDIR}\"", "A", Operator::AppendBare, ":${LAYERDIR}"),
            ("A.=\"x\"", "A", Operator::AppendBare, "x"),
            ("A =. \"${LAYERDIR}:\"", "A", Operator::PrependBare, "${LAYERDIR}:"),
            ("A:append:arm = \" x\"", "A:append:arm", Operator::Set, " x"),
            ("A_b-c_append = \" x\"", "A_b-c_append", Operator::Set, " x"),
            ("export  A = \"x\"", "A", Operator::Set, "x"),
            ("exported = \"x\"", "exported", Operator::Set, "x"),
            ("A = \"\"", "A", Operator::Set, ""),
            ("A = \"x \\\n   y \\\n\"", "A", Operator::Set, "x    y "),
            ("A = \"x\" # \"y\"", "A", Operator::Set, "x\" # \"y"),
            ("A = \"x\"  \r\n", "A", Operator::Set, "x"),
        ] {
            let expected = Statement::Assign { name: name.into(), operator, value: value.into() };
            assert_eq!(one(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn other_lines() {
        let include = |files: &str, required| Some(Statement::Include { files: files.into(), required });
        assert_eq!(one("include  a.inc b.inc"), include("a.inc b.inc", false));
        assert_eq!(one("require ${LAYERDIR}/a.inc"), include("${LAYERDIR}/a.inc", true));
        assert_eq!(one("include_all a.inc"), include("a.inc", false));
        assert_eq!(one("unset A"), Some(Statement::Unset("A".into())));
        for nothing in [
            "",
            "  ",
            "# A = \"x\"",
            "# a \\\n# b",
            "# a \\\nA = \"x\"",
            "# a \\",
            "A[doc] = \"x\"",
            "unset A[doc]",
            "export A",
            "addpylib ${LAYERDIR}/lib x",
            "inherit x",
            "addtask a after b before c",
            // What BitBake refuses.
            "A = x",
            "A = \"x",
            "A = \"x\" y\"",
            " A = \"x\"",
            "A",
            "include",
            "= \"x\"",
        ] {
            assert_eq!(one(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn functions_hold_no_assignments() {
        for function in [
            "python () {\n    d.setVar('A', 'b')\nA = \"x\"\n}",
            "do_it:append() {\nA=\"x\"\n}",
            "def f(d):\n    a = \"b\"\n\n    return a",
        ] {
            let expected = Statement::Assign { name: "B".into(), operator: Operator::Set, value: "y".into() };
            assert_eq!(statements(&format!("{function}\nB = \"y\"\n")), [expected], "{function}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "(?s).{0,300}", lines in "[AB_:+=?.\\[\\]\"' \\\\\n#${}@a]{0,300}") {
            statements(&text);
            statements(&lines);
        }
    }
}
