//! Reading what a build does and did: its journal, and while it runs, its passing states.

use std::{
    io::{self, PipeReader, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify;

use super::{LocalService, ServiceError};
use crate::{
    history::journal::{Entry, JOURNAL, Reader},
    model::{BuildId, Event, Record},
    system::{
        files::FileError,
        stop::{Listening, StopToken},
    },
    worker::control::{Ask, Client, Say},
};

/// How long a build that cannot be connected to is left alone, in milliseconds: its worker may run in another container.
const LOOK_AGAIN: u16 = 500;

impl LocalService<'_> {
    /// Hands every entry of a build's journal after record number `after` to `take`, in order. With `follow`, passing states too, until the
    /// build is over or that token stops. `take` says whether it wants more. Gives whether the end of the build was reached.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub(crate) fn watch(
        &self,
        id: &BuildId,
        after: u64,
        follow: Option<&StopToken>,
        mut take: impl FnMut(Entry) -> bool,
    ) -> Result<bool, ServiceError> {
        let folder = self.paths.build(id);
        let failed = || FileError::new("follow the build in", &folder);
        // Before anything is read: what is written meanwhile wakes.
        let mut wake = follow.map(|stop| Wake::new(&folder, stop)).transpose().map_err(failed())?;
        let mut reader = loop {
            // Asked before looking: a worker makes the journal before it is told that the build waits no longer.
            let waits = wake.is_some() && self.show(Some(id.as_str()))?.waits;
            if let Some(reader) = Reader::open(&folder, after)? {
                break reader;
            }
            let Some(wake) = wake.as_mut().filter(|_| waits) else { return Ok(true) };
            if follow.is_some_and(StopToken::is_requested) {
                return Ok(false);
            }
            wake.wait().map_err(failed())?;
        };
        loop {
            // Asked before reading: what is written at the end of a build would else be missed.
            let over = match &wake {
                None => true,
                Some(wake) if wake.client.is_some() => false,
                Some(_) => self.show(Some(id.as_str()))?.state.is_final(),
            };
            // The process that found the worker gone has removed what was written by half.
            if over
                && reader.is_cut()
                && let Some(again) = Reader::open(&folder, reader.after())?
            {
                reader = again;
            }
            while let Some(entry) = reader.read().map_err(failed())? {
                let end = matches!(&entry, Entry::Record(record) if matches!(record.event, Event::Finished { .. }));
                if !take(entry) {
                    return Ok(false);
                }
                if end {
                    if follow.is_some() {
                        self.until_indexed(id);
                    }
                    return Ok(true);
                }
            }
            let Some(wake) = wake.as_mut().filter(|_| !over) else { return Ok(true) };
            while let Some(record) = wake.passing() {
                if !take(Entry::Record(record)) {
                    return Ok(false);
                }
            }
            if follow.is_some_and(StopToken::is_requested) {
                return Ok(false);
            }
            // Whose worker has just gone is looked at without delay.
            if !wake.lost() && !wake.look_for(&folder) {
                wake.wait().map_err(failed())?;
            }
            if wake.client.is_none() {
                wake.client = connect(&folder);
            }
        }
    }
}

/// What wakes the reader of a journal.
#[derive(Debug)]
pub(crate) enum Woken {
    /// There may be more in the journal.
    Journal,
    /// A passing state.
    Passing(Box<Record>),
    /// The build is over.
    Over,
}

impl LocalService<'_> {
    /// Says when there is something new in the journal of a build, until the build is over or the token stops, without reading it.
    ///
    /// # Errors
    ///
    /// When the journal cannot be watched.
    pub(crate) fn wakes(&self, id: &BuildId, stop: &StopToken, mut on: impl FnMut(Woken)) -> Result<(), ServiceError> {
        let folder = self.paths.build(id);
        let failed = || FileError::new("follow the build in", &folder);
        let mut wake = Wake::new(&folder, stop).map_err(failed())?;
        loop {
            let over = wake.client.is_none() && self.show(Some(id.as_str()))?.state.is_final();
            on(Woken::Journal);
            if over {
                on(Woken::Over);
                return Ok(());
            }
            while let Some(record) = wake.passing() {
                on(Woken::Passing(record));
            }
            if stop.is_requested() {
                return Ok(());
            }
            if !wake.lost() && !wake.look_for(&folder) {
                wake.wait().map_err(failed())?;
            }
            if wake.client.is_none() {
                wake.client = connect(&folder);
            }
        }
    }
}

/// How long the index may be behind the end of a journal. One that cannot be written stays behind.
const INDEXED: Duration = Duration::from_secs(2);

impl LocalService<'_> {
    /// Waits for the index: who has seen the end of a build asks for its artifacts next.
    fn until_indexed(&self, id: &BuildId) {
        let begun = Instant::now();
        let is_over = || Some(self.history().ok()??.find(Some(id.as_str())).ok()??.state.is_final());
        while is_over() != Some(true) && begun.elapsed() < INDEXED {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What wakes a reader: the journal, the worker, a stop.
struct Wake {
    client: Option<Client>,
    was_connected: bool,
    // None where the user has too many of them (inotify(7), max_user_instances): then it is looked at from time to time.
    journal: Option<OwnedFd>,
    // Not as long as the journal is not there: that of a build that waits for a daemon.
    is_watched: bool,
    stopped: PipeReader,
    _listening: Listening,
}

fn connect(folder: &Path) -> Option<Client> {
    let client = Client::connect(folder).ok().flatten()?;
    client.ask(&Ask::Progress).ok().map(|()| client)
}

impl Wake {
    fn new(folder: &Path, stop: &StopToken) -> io::Result<Self> {
        let journal = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        let (stopped, waker) = io::pipe()?;
        let listening = stop.listen(move |_| {
            let _ = (&waker).write_all(&[0]);
        });
        let client = connect(folder);
        let (was_connected, is_watched) = (client.is_some(), false);
        let mut wake = Self { client, was_connected, journal, is_watched, stopped, _listening: listening };
        wake.look_for(folder);
        Ok(wake)
    }

    /// Watches the journal once it is there. Gives whether that has just begun: what was written before wakes nothing.
    fn look_for(&mut self, folder: &Path) -> bool {
        let Some(journal) = self.journal.as_ref().filter(|_| !self.is_watched) else { return false };
        let watched = inotify::add_watch(journal, folder.join(JOURNAL), inotify::WatchFlags::MODIFY);
        self.is_watched = watched.is_ok();
        // One that is over has another name.
        if !matches!(watched, Ok(_) | Err(rustix::io::Errno::NOENT)) {
            self.journal = None;
        }
        self.is_watched
    }

    /// A passing state that has come.
    fn passing(&mut self) -> Option<Box<Record>> {
        loop {
            match self.client.as_ref()?.next(false) {
                Ok(Some(Say::Record { record })) => return Some(record),
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Ok(None) | Err(_) => self.client = None,
            }
        }
    }

    /// Whether the worker has gone since the last time that this was asked.
    fn lost(&mut self) -> bool {
        std::mem::replace(&mut self.was_connected, self.client.is_some()) && self.client.is_none()
    }

    fn wait(&mut self) -> io::Result<()> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.stopped.as_fd())];
        fds.extend(self.journal.iter().map(|journal| readable(journal.as_fd())));
        fds.extend(self.client.iter().map(|client| readable(client.fd())));
        let is_woken = self.client.is_some() && self.is_watched;
        let timeout = if is_woken { PollTimeout::NONE } else { PollTimeout::from(LOOK_AGAIN) };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut events = [0; 4096];
        if let Some(journal) = &self.journal {
            while rustix::io::read(journal, &mut events).is_ok_and(|read| read > 0) {}
        }
        Ok(())
    }
}
