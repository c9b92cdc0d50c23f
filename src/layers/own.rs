//! What a build sees of the user's own repositories: its layers, `.git` and a few files. Something empty covers what else lies beside them.

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
    host::{files::read_bounded, repository::is_git_folder},
    model::without_secrets,
    plan::OwnRepository,
};

/// How files at the top of a repository begin that recipes name in LIC_FILES_CHKSUM, or that git reads.
const COMMON: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", ".git"];

/// Of submodules, in one repository.
const MOST_MODULES: usize = 1000;

/// What of a `.git` builds see: what git needs to tell revisions and the state of files (gitrepository-layout(5)).
const GIT_PARTS: [&str; 12] = [
    "HEAD",
    "commondir",
    "config",
    "config.worktree",
    "gitdir",
    "index",
    "info",
    "modules",
    "objects",
    "packed-refs",
    "refs",
    "shallow",
];

/// Keys of a repository's configuration that builds see, for the same.
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
    ("submodule", &["active", "path", "url"]),
];

/// Notes a repository that holds layers, once.
pub(super) fn add(own: &mut Vec<OwnRepository>, local: &Local) {
    if !own.iter().any(|known| known.root == local.repository) {
        own.push(OwnRepository { root: local.repository.clone(), ..OwnRepository::default() });
    }
}

/// Sorts out what is shown of each repository, once all layers are known.
///
/// # Errors
///
/// When a link leads from a layer out of its repository.
pub(super) fn finish(checkouts: &mut Checkouts) -> Result<(), LayerError> {
    // A repository in another one belongs to it, such as a submodule.
    let roots = outermost(checkouts.own.iter().map(|own| own.root.clone()).collect());
    let own = |root: PathBuf| {
        let own = shown(root, &checkouts.layers, checkouts.bitbake.as_deref());
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
    // Of a submodule too: BitBake tells the revision of the innermost.
    let ways = layers.iter().flat_map(|layer| layer.ancestors().take_while(|folder| folder.starts_with(&root)));
    shown.extend(ways.map(|folder| folder.join(".git")));
    shown.push(root.join(".git"));
    shown.extend(bitbake.filter(|path| path.starts_with(&root)).map(Path::to_path_buf));
    for core in
        layers.iter().filter(|layer| layer.join("conf/bitbake.conf").is_file()).filter_map(|layer| layer.parent())
    {
        // OpenEmbedded-Core's COREBASE: its tasks run programs in `scripts`, and its recipes name its licences.
        if core.starts_with(&root) {
            shown.push(core.join("scripts"));
            shown.extend(common_files(core));
        }
    }
    OwnRepository { root, layers, shown: outermost(shown), ..OwnRepository::default() }
}

/// Notes what builds do not see of a repository: whatever neither belongs to it nor leads to one of the `places` where they see something else.
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
                // Where a link leads is visible or not by itself.
                (true, _) | (_, true) => {}
                (false, false) => hidden.push((path, kind.is_dir())),
            }
        }
    }
    hidden
        .extend(own.shown.iter().filter(|path| path.ends_with(".git") && is_folder(path)).flat_map(|git| rest_of(git)));
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

/// What of a `.git` builds do not see, in those of submodules too, and whether it is a folder.
fn rest_of(git: &Path) -> Vec<(PathBuf, bool)> {
    let of_one = |git: PathBuf| {
        let entries = fs::read_dir(git).into_iter().flatten().flatten();
        let is_rest = |name: &OsStr| {
            !GIT_PARTS.iter().any(|part| name == *part) && !name.as_encoded_bytes().starts_with(b"sharedindex.")
        };
        let rest = entries.filter(move |entry| is_rest(&entry.file_name()));
        rest.filter_map(|entry| Some((entry.path(), entry.file_type().ok()?)))
            .filter(|(_, kind)| !kind.is_symlink())
            .map(|(path, kind)| (path, kind.is_dir()))
    };
    git_folders(git).into_iter().flat_map(of_one).collect()
}

/// A `.git` and those of its submodules, which are called by any path.
fn git_folders(git: &Path) -> Vec<PathBuf> {
    let mut found = vec![git.to_path_buf()];
    let mut open = vec![git.join("modules")];
    while let Some(folder) = open.pop().filter(|_| found.len() < MOST_MODULES) {
        for entry in fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            match is_git_folder(&entry.path()) {
                true => {
                    open.push(entry.path().join("modules"));
                    found.push(entry.path());
                }
                false => open.push(entry.path()),
            }
        }
    }
    found
}

/// Files of a repository's `.git` of which builds see a copy: configuration without credentials, and the index.
pub fn copies(own: &OwnRepository) -> Vec<(PathBuf, Vec<u8>)> {
    let index = index(own).map(|index| (own.root.join(".git/index"), index));
    let repositories = own.shown.iter().filter(|path| path.ends_with(".git") && is_folder(path));
    let configs = repositories
        .flat_map(|git| git_folders(git))
        .flat_map(|git| ["config", "config.worktree"].map(|name| git.join(name)));
    let configs = configs.filter(|file| file.symlink_metadata().is_ok_and(|data| data.is_file())).filter_map(|file| {
        let public = read_bounded(&file).map_or(Some(Vec::new()), |text| public(&text))?;
        Some((file, public))
    });
    configs.chain(index).collect()
}

/// A repository's configuration as builds may see it: what git needs to tell the state of its files, and addresses without passwords. None if that
/// is all that there is.
fn public(text: &[u8]) -> Option<Vec<u8>> {
    let mut public = File::new(Metadata::from(Source::Local));
    let mut is_other = false;
    // git reads none of a file that it cannot parse.
    let Ok(file) = File::from_bytes_no_includes(text, Metadata::api(), Default::default()) else {
        return Some(Vec::new());
    };
    for section in file.sections() {
        let name = section.header().name().to_str_lossy().to_ascii_lowercase();
        let keys = GIT_KEYS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, keys)| keys);
        is_other |= section.value_names().any(|name| !keys.iter().any(|key| key.eq_ignore_ascii_case(&name)));
        let mut copy = public.new_section(name, section.header().subsection_name().map(ToOwned::to_owned)).ok()?;
        for key in keys {
            for value in section.values(key) {
                let value = value.to_str_lossy();
                let clean = if *key == "url" { public_address(&value) } else { value.clone().into_owned() };
                is_other |= clean != value;
                copy.push(key, clean.as_str()).ok()?;
            }
        }
    }
    is_other.then(|| public.to_bstring().into())
}

/// An address without passwords, tokens behind a `?` included.
fn public_address(address: &str) -> String {
    let clean = without_secrets(address.split('?').next().unwrap_or_default());
    match clean.split_once('@') {
        // `user:password@host:path`
        Some((who, rest)) if !clean.contains("://") => format!("{}@{rest}", who.split(':').next().unwrap_or_default()),
        _ => clean,
    }
}

/// A copy of a repository's index in which the files that a build does not see are marked as left out (skip-worktree, git-update-index(1)):
/// git would else call the repository changed, and BitBake would write that into what it builds. None where every file is seen, or where
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
