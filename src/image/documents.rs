//! The OCI documents: index, manifest, configuration. Parses untrusted JSON into values whose digests,
//! sizes and media types have been checked, and writes them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use oci_spec::image as oci;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{error::ImageError, limits::Limits};
use crate::model::Digest;

/// Media types that smidr writes.
pub(super) mod media {
    /// Of a manifest.
    pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Of an index.
    pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Of a configuration.
    pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Of a layer; a suffix tells its compression.
    pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
}

/// The annotation that holds an image's name in an index.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A blob that a document refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its media type.
    pub media_type: String,
    /// Of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl Descriptor {
    /// In the form of a document.
    pub fn to_json(&self) -> Value {
        object([
            ("mediaType", self.media_type.as_str().into()),
            ("digest", self.digest.to_string().into()),
            ("size", self.size.into()),
        ])
    }

    fn checked(what: &str, descriptor: &oci::Descriptor) -> Result<Self, ImageError> {
        let text = descriptor.digest().to_string();
        let digest = text.parse().map_err(|error| {
            refuse(what, format!("refers to something by a digest that smidr cannot check: {error}"))
        })?;
        Ok(Self { media_type: descriptor.media_type().to_string(), digest, size: descriptor.size() })
    }
}

/// A manifest: one image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// The parts of an image's configuration that smidr uses. User, working folder and command are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// When it was made, if it says.
    pub created: Option<Timestamp>,
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// Environment, in its order.
    pub env: Vec<(String, String)>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// The platform of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Platform {
    /// `linux`.
    pub os: String,
    /// In Go's words.
    pub architecture: String,
    /// The variant of the architecture: `v8`, `v3`.
    pub variant: Option<String>,
}

impl Platform {
    /// How well it suits a machine, 0 best; none: not at all. A processor may lack what a higher variant of `amd64` needs.
    fn suits(&self, architecture: &str) -> Option<usize> {
        const KNOWN: [(&str, &[&str]); 3] =
            [("amd64", &["", "v1", "v2", "v3"]), ("arm64", &["v8", ""]), ("arm", &["v7", "", "v6", "v5"])];
        // Attestations and the like have the platform `unknown/unknown`.
        if self.os != "linux" || self.architecture != architecture {
            return None;
        }
        let variant = self.variant.as_deref().unwrap_or_default();
        match KNOWN.iter().find(|(known, _)| *known == architecture) {
            Some((_, variants)) => variants.iter().position(|known| *known == variant),
            None => Some(usize::from(!variant.is_empty())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// One entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// A manifest or another index.
    pub descriptor: Descriptor,
    /// Its platform, if it names one.
    pub platform: Option<Platform>,
    /// Its name, where it has one.
    pub name: Option<String>,
}

/// A document that was found by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// An image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Vec<Choice>),
}

impl Document {
    /// Reads a manifest or an index; a document that could be both is refused (CVE-2021-41190). `said` is the media
    /// type that it was served with.
    ///
    /// # Errors
    ///
    /// When it is neither, or refers to something that smidr cannot use.
    pub(super) fn parse(what: &str, bytes: &[u8], said: Option<&str>, limits: &Limits) -> Result<Self, ImageError> {
        let value: Value = json_of(what, bytes)?;
        // The media type of the response and that in the document must agree (CVE-2021-41190).
        let said = said.map(|said| said.split(';').next().unwrap_or_default().trim());
        if let (Some(said), Some(own)) = (said, value.get("mediaType").and_then(Value::as_str))
            && said != own
        {
            return Err(refuse(what, format!("is served as `{said}` but says that it is `{own}`")));
        }
        match (value.get("manifests").is_some(), value.get("layers").is_some() || value.get("config").is_some()) {
            (true, false) => Ok(Self::Index(choices(what, bytes)?)),
            (false, true) => Ok(Self::Manifest(manifest(what, bytes, limits)?)),
            (true, true) => Err(refuse(what, "claims to be an index and a manifest at once")),
            (false, false) if value.get("fsLayers").is_some() => {
                Err(refuse(what, "is in Docker's oldest format, schema 1: convert it with skopeo copy --format oci"))
            }
            (false, false) => Err(refuse(what, "is neither an index nor a manifest")),
        }
    }
}

fn manifest(what: &str, bytes: &[u8], limits: &Limits) -> Result<Manifest, ImageError> {
    let parsed: oci::ImageManifest = json_of(what, bytes)?;
    let said = parsed.media_type().as_ref().map(ToString::to_string);
    if said.is_some_and(|said| !said.contains("manifest.v")) {
        return Err(refuse(what, "has the media type of something else than a manifest"));
    }
    let layers: Vec<_> =
        parsed.layers().iter().map(|layer| Descriptor::checked(what, layer)).collect::<Result<_, _>>()?;
    if layers.len() > limits.layers {
        return Err(refuse(what, format!("exceeds the limit of {} layers", limits.layers)));
    }
    if let Some(odd) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        return Err(refuse(what, format!("has a layer of the type `{}`, which smidr does not unpack", odd.media_type)));
    }
    let mut sizes = BTreeMap::new();
    if layers.iter().any(|layer| *sizes.entry(&layer.digest).or_insert(layer.size) != layer.size) {
        return Err(refuse(what, "gives one layer two sizes"));
    }
    Ok(Manifest { config: Descriptor::checked(what, parsed.config())?, layers })
}

fn is_layer(media_type: &str) -> bool {
    let base =
        media_type.strip_suffix("+gzip").or(media_type.strip_suffix("+zstd")).or(media_type.strip_suffix(".gzip"));
    let base = base.or(media_type.strip_suffix(".zstd")).unwrap_or(media_type);
    matches!(base, media::LAYER | "application/vnd.docker.image.rootfs.diff.tar")
}

fn choices(what: &str, bytes: &[u8]) -> Result<Vec<Choice>, ImageError> {
    let parsed: oci::ImageIndex = json_of(what, bytes)?;
    let choice = |entry: &oci::Descriptor| {
        let platform = entry.platform().as_ref().map(|on| Platform {
            os: on.os().to_string(),
            architecture: on.architecture().to_string(),
            variant: on.variant().clone().filter(|variant| !variant.is_empty()),
        });
        let name = entry.annotations().as_ref().and_then(|notes| notes.get(REF_NAME).cloned());
        Ok(Choice { descriptor: Descriptor::checked(what, entry)?, platform, name })
    };
    parsed.manifests().iter().map(choice).collect()
}

/// Chooses from an index: by name if there is one of that name, else by platform.
///
/// # Errors
///
/// When none fits, or several do.
pub(super) fn choose(
    what: &str,
    choices: Vec<Choice>,
    name: &str,
    architecture: &str,
) -> Result<Descriptor, ImageError> {
    // An entry without a platform is taken last.
    let rank = |choice: &Choice| choice.platform.as_ref().map_or(Some(usize::MAX), |on| on.suits(architecture));
    let offered: BTreeSet<String> = choices
        .iter()
        .filter_map(|choice| choice.platform.as_ref())
        .filter(|on| on.architecture != "unknown")
        .map(Platform::to_string)
        .collect();
    let mut fitting: Vec<_> = choices.into_iter().filter(|choice| rank(choice).is_some()).collect();
    let best = fitting.iter().filter_map(rank).min();
    fitting.retain(|choice| rank(choice) == best);
    if fitting.len() > 1 && fitting.iter().any(|choice| choice.name.as_deref() == Some(name)) {
        fitting.retain(|choice| choice.name.as_deref() == Some(name));
    }
    fitting.dedup_by(|a, b| a.descriptor.digest == b.descriptor.digest);
    // Of equal platforms the first (OCI, "Image Index Specification"). Several names, or nothing at all, are several images.
    if fitting.iter().all(|choice| choice.platform.is_some() && choice.name.is_none()) {
        fitting.truncate(1);
    }
    match fitting.len() {
        1 => Ok(fitting.remove(0).descriptor),
        0 if offered.is_empty() => Err(refuse(what, "offers no image")),
        0 => {
            let offered = offered.into_iter().collect::<Vec<_>>().join(", ");
            Err(refuse(what, format!("offers images for {offered}, and none for linux/{architecture}")))
        }
        _ => {
            let names: Vec<_> = fitting.iter().map(|choice| choice.name.as_deref().unwrap_or("(no name)")).collect();
            Err(refuse(what, format!("offers several images: {}; export the one you want", names.join(", "))))
        }
    }
}

impl ImageConfig {
    /// Reads a configuration, OCI's or Docker's.
    ///
    /// # Errors
    ///
    /// When it is not one, or for another system than Linux.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let parsed: oci::ImageConfiguration = json_of(what, bytes)?;
        let os = parsed.os().to_string();
        if os != "linux" {
            return Err(refuse(what, format!("is for `{os}`, not for linux")));
        }
        let bad_id = |error| refuse(what, format!("names a layer by {error}"));
        let diff_ids =
            parsed.rootfs().diff_ids().iter().map(|id| id.parse().map_err(bad_id)).collect::<Result<_, _>>()?;
        let inner = parsed.config().as_ref();
        let env = inner.and_then(|inner| inner.env().as_ref()).into_iter().flatten();
        let labels = inner.and_then(|inner| inner.labels().as_ref()).into_iter().flatten();
        Ok(Self {
            created: parsed.created().as_ref().and_then(|created| created.parse().ok()),
            architecture: parsed.architecture().to_string(),
            env: env.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect(),
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
            diff_ids,
        })
    }
}

/// This machine's architecture in Go's words, which OCI documents use.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// A manifest's text. Equal values give equal bytes: serde_json sorts the keys.
pub(super) fn manifest_text(manifest: &Manifest) -> String {
    let layers: Vec<_> = manifest.layers.iter().map(Descriptor::to_json).collect();
    object([
        ("schemaVersion", 2.into()),
        ("mediaType", media::MANIFEST.into()),
        ("config", manifest.config.to_json()),
        ("layers", layers.into()),
    ])
    .to_string()
}

/// A new layer on an image's configuration.
#[derive(Debug)]
pub(super) struct Addition<'a> {
    /// Digest of the uncompressed layer.
    pub diff_id: &'a Digest,
    /// The creation time in the image.
    pub created: Option<Timestamp>,
    /// The history's `created_by`.
    pub created_by: &'a str,
    /// Environment to set.
    pub env: &'a [(String, String)],
    /// Labels to set.
    pub labels: &'a BTreeMap<String, String>,
}

/// A configuration's text: a base's (all of it, known or not) with one layer more, or a new one.
///
/// # Errors
///
/// When the base is not a configuration.
pub(super) fn config_text(what: &str, base: Option<&[u8]>, new: &Addition<'_>) -> Result<String, ImageError> {
    let mut value: Map<String, Value> = match base {
        Some(bytes) => json_of(what, bytes)?,
        None => Map::from_iter([
            ("architecture".into(), architecture().into()),
            ("os".into(), "linux".into()),
            ("rootfs".into(), object([("type", "layers".into()), ("diff_ids", Vec::<Value>::new().into())])),
        ]),
    };
    let mut history = Map::from_iter([("created_by".into(), new.created_by.into())]);
    if let Some(created) = new.created {
        value.insert("created".into(), created.to_string().into());
        history.insert("created".into(), created.to_string().into());
    }
    match value.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids")) {
        Some(Value::Array(list)) => list.push(new.diff_id.to_string().into()),
        _ => return Err(refuse(what, "has no list of layers")),
    }
    match value.get_mut("history") {
        Some(Value::Array(list)) => list.push(history.into()),
        _ => _ = value.insert("history".into(), vec![history].into()),
    }
    let empty = || Value::from(Map::new());
    let inner = value.entry("config").or_insert_with(empty);
    if inner.is_null() {
        *inner = empty();
    }
    let Some(inner) = inner.as_object_mut() else { return Err(refuse(what, "has no proper `config`")) };
    inner.insert("Env".into(), merged_env(inner.get("Env"), new.env));
    let mut labels = match inner.remove("Labels") {
        Some(Value::Object(labels)) => labels,
        _ => Map::new(),
    };
    labels.extend(new.labels.iter().map(|(key, text)| (key.clone(), text.as_str().into())));
    inner.insert("Labels".into(), labels.into());
    Ok(Value::from(value).to_string())
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
}

fn merged_env(base: Option<&Value>, new: &[(String, String)]) -> Value {
    let set = |line: &&str| !new.iter().any(|(key, _)| line.split_once('=').is_some_and(|(known, _)| known == key));
    let old =
        base.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).filter(set).map(String::from);
    old.chain(new.iter().map(|(key, value)| format!("{key}={value}"))).collect::<Vec<_>>().into()
}

/// The text of an index with one image.
pub(super) fn index_text(manifest: &Descriptor, name: &str) -> String {
    let mut entry = manifest.to_json();
    if let Value::Object(fields) = &mut entry {
        fields.insert("annotations".into(), object([(REF_NAME, name.into())]));
    }
    object([("schemaVersion", 2.into()), ("mediaType", media::INDEX.into()), ("manifests", vec![entry].into())])
        .to_string()
}

/// Reads JSON.
pub(super) fn json_of<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json { what: what.into(), source })
}

fn refuse(what: &str, why: impl Into<String>) -> ImageError {
    ImageError::Document { what: what.into(), why: why.into() }
}
