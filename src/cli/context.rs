//! What commands have in common: the environment, the shared folders, the newest build.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{
    args::Wanted,
    report::{Failure, Refused},
    times::day,
};
use crate::{
    history::BuildRecord,
    model::{BuildRequest, Hint, Kind, Paths, Secrets, SystemFacts},
    project::{OtherTool, Project, ProjectError},
    service::LocalService,
    system::{
        facts, paths,
        stop::{Listening, StopRequest, StopToken},
    },
};

/// The caller's environment, as text; variables that are no UTF-8 are left out.
pub(super) fn environment() -> Vec<(String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// The shared folders, open for use.
pub(super) fn open_paths(facts: &SystemFacts) -> Result<Paths, Failure> {
    let found = paths::find(&facts.environment)?;
    paths::open(&found)?;
    Ok(found)
}

/// Ends a command that keeps no record at the second request to stop, whatever it waits for: what it writes survives that.
pub(super) fn exit_at_second(stop: &StopToken) -> Listening {
    stop.listen(|request| {
        if request == StopRequest::Kill {
            std::process::exit(i32::from(Kind::Cancelled.exit_code()));
        }
    })
}

/// This machine and its caller.
pub(super) fn gather() -> SystemFacts {
    facts::gather(environment())
}

/// What sounds like a secret in an environment. For what is said where no plan says more.
pub(super) fn secrets(environment: &[(String, String)]) -> Secrets {
    let mut secrets = Secrets::default();
    environment.iter().for_each(|(name, value)| secrets.add_variable(name, value));
    secrets
}

/// A config that is named without a folder and is not in this one: that of a folder above, as git and cargo look for theirs.
pub(super) fn find_above(file: PathBuf) -> PathBuf {
    if file.components().count() != 1 || file.is_absolute() || file.exists() {
        return file;
    }
    let here = env::current_dir().unwrap_or_default();
    if let Some(above) = here.ancestors().skip(1).map(|folder| folder.join(&file)).find(|above| above.is_file()) {
        return above;
    }
    // Where another tool's project is, it is the one that is meant.
    match OtherTool::find_in(Path::new(".")).filter(|_| file == Path::new("smidr.yaml")) {
        Some(OtherTool::Builds(other)) => other,
        _ => file,
    }
}

/// A build by its id; without one the newest of the project in this folder, or of all where there is no project.
pub(super) fn named_or_newest(
    service: &LocalService<'_>,
    id: Option<&str>,
    config: &Path,
    facts: &SystemFacts,
) -> Result<BuildRecord, Failure> {
    let project = match id {
        Some(_) => return Ok(service.show(id)?),
        None => Project::look(config, None, facts),
    };
    let project = match project {
        Err(ProjectError::Missing { above: None, .. }) => return Ok(service.show(None)?),
        // One that is wrong by now: its builds are known by its path.
        Err(error) => {
            let file = std::fs::canonicalize(config).unwrap_or_else(|_| config.into());
            return Ok(service.newest_of(&file, "")?.ok_or(error)?);
        }
        Ok(project) => project,
    };
    service.newest_of(&project.file, &project.config.name)?.ok_or_else(|| {
        let what = format!("`{}` has not been built yet", project.config.name);
        Refused::new(what, [Hint::command("builds of other projects", "smidr status")]).into()
    })
}

/// The day on which what a build left behind was removed. Its folder has not changed since.
pub(super) fn cleaned_on(build: &BuildRecord, paths: &Paths) -> Option<String> {
    build.outcome.as_ref().filter(|outcome| outcome.cleaned)?;
    let changed = std::fs::metadata(paths.build(&build.id)).and_then(|found| found.modified()).ok()?;
    Some(day(jiff::Timestamp::try_from(changed).ok()?))
}

impl From<&Wanted> for BuildRequest {
    fn from(wanted: &Wanted) -> Self {
        Self {
            targets: [wanted.targets.clone(), wanted.more_targets.clone()].concat(),
            machine: wanted.machine.clone(),
            variant: None,
            fetch_only: wanted.fetch_only,
            locked: wanted.locked,
            offline: wanted.offline,
            clean: wanted.clean,
            fail_on_warning: wanted.fail_on_warning.clone(),
            bitbake_args: wanted.bitbake_args.clone(),
        }
    }
}

/// Nothing in particular is wanted.
pub(super) fn default_wanted(variant: Option<String>) -> BuildRequest {
    BuildRequest { variant, ..BuildRequest::default() }
}
