//! Pulls from a faulty registry: the result, and that nothing is left that should not be.

use serde_json::json;
use tar::EntryType;

use super::super::{
    Limits, StoredImage,
    codec::digest,
    documents::{Descriptor, architecture, media},
    error::ImageError,
    reference::RegistryReference,
    registry::testing::{Fault, FaultyRegistry},
    testing::{Tar, TestStore, emitter, gzip, told, zstd},
    verify::Checked,
};
use crate::model::{Digest, Kind, UserError as _};

const INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b' ' + (state % 90) as u8)
    };
    (0..length).map(next).collect()
}

/// A registry with one image of three layers: gzip in two members, zstd in two frames with one to skip, and nothing.
struct Shop {
    registry: FaultyRegistry,
    layers: Vec<Descriptor>,
    manifest: Digest,
    test: TestStore,
}

impl Shop {
    fn new() -> Self {
        let registry = FaultyRegistry::start();
        let lowest = Tar::default().folder("tmp/", 0o1777).file("etc/one", &noise(1, 300_000)).end();
        let middle = Tar::default().file("tmp/two", &noise(2, 500_000)).file("gone", "x").end();
        let top = Tar::default().hard_link("three", "etc/one").file(".wh.gone", "").file("etc/three", "3").end();
        let (half, skip) = (lowest.len() / 2, [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        let blobs = [
            [gzip(&lowest[..half]), gzip(&lowest[half..])].concat(),
            [zstd(&middle[..1000]), skip.into(), zstd(&middle[1000..])].concat(),
            top.clone(),
        ];
        let kinds = ["+gzip", "+zstd", ""].map(|suffix| format!("{}{suffix}", media::LAYER));
        let layers: Vec<Descriptor> = (kinds.into_iter().zip(&blobs))
            .map(|(media_type, blob)| Descriptor { media_type, ..registry.add_blob(blob) })
            .collect();
        let mut shop = Self { registry, layers, manifest: digest(b""), test: TestStore::new() };
        shop.manifest = shop.put("v1", &[&lowest, &middle, &top].map(|content| digest(content)));
        shop
    }

    /// A manifest for these layers, whose contents are said to have these digests.
    fn put(&self, tag: &str, diff_ids: &[Digest]) -> Digest {
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": { "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config =
            Descriptor { media_type: media::CONFIG.into(), ..self.registry.add_blob(config.to_string().as_bytes()) };
        let layers: Vec<_> = self.layers.iter().map(Descriptor::to_json).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST, "config": config.to_json(), "layers": layers,
        });
        self.registry.add_manifest(tag, media::MANIFEST, manifest.to_string().as_bytes())
    }

    fn reference(&self, rest: &str) -> RegistryReference {
        format!("{}/a/b{rest}", self.registry.host()).parse().expect("a reference")
    }

    fn pull(&self, rest: &str) -> Result<StoredImage, ImageError> {
        let name = "pulled".parse().expect("a name");
        self.test.store.pull(&self.reference(rest), &name, &self.registry.settings(), &emitter().0)
    }

    /// Blobs, unpacked layers, names and half-made things in the store.
    fn assert_empty(&self, case: &str) {
        assert_eq!(self.test.counts(), [0; 4], "{case}: something stayed");
    }
}

#[test]
fn a_pulled_image_is_whole_and_asked_for_once() {
    let shop = Shop::new();
    let image = shop.pull(":v1").expect("an image");
    assert_eq!((&image.manifest, image.layers), (&shop.manifest, 3));
    assert_eq!(shop.test.counts(), [5, 3, 1, 0]);
    let root = shop.test.store.checkout(&image, &emitter().0).expect("a root");
    assert_eq!(root.diffs().len(), 4, "three layers and their seam");
    let seam = root.diffs().last().expect("a seam");
    assert_eq!(std::fs::read_to_string(seam.join("three")).expect("a link to below"), noise(1, 300_000));
    assert_eq!(shop.test.store.verify(&image, &mut Checked::default(), &emitter().0).expect("verified"), []);
    let before = shop.registry.seen("").len();
    shop.pull(":v1").expect("an image");
    let asked: Vec<String> = shop.registry.seen("")[before..].iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(asked, ["HEAD"]);
    // By digest no request is needed.
    shop.pull(&format!("@{}", shop.manifest)).expect("an image");
    let asked = shop.registry.seen("").len();
    shop.pull(&format!("@{}", shop.manifest)).expect("an image");
    assert_eq!(shop.registry.seen("").len(), asked);
}

#[test]
fn whether_a_login_was_used_is_written_down() {
    let shop = Shop::new();
    let is_anonymous = |image: StoredImage| image.origin.is_some_and(|origin| origin.anonymous);
    assert!(is_anonymous(shop.pull(":v1").expect("an image")));
    // Records of earlier versions do not tell, until the registry has been asked again.
    let names = shop.test.paths.images().join("names/pulled.json");
    let record = std::fs::read_to_string(&names).expect("a record");
    assert!(record.contains(r#","anonymous":true"#), "{record}");
    std::fs::write(&names, record.replace(r#","anonymous":true"#, "")).expect("a record");
    assert!(!is_anonymous(shop.test.store.find("pulled").expect("read").expect("an image")));
    assert!(is_anonymous(shop.pull(&format!("@{}", shop.manifest)).expect("asked again")));
}

#[test]
fn a_tag_that_moves_brings_what_is_new() {
    let mut shop = Shop::new();
    let first = shop.pull(":v1").expect("an image");
    let more = Tar::default().file("more", "x").end();
    let layer = shop.registry.add_blob(&more);
    shop.layers.push(Descriptor { media_type: media::LAYER.into(), ..layer });
    let mut ids = first.config.diff_ids.clone();
    ids.push(digest(&more));
    let moved = shop.put("v1", &ids);
    let before = shop.registry.seen("GET /v2/a/b/blobs/").len();
    let image = shop.pull(":v1").expect("an image");
    assert_eq!((image.manifest, image.layers), (moved, 4));
    let fetched = shop.registry.seen("GET /v2/a/b/blobs/").len() - before;
    assert_eq!(fetched, 2, "the new layer and the configuration");
    assert_eq!(shop.test.counts(), [6, 4, 1, 0], "what the name meant before is gone");
}

#[test]
fn an_index_leads_to_the_image_for_this_machine() {
    let shop = Shop::new();
    let manifest = shop.registry.manifest("v1").expect("a manifest").1;
    let entry = |digest: &Digest, size: usize, os: &str, architecture: &str, variant: &str| {
        json!({
            "mediaType": media::MANIFEST, "digest": digest, "size": size,
            "platform": { "os": os, "architecture": architecture, "variant": variant },
        })
    };
    let other = shop.registry.add_manifest("other", media::MANIFEST, b"{}");
    let entries = [
        entry(&other, 2, "linux", "s390x", ""),
        entry(&other, 2, "unknown", "unknown", ""),
        entry(&other, 2, "windows", architecture(), ""),
        entry(&other, 2, "linux", architecture(), if architecture() == "arm64" { "v9" } else { "v3" }),
        entry(
            &shop.manifest,
            manifest.len(),
            "linux",
            architecture(),
            if architecture() == "arm64" { "v8" } else { "" },
        ),
    ];
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let index = shop.registry.add_manifest("all", INDEX, index.to_string().as_bytes());
    let image = shop.pull(":all").expect("an image");
    assert_eq!(image.manifest, shop.manifest);
    assert_eq!(image.origin.expect("an origin").digest, index, "what the tag means is the index");
    let none = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": &entries[..3] });
    shop.registry.add_manifest("none", INDEX, none.to_string().as_bytes());
    let error = shop.pull(":none").expect_err("nothing for us");
    assert!(told(&error).contains("and none for linux/"), "{}", told(&error));
}

#[test]
fn documents_that_cannot_be_trusted_are_refused() {
    let shop = Shop::new();
    let manifest: serde_json::Value =
        serde_json::from_slice(&shop.registry.manifest("v1").expect("it").1).expect("JSON");
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        changed.to_string()
    };
    let itself = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": INDEX, "digest": shop.manifest, "size": 1 },
    ]});
    let rows = [
        (with(&|it| it["manifests"] = json!([])), "an index and a manifest at once"),
        (with(&|it| it["mediaType"] = json!(INDEX)), "is served as"),
        (with(&|it| it["layers"][0]["mediaType"] = json!("application/x-rpm")), "which smidr does not unpack"),
        (with(&|it| it["layers"][0]["digest"] = json!("sha256:../../x")), "cannot understand"),
        (with(&|it| it["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128)))), "digest"),
        (with(&|it| it["layers"][0]["size"] = json!(-1)), "cannot understand"),
        (with(&|it| it["config"]["size"] = json!(100 << 20)), "exceeds the limit"),
        (with(&|it| drop(it["layers"].as_array_mut().expect("layers").pop())), "names 3 layers, but its manifest 2"),
        (json!({ "schemaVersion": 1, "fsLayers": [] }).to_string(), "oldest format, schema 1"),
        (itself.to_string(), "should have 1 bytes"),
        ("[]".into(), "neither an index nor a manifest"),
        ("{".into(), "cannot understand"),
    ];
    for (text, expected) in rows {
        let media_type = if text.contains("\"manifests\":[{") { INDEX } else { media::MANIFEST };
        shop.registry.add_manifest("bad", media_type, text.as_bytes());
        let error = shop.pull(":bad").expect_err(expected);
        assert!(told(&error).contains(expected), "expected `{expected}`: {}", told(&error));
        shop.assert_empty(expected);
    }
    let error = shop.pull(":unknown").expect_err("nothing");
    assert_eq!(error.kind(), Kind::Request, "{}", told(&error));
}

#[test]
fn whatever_goes_wrong_with_a_layer_nothing_stays_and_the_next_pull_works() {
    let big = noise(9, 200_000).into_bytes();
    let rows: Vec<(usize, Fault, &str)> = vec![
        (0, Fault::Truncate(1000), "broke off"),
        (0, Fault::Close, "cannot reach"),
        (1, Fault::Content(big.clone()), "should have"),
        (0, Fault::Content(vec![0; 10]), "should have"),
        (1, Fault::Endless, "should have"),
        (2, Fault::Extra(big), "should have"),
        (2, Fault::Length(5), "should have"),
        (0, Fault::Status(404, vec![], ""), "does not know"),
        (1, Fault::Status(401, vec![], ""), ""),
        (1, Fault::Status(500, vec![], "broken"), "500"),
        (2, Fault::Status(429, vec![("retry-after", "0".into())], ""), "429"),
        (0, Fault::Redirect("file:///etc/passwd".into()), "redirects"),
    ];
    for (layer, fault, expected) in rows {
        let shop = Shop::new();
        let case = format!("{fault:?}").chars().take(60).collect::<String>();
        shop.registry.fault(&format!("GET /v2/a/b/blobs/{}", shop.layers[layer].digest), 100, fault);
        let error = shop.pull(":v1").expect_err(&case);
        assert!(told(&error).contains(expected), "{case}: {}", told(&error));
        shop.assert_empty(&case);
        shop.registry.heal();
        let image = shop.pull(":v1").expect(&case);
        assert_eq!(
            shop.test.store.verify(&image, &mut Checked::default(), &emitter().0).expect("verified"),
            [],
            "{case}"
        );
    }
}

#[test]
fn wrong_bytes_of_the_right_length_are_found_whatever_the_layer() {
    for layer in 0..3 {
        let shop = Shop::new();
        let wanted = &shop.layers[layer];
        let mut bytes = shop.registry.blob(&wanted.digest).expect("a blob");
        *bytes.last_mut().expect("a byte") ^= 1;
        shop.registry.fault(&format!("GET /v2/a/b/blobs/{}", wanted.digest), 100, Fault::Content(bytes));
        let error = shop.pull(":v1").expect_err("wrong bytes");
        assert!(told(&error).contains(&format!("its digest should be {}", wanted.digest)), "{}", told(&error));
        assert_eq!(error.kind(), Kind::Outside);
        shop.assert_empty("wrong bytes");
        assert!(!shop.test.paths.images().join("partial").join(wanted.digest.hex()).exists(), "nor the wrong part");
    }
    // The layers are right, and the configuration lies about what is in them.
    let shop = Shop::new();
    let good = shop.pull(":v1").expect("an image");
    let mut ids = good.config.diff_ids.clone();
    ids[1] = digest(b"something else");
    shop.put("lie", &ids);
    let error = shop.pull(":lie").expect_err("a lie");
    assert!(told(&error).starts_with("the content of the layer"), "{}", told(&error));
    assert_eq!(shop.test.counts(), [5, 3, 1, 0]);
}

#[test]
fn what_came_before_a_broken_connection_is_not_fetched_again() {
    let shop = Shop::new();
    let layer = &shop.layers[1];
    let path = format!("GET /v2/a/b/blobs/{}", layer.digest);
    // Each time a little more comes; then nothing, until this pull gives up.
    shop.registry.fault(&path, 1, Fault::Truncate(100_000));
    shop.registry.fault(&path, 100, Fault::Close);
    shop.pull(":v1").expect_err("broken");
    let partial = shop.test.paths.images().join("partial").join(layer.digest.hex());
    let have = partial.metadata().expect("a part").len();
    assert!((1..=100_000).contains(&have), "{have}");
    shop.registry.heal();
    let before = shop.registry.seen(&path).len();
    let image = shop.pull(":v1").expect("an image");
    let ranges: Vec<String> =
        shop.registry.seen(&path)[before..].iter().map(|seen| seen.header("range").unwrap_or("all").into()).collect();
    assert_eq!(ranges, [format!("bytes={have}-")]);
    assert!(!partial.exists());
    assert_eq!(shop.test.store.verify(&image, &mut Checked::default(), &emitter().0).expect("verified"), []);
}

#[test]
fn a_damaged_part_is_fetched_anew() {
    let shop = Shop::new();
    let layer = &shop.layers[0];
    let partial = shop.test.paths.images().join("partial").join(layer.digest.hex());
    for wrong in [vec![0; 1000], vec![1; usize::try_from(layer.size).expect("small") + 5]] {
        std::fs::write(&partial, wrong).expect("a file");
        let image = shop.pull(":v1").expect("an image");
        assert_eq!(shop.test.store.verify(&image, &mut Checked::default(), &emitter().0).expect("verified"), []);
        shop.test.store.remove(&image.name, &emitter().0).expect("removed");
        shop.assert_empty("removed");
    }
}

#[test]
fn limits_hold_for_what_is_pulled() {
    let mut shop = Shop::new();
    let bomb = Tar::default().entry("zeros", EntryType::Regular, 0o644, "", &vec![0; 4_000_000]).end();
    let blob = shop.registry.add_blob(&gzip(&bomb));
    shop.layers = vec![Descriptor { media_type: format!("{}+gzip", media::LAYER), ..blob }];
    shop.put("bomb", &[digest(&bomb)]);
    let limits = Limits { ratio_from: 1_000_000, ratio: 10, ..Limits::default() };
    let store = shop.test.store.clone().with_limits(limits);
    let name = "bomb".parse().expect("a name");
    let pull = |store: &super::super::ImageStore| {
        store.pull(&shop.reference(":bomb"), &name, &shop.registry.settings(), &emitter().0)
    };
    let error = pull(&store).expect_err("too large");
    assert!(told(&error).contains("for the size of its blob (1000000)") && error.hint().is_some(), "{}", told(&error));
    shop.assert_empty("bomb");
    pull(&shop.test.store).expect("within the usual limits");
}

#[test]
fn a_pushed_image_comes_back() {
    let shop = Shop::new();
    let image = shop.pull(":v1").expect("an image");
    let (to, settings, on) = (FaultyRegistry::start(), shop.registry.settings(), emitter().0);
    let target = format!("{}/new/name:2", to.host()).parse().expect("a reference");
    for (form, same) in [(super::super::LayerForm::AsIs, true), (super::super::LayerForm::Gzip, false)] {
        let pushed = shop.test.store.push(&image, &target, form, &settings, &on).expect("pushed");
        assert_eq!(pushed == image.manifest, same);
        let other = TestStore::new();
        let back = other.store.pull(&target, &"back".parse().expect("a name"), &settings, &on).expect("an image");
        assert_eq!((back.manifest, &back.config.diff_ids), (pushed, &image.config.diff_ids));
    }
}
