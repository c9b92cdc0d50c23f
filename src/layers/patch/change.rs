//! What a patch makes of each file: worked out for all of them before anything is changed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use diffy::patch_set::{FileMode, FileOperation, FilePatch, PatchKind};
use gix::{bstr::ByteSlice as _, validate::path::component};

use super::{
    binary,
    error::PatchError,
    files::{Files, shown},
    hunks,
};
use crate::layers::checkout::VALID_NAMES;

/// What something is, as far as git cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A file.
    File,
    /// A file that can be run.
    Program,
    /// A symbolic link.
    Link,
}

/// A file, or a link with its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which of both.
    pub kind: Type,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// What happens to the files that one part of a patch names.
#[derive(Debug, Default)]
pub struct Change {
    /// What goes.
    pub remove: Option<PathBuf>,
    /// What comes, in the place of what was there.
    pub write: Option<(PathBuf, Content)>,
}

/// The paths of one part.
struct Paths {
    from: Option<PathBuf>,
    to: Option<PathBuf>,
    // Whether `from` goes; whether it is the original, whatever earlier parts of the patch made of it.
    goes: bool,
    original: bool,
}

/// What every part of a patch does.
///
/// # Errors
///
/// When one does not apply, or names what it may not.
pub fn changes(patch: &str, parts: &[FilePatch<'_, [u8]>], files: &Files<'_>) -> Result<Vec<Change>, PatchError> {
    let paths = parts.iter().map(|part| paths(patch, part)).collect::<Result<Vec<_>, _>>()?;
    let going: BTreeSet<&Path> =
        paths.iter().filter(|paths| paths.goes).filter_map(|paths| paths.from.as_deref()).collect();
    let mut state: BTreeMap<PathBuf, Option<Content>> = BTreeMap::new();
    let mut changes = Vec::new();
    for (part, paths) in parts.iter().zip(&paths) {
        let file = || paths.from.as_deref().or(paths.to.as_deref()).map(shown).unwrap_or_default();
        let before = before(patch, paths, files, &state)?;
        if let Some(to) = &paths.to
            && Some(to) != paths.from.as_ref()
        {
            let taken = match state.get(to) {
                Some(content) => content.is_some(),
                None => !going.contains(to.as_path()) && files.read(to)?.is_some(),
            };
            if taken {
                return Err(PatchError::Exists { patch: patch.into(), file: shown(to) });
            }
        }
        let kind = kind(patch, part, before.as_ref(), &file)?;
        let bytes = bytes(patch, part, before.map(|content| content.bytes).unwrap_or_default(), &file)?;
        let mut change = Change::default();
        if paths.goes {
            change.remove.clone_from(&paths.from);
            state.extend(paths.from.clone().map(|from| (from, None)));
        }
        match &paths.to {
            Some(to) => {
                let content = Content { kind, bytes };
                state.insert(to.clone(), Some(content.clone()));
                change.write = Some((to.clone(), content));
            }
            None if !bytes.is_empty() => return Err(PatchError::Left { patch: patch.into(), file: file() }),
            None => {}
        }
        changes.push(change);
    }
    Ok(changes)
}

fn before(
    patch: &str,
    paths: &Paths,
    files: &Files<'_>,
    state: &BTreeMap<PathBuf, Option<Content>>,
) -> Result<Option<Content>, PatchError> {
    let Some(from) = &paths.from else { return Ok(None) };
    let content = match state.get(from).filter(|_| !paths.original) {
        Some(content) => content.clone(),
        None => files.read(from)?,
    };
    let missing = || PatchError::NoFile { patch: patch.into(), file: shown(from) };
    content.ok_or_else(missing).map(Some)
}

fn kind(
    patch: &str,
    part: &FilePatch<'_, [u8]>,
    before: Option<&Content>,
    file: &dyn Fn() -> String,
) -> Result<Type, PatchError> {
    let of = |mode: &FileMode| match mode {
        FileMode::Regular => Ok(Type::File),
        FileMode::Executable => Ok(Type::Program),
        FileMode::Symlink => Ok(Type::Link),
        FileMode::Gitlink => Err(PatchError::Submodule { patch: patch.into(), file: file() }),
    };
    let (old, new) = (part.old_mode().map(of).transpose()?, part.new_mode().map(of).transpose()?);
    let is_link = |kind: Type| kind == Type::Link;
    let was = before.map(|content| content.kind);
    let lies = matches!((old, was), (Some(old), Some(was)) if is_link(old) != is_link(was));
    // A file becomes a link by being removed and made.
    let turns = matches!((was, new), (Some(was), Some(new)) if is_link(was) != is_link(new));
    if lies || turns {
        return Err(PatchError::Type { patch: patch.into(), file: file() });
    }
    Ok(new.or(was).unwrap_or(Type::File))
}

fn bytes(
    patch: &str,
    part: &FilePatch<'_, [u8]>,
    old: Vec<u8>,
    file: &dyn Fn() -> String,
) -> Result<Vec<u8>, PatchError> {
    match part.patch() {
        PatchKind::Text(text) if text.hunks().is_empty() => Ok(old),
        PatchKind::Text(text) => hunks::apply(&old, text.hunks()).map_err(|hunk| PatchError::Hunk {
            patch: patch.into(),
            file: file(),
            hunk: hunks::header(hunk),
        }),
        PatchKind::Binary(binary) => {
            binary::apply(&old, binary).map_err(|why| PatchError::Binary { patch: patch.into(), file: file(), why })
        }
    }
}

fn paths(patch: &str, part: &FilePatch<'_, [u8]>) -> Result<Paths, PatchError> {
    let link = part.new_mode() == Some(&FileMode::Symlink);
    let plain = |path: &[u8]| name(patch, path, link);
    let stripped = |path: &Cow<'_, [u8]>| match path.find_byte(b'/') {
        Some(slash) => plain(&path[slash + 1..]),
        None => Err(PatchError::Name { patch: patch.into(), file: path.to_str_lossy().into() }),
    };
    let (from, to, goes, original) = match part.operation() {
        FileOperation::Delete(path) => (Some(stripped(path)?), None, true, false),
        FileOperation::Create(path) => (None, Some(stripped(path)?), false, false),
        FileOperation::Modify { original, modified } => {
            let (old, new) = (stripped(original)?, stripped(modified)?);
            // `diff -u file.orig file`: the shorter of both, as git has it.
            let path = if new.as_os_str().as_bytes().starts_with(old.as_os_str().as_bytes()) { old } else { new };
            (Some(path.clone()), Some(path), false, false)
        }
        FileOperation::Rename { from, to } => (Some(plain(from)?), Some(plain(to)?), true, true),
        FileOperation::Copy { from, to } => (Some(plain(from)?), Some(plain(to)?), false, true),
    };
    Ok(Paths { from, to, goes, original })
}

fn name(patch: &str, path: &[u8], link: bool) -> Result<PathBuf, PatchError> {
    let mode = link.then_some(component::Mode::Symlink);
    let good = |part: &[u8]| !part.contains(&0) && component(part.as_bstr(), mode, VALID_NAMES).is_ok();
    if path.split(|byte| *byte == b'/').all(good) {
        Ok(OsStr::from_bytes(path).into())
    } else {
        Err(PatchError::Name { patch: patch.into(), file: path.to_str_lossy().into() })
    }
}
