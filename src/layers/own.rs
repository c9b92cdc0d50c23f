//! What a build sees of the user's own repositories: its layers, `.git` and a few files. Something empty covers what else lies beside them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use gix::{
    bstr::ByteSlice as _,
    config::{File, Source, file::Metadata},
    index::entry::Flags,
};
use walkdir::{DirEntry, WalkDir};

use super::{Checkouts, LayerError, local::Local, outermost};
use crate::{host::files::read_bounded, model::without_secrets, plan::OwnRepository};

/// How files at the top of a repository begin that recipes name in LIC_FILES_CHKSUM, or that git reads.
const COMMON: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", ".git"];

/// What git needs to know to tell the state of a repository's files, and where it comes from.
const SECTIONS: [&str; 8] = ["branch", "core", "diff", "extensions", "feature", "filter", "remote", "submodule"];

/// Keys of these that name a program of this machine, or its arguments, where passwords stand.
const PROGRAMS: [&str; 5] = ["askPass", "fsmonitor", "gitProxy", "hooksPath", "sshCommand"];

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
            match (leads, kind.is_symlink()) {
                (true, _) if kind.is_dir() => folders.push(path),
                // Where a link leads is visible or not by itself.
                (true, _) | (_, true) => {}
                (false, false) => hidden.push((path, kind.is_dir())),
            }
        }
    }
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

/// Files of a repository's `.git` of which builds see a copy: configuration without credentials, and the index.
pub fn copies(own: &OwnRepository) -> Vec<(PathBuf, Vec<u8>)> {
    let index = index(own).map(|index| (own.root.join(".git/index"), index));
    let repositories = own.shown.iter().filter(|path| path.ends_with(".git") && is_folder(path));
    let configs = repositories.flat_map(|git| configs(git)).filter_map(|file| {
        let public = read_bounded(&file).map_or(Some(Vec::new()), |text| public(&text))?;
        Some((file, public))
    });
    configs.chain(index).collect()
}

/// All files of configuration in a `.git`, those of submodules too.
fn configs(git: &Path) -> Vec<PathBuf> {
    let looks = |entry: &DirEntry| {
        let name = entry.file_name();
        entry.depth() == 0 || !["objects", "refs", "logs", "hooks", "lfs"].iter().any(|skipped| name == *skipped)
    };
    let modules = WalkDir::new(git.join("modules")).into_iter().filter_entry(looks).flatten();
    let is_config = |entry: &DirEntry| ["config", "config.worktree"].iter().any(|name| entry.file_name() == *name);
    let modules = modules.filter(|entry| entry.file_type().is_file() && is_config(entry)).map(DirEntry::into_path);
    let own = ["config", "config.worktree"].map(|name| git.join(name)).into_iter();
    own.filter(|file| file.symlink_metadata().is_ok_and(|data| data.is_file())).chain(modules).collect()
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
        if !SECTIONS.contains(&name.as_str()) {
            is_other = true;
            continue;
        }
        let mut copy = public.new_section(name, section.header().subsection_name().map(ToOwned::to_owned)).ok()?;
        let keys: BTreeSet<String> = section.value_names().collect();
        for key in keys {
            if PROGRAMS.iter().any(|program| key.eq_ignore_ascii_case(program)) {
                is_other = true;
                continue;
            }
            for value in section.values(&key) {
                let value = value.to_str_lossy();
                let clean = without_secrets(&value);
                is_other |= clean != value;
                copy.push(&key, clean.as_str()).ok()?;
            }
        }
    }
    is_other.then(|| public.to_bstring().into())
}

/// A copy of a repository's index in which the files that a build does not see are marked as left out (skip-worktree, git-update-index(1)):
/// git would else call the repository changed, and BitBake would write that into what it builds. None where every file is seen, or where
/// the index cannot be read.
fn index(own: &OwnRepository) -> Option<Vec<u8>> {
    if own.hidden.is_empty() || !is_folder(&own.root.join(".git")) {
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
