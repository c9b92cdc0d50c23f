//! How much an image may ask of this machine. Every limit is named by the error that it causes.

/// Limits on one image. The defaults fit every build host seen so far ten times over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files of one unpacked layer.
    pub layer_bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Entries of one layer, those included that it only implies.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of a path, as PATH_MAX has it.
    pub path: usize,
    /// Bytes of a symbolic link's target, likewise.
    pub link: usize,
    /// Bytes of one extended header of a tar archive.
    pub header: u64,
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
            pieces: 100_000,
            manifest: 4 << 20,
            config: 8 << 20,
            ratio: 200,
            ratio_from: 1 << 30,
            layers: 400,
        }
    }
}

impl Limits {
    /// How large a layer may become whose blob has `blob` bytes.
    pub fn unpacked(&self, blob: u64) -> u64 {
        self.layer_bytes.min(self.ratio_from.max(blob.saturating_mul(self.ratio)))
    }
}
