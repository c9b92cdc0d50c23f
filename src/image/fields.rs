//! The fields of a tar header: names and numbers at fixed places of 512 bytes. Pure; knows nothing of their combination.
//!
//! The `tar` crate has such functions too, but they accept a `+` in a number and take the last eight of twelve bytes for all of
//! them. Attacks use sizes on which parsers disagree.

use std::ops::Range;

/// The size of which everything in an archive is a multiple.
pub(super) const BLOCK: usize = 512;

/// A header, as raw bytes.
pub(super) type Block = [u8; BLOCK];

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const PREFIX: Range<usize> = 345..500;
// star keeps times at the end of POSIX's prefix, and marks that at the end of the block.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_MAGIC: Range<usize> = 508..512;

/// The type: a letter or digit.
pub(super) fn kind(block: &Block) -> u8 {
    block[KIND]
}

/// The mode field; none when it is not a number.
pub(super) fn mode(block: &Block) -> Option<u32> {
    // Bits beyond 32 have no meaning; the caller masks the rest.
    number(&block[MODE]).map(|mode| (mode & 0xffff_ffff) as u32)
}

/// The size field; none when it is not a number, negative, or beyond 63 bits.
pub(super) fn size(block: &Block) -> Option<u64> {
    length(&block[SIZE])
}

/// Seconds since the epoch, also before it; 0 when it is not a number, since nothing depends on it.
pub(super) fn mtime(block: &Block) -> i128 {
    number(&block[MTIME]).unwrap_or(0)
}

/// Whether the checksum is right, taken over unsigned bytes or, as some old programs did, over signed ones.
pub(super) fn is_sound(block: &Block) -> bool {
    let counted = || block.iter().enumerate().map(|(at, byte)| if CHECKSUM.contains(&at) { b' ' } else { *byte });
    let unsigned: i128 = counted().map(i128::from).sum();
    let signed: i128 = counted().map(|byte| i128::from(byte.cast_signed())).sum();
    // A blank checksum is wrong, though other fields may be blank.
    let is_blank = text(&block[CHECKSUM]).is_empty();
    !is_blank && number(&block[CHECKSUM]).is_some_and(|sum| sum == unsigned || sum == signed)
}

/// Whether the header is in GNU's own form, which uses POSIX's prefix for something else.
pub(super) fn is_gnu(block: &Block) -> bool {
    block[MAGIC] == *b"ustar  \0"
}

/// The name, with its prefix where the header's form has one.
pub(super) fn path(block: &Block) -> Vec<u8> {
    let name = text(&block[NAME]);
    let is_posix = block[MAGIC].starts_with(b"ustar\0");
    let prefix = if block[STAR_MAGIC] == *b"tar\0" { &block[STAR_PREFIX] } else { &block[PREFIX] };
    match text(prefix) {
        prefix if is_posix && !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

/// The target of a link.
pub(super) fn link(block: &Block) -> Vec<u8> {
    text(&block[LINK]).to_vec()
}

/// A number of bytes; none when it is not a number, negative, or beyond 63 bits.
pub(super) fn length(field: &[u8]) -> Option<u64> {
    number(field).and_then(|number| i64::try_from(number).ok()).and_then(|number| u64::try_from(number).ok())
}

// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

// Octal digits among spaces, ended by a NUL or the field's end; blank is 0, as in Go, Python and libarchive. With the
// highest bit set it is GNU's base-256: all other bits are a number in two's complement. Twelve bytes fit 128 bits.
fn number(field: &[u8]) -> Option<i128> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            let sign = if first & 0x40 == 0 { i128::from(first & 0x3f) } else { i128::from(first | 0x80) - 0x100 };
            Some(rest.iter().fold(sign, |number, byte| number << 8 | i128::from(*byte)))
        }
        _ => octal(text(field.trim_ascii_start())),
    }
}

fn octal(text: &[u8]) -> Option<i128> {
    text.trim_ascii().iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'7' => Some(number << 3 | i128::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_strictly() {
        let rows: [(&[u8], Option<i128>); 18] = [
            (b"00000000017\0", Some(15)),
            (b"00000000017 ", Some(15)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"         17\0", Some(15)),
            (b"17\0garbage..", Some(15)),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", Some(0)),
            (b"            ", Some(0)),
            (b"+7\0", None),
            (b"-7\0", None),
            (b"8\0", None),
            (b"1 7\0", None),
            (b"0x7\0", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\0\x0f", Some(15)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", Some(1 << 64)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", Some(-(1 << 94))),
            (b"\xbf\0\0\0\0\0\0\0\0\0\0\0", Some(0x3f << 88)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
        ];
        for (field, expected) in rows {
            assert_eq!(number(field), expected, "{}", field.escape_ascii());
        }
        assert_eq!(length(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(length(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None);
        assert_eq!(length(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX as u64));
    }

    #[test]
    fn a_prefix_belongs_to_the_name_only_where_the_form_has_one() {
        let mut block = [0; BLOCK];
        block[..4].copy_from_slice(b"name");
        block[PREFIX].fill(b'p');
        assert_eq!(path(&block), b"name", "before POSIX there was none");
        block[MAGIC].copy_from_slice(b"ustar  \0");
        assert_eq!(path(&block), b"name", "GNU keeps times there");
        block[MAGIC].copy_from_slice(b"ustar\x0000");
        assert_eq!(path(&block).len(), 155 + 5);
        block[STAR_MAGIC].copy_from_slice(b"tar\0");
        assert_eq!(path(&block).len(), 131 + 5, "star keeps times there too");
        block[PREFIX].fill(0);
        assert_eq!(path(&block), b"name");
    }

    #[test]
    fn checksums_count_bytes_with_or_without_sign() {
        let mut block = [0; BLOCK];
        block[..4].copy_from_slice(b"\xfcber");
        assert!(!is_sound(&block), "no checksum at all");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        for (sum, expected) in [(sum, true), (sum - 256, true), (sum + 1, false)] {
            block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(is_sound(&block), expected, "{sum}");
        }
    }
}
