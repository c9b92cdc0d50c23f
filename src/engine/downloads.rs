//! The downloads of a domain before a build: what no fetcher of BitBake leaves there goes. A FIFO under the name of a download would hold up every
//! build that needs it, and a link would lead it elsewhere. Only the top level is looked at, which is where BitBake looks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Services, Tools, crossing::lock_of};
use crate::{
    model::{Event, without_dots},
    plan::Plan,
    system::{
        files::{FileError, make_private_dir},
        lock::{self, Attempt, FileLock, Mode, WaitError},
    },
};

/// Removes what does not belong there, and holds the caches for a build. `shown` is what the build sees.
///
/// # Errors
///
/// When the file system refuses, or a stop is asked for while another smidr holds them alone.
pub(super) fn claim(plan: &Plan, shown: &[PathBuf], holder: &str, tools: Tools<'_>) -> Result<FileLock, WaitError> {
    let Tools { services: Services { paths, .. }, on, stop } = tools;
    let caches = plan.domain.caches(paths, &plan.project_workspace());
    let path = lock_of(&caches, paths);
    // Other builds that see a link may be using it.
    let alone = lock::try_lock(&path, Mode::Exclusive, holder)?;
    let removed = clean(&plan.folders.downloads, shown, matches!(alone, Attempt::Held(_)))?;
    if let [first, ..] = removed.as_slice() {
        on.warn(format!("{} things that are no downloads were removed, such as {}", removed.len(), first.display()));
    }
    drop(alone);
    let waiting = |holder: &str| on.emit(Event::Waiting { resource: "its caches".into(), holder: holder.into() });
    lock::lock(&path, Mode::Shared, holder, stop, waiting)
}

fn clean(downloads: &Path, shown: &[PathBuf], links: bool) -> Result<Vec<PathBuf>, FileError> {
    make_private_dir(downloads)?;
    let mut removed = Vec::new();
    let entries = fs::read_dir(downloads).map_err(FileError::new("read the folder", downloads))?;
    for entry in entries {
        let entry = entry.map_err(FileError::new("read the folder", downloads))?;
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let foreign = if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap_or_default();
            links && !shown.iter().any(|shown| without_dots(&downloads.join(&target)).starts_with(shown))
        } else {
            !kind.is_file() && !kind.is_dir()
        };
        if foreign {
            match fs::remove_file(&path) {
                // Another build has been faster.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => {
                    done.map_err(FileError::new("remove", &path))?;
                    removed.push(path);
                }
            }
        }
    }
    removed.sort();
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    #[test]
    fn only_what_bitbake_leaves_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let downloads = folder.path().join("downloads");
        fs::create_dir_all(downloads.join("git2/x")).expect("folders");
        for name in ["x.tar.gz", "x.tar.gz.done", "x.tar.gz.lock"] {
            fs::write(downloads.join(name), "").expect("a file");
        }
        let layer = folder.path().join("layer");
        symlink(layer.join("files/a"), downloads.join("mirrored")).expect("a link");
        symlink("../layer/b", downloads.join("relative")).expect("a link");
        symlink("x.tar.gz", downloads.join("beside")).expect("a link");
        for (name, target) in [("out", "/etc/passwd"), ("climbs", "../../secret"), ("near", "../layer-evil/x")] {
            symlink(target, downloads.join(name)).expect("a link");
        }
        let fifo = downloads.join("y.tar.gz.done");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o600), 0)
            .expect("a FIFO");
        let _listener = UnixListener::bind(downloads.join("z.done")).expect("a socket");
        let shown = [layer, downloads.clone()];
        let names = |removed: Vec<PathBuf>| -> Vec<String> {
            removed.iter().map(|path| path.strip_prefix(&downloads).expect("inside").display().to_string()).collect()
        };
        assert_eq!(names(clean(&downloads, &shown, false).expect("cleaned")), ["y.tar.gz.done", "z.done"]);
        assert_eq!(names(clean(&downloads, &shown, true).expect("cleaned")), ["climbs", "near", "out"]);
        let mut left: Vec<_> =
            fs::read_dir(&downloads).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["beside", "git2", "mirrored", "relative", "x.tar.gz", "x.tar.gz.done", "x.tar.gz.lock"]);
    }
}
