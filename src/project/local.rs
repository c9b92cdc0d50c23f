//! What the user's own file beside a config changes: `smidr.local.yaml`. In go the texts of both, out comes what the committed ones alone ask
//! for, which decides to whose lock a pin belongs. Reads and writes nothing.

use super::Sources;
use crate::{
    config::{self, BITBAKE, Config, HostImage, Source, Texts},
    lock::{Asked, Lock, Pins, RepositoryPin},
    model::{SystemFacts, without_secrets},
    plan::{Plan, PlannedSource},
};

/// The user's own file, as far as the rest of a project has to know of it.
#[derive(Clone)]
pub(crate) struct Local {
    /// The keys that it sets.
    pub keys: Vec<String>,
    /// What `smidr.local.lock` holds.
    pub lock: Option<Lock>,
    /// The config without it: as it is, and with each variant. None of those that have problems.
    committed: Vec<(Option<String>, Config)>,
}

impl Local {
    /// Of a project that has one.
    pub(super) fn of(sources: &Sources, lock: Option<Lock>, facts: &SystemFacts) -> Option<Self> {
        sources.texts.local.as_ref()?;
        let committed = sources.texts.committed();
        let variants = committed.variants().into_iter().map(Some);
        let read = |variant: Option<String>| Some((variant.clone(), good(&committed, variant.as_deref(), facts)?));
        let committed = std::iter::once(None).chain(variants).filter_map(read).collect();
        Some(Self { keys: sources.texts.local_keys(), lock, committed })
    }

    /// The config without it.
    pub(crate) fn committed(&self, variant: Option<&str>) -> Option<&Config> {
        self.committed.iter().find(|(name, _)| name.as_deref() == variant).map(|(_, config)| config)
    }

    /// Pins that the committed config asks for in any variant, and those that only the user's own does.
    pub(crate) fn divide(&self, pins: Pins) -> (Pins, Pins) {
        let is_committed = |ask: &dyn Fn(&Config) -> bool| self.committed.iter().any(|(_, config)| ask(config));
        let (hosts, own_hosts) =
            pins.hosts.into_iter().partition(|pin| is_committed(&|config| host_name(config) == pin.name));
        let (repositories, own) =
            pins.repositories.into_iter().partition(|pin| is_committed(&|config| asks_for(config, pin)));
        (Pins { hosts, repositories }, Pins { hosts: own_hosts, repositories: own })
    }

    /// Notes in a plan what the user's own file does.
    pub(super) fn note(&self, plan: &mut Plan) {
        plan.local.clone_from(&self.keys);
        let Some(committed) = self.committed(plan.variant.as_deref()) else { return };
        for layer in &mut plan.layers {
            let known = committed.layers.iter().find(|known| known.name.text == layer.name);
            if let (PlannedSource::Path(path), Some(Source::Git(git))) =
                (&mut layer.source, known.map(|known| &known.source))
            {
                path.instead_of = Some(without_secrets(&git.url));
            }
        }
    }
}

fn good(texts: &Texts, variant: Option<&str>, facts: &SystemFacts) -> Option<Config> {
    let (config, problems) = config::examine(texts, variant, &|name| facts.variable(name));
    config.filter(|_| problems.is_empty())
}

fn host_name(config: &Config) -> &str {
    let (HostImage::Recipe(name) | HostImage::Image(name)) = &config.host.image;
    name
}

fn asks_for(config: &Config, pin: &RepositoryPin) -> bool {
    let layers = config.layers.iter().map(|layer| (layer.name.text.as_str(), &layer.source));
    let mut sources = layers.chain(config.bitbake.iter().map(|source| (BITBAKE, source)));
    sources.any(|(name, source)| {
        let asked = Asked::from(source);
        name == pin.name && pin.answers(&asked) && pin.has_patches(&asked.patches)
    })
}
