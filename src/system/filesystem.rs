//! The kind of file system that a folder is on, its free space, and what it supports: tried where the kind does not decide it.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, StatVfsMountFlags, XattrFlags, mknodat, setxattr, statfs, statvfs};

use super::{mounts, overlay::OPAQUE};

/// Classes of file systems by their properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// On a disk of this machine.
    Local,
    /// In memory: gone after the next boot, and counted as memory.
    Memory,
    /// On another machine.
    Network,
    /// A folder of the machine around this one, shared with it.
    Shared,
    /// A folder of another file system seen through a layer: overlayfs, eCryptfs.
    Stacked,
    /// Served by a program of this machine.
    Fuse,
    /// Made for another operating system, without owners and permissions.
    Foreign,
}

/// Superblock numbers (statfs(2); linux/magic.h; those of Lustre, GPFS and ZFS are their own) with the usual name.
const KINDS: [(u64, &str, Family); 26] = [
    (0xef53, "ext4", Family::Local),
    (0x5846_5342, "xfs", Family::Local),
    (0x9123_683e, "btrfs", Family::Local),
    (0xf2f5_2010, "f2fs", Family::Local),
    (0x2fc1_2fc1, "zfs", Family::Local),
    (0xca45_1a4e, "bcachefs", Family::Local),
    (0x0102_1994, "tmpfs", Family::Memory),
    (0x8584_58f6, "ramfs", Family::Memory),
    (0x6969, "nfs", Family::Network),
    (0xff53_4d42, "cifs", Family::Network),
    (0xfe53_4d42, "smb", Family::Network),
    (0x517b, "smbfs", Family::Network),
    (0x5346_414f, "afs", Family::Network),
    (0x6b41_4653, "afs", Family::Network),
    (0x0bd0_0bd0, "lustre", Family::Network),
    (0x4750_4653, "gpfs", Family::Network),
    (0x00c3_6400, "ceph", Family::Network),
    (0xaad7_aaea, "panfs", Family::Network),
    (0x0102_1997, "9p", Family::Shared),
    (0x786f_4256, "vboxsf", Family::Shared),
    (0x794c_7630, "overlay", Family::Stacked),
    (0xf15f, "ecryptfs", Family::Stacked),
    (0x6573_5546, "fuse", Family::Fuse),
    (0x4d44, "vfat", Family::Foreign),
    (0x2011_bab0, "exfat", Family::Foreign),
    (0x7366_746e, "ntfs3", Family::Foreign),
];

/// The file system that holds a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// `ext4`, `fuse.sshfs`.
    pub name: String,
    /// What to expect of it.
    pub family: Family,
    /// Whether nothing may be written.
    pub read_only: bool,
    /// Whether no program may be run from it.
    pub noexec: bool,
    /// Bytes that an ordinary user may still write.
    pub free: u64,
    /// Files that may still be made; none where there is no such limit.
    pub free_inodes: Option<u64>,
}

impl FileSystem {
    /// Looks at the file system of a path.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = statvfs(path)?;
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let table = mounts::parse(&table);
        let path = fs::canonicalize(path)?;
        let listed = mounts::holding(&table, &path).map(|mount| mount.kind.as_str());
        // The number is the same on every architecture; its type is not.
        let (name, family) = kind(statfs(&path)?.f_type as u64 & 0xffff_ffff, listed);
        Ok(Self {
            name,
            family,
            read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
            noexec: stat.f_flag.contains(StatVfsMountFlags::NOEXEC),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            free_inodes: (stat.f_files > 0).then_some(stat.f_favail),
        })
    }
}

/// The number decides the family; `listed` is the more exact name from the mount table.
fn kind(magic: u64, listed: Option<&str>) -> (String, Family) {
    match (KINDS.iter().find(|(known, ..)| *known == magic), listed) {
        (Some((_, name, family)), listed) => (listed.unwrap_or(name).to_owned(), *family),
        (None, Some(listed)) => (listed.to_owned(), Family::Local),
        (None, None) => (format!("unknown ({magic:#x})"), Family::Local),
    }
}

/// A property of a file system that smidr or a build needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// flock(2) that keeps a second one out.
    Locks,
    /// Symbolic links.
    SymbolicLinks,
    /// Several names for one file.
    HardLinks,
    /// chmod(2) that lasts.
    Permissions,
    /// `a` and `A` are two files.
    Case,
    /// Names of 200 characters, as OpenEmbedded-Core tries them (sanity.bbclass).
    LongNames,
    /// Device nodes 0:0, overlayfs's whiteouts.
    Whiteouts,
    /// Extended attributes of users, which mark overlayfs's opaque folders.
    Attributes,
}

impl Ability {
    const ALL: [Self; 8] = [
        Self::Locks,
        Self::SymbolicLinks,
        Self::HardLinks,
        Self::Permissions,
        Self::Case,
        Self::LongNames,
        Self::Whiteouts,
        Self::Attributes,
    ];

    /// Whether a file system has it, in an empty folder of its own there.
    fn works_in(self, folder: &Path) -> io::Result<bool> {
        let at = |name: &str| folder.join(name);
        let file = |name: &str| File::create(folder.join(name));
        Ok(match self {
            Self::Locks => {
                let (first, second) = (file("lock")?, File::open(at("lock"))?);
                first.try_lock()?;
                matches!(second.try_lock(), Err(TryLockError::WouldBlock))
            }
            Self::SymbolicLinks => {
                symlink("nowhere", at("symbolic"))?;
                fs::read_link(at("symbolic"))? == Path::new("nowhere")
            }
            Self::HardLinks => {
                file("one")?;
                fs::hard_link(at("one"), at("two"))?;
                fs::metadata(at("one"))?.ino() == fs::metadata(at("two"))?.ino()
            }
            Self::Permissions => {
                file("program")?.set_permissions(fs::Permissions::from_mode(0o751))?;
                fs::metadata(at("program"))?.mode() & 0o7777 == 0o751
            }
            Self::Case => {
                file("case")?;
                !fs::exists(at("CASE"))?
            }
            Self::LongNames => file(&"l".repeat(200)).is_ok(),
            Self::Whiteouts => mknodat(CWD, at("whiteout"), FileType::CharacterDevice, Mode::empty(), 0).is_ok(),
            Self::Attributes => setxattr(folder, OPAQUE, b"y", XattrFlags::empty()).is_ok(),
        })
    }
}

/// What the file system of `folder`, which must be empty, does not support. Leaves files in the folder.
///
/// # Errors
///
/// When not even folders can be made there.
pub fn lacks(folder: &Path) -> io::Result<Vec<Ability>> {
    let mut lacking = Vec::new();
    for (number, ability) in Ability::ALL.into_iter().enumerate() {
        let own = folder.join(number.to_string());
        fs::create_dir(&own)?;
        // Any error counts as not supported.
        if !ability.works_in(&own).unwrap_or(false) {
            lacking.push(ability);
        }
    }
    Ok(lacking)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        assert_eq!(kind(0xef53, Some("ext3")), ("ext3".into(), Family::Local));
        assert_eq!(kind(0x6969, Some("nfs4")), ("nfs4".into(), Family::Network));
        assert_eq!(kind(0x6573_5546, Some("fuse.sshfs")), ("fuse.sshfs".into(), Family::Fuse));
        assert_eq!(kind(0x0102_1997, None), ("9p".into(), Family::Shared));
        assert_eq!(kind(0x1234, Some("newfs")), ("newfs".into(), Family::Local));
        assert_eq!(kind(0x1234, None), ("unknown (0x1234)".into(), Family::Local));
        let mut numbers: Vec<u64> = KINDS.iter().map(|(number, ..)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), KINDS.len());
    }

    #[test]
    fn proc_supports_nothing() {
        let proc = FileSystem::of(Path::new("/proc")).expect("/proc");
        assert_eq!((proc.name.as_str(), proc.free), ("proc", 0));
        assert!(lacks(Path::new("/proc")).is_err());
        assert!(FileSystem::of(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn what_works_here_is_not_lacking() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lacking = lacks(folder.path()).expect("try");
        for ability in [Ability::Locks, Ability::SymbolicLinks, Ability::Permissions, Ability::Case] {
            assert!(!lacking.contains(&ability), "the tests themselves need {ability:?}");
        }
        assert!(lacks(folder.path()).is_err(), "a folder that is not empty is not tried out");
    }
}
