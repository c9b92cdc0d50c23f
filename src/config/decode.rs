//! From a tree of nodes to typed values, collecting every problem instead of stopping at the first.
//!
//! A reader takes its keys from [`Fields`] and calls [`Fields::finish`], which reports all others with the nearest known key. Wrong values
//! become `None` and a problem, so that reading goes on.

use std::cell::RefCell;

use super::{
    node::{Node, Span, Text, Value},
    problem::{Problem, nearest},
    substitute::substitute,
};

/// Looks up an environment variable. The config itself never reads the environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Collects problems and substitutes `${VAR}`.
pub struct Decoder<'a> {
    lookup: Lookup<'a>,
    /// All problems so far.
    pub problems: Vec<Problem>,
    /// Variables that values name.
    pub variables: Vec<UsedVariable>,
    /// Keys that were asked for, in mappings that were there or could be.
    pub known: Vec<KnownKey>,
    /// Keys that have no effect, and what else does no harm.
    pub warnings: Vec<Problem>,
    /// Whether the text is one of the Go smidr, which ignored what it did not know.
    pub of_go: bool,
    /// Whether it was made of another tool's files, which may name tags where branches are meant.
    pub of_another_tool: bool,
}

/// A key that a reader asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// With those of all mappings around it; items of lists are `[0]`.
    pub path: String,
    /// What it may hold.
    pub kind: KeyKind,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// One value.
    Text,
    /// A list of values, or one.
    Texts,
    /// A truth value.
    Flag,
    /// A number above 0.
    Count,
    /// A list of anything.
    List,
    /// A mapping.
    Fields,
    /// A mapping of names to values.
    Pairs,
    /// What its reader says.
    Other,
}

/// A variable of the caller's environment that a value names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedVariable {
    /// Its name.
    pub name: String,
    /// The key whose value it is in.
    pub key: String,
    /// The place of that value.
    pub span: Span,
    /// Whether it is set.
    pub is_set: bool,
}

/// The keys of one mapping that were not taken yet.
pub struct Fields<'n> {
    /// Where the mapping stands.
    pub span: Span,
    path: String,
    left: Vec<(&'n Text, &'n Node)>,
    known: Vec<(&'static str, KeyKind)>,
    // What is missing here is no problem of its own: that of the mapping itself is told.
    excused: bool,
    // Problems about keys that are missing, unless one that is there was meant.
    owed: Vec<(&'static str, Problem)>,
}

impl<'a> Decoder<'a> {
    /// Starts without problems.
    pub fn new(lookup: Lookup<'a>) -> Self {
        Self {
            lookup,
            problems: Vec::new(),
            variables: Vec::new(),
            known: Vec::new(),
            warnings: Vec::new(),
            of_go: false,
            of_another_tool: false,
        }
    }

    /// Notes a problem.
    pub fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// The keys of a mapping; anything else is a problem, without keys.
    pub fn fields<'n>(&mut self, node: &'n Node, path: &str) -> Fields<'n> {
        let left = match &node.value {
            Value::Map(entries) => entries.iter().map(|(key, node)| (key, node)).collect(),
            Value::Null => Vec::new(),
            _ => {
                let what = if path.is_empty() { "the document" } else { path };
                self.problem(Problem::new(node.span.clone(), format!("{what} must be a mapping of keys to values")));
                return Fields { excused: true, ..Fields::empty(node.span.clone(), path.into()) };
            }
        };
        Fields { left, ..Fields::empty(node.span.clone(), path.into()) }
    }

    /// A scalar with its variables substituted.
    pub fn text(&mut self, node: &Node, path: &str) -> Option<Text> {
        match &node.value {
            Value::Scalar(text) => match self.substitute(text, path, &node.span) {
                Ok(text) => Some(Text { span: node.span.clone(), text }),
                Err(reason) => {
                    self.problem(Problem::new(node.span.clone(), format!("{path}: {reason}")));
                    None
                }
            },
            Value::Null => None,
            Value::List(_) => self.wrong(node, path, "a single value, not a list"),
            Value::Map(_) => self.wrong(node, path, "a single value, not a mapping"),
        }
    }

    fn substitute(&mut self, text: &str, path: &str, span: &Span) -> Result<String, String> {
        let used = RefCell::new(Vec::new());
        let noting = |name: &str| {
            // BitBake's name for the build folder, where that is known.
            let own = (name == "TOPDIR" && path.starts_with("directories.") && path != "directories.build")
                .then(|| "${TOPDIR}".to_owned());
            if own.is_some() {
                return own;
            }
            let value = (self.lookup)(name);
            let (key, span, is_set) = (path.into(), span.clone(), value.is_some());
            used.borrow_mut().push(UsedVariable { name: name.into(), key, span, is_set });
            value
        };
        let text = substitute(text, &noting);
        self.variables.extend(used.into_inner());
        text
    }

    /// A list of scalars; one scalar counts as a list of one.
    pub fn texts(&mut self, node: &Node, path: &str) -> Vec<Text> {
        match &node.value {
            Value::List(items) => {
                items.iter().enumerate().filter_map(|(i, item)| self.text(item, &format!("{path}[{i}]"))).collect()
            }
            _ => self.text(node, path).into_iter().collect(),
        }
    }

    /// Parses a scalar that has been read; `expected` describes valid values.
    pub fn parse<T: std::str::FromStr>(&mut self, text: Text, path: &str, expected: &str) -> Option<T> {
        let parsed = text.text.parse().ok();
        if parsed.is_none() {
            self.problem(Problem::new(text.span, format!("{path} must be {expected}, not `{}`", text.text)));
        }
        parsed
    }

    fn wrong<T>(&mut self, node: &Node, path: &str, expected: &str) -> Option<T> {
        self.problem(Problem::new(node.span.clone(), format!("{path} must be {expected}")));
        None
    }
}

impl<'n> Fields<'n> {
    fn empty(span: Span, path: String) -> Self {
        Fields { span, path, left: Vec::new(), known: Vec::new(), excused: false, owed: Vec::new() }
    }

    /// Whether a key that is there was meant to be this one.
    fn is_meant(&self, key: &str) -> bool {
        self.left.iter().any(|(name, _)| name.text != key && nearest(&name.text, [key]).is_some())
    }

    /// Notes that a key is missing: `finish` says so, unless another one was meant to be it.
    pub fn lacks(&mut self, key: &'static str, problem: Problem) {
        self.owed.push((key, problem));
    }

    /// Whether it would not be said that this key is missing.
    pub fn excuses(&self, key: &str) -> bool {
        self.excused || self.is_meant(key)
    }

    /// The name of a key with those of all mappings around it.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// Takes a key as it is.
    pub fn node(&mut self, key: &'static str) -> Option<&'n Node> {
        self.take(key, KeyKind::Other)
    }

    fn take(&mut self, key: &'static str, kind: KeyKind) -> Option<&'n Node> {
        self.known.push((key, kind));
        let at = self.left.iter().position(|(name, _)| name.text == key)?;
        Some(self.left.swap_remove(at).1)
    }

    /// Takes a mapping; an absent one has no keys.
    pub fn fields(&mut self, d: &mut Decoder<'_>, key: &'static str) -> Fields<'n> {
        let path = self.path(key);
        match self.take(key, KeyKind::Fields) {
            Some(node) => d.fields(node, &path),
            None => Fields { excused: self.excused || self.is_meant(key), ..Fields::empty(self.span.clone(), path) },
        }
    }

    /// Takes a scalar.
    pub fn text(&mut self, d: &mut Decoder<'_>, key: &'static str) -> Option<Text> {
        let path = self.path(key);
        self.take(key, KeyKind::Text).and_then(|node| d.text(node, &path))
    }

    /// Takes a scalar that has to be there.
    pub fn required(&mut self, d: &mut Decoder<'_>, key: &'static str) -> Text {
        let before = d.problems.len();
        let text = self.text(d, key);
        if text.is_none() && d.problems.len() == before {
            self.lacks(key, Problem::new(first_line(&self.span), format!("{} is missing", self.path(key))));
        }
        text.unwrap_or_default()
    }

    /// Takes a list of scalars.
    pub fn texts(&mut self, d: &mut Decoder<'_>, key: &'static str) -> Vec<Text> {
        let path = self.path(key);
        self.take(key, KeyKind::Texts).map(|node| d.texts(node, &path)).unwrap_or_default()
    }

    /// Takes a list of anything.
    pub fn list(&mut self, d: &mut Decoder<'_>, key: &'static str) -> &'n [Node] {
        let path = self.path(key);
        match self.take(key, KeyKind::List) {
            Some(Node { value: Value::List(items), .. }) => items,
            None | Some(Node { value: Value::Null, .. }) => &[],
            Some(node) => {
                d.problem(Problem::new(node.span.clone(), format!("{path} must be a list")));
                &[]
            }
        }
    }

    /// Takes a number of at least one.
    pub fn count(&mut self, d: &mut Decoder<'_>, key: &'static str) -> Option<u32> {
        let path = self.path(key);
        let node = self.take(key, KeyKind::Count)?;
        let text = d.text(node, &path)?;
        d.parse::<std::num::NonZeroU32>(text, &path, "a whole number above 0").map(Into::into)
    }

    /// Takes a truth value.
    pub fn flag(&mut self, d: &mut Decoder<'_>, key: &'static str) -> Option<bool> {
        let path = self.path(key);
        let node = self.take(key, KeyKind::Flag)?;
        let text = d.text(node, &path)?;
        let flag = truth(&text);
        if flag.is_none() {
            d.problem(Problem::new(text.span, format!("{path} must be true or false, not `{}`", text.text)));
        }
        flag
    }

    /// Takes all remaining keys as names and scalars.
    pub fn into_pairs(mut self, d: &mut Decoder<'_>) -> Vec<(Text, Text)> {
        let path = self.path.clone();
        d.known.push(KnownKey { path: path.clone(), kind: KeyKind::Pairs });
        std::mem::take(&mut self.left)
            .into_iter()
            .filter_map(|(key, node)| Some((key.clone(), d.text(node, &format!("{path}.{}", key.text))?)))
            .collect()
    }

    /// Reports every key that is missing, and every one that was not taken.
    pub fn finish(self, d: &mut Decoder<'_>) {
        let missing = self.owed.iter().filter(|(key, _)| !self.excuses(key));
        missing.for_each(|(_, problem)| d.problem(problem.clone()));
        for (key, _) in &self.left {
            let path = self.path(&key.text);
            if d.of_go || DEAD.contains(&path.as_str()) {
                d.warnings.push(Problem::new(key.span.clone(), format!("`{path}` has no effect")));
                continue;
            }
            let problem = Problem::new(key.span.clone(), format!("unknown key `{}`", self.path(&key.text)));
            let known: Vec<&str> = self.known.iter().map(|(key, _)| *key).collect();
            d.problem(match nearest(&key.text, known.iter().copied()) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None if known.is_empty() => problem,
                None => problem.hint(format!("known here: {}", known.join(", "))),
            });
        }
        let known = self.known.iter().map(|(key, kind)| KnownKey { path: self.path(key), kind: *kind });
        d.known.extend(known);
    }
}

/// Keys that the Go smidr read, or that its examples have, and that had no effect there either.
const DEAD: [&str; 9] = [
    "advanced.conf_version",
    "advanced.qemu_gtk",
    "advanced.qemu_sdl",
    "build.deploy",
    "build.inherit_classes",
    "build.package_classes",
    "build.sstate",
    "build.tmp",
    "container.entrypoint",
];

/// A truth value, in one of YAML's spellings.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn first_line(span: &Span) -> Span {
    span.start..span.start
}
