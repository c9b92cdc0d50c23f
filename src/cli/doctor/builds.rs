//! What builds take from this machine besides room: packages, certificates, the time zone; and whether the build host has its
//! locale.

use std::{path::Path, process::Stdio};

use super::{Home, finding::Finding};
use crate::{
    cli::context::default_wanted, config::Ids, model::SystemFacts, plan::Domain, project::Project,
    system::process::Spawner,
};

/// What rootfs recipes are made with.
const TOOLS: [&str; 3] = ["apt-get", "dpkg-deb", "tar"];

/// Whether there can be a build host from packages.
pub fn packages(spawner: &Spawner) -> Finding {
    let start = |tool: &&str| {
        let mut command = spawner.command(tool);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        spawner.spawn(command, Vec::new())
    };
    // All at once: each takes a while to start.
    let started: Vec<_> = TOOLS.iter().map(|tool| (*tool, start(tool))).collect();
    let missing = started.into_iter().filter_map(|(tool, child)| {
        let works = child.and_then(|mut child| child.wait()).is_ok_and(|status| status.success());
        (!works).then_some(tool)
    });
    match missing.collect::<Vec<_>>().first() {
        None => Finding::good("packages", "apt can resolve and verify packages for rootfs recipes"),
        Some(tool) => {
            Finding::doubtful("packages", format!("there is no {tool}: rootfs recipes must begin with an image"))
                .hint("bring one:  smidr image import FILE --name NAME")
        }
    }
}

/// Whether the build host of this project has the locale that BitBake insists on; without a project, all that are here. None
/// where there is none to look at.
pub fn locale(config: &Path, facts: &SystemFacts, home: &Home) -> Option<Finding> {
    let images = match of_project(config, facts, home) {
        Some(name) => vec![home.store.find(&name).ok()??],
        None => home.store.list().ok()?,
    };
    let known: Vec<_> = images.iter().filter_map(|image| Some((image, home.store.has_locale(image)?))).collect();
    let names = |has: bool| {
        known.iter().filter(|(_, found)| *found == has).map(|(image, _)| image.name.to_string()).collect::<Vec<_>>()
    };
    let (with, without) = (names(true), names(false));
    if let Some(first) = without.first() {
        return Some(
            Finding::doubtful("locale", format!("no en_US.UTF-8, on which BitBake insists, in {}", without.join(", ")))
                .hint(format!(
                    "add to the packages of a rootfs recipe  locales  and to its commands  localedef -i en_US -f UTF-8 en_US.UTF-8  (base: {{image: {first}}})"
                )),
        );
    }
    (!with.is_empty()).then(|| Finding::good("locale", format!("en_US.UTF-8 is in {}", with.join(", "))))
}

/// Whether a project that asks for a range of ids gets it; none where none does.
pub fn ids(config: &Path, facts: &SystemFacts, spawner: &Spawner) -> Option<Finding> {
    let project = Project::read(config, None, facts).ok().filter(|project| project.config.host.ids == Ids::Range)?;
    let finding =
        |text: &str| Finding::doubtful("ids", format!("{} asks for host.ids: range, {text}", &*project.config.name));
    if facts.subordinate.is_none() {
        let user = facts.environment.iter().find(|(name, _)| name == "USER").map_or("$USER", |(_, user)| user);
        return Some(finding("and /etc/subuid and /etc/subgid have no range for you: one id exists in builds").hint(
            format!("as administrator:  usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
        ));
    }
    let is_missing = |tool: &&str| {
        let mut command = spawner.command(tool);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        spawner.spawn(command, Vec::new()).and_then(|mut child| child.wait()).is_err()
    };
    if ["newuidmap", "newgidmap"].iter().any(is_missing) {
        return Some(
            finding("and there is no newuidmap or newgidmap: one id exists in builds")
                .hint("as administrator:  apt install uidmap"),
        );
    }
    Some(Finding::good("ids", "a range of /etc/subuid and /etc/subgid, by newuidmap (host.ids: range)"))
}

/// The image that the project is pinned to, or names. What is wrong with the project is not this command's to say.
fn of_project(config: &Path, facts: &SystemFacts, home: &Home) -> Option<String> {
    let project = Project::read(config, None, facts).ok()?;
    let plan = project.plan(&default_wanted(None), facts, &home.paths, &Domain::Own).ok()?;
    Some(plan.host.pinned.map_or(plan.host.name, |digest| digest.to_string()))
}

/// Whether servers can be trusted.
pub fn certificates(facts: &SystemFacts) -> Finding {
    match &facts.ca_bundle {
        Some(path) => Finding::good("certificates", path.display().to_string()),
        None => Finding::doubtful("certificates", "no bundle of CA certificates: https will fail")
            .hint("as administrator:  apt-get install ca-certificates"),
    }
}

/// Which time builds show.
pub fn time_zone(facts: &SystemFacts) -> Finding {
    Finding::good("time zone", facts.time_zone.clone())
}
