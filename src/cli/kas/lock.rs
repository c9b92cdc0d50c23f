//! `smidr kas lock`: kas's own lock files, updated or made.

use std::path::PathBuf;

use super::{args, run::set_up};
use crate::{
    cli::{
        args::Grant,
        output::talk,
        report::{Done, Refused},
    },
    kas::{Form, Node, Scalar, Value, dump, lock_of},
    system::files::{FileError, read_bounded, write_atomically},
};

/// The version from which on lock files are understood.
const VERSION: i128 = 14;

/// A lock file with these commits.
pub(super) fn document<'a>(commits: impl Iterator<Item = (&'a str, &'a str)>) -> Node {
    let map = || Node::made(Value::Map(Vec::new()));
    let mut document = map();
    let mut header = map();
    header.set("version", Node::made(Value::Scalar(Scalar::Int(VERSION))));
    document.set("header", header);
    let mut repositories = map();
    for (id, commit) in commits {
        let mut one = map();
        one.set("commit", Node::text(commit));
        repositories.set(id, one);
    }
    let mut overrides = map();
    overrides.set("repos", repositories);
    document.set("overrides", overrides);
    document
}

/// Writes what repositories without a commit of their own are at into the lock files that have them, and what is in none into that of the
/// first file.
pub(super) fn lock(grant: &Grant, args: &args::Lock) -> Done {
    let set = set_up(&args.config, grant, &args.setup)?;
    // What has a commit already, of the files or of a lock file that counts, is locked.
    let is_locked =
        |id: &str| set.whole.kas.repositories.iter().any(|one| one.id == id && one.revision.commit.is_some());
    let commits: Vec<(String, String)> = set
        .pins
        .iter()
        .filter(|pin| !is_locked(&pin.name))
        .filter_map(|pin| Some((pin.name.clone(), pin.commit.as_ref()?.to_string())))
        .collect();
    let mut files: Vec<(PathBuf, Node, bool, bool)> = Vec::new();
    for loaded in set.whole.merged.files.iter().filter(|loaded| !loaded.is_lock) {
        let Some(path) = lock_of(&loaded.path).filter(|path| path.is_file()) else { continue };
        if files.iter().all(|(known, ..)| *known != path) {
            let text = read_bounded(&path).map_err(FileError::new("read", &path))?;
            let node = crate::kas::parse(&String::from_utf8_lossy(&text));
            let node = node.map_err(|problem| Refused::new(format!("{}: {}", path.display(), problem.title), None))?;
            files.push((path, node, loaded.is_top, false));
        }
    }
    let mut left = Vec::new();
    for (id, commit) in &commits {
        let mut known = false;
        for (path, node, is_top, changed) in &mut files {
            let entry = node
                .entries_mut()
                .iter_mut()
                .find(|(key, _)| key.is("overrides"))
                .and_then(|(_, overrides)| overrides.entries_mut().iter_mut().find(|(key, _)| key.is("repos")))
                .and_then(|(_, repos)| repos.entries_mut().iter_mut().find(|(key, _)| key.is(id)));
            let Some((_, entry)) = entry else { continue };
            known = true;
            if entry.get("commit").and_then(Node::as_text) == Some(commit) {
                continue;
            }
            if !*is_top {
                talk(format!("warning: {} lies in another repository, and stays as it is", path.display()));
                continue;
            }
            entry.set("commit", Node::text(commit));
            *changed = true;
        }
        if !known {
            left.push((id.as_str(), commit.as_str()));
        }
    }
    if !left.is_empty() {
        let first = set.files.files.first().and_then(|file| lock_of(file));
        let first = first.ok_or_else(|| Refused::new("no kas file is named", None))?;
        let first = std::path::absolute(&first).unwrap_or(first);
        let added = document(left.into_iter());
        match files.iter_mut().find(|(path, ..)| *path == first) {
            Some((_, node, _, changed)) => {
                crate::kas::lay_over(node, &added);
                *changed = true;
            }
            None => files.push((first, added, true, true)),
        }
    }
    for (path, node, ..) in files.iter().filter(|(.., changed)| *changed) {
        let json = path.extension().is_some_and(|ending| ending == "json");
        let form = if json { Form::Json } else { Form::Yaml };
        write_atomically(path, dump(node, form, args.written.indent, args.written.sort).as_bytes(), 0o644)?;
        talk(format!("lock       {}", path.display()));
    }
    Ok(std::process::ExitCode::SUCCESS)
}
