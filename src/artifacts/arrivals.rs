//! A folder of the user's that artifacts are put into. Links in it, perhaps from a copy of another build, are not followed out of it. A file appears
//! whole, by rename.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, readlinkat, renameat, statat, symlinkat,
    },
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::ArtifactError;
use crate::{
    model::{Artifact, Digest},
    system::{
        files::{FileError, sha256_of_all},
        removal::remove_at,
        rooted::Rooted,
        stop::StopToken,
    },
};

/// Names, or ends the name of, what is not whole yet.
pub(super) const PART: &str = ".smidr-part";

/// How long names may be, in bytes, on Linux's usual file systems.
const NAME: usize = 255;

/// What stands in the place of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
    /// Nothing.
    Nothing,
    /// It is there already.
    TheSame,
    /// Another file, or something else.
    Another,
}

/// The user's folder.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pub(super) root: Rooted,
    pub(super) dest: PathBuf,
}

impl Arrivals {
    /// Opens the folder, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn open(dest: &Path) -> Result<Self, ArtifactError> {
        fs::create_dir_all(dest).map_err(FileError::new("make the folder", dest))?;
        let root = Rooted::open(dest).map_err(|source| ArtifactError::Place { path: dest.into(), source })?;
        Ok(Self { root, dest: dest.into() })
    }

    /// What is in the place of an artifact.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn there(&self, artifact: &Artifact, stop: &StopToken) -> Result<There, ArtifactError> {
        // What is in the way of a folder, making the folder says.
        let Ok((folder, name)) = self.root.parent(&artifact.path) else { return Ok(There::Nothing) };
        let failed = FileError::new("read", &self.dest.join(&artifact.path));
        let found = match &artifact.link {
            Some(link) => match readlinkat(&folder, &name, Vec::new()) {
                Ok(found) => Ok(OsStr::from_bytes(found.to_bytes()) == link.as_os_str()),
                Err(Errno::INVAL) => Ok(false),
                Err(errno) => Err(errno),
            },
            None => is_same(&folder, &name, artifact.size, artifact.sha256.as_ref(), stop),
        };
        match found {
            Ok(true) => Ok(There::TheSame),
            Ok(false) => Ok(There::Another),
            Err(Errno::NOENT) => Ok(There::Nothing),
            // A link, or what is no file.
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::ACCESS) => Ok(There::Another),
            Err(errno) => Err(failed(errno.into()).into()),
        }
    }

    /// The folder that holds an artifact, which is made, and its name there.
    pub(super) fn folder<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), ArtifactError> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let folder = self.root.make_dirs(parent, 0o755);
        Ok((folder.map_err(|source| ArtifactError::Place { path: self.dest.join(path), source })?, name))
    }

    /// Makes a link, in the place of whatever file is there.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn link(&self, path: &Path, link: &Path) -> Result<(), ArtifactError> {
        let (folder, name) = self.folder(path)?;
        let made = part(&folder, |part| symlinkat(link, &folder, part));
        let shown = made.and_then(|()| renameat(&folder, PART, &folder, name));
        Ok(shown.map_err(|errno| FileError::new("make the link", &self.dest.join(path))(errno.into()))?)
    }

    /// Opens what there is of a file that is not whole yet. It is this process's alone for as long as it is open.
    ///
    /// # Errors
    ///
    /// When another process writes it, or the file system refuses.
    pub(crate) fn part(&self, artifact: &Artifact) -> Result<Part, ArtifactError> {
        let (folder, name) = self.folder(&artifact.path)?;
        let path = self.dest.join(&artifact.path);
        let begin = name.as_bytes().get(..name.len().min(NAME - PART.len())).unwrap_or_default();
        let part = OsString::from(OsStr::from_bytes(begin)).into_encoded_bytes();
        let part = OsStr::from_bytes(&[&part, PART.as_bytes()].concat()).to_owned();
        let file = open_part(&folder, &part).map_err(FileError::new("write", &path))?;
        Ok(Part { folder, name: name.into(), part, file, path, hash: Sha256::new(), length: 0 })
    }
}

fn is_same(
    folder: &OwnedFd,
    name: &OsStr,
    size: u64,
    sha256: Option<&Digest>,
    stop: &StopToken,
) -> rustix::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(folder, name, flags, Mode::empty())?);
    let is_alike = file.metadata().is_ok_and(|found| found.is_file() && found.len() == size);
    let read = || sha256_of_all(stop.reader(file));
    Ok(is_alike && read().is_ok_and(|(found, _)| sha256 == Some(&found)))
}

/// Makes the part that a copy begins as, in the place of what a killed one has left.
pub(super) fn part<T>(folder: &OwnedFd, make: impl Fn(OsString) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match make(PART.into()) {
        Err(Errno::EXIST) => {
            remove_at(folder.as_fd(), OsStr::new(PART))?;
            make(PART.into())
        }
        made => made,
    }
}

/// Opens a part for its only writer, and makes it if there is none.
fn open_part(folder: &OwnedFd, part: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        let file = match openat(folder, part, flags, Mode::from(0o644)) {
            // A link, or what is no file.
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
                remove_at(folder.as_fd(), part)?;
                continue;
            }
            opened => opened?,
        };
        let own = fstat(&file)?;
        // A second name of another file.
        if FileType::from_raw_mode(own.st_mode) != FileType::RegularFile || own.st_nlink > 1 {
            remove_at(folder.as_fd(), part)?;
            continue;
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => io::Error::new(io::ErrorKind::ResourceBusy, "another download writes it now"),
            errno => errno.into(),
        })?;
        // The one that held it before may have made it the whole file.
        match statat(folder, part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) if (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino) => return Ok(file.into()),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A file that is not whole yet. It stays when this is dropped.
pub(crate) struct Part {
    folder: OwnedFd,
    name: OsString,
    part: OsString,
    file: File,
    path: PathBuf,
    hash: Sha256,
    /// How many bytes there are.
    pub length: u64,
}

impl Part {
    /// Reads what there is, up to a size; what is larger is not the beginning of that file, and goes. Gives the number of bytes.
    ///
    /// # Errors
    ///
    /// When the file system refuses, or at a stop.
    pub(crate) fn resume(&mut self, size: u64, stop: &StopToken) -> Result<u64, ArtifactError> {
        let failed = || FileError::new("read", &self.path);
        if self.file.metadata().map_err(failed())?.len() > size {
            self.clear()?;
            return Ok(0);
        }
        let mut piece = vec![0; 256 << 10];
        loop {
            stop.check()?;
            let read = self.file.read(&mut piece).map_err(failed())?;
            let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else { return Ok(self.length) };
            self.hash.update(piece);
            self.length += read as u64;
        }
    }

    /// Adds to it.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), FileError> {
        self.file.write_all(piece).map_err(FileError::new("write", &self.path))?;
        self.hash.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Whether it is the file with that digest; any is, where none is known.
    pub(crate) fn is(&self, digest: Option<&Digest>) -> bool {
        digest.is_none_or(|digest| Digest::from_sha256(self.hash.clone().finalize().into()) == *digest)
    }

    /// Throws away what there is.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn clear(&mut self) -> Result<(), FileError> {
        let failed = || FileError::new("write", &self.path);
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(failed())?;
        (self.hash, self.length) = (Sha256::new(), 0);
        Ok(())
    }

    /// Shows it under its name, in the place of whatever file is there.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn show(self) -> Result<(), FileError> {
        let renamed = renameat(&self.folder, &self.part, &self.folder, &self.name);
        renamed.map_err(|errno| FileError::new("write", &self.path)(errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(path: &str, content: &[u8]) -> Artifact {
        let sha256 = Some(Digest::from_sha256(Sha256::digest(content).into()));
        Artifact { path: path.into(), size: content.len() as u64, sha256, link: None }
    }

    #[test]
    fn a_part_is_gone_on_with() {
        let yard = tempfile::tempdir().expect("a temporary folder");
        let arrivals = Arrivals::open(&yard.path().join("out")).expect("a folder");
        let stop = StopToken::default();
        let long = format!("d/{}", "n".repeat(NAME));
        for path in ["d/a", &long] {
            let artifact = artifact(path, b"content");
            let mut part = arrivals.part(&artifact).expect("a part");
            part.write(b"con").expect("written");
            assert!(arrivals.part(&artifact).is_err(), "two write it");
            drop(part);
            let mut part = arrivals.part(&artifact).expect("a part");
            assert_eq!(part.resume(artifact.size, &stop).expect("read"), 3);
            part.write(b"tent").expect("written");
            assert!(part.is(artifact.sha256.as_ref()));
            part.show().expect("shown");
            assert_eq!(arrivals.there(&artifact, &stop).expect("looked at"), There::TheSame, "{path}");
            // What is too long is no beginning.
            let mut part = arrivals.part(&artifact).expect("a part");
            part.write(b"far too long").expect("written");
            drop(part);
            let mut part = arrivals.part(&artifact).expect("a part");
            assert_eq!(part.resume(artifact.size, &stop).expect("read"), 0);
        }
    }

    #[test]
    fn a_part_is_no_way_to_another_file() {
        let yard = tempfile::tempdir().expect("a temporary folder");
        let [out, victim] = ["out", "victim"].map(|name| yard.path().join(name));
        fs::create_dir(&out).expect("a folder");
        fs::write(&victim, "precious").expect("a file");
        let arrivals = Arrivals::open(&out).expect("a folder");
        let there = out.join(format!("a{PART}"));
        std::os::unix::fs::symlink(&victim, &there).expect("a link");
        arrivals.part(&artifact("a", b"new")).expect("a part").write(b"new").expect("written");
        fs::remove_file(&there).expect("removed");
        fs::hard_link(&victim, &there).expect("a second name");
        let mut part = arrivals.part(&artifact("a", b"new")).expect("a part");
        part.clear().expect("cleared");
        assert_eq!(fs::read_to_string(&victim).expect("a file"), "precious");
    }
}
