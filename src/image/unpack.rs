//! Unpacks an archive into a tree: one layer, in a folder of its own.
//!
//! The folder is empty before, and has overlayfs's form afterwards. Every path is resolved inside the
//! folder by `system::rooted`, and the last component is never followed. Works as any user: no chown, no namespace. Whiteouts
//! concern the layers below and not the order of the archive, so they are applied after everything else. The result depends on
//! the stream alone: what a layer needs from those below it, [`super::seam`] adds for each image.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::File,
    io::{BufRead, Seek as _, SeekFrom},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, XattrFlags},
    io::Errno,
};

use super::{
    account::Account,
    archive::{Archive, Entry, Kind},
    layer_error::LayerError,
    limits::{ENTRIES, LAYER_BYTES, Limits},
    tree::{self, Time},
    waiting::Waiting,
};
use crate::system::{
    removal::remove_at,
    rooted::{Missing, Rooted, RootedError, Walked},
};

/// The result of unpacking a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, folders, links.
    pub entries: u64,
    /// Device nodes, which were left out because no ordinary user can make them.
    pub devices: u64,
    /// Folders that the archive implies but does not name. Their modes and times are those of the layers below.
    pub implied: Vec<PathBuf>,
    /// Hard links to files that only a layer below may have, with their targets. They are not in the tree.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// Unpacks a whole archive into an empty folder. `room` is the limit for its files together, holes aside. What is kept beyond
/// its entry is charged to `account`.
///
/// # Errors
///
/// When the archive is damaged, has an unacceptable entry, or exceeds the limits; and when the file
/// system refuses. The folder is then unusable.
pub(super) fn unpack<R: BufRead>(
    archive: &mut Archive<R>,
    tree: &Rooted,
    limits: Limits,
    room: u64,
    account: &Account,
) -> Result<Unpacked, LayerError> {
    let mut unpacker = Unpacker::new(tree, limits, room, account)?;
    while let Some(entry) = archive.next_entry()? {
        unpacker.add(&entry, archive)?;
    }
    unpacker.finish()
}

/// The mode of an implied folder; its time is the epoch.
pub(super) const IMPLIED_MODE: u32 = 0o755;

// The folder that contains the current entry, and its real path.
#[derive(Clone)]
struct Place {
    dir: Rc<OwnedFd>,
    path: PathBuf,
}

struct Unpacker<'a> {
    tree: &'a Rooted,
    limits: Limits,
    room: u64,
    // Bytes of files, holes aside.
    stored: u64,
    account: &'a Account,
    done: Unpacked,
    implied: BTreeSet<PathBuf>,
    links: BTreeMap<PathBuf, PathBuf>,
    folders: Waiting,
    opaque: BTreeSet<PathBuf>,
    whiteouts: BTreeSet<PathBuf>,
    // A cache, since archives go folder by folder. Dropped whenever something is removed, since the path may be gone.
    last: Option<(PathBuf, Place)>,
}

impl<'a> Unpacker<'a> {
    fn new(tree: &'a Rooted, limits: Limits, room: u64, account: &'a Account) -> Result<Self, LayerError> {
        Ok(Self {
            tree,
            limits,
            room,
            stored: 0,
            account,
            done: Unpacked::default(),
            implied: BTreeSet::from([PathBuf::new()]),
            links: BTreeMap::new(),
            folders: Waiting::new(tree)?,
            opaque: BTreeSet::new(),
            whiteouts: BTreeSet::new(),
            last: None,
        })
    }

    fn add(&mut self, entry: &Entry, content: &mut impl BufRead) -> Result<(), LayerError> {
        self.count(entry)?;
        if entry.path.is_empty() {
            return Ok(());
        }
        let path = clean(&entry.path, &entry.path, &self.limits)?;
        let Some(name) = path.file_name() else { return self.add_root(entry) };
        let parent = path.parent().unwrap_or(Path::new(""));
        if is_of_aufs(&path) {
            // Docker on AUFS stored them until 2017 or so. Files are needed until the end, for the hard links to them.
            let linked = entry.kind == Kind::File && parent == tree::AUFS_LINKS && !reserved(Path::new(name));
            let place = if linked { self.place(entry, parent)? } else { return Ok(()) };
            return self.add_file(entry, &place, name, content);
        }
        if reserved(parent) || (reserved(Path::new(name)) && entry.kind == Kind::Folder) {
            return Err(refuse(entry, "has a folder with a name that only whiteouts may have"));
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(tree::WHITEOUT) {
            return self.note_whiteout(entry, parent, name, hidden);
        }
        if entry.kind == Kind::Device {
            self.done.devices += 1;
            return Ok(());
        }
        let place = self.place(entry, parent)?;
        self.forget_links(&place.path.join(name), entry.kind);
        match entry.kind {
            Kind::File => self.add_file(entry, &place, name, content),
            Kind::HardLink => self.add_hard_link(entry, &place, name),
            Kind::Symlink => self.add_symlink(entry, &place, name),
            Kind::Folder => self.add_folder(entry, &place, name),
            Kind::Fifo => self.add_fifo(entry, &place, name),
            Kind::Device => Ok(()),
        }
    }

    // Later entries win. A folder leaves what is in it, as kaniko names folders several times.
    fn forget_links(&mut self, path: &Path, kind: Kind) {
        if kind == Kind::Folder {
            self.links.remove(path);
            return;
        }
        let below = self.links.range(path.to_path_buf()..).map(|(link, _)| link);
        for gone in below.take_while(|link| link.starts_with(path)).cloned().collect::<Vec<_>>() {
            self.links.remove(&gone);
        }
    }

    fn count(&mut self, entry: &Entry) -> Result<(), LayerError> {
        self.done.entries += 1;
        if self.done.entries + self.implied.len() as u64 > self.limits.entries {
            return Err(limit(&entry.path, ENTRIES, self.limits.entries));
        }
        if entry.size > self.limits.file_bytes {
            return Err(limit(&entry.path, "bytes of one file", self.limits.file_bytes));
        }
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        if self.done.bytes > self.limits.layer_bytes {
            return Err(limit(&entry.path, LAYER_BYTES, self.limits.layer_bytes));
        }
        // Holes cost neither space nor time.
        self.store(entry, entry.stored())
    }

    fn store(&mut self, entry: &Entry, bytes: u64) -> Result<(), LayerError> {
        self.stored = self.stored.saturating_add(bytes);
        if self.stored > self.room {
            return Err(limit(&entry.path, self.limits.reason_for(self.room), self.room));
        }
        Ok(())
    }

    fn add_root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != Kind::Folder {
            return Err(refuse(entry, "would put something else in the place of the root folder"));
        }
        self.note_folder(Path::new(""), entry)?;
        self.set_xattrs(entry, &self.tree.open_plain(Path::new(""), OFlags::RDONLY).map_err(file_error("open", entry))?)
    }

    fn note_folder(&mut self, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        self.implied.remove(path);
        // Until the end its record takes space on the disk as a file does.
        let bytes = self.folders.push(path, tree::folder_mode(entry.mode), time(entry))?;
        self.store(entry, bytes)
    }

    fn note_whiteout(&mut self, entry: &Entry, parent: &Path, name: &OsStr, hidden: &[u8]) -> Result<(), LayerError> {
        let name = name.as_bytes();
        if name == tree::OPAQUE_FILE {
            keep(self.account, &mut self.opaque, parent.into())?;
        } else if !name.starts_with(tree::AUFS) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(refuse(entry, "is a whiteout of nothing"));
            }
            keep(self.account, &mut self.whiteouts, parent.join(OsStr::from_bytes(hidden)))?;
        }
        Ok(())
    }

    fn place(&mut self, entry: &Entry, parent: &Path) -> Result<Place, LayerError> {
        if let Some((path, place)) = &self.last
            && path == parent
        {
            return Ok(place.clone());
        }
        let walked = self.tree.walk(parent, Missing::Replace(0o755)).map_err(misplaced(&entry.path))?;
        let place = self.entered(walked)?;
        self.last = Some((parent.into(), place.clone()));
        Ok(place)
    }

    fn entered(&mut self, walked: Walked) -> Result<Place, LayerError> {
        if walked.replaced {
            self.last = None;
        }
        for path in walked.made {
            self.links.remove(&path);
            keep(self.account, &mut self.implied, path)?;
        }
        Ok(Place { dir: Rc::new(walked.dir), path: walked.path })
    }

    // Removes what stands in the place of the current entry: later entries win.
    fn clear(&mut self, entry: &Entry, place: &Place, name: &OsStr) -> Result<(), LayerError> {
        self.last = None;
        let path = place.path.join(name);
        // Paths below it are adjacent in the set; a search through all of it for each entry would be quadratic.
        let below = self.implied.range(path.clone()..).take_while(|implied| implied.starts_with(&path));
        for gone in below.cloned().collect::<Vec<_>>() {
            self.implied.remove(&gone);
        }
        remove_at(place.dir.as_fd(), name).map_err(file_error("replace", entry))
    }

    // Creates something that must be new, and clears its place if needed.
    fn make<T>(
        &mut self,
        entry: &Entry,
        place: &Place,
        name: &OsStr,
        call: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, LayerError> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(entry, place, name)?;
                make().map_err(file_error(call, entry))
            }
            result => result.map_err(file_error(call, entry)),
        }
    }

    fn create(&mut self, entry: &Entry, place: &Place, name: &OsStr) -> Result<File, LayerError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let create = || fs::openat(&place.dir, name, flags, Mode::from(0o600));
        self.make(entry, place, name, "create", create).map(File::from)
    }

    fn add_file(
        &mut self,
        entry: &Entry,
        place: &Place,
        name: &OsStr,
        content: &mut impl BufRead,
    ) -> Result<(), LayerError> {
        let mut file = self.create(entry, place, name)?;
        match &entry.sparse {
            None => tree::fill(&mut file, content, entry.size, &shown(entry), entry.offset)?,
            Some(pieces) => self.fill_pieces(entry, pieces, &mut file, content)?,
        }
        self.set_xattrs(entry, &file)?;
        tree::finish(&file, tree::file_mode(entry.mode), time(entry)).map_err(file_error("set mode and time of", entry))
    }

    // Unwritten parts stay holes: a file may be much longer than what is stored of it.
    fn fill_pieces(
        &self,
        entry: &Entry,
        pieces: &[(u64, u64)],
        file: &mut File,
        content: &mut impl BufRead,
    ) -> Result<(), LayerError> {
        let path = shown(entry);
        file.set_len(entry.size).map_err(LayerError::io("make as long as it is", &path))?;
        for (offset, length) in pieces {
            file.seek(SeekFrom::Start(*offset)).map_err(LayerError::io("go forward in", &path))?;
            tree::fill(file, content, *length, &path, entry.offset)?;
        }
        Ok(())
    }

    fn add_hard_link(&mut self, entry: &Entry, place: &Place, name: &OsStr) -> Result<(), LayerError> {
        let target = clean(&entry.link, &entry.path, &self.limits)?;
        let Some(target_name) = target.file_name() else { return Err(refuse(entry, "is a hard link to the root")) };
        let parent = target.parent().unwrap_or(Path::new(""));
        let source = match self.tree.walk(parent, Missing::Fail) {
            Ok(walked) => walked,
            Err(_) => return self.note_link_below(entry, place, name, target),
        };
        if source.path == place.path && target_name == name {
            return Ok(());
        }
        let link = || fs::linkat(&source.dir, target_name, &place.dir, name, AtFlags::empty());
        match fs::statat(&source.dir, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(_) => self.note_link_below(entry, place, name, source.path.join(target_name)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Err(refuse(entry, "is a hard link to a folder"))
            }
            Ok(_) => self.make(entry, place, name, "link", link),
        }
    }

    // The specification allows to refuse a hard link to a file of a lower layer; kaniko and others write them.
    fn note_link_below(
        &mut self,
        entry: &Entry,
        place: &Place,
        name: &OsStr,
        target: PathBuf,
    ) -> Result<(), LayerError> {
        if fs::statat(&place.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            self.clear(entry, place, name)?;
        }
        // A link to such a link has the same target.
        let target = self.links.get(&target).cloned().unwrap_or(target);
        let path = self.account.keep(place.path.join(name))?;
        self.links.insert(path, self.account.keep(target)?);
        Ok(())
    }

    fn add_symlink(&mut self, entry: &Entry, place: &Place, name: &OsStr) -> Result<(), LayerError> {
        if entry.link.is_empty() {
            return Err(refuse(entry, "is a symbolic link to nothing"));
        }
        if entry.link.len() > self.limits.link {
            return Err(limit(&entry.path, "bytes of a link's target", self.limits.link as u64));
        }
        let make = || fs::symlinkat(OsStr::from_bytes(&entry.link), &place.dir, name);
        self.make(entry, place, name, "link", make)?;
        tree::set_time_at(place.dir.as_fd(), name, time(entry)).map_err(file_error("set the time of", entry))
    }

    fn add_folder(&mut self, entry: &Entry, place: &Place, name: &OsStr) -> Result<(), LayerError> {
        let make = || fs::mkdirat(&place.dir, name, Mode::from(0o700));
        match make() {
            Err(Errno::EXIST) => {
                let stat =
                    fs::statat(&place.dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(file_error("find", entry))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    self.clear(entry, place, name)?;
                    make().map_err(file_error("make", entry))?;
                }
            }
            result => result.map_err(file_error("make", entry))?,
        }
        self.note_folder(&place.path.join(name), entry)?;
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        self.set_xattrs(entry, &tree::open_folder(place.dir.as_fd(), name).map_err(file_error("open", entry))?)
    }

    fn add_fifo(&mut self, entry: &Entry, place: &Place, name: &OsStr) -> Result<(), LayerError> {
        let make = || fs::mknodat(&place.dir, name, FileType::Fifo, Mode::from(0o600), 0);
        self.make(entry, place, name, "make", make)?;
        // Just made, so no link can be followed.
        fs::chmodat(&place.dir, name, Mode::from(tree::file_mode(entry.mode)), AtFlags::empty())
            .map_err(file_error("set the mode of", entry))?;
        tree::set_time_at(place.dir.as_fd(), name, time(entry)).map_err(file_error("set the time of", entry))
    }

    fn set_xattrs(&self, entry: &Entry, fd: &impl AsFd) -> Result<(), LayerError> {
        for (name, value) in &entry.xattrs {
            match fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                // The file system has no attributes, or too little space for them: builds do not need them.
                Ok(()) | Err(Errno::NOTSUP | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => {}
                Err(errno) => return Err(file_error("set an attribute of", entry)(errno)),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Unpacked, LayerError> {
        let mut opaque = BTreeSet::new();
        for path in std::mem::take(&mut self.opaque) {
            let walked =
                self.tree.walk(&path, Missing::Replace(0o755)).map_err(misplaced(path.as_os_str().as_bytes()))?;
            let place = self.entered(walked)?;
            self.make_opaque(&place.path)?;
            keep(self.account, &mut opaque, place.path)?;
        }
        for path in std::mem::take(&mut self.whiteouts) {
            self.apply_whiteout(&path, &mut opaque)?;
        }
        if self.implied.remove(Path::new(tree::AUFS_LINKS)) {
            let name = OsStr::new(tree::AUFS_LINKS);
            remove_at(self.tree.root(), name).map_err(LayerError::file("remove", Path::new(name)))?;
        }
        Self::finish_folders(self.tree, &self.implied, self.folders)?;
        self.done.implied = self.implied.into_iter().collect();
        self.done.links = self.links.into_iter().collect();
        Ok(self.done)
    }

    fn make_opaque(&self, path: &Path) -> Result<(), LayerError> {
        let folder = self.tree.open_plain(path, OFlags::RDONLY | OFlags::DIRECTORY);
        folder.and_then(tree::set_opaque).map_err(LayerError::file("make opaque", path))
    }

    fn apply_whiteout(&mut self, path: &Path, opaque: &mut BTreeSet<PathBuf>) -> Result<(), LayerError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let walked = match self.tree.walk(parent, Missing::Make(0o755)) {
            // A file or whiteout above already hides what is below.
            Err(RootedError::WrongType { .. }) => return Ok(()),
            walked => walked.map_err(misplaced(path.as_os_str().as_bytes()))?,
        };
        let place = self.entered(walked)?;
        // In an opaque folder there is nothing to hide, and a whiteout would appear as a device.
        if place.path.ancestors().any(|folder| opaque.contains(folder)) {
            return Ok(());
        }
        match fs::statat(&place.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(_) => tree::make_whiteout(place.dir.as_fd(), name).map_err(LayerError::file("white out", path)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let path = place.path.join(name);
                self.make_opaque(&path)?;
                keep(self.account, opaque, path)
            }
            Ok(_) => Ok(()),
        }
    }

    // Modes and times are set last, since every entry changes the time of its folder.
    fn finish_folders(tree: &Rooted, implied: &BTreeSet<PathBuf>, folders: Waiting) -> Result<(), LayerError> {
        let finish = |path: &Path, mode, time| match tree.open_plain(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            // A later entry has replaced it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            opened => opened
                .and_then(|fd| tree::finish(fd, mode, time))
                .map_err(LayerError::file("set mode and time of", path)),
        };
        implied.iter().try_for_each(|path| finish(path, IMPLIED_MODE, Time::default()))?;
        folders.for_each(finish)
    }
}

// One that exists already takes no space.
fn keep(account: &Account, paths: &mut BTreeSet<PathBuf>, path: PathBuf) -> Result<(), LayerError> {
    if !paths.contains(&path) {
        paths.insert(account.keep(path)?);
    }
    Ok(())
}

/// A path of an archive as one relative to the root, without `.`; an absolute one starts at the root.
///
/// # Errors
///
/// When it holds `..`, or is deeper or longer than the limits.
pub(super) fn clean(path: &[u8], entry: &[u8], limits: &Limits) -> Result<PathBuf, LayerError> {
    if path.len() > limits.path {
        return Err(limit(entry, "bytes of a path", limits.path as u64));
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut clean = PathBuf::new();
    for (depth, part) in parts.enumerate() {
        if part == b".." {
            return Err(LayerError::Entry { entry: entry.into(), why: "has `..` in its path" });
        }
        if depth >= limits.depth {
            return Err(limit(entry, "components of a path", limits.depth as u64));
        }
        clean.push(OsStr::from_bytes(part));
    }
    Ok(clean)
}

fn is_of_aufs(path: &Path) -> bool {
    let first = path.iter().next().unwrap_or_default().as_bytes();
    first.starts_with(tree::AUFS) && first != tree::OPAQUE_FILE
}

fn reserved(path: &Path) -> bool {
    path.iter().any(|part| part.as_bytes().starts_with(tree::WHITEOUT))
}

fn time(entry: &Entry) -> Time {
    Time { seconds: entry.mtime, nanos: entry.mtime_nsec }
}

fn shown(entry: &Entry) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&entry.path))
}

fn refuse(entry: &Entry, why: &'static str) -> LayerError {
    LayerError::Entry { entry: entry.path[..].into(), why }
}

fn limit(path: &[u8], what: &'static str, limit: u64) -> LayerError {
    LayerError::Limit { entry: path.into(), what, limit }
}

fn misplaced(entry: &[u8]) -> impl FnOnce(RootedError) -> LayerError + use<> {
    let entry = entry.into();
    move |source| LayerError::Place { entry, source }
}

fn file_error(call: &'static str, entry: &Entry) -> impl FnOnce(Errno) -> LayerError + use<> {
    LayerError::file(call, &shown(entry))
}
