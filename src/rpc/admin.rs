//! Schedules, webhooks and tokens as messages, and what calls about them do.

use jiff::Timestamp;
use tonic::Status;

use super::{
    convert::{time, time_of},
    proto::{self, schedule::Source as Sent},
    server::{Api, blocking},
    status::status,
};
use crate::{
    daemon::{
        DaemonError,
        access::{Principal, Scope, Token},
        ledger::{
            schedules::ScheduleRow,
            webhooks::{DeliveryRow, WebhookRow},
        },
        schedules::{GitConfig, NewSchedule, Source, due},
        webhooks::{NewWebhook, shown_url},
    },
    model::{BuildId, Submission},
};

/// How many deliveries a list has at most.
const DELIVERIES: u32 = 200;

fn failed(error: impl Into<DaemonError>) -> Status {
    status(&error.into())
}

fn named(field: &str, name: &str) -> Result<(), Status> {
    match BuildId::is_valid_name(name) {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!("{field}: {}", crate::model::InvalidName(name.into())))),
    }
}

/// The customer of a call; empty: all, for callers of all customers.
fn customer(principal: &Principal, asked: String) -> Result<String, Status> {
    let asked = Some(asked).filter(|customer| !customer.is_empty());
    Ok(principal.customer_for(asked).map_err(failed)?.unwrap_or_default())
}

/// A scope as a message.
pub(crate) fn scope(scope: Scope) -> proto::Scope {
    match scope {
        Scope::Read => proto::Scope::Read,
        Scope::Submit => proto::Scope::Submit,
        Scope::Cancel => proto::Scope::Cancel,
        Scope::Admin => proto::Scope::Admin,
    }
}

fn scopes_of(numbers: &[i32]) -> Result<Vec<Scope>, Status> {
    let scope = |number: &i32| match proto::Scope::try_from(*number) {
        Ok(proto::Scope::Read) => Ok(Scope::Read),
        Ok(proto::Scope::Submit) => Ok(Scope::Submit),
        Ok(proto::Scope::Cancel) => Ok(Scope::Cancel),
        Ok(proto::Scope::Admin) => Ok(Scope::Admin),
        Ok(proto::Scope::Unspecified) | Err(_) => Err(Status::invalid_argument("scopes: one is not known here")),
    };
    numbers.iter().map(scope).collect()
}

fn token(token: &Token) -> proto::Token {
    proto::Token {
        name: token.name.clone(),
        scopes: token.scopes.iter().map(|one| scope(*one).into()).collect(),
        customer: token.customer.clone().unwrap_or_default(),
        created: Some(time(token.created)),
        expires: token.expires.map(time),
    }
}

fn schedule(row: ScheduleRow, now: Timestamp) -> proto::Schedule {
    let mut project = String::new();
    let source = match serde_json::from_str(&row.source) {
        Ok(Source::Git(GitConfig { url, reference, path, targets, variant })) => Some(Sent::Git(proto::GitConfig {
            url: shown_url(&url),
            r#ref: reference,
            path,
            targets,
            variant: variant.unwrap_or_default(),
        })),
        // What was submitted is not sent back: it is large, and was once known to the caller.
        Ok(Source::Submission { template }) => {
            let mut shown = proto::StartBuildRequest::default();
            if let Ok(submission) = serde_json::from_str::<Submission>(&template) {
                project = submission.name();
                (shown.targets, shown.variant) = (submission.request.targets, submission.request.variant);
            }
            Some(Sent::Submission(shown))
        }
        // Too large to be read for a list.
        Err(_) if row.source.is_empty() => Some(Sent::Submission(proto::StartBuildRequest::default())),
        Err(_) => None,
    };
    proto::Schedule {
        next: due::next(&row, now).map(time),
        name: row.name,
        customer: row.customer,
        cron: row.cron,
        time_zone: row.time_zone,
        source,
        run_missed: row.run_missed,
        only_if_changed: row.only_if_changed,
        last: row.last.map(time),
        last_build_id: row.last_build.unwrap_or_default(),
        last_error: row.last_error.unwrap_or_default(),
        missed: row.missed,
        project,
    }
}

fn webhook(row: &WebhookRow) -> proto::Webhook {
    proto::Webhook {
        name: row.name.clone(),
        customer: row.customer.clone(),
        url: shown_url(&row.url),
        events: row.events.split(',').filter(|event| !event.is_empty()).map(String::from).collect(),
        ended: row.ended.map(time),
    }
}

fn delivery(row: DeliveryRow) -> proto::Delivery {
    proto::Delivery {
        id: row.id,
        webhook: row.webhook,
        event: row.event,
        body: row.body,
        created: Some(time(row.created)),
        attempts: row.attempts,
        status: row.status.into(),
        error: row.error,
        delivered: row.delivered,
        next_attempt: row.next_attempt.map(time),
    }
}

/// What a purge was asked for, for the audit log.
pub(super) fn purge_words(asked: &proto::PurgeBuildsRequest) -> String {
    let words = [
        asked.keep.map(|keep| format!("keep {keep}")),
        asked.older_than_s.map(|seconds| format!("older than {seconds} s")),
        asked.max_bytes.map(|bytes| format!("at most {bytes} bytes")),
        asked.artifacts_only.then(|| "artifacts only".into()),
        asked.dry_run.then(|| "dry run".into()),
    ];
    words.into_iter().flatten().collect::<Vec<String>>().join(", ")
}

impl Api {
    pub(super) async fn make_token(
        &self,
        principal: &Principal,
        asked: proto::CreateTokenRequest,
    ) -> Result<proto::CreateTokenResponse, Status> {
        principal.require_owner().map_err(failed)?;
        named("name", &asked.name)?;
        let scopes = scopes_of(&asked.scopes)?;
        if scopes.is_empty() {
            return Err(Status::invalid_argument("scopes is empty: read, submit, cancel or admin"));
        }
        let customer = Some(asked.customer).filter(|customer| !customer.is_empty());
        customer.iter().try_for_each(|customer| named("customer", customer))?;
        if customer.is_some() && scopes.contains(&Scope::Admin) {
            return Err(Status::invalid_argument("scopes: admin is for all customers"));
        }
        let lifetime = (asked.lifetime_s > 0).then(|| std::time::Duration::from_secs(asked.lifetime_s));
        let made = self.daemon.create_token(asked.name, scopes, customer, lifetime).await;
        let (made, secret) = made.map_err(failed)?;
        Ok(proto::CreateTokenResponse { token: Some(token(&made)), secret })
    }

    pub(super) fn tokens(&self, principal: &Principal) -> Result<proto::ListTokensResponse, Status> {
        principal.require_owner().map_err(failed)?;
        Ok(proto::ListTokensResponse { tokens: self.daemon.tokens().iter().map(token).collect() })
    }

    pub(super) async fn make_schedule(
        &self,
        principal: Principal,
        asked: proto::CreateScheduleRequest,
    ) -> Result<proto::Schedule, Status> {
        principal.require(Scope::Submit).map_err(failed)?;
        let Some(asked) = asked.schedule else { return Err(Status::invalid_argument("schedule is missing")) };
        named("name", &asked.name)?;
        let customer = customer(&principal, asked.customer)?;
        let source = match asked.source {
            None => return Err(Status::invalid_argument("source is missing: submission or git")),
            Some(Sent::Git(git)) => Source::Git(GitConfig {
                url: git.url,
                reference: git.r#ref,
                path: if git.path.is_empty() { "smidr.yaml".into() } else { git.path },
                targets: git.targets,
                variant: Some(git.variant).filter(|variant| !variant.is_empty()),
            }),
            Some(Sent::Submission(mut submission)) => {
                submission.customer.clone_from(&customer);
                // Values of variables are not kept: each run takes them from daemon.yaml.
                let known = self.daemon.config().variables(&customer);
                submission.variables = known.into_iter().collect();
                let (mut submission, _) = self.judged(&principal, submission).await?;
                self.daemon.check_blobs(&principal, &submission).map_err(failed)?;
                submission.variables.clear();
                let template =
                    serde_json::to_string(&submission).map_err(|error| Status::internal(error.to_string()))?;
                Source::Submission { template }
            }
        };
        self.daemon.check_reached(&customer, &source).map_err(failed)?;
        let now = Timestamp::now();
        let new = NewSchedule {
            customer,
            name: asked.name,
            cron: asked.cron,
            time_zone: asked.time_zone,
            source,
            run_missed: asked.run_missed,
            only_if_changed: asked.only_if_changed,
        };
        Ok(schedule(self.daemon.schedules.create(new, now).await.map_err(failed)?, now))
    }

    pub(super) async fn schedules(&self, principal: &Principal) -> Result<proto::ListSchedulesResponse, Status> {
        principal.require(Scope::Read).map_err(failed)?;
        let (daemon, now) = (self.daemon.clone(), Timestamp::now());
        let rows = blocking(move || Ok(daemon.schedules.list()?)).await?.into_iter();
        let seen = rows.filter(|row| principal.sees(Some(&row.customer)));
        Ok(proto::ListSchedulesResponse { schedules: seen.map(|row| schedule(row, now)).collect() })
    }

    pub(super) async fn drop_schedule(
        &self,
        principal: &Principal,
        asked: proto::DeleteScheduleRequest,
    ) -> Result<proto::DeleteScheduleResponse, Status> {
        principal.require(Scope::Submit).map_err(failed)?;
        let customer = customer(principal, asked.customer)?;
        match self.daemon.schedules.delete(&customer, &asked.name).await.map_err(failed)? {
            true => Ok(proto::DeleteScheduleResponse {}),
            false => Err(failed(DaemonError::Missing { what: "schedule", name: asked.name })),
        }
    }

    pub(super) async fn start_schedule(
        &self,
        principal: &Principal,
        asked: proto::RunScheduleRequest,
    ) -> Result<proto::RunScheduleResponse, Status> {
        principal.require(Scope::Submit).map_err(failed)?;
        let customer = customer(principal, asked.customer)?;
        let at = time_of(asked.at).unwrap_or_else(Timestamp::now);
        let daemon = self.daemon.clone();
        let build = blocking(move || daemon.run_schedule_now(&customer, &asked.name, at)).await?;
        Ok(proto::RunScheduleResponse { build_id: build.unwrap_or_default() })
    }

    pub(super) async fn make_webhook(
        &self,
        principal: &Principal,
        asked: proto::CreateWebhookRequest,
    ) -> Result<proto::CreateWebhookResponse, Status> {
        principal.require(Scope::Submit).map_err(failed)?;
        let Some(wanted) = asked.webhook else { return Err(Status::invalid_argument("webhook is missing")) };
        let new = NewWebhook {
            customer: customer(principal, wanted.customer)?,
            name: wanted.name,
            url: wanted.url,
            events: wanted.events,
            secrets: asked.secrets,
        };
        let (row, secret) = self.daemon.webhooks.create(new).await.map_err(failed)?;
        Ok(proto::CreateWebhookResponse { webhook: Some(webhook(&row)), secret: secret.unwrap_or_default() })
    }

    pub(super) async fn webhooks(&self, principal: &Principal) -> Result<proto::ListWebhooksResponse, Status> {
        principal.require(Scope::Read).map_err(failed)?;
        let daemon = self.daemon.clone();
        let rows = blocking(move || Ok(daemon.webhooks.list()?)).await?;
        let seen = rows.iter().filter(|row| principal.sees(Some(&row.customer)));
        Ok(proto::ListWebhooksResponse { webhooks: seen.map(webhook).collect() })
    }

    pub(super) async fn drop_webhook(
        &self,
        principal: &Principal,
        asked: proto::DeleteWebhookRequest,
    ) -> Result<proto::DeleteWebhookResponse, Status> {
        principal.require(Scope::Submit).map_err(failed)?;
        let customer = customer(principal, asked.customer)?;
        match self.daemon.webhooks.delete(&customer, &asked.name).await.map_err(failed)? {
            true => Ok(proto::DeleteWebhookResponse {}),
            false => Err(failed(DaemonError::Missing { what: "webhook", name: asked.name })),
        }
    }

    pub(super) async fn deliveries(
        &self,
        principal: &Principal,
        asked: proto::ListDeliveriesRequest,
    ) -> Result<proto::ListDeliveriesResponse, Status> {
        principal.require(Scope::Read).map_err(failed)?;
        let customer = customer(principal, asked.customer)?;
        let limit = if asked.limit == 0 { 50 } else { asked.limit.min(DELIVERIES) };
        let daemon = self.daemon.clone();
        let rows = blocking(move || {
            let is_it = |row: &WebhookRow| row.customer == customer && row.name == asked.webhook;
            if !asked.webhook.is_empty() && !daemon.webhooks.list()?.iter().any(is_it) {
                return Err(DaemonError::Missing { what: "webhook", name: asked.webhook });
            }
            Ok(daemon.webhooks.deliveries(&customer, &asked.webhook, limit)?)
        })
        .await?;
        Ok(proto::ListDeliveriesResponse { deliveries: rows.into_iter().map(delivery).collect() })
    }

    pub(super) async fn resend(
        &self,
        principal: &Principal,
        asked: proto::ResendDeliveryRequest,
    ) -> Result<proto::ResendDeliveryResponse, Status> {
        principal.require(Scope::Submit).map_err(failed)?;
        let missing = || failed(DaemonError::Missing { what: "delivery", name: asked.id.clone() });
        let (daemon, id) = (self.daemon.clone(), asked.id.clone());
        let known = blocking(move || Ok(daemon.webhooks.delivery(&id)?)).await?.ok_or_else(missing)?;
        if !principal.sees(Some(&known.customer)) {
            return Err(missing());
        }
        match self.daemon.webhooks.resend(&asked.id, Timestamp::now()).await.map_err(failed)? {
            true => Ok(proto::ResendDeliveryResponse {}),
            false => Err(missing()),
        }
    }
}
