//! The folder of a project that a client has sent: its worker writes config, locks and path layers there once it has the workspace. Builds of the
//! project's variants share it: layers change only while no other build uses them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::Tools;
use crate::{
    config::local_path,
    layers::unpack::{UnpackError, keep_times, unpack},
    lock::lock_path,
    model::{Digest, Event, Hint, Kind, Origin, Paths, Submission, SubmittedLayer, UserError},
    plan::{SENT_LAYERS, sent_folder},
    system::{
        files::{FileError, make_private_dir, remove_tree, write_atomically},
        lock::{self, Attempt, FileLock, Mode, WaitError},
    },
};

/// Says which archive each layer was unpacked from. Outside of them.
const RECORD: &str = ".layers.json";

/// Why a project cannot be written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// Not where such projects stand.
    #[error("{} is no config of a project that was sent", .0.display())]
    Place(PathBuf),
    /// A build of another variant uses other layers.
    #[error("the layers of {} are in use by {holder}, and this build brings others", project.display())]
    Busy {
        /// The project's folder.
        project: PathBuf,
        /// Which build.
        holder: String,
    },
    /// It was removed, or never came.
    #[error("the files of the layer `{layer}` are not here ({digest})")]
    NoBlob {
        /// The layer.
        layer: String,
        /// Of its archive.
        digest: Digest,
    },
    /// Its archive is not what a client of ours writes.
    #[error("the files of the layer `{layer}` cannot be used")]
    Layer {
        /// The layer.
        layer: String,
        /// What is wrong with them.
        source: UnpackError,
    },
    /// A stop while the project was waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for RemoteError {
    fn kind(&self) -> Kind {
        match self {
            Self::Place(_) | Self::Busy { .. } | Self::NoBlob { .. } => Kind::Request,
            Self::Layer { source, .. } => source.kind(),
            Self::Wait(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Busy { .. } => vec![Hint::command("see what it does", "smidr status")],
            Self::NoBlob { .. } => vec![Hint::new("start the build again: its client sends what is missing")],
            Self::Place(_) | Self::Layer { .. } => Vec::new(),
            Self::Wait(error) => error.hints(),
            Self::File(error) => error.hints(),
        }
    }
}

/// What a build brings of its project. Its archives are open, and stay readable until it has its turn.
pub(crate) struct Sent<'a> {
    submission: &'a Submission,
    folder: PathBuf,
    archives: Vec<Option<File>>,
}

impl<'a> Sent<'a> {
    /// Of a submission; none for one of this machine.
    ///
    /// # Errors
    ///
    /// When its project has no place below SMIDR_HOME.
    pub(crate) fn of(submission: &'a Submission, paths: &Paths) -> Result<Option<Self>, RemoteError> {
        let Origin::Remote { config, .. } = &submission.origin else { return Ok(None) };
        let folder = config.strip_prefix(paths.projects()).ok().and_then(|inside| inside.parent());
        let is_hidden = config.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_plain = !is_hidden
            && folder.is_some_and(|folder| {
                let mut parts = folder.components();
                parts.clone().count() == 2 && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
            });
        let (true, Some(folder)) = (is_plain, config.parent()) else {
            return Err(RemoteError::Place(config.clone()));
        };
        let archives = submission.layers.iter().map(|layer| File::open(paths.blob(&layer.digest)).ok()).collect();
        Ok(Some(Self { submission, folder: folder.into(), archives }))
    }

    /// Writes the project's folder, and keeps its layers as they are for as long as the lock lives. They are waited for if `wait` says so.
    ///
    /// # Errors
    ///
    /// When another build uses other layers, an archive is missing or wrong, or the file system refuses.
    pub(crate) fn write(self, wait: bool, tools: Tools<'_>) -> Result<FileLock, RemoteError> {
        make_private_dir(&self.folder)?;
        let hash = Sha256::digest(self.folder.as_os_str().as_encoded_bytes());
        let path = lock::path_in(&tools.paths.locks(), &format!("project-{:.16}", hex::encode(hash)));
        let take = |mode| self.take(&path, mode, wait, tools);
        let held = loop {
            let shared = take(Mode::Shared)?;
            if self.submission.layers.iter().all(|layer| self.is_here(layer)) {
                break shared;
            }
            drop(shared);
            let _alone = take(Mode::Exclusive)?;
            self.write_layers()?;
        };
        self.write_texts()?;
        Ok(held)
    }

    fn take(&self, path: &Path, mode: Mode, wait: bool, tools: Tools<'_>) -> Result<FileLock, RemoteError> {
        let holder = format!("build {}", tools.on.build());
        let resource = || format!("the layers of {}", self.folder.display());
        let waiting = |other: &str| tools.on.emit(Event::Waiting { resource: resource(), holder: other.into() });
        if wait {
            return Ok(lock::lock(path, mode, &holder, tools.stop, waiting)?);
        }
        match lock::lock_if_free(path, mode, &holder)? {
            Attempt::Held(lock) => Ok(lock),
            Attempt::Busy(holder) => Err(RemoteError::Busy { project: self.folder.clone(), holder }),
        }
    }

    fn is_here(&self, layer: &SubmittedLayer) -> bool {
        self.record().get(&layer.name) == Some(&layer.digest) && sent_folder(&self.folder, &layer.name).is_dir()
    }

    fn record(&self) -> BTreeMap<String, Digest> {
        let read = || serde_json::from_slice(&fs::read(self.folder.join(RECORD)).ok()?).ok();
        read().unwrap_or_default()
    }

    fn note(&self, record: &BTreeMap<String, Digest>) -> Result<(), FileError> {
        let path = self.folder.join(RECORD);
        let text = serde_json::to_vec(record).map_err(|error| FileError::new("write", &path)(error.into()))?;
        write_atomically(&path, &text, 0o600)
    }

    fn write_layers(&self) -> Result<(), RemoteError> {
        for (layer, archive) in self.submission.layers.iter().zip(&self.archives) {
            if !self.is_here(layer) {
                self.write_layer(layer, archive.as_ref())?;
            }
        }
        Ok(())
    }

    fn write_layer(&self, layer: &SubmittedLayer, archive: Option<&File>) -> Result<(), RemoteError> {
        let missing = || RemoteError::NoBlob { layer: layer.name.clone(), digest: layer.digest.clone() };
        let failed = |source| RemoteError::Layer { layer: layer.name.clone(), source };
        let place = sent_folder(&self.folder, &layer.name);
        // No layer's name begins with a dot.
        let beside = |prefix: &str| {
            let mut name = std::ffi::OsString::from(prefix);
            name.push(place.file_name().unwrap_or_default());
            place.with_file_name(name)
        };
        let (new, old) = (beside(".new-"), beside(".old-"));
        make_private_dir(&self.folder.join(SENT_LAYERS))?;
        [&new, &old].into_iter().try_for_each(|left| remove_tree(left))?;
        make_private_dir(&new)?;
        unpack(io::BufReader::new(archive.ok_or_else(missing)?), &layer.digest, &new).map_err(failed)?;
        let mut record = self.record();
        if place.is_dir() {
            keep_times(&place, &new).map_err(failed)?;
            // Killed in between, the next build does not believe that the layer is there.
            record.remove(&layer.name);
            self.note(&record)?;
            fs::rename(&place, &old).map_err(FileError::new("move away", &place))?;
        }
        fs::rename(&new, &place).map_err(FileError::new("make", &place))?;
        record.insert(layer.name.clone(), layer.digest.clone());
        self.note(&record)?;
        Ok(remove_tree(&old)?)
    }

    fn write_texts(&self) -> Result<(), FileError> {
        let (submission, config) = (self.submission, self.submission.config_path());
        let (local, own) = (submission.local.as_ref(), local_path(config));
        put(config, Some(&submission.config))?;
        put(&lock_path(config), submission.lock.as_deref())?;
        put(&own, local.map(|local| local.config.as_str()))?;
        put(&lock_path(&own), local.and_then(|local| local.lock.as_deref()))
    }
}

/// Makes a file hold a text, or be gone.
fn put(path: &Path, text: Option<&str>) -> Result<(), FileError> {
    match text {
        Some(text) if fs::read(path).is_ok_and(|found| found == text.as_bytes()) => Ok(()),
        Some(text) => write_atomically(path, text.as_bytes(), 0o600),
        None => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", path)(error)),
            _ => Ok(()),
        },
    }
}
