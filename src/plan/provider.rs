//! A provider's part in a plan, and warnings about it.

use std::fmt;

use serde::Serialize;

use crate::config::{
    Config,
    provider::{Choice, Provided},
};

/// The provider of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedProvider {
    /// As `base.provider` has it.
    pub name: String,
    /// The version that was taken.
    pub version: String,
    /// What selected that version: `base.version`, `yocto_series` or `default`.
    pub chosen_by: &'static str,
    /// The text of `base.version`.
    pub asked: Option<String>,
    /// The day of a successful build with smidr; none: not tested by smidr's authors.
    pub verified: Option<String>,
    /// The version, for display.
    pub about: String,
}

const DEFAULT: &str = "default";

impl fmt::Display for PlannedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)?;
        match (&self.asked, self.chosen_by) {
            (Some(asked), _) if *asked != self.version => write!(f, " for {asked}")?,
            (Some(_), _) => {}
            (None, DEFAULT) => write!(f, ", the default version")?,
            (None, by) => write!(f, ", from {by}")?,
        }
        write!(f, ": {}; ", self.about)?;
        match &self.verified {
            Some(day) => write!(f, "built on {day}"),
            None => f.write_str("not tested by smidr's authors"),
        }
    }
}

pub(super) fn planned(config: &Config) -> Option<PlannedProvider> {
    let Provided { provider, version, choice } = config.provided.as_ref()?;
    let (chosen_by, asked) = match choice {
        Choice::Version(asked) => ("base.version", Some(asked.clone())),
        Choice::Series => ("yocto_series", None),
        Choice::Default => (DEFAULT, None),
    };
    Some(PlannedProvider {
        name: provider.name.clone(),
        version: version.name.text.clone(),
        chosen_by,
        asked,
        verified: version.verified.map(|day| day.to_string()),
        about: version.about.text.clone(),
    })
}

/// Warnings about a provider's data.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(Provided { provider, version, choice }) = &config.provided else { return warnings };
    let name = format!("{} {}", provider.name, version.name);
    if version.verified.is_none() {
        let source = version.sources.first().map(|source| source.text.as_str()).unwrap_or_default();
        warnings.push(format!("not tested by smidr's authors: {name}, with the layers of {source}"));
    }
    if let Choice::Version(asked) = choice
        && *asked != version.name.text
    {
        warnings.push(format!(
            "base.version {asked} is built from the branches of {name}, which may have moved on; for that very release, name its tags or commits under `layers:`"
        ));
    }
    let answered = config.advanced.accept_fsl_eula.is_some() || config.local_conf.contains("ACCEPT_FSL_EULA");
    if let Some(eula) = provider.eula.as_ref().filter(|_| !answered) {
        warnings.push(format!(
            "{} Read {}, and write `advanced: {{accept_fsl_eula: true}}` if you accept it; without it, such recipes fail",
            eula.about, eula.source
        ));
    }
    warnings
}
