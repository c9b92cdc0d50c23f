//! What images share in a store and must not be able to use against each other; and odd but legal images.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Cursor, Read},
    sync::{Mutex, mpsc},
};

use serde_json::json;

use super::super::{
    ImageError, Limits, Policy, StoredImage,
    codec::digest,
    documents::{Descriptor, Document, architecture, media},
    pull::{Label, Order},
    registry::{
        Registry, Wanted,
        testing::{Fault, FaultyRegistry},
    },
    testing::{Tar, TestStore, emitter, told},
    verify::{Checked, Damage},
};
use crate::model::{Digest, Kind, UserError as _};

type Answer = Box<dyn Fn(&Digest) -> Option<Box<dyn Read + Send>> + Send + Sync>;

/// A registry in memory, some of whose blobs come from elsewhere.
struct Shelf {
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Digest,
    asked: Mutex<Vec<(String, u64)>>,
    instead: Option<Answer>,
}

impl Registry for Shelf {
    fn document(&self, wanted: Wanted<'_>, _: u64) -> Result<(Vec<u8>, Option<String>), ImageError> {
        let Wanted::Digest(digest) = wanted else { panic!("nobody asks by tag here") };
        Ok((self.blobs[&digest.to_string()].clone(), None))
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send + '_>, ImageError> {
        self.asked.lock().expect("a mutex").push((blob.digest.to_string(), from));
        if let Some(answer) = self.instead.as_ref().and_then(|instead| instead(&blob.digest)) {
            return Ok(answer);
        }
        let bytes = &self.blobs[&blob.digest.to_string()];
        Ok(Box::new(Cursor::new(bytes[usize::try_from(from).expect("small")..].to_vec())))
    }
}

/// An image of layers, each with its blob and the digest that its content is said to have.
fn image(layers: &[(&[u8], Digest)]) -> Shelf {
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|(_, id)| id).collect::<Vec<_>>() },
    });
    let mut blobs = BTreeMap::new();
    let mut add = |bytes: &[u8]| {
        blobs.insert(digest(bytes).to_string(), bytes.to_vec());
        (digest(bytes), bytes.len())
    };
    let list: Vec<_> = layers
        .iter()
        .map(|(blob, _)| add(blob))
        .map(|(digest, size)| json!({ "mediaType": media::LAYER, "digest": digest, "size": size }))
        .collect();
    let (config_digest, size) = add(config.to_string().as_bytes());
    let config = json!({ "mediaType": media::CONFIG, "digest": config_digest, "size": size });
    let manifest = json!({ "schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": list });
    let (manifest, _) = add(manifest.to_string().as_bytes());
    Shelf { blobs, manifest, asked: Mutex::default(), instead: None }
}

fn plain(blob: &[u8]) -> (&[u8], Digest) {
    (blob, digest(blob))
}

fn tar(name: &str, text: &str) -> Vec<u8> {
    Tar::default().folder("etc/", 0o755).file(&format!("etc/{name}"), text).end()
}

fn bring(test: &TestStore, from: &Shelf, name: &str, limits: Limits) -> Result<StoredImage, ImageError> {
    let (store, on) = (test.store.clone().with_limits(limits), emitter().0);
    let _shared = store.share("test", &on)?;
    let (name, wanted) = (name.parse().expect("a name"), Wanted::Digest(&from.manifest));
    store.bring(
        &Order { from, wanted, what: "the shelf", name: &name, origin: None, label: Label::May("") },
        "test",
        &on,
    )
}

/// Says when it is first read, and goes on when it may.
struct Gated {
    bytes: Cursor<Vec<u8>>,
    reached: mpsc::Sender<()>,
    gate: Option<mpsc::Receiver<()>>,
}

impl Read for Gated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(gate) = self.gate.take() {
            let _ = self.reached.send(());
            let _ = gate.recv();
        }
        self.bytes.read(buffer)
    }
}

#[test]
fn a_blob_that_waits_for_its_place_cannot_be_replaced() {
    // Both speak of one blob; the second says that its content is something else, and so waits for no lock of the first.
    for second_ends_first in [false, true] {
        let test = TestStore::new();
        let (first, last) = (tar("a", &"x".repeat(5000)), tar("b", "y"));
        let mut genuine = image(&[plain(&first), plain(&last)]);
        let (go, gate) = mpsc::channel();
        let (reached, at_gate) = mpsc::channel();
        let gated = Mutex::new(Some(Gated { bytes: Cursor::new(last.clone()), reached, gate: Some(gate) }));
        let held = digest(&last);
        genuine.instead = Some(Box::new(move |asked| {
            let gated = gated.lock().expect("a mutex").take_if(|_| *asked == held)?;
            Some(Box::new(gated) as Box<dyn Read + Send>)
        }));
        let mut other = image(&[(&first, digest(b"something else"))]);
        let length = first.len();
        let stolen = digest(&first);
        other.instead = Some(Box::new(move |asked| {
            (*asked == stolen).then(|| Box::new(Cursor::new(vec![b'E'; length])) as Box<dyn Read + Send>)
        }));
        let part = test.store.partial(&digest(&first));
        let pulled = std::thread::scope(|scope| {
            let pull = scope.spawn(|| bring(&test, &genuine, "genuine", Limits::default()));
            at_gate.recv().expect("the last layer is asked for");
            // The first layer is complete, and waits for the last.
            while fs::read(&part).unwrap_or_default() != first {
                std::thread::yield_now();
            }
            let steal = || bring(&test, &other, "other", Limits::default()).expect_err("wrong bytes");
            if second_ends_first {
                steal();
                go.send(()).expect("it waits");
            } else {
                go.send(()).expect("it waits");
                steal();
            }
            pull.join().expect("no panic")
        });
        let pulled = pulled.expect("an image");
        assert_eq!(fs::read(test.store.blob(&digest(&first))).expect("a blob"), first);
        assert_eq!(test.store.verify(&pulled, &mut Checked::default(), &emitter().0).expect("verified"), []);
    }
}

#[test]
fn a_layer_that_came_before_another_broke_is_not_fetched_again() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            // Not before the other layer is there.
            std::thread::sleep(std::time::Duration::from_millis(200));
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let test = TestStore::new();
    let (whole, broken) = (tar("a", &"x".repeat(5000)), tar("b", "y"));
    let mut shelf = image(&[plain(&whole), plain(&broken)]);
    let lost = digest(&broken);
    shelf.instead = Some(Box::new(move |asked| (*asked == lost).then(|| Box::new(Broken) as Box<dyn Read + Send>)));
    bring(&test, &shelf, "image", Limits::default()).expect_err("broken");
    shelf.instead = None;
    shelf.asked.lock().expect("a mutex").clear();
    bring(&test, &shelf, "image", Limits::default()).expect("an image");
    let asked = shelf.asked.lock().expect("a mutex").clone();
    assert!(asked.iter().all(|(blob, _)| *blob != digest(&whole).to_string()), "{asked:?}");
}

#[test]
fn one_content_in_two_blobs_is_two_blobs_and_one_layer() {
    let test = TestStore::new();
    let content = tar("a", "x");
    let packed = zstd::encode_all(content.as_slice(), 1).expect("compressed");
    let shelf = image(&[plain(&content), (&packed, digest(&content))]);
    let stored = bring(&test, &shelf, "twice", Limits::default()).expect("an image");
    assert_eq!(test.store.verify(&stored, &mut Checked::default(), &emitter().0).expect("verified"), []);
    assert_eq!(test.counts(), [4, 1, 1, 0]);
    // The second is checked like the first.
    let lie = zstd::encode_all(&b"something else"[..], 1).expect("compressed");
    let error = bring(&test, &image(&[plain(&content), (&lie, digest(&content))]), "lie", Limits::default());
    assert!(matches!(error, Err(ImageError::Digest { .. })), "{error:?}");
}

#[test]
fn of_equal_layers_the_uppermost_counts() {
    let layer = |tar: Tar| tar.end();
    let (empty, base) = (Tar::default().end(), tar("a", "x"));
    let again = zstd::encode_all(empty.as_slice(), 1).expect("compressed");
    let (hides, shows) = (layer(Tar::default().file("etc/.wh.a", "")), tar("a", "y"));
    let (changed, linked) =
        (layer(Tar::default().folder("etc/", 0o711)), layer(Tar::default().hard_link("b", "etc/a")));
    // Layers, and which of them are stacked.
    let empties = vec![plain(&empty), plain(&base), plain(&empty), (&again[..], digest(&empty))];
    type Row<'a> = (&'a str, Vec<(&'a [u8], Digest)>, &'a [&'a [u8]]);
    let rows: [Row<'_>; 5] = [
        ("empty ones", empties, &[&base, &empty]),
        ("a whiteout, taken back", vec![plain(&base), plain(&hides), plain(&base)], &[&hides, &base]),
        (
            "a file, hidden again",
            [&base, &hides, &shows, &hides].map(|blob| plain(blob)).into(),
            &[&base, &shows, &hides],
        ),
        (
            "a folder that is implied",
            [&base, &hides, &changed, &hides].map(|b| plain(b)).into(),
            &[&base, &changed, &hides],
        ),
        (
            "a link to what is below",
            [&base, &linked, &shows, &linked].map(|b| plain(b)).into(),
            &[&base, &shows, &linked],
        ),
    ];
    for (case, layers, expected) in rows {
        let test = TestStore::new();
        let stored = bring(&test, &image(&layers), "twice", Limits::default()).expect(case);
        let root = test.store.checkout(&stored, &emitter().0).expect(case);
        let expected: Vec<_> = expected.iter().map(|content| test.store.diff(&digest(content)).join("fs")).collect();
        assert_eq!(root.diffs()[..expected.len()], expected, "{case}");
        // What stands above them is the seam.
        assert!(root.diffs()[expected.len()..].iter().all(|folder| !expected.contains(folder)), "{case}");
        assert_eq!(test.store.verify(&stored, &mut Checked::default(), &emitter().0).expect(case), [], "{case}");
    }
}

#[test]
fn one_layer_has_one_size() {
    let layer = |size: u64| json!({ "mediaType": media::LAYER, "digest": digest(b"x"), "size": size });
    let manifest = json!({
        "schemaVersion": 2, "config": { "mediaType": media::CONFIG, "digest": digest(b""), "size": 0 },
        "layers": [layer(1), layer(u64::MAX >> 1)],
    });
    let error =
        Document::parse("it", manifest.to_string().as_bytes(), None, &Limits::default()).expect_err("two sizes");
    assert!(error.to_string().contains("two sizes"), "{error}");
}

#[test]
fn a_media_type_may_have_parameters() {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "layers": [],
        "config": { "mediaType": media::CONFIG, "digest": digest(b""), "size": 0 },
    });
    let said = format!("{}; charset=utf-8", media::MANIFEST);
    Document::parse("it", manifest.to_string().as_bytes(), Some(&said), &Limits::default()).expect("a manifest");
}

#[test]
fn a_limit_is_told_as_a_limit() {
    let test = TestStore::new();
    let noise: Vec<u8> = (0..5_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let content = Tar::default().entry("big", tar::EntryType::Regular, 0o644, "", &noise).end();
    let limits = Limits { file_bytes: 1000, ..Limits::default() };
    let error = bring(&test, &image(&[plain(&content)]), "big", limits).expect_err("a limit");
    assert!(told(&error).contains("exceeds the limit for bytes of one file (1000)"), "{}", told(&error));
    assert!(error.hint().is_some_and(|hint| hint.contains("--limit file-bytes=")), "{:?}", error.hint());
    // What has come in with other limits stays usable with these.
    let stored = bring(&test, &image(&[plain(&content)]), "big", Limits::default()).expect("an image");
    let strict = test.store.clone().with_limits(limits);
    assert_eq!(strict.verify(&stored, &mut Checked::default(), &emitter().0).expect("verified"), []);
    fs::remove_dir_all(test.store.diff(&digest(&content))).expect("removed");
    strict.checkout(&stored, &emitter().0).expect("unpacked again");
}

#[test]
fn links_to_one_file_below_are_one_file_and_have_their_limit() {
    let test = TestStore::new();
    let below = tar("a", &"x".repeat(100_000));
    let mut above = Tar::default().folder("etc/", 0o755);
    for number in 0..100 {
        above = above.hard_link(&format!("etc/l{number}"), "etc/a");
    }
    // In one archive, in either order of names.
    let above = above.hard_link("etc/b", "etc/l7").hard_link("etc/z", "etc/b").end();
    let stored = bring(&test, &image(&[plain(&below), plain(&above)]), "links", Limits::default()).expect("an image");
    let root = test.store.checkout(&stored, &emitter().0).expect("a root");
    let seam = root.diffs().last().expect("a seam").join("etc");
    let inodes: std::collections::BTreeSet<u64> = fs::read_dir(&seam)
        .expect("a folder")
        .map(|entry| std::os::unix::fs::MetadataExt::ino(&entry.expect("an entry").metadata().expect("a file")))
        .collect();
    assert_eq!((fs::read_dir(&seam).expect("a folder").count(), inodes.len()), (102, 1));
    assert_eq!(test.store.verify(&stored, &mut Checked::default(), &emitter().0).expect("verified"), []);
    fs::write(seam.join("z"), "EVIL").expect("written");
    let found = test.store.verify(&stored, &mut Checked::default(), &emitter().0).expect("verified");
    assert!(matches!(&found[..], [only] if matches!(only.damage, Damage::Differs(_))), "{found:?}");
    drop(root);
    test.store.discard_damaged(&stored, &found, &emitter().0).expect("discarded");
    assert_eq!(test.store.verify(&stored, &mut Checked::default(), &emitter().0).expect("verified"), []);
}

#[test]
fn what_a_layer_leaves_to_others_is_limited() {
    let deep = |name: &str| format!("{}file", format!("{name}{}/", "x".repeat(40)).repeat(90));
    let mut tar = Tar::default();
    for number in 0..100 {
        tar = tar.file(&deep(&format!("{number}")), "");
    }
    let content = tar.end();
    let error = bring(&TestStore::new(), &image(&[plain(&content)]), "deep", Limits::default()).expect_err("a limit");
    assert!(error.hint().is_some_and(|hint| hint.contains("memory-bytes")), "{}", told(&error));
}

#[test]
fn all_layers_of_an_image_have_one_account() {
    let layer = |of: &str| (0..20).fold(Tar::default(), |tar, n| tar.file(&format!("{of}{n}/file"), "")).end();
    let (one, two) = (layer("a"), layer("b"));
    let limits = Limits { memory: 4096, ..Limits::default() };
    let refused = |test: &TestStore, layers: &[(&[u8], Digest)]| {
        let error = bring(test, &image(layers), "both", limits).expect_err("together they are too much");
        assert!(error.hint().is_some_and(|hint| hint.contains("memory-bytes")), "{}", told(&error));
    };
    refused(&TestStore::new(), &[plain(&one), plain(&two)]);
    // The same when they came with other images.
    let test = TestStore::new();
    bring(&test, &image(&[plain(&one)]), "one", limits).expect("an image");
    bring(&test, &image(&[plain(&two)]), "two", limits).expect("an image");
    refused(&test, &[plain(&one), plain(&two)]);
    // What was let in with other limits stays usable.
    let both = image(&[plain(&one), plain(&two)]);
    let stored = bring(&test, &both, "both", Limits::default()).expect("an image");
    let strict = test.store.clone().with_limits(limits);
    strict.checkout(&stored, &emitter().0).expect("a root");
    assert_eq!(strict.verify(&stored, &mut Checked::default(), &emitter().0).expect("verified"), []);
}

#[test]
fn what_a_seam_covers_is_charged_with_it() {
    let folders = |mode| (1..60).fold(Tar::default(), |tar, depth| tar.folder(&"d/".repeat(depth), mode));
    let below = folders(0o711).folder(&"d/".repeat(60), 0o711).end();
    // It implies one folder, whose 59 holders the seam needs too.
    let above = folders(0o711).file(&format!("{}file", "d/".repeat(60)), "").end();
    let layers = [plain(&below), plain(&above)];
    let error = bring(&TestStore::new(), &image(&layers), "deep", Limits { memory: 4096, ..Limits::default() });
    let error = error.expect_err("too much");
    assert!(told(&error).contains("memory") && told(&error).contains("the layers of"), "{}", told(&error));
    bring(&TestStore::new(), &image(&layers), "deep", Limits::default()).expect("an image");
}

#[test]
fn names_that_are_no_text_are_names() {
    let test = TestStore::new();
    let header = super::super::member::Member {
        path: b"usr/f\xfcr%/file",
        kind: tar::EntryType::Regular,
        mode: 0o644,
        mtime: 0,
        size: 0,
        link: b"",
        xattrs: &[],
    };
    let content = Tar::default().raw(&header.header()).end();
    let below = Tar::default().folder("usr/", 0o711).end();
    let stored = bring(&test, &image(&[plain(&below), plain(&content)]), "latin", Limits::default()).expect("an image");
    let root = test.store.checkout(&stored, &emitter().0).expect("a root");
    assert_eq!(root.diffs().len(), 3);
}

#[test]
fn pruning_counts_what_names_share_once() {
    let test = TestStore::new();
    let content = tar("a", &"x".repeat(100_000));
    let shelf = image(&[plain(&content)]);
    bring(&test, &shelf, "one", Limits::default()).expect("an image");
    bring(&test, &shelf, "two", Limits::default()).expect("an image");
    let usage = test.store.usage(&test.store.list().expect("a list"));
    let name = |text: &str| text.parse().expect("a name");
    let size = usage.total();
    assert_eq!((usage.of(&name("one")), usage.shared(&name("two"))), (size, size));
    assert!(size > 200_000, "packed and unpacked: {size}");
    let prune = |keep| {
        let policy = Policy { keep_bytes: Some(keep), ..Policy::default() };
        let pruned = test.store.prune(policy, jiff::Timestamp::now(), &emitter().0).expect("pruned");
        (pruned.images.into_iter().map(|(_, freed)| freed).collect::<Vec<u64>>(), pruned.leftovers)
    };
    assert_eq!(prune(size), (vec![], 0));
    assert_eq!(prune(50_000), (vec![0, size], 0), "the second takes all with it");
    assert_eq!(test.counts(), [0; 4]);
}

#[test]
fn a_layer_of_several_images_is_read_once() {
    let test = TestStore::new();
    let (both, own) = (tar("a", "x"), tar("b", "y"));
    let one = bring(&test, &image(&[plain(&both)]), "one", Limits::default()).expect("an image");
    let two = bring(&test, &image(&[plain(&both), plain(&own)]), "two", Limits::default()).expect("an image");
    let mut checked = Checked::default();
    let mut verify = |image: &StoredImage| test.store.verify(image, &mut checked, &emitter().0).expect("verified");
    assert_eq!(verify(&one), []);
    // Not noticed any more, which shows that it is not read again; what only the other has is.
    for layer in [&both, &own] {
        fs::write(test.store.blob(&digest(layer)), vec![0; layer.len()]).expect("damaged");
    }
    let found = verify(&two);
    assert!(matches!(&found[..], [only] if only.part.contains(&digest(&own).short())), "{found:?}");
    // Damage that was found is damage of each.
    let mut anew = Checked::default();
    for (image, count) in [(&one, 1), (&two, 2), (&one, 1)] {
        assert_eq!(test.store.verify(image, &mut anew, &emitter().0).expect("verified").len(), count);
    }
}

#[test]
fn a_damaged_image_is_in_nobodys_way() {
    let test = TestStore::new();
    let (one, two) = (tar("a", "1"), tar("b", "2"));
    let broken = bring(&test, &image(&[plain(&one)]), "broken", Limits::default()).expect("an image");
    let good = bring(&test, &image(&[plain(&two)]), "good", Limits::default()).expect("an image");
    fs::write(test.store.blob(&broken.documents.config.digest), "damaged").expect("written");
    assert_eq!(test.store.list().expect("a list"), std::slice::from_ref(&good));
    assert_eq!(test.store.names().expect("names").len(), 2);
    test.store.prune(Policy::default(), jiff::Timestamp::now(), &emitter().0).expect("pruned");
    test.store.remove(&broken.name, &emitter().0).expect("removed");
    assert_eq!(test.store.verify(&good, &mut Checked::default(), &emitter().0).expect("verified"), []);
}

#[test]
fn a_mirror_that_lies_is_not_the_last_word() {
    let (server, mirror) = (FaultyRegistry::start(), FaultyRegistry::start());
    let content = tar("a", "x");
    let shelf = image(&[plain(&content)]);
    for registry in [&server, &mirror] {
        shelf.blobs.values().for_each(|blob| drop(registry.add_blob(blob)));
        registry.add_manifest("1", media::MANIFEST, &shelf.blobs[&shelf.manifest.to_string()]);
    }
    let path = format!("blobs/{}", digest(&content));
    mirror.fault(&path, 99, Fault::Content(vec![b'M'; content.len()]));
    let folder = server.home.path().join("etc/containers");
    fs::create_dir_all(&folder).expect("a folder");
    let (host, other) = (server.host(), mirror.host());
    let text = format!(
        "[[registry]]\nprefix = '{host}'\nlocation = '{host}'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{other}/copy'\ninsecure = true\n"
    );
    fs::write(folder.join("registries.conf"), text).expect("a file");
    let test = TestStore::new();
    let reference = format!("{host}/team/x:1").parse().expect("a reference");
    let pull = || test.store.pull(&reference, &"x".parse().expect("a name"), &server.settings(), &emitter().0);
    let stored = pull().expect("an image");
    assert_eq!(test.store.verify(&stored, &mut Checked::default(), &emitter().0).expect("verified"), []);
    assert!(server.warnings.lock().expect("a mutex").iter().any(|warning| warning.contains("is not asked again")));
    // When all of them lie, it is not the user's fault.
    test.store.remove(&stored.name, &emitter().0).expect("removed");
    server.fault(&path, 99, Fault::Content(vec![b'S'; content.len()]));
    let error = pull().expect_err("lies");
    assert_eq!(error.kind(), Kind::Outside, "{}", told(&error));
}
