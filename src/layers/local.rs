//! Layers in folders of this machine: used as they are; smidr.lock notes their commit.

use std::path::{Path, PathBuf};

use gix::bstr::ByteSlice as _;

use crate::{lock::RepositoryPin, model::CommitId, plan::PlannedPath};

/// A folder of this machine that layers come from.
#[derive(Debug)]
pub struct Local {
    /// The folder itself.
    pub folder: PathBuf,
    /// The git repository that it belongs to, or the folder itself.
    pub repository: PathBuf,
    /// For smidr.lock.
    pub pin: RepositoryPin,
}

impl Local {
    /// Looks at a folder that is there. `home` is the caller's.
    pub fn find(name: &str, path: &PlannedPath, home: &Path) -> Self {
        // What was sent is told by its client: a repository around it here would be another one.
        let repository = if path.sent.is_none() { repository(&path.folder, home) } else { None };
        let state = match &path.sent {
            Some(sent) => sent.commit.clone().map(|commit| (commit, sent.dirty)),
            None => repository.as_deref().and_then(|repository| state(repository, &path.folder)),
        };
        let (commit, dirty) = state.map_or((None, false), |(commit, dirty)| (Some(commit), dirty));
        Self {
            folder: path.folder.clone(),
            repository: repository.unwrap_or_else(|| path.folder.clone()),
            pin: RepositoryPin {
                name: name.into(),
                git: None,
                path: Some(path.written.clone()),
                branch: None,
                tag: None,
                exact: false,
                commit,
                dirty,
                patches: Vec::new(),
            },
        }
    }

    /// The state, for messages.
    pub fn describe(&self) -> String {
        match (&self.pin.commit, self.pin.dirty) {
            (None, _) => "path".into(),
            (Some(commit), false) => format!("path, {}", commit.short()),
            (Some(commit), true) => format!("path, {} and changes", commit.short()),
        }
    }
}

/// The git repository that a folder belongs to. A home folder that is a repository itself does not count: a build must not see it.
pub fn repository(folder: &Path, home: &Path) -> Option<PathBuf> {
    let below_home = folder.ancestors().take_while(|folder| !home.starts_with(folder));
    below_home.into_iter().find(|folder| folder.join(".git").exists()).map(Path::to_path_buf)
}

/// The commit of a repository, and whether something in `folder` has not been committed. None where git could not say either: without
/// a commit, or where another user owns the repository.
pub(super) fn state(repository: &Path, folder: &Path) -> Option<(CommitId, bool)> {
    let repository = open(repository)?;
    let commit = repository.head_id().ok()?;
    let commit = CommitId::from_sha1(commit.as_bytes().try_into().ok()?);
    Some((commit, is_dirty(&repository, folder).unwrap_or(true)))
}

/// The commit that a repository is at. Runs nothing.
pub fn head(repository: &Path) -> Option<CommitId> {
    let repository = open(repository)?;
    CommitId::from_sha1(repository.head_id().ok()?.as_bytes().try_into().ok()?).into()
}

/// Whether a repository has changes that are not committed, or is none. Runs nothing.
pub fn holds_work(repository: &Path) -> bool {
    state(repository, repository).is_none_or(|(_, dirty)| dirty)
}

fn open(repository: &Path) -> Option<gix::Repository> {
    // The owner of files says nothing about the author of `.git/config`: it may have come in an archive. Its filters are programs, which git's own
    // status would run. Nothing that a repository names is run here; programs of the user's configuration are.
    let options = gix::open::Options::default().with(gix::sec::Trust::Reduced);
    gix::open_opts(repository, options).ok()
}

/// Whether git would take a file into a commit, or has: it belongs to a repository that does not ignore it. Runs nothing.
pub fn would_commit(file: &Path, home: &Path) -> bool {
    file.parent().and_then(|folder| repository(folder, home)).and_then(|found| is_taken(&found, file)).unwrap_or(false)
}

/// The files of a folder that git tracks, absolute. Runs nothing.
pub(super) fn tracked(repository: &Path, folder: &Path) -> Vec<PathBuf> {
    let find = || {
        let top = std::fs::canonicalize(repository).ok()?;
        let inside = gix::path::into_bstr(folder.strip_prefix(&top).ok()?).ok()?.into_owned();
        let repository = open(&top)?;
        let index = repository.index_or_empty().ok()?;
        let mut prefix = inside;
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let entries = index.prefixed_entries(prefix.as_ref()).unwrap_or_default();
        let files = entries.iter().filter_map(|entry| gix::path::from_bstr(entry.path(&index)).ok());
        Some(files.map(|file| top.join(file)).collect())
    };
    find().unwrap_or_default()
}

fn is_taken(repository: &Path, file: &Path) -> Option<bool> {
    let top = std::fs::canonicalize(repository).ok()?;
    let inside = std::fs::canonicalize(file.parent()?).ok()?.join(file.file_name()?);
    let inside = gix::path::into_bstr(inside.strip_prefix(&top).ok()?).ok()?.into_owned();
    let repository = open(&top)?;
    let index = repository.index_or_empty().ok()?;
    if index.entry_by_path(inside.as_ref()).is_some() {
        return Some(true);
    }
    let source = gix::worktree::stack::state::ignore::Source::WorktreeThenIdMappingIfNotSkipped;
    let mut ignored = repository.excludes(&index, None, source).ok()?;
    let entry = ignored.at_entry(inside.as_bstr(), Some(gix::index::entry::Mode::FILE)).ok()?;
    Some(!entry.is_excluded())
}

/// Whether `git status` would name something in `folder`, or the commit has no such folder: status does not name ignored files.
fn is_dirty(repository: &gix::Repository, folder: &Path) -> Option<bool> {
    let top = std::fs::canonicalize(repository.workdir()?).ok()?;
    let folder = std::fs::canonicalize(folder).ok()?;
    let inside = folder.strip_prefix(top).ok()?.to_str()?;
    if !inside.is_empty() && repository.head_tree().ok()?.lookup_entry_by_path(inside).ok()?.is_none() {
        return Some(true);
    }
    // The whole repository, or exactly that folder, whatever characters its name has.
    let patterns = (!inside.is_empty()).then(|| format!(":(top,literal){inside}").into());
    let status = repository.status(gix::progress::Discard).ok()?;
    let mut changes = status.into_iter(patterns).ok()?;
    Some(changes.next().is_some())
}

/// The address that a repository of this machine was cloned from.
pub fn origin(root: &Path) -> Option<String> {
    // Of its configuration only this address is read, and it is asked for like any other.
    let repository = gix::open_opts(root, gix::open::Options::isolated().with(gix::sec::Trust::Full)).ok()?;
    let remote = repository.find_remote("origin").ok()?;
    Some(remote.url(gix::remote::Direction::Fetch)?.to_bstring().to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    fn git(folder: &Path, args: &[&str]) {
        let identity = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false"];
        let mut command = Command::new("git");
        let done =
            command.arg("-C").arg(folder).args(identity).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").output();
        let done = done.expect("git runs");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn described(folder: &Path) -> String {
        let path =
            PlannedPath { folder: folder.into(), written: "./x".into(), pinned: false, instead_of: None, sent: None };
        Local::find("x", &path, Path::new("/nowhere")).describe()
    }

    #[test]
    fn no_program_of_its_configuration_runs() {
        for key in ["clean", "process"] {
            let top = tempfile::tempdir().expect("a temporary folder");
            let trap = top.path().join("trap");
            fs::write(top.path().join(".gitattributes"), "* filter=evil\n").expect("a file");
            git(top.path(), &["init", "-q"]);
            git(top.path(), &["add", "."]);
            git(top.path(), &["commit", "-qm", "x"]);
            git(top.path(), &["config", &format!("filter.evil.{key}"), &format!("touch '{}'; cat", trap.display())]);
            // As long as before, or no filter would be asked.
            fs::write(top.path().join(".gitattributes"), "* filter=evil ").expect("a file");
            assert!(described(top.path()).ends_with("and changes"));
            assert!(!trap.exists(), "filter.evil.{key} was run");
        }
    }

    #[test]
    fn what_a_folder_is_at() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let layer = top.path().join("layers/a b");
        fs::create_dir_all(layer.join("conf")).expect("a folder");
        fs::write(layer.join("conf/layer.conf"), "").expect("a file");
        assert_eq!(described(&layer), "path");
        git(top.path(), &["init", "-q"]);
        assert_eq!(described(&layer), "path", "nothing is committed yet");
        git(top.path(), &["add", "."]);
        git(top.path(), &["commit", "-qm", "x"]);
        let clean = described(&layer);
        assert!(clean.starts_with("path, ") && !clean.ends_with("changes"), "{clean}");
        fs::write(top.path().join("elsewhere"), "").expect("a file");
        assert_eq!(described(&layer), clean, "a file beside it does not matter");
        fs::write(layer.join("new.bb"), "").expect("a file");
        assert_eq!(described(&layer), format!("{clean} and changes"), "a file that git does not know");
        git(top.path(), &["add", "."]);
        assert_eq!(described(&layer), format!("{clean} and changes"), "one that is not committed");
        git(top.path(), &["commit", "-qm", "y"]);
        fs::write(layer.join("conf/layer.conf"), "x").expect("a file");
        assert!(described(&layer).ends_with("and changes"), "one that has changed");
        git(top.path(), &["add", "."]);
        git(top.path(), &["commit", "-qm", "z"]);
        assert!(!described(&layer).ends_with("and changes"));
        // Nothing that git would name, and nothing that it has.
        let ignored = top.path().join("layers/ignored");
        fs::create_dir_all(ignored.join("conf")).expect("a folder");
        fs::write(ignored.join("conf/layer.conf"), "").expect("a file");
        fs::write(top.path().join(".gitignore"), "/layers/ignored\n").expect("a file");
        git(top.path(), &["add", "."]);
        git(top.path(), &["commit", "-qm", "ignore"]);
        assert!(described(&ignored).ends_with("and changes"), "one that is ignored");
        assert!(!described(top.path()).ends_with("and changes"), "the whole repository");
        for (file, taken) in [
            ("layers/ignored/x", false),
            ("layers/x", true),
            (".gitignore", true),
            ("layers/a b/conf/layer.conf", true),
        ] {
            assert_eq!(would_commit(&top.path().join(file), Path::new("/nowhere")), taken, "{file}");
        }
        assert!(!would_commit(&top.path().join("layers/x"), top.path()), "a home under git");
        // A home under git is no repository of layers.
        let path =
            PlannedPath { folder: layer.clone(), written: "./x".into(), pinned: false, instead_of: None, sent: None };
        assert_eq!(Local::find("x", &path, top.path()).repository, layer);
        assert_eq!(Local::find("x", &path, Path::new("/nowhere")).repository, top.path());
    }
}
