//! The documentation of the config, compared with the decoder: the reference has exactly its keys, and every example is valid.

use std::collections::BTreeSet;

use smidr::config::{Problems, known_keys, provider, read};

const REFERENCE: &str = include_str!("../../docs/config.md");
const README: &str = include_str!("../../README.md");

fn problems(text: &str) -> Option<Problems> {
    read("smidr.yaml", text, None, &|_| None).err()
}

/// Every key with a value, as the decoder asks for them.
fn known() -> BTreeSet<String> {
    let all: BTreeSet<String> = known_keys().iter().map(|key| key.path.replace("[0]", "[]")).collect();
    let is_above = |key: &&String| {
        let below = [format!("{key}."), format!("{key}[].")];
        all.iter().any(|other| below.iter().any(|below| other.starts_with(below)))
    };
    all.iter().filter(|key| !is_above(key)).cloned().collect()
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
