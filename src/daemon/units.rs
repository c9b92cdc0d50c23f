//! What systemd is told of the daemon: a service and its socket, of a user or of the machine. In go the program and its folder, out come two texts.

use std::path::Path;

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A user's, with that user's SMIDR_HOME.
    User,
    /// The machine's, as the user `smidr`.
    System,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its file.
    pub name: &'static str,
    /// What stands in it.
    pub text: String,
}

/// Of the machine's daemon.
const SYSTEM_HOME: &str = "/var/lib/smidr";

const SERVICE: &str = include_str!("units/smidr.service");
const SOCKET: &str = include_str!("units/smidr.socket");

impl Scope {
    /// Where the units belong.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::User => "~/.config/systemd/user",
            Self::System => "/etc/systemd/system",
        }
    }
}

/// Service and socket. `home`: the SMIDR_HOME of a user where it is not the usual one. `address`: a TCP address that systemd listens on, beside the Unix socket.
pub(crate) fn units(scope: Scope, program: &Path, home: Option<&Path>, address: Option<&str>) -> [Unit; 2] {
    let home = match (scope, home) {
        (Scope::User, None) => "%h/.smidr".to_owned(),
        (Scope::User, Some(home)) => escaped(&home.display().to_string()),
        (Scope::System, _) => SYSTEM_HOME.to_owned(),
    };
    let environment = format!("Environment=\"SMIDR_HOME={}\"", home.replace('\\', "\\\\").replace('"', "\\\""));
    let (service, socket, target) = match scope {
        Scope::User => (environment, "DirectoryMode=0700", "default.target"),
        Scope::System => (
            format!("{environment}\nUser=smidr\nGroup=smidr\nStateDirectory=smidr\nStateDirectoryMode=0700"),
            "SocketUser=smidr\nSocketGroup=smidr\nDirectoryMode=0755",
            "multi-user.target",
        ),
    };
    let place = match scope {
        Scope::User => format!("{home}/daemon/daemon.sock"),
        Scope::System => "/run/smidr/daemon.sock".into(),
    };
    let address = address.map(|address| format!("ListenStream={address}\n")).unwrap_or_default();
    let make = if scope == Scope::System {
        "# The user:  useradd --system --home-dir /var/lib/smidr --shell /usr/sbin/nologin smidr\n"
    } else {
        "# For builds that go on without a session:  loginctl enable-linger\n"
    };
    [
        Unit {
            name: "smidr.service",
            text: SERVICE
                .replace("@HINT@\n", make)
                .replace("@PROGRAM@", &quoted(program))
                .replace("@OWNER@", &service)
                .replace("@TARGET@", target),
        },
        Unit {
            name: "smidr.socket",
            text: SOCKET.replace("@SOCKET@", &place).replace("@ADDRESS@\n", &address).replace("@OWNER@", socket),
        },
    ]
}

/// Without specifiers (systemd.unit(5)).
fn escaped(text: &str) -> String {
    text.replace('%', "%%")
}

/// A program (systemd.service(5), "Command lines").
fn quoted(program: &Path) -> String {
    let text = escaped(&program.display().to_string()).replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, process::Command};

    use super::*;

    const ALL: [(Scope, Option<&str>, Option<&str>); 3] = [
        (Scope::User, None, None),
        (Scope::User, Some("/srv/a b%c"), Some("127.0.0.1:50051")),
        (Scope::System, None, Some("50051")),
    ];

    fn texts(scope: Scope, home: Option<&str>, address: Option<&str>) -> String {
        let program = std::env::current_exe().expect("this program");
        units(scope, &program, home.map(Path::new), address).map(|unit| unit.text).join("\n")
    }

    #[test]
    fn a_build_outlives_the_daemon_and_may_make_namespaces() {
        for (scope, home, address) in ALL {
            let text = texts(scope, home, address);
            for line in ["KillMode=process", "Delegate=yes", "Type=notify", "OOMPolicy=continue", "TasksMax=infinity"] {
                assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}: {text}");
            }
            // Each of these breaks user namespaces, or the /proc of a sandbox.
            for word in
                ["RestrictNamespaces=", "ProtectKernelTunables=", "ProtectProc=", "NoNewPrivileges=", "PrivateUsers="]
            {
                assert!(!text.contains(word), "{word}: {text}");
            }
            assert!(!text.contains('@'), "{text}");
        }
        let user = texts(Scope::User, Some("/srv/a b%c"), None);
        assert!(user.contains("Environment=\"SMIDR_HOME=/srv/a b%%c\""), "{user}");
        assert!(user.contains("\nListenStream=/srv/a b%%c/daemon/daemon.sock\n"), "{user}");
        let system = texts(Scope::System, None, None);
        assert!(
            system.contains("\nListenStream=/run/smidr/daemon.sock\n") && system.contains("\nUser=smidr\n"),
            "{system}"
        );
        assert_eq!(quoted(Path::new("/a b/$x%\"y")), "\"/a b/$$x%%\\\"y\"");
    }

    #[test]
    fn systemd_has_nothing_to_say_about_them() {
        let verify = |files: &[std::path::PathBuf], scope| {
            let mut command = Command::new("systemd-analyze");
            command.arg("verify").arg("--man=no").args((scope == Scope::User).then_some("--user"));
            command.args(files).env("XDG_RUNTIME_DIR", files[0].parent().expect("a folder")).output()
        };
        for (scope, home, address) in ALL {
            let folder = tempfile::tempdir().expect("a folder");
            let program = std::env::current_exe().expect("this program");
            let units = units(scope, &program, home.map(Path::new), address);
            let files = units.map(|unit| {
                let file = folder.path().join(unit.name);
                fs::write(&file, unit.text).expect("a unit");
                file
            });
            let Ok(output) = verify(&files, scope) else {
                let test = "daemon::units::systemd_has_nothing_to_say_about_them";
                return drop(writeln!(std::io::stderr(), "SKIP {test}: systemd-analyze is not installed"));
            };
            let said = String::from_utf8_lossy(&output.stderr);
            // Other units of the machine may be wrong, and are read too.
            let ours: Vec<&str> = said.lines().filter(|line| line.contains("smidr")).collect();
            assert!(ours.is_empty(), "{scope:?}: {said}");
        }
    }
}
