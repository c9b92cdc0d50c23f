//! Artifacts of a daemon's build, brought here: each resumed where it broke off, and checked.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    output::talk,
    report::{Done, Failure, Refused},
};
use crate::{
    artifacts,
    history::BuildRecord,
    model::{Artifact, Hint},
    service::BuildService,
    system::files::{FileError, sha256_of},
};

/// The end of the name of a file that is not whole yet.
const PART: &str = ".smidr-part";

/// Copies what a build left behind into a folder.
pub(super) fn download(
    service: &dyn BuildService,
    build: &BuildRecord,
    dest: &Path,
    patterns: &[String],
    force: bool,
) -> Done {
    let all = service.artifacts(&build.id)?;
    if all.is_empty() {
        return Err(Refused::new(format!("{} ({}) left nothing behind", build.id, build.state), None).into());
    }
    let wanted = if patterns.is_empty() { all } else { artifacts::select(all, patterns)? };
    for artifact in wanted.iter().filter(|artifact| artifact.link.is_none()) {
        one(service, build, artifact, dest, force)?;
    }
    talk(format!("{} files of {} copied to {}", wanted.len(), build.id, dest.display()));
    Ok(ExitCode::SUCCESS)
}

fn one(
    service: &dyn BuildService,
    build: &BuildRecord,
    artifact: &Artifact,
    dest: &Path,
    force: bool,
) -> Result<(), Failure> {
    let to = dest.join(&artifact.path);
    if to.exists() && !force {
        if artifact.sha256.as_ref() == Some(&sha256_of(&to)?.0) {
            return Ok(());
        }
        let what = format!("{} is there already, and is another file", to.display());
        return Err(Refused::new(what, [Hint::new("--force replaces it")]).into());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(FileError::new("make the folder", folder))?;
    }
    let part = PathBuf::from(format!("{}{PART}", to.display()));
    let failed = || FileError::new("write", &part);
    let mut file = fs::OpenOptions::new().create(true).append(true).open(&part).map_err(failed())?;
    let offset = file.seek(SeekFrom::End(0)).map_err(failed())?;
    service.read(&build.id, artifact, offset.min(artifact.size), &mut |piece| file.write_all(piece))?;
    drop(file);
    let (digest, _) = sha256_of(&part)?;
    if artifact.sha256.as_ref().is_some_and(|wanted| *wanted != digest) {
        let _ = fs::remove_file(&part);
        let what = format!("{} arrived damaged: it has the digest {digest}", artifact.path.display());
        return Err(Refused::new(what, [Hint::new("try again")]).into());
    }
    fs::rename(&part, &to).map_err(FileError::new("write", &to))?;
    Ok(())
}
