//! A build's workspace: kept between the builds of one project, used by one at a time.
//!
//! Besides BitBake's own folders it holds the *skeleton*, the topmost folder of the sandbox's root: mount points and the files of
//! `/etc` that must not be the image's. Since it lies on top, nothing that an image puts in those places counts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    bitbake,
    host::{
        files::{FileError, make_private_dir, remove_tree, write_atomically},
        lock::{self, Attempt, Lock, Mode},
    },
    layers::Checkouts,
    model::{Explain, HostFacts, Kind, Paths},
    plan::{CA_BUNDLE, Plan},
};

/// Where other distributions' tools look for CA certificates.
const CA_BUNDLE_ELSEWHERE: &str = "/etc/pki/tls/certs/ca-bundle.crt";

/// A workspace that belongs to this process.
#[derive(Debug)]
pub struct Workspace {
    /// The topmost folder of the sandbox's root.
    pub skeleton: PathBuf,
    _lock: Lock,
}

/// Why there is no workspace.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The same project, a second time.
    #[error("the workspace of `{project}` is in use by {holder}")]
    Busy {
        /// The project.
        project: String,
        /// Who uses it.
        holder: String,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Explain for WorkspaceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Busy { .. } => Kind::Request,
            Self::File(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Busy { .. } => Some("wait for it, or see what it does:  smidr status".into()),
            Self::File(error) => error.hint(),
        }
    }
}

/// Takes the workspace of a plan for this process, and makes its folders.
///
/// # Errors
///
/// When another smidr uses it, or the file system refuses.
pub fn open(plan: &Plan, paths: &Paths, holder: &str) -> Result<Workspace, WorkspaceError> {
    let name = plan.folders.workspace.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lock =
        match lock::try_lock(&lock::path_in(&paths.locks(), &format!("workspace-{name}")), Mode::Exclusive, holder)? {
            Attempt::Held(lock) => lock,
            Attempt::Busy(holder) => return Err(WorkspaceError::Busy { project: plan.name.clone(), holder }),
        };
    let folders = &plan.folders;
    for folder in folders.writable().into_iter().chain([folders.home.as_path()]) {
        make_private_dir(folder)?;
    }
    make_private_dir(&folders.top.join("conf"))?;
    Ok(Workspace { skeleton: folders.workspace.join("root"), _lock: lock })
}

impl Workspace {
    /// Writes the conf of the next build.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn write_conf(&self, plan: &Plan, checkouts: &Checkouts) -> Result<(), FileError> {
        let conf = plan.folders.top.join("conf");
        let files =
            [("local.conf", bitbake::local_conf(plan)), ("bblayers.conf", bitbake::bblayers_conf(&checkouts.layers))];
        for (name, text) in files {
            // An unchanged file keeps its time: BitBake parses everything anew when a conf file changes.
            let path = conf.join(name);
            if fs::read_to_string(&path).is_ok_and(|old| old == text) {
                continue;
            }
            write_atomically(&path, text.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Makes the skeleton anew.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn write_skeleton(&self, plan: &Plan, facts: &HostFacts, repositories: &[PathBuf]) -> Result<(), FileError> {
        remove_tree(&self.skeleton)?;
        let inside = |path: &Path| self.skeleton.join(path.strip_prefix("/").unwrap_or(path));
        for point in plan.mount_points(repositories) {
            let point = inside(&point);
            fs::create_dir_all(&point).map_err(FileError::new("make the folder", &point))?;
        }
        for (path, text) in generated_files(plan, facts) {
            let path = inside(Path::new(&path));
            let write = || {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                fs::write(&path, text)
            };
            write().map_err(FileError::new("write", &path))?;
        }
        if let Some(bundle) = &facts.ca_bundle {
            for place in [CA_BUNDLE, CA_BUNDLE_ELSEWHERE] {
                let place = inside(Path::new(place));
                let copy = || {
                    fs::create_dir_all(place.parent().unwrap_or(Path::new("/")))?;
                    fs::copy(bundle, &place)
                };
                copy().map_err(FileError::new("copy the CA certificates to", &place))?;
            }
        }
        Ok(())
    }
}

/// Files whose content the sandbox decides, not the image.
fn generated_files(plan: &Plan, facts: &HostFacts) -> Vec<(String, String)> {
    let (uid, gid, home) = (plan.ids.uid, plan.ids.gid, plan.folders.home.display());
    let mut files: Vec<(String, String)> = [
        // BitBake cuts its tasks off from the network only if its uid stands in this very file (bb.utils.is_local_uid).
        (
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/root:/usr/sbin/nologin\nbuilder:x:{uid}:{gid}:smidr:{home}:/bin/bash\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("/etc/group", format!("root:x:0:\nbuilder:x:{gid}:\ntty:x:5:\nnogroup:x:65534:\n")),
        ("/etc/hostname", "smidr\n".into()),
        ("/etc/hosts", "127.0.0.1 localhost smidr\n::1 localhost\n".into()),
        ("/etc/resolv.conf", facts.resolv_conf.clone()),
        // An image may name services that it does not have.
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n".into(),
        ),
        ("/etc/machine-id", "00000000000000000000000000000000\n".into()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into();
    files.extend(bitbake::OWN_FILES.map(|(name, text)| (format!("{}/{name}", bitbake::OWN_FOLDER), text.to_owned())));
    files
}
