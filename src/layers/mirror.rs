//! Mirrors: one bare repository for each address, shared by all projects. The network is [`super::fetch`]'s.
//!
//! A mirror is made in a temporary folder, and appears by rename after its first fetch. From then on it only grows.
//! Writing needs its lock, held exclusively; reading needs none, since git's own files change by rename.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use gix::{objs::Kind, refs::transaction::PreviousValue};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{access::Access, git_error::GitError, revision};
use crate::{
    model::{CommitId, Event, last_part, without_secrets},
    system::{
        files::{self, FileError},
        lock::{self, FileLock, Mode},
    },
};

/// Refs that record commits whose whole tree is here. They also keep them from `git gc`.
pub(super) const KEPT: &str = "refs/smidr/commits";
/// A file whose modification time is that of the last fetch.
const FETCHED: &str = "smidr-fetched";
const README: &str = "# A mirror of a git repository that smidr keeps, so that several projects share one copy and builds work without a network.\n\
    # Checkouts beside it use its objects. git never collects garbage here (gc.auto=0): commits that the server has thrown away\n\
    # may be in the smidr.lock of a project. `smidr layers prune` removes what nothing uses.\n";

/// A damaged mirror beside the one that has replaced it; a number follows.
pub(super) const DAMAGED: &str = "damaged-";

/// Hex digits of the digest in a mirror's name. With 12, an address that shares the mirror of another is found within hours.
const DIGITS: usize = 32;

/// A small pack can declare an arbitrarily large object. This is what a checkout allows for one file, and half as much for
/// a delta that makes it.
pub(super) const ALLOCATION_BYTES: usize = 1536 << 20;

/// All mirrors of a store.
pub struct Mirrors {
    folder: PathBuf,
    locks: PathBuf,
}

/// A bare repository of the store. It may not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    path: PathBuf,
    url: String,
    lock: PathBuf,
}

/// The folder into which a fetch writes.
pub(super) struct Room {
    /// The mirror itself, or the temporary folder of a new one.
    pub folder: PathBuf,
    target: PathBuf,
    lock: Arc<FileLock>,
}

impl Mirrors {
    /// The mirrors below `store`, usually `SMIDR_HOME/layers`. Creates nothing.
    pub fn new(store: &Path) -> Self {
        Self { folder: store.join("mirrors"), locks: store.join("locks") }
    }

    /// The mirror of an address.
    pub fn mirror(&self, url: &str) -> Mirror {
        let name = name(url);
        Mirror {
            path: self.folder.join(format!("{name}.git")),
            url: without_secrets(url),
            lock: lock::path_in(&self.locks, &format!("mirror-{name}")),
        }
    }

    /// All mirrors, sorted by their paths.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Mirror>, GitError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(FileError::new("read the folder", &self.folder))?,
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let file = entry.file_name();
            let name = file.to_str().and_then(|name| name.strip_suffix(".git")).filter(|name| !name.starts_with('.'));
            let Some(name) = name else { continue };
            let lock = lock::path_in(&self.locks, &format!("mirror-{name}"));
            let path = entry.path();
            let url = url_in(&path).unwrap_or_default();
            found.push(Mirror { path, url, lock });
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Locks a mirror exclusively, for writing.
    pub(super) fn hold(&self, mirror: &Mirror, access: Access<'_>) -> Result<FileLock, GitError> {
        files::make_private_dir(&self.locks)?;
        let waiting = |holder: &str| {
            let resource = format!("the mirror of {}", mirror.url);
            access.on.emit(Event::Waiting { resource, holder: holder.into() });
        };
        Ok(lock::lock(&mirror.lock, Mode::Exclusive, "fetching layers", access.stop, waiting)?)
    }

    /// Prepares a fetch: removes what a killed process has left, and begins a new mirror in a temporary folder.
    pub(super) fn room(&self, mirror: &Mirror, lock: &Arc<FileLock>) -> Result<Room, GitError> {
        let fresh = mirror.beside("new");
        files::remove_tree(&fresh)?;
        let folder = if mirror.is_there() {
            sweep(&mirror.path)?;
            make_own(&mirror.path, &config(&mirror.url))?;
            mirror.path.clone()
        } else {
            files::make_private_dir(&self.folder)?;
            make(&fresh, &config(&mirror.url))?;
            fresh
        };
        Ok(Room { folder, target: mirror.path.clone(), lock: lock.clone() })
    }
}

impl Room {
    /// A temporary folder for a mirror that replaces one that is there.
    pub(super) fn replacement(mirror: &Mirror, lock: &Arc<FileLock>) -> Result<Self, GitError> {
        let fresh = mirror.beside("new");
        files::remove_tree(&fresh)?;
        make(&fresh, &config(&mirror.url))?;
        Ok(Self { folder: fresh, target: mirror.path.clone(), lock: lock.clone() })
    }

    /// The mirror's lock, for a thread that writes into it and may outlive this value.
    pub(super) fn lock(&self) -> Arc<FileLock> {
        self.lock.clone()
    }

    /// Puts a new mirror in its place, where all see it.
    pub(super) fn settle(self) -> Result<(), GitError> {
        self.tidy()?;
        if self.folder != self.target {
            fs::rename(&self.folder, &self.target).map_err(FileError::new("rename to", &self.target))?;
        }
        Ok(())
    }

    /// Moves the folder.
    pub(super) fn move_to(&mut self, folder: &Path) -> Result<(), GitError> {
        fs::rename(&self.folder, folder).map_err(FileError::new("rename to", folder))?;
        self.folder = folder.into();
        Ok(())
    }

    /// Gives packs the modes that git gives them.
    pub(super) fn tidy(&self) -> Result<(), GitError> {
        tidy(&self.folder)
    }

    /// Removes a new mirror whose first fetch has failed.
    pub(super) fn give_up(self) {
        if self.folder != self.target {
            // The next fetch removes it as well.
            let _ = files::remove_tree(&self.folder);
        }
    }
}

impl Mirror {
    /// The bare repository.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it comes from, without a password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether a commit and its whole tree are here.
    ///
    /// # Errors
    ///
    /// When the repository cannot be opened.
    pub fn has(&self, commit: &CommitId) -> Result<bool, GitError> {
        if !self.is_there() {
            return Ok(false);
        }
        Ok(revision::is_whole(&open(&self.path)?, commit))
    }

    /// How many bytes it takes on the disk.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn bytes(&self) -> Result<u64, GitError> {
        let mut bytes = 0;
        for entry in walkdir::WalkDir::new(&self.path).into_iter().flatten() {
            bytes += entry.metadata().map_or(0, |metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
        }
        Ok(bytes)
    }

    /// When it was last fetched into.
    pub fn fetched(&self) -> Option<Timestamp> {
        modified(&self.path.join(FETCHED))
    }

    /// When a ref was last fetched.
    pub(super) fn fetched_ref(&self, name: &str) -> Option<Timestamp> {
        modified(&self.path.join(name)).or_else(|| self.fetched())
    }

    pub(super) fn is_there(&self) -> bool {
        self.path.join("HEAD").is_file()
    }

    /// Whether a commit is recorded as complete. One look at the disk.
    pub(super) fn has_kept(&self, commit: &CommitId) -> bool {
        self.path.join(KEPT).join(commit.to_string()).is_file()
    }

    /// A path beside it that is never taken for a mirror.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.{suffix}"))
    }
}

/// Opens a mirror with its own configuration, without the user's.
pub(super) fn open(path: &Path) -> Result<gix::Repository, GitError> {
    let allocation = format!("gitoxide.objects.allocLimit={ALLOCATION_BYTES}");
    // Without gix's default of a 96 MiB hash table per handle: ten mirrors are read at once.
    let options = gix::open::Options::isolated().with(gix::sec::Trust::Full).open_path_as_is(true).cli_overrides([
        "core.deltaBaseCacheLimit=4m",
        "gitoxide.core.deltaBaseCacheLimit=1m",
        allocation.as_str(),
    ]);
    gix::open_opts(path, options).map_err(|error| GitError::mirror(path, &error))
}

/// Records that a commit is complete. Without write access the check is repeated next time.
pub(super) fn keep(repository: &gix::Repository, commit: &CommitId) {
    let name = format!("{KEPT}/{commit}");
    let _ = repository.reference(name, id(commit), PreviousValue::Any, "smidr");
}

/// Records the time of a fetch of these refs, which is only used in messages.
pub(super) fn note_fetched(folder: &Path, refs: &[String]) {
    let now = std::time::SystemTime::now();
    let _ = fs::write(folder.join(FETCHED), "");
    for name in refs {
        let _ = fs::File::options().append(true).open(folder.join(name)).and_then(|file| file.set_modified(now));
    }
}

/// Whether a folder is what is left of a damaged mirror. smidr never removes it: it may hold the only copy of a commit.
pub(super) fn is_remnant(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kind = name.strip_prefix('.').and_then(|name| Some(name.split_once(".git.")?.1));
    kind.is_some_and(|kind| kind.starts_with(DAMAGED))
}

/// The id of a commit, as gix has it.
pub(super) fn id(commit: &CommitId) -> gix::ObjectId {
    gix::ObjectId::from_bytes_or_panic(commit.as_bytes())
}

/// The commit that an object is or, through tags, leads to.
pub(super) fn commit_id(repository: &gix::Repository, id: gix::ObjectId) -> Option<CommitId> {
    let object = repository.find_object(id).ok()?.peel_tags_to_end().ok()?;
    (object.kind == Kind::Commit).then_some(())?;
    Some(CommitId::from_sha1(object.id.as_slice().try_into().ok()?))
}

fn modified(path: &Path) -> Option<Timestamp> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok().and_then(|time| Timestamp::try_from(time).ok())
}

// The last part of the address, to be recognised, and a digest of all of it.
fn name(url: &str) -> String {
    let url = without_secrets(url);
    let url = url.trim_end_matches('/');
    let safe: String =
        last_part(url).chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect();
    let safe: String = safe.chars().take(40).collect();
    let hash = hex::encode(Sha256::digest(url.as_bytes()));
    format!("{}-{hash:.DIGITS$}", if safe.is_empty() { "repository" } else { &safe })
}

/// What `git init --bare` makes, without its hooks.
pub(super) fn make(folder: &Path, config: &str) -> Result<(), GitError> {
    for part in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        files::make_private_dir(&folder.join(part))?;
    }
    for (name, content) in [("HEAD", "ref: refs/heads/main\n"), ("config", config)] {
        let path = folder.join(name);
        fs::write(&path, content).map_err(FileError::new("write", &path))?;
    }
    Ok(())
}

/// Removes everything from a mirror that the host's git would obey: a store may lie in a project, and come with it.
fn make_own(folder: &Path, config: &str) -> Result<(), GitError> {
    for other in ["hooks", "config.worktree", "commondir", "objects/info/alternates"] {
        files::remove_tree(&folder.join(other))?;
    }
    let path = folder.join("config");
    let is_own = fs::symlink_metadata(&path).is_ok_and(|data| data.is_file())
        && fs::read(&path).is_ok_and(|text| text == config.as_bytes());
    if !is_own {
        files::remove_tree(&path)?;
        fs::write(&path, config).map_err(FileError::new("write", &path))?;
    }
    Ok(())
}

fn config(url: &str) -> String {
    let quoted = url.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "{README}[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\
         [gc]\n\tauto = 0\n\tpruneExpire = never\n[maintenance]\n\tauto = false\n[remote \"origin\"]\n\turl = \"{quoted}\"\n"
    )
}

fn url_in(path: &Path) -> Option<String> {
    let config = gix::config::File::from_path_no_includes(path.join("config"), gix::config::Source::Local).ok()?;
    Some(config.string("remote.origin.url")?.to_string())
}

/// Removes what a killed process has left behind: locks of git, half a pack, a pack without an index. Needs the mirror's lock.
fn sweep(folder: &Path) -> Result<(), GitError> {
    for part in ["", "refs", "objects/pack"] {
        let depth = if part.is_empty() { 1 } else { usize::MAX };
        for entry in walkdir::WalkDir::new(folder.join(part)).max_depth(depth).into_iter().flatten() {
            let path = entry.path();
            if entry.file_type().is_file() && is_left_over(path, part == "objects/pack") {
                fs::remove_file(path).map_err(FileError::new("remove", path))?;
            }
        }
    }
    Ok(())
}

// No ref ends in `.lock` or begins with a dot (git-check-ref-format(1)), but a branch may be called `tmp_x` or `x.keep`.
fn is_left_over(path: &Path, of_pack: bool) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(".lock") || name.starts_with(".tmp") {
        return true;
    }
    of_pack
        && (name.starts_with("tmp_")
            || name.ends_with(".keep")
            || (name.starts_with("pack-") && !path.with_extension("idx").exists())
            || (name.ends_with(".idx") && !path.with_extension("pack").exists()))
}

/// Makes packs 0444, as git does; gix makes them 0600.
pub(super) fn tidy(folder: &Path) -> Result<(), GitError> {
    let packs = folder.join("objects/pack");
    for entry in fs::read_dir(&packs).map_err(FileError::new("read the folder", &packs))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|kind| kind == "keep") {
            fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
        } else if entry.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o777 != 0o444) {
            let readable = fs::Permissions::from_mode(0o444);
            fs::set_permissions(&path, readable).map_err(FileError::new("change the permissions of", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_for_each_address() {
        let known = name("https://git.yoctoproject.org/poky");
        assert!(known.starts_with("poky-") && known.len() == "poky-".len() + DIGITS, "{known}");
        assert_eq!(name("https://git.yoctoproject.org/poky/"), known);
        assert_eq!(name("https://me:secret@git.yoctoproject.org/poky"), known);
        assert_ne!(name("https://git.example.com/poky"), known);
        for (url, start) in [
            ("git@github.com:a/meta-x.git", "meta-x-"),
            ("file:///srv/../..", "__-"),
            ("/", "repository-"),
            ("https://x/é ö", "___-"),
        ] {
            assert!(name(url).starts_with(start), "{}", name(url));
            assert!(name(url).bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'.'), "{}", name(url));
        }
    }

    #[test]
    fn what_a_killed_process_left_goes_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let mirror = folder.path().join("x.git");
        make(&mirror, &config("https://host/\"x\\")).expect("a mirror");
        assert_eq!(url_in(&mirror).as_deref(), Some("https://host/\"x\\"));
        let left = [
            "packed-refs.lock",
            "shallow.lock",
            "refs/heads/a.lock",
            "objects/pack/.tmpAbC",
            "objects/pack/tmp_pack_x",
        ];
        let half = [
            "objects/pack/pack-1.pack",
            "objects/pack/pack-4.rev",
            "objects/pack/pack-3.idx",
            "objects/pack/pack-2.keep",
        ];
        let good = [
            "refs/heads/main",
            "refs/heads/tmp_x",
            "refs/heads/x.keep",
            "refs/heads/x.pack",
            "objects/pack/pack-2.pack",
            "objects/pack/pack-2.idx",
            "packed-refs",
        ];
        for name in left.iter().chain(&half).chain(&good) {
            fs::write(mirror.join(name), "x").expect("a file");
        }
        sweep(&mirror).expect("swept");
        tidy(&mirror).expect("tidied");
        assert_eq!(left.iter().chain(&half).find(|name| mirror.join(name).exists()), None);
        assert_eq!(good.iter().find(|name| !mirror.join(name).exists()), None);
        let mode = fs::metadata(mirror.join("objects/pack/pack-2.pack")).expect("a pack").permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
        open(&mirror).expect("gix opens it");
    }
}
