//! Packs a normalised tree into a tar archive.
//!
//! Entries are sorted and owned by 0:0, hard links are kept, whiteouts are written as
//! OCI layers have them. Equal trees give equal bytes.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use tar::EntryType;

use super::{
    layer_error::LayerError,
    member::{END, Member, padding},
    tree::{self, Time},
};
use crate::system::files;

/// Writes the tree at `root` to `out`, and reports to `progress` how many bytes of content each step wrote.
///
/// # Errors
///
/// When the tree cannot be read or `out` cannot be written.
pub(super) fn pack<W: Write>(root: &Path, out: W, progress: &mut dyn FnMut(u64)) -> Result<W, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = fs::open(root, flags, Mode::empty()).map_err(LayerError::file("open", root))?;
    let stat = fs::fstat(&folder).map_err(LayerError::file("find", root))?;
    let mut packer = Packer { out, names: HashMap::new(), buffer: vec![0; 128 << 10], progress };
    packer.folder(folder.as_fd(), &stat, b"")?;
    packer.write(&END)?;
    Ok(packer.out)
}

struct Packer<'a, W> {
    out: W,
    // The first name of each file that has several.
    names: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    progress: &'a mut dyn FnMut(u64),
}

impl<W: Write> Packer<'_, W> {
    fn folder(&mut self, folder: BorrowedFd<'_>, stat: &Stat, path: &[u8]) -> Result<(), LayerError> {
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let xattrs = kept_xattrs(folder, path)?;
        let name = if path.is_empty() { b"./" } else { &prefix[..] };
        self.member(&Member { xattrs: &xattrs, ..member(name, EntryType::Directory, stat) })?;
        if tree::is_opaque(folder) {
            let path = [&prefix[..], tree::OPAQUE_FILE].concat();
            self.member(&Member { mode: 0o600, mtime: 0, ..member(&path, EntryType::Regular, stat) })?;
        }
        for name in tree::names(folder).map_err(LayerError::file("list", as_path(path)))? {
            self.entry(folder, &name, &prefix)?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], prefix: &[u8]) -> Result<(), LayerError> {
        let path = [prefix, name].concat();
        let name = OsStr::from_bytes(name);
        let failed = |call| LayerError::file(call, as_path(&path));
        let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("find"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let folder = tree::open_folder(dir, name).map_err(failed("open"))?;
                self.folder(folder.as_fd(), &stat, &path)
            }
            FileType::RegularFile => self.file(dir, name, &stat, path),
            FileType::Symlink => {
                let link = fs::readlinkat(dir, name, Vec::new()).map_err(failed("read the link"))?.into_bytes();
                self.member(&Member { link: &link, mode: 0o777, ..member(&path, EntryType::Symlink, &stat) })
            }
            FileType::Fifo => self.member(&member(&path, EntryType::Fifo, &stat)),
            _ if tree::is_whiteout(&stat) => {
                let path = [prefix, tree::WHITEOUT, name.as_bytes()].concat();
                self.member(&Member { mode: 0o600, mtime: 0, ..member(&path, EntryType::Regular, &stat) })
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat, path: Vec<u8>) -> Result<(), LayerError> {
        if stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.names.get(&identity).cloned() {
                return self.member(&Member { link: &first, ..member(&path, EntryType::Link, stat) });
            }
            self.names.insert(identity, path.clone());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(dir, name, flags, Mode::empty()).map_err(LayerError::file("open", as_path(&path)))?;
        let xattrs = kept_xattrs(file.as_fd(), &path)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.member(&Member { size, xattrs: &xattrs, ..member(&path, EntryType::Regular, stat) })?;
        self.content(file.into(), size, &path)
    }

    fn content(&mut self, file: File, size: u64, path: &[u8]) -> Result<(), LayerError> {
        let mut file = file.take(size);
        while file.limit() > 0 {
            let part = match files::read_part(&mut file, &mut self.buffer) {
                Ok([]) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result,
            }
            .map_err(LayerError::io("read", as_path(path)))?;
            self.out.write_all(part).map_err(LayerError::io("write the archive with", as_path(path)))?;
            (self.progress)(part.len() as u64);
        }
        self.write(padding(size))
    }

    fn member(&mut self, member: &Member<'_>) -> Result<(), LayerError> {
        self.write(&member.header())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.out.write_all(bytes).map_err(LayerError::io("write", Path::new("the archive")))
    }
}

fn member<'a>(path: &'a [u8], kind: EntryType, stat: &Stat) -> Member<'a> {
    let mtime = Time::of(stat).seconds;
    Member { path, kind, mode: stat.st_mode & 0o7777, mtime, size: 0, link: b"", xattrs: &[] }
}

fn kept_xattrs(fd: BorrowedFd<'_>, path: &[u8]) -> Result<tree::Xattrs, LayerError> {
    let mut xattrs = tree::xattrs(fd).map_err(LayerError::file("list the attributes of", as_path(path)))?;
    xattrs.retain(|(name, _)| tree::keeps_xattr(name));
    Ok(xattrs)
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}
