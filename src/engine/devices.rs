//! Devices that a config asks for: whether they are there for this caller, and what to type if not.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group};
use rustix::fs::{Access, access};

use crate::model::{Hint, Kind, UserError};

/// Group and others may read and write.
const GROUP_MAY: u32 = 0o060;

/// Why a device cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// Not there.
    #[error("host.devices: there is no {0} on this machine")]
    Missing(PathBuf),
    /// Closed to the caller.
    #[error("host.devices: you may not use {path}")]
    Closed {
        /// The device.
        path: PathBuf,
        /// The group that may.
        group: Option<String>,
        /// What the kernel said.
        source: io::Error,
    },
}

impl UserError for DeviceError {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn hints(&self) -> Vec<Hint> {
        vec![match self {
            Self::Missing(path) => match path.file_name().and_then(|name| name.to_str()) {
                Some("kvm") => Hint::command(
                    "load it (in a virtual machine, its host must allow nested virtualisation)",
                    "sudo modprobe kvm_intel || sudo modprobe kvm_amd",
                ),
                name => Hint::command("load it", format!("sudo modprobe {}", name.unwrap_or_default())),
            },
            Self::Closed { group: Some(group), .. } => {
                Hint::command("join the group, then log in again", format!("sudo usermod -aG {group} \"$(id -un)\""))
            }
            Self::Closed { path, group: None, .. } => {
                Hint::command("ask for access", format!("sudo setfacl -m u:\"$(id -un)\":rw {}", path.display()))
            }
        }]
    }
}

/// Checks that each device can be read and written by the caller.
///
/// # Errors
///
/// The first that cannot.
pub(super) fn check(devices: &[PathBuf]) -> Result<(), DeviceError> {
    devices.iter().try_for_each(|path| check_one(path))
}

fn check_one(path: &Path) -> Result<(), DeviceError> {
    let data = match fs::metadata(path) {
        Ok(data) if data.file_type().is_char_device() => data,
        _ => return Err(DeviceError::Missing(path.into())),
    };
    access(path, Access::READ_OK | Access::WRITE_OK).map_err(|errno| DeviceError::Closed {
        path: path.into(),
        group: group_of(&data),
        source: errno.into(),
    })
}

/// The group whose members may use a device; root's own is no group to join.
fn group_of(data: &fs::Metadata) -> Option<String> {
    let may = data.mode() & GROUP_MAY == GROUP_MAY && data.gid() != 0;
    let group = Group::from_gid(Gid::from_raw(data.gid())).ok().flatten();
    group.filter(|_| may).map(|group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_are_there_and_that_are_not() {
        assert!(check(&["/dev/null".into(), "/dev/zero".into()]).is_ok());
        let missing = check(&["/dev/null".into(), "/dev/smidr-none".into()]).expect_err("none");
        assert!(missing.hint().is_some_and(|hint| hint.contains("modprobe smidr-none")), "{missing}");
        // A file is no device.
        assert!(matches!(check(&["/etc/passwd".into()]), Err(DeviceError::Missing(_))));
        let closed = |group: Option<&str>| DeviceError::Closed {
            path: "/dev/kvm".into(),
            group: group.map(Into::into),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert!(closed(Some("kvm")).hint().is_some_and(|hint| hint.contains("usermod -aG kvm ")));
        assert!(closed(None).hint().is_some_and(|hint| hint.contains("setfacl") && hint.contains("/dev/kvm")));
    }
}
