//! Taking a submission: it is judged, written down, and waits.

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;

use super::{
    Daemon, DaemonError,
    access::Principal,
    ledger::waiting::Taken,
    lock,
    queue::{About, Place, Signal},
};
use crate::{
    config::Texts,
    engine,
    history::BuildRecord,
    model::{Ask, BuildId, Origin, State, Submission, SystemFacts},
    plan::Plan,
    project::{Project, Sources},
    service::random,
};

/// What a client sends, before the daemon has named it.
pub(crate) struct Asked<'a> {
    /// The text of the config, and its name.
    pub config: &'a str,
    /// Its name.
    pub config_name: &'a str,
    /// The user's own file beside it.
    pub local_config: Option<&'a str>,
    /// The variant.
    pub variant: Option<&'a str>,
    /// Variables.
    pub variables: Vec<(String, String)>,
    /// The folder's config, of a project of this machine.
    pub local: Option<PathBuf>,
    /// Whose build it is to be.
    pub customer: Option<String>,
}

/// A submission that was taken.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The build.
    pub build: BuildId,
    /// Whether it was taken before.
    pub repeated: bool,
    /// Its place in the queue.
    pub place: Option<Place>,
}

impl Daemon {
    /// The facts that a submission is judged with: of the daemon's environment nothing enters a config of others.
    fn facts_for(&self, variables: &[(String, String)], is_local: bool) -> SystemFacts {
        let mut facts = self.facts.clone();
        if !is_local {
            facts.environment.retain(|(name, _)| name == "SMIDR_HOME");
        }
        facts.environment.retain(|(known, _)| !variables.iter().any(|(name, _)| name == known));
        facts.environment.extend(variables.iter().cloned());
        facts
    }

    /// Names what a client sends: its id, its origin, its project.
    ///
    /// # Errors
    ///
    /// When its config is wrong.
    pub(crate) fn name(&self, asked: &Asked<'_>) -> Result<(BuildId, Origin, String), DaemonError> {
        let texts = Texts { config: asked.config.into(), local: asked.local_config.map(Into::into) };
        let file = asked.local.clone().unwrap_or_else(|| asked.config_name.into());
        let sources = Sources { file, texts, ..Sources::default() };
        let facts = self.facts_for(&asked.variables, asked.local.is_some());
        let project = Project::of(sources, asked.variant, &facts)?;
        let name = project.config.name.text;
        let customer = asked.customer.clone().unwrap_or_else(|| name.clone());
        let id = BuildId::new(&customer, random()).map_err(crate::project::ProjectError::from)?;
        let origin = match &asked.local {
            Some(config) => Origin::Local { config: config.clone() },
            None => {
                let config = self.paths.projects().join(&customer).join(&name).join(asked.config_name);
                Origin::Remote { customer, config }
            }
        };
        Ok((id, origin, name))
    }

    /// Judges a submission, and tells what the queue has to know of it.
    ///
    /// # Errors
    ///
    /// When it asks for what is not granted, or cannot be built.
    pub(crate) fn judge(&self, submission: &mut Submission) -> Result<About, DaemonError> {
        let variables: Vec<_> = submission.variables.clone().into_iter().collect();
        let is_local = matches!(submission.origin, Origin::Local { .. });
        let facts = self.facts_for(&variables, is_local);
        let project = Project::of(Sources::of(submission), submission.request.variant.as_deref(), &facts)?;
        let granted = submission.granted.clone();
        let refused = |_: &Plan, asks: &[Ask]| asks.iter().filter(|ask| !granted.contains(ask)).cloned().collect();
        let judged = engine::judge(&project, &submission.request, &facts, &self.paths, refused)?;
        if judged.stops() {
            return Err(DaemonError::NotGranted(judged.refused.iter().map(|ask| ask.key().to_string()).collect()));
        }
        let plan = judged.plan;
        let limits = plan.limits;
        Ok(About {
            record: BuildRecord {
                id: submission.id.clone(),
                name: submission.name(),
                config: Some(submission.config_path().clone()),
                machine: plan.machine,
                targets: plan.targets,
                variant: submission.request.variant.clone(),
                customer: submission.customer.clone(),
                labels: submission.labels.clone(),
                waits: true,
                state: State::Queued,
                started: Timestamp::now(),
                ended: None,
                outcome: None,
            },
            workspace: plan.folders.workspace,
            priority: submission.priority,
            memory: limits.memory,
            cpus: limits.cpus,
        })
    }

    /// Takes a submission that was judged. Answered when it is on the disk.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    pub(crate) async fn take(
        self: &Arc<Self>,
        principal: &Principal,
        submission: Submission,
        about: About,
        request_id: &str,
    ) -> Result<Accepted, DaemonError> {
        // One customer's request ids are not another's.
        let whose = principal.customer.as_deref().unwrap_or_default();
        let request = (!request_id.is_empty()).then(|| format!("{whose}\n{request_id}"));
        let text = serde_json::to_string(&about).unwrap_or_default();
        let now = about.record.started;
        match self.ledger.take(&submission, text, request, now).await? {
            Taken::Before(build) => {
                let place = self.waits(&build);
                Ok(Accepted { build, repeated: true, place })
            }
            Taken::New(seq) => {
                let build = submission.id;
                let (daemon, record) = (self.clone(), about.record.clone());
                let place = lock(&self.queue).add(seq, now, about);
                let announced = tokio::task::spawn_blocking(move || lock(&daemon.history).announce(&[record])).await;
                // It is taken: what the index lacks, a look at the queue tells.
                drop(announced);
                let _ = self.wake.send(Signal::Look);
                Ok(Accepted { build, repeated: false, place: Some(place) })
            }
        }
    }
}
