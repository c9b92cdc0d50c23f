//! No object twice. A server sends changes to objects that are here already (a thin pack), but a pack on the disk has to be complete in itself
//! (gitformat-pack(5)): gix and git put those objects into it once more. Such a pack is written anew without what other packs have;
//! what was a change to one of those becomes whole. Where many changes are to one object (a file's whole past), that would take more room than it saves, and
//! the pack stays as it is.
//!
//! The new pack has its place before the old one goes, and a note of what was there before the fetch stays until what has come has been looked at: after
//! a kill at any moment every object is there, and the next fetch goes on.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufReader, BufWriter, Seek as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use gix::{ObjectId, hash::Kind::Sha1, parallel::InOrderIter};
use gix_pack::{
    Bundle, bundle,
    data::{
        Version,
        input::Mode,
        output::{Count, bytes::FromEntriesIter, count::PackLocation, entry::iter_from_counts},
    },
    index,
};

use super::{
    super::{
        git_error::GitError,
        mirror::{self, ALLOCATION_BYTES},
    },
    counters::Counters,
};
use crate::system::files::{self, FileError};

/// How many objects each thread holds in memory at a time.
const CHUNK: usize = 8;

/// In the mirror, during a fetch: the names of the indexes that were there before, one in each line.
const BEFORE: &str = "smidr-packs-before";

/// The packs of a mirror that have been looked at, by their indexes.
pub struct Settled(BTreeSet<PathBuf>);

impl Settled {
    /// Those that lie in a mirror before a fetch; if somebody was killed in one, before theirs.
    ///
    /// # Errors
    ///
    /// When its folder cannot be read or written.
    pub fn before(folder: &Path) -> Result<Self, GitError> {
        let mut all = indexes(folder)?;
        let note = folder.join(BEFORE);
        match fs::read_to_string(&note) {
            Ok(names) => all.retain(|index| names.lines().any(|name| index.ends_with(name))),
            Err(_) => {
                let name = |index: &PathBuf| Some(index.file_name()?.to_str()?.to_owned());
                let names: Vec<String> = all.iter().filter_map(name).collect();
                files::write_atomically(&note, names.join("\n").as_bytes(), 0o644)?;
            }
        }
        Ok(Self(all))
    }

    /// Everything that is there now counts as looked at.
    ///
    /// # Errors
    ///
    /// When the note of it cannot be removed.
    pub fn done(folder: &Path) -> Result<(), GitError> {
        Ok(remove(&folder.join(BEFORE))?)
    }

    /// Leaves out of the packs that have come since what other packs have.
    ///
    /// # Errors
    ///
    /// When a pack cannot be read or the disk refuses. Objects may be there twice then; none is lost.
    pub fn leave_out_copies(&self, folder: &Path, counters: &Counters, interrupt: &AtomicBool) -> Result<(), GitError> {
        for new in indexes(folder)?.difference(&self.0) {
            // Anew for each: the one before may have been replaced.
            let mut others = indexes(folder)?;
            others.remove(new);
            let others: Vec<index::File> = others.iter().map(|other| open(other)).collect::<Result<_, _>>()?;
            let is_copy = |id: &ObjectId| others.iter().any(|other| other.lookup(id).is_some());
            let ids: Vec<ObjectId> = open(new)?.iter().map(|entry| entry.oid).collect();
            let own: Vec<ObjectId> = ids.iter().filter(|id| !is_copy(id)).copied().collect();
            if own.len() == ids.len() {
                continue;
            }
            let pack = new.with_extension("pack");
            let most = fs::metadata(&pack).map_err(FileError::new("look at", &pack))?.len();
            if !own.is_empty() && !write(folder, own, most, counters, interrupt)? {
                continue;
            }
            // Without its index a pack is nothing to anybody, and is swept.
            for part in ["idx", "pack", "rev", "keep"] {
                remove(&new.with_extension(part))?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", path)(error)),
        _ => Ok(()),
    }
}

fn packs(folder: &Path) -> PathBuf {
    folder.join("objects/pack")
}

fn indexes(folder: &Path) -> Result<BTreeSet<PathBuf>, GitError> {
    let packs = packs(folder);
    let entries = fs::read_dir(&packs).map_err(FileError::new("read the folder", &packs))?.flatten();
    let paths = entries.map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|kind| kind == "idx")).collect())
}

fn open(index: &Path) -> Result<index::File, GitError> {
    index::File::at(index, Sha1).map_err(|error| GitError::mirror(index, &error))
}

// Entries are copied as they are, deltas included where their base is among them, and only then hashed and given an index. Writes nothing and says so where
// the pack would have more than `most` bytes.
fn write(
    folder: &Path,
    ids: Vec<ObjectId>,
    most: u64,
    counters: &Counters,
    interrupt: &AtomicBool,
) -> Result<bool, GitError> {
    let broken = |error: gix::Error| GitError::mirror(folder, &error);
    let packs = packs(folder);
    let disk = |source| GitError::Disk { path: packs.clone(), source };
    let mut objects = mirror::open(folder)?.objects.clone().into_inner();
    objects.prevent_pack_unload();
    // Somebody's `git replace` is about what is shown, not about what is there.
    objects.ignore_replacements = true;
    let total = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let counts = ids.into_iter().map(|id| Count { id, entry_pack_location: PackLocation::NotLookedUp }).collect();
    let options = iter_from_counts::Options { chunk_size: CHUNK, ..Default::default() };
    let entries = iter_from_counts(counts, objects, Box::new(counters.node()), options).map_err(broken)?;
    let mut file = tempfile::tempfile_in(&packs).map_err(disk)?;
    let out = BufWriter::new(&file);
    let mut size = 0;
    for written in FromEntriesIter::new(InOrderIter::from(entries), out, total, Version::V2, Sha1) {
        size += written.map_err(broken)?;
        if size > most {
            return Ok(false);
        }
        if interrupt.load(Ordering::SeqCst) {
            return Err(disk(io::ErrorKind::Interrupted.into()));
        }
    }
    file.rewind().map_err(disk)?;
    let options = bundle::write::Options {
        iteration_mode: Mode::Verify,
        alloc_limit_bytes: Some(ALLOCATION_BYTES),
        ..bundle::write::Options::default()
    };
    let mut file = BufReader::new(file);
    let mut node = counters.node();
    let none = None::<gix::odb::Handle>;
    let made = Bundle::write_to_directory(&mut file, Some(&packs), &mut node, interrupt, none, Sha1, options);
    // The old pack goes only for one that has all of it.
    if made.map_err(broken)?.index.num_objects != total {
        return Err(disk(io::ErrorKind::InvalidData.into()));
    }
    Ok(true)
}
