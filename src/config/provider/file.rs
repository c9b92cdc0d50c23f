//! A provider's data file: which keys there are. Read by the same decoder as a user's config, layers and BitBake by the same functions.

use jiff::civil::Date;

use super::{Eula, Provider, ProviderVersion};
use crate::config::{
    decode::{Decoder, Fields},
    node::{Node, Text, Value},
    source::{bitbake, layers},
};

/// Reads one, collecting problems.
pub(super) fn read(d: &mut Decoder<'_>, name: &str, root: &Node) -> Provider {
    let mut f = d.fields(root, "");
    let mut provider = Provider {
        name: name.into(),
        about: f.required(d, "about"),
        also: f.texts(d, "also"),
        machines: f.texts(d, "machines"),
        image: f.required(d, "image"),
        eula: f.node("eula").map(|node| eula(d, node)),
        notes: f.text(d, "notes"),
        default: f.required(d, "default"),
        versions: Vec::new(),
    };
    if let Some(Node { value: Value::Map(entries), .. }) = f.node("versions") {
        provider.versions = entries.iter().map(|(name, node)| version(d, name, node)).collect();
    }
    f.finish(d);
    provider
}

fn eula(d: &mut Decoder<'_>, node: &Node) -> Eula {
    let mut f = d.fields(node, "eula");
    let eula = Eula { about: f.required(d, "about"), source: f.required(d, "source") };
    f.finish(d);
    eula
}

fn version(d: &mut Decoder<'_>, name: &Text, node: &Node) -> ProviderVersion {
    let mut f = d.fields(node, "versions");
    let series = f.text(d, "series");
    let version = ProviderVersion {
        name: name.clone(),
        about: f.required(d, "about"),
        sources: f.texts(d, "sources"),
        verified: date(d, &mut f, "verified"),
        distro: f.text(d, "distro"),
        bitbake: bitbake(d, &mut f),
        // A provider's layers must name their branches.
        layers: layers(d, &mut f, None),
        series,
    };
    f.finish(d);
    version
}

fn date(d: &mut Decoder<'_>, f: &mut Fields<'_>, key: &'static str) -> Option<Date> {
    let path = f.path(key);
    let text = f.text(d, key)?;
    d.parse(text, &path, "a day such as 2026-11-23")
}
