//! What commands that bring things work with: the shared folders, the image store, who starts processes, who shows progress.

use std::path::Path;

use super::{build::start_spawner, context, report::Failure, terminal::Terminal};
use crate::{
    engine::Tools,
    events::Emitter,
    image::ImageStore,
    model::{BuildId, Paths, SystemFacts},
    service::random,
    system::{
        files::FileError,
        process::Spawner,
        stop::{Listening, StopToken},
    },
};

/// Everything at hand.
pub struct CommandContext {
    /// The image store.
    pub store: ImageStore,
    /// Shows how it goes.
    pub on: Emitter,
    /// Whether somebody wants it to stop.
    pub stop: StopToken,
    /// Starts processes.
    pub spawner: Spawner,
    /// This machine.
    pub facts: SystemFacts,
    /// Shared folders.
    pub paths: Paths,
    _second: Listening,
}

impl CommandContext {
    /// Opens everything, before any thread is started. `command` is what the events are said to belong to.
    pub fn open(command: &str) -> Result<Self, Failure> {
        let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
        let spawner = start_spawner()?;
        let facts = context::gather();
        let paths = context::open_paths(&facts)?;
        let store = ImageStore::open(&paths)?.heeding(&stop);
        let on = Emitter::new(BuildId::new(command, random())?, vec![Box::new(Terminal::new())]);
        on.hide(&context::secrets(&facts.environment));
        let _second = context::exit_at_second(&stop);
        Ok(Self { store, on, stop, spawner, facts, paths, _second })
    }

    /// As the engine wants it.
    pub fn tools(&self) -> Tools<'_> {
        let Self { store, on, stop, spawner, facts, paths, .. } = self;
        Tools { paths, facts, store, spawner, stop, on }
    }
}
