//! Starting workers. Knows nothing of BitBake.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use crate::{
    model::{BuildId, Hint, Kind, Paths, UserError},
    system::{files::FileError, process::Spawner},
};

/// The hidden command that runs a worker.
pub(crate) const WORKER: &str = "__worker";

/// What a worker says on its standard output once its first record is written.
pub(crate) const READY: &str = "ready";

/// What a worker prints, in the build's folder.
pub(crate) const LOG: &str = "worker.log";

/// How long a worker lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// As long as the process that started it.
    WithParent,
    /// Until its build is over.
    OfItsOwn,
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It ended before it had written a record.
    #[error("the worker of {id} ended before its build began ({how}){}{said}", if said.is_empty() { "" } else { ":\n" })]
    Ended {
        /// The build.
        id: BuildId,
        /// Its exit status.
        how: ExitStatus,
        /// What it said.
        said: String,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for StartError {
    fn kind(&self) -> Kind {
        match self {
            Self::Ended { how, .. } => how.code().and_then(Kind::of_exit_code).unwrap_or(Kind::Host),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Ended { .. } => Vec::new(),
            Self::File(error) => error.hints(),
        }
    }
}

/// Starts the worker of a build whose submission stands in its folder, and waits for its first record.
///
/// # Errors
///
/// When it cannot be started, or ends at once.
pub(crate) fn start(id: &BuildId, paths: &Paths, spawner: &Spawner, life: Life) -> Result<Child, StartError> {
    let folder = paths.build(id);
    let log = folder.join(LOG);
    let stderr = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let stderr = stderr.map_err(FileError::new("make", &log))?;
    let own = spawner.own_command().get_program().to_owned();
    let mut command = match life {
        Life::WithParent => spawner.command(own),
        Life::OfItsOwn => Command::new(own),
    };
    if life == Life::OfItsOwn {
        command.args([WORKER, "--outlives", id.as_str()]);
    } else {
        command.args([WORKER, id.as_str()]);
    }
    command.env("SMIDR_HOME", paths.home()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let failed = || FileError::new("start a worker of", Path::new("smidr"));
    let mut child = spawner.spawn(command, Vec::new()).map_err(failed())?;
    let said = child.stdout.take().map(BufReader::new).and_then(|out| out.lines().next());
    match said {
        Some(Ok(line)) if line == READY => Ok(child),
        _ => {
            let how = child.wait().map_err(failed())?;
            let said = fs::read_to_string(&log).unwrap_or_default();
            Err(StartError::Ended { id: id.clone(), how, said: said.trim_end().to_owned() })
        }
    }
}

/// Says that the first record is written, and lets go of what the starter reads.
///
/// # Errors
///
/// When standard output cannot be used.
pub(crate) fn ready(mut out: impl io::Write) -> io::Result<()> {
    writeln!(out, "{READY}")?;
    out.flush()?;
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(null)?)
}
