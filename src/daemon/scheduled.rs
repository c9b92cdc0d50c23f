//! What schedules start.

use std::sync::Arc;

use super::{
    Daemon, DaemonError,
    ledger::schedules::Ran,
    policy,
    schedules::{
        Due, GitConfig, Source,
        fetched::{FetchedError, Given},
    },
};
use crate::{
    model::{BuildId, Logins, Origin, Submission},
    project::{Project, Sources},
    service::random,
};

/// Why a run did not start a build.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Fetched(#[from] FetchedError),
    #[error("the stored submission cannot be read")]
    Template(#[from] serde_json::Error),
}

impl Daemon {
    /// Starts the build of a schedule that is due.
    pub(super) fn run_schedule(self: &Arc<Self>, due: &Due) -> Ran {
        let ran = match &due.source {
            Source::Submission { template } => self.run_template(template, due),
            Source::Git(config) => self.run_git(config, due),
        };
        ran.unwrap_or_else(|error| {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            tracing::warn!(schedule = due.name, customer = due.customer, error = text, "a schedule started no build");
            Ran::Failed(text)
        })
    }

    fn run_template(self: &Arc<Self>, template: &str, due: &Due) -> Result<Ran, RunError> {
        let submission: Submission = serde_json::from_str(template)?;
        let id = BuildId::new(submission.id.name(), random()).map_err(project_error)?;
        let variables = self.config().variables(&due.customer);
        self.start_scheduled(Submission { id, variables, ..submission }, due, None)
    }

    fn run_git(self: &Arc<Self>, config: &GitConfig, due: &Due) -> Result<Ran, RunError> {
        let customer = due.customer.as_str();
        let own = self.config();
        let variables = own.variables(customer);
        let allowed = |granted| Given { granted, logins: logins(&own, customer), variables: variables.clone() };
        let mut fetched = config.fetch(&allowed(Vec::new()), false, &self.spawner, &self.paths)?;
        let facts = self.facts_of_sender(&variables);
        let project =
            Project::of(Sources::of(&fetched.submission), config.variant.as_deref(), &facts).map_err(project_error)?;
        let name = project.config.name.text.clone();
        if due.only_if_changed {
            let verdict = policy::judge(&fetched.asks, None, &project.config, &own, customer);
            fetched = config.fetch(&allowed(verdict.granted), true, &self.spawner, &self.paths)?;
        }
        let pins = fetched.pins.as_ref().map(|pins| pins.digest.to_string());
        if due.only_if_changed && pins.is_some() && pins == due.pins {
            return Ok(Ran::Unchanged);
        }
        let mut submission = Submission { variables, ..fetched.submission };
        if let Some(pins) = fetched.pins {
            submission.lock = Some(pins.lock);
        }
        let owner = if customer.is_empty() { name.clone() } else { customer.to_owned() };
        let file = submission.config_path().file_name().unwrap_or_default().to_owned();
        let caches = own.customers.get(&owner).and_then(|known| known.domain.clone());
        let id = BuildId::new(&owner, random()).map_err(project_error)?;
        let before = submission.config_path().parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        let folder = self.paths.projects().join(&owner).join(&name);
        // Where the project will be on this machine, so are its patches.
        for sent in &mut submission.files {
            if let Ok(inside) = sent.path.strip_prefix(&before) {
                sent.path = folder.join(inside);
            }
        }
        submission.origin = Origin::Remote { customer: owner, caches, config: folder.join(file) };
        (submission.id, submission.project) = (id, Some(name));
        submission.customer = Some(due.customer.clone()).filter(|customer| !customer.is_empty());
        self.start_scheduled(submission, due, pins)
    }

    fn start_scheduled(
        self: &Arc<Self>,
        mut submission: Submission,
        due: &Due,
        pins: Option<String>,
    ) -> Result<Ran, RunError> {
        submission.wait = true;
        self.keep_named(&mut submission)?;
        submission.labels.insert("schedule".into(), due.name.clone());
        let about = self.judge(&mut submission)?;
        let build = self.take_now(submission, about, Some(due.request_id()))?;
        Ok(Ran::Started(build.to_string(), pins))
    }
}

fn project_error(error: impl Into<crate::project::ProjectError>) -> DaemonError {
    DaemonError::Project(error.into())
}

/// Where the daemon's logins may be shown for a customer's schedules.
fn logins(config: &super::config::DaemonConfig, customer: &str) -> Logins {
    let own = config.customers.get(customer).map_or(&[][..], |known| &known.allow);
    Logins::Below(config.allow.iter().chain(own).filter_map(|allow| allow.login()).cloned().collect())
}
