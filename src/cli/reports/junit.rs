//! JUnit XML, as Jenkins, GitLab and others read it (junit-10.xsd of Jenkins): a suite for each build, a test for each recipe. A pure function.

use std::fmt::Write as _;

use super::told::{End, Failed, Recipe, Told, line, tells_of};
use crate::model::State;

/// The test of what is no recipe's.
const BUILD: &str = "the build";

/// A test, and how it ended.
struct Case<'a> {
    name: &'a str,
    class: String,
    took_ms: u64,
    end: Verdict<'a>,
}

enum Verdict<'a> {
    Good,
    Skipped(String),
    Bad(Vec<&'a Failed>),
}

/// The document.
pub(super) fn of(told: &[Told]) -> String {
    let suites: Vec<(&Told, Vec<Case<'_>>)> = told.iter().map(|one| (one, cases(one))).collect();
    let (tests, failures, _) = suites.iter().fold((0, 0, 0), |(a, b, c), (_, cases)| {
        let (x, y, z) = counts(cases);
        (a + x, b + y, c + z)
    });
    let took = seconds(told.iter().map(|one| one.took_ms).sum());
    let mut document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"smidr\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" time=\"{took}\">\n"
    );
    for (one, cases) in &suites {
        suite(&mut document, one, cases);
    }
    document + "</testsuites>\n"
}

fn suite(document: &mut String, told: &Told, cases: &[Case<'_>]) {
    let (tests, failures, skipped) = counts(cases);
    let begun = told.begun.map(|at| format!(" timestamp=\"{}\"", at.strftime("%Y-%m-%dT%H:%M:%S")));
    let _ = writeln!(
        document,
        "  <testsuite name=\"{}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{}\"{}>",
        attribute(&told.name),
        seconds(told.took_ms),
        begun.unwrap_or_default(),
    );
    if let Some(state) = told.state {
        let properties =
            [("state", state.to_string()), ("machine", told.machine.clone()), ("targets", told.targets.join(" "))];
        let property = |(name, value): &(&str, String)| {
            format!("      <property name=\"{name}\" value=\"{}\"/>\n", attribute(value))
        };
        let _ = writeln!(
            document,
            "    <properties>\n{}    </properties>",
            properties.iter().map(property).collect::<String>()
        );
    }
    cases.iter().for_each(|case| test(document, case));
    document.push_str("  </testsuite>\n");
}

fn test(document: &mut String, case: &Case<'_>) {
    let (name, class, took) = (attribute(case.name), attribute(&case.class), seconds(case.took_ms));
    let _ = write!(document, "    <testcase name=\"{name}\" classname=\"{class}\" time=\"{took}\"");
    let inner = match &case.end {
        Verdict::Good => return document.push_str("/>\n"),
        Verdict::Skipped(why) => format!("      <skipped>{}</skipped>\n", xml(why)),
        Verdict::Bad(failures) => failure(failures),
    };
    let _ = write!(document, ">\n{inner}    </testcase>\n");
}

/// All failures of a test as one: readers take the first.
fn failure(failures: &[&Failed]) -> String {
    let Some((first, more)) = failures.split_first() else { return String::new() };
    let count = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
    let (kind, cause) = (attribute(&first.why.kind), attribute(&format!("{}{count}", line(&first.why.cause))));
    let blocks: Vec<String> = failures.iter().map(|one| text(one)).collect();
    format!("      <failure type=\"{kind}\" message=\"{cause}\">{}</failure>\n", xml(&blocks.join("\n\n")))
}

/// What shows it, and what to do.
fn text(failed: &Failed) -> String {
    let mut lines = vec![format!("{}: {}", failed.title(), line(&failed.why.cause))];
    lines.extend(failed.place.as_ref().map(|(file, number)| line(&format!("{file}:{number}"))));
    lines.extend(failed.evidence().map(|line| format!("| {line}")));
    lines.extend(failed.facts());
    lines.extend(failed.next().map(|next| format!("- {}", next.replace('\n', "\n    "))));
    lines.join("\n")
}

fn cases(told: &Told) -> Vec<Case<'_>> {
    let case = |recipe: &'_ Recipe| recipe.multiconfig.as_ref().map(|name| format!(".{name}")).unwrap_or_default();
    let mut all: Vec<Case<'_>> = Vec::new();
    for recipe in &told.recipes {
        let end = match recipe.end {
            End::Good => Verdict::Good,
            End::UpToDate => Verdict::Skipped("its results were there: nothing ran".into()),
            End::Open => Verdict::Skipped("the build ended while a task of it ran".into()),
            End::Bad => match told.failures.iter().filter(|one| tells_of(&one.why, recipe)).collect::<Vec<_>>() {
                none if none.is_empty() => Verdict::Skipped("the build was cancelled".into()),
                failures => Verdict::Bad(failures),
            },
        };
        let class = format!("{}{}", told.class, case(recipe));
        all.push(Case { name: &recipe.name, class, took_ms: recipe.took_ms, end });
    }
    // Of logs, the failures alone say which recipes there were.
    let (mut of_build, mut others): (Vec<&Failed>, Vec<(&str, Vec<&Failed>)>) = Default::default();
    for failed in &told.failures {
        let is_known = |recipe: &Recipe| recipe.end == End::Bad && tells_of(&failed.why, recipe);
        match (&failed.why.recipe, &failed.why.task) {
            _ if told.recipes.iter().any(is_known) => {}
            (Some(recipe), Some(_)) => match others.iter_mut().find(|(name, _)| name == recipe) {
                Some((_, failures)) => failures.push(failed),
                None => others.push((recipe, vec![failed])),
            },
            _ => of_build.push(failed),
        }
    }
    all.extend(others.into_iter().map(|(name, failures)| Case {
        name,
        class: told.class.clone(),
        took_ms: 0,
        end: Verdict::Bad(failures),
    }));
    let end = match told.state {
        Some(State::Cancelled) => Some(Verdict::Skipped("the build was cancelled".into())),
        Some(state) if !state.is_final() => Some(Verdict::Skipped(format!("the build is {state}"))),
        _ if !of_build.is_empty() => Some(Verdict::Bad(of_build)),
        // Readers call a report without a test an error.
        _ => all.is_empty().then_some(Verdict::Good),
    };
    all.extend(end.map(|end| Case { name: BUILD, class: told.class.clone(), took_ms: 0, end }));
    all
}

/// Tests, failed ones, skipped ones.
fn counts(cases: &[Case<'_>]) -> (usize, usize, usize) {
    let failed = cases.iter().filter(|case| matches!(case.end, Verdict::Bad(_))).count();
    let skipped = cases.iter().filter(|case| matches!(case.end, Verdict::Skipped(_))).count();
    (cases.len(), failed, skipped)
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// Text for an attribute: one line.
fn attribute(text: &str) -> String {
    xml(&line(text))
}

/// Text for an element. What XML 1.0 cannot have (production 2, Char) is left out.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => out.push(c),
            _ => {}
        }
    }
    out
}
