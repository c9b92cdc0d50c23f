//! What systemd is told of the daemon (sd_notify(3)). Without systemd, nothing.

use sd_notify::NotifyState;

/// It serves.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its config again; [`ready`] follows.
pub(crate) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// It ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
