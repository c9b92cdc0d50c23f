//! A tree becomes an image, and the image the same tree again.

use std::{collections::BTreeMap, fs};

use super::super::{
    NewImage, StoredImage,
    testing::{TestStore, emitter, furnish, picture},
    tree,
};

const EPOCH: i64 = 1_700_000_000;

fn publish(
    test: &TestStore,
    name: &str,
    base: Option<StoredImage>,
    fill: impl FnOnce(&super::super::Scratch),
) -> StoredImage {
    let tree = test.store.scratch().expect("a scratch");
    fill(&tree);
    let labels: BTreeMap<_, _> = (0..20).map(|i| (format!("label-{i}"), i.to_string())).collect();
    let env = vec![("LANG".into(), "en_US.UTF-8".into())];
    let name = name.parse().expect("a name");
    let new = NewImage { name, base, tree, env, labels, created_by: "a test".into(), epoch: EPOCH };
    test.store.publish(new, &emitter().0).expect("an image")
}

#[test]
fn a_published_tree_is_what_its_blob_unpacks_to() {
    let test = TestStore::new();
    let image = publish(&test, "one", None, furnish);
    let (on, _) = emitter();
    let root = test.store.checkout(&image, &on).expect("a root");
    let ours = picture(&root.diffs()[0]);
    assert!(ours.len() > 15 && ours.values().all(|seen| seen.mode & 0o6000 == 0 && seen.mtime.0 <= EPOCH));
    drop(root);
    // Without the unpacked layer, checkout has to make it of the blob.
    fs::remove_dir_all(test.store.diff(&image.config.diff_ids[0])).expect("removed");
    let root = test.store.checkout(&image, &on).expect("a root");
    let theirs = picture(&root.diffs()[0]);
    for (path, seen) in &ours {
        assert_eq!(Some(seen), theirs.get(path), "{}", path.display());
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn equal_trees_give_equal_digests_in_any_store() {
    let (here, there) = (TestStore::new(), TestStore::new());
    let one = publish(&here, "one", None, furnish);
    let other = publish(&there, "one", None, furnish);
    assert_eq!(one.manifest, other.manifest);
    assert_eq!(one.created.as_second(), EPOCH);
    assert_eq!(one.config.env, [("LANG".to_string(), "en_US.UTF-8".to_string())]);
}

#[test]
fn a_layer_on_a_base_keeps_whiteouts_that_hide_something() {
    let test = TestStore::new();
    let base = publish(&test, "base", None, furnish);
    let image = publish(&test, "top", Some(base.clone()), |scratch| {
        let root = fs::File::open(scratch.path()).expect("a folder");
        let at = |path: &str| scratch.path().join(path);
        let hide =
            |name: &str| tree::make_whiteout(std::os::fd::AsFd::as_fd(&root), name.as_ref()).expect("a whiteout");
        hide("dangling");
        hide("never-was");
        for folder in ["tmp", "new"] {
            fs::create_dir(at(folder)).expect("a folder");
            tree::set_opaque(fs::File::open(at(folder)).expect("a folder")).expect("an attribute");
        }
    });
    assert_eq!((image.layers, base.layers), (2, 1));
    let (on, _) = emitter();
    let root = test.store.checkout(&image, &on).expect("a root");
    let seen = picture(&root.diffs()[1]);
    let names: Vec<_> = seen.keys().map(|path| path.to_string_lossy()).collect();
    assert_eq!(names, ["", "dangling", "new", "tmp"]);
    let opaque = |name: &str| !seen[std::path::Path::new(name)].xattrs.is_empty();
    assert!(opaque("tmp") && !opaque("new"), "only what hides something is opaque");
    drop(root);
    fs::remove_dir_all(test.store.diff(&image.config.diff_ids[1])).expect("removed");
    let again = test.store.checkout(&image, &on).expect("a root");
    assert_eq!(picture(&again.diffs()[1]), seen);
}
