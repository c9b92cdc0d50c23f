//! How much is said and in which colours, as the command line asks. Set once, before anything is printed.

use std::{
    ffi::OsStr,
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use clap::{Args, ValueEnum};

use super::output::ColorChoice;

/// How much is said beside data, and in which colours.
#[derive(Args)]
pub(super) struct Voice {
    /// Print only errors and data
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Also say which tasks begin and end, and what is restored or skipped
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Use colours: auto (on terminals, without NO_COLOR), always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub color: Colour,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Colour {
    /// Where a terminal shows them, unless NO_COLOR is set
    #[default]
    Auto,
    /// Even in files and pipes
    Always,
    /// Nowhere
    Never,
}

/// How much is said beside data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Amount {
    /// Only errors.
    Errors,
    /// What is worth knowing.
    #[default]
    Usual,
    /// Each task, too.
    Details,
}

static AMOUNT: OnceLock<Amount> = OnceLock::new();

/// Does as the command line says.
pub(super) fn set(voice: &Voice) {
    let amount = match (voice.quiet, voice.verbose) {
        (true, _) => Amount::Errors,
        (false, true) => Amount::Details,
        (false, false) => Amount::Usual,
    };
    let _ = AMOUNT.set(amount);
    set_colour(voice.color);
}

fn set_colour(wanted: Colour) {
    match wanted {
        // As the terminal, NO_COLOR and the like say.
        Colour::Auto => ColorChoice::Auto,
        Colour::Always => ColorChoice::Always,
        Colour::Never => ColorChoice::Never,
    }
    .write_global();
}

/// The same for a command line that cannot be read, as far as it is about colours.
pub(super) fn set_colour_of<'a>(words: impl Iterator<Item = &'a OsStr>) {
    let words: Vec<&str> = words.filter_map(OsStr::to_str).take_while(|word| *word != "--").collect();
    let apart = words.windows(2).filter_map(|pair| matches!(pair, ["--color", _]).then(|| pair.last()).flatten());
    let wanted = words.iter().filter_map(|word| word.strip_prefix("--color=")).chain(apart.copied()).last();
    set_colour(wanted.and_then(|word| ValueEnum::from_str(word, false).ok()).unwrap_or_default());
}

/// How much is said.
pub(super) fn amount() -> Amount {
    AMOUNT.get().copied().unwrap_or_default()
}

/// Whether only errors and data are printed.
pub(super) fn is_quiet() -> bool {
    amount() == Amount::Errors
}

/// Whether people watch standard error, on a terminal that can draw, and want to see how it goes.
pub(super) fn watched() -> bool {
    can_draw() && !is_quiet()
}

/// Whether what is drawn for standard error has colours. What cannot show them gets none in any case.
pub(super) fn coloured() -> bool {
    match ColorChoice::global() {
        ColorChoice::Auto => can_draw(),
        choice => choice != ColorChoice::Never,
    }
}

fn can_draw() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}
