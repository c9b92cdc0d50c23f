//! What of the config a failure of BitBake comes from: its words with the lines of `smidr.yaml` that asked for it. Pure, and best effort:
//! what has no origin there stays as BitBake says it.

use crate::{
    bitbake,
    config::{self, Problem, Span},
    plan::Plan,
};

/// Where the name of a variable stands that could not be expanded (bb.data_smart.ExpansionError).
const EXPANDING: &str = "Failure expanding variable ";

/// A class of INHERIT that is not there (bb.parse.parse_py.BBHandler, inherit).
const INHERITING: &str = "in configuration INHERITs: Could not inherit file ";

/// An error of BitBake.
#[derive(Debug)]
pub(crate) enum Said {
    /// In its words.
    Message(String),
    /// That nothing provides an item.
    NoProvider {
        /// What is wanted.
        item: String,
        /// In words.
        text: String,
    },
}

impl Said {
    /// The error, and where the config asks for what is wrong.
    pub(super) fn told(&self, plan: &Plan) -> String {
        match self.found(plan) {
            Some((span, title)) => drawn(plan, span, title),
            None => self.text().to_owned(),
        }
    }

    /// The place alone, and the error in words that suit it.
    pub(super) fn found(&self, plan: &Plan) -> Option<(Span, String)> {
        match self {
            Self::Message(text) => of_message(text, plan),
            Self::NoProvider { item, text } => of_item(plan, item).map(|span| (span, text.clone())),
        }
    }

    /// In BitBake's words.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Message(text) | Self::NoProvider { text, .. } => text,
        }
    }
}

/// Where the config asks for a target or a package.
pub(super) fn of_item(plan: &Plan, item: &str) -> Option<Span> {
    place(plan, &["build", "extra_packages", item], item).or_else(|| place(plan, &["build", "image"], item))
}

fn of_message(text: &str, plan: &Plan) -> Option<(Span, String)> {
    let conf = format!("{}/conf/local.conf:", plan.folders.top.display());
    if let Some((_, rest)) = text.rsplit_once(conf.as_str()) {
        let (number, why) = rest.split_once(':')?;
        let line = of_line(plan, number.parse().ok()?)?;
        return Some((line, format!("BitBake cannot read this: {}", first_line(why))));
    }
    if let Some((_, rest)) = text.rsplit_once(INHERITING) {
        let class = first_line(rest).rsplit('/').next()?.trim_end_matches(".bbclass");
        let title = format!("no layer has the class `{class}`");
        let by_key = || place(plan, &["features", "inherit_classes", class], class);
        return Some((of_conf(plan, class, 0).or_else(by_key)?, title));
    }
    let (_, rest) = text.rsplit_once(EXPANDING)?;
    let name = rest.split([',', '[', ' ', '\n']).next()?;
    let span = of_variable(plan, name)?;
    Some((span, format!("BitBake cannot expand {}", first_line(rest))))
}

fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default()
}

/// The place that a line of local.conf comes from; `number` counts from 1.
fn of_line(plan: &Plan, number: usize) -> Option<Span> {
    let conf = bitbake::local_conf(plan);
    let lines: Vec<&str> = conf.lines().collect();
    let line = lines.get(number.checked_sub(1)?)?.trim();
    let tail = lines.len().saturating_sub(plan.conf_tail.lines().count());
    if number > tail {
        // A line may stand there more than once.
        let before = lines.get(tail..number - 1).unwrap_or_default();
        return of_conf(plan, line, before.iter().filter(|other| other.trim() == line).count());
    }
    of_variable(plan, line.trim_start_matches("export ").split([' ', '=', '?']).next()?)
}

/// The place of a line of `local_conf`, or of the first that holds a text.
fn of_conf(plan: &Plan, wanted: &str, skip: usize) -> Option<Span> {
    if wanted.is_empty() || !plan.conf_tail.contains(wanted) {
        return None;
    }
    let find = |(at, line): (usize, &str)| line.find(wanted).map(|start| at + start..at + start + wanted.len());
    let found: Vec<Span> = plan.texts.lines().filter_map(find).collect();
    found.get(skip).or(found.first()).cloned()
}

fn of_variable(plan: &Plan, name: &str) -> Option<Span> {
    let keys: &[&str] = match name.split(':').next()? {
        "MACHINE" => &["base", "machine"],
        "DISTRO" => &["base", "distro"],
        "PACKAGE_CLASSES" => &["packages", "classes"],
        "EXTRA_IMAGE_FEATURES" => &["features", "extra_image_features"],
        "USER_CLASSES" => &["features", "user_classes"],
        "INHERIT" => &["features", "inherit_classes"],
        "IMAGE_INSTALL" => &["build", "extra_packages"],
        "SSTATE_MIRRORS" => &["advanced", "sstate_mirrors"],
        "PREMIRRORS" => &["advanced", "premirrors"],
        "LICENSE_FLAGS_ACCEPTED" => &["advanced", "license_flags"],
        "BB_HASHSERVE" => &["advanced", "bb_hashserve"],
        "BB_SIGNATURE_HANDLER" => &["advanced", "bb_signature_handler"],
        "BB_DISKMON_DIRS" => &["advanced", "disk_monitoring"],
        _ => &["env", name],
    };
    let assigned = plan.conf_tail.lines().find(|line| line.trim_start().starts_with(name));
    assigned.and_then(|line| of_conf(plan, line.trim(), 0)).or_else(|| exact(plan, keys))
}

/// The place of what the keys lead to, if it is `text`: what was asked for on the command line has none.
fn place(plan: &Plan, keys: &[&str], text: &str) -> Option<Span> {
    let is_of_name = |c: char| c.is_alphanumeric() || "-_+.:/".contains(c);
    let has = |found: &str| found.split(|c| !is_of_name(c)).any(|word| word == text);
    exact(plan, keys).filter(|span| plan.texts.get(span).is_some_and(has))
}

fn exact(plan: &Plan, keys: &[&str]) -> Option<Span> {
    let find = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        config::place(&plan.texts, plan.variant.as_deref(), &keys)
    };
    let (_, around) = keys.split_last()?;
    find(keys).filter(|span| find(around).as_ref() != Some(span))
}

fn drawn(plan: &Plan, span: Span, title: String) -> String {
    let drawn = plan.texts.problems(&plan.file, vec![Problem::new(span, title)]).render(false);
    drawn.trim_start_matches("error: ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        model::{BuildRequest, Paths, SystemFacts},
        plan::{Domain, make},
    };

    fn plan_of(text: &str) -> Plan {
        let config = config::read("smidr.yaml", text, None, &|_| None).expect("a config");
        let (facts, paths) = (SystemFacts::of_an_ordinary_user(), Paths::new("/home/u/.smidr".into()));
        let (file, wanted) = (Path::new("/home/u/p/smidr.yaml"), BuildRequest::default());
        let plan = make(&config, None, &facts, &paths, file, &wanted, &Domain::Own).expect("a plan");
        Plan { texts: text.into(), ..plan }
    }

    fn told(text: &str, said: &Said) -> String {
        let plan = plan_of(text);
        let said = match said {
            Said::Message(text) => Said::Message(text.replace("TOP", &plan.folders.top.display().to_string())),
            Said::NoProvider { item, text } => Said::NoProvider { item: item.clone(), text: text.clone() },
        };
        said.told(&plan)
    }

    #[test]
    fn words_of_bitbake_have_the_line_that_asked() {
        let config = "\
name: p
base: {machine: m}
build:
  image: i
  extra_packages: [strace]
features: {inherit_classes: [nope]}
env: {URL: '${@x}'}
local_conf: |
  A = \"1\"
  FOO bar
  FOO bar
  B := \"${@foo()}\"
"
        .replace("'${@x}'", "'$${@x}'");
        let message = |text: &str| Said::Message(text.into());
        let missing = |item: &str| Said::NoProvider { item: item.into(), text: format!("nothing provides `{item}`") };
        // local.conf ends with the four lines.
        let all = bitbake::local_conf(&plan_of(&config)).lines().count();
        let conf = |back: usize| {
            format!("Unable to parse x.py\nParseError at TOP/conf/local.conf:{}: unparsed line: 'FOO bar'", all - back)
        };
        for (said, title, place) in [
            (message(&conf(2)), "BitBake cannot read this: unparsed line: 'FOO bar'", Some("10:3")),
            (message(&conf(1)), "BitBake cannot read this: unparsed line: 'FOO bar'", Some("11:3")),
            (
                message("x\nParseError in configuration INHERITs: Could not inherit file classes/nope.bbclass"),
                "no layer has the class `nope`",
                Some("6:30"),
            ),
            (
                message("Failure expanding variable B[:=], expression was ${@foo()}"),
                "BitBake cannot expand B[:=], expression was",
                Some("12:3"),
            ),
            (message("Failure expanding variable URL, expression was x"), "BitBake cannot expand URL", Some("7:12")),
            (missing("strace"), "nothing provides `strace`", Some("5:20")),
            (missing("i"), "nothing provides `i`", Some("4:10")),
            (missing("stra"), "nothing provides `stra`", None),
            (missing("other"), "nothing provides `other`", None),
            (message("Failure expanding variable SRC_URI, x"), "Failure expanding variable SRC_URI, x", None),
            (message("anything"), "anything", None),
        ] {
            let told = told(&config, &said);
            assert!(told.starts_with(title), "{told}");
            let at = told.lines().find_map(|line| line.trim_start().strip_prefix("--> smidr.yaml:"));
            assert_eq!(at, place, "{told}");
        }
    }
}
