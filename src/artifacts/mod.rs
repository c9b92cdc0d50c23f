//! Copies a build's artifacts, selected by patterns, and writes their manifest. Never changes the build's own files.
//!
//! The build chose all names and content: each file is kept once, within a limit of disk space ([`Room`]) and without setuid and similar
//! bits; a link that leads out of the kept tree is recorded in the manifest and not made.

mod arrivals;
mod copy;
mod hand_out;
mod pool;
mod room;

use std::{
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
};

pub(crate) use arrivals::{Arrivals, Part, There};
pub(crate) use copy::data_in;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
pub(crate) use hand_out::{copy_all, select};
pub(crate) use pool::{Pool, sweep};
pub(crate) use room::{Room, Spent};

use crate::{
    events::{Emitter, Redactor},
    model::{Activity, Artifact, Digest, FOLDER_MARK, Hint, Kind, Unit, UserError, leads_out},
    system::{
        files::{FileError, make_private_dir, remove_tree, write_atomically},
        repository::is_git_folder,
        rooted::RootedError,
        stop::{StopToken, Stopped},
    },
};

/// The name of the manifest, beside the folder of artifacts.
pub(crate) const MANIFEST: &str = "artifacts.json";

/// Why artifacts cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// No file matches.
    #[error("no file in {deploy} matches {}", patterns.join(", "))]
    Nothing {
        /// Where they were looked for.
        deploy: PathBuf,
        /// The patterns.
        patterns: Vec<String>,
    },
    /// The build put a link in the place of its deploy folder.
    #[error("{0} leads through a symbolic link that the build made, and is not read")]
    Link(PathBuf),
    /// It would exceed a limit.
    #[error("{path} cannot be kept")]
    Full {
        /// What was to be kept.
        path: PathBuf,
        /// The limit.
        source: Spent,
    },
    /// The place of the copy cannot be reached.
    #[error("cannot copy to {path}")]
    Place {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: RootedError,
    },
    /// Something else is where a copy is to be.
    #[error("{first}{} there already, and not what the build left", more_of(*more))]
    Another {
        /// Where.
        first: PathBuf,
        /// How many others.
        more: usize,
    },
    /// A pattern names nothing.
    #[error("the build left nothing that `{0}` names")]
    NoSuch(String),
    /// A malformed pattern.
    #[error("`{0}` is not a valid pattern")]
    Pattern(String, #[source] globset::Error),
    /// A stop was asked for.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

fn more_of(more: usize) -> String {
    if more == 0 { " is".into() } else { format!(" and {more} others are") }
}

impl UserError for ArtifactError {
    fn kind(&self) -> Kind {
        match self {
            Self::Nothing { .. } | Self::Link(_) | Self::Full { .. } => Kind::Build,
            Self::Pattern(..) | Self::Another { .. } | Self::NoSuch(_) => Kind::Request,
            Self::Place { source, .. } => source.kind(),
            Self::Stopped(_) => Kind::Cancelled,
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Nothing { deploy, .. } => {
                vec![Hint::command("see what is there", format!("find {} -type f", deploy.display()))]
            }
            Self::Link(_) => vec![Hint::command("build from scratch", "smidr build --clean")],
            Self::Full { source, .. } => vec![source.hint()],
            Self::Another { .. } => vec![Hint::new("choose another folder, or replace them with  --force")],
            Self::NoSuch(_) => vec![Hint::command("see what there is", "smidr artifacts list")],
            Self::Pattern(..) | Self::Place { .. } | Self::Stopped(_) => Vec::new(),
            Self::File(error) => error.hints(),
        }
    }
}

/// Copies what matches and is the build's own from `deploy` to `<build>/artifacts`, whole or not at all, and writes the manifest.
///
/// # Errors
///
/// When nothing matches, there is no room, a file cannot be copied, or at a stop; `<build>/artifacts` is then not there.
pub(crate) fn collect(
    deploy: &Path,
    patterns: &[String],
    is_own: &dyn Fn(&Path) -> bool,
    build: &Path,
    keep: Keep<'_>,
    on: &Emitter,
    stop: &StopToken,
) -> Result<Vec<Artifact>, ArtifactError> {
    let wanted = matcher(patterns)?;
    let found = find(deploy, keep.room, on, stop, |path| wanted.is_match(path) && is_own(path))?;
    if found.is_empty() {
        return Err(ArtifactError::Nothing { deploy: deploy.into(), patterns: patterns.to_vec() });
    }
    let mut half = Half::new(&build.join("artifacts"))?;
    let mut kept = Vec::with_capacity(found.len());
    let mut keeper = Keeper::new(deploy, &half.at, Redactor::default(), keep, stop);
    for (done, path) in found.iter().enumerate() {
        on.progress(Activity::Collect, "artifacts", done as u64, Some(found.len() as u64), Unit::Items);
        kept.extend(keeper.artifact(path)?);
    }
    keeper.tell(on);
    half.show()?;
    #[derive(serde::Serialize)]
    struct Manifest<'a> {
        version: u32,
        artifacts: &'a [Artifact],
    }
    let path = build.join(MANIFEST);
    let manifest = serde_json::to_vec_pretty(&Manifest { version: 1, artifacts: &kept })
        .map_err(|error| FileError::new("write", &path)(error.into()))?;
    write_atomically(&path, &manifest, 0o600)?;
    half.keep();
    Ok(kept)
}

/// Removes what [`collect`] has kept of a build that is stopped afterwards.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn discard(build: &Path) -> Result<(), FileError> {
    remove_tree(&build.join(MANIFEST))?;
    remove_tree(&build.join("artifacts"))
}

/// Copies all files of a folder, but no repository's `.git`, to `to`, whole or not at all, and without secrets.
///
/// # Errors
///
/// When there is no room, a file cannot be copied, or at a stop; `to` is then not there.
pub(crate) fn keep_folder(
    from: &Path,
    to: &Path,
    redactor: &Redactor,
    keep: Keep<'_>,
    on: &Emitter,
    stop: &StopToken,
) -> Result<(), ArtifactError> {
    let found = find(from, keep.room, on, stop, |_| true)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let mut half = Half::new(to)?;
    let mut keeper = Keeper::new(from, &half.at, redactor.clone(), keep, stop);
    let mut outside = Vec::new();
    for (done, path) in found.iter().enumerate() {
        on.progress(Activity::Collect, &name, done as u64, Some(found.len() as u64), Unit::Items);
        if matches!(keeper.take(path)?, Taken::Outside(_)) {
            outside.push(path);
        }
    }
    keeper.tell(on);
    half.show()?;
    half.keep();
    if let Some(first) = outside.first() {
        let (count, first) = (outside.len(), first.display());
        on.warn(format!("{count} links in {name} are not kept, since each leads out of it: {first} is the first"));
    }
    Ok(())
}

/// Copies the first bytes of a log to a new file, without secrets.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn keep_log(from: &File, to: &Path, at_most: u64, redactor: &Redactor) -> Result<(), FileError> {
    let target = File::create(to).map_err(FileError::new("make", to))?;
    copy::copy_first(from, &target, redactor, at_most, &StopToken::default()).map_err(FileError::new("write", to))
}

/// What copies are made with.
#[derive(Debug)]
pub(crate) struct Keep<'a> {
    /// What was kept before.
    pub pool: &'a mut Pool,
    /// How much more may be.
    pub room: &'a mut Room,
}

impl Keep<'_> {
    /// The same, for a part of the work.
    pub(crate) fn again(&mut self) -> Keep<'_> {
        Keep { pool: self.pool, room: self.room }
    }
}

/// A folder that becomes visible when it is complete, and is removed otherwise.
struct Half {
    at: PathBuf,
    to: PathBuf,
    kept: bool,
}

impl Half {
    fn new(to: &Path) -> Result<Self, FileError> {
        let at = to.with_extension("part");
        remove_tree(&at)?;
        make_private_dir(&at)?;
        Ok(Self { at, to: to.into(), kept: false })
    }

    fn show(&mut self) -> Result<(), FileError> {
        fs::rename(&self.at, &self.to).map_err(FileError::new("make visible", &self.to))?;
        self.at.clone_from(&self.to);
        Ok(())
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if !self.kept {
            // The error that made it incomplete is already reported.
            let _ = remove_tree(&self.at);
        }
    }
}

/// How an entry of the build's folder was kept.
enum Taken {
    /// The same link.
    Link(PathBuf),
    /// A link that leads out, which was not made.
    Outside(PathBuf),
    /// A file, with the digest and the size of what is kept.
    File(Digest, u64),
    /// Not at all: its owner may not read it.
    Unreadable,
}

/// Copies files of one folder to another one.
struct Keeper<'a> {
    from: &'a Path,
    to: PathBuf,
    redactor: Redactor,
    pool: &'a mut Pool,
    room: &'a mut Room,
    stop: &'a StopToken,
    unreadable: Vec<PathBuf>,
}

impl<'a> Keeper<'a> {
    fn new(from: &'a Path, to: &Path, redactor: Redactor, keep: Keep<'a>, stop: &'a StopToken) -> Self {
        let Keep { pool, room } = keep;
        Self { from, to: to.into(), redactor, pool, room, stop, unreadable: Vec::new() }
    }

    /// None for what cannot be read.
    fn artifact(&mut self, path: &Path) -> Result<Option<Artifact>, ArtifactError> {
        Ok(match self.take(path)? {
            Taken::Link(link) | Taken::Outside(link) => {
                Some(Artifact { path: path.into(), size: 0, sha256: None, link: Some(link) })
            }
            Taken::File(sha256, size) => Some(Artifact { path: path.into(), size, sha256: Some(sha256), link: None }),
            Taken::Unreadable => None,
        })
    }

    fn take(&mut self, path: &Path) -> Result<Taken, ArtifactError> {
        self.stop.check()?;
        let (from, to) = (self.from.join(path), self.to.join(path));
        self.room.file().map_err(|spent| self.full(path, spent))?;
        let kind = fs::symlink_metadata(&from).map_err(FileError::new("look at", &from))?;
        if let Some(folder) = to.parent() {
            make_private_dir(folder)?;
        }
        if kind.is_symlink() {
            let link = fs::read_link(&from).map_err(FileError::new("read the link", &from))?;
            if leads_out(path, &link) {
                return Ok(Taken::Outside(link));
            }
            std::os::unix::fs::symlink(&link, &to).map_err(FileError::new("make the link", &to))?;
            return Ok(Taken::Link(link));
        }
        let source = match copy::open(&from) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.unreadable.push(from);
                return Ok(Taken::Unreadable);
            }
            source => source.map_err(FileError::new("copy", &from))?,
        };
        let found = source.metadata().map_err(FileError::new("look at", &from))?;
        let (redacted, mode) = (self.redactor.knows_any(), copy::kept_mode(&found));
        if let Some((sha256, size)) = self.pool.link(&found, redacted, mode, &to) {
            return Ok(Taken::File(sha256, size));
        }
        self.room.hashed(found.len()).map_err(|spent| self.full(path, spent))?;
        self.copy(path, (&source, &found), mode)?;
        let aside = self.to.with_extension("link");
        let (sha256, size) = self.pool.take_up(&found, redacted, (&to, mode), &aside, self.stop)?;
        Ok(Taken::File(sha256, size))
    }

    /// Copies a file. A hard link to the build's own would change together with the next build's.
    fn copy(&mut self, path: &Path, (source, found): (&File, &Metadata), mode: u32) -> Result<(), ArtifactError> {
        let (from, to) = (self.from.join(path), self.to.join(path));
        let target = File::create_new(&to).map_err(FileError::new("make", &to))?;
        if self.redactor.knows_any() || !copy::share(source, &target) {
            let data = data_in(source).map_err(FileError::new("look at", &from))?;
            self.room.data(data).map_err(|spent| self.full(path, spent))?;
            copy::copy_data(source, &target, &self.redactor, self.stop).map_err(FileError::new("copy", &from))?;
        }
        Ok(copy::dress(found, &target, mode).map_err(FileError::new("copy", &from))?)
    }

    fn full(&self, path: &Path, source: Spent) -> ArtifactError {
        ArtifactError::Full { path: self.from.join(path), source }
    }

    /// Says what could not be read: what is deployed for its owner not to read is lost, and the build is not.
    fn tell(self, on: &Emitter) {
        if let Some(first) = self.unreadable.first() {
            let count = self.unreadable.len();
            on.warn(format!(
                "{count} files are not kept, since their modes let not even you read them: {} is the first",
                first.display()
            ));
        }
    }
}

fn matcher(patterns: &[String]) -> Result<GlobSet, ArtifactError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.map_err(|error| ArtifactError::Pattern(pattern.clone(), error))?);
    }
    set.build().map_err(|error| ArtifactError::Pattern(patterns.join(" "), error))
}

/// Whether the git of this machine would obey what lies in a folder: `.git`, or one of the shape of a bare repository (git's setup.c).
fn is_repository(entry: &walkdir::DirEntry) -> bool {
    entry.file_name().eq_ignore_ascii_case(".git") || entry.file_type().is_dir() && is_git_folder(entry.path())
}

fn find(
    deploy: &Path,
    room: &Room,
    on: &Emitter,
    stop: &StopToken,
    wanted: impl Fn(&Path) -> bool,
) -> Result<Vec<PathBuf>, ArtifactError> {
    let mut found = Vec::new();
    if !deploy.is_dir() {
        return Ok(found);
    }
    // Sorted afterwards: a folder with millions of entries is not held in memory.
    let mut walk = walkdir::WalkDir::new(deploy).into_iter();
    let mut repositories = 0;
    while let Some(entry) = walk.next() {
        stop.check()?;
        let entry = match entry.map_err(io::Error::from) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                on.warn(format!(
                    "a folder in {} is not kept, since its mode lets not even you read it",
                    deploy.display()
                ));
                continue;
            }
            entry => entry.map_err(FileError::new("read", deploy))?,
        };
        let Ok(path) = entry.path().strip_prefix(deploy) else { continue };
        if entry.depth() == 1 && entry.file_name() == FOLDER_MARK {
            continue;
        }
        if is_repository(&entry) {
            // A build history has one of its own, which needs no warning.
            repositories += u32::from(entry.depth() > 1 && entry.file_type().is_dir());
            if entry.file_type().is_dir() {
                walk.skip_current_dir();
            }
            continue;
        }
        // Pipes, sockets and devices are not artifacts, and opening one could wait forever.
        let kind = entry.file_type();
        if (kind.is_file() || kind.is_symlink()) && wanted(path) {
            if found.len() as u64 >= room.files_left() {
                return Err(ArtifactError::Full { path: entry.path().into(), source: Spent::Files });
            }
            found.push(path.to_path_buf());
        }
    }
    if repositories > 0 {
        let deploy = deploy.display();
        on.warn(format!("{repositories} git repositories in {deploy} are not kept: git on this machine would run what their configuration says"));
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BuildId, Event};

    #[test]
    fn files_and_links_are_kept_and_folders_are_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let deploy = folder.path().join("deploy");
        let images = deploy.join("images/board");
        fs::create_dir_all(images.join("empty")).expect("folders");
        fs::create_dir_all(deploy.join("licenses")).expect("folders");
        fs::write(images.join("a.ext4"), b"content").expect("a file");
        fs::write(deploy.join("licenses/x"), b"no").expect("a file");
        std::os::unix::fs::symlink("a.ext4", images.join("latest")).expect("a link");
        let build = folder.path().join("build");
        let on = Emitter::new(BuildId::new("x", 1).expect("an id"), Vec::new());
        let (mut pool, mut room) =
            (Pool::open(&folder.path().join("kept"), &folder.path().join("seen")), Room::of(1 << 20, &build));
        let mut keep = Keep { pool: &mut pool, room: &mut room };
        let kept =
            collect(&deploy, &["images/board/**".into()], &|_| true, &build, keep.again(), &on, &StopToken::default())
                .expect("collected");
        let names: Vec<String> = kept.iter().map(|artifact| artifact.path.display().to_string()).collect();
        assert_eq!(names, ["images/board/a.ext4", "images/board/latest"]);
        assert_eq!(fs::read(build.join("artifacts/images/board/a.ext4")).expect("kept"), b"content");
        assert_eq!(fs::read_link(build.join("artifacts/images/board/latest")).expect("a link"), Path::new("a.ext4"));
        // The next build changes its own file; what was kept stays.
        fs::write(images.join("a.ext4"), b"changed").expect("a file");
        assert_eq!(fs::read(build.join("artifacts/images/board/a.ext4")).expect("kept"), b"content");
        let nothing = collect(
            &deploy,
            &["images/other/*".into()],
            &|_| true,
            &folder.path().join("b2"),
            keep.again(),
            &on,
            &StopToken::default(),
        );
        assert!(matches!(nothing, Err(ArtifactError::Nothing { .. })));
        assert!(!folder.path().join("b2/artifacts").exists());
    }

    /// A sink that panics at the second file.
    struct Breaks;

    impl crate::events::EventSink for Breaks {
        fn accept(&mut self, record: &crate::model::Record) {
            assert!(!matches!(record.event, Event::Progress { done: 1, .. }), "as a full disk of a log would");
        }
    }

    #[test]
    fn a_failed_copy_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (deploy, build) = (folder.path().join("deploy"), folder.path().join("build"));
        fs::create_dir(&deploy).expect("a folder");
        for name in ["a", "b"] {
            fs::write(deploy.join(name), vec![1; 3 << 20]).expect("a file");
        }
        fs::hard_link(deploy.join("a"), deploy.join("a2")).expect("a second name");
        let id = || BuildId::new("x", 1).expect("an id");
        let collect = |bytes: u64, on: &Emitter| {
            let (mut pool, mut room) =
                (Pool::open(&folder.path().join("kept"), &folder.path().join("seen")), Room::of(bytes, &build));
            let keep = Keep { pool: &mut pool, room: &mut room };
            collect(&deploy, &["**".into()], &|_| true, &build, keep, on, &StopToken::default()).map(|kept| kept.len())
        };
        let on = Emitter::new(id(), Vec::new());
        let broken = Emitter::new(id(), vec![Box::new(Breaks)]);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| collect(1 << 30, &broken)));
        assert!(panicked.is_err() && fs::read_dir(&build).expect("a folder").next().is_none());
        // Where blocks are shared, a copy takes nothing.
        let probe = |name: &str| File::create(folder.path().join(name)).expect("a file");
        if !copy::share(&File::open(deploy.join("a")).expect("a file"), &probe("probe")) {
            let full = collect(5 << 20, &on).expect_err("two of three mebibytes each");
            assert_eq!(full.kind(), Kind::Build);
            assert!(full.to_string().ends_with("deploy/b cannot be kept"), "{full}");
            assert!(full.hint().is_some_and(|hint| hint.contains("artifacts:")), "{full:?}");
            assert!(fs::read_dir(&build).expect("a folder").next().is_none());
        }
        assert_eq!(collect(7 << 20, &on).expect("room for two, of which one has two names"), 3);
    }
}
