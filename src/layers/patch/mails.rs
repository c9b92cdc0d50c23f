//! Mailboxes of patches: `git format-patch --stdout` writes a mail for each commit.
//!
//! Splits the text of a file into its mails, in order. Pure. Each mail is a patch of its own and is applied to the result of the
//! ones before it.

use std::borrow::Cow;

use crate::layers::git_error::shown;

/// One mail, or the whole of a file that is not a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mail<'a> {
    /// Its name in messages.
    pub name: String,
    /// The whole text.
    pub text: &'a [u8],
}

/// The mails of the file `file`. A mail without a patch, such as a cover letter, is left out if others have one.
pub(super) fn split<'a>(file: &str, text: &'a [u8]) -> Vec<Mail<'a>> {
    let texts = texts(text);
    let count = texts.len();
    let holds_patch = |text: &[u8]| encoding(text).is_some() || lines(text).any(begins_change);
    let has_patches = texts.iter().any(|text| holds_patch(text));
    let mails = texts.into_iter().enumerate().filter(|(_, text)| count == 1 || !has_patches || holds_patch(text));
    mails.map(|(at, text)| Mail { name: name(file, text, at + 1, count), text }).collect()
}

/// A mail without its header and message, which end where git takes them to end (`patchbreak` of mailinfo.c): at a bare `---`, or
/// where a change begins without one.
pub(super) fn patch_in(text: &[u8]) -> &[u8] {
    if !text.starts_with(b"From ") {
        return text;
    }
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.trim_ascii_end() == b"---" {
            return text.get(at + line.len()..).unwrap_or_default();
        }
        let is_name = |rest: &[u8]| rest.first().is_some_and(|byte| !byte.is_ascii_whitespace());
        if line.starts_with(b"diff -")
            || line.starts_with(b"Index: ")
            || line.strip_prefix(b"--- ").is_some_and(is_name)
        {
            return text.get(at..).unwrap_or_default();
        }
        at += line.len();
    }
    text
}

/// The transfer encoding of a mail whose text would have to be decoded (RFC 2045, 6).
pub(super) fn encoding(text: &[u8]) -> Option<&'static str> {
    const NAME: &[u8] = b"content-transfer-encoding:";
    if !text.starts_with(b"From ") {
        return None;
    }
    // Of the mail, or of a part of it.
    lines(text).find_map(|line| {
        let line = line.to_ascii_lowercase();
        let value = line.strip_prefix(NAME)?.trim_ascii();
        ["base64", "quoted-printable"].into_iter().find(|known| value == known.as_bytes())
    })
}

fn texts(text: &[u8]) -> Vec<&[u8]> {
    let mut texts = Vec::new();
    let (mut begin, mut at) = (0, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let before = text.get(begin..at).unwrap_or_default();
        if is_separator(line) && before.iter().any(|byte| !byte.is_ascii_whitespace()) {
            texts.push(before);
            begin = at;
        }
        at += line.len();
    }
    texts.extend(text.get(begin..));
    texts
}

// `From <commit> Mon Sep 17 00:00:00 2001` is git's own; of other mailboxes git knows it by a time of day and a year at the end
// (`is_from_line` of builtin/mailsplit.c), as patchwork and mail programs write it. No line of a hunk begins like this.
fn is_separator(line: &[u8]) -> bool {
    let Some(rest) = line.trim_ascii_end().strip_prefix(b"From ") else { return false };
    let words: Vec<&[u8]> = rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
    let is_commit = |word: &[u8]| [40, 64].contains(&word.len()) && word.iter().all(u8::is_ascii_hexdigit);
    let is_time = |word: &[u8]| matches!(word, [_, _, b':', _, _] | [_, _, b':', _, _, b':', _, _]);
    let is_year = |word: &[u8]| word.len() == 4 && word.iter().all(u8::is_ascii_digit);
    match words.as_slice() {
        [first, _, ..] if is_commit(first) => true,
        [_, .., time, year] => is_time(time) && is_year(year),
        _ => false,
    }
}

// Also lines that are a damaged change.
fn begins_change(line: &[u8]) -> bool {
    let starts: [&[u8]; 7] = [b"diff -", b"Index: ", b"--- ", b"+++ ", b"@@ -", b" @@ -", b"GIT binary patch"];
    starts.iter().any(|start| line.starts_with(start))
}

fn name(file: &str, text: &[u8], number: usize, count: usize) -> String {
    if count == 1 {
        return file.into();
    }
    let subject = subject(text).map(|subject| format!(", \"{}\"", shown(&subject))).unwrap_or_default();
    format!("{file} (mail {number} of {count}{subject})")
}

// Of the header, which ends with an empty line; a long one goes on in lines that begin with a space (RFC 5322, 2.2.3).
fn subject(text: &[u8]) -> Option<Cow<'_, str>> {
    const NAME: &[u8] = b"Subject:";
    let header = lines(text).take_while(|line| !line.trim_ascii().is_empty());
    let mut rest = header.skip_while(|line| !line.starts_with(NAME));
    let first = rest.next()?.strip_prefix(NAME)?;
    let more = rest.take_while(|line| line.starts_with(b" ") || line.starts_with(b"\t"));
    let all: Vec<&[u8]> = std::iter::once(first).chain(more).collect();
    Some(String::from_utf8_lossy(&all.concat()).into_owned().into())
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_mail_begins() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (line, begins) in [
            (format!("From {commit} Mon Sep 17 00:00:00 2001\n"), true),
            (format!("From {commit} Mon Sep 17 00:00:00 2001\r\n"), true),
            (format!("From {commit} 2026-01-02\n"), true),
            ("From patchwork Thu Jan  2 03:04:05 2026\n".into(), true),
            ("From somebody@example.org Thu Jan 2 03:04 2026\n".into(), true),
            (format!("From {commit}\n"), false),
            (format!(" From {commit} Mon Sep 17 00:00:00 2001\n"), false),
            ("From here on it is 2001\n".into(), false),
            ("From: somebody 00:00:00 2001\n".into(), false),
            ("From \n".into(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_separator(line.as_bytes()), begins, "{line:?}");
        }
    }

    #[test]
    fn what_a_mail_is_called() {
        let head = "From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n";
        let diff = "---\ndiff --git a/x b/x\n";
        let text = format!(
            "\n{head}Subject: [PATCH 0/2] letter\n\n1 file\n{head}From: x\nSubject: [PATCH 1/2] a long\n one\u{1b}[2J\nDate: x\n\n{diff}{head}\nSubject: no header\n{diff}"
        );
        let names: Vec<String> = split("x.mbox", text.as_bytes()).into_iter().map(|mail| mail.name).collect();
        assert_eq!(names, ["x.mbox (mail 2 of 3, \"[PATCH 1/2] a long one\\u{1b}[2J\")", "x.mbox (mail 3 of 3)"]);
        assert_eq!(split("x.patch", diff.as_bytes()), [Mail { name: "x.patch".into(), text: diff.as_bytes() }]);
        assert_eq!(split("x.patch", b"").len(), 1);
    }
}
