//! A Code Quality report of GitLab: a JSON array with an entry for each failure. A pure function.

use std::collections::BTreeSet;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::told::{Failed, Told, line};

#[derive(Serialize)]
struct Issue {
    description: String,
    check_name: String,
    /// Stays the same from pipeline to pipeline, and is another one for each entry.
    fingerprint: String,
    severity: &'static str,
    location: Location,
}

#[derive(Serialize)]
struct Location {
    path: String,
    lines: Lines,
}

#[derive(Serialize)]
struct Lines {
    begin: u64,
}

/// The document.
pub(super) fn of(told: &[Told]) -> String {
    let mut known = BTreeSet::new();
    let issues: Vec<Issue> = told
        .iter()
        .flat_map(|one| one.failures.iter().map(move |failed| (one, failed)))
        .map(|(one, failed)| issue(one, failed))
        .filter(|issue| known.insert(issue.fingerprint.clone()))
        .collect();
    serde_json::to_string_pretty(&issues).unwrap_or_default() + "\n"
}

fn issue(told: &Told, failed: &Failed) -> Issue {
    // An entry must have a place: the config is the file that asked for the build.
    let config = || (told.config.clone().unwrap_or_else(|| "smidr.yaml".into()), 1);
    let (path, begin) = failed.place.clone().unwrap_or_else(config);
    let (title, cause) = (line(&failed.title()), line(&failed.why.cause));
    let identity = [told.class.as_str(), &title, &cause, &path].join("\0");
    Issue {
        description: format!("{title}: {cause}"),
        check_name: failed.why.kind.clone(),
        fingerprint: hex::encode(Sha256::digest(identity.as_bytes())),
        severity: "blocker",
        location: Location { path, lines: Lines { begin } },
    }
}
