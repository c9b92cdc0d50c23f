//! A kas project as the text of a smidr.yaml that builds the same: what smidr has its own keys for in them, conf word for word under `as_is`.

use std::path::{Path, PathBuf};

use super::{
    conf::{bblayers_conf, local_conf, relative},
    dump::{Form, dump},
    merge::lay,
    project::{Around, Kas, Repository},
    yaml::{Node, Scalar, Value},
};

use crate::model::{address_of, without_dots};

/// What the caller has found out about a repository.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Whether its folder is there, so that it is used as it is.
    pub is_here: bool,
    /// The patches on top of it, absolute, in their order.
    pub patches: Vec<PathBuf>,
    /// Other places with the same commits, tried before its address.
    pub instead: Option<String>,
}

/// The text. `file` is where it stands, or would stand; `found` what is known of each repository, `over` lies on top of all.
pub fn smidr_yaml(
    kas: &Kas,
    around: &Around,
    file: &Path,
    over: Option<&Node>,
    found: &dyn Fn(&Repository) -> Found,
) -> String {
    let beside = file.parent().unwrap_or(Path::new("/"));
    let path = |to: &Path| text(&escaped(&from(beside, to)));
    let mut root = map([("name", text(&name(&around.work)))]);
    root.set("base", map([("machine", text(&kas.machine)), ("distro", text(&kas.distro))]));
    let layers = kas.repositories.iter().map(|repository| layer(repository, around, &found(repository), &path));
    root.set("layers", Node::made(Value::List(layers.collect())));
    let targets = kas.targets.iter().map(|target| text(target)).collect();
    let mut build = map([("targets", Node::made(Value::List(targets)))]);
    if kas.targets.is_empty() {
        build = map([("image", text("world"))]);
    }
    build.set("task", text(&kas.task));
    root.set("build", build);
    let mut directories = map([("build", path(&around.build))]);
    for (key, name) in FOLDERS {
        if let Some(folder) = folder_of(kas, name, &around.build) {
            directories.set(key, path(&folder));
        }
    }
    root.set("directories", directories);
    let patterns = kas.artifacts.iter().filter_map(|pattern| pattern.strip_prefix("tmp/deploy/"));
    let patterns: Vec<Node> = patterns.map(|pattern| text(&escaped(pattern))).collect();
    if !patterns.is_empty() {
        root.set("artifacts", Node::made(Value::List(patterns)));
    }
    let mut as_is = map([("work", text(&from(beside, &around.work)))]);
    as_is.set("local_conf", text(&local_conf(kas)));
    as_is.set("bblayers_conf", text(&bblayers_conf(kas, &around.build)));
    if !kas.env.is_empty() {
        let value =
            |value: &Option<String>| value.as_deref().map_or_else(|| Node::made(Value::Scalar(Scalar::Null)), text);
        as_is.set("env", Node::map(kas.env.iter().map(|(name, text)| (name.as_str(), value(text)))));
    }
    root.set("as_is", as_is);
    over.into_iter().for_each(|over| lay(&mut root, over));
    dump(&root, Form::Yaml, 2, false)
}

/// The text of a smidr.yaml in smidr's own words, and what it leaves out. `lines` are comments for its head.
pub fn plain_yaml(
    kas: &Kas,
    around: &Around,
    file: &Path,
    lines: &[String],
    found: &dyn Fn(&Repository) -> Found,
) -> (String, Vec<String>) {
    let beside = file.parent().unwrap_or(Path::new("/"));
    let path = |to: &Path| text(&escaped(&from(beside, to)));
    let mut root = map([("name", text(&name(&around.work)))]);
    root.set("base", map([("machine", text(&kas.machine)), ("distro", text(&kas.distro))]));
    let mut left_out = Vec::new();
    let layers = kas.repositories.iter().map(|repository| {
        let mut layer = layer(repository, around, &found(repository), &path);
        layer.remove("at");
        layer
    });
    root.set("layers", Node::made(Value::List(layers.collect())));
    let mut build = map([]);
    match kas.targets.as_slice() {
        [] => build.set("image", text("world")),
        [one] => build.set("image", text(one)),
        several => build.set("targets", Node::made(Value::List(several.iter().map(|target| text(target)).collect()))),
    }
    if kas.task != "build" {
        build.set("task", text(&kas.task));
    }
    root.set("build", build);
    let patterns = kas.artifacts.iter().filter_map(|pattern| pattern.strip_prefix("tmp/deploy/"));
    let patterns: Vec<Node> = patterns.map(|pattern| text(&escaped(pattern))).collect();
    if !patterns.is_empty() {
        root.set("artifacts", Node::made(Value::List(patterns)));
    }
    left_out.extend(
        kas.artifacts
            .iter()
            .filter(|pattern| !pattern.starts_with("tmp/deploy/"))
            .map(|pattern| format!("artifacts: {pattern}, which is not below tmp/deploy")),
    );
    let values = kas.env.iter().filter_map(|(name, value)| Some((name.as_str(), text(&escaped(value.as_deref()?)))));
    let values = Node::map(values);
    if !values.entries().is_empty() {
        root.set("env", values);
    }
    let names = kas.env.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| text(name));
    let names: Vec<Node> = names.collect();
    if !names.is_empty() {
        root.set("host", map([("env", Node::made(Value::List(names)))]));
    }
    if !kas.bblayers_conf.is_empty() {
        let names: Vec<&str> = kas.bblayers_conf.iter().map(|(name, _)| name.as_str()).collect();
        left_out.push(format!("bblayers_conf_header: {}", names.join(", ")));
    }
    let multiconfigs = kas.multiconfigs();
    let mut conf = kas.local_conf.clone();
    if !multiconfigs.is_empty() {
        conf.push(("multiconfigs of the targets".into(), format!("BBMULTICONFIG ?= \"{}\"\n", multiconfigs.join(" "))));
    }
    let order = kas.layers();
    let by_repository =
        kas.repositories.iter().flat_map(|one| one.layers.iter().map(|(name, _)| without_dots(&one.folder.join(name))));
    if !order.iter().eq(by_repository.collect::<Vec<_>>().iter()) {
        left_out.push(
            "the order of layers by their priorities: smidr has those of a repository one after the other".into(),
        );
    }
    (whole(&root, &conf, lines), left_out)
}

/// A smidr.yaml as people write one: comments at its head, and `local_conf` as a block.
pub fn whole(root: &Node, local_conf: &[(String, String)], lines: &[String]) -> String {
    let mut text: String = lines.iter().map(|line| format!("{}\n", format!("# {line}").trim_end())).collect();
    text.push_str(&dump(root, Form::Yaml, 2, false));
    if local_conf.is_empty() {
        return text;
    }
    text.push_str("local_conf: |\n");
    for (name, lines) in local_conf {
        for line in std::iter::once(format!("# {name}").as_str()).chain(lines.lines()) {
            let line = line.trim_end();
            text.push_str(&if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") });
        }
    }
    text
}

/// Keys of `directories`, and the variables that a conf header may set instead.
const FOLDERS: [(&str, &str); 4] =
    [("downloads", "DL_DIR"), ("sstate", "SSTATE_DIR"), ("tmp", "TMPDIR"), ("deploy", "DEPLOY_DIR")];

/// The folder that a conf header sets a variable to, as far as that can be told without BitBake: the last of its lines counts.
fn folder_of(kas: &Kas, name: &str, build: &Path) -> Option<PathBuf> {
    let lines = kas.local_conf.iter().flat_map(|(_, text)| text.lines());
    let mut values = lines.filter_map(|line| {
        let rest = line.trim().strip_prefix(name)?.trim_start();
        let value = ["=", "?=", ":="].iter().find_map(|sign| rest.strip_prefix(sign))?.trim();
        let quote = value.chars().next().filter(|c| ['"', '\''].contains(c))?;
        value.strip_prefix(quote)?.strip_suffix(quote)
    });
    let value = values.next_back()?.replace("${TOPDIR}", &build.display().to_string());
    (value.starts_with('/') && !value.contains("${")).then(|| without_dots(Path::new(&value)))
}

fn layer(repository: &Repository, around: &Around, found: &Found, path: &dyn Fn(&Path) -> Node) -> Node {
    let mut layer = map([("name", text(&escaped(&repository.id)))]);
    match &repository.url {
        Some(url) if !found.is_here => {
            let revision = &repository.revision;
            let url = text(&escaped(&address(url, &around.work)));
            match &found.instead {
                Some(instead) => {
                    layer.set("git", text(&escaped(&address(instead, &around.work))));
                    layer.set("mirrors", Node::made(Value::List(vec![url])));
                }
                None => layer.set("git", url),
            }
            // Whether it is a branch or a tag is found out by asking.
            let branch = revision.branch.clone().or_else(|| revision.refspec.clone());
            let keys = [("branch", &branch), ("tag", &revision.tag), ("commit", &revision.commit)];
            for (key, value) in keys.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
                layer.set(key, text(&escaped(value)));
            }
            if !found.patches.is_empty() {
                layer.set("patches", Node::made(Value::List(found.patches.iter().map(|patch| path(patch)).collect())));
            }
            layer.set("at", text(&escaped(&from(&around.work, &repository.folder))));
        }
        _ => layer.set("path", path(&repository.folder)),
    }
    // One that lies outside of its repository is BitBake's alone to find.
    let inside = |name: &str| !name.starts_with('/') && !name.split('/').any(|part| part == "..");
    let layers = repository.layers.iter().map(|(name, _)| name.as_str()).filter(|name| inside(name));
    let layers: Vec<Node> = layers.map(|name| text(&escaped(name))).collect();
    match layers.is_empty() {
        true => layer.set("has_layers", Node::made(Value::Scalar(Scalar::Bool(false)))),
        false => layer.set("sublayers", map([("include", Node::made(Value::List(layers)))])),
    }
    layer
}

/// An address as smidr writes it: git takes a folder as well, relative to the work folder.
fn address(url: &str, work: &Path) -> String {
    let is_folder = url.starts_with('/') || url.starts_with("./") || url.starts_with("../");
    if is_folder { address_of(&without_dots(&work.join(url))) } else { url.to_owned() }
}

/// A name for the project: that of its work folder.
fn name(work: &Path) -> String {
    let last = work.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = last.chars().map(|c| if plain(c) { c } else { '-' }).take(64).collect();
    match name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        true => name,
        false => format!("kas{name}").chars().take(64).collect(),
    }
}

/// The way from a folder to another one; `.` stands for the folder itself.
pub fn from(folder: &Path, to: &Path) -> String {
    match relative(folder, to).display().to_string() {
        same if same.is_empty() => ".".into(),
        path => path,
    }
}

/// A value in which smidr substitutes no variable.
pub fn escaped(value: &str) -> String {
    value.replace("${", "$${")
}

fn text(text: &str) -> Node {
    Node::text(text)
}

fn map<const N: usize>(entries: [(&str, Node); N]) -> Node {
    Node::map(entries)
}
