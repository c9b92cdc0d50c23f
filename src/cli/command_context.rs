//! What commands that bring things work with: the shared folders, the image store, who starts processes, who shows progress.

use std::{ops::Deref, path::Path};

use super::{build::start_spawner, context, report::Failure, terminal::Terminal};
use crate::{
    engine::{Services, Tools},
    events::{Emitter, EventSink},
    image::ImageStore,
    model::BuildId,
    service::random,
    system::{
        files::FileError,
        stop::{Listening, StopToken},
    },
};

/// What a command works with.
pub(super) struct CommandContext {
    /// Shared folders, images, this machine.
    pub services: Services,
    /// Shows how it goes.
    pub on: Emitter,
    /// Whether to stop.
    pub stop: StopToken,
    _second: Listening,
}

impl Deref for CommandContext {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

impl CommandContext {
    /// Opens everything, before any thread is started. `command` is what the events are said to belong to.
    pub(super) fn open(command: &str) -> Result<Self, Failure> {
        Self::watched(command, Terminal::new())
    }

    /// The same, with another way to show how it goes.
    pub(super) fn watched(command: &str, watch: impl EventSink + 'static) -> Result<Self, Failure> {
        let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
        let spawner = start_spawner()?;
        let facts = context::gather();
        let paths = context::open_paths(&facts)?;
        let store = ImageStore::open(&paths)?.heeding(&stop);
        let on = Emitter::new(BuildId::new(command, random())?, vec![Box::new(watch)]);
        on.hide(&context::secrets(&facts.environment));
        let _second = context::exit_at_second(&stop);
        Ok(Self { services: Services { paths, facts, store, spawner, outlives: false }, on, stop, _second })
    }

    /// As the engine wants it.
    pub(super) fn tools(&self) -> Tools<'_> {
        Tools { services: &self.services, stop: &self.stop, on: &self.on }
    }
}
