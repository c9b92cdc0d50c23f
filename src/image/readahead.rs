//! Reads ahead: other threads read and inspect bytes while this one uses them.
//!
//! Each stage is a thread of its own, and chunks are passed from one to the next and back to the first, so that memory is bounded.

use std::{
    io::{self, BufRead, Cursor, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;

/// Chunks that may wait between two stages.
const WAITING: usize = 4;

type Chunk = io::Result<Vec<u8>>;

/// Reads `input` in one thread, lets `look` see everything in another, and `consume` use it in this one. Gives the result of
/// `consume`. What `consume` does not read, `look` may not have seen.
pub(super) fn read_ahead<T>(
    mut input: impl Read + Send,
    mut look: impl FnMut(&[u8]) + Send,
    consume: impl FnOnce(&mut Ahead) -> T,
) -> T {
    let (filled, to_look) = sync_channel(WAITING);
    let (looked, to_use) = sync_channel(WAITING);
    let (empty, to_fill) = sync_channel(2 * WAITING + 2);
    thread::scope(|scope| {
        scope.spawn(move || feed(&mut input, &filled, &to_fill));
        scope.spawn(move || {
            for chunk in to_look {
                if let Ok(bytes) = &chunk {
                    look(bytes);
                }
                if looked.send(chunk).is_err() {
                    return;
                }
            }
        });
        // Dropped before the scope ends; otherwise the reader would wait forever for a free chunk.
        let mut ahead = Ahead { full: to_use, empty, chunk: Cursor::default() };
        consume(&mut ahead)
    })
}

fn feed(input: &mut impl Read, full: &SyncSender<Chunk>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let read = fill(input, &mut chunk);
        let (count, last) = match read {
            Ok(count) => (count, count < CHUNK),
            Err((count, _)) => (count, true),
        };
        chunk.truncate(count);
        // Bytes before an error are passed on: the error may only be in the padding.
        if (count > 0 && full.send(Ok(chunk)).is_err())
            || read.is_err_and(|(_, error)| full.send(Err(error)).is_err())
            || last
        {
            return;
        }
    }
}

// Fills the chunk: it is shorter only at the end, or before an error.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut filled = 0;
    while let Some(room @ [_, ..]) = buffer.get_mut(filled..) {
        match input.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((filled, error)),
        }
    }
    Ok(filled)
}

/// The reading end of [`read_ahead`].
pub(super) struct Ahead {
    full: Receiver<Chunk>,
    empty: SyncSender<Vec<u8>>,
    chunk: Cursor<Vec<u8>>,
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // The other stage has ended.
        if self.chunk.fill_buf()?.is_empty()
            && let Ok(next) = self.full.recv()
        {
            let old = std::mem::replace(&mut self.chunk, Cursor::new(next?));
            let _ = self.empty.try_send(old.into_inner());
        }
        self.chunk.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.chunk.consume(count);
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill_buf()?;
        self.chunk.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_passes_and_an_error_comes_last() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
        let (mut seen, mut got) = (0, Vec::new());
        let input = bytes.as_slice().chain(Broken);
        let read = read_ahead(input, |chunk| seen += chunk.len(), |ahead| ahead.read_to_end(&mut got));
        assert_eq!(read.expect_err("it is broken").kind(), io::ErrorKind::ConnectionReset);
        assert!(seen == bytes.len() && got == bytes);
    }

    #[test]
    fn who_stops_early_waits_for_nobody() {
        let first = read_ahead(io::repeat(7), |_| {}, |ahead| ahead.bytes().next().expect("a byte").expect("no error"));
        assert_eq!(first, 7);
    }
}
