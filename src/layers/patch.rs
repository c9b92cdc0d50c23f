//! Patches on top of a repository.
//!
//! Applies patches as `git format-patch`, `git diff` or `diff -u` write them to a tree that is not shared yet. The tree is
//! changed as `git apply` would change it, and by a file of several mails as `git am` would. Strictly: a hunk may have moved, but each of
//! its lines has to be there. A patch
//! changes nothing outside of the tree, nothing behind a symbolic link, and nothing in a `.git`.

mod change;
mod error;
mod files;
mod hunks;
mod mails;

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use diffy::patch_set::{FilePatch, ParseOptions, PatchSet};
pub use error::{LineEnds, PatchError};
use mails::Mail;
use sha2::{Digest as _, Sha256};

use crate::{
    lock::PatchPin,
    model::Digest,
    plan::{PlannedGit, PlannedPatch},
    system::files::FileError,
};

/// The largest file of patches, in bytes.
const MAX_PATCH: u64 = 64 << 20;

/// A patch that was read.
#[derive(Clone, Debug)]
pub struct ReadPatch {
    /// Its name in the config, and its digest.
    pub lock: PatchPin,
    /// What it holds.
    pub text: Vec<u8>,
}

/// Reads the patches that a config wants on top of a repository.
///
/// # Errors
///
/// When one is not there, too large, or cannot be read.
pub fn read_patches(wanted: &PlannedGit) -> Result<Vec<ReadPatch>, PatchError> {
    wanted.patches.iter().map(read).collect()
}

fn read(planned: &PlannedPatch) -> Result<ReadPatch, PatchError> {
    let read = |text: Vec<u8>| {
        let sha256 = Digest::from_sha256(Sha256::digest(&text).into());
        ReadPatch { lock: PatchPin { file: planned.written.clone(), sha256 }, text }
    };
    if let Some(text) = &planned.submitted {
        return Ok(read(text.clone()));
    }
    let missing = || PatchError::Missing { patch: planned.written.clone(), path: planned.file.clone() };
    let file = match File::open(&planned.file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        opened => opened.map_err(FileError::new("open the patch", &planned.file))?,
    };
    let mut text = Vec::new();
    let whole = file.take(MAX_PATCH + 1).read_to_end(&mut text);
    whole.map_err(FileError::new("read the patch", &planned.file))?;
    if text.len() as u64 > MAX_PATCH {
        return Err(PatchError::TooLarge { patch: planned.written.clone(), limit: MAX_PATCH });
    }
    Ok(read(text))
}

/// Applies a patch to a tree, or all patches of a mailbox one after the other. After a failure the tree is unusable.
///
/// # Errors
///
/// When it is not a patch, does not apply, or names a path that it must not change.
pub fn apply(patch: &ReadPatch, tree: &Path) -> Result<(), PatchError> {
    let limits = change::Limits::default();
    mails::split(&patch.lock.file, &patch.text).iter().try_for_each(|mail| apply_one(mail, tree, &limits))
}

fn apply_one(mail: &Mail<'_>, tree: &Path, limits: &change::Limits) -> Result<(), PatchError> {
    let name = mail.name.as_str();
    if let Some(encoding) = mails::encoding(mail.text) {
        return Err(PatchError::Encoded { patch: name.into(), encoding });
    }
    let body = mails::patch_in(mail.text);
    let git = body.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"diff --git "));
    let options = if git { ParseOptions::gitdiff() } else { ParseOptions::unidiff() };
    let parsed = parse(name, body, options)?;
    let files = files::Files::open(tree, name)?;
    let changes = change::changes(name, &parsed, &files, limits)?;
    // In git's order: all removals first, so that they make room.
    changes.iter().try_for_each(|change| files.remove(change))?;
    changes.iter().try_for_each(|change| files.write(change))
}

/// Whether these lines are a file's header in git's form without a hunk. The first line has to be git's, so that lines of a hunk do not match.
fn is_cut_off(lines: &&[&[u8]]) -> bool {
    let [head, old, new, hunk] = lines else { return false };
    let is_header = [&b"index "[..], b"diff --git "].iter().any(|start| head.starts_with(start));
    is_header && old.starts_with(b"--- ") && new.starts_with(b"+++ ") && !hunk.starts_with(b"@@ -")
}

fn parse<'a>(name: &str, body: &'a [u8], options: ParseOptions) -> Result<Vec<FilePatch<'a, [u8]>>, PatchError> {
    let parsed: Result<Vec<_>, _> = PatchSet::parse_bytes(body, options).collect();
    let parsed = parsed.map_err(|source| PatchError::Malformed { patch: name.into(), source: Box::new(source) })?;
    // The parser skips text between two files, and would skip a damaged hunk with it.
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    let headers =
        lines.iter().filter(|line| line.starts_with(b"@@ -")).count() + lines.windows(4).filter(is_cut_off).count();
    let hunks: usize = parsed.iter().filter_map(|file| file.patch().as_text()).map(|text| text.hunks().len()).sum();
    if headers != hunks {
        return Err(PatchError::LostHunk { patch: name.into(), found: hunks, of: headers });
    }
    Ok(parsed)
}
