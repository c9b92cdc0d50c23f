//! `smidr history`: the record of builds itself.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{
    args::{Clean, History},
    context,
    output::{Document, Unwritable, bytes, say, talk},
    report::{Done, Failure, Refused},
};
use crate::{
    history::BuildRecord,
    model::Hint,
    service::{self, LocalService},
};

/// Runs the command.
pub(super) fn history(config: &Path, command: &History) -> Done {
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    let service = LocalService::new(&paths);
    match command {
        History::Rebuild => {
            let count = service.rebuild(|id, why| talk(format!("{id} is left out: {why}")))?;
            talk(format!("{count} builds are in the history"));
        }
        History::Prune(wanted) => {
            let gone = service.prune(&policy(config, wanted)?, jiff::Timestamp::now())?;
            if wanted.json {
                self::gone(wanted.dry_run, &gone)?.say();
                return Ok(ExitCode::SUCCESS);
            }
            for (build, freed) in &gone {
                say(format!("{:<40} {:<12} {:>8}", build.id, build.state, bytes(*freed)));
            }
            let freed = gone.iter().fold(0, |sum: u64, (_, freed)| sum.saturating_add(*freed));
            let verb = if wanted.dry_run { "would remove" } else { "removed" };
            talk(format!("{verb} {} builds with all that is known of them, {}", gone.len(), bytes(freed)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds of which something was removed, or would be.
pub(super) fn gone(dry_run: bool, builds: &[(BuildRecord, u64)]) -> Result<Document, Unwritable> {
    let document = |(build, freed): &(BuildRecord, u64)| {
        let document = Document::default().with("id", &build.id)?.with("state", &build.state)?;
        document.with("ended", &build.ended)?.with("bytes", freed)
    };
    let list = builds.iter().map(document).collect::<Result<Vec<_>, _>>()?;
    let freed = builds.iter().fold(0, |sum: u64, (_, freed)| sum.saturating_add(*freed));
    Document::new().with("dry_run", &dry_run)?.with("bytes", &freed)?.with("builds", &list)
}

/// What the flags ask for.
pub(super) fn policy(config: &Path, wanted: &Clean) -> Result<service::Clean, Failure> {
    if wanted.keep.is_none() && wanted.days.is_none() {
        let hint = Hint::new("add  --keep 3  or  --days 30; with  --dry-run  nothing is removed");
        return Err(Refused::new("say what may be removed: --keep BUILDS, --days DAYS or both", [hint]).into());
    }
    let project = if wanted.all_projects { None } else { Some(project_of(config)?) };
    let day = Duration::from_secs(24 * 60 * 60);
    let older_than = wanted.days.map(|days| day * days);
    Ok(service::Clean { project, keep: wanted.keep, older_than, dry_run: wanted.dry_run })
}

/// The config in this folder, whatever is in it: builds are known by its path.
fn project_of(config: &Path) -> Result<PathBuf, Refused> {
    std::fs::canonicalize(config).map_err(|_| {
        let what = format!("there is no project here: no {}", config.display());
        Refused::new(what, [Hint::new("go to its folder, or add  --all-projects")])
    })
}
