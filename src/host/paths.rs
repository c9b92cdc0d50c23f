//! `SMIDR_HOME`: where it is, whose it is, and which version of its layout it has.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::files::{FileError, make_private_dir, read_text, write_atomically};
use crate::model::{Explain, Kind, Paths};

/// The layout's version that this smidr reads and writes.
const VERSION: u32 = 1;

/// Why the shared folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Neither SMIDR_HOME nor HOME is set.
    #[error("neither SMIDR_HOME nor HOME says where to keep images and builds")]
    NoHome,
    /// Somebody else's.
    #[error("{path} belongs to {owner}, and you are {caller}")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Who owns it.
        owner: String,
        /// Who asks.
        caller: String,
    },
    /// Written by a newer smidr.
    #[error("{path} was written by a newer smidr (layout {found}; this one knows {VERSION})")]
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

impl Explain for PathsError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoHome | Self::TooNew { .. } => Kind::Request,
            Self::Foreign { .. } => Kind::Host,
            Self::File(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoHome => Some("export SMIDR_HOME=DIR".into()),
            Self::Foreign { path, owner, .. } if path.ends_with(".smidr") => {
                Some(format!("use your own:  export SMIDR_HOME=DIR  (or run as {owner})"))
            }
            Self::Foreign { path, owner, .. } => {
                Some(format!("run smidr as {owner}, or take it over:  chown -R $(id -u):$(id -g) {}", path.display()))
            }
            Self::TooNew { .. } => Some("update smidr, or use another folder:  export SMIDR_HOME=DIR".into()),
            Self::File(error) => error.hint(),
        }
    }
}

/// Finds `SMIDR_HOME`. Touches nothing.
///
/// # Errors
///
/// When the environment does not tell.
pub fn find(environment: &[(String, String)]) -> Result<Paths, PathsError> {
    let get = |name: &str| environment.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, v)| v);
    let home = match (get("SMIDR_HOME"), get("HOME")) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(home)) => Path::new(home).join(".smidr"),
        (None, None) => return Err(PathsError::NoHome),
    };
    // Mount points and stored paths must not depend on where smidr is called.
    let home = std::path::absolute(&home).map_err(FileError::new("find", &home))?;
    Ok(Paths::new(fs::canonicalize(&home).unwrap_or(home)))
}

/// Makes the shared folders, or checks those that are there.
///
/// # Errors
///
/// When they belong to somebody else, come from a newer smidr, or cannot be made.
pub fn open(paths: &Paths) -> Result<(), PathsError> {
    make_private_dir(paths.home())?;
    check_owner(paths.home())?;
    match fs::read_to_string(paths.version()) {
        Ok(found) if found.trim().parse::<u32>().is_ok_and(|found| found <= VERSION) => {}
        Ok(found) => {
            return Err(PathsError::TooNew { path: paths.home().into(), found: found.trim().into() });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_atomically(&paths.version(), format!("{VERSION}\n").as_bytes(), 0o600)?;
        }
        Err(_) => {
            read_text(&paths.version())?;
        }
    }
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
    folders.iter().try_for_each(|folder| Ok(make_private_dir(folder)?))
}

/// Refuses what belongs to somebody else: files that smidr made there would belong to the wrong person, or could not be made.
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
