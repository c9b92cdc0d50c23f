//! The audit log: `SMIDR_HOME/daemon/audit.jsonl`, one line of JSON for each call that changes something, and each that was refused.
//!
//! Appended, mode 0600, and renamed to `audit.jsonl.1` and so on when it is large; the last few stay. Lines are not forced to the disk one by one. A
//! full disk stops no call: lines that cannot be written are counted, the daemon's log says so once, and the next line that can be written is
//! preceded by one that says how many are missing.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::system::files::{FileError, make_private_dir};

/// The file, below the daemon's folder.
const FILE: &str = "audit.jsonl";

/// Of one file, in bytes.
const LARGEST: u64 = 8 << 20;

/// How many older files stay.
const KEPT: u32 = 5;

/// How many scopes of a request are written down: there are no more.
const SCOPES: usize = 4;

/// The longest text of a client that is written down, in characters.
const LONGEST: usize = 200;

/// How a caller was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// By a token.
    Token,
    /// By a client certificate.
    Certificate,
    /// As the daemon's own user, on the Unix socket.
    Owner,
    /// Not at all.
    Nothing,
}

/// What a call was about, as the client named it. Never a secret.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Object {
    /// The build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The token, the schedule, the webhook, the delivery or the blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// What a token allows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// What else was asked for, and what came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// One call.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call<'a> {
    /// When it was answered.
    pub at: Timestamp,
    /// The token's name, the certificate's subject, or the user; empty where that is not known.
    pub who: &'a str,
    /// How that is known.
    pub how: How,
    /// Where it came from; none: the Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<&'a str>,
    /// The call, such as `StartBuild`.
    pub what: &'a str,
    /// What it was about.
    #[serde(flatten)]
    pub object: Object,
    /// How it was answered: `ok`, or gRPC's name of the error, such as `permission_denied`.
    pub status: &'a str,
}

/// What stands where lines are missing.
#[derive(Serialize)]
struct Missing {
    at: Timestamp,
    missing: u64,
}

/// The log. One for a daemon.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    largest: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    size: u64,
    /// Whether the last line may be cut.
    is_torn: bool,
    /// Lines that could not be written since the last that could.
    missing: u64,
}

impl Audit {
    /// Opens the log in the daemon's folder, and makes it if there is none.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn open(folder: &Path) -> Result<Self, FileError> {
        Self::with(folder, LARGEST)
    }

    fn with(folder: &Path, largest: u64) -> Result<Self, FileError> {
        make_private_dir(folder)?;
        let path = folder.join(FILE);
        let opened = State::open(&path).map_err(FileError::new("open", &path))?;
        Ok(Self { path, largest, state: Mutex::new(opened) })
    }

    /// Writes a call down. Never fails: what cannot be written is counted, and said in the daemon's log.
    pub(crate) fn note(&self, call: &Call<'_>) {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = self.try_note(state, call).err();
        match failed {
            None if state.missing > 0 => {
                tracing::info!(missing = state.missing, "the audit log is written again");
                state.missing = 0;
            }
            None => {}
            Some(error) => {
                if state.missing == 0 {
                    tracing::error!(%error, file = %self.path.display(), "the audit log cannot be written; calls are answered without it");
                }
                state.missing += 1;
            }
        }
    }

    #[cfg(test)]
    /// How many calls could not be written down since the last that could; 0: all is well. For `daemon status` and metrics.
    pub(crate) fn missing(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).missing
    }

    fn try_note(&self, state: &mut State, call: &Call<'_>) -> io::Result<()> {
        let mut lines = Vec::new();
        if state.missing > 0 {
            line(&mut lines, &Missing { at: call.at, missing: state.missing })?;
        }
        line(&mut lines, &shortened(call))?;
        if state.size > 0 && state.size + lines.len() as u64 > self.largest {
            rotate(&self.path)?;
            *state = State { missing: state.missing, ..State::open(&self.path)? };
        }
        state.append(&lines)
    }
}

impl State {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self { file, size, is_torn: last != *b"\n", missing: 0 })
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        // A line that a full disk or a kill has cut stays alone.
        let mut text = if self.is_torn { vec![b'\n'] } else { Vec::new() };
        text.extend(lines);
        let written = self.file.write_all(&text);
        match &written {
            Ok(()) => (self.is_torn, self.size) = (false, self.size + text.len() as u64),
            Err(_) => self.is_torn |= self.file.metadata().map_or(true, |now| now.len() != self.size),
        }
        written
    }
}

fn line(lines: &mut Vec<u8>, entry: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, entry)?;
    lines.push(b'\n');
    Ok(())
}

/// No client can fill the disk with one call.
fn shortened<'a>(call: &Call<'a>) -> Call<'a> {
    let object = &call.object;
    let owned = |text: &Option<String>| text.as_deref().map(|text| short(text).to_owned());
    let object = Object {
        build: owned(&object.build),
        name: owned(&object.name),
        customer: owned(&object.customer),
        scopes: object.scopes.iter().take(SCOPES).cloned().collect(),
        detail: owned(&object.detail),
    };
    Call { who: short(call.who), what: short(call.what), object, ..call.clone() }
}

fn short(text: &str) -> &str {
    text.char_indices().nth(LONGEST).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// Makes room for a new file; the oldest goes.
fn rotate(path: &Path) -> io::Result<()> {
    let older = |number: u32| path.with_file_name(format!("{FILE}.{number}"));
    for number in (1..KEPT).rev() {
        match fs::rename(older(number), older(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, older(1))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn call(who: &str) -> Call<'_> {
        let at = "2026-01-02T03:04:05Z".parse().expect("a time");
        Call {
            at,
            who,
            how: How::Token,
            address: Some("192.0.2.1"),
            what: "CancelBuild",
            object: Object { build: Some("acme-1a2b3c4d".into()), ..Object::default() },
            status: "permission_denied",
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap_or_default().lines().map(String::from).collect()
    }

    #[test]
    fn a_call_is_one_line_whatever_it_says() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().join("daemon");
        let path = at.join(FILE);
        Audit::open(&at).expect("a log").note(&call("ci"));
        // A kill in the middle of a line.
        fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"{\"at\":")).expect("cut");
        let long = format!("a\nb\u{1b}[31m\"{}", "x".repeat(5000));
        Audit::open(&at).expect("a log").note(&call(&long));
        let lines = lines(&path);
        assert_eq!(
            lines[0],
            r#"{"at":"2026-01-02T03:04:05Z","who":"ci","how":"token","address":"192.0.2.1","what":"CancelBuild","build":"acme-1a2b3c4d","status":"permission_denied"}"#
        );
        assert_eq!((lines.len(), lines[1].as_str()), (3, "{\"at\":"));
        let read: serde_json::Value = serde_json::from_str(&lines[2]).expect("JSON");
        let who = read["who"].as_str().expect("a text");
        assert!(who.starts_with("a\nb\u{1b}[31m\"xx") && who.chars().count() == LONGEST, "{who}");
        assert_eq!(fs::metadata(&path).expect("the log").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_last_files_stay() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let size = serde_json::to_vec(&call("n00")).expect("JSON").len() as u64 + 1;
        let audit = Audit::with(folder.path(), 2 * size).expect("a log");
        for number in 0..15 {
            audit.note(&call(&format!("n{number:02}")));
        }
        let numbers = |name: &str| -> Vec<String> {
            let of = |line: String| line.split("\"n").nth(1).and_then(|rest| rest.get(..2)).map(String::from);
            lines(&folder.path().join(name)).into_iter().filter_map(of).collect()
        };
        assert_eq!(numbers(FILE), ["14"]);
        assert_eq!(numbers("audit.jsonl.1"), ["12", "13"]);
        assert_eq!(numbers("audit.jsonl.5"), ["04", "05"]);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 6);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let audit = Audit::open(folder.path()).expect("a log");
        let full = fs::OpenOptions::new().append(true).open("/dev/full").expect("a full disk");
        let file = std::mem::replace(&mut audit.state.lock().expect("the state").file, full);
        (0..3).for_each(|_| audit.note(&call("lost")));
        assert_eq!(audit.missing(), 3);
        audit.state.lock().expect("the state").file = file;
        audit.note(&call("kept"));
        assert_eq!(audit.missing(), 0);
        let lines = lines(&folder.path().join(FILE));
        assert_eq!(lines[0], r#"{"at":"2026-01-02T03:04:05Z","missing":3}"#);
        assert!(lines.len() == 2 && lines[1].contains("kept"), "{lines:?}");
    }
}
