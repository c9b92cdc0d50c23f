//! Rules, as the files of `rules/` say them, and the sentences that they make of what a line says.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, OnceLock},
};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex::{Captures, Regex};
use serde::Deserialize;

use super::{names, search::Search};
use crate::model::{Hint, Level, Recovery};

/// The families of rules.
const FILES: [&str; 10] = [
    include_str!("rules/compile.toml"),
    include_str!("rules/configure.toml"),
    include_str!("rules/fetch.toml"),
    include_str!("rules/parse.toml"),
    include_str!("rules/providers.toml"),
    include_str!("rules/qa.toml"),
    include_str!("rules/kernel.toml"),
    include_str!("rules/image.toml"),
    include_str!("rules/host.toml"),
    include_str!("rules/server.toml"),
];

/// What a line of a failed build means.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// The name of the failure, for programs.
    pub(super) kind: String,
    /// Where such lines stand; anywhere if left out.
    pub(super) at: Option<At>,
    /// Texts of which each matching line has one.
    find: Vec<String>,
    /// Matches the message, without what BitBake puts before it. Its named groups are the words of the sentences below.
    line: String,
    /// Messages that it does not match all the same.
    #[serde(default)]
    not: Vec<String>,
    /// Matches lines behind it, for more words; of a word that comes again, all are kept. A line that has the group `first` is the error.
    #[serde(default)]
    then: Vec<String>,
    /// Behind it: lines that are not looked at.
    #[serde(default)]
    skip: Vec<String>,
    /// Matches lines before it, for more words: the nearest one counts. With the group `first` it is the error.
    #[serde(default)]
    above: Vec<String>,
    /// How many lines behind it show it, if not the usual number.
    lines: Option<usize>,
    #[serde(default)]
    level: Wanted,
    #[serde(default)]
    pub(super) when: When,
    /// The higher, the more it says. Of one task, the highest counts, and of equal ones the first.
    pub(super) rank: u8,
    #[serde(default)]
    pub(super) sure: Sure,
    /// What smidr may do about it by itself: never for a mistake in what is built.
    pub(super) recover: Option<Recovery>,
    /// What is missing, damaged or refused.
    subject: Option<String>,
    cause: Texts,
    next: Vec<Step>,
    #[serde(default)]
    could_be: Vec<String>,
    /// Messages that it matches, for its test.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test of the rules"))]
    example: Vec<String>,
    /// Messages that it does not.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test of the rules"))]
    counter: Vec<String>,
    #[serde(skip)]
    compiled: OnceLock<Patterns>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum At {
    Console,
    Task,
}

/// The level that a line must have.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    /// None, or an error.
    #[default]
    Failure,
    /// An error, said by BitBake.
    Error,
    /// Whatever it is.
    Any,
}

/// How much to trust a diagnosis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sure {
    #[default]
    Certain,
    Likely,
}

/// Under which circumstances it counts.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct When {
    native: bool,
    kernel_module: bool,
    kas: bool,
    /// How the name of the task begins.
    task: Vec<String>,
    /// `>= styhead` or `< styhead`; an unknown series is neither.
    series: Option<String>,
    /// False: in series whose tasks have no network, or where that is unknown.
    task_network: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// Something to do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    text: String,
    command: Option<String>,
    config: Option<String>,
    /// Where lines of a config belong.
    file: Option<String>,
    page: Option<String>,
    /// Only where the message has this word.
    only: Option<String>,
    /// Only where it has not.
    unless: Option<String>,
    /// Only where these words are these.
    #[serde(default)]
    only_if: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Patterns {
    line: Regex,
    not: Vec<Regex>,
    then: Vec<Regex>,
    skip: Vec<Regex>,
    above: Vec<Regex>,
}

/// What is known about where a message was said.
#[derive(Clone, Debug, Default)]
pub(super) struct Circumstances {
    pub(super) recipe: Option<String>,
    pub(super) task: Option<String>,
    pub(super) series: Option<usize>,
    pub(super) is_kas: bool,
}

/// The words of a message, by name.
pub(super) type Words = BTreeMap<String, String>;

/// All rules, with one search for the texts of all of them, and one for those that logs of tasks may have.
pub(super) struct Rules {
    pub(super) all: Vec<Rule>,
    texts: AhoCorasick,
    // Made when the first log of a task is read: a build that goes well has none.
    of_tasks: OnceLock<Search>,
    // The rule of each text.
    of_text: Vec<usize>,
}

/// The rules that this program has.
pub(super) static RULES: LazyLock<Rules> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct File {
        rule: Vec<Rule>,
    }
    let files = FILES.iter().map(|text| toml::from_str::<File>(text).expect("a file of rules"));
    let all: Vec<Rule> = files.flat_map(|file| file.rule).collect();
    let (mut texts, mut of_text) = (Vec::new(), Vec::new());
    for (index, rule) in all.iter().enumerate() {
        texts.extend(&rule.find);
        of_text.resize(texts.len(), index);
    }
    let texts = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(texts).expect("few texts");
    Rules { all, texts, of_tasks: OnceLock::new(), of_text }
});

impl Rules {
    /// A place in the next line of a task's log that a rule may match.
    pub(super) fn next_in(&self, bytes: &[u8]) -> Option<usize> {
        let search = self.of_tasks.get_or_init(|| {
            Search::new(self.all.iter().filter(|rule| rule.at != Some(At::Console)).flat_map(|rule| &rule.find))
        });
        search.first(bytes)
    }

    /// The rules that may match a line, in the order of the files.
    pub(super) fn of_line(&self, text: &str) -> Vec<usize> {
        let mut found: Vec<usize> = self
            .texts
            .find_overlapping_iter(text)
            .filter_map(|found| self.of_text.get(found.pattern().as_usize()).copied())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Rule {
    fn patterns(&self) -> &Patterns {
        let one = |text: &String| Regex::new(text).unwrap_or_else(|error| panic!("a rule of {}: {error}", self.kind));
        let all = |texts: &[String]| texts.iter().map(one).collect();
        self.compiled.get_or_init(|| Patterns {
            line: one(&self.line),
            not: all(&self.not),
            then: all(&self.then),
            skip: all(&self.skip),
            above: all(&self.above),
        })
    }

    /// Whether lines of this level count.
    pub(super) fn wants(&self, level: Option<Level>) -> bool {
        match self.level {
            Wanted::Any => true,
            Wanted::Failure => level.is_none_or(|level| level >= Level::Error),
            Wanted::Error => level.is_some_and(|level| level >= Level::Error),
        }
    }

    /// The words of a message, if it is one of this rule.
    pub(super) fn matches(&self, message: &str) -> Option<Words> {
        let Patterns { line, not, .. } = self.patterns();
        let found = line.captures(message)?;
        (!not.iter().any(|pattern| pattern.is_match(message))).then(|| words(line, &found))
    }

    /// Whether lines behind it have more words.
    pub(super) fn looks_on(&self) -> bool {
        !self.then.is_empty()
    }

    /// How many lines behind it are looked at.
    pub(super) fn lines(&self, usual: usize) -> usize {
        self.lines.unwrap_or(usual)
    }

    /// Adds the words of a line behind it. Gives whether the line is the error, if it says anything.
    pub(super) fn then(&self, message: &str, known: &mut Words) -> Option<bool> {
        if self.patterns().skip.iter().any(|pattern| pattern.is_match(message)) {
            return None;
        }
        let then = &self.patterns().then;
        let (is_first, found) = then.iter().find_map(|pattern| {
            let found = pattern.captures(message)?;
            Some((found.name("first").is_some(), words(pattern, &found)))
        })?;
        for (name, value) in found {
            let all = known.entry(name).or_default();
            let is_known = all.split(", ").any(|one| one == value);
            if !is_known && all.len() < 200 {
                let between = if all.is_empty() { "" } else { ", " };
                all.push_str(between);
                all.push_str(&value);
            }
        }
        Some(is_first)
    }

    /// Adds the words of the nearest fitting line before it. Gives its place among `lines`, counted from the nearest, which is the last of them, and whether it is the error.
    pub(super) fn above<'a>(
        &self,
        lines: impl DoubleEndedIterator<Item = &'a str>,
        known: &mut Words,
    ) -> Option<(usize, bool)> {
        let above = &self.patterns().above;
        let (back, is_first, found) = lines.rev().enumerate().find_map(|(back, line)| {
            above.iter().find_map(|pattern| {
                let found = pattern.captures(line)?;
                Some((back, found.name("first").is_some(), words(pattern, &found)))
            })
        })?;
        for (name, value) in found {
            known.entry(name).or_insert(value);
        }
        Some((back, is_first))
    }

    /// The sentence, of the first form whose words are all known.
    pub(super) fn cause(&self, words: &Words) -> String {
        let forms = match &self.cause {
            Texts::One(text) => std::slice::from_ref(text),
            Texts::Many(texts) => texts,
        };
        let told = forms.iter().find_map(|form| filled(form, words));
        told.unwrap_or_else(|| words.get("message").cloned().unwrap_or_default())
    }

    /// What to do; a step whose words are not all known is left out.
    pub(super) fn next(&self, words: &Words) -> Vec<Hint> {
        self.next.iter().filter_map(|step| step.hint(words)).collect()
    }

    /// What is missing, damaged or refused.
    pub(super) fn subject(&self, words: &Words) -> Option<String> {
        filled(self.subject.as_ref()?, words)
    }

    /// What else it could be.
    pub(super) fn could_be(&self, words: &Words) -> Vec<String> {
        self.could_be.iter().filter_map(|text| filled(text, words)).collect()
    }
}

impl Step {
    fn hint(&self, words: &Words) -> Option<Hint> {
        let is_known = |name: &String| words.contains_key(name);
        let counts = self.only.as_ref().is_none_or(is_known)
            && !self.unless.as_ref().is_some_and(is_known)
            && self.only_if.iter().all(|(name, value)| words.get(name) == Some(value));
        let text = filled(&self.text, words).filter(|_| counts)?;
        let command = self.command.as_ref().map(|form| filled_with(form, words, quoted));
        let filled = |form: &Option<String>| form.as_ref().map(|form| filled(form, words));
        Some(match (command, filled(&self.config), filled(&self.page)) {
            (Some(command), _, _) => Hint::command(text, command?),
            (_, Some(config), _) => match filled(&self.file) {
                Some(file) => Hint::config_in(text, config?, file?),
                None => Hint::config(text, config?),
            },
            (_, _, Some(page)) => Hint::page(text, page?),
            (None, None, None) => Hint::new(text),
        })
    }
}

impl When {
    /// Whether it counts there.
    pub(super) fn holds(&self, at: &Circumstances) -> bool {
        let recipe = at.recipe.as_deref().unwrap_or_default();
        let is_native = recipe.ends_with("-native") || recipe.starts_with("nativesdk-");
        let is_module = recipe.starts_with("kernel-module")
            || recipe.split('-').any(|part| matches!(part, "module" | "mod" | "driver"));
        let kirkstone = names::series("kirkstone");
        let series = self.series.as_deref().is_none_or(|wanted| {
            let (sign, name) = wanted.split_once(' ').unwrap_or((">=", wanted));
            let place = names::series(name);
            at.series.is_some() && if sign == "<" { at.series < place } else { at.series >= place }
        });
        (!self.native || is_native)
            && (!self.kernel_module || is_module)
            && (!self.kas || at.is_kas)
            && (self.task.is_empty()
                || at.task.as_ref().is_some_and(|task| self.task.iter().any(|begin| task.starts_with(begin.as_str()))))
            && (self.task_network != Some(false) || at.series.is_none() || at.series >= kirkstone)
            && series
    }
}

fn words(pattern: &Regex, found: &Captures) -> Words {
    let named = pattern.capture_names().flatten().filter(|name| *name != "first");
    named
        .filter_map(|name| Some((name.to_owned(), found.name(name)?.as_str().to_owned())))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// The form with its words, if all are known: `{name}`, or `{a|b}` for the first of them that is. `${NAME}` is BitBake's.
fn filled(form: &str, words: &Words) -> Option<String> {
    filled_with(form, words, |_, word| Some(word))
}

/// A word of a log in a command that users paste: behind this beginning, whose quotes may still be open. None where no quotes can hold it.
fn quoted(before: &str, word: String) -> Option<String> {
    let (mut single, mut double) = (false, false);
    for byte in before.bytes() {
        match byte {
            b'\'' if !double => single = !single,
            b'"' if !single => double = !double,
            _ => {}
        }
    }
    let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:@%+=,~".contains(&byte));
    match (is_plain, single) {
        (true, _) => Some(word),
        // The quotes of an inner shell stand in those of the outer one.
        (false, true) if before.contains("sh -c '") => None,
        (false, true) => Some(word.replace('\'', r"'\''")),
        (false, false) => shlex::try_quote(&word).ok().map(|word| word.into_owned()),
    }
}

fn filled_with(form: &str, words: &Words, made: impl Fn(&str, String) -> Option<String>) -> Option<String> {
    let mut text = String::new();
    let mut rest = form;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        let end = from.find('}');
        let name = end.and_then(|end| from.get(1..end)).unwrap_or_default();
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_|".contains(&byte));
        if before.ends_with('$') || !is_name {
            text.push('{');
            rest = from.get(1..).unwrap_or_default();
            continue;
        }
        let word = made(&text, name.split('|').find_map(|name| word(name, words))?)?;
        text.push_str(&word);
        rest = from.get(name.len() + 2..).unwrap_or_default();
    }
    text.push_str(rest);
    Some(text)
}

/// A word, or a part of one: `_name` and `_folder` of a path, `_recipe` of a recipe's file, `_stem` without its ending, `_short` the last three parts of a path or the first 12
/// characters.
fn word(name: &str, words: &Words) -> Option<String> {
    if let Some(value) = words.get(name) {
        return Some(value.clone());
    }
    let (whole, part) = name.rsplit_once('_')?;
    let value = words.get(whole)?;
    let file = value.rsplit('/').next().unwrap_or(value);
    Some(match part {
        "recipe" => return names::of_file(value).map(|(recipe, _)| recipe),
        "name" => file.to_owned(),
        "stem" => file.split('.').next().unwrap_or(file).to_owned(),
        "folder" => value.strip_suffix(file)?.trim_end_matches('/').to_owned(),
        "short" if value.starts_with('/') => {
            let parts: Vec<&str> = value.rsplit('/').take(3).collect();
            parts.into_iter().rev().collect::<Vec<_>>().join("/")
        }
        "short" => value.chars().take(12).collect(),
        _ => return None,
    })
}

/// Lines that the rules match.
#[cfg(test)]
pub(super) fn examples() -> impl Iterator<Item = &'static str> {
    RULES.all.iter().flat_map(|rule| &rule.example).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each rule: its texts find its examples, its patterns compile and match them, its sentences can be said, and what it must not match it does not.
    #[test]
    fn rules_match_their_examples_and_nothing_else() {
        let mut wrong = Vec::new();
        for (index, rule) in RULES.all.iter().enumerate() {
            for example in &rule.example {
                let known = rule.matches(example);
                if known.is_none() || !RULES.of_line(example).contains(&index) {
                    wrong.push(format!("{} does not match {example}", rule.kind));
                }
            }
            wrong.extend(
                rule.counter
                    .iter()
                    .filter(|text| rule.matches(text).is_some())
                    .map(|text| format!("{} matches {text}", rule.kind)),
            );
            if rule.example.is_empty()
                || rule.counter.is_empty()
                || rule.kind.bytes().any(|byte| !byte.is_ascii_lowercase() && !byte.is_ascii_digit() && byte != b'-')
            {
                wrong.push(format!(
                    "{} needs an example, one that it does not match, and a name of small letters",
                    rule.kind
                ));
            }
        }
        assert_eq!(wrong, [""; 0]);
    }

    #[test]
    fn a_form_is_filled_or_left_out() {
        let words: Words = [("a", "x/y.z"), ("o", ":")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let rows = [
            ("{a} and ${PN} {}", Some("x/y.z and ${PN} {}")),
            ("RDEPENDS{o}${PN}", Some("RDEPENDS:${PN}")),
            ("{b|a_name} {a_folder} {a_stem}", Some("y.z x y")),
            ("{b}", None),
            ("host: {ssh_agent: true} {", Some("host: {ssh_agent: true} {")),
        ];
        for (form, expected) in rows {
            assert_eq!(filled(form, &words).as_deref(), expected, "{form}");
        }
    }
}
