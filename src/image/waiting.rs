//! Modes and times of a layer's folders, which can only be set after all its entries are written.
//!
//! They are kept in a file and not in memory: ordinary layers have tens of thousands of folders, hostile ones millions, and this needs
//! no limit on their number. The file has no name and is on the file system of the tree: it vanishes when it is closed, and is
//! limited by the free space.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::{
    layer_error::LayerError,
    tree::{AUFS, Time},
};
use crate::system::rooted::Rooted;

/// Folders in the order of their entries; one may occur several times.
pub(super) struct Waiting(BufWriter<File>);

/// Bytes of a record before its path: the path's length, the mode, the time.
const HEAD: usize = 4 + 4 + 8 + 4;

impl Waiting {
    /// An empty list.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn new(tree: &Rooted) -> Result<Self, LayerError> {
        // While it needs a name, it has one that no entry can have.
        let name = [AUFS, b"smidr"].concat();
        let name = OsStr::from_bytes(&name);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        let file = fs::openat(tree.root(), name, flags, Mode::from(0o600));
        let file = file.and_then(|file| fs::unlinkat(tree.root(), name, AtFlags::empty()).map(|()| file));
        Ok(Self(BufWriter::new(file.map_err(LayerError::file("make", Path::new(name)))?.into())))
    }

    /// Adds a folder; gives the number of bytes of its record.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn push(&mut self, path: &Path, mode: u32, time: Time) -> Result<u64, LayerError> {
        let bytes = path.as_os_str().as_bytes();
        let length = u32::try_from(bytes.len()).expect("a path has at most PATH_MAX bytes");
        let mut head = Vec::with_capacity(HEAD);
        head.extend(length.to_le_bytes());
        head.extend(mode.to_le_bytes());
        head.extend(time.seconds.to_le_bytes());
        head.extend(time.nanos.to_le_bytes());
        let written = self.0.write_all(&head).and_then(|()| self.0.write_all(bytes));
        written.map_err(LayerError::io("note the mode and time of", path))?;
        Ok((HEAD + bytes.len()) as u64)
    }

    /// Calls `each` with all of them.
    ///
    /// # Errors
    ///
    /// The first error of `each`, or when the file system refuses.
    pub(super) fn for_each(
        self,
        mut each: impl FnMut(&Path, u32, Time) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let failed = |call| LayerError::io(call, Path::new("the folders' modes and times"));
        let mut file = self.0.into_inner().map_err(|error| failed("write")(error.into_error()))?;
        file.rewind().map_err(failed("read"))?;
        let mut file = BufReader::new(file);
        while let Some((path, mode, time)) = record(&mut file).map_err(failed("read"))? {
            each(Path::new(OsStr::from_bytes(&path)), mode, time)?;
        }
        Ok(())
    }
}

// None at the end.
fn record(file: &mut BufReader<File>) -> io::Result<Option<(Vec<u8>, u32, Time)>> {
    let mut head = [0; HEAD];
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let [l0, l1, l2, l3, m0, m1, m2, m3, s @ .., n0, n1, n2, n3] = head;
    let mut path = vec![0; u32::from_le_bytes([l0, l1, l2, l3]) as usize];
    file.read_exact(&mut path)?;
    let time = Time { seconds: i64::from_le_bytes(s), nanos: u32::from_le_bytes([n0, n1, n2, n3]) };
    Ok(Some((path, u32::from_le_bytes([m0, m1, m2, m3]), time)))
}
