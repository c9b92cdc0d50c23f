//! Whether a target can be built: by the names of recipes, and by what stands in the files of layers. BitBake alone knows for sure, so only
//! what no file of any layer mentions is an error.

use std::{fs::File, io::Read as _, path::Path};

use walkdir::WalkDir;

use super::{Found, LayerError};
use crate::{config::nearest, plan::Plan};

/// How much of a file is looked at, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Files of layers in which a name may stand that no file is called by.
const TEXTS: [&str; 5] = ["bb", "inc", "conf", "bbclass", "bbappend"];

/// Variables of local.conf that bring further recipes or names.
const OPEN: [&str; 3] = ["BBFILES", "BBLAYERS", "PROVIDES"];

/// Names that BitBake makes of others: of variants (BBCLASSEXTEND, multilib), of machines, of everything.
const MADE: [&str; 6] = ["nativesdk-", "lib32-", "lib64-", "libx32-", "libn32-", "-cross"];

/// Refuses a target that no layer can have.
///
/// # Errors
///
/// When there is no recipe of that name, and no layer mentions it.
pub(super) fn check(target: &str, plan: &Plan, found: &[Found]) -> Result<(), LayerError> {
    let name = target.split(':').next().unwrap_or(target);
    let is_special = ["mc", "multiconfig", "world", "universe"].contains(&name) || name.contains(['/', '~']);
    let is_made = name.ends_with("-native") || MADE.iter().any(|part| name.contains(part));
    let is_open = plan.conf_tail.contains(name) || OPEN.iter().any(|name| plan.conf_tail.contains(name));
    if is_special || is_made || is_open {
        return Ok(());
    }
    // devtool's recipes are as good as a layer's.
    let devtool = plan.folders.top.join("workspace");
    let mut recipes = Vec::new();
    let files: Vec<_> =
        found.iter().map(|layer| layer.folder.as_path()).chain([devtool.as_path()]).flat_map(files).collect();
    for path in &files {
        let recipe = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".bb"));
        recipes.extend(recipe.map(|recipe| recipe.split('_').next().unwrap_or(recipe)));
    }
    if recipes.contains(&name) || files.iter().any(|path| mentions(path, name)) {
        return Ok(());
    }
    recipes.sort_unstable();
    let near = nearest(name, recipes).map(str::to_owned);
    Err(LayerError::Target { target: name.into(), near })
}

fn files(layer: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    let is_text = |path: &Path| path.extension().and_then(|end| end.to_str()).is_some_and(|end| TEXTS.contains(&end));
    let entries = WalkDir::new(layer).into_iter().filter_entry(|entry| entry.file_name() != ".git").flatten();
    entries.map(walkdir::DirEntry::into_path).filter(move |path| is_text(path))
}

fn mentions(path: &Path, name: &str) -> bool {
    // Links are not followed: they may lead out of the layer, and to what blocks.
    if !path.symlink_metadata().is_ok_and(|data| data.is_file()) {
        return false;
    }
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut text));
    read.is_ok() && String::from_utf8_lossy(&text).contains(name)
}
