//! Which limits of the config's section `host` would hold here, and how: tried as a build does it, with a cgroup that is removed at once.

use std::path::Path;

use super::finding::Finding;
use crate::{
    model::{Limits, SystemFacts, UserError as _},
    system::{
        cgroup::{CgroupError, Leaf, Place, Scope},
        logout::Logout,
        process::Spawner,
    },
};

/// More than any build starts; every kernel accepts it.
const TASKS: u32 = 30_000;

/// Where systemd's own files are while it runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// The result of the trial.
#[derive(Debug)]
enum Found {
    /// A cgroup; through systemd or without, with the limits that do not hold and why, and whether processors have one.
    Leaf { through_systemd: bool, missing: Vec<(&'static str, String)>, cpus: bool },
    /// None.
    Nothing(CgroupError),
}

/// The limits that a build could have.
pub(super) fn limits(facts: &SystemFacts, spawner: &Spawner) -> Finding {
    judge(&try_out(facts, spawner), Path::new(SYSTEMD).is_dir(), facts.uid)
}

/// Whether a build that outlives the terminal also outlives the session.
pub(super) fn detached(found: Logout) -> Finding {
    match found {
        Logout { kills: true, lingers: false } => Finding::doubtful(
            "detached",
            "builds with --detach end with your last session: logind has KillUserProcesses=yes",
        )
        .hint("let your processes go on:  loginctl enable-linger"),
        Logout { lingers: false, .. } => {
            Finding::good("detached", "builds with --detach go on after you log out, without scopes of your systemd")
        }
        Logout { lingers: true, .. } => {
            Finding::good("detached", "builds with --detach go on after you log out (you linger)")
        }
    }
}

fn try_out(facts: &SystemFacts, spawner: &Spawner) -> Found {
    let asked = Limits { memory: Some(facts.memory.max(1 << 30)), cpus: Some(facts.cpus.max(1)), tasks: Some(TASKS) };
    let name = format!("doctor-{}", std::process::id());
    let here = Leaf::make(&Place::own(), &name, &asked);
    if !here.as_ref().is_ok_and(|leaf| leaf.not_enforced().is_empty())
        && let Some(way) = Scope::find(facts, spawner)
        && let Ok(leaf) = Leaf::make(&way.place, &name, &asked)
    {
        return found(&leaf, true);
    }
    match here {
        Ok(leaf) => found(&leaf, false),
        Err(error) => Found::Nothing(error),
    }
}

fn found(leaf: &Leaf, through_systemd: bool) -> Found {
    let missing = leaf.not_enforced().iter().map(|limit| (limit.key, limit.why.clone())).collect();
    Found::Leaf { through_systemd, missing, cpus: leaf.path().join("cpu.max").exists() }
}

fn judge(found: &Found, systemd: bool, uid: u32) -> Finding {
    match found {
        Found::Leaf { through_systemd, missing, cpus } if missing.is_empty() => {
            let what = if *cpus { "memory, tasks and processors" } else { "memory and tasks" };
            let how = if *through_systemd { ", by way of systemd-run --user --scope" } else { "" };
            Finding::good("limits", format!("{what} of a build can be limited by a cgroup of its own{how}"))
        }
        Found::Leaf { missing, .. } => {
            let keys: Vec<&str> = missing.iter().map(|(key, _)| *key).collect();
            let why = missing.first().map(|(_, why)| why.as_str()).unwrap_or_default();
            let text = format!("{} would not hold", keys.join(" and "));
            // The reason includes a remedy where no parent could delegate the controllers.
            match why.split_once("; ") {
                Some((why, hint)) => Finding::doubtful("limits", format!("{text}: {why}")).hint(hint),
                None => Finding::doubtful("limits", format!("{text}: {why}")).hint(delegate(systemd)),
            }
        }
        Found::Nothing(error) => {
            let tasks = if uid == 0 { " and host.tasks" } else { "" };
            let finding = Finding::doubtful("limits", format!("host.memory{tasks} would not hold: {error}"));
            match (error, error.hints().pop()) {
                // A session of the user's systemd would be needed.
                (CgroupError::NotYours { .. }, _) if systemd && uid != 0 => {
                    finding.hint(format!("as administrator:  loginctl enable-linger {uid}  and log in again"))
                }
                (_, Some(hint)) => finding.hint(hint.to_string()),
                (_, None) => finding,
            }
        }
    }
}

fn delegate(systemd: bool) -> &'static str {
    if systemd {
        "as administrator:  mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' > \
         /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload  and log in again"
    } else {
        "as administrator, hand the controllers on:  echo '+memory +pids +cpu' > /sys/fs/cgroup/cgroup.subtree_control"
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cli::doctor::finding::Verdict;

    fn leaf(through_systemd: bool, missing: &[(&'static str, &str)]) -> Found {
        let missing = missing.iter().map(|(key, why)| (*key, (*why).to_owned())).collect();
        Found::Leaf { through_systemd, missing, cpus: true }
    }

    #[test]
    fn what_machines_offer() {
        let not_yours = || CgroupError::NotYours { path: "/x".into(), source: io::ErrorKind::PermissionDenied.into() };
        let kernel = "this machine limits memory by cgroup v1; start the kernel with  x=1";
        let rows = [
            (leaf(false, &[]), true, Verdict::Good, "by a cgroup of its own", None),
            (leaf(true, &[]), true, Verdict::Good, "systemd-run --user --scope", None),
            (
                leaf(true, &[("host.memory", "there can be no memory.max in /x")]),
                true,
                Verdict::Doubtful,
                "host.memory would not hold: there can be no memory.max",
                Some("Delegate=cpu cpuset io memory pids"),
            ),
            (
                leaf(false, &[("host.memory", "there can be no memory.max"), ("host.tasks", "x")]),
                false,
                Verdict::Doubtful,
                "host.memory and host.tasks would not hold",
                Some("cgroup.subtree_control"),
            ),
            (
                leaf(false, &[("host.memory", kernel)]),
                true,
                Verdict::Doubtful,
                "by cgroup v1",
                Some("start the kernel"),
            ),
            (
                Found::Nothing(not_yours()),
                true,
                Verdict::Doubtful,
                "host.memory would not hold: no cgroup of this session is delegated",
                Some("loginctl enable-linger 1000"),
            ),
            (Found::Nothing(not_yours()), false, Verdict::Doubtful, "delegated to you", Some("systemd-run --user")),
            (Found::Nothing(CgroupError::NoV2), true, Verdict::Doubtful, "no cgroup v2", Some("start the kernel")),
            (
                Found::Nothing(CgroupError::Hidden),
                false,
                Verdict::Doubtful,
                "not visible",
                Some("mount the container's"),
            ),
        ];
        for (found, systemd, verdict, text, hint) in rows {
            let finding = judge(&found, systemd, 1000);
            assert_eq!(finding.verdict, verdict, "{found:?}");
            assert!(finding.text.contains(text), "{}", finding.text);
            assert_eq!(finding.hint.is_some(), hint.is_some(), "{found:?}: {:?}", finding.hint);
            assert!(hint.is_none_or(|hint| finding.hint.is_some_and(|told| told.contains(hint))), "{found:?}");
        }
    }
}
