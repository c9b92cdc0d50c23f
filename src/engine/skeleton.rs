//! The *skeleton* of a workspace, the topmost folder of the sandbox's root: mount points and the files of `/etc` that must not be the image's.
//! Since it lies on top, nothing that an image puts in those places counts.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::workspace::Workspace;
use crate::{
    bitbake,
    model::SystemFacts,
    plan::{CA_BUNDLE, EMPTY_FILE, EMPTY_FOLDER, GIT_CONFIG, PlacedInput, Plan, What, git_config},
    system::files::{FileError, remove_tree, with_suffix, write_atomically},
};

/// Where other distributions' tools look for CA certificates.
const CA_BUNDLE_ELSEWHERE: &str = "/etc/pki/tls/certs/ca-bundle.crt";

impl Workspace {
    /// Makes the skeleton anew, unless it would be the same. A shell takes that of the last build then.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn write_skeleton(
        &mut self,
        plan: &Plan,
        facts: &SystemFacts,
        shown: &[PathBuf],
        inputs: &[PlacedInput],
    ) -> Result<(), FileError> {
        let points = plan.mount_points(shown, inputs);
        let bundle =
            plan.ca_bundle.as_ref().map(|path| (path, fs::metadata(path).and_then(|data| data.modified()).ok()));
        let content = format!("{:?}", (&points, generated_files(plan, facts), bundle));
        let is_sealed =
            |skeleton: &Path| fs::read_to_string(with_suffix(skeleton, "seal")).is_ok_and(|sealed| sealed == content);
        if let Some(of_build) = self.of_build.take_if(|of_build| is_sealed(of_build)) {
            self.skeleton = of_build;
            return Ok(());
        }
        if is_sealed(&self.skeleton) {
            return Ok(());
        }
        remove_tree(&self.skeleton)?;
        let inside = |path: &Path| self.skeleton.join(path.strip_prefix("/").unwrap_or(path));
        let empty = Path::new(bitbake::OWN_FOLDER).join(EMPTY_FOLDER);
        for point in points.iter().filter(|(_, folder)| *folder).map(|(point, _)| point).chain([&empty]) {
            let point = inside(point);
            fs::create_dir_all(&point).map_err(FileError::new("make the folder", &point))?;
        }
        let files = points.into_iter().filter(|(_, folder)| !folder).map(|(point, _)| (point, String::new()));
        let generated = generated_files(plan, facts).into_iter().map(|(path, text)| (PathBuf::from(path), text));
        for (path, text) in files.chain(generated) {
            let path = inside(&path);
            let write = || {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                fs::write(&path, text)
            };
            write().map_err(FileError::new("write", &path))?;
        }
        if let Some(bundle) = &plan.ca_bundle {
            for place in [CA_BUNDLE, CA_BUNDLE_ELSEWHERE] {
                let place = inside(Path::new(place));
                let copy = || {
                    fs::create_dir_all(place.parent().unwrap_or(Path::new("/")))?;
                    fs::copy(bundle, &place)
                };
                copy().map_err(FileError::new("copy the CA certificates to", &place))?;
            }
        }
        plain_modes(&self.skeleton, &self.own_files().join(bitbake::WAITING))?;
        if let Some(of_build) = self.of_build.take_if(|of_build| !of_build.exists())
            && fs::rename(&self.skeleton, &of_build).is_ok()
        {
            self.skeleton = of_build;
        }
        // Last: a skeleton that was not finished has no seal, or that of another one.
        write_atomically(&with_suffix(&self.skeleton, "seal"), content.as_bytes(), 0o600)
    }
}

/// What a build sees does not depend on its caller's umask.
fn plain_modes(skeleton: &Path, programs: &Path) -> Result<(), FileError> {
    walkdir::WalkDir::new(skeleton).into_iter().flatten().try_for_each(|entry| {
        let mode = if entry.file_type().is_dir() || entry.path().starts_with(programs) { 0o755 } else { 0o644 };
        let set = fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode));
        set.map_err(FileError::new("set the mode of", entry.path()))
    })
}
/// Files whose content the sandbox decides, not the image.
fn generated_files(plan: &Plan, facts: &SystemFacts) -> Vec<(String, String)> {
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
    if plan.inputs.iter().any(|input| input.what == What::GitCredentials) {
        files.push((GIT_CONFIG.into(), git_config()));
    }
    files.push((format!("{}/{EMPTY_FILE}", bitbake::OWN_FOLDER), String::new()));
    files.extend(bitbake::OWN_FILES.map(|(name, text)| (format!("{}/{name}", bitbake::OWN_FOLDER), text.to_owned())));
    let waiting = format!("{}/{}", bitbake::OWN_FOLDER, bitbake::WAITING);
    files.extend(bitbake::WAITING_NAMES.map(|name| (format!("{waiting}/{name}"), bitbake::WAITING_TEXT.to_owned())));
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{read, refused_dest},
        model::{BuildRequest, Paths},
        plan::make,
    };

    #[test]
    fn no_bind_can_take_the_place_of_our_own() {
        let facts = SystemFacts { ca_bundle: Some("/etc/ssl/cert.pem".into()), ..SystemFacts::of_an_ordinary_user() };
        let text = "name: x\nbase: {machine: m}\nbuild: {image: i}\nhost: {ssh_agent: true, netrc: true, git_credentials: true}\n";
        let config = read("smidr.yaml", text, None, &|_| None).expect("a config");
        let paths = Paths::new("/home/u/.smidr".into());
        let file = Path::new("/home/u/p/smidr.yaml");
        let plan = make(&config, None, &facts, &paths, file, &BuildRequest::default(), &crate::plan::Domain::Own)
            .expect("a plan");
        let mut own: Vec<PathBuf> = generated_files(&plan, &facts).into_iter().map(|(path, _)| path.into()).collect();
        own.extend(plan.mount_points(&[], &[]).into_iter().map(|(path, _)| path));
        own.extend(plan.inputs.iter().map(|input| input.dest.clone()));
        own.extend([CA_BUNDLE, CA_BUNDLE_ELSEWHERE].map(PathBuf::from));
        assert!(own.iter().any(|path| path == Path::new(GIT_CONFIG)) && own.len() > 15, "{own:?}");
        // What is below SMIDR_HOME is refused by the plan.
        for path in own.iter().filter(|path| !path.starts_with("/home/u/.smidr")) {
            assert!(refused_dest(path).is_some(), "{}", path.display());
        }
    }
}
