//! Problems of a document, drawn with line and caret like rustc's.

use std::{cmp::Reverse, fmt};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::node::Span;
use crate::model::{ConfigPlace, Kind, Shown, UserError};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place, in bytes.
    pub span: Span,
    /// What is wrong.
    pub title: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(span: Span, title: impl Into<String>) -> Self {
        Self { span, title: title.into(), hint: None }
    }

    /// The same problem with what to write instead.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Everything that is wrong with one document, all at once.
#[derive(Clone, Debug)]
pub struct Problems {
    /// Name of the file, for people.
    pub file: String,
    /// The whole document.
    pub text: String,
    /// Name and text of a document whose places count on behind those of the first.
    pub further: Option<(String, String)>,
    /// At least one, in the order of the text.
    pub list: Vec<Problem>,
}

/// How many problems are drawn. Each takes a walk through the document, and a daemon draws what strangers send.
const DRAWN: usize = 100;

impl Problems {
    /// All problems, up to a hundred, with line and caret; `colour` for terminals.
    pub fn render(&self, colour: bool) -> String {
        self.drawn_as(&Level::ERROR, colour)
    }

    /// The same as warnings.
    pub fn render_warnings(&self, colour: bool) -> String {
        self.drawn_as(&Level::WARNING, colour)
    }

    fn drawn_as(&self, level: &Level<'static>, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut list: Vec<&Problem> = self.list.iter().collect();
        list.sort_by_key(|problem| problem.span.start);
        let shown = |problem: &Problem| Problem {
            span: problem.span.clone(),
            title: Shown::plain(&problem.title).into(),
            hint: problem.hint.as_deref().map(|hint| Shown::plain(hint).into()),
        };
        let further = list.len().saturating_sub(DRAWN);
        let drawn = list.into_iter().take(DRAWN).map(shown).map(|problem| {
            let (file, text, problem) = self.in_its_document(problem);
            let file = String::from(Shown::plain(file));
            renderer.render(&report(text, level, &file, &problem))
        });
        let mut drawn = drawn.collect::<Vec<_>>();
        if further > 0 {
            drawn.push(format!("and {further} further problems"));
        }
        // Filters what is quoted of the document.
        String::from(Shown::block(&drawn.join("\n")))
    }

    /// The same places, without quoting the file, and without titles, which quote it too: a project could name a file that it must not
    /// read. `hint` is how to see more.
    #[must_use]
    pub fn unquoted(mut self, hint: &str) -> Self {
        let blank = |text: &str| {
            text.chars().map(|c| if c == '\n' { c.into() } else { " ".repeat(c.len_utf8()) }).collect::<String>()
        };
        self.text = blank(&self.text);
        self.further = self.further.map(|(file, text)| (file, blank(&text)));
        for Problem { span, title, hint } in &mut self.list {
            (span.end, *title, *hint) = (span.start, "something is wrong here".into(), None);
        }
        if let Some(last) = self.list.iter_mut().max_by_key(|problem| problem.span.start) {
            last.hint = Some(hint.into());
        }
        self
    }

    /// The file of a problem, and line and column in it, in characters, from 1.
    pub fn position(&self, problem: &Problem) -> (&str, usize, usize) {
        let (file, text, problem) = self.in_its_document(problem.clone());
        let before = text.get(..problem.span.start).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (file, before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// The line of a problem.
    pub fn place(&self, problem: &Problem) -> ConfigPlace {
        let (file, line, column) = self.position(problem);
        let (_, text, Problem { span, .. }) = self.in_its_document(problem.clone());
        let shown = text.lines().nth(line - 1).unwrap_or_default().to_owned();
        let rest = (shown.chars().count() + 1).saturating_sub(column);
        let length = text.get(span).map_or(0, |value| value.chars().count()).min(rest);
        ConfigPlace { file: file.to_owned(), line, column, length, text: shown }
    }

    /// The document that a problem is in, and its place there.
    fn in_its_document(&self, problem: Problem) -> (&str, &str, Problem) {
        match &self.further {
            Some((file, text)) if self.is_further(&problem) => {
                let begin = behind(&self.text);
                let span = problem.span.start - begin..problem.span.end.saturating_sub(begin);
                (file, text, Problem { span, ..problem })
            }
            _ => (&self.file, &self.text, problem),
        }
    }

    fn is_further(&self, problem: &Problem) -> bool {
        self.further.is_some() && problem.span.start >= behind(&self.text)
    }
}

/// Where the places of a further document begin. One more than the end, which is a place as well.
pub(super) fn behind(text: &str) -> usize {
    text.len() + 1
}

fn report<'a>(text: &'a str, level: &Level<'a>, file: &'a str, problem: &'a Problem) -> Vec<Group<'a>> {
    let end = problem.span.end.min(text.len());
    let start = problem.span.start.min(end);
    // Marks only the first line of a value.
    let first = text.get(start..end).and_then(|value| value.lines().next());
    let end = first.map_or(end, |line| start + line.len());
    let snippet = Snippet::source(text).path(file).annotation(AnnotationKind::Primary.span(start..end));
    let mut groups = vec![level.clone().primary_title(problem.title.as_str()).element(snippet)];
    if let Some(hint) = &problem.hint {
        groups.push(Group::with_title(Level::HELP.with_name("hint").secondary_title(hint.as_str())));
    }
    groups
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.list.len();
        let further = self.list.iter().filter(|problem| self.is_further(problem)).count();
        let problems = format!("{count} problem{}", if count == 1 { "" } else { "s" });
        match &self.further {
            Some((file, _)) if further == count => write!(f, "{file} has {problems}"),
            Some((file, _)) if further > 0 => write!(f, "{} and {file} have {problems}", self.file),
            _ => write!(f, "{} has {problems}", self.file),
        }
    }
}

impl std::error::Error for Problems {}

impl UserError for Problems {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        Some(self.render(colour))
    }
}

/// An error with the line of the config that asked for what failed.
pub fn drawn_at(place: &ConfigPlace, title: &str, hint: Option<&str>, colour: bool) -> String {
    let plain = |text: &str| String::from(Shown::plain(text));
    let (file, text, title, hint) = (plain(&place.file), plain(&place.text), plain(title), hint.map(plain));
    let at = |column: usize| text.char_indices().nth(column).map_or(text.len(), |(at, _)| at);
    let (start, end) = (place.column.saturating_sub(1), place.column.saturating_sub(1).saturating_add(place.length));
    let annotation = AnnotationKind::Primary.span(at(start)..at(end));
    let snippet = Snippet::source(&text).path(&file).line_start(place.line).annotation(annotation);
    let mut groups = vec![Level::ERROR.primary_title(title.as_str()).element(snippet)];
    groups.extend(
        hint.iter().map(|hint| Group::with_title(Level::HELP.with_name("hint").secondary_title(hint.as_str()))),
    );
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    String::from(Shown::block(&renderer.render(&groups)))
}

/// The known name that is nearest to a wrong one, if any is near enough to be meant: first one that differs by a slip of the keyboard, then that with
/// the longest common beginning, since names begin with their family (`imx8mm…`), then that with the fewest other letters.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = plain(wrong);
    let near = known.into_iter().filter_map(|name| {
        let (letters, other) = (self::plain(name), strsim::damerau_levenshtein(wrong, name));
        let common = plain.chars().zip(letters.chars()).take_while(|(one, two)| one == two).count();
        let count = plain.chars().count();
        let shortened = count >= SHORTEST && 2 * common >= count && is_part(&plain, &letters);
        let is_near = other <= (name.len().max(wrong.len()) / 3).max(1) || shortened;
        // Another letter in the place of one is often another model.
        let replaced = count == letters.chars().count() && strsim::levenshtein(&plain, &letters) == 1;
        let is_slip = shortened && letters.starts_with(&plain) || plain == letters || other == 1 && !replaced;
        is_near.then_some((!is_slip, Reverse(common), other, name))
    });
    near.min().map(|(.., name)| name)
}

/// The fewest letters of a shortened name.
const SHORTEST: usize = 4;

// Separators and case are no part of what one remembers of a name.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !"-_.".contains(*c)).flat_map(char::to_lowercase).collect()
}

/// Whether all letters of a word are in another one, in their order.
fn is_part(word: &str, of: &str) -> bool {
    let mut letters = of.chars();
    word.chars().all(|letter| letters.any(|other| other == letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_count_more_than_letters() {
        let boards = [
            "imx8mm-lpddr4-evk",
            "imx8mn-ddr4-evk",
            "imx8mq-evk",
            "raspberrypi4",
            "raspberrypi4-64",
            "raspberrypi5",
            "qemuarm",
            "qemuarm64",
            "qemux86",
            "qemux86-64",
            "beaglebone-yocto",
        ];
        for (wrong, near) in [
            ("imx8mmevk", "imx8mm-lpddr4-evk"),
            ("imx8mm-evk", "imx8mm-lpddr4-evk"),
            ("imx8mqevk", "imx8mq-evk"),
            ("imx8mn-lpddr4-evk", "imx8mn-ddr4-evk"),
            ("raspberrypi5-64", "raspberrypi5"),
            ("raspberypi4", "raspberrypi4"),
            ("RaspberryPi4_64", "raspberrypi4-64"),
            ("qemuax86-64", "qemux86-64"),
            ("qemuarn64", "qemuarm64"),
            ("qemux86_64", "qemux86-64"),
            ("qemux68-64", "qemux86-64"),
            ("beaglebone", "beaglebone-yocto"),
        ] {
            assert_eq!(nearest(wrong, boards), Some(near), "{wrong}");
        }
        for wrong in ["x", "", "stm32mp1", "imx"] {
            assert_eq!(nearest(wrong, boards), None, "{wrong}");
        }
        let keys =
            ["name", "path", "git", "branch", "tag", "commit", "mirrors", "patches", "sublayers", "ignore_series"];
        for (wrong, near) in [
            ("nmae", "name"),
            ("oath", "path"),
            ("ptah", "path"),
            ("brunch", "branch"),
            ("comit", "commit"),
            ("mirror", "mirrors"),
            ("patch", "patches"),
            ("sub_layers", "sublayers"),
            ("ignore", "ignore_series"),
        ] {
            assert_eq!(nearest(wrong, keys), Some(near), "{wrong}");
        }
        assert_eq!(nearest("url", keys), None);
    }
}
