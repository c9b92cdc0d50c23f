//! Sends what is due: several at once, few of one customer, one of each webhook.

use std::{sync::PoisonError, thread, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    LedgerError, Running, WebhookError, Webhooks,
    send::{Message, Sender},
    table::{self, DeliveryRow, Sent},
};
use crate::system::stop::StopToken;

/// So many are sent at once: of all customers, and of one.
const AT_ONCE: usize = 8;
const OF_ONE_CUSTOMER: usize = 2;
/// How long a webhook is left alone after the ledger could not be used.
const AFTER_AN_ERROR: Duration = Duration::from_secs(60);
/// What was due and got no thread is looked at again after this.
const AFTER_NO_THREAD: Duration = Duration::from_secs(5);
/// The longest delay between two attempts.
const LONGEST_DELAY: SignedDuration = SignedDuration::from_hours(4);
/// A clock that is set is noticed after this.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

/// How an attempt ended, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It was taken.
    Delivered,
    /// It is tried again.
    Failed,
    /// It is not tried again.
    GivenUp,
}

impl Running {
    fn has_room(&self, delivery: &DeliveryRow) -> bool {
        let of_customer = self.busy.iter().filter(|(customer, _)| *customer == delivery.customer);
        self.busy.len() < AT_ONCE && of_customer.count() < OF_ONE_CUSTOMER && !self.busy.contains(&place(delivery))
    }
}

fn place(delivery: &DeliveryRow) -> (String, String) {
    (delivery.customer.clone(), delivery.webhook.clone())
}

impl Webhooks {
    /// Sends what is due until a stop is requested. What is being sent then is waited for; what waits stays in the ledger.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read, or TLS cannot be set up.
    pub(crate) fn run(&self, stop: &StopToken, told: impl Fn(Attempt) + Sync) -> Result<(), WebhookError> {
        let sender = Sender::new(&self.settings.sending).map_err(WebhookError::Client)?;
        let woken = self.clone();
        let _listening = stop.listen(move |_| woken.wake());
        thread::scope(|scope| {
            while !stop.is_requested() {
                self.change(|running| running.is_woken = false);
                let (now, mut longest) = (Timestamp::now(), LONGEST_SLEEP);
                for delivery in self.ledger.read(|db| table::due(db, now))? {
                    if self.take(&delivery) {
                        let (sender, told, place) = (&sender, &told, place(&delivery));
                        let busy = place.clone();
                        let begun = thread::Builder::new().name("webhook".into()).spawn_scoped(scope, move || {
                            self.attempt(sender, &delivery, stop).into_iter().for_each(told);
                            self.change(|running| {
                                running.busy.retain(|one| *one != busy);
                                running.is_woken = true;
                            });
                        });
                        if let Err(error) = begun {
                            // It stays due.
                            tracing::error!(%error, "there can be no more threads for webhooks");
                            self.change(|running| running.busy.retain(|one| *one != place));
                            longest = AFTER_NO_THREAD;
                        }
                    }
                }
                let next = self.ledger.read(|db| table::next(db, now))?;
                let time = next.and_then(|next| next.duration_since(now).try_into().ok());
                self.sleep(time.unwrap_or(longest).min(longest), stop);
            }
            Ok(())
        })
    }

    /// Takes a place for an attempt, where there is one.
    fn take(&self, delivery: &DeliveryRow) -> bool {
        let mut running = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = running.has_room(delivery);
        if has_room {
            running.busy.push(place(delivery));
        }
        has_room
    }

    fn sleep(&self, time: Duration, stop: &StopToken) {
        let running = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |running: &mut Running| !running.is_woken && !stop.is_requested();
        drop(self.shared.changed.wait_timeout_while(running, time, goes_on));
    }

    /// Keeps the place of an attempt for a while: what the ledger cannot note would be sent again at once.
    fn pause(&self, error: &LedgerError, stop: &StopToken) {
        tracing::error!(%error, "cannot note what came of a webhook");
        let running = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.shared.changed.wait_timeout_while(running, AFTER_AN_ERROR, |_| !stop.is_requested()));
    }

    /// None where nothing was sent: the delivery is over, since another attempt ended after it was found to be due, or the webhook is gone.
    fn attempt(&self, sender: &Sender, found: &DeliveryRow, stop: &StopToken) -> Option<Attempt> {
        let read = self.ledger.read(|db| {
            let hook = table::get(db, &found.customer, &found.webhook)?;
            Ok((table::one(db, &found.id)?.filter(|now| now.next_attempt == found.next_attempt), hook))
        });
        let (delivery, hook) = match read {
            Ok((Some(delivery), Some(hook))) => (delivery, hook),
            Ok(_) => return None,
            Err(error) => {
                self.pause(&error, stop);
                return None;
            }
        };
        let secrets: Vec<&str> = hook.secrets.split(' ').collect();
        let now = Timestamp::now();
        let answer = sender.send(&Message {
            url: &hook.url,
            secrets: &secrets,
            id: &delivery.id,
            timestamp: now.as_second(),
            body: &delivery.body,
        });
        let next = now + delay(self.settings.first_delay, delivery.attempts, chance());
        let next = (next <= delivery.give_up).then_some(next);
        let (sent, attempt) = match answer.status {
            200..300 => (Sent::Delivered(answer.status), Attempt::Delivered),
            410 => (Sent::Gone(410), Attempt::GivenUp),
            status => {
                let attempt = if next.is_some() { Attempt::Failed } else { Attempt::GivenUp };
                (Sent::Failed(status, answer.words, next), attempt)
            }
        };
        if attempt == Attempt::GivenUp {
            let (customer, webhook, id, status) = (&hook.customer, &hook.name, &delivery.id, answer.status);
            tracing::warn!(customer, webhook, id, status, "a webhook was not delivered and is not tried again");
        }
        if let Err(error) = self.ledger.write_now(table::finish(delivery.id, sent)) {
            self.pause(&error, stop);
        }
        Some(attempt)
    }
}

/// How long an attempt waits after so many failures before it. `chance` is between 0 and 1, so that what failed together does not come back together.
pub(super) fn delay(first: SignedDuration, before: u32, chance: f64) -> SignedDuration {
    let whole = first.saturating_mul(4_i32.saturating_pow(before)).min(LONGEST_DELAY);
    whole / 2 + SignedDuration::try_from_secs_f64(whole.as_secs_f64() / 2.0 * chance).unwrap_or_default()
}

/// Between 0 and 1.
fn chance() -> f64 {
    f64::from(crate::service::random()) / f64::from(u32::MAX)
}
