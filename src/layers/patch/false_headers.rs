//! Lines that look like half of a file's header, and are words of somebody.
//!
//! In goes a unified diff that is not git's, out comes the same without such lines: the parser takes `--- not` for a file. Pure. For git a
//! header is `---`, then `+++`, then a hunk (`find_header` of apply.c), and never inside of a hunk.

use std::borrow::Cow;

/// The diff with such lines as comments: what they stand between stays apart, and the parser's positions are those of the file.
pub fn without(body: &[u8]) -> Cow<'_, [u8]> {
    let mut body = Cow::Borrowed(body);
    for at in strays(&body) {
        body.to_mut().iter_mut().skip(at).take(1).for_each(|sign| *sign = b'#');
    }
    body
}

// Where they begin.
fn strays(body: &[u8]) -> Vec<usize> {
    let mut strays = Vec::new();
    let mut hunk = Hunk::default();
    let (mut at, mut is_headed) = (0, false);
    for line in lines(body) {
        let end = at + line.len();
        if hunk.takes(line) {
            is_headed = false;
        } else if line.starts_with(b"--- ") {
            let mut next = lines(body.get(end..).unwrap_or_default());
            let mut follows = |start: &[u8]| next.next().is_some_and(|line| line.starts_with(start));
            is_headed = follows(b"+++ ") && follows(b"@@ -");
            if !is_headed {
                strays.push(at);
            }
        } else if line.starts_with(b"+++ ") && !is_headed {
            strays.push(at);
        } else {
            is_headed = false;
            hunk = Hunk::of(line).unwrap_or_default();
        }
        at = end;
    }
    strays
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

/// How many lines of a hunk are still to come, before and after the change.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hunk {
    old: usize,
    new: usize,
}

impl Hunk {
    // `@@ -5,3 +5,4 @@`; a count of one is left out.
    fn of(line: &[u8]) -> Option<Self> {
        let ranges = std::str::from_utf8(line.strip_prefix(b"@@ -")?.split(|byte| *byte == b'@').next()?).ok()?;
        let (old, new) = ranges.trim_end().split_once(" +")?;
        let count = |range: &str| range.split_once(',').map_or(Some(1), |(_, count)| count.parse().ok());
        Some(Self { old: count(old)?, new: count(new)? })
    }

    fn takes(&mut self, line: &[u8]) -> bool {
        let (old, new) = match line.first() {
            _ if *self == Self::default() => return false,
            // Mail programs take the space from empty lines.
            Some(b' ' | b'\n' | b'\r') => (1, 1),
            Some(b'-') => (1, 0),
            Some(b'+') => (0, 1),
            Some(b'\\') => (0, 0),
            _ => {
                *self = Self::default();
                return false;
            }
        };
        *self = Self { old: self.old.saturating_sub(old), new: self.new.saturating_sub(new) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_go() {
        let hunk = "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@ x\n one\n--- two\n+++ 2\n";
        for (text, expected) in [
            (hunk.to_owned(), hunk.to_owned()),
            (
                format!("--- not\n{hunk}+++ nor\n--- this\n+++ nor that\n"),
                format!("#-- not\n{hunk}#++ nor\n#-- this\n#++ nor that\n"),
            ),
            (
                format!("words\n--- not\n\n{hunk}-- \n2.39\n{hunk}"),
                format!("words\n#-- not\n\n{hunk}-- \n2.39\n{hunk}"),
            ),
            (
                "@@ -1 +1 @@\n--- x\n\\ No newline at end of file\n+++ y\n".into(),
                "@@ -1 +1 @@\n--- x\n\\ No newline at end of file\n+++ y\n".into(),
            ),
            ("@@ -1,x +1 @@\n--- z".into(), "@@ -1,x +1 @@\n#-- z".into()),
            (String::new(), String::new()),
        ] {
            assert_eq!(String::from_utf8_lossy(&without(text.as_bytes())), expected, "{text}");
        }
    }
}
