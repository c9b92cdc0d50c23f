//! What happens to a user's processes when the last session ends. Read from the files of systemd-logind; written from its manual pages, and
//! not tried on a machine where it runs.

use std::{fs, path::Path};

use nix::unistd::{Uid, User};

/// Where systemd-logind notes the users whose systemd goes on without a session (loginctl(1), enable-linger).
const LINGER: &str = "/var/lib/systemd/linger";

/// Where its configuration stands, the last word first (logind.conf(5)).
const CONFIGURATION: [&str; 2] = ["/etc/systemd/logind.conf.d", "/etc/systemd/logind.conf"];

/// What the end of the last session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logout {
    /// Whether the user's systemd, and what runs in its scopes, goes on.
    pub lingers: bool,
    /// Whether logind kills what the session has left (KillUserProcesses=).
    pub kills: bool,
}

/// Looks.
pub fn logout() -> Logout {
    let name = User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name);
    let lingers = name.is_some_and(|name| Path::new(LINGER).join(name).exists());
    Logout { lingers, kills: CONFIGURATION.iter().any(|place| kills(Path::new(place))) }
}

fn kills(place: &Path) -> bool {
    let folder = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = folder.chain([place.to_path_buf()]);
    files.filter_map(|file| fs::read_to_string(file).ok()).any(|text| says_kill(&text))
}

fn says_kill(text: &str) -> bool {
    let mut values = text.lines().rev().filter_map(|line| line.trim().strip_prefix("KillUserProcesses="));
    values.next().is_some_and(|value| ["yes", "true", "on", "1"].contains(&value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_and_comments_do_not() {
        for (text, kills) in [
            ("[Login]\n#KillUserProcesses=yes\n", false),
            ("[Login]\nKillUserProcesses=yes\n", true),
            ("[Login]\nKillUserProcesses=yes\nKillUserProcesses=no\n", false),
            ("", false),
        ] {
            assert_eq!(says_kill(text), kills, "{text}");
        }
    }
}
