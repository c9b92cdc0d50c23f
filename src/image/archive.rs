//! Reading tar archives that nobody vouches for.
//!
//! In goes a stream, out come entries, one by one, with every extension applied: PAX, GNU long names, base-256 numbers. The
//! `tar` crate parses the fields of a header; the walk from header to header is ours, because which size and which name
//! count, and how much an extension may hold, is where parsers disagree and attacks live (CVE-2025-62518, CVE-2026-33055,
//! CVE-2022-2879). It writes nothing.

use std::io::{self, Read};

use tar::Header;

use super::{layer_error::LayerError, limits::Limits};

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
pub struct Entry {
    /// As the archive has it.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, and whatever else the archive put there.
    pub mode: u32,
    /// Seconds since the epoch, within what every file system can store.
    pub mtime: i64,
    /// Nanoseconds.
    pub mtime_nsec: u32,
    /// Bytes of content.
    pub size: u64,
    /// Extended attributes, in the archive's order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content begins in the stream.
    pub offset: u64,
}

/// A tar stream. Reading from it reads the current entry's content.
pub struct Archive<R> {
    input: R,
    position: u64,
    remaining: u64,
    padding: u64,
    limits: Limits,
    ended: bool,
}

// What extension headers say about the next real entry.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<(i64, u32)>,
    sparse: bool,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Archive<R> {
    /// Begins at the start of a stream.
    pub fn new(input: R, limits: Limits) -> Self {
        Self { input, position: 0, remaining: 0, padding: 0, limits, ended: false }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the two zero blocks that end an archive have been seen.
    pub fn has_end(&self) -> bool {
        self.ended
    }

    /// Goes to the next entry; none is left at the end of the archive.
    ///
    /// # Errors
    ///
    /// When the archive is damaged, truncated, or asks for more than the limits.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut pending = Pending::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return if pending.is_empty() { Ok(None) } else { Err(LayerError::Truncated(self.position)) };
            };
            let size = self.field_size(&header)?;
            match header.as_bytes()[156] {
                b'x' => {
                    let content = self.extension(size)?;
                    let pax = self.pax(&content)?;
                    self.once(pending.pax.replace(pax).is_some())?;
                }
                b'g' | b'V' => drop(self.extension(size)?),
                b'L' => {
                    let name = self.long_name(size)?;
                    self.once(pending.long_path.replace(name).is_some())?;
                }
                b'K' => {
                    let name = self.long_name(size)?;
                    self.once(pending.long_link.replace(name).is_some())?;
                }
                _ => return self.entry(&header, size, pending).map(Some),
            }
        }
    }

    /// Reads whatever is left of the stream, so that a digest over all of it can be had.
    ///
    /// # Errors
    ///
    /// When the stream cannot be read or is longer than `limit` bytes in all.
    pub fn drain(mut self, limit: u64) -> Result<R, LayerError> {
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
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            if self.block(header.as_mut_bytes())? && header.as_bytes().iter().any(|byte| *byte != 0) {
                return Err(self.malformed("a lone block of zeros"));
            }
            self.ended = true;
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum: u32 =
            bytes.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.malformed("a header with a wrong checksum"));
        }
        Ok(Some(header))
    }

    // False at the end of the stream; a part of a block is a truncation.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, LayerError> {
        let mut filled = 0;
        while filled < BLOCK {
            let count = read_some(&mut self.input, &mut block[filled..], self.position)?;
            if count == 0 {
                return if filled == 0 { Ok(false) } else { Err(LayerError::Truncated(self.position)) };
            }
            filled += count;
            self.position += count as u64;
        }
        Ok(true)
    }

    fn field_size(&self, header: &Header) -> Result<u64, LayerError> {
        let field = &header.as_bytes()[124..136];
        // Base-256: the crate reads the last eight of the twelve bytes, whatever stands before them.
        let huge = field[0] & 0x80 != 0 && (field[0] != 0x80 || field[1..4].iter().any(|byte| *byte != 0));
        match header.entry_size() {
            Ok(size) if !huge && i64::try_from(size).is_ok() => Ok(size),
            _ => Err(self.malformed("a header without a proper size")),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > self.limits.header {
            let what = "bytes of an extended header";
            return Err(LayerError::Limit { entry: b"(header)"[..].into(), what, limit: self.limits.header });
        }
        self.set_size(size);
        let mut content = Vec::new();
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
        if name.last() == Some(&0) {
            name.pop();
        }
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

    fn entry(&mut self, header: &Header, size: u64, pending: Pending) -> Result<Entry, LayerError> {
        let pax = pending.pax.unwrap_or_default();
        let path = pax.path.or(pending.long_path).unwrap_or_else(|| header.path_bytes().into_owned());
        let own_link = || header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
        let link = pax.link.or(pending.long_link).unwrap_or_else(own_link);
        let kind = self.entry_kind(header, &path, pax.sparse)?;
        let size = pax.size.unwrap_or(size);
        if kind != Kind::File && size != 0 {
            // Some readers skip such content and some take it for the next header.
            return Err(LayerError::Entry { entry: path[..].into(), why: "has content, though its type has none" });
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(LayerError::Entry { entry: path[..].into(), why: "has a NUL in its name" });
        }
        self.set_size(size);
        let mode = header.mode().map_err(|_| self.malformed("a header without a proper mode"))?;
        let (mtime, mtime_nsec) = pax.mtime.unwrap_or_else(|| (field_mtime(header), 0));
        Ok(Entry { path, link, kind, mode, mtime, mtime_nsec, size, xattrs: pax.xattrs, offset: self.position })
    }

    fn entry_kind(&self, header: &Header, path: &[u8], sparse: bool) -> Result<Kind, LayerError> {
        let refuse = |why| Err(LayerError::Entry { entry: path.into(), why });
        match header.as_bytes()[156] {
            // In archives older than POSIX a folder is a file whose name ends in a slash.
            0 if path.ends_with(b"/") => Ok(Kind::Folder),
            b'S' => refuse("is a sparse file, which image layers must not hold; repack it without --sparse"),
            0 | b'0' | b'7' if sparse => {
                refuse("is a sparse file, which image layers must not hold; repack it without --sparse")
            }
            0 | b'0' | b'7' => Ok(Kind::File),
            b'1' => Ok(Kind::HardLink),
            b'2' => Ok(Kind::Symlink),
            b'3' | b'4' => Ok(Kind::Device),
            b'5' => Ok(Kind::Folder),
            b'6' => Ok(Kind::Fifo),
            _ => refuse("is of a type that no image layer holds"),
        }
    }

    // Records are `LENGTH KEYWORD=VALUE\n`; the length counts itself, so a value may hold anything (pax(1)).
    fn pax(&self, mut content: &[u8]) -> Result<Pax, LayerError> {
        let mut pax = Pax::default();
        while !content.is_empty() {
            let (key, value, rest) = record(content).ok_or_else(|| self.malformed("a damaged PAX header"))?;
            content = rest;
            pax.apply(key, value).ok_or_else(|| self.malformed("a PAX header with a damaged value"))?;
        }
        Ok(pax)
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_path.is_none() && self.long_link.is_none()
    }
}

impl Pax {
    // An empty value takes an earlier one back. None when the value is damaged.
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let text = || std::str::from_utf8(value).ok();
        match key {
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" if value.is_empty() => self.size = None,
            b"size" => self.size = Some(number(text()?)?),
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(text()?)?),
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

fn record(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = content.iter().take(20).position(|byte| *byte == b' ')?;
    let length = number(std::str::from_utf8(&content[..space]).ok()?)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= content.len() && *length > space + 1)?;
    let (whole, rest) = content.split_at(length);
    let (newline, body) = whole[space + 1..].split_last()?;
    let equals = body.iter().position(|byte| *byte == b'=').filter(|at| *newline == b'\n' && *at > 0)?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

// Digits and nothing else: `parse` alone would take a `+`.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse().ok()? } else { return None };
    i64::try_from(number).ok().map(|_| number)
}

fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if let Some(negative) = whole.strip_prefix('-') {
        return number(negative).map(|_| (0, 0));
    }
    let seconds = clamp(number(whole)?);
    let nanos = format!("{fraction:0<9.9}").parse().ok()?;
    Some((seconds, nanos))
}

fn field_mtime(header: &Header) -> i64 {
    let field = &header.as_bytes()[136..148];
    // Base-256 with the sign set is a time before the epoch.
    if field[0] == 0xff { 0 } else { header.mtime().map_or(0, clamp) }
}

/// 2^33 - 1: the year 2242, which ext4, XFS and btrfs can all store.
pub(super) const MAX_TIME: i64 = (1 << 33) - 1;

fn clamp(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(MAX_TIME).min(MAX_TIME)
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
    if source.kind() == io::ErrorKind::UnexpectedEof {
        LayerError::Truncated(at)
    } else {
        LayerError::Read { at, source }
    }
}
