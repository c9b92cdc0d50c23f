//! Path layers as archives, for a daemon that has no such folder. The same files give the same archive.
//!
//! What a repository ignores is left out, as are `.git` folders: `.gitignore` up to the top of the repository and its `.git/info/exclude` decide,
//! not what the user's own configuration ignores, which would make archives of two users differ. What git tracks is sent, ignored or not.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use ignore::WalkBuilder;
use tar::{Builder, EntryType, Header};

use super::local::{Local, repository, tracked};
use crate::{
    model::{Hint, Kind, SubmittedLayer, UserError},
    plan::{Plan, PlannedPath, PlannedSource},
    system::{
        files::{FileError, sha256_of_all},
        rooted::{Rooted, RootedError},
    },
};

/// What may be in one layer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files and links.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 100_000, bytes: 1 << 30 }
    }
}

/// A path layer, ready to be sent.
#[derive(Debug)]
pub struct PackedLayer {
    /// What a submission says of it.
    pub layer: SubmittedLayer,
    /// Where it stands.
    pub folder: PathBuf,
    /// What is in it, in the order of names.
    pub files: Vec<PackedFile>,
    /// The archive, from its beginning. It has no name, and goes with this value.
    pub archive: File,
}

/// A file of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFile {
    /// In the layer.
    pub path: PathBuf,
    /// In bytes; none for a link.
    pub size: Option<u64>,
    /// Whether its repository does not know it.
    pub is_new: bool,
}

/// Why a layer cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// No such folder.
    #[error("the layer `{name}` is not there: {} does not exist", path.display())]
    Missing {
        /// The layer.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// OpenEmbedded-Core without its scripts, which its COREBASE, the folder above, has.
    #[error("the layer `{name}` cannot be sent: it needs what stands beside it in {}", path.display())]
    Core {
        /// The layer.
        name: String,
        /// The folder above it.
        path: PathBuf,
    },
    /// A symbolic link whose target is not sent.
    #[error("the layer `{name}` cannot be sent: its link {} leads out of it", path.display())]
    LinkOut {
        /// The layer.
        name: String,
        /// The link, in the layer.
        path: PathBuf,
    },
    /// Neither a file nor a folder nor a link.
    #[error("the layer `{name}` cannot be sent: {} is a {what}", path.display())]
    Special {
        /// The layer.
        name: String,
        /// In the layer.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// More than one submission should bring.
    #[error("the layer `{name}` cannot be sent: it holds more than {limit} {what}")]
    TooLarge {
        /// The layer.
        name: String,
        /// How many.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// A file that was written to meanwhile.
    #[error("the layer `{name}` cannot be sent: {} was changed while it was read", path.display())]
    Changed {
        /// The layer.
        name: String,
        /// In the layer.
        path: PathBuf,
    },
    /// The layer's folder cannot be walked through.
    #[error("cannot read the layer `{name}`")]
    Walk {
        /// The layer.
        name: String,
        /// What is wrong.
        source: ignore::Error,
    },
    /// Resolving links.
    #[error(transparent)]
    Rooted(#[from] RootedError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for PackError {
    fn kind(&self) -> Kind {
        match self {
            Self::Rooted(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Walk { source, .. } => source.io_error().map_or(Kind::Host, Kind::of_io),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Missing { .. } => vec![Hint::new("paths are relative to smidr.yaml")],
            Self::Core { path, .. } => {
                let above = path.file_name().unwrap_or_default().display().to_string();
                vec![Hint::new(format!("name that folder instead, as in  path: ../{above}  with  include: [meta]"))]
            }
            Self::LinkOut { .. } => vec![Hint::new("put what it leads to into the layer")],
            Self::Special { .. } | Self::TooLarge { .. } => {
                vec![Hint::new("what its repository ignores (.gitignore) is not sent")]
            }
            Self::Changed { .. } => vec![Hint::new("start the build again")],
            Self::Walk { .. } | Self::Rooted(_) => Vec::new(),
            Self::File(error) => error.hints(),
        }
    }
}

/// Packs the path layers of a plan, and BitBake where it is a folder. `home` is the caller's; archives are written below `tmp`.
///
/// # Errors
///
/// The first layer that cannot be sent.
pub fn pack(plan: &Plan, home: &Path, tmp: &Path, limits: Limits) -> Result<Vec<PackedLayer>, PackError> {
    let folders = plan.sources().filter_map(|(name, source)| match source {
        PlannedSource::Path(path) => Some((name, path)),
        PlannedSource::Git(_) => None,
    });
    folders.map(|(name, path)| one(name, path, home, tmp, limits)).collect()
}

fn one(name: &str, path: &PlannedPath, home: &Path, tmp: &Path, limits: Limits) -> Result<PackedLayer, PackError> {
    let missing = |_| PackError::Missing { name: name.into(), path: path.folder.clone() };
    let folder = fs::canonicalize(&path.folder).map_err(missing)?;
    if let Some(above) = folder.parent().filter(|above| above.join("oe-init-build-env").is_file())
        && folder.join("conf/layer.conf").is_file()
    {
        return Err(PackError::Core { name: name.into(), path: above.into() });
    }
    // Before its files are read: what changes afterwards is taken for a change, or is none.
    let pin = Local::find(name, path, home).pin;
    let mut packer = Packer {
        name,
        root: Rooted::open(&folder)?,
        files: Vec::new(),
        room: limits.bytes,
        limits,
        archive: Builder::new(BufWriter::new(tempfile::tempfile_in(tmp).map_err(FileError::new("write in", tmp))?)),
    };
    for (path, is_new) in paths(name, &folder, home, limits)? {
        packer.add(&folder, path, is_new)?;
    }
    let (files, mut archive) = packer.finish(tmp)?;
    let failed = || FileError::new("read an archive in", tmp);
    archive.rewind().map_err(failed())?;
    let (digest, size) = sha256_of_all(&archive).map_err(failed())?;
    archive.rewind().map_err(failed())?;
    let layer = SubmittedLayer { name: name.into(), digest, size, commit: pin.commit, dirty: pin.dirty };
    Ok(PackedLayer { layer, folder: path.folder.clone(), files, archive })
}

/// What of a folder is sent, relative to it, and whether its repository does not know it.
fn paths(name: &str, folder: &Path, home: &Path, limits: Limits) -> Result<BTreeMap<PathBuf, bool>, PackError> {
    let top = repository(folder, home);
    let is_taken = top.is_some();
    let mut walk = WalkBuilder::new(folder);
    walk.standard_filters(false).parents(is_taken).git_ignore(is_taken).git_exclude(is_taken);
    walk.filter_entry(|entry| entry.file_name() != ".git");
    let mut paths = BTreeMap::new();
    let mut take = |path: &Path, is_new: bool| {
        paths.insert(path.strip_prefix(folder).unwrap_or(path).to_owned(), is_new);
        match paths.len() > limits.files {
            true => Err(PackError::TooLarge { name: name.into(), limit: limits.files as u64, what: "files" }),
            false => Ok(()),
        }
    };
    for entry in walk.build() {
        let entry = entry.map_err(|source| PackError::Walk { name: name.into(), source })?;
        // Folders are made for what is in them.
        if !entry.file_type().is_none_or(|kind| kind.is_dir()) {
            take(entry.path(), is_taken)?;
        }
    }
    for path in top.iter().flat_map(|top| tracked(top, folder)) {
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir()) {
            take(&path, false)?;
        }
    }
    Ok(paths)
}

struct Packer<'a> {
    name: &'a str,
    root: Rooted,
    files: Vec<PackedFile>,
    room: u64,
    limits: Limits,
    archive: Builder<BufWriter<File>>,
}

impl Packer<'_> {
    fn add(&mut self, folder: &Path, path: PathBuf, is_new: bool) -> Result<(), PackError> {
        let whole = folder.join(&path);
        let found = fs::symlink_metadata(&whole).map_err(FileError::new("look at", &whole))?;
        let size = match found.file_type() {
            kind if kind.is_symlink() => {
                self.add_link(&whole, &path)?;
                None
            }
            kind if kind.is_file() => Some(self.add_file(&whole, &path)?),
            _ => return Err(PackError::Special { name: self.name.into(), path, what: special(&found) }),
        };
        self.files.push(PackedFile { path, size, is_new });
        Ok(())
    }

    fn add_link(&mut self, whole: &Path, path: &Path) -> Result<(), PackError> {
        if self.root.leads_out(path) {
            return Err(PackError::LinkOut { name: self.name.into(), path: path.into() });
        }
        let target = fs::read_link(whole).map_err(FileError::new("read the link", whole))?;
        let mut header = header(EntryType::Symlink, 0o777, 0);
        let added = self.archive.append_link(&mut header, path, target);
        Ok(added.map_err(FileError::new("pack", whole))?)
    }

    fn add_file(&mut self, whole: &Path, path: &Path) -> Result<u64, PackError> {
        let file = self.root.open_file(path)?;
        let found = file.metadata().map_err(FileError::new("look at", whole))?;
        let size = found.len();
        let what = || PackError::TooLarge { name: self.name.into(), limit: self.limits.bytes, what: "bytes" };
        self.room = self.room.checked_sub(size).ok_or_else(what)?;
        let mode = if found.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let mut header = header(EntryType::Regular, mode, size);
        // One byte more tells whether it has grown.
        let mut input = BufReader::new(file).take(size + 1);
        let added = self.archive.append_data(&mut header, path, &mut (&mut input).take(size));
        added.map_err(FileError::new("pack", whole))?;
        io::copy(&mut input, &mut io::sink()).map_err(FileError::new("read", whole))?;
        match input.limit() {
            1 => Ok(size),
            _ => Err(PackError::Changed { name: self.name.into(), path: path.into() }),
        }
    }

    fn finish(self, tmp: &Path) -> Result<(Vec<PackedFile>, File), FileError> {
        let mut written = self.archive.into_inner().map_err(FileError::new("write in", tmp))?;
        written.flush().map_err(FileError::new("write in", tmp))?;
        let archive = written.into_inner().map_err(|error| FileError::new("write in", tmp)(error.into_error()))?;
        Ok((self.files, archive))
    }
}

/// A header without owner and time.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn special(found: &Metadata) -> &'static str {
    match found.file_type() {
        kind if kind.is_socket() => "socket",
        kind if kind.is_fifo() => "named pipe",
        kind if kind.is_dir() => "folder now, and was something else",
        _ => "device",
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;
    use crate::{
        config::read,
        model::{BuildRequest, CommitId, Paths, SystemFacts},
        plan::{Domain, make},
    };

    fn write(top: &Path, files: &[&str]) {
        for file in files {
            let path = top.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, file).expect("a file");
        }
    }

    fn git(top: &Path, args: &[&str]) -> String {
        let identity = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false"];
        let mut command = Command::new("git");
        command.arg("-C").arg(top).args(identity).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null");
        let done = command.output().expect("git runs");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text").trim().to_owned()
    }

    fn packed_with(top: &Path, limits: Limits) -> Result<PackedLayer, PackError> {
        let text = "name: x\nbase: {machine: m}\nbuild: {image: i}\nlayers: [{name: l, path: ./layers/l}]\n";
        let config = read("smidr.yaml", text, None, &|_| None).expect("a good config");
        let (facts, paths) = (SystemFacts::of_an_ordinary_user(), Paths::new("/home/u/.smidr".into()));
        let file = top.join("smidr.yaml");
        let plan = make(&config, None, &facts, &paths, &file, &BuildRequest::default(), &Domain::Own).expect("a plan");
        Ok(pack(&plan, Path::new("/nowhere"), &std::env::temp_dir(), limits)?.remove(0))
    }

    fn packed(top: &Path) -> PackedLayer {
        packed_with(top, Limits::default()).expect("packed")
    }

    fn names(packed: &PackedLayer) -> Vec<&str> {
        packed.files.iter().filter_map(|file| file.path.to_str()).collect()
    }

    #[test]
    fn what_a_repository_holds_is_sent() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let layer = top.path().join("layers/l");
        write(&layer, &["conf/layer.conf", "r/a.bb", "r/forced.log", ".hidden", "out/x", "secret", ".git-is-not/x"]);
        write(top.path(), &["elsewhere"]);
        // Without a repository nothing is ignored.
        fs::write(layer.join(".gitignore"), "out/\n").expect("a file");
        let all =
            [".git-is-not/x", ".gitignore", ".hidden", "conf/layer.conf", "out/x", "r/a.bb", "r/forced.log", "secret"];
        let whole = packed(top.path());
        assert_eq!(names(&whole), all);
        assert_eq!((whole.layer.commit.clone(), whole.layer.dirty), (None, false));
        git(top.path(), &["init", "-q"]);
        fs::write(top.path().join(".gitignore"), "*.log\n").expect("a file");
        fs::write(top.path().join(".git/info/exclude"), "/layers/l/secret\n").expect("a file");
        // Of the user's own configuration, which does not count.
        let global = top.path().join("global");
        fs::write(&global, "*.bb\n").expect("a file");
        git(top.path(), &["config", "core.excludesFile", global.to_str().expect("text")]);
        git(top.path(), &["add", "-A"]);
        git(top.path(), &["add", "-f", "layers/l/r/forced.log", "layers/l/r/a.bb"]);
        git(top.path(), &["commit", "-qm", "x"]);
        let commit: CommitId = git(top.path(), &["rev-parse", "HEAD"]).parse().expect("a commit");
        let clean = packed(top.path());
        let held = [".git-is-not/x", ".gitignore", ".hidden", "conf/layer.conf", "r/a.bb", "r/forced.log"];
        assert_eq!(names(&clean), held);
        assert_eq!((clean.layer.commit.clone(), clean.layer.dirty), (Some(commit.clone()), false));
        // What is not committed is sent too.
        write(&layer, &["r/new.bb", "r/other.log"]);
        let dirty = packed(top.path());
        assert_eq!((dirty.files.len(), dirty.layer.dirty, dirty.layer.commit.clone()), (7, true, Some(commit)));
        // A repository inside is a part of it, without its `.git`.
        write(&layer, &["sub/x"]);
        git(&layer.join("sub"), &["init", "-q"]);
        assert_eq!(names(&packed(top.path())).last(), Some(&"sub/x"));
        assert_eq!(
            packed(top.path()).files.iter().find(|file| file.path == Path::new("sub/x")).and_then(|f| f.size),
            Some(5)
        );
    }

    #[test]
    fn the_same_files_are_the_same_archive() {
        let digest = |order: &[&str], time: u64| {
            let top = tempfile::tempdir().expect("a temporary folder");
            let layer = top.path().join("layers/l");
            write(&layer, order);
            fs::set_permissions(layer.join("b"), fs::Permissions::from_mode(if time == 1 { 0o700 } else { 0o775 }))
                .expect("a mode");
            symlink("b", layer.join("link")).expect("a link");
            let file = File::open(layer.join("b")).expect("a file");
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(time)).expect("a time");
            let packed = packed(top.path());
            assert_eq!(packed.layer.size, packed.archive.metadata().expect("a file").len());
            packed.layer.digest
        };
        let long = format!("{0}/{0}", "long".repeat(40));
        let one = digest(&["b", "a/x", &long], 1);
        assert_eq!(one, digest(&[&long, "a/x", "b"], 2));
        assert_ne!(one, digest(&["b", "a/y", &long], 1));
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        let refused = |change: &dyn Fn(&Path)| {
            let top = tempfile::tempdir().expect("a temporary folder");
            let layer = top.path().join("layers/l");
            write(&layer, &["a/x", "b"]);
            write(top.path(), &["beside"]);
            change(&layer);
            packed_with(top.path(), Limits { files: 4, bytes: 10 })
                .map(|packed| packed.files.len())
                .map_err(|error| error.to_string())
        };
        let link = |name: &'static str, target: &'static str| {
            move |layer: &Path| symlink(target, layer.join(name)).expect("a link")
        };
        assert_eq!(refused(&|_| {}), Ok(2));
        for (name, target) in [("a/in", "../b"), ("in", "a"), ("nowhere", "a/missing"), ("a/round", "..")] {
            assert_eq!(refused(&link(name, target)), Ok(3), "{target}");
        }
        for (name, target) in [("a/out", "../../../beside"), ("out", "/etc/hostname"), ("out", "../missing")] {
            let error = refused(&link(name, target)).expect_err(target);
            assert!(error.contains(&format!("its link {name} leads out of it")), "{error}");
        }
        // Each `a/here` is one folder up for the eye only.
        let tricky = refused(&|layer| {
            symlink(".", layer.join("here")).expect("a link");
            symlink("here/here/../../beside", layer.join("out")).expect("a link");
        });
        assert!(tricky.expect_err("out").contains("its link out leads out"));
        let pipe = |layer: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, layer.join("p"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .expect("a pipe");
        };
        assert!(refused(&pipe).expect_err("a pipe").contains("p is a named pipe"));
        let socket = |layer: &Path| drop(std::os::unix::net::UnixListener::bind(layer.join("s")).expect("a socket"));
        assert!(refused(&socket).expect_err("a socket").contains("s is a socket"));
        assert!(refused(&|layer| write(layer, &["1", "2", "3"])).expect_err("files").contains("more than 4 files"));
        let core = |layer: &Path| write(layer, &["../oe-init-build-env", "conf/layer.conf"]);
        assert!(refused(&core).expect_err("core").contains("it needs what stands beside it"));
        assert!(refused(&|layer| write(layer, &["seven77"])).expect_err("bytes").contains("more than 10 bytes"));
        assert!(
            refused(&|layer| fs::remove_dir_all(layer).expect("removed")).expect_err("gone").contains("is not there")
        );
    }
}
