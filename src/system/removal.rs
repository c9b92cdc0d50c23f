//! Removes untrusted trees of any depth, without following links.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
};

use super::rooted::DIR;

/// How many nested folders are open at a time. Each takes two descriptors and stack; a build may nest any number.
const DEEPEST: usize = 64;

/// Removes whatever is at `name` in `dir`, a whole tree if need be, and never follows a link.
///
/// # Errors
///
/// When the kernel refuses.
pub fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result,
    }
    let top = enter(dir, name)?;
    let mut removal = Removal { top: top.as_fd(), moved: 0 };
    loop {
        let before = removal.moved;
        removal.empty(top.as_fd(), 0)?;
        match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if removal.moved > before => {}
            result => return result,
        }
    }
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    // How many names have been tried for folders that were moved to the top.
    moved: u64,
}

impl Removal<'_> {
    fn empty(&mut self, folder: BorrowedFd<'_>, depth: usize) -> rustix::io::Result<()> {
        let reading = fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for entry in fs::Dir::new(reading)? {
            let entry = entry?;
            let entry = OsStr::from_bytes(entry.file_name().to_bytes());
            if entry != "." && entry != ".." {
                match self.entry(folder, entry, depth + 1) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    refused => return refused,
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &OsStr, depth: usize) -> rustix::io::Result<()> {
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            result => return result,
        }
        let folder = enter(dir, name)?;
        if depth < DEEPEST {
            self.empty(folder.as_fd(), depth)?;
            return fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        }
        // It is entered again later, one below the top.
        loop {
            self.moved += 1;
            match fs::renameat(dir, name, self.top, format!("deep-{}", self.moved)) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                result => return result,
            }
        }
    }
}

// Read-only folders (Go's module cache, overlay's `work`) refuse the removal of their entries. By descriptor: the name may be a
// link by now.
fn enter(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let folder = fs::openat(dir, name, DIR, Mode::empty())?;
    if fs::fstat(&folder)?.st_mode & 0o700 != 0o700 {
        let _ = fs::chmod(format!("/proc/self/fd/{}", folder.as_raw_fd()), Mode::RWXU);
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_may_be_deeper_than_the_stack() {
        let yard = tempfile::tempdir().expect("a folder");
        let top = fs::open(yard.path(), DIR, Mode::empty()).expect("a folder");
        let mut folder = top.try_clone().expect("a descriptor");
        for _ in 0..2_000 {
            fs::mkdirat(&folder, "a", Mode::RWXU).expect("a folder");
            // A name that removal uses itself.
            fs::symlinkat("..", &folder, "deep-1").expect("a link");
            let next = fs::openat(&folder, "a", DIR, Mode::empty()).expect("the folder");
            let full = std::mem::replace(&mut folder, next);
            fs::chmod(format!("/proc/self/fd/{}", full.as_raw_fd()), Mode::RUSR | Mode::XUSR).expect("read-only");
        }
        // Owners can remove what is in it.
        fs::chmod(yard.path(), Mode::RWXU).expect("writable");
        let remove = move || remove_at(top.as_fd(), OsStr::new("a"));
        let small = std::thread::Builder::new().stack_size(256 << 10).spawn(remove).expect("a thread");
        small.join().expect("no panic").expect("removed");
        assert_eq!(std::fs::read_dir(yard.path()).expect("a folder").count(), 1);
    }
}
