//! `smidr schema`: the JSON schema of a document, for editors.

use std::process::ExitCode;

use super::{
    exchange_args::{Document, SchemaArgs},
    output::say_block,
    report::Done,
};
use crate::{config, daemon, settings::Settings};

const REFERENCE: &str = include_str!("../../docs/config.md");
const DAEMON: &str = include_str!("../../docs/daemon-yaml.md");

/// Other forms of a smidr.yaml, by the key that each begins with.
const INSTEAD: [(&str, &str); 2] = [
    ("kas", "kas files, separated by colons, whose project this is; the other keys lie on top of it"),
    (
        "bitbake_setup",
        "the configuration of bitbake-setup that this is (`config`), with what is chosen of it (`configuration`, `options`, `source_overrides`)",
    ),
];

/// Runs the command.
pub(super) fn schema(args: &SchemaArgs) -> Done {
    let schema = match args.document {
        Document::Smidr => config::schema("smidr.yaml", &config::known_keys(), REFERENCE, &INSTEAD),
        Document::Daemon => config::schema("daemon.yaml", &daemon::config::known_keys(), DAEMON, &[]),
        Document::Settings => config::schema("settings.yaml", &Settings::known_keys(), REFERENCE, &[]),
    };
    say_block(&serde_json::to_string_pretty(&schema).expect("each field has a text"));
    Ok(ExitCode::SUCCESS)
}
