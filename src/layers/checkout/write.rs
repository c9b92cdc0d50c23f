//! Writes the files and links of a list into a folder, with several threads.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use gix::{
    index::{State, entry::Mode, entry::Stat, fs::Metadata},
    progress::StepShared,
    worktree::{
        stack::state,
        state::{checkout, checkout::Options},
    },
};

use super::{super::valid_names::VALID_NAMES, error::CheckoutError, objects::Objects, tree::Listing};
use crate::{
    events::Emitter,
    model::{Activity, CommitId, Unit},
    system::{files::FileError, stop::StopToken},
};

/// How often progress is reported and the stop request is polled.
const PAUSE: Duration = Duration::from_millis(100);

/// What a checkout is written with.
pub(super) struct Job<'a> {
    /// The repository's address.
    pub repository: &'a str,
    /// The folder of the store that it will have; the temporary one may be gone when an error is shown.
    pub room: &'a Path,
    /// Its name in messages.
    pub name: &'a str,
    /// The commit.
    pub commit: &'a CommitId,
    /// Receives progress.
    pub on: &'a Emitter,
    /// The stop request.
    pub stop: &'a StopToken,
}

/// Writes a list out into an empty folder, as git would without any configuration: line ends and encodings as the repository's
/// attributes have them, and without filters that are programs. Fills in the list how the files look to git.
///
/// # Errors
///
/// When objects are damaged, the file system refuses, or a stop is requested.
pub(super) fn write(listing: &mut Listing, objects: &Objects, into: &Path, job: &Job<'_>) -> Result<(), CheckoutError> {
    let (total, counter, interrupted) = (listing.index.entries().len(), Counter::default(), AtomicBool::default());
    let failed = |source| failed(source, job);
    let options = options().map_err(failed)?;
    let watching = Watching::default();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            watching.every(PAUSE, || {
                interrupted.store(job.stop.is_requested(), Ordering::Relaxed);
                tell(job, counter.0.load(Ordering::Relaxed), total);
            });
        });
        let bytes = Counter::default();
        let result = checkout(&mut listing.index, into, objects.clone(), &counter, &bytes, &interrupted, options);
        watching.end();
        result
    });
    if interrupted.load(Ordering::Relaxed) || result.is_err() && job.stop.is_requested() {
        return Err(CheckoutError::Stopped(job.commit.clone()));
    }
    let trouble = objects.trouble(job.repository);
    let outcome = result.map_err(|error| trouble.unwrap_or_else(|| failed(error)))?;
    if let Some(collision) = outcome.collisions.first() {
        return Err(CheckoutError::Collision { path: collision.path.to_string(), folder: into.into() });
    }
    settle_modes(&mut listing.index, into)?;
    tell(job, total, total);
    Ok(())
}

fn failed(error: gix::Error, job: &Job<'_>) -> CheckoutError {
    CheckoutError::of_gix(error, "write out a commit in", job.room).unwrap_or_else(|source| CheckoutError::Write {
        repository: job.repository.into(),
        commit: job.commit.clone(),
        source: Box::new(source),
    })
}

fn tell(job: &Job<'_>, done: usize, total: usize) {
    job.on.progress(Activity::Checkout, job.name, done as u64, Some(total as u64), Unit::Items);
}

fn options() -> Result<Options, gix::Error> {
    let (drivers, kind) = (gix::filter::plumbing::pipeline::Options::default(), gix::hash::Kind::Sha1);
    let pipeline = gix::filter::plumbing::Pipeline::new(gix::command::Context::default(), kind, drivers);
    let mut collection = Default::default();
    let none: [&Path; 0] = [];
    // With git's own macro `binary`, and without any `~/.config/git/attributes`.
    let globals =
        gix::attrs::Search::new_globals(none, &mut Vec::new(), &mut collection).map_err(gix::Error::from_error)?;
    let source = state::attributes::Source::IdMapping;
    Ok(Options {
        validate: VALID_NAMES,
        destination_is_initially_empty: true,
        attributes: state::Attributes::new(globals, None, source, collection),
        ..Options::new(pipeline)
    })
}

/// Modes are git's, whatever the umask: recipes copy files of layers with them.
fn settle_modes(index: &mut State, into: &Path) -> Result<(), CheckoutError> {
    let mut settled = HashSet::from([into.to_path_buf()]);
    for (entry, path) in index.entries_mut_with_paths() {
        let path = into.join(OsStr::from_bytes(path));
        let mut settle = || -> io::Result<()> {
            for above in path.ancestors().skip(1) {
                if !settled.insert(above.into()) {
                    break;
                }
                set_mode(above, 0o755)?;
            }
            let changed = match entry.mode {
                Mode::FILE => set_mode(&path, 0o644)?,
                Mode::FILE_EXECUTABLE => set_mode(&path, 0o755)?,
                _ => false,
            };
            if changed {
                let seen = Metadata::from_path_no_follow(&path)?;
                entry.stat = Stat::from_fs(&seen).map_err(io::Error::other)?;
            }
            Ok(())
        };
        settle().map_err(FileError::new("set the mode of", &path))?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> io::Result<bool> {
    let wrong = fs::symlink_metadata(path)?.permissions().mode() & 0o7777 != mode;
    if wrong {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(wrong)
}

/// Counts for gix.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl gix::Count for Counter {
    fn set(&self, step: usize) {
        self.0.store(step, Ordering::Relaxed);
    }

    fn step(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn inc_by(&self, step: usize) {
        self.0.fetch_add(step, Ordering::Relaxed);
    }

    fn counter(&self) -> StepShared {
        self.0.clone()
    }
}

/// Repeats something beside the work, until that ends.
#[derive(Default)]
struct Watching {
    ended: Mutex<bool>,
    end: Condvar,
}

impl Watching {
    fn every(&self, pause: Duration, act: impl Fn()) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            act();
            ended = self.end.wait_timeout(ended, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
    }
}
