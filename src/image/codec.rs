//! Streams that count, hash and compress. Knows nothing of archives.

use std::io::{self, BufRead, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::{model::Digest, system::files};

/// The compression of a layer, detected from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not at all.
    None,
    /// gzip, possibly several members.
    Gzip,
    /// zstd, possibly several frames.
    Zstd,
}

/// A compression that smidr does not read; holds its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsupported(pub &'static str);

const MAGICS: [(&[u8], Result<Compression, Unsupported>); 6] = [
    (&[0x1f, 0x8b], Ok(Compression::Gzip)),
    (&[0x28, 0xb5, 0x2f, 0xfd], Ok(Compression::Zstd)),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Err(Unsupported("xz"))),
    (b"BZh", Err(Unsupported("bzip2"))),
    (&[0x04, 0x22, 0x4d, 0x18], Err(Unsupported("lz4"))),
    (&[0x5d, 0, 0], Err(Unsupported("lzma"))),
];

/// A zstd stream needs a larger window than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it needs a window of more than {0} bytes")]
pub(super) struct WindowTooLarge(pub u64);

// zstd_safe's text for ZSTD_error_frameParameter_windowTooLarge; it gives no code to compare.
const TOO_LARGE: &str = "Frame requires too much memory for decoding";

/// zstd's largest window, as a power of two.
const LARGEST_WINDOW: u32 = 31;

impl Compression {
    /// Looks at the first bytes of a stream. A zstd stream may begin with a skippable frame.
    ///
    /// # Errors
    ///
    /// When it is a compression that smidr does not read.
    pub(super) fn sniff(start: &[u8]) -> Result<Self, Unsupported> {
        if let [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] = start {
            return Ok(Self::Zstd);
        }
        MAGICS.iter().find(|(magic, _)| start.starts_with(magic)).map_or(Ok(Self::None), |(_, found)| *found)
    }

    /// Decompresses every member and frame, to the end of the stream. A zstd decoder keeps at most
    /// `window` bytes in memory, else reading ends with [`WindowTooLarge`].
    ///
    /// # Errors
    ///
    /// When the decoder cannot be made.
    pub(super) fn decode<'a>(
        self,
        input: impl BufRead + Send + 'a,
        window: u64,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(window.max(1 << 10).ilog2().min(LARGEST_WINDOW))?;
                Box::new(Windowed { decoder, window })
            }
        })
    }
}

// Gives this one error of a decoder a type, since a limit causes it.
struct Windowed<R> {
    decoder: R,
    window: u64,
}

impl<R: Read> Read for Windowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let window = WindowTooLarge(self.window);
        let typed = |error: io::Error| if error.to_string() == TOO_LARGE { io::Error::other(window) } else { error };
        self.decoder.read(buffer).map_err(typed)
    }
}

/// Hashes and counts what is read or written through it.
pub(super) struct Hashed<T> {
    inner: T,
    hasher: Sha256,
    count: u64,
}

impl<T> Hashed<T> {
    /// Starts with nothing.
    pub(super) fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }

    /// The digest and number of the bytes so far.
    pub(super) fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest::from_sha256(self.hasher.finalize().into()), self.count)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = files::read_part(&mut self.inner, buffer)?;
        self.hasher.update(part);
        self.count += part.len() as u64;
        Ok(part.len())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        // An inner writer that claims more than it was given is faulty.
        self.hasher.update(buffer.get(..count).ok_or(io::ErrorKind::InvalidData)?);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The digest of some bytes.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}
