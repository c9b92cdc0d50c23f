//! The rule on the final list of mounts: inputs of later runs and configuration of this machine are never writable from inside.
//!
//! A read-only bind covers each such path below a writable mount. It could be evaded by renaming its parent, so every folder between the
//! two becomes a mount point too: rename(2) of a mount point fails with EBUSY. [`check`] verifies the final list.

use std::path::{Path, PathBuf};

use super::{guarded::Guarded, sandbox::MountOp};
use crate::model::{Hint, Kind, UserError};

/// An input of later runs that a build could change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is {what}, and would be writable in the sandbox as {}", path.display(), dest.display())]
pub struct Exposed {
    /// On this machine.
    pub path: PathBuf,
    /// What it is.
    pub what: String,
    /// In the sandbox.
    pub dest: PathBuf,
}

impl UserError for Exposed {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        vec![Hint::new("let the build write to a folder that does not hold it")]
    }
}

/// Covers everything `guarded` that lies below a writable bind. All paths are without links, and those of `guarded` exist.
pub fn protect(mounts: &mut Vec<MountOp>, guarded: &[Guarded]) {
    let mut covers: Vec<(PathBuf, PathBuf, bool)> = Vec::new();
    for (source, dest, writable) in binds(mounts) {
        if !writable {
            continue;
        }
        for path in guarded.iter().map(|guarded| guarded.path.as_path()) {
            let Ok(inside) = path.strip_prefix(source) else { continue };
            // The bind itself is guarded: `check` refuses it.
            if inside.as_os_str().is_empty() {
                continue;
            }
            let between = inside.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
            covers.extend(between.map(|folder| (dest.join(folder), source.join(folder), true)));
            covers.push((dest.join(inside), path.into(), false));
        }
    }
    // Read-only before writable, so that a guarded folder does not become writable again for what lies in it.
    covers.sort_by(|one, other| (&one.0, one.2).cmp(&(&other.0, other.2)));
    covers.dedup_by(|next, kept| next.0 == kept.0);
    let taken: Vec<PathBuf> = binds(mounts).map(|(_, dest, _)| dest.to_path_buf()).collect();
    covers.retain(|(dest, ..)| !taken.contains(dest));
    let (mut others, mut all): (Vec<MountOp>, Vec<MountOp>) =
        std::mem::take(mounts).into_iter().partition(|op| !matches!(op, MountOp::Bind { .. }));
    all.extend(covers.into_iter().map(|(dest, source, writable)| MountOp::Bind { source, dest, writable }));
    // Nested folders are mounted after the outer ones.
    all.sort_by(|one, other| dest_of(one).cmp(&dest_of(other)));
    others.append(&mut all);
    *mounts = others;
}

/// Makes sure that nothing `guarded` can be written to, replaced, or moved away through any mount. `own` are folders of the build, which may
/// lie in something guarded: in the project's layer, or in SMIDR_HOME.
///
/// # Errors
///
/// The first path that could.
pub fn check(mounts: &[MountOp], guarded: &[Guarded], own: &[PathBuf]) -> Result<(), Exposed> {
    for (source, dest, writable) in binds(mounts) {
        for Guarded { path, what } in guarded {
            let seen = match path.strip_prefix(source) {
                Ok(inside) => dest.join(inside).components().collect::<PathBuf>(),
                // What lies in a guarded folder is guarded.
                Err(_) if writable && source.starts_with(path) && !own.iter().any(|own| source.starts_with(own)) => {
                    dest.to_path_buf()
                }
                Err(_) => continue,
            };
            let exposed = || Exposed { path: path.clone(), what: what.clone(), dest: seen.clone() };
            if !writable {
                continue;
            }
            // The innermost mount decides.
            let decides =
                binds(mounts).filter(|(_, at, _)| seen.starts_with(at)).max_by_key(|(_, at, _)| at.as_os_str().len());
            if decides.is_none_or(|(_, _, writable)| writable) {
                return Err(exposed());
            }
            let is_point = |folder: &Path| binds(mounts).any(|(_, at, _)| at == folder);
            let between = seen.ancestors().take_while(|folder| *folder != dest);
            // Above a read-only mount nothing can be renamed, so only what lies between writable mounts matters.
            if between.into_iter().any(|folder| is_renamable(mounts, folder) && !is_point(folder)) {
                return Err(exposed());
            }
        }
    }
    Ok(())
}

// Whether the folder that holds this one is shown by a writable mount.
fn is_renamable(mounts: &[MountOp], path: &Path) -> bool {
    let Some(parent) = path.parent() else { return false };
    let shows = binds(mounts).filter(|(_, at, _)| parent.starts_with(at)).max_by_key(|(_, at, _)| at.as_os_str().len());
    shows.is_some_and(|(_, _, writable)| writable)
}

fn binds(mounts: &[MountOp]) -> impl Iterator<Item = (&Path, &Path, bool)> {
    mounts.iter().filter_map(|op| match op {
        MountOp::Bind { source, dest, writable } => Some((source.as_path(), dest.as_path(), *writable)),
        _ => None,
    })
}

fn dest_of(op: &MountOp) -> Option<&Path> {
    match op {
        MountOp::Bind { dest, .. } => Some(dest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, dest: &str, writable: bool) -> MountOp {
        MountOp::Bind { source: source.into(), dest: dest.into(), writable }
    }

    fn guarded(paths: &[&str]) -> Vec<Guarded> {
        paths.iter().map(|path| Guarded { path: path.into(), what: "it".into() }).collect()
    }

    fn shown(mounts: &[MountOp]) -> Vec<String> {
        binds(mounts)
            .map(|(source, dest, writable)| {
                let how = if writable { "rw" } else { "ro" };
                if source == dest {
                    format!("{how} {}", dest.display())
                } else {
                    format!("{how} {} = {}", dest.display(), source.display())
                }
            })
            .collect()
    }

    #[test]
    fn every_folder_on_the_way_becomes_a_mount_point() {
        let mut mounts = vec![MountOp::Proc, bind("/p/layer", "/p/layer", true)];
        let decisive = guarded(&["/p/layer/.git", "/p/layer/a/b/.git", "/p/layer/a/b/.git/x", "/p/smidr.yaml"]);
        assert!(check(&mounts, &decisive, &[]).is_err());
        protect(&mut mounts, &decisive);
        assert_eq!(
            shown(&mounts),
            [
                "rw /p/layer",
                "ro /p/layer/.git",
                "rw /p/layer/a",
                "rw /p/layer/a/b",
                "ro /p/layer/a/b/.git",
                "ro /p/layer/a/b/.git/x",
            ]
        );
        assert_eq!(mounts[0], MountOp::Proc);
        assert_eq!(check(&mounts, &decisive, &[]), Ok(()));
        // Without one of the folders between, a rename could move the guarded one away.
        mounts.retain(|op| dest_of(op) != Some(Path::new("/p/layer/a")));
        assert_eq!(check(&mounts, &decisive, &[]).map_err(|exposed| exposed.path), Err("/p/layer/a/b/.git".into()));
    }

    #[test]
    fn a_bind_elsewhere_shows_the_same_file() {
        let mut mounts = vec![bind("/p", "/srv/p", true), bind("/p/own", "/p/own", false)];
        let decisive = guarded(&["/p/smidr.yaml", "/p/own/x"]);
        protect(&mut mounts, &decisive);
        assert_eq!(
            shown(&mounts),
            [
                "ro /p/own",
                "rw /srv/p = /p",
                "rw /srv/p/own = /p/own",
                "ro /srv/p/own/x = /p/own/x",
                "ro /srv/p/smidr.yaml = /p/smidr.yaml"
            ]
        );
        assert_eq!(check(&mounts, &decisive, &[]), Ok(()));
    }

    #[test]
    fn what_cannot_be_covered_is_refused() {
        for (source, path) in [("/p", "/p"), ("/p/.git/x", "/p/.git"), ("/p/.git", "/p/.git")] {
            let mut mounts = vec![bind(source, "/srv/x", true)];
            protect(&mut mounts, &guarded(&[path]));
            assert!(check(&mounts, &guarded(&[path]), &[]).is_err(), "{source} shows {path}");
        }
        // Read-only mounts may show anything, and a writable one inside them may not.
        let mut mounts = vec![bind("/p", "/p", false), bind("/p/layer", "/p/layer", true)];
        let decisive = guarded(&["/p/.git", "/p/layer/.git"]);
        protect(&mut mounts, &decisive);
        assert_eq!(check(&mounts, &decisive, &[]), Ok(()));
        assert_eq!(shown(&mounts), ["ro /p", "rw /p/layer", "ro /p/layer/.git"]);
    }
}
