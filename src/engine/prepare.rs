//! The first stage: image, layers and workspace are made ready, and with them the sandbox of a build as a value.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    EngineError, Tools, conf, devices, downloads,
    edits::{self, Edits},
    guards,
    host::resolve_host,
    inputs, pseudo,
    session::{self, Session},
    workspace::{self, Claim, Workspace},
};
use crate::{
    bitbake,
    image::RootFs,
    layers::{self, Checkouts},
    lock::{HostPin, Pins},
    model::Paths,
    plan::{self, Isolation, MountOp, Payload, Placed, PlacedInput, Plan, SandboxSpec},
    system::lock::FileLock,
};

/// A plan whose image, layers and workspace are there.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) plan: Plan,
    what: Use,
    pub(super) host: BuildHost,
    pub(super) inputs: Vec<PlacedInput>,
    checkouts: Checkouts,
    pub(super) workspace: Workspace,
    // What the build sees of this machine, beside its image.
    shown: Vec<PathBuf>,
    // Keeps the caches from being taken over meanwhile.
    _caches: FileLock,
    hide_openat2: bool,
    git_identity: Vec<u8>,
}

/// Where the programs come from that BitBake needs.
#[derive(Debug)]
pub(super) enum BuildHost {
    /// From an image.
    Image { lock: HostPin, root: RootFs },
    /// From this machine, as it is.
    Machine { env: Vec<(String, String)> },
}

/// What runs in a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Use {
    /// BitBake, which changes no layer.
    Build,
    /// What the user has typed: layers and conf are writable.
    Edit,
    /// The same beside a running build, where they are not.
    Look,
}

impl BuildHost {
    /// What the project is pinned to, where that is an image.
    pub(super) fn lock(&self) -> Option<&HostPin> {
        match self {
            Self::Image { lock, .. } => Some(lock),
            Self::Machine { .. } => None,
        }
    }

    /// The environment that comes with it.
    fn env(&self) -> &[(String, String)] {
        match self {
            Self::Image { root, .. } => root.env(),
            Self::Machine { env } => env,
        }
    }
}

/// Makes image, layers and workspace ready. The workspace is taken, unless it was before.
///
/// # Errors
///
/// The first thing that is not there.
pub(crate) fn prepare(
    plan: Plan,
    lock: Option<&HostPin>,
    workspace: Option<Claim>,
    what: Use,
    tools: Tools<'_>,
) -> Result<Prepared, EngineError> {
    // First, so that nothing long is begun in vain.
    devices::check(&plan.devices)?;
    guards::check_submodules(&plan)?;
    if what == Use::Build {
        conf::check(&plan, &tools.paths)?;
    }
    let inputs = inputs::find(&plan, tools)?;
    let holder = format!("build {}", tools.on.build());
    // Before layers are looked at: what is moved away could be taken for a part of them.
    edits::finish_interrupted(tools)?;
    session::sweep(tools)?;
    let checkouts = super::layers(&plan, tools)?;
    checkouts.are_untouched()?;
    checkouts.lead_nowhere_else(&plan)?;
    workspace::make_places(&checkouts)?;
    let mut workspace = workspace::open(&plan, workspace, what, tools)?;
    let what = if workspace.user.is_some() { Use::Look } else { what };
    let shown = plan.folders.writable().into_iter().map(Path::to_path_buf);
    let shown: Vec<PathBuf> =
        shown.chain(checkouts.shown()).chain(inputs.iter().map(|input| input.dest.clone())).collect();
    let caches = downloads::claim(&plan, &shown, &holder, tools)?;
    let host = if plan.isolation == Isolation::None {
        let path = tools.facts.environment.iter().find(|(name, _)| name == "PATH");
        BuildHost::Machine { env: path.cloned().into_iter().collect() }
    } else {
        let (lock, root) = resolve_host(tools, &plan, lock, false)?;
        inputs::check_places(&plan, &checkouts.shown(), root.diffs())?;
        BuildHost::Image { lock, root }
    };
    workspace.write_conf(&plan, &checkouts, what, &tools.paths)?;
    workspace.write_skeleton(&plan, &tools.facts, &checkouts.shown(), &inputs)?;
    if tools.stop.is_requested() {
        return Err(EngineError::Stopped);
    }
    let packages = host.lock().map(|lock| &lock.packages);
    let hide_openat2 = !plan.openat2.unwrap_or_else(|| !pseudo::lacks_openat2(&checkouts, packages));
    let git_identity = layers::identity(tools.access(false, &plan.logins));
    Ok(Prepared { plan, what, host, inputs, checkouts, workspace, _caches: caches, shown, hide_openat2, git_identity })
}

impl Prepared {
    /// The plan that was made ready.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the project is pinned to from now on.
    pub(crate) fn pins(&self) -> Pins {
        Pins { hosts: self.host.lock().cloned().into_iter().collect(), repositories: self.checkouts.pins.clone() }
    }

    /// Layers, for people: names and what they are pinned to.
    pub(crate) fn layers(&self) -> &[(String, String)] {
        &self.checkouts.names
    }

    /// The folders of layers, as BBLAYERS has them.
    pub(super) fn layer_folders(&self) -> &[PathBuf] {
        &self.checkouts.layers
    }

    /// The build that runs in the workspace, where this is a look at it.
    pub(crate) fn user(&self) -> Option<&str> {
        self.workspace.user.as_deref()
    }

    /// Whether OpenEmbedded-Core's scripts are in PATH.
    pub(crate) fn has_scripts(&self) -> bool {
        self.checkouts.core().is_some_and(|core| core.join("scripts/devtool").is_file())
    }

    /// Layers that `run` and `shell` may change.
    pub(crate) fn editable(&self) -> Vec<&Path> {
        self.checkouts.own.iter().flat_map(|own| &own.layers).map(PathBuf::as_path).collect()
    }

    /// A folder with `bin/bitbake` in it, where BitBake is not the image's.
    pub(super) fn bitbake(&self) -> Option<&Path> {
        self.checkouts.bitbake.as_deref()
    }

    /// Where smidr's own files stand, as the build sees them.
    pub(super) fn own_folder(&self) -> PathBuf {
        match &self.host {
            BuildHost::Image { .. } => bitbake::OWN_FOLDER.into(),
            BuildHost::Machine { .. } => self.workspace.own_files(),
        }
    }

    /// Looks at what is there, before programs in a sandbox may change it.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn begin_edits(&self, paths: &Paths) -> Result<Edits, EngineError> {
        self.workspace.make_folders(&self.plan, &guards::decisive(&self.plan))?;
        let session = self.workspace.session.as_ref();
        Ok(edits::begin(&self.plan, &self.checkouts.own, &self.inputs, self.what, session, paths))
    }

    /// What users who type commands expect, as after `source oe-init-build-env`. What the config sets stays.
    fn add_init_environment(&self, env: &mut Vec<(String, String)>) {
        let (checkouts, top) = (&self.checkouts, &self.plan.folders.top);
        let templates = checkouts.layers.iter().rev().map(|layer| layer.join("conf/templates/default"));
        let template = templates.into_iter().find(|folder| folder.is_dir());
        let own = bitbake::init_environment(top, checkouts.bitbake.as_deref(), checkouts.core(), template.as_deref());
        for (name, value) in own {
            if env.iter().all(|(known, _)| *known != name) {
                env.push((name, value));
            }
        }
        if let Some((_, passed)) = env.iter_mut().find(|(name, _)| name == "BB_ENV_PASSTHROUGH_ADDITIONS") {
            *passed = format!("{passed} {}", bitbake::TYPED);
        }
        // git reads no ~/.gitconfig beside this one.
        if env.iter().any(|(name, _)| name == "GIT_CONFIG_GLOBAL") {
            let config = self.workspace.home(&self.plan).join(".gitconfig");
            env.push(("GIT_CONFIG_SYSTEM".into(), config.display().to_string()));
        }
    }

    /// The sandbox of this build with a program in it, and a fresh HOME.
    ///
    /// # Errors
    ///
    /// When something that decides over later runs would be writable, or the file system refuses.
    pub(crate) fn sandbox(
        &self,
        argv: Vec<String>,
        edits: &Edits,
        terminal: bool,
        extra_env: &[(&str, &str)],
    ) -> Result<SandboxSpec, EngineError> {
        let (edit, by_hand) = (edits.what() == Use::Edit, edits.what() != Use::Build);
        self.workspace.make_home(&self.plan, &self.inputs)?;
        self.workspace.write_git_config(&self.git_identity)?;
        let mut repositories = self.checkouts.own.clone();
        if !edit {
            // As late as can be: what comes into being afterwards is seen.
            repositories.iter_mut().for_each(|own| layers::hide(own, &self.shown));
            self.workspace.write_copies(&mut repositories)?;
        }
        let host = self.host.env();
        let host_path = host.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_str());
        let (bitbake, core) = (self.checkouts.bitbake.as_deref(), self.checkouts.core().filter(|_| by_hand));
        let mut path = bitbake::search_path(core, bitbake, host_path);
        if edits.what() == Use::Look {
            path = format!("{}:{path}", self.own_folder().join(bitbake::WAITING).display());
        }
        let mut env: Vec<(String, String)> = vec![("PATH".into(), path)];
        env.extend(host.iter().filter(|(name, _)| name != "PATH").cloned());
        env.extend(self.plan.env.iter().filter(|(name, _)| name != "HOME").cloned());
        env.push(("HOME".into(), self.workspace.home(&self.plan).display().to_string()));
        if by_hand && self.plan.as_is.is_none() {
            self.add_init_environment(&mut env);
        }
        // Idle, it would keep the next build from starting its own.
        env.extend((edits.what() == Use::Look).then(|| ("BB_SERVER_TIMEOUT".into(), "0".into())));
        env.extend(extra_env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let placed = Placed {
            diffs: match &self.host {
                BuildHost::Image { root, .. } => root.diffs().to_vec(),
                BuildHost::Machine { .. } => Vec::new(),
            },
            skeleton: self.workspace.skeleton.clone(),
            empty: self.workspace.own_files(),
            repositories,
            pinned: self.checkouts.pinned.clone(),
            twice: self.checkouts.placed.clone(),
            inputs: self.inputs.clone(),
            edit,
        };
        let (argv, cwd) = match (&self.plan.as_is, &self.checkouts.init) {
            (Some(as_is), Some(init)) => bitbake::in_environment(argv, init, &self.plan.folders.top, &as_is.passed),
            _ => (argv, self.plan.folders.top.clone()),
        };
        let payload = Payload { argv, env, cwd, terminal, linger: by_hand, cpus: self.plan.limits.cpus };
        let mut spec = self.plan.sandbox(&placed, payload);
        let home =
            self.workspace.session.as_ref().filter(|_| self.plan.isolation != Isolation::None).map(Session::home);
        spec.mounts.extend(home.iter().map(|home| MountOp::Bind {
            source: home.clone(),
            dest: self.plan.folders.home.clone(),
            writable: true,
        }));
        spec.hide_openat2 = self.hide_openat2;
        // A folder of the host may be named by a link; inside it stands where the name says.
        for op in &mut spec.mounts {
            if let MountOp::Bind { source, .. } = op
                && let Ok(real) = fs::canonicalize(&*source)
            {
                *source = real;
            }
        }
        let guarded = guards::find(&self.plan, &self.checkouts.own, &self.inputs, edits);
        plan::protect(&mut spec.mounts, &guarded);
        let own: Vec<PathBuf> = self
            .plan
            .folders
            .writable()
            .into_iter()
            .chain(home.as_deref())
            .map(|own| fs::canonicalize(own).unwrap_or_else(|_| own.into()))
            .collect();
        plan::check_mounts(&spec.mounts, &guarded, &own)?;
        Ok(spec)
    }
}
