//! Sparse files of an archive: which pieces of the file are stored, the rest being holes.
//!
//! Two of the forms that GNU tar writes are read into one checked [`Map`]: its own header of type `S`, with blocks of map behind it, and
//! PAX 1.0, with the map before the content (GNU tar's manual, "Storing Sparse Files"). The older PAX forms 0.0 and 0.1 are refused.
//! A few bytes can claim a huge map (CVE-2025-58183), so pieces are counted as they are read.

use std::{io::Read, ops::Range};

use super::{
    fields::{self, BLOCK, Block},
    layer_error::LayerError,
    limits::Limits,
    pax,
};

/// Offset in the file and length of each stored piece, ascending, none of them empty.
pub(super) type Pieces = Vec<(u64, u64)>;

const OLD_MAP: Range<usize> = 386..482;
const OLD_GOES_ON: usize = 482;
const OLD_REAL_SIZE: Range<usize> = 483..495;
const MORE_MAP: Range<usize> = 0..504;
const MORE_GOES_ON: usize = 504;

/// The size of one piece in an old map: twice twelve bytes.
const OLD_PIECE: usize = 24;

/// A map that is being read.
pub(super) struct Map<'a> {
    entry: &'a [u8],
    limit: u64,
    size: u64,
    seen: u64,
    end: u64,
    stored: u64,
    pieces: Pieces,
}

impl<'a> Map<'a> {
    /// For the file `entry`, whose size is `size` bytes with holes.
    pub(super) fn new(entry: &'a [u8], size: u64, limits: &Limits) -> Self {
        Self { entry, limit: limits.pieces, size, seen: 0, end: 0, stored: 0, pieces: Pieces::new() }
    }

    fn refuse(&self, why: &'static str) -> LayerError {
        LayerError::Entry { entry: self.entry.into(), why }
    }

    fn expect(&self, count: u64) -> Result<(), LayerError> {
        let what = "pieces of a sparse file";
        let entry = || self.entry.into();
        if count > self.limit { Err(LayerError::Limit { entry: entry(), what, limit: self.limit }) } else { Ok(()) }
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<(), LayerError> {
        self.seen += 1;
        self.expect(self.seen)?;
        if offset < self.end {
            return Err(self.refuse("is a sparse file whose pieces overlap or are not in order"));
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.size => self.end = end,
            _ => return Err(self.refuse("is a sparse file with a piece beyond its end")),
        }
        self.stored += length;
        if length > 0 {
            self.pieces.push((offset, length));
        }
        Ok(())
    }

    /// The map, if it accounts for all bytes that are stored.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn finish(self, stored: u64) -> Result<Pieces, LayerError> {
        if self.stored == stored {
            Ok(self.pieces)
        } else {
            Err(self.refuse("is a sparse file whose pieces are not as long as what is stored of it"))
        }
    }

    /// Reads the map of PAX 1.0 from the beginning of a content of `stored` bytes, at `offset` in the archive; it
    /// fills whole blocks. Gives how many bytes of the content are left.
    ///
    /// # Errors
    ///
    /// When it is damaged or too long.
    pub(super) fn read_text(&mut self, content: &mut impl Read, offset: u64, stored: u64) -> Result<u64, LayerError> {
        let mut lines = Lines { content, offset, left: stored, block: [0; BLOCK], at: BLOCK };
        let count = lines.number(self.entry)?;
        self.expect(count)?;
        for _ in 0..count {
            let (offset, length) = (lines.number(self.entry)?, lines.number(self.entry)?);
            self.push(offset, length)?;
        }
        Ok(lines.left)
    }

    /// Reads the map of a GNU header; `more` reads further blocks of it.
    ///
    /// # Errors
    ///
    /// When it is damaged or too long.
    pub(super) fn read_old(
        &mut self,
        header: &Block,
        mut more: impl FnMut() -> Result<Block, LayerError>,
    ) -> Result<(), LayerError> {
        let mut goes_on = self.push_fields(&header[OLD_MAP])? && header[OLD_GOES_ON] != 0;
        self.refuse_rest(goes_on, header[OLD_GOES_ON])?;
        while goes_on {
            let block = more()?;
            goes_on = self.push_fields(&block[MORE_MAP])? && block[MORE_GOES_ON] != 0;
            self.refuse_rest(goes_on, block[MORE_GOES_ON])?;
        }
        Ok(())
    }

    // GNU tar ends a map at its first blank; other readers continue as long as a block says that another follows. The two must agree.
    fn refuse_rest(&self, goes_on: bool, mark: u8) -> Result<(), LayerError> {
        if mark != 0 && !goes_on {
            Err(self.refuse("is a sparse file whose map goes on after its end"))
        } else {
            Ok(())
        }
    }

    // Whether all of them were used.
    fn push_fields(&mut self, fields: &[u8]) -> Result<bool, LayerError> {
        for piece in fields.chunks_exact(OLD_PIECE) {
            let (offset, length) = piece.split_at(OLD_PIECE / 2);
            if offset.starts_with(&[0]) && length.starts_with(&[0]) {
                return Ok(false);
            }
            // GNU tar ends a map where the length is blank, Go where the offset is.
            let number = |field: &[u8]| fields::length(field).filter(|_| !field.starts_with(&[0]));
            let (Some(offset), Some(length)) = (number(offset), number(length)) else {
                return Err(self.refuse(DAMAGED));
            };
            self.push(offset, length)?;
        }
        Ok(true)
    }
}

const DAMAGED: &str = "is a sparse file with a damaged map";

/// The size of the file of a GNU header, with holes.
pub(super) fn old_size(header: &Block) -> Option<u64> {
    fields::length(&header[OLD_REAL_SIZE]).filter(|_| fields::is_gnu(header))
}

// Numbers, each on a line of its own.
struct Lines<'a, R> {
    content: &'a mut R,
    offset: u64,
    left: u64,
    block: Block,
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self, entry: &[u8]) -> Result<u64, LayerError> {
        let damaged = || LayerError::Entry { entry: entry.into(), why: DAMAGED };
        let mut line = Vec::new();
        loop {
            let Some(&byte) = self.block.get(self.at) else {
                self.left = self.left.checked_sub(BLOCK as u64).ok_or_else(damaged)?;
                let read = self.content.read_exact(&mut self.block);
                read.map_err(|source| super::archive::read_error(source, self.offset))?;
                self.at = 0;
                continue;
            };
            self.at += 1;
            match byte {
                b'\n' => return pax::number(&line).ok_or_else(damaged),
                // 63 bits have no more digits.
                digit if line.len() < 19 => line.push(digit),
                _ => return Err(damaged()),
            }
        }
    }
}

/// The records `GNU.sparse.*` of a PAX header.
#[derive(Debug, Default)]
pub(super) struct Records {
    any: bool,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    version: [Option<u64>; 2],
    /// There is a record of the forms 0.0 and 0.1, which other readers may prefer.
    older: bool,
}

impl Records {
    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        !self.any
    }

    /// The file's real name: the header has a made-up one, for programs that cannot read sparse files.
    pub(super) fn name(&mut self) -> Option<Vec<u8>> {
        self.name.take()
    }

    /// Takes one record, without the common prefix. None when its value is damaged.
    pub(super) fn apply(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.any = true;
        match key {
            b"name" => self.name = (!value.is_empty()).then(|| value.to_vec()),
            b"realsize" => self.size = Some(pax::number(value)?),
            b"major" => self.version[0] = Some(pax::number(value)?),
            b"minor" => self.version[1] = Some(pax::number(value)?),
            b"size" | b"numblocks" | b"offset" | b"numbytes" | b"map" => self.older = true,
            _ => {}
        }
        Some(())
    }

    /// The size of the file, with holes. Its map stands before the content.
    ///
    /// # Errors
    ///
    /// When the records are not those of PAX 1.0, or give no size.
    pub(super) fn size(&self) -> Result<u64, &'static str> {
        match self.version {
            [Some(1), Some(0)] if !self.older => self.size.ok_or("is a sparse file without a size"),
            _ => Err(
                "is a sparse file in a form other than PAX 1.0 and old GNU; pack it again without --sparse, or with --sparse-version=1.0",
            ),
        }
    }
}
