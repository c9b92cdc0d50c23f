//! Taking a submission: it is judged, written down, and waits.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use jiff::Timestamp;

use super::{
    Daemon, DaemonError,
    access::Principal,
    ledger::waiting::Taken,
    lock,
    policy::{self, Verdict},
    queue::{About, Place, Signal},
    told::facts,
    webhooks::{Event, Webhooks},
};
use crate::{
    config::{Problem, Problems, Texts},
    engine,
    history::BuildRecord,
    model::{Ask, BuildId, Digest, Hint, Origin, RemoteCaller, State, Submission, SystemFacts},
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
    pub variables: &'a BTreeMap<String, String>,
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

/// What of a config the policy does not allow.
#[derive(Debug)]
pub(crate) struct Refused {
    lines: Vec<String>,
    hints: Vec<Hint>,
    problems: Option<Problems>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("; "))
    }
}

impl Refused {
    fn of(verdict: &Verdict, project: &Project, variant: Option<&str>) -> Self {
        let texts = &project.sources.texts;
        let placed: Vec<(Option<Problem>, &policy::Refusal)> =
            verdict.refused.iter().map(|refusal| (refusal.problem(texts, variant), refusal)).collect();
        let lines = verdict.refused.iter().map(ToString::to_string).collect();
        // What stands in a line has its hint there.
        let hints =
            placed.iter().filter(|(problem, _)| problem.is_none()).map(|(_, refusal)| Hint::new(refusal.hint()));
        let hints = hints.collect();
        let list: Vec<Problem> = placed.into_iter().filter_map(|(problem, _)| problem).collect();
        let name = project.file.file_name().unwrap_or_default();
        let problems = (!list.is_empty()).then(|| texts.problems(std::path::Path::new(name), list));
        Self { lines, hints, problems }
    }

    /// What would allow it.
    pub(super) fn hints(&self) -> Vec<Hint> {
        self.hints.clone()
    }

    /// The lines of the config.
    pub(super) fn drawn(&self, colour: bool) -> Option<String> {
        self.problems.as_ref().map(|problems| problems.render(colour))
    }
}

impl Daemon {
    /// Names what a client sends: its id, its origin, its project.
    ///
    /// # Errors
    ///
    /// When its config is wrong.
    pub(crate) fn name(&self, asked: &Asked<'_>) -> Result<(BuildId, Origin, String), DaemonError> {
        let texts = Texts { config: asked.config.into(), local: asked.local_config.map(Into::into) };
        let file = asked.local.clone().unwrap_or_else(|| asked.config_name.into());
        let sources = Sources { file, texts, ..Sources::default() };
        let facts = if asked.local.is_none() {
            self.facts_of_sender(asked.variables)
        } else {
            let mut facts = self.facts.clone();
            facts.environment.retain(|(known, _)| !asked.variables.contains_key(known));
            facts.environment.extend(asked.variables.clone());
            facts
        };
        let project = Project::of(sources, asked.variant, &facts)?;
        let name = project.config.name.text;
        let customer = asked.customer.clone().unwrap_or_else(|| name.clone());
        let id = BuildId::new(&customer, random()).map_err(crate::project::ProjectError::from)?;
        let origin = match &asked.local {
            Some(config) => Origin::Local { config: config.clone() },
            None => {
                let config = self.paths.projects().join(&customer).join(&name).join(asked.config_name);
                let caches = self.config().customers.get(&customer).and_then(|known| known.domain.clone());
                Origin::Remote { customer, caches, config }
            }
        };
        Ok((id, origin, name))
    }

    /// This machine for a config that came from elsewhere, before more is known of it: nothing of the daemon's environment counts.
    pub(super) fn facts_of_sender(&self, variables: &BTreeMap<String, String>) -> SystemFacts {
        let (customer, variables) = (String::new(), variables.clone());
        let remote = Some(RemoteCaller { customer, caches: None, variables, layers: Vec::new() });
        SystemFacts { remote, ..self.facts.clone() }
    }

    /// Leaves a submission those variables that its config names.
    ///
    /// # Errors
    ///
    /// When its config is wrong, or names one that is not set.
    pub(super) fn keep_named(&self, submission: &mut Submission) -> Result<(), DaemonError> {
        let facts = self.facts.clone().for_submission(submission);
        let project = Project::of(Sources::of(submission), submission.request.variant.as_deref(), &facts)?;
        let named = &project.config.variables;
        submission.variables.retain(|name, _| named.iter().any(|used| used.name == *name));
        Ok(())
    }

    /// Judges a submission, and tells what the queue has to know of it.
    ///
    /// # Errors
    ///
    /// When it asks for what is not granted, or cannot be built.
    pub(crate) fn judge(&self, submission: &mut Submission) -> Result<About, DaemonError> {
        let mut facts = self.facts.clone().for_submission(submission);
        // Whether it may see those with a password is judged here.
        facts.fetch_env.clone_from(&self.facts.fetch_env);
        let variant = submission.request.variant.clone();
        let project = Project::of(Sources::of(submission), variant.as_deref(), &facts)?;
        let granted = submission.granted.clone();
        let is_remote = facts.remote.is_some();
        let owner = facts.remote.as_ref().map(|remote| remote.customer.clone()).unwrap_or_default();
        let mut verdict = None;
        let refused = |plan: &Plan, asks: &[Ask]| {
            if !is_remote {
                return asks.iter().filter(|ask| !granted.contains(ask)).cloned().collect();
            }
            let image = engine::registry_image(plan);
            let judged = policy::judge(asks, image.as_deref(), &project.config, &self.config(), &owner);
            // Caches that are refused stop it too, since their name stands in the config.
            verdict = Some(judged);
            Vec::new()
        };
        let judged = engine::judge(&project, &submission.request, &facts, &self.paths, refused)?;
        if judged.stops() {
            return Err(DaemonError::NotGranted(judged.refused.iter().map(|ask| ask.key().to_string()).collect()));
        }
        if let Some(verdict) = verdict {
            if !verdict.refused.is_empty() {
                return Err(DaemonError::Refused(Box::new(Refused::of(&verdict, &project, variant.as_deref()))));
            }
            submission.granted = verdict.granted;
            submission.logins = verdict.logins;
        }
        let plan = judged.plan;
        let limits = plan.limits;
        let bound = if is_remote { self.config().customer(&owner).memory } else { None };
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
                queued: None,
                state: State::Queued,
                started: Timestamp::now(),
                ended: None,
                outcome: None,
            },
            workspace: plan.folders.workspace,
            priority: submission.priority,
            // What it gets at most (`share`).
            memory: [limits.memory, bound].into_iter().flatten().min(),
            cpus: limits.cpus,
            blobs: submission.layers.iter().map(|layer| layer.digest.clone()).collect(),
        })
    }

    /// Whether a customer may have one more that waits.
    fn check_room(&self, about: &About) -> Result<(), DaemonError> {
        let customer = about.customer();
        let most = self.config().waiting(&customer);
        match lock(&self.queue).waiting_of(&customer) >= most as usize {
            true => Err(DaemonError::Full { customer, most }),
            false => Ok(()),
        }
    }

    /// Whether a caller has sent the blobs of a submission.
    pub(crate) fn check_blobs(&self, principal: &Principal, submission: &Submission) -> Result<(), DaemonError> {
        let wanted: Vec<Digest> = submission.layers.iter().map(|layer| layer.digest.clone()).collect();
        let missing = self.blobs.missing(&wanted, principal.customer.as_deref());
        match submission.layers.iter().find(|layer| missing.contains(&layer.digest)) {
            Some(layer) => Err(DaemonError::NoBlob { layer: layer.name.clone(), digest: layer.digest.clone() }),
            None => Ok(()),
        }
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
        if self.is_ending() {
            return Err(DaemonError::Ends);
        }
        if let Err(refused) = self.check_room(&about).and_then(|()| self.check_blobs(principal, &submission)) {
            // One that was taken before is among those that fill the queue.
            let known = request.map(|key| self.ledger.requested(&key)).transpose()?.flatten();
            let build = known.ok_or(refused)?;
            let place = self.waits(&build, principal);
            return Ok(Accepted { build, repeated: true, place });
        }
        let told = Webhooks::queue(Event::Queued, &facts(&about.record, State::Queued), now);
        match self.ledger.take(&submission, text, request, now, told).await? {
            Taken::Before(build) => {
                let place = self.waits(&build, principal);
                Ok(Accepted { build, repeated: true, place })
            }
            Taken::New(seq) => {
                let daemon = self.clone();
                let _ = tokio::task::spawn_blocking(move || daemon.enter(seq, now, about)).await;
                let place = self.waits(&submission.id, principal);
                Ok(Accepted { build: submission.id, repeated: false, place })
            }
        }
    }

    /// The same for one of a schedule, once for each due time.
    ///
    /// # Errors
    ///
    /// When too many of its customer wait, or it cannot be kept.
    pub(super) fn take_due(&self, submission: Submission, about: About, due: String) -> Result<BuildId, DaemonError> {
        match self.check_room(&about) {
            Ok(()) => self.take_now(submission, about, Some(due)),
            Err(error) => self.ledger.requested(&due)?.ok_or(error),
        }
    }

    /// Takes a submission of the daemon itself. Gives the build, or the one that the same request was before.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    pub(super) fn take_now(
        &self,
        submission: Submission,
        about: About,
        request: Option<String>,
    ) -> Result<BuildId, DaemonError> {
        let text = serde_json::to_string(&about).unwrap_or_default();
        let now = about.record.started;
        let told = Webhooks::queue(Event::Queued, &facts(&about.record, State::Queued), now);
        match self.ledger.take_now(&submission, text, request, now, told)? {
            Taken::Before(build) => Ok(build),
            Taken::New(seq) => {
                self.enter(seq, now, about);
                Ok(submission.id)
            }
        }
    }

    /// Puts a build into the index that lacks it because the disk was full: one of the queue, or one that has a journal. Says whether there was one.
    pub(super) fn index_again(&self, id: &str) -> Result<bool, DaemonError> {
        let Ok(id) = id.parse::<BuildId>() else { return Ok(false) };
        let queued = lock(&self.queue).record(&id).cloned();
        match queued {
            Some(record) => lock(&self.history).announce(&[record])?,
            None if self.paths.build(&id).is_dir() => lock(&self.history).catch_up()?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Puts into the queue what the ledger has.
    fn enter(&self, seq: u64, now: Timestamp, about: About) {
        let record = about.record.clone();
        lock(&self.queue).add(seq, now, about);
        // What the index lacks, the queue tells, and `index_again` puts there.
        let _ = lock(&self.history).announce(&[record]);
        self.webhooks.wake();
        let _ = self.wake.send(Signal::Look);
    }
}
