//! Which builds go: a pure decision over those that there are, and the thread that carries it out after each build that ends.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, mpsc::Receiver},
    thread,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Daemon, DaemonError,
    access::{Denied, Principal, Scope},
    config::Keep,
};
use crate::{
    history::BuildRecord,
    model::BuildId,
    system::{lock, process::vital},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How several bounds go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Joined {
    /// What one of them excludes goes, as `daemon.yaml` has it.
    Any,
    /// What each of them lets go goes, as a command has it: each one protects.
    #[default]
    All,
}

/// Bounds of what is kept. Without any, all is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// How many builds of each project, variant and customer: so many that left artifacts, and so many that did not.
    pub keep: Option<usize>,
    /// How long after their end.
    pub older_than: Option<Duration>,
    /// How many bytes of artifacts together.
    pub size: Option<u64>,
    /// How they go together.
    pub joined: Joined,
}

impl Rule {
    /// Whether nothing can go.
    pub(crate) fn is_empty(&self) -> bool {
        self.keep.is_none() && self.older_than.is_none() && self.size.is_none()
    }
}

impl From<Keep> for Rule {
    fn from(keep: Keep) -> Self {
        Self {
            keep: keep.keep.map(|count| count as usize),
            older_than: keep.days.map(|days| DAY * days),
            size: keep.size,
            joined: Joined::Any,
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Purge {
    /// What stays.
    pub rule: Rule,
    /// Only builds of this customer.
    pub customer: Option<String>,
    /// The records stay.
    pub artifacts_only: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

fn bytes(build: &BuildRecord) -> u64 {
    build.outcome.as_ref().filter(|outcome| !outcome.cleaned).map_or(0, |outcome| outcome.artifact_bytes)
}

fn age(build: &BuildRecord, now: Timestamp) -> Duration {
    // One that ended in the future is young: a clock was set back.
    Duration::try_from(now.duration_since(build.ended.unwrap_or(build.started))).unwrap_or_default()
}

/// What a bound says of one build.
enum Verdict {
    Stays,
    Goes,
    /// It goes where there is no room for it.
    Room,
}

/// What a rule says of a build with so many newer ones of its kind.
fn judge(build: &BuildRecord, newer: usize, rule: &Rule, now: Timestamp) -> Verdict {
    if rule.is_empty() || (newer == 0 && rule.keep != Some(0)) {
        return Verdict::Stays;
    }
    let bounds = [rule.keep.map(|keep| newer >= keep), rule.older_than.map(|limit| age(build, now) > limit)];
    let mut given = bounds.into_iter().flatten();
    match (rule.joined, rule.size) {
        (Joined::Any, _) if given.any(|excludes| excludes) => Verdict::Goes,
        (Joined::Any, None) => Verdict::Stays,
        (Joined::All, _) if !given.all(|excludes| excludes) => Verdict::Stays,
        (Joined::All, None) => Verdict::Goes,
        (_, Some(_)) => Verdict::Room,
    }
}

/// The builds of `builds` that go. They are of one customer, the newest first. One that is not over neither goes nor counts; the newest of each project
/// stays, unless none is to be kept.
pub(crate) fn goes(builds: &[BuildRecord], rule: &Rule, now: Timestamp) -> Vec<BuildId> {
    let mut counts = HashMap::new();
    let mut judged = Vec::new();
    for build in builds.iter().filter(|build| build.state.is_final()) {
        let project = build.config.as_deref().ok_or(build.name.as_str());
        let is_good = build.outcome.as_ref().is_some_and(|outcome| outcome.artifacts > 0);
        let count: &mut usize = counts.entry((project, build.variant.as_deref(), is_good)).or_default();
        judged.push((build, judge(build, *count, rule, now)));
        *count += 1;
    }
    let certain = judged.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Stays)).map(|(build, _)| bytes(build));
    let mut kept = certain.fold(0, u64::saturating_add);
    let mut is_full = false;
    let mut is_gone = |build: &BuildRecord, verdict: &Verdict| match verdict {
        Verdict::Stays => false,
        Verdict::Goes => true,
        // It takes no room.
        Verdict::Room if bytes(build) == 0 => false,
        Verdict::Room => {
            // No older one stays in the place of a newer one that is larger.
            is_full |= rule.size.is_some_and(|size| kept.saturating_add(bytes(build)) > size);
            kept = if is_full { kept } else { kept.saturating_add(bytes(build)) };
            is_full
        }
    };
    judged.iter().filter(|(build, verdict)| is_gone(build, verdict)).map(|(build, _)| build.id.clone()).collect()
}

type ByCustomer = HashMap<Option<String>, Vec<BuildRecord>>;

/// Starts the thread that removes what is not kept, at each signal.
pub(super) fn run(daemon: Arc<Daemon>, signals: Receiver<Option<BuildId>>) -> io::Result<()> {
    thread::Builder::new().name("retention".into()).spawn(move || vital(|| look(&daemon, &signals)))?;
    Ok(())
}

/// Removes what is not kept, after each signal.
fn look(daemon: &Daemon, signals: &Receiver<Option<BuildId>>) {
    while let Ok(ended) = signals.recv() {
        // Those that have ended meanwhile are looked at once.
        for id in std::iter::once(ended).chain(signals.try_iter()).flatten() {
            // Its worker packs the journal at last, and is waited for.
            let alive = daemon.paths.alive(&id);
            let _over = lock::lock_briefly(&alive, "retention");
            let _ = std::fs::remove_file(alive);
        }
        if let Err(error) = daemon.retain() {
            tracing::warn!(error = &error as &dyn std::error::Error, "old builds cannot be removed");
        }
    }
}

impl Daemon {
    /// Removes what `daemon.yaml` does not keep.
    fn retain(&self) -> Result<(), DaemonError> {
        let config = self.config();
        let all = std::iter::once(&config.retention.all).chain(config.retention.customers.values());
        if all.map(|keep| Rule::from(*keep)).all(|rule| rule.is_empty()) {
            return Ok(());
        }
        let gone = self.purged(|customer| Rule::from(config.keep(customer.unwrap_or_default())), &Purge::default())?;
        if !gone.is_empty() {
            let bytes = gone.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
            tracing::info!(builds = gone.len(), bytes, "old builds were removed");
        }
        Ok(())
    }

    /// Removes builds, or their artifacts, that are not to be kept. Gives them, and the bytes that went with each.
    ///
    /// # Errors
    ///
    /// When the caller may not, or something cannot be removed.
    pub(crate) fn purge(
        &self,
        principal: &Principal,
        mut purge: Purge,
    ) -> Result<Vec<(BuildRecord, u64)>, DaemonError> {
        principal.require(if principal.customer.is_some() { Scope::Cancel } else { Scope::Admin })?;
        if let (Some(own), Some(asked)) = (&principal.customer, &purge.customer)
            && own != asked
        {
            let (name, own, customer) = (principal.name.clone(), own.clone(), asked.clone());
            return Err(Denied::Customer { name, own, customer }.into());
        }
        purge.customer = purge.customer.or_else(|| principal.customer.clone());
        self.purged(|_| purge.rule, &purge)
    }

    fn purged(
        &self,
        rule: impl Fn(Option<&str>) -> Rule,
        purge: &Purge,
    ) -> Result<Vec<(BuildRecord, u64)>, DaemonError> {
        let mut of: ByCustomer = HashMap::new();
        for build in self.builds().list(u32::MAX)? {
            if purge.customer.is_none() || build.customer == purge.customer {
                of.entry(build.customer.clone()).or_default().push(build);
            }
        }
        let now = Timestamp::now();
        let mut gone = Vec::new();
        for (customer, builds) in of {
            let ids: HashSet<BuildId> = goes(&builds, &rule(customer.as_deref()), now).into_iter().collect();
            gone.extend(builds.into_iter().filter(|build| ids.contains(&build.id)));
        }
        gone.sort_by_key(|build| std::cmp::Reverse(build.started));
        Ok(match purge.artifacts_only {
            true => self.builds().clean_all(gone, purge.dry_run)?,
            false => self.builds().remove_all(gone, purge.dry_run)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, State};

    fn build(number: u32, name: &str, days_ago: u32, size: u64) -> BuildRecord {
        let at = Timestamp::UNIX_EPOCH + 100 * DAY - days_ago * DAY;
        let state = match size {
            0 => State::Failed,
            _ => State::Completed,
        };
        BuildRecord {
            id: BuildId::new(&format!("{name}-{number}"), number).expect("an id"),
            name: name.into(),
            machine: "m".into(),
            targets: vec![],
            state,
            started: at,
            ended: Some(at),
            outcome: Some(Outcome { artifacts: size.min(1), artifact_bytes: size, ..Outcome::new(state) }),
            variant: None,
            config: None,
            customer: None,
            labels: Default::default(),
            waits: false,
            queued: None,
        }
    }

    fn gone(builds: &[BuildRecord], rule: Rule) -> Vec<u32> {
        let number = |id: &BuildId| id.as_str().split('-').nth(1).and_then(|number| number.parse().ok());
        goes(builds, &rule, Timestamp::UNIX_EPOCH + 100 * DAY).iter().filter_map(number).collect()
    }

    #[test]
    fn what_goes() {
        let builds = || {
            vec![
                BuildRecord { state: State::Building, ended: None, ..build(1, "a", 0, 90) },
                build(2, "a", 1, 10),
                build(3, "b", 2, 20),
                build(4, "a", 3, 0),
                build(5, "a", 4, 30),
                build(6, "a", 8, 5),
                build(7, "b", 9, 7),
                build(8, "a", 20, 0),
                BuildRecord { variant: Some("debug".into()), ..build(9, "a", 50, 100) },
            ]
        };
        for (keep, days, size, any, all) in [
            (None, None, None, &[][..], &[][..]),
            (Some(0), None, None, &[2, 3, 4, 5, 6, 7, 8, 9], &[2, 3, 4, 5, 6, 7, 8, 9]),
            (Some(1), None, None, &[5, 6, 7, 8], &[5, 6, 7, 8]),
            (Some(2), None, None, &[6], &[6]),
            // The newest of each project stays, however old: that of a variant, and the last failure.
            (None, Some(0), None, &[5, 6, 7, 8], &[5, 6, 7, 8]),
            (None, Some(8), None, &[7, 8], &[7, 8]),
            (Some(2), Some(8), None, &[6, 7, 8], &[]),
            (Some(1), Some(8), None, &[5, 6, 7, 8], &[7, 8]),
            // 130 stay in any case, and 5 would fit where 30 does not.
            (None, None, Some(137), &[5, 6, 7], &[5, 6, 7]),
            (None, None, Some(160), &[6, 7], &[6, 7]),
            (None, None, Some(172), &[], &[]),
            (None, None, Some(171), &[7], &[7]),
            (None, Some(4), Some(0), &[5, 6, 7, 8], &[6, 7]),
            (Some(2), None, Some(0), &[5, 6, 7], &[6]),
            (Some(0), None, Some(250), &[2, 3, 4, 5, 6, 7, 8, 9], &[]),
            (Some(0), None, Some(60), &[2, 3, 4, 5, 6, 7, 8, 9], &[6, 7, 9]),
        ] {
            let rule = |joined| Rule { keep, older_than: days.map(|days: u32| days * DAY), size, joined };
            assert_eq!(gone(&builds(), rule(Joined::Any)), any, "any of {keep:?} {days:?} {size:?}");
            assert_eq!(gone(&builds(), rule(Joined::All)), all, "all of {keep:?} {days:?} {size:?}");
        }
    }

    #[test]
    fn what_is_removed_already_takes_no_room() {
        let mut builds = vec![build(1, "a", 1, 10), build(2, "a", 2, 50), build(3, "a", 3, 50)];
        if let Some(outcome) = &mut builds[1].outcome {
            outcome.cleaned = true;
        }
        assert_eq!(gone(&builds, Rule { size: Some(60), ..Rule::default() }), [0_u32; 0]);
        assert_eq!(gone(&builds, Rule { size: Some(59), ..Rule::default() }), [3]);
    }
}
