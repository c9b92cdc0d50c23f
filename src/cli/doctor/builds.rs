//! What builds need of this machine besides space: packages, ids, certificates, the time zone.

use std::{path::Path, process::Stdio};

use super::finding::Finding;
use crate::{config::Ids, model::SystemFacts, project::Project, system::process::Spawner};

/// Programs that rootfs recipes are made with.
const TOOLS: [&str; 3] = ["apt-get", "dpkg-deb", "tar"];

/// Whether a build host can be made from packages.
pub(super) fn packages(spawner: &Spawner) -> Finding {
    let start = |tool: &&str| {
        let mut command = spawner.command(tool);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        spawner.spawn(command, Vec::new())
    };
    // Started together: each takes a while.
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

/// Whether a project that asks for a range of ids gets one; none where it does not ask.
pub(super) fn ids(config: &Path, facts: &SystemFacts, spawner: &Spawner) -> Option<Finding> {
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

/// Whether certificates of servers can be checked.
pub(super) fn certificates(facts: &SystemFacts) -> Finding {
    match &facts.ca_bundle {
        Some(path) => Finding::good("certificates", path.display().to_string()),
        None => Finding::doubtful("certificates", "no bundle of CA certificates: https will fail")
            .hint("as administrator:  apt-get install ca-certificates"),
    }
}

/// The time zone of builds.
pub(super) fn time_zone(facts: &SystemFacts) -> Finding {
    Finding::good("time zone", facts.time_zone.clone())
}
