//! Finds what a build is given of its caller and of this machine, before anything else is begun: what is missing is said then, with
//! what to type, and not by a sandbox that cannot be set up.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};

use super::{Tools, reach::Reach};
use crate::{
    model::{Hint, Kind, Paths, Secrets, UserError},
    plan::{self, Input, PlacedInput, Plan, PlannedSource, What, in_the_way},
    system::{files::shell, rooted::Rooted},
};

/// Of a file of credentials, in bytes. They hold a line per host.
const CREDENTIALS_LIMIT: u64 = 1 << 20;

/// Why a build cannot be given what its config asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputsError {
    /// Not there, or closed to the caller.
    #[error("cannot read the {what} {path}")]
    Missing {
        /// What it is.
        what: What,
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There, but something else.
    #[error("the {what} {path} is not a {wanted}")]
    Kind {
        /// What it should be.
        what: What,
        /// Where it is.
        path: PathBuf,
        /// In the file system's words.
        wanted: &'static str,
    },
    /// No agent at all.
    #[error("host.ssh_agent: no ssh-agent, SSH_AUTH_SOCK is not set")]
    NoAgent,
    /// A socket without a listener.
    #[error("host.ssh_agent: no ssh-agent answers at {path} (SSH_AUTH_SOCK)")]
    DeadAgent {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A link leads to what must not be shown.
    #[error(transparent)]
    Refused(#[from] plan::InputError),
    /// A place in the sandbox that cannot be had.
    #[error("host.binds: nothing can be shown at {dest}: {why}")]
    Place {
        /// In the sandbox.
        dest: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl UserError for InputsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::Request,
            Self::Missing { source, .. } => Kind::of_io(source),
            Self::Kind { .. } | Self::Place { .. } => Kind::Request,
            Self::NoAgent | Self::DeadAgent { .. } => Kind::Host,
            Self::Refused(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::NoAgent | Self::DeadAgent { .. } => {
                vec![Hint::command("start one", "eval \"$(ssh-agent)\" && ssh-add")]
            }
            Self::Missing { path, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                vec![Hint::command("see who may read it", format!("ls -l {}", shell(path)))]
            }
            Self::Missing { what: What::SshAgent, .. } => {
                vec![Hint::command(
                    "SSH_AUTH_SOCK names an agent that is gone; start one",
                    "eval \"$(ssh-agent)\" && ssh-add",
                )]
            }
            Self::Missing { what: What::Bind, path, .. } => {
                vec![Hint::command("make it", format!("mkdir -p {}", shell(path)))]
            }
            Self::Missing { .. } => {
                vec![Hint::new("write its path instead of `true`, or remove the key under `host:`")]
            }
            Self::Place { .. } => vec![Hint::config("show it in a place of its own", "dest: /srv/NAME")],
            Self::Refused(error) => error.hints(),
            Self::Kind { .. } => Vec::new(),
        }
    }
}

/// Every secret that this build is given: those of the plan, and those in its files of credentials.
pub(crate) fn secrets(plan: &Plan) -> Secrets {
    let mut secrets = plan.secrets();
    for input in &plan.inputs {
        // One that cannot be read is an error of `find`.
        let Some(text) = input.source.as_deref().and_then(read_credentials) else { continue };
        match input.what {
            What::Netrc => secrets.add_netrc(&text),
            What::GitCredentials => secrets.add_addresses(&text),
            What::SshAgent | What::KnownHosts | What::Bind => {}
        }
    }
    secrets
}

fn read_credentials(path: &Path) -> Option<String> {
    // A pipe would be waited for.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(CREDENTIALS_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Finds every input, and follows links to where they really are.
///
/// # Errors
///
/// The first that is missing, is something else, or leads where it must not.
pub(crate) fn find(plan: &Plan, tools: Tools<'_>) -> Result<Vec<PlacedInput>, InputsError> {
    let (placed, wrong) = look(plan, &tools.facts.home, &tools.paths, &|warning| tools.on.warn(warning));
    match wrong.into_iter().next() {
        None => Ok(placed),
        Some((_, error)) => Err(error),
    }
}

/// The inputs that can be had, and all that is wrong with the others, by their number in the plan. What has no number concerns a folder of the build
/// or a layer. `home` is the caller's.
pub(super) fn look(
    plan: &Plan,
    home: &Path,
    paths: &Paths,
    warn: &dyn Fn(String),
) -> (Vec<PlacedInput>, Vec<(Option<usize>, InputsError)>) {
    let reach = Reach::of(plan, home, paths);
    let folders = plan.folders.writable().into_iter().map(|folder| reach.check_folder(folder));
    let bundle = plan.ca_bundle.iter().map(|bundle| reach.check_way(bundle));
    let mut wrong: Vec<_> = folders.chain(bundle).filter_map(Result::err).map(|error| (None, error.into())).collect();
    let mut placed = Vec::new();
    for (at, input) in plan.inputs.iter().enumerate() {
        match look_at(input, &reach, warn) {
            Ok(found) => placed.extend(found.map(|found| (at, found))),
            Err(error) => wrong.push((Some(at), error)),
        }
    }
    let all: Vec<PlacedInput> = placed.iter().map(|(_, found)| found.clone()).collect();
    let misplaced = |(at, found): &(usize, PlacedInput)| Some((Some(*at), check_kind(found, &all).err()?));
    wrong.extend(placed.iter().filter_map(misplaced));
    for (_, source) in plan.sources() {
        if let PlannedSource::Path(path) = source {
            wrong.extend(reach.check_layer(&path.folder).err().map(|error| (None, error.into())));
        }
    }
    (all, wrong)
}

/// One that is there; none where it may be missing.
fn look_at(input: &Input, reach: &Reach, warn: &dyn Fn(String)) -> Result<Option<PlacedInput>, InputsError> {
    let Some(named) = &input.source else { return Err(InputsError::NoAgent) };
    let found = fs::canonicalize(named).and_then(|path| Ok((fs::metadata(&path)?, path)));
    let (data, source) = match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound && input.what == What::KnownHosts => return Ok(None),
        found => found.map_err(missing(input, named))?,
    };
    match input.what {
        What::SshAgent => answers(named, &source, &data)?,
        What::KnownHosts if !data.is_file() => return Ok(None),
        What::KnownHosts | What::Bind => {}
        What::Netrc | What::GitCredentials => credentials(input, &source, &data, warn)?,
    }
    match input.what {
        What::Netrc | What::GitCredentials | What::Bind => reach.check_source(named)?,
        // Each of these names grants no more than that file.
        What::SshAgent | What::KnownHosts => reach.check_way(named)?,
    }
    if input.writable {
        reach.check_written(&source)?;
    }
    let Input { dest, writable, git_writable, .. } = input.clone();
    Ok(Some(PlacedInput { source, dest, writable, git_writable, folder: data.is_dir() }))
}

fn missing(input: &Input, path: &Path) -> impl FnOnce(io::Error) -> InputsError {
    let (what, path) = (input.what, path.to_path_buf());
    move |source| InputsError::Missing { what, path, source }
}

fn answers(named: &Path, source: &Path, data: &fs::Metadata) -> Result<(), InputsError> {
    if !data.file_type().is_socket() {
        return Err(InputsError::Kind { what: What::SshAgent, path: named.into(), wanted: "socket" });
    }
    let dead = |source| InputsError::DeadAgent { path: named.into(), source };
    UnixStream::connect(source).map(drop).map_err(dead)
}

fn credentials(input: &Input, source: &Path, data: &fs::Metadata, warn: &dyn Fn(String)) -> Result<(), InputsError> {
    if !data.is_file() {
        return Err(InputsError::Kind { what: input.what, path: source.into(), wanted: "regular file" });
    }
    File::open(source).map_err(missing(input, source))?;
    // What is not read cannot be taken out of logs.
    if data.len() > CREDENTIALS_LIMIT {
        return Err(InputsError::Kind { what: input.what, path: source.into(), wanted: "file of at most 1 MiB" });
    }
    if data.mode() & 0o077 != 0 {
        warn(format!(
            "the {} {} can be read by others; keep it to yourself:  chmod 600 {}",
            input.what,
            source.display(),
            shell(source)
        ));
    }
    Ok(())
}

/// What depends on whether a source is a folder or a file.
fn check_kind(input: &PlacedInput, all: &[PlacedInput]) -> Result<(), InputsError> {
    let refused = |why: String| Err(InputsError::Place { dest: input.dest.clone(), why });
    if input.folder && input.dest.starts_with("/etc") {
        return refused("only files can be shown below /etc, whose folders belong to the image".into());
    }
    // Its mount point would have to be made in what the outer one shows, which is this machine's.
    let outer = all.iter().filter(|other| input.dest.starts_with(&other.dest) && input.dest != other.dest);
    for outer in outer {
        let inside = input.dest.strip_prefix(&outer.dest).unwrap_or(Path::new(""));
        let there = fs::symlink_metadata(outer.source.join(inside));
        if !there.is_ok_and(|there| there.is_dir() == input.folder && !there.is_symlink()) {
            return refused(format!("{} has nothing of that name to show it on", outer.source.display()));
        }
    }
    Ok(())
}

/// Checks places that only layers and image know: their repositories, and links in the image.
///
/// # Errors
///
/// The first place that cannot be had.
pub(crate) fn check_places(plan: &Plan, shown: &[PathBuf], diffs: &[PathBuf]) -> Result<(), InputsError> {
    for input in plan.inputs.iter().filter(|input| input.what == What::Bind) {
        let refused = |why: String| Err(InputsError::Place { dest: input.dest.clone(), why });
        let source = input.source.as_deref().unwrap_or(Path::new("/"));
        if let Some(layer) = shown.iter().find(|layer| in_the_way(layer, source, &input.dest)) {
            return refused(format!("it would hide or change the layers in {}", layer.display()));
        }
        let parent = input.dest.parent().unwrap_or(Path::new("/"));
        if diffs.iter().any(|diff| is_detour(diff, parent)) {
            return refused(format!("{} is, or lies behind, a link of the image or a file", parent.display()));
        }
    }
    Ok(())
}

/// Whether a folder of an image is none: a mount point below it, made on top of the image, would hide what a link leads to.
fn is_detour(diff: &Path, folder: &Path) -> bool {
    let Ok(root) = Rooted::open(diff) else { return false };
    let inside = folder.strip_prefix("/").unwrap_or(folder);
    matches!(root.open_plain(inside, OFlags::PATH | OFlags::DIRECTORY), Err(Errno::LOOP | Errno::NOTDIR))
}
