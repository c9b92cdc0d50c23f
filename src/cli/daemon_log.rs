//! The daemon's log: lines of text on a terminal, JSON elsewhere, on standard error. `SMIDR_LOG` says how much, as in `debug` or
//! `warn,smidr=debug`.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use super::{
    output::LogLine,
    report::{Failure, Refused},
};
use crate::model::Hint;

/// Says how much is written.
const VARIABLE: &str = "SMIDR_LOG";

/// Writes what the daemon says from now on, panics included.
pub(super) fn begin() -> Result<(), Failure> {
    let wanted = std::env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty());
    let wanted = wanted.unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&wanted).map_err(|_| {
        let hint = Hint::new("error, warn, info, debug or trace; for a part of it: warn,smidr::daemon=debug");
        Refused::new(format!("{VARIABLE}: `{wanted}` is not understood"), [hint])
    })?;
    let to = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // A second log of this process is none.
    let _ = match io::stderr().is_terminal() {
        true => to.with_writer(|| LogLine::Text).try_init(),
        false => to.json().flatten_event(true).with_ansi(false).with_writer(|| LogLine::Json).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let what = panic.payload();
        let what = what.downcast_ref::<&str>().copied().or_else(|| Some(what.downcast_ref::<String>()?.as_str()));
        tracing::error!(place, what, "a thread has panicked");
    }));
    Ok(())
}
