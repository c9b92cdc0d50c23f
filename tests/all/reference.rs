//! The documentation of the config, compared with the decoder: the reference has exactly its keys, and every example is valid.

use std::collections::BTreeSet;

use smidr::config::{Problems, provider, read};

const REFERENCE: &str = include_str!("../../docs/config.md");
const README: &str = include_str!("../../README.md");

/// An unknown key that is near to no other.
const STRANGE: &str = "zzzzzzzz";

/// A step into a document: a key, and whether its value is a list of mappings.
type Step = (String, bool);

fn problems(text: &str) -> Option<Problems> {
    read("smidr.yaml", text, None, &|_| None).err()
}

/// `host.binds[]`
fn path(steps: &[Step]) -> String {
    let part = |(key, list): &Step| format!("{key}{}", if *list { "[]" } else { "" });
    steps.iter().map(part).collect::<Vec<_>>().join(".")
}

/// The keys of the mapping at a place, as the decoder's hint names them when it meets one that it does not know; none, where no
/// mapping can stand.
fn keys_at(steps: &[Step]) -> Option<Vec<String>> {
    let inside = format!("{{{STRANGE}: 1}}");
    let nest = |inside: String, (key, list): &Step| {
        if *list { format!("{{{key}: [{inside}]}}") } else { format!("{{{key}: {inside}}}") }
    };
    let text = steps.iter().rev().fold(inside, nest);
    let place = [path(steps).replace("[]", "[0]"), STRANGE.into()].join(".");
    let title = format!("unknown key `{}`", place.trim_start_matches('.'));
    let problems = problems(&text)?;
    let hint = problems.list.iter().find(|problem| problem.title == title)?.hint.clone()?;
    let known = hint.strip_prefix("known here: ").unwrap_or_else(|| panic!("{text}: {hint}"));
    Some(known.split(", ").map(str::to_owned).collect())
}

/// Every key with a value, found by the decoder's hints.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    let mut open: Vec<Vec<Step>> = vec![vec![]];
    while let Some(steps) = open.pop() {
        for key in keys_at(&steps).expect("a mapping") {
            let below = |list| [steps.clone(), vec![(key.clone(), list)]].concat();
            match [below(false), below(true)].into_iter().find(|steps| keys_at(steps).is_some()) {
                Some(mapping) => open.push(mapping),
                None => _ = known.insert(path(&below(false))),
            }
        }
    }
    known
}

/// The keys of the tables of a text: what stands in backticks in the first column.
fn written(text: &str) -> Vec<String> {
    let keys = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    keys.map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn the_reference_lists_exactly_the_keys() {
    let known = known();
    for sure in ["name", "base.provider", "layers[].sublayers.include", "host.binds[].dest", "bitbake.branch", "env"] {
        assert!(known.contains(sure), "{sure} is not in {known:?}");
    }
    assert!(known.len() > 70, "only {} keys found", known.len());
    let written = written(REFERENCE);
    let set: BTreeSet<String> = written.iter().cloned().collect();
    assert_eq!(set.len(), written.len(), "a key stands there twice");
    let missing: Vec<_> = known.difference(&set).collect();
    let invented: Vec<_> = set.difference(&known).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}; there is no: {invented:?}");
    for line in REFERENCE.lines().filter(|line| line.starts_with("| `")) {
        assert_eq!(line.matches('|').count(), 5, "key, type, default, meaning: {line}");
    }
    assert!(REFERENCE.contains(&format!("| `base.provider` | {} |", provider::names().join(", "))));
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn every_example_is_valid() {
    let mut seen = 0;
    for block in blocks(README, "yaml").into_iter().chain(blocks(REFERENCE, "yaml")) {
        // A part of a config gets what it leaves out.
        let rest = ["name: x", "base: {machine: m}", "build: {image: i}"];
        let key = |line: &str| line.split_once(':').map(|(key, _)| format!("{key}:")).expect("a key");
        let missing = rest.into_iter().filter(|line| !block.lines().any(|own| own.starts_with(&key(line))));
        let whole = missing.map(|line| format!("{line}\n")).collect::<String>() + block;
        if let Some(problems) = problems(&whole) {
            panic!("{}", problems.render(false));
        }
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} examples");
    assert!(problems("name: x\nbase: {machine: m}\nbuild: {image: i}\nhots: {}\n").is_some(), "the checker can fail");
}
