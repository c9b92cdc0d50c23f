//! Parser for untrusted tar archives.
//!
//! Gives the entries of a stream one by one, with every extension applied: PAX, GNU long names, sparse files. The walk
//! from header to header is our own, because parsers disagree on which size and which name count, and on how much an extension may hold,
//! and attacks use that (CVE-2025-62518, CVE-2026-33055, CVE-2022-2879). It writes nothing.

use std::io::{self, BufRead, Read};

use super::{
    codec::WindowTooLarge,
    fields::{self, BLOCK, Block},
    layer_error::LayerError,
    limits::{Limits, WINDOW},
    pax::{self, Pax, clamp},
    sparse::{self, Map, Pieces},
    tree::Xattrs,
};

// An entry can use one of each kind. Global headers may stand between, but only so many.
const MOST_EXTENSIONS: u32 = 64;

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file with content.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A folder.
    Folder,
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device,
}

/// One entry; its content is read from the [`Archive`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path, as it stands in the archive.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Its type.
    pub kind: Kind,
    /// Permission bits, and any other bits of the mode field.
    pub mode: u32,
    /// Seconds since the epoch, within the range of every file system.
    pub mtime: i64,
    /// Nanoseconds.
    pub mtime_nsec: u32,
    /// Bytes of the file, those of its holes included.
    pub size: u64,
    /// The stored pieces of a sparse file; none where all of it is stored.
    pub sparse: Option<Pieces>,
    /// Extended attributes that a diff keeps, in the archive's order.
    pub xattrs: Xattrs,
    /// Where the content begins in the stream.
    pub offset: u64,
}

impl Entry {
    /// Bytes of its content in the archive, which are fewer than its size where it has holes.
    pub(super) fn stored(&self) -> u64 {
        self.sparse.as_ref().map_or(self.size, |pieces| pieces.iter().map(|(_, length)| length).sum())
    }
}

/// A tar stream. Reading from it reads the current entry's content.
pub(super) struct Archive<R> {
    input: R,
    position: u64,
    remaining: u64,
    padding: u64,
    limits: Limits,
    ended: bool,
}

// What extension headers say about the next entry.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    /// Starts at the beginning of a stream.
    pub(super) fn new(input: R, limits: Limits) -> Self {
        Self { input, position: 0, remaining: 0, padding: 0, limits, ended: false }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the two zero blocks that end an archive have been seen.
    pub(super) fn has_end(&self) -> bool {
        self.ended
    }

    /// Advances to the next entry; none at the end of the archive.
    ///
    /// # Errors
    ///
    /// When the archive is damaged, truncated, or asks for more than the limits.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut pending = Pending::default();
        for _ in 0..MOST_EXTENSIONS {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return if pending.is_empty() { Ok(None) } else { Err(LayerError::Truncated(self.position)) };
            };
            let size = fields::size(&header).ok_or_else(|| self.malformed("a header without a proper size"))?;
            if !self.extend(&mut pending, fields::kind(&header), size)? {
                return self.entry(&header, size, pending).map(Some);
            }
        }
        Err(self.malformed("more extended headers in a row than an entry can use"))
    }

    // Whether the last header was an extended one.
    fn extend(&mut self, pending: &mut Pending, kind: u8, size: u64) -> Result<bool, LayerError> {
        match kind {
            b'x' => {
                let content = self.extension(size)?;
                let pax = Pax::parse(&content).map_err(|why| self.malformed(why))?;
                self.once(pending.pax.replace(pax).is_some())?;
            }
            b'g' => {
                let content = self.extension(size)?;
                pax::check(&content).map_err(|why| self.malformed(why))?;
            }
            b'V' => drop(self.extension(size)?),
            b'L' => {
                let name = self.long_name(size)?;
                self.once(pending.long_path.replace(name).is_some())?;
            }
            b'K' => {
                let name = self.long_name(size)?;
                self.once(pending.long_link.replace(name).is_some())?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the rest of the stream, so that a digest can cover all of it.
    ///
    /// # Errors
    ///
    /// When the stream cannot be read or is longer than `limit` bytes in all.
    pub(super) fn drain(mut self, limit: u64) -> Result<R, LayerError> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = read_some(&mut self.input, &mut buffer, self.position)?;
            self.position += count as u64;
            if count == 0 {
                return Ok(self.input);
            }
            if self.position > limit {
                return Err(self.malformed("more follows its end than the limits allow"));
            }
        }
    }

    fn malformed(&self, why: &'static str) -> LayerError {
        LayerError::Malformed { at: self.position, why }
    }

    fn once(&self, again: bool) -> Result<(), LayerError> {
        if again { Err(self.malformed("two extended headers of one kind for one entry")) } else { Ok(()) }
    }

    // None at the end of the archive.
    fn header(&mut self) -> Result<Option<Block>, LayerError> {
        let mut header = [0; BLOCK];
        if self.ended || !self.block(&mut header)? {
            return Ok(None);
        }
        if header == [0; BLOCK] {
            if self.block(&mut header)? && header != [0; BLOCK] {
                return Err(self.malformed("a lone block of zeros"));
            }
            self.ended = true;
            return Ok(None);
        }
        if fields::is_sound(&header) { Ok(Some(header)) } else { Err(self.malformed("a header with a wrong checksum")) }
    }

    // False at the end of the stream; a part of a block is a truncation.
    fn block(&mut self, block: &mut Block) -> Result<bool, LayerError> {
        let mut filled = 0;
        while let Some(room @ [_, ..]) = block.get_mut(filled..) {
            let count = read_some(&mut self.input, room, self.position)?;
            if count == 0 {
                return if filled == 0 { Ok(false) } else { Err(LayerError::Truncated(self.position)) };
            }
            filled += count;
            self.position += count as u64;
        }
        Ok(true)
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > self.limits.header {
            let what = "bytes of an extended header";
            return Err(LayerError::Limit { entry: b"(header)"[..].into(), what, limit: self.limits.header });
        }
        self.set_size(size);
        let mut content = Vec::with_capacity(size.min(1 << 20) as usize);
        let read = self.by_ref().take(size).read_to_end(&mut content);
        self.finished(read, size)?;
        Ok(content)
    }

    fn finished(&self, read: io::Result<usize>, size: u64) -> Result<(), LayerError> {
        match read {
            Ok(count) if count as u64 == size => Ok(()),
            Ok(_) => Err(LayerError::Truncated(self.position)),
            Err(source) => Err(read_error(source, self.position)),
        }
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        let mut name = self.extension(size)?;
        // Counted with its NUL, or with the zeros that fill its last block.
        let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        name.truncate(end);
        Ok(name)
    }

    fn set_size(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn skip_rest(&mut self) -> Result<(), LayerError> {
        let rest = self.remaining + self.padding;
        (self.remaining, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink());
        let skipped = skipped.map_err(|source| read_error(source, self.position))?;
        self.position += skipped;
        if skipped == rest { Ok(()) } else { Err(LayerError::Truncated(self.position)) }
    }

    fn entry(&mut self, header: &Block, size: u64, pending: Pending) -> Result<Entry, LayerError> {
        let mut pax = pending.pax.unwrap_or_default();
        let named = |name: Option<Vec<u8>>| name.filter(|name| !name.is_empty());
        let long_path = named(pending.long_path);
        let path = pax.sparse.name().or(pax.path.take()).or(long_path).unwrap_or_else(|| fields::path(header));
        let link = pax.link.take().or(named(pending.long_link)).unwrap_or_else(|| fields::link(header));
        let refuse = |why| LayerError::Entry { entry: path[..].into(), why };
        let kind = entry_kind(fields::kind(header), &path).map_err(refuse)?;
        let stored = pax.size.unwrap_or(size);
        if kind != Kind::File && stored != 0 {
            // Some readers skip such content and some parse it as the next header.
            return Err(refuse("has content, though its type has none"));
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(refuse("has a NUL in its name"));
        }
        let mode = fields::mode(header).ok_or_else(|| self.malformed("a header without a proper mode"))?;
        let (mtime, mtime_nsec) = pax.mtime.unwrap_or_else(|| (clamp(fields::mtime(header)), 0));
        let (size, sparse) = match self.sparse(header, kind, &pax, &path, stored)? {
            Some((size, pieces)) => (size, Some(pieces)),
            None => (stored, None),
        };
        let (xattrs, offset) = (pax.xattrs, self.position);
        Ok(Entry { path, link, kind, mode, mtime, mtime_nsec, size, sparse, xattrs, offset })
    }

    // Reads the map of a sparse file and advances to its content; gives the size and the stored pieces.
    fn sparse(
        &mut self,
        header: &Block,
        kind: Kind,
        pax: &Pax,
        path: &[u8],
        stored: u64,
    ) -> Result<Option<(u64, Pieces)>, LayerError> {
        let refuse = |why| LayerError::Entry { entry: path.into(), why };
        let is_old = fields::kind(header) == b'S';
        if !pax.sparse.is_empty() && (is_old || kind != Kind::File) {
            return Err(refuse("is said to be a sparse file, which its type cannot be"));
        }
        if is_old {
            let size = sparse::old_size(header).ok_or_else(|| refuse("is a sparse file without a size"))?;
            let mut map = Map::new(path, size, &self.limits);
            map.read_old(header, || self.map_block())?;
            self.set_size(stored);
            return map.finish(stored).map(|pieces| Some((size, pieces)));
        }
        self.set_size(stored);
        if pax.sparse.is_empty() {
            return Ok(None);
        }
        let size = pax.sparse.size().map_err(refuse)?;
        let mut map = Map::new(path, size, &self.limits);
        let stored = map.read_text(self, self.position, stored)?;
        map.finish(stored).map(|pieces| Some((size, pieces)))
    }

    fn map_block(&mut self) -> Result<Block, LayerError> {
        let mut block = [0; BLOCK];
        if self.block(&mut block)? { Ok(block) } else { Err(LayerError::Truncated(self.position)) }
    }
}

fn entry_kind(letter: u8, path: &[u8]) -> Result<Kind, &'static str> {
    Ok(match letter {
        // In archives older than POSIX a folder is a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Kind::Folder,
        // GNU's sparse file is a file with a map.
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' | b'4' => Kind::Device,
        b'5' => Kind::Folder,
        b'6' => Kind::Fifo,
        _ => return Err("is of a type that no image layer holds"),
    })
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.remaining == 0 {
            return Ok(0);
        }
        let count = self.input.by_ref().take(self.remaining).read(buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Archive<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(&[]);
        }
        match self.input.fill_buf()? {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            ready => Ok(ready.get(..most).unwrap_or(ready)),
        }
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.remaining -= count as u64;
        self.position += count as u64;
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_path.is_none() && self.long_link.is_none()
    }
}

fn read_some(input: &mut impl Read, buffer: &mut [u8], at: u64) -> Result<usize, LayerError> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(|source| read_error(source, at)),
        }
    }
}

pub(super) fn read_error(source: io::Error, at: u64) -> LayerError {
    let window = source.get_ref().and_then(|error| error.downcast_ref::<WindowTooLarge>());
    match window {
        Some(WindowTooLarge(limit)) => LayerError::Limit { entry: b"(zstd)"[..].into(), what: WINDOW, limit: *limit },
        None if source.kind() == io::ErrorKind::UnexpectedEof => LayerError::Truncated(at),
        None => LayerError::Read { at, source },
    }
}
