//! A config of a git repository, as a submission. Another process fetches and reads it (`smidr __config-of`): the daemon touches no repository.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::{Child, ExitStatus, Stdio},
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::GitConfig;
use crate::{
    model::{Ask, CommitId, Digest, Hint, Kind, Logins, Paths, Submission, UserError, is_ambiguous},
    system::{files::FileError, process::Spawner},
};

/// The hidden command.
const COMMAND: &str = "__config-of";
/// How much of what it prints is read: a submission with its patches and the files of a recipe.
const MOST_OUTPUT: usize = 256 << 20;
const MOST_WORDS: usize = 8 << 10;
/// How long it may take: a server that sends a byte now and then would keep a process forever.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// So many run at once, for all customers.
const AT_ONCE: usize = 4;

static RUNNING: Places = Places { taken: Mutex::new(0), changed: Condvar::new() };

struct Places {
    taken: Mutex<usize>,
    changed: Condvar,
}

/// One of the places, until it is dropped.
struct Place;

impl Places {
    fn wait(&self) -> Place {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.changed.wait_while(taken, |taken| *taken >= AT_ONCE);
        *taken.unwrap_or_else(PoisonError::into_inner) += 1;
        Place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *RUNNING.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RUNNING.changed.notify_one();
    }
}

/// These are reached anonymously. Any other only where a login for it is granted.
const ANONYMOUS: [&str; 3] = ["https://", "http://", "git://"];

/// Whether a config may be fetched from an address with these logins.
pub(crate) fn may_fetch(url: &str, logins: &Logins) -> bool {
    !is_ambiguous(url) && (ANONYMOUS.iter().any(|scheme| url.starts_with(scheme)) || logins.reach(url))
}

/// What the command may use, on its standard input.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Given {
    /// Variables that the config may name. Nothing of the daemon's environment is.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// What the config may ask for while it is pinned.
    #[serde(default)]
    pub granted: Vec<Ask>,
    /// Which servers may be shown the user's logins, and are reached otherwise than by https, http or git.
    #[serde(default)]
    pub logins: Logins,
}

/// What the command prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// What the reference means now.
    pub commit: CommitId,
    /// The config with all that belongs to it. Its id and its origin are placeholders.
    pub submission: Submission,
    /// What the config asks for.
    pub asks: Vec<Ask>,
    /// What it would be pinned to now, where that was wanted.
    pub pins: Option<Pinned>,
}

/// What a config would be pinned to now.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pinned {
    /// Of the config, what is built of it, and all pins.
    pub digest: Digest,
    /// The text of `smidr.lock` with them.
    pub lock: String,
}

/// Why there is no such submission.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchedError {
    /// The command has said why.
    #[error("{said}")]
    Refused {
        /// Its exit status.
        how: ExitStatus,
        /// Its words.
        said: String,
        /// Its hints.
        hints: Vec<Hint>,
    },
    /// It was ended.
    #[error("reading the config took longer than {} minutes", PATIENCE.as_secs() / 60)]
    Late,
    /// It could not be run.
    #[error(transparent)]
    File(#[from] FileError),
    /// It has printed something else.
    #[error("{COMMAND} has printed no submission")]
    Document(#[from] serde_json::Error),
}

impl UserError for FetchedError {
    fn kind(&self) -> Kind {
        match self {
            Self::Refused { how, .. } => how.code().and_then(Kind::of_exit_code).unwrap_or(Kind::Host),
            Self::File(error) => error.kind(),
            Self::Late => Kind::Outside,
            Self::Document(_) => Kind::Host,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Refused { hints, .. } => hints.clone(),
            Self::Late | Self::Document(_) => Vec::new(),
            Self::File(error) => error.hints(),
        }
    }

    /// A config's problems, as the command has drawn them.
    fn drawn(&self, _: bool) -> Option<String> {
        match self {
            Self::Refused { said, .. } if said.contains('\n') => Some(format!("error: {said}")),
            _ => None,
        }
    }
}

impl GitConfig {
    /// Fetches and reads the config. `pins`: what it would be pinned to is found out too, which brings its layers and its build host.
    ///
    /// # Errors
    ///
    /// What the command says.
    pub(crate) fn fetch(
        &self,
        given: &Given,
        pins: bool,
        spawner: &Spawner,
        paths: &Paths,
    ) -> Result<Fetched, FetchedError> {
        let mut command = spawner.command(spawner.own_command().get_program());
        command.arg(COMMAND).args(pins.then_some("--pins"));
        command.args(self.targets.iter().map(|target| format!("--target={target}")));
        command.args(self.variant.iter().map(|variant| format!("--variant={variant}")));
        command.args(["--", &self.url, &self.reference, &self.path]);
        command.env("SMIDR_HOME", paths.home()).current_dir("/");
        let failed = || FileError::new("run", Path::new("smidr"));
        let given = serde_json::to_vec(given)?;
        let given = in_memory(&given).map_err(failed())?;
        command.stdin(given).stdout(Stdio::piped()).stderr(Stdio::piped());
        let _place = RUNNING.wait();
        let mut child = spawner.spawn(command, Vec::new()).map_err(failed())?;
        let read = read(&mut child, PATIENCE);
        if !matches!(read, Ok(Some(_))) {
            let _ = child.kill();
        }
        let how = child.wait().map_err(failed())?;
        let Some([out, said]) = read.map_err(failed())? else { return Err(FetchedError::Late) };
        match how.success() {
            true => Ok(serde_json::from_slice(&out)?),
            false => {
                let (said, hints) = error_in(&String::from_utf8_lossy(&said));
                Err(FetchedError::Refused { how, said, hints })
            }
        }
    }
}

/// A file without a name, to be read from its beginning: unlike a pipe it is written whether or not it is read.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("smidr", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// All that a command prints and says until it has closed both, of which only so much is kept: a full pipe would stop it. None: its time is over.
fn read(child: &mut Child, patience: Duration) -> io::Result<Option<[Vec<u8>; 2]>> {
    let until = Instant::now() + patience;
    let pipe = |fd: Option<OwnedFd>| fd.map(File::from);
    let mut open = [pipe(child.stdout.take().map(Into::into)), pipe(child.stderr.take().map(Into::into))];
    let (mut kept, most) = ([Vec::new(), Vec::new()], [MOST_OUTPUT, MOST_WORDS]);
    let mut chunk = vec![0; 64 << 10];
    while open.iter().any(Option::is_some) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut fds: Vec<PollFd<'_>> =
            open.iter().flatten().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        for ((file, kept), most) in open.iter_mut().zip(&mut kept).zip(most) {
            let Some(from) = file else { continue };
            if !ready.remove(0) {
                continue;
            }
            match from.read(&mut chunk)? {
                0 => *file = None,
                count => kept.extend(chunk.iter().take(count.min(most - kept.len()))),
            }
        }
    }
    Ok(Some(kept))
}

/// What a command says after it has said what it does, and its hints.
fn error_in(said: &str) -> (String, Vec<Hint>) {
    let begin = if said.starts_with("error: ") { Some(0) } else { said.find("\nerror: ").map(|at| at + 1) };
    let error = begin.and_then(|at| said.get(at..)).and_then(|error| error.strip_prefix("error: "));
    let (hints, lines): (Vec<&str>, Vec<&str>) =
        error.unwrap_or(said).trim().lines().partition(|line| line.starts_with("hint: "));
    let hint = |line: &str| Hint::new(line.trim_start_matches("hint: "));
    (lines.join("\n").replace("\ncaused by: ", ": "), hints.into_iter().map(hint).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_until_its_time_is_over() {
        let read = |script: &str, patience| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script]).stdin(in_memory(b"given").expect("a file"));
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
            let read = read(&mut child, patience).expect("read");
            child.kill().and_then(|()| child.wait()).expect("ended");
            read.map(|read| read.map(|bytes| String::from_utf8(bytes).expect("text")))
        };
        let long = Duration::from_secs(60);
        assert_eq!(read("cat; echo no >&2", long), Some(["given".into(), "no\n".into()]));
        // More than a pipe holds.
        let [out, said] = read("head -c 300000 /dev/zero >&2; echo x", long).expect("its end");
        assert_eq!((out.as_str(), said.len()), ("x\n", MOST_WORDS));
        assert_eq!(read("exec sleep 60", Duration::from_millis(100)), None);
    }

    #[test]
    fn an_error_is_what_counts_of_what_is_said() {
        for (said, expected, hints) in [
            ("fetch      p\nerror: there is no x\nhint: y\nhint: z\n", "there is no x", &["y", "z"][..]),
            ("error: there is no x\ncaused by: y\n", "there is no x: y", &[]),
            ("error: wrong\n --> smidr.yaml:1:1\n", "wrong\n --> smidr.yaml:1:1", &[]),
            ("an error: is in here\n", "an error: is in here", &[]),
            ("", "", &[]),
        ] {
            assert_eq!(error_in(said), (expected.to_owned(), hints.iter().map(|text| Hint::new(*text)).collect()));
        }
    }
}
