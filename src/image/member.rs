//! The headers of the tar archives that smidr writes: POSIX ustar, with a PAX header only where ustar has no room. Pure.
//!
//! Equal members give equal bytes: owner 0:0 only, no names of owners, no time of this machine.

use tar::{EntryType, Header};

/// Octal digits in twelve bytes, one of them the end: 8 GiB less one.
const USTAR_MAX: u64 = 0o777_7777_7777;
const NAME: usize = 100;

/// The content of a header.
#[derive(Debug)]
pub(super) struct Member<'a> {
    /// Relative, with a `/` at the end of a folder.
    pub path: &'a [u8],
    /// Its type.
    pub kind: EntryType,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Bytes of content.
    pub size: u64,
    /// Target of a link.
    pub link: &'a [u8],
    /// Extended attributes, sorted.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Member<'_> {
    /// The bytes before the content.
    pub(super) fn header(&self) -> Vec<u8> {
        let records = self.records();
        let mut bytes = Vec::with_capacity(512);
        if !records.is_empty() {
            let fields = [&b"././@PaxHeader"[..], b""];
            bytes.extend(ustar(fields, EntryType::XHeader, 0o644, 0, records.len() as u64));
            bytes.extend(&records);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        let size = if self.size > USTAR_MAX { 0 } else { self.size };
        bytes.extend(ustar([self.path, self.link], self.kind, self.mode, self.mtime, size));
        bytes
    }

    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        if self.path.len() > NAME {
            record(&mut records, b"path", self.path);
        }
        if self.link.len() > NAME {
            record(&mut records, b"linkpath", self.link);
        }
        if self.size > USTAR_MAX {
            record(&mut records, b"size", self.size.to_string().as_bytes());
        }
        for (name, value) in self.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        records
    }
}

/// Zeros after a content of `size` bytes.
pub(super) fn padding(size: u64) -> &'static [u8] {
    // Below 512, so it fits any integer.
    END.get(..(size.next_multiple_of(512) - size) as usize).unwrap_or_default()
}

/// The end mark of an archive.
pub(super) const END: [u8; 1024] = [0; 1024];

fn ustar([path, link]: [&[u8]; 2], kind: EntryType, mode: u32, mtime: i64, size: u64) -> [u8; 512] {
    let mut header = Header::new_ustar();
    let names = header.as_old_mut();
    for (field, text) in [(&mut names.name, path), (&mut names.linkname, link)] {
        field.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header.set_cksum();
    *header.as_bytes()
}

// The length counts its own digits, so it is found by trial.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut digits = 1;
    while (rest + digits).to_string().len() > digits {
        digits += 1;
    }
    records.extend((rest + digits).to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [0, 1, 80, 84, 85, 86, 87, 88, 89, 90, 91, 983, 984, 985, 986, 987, 988, 989, 990, 991, 992, 993]
        {
            let mut records = Vec::new();
            record(&mut records, b"path", &vec![b'x'; length]);
            let space = records.iter().position(|byte| *byte == b' ').expect("a space");
            let said: usize = String::from_utf8_lossy(&records[..space]).parse().expect("a number");
            assert_eq!(said, records.len(), "a value of {length} bytes");
        }
    }
}
