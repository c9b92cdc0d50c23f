//! Lines of what a program prints, through a pipe.

use std::io::{self, BufRead as _, BufReader, PipeReader};

/// Longer lines of a console are cut into pieces, in bytes.
pub const LINE_LIMIT: u64 = 64 * 1024;

/// The lines that come through a pipe, of at most `limit` bytes, with anything that is no UTF-8 replaced. Longer ones are cut after a
/// space where they have one: a secret that came in two pieces would not be recognised.
pub fn lines(pipe: PipeReader, limit: u64) -> impl Iterator<Item = String> {
    let mut reader = BufReader::new(pipe);
    let mut rest = Vec::new();
    std::iter::from_fn(move || {
        let mut bytes = std::mem::take(&mut rest);
        let room = limit.saturating_sub(bytes.len() as u64);
        let read = io::Read::take(&mut reader, room).read_until(b'\n', &mut bytes);
        if read.is_err() || bytes.is_empty() {
            return None;
        }
        if bytes.len() as u64 >= limit
            && !bytes.ends_with(b"\n")
            && let Some(space) = bytes.iter().rposition(|byte| *byte == b' ')
        {
            rest = bytes.split_off(space + 1);
        }
        let text = String::from_utf8_lossy(&bytes);
        Some(text.trim_end_matches(['\n', '\r']).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn long_lines_are_cut_between_words() {
        let (pipe, mut end) = io::pipe().expect("a pipe");
        end.write_all(b"one two three\nabcdefghijklmno pq\n\nlast \r\n\xff\n12345678\nhalf").expect("written");
        drop(end);
        let got: Vec<String> = lines(pipe, 8).collect();
        let expected =
            ["one two ", "three", "abcdefgh", "ijklmno ", "pq", "", "last ", "\u{fffd}", "12345678", "", "half"];
        assert_eq!(got, expected);
    }
}
