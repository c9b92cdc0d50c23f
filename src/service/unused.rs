//! Downloads and sstate objects that no build has used for long go. What has been used when is told by the times of an object and of what BitBake
//! keeps beside it, which it touches at each use; never by when a file was read.
//!
//! Works only on caches that no build uses, holding them alone. Knows files by BitBake's names for them, and touches nothing else.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    engine::owner::{DomainCaches, domains},
    model::Paths,
    system::{
        files::{FileError, remove_tree},
        lock::{self, Attempt, FileLock, Mode},
        space::measure,
    },
};

/// What BitBake keeps beside an object: when it was used, that it is complete, its signature, a lock while it is used.
const BESIDE: [&str; 4] = [".done", ".siginfo", ".sig", ".lock"];

/// How names of sstate objects begin (sstate.bbclass).
const OBJECT: &[u8] = b"sstate:";

/// Where BitBake's git fetcher keeps its clones, in the downloads.
const CLONES: &str = "git2";

/// How names of clones begin that are being removed: half of one would fail a build.
const GOING: &str = ".smidr-gone-";

/// The size of a block of `st_blocks` (stat(2)), in bytes.
const BLOCK: u64 = 512;

/// What may go. At least one of the two, or nothing does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    /// What was not used for longer.
    pub older_than: Option<Duration>,
    /// What was used longest ago, until downloads and sstate of all domains together take no more than so many bytes.
    pub keep_size: Option<u64>,
    /// Whether downloads may go.
    pub downloads: bool,
    /// Whether sstate may go.
    pub sstate: bool,
    /// Say what would go, and keep it.
    pub dry_run: bool,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A file, or a clone of a repository.
    Download,
    /// What a task left for later builds.
    Sstate,
}

/// Something in a cache, with what belongs to it.
#[derive(Debug)]
pub(crate) struct Unused {
    /// What it is.
    pub what: What,
    /// Where it is.
    pub path: PathBuf,
    /// The cache that it is in.
    pub cache: Arc<Path>,
    /// What its removal frees.
    pub bytes: u64,
    /// When a build last used it.
    pub used: Timestamp,
    /// The names of all that belongs to it.
    parts: Vec<OsString>,
}

/// What was removed, or would be.
#[derive(Debug, Default)]
pub(crate) struct Cleaned {
    /// Those that were not used for longest first.
    pub gone: Vec<Unused>,
    /// Folders of caches that are in use, and the holder of each lock.
    pub busy: Vec<(PathBuf, String)>,
}

/// Removes what the policy says from the caches of all domains that no build uses.
///
/// # Errors
///
/// When a cache cannot be read, or something cannot be removed.
pub(crate) fn clean(paths: &Paths, policy: Policy, now: Timestamp) -> Result<Cleaned, FileError> {
    let mut cleaned = Cleaned::default();
    let mut found = Vec::new();
    let mut held = Vec::new();
    let mut taken: u64 = 0;
    for domain in domains(paths) {
        let units = units(&domain, policy)?;
        taken = units.iter().fold(taken, |sum, unit| sum.saturating_add(unit.bytes));
        match hold(&domain, policy.dry_run)? {
            Ok(lock) => {
                held.extend(lock);
                // Again: what was used before the caches were held is not seen as unused.
                found.extend(if policy.dry_run { units } else { self::units(&domain, policy)? });
            }
            Err(holder) if !units.is_empty() => cleaned.busy.push((domain.downloads, holder)),
            Err(_) => {}
        }
    }
    for unit in chosen(found, taken, policy, now) {
        if !policy.dry_run {
            unit.remove()?;
        }
        cleaned.gone.push(unit);
    }
    Ok(cleaned)
}

/// Takes the lock of a domain's caches alone, or gives its holder.
fn hold(domain: &DomainCaches, dry_run: bool) -> Result<Result<Option<FileLock>, String>, FileError> {
    if dry_run {
        return Ok(lock::holder(&domain.lock)?.map_or(Ok(None), Err));
    }
    Ok(match lock::try_lock(&domain.lock, Mode::Exclusive, "smidr clean")? {
        Attempt::Held(lock) => Ok(Some(lock)),
        Attempt::Busy(holder) => Err(holder),
    })
}

fn chosen(mut units: Vec<Unused>, mut taken: u64, policy: Policy, now: Timestamp) -> Vec<Unused> {
    units.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
    units.retain(|unit| {
        let age = Duration::try_from(now.duration_since(unit.used));
        let is_old = policy.older_than.is_some_and(|limit| age.is_ok_and(|age| age > limit));
        let goes = is_old || policy.keep_size.is_some_and(|keep| taken > keep);
        taken = taken.saturating_sub(if goes { unit.bytes } else { 0 });
        goes
    });
    units
}

fn units(domain: &DomainCaches, policy: Policy) -> Result<Vec<Unused>, FileError> {
    let mut units = Vec::new();
    if policy.downloads {
        let cache: Arc<Path> = domain.downloads.as_path().into();
        let is_download = |kind: &Metadata| !kind.is_dir();
        units.extend(group(&domain.downloads, What::Download, &cache, |_, found| is_download(found))?);
        let clones = domain.downloads.join(CLONES);
        // Builds write there: what a link leads to is not theirs.
        if fs::symlink_metadata(&clones).is_ok_and(|found| found.is_dir()) {
            units.extend(group(&clones, What::Download, &cache, |_, _| true)?);
        }
    }
    if policy.sstate {
        let cache: Arc<Path> = domain.sstate.as_path().into();
        let mut folders = vec![domain.sstate.clone()];
        while let Some(folder) = folders.pop() {
            let is_object = |name: &OsStr, found: &Metadata| {
                if found.is_dir() {
                    folders.push(folder.join(name));
                }
                !found.is_dir() && name.as_bytes().starts_with(OBJECT)
            };
            units.extend(group(&folder.clone(), What::Sstate, &cache, is_object)?);
        }
    }
    Ok(units)
}

/// The objects in a folder, each with what belongs to it.
fn group(
    folder: &Path,
    what: What,
    cache: &Arc<Path>,
    mut wanted: impl FnMut(&OsStr, &Metadata) -> bool,
) -> Result<Vec<Unused>, FileError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(FileError::new("read the folder", folder))?,
    };
    let mut units: HashMap<OsString, Unused> = HashMap::new();
    for entry in entries {
        let entry = entry.map_err(FileError::new("read the folder", folder))?;
        let name = entry.file_name();
        // Gone meanwhile.
        let Ok(found) = entry.metadata() else { continue };
        if !wanted(&name, &found) {
            continue;
        }
        let object = object_of(&name);
        let unit = units.entry(object.into()).or_insert_with(|| Unused {
            what,
            path: folder.join(object),
            cache: cache.clone(),
            bytes: 0,
            used: Timestamp::UNIX_EPOCH,
            parts: Vec::new(),
        });
        let used = Timestamp::from_second(found.mtime()).unwrap_or(Timestamp::UNIX_EPOCH);
        unit.used = if is_going(&name) { unit.used } else { unit.used.max(used) };
        unit.bytes = unit.bytes.saturating_add(freed(&entry.path(), &found));
        unit.parts.push(name);
    }
    Ok(units.into_values().collect())
}

/// The name of the object that a name belongs to.
fn object_of(name: &OsStr) -> &OsStr {
    let ends = BESIDE.iter().find_map(|end| name.as_bytes().strip_suffix(end.as_bytes()));
    ends.filter(|object| !object.is_empty()).map_or(name, OsStr::from_bytes)
}

fn freed(path: &Path, found: &Metadata) -> u64 {
    match found.is_dir() {
        true => measure(&[path]).folders.iter().fold(0, |sum, space| sum.saturating_add(space.bytes)),
        // Another name keeps it.
        false if found.nlink() > 1 => 0,
        false => found.blocks().saturating_mul(BLOCK),
    }
}

impl Unused {
    /// Removes it. After a kill, what is left is no object that a build would take: a download without its `.done` is checked anew, and what
    /// belonged to an sstate object that is gone is nothing by itself.
    fn remove(&self) -> Result<(), FileError> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let order = |name: &OsString| match (name.as_bytes().ends_with(b".done"), folder.join(name) == self.path) {
            (true, _) => 0,
            (_, true) => 1,
            _ => 2,
        };
        let mut parts: Vec<&OsString> = self.parts.iter().collect();
        parts.sort_by_key(|name| order(name));
        for name in parts {
            let path = folder.join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() && !is_going(name) => {
                    let going = folder.join(format!("{GOING}{}", found.ino()));
                    fs::rename(&path, &going).map_err(FileError::new("remove", &path))?;
                    remove_tree(&going)?;
                }
                _ => remove_tree(&path)?,
            }
        }
        Ok(())
    }
}

fn is_going(name: &OsStr) -> bool {
    name.as_bytes().starts_with(GOING.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::symlink, time::SystemTime};

    use super::*;
    use crate::system::paths;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    struct Yard {
        paths: Paths,
        _folder: tempfile::TempDir,
    }

    impl Yard {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let paths = Paths::new(folder.path().join("home"));
            paths::open(&paths).expect("a SMIDR_HOME");
            Self { paths, _folder: folder }
        }

        /// A file, last changed so many days ago; a folder, where the name ends in a slash.
        fn put(&self, name: &str, days: u32) {
            let path = self.paths.home().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            if name.ends_with('/') {
                fs::create_dir_all(path.join("objects")).expect("a clone");
            } else {
                fs::write(&path, vec![1; 4096]).expect("a file");
            }
            File::open(&path).and_then(|file| file.set_modified(SystemTime::now() - days * DAY)).expect("a time");
        }

        fn left(&self) -> Vec<String> {
            let files = walkdir::WalkDir::new(self.paths.home()).min_depth(2).sort_by_file_name().into_iter().flatten();
            let name = |path: &Path| path.strip_prefix(self.paths.home()).expect("inside").display().to_string();
            let is_cache =
                |name: &String| ["downloads", "sstate-cache", "domains"].iter().any(|start| name.starts_with(start));
            files.filter(|entry| !entry.file_type().is_dir()).map(|entry| name(entry.path())).filter(is_cache).collect()
        }
    }

    fn all() -> Policy {
        Policy { downloads: true, sstate: true, ..Policy::default() }
    }

    const FILES: [(&str, u32); 14] = [
        ("downloads/a.tar.gz", 90),
        // It was used.
        ("downloads/a.tar.gz.done", 1),
        ("downloads/b.tar.gz", 90),
        ("downloads/b.tar.gz.done", 40),
        ("downloads/b.tar.gz.lock", 90),
        ("downloads/uninative/x/uninative.tar.xz", 90),
        ("sstate-cache/hashserv.db", 90),
        ("sstate-cache/universal/ab/cd/sstate:x:1.tar.zst", 50),
        ("sstate-cache/universal/ab/cd/sstate:x:1.tar.zst.siginfo", 50),
        ("sstate-cache/universal/ab/cd/sstate:y:1.tar.zst", 90),
        ("sstate-cache/universal/ab/cd/sstate:y:1.tar.zst.siginfo", 2),
        ("sstate-cache/universal/ab/cd/notes", 90),
        ("domains/team/downloads/c.zip", 90),
        ("domains/team/sstate/00/sstate:z:1.tar.zst.sig", 90),
    ];

    #[test]
    fn what_was_not_used_goes() {
        let yard = Yard::new();
        FILES.iter().for_each(|(name, days)| yard.put(name, *days));
        yard.put("downloads/git2/old.git/HEAD", 90);
        yard.put("downloads/git2/old.git.done", 90);
        yard.put("downloads/git2/used.git/HEAD", 90);
        yard.put("downloads/git2/used.git.done", 3);
        yard.put("downloads/git2/old.git/", 90);
        yard.put("downloads/git2/used.git/", 90);
        // What a killed one has left.
        yard.put("downloads/git2/.smidr-gone-12/HEAD", 0);
        let policy = Policy { older_than: Some(30 * DAY), ..all() };
        let before = yard.left();
        let would = clean(&yard.paths, Policy { dry_run: true, ..policy }, Timestamp::now()).expect("looked");
        assert_eq!(yard.left(), before);
        let gone = clean(&yard.paths, policy, Timestamp::now()).expect("cleaned");
        let told = |cleaned: &Cleaned| cleaned.gone.iter().map(|one| (one.path.clone(), one.bytes)).collect::<Vec<_>>();
        assert_eq!(told(&would), told(&gone));
        let bytes_of = |name: &str| gone.gone.iter().find(|one| one.path.ends_with(name)).map(|one| one.bytes);
        assert_eq!(bytes_of("b.tar.gz"), Some(3 * 4096));
        assert_eq!(
            yard.left(),
            [
                "downloads/a.tar.gz",
                "downloads/a.tar.gz.done",
                "downloads/git2/used.git/HEAD",
                "downloads/git2/used.git.done",
                "downloads/uninative/x/uninative.tar.xz",
                "sstate-cache/hashserv.db",
                "sstate-cache/universal/ab/cd/notes",
                "sstate-cache/universal/ab/cd/sstate:y:1.tar.zst",
                "sstate-cache/universal/ab/cd/sstate:y:1.tar.zst.siginfo",
            ]
        );
        assert!(clean(&yard.paths, policy, Timestamp::now()).expect("cleaned").gone.is_empty());
    }

    #[test]
    fn the_least_used_goes_until_the_rest_fits() {
        let yard = Yard::new();
        for (name, days) in
            [("downloads/a", 3), ("downloads/b", 9), ("sstate-cache/sstate:c", 5), ("sstate-cache/sstate:d", 1)]
        {
            yard.put(name, days);
        }
        for (keep, left) in [(4 * 4096, 4), (4 * 4096 - 1, 3), (8192, 2), (8191, 1), (0, 0)] {
            clean(&yard.paths, Policy { keep_size: Some(keep), ..all() }, Timestamp::now()).expect("cleaned");
            assert_eq!(yard.left().len(), left, "{keep}: {:?}", yard.left());
        }
        assert!(yard.left().is_empty());
    }

    #[test]
    fn what_a_build_holds_stays() {
        let yard = Yard::new();
        FILES.iter().for_each(|(name, days)| yard.put(name, *days));
        let policy = Policy { keep_size: Some(0), ..all() };
        let lock = domains(&yard.paths).remove(0).lock;
        let held = lock::try_lock(&lock, Mode::Shared, "build p-1").expect("a lock");
        for dry_run in [true, false] {
            let cleaned = clean(&yard.paths, Policy { dry_run, ..policy }, Timestamp::now()).expect("cleaned");
            let is_other = |one: &Unused| one.path.starts_with(yard.paths.domains());
            assert!(cleaned.gone.iter().all(is_other) && cleaned.gone.len() == 2, "{cleaned:?}");
            assert!(matches!(&cleaned.busy[..], [(_, who)] if who.starts_with("build p-1")), "{:?}", cleaned.busy);
        }
        drop(held);
        assert_eq!(yard.left().len(), FILES.len() - 2);
    }

    #[test]
    fn a_link_in_a_cache_leads_nowhere() {
        let yard = Yard::new();
        let canary = yard.paths.home().join("canary");
        yard.put("canary/sstate:mine", 90);
        yard.put("canary/repository/HEAD", 90);
        for link in ["downloads/git2", "downloads/link", "sstate-cache/ab", "sstate-cache/sstate:link"] {
            symlink(&canary, yard.paths.home().join(link)).expect("a link");
        }
        let policy = Policy { keep_size: Some(0), older_than: Some(Duration::ZERO), ..all() };
        clean(&yard.paths, policy, Timestamp::now() + Duration::from_secs(9)).expect("cleaned");
        assert!(canary.join("sstate:mine").is_file() && canary.join("repository/HEAD").is_file());
        assert!(!yard.left().iter().any(|name| name.ends_with("link")), "{:?}", yard.left());
    }
}
