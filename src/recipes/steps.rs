//! Steps of making an image: programs that run in the half-made root, with root emulation. Each says what it gets of this machine.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
};

use crate::{
    model::{Hint, Kind, SystemFacts, UserError},
    plan::{Ids, MountOp, Payload, Resources, Root, SandboxSpec, usual_tasks},
    sandbox::{self, SandboxError},
    system::{
        files::FileError,
        lines::{LINE_LIMIT, lines},
        process::Spawner,
        rooted::{Rooted, RootedError},
        stop::StopToken,
    },
};

/// Where the steps find what belongs to the host, inside. Gone when the image is done.
pub(super) const HOST_FOLDER: &str = "/.smidr";

/// How many lines of a step are kept, to be shown when it fails.
const TAIL: usize = 60;

/// Why a step did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// The program said no.
    #[error("{step} ended with exit status {exit}:\n{tail}")]
    Failed {
        /// What it was.
        step: String,
        /// Its exit status.
        exit: i32,
        /// Its last words.
        tail: String,
        /// Whether it had a network.
        network: bool,
    },
    /// No sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A mount point could not be made in the image.
    #[error("cannot prepare the image's root")]
    Root(#[from] RootedError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// A stop was requested.
    #[error("stopped")]
    Stopped,
}

impl UserError for StepError {
    fn kind(&self) -> Kind {
        match self {
            Self::Failed { .. } => Kind::Build,
            Self::Sandbox(error) => error.kind(),
            Self::Root(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Stopped => Kind::Cancelled,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Failed { network: false, .. } => {
                vec![Hint::config("it had no network; where commands of a rootfs recipe need one", "network: true")]
            }
            Self::Sandbox(error) => error.hints(),
            Self::File(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// What a step gets besides the root.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Whether it has this machine's network.
    pub network: bool,
    /// Files of the host with credentials in them, and where they are seen. Others see an empty file there.
    pub secrets: Vec<(PathBuf, PathBuf)>,
}

/// A root in the making.
pub(super) struct Steps<'a> {
    root: Root,
    ids: Ids,
    tasks: u32,
    binds: Vec<(PathBuf, PathBuf)>,
    // Where secrets are seen by who gets them.
    secrets: Vec<PathBuf>,
    // Files and folders that exist for the mounts only.
    placeholders: Vec<PathBuf>,
    tree: PathBuf,
    spawner: &'a Spawner,
    stop: &'a StopToken,
}

impl<'a> Steps<'a> {
    /// Prepares a root for steps. `tree` takes the changes; `binds` holds files of the host that all of them see, `secrets` the places
    /// of those that only some see.
    ///
    /// # Errors
    ///
    /// When a mount point cannot be made.
    pub(super) fn new(
        root: Root,
        tree: &Path,
        facts: &SystemFacts,
        binds: Vec<(PathBuf, PathBuf)>,
        secrets: Vec<PathBuf>,
        spawner: &'a Spawner,
        stop: &'a StopToken,
    ) -> Result<Self, StepError> {
        let ids = Ids { outer_uid: facts.uid, outer_gid: facts.gid, uid: 0, gid: 0, range: None };
        let tasks = usual_tasks(facts.cpus);
        let mut steps =
            Self { root, ids, tasks, binds, secrets, placeholders: Vec::new(), tree: tree.into(), spawner, stop };
        // A root that stands on an image has the mount points in a folder of their own, below the image.
        if let Root::Folder(_) = steps.root {
            let points = steps.mount_points();
            steps.placeholders = make_points(tree, &points)?;
        }
        Ok(steps)
    }

    /// Every mount point, and whether it is a file.
    pub(super) fn mount_points(&self) -> Vec<(PathBuf, bool)> {
        let fixed = ["/proc", "/sys", "/dev", "/tmp", "/run"].map(|path| (PathBuf::from(path), false));
        let binds = self.binds.iter().map(|(source, dest)| (dest.clone(), source.is_file()));
        fixed.into_iter().chain(binds).chain(self.secrets.iter().map(|dest| (dest.clone(), true))).collect()
    }

    /// Runs a program, handing each line that it prints to `line`.
    ///
    /// # Errors
    ///
    /// When it ends with anything but 0.
    pub(super) fn run(
        &self,
        step: &str,
        argv: &[&str],
        access: &Access,
        mut line: impl FnMut(&str),
    ) -> Result<(), StepError> {
        if self.stop.is_requested() {
            return Err(StepError::Stopped);
        }
        let failed = |what| move |source: io::Error| StepError::Sandbox(SandboxError::Prepare { what, source });
        let (output, out) = io::pipe().map_err(failed("a pipe"))?;
        let stdio = sandbox::Stdio::to(out.into()).map_err(failed("its streams"))?;
        let running = sandbox::launch(&self.spec(argv, access), stdio, self.spawner)?;
        let control = running.control();
        let _listening = self.stop.listen(move |_| control.kill());
        let mut tail = VecDeque::new();
        for text in lines(output, LINE_LIMIT) {
            line(&text);
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(text);
        }
        let exit = running.wait()?;
        match exit.status {
            0 => Ok(()),
            _ if self.stop.is_requested() => Err(StepError::Stopped),
            exit => {
                let tail = tail.into_iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
                Err(StepError::Failed { step: step.into(), exit, tail, network: access.network })
            }
        }
    }

    fn spec(&self, argv: &[&str], access: &Access) -> SandboxSpec {
        let mut mounts = vec![MountOp::Proc, MountOp::Dev];
        mounts.extend(["/tmp", "/run"].map(|dest| MountOp::Tmpfs { dest: dest.into(), mode: 0o1777 }));
        mounts.extend(self.binds.iter().chain(&access.secrets).map(|(source, dest)| MountOp::Bind {
            source: source.clone(),
            dest: dest.clone(),
            writable: false,
        }));
        let payload = Payload {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: access.env.clone(),
            cwd: "/".into(),
            ..Payload::default()
        };
        SandboxSpec {
            root_emulation: true,
            own_network: !access.network,
            resources: Resources { precaution: Some(self.tasks), ..Resources::default() },
            ..SandboxSpec::new(self.ids, self.root.clone(), mounts, payload)
        }
    }

    /// Removes what existed for the mounts only.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn finish(self) -> Result<(), StepError> {
        // The steps may have put links anywhere: nothing is looked up but inside the root.
        let root = Rooted::open(&self.tree)?;
        for path in self.placeholders.iter().rev() {
            root.remove_if_empty(path)?;
        }
        Ok(root.remove(Path::new(HOST_FOLDER))?)
    }
}

/// Makes mount points, and returns those that were not there.
pub(super) fn make_points(tree: &Path, points: &[(PathBuf, bool)]) -> Result<Vec<PathBuf>, RootedError> {
    let root = Rooted::open(tree)?;
    let mut made = Vec::new();
    for (path, file) in points {
        match root.resolve(path) {
            Ok(_) => continue,
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        made.push(path.clone());
        if *file {
            if let Some(folder) = path.parent() {
                root.make_dirs(folder, 0o755)?;
            }
            root.make_file(path)?;
        } else {
            root.make_dirs(path, 0o755)?;
        }
    }
    Ok(made)
}
