//! What a layer depends on, with versions: `core (>= 12) openembedded-layer`, and how BitBake compares them (`bb.utils`,
//! `explode_dep_versions2` and `vercmp_string_op`).

use std::{cmp::Ordering, iter::Peekable, str::SplitWhitespace};

/// One layer that another one needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needed {
    /// The collection.
    pub collection: String,
    /// What its version must be, if anything.
    pub version: Option<Constraint>,
}

/// What a version must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Constraint {
    operator: String,
    version: String,
}

impl std::fmt::Display for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.operator, self.version)
    }
}

/// Longest first.
const OPERATORS: [&str; 10] = ["<=", ">=", "==", "!=", ">>", "<<", "<", ">", "=", ""];

/// Reads a list of dependencies; none where BitBake would refuse it.
pub(super) fn needed(text: &str) -> Option<Vec<Needed>> {
    let text = text.replace(',', "");
    let mut words = text.split_whitespace().peekable();
    let mut all = Vec::new();
    while let Some(name) = words.next() {
        if name.starts_with('(') {
            return None;
        }
        let collection = name.to_owned();
        let version = match words.peek().is_some_and(|word| word.starts_with('(')) {
            true => Some(constraint(&parenthesis(&mut words))?),
            false => None,
        };
        all.push(Needed { collection, version });
    }
    Some(all)
}

fn parenthesis(words: &mut Peekable<SplitWhitespace<'_>>) -> String {
    let mut inside: Vec<&str> = Vec::new();
    for word in words {
        inside.push(word);
        if word.ends_with(')') {
            break;
        }
    }
    inside.join(" ").trim_start_matches('(').trim_end_matches(')').trim().to_owned()
}

fn constraint(text: &str) -> Option<Constraint> {
    let (operator, version) =
        OPERATORS.into_iter().find_map(|operator| Some((operator, text.strip_prefix(operator)?.trim())))?;
    if operator.is_empty() {
        return None;
    }
    // `=<` and `=>` are read by BitBake, but it can compare nothing with them.
    let plain = !version.is_empty() && !version.contains(char::is_whitespace) && !version.starts_with(['<', '>']);
    plain.then(|| Constraint { operator: operator.into(), version: version.into() })
}

impl Constraint {
    /// Whether a version will do.
    pub(super) fn holds(&self, version: &str) -> bool {
        let order = compare(version, &self.version);
        match self.operator.as_str() {
            "<=" => order.is_le(),
            ">=" => order.is_ge(),
            "<" | "<<" => order.is_lt(),
            ">" | ">>" => order.is_gt(),
            "!=" => order.is_ne(),
            _ => order.is_eq(),
        }
    }
}

/// Epoch, version and revision.
fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (split(a), split(b));
    number(a.0, b.0).then_with(|| pieces(a.1, b.1)).then_with(|| pieces(a.2, b.2))
}

fn split(version: &str) -> (&str, &str, &str) {
    let version = version.trim_matches([' ', '<', '>', '=']);
    let (epoch, version) = version.split_once(':').unwrap_or(("0", version));
    let (version, revision) = version.rsplit_once('-').unwrap_or((version, ""));
    (epoch, version, revision)
}

/// Of any length.
fn number(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[derive(PartialEq, Eq)]
enum Piece<'a> {
    Tilde,
    End,
    Number(&'a str),
    Letters(&'a str),
    Other(char),
}

impl Piece<'_> {
    fn rank(&self) -> u8 {
        match self {
            Self::Tilde => 0,
            Self::End | Self::Number(_) => 1,
            Self::Letters(_) => 2,
            Self::Other(_) => 3,
        }
    }
}

fn pieces(mut a: &str, mut b: &str) -> Ordering {
    loop {
        let (left, right) = (piece(&mut a), piece(&mut b));
        let order = match (&left, &right) {
            (Piece::End, Piece::End) => return Ordering::Equal,
            (Piece::End, Piece::Number(_)) => Ordering::Less,
            (Piece::Number(_), Piece::End) => Ordering::Greater,
            (Piece::Number(a), Piece::Number(b)) => number(a, b),
            (Piece::Letters(a), Piece::Letters(b)) => a.cmp(b),
            (Piece::Other(a), Piece::Other(b)) => a.cmp(b),
            _ => left.rank().cmp(&right.rank()),
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn piece<'a>(rest: &mut &'a str) -> Piece<'a> {
    let Some(first) = rest.chars().next() else { return Piece::End };
    let length = |is: fn(&char) -> bool| rest.chars().take_while(is).count();
    let (length, make): (usize, fn(&'a str) -> Piece<'a>) = match first {
        '0'..='9' => (length(char::is_ascii_digit), Piece::Number),
        'a'..='z' | 'A'..='Z' => (length(char::is_ascii_alphabetic), Piece::Letters),
        '~' => (1, |_| Piece::Tilde),
        other => (other.len_utf8(), |text| Piece::Other(text.chars().next().unwrap_or_default())),
    };
    let (text, after) = rest.split_at(length);
    *rest = after;
    make(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_as_layers_write_them() {
        let show = |text: &str| {
            let one = |needed: Needed| match needed.version {
                Some(version) => format!("{} {version}", needed.collection),
                None => needed.collection,
            };
            needed(text).map(|all| all.into_iter().map(one).collect::<Vec<_>>().join(", "))
        };
        for (text, expected) in [
            ("", Some("")),
            (" core  openembedded-layer ", Some("core, openembedded-layer")),
            ("core (>= 12) openembedded-layer", Some("core >= 12, openembedded-layer")),
            ("core (>=12), x ( = 1 )", Some("core >= 12, x = 1")),
            ("core (>> 1) core (<< 3)", Some("core >> 1, core << 3")),
            ("core (12)", None),
            ("core (>= )", None),
            ("core (=> 1)", None),
            ("(>= 12)", None),
        ] {
            assert_eq!(show(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn versions_compare_as_in_bitbake() {
        for (version, constraint, holds) in [
            ("15", ">= 12", true),
            ("9", ">= 12", false),
            ("012", "= 12", true),
            ("1.10", "> 1.9", true),
            ("1.0~rc1", "< 1.0", true),
            ("1.0a", ">> 1.0", true),
            ("1.0", "!= 1.0", false),
            ("1:1", "> 2", true),
            ("1-2", "<= 1-10", true),
            ("99999999999999999999999", "> 99999999999999999999998", true),
        ] {
            let (operator, wanted) = constraint.split_once(' ').expect("two words");
            let constraint = Constraint { operator: operator.into(), version: wanted.into() };
            assert_eq!(constraint.holds(version), holds, "{version} {constraint}");
        }
    }

    proptest! {
        #[test]
        fn every_text_ends(list in "(?s).{0,60}", a in "[0-9a~.:é-]{0,9}", b in "[0-9a~.:é-]{0,9}") {
            let _ = needed(&list);
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        }
    }
}
