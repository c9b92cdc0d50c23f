//! Enters the cgroups delegated to the user from sessions outside of them, such as logins over ssh.
//!
//! Only systemd may move a process there. `systemd-run --scope` asks it to, and then executes the program, so that process id, parent
//! and descriptors stay the same (systemd-run(1)). The limits are not set on the scope: systemd up to 252 ends everything in it when one
//! process is killed for memory. So a [`Leaf`](super::Leaf) is made beside it, which the program then joins.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{ChildStdout, Stdio},
};

use super::Place;
use crate::{model::SystemFacts, system::process::Spawner};

/// What systemd-run needs to find the user's systemd.
const VARIABLES: [&str; 2] = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];

/// A path among cgroups is shorter than that, in bytes.
const LONGEST: u64 = 16 * 1024;

/// A way that was tried successfully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// systemd-run with its arguments; the program's own follow.
    pub argv: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// The folder of such scopes.
    pub place: Place,
}

impl Scope {
    /// Finds and tries the way.
    pub fn find(facts: &SystemFacts, spawner: &Spawner) -> Option<Self> {
        let (argv, env) = describe(&facts.environment)?;
        let (program, arguments) = argv.split_first()?;
        let mut command = spawner.command(program);
        command.args(arguments).args(["cat", "/proc/self/cgroup"]).env_clear().envs(env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = spawner.spawn(command, Vec::new()).ok()?;
        let text = child.stdout.take().and_then(read)?;
        let success = child.wait().ok()?.success();
        // The scope ends with its only process; its parent stays.
        let seen = Place::seen_from_here(&text);
        let around = seen.v2.as_ref()?.parent()?.to_path_buf();
        let place = Place { v2: Some(around.clone()), top: around, ..seen };
        success.then_some(Self { argv, env, place })
    }
}

fn read(pipe: ChildStdout) -> Option<String> {
    let mut text = String::new();
    pipe.take(LONGEST).read_to_string(&mut text).ok().map(|_| text)
}

type Described = (Vec<String>, Vec<(String, String)>);

fn describe(environment: &[(String, String)]) -> Option<Described> {
    let get = |name: &str| environment.iter().find(|(known, value)| known == name && !value.is_empty());
    let runtime = PathBuf::from(&get("XDG_RUNTIME_DIR")?.1);
    if !["systemd/private", "bus"].iter().any(|socket| runtime.join(socket).exists()) {
        return None;
    }
    let folders = &get("PATH")?.1;
    let program =
        std::env::split_paths(folders).map(|folder| folder.join("systemd-run")).find(|path| path.is_file())?;
    let mut argv = vec![program.to_str()?.to_owned()];
    argv.extend(["--user", "--scope", "--quiet", "--collect", "--no-ask-password", "--"].map(String::from));
    // systemd-run needs PATH to find `cat`, and nothing else.
    let variables = VARIABLES.iter().chain(&["PATH"]);
    Some((argv, variables.filter_map(|name| get(name)).cloned().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_systemd_listens() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = folder.path().display().to_string();
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![own("XDG_RUNTIME_DIR", &runtime), own("PATH", &runtime), own("SECRET", "x")];
        std::fs::write(folder.path().join("systemd-run"), "").expect("a program");
        assert_eq!(describe(&environment), None, "no systemd there");
        std::fs::write(folder.path().join("bus"), "").expect("a socket");
        let (argv, env) = describe(&environment).expect("a way");
        assert_eq!(argv[0], folder.path().join("systemd-run").display().to_string());
        assert_eq!(argv.last().map(String::as_str), Some("--"));
        assert_eq!(env, environment[..2], "and nothing else of the caller's");
        assert_eq!(describe(&environment[1..]), None, "no folder of the session");
        std::fs::remove_file(folder.path().join("systemd-run")).expect("removed");
        assert_eq!(describe(&environment), None, "no systemd-run");
    }
}
