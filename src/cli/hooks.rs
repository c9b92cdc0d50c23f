//! `smidr client schedule` and `smidr client webhook`: builds at times, and addresses that are told of builds.

use super::{
    daemon_args::{ScheduleCommand, WebhookCommand},
    daemon_documents as documents,
    output::{Document, say, talk},
    report::Failure,
    times::moment,
};
use crate::{
    model::Submission,
    rpc::{client::Remote, proto, request, time_of},
};

/// Looks after schedules. `submission` is what is stored with a new one that names no repository.
pub(super) fn schedule(
    remote: &Remote,
    command: &ScheduleCommand,
    submission: impl FnOnce() -> Result<Submission, Failure>,
) -> Result<(), Failure> {
    match command {
        ScheduleCommand::Create(new) => {
            let source = match &new.git {
                Some(url) => proto::schedule::Source::Git(proto::GitConfig {
                    url: url.clone(),
                    r#ref: new.reference.clone(),
                    path: new.path.clone(),
                    targets: new.targets.clone(),
                    variant: new.variant.clone().unwrap_or_default(),
                }),
                None => proto::schedule::Source::Submission(request(&submission()?, "", remote.is_own)),
            };
            let schedule = proto::Schedule {
                name: new.name.clone(),
                customer: new.customer.clone().unwrap_or_default(),
                cron: new.cron.clone(),
                time_zone: new.time_zone.clone().unwrap_or_default(),
                run_missed: new.run_missed,
                only_if_changed: new.only_if_changed,
                source: Some(source),
                ..proto::Schedule::default()
            };
            let request = proto::CreateScheduleRequest { schedule: Some(schedule) };
            let made = remote.ask(&request, async |mut caller, request| caller.create_schedule(request).await)?;
            match new.json {
                true => Document::new().with("schedule", &documents::Schedule::from(&made))?.say(),
                false => talk(format!("{} builds next at {}", made.name, next(&made))),
            }
        }
        ScheduleCommand::Ls { json } => {
            let all =
                remote.call(|mut caller| async move { caller.list_schedules(proto::ListSchedulesRequest {}).await })?;
            if *json {
                Document::new().with("schedules", &documents::all::<_, documents::Schedule<'_>>(&all.schedules))?.say();
                return Ok(());
            }
            for one in &all.schedules {
                let zone = if one.time_zone.is_empty() { "UTC" } else { &one.time_zone };
                say(format!("{:<24} {:<16} {zone:<16} next {}", one.name, one.cron, next(one)));
                if !one.last_build_id.is_empty() {
                    say(format!("  last  {}", one.last_build_id));
                }
                if !one.last_error.is_empty() {
                    say(format!("  error {}", one.last_error));
                }
                if one.missed > 0 {
                    say(format!("  missed {} runs while the daemon was down", one.missed));
                }
            }
        }
        ScheduleCommand::Rm { name, customer } => {
            let request =
                proto::DeleteScheduleRequest { name: name.clone(), customer: customer.clone().unwrap_or_default() };
            remote.ask(&request, async |mut caller, request| caller.delete_schedule(request).await)?;
        }
    }
    Ok(())
}

fn next(schedule: &proto::Schedule) -> String {
    time_of(schedule.next).map_or("never".into(), moment)
}

/// Looks after webhooks.
pub(super) fn webhook(remote: &Remote, command: &WebhookCommand) -> Result<(), Failure> {
    match command {
        WebhookCommand::Create { name, url, events, customer, secrets, json } => {
            let webhook = proto::Webhook {
                name: name.clone(),
                customer: customer.clone().unwrap_or_default(),
                url: url.clone(),
                events: events.clone(),
                ended: None,
            };
            let request = proto::CreateWebhookRequest { webhook: Some(webhook), secrets: secrets.clone() };
            let made = remote.ask(&request, async |mut caller, request| caller.create_webhook(request).await)?;
            if *json {
                let webhook = made.webhook.as_ref().map(documents::Webhook::from);
                Document::new().with("webhook", &webhook)?.with("secret", &made.secret)?.say();
            } else if !made.secret.is_empty() {
                say(&made.secret);
                talk("the secret that signs: it is shown only now");
            }
        }
        WebhookCommand::Ls { json } => {
            let all =
                remote.call(|mut caller| async move { caller.list_webhooks(proto::ListWebhooksRequest {}).await })?;
            if *json {
                Document::new().with("webhooks", &documents::all::<_, documents::Webhook<'_>>(&all.webhooks))?.say();
                return Ok(());
            }
            for one in &all.webhooks {
                let events = if one.events.is_empty() { "all events".into() } else { one.events.join(", ") };
                let ended = time_of(one.ended).map_or(String::new(), |at| format!("  ended by 410 at {}", moment(at)));
                say(format!("{:<24} {}  {events}{ended}", one.name, one.url));
            }
        }
        WebhookCommand::Rm { name, customer } => {
            let request =
                proto::DeleteWebhookRequest { name: name.clone(), customer: customer.clone().unwrap_or_default() };
            remote.ask(&request, async |mut caller, request| caller.delete_webhook(request).await)?;
        }
        WebhookCommand::Deliveries { name, customer, json } => {
            let request = proto::ListDeliveriesRequest {
                webhook: name.clone().unwrap_or_default(),
                customer: customer.clone().unwrap_or_default(),
                limit: 0,
            };
            let all = remote.ask(&request, async |mut caller, request| caller.list_deliveries(request).await)?;
            if *json {
                Document::new()
                    .with("deliveries", &documents::all::<_, documents::Delivery<'_>>(&all.deliveries))?
                    .say();
                return Ok(());
            }
            for one in &all.deliveries {
                let how = match (one.delivered, one.next_attempt) {
                    (true, _) => format!("delivered, status {}", one.status),
                    (false, Some(at)) => {
                        let next = time_of(Some(at)).map_or(String::new(), moment);
                        format!("attempt {} failed: {}; next at {next}", one.attempts, one.error)
                    }
                    (false, None) => format!("given up after {} attempts: {}", one.attempts, one.error),
                };
                say(format!("{}  {}  {:<16} {how}", one.id, one.webhook, one.event));
            }
        }
        WebhookCommand::Resend { id } => {
            let request = proto::ResendDeliveryRequest { id: id.clone() };
            remote.ask(&request, async |mut caller, request| caller.resend_delivery(request).await)?;
        }
    }
    Ok(())
}
