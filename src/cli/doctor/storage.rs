//! Whether SMIDR_HOME can hold images and builds: its place, its file system, its free space.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{Home, finding::Finding};
use crate::{
    cli::{output::bytes, report::Failure},
    plan::check_path,
    system::{
        files::shell,
        filesystem::{self, Ability, Family, FileSystem},
    },
};

/// BitBake stops when less is free; a build of a real system needs many times that.
const LITTLE_SPACE: u64 = 20_000_000_000;

/// A build of a real system makes more files than this.
const FEW_INODES: u64 = 2_000_000;

/// What to do when the place is unsuitable.
const ELSEWHERE: &str = "choose another place:  export SMIDR_HOME=DIR";

/// SMIDR_HOME cannot be opened.
pub(super) fn no_home(failure: &Failure) -> Finding {
    let cause = failure.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    let finding = Finding::broken("home", format!("{failure}{cause}"));
    match failure.hints().pop() {
        Some(hint) => finding.hint(hint.to_string()),
        None => finding.hint(ELSEWHERE),
    }
}

/// All findings about SMIDR_HOME's place.
pub(super) fn storage(home: &Home) -> Vec<Finding> {
    let path = home.paths.home();
    let system = match FileSystem::of(path) {
        Ok(system) => system,
        Err(error) => return vec![Finding::broken("home", format!("cannot look at {}: {error}", path.display()))],
    };
    let mut findings = vec![place(path, &system)];
    findings.extend(name(path));
    findings.extend(files(home));
    findings.extend(setgid(&home.paths.workspaces()));
    findings.push(space(path, &system));
    findings.extend(system.free_inodes.map(inodes));
    findings
}

fn place(path: &Path, system: &FileSystem) -> Finding {
    let (path, name) = (path.display(), &system.name);
    if system.read_only {
        return Finding::broken("home", format!("nothing may be written to {path} (read-only, {name})"))
            .hint(ELSEWHERE);
    }
    if system.noexec {
        return Finding::broken("home", format!("no program may run from {path} (noexec, {name})"))
            .hint(format!("{ELSEWHERE}  or, as administrator:  mount -o remount,exec MOUNTPOINT"));
    }
    let doubt = match system.family {
        Family::Local | Family::Foreign => return Finding::good("home", format!("{path} on {name}")),
        Family::Memory => "it is gone after the next boot, and what is in it counts as memory",
        Family::Network if name.starts_with("nfs") => {
            "OpenEmbedded refuses to build on NFS, and the record of builds (SQLite) is not safe there"
        }
        Family::Network => "builds are slow there, and the record of builds (SQLite) is not safe",
        Family::Shared => "builds are slow there, and not all that is tried below stays true for long",
        Family::Stacked if name == "overlay" => {
            "it ends with the container, and rootfs recipes that begin with an image do not work there"
        }
        Family::Stacked => "names are shorter there, and builds slow",
        Family::Fuse => "each access to a file asks a program, and builds are slow",
    };
    Finding::doubtful("home", format!("{path} on {name}: {doubt}"))
        .hint("put it on a disk of this machine:  export SMIDR_HOME=DIR")
}

/// It contains the workspaces, in which BitBake has to work.
fn name(path: &Path) -> Option<Finding> {
    let error = check_path(&path.join("workspaces")).err()?;
    Some(Finding::broken("path", error.to_string()).hint(ELSEWHERE))
}

/// New folders inherit the bit, TMPDIR included (sanity.bbclass; inode(7)).
fn setgid(workspaces: &Path) -> Option<Finding> {
    let mode = fs::metadata(workspaces).ok()?.mode();
    (mode & libc::S_ISGID != 0).then(|| {
        let path = shell(workspaces);
        Finding::broken("path", "workspaces inherit the setgid bit there, which OpenEmbedded refuses")
            .hint(format!("take it away:  find {path} -type d -exec chmod g-s {{}} +"))
    })
}

fn files(home: &Home) -> Vec<Finding> {
    let tried = home.store.scratch().map(|scratch| filesystem::lacks(scratch.path()));
    match tried {
        Ok(Ok(lacking)) if lacking.is_empty() => {
            vec![Finding::good("files", "locks, links, permissions, case, long names, whiteouts, attributes work")]
        }
        Ok(Ok(lacking)) => lacking.into_iter().map(lack).collect(),
        Ok(Err(error)) => vec![Finding::broken("files", format!("folders cannot be made there: {error}"))],
        Err(error) => vec![Finding::broken("files", error.to_string())],
    }
}

fn lack(ability: Ability) -> Finding {
    let broken = |text| Finding::broken("files", text).hint(ELSEWHERE);
    match ability {
        Ability::Locks => broken("locks (flock) do not work there: two builds would ruin each other"),
        Ability::SymbolicLinks => broken("there can be no symbolic links, which every image has"),
        Ability::HardLinks => broken("there can be no hard links, which images and builds have"),
        Ability::Permissions => broken("permissions do not last there: no program of an image could run"),
        Ability::Case => broken("`a` and `A` are the same file there, and builds have both"),
        Ability::LongNames => broken("names of 200 characters are too long there, and BitBake has such names"),
        Ability::Whiteouts => Finding::doubtful("files", "whiteouts (device nodes 0:0) cannot be made there")
            .hint(format!("images whose layers remove files of other layers cannot be unpacked; {ELSEWHERE}")),
        Ability::Attributes => Finding::doubtful("files", "files can have no attributes (user.*) there")
            .hint(format!("images whose layers replace folders of other layers cannot be unpacked; {ELSEWHERE}")),
    }
}

fn space(path: &Path, system: &FileSystem) -> Finding {
    let text = format!("{} free in {}", bytes(system.free), path.display());
    if system.free < LITTLE_SPACE {
        return Finding::doubtful("space", text)
            .hint("a full Yocto build takes 50 GB and more:  export SMIDR_HOME=DIR");
    }
    Finding::good("space", text)
}

fn inodes(free: u64) -> Finding {
    if free < FEW_INODES {
        return Finding::doubtful("inodes", format!("{free} more files can be made there"))
            .hint("a full Yocto build makes some million:  export SMIDR_HOME=DIR");
    }
    Finding::good("inodes", format!("{free} more files can be made there"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    fn on(name: &str, family: Family, noexec: bool) -> Finding {
        let system = FileSystem { name: name.into(), family, read_only: false, noexec, free: 1, free_inodes: None };
        place(Path::new("/srv/smidr"), &system)
    }

    #[test]
    fn what_is_said_of_file_systems() {
        let cases = [
            (on("ext4", Family::Local, false), Verdict::Good, "/srv/smidr on ext4"),
            (on("nfs4", Family::Network, false), Verdict::Doubtful, "OpenEmbedded refuses to build on NFS"),
            (on("lustre", Family::Network, false), Verdict::Doubtful, "builds are slow there"),
            (on("9p", Family::Shared, false), Verdict::Doubtful, "builds are slow"),
            (on("overlay", Family::Stacked, false), Verdict::Doubtful, "ends with the container"),
            (on("ecryptfs", Family::Stacked, false), Verdict::Doubtful, "names are shorter"),
            (on("fuse.sshfs", Family::Fuse, false), Verdict::Doubtful, "asks a program"),
            (on("tmpfs", Family::Memory, false), Verdict::Doubtful, "gone after the next boot"),
            (on("tmpfs", Family::Memory, true), Verdict::Broken, "no program may run from /srv/smidr (noexec, tmpfs)"),
            (on("ext4", Family::Local, true), Verdict::Broken, "no program may run"),
        ];
        for (finding, verdict, text) in cases {
            assert_eq!(finding.verdict, verdict, "{}", finding.text);
            assert!(finding.text.contains(text), "{}", finding.text);
            assert_eq!(finding.hint.is_some(), verdict != Verdict::Good, "{}", finding.text);
        }
    }

    #[test]
    fn paths_that_bitbake_refuses() {
        assert!(name(Path::new("/home/user/.smidr")).is_none());
        for path in ["/home/a b/.smidr", "/home/c++/.smidr", "/home/50%"] {
            let finding = name(Path::new(path)).expect(path);
            assert!(finding.text.contains(path) && finding.verdict == Verdict::Broken, "{}", finding.text);
        }
    }

    #[test]
    fn space_and_inodes() {
        assert_eq!(inodes(10).verdict, Verdict::Doubtful);
        assert_eq!(inodes(100_000_000).verdict, Verdict::Good);
        for (free, verdict) in [(1_000_000, Verdict::Doubtful), (1 << 40, Verdict::Good)] {
            let system = FileSystem {
                name: "xfs".into(),
                family: Family::Local,
                read_only: false,
                noexec: false,
                free,
                free_inodes: None,
            };
            assert_eq!(space(Path::new("/"), &system).verdict, verdict);
        }
    }
}
