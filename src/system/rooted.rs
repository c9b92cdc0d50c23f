//! The only module that resolves paths inside an untrusted root.
//!
//! Untrusted paths come from an image's layers, its symbolic links and its mount points. The resulting file descriptors lie below the
//! root, whatever links the tree holds: an absolute link starts at the root and `..` stops at it, as in a chroot. Where something is
//! made, the last component is never followed, and no path is looked up twice.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::removal::remove_at;
use crate::model::{Kind, UserError};

/// As many symbolic links as the kernel follows in one path (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// How deep a tree may become, links of links included. Walking it later takes a descriptor and stack per folder.
const MAX_DEPTH: usize = 400;

pub(super) const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder whose content is not trusted.
#[derive(Debug)]
pub struct Rooted {
    root: OwnedFd,
}

/// Why a path inside a root cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum RootedError {
    /// The kernel refused.
    #[error("cannot {call} `{path}`")]
    Call {
        /// What was tried.
        call: &'static str,
        /// Inside the root.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// Something else stands where a file or folder is needed.
    #[error("`{path}` is not a {wanted}")]
    WrongType {
        /// Inside the root.
        path: PathBuf,
        /// What it should have been.
        wanted: &'static str,
    },
    /// The path has no last component that could be made: it is empty, `/`, or ends in `..`.
    #[error("`{0}` names no entry of a folder")]
    NoName(PathBuf),
    /// A file is larger than its reader accepts.
    #[error("`{path}` is larger than {limit} bytes")]
    TooLarge {
        /// Inside the root.
        path: PathBuf,
        /// In bytes.
        limit: u64,
    },
    /// Links nest folders too deeply.
    #[error("`{path}` would be more than {limit} folders deep")]
    TooDeep {
        /// Inside the root.
        path: PathBuf,
        /// How deep it may be.
        limit: usize,
    },
    /// A file is not UTF-8.
    #[error("`{0}` is not text in UTF-8")]
    NotText(PathBuf),
}

impl RootedError {
    fn call(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_path_buf();
        move |errno| Self::Call { call, path, source: errno.into() }
    }

    /// Whether there is nothing at that path.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl UserError for RootedError {
    fn kind(&self) -> Kind {
        match self {
            Self::Call { source, .. } => Kind::of_io(source),
            _ => Kind::Request,
        }
    }
}

/// What to do about missing folders of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Return an error.
    Fail,
    /// Make them with this mode.
    Make(u32),
    /// Make them with this mode, and replace anything else in the way by a folder, as a later entry of an archive replaces an
    /// earlier one.
    Replace(u32),
}

/// A folder that was found or made.
#[derive(Debug)]
pub struct Walked {
    /// `O_PATH` on the folder.
    pub dir: OwnedFd,
    /// Where it really is: relative to the root, without symbolic links.
    pub path: PathBuf,
    /// Folders that were made, likewise, parents first.
    pub made: Vec<PathBuf>,
    /// Whether something was removed to make room.
    pub replaced: bool,
}

impl Rooted {
    /// Takes the folder at `root`, which the caller trusts.
    ///
    /// # Errors
    ///
    /// When it is not a folder or cannot be opened.
    pub fn open(root: &Path) -> Result<Self, RootedError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(root, flags, Mode::empty()).map_err(RootedError::call("open the folder", root))?;
        Ok(Self { root })
    }

    /// Takes a folder that is open already.
    pub fn from_fd(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The root itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Finds whatever is at `path`, following links inside the root. The descriptor is `O_PATH`.
    ///
    /// # Errors
    ///
    /// When there is nothing, or the kernel refuses.
    pub fn resolve(&self, path: &Path) -> Result<OwnedFd, RootedError> {
        self.openat2(path, OFlags::PATH, ResolveFlags::empty()).map_err(RootedError::call("find", path))
    }

    /// Opens the regular file at `path` for reading, following links inside the root. Reading it with a limit is the
    /// caller's task, since its size is whatever the root's author chose.
    ///
    /// # Errors
    ///
    /// When it is missing or not a regular file.
    pub fn open_file(&self, path: &Path) -> Result<File, RootedError> {
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.openat2(path, flags, ResolveFlags::empty()).map_err(RootedError::call("open", path))?;
        require(&fd, FileType::RegularFile, path, "regular file")?;
        Ok(File::from(fd))
    }

    /// Reads the text file at `path`, following links inside the root.
    ///
    /// # Errors
    ///
    /// When it is missing, not a regular file, larger than `limit` bytes or not UTF-8.
    pub fn read_text(&self, path: &Path, limit: u64) -> Result<String, RootedError> {
        let mut bytes = Vec::new();
        let read = self.open_file(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        let count = read.map_err(|source| RootedError::Call { call: "read", path: path.into(), source })?;
        if count as u64 > limit {
            return Err(RootedError::TooLarge { path: path.into(), limit });
        }
        String::from_utf8(bytes).map_err(|_| RootedError::NotText(path.into()))
    }

    /// Finds the folder that holds, or would hold, the last component of `path`, which itself is not looked at.
    ///
    /// # Errors
    ///
    /// When the folder is missing, or `path` ends in nothing that could be made.
    pub fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString), RootedError> {
        let (parent, name) = split(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let dir =
            self.openat2(parent, flags, ResolveFlags::empty()).map_err(RootedError::call("find the folder", parent))?;
        Ok((dir, name.to_owned()))
    }

    /// Finds the folder at `path`, making it and its parents inside the root where they are missing, and gives an
    /// `O_PATH` descriptor. `mode` is subject to the umask.
    ///
    /// # Errors
    ///
    /// When something other than a folder is in the way, or the kernel refuses.
    pub fn make_dirs(&self, path: &Path, mode: u32) -> Result<OwnedFd, RootedError> {
        self.walk(path, Missing::Make(mode)).map(|walked| walked.dir)
    }

    /// Makes an empty regular file to mount something on; the folder that holds it must exist. One that is there already is
    /// left as it is. The descriptor is `O_PATH`.
    ///
    /// # Errors
    ///
    /// When something else is there, a symbolic link included, or the kernel refuses.
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd, RootedError> {
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        match fs::openat(&dir, name.as_os_str(), flags, Mode::from(0o644)) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(RootedError::call("make the file", path)(errno)),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&dir, name.as_os_str(), flags, Mode::empty()).map_err(RootedError::call("open", path))?;
        require(&fd, FileType::RegularFile, path, "regular file")?;
        Ok(fd)
    }

    /// Makes a new regular file, in the place of whatever file or link was there; the folder that holds it must exist.
    ///
    /// # Errors
    ///
    /// When a folder is there, or the kernel refuses.
    pub fn create_file(&self, path: &Path) -> Result<File, RootedError> {
        let (dir, name) = self.parent(path)?;
        match fs::unlinkat(&dir, name.as_os_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(RootedError::call("replace", path)(errno)),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = fs::openat(&dir, name.as_os_str(), flags, Mode::from(0o644))
            .map_err(RootedError::call("make the file", path))?;
        Ok(File::from(fd))
    }

    /// Removes an empty file or an empty folder; anything else stays.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove_if_empty(&self, path: &Path) -> Result<(), RootedError> {
        let (dir, name) = match self.parent(path) {
            Err(error) if error.is_missing() => return Ok(()),
            found => found?,
        };
        let Ok(found) = fs::statat(&dir, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
        let removed = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile if found.st_size == 0 => fs::unlinkat(&dir, name.as_os_str(), AtFlags::empty()),
            FileType::Directory => fs::unlinkat(&dir, name.as_os_str(), AtFlags::REMOVEDIR),
            _ => Ok(()),
        };
        match removed {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(errno) => Err(RootedError::call("remove", path)(errno)),
        }
    }

    /// The names in the folder at `path`, where no link leads there; none where there is no such folder.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn names(&self, path: &Path) -> Result<Vec<OsString>, RootedError> {
        let folder = match self.open_plain(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            opened => opened.map_err(RootedError::call("read the folder", path))?,
        };
        let mut names = Vec::new();
        for entry in fs::Dir::new(folder).map_err(RootedError::call("read the folder", path))? {
            let entry = entry.map_err(RootedError::call("read the folder", path))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes what is at `path`, a whole tree if need be. What is not there is fine; a link is removed, not followed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove(&self, path: &Path) -> Result<(), RootedError> {
        let (dir, name) = match self.parent(path) {
            Err(error) if error.is_missing() => return Ok(()),
            found => found?,
        };
        match remove_at(dir.as_fd(), &name) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(RootedError::call("remove", path)(errno)),
        }
    }

    /// Finds the folder at `path`, component by component, with its real path.
    ///
    /// # Errors
    ///
    /// When something other than a folder is in the way and may not be replaced, or the kernel refuses.
    pub fn walk(&self, path: &Path, missing: Missing) -> Result<Walked, RootedError> {
        if let Some(plain) = plain(path)
            && let Ok(dir) = self.openat2(&plain, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)
        {
            return Ok(Walked { dir, path: plain, made: Vec::new(), replaced: false });
        }
        let mut walk = Walk { rooted: self, path, stack: Vec::new(), made: Vec::new(), replaced: false, links: 0 };
        walk.run(missing)?;
        let place = walk.place();
        let dir = match walk.stack.pop() {
            Some((_, dir)) => dir,
            None => self.root.try_clone().map_err(|error| io_call("open", path, error))?,
        };
        Ok(Walked { dir, path: place, made: walk.made, replaced: walk.replaced })
    }

    /// Opens what is at `path` only if no symbolic link leads there; otherwise ELOOP.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn open_plain(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        self.openat2(path, flags | OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS)
    }

    /// Whether the symbolic link at `path` leads out of the root, as the kernel would follow it. One that leads to nothing does not.
    pub fn leads_out(&self, path: &Path) -> bool {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let found = fs::openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how);
        // EAGAIN: something was renamed meanwhile, and nothing can be said for sure.
        matches!(found, Err(Errno::XDEV | Errno::AGAIN))
    }

    fn openat2(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            // openat2(2): EAGAIN means that a rename somewhere raced with `..`; trying again is what it is for.
            match fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < 100 => tries += 1,
                result => return result,
            }
        }
    }
}

/// Opens a regular file of this machine that others may have chosen the place of, only if no symbolic link leads there.
///
/// # Errors
///
/// The kernel's error; ELOOP for a link, EINVAL for anything else than a file.
pub fn open_linkless(path: &Path) -> io::Result<File> {
    // Without it, opening a FIFO would wait for a writer.
    let file =
        Rooted::open(Path::new("/")).map_err(io::Error::other)?.open_plain(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let kind = FileType::from_raw_mode(fs::fstat(&file)?.st_mode);
    if kind == FileType::RegularFile { Ok(file.into()) } else { Err(Errno::INVAL.into()) }
}

/// One walk through a tree. It keeps the folders that it entered open: `..` goes back to one of them, never to a folder above the root.
struct Walk<'a> {
    rooted: &'a Rooted,
    path: &'a Path,
    stack: Vec<(OsString, OwnedFd)>,
    made: Vec<PathBuf>,
    replaced: bool,
    links: usize,
}

impl Walk<'_> {
    fn run(&mut self, missing: Missing) -> Result<(), RootedError> {
        let mut todo: VecDeque<OsString> = names(self.path).collect();
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                self.stack.pop();
                continue;
            }
            match self.kind(&name)? {
                Some(FileType::Directory) => self.enter(name)?,
                Some(FileType::Symlink) => self.follow(&name, &mut todo)?,
                Some(_) => self.replace(name, missing)?,
                None => self.make(name, missing)?,
            }
        }
        Ok(())
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.rooted.root.as_fd(), |(_, dir)| dir.as_fd())
    }

    fn place(&self) -> PathBuf {
        self.stack.iter().map(|(name, _)| name).collect()
    }

    fn kind(&self, name: &OsStr) -> Result<Option<FileType>, RootedError> {
        match fs::statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(RootedError::call("find", self.path)(errno)),
        }
    }

    fn enter(&mut self, name: OsString) -> Result<(), RootedError> {
        let dir = fs::openat(self.here(), name.as_os_str(), DIR, Mode::empty())
            .map_err(RootedError::call("open", self.path))?;
        self.stack.push((name, dir));
        Ok(())
    }

    fn follow(&mut self, name: &OsStr, todo: &mut VecDeque<OsString>) -> Result<(), RootedError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(RootedError::call("follow the links of", self.path)(Errno::LOOP));
        }
        let target = fs::readlinkat(self.here(), name, Vec::new())
            .map_err(RootedError::call("read a link of", self.path))?
            .into_bytes();
        let target = PathBuf::from(OsString::from_vec(target));
        if target.has_root() {
            self.stack.clear();
        }
        for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
            todo.push_front(name);
        }
        Ok(())
    }

    fn replace(&mut self, name: OsString, missing: Missing) -> Result<(), RootedError> {
        if !matches!(missing, Missing::Replace(_)) {
            return Err(RootedError::WrongType { path: self.place().join(name), wanted: "folder" });
        }
        remove_at(self.here(), &name).map_err(RootedError::call("replace a part of", self.path))?;
        self.replaced = true;
        self.make(name, missing)
    }

    fn make(&mut self, name: OsString, missing: Missing) -> Result<(), RootedError> {
        let mode = match missing {
            Missing::Fail => return Err(RootedError::call("find", self.path)(Errno::NOENT)),
            Missing::Make(mode) | Missing::Replace(mode) => Mode::from(mode),
        };
        if self.stack.len() >= MAX_DEPTH {
            return Err(RootedError::TooDeep { path: self.path.into(), limit: MAX_DEPTH });
        }
        match fs::mkdirat(self.here(), name.as_os_str(), mode) {
            // Another thread or process has made it meanwhile.
            Err(Errno::EXIST) => return self.enter(name),
            made => made.map_err(RootedError::call("make", self.path))?,
        }
        self.enter(name)?;
        self.made.push(self.place());
        Ok(())
    }
}

fn io_call(call: &'static str, path: &Path, source: io::Error) -> RootedError {
    RootedError::Call { call, path: path.into(), source }
}

fn require(fd: &OwnedFd, kind: FileType, path: &Path, wanted: &'static str) -> Result<(), RootedError> {
    let stat = fs::fstat(fd).map_err(RootedError::call("look at", path))?;
    if FileType::from_raw_mode(stat.st_mode) == kind {
        Ok(())
    } else {
        Err(RootedError::WrongType { path: path.into(), wanted })
    }
}

fn split(path: &Path) -> Result<(&Path, &OsStr), RootedError> {
    let name = path.file_name().ok_or_else(|| RootedError::NoName(path.into()))?;
    Ok((path.parent().unwrap_or(Path::new("")), name))
}

// The components that matter: no root, no `.`.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

// The path without `.` and root, if it climbs nowhere.
fn plain(path: &Path) -> Option<PathBuf> {
    path.components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir | Component::Prefix(_)))
        .map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{create_dir, create_dir_all, read_to_string, write},
        os::unix::fs::{MetadataExt as _, symlink},
    };

    use super::*;

    // A root with links in every direction, and a folder beside it that must not be reached.
    fn yard() -> (tempfile::TempDir, Rooted) {
        let yard = tempfile::tempdir().expect("a temporary folder");
        let root = yard.path().join("root");
        create_dir_all(root.join("usr/lib")).expect("folders");
        create_dir(yard.path().join("victim")).expect("a folder");
        write(yard.path().join("victim/file"), "outside").expect("a file");
        write(root.join("usr/lib/file"), "inside").expect("a file");
        for (link, target) in [
            ("lib", "usr/lib"),
            ("abs", "/usr/lib"),
            ("up", "../victim"),
            ("far", "../../../../../../../../../victim"),
            ("out", yard.path().join("victim").to_str().expect("text")),
            ("loop", "loop"),
            ("hop", "usr/../lib/../../../lib"),
            ("new", "/made/by/a/link"),
        ] {
            symlink(target, root.join(link)).expect("a link");
        }
        let rooted = Rooted::open(&root).expect("a root");
        (yard, rooted)
    }

    #[test]
    fn links_lead_to_places_inside() {
        let (_yard, root) = yard();
        for path in [
            "usr/lib/file",
            "/usr/lib/file",
            "lib/file",
            "abs/file",
            "hop/file",
            "../../usr/lib/file",
            "lib/../lib/file",
        ] {
            assert_eq!(root.read_text(Path::new(path), 100).expect(path), "inside", "{path}");
        }
        for path in ["up/file", "far/file", "out/file", "../victim/file", "loop/file", "usr/lib/../../../victim/file"] {
            assert!(root.open_file(Path::new(path)).is_err(), "{path}");
            assert!(root.walk(Path::new(path), Missing::Fail).is_err(), "{path}");
        }
        assert!(root.resolve(Path::new("up")).expect_err("nothing there").is_missing());
        assert_eq!(root.walk(Path::new("hop/."), Missing::Fail).expect("a folder").path, Path::new("usr/lib"));
        assert_eq!(root.walk(Path::new("/"), Missing::Fail).expect("the root").path, Path::new(""));
    }

    #[test]
    fn folders_are_made_inside_wherever_links_point() {
        let (yard, root) = yard();
        let at = |path: &str| yard.path().join("root").join(path);
        for (path, place) in [
            ("plain/deep/er", "plain/deep/er"),
            ("/absolute", "absolute"),
            ("lib/more", "usr/lib/more"),
            ("new/below", "made/by/a/link/below"),
            ("up/a", "victim/a"),
            ("far/b", "victim/b"),
            ("../../c", "c"),
        ] {
            root.make_dirs(Path::new(path), 0o755).expect(path);
            assert!(at(place).is_dir(), "{path}");
        }
        root.make_dirs(Path::new("out/x"), 0o755).expect("inside");
        let victim = yard.path().join("victim");
        assert_eq!(std::fs::read_dir(&victim).expect("a folder").count(), 1);
        assert_eq!(read_to_string(victim.join("file")).expect("a file"), "outside");
        assert!(root.make_dirs(Path::new("loop/x"), 0o755).is_err());
        let blocked = root.make_dirs(Path::new("lib/file/x"), 0o755).expect_err("a file is in the way");
        assert!(matches!(blocked, RootedError::WrongType { wanted: "folder", .. }), "{blocked}");
        let walked = root.walk(Path::new("lib/file/x"), Missing::Replace(0o755)).expect("replaced");
        assert!(walked.replaced && walked.made == ["usr/lib/file", "usr/lib/file/x"].map(PathBuf::from));
    }

    #[test]
    fn links_make_no_bottomless_tree() {
        let (yard, root) = yard();
        symlink("a/".repeat(300), yard.path().join("root/deep")).expect("a link");
        symlink("deep/".to_owned() + &"b/".repeat(300), yard.path().join("root/deeper")).expect("a link");
        root.make_dirs(Path::new("deep"), 0o755).expect("deep, but not too deep");
        let error = root.make_dirs(Path::new("deeper"), 0o755).expect_err("too deep");
        assert!(matches!(error, RootedError::TooDeep { limit: 400, .. }), "{error}");
        remove_at(root.root(), OsStr::new("a")).expect("can be removed");
    }

    #[test]
    fn mount_points_are_files_and_never_links() {
        let (yard, root) = yard();
        root.make_file(Path::new("lib/new")).expect("a file");
        root.make_file(Path::new("abs/file")).expect("a file that is there");
        assert_eq!(read_to_string(yard.path().join("root/usr/lib/file")).expect("a file"), "inside");
        for path in ["up", "out", "lib", "usr/lib", "/", "", "usr/.."] {
            assert!(root.make_file(Path::new(path)).is_err(), "{path}");
        }
        symlink("../victim/new", yard.path().join("root/dangling")).expect("a link");
        assert!(root.make_file(Path::new("dangling")).is_err());
        assert!(!yard.path().join("victim/new").exists());
    }

    #[test]
    fn only_regular_files_of_bearable_size_are_read() {
        let (yard, root) = yard();
        let pipe = yard.path().join("root/pipe");
        fs::mknodat(fs::CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).expect("a named pipe");
        for path in ["pipe", "usr"] {
            let error = root.read_text(Path::new(path), 100).expect_err(path);
            assert!(matches!(error, RootedError::WrongType { .. }), "{error}");
        }
        let error = root.read_text(Path::new("lib/file"), 5).expect_err("too large");
        assert!(matches!(error, RootedError::TooLarge { limit: 5, .. }), "{error}");
        assert_eq!(root.read_text(Path::new("lib/file"), 6).expect("just right"), "inside");
        write(yard.path().join("root/binary"), [0xff]).expect("a file");
        assert!(matches!(root.read_text(Path::new("binary"), 5), Err(RootedError::NotText(_))));
    }

    #[test]
    fn removal_takes_a_tree_and_never_what_links_lead_to() {
        let (yard, root) = yard();
        let inode = yard.path().join("victim/file").metadata().expect("a file").ino();
        for name in ["usr", "up", "out", "lib"] {
            remove_at(root.root(), OsStr::new(name)).expect(name);
            assert!(yard.path().join("root").join(name).symlink_metadata().is_err(), "{name}");
        }
        assert_eq!(yard.path().join("victim/file").metadata().expect("a file").ino(), inode);
    }
}
