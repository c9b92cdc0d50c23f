//! A configuration as the text of a smidr.yaml that builds the same, and the files that bitbake-setup writes.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use super::{
    choose::Setup,
    document::{GitRemote, Source, Sources},
};
use crate::{
    kas::{Form, Node, Scalar, Value, dump, escaped, from, lay_over, whole},
    model::{CommitId, without_dots},
};

/// The text. `file` is where the configuration stands; the set-up stands beside it. `config` is where the text stands; `over` lies on top of all; `is_here` says whether a folder has
/// something in it, and is used as it is.
pub fn smidr_yaml(
    setup: &Setup,
    sources: &[(String, Source)],
    file: &Path,
    config: &Path,
    home: &Path,
    over: Option<&Node>,
    is_here: &dyn Fn(&Path) -> bool,
) -> String {
    let beside = file.parent().unwrap_or(Path::new("/"));
    let work = beside.join(&setup.folder);
    let way = |to: &Path| from(config.parent().unwrap_or(Path::new("/")), to);
    let chosen = |kind: &str| setup.fragments.iter().rev().find_map(|name| name.strip_prefix(kind));
    let mut root = map([("name", text(&setup.folder))]);
    root.set("base", map([("machine", text(chosen("machine/").unwrap_or("qemux86-64")))]));
    let mut layers: Vec<Node> =
        sources.iter().map(|(id, source)| layer(setup, id, source, (beside, &work), home, is_here)).collect();
    layers.extend(beside_layers(setup, sources, beside));
    root.set("layers", Node::made(Value::List(layers)));
    root.set("build", map([("image", text(NOTHING))]));
    root.set("directories", map([("build", text(&escaped(&way(&work.join("build")))))]));
    let mut as_is = map([("work", text(&way(&work)))]);
    as_is.set("local_conf", text(LOCAL_CONF));
    as_is.set("bblayers_conf", text(&bblayers_conf(setup, beside, &work)));
    let mut further = map([]);
    if !setup.fragments.is_empty() {
        further.set("toolcfg.conf", text(&format!("OE_FRAGMENTS += \"{}\"\n", setup.fragments.join(" "))));
    }
    for (name, words) in [("conf-summary.txt", &setup.summary), ("conf-notes.txt", &setup.notes)] {
        if !words.is_empty() {
            further.set(name, text(&format!("{words}\n")));
        }
    }
    as_is.set("further", further);
    if !setup.passed.is_empty() {
        let names = setup.passed.iter().map(|name| (name.as_str(), Node::made(Value::Scalar(Scalar::Null))));
        as_is.set("env", Node::map(names));
    }
    root.set("as_is", as_is);
    over.into_iter().for_each(|over| lay_over(&mut root, over));
    dump(&root, Form::Yaml, 2, false)
}

/// The text of a smidr.yaml in smidr's own words, and what it leaves out.
pub fn plain_yaml(
    setup: &Setup,
    sources: &[(String, Source)],
    file: &Path,
    home: &Path,
    target: &str,
    lines: &[String],
) -> (String, Vec<String>) {
    let beside = file.parent().unwrap_or(Path::new("/"));
    let work = beside.join(&setup.folder);
    let mut root = map([("name", text(&setup.folder))]);
    let chosen = |kind: &str| setup.fragments.iter().rev().find_map(|name| name.strip_prefix(kind));
    let mut base = map([("machine", text(chosen("machine/").unwrap_or("qemux86-64")))]);
    if let Some(distro) = chosen("distro/") {
        base.set("distro", text(distro));
    }
    root.set("base", base);
    let mut layers = Vec::new();
    for (id, source) in sources {
        let mut layer = layer(setup, id, source, (beside, &work), home, &|_| false);
        layer.remove("at");
        layers.push(layer);
    }
    layers.extend(beside_layers(setup, sources, beside));
    root.set("layers", Node::made(Value::List(layers)));
    root.set("build", map([("image", text(target))]));
    if !setup.passed.is_empty() {
        let names = setup.passed.iter().map(|name| text(name)).collect();
        root.set("host", map([("env", Node::made(Value::List(names)))]));
    }
    let mut conf = Vec::new();
    if !setup.fragments.is_empty() {
        conf.push(("fragments".to_owned(), format!("OE_FRAGMENTS += \"{}\"\n", setup.fragments.join(" "))));
    }
    let by_source = sources.iter().flat_map(|(id, source)| {
        let folder = source.path.as_deref().unwrap_or(id).to_owned();
        setup.layers.iter().filter(move |layer| below(&folder, layer).is_some())
    });
    let mut left_out = Vec::new();
    if !setup.layers.iter().eq(by_source) {
        left_out.push("the order of bb-layers: smidr has the layers of a repository one after the other".to_owned());
    }
    (whole(&root, &conf, lines), left_out)
}

/// A layer of `bb-layers` within the folder of a source.
fn below<'l>(folder: &str, layer: &'l str) -> Option<&'l str> {
    match layer.strip_prefix(folder)? {
        "" => Some("."),
        rest => rest.strip_prefix('/').filter(|rest| !rest.split('/').any(|part| part == "..")),
    }
}

/// The layers beside the file, each once.
fn beside_layers(setup: &Setup, sources: &[(String, Source)], beside: &Path) -> Vec<Node> {
    let (mut layers, mut known) = (Vec::new(), Vec::new());
    for layer in &setup.beside {
        let folder = without_dots(&beside.join(layer));
        if !known.contains(&folder) {
            let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let name = if sources.iter().any(|(id, _)| *id == name) { format!("{name}-beside") } else { name };
            layers
                .push(map([("name", text(&escaped(&name))), ("path", text(&escaped(&folder.display().to_string())))]));
            known.push(folder);
        }
    }
    layers
}

/// In the place of a target: the configuration names none.
const NOTHING: &str = "world";

fn layer(
    setup: &Setup,
    id: &str,
    source: &Source,
    (beside, work): (&Path, &Path),
    home: &Path,
    is_here: &dyn Fn(&Path) -> bool,
) -> Node {
    let folder = source.path.as_deref().unwrap_or(id);
    let at = format!("layers/{folder}");
    let mut layer = map([("name", text(&escaped(id)))]);
    match (&source.git, &source.local) {
        (Some(git), _) if !is_here(&work.join(&at)) => {
            git_keys(&mut layer, git);
            layer.set("at", text(&escaped(&at)));
        }
        (_, Some(local)) => {
            let path = match local.path.strip_prefix("~/") {
                Some(below) => home.join(below),
                None if local.path == "~" => home.to_path_buf(),
                None => beside.join(&local.path),
            };
            layer.set("path", text(&escaped(&without_dots(&path).display().to_string())));
            layer.set("at", text(&escaped(&at)));
        }
        _ => layer.set("path", text(&escaped(&work.join(&at).display().to_string()))),
    }
    let below = setup.layers.iter().filter_map(|layer| below(folder, layer));
    let below: Vec<Node> = below.map(|layer| text(&escaped(layer))).collect();
    match below.is_empty() {
        true => layer.set("has_layers", Node::made(Value::Scalar(Scalar::Bool(false)))),
        false => layer.set("sublayers", map([("include", Node::made(Value::List(below)))])),
    }
    layer
}

fn git_keys(layer: &mut Node, git: &GitRemote) {
    layer.set("git", text(&escaped(git.address().unwrap_or_default())));
    let is_commit = [40, 64].contains(&git.rev.len()) && git.rev.bytes().all(|b| b.is_ascii_hexdigit());
    if is_commit {
        layer.set("commit", text(&git.rev.to_ascii_lowercase()));
    }
    match &git.branch {
        Some(branch) => layer.set("branch", text(&escaped(branch))),
        // Whether it is a branch or a tag is found out by asking.
        None if !is_commit => layer.set("branch", text(&escaped(&git.rev))),
        None => {}
    }
    if !is_commit && git.branch.as_ref().is_some_and(|branch| *branch != git.rev) {
        layer.set("tag", text(&escaped(&git.rev)));
    }
}

const LOCAL_CONF: &str = "#
# This file is intended for local configuration tweaks.
#
# If you would like to publish and share changes made to this file,
# it is recommended to put them into a distro config, or to create
# layer fragments from changes made here.
#
";

/// `bblayers.conf`: all layers, whether they are there or not.
fn bblayers_conf(setup: &Setup, beside: &Path, work: &Path) -> String {
    let mut conf = String::from("BBLAYERS ?= \" \\\n");
    let below = setup.layers.iter().map(|layer| work.join("layers").join(layer));
    for layer in below.chain(setup.beside.iter().map(|layer| beside.join(layer))) {
        let _ = writeln!(conf, "  {} \\", layer.display());
    }
    conf.push_str("  \"\n");
    conf
}

/// `sources-fixed-revisions.json`: all sources, each git repository at the commit that it is pinned to.
pub fn fixed_revisions(sources: &Sources, commits: &BTreeMap<&str, CommitId>) -> String {
    let mut sources = sources.clone();
    sources.sort_keys();
    for (id, commit) in commits {
        if let Some(rev) = sources.get_mut(*id).and_then(|source| source.pointer_mut("/git-remote/rev")) {
            *rev = commit.to_string().into();
        }
    }
    let mut text = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, form);
    let whole = BTreeMap::from([("sources", sources)]);
    serde::Serialize::serialize(&whole, &mut writer).expect("JSON is written as it was read");
    text.push(b'\n');
    String::from_utf8(text).expect("JSON is text")
}

fn text(text: &str) -> Node {
    Node::text(text)
}

fn map<const N: usize>(entries: [(&str, Node); N]) -> Node {
    Node::map(entries)
}
