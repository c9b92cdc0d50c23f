//! Credential helpers: `docker-credential-NAME get`, the server on standard input, JSON on standard output. A helper has a
//! timeout, dies with smidr, and its output is never shown.

use std::{
    io::{self, Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    credentials::{Login, Secret},
    settings::Settings,
};
use crate::system::process::Spawner;

const ANSWER_BYTES: u64 = 1 << 20;

/// Why a helper failed. Continues "the credential helper X".
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    /// The name could be a path, or an option.
    #[error("is not used: its name holds other characters than a-z, 0-9 and -")]
    Name,
    /// It cannot be started.
    #[error("cannot be started: {0}")]
    Start(io::Error),
    /// Its timeout is over.
    #[error("gave no answer within {} s, and was ended", .0.as_secs())]
    Slow(Duration),
    /// It reports an error.
    #[error("failed with {0}")]
    Failed(ExitStatus),
    /// Its output is not a credential.
    #[error("gave an answer that cannot be used")]
    Answer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Runs the helper `name` for the credentials of `server`. None where it has none.
///
/// # Errors
///
/// When it cannot be run, or does not answer.
pub(super) fn ask(settings: &Settings, name: &str, server: &str) -> Result<Option<Login>, HelperError> {
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !good {
        return Err(HelperError::Name);
    }
    let command = settings.spawner.command(format!("docker-credential-{name}"));
    talk(&settings.spawner, command, server, settings.patience.helper)
}

fn talk(spawner: &Spawner, mut command: Command, server: &str, limit: Duration) -> Result<Option<Login>, HelperError> {
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = spawner.spawn(command, Vec::new()).map_err(HelperError::Start)?;
    let end = Instant::now() + limit;
    let answer = converse(&mut child, server, limit);
    let status = ended(&mut child, end).map_err(HelperError::Start)?;
    let (Some(answer), Some(status)) = (answer, status) else { return Err(HelperError::Slow(limit)) };
    if !status.success() {
        return if is_not_found(&answer) { Ok(None) } else { Err(HelperError::Failed(status)) };
    }
    let Answer { username, secret } = serde_json::from_slice(&answer).map_err(|_| HelperError::Answer)?;
    Ok(match (username.as_str(), secret.as_str()) {
        (_, "") => None,
        ("<token>", _) => Some(Login::Identity(Secret::new(secret))),
        _ => Some(Login::Password { user: username, password: Secret::new(secret) }),
    })
}

// None after the timeout. The threads end with the helper's ends of the pipes.
fn converse(child: &mut Child, server: &str, limit: Duration) -> Option<Vec<u8>> {
    let (done, answer) = mpsc::channel();
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let server = server.to_owned();
    thread::spawn(move || {
        // A helper that does not read its input may still answer.
        let _ = input.map(|mut input| input.write_all(server.as_bytes()));
        let mut bytes = Vec::new();
        let _ = output.map(|output| output.take(ANSWER_BYTES).read_to_end(&mut bytes));
        let _ = done.send(bytes);
    });
    answer.recv_timeout(limit).ok()
}

// Kills it if it does not exit: it may only have closed its output.
fn ended(child: &mut Child, end: Instant) -> io::Result<Option<ExitStatus>> {
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

// The text of docker's helper library, which all helpers use; nothing else tells.
fn is_not_found(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("credentials not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, limit: Duration) -> Result<Option<Login>, HelperError> {
        let spawner = Spawner::start().expect("a thread");
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        talk(&spawner, command, "registry.example.com", limit)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_helper_is_told_the_server_and_answers_in_json() {
        let echo = r#"read -r server; echo "{\"ServerURL\":\"x\",\"Username\":\"$1\",\"Secret\":\"$server\"}""#;
        let found = run(echo, LONG).expect("an answer");
        let password = Secret::new("registry.example.com");
        assert_eq!(found, Some(Login::Password { user: "get".into(), password }));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(run(token, LONG).expect("an answer"), Some(Login::Identity(Secret::new("t"))));
    }

    #[test]
    fn a_helper_may_know_nothing_fail_or_talk_nonsense() {
        let none = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(run(none, LONG).expect("an answer"), None);
        assert!(matches!(run("echo secret-words; exit 3", LONG), Err(HelperError::Failed(_))));
        assert!(matches!(run("echo secret-words", LONG), Err(HelperError::Answer)));
        let error = run("echo secret-words; exit 3", LONG).expect_err("a failure");
        assert!(!format!("{error} {error:?}").contains("secret-words"));
    }

    #[test]
    fn a_helper_that_never_ends_is_ended() {
        for script in ["exec sleep 1000", "exec sleep 1000 >&-"] {
            assert!(matches!(run(script, Duration::from_millis(100)), Err(HelperError::Slow(_))), "{script}");
        }
    }
}
