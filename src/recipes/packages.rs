//! A root file system from a distribution's packages: resolved by the host's apt, unpacked as the caller, configured by dpkg
//! under root emulation.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Context,
    apt::{Apt, AptError, Resolved},
    recipe::Suite,
    steps::{Access, HOST_FOLDER, StepError, Steps},
};
use crate::{
    lock::PackagePin,
    model::{Activity, Event, Hint, Kind, Unit, UserError},
    system::{
        files::{FileError, write_atomically},
        lock::{self, FileLock, Mode, WaitError},
    },
};

/// Why the packages of a base cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    /// apt.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A package could not be unpacked.
    #[error("cannot unpack {package}: {said}")]
    Unpack {
        /// Its file.
        package: PathBuf,
        /// What dpkg-deb or tar said.
        said: String,
    },
    /// The cache of packages is in use.
    #[error(transparent)]
    FileLock(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for PackageError {
    fn kind(&self) -> Kind {
        match self {
            Self::Apt(error) => error.kind(),
            Self::Unpack { .. } => Kind::Host,
            Self::FileLock(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Apt(error) => error.hints(),
            Self::Unpack { .. } => Vec::new(),
            Self::FileLock(error) => error.hints(),
            Self::File(error) => error.hints(),
        }
    }
}

/// What is not read on a build host, and takes a third of the time to unpack. Copyright files stay.
const LEFT_OUT: &str = "# Written by smidr: what nobody reads on a build host.
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
";

/// Packages that are here, and stay here while this value lives.
pub(super) struct Packages {
    /// What they are, and where.
    pub resolved: Resolved,
    /// The folder that holds them.
    pub archives: PathBuf,
    /// When the newest of them was built, in seconds since 1970.
    pub epoch: i64,
    _cache: FileLock,
}

/// Resolves, verifies and downloads the packages of a suite. With `pinned`, exactly those versions. `holder` says for what.
///
/// # Errors
///
/// When apt cannot.
pub(super) fn fetch(
    making: Context<'_>,
    suite: &Suite,
    wanted: &[String],
    pinned: &BTreeMap<String, PackagePin>,
    holder: &str,
) -> Result<Packages, PackageError> {
    let name = format!("{}-{}", suite.distribution, suite.suite);
    let folder = making.paths.images().join("packages").join(&name);
    let waiting = |other: &str| {
        making.on.emit(Event::Waiting { resource: "the package cache".into(), holder: other.into() });
    };
    let path = lock::path_in(&making.paths.locks(), &format!("packages-{name}"));
    let cache = lock::lock(&path, Mode::Exclusive, holder, making.stop, waiting)?;
    let resolved = Apt::new(&folder, suite, making.spawner, making.stop, making.on)?.resolve(wanted, pinned)?;
    let epoch = newest(&resolved.all)?;
    Ok(Packages { resolved, archives: folder.join("archives"), epoch, _cache: cache })
}

/// Unpacks what has to be there before dpkg can run.
///
/// # Errors
///
/// When a package is damaged, or the file system refuses.
pub(super) fn unpack_essential(making: Context<'_>, packages: &Packages, tree: &Path) -> Result<(), PackageError> {
    lay_foundation(tree, &packages.resolved.architecture)?;
    unpack_all(making, &packages.resolved.essential, tree)
}

/// When the newest package was built, from the headers of the archives: the same packages, the same time.
fn newest(packages: &[PathBuf]) -> Result<i64, FileError> {
    use std::io::Read as _;
    // deb(5): `!<arch>\n`, then a member header of which bytes 16 to 28 are the time in decimal.
    let mut newest = 0;
    for path in packages {
        let mut header = [0; 36];
        let mut file = fs::File::open(path).map_err(FileError::new("read the package", path))?;
        file.read_exact(&mut header).map_err(FileError::new("read the package", path))?;
        let time = String::from_utf8_lossy(&header[24..36]).trim().parse().unwrap_or(0);
        newest = newest.max(time);
    }
    Ok(newest)
}

/// What has to be there before the first package: dpkg's database, and /usr as the home of /bin, /lib and /sbin.
fn lay_foundation(tree: &Path, architecture: &str) -> Result<(), FileError> {
    let make = |path: &str| {
        let path = tree.join(path);
        fs::create_dir_all(&path).map_err(FileError::new("make the folder", &path))
    };
    for folder in ["etc/dpkg/dpkg.cfg.d", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        make(folder)?;
    }
    // Debian since 12 and Ubuntu since 23.10 expect a merged /usr, and their packages cannot make the links themselves.
    let wide: &[&str] = if architecture == "amd64" { &["lib64"] } else { &[] };
    for name in ["bin", "sbin", "lib"].iter().chain(wide) {
        make(&format!("usr/{name}"))?;
        let link = tree.join(name);
        symlink(format!("usr/{name}"), &link).map_err(FileError::new("make the link", &link))?;
    }
    for file in ["status", "available"] {
        write_atomically(&tree.join("var/lib/dpkg").join(file), b"", 0o644)?;
    }
    write_atomically(&tree.join("etc/dpkg/dpkg.cfg.d/smidr"), LEFT_OUT.as_bytes(), 0o644)
}

/// Unpacks packages as the caller, several at once: owners are dropped, as everything is by decree root's later.
fn unpack_all(making: Context<'_>, packages: &[PathBuf], tree: &Path) -> Result<(), PackageError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let worker = || {
        while let Some(package) = packages.get(next.fetch_add(1, Ordering::SeqCst)) {
            if let Err(error) = unpack(making, package, tree) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                next.store(packages.len(), Ordering::SeqCst);
            }
            let done = next.load(Ordering::SeqCst).min(packages.len()) as u64;
            making.on.progress(Activity::Unpack, "essential packages", done, Some(packages.len() as u64), Unit::Items);
        }
    };
    thread::scope(|scope| {
        for _ in 0..making.facts.cpus.clamp(1, 4) {
            scope.spawn(worker);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn unpack(making: Context<'_>, package: &Path, tree: &Path) -> Result<(), PackageError> {
    let failed = |said: String| PackageError::Unpack { package: package.into(), said };
    let io = |error: std::io::Error| failed(error.to_string());
    let mut source = making.spawner.command("dpkg-deb");
    source.arg("--fsys-tarfile").arg(package).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut source = making.spawner.spawn(source, Vec::new()).map_err(io)?;
    let mut sink: Command = making.spawner.command("tar");
    // Folders that are links already, as /bin is, stay links.
    sink.args(["--extract", "--keep-directory-symlink", "--no-same-owner", "--same-permissions", "--directory"])
        .arg(tree);
    sink.stdin(source.stdout.take().map_or_else(Stdio::null, Stdio::from)).stdout(Stdio::null()).stderr(Stdio::piped());
    let sink = making.spawner.spawn(sink, Vec::new()).map_err(io)?;
    let outputs = [sink.wait_with_output().map_err(io)?, source.wait_with_output().map_err(io)?];
    match outputs.iter().find(|output| !output.status.success()) {
        Some(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        None => Ok(()),
    }
}

/// Lets dpkg install everything in one go: it finds the order itself.
///
/// # Errors
///
/// When a package does not install, or one that it needs is not there.
pub(super) fn configure(
    making: Context<'_>,
    steps: &Steps<'_>,
    packages: &Packages,
    access: &Access,
) -> Result<(), StepError> {
    let name = |path: &PathBuf| Some(format!("{HOST_FOLDER}/packages/{}", path.file_name()?.to_str()?));
    let files: Vec<String> = packages.resolved.all.iter().filter_map(name).collect();
    let mut argv = vec!["dpkg", "--force-depends", "--force-unsafe-io", "--install"];
    argv.extend(files.iter().map(String::as_str));
    let total = 2 * files.len() as u64;
    let mut done = 0;
    steps.run("dpkg --install", &argv, access, |line| {
        if line.starts_with("Unpacking ") || line.starts_with("Setting up ") {
            done += 1;
            making.on.progress(Activity::Configure, "packages", done.min(total), Some(total), Unit::Items);
        }
    })?;
    // --force-depends would let a package through that lacks another one.
    steps.run("dpkg --audit", &["/bin/sh", "-c", "dpkg --audit; test -z \"$(dpkg --audit)\""], access, |_| {})
}

/// Gives all folders one time: theirs says only which of the packages that were unpacked at once came last.
///
/// # Errors
///
/// When the file system refuses.
pub(super) fn settle_folders(tree: &Path, epoch: i64) -> Result<(), FileError> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch.unsigned_abs());
    for entry in walkdir::WalkDir::new(tree) {
        let entry = entry.map_err(|error| FileError::new("read", tree)(error.into()))?;
        if entry.file_type().is_dir() {
            let set = || fs::File::open(entry.path())?.set_modified(time);
            set().map_err(FileError::new("set the time of", entry.path()))?;
        }
    }
    Ok(())
}
