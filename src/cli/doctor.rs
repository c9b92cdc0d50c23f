//! `smidr doctor`: can this machine build? Does what a build does, and says which step does not work and what to type.

use std::{fs, process::ExitCode};

use serde::Serialize;

use super::{
    args::Doctor,
    build::start_spawner,
    context,
    output::{bytes, say, say_json, talk},
    report::{Done, Failure},
};
use crate::{
    host::{files::FileError, process::Spawner},
    image::ImageStore,
    model::{Explain, HostFacts, Paths},
    plan::{Ids, MountOp, Payload, Resources, Root, SandboxSpec},
    sandbox::{self, SandboxError},
};

/// BitBake stops when less is free; a build of a real system needs many times that.
const LITTLE_SPACE: u64 = 20_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Doubtful,
    Broken,
}

#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    verdict: Verdict,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn new(name: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self { name, verdict, text: text.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Runs the command.
pub fn doctor(args: &Doctor) -> Done {
    let spawner = start_spawner()?;
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    let mut findings = vec![caller(&facts)];
    findings.extend(sandbox(&facts, &paths, &spawner)?);
    findings.push(packages(&spawner));
    findings.push(certificates(&facts));
    findings.push(space(&paths));
    findings.push(memory(&facts));
    let can_build = findings.iter().all(|finding| finding.verdict != Verdict::Broken);
    if args.json {
        say_json(&serde_json::json!({ "version": 1, "can_build": can_build, "findings": findings }));
    } else {
        findings.iter().for_each(show);
        talk(if can_build { "this machine can build" } else { "this machine cannot build yet" });
    }
    Ok(if can_build { ExitCode::SUCCESS } else { ExitCode::from(crate::model::Kind::Host.exit_code()) })
}

fn show(finding: &Finding) {
    let word = match finding.verdict {
        Verdict::Good => "good",
        Verdict::Doubtful => "doubtful",
        Verdict::Broken => "BROKEN",
    };
    say(format!("{:<13} {word:<9} {}", finding.name, finding.text));
    if let Some(hint) = &finding.hint {
        say(format!("{:<23} {hint}", ""));
    }
}

fn caller(facts: &HostFacts) -> Finding {
    let (uid, gid) = facts.inner_ids();
    let text =
        format!("uid {} here, uid {uid} and gid {gid} in builds; no subuid entry and no helper is needed", facts.uid);
    Finding::new("caller", Verdict::Good, text)
}

/// The very sequence of a build, up to the point where the program would start, on the file system that holds images.
fn sandbox(facts: &HostFacts, paths: &Paths, spawner: &Spawner) -> Result<Vec<Finding>, Failure> {
    let scratch = ImageStore::open(paths)?.scratch()?;
    let (top, below) = (scratch.side("top")?, scratch.side("below")?);
    for path in ["proc", "dev", "tmp", "workspace"] {
        fs::create_dir_all(top.join(path)).map_err(FileError::new("make a folder in", &top))?;
    }
    let (uid, gid) = facts.inner_ids();
    let spec = SandboxSpec {
        ids: Ids { outer_uid: facts.uid, outer_gid: facts.gid, uid, gid },
        hostname: "smidr".into(),
        own_network: false,
        root_emulation: false,
        hide_openat2: false,
        probe_tasks: true,
        root: Root::Layers(vec![top, below.clone()]),
        mounts: vec![
            MountOp::Proc,
            MountOp::Dev,
            MountOp::Tmpfs { dest: "/tmp".into(), mode: 0o1777 },
            MountOp::Bind { source: below, dest: "/workspace".into(), writable: true },
        ],
        resources: Resources::default(),
        payload: Payload { argv: vec![], env: vec![], cwd: "/".into(), terminal: false, linger: false, cpus: None },
    };
    let null = std::process::Stdio::null;
    let stdio = sandbox::Stdio { stdin: null(), stdout: null(), stderr: null(), events: None };
    Ok(match sandbox::launch(&spec, stdio, spawner) {
        Ok(running) => {
            let verified = running.verified();
            let namespaces = "user, mount, PID, IPC, UTS and cgroup namespaces, /proc, /dev, pivot_root";
            let sandbox = Finding::new("sandbox", Verdict::Good, namespaces);
            vec![sandbox, root(verified.overlay), sockets(verified.sockets_scoped), tasks(verified.tasks_cut)]
        }
        Err(error) => vec![broken(&error)],
    })
}

fn broken(error: &SandboxError) -> Finding {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        text = format!("{text}: {cause}");
    }
    let finding = Finding::new("sandbox", Verdict::Broken, text);
    match error.hint() {
        Some(hint) => finding.hint(hint),
        None => finding,
    }
}

fn root(overlay: bool) -> Finding {
    if overlay {
        return Finding::new("root", Verdict::Good, "overlayfs lays an image's layers on top of each other");
    }
    let text = "overlayfs cannot be mounted here: an image's files are bound one by one";
    Finding::new("root", Verdict::Doubtful, text)
        .hint("builds work, starting takes longer; rootfs recipes that begin with an image do not work")
}

fn sockets(scoped: bool) -> Finding {
    if scoped {
        return Finding::new("sockets", Verdict::Good, "Landlock keeps abstract sockets of this machine out of reach");
    }
    Finding::new("sockets", Verdict::Doubtful, "builds can reach abstract sockets of this machine (X11, D-Bus)")
        .hint("Linux 6.12 with Landlock, or  host.network: none, keeps them apart")
}

fn tasks(cut: Option<bool>) -> Finding {
    match cut {
        Some(true) => {
            Finding::new("task network", Verdict::Good, "BitBake can cut its tasks off (nested user namespace)")
        }
        _ => Finding::new(
            "task network",
            Verdict::Doubtful,
            "BitBake's tasks will share the network: nested user namespaces do not work",
        )
        .hint("builds work, but a task that fetches behind BitBake's back is not noticed"),
    }
}

fn packages(spawner: &Spawner) -> Finding {
    let has = |tool: &str| {
        let mut command = spawner.command(tool);
        command.arg("--version").stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        spawner.spawn(command, Vec::new()).and_then(|mut child| child.wait()).is_ok_and(|status| status.success())
    };
    match ["apt-get", "dpkg-deb", "tar"].into_iter().find(|tool| !has(tool)) {
        None => Finding::new("packages", Verdict::Good, "apt can resolve and verify packages for rootfs recipes"),
        Some(tool) => Finding::new(
            "packages",
            Verdict::Doubtful,
            format!("there is no {tool}: rootfs recipes must begin with an image"),
        )
        .hint("bring one:  smidr image import FILE --name NAME"),
    }
}

fn certificates(facts: &HostFacts) -> Finding {
    match &facts.ca_bundle {
        Some(path) => Finding::new("certificates", Verdict::Good, path.display().to_string()),
        None => Finding::new("certificates", Verdict::Doubtful, "no bundle of CA certificates: https will fail")
            .hint("as administrator:  apt-get install ca-certificates"),
    }
}

fn space(paths: &Paths) -> Finding {
    let path = paths.home();
    let Ok(stat) = rustix::fs::statvfs(path) else {
        return Finding::new("space", Verdict::Doubtful, format!("{} does not say how much is free", path.display()));
    };
    let free = stat.f_bavail * stat.f_frsize;
    let text = format!("{} free in {}", bytes(free), path.display());
    if free < LITTLE_SPACE {
        return Finding::new("space", Verdict::Doubtful, text)
            .hint("a full Yocto build takes 50 GB and more:  export SMIDR_HOME=DIR");
    }
    Finding::new("space", Verdict::Good, text)
}

fn memory(facts: &HostFacts) -> Finding {
    let text = format!("{} for {} processors", bytes(facts.memory), facts.cpus);
    if facts.memory / u64::from(facts.cpus.max(1)) < 1_500_000_000 {
        return Finding::new("memory", Verdict::Doubtful, text)
            .hint("C++ compilers take 1.5 GB each: lower build.parallel_make");
    }
    Finding::new("memory", Verdict::Good, text)
}
