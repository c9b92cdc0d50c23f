//! What the YAML library finds wrong with a text, in words for users, and with its place in bytes. Nothing of the library's own texts is passed
//! on: they speak of its interface.

use serde_yaml::{Error, Location};

use super::{
    node::Span,
    problem::{Problem, nearest},
};

/// A part of what the scanner says, what to say instead, and what helps.
const WORDS: &[(&str, &str, &str)] = &[
    ("document start", "this does not fit the lines above", "one list or one mapping makes a file"),
    ("unclosed quote", "this quote is not closed", "end the text with the quote that it begins with"),
    ("trailing content after", "something follows a closing quote", "quotes go around the whole value"),
    ("escape", "YAML has no such escape in double quotes", "in single quotes a backslash is only a backslash"),
    ("unclosed bracket", "this bracket is not closed", "each `[` needs a `]`, each `{` a `}`"),
    ("mismatched bracket", "another bracket is to be closed first", "each `[` needs a `]`, each `{` a `}`"),
    ("misplaced bracket", "this bracket closes nothing", "each `[` needs a `]`, each `{` a `}`"),
    ("EOF while parsing a flow", "a bracket is not closed", "each `[` needs a `]`, each `{` a `}`"),
    ("',' or", "a comma or a closing bracket is missing before this", "[one, two] or {key: value, other: value}"),
    ("tab", "a tab cannot indent in YAML", "indent with spaces"),
    ("comment", "a comment needs a space before its `#`", "a text that holds ` #` belongs in quotes"),
    ("unexpected character", "no value can begin with this character", "put the text in quotes"),
    ("must be followed", "a space is missing after this", "key: value, and `- entry`"),
    ("'-' indicator", "this does not fit the list above", "entries of one list are indented alike, each with `- `"),
    (
        "mapping values",
        "a colon is not possible here",
        "a text that holds `: ` belongs in quotes; keys of one mapping are indented alike",
    ),
    (
        "mapping",
        "this does not fit the lines above",
        "keys of one mapping are indented alike; a text that holds `: ` belongs in quotes",
    ),
    (
        "':'",
        "a colon is not possible here",
        "a bracket or a quote before it may be open; a text that holds `: ` belongs in quotes",
    ),
    ("simple key", "a key needs a colon after it, on the same line", "key: value"),
    ("sequence", "this does not fit the list above", "entries of one list are indented alike, each with `- `"),
    ("indent", "the indentation does not fit the lines above", "keys of one mapping are indented alike"),
    ("content cannot start", "a text cannot begin like this", "put it in quotes"),
];

/// The problem that the library found.
pub fn problem(text: &str, error: &Error) -> Problem {
    let error = error.without_snippet();
    let place = error.location().map_or(0..0, |location| byte_span(text, location));
    let (title, hint): (String, Option<String>) = match error {
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map(|key| format!(" `{key}`")).unwrap_or_default();
            (format!("the key{key} stands here a second time"), Some("one of the two has to go".into()))
        }
        Error::MultipleDocuments { .. } => {
            ("a second document begins here".into(), Some("a file holds one: remove the `---`".into()))
        }
        Error::UnknownAnchor { .. } => {
            ("no anchor of this name stands before it".into(), Some("`*name` repeats what `&name` marks above".into()))
        }
        Error::MergeValueNotMapOrSeqOfMaps { .. } => ("only mappings can be merged with `<<`".into(), None),
        Error::Eof { .. } => ("the text ends too early".into(), None),
        Error::SerdeMissingField { field, .. } => (format!("{field} is missing"), None),
        Error::SerdeUnknownField { field, expected, .. } => {
            let near = nearest(field, expected.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            (format!("unknown key `{field}`"), near)
        }
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            (format!("this must be {expected}"), None)
        }
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::Budget { .. } => ("this is too large or too deeply nested".into(), None),
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => words(msg),
        _ => (unknown(), None),
    };
    // The scanner marks the end of the line before a tab.
    let tab = text.get(place.start..).and_then(|rest| rest.find('\t')).filter(|_| title.starts_with("a tab"));
    let span = tab.map_or(place.clone(), |tab| place.start + tab..place.start + tab + 1);
    Problem { span, title, hint }
}

/// What the scanner says, in words for users, and what helps.
pub fn words(said: &str) -> (String, Option<String>) {
    match WORDS.iter().find(|(part, ..)| said.contains(part)) {
        Some((_, title, hint)) => ((*title).into(), Some((*hint).into())),
        None => (unknown(), None),
    }
}

fn unknown() -> String {
    "this is not valid YAML".into()
}

/// A place in bytes. The library counts columns from 1, in characters.
pub(super) fn byte_span(text: &str, location: Location) -> Span {
    let span = location.span();
    if let (Some(offset), Some(len)) = (span.byte_offset(), span.byte_len()) {
        let start = (offset as usize).min(text.len());
        return start..(start + len as usize).min(text.len());
    }
    let number = |number: u64| usize::try_from(number).unwrap_or(1).saturating_sub(1);
    let before: usize = text.split_inclusive('\n').take(number(location.line())).map(str::len).sum();
    let line = text.get(before..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let inside: usize = line.chars().take(number(location.column())).map(char::len_utf8).sum();
    let start = before + inside;
    let marked = text.get(start..).and_then(|rest| rest.chars().next()).filter(|c| *c != '\n' && *c != '\r');
    start..start + marked.map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use crate::config::node::Node;

    #[test]
    fn each_kind_has_words_and_the_right_place() {
        for (text, title, place) in [
            ("name: x\nname: y\n", "the key `name` stands here a second time", "2:1"),
            ("a: [1\nb: 2\n", "a colon is not possible here", "2:2"),
            ("a: \"x\n", "this quote is not closed", "1:4"),
            ("a: *x\n", "no anchor of this name stands before it", "1:4"),
            ("a:\n  b: 1\n c: 2\n", "this does not fit the lines above", "3:2"),
            ("a: 1\n---\nb: 1\n", "a second document begins here", "3:1"),
            ("ä: b: c\n", "a colon is not possible here", "1:5"),
            ("a: [1, 2}\n", "another bracket is to be closed first", "1:4"),
            ("a: {b: 1\n", "this bracket is not closed", "1:4"),
            ("a: }\n", "this bracket closes nothing", "1:4"),
            ("a: \"\\q\"\n", "YAML has no such escape in double quotes", "1:4"),
            ("a: @x\n", "no value can begin with this character", "1:4"),
            ("ä: 'x' y\n", "something follows a closing quote", "1:8"),
            ("name: x\n\tbuild: y\n", "a tab cannot indent in YAML", "2:1"),
            ("- a\n- b\nc: d\n", "this does not fit the list above", "3:1"),
            ("a: <<\n<<: 3\n", "only mappings can be merged with `<<`", "2:5"),
            ("a: 1\n>>>>>>> x\n<<<<<<< y\n", "git has left a merge conflict here", "3:1"),
        ] {
            let problem = Node::parse(text).expect_err(text);
            let before = text.get(..problem.span.start).expect(text);
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            assert_eq!((problem.title.as_str(), format!("{line}:{column}").as_str()), (title, place), "{text}");
        }
    }
}
