//! `smidr doctor`: whether this machine can build. Does what a build does, tries what a build needs, and shows what fails and
//! what to type.
//!
//! `--json` prints `{version, can_build, findings[]}`. Each finding has a name, a verdict (`good`, `doubtful`, `broken`), a text
//! and perhaps a hint. Where a step of the way into a sandbox failed, it also has `errno` (`EPERM`), `cause`, and
//! `remedy_user` and `remedy_admin` where there is something to do for the one or the other: `{how, lines[]}`.

mod builds;
mod finding;
mod limits;
mod machine;
mod sandbox;
mod storage;

use std::{path::Path, process::ExitCode};

use super::{
    args::Doctor,
    build::start_spawner,
    context,
    output::{Document, talk},
    report::{Done, Failure},
};
use crate::{
    image::ImageStore,
    model::{Kind, Paths, SystemFacts},
    system::{self, logout::logout, process::Spawner},
};
use finding::{Finding, Verdict};

/// Runs the command. `config` is the project's, if there is one.
pub(super) fn doctor(config: &Path, args: &Doctor) -> Done {
    let spawner = start_spawner()?;
    let facts = context::gather();
    let home = Home::open(&facts);
    let findings = examine(config, &facts, &home, &spawner);
    let can_build = findings.iter().all(|finding| finding.verdict != Verdict::Broken);
    if args.json {
        Document::new().with("can_build", &can_build)?.with("findings", &findings)?.say();
    } else {
        findings.iter().for_each(finding::show);
        findings.iter().for_each(finding::show_remedies);
    }
    // Its kind decides the exit code, and its hint is shown first.
    home.map(|_| ())?;
    if !args.json {
        talk(if can_build { "this machine can build" } else { "this machine cannot build yet" });
    }
    Ok(if can_build { ExitCode::SUCCESS } else { ExitCode::from(Kind::Host.exit_code()) })
}

/// All findings, in the order in which they are shown.
fn examine(config: &Path, facts: &SystemFacts, home: &Result<Home, Failure>, spawner: &Spawner) -> Vec<Finding> {
    let limits = system::limits::gather();
    let mut findings = vec![sandbox::caller(facts), sandbox::kernel()];
    findings.extend(sandbox::sandbox(facts, home.as_ref().ok(), spawner));
    findings.push(sandbox::namespaces(&limits, facts));
    match home {
        Ok(home) => findings.extend(storage::storage(home)),
        Err(failure) => findings.push(storage::no_home(failure)),
    }
    findings.extend(machine::machine(&limits, facts));
    findings.push(limits::limits(facts, spawner));
    findings.push(limits::detached(logout()));
    findings.extend(builds::ids(config, facts, spawner));
    findings.push(builds::packages(spawner));
    findings.push(builds::certificates(facts));
    findings.push(builds::time_zone(facts));
    findings
}

/// SMIDR_HOME, open for use.
struct Home {
    paths: Paths,
    store: ImageStore,
}

impl Home {
    fn open(facts: &SystemFacts) -> Result<Self, Failure> {
        let paths = context::open_paths(facts)?;
        let store = ImageStore::open(&paths)?;
        Ok(Self { paths, store })
    }
}
