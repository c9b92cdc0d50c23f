//! A build folder that was set up by hand (`conf/bblayers.conf` and `conf/local.conf`) as a smidr.yaml: its layers are folders of this machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::imported::Imported;
use crate::cli::{
    args::Import,
    report::{Failure, Refused},
};
use crate::{
    kas::{Node, escaped, whole},
    layers,
    model::{Hint, SystemFacts, without_dots},
    system::files::{FileError, read_text},
};

/// Whether a path is the `bblayers.conf` of a build folder.
pub(super) fn is_bblayers(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "bblayers.conf") && file.is_file()
}

/// What the build folder around a `bblayers.conf` becomes.
pub(super) fn import(file: &Path, to: &Path, args: &Import, facts: &SystemFacts) -> Result<Imported, Failure> {
    let file = fs::canonicalize(file).map_err(FileError::new("find", file))?;
    let conf = file.parent().unwrap_or(Path::new("/"));
    let top = conf.parent().unwrap_or(Path::new("/"));
    let Some(target) = &args.target else {
        let hint = [Hint::new("name it:  --target core-image-minimal")];
        return Err(Refused::new("a build folder does not say what is built", hint).into());
    };
    let folders = layers_of(&read_text(&file)?, top);
    if folders.is_empty() {
        let hint = [Hint::new("BBLAYERS has to name folders, with no variable but TOPDIR")];
        return Err(Refused::new(format!("{} names no layer", file.display()), hint).into());
    }
    let local = read_text(&conf.join("local.conf")).unwrap_or_default();
    let (mut machine, mut distro, mut lines, mut left_out) = (None, None, Vec::new(), Vec::new());
    for line in local.lines() {
        let value = |name: &str| value_of(line, name);
        match (value("MACHINE"), value("DISTRO")) {
            (Some(value), _) => machine = Some(value),
            (_, Some(value)) => distro = Some(value),
            _ => lines.push(line.to_owned()),
        }
        // smidr's own folders take their place.
        for name in ["DL_DIR", "SSTATE_DIR", "TMPDIR"] {
            if value(name).is_some() {
                lines.pop();
                left_out.push(format!("{}: smidr's own folder, unless `directories:` names one", line.trim()));
            }
        }
    }
    let Some(machine) = args.machine.clone().or(machine) else {
        return Err(Refused::new("local.conf sets no MACHINE", [Hint::new("name it:  --machine MACHINE")]).into());
    };
    let beside = to.parent().unwrap_or(Path::new("/"));
    let mut entries: Vec<(String, PathBuf, Vec<String>)> = Vec::new();
    for folder in folders {
        let root = layers::repository_around(&folder, &facts.home).unwrap_or_else(|| folder.clone());
        let inside = folder.strip_prefix(&root).unwrap_or(Path::new("")).display().to_string();
        let inside = if inside.is_empty() { ".".to_owned() } else { inside };
        match entries.iter_mut().find(|(_, known, _)| *known == root) {
            Some((.., layers)) => layers.push(inside),
            None => {
                let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let twins = entries.iter().filter(|(known, ..)| known.starts_with(&name)).count();
                let name = if twins == 0 { name } else { format!("{name}-{}", twins + 1) };
                entries.push((name, root, vec![inside]));
            }
        }
    }
    let layers = entries.iter().map(|(name, root, layers)| {
        let path = root
            .strip_prefix(beside)
            .map_or_else(|_| root.display().to_string(), |inside| format!("./{}", inside.display()));
        let include = Node::made(crate::kas::Value::List(layers.iter().map(Node::text).collect()));
        Node::map([
            ("name", Node::text(name)),
            ("path", Node::text(escaped(&path))),
            ("sublayers", Node::map([("include", include)])),
        ])
    });
    let layers = Node::made(crate::kas::Value::List(layers.collect()));
    let mut base = Node::map([("machine", Node::text(machine))]);
    if let Some(distro) = args.distro.clone().or(distro) {
        base.set("distro", Node::text(distro));
    }
    let name = args.name.clone().or_else(|| beside.file_name().map(|name| name.to_string_lossy().into_owned()));
    let document = Node::map([
        ("name", Node::text(name.unwrap_or_default())),
        ("base", base),
        ("layers", layers),
        ("build", Node::map([("image", Node::text(target))])),
    ]);
    let is_said = |line: &String| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let text = lines.iter().filter(|line| is_said(line)).map(|line| format!("{line}\n")).collect::<String>();
    let local_conf = if text.is_empty() { Vec::new() } else { vec![("from local.conf".to_owned(), text)] };
    let head = [format!("Written by `smidr import {}`.", file.file_name().unwrap_or_default().display())];
    Ok(Imported { text: whole(&document, &local_conf, &head), left_out, lock: None })
}

/// The folders that BBLAYERS names.
fn layers_of(text: &str, top: &Path) -> Vec<PathBuf> {
    let joined = text.replace("\\\n", " ").replace("${TOPDIR}", &top.display().to_string());
    let lines = joined.lines().filter_map(|line| line.trim_start().strip_prefix("BBLAYERS"));
    let lines = lines.filter(|rest| rest.trim_start().starts_with(['?', '=', '+', ':', '.', ' ']));
    let words =
        lines.filter_map(|rest| rest.split_once('=')).flat_map(|(_, value)| value.split(['"', '\'', ' ', '\t']));
    let folders = words.filter(|word| word.starts_with('/') && !word.contains("${"));
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in folders.map(|word| without_dots(Path::new(word))) {
        if !all.contains(&folder) {
            all.push(folder);
        }
    }
    all
}

/// The value that a line gives to a variable, quoted.
fn value_of(line: &str, name: &str) -> Option<String> {
    let rest = line.trim().strip_prefix(name)?.trim_start();
    let value = ["=", "?=", "??=", ":="].iter().find_map(|sign| rest.strip_prefix(sign))?.trim();
    let quote = value.chars().next().filter(|c| ['"', '\''].contains(c))?;
    Some(value.strip_prefix(quote)?.strip_suffix(quote)?.to_owned())
}
