//! What a daemon answers, as JSON documents of `smidr client` and `smidr daemon` have it: docs/json.md.

use jiff::Timestamp;
use serde::Serialize;

use crate::rpc::{proto, time_of};

/// A token, without its secret.
#[derive(Serialize)]
pub(super) struct Token<'a> {
    name: &'a str,
    scopes: Vec<String>,
    customer: &'a str,
    created: Option<Timestamp>,
    expires: Option<Timestamp>,
}

/// The names of scopes, as the command line takes them.
pub(super) fn scope_names(scopes: impl Iterator<Item = proto::Scope>) -> Vec<String> {
    scopes.map(|scope| scope.as_str_name().to_ascii_lowercase()).collect()
}

impl<'a> From<&'a proto::Token> for Token<'a> {
    fn from(token: &'a proto::Token) -> Self {
        Self {
            name: &token.name,
            scopes: scope_names(token.scopes()),
            customer: &token.customer,
            created: time_of(token.created),
            expires: time_of(token.expires),
        }
    }
}

/// A config in a git repository.
#[derive(Serialize)]
pub(super) struct Git<'a> {
    url: &'a str,
    #[serde(rename = "ref")]
    reference: &'a str,
    path: &'a str,
}

/// A schedule, and what it builds: a config in git, or a stored project.
#[derive(Serialize)]
pub(super) struct Schedule<'a> {
    name: &'a str,
    customer: &'a str,
    cron: &'a str,
    time_zone: &'a str,
    next: Option<Timestamp>,
    last: Option<Timestamp>,
    last_build: &'a str,
    last_error: &'a str,
    missed: u64,
    git: Option<Git<'a>>,
    project: Option<&'a str>,
    variant: Option<&'a str>,
    targets: &'a [String],
}

impl<'a> From<&'a proto::Schedule> for Schedule<'a> {
    fn from(schedule: &'a proto::Schedule) -> Self {
        use proto::schedule::Source::{Git as OfGit, Submission};
        let (git, variant, targets) = match &schedule.source {
            Some(OfGit(git)) => {
                let shown = Git { url: &git.url, reference: &git.r#ref, path: &git.path };
                (Some(shown), Some(git.variant.as_str()), git.targets.as_slice())
            }
            Some(Submission(stored)) => (None, stored.variant.as_deref(), stored.targets.as_slice()),
            None => (None, None, &[][..]),
        };
        Self {
            name: &schedule.name,
            customer: &schedule.customer,
            cron: &schedule.cron,
            time_zone: &schedule.time_zone,
            next: time_of(schedule.next),
            last: time_of(schedule.last),
            last_build: &schedule.last_build_id,
            last_error: &schedule.last_error,
            missed: schedule.missed.into(),
            git,
            project: Some(schedule.project.as_str()).filter(|project| !project.is_empty()),
            variant: variant.filter(|variant| !variant.is_empty()),
            targets,
        }
    }
}

/// A webhook, without its secrets.
#[derive(Serialize)]
pub(super) struct Webhook<'a> {
    name: &'a str,
    customer: &'a str,
    url: &'a str,
    events: &'a [String],
    ended: Option<Timestamp>,
}

impl<'a> From<&'a proto::Webhook> for Webhook<'a> {
    fn from(webhook: &'a proto::Webhook) -> Self {
        Self {
            name: &webhook.name,
            customer: &webhook.customer,
            url: &webhook.url,
            events: &webhook.events,
            ended: time_of(webhook.ended),
        }
    }
}

/// A delivery to a webhook.
#[derive(Serialize)]
pub(super) struct Delivery<'a> {
    id: &'a str,
    webhook: &'a str,
    event: &'a str,
    body: &'a str,
    created: Option<Timestamp>,
    attempts: u32,
    status: u32,
    delivered: bool,
    error: &'a str,
    next_attempt: Option<Timestamp>,
}

impl<'a> From<&'a proto::Delivery> for Delivery<'a> {
    fn from(delivery: &'a proto::Delivery) -> Self {
        Self {
            id: &delivery.id,
            webhook: &delivery.webhook,
            event: &delivery.event,
            body: &delivery.body,
            created: time_of(delivery.created),
            attempts: delivery.attempts,
            status: delivery.status,
            delivered: delivery.delivered,
            error: &delivery.error,
            next_attempt: time_of(delivery.next_attempt),
        }
    }
}

/// A build that has a worker.
#[derive(Serialize)]
pub(super) struct Running<'a> {
    build: &'a str,
    customer: &'a str,
    priority: i32,
    since: Option<Timestamp>,
}

impl<'a> From<&'a proto::QueueEntry> for Running<'a> {
    fn from(entry: &'a proto::QueueEntry) -> Self {
        Self {
            build: &entry.build_id,
            customer: &entry.customer,
            priority: entry.priority,
            since: time_of(entry.since),
        }
    }
}

/// A build that waits.
#[derive(Serialize)]
pub(super) struct Waiting<'a> {
    #[serde(flatten)]
    entry: Running<'a>,
    position: u32,
    reason: &'a str,
}

impl<'a> From<&'a proto::QueueEntry> for Waiting<'a> {
    fn from(entry: &'a proto::QueueEntry) -> Self {
        Self { entry: entry.into(), position: entry.position, reason: &entry.reason }
    }
}

/// All of a list.
pub(super) fn all<'a, P, D: From<&'a P>>(list: &'a [P]) -> Vec<D> {
    list.iter().map(D::from).collect()
}
