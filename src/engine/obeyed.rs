//! What programs of this machine obey or follow unasked: git repositories, whose configuration names programs, and links that lead out of a
//! layer. Looks for them in the folders that a sandbox can write to and that users go to. Runs no git.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use walkdir::{DirEntry, WalkDir};

use super::{guards, prepare::Use};
use crate::{
    model::{self, Digest},
    plan::{OwnRepository, PlacedInput, Plan},
    system::{
        repository::is_git_folder,
        rooted::{Rooted, open_linkless},
    },
};

/// What makes a folder a bare repository to git.
const HEAD: &str = "HEAD";

/// Of a file that is told by its digest, in bytes.
const MOST_READ: u64 = 4 << 20;

/// A folder to look into.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Area {
    folder: PathBuf,
    /// Links that lead out of this folder are looked for; none: no links are.
    root: Option<PathBuf>,
    /// Whether only its top is looked at. Below are the build's own repositories.
    top: bool,
    /// Whether it lies in a folder of the build, which can put a link in its place.
    inner: bool,
}

/// The folders that a sandbox of a plan can write to and that users go to.
pub(super) fn areas(plan: &Plan, own: &[OwnRepository], inputs: &[PlacedInput], what: Use) -> Vec<Area> {
    let layers =
        own.iter().filter(|_| what == Use::Edit).flat_map(|own| own.layers.iter().map(|layer| (layer, &own.root)));
    let layers =
        layers.map(|(layer, root)| Area { folder: real(layer), root: Some(real(root)), top: false, inner: false });
    // One that is a bare repository itself was given to be changed.
    let binds = inputs
        .iter()
        .filter(|input| input.writable && input.folder && !input.git_writable && !is_git_folder(&input.source));
    let binds = binds.map(|input| Area { folder: real(&input.source), root: None, top: false, inner: false });
    let folders = &plan.folders;
    let tops = [&folders.top, &folders.tmp, &folders.downloads, &folders.sstate].map(|folder| (folder, true));
    let build = tops.into_iter().chain([(&folders.deploy, false)]);
    let build = build.filter_map(|(folder, top)| {
        let (root, inside) = folders.inside(folder)?;
        let inner = !inside.as_os_str().is_empty();
        let folder = if inner { real(root).join(inside) } else { real(root) };
        Some(Area { folder, root: None, top, inner })
    });
    layers.chain(binds).chain(build).collect()
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// All that is in these folders, but for those `skipped` in them: `.git`, `HEAD` of what has the shape of a bare repository, links that lead out, and
/// folders that cannot be looked into; each with what it is.
pub(super) fn look(areas: &[Area], skipped: &[PathBuf]) -> Seen {
    let Ok(root) = Rooted::open(Path::new("/")) else { return Seen::new() };
    let leads_there = |path: &Path| root.open_plain(path, OFlags::PATH | OFlags::DIRECTORY).is_ok();
    let there = areas.iter().filter(|area| area.folder.parent().is_none_or(leads_there));
    let look_at = |area: &Area| match fs::read_link(&area.folder) {
        Ok(target) if area.inner => Seen::from([(area.folder.clone(), format!("link {}", target.display()))]),
        Ok(_) => Seen::new(),
        Err(_) => look_into(area, skipped),
    };
    there.flat_map(look_at).collect()
}

fn look_into(area: &Area, skipped: &[PathBuf]) -> Seen {
    let mut found = BTreeMap::new();
    let deepest = if area.top { 1 } else { usize::MAX };
    let mut walk = WalkDir::new(&area.folder).max_depth(deepest).into_iter();
    while let Some(entry) = walk.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let is_closed = error.io_error().is_some_and(|error| !is_gone(error));
                let closed = error.path().filter(|path| is_closed && *path != area.folder);
                found.extend(closed.map(|path| (path.to_path_buf(), "a closed folder".into())));
                continue;
            }
        };
        if entry.depth() > 0 && skipped.iter().any(|skipped| skipped == entry.path()) {
            walk.skip_current_dir();
            continue;
        }
        if entry.file_type().is_dir() && !is_git(&entry) {
            let head = entry.path().join(HEAD);
            match fs::symlink_metadata(&head) {
                Err(error) if !area.top && !is_gone(&error) => {
                    found.insert(entry.into_path(), "a closed folder".into());
                    walk.skip_current_dir();
                }
                // Without it, git sees no repository there. The folder may have been the user's.
                Ok(_) if is_git_folder(entry.path()) => drop(found.insert(head, told(entry.path()))),
                _ => {}
            }
            continue;
        }
        let Some(what) = what_obeys(&entry, area.root.as_deref()) else { continue };
        if entry.file_type().is_dir() {
            walk.skip_current_dir();
        }
        found.insert(entry.into_path(), what);
    }
    found
}

/// Of what other programs have taken away meanwhile.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn what_obeys(entry: &DirEntry, root: Option<&Path>) -> Option<String> {
    if entry.file_type().is_symlink() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let leads_out = root.is_some_and(|root| leads_out(entry.path(), &target, root));
        return (leads_out || is_git(entry)).then(|| format!("link {}", target.display()));
    }
    if is_git(entry) && entry.depth() > 0 {
        return Some(if entry.file_type().is_dir() {
            "folder".into()
        } else {
            digest(entry.path()).unwrap_or_default()
        });
    }
    None
}

/// What a repository tells git, as a digest: another configuration is as new as another repository.
fn told(folder: &Path) -> String {
    let files = [HEAD, "commondir", "config", "config.worktree"];
    files.iter().map(|name| digest(&folder.join(name)).unwrap_or_else(|| "none".into())).collect::<Vec<_>>().join(" ")
}

// git takes other spellings for its own where a file system may fold case; here it does not, but the user may copy the tree.
fn is_git(entry: &DirEntry) -> bool {
    entry.file_name().eq_ignore_ascii_case(guards::GIT)
}

fn leads_out(link: &Path, target: &Path, root: &Path) -> bool {
    if target.is_absolute() {
        return !target.starts_with(root) || target.components().any(|part| part == Component::ParentDir);
    }
    link.strip_prefix(root).map_or(true, |link| model::leads_out(link, target))
}

/// Of a file that no link leads to.
pub(super) fn digest(path: &Path) -> Option<String> {
    let file = open_linkless(path).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_READ).read_to_end(&mut bytes).ok()?;
    Some(Digest::from_sha256(Sha256::digest(&bytes).into()).to_string())
}

/// Of what was found, all that git obeys, as far as it is a file or a folder: for a bare repository the whole of it.
pub(super) fn repositories<'s>(seen: &'s Seen, areas: &[Area]) -> impl Iterator<Item = &'s Path> {
    let whole: Vec<&PathBuf> = areas.iter().map(|area| &area.folder).collect();
    seen.keys().filter_map(move |path| match path.file_name().is_some_and(|name| name == HEAD) {
        true => path.parent().filter(|folder| !whole.iter().any(|whole| whole == folder)),
        false => Some(path.as_path()),
    })
}

/// Paths, and what is there.
pub(super) type Seen = BTreeMap<PathBuf, String>;

/// Programs inside choose names that are no text.
pub(super) mod seen {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::Seen;

    pub(crate) fn serialize<S: Serializer>(seen: &Seen, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(seen.iter().map(|(path, what)| (hex::encode(path.as_os_str().as_encoded_bytes()), what)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Seen, D::Error> {
        let list = Vec::<(String, String)>::deserialize(from)?;
        let path = |text: String| Ok(OsString::from_vec(hex::decode(text).map_err(D::Error::custom)?).into());
        list.into_iter().map(|(text, what)| Ok((path(text)?, what))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_out() {
        let root = Path::new("/p/repo");
        for (target, out) in [
            ("x", false),
            ("../other/x", false),
            ("../x/y", false),
            ("/p/repo/x", false),
            ("../../x", true),
            ("/etc/passwd", true),
            ("../../repo/x", true),
            ("x/../y", true),
            ("/p/repo/../x", true),
            ("/p/repository/x", true),
        ] {
            assert_eq!(leads_out(Path::new("/p/repo/layer/link"), Path::new(target), root), out, "{target}");
        }
    }
}
