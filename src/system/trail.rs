//! All symbolic links that a path leads through: changing any of them changes what the path means.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
};

/// As many symbolic links as the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The symbolic links of an absolute path, each by its real path, and finally the real path of its end. Missing parts count as plain
/// names.
pub fn trail(path: &Path) -> Vec<PathBuf> {
    let mut links = Vec::new();
    let mut at = PathBuf::from("/");
    let mut rest = names(path);
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(name);
        match fs::read_link(&next) {
            Ok(target) if links.len() < MAX_LINKS => {
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                let mut way = names(&target);
                way.append(&mut rest);
                rest = way;
                links.push(next);
            }
            _ => at = next,
        }
    }
    links.push(at);
    links
}

fn names(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    named.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_the_end() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = fs::canonicalize(folder.path()).expect("a path without links");
        fs::create_dir_all(root.join("a/b")).expect("folders");
        symlink("a", root.join("one")).expect("a link");
        symlink(root.join("one/b/../b"), root.join("a/two")).expect("a link");
        symlink("round", root.join("round")).expect("a link");
        let seen = |path: &str| -> Vec<String> {
            let inside = |path: &Path| path.strip_prefix(&root).unwrap_or(path).display().to_string();
            trail(&root.join(path)).iter().map(|path| inside(path)).collect()
        };
        assert_eq!(seen("a/b/new"), ["a/b/new"]);
        assert_eq!(seen("one/b"), ["one", "a/b"]);
        assert_eq!(seen("one/two/new"), ["one", "a/two", "one", "a/b/new"]);
        assert_eq!(seen("a/../../../../../../.."), ["/"]);
        assert_eq!(seen("round").len(), MAX_LINKS + 1);
    }
}
