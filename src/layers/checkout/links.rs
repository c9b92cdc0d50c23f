//! Finds symbolic links of a checkout that lead out of it.
//!
//! A link leads out by an absolute path, by more `..` than there are folders, or through another link.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{OsStr, OsString},
    fs, io,
    path::{Component, Path, PathBuf},
};

/// How many links the kernel follows in one path (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// How many bytes of paths may be looked up for all links of a tree together. Ten thousand links take some millions.
pub(super) const MAX_WORK: usize = 1 << 27;

/// Links that lead to each other take too long to follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The symbolic links below a folder by their paths in it, without following any.
///
/// # Errors
///
/// When the file system refuses.
pub(super) fn find(root: &Path) -> io::Result<BTreeMap<PathBuf, PathBuf>> {
    let mut links = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry?;
        if entry.path_is_symlink() {
            let path = entry.path().strip_prefix(root).map_err(io::Error::other)?;
            links.insert(path.to_path_buf(), fs::read_link(entry.path())?);
        }
    }
    Ok(links)
}

/// The first of a tree's links that leads out, and its target.
///
/// # Errors
///
/// When following them takes more than [`MAX_WORK`].
pub(super) fn outside(links: &BTreeMap<PathBuf, PathBuf>) -> Result<Option<(&Path, &Path)>, TooLong> {
    let mut work = MAX_WORK;
    for (link, target) in links {
        if leads_out(link, links, &mut work)? {
            return Ok(Some((link, target)));
        }
    }
    Ok(None)
}

// A missing entry counts as a folder: a patch could create it.
fn leads_out(link: &Path, links: &BTreeMap<PathBuf, PathBuf>, work: &mut usize) -> Result<bool, TooLong> {
    let mut todo: VecDeque<OsString> = link.iter().map(OsStr::to_owned).collect();
    let (mut here, mut followed) = (PathBuf::new(), 0);
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if !here.pop() {
                return Ok(true);
            }
            continue;
        }
        here.push(&name);
        *work = work.checked_sub(here.as_os_str().len()).ok_or(TooLong)?;
        let Some(target) = links.get(&here) else { continue };
        followed += 1;
        if followed > MAX_LINKS {
            return Ok(false);
        }
        here.pop();
        for part in target.components().rev() {
            match part {
                Component::Normal(name) => todo.push_front(name.to_owned()),
                Component::ParentDir => todo.push_front("..".into()),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return Ok(true),
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    /// Links with their targets, and which of them leads out.
    type Row = (&'static [(&'static str, &'static str)], Option<&'static str>);

    fn links(pairs: &[(&str, &str)]) -> BTreeMap<PathBuf, PathBuf> {
        pairs.iter().map(|(link, target)| (link.into(), target.into())).collect()
    }

    #[test]
    fn out_is_out_by_whatever_way() {
        let rows: [Row; 12] = [
            (&[("a", "b"), ("d/a", "../b"), ("d/e/a", "../../d/./b"), ("x", ".")], None),
            (&[("a", "a"), ("b", "c"), ("c", "b")], None),
            (&[("a", "/etc/passwd")], Some("a")),
            (&[("a", "/")], Some("a")),
            (&[("a", "..")], Some("a")),
            (&[("d/a", "../../x")], Some("d/a")),
            (&[("d/a", "..")], None),
            (&[("d/a", "x/../../../y")], Some("d/a")),
            // By way of a link that stays inside itself.
            (&[("d/e", ".."), ("x", "d/e/../y")], Some("x")),
            (&[("deep", "p/q/r"), ("p/q/x", "../../deep/../../../..")], Some("p/q/x")),
            (&[("deep", "p/q/r"), ("p/q/x", "../../deep/../../..")], None),
            (&[("a", "b/c"), ("b", "d"), ("d/c", "../../out")], Some("a")),
        ];
        for (pairs, expected) in rows {
            let links = links(pairs);
            let found = outside(&links).map(|found| found.map(|(link, _)| link));
            assert_eq!(found, Ok(expected.map(Path::new)), "{pairs:?}");
        }
    }

    #[test]
    fn long_ways_have_an_end() {
        let target = PathBuf::from("q/".repeat(2000));
        let links = (0..20_000).map(|number| (PathBuf::from(format!("l{number}")), target.clone())).collect();
        assert_eq!(outside(&links), Err(TooLong));
    }

    proptest! {
        #[test]
        fn the_kernel_agrees(pairs in proptest::collection::btree_map("[ab](/[ab]){0,2}", "(\\.\\.|[ab])(/(\\.\\.|[ab])){0,4}", 1..6)) {
            let yard = tempfile::tempdir().expect("a folder");
            // Deep, so that what leads out lands where one can see it.
            let root = yard.path().join("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18/19/20/root");
            fs::create_dir_all(&root).expect("folders");
            let mut made = BTreeMap::new();
            for (link, target) in &pairs {
                let path = root.join(link);
                // Only where no link stands in the way, as in a tree of git.
                let above = Path::new(link).ancestors().skip(1).any(|above| made.contains_key(above));
                if !above && fs::create_dir_all(path.parent().expect("below the root")).is_ok() && symlink(target, &path).is_ok() {
                    made.insert(PathBuf::from(link), PathBuf::from(target));
                }
            }
            let root = root.canonicalize().expect("there");
            for link in made.keys() {
                if let Ok(end) = root.join(link).canonicalize() && !end.starts_with(&root) {
                    prop_assert!(leads_out(link, &made, &mut MAX_WORK.clone()) == Ok(true), "{link:?} of {made:?} ends at {end:?}");
                }
            }
            prop_assert_eq!(find(&root).expect("links"), made);
        }
    }
}
