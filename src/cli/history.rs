//! `smidr history`: the record of builds itself.

use std::{process::ExitCode, time::Duration};

use super::{
    args::{Clean, History},
    context,
    output::{say, talk},
    report::{Done, Refused},
};
use crate::model::Hint;
use crate::service::{self, LocalService};

/// Runs the command.
pub(super) fn history(command: &History) -> Done {
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    let service = LocalService::new(&paths);
    match command {
        History::Rebuild => {
            let count = service.rebuild(|id, why| talk(format!("{id} is left out: {why}")))?;
            talk(format!("{count} builds are in the history"));
        }
        History::Prune(wanted) => {
            let gone = service.prune(policy(wanted)?, jiff::Timestamp::now())?;
            gone.iter().for_each(|build| say(format!("{:<40} {}", build.id, build.state)));
            let verb = if wanted.dry_run { "would remove" } else { "removed" };
            talk(format!("{verb} {} builds with all that is known of them", gone.len()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the flags ask for.
pub(super) fn policy(wanted: &Clean) -> Result<service::Clean, Refused> {
    if wanted.keep.is_none() && wanted.days.is_none() {
        let hint = Hint::new("add  --keep 3  or  --days 30; with  --dry-run  nothing is removed");
        return Err(Refused::new("say what may be removed: --keep BUILDS, --days DAYS or both", [hint]));
    }
    let day = Duration::from_secs(24 * 60 * 60);
    Ok(service::Clean { keep: wanted.keep, older_than: wanted.days.map(|days| day * days), dry_run: wanted.dry_run })
}
