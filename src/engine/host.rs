//! Which image a build runs in: the one that the lock pins, the one that the store has, or one that is made now.

use std::collections::BTreeMap;

use super::{EngineError, Tools};
use crate::{
    config::HOST,
    image::{ImageStore, Reference, ReferenceError, RegistrySettings, RootFs, StoredImage},
    lock::{HostPin, PackagePin},
    model::{Digest, Event, Paths},
    plan::{Plan, PlannedHost},
    recipes::{self, ImageBuildError, PACKAGES_LABEL, RECIPE_LABEL},
    system::lock::{self, Mode},
};

/// Finds or makes the image of a build host, and opens it. With `fresh`, it is asked for or made again even if there is one.
///
/// # Errors
///
/// When there is none, it cannot be made, or what was made is not what the lock pins.
pub(super) fn resolve_host(
    tools: Tools<'_>,
    plan: &Plan,
    lock: Option<&HostPin>,
    fresh: bool,
) -> Result<(HostPin, RootFs), EngineError> {
    let planned = &plan.host;
    let image =
        if planned.recipe { from_recipe(tools, plan, lock, fresh)? } else { from_store(tools, plan, lock, fresh)? };
    let root = tools.store.checkout(&image, tools.on)?;
    Ok((host_lock(&planned.name, &image), root))
}

/// What a lock says of an image.
pub(super) fn host_lock(name: &str, image: &StoredImage) -> HostPin {
    HostPin {
        name: name.into(),
        image: image.manifest.clone(),
        recipe: image.config.labels.get(RECIPE_LABEL).and_then(|digest| digest.parse().ok()),
        packages: packages(image),
    }
}

fn packages(image: &StoredImage) -> BTreeMap<String, PackagePin> {
    image.config.labels.get(PACKAGES_LABEL).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// Checks that the image of a plan is here, or can be asked for.
///
/// # Errors
///
/// When it is neither.
pub(super) fn look(plan: &Plan, paths: &Paths) -> Result<(), EngineError> {
    let name = &plan.host.name;
    match name.parse() {
        Ok(Reference::Registry(_)) => return Ok(()),
        Ok(Reference::Local { .. }) => return Err(EngineError::NoImage(name.clone())),
        Err(ReferenceError::Bare(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let wanted = plan.host.pinned.as_ref().map_or_else(|| name.clone(), ToString::to_string);
    // A store that was never opened has none.
    let found = if paths.images().join("names").is_dir() { ImageStore::at(paths).find(&wanted)? } else { None };
    found.map(drop).ok_or_else(|| EngineError::NoImage(name.clone()))
}

// What the store has under that name stays what it is until the next pull: a tag that moved changes nothing by itself.
fn from_store(tools: Tools<'_>, plan: &Plan, lock: Option<&HostPin>, fresh: bool) -> Result<StoredImage, EngineError> {
    let planned = &plan.host;
    let reference = match planned.name.parse() {
        Ok(Reference::Registry(reference)) => Some(reference),
        // A plain word is a name in the store.
        Err(ReferenceError::Bare(_)) => None,
        Ok(Reference::Local { .. }) => return Err(EngineError::NoImage(planned.name.clone())),
        Err(error) => return Err(error.into()),
    };
    let name = reference.as_ref().map_or_else(|| planned.name.clone(), ToString::to_string);
    let wanted = lock.map_or_else(|| name.clone(), |lock| lock.image.to_string());
    match (tools.store.find(&wanted)?, reference) {
        (Some(image), None) => Ok(image),
        (Some(image), Some(_)) if !fresh => Ok(image),
        (_, Some(_)) if plan.offline => Err(EngineError::Offline(planned.name.clone())),
        (None, None) => Err(EngineError::NoImage(planned.name.clone())),
        (_, Some(reference)) => {
            let settings = RegistrySettings {
                logins: plan.logins.reach(&reference.name()),
                ..RegistrySettings::new(&tools.facts, &tools.spawner, tools.stop, tools.on)
            };
            // Under a name of its own: another project may be pinned to what the tag meant at another time.
            let wanted = lock.map_or_else(|| reference.clone(), |lock| reference.pinned(lock.image.clone()));
            let name = wanted.to_string().parse().map_err(ImageBuildError::from)?;
            Ok(tools.store.pull(&wanted, &name, &settings, tools.on)?)
        }
    }
}

// In place of a recipe that this machine cannot make, one of another distribution may do.
fn foreign(source: ImageBuildError, plan: &Plan) -> EngineError {
    let PlannedHost { name, validated, .. } = &plan.host;
    let distribution = |name: &str| name.split('-').next().map(str::to_owned);
    let would_do = |other: &&String| distribution(other) != distribution(name) && recipes::shipped(other).is_some();
    let instead: Vec<String> = validated.iter().filter(would_do).cloned().collect();
    match source.is_of_another_distribution() && recipes::shipped(name).is_some() && !instead.is_empty() {
        true => EngineError::Foreign { name: name.clone(), instead, source: Box::new(source) },
        false => source.into(),
    }
}

fn from_recipe(tools: Tools<'_>, plan: &Plan, lock: Option<&HostPin>, fresh: bool) -> Result<StoredImage, EngineError> {
    let found = recipes::planned(plan, &tools.paths)?;
    let found = found.of_project(&tools.paths);
    let identity = recipes::identity(&tools.store, &found)?;
    // A recipe that was edited is meant to change the image: the lock follows it.
    let lock = lock.filter(|lock| {
        let same = lock.recipe.as_ref() == Some(&identity);
        if !same && !plan.locked {
            tools.on.warn(format!(
                "the rootfs recipe `{}` has changed since smidr.lock was written; it is made again",
                found.name
            ));
        }
        same
    });
    if plan.locked && lock.is_none() {
        return Err(EngineError::NotLocked(vec![HOST.into()]));
    }
    let known = || if fresh { Ok(None) } else { present(tools, &found.image, &identity, lock) };
    if let Some(image) = known()? {
        return Ok(image);
    }
    if plan.offline {
        return Err(EngineError::Offline(found.name));
    }
    // Two builds that miss the same image make it once.
    let path = lock::path_in(&tools.paths.locks(), &format!("recipe-{}", found.name));
    let waiting = |holder: &str| {
        tools.on.emit(Event::Waiting { resource: format!("the image of `{}`", found.name), holder: holder.into() });
    };
    let _alone = lock::lock(&path, Mode::Exclusive, &format!("image build {}", found.name), tools.stop, waiting)?;
    if let Some(image) = known()? {
        return Ok(image);
    }
    let packages = lock.map(|lock| lock.packages.clone()).unwrap_or_default();
    let image = recipes::build(tools.recipes(), &found, &packages).map_err(|error| foreign(error, plan))?;
    match lock {
        Some(lock) if lock.image != image.manifest => Err(EngineError::Digest {
            name: found.name,
            wanted: lock.image.to_string(),
            found: image.manifest.to_string(),
        }),
        _ => Ok(image),
    }
}

/// The image that is wanted, if the store has it.
fn present(
    tools: Tools<'_>,
    name: &str,
    identity: &Digest,
    lock: Option<&HostPin>,
) -> Result<Option<StoredImage>, EngineError> {
    // A lock can name any image, so that what it names has to be of the recipe too.
    let image = tools.store.find(&lock.map_or_else(|| name.to_owned(), |lock| lock.image.to_string()))?;
    Ok(image.filter(|image| image.config.labels.get(RECIPE_LABEL) == Some(&identity.to_string())))
}
