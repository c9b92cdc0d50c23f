//! A Code Quality report of GitLab: a JSON array with an entry for each failure, and for each kind of warnings. A pure function.

use std::collections::BTreeSet;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::told::{Failed, Told, line};
use crate::model::WarningGroup;

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
    let of = |one: &Told| -> Vec<Issue> {
        let failures = one.failures.iter().map(|failed| failure(one, failed));
        failures.chain(one.warnings.iter().map(|group| warning(one, group))).collect()
    };
    let issues = told.iter().flat_map(of).filter(|issue| known.insert(issue.fingerprint.clone()));
    serde_json::to_string_pretty(&issues.collect::<Vec<_>>()).unwrap_or_default() + "\n"
}

fn failure(told: &Told, failed: &Failed) -> Issue {
    let (title, cause) = (failed.title(), line(&failed.why.cause));
    let place = failed.place.clone().unwrap_or_else(|| config(told));
    let identity = [&told.class, &title, &cause];
    issue(format!("{title}: {cause}"), &failed.why.kind, &identity, "blocker", place)
}

fn warning(told: &Told, group: &WarningGroup) -> Issue {
    let place = config(told);
    // The number of warnings changes, and they stay the same entry.
    let identity = [&told.class, &group.kind];
    issue(format!("warnings: {}", line(&group.to_string())), &group.kind, &identity, "minor", place)
}

/// An entry must have a place: the config is the file that asked for the build.
fn config(told: &Told) -> (String, u64) {
    (told.config.clone().unwrap_or_else(|| "smidr.yaml".into()), 1)
}

fn issue(
    description: String,
    kind: &str,
    identity: &[&String],
    severity: &'static str,
    (path, begin): (String, u64),
) -> Issue {
    let identity: String = identity.iter().copied().chain([&path]).map(|part| format!("{part}\0")).collect();
    Issue {
        description,
        check_name: kind.to_owned(),
        fingerprint: hex::encode(Sha256::digest(identity.as_bytes())),
        severity,
        location: Location { path, lines: Lines { begin } },
    }
}
