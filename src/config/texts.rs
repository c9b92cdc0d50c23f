//! The texts that a config is read from: the project's, and the user's own that is laid over it. In go both, out comes one tree in which
//! places count on from the first text into the second. Pure.

use std::path::{Path, PathBuf};

use super::{
    node::{Node, Span, Text, Value},
    problem::{Problem, Problems, behind, nearest},
    source::{BITBAKE, GIT_ONLY},
};

/// The texts of a config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// Of `smidr.yaml`.
    pub config: String,
    /// Of `smidr.local.yaml`, where there is one.
    pub local: Option<String>,
}

const LAYERS: &str = "layers";
const VARIANTS: &str = "variants";
pub(super) const LOCAL_CONF: &str = "local_conf";

impl From<&str> for Texts {
    fn from(config: &str) -> Self {
        Self { config: config.into(), local: None }
    }
}

/// The user's own file beside a config: `foo.local.yaml` for `foo.yaml`.
pub fn local_path(config: &Path) -> PathBuf {
    let stem = config.file_stem().unwrap_or_default().to_os_string();
    let endings = [Some("local".as_ref()), config.extension()];
    let name = endings.into_iter().flatten().fold(stem, |mut name, ending| {
        name.push(".");
        name.push(ending);
        name
    });
    config.with_file_name(name)
}

impl Texts {
    /// The same without the user's own.
    #[must_use]
    pub fn committed(&self) -> Self {
        Self { config: self.config.clone(), local: None }
    }

    /// What stands at a place.
    pub fn get(&self, span: &Span) -> Option<&str> {
        let begin = behind(&self.config);
        match &self.local {
            Some(local) if span.start >= begin => local.get(span.start - begin..span.end.checked_sub(begin)?),
            _ => self.config.get(span.clone()),
        }
    }

    /// All lines, each with the place where it begins.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let texts = [(0, Some(&self.config)), (behind(&self.config), self.local.as_ref())];
        texts.into_iter().filter_map(|(at, text)| Some((at, text?))).flat_map(|(mut at, text)| {
            text.split_inclusive('\n').map(move |line| {
                at += line.len();
                (at - line.len(), line)
            })
        })
    }

    /// Problems of the config `file`.
    pub fn problems(&self, file: &Path, list: Vec<Problem>) -> Problems {
        let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let further = self.local.clone().map(|text| (name(&local_path(file)), text));
        Problems { file: name(file), text: self.config.clone(), further, list }
    }

    /// The names of the variants.
    pub fn variants(&self) -> Vec<String> {
        let (root, _) = self.tree(None);
        root.iter().flat_map(|root| entries(root.get(VARIANTS))).map(|(name, _)| name.text.clone()).collect()
    }

    /// The keys that the user's own file sets.
    pub fn local_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        if let Some(Ok(root)) = self.local.as_deref().map(Node::parse) {
            collect(&root, "", &mut keys);
        }
        keys
    }

    /// One tree of both, with the overlay `variant`, and what is wrong so far. None where the config is no YAML.
    pub(super) fn tree(&self, variant: Option<&str>) -> (Option<Node>, Vec<Problem>) {
        let mut root = match Node::parse(&self.config) {
            Ok(root) => root,
            Err(problem) => return (None, vec![problem]),
        };
        let mut problems = Vec::new();
        let local = self.local_root().unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        let of_variant = |root: &Node| variant.and_then(|variant| root.get(VARIANTS)?.get(variant).cloned());
        let overlays = [of_variant(&root), local.as_ref().and_then(of_variant)];
        let is_known = variant.is_none() || overlays.iter().any(Option::is_some);
        let [over, local_over] = overlays;
        over.iter().for_each(|over| lay(&mut root, over));
        local.into_iter().chain(local_over).for_each(|over| lay_own(&mut root, over));
        if let (Some(variant), false) = (variant, is_known) {
            problems.push(unknown_variant(&root, variant));
        }
        (Some(root), problems)
    }

    fn local_root(&self) -> Result<Option<Node>, Problem> {
        let Some(text) = &self.local else { return Ok(None) };
        let begin = behind(&self.config);
        let mut root =
            Node::parse(text).map_err(|problem| Problem { span: moved(problem.span.clone(), begin), ..problem })?;
        shift(&mut root, begin);
        match &root.value {
            Value::Map(_) => Ok(Some(root)),
            // Comments alone.
            Value::Null => Ok(None),
            _ => Err(Problem::new(root.span, "the document must be a mapping of keys to values")),
        }
    }
}

/// Lays an overlay on top. Lines of local.conf come after those that are there: the later ones have the last word.
fn lay(root: &mut Node, over: &Node) {
    let below = root.get(LOCAL_CONF).cloned();
    root.overlay(over);
    let (Some(below), true, Value::Map(entries)) = (below, over.get(LOCAL_CONF).is_some(), &mut root.value) else {
        return;
    };
    if let Some((_, own)) = entries.iter_mut().find(|(name, _)| name.text == LOCAL_CONF) {
        let items = |node: Node| match node.value {
            Value::List(items) => items,
            _ => vec![node],
        };
        let span = own.span.clone();
        let both = items(below).into_iter().chain(items(own.clone())).collect();
        *own = Node { span, value: Value::List(both) };
    }
}

/// Lays the user's own overlay on top: layers that it names by name are changed, or added, and the rest stays.
fn lay_own(root: &mut Node, mut over: Node) {
    let (Value::Map(below), Value::Map(entries)) = (&mut root.value, &mut over.value) else { return };
    for (key, node) in entries {
        let Some((_, known)) = below.iter_mut().find(|(name, _)| name.text == key.text) else { continue };
        match key.text.as_str() {
            BITBAKE => make_room(known, node),
            LAYERS => *node = layers(known, node),
            _ => {}
        }
    }
    lay(root, &over);
}

fn layers(below: &Node, over: &Node) -> Node {
    let (Value::List(below), Value::List(items)) = (&below.value, &over.value) else { return over.clone() };
    let name = |node: &Node| match node.get("name").map(|name| &name.value) {
        Some(Value::Scalar(name)) => Some(name.clone()),
        _ => None,
    };
    let mut all = below.clone();
    for item in items {
        match all.iter_mut().find(|known| name(known).is_some() && name(known) == name(item)) {
            Some(known) => {
                make_room(known, item);
                known.overlay(item);
                known.span = item.span.clone();
            }
            None => all.push(item.clone()),
        }
    }
    Node { span: over.span.clone(), value: Value::List(all) }
}

/// Another source replaces the one that was there, whatever it consisted of.
fn make_room(below: &mut Node, over: &Node) {
    if let (Value::Map(entries), true) = (&mut below.value, over.get("path").or(over.get("git")).is_some()) {
        entries.retain(|(key, _)| !["path", "git"].iter().chain(&GIT_ONLY).any(|other| key.text == *other));
    }
}

fn unknown_variant(root: &Node, variant: &str) -> Problem {
    let problem = Problem::new(root.span.start..root.span.start, format!("there is no variant `{variant}`"));
    let names: Vec<&str> = entries(root.get(VARIANTS)).iter().map(|(name, _)| name.text.as_str()).collect();
    match (nearest(variant, names.iter().copied()), names.is_empty()) {
        (Some(near), _) => problem.hint(format!("did you mean `{near}`?")),
        (None, false) => problem.hint(format!("variants here: {}", names.join(", "))),
        (None, true) => problem.hint("write it under `variants:`"),
    }
}

fn entries(node: Option<&Node>) -> &[(Text, Node)] {
    match node.map(|node| &node.value) {
        Some(Value::Map(entries)) => entries,
        _ => &[],
    }
}

fn collect(node: &Node, path: &str, keys: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match &node.value {
        Value::Map(entries) => entries.iter().for_each(|(key, node)| collect(node, &below(&key.text), keys)),
        Value::List(items) if path.rsplit('.').next() == Some(LAYERS) => {
            keys.extend(items.iter().filter_map(|item| match &item.get("name")?.value {
                Value::Scalar(name) => Some(below(name)),
                _ => None,
            }));
        }
        // Comments alone.
        _ if path.is_empty() => {}
        _ => keys.push(path.to_owned()),
    }
}

fn shift(node: &mut Node, by: usize) {
    node.span = moved(node.span.clone(), by);
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| shift(item, by)),
        Value::Map(entries) => {
            for (key, node) in entries {
                key.span = moved(key.span.clone(), by);
                shift(node, by);
            }
        }
        Value::Null | Value::Scalar(_) => {}
    }
}

fn moved(span: Span, by: usize) -> Span {
    span.start + by..span.end + by
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source, examine, place};

    const CONFIG: &str = "\
name: p
base: {machine: one, distro: poky}
build: {image: i}
layers:
  - name: meta-a
    git: https://example.org/a
    branch: main
    patches: [x.patch]
    sublayers: {include: [sub]}
  - {name: meta-b, path: ./b}
bitbake: {git: 'https://example.org/bb', branch: '2.8'}
local_conf: A = 1
variants:
  v:
    base: {machine: two}
    local_conf: V = 1
    layers: [{name: meta-v, path: ./v}]
";

    fn texts(local: &str) -> Texts {
        Texts { config: CONFIG.into(), local: Some(local.into()) }
    }

    fn read(local: &str, variant: Option<&str>) -> Config {
        match examine(&texts(local), variant, &|_| None) {
            (Some(config), list) if list.is_empty() => config,
            (_, list) => panic!("{local}: {list:?}"),
        }
    }

    fn shown(config: &Config) -> String {
        let source = |source: &Source| match source {
            Source::Path(path) => path.text.clone(),
            Source::Git(git) => {
                format!("{}{}", git.url, git.branch.as_ref().map(|branch| format!(" {branch}")).unwrap_or_default())
            }
        };
        let layers = config.layers.iter().map(|layer| format!("{}={}", layer.name, source(&layer.source)));
        let machine = config.base.machine.as_ref().map(|text| text.text.clone()).unwrap_or_default();
        let layers: Vec<_> = layers.collect();
        format!("{machine} [{}] {}", layers.join(", "), config.local_conf.replace('\n', "; "))
    }

    #[test]
    fn the_users_own_has_the_last_word() {
        let a = "meta-a=https://example.org/a main";
        for (local, variant, expected) in [
            ("# nothing\n", None, format!("one [{a}, meta-b=./b] A = 1")),
            ("base: {machine: mine}\n", None, format!("mine [{a}, meta-b=./b] A = 1")),
            ("base: {machine: mine}\n", Some("v"), "mine [meta-v=./v] A = 1; V = 1".into()),
            ("local_conf: L = 1\n", Some("v"), "two [meta-v=./v] A = 1; V = 1; L = 1".into()),
            ("layers: [{name: meta-a, path: ../a}]\n", None, "one [meta-a=../a, meta-b=./b] A = 1".into()),
            ("layers: [{name: meta-a, path: ../a}]\n", Some("v"), "two [meta-v=./v, meta-a=../a] A = 1; V = 1".into()),
            (
                "layers: [{name: meta-a, branch: next}]\n",
                None,
                "one [meta-a=https://example.org/a next, meta-b=./b] A = 1".into(),
            ),
            ("layers: [{name: meta-c, path: ../c}]\n", None, format!("one [{a}, meta-b=./b, meta-c=../c] A = 1")),
            ("variants: {v: {base: {machine: mine}}}\n", Some("v"), "mine [meta-v=./v] A = 1; V = 1".into()),
            ("variants: {v: {base: {machine: mine}}}\n", None, format!("one [{a}, meta-b=./b] A = 1")),
            ("variants: {own: {local_conf: O = 1}}\n", Some("own"), format!("one [{a}, meta-b=./b] A = 1; O = 1")),
        ] {
            assert_eq!(shown(&read(local, variant)), expected, "{local} {variant:?}");
        }
        let edited = read("layers: [{name: meta-a, path: ../a}]\nbitbake: {path: ../bb}\n", None);
        assert_eq!(edited.layers[0].include[0].text, "sub", "what it takes of a repository stays");
        assert!(matches!(&edited.bitbake, Some(Source::Path(path)) if path.text == "../bb"));
        assert_eq!(texts("# nothing\n").local_keys(), Vec::<String>::new());
        assert_eq!(texts("variants: {own: {}}\n").variants(), ["v", "own"]);
        assert_eq!(
            texts("host: {cpus: 2}\nlayers: [{name: meta-a, path: x}, {name: b}]\nlocal_conf: [L]\n").local_keys(),
            ["host.cpus", "layers.meta-a", "layers.b", "local_conf"]
        );
    }

    #[test]
    fn each_problem_names_its_own_file() {
        for (local, said) in [
            ("a: [\n", "--> foo.local.yaml:"),
            ("- x\n", "foo.local.yaml:1:1"),
            ("\nbase: {machin: x}\n", "foo.local.yaml:2:8"),
            ("layers:\n  - {name: meta-a, pat: x}\n", "foo.local.yaml:2:20"),
            ("layers:\n  - {path: x}\n", "foo.local.yaml:2:"),
            ("host:\n  cpus: many\n", "foo.local.yaml:2:9"),
        ] {
            let texts = texts(local);
            let (_, list) = examine(&texts, None, &|_| None);
            let problems = texts.problems(Path::new("/p/foo.yaml"), list);
            let drawn = problems.render(false);
            assert!(drawn.contains(said), "{local}: {drawn}");
            assert!(!drawn.contains("--> foo.yaml"), "{local}: {drawn}");
            assert!(problems.to_string().starts_with("foo.local.yaml has 1 problem"), "{problems}");
            assert!(!problems.unquoted("look").render(false).contains("machin"));
        }
        let both = Texts { config: CONFIG.replace("image:", "imag:"), local: Some("hots: x\n".into()) };
        let (_, list) = examine(&both, None, &|_| None);
        let problems = both.problems(Path::new("foo.yaml"), list);
        assert!(problems.to_string().starts_with("foo.yaml and foo.local.yaml have "), "{problems}");
        let drawn = problems.render(false);
        assert!(drawn.contains("--> foo.yaml:3:9") && drawn.contains("--> foo.local.yaml:1:1"), "{drawn}");
    }

    #[test]
    fn places_lead_into_the_file_that_decides() {
        let texts = texts("base: {machine: mine}\nlayers: [{name: meta-a, path: ../a}]\n");
        let marked = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            place(&texts, None, &keys).and_then(|span| texts.get(&span))
        };
        assert_eq!(marked(&["base", "machine"]), Some("mine"));
        assert_eq!(marked(&["base", "distro"]), Some("poky"));
        assert_eq!(marked(&["layers", "meta-a", "path"]), Some("../a"));
        assert_eq!(marked(&["layers", "meta-b", "path"]), Some("./b"));
        let line = texts.lines().find(|(_, line)| line.contains("../a")).expect("a line");
        assert_eq!(texts.get(&(line.0..line.0 + 6)), Some("layers"));
    }

    #[test]
    fn the_file_beside_a_config() {
        for (config, local) in [
            ("smidr.yaml", "smidr.local.yaml"),
            ("/a/foo.yml", "/a/foo.local.yml"),
            ("a.b.yaml", "a.b.local.yaml"),
            ("plain", "plain.local"),
        ] {
            assert_eq!(local_path(Path::new(config)), Path::new(local));
        }
    }
}
