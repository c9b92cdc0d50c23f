//! Limits for images. Every limit is named by the error that it causes.

use crate::model::{Hint, Kind, UserError};

/// Limits on one image. The defaults are ten times what the largest known build host needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files of one unpacked layer, holes included.
    pub layer_bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Entries of one layer, including folders that it only implies.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of a path (PATH_MAX).
    pub path: usize,
    /// Bytes of a symbolic link's target, likewise.
    pub link: usize,
    /// Bytes of one extended header of a tar archive.
    pub header: u64,
    /// Bytes of memory that an image's layers may keep, as [`super::account`] counts them.
    pub memory: u64,
    /// Bytes of a zstd decoder's window.
    pub window: u64,
    /// Stored pieces of a sparse file, between its holes.
    pub pieces: u64,
    /// Bytes of an index or manifest.
    pub manifest: u64,
    /// Bytes of an image's configuration.
    pub config: u64,
    /// How many times larger than its blob a layer may be, once it is larger than [`Limits::ratio_from`].
    pub ratio: u64,
    /// Bytes below which the ratio does not matter: an empty file compresses very well.
    pub ratio_from: u64,
    /// Layers of an image: overlayfs takes 500 (overlayfs.rst), and other tools stop at 127.
    pub layers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 64 << 30,
            file_bytes: 16 << 30,
            entries: 4_000_000,
            depth: 200,
            path: 4095,
            link: 4095,
            header: 1 << 20,
            // Some 90,000 whiteouts, links and implied folders; four layers at once and all else stay below 128 MiB with it.
            memory: 16 << 20,
            // RFC 8878 wants it of every decoder, and levels up to 19 need no more. Each of four layers has one.
            window: 8 << 20,
            pieces: 100_000,
            manifest: 4 << 20,
            // Variables of three bytes take fifty times as much memory. Others allow 4 MiB; ordinary ones are 50 KiB.
            config: 2 << 20,
            ratio: 200,
            ratio_from: 1 << 30,
            layers: 400,
        }
    }
}

/// Why a limit cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` sets no limit")]
pub struct NoLimit(String);

impl UserError for NoLimit {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        vec![Hint::new(format!(
            "write NAME=NUMBER, with one of the names {}",
            RAISABLE.map(|(name, _)| name).join(", ")
        ))]
    }
}

/// What [`Limits::layer_bytes`] limits.
pub(super) const LAYER_BYTES: &str = "bytes of an unpacked layer";

/// What [`Limits::entries`] limits.
pub(super) const ENTRIES: &str = "files and folders of a layer";

/// What [`Limits::memory`] limits.
pub(super) const MEMORY: &str = "bytes of memory for names that wait until a layer or its image is complete";

/// What [`Limits::window`] limits.
pub(super) const WINDOW: &str = "bytes of zstd's window";

const FOR_ITS_BLOB: &str = "bytes of an unpacked layer, for the size of its blob";

/// Limits that a user may set, each with the words of its error.
const RAISABLE: [(&str, &str); 8] = [
    ("layer-bytes", LAYER_BYTES),
    ("ratio", FOR_ITS_BLOB),
    ("file-bytes", "bytes of one file"),
    ("entries", ENTRIES),
    ("header-bytes", "bytes of an extended header"),
    ("pieces", "pieces of a sparse file"),
    ("memory-bytes", MEMORY),
    ("window-bytes", WINDOW),
];

/// The name under which a limit can be set, found by the words of an error.
pub(super) fn name_of(what: &str) -> Option<&'static str> {
    RAISABLE.iter().find(|(_, words)| *words == what).map(|(name, _)| *name)
}

impl Limits {
    /// Sets a limit, written `ratio=2000`.
    ///
    /// # Errors
    ///
    /// When there is no such limit, or the value is not a number.
    pub fn set(&mut self, text: &str) -> Result<(), NoLimit> {
        let wrong = || NoLimit(text.chars().take(80).collect());
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let place = match name {
            "layer-bytes" => &mut self.layer_bytes,
            "ratio" => &mut self.ratio,
            "file-bytes" => &mut self.file_bytes,
            "entries" => &mut self.entries,
            "header-bytes" => &mut self.header,
            "pieces" => &mut self.pieces,
            "memory-bytes" => &mut self.memory,
            "window-bytes" => &mut self.window,
            _ => return Err(wrong()),
        };
        *place = value.parse().ok().filter(|value| *value > 0).ok_or_else(wrong)?;
        Ok(())
    }

    /// No limits on a layer: for content that was accepted before, and is known by its digest.
    pub fn none() -> Self {
        let most = u64::MAX;
        let layer = Self { layer_bytes: most, file_bytes: most, entries: most, ratio: most, ..Self::default() };
        Self { header: most, pieces: most, memory: most, window: most, ..layer }
    }

    /// The limit that restricts a layer to `room` bytes, in the words of its error.
    pub fn reason_for(&self, room: u64) -> &'static str {
        if room < self.layer_bytes { FOR_ITS_BLOB } else { LAYER_BYTES }
    }

    /// The largest size of a layer whose blob has `blob` bytes, holes aside.
    pub fn unpacked(&self, blob: u64) -> u64 {
        self.layer_bytes.min(self.ratio_from.max(blob.saturating_mul(self.ratio)))
    }
}
