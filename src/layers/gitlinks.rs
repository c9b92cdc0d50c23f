//! Commits of other repositories in an index (gitlinks): `git status` enters their folders, and obeys the repository that it finds there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gix::{bstr::ByteSlice as _, index::entry::Mode};

use super::git_error::{GitError, said};
use crate::system::files::read_bounded;

/// Folders below `root` where its index has a commit of another repository. None where there is no repository, or no index.
///
/// # Errors
///
/// When the index cannot be read: git may read it all the same.
pub fn gitlinks(root: &Path) -> Result<Vec<PathBuf>, GitError> {
    let git = root.join(".git");
    let Ok(data) = fs::symlink_metadata(&git) else { return Ok(Vec::new()) };
    // gitrepository-layout(5): a file names the folder.
    let git = match data.is_dir() {
        true => git,
        false => match read_bounded(&git)
            .ok()
            .and_then(|text| Some(String::from_utf8(text).ok()?.strip_prefix("gitdir:")?.trim().to_owned()))
        {
            Some(place) => root.join(place),
            None => git,
        },
    };
    let index = git.join("index");
    if !index.is_file() {
        return Ok(Vec::new());
    }
    let index = gix::index::File::at(&index, gix::hash::Kind::Sha1, true, gix::index::decode::Options::default())
        .map_err(|error| {
            let config = read_bounded(&git.join("config")).unwrap_or_default().to_ascii_lowercase();
            let is_other =
                ["objectformat = sha256", "objectformat=sha256"].iter().any(|word| config.contains_str(word));
            let why =
                if is_other { "its repository is of SHA-256, and smidr reads only SHA-1".into() } else { said(&error) };
            GitError::Index { path: git.join("index"), why }
        })?;
    let links = index.entries().iter().filter(|entry| entry.mode == Mode::COMMIT);
    Ok(links.filter_map(|entry| Some(root.join(gix::path::from_bstr(entry.path(&index)).ok()?))).collect())
}
