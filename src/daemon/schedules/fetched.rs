//! A config of a git repository, as a submission. Another process fetches and reads it (`smidr __config-of`): the daemon touches no repository.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write as _},
    path::Path,
    process::{ExitStatus, Stdio},
    thread,
};

use serde::{Deserialize, Serialize};

use super::GitConfig;
use crate::{
    model::{Ask, CommitId, Digest, Hint, Kind, Logins, Paths, Submission, UserError, is_ambiguous},
    system::{files::FileError, process::Spawner},
};

/// The hidden command.
const COMMAND: &str = "__config-of";
/// How much of what it prints is read: a submission with its patches and the files of a recipe.
const MOST_OUTPUT: u64 = 256 << 20;
const MOST_WORDS: u64 = 8 << 10;

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
            Self::Document(_) => Kind::Host,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Refused { hints, .. } => hints.clone(),
            Self::Document(_) => Vec::new(),
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
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = || FileError::new("run", Path::new("smidr"));
        let mut child = spawner.spawn(command, Vec::new()).map_err(failed())?;
        let (input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let given = serde_json::to_vec(given)?;
        let (out, said) = thread::scope(|scope| {
            let said = scope.spawn(|| read(err, MOST_WORDS));
            // What it does not read, it does not need.
            let _ = input.map(|mut input| input.write_all(&given));
            (read(out, MOST_OUTPUT), said.join().unwrap_or_default())
        });
        let how = child.wait().map_err(failed())?;
        match how.success() {
            true => Ok(serde_json::from_slice(&out)?),
            false => {
                let (said, hints) = error_in(&String::from_utf8_lossy(&said));
                Err(FetchedError::Refused { how, said, hints })
            }
        }
    }
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

/// All that comes, of which only so much is kept: a full pipe would stop the command.
fn read(from: Option<impl Read>, most: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut from) = from {
        let _ = from.by_ref().take(most).read_to_end(&mut kept);
        let _ = io::copy(&mut from, &mut io::sink());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

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
