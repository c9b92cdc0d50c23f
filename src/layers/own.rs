//! What a build sees of the user's own repositories: their layers, `.git` and a few files. Everything else in them is covered by something empty.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use gix::{
    bstr::ByteSlice as _,
    config::{File, Source, file::Metadata},
    index::entry::Flags,
};

use super::{Checkouts, LayerError, local::Local, outermost};
use crate::{
    model::without_secrets,
    plan::OwnRepository,
    system::{files::read_bounded, repository::is_git_folder},
};

/// Beginnings of names of files at the top of a repository that recipes name in LIC_FILES_CHKSUM, or that git reads.
const COMMON: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", ".git"];

/// A limit for folders below `modules`, in one repository.
const MOST_FOLDERS: usize = 1000;

/// The entries of a `.git` that builds see: what git needs to tell revisions and the state of files (gitrepository-layout(5)).
const GIT_PARTS: [&str; 12] = [
    "HEAD",
    "commondir",
    "config",
    "config.worktree",
    "gitdir",
    "index",
    "modules",
    "objects",
    "packed-refs",
    "refs",
    "reftable",
    "shallow",
];

/// The keys of a repository's configuration that builds see, for the same purpose.
const GIT_KEYS: [(&str, &[&str]); 5] = [
    ("branch", &["merge", "remote"]),
    (
        "core",
        &[
            "autocrlf",
            "bare",
            "checkStat",
            "eol",
            "fileMode",
            "ignoreCase",
            "logAllRefUpdates",
            "precomposeUnicode",
            "repositoryFormatVersion",
            "safecrlf",
            "sharedRepository",
            "sparseCheckout",
            "sparseCheckoutCone",
            "symlinks",
            "trustctime",
            "worktree",
        ],
    ),
    (
        "extensions",
        &["objectFormat", "partialClone", "preciousObjects", "refStorage", "relativeWorktrees", "worktreeConfig"],
    ),
    ("remote", &["fetch", "url"]),
    ("submodule", &["active", "ignore", "path", "url"]),
];

/// Notes a repository that holds layers, once.
pub(super) fn add(own: &mut Vec<OwnRepository>, local: &Local) {
    if !own.iter().any(|known| known.root == local.repository) {
        own.push(OwnRepository { root: local.repository.clone(), ..OwnRepository::default() });
    }
}

/// Decides what is shown of each repository, once all layers are known; everything, where another tool's conf may name any file.
///
/// # Errors
///
/// When a link leads from a layer out of its repository.
pub(super) fn finish(checkouts: &mut Checkouts, whole: bool) -> Result<(), LayerError> {
    // A repository in another one belongs to it, such as a submodule.
    let roots = outermost(checkouts.own.iter().map(|own| own.root.clone()).collect());
    let own = |root: PathBuf| {
        let layers = if whole { std::slice::from_ref(&root) } else { &checkouts.layers };
        let own = shown(root.clone(), layers, checkouts.bitbake.as_deref());
        match own.layers.iter().find(|layer| leads_out(layer, &own.root)) {
            Some(layer) => Err(LayerError::LeadsOut { layer: layer.clone(), root: own.root.clone() }),
            None => Ok(own),
        }
    };
    checkouts.own = roots.into_iter().map(own).collect::<Result<_, _>>()?;
    Ok(())
}

fn leads_out(layer: &Path, root: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.into());
    !real(layer).starts_with(real(root))
}

fn shown(root: PathBuf, layers: &[PathBuf], bitbake: Option<&Path>) -> OwnRepository {
    let layers = outermost(layers.iter().filter(|layer| layer.starts_with(&root)).cloned().collect());
    let mut shown = common_files(&root);
    let bitbake = bitbake.filter(|path| path.starts_with(&root));
    // Also of a submodule: BitBake tells the revision of the innermost repository.
    let ways = layers.iter().map(PathBuf::as_path).chain(bitbake);
    let ways = ways.flat_map(|folder| folder.ancestors().take_while(|folder| folder.starts_with(&root)));
    let mut gits: Vec<PathBuf> = ways.chain([root.as_path()]).map(|folder| folder.join(".git")).collect();
    gits.sort();
    gits.dedup();
    shown.extend(gits.iter().cloned());
    shown.extend(bitbake.map(Path::to_path_buf));
    for core in
        layers.iter().filter(|layer| layer.join("conf/bitbake.conf").is_file()).filter_map(|layer| layer.parent())
    {
        // OpenEmbedded-Core's COREBASE: its tasks run programs in `scripts`, and its recipes name its licences.
        if core.starts_with(&root) {
            shown.push(core.join("scripts"));
            shown.extend(common_files(core));
        }
    }
    gits.retain(|git| is_folder(git));
    OwnRepository { root, layers, shown: outermost(shown), gits, ..OwnRepository::default() }
}

/// Notes what builds do not see of a repository: entries that neither belong to it nor lead to one of the `places` where builds see something else.
pub fn hide(own: &mut OwnRepository, places: &[PathBuf]) {
    let seen: Vec<&Path> = own.layers.iter().chain(&own.shown).map(PathBuf::as_path).collect();
    let mut hidden = Vec::new();
    let mut folders = vec![own.root.clone()];
    while let Some(folder) = folders.pop() {
        if seen.iter().any(|seen| folder.starts_with(seen)) {
            continue;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            let leads =
                seen.iter().copied().chain(places.iter().map(PathBuf::as_path)).any(|place| place.starts_with(&path));
            // One of the build's own folders.
            if places.contains(&path) {
                continue;
            }
            match (leads, kind.is_symlink()) {
                (true, _) if kind.is_dir() => folders.push(path),
                // The target of a link is hidden or visible by itself.
                (true, _) | (_, true) => {}
                (false, false) => hidden.push((path, kind.is_dir())),
            }
        }
    }
    hidden.extend(own.gits.iter().flat_map(|git| rest_of(git)));
    hidden.sort();
    own.hidden = hidden;
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|data| data.is_dir())
}

fn common_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_common = |name: &str| COMMON.iter().any(|start| name.starts_with(start));
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_common))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .collect()
}

/// The entries of a `.git` that builds do not see, including those of submodules, each with whether it is a folder.
fn rest_of(git: &Path) -> Vec<(PathBuf, bool)> {
    let of_one = |git: &PathBuf| {
        let entries = fs::read_dir(git).into_iter().flatten().flatten();
        let rest = entries.filter(|entry| !is_seen(&entry.file_name()));
        let rest = rest.filter_map(|entry| Some((entry.path(), entry.file_type().ok()?)));
        rest.filter(|(_, kind)| !kind.is_symlink()).map(|(path, kind)| (path, kind.is_dir())).collect::<Vec<_>>()
    };
    let (folders, is_whole) = git_folders(git);
    let modules = (!is_whole).then(|| (git.join("modules"), true));
    folders.iter().flat_map(of_one).chain(modules).collect()
}

fn is_seen(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    // Files that appear and vanish while git works cannot be mounted over.
    let is_passing = bytes.ends_with(b".lock") && name != "config.lock" || name == "gc.pid";
    is_passing || GIT_PARTS.iter().any(|part| name == *part) || bytes.starts_with(b"sharedindex.")
}

/// A `.git` and those of its submodules, whose names may contain folders; and whether these are all of them.
fn git_folders(git: &Path) -> (Vec<PathBuf>, bool) {
    let mut found = vec![git.to_path_buf()];
    let mut open = vec![git.join("modules")];
    let mut seen = 0;
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            seen += 1;
            if seen > MOST_FOLDERS {
                return (vec![git.to_path_buf()], false);
            }
            if is_git_folder(&entry.path()) {
                open.push(entry.path().join("modules"));
                found.push(entry.path());
            } else {
                open.push(entry.path());
            }
        }
    }
    (found, true)
}

/// Files of a repository's `.git` of which builds see a copy: configuration without credentials, and the index.
pub fn copies(own: &OwnRepository) -> Vec<(PathBuf, Vec<u8>)> {
    let index = index(own).map(|index| (own.root.join(".git/index"), index));
    let configs = own.gits.iter().flat_map(|git| git_folders(git).0);
    let configs = configs.flat_map(|git| ["config", "config.worktree"].map(|name| git.join(name)));
    let configs = configs.filter(|file| file.symlink_metadata().is_ok_and(|data| data.is_file()));
    // What cannot be read or understood is shown empty.
    let public = |file: PathBuf| {
        let text = read_bounded(&file).ok().and_then(|text| public(&text)).unwrap_or_default();
        (file, text)
    };
    configs.map(public).chain(index).collect()
}

/// A repository's configuration for builds: what git needs to tell the state of its files, and addresses without passwords.
fn public(text: &[u8]) -> Option<Vec<u8>> {
    let mut public = File::new(Metadata::from(Source::Local));
    let file = File::from_bytes_no_includes(text, Metadata::api(), Default::default()).ok()?;
    for section in file.sections() {
        let name = section.header().name().to_str_lossy().to_ascii_lowercase();
        let Some((_, keys)) = GIT_KEYS.iter().find(|(known, _)| *known == name) else { continue };
        let of = section.header().subsection_name().map(|of| public_address(&of.to_str_lossy()));
        let mut copy = public.new_section(name, of.map(gix::bstr::BString::from)).ok()?;
        for key in *keys {
            for value in section.values(key) {
                let value = value.to_str_lossy();
                let is_address = ["remote", "url"].contains(key);
                let value = if is_address { public_address(&value) } else { value.into_owned() };
                copy.push(key, value.as_str()).ok()?;
            }
        }
    }
    Some(public.to_bstring().into())
}

/// An address without passwords or tokens, including those after a `?` or `#`.
fn public_address(address: &str) -> String {
    let clean = without_secrets(address.split(['?', '#']).next().unwrap_or_default());
    match clean.split_once('@') {
        // `user:password@host:path`
        Some((who, rest)) if !clean.contains("://") => format!("{}@{rest}", who.split(':').next().unwrap_or_default()),
        _ => clean,
    }
}

/// A copy of a repository's index in which the files that a build does not see are marked as left out (skip-worktree, git-update-index(1)):
/// otherwise git would call the repository changed, and BitBake would write that into what it builds. None where every file is seen, or where
/// the index cannot be read.
fn index(own: &OwnRepository) -> Option<Vec<u8>> {
    let git = own.root.join(".git");
    if own.hidden.iter().all(|(path, _)| path.starts_with(&git)) || !is_folder(&own.root.join(".git")) {
        return None;
    }
    let options = gix::open::Options::default().with(gix::sec::Trust::Reduced);
    let repository = gix::open_opts(&own.root, options).ok()?;
    let mut index = repository.open_index().ok()?;
    let hidden: Vec<&Path> = own.hidden.iter().filter_map(|(path, _)| path.strip_prefix(&own.root).ok()).collect();
    let state: &mut gix::index::State = &mut index;
    let mut left_out = false;
    for (entry, path) in state.entries_mut_with_paths() {
        let path = gix::path::from_bstr(path).ok()?;
        if hidden.iter().any(|hidden| path.starts_with(hidden)) {
            entry.flags.insert(Flags::SKIP_WORKTREE | Flags::EXTENDED);
            left_out = true;
        }
    }
    let mut bytes = Vec::new();
    index.write_to(&mut bytes, gix::index::write::Options::default()).ok()?;
    left_out.then_some(bytes)
}
