//! Import, export and removal: what is kept, what is refused, and that a failure leaves nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
};

use serde_json::{Value, json};

use super::super::{
    ImageError, ImageName, ImageStore, LayerForm, Limits, StoredImage,
    codec::digest,
    testing::{Recorded, Tar, TestStore, emitter, gzip, picture, told, zstd},
};
use crate::{
    model::{Activity, Event, Kind, UserError as _},
    system::stop::StopToken,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn name(text: &str) -> ImageName {
    text.parse().expect("a good name")
}

fn root_fs() -> Vec<u8> {
    Tar::default().folder("./", 0o755).folder("etc/", 0o755).file("etc/os-release", "ID=test\n").end()
}

fn put(folder: &Path, file: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(file);
    fs::write(&path, bytes).expect("a file");
    path
}

/// A layout of one layer, in a folder that can be damaged.
struct Layout {
    folder: PathBuf,
    layer: PathBuf,
    config: Value,
    manifest: Value,
}

impl Layout {
    fn new(at: &Path, blob: &[u8], content: &[u8]) -> Self {
        let folder = at.join("layout");
        fs::create_dir_all(folder.join("blobs/sha256")).expect("folders");
        let layer = folder.join("blobs").join(digest(blob).blob_path());
        fs::write(&layer, blob).expect("a file");
        let kind = format!("application/vnd.oci.image.layer.v1.tar{}", if blob == content { "" } else { "+gzip" });
        let config = json!({
            "architecture": super::super::documents::architecture(), "os": "linux",
            "config": { "Env": ["PATH=/bin", "LANG=C"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(content)] },
        });
        let layers = json!([{ "mediaType": kind, "digest": digest(blob), "size": blob.len() }]);
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers });
        Self { folder, layer, config, manifest }
    }

    fn write(&mut self) -> &Path {
        let config = self.blob(&self.config.to_string());
        self.manifest["config"] = json!({
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.0, "size": config.1,
        });
        let manifest = self.blob(&self.manifest.to_string());
        let entry = json!({ "mediaType": MANIFEST, "digest": manifest.0, "size": manifest.1 });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        put(&self.folder, "index.json", index.to_string().as_bytes());
        put(&self.folder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        &self.folder
    }

    fn blob(&self, text: &str) -> (String, usize) {
        let digest = digest(text.as_bytes());
        fs::write(self.folder.join("blobs").join(digest.blob_path()), text).expect("a file");
        (digest.to_string(), text.len())
    }
}

fn refused(test: &TestStore, source: &Path, expected: &str) {
    let before = test.counts();
    let error = test.store.import(source, None, &name("bad"), &emitter().0).expect_err(expected);
    assert!(told(&error).contains(expected), "expected `{expected}`: {}", told(&error));
    assert_eq!(test.counts(), before, "{expected}: something stayed");
}

#[test]
fn one_root_file_system_in_every_dress_is_one_tree() {
    let test = TestStore::new();
    let (on, _) = emitter();
    let (plain, at) = (root_fs(), test.home.path());
    let two_members = [gzip(&plain[..700]), gzip(&plain[700..])].concat();
    let two_frames = [zstd(&plain[..700]), b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(&plain[700..])].concat();
    let mut trees = Vec::new();
    for (dress, bytes) in [("tar", &plain), ("gzip", &two_members), ("zstd", &two_frames)] {
        let image = test.store.import(&put(at, dress, bytes), None, &name(dress), &on).expect(dress);
        assert_eq!(image.config.diff_ids, [digest(&plain)], "{dress}");
        let root = test.store.checkout(&image, &on).expect(dress);
        trees.push(root.diffs().to_vec());
    }
    assert!(trees[0] == trees[1] && trees[1] == trees[2]);
    assert_eq!(fs::read_to_string(trees[0][0].join("etc/os-release")).expect("a file"), "ID=test\n");
    assert_eq!(test.counts(), [7, 1, 3, 0]);
}

#[test]
fn an_exported_image_comes_back_with_its_digest() {
    let (test, other) = (TestStore::new(), TestStore::new());
    let (on, _) = emitter();
    let at = test.home.path();
    let image = test
        .store
        .import(Layout::new(at, &gzip(&root_fs()), &root_fs()).write(), None, &name("one"), &on)
        .expect("an image");
    assert_eq!(image.config.env, [("PATH".into(), "/bin".into()), ("LANG".into(), "C".into())]);
    for dest in ["folder", "archive.tar"] {
        let dest = at.join(dest);
        test.store.export(&image, &dest, LayerForm::AsIs, &on).expect("an export");
        let back = other.store.import(&dest, None, &name("one"), &on).expect("an image");
        assert_eq!(back.manifest, image.manifest);
        assert!(matches!(test.store.export(&image, &dest, LayerForm::AsIs, &on), Err(ImageError::Exists(_))));
    }
    // As `docker save image | gzip` would have it.
    let packed = put(at, "archive.tar.gz", &gzip(&fs::read(at.join("archive.tar")).expect("a file")));
    assert_eq!(other.store.import(&packed, None, &name("two"), &on).expect("an image").manifest, image.manifest);
    let list = other.store.list().expect("a list");
    let names: Vec<_> = list.iter().map(|image| (image.name.as_str(), image.shared > 0)).collect();
    assert_eq!(names, [("one", true), ("two", true)]);
    let found = other.store.find(&image.manifest.to_string()).expect("a store").expect("an image");
    assert_eq!(found.manifest, image.manifest);
    assert!(other.store.find(&image.manifest.short()).expect("a store").is_some());
    assert!(other.store.find("sha256:ffffffff").expect("a store").is_none());
    let left = fs::read_dir(at)
        .expect("a folder")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0);
}

#[test]
fn docker_archives_with_linked_layers_are_understood() {
    let test = TestStore::new();
    let (on, _) = emitter();
    let (layer, hex) = (root_fs(), ["a".repeat(64), "b".repeat(64)]);
    let config = json!({
        "architecture": super::super::documents::architecture(), "os": "linux", "config": { "Env": null, "Labels": null },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer), digest(&layer)] }, "history": null,
    });
    let list = json!([{ "Config": format!("{}.json", hex[0]), "RepoTags": ["x:latest"],
        "Layers": [format!("{}/layer.tar", hex[0]), format!("{}/layer.tar", hex[1])] }]);
    let text = String::from_utf8(layer.clone()).expect("text and zeros");
    let archive = Tar::default()
        .folder(&format!("{}/", hex[0]), 0o755)
        .file(&format!("{}/layer.tar", hex[0]), &text)
        .symlink(&format!("{}/layer.tar", hex[1]), &format!("../{}/layer.tar", hex[0]))
        .file(&format!("{}.json", hex[0]), &config.to_string())
        .file("manifest.json", &list.to_string())
        .file("repositories", "{}");
    let image = test
        .store
        .import(&put(test.home.path(), "docker.tar", &archive.end()), None, &name("d"), &on)
        .expect("an image");
    assert_eq!((image.layers, image.config.env.len()), (2, 0));
    assert_eq!(image.layers, 2);
}

#[test]
fn what_is_no_image_is_named_as_such() {
    let test = TestStore::new();
    let at = test.home.path();
    let good = gzip(&root_fs());
    let sources: [(&str, &[u8], &str); 10] = [
        ("empty", b"", "is empty"),
        ("text", &[b'x'; 5000], "is no tar archive"),
        ("short", b"hello", "truncated"),
        ("xz", b"\xfd7zXZ\0\0\0", "compressed with xz"),
        ("bz2", b"BZh91AY", "compressed with bzip2"),
        ("half.tar", &root_fs()[..2000], "truncated"),
        ("no-end.tar", &root_fs()[..2048], "truncated"),
        ("half.gz", &good[..good.len() - 12], "truncated"),
        ("odd.gz", &[&good[..60], &b"xxxxxx"[..], &good[66..]].concat(), "cannot"),
        ("only-json.tar", &Tar::default().file("index.json", "{}").end(), "neither an image nor a root"),
    ];
    for (file, bytes, expected) in sources {
        refused(&test, &put(at, file, bytes), expected);
    }
    refused(&test, &at.join("missing"), "No such file");
    fs::create_dir(at.join("folder")).expect("a folder");
    refused(&test, &at.join("folder"), "no OCI layout");
}

type Damage = fn(&mut Layout);

#[test]
fn a_damaged_layout_is_refused_and_leaves_nothing() {
    let cases: [(&str, Damage); 14] = [
        ("cannot read `blobs/", |it| fs::remove_file(&it.layer).expect("removed")),
        ("bytes and has", |it| fs::write(&it.layer, b"short").expect("a file")),
        ("its digest should be", |it| {
            let mut bytes = fs::read(&it.layer).expect("a file");
            bytes[20] ^= 1;
            fs::write(&it.layer, bytes).expect("a file");
        }),
        ("its digest should be", |it| it.config["rootfs"]["diff_ids"][0] = json!(digest(b"other"))),
        ("names 2 layers", |it| it.config["rootfs"]["diff_ids"] = json!([digest(b"a"), digest(b"b")])),
        ("names a layer by", |it| it.config["rootfs"]["diff_ids"][0] = json!("sha256:../../../etc/passwd")),
        ("is for `windows`", |it| it.config["os"] = json!("windows")),
        ("cannot understand", |it| it.manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd")),
        ("cannot understand", |it| it.manifest["layers"][0]["size"] = json!(-1)),
        ("bytes and has", |it| it.manifest["layers"][0]["size"] = json!(3)),
        ("an index and a manifest at once", |it| it.manifest["manifests"] = json!([])),
        ("does not unpack", |it| {
            let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
            it.manifest["layers"][0]["mediaType"] = json!(foreign);
        }),
        ("exceeds the limit of 400 layers", |it| {
            let layer = it.manifest["layers"][0].clone();
            it.manifest["layers"] = std::iter::repeat_n(layer, 401).collect();
        }),
        ("limit", |it| it.config["author"] = json!("x".repeat(9 << 20))),
    ];
    for (expected, damage) in cases {
        let test = TestStore::new();
        let mut layout = Layout::new(test.home.path(), &gzip(&root_fs()), &root_fs());
        damage(&mut layout);
        refused(&test, layout.write(), expected);
    }
}

#[test]
fn a_layout_cannot_lead_outside_its_folder() {
    let test = TestStore::new();
    let mut layout = Layout::new(test.home.path(), &gzip(&root_fs()), &root_fs());
    let outside = put(test.home.path(), "outside", &fs::read(&layout.layer).expect("a file"));
    fs::remove_file(&layout.layer).expect("removed");
    std::os::unix::fs::symlink(outside, &layout.layer).expect("a link");
    refused(&test, layout.write(), "No such file");
}

#[test]
fn content_after_the_end_of_a_layer_counts_in_its_digest() {
    let test = TestStore::new();
    let content = [root_fs(), b"something after the end".to_vec()].concat();
    let mut layout = Layout::new(test.home.path(), &gzip(&content), &content);
    test.store.import(layout.write(), None, &name("padded"), &emitter().0).expect("an image");
    let mut layout = Layout::new(test.home.path(), &gzip(&content), &root_fs());
    refused(&test, layout.write(), "its digest should be");
}

#[test]
fn a_small_archive_may_not_become_a_large_tree() {
    let limits = Limits { ratio_from: 100_000, ratio: 10, ..Limits::default() };
    let test = TestStore::new();
    let store = test.store.clone().with_limits(limits);
    let bomb = Tar::default().folder("etc/", 0o755).file("etc/zeros", &"0".repeat(1_000_000)).end();
    let path = put(test.home.path(), "bomb.gz", &gzip(&bomb));
    let error = store.import(&path, None, &name("bomb"), &emitter().0).expect_err("too large");
    assert!(told(&error).contains("for the size of its blob (100000)"), "{}", told(&error));
    assert!(error.hint().is_some_and(|hint| hint.contains("--limit ratio=")), "{error}");
    let mut raised = limits;
    raised.set("ratio=1000").expect("a limit");
    test.store.clone().with_limits(raised).import(&path, None, &name("bomb"), &emitter().0).expect("allowed");
    test.store.remove(&name("bomb"), &emitter().0).expect("removed");
    assert!(raised.set("ratio").is_err() && raised.set("size=1").is_err() && raised.set("ratio=0").is_err());
    assert_eq!(test.counts(), [0, 0, 0, 0]);
    test.store.import(&path, None, &name("bomb"), &emitter().0).expect("within the usual limits");
}

fn import(test: &TestStore, called: &str, text: &str) -> StoredImage {
    let archive = Tar::default().folder("etc/", 0o755).file("etc/text", text).end();
    test.store.import(&put(test.home.path(), called, &archive), None, &name(called), &emitter().0).expect("an image")
}

#[test]
fn removal_takes_what_nobody_needs_and_nothing_else() {
    let test = TestStore::new();
    let (on, _) = emitter();
    let (one, _two) = (import(&test, "one", "1"), import(&test, "two", "2"));
    import(&test, "same", "1");
    assert_eq!(test.counts(), [6, 2, 3, 0]);
    let used = test.store.checkout(&one, &on).expect("a root");
    // Another name keeps it.
    test.store.remove(&name("same"), &on).expect("removed");
    let error = test.store.remove(&name("one"), &on).expect_err("in use");
    assert!(matches!(&error, ImageError::InUse { holder, .. } if holder.contains("build test-00000007")), "{error}");
    assert!(error.hint().is_some());
    test.store.remove(&name("two"), &on).expect("removed");
    assert_eq!(test.counts(), [3, 1, 1, 0]);
    let before = picture(&used.diffs()[0]);
    // The name may mean something else from now on; the build keeps what it has.
    import(&test, "one", "3");
    assert_eq!(picture(&used.diffs()[0]), before);
    drop(used);
    test.store.remove(&name("one"), &on).expect("removed");
    assert_eq!(test.counts(), [0, 0, 0, 0]);
    assert!(matches!(test.store.remove(&name("one"), &on), Err(ImageError::Unknown(_))));
    assert!(matches!(test.store.checkout(&one, &on), Err(ImageError::Unknown(_))));
    let locks = fs::read_dir(test.paths.locks()).expect("a folder").count();
    assert_eq!(locks, 1, "only the store's own lock stays");
}

#[test]
fn what_killed_processes_left_is_removed_when_the_store_is_opened_next() {
    let test = TestStore::new();
    let alive = test.store.scratch().expect("a scratch");
    let dead = test.paths.images().join("tmp/s-dead/fs/closed");
    fs::create_dir_all(&dead).expect("folders");
    super::super::testing::chmod(&dead, 0o000);
    ImageStore::open(&test.paths).expect("a store");
    assert!(alive.path().is_dir());
    assert_eq!(test.counts()[3], 1);
    drop(alive);
    assert_eq!(test.counts()[3], 0);
}

#[test]
fn importing_at_once_is_safe() {
    let test = TestStore::new();
    let source = put(test.home.path(), "root.tar", &root_fs());
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for index in 0..8 {
            let (test, source, start) = (&test, &source, &start);
            scope.spawn(move || {
                start.wait();
                let (on, _) = emitter();
                let store = ImageStore::open(&test.paths).expect("a store");
                let image = store.import(source, None, &name(&format!("image-{}", index % 3)), &on).expect("an image");
                let root = store.checkout(&image, &on).expect("a root");
                assert!(root.diffs()[0].join("etc/os-release").is_file());
            });
        }
    });
    assert_eq!(test.counts(), [3, 1, 3, 0]);
}

#[test]
fn nobody_waits_for_an_image_that_is_whole() {
    let test = TestStore::new();
    let (on, _) = emitter();
    let image = import(&test, "one", "1");
    let _busy = [&image.manifest, &image.config.diff_ids[0]]
        .map(|digest| test.store.lock_making(digest, "somebody else", &on).expect("a lock"));
    // A stop request ends what would have to wait.
    let stop = StopToken::default();
    stop.escalate();
    let store = ImageStore::open(&test.paths).expect("a store").heeding(&stop);
    let error = store.lock_making(&image.manifest, "a second one", &on).expect_err("busy");
    assert_eq!(error.kind(), Kind::Cancelled);
    drop(store.checkout(&image, &on).expect("a root"));
}

#[test]
fn a_layer_is_unpacked_once_and_nobody_waits_for_those_who_use_it() {
    let test = TestStore::new();
    let image = import(&test, "one", "1");
    fs::remove_dir_all(test.store.diff(&image.config.diff_ids[0])).expect("removed");
    let (start, all_have_it) = (Barrier::new(6), Barrier::new(6));
    let work = || {
        let (on, Recorded(recorded)) = emitter();
        start.wait();
        let root = test.store.checkout(&image, &on).expect("a root");
        // If one waited for another to finish using it, this would never be over.
        all_have_it.wait();
        drop(root);
        let begun = |event: &&Event| matches!(event, Event::Progress { activity: Activity::Unpack, done: 0, .. });
        let recorded = recorded.lock().expect("a mutex");
        recorded.iter().filter(begun).count()
    };
    let begun: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(begun, 1);
}

#[test]
fn waiting_says_for_whom() {
    let test = TestStore::new();
    let (image, (on, Recorded(recorded))) = (import(&test, "one", "1"), emitter());
    let held = test.store.share("image build debian-12", &emitter().0).expect("a lock");
    thread::scope(|scope| {
        let removal = scope.spawn(|| test.store.remove(&image.name, &on));
        while recorded.lock().expect("a mutex").is_empty() {
            thread::yield_now();
        }
        drop(held);
        removal.join().expect("no panic").expect("removed");
    });
    let recorded = recorded.lock().expect("a mutex");
    assert!(
        matches!(&recorded[0], Event::Waiting { holder, .. } if holder.starts_with("image build debian-12")),
        "{recorded:?}"
    );
}

#[test]
fn a_damaged_store_is_named_and_can_be_mended() {
    let test = TestStore::new();
    let (on, _) = emitter();
    let (one, two) = (import(&test, "one", "1"), import(&test, "two", "2"));
    fs::write(test.store.blob(&one.documents.layers[0].digest), "damaged").expect("a file");
    fs::remove_dir_all(test.store.diff(&one.config.diff_ids[0])).expect("removed");
    let error = test.store.checkout(&one, &on).expect_err("damaged");
    assert!(matches!(error, ImageError::Size { .. }), "{error}");
    let error = test.store.export(&one, &test.home.path().join("out"), LayerForm::AsIs, &on).expect_err("damaged");
    assert!(matches!(error, ImageError::Size { .. }), "{error}");
    assert!(!test.home.path().join("out").exists());
    fs::remove_file(test.store.blob(&one.manifest)).expect("removed");
    let error = test.store.find("one").expect_err("damaged");
    assert!(error.to_string().contains("`one` is missing") && error.hint().is_some(), "{error}");
    test.store.remove(&one.name, &on).expect("removed");
    assert_eq!(test.store.list().expect("a list"), [two]);
    assert_eq!(test.counts(), [3, 1, 1, 0]);
}

#[test]
fn a_store_of_somebody_else_is_refused() {
    let test = TestStore::new();
    if !rustix::process::geteuid().is_root() {
        // Only root can give a folder away.
        return;
    }
    std::os::unix::fs::chown(test.paths.images(), Some(4242), None).expect("given away");
    let error = ImageStore::open(&test.paths).expect_err("refused");
    assert!(matches!(error, ImageError::Foreign { owner: 4242, me: 0, .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("SMIDR_HOME")));
}
