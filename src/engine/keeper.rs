//! The hash-equivalence server of a trust domain: BitBake's own, from the project's BitBake, in a sandbox without a network. One *keeper*
//! process for each domain and form of its database, which runs as long as any build uses it.
//!
//! BitBake up to 2.8 starts one for each workspace otherwise, with a database there: what one workspace has found equal to earlier
//! output, another builds again. A keeper that cannot be had changes nothing but that.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{EngineError, Prepared, Tools, prepare::BuildHost, workspace::Workspace};
use crate::{
    bitbake,
    model::Digest,
    plan::{Isolation, MountOp, Payload, Placed, SandboxSpec},
    sandbox,
    system::{
        files::{FileError, make_private_dir},
        lock::{self, Attempt, FileLock, Mode},
        sockets::by_short_path,
    },
};

/// The hidden command that runs a keeper. It reads a [`Keeper`] from its standard input.
pub(crate) const KEEPER: &str = "__keeper";

/// What a keeper says once its server answers.
const READY: &str = "ready";

/// How long a server may take to answer.
const START: Duration = Duration::from_secs(20);

/// How often a keeper looks whether it is still used, and how long its server outlives the last build at most.
const LOOK: Duration = Duration::from_secs(1);

/// How long the server may take to end by itself.
const END: Duration = Duration::from_secs(2);

/// Everything that a keeper works with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Keeper {
    spec: SandboxSpec,
    image: Digest,
    socket: PathBuf,
    // Held alone by the keeper, shared by builds.
    lock: PathBuf,
    users: PathBuf,
}

/// A build's hold on the server of its domain.
pub(crate) struct Held {
    /// What BB_HASHSERVE is.
    pub address: String,
    _user: FileLock,
}

/// Holds the server of the build's domain, starting it if there is none. None where the project decides about it, or BitBake has none.
///
/// # Errors
///
/// When it cannot be started.
pub(crate) fn hold(prepared: &Prepared, tools: Tools<'_>) -> Result<Option<Held>, EngineError> {
    let plan = prepared.plan();
    // With an upstream, with a server of its own, or without one.
    let decides = plan.conf.iter().any(|(name, _)| name == NAME) || plan.conf_tail.contains(NAME);
    let (false, Isolation::Full, Some(bitbake)) = (decides, plan.isolation, prepared.bitbake()) else {
        return Ok(None);
    };
    let BuildHost::Image { lock: host, .. } = &prepared.host else { return Ok(None) };
    let program = bitbake.join("bin/bitbake-hashserv");
    if !program.is_file() {
        return Ok(None);
    }
    let (folder, form) = (&plan.folders.hash_equivalence, form(bitbake));
    let key = hex::encode(Sha256::digest(folder.as_os_str().as_encoded_bytes()));
    let name = format!("hashserv-{key:.16}-{form}");
    let socket = folder.join(format!("smidr-{form}.sock"));
    let users = lock::path_in(&tools.paths.locks(), &format!("{name}-users"));
    let holder = format!("build {}", tools.on.build());
    // From here on a keeper that runs does not end.
    let user = lock::lock(&users, Mode::Shared, &holder, tools.stop, |_| {})?;
    let held = || Held { address: format!("unix://{}", socket.display()), _user: user };
    let lock = lock::path_in(&tools.paths.locks(), &name);
    if lock::holder(&lock)?.is_some() && answers(&socket) {
        return Ok(Some(held()));
    }
    // BitBake's own name for the form that it shares between workspaces itself (2.10 and later).
    let database = folder.join(if form == "v3" { "hashserv.db".into() } else { format!("hashserv-{form}.db") });
    let words = ["python3", "-B", &text(&program), "-b", &format!("unix://{}", text(&socket)), "-d", &text(&database)];
    let spec = prepared.server(&name, words.map(String::from).into(), bitbake, tools)?;
    let keeper = Keeper { spec, image: host.image.clone(), socket: socket.clone(), lock, users };
    start(&keeper, &name, tools)?;
    Ok(Some(held()))
}

/// The variable that names the server.
const NAME: &str = "BB_HASHSERVE";

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The form of the database (`hashserv/sqlite.py`, up to 2.6 `hashserv/__init__.py`): servers of another one do not see what is in it.
fn form(bitbake: &Path) -> &'static str {
    let has = |file: &str| {
        fs::read_to_string(bitbake.join("lib/hashserv").join(file)).is_ok_and(|text| text.contains("unihashes_v3"))
    };
    if has("sqlite.py") { "v3" } else { "v2" }
}

fn answers(socket: &Path) -> bool {
    by_short_path(socket, |path| UnixStream::connect(path)).is_ok()
}

/// Starts a keeper that outlives this process, and waits until its server answers.
fn start(keeper: &Keeper, name: &str, tools: Tools<'_>) -> Result<(), EngineError> {
    let log = tools.paths.tmp().join(format!("{name}.log"));
    let stderr = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&log);
    let stderr = stderr.map_err(FileError::new("make", &log))?;
    let failed = || FileError::new("start the hash-equivalence server of", &keeper.socket);
    let mut command = tools.spawner.own_command();
    command.arg(KEEPER).env("SMIDR_HOME", tools.paths.home()).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = tools.spawner.spawn(command, Vec::new()).map_err(failed())?;
    let document = serde_json::to_vec(keeper).map_err(|error| failed()(error.into()))?;
    let sent = child.stdin.take().map(|mut input| input.write_all(&document));
    sent.transpose().map_err(failed())?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        output.take(64).read_to_string(&mut said).map_err(failed())?;
    }
    if said.trim() == READY {
        return Ok(());
    }
    child.wait().map_err(failed())?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    Err(failed()(io::Error::other(said.trim_end().to_owned())).into())
}

/// Runs a server until no build uses it any more. Another keeper that is there already is waited for, not replaced. `ready` is called when
/// the server answers.
///
/// # Errors
///
/// When the sandbox cannot be had, or the server does not answer.
pub(crate) fn run(
    keeper: &Keeper,
    tools: Tools<'_>,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<(), EngineError> {
    let failed = |error: &'static str| FileError::new("use", &keeper.socket)(io::Error::other(error));
    let until = Instant::now() + START;
    let own = match lock::try_lock(&keeper.lock, Mode::Exclusive, "the hash-equivalence server")? {
        Attempt::Held(own) => Some(own),
        Attempt::Busy(_) => None,
    };
    let mut running = None;
    let mut root = None;
    if own.is_some() {
        let image = tools.store.find(&keeper.image.to_string())?;
        let image = image.ok_or_else(|| EngineError::NoImage(keeper.image.to_string()))?;
        root = Some(tools.store.checkout(&image, tools.on)?);
        let output = || rustix::io::dup(rustix::stdio::stderr()).map_err(io::Error::from);
        let stdio =
            output().and_then(sandbox::Stdio::to).map_err(FileError::new("use", Path::new("standard error")))?;
        let sandbox = sandbox::launch(&keeper.spec, stdio, &tools.spawner)?;
        running = Some((sandbox.control(), thread::spawn(move || sandbox.wait())));
    }
    while !answers(&keeper.socket) {
        if running.as_ref().is_some_and(|(_, ended)| ended.is_finished()) {
            return Err(failed("it has ended").into());
        }
        if Instant::now() > until {
            return Err(failed("it does not answer").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    ready().map_err(FileError::new("use", Path::new("standard output")))?;
    let Some((control, ended)) = running else { return Ok(()) };
    // Held until the server is gone: the next build waits for that.
    let mut last = None;
    while last.is_none() && !ended.is_finished() && !tools.stop.is_requested() {
        thread::sleep(LOOK);
        if let Attempt::Held(users) = lock::try_lock(&keeper.users, Mode::Exclusive, "the hash-equivalence server")? {
            last = Some(users);
        }
    }
    control.signal(nix::sys::signal::Signal::SIGTERM);
    let until = Instant::now() + END;
    while !ended.is_finished() && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    control.kill();
    let _ = ended.join();
    drop((own, root, last));
    Ok(())
}

impl Prepared {
    /// A sandbox for a server of BitBake's, which sees BitBake and the folder of its database, and no network.
    fn server(
        &self,
        name: &str,
        argv: Vec<String>,
        bitbake: &Path,
        tools: Tools<'_>,
    ) -> Result<SandboxSpec, EngineError> {
        let plan = self.plan();
        let skeleton = tools.paths.tmp().join("roots").join(name);
        let mut workspace = Workspace::without_lock(skeleton.clone());
        let shown = [bitbake.to_path_buf(), plan.folders.hash_equivalence.clone()];
        make_private_dir(&plan.folders.hash_equivalence)?;
        {
            let place = lock::path_in(&tools.paths.locks(), &format!("{name}-skeleton"));
            let _alone = lock::lock_briefly(&place, "smidr")?;
            workspace.write_skeleton(plan, &tools.facts, &shown, &[])?;
        }
        let BuildHost::Image { root, .. } = &self.host else { return Err(EngineError::Lost) };
        let placed = Placed {
            diffs: root.diffs().to_vec(),
            skeleton,
            empty: workspace.own_files(),
            repositories: Vec::new(),
            pinned: vec![bitbake.to_path_buf()],
            twice: Vec::new(),
            inputs: Vec::new(),
            edit: false,
        };
        let path = root.env().iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_str());
        let env = [
            ("PATH", bitbake::search_path(None, Some(bitbake), path)),
            ("HOME", "/tmp".into()),
            ("LC_ALL", "C.UTF-8".into()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).into();
        let payload = Payload { argv, env, cwd: "/tmp".into(), ..Payload::default() };
        let mut spec = plan.sandbox(&placed, payload);
        spec.own_network = true;
        let own = &plan.folders.hash_equivalence;
        spec.mounts.retain(|op| match op {
            MountOp::Bind { dest, writable, .. } => !writable || dest == own,
            MountOp::Device { .. } => false,
            _ => true,
        });
        Ok(spec)
    }
}
