//! `smidr artifacts`: what builds left behind.

use std::{fs, path::Path, process::ExitCode, time::Duration};

use super::{
    args::{Artifacts, Clean, Listing},
    context,
    output::{bytes, say, say_json, talk},
    report::{Done, Failure, Refused},
};
use crate::{
    artifacts,
    history::BuildRecord,
    host::paths,
    model::{Artifact, Paths},
    service::{self, LocalService},
};

/// Runs the command.
pub fn artifacts(command: &Artifacts) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    match command {
        Artifacts::List(listing) => list(&paths, listing),
        Artifacts::Show(listing) => show(&paths, listing),
        Artifacts::Copy { id, dest } => copy(&paths, id, dest),
        Artifacts::Clean(wanted) => clean(&paths, wanted),
    }
}

fn find(paths: &Paths, id: Option<&str>) -> Result<(BuildRecord, Vec<Artifact>), Failure> {
    let service = LocalService::new(paths);
    let build = service.show(id)?;
    let artifacts = service.artifacts(&build.id)?;
    Ok((build, artifacts))
}

fn list(paths: &Paths, listing: &Listing) -> Done {
    let (build, artifacts) = find(paths, listing.id.as_deref())?;
    if listing.json {
        say_json(&serde_json::json!({ "version": 1, "build": build.id, "artifacts": artifacts }));
    } else if artifacts.is_empty() {
        talk(format!("{} ({}) left nothing behind", build.id, build.state));
    } else if is_cleaned(&build) {
        talk(format!("what {} left behind has been removed since", build.id));
    }
    for artifact in artifacts.iter().filter(|_| !listing.json) {
        let size = artifact.link.as_ref().map_or_else(|| bytes(artifact.size), |link| format!("-> {}", link.display()));
        say(format!("{:<56} {size:>8}", artifact.path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(paths: &Paths, listing: &Listing) -> Done {
    let (build, artifacts) = find(paths, listing.id.as_deref())?;
    let folder = paths.build(&build.id).join("artifacts");
    if listing.json {
        say_json(&serde_json::json!({ "version": 1, "build": build.id, "folder": folder, "artifacts": artifacts }));
        return Ok(ExitCode::SUCCESS);
    }
    talk(format!("{} in {}", build.id, folder.display()));
    for artifact in &artifacts {
        let digest = artifact.sha256.as_ref().map(|digest| digest.hex()).unwrap_or_default();
        say(format!("{digest:<64}  {:>12}  {}", artifact.size, folder.join(&artifact.path).display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn copy(paths: &Paths, id: &str, dest: &Path) -> Done {
    let (build, found) = find(paths, Some(id))?;
    if found.is_empty() {
        return Err(Refused::new(format!("{} ({}) left nothing behind", build.id, build.state), None).into());
    }
    let from = paths.build(&build.id).join("artifacts");
    if !from.is_dir() {
        return Err(
            Refused::new(format!("the artifacts of {} are gone from {}", build.id, from.display()), None).into()
        );
    }
    if let Some(taken) = found.iter().find(|artifact| fs::symlink_metadata(dest.join(&artifact.path)).is_ok()) {
        let what = format!("{} exists already, and is left as it is", dest.join(&taken.path).display());
        return Err(Refused::new(what, Some("choose another folder".into())).into());
    }
    artifacts::copy_all(&from, &found, dest)?;
    talk(format!("{} files in {}", found.len(), dest.display()));
    Ok(ExitCode::SUCCESS)
}

fn is_cleaned(build: &BuildRecord) -> bool {
    build.outcome.as_ref().is_some_and(|outcome| outcome.cleaned)
}

fn clean(paths: &Paths, wanted: &Clean) -> Done {
    let day = Duration::from_secs(24 * 60 * 60);
    let policy =
        service::Clean { keep: wanted.keep, older_than: wanted.days.map(|days| day * days), dry_run: wanted.dry_run };
    let cleaned = LocalService::new(paths).clean(policy, jiff::Timestamp::now())?;
    for (build, freed) in &cleaned {
        say(format!("{:<40} {:>8}", build.id, bytes(*freed)));
    }
    let verb = if wanted.dry_run { "would remove" } else { "removed" };
    let freed = cleaned.iter().fold(0, |sum: u64, (_, freed)| sum.saturating_add(*freed));
    talk(format!("{verb} what {} builds left behind, {}", cleaned.len(), bytes(freed)));
    Ok(ExitCode::SUCCESS)
}
