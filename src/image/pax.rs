//! PAX extended headers, which describe the next entry of an archive. Pure.
//!
//! Records are `LENGTH KEYWORD=VALUE\n`; the length counts itself, so a value may hold anything (pax(1), "pax Header Block").

use super::{sparse, tree};

/// The content of one extended header.
#[derive(Debug, Default)]
pub(super) struct Pax {
    /// Replaces the header's name.
    pub path: Option<Vec<u8>>,
    /// Replaces the header's target of a link.
    pub link: Option<Vec<u8>>,
    /// Replaces the header's size, always.
    pub size: Option<u64>,
    /// Seconds and nanoseconds, within the range of [`clamp`].
    pub mtime: Option<(i64, u32)>,
    /// The records of a sparse file.
    pub sparse: sparse::Records,
    /// Extended attributes that a diff keeps, in their order.
    pub xattrs: tree::Xattrs,
    // Bytes of the attributes' names.
    listed: usize,
}

impl Pax {
    /// Reads a whole extended header.
    ///
    /// # Errors
    ///
    /// When it is damaged, with the reason.
    pub(super) fn parse(content: &[u8]) -> Result<Self, &'static str> {
        let mut pax = Self::default();
        each(content, |key, value| pax.apply(key, value).ok_or("a PAX header with a damaged value"))?;
        Ok(pax)
    }

    // An empty value cancels an earlier one. None when the value is damaged.
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let text = || std::str::from_utf8(value).ok();
        match key {
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" if value.is_empty() => self.size = None,
            b"size" => self.size = Some(number(value)?),
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(text()?)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.apply(name, value)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.").filter(|name| tree::keeps_xattr(name)) {
                    self.listed += name.len() + 1;
                    // More could be set than the kernel lists, and then the file can neither be compared nor packed. Half is left for names that security
                    // modules add.
                    if self.listed <= tree::XATTR_LIST / 2 {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Some(())
    }
}

/// Whether a global header is well-formed. It would apply to all entries that follow; smidr ignores it, as do the Go programs
/// that write and read nearly all images.
///
/// # Errors
///
/// When it is damaged.
pub(super) fn check(content: &[u8]) -> Result<(), &'static str> {
    each(content, |_, _| Ok(()))
}

fn each<'a>(
    mut content: &'a [u8],
    mut use_record: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    while !content.is_empty() {
        let (key, value, rest) = record(content).ok_or("a damaged PAX header")?;
        use_record(key, value)?;
        content = rest;
    }
    Ok(())
}

fn record(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = content.iter().take(20).position(|byte| *byte == b' ')?;
    let length = number(content.get(..space)?)?;
    let (whole, rest) = content.split_at_checked(usize::try_from(length).ok()?)?;
    let (newline, body) = whole.get(space + 1..)?.split_last()?;
    let equals = body.iter().position(|byte| *byte == b'=').filter(|at| *newline == b'\n' && *at > 0)?;
    let (key, value) = (body.get(..equals)?, body.get(equals + 1..)?);
    (!key.contains(&0)).then_some((key, value, rest))
}

/// Decimal digits only, within 63 bits: `parse` alone would accept a `+`.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = if digits { std::str::from_utf8(text).ok()?.parse().ok()? } else { return None };
    i64::try_from(number).ok().map(|_| number)
}

fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if let Some(negative) = whole.strip_prefix('-') {
        return number(negative.as_bytes()).map(|_| (0, 0));
    }
    let seconds = number(whole.as_bytes())?.into();
    let nanos = format!("{fraction:0<9.9}").parse().ok()?;
    // A clamped time has no fraction.
    Some((clamp(seconds), if seconds > MAX_TIME.into() { 0 } else { nanos }))
}

/// 2^33 - 1: the year 2242, which ext4, XFS and btrfs can all store.
pub(super) const MAX_TIME: i64 = (1 << 33) - 1;

/// A time that every file system can store.
pub(super) fn clamp(seconds: i128) -> i64 {
    i64::try_from(seconds.clamp(0, MAX_TIME.into())).unwrap_or(MAX_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_clamped_and_cut_to_nanoseconds() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1234567890.5", Some((1_234_567_890, 500_000_000))),
            ("1.123456789999", Some((1, 123_456_789))),
            ("5.", Some((5, 0))),
            ("-1", Some((0, 0))),
            ("-0.5", Some((0, 0))),
            ("8589934591.25", Some((MAX_TIME, 250_000_000))),
            ("8589934592.25", Some((MAX_TIME, 0))),
            ("9223372036854775807", Some((MAX_TIME, 0))),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            (".5", None),
            ("+5", None),
            ("5.x", None),
            ("5.-1", None),
            ("1e9", None),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
        assert_eq!((clamp(-5), clamp(1 << 70)), (0, MAX_TIME));
    }

    #[test]
    fn an_empty_value_takes_an_earlier_one_back() {
        let all = b"10 path=a\n11 path=bb\n8 path=\n10 size=5\n8 size=\n18 SCHILY.xattr.=\n";
        let pax = Pax::parse(all).expect("well-formed");
        assert_eq!((pax.path, pax.size), (None, None));
    }

    #[test]
    fn damaged_records_are_refused() {
        for content in [
            &b"0 path=x\n"[..],
            b"9 path=x",
            b"99 path=x\n",
            b"8 path=x\n",
            b"11 path=x\n",
            b" 9 path=x\n",
            b"+9 path=x\n",
            b"5 =x\n",
            b"6 pat\n",
            b"2 \n",
            b"9",
            b"9 p\0th=x\n",
            b"99999999999999999999 path=x\n",
            b"\0\0\0\0",
            b"9 path=x\n\0",
        ] {
            assert!(Pax::parse(content).is_err() && check(content).is_err(), "{}", content.escape_ascii());
        }
    }
}
