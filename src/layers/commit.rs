//! Commits as git log reads them: what is odd in one, such as an author without a mail or a date as text, hides neither the commit nor its parents.

use gix::{ObjectId, Repository, bstr::ByteSlice as _, objs::CommitRefIter};

/// A commit's text.
pub(super) struct Commit {
    data: Vec<u8>,
}

impl Commit {
    /// The commit with an id; none where it is not here.
    pub(super) fn find(repository: &Repository, id: ObjectId) -> Option<Self> {
        let mut commit = repository.find_commit(id).ok()?;
        Some(Self { data: std::mem::take(&mut commit.data) })
    }

    /// Its parents.
    pub(super) fn parents(&self) -> Vec<ObjectId> {
        CommitRefIter::from_bytes(&self.data, gix::hash::Kind::Sha1).parent_ids().collect()
    }

    /// When it was committed, in seconds since 1970; 0 where it does not say.
    pub(super) fn committed(&self) -> i64 {
        self.seconds("committer").unwrap_or_default()
    }

    /// When its change was written.
    pub(super) fn authored(&self) -> Option<i64> {
        self.seconds("author")
    }

    /// The first paragraph of its message, in one line.
    pub(super) fn subject(&self) -> String {
        let message = self.data.split_once_str("\n\n").map(|(_, message)| message).unwrap_or_default();
        let encoding = self.header("encoding").and_then(encoding_rs::Encoding::for_label);
        let text = encoding.unwrap_or(encoding_rs::UTF_8).decode_without_bom_handling(message).0;
        let lines = text.lines().map(str::trim).skip_while(|line| line.is_empty());
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let header = self.data.split_once_str("\n\n").map_or(&self.data[..], |(header, _)| header);
        header.lines().find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b" "))
    }

    // `NAME <MAIL> SECONDS ZONE`.
    fn seconds(&self, who: &str) -> Option<i64> {
        let (_, time) = self.header(who)?.rsplit_once_str(">")?;
        time.fields().next()?.to_str().ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_lines() {
        let of = |who: &str, more: &str, message: &[u8]| Commit {
            data: [format!("tree x\nauthor {who}\ncommitter {who}\n{more}\n").as_bytes(), message].concat(),
        };
        for (who, seconds) in [
            ("A <a@x> 1700000000 +51800", Some(1_700_000_000)),
            ("A <a@x> -1 +0000", Some(-1)),
            ("A<g <A<g@x>> 1282910542 +0200", Some(1_282_910_542)),
            ("NoMail 1700000000 +0000", None),
            ("A <a@x> 18446744073709551614 +0000", None),
            ("A <a@x>", None),
            ("A <a@x> Tue Jan 1 00:00:00 2008", None),
        ] {
            let commit = of(who, "", b"one\n");
            assert_eq!((commit.authored(), commit.committed()), (seconds, seconds.unwrap_or_default()), "{who}");
        }
        for (more, message, subject) in [
            ("", &b"\n\none\ntwo\n\nauthor x\n"[..], "one two"),
            ("encoding ISO-8859-1\n", b"caf\xe9\n", "caf\u{e9}"),
            ("encoding no-such\n", "caf\u{e9}".as_bytes(), "caf\u{e9}"),
            ("gpgsig x\n encoding latin1\n", "caf\u{e9}".as_bytes(), "caf\u{e9}"),
            ("", b"", ""),
        ] {
            assert_eq!(of("A <a> 1 +0000", more, message).subject(), subject);
        }
    }
}
