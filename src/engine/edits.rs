//! What `run` and `shell` change in layers and conf. The git of this machine obeys a repository's configuration, and programs follow links, so
//! new ones go to a quarantine before the user meets them. Runs no git.
//!
//! What was there before is written down outside of the sandbox first: should smidr be killed meanwhile, the next one finishes the work.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use walkdir::{DirEntry, WalkDir};

use super::{Tools, guards, workspace::lock_path};
use crate::{
    host::{
        files::{FileError, make_private_dir},
        lock::{self, Attempt, Mode},
        repository::is_git_folder,
        rooted::{Rooted, open_linkless},
    },
    model::{self, Digest, Paths},
    plan::{OwnRepository, Plan},
};

/// Of a file of conf, in bytes.
const MOST_READ: u64 = 4 << 20;

/// How many of the things that were moved away are named.
const NAMED: usize = 20;

/// Folders below each other, and files, in TOPDIR's conf.
const MOST_DEEP: usize = 8;
const MOST_FILES: usize = 10_000;

/// What is changed of layers and conf, from a beginning on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Edits {
    #[serde(skip)]
    record: PathBuf,
    quarantine: PathBuf,
    /// Held while the sandbox runs.
    lock: PathBuf,
    /// TOPDIR, and the folder of the build that it lies in.
    top: (PathBuf, PathBuf),
    /// Layers, and the repository that each lies in.
    layers: Vec<(PathBuf, PathBuf)>,
    /// Folders in layers that are the build's own, or smidr's.
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

/// Paths, and what is there.
type Seen = BTreeMap<PathBuf, String>;

/// Programs inside choose names that are no text.
mod seen {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::Seen;

    pub fn serialize<S: Serializer>(seen: &Seen, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(seen.iter().map(|(path, what)| (hex::encode(path.as_os_str().as_encoded_bytes()), what)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Seen, D::Error> {
        let list = Vec::<(String, String)>::deserialize(from)?;
        let path = |text: String| Ok(OsString::from_vec(hex::decode(text).map_err(D::Error::custom)?).into());
        list.into_iter().map(|(text, what)| Ok((path(text)?, what))).collect()
    }
}

/// What a finished edit has to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// What was moved away, and where to; a second path where it could not be moved far.
    pub quarantined: Vec<(PathBuf, PathBuf)>,
    /// What should have been moved away and could not be, and why.
    pub left: Vec<(PathBuf, String)>,
    /// Files of TOPDIR that later builds read, and what happened to each.
    pub conf: Vec<(PathBuf, &'static str)>,
    /// Files that decide over later runs, and are others now.
    pub changed: Vec<PathBuf>,
}

/// Notes what is there now.
///
/// # Errors
///
/// When the record cannot be written.
pub fn begin(plan: &Plan, own: &[OwnRepository], paths: &Paths) -> Result<Edits, FileError> {
    let layers: Vec<(PathBuf, PathBuf)> =
        own.iter().flat_map(|own| own.layers.iter().map(|layer| (layer.clone(), own.root.clone()))).collect();
    let top = &plan.folders.top;
    let root = plan.folders.inside(top).map_or_else(|| top.clone(), |(root, _)| root.to_path_buf());
    let skipped: Vec<PathBuf> =
        plan.folders.writable().into_iter().chain([plan.smidr_home.as_path()]).map(Path::to_path_buf).collect();
    let edits = Edits {
        record: record(plan, paths),
        lock: lock_path(&plan.folders.workspace, paths),
        quarantine: paths.home().join("quarantine").join(plan.folders.workspace.file_name().unwrap_or_default()),
        top: (plan.folders.top.clone(), root.clone()),
        missing: plan
            .guarded
            .iter()
            .map(|guarded| guarded.path.clone())
            .filter(|path| fs::symlink_metadata(path).is_err())
            .collect(),
        decisive: decisive(plan, &layers),
        obeyed: layers.iter().flat_map(|(layer, root)| obeyed(layer, root, &skipped)).collect(),
        conf: conf(&root, &plan.folders.top),
        layers,
        skipped,
    };
    make_private_dir(edits.record.parent().unwrap_or(paths.home()))?;
    let text = serde_json::to_vec(&edits).map_err(|error| FileError::new("write", &edits.record)(error.into()))?;
    // Not synchronised: it has to outlive this process, not the machine.
    fs::write(&edits.record, &text).map_err(FileError::new("write", &edits.record))?;
    Ok(edits)
}

/// Finishes what smidrs have begun that were killed meanwhile, of whatever project and variant: they may share layers. Those that still run are left alone.
///
/// # Errors
///
/// When the file system refuses.
pub fn finish_interrupted(tools: Tools<'_>) -> Result<(), FileError> {
    let folder = tools.paths.tmp().join("edits");
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let record = entry.path();
        let Ok(edits) = fs::read(&record).map(|text| serde_json::from_slice::<Edits>(&text)) else { continue };
        let Ok(edits) = edits else {
            fs::remove_file(&record).map_err(FileError::new("remove", &record))?;
            continue;
        };
        let Attempt::Held(_lock) = lock::try_lock(&edits.lock, Mode::Exclusive, "what was interrupted")? else {
            continue;
        };
        // The one that held the lock may have finished it.
        if record.exists() {
            Edits { record, ..edits }.finish()?.lines().into_iter().for_each(|line| tools.on.warn(line));
        }
    }
    Ok(())
}

fn record(plan: &Plan, paths: &Paths) -> PathBuf {
    let name = plan.folders.workspace.file_name().unwrap_or_default();
    paths.tmp().join("edits").join(format!("{}.json", name.display()))
}

impl Edits {
    /// Compares with what is there now, and moves what is new and would be obeyed to the quarantine.
    ///
    /// # Errors
    ///
    /// When something can neither be moved nor closed.
    pub fn finish(self) -> Result<Edited, FileError> {
        let mut edited = Edited::default();
        let new_files = self.missing.iter().filter(|path| self.layers.iter().any(|(layer, _)| path.starts_with(layer)));
        let mut new: Vec<PathBuf> = new_files.filter(|path| fs::symlink_metadata(path).is_ok()).cloned().collect();
        for (layer, root) in &self.layers {
            let now = obeyed(layer, root, &self.skipped);
            new.extend(
                now.into_iter().filter(|(path, what)| self.obeyed.get(path) != Some(what)).map(|(path, _)| path),
            );
        }
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
        let now = conf(&self.top.1, &self.top.0);
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
        if fs::symlink_metadata(path).is_ok_and(|data| data.is_dir()) {
            // A folder that its owner cannot write to is not moved either (rename(2)).
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        }
        let mut moved = rustix::fs::rename(path, &to);
        if moved == Err(Errno::ACCESS)
            && let Some(folder) = path.parent()
        {
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
            moved = rustix::fs::rename(path, &to);
        }
        match moved {
            Ok(()) => Ok(to),
            // On another file system, or for another reason not to be moved: closed where it is, so that no program enters it.
            Err(_) => {
                let close = || -> std::io::Result<PathBuf> {
                    if fs::symlink_metadata(path)?.is_symlink() {
                        fs::remove_file(path)?;
                        return Ok(from.clone());
                    }
                    fs::set_permissions(path, fs::Permissions::from_mode(0o000))?;
                    let closed =
                        path.with_file_name(format!("quarantined-{}", to.file_name().unwrap_or_default().display()));
                    fs::rename(path, &closed)?;
                    Ok(closed)
                };
                close().map_err(FileError::new("close", path))
            }
        }
    }
}

impl Edited {
    /// A sentence for each thing that the user should know.
    pub fn lines(&self) -> Vec<String> {
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

fn decisive(plan: &Plan, layers: &[(PathBuf, PathBuf)]) -> Seen {
    let inside = |path: &&PathBuf| layers.iter().any(|(layer, _)| path.starts_with(layer));
    let paths = plan.guarded.iter().map(|guarded| &guarded.path).filter(inside);
    paths.filter_map(|path| Some((path.clone(), digest(path)?))).collect()
}

fn digest(path: &Path) -> Option<String> {
    let file = open_linkless(path).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_READ).read_to_end(&mut bytes).ok()?;
    Some(Digest::from_sha256(Sha256::digest(&bytes).into()).to_string())
}

/// What the git of this machine would obey below a layer (`.git`, and `HEAD` of what has the shape of a bare repository), links that lead
/// out of the repository, and folders that cannot be looked into; each with what it is.
fn obeyed(layer: &Path, root: &Path, skipped: &[PathBuf]) -> Seen {
    let mut found = BTreeMap::new();
    let mut walk = WalkDir::new(layer).into_iter();
    while let Some(entry) = walk.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let closed = error.path().filter(|path| *path != layer);
                found.extend(closed.map(|path| (path.to_path_buf(), "a closed folder".into())));
                continue;
            }
        };
        if skipped.iter().any(|skipped| skipped == entry.path()) {
            walk.skip_current_dir();
            continue;
        }
        if entry.file_type().is_dir() && fs::symlink_metadata(entry.path().join(".")).is_err() {
            found.insert(entry.into_path(), "a closed folder".into());
            walk.skip_current_dir();
            continue;
        }
        if is_bare(&entry) {
            // Without it, git sees no repository there. The folder may have been the user's.
            found.insert(entry.path().join("HEAD"), told(entry.path()));
            continue;
        }
        let Some(what) = what_obeys(&entry, root) else { continue };
        if entry.file_type().is_dir() {
            walk.skip_current_dir();
        }
        found.insert(entry.into_path(), what);
    }
    found
}

fn what_obeys(entry: &DirEntry, root: &Path) -> Option<String> {
    if entry.file_type().is_symlink() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let leads_out = leads_out(entry.path(), &target, root);
        return (leads_out || is_git(entry)).then(|| format!("link {}", target.display()));
    }
    if is_git(entry) && entry.depth() > 0 {
        return Some(if entry.file_type().is_dir() {
            "folder".into()
        } else {
            digest(entry.path()).unwrap_or_default()
        });
    }
    None
}

fn is_bare(entry: &DirEntry) -> bool {
    !is_git(entry) && entry.file_type().is_dir() && is_git_folder(entry.path())
}

/// What a repository tells git, as a digest: another configuration is as new as another repository.
fn told(folder: &Path) -> String {
    let files = ["HEAD", "commondir", "config", "config.worktree"];
    files.iter().map(|name| digest(&folder.join(name)).unwrap_or_else(|| "none".into())).collect::<Vec<_>>().join(" ")
}

// git takes other spellings for its own where a file system may fold case; here it does not, but the user may copy the tree.
fn is_git(entry: &DirEntry) -> bool {
    entry.file_name().eq_ignore_ascii_case(guards::GIT)
}

fn leads_out(link: &Path, target: &Path, root: &Path) -> bool {
    if target.is_absolute() {
        return !target.starts_with(root) || target.components().any(|part| part == Component::ParentDir);
    }
    link.strip_prefix(root).map_or(true, |link| model::leads_out(link, target))
}
/// The files in TOPDIR that every build reads, with their digests. `root` is the folder that programs inside may write to: no link in it
/// is followed.
fn conf(root: &Path, top: &Path) -> Seen {
    let mut found = BTreeMap::new();
    if let (Ok(rooted), Ok(inside)) = (Rooted::open(root), top.strip_prefix(root)) {
        guards::DECISIVE.iter().for_each(|name| note(&rooted, root, &inside.join(name), MOST_DEEP, &mut found));
    }
    // What smidr writes before each build says nothing.
    ["local.conf", "bblayers.conf"].iter().for_each(|name| drop(found.remove(&top.join("conf").join(name))));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_out() {
        let root = Path::new("/p/repo");
        for (target, out) in [
            ("x", false),
            ("../other/x", false),
            ("../x/y", false),
            ("/p/repo/x", false),
            ("../../x", true),
            ("/etc/passwd", true),
            ("../../repo/x", true),
            ("x/../y", true),
            ("/p/repo/../x", true),
            ("/p/repository/x", true),
        ] {
            assert_eq!(leads_out(Path::new("/p/repo/layer/link"), Path::new(target), root), out, "{target}");
        }
    }
}
