//! Why layers do not work together, and what to write into `smidr.yaml` about it.

use std::path::PathBuf;

use super::{
    conf::ConfError,
    discover::Found,
    known::Repository,
    missing::Suggestion,
    named::{self, Named},
};
use crate::model::{Hint, Kind, UserError};

/// A layer that does not work with the core layer's series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incompatible {
    /// What it calls itself.
    pub collection: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What the config calls its repository.
    pub repository: String,
    /// The series that it names.
    pub names: Vec<String>,
}

/// A layer that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What it calls itself.
    pub needs: String,
    /// The layers that need it, by their own names.
    pub wanted_by: Vec<(String, Found)>,
    /// How to get it.
    pub suggestion: Suggestion,
}

/// Why layers do not work together.
#[derive(Debug, thiserror::Error)]
pub enum CollectionError {
    /// A file.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// Two layers of one name.
    #[error("two layers call themselves `{collection}`: one of {} and one of {}", whose(first), whose(second))]
    Duplicate {
        /// The name.
        collection: String,
        /// One layer.
        first: Box<Found>,
        /// The other.
        second: Box<Found>,
    },
    /// Layers of another series.
    #[error("{}", incompatible(layers, core))]
    Series {
        /// All such layers.
        layers: Vec<Incompatible>,
        /// The series of the core layer.
        core: Vec<String>,
    },
    /// The config names one series, and the core layer is of another.
    #[error("yocto_series is {wanted}, but the core layer ({folder}) is of {}", core.join(" "))]
    OtherSeries {
        /// The series in the config.
        wanted: String,
        /// The series of the core layer.
        core: Vec<String>,
        /// The core layer.
        folder: PathBuf,
    },
    /// There is no core layer to compare a layer with.
    #[error("the layer `{collection}` ({folder}) works with {}, but no layer says of which series it is: there is no core layer", names.join(" "))]
    NoCore {
        /// The layer.
        collection: String,
        /// Its folder.
        folder: PathBuf,
        /// The series that it names.
        names: Vec<String>,
        /// The one of them to use.
        series: Option<String>,
    },
    /// Layers that are missing.
    #[error("{}", lacking(missing))]
    Depends {
        /// All of them.
        missing: Vec<Missing>,
        /// The series for which they are wanted.
        series: Option<String>,
    },
    /// A machine that no layer has.
    #[error("no layer has the machine `{machine}`")]
    Machine {
        /// What the config names.
        machine: String,
        /// What the layers have.
        known: Vec<String>,
        /// A layer that has it, and is not used.
        unused: Option<Suggestion>,
    },
    /// A distro that no layer has.
    #[error("no layer has the distro `{distro}`")]
    Distro {
        /// What the config names.
        distro: String,
        /// What the layers have.
        known: Vec<String>,
    },
}

impl UserError for CollectionError {
    fn kind(&self) -> Kind {
        match self {
            Self::Conf(error) => error.kind(),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        vec![match self {
            Self::Conf(error) => return error.hints(),
            Self::Depends { missing, series } => return ways_out(missing, series.as_deref()),
            Self::Machine { unused: Some(unused), .. } => {
                let is_there =
                    |hint: Hint| Hint { text: format!("a layer has it that is not used: {}", hint.text), ..hint };
                return use_more(std::iter::once(unused)).into_iter().map(is_there).collect();
            }
            Self::Duplicate { first, second, .. } if first.folder == second.folder => Hint::new(format!(
                "one entry in `layers` is enough: remove `{}` or `{}`",
                first.repository, second.repository
            )),
            Self::Duplicate { .. } => Hint::config(
                "leave one of them out: remove its repository from `layers`, or exclude its folder",
                "sublayers: {exclude: [FOLDER]}",
            ),
            Self::Series { layers, core } => other_branch(layers, core),
            Self::OtherSeries { core, .. } => Hint::config(
                "take the core layer of the series that you want, or",
                format!("yocto_series: {}", core.join(" # or ")),
            ),
            Self::NoCore { series, .. } => {
                let core = Repository::with("core").map(|core| core.yaml(&["core"], series.as_deref()));
                let core = core.unwrap_or_default();
                Hint::config("add a core layer to smidr.yaml", format!("layers:\n{core}"))
            }
            Self::Machine { machine, known, .. } => Hint::new(named::describe(Named::Machine, machine, known)),
            Self::Distro { distro, known } => Hint::new(named::describe(Named::Distro, distro, known)),
        }]
    }
}

/// A layer's folder with the config's name for its repository: names of folders of the store are not meaningful.
fn whose(layer: &Found) -> String {
    format!("`{}` ({})", layer.repository, layer.folder.display())
}

fn incompatible(layers: &[Incompatible], core: &[String]) -> String {
    let one = |layer: &Incompatible| {
        format!("the layer `{}` ({}) works with {}", layer.collection, layer.folder.display(), layer.names.join(" "))
    };
    let all: Vec<String> = layers.iter().map(one).collect();
    format!("{}; the core layer is of {}", all.join(", "), core.join(" "))
}

fn other_branch(layers: &[Incompatible], core: &[String]) -> Hint {
    let mut repositories: Vec<&str> = layers.iter().map(|layer| layer.repository.as_str()).collect();
    repositories.dedup();
    let each = |repository: &&str| format!("  - name: {repository}\n    ignore_series: true");
    let ignoring: Vec<String> = repositories.iter().map(each).collect();
    Hint::config(
        format!("take the branch that is for {}, or say that it does not matter", core.join(" or ")),
        format!("layers:\n{}", ignoring.join("\n")),
    )
}

/// Grouped by the layers that need them.
fn lacking(missing: &[Missing]) -> String {
    let mut wanting: Vec<(&str, &Found, Vec<String>)> = Vec::new();
    for one in missing {
        for (collection, layer) in &one.wanted_by {
            let needs = format!("`{}`", one.needs);
            match wanting.iter_mut().find(|(known, ..)| known == collection) {
                Some((.., all)) => all.push(needs),
                None => wanting.push((collection, layer, vec![needs])),
            }
        }
    }
    let one = |(collection, layer, needs): &(&str, &Found, Vec<String>)| {
        format!("the layer `{collection}` ({}) needs {}", layer.folder.display(), needs.join(", "))
    };
    let all: Vec<String> = wanting.iter().map(one).collect();
    format!("{}: not there", all.join("; "))
}

/// What to add, and, for layers that the config does not name, how to leave them out.
fn ways_out(missing: &[Missing], series: Option<&str>) -> Vec<Hint> {
    let mut ways = Vec::new();
    let known: Vec<String> =
        grouped(missing).into_iter().map(|(repository, collections)| repository.yaml(&collections, series)).collect();
    if !known.is_empty() {
        ways.push(Hint::config("add to smidr.yaml", format!("layers:\n{}", known.join("\n"))));
    }
    let unknown: Vec<&str> =
        missing.iter().filter(|one| one.suggestion == Suggestion::Unknown).map(|one| one.needs.as_str()).collect();
    if !unknown.is_empty() {
        let all = unknown.join(", ");
        let index = "https://layers.openembedded.org/layerindex/branch/master/layers/";
        ways.push(Hint::page(format!("which repository has {all}"), index));
    }
    ways.extend(use_more(missing.iter().map(|one| &one.suggestion)));
    ways.extend(without(missing));
    ways
}

fn grouped(missing: &[Missing]) -> Vec<(&'static Repository, Vec<&str>)> {
    let mut groups: Vec<(&Repository, Vec<&str>)> = Vec::new();
    for one in missing {
        let Suggestion::Known(repository) = one.suggestion else { continue };
        match groups.iter_mut().find(|(known, _)| *known == repository) {
            Some((_, collections)) => collections.push(&one.needs),
            None => groups.push((repository, vec![&one.needs])),
        }
    }
    groups
}

/// Layers that are in the repositories and not used.
fn use_more<'a>(unused: impl Iterator<Item = &'a Suggestion>) -> Vec<Hint> {
    let mut lists: Vec<(&str, Vec<&str>, bool)> = Vec::new();
    for suggestion in unused {
        let Suggestion::Here { repository, sublayer, chosen } = suggestion else { continue };
        match lists.iter_mut().find(|(name, ..)| name == repository) {
            Some((_, list, _)) => list.push(sublayer),
            None => {
                let used = chosen.iter().map(|name| if name.is_empty() { "." } else { name });
                lists.push((repository, used.chain([sublayer.as_str()]).collect(), !chosen.is_empty()));
            }
        }
    }
    let line = |(name, list, chosen): (&str, Vec<&str>, bool)| match (list.join(", "), chosen) {
        (list, true) => {
            let text = format!("use more of `{name}`, where smidr.yaml names it");
            Hint::config(text, format!("sublayers: {{include: [{list}]}}"))
        }
        (list, false) => Hint::new(format!(
            "use {list} of `{name}` too: take it out of sublayers.exclude, or name all that you use in sublayers.include"
        )),
    };
    lists.into_iter().map(line).collect()
}

fn without(missing: &[Missing]) -> Vec<Hint> {
    let mut lists: Vec<(&str, Vec<String>)> = Vec::new();
    let found = missing.iter().flat_map(|one| &one.wanted_by).map(|(_, layer)| layer).filter(|layer| !layer.chosen);
    for layer in found {
        let Ok(folder) = layer.folder.strip_prefix(&layer.root) else { continue };
        let folder = folder.display().to_string();
        match lists.iter_mut().find(|(name, _)| *name == layer.repository) {
            Some((_, list)) if list.contains(&folder) => {}
            Some((_, list)) => list.push(folder),
            None => lists.push((&layer.repository, vec![folder])),
        }
    }
    let line = |(name, list): (&str, Vec<String>)| {
        Hint::config(
            format!("or leave out what needs it, where smidr.yaml names `{name}`"),
            format!("sublayers: {{exclude: [{}]}}", list.join(", ")),
        )
    };
    lists.into_iter().map(line).collect()
}
