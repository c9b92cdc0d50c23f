//! Checks a set of layers before BitBake runs: whether each fits the series, has the layers that it depends on and has a name of its own, and
//! whether some layer has the machine and the distro. An error names what would do, which BitBake cannot know.
//!
//! `bb.cookerdata` (`parseConfigurationFiles`) and `bb.cooker` (`handleCollections`) are the specification, 2.0 to 2.18. What depends on inline
//! Python or on overrides is not known here: a warning says so, and BitBake decides. So it does about all else that it refuses with a clear message: lines
//! that it cannot parse, priorities, patterns, `BBFILES_DYNAMIC`, versions in `LAYERDEPENDS`.

use std::{collections::BTreeSet, path::PathBuf};

use serde::Serialize;

use super::{
    collection_error::{CollectionError, Incompatible, Missing},
    conf::{ConfError, Reader, Value},
    discover::Found,
    missing,
    named::{self, Named},
};

/// Before Yocto 3.4 `:append` was `_append`, and nothing else was understood (BitBake 1.50 and before).
const OLD_SYNTAX: [&str; 5] = ["warrior", "zeus", "dunfell", "gatesgarth", "hardknott"];

/// The longest list that is looked at: collections, or dependencies of one layer. Some hundred layers are known in all.
const MOST: usize = 2000;

/// A set of layers that fits together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Further assignments for `bblayers.conf`: names with values.
    pub bblayers: Vec<(String, String)>,
    /// For the user: what is not known, and what is used against the layer's declaration.
    pub warnings: Vec<String>,
    /// The series that the core layer is of (`LAYERSERIES_CORENAMES`).
    pub series: Vec<String>,
    /// The layers, in BitBake's order.
    pub layers: Vec<LayerInfo>,
}

/// A layer, as its conf describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayerInfo {
    /// Its name; a layer may have none, and no recipes then.
    pub collection: Option<String>,
    /// Its folder.
    pub folder: PathBuf,
    /// What the config calls its repository.
    pub repository: String,
    /// BitBake takes a recipe from the layer with the highest. None: not set by the layer, or not known.
    pub priority: Option<i64>,
    /// The collections that it depends on.
    pub depends: Vec<String>,
    /// The series that it works with.
    pub series: Vec<String>,
    /// Its version, which other layers may require.
    pub version: Option<String>,
}

/// All layers after they have been read.
pub(super) struct Set<'a> {
    pub found: &'a [Found],
    pub reader: Reader,
    /// BBFILE_COLLECTIONS, each with the index of its layer in `found`.
    pub collections: Vec<(String, usize)>,
    /// Whether there may be more.
    pub open: bool,
    /// LAYERSERIES_CORENAMES.
    pub core: Value,
    /// LAYERSERIES_COMPAT of those collections that set it.
    pub compat: Vec<(String, Value)>,
}

/// What layers declare, whether or not they fit together.
///
/// # Errors
///
/// A conf that cannot be read.
pub fn look(found: &[Found]) -> Result<Vec<LayerInfo>, CollectionError> {
    Ok(describe(&read(found)?))
}

/// Reads all layers and checks them. `series` is what the config asks for, and `local_conf` the text that is read after them.
///
/// # Errors
///
/// A conf that cannot be read, or the first kind of misfit, with all layers that have it.
pub fn check(
    found: &[Found],
    machine: &str,
    series: Option<&str>,
    local_conf: &str,
) -> Result<Checked, CollectionError> {
    let (checked, misfits) = look_for_misfits(found, machine, series, local_conf)?;
    misfits.into_iter().next().map_or(Ok(checked), Err)
}

/// The same, with the misfits of all kinds.
pub(super) fn look_for_misfits(
    found: &[Found],
    machine: &str,
    series: Option<&str>,
    local_conf: &str,
) -> Result<(Checked, Vec<CollectionError>), CollectionError> {
    let mut set = read(found)?;
    set.reader.local(local_conf);
    let mut checked = Checked { series: words(&set.core), ..Checked::default() };
    if set.open {
        checked.warnings.push("which layers there are is not known: BBFILE_COLLECTIONS holds inline Python".into());
    }
    let misfits = [
        check_series(&set, series, &mut checked),
        check_depends(&set, series, &mut checked),
        check_machine(&set, machine, &mut checked),
        check_distro(&set),
    ];
    checked.layers = describe(&set);
    checked.warnings.append(&mut set.reader.warnings);
    Ok((checked, misfits.into_iter().filter_map(Result::err).collect()))
}

/// Reads layer after layer. LAYERSERIES_COMPAT is taken at the end of each, as BitBake does since 2.4, so that no layer can copy it from another.
pub(super) fn read(found: &[Found]) -> Result<Set<'_>, CollectionError> {
    let mut set = Set {
        found,
        reader: Reader::new(found)?,
        collections: Vec::new(),
        open: false,
        core: Value::default(),
        compat: Vec::new(),
    };
    for (place, layer) in found.iter().enumerate() {
        set.reader.layer(layer)?;
        let collections = set.reader.get("BBFILE_COLLECTIONS").unwrap_or_default();
        set.open = collections.is_open();
        if collections.words().count() > MOST {
            return Err(ConfError::TooMuch { path: layer.folder.join("conf/layer.conf") }.into());
        }
        set.name(place, collections.words())?;
        for (collection, _) in &set.collections {
            let name = format!("LAYERSERIES_COMPAT_{collection}");
            if let Some(value) = set.reader.get(&name).filter(|value| value.is_open() || value.words().next().is_some())
            {
                set.reader.unset(&name);
                // A later layer may name more. BitBake 2.0 counts both, later versions the last; here both count, and BitBake decides.
                match set.compat.iter_mut().find(|(known, _)| known == collection) {
                    Some((_, known)) => known.join(value),
                    None => set.compat.push((collection.clone(), value)),
                }
            }
        }
        if set.core == Value::default() {
            set.core = set.reader.get("LAYERSERIES_CORENAMES").unwrap_or_default();
        }
    }
    // BitBake refuses a layer that names itself twice.
    let mut seen = BTreeSet::new();
    set.collections.retain(|(name, _)| seen.insert(name.clone()));
    Ok(set)
}

impl Set<'_> {
    /// Assigns names to this layer: those that were not there before it was read.
    fn name<'n>(&mut self, place: usize, names: impl Iterator<Item = &'n str>) -> Result<(), CollectionError> {
        let mut before = std::mem::take(&mut self.collections);
        for name in names {
            // A name counts as an earlier one as often as it was there before, in any order.
            let owner =
                before.iter().position(|(known, _)| known == name).map(|at| before.remove(at).1).unwrap_or(place);
            if let Some((_, first)) = self.collections.iter().find(|(known, first)| known == name && *first != owner) {
                let [first, second] = [*first, owner].map(|place| Box::new(self.layer(place).clone()));
                return Err(CollectionError::Duplicate { collection: name.into(), first, second });
            }
            self.collections.push((name.into(), owner));
        }
        for (gone, _) in before {
            let layer = self.layer(place).folder.display();
            self.reader.warnings.push(format!("{layer} takes the layer `{gone}` out of BBFILE_COLLECTIONS"));
        }
        Ok(())
    }

    #[expect(clippy::indexing_slicing, reason = "places are counted off `found`, which never changes")]
    pub(super) fn layer(&self, place: usize) -> &Found {
        &self.found[place]
    }

    fn has(&self, collection: &str) -> bool {
        self.collections.iter().any(|(name, _)| name == collection)
    }

    fn compat(&self, collection: &str) -> Option<&Value> {
        self.compat.iter().find(|(name, _)| name == collection).map(|(_, value)| value)
    }

    fn about(&self, variable: &str, collection: &str) -> Option<Value> {
        self.reader.get(&format!("{variable}_{collection}"))
    }
}

fn check_series(set: &Set<'_>, wanted: Option<&str>, checked: &mut Checked) -> Result<(), CollectionError> {
    check_core(set, wanted, checked)?;
    let mut incompatible = Vec::new();
    for (collection, place) in &set.collections {
        // BitBake warns about a layer that names none, in all versions.
        let Some(compat) = set.compat(collection) else { continue };
        if compat.words().any(|name| checked.series.iter().any(|core| core == name)) {
            continue;
        }
        let layer = set.layer(*place);
        if compat.is_open() || set.core.is_open() {
            checked.warnings.push(format!(
                "whether the layer `{collection}` ({}) works with {} is not known: LAYERSERIES_COMPAT_{collection} is made by inline Python or another variable",
                layer.folder.display(),
                checked.series.join(" "),
            ));
            continue;
        }
        let names = words(compat);
        let Some(core) = core_name(&checked.series, wanted) else {
            let (collection, folder) = (collection.clone(), layer.folder.clone());
            let series = core_name(&names, wanted);
            return Err(CollectionError::NoCore { collection, folder, names, series });
        };
        if layer.ignore_series {
            let append = if OLD_SYNTAX.contains(&core.as_str()) { "_append" } else { ":append" };
            // What is appended before a layer is read survives the layer's assignment: bb.data_smart, `setVar` with `parsing`.
            checked.bblayers.push((format!("LAYERSERIES_COMPAT_{collection}{append}"), format!(" {core}")));
            checked.warnings.push(format!(
                "the layer `{collection}` works with {}, and is used with {core} all the same (ignore_series)",
                names.join(" ")
            ));
        } else {
            let (collection, repository) = (collection.clone(), layer.repository.clone());
            incompatible.push(Incompatible { collection, folder: layer.folder.clone(), repository, names });
        }
    }
    match incompatible.is_empty() {
        true => Ok(()),
        false => Err(CollectionError::Series { layers: incompatible, core: checked.series.clone() }),
    }
}

/// Checks the config's series against that of the core layer.
fn check_core(set: &Set<'_>, wanted: Option<&str>, checked: &mut Checked) -> Result<(), CollectionError> {
    let Some(wanted) = wanted else { return Ok(()) };
    // These branches belong to the next series, whichever that is.
    let moving = ["master", "main"].contains(&wanted) || wanted.ends_with("-next");
    if moving || set.core.is_open() || checked.series.is_empty() || checked.series.iter().any(|name| name == wanted) {
        return Ok(());
    }
    // The core layer is normally the one called core.
    let core = set.collections.iter().find(|(name, _)| name == "core").or_else(|| set.collections.first());
    let core = core.map(|(_, place)| set.layer(*place));
    if core.is_some_and(|core| core.ignore_series) {
        checked.warnings.push(format!(
            "the core layer is of {}, and is used for {wanted} all the same (ignore_series)",
            checked.series.join(" ")
        ));
        return Ok(());
    }
    let folder = core.map(|core| core.folder.clone()).unwrap_or_default();
    Err(CollectionError::OtherSeries { wanted: wanted.into(), core: checked.series.clone(), folder })
}

/// The series to name for the core layer.
fn core_name(core: &[String], wanted: Option<&str>) -> Option<String> {
    let named = core.iter().find(|name| wanted == Some(name.as_str()));
    named.or_else(|| core.first()).cloned()
}

fn check_depends(set: &Set<'_>, series: Option<&str>, checked: &mut Checked) -> Result<(), CollectionError> {
    let mut lacking: Vec<Missing> = Vec::new();
    for (collection, place) in &set.collections {
        let Some(value) = set.about("LAYERDEPENDS", collection) else { continue };
        let layer = set.layer(*place);
        if value.is_open() {
            checked.warnings.push(format!(
                "all that the layer `{collection}` ({}) needs is not known: LAYERDEPENDS_{collection} is made by inline Python or another variable",
                layer.folder.display(),
            ));
        }
        if value.words().count() > MOST {
            return Err(ConfError::TooMuch { path: layer.folder.join("conf/layer.conf") }.into());
        }
        if set.open {
            continue;
        }
        for needs in needed(&value.text()).into_iter().filter(|needs| !set.has(needs)) {
            match lacking.iter_mut().find(|missing| missing.needs == needs) {
                Some(missing) => missing.wanted_by.push((collection.clone(), layer.clone())),
                None => lacking.push(Missing {
                    wanted_by: vec![(collection.clone(), layer.clone())],
                    suggestion: missing::Suggestion::Unknown,
                    needs,
                }),
            }
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    missing::find(&mut lacking, set.found);
    let series = series.map(str::to_owned).or_else(|| match &checked.series[..] {
        [one] => Some(one.clone()),
        [] => None,
        // OpenEmbedded-Core names two on this branch, between two series.
        _ => Some("master".into()),
    });
    Err(CollectionError::Depends { missing: lacking, series })
}

fn check_machine(set: &Set<'_>, machine: &str, checked: &mut Checked) -> Result<(), CollectionError> {
    // local.conf may set it again.
    let last = set.reader.get("MACHINE");
    let Some(machine) = last.as_ref().map_or(Some(machine), Value::certain) else { return Ok(()) };
    let (folders, open) = set.reader.search_path();
    if named::is_there(&set.reader, &folders, Named::Machine, machine) {
        return Ok(());
    }
    let known = named::names(&set.reader, &folders, Named::Machine)?;
    if open || known.is_empty() {
        // A core layer other than OpenEmbedded's may have no machines; its bitbake.conf needs none then.
        checked.warnings.push(format!("no layer was found to have the machine `{machine}`"));
        return Ok(());
    }
    let unused = missing::with_machine(machine, set.found);
    Err(CollectionError::Machine { machine: machine.into(), known, unused })
}

fn check_distro(set: &Set<'_>) -> Result<(), CollectionError> {
    let distro = set.reader.get("DISTRO");
    // OpenEmbedded-Core's name for no distro, which needs no file.
    let Some(distro) = distro.as_ref().and_then(Value::certain).filter(|name| *name != "nodistro") else {
        return Ok(());
    };
    let (folders, open) = set.reader.search_path();
    if open || named::is_there(&set.reader, &folders, Named::Distro, distro) {
        return Ok(());
    }
    match named::names(&set.reader, &folders, Named::Distro)? {
        // A core layer other than OpenEmbedded's may have no distros.
        known if known.is_empty() => Ok(()),
        known => Err(CollectionError::Distro { distro: distro.into(), known }),
    }
}

fn describe(set: &Set<'_>) -> Vec<LayerInfo> {
    let mut layers = Vec::new();
    for (place, layer) in set.found.iter().enumerate() {
        let own = set.collections.iter().filter(|(_, owner)| *owner == place).map(|(name, _)| name);
        let plain =
            || LayerInfo { folder: layer.folder.clone(), repository: layer.repository.clone(), ..LayerInfo::default() };
        let before = layers.len();
        layers.extend(own.map(|name| {
            let certain = |variable| {
                let value = set.about(variable, name)?;
                value.certain().map(|text| text.trim().to_owned())
            };
            let depends = set.about("LAYERDEPENDS", name).map(|value| needed(&value.text()));
            LayerInfo {
                collection: Some(name.clone()),
                priority: certain("BBFILE_PRIORITY").and_then(|text| text.parse().ok()),
                depends: depends.unwrap_or_default(),
                series: set.compat(name).map(words).unwrap_or_default(),
                version: certain("LAYERVERSION"),
                ..plain()
            }
        }));
        if layers.len() == before {
            layers.push(plain());
        }
    }
    layers
}

/// The collections in a list of dependencies, without their versions: `core (>= 12) openembedded-layer` (`explode_dep_versions2` of `bb.utils`).
fn needed(text: &str) -> Vec<String> {
    let mut in_version = false;
    let is_name = |word: &&str| {
        in_version |= word.starts_with('(');
        let is_name = !in_version;
        in_version &= !word.ends_with(')');
        is_name
    };
    text.replace(',', "").split_whitespace().filter(is_name).map(str::to_owned).collect()
}

fn words(value: &Value) -> Vec<String> {
    value.words().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
