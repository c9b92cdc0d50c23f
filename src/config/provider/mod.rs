//! Providers: what the boards of a vendor need, from data files that are part of smidr (`src/providers/NAME.yaml`).
//!
//! The section `base` selects defaults for the rest of the config, which never replace the config's own values. Their place in the user's
//! file is `base.provider`.

mod file;
#[cfg(test)]
mod tests;

pub use super::provided::{Choice, Eula, Provided, Provider, ProviderVersion};
use super::{
    decode::Decoder,
    node::{Node, Span, Text, Value},
    problem::{Problem, nearest},
    schema::*,
    series::Series,
};
use include_dir::{Dir, include_dir};

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/providers");

/// The names of all providers, sorted.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = FILES.files().filter_map(|file| file.path().file_stem()?.to_str()).collect();
    names.sort_unstable();
    names
}

/// The `about` of a provider, without parsing its file: every start of the command line needs all of them.
pub fn about(name: &str) -> &'static str {
    let text = FILES.get_file(format!("{name}.yaml")).and_then(|file| file.contents_utf8());
    text.into_iter().flat_map(str::lines).find_map(|line| line.strip_prefix("about: ")).unwrap_or_default()
}

/// A provider as its data file has it.
pub fn find(name: &str) -> Option<Provider> {
    load(name, None)
}

// `place` is that of `base.provider` in a user's file.
fn load(name: &str, place: Option<&Span>) -> Option<Provider> {
    let text = FILES.get_file(format!("{name}.yaml"))?.contents_utf8()?;
    let mut root = Node::parse(text).ok()?;
    if let Some(place) = place {
        put(&mut root, place);
    }
    // A test checks these files; users cannot correct them.
    Some(file::read(&mut Decoder::new(&|_| None), name, &root))
}

/// Sets the place of a whole tree.
fn put(node: &mut Node, place: &Span) {
    node.span = place.clone();
    match &mut node.value {
        Value::Null | Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| put(item, place)),
        Value::Map(entries) => entries.iter_mut().for_each(|(key, value)| {
            key.span = place.clone();
            put(value, place);
        }),
    }
}

/// Repositories that bring OpenEmbedded-Core, by the ends of their addresses.
const CORES: [&str; 3] = ["poky", "openembedded-core", "oe-core"];

/// The layer of a config's own that brings OpenEmbedded-Core.
fn own_core(root: &Node) -> Option<&str> {
    let Some(Node { value: Value::List(layers), .. }) = root.get("layers") else { return None };
    let text = |node: &Node| if let Value::Scalar(text) = &node.value { Some(text.clone()) } else { None };
    let is_core = |layer: &&Node| {
        let address = layer.get("git").or_else(|| layer.get("path")).and_then(text).unwrap_or_default();
        let last = address.trim_end_matches('/').trim_end_matches(".git").rsplit(['/', ':']).next().unwrap_or_default();
        CORES.contains(&last)
    };
    let layer = layers.iter().find(is_core)?;
    match &layer.get("name")?.value {
        Value::Scalar(name) => Some(name),
        _ => None,
    }
}

/// Takes the provider out of a config whose own layers bring OpenEmbedded-Core: the two would not fit. To the Go smidr it was a word for people.
pub(super) fn set_aside(d: &mut Decoder<'_>, base: &mut Base, root: &Node, series: Option<&Text>) {
    let Some(core) = own_core(root) else { return };
    let Some(wanted) = &base.provider else {
        if d.of_go
            && let Some(version) = base.version.take()
        {
            d.warnings.push(Problem::new(version.span, "base.version has no effect without base.provider"));
        }
        return;
    };
    let version = load(wanted, Some(&wanted.span)).and_then(|provider| {
        let found = match (&base.version, series) {
            (Some(name), _) => provider.version(name),
            (None, Some(series)) => provider.of_series(series),
            (None, None) => provider.version(&provider.default),
        };
        found.cloned()
    });
    // A layer of the config takes the place of the provider's of the same name.
    if !d.of_go && version.is_some_and(|version| version.layers.iter().any(|layer| layer.name.text == core)) {
        return;
    }
    let title = format!("base.provider: `{wanted}` has no effect, since the layer `{core}` brings OpenEmbedded-Core");
    d.warnings
        .push(Problem::new(wanted.span.clone(), title).hint("list all layers under `layers:`, or leave that one out"));
    (base.provider, base.version) = (None, None);
}

/// The defaults for a config with this `base`, if it names a provider. `series` is the config's own.
pub(super) fn provided(d: &mut Decoder<'_>, base: &Base, series: Option<&Text>) -> Option<Provided> {
    let Some(wanted) = &base.provider else {
        if let Some(version) = &base.version {
            let problem = Problem::new(version.span.clone(), "base.version has no effect without base.provider");
            d.problem(problem.hint(format!("providers: {}", names().join(", "))));
        }
        return None;
    };
    let Some(provider) = load(wanted, Some(&wanted.span)) else {
        d.problem(unknown(wanted));
        return None;
    };
    let (found, choice) = match (&base.version, series) {
        (Some(name), _) => (provider.version(name), Choice::Version(name.text.clone())),
        (None, Some(series)) => (provider.of_series(series), Choice::Series),
        (None, None) => (provider.version(&provider.default), Choice::Default),
    };
    match found.cloned() {
        Some(version) => {
            differs(d, &provider, &version, series);
            Some(Provided { provider, version, choice })
        }
        None => {
            d.problem(unknown_version(&provider, base.version.as_ref(), series));
            None
        }
    }
}

/// The layers of a version do not work with another series.
fn differs(d: &mut Decoder<'_>, provider: &Provider, version: &ProviderVersion, series: Option<&Text>) {
    let (Some(wanted), Some(own)) = (series, &version.series) else { return };
    if wanted.text != own.text && Series::called(wanted).is_some() {
        let title = format!("yocto_series is {wanted}, but {} {} is of {own}", provider.name, version.name);
        let hint = match provider.of_series(wanted) {
            Some(fits) => format!("leave out yocto_series, or write `version: \"{}\"` in `base`", fits.name),
            None => "leave out yocto_series, or choose another version".into(),
        };
        d.problem(Problem::new(wanted.span.clone(), title).hint(hint));
    }
}

fn unknown(wanted: &Text) -> Problem {
    let all: Vec<Provider> = names().into_iter().filter_map(find).collect();
    let words = all.iter().flat_map(|known| {
        let also = known.also.iter().map(|word| word.text.as_str());
        also.chain([known.name.as_str()]).map(|word| (word, known.name.as_str()))
    });
    let words: Vec<(&str, &str)> = words.collect();
    let near = nearest(&wanted.to_ascii_lowercase(), words.iter().map(|(word, _)| *word));
    let meant = near.and_then(|near| words.iter().find(|(word, _)| *word == near)).map(|(_, name)| *name);
    let meant = meant.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
    let title = format!("base.provider: there is no provider `{wanted}`");
    Problem::new(wanted.span.clone(), title)
        .hint(format!("{meant}known: {}; without base.provider, list every layer under `layers:`", names().join(", ")))
}

fn unknown_version(provider: &Provider, version: Option<&Text>, series: Option<&Text>) -> Problem {
    let known: Vec<&str> = provider.versions.iter().map(|version| version.name.text.as_str()).collect();
    let list = format!("known: {}", known.join(", "));
    match (version, series) {
        (None, Some(series)) => {
            let title = format!("yocto_series: {} has no version of the series `{series}`", provider.name);
            Problem::new(series.span.clone(), title).hint(format!("choose one with base.version; {list}"))
        }
        (version, _) => {
            let wanted = version.unwrap_or(&provider.default);
            let meant = nearest(wanted, known).map(|name| format!("did you mean \"{name}\"? ")).unwrap_or_default();
            let title = format!("base.version: {} has no version `{wanted}`", provider.name);
            Problem::new(wanted.span.clone(), title).hint(format!("{meant}{list}"))
        }
    }
}

impl Provider {
    /// The version of this name, or the line that it belongs to: `6.0.0` belongs to `6`.
    pub fn version(&self, name: &str) -> Option<&ProviderVersion> {
        let fits = |version: &&ProviderVersion| {
            let rest = name.strip_prefix(version.name.text.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.versions.iter().filter(fits).max_by_key(|version| version.name.text.len())
    }

    fn of_series(&self, series: &str) -> Option<&ProviderVersion> {
        let known = |version: &&ProviderVersion| version.series.as_ref().is_some_and(|known| known.text == series);
        self.versions.iter().find(known)
    }
}

impl Provided {
    /// Lays itself under a config. A layer of the config takes the place of one of the same name, whole; further ones come last.
    pub(super) fn lie_under(&self, config: &mut Config) {
        let version = &self.version;
        let own = std::mem::take(&mut config.layers);
        let (replacing, further): (Vec<Layer>, Vec<Layer>) =
            own.into_iter().partition(|own| version.layers.iter().any(|layer| layer.name.text == own.name.text));
        let below = version.layers.iter();
        let chosen =
            |layer: &Layer| replacing.iter().find(|own| own.name.text == layer.name.text).unwrap_or(layer).clone();
        config.layers = below.map(chosen).chain(further).collect();
        config.bitbake = config.bitbake.take().or_else(|| version.bitbake.clone());
        config.base.distro = config.base.distro.take().or_else(|| version.distro.clone());
    }
}
