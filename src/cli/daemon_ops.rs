//! `smidr daemon stop`, `reload` and `units`.

use std::{path::Path, process::ExitCode, time::Duration};

use super::{
    output::{say_block, talk, talk_block},
    report::{Done, Failure},
};
use crate::{
    daemon::{
        Daemon, config,
        units::{self, Scope},
    },
    model::{Hint, Kind, Paths},
    rpc::{
        client::Remote,
        proto::{self, stop_daemon_request::Builds},
    },
    service::ServiceError,
    system::files::{FileError, write_atomically},
};

/// How often a daemon that ends is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Ends the daemon, and returns when it is gone.
pub(super) fn stop(remote: Remote, cancel: bool, drain: bool, paths: &Paths) -> Result<(), Failure> {
    let builds = match (cancel, drain) {
        (true, _) => Builds::CancelAll,
        (_, true) => Builds::Drain,
        _ => Builds::Leave,
    };
    let info = remote.info()?;
    if drain && info.builds_running > 0 {
        talk(format!("the daemon ends when the last of {} builds is over", info.builds_running));
    }
    let request = proto::StopDaemonRequest { builds: builds.into() };
    remote.call(|mut caller| async move { caller.stop_daemon(request).await })?;
    // The daemon waits for its connections to end.
    drop(remote);
    // It is gone when it holds its lock no longer. Another one may begin at once.
    let process = format!("(process {})", info.pid);
    while Daemon::holder(paths)?.is_some_and(|holder| holder.contains(&process)) {
        std::thread::sleep(LOOK);
    }
    let mut line = "the daemon has ended".to_owned();
    if !cancel && !drain && info.builds_running > 0 {
        line += &format!("; {} builds go on:  smidr status", info.builds_running);
    }
    if info.builds_waiting > 0 {
        line += &format!("; {} builds wait for the next one", info.builds_waiting);
    }
    talk(line);
    Ok(())
}

/// Lets the daemon read its config again.
pub(super) fn reload(remote: &Remote, paths: &Paths) -> Result<(), Failure> {
    let asked = remote.call(|mut caller| async move { caller.reload_daemon(proto::ReloadDaemonRequest {}).await });
    let answer = asked.map_err(|mut error| {
        if let ServiceError::Daemon { kind: Kind::Request, hints, .. } = &mut error {
            hints.push(Hint::new("the daemon goes on with what it read before"));
        }
        error
    })?;
    talk(format!("{} counts now", paths.home().join(config::FILE).display()));
    if !answer.later.is_empty() {
        talk(format!("after  smidr daemon --replace  only:  {}", answer.later.join(", ")));
    }
    Ok(())
}

/// Prints what systemd has to know, or writes it.
pub(super) fn units(paths: &Paths, home: &Path, is_system: bool, address: Option<&str>, write: bool) -> Done {
    let scope = if is_system { Scope::System } else { Scope::User };
    let program = std::env::current_exe().map_err(FileError::new("find", Path::new("/proc/self/exe")))?;
    let own = Some(paths.home()).filter(|own| *own != home.join(".smidr"));
    let units = units::units(scope, &program, own, address);
    let folder = match scope.folder().strip_prefix("~/") {
        Some(below) => home.join(below),
        None => scope.folder().into(),
    };
    let systemctl = if is_system { "systemctl" } else { "systemctl --user" };
    let start = format!("{systemctl} daemon-reload && {systemctl} enable --now smidr.socket smidr.service");
    if !write {
        for unit in &units {
            say_block(&format!("# {}\n{}", folder.join(unit.name).display(), unit.text));
        }
        talk(format!("to write them:  smidr daemon units --write; then:  {start}"));
        return Ok(ExitCode::SUCCESS);
    }
    for unit in &units {
        let file = folder.join(unit.name);
        std::fs::create_dir_all(&folder).map_err(FileError::new("make", &folder))?;
        write_atomically(&file, unit.text.as_bytes(), 0o644)?;
        talk(format!("{} is written", file.display()));
    }
    talk_block(&format!("to start it:  {start}"));
    Ok(ExitCode::SUCCESS)
}
