//! Copies an untrusted bare repository, such as one that an untrusted build has fetched, by content: each object gets the name that its bytes
//! have. Packs are given new indexes, loose objects are written anew, refs are copied if their object is there.
//! Configuration, hooks, alternates and all else that git obeys are not copied.

use std::{
    collections::BTreeMap,
    fs,
    io::BufReader,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use gix::{
    ObjectId,
    hash::Kind::Sha1,
    odb::{
        loose,
        pack::{Bundle, bundle, data::input::Mode},
    },
    prelude::Write as _,
};
use walkdir::WalkDir;

use super::{git_error::GitError, mirror};
use crate::system::{
    files::{FileError, read_bounded},
    rooted::open_linkless,
};

/// The largest object, inflated.
const OBJECT_BYTES: usize = 256 << 20;

/// The configuration that BitBake's git makes.
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n";

/// Copies a repository into a folder that does not exist yet. False if it cannot be copied, because it is damaged or has only a part of
/// its past; the folder then has to be removed.
///
/// # Errors
///
/// When the file system refuses to write, or `interrupt` is set.
pub fn copy(from: &Path, to: &Path, interrupt: &AtomicBool) -> Result<bool, GitError> {
    if ["shallow", "objects/info/alternates"].iter().any(|part| fs::symlink_metadata(from.join(part)).is_ok()) {
        return Ok(false);
    }
    // The target of a link may lie outside of what the build can write.
    let is_link = |part: &str| fs::symlink_metadata(from.join(part)).is_ok_and(|data| data.is_symlink());
    if ["", "objects", "objects/pack", "refs", "packed-refs"].into_iter().any(is_link) {
        return Ok(false);
    }
    mirror::make(to, CONFIG)?;
    let repository = mirror::open(to)?;
    if !packs(&from.join("objects/pack"), &to.join("objects/pack"), interrupt)? {
        return Ok(false);
    }
    if !loose_objects(&from.join("objects"), &repository, interrupt)? {
        return Ok(false);
    }
    // Opened again, with the packs that were copied.
    let repository = mirror::open(to)?;
    let refs = refs(from).into_iter().filter(|(_, id)| repository.has_object(id));
    let lines: String = refs.map(|(name, id)| format!("{id} {name}\n")).collect();
    let file = to.join("packed-refs");
    fs::write(&file, &lines).map_err(FileError::new("write", &file))?;
    mirror::tidy(to)?;
    Ok(!lines.is_empty())
}

fn packs(from: &Path, to: &Path, interrupt: &AtomicBool) -> Result<bool, GitError> {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let path = entry.path();
        // The objects that a partial clone lacks are asked for when they are used (gitformat-pack(5)).
        if path.extension().is_some_and(|kind| kind == "promisor") {
            return Ok(false);
        }
        if path.extension().is_none_or(|kind| kind != "pack") {
            continue;
        }
        let Ok(file) = open_linkless(&path) else { return Ok(false) };
        let options = bundle::write::Options {
            iteration_mode: Mode::Verify,
            // Each thread holds an object in memory.
            thread_limit: Some(1),
            alloc_limit_bytes: Some(OBJECT_BYTES),
            ..bundle::write::Options::default()
        };
        let (mut pack, none) = (BufReader::new(file), None::<gix::odb::Handle>);
        let made = Bundle::write_to_directory(
            &mut pack,
            Some(to),
            &mut gix::progress::Discard,
            interrupt,
            none,
            Sha1,
            options,
        );
        stopped(from, interrupt)?;
        if made.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn loose_objects(from: &Path, to: &gix::Repository, interrupt: &AtomicBool) -> Result<bool, GitError> {
    let options = loose::Options { alloc_limit_bytes: Some(OBJECT_BYTES), ..loose::Options::default() };
    let store = loose::Store::at_opts(from, Sha1, options);
    let mut bytes = Vec::new();
    for entry in WalkDir::new(from).min_depth(2).max_depth(2) {
        let Ok(entry) = entry else { return Ok(false) };
        let path = entry.path();
        let names = [path.parent().and_then(Path::file_name), path.file_name()]
            .map(|name| name.unwrap_or_default().to_string_lossy());
        // Only files at the path at which the store looks for the object.
        let [first, rest] = &names;
        let is_place = first.len() == 2 && !rest.bytes().chain(first.bytes()).any(|byte| byte.is_ascii_uppercase());
        let Some(id) = ObjectId::from_hex(names.concat().as_bytes()).ok().filter(|_| is_place) else { continue };
        stopped(from, interrupt)?;
        if !entry.file_type().is_file() {
            return Ok(false);
        }
        let Ok(Some(object)) = store.try_find(&id, &mut bytes) else { return Ok(false) };
        let written = to.write_buf(object.kind, object.data).map_err(|error| GitError::mirror(to.path(), &error))?;
        if written != id {
            return Ok(false);
        }
    }
    Ok(true)
}

fn stopped(from: &Path, interrupt: &AtomicBool) -> Result<(), GitError> {
    match interrupt.load(Ordering::SeqCst) {
        true => Err(GitError::Stopped(from.file_name().unwrap_or_default().to_string_lossy().into_owned())),
        false => Ok(()),
    }
}

/// Names and ids; a file of its own overrides a line of `packed-refs` (gitrepository-layout(5)).
fn refs(from: &Path) -> BTreeMap<String, ObjectId> {
    let packed = read_bounded(&from.join("packed-refs")).unwrap_or_default();
    let packed = String::from_utf8_lossy(&packed).into_owned();
    let packed = packed.lines().filter_map(|line| {
        let (id, name) = line.split_once(' ')?;
        Some((name.to_owned(), id.to_owned()))
    });
    let files = WalkDir::new(from.join("refs")).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    let files = files.filter_map(|entry| {
        let name = entry.path().strip_prefix(from).ok()?.to_str()?.to_owned();
        Some((name, String::from_utf8(read_bounded(entry.path()).ok()?).ok()?))
    });
    let is_name = |name: &str| name.starts_with("refs/") && gix::refs::FullName::try_from(name).is_ok();
    packed
        .chain(files)
        .filter(|(name, _)| is_name(name))
        .filter_map(|(name, id)| Some((name, ObjectId::from_hex(id.trim_end().as_bytes()).ok()?)))
        .collect()
}
