//! The journal of one build: `builds/ID/events.jsonl`, a record a line, appended by the build's worker alone. A finished one is
//! compressed in frames (`events.jsonl.zst`), each of whole lines, so that reading can begin in the middle.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{
    events::EventSink,
    model::{Event, Outcome, Record},
    system::{
        files::FileError,
        stop::{StopRequest, StopToken},
    },
};

/// The journal of a build that runs, in the build's folder.
pub(crate) const JOURNAL: &str = "events.jsonl";

/// That of a build that is over.
pub(crate) const COMPRESSED: &str = "events.jsonl.zst";

/// How the names of journals begin that are being compressed or made plain again.
pub(crate) const PACKING: &str = ".events";

/// How much of the disk is kept in reserve for the records of a build's end, in bytes.
const RESERVE: u64 = 256 << 10;

/// How much is reserved at once, in bytes.
const STEP: u64 = 1 << 20;

/// How much text a frame holds, in bytes, before it is compressed.
const FRAME: usize = 1 << 20;

/// What a journal's level of compression is: fast, since a build's console repeats itself.
const LEVEL: i32 = 3;

/// A longer line is no record of ours, in bytes: events are cut before they come here.
const LONGEST: u64 = 16 << 20;

/// How much of the end of a journal is looked at for its last record, in bytes: no outcome is longer.
const TAIL: u64 = 1 << 20;

/// The magic number of a skippable frame (RFC 8878, 3.1.2), which holds the index.
const SKIPPABLE: u32 = 0x184D_2A50;

/// Whether a build has no journal yet.
///
/// # Errors
///
/// When it has one.
pub(crate) fn check_new(folder: &Path) -> Result<(), FileError> {
    let found = [JOURNAL, COMPRESSED].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
    found.map_or(Ok(()), |path| Err(FileError::new("make", &path)(io::ErrorKind::AlreadyExists.into())))
}

/// Appends records.
pub(crate) struct Writer {
    file: File,
    path: PathBuf,
    line: Vec<u8>,
    length: u64,
    // Space on the disk up to here; none: this file system cannot tell.
    reserved: Option<u64>,
}

impl Writer {
    /// Makes the journal of a new build in its folder.
    ///
    /// # Errors
    ///
    /// When there is one already, or the file system refuses.
    pub(crate) fn create(folder: &Path) -> Result<Self, FileError> {
        // That of a build that is over stays.
        check_new(folder)?;
        let path = folder.join(JOURNAL);
        let file = fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        Self::of(file.map_err(FileError::new("make", &path))?, path, 0)
    }

    /// Goes on with the journal of a build whose worker is gone. What a crash has cut is removed.
    ///
    /// # Errors
    ///
    /// When there is none, or the file system refuses.
    pub(crate) fn reopen(folder: &Path) -> Result<Self, FileError> {
        let path = folder.join(JOURNAL);
        let open = || {
            if !path.exists() {
                unpack(folder)?;
            }
            let mut file = fs::OpenOptions::new().read(true).append(true).open(&path)?;
            let whole = whole_lines(&mut file)?;
            file.set_len(whole)?;
            Ok((file, whole))
        };
        let (file, length) = open().map_err(FileError::new("open", &path))?;
        // The one record that follows needs no reserve.
        Ok(Self { file, path, line: Vec::new(), length, reserved: None })
    }

    fn of(file: File, path: PathBuf, length: u64) -> Result<Self, FileError> {
        let failed = FileError::new("reserve space for", &path);
        let mut writer = Self { file, path, line: Vec::new(), length, reserved: Some(length) };
        writer.reserve().map_err(failed)?;
        Ok(writer)
    }

    /// Appends a record. The reserve is kept by [`Writer::reserve`], which `write` does not need to succeed.
    ///
    /// # Errors
    ///
    /// When the file system refuses; nothing of the record is then there.
    pub(crate) fn write(&mut self, record: &Record) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)?;
        self.line.push(b'\n');
        if let Err(error) = self.file.write_all(&self.line) {
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += self.line.len() as u64;
        Ok(())
    }

    /// Makes sure that there is space for the end of the build.
    ///
    /// # Errors
    ///
    /// When the disk is full.
    pub(crate) fn reserve(&mut self) -> io::Result<()> {
        let Some(reserved) = self.reserved.filter(|reserved| self.length + RESERVE > *reserved) else { return Ok(()) };
        let begin = reserved.max(self.length);
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, begin, STEP) {
            Ok(()) => self.reserved = Some(begin + STEP),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => self.reserved = None,
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// Ends the journal: gives the reserve back, and compresses it. A journal that cannot be compressed stays as it is.
    pub(crate) fn finish(self) {
        let _ = self.file.set_len(self.length);
        let Some(folder) = self.path.parent() else { return };
        if compress(folder).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The length of the lines that are whole.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut chunk = vec![0; 64 << 10];
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let part = chunk.get_mut(..usize::try_from(end - start).unwrap_or_default()).unwrap_or_default();
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(newline) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// How a journal ended: its first problem, or the writer of a whole one. Shared with the worker, which decides how the build ends.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Ended>>);

#[derive(Default)]
struct Ended {
    error: Option<FileError>,
    // Of a journal that is whole.
    writer: Option<Writer>,
}

impl Failure {
    /// Ends a journal that is whole, after all sinks have seen the end of the build.
    pub(crate) fn finish(&self) {
        let writer = self.0.lock().unwrap_or_else(PoisonError::into_inner).writer.take();
        writer.into_iter().for_each(Writer::finish);
    }

    /// Takes it.
    pub(crate) fn take(&self) -> Option<FileError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).error.take()
    }
}

/// The journal as the first sink of a build. Where it cannot be written, or its reserve cannot be kept, the build is stopped.
pub(crate) struct JournalSink {
    writer: Option<Writer>,
    failure: Failure,
    failed: bool,
    stop: StopToken,
}

impl JournalSink {
    /// A sink that stops its build by `stop`.
    pub(crate) fn new(writer: Writer, stop: &StopToken) -> (Self, Failure) {
        let failure = Failure::default();
        (Self { writer: Some(writer), failure: failure.clone(), failed: false, stop: stop.clone() }, failure)
    }

    fn fail(&mut self, error: io::Error, path: &Path) {
        if !std::mem::replace(&mut self.failed, true) {
            let mut ended = self.failure.0.lock().unwrap_or_else(PoisonError::into_inner);
            ended.error = Some(FileError::new("write the journal", path)(error));
            self.stop.request(StopRequest::Graceful);
        }
    }
}

impl EventSink for JournalSink {
    // The reserve is for how tasks and the build end.
    fn takes(&self, event: &Event) -> bool {
        !self.failed || !matches!(event, Event::Console { .. } | Event::Message { .. } | Event::TaskLog { .. })
    }

    fn accept(&mut self, record: &Record) {
        if record.seq().is_none() {
            return;
        }
        let Some(writer) = &mut self.writer else { return };
        let path = writer.path.clone();
        let written = writer.write(record).and_then(|()| if self.failed { Ok(()) } else { writer.reserve() });
        let is_end = matches!(record.event, Event::Finished { .. });
        match written {
            Err(error) => {
                // An end that is not there is told, whatever was before.
                self.failed &= !is_end;
                self.fail(error, &path);
            }
            Ok(()) if is_end => {
                self.failure.0.lock().unwrap_or_else(PoisonError::into_inner).writer = self.writer.take();
            }
            Ok(()) => {}
        }
    }
}

/// Where frames begin, so that a reader can begin at a record.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    frames: Vec<Frame>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Frame {
    // The first record in it.
    seq: u64,
    // Of the frame in the file.
    offset: u64,
}

fn compress(folder: &Path) -> io::Result<()> {
    let mut from = BufReader::with_capacity(FRAME, File::open(folder.join(JOURNAL))?);
    let mut to = tempfile::Builder::new().prefix(PACKING).tempfile_in(folder)?;
    let mut index = Index::default();
    let mut offset = 0;
    loop {
        let mut frame = Vec::with_capacity(FRAME + FRAME / 4);
        while frame.len() < FRAME && from.read_until(b'\n', &mut frame)? > 0 {}
        if frame.is_empty() {
            break;
        }
        let first = frame.split(|byte| *byte == b'\n').next().unwrap_or_default();
        index.frames.push(Frame { seq: seq_of(first).unwrap_or_default(), offset });
        let packed = zstd::bulk::compress(&frame, LEVEL)?;
        to.write_all(&packed)?;
        offset += packed.len() as u64;
    }
    // Decoders skip it (`zstd -dc events.jsonl.zst | jq`). Its length stands at its end, too, where a reader looks first.
    let text = serde_json::to_vec(&index)?;
    let length = u32::try_from(text.len() + 4).map_err(io::Error::other)?;
    to.write_all(&SKIPPABLE.to_le_bytes())?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&text)?;
    to.write_all(&length.to_le_bytes())?;
    // Before the plain one goes: a rename can reach the disk before the content.
    to.as_file().sync_data()?;
    to.persist(folder.join(COMPRESSED))?;
    Ok(())
}

/// Makes a journal plain again.
fn unpack(folder: &Path) -> io::Result<()> {
    let mut to = tempfile::Builder::new().prefix(PACKING).tempfile_in(folder)?;
    zstd::stream::copy_decode(File::open(folder.join(COMPRESSED))?, &mut to)?;
    to.persist(folder.join(JOURNAL))?;
    Ok(())
}

fn seq_of(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Seq {
        seq: u64,
    }
    serde_json::from_slice::<Seq>(line).ok().map(|line| line.seq)
}

/// The last record of a journal that is not compressed yet.
pub(crate) fn last(folder: &Path) -> Option<Record> {
    let mut file = File::open(folder.join(JOURNAL)).ok()?;
    let start = file.metadata().ok()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text).ok()?;
    let line = text.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
    serde_json::from_slice(line).ok()
}

/// How a build ended, by the last records of its journal.
///
/// # Errors
///
/// When it cannot be read, or is another user's.
pub(crate) fn outcome(folder: &Path) -> Result<Option<Outcome>, FileError> {
    let mut last = last(folder);
    if last.is_none() {
        let Some(mut reader) = Reader::last_frame(folder)? else { return Ok(None) };
        while let Some(entry) = reader.read().map_err(FileError::new("read", &folder.join(COMPRESSED)))? {
            if let Entry::Record(record) = entry {
                last = Some(*record);
            }
        }
    }
    Ok(last.and_then(|record| match record.event {
        Event::Finished { outcome } => Some(outcome),
        _ => None,
    }))
}

/// What stands in a line of a journal.
#[derive(Debug, PartialEq)]
pub(crate) enum Entry {
    /// A record.
    Record(Box<Record>),
    /// A line that this smidr cannot read: damaged, or written by a newer one.
    Unreadable(Vec<u8>),
    /// So many records are not there, beside those that cannot be read.
    Missing(u64),
}

/// Reads the records of a journal, of a build that runs as well.
pub(crate) struct Reader {
    from: BufReader<Box<dyn Read + Send>>,
    // A line that the writer has not finished.
    line: Vec<u8>,
    // Whether it is the rest of one that is too long.
    is_rest: bool,
    next: u64,
    // Lines since the last record that cannot be read.
    unreadable: u64,
    waiting: Option<Box<Record>>,
    // Bytes that were read of a plain journal; none for a compressed one.
    read: Option<u64>,
}

/// A place in a journal: after a record, and where that ends, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Spot {
    /// The number of the last record before it.
    pub after: u64,
    /// Where the next one begins in a plain journal.
    pub offset: Option<u64>,
}

impl Reader {
    /// Begins at a place.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read, or is another user's.
    pub(crate) fn at(folder: &Path, spot: Spot) -> Result<Option<Self>, FileError> {
        Self::begin(folder, spot)
    }

    /// The place after what was read.
    pub(crate) fn spot(&self) -> Spot {
        let offset = self.read.filter(|_| self.waiting.is_none()).map(|read| read - self.line.len() as u64);
        Spot { after: self.after(), offset }
    }

    /// Begins after a record, 0 for all; none where the build has no journal.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is another user's.
    pub(crate) fn open(folder: &Path, after: u64) -> Result<Option<Self>, FileError> {
        Self::begin(folder, Spot { after, offset: None })
    }

    /// Begins with the last frame of a journal that is compressed.
    fn last_frame(folder: &Path) -> Result<Option<Self>, FileError> {
        let begun = Self::open(folder, u64::MAX)?;
        Ok(begun.map(|reader| Self { next: 0, ..reader }))
    }

    fn begin(folder: &Path, Spot { after, offset }: Spot) -> Result<Option<Self>, FileError> {
        let (plain, packed) = (folder.join(JOURNAL), folder.join(COMPRESSED));
        // A journal that is compressed meanwhile has its new name before it loses the old one.
        for path in [&plain, &packed, &plain] {
            let file = match fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(FileError::new("open", path))?,
            };
            let foreign = || io::Error::other("is not your own file");
            let own = file
                .metadata()
                .is_ok_and(|found| found.is_file() && found.uid() == rustix::process::geteuid().as_raw());
            if !own {
                return Err(FileError::new("read", path)(foreign()));
            }
            let mut file = file;
            let mut read = None;
            let from: Box<dyn Read + Send> = if path == &packed {
                let file = at_frame(file, after).map_err(FileError::new("read", path))?;
                Box::new(zstd::Decoder::new(file).map_err(FileError::new("read", path))?)
            } else {
                let begin = offset.unwrap_or_default();
                file.seek(SeekFrom::Start(begin)).map_err(FileError::new("read", path))?;
                read = Some(begin);
                Box::new(file)
            };
            return Ok(Some(Self {
                from: BufReader::with_capacity(256 << 10, from),
                line: Vec::new(),
                is_rest: false,
                next: after.saturating_add(1),
                unreadable: 0,
                waiting: None,
                read,
            }));
        }
        Ok(None)
    }

    /// The number of the last record that was read.
    pub(crate) fn after(&self) -> u64 {
        self.next - 1
    }

    /// Whether there was half a line at the end.
    pub(crate) fn is_cut(&self) -> bool {
        !self.line.is_empty()
    }

    /// The next entry that is there; none where there is no more for now.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(crate) fn read(&mut self) -> io::Result<Option<Entry>> {
        if let Some(record) = self.waiting.take() {
            return Ok(Some(Entry::Record(record)));
        }
        loop {
            let room = LONGEST.saturating_sub(self.line.len() as u64);
            let read = (&mut self.from).take(room).read_until(b'\n', &mut self.line)?;
            self.read = self.read.map(|before| before + read as u64);
            let is_whole = self.line.last() == Some(&b'\n');
            if !is_whole && (self.line.len() as u64) < LONGEST {
                return Ok(None);
            }
            let record = serde_json::from_slice::<Record>(&self.line).ok();
            let line = if record.is_none() { std::mem::take(&mut self.line) } else { Vec::new() };
            self.line.clear();
            if std::mem::replace(&mut self.is_rest, !is_whole) {
                continue;
            }
            let Some(record) = record else {
                self.unreadable += 1;
                return Ok(Some(Entry::Unreadable(line)));
            };
            let unreadable = std::mem::take(&mut self.unreadable);
            let Some(seq) = record.seq().filter(|seq| *seq >= self.next) else { continue };
            // Those that cannot be read have been told already.
            let missing = (seq - self.next).saturating_sub(unreadable);
            self.next = seq + 1;
            if missing > 0 {
                self.waiting = Some(Box::new(record));
                return Ok(Some(Entry::Missing(missing)));
            }
            return Ok(Some(Entry::Record(Box::new(record))));
        }
    }
}

/// Goes to the frame in which the records after a number begin.
fn at_frame(mut file: File, after: u64) -> io::Result<File> {
    if after > 0
        && let Some(index) = index_of(&mut file)
        && let Some(frame) = index.frames.iter().rev().find(|frame| frame.seq <= after.saturating_add(1))
    {
        file.seek(SeekFrom::Start(frame.offset))?;
    } else {
        file.rewind()?;
    }
    Ok(file)
}

fn index_of(file: &mut File) -> Option<Index> {
    let mut length = [0; 4];
    file.seek(SeekFrom::End(-4)).ok()?;
    file.read_exact(&mut length).ok()?;
    let length = u32::from_le_bytes(length);
    file.seek(SeekFrom::End(-i64::from(length))).ok()?;
    let mut text = vec![0; usize::try_from(length).ok()?.checked_sub(4)?.min(64 << 20)];
    file.read_exact(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::Emitter,
        model::{BuildId, Outcome, State},
    };

    #[test]
    fn a_journal_that_cannot_be_written_stops_its_build() {
        let stop = StopToken::default();
        let full = fs::OpenOptions::new().append(true).open("/dev/full").expect("a device");
        let writer = Writer::of(full, "/dev/full".into(), 0).expect("a journal");
        let (journal, failure) = JournalSink::new(writer, &stop);
        let on = Emitter::new(BuildId::new("x", 1).expect("an id"), vec![Box::new(journal)]);
        on.emit(Event::Console { line: "x".into() });
        assert_eq!(stop.requested(), Some(StopRequest::Graceful));
        let error = failure.take().expect("an error");
        let outcome = Outcome::of(&error);
        assert_eq!((outcome.state, outcome.exit_code()), (State::Failed, 3));
        assert!(outcome.reasons.join(": ").contains("write the journal /dev/full: No space left"), "{outcome:?}");
    }
}
