//! Makes images by hand, as folders in OCI layout: layers from lines of text, and documents as single builders write them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tar::EntryType;

use super::registry_images::hex_of;

/// The time of files for which none is given.
pub(crate) const TIME: u64 = 1_000_000_000;

/// How a layer is stored.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Plain,
    Gzip,
    /// As eStargz does it: several members, one after the other.
    GzipMembers,
    Zstd,
    /// As zstd:chunked: several frames, and a frame to be skipped that holds a table of contents.
    ZstdChunked,
}

/// A layer: its archive, and how it is stored.
#[derive(Clone)]
pub(crate) struct Layer {
    pub tar: Vec<u8>,
    pub form: Form,
}

impl Layer {
    pub(crate) fn stored(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    pub(crate) fn diff_id(&self) -> String {
        format!("sha256:{}", hex_of(&self.tar))
    }

    fn blob(&self) -> (Vec<u8>, &'static str) {
        let gzip = |bytes: &[u8]| {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(bytes).expect("memory");
            out.finish().expect("memory")
        };
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).expect("memory");
        match self.form {
            Form::Plain => (self.tar.clone(), ""),
            Form::Gzip => (gzip(&self.tar), "+gzip"),
            Form::GzipMembers => (self.tar.chunks(512).flat_map(gzip).collect(), "+gzip"),
            Form::Zstd => (zstd(&self.tar), "+zstd"),
            Form::ZstdChunked => {
                let frames = self.tar.chunks(512).flat_map(zstd);
                (frames.chain(*b"\x50\x2a\x4d\x18\x04\0\0\0toc.").collect(), "+zstd")
            }
        }
    }
}

/// A gzipped layer of entries, one a line, with names as they are: `d MODE NAME`, `f MODE NAME CONTENT`, `l NAME TARGET`,
/// `h NAME TARGET`. Lines of `@SECONDS` set the time of what follows.
pub(crate) fn layer(lines: &str) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    let mut time = TIME;
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let mode = |text: &str| u32::from_str_radix(text, 8).expect("a mode");
        match words[..] {
            [at] => time = at.strip_prefix('@').expect("a time").parse().expect("seconds"),
            ["d", bits, name] => add(&mut tar, EntryType::Directory, mode(bits), time, [name, ""], ""),
            ["f", bits, name] => add(&mut tar, EntryType::Regular, mode(bits), time, [name, ""], ""),
            ["f", bits, name, text] => add(&mut tar, EntryType::Regular, mode(bits), time, [name, ""], text),
            ["l", name, target] => add(&mut tar, EntryType::Symlink, 0o777, time, [name, target], ""),
            ["h", name, target] => add(&mut tar, EntryType::Link, 0o755, time, [name, target], ""),
            _ => panic!("not an entry: {line}"),
        }
    }
    Layer { tar: tar.into_inner().expect("memory"), form: Form::Gzip }
}

// The names are written as they are: the crate's own functions refuse absolute ones.
fn add(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, mode: u32, time: u64, names: [&str; 2], content: &str) {
    let mut header = tar::Header::new_gnu();
    let fields = header.as_old_mut();
    for (field, text) in [(&mut fields.name, names[0]), (&mut fields.linkname, names[1])] {
        assert!(text.len() < field.len(), "too long for the field: {text}");
        field[..text.len()].copy_from_slice(text.as_bytes());
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(time);
    header.set_uid(12345);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content.as_bytes()).expect("memory");
}

/// This machine's architecture, in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A folder in OCI layout.
pub(crate) struct Layout {
    pub path: PathBuf,
}

impl Layout {
    pub(crate) fn new(path: &Path) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).expect("folders");
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
        Self { path: path.into() }
    }

    /// Stores bytes, and gives their descriptor.
    pub(crate) fn blob(&self, bytes: &[u8], kind: &str) -> Value {
        fs::write(self.path.join("blobs/sha256").join(hex_of(bytes)), bytes).expect("a blob");
        json!({"mediaType": kind, "digest": format!("sha256:{}", hex_of(bytes)), "size": bytes.len()})
    }

    pub(crate) fn document(&self, value: &Value) -> Value {
        self.blob(value.to_string().as_bytes(), value["mediaType"].as_str().expect("a media type"))
    }

    /// Stores an image; `config` and `manifest` are added to what each has. Docker's media types where `manifest` has Docker's own.
    pub(crate) fn image(&self, layers: &[Layer], config: &Value, manifest: &Value) -> Value {
        let docker = manifest["mediaType"].as_str().is_some_and(|kind| kind.contains("docker"));
        let diff_ids: Vec<String> = layers.iter().map(Layer::diff_id).collect();
        let config = merged(
            json!({"architecture": architecture(), "os": "linux", "config": {},
                "rootfs": {"type": "layers", "diff_ids": diff_ids}}),
            config,
        );
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let (bytes, suffix) = layer.blob();
                match docker {
                    true => self.blob(
                        &bytes,
                        &format!("application/vnd.docker.image.rootfs.diff.tar{}", suffix.replace('+', ".")),
                    ),
                    false => self.blob(&bytes, &format!("application/vnd.oci.image.layer.v1.tar{suffix}")),
                }
            })
            .collect();
        let kind = if docker {
            "application/vnd.docker.container.image.v1+json"
        } else {
            "application/vnd.oci.image.config.v1+json"
        };
        let config = self.blob(config.to_string().as_bytes(), kind);
        self.document(&merged(
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers}),
            manifest,
        ))
    }

    /// Puts layers on top of the only image of a layout that smidr has written.
    pub(crate) fn add_layers(&self, more: &[Layer]) {
        let read =
            |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).expect("a document")).expect("JSON") };
        let document = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest");
            read(self.path.join("blobs/sha256").join(digest.strip_prefix("sha256:").expect("a digest")))
        };
        let push = |list: &mut Value, value: Value| list.as_array_mut().expect("a list").push(value);
        let mut manifest = document(&read(self.path.join("index.json"))["manifests"][0]);
        let mut config = document(&manifest["config"]);
        for layer in more {
            let (bytes, suffix) = layer.blob();
            push(
                &mut manifest["layers"],
                self.blob(&bytes, &format!("application/vnd.oci.image.layer.v1.tar{suffix}")),
            );
            push(&mut config["rootfs"]["diff_ids"], layer.diff_id().into());
        }
        let kind = manifest["config"]["mediaType"].as_str().expect("a media type").to_owned();
        manifest["config"] = self.blob(config.to_string().as_bytes(), &kind);
        self.index(&[self.document(&manifest)]);
    }

    /// Writes `index.json`, with the tag `latest` for the first.
    pub(crate) fn index(&self, manifests: &[Value]) {
        let mut manifests = manifests.to_vec();
        manifests[0]["annotations"]["org.opencontainers.image.ref.name"] = "latest".into();
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.path.join("index.json"), index.to_string()).expect("an index");
    }
}

/// A document with more fields.
pub(crate) fn merged(mut document: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        document[key] = value.clone();
    }
    document
}
