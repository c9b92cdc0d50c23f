//! Parser of the mount table of this process (proc_pid_mountinfo(5)).

use std::path::{Path, PathBuf};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Unique on this machine, as long as the mount is there.
    pub id: u64,
    /// Which part of its file system is shown.
    pub root: String,
    /// Where it stands, below this process's own root.
    pub point: PathBuf,
    /// `ro`, `nosuid` and the like, of this mount.
    pub options: Vec<String>,
    /// The file system's type: `ext4`, `fuse.sshfs`.
    pub kind: String,
}

impl Mount {
    /// Whether the mount has an option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|known| known == option)
    }
}

/// Reads the text of a mountinfo file; malformed lines are left out.
pub fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(line).collect()
}

fn line(text: &str) -> Option<Mount> {
    // Any number of optional fields stand before the dash.
    let (before, after) = text.split_once(" - ")?;
    let mut fields = before.split(' ');
    let id = fields.next()?.parse().ok()?;
    let root = plain(fields.nth(2)?);
    let point = plain(fields.next()?).into();
    let options = fields.next()?.split(',').map(str::to_owned).collect();
    Some(Mount { id, root, point, options, kind: after.split(' ').next()?.to_owned() })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn plain(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, sign)| text.replace(code, sign))
}

/// The mount that holds `path`: the last of those that stand nearest above it.
pub fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    // Of several equal ones `max_by_key` takes the last, which is the one that hides the others.
    above.max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
        41 27 0:45 / /home/a\\040b rw,nosuid,nodev,noexec shared:5 master:1 - fuse.sshfs far:/ rw,user_id=1000\n\
        nothing of the kind\n\
        42 27 0:46 / /home/a\\040b rw - tmpfs tmpfs rw\n\
        43 27 0:47 /sub /srv ro - nfs4 server:/srv rw\n";

    #[test]
    fn lines_become_mounts() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 5);
        assert_eq!((mounts[1].id, mounts[1].kind.as_str(), mounts[1].point.as_path()), (27, "ext4", Path::new("/")));
        assert_eq!((mounts[2].point.as_path(), mounts[2].has("noexec")), (Path::new("/home/a b"), true));
        assert_eq!((mounts[4].root.as_str(), mounts[4].has("ro"), mounts[4].has("rw")), ("/sub", true, false));
    }

    #[test]
    fn the_nearest_and_topmost_mount_holds_a_path() {
        let mounts = parse(TABLE);
        let id = |path: &str| holding(&mounts, Path::new(path)).map(|mount| mount.id);
        assert_eq!(id("/home/a b/.smidr"), Some(42), "the second mount hides the first");
        assert_eq!(id("/srvx"), Some(27), "a name that begins alike is another name");
        assert_eq!(id("/srv"), Some(43));
        assert_eq!(holding(&[], Path::new("/")), None);
    }
}
