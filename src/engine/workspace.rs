//! A build's workspace: kept between the builds of one project, used by one build at a time, or by shells.
//! Beside it stands its skeleton.

use std::{
    collections::BTreeSet,
    fs::{self, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::{Tools, conf::ConfChanged, owner::Owner, prepare::Use, session::Session};
use crate::{
    bitbake,
    events::Emitter,
    layers,
    model::{Event, FOLDER_MARK, Hint, Kind, Paths, UserError},
    plan::{Isolation, OwnRepository, PlacedInput, Plan},
    system::{
        files::{FileError, make_dir, make_private_dir, shell, with_suffix},
        lock::{self, Attempt, FileLock, Mode, WaitError},
        rooted::{Rooted, RootedError},
    },
};

/// Holders of a workspace: `run` and `shell`, and what one beside a build has left running.
const SHELL: &str = "a shell";
const BITBAKE: &str = "BitBake in a shell";

/// How long what was killed may take to end.
const MOMENT: Duration = Duration::from_secs(5);

/// devtool's workspace, below TOPDIR.
pub(super) const DEVTOOL: &str = "workspace";

/// The folders of a workspace, which belong to this process.
#[derive(Debug)]
pub(crate) struct Claim {
    folders: Vec<PathBuf>,
    _locks: Vec<FileLock>,
}

/// A workspace that belongs to this process.
#[derive(Debug)]
pub(super) struct Workspace {
    /// The topmost folder of the sandbox's root. It stands outside of everything that a build may write to: one build could
    /// otherwise prepare what the next one believes.
    pub skeleton: PathBuf,
    /// That of the last build, for a shell: no build changes it while the shell has its share of the workspace.
    pub of_build: Option<PathBuf>,
    /// What belongs to this `run` or `shell` alone.
    pub session: Option<Session>,
    /// The build that it belongs to, where this `run` or `shell` may only look at it.
    pub user: Option<String>,
    _claim: Option<Claim>,
}

/// Why there is no workspace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkspaceError {
    /// The same project, a second time.
    #[error("the workspace of `{project}` is in use by {holder}")]
    Busy {
        /// The project.
        project: String,
        /// Who uses it.
        holder: String,
    },
    /// The last build left something strange.
    #[error("cannot use what an earlier build left in {folder}")]
    Left {
        /// Where.
        folder: PathBuf,
        /// What.
        source: RootedError,
    },
    /// A folder of the user's.
    #[error("{} is not empty, and no build has used it before: builds change what is in it, and --clean removes it", .0.display())]
    InUse(PathBuf),
    /// A build would drop what the user has changed.
    #[error(transparent)]
    Conf(#[from] ConfChanged),
    /// A stop while it was waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for WorkspaceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Busy { .. } | Self::InUse(_) => Kind::Request,
            Self::Left { source, .. } => source.kind(),
            Self::Conf(error) => error.kind(),
            Self::Wait(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Busy { holder, .. } => {
                let wait = Hint::command("have a build wait for it", "smidr build --wait");
                let is_shell = holder.starts_with(SHELL) || holder == BITBAKE;
                vec![
                    match is_shell {
                        true => Hint::new("leave that shell"),
                        false => Hint::command("see what it does", "smidr status"),
                    },
                    wait,
                ]
            }
            Self::Left { folder, .. } => {
                vec![
                    Hint::command("start with an empty workspace", "smidr build --clean"),
                    Hint::command("or remove what is there", format!("rm -r {}", shell(folder))),
                ]
            }
            Self::Conf(error) => error.hints(),
            Self::Wait(error) => error.hints(),
            Self::InUse(_) => vec![Hint::new("name a new or empty folder under `directories:`")],
            Self::File(error) => error.hints(),
        }
    }
}

/// The folders of a plan that one process at a time may use, in one order for all: two that wait do not wait for each other.
fn claimed(plan: &Plan) -> Vec<PathBuf> {
    // Two projects may share a TOPDIR or TMPDIR that stands elsewhere, but not at the same time: the second BitBake would talk to
    // the server of the first.
    let folders = &plan.folders;
    let own = [&folders.workspace, &folders.top, &folders.tmp, &folders.deploy].into_iter();
    let elsewhere = own.filter(|path| !path.starts_with(&folders.workspace)).chain([&folders.workspace]);
    let all: BTreeSet<&PathBuf> = elsewhere.collect();
    all.into_iter().cloned().collect()
}

/// Takes the workspace of a plan for a build of this process. One that is busy is waited for where the plan says so.
///
/// # Errors
///
/// When another smidr uses it, or the file system refuses.
pub(crate) fn claim(plan: &Plan, tools: Tools<'_>) -> Result<Claim, WorkspaceError> {
    let claim = take(plan, Mode::Exclusive, &format!("build {}", tools.on.build()), tools)?;
    wait_for_bitbake(plan, tools)?;
    Ok(claim)
}

fn take(plan: &Plan, mode: Mode, holder: &str, tools: Tools<'_>) -> Result<Claim, WorkspaceError> {
    let paths = &tools.paths;
    let folders = claimed(plan);
    let mut locks = Vec::new();
    for folder in &folders {
        let path = lock_path(folder, paths);
        // Everything in a folder that no build has marked is the user's. Before there were marks, a lock told of earlier builds.
        let is_known = folder.starts_with(paths.home()) || path.exists() || folder.join(FOLDER_MARK).is_file();
        // That of another tool's project is its build folder.
        let is_known = is_known || plan.as_is.is_some() && *folder == plan.folders.top;
        if !is_known && fs::read_dir(folder).is_ok_and(|mut found| found.next().is_some()) {
            return Err(WorkspaceError::InUse(folder.clone()));
        }
        let resource = || format!("the workspace of `{}`", plan.name);
        let waiting = |other: &str| tools.on.emit(Event::Waiting { resource: resource(), holder: other.into() });
        locks.push(match plan.wait {
            true => lock::lock(&path, mode, holder, tools.stop, waiting)?,
            false => match lock::lock_if_free(&path, mode, holder)? {
                Attempt::Held(lock) => lock,
                Attempt::Busy(holder) => return Err(WorkspaceError::Busy { project: plan.name.clone(), holder }),
            },
        });
    }
    Owner::note(plan, paths)?;
    Ok(Claim { folders, _locks: locks })
}

/// A shell beside an earlier build may still run BitBake. A second one would not start a server, but connect to that one, in another sandbox.
fn wait_for_bitbake(plan: &Plan, tools: Tools<'_>) -> Result<(), WorkspaceError> {
    let path = plan.folders.top.join("bitbake.lock");
    let is_held =
        |root: &Rooted, path: &Path| Ok(matches!(root.open_file(path)?.try_lock(), Err(TryLockError::WouldBlock)));
    let begun = Instant::now();
    let mut is_told = false;
    while within(plan, &path, is_held).unwrap_or(false) {
        let busy = || WorkspaceError::Busy { project: plan.name.clone(), holder: BITBAKE.into() };
        if tools.stop.is_requested() {
            return Err(WaitError::Stopped(BITBAKE.into()).into());
        }
        // The processes of a smidr that was killed end within a moment.
        if begun.elapsed() > MOMENT && !plan.wait {
            return Err(busy());
        }
        if begun.elapsed() > MOMENT && !is_told {
            is_told = true;
            tools
                .on
                .emit(Event::Waiting { resource: format!("the workspace of `{}`", plan.name), holder: BITBAKE.into() });
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Refuses a plan whose workspace is busy, without taking it: a build that cannot begin is best refused before there is a record of it.
///
/// # Errors
///
/// When it is busy.
pub(crate) fn check_free(plan: &Plan, paths: &Paths) -> Result<(), WorkspaceError> {
    for folder in claimed(plan) {
        if let Some(holder) = lock::holder(&lock_path(&folder, paths))? {
            return Err(WorkspaceError::Busy { project: plan.name.clone(), holder });
        }
    }
    Ok(())
}

/// Makes the folders of a plan's workspace, which is taken unless it is `known` already. Shells share one; where a build has it, a shell may only look at it.
///
/// # Errors
///
/// As for [`claim`].
pub(super) fn open(
    plan: &Plan,
    known: Option<Claim>,
    what: Use,
    tools: Tools<'_>,
) -> Result<Workspace, WorkspaceError> {
    let known = known.filter(|known| known.folders == claimed(plan));
    let (claim, user) = match (known, what) {
        (Some(claim), _) => (Some(claim), None),
        (None, Use::Build) => (Some(claim(plan, tools)?), None),
        (None, _) => match take(plan, Mode::Shared, SHELL, tools) {
            Err(WorkspaceError::Busy { holder, .. }) if has_conf(plan) => (None, Some(holder)),
            taken => (Some(taken?), None),
        },
    };
    if user.is_none() {
        make(plan, tools)?;
    }
    if what == Use::Build {
        let skeleton = skeleton(plan, &tools.paths);
        return Ok(Workspace { skeleton, of_build: None, session: None, user, _claim: claim });
    }
    // A mount point: the session's own is mounted there.
    within(plan, &plan.folders.home, make_plain_folder)?;
    let session = Session::begin(tools)?;
    let of_build = user.is_none().then(|| skeleton(plan, &tools.paths));
    Ok(Workspace { skeleton: session.skeleton(), of_build, session: Some(session), user, _claim: claim })
}

/// Whether a build has come so far that a shell can look at it.
fn has_conf(plan: &Plan) -> bool {
    let conf = plan.folders.top.join("conf/bblayers.conf");
    within(plan, &conf, |root, path| root.open_file(path)).is_ok()
}

fn make(plan: &Plan, tools: Tools<'_>) -> Result<(), WorkspaceError> {
    let (paths, folders) = (&tools.paths, &plan.folders);
    // Folders that the user has named may be for others to read.
    let mode = |folder: &Path| if folder.starts_with(paths.home()) { 0o700 } else { 0o777 };
    folders.writable().into_iter().try_for_each(|folder| make_dir(folder, mode(folder)))?;
    if plan.clean {
        clean(plan, tools.on)?;
    }
    for folder in
        [&folders.top, &folders.tmp, &folders.deploy].into_iter().filter(|path| !path.starts_with(paths.home()))
    {
        within(plan, &folder.join(FOLDER_MARK), make_plain_file)?;
    }
    for folder in [&folders.top, &folders.tmp] {
        within(plan, folder, |root, path| root.make_dirs(path, mode(folder)).map(drop))?;
    }
    Ok(skeleton(plan, paths).parent().map_or(Ok(()), make_private_dir)?)
}

/// Makes empty folders in the user's repositories where a build sees a checkout: nothing can be mounted where nothing is.
///
/// # Errors
///
/// When the file system refuses, or a link stands there.
pub(super) fn make_places(checkouts: &layers::Checkouts) -> Result<(), WorkspaceError> {
    for (_, at) in &checkouts.placed {
        for own in checkouts.own.iter().filter(|own| at.starts_with(&own.root)) {
            let failed = |source| WorkspaceError::Left { folder: at.clone(), source };
            let root = Rooted::open(&own.root).map_err(failed)?;
            root.make_dirs(at.strip_prefix(&own.root).unwrap_or(at), 0o755).map_err(failed)?;
        }
    }
    Ok(())
}

/// Where the skeleton of a plan's workspace stands.
pub(super) fn skeleton(plan: &Plan, paths: &Paths) -> PathBuf {
    paths.tmp().join("roots").join(plan.folders.workspace.file_name().unwrap_or_default())
}

/// The lock of a build's folder, held by each process that uses it.
pub(super) fn lock_path(folder: &Path, paths: &Paths) -> PathBuf {
    let hash = hex::encode(Sha256::digest(folder.as_os_str().as_encoded_bytes()));
    lock::path_in(&paths.locks(), &format!("workspace-{hash:.16}"))
}

/// Works on a path that a build may write to, without following a link that leads out of there.
pub(super) fn within<T>(
    plan: &Plan,
    path: &Path,
    work: impl FnOnce(&Rooted, &Path) -> Result<T, RootedError>,
) -> Result<T, WorkspaceError> {
    let (folder, rest) = plan.folders.inside(path).unwrap_or((path, Path::new("")));
    let failed = |source| WorkspaceError::Left { folder: folder.into(), source };
    work(&Rooted::open(folder).map_err(failed)?, rest).map_err(failed)
}

impl Workspace {
    /// A skeleton beside those of workspaces, for something that is not a build.
    pub(super) fn without_lock(skeleton: PathBuf) -> Self {
        Self { skeleton, of_build: None, session: None, user: None, _claim: None }
    }

    /// Where smidr's own files stand on this machine.
    pub(super) fn own_files(&self) -> PathBuf {
        self.skeleton.join(bitbake::OWN_FOLDER.trim_start_matches('/'))
    }

    /// Makes HOME anew: what an earlier start has left there would be obeyed by the next one, such as `.bashrc`. With it, the mount points
    /// of inputs that stand in it.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn make_home(&self, plan: &Plan, inputs: &[PlacedInput]) -> Result<(), WorkspaceError> {
        let own = self.session.as_ref().map(Session::home);
        if own.is_none() {
            // Emptied rather than replaced: where a shell looks at this workspace, its own HOME is mounted there.
            within(plan, &plan.folders.home, |root, path| {
                make_plain_folder(root, path)?;
                clear(root, path, &[])
            })?;
        }
        for input in inputs {
            match (&own, input.dest.strip_prefix(&plan.folders.home)) {
                (Some(own), Ok(inside)) => {
                    let root = Rooted::open(own).and_then(|root| make_plain_file(&root, inside));
                    root.map_err(|source| WorkspaceError::Left { folder: own.clone(), source })?;
                }
                _ if plan.folders.inside(&input.dest).is_some() => within(plan, &input.dest, make_plain_file)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// HOME in the sandbox.
    pub(super) fn home(&self, plan: &Plan) -> PathBuf {
        match &self.session {
            Some(session) if plan.isolation == Isolation::None => session.home(),
            _ => plan.folders.home.clone(),
        }
    }

    /// Writes git's configuration into the HOME of a session, for users who commit in there, and for devtool, which commits for them.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn write_git_config(&self, text: &[u8]) -> Result<(), FileError> {
        let Some(path) = self.session.as_ref().map(|session| session.home().join(".gitconfig")) else { return Ok(()) };
        fs::write(&path, text).map_err(FileError::new("write", &path))
    }

    /// Makes folders of the build, in the place of whatever else stands there.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn make_folders(&self, plan: &Plan, folders: &[PathBuf]) -> Result<(), WorkspaceError> {
        folders.iter().try_for_each(|folder| within(plan, folder, make_plain_folder))
    }

    /// Writes what builds see in the place of some files of the user's repositories.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn write_copies(&self, own: &mut [OwnRepository]) -> Result<(), FileError> {
        for (number, own) in own.iter_mut().enumerate() {
            for (copied, text) in layers::copies(own) {
                let file = with_suffix(&self.skeleton, &format!("git-{number}-{}", own.copies.len()));
                fs::write(&file, &text).map_err(FileError::new("write", &file))?;
                own.copies.push((copied, file));
            }
        }
        Ok(())
    }
}

/// Removes all that builds write but the caches. devtool's workspace holds the user's own work, and stays.
fn clean(plan: &Plan, on: &Emitter) -> Result<(), WorkspaceError> {
    let folders = &plan.folders;
    let devtool = folders.top.join(DEVTOOL);
    let mut keep = vec![folders.downloads.as_path(), &folders.sstate, &folders.hash_equivalence];
    if within(plan, &devtool.join("sources"), |root, path| Ok(is_plain_folder(root, path)))? {
        on.warn(format!("--clean leaves {}, which holds sources that devtool works on", devtool.display()));
        keep.push(&devtool);
    }
    for folder in folders.writable().into_iter().filter(|folder| !keep.contains(folder)) {
        let keep: Vec<&Path> = keep.iter().filter_map(|path| path.strip_prefix(folder).ok()).collect();
        within(plan, folder, |root, _| clear(root, Path::new(""), &keep))?;
    }
    Ok(())
}

/// Removes what is in a folder, but for what is to be kept.
fn clear(root: &Rooted, folder: &Path, keep: &[&Path]) -> Result<(), RootedError> {
    for name in root.names(folder)? {
        let path = folder.join(name);
        if keep.contains(&path.as_path()) {
            continue;
        }
        if keep.iter().any(|kept| kept.starts_with(&path)) && is_plain_folder(root, &path) {
            clear(root, &path, keep)?;
        } else {
            root.remove(&path)?;
        }
    }
    Ok(())
}

pub(super) fn is_plain_folder(root: &Rooted, path: &Path) -> bool {
    root.open_plain(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
}

/// Makes a folder in folders that are no links. Whatever else stands in the way goes.
fn make_plain_folder(root: &Rooted, path: &Path) -> Result<(), RootedError> {
    let mut folders: Vec<&Path> = path.ancestors().filter(|folder| !folder.as_os_str().is_empty()).collect();
    folders.reverse();
    for folder in folders {
        if !is_plain_folder(root, folder) {
            root.remove(folder)?;
            root.make_dirs(folder, 0o700)?;
        }
    }
    Ok(())
}

/// Makes an empty file in such a folder.
fn make_plain_file(root: &Rooted, path: &Path) -> Result<(), RootedError> {
    make_plain_folder(root, path.parent().unwrap_or(Path::new("")))?;
    if root.make_file(path).is_err() {
        root.remove(path)?;
        root.make_file(path)?;
    }
    Ok(())
}
