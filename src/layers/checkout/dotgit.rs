//! The `.git` folder of a checkout: enough for git to tell the revision, and nothing that git would write to.
//!
//! It borrows the mirror's objects, stands on one commit without a branch, and knows the mirror's tags, for `git describe`.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, os::unix::ffi::OsStrExt as _, path::Path};

use gix::ObjectId;

use super::{error::CheckoutError, submodules::Declared};
use crate::{
    model::{CommitId, without_secrets},
    system::files::{self, FileError},
};

/// The parts of a `.git`.
pub(super) struct Parts<'a> {
    /// The bare repository to borrow from.
    pub mirror: &'a Path,
    /// Where the repository comes from.
    pub url: &'a str,
    /// The commit that is checked out.
    pub commit: &'a CommitId,
    /// The index entries of its files.
    pub index: gix::index::State,
    /// Submodules in their places, and their addresses.
    pub submodules: &'a [(Declared, String)],
}

/// Makes it in `folder`.
///
/// # Errors
///
/// When the mirror's refs cannot be read, or the file system refuses.
pub(super) fn make(folder: &Path, parts: Parts<'_>) -> Result<(), CheckoutError> {
    let git = folder.join(".git");
    let tags = tags(parts.mirror).map_err(|source| CheckoutError::Git { commit: parts.commit.clone(), source })?;
    let write = || -> io::Result<()> {
        for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
            fs::create_dir_all(git.join(folder))?;
        }
        let borrowed = parts.mirror.join("objects");
        fs::write(git.join("objects/info/alternates"), [borrowed.as_os_str().as_bytes(), b"\n"].concat())?;
        fs::write(git.join("HEAD"), format!("{}\n", parts.commit))?;
        fs::write(git.join("config"), config(parts.url, parts.submodules))?;
        if !tags.is_empty() {
            fs::write(git.join("packed-refs"), packed(&tags))?;
        }
        match fs::read(parts.mirror.join("shallow")) {
            Ok(shallow) => fs::write(git.join("shallow"), shallow),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    };
    write().map_err(FileError::new("write", &git))?;
    write_index(&git.join("index"), parts.index, parts.commit)
}

fn write_index(path: &Path, index: gix::index::State, commit: &CommitId) -> Result<(), CheckoutError> {
    let mut bytes = Vec::new();
    let file = gix::index::File::from_state(index, path);
    file.write_to(&mut bytes, gix::index::write::Options::default())
        .map_err(|source| CheckoutError::Git { commit: commit.clone(), source: Box::new(source) })?;
    // git reads a file again at each `git status` if it is as young as the index, and this index is never renewed.
    Ok(files::write_atomically(path, &bytes, 0o644)?)
}

fn tags(mirror: &Path) -> Result<BTreeMap<String, ObjectId>, Box<gix::Error>> {
    let read = || -> Result<BTreeMap<String, ObjectId>, gix::Error> {
        let repository = gix::open_opts(mirror, gix::open::Options::isolated())?;
        let mut tags = BTreeMap::new();
        for tag in repository.references()?.tags()?.flatten() {
            if let (Some(id), Ok(name)) = (tag.target().try_id(), std::str::from_utf8(tag.name().as_bstr()))
                && repository.has_object(id)
            {
                tags.insert(name.to_owned(), id.to_owned());
            }
        }
        Ok(tags)
    };
    read().map_err(Box::new)
}

fn packed(tags: &BTreeMap<String, ObjectId>) -> String {
    tags.iter().fold(String::from("# pack-refs with: sorted \n"), |mut text, (name, id)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{id} {name}");
        text
    })
}

fn config(url: &str, submodules: &[(Declared, String)]) -> String {
    let mut text = String::from(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = false\n[gc]\n\tauto = 0\n",
    );
    let _ = write!(text, "[remote \"origin\"]\n\turl = {}\n", quoted(&without_secrets(url)));
    for (declared, url) in submodules {
        let _ = write!(
            text,
            "[submodule {}]\n\tactive = true\n\turl = {}\n",
            quoted(&declared.name),
            quoted(&without_secrets(url))
        );
    }
    text
}

// git-config(1).
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace(['\n', '\0'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_line() {
        let name = "a\"]\n[core]\\".into();
        let declared = Declared { name, path: "x".into(), url: String::new(), unwanted: false };
        let text = config("https://host/\"x", &[(declared, "https://host/y".into())]);
        assert!(text.contains("[submodule \"a\\\"] [core]\\\\\"]\n"), "{text}");
    }
}
