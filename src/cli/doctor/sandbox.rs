//! Whether a sandbox can be made: by making one, as a build does.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::{Home, finding::Finding};
use crate::{
    image::Scratch,
    model::{SystemFacts, UserError as _},
    plan::{Ids, MountOp, Payload, Root, SandboxSpec},
    sandbox::{self, SandboxError, StepFailure, Tasks, Verified},
    system::{
        files::{FileError, make_private_dir},
        kernel::{self, OLDEST, lacks},
        limits::Limits,
        process::Spawner,
    },
};

/// The user that builds.
pub(super) fn caller(facts: &SystemFacts) -> Finding {
    let (uid, gid) = facts.inner_ids();
    let text = format!("uid {} here, {uid}:{gid} in builds; no subuid entry and no helper needed", facts.uid);
    Finding::good("caller", text)
}

/// The kernel's version. What it can do is tried below.
pub(super) fn kernel() -> Finding {
    let release = kernel::release();
    let Some(version) = kernel::version(&release) else {
        return Finding::doubtful("kernel", format!("it does not tell its version: `{release}`"));
    };
    let lacking = lacks(version).join(", ");
    match (lacking.is_empty(), version < OLDEST) {
        (true, _) => Finding::good("kernel", format!("Linux {release}")),
        (false, false) => Finding::good("kernel", format!("Linux {release}; newer ones have {lacking}")),
        (false, true) => Finding::doubtful(
            "kernel",
            format!("Linux {release} lacks, unless its distribution has brought it in: {lacking}"),
        )
        .hint(format!("boot Linux {}.{} or newer", OLDEST.0, OLDEST.1)),
    }
}

/// The steps of a build, up to the point where the program would start, on the file system that holds images.
pub(super) fn sandbox(facts: &SystemFacts, home: Option<&Home>, spawner: &Spawner) -> Vec<Finding> {
    let (uid, gid) = facts.inner_ids();
    let ids = Ids { outer_uid: facts.uid, outer_gid: facts.gid, uid, gid, range: None };
    let place = match Place::make(home, &ids) {
        Ok(place) => place,
        Err(failure) => return vec![Finding::broken("sandbox", format!("cannot be tried out: {failure}"))],
    };
    let stdio = match sandbox::Stdio::null() {
        Ok(stdio) => stdio,
        Err(error) => return vec![Finding::broken("sandbox", format!("cannot be tried out: /dev/null: {error}"))],
    };
    match sandbox::launch(&spec(ids, &place), stdio, spawner) {
        Ok(running) => verified(running.verified(), running.lacks()),
        Err(error) => vec![broken(&error)],
    }
}

/// Two folders for an overlay. Removed when it is dropped.
struct Place {
    top: PathBuf,
    below: PathBuf,
    _scratch: (Option<Scratch>, Option<TempDir>),
}

impl Place {
    /// In the store of images; if that is not usable, elsewhere, since that is not the sandbox's fault.
    fn make(home: Option<&Home>, ids: &Ids) -> Result<Self, FileError> {
        let place = match home.and_then(|home| home.store.scratch().ok()) {
            Some(scratch) => {
                Self { top: scratch.side("top")?, below: scratch.side("below")?, _scratch: (Some(scratch), None) }
            }
            None => {
                let folder = tempfile::tempdir().map_err(FileError::new("make a folder in", &std::env::temp_dir()))?;
                let (top, below) = (folder.path().join("top"), folder.path().join("below"));
                make_private_dir(&below)?;
                Self { top, below, _scratch: (None, Some(folder)) }
            }
        };
        for path in ["proc", "dev", "etc", "tmp", "workspace"] {
            make_private_dir(&place.top.join(path))?;
        }
        let users = place.top.join("etc/passwd");
        fs::write(&users, format!("builder:x:{}:{}::/:\n", ids.uid, ids.gid))
            .map_err(FileError::new("write", &users))?;
        Ok(place)
    }
}

fn spec(ids: Ids, place: &Place) -> SandboxSpec {
    let (top, below) = (place.top.clone(), place.below.clone());
    let mounts = vec![
        MountOp::Proc,
        MountOp::Dev,
        MountOp::Tmpfs { dest: "/tmp".into(), mode: 0o1777 },
        MountOp::Bind { source: below.clone(), dest: "/workspace".into(), writable: true },
    ];
    let root = Root::Layers(vec![top, below]);
    SandboxSpec { probe_tasks: true, ..SandboxSpec::new(ids, root, mounts, Payload::default()) }
}

/// The result: one finding for each feature that a build may lack.
fn verified(found: &Verified, lacks: Option<&SandboxError>) -> Vec<Finding> {
    vec![isolation(lacks), modes(), root(found.no_overlay.as_ref()), sockets(found.sockets_scoped), tasks(&found.tasks)]
}

/// The first step that failed, the kernel's answer, the cause, and what to do.
fn broken(error: &SandboxError) -> Finding {
    let errno = error.errno();
    let text = match (&errno, std::error::Error::source(error)) {
        (Some(errno), _) => format!("{error}: {errno}"),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    };
    let finding = Finding::broken("sandbox", text);
    match (error.obstacle(), error.hints().pop()) {
        (Some(obstacle), _) => finding.obstacle(errno, obstacle),
        (None, Some(hint)) => finding.hint(hint.to_string()),
        (None, None) => finding,
    }
}

/// The mode that a build has here: the first that works; *none* only where its config says so.
fn isolation(lacks: Option<&SandboxError>) -> Finding {
    let all = "user, mount, PID, IPC, UTS and cgroup namespaces, /proc, /dev, pivot_root";
    let Some(error) = lacks else { return Finding::good("sandbox", all) };
    let text = "no PID namespace: builds work, and see this machine's processes";
    let finding = Finding::doubtful("sandbox", text);
    match error.obstacle() {
        Some(obstacle) => finding.obstacle(error.errno(), obstacle),
        None => finding.hint(error.to_string()),
    }
}

/// The modes, in the order in which they are tried, and what each lacks.
fn modes() -> Finding {
    Finding::good(
        "modes",
        "tried in this order: everything; without a PID namespace (builds see this machine's processes); each of them without overlay \
         (starting takes longer). Only with  host.isolation: none  nothing is kept apart",
    )
}

fn root(no_overlay: Option<&StepFailure>) -> Finding {
    let Some(failure) = no_overlay else {
        return Finding::good("root", "overlayfs lays an image's layers on top of each other");
    };
    let text = "overlayfs cannot be mounted here: an image's files are bound one by one, which takes longer to start; rootfs recipes \
                that begin with an image do not work";
    because(Finding::doubtful("root", text), failure)
}

/// A finding with the step that failed, the kernel's answer and the cause.
fn because(finding: Finding, failure: &StepFailure) -> Finding {
    let error = SandboxError::from(failure.clone());
    match error.obstacle() {
        Some(obstacle) => finding.obstacle(error.errno(), obstacle),
        None => finding.hint(error.to_string()),
    }
}

fn sockets(scoped: bool) -> Finding {
    if scoped {
        return Finding::good("sockets", "Landlock keeps abstract sockets of this machine out of reach");
    }
    Finding::doubtful("sockets", "builds can reach abstract sockets of this machine (X11, D-Bus)")
        .hint("Linux 6.12 with Landlock, or  host.network: none  keeps them apart")
}

fn tasks(tasks: &Tasks) -> Finding {
    let finding = |text| Finding::doubtful("task network", text);
    match tasks {
        Tasks::Cut => Finding::good("task network", "BitBake can cut its tasks off (nested user namespace)"),
        Tasks::Unasked => finding("not looked at"),
        Tasks::Open(failure) => because(
            finding("BitBake's tasks will share the network: one that fetches behind BitBake's back is not noticed"),
            failure,
        ),
    }
}

/// Each running task has a user namespace, and the sandbox has one more.
pub(super) fn namespaces(limits: &Limits, facts: &SystemFacts) -> Finding {
    let Some(limit) = limits.user_namespaces else {
        return Finding::doubtful("namespaces", "this kernel does not tell how many user namespaces there may be");
    };
    let seen = limits.user_namespaces_seen;
    let text = format!("{limit} user namespaces allowed, {seen} in use as far as smidr can see");
    if limit.saturating_sub(seen) < 16 + 2 * u64::from(facts.cpus) {
        return Finding::doubtful("namespaces", text)
            .hint("each task of BitBake takes one; as administrator:  sysctl -w user.max_user_namespaces=15000");
    }
    Finding::good("namespaces", text)
}
