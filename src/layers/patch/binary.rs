//! Binary patches, as `git diff --binary` writes them.
//!
//! In go a parsed block and the content before, out comes the content after. Pure, and never larger than it says it is: a few
//! lines of a patch could otherwise fill any memory, which is why `diffy`'s own decoder is not used.

use std::io::Read as _;

use diffy::binary::{BinaryBlock, BinaryBlockKind, BinaryPatch};
use gix::{ObjectId, hash::Kind as Hash, objs::Kind};

/// As large as a file may become.
const MAX_SIZE: u64 = 1 << 30;

const DIGITS: &[u8; 85] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

/// The content after, if the patch is meant for what was there before.
///
/// # Errors
///
/// What is wrong.
pub fn apply(old: &[u8], patch: &BinaryPatch<'_>, ids: Option<&Ids>) -> Result<Vec<u8>, &'static str> {
    let BinaryPatch::Full { forward, .. } = patch else {
        return Err("it names a binary file without its content");
    };
    let Ids { before, after } = ids.ok_or("it has no whole ids, which are what tells whether it fits")?;
    is(before, old)?;
    // A file that goes.
    let new = if after.is_null() { Vec::new() } else { block(old, forward)? };
    is(after, &new)?;
    Ok(new)
}

/// What a file was, and what it becomes, as git's ids have it; null for a file that is not there.
#[derive(Debug, PartialEq, Eq)]
pub struct Ids {
    before: ObjectId,
    after: ObjectId,
}

/// The ids that a patch gives for each of its files, in order. The parser does not keep them.
pub fn ids(patch: &[u8]) -> Vec<Option<Ids>> {
    let mut found = Vec::new();
    for line in patch.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end) {
        if line.starts_with(b"diff --git ") {
            found.push(None);
        } else if let (Some(last), Some(ids)) = (found.last_mut(), line.strip_prefix(b"index ")) {
            *last = last.take().or_else(|| whole(ids));
        }
    }
    found
}

// `<id>..<id>`, and perhaps a mode.
fn whole(text: &[u8]) -> Option<Ids> {
    let ids = text.split(|byte| *byte == b' ').next()?;
    let (before, after) = ids.split_at_checked(40)?;
    let id = |text: &[u8]| ObjectId::from_hex(text).ok();
    Some(Ids { before: id(before)?, after: id(after.strip_prefix(b"..")?)? })
}

fn is(id: &ObjectId, content: &[u8]) -> Result<(), &'static str> {
    let same = if id.is_null() {
        content.is_empty()
    } else {
        gix::objs::compute_hash(Hash::Sha1, Kind::Blob, content).is_ok_and(|found| found == *id)
    };
    if same { Ok(()) } else { Err("it is meant for another content") }
}

fn block(base: &[u8], block: &BinaryBlock<'_>) -> Result<Vec<u8>, &'static str> {
    let data = inflate(&base85(block.data.data)?, block.data.size)?;
    match block.kind {
        BinaryBlockKind::Literal => Ok(data),
        BinaryBlockKind::Delta => delta(base, &data).ok_or("it is meant for another content"),
    }
}

fn base85(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    const DAMAGED: &str = "its base85 is damaged";
    let mut all = Vec::new();
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    for (letter, digits) in lines.filter_map(<[u8]>::split_first) {
        let count = match letter {
            letter @ b'A'..=b'Z' => letter - b'A' + 1,
            letter @ b'a'..=b'z' => letter - b'a' + 27,
            _ => return Err(DAMAGED),
        };
        let mut bytes = Vec::new();
        for group in digits.chunks(5) {
            let mut value: u64 = 0;
            for digit in group {
                let digit = DIGITS.iter().position(|known| known == digit).ok_or(DAMAGED)?;
                value = value * 85 + digit as u64;
            }
            let value = u32::try_from(value).ok().filter(|_| group.len() == 5).ok_or(DAMAGED)?;
            bytes.extend(value.to_be_bytes());
        }
        let count = usize::from(count);
        if bytes.len() != count.next_multiple_of(4) {
            return Err(DAMAGED);
        }
        all.extend(bytes.iter().take(count));
    }
    Ok(all)
}

fn inflate(packed: &[u8], size: u64) -> Result<Vec<u8>, &'static str> {
    if size > MAX_SIZE {
        return Err("it makes a file of more than a gigabyte");
    }
    let mut data = Vec::new();
    let read = flate2::read::ZlibDecoder::new(packed).take(size + 1).read_to_end(&mut data);
    if read.is_ok_and(|read| read as u64 == size) { Ok(data) } else { Err("its content is damaged") }
}

// gitformat-pack(5), deltified representation.
fn delta(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let mut rest = delta;
    if number(&mut rest)? != base.len() as u64 {
        return None;
    }
    let size = number(&mut rest).filter(|size| *size <= MAX_SIZE)?;
    let mut new = Vec::new();
    while let Some(op) = next(&mut rest) {
        let piece = if op & 0x80 == 0 {
            let (piece, after) = rest.split_at_checked(usize::from(op)).filter(|_| op != 0)?;
            rest = after;
            piece
        } else {
            let offset = packed(&mut rest, op, 4)?;
            let length = Some(packed(&mut rest, op >> 4, 3)?).filter(|length| *length != 0).unwrap_or(0x10000);
            base.get(offset..offset.checked_add(length)?)?
        };
        if (new.len() + piece.len()) as u64 > size {
            return None;
        }
        new.extend_from_slice(piece);
    }
    (new.len() as u64 == size).then_some(new)
}

fn next(rest: &mut &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    Some(*first)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = next(rest).filter(|_| shift < 63)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

// Bytes that are zero are left out; the low bits of `given` say which are there.
fn packed(rest: &mut &[u8], given: u8, bytes: usize) -> Option<usize> {
    (0..bytes)
        .filter(|at| given & (1 << at) != 0)
        .try_fold(0, |value, at| Some(value | usize::from(next(rest)?) << (8 * at)))
}
