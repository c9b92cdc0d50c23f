//! The source of an import: a folder or an archive, distinguished by content, both read as named files. Writes only a
//! decompressed copy of a compressed archive, into a scratch folder.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use super::{
    account::Account,
    archive::{Archive, Kind},
    checkout::sniff,
    codec::Compression,
    documents::Descriptor,
    error::ImageError,
    layer_error::LayerError,
    limits::{ENTRIES, Limits},
    registry::{Registry, Wanted},
    unpack::clean,
};
use crate::{
    model::{Digest, without_dots},
    system::{rooted::Rooted, scratch::Scratch},
};

/// Named files in a folder or an archive.
#[derive(Debug)]
pub(super) enum Files {
    /// An unpacked layout.
    Folder {
        /// Its files.
        root: Rooted,
        /// Its path, for messages.
        path: PathBuf,
    },
    /// An uncompressed archive, with the places of its files.
    Archive {
        /// The file.
        file: File,
        /// Offset and size of each file.
        files: BTreeMap<PathBuf, (u64, u64)>,
        /// Its path, for messages.
        path: PathBuf,
    },
}

/// The form of a source.
#[derive(Debug)]
pub(super) enum Source {
    /// An OCI layout.
    Layout(Files),
    /// The output of `docker save`.
    Docker(Files),
    /// An archive of a root file system.
    RootFs(File),
}

impl Source {
    /// Looks at the content of `path`.
    ///
    /// # Errors
    ///
    /// When it is missing, damaged, or cannot be imported.
    pub(super) fn open(path: &Path, scratch: &Scratch, limits: Limits) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Source { path: path.into(), source };
        let found = std::fs::metadata(path).map_err(failed)?;
        if found.is_dir() {
            return Self::folder(path);
        }
        if !found.is_file() {
            return Err(no_image(path, "is neither a folder nor a file"));
        }
        let file = File::open(path).map_err(failed)?;
        let compression = sniff(&file).map_err(failed)?.map_err(|name| {
            let (name, tool) = (name.0, name.0.replace("lzma", "xz"));
            no_image(
                path,
                format!("is compressed with {name}, which smidr does not read: unpack it with {tool} -d first"),
            )
        })?;
        match scan(path, &file, compression, limits)? {
            Scan::RootFs => Ok(Self::RootFs(file)),
            Scan::Files(files) if compression == Compression::None => Self::archive(path, file, files),
            Scan::Files(_) => {
                let file = inflate(path, &file, compression, scratch, limits)?;
                match scan(path, &file, Compression::None, limits)? {
                    Scan::Files(files) => Self::archive(path, file, files),
                    Scan::RootFs => Err(no_image(path, "changes while it is read")),
                }
            }
        }
    }

    fn folder(path: &Path) -> Result<Self, ImageError> {
        let part = |part: &str, source| ImageError::Part { path: path.into(), part: part.into(), source };
        let root = Rooted::open(path).map_err(|source| part(".", source))?;
        match root.resolve(Path::new("index.json")) {
            Ok(_) => Ok(Self::Layout(Files::Folder { root, path: path.into() })),
            Err(error) if error.is_missing() => {
                Err(no_image(path, "is a folder, but no OCI layout: it has no index.json"))
            }
            Err(error) => Err(part("index.json", error)),
        }
    }

    fn archive(path: &Path, file: File, files: BTreeMap<PathBuf, (u64, u64)>) -> Result<Self, ImageError> {
        let has = |name: &str| files.contains_key(Path::new(name));
        let (layout, docker) = (has("oci-layout") && has("index.json"), has("manifest.json"));
        let files = Files::Archive { file, files, path: path.into() };
        match (layout, docker) {
            // `docker save` writes both since version 25.
            (true, _) => Ok(Self::Layout(files)),
            (false, true) => Ok(Self::Docker(files)),
            _ => Err(no_image(path, "holds neither an image nor a root file system")),
        }
    }
}

impl Files {
    /// Its path, for messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder { path, .. } | Self::Archive { path, .. } => path,
        }
    }

    /// Opens a file for reading from its beginning, and gives its length.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub(super) fn open(&self, name: &Path) -> Result<(Box<dyn Read + Send + '_>, u64), ImageError> {
        match self {
            Self::Folder { root, path } => {
                let part = || name.display().to_string();
                let file = root.open_file(name).map_err(|source| ImageError::Part {
                    path: path.clone(),
                    part: part(),
                    source,
                })?;
                let size = file.metadata().map_err(|source| ImageError::Source { path: path.clone(), source })?.len();
                Ok((Box::new(file), size))
            }
            Self::Archive { file, files, path } => {
                let Some((offset, size)) = files.get(name) else {
                    return Err(no_image(path, format!("lacks `{}`, which it refers to", name.display())));
                };
                Ok((Box::new(Part { file, at: *offset, left: *size }), *size))
            }
        }
    }

    /// Reads a small file whole.
    ///
    /// # Errors
    ///
    /// When it is missing, or larger than `limit`.
    pub(super) fn read(&self, name: &Path, limit: u64) -> Result<Vec<u8>, ImageError> {
        let (input, size) = self.open(name)?;
        let what = format!("`{}` of {}", name.display(), self.path().display());
        if size > limit {
            return Err(ImageError::TooLarge { what, size, limit });
        }
        let mut bytes = Vec::new();
        let read = input.take(limit).read_to_end(&mut bytes);
        read.map_err(|source| ImageError::Source { path: self.path().into(), source })?;
        if bytes.len() as u64 == size {
            Ok(bytes)
        } else {
            Err(ImageError::Size { what, wanted: size, found: bytes.len() as u64 })
        }
    }
}

impl Registry for Files {
    /// A layout has one index, which labels its images; the caller chooses by label.
    fn document(&self, wanted: Wanted<'_>, limit: u64) -> Result<(Vec<u8>, Option<String>), ImageError> {
        let path = match wanted {
            Wanted::Tag(_) => PathBuf::from("index.json"),
            Wanted::Digest(digest) => blob_name(digest),
        };
        Ok((self.read(&path, limit)?, None))
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send + '_>, ImageError> {
        let (mut input, _) = self.open(&blob_name(&blob.digest))?;
        let skipped = io::copy(&mut input.by_ref().take(from), &mut io::sink());
        skipped.map_err(|source| ImageError::Source { path: self.path().into(), source })?;
        Ok(input)
    }
}

fn blob_name(digest: &Digest) -> PathBuf {
    Path::new("blobs").join(digest.blob_path())
}

// A part of a file, with its own position.
struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

enum Scan {
    RootFs,
    Files(BTreeMap<PathBuf, (u64, u64)>),
}

// Reads the archive's headers to the end, or until an entry shows that it cannot be an image.
fn scan(path: &Path, mut file: &File, compression: Compression, limits: Limits) -> Result<Scan, ImageError> {
    let failed = |source| ImageError::Source { path: path.into(), source };
    let damaged = |source| match source {
        LayerError::Malformed { at: 512, .. } => no_image(path, "is no tar archive, compressed or not"),
        source => ImageError::Archive { path: path.into(), source },
    };
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let most = if compression == Compression::None { size } else { limits.unpacked(size) };
    let input = compression.decode(BufReader::with_capacity(64 << 10, file), limits.window).map_err(failed)?;
    let mut archive = Archive::new(input.take(most.saturating_add(1)), limits);
    let account = Account::new(&limits);
    let (mut files, mut links, mut count) = (BTreeMap::new(), Vec::new(), 0);
    loop {
        let next = archive.next_entry();
        if archive.position() > most {
            return Err(too_large(path, most));
        }
        let Some(entry) = next.map_err(damaged)? else { break };
        count += 1;
        if count > limits.entries {
            let (what, limit) = (ENTRIES, limits.entries);
            return Err(damaged(LayerError::Limit { entry: entry.path[..].into(), what, limit }));
        }
        let name = clean(&entry.path, &entry.path, &limits).map_err(damaged)?;
        if !belongs_to_image(&name, entry.kind) || files.len() > MOST_FILES {
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            return Ok(Scan::RootFs);
        }
        if entry.sparse.is_some() {
            // The stored bytes are not the content, and files of this archive are read in place.
            let why = "is a sparse file, which the archive of an image must not hold; pack it again without --sparse";
            return Err(damaged(LayerError::Entry { entry: entry.path[..].into(), why }));
        }
        match entry.kind {
            Kind::File => drop(files.insert(account.keep(name).map_err(damaged)?, (entry.offset, entry.size))),
            Kind::Symlink | Kind::HardLink => {
                let link = PathBuf::from(OsString::from_vec(entry.link));
                let folder = name.parent().filter(|_| entry.kind == Kind::Symlink).unwrap_or(Path::new(""));
                let target = without_dots(&folder.join(link));
                let target = target.strip_prefix("/").map_or(target.clone(), Path::to_path_buf);
                let target = account.keep(target).map_err(damaged)?;
                links.push((account.keep(name).map_err(damaged)?, target));
            }
            _ => {}
        }
    }
    if files.is_empty() && archive.position() == 0 {
        return Err(no_image(path, "is empty"));
    }
    // Docker before version 10 wrote a layer once and linked to it: `../<id>/layer.tar`.
    for (name, target) in links {
        if let Some(place) = files.get(&target).copied() {
            files.insert(name, place);
        }
    }
    Ok(Scan::Files(files))
}

const MOST_FILES: usize = 10_000;

// Image archives hold `blobs/`, folders and files named by digests, and JSON documents.
fn belongs_to_image(name: &Path, kind: Kind) -> bool {
    let mut parts = name.iter().map(|part| part.to_string_lossy());
    let Some(first) = parts.next() else { return kind == Kind::Folder };
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match parts.next() {
        None if kind == Kind::Folder => first == "blobs" || is_hex(&first),
        None => {
            let named = matches!(&*first, "oci-layout" | "repositories" | "index.json" | "manifest.json");
            named || is_hex(first.strip_suffix(".tar").or(first.strip_suffix(".json")).unwrap_or(&first))
        }
        Some(second) if is_hex(&first) => matches!(&*second, "layer.tar" | "json" | "VERSION"),
        Some(_) => first == "blobs",
    }
}

// Layers are read in the manifest's order, not in the archive's, so the input must be seekable.
fn inflate(
    path: &Path,
    mut file: &File,
    compression: Compression,
    scratch: &Scratch,
    limits: Limits,
) -> Result<File, ImageError> {
    let failed = |source| ImageError::Source { path: path.into(), source };
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let limit = limits.unpacked(size);
    let input = compression.decode(BufReader::with_capacity(256 << 10, file), limits.window).map_err(failed)?;
    let mut out = tempfile::tempfile_in(scratch.outer()).map_err(failed)?;
    if io::copy(&mut input.take(limit.saturating_add(1)), &mut out).map_err(failed)? > limit {
        return Err(too_large(path, limit));
    }
    Ok(out)
}

fn too_large(path: &Path, limit: u64) -> ImageError {
    ImageError::TooLarge { what: format!("the content of {}", path.display()), size: limit.saturating_add(1), limit }
}

pub(super) fn no_image(path: &Path, why: impl Into<String>) -> ImageError {
    ImageError::NoImage { path: path.into(), why: why.into() }
}
