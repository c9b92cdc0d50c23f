//! Whether an image has the locale that BitBake insists on (bb.utils.check_system_locale): looked up in its unpacked layers,
//! never run.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{
    lowers::Lowers,
    store::{ImageStore, StoredImage},
};

/// The locale by itself, as `localedef --no-archive` leaves it.
const FOLDERS: [&str; 2] = ["usr/lib/locale/en_US.utf8", "usr/lib/locale/en_US.UTF-8"];

/// Many locales in one file, as `localedef` leaves them.
const ARCHIVE: &str = "usr/lib/locale/locale-archive";

/// What glibc calls `en_US.UTF-8` in that file.
const NAME: &[u8] = b"\0en_US.utf8\0";

/// The first number of such a file (locale/locarchive.h of glibc), and where the number of bytes before its names stands, and
/// how many bytes of names there are.
const MAGIC: u32 = 0xde02_0109;
const NAMES_AT: usize = 5;

/// Names of all locales that glibc knows take a tenth of that.
const MANY_NAMES: usize = 1 << 20;

/// Programs of musl take any locale for UTF-8 (setlocale(3) of musl), and have their own loader.
const MUSL: [&str; 2] = ["lib/ld-musl-x86_64.so.1", "lib/ld-musl-aarch64.so.1"];

impl ImageStore {
    /// Whether an image has the locale en_US.UTF-8; none where not all of its layers are unpacked.
    pub fn has_locale(&self, image: &StoredImage) -> Option<bool> {
        let diffs: Vec<PathBuf> = image.layer_list().map(|(_, diff_id)| self.diff(diff_id).join("fs")).collect();
        let layers = Lowers::open(&diffs).ok()?;
        let has_folder = || FOLDERS.iter().any(|folder| layers.has(&Path::new(folder).join("LC_CTYPE")));
        let in_archive = || layers.file(Path::new(ARCHIVE)).is_some_and(|(file, _)| names_it(&file));
        let is_musl = || MUSL.iter().any(|loader| layers.has(Path::new(loader)));
        Some(has_folder() || in_archive() || is_musl())
    }
}

/// Whether an archive of locales names the one. What is no such archive names nothing.
fn names_it(file: &File) -> bool {
    let mut head = [0; 4 * (NAMES_AT + 2)];
    if file.read_exact_at(&mut head, 0).is_err() {
        return false;
    }
    let (numbers, _) = head.as_chunks();
    let number = |at: usize| numbers.get(at).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let (begin, size) = (number(NAMES_AT), number(NAMES_AT + 1) as usize);
    if number(0) != MAGIC || size > MANY_NAMES {
        return false;
    }
    let mut names = vec![0];
    let whole = rustix::fs::seek(file, rustix::fs::SeekFrom::Start(begin.into())).is_ok()
        && file.take(size as u64).read_to_end(&mut names).is_ok_and(|read| read == size);
    whole && names.windows(NAME.len()).any(|window| window == NAME)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An archive with these names, as localedef writes it: the head, two tables that do not matter here, and the names.
    fn archive(magic: u32, names: &[u8], said: u32) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        for number in [magic, 1, 56, 0, 1, 64, said, said] {
            file.write_all(&number.to_ne_bytes()).expect("write");
        }
        file.write_all(&[0; 32]).expect("write");
        file.write_all(names).expect("write");
        file
    }

    #[test]
    fn the_archive_is_asked_for_the_one_name() {
        for (names, expected) in [
            (&b"C.utf8\0en_US.utf8\0"[..], true),
            (b"en_US.utf8\0", true),
            (b"en_US\0en_US.utf8@x\0", false),
            (b"de_DE.utf8\0", false),
        ] {
            let size = u32::try_from(names.len()).expect("short");
            assert_eq!(names_it(&archive(MAGIC, names, size)), expected, "{}", String::from_utf8_lossy(names));
        }
        let names = b"en_US.utf8\0";
        assert!(!names_it(&archive(1, names, 11)), "no archive");
        assert!(!names_it(&archive(MAGIC, names, 12)), "it ends too early");
        assert!(!names_it(&archive(MAGIC, names, u32::MAX)), "nobody has so many names");
        assert!(!names_it(&tempfile::tempfile().expect("a file")));
    }
}
