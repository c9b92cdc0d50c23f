//! Copies one file: data as data, holes as holes, without setuid and similar bits.

use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, Read as _, Seek as _},
    ops::Range,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use crate::{events::Redactor, system::stop::StopToken};

/// Without setuid, setgid and sticky: a copy must not run with its owner's rights. Without the right to write: several builds share what is kept.
const KEPT: u32 = 0o555;

/// What a copy of what is kept has besides: it is its owner's alone.
const OWN: u32 = 0o200;

/// Opens a regular file for reading; it may have been replaced by something else since it was listed.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

/// Shares the blocks where the file system can (btrfs, xfs). Whether it could.
pub(super) fn share(source: &File, target: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

/// How many bytes of a file are not holes.
///
/// # Errors
///
/// When the file system refuses.
pub(crate) fn data_in(source: &File) -> io::Result<u64> {
    stretches(source)?
        .try_fold(0_u64, |sum, stretch| stretch.map(|Range { start, end }| sum.saturating_add(end - start)))
}

/// Copies the data, without secrets. No secret lies on both sides of a hole.
pub(super) fn copy_data(source: &File, target: &File, redactor: &Redactor, stop: &StopToken) -> io::Result<()> {
    copy_first(source, target, redactor, u64::MAX, stop)
}

/// Copies the data of the first `length` bytes, without secrets.
pub(super) fn copy_first(
    source: &File,
    target: &File,
    redactor: &Redactor,
    length: u64,
    stop: &StopToken,
) -> io::Result<()> {
    let (mut reader, mut writer) = (source, target);
    let length = length.min(source.metadata()?.len());
    let mut filled = 0;
    for stretch in stretches(source)? {
        let Range { start, end } = stretch?;
        let end = end.min(length);
        if start >= end {
            break;
        }
        reader.seek(io::SeekFrom::Start(start))?;
        writer.seek(io::SeekFrom::Start(start))?;
        redactor.copy(stop.reader(reader.take(end - start)), writer)?;
        filled = end;
    }
    // A hole at its end.
    if filled < length { target.set_len(length) } else { Ok(()) }
}

/// Tells a file from others, whatever names it has.
pub(super) fn id(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// The permissions that a file is kept with.
pub(super) fn kept_mode(source: &Metadata) -> u32 {
    source.mode() & KEPT
}

/// The permissions of the user's own copy of what was kept.
pub(super) fn own_mode(kept: &Metadata) -> u32 {
    kept_mode(kept) | OWN
}

/// Gives the copy permissions, and the time of the last change that the file has.
pub(super) fn dress(source: &Metadata, target: &File, mode: u32) -> io::Result<()> {
    target.set_permissions(Permissions::from_mode(mode))?;
    target.set_modified(source.modified()?)
}

/// Where a file has data: everywhere, for a file system without support for holes (lseek(2)).
fn stretches(file: &File) -> io::Result<impl Iterator<Item = io::Result<Range<u64>>>> {
    let length = file.metadata()?.len();
    let mut at = 0;
    Ok(std::iter::from_fn(move || {
        if at >= length {
            return None;
        }
        let found =
            seek(file, SeekFrom::Data(at)).and_then(|start| Ok(start..seek(file, SeekFrom::Hole(start))?.min(length)));
        let found = match found {
            // Only a hole follows.
            Err(Errno::NXIO) => return None,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(at..length),
            found => found,
        };
        // An error ends the iteration.
        at = found.as_ref().map_or(length, |stretch| stretch.end.max(at + 1));
        Some(found.map_err(io::Error::from))
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::model::Secrets;

    #[test]
    fn data_is_copied_and_holes_stay() {
        const HOLE: u64 = 64 << 20;
        let mut source = tempfile::tempfile().expect("a file");
        let mut secrets = Secrets::default();
        secrets.add_variable("TOKEN", "hunter2000");
        for (redactor, expected) in [(Redactor::default(), "my hunter2000"), (Redactor::new(&secrets), "my ***")] {
            source.set_len(0).expect("empty");
            for at in [0, HOLE] {
                source.seek(io::SeekFrom::Start(at)).expect("a place");
                source.write_all(b"my hunter2000").expect("written");
            }
            source.set_len(3 * HOLE).expect("longer");
            let target = tempfile::tempfile().expect("a file");
            copy_data(&source, &target, &redactor, &StopToken::default()).expect("copied");
            let found = target.metadata().expect("metadata");
            assert_eq!(found.len(), 3 * HOLE);
            assert!(found.blocks() * 512 <= 1 << 20, "{} blocks", found.blocks());
            assert!(data_in(&source).expect("counted") <= 1 << 20);
            for at in [0, HOLE] {
                let mut text = vec![0; expected.len()];
                std::os::unix::fs::FileExt::read_exact_at(&target, &mut text, at).expect("read");
                assert_eq!(text, expected.as_bytes());
            }
        }
        let target = tempfile::tempfile().expect("a file");
        copy_first(&source, &target, &Redactor::default(), 5, &StopToken::default()).expect("copied");
        assert_eq!(target.metadata().expect("metadata").len(), 5);
    }
}
