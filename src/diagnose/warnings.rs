//! Warnings of a build, by kind. In go the messages, out come groups, and what is new in them against earlier builds. What a message is about is
//! data (`rules/warnings.toml`). Pure; memory is bounded by the number of kinds, recipes and examples.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use aho_corasick::AhoCorasick;
use regex::Regex;
use serde::Deserialize;

use super::{layer_folder, line::pattern, names};
use crate::model::{TaskName, WarnedPlace, WarningGroup};

/// How many kinds are told apart; what comes later is `other`.
const MOST_KINDS: usize = 60;

/// How many recipes all groups together name; of others only the number is kept.
const MOST_PLACES: usize = 2000;

/// How many messages of a kind are kept, and how much of each, in characters.
const EXAMPLES: usize = 3;
const LONGEST: usize = 400;

/// The kind of what no rule knows, and those that stand for others.
const OTHER: &str = "other";
const ALL: &str = "all";
const QA: &str = "qa";

static PATH: LazyLock<Regex> =
    pattern!(r#"(?:^|[\s'"(=])((?:mc:[^:\s]+:)?(?:virtual:\w+:)*/[^\s'",:;()]+\.(?:bb|bbappend|inc|conf|bbclass))"#);
static CHECK: LazyLock<Regex> = pattern!(r"\[([a-z0-9_-]{1,40})\]\s*$");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    qa: Vec<String>,
    rule: Vec<Rule>,
}

/// What some messages are about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    kind: String,
    find: Vec<String>,
    /// Whether each file that a message names is a warning of its own.
    #[serde(default)]
    each: bool,
    about: String,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test of the rules"))]
    example: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test of the rules"))]
    counter: Vec<String>,
}

struct Known {
    rules: Rules,
    texts: AhoCorasick,
    of_text: Vec<usize>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let rules: Rules = toml::from_str(include_str!("rules/warnings.toml")).expect("a file of rules");
    let of = |(index, rule): (usize, &Rule)| rule.find.iter().map(move |_| index).collect::<Vec<_>>();
    let of_text = rules.rule.iter().enumerate().flat_map(of).collect();
    let texts = AhoCorasick::new(rules.rule.iter().flat_map(|rule| &rule.find)).expect("few texts");
    Known { rules, texts, of_text }
});

impl Known {
    fn rule(&self, text: &str) -> Option<&Rule> {
        let found = self.texts.find_overlapping_iter(text);
        let first = found.filter_map(|found| self.of_text.get(found.pattern().as_usize())).min()?;
        self.rules.rule.get(*first)
    }
}

/// Warnings so far.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    kinds: BTreeMap<String, Counted>,
    places: usize,
}

#[derive(Debug, Default)]
struct Counted {
    count: u64,
    // By recipe, and by a file that a message named.
    places: BTreeMap<(Option<String>, Option<String>), u64>,
    examples: Vec<String>,
}

impl Warnings {
    /// Takes a message.
    pub(crate) fn take(&mut self, text: &str, task: Option<&TaskName>) {
        let known = KNOWN.rule(text);
        let kind = match (text.contains("QA Issue: ").then(|| CHECK.captures(text)), known) {
            (Some(Some(check)), _) => format!("{QA}-{}", &check[1]),
            (Some(None), _) => QA.to_owned() + "-" + OTHER,
            (None, Some(rule)) => rule.kind.clone(),
            (None, None) => OTHER.into(),
        };
        let files: Vec<&str> =
            PATH.captures_iter(text).filter_map(|found| Some(found.get(1)?.as_str())).take(100).collect();
        let recipe = |file: Option<&&str>| match task {
            Some(task) => Some(task.recipe.clone()),
            None => names::of_file(file?).map(|(recipe, multiconfig)| match multiconfig {
                Some(multiconfig) => format!("mc:{multiconfig}:{recipe}"),
                None => recipe,
            }),
        };
        let file = |file: &&str| file.rsplit(':').next().unwrap_or_default().to_owned();
        match known.is_some_and(|rule| rule.each) && !files.is_empty() {
            true => files.iter().for_each(|one| self.count(&kind, recipe(Some(one)), Some(file(one)), text)),
            false => self.count(&kind, recipe(files.first()), files.first().map(file), text),
        }
    }

    fn count(&mut self, kind: &str, recipe: Option<String>, file: Option<String>, text: &str) {
        let is_known = self.kinds.contains_key(kind) || self.kinds.len() < MOST_KINDS;
        let counted = self.kinds.entry(if is_known { kind } else { OTHER }.to_owned()).or_default();
        counted.count += 1;
        let text: String = text.chars().take(LONGEST).collect();
        if counted.examples.len() < EXAMPLES && !counted.examples.contains(&text) {
            counted.examples.push(text);
        }
        let place = (recipe, file);
        if let Some(count) = counted.places.get_mut(&place) {
            *count += 1;
        } else if self.places < MOST_PLACES {
            self.places += 1;
            counted.places.insert(place, 1);
        }
    }

    /// With those of another run of the same build, which says again what conf and recipes make it say.
    pub(crate) fn append(&mut self, other: Self) {
        for (kind, counted) in other.kinds {
            let own = self.kinds.entry(kind).or_default();
            let mut again = 0;
            for (place, count) in counted.places {
                let known = own.places.entry(place).or_default();
                again += count.min(*known);
                *known = count.max(*known);
            }
            own.count += counted.count.saturating_sub(again);
            own.examples
                .extend(counted.examples.into_iter().filter(|text| !own.examples.contains(text)).collect::<Vec<_>>());
            own.examples.truncate(EXAMPLES);
        }
    }

    /// The recipes that warn.
    pub(crate) fn recipes(&self) -> BTreeSet<String> {
        self.kinds.values().flat_map(|counted| counted.places.keys()).filter_map(|(recipe, _)| recipe.clone()).collect()
    }

    /// The groups, by their names. `layer` knows the layer of a file, and of a recipe.
    pub(crate) fn groups(self, layer: impl Fn(Option<&str>, Option<&str>) -> Option<String>) -> Vec<WarningGroup> {
        let group = |(kind, counted): (String, Counted)| {
            let mut places: BTreeMap<(Option<String>, Option<String>), u64> = BTreeMap::new();
            for ((recipe, file), count) in counted.places {
                let layer = layer(file.as_deref(), recipe.as_deref())
                    .or_else(|| Some(layer_folder(&file?)?.rsplit('/').next()?.to_owned()));
                *places.entry((recipe, layer)).or_default() += count;
            }
            let place = |((recipe, layer), count)| WarnedPlace { recipe, layer, count, new: 0 };
            let places = places.into_iter().map(place).collect();
            WarningGroup { kind, count: counted.count, new: 0, places, examples: counted.examples }
        };
        self.kinds.into_iter().map(group).collect()
    }
}

/// An earlier build that was good.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    /// Its warnings.
    pub(crate) warnings: Vec<WarningGroup>,
    /// The recipes of which tasks ran in it: of all others it says nothing.
    pub(crate) ran: BTreeSet<String>,
}

/// Marks what the earlier builds, the newest first, did not have: of each recipe, the last of them counts in which it warned or ran. Without any,
/// nothing is new.
pub(crate) fn mark_new(groups: &mut [WarningGroup], earlier: &[Earlier]) {
    if earlier.is_empty() {
        return;
    }
    for group in groups {
        for place in &mut group.places {
            let before = earlier.iter().find_map(|build| {
                let same =
                    build.warnings.iter().filter(|known| known.kind == group.kind).flat_map(|known| &known.places);
                let counts: Vec<u64> =
                    same.filter(|known| known.recipe == place.recipe).map(|known| known.count).collect();
                let ran = place.recipe.as_ref().is_some_and(|recipe| build.ran.contains(recipe));
                (ran || !counts.is_empty()).then(|| counts.iter().sum::<u64>())
            });
            place.new = place.count.saturating_sub(before.unwrap_or_default());
        }
        group.new = group.places.iter().map(|place| place.new).sum();
    }
}

/// The groups of the kinds that are meant, by name, `qa` or `all`.
pub(crate) fn meant<'a>(groups: &'a [WarningGroup], kinds: &[String]) -> Vec<&'a WarningGroup> {
    let is = |group: &WarningGroup, kind: &String| match kind.as_str() {
        ALL => true,
        QA => group.kind.starts_with("qa-"),
        kind => group.kind == kind,
    };
    groups.iter().filter(|group| kinds.iter().any(|kind| is(group, kind))).collect()
}

/// The names of all kinds, and of what stands for several of them.
pub(crate) fn kinds() -> Vec<String> {
    let rules = &KNOWN.rules;
    let checks = rules.qa.iter().map(|name| format!("{QA}-{name}"));
    let others = [ALL, QA, OTHER].into_iter().map(str::to_owned).chain([format!("{QA}-{OTHER}")]);
    others.chain(rules.rule.iter().map(|rule| rule.kind.clone())).chain(checks).collect()
}

/// What a kind is about, in one sentence fragment.
pub(crate) fn about(kind: &str) -> &'static str {
    match KNOWN.rules.rule.iter().find(|rule| rule.kind == kind) {
        Some(rule) => &rule.about,
        None if kind.starts_with("qa-") => "a QA check of recipes or packages; INSANE_SKIP leaves it out for a package",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(messages: &[(&str, Option<(&str, &str)>)]) -> Vec<WarningGroup> {
        let mut warnings = Warnings::default();
        for (text, task) in messages {
            let task = task.map(|(recipe, task)| TaskName { recipe: recipe.into(), task: task.into() });
            warnings.take(text, task.as_ref());
        }
        warnings.groups(|file, recipe| match (file, recipe) {
            (Some(file), _) if file.starts_with("/l/meta-own/") => Some("own".into()),
            (_, Some("b")) => Some("meta-b".into()),
            _ => None,
        })
    }

    #[test]
    fn every_rule_knows_its_example_and_no_other() {
        for rule in &KNOWN.rules.rule {
            for text in &rule.example {
                assert_eq!(KNOWN.rule(text).map(|rule| &rule.kind), Some(&rule.kind), "{text}");
            }
            for text in &rule.counter {
                assert_ne!(KNOWN.rule(text).map(|rule| &rule.kind), Some(&rule.kind), "{text}");
            }
            let row = format!("\n| `{}` | {} |\n", rule.kind, rule.about);
            assert!(include_str!("../../docs/ci.md").contains(&row), "docs/ci.md has no {row}");
        }
        let all = kinds();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn warnings_are_grouped_by_kind_recipe_and_layer() {
        let ldflags = "QA Issue: File /usr/bin/a in package a doesn't have GNU_HASH (didn't pass LDFLAGS?) [ldflags]";
        let groups = counted(&[
            (ldflags, Some(("a", "do_package_qa"))),
            (ldflags, Some(("a", "do_package_qa"))),
            (&format!("a: {ldflags}"), Some(("b", "do_package_qa"))),
            ("QA Issue: something without a name", Some(("b", "do_package_qa"))),
            (
                "No recipes in default available for:\n  /l/meta-own/r/x_1.bbappend\n  /l/meta-y/recipes-z/y_1.bbappend",
                None,
            ),
            ("I am [sure]", None),
        ]);
        let told: Vec<String> = groups
            .iter()
            .map(|group| {
                let place = |place: &WarnedPlace| {
                    format!(
                        "{}/{}={}",
                        place.recipe.as_deref().unwrap_or("-"),
                        place.layer.as_deref().unwrap_or("-"),
                        place.count
                    )
                };
                format!(
                    "{} {}: {}",
                    group.kind,
                    group.count,
                    group.places.iter().map(place).collect::<Vec<_>>().join(" ")
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "bbappend-dangling 2: x/own=1 y/meta-y=1",
                "other 1: -/-=1",
                "qa-ldflags 3: a/-=2 b/meta-b=1",
                "qa-other 1: b/meta-b=1"
            ]
        );
        assert_eq!(groups.iter().map(|group| group.examples.len()).collect::<Vec<_>>(), [1, 1, 2, 1]);
        let named = |kinds: &[&str]| {
            let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
            meant(&groups, &kinds).into_iter().map(|group| group.kind.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(named(&["qa"]), ["qa-ldflags", "qa-other"]);
        assert_eq!((named(&["all"]).len(), named(&["other", "cve"]), named(&[]).len()), (4, vec!["other"], 0));
    }

    #[test]
    fn what_the_last_good_build_did_not_have_is_new() {
        let qa = |recipe, count: usize| vec![("QA Issue: x [arch]", Some((recipe, "do_package_qa"))); count];
        let earlier =
            |warnings, ran: &[&str]| Earlier { warnings, ran: ran.iter().map(|name| (*name).into()).collect() };
        let new = |earlier: &[Earlier]| {
            let mut now = counted(&[qa("a", 3), qa("b", 1)].concat());
            mark_new(&mut now, earlier);
            let places: Vec<u64> = now[0].places.iter().map(|place| place.new).collect();
            (now[0].new, places)
        };
        assert_eq!(new(&[]), (0, vec![0, 0]), "nothing to compare with");
        assert_eq!(new(&[earlier(counted(&[qa("a", 3), qa("b", 1)].concat()), &["a", "b"])]), (0, vec![0, 0]));
        assert_eq!(new(&[earlier(counted(&[qa("a", 1)].concat()), &["a", "b"])]), (3, vec![2, 1]));
        // A build in which a recipe did not run says nothing of it.
        let cached = || earlier(Vec::new(), &["c"]);
        assert_eq!(
            new(&[cached(), earlier(counted(&[qa("a", 3), qa("b", 1)].concat()), &["a", "b"])]),
            (0, vec![0, 0])
        );
        assert_eq!(
            new(&[earlier(Vec::new(), &["a"]), earlier(counted(&[qa("a", 3)].concat()), &["a"])]),
            (4, vec![3, 1]),
            "it was gone"
        );
    }

    #[test]
    fn hostile_warnings_take_little_memory() {
        let mut warnings = Warnings::default();
        for number in 0..10_000 {
            let task = TaskName { recipe: format!("r{number}"), task: "do_x".into() };
            warnings.take(&format!("QA Issue: {} [k{number}]", "x".repeat(5000)), Some(&task));
        }
        let groups = warnings.groups(|_, _| None);
        assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 10_000);
        assert!(serde_json::to_vec(&groups).expect("JSON").len() < 300_000);
    }
}
