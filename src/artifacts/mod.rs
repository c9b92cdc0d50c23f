//! Gathers what a build leaves behind: patterns in, copies and a manifest out. Never changes the build's own files.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{Mode, OFlags, openat, symlinkat};

use crate::{
    events::{Emitter, Redactor},
    host::{
        files::{FileError, make_private_dir, remove_tree, sha256_of, write_atomically},
        rooted::{Rooted, RootedError},
    },
    model::{Activity, Artifact, Event, Explain, Kind, Unit},
};

/// The name of the manifest, beside the folder of artifacts.
pub const MANIFEST: &str = "artifacts.json";

/// Why artifacts cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// No file matches.
    #[error("no file in {deploy} matches {}", patterns.join(", "))]
    Nothing {
        /// Where they were looked for.
        deploy: PathBuf,
        /// The patterns.
        patterns: Vec<String>,
    },
    /// The build put a link in the place of its deploy folder.
    #[error("{0} leads through a symbolic link that the build made, and is left alone")]
    Link(PathBuf),
    /// There is no way to where a copy should be.
    #[error("cannot copy to {path}")]
    Place {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: RootedError,
    },
    /// A pattern that is none.
    #[error("`{0}` is no pattern")]
    Pattern(String, #[source] globset::Error),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Explain for ArtifactError {
    fn kind(&self) -> Kind {
        match self {
            Self::Nothing { .. } | Self::Link(_) => Kind::Build,
            Self::Pattern(..) => Kind::Request,
            Self::Place { source, .. } => source.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Nothing { deploy, .. } => Some(format!("see what is there:  find {} -type f", deploy.display())),
            Self::Link(_) => Some("begin anew:  smidr build --clean".into()),
            Self::Pattern(..) | Self::Place { .. } => None,
            Self::File(error) => error.hint(),
        }
    }
}

/// Copies what matches from `deploy` to `<build>/artifacts`, whole or not at all, and writes the manifest.
///
/// # Errors
///
/// When nothing matches, or a file cannot be copied; `<build>/artifacts` is then not there.
pub fn collect(deploy: &Path, patterns: &[String], build: &Path, on: &Emitter) -> Result<Vec<Artifact>, ArtifactError> {
    let wanted = matcher(patterns)?;
    let found = find(deploy, |path| wanted.is_match(path))?;
    if found.is_empty() {
        return Err(ArtifactError::Nothing { deploy: deploy.into(), patterns: patterns.to_vec() });
    }
    let mut kept = Vec::with_capacity(found.len());
    whole(&build.join("artifacts"), |half| {
        for (done, path) in found.iter().enumerate() {
            on.progress(Activity::Collect, "artifacts", done as u64, Some(found.len() as u64), Unit::Items);
            kept.push(keep(deploy, path, half)?);
        }
        Ok(())
    })?;
    let manifest =
        serde_json::to_vec_pretty(&serde_json::json!({ "version": 1, "artifacts": kept })).unwrap_or_default();
    write_atomically(&build.join(MANIFEST), &manifest, 0o600)?;
    for artifact in &kept {
        on.emit(Event::ArtifactKept { artifact: artifact.clone() });
    }
    Ok(kept)
}

/// Copies all files of a folder, but no repository's `.git`, to `to`, whole or not at all, and without secrets.
///
/// # Errors
///
/// When a file cannot be copied; `to` is then not there.
pub fn keep_folder(from: &Path, to: &Path, redactor: &Redactor, on: &Emitter) -> Result<(), ArtifactError> {
    let found = find(from, |path| path.iter().next().is_some_and(|first| first != ".git"))?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    whole(to, |half| {
        for (done, path) in found.iter().enumerate() {
            on.progress(Activity::Collect, &name, done as u64, Some(found.len() as u64), Unit::Items);
            let target = half.join(path);
            if let Some(folder) = target.parent() {
                make_private_dir(folder)?;
            }
            duplicate(&from.join(path), &target, redactor)?;
        }
        Ok(())
    })?;
    Ok(())
}

// A folder that is there when it is complete.
fn whole(to: &Path, fill: impl FnOnce(&Path) -> Result<(), FileError>) -> Result<(), FileError> {
    let half = to.with_extension("part");
    remove_tree(&half)?;
    make_private_dir(&half)?;
    fill(&half)?;
    fs::rename(&half, to).map_err(FileError::new("make visible", to))
}

/// Copies kept artifacts into a folder of the user's. Links that are there, perhaps from a copy of another build, lead nowhere else.
///
/// # Errors
///
/// When the file system refuses, or a file is there already.
pub fn copy_all(from: &Path, artifacts: &[Artifact], dest: &Path) -> Result<(), ArtifactError> {
    fs::create_dir_all(dest).map_err(FileError::new("make the folder", dest))?;
    let within = |path: &Path, source| ArtifactError::Place { path: dest.join(path), source };
    let root = Rooted::open(dest).map_err(|source| within(Path::new(""), source))?;
    for Artifact { path, link, .. } in artifacts {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let folder = root.make_dirs(parent, 0o755).map_err(|source| within(path, source))?;
        let failed = || FileError::new("make", &dest.join(path));
        match link {
            Some(link) => symlinkat(link, &folder, name).map_err(|errno| failed()(errno.into()))?,
            None => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = openat(&folder, name, flags, Mode::from(0o666)).map_err(|errno| failed()(errno.into()))?;
                copy(&from.join(path), target.into(), &Redactor::default())
                    .map_err(FileError::new("copy to", &dest.join(path)))?;
            }
        }
    }
    Ok(())
}

fn matcher(patterns: &[String]) -> Result<GlobSet, ArtifactError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.map_err(|error| ArtifactError::Pattern(pattern.clone(), error))?);
    }
    set.build().map_err(|error| ArtifactError::Pattern(patterns.join(" "), error))
}

fn find(deploy: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    if !deploy.is_dir() {
        return Ok(found);
    }
    for entry in walkdir::WalkDir::new(deploy).sort_by_file_name() {
        let entry = entry.map_err(|error| FileError::new("read", deploy)(error.into()))?;
        let Ok(path) = entry.path().strip_prefix(deploy) else { continue };
        // Pipes, sockets and devices are no artifacts, and opening one could wait forever.
        let kind = entry.file_type();
        if (kind.is_file() || kind.is_symlink()) && wanted(path) {
            found.push(path.to_path_buf());
        }
    }
    Ok(found)
}

fn keep(deploy: &Path, path: &Path, target: &Path) -> Result<Artifact, FileError> {
    let (from, to) = (deploy.join(path), target.join(path));
    if let Some(folder) = to.parent() {
        make_private_dir(folder)?;
    }
    if let Some(link) = duplicate(&from, &to, &Redactor::default())? {
        return Ok(Artifact { path: path.into(), size: 0, sha256: None, link: Some(link) });
    }
    let (sha256, size) = sha256_of(&to)?;
    Ok(Artifact { path: path.into(), size, sha256: Some(sha256), link: None })
}

// Copies a file, or makes the same link and says where it leads. A hard link would change together with the next build's file.
fn duplicate(from: &Path, to: &Path, redactor: &Redactor) -> Result<Option<PathBuf>, FileError> {
    let kind = fs::symlink_metadata(from).map_err(FileError::new("look at", from))?;
    if kind.is_symlink() {
        let link = fs::read_link(from).map_err(FileError::new("read the link", from))?;
        std::os::unix::fs::symlink(&link, to).map_err(FileError::new("make the link", to))?;
        return Ok(Some(link));
    }
    let target = File::create_new(to).map_err(FileError::new("make", to))?;
    copy(from, target, redactor).map_err(FileError::new("copy", from))?;
    Ok(None)
}

/// Shares the blocks where the file system can (btrfs, xfs), copies where it cannot. Keeps permissions and the time of the last change.
fn copy(from: &Path, target: File, redactor: &Redactor) -> io::Result<()> {
    // What was a file a moment ago may be something else by now.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let source = fs::OpenOptions::new().read(true).custom_flags(flags).open(from)?;
    if !source.metadata()?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if redactor.knows_any() {
        redactor.copy(&source, &target)?;
    } else if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        io::copy(&mut &source, &mut &target)?;
    }
    let metadata = source.metadata()?;
    target.set_permissions(metadata.permissions())?;
    target.set_modified(metadata.modified()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BuildId;

    #[test]
    fn files_and_links_are_kept_and_folders_are_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let deploy = folder.path().join("deploy");
        let images = deploy.join("images/board");
        fs::create_dir_all(images.join("empty")).expect("folders");
        fs::create_dir_all(deploy.join("licenses")).expect("folders");
        fs::write(images.join("a.ext4"), b"content").expect("a file");
        fs::write(deploy.join("licenses/x"), b"no").expect("a file");
        std::os::unix::fs::symlink("a.ext4", images.join("latest")).expect("a link");
        let build = folder.path().join("build");
        let on = Emitter::new(BuildId::new("x", 1).expect("an id"), Vec::new());
        let kept = collect(&deploy, &["images/board/**".into()], &build, &on).expect("collected");
        let names: Vec<String> = kept.iter().map(|artifact| artifact.path.display().to_string()).collect();
        assert_eq!(names, ["images/board/a.ext4", "images/board/latest"]);
        assert_eq!(fs::read(build.join("artifacts/images/board/a.ext4")).expect("kept"), b"content");
        assert_eq!(fs::read_link(build.join("artifacts/images/board/latest")).expect("a link"), Path::new("a.ext4"));
        // The next build changes its own file; what was kept stays.
        fs::write(images.join("a.ext4"), b"changed").expect("a file");
        assert_eq!(fs::read(build.join("artifacts/images/board/a.ext4")).expect("kept"), b"content");
        let nothing = collect(&deploy, &["images/other/*".into()], &folder.path().join("b2"), &on);
        assert!(matches!(nothing, Err(ArtifactError::Nothing { .. })));
        assert!(!folder.path().join("b2/artifacts").exists());
    }
}
