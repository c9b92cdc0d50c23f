//! The places from which a repository is fetched: containers-registries.conf(5), version 2, as far as smidr needs it. Only reads
//! files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{error::RegistryError, settings::Settings};
use crate::{
    image::reference::{self, RegistryReference},
    model::Shown,
    system::files::{self, FileError},
};

/// What may be requested from a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Serves {
    /// Everything.
    #[default]
    All,
    /// By digest only, so that the content cannot be stale or forged.
    DigestOnly,
    /// By tag only.
    TagOnly,
}

/// A place that has a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its host, as users write it.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// Whether it may be reached over plain http.
    pub insecure: bool,
    /// What may be requested from it.
    pub serves: Serves,
}

#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Table>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Table {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Option<Serves>,
}

/// By prefix, with the file that configures it.
type Tables = BTreeMap<String, (Table, PathBuf)>;

/// The places of a repository, in order. The last one is the registry itself.
///
/// # Errors
///
/// When a file cannot be parsed, or blocks the repository.
pub(super) fn places(reference: &RegistryReference, settings: &Settings) -> Result<Vec<Place>, RegistryError> {
    route(reference, settings.insecure, &read(settings)?)
}

fn read(settings: &Settings) -> Result<Tables, RegistryError> {
    let usual = [settings.config_home(), settings.etc.clone()].map(|base| base.join("containers/registries.conf"));
    let own = settings.variable("CONTAINERS_REGISTRIES_CONF").map(PathBuf::from);
    let candidates = own.map_or_else(|| usual.to_vec(), |own| vec![own]);
    let main = candidates.iter().find(|path| path.is_file());
    let folder = candidates.iter().map(|path| beside(path)).find(|path| path.is_dir());
    let mut tables = Tables::new();
    for path in main.into_iter().cloned().chain(folder.map(|folder| drop_ins(&folder)).transpose()?.unwrap_or_default())
    {
        add(&mut tables, &path)?;
    }
    Ok(tables)
}

// `registries.conf.d` for `registries.conf`.
fn beside(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".d");
    path.into()
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let entries = fs::read_dir(folder).map_err(FileError::new("read", folder))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    Ok(paths)
}

// A later file replaces the entry of an earlier one for the same prefix.
fn add(tables: &mut Tables, path: &Path) -> Result<(), RegistryError> {
    let bad = |why: String| RegistryError::Settings { path: path.into(), why };
    let file: File = toml::from_str(&files::read_text(path)?).map_err(|error| bad(error.message().into()))?;
    for table in file.registry {
        let prefix = table.prefix.as_ref().or(table.location.as_ref()).filter(|prefix| !prefix.is_empty());
        let prefix = prefix.ok_or_else(|| bad("a [[registry]] has neither `prefix` nor `location`".into()))?.clone();
        tables.insert(prefix, (table, path.into()));
    }
    Ok(())
}

fn route(reference: &RegistryReference, insecure: bool, tables: &Tables) -> Result<Vec<Place>, RegistryError> {
    let name = reference.name();
    let upstream = |(host, repository), insecure| Place { host, repository, insecure, serves: Serves::All };
    let own = (reference.host.clone(), reference.repository.clone());
    let fitting = tables.iter().filter_map(|(prefix, entry)| Some((rest_after(&name, prefix)?, prefix, entry)));
    let Some((rest, prefix, (table, path))) = fitting.max_by_key(|(_, prefix, _)| prefix.len()) else {
        return Ok(vec![upstream(own, insecure)]);
    };
    if table.blocked {
        return Err(RegistryError::Blocked { name, path: path.clone() });
    }
    let at = |location: &str| {
        let place = format!("{}{rest}", location.trim_end_matches('/'));
        let bad =
            |why| RegistryError::Settings { path: path.clone(), why: format!("`{}`: {why}", Shown::plain(&place)) };
        reference::place(&place).map_err(bad)
    };
    let mut places = Vec::new();
    for mirror in &table.mirror {
        let by_digest = if table.mirror_by_digest_only { Serves::DigestOnly } else { Serves::All };
        let (host, repository) = at(&mirror.location)?;
        let serves = mirror.pull_from_mirror.unwrap_or(by_digest);
        places.push(Place { host, repository, insecure: mirror.insecure, serves });
    }
    let location = table.location.as_deref().filter(|location| !location.is_empty());
    // `*.example.com` may lack a location, and is then its own.
    let last = location.or(Some(prefix.as_str()).filter(|prefix| !prefix.starts_with("*."))).map_or(Ok(own), at)?;
    places.push(upstream(last, insecure || table.insecure));
    Ok(places)
}

// The rest of a name after a prefix of whole components.
fn rest_after<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let at = name.find('/')?;
        let (host, rest) = name.split_at(at);
        return (domain.starts_with('.') && host.len() > domain.len() && host.ends_with(domain)).then_some(rest);
    }
    name.strip_prefix(prefix.trim_end_matches('/')).filter(|rest| rest.starts_with('/') || rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(text: &str) -> Tables {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("registries.conf");
        fs::write(&path, text).expect("a file");
        let mut tables = Tables::new();
        add(&mut tables, &path).unwrap_or_else(|error| panic!("{error:?}"));
        tables
    }

    fn routed(name: &str, text: &str) -> Result<Vec<String>, RegistryError> {
        let reference = name.parse().expect("a reference");
        let line = |place: &Place| {
            let mark = if place.insecure { " insecure" } else { "" };
            format!("{}/{}{mark} {:?}", place.host, place.repository, place.serves)
        };
        Ok(route(&reference, false, &tables(text))?.iter().map(line).collect())
    }

    const CONF: &str = r#"
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror:5000/hub"
insecure = true
[[registry.mirror]]
location = "cache.example.com"
pull-from-mirror = "digest-only"
[[registry]]
location = "docker.io/crops"
mirror-by-digest-only = true
mirror = [ { location = "m.example.com/crops" }, { location = "n.example.com/c", pull-from-mirror = "tag-only" } ]
[[registry]]
prefix = "*.corp.example"
insecure = true
[[registry]]
prefix = "old.example.com/a"
location = "new.example.com/b/c"
[[registry]]
prefix = "bad.example.com"
blocked = true
"#;

    #[test]
    fn the_longest_prefix_of_whole_components_decides() {
        let rows: [(&str, &[&str]); 7] = [
            (
                "debian:12",
                &[
                    "mirror:5000/hub/library/debian insecure All",
                    "cache.example.com/library/debian DigestOnly",
                    "docker.io/library/debian All",
                ],
            ),
            (
                "crops/poky:x",
                &["m.example.com/crops/poky DigestOnly", "n.example.com/c/poky TagOnly", "docker.io/crops/poky All"],
            ),
            ("old.example.com/a/x", &["new.example.com/b/c/x All"]),
            ("old.example.com/a", &["new.example.com/b/c All"]),
            ("old.example.com/ab/x", &["old.example.com/ab/x All"]),
            ("a.corp.example/x/y", &["a.corp.example/x/y insecure All"]),
            ("corp.example/x/y", &["corp.example/x/y All"]),
        ];
        for (name, expected) in rows {
            assert_eq!(routed(name, CONF).expect(name), expected, "{name}");
        }
    }

    #[test]
    fn a_blocked_registry_names_the_file() {
        let error = routed("bad.example.com/x", CONF).expect_err("it is blocked");
        assert!(
            error.to_string().contains("is blocked by") && error.to_string().contains("registries.conf"),
            "{error}"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.conf");
        for text in
            ["[[registry]]\nblocked = true\n", "[[registry]]\nlocation = 3\n", "[[", "[[registry.mirror]]\nx = 1"]
        {
            fs::write(&path, text).expect("a file");
            let error = add(&mut Tables::new(), &path).expect_err(text);
            assert!(error.to_string().contains("x.conf"), "{error}");
        }
        assert!(routed("a.b/c", "[[registry]]\nprefix = 'a.b'\nlocation = 'x y'\n").is_err());
    }
}
