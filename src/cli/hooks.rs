//! `smidr client schedule` and `smidr client webhook`: builds at times, and addresses that are told of builds.

use jiff::Timestamp;

use super::{
    daemon_args::{ScheduleCommand, WebhookCommand},
    daemon_documents as documents,
    output::{Document, say, talk},
    report::Failure,
    times::moment,
    wrap::table,
};
use crate::{
    model::{Shown, Submission},
    rpc::{
        client::Remote,
        proto::{self, schedule::Source},
        proto_time, request, time_of,
    },
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
                Some(url) => Source::Git(proto::GitConfig {
                    url: url.clone(),
                    r#ref: new.reference.clone(),
                    path: new.path.clone(),
                    targets: new.targets.clone(),
                    variant: new.variant.clone().unwrap_or_default(),
                }),
                None => Source::Submission(request(&submission()?, "", remote.is_own)),
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
            all.schedules.iter().for_each(show);
        }
        ScheduleCommand::Run { name, customer, json } => {
            let request = proto::RunScheduleRequest {
                name: name.clone(),
                customer: customer.clone().unwrap_or_default(),
                // Asked again where an answer is lost, it is one build.
                at: Some(proto_time(Timestamp::now())),
            };
            let ran = remote.ask(&request, async |mut caller, request| caller.run_schedule(request).await)?;
            let id = Some(&ran.build_id).filter(|id| !id.is_empty());
            match (json, id) {
                (true, id) => Document::new().with("build", &id)?.say(),
                (false, Some(id)) => say(format!("Build ID: {id}")),
                (false, None) => talk("nothing is built: nothing has changed since the last build"),
            }
        }
        ScheduleCommand::Rm { name, customer } => {
            let request =
                proto::DeleteScheduleRequest { name: name.clone(), customer: customer.clone().unwrap_or_default() };
            remote.ask(&request, async |mut caller, request| caller.delete_schedule(request).await)?;
            talk(format!("the schedule {name} is removed"));
        }
    }
    Ok(())
}

/// A schedule in the list.
fn show(one: &proto::Schedule) {
    let line = |subject: &str, text: &str| say(format!("  {subject:<9} {text}"));
    let zone = if one.time_zone.is_empty() { "UTC" } else { &one.time_zone };
    say(&one.name);
    line("when", &format!("{} {zone}", one.cron));
    if !one.customer.is_empty() {
        line("customer", &one.customer);
    }
    line("builds", &what(one));
    line("next", &next(one));
    if let Some(last) = time_of(one.last) {
        line("last", format!("{}  {}", moment(last), one.last_build_id).trim_end());
    }
    for (number, text) in one.last_error.lines().enumerate() {
        line(if number == 0 { "failed" } else { "" }, text);
    }
    if one.missed > 0 {
        line("missed", &format!("{} runs while the daemon was down", one.missed));
    }
}

/// What a schedule builds.
fn what(schedule: &proto::Schedule) -> String {
    let (source, variant, targets) = match &schedule.source {
        Some(Source::Git(git)) => {
            (format!("{} of {} in {}", git.path, git.r#ref, git.url), git.variant.as_str(), &git.targets[..])
        }
        Some(Source::Submission(stored)) => (
            format!("{} as it was stored", schedule.project),
            stored.variant.as_deref().unwrap_or_default(),
            &stored.targets[..],
        ),
        None => return "what another version of smidr has stored".into(),
    };
    let variant = if variant.is_empty() { String::new() } else { format!(", variant {variant}") };
    let targets = if targets.is_empty() { String::new() } else { format!(": {}", targets.join(" ")) };
    format!("{source}{variant}{targets}")
}

fn next(schedule: &proto::Schedule) -> String {
    time_of(schedule.next).map_or("never".into(), moment)
}

/// Rows below a header; nothing where there are none.
pub(super) fn list(header: &[&str], rows: &[Vec<String>]) {
    if !rows.is_empty() {
        table(header, rows, None).iter().for_each(say);
    }
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
            let row = |one: &proto::Webhook| {
                let customer = if one.customer.is_empty() { "-" } else { &one.customer };
                let events = if one.events.is_empty() { "all".into() } else { one.events.join(", ") };
                let ended = time_of(one.ended).map_or(String::new(), |at| format!("  ended by 410 at {}", moment(at)));
                [&one.name, customer, &events, &format!("{}{ended}", one.url)]
                    .map(|cell| Shown::plain(cell).into())
                    .into()
            };
            let rows: Vec<Vec<String>> = all.webhooks.iter().map(row).collect();
            list(&["NAME", "CUSTOMER", "EVENTS", "ADDRESS"], &rows);
        }
        WebhookCommand::Rm { name, customer } => {
            let request =
                proto::DeleteWebhookRequest { name: name.clone(), customer: customer.clone().unwrap_or_default() };
            remote.ask(&request, async |mut caller, request| caller.delete_webhook(request).await)?;
            talk(format!("the webhook {name} is removed"));
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
            talk(format!("{id} is sent again"));
        }
    }
    Ok(())
}
