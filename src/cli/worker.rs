//! `smidr __worker ID`: runs a submission that another smidr has written down. Not for people.

use std::{path::Path, process::ExitCode};

use super::{
    args::Worker,
    build::start_spawner,
    context,
    report::{Done, Refused},
};
use crate::{
    engine::Services,
    executors,
    image::ImageStore,
    model::BuildId,
    system::{files::FileError, stop::StopToken},
    worker,
};

/// Runs the command.
pub(super) fn worker(args: &Worker) -> Done {
    // A session of its own: neither the starter's terminal nor its end is this build's.
    let _ = rustix::process::setsid();
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let spawner = start_spawner()?;
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    let id: BuildId = args.id.parse()?;
    let submission = worker::submitted(&paths.build(&id))?;
    if submission.id != id {
        return Err(Refused::new(format!("the submission of {id} is one of {}", submission.id), None).into());
    }
    let store = ImageStore::open(&paths)?;
    let services = Services { paths, facts, store, spawner, outlives: args.outlives };
    // Where nothing reads it any more, the build goes on.
    let ready = || drop(executors::ready(std::io::stdout()));
    let outcome = worker::run(submission, services, &stop, Vec::new(), ready)?;
    Ok(ExitCode::from(outcome.exit_code()))
}
