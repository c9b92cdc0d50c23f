//! Journals as streams. What clients at the same place want is read and encoded once; they share the bytes. A client keeps a place and
//! the piece that it takes, so that one that reads slowly costs little memory, and none of another's time.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{broadcast, mpsc};
use tonic::Status;

use super::{
    batch, convert,
    proto::LogLine,
    records::{record, task_name, task_texts, texts},
    status::{panicked, status},
};
use crate::{
    daemon::DaemonError,
    history::journal::{Entry, Reader, Spot},
    model::{BuildId, Event, Paths, Record},
    service::{LocalService, Woken},
    system::{files::FileError, stop::StopToken},
};

/// How much of a stream is encoded at once, in bytes.
const CHUNK: usize = 256 << 10;

/// How large a message is at most, in bytes, unless one item is larger.
const MESSAGE: usize = 48 << 10;

/// Records that come within this time wake followers once.
const TOGETHER: Duration = Duration::from_millis(10);

/// Of a tail, in lines: the places of so many records are remembered.
const LONGEST_TAIL: u32 = 100_000;

/// How many passing states a follower may be behind before it misses some.
const PASSING: usize = 256;

/// What a stream is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Records.
    Records,
    /// Lines of text.
    Lines,
    /// Lines of text that hold `grep`, of one task if one is named. Not shared.
    Some {
        /// A part of the line; empty: any.
        grep: String,
        /// `recipe:do_task`; empty: all.
        task: String,
    },
}

/// A piece of a journal, encoded.
struct Chunk {
    to: Spot,
    messages: Vec<Bytes>,
    ends: bool,
    // The changes that the reader knew of, where there was no more behind this piece.
    all_of: Option<u64>,
}

/// Pieces that are used now.
#[derive(Default)]
struct Chunks {
    known: HashMap<(Form, u64), Weak<Chunk>>,
    // The newest: a stream that sends it at once lets it go before the next one asks.
    newest: Option<Arc<Chunk>>,
    // Behind which there is nothing, as of so many changes.
    end: Option<(u64, u64)>,
}

/// All journals that are read now.
pub(crate) struct Feeds {
    paths: Paths,
    all: Mutex<HashMap<BuildId, Weak<Feed>>>,
}

/// One journal.
pub(crate) struct Feed {
    folder: PathBuf,
    chunks: Mutex<Chunks>,
    // Held while a piece is read: others that want it wait, instead of reading the same. One is for places that have to be found, which may take
    // long in a large journal; followers at its end do not wait for that.
    reading: tokio::sync::Mutex<()>,
    finding: tokio::sync::Mutex<()>,
    end: Arc<Mutex<End>>,
    passing: broadcast::Sender<Bytes>,
    follower: StopToken,
}

/// What is known of a journal's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tip {
    changes: u64,
    over: bool,
    // It could not be watched to its end.
    lost: bool,
}

/// The end of a journal, and what waits there: by connection, so that what streams of one connection send leaves together.
#[derive(Default)]
struct End {
    tip: Tip,
    waiting: BTreeMap<Place, Waker>,
    streams: u64,
}

/// A stream: its connection, and a number.
type Place = (usize, u64);

/// Tells of a change, and wakes what waits for it.
fn change(end: &Mutex<End>, what: impl FnOnce(&mut Tip)) {
    let waiting = {
        let mut end = lock(end);
        end.tip.changes += 1;
        what(&mut end.tip);
        std::mem::take(&mut end.waiting)
    };
    waiting.into_values().for_each(Waker::wake);
}

/// Ends once the end of a journal is not what was seen.
struct More<'a> {
    end: &'a Mutex<End>,
    place: Place,
    seen: Tip,
}

impl Future for More<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut end = lock(self.end);
        if end.tip != self.seen {
            return Poll::Ready(());
        }
        end.waiting.insert(self.place, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for More<'_> {
    fn drop(&mut self) {
        lock(self.end).waiting.remove(&self.place);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.follower.escalate();
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feeds {
    /// Of the builds under these paths.
    pub(crate) fn new(paths: Paths) -> Self {
        Self { paths, all: Mutex::default() }
    }

    /// The feed of a build. It is followed for as long as one holds it.
    pub(crate) fn of(&self, id: &BuildId) -> Arc<Feed> {
        let mut all = lock(&self.all);
        if let Some(feed) = all.get(id).and_then(Weak::upgrade) {
            return feed;
        }
        all.retain(|_, feed| feed.strong_count() > 0);
        let feed = Arc::new(Feed {
            folder: self.paths.build(id),
            chunks: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            finding: tokio::sync::Mutex::default(),
            end: Arc::default(),
            passing: broadcast::Sender::new(PASSING),
            follower: StopToken::default(),
        });
        all.insert(id.clone(), Arc::downgrade(&feed));
        self.follow(id, &feed);
        feed
    }

    /// Wakes those who wait for more of a journal, on a thread of its own.
    fn follow(&self, id: &BuildId, feed: &Arc<Feed>) {
        let (paths, id, stop) = (self.paths.clone(), id.clone(), feed.follower.clone());
        let (end, passing) = (feed.end.clone(), feed.passing.clone());
        let followed = thread::Builder::new().name("feed".into()).stack_size(256 << 10).spawn(move || {
            let on = |woken| match woken {
                Woken::Journal => {
                    change(&end, |_| {});
                    thread::sleep(TOGETHER);
                }
                Woken::Passing(state) => {
                    if passing.receiver_count() > 0 {
                        let mut encoded = BytesMut::new();
                        batch::encode(&record(&state), &mut encoded);
                        let _ = passing.send(encoded.freeze());
                    }
                }
                Woken::Over => {}
            };
            let watched = LocalService::new(&paths).wakes(&id, &stop, on);
            if let Err(error) = &watched {
                tracing::warn!(build = %id, error = error as &dyn std::error::Error, "a build cannot be watched");
            }
            change(&end, |tip| (tip.over, tip.lost) = (true, watched.is_err()));
        });
        if followed.is_err() {
            change(&feed.end, |tip| (tip.over, tip.lost) = (true, true));
        }
    }
}

impl Feed {
    fn tip(&self) -> Tip {
        lock(&self.end).tip
    }

    /// A piece that is there already. At the end of the journal there is an empty one.
    fn known(&self, form: &Form, from: Spot) -> Option<Arc<Chunk>> {
        let changes = self.tip().changes;
        let chunks = lock(&self.chunks);
        if chunks.end == Some((from.after, changes)) {
            return Some(Arc::new(Chunk { to: from, messages: Vec::new(), ends: false, all_of: Some(changes) }));
        }
        chunks.known.get(&(form.clone(), from.after)).and_then(Weak::upgrade)
    }

    fn keep(&self, form: &Form, from: Spot, chunk: &Arc<Chunk>) {
        let mut chunks = lock(&self.chunks);
        if let Some(changes) = chunk.all_of {
            chunks.end = Some((chunk.to.after, changes));
        }
        if !chunk.messages.is_empty() {
            chunks.known.retain(|_, chunk| chunk.strong_count() > 0);
            chunks.known.insert((form.clone(), from.after), Arc::downgrade(chunk));
            chunks.newest = Some(chunk.clone());
        }
    }

    async fn chunk(self: &Arc<Self>, form: &Form, from: Spot) -> Result<Arc<Chunk>, Status> {
        let is_shared = !matches!(form, Form::Some { .. });
        let known = || if is_shared { self.known(form, from) } else { None };
        if let Some(chunk) = known() {
            return Ok(chunk);
        }
        let is_found = from.after == 0 || from.offset.is_some();
        let reading = if is_found { &self.reading } else { &self.finding };
        let _reading = if is_shared { Some(reading.lock().await) } else { None };
        if let Some(chunk) = known() {
            return Ok(chunk);
        }
        let changes = self.tip().changes;
        let (folder, asked) = (self.folder.clone(), form.clone());
        let read = tokio::task::spawn_blocking(move || read(&folder, &asked, from, changes)).await;
        let read = read.map_err(|_| panicked())?;
        let chunk = Arc::new(read.map_err(|error| status(&DaemonError::from(error)))?);
        if is_shared {
            self.keep(form, from, &chunk);
        }
        Ok(chunk)
    }

    /// Sends messages from a place on, until the end of the build or, without `follow`, of what is there. Streams of one `connection` are woken one
    /// after the other.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read or, with `follow`, not be watched.
    pub(crate) async fn stream(
        self: Arc<Self>,
        form: Form,
        mut from: Spot,
        follow: bool,
        progress: bool,
        (to, connection): (mpsc::Sender<Bytes>, usize),
    ) -> Result<(), Status> {
        let number = {
            let mut end = lock(&self.end);
            end.streams += 1;
            end.streams
        };
        let mut passing = (follow && progress).then(|| self.passing.subscribe());
        loop {
            let seen = self.tip();
            let chunk = self.chunk(&form, from).await?;
            for message in &chunk.messages {
                if to.send(message.clone()).await.is_err() {
                    return Ok(());
                }
            }
            // A piece may have been read before the last change that is known here.
            let is_all = chunk.all_of.is_some_and(|changes| changes >= seen.changes);
            let ends = chunk.ends;
            from = chunk.to;
            drop(chunk);
            if ends || (is_all && (seen.over || !follow)) {
                return if seen.lost && follow && !ends { Err(lost()) } else { Ok(()) };
            }
            if !is_all {
                continue;
            }
            let mut more = pin!(More { end: &self.end, place: (connection, number), seen });
            loop {
                tokio::select! {
                    () = &mut more => break,
                    state = next(&mut passing) => if let Some(state) = state
                        && to.send(state).await.is_err() { return Ok(()) },
                    () = to.closed() => return Ok(()),
                }
            }
        }
    }
}

/// The client may try again, from where it is.
fn lost() -> Status {
    Status::unavailable("the build cannot be watched; the daemon's log says more")
}

/// The next passing state; one that is missed is nothing.
async fn next(passing: &mut Option<broadcast::Receiver<Bytes>>) -> Option<Bytes> {
    match passing {
        None => std::future::pending().await,
        Some(passing) => match passing.recv().await {
            Ok(state) => Some(state),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        },
    }
}

/// Where the record begins that has the first of the last lines of a journal, but not before `from`.
///
/// # Errors
///
/// When the journal cannot be read.
pub(crate) fn tail(folder: &Path, form: &Form, lines: u32, from: Spot) -> Result<Spot, FileError> {
    let Some(mut reader) = Reader::at(folder, from)? else { return Ok(from) };
    let lines = lines.min(LONGEST_TAIL) as usize;
    // Where each of the last records with lines begins, and how many lines it has.
    let (mut last, mut count) = (VecDeque::new(), 0);
    loop {
        let spot = reader.spot();
        let entry = reader.read().map_err(FileError::new("read the journal in", folder))?;
        let Some(entry) = entry else { break };
        let Entry::Record(entry) = entry else { continue };
        let has = lines_of(form, &entry).len();
        if has == 0 {
            continue;
        }
        last.push_back((spot, has));
        count += has;
        while last.front().is_some_and(|(_, first)| count - first >= lines) {
            count -= last.pop_front().map_or(0, |(_, first)| first);
        }
    }
    Ok(last.front().map_or_else(|| reader.spot(), |(spot, _)| *spot))
}

fn lines_of(form: &Form, entry: &Record) -> Vec<String> {
    let Form::Some { grep, task } = form else { return texts(entry) };
    let mut lines = match task.as_str() {
        "" => texts(entry),
        task if task_name(entry).is_some_and(|name| name == task) => task_texts(entry),
        _ => Vec::new(),
    };
    lines.retain(|line| line.contains(grep));
    lines
}

fn read(folder: &Path, form: &Form, from: Spot, changes: u64) -> Result<Chunk, FileError> {
    let empty = Chunk { to: from, messages: Vec::new(), ends: false, all_of: Some(changes) };
    let Some(mut reader) = Reader::at(folder, from)? else { return Ok(empty) };
    let mut encoder = Encoder::default();
    let (mut ends, mut all_of) = (false, None);
    let mut seen = 0;
    while encoder.total < CHUNK && seen < CHUNK && !ends {
        let entry = reader.read().map_err(FileError::new("read the journal in", folder))?;
        let Some(entry) = entry else {
            all_of = Some(changes);
            break;
        };
        let Entry::Record(entry) = entry else { continue };
        ends = matches!(entry.event, Event::Finished { .. });
        seen += 64;
        encoder.add(form, &entry);
    }
    Ok(Chunk { to: reader.spot(), messages: encoder.finish(), ends, all_of })
}

#[derive(Default)]
struct Encoder {
    all: BytesMut,
    messages: Vec<Bytes>,
    total: usize,
}

impl Encoder {
    fn add(&mut self, form: &Form, entry: &Record) {
        match form {
            Form::Records => self.encode(&record(entry)),
            lines => lines_of(lines, entry).into_iter().for_each(|text| self.line(entry, text)),
        }
    }

    fn line(&mut self, entry: &Record, text: String) {
        let seq = entry.seq().unwrap_or_default();
        self.encode(&LogLine { seq, at: Some(convert::time(entry.at)), text });
    }

    fn encode(&mut self, item: &(impl prost::Message + Default)) {
        let before = self.all.len();
        batch::encode(item, &mut self.all);
        self.total += self.all.len() - before;
        if self.all.len() >= MESSAGE {
            self.messages.push(self.all.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.all.is_empty() {
            self.messages.push(self.all.freeze());
        }
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;
    use crate::model::{Place, TaskName};

    #[test]
    fn parts_of_a_log_are_lines_of_it_or_of_a_task() {
        let record = |event| Record {
            build: "x-00000001".parse().expect("an id"),
            place: Place::Seq(1),
            at: jiff::Timestamp::UNIX_EPOCH,
            event,
        };
        let name = TaskName { recipe: "a".into(), task: "do_b".into() };
        let began = record(Event::TaskSkipped { name, covered: false });
        let console = record(Event::Console { line: "do_b".into() });
        let lines = |grep: &str, task: &str, record: &Record| {
            lines_of(&Form::Some { grep: grep.into(), task: task.into() }, record).len()
        };
        assert_eq!([lines("do_b", "", &began), lines("do_b", "", &console)], [0, 1]);
        assert_eq!(
            [lines("", "a:do_b", &began), lines("need", "a:do_b", &began), lines("", "a:do_c", &began)],
            [1, 1, 0]
        );
        assert_eq!([lines("no such", "a:do_b", &began), lines("", "a:do_b", &console)], [0, 0]);
    }

    struct Stream(u8, Arc<Mutex<Vec<u8>>>);

    impl Wake for Stream {
        fn wake(self: Arc<Self>) {
            lock(&self.1).push(self.0);
        }
    }

    #[test]
    fn streams_of_a_connection_are_woken_together() {
        let (end, woken) = (Mutex::new(End::default()), Arc::default());
        let more = |place| More { end: &end, place, seen: Tip::default() };
        let mut waiting = Vec::from([(1, 1), (2, 2), (1, 3), (2, 4)].map(more));
        for (more, name) in waiting.iter_mut().zip(1..) {
            let waker = Waker::from(Arc::new(Stream(name, Arc::clone(&woken))));
            assert!(Pin::new(more).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        // One that has gone is not woken.
        waiting.pop();
        change(&end, |_| {});
        assert_eq!(*lock(&woken), [1, 3, 2]);
        let waker = Waker::noop();
        assert!(waiting.iter_mut().all(|more| Pin::new(more).poll(&mut Context::from_waker(waker)).is_ready()));
    }
}
