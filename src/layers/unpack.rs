//! Unpacks the archive of a path layer that a client has sent: hostile input. Takes only what [`super::pack`] writes: files, folders and links in GNU's
//! form of tar. The archive is hashed while it is read, and its tree counts only when this has succeeded.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType};
use walkdir::WalkDir;

use crate::{
    model::{Digest, Kind, UserError},
    system::{
        files::{FileError, read_part},
        rooted::{Missing, Rooted, RootedError},
    },
};

/// Of a path or of a link's target, in bytes (PATH_MAX).
const LONGEST: u64 = 4096;

/// Entries of one archive. What it holds costs an inode each, and its size says little about their number.
const MOST_ENTRIES: usize = 200_000;

/// BitBake tells versions of a file apart by its time, in seconds.
const STEP: Duration = Duration::from_secs(1);

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be read, or is no tar archive.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// It is another one than was announced.
    #[error("the archive is {found} with {size} bytes, and not {wanted}")]
    Digest {
        /// The digest that was announced.
        wanted: Digest,
        /// What it is.
        found: Digest,
        /// Its size.
        size: u64,
    },
    /// An entry that no layer has.
    #[error("the entry `{}` of the archive {why}", path.display())]
    Entry {
        /// Its path, as the archive has it.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Too many of them.
    #[error("the archive has more than {MOST_ENTRIES} entries")]
    TooMany,
    /// Where an entry should go.
    #[error(transparent)]
    Rooted(#[from] RootedError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for UnpackError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(error) => Kind::of_io(error),
            Self::Digest { .. } | Self::Entry { .. } | Self::TooMany => Kind::Request,
            Self::Rooted(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }
}

/// Unpacks into an empty folder. After a failure its content is worth nothing.
///
/// # Errors
///
/// When the archive is not that of the digest, or holds what no layer has; and when the file system refuses.
pub fn unpack(archive: impl Read, digest: &Digest, folder: &Path) -> Result<(), UnpackError> {
    let mut archive = Archive::new(Hashed { from: archive, hash: Sha256::new(), size: 0 });
    let root = Rooted::open(folder)?;
    add_all(&mut archive, &root)?;
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(UnpackError::Read)?;
    let found = Digest::from_sha256(rest.hash.finalize().into());
    if found != *digest {
        return Err(UnpackError::Digest { wanted: digest.clone(), found, size: rest.size });
    }
    finish(folder, &root)
}

/// Counts and hashes what is read.
struct Hashed<R> {
    from: R,
    hash: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = read_part(&mut self.from, buffer)?;
        self.hash.update(part);
        self.size += part.len() as u64;
        Ok(part.len())
    }
}

fn add_all<R: Read>(archive: &mut Archive<R>, root: &Rooted) -> Result<(), UnpackError> {
    let (mut name, mut target) = (None, None);
    // Raw: long names are read here, within limits.
    for (count, entry) in archive.entries().map_err(UnpackError::Read)?.raw(true).enumerate() {
        if count >= MOST_ENTRIES {
            return Err(UnpackError::TooMany);
        }
        let mut entry = entry.map_err(UnpackError::Read)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => name = Some(long(&mut entry)?),
            EntryType::GNULongLink => target = Some(long(&mut entry)?),
            _ => add(&mut entry, name.take(), target.take(), root)?,
        }
    }
    Ok(())
}

/// A long name, which the next entry has.
fn long(entry: &mut Entry<'_, impl Read>) -> Result<PathBuf, UnpackError> {
    let mut bytes = Vec::new();
    entry.take(LONGEST + 1).read_to_end(&mut bytes).map_err(UnpackError::Read)?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    let path = PathBuf::from(OsStr::from_bytes(bytes));
    if bytes.len() as u64 >= LONGEST { Err(refuse(&path, "has too long a name")) } else { Ok(path) }
}

fn add(
    entry: &mut Entry<'_, impl Read>,
    name: Option<PathBuf>,
    target: Option<PathBuf>,
    root: &Rooted,
) -> Result<(), UnpackError> {
    let named = name.unwrap_or_else(|| OsStr::from_bytes(&entry.path_bytes()).into());
    let path = clean(&named)?;
    let kind = entry.header().entry_type();
    if kind == EntryType::Directory {
        return place(root, &path, &named).map(drop);
    }
    let Some(name) = path.file_name() else { return Err(refuse(&named, "is the layer itself")) };
    let parent = place(root, path.parent().unwrap_or(Path::new("")), &named)?;
    let failed = || FileError::new("write", &path);
    match kind {
        EntryType::Regular => {
            let mut file = parent.create_file(Path::new(name))?;
            let size = entry.size();
            let written = io::copy(entry, &mut file).map_err(failed())?;
            if written != size {
                return Err(refuse(&named, "is cut off"));
            }
            let mode = if entry.header().mode().unwrap_or_default() & 0o111 == 0 { 0o644 } else { 0o755 };
            Ok(file.set_permissions(Permissions::from_mode(mode)).map_err(failed())?)
        }
        EntryType::Symlink => {
            let written = entry.link_name_bytes().unwrap_or_default();
            let target = target.unwrap_or_else(|| OsStr::from_bytes(&written).into());
            let made = rustix::fs::symlinkat(&target, parent.root(), name);
            Ok(made.map_err(|error| failed()(error.into()))?)
        }
        _ => Err(refuse(&named, "is no file, folder or symbolic link")),
    }
}

/// The folder of an entry. No link leads there.
fn place(root: &Rooted, folder: &Path, named: &Path) -> Result<Rooted, UnpackError> {
    let walked = root.walk(folder, Missing::Make(0o755))?;
    if walked.path != folder {
        return Err(refuse(named, "lies behind a symbolic link"));
    }
    Ok(Rooted::from_fd(walked.dir))
}

fn clean(named: &Path) -> Result<PathBuf, UnpackError> {
    let mut path = PathBuf::new();
    for part in named.components() {
        match part {
            Component::Normal(name) if name.eq_ignore_ascii_case(".git") => {
                return Err(refuse(named, "belongs to a .git, which git on this machine would obey"));
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(refuse(named, "has `..` in its path")),
            Component::RootDir | Component::Prefix(_) => return Err(refuse(named, "has an absolute path")),
        }
    }
    Ok(path)
}

/// Refuses links that lead out, now that all are there, and opens folders to all, whatever the umask was.
fn finish(folder: &Path, root: &Rooted) -> Result<(), UnpackError> {
    for entry in WalkDir::new(folder) {
        let entry = entry.map_err(|error| FileError::new("read", folder)(error.into()))?;
        let inside = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        if entry.path_is_symlink() && root.leads_out(inside) {
            return Err(refuse(inside, "is a link that leads out of the layer"));
        }
        if entry.file_type().is_dir() {
            let opened = fs::set_permissions(entry.path(), Permissions::from_mode(0o755));
            opened.map_err(FileError::new("set the mode of", entry.path()))?;
        }
    }
    Ok(())
}

/// Gives files that an older tree has too their times there, and others a later one: BitBake then parses again what has changed, and no more.
///
/// # Errors
///
/// When the file system refuses.
pub fn keep_times(old: &Path, new: &Path) -> Result<(), UnpackError> {
    let root = Rooted::open(old)?;
    for entry in WalkDir::new(new) {
        let entry = entry.map_err(|error| FileError::new("read", new)(error.into()))?;
        let inside = entry.path().strip_prefix(new).unwrap_or(entry.path());
        let Some(known) = entry.file_type().is_file().then(|| open(&root, inside)).flatten() else { continue };
        let failed = || FileError::new("set the time of", entry.path());
        let mut file = fs::File::open(entry.path()).map_err(failed())?;
        let time = known.metadata().and_then(|found| found.modified()).map_err(failed())?;
        let is_same = same(&mut file, known).map_err(failed())?;
        let time = if is_same { time } else { SystemTime::now().max(time + STEP) };
        file.set_modified(time).map_err(failed())?;
    }
    Ok(())
}

/// A file of a tree in which a shell may have put anything.
fn open(root: &Rooted, path: &Path) -> Option<fs::File> {
    let file = fs::File::from(root.open_plain(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?);
    file.metadata().is_ok_and(|found| found.is_file()).then_some(file)
}

fn same(one: &mut fs::File, mut other: fs::File) -> io::Result<bool> {
    let (one_is, other_is) = (one.metadata()?, other.metadata()?);
    if (one_is.len(), one_is.mode() & 0o111) != (other_is.len(), other_is.mode() & 0o111) {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let part = read_part(one, &mut left)?;
        let Some(wanted) = right.get_mut(..part.len()) else { return Ok(false) };
        match other.read_exact(wanted) {
            Ok(()) if part == wanted => {}
            _ => return Ok(false),
        }
        if part.is_empty() {
            return Ok(true);
        }
    }
}

fn refuse(path: &Path, why: &'static str) -> UnpackError {
    UnpackError::Entry { path: path.into(), why }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tar::{Builder, Header};

    use super::*;

    /// An entry with any name, which `tar` itself refuses to write.
    fn entry(archive: &mut Vec<u8>, kind: EntryType, name: &str, target: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        archive.extend(header.as_bytes());
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }

    fn unpacked(archive: &[u8]) -> (tempfile::TempDir, Result<(), String>) {
        let top = tempfile::tempdir().expect("a temporary folder");
        let folder = top.path().join("layer");
        fs::create_dir(&folder).expect("a folder");
        fs::write(top.path().join("victim"), "mine").expect("a file");
        let digest = Digest::from_sha256(Sha256::digest(archive).into());
        let done = unpack(archive, &digest, &folder).map_err(|error| error.to_string());
        assert_eq!(fs::read_to_string(top.path().join("victim")).expect("a file"), "mine");
        assert_eq!(fs::read_dir(top.path()).expect("a folder").count(), 2);
        (top, done)
    }

    #[test]
    fn a_layer_comes_back_as_it_was() {
        let mut archive = Vec::new();
        let mut builder = Builder::new(&mut archive);
        let long = format!("{0}/{0}", "long".repeat(40));
        for (name, mode) in [("conf/layer.conf", 0o644), ("run", 0o4755), (long.as_str(), 0o600)] {
            let mut header = Header::new_gnu();
            header.set_mode(mode);
            header.set_size(name.len() as u64);
            builder.append_data(&mut header, name, name.as_bytes()).expect("packed");
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "conf/link", "../run").expect("packed");
        builder.append_link(&mut header, "far", &long).expect("packed");
        drop(builder);
        let (top, done) = unpacked(&archive);
        assert_eq!(done, Ok(()));
        let at = |name: &str| top.path().join("layer").join(name);
        let mode = |name: &str| at(name).metadata().expect("found").permissions().mode() & 0o7777;
        assert_eq!([mode("conf/layer.conf"), mode("run"), mode(&long), mode("conf")], [0o644, 0o755, 0o644, 0o755]);
        for (name, text) in [("conf/link", "run"), ("far", &long), (&long, &long)] {
            assert_eq!(fs::read_to_string(at(name)).expect("a file"), text);
        }
        let other = Digest::from_sha256([7; 32]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(matches!(unpack(&*archive, &other, folder.path()), Err(UnpackError::Digest { .. })));
    }

    #[test]
    fn a_hostile_archive_is_refused() {
        let file = EntryType::Regular;
        let link = EntryType::Symlink;
        type Row<'a> = (&'a [(EntryType, &'a str, &'a str)], &'a str);
        let rows: &[Row<'_>] = &[
            (&[(file, "../victim", "")], "has `..` in its path"),
            (&[(file, "a/../../victim", "")], "has `..` in its path"),
            (&[(file, "/victim", "")], "has an absolute path"),
            (&[(link, "out", "..")], "is a link that leads out"),
            (&[(link, "out", "/etc/passwd")], "is a link that leads out"),
            (&[(link, "here", "."), (link, "out", "here/here/../../victim")], "is a link that leads out"),
            (&[(link, "out", ".."), (file, "out/victim", "")], "lies behind a symbolic link"),
            (&[(link, "d", "e"), (EntryType::Directory, "e", ""), (file, "d/x", "")], "lies behind a symbolic link"),
            (&[(link, "out", "../victim"), (EntryType::Directory, "out", "")], "lies behind a symbolic link"),
            (&[(file, "a", ""), (file, "a/b", "")], "is not a folder"),
            (&[(file, "a", ""), (link, "a", "b")], "cannot write a"),
            (&[(EntryType::Link, "a", "/etc/passwd")], "is no file, folder or symbolic link"),
            (&[(EntryType::Char, "a", "")], "is no file, folder or symbolic link"),
            (&[(EntryType::Block, "a", "")], "is no file, folder or symbolic link"),
            (&[(EntryType::Fifo, "a", "")], "is no file, folder or symbolic link"),
            (&[(EntryType::XHeader, "a", "")], "is no file, folder or symbolic link"),
            (&[(EntryType::GNUSparse, "a", "")], "is no file, folder or symbolic link"),
            (&[(file, ".git/config", "")], "belongs to a .git"),
            (&[(file, "a/.GIT", "")], "belongs to a .git"),
            (&[(file, ".", "")], "is the layer itself"),
        ];
        for (entries, why) in rows {
            let mut archive = Vec::new();
            entries.iter().for_each(|(kind, name, target)| entry(&mut archive, *kind, name, target, b""));
            let (_, done) = unpacked(&archive);
            let error = done.expect_err(why);
            assert!(error.contains(why), "{entries:?}: {error}");
        }
        // A link is replaced by a file, not followed.
        let mut archive = Vec::new();
        entry(&mut archive, link, "out", "../victim", b"");
        entry(&mut archive, file, "out", "", b"theirs");
        let (top, done) = unpacked(&archive);
        assert_eq!(done, Ok(()));
        assert_eq!(fs::read_to_string(top.path().join("layer/out")).expect("a file"), "theirs");
    }

    #[test]
    fn an_archive_that_lies_about_itself_is_refused() {
        let mut archive = Vec::new();
        entry(&mut archive, EntryType::Regular, "a", "", &[b'x'; 2000]);
        let (_, done) = unpacked(&archive[..1500]);
        done.expect_err("cut off");
        let (_, done) = unpacked(b"no archive at all, and longer than nothing".repeat(20).as_slice());
        done.expect_err("no archive");
        let mut long = Vec::new();
        entry(&mut long, EntryType::GNULongName, "x", "", &[b'n'; 5000]);
        entry(&mut long, EntryType::Regular, "a", "", b"");
        assert!(unpacked(&long).1.expect_err("long").contains("has too long a name"));
        let deep = "d/".repeat(1500) + "x";
        let mut archive = Vec::new();
        entry(&mut archive, EntryType::GNULongName, "x", "", deep.as_bytes());
        entry(&mut archive, EntryType::Regular, "a", "", b"");
        assert!(unpacked(&archive).1.expect_err("deep").contains("folders deep"));
    }

    #[test]
    fn only_what_has_changed_gets_a_new_time() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| top.path().join(name);
        let day = |count: u32| SystemTime::UNIX_EPOCH + Duration::from_secs(86_400) * count;
        let write = |name: &str, text: &str, time: SystemTime| {
            fs::create_dir_all(at(name).parent().expect("a folder")).expect("folders");
            fs::write(at(name), text).expect("a file");
            fs::File::open(at(name)).and_then(|file| file.set_modified(time)).expect("a time");
        };
        let later = SystemTime::now() + Duration::from_secs(1000);
        for (name, old, new, time) in [
            ("same", "x", "x", day(3)),
            ("changed", "x", "y", day(3)),
            ("future", "x", "y", later),
            ("grown", "", "y", day(3)),
        ] {
            write(&format!("old/{name}"), old, time);
            write(&format!("new/{name}"), new, day(9));
        }
        write("new/added", "x", day(9));
        write("new/linked", "x", day(9));
        symlink(at("new/linked"), at("old/linked")).expect("a link");
        rustix::fs::mknodat(rustix::fs::CWD, at("old/pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a pipe");
        write("new/pipe", "x", day(9));
        keep_times(&at("old"), &at("new")).expect("times");
        let time = |name: &str| at("new").join(name).metadata().and_then(|found| found.modified()).expect("a time");
        assert_eq!(time("same"), day(3));
        assert_eq!(time("future"), later + STEP);
        assert!(time("changed") > day(10_000) && time("grown") > day(10_000));
        assert_eq!([time("added"), time("linked"), time("pipe")], [day(9); 3]);
    }
}
