//! What a start changes where it matters outside: in layers and conf by `run` and `shell`, in binds and the build's folders by builds too. The git of this machine obeys a repository's configuration, and programs follow links, so
//! new ones go to a quarantine before the user meets them. Runs no git.
//!
//! What was there before is written down outside of the sandbox first: should smidr be killed meanwhile, the next one finishes the work.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, renameat, renameat_with, unlinkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Tools, guards,
    obeyed::{self, Area, Seen, digest, seen},
    prepare::Use,
    session::Session,
    workspace::lock_path,
};
use crate::{
    events::Emitter,
    model::{Digest, Paths},
    plan::{OwnRepository, PlacedInput, Plan},
    system::{
        files::{FileError, make_private_dir},
        lock::{self, Attempt},
        rooted::Rooted,
    },
};

/// Of a file of conf, in bytes.
const MOST_READ: u64 = 4 << 20;

/// How many of the things that were moved away are named.
const NAMED: usize = 20;

/// Names that are tried for what cannot be moved: programs inside may have taken some.
const TRIES: u32 = 1000;

/// Folders below each other, and files, in TOPDIR's conf.
const MOST_DEEP: usize = 8;
const MOST_FILES: usize = 10_000;

/// What is changed of layers and conf, from a beginning on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Edits {
    #[serde(skip)]
    record: PathBuf,
    quarantine: PathBuf,
    /// Held while the sandbox runs.
    lock: PathBuf,
    /// TOPDIR, and the folder of the build that it lies in.
    top: (PathBuf, PathBuf),
    what: Use,
    /// Layers that may be changed.
    layers: Vec<PathBuf>,
    /// Where new things would be obeyed.
    areas: Vec<Area>,
    /// Folders in these that are the build's own, or smidr's.
    skipped: Vec<PathBuf>,
    /// Paths that decide over later runs and did not exist.
    missing: Vec<PathBuf>,
    /// Files in layers that decide over later runs, with their digests. A mount guards each, until this machine puts another file in its place.
    #[serde(with = "seen")]
    decisive: Seen,
    /// What this machine would obey or follow, and what it was.
    #[serde(with = "seen")]
    obeyed: Seen,
    /// Conf and recipes of devtool in TOPDIR, with their digests.
    #[serde(with = "seen")]
    conf: Seen,
}

/// What a finished edit has to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Edited {
    /// What was moved away, and where to; a second path where it could not be moved far.
    pub quarantined: Vec<(PathBuf, PathBuf)>,
    /// What should have been moved away and could not be, and why.
    pub left: Vec<(PathBuf, String)>,
    /// Files of TOPDIR that later builds read, and what happened to each.
    pub conf: Vec<(PathBuf, &'static str)>,
    /// Files that decide over later runs, and are others now.
    pub changed: Vec<PathBuf>,
}

/// Looks at what is there now.
pub(super) fn begin(
    plan: &Plan,
    own: &[OwnRepository],
    inputs: &[PlacedInput],
    what: Use,
    session: Option<&Session>,
    paths: &Paths,
) -> Edits {
    let edited = own.iter().filter(|_| what == Use::Edit);
    let layers: Vec<PathBuf> = edited.flat_map(|own| own.layers.iter().cloned()).collect();
    let areas = obeyed::areas(plan, own, inputs, what);
    let top = &plan.folders.top;
    let root = plan.folders.inside(top).map_or_else(|| top.clone(), |(root, _)| root.to_path_buf());
    let skipped: Vec<PathBuf> =
        plan.folders.writable().into_iter().chain([plan.smidr_home.as_path()]).map(Path::to_path_buf).collect();
    Edits {
        record: session.map_or_else(|| record(plan, paths), Session::record),
        what,
        lock: session.map_or_else(|| lock_path(&plan.folders.workspace, paths), |session| session.lock().into()),
        quarantine: paths.quarantine().join(plan.folders.workspace.file_name().unwrap_or_default()),
        top: (plan.folders.top.clone(), root.clone()),
        missing: plan
            .guarded
            .iter()
            .map(|guarded| guarded.path.clone())
            .filter(|path| fs::symlink_metadata(path).is_err())
            .collect(),
        decisive: decisive(plan, &layers),
        obeyed: obeyed::look(&areas, &skipped),
        conf: if what == Use::Edit { conf(&root, &plan.folders.top) } else { Seen::new() },
        layers,
        areas,
        skipped,
    }
}

/// Finishes what smidrs have begun that were killed meanwhile, of whatever project and variant: they may share layers. Those that still run are left alone.
///
/// # Errors
///
/// When the file system refuses.
pub(super) fn finish_interrupted(tools: Tools<'_>) -> Result<(), FileError> {
    let folder = tools.paths.tmp().join("edits");
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let record = entry.path();
        let Some(edits) = read(&record)? else { continue };
        if let Attempt::Held(_lock) = lock::try_lock(&edits.lock, lock::Mode::Exclusive, "what was interrupted")? {
            finish_left(&record, tools.on)?;
        }
    }
    Ok(())
}

/// Finishes what a record tells, unless that was done meanwhile. The lock that it names is held.
///
/// # Errors
///
/// When the file system refuses.
pub(super) fn finish_left(record: &Path, on: &Emitter) -> Result<(), FileError> {
    if let Some(edits) = read(record)? {
        edits.finish()?.lines().into_iter().for_each(|line| on.warn(line));
    }
    Ok(())
}

/// A record; one that is only half there goes.
fn read(record: &Path) -> Result<Option<Edits>, FileError> {
    let Ok(text) = fs::read(record) else { return Ok(None) };
    match serde_json::from_slice::<Edits>(&text) {
        Ok(edits) => Ok(Some(Edits { record: record.into(), ..edits })),
        Err(_) => fs::remove_file(record).map_err(FileError::new("remove", record)).map(|()| None),
    }
}

fn record(plan: &Plan, paths: &Paths) -> PathBuf {
    let name = plan.folders.workspace.file_name().unwrap_or_default();
    paths.tmp().join("edits").join(format!("{}.json", name.display()))
}

impl Edits {
    /// Writes it down, should smidr be killed while the sandbox runs.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn keep(&self) -> Result<(), FileError> {
        self.record.parent().map_or(Ok(()), make_private_dir)?;
        let failed = FileError::new("write", &self.record);
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        // Not synchronised: it has to outlive this process, not the machine.
        fs::write(&self.record, &text).map_err(FileError::new("write", &self.record))
    }

    /// What runs in the sandbox.
    pub(crate) fn what(&self) -> Use {
        self.what
    }

    /// What git obeys where the sandbox could write.
    pub(crate) fn repositories(&self) -> impl Iterator<Item = &Path> {
        obeyed::repositories(&self.obeyed, &self.areas)
    }

    /// Compares with what is there now, and moves what is new and would be obeyed to the quarantine.
    ///
    /// # Errors
    ///
    /// When something can neither be moved nor closed.
    pub(crate) fn finish(self) -> Result<Edited, FileError> {
        let mut edited = Edited::default();
        let new_files = self.missing.iter().filter(|path| self.layers.iter().any(|layer| path.starts_with(layer)));
        let mut new: Vec<PathBuf> = new_files.filter(|path| fs::symlink_metadata(path).is_ok()).cloned().collect();
        let now = obeyed::look(&self.areas, &self.skipped);
        new.extend(now.into_iter().filter(|(path, what)| self.obeyed.get(path) != Some(what)).map(|(path, _)| path));
        new.sort();
        new.dedup_by(|inner, outer| inner.starts_with(outer));
        for path in new {
            // One that cannot be moved must not save the others.
            match self.quarantine(&path) {
                Ok(to) => edited.quarantined.push((path, to)),
                Err(error) => edited.left.push((path, error.to_string())),
            }
        }
        let is_other = |(path, before): &(&PathBuf, &String)| digest(path).as_ref() != Some(*before);
        edited.changed = self.decisive.iter().filter(is_other).map(|(path, _)| path.clone()).collect();
        let now = if self.what == Use::Edit { conf(&self.top.1, &self.top.0) } else { Seen::new() };
        for (path, digest) in &now {
            match self.conf.get(path) {
                Some(before) if before == digest => {}
                Some(_) => edited.conf.push((path.clone(), "changed")),
                None => edited.conf.push((path.clone(), "new")),
            }
        }
        edited.conf.extend(self.conf.keys().filter(|path| !now.contains_key(*path)).map(|path| (path.clone(), "gone")));
        fs::remove_file(&self.record).map_err(FileError::new("remove", &self.record))?;
        Ok(edited)
    }

    fn quarantine(&self, path: &Path) -> Result<PathBuf, FileError> {
        make_private_dir(&self.quarantine)?;
        // A short name of its own: the path may be as long as a path can be.
        let free = |number: &u32| self.quarantine.join(number.to_string());
        let to = (1..).map(|number| free(&number)).find(|to| fs::symlink_metadata(to).is_err()).unwrap_or_default();
        let from = to.with_extension("path");
        fs::write(&from, path.as_os_str().as_encoded_bytes()).map_err(FileError::new("write", &from))?;
        self.take_away(path, &to).map_err(FileError::new("move away", path))
    }

    /// By descriptor, and over no link: what lies in a bind can change at any time.
    fn take_away(&self, path: &Path, to: &Path) -> io::Result<PathBuf> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL.into()) };
        let root = Rooted::open(Path::new("/")).map_err(io::Error::other)?;
        let folder = root.open_plain(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
        let is_link = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) == FileType::Symlink;
        // A folder that its owner cannot write to is not moved either (rename(2)).
        disarm(&found);
        let quarantine =
            rustix::fs::open(&self.quarantine, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let move_it = || renameat(&folder, name, &quarantine, to.file_name().unwrap_or_default());
        let mut moved = move_it();
        if moved == Err(Errno::ACCESS) {
            let _ = change_mode(&folder, 0o755);
            moved = move_it();
        }
        if moved.is_err() && is_link {
            unlinkat(&folder, name, AtFlags::empty())?;
        }
        if is_link {
            return Ok(to.to_path_buf());
        }
        // On another file system, or for another reason not to be moved: closed where it is, so that no program enters it.
        let mut place = to.to_path_buf();
        if moved.is_err() {
            let number = to.file_name().unwrap_or_default().display();
            let names = (0..TRIES).map(|attempt| format!("quarantined-{number}-{attempt}"));
            let free = |closed: &String| renameat_with(&folder, name, &folder, closed, RenameFlags::NOREPLACE).is_ok();
            place =
                names.into_iter().find(free).map_or_else(|| path.to_path_buf(), |closed| path.with_file_name(closed));
        }
        change_mode(&found, 0o000)?;
        Ok(place)
    }
}

/// Without `HEAD` git sees no repository in a folder (setup.c), not even as root.
fn disarm(folder: &OwnedFd) {
    let _ = change_mode(folder, 0o700);
    if renameat_with(folder, "HEAD", folder, "HEAD-quarantined", RenameFlags::NOREPLACE).is_err() {
        let _ = unlinkat(folder, "HEAD", AtFlags::empty());
    }
}

/// Of what an O_PATH descriptor is for, but not of links.
fn change_mode(fd: &OwnedFd, mode: u32) -> rustix::io::Result<()> {
    match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::Symlink => Ok(()),
        _ => rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode)),
    }
}

impl Edited {
    /// A sentence for each thing that the user should know.
    pub(crate) fn lines(&self) -> Vec<String> {
        let left = self.left.iter().map(|(path, why)| {
            format!(
                "{} is new and could not be moved away ({why}): use no git and follow no link there",
                path.display()
            )
        });
        let moved = self.quarantined.iter().take(NAMED).map(|(path, to)| {
            format!(
                "{} is new; programs of this machine would obey or follow it, so it was moved to {}",
                path.display(),
                to.display()
            )
        });
        let devtool = self.conf.iter().find_map(|(path, _)| path.ancestors().find(|path| path.ends_with("workspace")));
        let devtool = devtool.map(|workspace| {
            let sources = workspace.join("sources");
            format!(
                "{} belongs to the build, its .git too: use git there by  smidr run -- git -C {} …",
                sources.display(),
                sources.display()
            )
        });
        let conf = self.conf.iter().map(|(path, what)| format!("{} is {what}; later builds read it", path.display()));
        let changed = self.changed.iter().map(|path| {
            format!("{} is another file now, and was writable inside from that moment on: look at it", path.display())
        });
        let more = self.quarantined.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("{more} further things were moved there"));
        left.chain(moved).chain(more).chain(changed).chain(conf).chain(devtool).collect()
    }
}

fn decisive(plan: &Plan, layers: &[PathBuf]) -> Seen {
    let inside = |path: &&PathBuf| layers.iter().any(|layer| path.starts_with(layer));
    let paths = plan.guarded.iter().map(|guarded| &guarded.path).filter(inside);
    paths.filter_map(|path| Some((path.clone(), digest(path)?))).collect()
}

/// The files in TOPDIR that every build reads, with their digests. `root` is the folder that programs inside may write to: no link in it
/// is followed.
fn conf(root: &Path, top: &Path) -> Seen {
    let mut found = BTreeMap::new();
    if let (Ok(rooted), Ok(inside)) = (Rooted::open(root), top.strip_prefix(root)) {
        guards::DECISIVE.iter().for_each(|name| note(&rooted, root, &inside.join(name), MOST_DEEP, &mut found));
    }
    // What smidr writes before each build says nothing, and what sourcing oe-init-build-env leaves is read by that script alone.
    let silent = ["local.conf", "bblayers.conf", "templateconf.cfg", "conf-notes.txt", "conf-summary.txt"];
    silent.iter().for_each(|name| drop(found.remove(&top.join("conf").join(name))));
    found
}

fn note(rooted: &Rooted, root: &Path, path: &Path, deep: usize, found: &mut Seen) {
    for name in rooted.names(path).unwrap_or_default() {
        let path = path.join(name);
        if rooted.open_plain(&path, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            if deep > 0 {
                note(rooted, root, &path, deep - 1, found);
            }
            continue;
        }
        let mut bytes = Vec::new();
        let file = rooted.open_plain(&path, OFlags::RDONLY | OFlags::NONBLOCK).map(File::from);
        let what = match file.map(|file| file.take(MOST_READ).read_to_end(&mut bytes)) {
            Ok(Ok(_)) => Digest::from_sha256(Sha256::digest(&bytes).into()).to_string(),
            _ => "no file".into(),
        };
        if found.len() < MOST_FILES {
            found.insert(root.join(path), what);
        }
    }
}
