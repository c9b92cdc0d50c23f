//! The lines of a conf file as statements: text in, [`Statement`]s out. Knows nothing of what variables hold.
//!
//! BitBake's `bb.parse.parse_py.ConfHandler` is the specification: a line ends in a backslash to go on, a value stands between quotes of one
//! kind, and neither a quote nor a backslash can be escaped. Files that do not end in `.conf` are read by its `BBHandler`, which takes functions too.

use std::path::Path;

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

/// What the reader needs to know of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `NAME = "value"` and its kin. Those of a flag (`NAME[flag] = …`) are left out: nothing here asks for one.
    Assign {
        /// The variable, with overrides and `:append`.
        name: String,
        /// How.
        operator: Operator,
        /// As it stands between the quotes.
        value: String,
    },
    /// `include`, `require`, or `include_all`: names of files, not expanded.
    Include {
        /// The names, separated by spaces.
        files: String,
        /// Whether BitBake refuses to go on without them.
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

/// Which of BitBake's parsers reads a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `.conf`: nothing but assignments and includes.
    Conf,
    /// `.inc`, as recipes are: functions and tasks too.
    Recipe,
}

impl Dialect {
    /// By the end of the file's name, as BitBake has it.
    pub(super) fn of(path: &Path) -> Self {
        if path.as_os_str().as_encoded_bytes().ends_with(b".conf") { Self::Conf } else { Self::Recipe }
    }
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Each with the number of its first line.
    pub statements: Vec<(usize, Statement)>,
    /// The first line that BitBake would refuse.
    pub refused: Option<(usize, String)>,
}

/// What only recipes may say, of no interest here.
const OF_RECIPES: [&str; 6] = ["inherit", "inherit_defer", "EXPORT_FUNCTIONS", "addtask", "deltask", "addhandler"];

/// Reads a whole file.
///
/// Functions have no place in a `.conf` file, and BitBake says so; what is inside of them is not taken for assignments all the same.
pub(super) fn statements(text: &str, dialect: Dialect) -> Content {
    let (mut statements, mut refused) = (Vec::new(), None);
    let mut block = Block::None;
    for line in joined(text) {
        if block.holds(&line.text) {
            continue;
        }
        if line.text.starts_with('#') && !line.torn {
            continue;
        }
        // Nothing comes of it there: BitBake waits for the rest.
        if line.cut && dialect == Dialect::Recipe {
            continue;
        }
        let read = statement(&line.text);
        block = if matches!(read, Line::Refused) { Block::begins(&line.text) } else { Block::None };
        let fine = match read {
            _ if line.torn => false,
            _ if block != Block::None => dialect == Dialect::Recipe,
            Line::Statement(statement) => {
                statements.push((line.number, statement));
                true
            }
            Line::Nothing => true,
            Line::Refused => dialect == Dialect::Recipe && OF_RECIPES.contains(&first_word(&line.text)),
        };
        if !fine {
            refused = refused.or(Some((line.number, line.text)));
        }
    }
    Content { statements, refused }
}

fn first_word(line: &str) -> &str {
    line.split(char::is_whitespace).next().unwrap_or_default()
}

/// Where the reader is in a function.
#[derive(PartialEq, Eq)]
enum Block {
    None,
    /// A function of Python or shell, to a line with nothing but `}`.
    Braces,
    /// `def`, while lines are indented.
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

    /// Whether the line still belongs to it; ends it where not.
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

/// A line with what continues it.
struct Whole {
    /// Of its first line.
    number: usize,
    text: String,
    /// A comment that goes on in a line that is none: BitBake asks which of the two it is.
    torn: bool,
    /// It goes on, and the file does not.
    cut: bool,
}

/// All lines but those that are empty.
fn joined(text: &str) -> Vec<Whole> {
    // Python reads `\r` alone as the end of a line too.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = text.strip_suffix('\n').unwrap_or(&text).split('\n').enumerate();
    let mut joined = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let mut whole = Whole { number: number + 1, text: line.trim_end().to_owned(), torn: false, cut: false };
        while whole.text.ends_with('\\') {
            whole.text.pop();
            let more = lines.next().map(|(_, more)| more.trim_end());
            whole.torn |= whole.text.starts_with('#') && !more.is_some_and(|more| more.starts_with('#'));
            match more {
                Some(more) => whole.text.push_str(more),
                None => {
                    whole.cut = true;
                    break;
                }
            }
        }
        joined.push(whole);
    }
    joined
}

enum Line {
    Statement(Statement),
    /// Fine, and of no interest here.
    Nothing,
    Refused,
}

fn statement(line: &str) -> Line {
    if let Some(assignment) = assignment(line) {
        return assignment.map_or(Line::Nothing, Line::Statement);
    }
    let Some((word, rest)) = line.split_once(char::is_whitespace) else {
        return if line.is_empty() { Line::Nothing } else { Line::Refused };
    };
    let rest = rest.trim_start();
    match word {
        _ if rest.is_empty() => Line::Refused,
        "include" | "include_all" | "require" => {
            Line::Statement(Statement::Include { files: rest.into(), required: word == "require" })
        }
        "unset" if rest.ends_with(']') => Line::Nothing,
        "unset" if rest.chars().all(is_name) => Line::Statement(Statement::Unset(rest.into())),
        "export" if rest.chars().all(is_name) => Line::Nothing,
        "addpylib" | "addfragments" => Line::Nothing,
        _ => Line::Refused,
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_+.${}/~:".contains(c)
}

/// None: no assignment; `Some(None)`: one of a flag.
fn assignment(line: &str) -> Option<Option<Statement>> {
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with(char::is_whitespace) => rest.trim_start(),
        _ => line,
    };
    // The shortest name that leaves an operator behind it: `+`, `.` and `:` may be part of either.
    let end = line.find(|c| !is_name(c)).unwrap_or(line.len());
    (1..=end).find_map(|length| {
        let (name, rest) = line.split_at(length);
        // In the middle of a name, as almost always.
        if rest.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
            return None;
        }
        let (flag, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((flag, rest)) => (Some(flag), rest),
            None => (None, rest),
        };
        let (operator, value) = assigned(rest.trim_start())?;
        let assign = || Statement::Assign { name: name.into(), operator, value: value.into() };
        Some(flag.is_none().then(assign))
    })
}

/// The operator, and what stands between the quotes that go to the end of the line.
fn assigned(rest: &str) -> Option<(Operator, &str)> {
    OPERATORS.iter().find_map(|(text, operator)| {
        let value = rest.strip_prefix(text)?.trim_start();
        let mark = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let inner = value.strip_prefix(mark)?.strip_suffix(mark)?;
        // `"a" b"`: BitBake takes three quotes for a mistake, and four for what somebody wanted.
        (inner.matches(mark).count() != 1).then_some((*operator, inner))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Option<Statement> {
        let Content { statements: mut found, refused } = statements(line, Dialect::Conf);
        assert_eq!(refused, None, "{line}");
        assert!(found.len() < 2, "{line}: {found:?}");
        found.pop().map(|(_, statement)| statement)
    }

    /// The first line that is refused.
    fn refused(text: &str, dialect: Dialect) -> Option<usize> {
        statements(text, dialect).refused.map(|(number, _)| number)
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
            "A[doc] = \"x\"",
            "unset A[doc]",
            "export A",
            "addpylib ${LAYERDIR}/lib x",
        ] {
            assert_eq!(one(nothing), None, "{nothing}");
        }
        // What BitBake refuses as well.
        for line in [
            "A = x",
            "A = \"x",
            "A = \"x\" y\"",
            " A = \"x\"",
            "A",
            "inherit x",
            "include",
            "= \"x\"",
            "# a \\\n  # b",
            "# a \\\nA = \"x\"",
            "# a \\",
        ] {
            let expected = Content { statements: vec![], refused: Some((1, line_of(line))) };
            assert_eq!(statements(line, Dialect::Conf), expected, "{line}");
        }
    }

    fn line_of(line: &str) -> String {
        line.replace("\\\n", "").trim_end_matches('\\').to_owned()
    }

    #[test]
    fn what_is_included_may_say_what_recipes_say() {
        for line in [
            "inherit x",
            "addtask a after b before c",
            "python () {\n    x\n}",
            "def f(d): # why\n    a = \"b\"\n# no end\n    return a",
            "what nobody ends \\\n",
        ] {
            assert_eq!(refused(line, Dialect::Recipe), None, "{line}");
            assert_eq!(refused(line, Dialect::Conf), Some(1), "{line}");
        }
        assert_eq!(refused("A = \"x\"\n\nA = x\n", Dialect::Recipe), Some(3));
        assert_eq!(Dialect::of(Path::new("/a/layer.conf")), Dialect::Conf);
        assert_eq!(Dialect::of(Path::new("/a/layer.inc")), Dialect::Recipe);
    }

    #[test]
    fn functions_hold_no_assignments() {
        for function in [
            "python () {\n    d.setVar('A', 'b')\nA = \"x\"\n}",
            "do_it:append() {\nA=\"x\"\n}",
            "def f(d):\n    a = \"b\"\n\n    return a",
        ] {
            let text = format!("{function}\nB = \"y\"\n");
            let Content { statements: found, refused } = statements(&text, Dialect::Conf);
            let expected = Statement::Assign { name: "B".into(), operator: Operator::Set, value: "y".into() };
            assert_eq!(found, [(text.lines().count(), expected)], "{function}");
            assert_eq!(refused.map(|(number, _)| number), Some(1), "{function}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "(?s).{0,300}", lines in "[AB_:+=?.\\[\\]\"' \\\\\n#${}@a]{0,300}") {
            statements(&text, Dialect::Recipe);
            statements(&lines, Dialect::Conf);
        }
    }
}
