//! `smidr __keeper`: keeps the hash-equivalence server of a domain. Not for people.

use std::{io, path::Path, process::ExitCode};

use super::{build::start_spawner, context, report::Done};
use crate::{
    engine::{self, Services, Tools, keeper::Keeper},
    events::Emitter,
    executors,
    image::ImageStore,
    model::BuildId,
    service::random,
    system::{files::FileError, stop::StopToken},
};

/// Runs the command.
pub(super) fn keeper() -> Done {
    // It outlives the build that has started it.
    let _ = rustix::process::setsid();
    let failed = || FileError::new("read", Path::new("standard input"));
    let keeper: Keeper = serde_json::from_reader(io::stdin().lock()).map_err(|error| failed()(error.into()))?;
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let spawner = start_spawner()?;
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    let store = ImageStore::open(&paths)?;
    let services = Services { paths, facts, store, spawner, outlives: false };
    let on = Emitter::new(BuildId::new("hashserv", random())?, Vec::new());
    let tools = Tools { services: &services, stop: &stop, on: &on };
    engine::keeper::run(&keeper, tools, || executors::ready(io::stdout()))?;
    Ok(ExitCode::SUCCESS)
}
