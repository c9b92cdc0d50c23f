//! The variables while `layer.conf` files are read: as much of BitBake's `bb.data_smart` as those files need.
//!
//! Inline Python (`${@…}`) is never run, and overrides are not known when layers are read. A [`Value`] tells which of its words are certain.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
};

use super::lines::Operator;

/// Stands for the result of Python. No text file that is read contains it.
const UNKNOWN: char = '\0';

/// How deep variables may refer to each other. BitBake's limit is Python's recursion limit.
const MAX_DEPTH: usize = 40;

/// How many bytes may be put together while one layer is read. The longest values are lists to which each layer adds: some 10 KiB after a hundred layers.
const WORK: usize = 8 << 20;

/// The variables of all layers.
#[derive(Debug)]
pub(super) struct Variables {
    all: BTreeMap<String, Variable>,
    work: Cell<usize>,
}

#[derive(Debug, Default)]
struct Variable {
    content: Option<String>,
    /// By `??=`.
    default: Option<String>,
    edits: Vec<Edit>,
    /// Whether an override may replace it, for some machine, distro or the like.
    overridden: bool,
}

#[derive(Debug)]
struct Edit {
    kind: EditKind,
    text: String,
    /// Only with some override.
    conditional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EditKind {
    Append,
    Prepend,
    Remove,
}

/// The expanded value of a variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Value {
    text: String,
    /// Whether overrides or Python may change it.
    open: bool,
}

impl Value {
    /// The words that it certainly has.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.text.split_whitespace().filter(|word| is_known(word))
    }

    /// Whether it has, or may have, more than its certain words.
    pub(crate) fn is_open(&self) -> bool {
        self.open || !is_known(&self.text)
    }

    /// The whole value, where all of it is certain.
    pub(crate) fn certain(&self) -> Option<&str> {
        (!self.is_open()).then_some(&self.text)
    }

    /// The certain words, joined.
    pub(crate) fn text(&self) -> String {
        self.words().collect::<Vec<_>>().join(" ")
    }

    /// Appends another value.
    pub(crate) fn join(&mut self, other: Self) {
        self.text = format!("{} {}", self.text, other.text);
        self.open |= other.open;
    }

    /// The whole value, with marks for unknown parts: see [`is_known`].
    pub(super) fn whole(&self) -> &str {
        &self.text
    }
}

/// Whether no part of it depends on Python or on a variable that no layer sets.
pub(super) fn is_known(text: &str) -> bool {
    !text.contains(UNKNOWN) && !text.contains("${")
}

impl Variables {
    pub(super) fn new() -> Self {
        Self { all: BTreeMap::new(), work: Cell::new(WORK) }
    }

    /// Restores the budget, for the next layer.
    pub(super) fn refill(&self) {
        self.work.set(WORK);
    }

    /// Whether the budget is spent; values that were read since are unknown.
    pub(super) fn is_exhausted(&self) -> bool {
        self.work.get() == 0
    }

    /// Carries out an assignment.
    pub(super) fn assign(&mut self, name: &str, operator: Operator, value: &str) {
        let content = || self.all.get(name).and_then(|variable| variable.content.clone());
        let joined = match operator {
            Operator::Set => value.to_owned(),
            Operator::SetNow => self.expand(value, 0),
            Operator::SetIfUnset => content().unwrap_or_else(|| value.to_owned()),
            Operator::Append => format!("{} {value}", content().unwrap_or_default()),
            Operator::Prepend => format!("{value} {}", content().unwrap_or_default()),
            Operator::AppendBare => format!("{}{value}", content().unwrap_or_default()),
            Operator::PrependBare => format!("{value}{}", content().unwrap_or_default()),
            Operator::Default => {
                self.note_override(name);
                self.entry(name).default = Some(value.into());
                return;
            }
        };
        let joined = if self.spend(joined.len()) { joined } else { UNKNOWN.into() };
        match edit(name) {
            Some((base, kind, conditional)) => {
                self.note_override(base);
                self.entry(base).edits.push(Edit { kind, text: joined, conditional });
            }
            None => self.set(name, joined),
        }
    }

    /// Sets a variable as an assignment does: its appends stay.
    pub(super) fn set(&mut self, name: &str, value: String) {
        self.note_override(name);
        self.entry(name).content = Some(value);
    }

    /// `unset`, and BitBake's `delVar`: removes its appends too.
    pub(super) fn unset(&mut self, name: &str) {
        self.all.remove(name);
    }

    /// Replaces `${name}` by the unexpanded value of `name` everywhere, appends included. As in BitBake's `expandVarref`, a
    /// variable that this changes loses its `:remove`, and its conditional appends.
    pub(super) fn settle(&mut self, name: &str) {
        let reference = format!("${{{name}}}");
        let Some(value) = self.all.get(name).and_then(|variable| variable.content.clone()) else { return };
        for variable in self.all.values_mut().filter(|variable| variable.mentions(&reference)) {
            // It may be in a default that is not the value.
            let (size, work) = (variable.size(), self.work.get());
            let grown = |raw: &str| raw.matches(&reference).count().saturating_mul(value.len());
            if size >= work {
                self.work.set(0);
                return;
            }
            if let Some(raw) = variable.raw().0.filter(|raw| raw.contains(&reference)) {
                self.work.set(work.saturating_sub(size.saturating_add(grown(&raw))));
                let known = self.work.get() > 0;
                variable.content = Some(if known { raw.replace(&reference, &value) } else { UNKNOWN.into() });
                variable.edits.clear();
            }
        }
    }

    /// The value of a variable, if it has one.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.get_at(name, 0)
    }

    /// Expands a text with the current values.
    pub(super) fn expand_now(&self, text: &str) -> String {
        self.expand(text, 0)
    }

    fn get_at(&self, name: &str, depth: usize) -> Option<Value> {
        let variable = self.all.get(name)?;
        // Counted here, since the expanded value may be empty and then costs nothing where it is inserted.
        if !self.spend(variable.size()) {
            return Some(Value { text: UNKNOWN.into(), open: true });
        }
        let (raw, open) = variable.raw();
        let (text, mut open) = (self.expand(&raw?, depth), open);
        let mut removed = HashSet::new();
        for edit in variable.edits.iter().filter(|edit| edit.kind == EditKind::Remove) {
            let words = self.expand(&edit.text, depth);
            open |= edit.conditional || !is_known(&words);
            if !self.spend(words.len()) {
                return Some(Value { text: UNKNOWN.into(), open: true });
            }
            removed.extend(words.split_whitespace().map(str::to_owned));
        }
        let text = if removed.is_empty() { text } else { without(&text, &removed) };
        Some(Value { text, open })
    }

    /// Expands variables, and replaces Python by [`UNKNOWN`]. A variable that is not set stays as it is written.
    fn expand(&self, text: &str, depth: usize) -> String {
        if depth > MAX_DEPTH {
            return UNKNOWN.into();
        }
        let mut text = text.to_owned();
        // Repeated, since `${A${B}}` names another variable once B is expanded.
        for _ in 0..MAX_DEPTH {
            if !text.contains("${") {
                break;
            }
            let next = self.replace_python(&self.replace_variables(&text, depth));
            if !self.spend(next.len()) {
                return UNKNOWN.into();
            }
            if next == text {
                break;
            }
            text = next;
        }
        text
    }

    fn replace_variables(&self, text: &str, depth: usize) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, reference)) = rest.split_once("${") {
            out.push_str(before);
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_+./~:".contains(c);
            let (name, after) = reference.split_at(reference.find(|c| !is_name(c)).unwrap_or(reference.len()));
            let found = after.strip_prefix('}').filter(|_| !name.is_empty()).and_then(|after| {
                let value = self.get_at(name, depth + 1).filter(|_| self.spend(1))?;
                Some((value, after))
            });
            match found {
                Some((value, after)) => {
                    out.push_str(&value.text);
                    if value.open {
                        out.push(UNKNOWN);
                    }
                    rest = after;
                }
                None => {
                    out.push_str("${");
                    rest = reference;
                }
            }
            if self.is_exhausted() {
                return UNKNOWN.into();
            }
        }
        out.push_str(rest);
        out
    }

    fn replace_python(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, code)) = rest.split_once("${@") {
            // The search for its end may reach the end of the text.
            if !self.spend(code.len()) {
                return UNKNOWN.into();
            }
            let Some(after) = after_python(code) else { break };
            out.push_str(before);
            out.push(UNKNOWN);
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// Takes so much from the budget; false if it is spent.
    pub(super) fn spend(&self, bytes: usize) -> bool {
        self.work.set(self.work.get().saturating_sub(bytes + 1));
        !self.is_exhausted()
    }

    fn entry(&mut self, name: &str) -> &mut Variable {
        self.all.entry(name.to_owned()).or_default()
    }

    /// `A:arm` is A for some machines.
    fn note_override(&mut self, name: &str) {
        if let Some((base, _)) = name.split_once(':') {
            self.entry(base).overridden = true;
        }
    }
}

impl Variable {
    fn mentions(&self, text: &str) -> bool {
        let lasting = self.edits.iter().filter(|edit| edit.kind != EditKind::Remove && !edit.conditional);
        let texts = self.content.iter().chain(&self.default).chain(lasting.map(|edit| &edit.text));
        texts.into_iter().any(|part| part.contains(text))
    }

    /// The cost of putting it together, in bytes and parts: each prepend moves everything that is there already.
    fn size(&self) -> usize {
        let value = self.content.as_ref().or(self.default.as_ref()).map_or(0, String::len);
        let kind = |kind| self.edits.iter().filter(move |edit| edit.kind == kind && !edit.conditional);
        let bytes = |kind_of| kind(kind_of).map(|edit| edit.text.len()).sum::<usize>();
        let moved =
            kind(EditKind::Prepend).count().saturating_mul(value + bytes(EditKind::Append) + bytes(EditKind::Prepend));
        value.saturating_add(moved).saturating_add(bytes(EditKind::Append) + self.edits.len())
    }

    /// The value before expansion, with unconditional appends, and whether overrides may change it.
    fn raw(&self) -> (Option<String>, bool) {
        let mut value = self.content.clone().or_else(|| self.default.clone());
        let mut open = self.overridden;
        for kind in [EditKind::Append, EditKind::Prepend] {
            for edit in self.edits.iter().filter(|edit| edit.kind == kind) {
                if edit.conditional {
                    open = true;
                    continue;
                }
                let old = value.unwrap_or_default();
                value = Some(if kind == EditKind::Append { old + &edit.text } else { edit.text.clone() + &old });
            }
        }
        // A variable that is only set under conditions counts as set.
        (value.or_else(|| open.then(String::new)), open)
    }
}

/// `A:append:arm` is a conditional append to A. Before BitBake 1.52 it was written with `_`, which later versions refuse.
fn edit(name: &str) -> Option<(&str, EditKind, bool)> {
    const KEYWORDS: [(&str, EditKind); 3] =
        [("append", EditKind::Append), ("prepend", EditKind::Prepend), ("remove", EditKind::Remove)];
    // Searched once: a name may be as long as a file, and consist of keywords.
    let upper = name.rfind(|c: char| c.is_ascii_uppercase());
    name.match_indices([':', '_']).find_map(|(at, mark)| {
        let (base, rest) = name.split_at_checked(at)?;
        let rest = rest.strip_prefix(mark)?;
        let (kind, rest) = KEYWORDS.iter().find_map(|(word, kind)| Some((*kind, rest.strip_prefix(word)?)))?;
        let condition = rest.strip_prefix(mark);
        let lower = |text: &str| upper.is_none_or(|upper| upper < name.len() - text.len());
        (rest.is_empty() || condition.is_some_and(lower)).then_some((base, kind, condition.is_some()))
    })
}

/// The text after the brace that closes inline Python, as `\${@(?:{.*?}|.)+?}` finds it: pairs of braces inside are skipped.
fn after_python(code: &str) -> Option<&str> {
    let mut rest = code;
    while let Some(next) = rest.find(['{', '}']) {
        rest = rest.split_at(next).1;
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        match rest.split_once('}') {
            Some((_, after)) => rest = after,
            None => break,
        }
    }
    // If no pair leaves one over, the first closing brace.
    code.split_once('}').map(|(_, after)| after)
}

fn without(text: &str, removed: &HashSet<String>) -> String {
    text.split_whitespace().filter(|word| !removed.contains(*word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layers::conf::lines::{Statement, statements};

    fn read(text: &str) -> Variables {
        let mut variables = Variables::new();
        for statement in statements(text) {
            match statement {
                Statement::Assign { name, operator, value } => variables.assign(&name, operator, &value),
                Statement::Unset(name) => variables.unset(&name),
                Statement::Include { .. } => {}
            }
        }
        variables
    }

    #[test]
    fn values_as_bitbake_has_them() {
        for (text, expected) in [
            ("A = \"a\"\nA += \"b\"\nA =+ \"c\"\nA .= \"d\"\nA =. \"e\"", "ec a bd"),
            ("A ?= \"a\"\nA ?= \"b\"", "a"),
            ("A ??= \"a\"\nA ??= \"b\"", "b"),
            ("A ??= \"a\"\nA ?= \"b\"", "b"),
            ("A ??= \"a\"\nA += \"b\"", " b"),
            ("A:append = \" b\"\nA = \"a\"", "a b"),
            ("A_append = \" b\"\nA = \"a\"", "a b"),
            ("A:prepend = \"b \"\nA ?= \"a\"", "b a"),
            ("A = \"a b c\"\nA:remove = \"b\"", "a c"),
            ("A:append = \" b\"\nunset A\nA = \"a\"", "a"),
            ("A = \"${B}\"\nB = \"b\"", "b"),
            ("B = \"b\"\nA := \"${B}\"\nB = \"c\"", "b"),
            ("A = \"${B${C}}\"\nC = \"x\"\nBx = \"b\"", "b"),
            ("A_x-y = \"n\"\nA = \"${A_x-y}\"", "n"),
        ] {
            let value = read(text).get("A").expect(text);
            assert_eq!(value.certain(), Some(expected), "{text}");
        }
        assert_eq!(read("B = \"b\"").get("A"), None);
    }

    #[test]
    fn what_is_not_known_is_told_from_what_is() {
        for (text, certain) in [
            ("A = \"a ${@bb.utils.contains('B', 'c', 'd', '', d)} e\"", "a e"),
            ("A = \"a ${@ {'b': 'c'}['b'] } e\"", "a e"),
            ("A = \"a ${@'${B}'}\"\nB = \"b\"", "a"),
            ("A = \"a x${NOBODY}y\"", "a"),
            ("A = \"a\"\nA:append:arm = \" b\"", "a"),
            ("A = \"a\"\nA:arm = \"b\"", "a"),
            ("A:arm = \"b\"", ""),
            ("A = \"a b\"\nA:remove = \"b ${@c}\"", "a"),
            ("A = \"${B}\"\nB = \"a\"\nB:append:arm = \" b\"", ""),
            ("A = \"b ${A}\"", ""),
            ("A = \"${B}\"\nB = \"${A}\"", ""),
        ] {
            let value = read(text).get("A").expect(text);
            assert_eq!((value.is_open(), value.certain()), (true, None), "{text}");
            if !text.contains("${A}") {
                assert_eq!(value.text(), certain, "{text}");
            }
        }
    }

    #[test]
    fn a_layers_folder_is_put_in_when_its_conf_ends() {
        let mut variables =
            read("LAYERDIR = \"/one\"\nP = \"a\"\nP .= \":${LAYERDIR}\"\nQ:append = \" ${LAYERDIR}/q\"");
        variables.assign("D", Operator::Default, "${LAYERDIR}");
        variables.assign("D", Operator::Set, "a b");
        variables.assign("D:remove", Operator::Set, "b");
        variables.settle("LAYERDIR");
        assert_eq!(variables.get("D").expect("a value").text(), "a", "its remove stays");
        variables.set("LAYERDIR", "/two".into());
        variables.assign("P", Operator::AppendBare, ":${LAYERDIR}");
        variables.settle("LAYERDIR");
        let text = |name: &str| variables.get(name).and_then(|value| value.certain().map(str::to_owned));
        assert_eq!(text("P").as_deref(), Some("a:/one:/two"));
        assert_eq!(text("Q").as_deref(), Some(" /one/q"));
    }

    #[test]
    fn growth_has_an_end() {
        let doubling = "A := \"xxxxxxxx${A}${A}\"\n".repeat(100);
        let variables = read(&format!("A = \"a\"\n{doubling}"));
        assert!(variables.is_exhausted());
        assert!(variables.get("A").expect("a value").is_open());
        let fan: String = (0..60).map(|n| format!("V{n} = \"${{V{0}}}${{V{0}}}\"\n", n + 1)).collect();
        let variables = read(&format!("{fan}V60 = \"x\"\n"));
        assert!(variables.get("V0").expect("a value").is_open() && variables.is_exhausted());
    }

    #[test]
    fn values_that_come_to_nothing_cost_as_well() {
        for (text, name) in [
            ("A:append = \"\"\n".repeat(30_000) + "B = \"" + &"${A}".repeat(100_000) + "\"\n", "B"),
            ("A:prepend = \"a\"\n".repeat(30_000), "A"),
            (
                format!("A = \"{0}\"\nA:remove = \"{0}\"\nB = \"{1}\"\n", "x ".repeat(100_000), "${A}".repeat(20_000)),
                "B",
            ),
            (format!("A = \"{}\"\n", "${@{}".repeat(100_000)), "A"),
        ] {
            let variables = read(&text);
            assert!(
                variables.get(name).expect("a value").is_open() && variables.is_exhausted(),
                "{}",
                text.get(..40).unwrap_or_default()
            );
        }
        // Many keywords in a name are looked at once each.
        let name = format!("A{}X", "_append".repeat(140_000));
        assert_eq!(edit(&name), None);
        let long = "${LAYERDIR}".repeat(90_000);
        let mut variables = read(&format!("A = \"{long}\"\n"));
        variables.set("LAYERDIR", "/x".repeat(1000));
        variables.settle("LAYERDIR");
        assert!(variables.is_exhausted());
    }

    proptest! {
        #[test]
        fn any_file_ends(text in "([AB](:append|:remove|:a|_append)? (=|:=|\\+=|\\?\\?=) \"(\\$\\{[AB@]+\\}| |x|\\{|\\}|\\$\\{@){0,6}\"\n){0,12}") {
            let variables = read(&text);
            let _ = (variables.get("A"), variables.get("B"));
        }
    }
}
