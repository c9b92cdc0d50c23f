//! What folders take on the disk, as `du` counts: blocks, each file once, whatever names it has. In goes a list of folders, out comes a sum for
//! each; a folder of the list that lies in another one counts for itself alone.
//!
//! Never opens a file, never follows a link below the folders that were asked for, and never changes anything.

use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Statx, StatxFlags, openat, statx},
    io::Errno,
};
use serde::Serialize;

/// More threads than this wait for each other in the kernel.
const MOST_THREADS: usize = 8;

/// For the entries of a folder, in bytes.
const BUFFER: usize = 64 * 1024;

/// Sets of files that have several names, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// The size of a block of `st_blocks` (stat(2)), in bytes.
const BLOCK: u64 = 512;

/// What something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Space {
    /// On the disk.
    pub bytes: u64,
    /// Files, folders and links.
    pub files: u64,
}

impl Space {
    fn add(&mut self, found: &Statx) {
        self.bytes = self.bytes.saturating_add(found.stx_blocks.saturating_mul(BLOCK));
        self.files += 1;
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }
}

impl std::iter::Sum for Space {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::and)
    }
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Measured {
    /// In the order of the folders.
    pub folders: Vec<Space>,
    /// How many folders could not be read.
    pub unreadable: u64,
}

/// A device and an inode on it.
type Id = (u64, u64);

/// A folder that is to be looked into.
struct Folder {
    root: usize,
    parent: Arc<OwnedFd>,
    name: CString,
}

#[derive(Default)]
struct Waiting {
    folders: Vec<Folder>,
    busy: usize,
}

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    roots: HashSet<Id>,
    linked: [Mutex<HashSet<Id>>; SHARDS],
}

/// Measures folders; one that is not there takes nothing.
pub fn measure(folders: &[&Path]) -> Measured {
    let mut all = Measured { folders: vec![Space::default(); folders.len()], unreadable: 0 };
    let mut roots = HashSet::new();
    let mut open = Vec::new();
    for (root, path) in folders.iter().enumerate() {
        match openat(CWD, *path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(folder) => match look(&folder, c"", AtFlags::EMPTY_PATH) {
                Ok(found) if roots.insert(id(&found)) => {
                    all.folders.get_mut(root).into_iter().for_each(|sum| sum.add(&found));
                    open.push(Folder { root, parent: Arc::new(folder), name: c".".into() });
                }
                Ok(_) => {}
                Err(_) => all.unreadable += 1,
            },
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(_) => all.unreadable += 1,
        }
    }
    let shared = Shared {
        waiting: Mutex::new(Waiting { folders: open, busy: 0 }),
        changed: Condvar::new(),
        roots,
        linked: Default::default(),
    };
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(MOST_THREADS));
    let parts: Vec<Measured> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| shared.work(folders.len()))).collect();
        let own = shared.work(folders.len());
        others.into_iter().filter_map(|other| other.join().ok()).chain([own]).collect()
    });
    for part in parts {
        all.folders.iter_mut().zip(part.folders).for_each(|(sum, part)| *sum = sum.and(part));
        all.unreadable += part.unreadable;
    }
    all
}

impl Shared {
    /// Looks into folders until there are none left.
    fn work(&self, roots: usize) -> Measured {
        let mut sums = Measured { folders: vec![Space::default(); roots], unreadable: 0 };
        let mut buffer = Vec::with_capacity(BUFFER);
        while let Some(first) = self.take() {
            let mut next = Some(first);
            while let Some(folder) = next {
                let mut below = self.look_into(folder, buffer.spare_capacity_mut(), &mut sums);
                next = below.pop();
                if !below.is_empty() {
                    lock(&self.waiting).folders.append(&mut below);
                    self.changed.notify_all();
                }
            }
            let mut waiting = lock(&self.waiting);
            waiting.busy -= 1;
            if waiting.busy == 0 {
                self.changed.notify_all();
            }
        }
        sums
    }

    fn take(&self) -> Option<Folder> {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(folder) = waiting.folders.pop() {
                waiting.busy += 1;
                return Some(folder);
            }
            if waiting.busy == 0 {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Counts what is in a folder, and gives the folders in it.
    fn look_into(&self, folder: Folder, buffer: &mut [MaybeUninit<u8>], sums: &mut Measured) -> Vec<Folder> {
        let mut below = Vec::new();
        let opened = match openat(&folder.parent, folder.name.as_c_str(), READ, Mode::empty()) {
            Ok(opened) => Arc::new(opened),
            // It has gone meanwhile, or something else stands there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return below,
            Err(_) => {
                sums.unreadable += 1;
                return below;
            }
        };
        let Some(sum) = sums.folders.get_mut(folder.root) else { return below };
        let mut entries = RawDir::new(&opened, buffer);
        while let Some(entry) = entries.next() {
            let name = match &entry {
                Ok(entry) => entry.file_name(),
                Err(Errno::NOENT) => break,
                Err(_) => {
                    sums.unreadable += 1;
                    break;
                }
            };
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(found) = look(&opened, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory {
                if !self.roots.contains(&id(&found)) {
                    sum.add(&found);
                    below.push(Folder { root: folder.root, parent: opened.clone(), name: name.into() });
                }
            } else if found.stx_nlink < 2 || self.is_first(id(&found)) {
                sum.add(&found);
            }
        }
        below
    }

    /// Whether a file that has several names is met for the first time.
    fn is_first(&self, id: Id) -> bool {
        let shard = self.linked.get(id.1 as usize % SHARDS);
        shard.is_none_or(|shard| lock(shard).insert(id))
    }
}

/// Without a wait for a server.
const LOOK: AtFlags = AtFlags::STATX_DONT_SYNC;

const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn look(folder: &OwnedFd, name: &CStr, how: AtFlags) -> rustix::io::Result<Statx> {
    let wanted = StatxFlags::TYPE | StatxFlags::NLINK | StatxFlags::INO | StatxFlags::BLOCKS;
    statx(folder, name, how | LOOK, wanted)
}

fn id(found: &Statx) -> Id {
    (u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor), found.stx_ino)
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        fs::{self, File},
        os::unix::{ffi::OsStrExt as _, fs::symlink},
        process::Command,
    };

    use super::*;

    /// What `du` says, in bytes.
    fn du(folder: &Path) -> u64 {
        let said = Command::new("du").args(["-s", "-B1"]).arg(folder).output().expect("du runs");
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    #[test]
    fn what_du_says() {
        let yard = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| yard.path().join(name);
        assert_eq!(measure(&[&at("nowhere")]).folders, [Space::default()]);
        let mut folder = at("a");
        for depth in 0..40 {
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(OsStr::from_bytes(b"gr\xfcn\n")), vec![1; depth * 997]).expect("a file");
            fs::write(folder.join("one"), "content").expect("a file");
            fs::hard_link(folder.join("one"), folder.join("two")).expect("a second name");
            symlink("/", folder.join("out")).expect("a link");
            File::create(folder.join("hole")).and_then(|file| file.set_len(1 << 40)).expect("a hole");
            fs::create_dir(folder.join("empty")).expect("a folder");
            folder = folder.join(format!("{depth}"));
        }
        fs::hard_link(at("a/one"), at("a/0/three")).expect("a third name");
        let all = measure(&[&at("a")]);
        assert_eq!((all.folders.first().map(|sum| sum.bytes), all.unreadable), (Some(du(&at("a"))), 0));
        // A folder in another one counts for itself; a link to it, and it again, count for nothing.
        symlink(at("a/0/1"), at("again")).expect("a link");
        let parts = measure(&[&at("a"), &at("a/0/1"), &at("again")]);
        let bytes: Vec<u64> = parts.folders.iter().map(|sum| sum.bytes).collect();
        assert_eq!(bytes, [du(&at("a")) - du(&at("a/0/1")), du(&at("a/0/1")), 0]);
        assert_eq!(parts.folders.iter().copied().sum::<Space>(), all.folders.iter().copied().sum());
    }
}
