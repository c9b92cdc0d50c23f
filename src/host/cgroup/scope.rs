//! A cgroup made by the user's systemd, for sessions that have none of their own: `systemd-run --scope` asks for one, enters it and
//! then becomes the program, so that process id, parent and descriptors stay what they were (systemd-run(1)).

use std::{fs, path::PathBuf, process::Stdio};

use super::{MEMORY, NotEnforced, Place, TASKS, leaf::holds};
use crate::{
    host::process::Spawner,
    model::{HostFacts, Limits},
};

/// What systemd-run needs to find the user's systemd.
const VARIABLES: [&str; 2] = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];

/// A way to start a program within limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// systemd-run with its arguments; the program's own follow.
    pub argv: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
}

impl Scope {
    /// The way, if it has been tried and leads somewhere.
    pub fn find(facts: &HostFacts, limits: &Limits, spawner: &Spawner) -> Option<Self> {
        let scope = Self::describe(&facts.environment, limits)?;
        let mut command = spawner.command(scope.argv.first()?);
        command.args(&scope.argv[1..]).arg("true").env_clear().envs(scope.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let tried = spawner.spawn(command, Vec::new()).and_then(|mut child| child.wait());
        tried.is_ok_and(|status| status.success()).then_some(scope)
    }

    fn describe(environment: &[(String, String)], limits: &Limits) -> Option<Self> {
        let get = |name: &str| environment.iter().find(|(known, value)| known == name && !value.is_empty());
        let runtime = PathBuf::from(&get("XDG_RUNTIME_DIR")?.1);
        if !["systemd/private", "bus"].iter().any(|socket| runtime.join(socket).exists()) {
            return None;
        }
        let path = &get("PATH")?.1;
        let program =
            std::env::split_paths(path).map(|folder| folder.join("systemd-run")).find(|path| path.is_file())?;
        let mut argv = vec![program.to_str()?.to_owned()];
        argv.extend(["--user", "--scope", "--quiet", "--collect", "--no-ask-password"].map(String::from));
        argv.extend(properties(limits));
        argv.push("--".into());
        Some(Self { argv, env: VARIABLES.iter().filter_map(|name| get(name)).cloned().collect() })
    }

    /// Which limits do not hold for a process that was started this way.
    pub fn not_enforced(process: u32, limits: &Limits) -> Vec<NotEnforced> {
        let folder = Place::of(&process.to_string()).v2.unwrap_or_default();
        let rows = [(MEMORY, "memory.max", limits.memory), (TASKS, "pids.max", limits.tasks.map(u64::from))];
        let asked = rows.into_iter().filter_map(|(controller, file, value)| Some((controller, file, value?)));
        asked
            .filter(|(_, file, value)| {
                let found = fs::read_to_string(folder.join(file)).unwrap_or_default();
                !holds(found.trim(), &value.to_string())
            })
            .map(|(controller, file, _)| NotEnforced {
                key: controller.key,
                why: format!("systemd did not set {file} of its scope"),
            })
            .collect()
    }
}

/// As systemd.resource-control(5) names them.
fn properties(limits: &Limits) -> Vec<String> {
    let rows = [
        limits.memory.map(|bytes| format!("MemoryMax={bytes}")),
        limits.tasks.map(|most| format!("TasksMax={most}")),
        limits.cpus.map(|cpus| format!("CPUQuota={}%", u64::from(cpus) * 100)),
    ];
    rows.into_iter().flatten().flat_map(|property| ["-p".into(), property]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_is_asked_for() {
        let limits = Limits { memory: Some(8 << 30), cpus: Some(3), tasks: Some(500) };
        assert_eq!(properties(&limits).join(" "), "-p MemoryMax=8589934592 -p TasksMax=500 -p CPUQuota=300%");
        assert!(properties(&Limits::default()).is_empty());
    }

    #[test]
    fn where_no_systemd_listens() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = folder.path().display().to_string();
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![own("XDG_RUNTIME_DIR", &runtime), own("PATH", &runtime), own("HOME", "/h")];
        let limits = Limits { tasks: Some(5), ..Limits::default() };
        fs::write(folder.path().join("systemd-run"), "").expect("a program");
        assert_eq!(Scope::describe(&environment, &limits), None, "nobody listens");
        fs::write(folder.path().join("bus"), "").expect("a socket");
        let scope = Scope::describe(&environment, &limits).expect("a way");
        assert_eq!(scope.argv.last().map(String::as_str), Some("--"));
        assert_eq!(scope.env, [own("XDG_RUNTIME_DIR", &runtime)]);
        assert_eq!(Scope::describe(&environment[1..], &limits), None, "no folder of the session");
    }
}
