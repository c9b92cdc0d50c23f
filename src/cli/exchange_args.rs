//! Arguments of commands about files: other tools', and smidr's own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::candidates;

/// `smidr import`
#[derive(Args)]
pub(super) struct Import {
    /// kas files separated by colons, a configuration of bitbake-setup with what is chosen of it, a manifest of git-repo, or the bblayers.conf of a build folder
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// What is built, where the files do not say it
    #[arg(long)]
    pub target: Option<String>,
    /// For which machine, where the file does not say it
    #[arg(long)]
    pub machine: Option<String>,
    /// With which distro, where the file does not say it
    #[arg(long)]
    pub distro: Option<String>,
    /// The name of the project, where the file gives it none
    #[arg(long)]
    pub name: Option<String>,
    /// Where it is written
    #[arg(short, long, default_value = "smidr.yaml", value_name = "FILE")]
    pub output: PathBuf,
}

/// `smidr export`
#[derive(Args)]
pub(super) struct Export {
    /// The tool
    #[arg(value_enum)]
    pub form: ExportForm,
    /// Export with this overlay of the config
    #[arg(long, value_name = "NAME", add = candidates::variants())]
    pub variant: Option<String>,
}

/// Tools whose files are written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportForm {
    /// A kas file
    Kas,
    /// A configuration of bitbake-setup
    #[value(name = "conf.json")]
    ConfJson,
}

/// `smidr fmt`
#[derive(Args)]
pub(super) struct Fmt {
    /// Change nothing, and fail if something would be changed
    #[arg(long)]
    pub check: bool,
    /// Files; without one, the config
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `smidr schema`
#[derive(Args)]
pub(super) struct SchemaArgs {
    /// The document
    #[arg(value_enum, default_value = "smidr")]
    pub document: Document,
}

/// Documents that have a schema.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Document {
    /// smidr.yaml
    Smidr,
    /// SMIDR_HOME/daemon.yaml
    Daemon,
    /// SMIDR_HOME/settings.yaml
    Settings,
}
