//! Images with several layers or incompressible content, and helpers to look into a store.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::support::{Done, World};

/// A file of a layer.
pub(crate) struct Entry {
    pub path: String,
    pub content: Vec<u8>,
}

/// Numbers that look random and are the same for the same seed: splitmix64.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.number().to_le_bytes()).take(count).collect()
    }
}

/// Files of random bytes below a folder.
pub(crate) fn files(random: &mut Random, folder: &str, count: usize, size: usize) -> Vec<Entry> {
    (0..count).map(|at| Entry { path: format!("{folder}/{at}"), content: random.bytes(size) }).collect()
}

/// Writes an image of several layers, the lowest first, as `docker save` does.
pub(crate) fn layered(path: &Path, layers: &[Vec<Entry>]) {
    let layers: Vec<(String, Vec<u8>)> =
        layers.iter().map(|files| tar_of(files)).map(|tar| (hex_of(&tar), tar)).collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let diff_ids: Vec<String> = layers.iter().map(|(hex, _)| format!("sha256:{hex}")).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config =
        Entry { path: format!("{}.json", hex_of(config.to_string().as_bytes())), content: config.to_string().into() };
    let name = |hex: &str| format!("{hex}/layer.tar");
    let names: Vec<String> = layers.iter().map(|(hex, _)| name(hex)).collect();
    let manifest = json!([{"Config": config.path, "RepoTags": ["test:latest"], "Layers": names}]);
    let mut members = vec![config, Entry { path: "manifest.json".into(), content: manifest.to_string().into() }];
    members.extend(layers.into_iter().map(|(hex, content)| Entry { path: name(&hex), content }));
    fs::write(path, tar_of(&members)).expect("write the image");
}

fn tar_of(files: &[Entry]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for Entry { path, content } in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, &content[..]).expect("an entry");
    }
    tar.into_inner().expect("the end of the archive")
}

/// Writes an archive of a root file system that has one of everything that can stand in one: links of both kinds, folders, modes.
pub(crate) fn varied(path: &Path) {
    let mut tar = tar::Builder::new(File::create(path).expect("a file"));
    let mut add = |kind: tar::EntryType, name: &str, mode: u32, target: &str, content: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        match kind {
            tar::EntryType::Symlink | tar::EntryType::Link => tar.append_link(&mut header, name, target),
            _ => tar.append_data(&mut header, name, content.as_bytes()),
        }
        .expect("an entry");
    };
    let (folder, file) = (tar::EntryType::Directory, tar::EntryType::Regular);
    let (symlink, link) = (tar::EntryType::Symlink, tar::EntryType::Link);
    for (name, mode) in [("bin/", 0o755), ("etc/", 0o755), ("usr/", 0o755), ("usr/lib/", 0o755), ("empty/", 0o711)] {
        add(folder, name, mode, "", "");
    }
    let long = format!("usr/lib/{}", "n".repeat(200));
    add(file, "etc/os-release", 0o644, "", "ID=varied\n");
    add(file, "bin/sh", 0o755, "", "none\n");
    add(file, "bin/nothing", 0o600, "", "");
    add(file, "usr/lib/long", 0o444, "", &"content\n".repeat(40_000));
    add(file, &long, 0o644, "", "a long name\n");
    add(file, "usr/lib/gr\u{fc}n", 0o644, "", "a name that is not ASCII\n");
    add(link, "bin/dash", 0o755, "bin/sh", "");
    add(symlink, "lib", 0o777, "usr/lib", "");
    add(symlink, "usr/lib/away", 0o777, "../../../nowhere", "");
    add(symlink, "etc/root", 0o777, "/usr", "");
    tar.finish().expect("the end of the archive");
}

pub(crate) fn hex_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The digest that commands print behind a name.
#[track_caller]
pub(crate) fn digest(done: &Done) -> String {
    let words: Vec<&str> = done.expect_code(0).out.split_whitespace().collect();
    assert!(words.len() == 2 && words[1].starts_with("sha256:"), "{done:?}");
    words[1].to_owned()
}

/// A folder or file of the world's store.
pub(crate) fn store(world: &World, path: &str) -> PathBuf {
    world.smidr.join("images").join(path)
}

pub(crate) fn blob(world: &World, digest: &str) -> PathBuf {
    store(world, "blobs/sha256").join(digest.strip_prefix("sha256:").expect("a digest"))
}

/// The manifest of that digest, and the configuration that it names.
pub(crate) fn documents(world: &World, manifest: &str) -> (Value, Value) {
    let read = |digest: &str| -> Value {
        serde_json::from_slice(&fs::read(blob(world, digest)).expect("a document")).expect("JSON")
    };
    let manifest = read(manifest);
    let config = read(manifest["config"]["digest"].as_str().expect("a digest"));
    (manifest, config)
}

/// The digests of an image's layers as they are stored and of what they unpack to, the lowest first.
pub(crate) fn layers(world: &World, manifest: &str) -> Vec<(String, String)> {
    let (manifest, config) = documents(world, manifest);
    let text = |value: &Value| value.as_str().expect("a digest").to_owned();
    let blobs = manifest["layers"].as_array().expect("layers").iter().map(|layer| text(&layer["digest"]));
    blobs.zip(config["rootfs"]["diff_ids"].as_array().expect("layers").iter().map(text)).collect()
}

/// The folder that holds an unpacked layer.
pub(crate) fn unpacked(world: &World, diff_id: &str) -> PathBuf {
    store(world, "diffs").join(diff_id.strip_prefix("sha256:").expect("a digest")).join("fs")
}

/// How many blobs, layers, names, partial blobs and partial entries the store has.
pub(crate) fn counts(world: &World) -> [usize; 5] {
    ["blobs/sha256", "diffs", "names", "partial", "tmp"].map(|folder| World::names(&store(world, folder)).len())
}
