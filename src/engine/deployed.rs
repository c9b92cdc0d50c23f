//! Which files in the deploy folder are of this build, and not left there by an earlier one or by another variant. OpenEmbedded's sstate lists what each
//! task deployed in `sstate-control/manifest-ARCH-RECIPE.TASK` (sstate.bbclass); those of tasks of this build count, whether they ran or were still
//! up to date. Reads only.

use std::{
    collections::{BTreeSet, HashMap},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{model::TaskName, plan::Plan, system::rooted::Rooted};

/// Of one manifest, in bytes, and of all in a workspace. The largest deploy tasks list thousands of paths.
const MOST_READ: u64 = 16 << 20;
const MOST_MANIFESTS: usize = 100_000;

/// Times of files follow the kernel's coarse clock (ktime_get_coarse_real_ts64), which may be behind by a tick.
const CLOCK: Duration = Duration::from_millis(100);

/// What BitBake was asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing that deploys: it showed something, or tried what it would do.
    #[default]
    Look,
    /// All that its targets need.
    Build,
    /// One task of its targets, and what that needs.
    Task,
}

/// What is known of the deploy folder after a build.
pub(super) struct Deployed {
    deploy: PathBuf,
    // What manifests list, and whether one of this build's does.
    listed: HashMap<PathBuf, bool>,
    // Whether files that no manifest lists are of this build however old they are.
    old_count: bool,
    since: SystemTime,
}

impl Deployed {
    /// Looks into the manifests. `tasks` are those of the build, which began at `since`.
    pub(super) fn look(plan: &Plan, action: &Action, tasks: &BTreeSet<TaskName>, since: SystemTime) -> Self {
        let folders = &plan.folders;
        let mut deployed = Self {
            deploy: folders.deploy.clone(),
            listed: HashMap::new(),
            // A deploy folder that the config names may be shared with other variants.
            old_count: *action == Action::Build && folders.deploy.starts_with(&folders.tmp),
            since: since.checked_sub(CLOCK).unwrap_or(since),
        };
        let Some((root, inside)) = folders.inside(&folders.tmp) else { return deployed };
        let (Ok(rooted), Some(name)) = (Rooted::open(root), folders.tmp.file_name()) else { return deployed };
        // A distribution without a libc of its own choice appends its name: `tmp-glibc` (TCLIBCAPPEND).
        let parent = inside.parent().unwrap_or(Path::new(""));
        let mut temporary = vec![inside.to_path_buf()];
        if inside != Path::new("") {
            let is_one = |sibling: &std::ffi::OsString| {
                let (sibling, name) = (sibling.as_encoded_bytes(), name.as_encoded_bytes());
                sibling.strip_prefix(name).is_some_and(|rest| rest.starts_with(b"-"))
            };
            let siblings = rooted.names(parent).unwrap_or_default();
            temporary.extend(siblings.iter().filter(|name| is_one(name)).map(|name| parent.join(name)));
        }
        for folder in temporary.iter().map(|folder| folder.join("sstate-control")) {
            for name in rooted.names(&folder).unwrap_or_default().into_iter().take(MOST_MANIFESTS) {
                let Some(is_own) = name.to_str().and_then(|name| is_of(name, tasks)) else { continue };
                deployed.read(&rooted, &folder.join(name), is_own);
            }
        }
        deployed
    }

    fn read(&mut self, rooted: &Rooted, manifest: &Path, is_own: bool) {
        let mut text = Vec::new();
        let Ok(file) = rooted.open_file(manifest) else { return };
        if file.take(MOST_READ).read_to_end(&mut text).is_err() {
            return;
        }
        for line in String::from_utf8_lossy(&text).lines() {
            if let Ok(path) = Path::new(line).strip_prefix(&self.deploy) {
                let known = self.listed.entry(path.to_path_buf()).or_default();
                *known |= is_own;
            }
        }
    }

    /// Whether a file below the deploy folder is of this build.
    pub(super) fn is_own(&self, path: &Path) -> bool {
        match self.listed.get(path) {
            Some(is_own) => *is_own,
            None => self.old_count || self.is_new(path),
        }
    }

    /// By the time of its last change, which no program can set (inode(7), ctime).
    fn is_new(&self, path: &Path) -> bool {
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        std::fs::symlink_metadata(self.deploy.join(path)).is_ok_and(|found| {
            let changed = (found.ctime(), found.ctime_nsec());
            changed >= (since.as_secs().cast_signed(), i64::from(since.subsec_nanos()))
        })
    }
}

/// Whether a manifest is of one of these tasks; none where it lists nothing that is deployed. Both the architecture and the recipe may have dashes
/// in their names.
fn is_of(manifest: &str, tasks: &BTreeSet<TaskName>) -> Option<bool> {
    let (start, task) = manifest.strip_prefix("manifest-")?.rsplit_once('.')?;
    if task == "populate_sysroot" || task.starts_with("package") {
        return None;
    }
    let recipes = start.match_indices('-').filter_map(|(at, _)| start.get(at + 1..));
    let task = format!("do_{task}");
    let mut names = recipes.map(|recipe| TaskName { recipe: recipe.into(), task: task.clone() });
    Some(names.any(|name| tasks.contains(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_tell_whose_a_file_is() {
        let name = |recipe: &str, task: &str| TaskName { recipe: recipe.into(), task: task.into() };
        let tasks = BTreeSet::from([name("linux-yocto", "do_deploy"), name("core-image-minimal", "do_image_complete")]);
        for (manifest, expected) in [
            ("manifest-qemux86_64-linux-yocto.deploy", Some(true)),
            ("manifest-core2-64-linux-yocto.deploy", Some(true)),
            ("manifest-qemux86_64-core-image-minimal.image_complete", Some(true)),
            ("manifest-qemux86_64-core-image-minimal.populate_sdk", Some(false)),
            ("manifest-qemux86_64-u-boot.deploy", Some(false)),
            ("manifest-core2-64-zlib.populate_sysroot", None),
            ("manifest-core2-64-zlib.package_write_rpm", None),
            ("index-core2-64", None),
        ] {
            assert_eq!(is_of(manifest, &tasks), expected, "{manifest}");
        }
    }
}
