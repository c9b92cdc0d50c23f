//! `smidr du`: what SMIDR_HOME takes on the disk, in one screen or as a document.

use std::process::ExitCode;

use super::{
    args::Du,
    context,
    output::{Document, bytes, say, talk},
    report::Done,
};
use crate::{
    service::du::{DiskUse, DomainUse, WorkspaceUse, disk_use},
    system::{files::shell, paths, space::Space},
};

/// How many workspaces and private domains one screen shows.
const SHOWN: usize = 12;

/// Runs the command.
pub(super) fn du(args: &Du) -> Done {
    let found = disk_use(&paths::find(&context::gather().environment)?);
    if args.json {
        Document::new().with_all(&found)?.say();
    } else {
        screen(&found);
    }
    if found.unreadable > 0 {
        talk(format!("warning: {} folders could not be read, and are not counted", found.unreadable));
    }
    Ok(ExitCode::SUCCESS)
}

fn screen(found: &DiskUse) {
    row(found.total.bytes, &shell(&found.path));
    say("");
    for (space, what) in [
        (found.downloads, "downloads"),
        (found.sstate, "sstate, and what is known to be equal to it"),
        (found.layers, "layers"),
        (found.images, "images"),
    ] {
        row(space.bytes, what);
    }
    row(found.builds.space.bytes, &format!("artifacts, logs and records of {} builds", found.builds.count));
    for (space, what) in [(found.quarantine, "quarantine"), (found.other, "everything else")] {
        if space.bytes > 0 {
            row(space.bytes, what);
        }
    }
    list("workspaces", &found.workspaces, |one| one.all(), workspace);
    let others: Vec<&DomainUse> = found.domains.iter().filter(|domain| domain.name.is_some()).collect();
    list(
        "of downloads and sstate, in domains of their own",
        &others,
        |one| one.downloads.and(one.sstate),
        |one| {
            row(one.downloads.and(one.sstate).bytes, &described(one));
        },
    );
    say("");
    say(format!(
        "Sharing saves {} at most: what a copy of its domain's downloads and sstate for each workspace would take.",
        bytes(found.saving)
    ));
}

fn row(size: u64, what: &str) {
    say(format!("{:>9}  {what}", bytes(size)));
}

/// The largest of several things.
fn list<T>(title: &str, all: &[T], space: impl Fn(&T) -> Space, show: impl Fn(&T)) {
    if all.is_empty() {
        return;
    }
    say("");
    say(format!("{title}:"));
    all.iter().take(SHOWN).for_each(show);
    let rest: Space = all.iter().skip(SHOWN).map(space).sum();
    if let more @ 1.. = all.len().saturating_sub(SHOWN) {
        row(rest.bytes, &format!("{more} more; all of them:  smidr du --json"));
    }
}

fn workspace(one: &WorkspaceUse) {
    let mut what = one.config.as_deref().map_or_else(|| format!("{}, of which no project is known", one.name), shell);
    what.extend(one.variant.iter().map(|variant| format!(", variant {variant}")));
    if one.gone {
        what.push_str(", which is gone");
    }
    row(one.space.bytes, &what);
    for folder in &one.elsewhere {
        row(folder.space.bytes, &format!("  in {}", shell(&folder.path)));
    }
}

fn described(domain: &DomainUse) -> String {
    let name = domain.name.as_deref().unwrap_or_default();
    domain.config.as_deref().map_or_else(|| name.to_owned(), |config| format!("{}, alone", shell(config)))
}
