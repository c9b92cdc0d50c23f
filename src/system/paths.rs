//! `SMIDR_HOME`: its place, its owner and the version of its layout.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::files::{FileError, make_private_dir, read_text, shell, write_atomically};
use crate::model::{Hint, Kind, Paths, UserError};

/// The layout's version that this smidr reads and writes.
const VERSION: u32 = 2;

/// The layout before trust was recorded.
pub const BEFORE_TRUST: &str = "1";

/// Notes that the shared folders have the present layout.
///
/// # Errors
///
/// When the file system refuses.
pub fn set_version(paths: &Paths) -> Result<(), FileError> {
    write_atomically(&paths.version(), format!("{VERSION}\n").as_bytes(), 0o600)
}

/// Why the shared folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Neither SMIDR_HOME nor HOME is set.
    #[error("neither SMIDR_HOME nor HOME is set")]
    NoHome,
    /// A path that means something else in each folder.
    #[error("SMIDR_HOME is {}, which is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// Something else stands there.
    #[error("SMIDR_HOME is {}, which {why}", .path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// It belongs to another user.
    #[error("{path} belongs to {owner}, and you are {caller}")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// The caller.
        caller: String,
    },
    /// Other users could put files there that later builds run.
    #[error("{path} can be written to by others (mode {mode:04o})")]
    Writable {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Written by a newer smidr.
    #[error("{path} was written by a newer smidr (layout {found}; this smidr reads up to {VERSION})")]
    TooNew {
        /// The folder.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for PathsError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoHome | Self::Relative(_) | Self::NotOurs { .. } | Self::TooNew { .. } => Kind::Request,
            Self::Foreign { .. } | Self::Writable { .. } => Kind::Host,
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::NoHome => vec![Hint::command("name one", "export SMIDR_HOME=DIR")],
            Self::Relative(path) => {
                vec![Hint::command("for one in this folder", format!("export SMIDR_HOME=\"$PWD\"/{}", shell(path)))]
            }
            Self::NotOurs { .. } => vec![Hint::command("name a new or empty folder", "export SMIDR_HOME=DIR")],
            Self::Foreign { owner, .. } => {
                vec![Hint::command(
                    format!("run smidr as {owner}, or use a folder of your own"),
                    "export SMIDR_HOME=DIR",
                )]
            }
            Self::Writable { path, .. } => {
                vec![Hint::command("if all that is in it is yours, close it", format!("chmod 700 {}", shell(path)))]
            }
            Self::TooNew { .. } => vec![Hint::command("update smidr, or use another folder", "export SMIDR_HOME=DIR")],
            Self::File(error) => error.hints(),
        }
    }
}

/// Finds `SMIDR_HOME`. Touches nothing.
///
/// # Errors
///
/// When the environment does not name it, or names what is not smidr's.
pub fn find(environment: &[(String, String)]) -> Result<Paths, PathsError> {
    let get = |name: &str| environment.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, v)| v);
    let home = match (get("SMIDR_HOME"), get("HOME")) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(home)) => Path::new(home).join(".smidr"),
        (None, None) => return Err(PathsError::NoHome),
    };
    // Mount points and stored paths must not depend on where smidr is called.
    if home.is_relative() {
        return Err(PathsError::Relative(home));
    }
    let home = fs::canonicalize(&home).unwrap_or(home);
    match not_ours(&home) {
        Some(why) => Err(PathsError::NotOurs { path: home, why }),
        None => Ok(Paths::new(home)),
    }
}

/// By any of these a SMIDR_HOME is known, which another smidr may be making just now; users put some of it there themselves.
const OURS: [&str; 12] = [
    "version",
    "settings.yaml",
    "daemon.yaml",
    "daemon",
    "recipes",
    "images",
    "locks",
    "workspaces",
    "domains",
    "downloads",
    "sstate-cache",
    "history.db",
];

/// Why a path cannot be SMIDR_HOME, if so: smidr takes the whole folder for itself.
fn not_ours(home: &Path) -> Option<&'static str> {
    if ["/proc", "/sys", "/dev"].iter().any(|own| home.starts_with(own)) && !home.starts_with("/dev/shm") {
        return Some("belongs to the kernel");
    }
    if home.exists() && !home.is_dir() {
        return Some("is not a folder");
    }
    let mut found = fs::read_dir(home).into_iter().flatten().flatten();
    let is_used = found.any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let is_ours = OURS.iter().any(|name| home.join(name).symlink_metadata().is_ok());
    (is_used && !is_ours).then_some("holds files that are not smidr's")
}

/// Makes the shared folders, or checks those that are there. Afterwards only their owner reaches them.
///
/// # Errors
///
/// When they belong to another user, can be written to by others, come from a newer smidr, or cannot be made.
pub fn open(paths: &Paths) -> Result<(), PathsError> {
    make_private_dir(paths.home())?;
    check_owner(paths.home())?;
    let folders = [
        paths.images(),
        paths.downloads(),
        paths.sstate(),
        paths.recipes(),
        paths.workspaces(),
        paths.builds(),
        paths.locks(),
        paths.tmp(),
    ];
    // Below a home that only its owner enters, any mode is safe.
    if close(paths.home())? {
        folders.iter().try_for_each(|folder| check_writers(folder).map(drop))?;
    }
    match fs::read_to_string(paths.version()) {
        Ok(found) if found.trim().parse::<u32>().is_ok_and(|found| found <= VERSION) => {}
        Ok(found) => {
            return Err(PathsError::TooNew { path: paths.home().into(), found: found.trim().into() });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            set_version(paths)?;
        }
        Err(_) => {
            read_text(&paths.version())?;
        }
    }
    folders.iter().try_for_each(|folder| Ok(make_private_dir(folder)?))
}

/// Closes a folder to all but its owner. Whether it was open.
fn close(folder: &Path) -> Result<bool, PathsError> {
    match check_writers(folder)? {
        mode if mode & 0o077 == 0 => Ok(false),
        mode => {
            let closed = fs::Permissions::from_mode(mode & !0o077);
            fs::set_permissions(folder, closed).map_err(FileError::new("close to others", folder))?;
            Ok(true)
        }
    }
}

/// The permissions of a folder that only its owner may write to; none where there is a link, which its owner has made, or nothing yet.
fn check_writers(folder: &Path) -> Result<u32, PathsError> {
    let mode = fs::symlink_metadata(folder).ok().filter(fs::Metadata::is_dir).map_or(0, |found| found.mode() & 0o7777);
    if mode & 0o022 == 0 { Ok(mode) } else { Err(PathsError::Writable { path: folder.into(), mode }) }
}

/// Refuses a folder of another user: files that smidr made there would have the wrong owner, or could not be made.
///
/// # Errors
///
/// When the owner is not the caller, or the path cannot be looked at.
pub fn check_owner(path: &Path) -> Result<(), PathsError> {
    let owner = fs::metadata(path).map_err(FileError::new("look at", path))?.uid();
    let caller = Uid::effective();
    if owner == caller.as_raw() {
        return Ok(());
    }
    Err(PathsError::Foreign { path: path.into(), owner: name_of(Uid::from_raw(owner)), caller: name_of(caller) })
}

fn name_of(uid: Uid) -> String {
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}
