//! `smidr artifacts`: what builds left behind.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    args::{Artifacts, Copy, Listing},
    context,
    history::{gone, policy},
    output::{Document, bytes, say, talk},
    report::{Done, Failure, Refused},
};
use crate::{
    artifacts,
    history::BuildRecord,
    model::{Artifact, Hint, Paths, SystemFacts},
    service::{Clean, LocalService},
    system::{files::FileError, paths, stop::StopToken},
};

/// Runs the command.
pub(super) fn artifacts(config: &Path, command: &Artifacts) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let find = |id: Option<&str>| find(config, &facts, &paths, id);
    match command {
        Artifacts::List(listing) => list(find(listing.id.as_deref())?, &paths, listing),
        Artifacts::Show(listing) => show(find(listing.id.as_deref())?, &paths, listing),
        Artifacts::Copy(wanted) => copy(config, &facts, &paths, wanted),
        Artifacts::Clean(wanted) => clean(&paths, &policy(config, wanted)?, wanted.json),
    }
}

type Found = (BuildRecord, Vec<Artifact>);

fn find(config: &Path, facts: &SystemFacts, paths: &Paths, id: Option<&str>) -> Result<Found, Failure> {
    let service = LocalService::new(paths);
    let build = context::named_or_newest(&service, id, config, facts)?;
    let artifacts = service.artifacts(&build.id)?;
    Ok((build, artifacts))
}

fn list((build, artifacts): Found, paths: &Paths, listing: &Listing) -> Done {
    if listing.json {
        Document::new().with("build", &build.id)?.with("artifacts", &artifacts)?.say();
    } else if artifacts.is_empty() {
        talk(format!("{} ({}) left nothing behind", build.id, build.state));
    } else if let Some(day) = context::cleaned_on(&build, paths) {
        talk(format!(
            "what {} left behind was removed on {day}, by `smidr clean` or `smidr artifacts clean`",
            build.id
        ));
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

/// The words of `copy`: the folder alone, or the build, the folder, and patterns.
fn words<'a>(words: &'a [PathBuf], paths: &Paths) -> Result<(Option<&'a str>, &'a Path, Vec<String>), Failure> {
    // No build is called so.
    let is_path = |word: &PathBuf| word.is_absolute() || word.starts_with(".") || word.starts_with("..");
    match words {
        [dest, patterns @ ..] if is_path(dest) && !patterns.is_empty() => Ok((None, dest, texts(patterns)?)),
        [dest] => {
            let is_build = dest.to_str().and_then(|word| word.parse().ok()).is_some_and(|id| paths.build(&id).is_dir());
            if is_build {
                let hint = Hint::command("for example", format!("smidr artifacts copy {} out", dest.display()));
                return Err(Refused::new("name the folder to copy to", [hint]).into());
            }
            Ok((None, dest, Vec::new()))
        }
        [id, dest, patterns @ ..] => Ok((Some(id.to_str().unwrap_or_default()), dest, texts(patterns)?)),
        [] => Err(Refused::new("name the folder to copy to", None).into()),
    }
}

fn texts(patterns: &[PathBuf]) -> Result<Vec<String>, Refused> {
    let text = |path: &PathBuf| {
        let wrong = || Refused::new(format!("`{}` is not valid UTF-8", path.display()), None);
        path.to_str().map(String::from).ok_or_else(wrong)
    };
    patterns.iter().map(text).collect()
}

fn copy(config: &Path, facts: &SystemFacts, paths: &Paths, wanted: &Copy) -> Done {
    let (id, dest, patterns) = words(&wanted.words, paths)?;
    let (build, found) = find(config, facts, paths, id)?;
    if found.is_empty() {
        let hint = Hint::command("an earlier build may have; to see them", "smidr status --all");
        return Err(Refused::new(format!("{} ({}) left nothing behind", build.id, build.state), [hint]).into());
    }
    let from = paths.build(&build.id).join("artifacts");
    if !from.is_dir() {
        let what = match context::cleaned_on(&build, paths) {
            Some(day) => format!(
                "the artifacts of {} were removed on {day}, by `smidr clean` or `smidr artifacts clean`",
                build.id
            ),
            None => format!("the artifacts of {} are gone from {}", build.id, from.display()),
        };
        return Err(Refused::new(what, None).into());
    }
    let found = artifacts::select(found, &patterns)?;
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let copied = artifacts::copy_all(&from, &found, dest, wanted.force, &stop)?;
    let there = if copied.there > 0 { format!("; {} were there already", copied.there) } else { String::new() };
    talk(format!("{} files of {} copied to {}{there}", copied.made, build.id, dest.display()));
    if copied.outside > 0 {
        let outside = copied.outside;
        talk(format!(
            "{outside} links were not made, since each leads out of the artifacts: see `smidr artifacts list`"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn clean(paths: &Paths, policy: &Clean, json: bool) -> Done {
    let cleaned = LocalService::new(paths).clean(policy, jiff::Timestamp::now())?;
    if json {
        gone(policy.dry_run, &cleaned)?.say();
        return Ok(ExitCode::SUCCESS);
    }
    for (build, freed) in &cleaned {
        say(format!("{:<40} {:>8}", build.id, bytes(*freed)));
    }
    let verb = if policy.dry_run { "would remove" } else { "removed" };
    let freed = cleaned.iter().fold(0, |sum: u64, (_, freed)| sum.saturating_add(*freed));
    talk(format!("{verb} what {} builds left behind, {}", cleaned.len(), bytes(freed)));
    Ok(ExitCode::SUCCESS)
}
