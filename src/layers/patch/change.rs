//! Computes what a patch makes of each file, for all of them before anything is changed.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use diffy::patch_set::{FileMode, FileOperation, FilePatch, PatchKind};
use gix::{bstr::ByteSlice as _, validate::path::component};

use super::{
    error::PatchError,
    files::{Files, shown},
    hunks,
};
use crate::layers::valid_names::VALID_NAMES;

/// How many bytes the patches of one file may read and make: a file of the largest size, with room for a second version of it.
const MAX_BYTES: u64 = 2 << 30;

/// The largest file that can be changed by lines, in bytes.
const MAX_TEXT: u64 = 32 << 20;

/// The type of an entry, as git distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// A file.
    File,
    /// An executable file.
    Program,
    /// A symbolic link.
    Link,
}

/// A file, or a link with its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Its type.
    pub kind: Type,
    /// Its bytes, or the target of a link.
    pub bytes: Vec<u8>,
}

/// What happens to the files that one part of a patch names.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The path that is removed.
    pub remove: Option<PathBuf>,
    /// What is written, in the place of what was there.
    pub write: Option<(PathBuf, Content)>,
}

/// The paths of one part.
struct Paths {
    from: Option<PathBuf>,
    to: Option<PathBuf>,
    // Whether `from` is removed; whether it means the original content, whatever earlier parts of the patch made of it.
    goes: bool,
    original: bool,
}

/// What the patches of one file may still spend.
#[derive(Debug)]
pub(super) struct Limits {
    // Bytes to read and make.
    bytes: Cell<u64>,
    // Steps in the search for the places of hunks.
    steps: Cell<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: Cell::new(MAX_BYTES), steps: Cell::new(hunks::MAX_STEPS) }
    }
}

/// The changes of every part of a patch.
///
/// # Errors
///
/// When one does not apply, or names a path that it must not change.
pub(super) fn changes(
    patch: &str,
    parts: &[FilePatch<'_, [u8]>],
    files: &Files<'_>,
    limits: &Limits,
) -> Result<Vec<Change>, PatchError> {
    let paths = parts.iter().map(|part| paths(patch, part)).collect::<Result<Vec<_>, _>>()?;
    let goes = |paths: &Paths| paths.from.clone().filter(|_| paths.goes);
    let going = paths.iter().filter_map(goes).collect();
    let mut work = Work { files, going, state: BTreeMap::new(), limits };
    let mut changes = Vec::new();
    for (part, paths) in parts.iter().zip(&paths) {
        let file = paths.from.as_deref().or(paths.to.as_deref()).map(shown).unwrap_or_default();
        changes.push(work.change(&Part { patch, part, file }, paths)?);
    }
    Ok(changes)
}

/// The state of the files after the parts so far.
struct Work<'a> {
    files: &'a Files<'a>,
    // Paths that some part removes.
    going: BTreeSet<PathBuf>,
    state: BTreeMap<PathBuf, Option<Content>>,
    limits: &'a Limits,
}

/// One part of a patch.
struct Part<'a> {
    patch: &'a str,
    part: &'a FilePatch<'a, [u8]>,
    file: String,
}

impl Work<'_> {
    fn change(&mut self, part: &Part<'_>, paths: &Paths) -> Result<Change, PatchError> {
        let before = self.before(part, paths)?;
        self.spend(part, before.as_ref().map_or(0, |content| content.bytes.len()))?;
        if let Some(to) = paths.to.as_ref().filter(|to| Some(*to) != paths.from.as_ref())
            && self.is_taken(to)?
        {
            return Err(PatchError::Exists { patch: part.patch.into(), file: shown(to) });
        }
        let kind = part.kind(before.as_ref())?;
        let bytes = part.bytes(before.map(|content| content.bytes).unwrap_or_default(), &self.limits.steps)?;
        self.spend(part, bytes.len())?;
        let mut change = Change::default();
        if paths.goes {
            change.remove.clone_from(&paths.from);
            self.state.extend(paths.from.clone().map(|from| (from, None)));
        }
        match &paths.to {
            Some(to) => {
                let content = Content { kind, bytes };
                self.state.insert(to.clone(), Some(content.clone()));
                change.write = Some((to.clone(), content));
            }
            None if !bytes.is_empty() => {
                return Err(PatchError::Left { patch: part.patch.into(), file: part.file.clone() });
            }
            None => {}
        }
        Ok(change)
    }

    // One line of a patch can copy a file of any size, and everything is held in memory until all parts are known to apply.
    fn spend(&self, part: &Part<'_>, bytes: usize) -> Result<(), PatchError> {
        let too_much = || PatchError::TooMuch { patch: part.patch.into(), file: part.file.clone(), limit: MAX_BYTES };
        let left = self.limits.bytes.get().checked_sub(bytes as u64).ok_or_else(too_much)?;
        self.limits.bytes.set(left);
        Ok(())
    }

    fn before(&self, part: &Part<'_>, paths: &Paths) -> Result<Option<Content>, PatchError> {
        let Some(from) = &paths.from else { return Ok(None) };
        let content = match self.state.get(from).filter(|_| !paths.original) {
            Some(content) => content.clone(),
            None => self.files.read(from)?,
        };
        let missing = || PatchError::NoFile { patch: part.patch.into(), file: shown(from) };
        content.ok_or_else(missing).map(Some)
    }

    fn is_taken(&self, path: &Path) -> Result<bool, PatchError> {
        match self.state.get(path) {
            Some(content) => Ok(content.is_some()),
            None => Ok(!self.going.contains(path) && self.files.read(path)?.is_some()),
        }
    }
}

impl Part<'_> {
    fn kind(&self, before: Option<&Content>) -> Result<Type, PatchError> {
        let (patch, file) = (self.patch.to_owned(), self.file.clone());
        let is_link = |mode: &FileMode| *mode == FileMode::Symlink;
        let (old, new) = (self.part.old_mode(), self.part.new_mode());
        if [old, new].contains(&Some(&FileMode::Gitlink)) {
            return Err(PatchError::Submodule { patch, file });
        }
        let was = before.map(|content| content.kind);
        // A file can become a link only by being removed and made anew.
        let other =
            |mode: Option<&FileMode>| mode.zip(was).is_some_and(|(mode, was)| is_link(mode) != (was == Type::Link));
        if other(old) || other(new) {
            return Err(PatchError::Type { patch, file });
        }
        Ok(match new {
            Some(FileMode::Symlink) => Type::Link,
            Some(FileMode::Executable) => Type::Program,
            Some(_) => Type::File,
            None => was.unwrap_or(Type::File),
        })
    }

    fn bytes(&self, old: Vec<u8>, steps: &Cell<u64>) -> Result<Vec<u8>, PatchError> {
        let (patch, file) = (self.patch.to_owned(), self.file.clone());
        match self.part.patch() {
            PatchKind::Text(text) if text.hunks().is_empty() => Ok(old),
            // Each line is held by itself, which takes more memory than the bytes of a short one.
            PatchKind::Text(_) if old.len() as u64 > MAX_TEXT => {
                Err(PatchError::TooMuch { patch, file, limit: MAX_TEXT })
            }
            PatchKind::Text(text) => hunks::apply(&old, text.hunks(), steps).map_err(|hunk| PatchError::Hunk {
                patch,
                file,
                hunk: hunks::header(hunk),
                crlf: hunks::crlf(&old, hunk),
            }),
            PatchKind::Binary(_) => Err(PatchError::Binary { patch, file }),
        }
    }
}

fn paths(patch: &str, part: &FilePatch<'_, [u8]>) -> Result<Paths, PatchError> {
    let link = part.new_mode() == Some(&FileMode::Symlink);
    let plain = |path: &[u8]| name(patch, path, link);
    let stripped = |path: &Cow<'_, [u8]>| match path.split_once_str(b"/") {
        Some((_, path)) => plain(path),
        None => Err(PatchError::Prefix { patch: patch.into(), file: path.to_str_lossy().into() }),
    };
    let (from, to, goes, original) = match part.operation() {
        FileOperation::Delete(path) => (Some(stripped(path)?), None, true, false),
        FileOperation::Create(path) => (None, Some(stripped(path)?), false, false),
        FileOperation::Modify { original, modified } => {
            let (old, new) = (stripped(original)?, stripped(modified)?);
            // `diff -u file.orig file`: the shorter of both names, as git does.
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
