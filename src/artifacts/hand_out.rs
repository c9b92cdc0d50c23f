//! Copies kept artifacts into a folder of the user's. What is there already and equal stays as it is; what differs is replaced only on request.
//!
//! Links in that folder, perhaps from a copy of another build, are not followed out of it. A file appears whole, by rename.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, renameat};

use super::{
    ArtifactError,
    arrivals::{Arrivals, PART, There, part},
    copy,
};
use crate::{
    events::Redactor,
    model::Artifact,
    system::{files::FileError, removal::remove_at, stop::StopToken},
};

/// What came of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Files and links that were made.
    pub made: usize,
    /// Those that were there already.
    pub there: usize,
    /// Links that were not made, because they lead out.
    pub outside: usize,
}

/// The artifacts that patterns name: by their paths, or, for a pattern without a slash, by their names.
///
/// # Errors
///
/// When a pattern is malformed, or one matches nothing.
pub(crate) fn select(artifacts: Vec<Artifact>, patterns: &[String]) -> Result<Vec<Artifact>, ArtifactError> {
    if patterns.is_empty() {
        return Ok(artifacts);
    }
    let mut wanted = vec![false; artifacts.len()];
    for pattern in patterns {
        let glob = glob(pattern)?;
        let mut any = false;
        for (artifact, wanted) in artifacts.iter().zip(&mut wanted) {
            let name = artifact.path.file_name().map(Path::new).filter(|_| !pattern.contains('/'));
            let is_match = artifact.path == Path::new(pattern) || glob.is_match(name.unwrap_or(&artifact.path));
            any |= is_match;
            *wanted |= is_match;
        }
        if !any {
            return Err(ArtifactError::NoSuch(pattern.clone()));
        }
    }
    Ok(artifacts.into_iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(artifact, _)| artifact).collect())
}

fn glob(pattern: &str) -> Result<GlobSet, ArtifactError> {
    let wrong = |error| ArtifactError::Pattern(pattern.into(), error);
    let glob = GlobBuilder::new(pattern).literal_separator(true).build().map_err(wrong)?;
    GlobSetBuilder::new().add(glob).build().map_err(wrong)
}

/// Copies artifacts that are kept in `from`. With `force`, in the place of whatever files are there.
///
/// # Errors
///
/// When the file system refuses, or, without `force`, something else is there already; then nothing was copied.
pub(crate) fn copy_all(
    from: &Path,
    artifacts: &[Artifact],
    dest: &Path,
    force: bool,
    stop: &StopToken,
) -> Result<Copied, ArtifactError> {
    let mut to = Target { to: Arrivals::open(dest)?, from, stop, shared: HashMap::new() };
    let mut copied = Copied::default();
    let mut missing = Vec::new();
    let mut others = Vec::new();
    for artifact in artifacts {
        if artifact.leads_out() {
            copied.outside += 1;
            continue;
        }
        match to.to.there(artifact, stop)? {
            There::TheSame => copied.there += 1,
            There::Nothing => missing.push(artifact),
            There::Another => {
                others.push(dest.join(&artifact.path));
                missing.push(artifact);
            }
        }
    }
    if let (false, Some(first)) = (force, others.first()) {
        return Err(ArtifactError::Another { first: first.clone(), more: others.len() - 1 });
    }
    for artifact in missing {
        stop.check()?;
        to.put(artifact)?;
        copied.made += 1;
    }
    Ok(copied)
}

/// The user's folder.
struct Target<'a> {
    to: Arrivals,
    from: &'a Path,
    stop: &'a StopToken,
    // The first copy of each file that is kept under several names.
    shared: HashMap<(u64, u64), PathBuf>,
}

impl Target<'_> {
    fn put(&mut self, artifact: &Artifact) -> Result<(), ArtifactError> {
        let path = artifact.path.as_path();
        if let Some(link) = &artifact.link {
            return self.to.link(path, link);
        }
        let (folder, name) = self.to.folder(path)?;
        let made = self.copy(path, &folder);
        let failed = FileError::new("copy to", &self.to.dest.join(path));
        made.and_then(|()| Ok(renameat(&folder, PART, &folder, name)?)).map_err(failed)?;
        // Two names of one file stay where they are.
        let _ = remove_at(std::os::fd::AsFd::as_fd(&folder), OsStr::new(PART));
        Ok(())
    }

    fn copy(&mut self, path: &Path, folder: &OwnedFd) -> io::Result<()> {
        let source = copy::open(&self.from.join(path))?;
        let found = source.metadata()?;
        let id = copy::id(&found);
        if let Some(first) = self.shared.get(&id)
            && let Ok((place, known)) = self.to.root.parent(first)
            && part(folder, |part| linkat(&place, &known, folder, part, AtFlags::empty())).is_ok()
        {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = File::from(part(folder, |part| openat(folder, part, flags, Mode::from(0o600)))?);
        if !copy::share(&source, &target) {
            copy::copy_data(&source, &target, &Redactor::default(), self.stop)?;
        }
        copy::dress(&found, &target, copy::own_mode(&found))?;
        self.shared.entry(id).or_insert_with(|| path.into());
        Ok(())
    }
}
