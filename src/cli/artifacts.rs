//! `smidr artifacts`: what builds left behind.

use std::{fs, path::Path, process::ExitCode};

use super::{
    args::{Artifacts, Clean, Listing},
    context,
    history::policy,
    output::{Document, bytes, say, talk},
    report::{Done, Failure, Refused},
};
use crate::{
    artifacts,
    history::BuildRecord,
    model::{Artifact, Hint, Paths, SystemFacts},
    service::LocalService,
    system::paths,
};

/// Runs the command.
pub(super) fn artifacts(config: &Path, command: &Artifacts) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let find = |id: Option<&str>| find(config, &facts, &paths, id);
    match command {
        Artifacts::List(listing) => list(find(listing.id.as_deref())?, listing),
        Artifacts::Show(listing) => show(find(listing.id.as_deref())?, &paths, listing),
        Artifacts::Copy { id, dest } => copy(find(Some(id))?, &paths, dest),
        Artifacts::Clean(wanted) => clean(&paths, wanted),
    }
}

type Found = (BuildRecord, Vec<Artifact>);

fn find(config: &Path, facts: &SystemFacts, paths: &Paths, id: Option<&str>) -> Result<Found, Failure> {
    let service = LocalService::new(paths);
    let build = context::named_or_newest(&service, id, config, facts)?;
    let artifacts = service.artifacts(&build.id)?;
    Ok((build, artifacts))
}

fn list((build, artifacts): Found, listing: &Listing) -> Done {
    if listing.json {
        Document::new().with("build", &build.id)?.with("artifacts", &artifacts)?.say();
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

fn show((build, artifacts): Found, paths: &Paths, listing: &Listing) -> Done {
    let folder = paths.build(&build.id).join("artifacts");
    if listing.json {
        let document = Document::new().with("build", &build.id)?.with("artifacts", &artifacts)?;
        document.with("folder", &folder)?.say();
        return Ok(ExitCode::SUCCESS);
    }
    match artifacts.is_empty() {
        true => talk(format!("{} ({}) left nothing behind", build.id, build.state)),
        false => talk(format!("{} in {}", build.id, folder.display())),
    }
    for artifact in &artifacts {
        let digest = artifact.sha256.as_ref().map(|digest| digest.hex()).unwrap_or_default();
        say(format!("{digest:<64}  {:>12}  {}", artifact.size, folder.join(&artifact.path).display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn copy((build, found): Found, paths: &Paths, dest: &Path) -> Done {
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
        return Err(Refused::new(what, [Hint::new("choose another folder")]).into());
    }
    let outside = artifacts::copy_all(&from, &found, dest)?;
    talk(format!("{} files in {}", found.len() - outside, dest.display()));
    if outside > 0 {
        talk(format!(
            "{outside} links were not made, since each leads out of the artifacts: see `smidr artifacts list`"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn is_cleaned(build: &BuildRecord) -> bool {
    build.outcome.as_ref().is_some_and(|outcome| outcome.cleaned)
}

fn clean(paths: &Paths, wanted: &Clean) -> Done {
    let policy = policy(wanted)?;
    let cleaned = LocalService::new(paths).clean(policy, jiff::Timestamp::now())?;
    for (build, freed) in &cleaned {
        say(format!("{:<40} {:>8}", build.id, bytes(*freed)));
    }
    let verb = if wanted.dry_run { "would remove" } else { "removed" };
    let freed = cleaned.iter().fold(0, |sum: u64, (_, freed)| sum.saturating_add(*freed));
    talk(format!("{verb} what {} builds left behind, {}", cleaned.len(), bytes(freed)));
    Ok(ExitCode::SUCCESS)
}
