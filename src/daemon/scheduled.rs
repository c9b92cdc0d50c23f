//! What schedules start.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Daemon, DaemonError,
    ledger::schedules::Ran,
    policy,
    schedules::{
        Due, GitConfig, ScheduleError, Source,
        fetched::{Given, may_fetch},
    },
};
use crate::{
    model::{BuildId, Logins, Origin, Submission, UserError as _},
    project::{Project, ProjectError, Sources},
    service::random,
};

impl Daemon {
    /// Starts the build of a schedule that is due.
    pub(super) fn run_schedule(self: &Arc<Self>, due: &Due, source: &Source) -> Ran {
        self.start_of(due, source).unwrap_or_else(|error| Ran::Failed(told(&error)))
    }

    /// Starts the build of a schedule that is not due; `at` names the run. Gives the build, or none where nothing has changed.
    ///
    /// # Errors
    ///
    /// When there is no such schedule, a run of it is just being started, or it starts no build.
    pub(crate) fn run_schedule_now(
        self: &Arc<Self>,
        customer: &str,
        name: &str,
        at: Timestamp,
    ) -> Result<Option<String>, DaemonError> {
        let missing = || DaemonError::Missing { what: "schedule", name: name.into() };
        let due = self.schedules.begin(customer, name, at)?.ok_or_else(missing)?;
        let started = self.schedules.source(&due).map_err(DaemonError::from).and_then(|source| {
            let source = serde_json::from_str(&source.ok_or_else(missing)?).map_err(DaemonError::Template)?;
            self.start_of(&due, &source)
        });
        let ran = started.as_ref().map_or_else(|error| Ran::Failed(told(error)), Clone::clone);
        self.schedules.finish(&due, ran);
        match started? {
            Ran::Started(build, _) => Ok(Some(build)),
            Ran::Unchanged | Ran::Failed(_) => Ok(None),
        }
    }

    /// Checks that what a new schedule names can be fetched.
    ///
    /// # Errors
    ///
    /// When it is reached with a login only, and none is granted.
    pub(crate) fn check_reached(&self, customer: &str, source: &Source) -> Result<(), DaemonError> {
        match source {
            Source::Git(git) if !may_fetch(&git.url, &logins(&self.config(), customer)) => {
                Err(ScheduleError::Unreached { url: git.url.clone() }.into())
            }
            Source::Git(_) | Source::Submission { .. } => Ok(()),
        }
    }

    fn start_of(self: &Arc<Self>, due: &Due, source: &Source) -> Result<Ran, DaemonError> {
        match source {
            Source::Submission { template } => self.run_template(template, due),
            Source::Git(config) => self.run_git(config, due),
        }
    }

    fn run_template(self: &Arc<Self>, template: &str, due: &Due) -> Result<Ran, DaemonError> {
        let submission: Submission = serde_json::from_str(template).map_err(DaemonError::Template)?;
        let id = BuildId::new(submission.id.name(), random()).map_err(ProjectError::from)?;
        let variables = self.config().variables(&due.customer);
        self.start_scheduled(Submission { id, variables, ..submission }, due, None)
    }

    fn run_git(self: &Arc<Self>, config: &GitConfig, due: &Due) -> Result<Ran, DaemonError> {
        let (own, customer) = (self.config(), due.customer.as_str());
        let (logins, variables) = (logins(&own, customer), own.variables(customer));
        let fetch = |granted, pins| {
            let given = Given { granted, logins: logins.clone(), variables: variables.clone() };
            config.fetch(&given, pins, &self.spawner, &self.paths)
        };
        let for_customer = |submission| {
            let submission = Submission { variables: variables.clone(), ..submission };
            self.fetched_for(customer, config, submission)
        };
        let fetched = fetch(Vec::new(), false)?;
        let (mut submission, project) = for_customer(fetched.submission)?;
        let mut pins = None;
        if due.only_if_changed {
            // Nothing of it is brought before the policy has seen it.
            self.judge(&mut submission)?;
            let granted = policy::judge(&fetched.asks, None, &project.config, &own, customer).granted;
            let fetched = fetch(granted, true)?;
            (submission, _) = for_customer(fetched.submission)?;
            if let Some(pinned) = fetched.pins {
                submission.lock = Some(pinned.lock);
                pins = Some(pinned.digest.to_string());
            }
            if pins.is_some() && pins == due.pins {
                return Ok(Ran::Unchanged);
            }
        }
        self.start_scheduled(submission, due, pins)
    }

    /// What was fetched, as a customer's project on this machine.
    fn fetched_for(
        &self,
        customer: &str,
        config: &GitConfig,
        mut submission: Submission,
    ) -> Result<(Submission, Project), DaemonError> {
        let facts = self.facts_of_sender(&submission.variables);
        let project = Project::of(Sources::of(&submission), config.variant.as_deref(), &facts)?;
        let name = project.config.name.text.clone();
        let owner = if customer.is_empty() { name.clone() } else { customer.to_owned() };
        let before = submission.config_path().clone();
        let folder = self.paths.projects().join(&owner).join(&name);
        // Where the project will be on this machine, so are its patches.
        for sent in &mut submission.files {
            if let Ok(inside) = sent.path.strip_prefix(before.parent().unwrap_or(&before)) {
                sent.path = folder.join(inside);
            }
        }
        submission.id = BuildId::new(&owner, random()).map_err(ProjectError::from)?;
        let caches = self.config().customers.get(&owner).and_then(|known| known.domain.clone());
        let config = folder.join(before.file_name().unwrap_or_default());
        submission.origin = Origin::Remote { customer: owner, caches, config };
        submission.project = Some(name);
        submission.customer = Some(customer.to_owned()).filter(|customer| !customer.is_empty());
        Ok((submission, project))
    }

    fn start_scheduled(
        self: &Arc<Self>,
        mut submission: Submission,
        due: &Due,
        pins: Option<String>,
    ) -> Result<Ran, DaemonError> {
        submission.wait = true;
        self.keep_named(&mut submission)?;
        submission.labels.insert("schedule".into(), due.name.clone());
        let about = self.judge(&mut submission)?;
        let build = self.take_due(submission, about, due.request_id())?;
        Ok(Ran::Started(build.to_string(), pins))
    }
}

/// Why there is no build, as the list of schedules keeps it: hints are lines of their own.
fn told(error: &DaemonError) -> String {
    let hints = error.hints().into_iter().map(|hint| format!("\nhint: {hint}"));
    error.with_causes() + &hints.collect::<String>()
}

/// Where the daemon's logins may be shown for a customer's schedules.
fn logins(config: &super::config::DaemonConfig, customer: &str) -> Logins {
    let own = config.customers.get(customer).map_or(&[][..], |known| &known.allow);
    Logins::Below(config.allow.iter().chain(own).filter_map(|allow| allow.login()).cloned().collect())
}
